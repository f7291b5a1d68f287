//! Casts, from every kind of value.

use apache_avro::types::Value;
use serde_json::{Value as Json, json};

use super::{one, record, refused, row};

fn cast_one(of: &Json, value: Value, to: &str) -> Result<Value, String> {
    let schema = json!({ "type": "record", "name": "R", "fields": [{ "name": "a", "type": of }] });
    let config = json!({ "set": { "a": { "field": "a", "cast": to } } });
    let row = row(&schema, record(&[("a", value)]));
    let decisions = super::plugin(&config).records(std::slice::from_ref(&row)).unwrap();
    if decisions[0].reject.is_some() {
        return Err(refused(&config, row).1);
    }
    let Value::Record(mut fields) = one(&config, row).0 else { panic!("an event is a record") };
    Ok(fields.remove(0).1)
}

fn logical(of: &str, name: &str) -> Json {
    json!({ "type": of, "logicalType": name })
}

fn decimal(scale: i64) -> Json {
    json!({ "type": "bytes", "logicalType": "decimal", "precision": 20, "scale": scale })
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn unscaled(value: i128) -> Value {
    let bytes = value.to_be_bytes();
    let bigint = num_bigint::BigInt::from_signed_bytes_be(&bytes);
    Value::Decimal(bigint.to_signed_bytes_be().into())
}

#[test]
fn what_fits_keeps_its_value() {
    let uuid = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    let uuid_bytes = "Z+VQRBCxQm+SR7toDl/gyA==";
    let cases: Vec<(Json, Value, &str, Value)> = vec![
        (json!("long"), Value::Long(5), "int", Value::Int(5)),
        (json!("int"), Value::Int(5), "long", Value::Long(5)),
        (json!("string"), text("-5"), "long", Value::Long(-5)),
        (json!("double"), Value::Double(5.0), "long", Value::Long(5)),
        (json!("string"), text("1e3"), "int", Value::Int(1000)),
        (decimal(2), unscaled(500), "long", Value::Long(5)),
        (json!("boolean"), Value::Boolean(true), "int", Value::Int(1)),
        (json!("int"), Value::Int(0), "boolean", Value::Boolean(false)),
        (json!("string"), text("true"), "boolean", Value::Boolean(true)),
        (json!("long"), Value::Long(1 << 53), "double", Value::Double(9_007_199_254_740_992.0)),
        (json!("string"), text("0.1"), "double", Value::Double(0.1)),
        (json!("float"), Value::Float(0.5), "double", Value::Double(0.5)),
        (json!("double"), Value::Double(0.1), "float", Value::Float(0.1)),
        (decimal(1), unscaled(1), "double", Value::Double(0.1)),
        (json!("long"), Value::Long(i64::MIN), "string", text("-9223372036854775808")),
        (json!("double"), Value::Double(0.1), "string", text("0.1")),
        (decimal(3), unscaled(-5), "string", text("-0.005")),
        (json!("bytes"), Value::Bytes(b"abc".to_vec()), "string", text("abc")),
        (logical("int", "date"), Value::Date(19_782), "string", text("2024-02-29")),
        (logical("long", "timestamp-micros"), Value::TimestampMicros(-1), "string", text("1969-12-31T23:59:59.999999Z")),
        (logical("long", "local-timestamp-millis"), Value::LocalTimestampMillis(1), "string", text("1970-01-01T00:00:00.001")),
        (logical("int", "time-millis"), Value::TimeMillis(1), "string", text("00:00:00.001")),
        (json!("string"), text("abc"), "bytes", Value::Bytes(b"abc".to_vec())),
        (json!("string"), text("AQI="), "bytes from base64", Value::Bytes(vec![1, 2])),
        (json!("string"), text("01fF"), "bytes from hex", Value::Bytes(vec![1, 255])),
        (json!("string"), text("2024-02-29"), "date", Value::Date(19_782)),
        (json!("int"), Value::Int(19_782), "date from days", Value::Date(19_782)),
        (logical("long", "timestamp-millis"), Value::TimestampMillis(-1), "date", Value::Date(-1)),
        (json!("string"), text("12:00:00.5"), "time-micros", Value::TimeMicros(43_200_500_000)),
        (json!("string"), text("2024-02-29T12:30:00.123+01:00"), "timestamp-millis", Value::TimestampMillis(1_709_206_200_123)),
        (json!("string"), text("2024-02-29 12:30:00"), "timestamp-micros", Value::TimestampMicros(1_709_209_800_000_000)),
        (json!("string"), text("2024-02-29T12:30:00"), "local-timestamp-millis", Value::LocalTimestampMillis(1_709_209_800_000)),
        (
            json!("long"),
            Value::Long(1_709_209_800_123_456_789),
            "timestamp-micros from nanos",
            Value::TimestampMicros(1_709_209_800_123_456),
        ),
        (json!("long"), Value::Long(-1), "timestamp-millis from nanos", Value::TimestampMillis(-1)),
        (json!("long"), Value::Long(5), "timestamp-millis from seconds", Value::TimestampMillis(5_000)),
        (logical("long", "timestamp-millis"), Value::TimestampMillis(5), "timestamp-nanos", Value::TimestampNanos(5_000_000)),
        (logical("long", "timestamp-millis"), Value::TimestampMillis(5), "long", Value::Long(5)),
        (logical("int", "date"), Value::Date(1), "timestamp-millis", Value::TimestampMillis(86_400_000)),
        (json!("string"), text(uuid), "uuid", Value::Uuid(uuid.parse().unwrap())),
        (json!("string"), text(uuid_bytes), "uuid from base64", Value::Uuid(uuid.parse().unwrap())),
        (json!("string"), text("12.5"), "decimal(7,2)", unscaled(1250)),
        (json!("long"), Value::Long(-7), "decimal(3,2)", unscaled(-700)),
        (json!("double"), Value::Double(0.1), "decimal(2,1)", unscaled(1)),
        (decimal(4), unscaled(12_500), "decimal(3,2)", unscaled(125)),
        (json!("string"), text("BNI="), "decimal(7,2) from base64", unscaled(1234)),
        (json!("string"), text("-99999999999999999999999999999999999999"), "decimal(38)", unscaled(-(10_i128.pow(38) - 1))),
        (json!("string"), text("a\"b"), "json", text(r#""a\"b""#)),
        (json!({ "type": "array", "items": "int" }), Value::Array(vec![Value::Int(1), Value::Int(2)]), "json", text("[1,2]")),
        (
            json!({ "type": "map", "values": ["null", decimal(2)] }),
            Value::Map([("k".to_owned(), Value::Union(1, Box::new(unscaled(150))))].into()),
            "json",
            text(r#"{"k":"1.50"}"#),
        ),
    ];
    for (of, value, to, expected) in cases {
        assert_eq!(cast_one(&of, value, to), Ok(expected), "{of} to {to}");
    }
}

#[test]
fn what_does_not_fit_gives_the_record_up() {
    let cases: Vec<(Json, Value, &str, &str)> = vec![
        (json!("long"), Value::Long(1 << 31), "int", "2147483648 does not fit int"),
        (json!("double"), Value::Double(0.5), "long", "0.5 does not fit long"),
        (json!("double"), Value::Double(f64::NAN), "long", "NaN does not fit long"),
        (json!("double"), Value::Double(1e300), "float", "1e300 does not fit float"),
        (json!("long"), Value::Long((1 << 53) + 1), "double", "9007199254740993 does not fit double"),
        (json!("long"), Value::Long(i64::MAX), "double", "9223372036854775807 does not fit double"),
        (json!("string"), text("12a"), "long", "the text \"12a\" does not fit long"),
        (json!("string"), text("NaN"), "double", "the text \"NaN\" does not fit double"),
        (json!("int"), Value::Int(2), "boolean", "2 does not fit boolean"),
        (decimal(3), unscaled(1), "decimal(20,2)", "0.001 does not fit decimal(20,2)"),
        (json!("int"), Value::Int(1000), "decimal(3,0)", "1000 does not fit decimal(3,0)"),
        (json!("string"), text("1e99"), "decimal(38,2)", "the text \"1e99\" does not fit decimal(38,2)"),
        (json!("bytes"), Value::Bytes(vec![0xff]), "string", "the bytes \"/w==\" does not fit string"),
        (json!("string"), text("2024-02-30"), "date", "the text \"2024-02-30\" does not fit date"),
        (json!("string"), text("x"), "uuid", "the text \"x\" does not fit uuid"),
        (json!("string"), text("24:00:01"), "time-millis", "the text \"24:00:01\" does not fit time-millis"),
        (json!("long"), Value::Long(i64::MAX), "timestamp-nanos from millis", "9223372036854775807 does not fit timestamp-nanos"),
        (
            json!("long"),
            Value::Long(1),
            "timestamp-millis",
            "an integer has no unit: say which, for example \"timestamp-millis from millis\"",
        ),
        (
            json!({ "type": "array", "items": "int" }),
            Value::Array(vec![]),
            "string",
            "a record, array or map does not fit string; json takes it",
        ),
    ];
    for (of, value, to, message) in cases {
        assert_eq!(cast_one(&of, value, to), Err(format!("\"a\": {message}")), "{of} to {to}");
    }
}

#[test]
fn null_stays_null_and_branches_of_a_union_are_cast_each() {
    let of = json!(["int", "null", "string"]);
    let union = |branch, value| Value::Union(branch, Box::new(value));
    assert_eq!(cast_one(&of, union(1, Value::Null), "long"), Ok(union(0, Value::Null)));
    assert_eq!(cast_one(&of, union(0, Value::Int(5)), "long"), Ok(union(1, Value::Long(5))));
    assert_eq!(cast_one(&of, union(2, text("5")), "long"), Ok(union(1, Value::Long(5))));
}

#[test]
fn types_that_stand_in_connects_names_only_are_known() {
    let debezium = json!({ "type": "long", "connect.name": "io.debezium.time.MicroTimestamp" });
    assert_eq!(cast_one(&debezium, Value::Long(1_500), "timestamp-millis"), Ok(Value::TimestampMillis(1)));
    let date = json!({ "type": "int", "connect.name": "io.debezium.time.Date" });
    assert_eq!(cast_one(&date, Value::Int(1), "string"), Ok(text("1970-01-02")));
}
