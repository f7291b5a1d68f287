//! Bundled plugins as built components, through the host, against the same plugin run natively by its own test kit.
//!
//! A plugin joins with a dev-dependency of the host and one call of [`decides_as_natively`].

use anabranch::config::BUNDLED;
use anabranch::plugin::Limits;
use anabranch::value::Format;
use anabranch_guest::Transform;
use anabranch_guest::testing::Harness;

use crate::support::*;

/// What both ways of running a plugin made of one record, in a form that can be compared.
#[derive(Debug, PartialEq)]
struct Made {
    outputs: Vec<(Option<String>, Option<Vec<u8>>)>,
    reject: Option<(String, String)>,
}

/// Runs JSON values through the component `name` and through `T`, and compares what became of each.
fn decides_as_natively<T: Transform>(name: &str, config: &str, values: &[&str]) {
    let component = ENGINE.compile(name, &bytes("components", name), None).unwrap();
    let limits = Limits { deadline: std::time::Duration::from_secs(5), ..LIMITS };
    let mut running = chain_of(&[(component, config)], limits).unwrap_or_else(|error| panic!("{name} {config}: {error}"));
    let all: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
    let decided = running.run_batch(batch(0, 0, &all), Format::Json);
    let mut component: Vec<Made> = values.iter().map(|_| Made { outputs: Vec::new(), reject: None }).collect();
    for index in 0..decided.outputs.list.len() {
        let view = decided.outputs.view(index);
        let value = view.value().map(|value| value.bytes.to_vec());
        component[view.output().input as usize].outputs.push((view.destination().map(str::to_owned), value));
    }
    for letter in &decided.letters {
        component[letter.record as usize].reject = Some((letter.code.clone(), letter.message.clone()));
    }
    let harness = Harness::<T>::new(config).unwrap_or_else(|problems| panic!("{name} {config}: {problems:?}"));
    let mut harness = harness.topic("orders");
    let decisions = harness.json(values).unwrap();
    let native = decisions.into_iter().zip(values).map(|(decision, value)| Made {
        outputs: decision
            .outputs
            .into_iter()
            .map(|output| (output.destination.flatten(), output.value.unwrap_or_else(|| Some(value.as_bytes().to_vec()))))
            .collect(),
        reject: decision.reject,
    });
    assert_eq!(component, native.collect::<Vec<_>>(), "{name} {config}");
}

#[test]
fn filter_decides_as_natively() {
    let _shared = QUIET.read();
    let orders = [
        r#"{"status":"PAID","amount":12.5,"n":3,"ok":true,"a":{"b":"x"},"list":[1,2]}"#,
        r#"{"status":"NEW","amount":9.99,"n":-3,"ok":false,"a":{"b":null},"list":[]}"#,
        r#"{"status":null,"amount":null,"n":null,"ok":null,"a":null}"#,
        r#"{}"#,
        r#"{"status":7,"amount":"12.5","n":"3","ok":"true","a":5}"#,
        r#"{"n":9007199254740993}"#,
    ];
    for expression in [
        "status == 'PAID'",
        "not status == 'PAID'",
        "amount > 10 or n == -3",
        "n == 9007199254740993",
        "ok == false",
        "a.b == 'x' and exists(list)",
        "a == null",
        "list.1 == 2",
        "status not in ('NEW')",
        "matches(status, '^P.*D$')",
    ] {
        let config = serde_json::json!({ "where": expression }).to_string();
        decides_as_natively::<anabranch_plugin_filter::Filter>("filter", &config, &orders);
    }
    decides_as_natively::<anabranch_plugin_filter::Filter>("filter", r#"{"where": "exists(n)", "keep": false}"#, &orders);
}

#[test]
fn destination_pattern_decides_as_natively() {
    let _shared = QUIET.read();
    let orders = [
        r#"{"id":7,"amount":12.5,"paid":true,"customer":{"country":"DE","tags":["a","b"]},"path":"a/b"}"#,
        r#"{"id":null,"customer":{}}"#,
        r#"{"id":"${topic}","customer":{"country":"K\u00f6ln"}}"#,
        r#"{}"#,
        r#"[]"#,
    ];
    for pattern in ["${topic}/${value.id}", "shop/${value.customer.country}/${partition}", "${value.customer.tags.1}", "${value.path}"] {
        let config = serde_json::json!({ "pattern": pattern }).to_string();
        decides_as_natively::<anabranch_plugin_destination_pattern::DestinationPattern>("destination-pattern", &config, &orders);
    }
}

#[test]
fn row_to_event_decides_as_natively() {
    let _shared = QUIET.read();
    // As compact and as sorted as the test kit writes them, since this plugin reads whole values.
    let rows = [r#"{"a":1,"b":"x"}"#, r#"{"b":null}"#, r#"{}"#, r#"{"a":2,"b":"y","c":[1,{"d":null}]}"#, r#"{"a":"no number"}"#];
    for config in [
        serde_json::json!({ "payload": { "cast": { "a": "long", "b": "string" } } }),
        serde_json::json!({ "id": "a", "format": "json", "payload": { "all_except": ["b"] }, "meta": { "source": { "const": "shop" } } }),
        serde_json::json!({ "id": { "field": "a", "cast": "long" }, "payload": { "fields": ["b"], "cast": { "b": "string" } }, "key": "b" }),
    ] {
        decides_as_natively::<anabranch_plugin_row_to_event::RowToEvent>("row-to-event", &config.to_string(), &rows);
    }
}

#[test]
fn every_bundled_plugin_has_a_component_that_the_host_accepts() {
    let _shared = QUIET.read();
    for name in BUNDLED {
        ENGINE.compile(name, &bytes("components", name), None).unwrap();
    }
}
