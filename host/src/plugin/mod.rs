//! Plugins: WebAssembly components that decide what becomes of records. The only place that knows wasmtime.
//!
//! Invariant: everything that a guest returns is checked before it is used, and whatever a guest does (trap, spin, grow, lie) costs at
//! most the records it did it at.

mod answer;
mod ask;
mod bind;
mod breaker;
mod bundled;
mod cache;
mod chain;
mod engine;
#[cfg(test)]
mod fuzz;
mod guest;
mod instance;
mod limits;
mod plan;
mod shared;

pub use bundled::bundled;
pub use chain::{Chain, Decided, Outcome};
pub use engine::{Component, Engine, Room};
pub use limits::{Limits, size};
pub use plan::{ChainPlan, InitError, Step, StepError};
pub use shared::Shared;

/// Why a plugin cannot be used at all.
#[derive(Debug, thiserror::Error)]
#[error("plugin {plugin:?}: {reason}")]
pub struct PluginError {
    /// Its name.
    pub plugin: String,
    /// What is wrong, and the remedy.
    pub reason: String,
}
