//! Rows in JSON on their way to events in Avro: the types are those of the configured casts.
//!
//! Invariant: the event's schema follows from the configuration alone. A row with a column that has no type is given up, never guessed.

use serde_json::Value as Json;

use super::{Column, Object, Row};
use crate::compile::{Compiled, Rows, Step, compile};
use crate::config::Missing;
use crate::read::{Fault, Filled, Record};
use crate::shape::{Columns, Part, Shape};

/// Everything that makes typed events of JSON rows.
#[derive(Debug)]
pub struct Program {
    compiled: Compiled<Column, std::convert::Infallible>,
    missing: Missing,
    /// For each choice of all columns: those that have a type, or are left out.
    known: Vec<Vec<String>>,
}

#[derive(Default)]
struct JsonRows {
    names: Vec<String>,
    /// Columns of a choice of all: rows may do without.
    optional: Vec<String>,
}

impl Program {
    /// Compiles a shape.
    ///
    /// # Errors
    /// Names a column that has no type.
    pub fn new(shape: &Shape) -> Result<Program, Fault> {
        let compiled = compile(shape, &mut JsonRows::default())?;
        let mut known = Vec::new();
        find_choices(&shape.parts, &mut known);
        Ok(Program { compiled, missing: shape.missing, known })
    }

    /// The event's schema.
    pub fn definition(&self) -> &str {
        &self.compiled.definition
    }

    /// How the event's key is made.
    pub fn key(&self) -> Option<&Filled<Column>> {
        self.compiled.key.as_ref()
    }

    /// Appends the event of a row, and says its key where one is made.
    ///
    /// # Errors
    /// Why it cannot become an event.
    pub fn run(&self, record: Record<'_>, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<Vec<u8>>, Fault> {
        let row = Row { object: Object::parse(bytes)?, missing: self.missing };
        for known in &self.known {
            if let Some((name, _)) = row.object.0.iter().find(|(name, _)| known.iter().all(|known| known != name)) {
                return Err(no_type(name));
            }
        }
        for step in &self.compiled.steps {
            match step {
                Step::Constant(bytes) => out.extend_from_slice(bytes),
                Step::Filled(filled) => filled.write_avro(record, &row, out)?,
                Step::Taken(never) => match *never {},
            }
        }
        self.key().map(|key| key.key_bytes(record, &row)).transpose()
    }
}

fn no_type(column: &str) -> Fault {
    let remedy = "the row has no schema, so give the column a `cast`, leave it out, or say format = \"json\"";
    Fault::new("no-type", format!("the column {column:?} has no type: {remedy}"))
}

fn find_choices(parts: &[Part], known: &mut Vec<Vec<String>>) {
    for part in parts {
        match part {
            Part::Group(_, parts) => find_choices(parts, known),
            Part::Columns(columns) if columns.only.is_none() => {
                known.push(columns.except.iter().chain(columns.cast.iter().map(|(name, _)| name)).cloned().collect());
            }
            Part::Columns(_) | Part::Value(..) => (),
        }
    }
}

impl Rows for JsonRows {
    type Column = Column;
    type Taken = std::convert::Infallible;

    fn claim(&mut self, name: &str) -> String {
        let mut name = name.to_owned();
        while self.names.contains(&name) {
            name.push('_');
        }
        self.names.push(name.clone());
        name
    }

    fn find(&self, path: &[String]) -> Option<(Column, bool)> {
        let optional = path.len() == 1 && self.optional.contains(&path[0]);
        Some((Column { path: path.to_vec(), optional }, true))
    }

    fn take(&mut self, path: &[String], _: &str, _: bool) -> Result<Option<(Json, Self::Taken)>, Fault> {
        Err(no_type(&path.join(".")))
    }

    fn choose(&mut self, columns: &Columns, _: Missing) -> Result<Vec<String>, Fault> {
        Ok(match &columns.only {
            Some(only) => only.clone(),
            None => {
                let typed: Vec<String> = columns.cast.iter().map(|(name, _)| name.clone()).collect();
                self.optional.extend_from_slice(&typed);
                typed
            }
        })
    }
}
