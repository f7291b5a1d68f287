//! Stopping a route: the first reason counts, and everybody of the route hears of it.
//!
//! Invariant: a reason, once given, never changes.

use std::sync::Arc;

use tokio::sync::watch;

/// Why a route stops before its work is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// Asked from outside (a signal): drain, flush, commit.
    Asked,
    /// A bad record, and no place for dead letters.
    DeadLetter(String),
    /// What the user configured cannot work.
    Configuration(String),
    /// A server or a place that the route needs refuses for good.
    Environment(String),
    /// Anything else.
    Broken(String),
}

impl std::fmt::Display for StopReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StopReason::Asked => f.write_str("asked to stop"),
            StopReason::DeadLetter(text) | StopReason::Configuration(text) | StopReason::Environment(text) | StopReason::Broken(text) => {
                f.write_str(text)
            }
        }
    }
}

/// Stops a route; clones share it.
#[derive(Debug, Clone)]
pub struct Stop(Arc<watch::Sender<Option<StopReason>>>);

impl Stop {
    /// Nobody has asked yet.
    pub fn new() -> Self {
        Stop(Arc::new(watch::Sender::new(None)))
    }

    /// Stops; the first reason stays.
    pub fn stop(&self, reason: StopReason) {
        self.0.send_if_modified(|kept| {
            let first = kept.is_none();
            if first {
                *kept = Some(reason);
            }
            first
        });
    }

    /// The reason, if there is one.
    pub fn reason(&self) -> Option<StopReason> {
        self.0.borrow().clone()
    }

    /// Whether a reason was given.
    pub fn is_stopped(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Waits for a reason. Cancel safe.
    pub async fn stopped(&self) -> StopReason {
        let mut receiver = self.0.subscribe();
        let reason = receiver.wait_for(Option::is_some).await.map(|reason| reason.clone());
        reason.ok().flatten().unwrap_or(StopReason::Asked)
    }
}

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}
