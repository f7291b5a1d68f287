//! How to reach Kafka, for the source and for the sink: brokers, security, properties that are passed through.
//!
//! Invariant: what the router decides itself (groups, commits, offsets) cannot be overridden by a property.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};

use super::problem::Fault;
use super::secret::Secret;
use super::text::{DurationText, FilePath, HttpUrl};

/// `[source.NAME.kafka]`: where records come from.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaSource {
    /// Brokers to ask first, as `host:port`.
    pub brokers: Vec<String>,
    /// Encryption and login.
    #[serde(default)]
    pub security: Security,
    /// How partitions are shared among the members of the group.
    #[serde(default)]
    pub assignor: Assignor,
    /// Static membership: a name of this process that no other member of the group has. A restart within `session_timeout` then moves no partition.
    #[serde(default)]
    pub instance_id: Option<String>,
    /// Silence after which the group gives this process's partitions to others.
    #[serde(default = "KafkaSource::session_timeout")]
    pub session_timeout: DurationText,
    /// Time between signs of life; a cooperative rebalance takes two of them.
    #[serde(default = "KafkaSource::heartbeat_interval")]
    pub heartbeat_interval: DurationText,
    /// How long a broker may hold back an answer without records; a paused partition resumes at most this much later.
    #[serde(default = "KafkaSource::fetch_wait_max")]
    pub fetch_wait_max: DurationText,
    /// Whether records of aborted and open transactions are read.
    #[serde(default)]
    pub isolation: Isolation,
    /// Properties of librdkafka, passed through as they are; those that the router sets itself are refused.
    #[serde(default)]
    pub properties: BTreeMap<String, Property>,
}

impl KafkaSource {
    const fn session_timeout() -> DurationText {
        DurationText::s(45)
    }

    const fn heartbeat_interval() -> DurationText {
        DurationText::ms(500)
    }

    const fn fetch_wait_max() -> DurationText {
        DurationText::ms(100)
    }

    /// What is wrong beyond single values.
    pub fn check(&self) -> Vec<Fault> {
        let mut faults = check_brokers(&self.brokers);
        faults.extend(self.security.check());
        if self.session_timeout <= self.heartbeat_interval {
            let wrong = format!("session_timeout ({}) is not longer than heartbeat_interval", self.session_timeout);
            faults.push(Fault::new(
                "session_timeout",
                wrong,
                "make it at least three times as long, so that one lost sign of life costs nothing",
            ));
        }
        if self.instance_id.as_deref() == Some("") {
            faults.push(Fault::new(
                "instance_id",
                "instance_id is empty",
                "give it a name that no other member of the group has, or leave it out",
            ));
        }
        faults.extend(check_properties(&self.properties, &OWNED_BY_SOURCE));
        faults
    }
}

/// How partitions are shared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Assignor {
    /// Only partitions that move stop; the others go on.
    #[default]
    CooperativeSticky,
    /// Neighbouring partitions of each topic together.
    Range,
    /// One by one.
    Roundrobin,
}

impl Assignor {
    /// As librdkafka calls it.
    pub fn name(self) -> &'static str {
        match self {
            Assignor::CooperativeSticky => "cooperative-sticky",
            Assignor::Range => "range",
            Assignor::Roundrobin => "roundrobin",
        }
    }
}

/// Which records of transactions are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Only those of committed transactions.
    #[default]
    ReadCommitted,
    /// All.
    ReadUncommitted,
}

impl Isolation {
    /// As librdkafka calls it.
    pub fn name(self) -> &'static str {
        match self {
            Isolation::ReadCommitted => "read_committed",
            Isolation::ReadUncommitted => "read_uncommitted",
        }
    }
}

/// Encryption and login at a Kafka cluster.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Security {
    /// Whether there is TLS, a login, both or neither.
    pub protocol: Protocol,
    /// How to log in, with `sasl_plaintext` and `sasl_ssl`.
    pub mechanism: Option<Mechanism>,
    /// Name for PLAIN and SCRAM.
    pub username: Option<String>,
    /// Password for PLAIN and SCRAM.
    pub password: Option<Secret>,
    /// Where OAUTHBEARER gets its tokens.
    pub oauth: Option<OAuth>,
    /// Certificates of the authorities to trust, PEM; without it those of the system.
    pub ca: Option<FilePath>,
    /// This client's certificate, PEM.
    pub cert: Option<FilePath>,
    /// The key of `cert`, PEM.
    pub key: Option<FilePath>,
    /// Password of `key`.
    pub key_password: Option<Secret>,
}

/// Whether there is TLS, a login, both or neither.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Neither.
    #[default]
    Plaintext,
    /// TLS.
    Ssl,
    /// A login without TLS.
    SaslPlaintext,
    /// A login over TLS.
    SaslSsl,
}

impl Protocol {
    /// As librdkafka and this file call it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Plaintext => "plaintext",
            Protocol::Ssl => "ssl",
            Protocol::SaslPlaintext => "sasl_plaintext",
            Protocol::SaslSsl => "sasl_ssl",
        }
    }

    /// Whether there is TLS.
    pub fn has_tls(self) -> bool {
        matches!(self, Protocol::Ssl | Protocol::SaslSsl)
    }

    /// Whether there is a login.
    pub fn has_login(self) -> bool {
        matches!(self, Protocol::SaslPlaintext | Protocol::SaslSsl)
    }
}

/// How to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub enum Mechanism {
    /// User name and password.
    #[serde(rename = "PLAIN")]
    Plain,
    /// User name and password, never sent as they are.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// User name and password, never sent as they are.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
    /// Tokens (OAuth 2, client credentials).
    #[serde(rename = "OAUTHBEARER")]
    Oauthbearer,
}

impl Mechanism {
    /// As Kafka calls it.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
            Mechanism::Oauthbearer => "OAUTHBEARER",
        }
    }
}

const MECHANISMS: [Mechanism; 4] = [Mechanism::Plain, Mechanism::ScramSha256, Mechanism::ScramSha512, Mechanism::Oauthbearer];
const MECHANISM_NAMES: &[&str] = &["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"];

impl<'de> Deserialize<'de> for Mechanism {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Cow::<str>::deserialize(deserializer)?;
        if name == "GSSAPI" {
            let remedy = format!("this build has {}", MECHANISM_NAMES.join(", "));
            return Err(D::Error::custom(super::text::Remedy::new("GSSAPI (Kerberos) is not built into this router", remedy)));
        }
        let known = MECHANISMS.into_iter().find(|mechanism| mechanism.name() == name);
        known.ok_or_else(|| D::Error::unknown_variant(&name, MECHANISM_NAMES))
    }
}

/// Client credentials (RFC 6749, section 4.4) for OAUTHBEARER.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OAuth {
    /// The token endpoint.
    pub token_url: HttpUrl,
    /// Client id.
    pub client_id: String,
    /// Client secret.
    pub client_secret: Secret,
    /// Scope, where the server wants one.
    #[serde(default)]
    pub scope: Option<String>,
}

impl Security {
    /// What is wrong beyond single values; keys are below `security`.
    pub fn check(&self) -> Vec<Fault> {
        let mut faults = if self.protocol.has_login() { self.check_login() } else { self.check_no_login() };
        faults.extend(self.check_files());
        faults
    }

    fn check_no_login(&self) -> Vec<Fault> {
        let given = [
            ("security.mechanism", self.mechanism.is_some()),
            ("security.username", self.username.is_some()),
            ("security.password", self.password.is_some()),
            ("security.oauth", self.oauth.is_some()),
        ];
        let ignored = |(key, _)| {
            let wrong = format!("with protocol \"{}\" nobody logs in, so this would be ignored", self.protocol.name());
            Fault::new(key, wrong, "set protocol = \"sasl_ssl\" (or \"sasl_plaintext\")")
        };
        given.into_iter().filter(|(_, given)| *given).map(ignored).collect()
    }

    fn check_login(&self) -> Vec<Fault> {
        let Some(mechanism) = self.mechanism else {
            let wrong = format!("protocol \"{}\" needs a mechanism", self.protocol.name());
            return vec![Fault::new("security.mechanism", wrong, "add mechanism = \"SCRAM-SHA-512\" or another")];
        };
        let needs = |key: &str, remedy: &str| Fault::new(&format!("security.{key}"), format!("{} needs `{key}`", mechanism.name()), remedy);
        let mut faults = Vec::new();
        if mechanism == Mechanism::Oauthbearer {
            if self.oauth.is_none() {
                faults.push(needs("oauth", "add oauth = { token_url = \"..\", client_id = \"..\", client_secret = { env = \"..\" } }"));
            }
            return faults;
        }
        if self.username.is_none() {
            faults.push(needs("username", "add username = \"..\""));
        }
        if self.password.is_none() {
            faults.push(needs("password", "add password = { env = \"NAME\" } or { file = \"PATH\" }"));
        }
        if self.oauth.is_some() {
            let wrong = format!("{} takes no tokens, so this would be ignored", mechanism.name());
            faults.push(Fault::new("security.oauth", wrong, "set mechanism = \"OAUTHBEARER\" or remove it"));
        }
        faults
    }

    fn check_files(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut fault = |key: &str, wrong: &str, remedy: &str| faults.push(Fault::new(key, wrong, remedy));
        for (key, path) in [("security.ca", &self.ca), ("security.cert", &self.cert), ("security.key", &self.key)] {
            let Some(path) = path else { continue };
            if !self.protocol.has_tls() {
                let wrong = format!("with protocol \"{}\" there is no TLS, so this would be ignored", self.protocol.name());
                fault(key, &wrong, "set protocol = \"ssl\" or \"sasl_ssl\"");
            }
            if let Err(error) = std::fs::File::open(path) {
                let wrong = format!("the file {} cannot be read: {error}", path.display());
                fault(key, &wrong, "name a PEM file that this process may read");
            }
        }
        match (&self.cert, &self.key) {
            (Some(_), None) => fault("security.cert", "a certificate without its key", "add key = \"PATH\""),
            (None, Some(_)) => fault("security.key", "a key without its certificate", "add cert = \"PATH\""),
            (None, None) if self.key_password.is_some() => {
                fault("security.key_password", "a password for a key that is not there", "add cert = \"PATH\" and key = \"PATH\"");
            }
            _ => {}
        }
        faults
    }

    /// The same for librdkafka, secrets among the values.
    pub fn properties(&self) -> Vec<(&'static str, String)> {
        let mut list = vec![("security.protocol", self.protocol.name().to_owned())];
        let path = |path: &Option<FilePath>| path.as_ref().map(|path| path.display().to_string());
        let secret = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
        let optional = [
            ("sasl.mechanism", self.mechanism.map(|mechanism| mechanism.name().to_owned())),
            ("sasl.username", self.username.clone()),
            ("sasl.password", secret(&self.password)),
            ("ssl.ca.location", path(&self.ca)),
            ("ssl.certificate.location", path(&self.cert)),
            ("ssl.key.location", path(&self.key)),
            ("ssl.key.password", secret(&self.key_password)),
        ];
        list.extend(optional.into_iter().filter_map(|(key, value)| Some((key, value?))));
        list
    }
}

/// A property of librdkafka: text, a number or a boolean in the file, text to the library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Property(pub String);

impl<'de> Deserialize<'de> for Property {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Scalar;
        impl Visitor<'_> for Scalar {
            type Value = Property;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, a number or a boolean\nput quotes around a name with dots: \"fetch.max.bytes\" = 1048576")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Property, E> {
                Ok(Property(text.to_owned()))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Property, E> {
                Ok(Property(number.to_string()))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Property, E> {
                Ok(Property(number.to_string()))
            }

            fn visit_bool<E: Error>(self, yes: bool) -> Result<Property, E> {
                Ok(Property(yes.to_string()))
            }
        }
        deserializer.deserialize_any(Scalar)
    }
}

impl JsonSchema for Property {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "property".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

/// Properties that a source sets itself, with what to write instead.
pub const OWNED_BY_SOURCE: [(&str, &str); 14] = [
    ("group.id", "write `group` in the route"),
    ("group.instance.id", "write `instance_id`"),
    ("auto.offset.reset", "write `start` in the route"),
    ("isolation.level", "write `isolation`"),
    ("partition.assignment.strategy", "write `assignor`"),
    ("session.timeout.ms", "write `session_timeout`"),
    ("heartbeat.interval.ms", "write `heartbeat_interval`"),
    ("fetch.wait.max.ms", "write `fetch_wait_max`"),
    ("enable.auto.commit", "the router commits what is settled; see `commit_interval` in the route"),
    ("enable.auto.offset.store", "the router stores offsets of settled records only"),
    ("auto.commit.interval.ms", "write `commit_interval` in the route"),
    ("enable.partition.eof", "the router does not use it"),
    ("queued.max.messages.kbytes", "write `in_flight_max` in the route"),
    ("allow.auto.create.topics", "create the topics that a route reads"),
];

/// Properties that a Kafka sink sets itself, with what to write instead.
pub const OWNED_BY_SINK: [(&str, &str); 6] = [
    ("acks", "the sink waits for all in-sync replicas: less would lose records"),
    ("enable.idempotence", "the producer is always idempotent"),
    ("transactional.id", "write `exactly_once = true`"),
    ("transaction.timeout.ms", "write `transaction = { timeout = \"..\" }`"),
    ("partitioner", "write `partitioner`"),
    ("dr_cb", "the router does not use it"),
];

/// Properties that have their own keys, whoever uses them.
const OWNED_BY_ALL: [(&str, &str); 14] = [
    ("bootstrap.servers", "write `brokers`"),
    ("metadata.broker.list", "write `brokers`"),
    ("security.protocol", "write `security.protocol`"),
    ("sasl.mechanism", "write `security.mechanism`"),
    ("sasl.mechanisms", "write `security.mechanism`"),
    ("sasl.username", "write `security.username`"),
    ("sasl.password", "write `security.password`, so that it is never printed"),
    ("sasl.oauthbearer.client.secret", "write `security.oauth`, so that it is never printed"),
    ("sasl.oauthbearer.method", "write `security.oauth`"),
    ("ssl.ca.location", "write `security.ca`"),
    ("ssl.certificate.location", "write `security.cert`"),
    ("ssl.key.location", "write `security.key`"),
    ("ssl.key.password", "write `security.key_password`, so that it is never printed"),
    ("ssl.keystore.password", "write `security.cert` and `security.key`, so that no password is printed"),
];

/// Refuses what the router owns: `owned`, and what has keys of its own.
pub fn check_properties(properties: &BTreeMap<String, Property>, owned: &[(&str, &str)]) -> Vec<Fault> {
    let refused = |name: &str| owned.iter().chain(&OWNED_BY_ALL).find(|(owned, _)| *owned == name);
    let faults = properties.keys().filter_map(|name| {
        let (_, remedy) = refused(name)?;
        Some(Fault::below("properties", name, format!("the router sets \"{name}\" itself"), *remedy))
    });
    faults.collect()
}

/// Brokers are `host:port`.
pub fn check_brokers(brokers: &[String]) -> Vec<Fault> {
    const REMEDY: &str = "write it as \"host:port\", such as \"localhost:9092\"";
    if brokers.is_empty() {
        return vec![Fault::new("brokers", "there is no broker", "name at least one, such as [\"localhost:9092\"]")];
    }
    let wrong = |(index, broker): (usize, &String)| {
        let fits = broker.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && !host.contains(['/', ' ', ',']) && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        (!fits).then(|| Fault::below("brokers", &index.to_string(), format!("\"{broker}\" is not a broker"), REMEDY))
    };
    brokers.iter().enumerate().filter_map(wrong).collect()
}
