//! What the host offers an instance: log, metrics, schemas, clock.
//!
//! Invariant: no import blocks, each bounds what it keeps, and nothing that a call leaves counts before the call is done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::bind::anabranch::plugin::{clock, log, metrics, schemas, types};
use super::limits::{Bounds, clean};
use super::shared::{Left, METRICS_MAX, Shared, Update};
use crate::observe::plugin::OwnKind;
use crate::value::Kind;

/// Log lines that one call may leave behind.
const LOG_LINES_PER_CALL_MAX: usize = 1000;
/// Values that one call may have one histogram observe.
const OBSERVED_PER_CALL_MAX: usize = 10_000;
/// How the text begins that the SDK logs when a plugin panics.
const PANIC: &str = "panicked at ";

/// The host's side of one instance.
pub struct Guest {
    pub(super) shared: Arc<Shared>,
    pub(super) bounds: Bounds,
    kinds: BTreeMap<u32, OwnKind>,
    left: Left,
    refused: usize,
    panic: Option<String>,
}

impl Guest {
    /// Nothing was asked for yet.
    pub fn new(shared: Arc<Shared>, bounds: Bounds) -> Self {
        Guest { shared, bounds, kinds: BTreeMap::new(), left: Left::default(), refused: 0, panic: None }
    }

    /// What the last call left: it counts if the call does.
    pub fn take(&mut self) -> Left {
        std::mem::take(&mut self.left)
    }

    /// Where and why the plugin panicked, if it said so.
    pub fn panic(&mut self) -> Option<String> {
        self.panic.take()
    }

    fn say(&mut self, level: log::Level, line: String) {
        if self.left.lines.len() < LOG_LINES_PER_CALL_MAX {
            self.left.lines.push((level, line));
        } else {
            self.left.left_out += 1;
        }
    }
}

impl log::Host for Guest {
    fn enabled(&mut self, level: log::Level) -> bool {
        match level {
            log::Level::Trace => tracing::enabled!(target: "plugin", tracing::Level::TRACE),
            log::Level::Debug => tracing::enabled!(target: "plugin", tracing::Level::DEBUG),
            log::Level::Info => tracing::enabled!(target: "plugin", tracing::Level::INFO),
            log::Level::Warn => tracing::enabled!(target: "plugin", tracing::Level::WARN),
            log::Level::Error => tracing::enabled!(target: "plugin", tracing::Level::ERROR),
        }
    }

    fn log(&mut self, level: log::Level, message: String) {
        if message.starts_with(PANIC) {
            self.panic = Some(clean(&message));
        }
        self.say(level, clean(&message));
    }
}

impl metrics::Host for Guest {
    fn register(&mut self, kind: metrics::Kind, name: String, help: String) -> u32 {
        let kind = match kind {
            metrics::Kind::Counter => OwnKind::Counter,
            metrics::Kind::Gauge => OwnKind::Gauge,
            metrics::Kind::Histogram => OwnKind::Histogram,
        };
        match self.shared.register_metric(kind, &name, &help) {
            Ok(index) => {
                self.kinds.insert(index, kind);
                index
            }
            Err(reason) => {
                self.refused += 1;
                if self.refused <= METRICS_MAX {
                    self.say(log::Level::Warn, format!("{reason}; it is not kept"));
                }
                // Updates of a number that nobody has are dropped.
                u32::MAX
            }
        }
    }

    fn update(&mut self, values: Vec<(u32, f64)>) {
        for (index, value) in values.into_iter().filter(|(_, value)| value.is_finite()) {
            match self.kinds.get(&index) {
                None => (),
                Some(OwnKind::Counter) => {
                    // A counter never goes down.
                    if let Update::Add(sum) = self.left.updates.entry(index).or_insert(Update::Add(0.0)) {
                        *sum += value.max(0.0);
                    }
                }
                Some(OwnKind::Gauge) => drop(self.left.updates.insert(index, Update::Set(value))),
                Some(OwnKind::Histogram) => {
                    if let Update::Observe(values) = self.left.updates.entry(index).or_insert_with(|| Update::Observe(Vec::new()))
                        && values.len() < OBSERVED_PER_CALL_MAX
                    {
                        values.push(value);
                    }
                }
            }
        }
    }
}

impl schemas::Host for Guest {
    fn describe(&mut self, handle: u32) -> Option<schemas::Description> {
        let snapshot = self.shared.schemas.snapshot();
        let entry = snapshot.get(handle)?;
        let (subject, version) = entry.subject.clone().unzip();
        Some(schemas::Description { definition: entry.schema.definition().to_owned(), id: entry.id, subject, version })
    }

    fn find(&mut self, handle: u32, wanted: types::WantedField) -> Option<schemas::Field> {
        let snapshot = self.shared.schemas.snapshot();
        let found = snapshot.get(handle)?.schema.find(&wanted.path)?;
        Some(schemas::Field { kind: wit_kind(found.kind), nullable: found.nullable, definition: found.definition })
    }

    fn register(&mut self, definition: String) -> Result<u32, String> {
        self.shared.register_schema(&definition)
    }
}

impl clock::Host for Guest {
    fn now_ms(&mut self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }
}

impl types::Host for Guest {}

/// A kind of column in the contract's words.
pub fn wit_kind(kind: Kind) -> types::Kind {
    match kind {
        Kind::Integers => types::Kind::Integers,
        Kind::Floats => types::Kind::Floats,
        Kind::Booleans => types::Kind::Booleans,
        Kind::Texts => types::Kind::Texts,
        Kind::Binaries => types::Kind::Binaries,
        Kind::Dates => types::Kind::Dates,
        Kind::Times => types::Kind::Times,
        Kind::Timestamps => types::Kind::Timestamps,
        Kind::Decimals => types::Kind::Decimals,
        Kind::Documents => types::Kind::Documents,
    }
}
