//! `destination-pattern`: gives each record a destination, from a pattern with its topic, key, fields and headers.
//!
//! Configuration: `pattern = "shop/${topic}/${value.customer.country:-unknown}/${key}"`, and if wanted `missing`, `escape`,
//! `length_max` or `compatible_with`.
//!
//! Tokens: `${topic}`, `${partition}`, `${offset}`, `${timestamp}` (milliseconds since 1970), `${key}`, `${key.FIELD}`, `${value}`,
//! `${value.FIELD.PATH}`, `${key.version}` and `${value.version}` (of the schema in the registry), `${header.NAME}`. A name in
//! backquotes is always a field and may have any characters, so a field called version is `` ${key.`version`} ``. The text `${` is
//! written `$${`. A token that does not exist is a mistake in the configuration, not text.
//!
//! `${key}` and `${value}` are the whole as one value: the text of a string or raw key, a number, a boolean, a date. A key of several
//! values has no such text; its fields have.
//!
//! Missing: null, not there, empty, of several values or bytes are all the same: the token's own default (`${key:-none}`) stands
//! there; without one `missing` decides: `"reject"` (the default; a dead letter), `"leave"` (the token stays as it is written) or
//! `{ default = "TEXT" }`. Only a default makes an empty text: `${header.suffix:-}`.
//!
//! Escaping: with `escape = "percent"` (the default) `/`, `%` and control characters of a record's text are percent-encoded, and so
//! are the dots of `.` and `..`: no record adds a level, and different texts stay different. `"underscore"` turns all but ASCII
//! letters, digits, `-`, `.` and `_` into `_`; `"keep"` writes the text as it is. `${value.path:levels}` lets the slashes of this one
//! text make levels. A pattern is expanded in one pass: text of a record is never read as a token.
//!
//! A record whose destination is longer than `length_max` bytes (2048) or has an empty level becomes a dead letter. Codes:
//! `missing-value`, `empty-level`, `too-long`, `key-of-bytes`.
//!
//! `compatible_with = "diffusion-connector"` reads the pattern by the rules of Diffusion's connector for Kafka: `${topic}`, `${key}`,
//! `${key.version}` and `${value.version}`, all other text as it is; without a key only `${topic}` is replaced; nothing is escaped.

mod connector;
mod escape;
mod expansion;
mod key_text;
mod pattern;
mod refusal;
mod versions;

use anabranch_guest::{Batch, Context, Failure, Outputs, Plan, Problem, Transform};

use connector::Connector;
use escape::Escape;
use expansion::{Expansion, Missing, Rules};

/// The host takes no longer destination.
const LENGTH_MAX: usize = 4096;

/// The plugin.
pub struct DestinationPattern {
    rules: Pattern,
    /// The destination at hand; its room is used again.
    destination: String,
}

enum Pattern {
    Own(Expansion),
    Connector(Connector),
}

/// Its configuration.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The pattern.
    pattern: String,
    /// What to do with a token that the record has nothing for.
    missing: Option<Missing>,
    /// How text of a record is written.
    escape: Option<Escape>,
    /// Longest destination, in bytes.
    length_max: Option<usize>,
    /// Whose rules hold instead of these.
    compatible_with: Option<CompatibleWith>,
}

/// Whose rules hold.
#[derive(Clone, Copy, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum CompatibleWith {
    DiffusionConnector,
}

impl Transform for DestinationPattern {
    type Config = Config;

    fn plan(config: Config, _: &Context, plan: &mut Plan) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let length_max = config.length_max.unwrap_or(2048);
        if !(1..=LENGTH_MAX).contains(&length_max) {
            problems.push(Problem::at(&["length_max"], format!("{length_max} bytes: it has to be from 1 to {LENGTH_MAX}")));
        }
        if config.pattern.is_empty() {
            problems.push(Problem::at(&["pattern"], "it is empty: write such as \"${topic}/${key}\""));
        }
        if config.pattern.len() > pattern::PATTERN_LEN_MAX {
            let message = format!("it has {} bytes, at most {}", config.pattern.len(), pattern::PATTERN_LEN_MAX);
            problems.push(Problem::at(&["pattern"], message));
        }
        let rules = match config.compatible_with {
            Some(CompatibleWith::DiffusionConnector) => {
                for (key, is_there) in [("missing", config.missing.is_some()), ("escape", config.escape.is_some())] {
                    if is_there {
                        problems.push(Problem::at(&[key], "the rules of diffusion-connector leave no choice here: leave it out"));
                    }
                }
                Pattern::Connector(Connector::new(&config.pattern, length_max, plan))
            }
            None => {
                let rules = Rules { missing: config.missing.unwrap_or_default(), escape: config.escape.unwrap_or_default(), length_max };
                let pieces = pattern::parse(&config.pattern).unwrap_or_else(|mistakes| {
                    problems.extend(mistakes.into_iter().map(|mistake| Problem::at(&["pattern"], mistake.message).within(mistake.at)));
                    Vec::new()
                });
                problems.extend(empty_levels(&config.pattern, &pieces));
                Pattern::Own(Expansion::new(&config.pattern, pieces, rules, plan))
            }
        };
        if problems.is_empty() { Ok(DestinationPattern { rules, destination: String::new() }) } else { Err(problems) }
    }

    fn process(&mut self, batch: &Batch, out: &mut Outputs) -> Result<(), Failure> {
        for row in 0..batch.len() {
            self.destination.clear();
            let written = match &mut self.rules {
                Pattern::Own(expansion) => expansion.write(batch, row, &mut self.destination),
                Pattern::Connector(connector) => connector.write(batch, row, &mut self.destination),
            };
            match written {
                Ok(()) => drop(out.keep(row).destination(&self.destination)),
                Err(refusal) => out.reject(row, refusal.code(), &refusal.to_string()),
            }
        }
        Ok(())
    }
}

/// Levels that are empty whatever a record holds. What tokens have between their braces is none of the pattern's levels.
fn empty_levels(pattern: &str, pieces: &[pattern::Piece]) -> Vec<Problem> {
    let message = "an empty level is taken by no sink: leave the slash out";
    let mut at = Vec::new();
    if pattern.starts_with('/') {
        at.push(0..1);
    }
    at.extend(pattern.match_indices("//").map(|(at, _)| at..at + 2));
    if pattern.len() > 1 && pattern.ends_with('/') {
        at.push(pattern.len() - 1..pattern.len());
    }
    let in_a_token = |at: &std::ops::Range<usize>| {
        pieces.iter().any(|piece| matches!(piece, pattern::Piece::Token(token) if token.at.contains(&at.start)))
    };
    at.retain(|at| !in_a_token(at));
    at.into_iter().map(|at| Problem::at(&["pattern"], message).within(at)).collect()
}

anabranch_guest::export!(DestinationPattern);

#[cfg(test)]
mod tests;
