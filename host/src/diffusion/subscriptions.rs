//! The topics that a session is subscribed to, with the values that deltas count from.
//!
//! Invariant: a value that is given is what the server has: a delta that does not fit the value before it is an error, never a guess.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::delta::{self, DeltaError};
use super::service::{Reason, Specification};
use super::session::Event;

/// One topic.
#[derive(Debug)]
struct Topic {
    path: Arc<str>,
    specification: Arc<Specification>,
    value: Option<Bytes>,
}

/// What happened to a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// It was subscribed to; its value follows where it has one.
    Subscribed(Arc<str>, Arc<Specification>),
    /// It has a new value.
    Value(Arc<str>, Arc<Specification>, Bytes),
    /// There will be no more values.
    Unsubscribed(Arc<str>, Reason),
}

/// All topics of a session.
#[derive(Debug, Default)]
pub struct Subscriptions(HashMap<i32, Topic>);

impl Subscriptions {
    /// What an event says of a topic; `None`: nothing, or of a topic that is not known any more.
    ///
    /// # Errors
    /// Where a delta does not fit: only a new subscription mends that.
    pub fn take<T>(&mut self, event: Event<T>) -> Result<Option<Update>, DeltaError> {
        Ok(match event {
            Event::Answer { .. } => None,
            Event::Subscribed { topic, path, specification } => {
                let (path, specification): (Arc<str>, _) = (path.into(), Arc::new(specification));
                self.0.insert(topic, Topic { path: path.clone(), specification: specification.clone(), value: None });
                Some(Update::Subscribed(path, specification))
            }
            Event::Unsubscribed { topic, reason } => self.0.remove(&topic).map(|topic| Update::Unsubscribed(topic.path, reason)),
            Event::Value { topic, bytes } => self.0.get_mut(&topic).map(|topic| topic.set(bytes)),
            Event::Delta { topic, bytes } => match self.0.get_mut(&topic) {
                None => None,
                Some(topic) => {
                    let new = delta::apply(topic.value.as_deref().unwrap_or_default(), &bytes)?;
                    Some(topic.set(new.into()))
                }
            },
        })
    }
}

impl Topic {
    fn set(&mut self, value: Bytes) -> Update {
        self.value = Some(value.clone());
        Update::Value(self.path.clone(), self.specification.clone(), value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::service::TopicType;
    use crate::diffusion::wire::hex;

    #[test]
    fn deltas_are_applied_to_the_value_of_their_topic() {
        let mut subscriptions = Subscriptions::default();
        let specification = Specification::new(TopicType::JSON);
        let mut take = |event: Event<()>| subscriptions.take(event);
        let path: Arc<str> = "py/json".into();
        let subscribed = Event::Subscribed { topic: 1, path: "py/json".into(), specification: specification.clone() };
        assert_eq!(take(subscribed), Ok(Some(Update::Subscribed(path.clone(), specification.clone().into()))));
        let value = |text: &str| Ok(Some(Update::Value(path.clone(), specification.clone().into(), hex(text).into())));
        let (first, second) = ("bf61610161629ff93e00f6f56178ffff", "bf61610261629ff93e00f6f56178ffff");
        assert_eq!(take(Event::Value { topic: 1, bytes: hex(first).into() }), value(first));
        assert_eq!(take(Event::Delta { topic: 1, bytes: hex("00 03 41 02 04 0c").into() }), value(second));
        assert_eq!(take(Event::Delta { topic: 2, bytes: hex("f6").into() }), Ok(None), "a topic that is not known");
        assert!(take(Event::Delta { topic: 1, bytes: hex("00 40").into() }).is_err());
        let ended = Event::Unsubscribed { topic: 1, reason: Reason::Removed };
        assert_eq!(take(ended), Ok(Some(Update::Unsubscribed(path.clone(), Reason::Removed))));
        assert_eq!(take(Event::Value { topic: 1, bytes: hex(first).into() }), Ok(None));
    }
}
