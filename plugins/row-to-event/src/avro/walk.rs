//! Values under their schema: passing over them, reading single ones, and writing what is nested as JSON text.
//!
//! Invariant: no recursion or loop is longer than the bytes are, nesting has a bound.

use std::borrow::Cow;

use super::schema::{DEPTH_MAX, Logical, NodeId, Schema, Shape};
use super::wire::{Broken, Cursor};
use crate::scalar::{Scalar, json_text};

/// Most items of arrays that take no bytes each (nulls, empty records).
const EMPTY_ITEMS_MAX: usize = 1 << 16;

/// Passes over one value.
pub fn skip(schema: &Schema, at: NodeId, cursor: &mut Cursor<'_>, depth: usize) -> Result<(), Broken> {
    match &schema.nodes[at].shape {
        Shape::Null => Ok(()),
        Shape::Boolean => cursor.take(1).map(drop),
        Shape::Int | Shape::Long | Shape::Enum(_) => cursor.long().map(drop),
        Shape::Float => cursor.take(4).map(drop),
        Shape::Double => cursor.take(8).map(drop),
        Shape::Bytes | Shape::String => cursor.bytes().map(drop),
        Shape::Fixed(size) => cursor.take(*size).map(drop),
        _ if depth > DEPTH_MAX => Err(cursor.broken("it nests too deep")),
        Shape::Union(branches) => {
            let branch = cursor.index(branches.len())?;
            skip(schema, branches[branch], cursor, depth + 1)
        }
        Shape::Record(fields) => fields.iter().try_for_each(|field| skip(schema, field.node, cursor, depth + 1)),
        Shape::Array(item) => blocks(cursor, |cursor| skip(schema, *item, cursor, depth + 1)),
        Shape::Map(value) => blocks(cursor, |cursor| {
            cursor.bytes()?;
            skip(schema, *value, cursor, depth + 1)
        }),
    }
}

/// Reads the items of an array or the entries of a map.
fn blocks<'a>(cursor: &mut Cursor<'a>, mut item: impl FnMut(&mut Cursor<'a>) -> Result<(), Broken>) -> Result<(), Broken> {
    let mut empty = 0;
    loop {
        let count = cursor.long()?;
        if count == 0 {
            return Ok(());
        }
        if count < 0 {
            // The writer says how many bytes the block has.
            cursor.long()?;
        }
        for _ in 0..count.unsigned_abs() {
            let start = cursor.at();
            item(cursor)?;
            empty += usize::from(cursor.at() == start);
            if empty > EMPTY_ITEMS_MAX {
                return Err(cursor.broken("an array has too many items without bytes"));
            }
        }
    }
}

/// Reads a value of any branch; what is nested becomes JSON text where `nested` asks for it, and empty text otherwise.
pub fn scalar<'a>(schema: &'a Schema, at: NodeId, cursor: &mut Cursor<'a>, nested: bool, depth: usize) -> Result<Scalar<'a>, Broken> {
    let node = &schema.nodes[at];
    Ok(match (&node.shape, node.logical) {
        (Shape::Null, _) => Scalar::Null,
        (Shape::Boolean, _) => Scalar::Bool(cursor.take(1)?[0] != 0),
        (Shape::Int | Shape::Long, logical) => with_meaning(cursor.long()?, logical),
        (Shape::Float, _) => Scalar::Float(f32::from_le_bytes(array(cursor.take(4)?))),
        (Shape::Double, _) => Scalar::Double(f64::from_le_bytes(array(cursor.take(8)?))),
        (Shape::Bytes, Logical::BigDecimal) => {
            let mut inner = Cursor::new(cursor.bytes()?);
            let unscaled = inner.bytes()?;
            let scale = inner.long()?;
            Scalar::Decimal(Cow::Borrowed(unscaled), scale)
        }
        (Shape::Bytes, Logical::Decimal(scale)) => Scalar::Decimal(Cow::Borrowed(cursor.bytes()?), scale),
        (Shape::Bytes, _) => Scalar::Bytes(Cow::Borrowed(cursor.bytes()?)),
        (Shape::String, _) => {
            let bytes = cursor.bytes()?;
            Scalar::Text(Cow::Borrowed(std::str::from_utf8(bytes).map_err(|_| cursor.broken("a text is not UTF-8"))?))
        }
        (Shape::Fixed(size), Logical::Decimal(scale)) => Scalar::Decimal(Cow::Borrowed(cursor.take(*size)?), scale),
        (Shape::Fixed(_), Logical::Uuid) => Scalar::Uuid(array(cursor.take(16)?)),
        (Shape::Fixed(_), Logical::Duration) => {
            let bytes = cursor.take(12)?;
            let part = |from: usize| u32::from_le_bytes(array(&bytes[from..from + 4]));
            Scalar::Duration(part(0), part(4), part(8))
        }
        (Shape::Fixed(size), _) => Scalar::Bytes(Cow::Borrowed(cursor.take(*size)?)),
        (Shape::Enum(symbols), _) => Scalar::Text(Cow::Borrowed(&symbols[cursor.index(symbols.len())?])),
        (Shape::Union(branches), _) => {
            if depth > DEPTH_MAX {
                return Err(cursor.broken("it nests too deep"));
            }
            let branch = cursor.index(branches.len())?;
            return scalar(schema, branches[branch], cursor, nested, depth + 1);
        }
        (Shape::Array(_) | Shape::Map(_) | Shape::Record(_), _) => {
            let mut text = String::new();
            match nested {
                true => write_json(schema, at, cursor, depth, &mut text)?,
                false => skip(schema, at, cursor, depth)?,
            }
            Scalar::Nested(Cow::Owned(text))
        }
    })
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("as many bytes were taken")
}

fn with_meaning<'a>(value: i64, logical: Logical) -> Scalar<'a> {
    match logical {
        Logical::Date => Scalar::Date(value),
        Logical::Time(unit) => Scalar::Time(value, unit),
        Logical::Timestamp(unit, utc) => Scalar::Timestamp(value, unit, utc),
        _ => Scalar::Int(value),
    }
}

fn write_json<'a>(schema: &'a Schema, at: NodeId, cursor: &mut Cursor<'a>, depth: usize, out: &mut String) -> Result<(), Broken> {
    if depth > DEPTH_MAX {
        return Err(cursor.broken("it nests too deep"));
    }
    match &schema.nodes[at].shape {
        Shape::Union(branches) => {
            let branch = cursor.index(branches.len())?;
            write_json(schema, branches[branch], cursor, depth + 1, out)?;
        }
        Shape::Record(fields) => {
            let mut separator = '{';
            for field in fields {
                name(std::mem::replace(&mut separator, ','), &field.name, out);
                write_json(schema, field.node, cursor, depth + 1, out)?;
            }
            out.push_str(if fields.is_empty() { "{}" } else { "}" });
        }
        Shape::Array(item) => {
            let start = out.len();
            blocks(cursor, |cursor| {
                out.push(if out.len() == start { '[' } else { ',' });
                write_json(schema, *item, cursor, depth + 1, out)
            })?;
            out.push_str(if out.len() == start { "[]" } else { "]" });
        }
        Shape::Map(value) => {
            let start = out.len();
            blocks(cursor, |cursor| {
                let key = std::str::from_utf8(cursor.bytes()?).map_err(|_| cursor.broken("a text is not UTF-8"))?;
                name(if out.len() == start { '{' } else { ',' }, key, out);
                write_json(schema, *value, cursor, depth + 1, out)
            })?;
            out.push_str(if out.len() == start { "{}" } else { "}" });
        }
        _ => out.push_str(&json_text(&scalar(schema, at, cursor, false, depth)?)),
    }
    Ok(())
}

fn name(separator: char, name: &str, out: &mut String) {
    out.push(separator);
    out.push_str(&serde_json::Value::from(name).to_string());
    out.push(':');
}
