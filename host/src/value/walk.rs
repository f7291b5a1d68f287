//! What a walker of any format tells, one call per thing it meets; renderers implement it.

use super::schema::Unit;

/// A scalar in its most exact form.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scalar<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// An integer beyond 64 bits, as decimal text.
    BigInt(&'a str),
    Float(f32),
    Double(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// Unscaled value, two's complement, big endian, and the number of digits behind the point.
    Decimal(&'a [u8], i64),
    /// Days since 1970-01-01.
    Date(i64),
    /// Since midnight.
    Time(i64, Unit),
    /// Since 1970-01-01T00:00; `true`: in UTC, otherwise of no zone.
    Timestamp(i64, Unit, bool),
    Uuid([u8; 16]),
    /// Months, days, milliseconds.
    Duration(u32, u32, u32),
}

/// Told by a walker. Containers nest properly; a map's or record's entry is a `name` and then its value.
pub trait Events {
    fn scalar(&mut self, scalar: Scalar<'_>);
    fn begin_array(&mut self);
    fn item(&mut self) {}
    fn end_array(&mut self);
    fn begin_map(&mut self);
    fn name(&mut self, name: &str);
    fn end_map(&mut self);

    /// Bytes without any format: text where they are UTF-8, which is what JSON and CBOR can show best.
    fn raw(&mut self, bytes: &[u8]) {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.scalar(Scalar::Text(text)),
            Err(_) => self.scalar(Scalar::Bytes(bytes)),
        }
    }
}

/// Keeps nothing: for validation.
pub struct Nothing;

impl Events for Nothing {
    fn scalar(&mut self, _: Scalar<'_>) {}
    fn begin_array(&mut self) {}
    fn end_array(&mut self) {}
    fn begin_map(&mut self) {}
    fn name(&mut self, _: &str) {}
    fn end_map(&mut self) {}
}
