//! Random Avro schemas and the bytes of values for them, written by rules of the specification's own, with every freedom it leaves:
//! several blocks, sizes of blocks or none, names in all their forms.

use std::cell::Cell;
use std::collections::HashMap;

use num_bigint::BigInt;
use serde_json::{Value as Json, json};

use crate::fuzz::Choices;

/// What is on the wire.
#[derive(Debug, Clone)]
pub enum Wire {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    /// Digits at most, and the bytes of a value where all have as many.
    Decimal(usize, Option<usize>),
    BigDecimal,
    Text,
    Uuid,
    Fixed(usize),
    Enum(usize),
    Array(Box<Wire>),
    Map(Box<Wire>),
    Union(Vec<Wire>),
    Record(Vec<(String, Wire)>),
    Named(String),
}

/// A schema, and what its values are on the wire.
pub struct Made {
    pub json: Json,
    pub wire: Wire,
    pub named: HashMap<String, Wire>,
    /// `apache-avro` 0.21 reads uuids of 16 bytes as if a length stood before them, which the specification does not say.
    pub fixed_uuid: bool,
    /// Parts that a value may still have: records within themselves have no end.
    left: Cell<usize>,
    /// Whether the last value had no end, and is cut off somewhere.
    pub cut: Cell<bool>,
    /// Whether the last value has a decimal of more digits than its type allows, which its bytes can say nevertheless.
    pub loose: Cell<bool>,
}

const VALUE_PARTS_MAX: usize = 5000;

struct Maker<'a> {
    choices: &'a mut Choices,
    names: Vec<String>,
    named: HashMap<String, Wire>,
    namespace: String,
    fixed_uuid: bool,
}

pub fn make(choices: &mut Choices) -> Made {
    let depth = choices.below(6);
    let mut maker = Maker { choices, names: Vec::new(), named: HashMap::new(), namespace: String::new(), fixed_uuid: false };
    let (json, wire) = maker.any(depth);
    Made {
        json,
        wire,
        named: maker.named,
        fixed_uuid: maker.fixed_uuid,
        left: Cell::new(0),
        cut: Cell::new(false),
        loose: Cell::new(false),
    }
}

const INT_MEANINGS: &[&str] = &["date", "time-millis", "unheard-of"];
const LONG_MEANINGS: &[&str] = &[
    "time-micros",
    "timestamp-millis",
    "timestamp-micros",
    "timestamp-nanos",
    "local-timestamp-millis",
    "local-timestamp-micros",
    "local-timestamp-nanos",
    "date",
];

impl Maker<'_> {
    fn any(&mut self, depth: usize) -> (Json, Wire) {
        let plain = |name: &str, wire| (json!(name), wire);
        let kinds = if depth == 0 { 16 } else { 22 };
        match self.choices.below(kinds) {
            0 => plain("null", Wire::Null),
            1 => plain("boolean", Wire::Boolean),
            2 => plain("int", Wire::Int),
            3 => plain("long", Wire::Long),
            4 => plain("float", Wire::Float),
            5 => plain("double", Wire::Double),
            6 => plain("string", Wire::Text),
            7 => plain("bytes", Wire::Bytes),
            8 => (json!({"type": "int", "logicalType": self.choices.pick(INT_MEANINGS)}), Wire::Int),
            9 => (json!({"type": "long", "logicalType": self.choices.pick(LONG_MEANINGS)}), Wire::Long),
            10 => (json!({"type": "string", "logicalType": "uuid"}), Wire::Uuid),
            11 => self.decimal(json!({"type": "bytes"}), None),
            12 => (json!({"type": "bytes", "logicalType": "big-decimal"}), Wire::BigDecimal),
            13 => self.fixed(),
            14 => self.symbols(),
            15 => match self.names.len() {
                0 => (json!({"type": "int"}), Wire::Int),
                count => {
                    let name = self.names[self.choices.below(count)].clone();
                    let shorter = name.strip_prefix(&format!("{}.", self.namespace)).filter(|rest| !rest.contains('.'));
                    (json!(shorter.unwrap_or(&name)), Wire::Named(name))
                }
            },
            16 => {
                let (json, wire) = self.any(depth - 1);
                (json!({"type": "array", "items": json}), Wire::Array(Box::new(wire)))
            }
            17 => {
                let (json, wire) = self.any(depth - 1);
                (json!({"type": "map", "values": json}), Wire::Map(Box::new(wire)))
            }
            18 | 19 => self.union(depth - 1),
            _ => self.record(depth - 1),
        }
    }

    fn decimal(&mut self, mut json: Json, size: Option<usize>) -> (Json, Wire) {
        let precision = 1 + self.choices.below(45);
        json["logicalType"] = json!("decimal");
        json["precision"] = json!(precision);
        json["scale"] = json!(self.choices.below(precision + 1));
        (json, Wire::Decimal(precision, size))
    }

    fn fixed(&mut self) -> (Json, Wire) {
        let (mut json, full) = self.name("fixed");
        let meaning = self.choices.below(4);
        let size = match meaning {
            0 | 1 => self.choices.below(20),
            2 => 12,
            _ => 16,
        };
        json["size"] = json!(size);
        match meaning {
            2 => json["logicalType"] = json!("duration"),
            3 => {
                json["logicalType"] = json!("uuid");
                self.fixed_uuid = true;
            }
            _ => (),
        }
        let (json, wire) = if meaning == 1 { self.decimal(json, Some(size)) } else { (json, Wire::Fixed(size)) };
        self.named.insert(full, wire.clone());
        (json, wire)
    }

    fn symbols(&mut self) -> (Json, Wire) {
        let (mut json, full) = self.name("enum");
        let count = 1 + self.choices.below(4);
        json["symbols"] = (0..count).map(|index| format!("S{index}")).collect();
        self.named.insert(full, Wire::Enum(count));
        (json, Wire::Enum(count))
    }

    fn union(&mut self, depth: usize) -> (Json, Wire) {
        let mut branches = Vec::new();
        let mut seen: Vec<String> = Vec::new();
        for _ in 0..1 + self.choices.below(4) {
            let (json, wire) = if branches.is_empty() && self.choices.once_in(2) { (json!("null"), Wire::Null) } else { self.any(depth) };
            let label = match &json {
                Json::String(name) => name.clone(),
                // A union does not stand in a union.
                Json::Array(_) => continue,
                _ if json["name"].is_string() => json["name"].to_string(),
                _ => json["type"].as_str().unwrap_or_default().to_owned(),
            };
            if !seen.contains(&label) {
                seen.push(label);
                branches.push((json, wire));
            }
        }
        if branches.is_empty() {
            branches.push((json!("string"), Wire::Text));
        }
        let (json, wires): (Vec<_>, Vec<_>) = branches.into_iter().unzip();
        (Json::Array(json), Wire::Union(wires))
    }

    fn record(&mut self, depth: usize) -> (Json, Wire) {
        let (mut json, full) = self.name("record");
        let outer = self.namespace.clone();
        self.namespace = full.rsplit_once('.').map_or(String::new(), |(namespace, _)| namespace.to_owned());
        let (mut fields, mut wires) = (Vec::new(), Vec::new());
        for index in 0..self.choices.below(5) {
            let (inner, wire) = self.any(depth);
            let name = format!("{}{index}", self.choices.pick(&["f", "F_", "name", "type"]));
            // Both are common: the type as it is, and within an object.
            let wrapped = if self.choices.once_in(6) && inner.is_object() { json!({"type": inner}) } else { inner };
            fields.push(json!({"name": name, "type": wrapped}));
            wires.push((name, wire));
        }
        self.namespace = outer;
        json["fields"] = Json::Array(fields);
        self.named.insert(full, Wire::Record(wires.clone()));
        (json, Wire::Record(wires))
    }

    /// A definition with a name nobody has, and its full name.
    fn name(&mut self, kind: &str) -> (Json, String) {
        let simple = format!("N{}", self.names.len());
        let (json, full) = match self.choices.below(4) {
            0 | 1 if self.namespace.is_empty() => (json!({"type": kind, "name": simple}), simple),
            0 | 1 => (json!({"type": kind, "name": simple}), format!("{}.{simple}", self.namespace)),
            2 => (json!({"type": kind, "name": simple, "namespace": "a.b"}), format!("a.b.{simple}")),
            _ => (json!({"type": kind, "name": format!("c.{simple}")}), format!("c.{simple}")),
        };
        self.names.push(full.clone());
        (json, full)
    }
}

impl Made {
    /// The bytes of a value.
    pub fn value(&self, choices: &mut Choices) -> Vec<u8> {
        let mut out = Vec::new();
        self.left.set(VALUE_PARTS_MAX);
        self.cut.set(false);
        self.loose.set(false);
        self.write(&self.wire, choices, &mut out, 0);
        out
    }

    fn write(&self, wire: &Wire, choices: &mut Choices, out: &mut Vec<u8>, depth: usize) {
        let Some(left) = self.left.get().checked_sub(1) else { return self.cut.set(true) };
        self.left.set(left);
        match wire {
            Wire::Null => (),
            Wire::Boolean => out.push(choices.byte() & 1),
            Wire::Int => long(i64::from(choices.number() as i32), out),
            Wire::Long => long(choices.number(), out),
            Wire::Float => {
                let odd = [0.0, -0.0, f32::NAN, f32::INFINITY, f32::MIN_POSITIVE, f32::MAX, 0.1];
                let any = f32::from_bits(choices.number() as u32);
                out.extend(if choices.once_in(2) { any } else { *choices.pick(&odd) }.to_le_bytes());
            }
            Wire::Double => {
                let odd = [0.0, -0.0, f64::NAN, f64::NEG_INFINITY, f64::MIN_POSITIVE, f64::MAX, 0.1, 9.2e18, 1e21];
                let any = f64::from_bits(choices.number() as u64);
                out.extend(if choices.once_in(2) { any } else { *choices.pick(&odd) }.to_le_bytes());
            }
            Wire::Bytes => bytes(&choices.some_bytes(20), out),
            Wire::Decimal(precision, size) => {
                let unscaled: Vec<u8> = match size {
                    Some(size) => (0..*size).map(|_| choices.byte()).collect(),
                    None => choices.some_bytes(20),
                };
                if BigInt::from_signed_bytes_be(&unscaled).magnitude().to_string().len() > *precision {
                    self.loose.set(true);
                }
                match size {
                    Some(_) => out.extend(unscaled),
                    None => bytes(&unscaled, out),
                }
            }
            Wire::BigDecimal => {
                let mut inner = Vec::new();
                bytes(&choices.some_bytes(20), &mut inner);
                long(i64::from(choices.byte() as i8), &mut inner);
                bytes(&inner, out);
            }
            Wire::Text => bytes(choices.text(12).as_bytes(), out),
            Wire::Uuid => {
                let uuid = uuid::Uuid::from_u128(u128::from(choices.number() as u64) << 60 | 5);
                bytes(if choices.once_in(4) { uuid.simple().to_string() } else { uuid.to_string() }.as_bytes(), out);
            }
            Wire::Fixed(size) => out.extend((0..*size).map(|_| choices.byte())),
            Wire::Enum(count) => long(choices.below(*count) as i64, out),
            Wire::Array(item) => blocks(depth, choices, out, |choices, _, out| self.write(item, choices, out, depth + 1)),
            Wire::Map(value) => blocks(depth, choices, out, |choices, index, out| {
                // Names of one map differ.
                bytes(format!("{}{index}", choices.pick(&["", "k", "é\"", "name"])).as_bytes(), out);
                self.write(value, choices, out, depth + 1);
            }),
            Wire::Union(branches) => {
                let null = branches.iter().position(|branch| matches!(branch, Wire::Null));
                let branch = if depth > 12 { null.unwrap_or(0) } else { choices.below(branches.len()) };
                long(branch as i64, out);
                self.write(&branches[branch], choices, out, depth + 1);
            }
            Wire::Record(fields) => fields.iter().for_each(|(_, field)| self.write(field, choices, out, depth + 1)),
            Wire::Named(name) if depth < 40 => {
                if let Some(named) = self.named.get(name) {
                    self.write(named, choices, out, depth + 1);
                }
            }
            Wire::Named(_) => self.cut.set(true),
        }
    }

    /// A path that may lead to a field.
    pub fn path(&self, choices: &mut Choices) -> Vec<String> {
        let mut path = Vec::new();
        let mut at = &self.wire;
        for _ in 0..12 {
            at = match at {
                Wire::Record(fields) if !fields.is_empty() && !choices.once_in(6) => {
                    let (name, field) = choices.pick(fields);
                    path.push(name.clone());
                    field
                }
                Wire::Array(item) if !choices.once_in(3) => {
                    path.push(choices.below(4).to_string());
                    item
                }
                Wire::Map(value) if !choices.once_in(3) => {
                    path.push(format!("{}{}", choices.pick(&["", "k", "name"]), choices.below(3)));
                    value
                }
                Wire::Union(branches) => choices.pick(branches),
                Wire::Named(name) => match self.named.get(name) {
                    Some(named) => named,
                    None => return path,
                },
                _ => {
                    if choices.once_in(8) {
                        path.push("f0".to_owned());
                    }
                    return path;
                }
            };
        }
        path
    }
}

/// Items in several blocks, with or without their size.
fn blocks(depth: usize, choices: &mut Choices, out: &mut Vec<u8>, mut item: impl FnMut(&mut Choices, usize, &mut Vec<u8>)) {
    let mut seen = 0;
    let blocks = if depth > 12 { 0 } else { choices.below(3) };
    for _ in 0..blocks {
        let count = 1 + choices.below(3);
        let sized = choices.once_in(3);
        let mut block = Vec::new();
        for _ in 0..count {
            item(choices, seen, &mut block);
            seen += 1;
        }
        if sized {
            long(-(count as i64), out);
            long(block.len() as i64, out);
        } else {
            long(count as i64, out);
        }
        out.extend(block);
    }
    long(0, out);
}

fn bytes(bytes: &[u8], out: &mut Vec<u8>) {
    long(bytes.len() as i64, out);
    out.extend(bytes);
}

/// Zigzag, variable length.
fn long(value: i64, out: &mut Vec<u8>) {
    let mut left = (value << 1 ^ value >> 63) as u64;
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}
