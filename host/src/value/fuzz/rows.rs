//! Rows of JSON in tables of any columns: a row is there whole or not at all, and the batch can always be built.

use std::sync::Arc;

use ::arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use serde_json::{Value as Json, json};

use super::*;
use crate::fuzz::{self, Choices};

#[test]
fn any_row_of_json_is_in_the_batch_or_refused() {
    fuzz::run("rows of tables", |choices| {
        let fields: Vec<FieldRef> = (0..1 + choices.below(4)).map(|index| Arc::new(field(&format!("f{index}"), 2, choices))).collect();
        choices.show("columns", &fields);
        let mut rows = Rows::new(&fields).map_err(|error| error.to_string())?;
        let mut kept = 0;
        for _ in 0..1 + choices.below(4) {
            let mut row = Json::Object(fields.iter().map(|field| (field.name().clone(), value(field.data_type(), choices))).collect());
            if choices.once_in(4) {
                row.as_object_mut().unwrap().remove("f0");
            }
            let text = row.to_string();
            choices.show("row", &text);
            kept +=
                usize::from(rows.append(&Appender::json(), Value { format: Format::Json, schema: None, bytes: text.as_bytes() }).is_ok());
        }
        let batch = rows.finish().map_err(|error| format!("as a batch: {error}"))?;
        if batch.num_rows() == kept { Ok(()) } else { Err(format!("{} rows of {kept}", batch.num_rows())) }
    });
}

fn field(name: &str, depth: usize, choices: &mut Choices) -> Field {
    let kinds = if depth == 0 { 10 } else { 13 };
    let data_type = match choices.below(kinds) {
        0 => DataType::Int64,
        1 => DataType::Int32,
        2 => DataType::Boolean,
        3 => DataType::Float32,
        4 => DataType::Float64,
        5 => DataType::Date32,
        6 => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        7 => {
            let precision = 1 + choices.below(38) as u8;
            DataType::Decimal128(precision, choices.below(usize::from(precision) + 1) as i8)
        }
        8 => DataType::Utf8,
        9 => DataType::Binary,
        10 => DataType::Struct((0..1 + choices.below(2)).map(|index| field(&format!("s{index}"), depth - 1, choices)).collect()),
        11 => DataType::List(Arc::new(field("element", depth - 1, choices))),
        _ => {
            let entries = vec![Field::new("key", DataType::Utf8, false), field("value", depth - 1, choices)];
            DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entries.into()), false)), false)
        }
    };
    Field::new(name, data_type, !choices.once_in(3))
}

/// Mostly of the column's type.
fn value(data_type: &DataType, choices: &mut Choices) -> Json {
    if choices.once_in(8) {
        return any(choices);
    }
    match data_type {
        DataType::Int64 | DataType::Int32 => choices.number().into(),
        DataType::Boolean => choices.once_in(2).into(),
        DataType::Float32 | DataType::Float64 => choices.pick(&[json!(0.5), json!(1), json!(1e300), json!(-0.0), json!(1e39)]).clone(),
        DataType::Date32 => {
            choices.pick(&[json!("2024-02-29"), json!("+262142-12-31"), json!("-262143-01-01"), json!("2024-02-30")]).clone()
        }
        DataType::Timestamp(..) => {
            let texts = ["2024-02-29T12:30:00Z", "9999-12-31T23:59:60.999999999+14:00", "0000-01-01T00:00:00-23:59"];
            if choices.once_in(2) { choices.number().into() } else { (*choices.pick(&texts)).into() }
        }
        DataType::Decimal128(..) => match choices.below(3) {
            0 => choices.number().into(),
            1 => digits(choices).into(),
            _ => json!(1.5),
        },
        DataType::Struct(fields) => {
            Json::Object(fields.iter().map(|field| (field.name().clone(), value(field.data_type(), choices))).collect())
        }
        DataType::List(item) => (0..choices.below(3)).map(|_| value(item.data_type(), choices)).collect(),
        DataType::Map(entries, _) => {
            let DataType::Struct(fields) = entries.data_type() else { return Json::Null };
            Json::Object((0..choices.below(3)).map(|_| (choices.text(2), value(fields[1].data_type(), choices))).collect())
        }
        _ => choices.text(5).into(),
    }
}

fn digits(choices: &mut Choices) -> String {
    const PARTS: &[&str] =
        &["0", "1", "9", ".", "-", "+", "e", "E", "99999999999999999999", "9223372036854775807", "9223372036854775808", " "];
    (0..choices.below(6)).map(|_| *choices.pick(PARTS)).collect()
}

fn any(choices: &mut Choices) -> Json {
    choices
        .pick(&[
            Json::Null,
            json!({}),
            json!([]),
            json!(true),
            json!("x"),
            json!(1),
            json!({"s0": null}),
            json!([null]),
            json!(18_446_744_073_709_551_615_u64),
        ])
        .clone()
}
