//! What the demo did, and whether it adds up.
//!
//! Invariant: the numbers come from different places (the producer, the router, the table's files, the receiver), and a run is good
//! only if all of them agree.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::display::grouped;
use super::table::Contents;

/// What happened.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Orders that the producer made.
    pub made: u64,
    /// Of them those that nobody can read.
    pub poisons: u64,
    /// Records that the route read and settled.
    pub read: u64,
    /// Of them those that the plugins left out.
    pub filtered: u64,
    /// Of them those of which only dead letters are left.
    pub dead_lettered: u64,
    /// Dead letters in their file.
    pub dead_letters: u64,
    /// Outputs that the sinks made durable, by sink.
    pub delivered: BTreeMap<&'static str, u64>,
    /// What the table holds.
    pub table: Contents,
    /// Records that came to the HTTP receiver.
    pub received: u64,
    /// Updates that the Diffusion server made.
    pub updates: u64,
    /// From the first record to the end.
    pub took: Duration,
    /// Where everything is.
    pub folder: PathBuf,
    /// Why the route stopped before its work was done.
    pub stopped: Option<String>,
}

/// Name of the sink that writes the table.
pub const LAKE: &str = "lake";
/// Name of the sink that posts to the receiver.
pub const HTTP: &str = "http";
/// Name of the sink that sets the topics.
pub const LIVE: &str = "live";

#[derive(Serialize)]
struct Line<'a> {
    read: u64,
    filtered: u64,
    dead_letters: u64,
    delivered: &'a BTreeMap<&'static str, u64>,
    table_rows: u64,
    received: u64,
    updates: u64,
    seconds: f64,
    dir: &'a std::path::Path,
    problems: Vec<String>,
}

impl Summary {
    /// What does not add up, in words; nothing: all is well.
    pub fn problems(&self) -> Vec<String> {
        let delivered = |sink| self.delivered.get(sink).copied().unwrap_or_default();
        let accounted = self.filtered + self.dead_lettered;
        let pairs = [
            ("records read", self.read, "orders made", self.made),
            ("dead letters", self.dead_letters, "orders that nobody can read", self.poisons),
            ("records that are dead letters only", self.dead_lettered, "dead letters", self.dead_letters),
            ("outputs to the table", delivered(LAKE), "records read less those filtered and dead", self.read.saturating_sub(accounted)),
            ("outputs to the receiver", delivered(HTTP), "outputs to the table", delivered(LAKE)),
            ("outputs to Diffusion", delivered(LIVE), "outputs to the table", delivered(LAKE)),
            ("updates at the Diffusion server", self.updates, "outputs to Diffusion", delivered(LIVE)),
            ("rows in the table", self.table.rows, "outputs to the table", delivered(LAKE)),
            ("records at the receiver", self.received, "outputs to the receiver", delivered(HTTP)),
        ];
        let differ = pairs.iter().filter(|(_, one, _, other)| one != other);
        let mut problems: Vec<String> = self.stopped.iter().map(|reason| format!("the route stopped: {reason}")).collect();
        problems
            .extend(differ.map(|(name, one, other_name, other)| format!("{} {name}, but {} {other_name}", grouped(*one), grouped(*other))));
        problems
    }

    /// One line of JSON for programs.
    pub fn json(&self) -> String {
        let line = Line {
            read: self.read,
            filtered: self.filtered,
            dead_letters: self.dead_letters,
            delivered: &self.delivered,
            table_rows: self.table.rows,
            received: self.received,
            updates: self.updates,
            seconds: (self.took.as_secs_f64() * 1000.0).round() / 1000.0,
            dir: &self.folder,
            problems: self.problems(),
        };
        serde_json::to_string(&line).expect("numbers and texts are JSON")
    }

    /// Lines for people.
    pub fn text(&self) -> String {
        let delivered = |sink| self.delivered.get(sink).copied().unwrap_or_default();
        let table = self.folder.join(super::TABLE);
        let table = table.display();
        let seconds = self.took.as_secs_f64();
        let rate = if seconds > 0.0 { (self.read as f64 / seconds) as u64 } else { 0 };
        let mut text = format!("\nread          {:>13}  in {seconds:.1} s, {}/s\n", grouped(self.read), grouped(rate));
        let mut row = |name: &str, count: u64, note: String| text.push_str(&format!("{name:<14}{:>13}  {note}\n", grouped(count)));
        row("filtered", self.filtered, String::new());
        row("dead letters", self.dead_letters, self.folder.join(super::DEAD_LETTERS).display().to_string());
        row("to the table", delivered(LAKE), format!("{table} ({} commits, {} files)", self.table.commits, self.table.files));
        row("to HTTP", delivered(HTTP), format!("{} came to the receiver", grouped(self.received)));
        row("to Diffusion", delivered(LIVE), format!("{} updates were made", grouped(self.updates)));
        row("table rows", self.table.rows, format!("counted in its files, {} KiB", grouped(self.table.bytes / 1024)));
        let problems = self.problems();
        if problems.is_empty() {
            text.push_str("all numbers add up\n");
        }
        for problem in problems {
            text.push_str(&format!("DOES NOT ADD UP: {problem}\n"));
        }
        text.push_str(&format!(
            "\nread the table:\n  duckdb -c \"INSTALL delta; LOAD delta; SELECT country, count(*), sum(amount) FROM delta_scan('{table}') GROUP BY country\"\n  \
             python3 -c \"from deltalake import DeltaTable; print(DeltaTable('{table}').to_pandas())\"    # pip install 'deltalake[pyarrow]' pandas\n\
             the configuration that did this: {}\n",
            self.folder.join(super::CONFIG).display()
        ));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Summary {
        Summary {
            made: 100,
            poisons: 1,
            read: 100,
            filtered: 40,
            dead_lettered: 1,
            dead_letters: 1,
            delivered: BTreeMap::from([(LAKE, 59), (HTTP, 59), (LIVE, 59)]),
            table: Contents { rows: 59, ..Contents::default() },
            received: 59,
            updates: 59,
            ..Summary::default()
        }
    }

    #[test]
    fn a_run_is_good_only_if_all_numbers_agree() {
        assert_eq!(good().problems(), Vec::<String>::new());
        let spoil: [fn(&mut Summary); 11] = [
            |summary| summary.made += 1,
            |summary| summary.poisons += 1,
            |summary| summary.read -= 1,
            |summary| summary.filtered += 1,
            |summary| summary.dead_letters += 1,
            |summary| summary.table.rows -= 1,
            |summary| summary.received += 1,
            |summary| *summary.delivered.get_mut(LAKE).unwrap() -= 1,
            |summary| *summary.delivered.get_mut(LIVE).unwrap() -= 1,
            |summary| summary.updates += 1,
            |summary| summary.stopped = Some("a bad record".to_owned()),
        ];
        for (at, spoil) in spoil.iter().enumerate() {
            let mut summary = good();
            spoil(&mut summary);
            assert!(!summary.problems().is_empty(), "spoilt {at}");
        }
    }

    #[test]
    fn the_json_line_has_what_programs_look_for() {
        let line: serde_json::Value = serde_json::from_str(&good().json()).unwrap();
        assert_eq!(line["read"], 100);
        assert_eq!(line["filtered"], 40);
        assert_eq!(line["dead_letters"], 1);
        assert_eq!(line["delivered"]["lake"], 59);
        assert_eq!(line["delivered"]["http"], 59);
        assert_eq!(line["delivered"]["live"], 59);
        assert_eq!(line["updates"], 59);
        assert_eq!(line["table_rows"], 59);
        assert!(line["seconds"].is_number());
    }
}
