//! Values: records' keys and values in their wire form, and the ways to read them.
//!
//! Invariant (I9): bytes from outside never make this panic, recurse without bound or loop longer than they are: every length is checked
//! against what is left, and what is wrong is a [`DecodeError`] that names the field.

pub mod arrow;
mod avro;
mod cbor;
mod encode;
mod json;
mod pick;
mod plain;
pub mod project;
pub mod schema;
mod text;
mod walk;

pub use arrow::{Appender, Rows, Unfit, table_fields};
pub use encode::{Encoder, Misfit};
pub use json::{BytesAs, DecimalAs, JsonOptions, TimeAs};
pub use pick::{Picked, pick};
pub use plain::{PlainBytes, PlainOptions, write_plain_cbor};
pub use project::{Column, Columns, Kind, Projection, Wanted};
pub use schema::{Found, Schema, SchemaError};

use walk::Events;

/// How bytes are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// As they are.
    Raw,
    /// JSON text (RFC 8259).
    Json,
    /// A CBOR item (RFC 8949).
    Cbor,
    /// Avro binary under a schema (Avro 1.12).
    Avro,
}

/// A key or a value in its wire form, without the registry's prefix.
#[derive(Debug, Clone, Copy)]
pub struct Value<'a> {
    /// How to read the bytes.
    pub format: Format,
    /// Their schema, where they have one; Avro cannot be read without.
    pub schema: Option<&'a Schema>,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// Deepest nesting that is read: of records, arrays, maps and unions within each other.
pub const DEPTH_MAX: usize = 128;

/// Most parts of a value that take no bytes (nulls, empty records), beside one for each byte; all others are bounded by the bytes there are.
pub const EMPTY_ITEMS_MAX: usize = 1 << 16;

/// Largest scale of a decimal, and smallest: more digits than that are an attack, not a number.
const SCALE_MAX: u64 = 1_000;

/// Most bytes of the unscaled value of a decimal: writing its digits takes the square of that.
const DECIMAL_BYTES_MAX: usize = 4096;

/// Bytes that are not what their format and schema say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason} at byte {at}", if .field.is_empty() { String::new() } else { format!("field {:?}: ", .field) })]
pub struct DecodeError {
    /// Path of the field, joined by dots; empty: the whole value.
    pub field: String,
    /// Offset in the value's bytes.
    pub at: usize,
    /// What is wrong.
    pub reason: String,
}

impl DecodeError {
    fn new(at: usize, reason: impl Into<String>) -> Self {
        DecodeError { field: String::new(), at, reason: reason.into() }
    }

    fn within(mut self, name: &str) -> Self {
        self.field = if self.field.is_empty() { name.to_owned() } else { format!("{name}.{}", self.field) };
        self
    }
}

/// Drives `events` by the whole of a value.
fn walk(value: Value<'_>, events: &mut impl Events) -> Result<(), DecodeError> {
    match value.format {
        Format::Raw => {
            events.raw(value.bytes);
            Ok(())
        }
        Format::Json => json::walk(value.bytes, events),
        Format::Cbor => cbor::walk(value.bytes, events),
        Format::Avro => avro::walk(avro_schema(value)?, value.bytes, events),
    }
}

fn avro_schema(value: Value<'_>) -> Result<&Schema, DecodeError> {
    value.schema.filter(|schema| schema.is_avro()).ok_or_else(|| DecodeError::new(0, "Avro without a schema"))
}

/// Appends a value as compact JSON text. JSON goes through as it is, once it is found to be valid.
///
/// # Errors
/// Where the bytes are not what format and schema say; `out` is as it was then.
pub fn write_json(value: Value<'_>, options: &JsonOptions, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let length = out.len();
    let written = match value.format {
        Format::Json => json::check(value.bytes).map(|()| out.extend_from_slice(value.bytes)),
        _ => walk(value, &mut json::Writer::new(out, options)),
    };
    if written.is_err() {
        out.truncate(length);
    }
    written
}

/// Appends a value as one CBOR item: decimals with tag 4, dates tag 100, timestamps tag 1001 with their unit, uuids tag 37.
///
/// # Errors
/// Where the bytes are not what format and schema say; `out` is as it was then.
pub fn write_cbor(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let length = out.len();
    let written = match value.format {
        Format::Cbor => walk(value, &mut walk::Nothing).map(|()| out.extend_from_slice(value.bytes)),
        _ => walk(value, &mut cbor::Writer::new(out)),
    };
    if written.is_err() {
        out.truncate(length);
    }
    written
}

/// Reads all of a value and keeps nothing.
///
/// # Errors
/// Where the bytes are not what format and schema say.
pub fn validate(value: Value<'_>) -> Result<(), DecodeError> {
    walk(value, &mut walk::Nothing)
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
