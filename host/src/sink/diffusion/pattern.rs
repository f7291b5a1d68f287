//! The sink's own way from a record to a topic path: text in which `${..}` stands for parts of the record.
//!
//! Invariant: every token is known when the configuration is read, and each is replaced once, by text of the record, in which nothing
//! is replaced any more. A record that has no text for a token has no path; none is made up.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize, Serializer};

use crate::config::Remedy;
use crate::diffusion::path::{self, PathError};
use crate::output::View;
use crate::value::{DecodeError, Picked, Value, pick};

const TOKENS: &str = "${topic}, ${partition}, ${key}, ${key.FIELD}, ${value.FIELD} and ${destination}";

/// A checked `path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Topic,
    Partition,
    Destination,
    /// The key, or a field of it.
    Key(Vec<String>),
    Value(Vec<String>),
}

/// Why a record has no topic path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPath {
    /// No plugin chose one.
    #[error("the record has no destination, and the sink has no `path` of its own")]
    NoDestination,
    /// The record has nothing for a token.
    #[error("the path holds {0}, and the record has none")]
    Missing(String),
    /// What it has is no text.
    #[error("the path holds {0}, and that of the record is {1}, which has no text")]
    NoText(String, &'static str),
    /// Key or value cannot be read.
    #[error("the path holds {0}, and that of the record cannot be read: {1}")]
    Unreadable(String, DecodeError),
    /// It is none that a server can have.
    #[error("{0:?} is no topic path: {1}")]
    Invalid(String, PathError),
}

/// The topic path of a record: by the pattern, or the destination that a plugin chose.
///
/// # Errors
/// Why it has none.
pub fn topic_path<'a>(pattern: Option<&PathPattern>, view: View<'a>) -> Result<Cow<'a, str>, NoPath> {
    let path = match pattern {
        None => Cow::Borrowed(view.destination().ok_or(NoPath::NoDestination)?),
        Some(pattern) => Cow::Owned(pattern.expand(view)?),
    };
    match path::check(&path) {
        Ok(()) => Ok(path),
        Err(error) => Err(NoPath::Invalid(shortened(&path), error)),
    }
}

/// So that a message stays readable.
fn shortened(path: &str) -> String {
    const CHARS_MAX: usize = 200;
    match path.char_indices().nth(CHARS_MAX) {
        None => path.to_owned(),
        Some((at, _)) => format!("{}..", &path[..at]),
    }
}

impl PathPattern {
    /// Whether the destinations that plugins choose are part of it.
    pub fn takes_destination(&self) -> bool {
        self.parts.contains(&Part::Destination)
    }

    fn expand(&self, view: View<'_>) -> Result<String, NoPath> {
        let mut path = String::with_capacity(64);
        for part in &self.parts {
            match part {
                Part::Text(text) => path.push_str(text),
                Part::Topic => path.push_str(view.topic()),
                Part::Partition => path.push_str(&view.partition().to_string()),
                Part::Destination => path.push_str(view.destination().ok_or_else(|| NoPath::Missing(part.to_string()))?),
                Part::Key(fields) => path.push_str(&text_of(part, view.key(), fields)?),
                Part::Value(fields) => path.push_str(&text_of(part, view.value(), fields)?),
            }
        }
        Ok(path)
    }
}

fn text_of(part: &Part, value: Option<Value<'_>>, fields: &[String]) -> Result<String, NoPath> {
    let value = value.ok_or_else(|| NoPath::Missing(part.to_string()))?;
    match pick(value, fields).map_err(|error| NoPath::Unreadable(part.to_string(), error))? {
        Picked::Text(text) => Ok(text),
        Picked::Missing => Err(NoPath::Missing(part.to_string())),
        Picked::Container => Err(NoPath::NoText(part.to_string(), "a record, a map or an array")),
        Picked::Bytes => Err(NoPath::NoText(part.to_string(), "bytes")),
    }
}

impl FromStr for PathPattern {
    type Err = Remedy;

    fn from_str(text: &str) -> Result<Self, Remedy> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            if start > 0 {
                parts.push(Part::Text(rest[..start].to_owned()));
            }
            let inner = &rest[start + 2..];
            let end = inner.find('}').ok_or_else(|| Remedy::new(format!("{:?} has no end", &rest[start..]), "close it with }"))?;
            parts.push(token(&inner[..end])?);
            rest = &inner[end + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        // A token stands for at least one character, so the pattern shows already what no record can mend.
        let sample: String = parts.iter().map(|part| if let Part::Text(text) = part { text } else { "x" }).collect();
        if let Err(error) = path::check(&sample) {
            let remedy = "write segments between single slashes, such as \"shop/${topic}/${key}\"";
            return Err(Remedy::new(format!("{text:?} makes no topic paths: {error}"), remedy));
        }
        Ok(PathPattern { text: text.to_owned(), parts })
    }
}

fn token(name: &str) -> Result<Part, Remedy> {
    let fields = |path: &str| -> Result<Vec<String>, Remedy> {
        let fields: Vec<String> = path.split('.').map(str::to_owned).collect();
        if fields.iter().any(String::is_empty) {
            return Err(Remedy::new(format!("\"${{{name}}}\" names no field"), "write ${value.FIELD} or ${value.OUTER.INNER}"));
        }
        Ok(fields)
    };
    match name {
        "topic" => Ok(Part::Topic),
        "partition" => Ok(Part::Partition),
        "destination" => Ok(Part::Destination),
        "key" => Ok(Part::Key(Vec::new())),
        "key.version" | "value.version" => {
            let remedy = "put the plugin destination-pattern into `through`, which knows versions, and leave `path` out";
            Err(Remedy::new(format!("\"${{{name}}}\" is the version of a schema, which the sink does not know"), remedy))
        }
        _ if name.starts_with("key.") => Ok(Part::Key(fields(&name["key.".len()..])?)),
        _ if name.starts_with("value.") => Ok(Part::Value(fields(&name["value.".len()..])?)),
        "value" => Err(Remedy::new("\"${value}\" is a whole value", "name a field of it: ${value.FIELD}")),
        _ => Err(Remedy::new(format!("\"${{{name}}}\" is not known"), format!("a path may hold {TOKENS}"))),
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Text(text) => f.write_str(text),
            Part::Topic => f.write_str("${topic}"),
            Part::Partition => f.write_str("${partition}"),
            Part::Destination => f.write_str("${destination}"),
            Part::Key(fields) if fields.is_empty() => f.write_str("${key}"),
            Part::Key(fields) => write!(f, "${{key.{}}}", fields.join(".")),
            Part::Value(fields) => write!(f, "${{value.{}}}", fields.join(".")),
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for PathPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Serialize for PathPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for PathPattern {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "topic path pattern".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "title": "topic path", "minLength": 1, "examples": ["shop/${topic}/${key}"] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Cell, Text};
    use crate::sink::fixture::Route;
    use crate::value::Format;

    fn path(pattern: Option<&str>, destination: Option<&str>, record: (Option<&str>, Option<&str>)) -> Result<String, String> {
        let mut route = Route::new(Format::Json);
        let batch = route.batch(3, &[record]);
        let mut outputs = route.outputs(batch);
        if let Some(destination) = destination {
            outputs.buffers.push(destination.as_bytes().to_vec().into());
            outputs.list[0].destination = Some(Text { buffer: 0, start: 0, end: destination.len() as u32 });
        }
        if record.1.is_none() {
            outputs.list[0].value = Cell::Null;
        }
        let pattern = pattern.map(|pattern| pattern.parse::<PathPattern>().unwrap());
        topic_path(pattern.as_ref(), outputs.view(0)).map(Cow::into_owned).map_err(|error| error.to_string())
    }

    #[test]
    fn tokens_are_replaced_by_the_record() {
        let record = (Some("k/1"), Some(r#"{"id":7,"a":{"b":"x"},"p":"${topic}"}"#));
        let cases = [
            ("shop/${topic}/${key}", "shop/t/k/1"),
            ("${topic}-${partition}", "t-3"),
            ("v/${value.id}/${value.a.b}", "v/7/x"),
            ("v/${value.p}", "v/${topic}"),
            ("live/${destination}", "live/d/e"),
            ("fixed", "fixed"),
        ];
        for (pattern, expected) in cases {
            assert_eq!(path(Some(pattern), Some("d/e"), record).as_deref(), Ok(expected));
        }
        assert_eq!(path(None, Some("d/e"), record).as_deref(), Ok("d/e"));
    }

    #[test]
    fn a_record_without_text_for_a_token_has_no_path() {
        let cases = [
            (Some("a/${key}"), (None, Some("{}")), "${key}, and the record has none"),
            (Some("a/${value.id}"), (None, None), "${value.id}, and the record has none"),
            (Some("a/${value.id}"), (None, Some("{}")), "the record has none"),
            (Some("a/${value.id}"), (None, Some("{\"id\":{}}")), "has no text"),
            (Some("a/${value.id}"), (None, Some("{")), "cannot be read"),
            (Some("a/${destination}"), (None, Some("{}")), "${destination}, and the record has none"),
            (Some("a/${key}"), (Some(""), Some("{}")), "empty segment"),
            (Some("a/${key}"), (Some("/x"), Some("{}")), "empty segment"),
            (Some("${key}"), (Some("Diffusion/x"), Some("{}")), "belongs to the server"),
            (None, (None, Some("{}")), "no destination"),
        ];
        for (pattern, record, expected) in cases {
            let error = path(pattern, None, record).unwrap_err();
            assert!(error.contains(expected), "{pattern:?}: {error}");
        }
        assert!(path(None, Some("/a"), (None, None)).is_err());
        let long = "x".repeat(9000);
        assert!(path(None, Some(&long), (None, None)).unwrap_err().len() < 400);
    }

    #[test]
    fn a_pattern_that_cannot_be_meant_is_refused() {
        for text in
            ["", "/a", "a/", "a//${key}", "${key", "${foo}", "${value}", "${value.}", "${value.a..b}", "${key.version}", "Diffusion/${key}"]
        {
            assert!(text.parse::<PathPattern>().is_err(), "{text}");
        }
        let pattern: PathPattern = "a/${destination}".parse().unwrap();
        assert!(pattern.takes_destination() && pattern.to_string() == "a/${destination}");
    }
}
