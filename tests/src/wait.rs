//! Waiting for what other processes do.
//!
//! Invariant: no wait is without a deadline, and one that passes says what was waited for.

use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until there is something, or `within` has passed: then `None`.
pub fn poll<T>(within: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if started.elapsed() >= within {
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Looks until there is something.
///
/// # Panics
/// Where `within` passes; `what` completes "waited 30s for ..".
pub fn until<T>(what: &str, within: Duration, look: impl FnMut() -> Option<T>) -> T {
    poll(within, look).unwrap_or_else(|| panic!("waited {within:?} for {what}"))
}

/// Looks until it is so.
///
/// # Panics
/// As [`until`].
pub fn until_true(what: &str, within: Duration, mut look: impl FnMut() -> bool) {
    until(what, within, || look().then_some(()));
}
