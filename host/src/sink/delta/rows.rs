//! Rows of one table that wait for the next table commit.
//!
//! Invariant: rows and the partitions that they come from are kept together: the rows of a partition that left can be taken out
//! again, and what the commit will say of a partition covers exactly the rows that it brings.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanArray, Int32Builder, Int64Builder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder,
    new_null_array,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, FieldRef, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use deltalake::kernel::StructType;
use deltalake::kernel::schema::cast::cast_record_batch;

use super::columns::{arrow_schema, extend};
use super::commit::Position;
use super::config::Metadata;
use super::table::chain;
use crate::ack::Slot;
use crate::output::View;
use crate::schemas::Entry;
use crate::value::{Appender, Rows, Unfit, Value, table_fields};

impl Metadata {
    /// The columns that were asked for.
    pub fn fields(&self) -> Vec<Field> {
        let timestamp = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let columns = [
            (&self.topic, DataType::Utf8),
            (&self.partition, DataType::Int32),
            (&self.offset, DataType::Int64),
            (&self.timestamp, timestamp),
            (&self.key, DataType::Binary),
        ];
        columns.into_iter().filter_map(|(name, data_type)| Some(Field::new(name.as_ref()?, data_type, true))).collect()
    }
}

#[derive(Debug, Default)]
struct OriginRows {
    topic: StringBuilder,
    partition: Int32Builder,
    offset: Int64Builder,
    timestamp: TimestampMicrosecondBuilder,
    key: BinaryBuilder,
}

impl OriginRows {
    fn push(&mut self, names: &Metadata, view: &View<'_>) {
        if names.topic.is_some() {
            self.topic.append_value(view.topic());
        }
        if names.partition.is_some() {
            self.partition.append_value(view.partition());
        }
        if names.offset.is_some() {
            self.offset.append_value(view.offset());
        }
        if names.timestamp.is_some() {
            let millis = view.timestamp();
            self.timestamp.append_option((millis >= 0).then(|| millis.checked_mul(1000)).flatten());
        }
        if names.key.is_some() {
            self.key.append_option(view.key().map(|key| key.bytes));
        }
    }

    fn finish(&mut self, names: &Metadata) -> HashMap<String, ArrayRef> {
        let timestamp = self.timestamp.finish().with_timezone("UTC");
        let columns: [(&Option<String>, ArrayRef); 5] = [
            (&names.topic, Arc::new(self.topic.finish())),
            (&names.partition, Arc::new(self.partition.finish())),
            (&names.offset, Arc::new(self.offset.finish())),
            (&names.timestamp, Arc::new(timestamp)),
            (&names.key, Arc::new(self.key.finish())),
        ];
        columns.into_iter().filter_map(|(name, column)| Some((name.clone()?, column))).collect()
    }
}

/// How the values of a schema become rows.
#[derive(Debug)]
enum Way {
    Fits(Appender),
    /// The table cannot have them; why.
    Unfit(String),
}

/// Consecutive rows of one partition.
#[derive(Debug, Clone, Copy)]
struct Run {
    slot: Slot,
    rows: usize,
}

/// Bytes of a chunk: rows of a table commit in so small pieces are in the processor's caches when they are written, and what one took
/// the next takes again.
const CHUNK_BYTES: usize = 1 << 20;

#[derive(Debug)]
struct Chunk {
    batch: RecordBatch,
    runs: Vec<Run>,
}

/// The rows that wait.
#[derive(Debug)]
pub struct TableRows {
    columns: StructType,
    schema: SchemaRef,
    origin: Metadata,
    rows: Rows,
    origin_rows: OriginRows,
    runs: Vec<Run>,
    chunks: Vec<Chunk>,
    /// Bytes of all chunks.
    chunk_bytes: usize,
    spans: HashMap<Slot, Position>,
    ways: Vec<(Arc<Entry>, Way)>,
    /// Where a schema's way is, by the address of the entry that stands beside it.
    ways_by_address: HashMap<usize, usize>,
    /// The way that was used last: mostly the next one too.
    way: usize,
}

/// What goes into one table commit.
#[derive(Debug)]
pub struct Taken {
    /// Rows, all with the columns of `schema`.
    pub batches: Vec<RecordBatch>,
    /// Columns of the rows.
    pub columns: StructType,
    /// The same for Arrow.
    pub schema: SchemaRef,
    /// One per partition.
    pub positions: Vec<Position>,
    /// The partitions' generations, by application id.
    pub generations: HashMap<String, u64>,
}

/// Why a value became no row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoRow {
    /// Its bytes are not what its schema says.
    Decode(String),
    /// The table's columns cannot hold it.
    Column(String),
}

impl TableRows {
    /// No rows yet, for a table with `columns`.
    ///
    /// # Errors
    /// Where the table has a column that cannot be written.
    pub fn new(columns: StructType, origin: &Metadata) -> Result<Self, String> {
        let schema = arrow_schema(&columns)?;
        for field in origin.fields() {
            let found = schema.field_with_name(field.name()).map_or_else(|_| field.data_type(), |found| found.data_type());
            if found != field.data_type() {
                return Err(format!(
                    "column {:?} of `metadata` is {found} in the table, and has to be {}",
                    field.name(),
                    field.data_type()
                ));
            }
        }
        let rows = Rows::new(&value_fields(&schema, origin)).map_err(|error| error.to_string())?;
        Ok(TableRows {
            columns,
            schema,
            origin: origin.clone(),
            rows,
            origin_rows: OriginRows::default(),
            runs: Vec::new(),
            chunks: Vec::new(),
            chunk_bytes: 0,
            spans: HashMap::new(),
            ways: Vec::new(),
            ways_by_address: HashMap::new(),
            way: 0,
        })
    }

    /// Values of this schema come next. Returns whether there were any before; if not, [`TableRows::learn`] it.
    pub fn turn_to(&mut self, entry: &Arc<Entry>) -> bool {
        if self.ways.get(self.way).is_some_and(|(known, _)| Arc::ptr_eq(known, entry)) {
            return true;
        }
        match self.ways_by_address.get(&Arc::as_ptr(entry).addr()) {
            Some(way) => {
                self.way = *way;
                true
            }
            None => false,
        }
    }

    /// Values of this schema come next, and want these columns. What fits widens the table; what does not is remembered, and
    /// each value refused with the reason.
    ///
    /// # Errors
    /// Where Arrow refuses what was built before.
    pub fn learn(&mut self, entry: &Arc<Entry>, wanted: Result<StructType, String>) -> Result<(), String> {
        let way = match self.way_for(entry, wanted) {
            Err(reason) => Way::Unfit(reason),
            Ok((wider, appender)) => {
                if let Some(wider) = wider {
                    self.widen(wider)?;
                }
                Way::Fits(appender)
            }
        };
        self.way = self.ways.len();
        self.ways_by_address.insert(Arc::as_ptr(entry).addr(), self.way);
        self.ways.push((entry.clone(), way));
        Ok(())
    }

    fn way_for(&self, entry: &Arc<Entry>, wanted: Result<StructType, String>) -> Result<(Option<StructType>, Appender), String> {
        let wider = extend(&self.columns, &wanted?)?;
        let schema = match &wider {
            Some(wider) => arrow_schema(wider)?,
            None => self.schema.clone(),
        };
        let appender = Appender::new(&entry.schema, &value_fields(&schema, &self.origin)).map_err(|error| error.to_string())?;
        Ok((wider, appender))
    }

    fn widen(&mut self, columns: StructType) -> Result<(), String> {
        self.end_chunk(false)?;
        let mut fresh = TableRows::new(columns, &self.origin)?;
        fresh.chunks = std::mem::take(&mut self.chunks);
        fresh.chunk_bytes = self.chunk_bytes;
        fresh.spans = std::mem::take(&mut self.spans);
        *self = fresh;
        Ok(())
    }

    /// Appends a row: a value of the schema that was turned to, or one without a schema.
    ///
    /// # Errors
    /// Where the value is no row of this table; nothing is appended then.
    pub fn push(&mut self, view: &View<'_>, value: Value<'_>, has_schema: bool, slot: Slot) -> Result<(), NoRow> {
        let json;
        let appender = match self.ways.get(self.way).filter(|_| has_schema) {
            Some((_, Way::Fits(appender))) => appender,
            Some((_, Way::Unfit(reason))) => return Err(NoRow::Column(reason.clone())),
            None => {
                json = Appender::json();
                &json
            }
        };
        self.rows.append(appender, value).map_err(|error| match error {
            Unfit::Decode(error) => NoRow::Decode(error.to_string()),
            Unfit::Column { .. } => NoRow::Column(error.to_string()),
        })?;
        self.origin_rows.push(&self.origin, view);
        match self.runs.last_mut() {
            Some(run) if run.slot == slot => run.rows += 1,
            _ => self.runs.push(Run { slot, rows: 1 }),
        }
        Ok(())
    }

    /// Rows of a partition came: the table will hold it up to `last`. `expected`: what it held of it before the first of them.
    pub fn cover(&mut self, slot: Slot, last: i64, first: impl FnOnce() -> (String, Option<i64>)) {
        let span = self.spans.entry(slot).or_insert_with(|| {
            let (app_id, expected) = first();
            Position { app_id, expected, last }
        });
        span.last = span.last.max(last);
    }

    /// What is waiting of a partition.
    pub fn span(&self, slot: Slot) -> Option<&Position> {
        self.spans.get(&slot)
    }

    /// Last offset per partition.
    pub fn last_offsets(&self) -> HashMap<Slot, i64> {
        self.spans.iter().map(|(slot, span)| (*slot, span.last)).collect()
    }

    /// Takes a partition's rows out again.
    pub fn forget(&mut self, slot: Slot) {
        self.spans.remove(&slot);
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.rows.bytes() + self.chunk_bytes
    }

    /// Ends the chunk that is being filled where it is large enough. To be called now and then.
    ///
    /// # Errors
    /// Where Arrow refuses what was built.
    pub fn roll(&mut self) -> Result<(), String> {
        if self.rows.bytes() < CHUNK_BYTES { Ok(()) } else { self.end_chunk(true) }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Takes all rows of partitions that were not forgotten.
    ///
    /// # Errors
    /// Where Arrow refuses what was built.
    pub fn take(&mut self) -> Result<Taken, String> {
        self.end_chunk(false)?;
        let chunks = std::mem::take(&mut self.chunks);
        self.chunk_bytes = 0;
        let spans = std::mem::take(&mut self.spans);
        let kept: HashSet<Slot> = spans.keys().copied().collect();
        let mut batches = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let batch = chunk.keep(&kept).map_err(|error| chain(&error))?;
            if batch.num_rows() > 0 {
                batches.push(self.fit(batch)?);
            }
        }
        let generations = spans.iter().map(|(slot, span)| (span.app_id.clone(), slot.generation())).collect();
        let mut positions: Vec<Position> = spans.into_values().collect();
        positions.sort_by(|one, other| one.app_id.cmp(&other.app_id));
        Ok(Taken { batches, columns: self.columns.clone(), schema: self.schema.clone(), positions, generations })
    }

    /// `goes_on`: whether as many rows are expected to follow.
    fn end_chunk(&mut self, goes_on: bool) -> Result<(), String> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let batch = self.build(goes_on).map_err(|error| chain(&error))?;
        self.chunk_bytes += batch.get_array_memory_size();
        self.chunks.push(Chunk { batch, runs: std::mem::take(&mut self.runs) });
        Ok(())
    }

    fn build(&mut self, goes_on: bool) -> Result<RecordBatch, ArrowError> {
        let values = if goes_on { self.rows.finish_chunk()? } else { self.rows.finish()? };
        let mut origin = self.origin_rows.finish(&self.origin);
        let columns = self.schema.fields().iter().map(|field| {
            let own = origin.remove(field.name()).or_else(|| values.column_by_name(field.name()).cloned());
            own.unwrap_or_else(|| new_null_array(field.data_type(), values.num_rows()))
        });
        RecordBatch::try_new(self.schema.clone(), columns.collect())
    }

    /// Rows that were made before columns were added get those as nulls.
    fn fit(&self, batch: RecordBatch) -> Result<RecordBatch, String> {
        if batch.schema() == self.schema {
            return Ok(batch);
        }
        cast_record_batch(&batch, self.schema.clone(), false, true).map_err(|error| chain(&error))
    }
}

impl Chunk {
    fn keep(self, slots: &HashSet<Slot>) -> Result<RecordBatch, ArrowError> {
        if self.runs.iter().all(|run| slots.contains(&run.slot)) {
            return Ok(self.batch);
        }
        let keep = self.runs.iter().flat_map(|run| std::iter::repeat_n(slots.contains(&run.slot), run.rows));
        filter_record_batch(&self.batch, &BooleanArray::from(keep.collect::<Vec<bool>>()))
    }
}

/// The table's columns that values fill.
fn value_fields(schema: &SchemaRef, origin: &Metadata) -> Vec<FieldRef> {
    let own: Vec<String> = origin.fields().iter().map(|field| field.name().clone()).collect();
    schema.fields().iter().filter(|field| !own.contains(field.name())).cloned().collect()
}

/// The columns of a table for values of a schema: the value's, and behind them those that say where a row comes from.
///
/// # Errors
/// Where both have one of the same name.
pub fn wanted_fields(entry: Option<&Arc<Entry>>, columns: &[Field], origin: &Metadata) -> Result<Vec<Field>, String> {
    let mut fields: Vec<Field> = match entry {
        Some(entry) => table_fields(&entry.schema).iter().map(|field| field.as_ref().clone()).collect(),
        None => columns.to_vec(),
    };
    for field in origin.fields() {
        if fields.iter().any(|value| value.name().eq_ignore_ascii_case(field.name())) {
            return Err(format!("{:?} is a field of the record and a column of `metadata`: choose another name there", field.name()));
        }
        fields.push(field);
    }
    Ok(fields)
}
