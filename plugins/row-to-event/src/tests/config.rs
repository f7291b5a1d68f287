//! Mistakes in the configuration: all of them, each with its place.

use anabranch_guest::testing::Harness;
use serde_json::{Value as Json, json};

use crate::RowToEvent;

fn problems(config: &Json) -> Vec<(String, String)> {
    let problems = Harness::<RowToEvent>::new(&config.to_string()).err().unwrap_or_else(|| panic!("{config} is taken"));
    problems.into_iter().map(|problem| (problem.path.join("/"), problem.message)).collect()
}

#[test]
fn mistakes_are_told_with_their_place() {
    let one_of = "one of field, const, record, key, header, concat, group, columns says where the value comes from";
    let cases = [
        (json!({}), "", "the event is empty: say at least one of id, payload, meta, set"),
        (json!({ "id": { "field": "a", "const": 1 } }), "id", one_of),
        (json!({ "id": {} }), "id", one_of),
        (json!({ "id": "a..b" }), "id", "\"a..b\" is no path of a column: names with dots between; a backslash keeps a dot within a name"),
        (json!({ "id": { "group": {} } }), "id", "here one value is expected, not a record"),
        (
            json!({ "id": "a", "key": { "field": "" } }),
            "key/field",
            "\"\" is no path of a column: names with dots between; a backslash keeps a dot within a name",
        ),
        (
            json!({ "meta": { "a": { "const": [1] } } }),
            "meta/a/const",
            "a constant is a text, a number, true or false; group makes a record of several",
        ),
        (json!({ "meta": { "a": { "const": "x", "cast": "int" } } }), "meta/a/const", "the text \"x\" does not fit int"),
        (
            json!({ "meta": { "a-b": "a" } }),
            "meta",
            "\"a-b\" is no name in Avro, which has letters, digits and _ only: choose another, or say format = \"json\"",
        ),
        (json!({ "meta": { "a": { "concat": [] } } }), "meta/a/concat", "nothing is joined: name columns, or other sources"),
        (
            json!({ "meta": { "a": { "concat": ["a", { "field": "b", "cast": "int" }] } } }),
            "meta/a/concat/1/cast",
            "what is joined is text, of everything",
        ),
        (
            json!({ "meta": { "a": { "concat": ["a"], "separator": "" } } }),
            "meta/a/separator",
            "it must not be empty or contain a backslash: what was joined could not be told apart",
        ),
        (json!({ "meta": { "a": { "field": "a", "separator": "" } } }), "meta/a/separator", "only concat has a separator"),
        (
            json!({ "payload": { "fields": ["a"], "all_except": ["b"] } }),
            "payload/all_except",
            "`fields` names the columns already: say one of the two",
        ),
        (json!({ "payload": { "fields": ["a", "a"] } }), "payload/fields/1", "the column \"a\" is there twice"),
        (
            json!({ "payload": { "all_except": ["a"], "cast": { "a": "int" } } }),
            "payload/cast/a",
            "the column \"a\" is not among those of the event",
        ),
        (json!({ "payload": { "rename": { "a": "x", "b": "x" } } }), "payload", "the event would have \"x\" twice in one record"),
        (json!({ "id": "a", "set": { "id": "b" } }), "", "the event would have \"id\" twice in one record"),
        (
            json!({ "payload": { "cast": { "a": "decimal" } } }),
            "payload/cast/a",
            "a decimal needs its digits: decimal(PRECISION,SCALE), for example decimal(12,2)",
        ),
        (json!({ "payload": { "cast": { "a": "decimal(39,2)" } } }), "payload/cast/a", "a decimal has 1 to 38 digits, not 39"),
        (json!({ "payload": { "cast": { "a": "decimal(2,3)" } } }), "payload/cast/a", "of 2 digits, 3 cannot be behind the point"),
        (
            json!({ "payload": { "cast": { "a": "int from millis" } } }),
            "payload/cast/a",
            "int is not made from \"millis\": leave the `from` out",
        ),
        (
            json!({ "payload": { "cast": { "a": "date from weeks" } } }),
            "payload/cast/a",
            "date is not made from \"weeks\", but from days, seconds, millis, micros, nanos",
        ),
        (
            json!({ "id": "a", "name": "9" }),
            "name",
            "\"9\" is no name of an Avro record: letters, digits and _, with dots between, as in shop.Order",
        ),
        (
            json!({ "payload": { "fields": ["order id"] } }),
            "payload/fields/0",
            "\"order id\" is no name in Avro, which has letters, digits and _ only: rename it, or say format = \"json\"",
        ),
    ];
    for (config, path, message) in cases {
        assert_eq!(problems(&config), [(path.to_owned(), message.to_owned())], "{config}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let config = json!({ "name": "-", "id": {}, "payload": { "cast": { "a": "strin", "b": "x" } }, "meta": { "m": { "cast": "?" } } });
    let paths: Vec<String> = problems(&config).into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["name", "id", "payload/cast/a", "payload/cast/b", "meta/m/cast", "meta/m"]);
    assert!(problems(&config)[2].1.starts_with("there is no type \"strin\": choose among boolean, int, long"));
}

#[test]
fn unknown_keys_and_wrong_types_are_told_with_their_place() {
    assert_eq!(problems(&json!({ "payload": { "all_exept": [] } }))[0].0, "payload/all_exept");
    assert_eq!(problems(&json!({ "meta": { "a": { "feld": "x" } } }))[0].0, "meta/a/feld");
    assert_eq!(problems(&json!({ "id": 5 }))[0].0, "id");
    let (path, message) = problems(&json!({ "id": "a", "key": true })).remove(0);
    assert_eq!((path.as_str(), message.as_str()), ("key", "false for no key; without `key` the record's key is kept"));
}
