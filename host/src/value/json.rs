//! JSON in and out (RFC 8259).
//!
//! Invariant: numbers keep their digits: an integer beyond 64 bits is never turned into a float on its way. Of repeated names in
//! one object, readers of single fields see the first and the walker tells all.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::text;
use super::walk::{Events, Nothing, Scalar};
use super::{DEPTH_MAX, DecodeError};

/// How what JSON has no type for is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JsonOptions {
    /// Decimals.
    pub decimal: DecimalAs,
    /// Byte strings.
    pub bytes: BytesAs,
    /// Dates, times and timestamps.
    pub time: TimeAs,
}

/// Decimals in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DecimalAs {
    /// `"12.34"`.
    #[default]
    String,
    /// `12.34`; readers that use floats may lose digits.
    Number,
    /// The unscaled value's bytes, as Kafka Connect writes them.
    Base64,
}

/// Byte strings in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BytesAs {
    /// RFC 4648, section 4.
    #[default]
    Base64,
    /// Lower-case hexadecimal.
    Hex,
}

/// Dates and times in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TimeAs {
    /// ISO 8601 text.
    #[default]
    Iso,
    /// The number as it came, in the schema's unit.
    Number,
}

/// Writes what a walker tells as compact JSON text.
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    options: &'a JsonOptions,
    /// Whether a comma is due before the next item or name.
    comma: bool,
}

impl<'a> Writer<'a> {
    pub fn new(out: &'a mut Vec<u8>, options: &'a JsonOptions) -> Self {
        Writer { out, options, comma: false }
    }

    fn string(&mut self, text: &str) {
        // Writing into a Vec cannot fail, and any text is a JSON string.
        let _ = serde_json::to_writer(&mut *self.out, text);
    }

    fn display(&mut self, value: impl std::fmt::Display) {
        use std::io::Write as _;
        let _ = write!(self.out, "{value}");
    }
}

impl Events for Writer<'_> {
    fn scalar(&mut self, scalar: Scalar<'_>) {
        self.comma = true;
        match scalar {
            Scalar::Null => self.out.extend_from_slice(b"null"),
            Scalar::Bool(value) => self.display(value),
            Scalar::Int(value) => {
                // Through serde_json for its fast integer printing.
                let _ = serde_json::to_writer(&mut *self.out, &value);
            }
            Scalar::BigInt(text) => self.out.extend_from_slice(text.as_bytes()),
            Scalar::Float(value) if value.is_finite() => {
                let _ = serde_json::to_writer(&mut *self.out, &value);
            }
            Scalar::Double(value) if value.is_finite() => {
                let _ = serde_json::to_writer(&mut *self.out, &value);
            }
            Scalar::Text(text) => self.string(text),
            Scalar::Bytes(bytes) => match self.options.bytes {
                BytesAs::Base64 => self.string(&STANDARD.encode(bytes)),
                BytesAs::Hex => {
                    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                    self.string(&hex);
                }
            },
            Scalar::Decimal(unscaled, scale) => match self.options.decimal {
                DecimalAs::String => self.string(&text::decimal(unscaled, scale)),
                DecimalAs::Number => self.out.extend_from_slice(text::decimal(unscaled, scale).as_bytes()),
                DecimalAs::Base64 => self.string(&STANDARD.encode(unscaled)),
            },
            Scalar::Date(value) | Scalar::Time(value, _) | Scalar::Timestamp(value, ..) if self.options.time == TimeAs::Number => {
                self.display(value);
            }
            other => {
                let text = text::scalar(other).unwrap_or_default();
                self.string(&text);
            }
        }
    }

    fn begin_array(&mut self) {
        self.out.push(b'[');
        self.comma = false;
    }

    fn item(&mut self) {
        if self.comma {
            self.out.push(b',');
        }
        self.comma = false;
    }

    fn end_array(&mut self) {
        self.out.push(b']');
        self.comma = true;
    }

    fn begin_map(&mut self) {
        self.out.push(b'{');
        self.comma = false;
    }

    fn name(&mut self, name: &str) {
        self.item();
        self.string(name);
        self.out.push(b':');
    }

    fn end_map(&mut self) {
        self.out.push(b'}');
        self.comma = true;
    }
}

/// Whether bytes are one JSON value.
pub fn check(bytes: &[u8]) -> Result<(), DecodeError> {
    walk(bytes, &mut Nothing)
}

/// Reads one JSON value.
pub fn walk(bytes: &[u8], events: &mut impl Events) -> Result<(), DecodeError> {
    let text = std::str::from_utf8(bytes).map_err(|error| DecodeError::new(error.valid_up_to(), "text is not UTF-8"))?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let mut told = Told { events, numbers: Numbers { text: bytes, at: 0, behind: 0 } };
    // The walker has a bound of its own; serde_json's is 128 too, and counts the same.
    let seed = Seed { told: &mut told, depth: 0 };
    let walked = serde::de::DeserializeSeed::deserialize(seed, &mut deserializer).and_then(|()| deserializer.end());
    walked.map_err(|error| DecodeError::new(offset(text, error.line(), error.column()), reason(&error)))
}

fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(reason, _)| format!("not valid JSON: {reason}"))
}

fn offset(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    before + column.saturating_sub(1)
}

struct Told<'t, 'e, E> {
    events: &'e mut E,
    numbers: Numbers<'t>,
}

/// The numbers of a text, in order: of integers beyond 64 bits serde_json makes floats, and here their digits are found again.
struct Numbers<'t> {
    text: &'t [u8],
    at: usize,
    /// How many were read since.
    behind: usize,
}

impl<'t> Numbers<'t> {
    /// The digits of the number that was read last, if it is an integer.
    fn last_integer(&mut self) -> Option<&'t str> {
        let mut last = self.next();
        for _ in 1..std::mem::take(&mut self.behind) {
            last = self.next();
        }
        std::str::from_utf8(last).ok().filter(|digits| !digits.contains(['.', 'e', 'E']))
    }

    /// What is read was found to be valid, so outside of texts a digit or a sign begins a number.
    fn next(&mut self) -> &'t [u8] {
        while let Some(byte) = self.text.get(self.at) {
            match byte {
                b'"' => {
                    self.at += 1;
                    while let Some(byte) = self.text.get(self.at).filter(|byte| **byte != b'"') {
                        self.at += if *byte == b'\\' { 2 } else { 1 };
                    }
                    self.at += 1;
                }
                b'-' | b'0'..=b'9' => {
                    let rest = &self.text[self.at..];
                    let length = rest.iter().position(|byte| !matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9'));
                    let number = &rest[..length.unwrap_or(rest.len())];
                    self.at += number.len();
                    return number;
                }
                _ => self.at += 1,
            }
        }
        &[]
    }
}

/// From here on a float may stand for an integer beyond 64 bits.
const INTEGER_MIN: f64 = 9.2e18;

struct Seed<'a, 't, 'e, E> {
    told: &'a mut Told<'t, 'e, E>,
    depth: usize,
}

impl<'de, E: Events> serde::de::DeserializeSeed<'de> for Seed<'_, '_, '_, E> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.depth > DEPTH_MAX {
            return Err(serde::de::Error::custom(format_args!("it nests deeper than {DEPTH_MAX}")));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de, E: Events> serde::de::Visitor<'de> for Seed<'_, '_, '_, E> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<R>(self) -> Result<(), R> {
        self.told.events.scalar(Scalar::Null);
        Ok(())
    }

    fn visit_bool<R>(self, value: bool) -> Result<(), R> {
        self.told.events.scalar(Scalar::Bool(value));
        Ok(())
    }

    fn visit_i64<R>(self, value: i64) -> Result<(), R> {
        self.told.numbers.behind += 1;
        self.told.events.scalar(Scalar::Int(value));
        Ok(())
    }

    fn visit_u64<R>(self, value: u64) -> Result<(), R> {
        self.told.numbers.behind += 1;
        match i64::try_from(value) {
            Ok(value) => self.told.events.scalar(Scalar::Int(value)),
            Err(_) => self.told.events.scalar(Scalar::BigInt(&value.to_string())),
        }
        Ok(())
    }

    fn visit_f64<R>(self, value: f64) -> Result<(), R> {
        self.told.numbers.behind += 1;
        let integer = if value.abs() < INTEGER_MIN { None } else { self.told.numbers.last_integer() };
        self.told.events.scalar(integer.map_or(Scalar::Double(value), Scalar::BigInt));
        Ok(())
    }

    fn visit_str<R>(self, text: &str) -> Result<(), R> {
        self.told.events.scalar(Scalar::Text(text));
        Ok(())
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.told.events.begin_array();
        loop {
            let seed = ItemSeed(Seed { told: &mut *self.told, depth: self.depth + 1 });
            if items.next_element_seed(seed)?.is_none() {
                break;
            }
        }
        self.told.events.end_array();
        Ok(())
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        self.told.events.begin_map();
        while entries.next_key_seed(NameSeed(&mut *self.told.events))?.is_some() {
            entries.next_value_seed(Seed { told: &mut *self.told, depth: self.depth + 1 })?;
        }
        self.told.events.end_map();
        Ok(())
    }
}

/// Tells of an item only when there is one.
struct ItemSeed<'a, 't, 'e, E>(Seed<'a, 't, 'e, E>);

impl<'de, E: Events> serde::de::DeserializeSeed<'de> for ItemSeed<'_, '_, '_, E> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.0.told.events.item();
        self.0.deserialize(deserializer)
    }
}

struct NameSeed<'a, E>(&'a mut E);

impl<'de, E: Events> serde::de::DeserializeSeed<'de> for NameSeed<'_, E> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        struct Name<'a, E>(&'a mut E);
        impl<E: Events> serde::de::Visitor<'_> for Name<'_, E> {
            type Value = ();

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a name")
            }

            fn visit_str<R>(self, text: &str) -> Result<(), R> {
                self.0.name(text);
                Ok(())
            }
        }
        deserializer.deserialize_str(Name(self.0))
    }
}

/// The digits of a JSON number without exponent (RFC 8259, section 6), if that is what the bytes are.
pub fn decimal(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?.trim_matches([' ', '\t', '\n', '\r']);
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_number = digits(whole) && digits(fraction) && (whole == "0" || !whole.starts_with('0'));
    is_number.then_some(text)
}

/// Deepest nesting that the fast reader of single fields may meet: it recurses once per container without a bound of its own, with
/// frames of many kilobytes, so one record of brackets would end the process.
const SHALLOW_MAX: usize = 16;

/// Whether a value nests so deeply that [`field`] has to read it with care.
pub fn is_deep(bytes: &[u8]) -> Result<bool, DecodeError> {
    // Many values have no more brackets in all; counting them is much faster than telling texts apart.
    if bytes.iter().filter(|byte| matches!(byte, b'[' | b'{')).count() <= SHALLOW_MAX {
        return Ok(false);
    }
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0usize, 0, false, false);
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            _ if in_text => (),
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => (),
        }
        if depth > DEPTH_MAX {
            return Err(DecodeError::new(at, format!("it nests deeper than {DEPTH_MAX}")));
        }
        deepest = deepest.max(depth);
    }
    Ok(deepest > SHALLOW_MAX)
}

/// The text of a field within a JSON value, by its path of at least one name; `None`: there is no such field. `is_deep`: what
/// [`is_deep`] says of the value.
pub fn field<'a>(bytes: &'a [u8], path: &[String], is_deep: bool) -> Result<Option<&'a [u8]>, DecodeError> {
    let pointer = path.iter().map(|name| match name.parse::<usize>() {
        // Which of the two it is shows only in the value.
        Ok(index) if !name.starts_with('0') || name == "0" => Step::Either(name, index),
        _ => Step::Name(name),
    });
    let mut within = bytes;
    let mut at = None;
    for step in pointer {
        let found = if is_deep {
            step.get_with_care(within).map_err(|error| DecodeError::new(0, reason(&error)))?
        } else {
            let found = step.get(within).map_err(|error| DecodeError::new(0, format!("not valid JSON: {error}")))?;
            // The text of a value lives as long as the whole: its place in `bytes` is found again.
            found.map(|value| {
                let text = value.as_raw_str().as_bytes();
                let start = text.as_ptr() as usize - bytes.as_ptr() as usize;
                &bytes[start..start + text.len()]
            })
        };
        let Some(found) = found else { return Ok(None) };
        within = found;
        at = Some(within);
    }
    Ok(at)
}

enum Step<'p> {
    Name(&'p str),
    Either(&'p str, usize),
}

impl Step<'_> {
    /// Slower, and in the same stack however deep the value nests.
    fn get_with_care<'a>(&self, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_slice(bytes);
        let found = serde::Deserializer::deserialize_any(&mut deserializer, Pick(self))?;
        Ok(found.map(|value: &RawValue| value.get().as_bytes()))
    }

    fn get<'a>(&self, bytes: &'a [u8]) -> Result<Option<sonic_rs::LazyValue<'a>>, sonic_rs::Error> {
        let by_name = |name: &str| found(sonic_rs::get(bytes, [name]));
        match self {
            Step::Name(name) => by_name(name),
            Step::Either(name, index) => match first_byte(bytes) {
                Some(b'[') => found(sonic_rs::get(bytes, [*index])),
                _ => by_name(name),
            },
        }
    }
}

/// Picks one member of a container and passes over all others without following them.
struct Pick<'p>(&'p Step<'p>);

impl<'de> serde::de::Visitor<'de> for Pick<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<R>(self) -> Result<Self::Value, R> {
        Ok(None)
    }

    fn visit_bool<R>(self, _: bool) -> Result<Self::Value, R> {
        Ok(None)
    }

    fn visit_i64<R>(self, _: i64) -> Result<Self::Value, R> {
        Ok(None)
    }

    fn visit_u64<R>(self, _: u64) -> Result<Self::Value, R> {
        Ok(None)
    }

    fn visit_f64<R>(self, _: f64) -> Result<Self::Value, R> {
        Ok(None)
    }

    fn visit_str<R>(self, _: &str) -> Result<Self::Value, R> {
        Ok(None)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let (mut found, mut at) = (None, 0);
        while let Some(item) = items.next_element::<&RawValue>()? {
            if matches!(self.0, Step::Either(_, index) if *index == at) {
                found = Some(item);
            }
            at += 1;
        }
        Ok(found)
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let (Step::Name(wanted) | Step::Either(wanted, _)) = self.0;
        let mut found = None;
        while let Some(name) = entries.next_key::<std::borrow::Cow<'de, str>>()? {
            let value = entries.next_value::<&RawValue>()?;
            if found.is_none() && name == *wanted {
                found = Some(value);
            }
        }
        Ok(found)
    }
}

fn first_byte(bytes: &[u8]) -> Option<u8> {
    bytes.iter().copied().find(|byte| !byte.is_ascii_whitespace())
}

fn found<'a>(got: Result<sonic_rs::LazyValue<'a>, sonic_rs::Error>) -> Result<Option<sonic_rs::LazyValue<'a>>, sonic_rs::Error> {
    match got {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() || error.is_unmatched_type() => Ok(None),
        Err(error) => Err(error),
    }
}
