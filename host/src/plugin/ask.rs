//! Questions: what a plugin planned to read, out of records into the contract's columns.
//!
//! Invariant: a record that cannot be read as planned never reaches the guest, and leaves no trace in the columns of others.

use std::collections::HashMap;

use super::bind::anabranch::plugin::types;
use super::bind::exports::anabranch::plugin::transform::Batch;
use super::plan::{Place, Step, own_kind};
use crate::dead::{Class, Letter};
use crate::output::{Change, Outputs, View};
use crate::value::project::{BytesColumn, NumberColumn};
use crate::value::{self, Column, Columns, DecodeError, Format, JsonOptions, Kind, Projection, Value, Wanted};

/// Records of one call, and which outputs of the step before they are.
pub struct Question {
    /// Positions in the outputs that the step reads.
    pub rows: Vec<u32>,
    /// What the guest gets.
    pub batch: Batch,
}

/// Compiled projections of one step, by part, format and schema.
#[derive(Default)]
pub struct Projections {
    numbers: HashMap<(usize, Format, u32), usize>,
    list: Vec<Option<Projection>>,
    /// By part, what was asked for last: most records have the schema of the one before.
    last: [Option<(Format, u32, usize)>; 2],
}

/// The parts of a record that fields are read from.
const VALUE: usize = 0;
const KEY: usize = 1;

impl Projections {
    /// Which projection a part of a record has; `None`: it has nothing there, or nothing is read there.
    fn number(&mut self, step: &Step, view: &View<'_>, part: usize) -> Option<usize> {
        let (wanted, value) = if part == KEY { (&step.keys, view.key()) } else { (&step.values, view.value()) };
        if wanted.is_empty() {
            return None;
        }
        let value = value?;
        let schema = if part == KEY { view.key_schema() } else { view.value_schema() };
        if let Some((format, known, number)) = self.last[part]
            && (format, known) == (value.format, schema)
        {
            return Some(number);
        }
        let list = &mut self.list;
        let number = *self.numbers.entry((part, value.format, schema)).or_insert_with(|| {
            list.push(Projection::new(value.format, value.schema, wanted).ok());
            list.len() - 1
        });
        self.last[part] = Some((value.format, schema, number));
        Some(number)
    }

    fn get(&self, number: Option<usize>) -> Option<&Projection> {
        self.list[number?].as_ref()
    }
}

/// Bytes of one question: what a guest's memory holds comfortably next to its answer.
const QUESTION_BYTES_MAX: usize = 4 << 20;

/// Puts `rows` of `outputs` into as few questions as the plan and the kinds of columns allow.
pub fn ask(step: &Step, projections: &mut Projections, outputs: &Outputs, rows: &[u32]) -> (Vec<Question>, Vec<Letter>) {
    let records_max = step.plan.max_records.map_or(usize::MAX, |max| max as usize);
    let fits = QUESTION_BYTES_MAX.min(step.shared.limits.memory_max / 4);
    let bytes_max = step.plan.max_bytes.map_or(fits, |max| fits.min(max as usize));
    let (mut questions, mut letters) = (Vec::new(), Vec::new());
    let mut scratch = [Vec::new(), Vec::new()];
    let mut open: Option<Open> = None;
    for (done, &row) in rows.iter().enumerate() {
        let view = outputs.view(row as usize);
        let numbers = [projections.number(step, &view, VALUE), projections.number(step, &view, KEY)];
        let whole = Whole::of(step, &view, &mut scratch);
        let bytes = whole.as_ref().map_or(0, |whole| size(step, &view, whole));
        let is_full =
            |open: &mut Open| open.rows.len() >= records_max || open.bytes + bytes > bytes_max || !open.takes(projections, numbers);
        if let Some(full) = open.take_if(is_full).filter(|full| !full.rows.is_empty()) {
            questions.push(full.finish(step, outputs));
        }
        let building = open.get_or_insert_with(|| Open::new(step, projections, numbers, (rows.len() - done).min(records_max)));
        match whole.and_then(|whole| building.push(step, projections, numbers, &view, row, &whole)) {
            Ok(()) => building.bytes += bytes,
            Err(error) => letters.push(Letter {
                record: view.output().input,
                class: Class::Decode,
                code: "projection".to_owned(),
                message: error.to_string(),
                by: step.shared.plugin.as_str().into(),
                digest: Some(step.component.digest.as_str().into()),
                attempts: 1,
            }),
        }
    }
    questions.extend(open.filter(|open| !open.rows.is_empty()).map(|open| open.finish(step, outputs)));
    (questions, letters)
}

/// Key and value of a record, where the plan wants them whole.
struct Whole<'a> {
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
}

impl<'a> Whole<'a> {
    /// `scratch`: room for what has to be rendered.
    fn of(step: &Step, view: &View<'a>, scratch: &'a mut [Vec<u8>; 2]) -> Result<Self, DecodeError> {
        let [of_value, of_key] = scratch;
        let key = whole(view.key(), step.plan.keys, of_key).map_err(|error| part(error, "key"))?;
        Ok(Whole { key, value: whole(view.value(), step.plan.values, of_value)? })
    }
}

/// About as many bytes as a record takes in the guest; fields have at most those of the key or value that they are part of.
fn size(step: &Step, view: &View<'_>, whole: &Whole<'_>) -> usize {
    let length = |value: Option<Value<'_>>| value.map_or(0, |value| value.bytes.len());
    let mut bytes = whole.key.map_or(0, <[u8]>::len) + whole.value.map_or(0, <[u8]>::len);
    if !step.values.is_empty() {
        bytes += length(view.value());
    }
    if !step.keys.is_empty() {
        bytes += length(view.key());
    }
    if !step.plan.headers.is_empty() {
        let is_planned = |name: &[u8]| step.plan.headers.iter().any(|planned| planned.as_bytes() == name);
        let planned = view.headers().into_iter().filter(|(name, _)| is_planned(name));
        bytes += planned.map(|(_, value)| value.map_or(0, <[u8]>::len)).sum::<usize>();
    }
    bytes
}

struct Open {
    rows: Vec<u32>,
    values: Columns,
    keys: Columns,
    headers: Vec<BytesColumn>,
    whole_keys: Option<BytesColumn>,
    whole_values: Option<BytesColumn>,
    key_schemas: Vec<u32>,
    value_schemas: Vec<u32>,
    changes: Vec<u8>,
    offsets: Vec<i64>,
    timestamps: Vec<i64>,
    bytes: usize,
    /// By part, the projection whose kinds the columns are known to have.
    fits: [Option<usize>; 2],
}

/// Columns for what a projection reads; without one, of the kinds that hold whenever there is no schema.
fn columns(wanted: &[Wanted], projection: Option<&Projection>) -> Columns {
    match projection {
        Some(projection) => projection.columns(),
        None => Columns::of(&wanted.iter().map(|wanted| wanted.kind.unwrap_or(Kind::Documents)).collect::<Vec<_>>()),
    }
}

impl Open {
    /// `rows`: as many records as may come.
    fn new(step: &Step, projections: &Projections, numbers: [Option<usize>; 2], rows: usize) -> Self {
        Open {
            rows: Vec::with_capacity(rows),
            values: columns(&step.values, projections.get(numbers[VALUE])),
            keys: columns(&step.keys, projections.get(numbers[KEY])),
            headers: vec![BytesColumn::default(); step.plan.headers.len()],
            whole_keys: step.plan.keys.map(|_| BytesColumn::default()),
            whole_values: step.plan.values.map(|_| BytesColumn::default()),
            key_schemas: Vec::with_capacity(rows),
            value_schemas: Vec::with_capacity(rows),
            changes: Vec::with_capacity(rows),
            offsets: Vec::with_capacity(rows),
            timestamps: Vec::with_capacity(rows),
            bytes: 0,
            fits: numbers,
        }
    }

    /// Whether the columns have the kinds of a record; one with nothing there, or without a projection, fits any.
    fn takes(&mut self, projections: &Projections, numbers: [Option<usize>; 2]) -> bool {
        for (part, columns) in [(VALUE, &self.values), (KEY, &self.keys)] {
            if numbers[part] == self.fits[part] {
                continue;
            }
            let Some(projection) = projections.get(numbers[part]) else { continue };
            if !columns.columns.iter().map(Column::kind).eq(projection.kinds().iter().copied()) {
                return false;
            }
            self.fits[part] = numbers[part];
        }
        true
    }

    fn push(
        &mut self,
        step: &Step,
        projections: &Projections,
        numbers: [Option<usize>; 2],
        view: &View<'_>,
        row: u32,
        whole: &Whole<'_>,
    ) -> Result<(), DecodeError> {
        let (key, value) = (view.key(), view.value());
        project(projections.get(numbers[VALUE]), value, &mut self.values)?;
        if let Err(error) = project(projections.get(numbers[KEY]), key, &mut self.keys) {
            self.values.undo_last_row();
            return Err(part(error, "key"));
        }
        let put = |column: &mut Option<BytesColumn>, bytes: Option<&[u8]>| match (column, bytes) {
            (Some(column), Some(bytes)) => column.push(bytes),
            (Some(column), None) => column.push_null(),
            (None, _) => (),
        };
        put(&mut self.whole_keys, whole.key);
        put(&mut self.whole_values, whole.value);
        if !self.headers.is_empty() {
            let headers = view.headers();
            for (column, name) in self.headers.iter_mut().zip(&step.plan.headers) {
                match headers.iter().rev().find(|(known, _)| *known == name.as_bytes()) {
                    Some((_, Some(value))) => column.push(value),
                    Some((_, None)) => column.push_null(),
                    None => column.push_missing(),
                }
            }
        }
        self.rows.push(row);
        self.offsets.push(view.offset());
        self.timestamps.push(view.timestamp());
        self.key_schemas.push(view.key_schema());
        self.value_schemas.push(view.value_schema());
        self.changes.push(view.output().change as u8);
        Ok(())
    }

    fn finish(self, step: &Step, outputs: &Outputs) -> Question {
        let rows = self.rows.len();
        let mut values: Vec<Option<Column>> = self.values.columns.into_iter().map(Some).collect();
        let mut keys: Vec<Option<Column>> = self.keys.columns.into_iter().map(Some).collect();
        let mut take = |place: &Place| match place {
            Place::Value(index) => values[*index].take(),
            Place::Key(index) => keys[*index].take(),
            Place::Absent(kind) => {
                let mut columns = Columns::of(&[kind.map_or(Kind::Documents, own_kind)]);
                (0..rows).for_each(|_| columns.push_missing_row());
                columns.columns.pop()
            }
        };
        let fields = step.fields.iter().filter_map(&mut take).map(wit_column).collect();
        let batch = Batch {
            topic: outputs.batch.topic.to_string(),
            partitions: types::Numbers::All(outputs.batch.partition as u32),
            offsets: self.offsets,
            timestamps: self.timestamps,
            fields,
            headers: self.headers.into_iter().map(wit_bytes).collect(),
            keys: self.whole_keys.map(wit_bytes),
            values: self.whole_values.map(wit_bytes),
            key_schemas: numbers(self.key_schemas),
            value_schemas: numbers(self.value_schemas),
            changes: self.changes.iter().any(|change| *change != Change::Append as u8).then_some(self.changes),
        };
        Question { rows: self.rows, batch }
    }
}

fn part(mut error: DecodeError, part: &str) -> DecodeError {
    error.field = if error.field.is_empty() { part.to_owned() } else { format!("{part}.{}", error.field) };
    error
}

fn project(projection: Option<&Projection>, value: Option<Value<'_>>, columns: &mut Columns) -> Result<(), DecodeError> {
    if columns.columns.is_empty() {
        return Ok(());
    }
    let Some(value) = value else {
        columns.push_null_row();
        return Ok(());
    };
    match projection {
        Some(projection) => projection.read(value.schema, value.bytes, columns),
        None => Err(DecodeError { field: String::new(), at: 0, reason: "Avro without a schema".to_owned() }),
    }
}

/// A whole key or value in the encoding that the plan wants; `scratch` takes what has to be rendered for it.
fn whole<'a>(
    value: Option<Value<'a>>,
    encoding: Option<types::Encoding>,
    scratch: &'a mut Vec<u8>,
) -> Result<Option<&'a [u8]>, DecodeError> {
    let (Some(value), Some(encoding)) = (value, encoding) else { return Ok(None) };
    scratch.clear();
    match encoding {
        types::Encoding::Raw => return Ok(Some(value.bytes)),
        types::Encoding::Avro if value.format == Format::Avro => return Ok(Some(value.bytes)),
        types::Encoding::Avro => {
            return Err(DecodeError { field: String::new(), at: 0, reason: "the plugin reads Avro, this is none".to_owned() });
        }
        types::Encoding::Json => value::write_json(value, &JsonOptions::default(), scratch)?,
        types::Encoding::Cbor => value::write_cbor(value, scratch)?,
    }
    Ok(Some(scratch))
}

fn numbers(each: Vec<u32>) -> types::Numbers {
    match each.first() {
        None => types::Numbers::All(0),
        Some(first) if each.iter().all(|number| number == first) => types::Numbers::All(*first),
        Some(_) => types::Numbers::Each(each),
    }
}

fn wit_bytes(column: BytesColumn) -> types::BytesColumn {
    types::BytesColumn { ends: column.ends, data: column.data, nulls: column.nulls, missing: column.missing }
}

fn wit_integers(column: NumberColumn<i64>) -> types::IntegerColumn {
    types::IntegerColumn { values: column.values, nulls: column.nulls, missing: column.missing }
}

fn wit_column(column: Column) -> types::Column {
    match column {
        Column::Integers(column) => types::Column::Integers(wit_integers(column)),
        Column::Floats(column) => {
            types::Column::Floats(types::FloatColumn { values: column.values, nulls: column.nulls, missing: column.missing })
        }
        Column::Booleans(column) => types::Column::Booleans(column),
        Column::Texts(column) => types::Column::Texts(wit_bytes(column)),
        Column::Binaries(column) => types::Column::Binaries(wit_bytes(column)),
        Column::Dates(column) => types::Column::Dates(wit_integers(column)),
        Column::Times(column) => types::Column::Times(wit_integers(column)),
        Column::Timestamps(column) => types::Column::Timestamps(wit_integers(column)),
        Column::Decimals(column) => types::Column::Decimals(wit_bytes(column)),
        Column::Documents(column) => types::Column::Documents(wit_bytes(column)),
    }
}
