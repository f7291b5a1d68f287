//! The configuration of `[sink.NAME.http]`.
//!
//! Invariant: what can be checked without the sink's surroundings is checked where it is read, so that errors point at their place.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::client::{header_name, header_value};
use super::lanes::Bounds;
use super::location::Location;
use crate::config::{Auth, ByteSize, DurationText, Fault, Remedy, Secret, Tls};
use crate::value::JsonOptions;

/// `[sink.NAME.http]`: requests to an HTTP server.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where requests go; `${destination}` in its path or query is replaced by each record's destination, percent-encoded.
    pub url: UrlPattern,
    /// The method of the requests.
    #[serde(default)]
    pub method: Method,
    /// Headers of every request; a value may be a secret.
    #[serde(default)]
    pub headers: BTreeMap<String, Text>,
    /// Headers of the record that become headers of its request, by name; `"*"` stands for all. Not with batches.
    #[serde(default)]
    pub forward_headers: Vec<String>,
    /// Header with the idempotency key of the request.
    #[serde(default = "Config::idempotency_header")]
    pub idempotency_header: String,
    /// How to log in.
    #[serde(default)]
    pub auth: Option<Auth>,
    /// Certificates for `https`.
    #[serde(default)]
    pub tls: Tls,
    /// What a record's body is.
    #[serde(default)]
    pub body: Body,
    /// How decimals, bytes and times are written in JSON.
    #[serde(default)]
    pub json: JsonOptions,
    /// What becomes of records without a value.
    #[serde(default)]
    pub tombstone: Tombstone,
    /// How records become requests.
    #[serde(default)]
    pub batch: Batch,
    /// How long a request may take before it is tried again.
    #[serde(default = "Config::timeout")]
    pub timeout: DurationText,
    /// How long a connection may take.
    #[serde(default = "Config::connect_timeout")]
    pub connect_timeout: DurationText,
    /// Requests at a time.
    #[serde(default = "Config::in_flight_max")]
    pub in_flight_max: NonZeroUsize,
    /// Which records wait for each other.
    #[serde(default)]
    pub order: Order,
    /// How refused and unanswered requests are tried again.
    #[serde(default)]
    pub retry: Retry,
    /// Whether redirects to the same host that keep method and body (307, 308) are followed; otherwise a redirect makes dead letters.
    #[serde(default)]
    pub redirects: bool,
}

/// How records become requests.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    /// The shape of a body.
    pub form: Form,
    /// Records in a request; only with `array` and `lines`.
    pub records_max: NonZeroUsize,
    /// Bytes of a body; a single record may be longer.
    pub bytes_max: ByteSize,
    /// How long the first record of a request waits for others.
    pub linger: DurationText,
    /// Whether a request that is refused with 4xx is halved until the records at fault are found.
    pub halve: bool,
    /// Where each record's own idempotency key stands.
    pub record_keys: Option<RecordKeys>,
}

impl Default for Batch {
    fn default() -> Self {
        Batch {
            form: Form::Single,
            records_max: NonZeroUsize::new(500).expect("500 is not 0"),
            bytes_max: ByteSize::mib(1),
            linger: DurationText::ms(5),
            halve: true,
            record_keys: None,
        }
    }
}

/// The shape of a body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// One record.
    #[default]
    Single,
    /// A JSON array of records.
    Array,
    /// One line for each record.
    Lines,
}

/// How refused and unanswered requests are tried again, with full jitter between the delays.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Tries before the records become dead letters; 0: without end.
    pub attempts_max: u32,
    /// The longest first delay; it doubles from try to try.
    pub delay_min: DurationText,
    /// The longest delay.
    pub delay_max: DurationText,
    /// Answers that are tried again beside 408, 425, 429 and 5xx.
    pub statuses: Vec<u16>,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { attempts_max: 0, delay_min: DurationText::ms(100), delay_max: DurationText::s(30), statuses: Vec::new() }
    }
}

/// Where the idempotency keys of a batch's records stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecordKeys {
    /// In this header, separated by commas.
    Header(String),
    /// In this field of each record, which has to be a JSON object.
    Field(String),
}

/// The method of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Method {
    /// `POST`
    #[default]
    #[serde(rename = "POST")]
    Post,
    /// `PUT`
    #[serde(rename = "PUT")]
    Put,
    /// `PATCH`
    #[serde(rename = "PATCH")]
    Patch,
}

/// What a record's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// The value as JSON text.
    #[default]
    Json,
    /// The value's bytes as they are.
    Raw,
}

/// What becomes of records without a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tombstone {
    /// Left out and counted.
    #[default]
    Skip,
    /// `null`; an empty body where bytes are sent as they are.
    Null,
    /// Dead letters.
    Reject,
}

/// Which records wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Those of one key; those without a key wait for each other within their partition.
    #[default]
    Key,
    /// Those of one partition.
    Partition,
    /// None.
    None,
}

/// A header's value: text as it is, or a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Text {
    /// As it is.
    Plain(String),
    /// From the environment or a file.
    Secret(Secret),
}

impl Text {
    /// The text.
    pub fn expose(&self) -> &str {
        match self {
            Text::Plain(text) => text,
            Text::Secret(secret) => secret.expose(),
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, or a secret as { env = \"NAME\" } or { file = \"PATH\" }")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text::Plain(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Text, A::Error> {
                Secret::deserialize(MapAccessDeserializer::new(map)).map(Text::Secret)
            }
        }
        deserializer.deserialize_any(TextVisitor)
    }
}

impl JsonSchema for Text {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "text or secret".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, Secret::json_schema(generator)] })
    }
}

/// A checked `url`, in which `${destination}` may stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlPattern(Location);

impl UrlPattern {
    /// The URL, or what makes one of a destination.
    pub(super) fn location(&self) -> &Location {
        &self.0
    }
}

impl FromStr for UrlPattern {
    type Err = Remedy;

    fn from_str(text: &str) -> Result<Self, Remedy> {
        Location::parse(text).map(UrlPattern)
    }
}

impl fmt::Display for UrlPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for UrlPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Serialize for UrlPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for UrlPattern {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "url pattern".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "title": "URL, may contain ${destination}", "pattern": "^https?://" })
    }
}

impl Config {
    fn idempotency_header() -> String {
        "Idempotency-Key".to_owned()
    }

    const fn timeout() -> DurationText {
        DurationText::s(30)
    }

    const fn connect_timeout() -> DurationText {
        DurationText::s(10)
    }

    fn in_flight_max() -> NonZeroUsize {
        NonZeroUsize::new(64).expect("64 is not 0")
    }

    /// Whether the URL takes the record's destination.
    pub fn takes_destination(&self) -> bool {
        self.url.location().needs_destination()
    }

    /// What is wrong beyond single values.
    pub fn check(&self) -> Vec<Fault> {
        let mut faults = self.tls.check();
        let is_batch = self.batch.form != Form::Single;
        if is_batch && !self.forward_headers.is_empty() {
            let wrong = "a request that carries a batch has no headers of one record";
            faults.push(Fault::new("forward_headers", wrong, "leave out `forward_headers` or `batch`"));
        }
        if self.body == Body::Raw && self.batch.form == Form::Array {
            let remedy = "set form = \"lines\" in `batch`, or body = \"json\"";
            faults.push(Fault::new("batch.form", "bytes as they are make no JSON array", remedy));
        }
        if self.body == Body::Raw && matches!(self.batch.record_keys, Some(RecordKeys::Field(_))) {
            let remedy = "set record_keys = { header = \"NAME\" }, or body = \"json\"";
            faults.push(Fault::new("batch.record_keys", "bytes as they are have no field for a key", remedy));
        }
        if self.batch.record_keys.is_some() && !is_batch {
            let remedy = "leave it out, or set form = \"array\" or \"lines\" in `batch`";
            faults.push(Fault::new("batch.record_keys", "a request with one record has its key in `idempotency_header`", remedy));
        }
        if self.retry.delay_min > self.retry.delay_max {
            faults.push(Fault::new("retry.delay_min", "delay_min is longer than delay_max", "swap them"));
        }
        for (key, name) in [("idempotency_header", &self.idempotency_header)] {
            if let Err(wrong) = header_name(name) {
                faults.push(Fault::new(key, wrong, "choose a name such as \"Idempotency-Key\""));
            }
        }
        if let Some(RecordKeys::Header(name)) = &self.batch.record_keys
            && let Err(wrong) = header_name(name)
        {
            faults.push(Fault::new("batch.record_keys.header", wrong, "choose a name such as \"Idempotency-Keys\""));
        }
        for (name, text) in &self.headers {
            if let Err(wrong) = header_name(name).and_then(|_| header_value(name, text.expose())) {
                faults.push(Fault::below("headers", name, wrong, "names are letters, digits and `-`, values one line of text"));
            }
            if name.eq_ignore_ascii_case("authorization") && matches!(text, Text::Plain(_)) {
                let fault = Fault::below(
                    "headers",
                    name,
                    "a login stands in the file in plain text",
                    "use `auth`, whose secrets are never printed",
                );
                faults.push(fault.warning());
            }
        }
        faults
    }

    pub(super) fn bounds(&self) -> Bounds {
        if self.batch.form == Form::Single {
            return Bounds { rows_max: 1, bytes_max: usize::MAX, linger: Duration::ZERO };
        }
        Bounds { rows_max: self.batch.records_max.get(), bytes_max: self.batch.bytes_max.as_usize(), linger: self.batch.linger.get() }
    }
}
