//! What a plugin answers: for each output the record that it comes from, and only what is set.

use crate::bindings::anabranch::plugin::types as wit;
use crate::plan::{SetHeader, SinkSet};

/// What an output does to the row with its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Change {
    /// A row of its own.
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

/// Bytes of a reject's message that the host takes; messages may quote what a record holds.
const MESSAGE_BYTES_MAX: usize = 4096;

/// One column of what is set, made at the first use: outputs before it are kept.
#[derive(Debug, Default)]
struct Setting {
    ends: Vec<u32>,
    data: Vec<u8>,
    nulls: Vec<u32>,
    kept: Vec<u32>,
}

impl Setting {
    fn pad(&mut self, outputs: usize) {
        let end = self.data.len() as u32;
        for index in self.ends.len()..outputs {
            self.kept.push(index as u32);
            self.ends.push(end);
        }
    }

    fn set(&mut self, output: usize, bytes: Option<&[u8]>) {
        self.pad(output);
        if self.ends.len() == output {
            self.ends.push(self.data.len() as u32);
        } else {
            // Set again: the last one counts.
            self.data.truncate(if output == 0 { 0 } else { self.ends[output - 1] as usize });
            self.nulls.retain(|index| *index != output as u32);
            self.kept.retain(|index| *index != output as u32);
        }
        match bytes {
            Some(bytes) => self.data.extend_from_slice(bytes),
            None => self.nulls.push(output as u32),
        }
        self.ends[output] = self.data.len() as u32;
    }

    fn finish(mut self, outputs: usize) -> wit::SetColumn {
        self.pad(outputs);
        let some = |positions: Vec<u32>| (!positions.is_empty()).then_some(positions);
        wit::SetColumn { ends: self.ends, data: self.data, nulls: some(self.nulls), kept: some(self.kept) }
    }
}

/// The answer to one batch. Outputs are pushed in the order of the records.
#[derive(Debug)]
pub struct Outputs {
    rows: usize,
    inputs: Vec<u32>,
    destinations: Option<Setting>,
    keys: Option<Setting>,
    values: Option<Setting>,
    headers: Vec<Setting>,
    sinks: Option<Vec<u8>>,
    changes: Option<Vec<u8>>,
    key_schemas: Option<Vec<u32>>,
    value_schemas: Option<Vec<u32>>,
    rejects: Vec<wit::Reject>,
}

/// The output that was pushed last; each method sets one thing of it.
#[derive(Debug)]
pub struct OutputRef<'a> {
    out: &'a mut Outputs,
    index: usize,
}

impl Outputs {
    pub(crate) fn new(rows: usize) -> Self {
        Outputs {
            rows,
            inputs: Vec::with_capacity(rows),
            destinations: None,
            keys: None,
            values: None,
            headers: Vec::new(),
            sinks: None,
            changes: None,
            key_schemas: None,
            value_schemas: None,
            rejects: Vec::new(),
        }
    }

    /// An output of record `row`, as it came in until something is set. Rows come in ascending order; a row may have several outputs.
    pub fn keep(&mut self, row: usize) -> OutputRef<'_> {
        debug_assert!(row < self.rows && self.inputs.last().is_none_or(|last| *last as usize <= row), "rows come in order");
        self.inputs.push(row as u32);
        let index = self.inputs.len() - 1;
        OutputRef { out: self, index }
    }

    /// Record `row` becomes a dead letter. `code`: short and stable, to count by. A message that is longer than the host takes is cut.
    pub fn reject(&mut self, row: usize, code: &str, message: &str) {
        let mut end = message.len().min(MESSAGE_BYTES_MAX);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        self.rejects.push(wit::Reject { input: row as u32, code: code.to_owned(), message: message[..end].to_owned() });
    }

    pub(crate) fn finish(mut self) -> wit::Outputs {
        let count = self.inputs.len();
        let setting = |setting: Option<Setting>| setting.map(|setting| setting.finish(count));
        if let Some(sinks) = &mut self.sinks {
            sinks.resize(count, 255);
        }
        if let Some(changes) = &mut self.changes {
            changes.resize(count, 0);
        }
        let schemas = |schemas: Option<Vec<u32>>| {
            schemas.map(|mut schemas| {
                schemas.resize(count, 0);
                match schemas.first() {
                    Some(first) if schemas.iter().all(|schema| schema == first) => wit::Numbers::All(*first),
                    _ => wit::Numbers::Each(schemas),
                }
            })
        };
        wit::Outputs {
            inputs: self.inputs,
            destinations: setting(self.destinations),
            sinks: self.sinks,
            keys: setting(self.keys),
            values: setting(self.values),
            key_schemas: schemas(self.key_schemas),
            value_schemas: schemas(self.value_schemas),
            changes: self.changes,
            headers: self.headers.into_iter().map(|header| header.finish(count)).collect(),
            rejects: self.rejects,
        }
    }
}

fn put<T: Clone>(list: &mut Option<Vec<T>>, index: usize, absent: T, value: T) {
    let list = list.get_or_insert_default();
    if list.len() <= index {
        list.resize(index + 1, absent);
    }
    list[index] = value;
}

impl OutputRef<'_> {
    /// Where it goes: topic path, URL path, table or topic, as the sink takes it.
    pub fn destination(self, destination: &str) -> Self {
        self.out.destinations.get_or_insert_default().set(self.index, Some(destination.as_bytes()));
        self
    }

    /// It goes where the sink sends records by default.
    pub fn default_destination(self) -> Self {
        self.out.destinations.get_or_insert_default().set(self.index, None);
        self
    }

    /// The sinks that get it.
    pub fn sinks(self, sinks: SinkSet) -> Self {
        put(&mut self.out.sinks, self.index, 255, sinks.0);
        self
    }

    /// Its key, in the encoding that the plan names; `None`: no key.
    pub fn key(self, key: Option<&[u8]>) -> Self {
        self.out.keys.get_or_insert_default().set(self.index, key);
        self
    }

    /// Its value, in the encoding that the plan names; `None`: a tombstone.
    pub fn value(self, value: Option<&[u8]>) -> Self {
        self.out.values.get_or_insert_default().set(self.index, value);
        self
    }

    /// The schema of the key that was set.
    pub fn key_schema(self, handle: u32) -> Self {
        put(&mut self.out.key_schemas, self.index, 0, handle);
        self
    }

    /// The schema of the value that was set.
    pub fn value_schema(self, handle: u32) -> Self {
        put(&mut self.out.value_schemas, self.index, 0, handle);
        self
    }

    /// What it does to its row.
    pub fn change(self, change: Change) -> Self {
        put(&mut self.out.changes, self.index, 0, change as u8);
        self
    }

    /// A planned header; `None` removes it.
    pub fn header(self, header: SetHeader, value: Option<&[u8]>) -> Self {
        let headers = &mut self.out.headers;
        if headers.len() <= header.0 {
            headers.resize_with(header.0 + 1, Setting::default);
        }
        headers[header.0].set(self.index, value);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_between_characters_where_it_is_longer_than_the_host_takes() {
        let mut out = Outputs::new(2);
        out.reject(0, "code", &"x".repeat(4096));
        out.reject(1, "code", &format!("x{}", "é".repeat(4096)));
        let lengths: Vec<usize> = out.finish().rejects.iter().map(|reject| reject.message.len()).collect();
        assert_eq!(lengths, [4096, 4095]);
    }
}
