//! The producer and what it reports: which records are durable, and what keeps it from its brokers.
//!
//! Invariant: every record that was handed over is reported once, unless the producer is dropped.

use std::sync::Arc;

use parking_lot::Mutex;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::Notify;

use super::Config;
use crate::observe::SinkMetrics;
use crate::source::kafka::client::{Credentials, Login};

/// How one record ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Number of its piece.
    pub number: u32,
    /// Position in the list of outputs.
    pub index: u32,
    /// Why it did not.
    pub error: Option<RDKafkaErrorCode>,
}

/// Reports that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Reports {
    list: Mutex<Vec<Report>>,
    came: Notify,
}

impl Reports {
    /// Takes those that are there.
    pub fn take_now(&self) -> Vec<Report> {
        std::mem::take(&mut *self.list.lock())
    }

    /// Waits until there are some, and takes them. Cancel safe.
    pub async fn take(&self) -> Vec<Report> {
        loop {
            let came = self.came.notified();
            let list = self.take_now();
            if !list.is_empty() {
                return list;
            }
            came.await;
        }
    }
}

/// What librdkafka calls back into.
pub struct Context {
    reports: Arc<Reports>,
    login: Login,
    metrics: SinkMetrics,
}

/// The producer of a sink.
pub type Producer = ThreadedProducer<Context>;

/// A producer, its reports, and what is known of its connection. `transactional_id`: one of transactions.
pub fn start(config: &Config, transactional_id: Option<&str>, metrics: &SinkMetrics) -> KafkaResult<(Producer, Arc<Reports>, Login)> {
    let credentials = Credentials::of(&config.security);
    let login = Login::new(&config.brokers.join(","), metrics.part(), metrics.all().clone(), credentials);
    let reports = Arc::<Reports>::default();
    let context = Context { reports: reports.clone(), login: login.clone(), metrics: metrics.clone() };
    Ok((Producer::from_config_and_context(&config.client(transactional_id), context)?, reports, login))
}

/// Number of the piece and position of the output in one word, which librdkafka carries for us.
pub fn mark(number: u32, index: u32) -> usize {
    const { assert!(usize::BITS == 64, "two numbers of 32 bits fit") };
    (number as usize) << 32 | index as usize
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, fac: &str, text: &str) {
        self.login.log(level, fac, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.login.error(&error, reason);
        if let Some(trouble) = self.login.trouble() {
            self.metrics.down(&trouble.text);
        }
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.login.token()
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, mark: usize) {
        let error = result.as_ref().err().map(|(error, _)| error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail));
        let mut list = self.reports.list.lock();
        list.push(Report { number: (mark >> 32) as u32, index: mark as u32, error });
        let is_first = list.len() == 1;
        drop(list);
        if is_first {
            self.reports.came.notify_one();
        }
    }
}
