//! Avro as a producer writes it, by the `apache-avro` crate.
//!
//! Invariant: what values mean beyond their wire form (logical types) is left out when they are encoded, so that a test states the
//! number or the bytes on the wire, and beside them what they stand for.

use apache_avro::Schema;
use apache_avro::types::Value;
use serde_json::Value as Json;

use crate::registry::{Registry, framed};

/// A schema that is registered.
#[derive(Debug)]
pub struct Avro {
    wire: Schema,
    /// Its id in the registry.
    pub id: u32,
}

impl Avro {
    /// Registers a schema for a subject.
    pub fn register(registry: &Registry, subject: &str, definition: &Json) -> Avro {
        let id = registry.register(subject, &definition.to_string());
        Avro { wire: Schema::parse(&without_meaning(definition)).unwrap(), id }
    }

    /// A value as it stands in a record: with the registry's prefix. Logical types are given by their wire form.
    pub fn encode(&self, value: Value) -> Vec<u8> {
        framed(self.id, &apache_avro::to_avro_datum(&self.wire, value).unwrap())
    }
}

fn without_meaning(definition: &Json) -> Json {
    match definition {
        Json::Object(entries) => {
            let kept = entries.iter().filter(|(name, _)| *name != "logicalType" && !name.starts_with("connect."));
            kept.map(|(name, value)| (name.clone(), without_meaning(value))).collect()
        }
        Json::Array(items) => items.iter().map(without_meaning).collect(),
        other => other.clone(),
    }
}
