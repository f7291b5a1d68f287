//! The file as a tree whose values know their place, and reading parts of it into types so that every problem is found.
//!
//! Invariant: a key that is wrong hides no other: it is reported, left out, and the part is read again without it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Fault, Problem};
use super::read::{Entry, Node, Wrong};
use super::suggest;

/// A value of the file and its place.
pub type Tree<'t> = Spanned<DeValue<'t>>;

/// A table whose keys are not ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AnyTable {}

impl<'de> Deserialize<'de> for AnyTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = AnyTable;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<AnyTable, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(AnyTable {})
            }
        }
        deserializer.deserialize_map(Any)
    }
}

impl JsonSchema for AnyTable {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "table".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object" })
    }
}

/// One table of the file that is read into a type.
#[derive(Clone)]
pub(super) struct Part<'t> {
    /// The table.
    pub tree: &'t Tree<'t>,
    /// Its header, for what is missing in it.
    pub header: Range<usize>,
    /// What relative paths count from.
    pub folder: &'t Path,
}

/// What was found in a part.
pub(super) struct Found<T> {
    /// The value, without the keys that are wrong; `None` where too little is left.
    pub value: Option<T>,
    /// Keys that were probably meant by unknown ones.
    pub meant: HashSet<String>,
    /// Entries that are wrong.
    pub skipped: HashSet<Entry>,
    /// Ranges of the text that hold secrets in plain text.
    pub plain_secrets: Vec<Range<usize>>,
}

impl Part<'_> {
    /// Reads the part; every problem goes to `problems`.
    pub fn read<T: DeserializeOwned>(&self, problems: &mut Vec<Problem>) -> Found<T> {
        let skipped = RefCell::new(HashSet::new());
        let plain_secrets = RefCell::new(Vec::new());
        let mut meant = HashSet::new();
        let value = loop {
            let node = Node { tree: self.tree, folder: self.folder, skipped: &skipped, plain_secrets: &plain_secrets };
            let error = match T::deserialize(node) {
                Ok(value) => break Some(value),
                Err(error) => error,
            };
            // A table's own range may be that of any of its headers: what is missing in the part belongs to its own.
            let at = match (&error.wrong, error.at) {
                (Wrong::MissingKey(_), at) => at.filter(|_| error.entry.is_some()).unwrap_or_else(|| self.header.clone()),
                (_, at) => at.unwrap_or_else(|| self.header.clone()),
            };
            if let Wrong::UnknownKey { key, known } = &error.wrong {
                meant.extend(suggest::nearest(key, known.iter().copied()).map(str::to_owned));
            }
            let is_followed = matches!(&error.wrong, Wrong::MissingKey(key) if meant.contains(*key));
            if !is_followed && let Some((message, help)) = error.wrong.texts() {
                problems.push(Problem::error(at, message, help));
            }
            let Some(entry) = error.entry else { break None };
            if !skipped.borrow_mut().insert(entry) {
                break None;
            }
        };
        Found { value, meant, skipped: skipped.into_inner(), plain_secrets: plain_secrets.into_inner() }
    }

    /// Whether the part has this key, right or wrong.
    pub fn has(&self, key: &str) -> bool {
        self.tree.get_ref().as_table().is_some_and(|table| table.contains_key(key))
    }

    /// Whether the value at a path is one of `entries`.
    pub fn is_among(&self, path: &[String], entries: &HashSet<Entry>) -> bool {
        let (found, _, depth) = walk(self.tree, path);
        depth == path.len() && entries.contains(&Node::entry(found))
    }

    /// Where a fault belongs.
    pub fn problem(&self, fault: Fault) -> Problem {
        let at = self.place(&fault.path);
        let new = if fault.is_warning { Problem::warning } else { Problem::error };
        new(at, fault.wrong, fault.remedy)
    }

    /// The value at a path, or the key of the last table on the way to it.
    pub fn place(&self, path: &[String]) -> Range<usize> {
        let (found, key, depth) = walk(self.tree, path);
        let is_whole = depth == path.len() && depth > 0;
        match (found.get_ref(), key) {
            (DeValue::Table(_), Some(key)) => key,
            (DeValue::Table(_), None) => self.header.clone(),
            (_, key) if !is_whole => key.unwrap_or_else(|| self.header.clone()),
            _ => found.span(),
        }
    }
}

/// Follows a path of keys and indices as far as it goes: the value there, its key's place, and how many steps were made.
fn walk<'a, 't>(tree: &'a Tree<'t>, path: &[impl AsRef<str>]) -> (&'a Tree<'t>, Option<Range<usize>>, usize) {
    let mut found = tree;
    let mut key = None;
    for (depth, name) in path.iter().map(AsRef::as_ref).enumerate() {
        let next = match found.get_ref() {
            DeValue::Table(table) => table.get_key_value(name).map(|(key, value)| (key.span(), value)),
            DeValue::Array(array) => name.parse::<usize>().ok().and_then(|index| array.get(index)).map(|value| (value.span(), value)),
            _ => None,
        };
        let Some((at, value)) = next else { return (found, key, depth) };
        key = Some(at);
        found = value;
    }
    (found, key, path.len())
}

/// A plugin's configuration: as its `init` gets it, and where it stands in the file.
#[derive(Debug, Clone)]
pub struct PluginConfig {
    /// JSON text of an object.
    pub json: String,
    /// Its key in the file; where there is none, the plugin's name.
    pub at: Range<usize>,
    /// From the top of the file to it; `None`: it was given none.
    path: Option<Vec<String>>,
    text: Arc<str>,
}

impl PluginConfig {
    /// The configuration of a plugin that was given none.
    pub fn none(at: Range<usize>, text: Arc<str>) -> Self {
        PluginConfig { json: "{}".into(), at, path: None, text }
    }

    /// The configuration that stands at `path` of `text`, whose tree is `root`.
    pub(super) fn of(root: &Tree<'_>, path: &[&str], text: Arc<str>) -> Option<Self> {
        let (found, key, depth) = walk(root, path);
        let json = (depth == path.len()).then(|| json_of(found.get_ref()).to_string())?;
        Some(PluginConfig { json, at: key?, path: Some(path.iter().map(|name| (*name).to_owned()).collect()), text })
    }

    /// The place in the file that a problem of the plugin's `init` is about: the value at `path` (keys and indices), and within it the
    /// bytes `at` of its text, if the file has that text as it is (no escapes).
    pub fn place(&self, path: &[String], at: Option<Range<usize>>) -> Range<usize> {
        // Only problems come here, so reading the file's text once more costs nobody anything.
        let (Some(own), Ok(root)) = (&self.path, DeTable::parse(&self.text)) else { return self.at.clone() };
        let root = Spanned::new(root.span(), DeValue::Table(root.into_inner()));
        let whole: Vec<&String> = own.iter().chain(path).collect();
        let (found, key, depth) = walk(&root, &whole);
        if depth < whole.len() || matches!(found.get_ref(), DeValue::Table(_)) {
            return key.unwrap_or_else(|| self.at.clone());
        }
        let whole = found.span();
        let (DeValue::String(decoded), Some(at)) = (found.get_ref(), at) else { return whole };
        let Some(start) = self.text.get(whole.clone()).and_then(|raw| text_start(raw, decoded)) else { return whole };
        let end = at.end.min(decoded.len());
        whole.start + start + at.start.min(end)..whole.start + start + end
    }
}

/// Where a problem of a plugin's `init` stands in the file: see [`PluginConfig::place`].
pub fn plugin_problem(config: &PluginConfig, path: &[String], at: Option<(u32, u32)>) -> Range<usize> {
    config.place(path, at.map(|(start, end)| start as usize..end as usize))
}

/// Offset of a string's text behind its opening quotes, if the text stands there as it is.
fn text_start(raw: &str, decoded: &str) -> Option<usize> {
    let quotes = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quotes| raw.starts_with(*quotes))?;
    let inner = raw.strip_prefix(quotes)?.strip_suffix(quotes)?;
    // A line break right behind three quotes is not part of the text.
    let line_break = match inner {
        _ if quotes.len() == 1 => 0,
        _ if inner.starts_with("\r\n") => 2,
        _ => usize::from(inner.starts_with('\n')),
    };
    (inner.get(line_break..)? == decoded).then_some(quotes.len() + line_break)
}

/// As a plugin sees it: dates become text, and so do numbers that JSON has not.
fn json_of(value: &DeValue<'_>) -> serde_json::Value {
    match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or_else(|_| number.to_string().into(), serde_json::Value::from)
        }
        DeValue::Float(number) => {
            let number = number.as_str();
            let finite = number.parse().ok().and_then(serde_json::Number::from_f64);
            finite.map_or_else(|| number.into(), serde_json::Value::Number)
        }
        DeValue::Boolean(yes) => (*yes).into(),
        DeValue::Datetime(moment) => moment.to_string().into(),
        DeValue::Array(array) => array.iter().map(|item| json_of(item.get_ref())).collect(),
        DeValue::Table(table) => table.iter().map(|(key, value)| (key.get_ref().clone(), json_of(value.get_ref()))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> PluginConfig {
        let root = DeTable::parse(text).unwrap();
        let root = Spanned::new(root.span(), DeValue::Table(root.into_inner()));
        PluginConfig::of(&root, &["plugin", "paid", "config"], text.into()).unwrap()
    }

    fn shown<'t>(text: &'t str, path: &[&str], at: Option<(u32, u32)>) -> &'t str {
        let path: Vec<String> = path.iter().map(|name| (*name).to_owned()).collect();
        &text[plugin_problem(&config(text), &path, at)]
    }

    #[test]
    fn a_plugins_problem_points_into_the_text_that_it_is_about() {
        let text = "[plugin.paid]\nconfig = { where = \"total > x\", list = ['a', 'b c'] }\n";
        assert_eq!(shown(text, &["where"], Some((8, 9))), "x");
        assert_eq!(shown(text, &["where"], None), "\"total > x\"");
        assert_eq!(shown(text, &["list", "1"], Some((2, 3))), "c");
        assert_eq!(shown(text, &["where"], Some((90, 99))), "", "a range outside of the text is its end");
        assert_eq!(shown(text, &["missing"], None), "config");
        assert_eq!(shown(text, &[], None), "config");
    }

    #[test]
    fn text_with_escapes_is_shown_whole_and_long_text_is_not() {
        let escaped = "[plugin.paid.config]\nwhere = \"a\\tb\"\n";
        assert_eq!(shown(escaped, &["where"], Some((2, 3))), "\"a\\tb\"");
        let long = "[plugin.paid.config]\nwhere = '''\nfirst\nsecond'''\n";
        assert_eq!(shown(long, &["where"], Some((6, 12))), "second");
    }

    #[test]
    fn a_plugin_gets_its_configuration_as_json() {
        let text = "[plugin.paid.config]\na = 0x10\nb = 1.5\nc = 2026-01-31\nd = [true, { e = 'f' }]\ng = inf\n";
        assert_eq!(config(text).json, r#"{"a":16,"b":1.5,"c":"2026-01-31","d":[true,{"e":"f"}],"g":"inf"}"#);
    }
}
