//! Another writer of a Delta table: the library itself, without the router's care.
//!
//! Invariant: what a call says is in the table when it returns; commits that lose to others are made again on what is there then.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, new_null_array};
use deltalake::kernel::transaction::{CommitBuilder, TableReference};
use deltalake::kernel::{Action, DataType, PrimitiveType, StructField, Version};
use deltalake::protocol::DeltaOperation;
use deltalake::writer::{DeltaWriter, RecordBatchWriter};
use deltalake::{DeltaResult, DeltaTable};

use crate::{block_on, table};

const ATTEMPTS_MAX: usize = 50;

/// See the module.
#[derive(Debug)]
pub struct OtherWriter {
    folder: PathBuf,
}

impl OtherWriter {
    /// A writer of the table in `folder`, which is there.
    pub fn new(folder: &Path) -> OtherWriter {
        OtherWriter { folder: folder.to_owned() }
    }

    fn until_it_lands<T>(&self, attempt: impl Fn(DeltaTable) -> DeltaResult<T>) -> T {
        for _ in 1..ATTEMPTS_MAX {
            if let Ok(done) = attempt(table::open(&self.folder)) {
                return done;
            }
        }
        attempt(table::open(&self.folder)).unwrap_or_else(|error| panic!("another writer of {}: {error}", self.folder.display()))
    }

    /// Appends rows with these ids; other columns are null.
    pub fn append(&self, ids: &[i64]) {
        self.until_it_lands(|mut table| {
            let mut writer = RecordBatchWriter::for_table(&table)?;
            let schema = writer.arrow_schema();
            let columns = schema.fields().iter().map(|field| -> ArrayRef {
                if field.name() == "id" { Arc::new(Int64Array::from(ids.to_vec())) } else { new_null_array(field.data_type(), ids.len()) }
            });
            let rows = RecordBatch::try_new(schema.clone(), columns.collect()).unwrap();
            block_on(async {
                writer.write(rows).await?;
                writer.flush_and_commit(&mut table).await
            })
        });
    }

    /// Deletes the rows of all files that are there now, and returns their ids.
    pub fn delete_all(&self) -> BTreeSet<i64> {
        self.until_it_lands(|table| {
            let ids = table::longs_of(&self.folder, &table, "id").into_iter().collect();
            let state = table.snapshot()?;
            let removals = state.log_data().iter().map(|file| Action::Remove(file.remove_action(true))).collect();
            let commit = CommitBuilder::default().with_actions(removals);
            let operation = DeltaOperation::Delete { predicate: None };
            block_on(async { commit.build(Some(state as &dyn TableReference), table.log_store(), operation).await })?;
            Ok(ids)
        })
    }

    /// Adds a column of text.
    pub fn add_column(&self, name: &str) {
        self.until_it_lands(|table| {
            let field = StructField::nullable(name, DataType::Primitive(PrimitiveType::String));
            block_on(async { table.add_columns().with_fields([field]).await })
        });
    }

    /// Restores the version (`RESTORE TABLE`): rows that came later leave.
    pub fn restore(&self, version: Version) {
        self.until_it_lands(|table| block_on(async { table.restore().with_version_to_restore(version).await }));
    }
}
