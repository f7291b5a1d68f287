//! Counting: what should be where, told from what was sent, and what is there.
//!
//! Invariant: what should be there is computed from the topics' records alone, never from what a router said.

use std::collections::BTreeSet;

use anabranch_tests::table;
use anabranch_tests::topic::Record;

use crate::world::{ROUTES, World, is_bad, is_paid, is_panic, is_refused};

/// One place, counted.
#[derive(Debug)]
pub struct Count {
    /// Place.
    pub place: String,
    /// Records that should be there.
    pub expected: usize,
    /// Of them, not there.
    pub missing: usize,
    /// There more than once.
    pub twice: usize,
    /// There, and should not be.
    pub unasked: usize,
    /// Whether a record may be there more than once.
    pub may_repeat: bool,
}

impl Count {
    /// Of ids: how often each should be there (not at all or once), how often it is.
    fn of(place: &str, may_repeat: bool, expected: &[bool], found: &[u16]) -> Count {
        let times = |id: usize| found.get(id).copied().unwrap_or(0);
        let all = 0..expected.len().max(found.len());
        let is_expected = |id: usize| expected.get(id).copied().unwrap_or(false);
        Count {
            place: place.to_owned(),
            expected: all.clone().filter(|id| is_expected(*id)).count(),
            missing: all.clone().filter(|id| is_expected(*id) && times(*id) == 0).count(),
            twice: all.clone().filter(|id| times(*id) > 1).count(),
            unasked: all.filter(|id| !is_expected(*id) && times(*id) > 0).count(),
            may_repeat,
        }
    }

    /// What is wrong.
    pub fn problem(&self) -> Option<String> {
        let wrong = self.missing + self.unasked > 0 || (self.twice > 0 && !self.may_repeat);
        wrong.then(|| format!("{self:?}"))
    }
}

fn times(ids: impl IntoIterator<Item = usize>) -> Vec<u16> {
    let mut times = Vec::new();
    for id in ids {
        if times.len() <= id {
            times.resize(id + 1, 0);
        }
        times[id] += 1;
    }
    times
}

fn id(record: &Record) -> usize {
    String::from_utf8_lossy(record.key.as_ref().unwrap()).parse().unwrap()
}

/// Counts everything, once all routers have ended.
pub fn all(world: &World) -> Vec<Count> {
    let sent = world.sent();
    // A dead letter is known by its route and its offset; so is each record that has to become one.
    let mut letters: BTreeSet<(usize, i32, i64)> = BTreeSet::new();
    let mut panics = vec![false; sent[1]];
    for (route, topic) in world.topics.iter().enumerate() {
        let mut there = Vec::new();
        topic.each(|record| {
            let id = id(&record);
            there.push(id);
            let panics_at = route == 1 && is_panic(record.offset);
            if panics_at {
                panics[id] = true;
            }
            if is_bad(id) || panics_at || (route == 2 && is_refused(id)) {
                letters.insert((route, record.partition.unwrap(), record.offset));
            }
        });
        there.sort_unstable();
        assert!(there.iter().copied().eq(0..sent[route]), "topic {} has not what was sent to it", topic.name);
    }
    let expected =
        |route: usize, is_kept: &dyn Fn(usize) -> bool| -> Vec<bool> { (0..sent[route]).map(|id| !is_bad(id) && is_kept(id)).collect() };
    let [paid, fan] = world.tables().map(|table| times(table::longs(&table, "id").into_iter().map(|id| id as usize)));
    let [batches, single] = world.receiver.taken();
    let mut copied = Vec::new();
    world.copy.each(|record| copied.push(id(&record)));
    vec![
        Count::of("paid: table", false, &expected(0, &is_paid), &paid),
        Count::of("batches: HTTP", true, &expected(1, &|id| !panics[id]), &batches),
        Count::of("fan: Kafka", true, &expected(2, &|_| true), &times(copied)),
        Count::of("fan: HTTP", true, &expected(2, &|id| !is_refused(id)), &single),
        Count::of("fan: table", false, &expected(2, &|_| true), &fan),
        dead_letters(world, &letters),
    ]
}

fn dead_letters(world: &World, expected: &BTreeSet<(usize, i32, i64)>) -> Count {
    let (mut found, mut twice, mut reasons) = (BTreeSet::new(), 0, Vec::new());
    world.dead.each(|letter| {
        let header = |name: &str| letter.header(name).unwrap_or_else(|| panic!("{name} is not in {letter:?}"));
        let route = ROUTES.iter().position(|route| *route == header("anabranch.route")).unwrap();
        let position = (route, header("anabranch.partition").parse().unwrap(), header("anabranch.offset").parse().unwrap());
        if !expected.contains(&position) {
            reasons.push(format!("{position:?} {}: {}", header("anabranch.class"), header("anabranch.message")));
        }
        twice += usize::from(!found.insert(position));
    });
    reasons.iter().take(10).for_each(|reason| eprintln!("a dead letter that should be none: {reason}"));
    Count {
        place: "dead letters".to_owned(),
        expected: expected.len(),
        missing: expected.difference(&found).count(),
        twice,
        unasked: found.difference(expected).count(),
        may_repeat: true,
    }
}

#[test]
fn what_is_missing_twice_or_unasked_is_told() {
    let expected = [true, true, false, true];
    let good = Count::of("place", false, &expected, &times([0, 1, 3]));
    assert_eq!((good.problem(), good.expected), (None, 3));
    let count = Count::of("place", true, &expected, &times([0, 0, 2, 9]));
    assert_eq!((count.missing, count.twice, count.unasked), (2, 1, 2));
    assert!(count.problem().is_some());
    assert!(Count::of("place", true, &expected, &times([0, 1, 1, 3])).problem().is_none());
    assert!(Count::of("place", false, &expected, &times([0, 1, 1, 3])).problem().is_some());
}
