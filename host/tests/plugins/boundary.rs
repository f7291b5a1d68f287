//! The contract between host and plugins, from the host's side.

use std::sync::Arc;

use anabranch::ack::TopicPartition;
use anabranch::batch::{Entries, Handles};
use anabranch::dead::Class;
use anabranch::plugin::{Component, Limits, Outcome, Room};
use anabranch::value::Format;

use crate::support::*;

/// A component that imports one instance with one function and does nothing, in binary: there is no SDK for what is forbidden.
fn importing(interface: &str) -> Vec<u8> {
    let mut bytes = b"\0asm\x0d\x00\x01\x00".to_vec();
    // Type section: an instance type of two declarations, a function type without parameters and results, and its export "f".
    let types = [1, 0x42, 2, 0x01, 0x40, 0, 1, 0, 0x04, 0, 1, b'f', 0x01, 0];
    bytes.extend([7, types.len() as u8]);
    bytes.extend(types);
    // Import section: the name, as an instance of type 0.
    let mut imports = vec![1, 0, interface.len() as u8];
    imports.extend(interface.as_bytes());
    imports.extend([5, 0]);
    bytes.extend([10, imports.len() as u8]);
    bytes.extend(imports);
    bytes
}

#[test]
fn a_component_that_imports_what_plugins_do_not_get_is_refused_by_name() {
    let _shared = QUIET.read();
    let refused = |interface: &str| ENGINE.compile("bad", &importing(interface), None).unwrap_err().to_string();
    for interface in ["wasi:filesystem/types@0.2.0", "wasi:sockets/tcp@0.2.0", "wasi:cli/environment@0.2.0", "evil:corp/tools@1.0.0"] {
        assert_has(&refused(interface), &["plugin \"bad\"", interface, "no files, network, environment", "wasm32-unknown-unknown"]);
    }
    // In the right package, but no part of the contract.
    assert_has(&refused("anabranch:plugin/files@0.1.0"), &["plugin \"bad\"", "anabranch:plugin/files@0.1.0", "same version of the SDK"]);
    assert_has(&refused("anabranch:plugin/log@9.0.0"), &["plugin \"bad\"", "anabranch:plugin/log@9.0.0"]);
}

#[test]
fn what_is_no_component_is_refused_with_the_remedy() {
    let _shared = QUIET.read();
    let refused = |bytes: &[u8]| ENGINE.compile("bad", bytes, None).unwrap_err().to_string();
    assert_has(&refused(b"\0asm\x01\0\0\0"), &["plugin \"bad\"", "no valid component", "wasm-component-ld"]);
    assert_has(&refused(b"hello"), &["plugin \"bad\"", "no valid component"]);
    assert_has(&refused(b"\0asm\x0d\0\x01\0"), &["plugin \"bad\"", "contract", "SDK"]);
    let error = ENGINE.compile("bad", b"\0asm\x0d\0\x01\0", Some(&"0".repeat(64))).unwrap_err().to_string();
    assert_has(&error, &["SHA-256", "approved"]);
}

#[test]
fn a_call_has_at_most_the_bytes_that_fit_beside_the_answer() {
    let _shared = QUIET.read();
    let mut running = hostile("tell the size of calls", 1);
    let value = vec![b'1'; 1 << 20];
    let decided = running.run_batch(batch(0, 0, &[value.as_slice(); 10]), Format::Json);
    let calls: Vec<_> = (0..10).map(|index| decided.outputs.view(index).destination().unwrap().to_owned()).collect();
    assert_eq!(calls[0], "4/4194304");
    assert_eq!(calls[9], "2/2097152");
    // A small plugin gets small calls; a record that is larger than that comes alone.
    let small = Limits { memory_max: 4 << 20, ..LIMITS };
    let mut running = hostile_with("tell the size of calls", 1, "", small).unwrap();
    let large = vec![b'1'; 1_100_000];
    let decided = running.run_batch(batch(0, 0, &[&value[..600_000], &value[..600_000], &large, b"1"]), Format::Json);
    let calls: Vec<_> = (0..4).map(|index| decided.outputs.view(index).destination().unwrap().to_owned()).collect();
    assert_eq!(calls, ["1/600000", "1/600000", "1/1100000", "1/1"]);
}

#[test]
fn a_batch_whose_fields_change_their_kind_is_split_where_they_do() {
    let _shared = QUIET.read();
    let mut running = chain_of(&[(guest("raw"), "init: a field of any kind")], LIMITS).unwrap();
    let field = |kind: &str| format!(r#"{{"type":"record","name":"R","fields":[{{"name":"n","type":"{kind}"}}]}}"#);
    let [long, string, int] = ["long", "string", "int"].map(|kind| running.schemas.register(&field(kind)).unwrap());
    let mut values = Entries::default();
    // A prefix of five bytes stands in front of what a schema of the registry describes.
    for value in [&b"\0\0\0\0\x01\x02"[..], b"\0\0\0\0\x02\x02a", b"\0\0\0\0\x02\x02b", b"\0\0\0\0\x01\x04", b"\0\0\0\0\x03\x06"] {
        values.push(Some(value));
    }
    let batch = anabranch::batch::Batch {
        values,
        value_schemas: Handles::Each(vec![long, string, string, long, int]),
        ..batch(0, 10, &[b"", b"", b"", b"", b""])
    };
    let decided = running.run_batch(batch, Format::Avro);
    assert_cost(&decided, &[], Class::Decode);
    assert_eq!(running.metric("plugin_call_seconds_count"), 3.0, "long; string twice; long and int, which are both integers");
}

#[test]
fn one_call_decides_a_batch() {
    let _shared = QUIET.read();
    let mut running = hostile("nothing", 1);
    assert_cost(&running.run(0, 1024), &[], Class::PluginTrap);
    assert_eq!(running.metric("plugin_call_seconds_count"), 1.0);
    assert_eq!(running.metric("plugin_instances_started_total"), 2.0, "one was started to plan");
    assert_eq!(running.metric("plugin_instances"), 1.0);
}

#[test]
fn what_is_not_set_stays_as_it_came_in_along_a_chain() {
    let _shared = QUIET.read();
    let (first, second) = (config("a destination", 2, r#""text": "from/the/first""#), config("a value", 3, r#""text": "\"changed\"""#));
    let steps = [(guest("hostile"), first.as_str()), (guest("hostile"), second.as_str())];
    let decided = chain_of(&steps, LIMITS).unwrap().run(0, 6);
    for index in 0..6 {
        let view = decided.outputs.view(index);
        let offset = view.offset() + 1;
        assert_eq!(view.destination(), (offset % 2 == 0).then_some("from/the/first"));
        assert_eq!(view.value().unwrap().bytes, if offset % 3 == 0 { &b"\"changed\""[..] } else { br#"{"n":1}"# });
        assert!(view.key().is_none());
        assert!(view.output().sinks.has(0) && view.output().sinks.has(1));
    }
}

#[test]
fn a_later_plugin_that_breaks_costs_its_own_outputs_only() {
    let _shared = QUIET.read();
    let (first, second) = (config("two outputs", 1, ""), config("panic", 4, ""));
    let steps = [(guest("hostile"), first.as_str()), (guest("hostile"), second.as_str())];
    let decided = chain_of(&steps, LIMITS).unwrap().run(0, 8);
    assert_eq!(kept(&decided), [0, 0, 1, 1, 2, 2, 4, 4, 5, 5, 6, 6]);
    assert_eq!(given_up(&decided), [3, 3, 7, 7]);
}

#[test]
fn a_plugin_with_a_memory_has_an_instance_for_each_partition_until_it_leaves() {
    let _shared = QUIET.read();
    let mut running = hostile_with("count calls", 1, r#""per_partition": true"#, LIMITS).unwrap();
    let mut call = |partition: i32| {
        let decided = running.run_batch(batch(partition, 0, &[b"{}"]), Format::Json);
        decided.outputs.view(0).destination().unwrap().to_owned()
    };
    assert_eq!([call(0), call(1), call(0), call(0), call(1)], ["1", "1", "2", "3", "2"]);
    running.chain.forget(&TopicPartition { topic: Arc::from("orders"), partition: 0 });
    let mut call = |partition: i32| {
        let decided = running.run_batch(batch(partition, 0, &[b"{}"]), Format::Json);
        decided.outputs.view(0).destination().unwrap().to_owned()
    };
    assert_eq!([call(0), call(1)], ["1", "3"]);
    assert_eq!(running.metric("plugin_instances"), 2.0);
}

#[test]
fn a_configuration_gets_room_for_its_plugins() {
    let text = |workers: u32| {
        format!(
            "[source.k.kafka]\nbrokers = [\"localhost:9092\"]\n[sink.out.null]\n[plugin.filter]\nmemory_max = \"100 MiB\"\n\
             [route.r]\ntopics = [\"t\"]\nvalue = \"json\"\nworkers = {workers}\nto = [\"out\"]\n\
             through = [{{ plugin = \"filter\", config = {{ where = \"a\" }} }}, {{ plugin = \"filter\", config = {{ where = \"b\" }} }}]\n"
        )
    };
    let folder = tempfile::tempdir().unwrap();
    let room = |workers| {
        let path = folder.path().join("config.toml");
        std::fs::write(&path, text(workers)).unwrap();
        match anabranch::config::load(&path) {
            Ok(loaded) => Room::of(&loaded.config),
            Err(_) => panic!("the configuration is right"),
        }
    };
    assert_eq!(room(3), Room { instances: 6 + Room::PER_PARTITION, memory_max: 100 << 20 });
    assert_eq!(room(5).instances, 10 + Room::PER_PARTITION);
}

/// Built from tests/guests/contract with the SDK of each version of the contract and kept: a later change of wit/plugin.wit that breaks
/// what users have built fails here. Never build one anew whose version is out; add the next one beside it.
#[test]
fn components_of_every_version_of_the_contract_still_run() {
    let _shared = QUIET.read();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plugins/contract");
    let mut versions = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "wasm") {
            continue;
        }
        let component = ENGINE.load("kept", Some(&path), None).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        uses_every_part_of_the_contract(component);
        versions += 1;
    }
    assert_eq!(versions, 1, "one component for each version of the contract");
}

#[test]
fn the_contract_of_today_holds_in_every_part() {
    let _shared = QUIET.read();
    uses_every_part_of_the_contract(guest("contract"));
}

const EVERY_KIND: &str = r#"{"type":"record","name":"In","fields":[{"name":"n","type":"long"},{"name":"flag","type":"boolean"},
{"name":"s","type":"string"},{"name":"day","type":{"type":"int","logicalType":"date"}},
{"name":"time","type":{"type":"long","logicalType":"time-micros"}},{"name":"at","type":{"type":"long","logicalType":"timestamp-micros"}},
{"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}},{"name":"list","type":{"type":"array","items":"int"}}]}"#;

fn uses_every_part_of_the_contract(component: Arc<Component>) {
    assert_has(&chain_of(&[(component.clone(), r#"{"prefix": "q"}"#)], LIMITS).err().unwrap(), &["only p will do"]);
    let (running, log) = logged(|| chain_of(&[(component, r#"{"prefix": "p"}"#)], LIMITS));
    let mut running = running.unwrap();
    assert_has(&log, &["on orders with [\"live\", \"lake\"]"]);
    let decided = running.run_batch(batch(3, 10, &[br#"{"n":0}"#, br#"{"n":1}"#, br#"{}"#]), Format::Json);
    assert_eq!(decided.outcome, Outcome::Done);
    assert_eq!((kept(&decided), given_up(&decided)), (vec![12, 12], vec![11]), "{:?}", decided.letters);
    assert_eq!((decided.letters[0].code.as_str(), decided.letters[0].message.as_str()), ("one", "one is not welcome"));
    let handle = running.schemas.register(EVERY_KIND).unwrap();
    let value = [
        // The prefix that names the schema, 7, true, "text", day 2, one second, two seconds, 1.50, [1].
        &[0, 0, 0, 0, 1, 14, 1, 8][..],
        b"text",
        &[4, 0x80, 0x89, 0x7a, 0x80, 0x92, 0xf4, 0x01, 4, 0, 150, 2, 2, 0],
    ];
    let one = anabranch::batch::Batch { value_schemas: Handles::All(handle), ..batch(3, 12, &[&value.concat()]) };
    let decided = running.run_batch(one, Format::Avro);
    assert_eq!(decided.outcome, Outcome::Done, "{:?}", decided.letters);
    let set = decided.outputs.view(0);
    assert_eq!((set.destination(), set.output().change as u8), (Some("p/1"), 6));
    assert!(!set.output().sinks.has(0) && set.output().sinks.has(1));
    assert_eq!(set.key().map(|key| (key.format, key.bytes)), Some((Format::Json, &b"\"k\""[..])));
    let mut json = Vec::new();
    anabranch::value::write_json(set.value().unwrap(), &anabranch::value::JsonOptions::default(), &mut json).unwrap();
    assert_eq!(json, br#"{"n":7}"#);
    let headers = set.headers();
    let told = std::str::from_utf8(headers[0].1.unwrap()).unwrap();
    let expected = "Some(7) Some(7.0) Some(true) Some(\"text\") Some(4) Some(2) Some(1000000) Some(2000000) Some(\"1.50\") Some([159, 1, 255]) None \
                    orders 3 12 1700000000000 true true false";
    assert_eq!((headers[0].0, told), (&b"seen"[..], expected));
    let empty = decided.outputs.view(1);
    assert_eq!((empty.destination(), empty.key().is_none(), empty.value().is_none(), empty.headers().len()), (None, true, true, 0));
    assert_eq!(running.metric("guest_records_total"), 4.0);
    assert_eq!(running.metric("guest_last"), 7.0);
    assert_eq!(running.metric("guest_sizes_count"), 2.0);
    let Outcome::Stop(message) = running.run_batch(batch(3, 20, &[br#"{"n":2}"#]), Format::Json).outcome else { panic!("it stops") };
    assert_has(&message, &["two stops", "orders/3 offset 20"]);
}
