//! The topics of the server, and who listens to them.
//!
//! Invariant: a session gets the subscription before the first value, every value in the order of the updates, and nothing after the
//! unsubscription. Pure state: messages go into the sessions' channels, nothing here waits.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::selector::{Selector, SelectorError};
use crate::diffusion::service::{Constraint, Request, Specification, TopicType};
use crate::diffusion::session::Refused;
use crate::diffusion::{delta, message, path};

/// Sent back where a topic is to be set that is not there.
const NO_SUCH_TOPIC: i32 = 503;
const WRONG_TYPE: i32 = 500;
const OTHER_SPECIFICATION: i32 = 9004;
const INVALID_PATH: i32 = 9005;
const INVALID_SELECTOR: i32 = 202;
const UNSATISFIED: i32 = 9012;
const REMOVED: u8 = 2;
const REQUESTED: u8 = 0;

/// One topic.
#[derive(Debug)]
struct Topic {
    id: i32,
    specification: Specification,
    value: Option<Bytes>,
    listeners: HashSet<u64>,
}

#[derive(Debug)]
struct Listener {
    messages: mpsc::Sender<Bytes>,
    selectors: Vec<Selector>,
    /// It is too slow: it gets nothing more, and its connection ends.
    is_behind: bool,
}

/// All topics and sessions.
#[derive(Debug, Default)]
pub struct Topics {
    topics: BTreeMap<String, Topic>,
    listeners: HashMap<u64, Listener>,
    last_id: i32,
}

fn refused(code: i32, message: impl Into<String>) -> Refused {
    Refused { code, message: message.into() }
}

impl From<SelectorError> for Refused {
    fn from(error: SelectorError) -> Self {
        refused(INVALID_SELECTOR, error.to_string())
    }
}

impl Topics {
    /// A session begins; `messages`: the way to it.
    pub fn enter(&mut self, session: u64, messages: mpsc::Sender<Bytes>) {
        self.listeners.insert(session, Listener { messages, selectors: Vec::new(), is_behind: false });
    }

    /// A session ended.
    pub fn leave(&mut self, session: u64) {
        if self.listeners.remove(&session).is_some_and(|listener| !listener.selectors.is_empty()) {
            for topic in self.topics.values_mut() {
                topic.listeners.remove(&session);
            }
        }
    }

    /// All sessions ended.
    pub fn leave_all(&mut self) {
        self.listeners.clear();
        for topic in self.topics.values_mut() {
            topic.listeners.clear();
        }
    }

    /// Whether the session is too slow for what it subscribed to.
    pub fn is_behind(&self, session: u64) -> bool {
        self.listeners.get(&session).is_some_and(|listener| listener.is_behind)
    }

    /// How many topics there are.
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// The value of a topic.
    pub fn value(&self, path: &str) -> Option<Bytes> {
        self.topics.get(path)?.value.clone()
    }

    /// What a topic is.
    pub fn specification(&self, path: &str) -> Option<Specification> {
        Some(self.topics.get(path)?.specification.clone())
    }

    /// Up to `limit` topics in the order of their paths, from behind `after` on: path and value.
    pub fn list(&self, after: &str, limit: usize) -> Vec<(String, Option<Bytes>)> {
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        self.topics.range::<str, _>(behind).take(limit).map(|(path, topic)| (path.clone(), topic.value.clone())).collect()
    }

    /// Creates a topic; whether it was not there.
    ///
    /// # Errors
    /// As the server refuses it.
    pub fn add(&mut self, path: &str, specification: &Specification) -> Result<bool, Refused> {
        path::check(path).map_err(|error| refused(INVALID_PATH, error.to_string()))?;
        if let Some(topic) = self.topics.get(path) {
            let same = topic.specification == *specification;
            return if same { Ok(false) } else { Err(refused(OTHER_SPECIFICATION, "Topic exists with other specification")) };
        }
        self.last_id += 1;
        let mut topic = Topic { id: self.last_id, specification: specification.clone(), value: None, listeners: HashSet::new() };
        for (session, listener) in &mut self.listeners {
            if listener.selectors.iter().any(|selector| selector.selects(path)) {
                topic.listeners.insert(*session);
                listener.tell_of(path, &topic);
            }
        }
        self.topics.insert(path.to_owned(), topic);
        Ok(true)
    }

    /// Sets a topic's value.
    ///
    /// # Errors
    /// As the server refuses it.
    pub fn set(&mut self, path: &str, kind: TopicType, value: &[u8], constraint: Constraint<'_>) -> Result<(), Refused> {
        let topic = self.topics.get_mut(path).ok_or_else(|| refused(NO_SUCH_TOPIC, "No such topic"))?;
        if topic.specification.kind != kind {
            return Err(refused(WRONG_TYPE, "Incompatible type"));
        }
        let is_satisfied = match constraint {
            Constraint::None => true,
            Constraint::Value(wanted) => topic.value.as_deref() == Some(wanted),
            Constraint::NoValue => topic.value.is_none(),
            Constraint::NoTopic => false,
        };
        if !is_satisfied {
            return Err(refused(UNSATISFIED, "Unsatisfied constraint"));
        }
        let retains = !topic.specification.is("DONT_RETAIN_VALUE");
        // An unchanged value is no update.
        if retains && topic.value.as_deref() == Some(value) {
            return Ok(());
        }
        if !topic.listeners.is_empty() {
            let message = topic.update(value);
            topic.listeners.retain(|session| self.listeners.get_mut(session).is_some_and(|listener| listener.send(message.clone())));
        }
        if retains {
            topic.value = Some(Bytes::copy_from_slice(value));
        }
        Ok(())
    }

    /// Creates a topic where there is none, and sets its value; whether it was not there.
    ///
    /// # Errors
    /// As the server refuses it.
    pub fn add_and_set(
        &mut self,
        path: &str,
        specification: &Specification,
        value: &[u8],
        constraint: Constraint<'_>,
    ) -> Result<bool, Refused> {
        if constraint == Constraint::NoTopic && self.topics.contains_key(path) {
            return Err(refused(UNSATISFIED, "Unsatisfied constraint"));
        }
        let created = self.add(path, specification)?;
        let constraint = if constraint == Constraint::NoTopic { Constraint::None } else { constraint };
        self.set(path, specification.kind, value, constraint)?;
        Ok(created)
    }

    /// Removes topics; how many.
    ///
    /// # Errors
    /// Where the selector is none.
    pub fn remove(&mut self, selector: &str) -> Result<i32, Refused> {
        let selected = match Selector::parse(selector)? {
            // The common case must not look at all topics.
            Selector::Path(path) => Vec::from_iter(self.topics.contains_key(&path).then_some(path)),
            selector => self.topics.keys().filter(|path| selector.selects(path)).cloned().collect(),
        };
        for path in &selected {
            let Some(topic) = self.topics.remove(path) else { continue };
            for session in &topic.listeners {
                if let Some(listener) = self.listeners.get_mut(session) {
                    listener.send(unsubscription(topic.id, REMOVED));
                }
            }
        }
        Ok(selected.len() as i32)
    }

    /// A session wants topics: those that are there, and those to come.
    ///
    /// # Errors
    /// Where the selector is none.
    pub fn subscribe(&mut self, session: u64, selector: &str) -> Result<(), Refused> {
        let selector = Selector::parse(selector)?;
        let Some(listener) = self.listeners.get_mut(&session) else { return Ok(()) };
        for (path, topic) in &mut self.topics {
            if selector.selects(path) && topic.listeners.insert(session) {
                listener.tell_of(path, topic);
            }
        }
        listener.selectors.push(selector);
        Ok(())
    }

    /// A session does not want topics any more. What it subscribed to otherwise goes on only for topics that were not selected now.
    ///
    /// # Errors
    /// Where the selector is none.
    pub fn unsubscribe(&mut self, session: u64, selector: &str) -> Result<(), Refused> {
        let parsed = Selector::parse(selector)?;
        let Some(listener) = self.listeners.get_mut(&session) else { return Ok(()) };
        for (path, topic) in &mut self.topics {
            if parsed.selects(path) && topic.listeners.remove(&session) {
                listener.send(unsubscription(topic.id, REQUESTED));
            }
        }
        listener.selectors.retain(|known| format!("{known:?}") != format!("{parsed:?}"));
        Ok(())
    }
}

impl Topics {
    /// All sessions lose their subscription to a topic.
    pub fn unsubscribe_all(&mut self, path: &str, reason: u8) {
        let Some(topic) = self.topics.get_mut(path) else { return };
        for session in topic.listeners.drain() {
            if let Some(listener) = self.listeners.get_mut(&session) {
                listener.send(unsubscription(topic.id, reason));
            }
        }
    }
}

impl Topic {
    /// What listeners get: the whole value, or a delta where that is shorter and they have the value before.
    fn update(&self, value: &[u8]) -> Bytes {
        if let Some(old) = self.value.as_deref().filter(|_| !self.specification.is("PUBLISH_VALUES_ONLY")) {
            let delta = delta::make(old, value);
            if delta.len() < value.len() {
                return message::Message::Delta { topic: self.id, bytes: delta.into() }.encode().into();
            }
        }
        message::Message::Value { topic: self.id, bytes: Bytes::copy_from_slice(value) }.encode().into()
    }
}

impl Listener {
    /// Whether it could be told; afterwards it is behind.
    fn send(&mut self, message: Bytes) -> bool {
        let sent = !self.is_behind && self.messages.try_send(message).is_ok();
        self.is_behind |= !sent;
        sent
    }

    fn tell_of(&mut self, path: &str, topic: &Topic) {
        let subscription = Request::NotifySubscription { topic: topic.id, path, specification: topic.specification.clone() };
        self.send(message::request(subscription.service(), 0, |out| subscription.write(out)).into());
        if let Some(value) = &topic.value {
            self.send(message::Message::Value { topic: topic.id, bytes: value.clone() }.encode().into());
        }
    }
}

fn unsubscription(topic: i32, reason: u8) -> Bytes {
    let notification = Request::NotifyUnsubscription { topic, reason };
    message::request(notification.service(), 0, |out| notification.write(out)).into()
}
