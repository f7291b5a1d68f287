//! Outputs: what plugins made of the records of one batch, each naming its input and carrying only what was set.
//!
//! Invariant: what is not set stays as it came in. Outputs are ordered by input, so a sink that writes them in turn keeps the
//! partition's order.

use std::sync::Arc;

use bytes::Bytes;

use crate::batch::Batch;
use crate::schemas::{Entry, Snapshot};
use crate::value::{Format, Value};

/// A range of one of the buffers that plugins handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text {
    /// Index into [`Outputs::buffers`].
    pub buffer: u32,
    /// First byte.
    pub start: u32,
    /// Behind the last byte.
    pub end: u32,
}

/// A key or a value of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// As the record came in.
    Input,
    /// No key; a tombstone.
    Null,
    /// What a plugin set.
    Set {
        /// Where the bytes are.
        at: Text,
        /// How to read them.
        format: Format,
        /// Handle of their schema, 0: none.
        schema: u32,
    },
}

/// What a record does to the row of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Change {
    /// A row of its own.
    #[default]
    Append = 0,
    /// The row is new.
    Create = 1,
    /// The row was read by a snapshot.
    Read = 2,
    /// The row has new contents.
    Update = 3,
    /// The row is gone.
    Delete = 4,
    /// All rows are gone.
    Truncate = 5,
    /// The row has these contents, whether it was there or not.
    Upsert = 6,
}

impl TryFrom<u8> for Change {
    type Error = u8;

    fn try_from(number: u8) -> Result<Self, u8> {
        use Change::*;
        [Append, Create, Read, Update, Delete, Truncate, Upsert].get(number as usize).copied().ok_or(number)
    }
}

/// A set of the route's sinks, by position in its `to`; at most [`SINKS_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinkSet(pub u64);

/// How many sinks a route may have.
pub const SINKS_MAX: usize = 64;

impl SinkSet {
    /// The first `count` sinks.
    pub fn first(count: usize) -> Self {
        SinkSet(if count >= SINKS_MAX { u64::MAX } else { (1 << count) - 1 })
    }

    /// Whether sink `index` is in the set.
    pub fn has(self, index: usize) -> bool {
        index < SINKS_MAX && self.0 & (1 << index) != 0
    }

    /// How many sinks are in the set.
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }
}

/// One output record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The record of the batch that it comes from.
    pub input: u32,
    /// Where it goes.
    pub sinks: SinkSet,
    /// What it does to its row.
    pub change: Change,
    /// Topic path, URL path, table or topic; `None`: the sink's default.
    pub destination: Option<Text>,
    /// Key.
    pub key: Cell,
    /// Value.
    pub value: Cell,
    /// Index into [`Outputs::header_edits`]; `None`: the headers are as they came in.
    pub headers: Option<u32>,
}

impl Output {
    /// The record as it came in, for the first `sinks` sinks.
    pub fn unchanged(input: u32, sinks: SinkSet) -> Self {
        Output { input, sinks, change: Change::Append, destination: None, key: Cell::Input, value: Cell::Input, headers: None }
    }
}

/// One header that a plugin set; `value: None` removes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderEdit {
    /// Name.
    pub name: Arc<str>,
    /// New value.
    pub value: Option<Text>,
}

/// The outputs of one batch.
#[derive(Debug)]
pub struct Outputs {
    /// The records as they came in.
    pub batch: Arc<Batch>,
    /// How the batch's keys and values are to be read.
    pub key_format: Format,
    /// See `key_format`.
    pub value_format: Format,
    /// The route's schemas when the batch was decided.
    pub schemas: Snapshot,
    /// What plugins handed over: set keys, values, destinations, headers.
    pub buffers: Vec<Bytes>,
    /// Edits of headers, for outputs that have any.
    pub header_edits: Vec<Vec<HeaderEdit>>,
    /// The outputs, ordered by input.
    pub list: Vec<Output>,
}

/// One output with what it takes to read it.
#[derive(Clone, Copy)]
pub struct View<'a> {
    outputs: &'a Outputs,
    /// Position in [`Outputs::list`].
    pub index: usize,
    output: &'a Output,
}

impl Outputs {
    /// All records as they came in.
    pub fn unchanged(batch: Arc<Batch>, formats: Formats, schemas: Snapshot, sinks: SinkSet) -> Self {
        let list = (0..batch.len() as u32).map(|input| Output::unchanged(input, sinks)).collect();
        Outputs {
            batch,
            key_format: formats.key,
            value_format: formats.value,
            schemas,
            buffers: Vec::new(),
            header_edits: Vec::new(),
            list,
        }
    }

    /// Output `index`. Panics where it is not below `list.len()`.
    pub fn view(&self, index: usize) -> View<'_> {
        View { outputs: self, index, output: &self.list[index] }
    }

    /// The bytes of a range that a plugin handed over.
    pub fn bytes(&self, at: Text) -> &[u8] {
        &self.buffers[at.buffer as usize][at.start as usize..at.end as usize]
    }
}

/// How keys and values of a route are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Formats {
    /// Of keys.
    pub key: Format,
    /// Of values.
    pub value: Format,
}

impl<'a> View<'a> {
    /// The output itself.
    pub fn output(&self) -> &'a Output {
        self.output
    }

    /// Topic of the input record.
    pub fn topic(&self) -> &'a Arc<str> {
        &self.outputs.batch.topic
    }

    /// Partition of the input record.
    pub fn partition(&self) -> i32 {
        self.outputs.batch.partition
    }

    /// Offset of the input record.
    pub fn offset(&self) -> i64 {
        self.outputs.batch.offsets[self.output.input as usize]
    }

    /// Timestamp of the input record, milliseconds since 1970-01-01T00:00Z; -1: none.
    pub fn timestamp(&self) -> i64 {
        self.outputs.batch.timestamps[self.output.input as usize]
    }

    /// How many outputs of the same record come before this one; 0 for the first.
    pub fn ordinal(&self) -> usize {
        self.outputs.list[..self.index].iter().rev().take_while(|before| before.input == self.output.input).count()
    }

    /// What a plugin chose, UTF-8; `None`: the sink's default.
    pub fn destination(&self) -> Option<&'a str> {
        let bytes = self.outputs.bytes(self.output.destination?);
        // Checked when the outputs of the plugin were taken over.
        std::str::from_utf8(bytes).ok()
    }

    /// The key; `None`: no key.
    pub fn key(&self) -> Option<Value<'a>> {
        let batch = &self.outputs.batch;
        let input = self.output.input as usize;
        self.cell(self.output.key, self.outputs.key_format, || (batch.key(input), batch.key_schemas.get(input)))
    }

    /// The value; `None`: a tombstone.
    pub fn value(&self) -> Option<Value<'a>> {
        let batch = &self.outputs.batch;
        let input = self.output.input as usize;
        self.cell(self.output.value, self.outputs.value_format, || (batch.value(input), batch.value_schemas.get(input)))
    }

    /// Handle of the value's schema in [`Outputs::schemas`], 0: none.
    pub fn value_schema(&self) -> u32 {
        match self.output.value {
            Cell::Input => self.outputs.batch.value_schemas.get(self.output.input as usize),
            Cell::Null => 0,
            Cell::Set { schema, .. } => schema,
        }
    }

    /// Handle of the key's schema in [`Outputs::schemas`], 0: none.
    pub fn key_schema(&self) -> u32 {
        match self.output.key {
            Cell::Input => self.outputs.batch.key_schemas.get(self.output.input as usize),
            Cell::Null => 0,
            Cell::Set { schema, .. } => schema,
        }
    }

    /// The schema entry of a handle.
    pub fn schema(&self, handle: u32) -> Option<&'a Arc<Entry>> {
        self.outputs.schemas.get(handle)
    }

    /// The value's bytes as they are on the topic, the registry's prefix included; `None`: a tombstone, or set by a plugin.
    pub fn input_value_bytes(&self) -> Option<&'a [u8]> {
        match self.output.value {
            Cell::Input => self.outputs.batch.values.get(self.output.input as usize),
            _ => None,
        }
    }

    /// The key's bytes as they are on the topic, the registry's prefix included; `None`: no key, or set by a plugin.
    pub fn input_key_bytes(&self) -> Option<&'a [u8]> {
        match self.output.key {
            Cell::Input => self.outputs.batch.keys.get(self.output.input as usize),
            _ => None,
        }
    }

    /// The headers in their order, edits applied: a set header replaces all of its name and stands last.
    pub fn headers(&self) -> Vec<(&'a [u8], Option<&'a [u8]>)> {
        let input = self.outputs.batch.headers.of(self.output.input as usize);
        let Some(edits) = self.output.headers.and_then(|edits| self.outputs.header_edits.get(edits as usize)) else {
            return input.collect();
        };
        let kept = input.filter(|(name, _)| !edits.iter().any(|edit| edit.name.as_bytes() == *name));
        let set = edits.iter().filter_map(|edit| Some((edit.name.as_bytes(), Some(self.outputs.bytes(edit.value?)))));
        kept.chain(set).collect()
    }

    fn cell(&self, cell: Cell, format: Format, input: impl FnOnce() -> (Option<&'a [u8]>, u32)) -> Option<Value<'a>> {
        let (bytes, format, handle) = match cell {
            Cell::Null => return None,
            Cell::Input => {
                let (bytes, handle) = input();
                (bytes?, format, handle)
            }
            Cell::Set { at, format, schema } => (self.outputs.bytes(at), format, schema),
        };
        let schema = self.outputs.schemas.get(handle).map(|entry| &*entry.schema);
        Some(Value { format, schema, bytes })
    }
}
