//! What became of one record, as far as it can be told without doing it; serialised, it is the line of `--json`.
//!
//! Invariant: bytes are shown as they are: as JSON where they are JSON, as text where they are text, else in base64.

use std::borrow::Cow;

use base64::Engine as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::config::Action;
use crate::dead::Letter;
use crate::schemas::Entry;
use crate::sink::preview::Preview;
use crate::value::{Format, JsonOptions, Value, write_json};

/// One record.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Milliseconds since 1970-01-01T00:00Z.
    pub timestamp: Option<i64>,
    /// Key as it came in; `None`: no key.
    pub key: Option<Content>,
    /// Value as it came in; `None`: a tombstone.
    pub value: Option<Content>,
    /// Headers as they came in.
    pub headers: Vec<Header>,
    /// What each plugin decided, in order.
    pub plugins: Vec<Decision>,
    /// What each sink would get.
    pub sinks: Vec<Delivery>,
    /// Why it, or an output of it, was given up, and where that would go.
    pub dead_letters: Vec<DeadLetter>,
    /// Why the route would stop here.
    pub stops: Option<String>,
    /// All of that in one word.
    pub outcome: Outcome,
}

/// How a record ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// At least one sink would take it.
    Delivered,
    /// No plugin wants it to go anywhere.
    Filtered,
    /// Nothing but dead letters would be left of it.
    DeadLetter,
    /// `on_error` forgets it.
    Dropped,
    /// The route would stop at it.
    Stops,
}

/// A key or a value.
#[derive(Debug, Serialize)]
pub struct Content {
    /// How it is to be read: `avro`, `json`, `cbor` or `raw`.
    pub format: &'static str,
    /// Its bytes, the registry's prefix included.
    pub bytes: usize,
    /// Its schema in the registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<SchemaName>,
    /// What it is.
    #[serde(flatten)]
    pub body: Body,
    /// Why it cannot be read as it should.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A schema of the registry.
#[derive(Debug, Serialize)]
pub struct SchemaName {
    /// Its id; `None`: a plugin made it.
    pub id: Option<u32>,
    /// Its subject, where a plugin asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Its version there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
}

/// Contents that can be shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// JSON.
    Json(Box<RawValue>),
    /// UTF-8 text without control characters.
    Text(String),
    /// Anything else.
    Base64(#[serde(serialize_with = "base64")] Vec<u8>),
}

/// A header.
#[derive(Debug, Serialize)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value; `None`: null, or removed.
    pub value: Option<Body>,
}

/// What one plugin decided about one output of those before it.
#[derive(Debug, Serialize)]
pub struct Decision {
    /// The plugin.
    pub plugin: String,
    /// What it decided.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// What a plugin decided.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It has these outputs.
    Outputs(Vec<Changes>),
    /// No output: it goes nowhere.
    Filtered(()),
    /// It was rejected, or the plugin broke at it.
    GivenUp(Reason),
    /// The plugin wants it again later.
    Retry(String),
    /// The route would stop.
    Stop(String),
}

/// Why something was given up.
#[derive(Debug, Clone, Serialize)]
pub struct Reason {
    /// Class, as in metrics and dead letters.
    pub class: &'static str,
    /// Code.
    pub code: String,
    /// Message.
    pub message: String,
    /// Who gave it up.
    pub by: String,
}

impl Reason {
    /// That of a letter.
    pub fn of(letter: &Letter) -> Self {
        Reason { class: letter.class.name(), code: letter.code.clone(), message: letter.message.clone(), by: letter.by.to_string() }
    }
}

/// What a plugin set of an output; what is `None` stays as it was.
#[derive(Debug, Default, Serialize)]
pub struct Changes {
    /// The destination; inner `None`: back to the sink's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<Option<String>>,
    /// The sinks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sinks: Option<Vec<String>>,
    /// What the record does to its row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
    /// The key; inner `None`: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Option<Content>>,
    /// The value; inner `None`: a tombstone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Option<Content>>,
    /// Headers; value `None`: removed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<Header>,
}

/// What one sink would get of one output.
#[derive(Debug, Serialize)]
pub struct Delivery {
    /// The sink.
    pub sink: String,
    /// What it would get.
    #[serde(flatten)]
    pub what: Shown,
}

/// A dead letter.
#[derive(Debug, Serialize)]
pub struct DeadLetter {
    /// Why.
    #[serde(flatten)]
    pub reason: Reason,
    /// What `on_error` does with it; without a sink for dead letters, `dead_letter` means `stop`.
    pub action: Action,
    /// What the sink of the dead letters would get.
    pub to: Option<Delivery>,
}

/// What a sink would get, to be shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    /// See [`Preview::Request`].
    Request { method: String, url: String, headers: Vec<(String, String)>, body: Body, batched: bool },
    /// See [`Preview::Record`].
    Record { topic: String, partition: Option<i32>, key: Option<Content>, value: Option<Content>, headers: Vec<Header> },
    /// See [`Preview::Row`].
    Row { table: String, is_new: bool, partition: Vec<(String, Box<RawValue>)>, row: Body, covered: bool },
    /// See [`Preview::Topic`].
    Topic { path: String, value: Option<Body> },
    /// See [`Preview::Line`].
    Line { path: Option<String>, line: Body },
    /// See [`Preview::Forgotten`].
    Forgotten(()),
    /// See [`Preview::Skipped`].
    Skipped(String),
    /// See [`Preview::GivenUp`].
    GivenUp(Reason),
}

impl Body {
    /// Of bytes of which nothing is known.
    pub fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) if !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) => Body::Text(text.to_owned()),
            _ => Body::Base64(bytes.to_vec()),
        }
    }

    /// Of bytes that should be JSON.
    pub fn json(bytes: Vec<u8>) -> Self {
        // Raw line ends cannot be part of a JSON string, so between tokens a blank says the same.
        let text = String::from_utf8_lossy(&bytes).replace(['\n', '\r'], " ");
        RawValue::from_string(text).map_or_else(|_| Body::of(&bytes), Body::Json)
    }
}

impl Content {
    /// Of a value: `wire` are its bytes with the registry's prefix.
    pub fn of(value: Value<'_>, entry: Option<&Entry>, wire: &[u8]) -> Self {
        let schema = entry.map(|entry| {
            let (subject, version) = entry.subject.clone().unzip();
            SchemaName { id: entry.id, subject, version }
        });
        let mut error = None;
        let body = if value.format == Format::Raw {
            Body::of(value.bytes)
        } else if value.format == Format::Avro && value.schema.is_none() {
            // Why it has none is what decoding says, not this.
            Body::of(wire)
        } else {
            let mut json = Vec::new();
            match write_json(value, &JsonOptions::default(), &mut json) {
                Ok(()) => Body::json(json),
                Err(reason) => {
                    error = Some(reason.to_string());
                    Body::of(wire)
                }
            }
        };
        let format = match value.format {
            Format::Raw => "raw",
            Format::Json => "json",
            Format::Cbor => "cbor",
            Format::Avro => "avro",
        };
        Content { format, bytes: wire.len(), schema, body, error }
    }
}

impl Shown {
    /// Of a preview; `key` and `value` are what the output holds, for bytes that are no text.
    pub fn of(preview: Preview, key: impl FnOnce(&[u8]) -> Content, value: impl FnOnce(&[u8]) -> Content) -> Self {
        match preview {
            Preview::Request { method, url, headers, body, batched } => Shown::Request { method, url, headers, body: text(body), batched },
            Preview::Record { topic, partition, key: key_bytes, value: value_bytes, headers } => Shown::Record {
                topic,
                partition,
                key: key_bytes.as_deref().map(key),
                value: value_bytes.as_deref().map(value),
                headers: headers.iter().map(|(name, value)| Header::of(name, value.as_deref())).collect(),
            },
            Preview::Row { table, is_new, partition, row, covered } => {
                let raw = |(name, value)| Some((name, RawValue::from_string(value).ok()?));
                let partition = partition.into_iter().filter_map(raw).collect();
                Shown::Row { table, is_new, partition, row: Body::json(row.into_bytes()), covered }
            }
            Preview::Topic { path, value } => Shown::Topic { path, value: value.map(text) },
            Preview::Line { path, line } => Shown::Line { path: path.map(|path| path.display().to_string()), line: text(line) },
            Preview::Forgotten => Shown::Forgotten(()),
            Preview::Skipped(why) => Shown::Skipped(why),
            Preview::GivenUp(letter) => Shown::GivenUp(Reason::of(&letter)),
        }
    }
}

/// What is written somewhere is shown byte for byte, so JSON too is text here.
fn text(bytes: Vec<u8>) -> Body {
    Body::of(&bytes)
}

impl Header {
    /// A header by name and value.
    pub fn of(name: &str, value: Option<&[u8]>) -> Self {
        Header { name: name.to_owned(), value: value.map(Body::of) }
    }

    /// A header whose name came from outside.
    pub fn foreign(name: &[u8], value: Option<&[u8]>) -> Self {
        let name: Cow<'_, str> = String::from_utf8_lossy(name);
        Header::of(&name, value)
    }
}

fn base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&base64::engine::general_purpose::STANDARD.encode(bytes))
}
