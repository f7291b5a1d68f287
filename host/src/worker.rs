//! A worker: one thread that decides the records of its partitions.
//!
//! Invariant (I6): the batches of one partition are decided and handed to the sinks in order, also while some wait for a schema.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, mpsc};

use crate::ack::Slot;
use crate::config::OnError;
use crate::decode::Resolver;
use crate::ordered;
use crate::output::{Formats, Output, Outputs, SinkSet};
use crate::plugin::{Chain, Outcome};
use crate::route::Router;
use crate::schemas::Schemas;
use crate::source::work::{Work, WorkerMessage};
use crate::stop::{Stop, StopReason};

/// A worker of a route.
pub struct Worker {
    /// What it is told.
    pub inbox: mpsc::Receiver<WorkerMessage>,
    /// How keys and values are to be read.
    pub formats: Formats,
    /// Finds schemas.
    pub resolver: Arc<Resolver>,
    /// Schemas of the route.
    pub schemas: Arc<Schemas>,
    /// Its instances of the route's plugins.
    pub chain: Chain,
    /// Where outputs go.
    pub router: Router,
    /// Where later records follow a dead letter of their key: name and actions of the route.
    pub ordered: Option<(Arc<str>, OnError)>,
    /// Stops the route.
    pub stop: Stop,
}

impl Worker {
    /// Works until all senders of its inbox are gone.
    pub fn run(mut self) {
        let mut parked: HashMap<Slot, VecDeque<Work>> = HashMap::new();
        while let Ok(message) = self.inbox.recv() {
            match message {
                WorkerMessage::Work(work) => match parked.get_mut(&work.slot) {
                    Some(waiting) => waiting.push_back(work),
                    None => {
                        if let Some(waiting) = self.decide(work) {
                            parked.insert(waiting.slot, VecDeque::from([waiting]));
                        }
                    }
                },
                WorkerMessage::SchemaAnswered => {
                    parked = parked.into_iter().filter_map(|(slot, waiting)| Some((slot, self.go_on(waiting)?))).collect();
                }
                WorkerMessage::Forget(_, name) => {
                    parked.retain(|_, waiting| waiting.front().is_some_and(|work| work.token.is_current()));
                    self.chain.forget(&name);
                }
            }
            if self.stop.is_stopped() {
                // Whatever comes now is not decided any more; its tokens hold the commit back.
                parked.clear();
            }
        }
    }

    /// Decides what waited; returns what still has to wait.
    fn go_on(&mut self, mut waiting: VecDeque<Work>) -> Option<VecDeque<Work>> {
        while let Some(work) = waiting.pop_front() {
            if let Some(work) = self.decide(work) {
                waiting.push_front(work);
                return Some(waiting);
            }
        }
        None
    }

    /// Decides a batch and hands it on; gives it back where a schema is being asked for.
    fn decide(&mut self, mut work: Work) -> Option<Work> {
        if !work.token.is_current() {
            return None;
        }
        let Some(mut letters) = self.resolver.resolve(&mut work.batch, self.formats) else { return Some(work) };
        let Work { batch, token, letters: given_up, .. } = work;
        if !given_up.is_empty() {
            letters.extend(given_up);
            letters.sort_by_key(|letter| letter.record);
            letters.dedup_by_key(|letter| letter.record);
        }
        let all = SinkSet::first(self.router.sinks.len());
        let mut outputs = Outputs::unchanged(Arc::new(batch), self.formats, self.schemas.snapshot(), all);
        if !letters.is_empty() {
            let bad = |output: &Output| letters.binary_search_by_key(&output.input, |letter| letter.record).is_ok();
            outputs.list.retain(|output| !bad(output));
        }
        let mut decided = self.chain.run(outputs);
        match decided.outcome {
            Outcome::Done => {
                letters.extend(decided.letters);
                letters.sort_by_key(|letter| letter.record);
                if let Some((route, on_error)) = &self.ordered
                    && let Err(text) = ordered::follow(route, &token, on_error, &mut decided.outputs, &mut letters)
                {
                    self.stop.stop(StopReason::DeadLetter(text));
                    return None;
                }
                self.router.route(token, decided.outputs, &letters);
            }
            Outcome::Retry(message) => {
                tracing::warn!(message, "a plugin wants the same records again");
                token.rewind("a plugin wants the same records again");
            }
            Outcome::Stop(message) => {
                self.stop.stop(StopReason::Broken(message));
                drop(token);
            }
        }
        None
    }
}
