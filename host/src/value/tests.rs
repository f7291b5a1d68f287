//! Walkers and renderers against `apache-avro` and `serde_json`, and against bytes that are nobody's.

use std::collections::HashMap;

use apache_avro::types::Value as AvroValue;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

fn encode(schema: &str, value: AvroValue) -> Vec<u8> {
    let parsed = apache_avro::Schema::parse_str(schema).unwrap();
    apache_avro::to_avro_datum(&parsed, value).unwrap()
}

fn to_json(schema: &Schema, bytes: &[u8]) -> Result<Json, DecodeError> {
    let mut out = Vec::new();
    write_json(Value { format: Format::Avro, schema: Some(schema), bytes }, &JsonOptions::default(), &mut out)?;
    Ok(serde_json::from_slice(&out).unwrap())
}

const ORDER: &str = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
    {"name":"id","type":"long"},
    {"name":"status","type":{"type":"enum","name":"Status","symbols":["NEW","PAID"]}},
    {"name":"amount","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}},
    {"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}},
    {"name":"day","type":{"type":"int","logicalType":"date"}},
    {"name":"note","type":["null","string"]},
    {"name":"address","type":["null",{"type":"record","name":"Address","fields":[{"name":"city","type":"string"},{"name":"zip","type":["null","string"]}]}]},
    {"name":"tags","type":{"type":"array","items":"string"}},
    {"name":"counts","type":{"type":"map","values":"int"}},
    {"name":"any","type":["null","long","string"]},
    {"name":"ratio","type":"double"},
    {"name":"raw","type":"bytes"}]}"#;

fn order() -> (Schema, Vec<u8>) {
    let address = AvroValue::Record(vec![
        ("city".into(), AvroValue::String("Köln".into())),
        ("zip".into(), AvroValue::Union(0, Box::new(AvroValue::Null))),
    ]);
    let value = AvroValue::Record(vec![
        ("id".into(), AvroValue::Long(7)),
        ("status".into(), AvroValue::Enum(1, "PAID".into())),
        ("amount".into(), AvroValue::Decimal(vec![0x04, 0xd2].into())),
        ("at".into(), AvroValue::TimestampMillis(1_709_209_800_123)),
        ("day".into(), AvroValue::Date(19_782)),
        ("note".into(), AvroValue::Union(1, Box::new(AvroValue::String("a \"b\"".into())))),
        ("address".into(), AvroValue::Union(1, Box::new(address))),
        ("tags".into(), AvroValue::Array(vec![AvroValue::String("x".into()), AvroValue::String("y".into())])),
        ("counts".into(), AvroValue::Map(HashMap::from([("a".to_owned(), AvroValue::Int(-3))]))),
        ("any".into(), AvroValue::Union(2, Box::new(AvroValue::String("s".into())))),
        ("ratio".into(), AvroValue::Double(0.1)),
        ("raw".into(), AvroValue::Bytes(vec![0, 255])),
    ]);
    (Schema::avro(ORDER, &[]).unwrap(), encode(ORDER, value))
}

#[test]
fn an_order_becomes_json_with_every_type_in_its_place() {
    let (schema, bytes) = order();
    assert_eq!(
        to_json(&schema, &bytes).unwrap(),
        json!({"id":7,"status":"PAID","amount":"12.34","at":"2024-02-29T12:30:00.123Z","day":"2024-02-29","note":"a \"b\"",
               "address":{"city":"Köln","zip":null},"tags":["x","y"],"counts":{"a":-3},"any":"s","ratio":0.1,"raw":"AP8="})
    );
}

#[test]
fn cbor_of_a_value_reads_back_as_the_same_json() {
    let (schema, bytes) = order();
    let mut cbor = Vec::new();
    write_cbor(Value { format: Format::Avro, schema: Some(&schema), bytes: &bytes }, &mut cbor).unwrap();
    let mut text = Vec::new();
    write_json(Value { format: Format::Cbor, schema: None, bytes: &cbor }, &JsonOptions::default(), &mut text).unwrap();
    assert_eq!(serde_json::from_slice::<Json>(&text).unwrap(), to_json(&schema, &bytes).unwrap());
}

fn wanted(path: &str, kind: Option<Kind>) -> Wanted {
    Wanted { path: path.split('.').filter(|name| !name.is_empty()).map(str::to_owned).collect(), kind, lenient: false }
}

#[test]
fn a_projection_takes_the_wanted_fields_in_the_wanted_kinds() {
    let (schema, bytes) = order();
    let fields = [
        wanted("status", None),
        wanted("id", None),
        wanted("id", Some(Kind::Texts)),
        wanted("amount", None),
        wanted("address.city", None),
        wanted("address.zip", None),
        wanted("tags.1", None),
        wanted("counts.a", None),
        wanted("counts.b", None),
        wanted("nothing", None),
        wanted("at", None),
        wanted("any", Some(Kind::Texts)),
    ];
    let projection = Projection::new(Format::Avro, Some(&schema), &fields).unwrap();
    let mut columns = projection.columns();
    projection.read(Some(&schema), &bytes, &mut columns).unwrap();
    let text = |index: usize| match &columns.columns[index] {
        Column::Texts(column) | Column::Decimals(column) => String::from_utf8(column.data.clone()).unwrap(),
        other => panic!("column {index} is {other:?}"),
    };
    assert_eq!(text(0), "PAID");
    assert_eq!(columns.columns[1], Column::Integers(project::NumberColumn { values: vec![7], nulls: None, missing: None }));
    assert_eq!(text(2), "7");
    assert_eq!(text(3), "12.34");
    assert_eq!(text(4), "Köln");
    assert!(matches!(&columns.columns[5], Column::Texts(column) if column.nulls == Some(vec![0])));
    assert_eq!(text(6), "y");
    assert_eq!(columns.columns[7], Column::Integers(project::NumberColumn { values: vec![-3], nulls: None, missing: None }));
    assert!(matches!(&columns.columns[8], Column::Integers(column) if column.missing == Some(vec![0])));
    assert!(matches!(&columns.columns[9], Column::Documents(column) if column.missing == Some(vec![0])));
    assert!(matches!(&columns.columns[10], Column::Timestamps(column) if column.values == [1_709_209_800_123_000]));
    assert_eq!(text(11), "s");
}

#[test]
fn a_record_that_cannot_be_read_leaves_no_row() {
    let (schema, bytes) = order();
    let projection = Projection::new(Format::Avro, Some(&schema), &[wanted("id", None), wanted("raw", None)]).unwrap();
    let mut columns = projection.columns();
    projection.read(Some(&schema), &bytes, &mut columns).unwrap();
    let before = columns.clone();
    let error = projection.read(Some(&schema), &bytes[..bytes.len() - 1], &mut columns).unwrap_err();
    assert_eq!(error.field, "raw");
    assert_eq!(columns, before);
    columns.push_null_row();
    assert_eq!(columns.rows(), 2);
}

#[test]
fn a_json_record_that_nests_without_end_is_an_error_and_not_the_end_of_the_process() {
    let wanted = |path: &[&str]| Wanted { path: path.iter().map(|name| (*name).to_owned()).collect(), kind: None, lenient: false };
    let projection = Projection::new(Format::Json, None, &[wanted(&["last"]), wanted(&["0", "0"])]).unwrap();
    let nested = |depth: usize| format!("{{\"first\":{}{},\"last\":1}}", "[".repeat(depth), "]".repeat(depth));
    for depth in [DEPTH_MAX, 10_000, 1_000_000] {
        let mut columns = projection.columns();
        let error = projection.read(None, nested(depth).as_bytes(), &mut columns).unwrap_err();
        assert!(error.reason.contains("nests deeper than 128"), "{error}");
    }
    // Brackets side by side or within texts are no depth, and a deep value is read as well as a shallow one.
    let wide = format!("{{\"first\":[{}[]],\"text\":\"{}\\\"[\",\"last\":1}}", "[],".repeat(1000), "[".repeat(1000));
    for shallow in [wide, nested(DEPTH_MAX - 1)] {
        let mut columns = projection.columns();
        projection.read(None, shallow.as_bytes(), &mut columns).unwrap();
        let Column::Documents(last) = &columns.columns[0] else { panic!("documents, without a kind") };
        assert_eq!((last.data.as_slice(), &last.missing), (&[1][..], &None));
    }
    let first = format!("[[1.50,{}{}],2]", "[".repeat(100), "]".repeat(100));
    let decimals = Wanted { kind: Some(Kind::Decimals), ..wanted(&["0", "0"]) };
    let projection = Projection::new(Format::Json, None, &[decimals]).unwrap();
    let mut columns = projection.columns();
    projection.read(None, first.as_bytes(), &mut columns).unwrap();
    let Column::Decimals(first) = &columns.columns[0] else { panic!("decimals are wanted") };
    assert_eq!(first.data, b"1.50", "numbers keep their digits");
}

#[test]
fn json_fields_are_found_and_numbers_keep_their_digits() {
    let text = br#"{"a":{"b":[10,{"c":12345678901234567890}]},"n":null,"d":1.10,"s":"x"}"#;
    let fields = [
        wanted("a.b.0", Some(Kind::Integers)),
        wanted("a.b.1.c", Some(Kind::Decimals)),
        wanted("n", Some(Kind::Texts)),
        wanted("zz", Some(Kind::Texts)),
        wanted("d", Some(Kind::Decimals)),
        wanted("s", None),
    ];
    let projection = Projection::new(Format::Json, None, &fields).unwrap();
    let mut columns = projection.columns();
    projection.read(None, text, &mut columns).unwrap();
    let bytes = |index: usize| match &columns.columns[index] {
        Column::Decimals(column) | Column::Documents(column) => column.data.clone(),
        other => panic!("column {index} is {other:?}"),
    };
    assert!(matches!(&columns.columns[0], Column::Integers(column) if column.values == [10]));
    assert_eq!(bytes(1), b"12345678901234567890");
    assert!(matches!(&columns.columns[2], Column::Texts(column) if column.nulls == Some(vec![0])));
    assert!(matches!(&columns.columns[3], Column::Texts(column) if column.missing == Some(vec![0])));
    assert_eq!(bytes(4), b"1.10");
    assert_eq!(bytes(5), b"\x61x");
}

#[test]
fn a_value_that_does_not_fit_is_an_error_or_missing_if_lenient() {
    let strict = Projection::new(Format::Json, None, &[wanted("a", Some(Kind::Integers))]).unwrap();
    let mut columns = strict.columns();
    let error = strict.read(None, br#"{"a":"x"}"#, &mut columns).unwrap_err();
    assert_eq!(error.to_string(), "field \"a\": x does not fit a column of integers at byte 0");
    let lenient = Projection::new(Format::Json, None, &[Wanted { lenient: true, ..wanted("a", Some(Kind::Integers)) }]).unwrap();
    let mut columns = lenient.columns();
    lenient.read(None, br#"{"a":"x"}"#, &mut columns).unwrap();
    assert!(matches!(&columns.columns[0], Column::Integers(column) if column.missing == Some(vec![0])));
}

#[test]
fn debezium_and_connect_types_are_known_by_their_names() {
    let schema = |kind: &str, name: &str| {
        let text =
            format!(r#"{{"type":"record","name":"R","fields":[{{"name":"f","type":{{"type":"{kind}","connect.name":"{name}"}}}}]}}"#);
        Schema::avro(&text, &[]).unwrap().find(&["f".to_owned()]).unwrap().kind
    };
    assert_eq!(schema("int", "io.debezium.time.Date"), Kind::Dates);
    assert_eq!(schema("long", "io.debezium.time.MicroTimestamp"), Kind::Timestamps);
    assert_eq!(schema("long", "io.debezium.time.MicroTime"), Kind::Times);
    assert_eq!(schema("long", "org.apache.kafka.connect.data.Timestamp"), Kind::Timestamps);
    assert_eq!(schema("string", "io.debezium.data.Json"), Kind::Texts);
}

#[test]
fn a_recursive_schema_is_read_to_its_bound_and_no_deeper() {
    let text = r#"{"type":"record","name":"Node","fields":[{"name":"v","type":"int"},{"name":"next","type":["null","Node"]}]}"#;
    let schema = Schema::avro(text, &[]).unwrap();
    assert_eq!(to_json(&schema, &[2, 2, 4, 0]).unwrap(), json!({"v":1,"next":{"v":2,"next":null}}));
    let deep: Vec<u8> = [2, 2].repeat(100_000);
    assert!(to_json(&schema, &deep).unwrap_err().reason.contains("nests deeper"));
    let fields = table_fields(&schema);
    assert_eq!(fields[1].metadata().get(arrow::JSON_TEXT).map(String::as_str), Some("true"));
}

#[test]
fn hostile_lengths_are_refused_at_once() {
    let nulls = Schema::avro(r#"{"type":"array","items":"null"}"#, &[]).unwrap();
    let longs = Schema::avro(r#"{"type":"array","items":"long"}"#, &[]).unwrap();
    let huge = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    for schema in [&nulls, &longs] {
        let value = Value { format: Format::Avro, schema: Some(schema), bytes: &huge };
        assert!(validate(value).unwrap_err().reason.contains("items are announced"));
    }
    let text = Schema::avro(r#""string""#, &[]).unwrap();
    let value = Value { format: Format::Avro, schema: Some(&text), bytes: &huge };
    assert!(validate(value).unwrap_err().reason.contains("are left"));
    let left_over = Value { format: Format::Avro, schema: Some(&text), bytes: &[2, b'a', 0] };
    assert_eq!(validate(left_over).unwrap_err().to_string(), "1 bytes are left over at byte 2");
}

#[test]
fn rows_of_a_table_hold_what_the_records_hold() {
    let (schema, bytes) = order();
    let fields = table_fields(&schema);
    let appender = Appender::new(&schema, &fields).unwrap();
    let mut rows = Rows::new(&fields).unwrap();
    let value = Value { format: Format::Avro, schema: Some(&schema), bytes: &bytes };
    rows.append(&appender, value).unwrap();
    let cut = Value { bytes: &bytes[..bytes.len() - 2], ..value };
    assert!(rows.append(&appender, cut).is_err());
    rows.append(&appender, value).unwrap();
    let batch = rows.finish().unwrap();
    assert_eq!(batch.num_rows(), 2);
    let mut out = Vec::new();
    let mut writer = ::arrow::json::LineDelimitedWriter::new(&mut out);
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    let line: Json = serde_json::from_slice(out.split(|byte| *byte == b'\n').next().unwrap()).unwrap();
    assert_eq!(line["amount"], json!(12.34));
    assert_eq!(line["address"]["city"], json!("Köln"));
    assert_eq!(line["tags"], json!(["x", "y"]));
    assert_eq!(line["counts"], json!({"a": -3}));
    assert_eq!(line["any"], json!("\"s\""), "a union of several types is JSON text");
    assert_eq!(line["at"], json!("2024-02-29T12:30:00.123Z"));
}

#[test]
fn a_column_of_another_type_refuses_the_schema_by_name() {
    let (schema, _) = order();
    let mut fields = table_fields(&schema);
    fields[4] = std::sync::Arc::new(::arrow::datatypes::Field::new("day", ::arrow::datatypes::DataType::Boolean, true));
    let error = Appender::new(&schema, &fields).unwrap_err();
    assert_eq!(error.to_string(), "column \"day\": it is Boolean in the table, the record's schema has Date32");
}

#[test]
fn schemas_refer_to_each_other() {
    let city = r#"{"type":"record","name":"City","namespace":"geo","fields":[{"name":"name","type":"string"}]}"#;
    let person = r#"{"type":"record","name":"Person","fields":[{"name":"home","type":"geo.City"}]}"#;
    let schema = Schema::avro(person, &[city.to_owned()]).unwrap();
    assert_eq!(to_json(&schema, &[4, b'o', b'k']).unwrap(), json!({"home":{"name":"ok"}}));
    assert!(Schema::avro(person, &[]).is_err());
}

/// A schema of bounded depth and a value for it, for `apache-avro`; and what the value is as JSON.
fn schema_and_value(depth: u32) -> BoxedStrategy<(Json, AvroValue, Json)> {
    let leaf = prop_oneof![
        Just((json!("null"), AvroValue::Null, Json::Null)),
        any::<bool>().prop_map(|v| (json!("boolean"), AvroValue::Boolean(v), json!(v))),
        any::<i32>().prop_map(|v| (json!("int"), AvroValue::Int(v), json!(v))),
        any::<i64>().prop_map(|v| (json!("long"), AvroValue::Long(v), json!(v))),
        (-1e300..1e300_f64).prop_map(|v| (json!("double"), AvroValue::Double(v), json!(v))),
        ".{0,12}".prop_map(|v| (json!("string"), AvroValue::String(v.clone()), json!(v))),
        prop::collection::vec(any::<u8>(), 0..12).prop_map(|v| {
            use base64::Engine as _;
            let text = base64::engine::general_purpose::STANDARD.encode(&v);
            (json!("bytes"), AvroValue::Bytes(v), json!(text))
        }),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    let inner = schema_and_value(depth - 1);
    prop_oneof![
        2 => leaf,
        1 => inner.clone().prop_map(|(s, v, j)| {
            if s == json!("null") || s.is_array() {
                return (s, v, j);
            }
            (json!(["null", s]), AvroValue::Union(1, Box::new(v)), j)
        }),
        1 => (inner.clone(), 0_usize..3).prop_map(|((s, v, j), n)| {
            (json!({"type":"array","items":s}), AvroValue::Array(vec![v; n]), Json::Array(vec![j; n]))
        }),
        1 => (inner.clone(), "[a-z]{1,5}").prop_map(|((s, v, j), name)| {
            (json!({"type":"map","values":s}), AvroValue::Map(HashMap::from([(name.clone(), v)])), json!({name: j}))
        }),
        2 => (prop::collection::vec(inner, 1..4), any::<u64>()).prop_map(|(parts, id)| {
            let mut fields = Vec::new();
            let mut values = Vec::new();
            let mut object = serde_json::Map::new();
            for (index, (s, v, j)) in parts.into_iter().enumerate() {
                fields.push(json!({"name": format!("f{index}"), "type": rename(&s, index)}));
                values.push((format!("f{index}"), v));
                object.insert(format!("f{index}"), j);
            }
            (json!({"type":"record","name":format!("R{id}"),"fields":fields}), AvroValue::Record(values), Json::Object(object))
        }),
    ]
    .boxed()
}

/// Names of records must differ within one schema.
fn rename(schema: &Json, index: usize) -> Json {
    match schema {
        Json::Object(object) => {
            let renamed = object.iter().map(|(key, value)| match (key.as_str(), value.as_str()) {
                ("name", Some(name)) if name.starts_with('R') => (key.clone(), json!(format!("{name}_{index}"))),
                ("name", _) => (key.clone(), value.clone()),
                _ => (key.clone(), rename(value, index)),
            });
            Json::Object(renamed.collect())
        }
        Json::Array(items) => Json::Array(items.iter().map(|item| rename(item, index)).collect()),
        other => other.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_apache_avro_writes_is_read_as_the_same_value((schema, value, expected) in schema_and_value(3)) {
        let text = schema.to_string();
        let bytes = encode(&text, value);
        let schema = Schema::avro(&text, &[]).unwrap();
        prop_assert_eq!(&to_json(&schema, &bytes).unwrap(), &expected);
        let mut cbor = Vec::new();
        write_cbor(Value { format: Format::Avro, schema: Some(&schema), bytes: &bytes }, &mut cbor).unwrap();
        let mut out = Vec::new();
        write_json(Value { format: Format::Cbor, schema: None, bytes: &cbor }, &JsonOptions::default(), &mut out).unwrap();
        prop_assert_eq!(&serde_json::from_slice::<Json>(&out).unwrap(), &expected);
        let fields = table_fields(&schema);
        if !fields.is_empty() {
            let appender = Appender::new(&schema, &fields).unwrap();
            let mut rows = Rows::new(&fields).unwrap();
            rows.append(&appender, Value { format: Format::Avro, schema: Some(&schema), bytes: &bytes }).unwrap();
            prop_assert_eq!(rows.finish().unwrap().num_rows(), 1);
        }
        let all = [Wanted { path: vec![], kind: Some(Kind::Documents), lenient: false }];
        let projection = Projection::new(Format::Avro, Some(&schema), &all).unwrap();
        let mut columns = projection.columns();
        projection.read(Some(&schema), &bytes, &mut columns).unwrap();
        prop_assert_eq!(columns.rows(), 1);
    }

    #[test]
    fn mutated_values_never_panic_and_leave_no_half_row((schema, value, _) in schema_and_value(3), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let text = schema.to_string();
        let mut bytes = encode(&text, value);
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes.truncate(cut.index(bytes.len()) + 1);
        }
        let schema = Schema::avro(&text, &[]).unwrap();
        let value = Value { format: Format::Avro, schema: Some(&schema), bytes: &bytes };
        let valid = validate(value).is_ok();
        let fields = table_fields(&schema);
        let appender = Appender::new(&schema, &fields).unwrap();
        let mut rows = Rows::new(&fields).unwrap();
        let appended = rows.append(&appender, value).is_ok();
        prop_assert!(valid || !appended, "what does not validate is not appended");
        prop_assert_eq!(rows.len(), usize::from(appended));
        rows.finish().unwrap();
    }

    #[test]
    fn bytes_that_are_nobodys_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let schema = Schema::avro(ORDER, &[]).unwrap();
        for format in [Format::Raw, Format::Json, Format::Cbor, Format::Avro] {
            let value = Value { format, schema: Some(&schema), bytes: &bytes };
            let valid = validate(value).is_ok();
            let mut out = Vec::new();
            prop_assert_eq!(write_json(value, &JsonOptions::default(), &mut out).is_ok(), valid);
            let projection = Projection::new(format, Some(&schema), &[wanted("a.b", None), wanted("id", Some(Kind::Texts)), wanted("", Some(Kind::Documents))]).unwrap();
            let mut columns = projection.columns();
            let _ = projection.read(Some(&schema), &bytes, &mut columns);
            prop_assert!(columns.columns.iter().all(|column| column.len() == columns.rows()));
        }
    }
}
