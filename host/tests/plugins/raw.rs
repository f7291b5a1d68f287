//! Plugins that break the contract itself, below the SDK: every lie is found, named, and costs the record it is told about.

use anabranch::dead::Class;
use anabranch::plugin::Limits;

use crate::support::*;

fn raw(lie: &str) -> Result<Running, String> {
    chain_of(&[(guest("raw"), lie)], Limits { deadline: std::time::Duration::from_millis(200), ..LIMITS })
}

#[test]
fn the_truth_costs_nothing() {
    let _shared = QUIET.read();
    assert_cost(&raw("no lie").unwrap().run(0, 100), &[], Class::PluginOutput);
}

#[test]
fn a_refusal_without_a_reason_gets_one() {
    let _shared = QUIET.read();
    let error = raw("nothing it knows").err().unwrap();
    assert_has(&error, &["gives no reason"]);
}

#[test]
fn answers_to_init_that_break_the_contract_are_errors_at_start() {
    let _shared = QUIET.read();
    for lie in [
        "init: a plan beyond memory",
        "init: a result that is neither",
        "init: four thousand million fields",
        "init: a header that is no UTF-8",
        "init: an encoding that does not exist",
        "init: sinks without end",
    ] {
        let error = raw(lie).err().unwrap_or_else(|| panic!("{lie} is believed"));
        assert_has(&error, &["plugin \"bad\"", "init failed: "]);
        assert_harmless(&error);
    }
}

#[test]
fn answers_that_break_the_contract_cost_the_record_at_offset_3() {
    let _shared = QUIET.read();
    let invalid = [
        ("too few destinations", "0 destinations for 1 outputs"),
        ("too many destinations", "2 destinations for 1 outputs"),
        ("ends beyond their data", "ends of its destinations"),
        ("ends that descend", "ends of its values"),
        ("inputs beyond the batch", "record 1 of 1"),
        ("inputs that descend", "descend from 1 to 0"),
        ("a destination that is no UTF-8", "not UTF-8"),
        ("a choice of sinks that is not planned", "set 7 of 0"),
        ("choices of sinks for nobody", "2 sets of sinks for 1 outputs"),
        ("a change that does not exist", "no change 255"),
        ("a schema that does not exist", "no schema 99999"),
        ("nulls that are not empty", "its values that are null or kept"),
        ("nulls beyond the outputs", "its values that are null or kept"),
        ("kept entries that descend", "its values that are null or kept"),
        ("headers that are not planned", "3 columns of headers, 0 are planned"),
        ("a reject beyond the batch", "rejects record 1 of 1"),
        ("two rejects of one record", "rejects record 0 twice"),
        ("a reject beside an output", "rejects record 0 and has outputs"),
    ];
    for (lie, message) in invalid {
        let mut running = raw(lie).unwrap();
        let told = assert_cost(&running.run(0, 16), &[3], Class::PluginOutput);
        assert_has(&told, &["plugin \"bad\"", "its answer is invalid", message]);
        assert_cost(&running.run(16, 16), &[], Class::PluginOutput);
    }
}

#[test]
fn answers_that_cannot_be_read_cost_the_record_at_offset_3() {
    let _shared = QUIET.read();
    for (lie, message) in [
        ("inputs beyond memory", "out of bounds"),
        ("inputs off their alignment", "aligned"),
        ("an option that is neither", "discriminant"),
        ("a reject that is no UTF-8", "utf-8"),
        ("a gigabyte", "more than 64 MiB in one call"),
        ("log: beyond memory", "out of bounds"),
        ("log: no UTF-8", "utf-8"),
        ("log: a level that does not exist", "discriminant"),
    ] {
        let mut running = raw(lie).unwrap();
        let (decided, log) = logged(|| running.run(0, 16));
        let told = assert_cost(&decided, &[3], Class::PluginTrap);
        assert_has(&told.to_lowercase(), &["plugin \"bad\"", &message.to_lowercase()]);
        assert_eq!(log, "");
    }
}

#[test]
fn a_call_that_does_not_end_behind_its_answer_has_the_same_deadline() {
    let _shared = QUIET.read();
    let mut running = raw("an endless end of the call").unwrap();
    let message = assert_cost(&running.run(0, 8), &[3], Class::PluginTimeout);
    assert_has(&message, &["200ms", "`deadline`"]);
}

#[test]
fn arguments_are_never_written_outside_the_memory_of_a_guest() {
    let _shared = QUIET.read();
    let mut running = raw("memory for arguments where there is none").unwrap();
    let decided = running.run(0, 4);
    let message = assert_cost(&decided, &[0, 1, 2, 3], Class::PluginTrap);
    assert_has(&message, &["plugin \"bad\"", "realloc"]);
}
