//! Formats beside a single Avro schema: JSON with and without the registry's framing, raw bytes, several schemas in turns, Avro keys.

use std::collections::BTreeMap;

use anabranch_tests::avro::Avro;
use anabranch_tests::kafka::Broker;
use anabranch_tests::receiver::Receiver;
use anabranch_tests::registry::{Registry, framed};
use anabranch_tests::router::Place;
use anabranch_tests::table::{self, Cell};
use anabranch_tests::topic::Record;
use apache_avro::types::Value;
use serde_json::{Value as Json, json};

use crate::setup::config;

fn registry() -> String {
    format!("[registry.main]\nurl = \"{}\"\n", Registry::shared().url())
}

#[test]
fn json_arrives_with_and_without_the_registrys_framing() {
    let topic = Broker::shared().topic("json", 1);
    let schema = json!({"type": "object", "properties": {"id": {"type": "integer"}}}).to_string();
    let body = json!({"schemaType": "JSON", "schema": schema});
    let id = Registry::shared().register_as(&format!("{}-value", topic.name), &body);
    let receiver = Receiver::start();
    let columns = "columns = [{ name = \"id\", type = \"long\" }, { name = \"name\", type = \"string\" }, \
                   { name = \"price\", type = \"decimal(10,2)\" }]";
    let sinks = format!("[sink.live.http]\nurl = \"{}\"\n[sink.lake.delta]\nuri = \"table\"\n{columns}\n", receiver.url("/"));
    let place = Place::new(&config(&topic, &(registry() + &sinks), "value = \"json\"\nto = [\"live\", \"lake\"]"));
    let texts = [
        r#"{"id": 1, "name": "plain", "price": 12.34}"#,
        r#"{"id": 9007199254740993, "name": "größer als 2^53", "price": "0.05"}"#,
        r#"{"id": 3, "name": null, "extra": [1, {"deep": true}]}"#,
    ];
    topic.send([Record::value(texts[0]), Record::value(framed(id, texts[1].as_bytes())), Record::value(framed(id, texts[2].as_bytes()))]);
    place.run_until_end();

    let received: Vec<Json> = receiver.requests().iter().map(|request| request.json()).collect();
    assert_eq!(received, texts.map(|text| serde_json::from_str::<Json>(text).unwrap()));
    let rows = table::rows(&place.path("table"));
    let row = |id: i64, name: Cell, price: Cell| [("id", Cell::Long(id)), ("name", name), ("price", price)];
    let expected = [
        row(1, Cell::text("plain"), Cell::Decimal(1234, 10, 2)),
        row(9_007_199_254_740_993, Cell::text("größer als 2^53"), Cell::Decimal(5, 10, 2)),
        row(3, Cell::Null, Cell::Null),
    ];
    assert_eq!(rows, expected.map(|row| row.map(|(name, cell)| (name.to_owned(), cell)).into()));
}

#[test]
fn raw_bytes_arrive_as_they_are() {
    let topic = Broker::shared().topic("raw", 1);
    let receiver = Receiver::start();
    let sinks = format!(
        "[sink.live.http]\nurl = \"{}\"\nbody = \"raw\"\nmethod = \"PUT\"\nforward_headers = [\"trace\"]\n[sink.copy.file]\npath = \"copy.jsonl\"\nenvelope = true\n",
        receiver.url("/raw?a=b")
    );
    let place = Place::new(&config(&topic, &sinks, "value = \"raw\"\nkey = \"string\"\nto = [\"live\", \"copy\"]"));
    let bytes: Vec<u8> = (0..=255).collect();
    topic.send([
        Record { headers: vec![("trace".into(), Some(b"t-1".to_vec()))], ..Record::keyed("k", bytes.clone()) },
        Record::keyed("empty", ""),
    ]);
    place.run_until_end();

    let requests = receiver.requests();
    let seen: Vec<_> = requests.iter().map(|request| (request.method.as_str(), request.path.as_str(), request.query.as_deref())).collect();
    assert_eq!(seen, [("PUT", "/raw", Some("a=b")); 2]);
    let by_trace: BTreeMap<Option<&String>, &Vec<u8>> =
        requests.iter().map(|request| (request.headers.get("trace"), &request.body)).collect();
    assert_eq!(by_trace, BTreeMap::from([(Some(&"t-1".to_owned()), &bytes), (None, &vec![])]));
    let copy = std::fs::read_to_string(place.path("copy.jsonl")).unwrap();
    let lines: Vec<Json> = copy.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!([&lines[0]["key"], &lines[1]["key"], &lines[1]["value"]], [&json!("k"), &json!("empty"), &json!("")]);
    assert_eq!(lines[0]["headers"], json!([{"name": "trace", "value": "t-1"}]));
}

#[test]
fn records_of_several_schemas_in_turns_arrive_each_by_its_own() {
    let topic = Broker::shared().topic("turns", 2);
    let subject = format!("{}-value", topic.name);
    let schema = |fields: Json| json!({"type": "record", "name": "Reading", "fields": fields});
    let schemas = [
        schema(json!([{"name": "id", "type": "long"}])),
        schema(json!([{"name": "place", "type": "string"}, {"name": "id", "type": "long"}])),
        schema(json!([{"name": "id", "type": "long"}, {"name": "place", "type": ["null", "string"]}, {"name": "level", "type": "double"}])),
    ];
    let avro = schemas.map(|schema| Avro::register(Registry::shared(), &subject, &schema));
    let count = 300;
    let (text, number) = (|id: i64| Value::String(format!("place {id}")), |id: i64| Value::Long(id));
    let record = |id: i64| {
        let fields = match id % 3 {
            0 => vec![("id", number(id))],
            1 => vec![("place", text(id)), ("id", number(id))],
            _ => vec![("id", number(id)), ("place", Value::Union(1, Box::new(text(id)))), ("level", Value::Double(id as f64 / 4.0))],
        };
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Record::keyed(id.to_string(), avro[id as usize % 3].encode(Value::Record(fields)))
    };
    let receiver = Receiver::start();
    let sinks =
        format!("[sink.live.http]\nurl = \"{}\"\nbatch = {{ form = \"array\" }}\n[sink.lake.delta]\nuri = \"table\"\n", receiver.url("/"));
    let place = Place::new(&config(&topic, &(registry() + &sinks), "value = \"avro\"\nto = [\"live\", \"lake\"]"));
    topic.send((0..count).map(record));
    place.run_until_end();

    let as_json = |id: i64| match id % 3 {
        0 => json!({"id": id}),
        1 => json!({"id": id, "place": format!("place {id}")}),
        _ => json!({"id": id, "place": format!("place {id}"), "level": id as f64 / 4.0}),
    };
    let requests = receiver.requests();
    let mut received: Vec<Json> = requests.iter().flat_map(|request| request.json().as_array().unwrap().clone()).collect();
    received.sort_by_key(|json| json["id"].as_i64());
    assert_eq!(received, (0..count).map(as_json).collect::<Vec<_>>());
    let mut rows = table::rows(&place.path("table"));
    rows.sort_by(|left, right| left["id"].partial_cmp(&right["id"]).unwrap());
    assert_eq!(rows.len() as i64, count);
    for (id, row) in (0..count).zip(&rows) {
        // A file has only the columns of the rows in it; one that is not there is null.
        let cell = |name: &str| row.get(name).cloned().unwrap_or(Cell::Null);
        let place = if id % 3 == 0 { Cell::Null } else { Cell::text(format!("place {id}")) };
        let level = if id % 3 == 2 { Cell::Double(id as f64 / 4.0) } else { Cell::Null };
        assert_eq!([cell("id"), cell("place"), cell("level")], [Cell::Long(id), place, level]);
    }
}

#[test]
fn avro_keys_are_decoded_and_schemas_may_refer_to_others() {
    let topic = Broker::shared().topic("avro-keys", 1);
    let registry = Registry::shared();
    let key_schema =
        json!({"type": "record", "name": "Key", "fields": [{"name": "shop", "type": "string"}, {"name": "id", "type": "long"}]});
    let key = Avro::register(registry, &format!("{}-key", topic.name), &key_schema);
    // The value's schema uses a name that stands in a subject of its own.
    let money = format!("{}-money", topic.name);
    let amount = json!({"type": "record", "name": "shop.Money", "fields": [{"name": "cents", "type": "long"}]});
    registry.register(&money, &amount.to_string());
    let value = |money: Json| json!({"type": "record", "name": "shop.Sale", "fields": [{"name": "total", "type": money}]});
    let body = json!({
        "schema": value(json!("shop.Money")).to_string(),
        "references": [{"name": "shop.Money", "subject": money, "version": 1}],
    });
    let id = registry.register_as(&format!("{}-value", topic.name), &body);
    let schema = apache_avro::Schema::parse(&value(amount)).unwrap();
    let total = Value::Record(vec![("cents".into(), Value::Long(1250))]);
    let sale = apache_avro::to_avro_datum(&schema, Value::Record(vec![("total".into(), total)])).unwrap();
    let sold = Value::Record(vec![("shop".into(), Value::String("north".into())), ("id".into(), Value::Long(7))]);
    topic.send([Record::keyed(key.encode(sold.clone()), framed(id, &sale)), Record { key: Some(key.encode(sold)), ..Record::default() }]);

    let tables = self::registry() + "[sink.copy.file]\npath = \"copy.jsonl\"\nenvelope = true\n";
    let through = "through = [{ plugin = \"filter\", config = { where = \"key.shop == 'north'\" } }]";
    let place = Place::new(&config(&topic, &tables, &format!("value = \"avro\"\nkey = \"avro\"\nto = [\"copy\"]\n{through}")));
    place.run_until_end();
    let copy = std::fs::read_to_string(place.path("copy.jsonl")).unwrap();
    let lines: Vec<Json> = copy.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let found: Vec<_> = lines.iter().map(|line| (line["key"].clone(), line["value"].clone())).collect();
    let key = json!({"shop": "north", "id": 7});
    assert_eq!(found, [(key.clone(), json!({"total": {"cents": 1250}})), (key, Json::Null)]);
}
