//! Misbehaves as its configuration says: `does`, at every record whose offset plus one is a multiple of `every`.
//!
//! All other records are kept, so a test can tell what the misbehaviour cost.
#![cfg(target_arch = "wasm32")]

use std::hint::black_box;

use anabranch_guest::{Batch, Context, Counter, Encoding, Failure, Gauge, Level, Outputs, Plan, Problem, Transform, log, now_ms};

/// The plugin.
struct Hostile {
    config: Config,
    seen: Counter,
    calls: u64,
    leaked: Vec<Vec<u8>>,
}

/// Its configuration.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// What it does.
    does: String,
    /// At which records.
    #[serde(default = "one")]
    every: i64,
    /// A destination, or a text to log.
    #[serde(default)]
    text: String,
    /// Times to repeat that text.
    #[serde(default = "once")]
    times: usize,
    #[serde(default)]
    per_partition: bool,
}

fn one() -> i64 {
    1
}

fn once() -> usize {
    1
}

impl Transform for Hostile {
    type Config = Config;

    fn plan(config: Config, _: &Context, plan: &mut Plan) -> Result<Self, Vec<Problem>> {
        match config.does.as_str() {
            "spin in init" => spin(),
            "panic in init" => panic!("init gives up"),
            "grow in init" => grow(),
            "recurse in init" => drop(black_box(recurse(1))),
            "another plan each time" => drop(plan.header(&now_ms().to_string())),
            "a header with a NUL" => drop(plan.sets_header("a\0b")),
            "escape codes in a problem" => return Err(vec![Problem::at(&["does"], "\u{1b}[2Jgone\nerror: forged")]),
            "a million metrics" => {
                for number in 0..1_000_000 {
                    Gauge::new(&format!("number_{number}"), "one of too many").set(1.0);
                }
            }
            "bad metrics" => {
                for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e308, -1.0] {
                    Counter::new("bad_counter", "never below zero").add(value);
                    Gauge::new("bad_gauge", "any finite number\n# TYPE forged counter").set(value);
                }
                Gauge::new("bad_counter", "a counter already").set(1.0);
                Gauge::new("bad name{route=\"other\"}", "a name with labels").set(1.0);
                Gauge::new(&"n".repeat(10_000), "a long name").set(1.0);
            }
            _ => (),
        }
        plan.sets_values(if config.does.contains("CBOR") { Encoding::Cbor } else { Encoding::Json });
        if config.per_partition {
            plan.per_partition();
        }
        if config.does == "tell the size of calls" {
            plan.values(Encoding::Raw);
        }
        if config.does == "read deep documents" {
            plan.document("deep");
        }
        Ok(Hostile { config, seen: Counter::new("seen", "records, counted one by one"), calls: 0, leaked: Vec::new() })
    }

    fn process(&mut self, batch: &Batch, out: &mut Outputs) -> Result<(), Failure> {
        self.calls += 1;
        if self.config.does == "leak" {
            self.leaked.push(vec![1; 4 << 20]);
        }
        for row in 0..batch.len() {
            self.seen.add(1.0);
            if (batch.offset(row) + 1) % self.config.every == 0 {
                self.misbehave(batch, row, out)?;
            } else {
                out.keep(row);
            }
        }
        Ok(())
    }
}

impl Hostile {
    fn misbehave(&mut self, batch: &Batch, row: usize, out: &mut Outputs) -> Result<(), Failure> {
        let text = self.config.text.repeat(self.config.times);
        let failure = |retry| Failure { message: "\u{1b}[31mno\nanswer".to_owned(), input: Some(row as u32), retry };
        match self.config.does.as_str() {
            "panic" => panic!("record {} is \u{1b}[31mtoo much", batch.offset(row)),
            "panic after logging" => {
                log(Level::Error, &format!("about to panic at {}", batch.offset(row)));
                panic!("as announced");
            }
            "panic on a used instance" if self.calls > 1 => panic!("only the first call works"),
            "spin" => spin(),
            "spin on host calls" => loop {
                black_box(now_ms());
                log(Level::Error, "still here");
            },
            "spin on schemas" => loop {
                black_box(anabranch_guest::schema(1));
            },
            "take 3 ms" => {
                let began = now_ms();
                while now_ms() < began + 3 {}
                out.keep(row);
            }
            "recurse" => drop(black_box(recurse(1))),
            "recurse into the host" => drop(black_box(recurse_into_the_host(1))),
            "grow" => grow(),
            "fill" => {
                let mut large = vec![1u8; 48 << 20];
                for byte in 0..20 {
                    black_box(&mut large).fill(byte);
                }
                out.keep(row);
            }
            "ten million outputs" => keep_often(out, row, 10_000_000),
            "a thousand outputs" => keep_often(out, row, 1000),
            "two outputs" => keep_often(out, row, 2),
            "a million rejects" => (0..1_000_000).for_each(|_| out.reject(row, "again", "and again")),
            "escape codes in a reject" => out.reject(row, "\u{1b}[2J", "\u{1b}]0;owned\u{7}\nforged line"),
            "nest JSON" => drop(out.keep(row).value(Some(nested(b'[', b']').as_slice()))),
            "nest CBOR" => {
                let mut deep = vec![0x81; 10_000];
                deep.push(0);
                out.keep(row).value(Some(&deep));
            }
            "NaN in CBOR" => drop(out.keep(row).value(Some(&[0xa1, 0x61, b'n', 0xf9, 0x7e, 0x00]))),
            "infinity in CBOR" => drop(out.keep(row).value(Some(&[0xa1, 0x61, b'n', 0xf9, 0x7c, 0x00]))),
            "a destination" => drop(out.keep(row).destination(&text)),
            "a value" => drop(out.keep(row).value(Some(text.as_bytes()))),
            "count calls" => drop(out.keep(row).destination(&self.calls.to_string())),
            "tell the size of calls" => {
                let bytes: usize = (0..batch.len()).filter_map(|row| batch.value(row)).map(<[u8]>::len).sum();
                out.keep(row).destination(&format!("{}/{bytes}", batch.len()));
            }
            "another answer each time" => {
                // Neither the clock nor the address of a call says anything about the record.
                if (now_ms() + self.calls).is_multiple_of(2) {
                    out.keep(row).destination(&now_ms().to_string());
                } else {
                    out.reject(row, "odd", "the clock is odd");
                }
            }
            "flood the log" => {
                for line in 0..100_000 {
                    log(Level::Warn, &format!("\u{1b}[2J\r\n{line} forged=\u{202e}line {}", "x".repeat(10)));
                }
                log(Level::Warn, &"long ".repeat(1_000_000));
                out.keep(row);
            }
            "log a line" => {
                log(Level::Warn, &text);
                out.keep(row);
            }
            "register deep schemas" => {
                let deep = |depth: usize| format!("{}\"int\"{}", "{\"type\":\"array\",\"items\":".repeat(depth), "}".repeat(depth));
                for depth in [50, 127, 1000, 100_000] {
                    drop(black_box(anabranch_guest::register_schema(&deep(depth))));
                }
                out.keep(row);
            }
            "register schemas without end" => {
                let refused = (0..1_000_000).find_map(|number| {
                    let schema = format!(r#"{{"type":"fixed","size":1,"name":"n{number}","doc":"{}"}}"#, "d".repeat(1000));
                    anabranch_guest::register_schema(&schema).err()
                });
                out.reject(row, "refused", &refused.unwrap_or_default());
            }
            "fail" => return Err(failure(false)),
            "ask again" => return Err(failure(true)),
            _ => drop(out.keep(row)),
        }
        Ok(())
    }
}

fn keep_often(out: &mut Outputs, row: usize, times: usize) {
    for _ in 0..times {
        out.keep(row);
    }
}

fn nested(open: u8, close: u8) -> Vec<u8> {
    let mut deep = vec![open; 10_000];
    deep.extend(vec![close; 10_000]);
    deep
}

fn spin() {
    let mut turns = 0u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

#[allow(unconditional_recursion, reason = "the end of the stack is the point")]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 8]);
    recurse(black_box(depth + 1)) + frame[3]
}

/// Down to the end of the stack, with work of the host at every step.
#[allow(unconditional_recursion, reason = "the end of the stack is the point")]
fn recurse_into_the_host(depth: u64) -> u64 {
    let nested = format!("{}\"int\"{}", "{\"type\":\"array\",\"items\":".repeat(60), "}".repeat(60));
    black_box(anabranch_guest::register_schema(&format!(r#"{{"type":"array","depth":{depth},"items":{nested}}}"#))).ok();
    recurse_into_the_host(black_box(depth + 1)) + depth
}

fn grow() {
    let mut all: Vec<Vec<u8>> = Vec::new();
    loop {
        all.push(black_box(vec![1; 1 << 20]));
    }
}

anabranch_guest::export!(Hostile);
