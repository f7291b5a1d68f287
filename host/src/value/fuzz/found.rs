//! What random inputs found, each by its smallest input.

use super::*;

fn avro(schema: &str) -> Schema {
    Schema::avro(schema, &[]).unwrap()
}

fn read(schema: &Schema, bytes: &[u8], path: &[&str]) -> Result<Option<Json>, String> {
    let path = path.iter().map(|name| (*name).to_owned()).collect();
    let projection = Projection::new(Format::Avro, Some(schema), &[Wanted { path, kind: None, lenient: false }]).unwrap();
    let mut columns = projection.columns();
    projection.read(Some(schema), bytes, &mut columns).map_err(|error| error.to_string())?;
    cell(&columns.columns[0])
}

#[test]
fn a_block_that_lies_about_its_size_is_refused_and_not_read_in_two_ways() {
    let schema =
        avro(r#"{"type":"record","name":"R","fields":[{"name":"l","type":{"type":"array","items":"int"}},{"name":"x","type":"int"}]}"#);
    // One item of one byte, said to have three: whoever passes over it finds another x.
    let bytes = [1, 6, 2, 0, 4, 0, 8];
    let value = Value { format: Format::Avro, schema: Some(&schema), bytes: &bytes[..5] };
    assert!(validate(Value { bytes: &[1, 2, 2, 0, 4], ..value }).is_ok());
    assert!(validate(value).unwrap_err().reason.contains("a block of"));
    assert_eq!(read(&schema, &bytes, &["x"]), Ok(Some(4.into())));
    assert!(read(&schema, &bytes, &["l", "0"]).unwrap_err().contains("a block of"));
}

#[test]
fn a_schema_of_huge_fixed_types_is_compiled_and_its_values_refused() {
    let fixed = |name: &str| format!(r#"{{"name":"{name}","type":{{"type":"fixed","name":"T{name}","size":18446744073709551615}}}}"#);
    let record = format!(r#"{{"type":"map","values":{{"type":"record","name":"R","fields":[{},{}]}}}}"#, fixed("a"), fixed("b"));
    let schema = avro(&record);
    let value = Value { format: Format::Avro, schema: Some(&schema), bytes: &[2, 2, b'x', 1, 0] };
    assert!(validate(value).is_err());
    assert!(read(&schema, value.bytes, &["x"]).is_err());
}

#[test]
fn a_decimal_of_an_absurd_scale_is_no_decimal() {
    let connect = r#"{"type":"bytes","connect.name":"org.apache.kafka.connect.data.Decimal","connect.parameters":{"scale":"SCALE"}}"#;
    let logical = r#"{"type":"bytes","logicalType":"decimal","precision":9223372036854775807,"scale":SCALE}"#;
    for (schema, scale) in [(connect, "-9223372036854775808"), (connect, "70000"), (logical, "9223372036854775806")] {
        let schema = avro(&schema.replace("SCALE", scale));
        let value = Value { format: Format::Avro, schema: Some(&schema), bytes: &[2, 7] };
        assert_eq!(to_json(value).unwrap(), "Bw==", "it is bytes");
        assert_eq!(in_every_way(value), Ok(true));
    }
}

#[test]
fn the_digits_of_a_number_are_bounded_in_every_format() {
    let schema = avro(r#"{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}"#);
    // Lengths of 4097 bytes.
    let avro = [&[0x82, 0x40][..], &[1; 4097]].concat();
    let cbor = [&[0xc2, 0x59, 0x10, 0x01][..], &[1; 4097]].concat();
    for (format, bytes) in [(Format::Avro, avro), (Format::Cbor, cbor)] {
        let error = validate(Value { format, schema: Some(&schema), bytes: &bytes }).unwrap_err();
        assert!(error.reason.contains("of 4097 bytes, at most 4096"), "{error}");
    }
}

/// A record of records, each of two fields of the one before: every level doubles them.
fn doubling(levels: usize, leaf: &str) -> String {
    let record = |name: &str, fields: &str| format!(r#"{{"type":"record","name":"{name}","fields":[{fields}]}}"#);
    let field = |name: &str, schema: &str| format!(r#"{{"name":"{name}","type":{schema}}}"#);
    let mut before = leaf.to_owned();
    let mut all = Vec::new();
    for level in 0..levels {
        let twice = format!("{},{}", field("a", &before), field("b", &before));
        all.push(field(&format!("d{level}"), &record(&format!("D{level}"), &twice)));
        before = format!("\"D{level}\"");
    }
    record("All", &all.join(","))
}

#[test]
fn a_value_of_no_bytes_takes_no_time_however_its_schema_doubles() {
    for schema in [doubling(60, r#""null""#), format!(r#"{{"type":"array","items":{}}}"#, doubling(16, r#""null""#))] {
        let schema = avro(&schema);
        for bytes in [&b""[..], &[0x80, 0x80, 0x08, 0]] {
            let value = Value { format: Format::Avro, schema: Some(&schema), bytes };
            assert_eq!(in_every_way(value), Ok(false));
            tables::never_half(&schema, value, false).unwrap();
            assert!(read(&schema, bytes, &["d59", "a", "b"]).is_err());
        }
    }
    // Nulls that take a byte each are no attack.
    let schema = avro(r#"{"type":"array","items":["null","int"]}"#);
    let nulls = [&[0x80, 0x80, 0x10][..], &[0; (1 << 17) + 1]].concat();
    assert_eq!(in_every_way(Value { format: Format::Avro, schema: Some(&schema), bytes: &nulls }), Ok(true));
}

#[test]
fn a_table_of_a_schema_that_doubles_has_a_bounded_number_of_columns() {
    let schema = avro(&doubling(60, r#""int""#));
    let (held, fields) = crate::fuzz::holding(|| table_fields(&schema));
    assert_eq!(fields.len(), 60);
    assert!(held < 64 << 20, "{held} bytes");
    assert!(Appender::new(&schema, &fields).is_ok());
}

#[test]
fn a_path_through_unions_that_lead_to_themselves_is_compiled_within_bounds() {
    let union = r#"["null","A","B"]"#;
    let record = |name: &str, other: &str| format!(r#"{{"type":"record","name":"{name}","fields":[{{"name":"x","type":{other}}}]}}"#);
    let schema = avro(&record("A", &format!(r#"["null","A",{}]"#, record("B", union))));
    let path = vec!["x".to_owned(); 100];
    let error = Projection::new(Format::Avro, Some(&schema), &[Wanted { path, kind: None, lenient: false }]).unwrap_err();
    assert!(error.reason.contains("leads through more than"), "{error}");
    assert_eq!(read(&schema, &[2, 4, 0], &["x", "x", "x"]), Ok(Some(Json::Null)));
}

#[test]
fn an_integer_of_json_beyond_64_bits_keeps_its_digits_wherever_it_stands() {
    let text = r#"["\"1",2.5,{"9":-1e3},123456789012345678901234567890,[-18446744073709551617],1e30,7]"#;
    let mut cbor = Vec::new();
    write_cbor(Value { format: Format::Json, schema: None, bytes: text.as_bytes() }, &mut cbor).unwrap();
    let mut again = Vec::new();
    write_json(Value { format: Format::Cbor, schema: None, bytes: &cbor }, &JsonOptions::default(), &mut again).unwrap();
    assert_eq!(String::from_utf8(again).unwrap(), text.replace("-1e3", "-1000.0").replace("1e30", "1e+30"));
}

#[test]
fn what_only_looks_like_a_number_is_no_decimal() {
    let wanted = [Wanted { path: Vec::new(), kind: Some(Kind::Decimals), lenient: false }];
    let projection = Projection::new(Format::Json, None, &wanted).unwrap();
    for text in ["1-2", "1 2", "--1", ".", "01", "1.", "-", "1.2.3"] {
        assert!(projection.read(None, text.as_bytes(), &mut projection.columns()).is_err(), "{text}");
    }
    let mut columns = projection.columns();
    projection.read(None, b" -0.10\n", &mut columns).unwrap();
    assert_eq!(cell(&columns.columns[0]).unwrap(), Some("-0.10".into()));
}

#[test]
fn an_instant_of_a_map_without_length_is_refused() {
    // The end of the map would be taken for the end of the list around it.
    let error = validate(Value { format: Format::Cbor, schema: None, bytes: &[0x9f, 0xd9, 3, 0xe9, 0xbf, 0xff] }).unwrap_err();
    assert!(error.reason.contains("of known length"), "{error}");
}

#[test]
fn the_first_and_last_instants_are_read_back_from_cbor() {
    for meaning in ["timestamp-millis", "timestamp-micros", "timestamp-nanos"] {
        let schema = avro(&format!(r#"{{"type":"long","logicalType":"{meaning}"}}"#));
        for (bytes, number) in [
            ([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], i64::MIN),
            ([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], i64::MAX),
        ] {
            let mut cbor = Vec::new();
            write_cbor(Value { format: Format::Avro, schema: Some(&schema), bytes: &bytes }, &mut cbor).unwrap();
            assert_eq!(to_json(Value { format: Format::Cbor, schema: None, bytes: &cbor }), Ok(number.into()));
        }
    }
}

/// A table whose lists, structs and maps hold no nulls, as other writers make them.
fn strict_table() -> Vec<::arrow::datatypes::FieldRef> {
    use ::arrow::datatypes::{DataType, Field};
    let strict = |name: &str| Field::new(name, DataType::Int64, false);
    let entries = DataType::Struct(vec![Field::new("key", DataType::Utf8, false), strict("value")].into());
    [
        Field::new("list", DataType::new_list(DataType::Int64, false), true),
        Field::new("in", DataType::Struct(vec![strict("x")].into()), true),
        Field::new("map", DataType::Map(Field::new("key_value", entries, false).into(), false), true),
    ]
    .map(std::sync::Arc::new)
    .to_vec()
}

#[test]
fn a_null_within_a_column_that_allows_none_costs_its_record_only() {
    let fields = strict_table();
    let mut rows = Rows::new(&fields).unwrap();
    let appender = Appender::json();
    let mut append = |text: &str| rows.append(&appender, Value { format: Format::Json, schema: None, bytes: text.as_bytes() });
    append(r#"{"list":[1],"in":{"x":2},"map":{"a":3}}"#).unwrap();
    for (text, column) in
        [(r#"{"list":[null]}"#, "list"), (r#"{"in":{"x":null}}"#, "in.x"), (r#"{"in":{}}"#, "in.x"), (r#"{"map":{"a":null}}"#, "map")]
    {
        let error = append(text).unwrap_err().to_string();
        assert!(error.starts_with(&format!("column {column:?}: it is null")), "{error}");
    }
    append(r#"{"list":null,"in":null}"#).unwrap();
    assert_eq!(rows.finish().unwrap().num_rows(), 2);

    let union = r#"["null","long"]"#;
    let schema = avro(&format!(
        r#"{{"type":"record","name":"R","fields":[{{"name":"list","type":{{"type":"array","items":{union}}}}},
            {{"name":"in","type":{{"type":"record","name":"I","fields":[{{"name":"x","type":{union}}}]}}}}]}}"#
    ));
    let appender = Appender::new(&schema, &fields).unwrap();
    let mut rows = Rows::new(&fields).unwrap();
    for bytes in [&[2, 0, 0, 2, 2][..], &[0, 0]] {
        assert!(rows.append(&appender, Value { format: Format::Avro, schema: Some(&schema), bytes }).is_err());
    }
    rows.append(&appender, Value { format: Format::Avro, schema: Some(&schema), bytes: &[2, 2, 2, 0, 2, 2] }).unwrap();
    assert_eq!(rows.finish().unwrap().num_rows(), 1);
}

#[test]
fn a_field_that_can_only_be_null_is_null_in_a_table() {
    let schema = avro(r#"{"type":"record","name":"R","fields":[{"name":"n","type":"null"}]}"#);
    let fields = table_fields(&schema);
    let mut rows = Rows::new(&fields).unwrap();
    rows.append(&Appender::new(&schema, &fields).unwrap(), Value { format: Format::Avro, schema: Some(&schema), bytes: &[] }).unwrap();
    assert_eq!(rows.finish().unwrap().column(0).null_count(), 1);
}

#[test]
fn texts_that_are_no_decimals_and_floats_that_are_too_large_are_refused_by_a_table() {
    use ::arrow::datatypes::{DataType, Field};
    let fields = [Field::new("d", DataType::Decimal128(10, 2), true), Field::new("f", DataType::Float32, true)].map(std::sync::Arc::new);
    let mut rows = Rows::new(&fields).unwrap();
    let mut append = |text: &str| rows.append(&Appender::json(), Value { format: Format::Json, schema: None, bytes: text.as_bytes() });
    for text in ["1e-9223372036854775808", "1e9223372036854775807", ".+5", "1.-5", "", ".", "1e", "e1"] {
        assert!(append(&format!(r#"{{"d":"{text}"}}"#)).is_err(), "{text}");
    }
    assert!(append(r#"{"f":1e300}"#).is_err());
    append(r#"{"d":"-1.5e1","f":1.5}"#).unwrap();
    assert_eq!(rows.finish().unwrap().num_rows(), 1);
}

#[test]
fn a_schema_that_uses_others_need_not_have_a_name() {
    let city = r#"{"type":"record","name":"geo.City","fields":[{"name":"zip","type":"int"}]}"#;
    for (text, bytes, json) in [
        (r#"["null","geo.City"]"#, &[2, 8][..], r#"{"zip":4}"#),
        (r#"{"type":"array","items":"geo.City"}"#, &[2, 8, 0], r#"[{"zip":4}]"#),
        (r#""geo.City""#, &[8], r#"{"zip":4}"#),
    ] {
        let schema = Schema::avro(text, &[city.to_owned()]).unwrap();
        let found = to_json(Value { format: Format::Avro, schema: Some(&schema), bytes }).unwrap();
        assert_eq!(found.to_string(), json);
    }
}

#[test]
fn a_schema_whose_names_are_none_is_refused() {
    let invalid = [
        r#"{"type":"fixed","name":"","size":1}"#,
        r#"{"type":"record","name":".","fields":[]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"f","type":{"type":"enum","name":"a b","symbols":["A"]}}]}"#,
    ];
    for text in invalid {
        assert!(Schema::avro(text, &[]).unwrap_err().to_string().contains("name"), "{text}");
        assert!(Schema::avro(r#""int""#, &[text.to_owned()]).is_err(), "{text}");
    }
}

#[test]
fn a_null_in_place_of_a_record_is_a_row_of_nulls_in_a_table_of_its_own() {
    let schema = avro(r#"["null",{"type":"record","name":"R","fields":[{"name":"f","type":"boolean"}]}]"#);
    let fields = table_fields(&schema);
    let mut rows = Rows::new(&fields).unwrap();
    rows.append(&Appender::new(&schema, &fields).unwrap(), Value { format: Format::Avro, schema: Some(&schema), bytes: &[0] }).unwrap();
    assert_eq!(rows.finish().unwrap().column(0).null_count(), 1);
}

#[test]
fn a_table_without_columns_has_its_rows() {
    let schema = avro(r#"{"type":"record","name":"R","fields":[]}"#);
    let mut rows = Rows::new(&table_fields(&schema)).unwrap();
    rows.append(&Appender::new(&schema, &[]).unwrap(), Value { format: Format::Avro, schema: Some(&schema), bytes: &[] }).unwrap();
    assert_eq!(rows.finish().unwrap().num_rows(), 1);
}

#[test]
fn schemas_that_refer_to_each_other_without_end_do_not_take_the_stack() {
    let chain = |length: usize| -> Vec<String> {
        let field = |inner: usize| format!(r#"{{"name":"f","type":["null","R{inner}"]}}"#);
        let fields = |level: usize| level.checked_sub(1).map_or(String::new(), field);
        (0..length).map(|level| format!(r#"{{"type":"record","name":"R{level}","fields":[{}]}}"#, fields(level))).collect()
    };
    let last = |length: usize| format!("\"R{}\"", length - 1);
    let error = Schema::avro(&last(1000), &chain(1000)).unwrap_err();
    assert!(error.to_string().contains("nest deeper than 256"), "{error}");
    Schema::avro(&last(120), &chain(120)).unwrap();
}

#[test]
fn what_an_instant_holds_besides_is_read_too() {
    // A key that nobody knows, and as its value the end of a container that was never opened.
    let bytes = [0xd9, 3, 0xe9, 0xa2, 1, 2, 5, 0xff];
    assert!(validate(Value { format: Format::Cbor, schema: None, bytes: &bytes }).is_err());
    assert!(validate(Value { format: Format::Cbor, schema: None, bytes: &[0xd9, 3, 0xe9, 0xa2, 1, 2, 5, 0x60] }).is_ok());
}
