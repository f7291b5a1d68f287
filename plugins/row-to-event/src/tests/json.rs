//! Rows in JSON, and events in JSON.

use anabranch_guest::SchemaInfo;
use anabranch_guest::testing::{Decision, Record};
use apache_avro::types::Value;
use serde_json::{Value as Json, json};

use super::{event, event_schema, one, plugin, record, refused};

fn some(value: Value) -> Value {
    Value::Union(1, Box::new(value))
}

fn none() -> Value {
    Value::Union(0, Box::new(Value::Null))
}

#[test]
fn json_rows_become_typed_events_by_their_casts() {
    let config = json!({
        "id": { "field": "id", "cast": "long" },
        "payload": { "all_except": ["secret"], "cast": {
            "address": "json", "amount": "decimal(12,2)", "at": "timestamp-micros from nanos", "id": "long",
        } },
        "meta": { "source": { "const": "livedb" }, "city": { "field": "address.city", "cast": "string" } },
    });
    let row = json!({ "id": 7, "amount": "12.5", "at": 1_709_209_800_123_456_789_i64, "secret": 1, "address": { "city": "Ulm" } });
    let (event, _) = one(&config, Record::new(row));
    let Value::Record(fields) = &event else { panic!("an event is a record") };
    assert_eq!(fields[0].1, Value::Long(7));
    let Value::Record(payload) = &fields[1].1 else { panic!("a payload is a record") };
    let get = |name: &str| payload.iter().find(|(known, _)| known == name).unwrap().1.clone();
    assert_eq!(get("amount"), some(Value::Decimal(vec![0x04, 0xe2].into())));
    assert_eq!(get("at"), some(Value::TimestampMicros(1_709_209_800_123_456)));
    assert_eq!(get("address"), some(Value::String(r#"{"city":"Ulm"}"#.into())));
    assert_eq!(fields[2].1, record(&[("city", some(Value::String("Ulm".into()))), ("source", Value::String("livedb".into()))]));
}

#[test]
fn the_schema_of_json_rows_follows_from_the_configuration_alone() {
    let config = json!({ "payload": { "cast": { "a": "long", "b": "string" } } });
    let rows = [r#"{"a":1,"b":"x"}"#, r#"{"b":null}"#, r#"{}"#, r#"{"b":"y","a":2}"#];
    let together = plugin(&config).json(&rows).unwrap();
    let mut apart = plugin(&config);
    let alone: Vec<Decision> = rows.iter().rev().map(|row| apart.json(&[row]).unwrap().remove(0)).collect();
    for (one, other) in together.iter().zip(alone.iter().rev()) {
        assert_eq!((event(one), event_schema(one)), (event(other), event_schema(other)));
    }
    assert_eq!(event(&together[2]), record(&[("payload", record(&[("a", none()), ("b", none())]))]));
}

#[test]
fn a_json_column_without_a_type_gives_the_row_up() {
    let config = json!({ "payload": { "cast": { "a": "long" } } });
    let (code, message) = refused(&config, Record::new(json!({ "a": 1, "b": 2 })));
    assert_eq!(code, "no-type");
    let remedy = "the row has no schema, so give the column a `cast`, leave it out, or say format = \"json\"";
    assert_eq!(message, format!("the column \"b\" has no type: {remedy}"));
    assert_eq!(refused(&json!({ "id": "a" }), Record::new(json!({ "a": 1 }))).0, "no-type");
}

#[test]
fn a_named_column_that_a_json_row_lacks_gives_it_up_or_is_null() {
    let mut config = json!({ "payload": { "fields": ["a"], "cast": { "a": "long" } } });
    assert_eq!(refused(&config, Record::new(json!({}))).0, "no-column");
    config["missing"] = json!("leave-out");
    assert_eq!(one(&config, Record::new(json!({}))).0, record(&[("payload", record(&[("a", none())]))]));
}

#[test]
fn a_json_schema_is_no_avro_schema() {
    let config = json!({ "id": { "field": "a", "cast": "long" } });
    for definition in [r#"{"type":"object","properties":{"a":{"type":"integer"}}}"#, r#"{"$ref":"x"}"#, r#"{"type":["object","null"]}"#] {
        let info = SchemaInfo { definition: definition.to_owned(), id: Some(1), subject: None, version: None };
        assert_eq!(one(&config, Record::new(json!({ "a": 5 })).schema(info)).0, record(&[("id", Value::Long(5))]));
    }
    let broken = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"Elsewhere"}]}"#;
    let info = SchemaInfo { definition: broken.to_owned(), id: Some(1), subject: None, version: None };
    let (code, message) = refused(&config, Record::new(json!({ "a": 5 })).schema(info));
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("schema", "the schema of the row cannot be used: the type \"Elsewhere\" is not defined in it")
    );
}

#[test]
fn what_is_no_json_object_is_given_up() {
    let config = json!({ "id": { "field": "a", "cast": "long" } });
    for bytes in [&b"[1]"[..], b"5", b"{", b"{\"a\":1}x", b"\xa1\x61\x61\x01", b"{\"a\":\"\xff\"}", b""] {
        assert_eq!(refused(&config, Record::of_bytes(bytes)).0, "not-a-row", "{bytes:?}");
    }
}

fn written(config: &Json, row: Json) -> Json {
    let decisions = plugin(config).records(&[Record::new(row)]).unwrap();
    assert_eq!(decisions[0].reject, None);
    assert_eq!(decisions[0].output().value_schema, 0);
    decisions[0].output().json()
}

#[test]
fn json_events_keep_the_values_of_their_rows() {
    let config = json!({
        "format": "json", "id": "id",
        "payload": { "all_except": ["secret", "id"], "rename": { "amount": "to pay" }, "cast": { "n": "string", "m": "decimal(9,2)" } },
        "meta": { "source": { "const": "livedb" }, "mode": { "const": "normal" }, "offset": { "record": "offset" }, "city": "address.city",
            "at": { "record": "timestamp" } },
    });
    let row = json!({
        "id": 9_007_199_254_740_993_i64, "amount": 12.50, "n": 5, "m": 1.5, "none": null, "secret": "s", "list": [1, { "x": null }],
        "address": { "city": "Ulm" },
    });
    let payload = json!({
        "to pay": 12.50, "n": "5", "m": "1.50", "none": null, "list": [1, { "x": null }], "address": { "city": "Ulm" },
    });
    let meta = json!({ "source": "livedb", "mode": "normal", "offset": 0, "city": "Ulm", "at": "1970-01-01T00:00:00Z" });
    assert_eq!(written(&config, row), json!({ "id": 9_007_199_254_740_993_i64, "payload": payload, "meta": meta }));
}

#[test]
fn numbers_in_json_keep_all_their_digits() {
    let config = json!({ "format": "json", "payload": { "inline": true } });
    let text = r#"{"big":123456789012345678901234567890.10,"e":1E2}"#;
    let mut plugin = plugin(&config);
    let decisions = plugin.records(&[Record::of_bytes(text.as_bytes())]).unwrap();
    assert_eq!(decisions[0].output().value, Some(Some(text.as_bytes().to_vec())));
}

#[test]
fn in_json_null_differs_from_what_is_not_there() {
    let config = json!({ "format": "json", "missing": "leave-out", "set": { "a": "a", "b": "b", "c": { "field": "c", "cast": "long" } } });
    assert_eq!(written(&config, json!({ "a": null })), json!({ "a": null }));
    assert_eq!(written(&config, json!({ "c": null })), json!({ "c": null }));
    let config = json!({ "format": "json", "set": { "a": "a" } });
    assert_eq!(refused(&config, Record::new(json!({}))).0, "no-column");
    let config = json!({ "format": "json", "id": "a" });
    assert_eq!(refused(&config, Record::new(json!({ "a": null }))).0, "null");
}

#[test]
fn a_name_that_comes_twice_gives_a_json_row_up_and_a_repeated_one_counts_once() {
    let config = json!({ "format": "json", "payload": { "inline": true, "set": { "a": { "const": 1 } } } });
    assert_eq!(refused(&config, Record::new(json!({ "a": 5 }))).0, "name-taken");
    let config = json!({ "format": "json", "payload": { "inline": true } });
    let decisions = plugin(&config).records(&[Record::of_bytes(br#"{"a":1,"a":2,"\u0061":3}"#)]).unwrap();
    assert_eq!(decisions[0].output().value, Some(Some(br#"{"a":1}"#.to_vec())));
}
