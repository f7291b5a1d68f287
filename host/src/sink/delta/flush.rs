//! One flush: rows into files, files and ledger into the tables, while the next rows come in.
//!
//! Invariant: nothing is committed before the dead letters of the records that it covers are durable. Where a place does not answer, a flush waits and tries again with the same files; it gives nothing up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use deltalake::kernel::{Add, Version};
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::commit::{CommitError, Flush, Progress, commit};
use super::config::Compression;
use super::files::{Layout, write};
use super::rows::Taken;
use super::table::{Table, TableError};
use crate::ack::{Slot, Token};
use crate::dead::Durable;
use crate::observe::SinkMetrics;

/// First wait for a place that does not answer; it doubles.
const WAIT_MIN: Duration = Duration::from_millis(100);
/// Longest wait between two tries.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Waits that become longer, up to a bound, with jitter.
#[derive(Debug)]
pub struct Waits(Duration);

impl Default for Waits {
    /// The first wait is the shortest.
    fn default() -> Self {
        Waits(WAIT_MIN)
    }
}

impl Waits {
    /// Waits, each time for longer. Cancel safe.
    pub async fn wait(&mut self) {
        // Several sinks that lost the same disk should not all come back in the same moment.
        let jitter = 0.5 + f64::from(Uuid::new_v4().as_bytes()[0]) / 512.0;
        tokio::time::sleep(self.0.mul_f64(jitter)).await;
        self.0 = (self.0 * 2).min(WAIT_MAX);
    }
}

/// Rows for one table.
#[derive(Debug)]
pub struct Load {
    /// Which table, as the caller counts them.
    pub index: usize,
    /// The table.
    pub table: Table,
    /// The rows, and what the ledger will say.
    pub taken: Taken,
    /// Columns by which files are divided.
    pub partition_by: Vec<String>,
    /// Ids of the topics that the rows come from.
    pub topics: HashMap<String, Value>,
}

/// What a flush sets out with.
#[derive(Debug)]
pub struct Job {
    /// What each table gets.
    pub loads: Vec<Load>,
    /// Settled when everything is durable.
    pub tokens: Vec<Token>,
    /// Dead letters of records that are covered.
    pub durables: Vec<(Slot, Durable)>,
    /// Compression of files.
    pub compression: Compression,
    /// Digest of what decided about the records.
    pub decision: Arc<str>,
    /// Counters, and what is said while a place does not answer.
    pub metrics: SinkMetrics,
}

/// How it ended.
#[derive(Debug)]
pub struct Done {
    /// The tables, with the version that each has now where one landed.
    pub tables: Vec<(usize, Table, Option<Version>)>,
    /// Tokens that nobody settled yet.
    pub tokens: Vec<Token>,
    /// Whether all of it is durable.
    pub result: Result<(), Failure>,
}

/// Why a flush is abandoned.
#[derive(Debug)]
pub enum Failure {
    /// Partitions left, or read again: nothing is wrong.
    Left,
    /// Another owner of a partition has committed.
    Moved(String),
    /// The table holds less than it did.
    Restored(String),
    /// The table does not take the rows.
    Refused(String),
}

/// Flushes. Returns when everything is durable, or given back to be read again.
pub async fn run(job: Job) -> Done {
    let Job { loads, tokens, durables, compression, decision, metrics } = job;
    let started = Instant::now();
    let mut result = letters_are_durable(durables).await;
    let mut tables = Vec::with_capacity(loads.len());
    for load in loads {
        let index = load.index;
        let mut landed = None;
        let table;
        if result.is_ok() {
            let rows: usize = load.taken.batches.iter().map(RecordBatch::num_rows).sum();
            let (back, done) = one(load, compression, &decision, &tokens, &metrics).await;
            table = back;
            match done {
                Ok((version, bytes)) => {
                    landed = Some(version);
                    metrics.outputs.inc_by(rows as u64);
                    metrics.bytes.inc_by(bytes);
                }
                Err(failure) => result = Err(failure),
            }
        } else {
            table = load.table;
        }
        tables.push((index, table, landed));
    }
    if result.is_ok() {
        metrics.flush.observe(started.elapsed().as_secs_f64());
    }
    Done { tables, tokens, result }
}

async fn letters_are_durable(durables: Vec<(Slot, Durable)>) -> Result<(), Failure> {
    for (_, durable) in durables {
        durable.await.map_err(|_| Failure::Left)?;
    }
    Ok(())
}

/// The rows of one table: the table comes back in any case.
async fn one(
    load: Load,
    compression: Compression,
    decision: &str,
    tokens: &[Token],
    metrics: &SinkMetrics,
) -> (Table, Result<(Version, u64), Failure>) {
    let Load { mut table, taken, partition_by, topics, .. } = load;
    let layout = Layout { url: table.store().root_url().clone(), schema: taken.schema, partition_by: partition_by.clone(), compression };
    let adds = match files(layout, taken.batches, tokens, metrics).await {
        Ok(adds) => adds,
        Err(failure) => return (table, Err(failure)),
    };
    let bytes = adds.iter().map(|add| add.size.unsigned_abs()).sum();
    let generations: HashMap<String, Value> = taken.generations.into_iter().map(|(id, generation)| (id, generation.into())).collect();
    let mut flush = Flush {
        adds,
        schema: taken.columns,
        partition_by,
        positions: taken.positions,
        nonce: Uuid::new_v4().to_string(),
        decision: decision.to_owned(),
        generations,
        topics,
        progress: Progress::default(),
    };
    let landed = land(&mut table, &mut flush, tokens, metrics).await;
    (table, landed.map(|version| (version, bytes)))
}

/// Commits until it landed, or until there is a reason to stop.
async fn land(table: &mut Table, flush: &mut Flush, tokens: &[Token], metrics: &SinkMetrics) -> Result<Version, Failure> {
    let mut waits = Waits::default();
    loop {
        // Rows of a partition that left meanwhile may land all the same: its next owner finds them in the ledger, or is refused by
        // it. Only when nobody here waits for any of them is there no reason to write.
        if !tokens.iter().any(Token::is_current) {
            return Err(Failure::Left);
        }
        match commit(table, flush).await {
            Ok(version) => {
                metrics.up();
                return Ok(version);
            }
            Err(CommitError::Unavailable(reason)) => {
                metrics.down(&reason);
                metrics.retries.inc();
            }
            Err(CommitError::Moved(reason)) => return Err(Failure::Moved(reason)),
            Err(CommitError::Restored(reason)) => return Err(Failure::Restored(reason)),
            Err(CommitError::Refused(reason)) => return Err(Failure::Refused(reason)),
        }
        waits.wait().await;
    }
}

async fn files(layout: Layout, batches: Vec<RecordBatch>, tokens: &[Token], metrics: &SinkMetrics) -> Result<Vec<Add>, Failure> {
    let mut waits = Waits::default();
    loop {
        // Clones of batches share their buffers.
        match write(layout.clone(), batches.clone()).await {
            Ok(adds) => {
                metrics.up();
                return Ok(adds);
            }
            Err(TableError::Refused(reason)) => return Err(Failure::Refused(reason)),
            Err(TableError::Unavailable(reason)) => {
                metrics.down(&reason);
                metrics.retries.inc();
            }
        }
        waits.wait().await;
        if !tokens.iter().any(Token::is_current) {
            return Err(Failure::Left);
        }
    }
}
