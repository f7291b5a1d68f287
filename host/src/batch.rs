//! A batch: consecutive records of one topic-partition, column by column.
//!
//! Invariant: every column has one entry per record, in the order of the log; a batch never holds records of two partitions.

use std::sync::Arc;

use crate::ack::budget::Permit;

/// Variable-length entries: entry `i` is `data[ends[i - 1]..ends[i]]`, with `ends[-1] = 0`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Entries {
    /// All entries, one behind the other.
    pub data: Vec<u8>,
    /// Where each entry ends in `data`.
    pub ends: Vec<u32>,
    /// Positions of null entries, ascending; a null entry has length 0.
    pub nulls: Vec<u32>,
}

impl Entries {
    /// Room for `records` entries of `bytes` bytes in all.
    pub fn with_capacity(records: usize, bytes: usize) -> Self {
        Entries { data: Vec::with_capacity(bytes), ends: Vec::with_capacity(records), nulls: Vec::new() }
    }

    /// Appends one entry; `None` is a null.
    pub fn push(&mut self, entry: Option<&[u8]>) {
        match entry {
            Some(bytes) => self.data.extend_from_slice(bytes),
            None => self.nulls.push(self.ends.len() as u32),
        }
        self.ends.push(self.data.len() as u32);
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Entry `index`; `None` is a null. Panics where `index` is not below [`Entries::len`].
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        let end = self.ends[index] as usize;
        // Only an empty entry can be null, so full ones never search.
        if start == end && !self.nulls.is_empty() && self.nulls.binary_search(&(index as u32)).is_ok() {
            return None;
        }
        Some(&self.data[start..end])
    }
}

/// Headers of all records of a batch. Most topics have none: then all columns are empty, `ends` too.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Headers {
    /// Where the headers of each record end in `names` and `values`; empty: no record has a header.
    pub ends: Vec<u32>,
    /// UTF-8 as librdkafka hands names over; kept as bytes.
    pub names: Entries,
    /// One value per name; null differs from empty.
    pub values: Entries,
}

impl Headers {
    /// The headers of record `index`, in their order.
    pub fn of(&self, index: usize) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let range = match self.ends.get(index) {
            None => 0..0,
            Some(&end) => (if index == 0 { 0 } else { self.ends[index - 1] as usize })..end as usize,
        };
        range.map(|header| (self.names.get(header).unwrap_or_default(), self.values.get(header)))
    }
}

/// Which schema each record of a batch has, as handles of the route's [`Schemas`](crate::schemas::Schemas); 0: none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handles {
    /// The same for all records.
    All(u32),
    /// One per record.
    Each(Vec<u32>),
}

impl Handles {
    /// The handle of record `index`.
    pub fn get(&self, index: usize) -> u32 {
        match self {
            Handles::All(handle) => *handle,
            Handles::Each(handles) => handles[index],
        }
    }

    /// From one handle per record to the short form where they are all the same.
    pub fn from_each(handles: Vec<u32>) -> Self {
        match handles.first() {
            None => Handles::All(0),
            Some(first) if handles.iter().all(|handle| handle == first) => Handles::All(*first),
            Some(_) => Handles::Each(handles),
        }
    }
}

/// Consecutive records of one topic-partition, in order.
#[derive(Debug)]
pub struct Batch {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Number of the partition.
    pub partition: i32,
    /// Offsets, ascending; holes are normal.
    pub offsets: Vec<i64>,
    /// Milliseconds since 1970-01-01T00:00Z; -1: none.
    pub timestamps: Vec<i64>,
    /// Keys as they are on the topic, the registry's prefix included; null: no key.
    pub keys: Entries,
    /// Values as they are on the topic, the registry's prefix included; null: a tombstone.
    pub values: Entries,
    /// Headers.
    pub headers: Headers,
    /// Schemas of the keys; a handle other than 0 also says that the key starts with the registry's prefix.
    pub key_schemas: Handles,
    /// Schemas of the values; a handle other than 0 also says that the value starts with the registry's prefix.
    pub value_schemas: Handles,
    /// The part of the route's byte budget that this batch holds while anybody holds the batch.
    pub permit: Option<Permit>,
}

/// Length of the registry's prefix: a zero byte and the schema's id, 4 bytes, big endian (Confluent wire format).
pub const PREFIX_LEN: usize = 5;

impl Batch {
    /// How many records there are.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// The key of record `index` without the registry's prefix; `None`: no key.
    pub fn key(&self, index: usize) -> Option<&[u8]> {
        strip(self.keys.get(index), self.key_schemas.get(index))
    }

    /// The value of record `index` without the registry's prefix; `None`: a tombstone.
    pub fn value(&self, index: usize) -> Option<&[u8]> {
        strip(self.values.get(index), self.value_schemas.get(index))
    }

    /// Bytes held, for the budget: payload and columns.
    pub fn bytes(&self) -> usize {
        let column = |entries: &Entries| entries.data.len() + entries.ends.len() * 4;
        self.offsets.len() * 16 + column(&self.keys) + column(&self.values) + column(&self.headers.names) + column(&self.headers.values)
    }
}

fn strip(bytes: Option<&[u8]>, handle: u32) -> Option<&[u8]> {
    match (bytes, handle) {
        (Some(bytes), 0) => Some(bytes),
        (Some(bytes), _) => Some(bytes.get(PREFIX_LEN..).unwrap_or_default()),
        (None, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_null_entry_differs_from_an_empty_one() {
        let mut entries = Entries::default();
        entries.push(Some(b""));
        entries.push(None);
        entries.push(Some(b"x"));
        assert_eq!(entries.get(0), Some(&b""[..]));
        assert_eq!(entries.get(1), None);
        assert_eq!(entries.get(2), Some(&b"x"[..]));
    }

    #[test]
    fn records_without_headers_cost_no_column() {
        assert_eq!(Headers::default().of(7).count(), 0);
    }
}
