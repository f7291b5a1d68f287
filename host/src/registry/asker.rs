//! A registry as one route asks it: the answers that decoding decides by.
//!
//! Invariant: subjects and versions are asked for only where a plugin of the route wants them.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Outcome, Place, Refusal, Registry};
use crate::decode::{Answer, Ask};

/// Tells whether a topic is one of the route's.
pub type IsOurs = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Asks a registry for one route.
pub struct Asker {
    registry: Registry,
    versions: Option<IsOurs>,
}

impl Asker {
    /// Asks `registry`; with `versions`, for subject and version too. One schema may stand under several subjects: that of a topic of
    /// the route counts first, else the first by name.
    pub fn new(registry: Registry, versions: Option<IsOurs>) -> Self {
        Asker { registry, versions }
    }

    async fn answer(&self, id: u32) -> Answer {
        let registered = match self.registry.fetch(id).await {
            Outcome::Found(registered) => registered,
            Outcome::NotThere => return Answer::NotThere,
            Outcome::Unusable(reason) => return Answer::Unusable(reason),
            Outcome::Unavailable { reason, .. } => return Answer::Unavailable(reason),
        };
        let Some(is_ours) = &self.versions else { return Answer::Found(registered.schema.clone(), None) };
        match self.registry.places(&registered).await {
            Ok(places) => {
                let place = choose(&places, is_ours.as_ref());
                Answer::Found(registered.schema.clone(), place.map(|place| (place.subject.clone(), place.version)))
            }
            // It was there a moment ago: what it says of its places now is no reason to give up records.
            Err(Refusal::NotThere | Refusal::Unusable(_)) => Answer::Found(registered.schema.clone(), None),
            Err(Refusal::Unavailable(reason)) => Answer::Unavailable(reason),
        }
    }
}

impl Ask for Asker {
    fn ask(&self, id: u32) -> BoxFuture<'_, Answer> {
        self.answer(id).boxed()
    }
}

/// The place that is meant: subjects are named after topics by default (`TopicNameStrategy`). Within a subject the last version counts.
fn choose<'a>(places: &'a [Place], is_ours: &dyn Fn(&str) -> bool) -> Option<&'a Place> {
    let topic = |place: &Place| {
        let subject = place.subject.as_str();
        subject.strip_suffix("-value").or_else(|| subject.strip_suffix("-key")).map(str::to_owned)
    };
    let chosen = places.iter().find(|place| topic(place).is_some_and(|topic| is_ours(&topic))).or(places.first())?;
    places.iter().rfind(|place| place.subject == chosen.subject)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subject_of_a_topic_of_the_route_counts_first_and_its_last_version() {
        let place = |subject: &str, version| Place { subject: subject.to_owned(), version };
        let places = [place("copies-value", 7), place("orders-value", 1), place("orders-value", 3)];
        assert_eq!(choose(&places, &|topic| topic == "orders"), Some(&places[2]));
        assert_eq!(choose(&places, &|_| false), Some(&places[0]));
        assert_eq!(choose(&[], &|_| true), None);
    }
}
