//! The table of conversions in `docs/diffusion.md`, made by converting.
//!
//! To renew it: `RENEW=1 cargo test -p anabranch the_page_shows_what_values_become`; read the diff before committing.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use apache_avro::types::Value as Avro;
use apache_avro::{Days, Duration, Millis, Months};

use crate::value::{DecimalAs, Format, PlainBytes, PlainOptions, Schema, TimeAs, Value, write_plain_cbor};

struct Case {
    /// What the record has.
    value: &'static str,
    /// Its Avro schema; JSON without one.
    schema: &'static str,
    avro: Avro,
    json: &'static str,
    options: PlainOptions,
    /// The options in the words of the configuration.
    with: &'static str,
    /// What the Diffusion Kafka connector makes of it.
    connector: &'static str,
}

fn avro(value: &'static str, schema: &'static str, avro: Avro, connector: &'static str) -> Case {
    Case { value, schema, avro, json: "", options: PlainOptions::default(), with: "", connector }
}

fn json(text: &'static str, connector: &'static str) -> Case {
    Case { value: "", schema: "", avro: Avro::Null, json: text, options: PlainOptions::default(), with: "", connector }
}

impl Case {
    fn with(self, with: &'static str, change: impl FnOnce(&mut PlainOptions)) -> Case {
        let mut options = PlainOptions::default();
        change(&mut options);
        Case { options, with, ..self }
    }

    fn row(&self) -> String {
        let mut cbor = Vec::new();
        let (value, bytes) = if self.schema.is_empty() {
            write_plain_cbor(Value { format: Format::Json, schema: None, bytes: self.json.as_bytes() }, &self.options, &mut cbor).unwrap();
            (format!("JSON `{}`", self.json), String::new())
        } else {
            let parsed = apache_avro::Schema::parse_str(self.schema).unwrap();
            let bytes = apache_avro::to_avro_datum(&parsed, self.avro.clone()).unwrap();
            let schema = Schema::avro(self.schema, &[]).unwrap();
            write_plain_cbor(Value { format: Format::Avro, schema: Some(&schema), bytes: &bytes }, &self.options, &mut cbor).unwrap();
            (self.value.to_owned(), String::new())
        };
        let with = if self.with.is_empty() { bytes } else { format!("`{}`", self.with) };
        let hex = cbor.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        format!("| {value} | {with} | `{}` | `{hex}` | {} |", minicbor::display(&cbor), self.connector)
    }
}

const DECIMAL: &str = r#"{"type":"bytes","logicalType":"decimal","precision":20,"scale":2}"#;
const WHOLE: &str = r#"{"type":"bytes","logicalType":"decimal","precision":20,"scale":0}"#;
const ORDER: &str = r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"long"},{"name":"note","type":["null","string"]},
    {"name":"tags","type":{"type":"array","items":"string"}}]}"#;

fn cases() -> Vec<Case> {
    let decimal = |schema, unscaled: &[u8]| avro("decimal 12.34", schema, Avro::Decimal(unscaled.to_vec().into()), "an error");
    let date = || avro("date 2024-02-29", r#"{"type":"int","logicalType":"date"}"#, Avro::Date(19_782), "days as a number");
    let at = || {
        let schema = r#"{"type":"long","logicalType":"timestamp-millis"}"#;
        avro("timestamp-millis", schema, Avro::TimestampMillis(1_709_209_800_123), "milliseconds as a number")
    };
    let micros = r#"{"type":"long","logicalType":"timestamp-micros"}"#;
    let time = r#"{"type":"int","logicalType":"time-millis"}"#;
    let bytes = || avro("bytes 00 ff", r#""bytes""#, Avro::Bytes(vec![0, 255]), "a byte string");
    let uuid = Avro::Uuid("550e8400-e29b-41d4-a716-446655440000".parse().unwrap());
    let order = Avro::Record(vec![
        ("id".into(), Avro::Long(7)),
        ("note".into(), Avro::Union(0, Box::new(Avro::Null))),
        ("tags".into(), Avro::Array(vec![Avro::String("x".into())])),
    ]);
    let counts = Avro::Map(HashMap::from([("a".to_owned(), Avro::Int(-3))]));
    let status = Avro::Enum(1, "PAID".into());
    let duration = Avro::Duration(Duration::new(Months::new(1), Days::new(2), Millis::new(3500)));
    vec![
        avro("null", r#""null""#, Avro::Null, "the same"),
        avro("boolean true", r#""boolean""#, Avro::Boolean(true), "the same"),
        avro("int 7", r#""int""#, Avro::Int(7), "the same"),
        avro("long 2^63 - 1", r#""long""#, Avro::Long(i64::MAX), "the same"),
        avro("float 0.1", r#""float""#, Avro::Float(0.1), "the same"),
        avro("double 0.1", r#""double""#, Avro::Double(0.1), "32 bits: digits are lost"),
        avro("string", r#""string""#, Avro::String("Köln".into()), "the same"),
        avro("enum", r#"{"type":"enum","name":"Status","symbols":["NEW","PAID"]}"#, status, "the same"),
        bytes(),
        bytes().with("bytes = \"hex\"", |options| options.bytes = PlainBytes::Hex),
        bytes().with("bytes = \"binary\"", |options| options.bytes = PlainBytes::Binary),
        decimal(DECIMAL, &[0x04, 0xd2]),
        decimal(DECIMAL, &[0x04, 0xd2]).with("decimal = \"number\"", |options| options.decimal = DecimalAs::Number),
        Case { value: "decimal 1234 of scale 0", ..decimal(WHOLE, &[0x04, 0xd2]) }
            .with("decimal = \"number\"", |options| options.decimal = DecimalAs::Number),
        decimal(DECIMAL, &[0x04, 0xd2]).with("decimal = \"base64\"", |options| options.decimal = DecimalAs::Base64),
        date(),
        date().with("time = \"number\"", |options| options.time = TimeAs::Number),
        at(),
        at().with("time = \"number\"", |options| options.time = TimeAs::Number),
        avro("timestamp-micros", micros, Avro::TimestampMicros(1_709_209_800_000_001), "microseconds as a number"),
        avro("time-millis", time, Avro::TimeMillis(45_000_500), "milliseconds as a number"),
        avro("uuid", r#"{"type":"string","logicalType":"uuid"}"#, uuid, "the same"),
        avro("duration", r#"{"type":"fixed","name":"D","size":12,"logicalType":"duration"}"#, duration, "a byte string"),
        avro("record", ORDER, order, "the same"),
        avro("map", r#"{"type":"map","values":"int"}"#, counts, "the same"),
        json("7", "the same"),
        json("1.5", "the same"),
        json("18446744073709551615", "not tried"),
        json(r#"{"a":[1,null,true,"x"]}"#, "the same"),
    ]
}

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/diffusion.md")
}

#[test]
fn the_page_shows_what_values_become() {
    const BEGIN: &str = "<!-- conversions -->\n";
    const END: &str = "<!-- end -->";
    let page_text = std::fs::read_to_string(page()).unwrap();
    let start = page_text.find(BEGIN).expect("the page has the table") + BEGIN.len();
    let end = start + page_text[start..].find(END).expect("the table has an end");
    let rows: Vec<String> = cases().iter().map(Case::row).collect();
    let head = "| record | `json` | on the topic | CBOR | the connector |\n| --- | --- | --- | --- | --- |\n";
    let table = format!("{head}{}\n", rows.join("\n"));
    if std::env::var_os("RENEW").is_some() {
        std::fs::write(page(), format!("{}{table}{}", &page_text[..start], &page_text[end..])).unwrap();
        return;
    }
    let differing = page_text[start..end].lines().zip(table.lines()).find(|(found, expected)| found != expected);
    assert!(page_text[start..end] == table, "renew docs/diffusion.md (see the top of this test); first difference: {differing:#?}");
}
