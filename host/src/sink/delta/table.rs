//! One Delta table: opened, created, and kept up with what it and others commit.
//!
//! Invariant (I7): `positions` are the application transactions of exactly the version that is loaded, so comparing them and committing
//! on that version is one step: a commit in between is a conflict.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use deltalake::kernel::{Metadata, StructType, Version};
use deltalake::logstore::{LogStoreRef, StorageConfig, logstore_for};
use deltalake::operations::create::CreateBuilder;
use deltalake::protocol::SaveMode;
use deltalake::table::builder::DeltaTableConfig;
use deltalake::table::state::DeltaTableState;
use deltalake::{DeltaTable, DeltaTableError};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::files::local_path;
use super::ledger::{Positions, replay};
use super::log::LocalLog;
use deltalake::kernel::transaction::CommitProperties;

/// Key in a commit's info: names one flush of one sink, over all attempts to commit it.
pub const NONCE: &str = "anabranch.nonce";
/// Key in a commit's info: digest of what decided about the records.
pub const DECISION: &str = "anabranch.decision";
/// Key in a commit's info: ids of the topics that the records come from.
pub const TOPICS: &str = "anabranch.topics";

/// How far back a commit is looked for.
const VERSIONS_BACK_MAX: u64 = 1_000;

/// Why a table cannot be used now.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Try again later: the place does not answer.
    #[error("{0}")]
    Unavailable(String),
    /// Waiting does not help.
    #[error("{0}")]
    Refused(String),
}

impl From<DeltaTableError> for TableError {
    fn from(error: DeltaTableError) -> Self {
        match error {
            DeltaTableError::MissingFeature { .. } | DeltaTableError::InvalidTableLocation(_) => TableError::Refused(chain(&error)),
            _ => TableError::Unavailable(chain(&error)),
        }
    }
}

/// An error with its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.replace('\n', " ")
}

/// A table at the version that was loaded last.
#[derive(Clone)]
pub struct Table {
    store: LogStoreRef,
    table: DeltaTable,
    /// Application transactions of the loaded version.
    pub positions: Positions,
    /// Version of the last checkpoint that is known.
    pub checkpoint: Option<Version>,
    /// Others may have restored an older version since the table was opened: see [`Table::taken_back`].
    pub may_be_restored: bool,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("url", &self.store.root_url().as_str()).field("version", &self.table.version()).finish()
    }
}

/// The log store of a place.
///
/// # Errors
/// Where no storage is built in for the scheme.
pub fn log_store(url: &Url) -> Result<LogStoreRef, TableError> {
    let store = logstore_for(url, StorageConfig::default())
        .map_err(|error| TableError::Refused(format!("no storage for {url}: {}; local paths work", chain(&error))))?;
    match local_path(url, "_delta_log") {
        Some(folder) => Ok(Arc::new(LocalLog::new(store, folder))),
        None => Ok(store),
    }
}

#[derive(Deserialize)]
struct TxnLine {
    #[serde(rename = "appId")]
    app_id: String,
    version: i64,
}

#[derive(Deserialize)]
struct Line {
    txn: Option<TxnLine>,
    #[serde(rename = "commitInfo")]
    commit_info: Option<HashMap<String, Value>>,
}

/// What the log entry of one version says about ledgers.
struct Entry {
    positions: Vec<(String, i64)>,
    info: HashMap<String, Value>,
}

/// What a commit says of its records.
#[derive(Debug, Default)]
pub struct Brought {
    /// Digest of what decided about them.
    pub decision: Option<String>,
    /// Ids of the topics that they come from.
    pub topics: HashMap<String, String>,
}

/// What is new in some versions.
#[derive(Debug, Default)]
struct News {
    /// The version with the nonce.
    found: Option<Version>,
    /// Positions that moved.
    positions: Vec<(String, i64)>,
    /// Whether one restored an older version.
    restores: bool,
}

impl Entry {
    fn brought(&self) -> Brought {
        let decision = self.info.get(DECISION).and_then(Value::as_str).map(str::to_owned);
        let topics = self.info.get(TOPICS).and_then(Value::as_object).into_iter().flatten();
        let topics = topics.filter_map(|(topic, id)| Some((topic.clone(), id.as_str()?.to_owned()))).collect();
        Brought { decision, topics }
    }

    /// Which version this one restored (`RESTORE TABLE`); 0 where it does not say.
    fn restored(&self) -> Option<Version> {
        if self.info.get("operation").and_then(Value::as_str) != Some("RESTORE") {
            return None;
        }
        // Spark writes parameters as text.
        let version = self.info.get("operationParameters").map(|parameters| &parameters["version"]);
        let number = version.and_then(|version| version.as_u64().or_else(|| version.as_str()?.parse().ok()));
        Some(number.unwrap_or_default())
    }
}

impl Table {
    /// Opens the table of `store`; `None`: there is none.
    ///
    /// # Errors
    /// Where its log cannot be read.
    pub async fn open(store: LogStoreRef) -> Result<Option<Table>, TableError> {
        if !store.is_delta_table_location().await? {
            return Ok(None);
        }
        // Files are never listed: appending needs none of them, and a table may have hundreds of thousands.
        let config = DeltaTableConfig { require_files: false, ..DeltaTableConfig::default() };
        let mut table = DeltaTable::new(store.clone(), config);
        table.load().await?;
        let version = table.version().unwrap_or_default();
        let engine = store.engine(None);
        let root = store.root_url().to_string();
        let replay = tokio::task::spawn_blocking(move || replay(&root, version, engine.as_ref()))
            .await
            .map_err(|error| TableError::Unavailable(error.to_string()))?
            .map_err(|error| TableError::Unavailable(chain(&error)))?;
        Ok(Some(Table { store, table, positions: replay.positions, checkpoint: replay.checkpoint, may_be_restored: false }))
    }

    /// Opens the table, or creates it with these columns. Two that create it at once end up with the same one.
    ///
    /// # Errors
    /// As [`Table::open`]; where the place cannot be written.
    pub async fn open_or_create(store: LogStoreRef, schema: &StructType, partition_by: &[String]) -> Result<Table, TableError> {
        if let Some(table) = Table::open(store.clone()).await? {
            return Ok(table);
        }
        // Without a retry a rival's first version is an error here; with one, the library would put our metadata on top of theirs.
        let properties =
            CommitProperties::default().with_max_retries(0).with_create_checkpoint(false).with_cleanup_expired_logs(Some(false));
        let created = CreateBuilder::new()
            .with_log_store(store.clone())
            .with_columns(schema.fields().cloned())
            .with_partition_columns(partition_by)
            .with_save_mode(SaveMode::ErrorIfExists)
            .with_commit_properties(properties)
            .await;
        match (Table::open(store).await?, created) {
            (Some(table), _) => Ok(table),
            (None, Ok(_)) => Err(TableError::Unavailable("the table was created and is not there".into())),
            (None, Err(error)) => Err(error.into()),
        }
    }

    /// Where the table's log is kept.
    pub fn store(&self) -> &LogStoreRef {
        &self.store
    }

    /// The loaded version as the library holds it.
    ///
    /// # Errors
    /// Never: a table is loaded when it is opened.
    pub fn state(&self) -> Result<&DeltaTableState, TableError> {
        Ok(self.table.snapshot()?)
    }

    /// The loaded version.
    pub fn version(&self) -> Version {
        self.table.version().unwrap_or_default()
    }

    /// The table's metadata.
    ///
    /// # Errors
    /// See [`Table::state`].
    pub fn metadata(&self) -> Result<&Metadata, TableError> {
        Ok(self.state()?.metadata())
    }

    /// The table's columns.
    ///
    /// # Errors
    /// See [`Table::state`].
    pub fn schema(&self) -> Result<Arc<StructType>, TableError> {
        Ok(self.state()?.schema())
    }

    /// Catches up with the log. Returns the version that carries `nonce`, if one of the new versions does.
    ///
    /// Not finding a commit that landed (its entry was cleaned up) loses nothing: its positions are in the table.
    ///
    /// # Errors
    /// Where the log cannot be read; then the table is as it was.
    pub async fn refresh(&mut self, nonce: Option<&str>) -> Result<Option<Version>, TableError> {
        let base = self.version();
        let Ok(latest) = self.store.get_latest_version(base).await else {
            // The version that we know is gone: the table was restored, or created again. Or the place does not answer.
            self.reload().await?;
            let from = if self.version() > base { base + 1 } else { 0 };
            return Ok(self.read(from, self.version(), nonce).await?.and_then(|news| news.found));
        };
        if latest == base {
            return Ok(None);
        }
        match self.read(base + 1, latest, nonce).await? {
            Some(news) => {
                self.table.update_incremental(Some(latest)).await?;
                self.positions.extend(news.positions);
                self.may_be_restored |= news.restores;
                Ok(news.found)
            }
            None => self.reload().await.map(|()| None),
        }
    }

    /// What is new in these versions; `None`: an entry is not in the log any more.
    async fn read(&self, from: Version, to: Version, nonce: Option<&str>) -> Result<Option<News>, TableError> {
        let mut news = News::default();
        if to.saturating_sub(from) > VERSIONS_BACK_MAX {
            return Ok(None);
        }
        for version in from..=to {
            let Some(entry) = self.entry(version).await? else { return Ok(None) };
            if nonce.is_some() && entry.info.get(NONCE).and_then(Value::as_str) == nonce {
                news.found = Some(version);
            }
            news.restores |= entry.restored().is_some();
            news.positions.extend(entry.positions);
        }
        Ok(Some(news))
    }

    /// Loads the table anew.
    ///
    /// # Errors
    /// Where there is none any more, or its log cannot be read.
    pub async fn reload(&mut self) -> Result<(), TableError> {
        match Table::open(self.store.clone()).await? {
            Some(table) => {
                *self = Table { may_be_restored: true, ..table };
                Ok(())
            }
            None => Err(TableError::Unavailable(format!("the table at {} is gone", self.store.root_url()))),
        }
    }

    /// The commit that brought `app_id` to where it is; `None`: it is not in the log any more.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub async fn brought(&self, app_id: &str) -> Result<Option<Brought>, TableError> {
        let newest = self.version();
        for version in (newest.saturating_sub(VERSIONS_BACK_MAX)..=newest).rev() {
            let Some(entry) = self.entry(version).await? else { return Ok(None) };
            if entry.positions.iter().any(|(id, _)| id == app_id) {
                return Ok(Some(entry.brought()));
            }
        }
        Ok(None)
    }

    /// Where a version was restored that is older than the last commit of a ledger, so that its rows are gone though its positions are
    /// not: the version that restored, and the restored one. Commits of the ledger since then mean that this was accepted.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub async fn taken_back(&self, is_ours: impl Fn(&str) -> bool) -> Result<Option<(Version, Version)>, TableError> {
        if !self.positions.keys().any(|app_id| is_ours(app_id)) {
            return Ok(None);
        }
        let is_ours = |entry: &Entry| entry.positions.iter().any(|(app_id, _)| is_ours(app_id));
        let mut version = self.version();
        for _ in 0..VERSIONS_BACK_MAX {
            // What was cleaned up says nothing any more.
            let Some(entry) = self.entry(version).await? else { break };
            if is_ours(&entry) {
                break;
            }
            let Some(restored) = entry.restored() else {
                let Some(before) = version.checked_sub(1) else { break };
                version = before;
                continue;
            };
            for between in (restored + 1..version).rev().take(VERSIONS_BACK_MAX as usize) {
                if self.entry(between).await?.is_some_and(|entry| is_ours(&entry)) {
                    return Ok(Some((version, restored)));
                }
            }
            if restored >= version {
                break;
            }
            version = restored;
        }
        Ok(None)
    }

    /// The latest ids of topics that commits of the last versions name.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub async fn topic_ids(&self, topics: &HashSet<Arc<str>>) -> Result<HashMap<Arc<str>, Arc<str>>, TableError> {
        let newest = self.version();
        let mut ids = HashMap::new();
        for version in (newest.saturating_sub(VERSIONS_BACK_MAX)..=newest).rev() {
            if ids.len() == topics.len() {
                break;
            }
            let Some(entry) = self.entry(version).await? else { break };
            let brought = entry.brought();
            for topic in topics.iter().filter(|topic| brought.topics.contains_key(&***topic)) {
                ids.entry(topic.clone()).or_insert_with(|| brought.topics[&**topic].as_str().into());
            }
        }
        Ok(ids)
    }

    async fn entry(&self, version: Version) -> Result<Option<Entry>, TableError> {
        let Some(bytes) = self.store.read_commit_entry(version).await? else { return Ok(None) };
        let mut entry = Entry { positions: Vec::new(), info: HashMap::new() };
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line: Line = serde_json::from_slice(line)
                .map_err(|error| TableError::Unavailable(format!("version {version} of the table's log cannot be read: {error}")))?;
            if let Some(txn) = line.txn {
                entry.positions.push((txn.app_id, txn.version));
            }
            if let Some(info) = line.commit_info {
                entry.info = info;
            }
        }
        Ok(Some(entry))
    }

    /// Writes a checkpoint of the loaded version, and removes log entries that the table need not keep.
    ///
    /// # Errors
    /// Where it cannot be written: it is due again then.
    pub async fn write_checkpoint(self) -> Result<Version, TableError> {
        let runtime = tokio::runtime::Handle::current();
        let version = self.version();
        let table = self.table;
        let written = tokio::task::spawn_blocking(move || {
            runtime.block_on(async {
                use deltalake::table::config::TablePropertiesExt;
                deltalake::checkpoints::create_checkpoint(&table, None).await?;
                if table.snapshot()?.table_config().enable_expired_log_cleanup() {
                    deltalake::checkpoints::cleanup_metadata(&table, None).await?;
                }
                Ok::<(), DeltaTableError>(())
            })
        });
        written.await.map_err(|error| TableError::Unavailable(error.to_string()))??;
        Ok(version)
    }
}
