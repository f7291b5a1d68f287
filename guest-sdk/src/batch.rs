//! A batch as a plugin reads it: columns that were planned, and positions.

use crate::bindings::anabranch::plugin::types as wit;
use crate::plan::{
    BinaryField, BooleanField, DateField, DecimalField, DocumentField, FloatField, Header, IntegerField, TextField, TimeField,
    TimestampField,
};

/// Records of one topic, in the order of each partition.
#[derive(Debug, Clone)]
pub struct Batch(wit::Batch);

/// A column of byte strings.
#[derive(Debug, Clone, Copy)]
pub struct BinaryColumn<'a>(&'a wit::BytesColumn);

/// A column of texts.
#[derive(Debug, Clone, Copy)]
pub struct TextColumn<'a>(BinaryColumn<'a>);

/// A column of integers.
#[derive(Debug, Clone, Copy)]
pub struct IntegerColumn<'a>(&'a wit::IntegerColumn);

/// A column of floats.
#[derive(Debug, Clone, Copy)]
pub struct FloatColumn<'a>(&'a wit::FloatColumn);

/// A column of booleans.
#[derive(Debug, Clone, Copy)]
pub struct BooleanColumn<'a>(&'a Vec<u8>);

fn marked(positions: Option<&Vec<u32>>, row: usize) -> bool {
    positions.is_some_and(|positions| positions.binary_search(&(row as u32)).is_ok())
}

impl<'a> BinaryColumn<'a> {
    /// The entry of a row; `None`: null, or not there.
    pub fn get(self, row: usize) -> Option<&'a [u8]> {
        let start = if row == 0 { 0 } else { self.0.ends[row - 1] as usize };
        let end = self.0.ends[row] as usize;
        // Only an empty entry can be null or missing.
        if start == end && (marked(self.0.nulls.as_ref(), row) || marked(self.0.missing.as_ref(), row)) {
            return None;
        }
        Some(&self.0.data[start..end])
    }

    /// Whether the record has no such field.
    pub fn is_missing(self, row: usize) -> bool {
        marked(self.0.missing.as_ref(), row)
    }
}

impl<'a> TextColumn<'a> {
    /// The entry of a row; `None`: null, or not there.
    pub fn get(self, row: usize) -> Option<&'a str> {
        self.0.get(row).map(|bytes| std::str::from_utf8(bytes).expect("the host passes UTF-8 only"))
    }

    /// Whether the record has no such field.
    pub fn is_missing(self, row: usize) -> bool {
        self.0.is_missing(row)
    }
}

impl IntegerColumn<'_> {
    /// The entry of a row; `None`: null, or not there.
    pub fn get(self, row: usize) -> Option<i64> {
        let value = self.0.values[row];
        let absent = value == 0 && (marked(self.0.nulls.as_ref(), row) || marked(self.0.missing.as_ref(), row));
        (!absent).then_some(value)
    }

    /// Whether the record has no such field.
    pub fn is_missing(self, row: usize) -> bool {
        marked(self.0.missing.as_ref(), row)
    }
}

impl FloatColumn<'_> {
    /// The entry of a row; `None`: null, or not there.
    pub fn get(self, row: usize) -> Option<f64> {
        let value = self.0.values[row];
        let absent = value == 0.0 && (marked(self.0.nulls.as_ref(), row) || marked(self.0.missing.as_ref(), row));
        (!absent).then_some(value)
    }

    /// Whether the record has no such field.
    pub fn is_missing(self, row: usize) -> bool {
        marked(self.0.missing.as_ref(), row)
    }
}

impl BooleanColumn<'_> {
    /// The entry of a row; `None`: null, or not there.
    pub fn get(self, row: usize) -> Option<bool> {
        match self.0[row] {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    /// Whether the record has no such field.
    pub fn is_missing(self, row: usize) -> bool {
        self.0[row] == 3
    }
}

macro_rules! columns {
    ($($(#[$doc:meta])* $method:ident, $field:ty, $variant:ident, $column:ty, $wrap:expr;)*) => {
        $(
            $(#[$doc])*
            pub fn $method(&self, field: $field) -> $column {
                match &self.0.fields[field.index()] {
                    wit::Column::$variant(column) => $wrap(column),
                    _ => panic!("the host fills column {} as it was planned", field.index()),
                }
            }
        )*
    };
}

impl Batch {
    pub(crate) fn new(batch: wit::Batch) -> Self {
        Batch(batch)
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.0.offsets.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.offsets.is_empty()
    }

    /// Name of the topic.
    pub fn topic(&self) -> &str {
        &self.0.topic
    }

    /// Partition of a record.
    pub fn partition(&self, row: usize) -> u32 {
        number(&self.0.partitions, row)
    }

    /// Offset of a record.
    pub fn offset(&self, row: usize) -> i64 {
        self.0.offsets[row]
    }

    /// Timestamp of a record, milliseconds since 1970-01-01T00:00Z; -1: none.
    pub fn timestamp(&self, row: usize) -> i64 {
        self.0.timestamps[row]
    }

    /// Handle of the schema of a record's key; 0: none.
    pub fn key_schema(&self, row: usize) -> u32 {
        number(&self.0.key_schemas, row)
    }

    /// Handle of the schema of a record's value; 0: none.
    pub fn value_schema(&self, row: usize) -> u32 {
        number(&self.0.value_schemas, row)
    }

    /// The whole key of a record, if keys were planned; `None`: no key.
    pub fn key(&self, row: usize) -> Option<&[u8]> {
        BinaryColumn(self.0.keys.as_ref()?).get(row)
    }

    /// The whole value of a record, if values were planned; `None`: a tombstone.
    pub fn value(&self, row: usize) -> Option<&[u8]> {
        BinaryColumn(self.0.values.as_ref()?).get(row)
    }

    /// A header of a record; `None`: it has none of that name, or a null.
    pub fn header(&self, header: Header, row: usize) -> Option<&[u8]> {
        BinaryColumn(&self.0.headers[header.0]).get(row)
    }

    columns! {
        /// A planned column.
        texts, TextField, Texts, TextColumn<'_>, |column| TextColumn(BinaryColumn(column));
        /// A planned column.
        integers, IntegerField, Integers, IntegerColumn<'_>, IntegerColumn;
        /// A planned column.
        floats, FloatField, Floats, FloatColumn<'_>, FloatColumn;
        /// A planned column.
        booleans, BooleanField, Booleans, BooleanColumn<'_>, BooleanColumn;
        /// A planned column.
        binaries, BinaryField, Binaries, BinaryColumn<'_>, BinaryColumn;
        /// A planned column: days since 1970-01-01.
        dates, DateField, Dates, IntegerColumn<'_>, IntegerColumn;
        /// A planned column: microseconds since midnight.
        times, TimeField, Times, IntegerColumn<'_>, IntegerColumn;
        /// A planned column: microseconds since 1970-01-01T00:00Z.
        timestamps, TimestampField, Timestamps, IntegerColumn<'_>, IntegerColumn;
        /// A planned column: exact decimal text.
        decimals, DecimalField, Decimals, TextColumn<'_>, |column| TextColumn(BinaryColumn(column));
        /// A planned column: CBOR items.
        documents, DocumentField, Documents, BinaryColumn<'_>, BinaryColumn;
    }
}

fn number(numbers: &wit::Numbers, row: usize) -> u32 {
    match numbers {
        wit::Numbers::All(number) => *number,
        wit::Numbers::Each(numbers) => numbers[row],
    }
}
