//! What can be seen from outside: metrics, health, readiness, and exit codes with one clear message.

use std::time::{Duration, Instant};

use anabranch_tests::block_on;
use anabranch_tests::process::free_port;
use anabranch_tests::receiver::{Answer, Receiver};
use anabranch_tests::router::{Ended, Place};

use crate::setup::Orders;

const MOMENT: Duration = Duration::from_secs(30);

fn get(port: u16, path: &str) -> Option<(u16, String)> {
    block_on(async {
        let answer = reqwest::get(format!("http://127.0.0.1:{port}{path}")).await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    })
}

fn metric(port: u16, line: &str) -> Option<f64> {
    let (_, text) = get(port, "/metrics")?;
    text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
}

fn errors(ended: &Ended) -> Vec<&str> {
    ended.stderr.lines().filter(|line| line.starts_with("error")).collect()
}

#[test]
fn the_listener_tells_counts_health_and_which_part_is_waited_for() {
    let orders = Orders::new("metrics", 1);
    let receiver = Receiver::start();
    let listen = free_port();
    let sinks = format!("[sink.live.http]\nurl = \"{}\"\nretry = {{ delay_max = \"200 ms\" }}\n", receiver.url("/"));
    let through = "through = [{ plugin = \"filter\", config = { where = \"status == 'PAID'\" } }]";
    let config = orders.config(&sinks, &format!("to = [\"live\"]\n{through}"));
    let place = Place::new(&format!("listen = \"127.0.0.1:{listen}\"\n{config}"));
    orders.send(0..100);
    let mut router = place.run();
    receiver.wait(50, MOMENT);
    let expected = [
        ("anabranch_records_read_total{route=\"orders\"}", 100.0),
        ("anabranch_records_filtered_total{route=\"orders\"}", 50.0),
        ("anabranch_sink_outputs_total{route=\"orders\",sink=\"live\"}", 50.0),
        ("anabranch_sink_up{route=\"orders\",sink=\"live\"}", 1.0),
    ];
    for (line, value) in expected {
        router.until(line, MOMENT, || metric(listen, line).filter(|found| *found == value));
    }
    let committed = format!("anabranch_committed_offset{{route=\"orders\",topic=\"{}\",partition=\"0\"}}", orders.topic.name);
    router.until(&committed, MOMENT, || metric(listen, &committed).filter(|found| *found == 100.0));
    assert_eq!(get(listen, "/healthz").unwrap().0, 200);
    assert_eq!(get(listen, "/readyz").unwrap().0, 200);

    // A receiver that is down is waited for, and named.
    receiver.answer(|_| Answer::status(503));
    orders.send([100]);
    let reason = router.until("readiness to name the sink", MOMENT, || get(listen, "/readyz").filter(|(status, _)| *status == 503));
    assert!(reason.1.contains("sink \"live\" of route \"orders\"") && reason.1.contains("503"), "{}", reason.1);
    assert_eq!(get(listen, "/healthz").unwrap().0, 200);
    receiver.answer(|_| Answer::status(200));
    router.until("readiness", MOMENT, || get(listen, "/readyz").filter(|(status, _)| *status == 200));
    router.stop();
}

#[test]
fn a_configuration_that_is_not_there_ends_with_2() {
    let place = Place::new("");
    std::fs::remove_file(place.config()).unwrap();
    for command in ["run", "check"] {
        let ended = place.start(command, &[]).end(MOMENT);
        assert_eq!(ended.code(), Some(2), "{}", ended.stderr);
        assert_eq!(errors(&ended).len(), 1, "{}", ended.stderr);
        assert!(ended.stderr.contains("anabranch.toml"), "{}", ended.stderr);
    }
}

#[test]
fn a_broker_that_does_not_answer_ends_with_3_within_seconds_and_one_message() {
    let port = free_port();
    let place = Place::new(&format!(
        "[source.shop.kafka]\nbrokers = [\"127.0.0.1:{port}\"]\n[sink.out.stdout]\n[route.orders]\ntopics = [\"orders\"]\nvalue = \"raw\"\nto = [\"out\"]\n"
    ));
    let started = Instant::now();
    let ended = place.run().end(MOMENT);
    assert_eq!(ended.code(), Some(3), "{}", ended.stderr);
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    let errors = errors(&ended);
    assert_eq!(errors.len(), 1, "{}", ended.stderr);
    assert!(errors[0].contains(&format!("127.0.0.1:{port}")) && errors[0].contains("check that a broker runs there"), "{}", errors[0]);
    let checked = place.start("check", &["--connect"]).end(MOMENT);
    assert_eq!(checked.code(), Some(3), "{}", checked.stderr);
    assert!(checked.stderr.contains(&format!("127.0.0.1:{port}")), "{}", checked.stderr);
}

#[test]
fn a_topic_that_is_not_there_ends_with_3_and_is_named() {
    let orders = Orders::new("there", 1);
    let config = orders.config("[sink.out.stdout]\n", "to = [\"out\"]");
    let place = Place::new(&config.replace(&format!("topics = [\"{}\"]", orders.topic.name), "topics = [\"nowhere\"]"));
    let ended = place.run().end(MOMENT);
    assert_eq!(ended.code(), Some(3), "{}", ended.stderr);
    assert_eq!(errors(&ended).len(), 1, "{}", ended.stderr);
    assert!(errors(&ended)[0].contains("\"nowhere\""), "{}", ended.stderr);
}
