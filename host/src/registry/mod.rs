//! Schema registries: schemas by their ids, asked for once and then kept.
//!
//! Invariant: a schema is reported missing only if the registry is there and says so. While it does not answer, schemas that are
//! kept go on being found, and whoever needs another one waits; that is the caller's decision.

mod asker;
mod cache;
mod client;

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::Instant;

pub use asker::{Asker, IsOurs};
pub use cache::Cache;
pub use client::{Client, Definition, Place, Reference, Refusal};

use crate::config::Registry as Config;
use crate::observe::Metrics;
use crate::value::Schema;

/// Requests at the same time to one registry: enough to be quick at a start with many schemas, few enough to be no burden.
const REQUESTS_MAX: usize = 16;

/// A schema and its id.
#[derive(Debug)]
pub struct Registered {
    /// The registry's id.
    pub id: u32,
    /// The schema.
    pub schema: Arc<Schema>,
    places: OnceCell<Arc<[Place]>>,
}

impl Registered {
    fn new(id: u32, schema: Schema) -> Self {
        Registered { id, schema: Arc::new(schema), places: OnceCell::new() }
    }

    #[cfg(test)]
    fn of_text(id: u32, definition: &str) -> Self {
        Registered::new(id, Schema::avro(definition, &[]).unwrap())
    }
}

/// What a registry says of an id.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The schema.
    Found(Arc<Registered>),
    /// The registry is sure that it has none.
    NotThere,
    /// It is there and cannot be used: why.
    Unusable(String),
    /// No answer that means anything; ask again later.
    Unavailable {
        /// What is wrong, and the remedy.
        reason: String,
        /// Since when there is no answer.
        since: Instant,
    },
}

/// One registry, shared by all routes that use it; clones share it.
#[derive(Debug, Clone)]
pub struct Registry(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: Client,
    /// Its name in readiness and logs.
    part: String,
    metrics: Metrics,
    cache: Cache,
    /// Questions that are under way. An entry whose askers are gone is dead.
    asked: Mutex<HashMap<u32, Weak<Question>>>,
    requests: Semaphore,
    down_since: Mutex<Option<Instant>>,
}

type Question = OnceCell<Result<Arc<Registered>, Refusal>>;

impl Registry {
    /// The registry `[registry.name]`; it contacts nobody yet.
    ///
    /// # Errors
    /// Certificates that cannot be read, in words for the user.
    pub fn new(name: &str, config: &Config, metrics: Metrics) -> Result<Self, String> {
        let client = Client::new(config).map_err(|reason| format!("registry {name:?}: {reason}"))?;
        Ok(Registry(Arc::new(Shared {
            client,
            part: format!("registry {name:?}"),
            metrics,
            cache: Cache::new(config.cache_max as usize),
            asked: Mutex::default(),
            requests: Semaphore::new(REQUESTS_MAX),
            down_since: Mutex::default(),
        })))
    }

    /// A schema that is kept already; never waits for the network.
    pub fn lookup(&self, id: u32) -> Option<Arc<Registered>> {
        self.0.cache.get(id)
    }

    /// The schema of an id, from memory or from the registry. Whoever asks for the same id meanwhile gets the same answer from the
    /// same request. Cancel safe: another asker goes on.
    pub async fn fetch(&self, id: u32) -> Outcome {
        if let Some(schema) = self.lookup(id) {
            return Outcome::Found(schema);
        }
        let question = self.question(id);
        let answer = question.get_or_init(|| self.ask(id)).await;
        self.outcome(answer.clone())
    }

    /// The subjects and versions of a schema, sorted: asked for once and kept with it. Empty where the registry does not tell. Cancel safe.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`], or [`Refusal::NotThere`] for a schema that was deleted meanwhile.
    pub async fn places(&self, registered: &Registered) -> Result<Arc<[Place]>, Refusal> {
        let ask = async || {
            let _request = self.request().await;
            let places = self.0.client.places(registered.id).await;
            self.note(places.as_ref().err());
            places.map(Arc::from)
        };
        registered.places.get_or_try_init(ask).await.cloned()
    }

    /// Registers a schema under a subject and gives its id.
    ///
    /// # Errors
    /// [`Refusal::Unusable`] where the registry refuses it, [`Refusal::Unavailable`] otherwise.
    pub async fn register(&self, subject: &str, definition: &Definition) -> Result<u32, Refusal> {
        let _request = self.request().await;
        let registered = self.0.client.register(subject, definition).await;
        self.note(registered.as_ref().err());
        registered
    }

    /// The id that a schema has under a subject; registers nothing.
    ///
    /// # Errors
    /// [`Refusal::NotThere`] where the subject does not have it; otherwise as [`Registry::register`].
    pub async fn look_up(&self, subject: &str, definition: &Definition) -> Result<u32, Refusal> {
        let _request = self.request().await;
        let found = self.0.client.look_up(subject, definition).await;
        self.note(found.as_ref().err());
        found
    }

    /// The text of an id's schema as the registry keeps it, with what it refers to.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`], or [`Refusal::NotThere`].
    pub async fn definition(&self, id: u32) -> Result<Definition, Refusal> {
        let _request = self.request().await;
        let definition = self.0.client.definition(id).await;
        self.note(definition.as_ref().err());
        definition
    }

    /// Whether the registry answers now.
    ///
    /// # Errors
    /// What is wrong, in words for the user.
    pub async fn probe(&self) -> Result<(), String> {
        let _request = self.request().await;
        let answer = self.0.client.probe().await;
        self.note(answer.as_ref().err());
        answer.map_err(|refusal| refusal.to_string())
    }

    async fn ask(&self, id: u32) -> Result<Arc<Registered>, Refusal> {
        // It may have come between the first look and this question.
        if let Some(schema) = self.lookup(id) {
            return Ok(schema);
        }
        let _request = self.request().await;
        let answer = self.0.client.schema(id).await;
        self.note(answer.as_ref().err());
        let schema = Arc::new(Registered::new(id, answer?));
        self.0.cache.insert(schema.clone());
        Ok(schema)
    }

    fn question(&self, id: u32) -> Arc<Question> {
        let mut asked = self.0.asked.lock();
        if let Some(question) = asked.get(&id).and_then(Weak::upgrade) {
            return question;
        }
        asked.retain(|_, question| question.strong_count() > 0);
        let question = Arc::new(Question::new());
        asked.insert(id, Arc::downgrade(&question));
        question
    }

    async fn request(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.0.requests.acquire().await.expect("nobody closes it")
    }

    /// Remembers whether the registry answers, and logs a change of that once.
    fn note(&self, refusal: Option<&Refusal>) {
        let part = &self.0.part;
        let mut down_since = self.0.down_since.lock();
        match refusal {
            Some(Refusal::Unavailable(reason)) => {
                down_since.get_or_insert_with(Instant::now);
                if self.0.metrics.part_down(part, reason) {
                    tracing::warn!(%part, reason, "unavailable, known schemas go on, others wait");
                }
            }
            None | Some(Refusal::NotThere | Refusal::Unusable(_)) => {
                *down_since = None;
                if self.0.metrics.part_up(part) {
                    tracing::info!(%part, "up again");
                }
            }
        }
    }

    fn outcome(&self, answer: Result<Arc<Registered>, Refusal>) -> Outcome {
        match answer {
            Ok(schema) => Outcome::Found(schema),
            Err(Refusal::NotThere) => Outcome::NotThere,
            Err(Refusal::Unusable(reason)) => Outcome::Unusable(reason),
            Err(Refusal::Unavailable(reason)) => {
                let since = self.0.down_since.lock().unwrap_or_else(Instant::now);
                Outcome::Unavailable { reason, since }
            }
        }
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;
