//! `delta` as users write it: rows of Delta tables.
//!
//! Invariant: what stands here is one to one what `[sink.NAME.delta]` may say; [`super::Settings`] is what the sink works by.

use arrow::datatypes::{DataType, Field};
use deltalake::kernel::engine::arrow_conversion::TryIntoArrow;
use deltalake::kernel::{DataType as DeltaType, PrimitiveType};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{ByteSize, DurationText, Fault};

/// Most bytes of rows that are gathered for one table commit.
const BATCH_BYTES_MAX: ByteSize = ByteSize::mib(1024);

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
    /// How files are compressed.
    pub compression: Compression,
    /// The columns of values that come without a schema, such as plain JSON.
    pub columns: Vec<Column>,
    /// After a crash the table may be ahead of the group; if plugins, their configuration or the routing changed meanwhile, a record
    /// could be missing or be in two tables.
    pub on_other_decision: OnDoubt,
    /// The table holds less than this sink wrote to it: it was restored to an older version, or created again.
    pub restored: OnDoubt,
}

/// How files are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Zstandard, level 1: a third smaller than Snappy for a tenth more time.
    #[default]
    Zstd,
    /// Snappy.
    Snappy,
    /// Not at all.
    None,
}

/// One column of a table.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// Its name: the key in the JSON object.
    pub name: String,
    /// Its type as Delta names it: string, long, integer, double, float, boolean, binary, date, timestamp, decimal(p,s).
    #[serde(rename = "type")]
    pub data_type: String,
}

/// What is done where the sink cannot tell alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnDoubt {
    /// The route stops and explains.
    #[default]
    Stop,
    /// The route goes on.
    Accept,
}

impl Column {
    /// As a field of a table.
    ///
    /// # Errors
    /// Where the type is none.
    pub fn field(&self) -> Result<Field, String> {
        let wrong = || {
            format!(
                "column {:?}: {:?} is no type; there are string, long, integer, double, float, boolean, binary, date, timestamp and decimal(p,s)",
                self.name, self.data_type
            )
        };
        let data_type: PrimitiveType = serde_json::from_value(self.data_type.as_str().into()).map_err(|_| wrong())?;
        let written = !matches!(data_type, PrimitiveType::Byte | PrimitiveType::Short | PrimitiveType::TimestampNtz);
        let arrow: DataType = (&DeltaType::Primitive(data_type)).try_into_arrow().map_err(|_| wrong())?;
        written.then(|| Field::new(&self.name, arrow, true)).ok_or_else(wrong)
    }
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
        Batch { rows_max: 1_000_000, bytes_max: ByteSize::mib(32), age_max: DurationText::s(10) }
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

impl Metadata {
    /// The names that were given.
    fn names(&self) -> impl Iterator<Item = &String> {
        [&self.topic, &self.partition, &self.offset, &self.timestamp, &self.key].into_iter().flatten()
    }
}

/// What no column's name may have, unless the table maps names.
const NO_NAME: &[char] = &[' ', ',', ';', '{', '}', '(', ')', '\n', '\t', '='];

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
            compression: Compression::default(),
            columns: Vec::new(),
            on_other_decision: OnDoubt::default(),
            restored: OnDoubt::default(),
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
        if self.batch.bytes_max > BATCH_BYTES_MAX {
            let wrong = format!("bytes_max is more than {BATCH_BYTES_MAX}");
            faults.push(Fault::new("batch.bytes_max", wrong, "a batch is held in memory twice, and Arrow's columns end at 2 GiB"));
        }
        if self.checkpoint_interval == 0 {
            faults.push(Fault::new("checkpoint_interval", "checkpoint_interval is 0", "1 writes a checkpoint after every table commit"));
        }
        for name in self.metadata.names().chain(self.columns.iter().map(|column| &column.name)) {
            if name.is_empty() || name.contains(NO_NAME) {
                let wrong = format!("{name:?} is no name of a column");
                faults.push(Fault::new("metadata", wrong, "names are not empty and have no space, comma, semicolon, brace, bracket or ="));
            }
        }
        for (index, column) in self.columns.iter().enumerate() {
            if let Err(wrong) = column.field() {
                faults.push(Fault::new(&format!("columns.{index}.type"), wrong, "choose one of these types"));
            }
        }
        faults
    }
}
