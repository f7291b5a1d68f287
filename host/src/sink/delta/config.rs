//! `delta`: rows of Delta tables.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{ByteSize, DurationText, Fault};

/// `[sink.NAME.delta]`: rows of one Delta table (`uri`), or of many below a folder (`root`).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The one table: a folder, or a URI.
    pub uri: Option<String>,
    /// The folder of the tables: a record's destination names its table below it.
    pub root: Option<String>,
    /// With `root`: tables that may be open at a time.
    pub tables_max: u32,
    /// Columns whose values part the table's files, for a table that is created.
    pub partition_by: Vec<String>,
    /// What ends a batch of rows: a table commit follows.
    pub batch: Batch,
    /// Columns that tell where a row came from, by the name that they shall have.
    pub metadata: Metadata,
    /// What becomes of tombstones.
    pub on_tombstone: OnChange,
    /// What becomes of updates and deletes: this sink appends only.
    pub on_change: OnChange,
    /// Another name for group and sink in the table's ledger, so that either may be renamed.
    pub ledger: Option<String>,
    /// Table commits between checkpoints.
    pub checkpoint_interval: u32,
}

/// What ends a batch of rows; whatever is reached first.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    /// Rows.
    pub rows_max: u64,
    /// Bytes in memory.
    pub bytes_max: ByteSize,
    /// Time since the first row.
    pub age_max: DurationText,
}

impl Default for Batch {
    fn default() -> Self {
        Batch { rows_max: 1_000_000, bytes_max: ByteSize::mib(128), age_max: DurationText::s(10) }
    }
}

/// Columns that tell where a row came from; each is left out unless it is named.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Metadata {
    /// The topic.
    pub topic: Option<String>,
    /// The partition.
    pub partition: Option<String>,
    /// The offset.
    pub offset: Option<String>,
    /// The record's timestamp.
    pub timestamp: Option<String>,
    /// The key.
    pub key: Option<String>,
}

/// What becomes of a record that is no new row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnChange {
    /// It is counted and left out.
    Skip,
    /// It is a dead letter.
    Reject,
    /// It is appended as a row.
    Append,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            uri: None,
            root: None,
            tables_max: 100,
            partition_by: Vec::new(),
            batch: Batch::default(),
            metadata: Metadata::default(),
            on_tombstone: OnChange::Skip,
            on_change: OnChange::Reject,
            ledger: None,
            checkpoint_interval: 100,
        }
    }
}

impl Config {
    /// What is wrong beyond single values.
    pub fn check(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        match (&self.uri, &self.root) {
            (None, None) => {
                faults.push(Fault::new("", "a delta sink needs a table", "add uri = \"FOLDER\" for one, or root = \"FOLDER\" for many"))
            }
            (Some(_), Some(_)) => {
                faults.push(Fault::new("root", "uri and root exclude each other", "keep uri for one table, or root for many"))
            }
            _ => {}
        }
        if self.tables_max == 0 {
            faults.push(Fault::new("tables_max", "tables_max is 0", "at least one table has to be open"));
        }
        if self.batch.rows_max == 0 {
            faults.push(Fault::new("batch.rows_max", "rows_max is 0", "a table commit holds at least one row"));
        }
        if self.on_tombstone == OnChange::Append {
            faults.push(Fault::new("on_tombstone", "a tombstone has no row to append", "choose \"skip\" or \"reject\""));
        }
        faults
    }
}
