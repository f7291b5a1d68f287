//! Plugins that misbehave through the SDK: each is contained, costs the records it misbehaves at, and is named with the remedy.

use std::time::{Duration, Instant};

use anabranch::dead::Class;
use anabranch::plugin::{Limits, Outcome};
use anabranch::value::{self, Format};

use crate::support::*;

fn multiples(of: i64, up_to: i64) -> Vec<i64> {
    (0..up_to).filter(|offset| (offset + 1) % of == 0).collect()
}

fn refused(does: &str, limits: Limits) -> String {
    let error = hostile_with(does, 1, "", limits).err().unwrap_or_else(|| panic!("{does} is accepted"));
    assert_harmless(&error);
    error
}

#[test]
fn an_init_that_misbehaves_is_an_error_at_start() {
    let _shared = QUIET.read();
    let quick = Limits { init_deadline: Duration::from_millis(100), ..LIMITS };
    let began = Instant::now();
    assert_has(&refused("spin in init", quick), &["plugin \"bad\"", "init", "100ms", "`init_deadline`"]);
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_has(&refused("panic in init", LIMITS), &["plugin \"bad\"", "init failed", "panicked at", "init gives up"]);
    assert_has(&refused("grow in init", LIMITS), &["plugin \"bad\"", "init failed", "64 MiB", "`memory_max`"]);
    assert_has(&refused("recurse in init", LIMITS), &["plugin \"bad\"", "init failed", "stack"]);
    assert_has(&refused("a header with a NUL", LIMITS), &["plugin \"bad\"", "plan", "header"]);
    let forged = refused("escape codes in a problem", LIMITS);
    assert_has(&forged, &["gone"]);
}

#[test]
fn instances_that_disagree_on_the_plan_stop_the_route() {
    let _shared = QUIET.read();
    let mut running = hostile("another plan each time", 1);
    std::thread::sleep(Duration::from_millis(2));
    let decided = running.run(0, 10);
    let Outcome::Stop(message) = decided.outcome else { panic!("{:?}", decided.outcome) };
    assert_has(&message, &["plugin \"bad\"", "another plan", "context"]);
}

#[test]
fn a_trap_costs_exactly_the_records_it_happens_at() {
    let _shared = QUIET.read();
    let mut tenth = hostile("panic", 10);
    let decided = tenth.run(0, 1024);
    let message = assert_cost(&decided, &multiples(10, 1024), Class::PluginTrap);
    assert_has(&message, &["plugin \"bad\"", "panicked at", "record 9 is  [31mtoo much"]);
    let mut thousandth = hostile("panic", 1000);
    for first in (0..10_240).step_by(1024) {
        let decided = thousandth.run(first, 1024);
        let bad: Vec<i64> = multiples(1000, 10_240).into_iter().filter(|bad| (first..first + 1024).contains(bad)).collect();
        assert_cost(&decided, &bad, Class::PluginTrap);
    }
    assert_eq!(thousandth.metric("plugin_records_total"), 10_240.0);
    assert_eq!(thousandth.metric("plugin_outputs_total"), 10_230.0);
    assert!(thousandth.metric("plugin_broken_total") >= 100.0, "ten searches among a thousand");
    assert_eq!(thousandth.metric("plugin_instances"), 1.0);
}

#[test]
fn runs_that_are_abandoned_leave_no_log_lines_and_no_counts() {
    let _shared = QUIET.read();
    let mut running = hostile("panic after logging", 100);
    let (decided, log) = logged(|| running.run(0, 1000));
    assert_cost(&decided, &multiples(100, 1000), Class::PluginTrap);
    assert_eq!(log, "");
    assert_eq!(running.metric("guest_seen_total"), 990.0, "each record that was decided, once");
}

#[test]
fn a_record_is_not_blamed_for_what_an_instance_went_through_before() {
    let _shared = QUIET.read();
    let mut running = hostile("panic on a used instance", 1);
    for first in 0..10 {
        assert_cost(&running.run(first, 1), &[], Class::PluginTrap);
    }
    assert_eq!(running.metric("plugin_broken_total"), 9.0);
}

#[test]
fn a_plugin_that_breaks_at_everything_stops_the_route_instead_of_draining_it() {
    let _shared = QUIET.read();
    let mut running = hostile("panic", 1);
    let decided = running.run(0, 1024);
    let Outcome::Stop(message) = decided.outcome else { panic!("{:?}", decided.outcome) };
    assert_has(&message, &["plugin \"bad\"", "more than two of three records", "orders/0 offset 99", "panicked at", "`through`"]);
    assert_harmless(&message);
    assert!(decided.letters.len() < 100);
}

#[test]
fn a_record_that_takes_for_ever_is_found_within_the_deadline_of_a_few_calls() {
    let _shared = QUIET.read();
    let limits = Limits { deadline: Duration::from_millis(100), ..LIMITS };
    for does in ["spin", "spin on host calls", "spin on schemas"] {
        let mut running = hostile_with(does, 20, "", limits).unwrap();
        let began = Instant::now();
        let (decided, log) = logged(|| running.run(0, 32));
        let message = assert_cost(&decided, &[19], Class::PluginTimeout);
        assert_has(&message, &["plugin \"bad\"", "100ms", "`deadline`", "[plugin.NAME]"]);
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        assert_eq!(log, "");
    }
}

#[test]
fn a_slow_batch_has_no_culprit() {
    let _shared = QUIET.read();
    let mut running = hostile_with("take 3 ms", 1, "", Limits { deadline: Duration::from_millis(200), ..LIMITS }).unwrap();
    assert_cost(&running.run(0, 128), &[], Class::PluginTimeout);
    assert!(running.metric("plugin_broken_total") >= 1.0);
}

#[test]
fn the_end_of_the_stack_is_a_trap_also_inside_a_host_call() {
    let _shared = QUIET.read();
    for does in ["recurse", "recurse into the host"] {
        let limits = Limits { deadline: Duration::from_secs(10), ..LIMITS };
        let mut running = hostile_with(does, 8, "", limits).unwrap();
        let message = assert_cost(&running.run(0, 8), &[7], Class::PluginTrap);
        assert_has(&message, &["plugin \"bad\"", "stack overflowed", "recurses"]);
    }
}

#[test]
fn memory_beyond_the_limit_is_refused_with_the_limit_and_the_key() {
    let _shared = QUIET.read();
    let mut running = hostile("grow", 8);
    let message = assert_cost(&running.run(0, 16), &[7, 15], Class::PluginTrap);
    assert_has(&message, &["plugin \"bad\"", "64 MiB", "`memory_max`"]);
    let mut filled = hostile("fill", 16);
    assert_cost(&filled.run(0, 16), &[], Class::PluginTrap);
}

#[test]
fn a_plugin_that_leaks_is_replaced_and_loses_nothing() {
    let _shared = QUIET.read();
    let mut running = hostile("leak", 1);
    for call in 0..60 {
        assert_cost(&running.run(call * 4, 4), &[], Class::PluginTrap);
    }
    assert!(running.metric("plugin_broken_total") >= 3.0);
}

#[test]
fn outputs_without_end_are_refused_and_many_are_halved() {
    let _shared = QUIET.read();
    let roomy = Limits { memory_max: 512 << 20, deadline: Duration::from_secs(10), ..LIMITS };
    let mut running = hostile_with("ten million outputs", 1, "", roomy).unwrap();
    let message = assert_cost(&running.run(0, 1), &[0], Class::PluginOutput);
    assert_has(&message, &["plugin \"bad\"", "10000000 outputs for 1 records", "1000"]);
    let mut rejects = hostile_with("a million rejects", 1, "", roomy).unwrap();
    let message = assert_cost(&rejects.run(0, 1), &[0], Class::PluginTrap);
    assert_has(&message, &["plugin \"bad\"", "more than 64 MiB in one call"]);
    let mut many = hostile_with("a thousand outputs", 1, "", roomy).unwrap();
    let decided = many.run(0, 400);
    assert_eq!((decided.outcome, decided.outputs.list.len(), decided.letters.len()), (Outcome::Done, 400_000, 0));
}

#[test]
fn values_that_nest_without_end_cost_their_record_at_the_next_reader() {
    let _shared = QUIET.read();
    for (does, format) in [("nest JSON", Format::Json), ("nest CBOR", Format::Cbor)] {
        let reader = config("read deep documents", 1, "");
        let bad = config(does, 8, "");
        let steps = [(guest("hostile"), bad.as_str()), (guest("hostile"), reader.as_str())];
        let mut running = chain_of(&steps, LIMITS).unwrap();
        let message = assert_cost(&running.run(0, 16), &[7, 15], Class::Decode);
        assert_has(&message, &["deep"]);
        // Without a further plugin a sink is the next reader.
        let alone = hostile(does, 8).run(0, 8);
        let value = alone.outputs.view(7).value().unwrap();
        assert_eq!(value.format, format);
        assert!(value::write_json(value, &value::JsonOptions::default(), &mut Vec::new()).is_err());
        assert!(value::write_cbor(value, &mut Vec::new()).is_err());
    }
}

#[test]
fn numbers_that_are_none_never_become_invalid_json() {
    let _shared = QUIET.read();
    for does in ["NaN in CBOR", "infinity in CBOR"] {
        let decided = hostile(does, 1).run(0, 1);
        let mut json = Vec::new();
        let written = value::write_json(decided.outputs.view(0).value().unwrap(), &value::JsonOptions::default(), &mut json);
        if written.is_ok() {
            serde_json::from_slice::<serde_json::Value>(&json).unwrap();
        }
    }
}

#[test]
fn destinations_that_no_sink_can_have_cost_their_record_without_a_search() {
    let _shared = QUIET.read();
    for (text, times, parts) in [
        ("a\\u0000b", 1, &["control character 0x00", "replace"][..]),
        ("a\\u001b[2Jb", 1, &["control character 0x1b"][..]),
        ("0123456789", 1000, &["10000 bytes", "4096", "shorten"][..]),
    ] {
        let more = format!(r#""text": "{text}", "times": {times}"#);
        let mut running = hostile_with("a destination", 8, &more, LIMITS).unwrap();
        let message = assert_cost(&running.run(0, 16), &[7, 15], Class::DestinationInvalid);
        assert_has(&message, parts);
        assert_eq!(running.metric("plugin_call_seconds_count"), 1.0);
    }
    // What dots mean is up to the sink: a topic path may have them, a file's may not.
    let mut dots = hostile_with("a destination", 1, r#""text": "../../etc""#, LIMITS).unwrap();
    assert_eq!(dots.run(0, 1).outputs.view(0).destination(), Some("../../etc"));
}

#[test]
fn text_of_a_plugin_reaches_nobody_with_escape_codes() {
    let _shared = QUIET.read();
    let decided = hostile("escape codes in a reject", 1).run(0, 1);
    let message = assert_cost(&decided, &[0], Class::PluginReject);
    assert_has(&message, &["owned", "forged line"]);
    let Outcome::Stop(stop) = hostile("fail", 4).run(0, 8).outcome else { panic!("it fails") };
    assert_harmless(&stop);
    assert_has(&stop, &["plugin \"bad\"", "orders/0 offset 3", "no answer"]);
}

#[test]
fn records_that_are_asked_for_again_leave_no_log_lines_and_no_counts() {
    let _shared = QUIET.read();
    let (first, second) = (config("log a line", 1, r#""text": "seen""#), config("ask again", 4, ""));
    let steps = [(guest("hostile"), first.as_str()), (guest("hostile"), second.as_str())];
    let mut running = chain_of(&steps, LIMITS).unwrap();
    let (decided, log) = logged(|| running.run(0, 8));
    let Outcome::Retry(message) = decided.outcome else { panic!("{:?}", decided.outcome) };
    assert_has(&message, &["plugin \"bad\"", "orders/0 offset 3"]);
    assert_eq!((log.as_str(), running.metric("guest_seen_total")), ("", 0.0));
}

#[test]
fn a_flood_of_log_lines_is_cut_and_cleaned() {
    let _shared = QUIET.read();
    let mut running = hostile_with("flood the log", 1, "", Limits { deadline: Duration::from_secs(10), ..LIMITS }).unwrap();
    let (decided, log) = logged(|| running.run(0, 2));
    assert_cost(&decided, &[], Class::PluginTrap);
    assert!((100..110).contains(&log.lines().count()), "{} lines", log.lines().count());
    log.lines().for_each(assert_harmless);
    assert!(log.lines().all(|line| line.contains("plugin=\"bad\" route=\"orders\"")), "every line says whose it is");
    // The next second tells how much is missing.
    std::thread::sleep(Duration::from_millis(1100));
    let (_, log) = logged(|| running.run(2, 1));
    assert_has(log.lines().next().unwrap(), &["left_out=199902", "`log_lines_max`"]);
}

#[test]
fn metrics_have_a_bound_and_only_numbers() {
    let _shared = QUIET.read();
    let slow = Limits { init_deadline: Duration::from_secs(20), ..LIMITS };
    let (million, log) = logged(|| hostile_with("a million metrics", 1, "", slow).unwrap());
    assert_eq!(million.metrics.text().matches("# TYPE anabranch_guest_").count(), 100);
    assert!(million.metrics.text().len() < 100_000);
    assert_has(&log, &["at most 100"]);
    let (bad, log) = logged(|| hostile_with("bad metrics", 1, "", LIMITS).unwrap());
    assert_eq!(bad.metric("guest_bad_gauge"), -1.0);
    assert_eq!(bad.metric("guest_bad_counter_total"), 1e308);
    assert!(!bad.metrics.text().contains("\n# TYPE forged"), "{}", bad.metrics.text());
    assert_has(&log, &["another kind", "letters, digits and _"]);
}

#[test]
fn schemas_have_a_bound_in_depth_and_number() {
    let _shared = QUIET.read();
    let roomy = Limits { deadline: Duration::from_secs(20), ..LIMITS };
    let mut deep = hostile_with("register deep schemas", 4, "", roomy).unwrap();
    assert_cost(&deep.run(0, 4), &[], Class::PluginTrap);
    let mut many = hostile_with("register schemas without end", 4, "", roomy).unwrap();
    let message = assert_cost(&many.run(0, 4), &[3], Class::PluginReject);
    assert_has(&message, &["1000 schemas", "per record"]);
    assert_eq!(many.schemas.register(r#"{"type":"array","items":"int"}"#).map(|handle| handle > 1000).ok(), Some(true), "others have room");
}

#[test]
fn answers_that_depend_on_the_clock_decide_each_record_once() {
    let _shared = QUIET.read();
    let mut running = hostile("another answer each time", 1);
    for first in (0..1000).step_by(100) {
        let decided = running.run(first, 100);
        let mut all = [kept(&decided), given_up(&decided)].concat();
        all.sort_unstable();
        assert_eq!(all, (first..first + 100).collect::<Vec<_>>());
    }
}
