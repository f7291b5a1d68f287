//! Fuzzing inside the process, with stable Rust: random inputs for a given time, each within bounds of time and memory.
//!
//! Invariant: an input is nothing but a string of choices, and its number decides the choices. So every finding comes again by its
//! seed, and one way of making inputs smaller (leave choices out, make them 0) serves all targets.
//!
//! `ANABRANCH_FUZZ_SECONDS` says for how long each target runs, `ANABRANCH_SEED` with which number it starts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Long enough for some thousand inputs, short enough for every test run.
const SECONDS_BY_DEFAULT: f64 = 2.0;
/// Choices of one input; what asks for more of them gets zeros.
const CHOICES_MAX: usize = 4096;
/// An input that takes longer, twice, is a finding.
const INPUT_TIME_MAX: Duration = Duration::from_secs(2);
/// An input that takes longer ends the process: nothing else stops a loop without end.
const HANG: Duration = Duration::from_secs(60);
/// Bytes that an input may hold at a time.
const INPUT_BYTES_MAX: usize = 256 << 20;
/// Runs that making an input smaller may take.
const SMALLER_MAX: usize = 4000;

/// What an input is made of. The first answer of each question (0, false, the first of a list) should be the simplest.
pub struct Choices {
    bytes: Vec<u8>,
    at: usize,
    shown: String,
}

impl Choices {
    fn new(bytes: Vec<u8>) -> Self {
        Choices { bytes, at: 0, shown: String::new() }
    }

    /// The choices of input `number`.
    fn numbered(number: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(number);
        // Small inputs are quick and find most.
        let length = 16 << random.u32(0..=(CHOICES_MAX / 16).ilog2());
        Choices::new(std::iter::repeat_with(|| random.u8(..)).take(length).collect())
    }

    /// Any byte.
    pub fn byte(&mut self) -> u8 {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte
    }

    /// Below `count`.
    pub fn below(&mut self, count: usize) -> usize {
        if count <= 1 {
            return 0;
        }
        let wide = if count <= 256 { self.byte().into() } else { usize::from(self.byte()) << 8 | usize::from(self.byte()) };
        wide % count
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }

    /// One of a list.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// A number of 64 bits: small ones, and those at the edges of the types, more often than others.
    pub fn number(&mut self) -> i64 {
        let edges = [0, i64::from(i32::MAX), i64::from(i32::MIN), i64::MAX, i64::MIN, 1 << 53, 86_400_000, 253_402_300_800_000];
        match self.below(4) {
            0 => i64::from(self.byte() as i8),
            1 => self.pick(&edges).wrapping_add(i64::from(self.byte() as i8 / 16)),
            2 => i64::from(i32::from_be_bytes(std::array::from_fn(|_| self.byte()))),
            _ => i64::from_be_bytes(std::array::from_fn(|_| self.byte())),
        }
    }

    /// Bytes, at most `max`.
    pub fn some_bytes(&mut self, max: usize) -> Vec<u8> {
        let length = self.below(max + 1);
        (0..length).map(|_| self.byte()).collect()
    }

    /// Text of at most `max` characters, ordinary ones and others.
    pub fn text(&mut self, max: usize) -> String {
        const ODD: &[char] = &['"', '\\', '\n', '\0', '\u{7f}', 'é', '漢', '😀', '\u{2028}', '/', '.', '$', '{', '\u{feff}', '\u{10ffff}'];
        let length = self.below(max + 1);
        (0..length).map(|_| if self.once_in(4) { *self.pick(ODD) } else { char::from(b'a' + self.byte() % 26) }).collect()
    }

    /// Damages bytes a little: as transports, other versions and attackers do.
    pub fn damage(&mut self, bytes: &mut Vec<u8>) {
        const EDGES: &[u8] = &[0, 1, 2, 0x7f, 0x80, 0xfe, 0xff, b'"', b'{', b'[', b'\\', b'\n', b'-', b'9', 0x9f, 0xbf, 0xc4, 0xd9];
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(7) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = *self.pick(EDGES),
                2 => bytes.insert(at, *self.pick(EDGES)),
                3 if at < bytes.len() => drop(bytes.remove(at)),
                4 => bytes.truncate(at),
                5 => {
                    // A number of many bytes, as lengths are written.
                    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
                    let from = self.below(huge.len());
                    bytes.splice(at..at, huge[from..].iter().copied());
                }
                _ => {
                    let to = at + self.below(bytes.len() - at + 1);
                    let again = bytes[at..to].to_vec();
                    bytes.splice(at..at, again);
                }
            }
        }
    }

    /// Says what the input is, for whoever reads of a finding.
    pub fn show(&mut self, what: &str, value: impl std::fmt::Debug) {
        self.shown.push_str(&format!("  {what}: {value:?}\n"));
    }
}

/// Runs a target for its time: `check` makes an input of the choices and says what is wrong with what became of it.
///
/// Panics with the smallest input that it finds.
pub fn run(target: &str, check: impl Fn(&mut Choices) -> Result<(), String>) {
    run_within(target, INPUT_TIME_MAX, check);
}

/// The same for inputs that have to wait for something, at most so long.
pub fn run_within(target: &str, time_max: Duration, check: impl Fn(&mut Choices) -> Result<(), String>) {
    let check = &|choices: &mut Choices| bounded(&check, choices, time_max);
    quiet_panics();
    let first = setting("ANABRANCH_SEED").unwrap_or_else(|| {
        // Any other start each time; what it was is printed.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64)
    });
    let seconds = setting("ANABRANCH_FUZZ_SECONDS").unwrap_or(SECONDS_BY_DEFAULT);
    eprintln!("fuzz: {target}: starts with ANABRANCH_SEED={first}");
    let number = AtomicU64::new(first);
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let (alive, ended) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let number = &number;
        scope.spawn(move || {
            let mut last = None;
            while ended.recv_timeout(HANG) == Err(mpsc::RecvTimeoutError::Timeout) {
                let now = number.load(Ordering::Relaxed);
                if last.replace(now) == Some(now) {
                    eprintln!("fuzz: {target}: FINDING: input {now} does not end (ANABRANCH_SEED={now})");
                    std::process::abort();
                }
            }
        });
        let mut inputs = 0_u64;
        while inputs == 0 || Instant::now() < until {
            let now = first.wrapping_add(inputs);
            number.store(now, Ordering::Relaxed);
            if let Err(wrong) = check(&mut Choices::numbered(now)) {
                let (choices, smallest) = smaller(check, Choices::numbered(now).bytes, wrong, number);
                drop(alive);
                eprintln!("fuzz: {target}: {inputs} inputs, 1 finding");
                panic!("{target}: {smallest}\n{choices}  again: ANABRANCH_SEED={now}");
            }
            inputs += 1;
        }
        drop(alive);
        eprintln!("fuzz: {target}: {inputs} inputs, 0 findings");
    });
}

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// Checks one input, its time and its memory.
fn bounded(check: &impl Fn(&mut Choices) -> Result<(), String>, choices: &mut Choices, time_max: Duration) -> Result<(), String> {
    let attempt = |choices: &mut Choices| {
        (choices.at, choices.shown) = (0, String::new());
        let (begun, held) = (Instant::now(), held());
        CHECKING.set(true);
        let checked = catch_unwind(AssertUnwindSafe(|| check(choices)));
        CHECKING.set(false);
        let panicked = |_| Err(format!("panicked: {}", LAST_PANIC.with_borrow(String::clone)));
        let peak = peak_since(held);
        (checked.unwrap_or_else(panicked), begun.elapsed(), peak)
    };
    let (checked, took, peak) = attempt(choices);
    checked?;
    if peak > INPUT_BYTES_MAX {
        return Err(format!("held {peak} bytes"));
    }
    // Other processes may have had the processor meanwhile.
    if took > time_max && attempt(choices).1 > time_max {
        return Err(format!("took {took:?}"));
    }
    Ok(())
}

/// Leaves choices out and makes them 0 for as long as something is still wrong.
fn smaller(
    check: &impl Fn(&mut Choices) -> Result<(), String>,
    mut bytes: Vec<u8>,
    mut wrong: String,
    alive: &AtomicU64,
) -> (String, String) {
    let mut left = SMALLER_MAX;
    let mut still = |bytes: &[u8]| {
        left = left.checked_sub(1)?;
        // The watcher sees that there is progress.
        alive.fetch_add(1, Ordering::Relaxed);
        let began = Instant::now();
        let found = check(&mut Choices::new(bytes.to_vec())).err();
        // Slow inputs are not tried thousands of times.
        left = left.saturating_sub((began.elapsed().as_millis() / 10) as usize);
        found
    };
    loop {
        let before = bytes.clone();
        let mut size = bytes.len().next_power_of_two();
        while size > 0 {
            let mut at = 0;
            while at < bytes.len() {
                let end = (at + size).min(bytes.len());
                let shorter = [&bytes[..at], &bytes[end..]].concat();
                let mut zeros = bytes.clone();
                zeros[at..end].fill(0);
                if let Some(found) = still(&shorter) {
                    (bytes, wrong) = (shorter, found);
                } else {
                    let lower = |by: fn(u8) -> u8| {
                        let mut lower = bytes.clone();
                        lower[at] = by(lower[at]);
                        lower
                    };
                    let one = [lower(|byte| byte / 2), lower(|byte| byte.saturating_sub(1))];
                    let next = [zeros].into_iter().chain(one.into_iter().filter(|_| size == 1));
                    let found = next.filter(|next| *next != bytes).find_map(|next| still(&next).map(|found| (next, found)));
                    match found {
                        Some((next, found)) => (bytes, wrong) = (next, found),
                        None => at = end,
                    }
                }
            }
            size /= 2;
        }
        if bytes == before {
            break;
        }
    }
    let mut choices = Choices::new(bytes);
    let _ = check(&mut choices);
    (choices.shown, wrong)
}

thread_local! {
    /// Whether an input is being checked.
    static CHECKING: Cell<bool> = const { Cell::new(false) };
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

/// Panics are findings here and are shown at the end, not thousands of times while an input is made smaller.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            if CHECKING.get() {
                LAST_PANIC.set(info.to_string().replace('\n', " "));
            } else {
                loud(info);
            }
        }));
    });
}

fn held() -> usize {
    let held = HELD.get();
    PEAK.set(held);
    held
}

fn peak_since(held: usize) -> usize {
    PEAK.get().saturating_sub(held)
}

/// Counts what each thread holds. What another thread frees counts for the one that took it: near enough for bounds.
struct Counting;

// SAFETY: every call goes to the system's allocator as it is; counting touches constants of the thread only and allocates nothing.
#[allow(unsafe_code, reason = "an allocator cannot be written without")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(0, layout.size());
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(more: usize, less: usize) {
    let now = HELD.get().wrapping_add(more).wrapping_sub(less);
    HELD.set(now);
    // Frees of what others took may bring it below 0.
    if now < usize::MAX / 2 && now > PEAK.get() {
        PEAK.set(now);
    }
}

/// The most that `work` held at a time, and what came of it.
pub fn holding<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let outer = PEAK.get();
    let before = held();
    let made = work();
    let peak = peak_since(before);
    PEAK.set(PEAK.get().max(outer));
    (peak, made)
}

mod tests {
    use super::*;

    #[test]
    fn a_finding_is_made_small_and_comes_again_by_its_choices() {
        let check = &|choices: &mut Choices| {
            let bytes = choices.some_bytes(200);
            choices.show("bytes", &bytes);
            if bytes.iter().any(|byte| *byte > 100) { Err("too large".to_owned()) } else { Ok(()) }
        };
        let number = (0..).find(|number| bounded(check, &mut Choices::numbered(*number), INPUT_TIME_MAX).is_err()).unwrap();
        let (shown, wrong) = smaller(
            &|choices: &mut Choices| bounded(check, choices, INPUT_TIME_MAX),
            Choices::numbered(number).bytes,
            String::new(),
            &AtomicU64::new(0),
        );
        assert_eq!(wrong, "too large");
        assert!(shown.starts_with("  bytes: [") && !shown.contains(','), "{shown}");
    }

    #[test]
    fn memory_beyond_its_bound_and_panics_are_findings() {
        quiet_panics();
        let huge = |_: &mut Choices| {
            std::hint::black_box(vec![1_u8; INPUT_BYTES_MAX + 1]);
            Ok(())
        };
        assert!(bounded(&huge, &mut Choices::numbered(0), INPUT_TIME_MAX).unwrap_err().starts_with("held"));
        let broken = |_: &mut Choices| -> Result<(), String> { Err(["x"][std::hint::black_box(0)].parse::<u8>().unwrap().to_string()) };
        assert!(bounded(&broken, &mut Choices::numbered(0), INPUT_TIME_MAX).unwrap_err().starts_with("panicked"));
    }
}
