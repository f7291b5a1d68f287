//! Types that values are cast to, as the configuration writes them and as an event's Avro schema has them.

use serde_json::{Value as Json, json};

/// Units of times and timestamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Seconds,
    Millis,
    Micros,
    Nanos,
}

impl Unit {
    /// How many make a second.
    pub fn per_second(self) -> i64 {
        match self {
            Unit::Seconds => 1,
            Unit::Millis => 1_000,
            Unit::Micros => 1_000_000,
            Unit::Nanos => 1_000_000_000,
        }
    }

    /// The same in another unit, rounded down; `None` beyond 64 bits.
    pub fn convert(self, value: i64, to: Unit) -> Option<i64> {
        let (from, to) = (self.per_second(), to.per_second());
        if to >= from { value.checked_mul(to / from) } else { Some(value.div_euclid(from / to)) }
    }

    fn suffix(self) -> &'static str {
        match self {
            Unit::Seconds => "seconds",
            Unit::Millis => "millis",
            Unit::Micros => "micros",
            Unit::Nanos => "nanos",
        }
    }
}

/// What a value is cast to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Boolean,
    Int,
    Long,
    Float,
    Double,
    String,
    Bytes,
    Date,
    Time(Unit),
    /// `true`: in UTC.
    Timestamp(Unit, bool),
    Uuid,
    Decimal {
        precision: u32,
        scale: u32,
    },
    /// Any value as JSON text.
    Json,
}

/// How to read what carries no meaning of its own: integers, and texts that stand for bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Unit(Unit),
    Days,
    Base64,
    Hex,
}

/// A cast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cast {
    pub to: Type,
    pub origin: Option<Origin>,
}

/// Most digits of a decimal: what tables hold, and what 128 bits hold.
pub const PRECISION_MAX: u32 = 38;

const NAMES: [(&str, Type); 18] = [
    ("boolean", Type::Boolean),
    ("int", Type::Int),
    ("long", Type::Long),
    ("float", Type::Float),
    ("double", Type::Double),
    ("string", Type::String),
    ("bytes", Type::Bytes),
    ("date", Type::Date),
    ("time-millis", Type::Time(Unit::Millis)),
    ("time-micros", Type::Time(Unit::Micros)),
    ("timestamp-millis", Type::Timestamp(Unit::Millis, true)),
    ("timestamp-micros", Type::Timestamp(Unit::Micros, true)),
    ("timestamp-nanos", Type::Timestamp(Unit::Nanos, true)),
    ("local-timestamp-millis", Type::Timestamp(Unit::Millis, false)),
    ("local-timestamp-micros", Type::Timestamp(Unit::Micros, false)),
    ("local-timestamp-nanos", Type::Timestamp(Unit::Nanos, false)),
    ("uuid", Type::Uuid),
    ("json", Type::Json),
];

impl Type {
    /// Its name in the configuration.
    pub fn name(self) -> String {
        match self {
            Type::Decimal { precision, scale } => format!("decimal({precision},{scale})"),
            other => NAMES.iter().find(|(_, known)| *known == other).map_or_else(String::new, |(name, _)| (*name).to_owned()),
        }
    }

    /// Its Avro schema.
    pub fn definition(self) -> Json {
        let logical = |of: &str, name: &str| json!({ "type": of, "logicalType": name });
        match self {
            Type::Boolean => json!("boolean"),
            Type::Int => json!("int"),
            Type::Long => json!("long"),
            Type::Float => json!("float"),
            Type::Double => json!("double"),
            Type::String | Type::Json => json!("string"),
            Type::Bytes => json!("bytes"),
            Type::Date => logical("int", "date"),
            Type::Time(Unit::Millis) => logical("int", "time-millis"),
            Type::Time(unit) => logical("long", &format!("time-{}", unit.suffix())),
            Type::Timestamp(unit, true) => logical("long", &format!("timestamp-{}", unit.suffix())),
            Type::Timestamp(unit, false) => logical("long", &format!("local-timestamp-{}", unit.suffix())),
            Type::Uuid => logical("string", "uuid"),
            Type::Decimal { precision, scale } => {
                json!({ "type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale })
            }
        }
    }
}

impl Cast {
    /// A cast without an origin.
    pub fn to(to: Type) -> Self {
        Cast { to, origin: None }
    }

    /// Reads `TYPE` or `TYPE from ORIGIN`.
    ///
    /// # Errors
    /// What is wrong with the text, and what would be right.
    pub fn parse(text: &str) -> Result<Cast, String> {
        let (name, origin) = match text.split_once(" from ") {
            Some((name, origin)) => (name.trim(), Some(origin.trim())),
            None => (text.trim(), None),
        };
        let to = match NAMES.iter().find(|(known, _)| *known == name) {
            Some((_, to)) => *to,
            None => decimal(name)?,
        };
        let Some(origin) = origin else { return Ok(Cast { to, origin: None }) };
        let (known, allowed) = origins(to);
        let found = known.iter().find(|known| origin_name(**known) == origin);
        match found {
            Some(origin) => Ok(Cast { to, origin: Some(*origin) }),
            None if allowed.is_empty() => Err(format!("{name} is not made from {origin:?}: leave the `from` out")),
            None => Err(format!("{name} is not made from {origin:?}, but from {allowed}")),
        }
    }
}

const UNITS: [Origin; 4] = [Origin::Unit(Unit::Seconds), Origin::Unit(Unit::Millis), Origin::Unit(Unit::Micros), Origin::Unit(Unit::Nanos)];

fn origins(to: Type) -> (Vec<Origin>, String) {
    let known = match to {
        Type::Date => [&[Origin::Days], &UNITS[..]].concat(),
        Type::Time(_) | Type::Timestamp(..) => UNITS.to_vec(),
        Type::Bytes | Type::Uuid | Type::Decimal { .. } => vec![Origin::Base64, Origin::Hex],
        _ => Vec::new(),
    };
    let names = known.iter().map(|origin| origin_name(*origin)).collect::<Vec<_>>().join(", ");
    (known, names)
}

fn origin_name(origin: Origin) -> &'static str {
    match origin {
        Origin::Unit(unit) => unit.suffix(),
        Origin::Days => "days",
        Origin::Base64 => "base64",
        Origin::Hex => "hex",
    }
}

fn decimal(name: &str) -> Result<Type, String> {
    let unknown = || {
        let names = NAMES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        format!("there is no type {name:?}: choose among {names}, decimal(PRECISION,SCALE)")
    };
    if name == "decimal" {
        return Err("a decimal needs its digits: decimal(PRECISION,SCALE), for example decimal(12,2)".to_owned());
    }
    let inner = name.strip_prefix("decimal(").and_then(|rest| rest.strip_suffix(')')).ok_or_else(unknown)?;
    let (precision, scale) = inner.split_once(',').unwrap_or((inner, "0"));
    let number = |text: &str| text.trim().parse::<u32>().map_err(|_| format!("{text:?} is no number of digits: decimal(PRECISION,SCALE)"));
    let (precision, scale) = (number(precision)?, number(scale)?);
    if precision == 0 || precision > PRECISION_MAX {
        return Err(format!("a decimal has 1 to {PRECISION_MAX} digits, not {precision}"));
    }
    if scale > precision {
        return Err(format!("of {precision} digits, {scale} cannot be behind the point"));
    }
    Ok(Type::Decimal { precision, scale })
}
