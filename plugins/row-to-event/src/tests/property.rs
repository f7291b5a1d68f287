//! Rows of any schema, with any values: what is copied is the same on the other side.

use apache_avro::types::Value;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::{event, plugin, row};

/// A schema and a value of it. Named types get their names by [`named`].
fn typed() -> impl Strategy<Value = (Json, Value)> {
    let logical = |of: &str, name: &str| json!({ "type": of, "logicalType": name });
    let leaf = prop_oneof![
        Just((json!("null"), Value::Null)),
        any::<bool>().prop_map(|value| (json!("boolean"), Value::Boolean(value))),
        any::<i32>().prop_map(|value| (json!("int"), Value::Int(value))),
        any::<i64>().prop_map(|value| (json!("long"), Value::Long(value))),
        (-1e30_f32..1e30).prop_map(|value| (json!("float"), Value::Float(value))),
        (-1e300_f64..1e300).prop_map(|value| (json!("double"), Value::Double(value))),
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(|value| (json!("bytes"), Value::Bytes(value))),
        ".{0,10}".prop_map(|value| (json!("string"), Value::String(value))),
        any::<i32>().prop_map(move |value| (logical("int", "date"), Value::Date(value))),
        any::<i64>().prop_map(move |value| (logical("long", "timestamp-micros"), Value::TimestampMicros(value))),
        any::<[u8; 4]>().prop_map(|value| (json!({ "type": "fixed", "name": "N", "size": 4 }), Value::Fixed(4, value.to_vec()))),
        (0..3_u32).prop_map(|index| {
            let symbols = ["A", "B", "C"];
            (json!({ "type": "enum", "name": "N", "symbols": symbols }), Value::Enum(index, symbols[index as usize].to_owned()))
        }),
        (-1_000_000_i64..1_000_000).prop_map(|value| {
            let schema = json!({ "type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2 });
            (schema, Value::Decimal(num_bigint::BigInt::from(value).to_signed_bytes_be().into()))
        }),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            (inner.clone(), 0..4_usize)
                .prop_map(|((schema, value), count)| (json!({ "type": "array", "items": schema }), Value::Array(vec![value; count]))),
            (inner.clone(), 0..2_usize).prop_map(|((schema, value), count)| {
                let entries = (0..count).map(|index| (format!("k{index}"), value.clone())).collect();
                (json!({ "type": "map", "values": schema }), Value::Map(entries))
            }),
            (inner.clone(), any::<bool>()).prop_filter_map("a union within a union", |((schema, value), null)| {
                if schema == "null" || schema.is_array() {
                    return None;
                }
                let union = json!(["null", schema]);
                let value = if null { Value::Union(0, Box::new(Value::Null)) } else { Value::Union(1, Box::new(value)) };
                Some((union, value))
            }),
            proptest::collection::vec(inner, 0..4).prop_map(record_of),
        ]
    })
}

fn record_of(fields: Vec<(Json, Value)>) -> (Json, Value) {
    let schemas: Vec<Json> =
        fields.iter().enumerate().map(|(index, (schema, _))| json!({ "name": format!("f{index}"), "type": schema })).collect();
    let values = fields.into_iter().enumerate().map(|(index, (_, value))| (format!("f{index}"), value)).collect();
    (json!({ "type": "record", "name": "N", "fields": schemas }), Value::Record(values))
}

/// Gives every named type a name of its own.
fn named(schema: &mut Json, count: &mut usize) {
    match schema {
        Json::Array(branches) => branches.iter_mut().for_each(|branch| named(branch, count)),
        Json::Object(object) => {
            if object.contains_key("name") && object.contains_key("type") && object["name"] == "N" {
                *count += 1;
                let namespace = if count.is_multiple_of(2) { "x." } else { "" };
                object.insert("name".to_owned(), format!("{namespace}N{count}").into());
            }
            object.values_mut().for_each(|value| named(value, count));
        }
        _ => (),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_column_is_the_same_in_the_event(fields in proptest::collection::vec(typed(), 1..5)) {
        let (mut schema, value) = record_of(fields);
        named(&mut schema, &mut 0);
        let Value::Record(columns) = value.clone() else { unreachable!() };
        let reversed: Vec<String> = columns.iter().rev().map(|(name, _)| name.clone()).collect();
        let config = json!({ "payload": {}, "set": { "again": { "columns": { "fields": reversed } } } });
        let decisions = plugin(&config).records(&[row(&schema, value.clone())]).unwrap();
        let Value::Record(parts) = event(&decisions[0]) else { panic!("an event is a record") };
        prop_assert_eq!(&parts[0].1, &value);
        prop_assert_eq!(&parts[1].1, &Value::Record(columns.into_iter().rev().collect()));
    }

    #[test]
    fn any_bytes_become_an_event_or_a_reject_and_never_a_panic(
        fields in proptest::collection::vec(typed(), 1..4),
        bytes in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let (mut schema, _) = record_of(fields);
        named(&mut schema, &mut 0);
        let info = anabranch_guest::SchemaInfo { definition: schema.to_string(), id: Some(1), subject: None, version: None };
        let record = anabranch_guest::testing::Record::of_bytes(&bytes).schema(info);
        let config = json!({ "payload": { "cast": { "f0": "json" } } });
        let decisions = plugin(&config).records(&[record]).unwrap();
        prop_assert!(decisions[0].reject.is_some() || decisions[0].outputs.len() == 1);
    }

    #[test]
    fn numbers_survive_their_text(unscaled in any::<i128>(), scale in 0..38_u32) {
        let text = crate::text::decimal_of(unscaled, scale);
        let number = crate::text::Number::parse(&text);
        // The lowest of 128 bits is the negative of none.
        if unscaled != i128::MIN {
            prop_assert_eq!(number.and_then(|number| number.at_scale(scale.into())), Some(unscaled));
        }
    }
}
