//! Planning: `init` of every plugin of a route, and what follows from its answer.
//!
//! Invariant: a [`ChainPlan`] holds only plans that were checked: every name in them leads somewhere.

use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::PluginError;
use super::bind::anabranch::plugin::types;
use super::bind::exports::anabranch::plugin::transform::Context;
use super::engine::{Component, Engine};
use super::instance::{Broken, Instance};
use super::limits::{Limits, clean};
use super::shared::Shared;
use crate::config::{self, Config, Route};
use crate::observe::Metrics;
use crate::output::SinkSet;
use crate::schemas::Schemas;
use crate::value::{Format, Kind, Wanted};

/// A plugin of a route, planned.
pub struct Step {
    pub(super) component: Arc<Component>,
    pub(super) shared: Arc<Shared>,
    pub(super) context: Context,
    pub(super) plan: types::Plan,
    pub(super) sinks: Vec<SinkSet>,
    /// Wanted fields of the value and of the key, and for each planned field which of both and its number there.
    pub(super) values: Vec<Wanted>,
    pub(super) keys: Vec<Wanted>,
    pub(super) fields: Vec<Place>,
}

/// Where a planned field is read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Value(usize),
    Key(usize),
    /// What only changes have; nothing is one yet.
    Absent(Option<types::Kind>),
}

/// The plugins of a route, in order.
pub struct ChainPlan {
    /// The route's schemas, which plugins add theirs to.
    pub schemas: Arc<Schemas>,
    pub(super) steps: Vec<Step>,
    digest: String,
}

/// What is wrong with a route's plugins.
#[derive(Debug)]
pub enum InitError {
    /// A plugin cannot be used at all; its place in the file.
    Unusable(PluginError, Range<usize>),
    /// What `init` found in its configuration: place in the file and message.
    Configuration(Vec<(Range<usize>, String)>),
}

/// Fields, headers and sink sets that one plan may name.
const PLAN_NAMES_MAX: usize = 1000;
/// Bytes of the name of a header.
const HEADER_NAME_MAX: usize = 1000;
/// Problems of one configuration that are told.
const PROBLEMS_MAX: usize = 100;

impl ChainPlan {
    /// Loads and plans the plugins of a route.
    ///
    /// # Errors
    /// With all that is wrong with any of them.
    pub fn of(engine: &Engine, config: &Config, route: &Route, metrics: Option<&Metrics>) -> Result<Arc<ChainPlan>, Vec<InitError>> {
        let schemas = Arc::new(Schemas::new());
        let mut steps = Vec::new();
        let mut errors = Vec::new();
        for step in &route.through {
            let plugin = &config.plugins[&step.plugin];
            let name = step.plugin.to_string();
            let (path, sha256) = match &plugin.component {
                config::Component::Bundled(_) => (None, None),
                config::Component::File { path, sha256 } => (Some(path.as_ref()), sha256.as_deref()),
            };
            let limits = Limits {
                memory_max: plugin.limits.memory_max.get() as usize,
                deadline: plugin.limits.deadline.get(),
                init_deadline: plugin.limits.init_deadline.get(),
                log_lines_max: plugin.limits.log_lines_max,
            };
            let component = match engine.load(&name, path, sha256) {
                Ok(component) => component,
                Err(error) => {
                    errors.push(InitError::Unusable(error, step.at.clone()));
                    continue;
                }
            };
            let sinks: Vec<String> = route.to.iter().map(ToString::to_string).collect();
            let shared = Shared::new(&name, &route.name.to_string(), schemas.clone(), metrics.cloned(), limits);
            match Step::plan(component, shared, &step.config.json, &sinks) {
                Ok(planned) => steps.push(planned),
                Err(StepError::Unusable(error)) => errors.push(InitError::Unusable(error, step.at.clone())),
                Err(StepError::Problems(problems)) => {
                    let placed = problems
                        .into_iter()
                        .map(|problem| (config::plugin_problem(&step.config, &problem.path, problem.at), problem.message));
                    errors.push(InitError::Configuration(placed.collect()));
                }
            }
        }
        if errors.is_empty() { Ok(Arc::new(ChainPlan::new(schemas, steps))) } else { Err(errors) }
    }

    /// A chain of planned steps.
    pub fn new(schemas: Arc<Schemas>, steps: Vec<Step>) -> Self {
        let mut hasher = Sha256::new();
        for step in &steps {
            for part in [&step.component.digest, &step.context.config] {
                hasher.update((part.len() as u64).to_be_bytes());
                hasher.update(part);
            }
            for sink in &step.context.sinks {
                hasher.update(sink);
                hasher.update([0]);
            }
        }
        let digest = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        ChainPlan { schemas, steps, digest }
    }

    /// Digest of all that decides about records: components, their configuration, the sinks they choose from. Hexadecimal.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Whether a plugin wants to know subjects and versions of schemas.
    pub fn wants_versions(&self) -> bool {
        self.steps.iter().any(|step| step.plan.versions)
    }

    /// How many of its plugins have an instance for each partition.
    pub fn per_partition(&self) -> usize {
        self.steps.iter().filter(|step| step.plan.per_partition).count()
    }

    /// Bytes that the memories of its plugins can come to with so many workers, those with an instance for each partition left out.
    pub fn memory_max(&self, workers: usize) -> usize {
        let shared = self.steps.iter().filter(|step| !step.plan.per_partition);
        shared.map(|step| step.shared.limits.memory_max.saturating_mul(workers)).fold(0, usize::saturating_add)
    }

    /// Whether there is no plugin.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Names of the plugins, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().map(|step| step.shared.plugin.as_str())
    }
}

/// Why a step has no plan.
#[derive(Debug)]
pub enum StepError {
    /// It cannot be used at all.
    Unusable(PluginError),
    /// What it found in its configuration.
    Problems(Vec<types::Problem>),
}

impl Step {
    /// Runs `init` once and checks the plan.
    ///
    /// # Errors
    /// See [`StepError`].
    pub fn plan(component: Arc<Component>, shared: Shared, config: &str, sinks: &[String]) -> Result<Step, StepError> {
        let shared = Arc::new(shared);
        let unusable = |reason: String| StepError::Unusable(PluginError { plugin: shared.plugin.clone(), reason });
        let context =
            Context { config: config.to_owned(), route: shared.route.clone(), name: shared.plugin.clone(), sinks: sinks.to_vec() };
        let plan = match Instance::start(&component, &shared, &context) {
            Ok(Ok((_, plan))) => plan,
            Ok(Err(problems)) => return Err(StepError::Problems(presentable(problems))),
            Err(Broken::Deadline(deadline)) => {
                return Err(unusable(format!(
                    "its init took longer than {deadline:?}: raise `init_deadline`, or look for an endless loop"
                )));
            }
            Err(Broken::Trap(text)) => return Err(unusable(format!("its init failed: {text}"))),
            Err(Broken::NoRoom(text)) => return Err(unusable(text)),
        };
        check(&plan).map_err(|reason| unusable(format!("its plan is invalid: {reason}")))?;
        let mut sets = Vec::new();
        for set in &plan.sink_sets {
            let mut bits = 0;
            for name in set {
                let Some(index) = sinks.iter().position(|sink| sink == name) else {
                    return Err(unusable(format!("it chooses the sink {name:?}, which is none of the route's ({})", sinks.join(", "))));
                };
                bits |= 1 << index;
            }
            sets.push(SinkSet(bits));
        }
        let (mut values, mut keys, mut fields) = (Vec::new(), Vec::new(), Vec::new());
        for field in &plan.fields {
            let wanted = Wanted { path: field.path.clone(), kind: field.kind.map(own_kind), lenient: field.lenient };
            fields.push(match field.part {
                types::Part::Value => {
                    values.push(wanted);
                    Place::Value(values.len() - 1)
                }
                types::Part::Key => {
                    keys.push(wanted);
                    Place::Key(keys.len() - 1)
                }
                types::Part::Before | types::Part::Envelope => Place::Absent(field.kind),
            });
        }
        Ok(Step { component, shared, context, plan, sinks: sets, values, keys, fields })
    }

    pub(super) fn sets_format(&self, encoding: types::Encoding) -> Format {
        match encoding {
            types::Encoding::Raw => Format::Raw,
            types::Encoding::Json => Format::Json,
            types::Encoding::Cbor => Format::Cbor,
            types::Encoding::Avro => Format::Avro,
        }
    }
}

/// What people read of problems, free of what a terminal would obey. A plugin that refuses without a reason gets one.
fn presentable(mut problems: Vec<types::Problem>) -> Vec<types::Problem> {
    problems.truncate(PROBLEMS_MAX);
    for problem in &mut problems {
        problem.message = clean(&problem.message);
        if problem.message.trim().is_empty() {
            problem.message = "the plugin refuses this and gives no reason".to_owned();
        }
    }
    if problems.is_empty() {
        let message = "the plugin refuses its configuration and names no problem".to_owned();
        problems.push(types::Problem { path: Vec::new(), at: None, message });
    }
    problems
}

fn check(plan: &types::Plan) -> Result<(), String> {
    if plan.sink_sets.len() > 255 {
        return Err(format!("{} sets of sinks, at most 255", plan.sink_sets.len()));
    }
    for (what, count) in [("fields", plan.fields.len()), ("headers", plan.headers.len()), ("headers to set", plan.sets_headers.len())] {
        if count > PLAN_NAMES_MAX {
            return Err(format!("{count} {what}, at most {PLAN_NAMES_MAX}"));
        }
    }
    // Names of headers end at a NUL in Kafka's client.
    let bad = |name: &&String| name.is_empty() || name.len() > HEADER_NAME_MAX || name.contains(char::is_control);
    if let Some(name) = plan.headers.iter().chain(&plan.sets_headers).find(bad) {
        let shown: String = clean(name).chars().take(40).collect();
        return Err(format!("{shown:?} is no name of a header: it has 1 to {HEADER_NAME_MAX} bytes and no control characters"));
    }
    if let Some(set) = plan.sink_sets.iter().find(|set| set.len() > crate::output::SINKS_MAX) {
        return Err(format!("a set of {} sinks, at most {}", set.len(), crate::output::SINKS_MAX));
    }
    if plan.max_records == Some(0) || plan.max_bytes == Some(0) {
        return Err("a batch of at most 0".to_owned());
    }
    if plan.fields.iter().any(|field| field.path.len() > crate::value::DEPTH_MAX) {
        return Err(format!("a path of more than {} names", crate::value::DEPTH_MAX));
    }
    Ok(())
}

/// A kind of column in our words.
pub(super) fn own_kind(kind: types::Kind) -> Kind {
    match kind {
        types::Kind::Integers => Kind::Integers,
        types::Kind::Floats => Kind::Floats,
        types::Kind::Booleans => Kind::Booleans,
        types::Kind::Texts => Kind::Texts,
        types::Kind::Binaries => Kind::Binaries,
        types::Kind::Dates => Kind::Dates,
        types::Kind::Times => Kind::Times,
        types::Kind::Timestamps => Kind::Timestamps,
        types::Kind::Decimals => Kind::Decimals,
        types::Kind::Documents => Kind::Documents,
    }
}
