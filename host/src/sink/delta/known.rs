//! One table as the sink knows it between flushes, and what is asked of it before the first row of a partition is gathered.
//!
//! Invariant: the ledger was read after the partition came to this process, so what it covers is not gathered again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::Field;
use deltalake::kernel::{StructType, Version};
use deltalake::logstore::LogStoreRef;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::columns::{columns, extend};
use super::config::OnDoubt;
use super::flush::Waits;
use super::ledger::{Ledger, Positions};
use super::read::check_table;
use super::rows::TableRows;
use super::settings::Settings;
use super::table::{Table, TableError, log_store};
use crate::ack::{Slot, TopicPartition};
use crate::observe::SinkMetrics;
use crate::output::View;
use crate::sink::Surroundings;
use crate::source::kafka::begin::other_topic;

/// See the module.
#[derive(Debug)]
pub struct Known {
    /// Name of the table; empty: the only one.
    pub name: Arc<str>,
    /// How commits of offsets call its ledger.
    pub place: Arc<str>,
    /// The table; a flush has it while it is under way.
    pub table: Option<Table>,
    /// What the table's ledger covers, without the flush that is under way.
    pub positions: Positions,
    /// Partitions with later generations may have had another owner since the ledger was read.
    pub generation: u64,
    /// Partitions whose first rows were looked at.
    pub looked_at: HashSet<Slot>,
    /// Last offsets in the flush that is under way.
    pub under_way: HashMap<Slot, i64>,
    /// Columns by which its files are divided.
    pub partition_by: Vec<String>,
    /// Rows that wait.
    pub rows: TableRows,
    /// Version of the last checkpoint, or of one that is being written.
    pub checkpoint: Version,
    /// Commits between two checkpoints.
    pub interval: u64,
}

/// Why a sink cannot use a table, ever.
#[derive(Debug)]
pub enum Unusable {
    /// The configuration does not fit it.
    Configuration(String),
    /// It is not as it should be.
    Environment(String),
}

impl Known {
    /// Opens a table, or creates it with columns for its first record. Waits while the place does not answer.
    ///
    /// # Errors
    /// Where the table does not fit the settings.
    pub async fn open(
        name: Arc<str>,
        wanted: &[Field],
        generation: u64,
        settings: &Settings,
        around: &Surroundings,
    ) -> Result<Known, Unusable> {
        let metrics = &around.metrics;
        let url = settings.place.url(&name);
        let located = |reason| Unusable::Configuration(format!("table at {url}: {reason}"));
        let schema = columns(wanted).map_err(located)?;
        let store = log_store(&url).map_err(|error| located(error.to_string()))?;
        let mut waits = Waits::default();
        let table = loop {
            match open_or_create(&store, &schema, &settings.partition_by).await {
                Ok(table) => break table,
                Err(TableError::Refused(reason)) => return Err(located(reason)),
                Err(TableError::Unavailable(reason)) => {
                    metrics.down(&reason);
                    metrics.retries.inc();
                    waits.wait().await;
                }
            }
        };
        metrics.up();
        check_table(&table, &settings.partition_by).map_err(located)?;
        if !around.without_ledger {
            not_restored(&table, settings, around).await?;
        }
        let state = table.state().map_err(|error| located(error.to_string()))?;
        let mut columns = state.schema().as_ref().clone();
        if !settings.columns.is_empty() {
            columns = extend(&columns, &schema).map_err(located)?.unwrap_or(columns);
        }
        let rows = TableRows::new(columns, &settings.metadata).map_err(located)?;
        Ok(Known {
            name,
            place: place(settings.ledger.as_deref().unwrap_or(&around.sink), &url),
            positions: table.positions.clone(),
            generation,
            looked_at: HashSet::new(),
            under_way: HashMap::new(),
            partition_by: state.metadata().partition_columns().to_vec(),
            rows,
            checkpoint: table.checkpoint.unwrap_or_default(),
            interval: settings.checkpoint_interval,
            table: Some(table),
        })
    }

    /// Reads the ledger anew. Waits while the place does not answer. No flush may be under way.
    pub async fn refresh(&mut self, generation: u64, metrics: &SinkMetrics) {
        let Some(table) = &mut self.table else { return };
        let mut waits = Waits::default();
        while let Err(error) = table.refresh(None).await {
            metrics.down(&error.to_string());
            metrics.retries.inc();
            waits.wait().await;
        }
        metrics.up();
        self.positions = table.positions.clone();
        self.generation = generation;
    }

    /// The table, if a checkpoint of it is due; it counts as written from now on.
    pub fn take_due(&mut self) -> Option<Table> {
        let table = self.table.as_ref()?;
        if table.version() < self.checkpoint + self.interval {
            return None;
        }
        self.checkpoint = table.version();
        Some(table.clone())
    }
}

/// The table must not have been restored to a version before the sink's last commit.
async fn not_restored(table: &Table, settings: &Settings, around: &Surroundings) -> Result<(), Unusable> {
    let ledger = Ledger::new(settings.ledger.as_deref(), &around.group, &around.sink);
    let taken_back = table.taken_back(|app_id| ledger.partition(app_id).is_some()).await;
    let Some((version, restored)) = taken_back.map_err(|error| Unusable::Environment(error.to_string()))? else { return Ok(()) };
    let text = format!(
        "version {version} of the table at {} restored version {restored}, and with it rows went that this sink wrote since",
        table.store().root_url()
    );
    match settings.restored {
        OnDoubt::Accept => {
            tracing::warn!(sink = %around.sink, "{text}: accepted, those rows stay missing");
            Ok(())
        }
        OnDoubt::Stop => Err(Unusable::Environment(format!(
            "{text}: set `restored = \"accept\"` to go on, and move the group's offsets back and give the sink another `ledger` if those rows are to \
             be written again"
        ))),
    }
}

/// Where a table is ahead of where reading begins, its rows must be of this topic, not of an earlier one of the same name, and what was
/// decided about those records must be what is decided now, or a record could be in two tables, or in none.
///
/// # Errors
/// Explains, where the topic is another, or the decision differs and the settings do not accept that.
pub async fn same_origin(table: &Table, app_id: &str, view: &View<'_>, around: &Surroundings, on_other: OnDoubt) -> Result<(), Unusable> {
    let Some(held) = table.positions.get(app_id).filter(|held| **held >= view.offset()) else { return Ok(()) };
    let brought = match table.brought(app_id).await {
        Ok(Some(brought)) => brought,
        Ok(None) => return Ok(()),
        Err(error) => return Err(Unusable::Environment(error.to_string())),
    };
    if let (Some(then), Some(now)) = (brought.topics.get(&**view.topic()), around.logs.topic_id(view.topic()))
        && **then != *now
    {
        let name = TopicPartition { topic: view.topic().clone(), partition: view.partition() };
        return Err(Unusable::Environment(other_topic(&name, *held)));
    }
    let decision: &str = &around.decision;
    let Some(then) = brought.decision.filter(|then| then != decision) else { return Ok(()) };
    let text = format!(
        "the table at {} holds {}/{} up to offset {held}, as decision {then:.12} made it; reading begins at offset {}, and plugins, their \
         configuration or the routing are others now (decision {decision:.12})",
        table.store().root_url(),
        view.topic(),
        view.partition(),
        view.offset()
    );
    match on_other {
        OnDoubt::Accept => {
            tracing::warn!("{text}: accepted, the rows stay as they are");
            Ok(())
        }
        OnDoubt::Stop => Err(Unusable::Environment(format!(
            "{text}: run the former version until it has caught up, or set `on_other_decision = \"accept\"` to leave those rows as they are"
        ))),
    }
}

/// How commits of offsets call a ledger: by its name and its place, in few bytes, since brokers take little beside an offset.
fn place(ledger: &str, url: &Url) -> Arc<str> {
    let digest = Sha256::digest(url.as_str());
    let short: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{ledger}#{short}").into()
}

async fn open_or_create(store: &LogStoreRef, schema: &StructType, partition_by: &[String]) -> Result<Table, TableError> {
    if let Some(table) = Table::open(store.clone()).await? {
        return Ok(table);
    }
    if let Some(missing) = partition_by.iter().find(|name| schema.field(name.as_str()).is_none()) {
        let names: Vec<&str> = schema.fields().map(|field| field.name().as_str()).collect();
        return Err(TableError::Refused(format!("`partition_by` names {missing:?}, which no column is: there are {}", names.join(", "))));
    }
    if schema.fields().len() == partition_by.len() {
        return Err(TableError::Refused("`partition_by` names every column: one at least must stay in the files".into()));
    }
    Table::open_or_create(store.clone(), schema, partition_by).await
}
