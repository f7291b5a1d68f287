//! Scalars as text: decimals with all their digits, dates and times as ISO 8601.

use chrono::{DateTime, Datelike, NaiveDate, Timelike};
use num_bigint::BigInt;

use super::schema::Unit;
use super::walk::Scalar;

/// Unscaled two's complement, big endian, as decimal text.
pub fn decimal(unscaled: &[u8], scale: i64) -> String {
    let digits = match integer(unscaled) {
        // Digits of 128 bits take several times as long.
        Some(small) => i64::try_from(small).map_or_else(|_| small.to_string(), |small| small.to_string()),
        None => BigInt::from_signed_bytes_be(unscaled).to_string(),
    };
    place_point(&digits, scale)
}

/// The number if it has at most 128 bits.
pub fn integer(unscaled: &[u8]) -> Option<i128> {
    if unscaled.len() > 16 {
        return None;
    }
    let fill = if unscaled.first().is_some_and(|byte| *byte >= 0x80) { 0xff } else { 0 };
    let mut bytes = [fill; 16];
    bytes[16 - unscaled.len()..].copy_from_slice(unscaled);
    Some(i128::from_be_bytes(bytes))
}

fn place_point(digits: &str, scale: i64) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    if scale <= 0 {
        let zeros = if digits == "0" { 0 } else { scale.unsigned_abs() as usize };
        return format!("{sign}{digits}{}", "0".repeat(zeros));
    }
    let scale = scale as usize;
    let mut text = String::with_capacity(sign.len() + digits.len().max(scale + 1) + 1);
    text.push_str(sign);
    match digits.len().checked_sub(scale) {
        Some(whole @ 1..) => {
            text.push_str(&digits[..whole]);
            text.push('.');
            text.push_str(&digits[whole..]);
        }
        _ => {
            text.push_str("0.");
            text.extend(std::iter::repeat_n('0', scale - digits.len()));
            text.push_str(digits);
        }
    }
    text
}

/// `2024-02-29`; days that no calendar has, as their number.
pub fn date(days: i64) -> String {
    let date = i32::try_from(days)
        .ok()
        .and_then(|days| NaiveDate::from_ymd_opt(1970, 1, 1)?.checked_add_signed(chrono::TimeDelta::days(days.into())));
    date.map_or_else(|| days.to_string(), |date| date.to_string())
}

/// `12:30:00.123456`, with as many digits as the unit has and the value needs; values beyond a day as their number.
pub fn time(value: i64, unit: Unit) -> String {
    let per_second = unit.per_second();
    let (seconds, fraction) = (value.div_euclid(per_second), value.rem_euclid(per_second));
    if !(0..=86_400).contains(&seconds) {
        return value.to_string();
    }
    let mut text = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    push_fraction(&mut text, fraction, unit);
    text
}

/// Of an instant in nanoseconds.
const LENGTH: usize = "2024-02-29T12:30:00.123456789Z".len();

/// `2024-02-29T12:30:00.123Z`, without the `Z` where it has no zone; instants that no calendar has, as their number.
pub fn timestamp(value: i64, unit: Unit, utc: bool) -> String {
    let per_second = unit.per_second();
    let Some(at) = DateTime::from_timestamp(value.div_euclid(per_second), 0) else { return value.to_string() };
    let mut text = String::with_capacity(LENGTH);
    match u32::try_from(at.year()) {
        // chrono reads its format with every call, and instants are in many records.
        Ok(year @ 0..=9999) => {
            for (number, mark) in [(year / 100, None), (year % 100, Some('-')), (at.month(), Some('-')), (at.day(), Some('T'))] {
                push_two(&mut text, number);
                text.extend(mark);
            }
            for (number, mark) in [(at.hour(), Some(':')), (at.minute(), Some(':')), (at.second(), None)] {
                push_two(&mut text, number);
                text.extend(mark);
            }
        }
        _ => text.push_str(&at.format("%Y-%m-%dT%H:%M:%S").to_string()),
    }
    push_fraction(&mut text, value.rem_euclid(per_second), unit);
    if utc {
        text.push('Z');
    }
    text
}

fn push_fraction(text: &mut String, fraction: i64, unit: Unit) {
    if fraction == 0 {
        return;
    }
    let digits = match unit {
        Unit::Millis => 3,
        Unit::Micros => 6,
        Unit::Nanos => 9,
    };
    text.push('.');
    text.extend((0..digits).rev().map(|place| (b'0' + (fraction / 10_i64.pow(place) % 10) as u8) as char));
}

fn push_two(text: &mut String, number: u32) {
    text.extend([number / 10, number % 10].map(|digit| (b'0' + digit as u8) as char));
}

/// ISO 8601, `P1M2DT3.500S`.
pub fn duration(months: u32, days: u32, millis: u32) -> String {
    format!("P{months}M{days}DT{}.{:03}S", millis / 1000, millis % 1000)
}

/// A float as the shortest text that reads back as itself; `NaN`, `Infinity`, `-Infinity`.
pub fn double(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else {
        format!("{value:?}")
    }
}

/// Any scalar as text; `None` for null and for bytes.
pub fn scalar(scalar: Scalar<'_>) -> Option<String> {
    Some(match scalar {
        Scalar::Null | Scalar::Bytes(_) => return None,
        Scalar::Bool(value) => value.to_string(),
        Scalar::Int(value) => value.to_string(),
        Scalar::BigInt(text) | Scalar::Text(text) => text.to_owned(),
        Scalar::Float(value) if value.is_finite() => format!("{value:?}"),
        Scalar::Float(value) => double(value.into()),
        Scalar::Double(value) => double(value),
        Scalar::Decimal(unscaled, scale) => decimal(unscaled, scale),
        Scalar::Date(days) => date(days),
        Scalar::Time(value, unit) => time(value, unit),
        Scalar::Timestamp(value, unit, utc) => timestamp(value, unit, utc),
        Scalar::Uuid(bytes) => uuid::Uuid::from_bytes(bytes).to_string(),
        Scalar::Duration(months, days, millis) => duration(months, days, millis),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_keep_every_digit() {
        let cases: [(&[u8], i64, &str); 8] = [
            (&[0x04, 0xd2], 2, "12.34"),
            (&[0xfb, 0x2e], 2, "-12.34"),
            (&[0x05], 3, "0.005"),
            (&[0xff], 3, "-0.001"),
            (&[0x00], 2, "0.00"),
            (&[0x07], -2, "700"),
            (&[], 0, "0"),
            (&[0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0, "340282366920938463463374607431768211456"),
        ];
        for (unscaled, scale, text) in cases {
            assert_eq!(decimal(unscaled, scale), text);
        }
    }

    #[test]
    fn instants_before_1970_and_beyond_the_calendar_have_a_text() {
        assert_eq!(timestamp(-1, Unit::Millis, true), "1969-12-31T23:59:59.999Z");
        assert_eq!(timestamp(1_709_209_800_000_001, Unit::Micros, false), "2024-02-29T12:30:00.000001");
        assert_eq!(timestamp(1_709_209_800_000_000_001, Unit::Nanos, true), "2024-02-29T12:30:00.000000001Z");
        assert_eq!(timestamp(253_402_300_799_000, Unit::Millis, true), "9999-12-31T23:59:59Z");
        assert_eq!(timestamp(253_402_300_800_000, Unit::Millis, true), "+10000-01-01T00:00:00Z");
        assert_eq!(timestamp(-62_167_219_200_000, Unit::Millis, true), "0000-01-01T00:00:00Z");
        assert_eq!(timestamp(-62_167_219_201_000, Unit::Millis, true), "-0001-12-31T23:59:59Z");
        assert_eq!(timestamp(i64::MAX, Unit::Millis, true), i64::MAX.to_string());
        assert_eq!(date(19_782), "2024-02-29");
        assert_eq!(date(i64::from(i32::MAX)), i32::MAX.to_string());
        assert_eq!(time(86_400_000_000, Unit::Micros), "24:00:00");
        assert_eq!(time(-5, Unit::Micros), "-5");
    }
}
