//! The breaker of a route: so many dead letters among so many records are no bad records any more, but a bad plugin, schema or sink.
//!
//! Invariant: it looks back over at most so many records as the configuration says, in tenths.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::config;

#[derive(Debug, Default, Clone, Copy)]
struct Tenth {
    records: u64,
    letters: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Breaker {
    rule: config::Breaker,
    recent: Mutex<VecDeque<Tenth>>,
}

impl Breaker {
    /// One that has seen nothing yet.
    pub fn new(rule: config::Breaker) -> Self {
        Breaker { rule, recent: Mutex::new(VecDeque::from([Tenth::default()])) }
    }

    /// So many records were decided.
    pub fn passed(&self, records: u64) {
        let mut recent = self.recent.lock();
        let tenth = u64::from(self.rule.records / 10).max(1);
        if recent.back().is_some_and(|last| last.records >= tenth) {
            recent.push_back(Tenth::default());
        }
        if let Some(last) = recent.back_mut() {
            last.records += records;
        }
        let mut sum: u64 = recent.iter().map(|tenth| tenth.records).sum();
        while let Some(first) = recent.front().copied()
            && recent.len() > 1
            && sum - first.records >= self.rule.records.into()
        {
            sum -= first.records;
            recent.pop_front();
        }
    }

    /// So many of them are given up. Returns whether that is too many.
    pub fn gave_up(&self, letters: u64) -> bool {
        let mut recent = self.recent.lock();
        if let Some(last) = recent.back_mut() {
            last.letters += letters;
        }
        recent.iter().map(|tenth| tenth.letters).sum::<u64>() > self.rule.dead_letters.into()
    }

    /// What it keeps to.
    pub fn rule(&self) -> config::Breaker {
        self.rule
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker(dead_letters: u32, records: u32) -> Breaker {
        Breaker::new(config::Breaker { dead_letters, records })
    }

    #[test]
    fn it_breaks_at_one_more_than_it_allows() {
        let breaker = breaker(3, 100);
        breaker.passed(50);
        assert!(!breaker.gave_up(3));
        assert!(breaker.gave_up(1));
    }

    #[test]
    fn what_lies_further_back_than_it_looks_does_not_count() {
        let breaker = breaker(3, 100);
        for _ in 0..50 {
            breaker.passed(50);
            assert!(!breaker.gave_up(1), "one among 50 is two or three among 100 to 150");
        }
        breaker.passed(1);
        assert!(breaker.gave_up(3));
    }

    #[test]
    fn few_bad_records_in_a_short_life_are_no_reason() {
        let breaker = Breaker::new(config::Breaker::default());
        breaker.passed(100);
        assert!(!breaker.gave_up(100), "a topic of a hundred records, all of them bad, is drained");
    }
}
