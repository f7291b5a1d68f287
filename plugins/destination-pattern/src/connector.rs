//! The rules of Diffusion's connector for Kafka (version 1.0): a pattern that was written for it gives the same paths.
//!
//! Invariant: four tokens exist and all else is text; nothing is escaped. One pass: unlike there, text of a key is never read as a
//! token.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anabranch_guest::{Batch, Encoding, Part, Plan, SchemaInfo, TextField};
use serde_json::Value as Json;

use crate::key_text;
use crate::refusal::Refusal;
use crate::versions::Versions;

/// A pattern as the connector reads it.
#[derive(Debug)]
pub struct Connector {
    pieces: Vec<Piece>,
    /// Planned where a token asks for it: without a key, tokens but `${topic}` stay as they are.
    key: Option<TextField>,
    length_max: usize,
    versions: Versions,
    /// Schemas of keys that are no single value.
    schemas: BTreeMap<u32, Option<Json>>,
}

#[derive(Debug)]
enum Piece {
    Text(String),
    Token(Token),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Topic,
    Key,
    KeyVersion,
    ValueVersion,
}

impl Token {
    const ALL: [Token; 4] = [Token::Topic, Token::Key, Token::KeyVersion, Token::ValueVersion];

    fn written(self) -> &'static str {
        match self {
            Token::Topic => "${topic}",
            Token::Key => "${key}",
            Token::KeyVersion => "${key.version}",
            Token::ValueVersion => "${value.version}",
        }
    }
}

fn pieces(pattern: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut text = 0;
    for (at, _) in pattern.match_indices("${") {
        let Some(token) = Token::ALL.into_iter().find(|token| pattern[at..].starts_with(token.written())) else { continue };
        pieces.push(Piece::Text(pattern[text..at].to_owned()));
        pieces.push(Piece::Token(token));
        text = at + token.written().len();
    }
    pieces.push(Piece::Text(pattern[text..].to_owned()));
    pieces
}

impl Connector {
    /// Plans the tokens of a pattern.
    pub fn new(pattern: &str, length_max: usize, plan: &mut Plan) -> Self {
        let pieces = pieces(pattern);
        let has = |wanted: Token| pieces.iter().any(|piece| matches!(piece, Piece::Token(token) if *token == wanted));
        let key = Token::ALL[1..].iter().any(|token| has(*token)).then(|| plan.lenient_text(Part::Key, Vec::new()));
        if has(Token::Key) {
            // For keys that are no single value.
            plan.keys(Encoding::Json);
        }
        if has(Token::KeyVersion) || has(Token::ValueVersion) {
            plan.versions();
        }
        Connector { pieces, key, length_max, versions: Versions::new(version), schemas: BTreeMap::new() }
    }

    /// Appends a record's destination.
    ///
    /// # Errors
    /// Why the record has none; what `out` holds then means nothing.
    pub fn write(&mut self, batch: &Batch, row: usize, out: &mut String) -> Result<(), Refusal<'static>> {
        let key = self.key.map(|key| batch.texts(key));
        let has_key = key.is_some_and(|key| key.get(row).is_some() || key.is_missing(row));
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Token(Token::Topic) => out.push_str(batch.topic()),
                Piece::Token(token) if !has_key => out.push_str(token.written()),
                Piece::Token(Token::Key) => match key.and_then(|key| key.get(row)) {
                    Some(text) => out.push_str(text),
                    None => {
                        let handle = batch.key_schema(row);
                        let schema = self.schemas.entry(handle).or_insert_with(|| definition(handle));
                        let written = batch.key(row).and_then(|json| key_text::write(json, schema.as_ref(), out));
                        written.ok_or(Refusal::KeyOfBytes)?;
                    }
                },
                Piece::Token(token) => {
                    let handle = if *token == Token::KeyVersion { batch.key_schema(row) } else { batch.value_schema(row) };
                    // Writing into a String cannot fail.
                    let _ = match self.versions.of(handle) {
                        Some(version) => write!(out, "{version}"),
                        None => out.write_str(token.written()),
                    };
                }
            }
            if out.len() > self.length_max {
                return Err(Refusal::TooLong(self.length_max));
            }
        }
        Ok(())
    }
}

fn definition(handle: u32) -> Option<Json> {
    serde_json::from_str(&anabranch_guest::schema(handle)?.definition).ok()
}

/// A version that the schema itself names counts before that of the registry, as in Kafka Connect.
fn version(schema: &SchemaInfo) -> Option<u32> {
    let named = || {
        let definition: Json = serde_json::from_str(&schema.definition).ok()?;
        u32::try_from(definition.get("connect.version")?.as_u64()?).ok()
    };
    named().or(schema.version)
}
