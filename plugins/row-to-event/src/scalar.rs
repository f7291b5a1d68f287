//! Single values on their way from a row to an event: read as what the row has, cast, written as Avro or as JSON.
//!
//! Invariant: a cast keeps the value or fails. Only what its target says by itself is cut off: finer units of times are rounded down, a
//! date has no time of day, a float is the nearest one (of an integer: the same).

use std::borrow::Cow;

use crate::avro::wire;
use crate::text::{self, Number};
use crate::types::{Cast, Origin, Type, Unit};

/// A value as a row has it.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// A number as JSON writes it.
    Number(&'a str),
    Float(f32),
    Double(f64),
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
    /// Unscaled two's complement, and the scale.
    Decimal(Cow<'a, [u8]>, i64),
    Date(i64),
    Time(i64, Unit),
    /// `true`: in UTC.
    Timestamp(i64, Unit, bool),
    Uuid([u8; 16]),
    /// Months, days, milliseconds.
    Duration(u32, u32, u32),
    /// A record, array or map, as JSON text.
    Nested(Cow<'a, str>),
}

/// A value after its cast: what is on the wire of the target type.
#[derive(Debug, Clone, PartialEq)]
pub enum Plain<'a> {
    Null,
    Bool(bool),
    /// Of integers, dates, times and timestamps.
    Int(i64),
    Float(f32),
    Double(f64),
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
    /// Unscaled, at the type's scale.
    Decimal(i128),
}

impl Plain<'_> {
    /// The value with the meaning of its type.
    pub fn scalar(&self, of: Type) -> Scalar<'_> {
        match (self, of) {
            (Plain::Null, _) => Scalar::Null,
            (Plain::Bool(value), _) => Scalar::Bool(*value),
            (Plain::Int(value), Type::Date) => Scalar::Date(*value),
            (Plain::Int(value), Type::Time(unit)) => Scalar::Time(*value, unit),
            (Plain::Int(value), Type::Timestamp(unit, utc)) => Scalar::Timestamp(*value, unit, utc),
            (Plain::Int(value), _) => Scalar::Int(*value),
            (Plain::Float(value), _) => Scalar::Float(*value),
            (Plain::Double(value), _) => Scalar::Double(*value),
            (Plain::Text(text), Type::Json) => Scalar::Nested(Cow::Borrowed(text)),
            (Plain::Text(text), _) => Scalar::Text(Cow::Borrowed(text)),
            (Plain::Bytes(bytes), _) => Scalar::Bytes(Cow::Borrowed(bytes)),
            (Plain::Decimal(value), Type::Decimal { scale, .. }) => Scalar::Text(Cow::Owned(text::decimal_of(*value, scale))),
            (Plain::Decimal(value), _) => Scalar::Text(Cow::Owned(value.to_string())),
        }
    }

    /// Without what it borrows.
    pub fn into_owned(self) -> Plain<'static> {
        match self {
            Plain::Null => Plain::Null,
            Plain::Bool(value) => Plain::Bool(value),
            Plain::Int(value) => Plain::Int(value),
            Plain::Float(value) => Plain::Float(value),
            Plain::Double(value) => Plain::Double(value),
            Plain::Text(text) => Plain::Text(Cow::Owned(text.into_owned())),
            Plain::Bytes(bytes) => Plain::Bytes(Cow::Owned(bytes.into_owned())),
            Plain::Decimal(value) => Plain::Decimal(value),
        }
    }
}

/// Casts a value; null stays null.
///
/// # Errors
/// What does not fit.
pub fn cast<'a>(value: &Scalar<'a>, cast: Cast) -> Result<Plain<'a>, String> {
    fit(value, cast).ok_or_else(|| misfit(value, cast))
}

fn fit<'a>(value: &Scalar<'a>, cast: Cast) -> Option<Plain<'a>> {
    Some(match cast.to {
        _ if *value == Scalar::Null => Plain::Null,
        Type::Boolean => Plain::Bool(boolean(value)?),
        Type::Int => Plain::Int(i32::try_from(whole(value)?).ok()?.into()),
        Type::Long => Plain::Int(i64::try_from(whole(value)?).ok()?),
        Type::Float => Plain::Float(float(value)?),
        Type::Double => Plain::Double(double(value)?),
        Type::String => Plain::Text(as_text(value)?),
        Type::Bytes => Plain::Bytes(bytes(value, cast.origin)?),
        Type::Date => Plain::Int(i32::try_from(date(value, cast.origin)?).ok()?.into()),
        Type::Time(unit) => Plain::Int(time(value, cast.origin, unit)?),
        Type::Timestamp(unit, utc) => Plain::Int(timestamp(value, cast.origin, unit, utc)?),
        Type::Uuid => Plain::Text(Cow::Owned(uuid(value, cast.origin)?)),
        Type::Decimal { precision, scale } => Plain::Decimal(decimal(value, cast.origin, precision, scale)?),
        Type::Json => Plain::Text(Cow::Owned(json_text(value))),
    })
}

/// How much of a value a message shows.
const SHOWN_CHARACTERS_MAX: usize = 60;

fn misfit(value: &Scalar<'_>, cast: Cast) -> String {
    let bare = matches!(value, Scalar::Int(_) | Scalar::Number(_));
    if bare && cast.origin.is_none() && matches!(cast.to, Type::Date | Type::Time(_) | Type::Timestamp(..)) {
        let name = cast.to.name();
        let example = if cast.to == Type::Date { "days" } else { "millis" };
        return format!("an integer has no unit: say which, for example \"{name} from {example}\"");
    }
    if let Scalar::Nested(_) = value {
        return format!("a record, array or map does not fit {}; json takes it", cast.to.name());
    }
    let text = as_text(value).unwrap_or_else(|| Cow::Owned(json_text(value)));
    let mut shown: String = text.chars().take(SHOWN_CHARACTERS_MAX).collect();
    if shown.len() < text.len() {
        shown.push_str("..");
    }
    let what = match value {
        Scalar::Text(_) => format!("the text {shown:?}"),
        Scalar::Bytes(_) => format!("the bytes {shown}"),
        _ => shown,
    };
    format!("{what} does not fit {}", cast.to.name())
}

fn boolean(value: &Scalar<'_>) -> Option<bool> {
    match value {
        Scalar::Bool(value) => Some(*value),
        Scalar::Text(text) => text.parse().ok(),
        Scalar::Int(_) | Scalar::Number(_) => match whole(value)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        },
        _ => None,
    }
}

/// A value that is a number, exactly.
fn number(value: &Scalar<'_>) -> Option<Number> {
    match value {
        Scalar::Int(value) => Some(Number { unscaled: i128::from(*value), scale: 0 }),
        Scalar::Number(text) => Number::parse(text),
        Scalar::Text(text) => Number::parse(text),
        Scalar::Decimal(unscaled, scale) => Some(Number { unscaled: text::integer(unscaled)?, scale: *scale }),
        Scalar::Float(value) => Number::parse(&text::float(*value)),
        Scalar::Double(value) => Number::parse(&text::double(*value)),
        _ => None,
    }
}

/// A value that is an integer; of dates and times it is their number in the unit that they have.
fn whole(value: &Scalar<'_>) -> Option<i128> {
    match value {
        Scalar::Bool(value) => Some(i128::from(*value)),
        Scalar::Date(value) | Scalar::Time(value, _) | Scalar::Timestamp(value, ..) => Some(i128::from(*value)),
        _ => number(value)?.at_scale(0),
    }
}

fn float(value: &Scalar<'_>) -> Option<f32> {
    match value {
        Scalar::Float(value) => Some(*value),
        Scalar::Double(value) if !value.is_finite() => Some(*value as f32),
        Scalar::Double(value) => Some(*value as f32).filter(|value| value.is_finite()),
        Scalar::Int(value) => Some(*value as f32).filter(|float| *float as i128 == i128::from(*value)),
        _ => number_text(value)?.parse().ok().filter(|value: &f32| value.is_finite()),
    }
}

fn double(value: &Scalar<'_>) -> Option<f64> {
    match value {
        Scalar::Float(value) => Some((*value).into()),
        Scalar::Double(value) => Some(*value),
        Scalar::Int(value) => Some(*value as f64).filter(|float| *float as i128 == i128::from(*value)),
        _ => number_text(value)?.parse().ok().filter(|value: &f64| value.is_finite()),
    }
}

/// The digits of what is written in decimal.
fn number_text<'v>(value: &'v Scalar<'_>) -> Option<Cow<'v, str>> {
    match value {
        Scalar::Number(text) => Some(Cow::Borrowed(text)),
        Scalar::Text(text) => Some(Cow::Borrowed(text)),
        Scalar::Decimal(unscaled, scale) => Some(Cow::Owned(text::decimal(unscaled, *scale))),
        _ => None,
    }
}

/// A single value as text.
pub fn as_text<'a>(value: &Scalar<'a>) -> Option<Cow<'a, str>> {
    Some(Cow::Owned(match value {
        Scalar::Null | Scalar::Nested(_) => return None,
        Scalar::Text(text) => return Some(text.clone()),
        Scalar::Number(text) => return Some(Cow::Borrowed(text)),
        Scalar::Bytes(bytes) => std::str::from_utf8(bytes).ok()?.to_owned(),
        Scalar::Bool(value) => value.to_string(),
        Scalar::Int(value) => value.to_string(),
        Scalar::Float(value) => text::float(*value),
        Scalar::Double(value) => text::double(*value),
        Scalar::Decimal(unscaled, scale) => text::decimal(unscaled, *scale),
        Scalar::Date(value) => text::date(*value),
        Scalar::Time(value, unit) => text::time(*value, *unit),
        Scalar::Timestamp(value, unit, utc) => text::timestamp(*value, *unit, *utc),
        Scalar::Uuid(bytes) => text::uuid(*bytes),
        Scalar::Duration(months, days, millis) => text::duration(*months, *days, *millis),
    }))
}

fn bytes<'a>(value: &Scalar<'a>, origin: Option<Origin>) -> Option<Cow<'a, [u8]>> {
    match (value, origin) {
        (Scalar::Text(text), Some(origin)) => text::parse_bytes(text, origin).map(Cow::Owned),
        (Scalar::Text(Cow::Borrowed(text)), None) => Some(Cow::Borrowed(text.as_bytes())),
        (Scalar::Text(text), None) => Some(Cow::Owned(text.as_bytes().to_vec())),
        (Scalar::Bytes(bytes) | Scalar::Decimal(bytes, _), None) => Some(bytes.clone()),
        (Scalar::Uuid(bytes), None) => Some(Cow::Owned(bytes.to_vec())),
        _ => None,
    }
}

/// An integer whose unit the configuration tells.
fn bare(value: &Scalar<'_>) -> Option<i64> {
    match value {
        Scalar::Int(_) | Scalar::Number(_) | Scalar::Text(_) => i64::try_from(whole(value)?).ok(),
        _ => None,
    }
}

const DAY_SECONDS: i64 = 86_400;

fn date(value: &Scalar<'_>, origin: Option<Origin>) -> Option<i64> {
    let days = |instant: i64, unit: Unit| instant.div_euclid(unit.per_second() * DAY_SECONDS);
    match (value, origin) {
        (Scalar::Date(value), _) => Some(*value),
        (Scalar::Timestamp(value, unit, _), _) => Some(days(*value, *unit)),
        (_, Some(Origin::Days)) => bare(value),
        (_, Some(Origin::Unit(unit))) => Some(days(bare(value)?, unit)),
        (Scalar::Text(text), _) => text::parse_date(text),
        _ => None,
    }
}

fn time(value: &Scalar<'_>, origin: Option<Origin>, to: Unit) -> Option<i64> {
    let converted = match (value, origin) {
        (Scalar::Time(value, unit), _) => unit.convert(*value, to),
        (Scalar::Timestamp(value, unit, _), _) => unit.convert(value.rem_euclid(unit.per_second() * DAY_SECONDS), to),
        (_, Some(Origin::Unit(unit))) => unit.convert(bare(value)?, to),
        (Scalar::Text(text), _) => text::parse_time(text, to),
        _ => None,
    };
    converted.filter(|time| (0..=to.per_second() * DAY_SECONDS).contains(time))
}

fn timestamp(value: &Scalar<'_>, origin: Option<Origin>, to: Unit, utc: bool) -> Option<i64> {
    match (value, origin) {
        (Scalar::Timestamp(value, unit, _), _) => unit.convert(*value, to),
        (Scalar::Date(days), _) => Unit::Seconds.convert(days.checked_mul(DAY_SECONDS)?, to),
        (_, Some(Origin::Unit(unit))) => unit.convert(bare(value)?, to),
        (Scalar::Text(text), _) => text::parse_timestamp(text, to, utc),
        _ => None,
    }
}

fn uuid(value: &Scalar<'_>, origin: Option<Origin>) -> Option<String> {
    let bytes = match (value, origin) {
        (Scalar::Uuid(bytes), _) => *bytes,
        (Scalar::Bytes(bytes), None) => bytes.as_ref().try_into().ok()?,
        (Scalar::Text(text), Some(origin)) => text::parse_bytes(text, origin)?.try_into().ok()?,
        (Scalar::Text(text), None) => text::parse_uuid(text)?,
        _ => return None,
    };
    Some(text::uuid(bytes))
}

fn decimal(value: &Scalar<'_>, origin: Option<Origin>, precision: u32, scale: u32) -> Option<i128> {
    let unscaled = match (value, origin) {
        (Scalar::Text(text), Some(origin)) => text::integer(&text::parse_bytes(text, origin)?)?,
        _ => number(value)?.at_scale(scale.into())?,
    };
    (unscaled.unsigned_abs() < 10_u128.pow(precision)).then_some(unscaled)
}

/// A value as JSON text, as the router writes it everywhere: decimals as text with all their digits, bytes in base64, times in ISO 8601.
pub fn json_text(value: &Scalar<'_>) -> String {
    match value {
        Scalar::Null => "null".to_owned(),
        Scalar::Nested(text) => text.to_string(),
        Scalar::Bytes(bytes) => format!("\"{}\"", text::base64(bytes)),
        Scalar::Bool(_) | Scalar::Int(_) | Scalar::Number(_) => as_text(value).unwrap_or_default().into_owned(),
        Scalar::Float(float) if float.is_finite() => text::float(*float),
        Scalar::Double(double) if double.is_finite() => text::double(*double),
        _ => serde_json::Value::from(as_text(value).unwrap_or_default()).to_string(),
    }
}

/// Appends a value that is not null, as Avro of its type.
pub fn write_avro(value: &Plain<'_>, to: Type, out: &mut Vec<u8>) {
    match value {
        Plain::Null => (),
        Plain::Bool(value) => out.push(u8::from(*value)),
        Plain::Int(value) => wire::write_long(*value, out),
        Plain::Float(value) => out.extend_from_slice(&value.to_le_bytes()),
        Plain::Double(value) => out.extend_from_slice(&value.to_le_bytes()),
        Plain::Text(text) => wire::write_bytes(text.as_bytes(), out),
        Plain::Bytes(bytes) => wire::write_bytes(bytes, out),
        Plain::Decimal(value) => {
            debug_assert!(matches!(to, Type::Decimal { .. }));
            let bytes = value.to_be_bytes();
            // The shortest two's complement: a leading byte goes where the next one has the same sign.
            let spare = bytes.windows(2).take_while(|pair| matches!(pair, [0, 0..=0x7f] | [0xff, 0x80..=0xff])).count();
            wire::write_bytes(&bytes[spare..], out);
        }
    }
}

/// Appends a value as JSON text of its type.
pub fn write_json(value: &Plain<'_>, to: Type, out: &mut Vec<u8>) {
    match value.scalar(to) {
        Scalar::Text(text) => text::write_json_string(&text, out),
        scalar => out.extend_from_slice(json_text(&scalar).as_bytes()),
    }
}
