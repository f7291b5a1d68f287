//! What a process takes of the machine, seen from outside, and whether that stays the same.
//!
//! Invariant: medians of the first and the last quarter are compared, so that no single moment decides, and neither does the beginning.

use std::fs;

/// Samples of the beginning, which are left out; a third of a run that is too short for so many.
const WARM_UP: usize = 120;
/// Growth that is no leak, KiB: caches fill, the allocator keeps what an outage took, and a table's own log grows with it.
const MEMORY_GROWTH_MAX: u64 = 64 << 10;
/// Connections to a receiver come by need too, 16 for each sink.
const HANDLES_GROWTH_MAX: u64 = 48;
/// Threads for files come by need and leave when they have had nothing to do for a while.
const THREADS_GROWTH_MAX: u64 = 32;

/// What a process takes at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Resident memory, KiB.
    pub memory: u64,
    /// Open file handles, sockets among them.
    pub handles: u64,
    /// Threads.
    pub threads: u64,
}

impl Figures {
    /// Those of a process; `None`: it has ended.
    pub fn of(process: u32) -> Option<Figures> {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        // A process that has ended and was not waited for has no memory.
        let (memory, threads) = (number("VmRSS:")?, number("Threads:")?);
        let handles = fs::read_dir(format!("/proc/{process}/fd")).ok()?.count() as u64;
        Some(Figures { memory, handles, threads })
    }

    fn median(samples: &[Figures]) -> Figures {
        let of = |figure: fn(&Figures) -> u64| {
            let mut values: Vec<u64> = samples.iter().map(figure).collect();
            values.sort_unstable();
            values[values.len() / 2]
        };
        Figures { memory: of(|one| one.memory), handles: of(|one| one.handles), threads: of(|one| one.threads) }
    }
}

/// The first quarter of a run beside the last.
#[derive(Debug)]
pub struct Quarters {
    /// Whether what grows in the beginning may have had no time to stop.
    is_short: bool,
    /// Medians of the first quarter.
    pub first: Figures,
    /// Medians of the last quarter.
    pub last: Figures,
}

impl Quarters {
    /// Of samples in their order; six at least.
    pub fn of(samples: &[Figures]) -> Quarters {
        let is_short = samples.len() < 4 * WARM_UP;
        let samples = &samples[WARM_UP.min(samples.len() / 3)..];
        let quarter = samples.len() / 4;
        Quarters { is_short, first: Figures::median(&samples[..quarter]), last: Figures::median(&samples[samples.len() - quarter..]) }
    }

    /// What is not flat.
    pub fn problems(&self) -> Vec<String> {
        let Quarters { is_short, first, last } = self;
        let times = if *is_short { 2 } else { 1 };
        let figures = [
            ("memory (KiB)", first.memory, last.memory, MEMORY_GROWTH_MAX.max(first.memory / 4)),
            ("file handles", first.handles, last.handles, HANDLES_GROWTH_MAX),
            ("threads", first.threads, last.threads, THREADS_GROWTH_MAX),
        ];
        let figures = figures.map(|(name, first, last, most)| (name, first, last, most * times));
        let grown = figures.into_iter().filter(|(_, first, last, most)| *last > first + most);
        grown.map(|(name, first, last, most)| format!("{name} grew from {first} to {last}, {most} is allowed")).collect()
    }
}

#[test]
fn figures_that_grow_are_told_from_figures_that_jump() {
    let flat = Figures { memory: 200 << 10, handles: 50, threads: 20 };
    let mut samples = vec![flat; 40];
    samples[35] = Figures { memory: 900 << 10, handles: 900, threads: 900 };
    assert_eq!(Quarters::of(&samples).problems(), [""; 0]);
    samples[30..].iter_mut().for_each(|sample| sample.handles = 200);
    assert_eq!(Quarters::of(&samples).problems().len(), 1);
    let own = Figures::of(std::process::id()).unwrap();
    assert!(own.memory > 0 && own.handles > 2 && own.threads > 0, "{own:?}");
}
