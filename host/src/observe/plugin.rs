//! What can be seen of plugins: what the host counts of each, and what they count themselves.
//!
//! Invariant: labels are names of the configuration only, so no plugin and no record can make series without end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::Metrics;
use crate::dead::Class;

/// Labels of a plugin's metrics.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PluginLabels {
    /// Name of the route.
    pub route: String,
    /// Name of the plugin.
    pub plugin: String,
}

/// Labels of the calls that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BrokenLabels {
    /// Name of the route.
    pub route: String,
    /// Name of the plugin.
    pub plugin: String,
    /// Class of the reason.
    pub class: &'static str,
}

/// The metrics of all plugins; clones share them.
#[derive(Clone, Debug)]
pub(super) struct Plugins {
    records: Family<PluginLabels, Counter>,
    outputs: Family<PluginLabels, Counter>,
    rejected: Family<PluginLabels, Counter>,
    broken: Family<BrokenLabels, Counter>,
    calls: Family<PluginLabels, Histogram, fn() -> Histogram>,
    started: Family<PluginLabels, Counter>,
    instances: Family<PluginLabels, Gauge>,
    memory: Family<PluginLabels, Gauge>,
    own: Arc<Mutex<BTreeMap<String, OwnFamily>>>,
}

/// What the host counts of one plugin on one route; clones share it.
#[derive(Clone, Debug)]
pub struct PluginMetrics {
    labels: PluginLabels,
    broken: Family<BrokenLabels, Counter>,
    /// Records decided; those of calls that came to nothing count when they are decided after all.
    pub records: Counter,
    /// Outputs made of them.
    pub outputs: Counter,
    /// Records rejected.
    pub rejected: Counter,
    /// Seconds of each call.
    pub calls: Histogram,
    /// Instances started.
    pub started: Counter,
    /// Instances alive.
    pub instances: Gauge,
    /// Bytes of their memory.
    pub memory: Gauge,
}

/// What a plugin's own metric does with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnKind {
    /// Adds it.
    Counter,
    /// Takes it.
    Gauge,
    /// Observes it.
    Histogram,
}

/// A metric that a plugin registered.
#[derive(Debug, Clone)]
pub enum OwnMetric {
    /// See [`OwnKind::Counter`].
    Counter(Counter<f64, AtomicU64>),
    /// See [`OwnKind::Gauge`].
    Gauge(Gauge<f64, AtomicU64>),
    /// See [`OwnKind::Histogram`].
    Histogram(Histogram),
}

#[derive(Debug)]
enum OwnFamily {
    Counter(Family<PluginLabels, Counter<f64, AtomicU64>>),
    Gauge(Family<PluginLabels, Gauge<f64, AtomicU64>>),
    Histogram(Family<PluginLabels, Histogram, fn() -> Histogram>),
}

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_01, 4.0, 10))
}

fn any_size() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 4.0, 12))
}

impl Plugins {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let all = Plugins {
            records: Family::default(),
            outputs: Family::default(),
            rejected: Family::default(),
            broken: Family::default(),
            calls: Family::new_with_constructor(seconds),
            started: Family::default(),
            instances: Family::default(),
            memory: Family::default(),
            own: Arc::default(),
        };
        registry.register("plugin_records", "records that the plugin decided", all.records.clone());
        registry.register("plugin_outputs", "outputs that the plugin made of them", all.outputs.clone());
        registry.register("plugin_rejected", "records that the plugin rejected", all.rejected.clone());
        registry.register("plugin_broken", "calls that came to nothing, by class of the reason", all.broken.clone());
        registry.register_with_unit("plugin_call", "time of a call of the plugin", Unit::Seconds, all.calls.clone());
        registry.register("plugin_instances_started", "instances of the plugin started", all.started.clone());
        registry.register("plugin_instances", "instances of the plugin alive", all.instances.clone());
        registry.register_with_unit("plugin_memory", "memory of the plugin's instances", Unit::Bytes, all.memory.clone());
        all
    }
}

impl Metrics {
    /// What the host counts of a plugin on a route.
    pub fn plugin(&self, route: &str, plugin: &str) -> PluginMetrics {
        let labels = PluginLabels { route: route.to_owned(), plugin: plugin.to_owned() };
        let all = &self.plugins;
        PluginMetrics {
            broken: all.broken.clone(),
            records: all.records.get_or_create_owned(&labels),
            outputs: all.outputs.get_or_create_owned(&labels),
            rejected: all.rejected.get_or_create_owned(&labels),
            calls: all.calls.get_or_create_owned(&labels),
            started: all.started.get_or_create_owned(&labels),
            instances: all.instances.get_or_create_owned(&labels),
            memory: all.memory.get_or_create_owned(&labels),
            labels,
        }
    }

    /// A metric of a plugin's own, `anabranch_guest_NAME`; `None`: some plugin has one of that name and another kind.
    pub fn own(&self, kind: OwnKind, name: &str, help: &str, route: &str, plugin: &str) -> Option<OwnMetric> {
        let labels = PluginLabels { route: route.to_owned(), plugin: plugin.to_owned() };
        let mut families = self.plugins.own.lock();
        let family = families.entry(name.to_owned()).or_insert_with(|| {
            let mut registry = self.registry.lock();
            let registry = registry.sub_registry_with_prefix("guest");
            match kind {
                OwnKind::Counter => {
                    let family = Family::default();
                    registry.register(name, help, family.clone());
                    OwnFamily::Counter(family)
                }
                OwnKind::Gauge => {
                    let family = Family::default();
                    registry.register(name, help, family.clone());
                    OwnFamily::Gauge(family)
                }
                OwnKind::Histogram => {
                    let family = Family::new_with_constructor(any_size as fn() -> Histogram);
                    registry.register(name, help, family.clone());
                    OwnFamily::Histogram(family)
                }
            }
        });
        match (family, kind) {
            (OwnFamily::Counter(family), OwnKind::Counter) => Some(OwnMetric::Counter(family.get_or_create_owned(&labels))),
            (OwnFamily::Gauge(family), OwnKind::Gauge) => Some(OwnMetric::Gauge(family.get_or_create_owned(&labels))),
            (OwnFamily::Histogram(family), OwnKind::Histogram) => Some(OwnMetric::Histogram(family.get_or_create_owned(&labels))),
            _ => None,
        }
    }
}

impl PluginMetrics {
    /// A call came to nothing.
    pub fn broken(&self, class: Class) {
        let PluginLabels { route, plugin } = self.labels.clone();
        self.broken.get_or_create(&BrokenLabels { route, plugin, class: class.name() }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_once_in_the_text_however_many_plugins_have_it() {
        let metrics = Metrics::new();
        for route in ["a", "b"] {
            let Some(OwnMetric::Counter(seen)) = metrics.own(OwnKind::Counter, "seen", "what was seen", route, "paid") else {
                panic!("a counter is asked for")
            };
            seen.inc_by(2.5);
        }
        let text = metrics.text();
        assert_eq!(text.matches("# TYPE anabranch_guest_seen counter").count(), 1, "{text}");
        assert!(text.contains("anabranch_guest_seen_total{route=\"b\",plugin=\"paid\"} 2.5\n"), "{text}");
    }

    #[test]
    fn one_name_has_one_kind() {
        let metrics = Metrics::new();
        assert!(metrics.own(OwnKind::Gauge, "size", "", "a", "paid").is_some());
        assert!(metrics.own(OwnKind::Histogram, "size", "", "b", "other").is_none());
    }
}
