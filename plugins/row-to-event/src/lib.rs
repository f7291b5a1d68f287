//! `row-to-event`: maps rows to events of a configured shape, and registers the event's schema from the row's.
//!
//! ```toml
//! config = {
//!   id = "order_id",                       # never null
//!   payload = { all_except = ["secret"], rename = { amount = "total" }, cast = { amount = "decimal(12,2)" } },
//!   meta = { source = { const = "shop" }, created_at = "created_at", offset = { record = "offset" } },
//!   key = "order_id",                      # as text; without it the record's key stays, false takes it away
//! }
//! ```
//!
//! * `id`: a source. `payload`: columns (`fields` or `all_except`, `rename`, `cast`, `set`, `inline`). `meta`, `set`: names and sources.
//! * A source is a column's path as text, or a table with one of `field`, `const`, `record` (`topic`, `partition`, `offset`,
//!   `timestamp`, `key`, `now`), `key`, `header`, `concat` (with `separator`), `group`, `columns`; with `cast` where it is one value.
//! * `format = "avro"` (default) or `"json"`; `name` of the event's record; `missing = "reject"` or `"leave-out"`;
//!   `tombstone = "keep"`, `"drop"` or `"reject"`.
//!
//! Decisions:
//!
//! * Whole rows are planned, as they are on the wire. A row in Avro is passed over once to find where its columns begin; what is not
//!   cast is copied byte for byte under its own schema, so every type survives exactly. Casts are exact or reject the record.
//! * What is compiled for a schema is remembered under its handle, so rows of several schemas may take turns.
//! * JSON rows have no schema: an Avro event takes its types from the casts alone, never from values, so that it cannot depend on how
//!   records fall into batches. A column without a type rejects the row.
//! * JSON events are made of the row's JSON text, as the router writes it. Null differs from what is not there; in Avro both are null.
//! * `id` and `key` are never null. A tombstone stays one, unless the key is made of the row.
//!
//! `docs/plugins/row-to-event.md` explains all of it, with examples and the codes of rejects.

mod avro;
mod compile;
mod config;
mod json;
mod read;
mod scalar;
mod shape;
mod text;
mod types;

use anabranch_guest::{Batch, Context, Encoding, Failure, Outputs, Plan, Problem, Transform, register_schema, schema};

use config::{Config, Format, Tombstone};
use read::{Fault, Record};
use shape::{KeyRule, Shape};

/// The plugin.
pub struct RowToEvent {
    shape: Shape,
    /// Ways by handle of the rows' schema, at most [`WAYS_MAX`].
    ways: Vec<(u32, Way)>,
    /// Memory to work in.
    starts: Vec<usize>,
    event: Vec<u8>,
}

/// How rows of one schema become events.
enum Way {
    Avro(Box<avro::rows::Program>, u32),
    Typed(Box<json::typed::Program>, u32),
    Json(Box<json::event::Program>),
    /// None of them can.
    Closed(Fault),
}

/// How many schemas of rows are remembered: a topic has few; a plugin that makes one per record must not fill the memory.
const WAYS_MAX: usize = 256;

impl Transform for RowToEvent {
    type Config = Config;

    fn plan(config: Config, _: &Context, plan: &mut Plan) -> Result<Self, Vec<Problem>> {
        let shape = shape::check(config, plan)?;
        match shape.format {
            // As it is: rows come in Avro or in JSON, whichever the topic has.
            Format::Avro => plan.values(Encoding::Raw),
            Format::Json => plan.values(Encoding::Json),
        }
        plan.sets_values(if shape.format == Format::Avro { Encoding::Avro } else { Encoding::Json });
        plan.sets_keys(Encoding::Raw);
        Ok(RowToEvent { shape, ways: Vec::new(), starts: Vec::new(), event: Vec::new() })
    }

    fn process(&mut self, batch: &Batch, out: &mut Outputs) -> Result<(), Failure> {
        for row in 0..batch.len() {
            let record = Record { batch, row };
            let done = match batch.value(row) {
                Some(value) => self.event(record, value, out),
                None => self.tombstone(record, out),
            };
            if let Err(fault) = done {
                out.reject(row, fault.code, &fault.message);
            }
        }
        Ok(())
    }
}

impl RowToEvent {
    fn event(&mut self, record: Record<'_>, value: &[u8], out: &mut Outputs) -> Result<(), Fault> {
        let way = self.way(record.batch.value_schema(record.row));
        self.event.clear();
        let event = &mut self.event;
        let (key, schema) = match &self.ways[way].1 {
            Way::Avro(program, schema) => (program.run(record, value, &mut self.starts, event)?, *schema),
            Way::Typed(program, schema) => (program.run(record, value, event)?, *schema),
            Way::Json(program) => (program.run(record, value, event)?, 0),
            Way::Closed(fault) => return Err(fault.clone()),
        };
        let output = out.keep(record.row).value(Some(event)).value_schema(schema);
        match (&self.shape.key, key) {
            (Some(KeyRule::None), _) => {
                output.key(None);
            }
            (_, Some(key)) => {
                output.key(Some(&key));
            }
            (_, None) => (),
        }
        Ok(())
    }

    /// The number of the way for rows of a schema.
    fn way(&mut self, handle: u32) -> usize {
        if let Some(known) = self.ways.iter().position(|(known, _)| *known == handle) {
            return known;
        }
        if self.ways.len() >= WAYS_MAX {
            self.ways.clear();
        }
        let way = find_way(&self.shape, handle).unwrap_or_else(Way::Closed);
        self.ways.push((handle, way));
        self.ways.len() - 1
    }

    fn tombstone(&mut self, record: Record<'_>, out: &mut Outputs) -> Result<(), Fault> {
        match self.shape.tombstone {
            Tombstone::Drop => return Ok(()),
            Tombstone::Reject => return Err(Fault::new("tombstone", "the record is a tombstone: it has no row")),
            Tombstone::Keep => (),
        }
        let key = match &self.shape.key {
            None => None,
            Some(KeyRule::None) => Some(None),
            Some(KeyRule::Made(value)) if value.read.needs_row() => {
                let remedy = "tombstone = \"drop\" leaves such records out";
                return Err(Fault::new("tombstone", format!("the key is made of the row, and a tombstone has none; {remedy}")));
            }
            Some(KeyRule::Made(_)) => json::event::Program::new(&self.shape).key_without_row(record)?.map(Some),
        };
        let output = out.keep(record.row);
        if let Some(key) = key {
            output.key(key.as_deref());
        }
        Ok(())
    }
}

fn find_way(shape: &Shape, handle: u32) -> Result<Way, Fault> {
    if shape.format == Format::Json {
        return Ok(Way::Json(Box::new(json::event::Program::new(shape))));
    }
    let register = |definition: &str| {
        register_schema(definition).map_err(|error| Fault::new("schema", format!("the event's schema is not taken: {error}: {definition}")))
    };
    let rows = match schema(handle) {
        None => None,
        Some(info) => match avro::schema::Schema::parse(&info.definition) {
            Ok(schema) => Some(schema),
            // A JSON schema is none of Avro: its rows are JSON.
            Err(_) if !is_record(&info.definition) => None,
            Err(error) => return Err(Fault::new("schema", format!("the schema of the row cannot be used: {error}"))),
        },
    };
    Ok(match rows {
        Some(schema) => {
            let program = avro::rows::Program::new(shape, schema)?;
            let handle = register(program.definition())?;
            Way::Avro(Box::new(program), handle)
        }
        None => {
            let program = json::typed::Program::new(shape)?;
            let handle = register(program.definition())?;
            Way::Typed(Box::new(program), handle)
        }
    })
}

/// Whether a schema means to be that of an Avro record.
fn is_record(definition: &str) -> bool {
    let json: serde_json::Value = serde_json::from_str(definition).unwrap_or_default();
    let record = |schema: &serde_json::Value| schema["type"] == "record";
    record(&json) || json.as_array().is_some_and(|branches| branches.iter().any(record))
}

anabranch_guest::export!(RowToEvent);

#[cfg(test)]
mod tests;
