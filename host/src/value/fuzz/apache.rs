//! What `apache-avro` reads, as JSON: the oracle.

use std::collections::HashMap;

use apache_avro::schema::{Name, ResolvedSchema};
use apache_avro::types::Value as AvroValue;
use apache_avro::{BigDecimal, Schema as AvroSchema};
use base64::Engine as _;
use num_bigint::BigInt;
use serde_json::Value as Json;

use super::super::schema::Unit;
use super::super::text;

/// A schema as `apache-avro` has it.
pub struct Apache<'s> {
    pub schema: &'s AvroSchema,
    names: HashMap<Name, &'s AvroSchema>,
}

/// How times become JSON.
#[derive(Clone, Copy, PartialEq)]
pub enum Times {
    Numbers,
    Texts,
}

impl<'s> Apache<'s> {
    pub fn new(schema: &'s AvroSchema) -> Result<Self, String> {
        // Damaged lengths shall not take memory.
        apache_avro::util::max_allocation_bytes(1 << 17);
        let resolved = ResolvedSchema::try_from(schema).map_err(|error| error.to_string())?;
        Ok(Apache { schema, names: resolved.get_names().clone() })
    }

    /// A value, and how many bytes are left behind it.
    pub fn read(&self, mut bytes: &[u8]) -> Result<(AvroValue, usize), String> {
        let value = apache_avro::from_avro_datum(self.schema, &mut bytes, None).map_err(|error| error.to_string())?;
        Ok((value, bytes.len()))
    }

    /// The schema that a name stands for.
    pub fn look_up(&self, schema: &'s AvroSchema) -> &'s AvroSchema {
        match schema {
            AvroSchema::Ref { name } => self.names[name],
            other => other,
        }
    }

    /// The branch of a union that a value is.
    pub fn look_through<'v>(&self, value: &'v AvroValue, schema: &'s AvroSchema) -> (&'v AvroValue, &'s AvroSchema) {
        match (value, self.look_up(schema)) {
            (AvroValue::Union(branch, value), AvroSchema::Union(union)) => (value, self.look_up(&union.variants()[*branch as usize])),
            (value, schema) => (value, schema),
        }
    }

    pub fn json(&self, value: &AvroValue, schema: &'s AvroSchema, times: Times) -> Json {
        let schema = self.look_up(schema);
        let base64 = |bytes: &[u8]| Json::from(base64::engine::general_purpose::STANDARD.encode(bytes));
        let time = |value: i64, unit| if times == Times::Numbers { value.into() } else { text::time(value, unit).into() };
        let at = |value: i64, unit, utc| if times == Times::Numbers { value.into() } else { text::timestamp(value, unit, utc).into() };
        match (value, schema) {
            (AvroValue::Null, _) => Json::Null,
            (AvroValue::Boolean(value), _) => Json::Bool(*value),
            (AvroValue::Int(value), _) => (*value).into(),
            (AvroValue::Long(value), _) => (*value).into(),
            // Of two shortest texts that read back as the same float, which one is a matter of taste.
            (AvroValue::Float(value), _) if value.is_finite() => serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap(),
            (AvroValue::Float(value), _) => float((*value).into()),
            (AvroValue::Double(value), _) => float(*value),
            (AvroValue::Bytes(bytes) | AvroValue::Fixed(_, bytes), _) => base64(bytes),
            (AvroValue::String(text) | AvroValue::Enum(_, text), _) => text.as_str().into(),
            (AvroValue::Union(..), _) => {
                let (value, schema) = self.look_through(value, schema);
                self.json(value, schema, times)
            }
            (AvroValue::Array(items), AvroSchema::Array(array)) => items.iter().map(|item| self.json(item, &array.items, times)).collect(),
            (AvroValue::Map(entries), AvroSchema::Map(map)) => {
                Json::Object(entries.iter().map(|(name, value)| (name.clone(), self.json(value, &map.types, times))).collect())
            }
            (AvroValue::Record(values), AvroSchema::Record(record)) => {
                let fields = values.iter().zip(&record.fields);
                Json::Object(fields.map(|((name, value), field)| (name.clone(), self.json(value, &field.schema, times))).collect())
            }
            (AvroValue::Decimal(number), AvroSchema::Decimal(decimal)) => {
                digits(&BigInt::from(number.clone()), decimal.scale as i64).into()
            }
            (AvroValue::BigDecimal(number), _) => big_decimal(number).into(),
            (AvroValue::Date(days), _) if times == Times::Numbers => (*days).into(),
            (AvroValue::Date(days), _) => text::date((*days).into()).into(),
            (AvroValue::TimeMillis(value), _) => time((*value).into(), Unit::Millis),
            (AvroValue::TimeMicros(value), _) => time(*value, Unit::Micros),
            (AvroValue::TimestampMillis(value), _) => at(*value, Unit::Millis, true),
            (AvroValue::TimestampMicros(value), _) => at(*value, Unit::Micros, true),
            (AvroValue::TimestampNanos(value), _) => at(*value, Unit::Nanos, true),
            (AvroValue::LocalTimestampMillis(value), _) => at(*value, Unit::Millis, false),
            (AvroValue::LocalTimestampMicros(value), _) => at(*value, Unit::Micros, false),
            (AvroValue::LocalTimestampNanos(value), _) => at(*value, Unit::Nanos, false),
            (AvroValue::Duration(duration), _) => {
                let bytes = <[u8; 12]>::from(*duration);
                let part = |from: usize| u32::from_le_bytes(bytes[from..from + 4].try_into().unwrap());
                let (months, days, millis) = (part(0), part(4), part(8));
                format!("P{months}M{days}DT{}.{:03}S", millis / 1000, millis % 1000).into()
            }
            (AvroValue::Uuid(uuid), _) => uuid.to_string().into(),
            (value, schema) => panic!("{value:?} under {schema:?}"),
        }
    }

    /// Whether a path leads through a union of several branches that have fields.
    pub fn is_ambiguous(&self, schema: &'s AvroSchema, path: &[String]) -> bool {
        let Some((name, rest)) = path.split_first() else { return false };
        match self.look_up(schema) {
            AvroSchema::Union(union) => {
                let has_fields = |schema: &&AvroSchema| matches!(schema, AvroSchema::Record(_) | AvroSchema::Array(_) | AvroSchema::Map(_));
                let mut branches = union.variants().iter().map(|branch| self.look_up(branch)).filter(has_fields);
                match (branches.next(), branches.next()) {
                    (Some(only), None) => self.is_ambiguous(only, path),
                    (first, _) => first.is_some(),
                }
            }
            AvroSchema::Array(array) => self.is_ambiguous(&array.items, rest),
            AvroSchema::Map(map) => self.is_ambiguous(&map.types, rest),
            AvroSchema::Record(record) => {
                record.fields.iter().find(|field| field.name == *name).is_some_and(|field| self.is_ambiguous(&field.schema, rest))
            }
            _ => false,
        }
    }

    /// The value at a path; `None`: there is none.
    pub fn find<'v>(&self, value: &'v AvroValue, schema: &'s AvroSchema, path: &[String]) -> Option<(&'v AvroValue, &'s AvroSchema)> {
        let (inner, inner_schema) = self.look_through(value, schema);
        let Some((name, rest)) = path.split_first() else { return Some((value, schema)) };
        match (inner, inner_schema) {
            (AvroValue::Record(values), AvroSchema::Record(record)) => {
                let position = values.iter().position(|(known, _)| known == name)?;
                self.find(&values[position].1, &record.fields[position].schema, rest)
            }
            (AvroValue::Array(items), AvroSchema::Array(array)) => self.find(items.get(name.parse::<usize>().ok()?)?, &array.items, rest),
            (AvroValue::Map(entries), AvroSchema::Map(map)) => self.find(entries.get(name)?, &map.types, rest),
            _ => None,
        }
    }
}

/// A float as JSON reads it back.
pub fn float(value: f64) -> Json {
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity".into() } else { "-Infinity".into() }
    } else {
        value.into()
    }
}

/// A decimal with all its digits, the long way round.
pub fn digits(unscaled: &BigInt, scale: i64) -> String {
    if scale <= 0 {
        return (unscaled * BigInt::from(10).pow(scale.unsigned_abs() as u32)).to_string();
    }
    let power = BigInt::from(10).pow(scale as u32);
    let magnitude = unscaled.magnitude();
    let (whole, rest) = (magnitude / power.magnitude(), magnitude % power.magnitude());
    let sign = if unscaled.sign() == num_bigint::Sign::Minus { "-" } else { "" };
    format!("{sign}{whole}.{:0>1$}", rest.to_string(), scale as usize)
}

fn big_decimal(number: &BigDecimal) -> String {
    let (unscaled, scale) = number.as_bigint_and_exponent();
    digits(&unscaled, scale)
}
