//! The row that a record would become.
//!
//! Invariant: no table is created and none is written; one that is there is opened once.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use serde_json::value::RawValue;

use super::{Verdict, Writer, table_schema};
use crate::ack::{Acks, TopicPartition};
use crate::dead::Class;
use crate::output::View;
use crate::sink::delta::columns::{columns, extend};
use crate::sink::delta::config::Config;
use crate::sink::delta::read::{check_table, open_quietly};
use crate::sink::delta::rows::{NoRow, TableRows};
use crate::sink::delta::settings::Settings;
use crate::sink::delta::table::{Table, chain, log_store};
use crate::sink::preview::Preview;
use crate::sink::{SinkError, Surroundings};

/// Shows rows instead of writing them.
pub struct Previewer {
    writer: Writer,
    /// By name; `None`: there is no such table yet.
    tables: HashMap<Arc<str>, Option<Table>>,
}

impl Previewer {
    /// No table is open.
    ///
    /// # Errors
    /// As [`crate::sink::delta::Delta::new`].
    pub fn new(config: &Config, surroundings: Surroundings) -> Result<Self, SinkError> {
        match Settings::new(config) {
            Ok(settings) => Ok(Previewer { writer: Writer::new(settings, surroundings), tables: HashMap::new() }),
            Err(reason) => Err(SinkError::Configuration { sink: surroundings.sink, reason }),
        }
    }

    /// See [`Preview`].
    ///
    /// # Errors
    /// What would stop the route: a table that cannot be read or does not fit, columns that nobody knows.
    pub async fn show(&mut self, view: &View<'_>) -> Result<Preview, SinkError> {
        let writer = &self.writer;
        match writer.no_row(view) {
            Some(Verdict::Letter(letter)) => return Ok(Preview::GivenUp(letter)),
            Some(Verdict::Skip | Verdict::Row) => return Ok(Preview::Skipped("no new row, and the sink skips what is none".to_owned())),
            None => (),
        }
        let Some(value) = view.value() else { return Ok(Preview::Skipped("a record without a value is no row".to_owned())) };
        let given_up = |class, code, reason| match writer.letter(view, class, code, reason) {
            Verdict::Letter(letter) => Preview::GivenUp(letter),
            Verdict::Row | Verdict::Skip => Preview::Forgotten,
        };
        let name = match writer.settings.place.name(view.destination()) {
            Ok(name) => name,
            Err(reason) => return Ok(given_up(Class::DestinationInvalid, "destination", reason)),
        };
        let url = writer.settings.place.url(&name);
        let wanted = columns(&writer.wanted(view)?);
        if !self.tables.contains_key(&name) {
            let opened = match log_store(&url) {
                Ok(store) => open_quietly(store).await,
                Err(error) => Err(error),
            };
            let table = opened.map_err(|error| writer.environment(format!("table at {url}: {error}")))?;
            self.tables.insert(name.clone(), table);
        }
        let table = self.tables.get(&name).and_then(Option::as_ref);
        let located = |reason: String| writer.configuration(format!("table at {url}: {reason}"));
        let held = match table {
            None => wanted.clone().map_err(located)?,
            Some(table) => {
                check_table(table, &writer.settings.partition_by).map_err(located)?;
                let held = table.schema().map_err(|error| located(error.to_string()))?;
                // Columns of the configuration are added as soon as the table is opened, those of a schema when it comes.
                let added = if writer.settings.columns.is_empty() {
                    None
                } else {
                    extend(&held, wanted.as_ref().map_err(|reason| located(reason.clone()))?).map_err(located)?
                };
                added.unwrap_or_else(|| held.as_ref().clone())
            }
        };
        let partition_by = match table {
            Some(table) => table.metadata().map_err(|error| located(error.to_string()))?.partition_columns().to_vec(),
            None => writer.settings.partition_by.clone(),
        };
        let mut rows = TableRows::new(held, &writer.settings.metadata).map_err(located)?;
        let place = TopicPartition { topic: view.topic().clone(), partition: view.partition() };
        let slot = Acks::new().assign(place, None);
        let entry = table_schema(view);
        if let Some(entry) = entry {
            rows.learn(entry, wanted).map_err(located)?;
        }
        match rows.push(view, value, entry.is_some(), slot) {
            Ok(()) => (),
            Err(NoRow::Decode(reason)) => return Ok(given_up(Class::Decode, "decode", reason)),
            Err(NoRow::Column(reason)) => return Ok(given_up(Class::SinkPermanent, "column", reason)),
        }
        rows.cover(slot, view.offset(), || (String::new(), None));
        let taken = rows.take().map_err(located)?;
        let row = taken.batches.first().map_or_else(|| Ok(String::new()), json).map_err(located)?;
        let app_id = writer.ledger.app_id(view.topic(), view.partition());
        let last = table.filter(|_| !writer.around.without_ledger).and_then(|table| table.positions.get(&app_id));
        Ok(Preview::Row {
            table: url.to_file_path().map_or_else(|()| url.to_string(), |path| path.display().to_string()),
            is_new: table.is_none(),
            partition: partition_values(&row, &partition_by).map_err(located)?,
            row,
            covered: last.is_some_and(|last| *last >= view.offset()),
        })
    }
}

/// The first row as a JSON object, nulls included.
fn json(batch: &RecordBatch) -> Result<String, String> {
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
    writer.write(&batch.slice(0, 1)).and_then(|()| writer.finish()).map_err(|error| chain(&error))?;
    Ok(String::from_utf8_lossy(&writer.into_inner()).trim_end().to_owned())
}

fn partition_values(row: &str, partition_by: &[String]) -> Result<Vec<(String, String)>, String> {
    let fields: HashMap<String, &RawValue> = serde_json::from_str(row).map_err(|error| error.to_string())?;
    let value = |name: &String| match fields.get(name) {
        Some(value) => Ok((name.clone(), value.get().to_owned())),
        None => Err(format!("`partition_by` names the column {name:?}, and the rows have none of that name")),
    };
    partition_by.iter().map(value).collect()
}
