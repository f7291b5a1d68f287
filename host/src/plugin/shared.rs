//! What all instances of one plugin on one route share: limits, metrics, the rate of log lines.
//!
//! Invariant: what a plugin can leave behind in the host is bounded, however many instances it has: metrics, schemas, log lines a second.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::bind::anabranch::plugin::log::Level;
use super::limits::{Limits, clean};
use crate::observe::Metrics;
use crate::observe::plugin::{OwnKind, OwnMetric, PluginMetrics};
use crate::schemas::Schemas;

/// Metrics that one plugin may register.
pub const METRICS_MAX: usize = 100;
/// Bytes of a metric's name.
const METRIC_NAME_MAX: usize = 100;
/// Different schemas that one plugin may register: they are made per kind of record, never per record.
const SCHEMAS_MAX: usize = 1000;
/// Bytes of one schema's text, and of all that one plugin registers.
const SCHEMA_BYTES_MAX: usize = 1 << 20;
const SCHEMAS_BYTES_MAX: usize = 16 << 20;

/// What all instances of one plugin on one route share.
#[derive(Debug)]
pub struct Shared {
    /// Name of the plugin.
    pub plugin: String,
    /// Name of the route.
    pub route: String,
    /// The route's schemas.
    pub schemas: Arc<Schemas>,
    /// Its limits.
    pub limits: Limits,
    /// What the host counts of it.
    pub seen: PluginMetrics,
    metrics: Metrics,
    own: Mutex<Vec<Own>>,
    lines: Mutex<Window>,
    registered: Mutex<Registered>,
}

#[derive(Debug)]
struct Own {
    name: String,
    kind: OwnKind,
    metric: OwnMetric,
}

/// Log lines of the second at hand.
#[derive(Debug)]
struct Window {
    began: Instant,
    lines: u32,
    left_out: u64,
}

#[derive(Debug, Default)]
struct Registered {
    schemas: usize,
    bytes: usize,
}

/// What calls leave in the host once they count.
#[derive(Debug, Default)]
pub struct Left {
    /// Log lines.
    pub lines: Vec<(Level, String)>,
    /// Further ones, of which only the number is known.
    pub left_out: u64,
    /// Updates of metrics, by their numbers.
    pub updates: BTreeMap<u32, Update>,
}

/// What one call made of a metric.
#[derive(Debug)]
pub enum Update {
    /// To be added.
    Add(f64),
    /// To be taken.
    Set(f64),
    /// To be observed.
    Observe(Vec<f64>),
}

impl Shared {
    /// Nothing is registered yet. `metrics`: `None` where nobody looks at them.
    pub fn new(plugin: &str, route: &str, schemas: Arc<Schemas>, metrics: Option<Metrics>, limits: Limits) -> Self {
        let metrics = metrics.unwrap_or_default();
        Shared {
            plugin: plugin.to_owned(),
            route: route.to_owned(),
            schemas,
            limits,
            seen: metrics.plugin(route, plugin),
            metrics,
            own: Mutex::default(),
            lines: Mutex::new(Window { began: Instant::now(), lines: 0, left_out: 0 }),
            registered: Mutex::default(),
        }
    }

    /// Writes the log lines and applies the updates of a call that counts.
    pub(super) fn apply(&self, left: Left) {
        if !left.lines.is_empty() || left.left_out > 0 {
            self.write_log(left.lines, left.left_out);
        }
        if !left.updates.is_empty() {
            self.update_metrics(left.updates);
        }
    }

    fn write_log(&self, lines: Vec<(Level, String)>, left_out: u64) {
        let (plugin, route) = (&self.plugin, &self.route);
        let mut window = self.lines.lock();
        for (level, text) in lines {
            if window.began.elapsed() >= Duration::from_secs(1) {
                if window.left_out > 0 {
                    tracing::warn!(
                        plugin,
                        route,
                        left_out = window.left_out,
                        "the plugin logged more than its `log_lines_max` a second: raise it in its [plugin.NAME], or let it log less"
                    );
                }
                *window = Window { began: Instant::now(), lines: 0, left_out: 0 };
            }
            if window.lines >= self.limits.log_lines_max {
                window.left_out += 1;
                continue;
            }
            window.lines += 1;
            match level {
                Level::Trace => tracing::trace!(target: "plugin", plugin, route, "{text}"),
                Level::Debug => tracing::debug!(target: "plugin", plugin, route, "{text}"),
                Level::Info => tracing::info!(target: "plugin", plugin, route, "{text}"),
                Level::Warn => tracing::warn!(target: "plugin", plugin, route, "{text}"),
                Level::Error => tracing::error!(target: "plugin", plugin, route, "{text}"),
            }
        }
        window.left_out += left_out;
    }

    /// The number of a metric of that name and kind, made where there is none yet.
    ///
    /// # Errors
    /// Why there is none, for the log.
    pub(super) fn register_metric(&self, kind: OwnKind, name: &str, help: &str) -> Result<u32, String> {
        let mut own = self.own.lock();
        if let Some(index) = own.iter().position(|known| known.name == name) {
            return if own[index].kind == kind { Ok(index as u32) } else { Err(format!("metric {name:?} has another kind already")) };
        }
        let starts = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        if !starts || name.len() > METRIC_NAME_MAX || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            let shown: String = clean(name).chars().take(METRIC_NAME_MAX).collect();
            return Err(format!("metric {shown:?}: a name has letters, digits and _, at most {METRIC_NAME_MAX}, and begins with no digit"));
        }
        if own.len() >= METRICS_MAX {
            return Err(format!("metric {name:?} is one too many: a plugin has at most {METRICS_MAX}"));
        }
        let Some(metric) = self.metrics.own(kind, name, &clean(help), &self.route, &self.plugin) else {
            return Err(format!("metric {name:?}: another plugin has one of that name and another kind"));
        };
        own.push(Own { name: name.to_owned(), kind, metric });
        Ok(own.len() as u32 - 1)
    }

    fn update_metrics(&self, updates: BTreeMap<u32, Update>) {
        let own = self.own.lock();
        for (index, update) in updates {
            match (own.get(index as usize).map(|own| &own.metric), update) {
                (Some(OwnMetric::Counter(counter)), Update::Add(value)) if value.is_finite() => drop(counter.inc_by(value)),
                (Some(OwnMetric::Gauge(gauge)), Update::Set(value)) => drop(gauge.set(value)),
                (Some(OwnMetric::Histogram(histogram)), Update::Observe(values)) => {
                    values.into_iter().for_each(|value| histogram.observe(value));
                }
                _ => (),
            }
        }
    }

    /// A handle for a schema that the plugin made.
    ///
    /// # Errors
    /// Why it gets none, for the plugin.
    pub(super) fn register_schema(&self, definition: &str) -> Result<u32, String> {
        if definition.len() > SCHEMA_BYTES_MAX {
            return Err(format!("a schema of {} bytes: it has at most {SCHEMA_BYTES_MAX}", definition.len()));
        }
        if let Some(handle) = self.schemas.of_definition(definition) {
            return Ok(handle);
        }
        let mut registered = self.registered.lock();
        if registered.schemas >= SCHEMAS_MAX || registered.bytes + definition.len() > SCHEMAS_BYTES_MAX {
            return Err(format!(
                "the plugin has registered {} schemas of {} bytes, at most {SCHEMAS_MAX} of {SCHEMAS_BYTES_MAX}: schemas must not be made \
                 per record",
                registered.schemas, registered.bytes
            ));
        }
        let handle = self.schemas.register(definition).map_err(|error| error.to_string())?;
        registered.schemas += 1;
        registered.bytes += definition.len();
        Ok(handle)
    }
}
