//! One scalar of a value as text: what keys and fields are in paths.
//!
//! Invariant: of repeated names the first counts; a value is read to its end, so a broken one is an error and not a text.

use super::walk::{Events, Scalar};
use super::{DecodeError, Value, text, walk};

/// What stands at a place in a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Picked {
    /// A scalar, as text.
    Text(String),
    /// Nothing, or null.
    Missing,
    /// A record, a map or an array.
    Container,
    /// Bytes, which have no text.
    Bytes,
}

/// The scalar at `path`, a name for each level of records and maps; empty: the value itself.
///
/// # Errors
/// Where the bytes are not what format and schema say.
pub fn pick(value: Value<'_>, path: &[String]) -> Result<Picked, DecodeError> {
    let mut picker = Picker { path, open: Vec::new(), is_named: false, found: None };
    walk(value, &mut picker)?;
    Ok(picker.found.unwrap_or(Picked::Missing))
}

struct Picker<'p> {
    path: &'p [String],
    /// For each container that is open: whether it is on the way.
    open: Vec<bool>,
    /// Whether the name before the value is the one on the way.
    is_named: bool,
    found: Option<Picked>,
}

impl Picker<'_> {
    /// A value begins; whether it is on the way.
    fn begins(&mut self) -> bool {
        let on_way = self.open.is_empty() || self.is_named;
        self.is_named = false;
        on_way
    }

    fn is_wanted(&self) -> bool {
        self.open.len() == self.path.len() && self.found.is_none()
    }

    fn container(&mut self, has_names: bool) {
        let on_way = self.begins();
        if on_way && self.is_wanted() {
            self.found = Some(Picked::Container);
        }
        self.open.push(on_way && has_names);
    }
}

impl Events for Picker<'_> {
    fn scalar(&mut self, scalar: Scalar<'_>) {
        if self.begins() && self.is_wanted() {
            self.found = Some(match scalar {
                Scalar::Null => Picked::Missing,
                Scalar::Bytes(_) => Picked::Bytes,
                other => Picked::Text(text::scalar(other).unwrap_or_default()),
            });
        }
    }

    fn begin_array(&mut self) {
        self.container(false);
    }

    fn end_array(&mut self) {
        self.open.pop();
    }

    fn begin_map(&mut self) {
        self.container(true);
    }

    fn name(&mut self, name: &str) {
        let depth = self.open.len();
        self.is_named = self.open.last() == Some(&true) && self.path.get(depth - 1).is_some_and(|wanted| wanted == name);
    }

    fn end_map(&mut self) {
        self.open.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Format;

    #[test]
    fn a_scalar_is_found_by_its_path() {
        let json = r#"{"id":7,"a":{"id":"x","b":[{"id":1}],"n":null},"t":true,"a.id":"dot","id":8,"f":1.5}"#;
        let cases: [(&[&str], Picked); 10] = [
            (&["id"], Picked::Text("7".into())),
            (&["a", "id"], Picked::Text("x".into())),
            (&["a.id"], Picked::Text("dot".into())),
            (&["t"], Picked::Text("true".into())),
            (&["f"], Picked::Text("1.5".into())),
            (&["a"], Picked::Container),
            (&["a", "b"], Picked::Container),
            (&["a", "b", "id"], Picked::Missing),
            (&["a", "n"], Picked::Missing),
            (&["id", "x"], Picked::Missing),
        ];
        for (path, expected) in cases {
            let path: Vec<String> = path.iter().map(ToString::to_string).collect();
            let value = Value { format: Format::Json, schema: None, bytes: json.as_bytes() };
            assert_eq!(pick(value, &path), Ok(expected), "{path:?}");
        }
    }

    #[test]
    fn the_value_itself_is_picked_without_a_path() {
        let of = |format, bytes| pick(Value { format, schema: None, bytes }, &[]);
        assert_eq!(of(Format::Raw, b"key 1"), Ok(Picked::Text("key 1".into())));
        assert_eq!(of(Format::Raw, b"\xff"), Ok(Picked::Bytes));
        assert_eq!(of(Format::Json, b"{}"), Ok(Picked::Container));
        assert_eq!(of(Format::Json, b"[1]"), Ok(Picked::Container));
        assert_eq!(of(Format::Json, b"\"text\""), Ok(Picked::Text("text".into())));
        assert_eq!(of(Format::Json, b"null"), Ok(Picked::Missing));
        assert!(of(Format::Json, b"{\"a\":").is_err());
    }
}
