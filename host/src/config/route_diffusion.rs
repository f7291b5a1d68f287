//! What a route may not ask of a Diffusion source: there are no consumer groups, no offsets, and values are no Avro.
//!
//! Invariant: a key that would be ignored is refused.

use super::check::RouteCheck;
use super::diffusion::check_selector;
use super::problem::{Fault, Problem};
use super::route::{KeyFormat, Topics, TopicsWritten, ValueFormat};
use super::text::Name;
use super::{Sink, Source};
use crate::sink;

/// Keys of a route that mean nothing without a log and a consumer group.
const WITHOUT_MEANING: [(&str, &str); 6] = [
    ("group", "a Diffusion source is read without a consumer group"),
    ("start", "a Diffusion source begins with the value that each topic has"),
    ("out_of_range", "topics of a Diffusion server have no offsets"),
    ("commit_interval", "nothing is committed to a Diffusion server"),
    ("after_dead_letter", "which keys have dead letters is kept beside the offsets of a consumer group"),
    ("revoke_deadline", "topics of a Diffusion server are not shared with other processes"),
];

impl RouteCheck<'_, '_, '_> {
    /// The selectors that stand in the place of topics.
    pub(super) fn selectors(&mut self) -> Option<Topics> {
        let Some(topics) = &self.named.value.topics else {
            self.missing("topics", "add topics = [\"?shop//\"]: topic selectors of the server");
            return None;
        };
        let list = match topics.get_ref() {
            TopicsWritten::Regex(pattern) => {
                let help = "write a list of topic selectors: [\"?shop//\"] for a branch, [\"*^shop/.*\"] for a regular expression";
                self.problems.push(Problem::error(pattern.span(), "topics of a Diffusion server are chosen by selectors", help));
                return None;
            }
            TopicsWritten::List(list) => list,
        };
        if list.is_empty() {
            self.problems.push(Problem::error(topics.span(), "there is no topic selector", "name at least one, such as \"?shop//\""));
        }
        for (index, selector) in list.iter().enumerate() {
            if let Some((wrong, remedy)) = check_selector(selector.get_ref()) {
                self.problems.push(Problem::error(selector.span(), wrong, remedy));
            } else if list[..index].iter().any(|before| before.get_ref() == selector.get_ref()) {
                self.problems.push(Problem::error(
                    selector.span(),
                    format!("the topic selector {:?} is there twice", selector.get_ref()),
                    "remove one",
                ));
            }
        }
        Some(Topics::List(list.iter().map(|selector| selector.get_ref().clone()).collect()))
    }

    /// What is refused or odd in a route from the Diffusion source `from`.
    pub(super) fn diffusion(&mut self, from: &Name) {
        for (key, wrong) in WITHOUT_MEANING {
            if self.named.part.has(key) {
                self.fault(Fault::new(key, wrong, "leave it out"));
            }
        }
        let route = &self.named.value;
        if let Some(value) = route.value.as_ref().filter(|value| *value.get_ref() == ValueFormat::Avro) {
            let help = "write \"json\"; \"raw\" gives the bytes as the server keeps them";
            self.problems.push(Problem::error(value.span(), "values of Diffusion topics are no Avro", help));
        }
        if matches!(route.key, KeyFormat::Avro | KeyFormat::Json) {
            self.fault(Fault::new("key", "the key of a record is its topic path: a text", "leave it out, or write \"string\""));
        }
        self.sinks_of_diffusion(from);
    }

    fn sinks_of_diffusion(&mut self, from: &Name) {
        let named = self.named;
        let source = self.written.sources.get(from).map(|source| &source.value);
        for sink in named.value.to.iter().flat_map(|to| to.get_ref()) {
            let Some(written) = self.written.sinks.get(sink.get_ref().as_str()) else { continue };
            match (&written.value, source) {
                (Sink::Kafka(config), _) if config.partition == sink::kafka::Partition::Same => {
                    let message = format!("the sink `{}` keeps numbers of partitions, and topics of Diffusion have none", sink.get_ref());
                    let problem = Problem::error(sink.span(), message, "leave partition = \"same\" out of the sink");
                    self.problems.push(problem.beside(written.part.place(&["partition".to_owned()]), "here"));
                }
                (Sink::Diffusion(config), Some(Source::Diffusion(source))) if config.url == source.url => {
                    let message = format!("the sink `{}` writes to the server that the route reads", sink.get_ref());
                    let help = "see to it that no topic selector of the route selects what the sink writes: it would never end";
                    self.problems.push(Problem::warning(sink.span(), message, help));
                }
                _ => {}
            }
        }
    }
}
