//! What a plugin announces: fields, headers, keys and values that it reads, and what it will set.

use crate::bindings::anabranch::plugin::types as wit;
use crate::{Encoding, Part};

/// What a plugin reads and how it answers. Fill it in [`Transform::plan`](crate::Transform::plan); each method returns the handle by which
/// the batch gives the column.
#[derive(Debug, Clone)]
pub struct Plan(wit::Plan);

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident, $method:ident, $kind:ident;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq)]
            pub struct $name(pub(crate) usize);

            impl $name {
                /// Its position among the planned fields.
                pub fn index(self) -> usize {
                    self.0
                }
            }
        )*

        impl Plan {
            $(
                $(#[$doc])*
                /// `path`: names joined by dots, `\.` for a dot within a name; `key.` in front reads the key.
                pub fn $method(&mut self, path: &str) -> $name {
                    let (part, path) = parse_path(path);
                    $name(self.want(part, path, wit::Kind::$kind, false))
                }
            )*
        }
    };
}

fields! {
    /// A field as text. Numbers, dates, uuids and the like are readable as text too.
    TextField, text, Texts;
    /// A field as a 64-bit integer.
    IntegerField, integer, Integers;
    /// A field as a 64-bit float.
    FloatField, float, Floats;
    /// A field as a boolean.
    BooleanField, boolean, Booleans;
    /// A field as bytes.
    BinaryField, binary, Binaries;
    /// A field as days since 1970-01-01.
    DateField, date, Dates;
    /// A field as microseconds since midnight.
    TimeField, time, Times;
    /// A field as microseconds since 1970-01-01T00:00Z.
    TimestampField, timestamp, Timestamps;
    /// A field as exact decimal text.
    DecimalField, decimal, Decimals;
    /// A field of any shape as a CBOR item.
    DocumentField, document, Documents;
}

/// A header that the plugin reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header(pub(crate) usize);

/// A header that the plugin sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetHeader(pub(crate) usize);

/// A choice of sinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinkSet(pub(crate) u8);

/// Splits `key.a.b` into the part and the names; a backslash keeps the dot behind it.
pub fn parse_path(path: &str) -> (Part, Vec<String>) {
    let mut names = vec![String::new()];
    let mut characters = path.chars();
    while let Some(character) = characters.next() {
        let name = names.last_mut().expect("it starts with one name");
        match character {
            '\\' => name.extend(characters.next()),
            '.' => names.push(String::new()),
            other => name.push(other),
        }
    }
    if path.is_empty() {
        names.clear();
    }
    match names.first().map(String::as_str) {
        Some("key") => (Part::Key, names.split_off(1)),
        _ => (Part::Value, names),
    }
}

impl Plan {
    pub(crate) fn new() -> Self {
        Plan(wit::Plan {
            fields: Vec::new(),
            headers: Vec::new(),
            keys: None,
            values: None,
            sets_keys: Encoding::Raw,
            sets_values: Encoding::Raw,
            sets_headers: Vec::new(),
            sink_sets: Vec::new(),
            versions: false,
            per_partition: false,
            max_records: None,
            max_bytes: None,
        })
    }

    fn want(&mut self, part: Part, path: Vec<String>, kind: wit::Kind, lenient: bool) -> usize {
        let wanted =
            |field: &wit::WantedField| field.part == part && field.path == path && field.kind == Some(kind) && field.lenient == lenient;
        if let Some(known) = self.0.fields.iter().position(wanted) {
            return known;
        }
        self.0.fields.push(wit::WantedField { part, path, kind: Some(kind), lenient });
        self.0.fields.len() - 1
    }

    /// Makes the last field that was asked for missing, instead of a dead letter, where its value does not fit.
    pub fn lenient(&mut self) {
        if let Some(field) = self.0.fields.last_mut() {
            field.lenient = true;
        }
    }

    /// A field of part `part` by its names, as text; values that are no single one are missing.
    pub fn lenient_text(&mut self, part: Part, path: Vec<String>) -> TextField {
        TextField(self.want(part, path, wit::Kind::Texts, true))
    }

    /// A field by its part and names, in whatever kind the record has it, as CBOR.
    pub fn document_at(&mut self, part: Part, path: Vec<String>) -> DocumentField {
        DocumentField(self.want(part, path, wit::Kind::Documents, false))
    }

    /// A header; of several of one name, the last.
    pub fn header(&mut self, name: &str) -> Header {
        if let Some(known) = self.0.headers.iter().position(|known| known == name) {
            return Header(known);
        }
        self.0.headers.push(name.to_owned());
        Header(self.0.headers.len() - 1)
    }

    /// Whole keys, in this encoding.
    pub fn keys(&mut self, encoding: Encoding) {
        self.0.keys = Some(encoding);
    }

    /// Whole values, in this encoding.
    pub fn values(&mut self, encoding: Encoding) {
        self.0.values = Some(encoding);
    }

    /// Keys that the plugin sets are in this encoding.
    pub fn sets_keys(&mut self, encoding: Encoding) {
        self.0.sets_keys = encoding;
    }

    /// Values that the plugin sets are in this encoding.
    pub fn sets_values(&mut self, encoding: Encoding) {
        self.0.sets_values = encoding;
    }

    /// A header that the plugin sets.
    pub fn sets_header(&mut self, name: &str) -> SetHeader {
        self.0.sets_headers.push(name.to_owned());
        SetHeader(self.0.sets_headers.len() - 1)
    }

    /// A choice among the route's sinks. At most 255.
    pub fn sink_set(&mut self, sinks: &[&str]) -> SinkSet {
        self.0.sink_sets.push(sinks.iter().map(|name| (*name).to_owned()).collect());
        SinkSet((self.0.sink_sets.len() - 1) as u8)
    }

    /// [`schema`](crate::schema) tells subject and version in the registry too.
    pub fn versions(&mut self) {
        self.0.versions = true;
    }

    /// An instance for each partition, for plugins that remember.
    pub fn per_partition(&mut self) {
        self.0.per_partition = true;
    }

    /// At most so many records in one call.
    pub fn max_records(&mut self, records: u32) {
        self.0.max_records = Some(records);
    }

    pub(crate) fn wit(&self) -> &wit::Plan {
        &self.0
    }
}

impl From<Plan> for wit::Plan {
    fn from(plan: Plan) -> Self {
        plan.0
    }
}

/// What a plugin knows when it plans.
#[derive(Debug, Clone)]
pub struct Context(wit::Context);

impl Context {
    /// For tests; the host makes it otherwise.
    pub fn new(config: &str, route: &str, name: &str, sinks: &[&str]) -> Self {
        let sinks = sinks.iter().map(|name| (*name).to_owned()).collect();
        Context(wit::Context { config: config.to_owned(), route: route.to_owned(), name: name.to_owned(), sinks })
    }

    /// The configuration as JSON text.
    pub fn config(&self) -> &str {
        &self.0.config
    }

    /// Name of the route.
    pub fn route(&self) -> &str {
        &self.0.route
    }

    /// Name of the plugin in the configuration.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Names of the route's sinks.
    pub fn sinks(&self) -> &[String] {
        &self.0.sinks
    }
}

impl From<wit::Context> for Context {
    fn from(context: wit::Context) -> Self {
        Context(context)
    }
}

/// Something that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it is, names from the outside in.
    pub path: Vec<String>,
    /// First byte and end within the text at that place.
    pub at: Option<(u32, u32)>,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl Problem {
    /// A problem of the value at `path`.
    pub fn at(path: &[&str], message: impl Into<String>) -> Self {
        Problem { path: path.iter().map(|name| (*name).to_owned()).collect(), at: None, message: message.into() }
    }

    /// A problem of a part of the text at `path`, in bytes.
    #[must_use]
    pub fn within(mut self, range: std::ops::Range<usize>) -> Self {
        self.at = Some((range.start as u32, range.end as u32));
        self
    }

    pub(crate) fn of_serde(error: &serde_path_to_error::Error<serde_json::Error>) -> Self {
        let path = error.path().iter().filter_map(|segment| match segment {
            serde_path_to_error::Segment::Map { key } => Some(key.clone()),
            serde_path_to_error::Segment::Seq { index } => Some(index.to_string()),
            serde_path_to_error::Segment::Enum { variant } => Some(variant.clone()),
            serde_path_to_error::Segment::Unknown => None,
        });
        let text = error.inner().to_string();
        let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message).to_owned();
        Problem { path: path.collect(), at: None, message }
    }
}

impl From<Problem> for wit::Problem {
    fn from(problem: Problem) -> Self {
        wit::Problem { path: problem.path, at: problem.at, message: problem.message }
    }
}
