//! Values without a schema of their own, such as JSON, as Avro binary (Avro 1.12) under a schema that somebody chose.
//!
//! Invariant: nothing is left out and no digit is lost in silence: a field that the schema does not have, and a number that its type cannot
//! hold, are errors that name the field. Only floats are rounded, to the nearest one.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Timelike};
use num_bigint::BigInt;
use serde_json::Value as Json;

use super::json::{BytesAs, DecimalAs, JsonOptions, TimeAs};
use super::schema::{Field, Logical, NodeId, Schema, SchemaError, Shape, Unit, look_through};
use super::text;
use super::walk::{Events, Scalar};
use super::{DECIMAL_BYTES_MAX, DEPTH_MAX, Format, Value, walk};

/// A value that does not fit its schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", if .field.is_empty() { String::new() } else { format!("field {:?}: ", .field) })]
pub struct Misfit {
    /// Path of the field, joined by dots; empty: the whole value.
    pub field: String,
    /// What is wrong.
    pub reason: String,
}

impl Misfit {
    fn new(reason: impl Into<String>) -> Self {
        Misfit { field: String::new(), reason: reason.into() }
    }

    fn within(mut self, name: &str) -> Self {
        self.field = if self.field.is_empty() { name.to_owned() } else { format!("{name}.{}", self.field) };
        self
    }
}

/// What a value says, before anybody knows its types.
#[derive(Debug, Clone, PartialEq)]
enum Item {
    Null,
    Bool(bool),
    Int(i64),
    /// Beyond 64 bits.
    BigInt(String),
    Double(f64),
    Text(String),
    /// Of a format that has decimals.
    Decimal(String),
    Bytes(Vec<u8>),
    Array(Vec<Item>),
    Map(Vec<(String, Item)>),
}

impl Item {
    /// In words for the user.
    fn kind(&self) -> &'static str {
        match self {
            Item::Null => "null",
            Item::Bool(_) => "a boolean",
            Item::Int(_) | Item::BigInt(_) => "an integer",
            Item::Double(_) | Item::Decimal(_) => "a number",
            Item::Text(_) => "a text",
            Item::Bytes(_) => "bytes",
            Item::Array(_) => "an array",
            Item::Map(_) => "an object",
        }
    }
}

/// Writes values as Avro of one schema.
#[derive(Debug)]
pub struct Encoder {
    schema: Arc<Schema>,
    /// What a field is that a value does not have, by record and number of the field, as Avro.
    defaults: HashMap<(NodeId, usize), Vec<u8>>,
    options: JsonOptions,
}

impl Encoder {
    /// An encoder for `schema`, which is Avro. `options`: how values write what JSON has no type for.
    ///
    /// # Errors
    /// Where the schema has types that cannot be written, or a default that does not fit.
    pub fn new(schema: Arc<Schema>, options: JsonOptions) -> Result<Encoder, SchemaError> {
        let mut encoder = Encoder { schema: schema.clone(), defaults: HashMap::new(), options };
        let nodes = schema.nodes();
        if nodes.is_empty() {
            return Err(SchemaError::new("it is no Avro schema"));
        }
        for node in nodes {
            if matches!(node.logical, Logical::BigDecimal | Logical::Duration) {
                return Err(SchemaError::new(format!("values of {} cannot be written", node.definition)));
            }
        }
        for (id, node) in nodes.iter().enumerate() {
            let Shape::Record(fields) = &node.shape else { continue };
            let definition: Json = serde_json::from_str(&node.definition).map_err(|error| SchemaError::new(error.to_string()))?;
            for (index, field) in fields.iter().enumerate() {
                let Some(default) = definition["fields"][index].get("default") else { continue };
                let mut bytes = Vec::new();
                let written = encoder.put(field.node, Given { item: &of_json(default), is_default: true, is_exact: false }, 0, &mut bytes);
                written.map_err(|misfit| SchemaError::new(format!("the default of field {:?}: {misfit}", field.name)))?;
                encoder.defaults.insert((id as NodeId, index), bytes);
            }
        }
        Ok(encoder)
    }

    /// The schema.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// Appends a value.
    ///
    /// # Errors
    /// Where the bytes are not what their format says, or the value does not fit the schema; `out` is as it was then.
    pub fn write(&self, value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Misfit> {
        let item = match value.format {
            Format::Raw => self.raw(value.bytes),
            _ => {
                let mut tree = Tree::default();
                walk(value, &mut tree).map_err(|error| Misfit::new(error.to_string()))?;
                tree.root.unwrap_or(Item::Null)
            }
        };
        let length = out.len();
        let written = self.put(0, Given { item: &item, is_default: false, is_exact: false }, 0, out);
        if written.is_err() {
            out.truncate(length);
        }
        written
    }

    /// Bytes of no format: text where the schema is of a text.
    fn raw(&self, bytes: &[u8]) -> Item {
        let nodes = self.schema.nodes();
        let is_text = matches!(nodes[look_through(nodes, 0).0 as usize].shape, Shape::String);
        match std::str::from_utf8(bytes) {
            Ok(text) if is_text => Item::Text(text.to_owned()),
            _ => Item::Bytes(bytes.to_vec()),
        }
    }

    fn put(&self, id: NodeId, given: Given<'_>, depth: usize, out: &mut Vec<u8>) -> Result<(), Misfit> {
        if depth > DEPTH_MAX {
            return Err(Misfit::new(format!("it nests deeper than {DEPTH_MAX}")));
        }
        let node = &self.schema.nodes()[id as usize];
        let item = given.item;
        let unfit = || Misfit::new(format!("{} is no {}", item.kind(), node.definition));
        match (&node.shape, node.logical, item) {
            (Shape::Union(branches), ..) => self.union(branches, given, depth, out)?,
            (Shape::Record(fields), _, Item::Map(entries)) => self.record(id, fields, entries, given, depth, out)?,
            (Shape::Array(inner), _, Item::Array(items)) => {
                if !items.is_empty() {
                    long(items.len() as i64, out);
                }
                for (index, item) in items.iter().enumerate() {
                    self.put(*inner, Given { item, ..given }, depth + 1, out).map_err(|misfit| misfit.within(&index.to_string()))?;
                }
                out.push(0);
            }
            (Shape::Map(inner), _, Item::Map(entries)) => {
                if !entries.is_empty() {
                    long(entries.len() as i64, out);
                }
                for (name, item) in entries {
                    bytes(name.as_bytes(), out);
                    self.put(*inner, Given { item, ..given }, depth + 1, out).map_err(|misfit| misfit.within(name))?;
                }
                out.push(0);
            }
            (Shape::Null, _, Item::Null) => {}
            (Shape::Boolean, _, Item::Bool(value)) => out.push(u8::from(*value)),
            (shape @ (Shape::Bytes | Shape::Fixed(_)), Logical::Decimal { precision, scale }, _) => {
                let unscaled = self.decimal(given, precision, scale)?;
                match shape {
                    Shape::Fixed(size) => {
                        given.comes_back(|| self.options.decimal != DecimalAs::Base64 || unscaled.len() == *size)?;
                        fixed(&unscaled, *size, out)?;
                    }
                    _ => bytes(&unscaled, out),
                }
            }
            (Shape::Fixed(16), Logical::Uuid, Item::Text(text)) => {
                let uuid = uuid::Uuid::parse_str(text).map_err(|_| Misfit::new(format!("{text:?} is no UUID")))?;
                given.comes_back(|| uuid.to_string() == *text)?;
                out.extend_from_slice(uuid.as_bytes());
            }
            (Shape::String, Logical::Uuid, Item::Text(text)) => {
                let uuid = uuid::Uuid::parse_str(text).map_err(|_| Misfit::new(format!("{text:?} is no UUID")))?;
                given.comes_back(|| uuid.to_string() == *text)?;
                bytes(text.as_bytes(), out);
            }
            (Shape::String, _, Item::Text(text)) => bytes(text.as_bytes(), out),
            (Shape::Bytes, _, Item::Text(_) | Item::Bytes(_)) => bytes(&self.binary(given)?, out),
            (Shape::Fixed(size), _, Item::Text(_) | Item::Bytes(_)) => {
                let binary = self.binary(given)?;
                if binary.len() != *size {
                    return Err(Misfit::new(format!("{} bytes are no {}", binary.len(), node.definition)));
                }
                out.extend_from_slice(&binary);
            }
            (Shape::Enum(symbols), _, Item::Text(text)) => {
                let symbol = symbols.iter().position(|symbol| symbol == text);
                long(symbol.ok_or_else(|| Misfit::new(format!("{text:?} is no {}", node.definition)))? as i64, out);
            }
            (Shape::Int, logical, _) => {
                let value = self.integer(given, logical).ok_or_else(unfit)?;
                long(i32::try_from(value).map_err(|_| Misfit::new(format!("{value} is no {}", node.definition)))?.into(), out);
            }
            (Shape::Long, logical, _) => long(self.integer(given, logical).ok_or_else(unfit)?, out),
            (Shape::Float, ..) => {
                let value = given.double().ok_or_else(unfit)?;
                // The nearest: JSON has no other way to say which float it means.
                #[allow(clippy::cast_possible_truncation, reason = "see above")]
                let float = value as f32;
                if float.is_infinite() && value.is_finite() {
                    return Err(unfit());
                }
                given.comes_back(|| text::double(value) == text::scalar(Scalar::Float(float)).unwrap_or_default())?;
                out.extend_from_slice(&float.to_le_bytes());
            }
            (Shape::Double, ..) => out.extend_from_slice(&given.double().ok_or_else(unfit)?.to_le_bytes()),
            _ => return Err(unfit()),
        }
        Ok(())
    }

    /// The first branch that brings back the value as it is written, plain texts before all others; else the first that holds it.
    fn union(&self, branches: &[NodeId], given: Given<'_>, depth: usize, out: &mut Vec<u8>) -> Result<(), Misfit> {
        let nodes = self.schema.nodes();
        let is_text = |id: NodeId| matches!(nodes[id as usize].shape, Shape::String) && nodes[id as usize].logical == Logical::None;
        let is_first = |id: NodeId| matches!(given.item, Item::Text(_)) && is_text(id);
        let first = branches.iter().enumerate().filter(|(_, id)| is_first(**id));
        let others = branches.iter().enumerate().filter(|(_, id)| !is_first(**id));
        let length = out.len();
        let mut misfits = Vec::new();
        for is_exact in if given.is_exact { &[true][..] } else { &[true, false] } {
            misfits.clear();
            for (index, id) in first.clone().chain(others.clone()) {
                // Most unions have null in front: no message is made for what is not null.
                if matches!(nodes[*id as usize].shape, Shape::Null) && *given.item != Item::Null {
                    continue;
                }
                long(index as i64, out);
                match self.put(*id, Given { is_exact: *is_exact, ..given }, depth + 1, out) {
                    Ok(()) => return Ok(()),
                    Err(misfit) => misfits.push(misfit),
                }
                out.truncate(length);
            }
        }
        // Of several, the one that came furthest says most.
        let furthest = misfits.into_iter().max_by_key(|misfit| misfit.field.len());
        Err(furthest.unwrap_or_else(|| Misfit::new(format!("{} fits no branch of the union", given.item.kind()))))
    }

    fn record(
        &self,
        id: NodeId,
        fields: &[Field],
        entries: &[(String, Item)],
        given: Given<'_>,
        depth: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Misfit> {
        let mut used = 0;
        // Most values have their fields in the order of the schema.
        let mut next = 0;
        for (index, field) in fields.iter().enumerate() {
            let here = |at: usize| entries.get(at).is_some_and(|(name, _)| *name == field.name);
            let at = if here(next) { Some(next) } else { (0..entries.len()).find(|at| here(*at)) };
            match at {
                Some(at) => {
                    (used, next) = (used + 1, at + 1);
                    let item = &entries[at].1;
                    self.put(field.node, Given { item, ..given }, depth + 1, out).map_err(|misfit| misfit.within(&field.name))?;
                }
                None if given.is_exact => return Err(Misfit::new("it is missing").within(&field.name)),
                None => self.missing(id, index, field, given, depth, out)?,
            }
        }
        if used == entries.len() {
            return Ok(());
        }
        let is_known = |name: &String| fields.iter().any(|field| field.name == *name);
        let reason = |name: &String| if is_known(name) { "it is there twice" } else { "the schema does not have it" };
        let extra =
            entries.iter().enumerate().find(|(at, (name, _))| !is_known(name) || entries[..*at].iter().any(|(before, _)| before == name));
        Err(extra.map_or_else(|| Misfit::new("it has too many fields"), |(_, (name, _))| Misfit::new(reason(name)).within(name)))
    }

    /// A field that the value does not have: its default, else null where that fits.
    fn missing(
        &self,
        record: NodeId,
        index: usize,
        field: &Field,
        given: Given<'_>,
        depth: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Misfit> {
        if let Some(default) = self.defaults.get(&(record, index)) {
            out.extend_from_slice(default);
            return Ok(());
        }
        let null = self.put(field.node, Given { item: &Item::Null, ..given }, depth + 1, out);
        null.map_err(|_| Misfit::new("it is missing, and the schema has no default for it").within(&field.name))
    }

    fn binary(&self, given: Given<'_>) -> Result<Vec<u8>, Misfit> {
        let text = match given.item {
            Item::Bytes(bytes) => return Ok(bytes.clone()),
            Item::Text(text) => text,
            other => return Err(Misfit::new(format!("{} is no bytes", other.kind()))),
        };
        let (read, form) = match self.options.bytes {
            _ if given.is_default => (latin(text), "bytes"),
            BytesAs::Base64 => (STANDARD.decode(text).ok(), "base64"),
            BytesAs::Hex => (unhex(text), "lower-case hexadecimal"),
        };
        read.ok_or_else(|| Misfit::new(format!("{text:?} is not {form}")))
    }

    /// The unscaled value of a decimal, two's complement, big endian.
    fn decimal(&self, given: Given<'_>, precision: usize, scale: i64) -> Result<Vec<u8>, Misfit> {
        let (text, is_number) = match given.item {
            Item::Int(value) => (value.to_string(), true),
            Item::Double(value) if value.is_finite() => (value.to_string(), true),
            Item::BigInt(text) => (text.clone(), true),
            Item::Decimal(text) => (text.clone(), false),
            Item::Text(text) if given.is_default || self.options.decimal == DecimalAs::Base64 => {
                let read = if given.is_default { latin(text) } else { STANDARD.decode(text).ok() };
                return read.ok_or_else(|| Misfit::new(format!("{text:?} is not base64")));
            }
            Item::Text(text) => (text.clone(), false),
            other => return Err(Misfit::new(format!("{} is no decimal", other.kind()))),
        };
        let unscaled = unscaled(&text, scale).filter(|unscaled| digits(unscaled) <= precision);
        let unscaled = unscaled.ok_or_else(|| Misfit::new(format!("{text} is no decimal({precision},{scale})")))?.to_signed_bytes_be();
        given.comes_back(|| is_number == (self.options.decimal == DecimalAs::Number) && text::decimal(&unscaled, scale) == text)?;
        Ok(unscaled)
    }

    /// An integer, or what a logical type says by one.
    fn integer(&self, given: Given<'_>, logical: Logical) -> Option<i64> {
        let is_plain = logical == Logical::None || self.options.time == TimeAs::Number;
        match given.item {
            Item::Int(value) => (is_plain || !given.is_exact).then_some(*value),
            Item::Double(value) if logical == Logical::None && !given.is_exact => whole(*value),
            Item::Text(text) => moment(text, logical)
                .filter(|(value, written)| {
                    // What no calendar has is written as its number; any other text of a number is none.
                    text == written || !given.is_exact && text.parse() != Ok(*value)
                })
                .map(|(value, _)| value),
            _ => None,
        }
    }
}

/// What is to be written, and how.
#[derive(Clone, Copy)]
struct Given<'i> {
    item: &'i Item,
    /// It is a field's default in its schema, where each byte is written as a character (Avro 1.12).
    is_default: bool,
    /// Only a type fits that brings it back as it is written.
    is_exact: bool,
}

impl Given<'_> {
    /// # Errors
    /// Where it has to come back as it is written, and would not.
    fn comes_back(self, comes_back: impl FnOnce() -> bool) -> Result<(), Misfit> {
        if !self.is_exact || comes_back() { Ok(()) } else { Err(Misfit::new("it would come back as something else")) }
    }

    fn double(self) -> Option<f64> {
        match self.item {
            Item::Double(value) => Some(*value),
            Item::Int(value) if !self.is_exact => {
                #[allow(clippy::cast_precision_loss, reason = "it is looked whether there was one")]
                let float = *value as f64;
                (whole(float) == Some(*value)).then_some(float)
            }
            // As floats without a number are written in JSON.
            Item::Text(text) if matches!(text.as_str(), "NaN" | "Infinity" | "-Infinity") => text.parse().ok(),
            _ => None,
        }
    }
}

const LOCAL: &str = "%Y-%m-%dT%H:%M:%S%.f";

/// A date, a time or an instant as the number of its type, and how that is written.
fn moment(text: &str, logical: Logical) -> Option<(i64, String)> {
    let number = || text.parse::<i64>().ok();
    match logical {
        Logical::Date => {
            let date = || Some((NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()? - NaiveDate::from_ymd_opt(1970, 1, 1)?).num_days());
            let value = number().or_else(date)?;
            Some((value, text::date(value)))
        }
        Logical::Time(unit) => {
            let time = || {
                // The end of a day is a time too, though not for the calendar.
                let (days, rest) = text.strip_prefix("24:00:00").map_or((0, text.to_owned()), |rest| (1, format!("00:00:00{rest}")));
                let time = NaiveTime::parse_from_str(&rest, "%H:%M:%S%.f").ok()?;
                in_units(days * 86_400 + i64::from(time.num_seconds_from_midnight()), time.nanosecond(), unit)
            };
            let value = number().or_else(time)?;
            Some((value, text::time(value, unit)))
        }
        Logical::Timestamp(unit, utc) => {
            let instant = || {
                // Years beyond four digits are no RFC 3339, but are written.
                let at = match (text.strip_suffix('Z'), utc) {
                    (Some(plain), true) => NaiveDateTime::parse_from_str(plain, LOCAL).ok()?.and_utc(),
                    (None, true) => DateTime::parse_from_rfc3339(text).ok()?.to_utc(),
                    (_, false) => NaiveDateTime::parse_from_str(text, LOCAL).ok()?.and_utc(),
                };
                in_units(at.timestamp(), at.timestamp_subsec_nanos(), unit)
            };
            let value = number().or_else(instant)?;
            Some((value, text::timestamp(value, unit, utc)))
        }
        _ => None,
    }
}

/// Some clients have floats only.
fn whole(value: f64) -> Option<i64> {
    // Up to here every integer is a float of 64 bits (IEEE 754, 53 bits).
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    #[allow(clippy::cast_possible_truncation, reason = "it is whole and small")]
    (value.fract() == 0.0 && value.abs() <= EXACT_MAX).then_some(value as i64)
}

fn in_units(seconds: i64, nanos: u32, unit: Unit) -> Option<i64> {
    let nanos_each = 1_000_000_000 / unit.per_second();
    let fraction = i64::from(nanos);
    // The first second that 64 bits of nanoseconds can say begins before them.
    let whole = i128::from(seconds) * i128::from(unit.per_second());
    (fraction % nanos_each == 0).then(|| i64::try_from(whole + i128::from(fraction / nanos_each)).ok()).flatten()
}

/// The integer that a decimal is at a scale; `None`: digits would be lost, or it is none.
fn unscaled(text: &str, scale: i64) -> Option<BigInt> {
    if text.len() > 2 * DECIMAL_BYTES_MAX {
        return None;
    }
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = !whole.is_empty() && [whole, fraction].iter().all(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    if !is_number {
        return None;
    }
    let all = format!("{whole}{fraction}");
    let missing = scale - fraction.len() as i64;
    let digits = match usize::try_from(missing) {
        Ok(zeros) => all + &"0".repeat(zeros),
        Err(_) => {
            let (kept, lost) = all.split_at(all.len().checked_sub(missing.unsigned_abs() as usize)?);
            if lost.bytes().any(|byte| byte != b'0') {
                return None;
            }
            if kept.is_empty() { "0".to_owned() } else { kept.to_owned() }
        }
    };
    format!("{sign}{digits}").parse().ok()
}

fn digits(number: &BigInt) -> usize {
    number.magnitude().to_string().len()
}

/// A number in so many bytes, two's complement, big endian.
fn fixed(unscaled: &[u8], size: usize, out: &mut Vec<u8>) -> Result<(), Misfit> {
    let more = size.checked_sub(unscaled.len()).ok_or_else(|| Misfit::new(format!("the decimal does not fit into {size} bytes")))?;
    let fill = if unscaled.first().is_some_and(|byte| *byte >= 0x80) { 0xff } else { 0 };
    out.resize(out.len() + more, fill);
    out.extend_from_slice(unscaled);
    Ok(())
}

fn latin(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| u8::try_from(c).ok()).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: char| c.to_digit(16).filter(|_| !c.is_ascii_uppercase()).map(|digit| digit as u8);
    let digits = text.chars().map(digit).collect::<Option<Vec<u8>>>().filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// Zigzag, then 7 bits a byte, the lowest first (Avro 1.12, "binary encoding").
fn long(value: i64, out: &mut Vec<u8>) {
    let mut left = ((value << 1) ^ (value >> 63)) as u64;
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

fn bytes(bytes: &[u8], out: &mut Vec<u8>) {
    long(bytes.len() as i64, out);
    out.extend_from_slice(bytes);
}

fn of_json(json: &Json) -> Item {
    match json {
        Json::Null => Item::Null,
        Json::Bool(value) => Item::Bool(*value),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(value), _) => Item::Int(value),
            (None, value) => Item::Double(value.unwrap_or(f64::NAN)),
        },
        Json::String(text) => Item::Text(text.clone()),
        Json::Array(items) => Item::Array(items.iter().map(of_json).collect()),
        Json::Object(entries) => Item::Map(entries.iter().map(|(name, item)| (name.clone(), of_json(item))).collect()),
    }
}

/// Keeps what a walker tells.
#[derive(Debug, Default)]
struct Tree {
    open: Vec<Item>,
    names: Vec<String>,
    root: Option<Item>,
}

impl Tree {
    fn put(&mut self, item: Item) {
        match self.open.last_mut() {
            Some(Item::Array(items)) => items.push(item),
            Some(Item::Map(entries)) => entries.push((self.names.pop().unwrap_or_default(), item)),
            _ => self.root = Some(item),
        }
    }

    fn close(&mut self) {
        if let Some(item) = self.open.pop() {
            self.put(item);
        }
    }
}

impl Events for Tree {
    fn scalar(&mut self, scalar: Scalar<'_>) {
        self.put(match scalar {
            Scalar::Null => Item::Null,
            Scalar::Bool(value) => Item::Bool(value),
            Scalar::Int(value) => Item::Int(value),
            Scalar::BigInt(text) => Item::BigInt(text.to_owned()),
            // By its shortest text: the nearest double of 0.1 is not that of the nearest float of 0.1.
            Scalar::Float(value) => Item::Double(value.to_string().parse().unwrap_or(f64::NAN)),
            Scalar::Double(value) => Item::Double(value),
            Scalar::Bytes(bytes) => Item::Bytes(bytes.to_vec()),
            Scalar::Decimal(unscaled, scale) => Item::Decimal(text::decimal(unscaled, scale)),
            other => Item::Text(text::scalar(other).unwrap_or_default()),
        });
    }

    fn begin_array(&mut self) {
        self.open.push(Item::Array(Vec::new()));
    }

    fn end_array(&mut self) {
        self.close();
    }

    fn begin_map(&mut self) {
        self.open.push(Item::Map(Vec::new()));
    }

    fn name(&mut self, name: &str) {
        self.names.push(name.to_owned());
    }

    fn end_map(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::write_json;

    fn encoder(schema: &str) -> Encoder {
        Encoder::new(Arc::new(Schema::avro(schema, &[]).unwrap()), JsonOptions::default()).unwrap()
    }

    /// JSON to Avro, and what another reader makes of that.
    fn through(schema: &str, json: &str) -> Result<String, String> {
        let encoder = encoder(schema);
        let mut bytes = vec![7];
        let written = encoder.write(Value { format: Format::Json, schema: None, bytes: json.as_bytes() }, &mut bytes);
        if let Err(misfit) = written {
            assert_eq!(bytes, [7], "nothing is left of what failed");
            return Err(misfit.to_string());
        }
        let parsed = apache_avro::Schema::parse_str(schema).unwrap();
        let mut left = &bytes[1..];
        apache_avro::from_avro_datum(&parsed, &mut left, None).unwrap();
        assert!(left.is_empty(), "apache-avro leaves {} bytes of {json}", left.len());
        let mut text = Vec::new();
        let value = Value { format: Format::Avro, schema: Some(encoder.schema()), bytes: &bytes[1..] };
        write_json(value, &JsonOptions::default(), &mut text).unwrap();
        Ok(String::from_utf8(text).unwrap())
    }

    #[test]
    fn every_type_comes_back_as_it_was_written() {
        let logical = |of: &str, name: &str, more: &str| format!(r#"{{"type":"{of}","logicalType":"{name}"{more}}}"#);
        let cases = [
            (r#""null""#.to_owned(), "null"),
            (r#""boolean""#.to_owned(), "true"),
            (r#""int""#.to_owned(), "-2147483648"),
            (r#""long""#.to_owned(), "9223372036854775807"),
            (r#""float""#.to_owned(), "0.1"),
            (r#""double""#.to_owned(), "1e+300"),
            (r#""double""#.to_owned(), r#""NaN""#),
            (r#""string""#.to_owned(), r#""Köln""#),
            (r#""bytes""#.to_owned(), r#""AP8=""#),
            (r#"{"type":"fixed","name":"f","size":2}"#.to_owned(), r#""AP8=""#),
            (r#"{"type":"enum","name":"e","symbols":["A","B"]}"#.to_owned(), r#""B""#),
            (r#"{"type":"array","items":"long"}"#.to_owned(), "[]"),
            (r#"{"type":"array","items":["null","long"]}"#.to_owned(), "[1,null,-300]"),
            (r#"{"type":"map","values":"string"}"#.to_owned(), r#"{"a":"x","b":""}"#),
            (logical("bytes", "decimal", r#","precision":10,"scale":2"#), r#""-12.34""#),
            (logical("bytes", "decimal", r#","precision":50,"scale":0"#), r#""12345678901234567890123456789012345678901234567890""#),
            (r#"{"type":"fixed","name":"d","size":4,"logicalType":"decimal","precision":8,"scale":3}"#.to_owned(), r#""-0.001""#),
            (logical("string", "uuid", ""), r#""0198fb32-0000-7000-8000-00000000002a""#),
            (logical("int", "date", ""), r#""2024-02-29""#),
            (logical("int", "time-millis", ""), r#""12:30:00.001""#),
            (logical("long", "time-micros", ""), r#""12:30:00""#),
            (logical("long", "timestamp-millis", ""), r#""1969-12-31T23:59:59.999Z""#),
            (logical("long", "timestamp-micros", ""), r#""2024-02-29T12:30:00.000001Z""#),
            (logical("long", "local-timestamp-millis", ""), r#""2024-02-29T12:30:00""#),
        ];
        for (schema, json) in cases {
            assert_eq!(through(&schema, json).as_deref(), Ok(json), "{schema}");
        }
    }

    #[test]
    fn numbers_are_what_they_are_however_they_are_written() {
        let decimal = r#"{"type":"bytes","logicalType":"decimal","precision":6,"scale":2}"#;
        let cases = [
            (r#""long""#, "5.0", "5"),
            (r#""double""#, "5", "5.0"),
            (decimal, "12.5", r#""12.50""#),
            (decimal, r#""0012.5000""#, r#""12.50""#),
            (decimal, "7", r#""7.00""#),
            (r#"{"type":"long","logicalType":"timestamp-millis"}"#, "1", r#""1970-01-01T00:00:00.001Z""#),
            (r#"{"type":"long","logicalType":"timestamp-millis"}"#, r#""2024-02-29T13:30:00+01:00""#, r#""2024-02-29T12:30:00Z""#),
            (r#"["double","long"]"#, "5", "5"),
            (r#"["bytes","string"]"#, r#""AP8=""#, r#""AP8=""#),
            (r#"["int","string","long"]"#, "5000000000", "5000000000"),
        ];
        for (schema, json, expected) in cases {
            assert_eq!(through(schema, json).as_deref(), Ok(expected), "{schema}");
        }
    }

    const ORDER: &str = r#"{"type":"record","name":"Order","fields":[
        {"name":"id","type":"long"},
        {"name":"note","type":["null","string"]},
        {"name":"mark","type":"bytes","default":"\u00ff"},
        {"name":"next","type":["null","Order"],"default":null}]}"#;

    #[test]
    fn fields_are_found_by_name_and_those_that_are_missing_have_their_defaults() {
        let cases = [
            (
                r#"{"id":1,"note":"x","mark":"AA==","next":{"id":2}}"#,
                r#"{"id":1,"note":"x","mark":"AA==","next":{"id":2,"note":null,"mark":"/w==","next":null}}"#,
            ),
            (r#"{"note":"x","id":1}"#, r#"{"id":1,"note":"x","mark":"/w==","next":null}"#),
        ];
        for (json, expected) in cases {
            assert_eq!(through(ORDER, json).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_place() {
        let decimal = r#"{"type":"bytes","logicalType":"decimal","precision":4,"scale":2}"#;
        let cases = [
            (ORDER, r#"{"note":"x"}"#, "field \"id\": it is missing"),
            (ORDER, r#"{"id":1,"colour":"red"}"#, "field \"colour\": the schema does not have it"),
            (ORDER, r#"{"id":1,"id":2}"#, "field \"id\": it is there twice"),
            (ORDER, r#"{"id":1,"next":{"id":"x"}}"#, "field \"next.id\": a text is no \"long\""),
            (ORDER, r#"{"id":1.5}"#, "field \"id\": a number is no \"long\""),
            (ORDER, r#"{"id":9223372036854775808}"#, "field \"id\": an integer is no \"long\""),
            (ORDER, r#"{"id":1,"mark":"?"}"#, "field \"mark\": \"?\" is not base64"),
            (ORDER, "[]", "an array is no {"),
            (ORDER, "{", "not valid JSON"),
            (r#""int""#, "2147483648", "2147483648 is no \"int\""),
            (r#""float""#, "1e39", "a number is no \"float\""),
            (r#""double""#, "9007199254740993", "an integer is no \"double\""),
            (r#"{"type":"enum","name":"e","symbols":["A"]}"#, r#""B""#, "\"B\" is no {"),
            (r#"{"type":"fixed","name":"f","size":3}"#, r#""AP8=""#, "2 bytes are no {"),
            (decimal, r#""0.001""#, "0.001 is no decimal(4,2)"),
            (decimal, "100", "100 is no decimal(4,2)"),
            (decimal, r#""1e1""#, "1e1 is no decimal(4,2)"),
            (r#"{"type":"long","logicalType":"timestamp-millis"}"#, r#""2024-02-29T12:30:00.0001Z""#, "a text is no {"),
            (r#"{"type":"long","logicalType":"timestamp-millis"}"#, r#""2024-02-29T12:30:00""#, "a text is no {"),
            (r#"["null","long"]"#, "true", "a boolean is no \"long\""),
            (r#"{"type":"array","items":"long"}"#, "[1,null]", "field \"1\": null is no \"long\""),
        ];
        for (schema, json, expected) in cases {
            let found = through(schema, json).unwrap_err();
            assert!(found.starts_with(expected), "{json}: {found}");
        }
    }

    #[test]
    fn schemas_that_cannot_be_written_are_refused_at_once() {
        let refused = |schema: Schema| Encoder::new(Arc::new(schema), JsonOptions::default()).unwrap_err().to_string();
        let duration = r#"{"type":"fixed","name":"d","size":12,"logicalType":"duration"}"#;
        assert!(refused(Schema::avro(duration, &[]).unwrap()).contains("cannot be written"));
        assert!(refused(Schema::json("{}")).contains("no Avro schema"));
    }
}
