//! Why a record gets no destination.

use std::fmt;

/// Why a record gets no destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal<'a> {
    /// A token, as it is written, that the record has nothing for.
    Missing(&'a str, Absence),
    /// It is longer than so many bytes.
    TooLong(usize),
    /// A level of it is empty.
    EmptyLevel,
    /// The connector would write a key of bytes as text that changes from run to run.
    KeyOfBytes,
}

/// Why there is nothing for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    Null,
    Empty,
    NoKey,
    Tombstone,
    NoSingleField,
    NoSingleWhole,
    NoHeader,
    NotText,
    NoTimestamp,
    NoVersion,
}

impl Refusal<'_> {
    /// The code of the reject: short and stable.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::Missing(..) => "missing-value",
            Refusal::TooLong(_) => "too-long",
            Refusal::EmptyLevel => "empty-level",
            Refusal::KeyOfBytes => "key-of-bytes",
        }
    }
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Missing(token, absence) => write!(f, "{token}: {absence}"),
            Refusal::TooLong(most) => write!(f, "the destination is longer than {most} bytes (length_max)"),
            Refusal::EmptyLevel => f.write_str("the destination has an empty level: a slash at an end, or two in a row"),
            Refusal::KeyOfBytes => f.write_str("${key}: the key is bytes, which have no lasting text"),
        }
    }
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Absence::Null => "the field is null",
            Absence::Empty => "the text is empty",
            Absence::NoKey => "the record has no key",
            Absence::Tombstone => "the record has no value (a tombstone)",
            Absence::NoSingleField => "the record has no such field, or it is no single value",
            Absence::NoSingleWhole => "it is bytes or made of several values: name one of its fields",
            Absence::NoHeader => "the record has no such header, or it is null",
            Absence::NotText => "the header is not UTF-8",
            Absence::NoTimestamp => "the record has no timestamp",
            Absence::NoVersion => "no version of its schema is known",
        })
    }
}
