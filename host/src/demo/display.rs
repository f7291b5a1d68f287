//! What the demo shows while it runs: a picture that renews itself in a terminal, plain lines elsewhere.
//!
//! Invariant: it only reads counters, so showing costs the records nothing.

use std::io::{self, Write};
use std::time::Duration;

/// The counters at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Since the start.
    pub elapsed: Duration,
    /// Orders made.
    pub made: u64,
    /// Records read from Kafka.
    pub read: u64,
    /// Records that the plugins left out.
    pub filtered: u64,
    /// Dead letters in their file.
    pub dead_letters: u64,
    /// Rows in table commits.
    pub lake: u64,
    /// Records that the HTTP receiver confirmed.
    pub http: u64,
    /// What the HTTP receiver got, by destination.
    pub destinations: Vec<(String, u64)>,
    /// Updates that the Diffusion server confirmed.
    pub live: u64,
    /// Its topics: paths and values as text.
    pub topics: Vec<(String, String)>,
}

/// Between two pictures.
pub const PICTURE_EVERY: Duration = Duration::from_millis(250);
/// Between two plain lines.
pub const LINE_EVERY: Duration = Duration::from_secs(2);

const BAR_WIDTH: u64 = 24;
/// So much of a topic's value is shown.
const VALUE_WIDTH: usize = 80;
/// Rates are means over this time, so that they can be read.
const RATE_OVER: Duration = Duration::from_secs(2);

/// Shows counters.
pub struct Display<W> {
    out: W,
    is_terminal: bool,
    /// What the plugins of the route do, in words.
    rule: String,
    /// Lines of the last picture, to go back over.
    lines: usize,
    past: Vec<Counters>,
}

impl<W: Write> Display<W> {
    /// Shows on `out`: pictures if it is a terminal, else lines. `rule`: what the plugins do, in a few words.
    pub fn new(out: W, is_terminal: bool, rule: &str) -> Self {
        Display { out, is_terminal, rule: rule.to_owned(), lines: 0, past: Vec::new() }
    }

    /// Where it shows them.
    pub fn out(&mut self) -> &mut W {
        &mut self.out
    }

    /// How often [`Display::show`] is to be called.
    pub fn interval(&self) -> Duration {
        if self.is_terminal { PICTURE_EVERY } else { LINE_EVERY }
    }

    /// Shows the counters, over what was shown before.
    ///
    /// # Errors
    /// Where the output does not take it.
    pub fn show(&mut self, now: &Counters) -> io::Result<()> {
        let start = self.past.iter().rposition(|past| past.elapsed + RATE_OVER <= now.elapsed).unwrap_or(0);
        self.past.drain(..start);
        let before = self.past.first().cloned().unwrap_or_default();
        let text = if self.is_terminal { self.picture(&before, now) } else { line(&before, now) };
        self.past.push(now.clone());
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    fn picture(&mut self, before: &Counters, now: &Counters) -> String {
        let seconds = (now.elapsed - before.elapsed).as_secs_f64();
        let mut rows = vec![
            format!("\x1b[1manabranch demo\x1b[0m  {}  Ctrl-C ends it", clock(now.elapsed)),
            String::new(),
            row("orders made", before.made, now.made, now.made, seconds, ""),
            row("read from Kafka", before.read, now.read, now.made, seconds, ""),
            row("├ filtered", before.filtered, now.filtered, now.read, seconds, &self.rule),
            row("├ dead letters", before.dead_letters, now.dead_letters, now.read, seconds, "what nobody can read"),
            row("├ Delta table", before.lake, now.lake, now.read, seconds, "rows in table commits"),
            row("├ Diffusion", before.live, now.live, now.read, seconds, "updates of topics"),
            row("└ HTTP receiver", before.http, now.http, now.read, seconds, "confirmed"),
        ];
        let last = now.destinations.len().saturating_sub(1);
        for (at, (destination, count)) in now.destinations.iter().enumerate() {
            let earlier = before.destinations.iter().find(|(name, _)| name == destination).map_or(0, |(_, count)| *count);
            let branch = if at == last { "└" } else { "├" };
            rows.push(row(&format!("  {branch} {destination}"), earlier, *count, now.http, seconds, ""));
        }
        if !now.topics.is_empty() {
            rows.push(String::new());
            rows.extend(now.topics.iter().map(|(path, value)| format!("  {path:<16}\x1b[2m{}\x1b[0m", cut(value))));
        }
        let back = if self.lines == 0 { String::new() } else { format!("\x1b[{}A", self.lines) };
        self.lines = rows.len();
        let body: String = rows.iter().map(|row| format!("\x1b[2K{row}\n")).collect();
        // What is left of a longer picture goes too.
        format!("{back}{body}\x1b[J")
    }
}

/// The beginning of a value, on one line.
fn cut(value: &str) -> String {
    let mut text: String = value.chars().take(VALUE_WIDTH).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if value.chars().nth(VALUE_WIDTH).is_some() {
        text.push('…');
    }
    text
}

fn line(before: &Counters, now: &Counters) -> String {
    let seconds = (now.elapsed - before.elapsed).as_secs_f64();
    format!(
        "{}  read {} ({}/s)  filtered {}  dead letters {}  table {}  http {}  diffusion {}\n",
        clock(now.elapsed),
        grouped(now.read),
        grouped(rate(before.read, now.read, seconds)),
        grouped(now.filtered),
        grouped(now.dead_letters),
        grouped(now.lake),
        grouped(now.http),
        grouped(now.live),
    )
}

fn row(name: &str, before: u64, now: u64, whole: u64, seconds: f64, note: &str) -> String {
    let rate = format!("{}/s", grouped(rate(before, now, seconds)));
    let filled = (now * BAR_WIDTH).div_ceil(whole.max(1)).min(BAR_WIDTH) as usize;
    let bar = format!("{}{}", "█".repeat(filled), "·".repeat(BAR_WIDTH as usize - filled));
    format!("  {name:<16}{:>13}  {rate:>11}  \x1b[36m{bar}\x1b[0m  \x1b[2m{note}\x1b[0m", grouped(now))
}

fn rate(before: u64, now: u64, seconds: f64) -> u64 {
    if seconds <= 0.0 { 0 } else { (now.saturating_sub(before) as f64 / seconds).round() as u64 }
}

fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    format!("{:02}:{:02}", seconds / 60, seconds % 60)
}

/// A number with commas between groups of three digits.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seconds: u64, read: u64) -> Counters {
        let destinations = vec![("AT".to_owned(), read / 8), ("DE".to_owned(), read / 8)];
        Counters {
            elapsed: Duration::from_secs(seconds),
            made: read,
            read,
            filtered: read / 2,
            dead_letters: 1,
            lake: read / 4,
            http: read / 4,
            destinations,
            live: read / 4,
            topics: vec![("orders/DE".to_owned(), format!("{{\"note\":\"{}\n\"}}", "x".repeat(100)))],
        }
    }

    #[test]
    fn lines_are_plain_and_their_rates_are_of_the_last_seconds() {
        let mut out = Vec::new();
        let mut display = Display::new(&mut out, false, "");
        display.show(&after(2, 1_000)).unwrap();
        display.show(&after(4, 3_001_000)).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "00:02  read 1,000 (500/s)  filtered 500  dead letters 1  table 250  http 250  diffusion 250\n\
             00:04  read 3,001,000 (1,500,000/s)  filtered 1,500,500  dead letters 1  table 750,250  http 750,250  diffusion 750,250\n"
        );
    }

    #[test]
    fn a_picture_goes_back_over_the_one_before() {
        let mut out = Vec::new();
        let mut display = Display::new(&mut out, true, "status is not PAID");
        display.show(&after(1, 10)).unwrap();
        let first = String::from_utf8(std::mem::take(display.out)).unwrap();
        display.show(&after(2, 20)).unwrap();
        let second = String::from_utf8(out).unwrap();
        let lines = first.matches('\n').count();
        assert!(second.starts_with(&format!("\x1b[{lines}A")), "{second:?}");
        assert!(first.contains("status is not PAID"));
        let topic = first.lines().find(|line| line.contains("orders/DE")).unwrap();
        assert!(topic.contains("{\"note\":\"xxx") && topic.contains('…') && topic.chars().count() < 120, "{topic}");
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
