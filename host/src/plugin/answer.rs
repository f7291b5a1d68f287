//! Answers: what a guest returned, checked and turned into outputs.
//!
//! Invariant: nothing of an answer is used before all of it was found valid.

use std::sync::Arc;

use bytes::Bytes;

use super::ask::Question;
use super::bind::anabranch::plugin::types;
use super::plan::Step;
use crate::dead::{Class, Letter};
use crate::output::{Cell, Change, HeaderEdit, Output, Outputs, Text};

/// Outputs that one record may have.
const OUTPUTS_PER_RECORD_MAX: usize = 1000;
/// Bytes of one destination.
const DESTINATION_BYTES_MAX: u32 = 4096;
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
    let first_buffer = (before.buffers.len() + made.buffers.len()) as u32;
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
        output.headers = edits(step, before, &mut made.header_edits, base.headers, &headers, index);
        made.list.push(output);
    }
    for reject in answer.rejects {
        made.letters.push(Letter {
            record: before.list[question.rows[reject.input as usize] as usize].input,
            class: Class::PluginReject,
            code: reject.code,
            message: reject.message,
            by: step.shared.plugin.as_str().into(),
            digest: Some(step.component.digest.as_str().into()),
        });
    }
    Ok(())
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
            if end - start > DESTINATION_BYTES_MAX {
                return Err(format!("a destination of {} bytes, at most {DESTINATION_BYTES_MAX}", end - start));
            }
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
    for schemas in [&answer.key_schemas, &answer.value_schemas].into_iter().flatten() {
        let all = std::slice::from_ref(match schemas {
            types::Numbers::All(all) => all,
            types::Numbers::Each(each) => {
                length("schemas", each.len())?;
                if let Some(unknown) = each.iter().find(|handle| **handle != 0 && known.get(**handle).is_none()) {
                    return Err(format!("there is no schema {unknown}"));
                }
                continue;
            }
        });
        if all[0] != 0 && known.get(all[0]).is_none() {
            return Err(format!("there is no schema {}", all[0]));
        }
    }
    check_rejects(answer, records)
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
