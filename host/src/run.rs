//! A process: plugins, registries, listener, and every route as a pipeline of its own.
//!
//! Invariant: a route that stops leaves the others alone; the process ends when all have ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::config::{Config, Name, Problem, Route};
use crate::decode::Ask;
use crate::observe::Metrics;
use crate::pipeline::{self, Pipeline};
use crate::plugin::{ChainPlan, Engine, InitError, size};
use crate::registry::{Asker, IsOurs, Registry};
use crate::stop::{Stop, StopReason};

/// The plugins of every route, planned.
pub type Chains = BTreeMap<Name, Arc<ChainPlan>>;

/// How the routes ended.
#[derive(Debug, Default)]
pub struct Ended {
    /// By route.
    pub routes: BTreeMap<Name, pipeline::Ended>,
}

impl Ended {
    /// The reason that decides the exit code: the user's mistakes first, since only the user can mend them.
    pub fn reason(&self) -> Option<&StopReason> {
        let reasons = self.routes.values().filter_map(|route| route.reason.as_ref());
        reasons.min_by_key(|reason| match reason {
            StopReason::Configuration(_) => 0,
            StopReason::Environment(_) => 1,
            StopReason::DeadLetter(_) | StopReason::Broken(_) => 2,
            StopReason::Asked => 3,
        })
    }
}

/// Loads and plans the plugins of all routes.
///
/// # Errors
/// All that is wrong with any of them, with places in the file.
pub fn plan(engine: &Engine, config: &Config, metrics: Option<&Metrics>) -> Result<Chains, Vec<Problem>> {
    let mut chains = Chains::new();
    let mut problems = Vec::new();
    for (name, route) in &config.routes {
        match ChainPlan::of(engine, config, route, metrics) {
            Ok(chain) => drop(chains.insert(name.clone(), chain)),
            Err(errors) => problems.extend(errors.into_iter().flat_map(|error| match error {
                InitError::Unusable(error, at) => vec![Problem::error(at, error.to_string(), "")],
                InitError::Configuration(found) => {
                    found.into_iter().map(|(at, message)| Problem::error(at, message, "")).collect::<Vec<_>>()
                }
            })),
        }
    }
    if problems.is_empty() { Ok(chains) } else { Err(problems) }
}

/// Whether plugins may come to want more memory than there is: they are not stopped by it, but may be later.
pub fn warn_of_memory(engine: &Engine, config: &Config, chains: &Chains) -> Option<Problem> {
    let of_route = |(name, chain): (&Name, &Arc<ChainPlan>)| chain.memory_max(config.routes[name].workers.max(1) as usize);
    let wanted = chains.iter().map(of_route).fold(0, usize::saturating_add);
    let largest = chains.iter().max_by_key(|route| of_route((route.0, route.1)))?.0;
    (wanted > engine.memory_max()).then(|| {
        let at = config.routes[largest].through.first().map_or(0..0, |step| step.at.clone());
        let text = format!(
            "all instances of all plugins may use {} of memory, and this machine can spare {}: past that they are refused more",
            size(wanted),
            size(engine.memory_max())
        );
        Problem::warning(at, text, "lower `memory_max` of plugins or `workers` of routes, or give the machine more")
    })
}

/// A registry as a route asks it.
fn asker(registry: &Registry, route: &Route, plugins: &ChainPlan) -> Arc<Asker> {
    let topics = route.topics.clone();
    let is_ours: IsOurs = Arc::new(move |topic| topics.contains(topic));
    Arc::new(Asker::new(registry.clone(), plugins.wants_versions().then_some(is_ours)))
}

/// The registry of one route, as it asks it; `None`: it has none.
///
/// # Errors
/// Where its certificates cannot be read, in words for the user.
pub fn registry_of(config: &Config, route: &Route, plugins: &ChainPlan, metrics: &Metrics) -> Result<Option<Arc<Asker>>, String> {
    let Some(name) = &route.registry else { return Ok(None) };
    let registry = Registry::new(name.as_str(), &config.registries[name], metrics.clone())?;
    Ok(Some(asker(&registry, route, plugins)))
}

/// Runs all routes until each has ended, or `stop` is asked. Call it inside a tokio runtime of several threads.
///
/// # Errors
/// Where a registry's certificates cannot be read, or a source has no end to run until, in words for the user.
pub async fn run(config: Arc<Config>, chains: Chains, metrics: Metrics, stop: Stop, until_end: bool) -> Result<Ended, String> {
    if until_end && let Some(route) = config.routes.values().find(|route| !config.sources[&route.from].is_log()) {
        let name = route.name.to_string();
        return Err(format!("route {name:?} reads a Diffusion server, whose topics have no end: run it without --until-end"));
    }
    let mut registries = BTreeMap::new();
    for (name, registry) in &config.registries {
        registries.insert(name.clone(), Registry::new(name.as_str(), registry, metrics.clone())?);
    }
    let mut routes = JoinSet::new();
    for (name, plugins) in chains {
        let route = config.routes[&name].clone();
        let registry = route.registry.as_ref().map(|registry| -> Arc<dyn Ask> { asker(&registries[registry], &route, &plugins) });
        let own = Stop::new();
        let pipeline =
            Pipeline { config: config.clone(), route, plugins, registry, metrics: metrics.clone(), stop: own.clone(), until_end };
        let stop = stop.clone();
        let metrics = metrics.clone();
        routes.spawn(async move {
            let mut running = std::pin::pin!(pipeline.run());
            let ended = tokio::select! {
                ended = &mut running => ended,
                reason = stop.stopped() => {
                    own.stop(reason);
                    running.await
                }
            };
            if let Some(reason) = &ended.reason {
                metrics.part_down(&format!("route {name}"), &reason.to_string());
                tracing::error!(route = %name, "{reason}");
            }
            (name, ended)
        });
    }
    let mut ended = Ended::default();
    while let Some(route) = routes.join_next().await {
        let (name, route) = route.map_err(|error| format!("a route ended by a panic: {error}"))?;
        ended.routes.insert(name, route);
    }
    Ok(ended)
}
