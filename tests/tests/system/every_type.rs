//! The whole way of every Avro type, compared value by value with what was produced.
//!
//! Each field of the record comes with its values in three forms, written by hand: as it goes onto the wire, as HTTP receives it in
//! JSON, and as the table holds it.

use std::collections::BTreeMap;
use std::time::Duration;

use anabranch_tests::avro::Avro;
use anabranch_tests::kafka::Broker;
use anabranch_tests::receiver::Receiver;
use anabranch_tests::registry::Registry;
use anabranch_tests::router::Place;
use anabranch_tests::table::{self, Cell};
use anabranch_tests::topic::Record;
use apache_avro::types::Value;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use num_bigint::BigInt;
use serde_json::{Value as Json, json};

/// A field with its schema and its values.
struct Field {
    name: &'static str,
    schema: Json,
    values: Vec<Sample>,
}

/// One value in three forms.
struct Sample {
    wire: Value,
    json: Json,
    table: InTable,
}

enum InTable {
    Cell(Cell),
    /// What a table has no type for: the same JSON as at HTTP, as text.
    Json,
}

fn field(name: &'static str, schema: Json, values: Vec<Sample>) -> Field {
    Field { name, schema, values }
}

fn sample(wire: Value, json: Json, cell: Cell) -> Sample {
    Sample { wire, json, table: InTable::Cell(cell) }
}

fn as_json(wire: Value, json: Json) -> Sample {
    Sample { wire, json, table: InTable::Json }
}

/// A value that has the same text at HTTP and in the table.
fn as_text(wire: Value, text: &str) -> Sample {
    sample(wire, json!(text), Cell::text(text))
}

fn branch(index: u32, sample: Sample) -> Sample {
    Sample { wire: Value::Union(index, Box::new(sample.wire)), ..sample }
}

fn null(index: u32) -> Sample {
    branch(index, sample(Value::Null, Json::Null, Cell::Null))
}

fn record(fields: Vec<(&str, Value)>) -> Value {
    Value::Record(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn fields(fields: Vec<(&str, Cell)>) -> Cell {
    Cell::Struct(fields.into_iter().map(|(name, cell)| (name.to_owned(), cell)).collect())
}

fn int(value: i32) -> Sample {
    sample(Value::Int(value), json!(value), Cell::Int(value))
}

fn long(value: i64) -> Sample {
    sample(Value::Long(value), json!(value), Cell::Long(value))
}

fn text(value: &str) -> Sample {
    as_text(Value::String(value.into()), value)
}

fn bytes(value: &[u8]) -> Sample {
    sample(Value::Bytes(value.to_vec()), json!(STANDARD.encode(value)), Cell::Bytes(value.to_vec()))
}

fn fixed(value: &[u8]) -> Sample {
    Sample { wire: Value::Fixed(value.len(), value.to_vec()), ..bytes(value) }
}

fn primitives() -> Vec<Field> {
    let float = |value: f32| sample(Value::Float(value), json!(value.to_string().parse::<f64>().unwrap()), Cell::Float(value));
    let double = |value: f64| sample(Value::Double(value), json!(value), Cell::Double(value));
    let odd_float = |value: f32, text: &str| sample(Value::Float(value), json!(text), Cell::Float(value));
    let odd_double = |value: f64, text: &str| sample(Value::Double(value), json!(text), Cell::Double(value));
    let every_byte: Vec<u8> = (0..=255).collect();
    vec![
        field("nothing", json!("null"), vec![sample(Value::Null, Json::Null, Cell::Null)]),
        field("flag", json!("boolean"), [true, false].map(|value| sample(Value::Boolean(value), json!(value), Cell::Bool(value))).into()),
        field("int", json!("int"), [0, -1, i32::MIN, i32::MAX].map(int).into()),
        field("long", json!("long"), [0, -1, i64::MIN, i64::MAX, 1 << 53 | 1].map(long).into()),
        field(
            "float",
            json!("float"),
            vec![
                float(0.0),
                float(1.1),
                float(f32::MIN),
                float(f32::MIN_POSITIVE),
                float(1e-45),
                odd_float(f32::NAN, "NaN"),
                odd_float(f32::NEG_INFINITY, "-Infinity"),
            ],
        ),
        field(
            "double",
            json!("double"),
            vec![
                double(-0.5),
                double(0.1),
                double(f64::MAX),
                double(f64::MIN_POSITIVE),
                double(5e-324),
                odd_double(f64::NAN, "NaN"),
                odd_double(f64::INFINITY, "Infinity"),
            ],
        ),
        field("bytes", json!("bytes"), vec![bytes(b""), bytes(&every_byte), bytes(b"\x00")]),
        field("text", json!("string"), vec![text(""), text("\u{0}\u{1f}\"\\/\n grüße, 世界 🌊"), text(&"long ".repeat(4_000))]),
        field("fixed", json!({"type": "fixed", "name": "Four", "size": 4}), vec![fixed(&[0, 1, 254, 255]), fixed(&[0; 4])]),
        field(
            "suit",
            json!({"type": "enum", "name": "Suit", "symbols": ["SPADES", "HEARTS"]}),
            vec![as_text(Value::Enum(0, "SPADES".into()), "SPADES"), as_text(Value::Enum(1, "HEARTS".into()), "HEARTS")],
        ),
    ]
}

fn containers() -> Vec<Field> {
    let list = |samples: Vec<Sample>| {
        let cells = samples.iter().map(|sample| match &sample.table {
            InTable::Cell(cell) => cell.clone(),
            InTable::Json => Cell::text(sample.json.to_string()),
        });
        let (cells, json) = (cells.collect(), samples.iter().map(|sample| sample.json.clone()).collect());
        sample(Value::Array(samples.into_iter().map(|sample| sample.wire).collect()), json, Cell::List(cells))
    };
    let entries = |entries: Vec<(&str, i64)>| {
        let wire = entries.iter().map(|(key, value)| ((*key).to_owned(), Value::Long(*value))).collect();
        let json = entries.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        sample(Value::Map(wire), json, Cell::Map(entries.iter().map(|(key, value)| ((*key).to_owned(), Cell::Long(*value))).collect()))
    };
    let point = |x: f64, label: Option<&str>| {
        let (wire, cell) = match label {
            None => (Value::Union(0, Box::new(Value::Null)), Cell::Null),
            Some(label) => (Value::Union(1, Box::new(Value::String(label.into()))), Cell::text(label)),
        };
        sample(
            record(vec![("x", Value::Double(x)), ("label", wire)]),
            json!({"x": x, "label": label}),
            fields(vec![("x", Cell::Double(x)), ("label", cell)]),
        )
    };
    let within = |name: &str, sample: Sample| {
        let InTable::Cell(cell) = sample.table else { panic!("a cell") };
        Sample {
            wire: record(vec![(name, sample.wire)]),
            json: json!({ name: sample.json }),
            table: InTable::Cell(fields(vec![(name, cell)])),
        }
    };
    vec![
        field(
            "ints",
            json!({"type": "array", "items": "int"}),
            vec![list(vec![]), list(vec![int(1), int(-2)]), list((0..500).map(int).collect())],
        ),
        field(
            "texts",
            json!({"type": "array", "items": ["null", "string"]}),
            vec![list(vec![null(0), branch(1, text("a")), null(0)]), list(vec![])],
        ),
        field("counts", json!({"type": "map", "values": "long"}), vec![entries(vec![]), entries(vec![("", 0), ("ä b", i64::MIN)])]),
        field(
            "point",
            json!({"type": "record", "name": "geo.Point", "fields": [
                {"name": "x", "type": "double"}, {"name": "label", "type": ["null", "string"]}]}),
            vec![point(0.25, None), point(-1e300, Some("far"))],
        ),
        field(
            "points",
            json!({"type": "array", "items": "geo.Point"}),
            vec![list(vec![point(1.0, None), point(2.0, Some("b"))]), list(vec![])],
        ),
        field(
            "nested",
            json!({"type": "record", "name": "Outer", "namespace": "deep", "fields": [{"name": "inner", "type":
                {"type": "record", "name": "Inner", "fields": [{"name": "four", "type":
                    {"type": "fixed", "name": "Four", "size": 2}}]}}]}),
            vec![within("inner", within("four", fixed(&[9, 8])))],
        ),
        field("same_name", json!("deep.Inner"), vec![within("four", fixed(&[1, 2]))]),
    ]
}

fn unions() -> Vec<Field> {
    let card = |code: &str| as_json(record(vec![("code", Value::String(code.into()))]), json!({ "code": code }));
    let mixed = |sample: Sample| Sample { table: InTable::Json, ..sample };
    let tree = |left: Value, value: i32| record(vec![("value", Value::Int(value)), ("children", Value::Array(vec![left]))]);
    let leaf = |value: i32| record(vec![("value", Value::Int(value)), ("children", Value::Array(vec![]))]);
    let next = |next: Option<Value>| match next {
        None => Value::Union(0, Box::new(Value::Null)),
        Some(next) => Value::Union(1, Box::new(next)),
    };
    let link = |end: Option<Value>| record(vec![("next", next(end))]);
    vec![
        field("maybe_long", json!(["null", "long"]), vec![null(0), branch(1, long(i64::MIN)), branch(1, long(7))]),
        field("long_or_null", json!(["long", "null"]), vec![branch(0, long(-7)), null(1)]),
        field("only_text", json!(["string"]), vec![branch(0, text("only"))]),
        field(
            "mixed",
            json!(["int", "null", "string", {"type": "array", "items": "boolean"}, "Suit",
                {"type": "record", "name": "Card", "fields": [{"name": "code", "type": "string"}]}]),
            vec![
                mixed(branch(0, int(-5))),
                null(1),
                mixed(branch(2, text("five \"5\""))),
                branch(3, as_json(Value::Array(vec![Value::Boolean(true), Value::Boolean(false)]), json!([true, false]))),
                mixed(branch(4, as_text(Value::Enum(1, "HEARTS".into()), "HEARTS"))),
                branch(5, card("4711")),
            ],
        ),
        field(
            "records",
            json!(["Card", "geo.Point"]),
            vec![
                branch(0, card("")),
                branch(
                    1,
                    as_json(
                        record(vec![("x", Value::Double(0.5)), ("label", Value::Union(0, Box::new(Value::Null)))]),
                        json!({"x": 0.5, "label": null}),
                    ),
                ),
            ],
        ),
        field(
            "tree",
            json!({"type": "record", "name": "Tree", "fields": [
                {"name": "value", "type": "int"}, {"name": "children", "type": {"type": "array", "items": "Tree"}}]}),
            vec![
                as_json(leaf(1), json!({"value": 1, "children": []})),
                as_json(
                    tree(tree(leaf(3), 2), 1),
                    json!({"value": 1, "children": [{"value": 2, "children": [{"value": 3, "children": []}]}]}),
                ),
            ],
        ),
        field(
            "chain",
            json!(["null", {"type": "record", "name": "Link", "fields": [{"name": "next", "type": ["null", "Link"]}]}]),
            vec![null(0), branch(1, as_json(link(Some(link(None))), json!({"next": {"next": null}})))],
        ),
    ]
}

fn decimals() -> Vec<Field> {
    let unscaled = |digits: &str| BigInt::parse_bytes(digits.as_bytes(), 10).unwrap();
    let small = |digits: &str, text: &str| {
        sample(Value::Bytes(unscaled(digits).to_signed_bytes_be()), json!(text), Cell::Decimal(digits.parse().unwrap(), 10, 2))
    };
    let large = |digits: &str, text: &str| {
        let number: i128 = digits.parse().unwrap();
        sample(Value::Fixed(16, number.to_be_bytes().to_vec()), json!(text), Cell::Decimal(number, 38, 10))
    };
    let huge = |digits: &str, text: &str| as_text(Value::Bytes(unscaled(digits).to_signed_bytes_be()), text);
    let connect = |number: i64, text: &str| {
        sample(Value::Bytes(BigInt::from(number).to_signed_bytes_be()), json!(text), Cell::Decimal(number.into(), 38, 4))
    };
    let nines = "9".repeat(50);
    vec![
        field(
            "price",
            json!({"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}),
            vec![small("0", "0.00"), small("-1", "-0.01"), small("1234", "12.34"), small("-9999999999", "-99999999.99")],
        ),
        field(
            "weight",
            json!({"type": "fixed", "name": "Weight", "size": 16, "logicalType": "decimal", "precision": 38, "scale": 10}),
            vec![
                large("0", "0.0000000000"),
                large("99999999999999999999999999999999999999", "9999999999999999999999999999.9999999999"),
                large("-99999999999999999999999999999999999999", "-9999999999999999999999999999.9999999999"),
            ],
        ),
        field(
            "huge",
            json!({"type": "bytes", "logicalType": "decimal", "precision": 50, "scale": 0}),
            vec![huge(&nines, &nines), huge(&format!("-{nines}"), &format!("-{nines}")), huge("0", "0")],
        ),
        field(
            "connect_decimal",
            json!({"type": "bytes", "connect.name": "org.apache.kafka.connect.data.Decimal", "connect.version": 1,
                "connect.parameters": {"scale": "4"}}),
            vec![connect(-15_000, "-1.5000"), connect(1, "0.0001")],
        ),
    ]
}

fn times() -> Vec<Field> {
    let logical = |of: &str, name: &str| json!({"type": of, "logicalType": name});
    let connect = |of: &str, name: &str| json!({"type": of, "connect.name": name, "connect.version": 1});
    let date = |days: i32, text: &str| sample(Value::Int(days), json!(text), Cell::Date(days));
    let int_text = |value: i32, text: &str| as_text(Value::Int(value), text);
    let long_text = |value: i64, text: &str| as_text(Value::Long(value), text);
    let instant = |value: i64, text: &str, micros: i64| sample(Value::Long(value), json!(text), Cell::Timestamp(micros));
    let duration = |months: u32, days: u32, millis: u32, text: &str| {
        as_text(Value::Fixed(12, [months, days, millis].map(u32::to_le_bytes).concat()), text)
    };
    let uuid = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6";
    let uuid_bytes = [0xf8, 0x1d, 0x4f, 0xae, 0x7d, 0xec, 0x11, 0xd0, 0xa7, 0x65, 0x00, 0xa0, 0xc9, 0x1e, 0x6b, 0xf6];
    let millis = || {
        vec![
            instant(0, "1970-01-01T00:00:00Z", 0),
            instant(-1, "1969-12-31T23:59:59.999Z", -1_000),
            instant(1_709_209_800_123, "2024-02-29T12:30:00.123Z", 1_709_209_800_123_000),
        ]
    };
    let local_micros = || {
        vec![
            long_text(0, "1970-01-01T00:00:00"),
            long_text(-1, "1969-12-31T23:59:59.999999"),
            long_text(1_709_209_800_000_001, "2024-02-29T12:30:00.000001"),
        ]
    };
    let dates = || {
        vec![
            date(0, "1970-01-01"),
            date(-719_162, "0001-01-01"),
            date(19_782, "2024-02-29"),
            date(2_932_896, "9999-12-31"),
            // An infinite date of a database, as Debezium writes it: no calendar has it.
            date(2_146_033_979, "2146033979"),
        ]
    };
    vec![
        field("uuid", logical("string", "uuid"), vec![as_text(Value::String(uuid.into()), uuid)]),
        field(
            "uuid_fixed",
            json!({"type": "fixed", "name": "Uuid", "size": 16, "logicalType": "uuid"}),
            vec![as_text(Value::Fixed(16, uuid_bytes.to_vec()), uuid)],
        ),
        field("date", logical("int", "date"), dates()),
        field("time_millis", logical("int", "time-millis"), vec![int_text(0, "00:00:00"), int_text(86_399_999, "23:59:59.999")]),
        field(
            "time_micros",
            logical("long", "time-micros"),
            vec![long_text(1, "00:00:00.000001"), long_text(86_399_999_999, "23:59:59.999999")],
        ),
        field("at_millis", logical("long", "timestamp-millis"), millis()),
        field(
            "at_micros",
            logical("long", "timestamp-micros"),
            vec![
                instant(-1, "1969-12-31T23:59:59.999999Z", -1),
                instant(253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999),
                instant(i64::MIN, "-9223372036854775808", i64::MIN),
            ],
        ),
        field(
            "at_nanos",
            logical("long", "timestamp-nanos"),
            vec![
                instant(1, "1970-01-01T00:00:00.000000001Z", 0),
                instant(-1, "1969-12-31T23:59:59.999999999Z", -1),
                instant(i64::MAX, "2262-04-11T23:47:16.854775807Z", 9_223_372_036_854_775),
            ],
        ),
        field("local_millis", logical("long", "local-timestamp-millis"), vec![long_text(1_709_209_800_123, "2024-02-29T12:30:00.123")]),
        field("local_micros", logical("long", "local-timestamp-micros"), local_micros()),
        field("local_nanos", logical("long", "local-timestamp-nanos"), vec![long_text(1_000_000_001, "1970-01-01T00:00:01.000000001")]),
        field(
            "duration",
            json!({"type": "fixed", "name": "Span", "size": 12, "logicalType": "duration"}),
            vec![duration(0, 0, 0, "P0M0DT0.000S"), duration(u32::MAX, 2, 3_004, "P4294967295M2DT3.004S")],
        ),
        field("connect_date", connect("int", "io.debezium.time.Date"), dates()),
        field("connect_time", connect("long", "io.debezium.time.MicroTime"), vec![long_text(86_400_000_000, "24:00:00")]),
        field("connect_at", connect("long", "org.apache.kafka.connect.data.Timestamp"), millis()),
        field("connect_local", connect("long", "io.debezium.time.MicroTimestamp"), local_micros()),
        field(
            "maybe_at",
            json!(["null", {"type": "long", "logicalType": "timestamp-millis"}]),
            vec![null(0), branch(1, instant(1, "1970-01-01T00:00:00.001Z", 1_000))],
        ),
    ]
}

/// Equal, where NaN equals itself and -0.0 differs from 0.0.
fn same(left: &Cell, right: &Cell) -> bool {
    format!("{left:?}") == format!("{right:?}")
}

#[test]
fn every_avro_type_arrives_value_by_value_at_a_table_and_at_http() {
    let all: Vec<Field> = [primitives(), containers(), unions(), decimals(), times()].into_iter().flatten().collect();
    let rows = all.iter().map(|field| field.values.len()).max().unwrap();
    let mut schemas = vec![json!({"name": "id", "type": "int"})];
    schemas.extend(all.iter().map(|field| json!({"name": field.name, "type": field.schema})));
    let definition = json!({"type": "record", "name": "Everything", "fields": schemas});

    let broker = Broker::shared();
    let registry = Registry::shared();
    let topic = broker.topic("every-type", 3);
    let avro = Avro::register(registry, &format!("{}-value", topic.name), &definition);
    let receiver = Receiver::start();
    let place = Place::new(&format!(
        r#"
        [source.shop.kafka]
        brokers = ["{brokers}"]
        [registry.main]
        url = "{registry}"
        [sink.live.http]
        url = "{live}"
        [sink.lake.delta]
        uri = "table"
        [route.all]
        group = "{group}"
        topics = ["{topic}"]
        value = "avro"
        through = [{{ plugin = "filter", config = {{ where = "id >= 0 and exists(price)" }} }}]
        to = ["live", "lake"]
        "#,
        brokers = broker.plaintext(),
        registry = registry.url(),
        live = receiver.url("/live"),
        group = topic.name,
        topic = topic.name,
    ));

    // Row -1 is for the filter.
    let wire = |row: i32| {
        let values = all.iter().map(|field| (field.name, field.values[row.unsigned_abs() as usize % field.values.len()].wire.clone()));
        Record::value(avro.encode(record([("id", Value::Int(row))].into_iter().chain(values).collect())))
    };
    topic.send((-1..rows as i32).map(wire));
    place.run_until_end();

    let requests = receiver.requests();
    let table = table::rows(&place.path("table"));
    assert_eq!((requests.len(), table.len()), (rows, rows));
    let by_id: BTreeMap<i64, Json> =
        requests.iter().map(|request| request.json()).map(|json| (json["id"].as_i64().unwrap(), json)).collect();
    for row in 0..rows {
        let json = &by_id[&(row as i64)];
        let cells = table.iter().find(|cells| same(&cells["id"], &Cell::Int(row as i32))).unwrap();
        assert_eq!(json.as_object().unwrap().len(), all.len() + 1);
        assert_eq!(cells.len(), all.len() + 1);
        for field in &all {
            let expected = &field.values[row % field.values.len()];
            assert_eq!(json[field.name], expected.json, "field {} of row {row} at HTTP", field.name);
            let found = &cells[field.name];
            match (&expected.table, found) {
                (InTable::Cell(cell), found) => assert!(same(found, cell), "field {} of row {row}: {found:?}, not {cell:?}", field.name),
                (InTable::Json, Cell::Text(text)) => {
                    assert_eq!(serde_json::from_str::<Json>(text).unwrap(), expected.json, "field {} of row {row}", field.name);
                }
                (InTable::Json, found) => panic!("field {} of row {row}: {found:?} is no JSON text", field.name),
            }
        }
    }
    topic.wait_committed(&topic.name, Duration::ZERO);
}
