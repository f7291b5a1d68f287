//! The ledger: which offsets a table holds, as application transactions of the table's own commits.
//!
//! Invariant: one application id stands for one partition of one ledger, and its version is the last offset that the table holds
//! of it. No `lastUpdated` is written with it: a table that forgets old transactions would take those rows a second time.
//! Source: Delta transaction log protocol, "Transaction Identifiers".

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use delta_kernel::engine::arrow_data::EngineDataArrowExt;
use delta_kernel::schema::{DataType, StructField, StructType};
use delta_kernel::{DeltaResult, Engine, Snapshot, Version};

use crate::ack::TopicPartition;

/// Versions of application transactions by application id.
pub type Positions = HashMap<String, i64>;

/// The name under which a sink's offsets stand in its tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    prefix: String,
}

impl Ledger {
    /// The ledger called `name`; without one the group and the sink name it, so that renaming either starts a new ledger.
    pub fn new(name: Option<&str>, group: &str, sink: &str) -> Self {
        let prefix = match name {
            Some(name) => format!("{name}/"),
            None => format!("{group}/{sink}/"),
        };
        Ledger { prefix }
    }

    /// Application id of a partition.
    pub fn app_id(&self, topic: &str, partition: i32) -> String {
        format!("{}{topic}/{partition}", self.prefix)
    }

    /// The name of the ledger that an application id belongs to, and its topic; `None`: it is ours, or none of a router.
    pub fn other<'a>(&self, app_id: &'a str) -> Option<(&'a str, &'a str)> {
        if app_id.starts_with(&self.prefix) {
            return None;
        }
        let (rest, partition) = app_id.rsplit_once('/')?;
        partition.parse::<u32>().ok()?;
        rest.rsplit_once('/')
    }

    /// The partition of an application id; `None`: it belongs to another ledger, or to another application.
    pub fn partition(&self, app_id: &str) -> Option<TopicPartition> {
        let (topic, partition) = app_id.strip_prefix(&self.prefix)?.rsplit_once('/')?;
        if topic.is_empty() || topic.contains('/') {
            return None;
        }
        Some(TopicPartition { topic: topic.into(), partition: partition.parse().ok().filter(|partition| *partition >= 0)? })
    }
}

/// The name of the ledger that an application id belongs to, whosever it is.
pub fn name_of(app_id: &str) -> Option<&str> {
    Some(app_id.rsplit_once('/')?.0.rsplit_once('/')?.0)
}

/// What one pass over a table's log says.
#[derive(Debug, Default)]
pub struct Replay {
    /// All application transactions, also those of others.
    pub positions: Positions,
    /// Version of the last checkpoint.
    pub checkpoint: Option<Version>,
}

/// Reads all application transactions of a version in one pass over checkpoint and commits. Blocks.
///
/// # Errors
/// Where the log cannot be read.
pub fn replay(table_root: &str, version: Version, engine: &dyn Engine) -> DeltaResult<Replay> {
    let snapshot = Snapshot::builder_for(table_root).at_version(version).build(engine)?;
    let transaction = StructType::try_new([
        StructField::not_null("appId", DataType::STRING),
        StructField::not_null("version", DataType::LONG),
        StructField::nullable("lastUpdated", DataType::LONG),
    ])?;
    let schema = Arc::new(StructType::try_new([StructField::nullable("txn", DataType::from(transaction))])?);
    let segment = snapshot.log_segment();
    let mut positions = Positions::new();
    for batch in segment.read_actions(engine, schema)? {
        collect(&batch?.actions.try_into_record_batch()?, &mut positions);
    }
    Ok(Replay { positions, checkpoint: segment.checkpoint_version })
}

/// Newest first, as the log is replayed: the first that names an application id counts.
fn collect(batch: &RecordBatch, positions: &mut Positions) {
    let Some(transactions) = batch.column_by_name("txn").and_then(|column| column.as_struct_opt()) else { return };
    let ids = transactions.column_by_name("appId").and_then(|column| column.as_string_opt::<i32>());
    let versions = transactions.column_by_name("version").and_then(|column| column.as_primitive_opt::<Int64Type>());
    let (Some(ids), Some(versions)) = (ids, versions) else { return };
    for row in 0..transactions.len() {
        if transactions.is_valid(row) && ids.is_valid(row) && versions.is_valid(row) {
            positions.entry(ids.value(row).to_owned()).or_insert_with(|| versions.value(row));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_id_leads_back_to_its_partition() {
        let ledger = Ledger::new(None, "anabranch-orders", "lake");
        let id = ledger.app_id("orders.eu", 7);
        assert_eq!(id, "anabranch-orders/lake/orders.eu/7");
        assert_eq!(ledger.partition(&id), Some(TopicPartition { topic: "orders.eu".into(), partition: 7 }));
    }

    #[test]
    fn a_named_ledger_outlives_the_names_of_group_and_sink() {
        assert_eq!(Ledger::new(Some("orders"), "a", "b"), Ledger::new(Some("orders"), "c", "d"));
    }

    #[test]
    fn other_ledgers_are_not_ours() {
        let ledger = Ledger::new(None, "group", "lake");
        assert_eq!(ledger.other("old-group/lake/orders/3"), Some(("old-group/lake", "orders")));
        assert_eq!(ledger.other("group/lake/orders/3"), None);
        assert_eq!(ledger.other("spark-stream"), None);
        for other in
            ["group/lake2/orders/0", "spark-stream", "group/lake/orders", "group/lake/a/b/0", "group/lake/orders/-1", "group/lake//1"]
        {
            assert_eq!(ledger.partition(other), None, "{other}");
        }
    }
}
