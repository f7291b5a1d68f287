//! Transactions: records and the offsets of what they were made of are committed together, or not at all.
//!
//! Invariant: a transaction is committed only with offsets behind all records that it holds, in the name of a member that the group had when
//! they were prepared. Where its end is not known, the group is asked before anything is read again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::producer::Producer as _;
use rdkafka::types::RDKafkaErrorCode;
use tokio::time::Instant;

use super::config::{Bounds, Config};
use super::fate::Fate;
use super::line::{Line, looks};
use super::producer::Producer;
use crate::ack::transaction::{Due, Readiness};
use crate::ack::{Slot, Token, TopicPartition};
use crate::dead::Class;
use crate::output::View;
use crate::sink::{Heard, Inbox, Message, Offsets, SinkError, Surroundings};
use crate::source::kafka::group::to_list;

/// How long one call of librdkafka may block a thread; it is made again.
const CALL_MAX: Duration = Duration::from_secs(5);
const CALL_AGAIN: Duration = Duration::from_millis(500);
/// Pause between two looks at what others still owe.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// Pause between two commits while a partition is about to leave.
const URGENT_PAUSE: Duration = Duration::from_millis(20);
/// By then a consumer whose place in the group was taken knows it: several signs of life.
const HEIR_WAIT: Duration = Duration::from_secs(10);
/// Records that the brokers refused, whose transaction was aborted, and that come again; more of them are no bad records any more.
const CONDEMNED_MAX: usize = 10_000;

/// An output that comes again: its record's partition and offset, and which of the record's outputs it is.
type Place = (TopicPartition, i64, usize);

/// See the module.
pub(super) struct Transaction {
    offsets: Offsets,
    bounds: Bounds,
    id: Arc<str>,
    /// The id was made for this process: nobody else has it.
    is_own: bool,
    tokens: Vec<Token>,
    /// Since when it is open at the brokers.
    began: Option<Instant>,
    ended: Instant,
    records: u64,
    bytes: u64,
    /// Why it cannot be committed any more.
    broken: Option<String>,
    /// The brokers have aborted it; what it holds waits to be read again.
    is_void: bool,
    condemned: HashMap<Place, (Class, String)>,
}

/// What an error of librdkafka means for the transaction.
#[derive(Debug, PartialEq, Eq)]
enum Trouble {
    /// The same call again.
    Passing(String),
    /// It has to be aborted.
    Abort(String),
    /// The producer is of no use any more.
    Fatal(RDKafkaErrorCode, String),
}

/// How the end of a transaction went.
enum End {
    Landed,
    NotLanded(String),
    Fatal { code: RDKafkaErrorCode, reason: String, may_have_landed: bool },
}

impl Trouble {
    fn of(error: &KafkaError) -> Self {
        match error {
            KafkaError::Transaction(error) if error.is_fatal() => Trouble::Fatal(error.code(), error.string()),
            KafkaError::Transaction(error) if error.txn_requires_abort() => Trouble::Abort(error.string()),
            KafkaError::Transaction(error) if error.is_retriable() => Trouble::Passing(error.string()),
            KafkaError::Transaction(error) => Trouble::Abort(error.string()),
            error => Trouble::Passing(error.to_string()),
        }
    }
}

impl Transaction {
    /// The transactions of a sink; `None`: it has none.
    pub fn of(config: &Config, surroundings: &Surroundings) -> Option<Self> {
        let offsets = surroundings.offsets.clone().filter(|_| config.exactly_once)?;
        let member = offsets.instance_id.clone();
        let is_own = member.is_none();
        let member = member.unwrap_or_else(|| format!("{:032x}", fastrand::u128(..)).into());
        Some(Transaction {
            offsets,
            bounds: config.transaction.clone(),
            id: format!("{}.{}.{member}", surroundings.group, surroundings.sink).into(),
            is_own,
            tokens: Vec::new(),
            began: None,
            ended: Instant::now(),
            records: 0,
            bytes: 0,
            broken: None,
            is_void: false,
            condemned: HashMap::new(),
        })
    }

    /// The transactional id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// One more record of so many bytes is in it.
    pub fn add(&mut self, bytes: u64) {
        self.records += 1;
        self.bytes += bytes;
    }

    /// It owes one more piece.
    pub fn hold(&mut self, token: Option<Token>) {
        self.tokens.extend(token);
    }

    /// Why an output is given up that was refused when it came before.
    pub fn condemned(&self, view: View<'_>) -> Option<(Class, String)> {
        if self.condemned.is_empty() {
            return None;
        }
        self.condemned.get(&place(view)).cloned()
    }

    fn is_full(&self) -> bool {
        self.records >= u64::from(self.bounds.records_max.get()) || self.bytes >= self.bounds.bytes_max.get()
    }

    /// When it is to be committed at the latest.
    fn due(&self, urgent: bool) -> Instant {
        match self.began {
            _ if urgent => self.ended + URGENT_PAUSE,
            Some(began) => began + self.bounds.age_max.get(),
            // Only offsets: of records of which nothing was written.
            None => self.ended + self.offsets.interval,
        }
    }
}

fn place(view: View<'_>) -> Place {
    (TopicPartition { topic: view.topic().clone(), partition: view.partition() }, view.offset(), view.ordinal())
}

async fn hear(inbox: &mut Inbox, urgent: bool) -> Heard {
    if urgent { inbox.next().await.map_or(Heard::Closed, Heard::Message) } else { inbox.next_or_urgent().await }
}

impl Line {
    /// As [`Line::run`], in transactions.
    pub async fn run_in_transactions(mut self: Box<Self>, mut inbox: Inbox) -> Result<(), SinkError> {
        self.init().await?;
        let mut open = true;
        let mut looks = looks();
        while open || self.is_open() {
            let urgent = inbox.is_urgent() || !open;
            let due = self.due(urgent);
            let reports = self.reports.clone();
            tokio::select! {
                heard = hear(&mut inbox, urgent), if open => match heard {
                    Heard::Message(Message::Piece(piece)) => self.write(piece).await?,
                    // The offsets that a transaction commits end in front of what is owed.
                    Heard::Message(Message::Letters(..)) => {}
                    Heard::Message(Message::Abandon(slot)) => self.abandon(slot).await?,
                    Heard::Urgent => (),
                    Heard::Closed => open = false,
                },
                reports = reports.take() => self.report(reports)?,
                _ = looks.tick() => self.ask_whether_back().await,
                () = tokio::time::sleep_until(due) => (),
            }
            self.abort_if_broken().await?;
            let is_full = self.transaction.as_ref().is_some_and(Transaction::is_full);
            if is_full || Instant::now() >= self.due(inbox.is_urgent() || !open) {
                self.commit().await?;
            }
        }
        self.end().await;
        Ok(())
    }

    fn is_open(&self) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| transaction.began.is_some() || !transaction.tokens.is_empty())
    }

    fn due(&self, urgent: bool) -> Instant {
        self.transaction.as_ref().map_or_else(Instant::now, |transaction| transaction.due(urgent))
    }

    /// Ends what a former producer of this id left open, and keeps it from doing anything more.
    async fn init(&mut self) -> Result<(), SinkError> {
        loop {
            let Err(error) = self.call(|producer| producer.init_transactions(CALL_MAX)).await else {
                self.answered();
                return Ok(());
            };
            match Trouble::of(&error) {
                Trouble::Fatal(code, reason) => return Err(self.lasting(code, &reason)),
                Trouble::Passing(reason) | Trouble::Abort(reason) => self.waits(&format!("no transactions yet: {reason}")),
            }
            tokio::time::sleep(CALL_AGAIN).await;
        }
    }

    /// Opens a transaction, if there are any and none is open.
    pub async fn begin(&mut self) -> Result<(), SinkError> {
        if self.transaction.as_ref().is_none_or(|transaction| transaction.began.is_some()) {
            return Ok(());
        }
        if let Err(error) = self.call(|producer| producer.begin_transaction()).await {
            let Trouble::Fatal(code, reason) = Trouble::of(&error) else {
                return Err(self.environment(format!("no transaction can be begun: {error}")));
            };
            self.recover(None, code, &reason).await?;
            if let Err(error) = self.call(|producer| producer.begin_transaction()).await {
                return Err(self.environment(format!("no transaction can be begun: {error}")));
            }
        }
        if let Some(transaction) = &mut self.transaction {
            transaction.began = Some(Instant::now());
        }
        Ok(())
    }

    /// Commits what was written, with the offsets of all partitions; where only offsets moved, these.
    pub async fn commit(&mut self) -> Result<(), SinkError> {
        let began = Instant::now();
        let (due, metadata) = loop {
            let Some(transaction) = &mut self.transaction else { return Ok(()) };
            transaction.ended = Instant::now();
            // First the member, then what is its own: a partition that left in between is seen, or the group refuses the member.
            let member = transaction.offsets.member.clone();
            let metadata = tokio::task::spawn_blocking(move || member.metadata()).await.ok().flatten();
            match transaction.offsets.acks.prepare(&transaction.tokens) {
                Readiness::Ready(due) if transaction.is_void => {
                    transaction.offsets.acks.not_landed(&due);
                    return self.forget_all();
                }
                Readiness::Ready(due) if due.is_empty() && transaction.began.is_none() => return Ok(()),
                Readiness::Ready(due) => match metadata {
                    Some(metadata) => break (due, Arc::new(metadata)),
                    None => {
                        transaction.offsets.acks.not_landed(&due);
                        return self.abort("this process is no member of the group at the moment").await;
                    }
                },
                Readiness::Gone => return self.abort("a partition left, or is read again").await,
                // The brokers would end it. What it holds is read again when the dead letters are durable, and once only.
                Readiness::Waiting if began.elapsed() * 2 > transaction.bounds.timeout.get() && !transaction.is_void => {
                    transaction.is_void = true;
                    self.end_at_brokers("dead letters of its records are not durable").await?;
                }
                Readiness::Waiting => tokio::time::sleep(LOOK_AGAIN).await,
            }
        };
        if let Err(error) = self.begin().await {
            self.not_landed(&due);
            return Err(error);
        }
        match self.try_end(&due, &metadata).await? {
            End::Landed => {
                self.landed(&due);
                Ok(())
            }
            End::NotLanded(reason) => {
                self.not_landed(&due);
                self.abort(&reason).await
            }
            End::Fatal { code, reason, may_have_landed: true } => self.recover(Some(due), code, &reason).await,
            End::Fatal { code, reason, may_have_landed: false } => {
                self.not_landed(&due);
                self.recover(None, code, &reason).await
            }
        }
    }

    async fn try_end(&mut self, due: &Due, metadata: &Arc<ConsumerGroupMetadata>) -> Result<End, SinkError> {
        let committable: Vec<_> = due.iter().map(|(_, due)| due.clone()).collect();
        // Its records are not all delivered before this has been said once without an error: a transaction that is broken says so here.
        'offsets: loop {
            let (list, metadata) = (to_list(&committable, &self.sink.surroundings.logs), metadata.clone());
            let sent = self.call(move |producer| producer.send_offsets_to_transaction(&list, &metadata, CALL_MAX)).await;
            if let Err(error) = sent {
                match Trouble::of(&error) {
                    Trouble::Passing(reason) => self.waits(&reason),
                    Trouble::Abort(reason) => return Ok(End::NotLanded(reason)),
                    Trouble::Fatal(code, reason) => return Ok(End::Fatal { code, reason, may_have_landed: false }),
                }
                tokio::time::sleep(CALL_AGAIN).await;
                continue;
            }
            if let Some(reason) = self.delivered().await? {
                return Ok(End::NotLanded(reason));
            }
            loop {
                let Err(error) = self.call(|producer| producer.commit_transaction(CALL_MAX)).await else {
                    return Ok(End::Landed);
                };
                let is_unsent = !matches!(error, KafkaError::Transaction(_));
                match Trouble::of(&error) {
                    Trouble::Passing(reason) => self.waits(&reason),
                    Trouble::Abort(reason) => return Ok(End::NotLanded(reason)),
                    Trouble::Fatal(code, reason) => return Ok(End::Fatal { code, reason, may_have_landed: true }),
                }
                tokio::time::sleep(CALL_AGAIN).await;
                if is_unsent {
                    continue 'offsets;
                }
            }
        }
    }

    /// Waits until all records are reported, but not for ever: then librdkafka says what is wrong. Its own way to wait, which a commit
    /// begins with, takes a tenth of a second where it has to wait at all. Returns why the transaction cannot be committed any more.
    async fn delivered(&mut self) -> Result<Option<String>, SinkError> {
        let until = Instant::now() + CALL_MAX;
        let broken = |line: &mut Self| line.transaction.as_mut().and_then(|transaction| transaction.broken.take());
        while !self.owed.is_empty() {
            let reports = self.reports.clone();
            let Ok(reports) = tokio::time::timeout_at(until, reports.take()).await else { break };
            self.report(reports)?;
            if let Some(reason) = broken(self) {
                return Ok(Some(reason));
            }
        }
        Ok(None)
    }

    /// The transaction is committed.
    fn landed(&mut self, due: &Due) {
        self.answered();
        let Some(transaction) = &mut self.transaction else { return };
        transaction.offsets.acks.landed(due, std::mem::take(&mut transaction.tokens));
        for (_, due) in due {
            transaction.offsets.metrics.committed(&due.name.topic, due.name.partition, due.offset);
            transaction.condemned.retain(|(name, offset, _), _| *name != due.name || *offset >= due.offset);
        }
        self.sink.surroundings.metrics.outputs.inc_by(transaction.records);
        transaction.close();
        // What they were reported for is settled; late reports find nothing.
        self.owed.clear();
    }

    fn not_landed(&mut self, due: &Due) {
        if let Some(transaction) = &self.transaction {
            transaction.offsets.acks.not_landed(due);
        }
    }

    async fn abandon(&mut self, slot: Slot) -> Result<(), SinkError> {
        let Some(transaction) = &self.transaction else { return Ok(()) };
        let is_in = transaction.tokens.iter().any(|token| token.slot() == slot) || self.owed.values().any(|owed| owed.slot == slot);
        if is_in { self.abort("a partition left, or is read again").await } else { Ok(()) }
    }

    /// A record of the transaction did not arrive. Where it is at fault, it is given up when it comes again.
    pub fn condemn(&mut self, view: View<'_>, code: RDKafkaErrorCode, fate: Fate) {
        let Some(transaction) = &mut self.transaction else { return };
        if let Fate::GiveUp(class, message) = fate
            && transaction.condemned.len() < CONDEMNED_MAX
        {
            transaction.condemned.insert(place(view), (class, message));
        }
        transaction.broken.get_or_insert_with(|| format!("a record did not arrive ({code})"));
    }

    pub async fn abort_if_broken(&mut self) -> Result<(), SinkError> {
        match self.transaction.as_mut().and_then(|transaction| transaction.broken.take()) {
            Some(reason) => self.abort(&reason).await,
            None => Ok(()),
        }
    }

    /// Nothing of the transaction counts; its records are read again.
    pub async fn abort(&mut self, reason: &str) -> Result<(), SinkError> {
        if !self.is_open() {
            return Ok(());
        }
        self.end_at_brokers(reason).await?;
        self.forget_all()
    }

    /// The brokers abort the transaction.
    async fn end_at_brokers(&mut self, reason: &str) -> Result<(), SinkError> {
        tracing::warn!(sink = %self.sink.surroundings.sink, reason, "a transaction is aborted, its records are read again");
        self.sink.surroundings.metrics.retries.inc();
        while self.transaction.as_ref().is_some_and(|transaction| transaction.began.is_some()) {
            let Err(error) = self.call(|producer| producer.abort_transaction(CALL_MAX)).await else { break };
            match Trouble::of(&error) {
                Trouble::Fatal(code, reason) => return self.recover(None, code, &reason).await,
                Trouble::Passing(reason) | Trouble::Abort(reason) => self.waits(&reason),
            }
            tokio::time::sleep(CALL_AGAIN).await;
        }
        // Some reports may say why it was to be aborted; those that come later say that it was.
        let reports = self.reports.take_now();
        self.report(reports)?;
        self.owed.clear();
        if let Some(transaction) = &mut self.transaction {
            transaction.began = None;
        }
        Ok(())
    }

    /// What the transaction holds is to be read again.
    fn forget_all(&mut self) -> Result<(), SinkError> {
        let Some(transaction) = &mut self.transaction else { return Ok(()) };
        for token in transaction.tokens.drain(..) {
            token.rewind("a transaction was aborted");
        }
        transaction.close();
        Ok(())
    }

    /// The producer is of no use any more. A new one takes its place where nobody else has its id; whether the transaction whose offsets are
    /// `due` has landed, the group tells.
    async fn recover(&mut self, due: Option<Due>, code: RDKafkaErrorCode, reason: &str) -> Result<(), SinkError> {
        let is_own = self.transaction.as_ref().is_some_and(|transaction| transaction.is_own);
        let is_fenced =
            matches!(code, RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced | RDKafkaErrorCode::InvalidProducerEpoch);
        if is_refused(code) || (is_fenced && !is_own && !self.is_still_member().await) {
            return Err(self.lasting(code, reason));
        }
        tracing::warn!(sink = %self.sink.surroundings.sink, reason, "the producer is of no use any more, a new one takes its place");
        let reports = self.reports.take_now();
        self.report(reports)?;
        self.owed.clear();
        self.renew()?;
        self.init().await?;
        if let Some(due) = due {
            if self.has_landed(&due).await {
                self.landed(&due);
                return Ok(());
            }
            self.not_landed(&due);
        }
        self.forget_all()
    }

    /// Somebody has this process's transactional id, or its transaction was open for too long: brokers say the same of both. In the first
    /// case the other one has its `instance_id` too, and the group says so at the next sign of life.
    async fn is_still_member(&mut self) -> bool {
        tokio::time::sleep(HEIR_WAIT).await;
        let Some(transaction) = &self.transaction else { return false };
        let member = transaction.offsets.member.clone();
        tokio::task::spawn_blocking(move || member.metadata()).await.is_ok_and(|metadata| metadata.is_some())
    }

    /// Whether the group has the offsets of a transaction whose end is not known. Nobody else commits those of partitions that are still ours.
    async fn has_landed(&mut self, due: &Due) -> bool {
        loop {
            let Some(transaction) = &self.transaction else { return false };
            let (acks, member) = (transaction.offsets.acks.clone(), transaction.offsets.member.clone());
            let ours: Vec<_> = due.iter().filter(|(slot, _)| acks.is_assigned(*slot)).map(|(_, due)| due.clone()).collect();
            if ours.is_empty() {
                return false;
            }
            let names: Vec<TopicPartition> = ours.iter().map(|due| due.name.clone()).collect();
            let asked = tokio::task::spawn_blocking(move || member.committed(names.iter()));
            match asked.await.unwrap_or_else(|error| Err(error.to_string())) {
                Ok(found) => return ours.iter().any(|due| found.get(&due.name).is_some_and(|offset| *offset >= due.offset)),
                Err(reason) => self.waits(&reason),
            }
            tokio::time::sleep(CALL_AGAIN).await;
        }
    }

    /// Makes a call that blocks.
    async fn call<T: Send + 'static>(&self, call: impl FnOnce(&Producer) -> KafkaResult<T> + Send + 'static) -> KafkaResult<T> {
        let producer = self.producer.clone();
        tokio::task::spawn_blocking(move || call(&producer)).await.unwrap_or(Err(KafkaError::Canceled))
    }

    /// What only the user can mend.
    fn lasting(&self, code: RDKafkaErrorCode, reason: &str) -> SinkError {
        let id = self.transaction.as_ref().map_or("", Transaction::id);
        self.environment(match code {
            RDKafkaErrorCode::TransactionalIdAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed => {
                format!("the brokers let this login not use the transactional id {id:?} ({reason}): grant it WRITE and DESCRIBE on it")
            }
            RDKafkaErrorCode::InvalidTransactionTimeout => format!(
                "the brokers do not take a transaction timeout as long as this ({reason}): shorten `timeout` in `transaction`, or raise their \
                 transaction.max.timeout.ms"
            ),
            RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced | RDKafkaErrorCode::InvalidProducerEpoch => format!(
                "another process has taken the transactional id {id:?} over, and this one's place in the group ({reason}): nothing that this \
                 process had not committed counts; see that no two processes have the same `instance_id`"
            ),
            _ => format!("no transactions: {reason}"),
        })
    }
}

fn is_refused(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::TransactionalIdAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::InvalidTransactionTimeout
    )
}

impl Transaction {
    /// Nothing is in it any more.
    fn close(&mut self) {
        (self.began, self.records, self.bytes, self.broken, self.is_void) = (None, 0, 0, None, false);
        self.ended = Instant::now();
    }
}
