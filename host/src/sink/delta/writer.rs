//! The task of a Delta sink: gathers rows per table, and has at most one flush under way while it gathers the next.
//!
//! Invariant: a token waits with its rows, then in the flush, and is settled only when every table commit of its flush has landed.
//! What the ledger of a table covers is never gathered. Dead letters have no ledger: after a crash one may be there twice.

mod preview;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub use preview::Previewer;

use arrow::datatypes::Field;
use deltalake::kernel::Version;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::columns::columns;
use super::config::{OnChange, OnDoubt};
use super::flush::{Done, Failure, Job, Load, Waits, run};
use super::known::{Known, Unusable, same_origin};
use super::ledger::Ledger;
use super::rows::{NoRow, wanted_fields};
use super::settings::{Place, Settings, is_within};
use super::survey::survey;
use super::table::{Table, TableError};
use crate::ack::{Slot, Token, TopicPartition};
use crate::dead::{Class, Durable, Letter};
use crate::output::{Change, View};
use crate::schemas::Entry;
use crate::sink::{Heard, Inbox, Message, Piece, SinkError, Surroundings};
use crate::source::kafka::begin::ahead;

/// Dead letters that are waited for before it is looked which are durable.
const DURABLES_MIN: usize = 256;

/// See the module.
pub struct Writer {
    settings: Settings,
    around: Surroundings,
    ledger: Ledger,
    tables: Vec<Known>,
    by_name: HashMap<Arc<str>, usize>,
    /// Latest generation of any partition that was seen.
    generation: u64,
    /// Tables below the root as they were at a generation, and the partitions that were asked about.
    survey: Vec<Table>,
    survey_generation: u64,
    surveyed: HashSet<Slot>,
    tokens: Vec<Token>,
    durables: Vec<(Slot, Durable)>,
    rows: usize,
    bytes: usize,
    /// When the oldest of the rows came; `None`: there are none.
    since: Option<Instant>,
    flush: Option<BoxFuture<'static, Done>>,
    checkpoints: JoinSet<(usize, Result<Version, TableError>)>,
}

/// What becomes of one output.
enum Verdict {
    /// It is gathered.
    Row,
    /// It needs no row: it is there already, or is none by configuration.
    Skip,
    /// It is given up.
    Letter(Letter),
}

/// The table of the outputs that are being looked at.
struct At {
    table: usize,
    /// What the ledger covers of their partition.
    covered: Option<i64>,
    /// Last offset that was gathered.
    last: Option<i64>,
}

impl Writer {
    /// A writer with nothing gathered.
    pub fn new(settings: Settings, around: Surroundings) -> Self {
        let ledger = Ledger::new(settings.ledger.as_deref(), &around.group, &around.sink);
        Writer {
            settings,
            around,
            ledger,
            tables: Vec::new(),
            by_name: HashMap::new(),
            generation: 0,
            survey: Vec::new(),
            survey_generation: 0,
            surveyed: HashSet::new(),
            tokens: Vec::new(),
            durables: Vec::new(),
            rows: 0,
            bytes: 0,
            since: None,
            flush: None,
            checkpoints: JoinSet::new(),
        }
    }

    /// Takes pieces until the inbox closes, and makes all of them durable.
    ///
    /// # Errors
    /// See [`crate::sink::Sink::run`].
    pub async fn run(mut self, mut inbox: Inbox) -> Result<(), SinkError> {
        loop {
            let due = self.since.map(|since| since + self.settings.age_max);
            let idle = self.flush.is_none();
            let full = self.rows >= self.settings.rows_max || self.bytes >= self.settings.bytes_max;
            if idle && full {
                self.start_flush()?;
                continue;
            }
            tokio::select! {
                biased;
                done = finished(&mut self.flush) => self.end_flush(done)?,
                Some(ended) = self.checkpoints.join_next(), if !self.checkpoints.is_empty() => self.end_checkpoint(ended),
                () = until(due), if idle && due.is_some() => self.start_flush()?,
                // While a flush is under way and as much is waiting behind it, the inbox holds the route back.
                heard = heard(&mut inbox, idle && due.is_some()), if !full => match heard {
                    Heard::Message(Message::Piece(piece)) => self.take(piece).await?,
                    Heard::Message(Message::Letters(slot, durable)) => self.wait_for(slot, durable),
                    Heard::Message(Message::Abandon(slot)) => self.forget(slot),
                    Heard::Closed => break,
                    Heard::Urgent => self.start_flush()?,
                },
            }
        }
        self.wait_for_flush().await?;
        if self.since.is_some() {
            self.start_flush()?;
            self.wait_for_flush().await?;
        }
        while let Some(ended) = self.checkpoints.join_next().await {
            self.end_checkpoint(ended);
        }
        Ok(())
    }

    async fn take(&mut self, piece: Piece) -> Result<(), SinkError> {
        let slot = piece.token.slot();
        if !piece.token.is_current() {
            return Ok(());
        }
        self.generation = self.generation.max(slot.generation());
        if let Some(first) = piece.iter().next()
            && !self.around.without_ledger
        {
            self.survey(slot, &first).await?;
        }
        let mut visited: Vec<(Option<&str>, At)> = Vec::new();
        let mut letters = Vec::new();
        let (mut rows, mut skipped) = (0, 0);
        for view in piece.iter() {
            match self.take_one(&view, &piece.token, &mut visited).await? {
                Verdict::Row => rows += 1,
                Verdict::Skip => skipped += 1,
                Verdict::Letter(letter) => letters.push((view.index as u32, letter)),
            }
        }
        for (_, at) in visited {
            if let Some(last) = at.last {
                let first = || (self.ledger.app_id(&piece.outputs.batch.topic, piece.outputs.batch.partition), at.covered);
                let rows = &mut self.tables[at.table].rows;
                rows.cover(slot, last, first);
                rows.roll().map_err(|reason| self.environment(reason))?;
            }
        }
        self.around.metrics.skipped.inc_by(skipped);
        if !letters.is_empty() {
            self.around.metrics.given_up.inc_by(letters.len() as u64);
            self.wait_for(slot, self.around.dead.give_up_outputs(&piece, letters));
        }
        if rows == 0 {
            piece.token.settle();
            return Ok(());
        }
        self.rows += rows;
        self.bytes = self.tables.iter().map(|known| known.rows.bytes()).sum();
        self.since.get_or_insert_with(Instant::now);
        self.tokens.push(piece.token);
        Ok(())
    }

    /// Nothing that comes after these dead letters is committed before them: the ledger would say that their records are done.
    fn wait_for(&mut self, slot: Slot, durable: Durable) {
        self.durables.push((slot, durable));
        // Where no row comes for long, nobody takes them.
        if self.durables.len() >= DURABLES_MIN && self.durables.len().is_power_of_two() {
            self.durables.retain(|(_, durable)| durable.clone().now_or_never() != Some(Ok(())));
        }
    }

    async fn take_one<'a>(
        &mut self,
        view: &View<'a>,
        token: &Token,
        visited: &mut Vec<(Option<&'a str>, At)>,
    ) -> Result<Verdict, SinkError> {
        if let Some(verdict) = self.no_row(view) {
            return Ok(verdict);
        }
        let destination = match self.settings.place {
            Place::One(_) => None,
            Place::Below { .. } => view.destination(),
        };
        let index = match visited.iter().rposition(|(name, _)| *name == destination) {
            Some(index) => index,
            None => match self.go_to(view, destination, token).await? {
                Ok(at) => {
                    visited.push((destination, at));
                    visited.len() - 1
                }
                Err(reason) => return Ok(self.letter(view, Class::DestinationInvalid, "destination", reason)),
            },
        };
        self.gather(view, token.slot(), &mut visited[index].1)
    }

    /// What becomes of an output that is no row of any table.
    fn no_row(&self, view: &View<'_>) -> Option<Verdict> {
        let change = view.output().change;
        let (what, code, reason) = if view.value().is_none() {
            (self.settings.on_tombstone, "tombstone", "a record without a value is no row".to_owned())
        } else if !matches!(change, Change::Append | Change::Create | Change::Read) {
            (self.settings.on_change, "change", format!("{change:?} at a table that only takes new rows"))
        } else {
            return None;
        };
        match what {
            OnChange::Append => None,
            OnChange::Skip => Some(Verdict::Skip),
            OnChange::Reject => Some(self.letter(view, Class::SinkPermanent, code, reason)),
        }
    }

    fn letter(&self, view: &View<'_>, class: Class, code: &str, message: String) -> Verdict {
        let by = self.around.sink.clone();
        Verdict::Letter(Letter { record: view.output().input, class, code: code.to_owned(), message, by, digest: None, attempts: 1 })
    }

    /// Makes one output a row, or says why not.
    fn gather(&mut self, view: &View<'_>, slot: Slot, at: &mut At) -> Result<Verdict, SinkError> {
        if at.covered.is_some_and(|covered| view.offset() <= covered) {
            return Ok(Verdict::Skip);
        }
        let Some(value) = view.value() else { return Ok(Verdict::Skip) };
        let entry = table_schema(view);
        if entry.is_none() && self.settings.columns.is_empty() {
            return Err(self.no_columns(view));
        }
        if let Some(entry) = entry
            && !self.tables[at.table].rows.turn_to(entry)
        {
            let wanted = columns(&self.wanted(view)?);
            let learnt = self.tables[at.table].rows.learn(entry, wanted);
            learnt.map_err(|reason| self.environment(reason))?;
        }
        match self.tables[at.table].rows.push(view, value, entry.is_some(), slot) {
            Ok(()) => {
                at.last = Some(view.offset());
                Ok(Verdict::Row)
            }
            Err(NoRow::Decode(reason)) => Ok(self.letter(view, Class::Decode, "decode", reason)),
            Err(NoRow::Column(reason)) => Ok(self.letter(view, Class::SinkPermanent, "column", reason)),
        }
    }

    /// The columns that a value's schema, or the configuration, wants.
    fn wanted(&self, view: &View<'_>) -> Result<Vec<Field>, SinkError> {
        let entry = table_schema(view);
        if entry.is_none() && self.settings.columns.is_empty() {
            return Err(self.no_columns(view));
        }
        let wanted = wanted_fields(entry, &self.settings.columns, &self.settings.metadata).map_err(|reason| self.configuration(reason))?;
        if wanted.is_empty() { Err(self.no_columns(view)) } else { Ok(wanted) }
    }

    /// The table of an output, opened, with the ledger of the partition that the output comes from; or why there is none.
    async fn go_to(&mut self, view: &View<'_>, destination: Option<&str>, token: &Token) -> Result<Result<At, String>, SinkError> {
        let slot = token.slot();
        let name = match self.settings.place.name(destination) {
            Ok(name) => name,
            Err(reason) => return Ok(Err(reason)),
        };
        let table = match self.by_name.get(&name) {
            Some(table) => *table,
            None => {
                if let Err(reason) = self.room_for(&name) {
                    return Ok(Err(reason));
                }
                let wanted = self.wanted(view)?;
                let opened = Known::open(name.clone(), &wanted, self.generation, &self.settings, &self.around).await;
                self.tables.push(opened.map_err(|unusable| self.unusable(unusable))?);
                self.by_name.insert(name, self.tables.len() - 1);
                self.checkpoint_if_due(self.tables.len() - 1);
                self.tables.len() - 1
            }
        };
        let app_id = self.ledger.app_id(view.topic(), view.partition());
        if !self.around.without_ledger && !self.tables[table].looked_at.contains(&slot) {
            self.look_at(table, token, &app_id, view).await?;
        }
        let known = &self.tables[table];
        // What is gathered already is newer than what any ledger covers; dead letters come in no order, so none covers them.
        let covered = match known.rows.span(slot) {
            Some(_) => None,
            None if self.around.without_ledger => None,
            None => known.under_way.get(&slot).or_else(|| known.positions.get(&app_id)).copied(),
        };
        Ok(Ok(At { table, covered, last: None }))
    }

    fn room_for(&self, name: &str) -> Result<(), String> {
        let Place::Below { tables_max, .. } = self.settings.place else { return Ok(()) };
        if self.tables.len() >= tables_max {
            return Err(format!("{name:?} would be one table more than `tables_max` = {tables_max}"));
        }
        match self.tables.iter().find(|known| is_within(&known.name, name)) {
            Some(known) => Err(format!("table {name:?} and table {:?} would lie within each other", known.name)),
            None => Ok(()),
        }
    }

    /// The first rows of a partition for a table: may its ledger be believed, and what does it say?
    async fn look_at(&mut self, table: usize, token: &Token, app_id: &str, view: &View<'_>) -> Result<(), SinkError> {
        let slot = token.slot();
        if slot.generation() > self.tables[table].generation {
            self.wait_for_flush().await?;
            self.tables[table].refresh(self.generation, &self.around.metrics).await;
        }
        self.compare_with_commits(table, token, app_id, view)?;
        if let Some(held) = self.tables[table].positions.get(app_id).copied().filter(|held| *held >= view.offset()) {
            self.wait_for_flush().await?;
            if let Some(known) = &self.tables[table].table {
                let same = same_origin(known, app_id, view, &self.around, self.settings.on_other_decision).await;
                same.map_err(|unusable| self.unusable(unusable))?;
            }
            self.compare_with_end(held, token, view).await?;
            tracing::info!(
                sink = %self.around.sink, topic = %view.topic(), partition = view.partition(), from = view.offset(), to = held,
                "the table holds these records already: they are not written again"
            );
        }
        self.tables[table].looked_at.insert(slot);
        Ok(())
    }

    /// The table must hold what it held when offsets were committed that count on it.
    fn compare_with_commits(&self, table: usize, token: &Token, app_id: &str, view: &View<'_>) -> Result<(), SinkError> {
        let known = &self.tables[table];
        let held = known.positions.get(app_id).copied();
        let Some(promised) = token.held(&known.place).filter(|promised| held < Some(*promised)) else { return Ok(()) };
        let says = held.map_or("nothing".to_owned(), |held| format!("only up to offset {held}"));
        let text = format!(
            "the table held {}/{} up to offset {promised} when the group's offset was committed, and holds {says} now: it was restored to an older \
             version, or created again",
            view.topic(),
            view.partition()
        );
        match self.settings.restored {
            OnDoubt::Accept => {
                tracing::warn!(sink = %self.around.sink, "{text}: accepted, the rows in between stay missing");
                token.forget_held(&known.place);
                Ok(())
            }
            OnDoubt::Stop => Err(self.environment(format!(
                "{text}: set `restored = \"accept\"` to go on, and move the group's offsets back if the rows in between are to be written again"
            ))),
        }
    }

    /// A ledger that is ahead of its partition's end is that of another log.
    async fn compare_with_end(&mut self, held: i64, token: &Token, view: &View<'_>) -> Result<(), SinkError> {
        let mut waits = Waits::default();
        // Without an answer nothing is known, so nothing is dropped: wait for one.
        while token.is_current() {
            match self.around.logs.end(view.topic(), view.partition()).await {
                None => return Ok(()),
                Some(Ok(end)) if held < end => return Ok(()),
                Some(Ok(end)) => {
                    let name = TopicPartition { topic: view.topic().clone(), partition: view.partition() };
                    return Err(self.environment(ahead(&name, held, end)));
                }
                Some(Err(error)) => tracing::debug!(sink = %self.around.sink, error, "the end of a partition is not known yet"),
            }
            waits.wait().await;
        }
        Ok(())
    }

    /// The first record of a partition: is any table below the root ahead of it, by another decision?
    async fn survey(&mut self, slot: Slot, view: &View<'_>) -> Result<(), SinkError> {
        if matches!(self.settings.place, Place::One(_)) || !self.surveyed.insert(slot) {
            return Ok(());
        }
        if slot.generation() > self.survey_generation {
            self.survey = survey(&self.settings.place, &self.around.metrics).await;
            self.survey_generation = self.generation;
        }
        let app_id = self.ledger.app_id(view.topic(), view.partition());
        for table in &self.survey {
            let same = same_origin(table, &app_id, view, &self.around, self.settings.on_other_decision).await;
            same.map_err(|unusable| self.unusable(unusable))?;
        }
        Ok(())
    }

    /// A partition left, or is read again: what is gathered of it will come again.
    fn forget(&mut self, slot: Slot) {
        self.tokens.retain(|token| token.slot() != slot);
        self.durables.retain(|(of, _)| *of != slot);
        self.surveyed.remove(&slot);
        for known in &mut self.tables {
            known.rows.forget(slot);
            known.looked_at.remove(&slot);
        }
        if self.tokens.is_empty() {
            self.since = None;
        }
    }

    fn start_flush(&mut self) -> Result<(), SinkError> {
        let gone: HashSet<Slot> = self.tokens.iter().filter(|token| !token.is_current()).map(Token::slot).collect();
        gone.into_iter().for_each(|slot| self.forget(slot));
        (self.rows, self.bytes, self.since) = (0, 0, None);
        let mut loads = Vec::new();
        for (index, known) in self.tables.iter_mut().enumerate() {
            known.under_way = known.rows.last_offsets();
            let mut taken = known.rows.take().map_err(|reason| SinkError::Environment { sink: self.around.sink.clone(), reason })?;
            if self.around.without_ledger {
                taken.positions.clear();
            }
            if taken.batches.is_empty() {
                continue;
            }
            if let Some(table) = known.table.take() {
                let names = taken.positions.iter().filter_map(|position| self.ledger.partition(&position.app_id));
                let with_id = |topic: Arc<str>| Some((topic.to_string(), Value::from(&*self.around.logs.topic_id(&topic)?)));
                let topics = names.filter_map(|name| with_id(name.topic)).collect();
                loads.push(Load { index, table, taken, partition_by: known.partition_by.clone(), topics });
            }
        }
        if loads.is_empty() {
            return Ok(());
        }
        let job = Job {
            loads,
            tokens: std::mem::take(&mut self.tokens),
            durables: std::mem::take(&mut self.durables),
            compression: self.settings.compression,
            decision: self.around.decision.clone(),
            metrics: self.around.metrics.clone(),
        };
        self.flush = Some(run(job).boxed());
        Ok(())
    }

    async fn wait_for_flush(&mut self) -> Result<(), SinkError> {
        let Some(flush) = &mut self.flush else { return Ok(()) };
        let done = flush.await;
        self.end_flush(done)
    }

    fn end_flush(&mut self, done: Done) -> Result<(), SinkError> {
        self.flush = None;
        for (index, table, landed) in done.tables {
            let known = &mut self.tables[index];
            known.positions = table.positions.clone();
            known.table = Some(table);
            if landed.is_some() {
                for token in &done.tokens {
                    if let Some(last) = known.under_way.get(&token.slot()) {
                        token.hold(&known.place, *last);
                    }
                }
                self.checkpoint_if_due(index);
            }
        }
        self.tables.iter_mut().for_each(|known| known.under_way.clear());
        let Err(failure) = done.result else {
            done.tokens.into_iter().for_each(Token::settle);
            return Ok(());
        };
        let is_restored = matches!(failure, Failure::Restored(_));
        let reason = self.reason(failure)?;
        if is_restored {
            // Accepted.
            self.tables.iter_mut().filter_map(|known| known.table.as_mut()).for_each(|table| table.may_be_restored = false);
        }
        // What was gathered meanwhile counts on rows that are not there.
        let slots: HashSet<Slot> = done.tokens.iter().map(Token::slot).collect();
        done.tokens.into_iter().for_each(|token| token.rewind(reason));
        slots.into_iter().for_each(|slot| self.forget(slot));
        Ok(())
    }

    /// Why the partitions of a flush are read again; an error where that would not help.
    fn reason(&self, failure: Failure) -> Result<&'static str, SinkError> {
        match failure {
            Failure::Left => Ok("its rows were abandoned with those of a partition that left"),
            Failure::Moved(reason) => {
                tracing::warn!(sink = %self.around.sink, reason, "another owner of a partition has committed, reading again");
                Ok("another owner has committed to the table")
            }
            Failure::Restored(reason) if self.settings.restored == OnDoubt::Accept => {
                tracing::warn!(sink = %self.around.sink, reason, "the table was restored, reading again");
                Ok("the table was restored")
            }
            Failure::Restored(reason) => Err(self.environment(format!(
                "the table was restored to an older version, or created again, while it was written ({reason}), so rows are missing: set \
                 `restored = \"accept\"` to go on, and move the group's offsets back if they are to be written again"
            ))),
            Failure::Refused(reason) => Err(self.environment(reason)),
        }
    }

    fn checkpoint_if_due(&mut self, index: usize) {
        if let Some(table) = self.tables[index].take_due() {
            self.checkpoints.spawn(async move { (index, table.write_checkpoint().await) });
        }
    }

    fn end_checkpoint(&mut self, ended: Result<(usize, Result<Version, TableError>), JoinError>) {
        let Ok((index, written)) = ended else { return };
        if let Err(error) = written {
            tracing::warn!(sink = %self.around.sink, %error, "no checkpoint, tried again after the next commit");
            self.tables[index].checkpoint = 0;
        }
    }

    fn no_columns(&self, view: &View<'_>) -> SinkError {
        self.configuration(format!(
            "record {}/{} offset {} has no schema with fields, so its columns are not known: name them in `columns` of the sink, read the topic with a \
             schema, or let a plugin register one",
            view.topic(),
            view.partition(),
            view.offset()
        ))
    }

    fn unusable(&self, unusable: Unusable) -> SinkError {
        match unusable {
            Unusable::Configuration(reason) => self.configuration(reason),
            Unusable::Environment(reason) => self.environment(reason),
        }
    }

    fn configuration(&self, reason: String) -> SinkError {
        SinkError::Configuration { sink: self.around.sink.clone(), reason }
    }

    fn environment(&self, reason: String) -> SinkError {
        SinkError::Environment { sink: self.around.sink.clone(), reason }
    }
}

/// The schema that makes a value's columns; a JSON schema makes none.
fn table_schema<'a>(view: &View<'a>) -> Option<&'a Arc<Entry>> {
    view.schema(view.value_schema()).filter(|entry| entry.schema.is_avro())
}

async fn finished(flush: &mut Option<BoxFuture<'static, Done>>) -> Done {
    match flush {
        Some(flush) => flush.await,
        None => std::future::pending().await,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn heard(inbox: &mut Inbox, may_be_urgent: bool) -> Heard {
    if may_be_urgent { inbox.next_or_urgent().await } else { inbox.next().await.map_or(Heard::Closed, Heard::Message) }
}
