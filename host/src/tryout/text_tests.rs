//! Reports as people read them.

use serde_json::value::RawValue;

use super::*;
use crate::tryout::report::Decision;

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

fn content(format: &'static str, body: Body, bytes: usize) -> Content {
    let schema = (format == "avro").then_some(SchemaName { id: Some(3), subject: None, version: None });
    Content { format, bytes, schema, body, error: None }
}

fn record(outcome: Outcome) -> Report {
    Report {
        topic: "orders".into(),
        partition: 2,
        offset: 118,
        timestamp: Some(1_764_078_242_120),
        key: Some(content("raw", Body::Text("o-17".into()), 4)),
        value: Some(content("avro", Body::Json(raw(r#"{"id":"o-17","total":12.5}"#)), 96)),
        headers: Vec::new(),
        plugins: Vec::new(),
        sinks: Vec::new(),
        dead_letters: Vec::new(),
        stops: None,
        outcome,
    }
}

fn reason(class: &'static str, code: &str) -> Reason {
    Reason { class, code: code.into(), message: "total is negative".into(), by: "checks".into() }
}

fn style() -> Style {
    Style::new(["filter", "lake", "live"].into_iter(), false, false)
}

#[test]
fn a_record_is_readable_at_a_glance() {
    let mut report = record(Outcome::Delivered);
    report.headers = vec![Header::of("trace", Some(b"abc")), Header::of("empty", None)];
    let changes = Changes {
        destination: Some(Some("shop/o-17".into())),
        sinks: Some(vec!["lake".into(), "live".into()]),
        key: Some(None),
        value: Some(Some(content("json", Body::Json(raw("{\"n\":1}")), 7))),
        headers: vec![Header::of("trace", None), Header::of("kind", Some(b"order"))],
        ..Changes::default()
    };
    report.plugins = vec![
        Decision { plugin: "filter".into(), verdict: Verdict::Outputs(vec![Changes::default()]) },
        Decision { plugin: "paths".into(), verdict: Verdict::Outputs(vec![changes, Changes::default()]) },
    ];
    let row = Shown::Row {
        table: "/data/lake/orders".into(),
        is_new: true,
        partition: vec![("country".into(), raw("\"DE\""))],
        row: Body::Json(raw(r#"{"id":"o-17","country":"DE"}"#)),
        covered: false,
    };
    let request = Shown::Request {
        method: "POST".into(),
        url: "http://127.0.0.1:8080/shop/o-17".into(),
        headers: vec![("content-type".into(), "application/json".into()), ("authorization".into(), "(secret)".into())],
        body: Body::Text("{\"n\":1}".into()),
        batched: false,
    };
    let copy = Shown::Record {
        topic: "copies".into(),
        partition: Some(2),
        key: None,
        value: Some(content("avro", Body::Json(raw("{\"n\":1}")), 12)),
        headers: vec![Header::of("kind", Some(b"order"))],
    };
    let line = Shown::Line { path: Some("out.jsonl".into()), line: Body::Text("{\"n\":1}".into()) };
    for (sink, what) in [
        ("lake", row),
        ("live", request),
        ("copy", copy),
        ("topic", Shown::Topic { path: "shop/o-17".into(), value: Some(Body::Text("{\"n\":1}".into())) }),
        ("gone", Shown::Topic { path: "shop/o-17".into(), value: None }),
        ("log", line),
        ("void", Shown::Forgotten(())),
        ("late", Shown::Skipped("a tombstone".into())),
    ] {
        report.sinks.push(Delivery { sink: sink.into(), what });
    }
    let expected = r#"orders/2 offset 118  2025-11-25 13:44:02.120Z  delivered
  key        o-17
  value      {"id":"o-17","total":12.5}
             avro, schema 3, 96 bytes
  headers    trace: abc
             empty: null
  filter     passes it on
  paths      output 1 of 2: sets
             destination shop/o-17
             sinks lake, live
             key none
             value {"n":1}
             header trace: removed
             header kind: order
             output 2 of 2: passes it on
  -> lake    row of table /data/lake/orders (new), partition country="DE"
             {"id":"o-17","country":"DE"}
  -> live    POST http://127.0.0.1:8080/shop/o-17
             content-type: application/json
             authorization: (secret)
             {"n":1}
  -> copy    record of topic copies, partition 2
             key none
             value {"n":1}  (avro, schema 3, 12 bytes)
             kind: order
  -> topic   value of topic shop/o-17
             {"n":1}
  -> gone    removal of topic shop/o-17
  -> log     line of out.jsonl
             {"n":1}
  -> void    counted and forgotten
  -> late    left out: a tombstone

"#;
    assert_eq!(style().text(&report), expected);
}

#[test]
fn what_is_filtered_rejected_or_stops_the_route_says_so_first_and_why() {
    let mut filtered = record(Outcome::Filtered);
    filtered.value = None;
    filtered.plugins = vec![Decision { plugin: "filter".into(), verdict: Verdict::Filtered(()) }];
    let mut rejected = record(Outcome::DeadLetter);
    rejected.plugins = vec![Decision { plugin: "checks".into(), verdict: Verdict::GivenUp(reason("plugin-reject", "negative")) }];
    let to = Delivery { sink: "dead".into(), what: Shown::Line { path: Some("dead.jsonl".into()), line: Body::Text("{}".into()) } };
    rejected.dead_letters = vec![DeadLetter { reason: reason("plugin-reject", "negative"), action: Action::DeadLetter, to: Some(to) }];
    let mut stops = record(Outcome::Stops);
    stops.dead_letters = vec![DeadLetter { reason: reason("decode", "decode"), action: Action::Stop, to: None }];
    stops.stops = Some("a bad record stops the route".into());
    let text: String = [filtered, rejected, stops].iter().map(|report| style().text(report)).collect();
    let expected = r#"orders/2 offset 118  2025-11-25 13:44:02.120Z  filtered
  key        o-17
  value      none: a tombstone
  filter     filtered: it goes nowhere

orders/2 offset 118  2025-11-25 13:44:02.120Z  dead letter
  key        o-17
  value      {"id":"o-17","total":12.5}
             avro, schema 3, 96 bytes
  checks     rejected (negative): total is negative
  dead letter  by checks: rejected (negative): total is negative
  -> dead    line of dead.jsonl
             {}

orders/2 offset 118  2025-11-25 13:44:02.120Z  stops the route
  key        o-17
  value      {"id":"o-17","total":12.5}
             avro, schema 3, 96 bytes
  dead letter  by checks: decode: total is negative; it stops the route
  stops      a bad record stops the route

"#;
    assert_eq!(text, expected);
}

#[test]
fn long_values_are_cut_with_their_length_said_unless_all_is_asked_for() {
    let style = style();
    let long = "é".repeat(SHOWN_MAX + 1);
    assert_eq!(style.cut(&long), format!("{}… (301 characters)", "é".repeat(SHOWN_MAX)));
    assert_eq!(style.body(&Body::Base64(vec![0xab; 40])), format!("0x{}… (40 bytes)", "ab".repeat(32)));
    let full = Style { full: true, ..style };
    assert_eq!(full.cut(&long), long);
    assert_eq!(full.body(&Body::Base64(vec![0xab; 40])), format!("0x{}", "ab".repeat(40)));
}

#[test]
fn nothing_of_a_record_controls_the_terminal() {
    let mut report = record(Outcome::Delivered);
    report.topic = "a\u{1b}[2J".into();
    report.key = Some(content("raw", Body::of(b"\x1b]0;title\x07"), 10));
    report.value = Some(content("raw", Body::Text("one\ntwo \u{202e}eno".into()), 20));
    report.headers = vec![Header::of("x\r", Some("\u{9b}31m".as_bytes()))];
    let text = style().text(&report);
    assert!(!text.chars().any(|c| c != '\n' && (c.is_control() || c == '\u{202e}')), "{text:?}");
    assert!(text.contains("one\\ntwo \\u{202e}eno"), "{text}");
    assert!(text.contains("0x1b5d303b7469746c6507"), "{text}");
}

#[test]
fn colours_are_only_there_where_they_are_asked_for() {
    let report = record(Outcome::DeadLetter);
    assert!(!style().text(&report).contains('\u{1b}'));
    let colourful = Style { colours: true, ..style() }.text(&report);
    assert!(colourful.contains("\u{1b}[31mdead letter\u{1b}[0m"), "{colourful}");
}
