//! The configuration of `[sink.NAME.diffusion]`.
//!
//! Invariant: what can be checked without the sink's surroundings is checked where it is read, so that errors point at their place.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize, Serializer};

use super::pattern::PathPattern;
use crate::config::{DurationText, Fault, Remedy, Secret, Tls};
use crate::diffusion::connect::{self, Certificates, ServerUrl, Settings, UrlError};
use crate::value::PlainOptions;

/// More connections do not make a server faster.
const SESSIONS_MAX: usize = 64;
/// Beyond it more requests at a time only take memory: at 1 ms from answer to answer they are 10 million a second.
const IN_FLIGHT_MAX: usize = 10_000;

/// `[sink.NAME.diffusion]`: topics of a Diffusion server, version 6.9 or later.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the server listens; the path is `/diffusion` where none is given.
    pub url: Url,
    /// The principal to log in as; without it the sink is anonymous.
    #[serde(default)]
    pub username: Option<String>,
    /// Its password.
    #[serde(default)]
    pub password: Option<Secret>,
    /// Certificates for `wss`.
    #[serde(default)]
    pub tls: Tls,
    /// The topic path of a record; `${topic}`, `${partition}`, `${key}`, `${key.FIELD}`, `${value.FIELD}` and `${destination}` are
    /// replaced. Without it the record's destination is the path.
    #[serde(default)]
    pub path: Option<PathPattern>,
    /// How decimals, bytes and times are written.
    #[serde(default)]
    pub json: PlainOptions,
    /// What becomes of records without a value.
    #[serde(default)]
    pub tombstone: Tombstone,
    /// Properties of topics that the sink creates, in the server's spelling, such as `DONT_RETAIN_VALUE = "true"`.
    #[serde(default)]
    pub topic_properties: BTreeMap<String, String>,
    /// Different topic paths; a record for one more becomes a dead letter. Each takes about 250 bytes of memory.
    #[serde(default = "Config::paths_max")]
    pub paths_max: NonZeroUsize,
    /// Connections to the server; each has topic paths of its own.
    #[serde(default = "Config::sessions")]
    pub sessions: NonZeroUsize,
    /// Updates of a connection that wait for their answers.
    #[serde(default = "Config::in_flight_max")]
    pub in_flight_max: NonZeroUsize,
    /// Updates of one topic path that wait for their answers; more than 1 trusts the server to make the updates of a connection in
    /// their order.
    #[serde(default = "Config::path_in_flight_max")]
    pub path_in_flight_max: NonZeroUsize,
    /// How long an answer may take before the connection counts as lost.
    #[serde(default = "Config::timeout")]
    pub timeout: DurationText,
    /// How long connecting and logging in may take.
    #[serde(default = "Config::connect_timeout")]
    pub connect_timeout: DurationText,
    /// How refused updates and lost connections are tried again.
    #[serde(default)]
    pub retry: Retry,
}

/// How refused updates and lost connections are tried again, with full jitter between the delays.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Tries before a record becomes a dead letter, where the server refuses it with a code that may go away; 0: without end. Lost
    /// connections do not count.
    pub attempts_max: u32,
    /// The longest first delay; it doubles from try to try.
    pub delay_min: DurationText,
    /// The longest delay.
    pub delay_max: DurationText,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { attempts_max: 0, delay_min: DurationText::ms(100), delay_max: DurationText::s(30) }
    }
}

/// What becomes of records without a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tombstone {
    /// The topic's value becomes null.
    #[default]
    Null,
    /// The topic is removed.
    Remove,
    /// Left out and counted.
    Skip,
}

/// A checked `url`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url(ServerUrl);

impl FromStr for Url {
    type Err = Remedy;

    fn from_str(text: &str) -> Result<Self, Remedy> {
        text.parse().map(Url).map_err(|error: UrlError| {
            let remedy = match error {
                UrlError::Credentials => "take them out of it and use `username` and `password`, which is never printed",
                UrlError::Query => "leave it out: parameters of the connection are keys of the sink",
                UrlError::Invalid(..) | UrlError::Scheme(_) => "write it as \"ws://host:port\", or \"wss://host:port\" for TLS",
            };
            Remedy::new(error.to_string(), remedy)
        })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Url {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Serialize for Url {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Url {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "url of a Diffusion server".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "title": "URL", "pattern": "^wss?://", "examples": ["ws://localhost:8080"] })
    }
}

impl Config {
    fn paths_max() -> NonZeroUsize {
        NonZeroUsize::new(1_000_000).expect("1,000,000 is not 0")
    }

    fn sessions() -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    fn in_flight_max() -> NonZeroUsize {
        NonZeroUsize::new(1000).expect("1000 is not 0")
    }

    fn path_in_flight_max() -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    const fn timeout() -> DurationText {
        DurationText::s(30)
    }

    const fn connect_timeout() -> DurationText {
        DurationText::s(10)
    }

    /// Whether paths are made of the destinations that plugins choose.
    pub fn takes_destination(&self) -> bool {
        self.path.as_ref().is_none_or(PathPattern::takes_destination)
    }

    /// What is wrong beyond single values.
    pub fn check(&self) -> Vec<Fault> {
        let mut faults = self.tls.check();
        let has_certificates = self.tls.ca.is_some() || self.tls.cert.is_some();
        if has_certificates && !self.url.0.is_tls() {
            faults.push(Fault::new("tls", "the connection is not encrypted, so certificates are of no use", "write wss:// in `url`"));
        }
        match (&self.username, &self.password) {
            (Some(_), None) => faults.push(Fault::new("username", "a user without a password", "add password = { env = \"NAME\" }")),
            (None, Some(_)) => faults.push(Fault::new("password", "a password without a user", "add username = \"NAME\"")),
            _ => {}
        }
        if self.username.as_ref().is_some_and(|name| name.is_empty() || name.chars().any(char::is_control)) {
            let wrong = "the user name is empty, or has a control character";
            faults.push(Fault::new("username", wrong, "write the principal's name; leave `username` out for an anonymous session"));
        }
        for (name, value) in &self.topic_properties {
            let fits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
            if !fits(name) {
                let wrong = "this is no topic property";
                faults.push(Fault::below("topic_properties", name, wrong, "names are in capitals, such as DONT_RETAIN_VALUE"));
            }
            if value.chars().any(char::is_control) {
                faults.push(Fault::below("topic_properties", name, "the value has a control character", "leave it out"));
            }
        }
        let bounded = [("sessions", self.sessions, SESSIONS_MAX), ("in_flight_max", self.in_flight_max, IN_FLIGHT_MAX)];
        for (key, found, most) in bounded {
            if found.get() > most {
                faults.push(Fault::new(key, format!("{key} is {found}"), format!("at most {most} make sense")));
            }
        }
        if self.path_in_flight_max > self.in_flight_max {
            let wrong = "a path has more updates in flight than its connection";
            faults.push(Fault::new("path_in_flight_max", wrong, "make it at most `in_flight_max`"));
        }
        for (key, duration) in [("timeout", self.timeout), ("connect_timeout", self.connect_timeout)] {
            if duration.get().is_zero() {
                faults.push(Fault::new(key, format!("{key} is 0"), "no answer comes in no time; leave it out for the default"));
            }
        }
        if self.retry.delay_min > self.retry.delay_max {
            faults.push(Fault::new("retry.delay_min", "delay_min is longer than delay_max", "swap them"));
        }
        faults
    }

    /// How to connect.
    ///
    /// # Errors
    /// Where certificates cannot be read, in words for the user.
    pub(super) fn settings(&self) -> Result<Settings, String> {
        let read = |path: &std::path::Path| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
        let tls = if self.url.0.is_tls() {
            let ca = self.tls.ca.as_ref().map(|path| read(path)).transpose()?;
            let client = self.tls.cert.as_ref().zip(self.tls.key.as_ref());
            let client = client.map(|(cert, key)| Ok::<_, String>((read(cert)?, read(key)?))).transpose()?;
            Some(connect::tls(&Certificates { ca, client })?)
        } else {
            None
        };
        Ok(Settings {
            url: self.url.0.clone(),
            username: self.username.clone().unwrap_or_default(),
            password: self.password.as_ref().map(|password| password.expose().into()),
            tls,
            timeout: self.connect_timeout.get(),
        })
    }
}
