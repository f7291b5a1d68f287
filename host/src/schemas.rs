//! The schemas of a route by handle: what records came with, and what plugins registered.
//!
//! Invariant: a handle, once given, means the same schema for as long as the route runs. Handle 0 is no schema.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::value::{Schema, SchemaError};

/// How many different schemas a route may see; beyond it something generates schemas without end.
pub const SCHEMAS_MAX: usize = 10_000;

/// One schema of a route.
#[derive(Debug)]
pub struct Entry {
    /// The compiled schema.
    pub schema: Arc<Schema>,
    /// The registry's id; `None` for schemas that a plugin registered.
    pub id: Option<u32>,
    /// Subject and version in the registry, where a plugin asked for them.
    pub subject: Option<(String, u32)>,
}

/// The schemas at one moment: entry `handle - 1`.
#[derive(Debug, Clone, Default)]
pub struct Snapshot(Arc<Vec<Arc<Entry>>>);

impl Snapshot {
    /// The schema of a handle; `None` for 0 and for handles that were never given.
    pub fn get(&self, handle: u32) -> Option<&Arc<Entry>> {
        self.0.get((handle as usize).checked_sub(1)?)
    }
}

/// The schemas of a route; share it by reference or `Arc`.
#[derive(Debug, Default)]
pub struct Schemas(RwLock<Kept>);

#[derive(Debug, Default)]
struct Kept {
    all: Snapshot,
    by_id: HashMap<u32, u32>,
    by_definition: HashMap<String, u32>,
}

/// Why a schema got no handle.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The text is no schema.
    #[error(transparent)]
    Invalid(#[from] SchemaError),
    /// [`SCHEMAS_MAX`] is reached.
    #[error("the route has seen {SCHEMAS_MAX} schemas: schemas must not be made per record")]
    TooMany,
}

impl Schemas {
    /// No schema yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// All schemas known now.
    pub fn snapshot(&self) -> Snapshot {
        self.0.read().all.clone()
    }

    /// The handle of the registry's schema `id`, if it was added.
    pub fn of_id(&self, id: u32) -> Option<u32> {
        self.0.read().by_id.get(&id).copied()
    }

    /// The handle of a schema that a plugin registered, by its text.
    pub fn of_definition(&self, definition: &str) -> Option<u32> {
        self.0.read().by_definition.get(definition).copied()
    }

    /// Adds a schema of the registry; the same id gives the same handle.
    pub fn add(&self, id: u32, schema: Arc<Schema>, subject: Option<(String, u32)>) -> Result<u32, RegisterError> {
        let mut kept = self.0.write();
        if let Some(handle) = kept.by_id.get(&id) {
            return Ok(*handle);
        }
        let handle = kept.push(Entry { schema, id: Some(id), subject })?;
        kept.by_id.insert(id, handle);
        Ok(handle)
    }

    /// Adds a schema that a plugin made, Avro as JSON text; the same text gives the same handle.
    pub fn register(&self, definition: &str) -> Result<u32, RegisterError> {
        if let Some(handle) = self.of_definition(definition) {
            return Ok(handle);
        }
        let schema = Arc::new(Schema::avro(definition, &[])?);
        let mut kept = self.0.write();
        if let Some(handle) = kept.by_definition.get(definition) {
            return Ok(*handle);
        }
        let handle = kept.push(Entry { schema, id: None, subject: None })?;
        kept.by_definition.insert(definition.to_owned(), handle);
        Ok(handle)
    }
}

impl Kept {
    fn push(&mut self, entry: Entry) -> Result<u32, RegisterError> {
        if self.all.0.len() >= SCHEMAS_MAX {
            return Err(RegisterError::TooMany);
        }
        // A reader's snapshot stays as it is: the list is copied only while somebody holds one.
        Arc::make_mut(&mut self.all.0).push(Arc::new(entry));
        Ok(self.all.0.len() as u32)
    }
}
