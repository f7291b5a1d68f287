//! A record's report for people: a line per thing, what belongs together below each other, long values cut with their length said.
//!
//! Invariant: nothing of a record reaches the terminal as a control character.

use std::fmt::Write as _;

use super::report::{Body, Changes, Content, DeadLetter, Delivery, Header, Outcome, Reason, Report, SchemaName, Shown, Verdict};
use crate::config::Action;

/// So much of a value is shown unless all of it is asked for.
const SHOWN_MAX: usize = 300;
/// Of bytes that are no text.
const SHOWN_BYTES_MAX: usize = 32;
/// Longer names do not push the rest to the right.
const LABEL_MAX: usize = 24;
const INDENT: &str = "  ";

/// How reports are shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style {
    /// Whether colours are used.
    pub colours: bool,
    /// Whether long values are shown whole.
    pub full: bool,
    label: usize,
}

/// Colours by meaning (ECMA-48, "SGR").
#[derive(Clone, Copy)]
enum Colour {
    Head = 1,
    Quiet = 2,
    Bad = 31,
    Good = 32,
    Out = 33,
}

impl Style {
    /// Labels as wide as the longest of `names`.
    pub fn new<'a>(names: impl Iterator<Item = &'a str>, colours: bool, full: bool) -> Self {
        let longest = names.map(|name| name.chars().count() + ARROW.len()).max().unwrap_or_default();
        Style { colours, full, label: longest.clamp("headers".len(), LABEL_MAX) }
    }

    /// The report as text, an empty line behind it.
    pub fn text(&self, report: &Report) -> String {
        let mut page = Page { style: self, text: String::new() };
        page.report(report);
        page.text.push('\n');
        page.text
    }

    fn paint(&self, colour: Colour, text: &str) -> String {
        if self.colours { format!("\u{1b}[{}m{text}\u{1b}[0m", colour as u8) } else { text.to_owned() }
    }

    fn cut(&self, text: &str) -> String {
        let text = printable(text);
        match text.char_indices().nth(SHOWN_MAX) {
            Some((end, _)) if !self.full => format!("{}… ({} characters)", &text[..end], text.chars().count()),
            _ => text,
        }
    }

    fn body(&self, body: &Body) -> String {
        match body {
            Body::Json(json) => self.cut(json.get()),
            Body::Text(text) => self.cut(text),
            Body::Base64(bytes) => {
                let shown = if self.full { bytes.len() } else { bytes.len().min(SHOWN_BYTES_MAX) };
                let mut text = "0x".to_owned();
                for byte in &bytes[..shown] {
                    // Writing into a String cannot fail.
                    let _ = write!(text, "{byte:02x}");
                }
                if shown < bytes.len() { format!("{text}… ({} bytes)", bytes.len()) } else { text }
            }
        }
    }
}

const ARROW: &str = "-> ";

/// Lines of one report.
struct Page<'a> {
    style: &'a Style,
    text: String,
}

impl Page<'_> {
    fn report(&mut self, report: &Report) {
        let time = report.timestamp.and_then(chrono::DateTime::from_timestamp_millis);
        let time = time.map_or_else(String::new, |time| time.format("  %Y-%m-%d %H:%M:%S%.3fZ").to_string());
        let head = format!("{}/{} offset {}", report.topic, report.partition, report.offset);
        let outcome = match report.outcome {
            Outcome::Delivered => self.style.paint(Colour::Good, "delivered"),
            Outcome::Filtered => self.style.paint(Colour::Out, "filtered"),
            Outcome::DeadLetter => self.style.paint(Colour::Bad, "dead letter"),
            Outcome::Dropped => self.style.paint(Colour::Bad, "dropped"),
            Outcome::Stops => self.style.paint(Colour::Bad, "stops the route"),
        };
        let _ = writeln!(self.text, "{}{time}  {outcome}", self.style.paint(Colour::Head, &printable(&head)));
        self.content("key", report.key.as_ref(), "none");
        self.content("value", report.value.as_ref(), "none: a tombstone");
        self.headers("headers", &report.headers);
        for decision in &report.plugins {
            self.verdict(&decision.plugin, &decision.verdict);
        }
        for delivery in &report.sinks {
            self.delivery(delivery);
        }
        for letter in &report.dead_letters {
            self.dead_letter(letter);
        }
        if let Some(reason) = &report.stops {
            let reason = self.style.paint(Colour::Bad, &printable(reason));
            self.line("stops", &reason);
        }
    }

    /// A line with a label; `text` is safe to show.
    fn line(&mut self, label: &str, text: &str) {
        let label = printable(label);
        let width = self.style.label;
        let padding = " ".repeat(width.saturating_sub(label.chars().count()));
        let label = self.style.paint(Colour::Quiet, &label);
        let _ = writeln!(self.text, "{INDENT}{label}{padding}  {text}");
    }

    fn below(&mut self, text: &str) {
        let _ = writeln!(self.text, "{INDENT}{}  {text}", " ".repeat(self.style.label));
    }

    fn content(&mut self, label: &str, content: Option<&Content>, without: &str) {
        let Some(content) = content else { return self.line(label, without) };
        let text = self.style.body(&content.body);
        self.line(label, if content.bytes == 0 { "(empty)" } else { &text });
        if let Some(error) = &content.error {
            let error = self.style.paint(Colour::Bad, &printable(error));
            self.below(&error);
        }
        if content.format != "raw" || content.schema.is_some() {
            let what = format!("{}{}, {} bytes", content.format, schema_text(content.schema.as_ref()), content.bytes);
            let what = self.style.paint(Colour::Quiet, &printable(&what));
            self.below(&what);
        }
    }

    fn headers(&mut self, label: &str, headers: &[Header]) {
        for (index, header) in headers.iter().enumerate() {
            let value = header.value.as_ref().map_or_else(|| "null".to_owned(), |value| self.style.body(value));
            let text = format!("{}: {value}", printable(&header.name));
            if index == 0 && !label.is_empty() { self.line(label, &text) } else { self.below(&text) }
        }
    }

    fn verdict(&mut self, plugin: &str, verdict: &Verdict) {
        let bad = |text: &str| self.style.paint(Colour::Bad, &printable(text));
        let text = match verdict {
            Verdict::Filtered(()) => self.style.paint(Colour::Out, "filtered: it goes nowhere"),
            Verdict::GivenUp(reason) => bad(&reason_text(reason)),
            Verdict::Retry(reason) => bad(&format!("wants it again later: {reason}")),
            Verdict::Stop(reason) => bad(&format!("stops the route: {reason}")),
            Verdict::Outputs(outputs) => {
                let many = outputs.len() > 1;
                for (index, changes) in outputs.iter().enumerate() {
                    let number = if many { format!("output {} of {}: ", index + 1, outputs.len()) } else { String::new() };
                    let text = format!("{number}{}", if changes.is_empty() { "passes it on" } else { "sets" });
                    if index == 0 {
                        self.line(plugin, &text)
                    } else {
                        self.below(&text)
                    }
                    self.changes(changes);
                }
                return;
            }
        };
        self.line(plugin, &text);
    }

    fn changes(&mut self, changes: &Changes) {
        let Changes { destination, sinks, change, key, value, headers } = changes;
        if let Some(destination) = destination {
            let text = destination.as_ref().map_or_else(|| "the sink's default".to_owned(), |text| self.style.cut(text));
            self.below(&format!("destination {text}"));
        }
        if let Some(sinks) = sinks {
            self.below(&format!("sinks {}", if sinks.is_empty() { "none".to_owned() } else { sinks.join(", ") }));
        }
        if let Some(change) = change {
            self.below(&format!("change {change}"));
        }
        for (what, content, without) in [("key", key, "none"), ("value", value, "none: a tombstone")] {
            if let Some(content) = content {
                let text = content.as_ref().map_or_else(|| without.to_owned(), |content| self.style.body(&content.body));
                self.below(&format!("{what} {text}"));
            }
        }
        for header in headers {
            let value = header.value.as_ref().map_or_else(|| "removed".to_owned(), |value| self.style.body(value));
            self.below(&format!("header {}: {value}", printable(&header.name)));
        }
    }

    fn delivery(&mut self, delivery: &Delivery) {
        let label = format!("{ARROW}{}", delivery.sink);
        match &delivery.what {
            Shown::Request { method, url, headers, body, batched } => {
                let together = if *batched { ", together with others" } else { "" };
                let text = format!("{method} {}{together}", self.style.cut(url));
                self.line(&label, &text);
                for (name, value) in headers {
                    let text = self.style.cut(&format!("{name}: {value}"));
                    let text = self.style.paint(Colour::Quiet, &text);
                    self.below(&text);
                }
                self.below_body(body);
            }
            Shown::Record { topic, partition, key, value, headers } => {
                let partition = partition.map_or_else(String::new, |partition| format!(", partition {partition}"));
                let text = format!("record of topic {}{partition}", printable(topic));
                self.line(&label, &text);
                for (what, content, without) in [("key", key, "none"), ("value", value, "none: a tombstone")] {
                    let text = content.as_ref().map_or_else(
                        || without.to_owned(),
                        |content| {
                            let about = if content.format == "raw" {
                                String::new()
                            } else {
                                format!("  ({}{}, {} bytes)", content.format, schema_text(content.schema.as_ref()), content.bytes)
                            };
                            format!("{}{about}", self.style.body(&content.body))
                        },
                    );
                    self.below(&format!("{what} {text}"));
                }
                self.headers("", headers);
            }
            Shown::Row { table, is_new, partition, row, covered } => {
                let new = if *is_new { " (new)" } else { "" };
                let parts: Vec<String> = partition.iter().map(|(name, value)| format!("{name}={}", value.get())).collect();
                let parts = if parts.is_empty() { String::new() } else { format!(", partition {}", parts.join("/")) };
                let text = printable(&format!("row of table {table}{new}{parts}"));
                self.line(&label, &text);
                if *covered {
                    self.below("it is there already, says the table's ledger: it would not be written again");
                }
                self.below_body(row);
            }
            Shown::Topic { path, value: None } => self.line(&label, &printable(&format!("removal of topic {path}"))),
            Shown::Topic { path, value: Some(value) } => {
                self.line(&label, &printable(&format!("value of topic {path}")));
                self.below_body(value);
            }
            Shown::Line { path, line } => {
                let text =
                    path.as_ref().map_or_else(|| "line of the standard output".to_owned(), |path| printable(&format!("line of {path}")));
                self.line(&label, &text);
                self.below_body(line);
            }
            Shown::Forgotten(()) => self.line(&label, "counted and forgotten"),
            Shown::Skipped(why) => self.line(&label, &printable(&format!("left out: {why}"))),
            Shown::GivenUp(reason) => {
                let text = self.style.paint(Colour::Bad, &printable(&reason_text(reason)));
                self.line(&label, &text);
            }
        }
    }

    fn below_body(&mut self, body: &Body) {
        let text = self.style.body(body);
        self.below(if text.is_empty() { "(empty)" } else { &text });
    }

    fn dead_letter(&mut self, letter: &DeadLetter) {
        let then = match letter.action {
            Action::DeadLetter => "",
            Action::Drop => "; dropped by `on_error`",
            Action::Stop => "; it stops the route",
            Action::Retry => "; read again by `on_error`",
        };
        let text = format!("by {}: {}{then}", letter.reason.by, reason_text(&letter.reason));
        let text = self.style.paint(Colour::Bad, &printable(&text));
        self.line("dead letter", &text);
        if let Some(to) = &letter.to {
            self.delivery(to);
        }
    }
}

impl Changes {
    fn is_empty(&self) -> bool {
        let Changes { destination, sinks, change, key, value, headers } = self;
        destination.is_none() && sinks.is_none() && change.is_none() && key.is_none() && value.is_none() && headers.is_empty()
    }
}

fn reason_text(reason: &Reason) -> String {
    let what = match reason.class {
        "plugin-reject" => "rejected",
        class => class,
    };
    if reason.code == reason.class || reason.code.is_empty() {
        format!("{what}: {}", reason.message)
    } else {
        format!("{what} ({}): {}", reason.code, reason.message)
    }
}

fn schema_text(schema: Option<&SchemaName>) -> String {
    match schema {
        None => String::new(),
        Some(SchemaName { id: None, .. }) => ", schema made by a plugin".to_owned(),
        Some(SchemaName { id: Some(id), subject: Some(subject), version: Some(version) }) => {
            format!(", schema {id} ({subject} version {version})")
        }
        Some(SchemaName { id: Some(id), .. }) => format!(", schema {id}"),
    }
}

/// Text for a terminal: line ends, control characters and marks that turn the direction of writing are written out.
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        let turns = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if character.is_control() || turns { safe.extend(character.escape_default()) } else { safe.push(character) }
    }
    safe
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
