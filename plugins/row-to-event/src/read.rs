//! Reading single values: out of the row, of the record around it, or joined of several.

use std::borrow::Cow;

use anabranch_guest::{Batch, now_ms};

use crate::scalar::{self, Plain, Scalar};
use crate::shape::{Outside, Read};
use crate::types::{Cast, Type, Unit};

/// Why a record is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The reject's code.
    pub code: &'static str,
    pub message: String,
}

impl Fault {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Fault { code, message: message.into() }
    }

    /// A column that the configuration names, and the row has not.
    pub fn no_column(path: &[String]) -> Self {
        Fault::new("no-column", format!("the row has no column {:?}; missing = \"leave-out\" lets such rows pass", path.join(".")))
    }
}

/// A row that columns can be read of.
pub trait Lookup<C> {
    /// The value of a column; `nested`: what is no single value as JSON text.
    ///
    /// # Errors
    /// Where the row is broken, or must have the column and has not.
    fn scalar<'s>(&'s self, column: &'s C, nested: bool) -> Result<Scalar<'s>, Fault>;
}

/// A record of a batch.
#[derive(Clone, Copy)]
pub struct Record<'b> {
    pub batch: &'b Batch,
    pub row: usize,
}

/// One value of an event, made ready: how to read it and what it becomes.
#[derive(Debug, Clone)]
pub struct Filled<C> {
    /// For messages.
    pub name: String,
    pub read: Read<C>,
    pub cast: Cast,
    pub null: Null,
}

/// What a null means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Null {
    /// The event has a null there.
    Kept,
    /// There is none.
    Never,
    /// The record is given up.
    Refused,
}

impl<C> Filled<C> {
    /// The value for a record.
    ///
    /// # Errors
    /// Where it does not fit its type, or is null and must not.
    pub fn plain<'a>(&'a self, record: Record<'a>, row: &'a impl Lookup<C>) -> Result<Plain<'a>, Fault> {
        let plain = match &self.read {
            Read::Outside(Outside::Constant(plain, _)) => plain.clone(),
            read => {
                let value = value(read, record, row, self.cast.to == Type::Json)?;
                scalar::cast(&value, self.cast).map_err(|message| Fault::new("cast", format!("{:?}: {message}", self.name)))?
            }
        };
        if plain == Plain::Null && self.null != Null::Kept {
            return Err(Fault::new("null", format!("{:?} is null", self.name)));
        }
        Ok(plain)
    }

    /// Appends the value as Avro.
    ///
    /// # Errors
    /// As [`Filled::plain`].
    pub fn write_avro(&self, record: Record<'_>, row: &impl Lookup<C>, out: &mut Vec<u8>) -> Result<(), Fault> {
        let plain = self.plain(record, row)?;
        if self.null == Null::Kept {
            // The branches are null and the type, in this order.
            out.push(if plain == Plain::Null { 0 } else { 2 });
        }
        scalar::write_avro(&plain, self.cast.to, out);
        Ok(())
    }

    /// The value as the bytes of a record's key: text, and bytes as they are.
    ///
    /// # Errors
    /// As [`Filled::plain`].
    pub fn key_bytes(&self, record: Record<'_>, row: &impl Lookup<C>) -> Result<Vec<u8>, Fault> {
        let plain = self.plain(record, row)?;
        Ok(match plain.scalar(self.cast.to) {
            Scalar::Bytes(bytes) => bytes.into_owned(),
            scalar => scalar::as_text(&scalar).unwrap_or_else(|| Cow::Owned(scalar::json_text(&scalar))).into_owned().into_bytes(),
        })
    }
}

/// A value before its cast.
///
/// # Errors
/// Where it cannot be read.
pub fn value<'a, C>(read: &'a Read<C>, record: Record<'a>, row: &'a impl Lookup<C>, nested: bool) -> Result<Scalar<'a>, Fault> {
    match read {
        Read::Column(column) => row.scalar(column, nested),
        Read::Outside(of) => outside(of, record),
        Read::Concat(parts, separator) => {
            let mut joined = String::new();
            for (index, part) in parts.iter().enumerate() {
                let value = value(part, record, row, false)?;
                if value == Scalar::Null {
                    return Ok(Scalar::Null);
                }
                let text = scalar::cast(&value, Cast::to(Type::String)).map_err(|message| Fault::new("cast", message))?;
                if index > 0 {
                    joined.push_str(separator);
                }
                if let Plain::Text(text) = text {
                    escape(&text, separator, &mut joined);
                }
            }
            Ok(Scalar::Text(Cow::Owned(joined)))
        }
    }
}

/// A backslash stands before a separator or a backslash of the text itself, so that different parts never join to one text.
fn escape(text: &str, separator: &str, out: &mut String) {
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if first == '\\' || rest.starts_with(separator) {
            out.push('\\');
        }
        out.push(first);
        rest = &rest[first.len_utf8()..];
    }
}

fn outside<'a>(of: &'a Outside, record: Record<'a>) -> Result<Scalar<'a>, Fault> {
    let Record { batch, row } = record;
    Ok(match of {
        Outside::Constant(plain, of) => plain.scalar(*of),
        Outside::Topic => Scalar::Text(Cow::Borrowed(batch.topic())),
        Outside::Partition => Scalar::Int(batch.partition(row).into()),
        Outside::Offset => Scalar::Int(batch.offset(row)),
        Outside::Timestamp if batch.timestamp(row) < 0 => Scalar::Null,
        Outside::Timestamp => Scalar::Timestamp(batch.timestamp(row), Unit::Millis, true),
        Outside::Now => Scalar::Timestamp(now_ms() as i64, Unit::Millis, true),
        Outside::Key(field) => batch.texts(*field).get(row).map_or(Scalar::Null, |text| Scalar::Text(Cow::Borrowed(text))),
        Outside::Header(header) => match batch.header(*header, row) {
            None => Scalar::Null,
            Some(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Scalar::Text(Cow::Borrowed(text)),
                Err(_) => Scalar::Bytes(Cow::Borrowed(bytes)),
            },
        },
    })
}
