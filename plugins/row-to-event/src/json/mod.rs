//! Rows in JSON.
//!
//! Invariant: a row is read as text and its values keep their digits; of repeated names the first counts.

pub mod event;
pub mod typed;

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::config::Missing;
use crate::read::{Fault, Lookup};
use crate::scalar::Scalar;

/// A JSON object: names and the text of their values.
#[derive(Debug)]
pub struct Object<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

/// A row, and what becomes of one that lacks a column.
pub struct Row<'a> {
    pub object: Object<'a>,
    pub missing: Missing,
}

/// Where a value is.
#[derive(Debug, Clone)]
pub struct Column {
    pub path: Vec<String>,
    /// Whether a row may do without it, whatever the configuration says of missing columns.
    pub optional: bool,
}

impl<'a> Object<'a> {
    /// Reads a row.
    ///
    /// # Errors
    /// Where the bytes are no JSON object.
    pub fn parse(bytes: &'a [u8]) -> Result<Object<'a>, Fault> {
        serde_json::from_slice(bytes).map_err(|error| {
            let text = error.to_string();
            Fault::new("not-a-row", format!("the value is neither Avro with a schema nor a JSON object: {text}"))
        })
    }

    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }

    /// A value by its path; items of arrays have numbers.
    pub fn at(&self, path: &[String]) -> Option<&'a RawValue> {
        let (first, rest) = path.split_first()?;
        let mut value = self.get(first)?;
        for name in rest {
            value = match value.get().as_bytes().first()? {
                b'{' => serde_json::from_str::<Object<'a>>(value.get()).ok()?.get(name)?,
                b'[' => serde_json::from_str::<Vec<&'a RawValue>>(value.get()).ok()?.get(name.parse::<usize>().ok()?).copied()?,
                _ => return None,
            };
        }
        Some(value)
    }
}

/// A value as its text shows it.
pub fn scalar(value: &RawValue) -> Result<Scalar<'_>, Fault> {
    let text = value.get();
    Ok(match text.as_bytes().first() {
        Some(b'"') => match serde_json::from_str::<Name<'_>>(text) {
            Ok(name) => Scalar::Text(name.0),
            Err(error) => return Err(Fault::new("not-a-row", format!("a text is not valid: {error}"))),
        },
        Some(b'{' | b'[') => Scalar::Nested(Cow::Borrowed(text)),
        Some(b't') => Scalar::Bool(true),
        Some(b'f') => Scalar::Bool(false),
        Some(b'n') => Scalar::Null,
        _ => Scalar::Number(text),
    })
}

impl Lookup<Column> for Row<'_> {
    fn scalar<'s>(&'s self, column: &'s Column, _: bool) -> Result<Scalar<'s>, Fault> {
        match self.object.at(&column.path) {
            Some(value) => scalar(value),
            None if column.optional || self.missing == Missing::LeaveOut => Ok(Scalar::Null),
            None => Err(Fault::no_column(&column.path)),
        }
    }
}

/// Text that is borrowed where it has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Name<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Read)
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Object<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut pairs: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::with_capacity(16);
                while let Some((name, value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    pairs.push((name.0, value));
                }
                Ok(Object(pairs))
            }
        }

        deserializer.deserialize_map(Read)
    }
}
