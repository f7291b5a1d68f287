//! One live instance of a plugin.
//!
//! Invariant: every call has a deadline before the first instruction of the guest runs, and an instance that broke is never called
//! again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::{PoolConcurrencyLimitError, Store, Trap, WasmBacktrace};

use super::bind::Plugin;
use super::bind::anabranch::plugin::types;
use super::bind::exports::anabranch::plugin::transform;
use super::engine::{Component, TICK};
use super::guest::Guest;
use super::limits::{Bounds, HANDED_OVER_MAX, NoMemory, clean};
use super::shared::{Left, Shared};

/// Functions of a backtrace that a message names.
const FUNCTIONS_MAX: usize = 3;

/// A live instance.
pub struct Instance {
    store: Store<Guest>,
    plugin: Plugin,
    shared: Arc<Shared>,
    calls: u64,
}

/// Why a call has no answer.
#[derive(Debug)]
pub enum Broken {
    /// It took longer than its deadline.
    Deadline(Duration),
    /// It trapped, or broke a limit.
    Trap(String),
    /// There is no room for one more instance.
    NoRoom(String),
}

impl Instance {
    /// A fresh instance, and what its `init` answered.
    ///
    /// # Errors
    /// Where it cannot be instantiated, or `init` has no answer.
    pub fn start(
        component: &Component,
        shared: &Arc<Shared>,
        context: &transform::Context,
    ) -> Result<Result<(Instance, types::Plan), Vec<types::Problem>>, Broken> {
        let bounds = Bounds::new(shared.limits.memory_max, component.pool.clone(), shared.seen.clone());
        let mut store = Store::new(&component.wasm, Guest::new(shared.clone(), bounds));
        store.limiter(|guest| &mut guest.bounds);
        store.set_hostcall_fuel(HANDED_OVER_MAX);
        let deadline = shared.limits.init_deadline;
        // Code runs at instantiation already, so the deadline comes first: it is 0 otherwise.
        store.set_epoch_deadline(ticks(deadline));
        let plugin = component.pre.instantiate(&mut store).map_err(|error| broken(&error, deadline, &mut store))?;
        let answer = plugin.anabranch_plugin_transform().call_init(&mut store, context);
        let answer = answer.map_err(|error| broken(&error, deadline, &mut store))?;
        shared.apply(store.data_mut().take());
        Ok(answer.map(|plan| (Instance { store, plugin, shared: shared.clone(), calls: 0 }, plan)))
    }

    /// Whether no call but `init` has been made: then nothing but the records can be to blame.
    pub fn is_fresh(&self) -> bool {
        self.calls == 0
    }

    /// One call of `process`, within `deadline`.
    ///
    /// # Errors
    /// Where it has no answer; the instance must not be called again then.
    pub fn process(&mut self, batch: &transform::Batch, deadline: Duration) -> Result<Result<types::Outputs, types::Failure>, Broken> {
        self.calls += 1;
        self.store.set_epoch_deadline(ticks(deadline));
        let began = Instant::now();
        let answer = self.plugin.anabranch_plugin_transform().call_process(&mut self.store, batch);
        self.shared.seen.calls.observe(began.elapsed().as_secs_f64());
        answer.map_err(|error| broken(&error, deadline, &mut self.store))
    }

    /// Log lines and metrics of the last call: they count if the call does.
    pub fn take(&mut self) -> Left {
        self.store.data_mut().take()
    }
}

fn ticks(deadline: Duration) -> u64 {
    // One more, since the current tick has begun already.
    deadline.as_millis().div_ceil(TICK.as_millis()) as u64 + 1
}

fn broken(error: &wasmtime::Error, deadline: Duration, store: &mut Store<Guest>) -> Broken {
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => return Broken::Deadline(deadline),
        Some(Trap::StackOverflow) => return Broken::Trap(format!("its stack overflowed: it recurses too deeply{}", frames(error))),
        Some(Trap::MemoryOutOfBounds) if is_recursion(error) => {
            return Broken::Trap(format!("its stack overflowed: it recurses too deeply{}", frames(error)));
        }
        Some(Trap::UnreachableCodeReached) => {
            let said = store.data_mut().panic();
            return Broken::Trap(said.map_or_else(|| format!("it panicked{}", frames(error)), |said| format!("it {said}")));
        }
        _ => (),
    }
    if let Some(no_memory) = error.downcast_ref::<NoMemory>() {
        return Broken::Trap(format!("{no_memory}{}", frames(error)));
    }
    if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
        return Broken::NoRoom(
            "all instances that there is room for are taken: run more processes, so that each has fewer partitions, or let the plugin do \
             without one instance per partition"
                .to_owned(),
        );
    }
    let text = clean(&error.root_cause().to_string());
    if text.contains("fuel allocated for hostcalls") {
        return Broken::Trap(format!("it handed over more than {} MiB in one call", HANDED_OVER_MAX >> 20));
    }
    Broken::Trap(format!("{text}{}", frames(error)))
}

/// The innermost functions of the guest; their names are its own words.
fn functions(error: &wasmtime::Error) -> Vec<String> {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else { return Vec::new() };
    // Names are readable in the text of a backtrace only: a line for each frame, as `0: 0x12ab - MODULE!NAME`.
    let text = backtrace.to_string();
    let names =
        text.lines().filter_map(|line| line.split_once(" - ")).map(|(_, name)| name.rsplit_once('!').map_or(name, |(_, name)| name));
    let own = names.filter(|name| !name.contains("panic") && !name.contains("rust_begin_unwind"));
    own.take(FUNCTIONS_MAX).map(|name| clean(name).chars().take(100).collect()).collect()
}

fn frames(error: &wasmtime::Error) -> String {
    let own = functions(error);
    if own.is_empty() { String::new() } else { format!(" (in {})", own.join(" < ")) }
}

/// A stack that a language keeps in the guest's memory ends at the memory's edge; who calls itself again and again fell off there.
fn is_recursion(error: &wasmtime::Error) -> bool {
    let own = functions(error);
    own.len() == FUNCTIONS_MAX && own.iter().all(|name| *name == own[0])
}
