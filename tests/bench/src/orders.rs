//! What the benchmark's topics hold: orders of twelve fields, in Avro and in JSON.
//!
//! Invariant: the same seed makes the same orders, so that every run measures the same bytes.

use std::fmt::Write as _;

use anabranch::demo::orders::{decimal, long, text as string};

/// How a topic's values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// Avro with the registry's prefix, about 80 bytes.
    AvroSmall,
    /// The same with a note of 900 bytes.
    AvroLarge,
    /// Avro of 120 fields, about 700 bytes.
    AvroWide,
    /// JSON, about 220 bytes.
    JsonSmall,
    /// The same with a note of 900 bytes.
    JsonLarge,
}

impl Form {
    /// Short name, of topics and rows.
    pub fn name(self) -> &'static str {
        match self {
            Form::AvroSmall => "avro.s",
            Form::AvroLarge => "avro.l",
            Form::AvroWide => "avro.w",
            Form::JsonSmall => "json.s",
            Form::JsonLarge => "json.l",
        }
    }

    /// As the route's `value`.
    pub fn format(self) -> &'static str {
        match self {
            Form::JsonSmall | Form::JsonLarge => "json",
            _ => "avro",
        }
    }

    /// The Avro schema; none for JSON.
    pub fn schema(self) -> Option<String> {
        let mut fields = String::from(
            r#"{"name":"order_id","type":"long"},{"name":"customer","type":"string"},
{"name":"status","type":{"type":"enum","name":"Status","symbols":["NEW","PAID","SHIPPED","RETURNED"]}},
{"name":"country","type":"string"},{"name":"currency","type":"string"},{"name":"city","type":"string"},{"name":"quantity","type":"int"},
{"name":"amount","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}},{"name":"paid","type":"boolean"},
{"name":"ordered_at","type":{"type":"long","logicalType":"timestamp-millis"}},
{"name":"changed_at","type":["null",{"type":"long","logicalType":"timestamp-micros"}]},
{"name":"coupon","type":["null","string"]}"#,
        );
        match self {
            Form::AvroSmall => (),
            Form::AvroLarge => fields.push_str(r#",{"name":"note","type":"string"}"#),
            Form::AvroWide => {
                for field in 12..120 {
                    let kind = if field % 2 == 0 { "long" } else { "string" };
                    write!(fields, r#",{{"name":"field_{field}","type":"{kind}"}}"#).expect("writing into a String");
                }
            }
            Form::JsonSmall | Form::JsonLarge => return None,
        }
        Some(format!(r#"{{"type":"record","name":"Order","namespace":"bench","fields":[{fields}]}}"#))
    }
}

const STATUSES: [&str; 4] = ["NEW", "PAID", "SHIPPED", "RETURNED"];
const PLACES: [(&str, &str, &str); 4] =
    [("DE", "EUR", "Hamburg"), ("CH", "CHF", "Winterthur"), ("GB", "GBP", "Bristol"), ("NZ", "NZD", "Dunedin")];
const NOTE_BYTES: usize = 900;

/// Makes orders of one form.
#[derive(Debug)]
pub struct Orders {
    form: Form,
    schema: u32,
    dice: fastrand::Rng,
    made: i64,
    note: String,
}

impl Orders {
    /// Orders whose Avro values carry the registry's id `schema`.
    pub fn new(form: Form, schema: u32, seed: u64) -> Self {
        let mut dice = fastrand::Rng::with_seed(seed);
        let note = (0..NOTE_BYTES).map(|_| dice.lowercase()).collect();
        Orders { form, schema, dice, made: 0, note }
    }

    /// Writes the next order over `key` and `value`.
    pub fn next(&mut self, key: &mut Vec<u8>, value: &mut Vec<u8>) {
        key.clear();
        value.clear();
        let number = 100_000 + self.made;
        self.made += 1;
        let customer = format!("customer-{:06}@example.com", self.dice.u32(..100_000));
        key.extend_from_slice(&customer.as_bytes()[9..15]);
        let status = self.dice.usize(..4);
        let (country, currency, city) = PLACES[self.dice.usize(..4)];
        let quantity = self.dice.i64(1..20);
        let cents = self.dice.i64(100..9_999_999);
        let paid = status != 0;
        let ordered_ms = 1_790_000_000_000 + self.made * 37;
        let changed_us = paid.then_some(ordered_ms * 1000 + 71);
        let coupon = (self.dice.u8(..10) == 0).then_some("SPRING");
        match self.form {
            Form::JsonSmall | Form::JsonLarge => {
                let changed = changed_us.map_or_else(|| "null".to_owned(), |at| at.to_string());
                let coupon = coupon.map_or_else(|| "null".to_owned(), |coupon| format!("\"{coupon}\""));
                let mut text = format!(
                    r#"{{"order_id":{number},"customer":"{customer}","status":"{}","country":"{country}","currency":"{currency}","city":"{city}","quantity":{quantity},"amount":{}.{:02},"paid":{paid},"ordered_at":{ordered_ms},"changed_at":{changed},"coupon":{coupon}"#,
                    STATUSES[status],
                    cents / 100,
                    cents % 100
                );
                if self.form == Form::JsonLarge {
                    write!(text, r#","note":"{}""#, self.note).expect("writing into a String");
                }
                text.push('}');
                value.extend_from_slice(text.as_bytes());
            }
            _ => {
                value.push(0);
                value.extend_from_slice(&self.schema.to_be_bytes());
                long(value, number);
                string(value, &customer);
                long(value, status as i64);
                string(value, country);
                string(value, currency);
                string(value, city);
                long(value, quantity);
                decimal(value, cents.unsigned_abs());
                value.push(paid.into());
                long(value, ordered_ms);
                long(value, changed_us.is_some().into());
                if let Some(at) = changed_us {
                    long(value, at);
                }
                long(value, coupon.is_some().into());
                if let Some(coupon) = coupon {
                    string(value, coupon);
                }
                match self.form {
                    Form::AvroLarge => string(value, &self.note),
                    Form::AvroWide => {
                        for field in 12..120 {
                            if field % 2 == 0 { long(value, number + field) } else { string(value, "some text") }
                        }
                    }
                    _ => (),
                }
            }
        }
    }
}

/// A reader of the small orders by hand, as somebody would write it for this one schema: what a plugin is measured against.
pub mod native {
    /// The fields that the native baselines read, from Avro without the prefix.
    #[derive(Debug, Default)]
    pub struct Read<'a> {
        /// `customer`.
        pub customer: &'a [u8],
        /// `status`, its number.
        pub status: i64,
        /// `country`.
        pub country: &'a [u8],
    }

    /// Reads the first four fields. `None`: cut off.
    pub fn read(mut bytes: &[u8]) -> Option<Read<'_>> {
        long(&mut bytes)?;
        let customer = string(&mut bytes)?;
        let status = long(&mut bytes)?;
        let country = string(&mut bytes)?;
        Some(Read { customer, status, country })
    }

    fn long(bytes: &mut &[u8]) -> Option<i64> {
        let (mut value, mut shift) = (0_u64, 0);
        loop {
            let (byte, rest) = bytes.split_first()?;
            *bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some((value >> 1) as i64 ^ -((value & 1) as i64));
            }
            shift += 7;
        }
    }

    fn string<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
        let length = usize::try_from(long(bytes)?).ok()?;
        let (text, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        Some(text)
    }
}
