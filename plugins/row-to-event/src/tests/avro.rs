//! Rows in Avro.

use anabranch_guest::testing::{Decision, HOST, Record};
use apache_avro::types::Value;
use serde_json::json;

use super::{event, one, order, orders, plugin, record, refused, row, type_of};

#[test]
fn a_row_becomes_id_payload_and_meta_with_its_own_types() {
    let config = json!({
        "id": "order_id",
        "payload": { "all_except": ["secret", "order_id"], "rename": { "amount": "total" } },
        "meta": { "source": { "const": "livedb" }, "created_at": "created_at", "at": { "record": "offset" } },
    });
    let mut input = row(&orders(), order(7));
    input.offset = 42;
    let (event, schema) = one(&config, input);
    let payload = record(&[
        ("org", Value::String("acme".into())),
        ("total", Value::Decimal(vec![0x04, 0xd2].into())),
        ("region", Value::Union(1, Box::new(Value::String("eu".into())))),
        ("created_at", Value::TimestampMillis(1_709_209_800_123)),
    ]);
    // `json!` sorts names, as the router does.
    let meta = record(&[
        ("at", Value::Long(42)),
        ("created_at", Value::TimestampMillis(1_709_209_800_123)),
        ("source", Value::String("livedb".into())),
    ]);
    assert_eq!(event, record(&[("id", Value::Long(7)), ("payload", payload), ("meta", meta)]));
    let decimal = json!({ "type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2 });
    assert_eq!(type_of(&schema, &["payload", "total"]), decimal);
    assert_eq!(schema["name"], "anabranch.Event");
}

#[test]
fn columns_can_stand_beside_the_id_without_a_payload_around_them() {
    let config = json!({
        "name": "shop.Paid", "id": "order_id",
        "payload": { "fields": ["region", "org"], "inline": true, "set": { "kind": { "const": "order" } } },
        "set": { "version": { "const": 3, "cast": "int" } },
    });
    let (event, schema) = one(&config, row(&orders(), order(7)));
    let expected = record(&[
        ("id", Value::Long(7)),
        ("region", Value::Union(1, Box::new(Value::String("eu".into())))),
        ("org", Value::String("acme".into())),
        ("kind", Value::String("order".into())),
        ("version", Value::Int(3)),
    ]);
    assert_eq!(event, expected);
    assert_eq!(schema["name"], "shop.Paid");
}

#[test]
fn what_the_record_says_about_itself_can_stand_in_the_event() {
    HOST.with_borrow_mut(|host| host.now_ms = 5_000);
    let config = json!({ "meta": {
        "topic": { "record": "topic" }, "partition": { "record": "partition" }, "offset": { "record": "offset" },
        "timestamp": { "record": "timestamp" }, "now": { "record": "now" }, "key": { "key": "id" }, "header": { "header": "trace" },
        "none": { "header": "other" }, "id": { "concat": [{ "record": "topic" }, { "record": "partition" }, { "record": "offset" }] },
    } });
    let mut input = row(&orders(), order(7)).key(json!({ "id": 9 })).header("trace", "t1");
    (input.partition, input.offset, input.timestamp) = (3, 42, -1);
    let decisions = plugin(&config).topic("shop:orders").records(&[input]).unwrap();
    let some = |text: &str| Value::Union(1, Box::new(Value::String(text.into())));
    let none = Value::Union(0, Box::new(Value::Null));
    let expected = record(&[
        ("header", some("t1")),
        ("id", Value::String("shop\\:orders:3:42".into())),
        ("key", some("9")),
        ("none", none.clone()),
        ("now", Value::TimestampMillis(5_000)),
        ("offset", Value::Long(42)),
        ("partition", Value::Int(3)),
        ("timestamp", none),
        ("topic", Value::String("shop:orders".into())),
    ]);
    assert_eq!(event(&decisions[0]), record(&[("meta", expected)]));
}

#[test]
fn the_key_is_kept_or_made_or_taken_away() {
    let key = |config: &serde_json::Value| {
        let decisions = plugin(config).records(&[row(&orders(), order(7)).key(json!("k"))]).unwrap();
        decisions[0].output().key.clone()
    };
    assert_eq!(key(&json!({ "id": "order_id" })), None);
    assert_eq!(key(&json!({ "id": "order_id", "key": false })), Some(None));
    assert_eq!(key(&json!({ "id": "order_id", "key": "order_id" })), Some(Some(b"7".to_vec())));
    assert_eq!(
        key(&json!({ "id": "order_id", "key": { "concat": ["org", "order_id"], "separator": "/" } })),
        Some(Some(b"acme/7".to_vec()))
    );
    assert_eq!(key(&json!({ "id": "order_id", "key": "amount" })), Some(Some(b"12.34".to_vec())));
}

#[test]
fn rows_of_several_schemas_in_turns_become_events_of_their_own_schema() {
    let mut newer = orders();
    newer["fields"].as_array_mut().unwrap().push(json!({ "name": "note", "type": "string" }));
    let with_note = |id| {
        let Value::Record(mut fields) = order(id) else { unreachable!() };
        fields.push(("note".to_owned(), Value::String("n".into())));
        Value::Record(fields)
    };
    let mut plugin = plugin(&json!({ "id": "order_id", "payload": { "all_except": ["secret"] } }));
    let rows = [row(&orders(), order(1)), row(&newer, with_note(2)), row(&orders(), order(3)), row(&newer, with_note(4))];
    let decisions = plugin.records(&rows).unwrap();
    let handles: Vec<u32> = decisions.iter().map(|decision| decision.output().value_schema).collect();
    assert_eq!((handles[0], handles[1]), (handles[2], handles[3]));
    assert_ne!(handles[0], handles[1]);
    for (decision, id) in decisions.iter().zip(1..) {
        let Value::Record(fields) = event(decision) else { panic!("an event is a record") };
        assert_eq!(fields[0].1, Value::Long(id));
    }
}

#[test]
fn the_memory_of_schemas_has_a_bound() {
    let mut plugin = plugin(&json!({ "payload": { "fields": ["a"] } }));
    for number in 0..(crate::WAYS_MAX + 10) {
        let schema = json!({ "type": "record", "name": format!("R{number}"), "fields": [{ "name": "a", "type": "int" }] });
        let decisions = plugin.records(&[row(&schema, record(&[("a", Value::Int(1))]))]).unwrap();
        assert_eq!(event(&decisions[0]), record(&[("payload", record(&[("a", Value::Int(1))]))]));
    }
    let handles = HOST.with_borrow(|host| host.schemas.iter().filter(|info| info.id.is_none()).count());
    assert_eq!(handles, 1, "equal events have one schema");
}

#[test]
fn a_nested_value_is_found_by_its_path_and_is_null_where_a_parent_is() {
    let address = json!({ "type": "record", "name": "Address", "fields": [
        { "name": "zip", "type": "int" },
        { "name": "city", "type": ["string", "null"] },
        { "name": "geo", "type": ["int", "string"] },
    ]});
    let schema = json!({ "type": "record", "name": "R", "fields": [
        { "name": "home", "type": ["null", address] },
        { "name": "work", "type": "Address" },
    ]});
    let config = json!({ "set": {
        "zip": "home.zip", "city": "home.city", "geo": "home.geo", "plain": "work.zip", "text": { "field": "home.zip", "cast": "string" },
    }});
    let at = record(&[
        ("zip", Value::Int(5)),
        ("city", Value::Union(0, Box::new(Value::String("Ulm".into())))),
        ("geo", Value::Union(1, Box::new(Value::String("x".into())))),
    ]);
    let there = record(&[("home", Value::Union(1, Box::new(at.clone()))), ("work", at.clone())]);
    let absent = record(&[("home", Value::Union(0, Box::new(Value::Null))), ("work", at)]);
    let union = |branch, value| Value::Union(branch, Box::new(value));
    let expected = record(&[
        ("city", union(0, Value::String("Ulm".into()))),
        ("geo", union(2, Value::String("x".into()))),
        ("plain", Value::Int(5)),
        ("text", union(1, Value::String("5".into()))),
        ("zip", union(1, Value::Int(5))),
    ]);
    assert_eq!(one(&config, row(&schema, there)).0, expected);
    let expected = record(&[
        ("city", union(1, Value::Null)),
        ("geo", union(0, Value::Null)),
        ("plain", Value::Int(5)),
        ("text", union(0, Value::Null)),
        ("zip", union(0, Value::Null)),
    ]);
    assert_eq!(one(&config, row(&schema, absent)).0, expected);
}

#[test]
fn an_id_is_never_null() {
    let schema = json!({ "type": "record", "name": "R", "fields": [
        { "name": "id", "type": ["null", "long"] }, { "name": "either", "type": ["int", "null", "string"] }, { "name": "void", "type": "null" },
    ]});
    let values = |id: Option<i64>, either| {
        let id = id.map_or(Value::Union(0, Box::new(Value::Null)), |id| Value::Union(1, Box::new(Value::Long(id))));
        record(&[("id", id), ("either", either), ("void", Value::Null)])
    };
    let text = Value::Union(2, Box::new(Value::String("x".into())));
    let (event, schema_of) = one(&json!({ "id": "id" }), row(&schema, values(Some(5), text.clone())));
    assert_eq!((event, type_of(&schema_of, &["id"])), (record(&[("id", Value::Long(5))]), json!("long")));
    let null = refused(&json!({ "id": "id" }), row(&schema, values(None, text.clone())));
    assert_eq!(null, ("null".to_owned(), "\"id\" is null".to_owned()));
    let cast = refused(&json!({ "id": { "field": "id", "cast": "string" } }), row(&schema, values(None, text.clone())));
    assert_eq!(cast.0, "null");
    assert_eq!(one(&json!({ "id": "either" }), row(&schema, values(None, text.clone()))).0, record(&[("id", text.clone())]));
    assert_eq!(refused(&json!({ "id": "either" }), row(&schema, values(None, Value::Union(1, Box::new(Value::Null))))).0, "null");
    assert_eq!(refused(&json!({ "id": "void" }), row(&schema, values(None, text.clone()))).0, "null");
    let joined = refused(&json!({ "id": { "concat": ["id", "either"] } }), row(&schema, values(None, text)));
    assert_eq!(joined.0, "null");
}

#[test]
fn named_types_keep_their_meaning_wherever_they_come_to_stand() {
    // The first use of `Color` defines it and is left out; the row refers to itself; a name has no namespace in one of another.
    let schema = json!({ "type": "record", "name": "Node", "namespace": "a.b", "fields": [
        { "name": "first", "type": { "type": "enum", "name": "Color", "symbols": ["RED", "BLUE"] } },
        { "name": "second", "type": "Color" },
        { "name": "next", "type": ["null", "Node"] },
        { "name": "hash", "type": { "type": "fixed", "name": "Hash", "namespace": "", "size": 2 } },
        { "name": "hashes", "type": { "type": "array", "items": "Hash" } },
    ]});
    let node = |next| {
        record(&[
            ("first", Value::Enum(0, "RED".into())),
            ("second", Value::Enum(1, "BLUE".into())),
            ("next", next),
            ("hash", Value::Fixed(2, vec![1, 2])),
            ("hashes", Value::Array(vec![Value::Fixed(2, vec![3, 4])])),
        ])
    };
    let none = Value::Union(0, Box::new(Value::Null));
    let inner = Value::Union(1, Box::new(node(none)));
    let config = json!({ "payload": { "all_except": ["first"] }, "set": { "again": "second" } });
    // apache-avro does not find a name without namespace from within one: the row's bytes are written under a schema that it reads.
    let mut plain = schema.clone();
    plain["fields"][3]["type"] = json!({ "type": "fixed", "name": "Hash", "size": 2 });
    let bytes = row(&plain, node(inner.clone())).bytes.unwrap();
    let info = anabranch_guest::SchemaInfo { definition: schema.to_string(), id: Some(2), subject: None, version: None };
    let (event, _) = one(&config, Record::of_bytes(&bytes).schema(info));
    let Value::Record(mut payload) = node(inner) else { unreachable!() };
    payload.remove(0);
    assert_eq!(event, record(&[("payload", Value::Record(payload)), ("again", Value::Enum(1, "BLUE".into()))]));
}

#[test]
fn the_events_own_names_give_way_to_those_of_the_row() {
    let inner = json!({ "type": "record", "name": "anabranch.Event_payload", "fields": [{ "name": "a", "type": "int" }] });
    let schema = json!({ "type": "record", "name": "anabranch.Event", "fields": [{ "name": "inner", "type": inner }] });
    let value = record(&[("inner", record(&[("a", Value::Int(1))]))]);
    let (event, schema) = one(&json!({ "payload": {} }), row(&schema, value.clone()));
    assert_eq!(event, record(&[("payload", value)]));
    assert_eq!(schema["name"], "anabranch.Event_");
}

#[test]
fn a_column_that_the_row_has_not_gives_it_up_or_is_left_out() {
    let config = json!({ "id": "order_id", "payload": { "fields": ["org", "nope"], "cast": {} } });
    let (code, message) = refused(&config, row(&orders(), order(1)));
    assert_eq!(code, "no-column");
    assert_eq!(message, "the row has no column \"nope\"; missing = \"leave-out\" lets such rows pass");
    // A name that is mistyped must not let a secret pass.
    assert_eq!(refused(&json!({ "payload": { "all_except": ["secert"] } }), row(&orders(), order(1))).0, "no-column");
    let config = json!({
        "id": "order_id", "missing": "leave-out",
        "payload": { "fields": ["org", "nope", "later"], "cast": { "later": "date" } }, "set": { "joined": { "concat": ["org", "nope"] } },
    });
    let (event, schema) = one(&config, row(&orders(), order(1)));
    let none = Value::Union(0, Box::new(Value::Null));
    let payload = record(&[("org", Value::String("acme".into())), ("later", none.clone())]);
    assert_eq!(event, record(&[("id", Value::Long(1)), ("payload", payload), ("joined", none)]));
    assert_eq!(type_of(&schema, &["payload", "later"])[1]["logicalType"], "date");
    // What makes the event what it is cannot be left out.
    assert_eq!(refused(&json!({ "id": "nope", "missing": "leave-out" }), row(&orders(), order(1))).0, "no-column");
}

#[test]
fn bytes_that_are_no_row_are_given_up() {
    let config = json!({ "payload": {} });
    let good = row(&orders(), order(1));
    let bytes = good.bytes.clone().unwrap();
    for length in 0..bytes.len() {
        let mut cut = good.clone();
        cut.bytes = Some(bytes[..length].to_vec());
        assert_eq!(refused(&config, cut).0, "not-a-row", "{length} bytes");
    }
    let mut longer = good;
    longer.bytes = Some([&bytes[..], &[0]].concat());
    assert_eq!(refused(&config, longer).0, "not-a-row");
    assert_eq!(refused(&config, row(&json!("string"), Value::String("x".into()))).0, "not-a-row");
    let union = json!(["null", { "type": "record", "name": "R", "fields": [{ "name": "a", "type": "int" }] }]);
    assert_eq!(refused(&config, row(&union, Value::Union(0, Box::new(Value::Null)))).0, "not-a-row");
    let (event, _) = one(&config, row(&union, Value::Union(1, Box::new(record(&[("a", Value::Int(1))])))));
    assert_eq!(event, record(&[("payload", record(&[("a", Value::Int(1))]))]));
}

#[test]
fn one_bad_row_costs_itself_only() {
    let mut plugin = plugin(&json!({ "id": { "field": "org", "cast": "int" } }));
    let with_org = |org: &str| {
        let Value::Record(mut fields) = order(1) else { unreachable!() };
        fields[1].1 = Value::String(org.into());
        row(&orders(), Value::Record(fields))
    };
    let decisions = plugin.records(&[with_org("1"), with_org("x"), with_org("3")]).unwrap();
    assert_eq!(event(&decisions[0]), record(&[("id", Value::Int(1))]));
    assert_eq!(decisions[1], Decision::rejected("cast", "\"id\": the text \"x\" does not fit int"));
    assert_eq!(event(&decisions[2]), record(&[("id", Value::Int(3))]));
}

#[test]
fn a_tombstone_is_kept_or_dropped_or_given_up() {
    let tombstone = || Record::new(json!(null)).key(json!("k"));
    let decide = |config: &serde_json::Value| plugin(config).records(&[tombstone()]).unwrap().remove(0);
    assert_eq!(decide(&json!({ "payload": {} })), Decision::kept());
    assert_eq!(decide(&json!({ "payload": {}, "tombstone": "drop" })), Decision::filtered());
    assert_eq!(decide(&json!({ "payload": {}, "tombstone": "reject" })).reject.unwrap().0, "tombstone");
    // A key that the events do not have would remove nothing.
    assert_eq!(decide(&json!({ "payload": {}, "key": "order_id" })).reject.unwrap().0, "tombstone");
    let made = decide(&json!({ "payload": {}, "key": { "concat": [{ "record": "key" }, { "const": "x" }] } }));
    assert_eq!(made.output().key, Some(Some(b"k:x".to_vec())));
    assert_eq!(decide(&json!({ "payload": {}, "key": false })).output().key, Some(None));
}

#[test]
fn a_name_that_comes_twice_gives_the_row_up() {
    let config = json!({ "id": "order_id", "payload": { "inline": true, "set": { "org": { "const": "x" } } } });
    let (code, message) = refused(&config, row(&orders(), order(1)));
    assert_eq!((code.as_str(), message.as_str()), ("name-taken", "the event would have \"org\" twice in one record: rename the column"));
}
