//! Answers: what a guest returned, checked and turned into outputs.
//!
//! Invariant (I8): nothing of an answer is used before all of it was found valid.

use std::sync::Arc;

use bytes::Bytes;

use super::ask::Question;
use super::bind::anabranch::plugin::types;
use super::limits::clean;
use super::plan::Step;
use crate::dead::{Class, Letter};
use crate::output::{Cell, Change, HeaderEdit, Output, Outputs, Text};
use crate::schemas::Snapshot;

/// Outputs that one record may have, and all records of one call together: where they have more, the call is halved.
const OUTPUTS_PER_RECORD_MAX: usize = 1000;
const OUTPUTS_MAX: usize = 1 << 18;
/// Bytes of one destination.
const DESTINATION_BYTES_MAX: usize = 4096;
/// Bytes of the code and of the message of a reject.
const CODE_BYTES_MAX: usize = 100;
const MESSAGE_BYTES_MAX: usize = 4096;

/// The outputs that a step makes of those of the step before.
#[derive(Default)]
pub struct Made {
    /// Outputs, ordered by input.
    pub list: Vec<Output>,
    /// What guests handed over, behind the buffers of the steps before.
    pub buffers: Vec<Bytes>,
    /// Edits of headers, behind those of the steps before.
    pub header_edits: Vec<Vec<HeaderEdit>>,
    /// Records given up.
    pub letters: Vec<Letter>,
}

/// Takes an answer over.
///
/// # Errors
/// What is invalid in it; `made` is as it was then.
pub fn take(step: &Step, before: &Outputs, question: &Question, answer: types::Outputs, made: &mut Made) -> Result<(), String> {
    check(step, question, &answer)?;
    // Buffers of this step stand behind those of the steps before, those of this answer behind those of earlier ones.
    let first = before.buffers.len() as u32;
    let first_buffer = first + made.buffers.len() as u32;
    let mut next = first_buffer;
    let mut buffer = |column: Option<types::SetColumn>| {
        column.map(|column| {
            made.buffers.push(Bytes::from(column.data));
            next += 1;
            Set { ends: column.ends, nulls: column.nulls.unwrap_or_default(), kept: column.kept.unwrap_or_default(), buffer: next - 1 }
        })
    };
    let destinations = buffer(answer.destinations);
    let keys = buffer(answer.keys);
    let values = buffer(answer.values);
    let headers: Vec<Set> = answer.headers.into_iter().filter_map(|column| buffer(Some(column))).collect();
    for (index, row) in answer.inputs.iter().enumerate() {
        let base = &before.list[question.rows[*row as usize] as usize];
        let mut output = base.clone();
        if let Some(set) = answer.sinks.as_ref().and_then(|sinks| step.sinks.get(usize::from(sinks[index]))) {
            output.sinks = *set;
        }
        if let Some(changes) = &answer.changes {
            output.change = Change::try_from(changes[index]).unwrap_or_default();
        }
        match destinations.as_ref().map(|set| set.get(index)) {
            None | Some(Setting::Kept) => (),
            Some(Setting::Null) => output.destination = None,
            Some(Setting::Is(at)) => output.destination = Some(at),
        }
        let key_format = step.sets_format(step.plan.sets_keys);
        let value_format = step.sets_format(step.plan.sets_values);
        for (cell, set, schemas, format) in
            [(&mut output.key, &keys, &answer.key_schemas, key_format), (&mut output.value, &values, &answer.value_schemas, value_format)]
        {
            match set.as_ref().map(|set| set.get(index)) {
                None | Some(Setting::Kept) => (),
                Some(Setting::Null) => *cell = Cell::Null,
                Some(Setting::Is(at)) => {
                    *cell = Cell::Set { at, format, schema: schemas.as_ref().map_or(0, |schemas| number(schemas, index)) }
                }
            }
        }
        // A destination often stems from the record, so a bad one is the record's fault, not the plugin's.
        if let Some(at) = output.destination.filter(|at| at.buffer >= first_buffer)
            && let Some(fault) = destination_fault(&made.buffers[(at.buffer - first) as usize][at.start as usize..at.end as usize])
        {
            let letter = letter(step, before, question.rows[*row as usize], Class::DestinationInvalid);
            made.letters.push(Letter { code: "destination".to_owned(), message: fault, ..letter });
            continue;
        }
        output.headers = edits(step, before, &mut made.header_edits, base.headers, &headers, index);
        made.list.push(output);
    }
    for reject in answer.rejects {
        let letter = letter(step, before, question.rows[reject.input as usize], Class::PluginReject);
        made.letters.push(Letter { code: clean(&reject.code), message: clean(&reject.message), ..letter });
    }
    Ok(())
}

fn letter(step: &Step, before: &Outputs, row: u32, class: Class) -> Letter {
    Letter {
        record: before.list[row as usize].input,
        class,
        code: String::new(),
        message: String::new(),
        by: step.shared.plugin.as_str().into(),
        digest: Some(step.component.digest.as_str().into()),
        attempts: 1,
    }
}

/// What no sink can take as a destination; each sink has rules of its own beyond that.
fn destination_fault(destination: &[u8]) -> Option<String> {
    let shown = || clean(&String::from_utf8_lossy(destination)).chars().take(40).collect::<String>();
    if destination.len() > DESTINATION_BYTES_MAX {
        let length = destination.len();
        return Some(format!(
            "the destination {:?}.. has {length} bytes, at most {DESTINATION_BYTES_MAX}: let the plugin shorten it",
            shown()
        ));
    }
    // In UTF-8 these bytes are nothing but control characters.
    let control = destination.iter().find(|byte| byte.is_ascii_control())?;
    Some(format!("the destination {:?} has the control character {control:#04x}: let the plugin replace or reject it", shown()))
}

fn edits(step: &Step, before: &Outputs, made: &mut Vec<Vec<HeaderEdit>>, base: Option<u32>, headers: &[Set], index: usize) -> Option<u32> {
    let mut fresh: Vec<HeaderEdit> = Vec::new();
    for (set, name) in headers.iter().zip(&step.plan.sets_headers) {
        let value = match set.get(index) {
            Setting::Kept => continue,
            Setting::Null => None,
            Setting::Is(at) => Some(at),
        };
        fresh.push(HeaderEdit { name: Arc::from(name.as_str()), value });
    }
    if fresh.is_empty() {
        return base;
    }
    let earlier = base.and_then(|base| before.header_edits.get(base as usize)).into_iter().flatten();
    let kept = earlier.filter(|edit| !fresh.iter().any(|newer| newer.name == edit.name)).cloned();
    let all: Vec<HeaderEdit> = kept.chain(fresh.iter().cloned()).collect();
    made.push(all);
    Some((before.header_edits.len() + made.len() - 1) as u32)
}

struct Set {
    ends: Vec<u32>,
    nulls: Vec<u32>,
    kept: Vec<u32>,
    buffer: u32,
}

enum Setting {
    Kept,
    Null,
    Is(Text),
}

impl Set {
    fn get(&self, index: usize) -> Setting {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        let end = self.ends[index];
        if start == end {
            let position = index as u32;
            if self.kept.binary_search(&position).is_ok() {
                return Setting::Kept;
            }
            if self.nulls.binary_search(&position).is_ok() {
                return Setting::Null;
            }
        }
        Setting::Is(Text { buffer: self.buffer, start, end })
    }
}

fn number(numbers: &types::Numbers, index: usize) -> u32 {
    match numbers {
        types::Numbers::All(number) => *number,
        types::Numbers::Each(numbers) => numbers[index],
    }
}

fn check(step: &Step, question: &Question, answer: &types::Outputs) -> Result<(), String> {
    let (records, count) = (question.rows.len(), answer.inputs.len());
    if count > records.saturating_mul(OUTPUTS_PER_RECORD_MAX) {
        return Err(format!("{count} outputs for {records} records, at most {OUTPUTS_PER_RECORD_MAX} each"));
    }
    if count > OUTPUTS_MAX {
        return Err(format!("{count} outputs, at most {OUTPUTS_MAX} in one call: let `max-records` of its plan ask for fewer records"));
    }
    if let Some(pair) = answer.inputs.windows(2).find(|pair| pair[0] > pair[1]) {
        return Err(format!("its inputs descend from {} to {}", pair[0], pair[1]));
    }
    if let Some(last) = answer.inputs.last().filter(|last| **last as usize >= records) {
        return Err(format!("it names record {last} of {records}"));
    }
    let length = |what: &str, length: usize| {
        if length == count { Ok(()) } else { Err(format!("{length} {what} for {count} outputs")) }
    };
    if let Some(destinations) = &answer.destinations {
        check_set("destinations", destinations, count)?;
        let mut start = 0;
        for end in &destinations.ends {
            std::str::from_utf8(&destinations.data[start as usize..*end as usize]).map_err(|_| "a destination is not UTF-8".to_owned())?;
            start = *end;
        }
    }
    for (what, set) in [("keys", &answer.keys), ("values", &answer.values)] {
        if let Some(set) = set {
            check_set(what, set, count)?;
        }
    }
    if !answer.headers.is_empty() && answer.headers.len() > step.plan.sets_headers.len() {
        return Err(format!("{} columns of headers, {} are planned", answer.headers.len(), step.plan.sets_headers.len()));
    }
    for column in &answer.headers {
        check_set("headers", column, count)?;
    }
    if let Some(sinks) = &answer.sinks {
        length("sets of sinks", sinks.len())?;
        if let Some(set) = sinks.iter().find(|set| **set != 255 && usize::from(**set) >= step.sinks.len()) {
            return Err(format!("it chooses set {set} of {} sets of sinks", step.sinks.len()));
        }
    }
    if let Some(changes) = &answer.changes {
        length("changes", changes.len())?;
        if let Some(change) = changes.iter().find(|change| Change::try_from(**change).is_err()) {
            return Err(format!("there is no change {change}"));
        }
    }
    let known = step.shared.schemas.snapshot();
    for (what, schemas) in [("keys", &answer.key_schemas), ("values", &answer.value_schemas)] {
        let handles = match schemas {
            None => &[][..],
            Some(types::Numbers::All(handle)) => std::slice::from_ref(handle),
            Some(types::Numbers::Each(handles)) => {
                length(&format!("schemas of {what}"), handles.len())?;
                handles
            }
        };
        if let Some(unknown) = handles.iter().find(|handle| **handle != 0 && known.get(**handle).is_none()) {
            return Err(format!("there is no schema {unknown}"));
        }
    }
    if step.plan.sets_keys == types::Encoding::Avro {
        check_avro("key", answer.keys.as_ref(), answer.key_schemas.as_ref(), &known)?;
    }
    if step.plan.sets_values == types::Encoding::Avro {
        check_avro("value", answer.values.as_ref(), answer.value_schemas.as_ref(), &known)?;
    }
    check_rejects(answer, records)
}

/// Avro can be read with its schema only.
fn check_avro(what: &str, set: Option<&types::SetColumn>, schemas: Option<&types::Numbers>, known: &Snapshot) -> Result<(), String> {
    let Some(set) = set else { return Ok(()) };
    let is_set = |index: usize| {
        let among = |positions: &Option<Vec<u32>>| positions.as_ref().is_some_and(|all| all.binary_search(&(index as u32)).is_ok());
        !among(&set.kept) && !among(&set.nulls)
    };
    let is_avro = |index: usize| {
        let handle = schemas.map_or(0, |schemas| number(schemas, index));
        known.get(handle).is_some_and(|entry| entry.schema.is_avro())
    };
    match (0..set.ends.len()).find(|index| is_set(*index) && !is_avro(*index)) {
        None => Ok(()),
        Some(index) => Err(format!("the {what} of output {index} is Avro without an Avro schema: it needs the handle of one")),
    }
}

fn check_set(what: &str, set: &types::SetColumn, count: usize) -> Result<(), String> {
    if set.ends.len() != count {
        return Err(format!("{} {what} for {count} outputs", set.ends.len()));
    }
    if set.ends.windows(2).any(|pair| pair[0] > pair[1]) || set.ends.last().map_or(0, |end| *end as usize) > set.data.len() {
        return Err(format!("the ends of its {what} do not lie within their data"));
    }
    let empty = |index: u32| {
        let end = set.ends[index as usize];
        end == if index == 0 { 0 } else { set.ends[index as usize - 1] }
    };
    for positions in [&set.nulls, &set.kept].into_iter().flatten() {
        let ascending = positions.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending || positions.last().is_some_and(|last| *last as usize >= count) || !positions.iter().all(|index| empty(*index)) {
            return Err(format!("its {what} that are null or kept are not in order, too many or not empty"));
        }
    }
    if let (Some(nulls), Some(kept)) = (&set.nulls, &set.kept)
        && let Some(both) = kept.iter().find(|index| nulls.binary_search(index).is_ok())
    {
        return Err(format!("entry {both} of its {what} is null and kept"));
    }
    Ok(())
}

fn check_rejects(answer: &types::Outputs, records: usize) -> Result<(), String> {
    let mut seen = vec![false; records];
    for reject in &answer.rejects {
        let Some(seen) = seen.get_mut(reject.input as usize) else {
            return Err(format!("it rejects record {} of {records}", reject.input));
        };
        if std::mem::replace(seen, true) {
            return Err(format!("it rejects record {} twice", reject.input));
        }
        if answer.inputs.binary_search(&reject.input).is_ok() {
            return Err(format!("it rejects record {} and has outputs of it", reject.input));
        }
        if reject.code.len() > CODE_BYTES_MAX || reject.message.len() > MESSAGE_BYTES_MAX {
            return Err(format!("the code or the message of a reject is longer than {CODE_BYTES_MAX} and {MESSAGE_BYTES_MAX} bytes"));
        }
    }
    Ok(())
}
