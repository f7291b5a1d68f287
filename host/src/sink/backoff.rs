//! How long a sink waits before it tries again: exponential with full jitter.
//!
//! Invariant: a delay is never longer than `max`, and any delay down to zero is as likely, so that many waiters spread out.

use std::time::Duration;

/// Bounds of the delays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Upper bound of the first delay; it doubles from try to try.
    pub min: Duration,
    /// Upper bound of all delays.
    pub max: Duration,
}

impl Backoff {
    /// The delay after `tries` tries that did not succeed, at least 1.
    pub fn delay(&self, tries: u32) -> Duration {
        self.ceiling(tries).mul_f64(fastrand::f64())
    }

    fn ceiling(&self, tries: u32) -> Duration {
        // 2^20 times any sensible minimum is beyond any sensible maximum.
        self.min.saturating_mul(1 << tries.saturating_sub(1).min(20)).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_maximum_and_spread_over_the_whole_range() {
        let backoff = Backoff { min: Duration::from_millis(100), max: Duration::from_secs(1) };
        let ceilings: Vec<_> = (1..=6).map(|tries| backoff.ceiling(tries).as_millis()).collect();
        assert_eq!(ceilings, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.ceiling(u32::MAX), Duration::from_secs(1));
        let delays: Vec<_> = (0..200).map(|_| backoff.delay(9)).collect();
        assert!(delays.iter().all(|delay| *delay <= Duration::from_secs(1)));
        assert!(delays.iter().any(|delay| *delay < Duration::from_millis(300)));
        assert!(delays.iter().any(|delay| *delay > Duration::from_millis(700)));
    }
}
