//! CBOR in and out (RFC 8949), one item a value.
//!
//! Invariant: what is written is read back as the same scalars: decimals as tag 4, dates as tag 100 (RFC 8943), times and timestamps
//! as tag 1001 (RFC 9581) with their unit, uuids as tag 37, byte strings as byte strings.

use minicbor::data::{Tag, Type};
use minicbor::{Decoder, Encoder};
use num_bigint::BigInt;

use super::schema::Unit;
use super::text;
use super::walk::{Events, Nothing, Scalar};
use super::{DECIMAL_BYTES_MAX, DEPTH_MAX, DecodeError, SCALE_MAX};

const DECIMAL: u64 = 4;
const BIGNUM: u64 = 2;
const NEGATIVE_BIGNUM: u64 = 3;
const UUID: u64 = 37;
const DATE: u64 = 100;
/// Extended time: a map from 1 to seconds, and from -3, -6 or -9 to the fraction in that power of ten.
const EXTENDED_TIME: u64 = 1001;
/// Duration in the same form.
const DURATION: u64 = 1002;

/// Writes what a walker tells as CBOR. Containers are of indefinite length: a walker does not know their length in advance.
pub struct Writer<'a> {
    out: Encoder<&'a mut Vec<u8>>,
}

impl<'a> Writer<'a> {
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Writer { out: Encoder::new(out) }
    }

    fn put<T, E>(result: Result<T, E>) {
        // Writing into a Vec cannot fail.
        drop(result);
    }

    fn bignum(&mut self, number: &BigInt) {
        let negative = number.sign() == num_bigint::Sign::Minus;
        // A negative bignum n stands for -1 - n.
        let magnitude = if negative { -number - 1 } else { number.clone() };
        let (_, bytes) = magnitude.to_bytes_be();
        Self::put(self.out.tag(Tag::new(if negative { NEGATIVE_BIGNUM } else { BIGNUM })).and_then(|out| out.bytes(&bytes)));
    }

    fn instant(&mut self, value: i64, unit: Unit) {
        let per_second = unit.per_second();
        let exponent = match unit {
            Unit::Millis => -3,
            Unit::Micros => -6,
            Unit::Nanos => -9,
        };
        let (seconds, fraction) = (value.div_euclid(per_second), value.rem_euclid(per_second));
        Self::put(self.out.tag(Tag::new(EXTENDED_TIME)).and_then(|out| out.map(2)?.u8(1)?.i64(seconds)?.i8(exponent)?.i64(fraction)));
    }
}

impl Events for Writer<'_> {
    fn scalar(&mut self, scalar: Scalar<'_>) {
        match scalar {
            Scalar::Null => Self::put(self.out.null()),
            Scalar::Bool(value) => Self::put(self.out.bool(value)),
            Scalar::Int(value) => Self::put(self.out.i64(value)),
            Scalar::BigInt(digits) => match digits.parse::<BigInt>() {
                Ok(number) => self.bignum(&number),
                Err(_) => Self::put(self.out.str(digits)),
            },
            Scalar::Float(value) => Self::put(self.out.f32(value)),
            Scalar::Double(value) => Self::put(self.out.f64(value)),
            Scalar::Text(text) => Self::put(self.out.str(text)),
            Scalar::Bytes(bytes) => Self::put(self.out.bytes(bytes)),
            Scalar::Decimal(unscaled, scale) => {
                Self::put(self.out.tag(Tag::new(DECIMAL)).and_then(|out| out.array(2)?.i64(-scale)));
                match text::integer(unscaled).and_then(|small| i64::try_from(small).ok()) {
                    Some(small) => Self::put(self.out.i64(small)),
                    None => self.bignum(&BigInt::from_signed_bytes_be(unscaled)),
                }
            }
            Scalar::Date(days) => Self::put(self.out.tag(Tag::new(DATE)).and_then(|out| out.i64(days))),
            Scalar::Time(value, unit) | Scalar::Timestamp(value, unit, _) => self.instant(value, unit),
            Scalar::Uuid(bytes) => Self::put(self.out.tag(Tag::new(UUID)).and_then(|out| out.bytes(&bytes))),
            Scalar::Duration(months, days, millis) => {
                let text = text::duration(months, days, millis);
                Self::put(self.out.tag(Tag::new(DURATION)).and_then(|out| out.str(&text)));
            }
        }
    }

    fn begin_array(&mut self) {
        Self::put(self.out.begin_array());
    }

    fn end_array(&mut self) {
        Self::put(self.out.end());
    }

    fn begin_map(&mut self) {
        Self::put(self.out.begin_map());
    }

    fn name(&mut self, name: &str) {
        Self::put(self.out.str(name));
    }

    fn end_map(&mut self) {
        Self::put(self.out.end());
    }
}

/// Reads one CBOR item. Names of maps are texts; tags that are not known are looked through.
pub fn walk(bytes: &[u8], events: &mut impl Events) -> Result<(), DecodeError> {
    let mut decoder = Decoder::new(bytes);
    item(&mut decoder, events, 0)?;
    match bytes.len() - decoder.position() {
        0 => Ok(()),
        left => Err(DecodeError::new(decoder.position(), format!("{left} bytes are left over"))),
    }
}

fn item(decoder: &mut Decoder<'_>, events: &mut impl Events, depth: usize) -> Result<(), DecodeError> {
    let at = decoder.position();
    let bad = |error: minicbor::decode::Error| DecodeError::new(at, format!("not valid CBOR: {error}"));
    if depth > DEPTH_MAX {
        return Err(DecodeError::new(at, format!("it nests deeper than {DEPTH_MAX}")));
    }
    match decoder.datatype().map_err(bad)? {
        Type::Null | Type::Undefined => {
            decoder.skip().map_err(bad)?;
            events.scalar(Scalar::Null);
        }
        Type::Bool => events.scalar(Scalar::Bool(decoder.bool().map_err(bad)?)),
        Type::U8 | Type::U16 | Type::U32 | Type::I8 | Type::I16 | Type::I32 | Type::I64 => {
            events.scalar(Scalar::Int(decoder.i64().map_err(bad)?));
        }
        Type::U64 | Type::Int => {
            let value = i128::from(decoder.int().map_err(bad)?);
            match i64::try_from(value) {
                Ok(value) => events.scalar(Scalar::Int(value)),
                Err(_) => events.scalar(Scalar::BigInt(&value.to_string())),
            }
        }
        Type::F16 => events.scalar(Scalar::Float(decoder.f16().map_err(bad)?)),
        Type::F32 => events.scalar(Scalar::Float(decoder.f32().map_err(bad)?)),
        Type::F64 => events.scalar(Scalar::Double(decoder.f64().map_err(bad)?)),
        Type::String => events.scalar(Scalar::Text(decoder.str().map_err(bad)?)),
        Type::Bytes => events.scalar(Scalar::Bytes(decoder.bytes().map_err(bad)?)),
        Type::StringIndef => {
            let parts = decoder.str_iter().map_err(bad)?.collect::<Result<String, _>>().map_err(bad)?;
            events.scalar(Scalar::Text(&parts));
        }
        Type::BytesIndef => {
            let parts: Vec<&[u8]> = decoder.bytes_iter().map_err(bad)?.collect::<Result<_, _>>().map_err(bad)?;
            events.scalar(Scalar::Bytes(&parts.concat()));
        }
        Type::Array | Type::ArrayIndef => {
            let length = decoder.array().map_err(bad)?;
            events.begin_array();
            let mut seen = 0;
            while !ended(decoder, length, seen)? {
                events.item();
                item(decoder, events, depth + 1)?;
                seen += 1;
            }
            events.end_array();
        }
        Type::Map | Type::MapIndef => {
            let length = decoder.map().map_err(bad)?;
            events.begin_map();
            let mut seen = 0;
            while !ended(decoder, length, seen)? {
                let at = decoder.position();
                let name = decoder.str().map_err(|error| DecodeError::new(at, format!("a map's name is no text: {error}")))?;
                events.name(name);
                item(decoder, events, depth + 1).map_err(|error| error.within(name))?;
                seen += 1;
            }
            events.end_map();
        }
        Type::Tag => tagged(decoder, events, depth)?,
        other => return Err(DecodeError::new(at, format!("not valid CBOR: {other}"))),
    }
    Ok(())
}

fn ended(decoder: &mut Decoder<'_>, length: Option<u64>, seen: u64) -> Result<bool, DecodeError> {
    match length {
        Some(length) => Ok(seen >= length),
        None => {
            let at = decoder.position();
            let broken = decoder.datatype().map_err(|error| DecodeError::new(at, format!("not valid CBOR: {error}")))? == Type::Break;
            if broken {
                decoder.set_position(at + 1);
            }
            Ok(broken)
        }
    }
}

fn tagged(decoder: &mut Decoder<'_>, events: &mut impl Events, depth: usize) -> Result<(), DecodeError> {
    let at = decoder.position();
    let bad = |error: minicbor::decode::Error| DecodeError::new(at, format!("not valid CBOR: {error}"));
    let tag = decoder.tag().map_err(bad)?.as_u64();
    match tag {
        DECIMAL => {
            if decoder.array().map_err(bad)? != Some(2) {
                return Err(DecodeError::new(at, "a decimal is an array of two"));
            }
            let exponent = decoder.i64().map_err(bad)?;
            let unscaled = bignum(decoder, at)?.to_signed_bytes_be();
            if exponent.unsigned_abs() > SCALE_MAX {
                return Err(DecodeError::new(at, format!("a decimal with exponent {exponent}")));
            }
            events.scalar(Scalar::Decimal(&unscaled, -exponent));
            Ok(())
        }
        BIGNUM | NEGATIVE_BIGNUM => {
            decoder.set_position(at);
            let number = bignum(decoder, at)?;
            events.scalar(Scalar::BigInt(&number.to_string()));
            Ok(())
        }
        DATE => {
            events.scalar(Scalar::Date(decoder.i64().map_err(bad)?));
            Ok(())
        }
        UUID => {
            let bytes = decoder.bytes().map_err(bad)?;
            let uuid = bytes.try_into().map_err(|_| DecodeError::new(at, format!("a uuid of {} bytes", bytes.len())))?;
            events.scalar(Scalar::Uuid(uuid));
            Ok(())
        }
        EXTENDED_TIME => {
            let (value, unit) = instant(decoder, at, depth)?;
            events.scalar(Scalar::Timestamp(value, unit, true));
            Ok(())
        }
        _ => item(decoder, events, depth + 1),
    }
}

fn bignum(decoder: &mut Decoder<'_>, at: usize) -> Result<BigInt, DecodeError> {
    let bad = |error: minicbor::decode::Error| DecodeError::new(at, format!("not valid CBOR: {error}"));
    if decoder.datatype().map_err(bad)? != Type::Tag {
        return Ok(BigInt::from(i128::from(decoder.int().map_err(bad)?)));
    }
    let tag = decoder.tag().map_err(bad)?.as_u64();
    let bytes = decoder.bytes().map_err(bad)?;
    if bytes.len() > DECIMAL_BYTES_MAX {
        return Err(DecodeError::new(at, format!("a number of {} bytes, at most {DECIMAL_BYTES_MAX}", bytes.len())));
    }
    let magnitude = BigInt::from_bytes_be(num_bigint::Sign::Plus, bytes);
    match tag {
        BIGNUM => Ok(magnitude),
        NEGATIVE_BIGNUM => Ok(-magnitude - 1),
        other => Err(DecodeError::new(at, format!("tag {other} where a number is expected"))),
    }
}

fn instant(decoder: &mut Decoder<'_>, at: usize, depth: usize) -> Result<(i64, Unit), DecodeError> {
    let bad = |error: minicbor::decode::Error| DecodeError::new(at, format!("not valid CBOR: {error}"));
    let entries = decoder.map().map_err(bad)?.ok_or_else(|| DecodeError::new(at, "an instant is a map of known length"))?;
    let (mut seconds, mut fraction, mut unit) = (0, 0, Unit::Millis);
    for _ in 0..entries {
        match decoder.i8().map_err(bad)? {
            1 => seconds = decoder.i64().map_err(bad)?,
            -3 => (fraction, unit) = (decoder.i64().map_err(bad)?, Unit::Millis),
            -6 => (fraction, unit) = (decoder.i64().map_err(bad)?, Unit::Micros),
            -9 => (fraction, unit) = (decoder.i64().map_err(bad)?, Unit::Nanos),
            // Skipping would take anything for an item, the end of a container too.
            _ => item(decoder, &mut Nothing, depth + 1)?,
        }
    }
    // The whole seconds of the first instants of 64 bits are rounded down to before them.
    let value = i128::from(seconds) * i128::from(unit.per_second()) + i128::from(fraction);
    i64::try_from(value).map(|value| (value, unit)).map_err(|_| DecodeError::new(at, "an instant beyond 64 bits"))
}
