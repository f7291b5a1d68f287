//! Looking at tables: rows, counts, ledgers. For the demo, for checks, and for tests; never on a record's way.
//!
//! Invariant: nothing here writes to a table.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, new_null_array};
use arrow::compute::{cast, concat};
use deltalake::kernel::transaction::TableReference;
use deltalake::logstore::LogStoreRef;
use deltalake::table::builder::DeltaTableConfig;
use deltalake::{DeltaTable, DeltaTableError};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use url::Url;

use super::columns::arrow_schema;
use super::config::Config;
use super::files::local_path;
use super::ledger::Ledger;
use super::settings::{Place, Settings, place_url};
use super::survey::open_all;
use super::table::{Table, TableError, chain, log_store};
use crate::ack::TopicPartition;
use crate::sink::Held;

/// How many rows a table has, from its log alone.
///
/// # Errors
/// Where there is no table, or a file has no count.
pub async fn row_count(uri: &str) -> Result<u64, TableError> {
    let (_, table) = load(uri).await?;
    let state = table.snapshot()?;
    let mut rows = 0;
    for file in state.log_data().iter() {
        let records = file.num_records().ok_or_else(|| TableError::Refused(format!("{} has no row count in the log", file.path())))?;
        rows += records as u64;
    }
    Ok(rows)
}

/// All rows of a table on this machine: one batch per row group, all columns in the table's order.
///
/// # Errors
/// Where there is no table, a file cannot be read, or rows of a file were deleted by a vector.
pub async fn read_table(uri: &str) -> Result<Vec<RecordBatch>, TableError> {
    let (url, table) = load(uri).await?;
    let state = table.snapshot()?;
    let schema = arrow_schema(&state.schema()).map_err(TableError::Refused)?;
    let mut batches = Vec::new();
    for file in state.log_data().iter() {
        if file.deletion_vector_descriptor().is_some() {
            return Err(TableError::Refused(format!("{} has a deletion vector", file.path())));
        }
        let values = file.remove_action(false).partition_values.unwrap_or_default();
        let path = local_path(&url, &file.path()).ok_or_else(|| TableError::Refused(format!("{url} is not on this machine")))?;
        for batch in parquet(&path).map_err(TableError::Unavailable)? {
            let rows = batch.num_rows();
            let column = |field: &arrow::datatypes::FieldRef| -> Result<ArrayRef, String> {
                if let Some(value) = values.get(field.name()) {
                    let value: ArrayRef = Arc::new(StringArray::from(vec![value.as_deref()]));
                    let value = cast(&value, field.data_type()).map_err(|error| error.to_string())?;
                    return concat(&vec![value.as_ref(); rows]).map_err(|error| error.to_string());
                }
                match batch.column_by_name(field.name()) {
                    Some(column) => cast(column, field.data_type()).map_err(|error| error.to_string()),
                    None => Ok(new_null_array(field.data_type(), rows)),
                }
            };
            let columns: Result<Vec<_>, _> = schema.fields().iter().map(column).collect();
            let columns = columns.map_err(TableError::Unavailable)?;
            batches.push(RecordBatch::try_new(schema.clone(), columns).map_err(|error| TableError::Unavailable(error.to_string()))?);
        }
    }
    Ok(batches)
}

fn parquet(path: &std::path::Path) -> Result<Vec<RecordBatch>, String> {
    let named = |error: &dyn std::error::Error| format!("{}: {}", path.display(), chain(error));
    let file = File::open(path).map_err(|error| named(&error))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|builder| builder.build()).map_err(|error| named(&error))?;
    reader.collect::<Result<Vec<_>, _>>().map_err(|error| named(&error))
}

async fn load(uri: &str) -> Result<(Url, DeltaTable), TableError> {
    let url = place_url(uri).map_err(TableError::Refused)?;
    let mut table = DeltaTable::new(log_store(&url)?, DeltaTableConfig::default());
    table.load().await.map_err(|error: DeltaTableError| TableError::Unavailable(format!("{uri}: {}", chain(&error))))?;
    Ok((url, table))
}

/// What the ledgers of a sink's tables say: partition, next offset, id of the topic. Empty where there is no table yet. Of several
/// tables below a root the least of each partition counts.
///
/// # Errors
/// Where a table's log cannot be read.
pub async fn ledger_positions(config: &Config, group: &str, sink: &str) -> Result<Held, TableError> {
    let settings = Settings::new(config).map_err(TableError::Refused)?;
    let ledger = Ledger::new(settings.ledger.as_deref(), group, sink);
    let tables = tables(&settings).await?;
    let mut least: BTreeMap<TopicPartition, (i64, Option<Arc<str>>)> = BTreeMap::new();
    for table in &tables {
        let positions: Vec<_> = table.positions.iter().filter_map(|(id, last)| Some((ledger.partition(id)?, last + 1))).collect();
        let topics: HashSet<Arc<str>> = positions.iter().map(|(partition, _)| partition.topic.clone()).collect();
        let ids = if topics.is_empty() { HashMap::new() } else { table.topic_ids(&topics).await? };
        for (partition, next) in positions {
            let id = ids.get(&partition.topic).cloned();
            let held = least.entry(partition).or_insert_with(|| (next, id.clone()));
            if next < held.0 {
                *held = (next, id);
            }
        }
    }
    Ok(least.into_iter().map(|(partition, (next, id))| (partition, next, id)).collect())
}

async fn tables(settings: &Settings) -> Result<Vec<Table>, TableError> {
    match &settings.place {
        Place::One(url) => Ok(open_quietly(log_store(url)?).await?.into_iter().collect()),
        below => open_all(below).await,
    }
}

/// Ledgers of other names that hold partitions of topics that are ours, as warnings: a sink whose name or group was changed takes
/// the same records a second time.
///
/// # Errors
/// Where a table's log cannot be read.
pub async fn other_ledgers(
    config: &Config,
    group: &str,
    sink: &str,
    is_ours: &(dyn Fn(&str) -> bool + Sync),
) -> Result<Vec<String>, TableError> {
    let settings = Settings::new(config).map_err(TableError::Refused)?;
    let ledger = Ledger::new(settings.ledger.as_deref(), group, sink);
    let mut warnings = Vec::new();
    for table in tables(&settings).await? {
        let mut others: BTreeMap<&str, usize> = BTreeMap::new();
        let found = table.positions.keys().filter_map(|app_id| ledger.other(app_id)).filter(|(_, topic)| is_ours(topic));
        found.for_each(|(name, _)| *others.entry(name).or_default() += 1);
        let url = table.store().root_url();
        let place = local_path(url, "").map_or_else(|| url.to_string(), |path| path.display().to_string());
        warnings.extend(others.into_iter().map(|(name, partitions)| {
            format!(
                "table {place} has {partitions} partition(s) of this route in a ledger called {name:?}, which is not this sink's: their rows \
                 would be written a second time; if the sink or its group was renamed, set ledger = {name:?}"
            )
        }));
    }
    Ok(warnings)
}

/// Opens a table; a folder that is not there holds none.
pub(super) async fn open_quietly(store: LogStoreRef) -> Result<Option<Table>, TableError> {
    if local_path(store.root_url(), "").is_some_and(|folder| !folder.exists()) {
        return Ok(None);
    }
    Table::open(store).await
}

/// Whether a sink could write where its settings say: opens the table, or tries the folder in which it would be created.
///
/// # Errors
/// Says what is in the way.
pub async fn probe(config: &Config) -> Result<(), String> {
    let settings = Settings::new(config)?;
    let url = match &settings.place {
        Place::One(url) => url,
        Place::Below { root, .. } => root,
    };
    if let Place::One(url) = &settings.place {
        let store = log_store(url).map_err(|error| error.to_string())?;
        if let Some(table) = open_quietly(store).await.map_err(|error| error.to_string())? {
            check_table(&table, &settings.partition_by)?;
        }
    }
    let Some(folder) = local_path(url, "") else { return Ok(()) };
    let there = folder.ancestors().find(|folder| folder.exists()).ok_or_else(|| format!("{} has no root", folder.display()))?;
    if !there.is_dir() {
        return Err(format!("{} is a file; a table is a folder", there.display()));
    }
    let trial = there.join(format!(".anabranch-check-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir(&trial)
        .and_then(|()| std::fs::remove_dir(&trial))
        .map_err(|error| format!("{} cannot be written: {error}", there.display()))
}

/// Whether rows can be appended to a table that is there.
///
/// # Errors
/// Says what is in the way, and the remedy.
pub fn check_table(table: &Table, partition_by: &[String]) -> Result<(), String> {
    let state = table.state().map_err(|error| error.to_string())?;
    let found = state.metadata().partition_columns();
    if !partition_by.is_empty() && found != partition_by {
        return Err(format!(
            "the table is partitioned by [{}], `partition_by` says [{}]: a table's partition columns cannot change",
            found.join(", "),
            partition_by.join(", ")
        ));
    }
    let mapping = state.config().column_mapping_mode;
    if mapping.is_some_and(|mode| mode != delta_kernel::table_features::ColumnMappingMode::None) {
        return Err("the table maps column names (delta.columnMapping.mode), which this sink does not write".into());
    }
    Ok(())
}
