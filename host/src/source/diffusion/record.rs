//! The value of a topic as the value of a record.
//!
//! Invariant: a value that cannot be read is kept as it is, with the reason: it becomes a dead letter and is never left out.

use crate::config::{Null, ValueFormat};
use crate::diffusion::service::TopicType;
use crate::value::{Format, JsonOptions, Value, write_json};

/// CBOR's null.
const NULL: &[u8] = &[0xf6];

/// How values are written.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// How the route reads values.
    pub value: ValueFormat,
    /// What a null becomes.
    pub null: Null,
    /// What JSON has no type for.
    pub json: JsonOptions,
}

/// What a value became.
#[derive(Debug, PartialEq, Eq)]
pub enum Written<'a> {
    /// The value of the record.
    Value(&'a [u8]),
    /// No value.
    Tombstone,
    /// A value that cannot be read: as it came, and why.
    Unfit(&'a [u8], String),
}

impl Form {
    /// The value of a topic of type `kind`; `out` is room for it.
    pub fn write<'a>(&self, kind: TopicType, bytes: &'a [u8], out: &'a mut Vec<u8>) -> Written<'a> {
        let is_cbor = [TopicType::JSON, TopicType::STRING, TopicType::INT64, TopicType::DOUBLE].contains(&kind);
        if is_cbor && bytes == NULL && self.null == Null::Tombstone {
            return Written::Tombstone;
        }
        if self.value == ValueFormat::Raw {
            return Written::Value(bytes);
        }
        out.clear();
        let written = if is_cbor {
            write_json(Value { format: Format::Cbor, schema: None, bytes }, &self.json, out)
        } else if kind == TopicType::BINARY {
            let mut item = Vec::with_capacity(bytes.len() + 9);
            // Writing into a Vec cannot fail.
            let _ = minicbor::Encoder::new(&mut item).bytes(bytes);
            write_json(Value { format: Format::Cbor, schema: None, bytes: &item }, &self.json, out)
        } else {
            let reason = format!("values of topics of the type {kind} are not read as JSON: write value = \"raw\" for their bytes");
            return Written::Unfit(bytes, reason);
        };
        match written {
            Ok(()) => Written::Value(out),
            Err(error) => Written::Unfit(bytes, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::wire::hex;
    use crate::value::BytesAs;

    #[test]
    fn every_type_of_topic_becomes_json_or_stays_as_it_is() {
        let form = Form { value: ValueFormat::Json, null: Null::Value, json: JsonOptions::default() };
        let cases: [(TopicType, &str, &[u8]); 9] = [
            (TopicType::JSON, "bf61610161629ff93e00f6f56178ffff", br#"{"a":1,"b":[1.5,null,true,"x"]}"#),
            (TopicType::JSON, "f6", b"null"),
            (TopicType::JSON, "1bffffffffffffffff", b"18446744073709551615"),
            (TopicType::JSON, "a16162 4200ff", br#"{"b":"AP8="}"#),
            (TopicType::STRING, "654bc3b66c6e", "\"Köln\"".as_bytes()),
            (TopicType::INT64, "1b7fffffffffffffff", b"9223372036854775807"),
            (TopicType::INT64, "20", b"-1"),
            (TopicType::DOUBLE, "fb3fb999999999999a", b"0.1"),
            (TopicType::BINARY, "00ff", b"\"AP8=\""),
        ];
        let mut out = Vec::new();
        for (kind, bytes, expected) in cases {
            let bytes = hex(bytes);
            assert_eq!(form.write(kind, &bytes, &mut out), Written::Value(expected), "{kind:?}");
            let raw = Form { value: ValueFormat::Raw, ..form };
            assert_eq!(raw.write(kind, &bytes, &mut out), Written::Value(&bytes), "{kind:?}");
        }
        let as_hex = Form { json: JsonOptions { bytes: BytesAs::Hex, ..JsonOptions::default() }, ..form };
        assert_eq!(as_hex.write(TopicType::BINARY, &[0, 255], &mut out), Written::Value(b"\"00ff\""));
    }

    #[test]
    fn a_null_is_a_tombstone_where_that_is_wanted() {
        let form = Form { value: ValueFormat::Json, null: Null::Tombstone, json: JsonOptions::default() };
        let mut out = Vec::new();
        assert_eq!(form.write(TopicType::JSON, &[0xf6], &mut out), Written::Tombstone);
        assert_eq!(form.write(TopicType::BINARY, &[0xf6], &mut out), Written::Value(b"\"9g==\""), "bytes are never null");
        let raw = Form { value: ValueFormat::Raw, ..form };
        assert_eq!(raw.write(TopicType::STRING, &[0xf6], &mut out), Written::Tombstone);
    }

    #[test]
    fn what_cannot_be_read_is_kept_with_the_reason() {
        let form = Form { value: ValueFormat::Json, null: Null::Value, json: JsonOptions::default() };
        let mut out = Vec::new();
        for (kind, bytes) in [(TopicType::JSON, "a10102"), (TopicType::JSON, ""), (TopicType::STRING, "6261"), (TopicType(16), "00")] {
            let bytes = hex(bytes);
            let Written::Unfit(kept, reason) = form.write(kind, &bytes, &mut out) else { panic!("{kind:?} {bytes:?}") };
            assert_eq!(kept, bytes);
            assert!(!reason.is_empty());
        }
    }
}
