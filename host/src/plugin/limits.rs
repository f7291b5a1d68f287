//! What an instance may use, and how that is counted.
//!
//! Invariant: the bytes of all memories of all instances together are known at any time and never more than the pool allows.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use wasmtime::ResourceLimiter;

use crate::observe::plugin::PluginMetrics;

/// Bytes that a guest may hand over in one call, results and arguments of imports together. Lists may share memory, so the limit of
/// memory alone does not bound them.
pub const HANDED_OVER_MAX: usize = 64 << 20;
/// Characters of a text that a guest hands over for people to read.
pub const TEXT_MAX: usize = 2048;
/// Core instances, tables and memories of one component. One made from Rust has three, two and one, one from Python 38 core instances;
/// each memory counts in full.
pub const CORE_INSTANCES_MAX: usize = 64;
/// See [`CORE_INSTANCES_MAX`].
pub const TABLES_MAX: usize = 8;
/// See [`CORE_INSTANCES_MAX`].
pub const MEMORIES_MAX: usize = 1;
/// Entries of one table: functions that are called by pointer.
pub const TABLE_ENTRIES_MAX: usize = 20_000;

/// The limits of one plugin.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of linear memory.
    pub memory_max: usize,
    /// Of one `process`.
    pub deadline: Duration,
    /// Of `init`.
    pub init_deadline: Duration,
    /// Log lines in a second.
    pub log_lines_max: u32,
}

/// The memory that all instances of the process share.
#[derive(Debug)]
pub struct Pool {
    used: AtomicUsize,
    max: usize,
}

impl Pool {
    /// `max`: bytes.
    pub fn new(max: usize) -> Self {
        Pool { used: AtomicUsize::new(0), max }
    }

    /// Three quarters of what this machine or container has; the rest is for batches in flight.
    pub fn of_this_machine() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let container = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse::<usize>().ok());
        let machine = read("/proc/meminfo").and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
            Some(line.trim().trim_end_matches(" kB").parse::<usize>().ok()? << 10)
        });
        let all = [container, machine].into_iter().flatten().min();
        Pool::new(all.map_or(usize::MAX, |bytes| bytes / 4 * 3))
    }

    /// Bytes that all may have together.
    pub fn max(&self) -> usize {
        self.max
    }

    fn take(&self, bytes: usize) -> bool {
        let taken =
            self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| used.checked_add(bytes).filter(|used| *used <= self.max));
        taken.is_ok()
    }

    fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Why a memory does not grow.
#[derive(Debug, thiserror::Error)]
pub enum NoMemory {
    /// The plugin's own limit.
    #[error("it wants more memory than its {}: raise `memory_max` in its [plugin.NAME], or make it hold less", size(*.0))]
    Plugin(usize),
    /// The limit of all.
    #[error(
        "it wants more memory, and all plugins together have the {} that this machine can spare: give the machine more, lower \
         `memory_max` or `workers`, or share the partitions among more processes",
        size(*.0)
    )]
    All(usize),
}

/// For people.
pub fn size(bytes: usize) -> String {
    if bytes >= 10 << 30 {
        return format!("{} GiB", bytes >> 30);
    }
    if bytes.is_multiple_of(1 << 20) || bytes > 64 << 20 { format!("{} MiB", bytes >> 20) } else { format!("{} KiB", bytes >> 10) }
}

/// The limits of one instance, and what it has taken of them.
pub struct Bounds {
    memory_max: usize,
    memory: usize,
    asked: usize,
    pool: Arc<Pool>,
    seen: PluginMetrics,
}

impl Bounds {
    /// Nothing taken yet.
    pub fn new(memory_max: usize, pool: Arc<Pool>, seen: PluginMetrics) -> Self {
        seen.started.inc();
        seen.instances.inc();
        Bounds { memory_max, memory: 0, asked: 0, pool, seen }
    }
}

impl Drop for Bounds {
    fn drop(&mut self) {
        self.pool.give(self.memory);
        self.seen.memory.dec_by(self.memory as i64);
        self.seen.instances.dec();
    }
}

impl ResourceLimiter for Bounds {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current);
        if self.memory + more > self.memory_max {
            return Err(NoMemory::Plugin(self.memory_max).into());
        }
        if !self.pool.take(more) {
            return Err(NoMemory::All(self.pool.max).into());
        }
        self.memory += more;
        self.asked = more;
        self.seen.memory.inc_by(more as i64);
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.memory -= self.asked;
        self.pool.give(self.asked);
        self.seen.memory.dec_by(std::mem::take(&mut self.asked) as i64);
        Err(error)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ENTRIES_MAX)
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}

/// Guest text for people: one line, nothing that moves a cursor or turns the writing around, bounded.
pub fn clean(text: &str) -> String {
    let harmless = |character: char| !character.is_control() && !is_invisible(character);
    let mut clean: String = text.chars().take(TEXT_MAX).map(|character| if harmless(character) { character } else { ' ' }).collect();
    if text.chars().nth(TEXT_MAX).is_some() {
        clean.push('…');
    }
    clean
}

/// Separators of lines, marks without width and those that change the direction of writing.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Metrics;

    #[test]
    fn memory_is_counted_for_each_plugin_and_for_all() {
        let metrics = Metrics::new();
        let pool = Arc::new(Pool::new(100));
        let mut one = Bounds::new(80, pool.clone(), metrics.plugin("orders", "one"));
        let mut other = Bounds::new(80, pool.clone(), metrics.plugin("orders", "other"));
        assert!(one.memory_growing(0, 70, None).unwrap());
        assert!(matches!(one.memory_growing(70, 90, None).unwrap_err().downcast_ref(), Some(NoMemory::Plugin(80))));
        assert!(matches!(other.memory_growing(0, 40, None).unwrap_err().downcast_ref(), Some(NoMemory::All(100))));
        assert!(other.memory_growing(0, 30, None).unwrap());
        other.memory_grow_failed(wasmtime::Error::msg("the system has none")).unwrap_err();
        assert!(metrics.text().contains("anabranch_plugin_memory_bytes{route=\"orders\",plugin=\"other\"} 0\n"));
        drop(one);
        assert!(other.memory_growing(0, 80, None).unwrap());
        drop(other);
        assert_eq!(pool.used.load(Ordering::Relaxed), 0);
        assert!(metrics.text().contains("anabranch_plugin_instances{route=\"orders\",plugin=\"one\"} 0\n"));
    }

    #[test]
    fn text_of_guests_is_one_harmless_line() {
        assert_eq!(clean("a\u{1b}[2Jb\r\nc\u{202e}d\u{9b}e\u{2028}f"), "a [2Jb  c d e f");
        assert_eq!(clean("äöü 漢字 🦀"), "äöü 漢字 🦀");
        assert_eq!(clean(&"x".repeat(5000)).chars().count(), TEXT_MAX + 1);
    }
}
