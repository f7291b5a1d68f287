//! What patterns mean, under their own rules and the connector's, and how mistakes in them are told.

use anabranch_guest::SchemaInfo;
use anabranch_guest::testing::{Decision, Harness, Record};
use serde_json::{Value as Json, json};

use crate::{DestinationPattern, pattern};

fn plugin(config: &Json) -> Harness<DestinationPattern> {
    let plugin = Harness::new(&config.to_string()).unwrap_or_else(|problems| panic!("{config}: {problems:?}"));
    plugin.topic("shop.orders")
}

fn decide(config: &Json, record: Record) -> Decision {
    plugin(config).records(&[record]).unwrap().remove(0)
}

/// The destination, or the code and the message of the reject.
fn destination(config: &Json, record: Record) -> Result<String, (String, String)> {
    let decision = decide(config, record);
    match &decision.reject {
        Some(reject) => Err(reject.clone()),
        None => Ok(decision.output().destination.clone().flatten().expect("a destination is set")),
    }
}

fn expand(pattern: &str, record: &Record) -> Result<String, (String, String)> {
    destination(&json!({ "pattern": pattern }), record.clone())
}

fn missing(message: &str) -> Result<String, (String, String)> {
    Err(("missing-value".to_owned(), message.to_owned()))
}

fn schema(definition: &str, version: Option<u32>) -> SchemaInfo {
    SchemaInfo { definition: definition.to_owned(), id: Some(7), subject: version.map(|_| "orders-value".to_owned()), version }
}

fn order() -> Record {
    let value = json!({
        "id": 7, "amount": 12.5, "paid": true, "customer": { "country": "DE", "tags": ["a", "b"] }, "note": null, "empty": "",
        "version": "v9", "odd. name": "x", "path": "a/b",
    });
    let mut record = Record::new(value)
        .key(json!({ "id": "k1", "version": 3 }))
        .header("kind", "new")
        .header("trace.id", "t1")
        .key_schema(schema("\"string\"", Some(2)))
        .schema(schema("\"long\"", Some(12)));
    (record.partition, record.offset, record.timestamp) = (4, 1_234_567_890_123, 1_709_209_800_000);
    record
}

#[test]
fn every_token_stands_for_what_it_names() {
    let cases = [
        ("${topic}", "shop.orders"),
        ("p${partition}/${offset}/${timestamp}", "p4/1234567890123/1709209800000"),
        ("${key.id}", "k1"),
        ("${value.id}-${value.amount}-${value.paid}", "7-12.5-true"),
        ("${value.customer.country}", "DE"),
        ("${value.customer.tags.1}", "b"),
        ("${key.version}/${value.version}", "2/12"),
        ("${key.`version`}/${value.`version`}", "3/v9"),
        ("${value.`odd. name`}", "x"),
        ("${header.kind}/${header.trace.id}/${header.`kind`}", "new/t1/new"),
        ("shop/${topic}/${value.customer.country}/${key.id}", "shop/shop.orders/DE/k1"),
        ("${topic}${topic}", "shop.ordersshop.orders"),
        ("no token", "no token"),
        ("ä/${value.id}/€", "ä/7/€"),
    ];
    for (pattern, expected) in cases {
        assert_eq!(expand(pattern, &order()).as_deref(), Ok(expected), "{pattern}");
    }
}

#[test]
fn the_whole_key_or_value_stands_there_if_it_is_one_value() {
    for (whole, text) in [(json!("k"), "k"), (json!(-5), "-5"), (json!(true), "true"), (json!(0.5), "0.5")] {
        assert_eq!(expand("${key}", &Record::new(json!(1)).key(whole.clone())).as_deref(), Ok(text));
        assert_eq!(expand("${value}", &Record::new(whole)).as_deref(), Ok(text));
    }
    assert_eq!(expand("${key}", &order()), missing("${key}: it is bytes or made of several values: name one of its fields"));
    assert_eq!(expand("${key}", &Record::new(json!(1))), missing("${key}: the record has no key"));
    assert_eq!(expand("${value}", &Record::new(Json::Null)), missing("${value}: the record has no value (a tombstone)"));
}

#[test]
fn pairs_of_dollars_before_a_brace_are_single_dollars() {
    let cases = [
        ("$${value.id}", "${value.id}"),
        ("$$${value.id}", "$7"),
        ("$$$${value.id}", "$${value.id}"),
        ("$${${value.id}}", "${7}"),
        ("$5/$$5/a$", "$5/$$5/a$"),
        ("{a}}", "{a}}"),
    ];
    for (pattern, expected) in cases {
        assert_eq!(expand(pattern, &order()).as_deref(), Ok(expected), "{pattern}");
    }
}

#[test]
fn a_default_stands_for_what_is_null_not_there_empty_or_no_single_value() {
    for field in ["note", "nothing", "empty", "customer", "customer.tags", "customer.country.x", "id.x"] {
        assert_eq!(expand(&format!("a/${{value.{field}:-none}}"), &order()).as_deref(), Ok("a/none"), "{field}");
    }
    let cases = [
        ("${key:-a/b}", "a/b"),
        ("${key:-`a}``b`}", "a}`b"),
        ("x${header.nothing:-}", "x"),
        ("${value.id:-none}", "7"),
        ("${value.nothing:- }", " "),
        ("${value.nothing:-:-}", ":-"),
    ];
    for (pattern, expected) in cases {
        assert_eq!(expand(pattern, &order()).as_deref(), Ok(expected), "{pattern}");
    }
}

#[test]
fn a_record_without_a_value_for_a_token_is_rejected_with_the_reason() {
    let cases = [
        ("${value.note}", "${value.note}: the field is null"),
        ("${value.nothing}", "${value.nothing}: the record has no such field, or it is no single value"),
        ("${value.customer}", "${value.customer}: the record has no such field, or it is no single value"),
        ("${value.empty}", "${value.empty}: the text is empty"),
        ("${header.nothing}", "${header.nothing}: the record has no such header, or it is null"),
    ];
    for (pattern, message) in cases {
        assert_eq!(expand(&format!("{pattern}/x"), &order()), missing(message));
    }
    let mut bare = Record::new(json!(1)).key(json!("k"));
    bare.timestamp = -1;
    bare.headers.push(("bytes".to_owned(), vec![0xff]));
    assert_eq!(expand("${timestamp}", &bare), missing("${timestamp}: the record has no timestamp"));
    assert_eq!(expand("${value.version}", &bare), missing("${value.version}: no version of its schema is known"));
    assert_eq!(expand("${header.bytes}", &bare), missing("${header.bytes}: the header is not UTF-8"));
    let unknown = bare.schema(schema("\"long\"", None));
    assert_eq!(expand("${value.version}", &unknown), missing("${value.version}: no version of its schema is known"));
}

#[test]
fn missing_says_what_tokens_without_a_default_do() {
    let decide = |missing: Json, pattern: &str| destination(&json!({ "pattern": pattern, "missing": missing }), order());
    assert_eq!(decide(json!("leave"), "a/${value.note}/b").as_deref(), Ok("a/${value.note}/b"));
    assert_eq!(decide(json!({ "default": "x" }), "${value.note}/${value.empty:-own}").as_deref(), Ok("x/own"));
    assert_eq!(decide(json!("reject"), "${value.note}").map_err(|(code, _)| code), Err("missing-value".to_owned()));
}

#[test]
fn no_text_of_a_record_adds_a_level() {
    let cases = [
        ("a/b", "a%2Fb", "a_b", "a/b"),
        ("50%2F", "50%252F", "50_2F", "50%2F"),
        ("..", "%2E%2E", "__", ".."),
        (".", "%2E", "_", "."),
        ("...", "...", "...", "..."),
        ("a.b-c_d", "a.b-c_d", "a.b-c_d", "a.b-c_d"),
        ("ä b?#", "ä b?#", "__b__", "ä b?#"),
        ("a\n\u{85}\u{7f}", "a%0A%C2%85%7F", "a___", "a\n\u{85}\u{7f}"),
        ("£", "£", "_", "£"),
        ("${topic}", "${topic}", "__topic_", "${topic}"),
    ];
    for (text, percent, underscore, keep) in cases {
        for (escape, expected) in [("percent", percent), ("underscore", underscore), ("keep", keep)] {
            let config = json!({ "pattern": "x/${key}/y", "escape": escape });
            let found = destination(&config, Record::new(json!(1)).key(json!(text)));
            assert_eq!(found, Ok(format!("x/{expected}/y")), "{escape}");
        }
    }
}

#[test]
fn levels_lets_the_slashes_of_one_text_stand() {
    let path = |text: &str| Record::new(json!({ "path": text })).key(json!("k/k"));
    assert_eq!(expand("${value.path:levels}/${key}", &path("a/b%/c")).as_deref(), Ok("a/b%25/c/k%2Fk"));
    assert_eq!(expand("${value.path:levels}", &path("a/../b")).as_deref(), Ok("a/%2E%2E/b"));
    assert_eq!(expand("x/${value.none:levels:-a/b}", &path("")).as_deref(), Ok("x/a/b"));
    for text in ["/a", "a/", "a//b", "/"] {
        let refused = expand("x/${value.path:levels}", &path(text));
        let message = "the destination has an empty level: a slash at an end, or two in a row";
        assert_eq!(refused, Err(("empty-level".to_owned(), message.to_owned())), "{text}");
        let kept = destination(&json!({ "pattern": "x/${value.path}", "escape": "keep" }), path(text));
        assert_eq!(kept.map_err(|(code, _)| code), Err("empty-level".to_owned()), "{text}");
    }
}

#[test]
fn an_empty_default_makes_no_empty_level() {
    for pattern in ["${value.none:-}", "a/${value.none:-}", "${value.none:-}/a", "a/${value.none:-}/b"] {
        assert_eq!(expand(pattern, &order()).map_err(|(code, _)| code), Err("empty-level".to_owned()), "{pattern}");
    }
}

#[test]
fn a_destination_is_not_longer_than_allowed() {
    let config = json!({ "pattern": "${key}", "length_max": 10 });
    let key = |text: String| Record::new(json!(1)).key(json!(text));
    assert_eq!(destination(&config, key("x".repeat(10))), Ok("x".repeat(10)));
    let refused = Err(("too-long".to_owned(), "the destination is longer than 10 bytes (length_max)".to_owned()));
    for text in ["x".repeat(11), "/".repeat(4), "x".repeat(1_000_000)] {
        assert_eq!(destination(&config, key(text)), refused);
    }
    let many = json!({ "pattern": "${key}".repeat(300), "length_max": 4096 });
    assert_eq!(destination(&many, key("x".repeat(14))).map_err(|(code, _)| code), Err("too-long".to_owned()));
}

#[test]
fn a_rejected_record_leaves_nothing_in_the_next_destination() {
    let mut plugin = plugin(&json!({ "pattern": "${key}/${value.a}" }));
    let records = [Record::new(json!({})).key(json!("k")), Record::new(json!({ "a": 1 })).key(json!("l"))];
    let decisions = plugin.records(&records).unwrap();
    assert!(decisions[0].reject.is_some());
    assert_eq!(decisions[1], Decision::kept().to("l/1"));
}

#[test]
fn mistakes_are_told_with_their_place() {
    let cases = [
        ("a/${key", 2..7, "this ${ is not closed: write } behind it, or $${ for the text ${"),
        ("a/${", 2..4, "this ${ is not closed: write } behind it, or $${ for the text ${"),
        ("${}", 2..3, "here a name is expected; one with other characters stands in backquotes"),
        ("${key.}", 6..7, "here a name is expected; one with other characters stands in backquotes"),
        ("${ key}", 2..3, "here a name is expected; one with other characters stands in backquotes"),
        ("${topic.name}", 2..12, "`topic` has no fields: write ${topic}"),
        ("${header}", 2..8, "which header? write ${header.NAME}"),
        ("${key.`a}", 6..9, "the backquote ` is not closed"),
        ("${key:-${offset}}", 7..9, "a default is plain text; one with ${ in it stands in backquotes"),
        ("/a/${key}", 0..1, "an empty level is taken by no sink: leave the slash out"),
        ("a//${key}", 1..3, "an empty level is taken by no sink: leave the slash out"),
        ("a/${key}/", 8..9, "an empty level is taken by no sink: leave the slash out"),
    ];
    for (pattern, at, message) in cases {
        let problems = Harness::<DestinationPattern>::new(&json!({ "pattern": pattern }).to_string()).err().expect(pattern);
        assert_eq!(problems.len(), 1, "{pattern}: {problems:?}");
        assert_eq!(problems[0].path, ["pattern"], "{pattern}");
        assert_eq!(problems[0].at, Some((at.start, at.end)), "{pattern}");
        assert_eq!(problems[0].message, message, "{pattern}");
    }
    let closing = Harness::<DestinationPattern>::new(r#"{"pattern": "${key:x} ${key|x} ${value.a b}"}"#).err().unwrap();
    let places: Vec<_> = closing.iter().map(|problem| problem.at).collect();
    assert_eq!(places, [Some((5, 6)), Some((11, 16)), Some((27, 28))]);
    assert!(closing[0].message.starts_with("here } is expected"), "{closing:?}");
    assert!(closing[1].message.starts_with("there is no token `key|x`, only topic, partition"), "{closing:?}");
}

#[test]
fn all_mistakes_are_told_at_once() {
    let problems = Harness::<DestinationPattern>::new(r#"{"pattern": "/${foo}/${key}/${bar}//${value"}"#).err().unwrap();
    let places: Vec<_> = problems.iter().map(|problem| problem.at).collect();
    assert_eq!(places, [Some((3, 6)), Some((17, 20)), Some((23, 30)), Some((0, 1)), Some((21, 23))]);
    let long = json!({ "pattern": "x".repeat(2049), "length_max": 0 }).to_string();
    let paths: Vec<_> = Harness::<DestinationPattern>::new(&long).err().unwrap().into_iter().map(|problem| problem.path).collect();
    assert_eq!(paths, [["length_max"], ["pattern"]]);
    for config in [
        r#"{"pattern": ""}"#,
        r#"{"pattern": "a", "length_max": 4097}"#,
        r#"{"pattern": "a", "missing": "skip"}"#,
        r#"{"pattern": "a", "escape": "none"}"#,
        r#"{"pattern": "a", "patern": "b"}"#,
        r"{}",
    ] {
        assert!(Harness::<DestinationPattern>::new(config).is_err(), "{config}");
    }
    let deep = json!({ "pattern": format!("${{value{}}}", ".a".repeat(100)) }).to_string();
    let problems = Harness::<DestinationPattern>::new(&deep).err().unwrap();
    assert_eq!(problems[0].message, "a path of 101 names, at most 32");
}

/// Every text of up to five of these.
#[test]
fn any_text_is_a_pattern_or_has_mistakes_that_lie_within_it() {
    const SIGNS: [&str; 10] = ["$", "{", "}", "`", ".", ":-", ":levels", "key", "ä", " "];
    let mut texts = vec![String::new()];
    for _ in 0..5 {
        texts = texts.iter().flat_map(|text| SIGNS.map(|sign| format!("{text}{sign}"))).chain([String::new()]).collect();
        for text in &texts {
            match pattern::parse(text) {
                Ok(pieces) => assert!(text.is_empty() || !pieces.is_empty()),
                Err(mistakes) => {
                    for mistake in mistakes {
                        assert!(text.get(mistake.at.clone()).is_some_and(|wrong| !wrong.is_empty()), "{text}: {mistake:?}");
                    }
                }
            }
        }
    }
}

fn connector(pattern: &str, record: &Record) -> Result<String, (String, String)> {
    destination(&json!({ "pattern": pattern, "compatible_with": "diffusion-connector" }), record.clone())
}

#[test]
fn the_connectors_four_tokens_are_replaced_and_all_else_is_text() {
    let record = Record::new(json!({ "id": 1 }))
        .key(json!("k/1"))
        .key_schema(schema("\"string\"", Some(2)))
        .schema(schema(r#"{"type":"record","name":"v","fields":[]}"#, Some(5)));
    let cases = [
        ("${topic}/${key}", "shop.orders/k/1"),
        ("${key.version}.${value.version}", "2.5"),
        ("${key}${key}", "k/1k/1"),
        ("/a//${foo.bar}/${key.id}/${value.id}/${key", "/a//${foo.bar}/${key.id}/${value.id}/${key"),
        ("$${key}", "$k/1"),
        ("${${topic}}", "${shop.orders}"),
        ("${key:-x}/${partition}", "${key:-x}/${partition}"),
        ("${Topic}", "${Topic}"),
    ];
    for (pattern, expected) in cases {
        assert_eq!(connector(pattern, &record).as_deref(), Ok(expected), "{pattern}");
    }
}

#[test]
fn the_connector_replaces_only_the_topic_where_there_is_no_key() {
    let record = Record::new(json!(1)).schema(schema("\"long\"", Some(5)));
    let all = "${topic}/${key}/${key.version}/${value.version}";
    assert_eq!(connector(all, &record).as_deref(), Ok("shop.orders/${key}/${key.version}/${value.version}"));
    assert_eq!(connector("${value.version}", &record).as_deref(), Ok("${value.version}"));
    assert_eq!(connector("${value.version}", &record.key(json!(""))).as_deref(), Ok("5"));
}

#[test]
fn the_connector_leaves_versions_that_are_not_known() {
    let record = Record::new(json!(1)).key(json!("k")).schema(schema("\"long\"", None));
    assert_eq!(connector("${key}/${key.version}/${value.version}", &record).as_deref(), Ok("k/${key.version}/${value.version}"));
    let named = Record::new(json!(1)).key(json!("k")).schema(schema(r#"{"type":"long","connect.version":8}"#, Some(5)));
    assert_eq!(connector("${value.version}", &named).as_deref(), Ok("8"));
}

#[test]
fn text_of_a_key_is_no_token_even_to_the_connector() {
    let record = Record::new(json!(1)).key(json!("${value.version}")).schema(schema("\"long\"", Some(5)));
    assert_eq!(connector("${key}/${value.version}", &record).as_deref(), Ok("${value.version}/5"));
}

#[test]
fn the_connector_prints_keys_of_several_values_as_kafka_connect_does() {
    let definition = r#"{"type": "record", "name": "k", "fields": [
        {"name": "a", "type": ["null", {"type": "record", "name": "i", "fields": [{"name": "x", "type": "int"}]}]},
        {"name": "b", "type": {"type": "map", "values": "string"}},
        {"name": "c", "type": {"type": "array", "items": "i"}},
        {"name": "d", "type": ["null", "string"]},
        {"name": "e", "type": "string"}]}"#;
    let key = json!({ "a": { "x": 1 }, "b": { "p": "q", "r": "s" }, "c": [{ "x": 2 }, { "x": 3 }], "d": null, "e": "" });
    let typed = Record::new(json!(1)).key(key.clone()).key_schema(schema(definition, None));
    let expected = "Struct{a=Struct{x=1},b={p=q, r=s},c=[Struct{x=2}, Struct{x=3}],e=}";
    assert_eq!(connector("${key}", &typed).as_deref(), Ok(expected));
    let untyped = Record::new(json!(1)).key(key);
    assert_eq!(connector("${key}", &untyped).as_deref(), Ok("{a={x=1}, b={p=q, r=s}, c=[{x=2}, {x=3}], d=null, e=}"));
    let cases = [
        (json!([]), "[]"),
        (json!({}), "{}"),
        (json!(["", ""]), "[, ]"),
        (json!([1.5, true, -2, null]), "[1.5, true, -2, null]"),
        (json!(7), "7"),
    ];
    for (key, text) in cases {
        assert_eq!(connector("${key}", &Record::new(json!(1)).key(key)).as_deref(), Ok(text));
    }
}

#[test]
fn the_connectors_rules_leave_no_choice_but_the_length() {
    let config = json!({ "pattern": "a", "compatible_with": "diffusion-connector", "missing": "leave", "escape": "keep" });
    let problems = Harness::<DestinationPattern>::new(&config.to_string()).err().unwrap();
    let paths: Vec<_> = problems.iter().map(|problem| problem.path.concat()).collect();
    assert_eq!(paths, ["missing", "escape"]);
    let short = json!({ "pattern": "${key}", "compatible_with": "diffusion-connector", "length_max": 3 });
    let refused = destination(&short, Record::new(json!(1)).key(json!("abcd")));
    assert_eq!(refused.map_err(|(code, _)| code), Err("too-long".to_owned()));
}

#[test]
fn only_what_the_pattern_names_is_asked_for() {
    let planned = |pattern: &str| format!("{:?}", plugin(&json!({ "pattern": pattern })).plan());
    assert!(planned("${topic}/${offset}").contains("fields: []"));
    assert!(planned("${topic}/${offset}").contains("versions: false"));
    assert!(planned("${key.version}").contains("versions: true"));
    assert!(!planned("${key}").contains("keys: Some"));
}
