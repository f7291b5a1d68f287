//! Values that are written as text: sizes, durations, names, URLs, patterns, paths.
//!
//! Invariant: whoever holds one need not check it again. A message that says what is wrong carries its remedy after a line break
//! (see [`Remedy`]).

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// What is wrong with a value and what would be right; as text the remedy stands on a line of its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{wrong}\n{remedy}")]
pub struct Remedy {
    /// What is wrong.
    pub wrong: String,
    /// What would be right.
    pub remedy: String,
}

impl Remedy {
    /// What is wrong, and what would be right.
    pub fn new(wrong: impl Into<String>, remedy: impl Into<String>) -> Self {
        Remedy { wrong: wrong.into(), remedy: remedy.into() }
    }
}

/// A number of bytes, written with its unit: `"64 MiB"`, `"512 KiB"`, `"100 B"`, `"2 GB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

const SIZE_UNITS: [(&str, u64); 7] =
    [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000), ("B", 1)];
const SIZE_REMEDY: &str = "a size is a number with a unit (B, kB, MB, GB, KiB, MiB, GiB), such as \"64 MiB\"";

impl ByteSize {
    /// So many bytes.
    pub const fn bytes(bytes: u64) -> Self {
        ByteSize(bytes)
    }

    /// So many KiB.
    pub const fn kib(kib: u64) -> Self {
        ByteSize(kib << 10)
    }

    /// So many MiB.
    pub const fn mib(mib: u64) -> Self {
        ByteSize(mib << 20)
    }

    /// In bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// In bytes, as much as this machine can address.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for ByteSize {
    type Err = Remedy;

    fn from_str(text: &str) -> Result<Self, Remedy> {
        let (number, unit) = number_and_unit(text).ok_or_else(|| Remedy::new(format!("\"{text}\" is not a size"), SIZE_REMEDY))?;
        let known = SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
        let Some((_, factor)) = known else {
            let wrong = if unit.is_empty() { format!("\"{text}\" has no unit") } else { format!("\"{unit}\" is not a unit of size") };
            return Err(Remedy::new(wrong, SIZE_REMEDY));
        };
        scaled(number, *factor).map(ByteSize).ok_or_else(|| Remedy::new(format!("\"{text}\" is not a size"), SIZE_REMEDY))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, factor): &&(&str, u64)| self.0 >= *factor && self.0.is_multiple_of(*factor);
        let (unit, factor) = SIZE_UNITS.iter().find(fits).unwrap_or(&("B", 1));
        write!(f, "{} {unit}", self.0 / factor)
    }
}

/// A span of time, written with its unit: `"5 ms"`, `"1 s"`, `"1 m"`, `"12 h"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DurationText(Duration);

/// Units in microseconds.
const TIME_UNITS: [(&str, u64); 7] =
    [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("min", 60_000_000), ("s", 1_000_000), ("ms", 1000), ("us", 1)];
const TIME_REMEDY: &str = "a duration is a number with a unit (us, ms, s, m, h, d), such as \"5 ms\" or \"1 m\"";

impl DurationText {
    /// So many milliseconds.
    pub const fn ms(ms: u64) -> Self {
        DurationText(Duration::from_millis(ms))
    }

    /// So many seconds.
    pub const fn s(s: u64) -> Self {
        DurationText(Duration::from_secs(s))
    }

    /// As the standard library has it.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for DurationText {
    type Err = Remedy;

    fn from_str(text: &str) -> Result<Self, Remedy> {
        let not = || Remedy::new(format!("\"{text}\" is not a duration"), TIME_REMEDY);
        let (number, unit) = number_and_unit(text).ok_or_else(not)?;
        let Some((_, factor)) = TIME_UNITS.iter().find(|(name, _)| *name == unit) else {
            let wrong = if unit.is_empty() { format!("\"{text}\" has no unit") } else { format!("\"{unit}\" is not a unit of time") };
            return Err(Remedy::new(wrong, TIME_REMEDY));
        };
        scaled(number, *factor).map(|us| DurationText(Duration::from_micros(us))).ok_or_else(not)
    }
}

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX);
        let fits = |(_, factor): &&(&str, u64)| us >= *factor && us.is_multiple_of(*factor);
        let (unit, factor) = TIME_UNITS.iter().find(fits).unwrap_or(&("ms", 1000));
        write!(f, "{} {unit}", us / factor)
    }
}

fn number_and_unit(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
    (end > 0).then(|| (&text[..end], text[end..].trim_start()))
}

/// Exact for whole numbers; a fraction, as in "1.5 GiB", is rounded down.
fn scaled(number: &str, factor: u64) -> Option<u64> {
    let number = number.replace('_', "");
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let value = number.parse::<f64>().ok()? * factor as f64;
    (value < u64::MAX as f64).then_some(value as u64)
}

/// The name of a source, registry, plugin, sink or route. It appears in metrics, logs, consumer groups and file names, so it is made
/// of letters, digits, `-` and `_`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

const NAME_BYTES_MAX: usize = 100;

impl Name {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = Remedy;

    fn from_str(text: &str) -> Result<Self, Remedy> {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.chars().all(fits) {
            let remedy = format!("a name has 1 to {NAME_BYTES_MAX} letters (a-z, A-Z), digits, \"-\" or \"_\"");
            return Err(Remedy::new(format!("{text:?} cannot be a name"), remedy));
        }
        Ok(Name(text.to_owned()))
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An `http` or `https` URL without credentials in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl(url::Url);

impl Deref for HttpUrl {
    type Target = url::Url;

    fn deref(&self) -> &url::Url {
        &self.0
    }
}

impl FromStr for HttpUrl {
    type Err = Remedy;

    fn from_str(text: &str) -> Result<Self, Remedy> {
        const REMEDY: &str = "write it as \"http://host:port/path\" or \"https://..\"";
        if !text.contains("://") {
            return Err(Remedy::new(format!("\"{text}\" has no scheme"), REMEDY));
        }
        let url = url::Url::parse(text).map_err(|error| Remedy::new(format!("\"{text}\" is not a URL: {error}"), REMEDY))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Remedy::new(format!("the URL's scheme is \"{}\"", url.scheme()), REMEDY));
        }
        if !url.username().is_empty() || url.password().is_some() {
            // The text itself is not repeated: it holds a secret.
            return Err(Remedy::new("credentials stand in the URL", "take them out of it and use `auth`, whose secrets are never printed"));
        }
        Ok(HttpUrl(url))
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A regular expression (syntax of the crate `regex`).
#[derive(Debug, Clone)]
pub struct Pattern(regex::Regex);

impl Deref for Pattern {
    type Target = regex::Regex;

    fn deref(&self) -> &regex::Regex {
        &self.0
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

impl FromStr for Pattern {
    type Err = Remedy;

    fn from_str(text: &str) -> Result<Self, Remedy> {
        let reason = |error: regex::Error| error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let remedy = "the syntax is that of https://docs.rs/regex; in TOML, single quotes ('^a\\.b$') keep backslashes as they are";
        regex::Regex::new(text)
            .map(Pattern)
            .map_err(|error| Remedy::new(format!("{text:?} is not a regular expression: {}", reason(error)), remedy))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_str().fmt(f)
    }
}

/// A file or folder; a relative one counts from the folder of the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePath(PathBuf);

/// Marks a path for the configuration's own deserializer, which joins it to the folder of the file.
pub(super) const PATH_MARK: &str = "$anabranch::path";

impl FilePath {
    /// A path that is resolved already.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        FilePath(path.into())
    }
}

impl Deref for FilePath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for FilePath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl<'de> Deserialize<'de> for FilePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Marked;
        impl<'de> Visitor<'de> for Marked {
            type Value = FilePath;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path as text")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<FilePath, D::Error> {
                let text = Cow::<str>::deserialize(deserializer)?;
                if text.is_empty() {
                    return Err(Error::custom(Remedy::new("the path is empty", "name a file or a folder")));
                }
                Ok(FilePath(PathBuf::from(text.into_owned())))
            }
        }
        deserializer.deserialize_newtype_struct(PATH_MARK, Marked)
    }
}

impl Serialize for FilePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl JsonSchema for FilePath {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "path".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "title": "path", "minLength": 1 })
    }
}

struct Text<T> {
    remedy: &'static str,
    parsed: std::marker::PhantomData<T>,
}

impl<T: FromStr<Err = Remedy>> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "text\n{}", self.remedy)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

/// Text in the file, checked where it is read, so that an error points at it.
macro_rules! written_as_text {
    ($type:ty, $name:literal, $remedy:expr, $schema:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text { remedy: $remedy, parsed: std::marker::PhantomData })
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

written_as_text!(
    ByteSize,
    "size",
    SIZE_REMEDY,
    json_schema!({ "type": "string", "title": "size", "pattern": "^[0-9._]+ *([kKmMgG]i?)?[bB]$", "examples": ["64 MiB"] })
);
written_as_text!(
    DurationText,
    "duration",
    TIME_REMEDY,
    json_schema!({ "type": "string", "title": "duration", "pattern": "^[0-9._]+ *(us|ms|s|m|min|h|d)$", "examples": ["5 ms", "1 m"] })
);
written_as_text!(
    Name,
    "name",
    "a name, in quotes",
    json_schema!({ "type": "string", "title": "name", "pattern": "^[A-Za-z0-9_-]{1,100}$" })
);
written_as_text!(
    HttpUrl,
    "url",
    "such as \"http://localhost:8081\"",
    json_schema!({ "type": "string", "title": "URL", "format": "uri", "pattern": "^https?://" })
);
written_as_text!(
    Pattern,
    "pattern",
    "such as '^shop\\..*'",
    json_schema!({ "type": "string", "title": "regular expression", "format": "regex" })
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units_and_written_back() {
        for (text, bytes) in [("64 MiB", 64 << 20), ("512KiB", 512 << 10), ("1.5 GiB", 3 << 29), ("2 GB", 2_000_000_000), ("7 b", 7)] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!(size.get(), bytes, "{text}");
            assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
        }
        for text in ["64", "", "MiB", "64 MX", "-1 B", "99999999999999999999 GiB", "1.2.3 MiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_read_with_their_units_and_written_back() {
        for (text, ms) in [("5 ms", 5), ("1s", 1000), ("1 m", 60_000), ("2 min", 120_000), ("1.5 h", 5_400_000), ("1 d", 86_400_000)] {
            let duration: DurationText = text.parse().unwrap();
            assert_eq!(duration.get(), Duration::from_millis(ms), "{text}");
            assert_eq!(duration.to_string().parse::<DurationText>().unwrap(), duration);
        }
        for text in ["5", "", "s", "5 sec", "1 M", "-1 s", "1e3 s"] {
            assert!(text.parse::<DurationText>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_url_with_credentials_is_refused_without_repeating_them() {
        let error = "http://me:hunter2@host/".parse::<HttpUrl>().unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
        assert!("ftp://host/".parse::<HttpUrl>().is_err());
        assert!("http://host:8081/base".parse::<HttpUrl>().is_ok());
    }
}
