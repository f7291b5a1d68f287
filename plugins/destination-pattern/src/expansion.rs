//! A pattern over planned columns: record in, destination out.
//!
//! Invariant: one pass. What came from a record is escaped and never looked at again.

use std::fmt::Write as _;

use anabranch_guest::{Batch, Header, Part, Plan, TextField};

use crate::escape::Escape;
use crate::pattern::{self, Source};
use crate::refusal::{Absence, Refusal};
use crate::versions::Versions;

/// What to do with a token that the record has nothing for.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Missing {
    /// The record becomes a dead letter.
    #[default]
    Reject,
    /// The token stays as it is written.
    Leave,
    /// This text stands there.
    Default(String),
}

/// What holds for all tokens.
#[derive(Debug)]
pub struct Rules {
    pub missing: Missing,
    pub escape: Escape,
    /// Longest destination, in bytes.
    pub length_max: usize,
}

/// A pattern whose tokens are columns.
#[derive(Debug)]
pub struct Expansion {
    pieces: Vec<Piece>,
    rules: Rules,
    /// Whether a record can make a level empty.
    checks_levels: bool,
    versions: Versions,
}

#[derive(Debug)]
enum Piece {
    Text(String),
    Token(Token),
}

#[derive(Debug)]
struct Token {
    read: Read,
    written: String,
    levels: bool,
    missing: Missing,
}

#[derive(Debug, Clone, Copy)]
enum Read {
    Topic,
    Partition,
    Offset,
    Timestamp,
    Version(Part),
    Header(Header),
    Field(TextField),
    Whole(Part, TextField),
}

impl Expansion {
    /// Plans the tokens of `pieces`, which were read from `pattern`.
    pub fn new(pattern: &str, pieces: Vec<pattern::Piece>, rules: Rules, plan: &mut Plan) -> Self {
        let pieces: Vec<Piece> = pieces
            .into_iter()
            .map(|piece| match piece {
                pattern::Piece::Text(text) => Piece::Text(text),
                pattern::Piece::Token(token) => {
                    let missing = token.default.map_or_else(|| rules.missing.clone(), Missing::Default);
                    let written = pattern[token.at].to_owned();
                    Piece::Token(Token { read: Read::plan(token.source, plan), written, levels: token.levels, missing })
                }
            })
            .collect();
        let checks_levels = rules.escape == Escape::Keep || pieces.iter().any(Piece::can_empty_a_level);
        Expansion { pieces, rules, checks_levels, versions: Versions::new(|schema| schema.version) }
    }

    /// Appends a record's destination.
    ///
    /// # Errors
    /// Why the record has none; what `out` holds then means nothing.
    pub fn write(&mut self, batch: &Batch, row: usize, out: &mut String) -> Result<(), Refusal<'_>> {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Token(token) => token.write(batch, row, &self.rules, &mut self.versions, out)?,
            }
            if out.len() > self.rules.length_max {
                return Err(Refusal::TooLong(self.rules.length_max));
            }
        }
        if self.checks_levels && has_empty_level(out) {
            return Err(Refusal::EmptyLevel);
        }
        Ok(())
    }
}

/// Whether a slash stands at an end or next to another, or there is nothing at all.
pub fn has_empty_level(destination: &str) -> bool {
    destination.split('/').any(str::is_empty)
}

impl Piece {
    fn can_empty_a_level(&self) -> bool {
        let Piece::Token(token) = self else { return false };
        let default_can = matches!(&token.missing, Missing::Default(text) if text.is_empty() || text.contains('/'));
        token.levels || default_can
    }
}

impl Read {
    fn plan(source: Source, plan: &mut Plan) -> Self {
        match source {
            Source::Topic => Read::Topic,
            Source::Partition => Read::Partition,
            Source::Offset => Read::Offset,
            Source::Timestamp => Read::Timestamp,
            Source::Version(part) => {
                plan.versions();
                Read::Version(part)
            }
            Source::Header(name) => Read::Header(plan.header(&name)),
            Source::Field(part, path) if path.is_empty() => Read::Whole(part, plan.lenient_text(part, path)),
            Source::Field(part, path) => Read::Field(plan.lenient_text(part, path)),
        }
    }
}

impl Token {
    fn write(&self, batch: &Batch, row: usize, rules: &Rules, versions: &mut Versions, out: &mut String) -> Result<(), Refusal<'_>> {
        match self.find(batch, row, versions) {
            // No sink takes an empty level, so an empty text is as good as none.
            Ok(Found::Text("")) => self.without(Absence::Empty, out),
            // Escaping makes at most one byte of four.
            Ok(Found::Text(text)) if text.len() / 4 > rules.length_max => Err(Refusal::TooLong(rules.length_max)),
            Ok(Found::Text(text)) => {
                rules.escape.push(text, self.levels, out);
                Ok(())
            }
            Ok(Found::Number(number)) => {
                // Writing into a String cannot fail.
                let _ = write!(out, "{number}");
                Ok(())
            }
            Err(absence) => self.without(absence, out),
        }
    }

    fn find<'b>(&self, batch: &'b Batch, row: usize, versions: &mut Versions) -> Result<Found<'b>, Absence> {
        match self.read {
            Read::Topic => Ok(Found::Text(batch.topic())),
            Read::Partition => Ok(Found::Number(batch.partition(row).into())),
            Read::Offset => Ok(Found::Number(batch.offset(row))),
            Read::Timestamp => match batch.timestamp(row) {
                -1 => Err(Absence::NoTimestamp),
                millis => Ok(Found::Number(millis)),
            },
            Read::Version(part) => {
                let handle = if part == Part::Key { batch.key_schema(row) } else { batch.value_schema(row) };
                versions.of(handle).map(|version| Found::Number(version.into())).ok_or(Absence::NoVersion)
            }
            Read::Header(header) => {
                let bytes = batch.header(header, row).ok_or(Absence::NoHeader)?;
                std::str::from_utf8(bytes).map(Found::Text).map_err(|_| Absence::NotText)
            }
            Read::Field(field) => {
                let column = batch.texts(field);
                let absence = || if column.is_missing(row) { Absence::NoSingleField } else { Absence::Null };
                column.get(row).map(Found::Text).ok_or_else(absence)
            }
            Read::Whole(part, field) => {
                let column = batch.texts(field);
                let absence = || match part {
                    _ if column.is_missing(row) => Absence::NoSingleWhole,
                    Part::Key => Absence::NoKey,
                    _ => Absence::Tombstone,
                };
                column.get(row).map(Found::Text).ok_or_else(absence)
            }
        }
    }

    fn without(&self, absence: Absence, out: &mut String) -> Result<(), Refusal<'_>> {
        match &self.missing {
            Missing::Reject => return Err(Refusal::Missing(&self.written, absence)),
            Missing::Leave => out.push_str(&self.written),
            Missing::Default(text) => out.push_str(text),
        }
        Ok(())
    }
}

enum Found<'b> {
    Text(&'b str),
    Number(i64),
}
