//! Values into Arrow columns, for tables.
//!
//! Invariant: a row is appended whole or not at all. What a table's types cannot hold (a schema within itself, a union of several
//! types) becomes JSON text, never an error; which columns those are stands in their field's metadata.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array, Int64Array,
    ListArray, MapArray, NullBufferBuilder, RecordBatch, RecordBatchOptions, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema as ArrowSchema, TimeUnit};

use super::avro::{self, Cursor};
use super::json::{JsonOptions, Writer as JsonWriter};
use super::schema::{Logical, Node, NodeId, Schema, Shape, Unit, look_through};
use super::walk::Scalar;
use super::{DecodeError, Format, Value, text};

/// Key of the field metadata that marks a column of JSON text.
pub const JSON_TEXT: &str = "anabranch.json";

/// Name of the one column of a schema that is no record.
pub const VALUE_COLUMN: &str = "value";

/// A record that a table cannot take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The bytes are not what their schema says.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A column cannot hold the value.
    #[error("column {column:?}: {reason}")]
    Column {
        /// Name of the column, path joined by dots.
        column: String,
        /// Why.
        reason: String,
    },
}

fn unfit(column: &str, reason: impl Into<String>) -> Unfit {
    Unfit::Column { column: column.to_owned(), reason: reason.into() }
}

impl Unfit {
    fn within(self, name: &str) -> Unfit {
        match self {
            Unfit::Decode(error) => Unfit::Decode(error.within(name)),
            Unfit::Column { column, reason } if column.is_empty() => Unfit::Column { column: name.to_owned(), reason },
            Unfit::Column { column, reason } => Unfit::Column { column: format!("{name}.{column}"), reason },
        }
    }
}

/// Most columns of a table, those within columns too: a schema that names its types again and again has more parts than words.
const COLUMNS_MAX: usize = 10_000;

/// The columns of a table that holds the values of an Avro schema: the fields of a record, or one column `value`.
pub fn table_fields(schema: &Schema) -> Vec<FieldRef> {
    let nodes = schema.nodes();
    if nodes.is_empty() {
        return Vec::new();
    }
    let mut left = COLUMNS_MAX;
    let (record, nullable) = look_through(nodes, 0);
    match &nodes[record as usize].shape {
        Shape::Record(fields) => {
            let columns = fields.iter().map(|field| table_field(nodes, &field.name, field.node, 1, &mut left));
            // Where the whole value may be null, a row of nulls stands for it.
            columns.map(|column| if nullable { Arc::new(column.as_ref().clone().with_nullable(true)) } else { column }).collect()
        }
        _ => vec![table_field(nodes, VALUE_COLUMN, 0, 0, &mut left)],
    }
}

fn table_field(nodes: &[Node], name: &str, at: NodeId, depth: usize, left: &mut usize) -> FieldRef {
    let (inner, nullable) = look_through(nodes, at);
    let (data_type, json) = table_type(nodes, inner, depth, left);
    let field = Field::new(name, data_type, nullable);
    Arc::new(if json { field.with_metadata([(JSON_TEXT.to_owned(), "true".to_owned())].into()) } else { field })
}

/// The table's type for a node, and whether it is JSON text in its place. `left`: how many columns there may be within.
fn table_type(nodes: &[Node], at: NodeId, depth: usize, left: &mut usize) -> (DataType, bool) {
    *left = left.saturating_sub(1);
    let node = &nodes[at as usize];
    let plain = match (&node.shape, node.logical) {
        (_, Logical::Decimal { precision, scale }) if precision <= 38 && scale <= precision as i64 && scale >= 0 => {
            DataType::Decimal128(precision as u8, scale as i8)
        }
        (_, Logical::Decimal { .. } | Logical::BigDecimal | Logical::Uuid | Logical::Time(_) | Logical::Duration) => DataType::Utf8,
        (_, Logical::Date) => DataType::Date32,
        (_, Logical::Timestamp(_, true)) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        // Tables without the feature for timestamps of no zone cannot have them as a type.
        (_, Logical::Timestamp(_, false)) => DataType::Utf8,
        (Shape::Boolean, _) => DataType::Boolean,
        (Shape::Int, _) => DataType::Int32,
        (Shape::Long, _) => DataType::Int64,
        (Shape::Float, _) => DataType::Float32,
        (Shape::Double, _) => DataType::Float64,
        (Shape::Bytes | Shape::Fixed(_), _) => DataType::Binary,
        (Shape::String | Shape::Enum(_), _) => DataType::Utf8,
        _ if node.recursive || depth > super::DEPTH_MAX / 2 || *left == 0 => return (DataType::Utf8, true),
        (Shape::Record(fields), _) if !fields.is_empty() => {
            DataType::Struct(fields.iter().map(|field| table_field(nodes, &field.name, field.node, depth + 1, left)).collect())
        }
        (Shape::Array(item), _) => DataType::List(table_field(nodes, "element", *item, depth + 1, left)),
        (Shape::Map(value), _) => {
            let entries = Fields::from(vec![
                Arc::new(Field::new("key", DataType::Utf8, false)),
                table_field(nodes, "value", *value, depth + 1, left),
            ]);
            DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entries), false)), false)
        }
        // A record without fields, a null, a union of several types.
        _ => return (DataType::Utf8, true),
    };
    (plain, false)
}

fn is_json(field: &Field) -> bool {
    field.metadata().contains_key(JSON_TEXT)
}

/// How the values of one schema become rows of one list of columns. Columns that the schema has not are null; fields without a
/// column are passed over.
#[derive(Debug)]
pub struct Appender(How);

#[derive(Debug)]
enum How {
    /// Value of a record: for each of its fields the column and how to fill it.
    Record { record: NodeId, fields: Vec<Option<(usize, Plan)>> },
    /// Value that is no record.
    Single(Plan),
    /// JSON, by name.
    Json,
}

#[derive(Debug)]
enum Plan {
    /// As the builder of the column's type takes the scalar.
    Scalar,
    /// The same for what most columns are, without a look at the schema for each value. `null`: which branch of a union of two is null.
    Direct {
        wire: Wire,
        null: Option<usize>,
    },
    /// The node as JSON text.
    Json,
    Struct(Vec<Option<(usize, Plan)>>),
    List(Box<Plan>),
    Map(Box<Plan>),
}

/// What is on the wire where the column has the same.
#[derive(Debug, Clone, Copy)]
enum Wire {
    Bool,
    Int,
    Long,
    Double,
    Text,
    Timestamp(Unit),
}

impl Appender {
    /// How values of an Avro schema become rows of `target`.
    ///
    /// # Errors
    /// Where a column of the same name has a type that cannot hold the field.
    pub fn new(schema: &Schema, target: &[FieldRef]) -> Result<Appender, Unfit> {
        let nodes = schema.nodes();
        if nodes.is_empty() {
            return Ok(Appender(How::Json));
        }
        let record = look_through(nodes, 0).0;
        match &nodes[record as usize].shape {
            Shape::Record(_) => Ok(Appender(How::Record { record, fields: plan_fields(nodes, record, target)? })),
            _ => {
                let column = target.iter().find(|field| field.name() == VALUE_COLUMN);
                let column = column.ok_or_else(|| unfit(VALUE_COLUMN, "a value that is no record needs a column of this name"))?;
                Ok(Appender(How::Single(plan(nodes, 0, column).map_err(|error| error.within(VALUE_COLUMN))?)))
            }
        }
    }

    /// How JSON objects become rows: by the names of the columns.
    pub fn json() -> Appender {
        Appender(How::Json)
    }
}

fn plan_fields(nodes: &[Node], record: NodeId, target: &[FieldRef]) -> Result<Vec<Option<(usize, Plan)>>, Unfit> {
    let Shape::Record(fields) = &nodes[record as usize].shape else { return Ok(Vec::new()) };
    let planned = fields.iter().map(|field| {
        let Some(index) = target.iter().position(|column| *column.name() == field.name) else { return Ok(None) };
        let plan = plan(nodes, field.node, &target[index]).map_err(|error| error.within(&field.name))?;
        Ok(Some((index, plan)))
    });
    planned.collect()
}

fn plan(nodes: &[Node], at: NodeId, column: &Field) -> Result<Plan, Unfit> {
    if is_json(column) {
        return Ok(Plan::Json);
    }
    let (inner, _) = look_through(nodes, at);
    let node = &nodes[inner as usize];
    let misfit = || {
        let own = table_type(nodes, inner, 0, &mut COLUMNS_MAX.clone()).0;
        Err(unfit("", format!("it is {} in the table, the record's schema has {}", column.data_type(), own)))
    };
    match (&node.shape, column.data_type()) {
        (Shape::Null, _) => Ok(Plan::Scalar),
        (Shape::Record(_), DataType::Struct(fields)) => Ok(Plan::Struct(plan_fields(nodes, inner, fields)?)),
        (Shape::Array(item), DataType::List(element)) => Ok(Plan::List(Box::new(plan(nodes, *item, element)?))),
        (Shape::Map(value), DataType::Map(entries, _)) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => Ok(Plan::Map(Box::new(plan(nodes, *value, &fields[1])?))),
            _ => misfit(),
        },
        // A column of text takes what has become a container as JSON.
        (Shape::Record(_) | Shape::Array(_) | Shape::Map(_) | Shape::Union(_), DataType::Utf8) => Ok(Plan::Json),
        (Shape::Record(_) | Shape::Array(_) | Shape::Map(_) | Shape::Union(_), _) => misfit(),
        (_, wanted) => {
            let own = table_type(nodes, inner, 0, &mut COLUMNS_MAX.clone()).0;
            let widens = match (&own, wanted) {
                (own, wanted) if own == wanted => true,
                (DataType::Int32, DataType::Int64 | DataType::Float64) => true,
                (DataType::Float32, DataType::Float64) => true,
                // Whether the number fits shows in each value.
                (DataType::Int64, DataType::Int32) => true,
                (DataType::Decimal128(..), DataType::Decimal128(..)) => true,
                (DataType::Int32 | DataType::Int64, DataType::Decimal128(..)) => true,
                (own, DataType::Utf8) => *own != DataType::Binary,
                _ => false,
            };
            if widens { Ok(direct(nodes, at, wanted).unwrap_or(Plan::Scalar)) } else { misfit() }
        }
    }
}

/// The plan of a node whose values are written as the column has them; `None`: they are not.
fn direct(nodes: &[Node], at: NodeId, column: &DataType) -> Option<Plan> {
    let null = match &nodes[at as usize].shape {
        Shape::Union(branches) if branches.len() != 2 => return None,
        Shape::Union(branches) => Some(branches.iter().position(|branch| matches!(nodes[*branch as usize].shape, Shape::Null))?),
        _ => None,
    };
    let node = &nodes[look_through(nodes, at).0 as usize];
    let wire = match (&node.shape, node.logical, column) {
        (Shape::Boolean, _, DataType::Boolean) => Wire::Bool,
        (Shape::Int, Logical::None, DataType::Int32) => Wire::Int,
        (Shape::Long, Logical::None, DataType::Int64) => Wire::Long,
        (Shape::Double, _, DataType::Float64) => Wire::Double,
        (Shape::String, Logical::None, DataType::Utf8) => Wire::Text,
        (Shape::Long, Logical::Timestamp(unit, true), DataType::Timestamp(TimeUnit::Microsecond, _)) => Wire::Timestamp(unit),
        _ => return None,
    };
    Some(Plan::Direct { wire, null })
}

/// Rows that are being built, for one list of columns.
#[derive(Debug)]
pub struct Rows {
    fields: Vec<FieldRef>,
    builders: Vec<Builder>,
    rows: usize,
    json: JsonOptions,
}

impl Rows {
    /// No row yet.
    ///
    /// # Errors
    /// Where a column has a type that nothing is made into.
    pub fn new(fields: &[FieldRef]) -> Result<Rows, Unfit> {
        let builders = fields.iter().map(|field| Builder::new(field)).collect::<Result<_, _>>()?;
        Ok(Rows { fields: fields.to_vec(), builders, rows: 0, json: JsonOptions::default() })
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.builders.iter().map(Builder::bytes).sum()
    }

    /// Appends a value as a row.
    ///
    /// # Errors
    /// Where the bytes are not what their schema says, or a column cannot hold the value; nothing is appended then.
    pub fn append(&mut self, appender: &Appender, value: Value<'_>) -> Result<(), Unfit> {
        match self.fill(appender, value).and_then(|()| self.end_row()) {
            Ok(()) => {
                self.rows += 1;
                Ok(())
            }
            Err(error) => {
                let rows = self.rows;
                self.builders.iter_mut().for_each(|builder| builder.truncate(rows));
                Err(error)
            }
        }
    }

    fn fill(&mut self, appender: &Appender, value: Value<'_>) -> Result<(), Unfit> {
        match &appender.0 {
            How::Record { record, fields } => {
                let schema = value.schema.ok_or_else(|| DecodeError::new(0, "Avro without a schema"))?;
                let nodes = schema.nodes();
                let mut cursor = Cursor::new(value.bytes);
                let mut at = 0;
                // A nullable record: null is a row of nulls.
                if let Shape::Union(branches) = &nodes[0].shape {
                    at = branches[cursor.index(branches.len(), "branch")?];
                }
                if at == *record {
                    let Shape::Record(names) = &nodes[at as usize].shape else { return Ok(()) };
                    for (field, planned) in names.iter().zip(fields) {
                        match planned {
                            None => avro::skip(nodes, field.node, &mut cursor, 1).map_err(|error| error.within(&field.name))?,
                            Some((index, plan)) => self.builders[*index]
                                .avro(nodes, field.node, plan, &mut cursor, &self.json, 1)
                                .map_err(|error| error.within(&field.name))?,
                        }
                    }
                }
                Ok(cursor.finish()?)
            }
            How::Single(plan) => {
                let schema = value.schema.ok_or_else(|| DecodeError::new(0, "Avro without a schema"))?;
                let Some(index) = self.fields.iter().position(|field| field.name() == VALUE_COLUMN) else { return Ok(()) };
                let mut cursor = Cursor::new(value.bytes);
                self.builders[index].avro(schema.nodes(), 0, plan, &mut cursor, &self.json, 0)?;
                Ok(cursor.finish()?)
            }
            How::Json => self.fill_json(value),
        }
    }

    fn fill_json(&mut self, value: Value<'_>) -> Result<(), Unfit> {
        let mut text = Vec::new();
        let bytes = match value.format {
            Format::Json => value.bytes,
            _ => {
                super::write_json(value, &self.json, &mut text)?;
                &text
            }
        };
        let parsed: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|error| DecodeError::new(error.column(), format!("not valid JSON: {error}")))?;
        let serde_json::Value::Object(object) = parsed else {
            return Err(unfit(VALUE_COLUMN, "a row is a JSON object"));
        };
        for (field, builder) in self.fields.iter().zip(&mut self.builders) {
            if let Some(value) = object.get(field.name()) {
                builder.json(value).map_err(|error| error.within(field.name()))?;
            }
        }
        Ok(())
    }

    /// Columns that the value did not fill are null.
    fn end_row(&mut self) -> Result<(), Unfit> {
        for (builder, field) in self.builders.iter_mut().zip(&self.fields).filter(|(builder, _)| builder.len() == self.rows) {
            builder.null().map_err(|error| error.within(field.name()))?;
        }
        Ok(())
    }

    /// The rows as a batch; afterwards there is none.
    ///
    /// # Errors
    /// Where Arrow refuses what was built, which a test of each type rules out.
    pub fn finish(&mut self) -> Result<RecordBatch, arrow::error::ArrowError> {
        self.end(false)
    }

    /// The same, where as much is expected to come again: there is room for it from the start, so that nothing is copied to grow.
    ///
    /// # Errors
    /// See [`Rows::finish`].
    pub fn finish_chunk(&mut self) -> Result<RecordBatch, arrow::error::ArrowError> {
        self.end(true)
    }

    fn end(&mut self, with_room: bool) -> Result<RecordBatch, arrow::error::ArrowError> {
        let fresh = self.builders.iter().map(|builder| builder.fresh(with_room)).collect();
        let builders = std::mem::replace(&mut self.builders, fresh);
        // A table may have no columns, and rows nevertheless.
        let options = RecordBatchOptions::new().with_row_count(Some(std::mem::take(&mut self.rows)));
        let arrays = builders.into_iter().map(Builder::finish).collect::<Result<Vec<_>, _>>()?;
        RecordBatch::try_new_with_options(Arc::new(ArrowSchema::new(self.fields.clone())), arrays, &options)
    }
}

#[derive(Debug)]
enum Data {
    Bool(Vec<bool>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Date(Vec<i32>),
    Timestamp(Vec<i64>, Option<Arc<str>>),
    Decimal(Vec<i128>, u8, i8),
    Bytes { offsets: Vec<i32>, data: Vec<u8>, text: bool },
    Struct(Vec<Builder>, Fields),
    List { offsets: Vec<i32>, item: Box<Builder>, field: FieldRef },
    Map { offsets: Vec<i32>, keys: Box<Builder>, values: Box<Builder>, field: FieldRef },
}

/// Builds one column.
#[derive(Debug)]
struct Builder {
    data: Data,
    /// Which entries are there: a bit for each from the first null on.
    validity: NullBufferBuilder,
    /// Whether the column may hold null.
    nullable: bool,
}

/// Most bytes of one column of text or bytes in one batch: Arrow's offsets have 32 bits.
const COLUMN_BYTES_MAX: usize = i32::MAX as usize - (64 << 20);

impl Builder {
    fn new(field: &Field) -> Result<Builder, Unfit> {
        let bytes = |text| Data::Bytes { offsets: vec![0], data: Vec::new(), text };
        let data = match field.data_type() {
            DataType::Boolean => Data::Bool(Vec::new()),
            DataType::Int32 => Data::Int32(Vec::new()),
            DataType::Int64 => Data::Int64(Vec::new()),
            DataType::Float32 => Data::Float32(Vec::new()),
            DataType::Float64 => Data::Float64(Vec::new()),
            DataType::Date32 => Data::Date(Vec::new()),
            DataType::Timestamp(TimeUnit::Microsecond, zone) => Data::Timestamp(Vec::new(), zone.clone()),
            DataType::Decimal128(precision, scale) => Data::Decimal(Vec::new(), *precision, *scale),
            DataType::Utf8 => bytes(true),
            DataType::Binary => bytes(false),
            DataType::Struct(fields) => {
                Data::Struct(fields.iter().map(|field| Builder::new(field)).collect::<Result<_, _>>()?, fields.clone())
            }
            DataType::List(item) => Data::List { offsets: vec![0], item: Box::new(Builder::new(item)?), field: item.clone() },
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(fields) if fields.len() == 2 => Data::Map {
                    offsets: vec![0],
                    keys: Box::new(Builder::new(&fields[0])?),
                    values: Box::new(Builder::new(&fields[1])?),
                    field: entries.clone(),
                },
                other => return Err(unfit(field.name(), format!("a map of {other}"))),
            },
            other => return Err(unfit(field.name(), format!("columns of {other} are not written"))),
        };
        Ok(Builder { data, validity: NullBufferBuilder::new(0), nullable: field.is_nullable() })
    }

    /// Another of its kind, empty, and perhaps with room for a little more than it holds.
    fn fresh(&self, with_room: bool) -> Builder {
        fn room<T>(like: &[T], with_room: bool) -> Vec<T> {
            Vec::with_capacity(if with_room { like.len() + like.len() / 8 } else { 0 })
        }
        let zero = |like: &[i32]| {
            let mut offsets = room(like, with_room);
            offsets.push(0);
            offsets
        };
        let boxed = |builder: &Builder| Box::new(builder.fresh(with_room));
        let data = match &self.data {
            Data::Bool(values) => Data::Bool(room(values, with_room)),
            Data::Int32(values) => Data::Int32(room(values, with_room)),
            Data::Int64(values) => Data::Int64(room(values, with_room)),
            Data::Float32(values) => Data::Float32(room(values, with_room)),
            Data::Float64(values) => Data::Float64(room(values, with_room)),
            Data::Date(values) => Data::Date(room(values, with_room)),
            Data::Timestamp(values, zone) => Data::Timestamp(room(values, with_room), zone.clone()),
            Data::Decimal(values, precision, scale) => Data::Decimal(room(values, with_room), *precision, *scale),
            Data::Bytes { offsets, data, text } => Data::Bytes { offsets: zero(offsets), data: room(data, with_room), text: *text },
            Data::Struct(builders, fields) => {
                Data::Struct(builders.iter().map(|builder| builder.fresh(with_room)).collect(), fields.clone())
            }
            Data::List { offsets, item, field } => Data::List { offsets: zero(offsets), item: boxed(item), field: field.clone() },
            Data::Map { offsets, keys, values, field } => {
                Data::Map { offsets: zero(offsets), keys: boxed(keys), values: boxed(values), field: field.clone() }
            }
        };
        Builder { data, validity: NullBufferBuilder::new(if with_room { self.len() } else { 0 }), nullable: self.nullable }
    }

    fn len(&self) -> usize {
        self.validity.len()
    }

    fn bytes(&self) -> usize {
        let own = match &self.data {
            Data::Bool(values) => values.len(),
            Data::Int32(values) | Data::Date(values) => values.len() * 4,
            Data::Float32(values) => values.len() * 4,
            Data::Int64(values) | Data::Timestamp(values, _) => values.len() * 8,
            Data::Float64(values) => values.len() * 8,
            Data::Decimal(values, ..) => values.len() * 16,
            Data::Bytes { offsets, data, .. } => offsets.len() * 4 + data.len(),
            Data::Struct(fields, _) => fields.iter().map(Builder::bytes).sum(),
            Data::List { offsets, item, .. } => offsets.len() * 4 + item.bytes(),
            Data::Map { offsets, keys, values, .. } => offsets.len() * 4 + keys.bytes() + values.bytes(),
        };
        own + self.validity.allocated_size()
    }

    /// A null of the record. Within columns Arrow finds it only when the whole batch is built, which is too late for the other rows.
    fn null(&mut self) -> Result<(), Unfit> {
        if !self.nullable {
            return Err(unfit("", "it is null in the record, and the table does not allow null"));
        }
        self.push_null();
        Ok(())
    }

    /// Room for an entry of nothing: a null, or what stands below one.
    fn push_null(&mut self) {
        self.validity.append_null();
        match &mut self.data {
            Data::Bool(values) => values.push(false),
            Data::Int32(values) | Data::Date(values) => values.push(0),
            Data::Float32(values) => values.push(0.0),
            Data::Int64(values) | Data::Timestamp(values, _) => values.push(0),
            Data::Float64(values) => values.push(0.0),
            Data::Decimal(values, ..) => values.push(0),
            Data::Bytes { offsets, data, .. } => offsets.push(data.len() as i32),
            Data::Struct(fields, _) => fields.iter_mut().for_each(Builder::push_null),
            Data::List { offsets, item, .. } => offsets.push(item.len() as i32),
            Data::Map { offsets, keys, .. } => offsets.push(keys.len() as i32),
        }
    }

    fn truncate(&mut self, rows: usize) {
        self.validity.truncate(rows);
        match &mut self.data {
            Data::Bool(values) => values.truncate(rows),
            Data::Int32(values) | Data::Date(values) => values.truncate(rows),
            Data::Float32(values) => values.truncate(rows),
            Data::Int64(values) | Data::Timestamp(values, _) => values.truncate(rows),
            Data::Float64(values) => values.truncate(rows),
            Data::Decimal(values, ..) => values.truncate(rows),
            Data::Bytes { offsets, data, .. } => {
                offsets.truncate(rows + 1);
                data.truncate(offsets.last().copied().unwrap_or(0) as usize);
            }
            Data::Struct(fields, _) => fields.iter_mut().for_each(|field| field.truncate(rows)),
            Data::List { offsets, item, .. } => {
                offsets.truncate(rows + 1);
                item.truncate(offsets.last().copied().unwrap_or(0) as usize);
            }
            Data::Map { offsets, keys, values, .. } => {
                offsets.truncate(rows + 1);
                let entries = offsets.last().copied().unwrap_or(0) as usize;
                keys.truncate(entries);
                values.truncate(entries);
            }
        }
    }

    #[inline]
    fn avro(
        &mut self,
        nodes: &[Node],
        at: NodeId,
        plan: &Plan,
        cursor: &mut Cursor<'_>,
        json: &JsonOptions,
        depth: usize,
    ) -> Result<(), Unfit> {
        match plan {
            Plan::Direct { wire, null } => self.direct(*wire, *null, cursor),
            _ => self.planned(nodes, at, plan, cursor, json, depth),
        }
    }

    fn planned(
        &mut self,
        nodes: &[Node],
        at: NodeId,
        plan: &Plan,
        cursor: &mut Cursor<'_>,
        json: &JsonOptions,
        depth: usize,
    ) -> Result<(), Unfit> {
        if depth > super::DEPTH_MAX {
            return Err(DecodeError::new(cursor.at(), format!("it nests deeper than {}", super::DEPTH_MAX)).into());
        }
        let mut at = at;
        if let Shape::Union(branches) = &nodes[at as usize].shape {
            let mut ahead = cursor.clone();
            let branch = branches[ahead.index(branches.len(), "branch")?];
            if matches!(nodes[branch as usize].shape, Shape::Null) {
                *cursor = ahead;
                return self.null();
            }
            if !matches!(plan, Plan::Json) {
                *cursor = ahead;
                at = branch;
            }
        }
        if nodes[at as usize].bytes_min == 0 && !matches!(plan, Plan::Json) {
            cursor.nothing()?;
        }
        match (plan, &nodes[at as usize].shape) {
            (_, Shape::Null) => self.null(),
            (Plan::Json, _) => {
                let mut text = Vec::new();
                avro::node(nodes, at, cursor, &mut JsonWriter::new(&mut text, json), depth)?;
                self.push_text(&text)
            }
            (Plan::Struct(planned), Shape::Record(fields)) => {
                let Data::Struct(builders, own) = &mut self.data else { return Err(unfit("", "it is no struct in the table")) };
                let rows = self.validity.len();
                for (field, planned) in fields.iter().zip(planned) {
                    match planned {
                        None => avro::skip(nodes, field.node, cursor, depth + 1)?,
                        Some((index, plan)) => builders[*index]
                            .avro(nodes, field.node, plan, cursor, json, depth + 1)
                            .map_err(|error| error.within(&field.name))?,
                    }
                }
                for (builder, field) in builders.iter_mut().zip(own.iter()).filter(|(builder, _)| builder.len() == rows) {
                    builder.null().map_err(|error| error.within(field.name()))?;
                }
                self.validity.append_non_null();
                Ok(())
            }
            (Plan::List(inner), Shape::Array(item)) => {
                let Data::List { offsets, item: builder, .. } = &mut self.data else { return Err(unfit("", "it is no list in the table")) };
                let least = nodes[*item as usize].bytes_min;
                let mut seen = 0;
                loop {
                    let block = cursor.block(least, seen)?;
                    if block.count == 0 {
                        break;
                    }
                    for _ in 0..block.count {
                        builder.avro(nodes, *item, inner, cursor, json, depth + 1)?;
                    }
                    seen += block.count;
                    cursor.end_block(&block)?;
                }
                offsets.push(builder.len() as i32);
                self.validity.append_non_null();
                Ok(())
            }
            (Plan::Map(inner), Shape::Map(value)) => {
                let Data::Map { offsets, keys, values, .. } = &mut self.data else { return Err(unfit("", "it is no map in the table")) };
                let least = nodes[*value as usize].bytes_min.saturating_add(1);
                loop {
                    let block = cursor.block(least, 0)?;
                    if block.count == 0 {
                        break;
                    }
                    for _ in 0..block.count {
                        keys.push_text(cursor.string()?.as_bytes())?;
                        values.avro(nodes, *value, inner, cursor, json, depth + 1)?;
                    }
                    cursor.end_block(&block)?;
                }
                offsets.push(keys.len() as i32);
                self.validity.append_non_null();
                Ok(())
            }
            _ => {
                let scalar = avro::scalar(&nodes[at as usize], cursor)?;
                self.push(scalar)
            }
        }
    }

    #[inline]
    fn direct(&mut self, wire: Wire, null: Option<usize>, cursor: &mut Cursor<'_>) -> Result<(), Unfit> {
        if let Some(null) = null
            && cursor.index(2, "branch")? == null
        {
            return self.null();
        }
        match (wire, &mut self.data) {
            (Wire::Bool, Data::Bool(values)) => values.push(cursor.boolean()?),
            (Wire::Int, Data::Int32(values)) => values.push(cursor.int()?),
            (Wire::Long, Data::Int64(values)) => values.push(cursor.long()?),
            (Wire::Double, Data::Float64(values)) => values.push(cursor.double()?),
            (Wire::Text, _) => return self.push_text(cursor.string()?.as_bytes()),
            (Wire::Timestamp(unit), Data::Timestamp(values, _)) => {
                let value = cursor.long()?;
                match unit.to_micros(value) {
                    Some(value) => values.push(value),
                    None => return self.push(Scalar::Timestamp(value, unit, true)),
                }
            }
            _ => return Err(unfit("", "the column has another type than was planned")),
        }
        self.validity.append_non_null();
        Ok(())
    }

    fn push_text(&mut self, bytes: &[u8]) -> Result<(), Unfit> {
        let Data::Bytes { offsets, data, .. } = &mut self.data else { return Err(unfit("", "it is no text in the table")) };
        if data.len() + bytes.len() > COLUMN_BYTES_MAX {
            return Err(unfit("", "its bytes do not fit into one batch: choose smaller batches"));
        }
        data.extend_from_slice(bytes);
        offsets.push(data.len() as i32);
        self.validity.append_non_null();
        Ok(())
    }

    fn push(&mut self, scalar: Scalar<'_>) -> Result<(), Unfit> {
        let misfit = |what: &str| {
            let shown = text::scalar(scalar).unwrap_or_else(|| "a byte string".to_owned());
            Err(unfit("", format!("{shown} is no {what}")))
        };
        match (&mut self.data, scalar) {
            (_, Scalar::Null) => return self.null(),
            (Data::Bool(values), Scalar::Bool(value)) => values.push(value),
            (Data::Int32(values), Scalar::Int(value)) => match i32::try_from(value) {
                Ok(value) => values.push(value),
                Err(_) => return misfit("32-bit integer"),
            },
            (Data::Int64(values), Scalar::Int(value)) => values.push(value),
            (Data::Float32(values), Scalar::Float(value)) => values.push(value),
            (Data::Float64(values), Scalar::Float(value)) => values.push(value.into()),
            (Data::Float64(values), Scalar::Double(value)) => values.push(value),
            (Data::Float64(values), Scalar::Int(value)) if value.unsigned_abs() <= 1 << 53 => values.push(value as f64),
            (Data::Date(values), Scalar::Date(value)) => match i32::try_from(value) {
                Ok(value) => values.push(value),
                Err(_) => return misfit("date"),
            },
            (Data::Timestamp(values, _), Scalar::Timestamp(value, unit, _)) => match unit.to_micros(value) {
                Some(value) => values.push(value),
                None => return misfit("timestamp in microseconds of 64 bits"),
            },
            (Data::Decimal(values, precision, scale), Scalar::Decimal(unscaled, own)) => {
                match text::integer(unscaled).and_then(|number| rescale(number, own, *precision, *scale)) {
                    Some(number) => values.push(number),
                    None => return misfit(&format!("decimal({precision},{scale})")),
                }
            }
            (Data::Decimal(values, precision, scale), Scalar::Int(value)) => match rescale(value.into(), 0, *precision, *scale) {
                Some(number) => values.push(number),
                None => return misfit(&format!("decimal({precision},{scale})")),
            },
            (Data::Bytes { text: false, .. }, Scalar::Bytes(bytes)) => return self.push_text(bytes),
            (Data::Bytes { text: true, .. }, Scalar::Text(text)) => return self.push_text(text.as_bytes()),
            (Data::Bytes { text: true, .. }, other) => match text::scalar(other) {
                Some(text) => return self.push_text(text.as_bytes()),
                None => return misfit("text"),
            },
            _ => return misfit("value of the column's type"),
        }
        self.validity.append_non_null();
        Ok(())
    }

    fn json(&mut self, value: &serde_json::Value) -> Result<(), Unfit> {
        use serde_json::Value as Json;
        match (&mut self.data, value) {
            (_, Json::Null) => self.null(),
            (Data::Struct(builders, fields), Json::Object(object)) => {
                for (builder, field) in builders.iter_mut().zip(fields.iter()) {
                    let put = match object.get(field.name()) {
                        Some(value) => builder.json(value),
                        None => builder.null(),
                    };
                    put.map_err(|error| error.within(field.name()))?;
                }
                self.validity.append_non_null();
                Ok(())
            }
            (Data::List { offsets, item, .. }, Json::Array(items)) => {
                items.iter().try_for_each(|value| item.json(value))?;
                offsets.push(item.len() as i32);
                self.validity.append_non_null();
                Ok(())
            }
            (Data::Map { offsets, keys, values, .. }, Json::Object(object)) => {
                for (name, value) in object {
                    keys.push_text(name.as_bytes())?;
                    values.json(value)?;
                }
                offsets.push(keys.len() as i32);
                self.validity.append_non_null();
                Ok(())
            }
            (Data::Bytes { text: true, .. }, Json::Object(_) | Json::Array(_)) => self.push_text(value.to_string().as_bytes()),
            (Data::Decimal(_, precision, scale), Json::Number(_) | Json::String(_)) => {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let (precision, scale) = (*precision, *scale);
                match parse_decimal(&text).and_then(|(number, own)| rescale(number, own, precision, scale)) {
                    Some(number) => self.push(Scalar::Decimal(&number.to_be_bytes(), scale.into())),
                    None => Err(unfit("", format!("{text} is no decimal({precision},{scale})"))),
                }
            }
            (Data::Timestamp(values, _), Json::String(text)) => match chrono::DateTime::parse_from_rfc3339(text) {
                Ok(instant) => {
                    values.push(instant.timestamp_micros());
                    self.validity.append_non_null();
                    Ok(())
                }
                Err(_) => Err(unfit("", format!("{text:?} is no timestamp (RFC 3339)"))),
            },
            (Data::Date(_), Json::String(text)) => match text.parse::<chrono::NaiveDate>() {
                Ok(date) => self.push(Scalar::Date((date - chrono::NaiveDate::default()).num_days())),
                Err(_) => Err(unfit("", format!("{text:?} is no date"))),
            },
            (Data::Timestamp(..), Json::Number(number)) if number.is_i64() => {
                let millis = number.as_i64().unwrap_or_default();
                self.push(Scalar::Timestamp(millis, Unit::Millis, true))
            }
            (_, Json::Bool(value)) => self.push(Scalar::Bool(*value)),
            (_, Json::String(text)) => self.push(Scalar::Text(text)),
            (Data::Float32(values), Json::Number(number)) => {
                let wide = number.as_f64().unwrap_or(f64::NAN);
                if (wide as f32).is_infinite() {
                    return Err(unfit("", format!("{number} is no 32-bit float")));
                }
                values.push(wide as f32);
                self.validity.append_non_null();
                Ok(())
            }
            (_, Json::Number(number)) => match (number.as_i64(), number.as_f64()) {
                (Some(value), _) => self.push(Scalar::Int(value)),
                (None, _) if number.is_u64() => self.push(Scalar::BigInt(&number.to_string())),
                (None, Some(value)) => self.push(Scalar::Double(value)),
                (None, None) => Err(unfit("", format!("{number} is no number that a column holds"))),
            },
            (_, other) => Err(unfit("", format!("{other} is no value of the column's type"))),
        }
    }

    fn finish(self) -> Result<ArrayRef, arrow::error::ArrowError> {
        let nulls = self.validity.build();
        Ok(match self.data {
            Data::Bool(values) => Arc::new(BooleanArray::new(BooleanBuffer::from(values), nulls)),
            Data::Int32(values) => Arc::new(Int32Array::try_new(values.into(), nulls)?),
            Data::Int64(values) => Arc::new(Int64Array::try_new(values.into(), nulls)?),
            Data::Float32(values) => Arc::new(Float32Array::try_new(values.into(), nulls)?),
            Data::Float64(values) => Arc::new(Float64Array::try_new(values.into(), nulls)?),
            Data::Date(values) => Arc::new(Date32Array::try_new(values.into(), nulls)?),
            Data::Timestamp(values, zone) => {
                Arc::new(TimestampMicrosecondArray::try_new(ScalarBuffer::from(values), nulls)?.with_timezone_opt(zone))
            }
            Data::Decimal(values, precision, scale) => {
                Arc::new(Decimal128Array::try_new(values.into(), nulls)?.with_precision_and_scale(precision, scale)?)
            }
            Data::Bytes { offsets, data, text } => {
                let offsets = OffsetBuffer::new(offsets.into());
                if text {
                    Arc::new(StringArray::try_new(offsets, Buffer::from_vec(data), nulls)?)
                } else {
                    Arc::new(BinaryArray::try_new(offsets, Buffer::from_vec(data), nulls)?)
                }
            }
            Data::Struct(builders, fields) => {
                let arrays = builders.into_iter().map(Builder::finish).collect::<Result<Vec<_>, _>>()?;
                Arc::new(StructArray::try_new(fields, arrays, nulls)?)
            }
            Data::List { offsets, item, field } => {
                Arc::new(ListArray::try_new(field, OffsetBuffer::new(offsets.into()), item.finish()?, nulls)?)
            }
            Data::Map { offsets, keys, values, field } => {
                let DataType::Struct(fields) = field.data_type() else {
                    return Err(arrow::error::ArrowError::SchemaError("a map without entries".to_owned()));
                };
                let entries = StructArray::try_new(fields.clone(), vec![keys.finish()?, values.finish()?], None)?;
                debug_assert_eq!(entries.null_count(), 0);
                Arc::new(MapArray::try_new(field, OffsetBuffer::new(offsets.into()), entries, nulls, false)?)
            }
        })
    }
}

/// 1, 10, 100 and so on: all powers of ten of 128 bits.
const POWERS: [i128; 39] = {
    let mut powers = [1; 39];
    let mut at = 1;
    while at < powers.len() {
        powers[at] = powers[at - 1] * 10;
        at += 1;
    }
    powers
};

/// A decimal with another scale, exactly; `None`: digits would be lost, or there are too many.
fn rescale(number: i128, from: i64, precision: u8, to: i8) -> Option<i128> {
    let shift = i64::from(to).checked_sub(from)?;
    let power = *POWERS.get(usize::try_from(shift.unsigned_abs()).ok()?)?;
    let scaled = match shift {
        0 => number,
        1.. => number.checked_mul(power)?,
        _ => (number % power == 0).then(|| number / power)?,
    };
    (scaled.unsigned_abs() < POWERS.get(usize::from(precision))?.unsigned_abs()).then_some(scaled)
}

fn parse_decimal(text: &str) -> Option<(i128, i64)> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = format!("{whole}{fraction}").parse::<i128>().ok()?;
    Some((digits, i64::try_from(fraction.len()).ok()?.checked_sub(exponent)?))
}
