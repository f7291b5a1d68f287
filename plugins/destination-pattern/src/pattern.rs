//! The language of patterns: text to pieces, with the place of what is wrong.
//!
//! ```text
//! pattern = { text | "${" token "}" }        dollars before "{": each pair stands for one, the odd one opens a token
//! token   = name { "." name } [ ":levels" ] [ ":-" default ]
//! name    = characters other than . : { } $ ` and space | quoted
//! default = quoted | characters up to "}"
//! quoted  = text in backquotes, doubled within
//! ```

use std::ops::Range;

use anabranch_guest::Part;

/// Longest pattern: a message that quotes a token of it has to fit into a reject.
pub const PATTERN_LEN_MAX: usize = 2048;
/// Most names of one path; no record nests as deep in earnest.
const NAMES_MAX: usize = 32;

/// A part of a pattern.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Text of the pattern itself.
    Text(String),
    /// What a record puts there.
    Token(Token),
}

/// `${..}`.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// What it stands for.
    pub source: Source,
    /// Whether slashes of the record's text make levels.
    pub levels: bool,
    /// What stands there instead if the record has nothing.
    pub default: Option<String>,
    /// Where it is written.
    pub at: Range<usize>,
}

/// What a token stands for.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    Topic,
    Partition,
    Offset,
    Timestamp,
    /// The version of the key's or value's schema in the registry.
    Version(Part),
    Header(String),
    /// A field of the key or value; without names the whole.
    Field(Part, Vec<String>),
}

/// What is wrong, and where.
#[derive(Debug, PartialEq)]
pub struct Mistake {
    pub at: Range<usize>,
    pub message: String,
}

/// Reads a pattern.
///
/// # Errors
/// All its mistakes.
pub fn parse(pattern: &str) -> Result<Vec<Piece>, Vec<Mistake>> {
    let (mut pieces, mut mistakes, mut text) = (Vec::new(), Vec::new(), String::new());
    let mut at = 0;
    while let Some(found) = pattern[at..].find('$') {
        let first = at + found;
        text.push_str(&pattern[at..first]);
        let dollars = pattern[first..].bytes().take_while(|byte| *byte == b'$').count();
        at = first + dollars;
        if !pattern[at..].starts_with('{') {
            text.push_str(&pattern[first..at]);
            continue;
        }
        text.push_str(&pattern[first..first + dollars / 2]);
        if dollars % 2 == 0 {
            continue;
        }
        let mut reader = Reader { pattern, start: at - 1, at: at + 1 };
        match reader.token() {
            Ok(token) => {
                if !text.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                }
                pieces.push(Piece::Token(token));
                at = reader.at;
            }
            Err(mistake) => {
                // The next one is looked for behind the brace that closes this one.
                let from = mistake.at.start.max(at);
                at = pattern[from..].find('}').map_or(pattern.len(), |length| from + length + 1);
                mistakes.push(mistake);
            }
        }
    }
    text.push_str(&pattern[at..]);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    if mistakes.is_empty() { Ok(pieces) } else { Err(mistakes) }
}

struct Reader<'a> {
    pattern: &'a str,
    /// Where the token begins, with its `${`.
    start: usize,
    at: usize,
}

struct Name {
    text: String,
    quoted: bool,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.pattern[self.at..]
    }

    fn takes(&mut self, what: &str) -> bool {
        let there = self.rest().starts_with(what);
        if there {
            self.at += what.len();
        }
        there
    }

    fn not_closed(&self) -> Mistake {
        Mistake {
            at: self.start..self.pattern.len(),
            message: "this ${ is not closed: write } behind it, or $${ for the text ${".to_owned(),
        }
    }

    /// A mistake at the character that comes next.
    fn here(&self, message: impl Into<String>) -> Mistake {
        match self.rest().chars().next() {
            Some(next) => Mistake { at: self.at..self.at + next.len_utf8(), message: message.into() },
            None => self.not_closed(),
        }
    }

    fn token(&mut self) -> Result<Token, Mistake> {
        let mut names = vec![self.name()?];
        while self.takes(".") {
            names.push(self.name()?);
        }
        let named = self.start + 2..self.at;
        let levels = self.takes(":levels");
        let default = if self.takes(":-") { Some(self.default()?) } else { None };
        if !self.takes("}") {
            return Err(self.here("here } is expected, or :- and a default, or :levels; other characters of a name stand in backquotes"));
        }
        let source = source(&names).map_err(|message| Mistake { at: named, message })?;
        Ok(Token { source, levels, default, at: self.start..self.at })
    }

    fn name(&mut self) -> Result<Name, Mistake> {
        if self.rest().starts_with('`') {
            return Ok(Name { text: self.quoted()?, quoted: true });
        }
        let ends = |character: char| matches!(character, '.' | ':' | '{' | '}' | '$' | '`') || character.is_whitespace();
        let length = self.rest().find(ends).unwrap_or(self.rest().len());
        if length == 0 {
            return Err(self.here("here a name is expected; one with other characters stands in backquotes"));
        }
        let text = self.rest()[..length].to_owned();
        self.at += length;
        Ok(Name { text, quoted: false })
    }

    fn default(&mut self) -> Result<String, Mistake> {
        if self.rest().starts_with('`') {
            return self.quoted();
        }
        let length = self.rest().find('}').ok_or_else(|| self.not_closed())?;
        let text = &self.rest()[..length];
        if let Some(inner) = text.find("${") {
            let at = self.at + inner..self.at + inner + 2;
            return Err(Mistake { at, message: "a default is plain text; one with ${ in it stands in backquotes".to_owned() });
        }
        let text = text.to_owned();
        self.at += length;
        Ok(text)
    }

    /// The content of a text in backquotes, doubled ones undone.
    fn quoted(&mut self) -> Result<String, Mistake> {
        let opened = self.at;
        self.at += 1;
        let mut content = String::new();
        loop {
            let Some(length) = self.rest().find('`') else {
                return Err(Mistake { at: opened..self.pattern.len(), message: "the backquote ` is not closed".to_owned() });
            };
            content.push_str(&self.rest()[..length]);
            self.at += length + 1;
            if !self.takes("`") {
                return Ok(content);
            }
            content.push('`');
        }
    }
}

fn source(names: &[Name]) -> Result<Source, String> {
    let (first, rest) = (&names[0], &names[1..]);
    if names.len() > NAMES_MAX {
        return Err(format!("a path of {} names, at most {NAMES_MAX}", names.len()));
    }
    let part = match first.text.as_str() {
        _ if first.quoted => return Err(unknown(&first.text)),
        "key" => Part::Key,
        "value" => Part::Value,
        "header" => {
            let name: Vec<&str> = rest.iter().map(|name| name.text.as_str()).collect();
            return if rest.is_empty() { Err("which header? write ${header.NAME}".to_owned()) } else { Ok(Source::Header(name.join("."))) };
        }
        single => {
            let source = match single {
                "topic" => Source::Topic,
                "partition" => Source::Partition,
                "offset" => Source::Offset,
                "timestamp" => Source::Timestamp,
                other => return Err(unknown(other)),
            };
            return if rest.is_empty() { Ok(source) } else { Err(format!("`{single}` has no fields: write ${{{single}}}")) };
        }
    };
    match rest {
        [only] if only.text == "version" && !only.quoted => Ok(Source::Version(part)),
        _ => Ok(Source::Field(part, rest.iter().map(|name| name.text.clone()).collect())),
    }
}

fn unknown(name: &str) -> String {
    format!(
        "there is no token `{name}`, only topic, partition, offset, timestamp, key, value, key.FIELD, value.FIELD, key.version, \
         value.version and header.NAME; the text ${{ is written $${{"
    )
}
