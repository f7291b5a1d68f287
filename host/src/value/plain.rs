//! CBOR that holds nothing but what JSON has: for readers that know no tags.
//!
//! Invariant: every number is exact: integers beyond 64 bits are texts of their digits, floats keep their width. Names of maps are
//! texts, and no item has a tag.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cbor::Writer;
use super::walk::{Events, Scalar};
use super::{DecimalAs, DecodeError, TimeAs, Value, text, walk};

/// How what JSON has no type for is written in plain CBOR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PlainOptions {
    /// Decimals; a number is a float of 64 bits, or an integer where there are no digits behind the point.
    pub decimal: DecimalAs,
    /// Byte strings.
    pub bytes: PlainBytes,
    /// Dates, times and timestamps.
    pub time: TimeAs,
}

/// Byte strings in plain CBOR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PlainBytes {
    /// Text, RFC 4648, section 4.
    #[default]
    Base64,
    /// Text, lower-case hexadecimal.
    Hex,
    /// A byte string, which is nothing that JSON has.
    Binary,
}

/// Appends a value as one CBOR item without tags.
///
/// # Errors
/// Where the bytes are not what format and schema say; `out` is as it was then.
pub fn write_plain_cbor(value: Value<'_>, options: &PlainOptions, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let length = out.len();
    let written = walk(value, &mut Plain { inner: Writer::new(out), options });
    if written.is_err() {
        out.truncate(length);
    }
    written
}

struct Plain<'a> {
    inner: Writer<'a>,
    options: &'a PlainOptions,
}

impl Plain<'_> {
    fn text(&mut self, text: &str) {
        self.inner.scalar(Scalar::Text(text));
    }
}

impl Events for Plain<'_> {
    fn scalar(&mut self, scalar: Scalar<'_>) {
        match scalar {
            Scalar::Null | Scalar::Bool(_) | Scalar::Int(_) | Scalar::Float(_) | Scalar::Double(_) | Scalar::Text(_) => {
                self.inner.scalar(scalar);
            }
            Scalar::BigInt(digits) => self.text(digits),
            Scalar::Bytes(bytes) => match self.options.bytes {
                PlainBytes::Base64 => self.text(&STANDARD.encode(bytes)),
                PlainBytes::Hex => self.text(&bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
                PlainBytes::Binary => self.inner.scalar(scalar),
            },
            Scalar::Decimal(unscaled, scale) => match self.options.decimal {
                DecimalAs::String => self.text(&text::decimal(unscaled, scale)),
                DecimalAs::Base64 => self.text(&STANDARD.encode(unscaled)),
                DecimalAs::Number => {
                    let digits = text::decimal(unscaled, scale);
                    let whole = digits.parse().map(Scalar::Int);
                    self.inner.scalar(whole.unwrap_or_else(|_| Scalar::Double(digits.parse().unwrap_or(f64::NAN))));
                }
            },
            Scalar::Date(number) | Scalar::Time(number, _) | Scalar::Timestamp(number, ..) if self.options.time == TimeAs::Number => {
                self.inner.scalar(Scalar::Int(number));
            }
            other => self.text(&text::scalar(other).unwrap_or_default()),
        }
    }

    fn begin_array(&mut self) {
        self.inner.begin_array();
    }

    fn end_array(&mut self) {
        self.inner.end_array();
    }

    fn begin_map(&mut self) {
        self.inner.begin_map();
    }

    fn name(&mut self, name: &str) {
        self.inner.name(name);
    }

    fn end_map(&mut self) {
        self.inner.end_map();
    }
}
