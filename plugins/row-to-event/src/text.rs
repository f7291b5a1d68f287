//! Values as text and text as values: decimals with all their digits, dates and times as ISO 8601, uuids, bytes.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Timelike as _};

use crate::types::{Origin, Unit};

/// A decimal number: `unscaled` times ten to the power of `-scale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    pub unscaled: i128,
    pub scale: i64,
}

impl Number {
    /// Reads `-12.50`, `1e3`; `None`: no number, or more digits than 128 bits hold.
    pub fn parse(text: &str) -> Option<Number> {
        let (mantissa, exponent) = match text.find(['e', 'E']) {
            Some(at) => (&text[..at], text[at + 1..].parse::<i64>().ok()?),
            None => (text, 0),
        };
        let (sign, digits) = match mantissa.as_bytes().first()? {
            b'-' => (-1, &mantissa[1..]),
            b'+' => (1, &mantissa[1..]),
            _ => (1, mantissa),
        };
        let (mut unscaled, mut scale, mut seen, mut point) = (0_i128, 0_i64, false, false);
        for byte in digits.bytes() {
            match byte {
                b'0'..=b'9' => {
                    unscaled = unscaled.checked_mul(10)?.checked_add(i128::from(byte - b'0'))?;
                    scale += i64::from(point);
                    seen = true;
                }
                b'.' if !point => point = true,
                _ => return None,
            }
        }
        seen.then_some(Number { unscaled: unscaled * sign, scale: scale.checked_sub(exponent)? })
    }

    /// The unscaled number at another scale; `None`: digits would be lost, or it is too large.
    pub fn at_scale(self, scale: i64) -> Option<i128> {
        if self.unscaled == 0 {
            return Some(0);
        }
        let shift = scale.checked_sub(self.scale)?;
        let factor = 10_i128.checked_pow(u32::try_from(shift.unsigned_abs()).ok()?)?;
        if shift >= 0 { self.unscaled.checked_mul(factor) } else { (self.unscaled % factor == 0).then(|| self.unscaled / factor) }
    }
}

/// Two's complement, big endian; `None` beyond 128 bits.
pub fn integer(bytes: &[u8]) -> Option<i128> {
    let fill = if bytes.first().is_some_and(|byte| *byte >= 0x80) { 0xff } else { 0 };
    let extra = bytes.len().saturating_sub(16);
    let (padding, bytes) = bytes.split_at(extra);
    let mut whole = [fill; 16];
    whole[16 - bytes.len()..].copy_from_slice(bytes);
    let same_sign = padding.is_empty() || (whole[0] >= 0x80) == (fill == 0xff);
    (padding.iter().all(|byte| *byte == fill) && same_sign).then(|| i128::from_be_bytes(whole))
}

/// Unscaled two's complement, big endian, as decimal text, of any length.
pub fn decimal(unscaled: &[u8], scale: i64) -> String {
    match integer(unscaled) {
        Some(small) => place_point(&small.to_string(), scale),
        None => place_point(&long_integer(unscaled), scale),
    }
}

/// An unscaled number as decimal text.
pub fn decimal_of(unscaled: i128, scale: u32) -> String {
    place_point(&unscaled.to_string(), i64::from(scale))
}

/// Repeated division by 10^9, most significant byte first.
fn long_integer(bytes: &[u8]) -> String {
    const PART: u64 = 1_000_000_000;
    let negative = bytes.first().is_some_and(|byte| *byte >= 0x80);
    let mut magnitude = bytes.to_vec();
    if negative {
        let mut carry = true;
        for byte in magnitude.iter_mut().rev() {
            let (value, over) = (!*byte).overflowing_add(u8::from(carry));
            (*byte, carry) = (value, over);
        }
    }
    let mut parts = Vec::new();
    while magnitude.iter().any(|byte| *byte != 0) {
        let mut rest = 0_u64;
        for byte in &mut magnitude {
            let value = rest << 8 | u64::from(*byte);
            *byte = (value / PART) as u8;
            rest = value % PART;
        }
        parts.push(rest);
    }
    let mut text = String::from(if negative { "-" } else { "" });
    let mut parts = parts.into_iter().rev();
    text.push_str(&parts.next().unwrap_or_default().to_string());
    parts.for_each(|part| text.push_str(&format!("{part:09}")));
    text
}

fn place_point(digits: &str, scale: i64) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    if scale <= 0 {
        let zeros = if digits == "0" { 0 } else { scale.unsigned_abs().min(SCALE_MAX) as usize };
        return format!("{sign}{digits}{}", "0".repeat(zeros));
    }
    let scale = scale.unsigned_abs().min(SCALE_MAX) as usize;
    let padded = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = padded.split_at(padded.len() - scale);
    format!("{sign}{whole}.{fraction}")
}

/// A schema with a larger scale is an attack, not a number.
const SCALE_MAX: u64 = 10_000;

/// `2024-02-29`; days that no calendar has, as their number.
pub fn date(days: i64) -> String {
    let epoch = NaiveDate::default();
    let at = i32::try_from(days).ok().and_then(|days| epoch.checked_add_signed(chrono::TimeDelta::days(days.into())));
    at.map_or_else(|| days.to_string(), |at| at.to_string())
}

/// `12:30:00.123456`, with as many digits as the unit has and the value needs; values beyond a day as their number.
pub fn time(value: i64, unit: Unit) -> String {
    let (seconds, fraction) = (value.div_euclid(unit.per_second()), value.rem_euclid(unit.per_second()));
    if !(0..=86_400).contains(&seconds) {
        return value.to_string();
    }
    format!("{:02}:{:02}:{:02}{}", seconds / 3600, seconds / 60 % 60, seconds % 60, fraction_text(fraction, unit))
}

/// `2024-02-29T12:30:00.123Z`, without the `Z` where it has no zone; instants that no calendar has, as their number.
pub fn timestamp(value: i64, unit: Unit, utc: bool) -> String {
    let seconds = value.div_euclid(unit.per_second());
    let Some(at) = DateTime::from_timestamp(seconds, 0) else { return value.to_string() };
    let of_day = seconds.rem_euclid(86_400);
    let (hours, minutes, seconds) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let fraction = fraction_text(value.rem_euclid(unit.per_second()), unit);
    // Not by chrono's patterns, which cost several times as much.
    format!("{}T{hours:02}:{minutes:02}:{seconds:02}{fraction}{}", at.date_naive(), if utc { "Z" } else { "" })
}

fn fraction_text(fraction: i64, unit: Unit) -> String {
    let digits = match unit {
        _ if fraction == 0 => return String::new(),
        Unit::Seconds => 0,
        Unit::Millis => 3,
        Unit::Micros => 6,
        Unit::Nanos => 9,
    };
    format!(".{fraction:0digits$}")
}

/// ISO 8601, `P1M2DT3.500S`.
pub fn duration(months: u32, days: u32, millis: u32) -> String {
    format!("P{months}M{days}DT{}.{:03}S", millis / 1000, millis % 1000)
}

/// A float as the shortest text that reads back as itself; `NaN`, `Infinity`, `-Infinity`.
pub fn double(value: f64) -> String {
    match value {
        _ if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        _ => format!("{value:?}"),
    }
}

/// A float of 32 bits; see [`double`].
pub fn float(value: f32) -> String {
    if value.is_finite() { format!("{value:?}") } else { double(value.into()) }
}

/// Days since 1970 of `2024-02-29`.
pub fn parse_date(text: &str) -> Option<i64> {
    let date = text.parse::<NaiveDate>().ok()?;
    Some(date.signed_duration_since(NaiveDate::default()).num_days())
}

/// A time of day, such as `12:30:00.5`, rounded down to the unit.
pub fn parse_time(text: &str, unit: Unit) -> Option<i64> {
    let time = text.parse::<NaiveTime>().ok()?;
    let nanos = i64::from(time.num_seconds_from_midnight()) * 1_000_000_000 + i64::from(time.nanosecond());
    Unit::Nanos.convert(nanos, unit)
}

/// An instant, such as `2024-02-29T12:30:00.5+01:00`, `2024-02-29 12:30:00`, `2024-02-29`; without a zone it is in UTC. With `utc`
/// false it is what the clock on the wall says, and a zone is not taken.
pub fn parse_timestamp(text: &str, unit: Unit, utc: bool) -> Option<i64> {
    let zoned = if utc { DateTime::parse_from_rfc3339(&text.replacen(' ', "T", 1)).ok() } else { None };
    let at = match zoned {
        Some(zoned) => zoned.naive_utc(),
        None => {
            let date_and_time = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"];
            let parsed = date_and_time.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
            parsed.or_else(|| text.parse::<NaiveDate>().ok()?.and_hms_opt(0, 0, 0))?
        }
    };
    let (seconds, nanos) = (at.and_utc().timestamp(), i64::from(at.nanosecond()));
    Unit::Seconds.convert(seconds, unit)?.checked_add(Unit::Nanos.convert(nanos, unit)?)
}

/// The usual text of a uuid.
pub fn uuid(bytes: [u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// The bytes of a uuid's text, with or without hyphens.
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits = if text.len() == 36 {
        let parts: Vec<&str> = text.split('-').collect();
        if !parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12]) {
            return None;
        }
        parts.concat()
    } else {
        text.to_owned()
    };
    hex(&digits)?.try_into().ok()
}

/// The bytes that a text stands for.
pub fn parse_bytes(text: &str, origin: Origin) -> Option<Vec<u8>> {
    match origin {
        Origin::Hex => hex(text),
        _ => STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).ok(),
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.bytes().map(|byte| (byte as char).to_digit(16)).collect::<Option<Vec<u32>>>()?;
    (digits.len() % 2 == 0).then(|| digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect())
}

/// RFC 4648, section 4.
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Appends a text as a JSON string.
pub fn write_json_string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("any text is a JSON string, and writing into memory does not fail");
}
