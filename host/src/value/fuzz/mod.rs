//! Values of every format, made at random and damaged, against independent readers of the same bytes.

mod apache;
mod avro;
mod cbor;
mod encode;
mod found;
mod json;
mod rows;
mod schemas;
mod tables;

use serde_json::Value as Json;

use super::*;

/// What a value may hold beyond a constant, for each of its bytes: a decimal of some bytes has [`avro::SCALE_MAX`] digits as text.
///
/// [`avro::SCALE_MAX`]: super::avro
const HELD_PER_BYTE: usize = 1024;
/// What any value may hold: the names of items that take no bytes.
const HELD: usize = 16 << 20;

/// As JSON, with times as numbers.
fn to_json(value: Value<'_>) -> Result<Json, String> {
    let mut text = Vec::new();
    let options = JsonOptions { time: TimeAs::Number, ..JsonOptions::default() };
    write_json(value, &options, &mut text).map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|error| format!("wrote what is no JSON: {error}: {}", String::from_utf8_lossy(&text)))
}

/// Reads and writes a value in every way: no way panics or holds too much, and all agree on whether it can be read.
fn in_every_way(value: Value<'_>) -> Result<bool, String> {
    let (held, valid) = crate::fuzz::holding(|| {
        let valid = validate(value);
        let (mut json, mut cbor) = (Vec::new(), Vec::new());
        let options = JsonOptions { time: TimeAs::Iso, decimal: DecimalAs::Number, bytes: BytesAs::Hex };
        let written = write_json(value, &options, &mut json);
        if written.is_ok() != valid.is_ok() {
            return Err(format!("as JSON {written:?}, validated {valid:?}"));
        }
        let written = write_cbor(value, &mut cbor);
        if written.is_ok() != valid.is_ok() {
            return Err(format!("as CBOR {written:?}, validated {valid:?}"));
        }
        if valid.is_err() && !(json.is_empty() && cbor.is_empty()) {
            return Err("left something behind".to_owned());
        }
        Ok(valid.is_ok())
    });
    let max = HELD + HELD_PER_BYTE * value.bytes.len();
    if held > max { Err(format!("held {held} bytes for a value of {}", value.bytes.len())) } else { valid }
}

/// The only row of a column, as JSON with times as numbers; `None`: missing.
fn cell(column: &Column) -> Result<Option<Json>, String> {
    use base64::Engine as _;
    let is = |positions: &Option<Vec<u32>>| positions.as_ref().is_some_and(|positions| positions == &[0]);
    let number = |number: Json, nulls: &Option<Vec<u32>>, missing: &Option<Vec<u32>>| match (is(missing), is(nulls)) {
        (true, _) => None,
        (_, true) => Some(Json::Null),
        _ => Some(number),
    };
    Ok(match column {
        Column::Integers(column) | Column::Dates(column) | Column::Times(column) | Column::Timestamps(column) => {
            number(column.values[0].into(), &column.nulls, &column.missing)
        }
        Column::Floats(column) => number(apache::float(column.values[0]), &column.nulls, &column.missing),
        Column::Booleans(values) => match values[0] {
            3 => None,
            2 => Some(Json::Null),
            value => Some(Json::Bool(value == 1)),
        },
        Column::Texts(bytes) | Column::Decimals(bytes) | Column::Binaries(bytes) | Column::Documents(bytes) => {
            if is(&bytes.missing) {
                None
            } else if is(&bytes.nulls) {
                Some(Json::Null)
            } else if let Column::Documents(_) = column {
                Some(to_json(Value { format: Format::Cbor, schema: None, bytes: &bytes.data })?)
            } else if let Column::Binaries(_) = column {
                Some(base64::engine::general_purpose::STANDARD.encode(&bytes.data).into())
            } else {
                Some(std::str::from_utf8(&bytes.data).map_err(|error| error.to_string())?.into())
            }
        }
    })
}
