//! What expressions mean, and how mistakes in them are told.

use anabranch_guest::testing::{Harness, Record};
use serde_json::json;

use crate::Filter;

fn kept(expression: &str, values: &[&str]) -> Vec<bool> {
    let config = json!({ "where": expression }).to_string();
    let mut filter = Harness::<Filter>::new(&config).unwrap_or_else(|problems| panic!("{expression}: {problems:?}"));
    let decisions = filter.json(values).unwrap();
    decisions.iter().map(|decision| !decision.outputs.is_empty()).collect()
}

const ORDERS: [&str; 5] = [
    r#"{"status":"PAID","amount":12.5,"n":3,"ok":true,"a":{"b":"x"},"list":[1,2]}"#,
    r#"{"status":"NEW","amount":9.99,"n":-3,"ok":false,"a":{"b":null},"list":[]}"#,
    r#"{"status":null,"amount":null,"n":null,"ok":null,"a":null}"#,
    r#"{}"#,
    r#"{"status":7,"amount":"12.5","n":"3","ok":"true","a":5}"#,
];

#[test]
fn comparisons_hold_for_values_of_their_type_only() {
    let cases: [(&str, [bool; 5]); 20] = [
        ("status == 'PAID'", [true, false, false, false, false]),
        ("status != 'PAID'", [false, true, false, false, true]),
        ("not status == 'PAID'", [false, true, true, true, true]),
        ("'PAID' == status", [true, false, false, false, false]),
        ("amount > 10", [true, false, false, false, false]),
        ("amount <= 9.99", [false, true, false, false, false]),
        ("10 < amount", [true, false, false, false, false]),
        ("n == 3", [true, false, false, false, false]),
        ("n == -3", [false, true, false, false, false]),
        ("n >= -3 and n < 3", [false, true, false, false, false]),
        ("ok", [true, false, false, false, false]),
        ("ok == false", [false, true, false, false, false]),
        ("a.b == 'x'", [true, false, false, false, false]),
        ("a == null", [false, false, true, true, false]),
        ("exists(a)", [true, true, false, false, true]),
        ("exists(a.b)", [true, false, false, false, false]),
        ("list.1 == 2", [true, false, false, false, false]),
        ("status in ('NEW', 'PAID')", [true, true, false, false, false]),
        ("status not in ('NEW')", [true, false, true, true, true]),
        ("matches(status, '^P.*D$') or n == -3", [true, true, false, false, false]),
    ];
    for (expression, expected) in cases {
        assert_eq!(kept(expression, &ORDERS), expected, "{expression}");
    }
}

#[test]
fn keep_false_drops_what_matches() {
    let mut filter = Harness::<Filter>::new(r#"{"where": "status == 'PAID'", "keep": false}"#).unwrap();
    let decisions = filter.json(&ORDERS[..2]).unwrap();
    assert_eq!((decisions[0].outputs.len(), decisions[1].outputs.len()), (0, 1));
}

#[test]
fn keys_headers_and_odd_names_can_be_read() {
    let config = json!({ "where": "key.id == 7 and header.kind == 'a' and `odd name` == 'it''s'" }).to_string();
    let mut filter = Harness::<Filter>::new(&config).unwrap();
    let record = Record::new(json!({ "odd name": "it's" })).key(json!({ "id": 7 })).header("kind", "a");
    let other = Record::new(json!({ "odd name": "it's" })).key(json!({ "id": 8 }));
    let decisions = filter.records(&[record, other]).unwrap();
    assert_eq!((decisions[0].outputs.len(), decisions[1].outputs.len()), (1, 0));
}

#[test]
fn integers_beyond_a_float_are_compared_exactly() {
    assert_eq!(kept("n == 9007199254740993", &[r#"{"n":9007199254740993}"#, r#"{"n":9007199254740992}"#]), [true, false]);
}

#[test]
fn mistakes_are_told_with_their_place() {
    let cases = [
        ("status = 'PAID'", 7..8, "a single = compares nothing: write =="),
        ("status == \"PAID\"", 10..11, "texts stand in single quotes: 'text'"),
        ("status == 'PAID", 10..15, "the quote ' is not closed"),
        ("status ==", 9..9, "the expression ends here, a field or a value is expected"),
        ("a == b", 0..6, "two fields cannot be compared with each other, only a field with a value"),
        ("a > null", 0..8, "null, true and false have no order: use == or !="),
        ("a == 1 b", 7..8, "here an operator (`and`, `or`, ==, ..) or the end is expected"),
        ("(a == 1", 7..7, "here ) is expected"),
        ("'x'", 0..3, "a value alone is neither true nor false: compare it"),
        ("a && b", 2..3, "write `and`, `or`"),
    ];
    for (expression, at, message) in cases {
        let problems = Harness::<Filter>::new(&json!({ "where": expression }).to_string()).err().unwrap();
        assert_eq!(problems[0].path, ["where"], "{expression}");
        assert_eq!(problems[0].at, Some((at.start as u32, at.end as u32)), "{expression}");
        assert_eq!(problems[0].message, message, "{expression}");
    }
    let broken = Harness::<Filter>::new(r#"{"where": "matches(a, '(')"}"#).err().unwrap();
    assert_eq!(broken[0].at, Some((11, 14)));
    let unknown = Harness::<Filter>::new(r#"{"where": "a", "kep": true}"#).err().unwrap();
    assert_eq!(unknown[0].path, ["kep"]);
}

#[test]
fn nesting_has_a_bound() {
    let deep = format!("{}a{}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(Harness::<Filter>::new(&json!({ "where": deep }).to_string()).is_err());
    let nots = format!("{}a", "not ".repeat(100_000));
    assert!(Harness::<Filter>::new(&json!({ "where": nots }).to_string()).is_err());
}
