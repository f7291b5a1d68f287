//! The configuration as it is written. What it means is in [`shape`](crate::shape).

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

/// Names with what stands behind each, in the order in which the router hands them over.
#[derive(Debug)]
pub struct Pairs<T>(pub Vec<(String, T)>);

/// The configuration of the plugin.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Full name of the event's record.
    pub name: Option<String>,
    #[serde(default)]
    pub format: Format,
    pub id: Option<Source>,
    pub payload: Option<Columns>,
    #[serde(default)]
    pub meta: Pairs<Source>,
    #[serde(default)]
    pub set: Pairs<Source>,
    pub key: Option<Key>,
    #[serde(default)]
    pub missing: Missing,
    #[serde(default)]
    pub tombstone: Tombstone,
}

/// What an event is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    #[default]
    Avro,
    Json,
}

/// What becomes of a row that has not a column that the configuration names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Missing {
    #[default]
    Reject,
    LeaveOut,
}

/// What becomes of a record without a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tombstone {
    #[default]
    Keep,
    Drop,
    Reject,
}

/// Columns of the row.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    pub fields: Option<Vec<String>>,
    pub all_except: Option<Vec<String>>,
    #[serde(default)]
    pub rename: Pairs<String>,
    #[serde(default)]
    pub cast: Pairs<String>,
    #[serde(default)]
    pub set: Pairs<Source>,
    #[serde(default)]
    pub inline: bool,
}

/// Where a value comes from: a text is a column.
#[derive(Debug)]
pub enum Source {
    Column(String),
    Table(Box<Table>),
}

/// Where a value comes from, at length; one of the first six is there.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    pub field: Option<String>,
    pub r#const: Option<serde_json::Value>,
    pub record: Option<OfRecord>,
    pub key: Option<String>,
    pub header: Option<String>,
    pub concat: Option<Vec<Source>>,
    pub group: Option<Pairs<Source>>,
    pub columns: Option<Columns>,
    pub separator: Option<String>,
    pub cast: Option<String>,
}

/// What the record says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OfRecord {
    Topic,
    Partition,
    Offset,
    Timestamp,
    Key,
    Now,
}

/// The event's key.
#[derive(Debug)]
pub enum Key {
    None,
    Source(Source),
}

impl<T> Default for Pairs<T> {
    fn default() -> Self {
        Pairs(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Pairs<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Read<T> {
            type Value = Pairs<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a table: { name = .. }")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<T>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(Read(PhantomData))
    }
}

const SOURCE: &str = "a column's name, or a table with one of field, const, record, key, header, concat, group, columns";

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Source;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(SOURCE)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Source, E> {
                Ok(Source::Column(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Source, A::Error> {
                Table::deserialize(MapAccessDeserializer::new(map)).map(|table| Source::Table(Box::new(table)))
            }
        }

        deserializer.deserialize_any(Read)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Key;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "false for no key, or {SOURCE}")
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Key, E> {
                if value { Err(E::custom("false for no key; without `key` the record's key is kept")) } else { Ok(Key::None) }
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Key, E> {
                Ok(Key::Source(Source::Column(text.to_owned())))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Key, A::Error> {
                Source::deserialize(MapAccessDeserializer::new(map)).map(Key::Source)
            }
        }

        deserializer.deserialize_any(Read)
    }
}
