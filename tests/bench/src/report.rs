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
    /// Milliseconds that 50, 99 and 99.9 of 100 records were late at most.
    pub late: Option<[Spread; 3]>,
}

/// The table for people.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut group = "";
    let heads = ["records/s", "MB/s", "ns CPU/record", "low-high", "peak MB", "x CPU", "x rate", "first ms", "p50/p99/p99.9 ms"];
    for row in rows {
        if row.group != group {
            group = &row.group;
            line(&mut text, &format!("\n{group}"), 45, heads.map(str::to_owned));
        }
        // A figure that was not measured is 0, and no figure.
        let some = |figure: f64| if figure > 0.0 { format!("{figure:.0}") } else { String::new() };
        let ratio = |ratio: Option<Spread>| ratio.filter(|ratio| ratio.median.is_normal()).map(|ratio| format!("{:.2}", ratio.median));
        let late = row.late.map(|late| late.map(|late| format!("{:.1}", late.median)).join("/"));
        let figures = [
            some(row.rate.median),
            some(row.megabytes),
            some(row.cpu.median),
            if row.cpu.high > 0.0 { format!("{:.0}-{:.0}", row.cpu.low, row.cpu.high) } else { String::new() },
            some(row.memory.median),
            ratio(row.cpu_ratio).unwrap_or_default(),
            ratio(row.rate_ratio).unwrap_or_default(),
            row.first.map(|first| format!("{:.0}", first.median)).unwrap_or_default(),
            late.unwrap_or_default(),
        ];
        line(&mut text, &format!("  {}", row.name), 44, figures);
    }
    text.push_str("\nx CPU, x rate: beside the first row of the group, run by run; medians\n");
    text
}

fn line(text: &mut String, name: &str, width: usize, figures: [String; 9]) {
    let widths = [11, 7, 14, 13, 8, 7, 7, 9, 18];
    write!(text, "{name:<width$}").expect("writing into a String");
    for (figure, width) in figures.iter().zip(widths) {
        write!(text, " {figure:>width$}").expect("writing into a String");
    }
    text.push('\n');
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
            "late_ms_p50_p99_p999": row.late.map(|late| late.map(spread)),
        });
        writeln!(file, "{line}").unwrap();
    }
}
