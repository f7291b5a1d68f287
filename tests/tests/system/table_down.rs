//! A table whose place is full or read-only, that others write too, or that is not any more what it was.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use anabranch_tests::health::Health;
use anabranch_tests::kafka::Broker;
use anabranch_tests::other_writer::OtherWriter;
use anabranch_tests::router::{END_MAX, Place, Router};
use anabranch_tests::table;
use anabranch_tests::topic::Topic;
use anabranch_tests::volume::Volume;
use anabranch_tests::wait::until;

use crate::setup::{assert_none_missing, assert_none_twice, config, plain, times};

/// A sink waits up to 15 seconds between two tries.
const MOMENT: Duration = Duration::from_secs(90);
const SINK: &str = "sink \"lake\" of route \"orders\"";

fn lake(topic: &Topic, table: &Path, further: &str) -> String {
    let sink = format!(
        "[sink.lake.delta]\nuri = \"{}\"\ncolumns = [{{ name = \"id\", type = \"long\" }}]\nbatch = {{ age_max = \"100 ms\" }}\n{further}\n",
        table.display()
    );
    config(topic, &sink, "value = \"json\"\nto = [\"lake\"]")
}

fn assert_each_once(folder: &Path, count: i64) {
    let rows = times(table::longs(folder, "id"));
    assert_none_missing("the table", &rows, count);
    assert_none_twice("the table", &rows);
}

/// Sends orders that the place does not take until `recover`, and waits for them.
fn outage(router: &mut Router, health: &Health, topic: &Topic, ids: std::ops::Range<i64>, cause: &str, recover: impl FnOnce()) {
    let before: i64 = topic.committed(&topic.name).values().sum();
    let retries = "anabranch_sink_retries_total{route=\"orders\",sink=\"lake\"}";
    let tried = health.metric(retries).unwrap_or_default();
    topic.send(ids.map(plain));
    let reason = router.until("readiness to name the sink", MOMENT, || health.waits_for(SINK));
    assert!(reason.contains(cause), "{cause:?} is not in {reason}");
    router.until("more tries", MOMENT, || health.metric(retries).filter(|now| *now >= tried + 3.0));
    assert_eq!(topic.committed(&topic.name).values().sum::<i64>(), before, "committed and not in the table");
    recover();
    topic.wait_committed(&topic.name, MOMENT);
    router.until("readiness", MOMENT, || health.is_ready().then_some(()));
}

#[test]
fn a_place_that_is_full_or_read_only_is_waited_for_and_every_row_is_there_once() {
    let topic = Broker::shared().topic("full", 1);
    let (volume, health) = (Volume::new("2m"), Health::new());
    let folder = volume.path().join("table");
    let place = Place::new(&(health.line() + &lake(&topic, &folder, "")));
    topic.send((0..100).map(plain));

    // Full from the start: the table cannot even be created.
    volume.fill();
    let mut router = place.run();
    let reason = router.until("readiness to name the sink", MOMENT, || health.waits_for(SINK));
    assert!(reason.contains("No space left"), "{reason}");
    volume.free();
    topic.wait_committed(&topic.name, MOMENT);
    assert_each_once(&folder, 100);

    volume.fill();
    outage(&mut router, &health, &topic, 100..200, "No space left", || volume.free());
    assert_each_once(&folder, 200);

    router.until("the volume to be read-only", MOMENT, || volume.set_read_only(true));
    outage(&mut router, &health, &topic, 200..300, "Read-only", || _ = volume.set_read_only(false));
    assert_each_once(&folder, 300);
    let told = ["unavailable, waiting", "up again"].map(|what| router.lines_with(&[SINK, what]).len());
    assert_eq!(told, [3, 3], "{}", router.log());

    // Killed while it waits, and started while there is still no space.
    volume.fill();
    topic.send((300..400).map(plain));
    router.until("readiness to name the sink", MOMENT, || health.waits_for(SINK));
    router.kill();
    let mut router = place.run();
    router.until("readiness to name the sink", MOMENT, || health.waits_for(SINK));
    volume.free();
    topic.wait_committed(&topic.name, MOMENT);
    router.stop();
    assert_each_once(&folder, 400);
    // What a full volume cut short is not left over.
    let files = std::fs::read_dir(&folder).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_file()).count();
    assert_eq!(files, table::open(&folder).snapshot().unwrap().log_data().num_files());
}

#[test]
fn others_may_append_delete_and_add_columns_in_mid_stream() {
    const WRITE: i64 = 50;
    const ROUNDS: i64 = 8;
    let topic = Broker::shared().topic("others", 2);
    let health = Health::new();
    let place = Place::new("");
    let folder = place.path("table");
    place.configure(&(health.line() + &lake(&topic, &folder, "")));
    topic.send((0..WRITE).map(plain));
    let mut router = place.run();
    router.until("the table", MOMENT, || (table::count(&folder) as i64 == WRITE).then_some(()));

    let other = OtherWriter::new(&folder);
    let (sent, enough) = (AtomicI64::new(WRITE), AtomicBool::new(false));
    let (mut theirs, mut deleted) = (BTreeSet::new(), BTreeSet::new());
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            while !enough.load(Ordering::Relaxed) {
                let first = sent.load(Ordering::Relaxed);
                topic.send((first..first + WRITE).map(plain));
                sent.store(first + WRITE, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let changed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 1..=ROUNDS {
                other.append(&[-round]);
                theirs.insert(-round);
                if round % 3 == 0 {
                    deleted.extend(other.delete_all());
                }
                if round == ROUNDS / 2 {
                    other.add_column("note");
                }
                // The router commits in between.
                let before = table::open(&folder).version();
                router.until("a commit of the router", MOMENT, || (table::open(&folder).version() > before).then_some(()));
            }
        }));
        enough.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        changed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    topic.wait_committed(&topic.name, MOMENT);
    assert!(health.is_ready());
    let ended = router.stop();
    assert!(!ended.stderr.contains("rewind "), "{}", ended.stderr);

    let rows = times(table::longs(&folder, "id"));
    assert_none_twice("the table", &rows);
    let again: Vec<_> = rows.keys().filter(|id| deleted.contains(*id)).collect();
    assert!(again.is_empty(), "deleted, and there again: {again:?}");
    assert!(deleted.iter().any(|id| *id >= 0), "no row of the router was deleted");
    let all: BTreeSet<i64> = rows.keys().copied().chain(deleted).collect();
    let wanted: BTreeSet<i64> = (0..sent.load(Ordering::Relaxed)).chain(theirs).collect();
    assert!(all == wanted, "missing: {:?}", wanted.difference(&all).collect::<Vec<_>>());
    let schema = table::open(&folder).snapshot().unwrap().schema();
    let columns: Vec<&String> = schema.fields().map(|field| field.name()).collect();
    assert_eq!(columns, ["id", "note"]);
}

/// A table with three commits of ten rows each, everything committed to the group, and no router.
fn three_commits(topic: &Topic, place: &Place, folder: &Path) {
    place.configure(&lake(topic, folder, ""));
    for part in 0..3 {
        topic.send((part * 10..part * 10 + 10).map(plain));
        place.run_until_end();
    }
    assert_each_once(folder, 30);
}

fn version(folder: &Path) -> u64 {
    table::open(folder).version().unwrap()
}

/// The route stops with a message that has all of `parts`, and the table is as it was.
fn assert_stops(place: &Place, folder: &Path, parts: &[&str]) {
    let before = table::longs(folder, "id");
    let ended = place.run().end(END_MAX);
    assert_eq!(ended.code(), Some(3), "{}", ended.stderr);
    let errors: Vec<&str> = ended.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{}", ended.stderr);
    for part in parts {
        assert!(errors[0].contains(part), "{part:?} is not in {}", errors[0]);
    }
    assert_eq!(table::longs(folder, "id"), before);
}

/// The user accepts that ten of forty rows are missing, and the route goes on.
fn accept_restored(topic: &Topic, place: &Place, folder: &Path) {
    place.configure(&lake(topic, folder, "restored = \"accept\""));
    place.run_until_end();
    let ids: Vec<i64> = times(table::longs(folder, "id")).into_keys().collect();
    assert_eq!(ids, (0..20).chain(30..40).collect::<Vec<_>>(), "the user accepted that ten are missing");
}

#[test]
fn a_table_that_lost_its_last_commits_or_is_gone_stops_with_an_explanation_and_a_choice() {
    let topic = Broker::shared().topic("older", 1);
    let place = Place::new("");
    let folder = place.path("table");
    three_commits(&topic, &place, &folder);
    // As a copy of yesterday that is put back.
    std::fs::remove_file(folder.join(format!("_delta_log/{:020}.json", version(&folder)))).unwrap();
    topic.send((30..40).map(plain));
    let parts = ["sink \"lake\"", "up to offset 29", "only up to offset 19", "restored", "restored = \"accept\""];
    assert_stops(&place, &folder, &parts);
    // Nothing was committed: it stops again.
    assert_stops(&place, &folder, &parts);
    accept_restored(&topic, &place, &folder);

    // Without a table at all there is one that is created again.
    place.configure(&lake(&topic, &folder, ""));
    std::fs::remove_dir_all(&folder).unwrap();
    topic.send((40..50).map(plain));
    assert_stops(&place, &folder, &["up to offset 39", "holds nothing now", "created again", "restored = \"accept\""]);
}

#[test]
fn a_table_that_was_restored_by_a_command_stops_with_an_explanation_and_a_choice() {
    let topic = Broker::shared().topic("restored", 1);
    let place = Place::new("");
    let folder = place.path("table");
    three_commits(&topic, &place, &folder);
    // Its ledger stays as it was: transaction identifiers do not go back with `RESTORE`.
    OtherWriter::new(&folder).restore(version(&folder) - 1);
    assert_eq!(table::count(&folder), 20);
    topic.send((30..40).map(plain));
    let parts = ["sink \"lake\"", "restored", "restored = \"accept\""];
    assert_stops(&place, &folder, &parts);
    accept_restored(&topic, &place, &folder);
    // Accepted once is accepted: what was restored lies before what this sink wrote since.
    place.configure(&lake(&topic, &folder, ""));
    topic.send((40..50).map(plain));
    place.run_until_end();

    // The same under a router that runs.
    let router = place.run();
    topic.send((50..60).map(plain));
    until("ten more rows", MOMENT, || (table::count(&folder) == 50).then_some(()));
    OtherWriter::new(&folder).restore(version(&folder) - 1);
    topic.send((60..70).map(plain));
    let ended = router.end(END_MAX);
    assert_eq!(ended.code(), Some(3), "{}", ended.stderr);
    assert!(ended.stderr.contains("restored = \"accept\""), "{}", ended.stderr);
    assert_eq!(table::count(&folder), 40, "nothing was written behind the gap");
}
