//! Rows in Avro on their way to events in Avro.
//!
//! Invariant: what is not cast is copied byte for byte, whatever its type, under the same schema.

use serde_json::{Value as Json, json};

use super::schema::{Emitter, Field, NodeId, Schema, Shape};
use super::walk::{scalar, skip};
use super::wire::{Broken, Cursor, write_long};
use crate::compile::{Compiled, Rows, Step, compile};
use crate::config::Missing;
use crate::read::{Fault, Filled, Lookup, Record};
use crate::scalar::Scalar;
use crate::shape;

/// A way from a column of the row down to a value.
#[derive(Debug, Clone)]
pub struct Column {
    /// Number of the row's field.
    field: usize,
    hops: Vec<Hop>,
    /// The value's schema.
    node: NodeId,
}

#[derive(Debug, Clone, Copy)]
enum Hop {
    /// Through a union, if it has this branch; it is null otherwise.
    Branch { of: NodeId, branch: usize },
    /// To a field of a record.
    Field { of: NodeId, index: usize },
}

/// A copy of a column.
#[derive(Debug)]
pub enum Taken {
    /// Fields of the row, from the first up to the second, as they are.
    Fields(usize, usize),
    One {
        column: Column,
        name: String,
        wrap: Wrap,
    },
}

/// How the bytes of a value become those of its field in the event.
#[derive(Debug, Clone, Copy)]
pub enum Wrap {
    AsIs,
    /// The value is a union that has null as this branch, which stands for what is not there too.
    Absent(usize),
    /// The value is a union, whose branches move behind null.
    Behind,
    /// The value becomes the second branch, behind null.
    Under,
    /// The value is a union of null, which is given up, and another branch, which stands alone.
    Bare(usize),
    /// The value is a union, whose null is given up.
    Refuse(usize),
    /// What is not there is given up.
    There,
}

/// Everything that makes events of the rows of one schema.
#[derive(Debug)]
pub struct Program {
    schema: Schema,
    /// The row's record, and the branches that lead to it where the value may be something else.
    record: NodeId,
    compiled: Compiled<Column, Taken>,
}

/// A row, and where each of its fields begins; the last entry is its end.
struct Row<'p> {
    program: &'p Program,
    bytes: &'p [u8],
    starts: &'p [usize],
}

struct AvroRows<'a> {
    schema: &'a Schema,
    fields: &'a [Field],
    emitter: Emitter<'a>,
}

impl Program {
    /// Compiles a shape for rows of a schema.
    ///
    /// # Errors
    /// Why these rows cannot become events.
    pub fn new(shape: &shape::Shape, schema: Schema) -> Result<Program, Fault> {
        let is_record = |id: &NodeId| matches!(schema.node(*id).shape, Shape::Record(_));
        let record = std::iter::once(&schema.root).chain(schema.branches(schema.root)).find(|id| is_record(id)).copied();
        let record = record.ok_or_else(|| Fault::new("not-a-row", "the schema of the value is not that of a record"))?;
        let mut rows = AvroRows {
            schema: &schema,
            fields: fields_of(&schema, record),
            emitter: Emitter::new(&schema, shape.name.rsplit_once('.').map_or("", |(namespace, _)| namespace)),
        };
        let mut compiled = compile(shape, &mut rows)?;
        compiled.steps = joined(compiled.steps);
        Ok(Program { schema, record, compiled })
    }

    /// The event's schema.
    pub fn definition(&self) -> &str {
        &self.compiled.definition
    }

    /// How the event's key is made.
    pub fn key(&self) -> Option<&Filled<Column>> {
        self.compiled.key.as_ref()
    }

    /// Appends the event of a row, and says its key where one is made. `starts` is memory to work in.
    ///
    /// # Errors
    /// Why it cannot become an event.
    pub fn run(&self, record: Record<'_>, bytes: &[u8], starts: &mut Vec<usize>, out: &mut Vec<u8>) -> Result<Option<Vec<u8>>, Fault> {
        self.find_fields(bytes, starts)?;
        let row = Row { program: self, bytes, starts };
        for step in &self.compiled.steps {
            match step {
                Step::Constant(bytes) => out.extend_from_slice(bytes),
                Step::Taken(Taken::Fields(from, to)) => out.extend_from_slice(&bytes[starts[*from]..starts[*to]]),
                Step::Taken(Taken::One { column, name, wrap }) => row.take(column, name, *wrap, out)?,
                Step::Filled(filled) => filled.write_avro(record, &row, out)?,
            }
        }
        self.key().map(|key| key.key_bytes(record, &row)).transpose()
    }

    fn find_fields(&self, bytes: &[u8], starts: &mut Vec<usize>) -> Result<(), Fault> {
        let broken = |error: Broken| Fault::new("not-a-row", format!("the value is not what its schema says: {error}"));
        let mut cursor = Cursor::new(bytes);
        let branches = self.schema.branches(self.schema.root);
        if !branches.is_empty() && branches[cursor.index(branches.len()).map_err(broken)?] != self.record {
            return Err(Fault::new("not-a-row", "the value is not a record, but another branch of its union"));
        }
        starts.clear();
        starts.push(cursor.at());
        for field in fields_of(&self.schema, self.record) {
            skip(&self.schema, field.node, &mut cursor, 1).map_err(|error| broken(error).in_field(&field.name))?;
            starts.push(cursor.at());
        }
        cursor.finish().map_err(broken)
    }
}

impl Fault {
    fn in_field(mut self, name: &str) -> Self {
        self.message = format!("{} (field {name:?})", self.message);
        self
    }
}

fn fields_of(schema: &Schema, record: NodeId) -> &[Field] {
    match &schema.node(record).shape {
        Shape::Record(fields) => fields,
        _ => &[],
    }
}

/// Copies of fields that follow each other, in the row as in the event, become one.
fn joined(steps: Vec<Step<Column, Taken>>) -> Vec<Step<Column, Taken>> {
    let mut joined: Vec<Step<Column, Taken>> = Vec::with_capacity(steps.len());
    for step in steps {
        match (joined.last_mut(), &step) {
            (Some(Step::Taken(Taken::Fields(_, end))), Step::Taken(Taken::Fields(from, to))) if *end == *from => *end = *to,
            _ => joined.push(step),
        }
    }
    joined
}

impl AvroRows<'_> {
    fn column(&self, path: &[String]) -> Option<Column> {
        let (first, rest) = path.split_first()?;
        let field = self.fields.iter().position(|field| field.name == *first)?;
        let mut column = Column { field, hops: Vec::new(), node: self.fields[field].node };
        for name in rest {
            let index_in = |id: NodeId| fields_of(self.schema, id).iter().position(|field| field.name == *name);
            let union = self.schema.branches(column.node).iter().enumerate();
            let through = union.filter_map(|(branch, id)| index_in(*id).map(|index| (branch, *id, index))).next();
            let (of, index) = match through {
                Some((branch, id, index)) => {
                    column.hops.push(Hop::Branch { of: column.node, branch });
                    (id, index)
                }
                None => (column.node, index_in(column.node)?),
            };
            column.hops.push(Hop::Field { of, index });
            column.node = fields_of(self.schema, of)[index].node;
        }
        Some(column)
    }
}

impl Column {
    /// Whether the row may have nothing there.
    fn may_lack(&self) -> bool {
        self.hops.iter().any(|hop| matches!(hop, Hop::Branch { .. }))
    }
}

impl Rows for AvroRows<'_> {
    type Column = Column;
    type Taken = Taken;

    fn claim(&mut self, name: &str) -> String {
        self.emitter.claim(name)
    }

    fn find(&self, path: &[String]) -> Option<(Column, bool)> {
        let column = self.column(path)?;
        let nullable = column.may_lack() || self.schema.is_null(column.node) || self.schema.null_branch(column.node).is_some();
        Some((column, nullable))
    }

    fn take(&mut self, path: &[String], name: &str, required: bool) -> Result<Option<(Json, Taken)>, Fault> {
        let Some(column) = self.column(path) else { return Ok(None) };
        let (node, null) = (column.node, self.schema.null_branch(column.node));
        let union = !self.schema.branches(node).is_empty();
        if required && self.schema.is_null(node) {
            return Err(Fault::new("null", format!("{name:?} is always null: so says the schema of the row")));
        }
        let bare = self.schema.branches(node).iter().find(|branch| !self.schema.is_null(**branch));
        let wrap = match (required, column.may_lack(), null) {
            (true, _, Some(null)) if self.schema.branches(node).len() == 2 => Wrap::Bare(null),
            (true, _, Some(null)) => Wrap::Refuse(null),
            (true, true, None) => Wrap::There,
            (false, true, Some(null)) => Wrap::Absent(null),
            (false, true, None) if union => Wrap::Behind,
            (false, true, None) if !self.schema.is_null(node) => Wrap::Under,
            _ => Wrap::AsIs,
        };
        let field = match wrap {
            Wrap::AsIs if column.hops.is_empty() => self.emitter.field(&self.fields[column.field], name),
            Wrap::Behind => {
                let Json::Array(branches) = self.emitter.node(node) else { return Ok(None) };
                let branches: Vec<Json> = std::iter::once(json!("null")).chain(branches).collect();
                json!({ "name": name, "type": branches })
            }
            Wrap::Under => json!({ "name": name, "type": self.emitter.nullable(node) }),
            Wrap::Bare(_) => json!({ "name": name, "type": self.emitter.node(*bare.unwrap_or(&node)) }),
            _ => json!({ "name": name, "type": self.emitter.node(node) }),
        };
        let taken = match wrap {
            Wrap::AsIs if column.hops.is_empty() => Taken::Fields(column.field, column.field + 1),
            _ => Taken::One { column, name: name.to_owned(), wrap },
        };
        Ok(Some((field, taken)))
    }

    fn choose(&mut self, columns: &shape::Columns, missing: Missing) -> Result<Vec<String>, Fault> {
        let has = |name: &String| self.fields.iter().any(|field| field.name == *name);
        if missing == Missing::Reject
            && let Some(name) = columns.named().find(|name| !has(name))
        {
            return Err(Fault::no_column(std::slice::from_ref(name)));
        }
        Ok(match &columns.only {
            Some(only) => only.clone(),
            None => self.fields.iter().filter(|field| !columns.excepts(&field.name)).map(|field| field.name.clone()).collect(),
        })
    }
}

impl<'p> Row<'p> {
    /// Goes to a value; `None`: it is not there.
    fn reach(&self, column: &Column) -> Result<Option<Cursor<'p>>, Broken> {
        let schema = &self.program.schema;
        let mut cursor = Cursor::new(&self.bytes[self.starts[column.field]..self.starts[column.field + 1]]);
        for hop in &column.hops {
            match hop {
                Hop::Branch { of, branch } => {
                    if cursor.index(schema.branches(*of).len())? != *branch {
                        return Ok(None);
                    }
                }
                Hop::Field { of, index } => {
                    fields_of(schema, *of)[..*index].iter().try_for_each(|field| skip(schema, field.node, &mut cursor, 1))?;
                }
            }
        }
        Ok(Some(cursor))
    }

    fn take(&self, column: &Column, name: &str, wrap: Wrap, out: &mut Vec<u8>) -> Result<(), Fault> {
        let refused = || Fault::new("null", format!("{name:?} is null"));
        let schema = &self.program.schema;
        let Some(mut cursor) = self.reach(column).map_err(broken)? else {
            match wrap {
                Wrap::Absent(null) => write_long(null as i64, out),
                Wrap::Behind | Wrap::Under => write_long(0, out),
                // The value's type is null, which has no bytes.
                Wrap::AsIs => (),
                Wrap::Bare(_) | Wrap::Refuse(_) | Wrap::There => return Err(refused()),
            }
            return Ok(());
        };
        let mut start = cursor.at();
        match wrap {
            Wrap::Under => write_long(1, out),
            Wrap::Behind => {
                let branch = cursor.clone().index(schema.branches(column.node).len()).map_err(broken)?;
                write_long(branch as i64 + 1, out);
            }
            Wrap::Bare(null) | Wrap::Refuse(null) => {
                let branch = cursor.clone().index(schema.branches(column.node).len()).map_err(broken)?;
                if branch == null {
                    return Err(refused());
                }
            }
            Wrap::AsIs | Wrap::Absent(_) | Wrap::There => (),
        }
        skip_value(schema, column.node, wrap, &mut cursor, &mut start).map_err(broken)?;
        out.extend_from_slice(cursor.since(start));
        Ok(())
    }
}

/// Passes over a value; `start` moves behind the number of its branch where that is not copied.
fn skip_value(schema: &Schema, node: NodeId, wrap: Wrap, cursor: &mut Cursor<'_>, start: &mut usize) -> Result<(), Broken> {
    if !matches!(wrap, Wrap::Behind | Wrap::Bare(_)) {
        return skip(schema, node, cursor, 1);
    }
    let branches = schema.branches(node);
    let branch = branches[cursor.index(branches.len())?];
    *start = cursor.at();
    skip(schema, branch, cursor, 1)
}

fn broken(error: Broken) -> Fault {
    Fault::new("not-a-row", format!("the value is not what its schema says: {error}"))
}

impl Lookup<Column> for Row<'_> {
    fn scalar<'s>(&'s self, column: &'s Column, nested: bool) -> Result<Scalar<'s>, Fault> {
        match self.reach(column).map_err(broken)? {
            None => Ok(Scalar::Null),
            Some(mut cursor) => scalar(&self.program.schema, column.node, &mut cursor, nested, 1).map_err(broken),
        }
    }
}
