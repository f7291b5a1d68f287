//! From the shape of an event and the columns of a row to the event's schema, and to the steps that write its bytes.
//!
//! Invariant: the steps write exactly what the schema says, in its order. Both depend on the configuration and the row's schema only,
//! never on values.

use serde_json::{Value as Json, json};

use crate::config::Missing;
use crate::read::{Fault, Filled, Null};
use crate::scalar;
use crate::shape::{Columns, Outside, Part, Read, Shape, Value};
use crate::types::{Cast, Type};

/// One step of writing an event. `C`: where a column is, `T`: how one is copied.
#[derive(Debug)]
pub enum Step<C, T> {
    /// Bytes that are the same in every event.
    Constant(Vec<u8>),
    /// A value that is read and cast.
    Filled(Filled<C>),
    /// A column that is copied as it is.
    Taken(T),
}

/// Rows of one schema, or of none.
pub trait Rows {
    /// Where a column is.
    type Column;
    /// How one is copied.
    type Taken;

    /// A name for a record of the event.
    fn claim(&mut self, name: &str) -> String;

    /// A column that is cast, and whether it may be null; `None`: the rows have it not.
    fn find(&self, path: &[String]) -> Option<(Self::Column, bool)>;

    /// A column as it is: its field in the event's schema, and how to copy it; `None`: the rows have it not.
    ///
    /// # Errors
    /// Where there is no type for it.
    fn take(&mut self, path: &[String], name: &str, required: bool) -> Result<Option<(Json, Self::Taken)>, Fault>;

    /// The names of the chosen columns, in order.
    ///
    /// # Errors
    /// Where one is named that the rows have not, and must have.
    fn choose(&mut self, columns: &Columns, missing: Missing) -> Result<Vec<String>, Fault>;
}

/// What an event of rows of one kind is, and how it is written.
#[derive(Debug)]
pub struct Compiled<C, T> {
    /// The event's schema.
    pub definition: String,
    pub steps: Vec<Step<C, T>>,
    /// How its key is made, if it is made of something.
    pub key: Option<Filled<C>>,
}

/// Compiles a shape for rows.
///
/// # Errors
/// Why these rows cannot become events.
pub fn compile<R: Rows>(shape: &Shape, rows: &mut R) -> Result<Compiled<R::Column, R::Taken>, Fault> {
    let mut compiler = Compiler { rows, missing: shape.missing, steps: Vec::new() };
    let definition = compiler.record(&shape.name, &shape.parts)?;
    let key = match &shape.key {
        Some(crate::shape::KeyRule::Made(value)) => compiler.filled("key", value)?,
        _ => None,
    };
    Ok(Compiled { definition: definition.to_string(), steps: compiler.steps, key })
}

struct Compiler<'r, R: Rows> {
    rows: &'r mut R,
    missing: Missing,
    steps: Vec<Step<R::Column, R::Taken>>,
}

impl<R: Rows> Compiler<'_, R> {
    fn record(&mut self, name: &str, parts: &[Part]) -> Result<Json, Fault> {
        let full = self.rows.claim(name);
        let mut fields: Vec<Json> = Vec::new();
        for part in parts {
            match part {
                Part::Value(name, value) => fields.extend(self.value(name, value)?),
                Part::Group(inner, parts) => {
                    let record = self.record(&format!("{name}_{inner}"), parts)?;
                    fields.push(json!({ "name": inner, "type": record }));
                }
                Part::Columns(columns) => {
                    for column in self.rows.choose(columns, self.missing)? {
                        let read = Read::Column(vec![column.clone()]);
                        let value = Value { read, cast: columns.cast(&column), required: false };
                        fields.extend(self.value(columns.name(&column), &value)?);
                    }
                }
            }
        }
        let mut seen = std::collections::HashSet::new();
        if let Some(twice) = fields.iter().find(|field| !seen.insert(&field["name"])) {
            return Err(Fault::new("name-taken", format!("the event would have {} twice in one record: rename the column", twice["name"])));
        }
        Ok(json!({ "type": "record", "name": full, "fields": fields }))
    }

    fn value(&mut self, name: &str, value: &Value) -> Result<Option<Json>, Fault> {
        if let (Read::Column(path), None) = (&value.read, value.cast) {
            return match self.rows.take(path, name, value.required)? {
                Some((field, taken)) => {
                    self.steps.push(Step::Taken(taken));
                    Ok(Some(field))
                }
                None if self.missing == Missing::Reject || value.required => Err(Fault::no_column(path)),
                None => Ok(None),
            };
        }
        if let Read::Outside(Outside::Constant(plain, of)) = &value.read {
            let mut bytes = Vec::new();
            scalar::write_avro(plain, *of, &mut bytes);
            self.steps.push(Step::Constant(bytes));
            return Ok(Some(json!({ "name": name, "type": of.definition() })));
        }
        let filled = self.filled(name, value)?;
        let cast = filled.as_ref().map_or_else(|| own_cast(value), |filled| filled.cast);
        let nullable = filled.as_ref().is_none_or(|filled| filled.null == Null::Kept);
        // A column that is not there is null, in the type that it is cast to.
        self.steps.push(filled.map_or_else(|| Step::Constant(vec![0]), Step::Filled));
        let of = cast.to.definition();
        Ok(Some(if nullable {
            json!({ "name": name, "type": ["null", of], "default": null })
        } else {
            json!({ "name": name, "type": of })
        }))
    }

    /// A value that is read and cast; `None`: rows have not what it is made of.
    fn filled(&self, name: &str, value: &Value) -> Result<Option<Filled<R::Column>>, Fault> {
        let mut nullable = false;
        let null = |nullable| match (value.required, nullable) {
            (true, _) => Null::Refused,
            (false, true) => Null::Kept,
            (false, false) => Null::Never,
        };
        match self.read(&value.read, &mut nullable) {
            Ok(read) => Ok(Some(Filled { name: name.to_owned(), read, cast: own_cast(value), null: null(nullable) })),
            Err(path) if self.missing == Missing::Reject || value.required => Err(Fault::no_column(path)),
            Err(_) => Ok(None),
        }
    }

    /// Finds the columns; the error is the path of one that is not there.
    fn read<'v>(&self, read: &'v Read<Vec<String>>, nullable: &mut bool) -> Result<Read<R::Column>, &'v [String]> {
        match read {
            Read::Column(path) => {
                let (column, may_be_null) = self.rows.find(path).ok_or(path.as_slice())?;
                *nullable |= may_be_null;
                Ok(Read::Column(column))
            }
            Read::Outside(outside) => {
                *nullable |= outside.own_type().1;
                Ok(Read::Outside(outside.clone()))
            }
            Read::Concat(parts, separator) => {
                let parts = parts.iter().map(|part| self.read(part, nullable)).collect::<Result<_, _>>()?;
                Ok(Read::Concat(parts, separator.clone()))
            }
        }
    }
}

fn own_cast(value: &Value) -> Cast {
    value.cast.unwrap_or_else(|| match &value.read {
        Read::Outside(outside) => Cast::to(outside.own_type().0),
        _ => Cast::to(Type::String),
    })
}
