//! Which offsets of one partition are owed, and from where a restart would begin.
//!
//! Invariant (I1): `committable` moves only over ranges of which no piece is left, in order, so nothing below it is owed to anybody.
//! Pure state: no clock, no lock, no client. Holes in the log are normal: a range spans what the broker delivered.

use std::collections::BTreeMap;

/// How the records of one range ended, counted when the range resolves.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Records read.
    pub read: u64,
    /// Records that all plugins together left without an output.
    pub filtered: u64,
    /// Records of which nothing but dead letters is left.
    pub dead_lettered: u64,
}

impl Counts {
    /// Records that at least one sink took.
    pub fn delivered(&self) -> u64 {
        self.read - self.filtered - self.dead_lettered
    }

    /// Adds `other` to these.
    pub fn merge(&mut self, other: Counts) {
        self.read += other.read;
        self.filtered += other.filtered;
        self.dead_lettered += other.dead_lettered;
    }
}

#[derive(Debug)]
struct Range {
    next: i64,
    pieces_left: u32,
    counts: Counts,
    /// Record offset -> outputs of it that are still hoped for, for records of which a sink gave up an output.
    given_up: BTreeMap<i64, u32>,
}

/// The state of one partition in one generation.
#[derive(Debug)]
pub struct Tracker {
    /// Ranges that still owe something, by first offset. Resolved ones leave no trace, so a head far behind stays cheap.
    ranges: BTreeMap<i64, Range>,
    /// Where reading began in this generation.
    start: Option<i64>,
    /// Behind the last record that was dispatched, or the consumer's position where that is further.
    position: Option<i64>,
    resolved: Counts,
}

impl Tracker {
    /// A partition of which nothing is read yet. `start`: where reading begins, if known.
    pub fn new(start: Option<i64>) -> Self {
        Tracker { ranges: BTreeMap::new(), start, position: start, resolved: Counts::default() }
    }

    /// A batch of `records` with offsets in `first..next` is read; it owes one piece until it is routed.
    pub fn read(&mut self, first: i64, next: i64, records: u64) {
        debug_assert!(self.position.is_none_or(|position| first >= position), "batches come in order");
        self.start.get_or_insert(first);
        self.position = Some(next);
        let counts = Counts { read: records, ..Counts::default() };
        self.ranges.insert(first, Range { next, pieces_left: 1, counts, given_up: BTreeMap::new() });
    }

    /// The range that starts at `first` owes `more` further pieces.
    pub fn owe(&mut self, first: i64, more: u32) {
        if let Some(range) = self.ranges.get_mut(&first) {
            range.pieces_left += more;
        }
    }

    /// Of the range that starts at `first`, so many records have no output, and so many nothing but a dead letter.
    pub fn decided(&mut self, first: i64, filtered: u64, dead_lettered: u64) {
        if let Some(range) = self.ranges.get_mut(&first) {
            range.counts.filtered += filtered;
            range.counts.dead_lettered += dead_lettered;
        }
    }

    /// One of the `owed` outputs of the record at `offset` was given up by its sink.
    pub fn give_up(&mut self, first: i64, offset: i64, owed: u32) {
        let Some(range) = self.ranges.get_mut(&first) else { return };
        let left = range.given_up.entry(offset).or_insert(owed);
        *left = left.saturating_sub(1);
        if *left == 0 {
            range.counts.dead_lettered += 1;
        }
    }

    /// One piece of the range that starts at `first` is settled. Returns whether the range is resolved now.
    pub fn settle(&mut self, first: i64) -> bool {
        let Some(range) = self.ranges.get_mut(&first) else { return false };
        range.pieces_left = range.pieces_left.saturating_sub(1);
        if range.pieces_left > 0 {
            return false;
        }
        let counts = range.counts;
        self.ranges.remove(&first);
        self.resolved.merge(counts);
        true
    }

    /// The consumer's position moved to `next` without records (control records, compaction, end of the partition).
    pub fn reached(&mut self, next: i64) {
        if self.position.is_none_or(|position| next > position) {
            self.start.get_or_insert(next);
            self.position = Some(next);
        }
    }

    /// Where a restart would begin: the first offset that is owed; the position where nothing is.
    pub fn committable(&self) -> Option<i64> {
        match self.ranges.first_key_value() {
            Some((first, _)) => Some(*first),
            None => self.position,
        }
    }

    /// The same, were so many pieces of each range settled as `held` says, by first offset.
    pub fn committable_with(&self, held: &BTreeMap<i64, u32>) -> Option<i64> {
        let owes = |(first, range): &(&i64, &Range)| range.pieces_left > held.get(first).copied().unwrap_or_default();
        self.ranges.iter().find(owes).map(|(first, _)| *first).or(self.position)
    }

    /// Behind the last record read.
    pub fn position(&self) -> Option<i64> {
        self.position
    }

    /// The first range that is owed, `first..next`.
    pub fn head(&self) -> Option<(i64, i64)> {
        self.ranges.first_key_value().map(|(first, range)| (*first, range.next))
    }

    /// How many ranges are owed.
    pub fn owed(&self) -> usize {
        self.ranges.len()
    }

    /// Carries counts over from a former generation.
    pub fn add_resolved(&mut self, counts: Counts) {
        self.resolved.merge(counts);
    }

    /// Takes the counts of the ranges that resolved since the last call.
    pub fn take_resolved(&mut self) -> Counts {
        std::mem::take(&mut self.resolved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn three_batches() -> Tracker {
        let mut tracker = Tracker::new(Some(0));
        tracker.read(0, 10, 10);
        tracker.read(10, 25, 10);
        tracker.read(25, 30, 5);
        tracker
    }

    #[test]
    fn a_gap_holds_the_commit_back() {
        let mut tracker = three_batches();
        assert!(tracker.settle(10));
        assert!(tracker.settle(25));
        assert_eq!(tracker.committable(), Some(0));
        assert!(tracker.settle(0));
        assert_eq!(tracker.committable(), Some(30));
    }

    #[test]
    fn what_a_transaction_holds_counts_as_settled_up_to_the_first_piece_of_others() {
        let mut tracker = three_batches();
        tracker.owe(10, 1);
        let held = |pieces: &[(i64, u32)]| pieces.iter().copied().collect::<BTreeMap<_, _>>();
        assert_eq!(tracker.committable_with(&held(&[])), Some(0));
        assert_eq!(tracker.committable_with(&held(&[(0, 1), (10, 1), (25, 1)])), Some(10));
        assert_eq!(tracker.committable_with(&held(&[(10, 2), (25, 1)])), Some(0));
        assert_eq!(tracker.committable_with(&held(&[(0, 1), (10, 2), (25, 1)])), Some(30));
        assert_eq!(tracker.committable(), Some(0), "nothing is settled by asking");
    }

    #[test]
    fn a_range_waits_for_every_piece() {
        let mut tracker = three_batches();
        tracker.owe(0, 2);
        assert!(!tracker.settle(0));
        assert!(!tracker.settle(0));
        assert_eq!(tracker.committable(), Some(0));
        assert!(tracker.settle(0));
        assert_eq!(tracker.committable(), Some(10));
    }

    #[test]
    fn the_position_behind_control_records_is_committable_when_nothing_is_owed() {
        let mut tracker = Tracker::new(Some(5));
        tracker.read(5, 8, 3);
        tracker.reached(9);
        assert_eq!(tracker.committable(), Some(5));
        tracker.settle(5);
        assert_eq!(tracker.committable(), Some(9));
        tracker.reached(7);
        assert_eq!(tracker.committable(), Some(9), "a position never goes back");
    }

    #[test]
    fn a_record_counts_as_dead_only_when_every_output_is_given_up() {
        let mut tracker = Tracker::new(Some(0));
        tracker.read(0, 3, 3);
        tracker.decided(0, 1, 0);
        tracker.give_up(0, 1, 2);
        tracker.give_up(0, 2, 2);
        tracker.give_up(0, 2, 2);
        tracker.settle(0);
        let counts = tracker.take_resolved();
        assert_eq!(counts, Counts { read: 3, filtered: 1, dead_lettered: 1 });
        assert_eq!(counts.delivered(), 1);
    }

    #[test]
    fn a_late_settlement_of_an_unknown_range_changes_nothing() {
        let mut tracker = three_batches();
        assert!(!tracker.settle(7));
        assert_eq!(tracker.committable(), Some(0));
    }

    proptest! {
        /// Whatever the order of settling: committable is the smallest first offset that is owed, and never goes back.
        #[test]
        fn committable_is_the_lowest_offset_owed(pieces in prop::collection::vec((1u32..4, 1i64..20, 0i64..5), 1..40), order in prop::collection::vec(any::<prop::sample::Index>(), 0..200)) {
            let mut tracker = Tracker::new(Some(0));
            let mut owed: Vec<(i64, u32)> = Vec::new();
            let mut at = 0;
            for (extra, length, hole) in &pieces {
                let first = at + hole;
                at = first + length;
                tracker.read(first, at, *length as u64);
                tracker.owe(first, extra - 1);
                owed.push((first, *extra));
            }
            let mut last = tracker.committable();
            for index in order {
                if owed.is_empty() { break; }
                let which = index.index(owed.len());
                owed[which].1 -= 1;
                tracker.settle(owed[which].0);
                if owed[which].1 == 0 { owed.remove(which); }
                let expected = owed.iter().map(|(first, _)| *first).min().unwrap_or(at);
                prop_assert_eq!(tracker.committable(), Some(expected));
                prop_assert!(tracker.committable() >= last);
                last = tracker.committable();
            }
        }
    }
}
