//! Records that cannot be delivered: into a topic, with all that they were and the reason; without a place for them the route stops.

use anabranch_tests::kafka::Broker;
use anabranch_tests::receiver::{Answer, Receiver};
use anabranch_tests::router::{END_MAX, Place};
use anabranch_tests::topic::{Record, Topic};
use serde_json::Value as Json;

use crate::setup::Orders;

/// A record that no route can decode, with everything that a record can have.
fn odd() -> Record {
    Record {
        key: Some(vec![0, 255, 1]),
        value: Some(b"\xffnot Avro".to_vec()),
        headers: vec![("trace".into(), Some(vec![9, 0])), ("trace".into(), None)],
        timestamp: Some(1_700_000_000_123),
        ..Record::default()
    }
}

fn sinks(receiver: &Receiver, dead: &Topic) -> String {
    format!("[sink.live.http]\nurl = \"{}\"\n[sink.dead.kafka]\ntopic = \"{}\"\n", receiver.url("/"), dead.name)
}

#[test]
fn a_dead_letter_has_the_record_as_it_was_and_the_reason_in_headers() {
    let orders = Orders::new("bad", 1);
    let dead = Broker::shared().topic("bad-dead", 1);
    let receiver = Receiver::start();
    let place = Place::new(&orders.config(&sinks(&receiver, &dead), "to = [\"live\"]\ndead_letters = \"dead\""));
    let good = orders.record(2).value.unwrap();
    let cut = Record::value(&good[..good.len() - 1]);
    orders.topic.send([orders.record(1), odd(), orders.record(2), cut.clone(), orders.record(3)]);
    place.run_until_end();

    let ids: Vec<Json> = receiver.requests().iter().map(|request| request.json()["id"].clone()).collect();
    assert_eq!(ids.len(), 3, "{ids:?}");
    let letters = dead.records();
    assert_eq!(letters.len(), 2);
    for (offset, sent, by, message) in
        [(1, odd(), "decode", "starts with byte 0xff"), (3, cut, "live", "4 bytes are announced, 3 are left")]
    {
        let letter = letters.iter().find(|letter| letter.header("anabranch.offset") == Some(&offset.to_string())).unwrap();
        assert_eq!((&letter.key, &letter.value), (&sent.key, &sent.value));
        assert_eq!(letter.headers[..sent.headers.len()], sent.headers, "its own headers stand first");
        let position = ["anabranch.topic", "anabranch.partition", "anabranch.route", "anabranch.class", "anabranch.by"];
        let position = position.map(|name| letter.header(name).unwrap_or_else(|| panic!("{name} is not in {letter:?}")));
        assert_eq!(position, [orders.topic.name.as_str(), "0", "orders", "decode", by]);
        assert!(letter.header("anabranch.message").unwrap().contains(message), "{letter:?}");
        if let Some(timestamp) = sent.timestamp {
            assert_eq!(letter.header("anabranch.timestamp"), Some(timestamp.to_string().as_str()));
        }
    }
    orders.topic.wait_committed(&orders.topic.name, std::time::Duration::ZERO);
}

#[test]
fn what_a_receiver_refuses_for_good_is_a_dead_letter_that_names_the_sink_and_the_answer() {
    let orders = Orders::new("refused", 1);
    let dead = Broker::shared().topic("refused-dead", 1);
    let receiver = Receiver::answering(|request| Answer::status(if request.json()["id"] == 5 { 422 } else { 200 }));
    let place = Place::new(&orders.config(&sinks(&receiver, &dead), "to = [\"live\"]\ndead_letters = \"dead\""));
    orders.send(0..10);
    let ended = place.run_until_end();

    let letters = dead.records();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].key.as_deref(), Some(b"5".as_slice()));
    assert_eq!(letters[0].value, orders.record(5).value);
    assert_eq!([letters[0].header("anabranch.class"), letters[0].header("anabranch.by")], [Some("sink-permanent"), Some("live")]);
    assert!(letters[0].header("anabranch.message").unwrap().contains("422"), "{letters:?}");
    assert_eq!(letters[0].header("anabranch.attempts"), Some("1"));
    assert_eq!(letters[0].header("anabranch.decision").map(str::len), Some(64), "{letters:?}");
    assert!(ended.stderr.contains("read=10") && ended.stderr.contains("dead_letters=1"), "{}", ended.stderr);
}

#[test]
fn without_a_place_for_dead_letters_the_route_stops_and_names_the_record_and_the_remedy() {
    let orders = Orders::new("no-place", 1);
    let receiver = Receiver::start();
    let sinks = format!("[sink.live.http]\nurl = \"{}\"\n", receiver.url("/"));
    let place = Place::new(&orders.config(&sinks, "to = [\"live\"]"));
    orders.topic.send([orders.record(0), odd(), orders.record(1)]);
    let ended = place.run().end(END_MAX);

    assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
    let errors: Vec<&str> = ended.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{}", ended.stderr);
    for part in [&format!("record {}/0 offset 1", orders.topic.name), "starts with byte 0xff", "dead_letters", "[route.orders]", "on_error"]
    {
        assert!(errors[0].contains(part), "{part:?} is not in {}", errors[0]);
    }
    // The record stays owed.
    assert!(orders.topic.committed(&orders.topic.name).values().all(|offset| *offset <= 1));

    // The remedy that the message names works, and nothing is missing afterwards.
    place.configure(&orders.config(&sinks, "to = [\"live\"]\non_error = { decode = \"drop\" }"));
    place.run_until_end();
    let mut ids: Vec<i64> = receiver.requests().iter().map(|request| request.json()["id"].as_i64().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids, [0, 1]);
    orders.topic.wait_committed(&orders.topic.name, std::time::Duration::ZERO);
}

#[test]
fn later_records_of_a_dead_letters_key_follow_it_also_after_a_restart_until_they_may_go_on() {
    let orders = Orders::new("followed", 1);
    let dead = Broker::shared().topic("followed-dead", 1);
    let receiver = Receiver::start();
    let config = |after: &str| {
        orders.config(&sinks(&receiver, &dead), &format!("to = [\"live\"]\ndead_letters = \"dead\"\nafter_dead_letter = \"{after}\""))
    };
    let place = Place::new(&config("dead_letter"));
    let of_key = |key: &str, id: i64| Record { key: Some(key.into()), ..orders.record(id) };
    // Two runs, so that what one knows of keys the other has from the group.
    orders.topic.send([of_key("a", 0), Record::keyed("a", "no Avro"), of_key("b", 1), of_key("a", 2)]);
    place.run_until_end();
    orders.topic.send([of_key("a", 3), of_key("b", 4), Record::value(orders.record(5).value.unwrap())]);
    place.run_until_end();
    let received = || {
        let mut ids: Vec<i64> = receiver.requests().iter().map(|request| request.json()["id"].as_i64().unwrap()).collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(received(), [0, 1, 4, 5]);
    let letters = dead.records();
    let of = |letter: &Record, name: &str| letter.header(name).unwrap().to_owned();
    let told: Vec<_> = letters.iter().map(|letter| (of(letter, "anabranch.offset"), of(letter, "anabranch.class"))).collect();
    let expected = [("1", "decode"), ("3", "after-dead-letter"), ("4", "after-dead-letter")];
    assert_eq!(told, expected.map(|(offset, class)| (offset.to_owned(), class.to_owned())));
    assert!(of(&letters[2], "anabranch.message").contains("offset 1"), "{:?}", letters[2]);
    assert_eq!(letters[2].value, orders.record(3).value, "whoever mends them finds them whole, and in order");

    // What goes on once is forgotten.
    place.configure(&config("go_on"));
    orders.topic.send([of_key("a", 6)]);
    place.run_until_end();
    place.configure(&config("dead_letter"));
    orders.topic.send([of_key("a", 7)]);
    place.run_until_end();
    assert_eq!((received(), dead.ends()[&0]), (vec![0, 1, 4, 5, 6, 7], 3));
}
