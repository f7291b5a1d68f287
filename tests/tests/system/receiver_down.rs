//! A receiver that is down, that asks for patience, or that fails for ever: memory stays flat, it is left alone as it asked, and other
//! routes do not notice.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anabranch_tests::health::Health;
use anabranch_tests::kafka::Broker;
use anabranch_tests::receiver::{Answer, Receiver};
use anabranch_tests::router::Place;
use anabranch_tests::topic::Record;
use serde_json::json;

use crate::setup::{assert_none_missing, assert_none_twice, config, plain, received, times};

const MOMENT: Duration = Duration::from_secs(60);

/// An order of about a kilobyte.
fn large(id: i64) -> Record {
    Record::keyed(id.to_string(), json!({ "id": id, "pad": "x".repeat(1_000) }).to_string())
}

#[test]
fn memory_is_flat_while_a_receiver_is_down_at_full_rate_and_nothing_is_missing_afterwards() {
    const DOWN_FOR: Duration = Duration::from_secs(20);
    const WRITE: i64 = 4_000;
    const WRITE_EVERY: Duration = Duration::from_millis(20);
    // Records in flight and the bodies made of them, each in buffers that may be half empty; the client's queue, and what it takes to
    // fill it; a third of all for whatever comes and goes.
    const IN_FLIGHT_MAX: u64 = 8 << 20;
    const HELD_MAX: u64 = 4 * IN_FLIGHT_MAX + 2 * (16 << 20) + (32 << 20);
    let topic = Broker::shared().topic("receiver-down", 4);
    let (receiver, health) = (Receiver::closed(), Health::new());
    let tables =
        format!("[sink.live.http]\nurl = \"{}\"\nbatch = {{ form = \"lines\" }}\nretry = {{ delay_max = \"1 s\" }}\n", receiver.url("/"));
    let place = Place::new(&(health.line() + &config(&topic, &tables, "value = \"json\"\nto = [\"live\"]\nin_flight_max = \"8 MiB\"")));
    let mut router = place.run();
    router.wait_log("assigned", MOMENT);
    let idle = router.memory();

    let (sent, enough) = (AtomicI64::new(0), AtomicBool::new(false));
    let memory = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            while !enough.load(Ordering::Relaxed) {
                let first = sent.load(Ordering::Relaxed);
                topic.send((first..first + WRITE).map(large));
                sent.store(first + WRITE, Ordering::Relaxed);
                std::thread::sleep(WRITE_EVERY);
            }
        });
        let watched = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            router.until("readiness to name the sink", MOMENT, || health.waits_for("sink \"live\" of route \"orders\""));
            let (began, mut memory) = (Instant::now(), Vec::new());
            while began.elapsed() < DOWN_FOR {
                memory.push(router.memory());
                std::thread::sleep(Duration::from_millis(100));
            }
            memory
        }));
        enough.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        watched.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let count = sent.load(Ordering::Relaxed);
    let most = |memory: &[u64]| *memory.iter().max().unwrap();
    let (first, second) = memory.split_at(memory.len() / 2);
    let [idle_mib, first_mib, second_mib] = [idle, most(first), most(second)].map(|bytes| bytes >> 20);
    eprintln!(
        "{count} records came; memory: {idle_mib} MiB idle, {first_mib} and {second_mib} MiB at most in the two halves of the outage"
    );
    assert!(count as u64 * 1_000 > HELD_MAX, "too few records came to show anything");
    assert!(most(&memory) < idle + HELD_MAX, "{first_mib} and {second_mib} MiB, {idle_mib} MiB without records");
    assert!(second_mib <= first_mib + 8, "memory grows: {first_mib} MiB at most, and later {second_mib} MiB");

    let receiver = receiver.open();
    topic.wait_committed(&topic.name, Duration::from_secs(120));
    router.until("readiness", MOMENT, || health.is_ready().then_some(()));
    assert!(router.memory() < idle + HELD_MAX + (32 << 20), "{} MiB after the recovery", router.memory() >> 20);
    assert!(router.log().lines().count() < 10, "an outage is told once: {}", router.log());
    let told = ["unavailable, waiting", "up again"].map(|what| router.lines_with(&["sink \"live\"", what]).len());
    assert_eq!(told, [1, 1], "{}", router.log());
    router.stop();
    let times = times(received(&receiver));
    assert_none_missing("HTTP", &times, count);
    assert_none_twice("HTTP", &times);
}

#[test]
fn a_receiver_that_names_a_time_in_a_storm_is_left_alone_until_then() {
    const RECORDS: i64 = 2_000;
    const PATIENCE: Duration = Duration::from_secs(3);
    // By then everything that was on its way when the answer was given has arrived, also on a slow machine.
    const ON_THE_WAY: Duration = Duration::from_millis(1_500);
    const STORM: Duration = Duration::from_secs(7);
    let topic = Broker::shared().topic("storm", 4);
    let mut began = None;
    let receiver = Receiver::answering(move |_| {
        let began = *began.get_or_insert_with(Instant::now);
        if began.elapsed() < STORM { Answer::status(429).header("Retry-After", "3") } else { Answer::status(200) }
    });
    let health = Health::new();
    let tables = format!("[sink.live.http]\nurl = \"{}\"\nin_flight_max = 64\n", receiver.url("/"));
    let place = Place::new(&(health.line() + &config(&topic, &tables, "value = \"json\"\nto = [\"live\"]")));
    topic.send((0..RECORDS).map(plain));
    let mut router = place.run();
    router.until("readiness to name the sink", MOMENT, || health.waits_for("sink \"live\""));
    topic.wait_committed(&topic.name, MOMENT);
    assert!(health.is_ready());
    router.stop();

    let requests = receiver.requests();
    let (refused, accepted): (Vec<_>, Vec<_>) = requests.iter().partition(|request| request.status == 429);
    // Each of the requests that may be on their way at a time is refused once in each round, not again and again.
    let rounds = STORM.as_secs() / PATIENCE.as_secs() + 1;
    assert!((1..=64 * rounds as usize).contains(&refused.len()), "{} refusals in {rounds} rounds", refused.len());
    for refusal in &refused {
        let silence = refusal.at + ON_THE_WAY..refusal.at + PATIENCE;
        let early = requests.iter().find(|request| silence.contains(&request.at));
        assert!(early.is_none(), "a request {:?} after a refusal", early.unwrap().at - refusal.at);
    }
    let times = times(accepted.iter().map(|request| request.json()["id"].as_i64().unwrap()));
    assert_none_missing("HTTP", &times, RECORDS);
    assert_none_twice("HTTP", &times);
}

#[test]
fn a_sink_that_fails_for_ever_is_not_noticed_by_other_routes() {
    const RECORDS: i64 = 20_000;
    let topic = Broker::shared().topic("isolated", 3);
    let (broken, works) = (Receiver::answering(|_| Answer::status(500)), Receiver::start());
    let health = Health::new();
    let lines = "batch = { form = \"lines\" }\nretry = { delay_max = \"500 ms\" }";
    let tables =
        format!("[sink.broken.http]\nurl = \"{}\"\n{lines}\n[sink.works.http]\nurl = \"{}\"\n{lines}\n", broken.url("/"), works.url("/"));
    // A small budget: it is spent at once.
    let hopeless = "value = \"json\"\nto = [\"broken\"]\nin_flight_max = \"64 KiB\"\nbatch = { bytes_max = \"16 KiB\" }";
    let hopeful = format!(
        "[route.hopeful]\ntopics = [\"{name}\"]\ngroup = \"{name}-hopeful\"\ncommit_interval = \"200 ms\"\nvalue = \"json\"\nto = [\"works\"]\n",
        name = topic.name
    );
    let place = Place::new(&(health.line() + &config(&topic, &tables, hopeless) + &hopeful));
    topic.send((0..RECORDS / 2).map(plain));
    let mut router = place.run();
    let reason = router.until("readiness to name the sink", MOMENT, || health.waits_for("sink \"broken\" of route \"orders\""));
    assert!(reason.contains("500") && !reason.contains("hopeful"), "{reason}");
    let group = format!("{}-hopeful", topic.name);
    topic.wait_committed(&group, MOMENT);
    // Also what comes after the other route has been stuck for long.
    topic.send((RECORDS / 2..RECORDS).map(plain));
    topic.wait_committed(&group, MOMENT);
    let times = times(received(&works));
    assert_none_missing("HTTP", &times, RECORDS);
    assert_none_twice("HTTP", &times);
    assert!(topic.committed(&topic.name).values().all(|offset| *offset == 0), "what nobody took was committed");
    let waiting: BTreeMap<i64, usize> =
        crate::setup::times(broken.requests().iter().flat_map(|request| request.lines()).map(|line| line["id"].as_i64().unwrap()));
    assert!((waiting.len() as i64) < RECORDS / 2, "all records were read for a sink that takes none");
    // The hopeless one keeps nobody from stopping, either.
    let told = router.lines_with(&["sink \"broken\"", "unavailable, waiting"]).len();
    assert_eq!(told, 1, "{}", router.log());
    router.kill();
}
