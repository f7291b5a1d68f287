//! What was measured, as a table and as JSON.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

/// The middle of several figures, with the lowest and the highest.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

impl Spread {
    /// Of at least one figure.
    pub fn of(mut figures: Vec<f64>) -> Spread {
        figures.sort_by(f64::total_cmp);
        Spread { median: figures[figures.len() / 2], low: figures[0], high: figures[figures.len() - 1] }
    }
}

/// One row.
#[derive(Debug, Clone)]
pub struct Row {
    /// Rows of one group stand beside each other.
    pub group: String,
    /// What ran.
    pub name: String,
    /// Records a second, from the first record to the last that was settled.
    pub rate: Spread,
    /// Megabytes of keys and values a second.
    pub megabytes: f64,
    /// CPU time of the process for a record, nanoseconds.
    pub cpu: Spread,
    /// Largest resident set, megabytes.
    pub memory: Spread,
    /// Name of the row that it stands beside.
    pub beside: Option<String>,
    /// CPU time as a multiple of that row's, run by run.
    pub cpu_ratio: Option<Spread>,
    /// Rate as a multiple of that row's, run by run.
    pub rate_ratio: Option<Spread>,
    /// From the start of the process to its first record, milliseconds.
    pub first: Option<Spread>,
}

/// The table for people.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut group = "";
    for row in rows {
        if row.group != group {
            group = &row.group;
            let heads = ["records/s", "MB/s", "ns CPU/record", "low-high", "peak MB", "x CPU", "x rate", "first ms"];
            let [rate, megabytes, cpu, spread, memory, cpu_ratio, rate_ratio, first] = heads;
            writeln!(
                text,
                "\n{group:<44} {rate:>11} {megabytes:>7} {cpu:>14} {spread:>13} {memory:>8} {cpu_ratio:>7} {rate_ratio:>7} {first:>9}"
            )
            .expect("writing into a String");
        }
        let ratio = |ratio: Option<Spread>| ratio.map_or_else(String::new, |ratio| format!("{:.2}", ratio.median));
        let first = row.first.map_or_else(String::new, |first| format!("{:.0}", first.median));
        writeln!(
            text,
            "  {:<42} {:>11.0} {:>7.0} {:>14.0} {:>13} {:>8.0} {:>7} {:>7} {first:>9}",
            row.name,
            row.rate.median,
            row.megabytes,
            row.cpu.median,
            format!("{:.0}-{:.0}", row.cpu.low, row.cpu.high),
            row.memory.median,
            ratio(row.cpu_ratio),
            ratio(row.rate_ratio),
        )
        .expect("writing into a String");
    }
    text.push_str("\nx CPU, x rate: beside the first row of the group, or the one named in the JSON, run by run; medians\n");
    text
}

/// One JSON object a line.
pub fn write(path: &Path, rows: &[Row]) {
    let mut file = File::create(path).unwrap();
    for row in rows {
        let spread = |spread: Spread| serde_json::json!({ "median": spread.median, "low": spread.low, "high": spread.high });
        let line = serde_json::json!({
            "group": row.group, "name": row.name, "records_per_second": spread(row.rate), "megabytes_per_second": row.megabytes,
            "cpu_ns_per_record": spread(row.cpu), "peak_memory_mb": spread(row.memory), "beside": row.beside,
            "cpu_ratio": row.cpu_ratio.map(spread), "rate_ratio": row.rate_ratio.map(spread), "first_record_ms": row.first.map(spread),
        });
        writeln!(file, "{line}").unwrap();
    }
}
