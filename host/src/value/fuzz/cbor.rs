//! CBOR, as plugins hand it over: against the rules of RFC 8949, appendix C.

use super::json::Tree;
use super::*;
use crate::fuzz::{self, Choices};

#[test]
fn documents_of_guests_are_read_only_if_they_are_well_formed() {
    fuzz::run("cbor", |choices| {
        let mut bytes = Vec::new();
        let depth = if choices.once_in(12) { 100 + choices.below(60) } else { choices.below(7) };
        let mut is_plain = true;
        item(choices, depth, &mut bytes, &mut is_plain);
        if choices.once_in(3) {
            choices.damage(&mut bytes);
            is_plain = false;
        }
        choices.show("bytes", &bytes);
        let value = Value { format: Format::Cbor, schema: None, bytes: &bytes };
        let valid = in_every_way(value)?;
        let well_formed = end(&bytes, 0, 0) == Some(bytes.len());
        if valid && !well_formed {
            return Err("it is not well-formed".to_owned());
        }
        let any = any_field(&bytes, choices);
        if !valid {
            let error = validate(value).unwrap_err().to_string();
            return if is_plain && !error.contains("nests deeper") { Err(format!("it is refused: {error}")) } else { any };
        }
        any?;
        let mut copy = Vec::new();
        write_cbor(value, &mut copy).map_err(|error| error.to_string())?;
        if copy != bytes {
            return Err("it is not handed on as it is".to_owned());
        }
        find(value, choices)
    });
}

/// Writes an item; `is_plain` stays true where it must be taken.
fn item(choices: &mut Choices, depth: usize, out: &mut Vec<u8>, is_plain: &mut bool) {
    let kinds = if depth == 0 { 10 } else { 17 };
    match choices.below(kinds) {
        0 => out.push(*choices.pick(&[0xf6, 0xf4, 0xf5, 0xf7])),
        1 => head(choices, 0, out),
        2 => head(choices, 1, out),
        3 => {
            let (kind, length) = *choices.pick(&[(0xf9, 2), (0xfa, 4), (0xfb, 8)]);
            out.push(kind);
            out.extend((0..length).map(|_| choices.byte()));
        }
        4 => texts(choices, 3, out),
        5 => texts(choices, 2, out),
        6 => {
            *is_plain = false;
            out.push(0xe0 | choices.byte() & 0x1f);
        }
        7 => {
            // Bignums and decimals.
            out.extend(*choices.pick(&[
                &[0xc2, 0x42, 1, 2][..],
                &[0xc3, 0x49, 1, 2, 3, 4, 5, 6, 7, 8, 9],
                &[0xc4, 0x82, 0x21, 0x19, 1, 2],
            ]));
        }
        8 => {
            out.extend(*choices.pick(&[&[0xd8, 100, 0x19, 1, 2][..], &[0xd9, 3, 0xe9, 0xa2, 1, 0x1a, 1, 2, 3, 4, 0x22, 5]]));
        }
        9 => {
            out.extend([0xd8, 37, 0x50]);
            out.extend((0..16).map(|_| choices.byte()));
        }
        10 | 11 => {
            let count = choices.below(4);
            let open = choices.once_in(2);
            if open {
                out.push(0x9f)
            } else {
                out.push(0x80 | count as u8)
            }
            (0..count).for_each(|_| item(choices, depth - 1, out, is_plain));
            if open {
                out.push(0xff);
            }
        }
        12 | 13 => {
            let count = choices.below(4);
            let open = choices.once_in(2);
            if open {
                out.push(0xbf)
            } else {
                out.push(0xa0 | count as u8)
            }
            for index in 0..count {
                if choices.once_in(9) {
                    // Names that are no texts.
                    *is_plain = false;
                    item(choices, depth - 1, out, is_plain);
                } else {
                    let name = format!("{}{index}", choices.pick(&["", "a", "é"]));
                    out.push(0x60 | name.len() as u8);
                    out.extend(name.bytes());
                }
                item(choices, depth - 1, out, is_plain);
            }
            if open {
                out.push(0xff);
            }
        }
        14 => {
            // Tags whose meaning nobody knows are looked through.
            out.extend(*choices.pick(&[&[0xc1][..], &[0xd8, 42], &[0xd9, 3, 0xea], &[0xdb, 1, 2, 3, 4, 5, 6, 7, 8]]));
            item(choices, depth - 1, out, is_plain);
        }
        _ => {
            // Tags whose contents must be of a certain form.
            *is_plain = false;
            out.extend(*choices.pick(&[&[0xc2][..], &[0xc3], &[0xc4], &[0xd8, 37], &[0xd8, 100], &[0xd9, 3, 0xe9]]));
            item(choices, depth - 1, out, is_plain);
        }
    }
}

/// An initial byte and its argument.
fn head(choices: &mut Choices, major: u8, out: &mut Vec<u8>) {
    let number = choices.number() as u64;
    match number {
        0..24 => out.push(major << 5 | number as u8),
        24..256 => out.extend([major << 5 | 24, number as u8]),
        256..65_536 => {
            out.push(major << 5 | 25);
            out.extend((number as u16).to_be_bytes());
        }
        _ => {
            out.push(major << 5 | 27);
            out.extend(number.to_be_bytes());
        }
    }
}

fn texts(choices: &mut Choices, major: u8, out: &mut Vec<u8>) {
    let bytes = if major == 3 { choices.text(5).into_bytes() } else { choices.some_bytes(20) };
    let open = choices.once_in(3);
    if open {
        out.push(major << 5 | 31);
    }
    for part in if open && bytes.is_ascii() { bytes.chunks(3) } else { bytes.chunks(bytes.len().max(1)) } {
        if part.len() < 24 {
            out.push(major << 5 | part.len() as u8)
        } else {
            out.extend([major << 5 | 24, part.len() as u8])
        }
        out.extend(part);
    }
    if open {
        out.push(0xff);
    } else if bytes.is_empty() {
        out.push(major << 5);
    }
}

/// Where the item at `at` ends; `None`: it is not well-formed.
fn end(bytes: &[u8], at: usize, depth: usize) -> Option<usize> {
    if depth > 2000 {
        return None;
    }
    let first = *bytes.get(at)?;
    let (major, small) = (first >> 5, first & 0x1f);
    let (argument, mut at) = match small {
        0..24 => (u64::from(small), at + 1),
        24..28 => {
            let length = 1 << (small - 24);
            let argument = bytes.get(at + 1..at + 1 + length)?.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
            (argument, at + 1 + length)
        }
        31 if matches!(major, 2..=5) => {
            let mut at = at + 1;
            let mut items = 0;
            while *bytes.get(at)? != 0xff {
                // Parts of texts are texts of known length.
                if matches!(major, 2 | 3) && (bytes[at] >> 5 != major || bytes[at] & 0x1f == 31) {
                    return None;
                }
                at = end(bytes, at, depth + 1)?;
                items += 1;
            }
            return (major != 5 || items % 2 == 0).then_some(at + 1);
        }
        _ => return None,
    };
    match major {
        0 | 1 => Some(at),
        7 if small == 24 && argument < 32 => None,
        7 => Some(at),
        2 | 3 => {
            let text = bytes.get(at..at.checked_add(usize::try_from(argument).ok()?)?)?;
            (major == 2 || std::str::from_utf8(text).is_ok()).then_some(at + text.len())
        }
        6 => end(bytes, at, depth + 1),
        _ => {
            for _ in 0..argument.checked_mul(u64::from(major) - 3)? {
                at = end(bytes, at, depth + 1)?;
            }
            Some(at)
        }
    }
}

/// A field is what stands at its path in the whole.
fn find(value: Value<'_>, choices: &mut Choices) -> Result<(), String> {
    let mut text = Vec::new();
    let options = JsonOptions { time: TimeAs::Number, ..JsonOptions::default() };
    write_json(value, &options, &mut text).map_err(|error| error.to_string())?;
    // serde_json reads one level less than there may be.
    let tree: Tree = match serde_json::from_slice(&text) {
        Ok(tree) => tree,
        Err(error) if error.to_string().contains("recursion limit") => return Ok(()),
        Err(error) => return Err(format!("as JSON: {error}: {}", String::from_utf8_lossy(&text))),
    };
    if tree.repeats() {
        return Ok(());
    }
    for _ in 0..choices.below(4) {
        let path = tree.path(choices);
        choices.show("path", &path);
        let wanted = [Wanted { path: path.clone(), kind: None, lenient: false }];
        let projection = Projection::new(Format::Cbor, None, &wanted).map_err(|error| error.to_string())?;
        let mut columns = projection.columns();
        projection.read(None, value.bytes, &mut columns).map_err(|error| format!("field {path:?}: {error}"))?;
        let (found, expected) = (cell(&columns.columns[0])?, tree.at(&path).map(Tree::json));
        if found != expected {
            return Err(format!("field {path:?}: {found:?}, the whole has {expected:?}"));
        }
    }
    Ok(())
}

fn any_field(bytes: &[u8], choices: &mut Choices) -> Result<(), String> {
    const KINDS: &[Option<Kind>] = &[
        None,
        Some(Kind::Decimals),
        Some(Kind::Integers),
        Some(Kind::Floats),
        Some(Kind::Texts),
        Some(Kind::Binaries),
        Some(Kind::Timestamps),
    ];
    let path = choices.pick(&[&[][..], &["a0"], &["0"], &["0", "1"], &["a0", "0"]]).iter().map(|name: &&str| (*name).to_owned()).collect();
    let wanted = [Wanted { path, kind: *choices.pick(KINDS), lenient: choices.once_in(2) }];
    let projection = Projection::new(Format::Cbor, None, &wanted).map_err(|error| error.to_string())?;
    let mut columns = projection.columns();
    let read = projection.read(None, bytes, &mut columns).is_ok();
    if columns.columns[0].len() == usize::from(read) { Ok(()) } else { Err("half a row".to_owned()) }
}
