//! One live instance of a plugin, and what the host offers it.
//!
//! Invariant: no import blocks; log lines and metrics of a call count only once the call is done; an instance that trapped is never
//! called again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use wasmtime::{Store, StoreLimits, StoreLimitsBuilder};

use super::bind::anabranch::plugin::{clock, log, metrics, schemas, types};
use super::bind::exports::anabranch::plugin::transform;
use super::bind::{self};
use super::engine::{Component, TICK};
use crate::observe::Metrics;
use crate::schemas::Schemas;
use crate::value::Kind;

/// Metrics that one plugin may register.
const METRICS_MAX: usize = 100;
/// Bytes of one log line.
const LOG_LINE_MAX: usize = 2048;
/// Log lines that one call may leave behind.
const LOG_LINES_PER_CALL_MAX: usize = 1000;
/// Bytes that a guest may hand over in one call, results and arguments of imports together.
const HANDED_OVER_MAX: usize = 256 << 20;

/// The limits of one plugin.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of linear memory.
    pub memory_max: usize,
    /// Of one `process`.
    pub deadline: Duration,
    /// Of `init`.
    pub init_deadline: Duration,
    /// Log lines in a second.
    pub log_lines_max: u32,
}

/// What all instances of one plugin on one route share.
#[derive(Debug)]
pub struct Shared {
    /// Name of the plugin.
    pub plugin: String,
    /// Name of the route.
    pub route: String,
    /// The route's schemas.
    pub schemas: Arc<Schemas>,
    /// Where its metrics are registered; `None`: nobody looks at them (`check`).
    pub metrics: Option<Metrics>,
    /// Its limits.
    pub limits: Limits,
    known: Mutex<Vec<Metric>>,
    window: Mutex<(Instant, u32)>,
}

#[derive(Debug, Clone)]
struct Metric {
    name: String,
    kind: metrics::Kind,
    counter: Counter<f64, std::sync::atomic::AtomicU64>,
    gauge: Gauge<f64, std::sync::atomic::AtomicU64>,
    histogram: Histogram,
}

impl Shared {
    /// Nothing is registered yet.
    pub fn new(plugin: &str, route: &str, schemas: Arc<Schemas>, metrics: Option<Metrics>, limits: Limits) -> Self {
        Shared {
            plugin: plugin.to_owned(),
            route: route.to_owned(),
            schemas,
            metrics,
            limits,
            known: Mutex::default(),
            window: Mutex::new((Instant::now(), 0)),
        }
    }

    fn write_log(&self, lines: Vec<(log::Level, String)>) {
        for (level, text) in lines {
            let mut window = self.window.lock();
            if window.0.elapsed() >= Duration::from_secs(1) {
                *window = (Instant::now(), 0);
            }
            window.1 += 1;
            let (plugin, route) = (&self.plugin, &self.route);
            if window.1 == self.limits.log_lines_max.saturating_add(1) {
                tracing::warn!(
                    plugin,
                    route,
                    "the plugin logs more than its `log_lines_max` a second, the rest of this second is left out"
                );
            }
            if window.1 > self.limits.log_lines_max {
                continue;
            }
            match level {
                log::Level::Trace => tracing::trace!(target: "plugin", plugin, route, "{text}"),
                log::Level::Debug => tracing::debug!(target: "plugin", plugin, route, "{text}"),
                log::Level::Info => tracing::info!(target: "plugin", plugin, route, "{text}"),
                log::Level::Warn => tracing::warn!(target: "plugin", plugin, route, "{text}"),
                log::Level::Error => tracing::error!(target: "plugin", plugin, route, "{text}"),
            }
        }
    }

    fn update_metrics(&self, updates: HashMap<u32, Vec<f64>>) {
        let known = self.known.lock();
        for (index, values) in updates {
            let Some(metric) = known.get(index as usize) else { continue };
            for value in values {
                match metric.kind {
                    // A counter never goes down.
                    metrics::Kind::Counter if value >= 0.0 => drop(metric.counter.inc_by(value)),
                    metrics::Kind::Counter => (),
                    metrics::Kind::Gauge => drop(metric.gauge.set(value)),
                    metrics::Kind::Histogram => metric.histogram.observe(value),
                }
            }
        }
    }
}

/// The host's side of one instance.
pub struct Guest {
    shared: Arc<Shared>,
    limits: StoreLimits,
    log: Vec<(log::Level, String)>,
    updates: HashMap<u32, Vec<f64>>,
    registered: usize,
}

/// A live instance.
pub struct Instance {
    store: Store<Guest>,
    plugin: bind::Plugin,
    shared: Arc<Shared>,
}

/// Why a call has no answer.
#[derive(Debug)]
pub enum Broken {
    /// It took longer than its deadline.
    Deadline(Duration),
    /// It trapped, or broke a limit.
    Trap(String),
}

impl Instance {
    /// A fresh instance, and what its `init` answered.
    pub fn start(
        component: &Component,
        shared: &Arc<Shared>,
        context: &transform::Context,
    ) -> Result<Result<(Instance, types::Plan), Vec<types::Problem>>, Broken> {
        let limits = StoreLimitsBuilder::new()
            .memory_size(shared.limits.memory_max)
            .table_elements(100_000)
            .instances(16)
            .tables(16)
            .memories(4)
            .trap_on_grow_failure(true)
            .build();
        let guest = Guest { shared: shared.clone(), limits, log: Vec::new(), updates: HashMap::new(), registered: 0 };
        let mut store = Store::new(&component.wasm, guest);
        store.limiter(|guest| &mut guest.limits);
        store.set_hostcall_fuel(HANDED_OVER_MAX);
        let deadline = shared.limits.init_deadline;
        // Code runs at instantiation already, so the deadline comes first: it is 0 otherwise.
        store.set_epoch_deadline(ticks(deadline));
        let started = bind::PluginPre::new(component.pre.clone()).and_then(|pre| pre.instantiate(&mut store));
        let plugin = started.map_err(|error| broken(&error, deadline, &shared.limits))?;
        let answer = plugin.anabranch_plugin_transform().call_init(&mut store, context);
        let answer = answer.map_err(|error| broken(&error, deadline, &shared.limits))?;
        let mut instance = Instance { store, plugin, shared: shared.clone() };
        instance.keep();
        Ok(answer.map(|plan| (instance, plan)))
    }

    /// One call of `process`, within `deadline`.
    pub fn process(&mut self, batch: &transform::Batch, deadline: Duration) -> Result<Result<types::Outputs, types::Failure>, Broken> {
        self.store.set_epoch_deadline(ticks(deadline));
        let answer = self.plugin.anabranch_plugin_transform().call_process(&mut self.store, batch);
        answer.map_err(|error| broken(&error, deadline, &self.shared.limits))
    }

    /// The last call counts: its log lines are written, its metrics updated.
    pub fn keep(&mut self) {
        let guest = self.store.data_mut();
        let (lines, updates) = (std::mem::take(&mut guest.log), std::mem::take(&mut guest.updates));
        if !lines.is_empty() {
            self.shared.write_log(lines);
        }
        if !updates.is_empty() {
            self.shared.update_metrics(updates);
        }
    }
}

fn ticks(deadline: Duration) -> u64 {
    // One more, since the current tick has begun already.
    deadline.as_millis().div_ceil(TICK.as_millis()) as u64 + 1
}

fn broken(error: &wasmtime::Error, deadline: Duration, limits: &Limits) -> Broken {
    match error.downcast_ref::<wasmtime::Trap>() {
        Some(wasmtime::Trap::Interrupt) => return Broken::Deadline(deadline),
        Some(wasmtime::Trap::StackOverflow) => return Broken::Trap("its stack overflowed: it recurses too deeply".to_owned()),
        Some(wasmtime::Trap::UnreachableCodeReached) => return Broken::Trap(format!("it panicked{}", frames(error))),
        _ => (),
    }
    let text = error.root_cause().to_string();
    if text.contains("growing memory") || text.contains("memory minimum size") {
        let mib = limits.memory_max >> 20;
        return Broken::Trap(format!(
            "it wants more memory than its {mib} MiB: raise `memory_max` in its [plugin.NAME], or make it hold less"
        ));
    }
    if text.contains("fuel") {
        return Broken::Trap(format!("it handed over more than {} MiB in one call", HANDED_OVER_MAX >> 20));
    }
    Broken::Trap(format!("{text}{}", frames(error)))
}

/// The innermost functions of the guest.
fn frames(error: &wasmtime::Error) -> String {
    let Some(backtrace) = error.downcast_ref::<wasmtime::WasmBacktrace>() else { return String::new() };
    let names = backtrace.frames().iter().filter_map(|frame| frame.func_name());
    let own = names.filter(|name| !name.contains("panic") && !name.contains("rust_begin_unwind")).take(3).collect::<Vec<_>>();
    if own.is_empty() { String::new() } else { format!(" in {}", own.join(" < ")) }
}

/// Guest text for a terminal: one line, no control characters, bounded.
fn clean(text: &str) -> String {
    let mut clean: String = text.chars().take(LOG_LINE_MAX).map(|character| if character.is_control() { ' ' } else { character }).collect();
    if text.chars().nth(LOG_LINE_MAX).is_some() {
        clean.push('…');
    }
    clean
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
        if self.log.len() < LOG_LINES_PER_CALL_MAX {
            self.log.push((level, clean(&message)));
        }
    }
}

impl metrics::Host for Guest {
    fn register(&mut self, kind: metrics::Kind, name: String, help: String) -> u32 {
        let mut known = self.shared.known.lock();
        if let Some(index) = known.iter().position(|metric| metric.name == name) {
            return index as u32;
        }
        let valid = !name.is_empty() && name.len() <= 100 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        self.registered += 1;
        if known.len() >= METRICS_MAX || !valid {
            if self.registered <= METRICS_MAX {
                self.log.push((
                    log::Level::Warn,
                    format!("metric {:?} is not kept: at most {METRICS_MAX}, of letters, digits and _", clean(&name)),
                ));
            }
            // Updates of a number that nobody has are dropped.
            return u32::MAX;
        }
        let metric = Metric {
            name: name.clone(),
            kind,
            counter: Counter::default(),
            gauge: Gauge::default(),
            histogram: Histogram::new(exponential_buckets(0.001, 4.0, 12)),
        };
        if let Some(all) = &self.shared.metrics {
            let labels = [("route", self.shared.route.clone()), ("plugin", self.shared.plugin.clone())];
            let labels = labels.map(|(name, value)| (name.into(), value.into()));
            let help = clean(&help);
            all.with_registry(|registry| {
                let registry = registry.sub_registry_with_labels(labels.into_iter()).sub_registry_with_prefix("plugin");
                match kind {
                    metrics::Kind::Counter => registry.register(&name, help, metric.counter.clone()),
                    metrics::Kind::Gauge => registry.register(&name, help, metric.gauge.clone()),
                    metrics::Kind::Histogram => registry.register(&name, help, metric.histogram.clone()),
                }
            });
        }
        known.push(metric);
        known.len() as u32 - 1
    }

    fn update(&mut self, values: Vec<(u32, f64)>) {
        for (metric, value) in values.into_iter().filter(|(metric, value)| (*metric as usize) < METRICS_MAX && value.is_finite()) {
            let updates = self.updates.entry(metric).or_default();
            if updates.len() < LOG_LINES_PER_CALL_MAX * 100 {
                updates.push(value);
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
        self.shared.schemas.register(&definition).map_err(|error| error.to_string())
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
