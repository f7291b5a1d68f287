//! Breaks the contract itself: what the SDK would never let a plugin answer, written byte by byte as the canonical ABI lays it out.
//!
//! The configuration names the lie. Answers are right unless a call holds the record at offset 3, so a test can tell what a lie cost.

#![allow(unsafe_code, reason = "the canonical ABI is raw memory")]
#![cfg(target_arch = "wasm32")]

mod contract {
    #![allow(dead_code, missing_docs, clippy::all, reason = "only the description of the contract is used, which makes this a component")]
    wit_bindgen::generate!({ path: "../../../wit", world: "plugin" });
}

use std::sync::atomic::{AtomicU32, Ordering};

#[link(wasm_import_module = "anabranch:plugin/log@0.1.0")]
unsafe extern "C" {
    #[link_name = "log"]
    fn log(level: u32, text: u32, length: u32);
}

/// Which lie, as a position in [`LIES`].
static LIE: AtomicU32 = AtomicU32::new(u32::MAX);
/// Whether the call at hand is to be lied to.
static LYING: AtomicU32 = AtomicU32::new(0);

/// Where answers are written: an `init` has 64 bytes, a `process` 216 (discriminant, then the record from byte 4 on).
static mut ANSWER: [u8; 256] = [0; 256];
/// What lists in the answer point to.
static mut LISTS: [u32; 16384] = [0; 16384];

// Where each part of `outputs` begins, behind the discriminant of the result.
const INPUTS: usize = 4;
const DESTINATIONS: usize = 12;
const SINKS: usize = 56;
const VALUES: usize = 112;
const VALUE_SCHEMAS: usize = 172;
const CHANGES: usize = 188;
const HEADERS: usize = 200;
const REJECTS: usize = 208;

fn answer() -> u32 {
    &raw mut ANSWER as u32
}

/// Writes `number` at byte `at` of the answer.
fn put(at: usize, number: u32) {
    unsafe { ((answer() as usize + at) as *mut u32).write_unaligned(number) };
}

/// Writes a list or a string at byte `at` of the answer.
fn list(at: usize, from: u32, length: usize) {
    put(at, from);
    put(at + 4, length as u32);
}

/// Keeps numbers for a list to point to, from number `at` of [`LISTS`] on.
fn keep(at: usize, numbers: &[u32]) -> u32 {
    let start = &raw mut LISTS as u32 + at as u32 * 4;
    for (index, number) in numbers.iter().enumerate() {
        unsafe { ((start as usize + index * 4) as *mut u32).write(*number) };
    }
    start
}

/// A column that is set: `ends`, and `length` bytes of data from `data` on.
fn column(at: usize, ends: &[u32], data: u32, length: usize) {
    put(at, 1);
    list(at + 4, keep(600, ends), ends.len());
    list(at + 12, data, length);
}

/// What this plugin can lie about; `init` refuses all other configurations.
const LIES: &[&str] = &[
    "no lie",
    "init: a plan beyond memory",
    "init: a result that is neither",
    "init: four thousand million fields",
    "init: a header that is no UTF-8",
    "init: an encoding that does not exist",
    "init: sinks without end",
    "init: a field of any kind",
    "too few destinations",
    "too many destinations",
    "ends beyond their data",
    "ends that descend",
    "inputs beyond the batch",
    "inputs that descend",
    "inputs beyond memory",
    "inputs off their alignment",
    "a destination that is no UTF-8",
    "a choice of sinks that is not planned",
    "choices of sinks for nobody",
    "a change that does not exist",
    "a schema that does not exist",
    "an option that is neither",
    "nulls that are not empty",
    "nulls beyond the outputs",
    "kept entries that descend",
    "headers that are not planned",
    "a reject beyond the batch",
    "two rejects of one record",
    "a reject beside an output",
    "a reject that is no UTF-8",
    "a gigabyte",
    "log: beyond memory",
    "log: no UTF-8",
    "log: a level that does not exist",
    "memory for arguments where there is none",
    "an endless end of the call",
];

fn lie() -> &'static str {
    LIES.get(LIE.load(Ordering::Relaxed) as usize).copied().unwrap_or("no lie")
}

#[unsafe(export_name = "anabranch:plugin/transform@0.1.0#init")]
extern "C" fn init(config: u32, length: u32, _: u32, _: u32, _: u32, _: u32, _: u32, _: u32) -> u32 {
    let config = unsafe { std::slice::from_raw_parts(config as *const u8, length as usize) };
    let known = LIES.iter().position(|lie| lie.as_bytes() == config);
    LIE.store(known.map_or(u32::MAX, |known| known as u32), Ordering::Relaxed);
    if known.is_none() {
        // One problem without path and message: its discriminant, then a list of one.
        put(0, 1);
        list(4, keep(0, &[0; 16]), 1);
        return answer();
    }
    match lie() {
        "init: a plan beyond memory" => return 0xffff_fff0,
        "init: a result that is neither" => put(0, 7),
        "init: four thousand million fields" => list(4, keep(0, &[0; 16]), u32::MAX as usize),
        "init: a header that is no UTF-8" => {
            let text = keep(10, &[u32::MAX]);
            list(12, keep(0, &[text, 4]), 1);
        }
        "init: an encoding that does not exist" => put(24, 0x0909),
        // Seven thousand lists, each of four thousand names, all in the same place.
        "init: sinks without end" => list(36, keep(0, &[keep(0, &[]), 4000].repeat(7000)), 7000),
        // A field's part, its path (a list of names), no kind, not lenient.
        "init: a field of any kind" => {
            let name = keep(10, &[u32::from(b'n')]);
            list(4, keep(0, &[0, keep(20, &[name, 1]), 1, 0]), 1);
        }
        _ => (),
    }
    answer()
}

#[unsafe(export_name = "anabranch:plugin/transform@0.1.0#process")]
extern "C" fn process(batch: u32) -> u32 {
    // A batch begins with its topic (8 bytes) and its partitions (12); then come the offsets.
    let word = |at: u32| unsafe { ((batch + at) as *const u32).read() };
    let (offsets, count) = (word(20), word(24) as usize);
    let offset = |row: usize| unsafe { ((offsets as usize + row * 8) as *const i64).read() };
    let caught = (0..count).any(|row| offset(row) == 3);
    LYING.store(u32::from(caught), Ordering::Relaxed);
    for at in (0..256).step_by(4) {
        put(at, 0);
    }
    let all: Vec<u32> = (0..count as u32).collect();
    list(INPUTS, all.as_ptr() as u32, count);
    std::mem::forget(all);
    if caught {
        tell_a_lie(count);
    }
    answer()
}

fn tell_a_lie(count: usize) {
    let text = keep(900, &[u32::MAX; 16]);
    let one_end = vec![1; count];
    match lie() {
        "too few destinations" => column(DESTINATIONS, &one_end[1..], text, 4),
        "too many destinations" => column(DESTINATIONS, &[one_end, vec![1]].concat(), text, 4),
        "ends beyond their data" => column(DESTINATIONS, &vec![1000; count], text, 4),
        "ends that descend" => {
            list(INPUTS, keep(0, &[0, 0]), 2);
            column(VALUES, &[4, 1], text, 4);
        }
        "inputs beyond the batch" => list(INPUTS, keep(0, &[count as u32]), 1),
        "inputs that descend" => list(INPUTS, keep(0, &[1, 0]), 2),
        "inputs beyond memory" => list(INPUTS, 0xffff_ff00, 1000),
        "inputs off their alignment" => list(INPUTS, keep(0, &[0]) + 1, 1),
        "a destination that is no UTF-8" => column(DESTINATIONS, &one_end, text, 4),
        "a choice of sinks that is not planned" => {
            put(SINKS, 1);
            list(SINKS + 4, keep(0, &vec![0x0707_0707; count]), count);
        }
        "choices of sinks for nobody" => {
            put(SINKS, 1);
            list(SINKS + 4, text, count + 1);
        }
        "a change that does not exist" => {
            put(CHANGES, 1);
            list(CHANGES + 4, text, count);
        }
        "a schema that does not exist" => {
            put(VALUE_SCHEMAS, 1);
            put(VALUE_SCHEMAS + 8, 99_999);
        }
        "an option that is neither" => put(DESTINATIONS, 9),
        "nulls that are not empty" => {
            column(VALUES, &one_end, text, 4);
            put(VALUES + 20, 1);
            list(VALUES + 24, keep(0, &[0]), 1);
        }
        "nulls beyond the outputs" => {
            column(VALUES, &vec![0; count], text, 0);
            put(VALUES + 20, 1);
            list(VALUES + 24, keep(0, &[count as u32]), 1);
        }
        "kept entries that descend" => {
            column(VALUES, &vec![0; count], text, 0);
            put(VALUES + 32, 1);
            list(VALUES + 36, keep(0, &[0, 0]), 2);
        }
        "headers that are not planned" => list(HEADERS, keep(0, &[0; 40]), 3),
        // A reject: its record, then code and message.
        "a reject beyond the batch" => list(REJECTS, keep(0, &[count as u32, 0, 0, 0, 0]), 1),
        "two rejects of one record" => {
            list(INPUTS, 0, 0);
            list(REJECTS, keep(0, &[0; 10]), 2);
        }
        "a reject beside an output" => list(REJECTS, keep(0, &[0; 5]), 1),
        "a reject that is no UTF-8" => {
            list(INPUTS, 0, 0);
            list(REJECTS, keep(0, &[0, text, 4, 0, 0]), 1);
        }
        "a gigabyte" => {
            // A thousand columns of headers (40 bytes each), all with the same first megabyte of memory for their data.
            let mut columns = vec![0u32; 10 * 1000];
            columns.chunks_mut(10).for_each(|column| column[3] = 1 << 20);
            list(HEADERS, keep(2000, &columns), 1000);
        }
        "log: beyond memory" => unsafe { log(4, 0xffff_0000, 0x1_0000) },
        "log: no UTF-8" => unsafe { log(4, text, 4) },
        "log: a level that does not exist" => unsafe { log(77, text, 0) },
        _ => (),
    }
}

#[unsafe(export_name = "cabi_post_anabranch:plugin/transform@0.1.0#process")]
extern "C" fn end(_: u32) {
    if lie() == "an endless end of the call" && LYING.load(Ordering::Relaxed) == 1 {
        let mut turns = 0u64;
        loop {
            turns = std::hint::black_box(turns + 1);
        }
    }
}

/// Memory for what the host hands over; it is never given back, which is why tests make few calls.
#[unsafe(no_mangle)]
extern "C" fn cabi_realloc(_: u32, _: u32, alignment: u32, length: u32) -> u32 {
    if lie() == "memory for arguments where there is none" {
        return 0xffff_0000;
    }
    let memory = Vec::<u64>::with_capacity(length.div_ceil(8) as usize + 1).leak();
    (memory.as_ptr() as u32).next_multiple_of(alignment)
}
