//! Faults: of the processes, and of the servers around them, at the same time.
//!
//! Invariant: a fault is over when its function returns, and every kind comes once before any comes again.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use anabranch_tests::router::Router;
use anabranch_tests::wait::poll;

use crate::receiver::Mood;
use crate::world::{SESSION, World, locked};

/// Longest wait for partitions: members that died have to be missed first, and those that give some up wait for their sinks.
const ASSIGNED_MAX: Duration = Duration::from_secs(60);
/// Longest wait for a process that was asked to stop: it waits for its sinks for half a minute.
const STOP_MAX: Duration = Duration::from_secs(90);

type Fault = (&'static str, fn(&World, &Router, &mut fastrand::Rng));

/// What happens to processes. The first router stays for the whole run, so that its figures can be compared; others come and go.
pub const OF_PROCESSES: [Fault; 4] = [
    ("a second process joins and leaves", joins_and_leaves),
    ("a second process is killed (kill -9)", is_killed),
    ("a second process sleeps past its session", second_sleeps),
    ("the first process sleeps past its session", first_sleeps),
];

/// What happens to servers and places.
pub const OF_SERVERS: [Fault; 9] = [
    ("the broker is killed and starts again", |world, _, random| {
        let mut broker = locked(&world.broker);
        broker.kill();
        world.pass(some(random, 0..3_000));
        broker.restart();
    }),
    ("the registry stops and starts again, empty", |world, _, random| {
        drop(locked(&world.registry).take());
        world.pass(some(random, 2_000..6_000));
        world.start_registry();
    }),
    ("the registry hangs", |world, _, random| {
        let registry = locked(&world.registry);
        let process = registry.as_ref().unwrap().process();
        process.signal("STOP");
        world.pass(some(random, 2_000..6_000));
        process.signal("CONT");
    }),
    ("the receiver is down", |world, _, random| {
        world.receiver.go_down();
        world.pass(some(random, 1_000..6_000));
        world.receiver.come_up();
    }),
    ("the receiver answers 429", |world, _, random| mood(world, random, Mood::TooMany)),
    ("the receiver answers 500", |world, _, random| mood(world, random, Mood::Broken)),
    ("the receiver is slow", |world, _, random| mood(world, random, Mood::Slow)),
    ("the receiver hangs", |world, _, random| mood(world, random, Mood::Hanging)),
    ("the tables are read-only", |world, _, random| {
        let _writable = ReadOnly::new(world);
        world.pass(some(random, 2_000..6_000));
    }),
];

/// Deals faults until the run is over; returns how often each came.
pub fn deal(world: &World, first: &Router, faults: &[Fault], seed: u64) -> BTreeMap<&'static str, usize> {
    let _ends = world.ends_with_panic();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut counts = BTreeMap::new();
    let mut deck = Vec::new();
    while !world.is_over() {
        if deck.is_empty() {
            deck = faults.to_vec();
            random.shuffle(&mut deck);
        }
        let Some((name, fault)) = deck.pop() else { break };
        fault(world, first, &mut random);
        *counts.entry(name).or_default() += 1;
        world.pass(some(&mut random, 0..2_000));
    }
    counts
}

fn some(random: &mut fastrand::Rng, milliseconds: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(random.u64(milliseconds))
}

fn mood(world: &World, random: &mut fastrand::Rng, mood: Mood) {
    world.receiver.mood(mood);
    world.pass(some(random, 1_000..6_000));
    world.receiver.mood(Mood::Good);
}

/// A second process, which has partitions, mostly.
fn second(world: &World, random: &mut fastrand::Rng) -> Router {
    let broker = locked(&world.broker);
    let router = world.place.run();
    let assigned = poll(ASSIGNED_MAX, || router.log().contains("assigned").then_some(()));
    assert!(assigned.is_some(), "a second process got no partition for {ASSIGNED_MAX:?}:\n{}", router.log());
    drop(broker);
    world.pass(some(random, 0..4_000));
    router
}

fn joins_and_leaves(world: &World, _: &Router, random: &mut fastrand::Rng) {
    leaves(second(world, random));
}

fn leaves(router: Router) {
    router.signal("TERM");
    let ended = router.end(STOP_MAX);
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
}

fn is_killed(world: &World, _: &Router, random: &mut fastrand::Rng) {
    second(world, random).kill();
}

fn second_sleeps(world: &World, _: &Router, random: &mut fastrand::Rng) {
    let router = second(world, random);
    sleeps(world, &router, random);
    world.pass(some(random, 0..3_000));
    if random.bool() { router.kill() } else { leaves(router) }
}

fn first_sleeps(world: &World, first: &Router, random: &mut fastrand::Rng) {
    // Somebody takes over while it sleeps, or nobody is there.
    let other = random.bool().then(|| second(world, random));
    sleeps(world, first, random);
    other.into_iter().for_each(leaves);
}

fn sleeps(world: &World, router: &Router, random: &mut fastrand::Rng) {
    router.signal("STOP");
    world.pass(SESSION + some(random, 1_000..4_000));
    router.signal("CONT");
}

/// Folders that nobody can write to until this is dropped.
struct ReadOnly(Vec<PathBuf>);

impl ReadOnly {
    fn new(world: &World) -> ReadOnly {
        let folders = world.tables().into_iter().flat_map(|table| [table.join("_delta_log"), table]).collect();
        set_mode(&folders, 0o555);
        ReadOnly(folders)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        set_mode(&self.0, 0o755);
    }
}

fn set_mode(folders: &Vec<PathBuf>, mode: u32) {
    for folder in folders {
        fs::set_permissions(folder, Permissions::from_mode(mode)).unwrap();
    }
}
