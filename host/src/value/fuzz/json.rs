//! JSON against `serde_json`, and its numbers against their own text.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::*;
use crate::fuzz::{self, Choices};

#[test]
fn documents_are_taken_and_refused_as_serde_json_does_and_keep_their_digits() {
    fuzz::run("json", |choices| {
        let mut text = Vec::new();
        let depth = if choices.once_in(12) { 100 + choices.below(60) } else { choices.below(8) };
        document(choices, depth, &mut text);
        if choices.once_in(3) {
            choices.damage(&mut text);
        }
        choices.show("text", String::from_utf8_lossy(&text));
        let value = Value { format: Format::Json, schema: None, bytes: &text };
        let valid = in_every_way(value)?;
        let expected = serde_json::from_slice::<Json>(&text);
        if valid != expected.is_ok() {
            return Err(format!("{:?}, serde_json says {expected:?}", validate(value)));
        }
        any_fields(&text, choices)?;
        let Ok(expected) = expected else { return Ok(()) };
        let mut cbor = Vec::new();
        write_cbor(value, &mut cbor).map_err(|error| error.to_string())?;
        let mut again = Vec::new();
        let from_cbor = Value { format: Format::Cbor, schema: None, bytes: &cbor };
        write_json(from_cbor, &JsonOptions::default(), &mut again).map_err(|error| error.to_string())?;
        let found: Json = serde_json::from_slice(&again).map_err(|error| error.to_string())?;
        if found != expected {
            return Err(format!("through CBOR {found}, serde_json has {expected}"));
        }
        let (before, after) = (integers(&text), integers(&again));
        if before != after {
            return Err(format!("through CBOR the integers {before:?} are {after:?}"));
        }
        find(&text, choices)
    });
}

fn document(choices: &mut Choices, depth: usize, out: &mut Vec<u8>) {
    let space = |choices: &mut Choices, out: &mut Vec<u8>| {
        if choices.once_in(8) {
            out.extend(*choices.pick(&[&b" "[..], b"\n", b"\t \r\n", b"  "]));
        }
    };
    space(choices, out);
    let kinds = if depth == 0 { 6 } else { 10 };
    match choices.below(kinds) {
        0 => out.extend(b"null"),
        1 => out.extend(*choices.pick(&[&b"true"[..], b"false"])),
        2 => out.extend(choices.number().to_string().bytes()),
        3 => number(choices, out),
        4 | 5 => string(choices, out),
        6 | 7 => {
            out.push(b'[');
            for index in 0..choices.below(4) {
                if index > 0 {
                    out.push(b',');
                }
                document(choices, depth - 1, out);
            }
            space(choices, out);
            out.push(b']');
        }
        _ => {
            out.push(b'{');
            for index in 0..choices.below(4) {
                if index > 0 {
                    out.push(b',');
                }
                space(choices, out);
                match choices.below(4) {
                    0 => out.extend(format!("\"{index}\"").bytes()),
                    1 => out.extend(b"\"a\""),
                    2 => out.extend(b"\"\\u0061\""),
                    _ => string(choices, out),
                }
                space(choices, out);
                out.push(b':');
                document(choices, depth - 1, out);
            }
            out.push(b'}');
        }
    }
    // Depth by depth, without others beside it: as attackers nest.
    space(choices, out);
}

fn number(choices: &mut Choices, out: &mut Vec<u8>) {
    let digits = |choices: &mut Choices, max: usize| -> String {
        (0..=choices.below(max)).map(|_| char::from(b'0' + choices.byte() % 10)).collect()
    };
    let text = match choices.below(6) {
        0 => digits(choices, 40),
        1 => format!("-{}", digits(choices, 40)),
        2 => format!("1{}", digits(choices, 350)),
        3 => format!("{}.{}", digits(choices, 3), digits(choices, 25)),
        4 => format!("1{}e{}{}", digits(choices, 3), choices.pick(&["", "-", "+"]), digits(choices, 3)),
        _ => (*choices.pick(&[
            "-0",
            "-0.0",
            "18446744073709551615",
            "18446744073709551616",
            "-9223372036854775809",
            "1E5",
            "0.1",
            "01",
            "-",
            "1.",
        ]))
        .to_owned(),
    };
    out.extend(text.bytes());
}

fn string(choices: &mut Choices, out: &mut Vec<u8>) {
    const ESCAPES: &[&str] =
        &["\\n", "\\\"", "\\\\", "\\/", "\\u0000", "\\ud83d\\ude00", "\\ud83d", "\\ude00\\ud83d", "\\uD800x", "\\x", "\\u12", "\\u00e9"];
    out.push(b'"');
    for _ in 0..choices.below(5) {
        match choices.below(4) {
            0 | 1 => out.push(b'a' + choices.byte() % 26),
            2 if choices.once_in(2) => out.extend(choices.pick(&["é", "漢", "😀", "\u{2028}", "\u{7f}", "\t"]).bytes()),
            2 => out.push(b'.'),
            _ => {
                let common = &ESCAPES[..6];
                out.extend(if choices.once_in(5) { choices.pick(ESCAPES) } else { choices.pick(common) }.bytes());
            }
        }
    }
    out.push(b'"');
}

/// The integers of a valid document, in order, as their digits.
fn integers(text: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'"' => {
                at += 1;
                while text[at] != b'"' {
                    at += 1 + usize::from(text[at] == b'\\');
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let end = text[at..].iter().position(|byte| !b"-+.eE0123456789".contains(byte)).map_or(text.len(), |length| at + length);
                let token = std::str::from_utf8(&text[at..end]).unwrap();
                // -0 is a float to serde_json.
                if token != "-0" && !token.contains(['.', 'e', 'E']) {
                    found.push(token.to_owned());
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    found
}

/// A document with repeated names, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Tree {
    Leaf(Json),
    List(Vec<Tree>),
    Table(Vec<(String, Tree)>),
}

impl Tree {
    pub fn json(&self) -> Json {
        match self {
            Tree::Leaf(json) => json.clone(),
            Tree::List(items) => items.iter().map(Tree::json).collect(),
            Tree::Table(entries) => Json::Object(entries.iter().map(|(name, value)| (name.clone(), value.json())).collect()),
        }
    }

    /// The first of each name counts.
    pub fn at(&self, path: &[String]) -> Option<&Tree> {
        let Some((name, rest)) = path.split_first() else { return Some(self) };
        match self {
            Tree::Leaf(_) => None,
            Tree::List(items) => items.iter().enumerate().find(|(index, _)| *name == index.to_string())?.1.at(rest),
            Tree::Table(entries) => entries.iter().find(|(known, _)| known == name)?.1.at(rest),
        }
    }

    /// Whether an object has two entries of one name.
    pub fn repeats(&self) -> bool {
        match self {
            Tree::Leaf(_) => false,
            Tree::List(items) => items.iter().any(Tree::repeats),
            Tree::Table(entries) => {
                let names: std::collections::HashSet<&String> = entries.iter().map(|(name, _)| name).collect();
                names.len() < entries.len() || entries.iter().any(|(_, value)| value.repeats())
            }
        }
    }

    pub fn path(&self, choices: &mut Choices) -> Vec<String> {
        let (mut path, mut at) = (Vec::new(), self);
        loop {
            let (name, next) = match at {
                Tree::List(items) if !items.is_empty() => {
                    let index = choices.below(items.len());
                    (index.to_string(), &items[index])
                }
                Tree::Table(entries) if !entries.is_empty() => {
                    let (name, value) = choices.pick(entries);
                    (name.clone(), value)
                }
                _ => return path,
            };
            if choices.once_in(8) {
                path.push((*choices.pick(&["a", "0", "00", "", "é", "18446744073709551616", "-1"])).to_owned());
                return path;
            }
            path.push(name);
            if choices.once_in(5) {
                return path;
            }
            at = next;
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Build;
        impl<'de> Visitor<'de> for Build {
            type Value = Tree;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_unit<E>(self) -> Result<Tree, E> {
                Ok(Tree::Leaf(Json::Null))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
                Ok(Tree::Leaf(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
                Ok(Tree::Leaf(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
                Ok(Tree::Leaf(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
                Ok(Tree::Leaf(value.into()))
            }

            fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
                Ok(Tree::Leaf(text.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Tree::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
                let mut list = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    list.push(entry);
                }
                Ok(Tree::Table(list))
            }
        }
        deserializer.deserialize_any(Build)
    }
}

/// A field of a valid document is what stands at its path.
fn find(text: &[u8], choices: &mut Choices) -> Result<(), String> {
    let tree: Tree = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    for _ in 0..choices.below(4) {
        let path = tree.path(choices);
        choices.show("path", &path);
        let wanted = [Wanted { path: path.clone(), kind: None, lenient: false }];
        let projection = Projection::new(Format::Json, None, &wanted).map_err(|error| error.to_string())?;
        let mut columns = projection.columns();
        projection.read(None, text, &mut columns).map_err(|error| format!("field {path:?}: {error}"))?;
        let (found, expected) = (cell(&columns.columns[0])?, tree.at(&path).map(Tree::json));
        if found != expected {
            return Err(format!("field {path:?}: {found:?}, serde_json has {expected:?}"));
        }
    }
    Ok(())
}

/// Fields in whatever kinds, of whatever bytes: numbers are numbers, and a row is whole or not there.
fn any_fields(text: &[u8], choices: &mut Choices) -> Result<(), String> {
    const KINDS: &[Option<Kind>] = &[
        None,
        Some(Kind::Decimals),
        Some(Kind::Integers),
        Some(Kind::Floats),
        Some(Kind::Texts),
        Some(Kind::Binaries),
        Some(Kind::Booleans),
        Some(Kind::Timestamps),
    ];
    const PATHS: &[&[&str]] = &[&[], &["a"], &["0"], &["a", "a"], &["0", "0"], &["1", "a"], &["\""], &[""]];
    for _ in 0..choices.below(4) {
        let path: Vec<String> = choices.pick(PATHS).iter().map(|name| (*name).to_owned()).collect();
        let wanted = [Wanted { path, kind: *choices.pick(KINDS), lenient: choices.once_in(2) }];
        choices.show("field", &wanted[0]);
        let projection = Projection::new(Format::Json, None, &wanted).map_err(|error| error.to_string())?;
        let mut columns = projection.columns();
        let read = projection.read(None, text, &mut columns).is_ok();
        if columns.columns[0].len() != usize::from(read) {
            return Err("half a row".to_owned());
        }
        if let (true, Column::Decimals(column)) = (read, &columns.columns[0])
            && !column.data.is_empty()
        {
            let digits = String::from_utf8_lossy(&column.data);
            let number = serde_json::from_str::<serde_json::Number>(&digits);
            // Decimals have no bound of size.
            if let Some(error) = number.err().filter(|error| !error.to_string().contains("out of range")) {
                return Err(format!("the decimal {digits:?}: {error}"));
            }
        }
    }
    Ok(())
}
