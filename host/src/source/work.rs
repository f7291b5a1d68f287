//! What sources hand to workers.
//!
//! Invariant: batches of one partition go to one worker, in the order in which they were read.

use std::time::Duration;

use crate::ack::{Slot, Token, TopicPartition};
use crate::batch::Batch;
use crate::dead::Letter;

/// A batch on its way to a worker.
#[derive(Debug)]
pub struct Work {
    /// The partition.
    pub slot: Slot,
    /// The records.
    pub batch: Batch,
    /// What the source gives up of them, ordered by record.
    pub letters: Vec<Letter>,
    /// What is owed for them.
    pub token: Token,
}

/// What a worker is told.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all are work: a box for each would cost an allocation a batch")]
pub enum WorkerMessage {
    /// Decide these records.
    Work(Work),
    /// A partition left or is read again: drop what waits of this life of it.
    Forget(Slot, TopicPartition),
    /// A schema that batches wait for may be there now.
    SchemaAnswered,
}

/// Which bounds batches have.
#[derive(Debug, Clone, Copy)]
pub struct BatchBounds {
    /// Most records of one batch.
    pub records_max: usize,
    /// Most bytes of keys and values of one batch; a single larger record is a batch of its own.
    pub bytes_max: usize,
    /// How long a read waits for more records.
    pub linger: Duration,
}

/// The worker that decides the records of a partition.
pub fn worker_of(name: &TopicPartition, workers: usize) -> usize {
    // Neighbouring partitions of one topic go to different workers; topics start at different ones.
    let topic = name.topic.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    topic.wrapping_add(name.partition as usize) % workers.max(1)
}
