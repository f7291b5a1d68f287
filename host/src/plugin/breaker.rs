//! When a plugin is broken rather than some of its records.
//!
//! Invariant: a bad record never trips it, however regularly one comes; a plugin that breaks at most of its records always does, before
//! it drains a topic into the dead letters.

use std::time::Duration;

/// Records given up before a plugin can be called broken.
const GIVEN_UP_MIN: u64 = 100;
/// Records after which what was before counts half.
const WINDOW: u64 = 4000;
/// Breaks one after the other that cost no pause: finding one culprit among many takes some.
const BREAKS_FREE: u32 = 16;
/// Longest pause before the next instance.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// Counts what a plugin decided and what it broke at.
#[derive(Debug, Default)]
pub struct Breaker {
    decided: u64,
    given_up: u64,
    breaks_in_turn: u32,
}

impl Breaker {
    /// The plugin decided so many records.
    pub fn decided(&mut self, records: usize) {
        self.decided += records as u64;
        self.breaks_in_turn = 0;
        self.slide();
    }

    /// A call came to nothing. Returns how long to wait before the next instance: longer each time until a call succeeds.
    pub fn broke(&mut self) -> Duration {
        self.breaks_in_turn += 1;
        match self.breaks_in_turn.checked_sub(BREAKS_FREE) {
            None => Duration::ZERO,
            Some(more) => Duration::from_millis(1 << more.min(10)).min(PAUSE_MAX),
        }
    }

    /// A record was given up because the plugin broke at it alone. Returns whether the plugin is broken: it breaks at more than two of
    /// three records.
    pub fn gave_up(&mut self) -> bool {
        self.given_up += 1;
        let is_broken = self.given_up >= GIVEN_UP_MIN && self.given_up > 2 * self.decided;
        self.slide();
        is_broken
    }

    fn slide(&mut self) {
        if self.decided + self.given_up > WINDOW {
            self.decided /= 2;
            self.given_up /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_records_among_good_ones_never_trip_it() {
        let mut breaker = Breaker::default();
        for _ in 0..1_000_000 {
            breaker.decided(1);
            assert!(!breaker.gave_up());
        }
    }

    #[test]
    fn a_plugin_that_breaks_at_every_record_trips_it_soon_whatever_was_before() {
        let mut fresh = Breaker::default();
        assert_eq!((1..).find(|_| fresh.gave_up()), Some(GIVEN_UP_MIN));
        let mut long_well = Breaker::default();
        (0..1_000_000).for_each(|_| long_well.decided(1000));
        let bad = (1..).find(|_| long_well.gave_up()).unwrap();
        assert!(bad <= WINDOW, "{bad}");
    }

    #[test]
    fn pauses_grow_to_a_bound_and_end_with_the_first_success() {
        let mut breaker = Breaker::default();
        let pauses: Vec<u128> = (0..30).map(|_| breaker.broke().as_millis()).collect();
        assert_eq!(pauses[..15], [0; 15]);
        assert_eq!(pauses[15..22], [1, 2, 4, 8, 16, 20, 20]);
        assert_eq!(pauses[29], 20);
        breaker.decided(1);
        assert_eq!(breaker.broke(), Duration::ZERO);
    }
}
