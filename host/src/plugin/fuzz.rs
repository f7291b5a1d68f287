//! What guests hand over, at random: taken exactly where the contract allows it, and with the meaning that the contract gives it.

use std::sync::Arc;
use std::time::Duration;

use super::answer::{self, Made};
use super::ask::{self, Question};
use super::bind::anabranch::plugin::types;
use super::bind::exports::anabranch::plugin::transform::{Batch as Asked, Context};
use super::engine::{Component, Engine};
use super::limits::Limits;
use super::plan::{Place, Step};
use super::shared::Shared;
use crate::batch::{Batch, Entries, Handles, Headers};
use crate::dead::Class;
use crate::decode::Resolver;
use crate::fuzz::{self, Choices};
use crate::output::{Formats, Outputs, SinkSet};
use crate::schemas::Schemas;
use crate::stop::Stop;
use crate::value::{Format, Schema, Wanted};

/// A component of the contract; nobody calls it here.
const COMPONENT: &[u8] = include_bytes!("../../tests/plugins/contract/0.1.0.wasm");
const SET_HEADERS: [&str; 2] = ["a", "trace"];

fn component() -> Arc<Component> {
    Engine::new().unwrap().compile("empty", COMPONENT, None).unwrap()
}

fn step(component: &Arc<Component>, schemas: &Arc<Schemas>, fields: Vec<types::WantedField>, values: Option<types::Encoding>) -> Step {
    let seconds = Duration::from_secs(1);
    let limits = Limits { memory_max: 1 << 20, deadline: seconds, init_deadline: seconds, log_lines_max: 1 };
    let (mut value_fields, mut key_fields, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for field in &fields {
        let wanted = Wanted { path: field.path.clone(), kind: field.kind.map(super::plan::own_kind), lenient: field.lenient };
        let list = if field.part == types::Part::Key { &mut key_fields } else { &mut value_fields };
        list.push(wanted);
        let index = list.len() - 1;
        places.push(if field.part == types::Part::Key { Place::Key(index) } else { Place::Value(index) });
    }
    let plan = types::Plan {
        fields,
        headers: vec!["h".to_owned()],
        keys: Some(types::Encoding::Raw),
        values,
        sets_keys: types::Encoding::Raw,
        sets_values: types::Encoding::Json,
        sets_headers: SET_HEADERS.map(str::to_owned).to_vec(),
        sink_sets: vec![vec!["x".to_owned()], vec![]],
        versions: false,
        per_partition: false,
        max_records: None,
        max_bytes: None,
    };
    Step {
        component: component.clone(),
        shared: Arc::new(Shared::new("empty", "r", schemas.clone(), None, limits)),
        context: Context { config: "{}".to_owned(), route: "r".to_owned(), name: "empty".to_owned(), sinks: vec!["x".to_owned()] },
        plan,
        sinks: vec![SinkSet(1), SinkSet(0)],
        values: value_fields,
        keys: key_fields,
        fields: places,
    }
}

fn records(count: usize) -> Batch {
    let mut values = Entries::default();
    let mut keys = Entries::default();
    let mut headers = Headers::default();
    for record in 0..count {
        values.push(Some(format!("v{record}").as_bytes()));
        keys.push((record % 2 == 0).then_some(&b"k"[..]));
        headers.names.push(Some(if record % 2 == 0 { b"a" } else { b"b" }));
        headers.values.push(Some(b"old"));
        headers.ends.push(record as u32 + 1);
    }
    batch(keys, values, headers)
}

fn batch(keys: Entries, values: Entries, headers: Headers) -> Batch {
    let count = values.len();
    Batch {
        topic: "t".into(),
        partition: 0,
        offsets: (0..count as i64).collect(),
        timestamps: vec![0; count],
        keys,
        values,
        headers,
        key_schemas: Handles::All(0),
        value_schemas: Handles::All(0),
        permit: None,
    }
}

/// What the contract says an output is.
#[derive(Debug, Clone, PartialEq)]
struct Meant {
    input: u32,
    sinks: SinkSet,
    change: u8,
    destination: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    schemas: (u32, u32),
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

fn seen(outputs: &Outputs, index: usize) -> Meant {
    let view = outputs.view(index);
    let output = view.output();
    Meant {
        input: output.input,
        sinks: output.sinks,
        change: output.change as u8,
        destination: view.destination().map(|text| text.as_bytes().to_vec()),
        key: view.key().map(|value| value.bytes.to_vec()),
        value: view.value().map(|value| value.bytes.to_vec()),
        schemas: (view.key_schema(), view.value_schema()),
        headers: view.headers().into_iter().map(|(name, value)| (name.to_vec(), value.map(<[u8]>::to_vec))).collect(),
    }
}

#[test]
fn answers_of_guests_are_taken_exactly_where_the_contract_allows_them() {
    let component = component();
    let schemas = Arc::new(Schemas::new());
    assert_eq!(schemas.register("\"string\"").unwrap(), 1);
    let step = step(&component, &schemas, Vec::new(), None);
    fuzz::run("answers of guests", |choices| {
        let formats = Formats { key: Format::Raw, value: Format::Raw };
        let batch = Arc::new(records(1 + choices.below(6)));
        let mut outputs = Outputs::unchanged(batch, formats, schemas.snapshot(), SinkSet(3));
        // Two plugins of a chain: the second finds what the first left.
        for _ in 0..2 {
            let rows: Vec<u32> = (0..outputs.list.len() as u32).filter(|_| !choices.once_in(4)).collect();
            let question = Question { rows, batch: asked() };
            let answer = outputs_of(&question, choices);
            choices.show("rows", &question.rows);
            choices.show("answer", &answer);
            let mut made = Made::default();
            let taken = answer::take(&step, &outputs, &question, answer.clone(), &mut made);
            let allowed = allowed(&answer, question.rows.len());
            match (taken, allowed) {
                (Ok(()), true) => (),
                (Err(_), false) => {
                    let rest = made.list.len() + made.buffers.len() + made.header_edits.len() + made.letters.len();
                    return if rest == 0 { Ok(()) } else { Err("something of a refused answer is left".to_owned()) };
                }
                (taken, _) => return Err(format!("taken: {taken:?}, the contract allows it: {allowed}")),
            }
            // A destination that no sink can have costs its output alone.
            let possible =
                |meant: &Meant| meant.destination.as_ref().is_none_or(|text| text.len() <= 4096 && !text.iter().any(u8::is_ascii_control));
            let all = (0..answer.inputs.len()).map(|index| meant(&outputs, &question, &answer, index));
            let expected: Vec<Meant> = all.filter(possible).collect();
            let rejected = made.letters.iter().filter(|letter| letter.class == Class::PluginReject);
            for (letter, reject) in rejected.zip(&answer.rejects) {
                if letter.record != outputs.list[question.rows[reject.input as usize] as usize].input {
                    return Err(format!("{letter:?} for {reject:?}"));
                }
            }
            outputs.list = made.list;
            outputs.buffers.append(&mut made.buffers);
            outputs.header_edits.append(&mut made.header_edits);
            let found: Vec<Meant> = (0..outputs.list.len()).map(|index| seen(&outputs, index)).collect();
            if found != expected {
                return Err(format!("{found:?}, meant {expected:?}"));
            }
        }
        Ok(())
    });
}

fn asked() -> Asked {
    Asked {
        topic: "t".to_owned(),
        partitions: types::Numbers::All(0),
        offsets: Vec::new(),
        timestamps: Vec::new(),
        fields: Vec::new(),
        headers: Vec::new(),
        keys: None,
        values: None,
        key_schemas: types::Numbers::All(0),
        value_schemas: types::Numbers::All(0),
        changes: None,
    }
}

fn maybe<T>(choices: &mut Choices, make: impl FnOnce(&mut Choices) -> T) -> Option<T> {
    choices.once_in(2).then(|| make(choices))
}

/// An answer: right for the most part, wrong in places.
fn outputs_of(question: &Question, choices: &mut Choices) -> types::Outputs {
    let records = question.rows.len();
    let mut inputs: Vec<u32> = (0..records as u32).flat_map(|record| vec![record; [1, 0, 2, 1][choices.below(4)]]).collect();
    let mut rejects = Vec::new();
    for record in 0..records as u32 {
        if !inputs.contains(&record) && choices.once_in(2) || choices.once_in(40) {
            let long = choices.once_in(20);
            let code = if long { "c".repeat(101) } else { choices.text(4) };
            rejects.push(types::Reject { input: record, code, message: choices.text(4) });
        }
    }
    if choices.once_in(12) {
        let at = choices.below(inputs.len() + 1);
        inputs.insert(at, odd(choices));
    }
    if choices.once_in(30) {
        rejects.push(types::Reject { input: odd(choices), code: String::new(), message: "m".repeat(choices.below(5000)) });
    }
    let count = inputs.len();
    let list = |choices: &mut Choices, max: u8| {
        let length = if choices.once_in(20) { count + 1 } else { count };
        (0..length).map(|_| if choices.once_in(20) { choices.byte() } else { choices.byte() % max }).collect()
    };
    let schemas = |choices: &mut Choices| match choices.below(4) {
        0 => types::Numbers::All(0),
        1 => types::Numbers::All(1),
        2 => types::Numbers::Each((0..count).map(|_| u32::from(choices.byte() & 1)).collect()),
        _ => types::Numbers::Each((0..count + choices.below(2)).map(|_| choices.below(3) as u32).collect()),
    };
    let columns = if choices.once_in(20) { 3 } else { choices.below(3) };
    types::Outputs {
        destinations: maybe(choices, |choices| set(choices, count)),
        sinks: maybe(choices, |choices| {
            let mut sinks: Vec<u8> = list(choices, 2);
            sinks.iter_mut().filter(|_| choices.once_in(3)).for_each(|sink| *sink = 255);
            sinks
        }),
        keys: maybe(choices, |choices| set(choices, count)),
        values: maybe(choices, |choices| set(choices, count)),
        key_schemas: maybe(choices, schemas),
        value_schemas: maybe(choices, schemas),
        changes: maybe(choices, |choices| list(choices, 7)),
        headers: (0..columns).map(|_| set(choices, count)).collect(),
        rejects,
        inputs,
    }
}

fn odd(choices: &mut Choices) -> u32 {
    *choices.pick(&[0, 1, 7, u32::MAX, 1 << 31])
}

fn set(choices: &mut Choices, count: usize) -> types::SetColumn {
    let mut column = types::SetColumn { ends: Vec::new(), data: Vec::new(), nulls: None, kept: None };
    for position in 0..count as u32 {
        match choices.below(6) {
            0 => column.kept.get_or_insert_default().push(position),
            1 => column.nulls.get_or_insert_default().push(position),
            2 => (),
            3 if choices.once_in(8) => column.data.extend(std::iter::repeat_n(b'x', 4090 + choices.below(10))),
            4 if choices.once_in(8) => column.data.extend(choices.some_bytes(5)),
            _ => column.data.extend(choices.text(4).bytes()),
        }
        column.ends.push(column.data.len() as u32);
    }
    if choices.once_in(6) {
        match choices.below(7) {
            0 => drop(column.ends.pop()),
            1 => column.ends.push(odd(choices)),
            2 => column.ends.iter_mut().for_each(|end| {
                if choices.once_in(3) {
                    *end = odd(choices);
                }
            }),
            3 => column.nulls.get_or_insert_default().push(odd(choices)),
            4 => column.kept.get_or_insert_default().insert(0, odd(choices)),
            5 => column.data.extend(b"more than it ends"),
            _ => drop(column.data.pop()),
        }
    }
    column
}

/// The rules of the contract, each by itself.
fn allowed(answer: &types::Outputs, records: usize) -> bool {
    let count = answer.inputs.len();
    let set = |column: &types::SetColumn| {
        let start = |index: usize| if index == 0 { 0 } else { column.ends[index - 1] };
        let positions = |positions: &Option<Vec<u32>>| {
            let positions = positions.as_deref().unwrap_or_default();
            positions.iter().zip(positions.iter().skip(1)).all(|(one, next)| one < next)
                && positions.iter().all(|at| (*at as usize) < count && start(*at as usize) == column.ends[*at as usize])
        };
        let both = column.nulls.iter().flatten().any(|null| column.kept.iter().flatten().any(|kept| kept == null));
        column.ends.len() == count
            && (0..count).all(|index| start(index) <= column.ends[index] && column.ends[index] as usize <= column.data.len())
            && positions(&column.nulls)
            && positions(&column.kept)
            && !both
    };
    let numbers = |numbers: &types::Numbers| match numbers {
        types::Numbers::All(handle) => *handle <= 1,
        types::Numbers::Each(handles) => handles.len() == count && handles.iter().all(|handle| *handle <= 1),
    };
    let destinations = |column: &types::SetColumn| {
        let mut start = 0;
        column.ends.iter().all(|end| {
            let text = &column.data[start as usize..*end as usize];
            start = *end;
            std::str::from_utf8(text).is_ok()
        })
    };
    let bytes = |list: &Option<Vec<u8>>, max: u8, or: u8| {
        list.iter().all(|list| list.len() == count && list.iter().all(|byte| *byte <= max || *byte == or))
    };
    answer.inputs.is_sorted()
        && answer.inputs.iter().all(|input| (*input as usize) < records)
        && [&answer.destinations, &answer.keys, &answer.values].into_iter().flatten().chain(&answer.headers).all(set)
        && answer.destinations.iter().all(destinations)
        && answer.headers.len() <= SET_HEADERS.len()
        && bytes(&answer.sinks, 1, 255)
        && bytes(&answer.changes, 6, 6)
        && [&answer.key_schemas, &answer.value_schemas].into_iter().flatten().all(numbers)
        && answer.rejects.iter().enumerate().all(|(index, reject)| {
            (reject.input as usize) < records
                && !answer.inputs.contains(&reject.input)
                && answer.rejects[..index].iter().all(|earlier| earlier.input != reject.input)
                && reject.code.len() <= 100
                && reject.message.len() <= 4096
        })
}

/// What output `index` of an allowed answer is.
fn meant(before: &Outputs, question: &Question, answer: &types::Outputs, index: usize) -> Meant {
    let mut meant = seen(before, question.rows[answer.inputs[index] as usize] as usize);
    let position = index as u32;
    // `None`: kept.
    let set = |column: &types::SetColumn| -> Option<Option<Vec<u8>>> {
        let is = |positions: &Option<Vec<u32>>| positions.iter().flatten().any(|at| *at == position);
        let start = if index == 0 { 0 } else { column.ends[index - 1] };
        match (is(&column.kept), is(&column.nulls)) {
            (true, _) => None,
            (_, true) => Some(None),
            _ => Some(Some(column.data[start as usize..column.ends[index] as usize].to_vec())),
        }
    };
    let number = |numbers: &Option<types::Numbers>| match numbers {
        None => 0,
        Some(types::Numbers::All(number)) => *number,
        Some(types::Numbers::Each(numbers)) => numbers[index],
    };
    if let Some(destination) = answer.destinations.as_ref().and_then(set) {
        meant.destination = destination;
    }
    if let Some(key) = answer.keys.as_ref().and_then(set) {
        meant.schemas.0 = if key.is_some() { number(&answer.key_schemas) } else { 0 };
        meant.key = key;
    }
    if let Some(value) = answer.values.as_ref().and_then(set) {
        meant.schemas.1 = if value.is_some() { number(&answer.value_schemas) } else { 0 };
        meant.value = value;
    }
    match answer.sinks.as_ref().map(|sinks| sinks[index]) {
        None | Some(255) => (),
        Some(0) => meant.sinks = SinkSet(1),
        Some(_) => meant.sinks = SinkSet(0),
    }
    if let Some(changes) = &answer.changes {
        meant.change = changes[index];
    }
    for (column, name) in answer.headers.iter().zip(SET_HEADERS) {
        if let Some(value) = set(column) {
            meant.headers.retain(|(known, _)| known != name.as_bytes());
            if let Some(value) = value {
                meant.headers.push((name.as_bytes().to_vec(), Some(value)));
            }
        }
    }
    meant
}

const RECORD: &str = r#"{"type":"record","name":"R","fields":[{"name":"id","type":"long"},{"name":"name","type":["null","string"]},
    {"name":"in","type":{"type":"record","name":"I","fields":[{"name":"x","type":["null","int","string"]},{"name":"l","type":{"type":"array","items":"R"}}]}}]}"#;
const OTHER: &str =
    r#"{"type":"record","name":"R","fields":[{"name":"id","type":"string"},{"name":"in","type":{"type":"map","values":"long"}}]}"#;

/// Framed and other records, asked of any plan: every record is in exactly one question or letter, and alike alone and among others.
#[test]
fn framed_records_reach_a_plan_whole_or_become_letters() {
    let component = component();
    let schemas = Arc::new(Schemas::new());
    schemas.add(7, Arc::new(Schema::avro(RECORD, &[]).unwrap()), None).unwrap();
    schemas.add(1 << 31, Arc::new(Schema::avro(OTHER, &[]).unwrap()), None).unwrap();
    schemas.add(9, Arc::new(Schema::json("{}")), None).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    // No registry: ids other than these are given up at once.
    let resolver = Resolver::new(schemas.clone(), None, Vec::new(), Duration::from_secs(1), Stop::new());
    fuzz::run("framing and projection", |choices| {
        let (mut keys, mut values) = (Entries::default(), Entries::default());
        for _ in 0..1 + choices.below(6) {
            keys.push(maybe(choices, framed).as_deref());
            values.push(if choices.once_in(8) { None } else { Some(framed(choices)) }.as_deref());
        }
        let formats = Formats {
            key: *choices.pick(&[Format::Raw, Format::Avro, Format::Cbor]),
            value: *choices.pick(&[Format::Avro, Format::Json, Format::Raw, Format::Cbor]),
        };
        choices.show("values", &values);
        let mut batch = batch(keys, values, Headers::default());
        let Some(letters) = resolver.resolve(&mut batch, formats) else { return Err("it waits for nobody".to_owned()) };
        let given_up: Vec<u32> = letters.iter().map(|letter| letter.record).collect();
        if !given_up.is_sorted_by(|one, next| one < next) {
            return Err(format!("letters out of order, or twice: {given_up:?}"));
        }
        if formats.value == Format::Avro {
            for record in 0..batch.len() {
                let unframed = match batch.values.get(record) {
                    None => false,
                    Some([0, a, b, c, d, ..]) => ![7, 9, 1 << 31].contains(&u32::from_be_bytes([*a, *b, *c, *d])),
                    Some(_) => true,
                };
                if unframed && !given_up.contains(&(record as u32)) {
                    return Err(format!("record {record} has no schema and no letter"));
                }
            }
        }
        let fields = (0..choices.below(5)).map(|_| field(choices)).collect::<Vec<_>>();
        choices.show("fields", &fields);
        let encodings =
            [None, Some(types::Encoding::Raw), Some(types::Encoding::Json), Some(types::Encoding::Cbor), Some(types::Encoding::Avro)];
        let step = step(&component, &schemas, fields, *choices.pick(&encodings));
        let mut outputs = Outputs::unchanged(Arc::new(batch), formats, schemas.snapshot(), SinkSet(1));
        outputs.list.retain(|output| !given_up.contains(&output.input));
        let rows: Vec<u32> = (0..outputs.list.len() as u32).collect();
        let (questions, letters) = ask::ask(&step, &mut Default::default(), &outputs, &rows);
        let mut reached: Vec<u32> = questions.iter().flat_map(|question| question.rows.clone()).collect();
        if !reached.is_sorted_by(|one, next| one < next) {
            return Err(format!("records out of order, or twice: {reached:?}"));
        }
        for question in &questions {
            whole(&step, question)?;
            for (index, row) in question.rows.iter().enumerate() {
                let (alone, refused) = ask::ask(&step, &mut Default::default(), &outputs, &[*row]);
                let ([alone], []) = (&alone[..], &refused[..]) else { return Err(format!("alone row {row} is refused: {refused:?}")) };
                same(question, index, alone)?;
            }
        }
        reached.extend(
            letters.iter().filter_map(|letter| outputs.list.iter().position(|output| output.input == letter.record)).map(|row| row as u32),
        );
        reached.sort_unstable();
        if reached == rows { Ok(()) } else { Err(format!("rows {reached:?} of {rows:?}")) }
    });
}

fn framed(choices: &mut Choices) -> Vec<u8> {
    let mut bytes = vec![0];
    let id: u32 = *choices.pick(&[7, 7, 1 << 31, 9, 8]);
    bytes.extend(id.to_be_bytes());
    let value = *choices.pick(&[
        &b"\x02\0\x02\x04\0"[..],
        b"\x02\x02\x06abc\0\0",
        b"\x04a1\x02\x02x\x02\0",
        b"{\"id\":1,\"in\":{\"x\":[1]}}",
        b"\xa1\x62id\x01",
        b"",
    ]);
    bytes.extend(value);
    if choices.once_in(4) {
        choices.damage(&mut bytes);
    }
    if choices.once_in(6) { value.to_vec() } else { bytes }
}

fn field(choices: &mut Choices) -> types::WantedField {
    use types::Kind::{Binaries, Booleans, Decimals, Documents, Floats, Integers, Texts, Timestamps};
    let paths: &[&[&str]] =
        &[&["id"], &["name"], &["in"], &["in", "x"], &["in", "l", "0", "id"], &["in", "l", "0", "in", "x"], &["nobody"], &[]];
    let kinds = [
        None,
        Some(Integers),
        Some(Texts),
        Some(Documents),
        Some(Decimals),
        Some(Floats),
        Some(Binaries),
        Some(Booleans),
        Some(Timestamps),
    ];
    types::WantedField {
        part: *choices.pick(&[types::Part::Value, types::Part::Value, types::Part::Key]),
        path: choices.pick(paths).iter().map(|name| (*name).to_owned()).collect(),
        kind: *choices.pick(&kinds),
        lenient: choices.once_in(2),
    }
}

fn lengths(column: &types::Column) -> usize {
    match column {
        types::Column::Integers(column)
        | types::Column::Dates(column)
        | types::Column::Times(column)
        | types::Column::Timestamps(column) => column.values.len(),
        types::Column::Floats(column) => column.values.len(),
        types::Column::Booleans(values) => values.len(),
        types::Column::Texts(column)
        | types::Column::Binaries(column)
        | types::Column::Decimals(column)
        | types::Column::Documents(column) => column.ends.len(),
    }
}

/// Every column of a question has one entry per record, texts are UTF-8.
fn whole(step: &Step, question: &Question) -> Result<(), String> {
    let (batch, rows) = (&question.batch, question.rows.len());
    if batch.fields.len() != step.fields.len() || batch.fields.iter().any(|column| lengths(column) != rows) {
        return Err(format!("{rows} rows, fields {:?}", batch.fields));
    }
    let others = batch.headers.iter().chain(&batch.keys).chain(&batch.values);
    if others.clone().any(|column| column.ends.len() != rows) || batch.offsets.len() != rows || batch.timestamps.len() != rows {
        return Err(format!("{rows} rows: {batch:?}"));
    }
    for column in &batch.fields {
        if let types::Column::Texts(column) | types::Column::Decimals(column) = column {
            let mut start = 0;
            for end in &column.ends {
                std::str::from_utf8(&column.data[start..*end as usize]).map_err(|error| format!("a text: {error}"))?;
                start = *end as usize;
            }
        }
    }
    Ok(())
}

/// Entry `index` of every column is what it is in a question of this record alone.
fn same(question: &Question, index: usize, alone: &Question) -> Result<(), String> {
    // A null or missing entry is the same in every kind of column: which it is, other records may decide.
    let entry = |nulls: &Option<Vec<u32>>, missing: &Option<Vec<u32>>, at: usize, value: String| {
        let is = |positions: &Option<Vec<u32>>| positions.iter().flatten().any(|known| *known == at as u32);
        if is(missing) {
            "missing".to_owned()
        } else if is(nulls) {
            "null".to_owned()
        } else {
            value
        }
    };
    let shown = |column: &types::Column, at: usize| match column {
        types::Column::Integers(column)
        | types::Column::Dates(column)
        | types::Column::Times(column)
        | types::Column::Timestamps(column) => entry(&column.nulls, &column.missing, at, column.values[at].to_string()),
        types::Column::Floats(column) => entry(&column.nulls, &column.missing, at, column.values[at].to_string()),
        types::Column::Booleans(values) => ["false", "true", "null", "missing"][usize::from(values[at])].to_owned(),
        types::Column::Texts(column)
        | types::Column::Binaries(column)
        | types::Column::Decimals(column)
        | types::Column::Documents(column) => {
            let start = if at == 0 { 0 } else { column.ends[at - 1] };
            entry(&column.nulls, &column.missing, at, format!("{:?}", &column.data[start as usize..column.ends[at] as usize]))
        }
    };
    for (among, only) in question.batch.fields.iter().zip(&alone.batch.fields) {
        if shown(among, index) != shown(only, 0) {
            return Err(format!("row {index}: {} among others, {} alone", shown(among, index), shown(only, 0)));
        }
    }
    Ok(())
}
