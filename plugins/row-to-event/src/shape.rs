//! The shape of an event: the configuration, checked.
//!
//! Invariant: everything that can be wrong without a row is found here, all of it at once, each with its path.

use std::collections::{BTreeSet, HashSet};

use anabranch_guest::{Header, Plan, Problem, TextField};

use crate::config::{self, Config, Format, Missing, OfRecord, Source, Tombstone};
use crate::scalar::{self, Plain, Scalar};
use crate::types::{Cast, Type};

/// What an event is made of.
#[derive(Debug)]
pub struct Shape {
    /// Full name of the event's record.
    pub name: String,
    pub format: Format,
    pub parts: Vec<Part>,
    /// `None`: the record's key is kept.
    pub key: Option<KeyRule>,
    pub missing: Missing,
    pub tombstone: Tombstone,
}

/// The event's key.
#[derive(Debug)]
pub enum KeyRule {
    None,
    Made(Value),
}

/// Part of a record of the event.
#[derive(Debug)]
pub enum Part {
    Value(String, Value),
    Group(String, Vec<Part>),
    Columns(Columns),
}

/// One value of the event.
#[derive(Debug)]
pub struct Value {
    pub read: Read<Vec<String>>,
    pub cast: Option<Cast>,
    /// Null gives the record up.
    pub required: bool,
}

/// Where a value comes from. `C`: how a column is named, or found.
#[derive(Debug, Clone)]
pub enum Read<C> {
    Column(C),
    Outside(Outside),
    /// Joined by the text.
    Concat(Vec<Read<C>>, String),
}

/// A value that is not in the row.
#[derive(Debug, Clone)]
pub enum Outside {
    Constant(Plain<'static>, Type),
    Topic,
    Partition,
    Offset,
    Timestamp,
    Now,
    Key(TextField),
    Header(Header),
}

/// Columns of the row, under their names or others.
#[derive(Debug, Clone)]
pub struct Columns {
    /// `None`: all but `except`.
    pub only: Option<Vec<String>>,
    pub except: Vec<String>,
    pub rename: Vec<(String, String)>,
    pub cast: Vec<(String, Cast)>,
}

impl Columns {
    /// The name of a column in the event.
    pub fn name<'a>(&'a self, column: &'a str) -> &'a str {
        self.rename.iter().find(|(from, _)| from == column).map_or(column, |(_, to)| to)
    }

    pub fn cast(&self, column: &str) -> Option<Cast> {
        self.cast.iter().find(|(name, _)| name == column).map(|(_, cast)| *cast)
    }

    pub fn excepts(&self, column: &str) -> bool {
        self.except.iter().any(|name| name == column)
    }

    /// All columns that the configuration names.
    pub fn named(&self) -> impl Iterator<Item = &String> {
        let cast = self.cast.iter().map(|(name, _)| name);
        let renamed = self.rename.iter().map(|(name, _)| name);
        self.only.iter().flatten().chain(&self.except).chain(cast).chain(renamed)
    }
}

impl Outside {
    /// Its type where nothing else is asked for, and whether it may be null.
    pub fn own_type(&self) -> (Type, bool) {
        match self {
            Outside::Constant(_, of) => (*of, false),
            Outside::Topic => (Type::String, false),
            Outside::Partition => (Type::Int, false),
            Outside::Offset => (Type::Long, false),
            Outside::Timestamp => (Type::Timestamp(crate::types::Unit::Millis, true), true),
            Outside::Now => (Type::Timestamp(crate::types::Unit::Millis, true), false),
            Outside::Key(_) | Outside::Header(_) => (Type::String, true),
        }
    }
}

impl<C> Read<C> {
    /// Whether it needs the row.
    pub fn needs_row(&self) -> bool {
        match self {
            Read::Column(_) => true,
            Read::Outside(_) => false,
            Read::Concat(parts, _) => parts.iter().any(Read::needs_row),
        }
    }
}

/// Splits a path at its dots; a backslash keeps the dot behind it.
fn split_path(path: &str) -> Vec<String> {
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
    names
}

fn is_avro_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.chars().all(|character| character.is_ascii_alphanumeric() || character == '_')
}

/// Reads the configuration, and plans what it needs beside the row.
///
/// # Errors
/// All that is wrong with it.
pub fn check(config: Config, plan: &mut Plan) -> Result<Shape, Vec<Problem>> {
    let mut checker = Checker { plan, format: config.format, path: Vec::new(), problems: Vec::new() };
    let name = config.name.unwrap_or_else(|| "anabranch.Event".to_owned());
    if !name.split('.').all(is_avro_name) {
        checker.problem_in(
            "name",
            format!("{name:?} is no name of an Avro record: letters, digits and _, with dots between, as in shop.Order"),
        );
    }
    let mut parts = Vec::new();
    if let Some(id) = &config.id {
        parts.extend(checker.within("id", |checker| checker.value(id, true)).map(|id| Part::Value("id".to_owned(), id)));
    }
    if let Some(payload) = config.payload {
        let inline = payload.inline;
        let columns = checker.within("payload", |checker| checker.columns(payload));
        if inline { parts.extend(columns) } else { parts.push(Part::Group("payload".to_owned(), columns)) }
    }
    if !config.meta.0.is_empty() {
        let meta = checker.within("meta", |checker| checker.members(config.meta.0));
        parts.push(Part::Group("meta".to_owned(), meta));
    }
    parts.extend(checker.within("set", |checker| checker.members(config.set.0)));
    let key = config.key.and_then(|key| match key {
        config::Key::None => Some(KeyRule::None),
        config::Key::Source(source) => checker.within("key", |checker| checker.value(&source, true)).map(KeyRule::Made),
    });
    if parts.is_empty() && checker.problems.is_empty() {
        checker.problem("the event is empty: say at least one of id, payload, meta, set");
    }
    checker.names(&parts);
    if checker.problems.is_empty() {
        Ok(Shape { name, format: config.format, parts, key, missing: config.missing, tombstone: config.tombstone })
    } else {
        Err(checker.problems)
    }
}

struct Checker<'p> {
    plan: &'p mut Plan,
    format: Format,
    path: Vec<String>,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    fn problem(&mut self, message: impl Into<String>) {
        self.problems.push(Problem { path: self.path.clone(), at: None, message: message.into() });
    }

    fn problem_in(&mut self, name: &str, message: impl Into<String>) {
        self.within(name, |checker| checker.problem(message));
    }

    fn within<T>(&mut self, name: &str, check: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(name.to_owned());
        let checked = check(self);
        self.path.pop();
        checked
    }

    fn members(&mut self, members: Vec<(String, Source)>) -> Vec<Part> {
        members.into_iter().filter_map(|(name, source)| self.within(&name.clone(), |checker| checker.member(name, source))).collect()
    }

    fn member(&mut self, name: String, source: Source) -> Option<Part> {
        match source {
            Source::Table(table) if table.group.is_some() || table.columns.is_some() => {
                if !self.is_one(&table) {
                    return None;
                }
                if table.cast.is_some() {
                    self.problem_in("cast", "a record is not cast: cast its fields");
                }
                if let Some(group) = table.group {
                    return Some(Part::Group(name, self.within("group", |checker| checker.members(group.0))));
                }
                let columns = table.columns?;
                if columns.inline {
                    self.within("columns", |checker| {
                        checker.problem_in("inline", "these columns have a name: only the payload's can do without")
                    });
                }
                Some(Part::Group(name, self.within("columns", |checker| checker.columns(columns))))
            }
            source => self.value(&source, false).map(|value| Part::Value(name, value)),
        }
    }

    fn value(&mut self, source: &Source, required: bool) -> Option<Value> {
        let table = match source {
            Source::Column(path) => return self.column(path).map(|read| Value { read, cast: None, required }),
            Source::Table(table) => table,
        };
        let cast = table.cast.as_ref().and_then(|text| self.within("cast", |checker| checker.cast(text)));
        if table.group.is_some() || table.columns.is_some() {
            self.problem("here one value is expected, not a record");
            return None;
        }
        let read = self.read(table, cast)?;
        // A constant has its cast behind it.
        let cast = cast.filter(|_| !matches!(read, Read::Outside(Outside::Constant(..))));
        Some(Value { read, cast, required })
    }

    fn column(&mut self, path: &str) -> Option<Read<Vec<String>>> {
        let names = split_path(path);
        if names.iter().any(String::is_empty) {
            self.problem(format!("{path:?} is no path of a column: names with dots between; a backslash keeps a dot within a name"));
            return None;
        }
        Some(Read::Column(names))
    }

    fn cast(&mut self, text: &str) -> Option<Cast> {
        Cast::parse(text).map_err(|message| self.problem(message)).ok()
    }

    fn is_one(&mut self, table: &config::Table) -> bool {
        let given = [
            table.field.is_some(),
            table.r#const.is_some(),
            table.record.is_some(),
            table.key.is_some(),
            table.header.is_some(),
            table.concat.is_some(),
            table.group.is_some(),
            table.columns.is_some(),
        ];
        let one = given.iter().filter(|given| **given).count() == 1;
        if !one {
            self.problem("one of field, const, record, key, header, concat, group, columns says where the value comes from");
        }
        if table.separator.is_some() && table.concat.is_none() {
            self.problem_in("separator", "only concat has a separator");
        }
        one
    }

    fn read(&mut self, table: &config::Table, cast: Option<Cast>) -> Option<Read<Vec<String>>> {
        if !self.is_one(table) {
            return None;
        }
        if let Some(path) = &table.field {
            return self.within("field", |checker| checker.column(path));
        }
        if let Some(parts) = &table.concat {
            return self.concat(parts, table.separator.as_deref());
        }
        if let Some(value) = &table.r#const {
            return self.within("const", |checker| checker.constant(value, cast)).map(Read::Outside);
        }
        let of_record = table.record.map(|of| match of {
            OfRecord::Topic => Outside::Topic,
            OfRecord::Partition => Outside::Partition,
            OfRecord::Offset => Outside::Offset,
            OfRecord::Timestamp => Outside::Timestamp,
            OfRecord::Now => Outside::Now,
            OfRecord::Key => Outside::Key(self.plan.text("key")),
        });
        let of_key = table.key.as_ref().map(|path| Outside::Key(self.plan.text(&format!("key.{path}"))));
        let of_header = table.header.as_ref().map(|name| Outside::Header(self.plan.header(name)));
        of_record.or(of_key).or(of_header).map(Read::Outside)
    }

    fn concat(&mut self, parts: &[Source], separator: Option<&str>) -> Option<Read<Vec<String>>> {
        let separator = separator.unwrap_or(":");
        if separator.is_empty() || separator.contains('\\') {
            self.problem_in("separator", "it must not be empty or contain a backslash: what was joined could not be told apart");
        }
        if parts.is_empty() {
            self.problem_in("concat", "nothing is joined: name columns, or other sources");
        }
        let read = parts
            .iter()
            .enumerate()
            .map(|(index, part)| self.within("concat", |checker| checker.within(&index.to_string(), |checker| checker.joined(part))));
        let read: Vec<Read<Vec<String>>> = read.collect::<Vec<_>>().into_iter().flatten().collect();
        (read.len() == parts.len()).then(|| Read::Concat(read, separator.to_owned()))
    }

    fn joined(&mut self, part: &Source) -> Option<Read<Vec<String>>> {
        if let Source::Table(table) = part {
            if table.concat.is_some() {
                self.problem("what is joined is not joined again");
                return None;
            }
            if table.cast.is_some() {
                self.problem_in("cast", "what is joined is text, of everything");
            }
        }
        self.value(part, false).map(|value| value.read)
    }

    fn constant(&mut self, value: &serde_json::Value, cast: Option<Cast>) -> Option<Outside> {
        let number;
        let (scalar, own) = match value {
            serde_json::Value::String(text) => (Scalar::Text(text.as_str().into()), Type::String),
            serde_json::Value::Bool(value) => (Scalar::Bool(*value), Type::Boolean),
            serde_json::Value::Number(value) => {
                number = value.to_string();
                (Scalar::Number(&number), if value.is_i64() { Type::Long } else { Type::Double })
            }
            _ => {
                self.problem("a constant is a text, a number, true or false; group makes a record of several");
                return None;
            }
        };
        let cast = cast.unwrap_or(Cast::to(own));
        match scalar::cast(&scalar, cast) {
            Ok(plain) => Some(Outside::Constant(plain.into_owned(), cast.to)),
            Err(message) => {
                self.problem(message);
                None
            }
        }
    }

    fn columns(&mut self, columns: config::Columns) -> Vec<Part> {
        let except = columns.all_except.clone().unwrap_or_default();
        if columns.fields.is_some() && columns.all_except.is_some() {
            self.problem_in("all_except", "`fields` names the columns already: say one of the two");
        }
        self.each_once("fields", columns.fields.as_deref().unwrap_or_default());
        self.each_once("all_except", &except);
        for (what, names) in [("rename", names(&columns.rename.0)), ("cast", names(&columns.cast.0))] {
            for name in names {
                let left_out = except.contains(name) || columns.fields.as_ref().is_some_and(|fields| !fields.contains(name));
                if left_out {
                    self.within(what, |checker| checker.problem_in(name, format!("the column {name:?} is not among those of the event")));
                }
            }
        }
        let cast = columns.cast.0.iter().filter_map(|(name, text)| {
            let cast = self.within("cast", |checker| checker.within(name, |checker| checker.cast(text)))?;
            Some((name.clone(), cast))
        });
        let cast = cast.collect();
        let checked = Columns { only: columns.fields, except, rename: columns.rename.0, cast };
        if self.format == Format::Avro {
            self.avro_names(&checked);
        }
        let set = self.within("set", |checker| checker.members(columns.set.0));
        std::iter::once(Part::Columns(checked)).chain(set).collect()
    }

    fn each_once(&mut self, what: &str, names: &[String]) {
        let mut seen = HashSet::new();
        for (index, name) in names.iter().enumerate() {
            if !seen.insert(name) {
                self.within(what, |checker| checker.problem_in(&index.to_string(), format!("the column {name:?} is there twice")));
            }
        }
    }

    fn avro_names(&mut self, columns: &Columns) {
        for (from, to) in &columns.rename {
            if !is_avro_name(to) {
                self.within("rename", |checker| checker.problem_in(from, not_avro(to, "choose another")));
            }
        }
        let kept: Vec<(&str, &String)> = match &columns.only {
            Some(only) => only.iter().map(|name| ("fields", name)).collect(),
            None => columns.cast.iter().map(|(name, _)| ("cast", name)).collect(),
        };
        for (index, (what, name)) in kept.into_iter().enumerate() {
            if columns.name(name) == name && !is_avro_name(name) {
                let at = if what == "fields" { index.to_string() } else { name.clone() };
                self.within(what, |checker| checker.problem_in(&at, not_avro(name, "rename it")));
            }
        }
    }

    /// Names of one record must differ, as far as they are known without a row.
    fn names(&mut self, parts: &[Part]) {
        let mut seen = HashSet::new();
        let mut wrong = Vec::new();
        for part in parts {
            let names: Vec<&str> = match part {
                Part::Value(name, _) | Part::Group(name, _) => vec![name],
                Part::Columns(columns) => match &columns.only {
                    // A column that is there twice was told already.
                    Some(only) => only.iter().collect::<BTreeSet<_>>().into_iter().map(|name| columns.name(name)).collect(),
                    None => columns.rename.iter().map(|(_, to)| to.as_str()).collect(),
                },
            };
            for name in names {
                if !seen.insert(name) {
                    wrong.push(format!("the event would have {name:?} twice in one record"));
                } else if self.format == Format::Avro && !matches!(part, Part::Columns(_)) && !is_avro_name(name) {
                    wrong.push(not_avro(name, "choose another"));
                }
            }
            if let Part::Group(name, parts) = part {
                self.within(name, |checker| checker.names(parts));
            }
        }
        wrong.into_iter().for_each(|message| self.problem(message));
    }
}

fn names<T>(pairs: &[(String, T)]) -> Vec<&String> {
    pairs.iter().map(|(name, _)| name).collect()
}

fn not_avro(name: &str, remedy: &str) -> String {
    format!("{name:?} is no name in Avro, which has letters, digits and _ only: {remedy}, or say format = \"json\"")
}
