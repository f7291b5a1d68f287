//! Rows in JSON on their way to events in JSON: what is not cast is copied as text.

use super::{Column, Object, Row, scalar as scalar_of};
use crate::config::Missing;
use crate::read::{Fault, Filled, Null, Record};
use crate::scalar;
use crate::shape::{Columns, KeyRule, Outside, Part, Read, Shape, Value};
use crate::text;
use crate::types::{Cast, Type};

/// Everything that makes JSON events of JSON rows.
#[derive(Debug)]
pub struct Program {
    parts: Vec<Member>,
    key: Option<Filled<Column>>,
    missing: Missing,
}

#[derive(Debug)]
enum Member {
    /// A column as it is.
    Copied(String, Column, Null),
    Filled(String, Filled<Column>),
    Group(String, Vec<Member>),
    Columns(Columns),
}

impl Program {
    /// Compiles a shape.
    pub fn new(shape: &Shape) -> Program {
        let key = match &shape.key {
            Some(KeyRule::Made(value)) => Some(filled("key", value)),
            _ => None,
        };
        Program { parts: members(&shape.parts), key, missing: shape.missing }
    }

    /// The key of a record that has no row.
    ///
    /// # Errors
    /// Where it is null.
    pub fn key_without_row(&self, record: Record<'_>) -> Result<Option<Vec<u8>>, Fault> {
        let row = Row { object: Object(Vec::new()), missing: self.missing };
        self.key.as_ref().map(|key| key.key_bytes(record, &row)).transpose()
    }

    /// Appends the event of a row, and says its key where one is made.
    ///
    /// # Errors
    /// Why it cannot become an event.
    pub fn run(&self, record: Record<'_>, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<Vec<u8>>, Fault> {
        let row = Row { object: Object::parse(bytes)?, missing: self.missing };
        Writer { record, row: &row, out }.group(&self.parts)?;
        self.key.as_ref().map(|key| key.key_bytes(record, &row)).transpose()
    }
}

fn members(parts: &[Part]) -> Vec<Member> {
    let member = |part: &Part| match part {
        Part::Group(name, parts) => Member::Group(name.clone(), members(parts)),
        Part::Columns(columns) => Member::Columns(columns.clone()),
        Part::Value(name, value) => match (&value.read, value.cast) {
            (Read::Column(path), None) => {
                let null = if value.required { Null::Refused } else { Null::Kept };
                Member::Copied(name.clone(), Column { path: path.clone(), optional: false }, null)
            }
            _ => Member::Filled(name.clone(), filled(name, value)),
        },
    };
    parts.iter().map(member).collect()
}

fn filled(name: &str, value: &Value) -> Filled<Column> {
    let own = match &value.read {
        Read::Outside(outside) => outside.own_type().0,
        _ => Type::String,
    };
    let null = if value.required { Null::Refused } else { Null::Kept };
    Filled { name: name.to_owned(), read: read(&value.read), cast: value.cast.unwrap_or(Cast::to(own)), null }
}

fn read(of: &Read<Vec<String>>) -> Read<Column> {
    match of {
        Read::Column(path) => Read::Column(Column { path: path.clone(), optional: false }),
        Read::Outside(outside) => Read::Outside(Outside::clone(outside)),
        Read::Concat(parts, separator) => Read::Concat(parts.iter().map(read).collect(), separator.clone()),
    }
}

struct Writer<'w> {
    record: Record<'w>,
    row: &'w Row<'w>,
    out: &'w mut Vec<u8>,
}

impl<'w> Writer<'w> {
    fn group<'m>(&mut self, members: &'m [Member]) -> Result<(), Fault>
    where
        'w: 'm,
    {
        let mut names: Vec<&'m str> = Vec::with_capacity(members.len());
        self.out.push(b'{');
        for member in members {
            match member {
                Member::Copied(name, column, null) => match self.row.object.at(&column.path) {
                    Some(value) if *null == Null::Refused && value.get() == "null" => {
                        return Err(Fault::new("null", format!("{name:?} is null")));
                    }
                    Some(value) => {
                        self.name(name, &mut names)?;
                        self.out.extend_from_slice(value.get().as_bytes());
                    }
                    None if self.row.missing == Missing::LeaveOut && *null == Null::Kept => (),
                    None => return Err(Fault::no_column(&column.path)),
                },
                Member::Filled(name, filled) => {
                    if let Read::Column(column) = &filled.read
                        && self.row.missing == Missing::LeaveOut
                        && filled.null == Null::Kept
                        && self.row.object.at(&column.path).is_none()
                    {
                        continue;
                    }
                    let plain = filled.plain(self.record, self.row)?;
                    self.name(name, &mut names)?;
                    scalar::write_json(&plain, filled.cast.to, self.out);
                }
                Member::Group(name, members) => {
                    self.name(name, &mut names)?;
                    self.group(members)?;
                }
                Member::Columns(columns) => self.columns(columns, &mut names)?,
            }
        }
        self.out.push(b'}');
        Ok(())
    }

    fn name<'m>(&mut self, name: &'m str, names: &mut Vec<&'m str>) -> Result<(), Fault> {
        if names.contains(&name) {
            return Err(Fault::new("name-taken", format!("the event would have {name:?} twice in one record: rename the column")));
        }
        if !names.is_empty() {
            self.out.push(b',');
        }
        names.push(name);
        text::write_json_string(name, self.out);
        self.out.push(b':');
        Ok(())
    }

    fn columns<'m>(&mut self, columns: &'m Columns, names: &mut Vec<&'m str>) -> Result<(), Fault>
    where
        'w: 'm,
    {
        let row = self.row;
        if let Some(only) = &columns.only {
            for column in only {
                match row.object.get(column) {
                    Some(value) => self.column(columns, column, value, names)?,
                    None if row.missing == Missing::LeaveOut => (),
                    None => return Err(Fault::no_column(std::slice::from_ref(column))),
                }
            }
            return Ok(());
        }
        for (index, (column, value)) in row.object.0.iter().enumerate() {
            // Of repeated names the first counts.
            let repeated = row.object.0[..index].iter().any(|(earlier, _)| earlier == column);
            if !repeated && !columns.excepts(column) {
                self.column(columns, column, value, names)?;
            }
        }
        Ok(())
    }

    fn column<'m>(
        &mut self,
        columns: &'m Columns,
        column: &'m str,
        value: &'m serde_json::value::RawValue,
        names: &mut Vec<&'m str>,
    ) -> Result<(), Fault> {
        self.name(columns.name(column), names)?;
        let Some(cast) = columns.cast(column) else {
            self.out.extend_from_slice(value.get().as_bytes());
            return Ok(());
        };
        let value = scalar_of(value)?;
        let plain = scalar::cast(&value, cast).map_err(|message| Fault::new("cast", format!("{column:?}: {message}")))?;
        scalar::write_json(&plain, cast.to, self.out);
        Ok(())
    }
}
