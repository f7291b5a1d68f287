//! Running a plugin in a native test: records in, decisions out, no WebAssembly.
//!
//! The records are given as JSON; the harness projects them as the host does for a route with `value = "json"`, or, with a schema in
//! [`Record::schema`], as for Avro (the kinds are the planned ones in either case).

use std::cell::RefCell;

use serde_json::Value as Json;

use crate::bindings::anabranch::plugin::types as wit;
use crate::{Batch, Change, Context, Encoding, Failure, Level, Outputs, Part, Plan, Problem, SchemaInfo, Transform};

/// What the stand-in of the host has seen and offers, in this thread.
#[derive(Debug, Default)]
pub struct Host {
    /// Lines that were logged.
    pub log: Vec<(Level, String)>,
    /// Metrics by name, with all their updates.
    pub metrics: Vec<(String, Vec<f64>)>,
    /// Schemas: the one of handle `n` is at `n - 1`.
    pub schemas: Vec<SchemaInfo>,
    /// What the clock says.
    pub now_ms: u64,
}

thread_local! {
    /// The stand-in of the host in this thread.
    pub static HOST: RefCell<Host> = RefCell::default();
}

/// A record for a test.
#[derive(Debug, Clone)]
pub struct Record {
    /// Key; null: none.
    pub key: Json,
    /// Value; null: a tombstone.
    pub value: Json,
    /// The value's bytes, in place of [`Record::value`]: for plugins that read whole values raw or as Avro.
    pub bytes: Option<Vec<u8>>,
    /// Headers.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Partition.
    pub partition: u32,
    /// Offset.
    pub offset: i64,
    /// Milliseconds since 1970-01-01T00:00Z.
    pub timestamp: i64,
    /// Handle of the key's schema.
    pub key_schema: u32,
    /// Handle of the value's schema.
    pub value_schema: u32,
}

impl Record {
    /// A record with this value, without key.
    pub fn new(value: Json) -> Self {
        let headers = Vec::new();
        Record { key: Json::Null, value, bytes: None, headers, partition: 0, offset: 0, timestamp: 0, key_schema: 0, value_schema: 0 }
    }

    /// A record whose value has these bytes, such as Avro; it has no fields to plan, only a whole value.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Record { bytes: Some(bytes.to_vec()), ..Record::new(Json::Null) }
    }

    /// With a key.
    #[must_use]
    pub fn key(mut self, key: Json) -> Self {
        self.key = key;
        self
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.as_bytes().to_vec()));
        self
    }

    /// With the schema of its value, which the stand-in of the host then knows.
    #[must_use]
    pub fn schema(mut self, info: SchemaInfo) -> Self {
        self.value_schema = add_schema(info);
        self
    }

    /// With the schema of its key, which the stand-in of the host then knows.
    #[must_use]
    pub fn key_schema(mut self, info: SchemaInfo) -> Self {
        self.key_schema = add_schema(info);
        self
    }
}

fn add_schema(info: SchemaInfo) -> u32 {
    HOST.with_borrow_mut(|host| {
        let known = host.schemas.iter().position(|known| *known == info);
        let index = known.unwrap_or_else(|| {
            host.schemas.push(info);
            host.schemas.len() - 1
        });
        index as u32 + 1
    })
}

/// What became of one record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// Its outputs.
    pub outputs: Vec<Output>,
    /// Code and message, if it was rejected.
    pub reject: Option<(String, String)>,
}

/// One output; what is `None` was not set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Output {
    /// Where it goes; inner `None`: the sink's default.
    pub destination: Option<Option<String>>,
    /// Key; inner `None`: no key.
    pub key: Option<Option<Vec<u8>>>,
    /// Value; inner `None`: a tombstone.
    pub value: Option<Option<Vec<u8>>>,
    /// Handle of the value's schema.
    pub value_schema: u32,
    /// Names of the sinks.
    pub sinks: Option<Vec<String>>,
    /// What it does to its row.
    pub change: Option<u8>,
    /// Headers that are set; `None`: removed.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Decision {
    /// Kept as it came in.
    pub fn kept() -> Self {
        Decision { outputs: vec![Output::default()], reject: None }
    }

    /// Filtered.
    pub fn filtered() -> Self {
        Decision::default()
    }

    /// Rejected.
    pub fn rejected(code: &str, message: &str) -> Self {
        Decision { outputs: Vec::new(), reject: Some((code.to_owned(), message.to_owned())) }
    }

    /// With this destination for every output.
    #[must_use]
    pub fn to(mut self, destination: &str) -> Self {
        for output in &mut self.outputs {
            output.destination = Some(Some(destination.to_owned()));
        }
        self
    }

    /// The only output.
    ///
    /// # Panics
    /// Where there is none, or several.
    pub fn output(&self) -> &Output {
        assert_eq!(self.outputs.len(), 1, "one output is expected of {self:?}");
        &self.outputs[0]
    }
}

impl Output {
    /// The value that was set, as JSON.
    ///
    /// # Panics
    /// Where no value was set, or it is no JSON.
    pub fn json(&self) -> Json {
        let value = self.value.clone().flatten().expect("a value was set");
        serde_json::from_slice(&value).expect("the value is JSON")
    }

    /// What it does to its row is `change`.
    pub fn is(&self, change: Change) -> bool {
        self.change == Some(change as u8)
    }
}

/// A plugin under test.
pub struct Harness<T> {
    plugin: T,
    plan: Plan,
    topic: String,
}

impl<T: Transform> Harness<T> {
    /// Starts it with a configuration, on a route with the sinks `a` and `b`.
    ///
    /// # Errors
    /// The problems that it finds in the configuration.
    pub fn new(config: &str) -> Result<Self, Vec<Problem>> {
        let (plugin, plan) = crate::start::<T>(&Context::new(config, "route", "plugin", &["a", "b"]))?;
        Ok(Harness { plugin, plan, topic: "topic".to_owned() })
    }

    /// Name of the topic that records come from.
    #[must_use]
    pub fn topic(mut self, topic: &str) -> Self {
        self.topic = topic.to_owned();
        self
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Decides JSON values, one per record.
    ///
    /// # Errors
    /// What the plugin returns as its failure.
    ///
    /// # Panics
    /// Where a text is no JSON.
    pub fn json(&mut self, values: &[&str]) -> Result<Vec<Decision>, Failure> {
        let records: Vec<Record> =
            values.iter().map(|text| Record::new(serde_json::from_str(text).expect("a test gives valid JSON"))).collect();
        self.records(&records)
    }

    /// Decides records.
    ///
    /// # Errors
    /// What the plugin returns as its failure.
    pub fn records(&mut self, records: &[Record]) -> Result<Vec<Decision>, Failure> {
        let batch = Batch::new(self.batch(records));
        let mut out = Outputs::new(records.len());
        self.plugin.process(&batch, &mut out)?;
        Ok(self.decisions(out.finish(), records.len()))
    }

    fn batch(&self, records: &[Record]) -> wit::Batch {
        let plan = self.plan.wit();
        let each = |number: fn(&Record) -> u32| wit::Numbers::Each(records.iter().map(number).collect());
        let keys = |encoding| bytes_column(records.iter().map(|record| whole(&record.key, encoding)));
        let values = |encoding| {
            bytes_column(records.iter().map(|record| match &record.bytes {
                Some(bytes) => Cell::Is(bytes.clone()),
                None => whole(&record.value, encoding),
            }))
        };
        let headers = plan.headers.iter().map(|name| {
            let of = |record: &Record| record.headers.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone());
            bytes_column(records.iter().map(|record| of(record).map_or(Cell::Missing, Cell::Is)))
        });
        wit::Batch {
            topic: self.topic.clone(),
            partitions: each(|record| record.partition),
            offsets: records.iter().map(|record| record.offset).collect(),
            timestamps: records.iter().map(|record| record.timestamp).collect(),
            fields: plan.fields.iter().map(|field| column(field, records)).collect(),
            headers: headers.collect(),
            keys: plan.keys.map(keys),
            values: plan.values.map(values),
            key_schemas: each(|record| record.key_schema),
            value_schemas: each(|record| record.value_schema),
            changes: None,
        }
    }

    fn decisions(&self, outputs: wit::Outputs, records: usize) -> Vec<Decision> {
        let plan = self.plan.wit();
        let mut decisions = vec![Decision::default(); records];
        for (index, input) in outputs.inputs.iter().enumerate() {
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("destinations are UTF-8");
            let sinks = outputs.sinks.as_ref().map(|sinks| sinks[index]).filter(|set| *set != 255);
            let headers = plan.sets_headers.iter().zip(&outputs.headers);
            decisions[*input as usize].outputs.push(Output {
                destination: setting(outputs.destinations.as_ref(), index).map(|bytes| bytes.map(text)),
                key: setting(outputs.keys.as_ref(), index),
                value: setting(outputs.values.as_ref(), index),
                value_schema: match &outputs.value_schemas {
                    None => 0,
                    Some(wit::Numbers::All(handle)) => *handle,
                    Some(wit::Numbers::Each(handles)) => handles[index],
                },
                sinks: sinks.map(|set| plan.sink_sets[set as usize].clone()),
                change: outputs.changes.as_ref().map(|changes| changes[index]),
                headers: headers.filter_map(|(name, column)| Some((name.clone(), setting(Some(column), index)?))).collect(),
            });
        }
        for reject in outputs.rejects {
            decisions[reject.input as usize].reject = Some((reject.code, reject.message));
        }
        decisions
    }
}

fn setting(column: Option<&wit::SetColumn>, index: usize) -> Option<Option<Vec<u8>>> {
    let column = column?;
    let has = |positions: &Option<Vec<u32>>| positions.as_ref().is_some_and(|positions| positions.contains(&(index as u32)));
    if has(&column.kept) {
        return None;
    }
    if has(&column.nulls) {
        return Some(None);
    }
    let start = if index == 0 { 0 } else { column.ends[index - 1] as usize };
    Some(Some(column.data[start..column.ends[index] as usize].to_vec()))
}

enum Cell<T> {
    Missing,
    Null,
    Is(T),
}

fn positions(absent: Vec<u32>) -> Option<Vec<u32>> {
    (!absent.is_empty()).then_some(absent)
}

fn bytes_column(cells: impl Iterator<Item = Cell<Vec<u8>>>) -> wit::BytesColumn {
    let (mut ends, mut data, mut nulls, mut missing) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (row, cell) in cells.enumerate() {
        match cell {
            Cell::Missing => missing.push(row as u32),
            Cell::Null => nulls.push(row as u32),
            Cell::Is(bytes) => data.extend(bytes),
        }
        ends.push(data.len() as u32);
    }
    wit::BytesColumn { ends, data, nulls: positions(nulls), missing: positions(missing) }
}

fn numbers<T: Default>(cells: impl Iterator<Item = Cell<T>>) -> (Vec<T>, Option<Vec<u32>>, Option<Vec<u32>>) {
    let (mut values, mut nulls, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for (row, cell) in cells.enumerate() {
        match cell {
            Cell::Missing => missing.push(row as u32),
            Cell::Null => nulls.push(row as u32),
            Cell::Is(value) => {
                values.push(value);
                continue;
            }
        }
        values.push(T::default());
    }
    (values, positions(nulls), positions(missing))
}

fn whole(value: &Json, encoding: Encoding) -> Cell<Vec<u8>> {
    match value {
        Json::Null => Cell::Null,
        Json::String(text) if encoding == Encoding::Raw => Cell::Is(text.as_bytes().to_vec()),
        value => Cell::Is(value.to_string().into_bytes()),
    }
}

fn column(field: &wit::WantedField, records: &[Record]) -> wit::Column {
    let find = |record: &Record| -> Cell<Json> {
        let mut at = match field.part {
            Part::Key => &record.key,
            _ => &record.value,
        };
        if at.is_null() {
            return Cell::Null;
        }
        for name in &field.path {
            let next = match at {
                Json::Array(items) => name.parse::<usize>().ok().and_then(|index| items.get(index)),
                other => other.get(name),
            };
            match next {
                Some(next) => at = next,
                None => return Cell::Missing,
            }
        }
        if at.is_null() { Cell::Null } else { Cell::Is(at.clone()) }
    };
    let map = |cell: Cell<Json>, fits: &dyn Fn(&Json) -> Option<Vec<u8>>| match cell {
        Cell::Is(value) => fits(&value).map_or_else(|| misfit(field, &value), Cell::Is),
        Cell::Null => Cell::Null,
        Cell::Missing => Cell::Missing,
    };
    let integers = || {
        let cells = records.iter().map(|record| match find(record) {
            Cell::Is(value) => value.as_i64().map_or_else(|| misfit(field, &value), Cell::Is),
            Cell::Null => Cell::Null,
            Cell::Missing => Cell::Missing,
        });
        let (values, nulls, missing) = numbers(cells);
        wit::IntegerColumn { values, nulls, missing }
    };
    let text = |value: &Json| match value {
        Json::String(text) => Some(text.clone().into_bytes()),
        Json::Array(_) | Json::Object(_) => None,
        other => Some(other.to_string().into_bytes()),
    };
    let bytes = |fits: &dyn Fn(&Json) -> Option<Vec<u8>>| bytes_column(records.iter().map(|record| map(find(record), fits)));
    match field.kind {
        Some(wit::Kind::Integers) => wit::Column::Integers(integers()),
        Some(wit::Kind::Dates) => wit::Column::Dates(integers()),
        Some(wit::Kind::Times) => wit::Column::Times(integers()),
        Some(wit::Kind::Timestamps) => wit::Column::Timestamps(integers()),
        Some(wit::Kind::Floats) => {
            let cells = records.iter().map(|record| match find(record) {
                Cell::Is(value) => value.as_f64().map_or_else(|| misfit(field, &value), Cell::Is),
                Cell::Null => Cell::Null,
                Cell::Missing => Cell::Missing,
            });
            let (values, nulls, missing) = numbers(cells);
            wit::Column::Floats(wit::FloatColumn { values, nulls, missing })
        }
        Some(wit::Kind::Booleans) => wit::Column::Booleans(
            records
                .iter()
                .map(|record| match find(record) {
                    Cell::Is(value) => value.as_bool().map_or(3, u8::from),
                    Cell::Null => 2,
                    Cell::Missing => 3,
                })
                .collect(),
        ),
        Some(wit::Kind::Binaries) => wit::Column::Binaries(bytes(&text)),
        Some(wit::Kind::Decimals) => wit::Column::Decimals(bytes(&|value| value.is_number().then(|| value.to_string().into_bytes()))),
        Some(wit::Kind::Texts) => wit::Column::Texts(bytes(&text)),
        Some(wit::Kind::Documents) | None => wit::Column::Documents(bytes(&|value| Some(cbor(value)))),
    }
}

/// The host would make a dead letter of such a record before the plugin sees it.
fn misfit<T>(field: &wit::WantedField, value: &Json) -> Cell<T> {
    assert!(field.lenient, "field {:?} is {value}, which does not fit the planned kind {:?}", field.path, field.kind);
    Cell::Missing
}

/// JSON as CBOR, as far as tests need it.
fn cbor(value: &Json) -> Vec<u8> {
    fn head(major: u8, count: u64, out: &mut Vec<u8>) {
        match count {
            0..24 => out.push(major << 5 | count as u8),
            24..0x100 => out.extend([major << 5 | 24, count as u8]),
            0x100..0x1_0000 => {
                out.push(major << 5 | 25);
                out.extend((count as u16).to_be_bytes());
            }
            0x1_0000..0x1_0000_0000 => {
                out.push(major << 5 | 26);
                out.extend((count as u32).to_be_bytes());
            }
            _ => {
                out.push(major << 5 | 27);
                out.extend(count.to_be_bytes());
            }
        }
    }
    fn item(value: &Json, out: &mut Vec<u8>) {
        match value {
            Json::Null => out.push(0xf6),
            Json::Bool(value) => out.push(if *value { 0xf5 } else { 0xf4 }),
            Json::Number(number) => match number.as_i64() {
                Some(value) if value >= 0 => head(0, value as u64, out),
                Some(value) => head(1, !value as u64, out),
                None => {
                    out.push(0xfb);
                    out.extend(number.as_f64().unwrap_or(f64::NAN).to_be_bytes());
                }
            },
            Json::String(text) => {
                head(3, text.len() as u64, out);
                out.extend(text.as_bytes());
            }
            Json::Array(items) => {
                head(4, items.len() as u64, out);
                items.iter().for_each(|value| item(value, out));
            }
            Json::Object(object) => {
                head(5, object.len() as u64, out);
                for (name, value) in object {
                    head(3, name.len() as u64, out);
                    out.extend(name.as_bytes());
                    item(value, out);
                }
            }
        }
    }
    let mut out = Vec::new();
    item(value, &mut out);
    out
}
