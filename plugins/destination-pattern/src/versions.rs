//! Versions of schemas in the registry, by handle.

use std::collections::BTreeMap;

use anabranch_guest::SchemaInfo;

/// What was found out; a handle means the same schema for ever, and the host gives a bounded number of them.
#[derive(Debug)]
pub struct Versions {
    read: fn(&SchemaInfo) -> Option<u32>,
    known: BTreeMap<u32, Option<u32>>,
}

impl Versions {
    /// `read` says which version a schema has.
    pub fn new(read: fn(&SchemaInfo) -> Option<u32>) -> Self {
        Versions { read, known: BTreeMap::new() }
    }

    /// The version of the schema; `None`: there is no schema, or it has none.
    pub fn of(&mut self, handle: u32) -> Option<u32> {
        let read = self.read;
        *self.known.entry(handle).or_insert_with(|| anabranch_guest::schema(handle).and_then(|schema| read(&schema)))
    }
}
