//! Soak: three routes of the real binary under random faults for as long as `ANABRANCH_SOAK_MINUTES` says, then exact counts. Tables have
//! every record once; HTTP, Kafka and the dead letters have every record; what the router takes of the machine stays the same.
//!
//! `make soak MINUTES=30` runs it for long; without the variable it is a part of `make test` and takes under a minute.
#![allow(clippy::unwrap_used, reason = "tests")]

mod counts;
mod faults;
mod figures;
mod receiver;
mod world;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anabranch_tests::process::tail;
use anabranch_tests::router::Router;
use anabranch_tests::seed;
use anabranch_tests::wait::until_true;

use counts::Count;
use figures::{Figures, Quarters};
use world::World;

/// In `make test`.
const MINUTES: f64 = 0.3;
const START_MAX: Duration = Duration::from_secs(60);
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
const PROGRESS_EVERY: Duration = Duration::from_secs(30);
/// Longest time for what is left over when the faults end.
const DRAIN_MAX: Duration = Duration::from_secs(300);

type Faults = BTreeMap<&'static str, usize>;

#[test]
fn random_faults_leave_every_count_exact_and_every_figure_flat() {
    let minutes = std::env::var("ANABRANCH_SOAK_MINUTES").map_or(MINUTES, |text| text.parse().expect("ANABRANCH_SOAK_MINUTES is a number"));
    let seed = seed();
    let world = World::start(Duration::from_secs_f64(minutes * 60.0));
    let started = Instant::now();
    let first = world.place.run();
    let (faults, samples) = std::thread::scope(|scope| {
        let _ends = world.ends_with_panic();
        for route in 0..world::ROUTES.len() {
            let world = &world;
            scope.spawn(move || world.write(route));
        }
        // Faults concern what runs: a table that is not there yet cannot be read-only.
        let has_rows = |table: &PathBuf| table.join("_delta_log/00000000000000000001.json").is_file();
        until_true("the first rows", START_MAX, || world.tables().iter().all(has_rows));
        let lanes = [
            scope.spawn(|| faults::deal(&world, &first, &faults::OF_PROCESSES, seed)),
            scope.spawn(|| faults::deal(&world, &first, &faults::OF_SERVERS, !seed)),
        ];
        let samples = watch(&world, &first, started, || lanes.iter().all(|lane| lane.is_finished()));
        let faults: Faults = lanes.into_iter().flat_map(|lane| lane.join().unwrap()).collect();
        // The last fault comes to whoever is still there, in the middle of its work.
        first.signal("KILL");
        world.stop();
        (faults, samples)
    });
    let ended = world.place.start("run", &["--until-end"]).end(DRAIN_MAX);
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);

    let (counts, quarters) = (counts::all(&world), Quarters::of(&samples));
    report(started.elapsed(), seed, &faults, &counts, &quarters);
    let problems: Vec<String> = counts.iter().filter_map(Count::problem).chain(quarters.problems()).collect();
    assert!(problems.is_empty(), "repeat with ANABRANCH_SEED={seed}:\n{}", problems.join("\n"));
}

/// Samples what the first router takes until the faults are over, and tells how far everything is.
fn watch(world: &World, first: &Router, started: Instant, is_over: impl Fn() -> bool) -> Vec<Figures> {
    let mut samples = Vec::new();
    let mut told = Instant::now();
    while !is_over() {
        let figures = Figures::of(first.id());
        let figures = figures.unwrap_or_else(|| panic!("the router ended by itself:\n{}", tail(first.log_path(), 40)));
        samples.push(figures);
        if told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            let Figures { memory, handles, threads } = figures;
            eprintln!(
                "soak: {:.0} s: sent {:?}, received {:?}; {} MiB, {handles} file handles, {threads} threads",
                started.elapsed().as_secs_f64(),
                world.sent(),
                world.receiver.counts(),
                memory >> 10
            );
        }
        std::thread::sleep(SAMPLE_EVERY);
    }
    samples
}

fn report(took: Duration, seed: u64, faults: &Faults, counts: &[Count], quarters: &Quarters) {
    eprintln!("\nsoak: {:.1} minutes, ANABRANCH_SEED={seed}\n", took.as_secs_f64() / 60.0);
    eprintln!("{:<44} {:>10} {:>10} {:>10} {:>10}", "place", "expected", "missing", "repeated", "unasked");
    for Count { place, expected, missing, twice, unasked, .. } in counts {
        eprintln!("{place:<44} {expected:>10} {missing:>10} {twice:>10} {unasked:>10}");
    }
    eprintln!("\n{:<44} {:>10} {:>10}", "the first router, medians", "first 1/4", "last 1/4");
    let Quarters { first, last, .. } = quarters;
    let figures = [
        ("memory, MiB", first.memory >> 10, last.memory >> 10),
        ("file handles", first.handles, last.handles),
        ("threads", first.threads, last.threads),
    ];
    for (name, first, last) in figures {
        eprintln!("{name:<44} {first:>10} {last:>10}");
    }
    eprintln!("\n{:<44} {:>10}", "fault", "times");
    for (name, times) in faults {
        eprintln!("{name:<44} {times:>10}");
    }
    eprintln!("{:<44} {:>10}", "everybody is killed (kill -9)", 1);
}
