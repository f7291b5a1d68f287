//! One table commit: files and ledger in one step, on the version whose ledger was compared.
//!
//! Invariant: after any outcome that is not known, the log is searched for the flush's own nonce before anything is tried again,
//! so rows land once. Files are never deleted here: whether a commit names them may not be known yet.

use std::collections::HashMap;
use std::time::Duration;

use deltalake::DeltaTableError;
use deltalake::kernel::transaction::{CommitBuilder, CommitConflictError, CommitProperties, TableReference, TransactionError};
use deltalake::kernel::{Action, Add, MetadataExt, StructType, Transaction, Version};
use deltalake::protocol::{DeltaOperation, SaveMode};
use serde_json::Value;

use super::columns::merge;
use super::files::{local_path, sync};
use super::ledger::name_of;
use super::table::{DECISION, NONCE, TOPICS, Table, TableError, chain};

/// Attempts in a row that lose to other writers before the caller hears of it.
const CONFLICTS_MAX: u32 = 20;

/// What a flush says about one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Application id of the partition.
    pub app_id: String,
    /// What the table held of it when the first of these rows was taken; `None`: nothing.
    pub expected: Option<i64>,
    /// Last offset of these rows.
    pub last: i64,
}

/// Files that are written, to be committed with their positions.
#[derive(Debug)]
pub struct Flush {
    /// Files.
    pub adds: Vec<Add>,
    /// Columns of the files, partition columns included.
    pub schema: StructType,
    /// Columns by which the files are divided.
    pub partition_by: Vec<String>,
    /// One per partition with rows in the files.
    pub positions: Vec<Position>,
    /// Names the flush over all attempts.
    pub nonce: String,
    /// Digest of what decided about the records.
    pub decision: String,
    /// Per application id the generation in which the rows were read: for whoever reads the table's history.
    pub generations: HashMap<String, Value>,
    /// Ids of the topics that the rows come from, where brokers give them.
    pub topics: HashMap<String, Value>,
    /// How far it came.
    pub progress: Progress,
}

/// How far a flush came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Progress {
    /// Nothing of it is in the log.
    #[default]
    Written,
    /// An attempt was made whose outcome is not known.
    Unsure,
    /// It is in the log, with this version.
    Landed(Version),
}

/// Why a commit did not happen.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Try again later, with the same flush.
    #[error("{0}")]
    Unavailable(String),
    /// Another owner of a partition has committed: these rows are theirs to deliver.
    #[error("{0}")]
    Moved(String),
    /// The table holds less of a partition than it did: it was restored, or created again.
    #[error("{0}")]
    Restored(String),
    /// The table does not take the rows, and waiting does not help.
    #[error("{0}")]
    Refused(String),
}

impl From<TableError> for CommitError {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Unavailable(reason) => CommitError::Unavailable(reason),
            TableError::Refused(reason) => CommitError::Refused(reason),
        }
    }
}

/// Commits a flush, against other writers of the table too. After [`CommitError::Unavailable`] call it again with the same flush:
/// what landed without an answer is found.
///
/// # Errors
/// See [`CommitError`].
pub async fn commit(table: &mut Table, flush: &mut Flush) -> Result<Version, CommitError> {
    for conflicts in 0..CONFLICTS_MAX {
        if flush.progress == Progress::Unsure {
            let found = table.refresh(Some(&flush.nonce)).await?;
            flush.progress = found.map_or(Progress::Written, Progress::Landed);
        }
        if let Progress::Landed(version) = flush.progress {
            let entry = local_path(table.store().root_url(), &format!("_delta_log/{version:020}.json"));
            tokio::task::spawn_blocking(move || sync(entry)).await.map_err(|error| CommitError::Unavailable(error.to_string()))??;
            return Ok(version);
        }
        compare(table, &flush.positions)?;
        look_whether_restored(table, &flush.positions).await?;
        let actions = actions(table, flush)?;
        flush.progress = Progress::Unsure;
        let Err(error) = attempt(table, flush, actions).await? else {
            // Found in the log like any other outcome: so the table catches up through it.
            continue;
        };
        if let Some(refusal) = refusal(&error) {
            return Err(CommitError::Refused(refusal));
        }
        if !is_conflict(&error) {
            return Err(CommitError::Unavailable(chain(&error)));
        }
        tracing::debug!(error = %chain(&error), conflicts, "another commit came in between");
        tokio::time::sleep(Duration::from_millis(10 * u64::from(conflicts))).await;
    }
    Err(CommitError::Unavailable(format!("lost to other writers {CONFLICTS_MAX} times in a row")))
}

/// The ledger must stand where it stood when the rows were taken.
fn compare(table: &Table, positions: &[Position]) -> Result<(), CommitError> {
    for position in positions {
        let held = table.positions.get(&position.app_id).copied();
        if held == position.expected {
            continue;
        }
        let says = |held: Option<i64>| held.map_or("nothing".to_owned(), |held| format!("offset {held}"));
        let text = format!("ledger {:?} is at {}, {} was expected", position.app_id, says(held), says(position.expected));
        return Err(if held > position.expected { CommitError::Moved(text) } else { CommitError::Restored(text) });
    }
    Ok(())
}

/// `RESTORE` takes rows back and leaves the ledger as it is.
async fn look_whether_restored(table: &mut Table, positions: &[Position]) -> Result<(), CommitError> {
    let Some(ours) = positions.first().and_then(|position| name_of(&position.app_id)).filter(|_| table.may_be_restored) else {
        return Ok(());
    };
    match table.taken_back(|app_id| name_of(app_id) == Some(ours)).await? {
        Some((version, restored)) => Err(CommitError::Restored(format!("its version {version} restored version {restored}"))),
        None => {
            table.may_be_restored = false;
            Ok(())
        }
    }
}

fn actions(table: &Table, flush: &Flush) -> Result<Vec<Action>, CommitError> {
    let metadata = table.metadata()?;
    if metadata.partition_columns() != flush.partition_by.as_slice() {
        let found = metadata.partition_columns().join(", ");
        return Err(CommitError::Refused(format!("the table is partitioned by [{found}] now, not by [{}]", flush.partition_by.join(", "))));
    }
    let mut actions: Vec<Action> = flush.adds.iter().cloned().map(Action::Add).collect();
    let have = table.schema()?;
    if let Some(merged) = merge(&have, &flush.schema).map_err(CommitError::Refused)? {
        let metadata = metadata.clone().with_schema(&merged).map_err(|error| CommitError::Refused(chain(&error)))?;
        actions.push(Action::Metadata(metadata));
    }
    Ok(actions)
}

/// One attempt: the library rebases over commits that do not concern ours. The outer error is ours, before anything was sent.
async fn attempt(table: &Table, flush: &Flush, actions: Vec<Action>) -> Result<Result<(), DeltaTableError>, CommitError> {
    let mut info = HashMap::from([
        (NONCE.to_owned(), Value::from(flush.nonce.as_str())),
        (DECISION.to_owned(), Value::from(flush.decision.as_str())),
        ("anabranch.generations".to_owned(), Value::from_iter(flush.generations.clone())),
    ]);
    if !flush.topics.is_empty() {
        info.insert(TOPICS.to_owned(), Value::from_iter(flush.topics.clone()));
    }
    let transactions = flush.positions.iter().map(|position| Transaction::new(&position.app_id, position.last)).collect();
    // What belongs behind a commit is done apart, so that its failure does not look like the commit's.
    let properties = CommitProperties::default()
        .with_metadata(info)
        .with_application_transactions(transactions)
        .with_create_checkpoint(false)
        .with_cleanup_expired_logs(Some(false));
    let operation = DeltaOperation::Write {
        mode: SaveMode::Append,
        partition_by: (!flush.partition_by.is_empty()).then(|| flush.partition_by.clone()),
        predicate: None,
    };
    let state = table.state()?;
    let commit =
        CommitBuilder::from(properties).with_actions(actions).build(Some(state as &dyn TableReference), table.store().clone(), operation);
    Ok(async { commit.into_prepared_commit_future().await?.await.map(|_| ()) }.await)
}

fn is_conflict(error: &DeltaTableError) -> bool {
    matches!(
        error,
        DeltaTableError::VersionAlreadyExists(_)
            | DeltaTableError::Transaction { source: TransactionError::CommitConflict(_) | TransactionError::MaxCommitAttempts(_) }
    )
}

fn refusal(error: &DeltaTableError) -> Option<String> {
    let DeltaTableError::Transaction { source } = error else { return None };
    let refused = matches!(
        source,
        TransactionError::UnsupportedTableFeatures(_)
            | TransactionError::TableFeaturesRequired(_)
            | TransactionError::DeltaTableAppendOnly
            | TransactionError::CommitConflict(
                CommitConflictError::UnsupportedWriterVersion(_) | CommitConflictError::UnsupportedReaderVersion(_)
            )
    );
    refused.then(|| chain(error))
}
