//! A folder for tables, rows for them, and other writers.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, SchemaRef};
use bytes::Bytes;
use deltalake::kernel::transaction::{CommitBuilder, TableReference, TransactionError};
use deltalake::kernel::{Action, StructType, Version};
use deltalake::logstore::{CommitOrBytes, LogStore, LogStoreConfig, LogStoreRef};
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::{DeltaResult, DeltaTable, ObjectStore};
use url::Url;
use uuid::Uuid;

use crate::sink::delta::columns::{arrow_schema, columns};
use crate::sink::delta::commit::{Flush, Position, Progress};
use crate::sink::delta::config::Compression;
use crate::sink::delta::files::{Layout, write};
use crate::sink::delta::read::read_table;
use crate::sink::delta::settings::place_url;
use crate::sink::delta::table::{Table, log_store};

/// A folder with room for one table.
pub struct Lake {
    pub folder: tempfile::TempDir,
}

pub fn fields(names: &[&str]) -> Vec<Field> {
    names.iter().map(|name| Field::new(*name, if *name == "id" { DataType::Int64 } else { DataType::Utf8 }, true)).collect()
}

impl Lake {
    pub fn new() -> Self {
        Lake { folder: tempfile::tempdir().expect("a folder") }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("table")
    }

    pub fn uri(&self) -> String {
        self.path().to_str().expect("a name").to_owned()
    }

    pub fn url(&self) -> Url {
        place_url(&self.uri()).expect("a place")
    }

    pub fn store(&self) -> LogStoreRef {
        log_store(&self.url()).expect("a store")
    }

    /// The table, with columns of these names; `id` is a long, others are text.
    pub async fn table(&self, names: &[&str]) -> Table {
        self.table_on(self.store(), names).await
    }

    pub async fn table_on(&self, store: LogStoreRef, names: &[&str]) -> Table {
        let schema = columns(&fields(names)).expect("columns");
        Table::open_or_create(store, &schema, &[]).await.expect("a table")
    }

    /// Files with rows `ids`, to be committed as offsets up to `last` of partition 0.
    pub async fn flush(&self, names: &[&str], ids: &[i64], expected: Option<i64>, last: i64) -> Flush {
        let schema: StructType = columns(&fields(names)).expect("columns");
        let arrow = arrow_schema(&schema).expect("a schema");
        let layout = Layout { url: self.url(), schema: arrow.clone(), partition_by: vec![], compression: Compression::Zstd };
        let adds = write(layout, vec![rows(&arrow, ids)]).await.expect("files");
        Flush {
            adds,
            schema,
            partition_by: vec![],
            positions: vec![Position { app_id: "g/s/t/0".into(), expected, last }],
            nonce: Uuid::new_v4().to_string(),
            decision: "d1".into(),
            generations: HashMap::new(),
            topics: HashMap::new(),
            progress: Progress::default(),
        }
    }

    /// The ids in the table, sorted.
    pub async fn ids(&self) -> Vec<i64> {
        let mut ids = Vec::new();
        for batch in read_table(&self.uri()).await.expect("a table") {
            let column = batch.column_by_name("id").expect("a column").as_primitive::<Int64Type>();
            ids.extend(column.values().iter().copied());
        }
        ids.sort();
        ids
    }

    /// Another writer of the table, with all its files.
    pub async fn other(&self) -> DeltaTable {
        let mut table = DeltaTable::new(self.store(), Default::default());
        table.load().await.expect("a table");
        table
    }

    pub fn log_entries(&self) -> HashSet<String> {
        let entries = std::fs::read_dir(self.path().join("_delta_log")).expect("a log");
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }
}

/// Rows with `ids`, and "x" in every other column.
pub fn rows(schema: &SchemaRef, ids: &[i64]) -> RecordBatch {
    let columns = schema.fields().iter().map(|field| -> arrow::array::ArrayRef {
        if field.name() == "id" {
            return Arc::new(Int64Array::from(ids.to_vec()));
        }
        Arc::new(StringArray::from(vec!["x"; ids.len()]))
    });
    RecordBatch::try_new(schema.clone(), columns.collect()).expect("fitting columns")
}

/// Another writer commits these actions.
pub async fn commit_as_other(table: &mut DeltaTable, actions: Vec<Action>, operation: DeltaOperation) -> Version {
    let store = table.log_store();
    let state = table.snapshot().expect("loaded");
    let committed = CommitBuilder::default().with_actions(actions).build(Some(state as &dyn TableReference), store, operation).await;
    let version = committed.expect("a commit").version();
    table.load().await.expect("a table");
    version
}

pub fn append() -> DeltaOperation {
    DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None }
}

/// A log store that commits and then says that it does not know how it went.
#[derive(Clone)]
pub struct LostAnswers {
    pub inner: LogStoreRef,
    /// How many answers are still to be lost.
    pub left: Arc<AtomicUsize>,
    /// What is said instead: a conflict, as after a request that was sent twice, or an error of the server.
    pub as_conflict: bool,
}

impl LostAnswers {
    pub fn new(inner: LogStoreRef, left: usize, as_conflict: bool) -> Arc<Self> {
        Arc::new(LostAnswers { inner, left: Arc::new(AtomicUsize::new(left)), as_conflict })
    }
}

#[async_trait::async_trait]
impl LogStore for LostAnswers {
    fn name(&self) -> String {
        self.inner.name()
    }

    async fn read_commit_entry(&self, version: Version) -> DeltaResult<Option<Bytes>> {
        self.inner.read_commit_entry(version).await
    }

    async fn write_commit_entry(&self, version: Version, entry: CommitOrBytes, id: Uuid) -> Result<(), TransactionError> {
        self.inner.write_commit_entry(version, entry, id).await?;
        let lose = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        match (lose, self.as_conflict) {
            (false, _) => Ok(()),
            (true, true) => Err(TransactionError::VersionAlreadyExists(version)),
            (true, false) => Err(TransactionError::LogStoreError { msg: "503".into(), source: "connection reset".into() }),
        }
    }

    async fn abort_commit_entry(&self, version: Version, entry: CommitOrBytes, id: Uuid) -> Result<(), TransactionError> {
        self.inner.abort_commit_entry(version, entry, id).await
    }

    async fn get_latest_version(&self, start: Version) -> DeltaResult<Version> {
        self.inner.get_latest_version(start).await
    }

    fn object_store(&self, id: Option<Uuid>) -> Arc<dyn ObjectStore> {
        self.inner.object_store(id)
    }

    fn root_object_store(&self, id: Option<Uuid>) -> Arc<dyn ObjectStore> {
        self.inner.root_object_store(id)
    }

    fn config(&self) -> &LogStoreConfig {
        self.inner.config()
    }
}
