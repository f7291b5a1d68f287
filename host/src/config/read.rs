//! A deserializer over the file's tree whose errors are data: which entry, where, and what kind of mistake.
//!
//! Invariant: every error below an entry names the innermost entry that holds it, so that the entry can be left out.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde::de::value::{CowStrDeserializer, StrDeserializer};
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};
use toml::Spanned;
use toml::de::DeValue;

use super::secret::SECRET_MARK;
use super::suggest;
use super::text::PATH_MARK;
use super::tree::Tree;

/// An entry of a table or an array: the address of its value, which stays where it is as long as the tree is read.
pub(super) type Entry = usize;

/// What is wrong with a value.
#[derive(Debug)]
pub(super) enum Wrong {
    UnknownKey {
        key: String,
        known: &'static [&'static str],
    },
    MissingKey(&'static str),
    UnknownWord {
        word: String,
        known: &'static [&'static str],
    },
    Kind {
        found: String,
        expected: String,
    },
    Other(String),
    /// It follows from another problem, which is reported.
    Follows,
}

impl Wrong {
    /// Message and help; `None`: nothing to say.
    pub fn texts(&self) -> Option<(String, String)> {
        let with_help = |text: &str| match text.split_once('\n') {
            Some((wrong, remedy)) => (wrong.to_owned(), remedy.to_owned()),
            None => (text.to_owned(), String::new()),
        };
        Some(match self {
            Wrong::UnknownKey { key, known } => {
                (format!("unknown key `{key}`"), suggest::suggestion(key, known.iter().copied(), "keys here"))
            }
            Wrong::MissingKey(key) => (format!("the key `{key}` is missing"), format!("add {key} = ..")),
            Wrong::UnknownWord { word, known } => {
                (format!("\"{word}\" is not one of the words here"), suggest::suggestion(word, known.iter().copied(), "words"))
            }
            Wrong::Kind { found, expected } => {
                let (expected, remedy) = with_help(expected);
                (format!("expected {expected}, found {found}"), remedy)
            }
            Wrong::Other(text) => with_help(text),
            Wrong::Follows => return None,
        })
    }
}

/// Why a part cannot be read.
#[derive(Debug)]
pub(super) struct ReadError {
    pub wrong: Wrong,
    pub at: Option<Range<usize>>,
    pub entry: Option<Entry>,
}

impl ReadError {
    fn new(wrong: Wrong) -> Self {
        ReadError { wrong, at: None, entry: None }
    }

    fn at(mut self, at: impl FnOnce() -> Range<usize>) -> Self {
        self.at.get_or_insert_with(at);
        self
    }

    fn within(mut self, entry: Entry) -> Self {
        self.entry.get_or_insert(entry);
        self
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (message, help) = self.wrong.texts().unwrap_or_default();
        write!(f, "{message}\n{help}")
    }
}

impl std::error::Error for ReadError {}

impl serde::de::Error for ReadError {
    fn custom<T: fmt::Display>(text: T) -> Self {
        ReadError::new(Wrong::Other(text.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        ReadError::new(Wrong::Kind { found: found_words(found), expected: expected_words(expected) })
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        ReadError::invalid_type(found, expected)
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        ReadError::new(Wrong::UnknownKey { key: key.to_owned(), known })
    }

    fn unknown_variant(word: &str, known: &'static [&'static str]) -> Self {
        ReadError::new(Wrong::UnknownWord { word: word.to_owned(), known })
    }

    fn missing_field(key: &'static str) -> Self {
        ReadError::new(Wrong::MissingKey(key))
    }
}

fn found_words(found: Unexpected<'_>) -> String {
    match found {
        // Text may be a secret in the wrong place: it is not repeated.
        Unexpected::Str(_) | Unexpected::Char(_) => "text".into(),
        Unexpected::Map | Unexpected::StructVariant | Unexpected::NewtypeVariant => "a table".into(),
        Unexpected::Seq => "a list".into(),
        Unexpected::Signed(number) => format!("the number {number}"),
        Unexpected::Unsigned(number) => format!("the number {number}"),
        Unexpected::Float(number) => format!("the number {number:?}"),
        Unexpected::Bool(yes) => yes.to_string(),
        Unexpected::UnitVariant => "a word".into(),
        other => other.to_string(),
    }
}

fn expected_words(expected: &dyn serde::de::Expected) -> String {
    let words = expected.to_string();
    match words.as_str() {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more".into(),
        "i32" | "i64" => "a whole number".into(),
        text if text.starts_with("a nonzero ") => "a whole number, 1 or more".into(),
        "a string" => "text in quotes".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "a list in [ ]".into(),
        "a map" => "a table".into(),
        text if text.starts_with("struct ") => "a table".into(),
        text if text.starts_with("struct variant ") || text.starts_with("enum ") => "a table".into(),
        _ => words,
    }
}

/// A value of the tree, to be read.
#[derive(Clone, Copy)]
pub(super) struct Node<'t, 'a> {
    pub tree: &'t Tree<'t>,
    pub folder: &'t Path,
    /// Entries that are known to be wrong.
    pub skipped: &'a RefCell<HashSet<Entry>>,
    /// Secrets that stand in the file in plain text: nothing may show them.
    pub plain_secrets: &'a RefCell<Vec<Range<usize>>>,
}

impl<'t> Node<'t, '_> {
    fn with(self, tree: &'t Tree<'t>) -> Self {
        Node { tree, ..self }
    }

    pub fn entry(tree: &Tree<'_>) -> Entry {
        std::ptr::from_ref(tree) as usize
    }

    fn is_skipped(self, tree: &Tree<'_>) -> bool {
        self.skipped.borrow().contains(&Self::entry(tree))
    }

    fn unexpected(self) -> Unexpected<'t> {
        match self.tree.get_ref() {
            DeValue::String(text) => Unexpected::Str(text),
            DeValue::Boolean(yes) => Unexpected::Bool(*yes),
            DeValue::Datetime(_) => Unexpected::Other("a date"),
            DeValue::Array(_) => Unexpected::Seq,
            DeValue::Table(_) => Unexpected::Map,
            DeValue::Integer(_) => Unexpected::Other("a number"),
            DeValue::Float(_) => Unexpected::Other("a number"),
        }
    }

    fn visit<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.tree.get_ref() {
            DeValue::String(text) => visitor.visit_borrowed_str(text),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => visitor.visit_i64(number),
                Err(_) => Err(ReadError::custom(format!("{number} is too large"))),
            },
            DeValue::Float(number) => match number.as_str().parse() {
                Ok(number) => visitor.visit_f64(number),
                Err(_) => Err(ReadError::custom(format!("{number} is too large"))),
            },
            DeValue::Boolean(yes) => visitor.visit_bool(*yes),
            DeValue::Datetime(moment) => visitor.visit_string(moment.to_string()),
            DeValue::Array(list) => visitor.visit_seq(Items { node: self, items: list.iter() }),
            DeValue::Table(table) => visitor.visit_map(Entries { node: self, entries: table.iter(), value: None }),
        }
        .map_err(|error| self.placed(error))
    }

    /// Where a secret is expected, text may be the secret itself.
    fn note_plain_secrets(self) {
        let mut noted = self.plain_secrets.borrow_mut();
        match self.tree.get_ref() {
            DeValue::Table(table) => {
                let others = table.iter().filter(|(key, _)| !matches!(key.get_ref().as_ref(), "env" | "file"));
                noted.extend(others.map(|(_, value)| value.span()));
            }
            _ => noted.push(self.tree.span()),
        }
    }

    fn placed(self, mut error: ReadError) -> ReadError {
        if let (None, None, DeValue::Table(table)) = (&error.entry, &error.at, self.tree.get_ref()) {
            let follows = match &error.wrong {
                Wrong::MissingKey(key) => table.get(*key).is_some_and(|value| self.is_skipped(value)),
                // A table that says itself that it is incomplete.
                Wrong::Other(_) => table.values().any(|value| self.is_skipped(value)),
                _ => false,
            };
            if follows {
                error.wrong = Wrong::Follows;
            }
        }
        error.at(|| self.tree.span())
    }
}

macro_rules! any {
    ($($method:ident)*) => { $(
        fn $method<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, ReadError> {
            self.visit(visitor)
        }
    )* };
}

impl<'t> Deserializer<'t> for Node<'t, '_> {
    type Error = ReadError;

    any! { deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16
    deserialize_u32 deserialize_u64 deserialize_f32 deserialize_f64 deserialize_char deserialize_bytes deserialize_byte_buf deserialize_unit
    deserialize_seq deserialize_map deserialize_identifier deserialize_ignored_any }

    fn deserialize_str<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.tree.get_ref() {
            DeValue::Datetime(_) => Err(self.placed(ReadError::invalid_type(self.unexpected(), &visitor))),
            _ => self.visit(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_some(self).map_err(|error| self.placed(error))
    }

    fn deserialize_unit_struct<V: Visitor<'t>>(self, _: &'static str, visitor: V) -> Result<V::Value, ReadError> {
        self.visit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'t>>(self, name: &'static str, visitor: V) -> Result<V::Value, ReadError> {
        match self.tree.get_ref() {
            DeValue::String(text) if name == PATH_MARK && !text.is_empty() => {
                let path = self.folder.join(text.as_ref()).to_string_lossy().into_owned();
                visitor.visit_newtype_struct(CowStrDeserializer::new(Cow::Owned(path)))
            }
            _ => visitor.visit_newtype_struct(self),
        }
        .map_err(|error| self.placed(error))
    }

    fn deserialize_tuple<V: Visitor<'t>>(self, _: usize, visitor: V) -> Result<V::Value, ReadError> {
        self.visit(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'t>>(self, _: &'static str, _: usize, visitor: V) -> Result<V::Value, ReadError> {
        self.visit(visitor)
    }

    fn deserialize_struct<V: Visitor<'t>>(self, name: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value, ReadError> {
        if serde_spanned::de::is_spanned(name) {
            let spanned = serde_spanned::de::SpannedDeserializer::new(self, self.tree.span());
            return visitor.visit_map(spanned).map_err(|error| self.placed(error));
        }
        if name == SECRET_MARK {
            self.note_plain_secrets();
        }
        self.visit(visitor)
    }

    fn deserialize_enum<V: Visitor<'t>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match self.tree.get_ref() {
            DeValue::String(word) => visitor.visit_enum(StrDeserializer::new(word)),
            DeValue::Table(table) => match table.iter().next() {
                Some((key, value)) if table.len() == 1 => visitor.visit_enum(Variant { key, value: self.with(value) }),
                _ => Err(ReadError::custom(format!("expected exactly one of {}\nwrite {{ {} = .. }}", variants.join(", "), variants[0]))),
            },
            _ => Err(ReadError::new(Wrong::Kind {
                found: found_words(self.unexpected()),
                expected: format!("one of {}", variants.join(", ")),
            })),
        }
        .map_err(|error| self.placed(error))
    }

    fn deserialize_i128<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.visit(visitor)
    }

    fn deserialize_u128<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.visit(visitor)
    }
}

impl<'t> IntoDeserializer<'t, ReadError> for Node<'t, '_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

struct Items<'t, 'a> {
    node: Node<'t, 'a>,
    items: std::slice::Iter<'t, Tree<'t>>,
}

impl<'t> SeqAccess<'t> for Items<'t, '_> {
    type Error = ReadError;

    fn next_element_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<Option<S::Value>, ReadError> {
        let Some(item) = self.items.by_ref().find(|item| !self.node.is_skipped(item)) else { return Ok(None) };
        let within = |error: ReadError| error.at(|| item.span()).within(Node::entry(item));
        seed.deserialize(self.node.with(item)).map(Some).map_err(within)
    }
}

struct Entries<'t, 'a, I> {
    node: Node<'t, 'a>,
    entries: I,
    value: Option<&'t Tree<'t>>,
}

impl<'t, I: Iterator<Item = (&'t Spanned<Cow<'t, str>>, &'t Tree<'t>)>> MapAccess<'t> for Entries<'t, '_, I> {
    type Error = ReadError;

    fn next_key_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<Option<S::Value>, ReadError> {
        let Some((key, value)) = self.entries.by_ref().find(|(_, value)| !self.node.is_skipped(value)) else { return Ok(None) };
        self.value = Some(value);
        let within = |error: ReadError| error.at(|| key.span()).within(Node::entry(value));
        seed.deserialize(Key(key)).map(Some).map_err(within)
    }

    fn next_value_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<S::Value, ReadError> {
        let value = self.value.take().ok_or_else(|| ReadError::custom("a value was read before its key"))?;
        let within = |error: ReadError| error.at(|| value.span()).within(Node::entry(value));
        seed.deserialize(self.node.with(value)).map_err(within)
    }
}

/// A key: text, or a number where the type wants one.
struct Key<'t>(&'t Spanned<Cow<'t, str>>);

impl<'de> Deserializer<'de> for Key<'de> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_borrowed_str(self.0.get_ref())
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.0.get_ref().parse() {
            Ok(number) => visitor.visit_i32(number),
            Err(_) => Err(ReadError::custom(format!("the key `{}` is not a number", self.0.get_ref()))),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq tuple tuple_struct
        map struct enum identifier ignored_any
    }
}

struct Variant<'t, 'a> {
    key: &'t Spanned<Cow<'t, str>>,
    value: Node<'t, 'a>,
}

impl<'t, 'a> EnumAccess<'t> for Variant<'t, 'a> {
    type Error = ReadError;
    type Variant = Node<'t, 'a>;

    fn variant_seed<S: DeserializeSeed<'t>>(self, seed: S) -> Result<(S::Value, Node<'t, 'a>), ReadError> {
        let chosen = seed.deserialize(Key(self.key)).map_err(|error| error.at(|| self.key.span()))?;
        Ok((chosen, self.value))
    }
}

impl<'t> VariantAccess<'t> for Node<'t, '_> {
    type Error = ReadError;

    fn unit_variant(self) -> Result<(), ReadError> {
        Err(self.placed(ReadError::new(Wrong::Kind { found: found_words(self.unexpected()), expected: "only the word, in quotes".into() })))
    }

    fn newtype_variant_seed<S: DeserializeSeed<'t>>(self, seed: S) -> Result<S::Value, ReadError> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'t>>(self, _: usize, visitor: V) -> Result<V::Value, ReadError> {
        self.visit(visitor)
    }

    fn struct_variant<V: Visitor<'t>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, ReadError> {
        self.visit(visitor)
    }
}
