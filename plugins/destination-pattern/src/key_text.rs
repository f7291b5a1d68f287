//! Keys of several values as text, the way Kafka Connect's classes print themselves: `Struct{id=1,name=x}`, `{a=1, b=2}`, `[1, 2]`.

use std::fmt::{self, Write as _};

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;

/// Appends a key that is given as JSON. With a schema, what it does not call a map is a struct. `None`: it is neither an object nor
/// an array, or no JSON; what was appended means nothing then.
pub fn write(json: &[u8], schema: Option<&Json>, out: &mut String) -> Option<()> {
    if !matches!(json.iter().find(|byte| !byte.is_ascii_whitespace()), Some(b'{' | b'[')) {
        return None;
    }
    let typed = schema.is_some();
    serde_json::Deserializer::from_slice(json).deserialize_any(Printer { typed, schema, out }).ok()?;
    Some(())
}

/// Prints one value; tells whether it was null.
struct Printer<'a> {
    typed: bool,
    /// The value's schema; `None` where it is named elsewhere, which only a record is among what prints as an object.
    schema: Option<&'a Json>,
    out: &'a mut String,
}

/// The branch of a union that can have fields or items, and the type behind `{"type": {..}}`.
fn container(schema: &Json) -> &Json {
    match schema {
        Json::Array(branches) => branches.iter().find(|branch| branch.is_object()).map_or(schema, container),
        Json::Object(object) => object.get("type").filter(|inner| inner.is_object() || inner.is_array()).map_or(schema, container),
        _ => schema,
    }
}

fn field<'a>(schema: &'a Json, name: &str) -> Option<&'a Json> {
    if is_map(schema) {
        return schema.get("values");
    }
    schema.get("fields")?.as_array()?.iter().find(|field| field["name"] == name)?.get("type")
}

fn is_map(schema: &Json) -> bool {
    schema["type"] == "map"
}

impl<'de> DeserializeSeed<'de> for Printer<'_> {
    type Value = bool;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Printer<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        self.out.push_str("null");
        Ok(true)
    }

    fn visit_bool<E>(self, value: bool) -> Result<bool, E> {
        self.out.push_str(if value { "true" } else { "false" });
        Ok(false)
    }

    fn visit_i64<E>(self, value: i64) -> Result<bool, E> {
        print(self.out, format_args!("{value}"))
    }

    fn visit_u64<E>(self, value: u64) -> Result<bool, E> {
        print(self.out, format_args!("{value}"))
    }

    fn visit_f64<E>(self, value: f64) -> Result<bool, E> {
        print(self.out, format_args!("{value:?}"))
    }

    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        self.out.push_str(text);
        Ok(false)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<bool, A::Error> {
        let Printer { typed, schema, out } = self;
        let schema = schema.map(container).and_then(|schema| schema.get("items"));
        out.push('[');
        let mut end = out.len();
        // The separator is written before it is known whether another item follows.
        while items.next_element_seed(Printer { typed, schema, out: &mut *out })?.is_some() {
            end = out.len();
            out.push_str(", ");
        }
        out.truncate(end);
        out.push(']');
        Ok(false)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<bool, A::Error> {
        let Printer { typed, schema, out } = self;
        let schema = schema.map(container);
        let is_struct = typed && !schema.is_some_and(is_map);
        out.push_str(if is_struct { "Struct{" } else { "{" });
        let mut first = true;
        while let Some(name) = entries.next_key::<String>()? {
            let before = out.len();
            if !first {
                out.push_str(if is_struct { "," } else { ", " });
            }
            out.push_str(&name);
            out.push('=');
            let inner = schema.and_then(|schema| field(schema, &name));
            let is_null = entries.next_value_seed(Printer { typed, schema: inner, out: &mut *out })?;
            if is_null && is_struct {
                out.truncate(before);
            } else {
                first = false;
            }
        }
        out.push('}');
        Ok(false)
    }
}

fn print<E>(out: &mut String, value: fmt::Arguments<'_>) -> Result<bool, E> {
    // Writing into a String cannot fail.
    let _ = out.write_fmt(value);
    Ok(false)
}
