//! What events are, read back by `apache-avro` under the schema that the plugin registered.

mod avro;
mod casts;
mod config;
mod json;
mod property;

use anabranch_guest::SchemaInfo;
use anabranch_guest::testing::{Decision, HOST, Harness, Record};
use apache_avro::types::Value;
use serde_json::{Value as Json, json};

use crate::RowToEvent;

/// A plugin with a configuration, as JSON.
fn plugin(config: &Json) -> Harness<RowToEvent> {
    Harness::new(&config.to_string()).unwrap_or_else(|problems| panic!("{config}: {problems:?}"))
}

/// A record that holds an Avro value.
fn row(schema: &Json, value: impl Into<Value>) -> Record {
    let parsed = apache_avro::Schema::parse(schema).unwrap_or_else(|error| panic!("{schema}: {error}"));
    let bytes = apache_avro::to_avro_datum(&parsed, value.into()).unwrap_or_else(|error| panic!("{schema}: {error}"));
    Record::of_bytes(&bytes).schema(SchemaInfo { definition: schema.to_string(), id: Some(1), subject: None, version: None })
}

fn record(fields: &[(&str, Value)]) -> Value {
    Value::Record(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

/// The schema of an output's value.
fn event_schema(decision: &Decision) -> Json {
    let handle = decision.output().value_schema;
    let definition = HOST.with_borrow(|host| host.schemas[handle as usize - 1].definition.clone());
    serde_json::from_str(&definition).unwrap()
}

/// The event, decoded under its registered schema.
fn event(decision: &Decision) -> Value {
    assert_eq!(decision.reject, None);
    let schema = event_schema(decision);
    let parsed = apache_avro::Schema::parse(&schema).unwrap_or_else(|error| panic!("{schema}: {error}"));
    let bytes = decision.output().value.clone().flatten().expect("a value was set");
    let mut rest = bytes.as_slice();
    let value = apache_avro::from_avro_datum(&parsed, &mut rest, None).unwrap_or_else(|error| panic!("{schema}: {error}"));
    assert!(rest.is_empty(), "bytes are left over");
    value
}

/// The type of a field of an event, by its path.
fn type_of(schema: &Json, path: &[&str]) -> Json {
    path.iter().fold(schema.clone(), |schema, name| {
        let fields = schema["fields"].as_array().unwrap_or_else(|| panic!("{schema} is no record"));
        fields.iter().find(|field| field["name"] == **name).unwrap_or_else(|| panic!("{schema} has no {name}"))["type"].clone()
    })
}

/// The one event of one row, and its schema.
fn one(config: &Json, record: Record) -> (Value, Json) {
    let decisions = plugin(config).records(&[record]).unwrap();
    (event(&decisions[0]), event_schema(&decisions[0]))
}

/// Why a row was given up.
fn refused(config: &Json, record: Record) -> (String, String) {
    plugin(config).records(&[record]).unwrap()[0].reject.clone().expect("the record is rejected")
}

fn orders() -> Json {
    json!({ "type": "record", "name": "Order", "namespace": "shop", "fields": [
        { "name": "order_id", "type": "long" },
        { "name": "org", "type": "string" },
        { "name": "amount", "type": { "type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2 } },
        { "name": "region", "type": ["null", "string"], "default": null },
        { "name": "created_at", "type": { "type": "long", "logicalType": "timestamp-millis" } },
        { "name": "secret", "type": "string" },
    ]})
}

fn order(id: i64) -> Value {
    record(&[
        ("order_id", Value::Long(id)),
        ("org", Value::String("acme".into())),
        ("amount", Value::Decimal(vec![0x04, 0xd2].into())),
        ("region", Value::Union(1, Box::new(Value::String("eu".into())))),
        ("created_at", Value::TimestampMillis(1_709_209_800_123)),
        ("secret", Value::String("s".into())),
    ])
}
