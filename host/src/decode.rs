//! Decoding, first half: which schema each record has. The second half is lazy: values stay in their wire form until somebody
//! needs them otherwise (see `value`).
//!
//! Invariant (I10): a record becomes a dead letter only for what is wrong with itself; while the registry does not answer, its batch waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::batch::{Batch, Entries, Handles, PREFIX_LEN};
use crate::dead::{Class, Letter};
use crate::output::Formats;
use crate::schemas::Schemas;
use crate::source::work::WorkerMessage;
use crate::stop::Stop;
use crate::value::{Format, Schema};

/// What the registry says of an id.
#[derive(Debug, Clone)]
pub enum Answer {
    /// The schema, and its subject and version where they were asked for.
    Found(Arc<Schema>, Option<(String, u32)>),
    /// The registry is sure that it has no such schema.
    NotThere,
    /// The registry has it, but it cannot be used: what is wrong.
    Unusable(String),
    /// No answer that means anything: ask again.
    Unavailable(String),
}

/// A registry, as decoding sees it.
pub trait Ask: Send + Sync {
    /// Asks for a schema by its id.
    fn ask(&self, id: u32) -> BoxFuture<'_, Answer>;
}

/// What is known of a schema id now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Its handle.
    Handle(u32),
    /// It will not be had: why.
    Bad(Class, String),
    /// The registry is being asked; the workers hear [`WorkerMessage::SchemaAnswered`].
    Waiting,
}

#[derive(Debug)]
enum Asked {
    Pending,
    Bad { class: Class, reason: String, until: Instant },
}

/// Finds the schemas of a route's records; shared by its workers.
pub struct Resolver {
    schemas: Arc<Schemas>,
    registry: Option<Arc<dyn Ask>>,
    asked: Mutex<HashMap<u32, Asked>>,
    workers: Mutex<Vec<mpsc::Sender<WorkerMessage>>>,
    unknown_schema_wait: Duration,
    runtime: tokio::runtime::Handle,
    stop: Stop,
}

/// Pause between two questions for a schema that the registry says it has not, or that it did not answer for.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl Resolver {
    /// A resolver over `registry`. `unknown_schema_wait`: how long a schema that the registry does not have is asked for again before
    /// its records are given up, and for how long that answer is kept. Call it inside a tokio runtime.
    pub fn new(
        schemas: Arc<Schemas>,
        registry: Option<Arc<dyn Ask>>,
        workers: Vec<mpsc::Sender<WorkerMessage>>,
        unknown_schema_wait: Duration,
        stop: Stop,
    ) -> Arc<Self> {
        let runtime = tokio::runtime::Handle::current();
        Arc::new(Resolver { schemas, registry, asked: Mutex::default(), workers: Mutex::new(workers), unknown_schema_wait, runtime, stop })
    }

    /// Tells the workers nothing any more. To be called when the source has ended: workers share the resolver and end when nobody can
    /// write to their inboxes, so without it they wait for each other for ever.
    pub fn close(&self) {
        self.workers.lock().clear();
    }

    /// What is known of `id`; the first question starts the search.
    pub fn find(self: &Arc<Self>, id: u32) -> Known {
        if let Some(handle) = self.schemas.of_id(id) {
            return Known::Handle(handle);
        }
        let Some(registry) = &self.registry else {
            return Known::Bad(Class::Schema, "the route has no registry to ask for its schema".to_owned());
        };
        let mut asked = self.asked.lock();
        match asked.get(&id) {
            Some(Asked::Pending) => return Known::Waiting,
            Some(Asked::Bad { class, reason, until }) if *until > Instant::now() => return Known::Bad(*class, reason.clone()),
            _ => (),
        }
        asked.insert(id, Asked::Pending);
        self.runtime.spawn(self.clone().search(registry.clone(), id));
        Known::Waiting
    }

    async fn search(self: Arc<Self>, registry: Arc<dyn Ask>, id: u32) {
        let mut missing_since = None;
        loop {
            let bad = match registry.ask(id).await {
                Answer::Found(schema, subject) => match self.schemas.add(id, schema, subject) {
                    Ok(_) => {
                        self.asked.lock().remove(&id);
                        break;
                    }
                    Err(error) => Some((Class::Schema, error.to_string())),
                },
                Answer::Unusable(reason) => Some((Class::Schema, reason)),
                Answer::NotThere => {
                    let since = *missing_since.get_or_insert_with(Instant::now);
                    let given_up = since.elapsed() >= self.unknown_schema_wait;
                    given_up.then(|| (Class::Schema, format!("the registry has no schema {id}")))
                }
                Answer::Unavailable(_) => {
                    missing_since = None;
                    None
                }
            };
            if let Some((class, reason)) = bad {
                let until = Instant::now() + self.unknown_schema_wait;
                self.asked.lock().insert(id, Asked::Bad { class, reason, until });
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(ASK_AGAIN) => (),
                // The workers let go of what waits for it: a drain would wait for that in vain.
                _ = self.stop.stopped() => break,
            }
        }
        for worker in self.workers.lock().iter() {
            // A worker that ended waits for nothing.
            let _ = worker.send(WorkerMessage::SchemaAnswered);
        }
    }

    /// Finds the schemas of a batch's keys and values and sets their handles. `None`: a schema is being asked for, nothing is changed.
    pub fn resolve(self: &Arc<Self>, batch: &mut Batch, formats: Formats) -> Option<Vec<Letter>> {
        let mut letters = Vec::new();
        let keys = self.part(&batch.keys, formats.key, "key", &mut letters)?;
        let values = self.part(&batch.values, formats.value, "value", &mut letters)?;
        batch.key_schemas = keys;
        batch.value_schemas = values;
        letters.sort_by_key(|letter| letter.record);
        letters.dedup_by_key(|letter| letter.record);
        Some(letters)
    }

    fn part(self: &Arc<Self>, entries: &Entries, format: Format, part: &str, letters: &mut Vec<Letter>) -> Option<Handles> {
        let framed = match format {
            Format::Avro => true,
            // A route without a registry takes every first byte as JSON.
            Format::Json => self.registry.is_some(),
            Format::Raw | Format::Cbor => false,
        };
        if !framed {
            return Some(Handles::All(0));
        }
        let mut handles = Vec::with_capacity(entries.len());
        // Most batches have one schema: remember the last answer.
        let mut last: Option<(u32, u32)> = None;
        for record in 0..entries.len() {
            let handle = match entries.get(record).map(|bytes| prefix(bytes, format)) {
                None | Some(Prefix::Absent) => 0,
                Some(Prefix::Id(id)) => match last {
                    Some((known, handle)) if known == id => handle,
                    _ => match self.find(id) {
                        Known::Handle(handle) => {
                            last = Some((id, handle));
                            handle
                        }
                        Known::Waiting => return None,
                        Known::Bad(class, reason) => {
                            letters.push(letter(record, class, "schema", format!("{part}: {reason}")));
                            0
                        }
                    },
                },
                Some(Prefix::Wrong(reason)) => {
                    letters.push(letter(record, Class::Decode, "framing", format!("{part}: {reason}")));
                    0
                }
            };
            handles.push(handle);
        }
        Some(Handles::from_each(handles))
    }
}

fn letter(record: usize, class: Class, code: &str, message: String) -> Letter {
    Letter { record: record as u32, class, code: code.to_owned(), message, by: "decode".into(), digest: None, attempts: 1 }
}

enum Prefix {
    Absent,
    Id(u32),
    Wrong(String),
}

/// Reads the registry's prefix: a zero byte and the id, 4 bytes, big endian (Confluent wire format).
fn prefix(bytes: &[u8], format: Format) -> Prefix {
    match bytes {
        [0, a, b, c, d, ..] => Prefix::Id(u32::from_be_bytes([*a, *b, *c, *d])),
        // JSON text never starts with a zero byte.
        _ if format == Format::Json && bytes.first() != Some(&0) => Prefix::Absent,
        [] => Prefix::Wrong(format!("is empty, not even the {PREFIX_LEN} bytes of a schema id")),
        [0, ..] => Prefix::Wrong(format!("has {} bytes, fewer than the {PREFIX_LEN} of a schema id", bytes.len())),
        [first, ..] => Prefix::Wrong(format!("starts with byte {first:#04x}, not with the 0x00 of a value with a schema id")),
    }
}

#[cfg(test)]
mod tests;
