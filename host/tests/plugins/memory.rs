//! Memory stays flat whatever plugins do.

use anabranch::dead::Class;
use anabranch::plugin::Limits;

use crate::support::*;

const MIB: usize = 1 << 20;

#[test]
fn replaced_instances_leave_nothing_behind() {
    let _alone = QUIET.write();
    let mut running = hostile("grow", 64);
    // Warm: allocators and slots have what they need.
    (0..3).for_each(|turn| drop(running.run(turn * 64, 64)));
    let (before, started) = (resident(), running.metric("plugin_instances_started_total"));
    let mut first = 1000 * 64;
    while running.metric("plugin_instances_started_total") < started + 100.0 {
        let decided = running.run(first, 64);
        assert_cost(&decided, &[first + 63], Class::PluginTrap);
        first += 64;
    }
    assert!(running.metric("plugin_instances") <= 1.0);
    assert!(running.metric("plugin_memory_bytes") <= 64e6 * 1.1);
    let grown = resident().saturating_sub(before);
    assert!(grown < 24 * MIB, "100 instances that took 64 MiB each left {} MiB", grown / MIB);
    drop(running.chain);
    assert_eq!(running.metrics.text().matches("anabranch_plugin_instances{route=\"orders\",plugin=\"bad\"} 0\n").count(), 1);
    assert!(running.metrics.text().contains("anabranch_plugin_memory_bytes{route=\"orders\",plugin=\"bad\"} 0\n"));
}

#[test]
fn misbehaviour_repeated_leaves_memory_flat() {
    let _alone = QUIET.write();
    let limits = Limits { deadline: std::time::Duration::from_secs(5), ..LIMITS };
    for does in ["flood the log", "recurse", "nest JSON", "panic"] {
        let mut running = hostile_with(does, 16, "", limits).unwrap();
        (0..2).for_each(|turn| drop(running.run(turn * 16, 16)));
        let before = resident();
        (2..12).for_each(|turn| drop(running.run(turn * 16, 16)));
        let grown = resident().saturating_sub(before);
        assert!(grown < 24 * MIB, "{does}: ten more batches left {} MiB", grown / MIB);
    }
}
