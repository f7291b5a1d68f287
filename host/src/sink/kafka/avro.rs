//! Ids of schemas at the registry that a topic's readers ask: registered, or looked up, under the subject that they expect.
//!
//! Invariant: an id is the registry's own answer for this subject and this schema. A definite refusal is kept for a while and gives records
//! up; while the registry does not answer, nothing is decided.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;
use tokio::time::Instant;

use super::config::{Config, KeyPayload, Payload, Subject};
use super::ready::{Forms, Unfit, topic};
use crate::dead::Class;
use crate::output::View;
use crate::registry::{Definition, Refusal, Registry};
use crate::schemas::Entry;
use crate::sink::Piece;
use crate::value::Format;

/// Topics times schemas beyond which what is known is forgotten, to be asked for again.
const KNOWN_MAX: usize = 100_000;
/// Stands for the schema of the sink's configuration, where handles of the route stand for others.
pub const CONFIGURED: u32 = u32::MAX;
/// Pause between two questions for the same schema.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A part of a record that has a schema of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The key.
    Key,
    /// The value.
    Value,
}

/// A schema whose id is not known for a topic.
#[derive(Debug)]
pub struct Question {
    topic: String,
    part: Part,
    handle: u32,
    entry: Arc<Entry>,
}

/// What is known of a schema for a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Its id.
    Id(u32),
    /// It has none, until it is asked for again: why.
    Refused(String, Instant),
}

/// See the module.
#[derive(Debug)]
pub struct Registrar {
    registry: Registry,
    /// Whether ids of the route's records are ids of this registry.
    same: bool,
    subject: Subject,
    register: bool,
    /// How long a schema that is not there is looked up again, and for how long a refusal is kept.
    wait: Duration,
    known: HashMap<(Part, u32), HashMap<String, Known>>,
    count: usize,
}

impl Registrar {
    /// Asks `registry`. `same`: it is the route's own registry.
    pub fn new(registry: Registry, same: bool, config: &Config, wait: Duration) -> Self {
        let (subject, register) = (config.subject, config.register);
        Registrar { registry, same, subject, register, wait, known: HashMap::new(), count: 0 }
    }

    /// The id of a schema for a topic.
    ///
    /// # Errors
    /// Why there is none; also where nobody asked yet.
    pub fn find(&self, topic: &str, part: Part, handle: u32) -> Result<u32, Unfit> {
        match self.known(topic, part, handle) {
            Some(Known::Id(id)) => Ok(*id),
            Some(Known::Refused(reason, _)) => Err((Class::Schema, "registry", reason.clone())),
            None => Err((Class::Schema, "registry", "its schema has no id".to_owned())),
        }
    }

    /// What has to be asked before the records of a piece can be written.
    pub fn missing(&self, piece: &Piece, config: &Config, forms: &Forms) -> Vec<Question> {
        let mut missing: Vec<Question> = Vec::new();
        for view in piece.iter() {
            // A record without a topic is given up where it would be written.
            let Ok(topic) = topic(config, view) else { continue };
            for (part, handle) in schemas(view, forms).into_iter().flatten() {
                let is_asked =
                    missing.iter().any(|question| question.part == part && question.handle == handle && question.topic == *topic);
                if is_asked || self.is_fresh(&topic, part, handle) {
                    continue;
                }
                let entry = match (handle, &forms.encoder) {
                    (CONFIGURED, Some(encoder)) => Some(Arc::new(Entry { schema: encoder.schema().clone(), id: None, subject: None })),
                    _ => view.schema(handle).filter(|entry| entry.schema.is_avro()).cloned(),
                };
                let Some(entry) = entry else { continue };
                missing.push(Question { topic: topic.clone().into_owned(), part, handle, entry });
            }
        }
        missing
    }

    /// Asks until the registry says something definite. Cancel safe.
    pub async fn ask(&self, question: &Question) -> Known {
        let refused = |reason: String| Known::Refused(reason, Instant::now() + self.wait);
        let subject = match subject(self.subject, question) {
            Ok(subject) => subject,
            Err(reason) => return refused(reason),
        };
        let mut missing_since = None;
        loop {
            match self.ask_once(&subject, &question.entry).await {
                Ok(id) => return Known::Id(id),
                Err(Refusal::Unusable(reason)) => return refused(reason),
                Err(Refusal::NotThere) => {
                    let since = *missing_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= self.wait {
                        return refused(format!(
                            "subject {subject:?} of the registry does not have its schema: register it, or set register = true in the sink"
                        ));
                    }
                }
                Err(Refusal::Unavailable(_)) => missing_since = None,
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Keeps an answer.
    pub fn learn(&mut self, question: Question, known: Known) {
        if self.count >= KNOWN_MAX {
            self.known.clear();
            self.count = 0;
        }
        self.count += 1;
        self.known.entry((question.part, question.handle)).or_default().insert(question.topic, known);
    }

    async fn ask_once(&self, subject: &str, entry: &Entry) -> Result<u32, Refusal> {
        // The registry's own text says what the schema refers to.
        let definition = match entry.id.filter(|_| self.same) {
            Some(id) => self.registry.definition(id).await?,
            None => Definition { schema: entry.schema.definition().to_owned(), kind: None, references: Vec::new() },
        };
        match self.register {
            true => self.registry.register(subject, &definition).await,
            false => self.registry.look_up(subject, &definition).await,
        }
    }

    fn known(&self, topic: &str, part: Part, handle: u32) -> Option<&Known> {
        self.known.get(&(part, handle))?.get(topic)
    }

    fn is_fresh(&self, topic: &str, part: Part, handle: u32) -> bool {
        match self.known(topic, part, handle) {
            None => false,
            Some(Known::Id(_)) => true,
            Some(Known::Refused(_, until)) => *until > Instant::now(),
        }
    }
}

/// The schemas of a record's parts that become Avro.
fn schemas(view: View<'_>, forms: &Forms) -> [Option<(Part, u32)>; 2] {
    let is_avro = |value: Option<crate::value::Value<'_>>| value.is_some_and(|value| value.format == Format::Avro);
    let of_value = if is_avro(view.value()) { Some(view.value_schema()) } else { forms.encoder_of(view).map(|_| CONFIGURED) };
    [
        (forms.key == KeyPayload::Avro && is_avro(view.key())).then(|| (Part::Key, view.key_schema())),
        of_value.filter(|_| forms.value == Payload::Avro).map(|handle| (Part::Value, handle)),
    ]
}

fn subject(rule: Subject, question: &Question) -> Result<String, String> {
    let Question { topic, part, entry, .. } = question;
    let record = || {
        full_name(entry.schema.definition()).ok_or_else(|| {
            "its schema has no name to call a subject by: set subject = \"topic_name\" in the sink, or use a named schema".to_owned()
        })
    };
    Ok(match (rule, part) {
        (Subject::TopicName, Part::Key) => format!("{topic}-key"),
        (Subject::TopicName, Part::Value) => format!("{topic}-value"),
        (Subject::RecordName, _) => record()?,
        (Subject::TopicRecordName, _) => format!("{topic}-{}", record()?),
    })
}

/// The full name of a schema (Avro 1.12, "Names"); `None`: it has none.
fn full_name(definition: &str) -> Option<String> {
    let schema: Json = serde_json::from_str(definition).ok()?;
    let name = schema["name"].as_str()?;
    match schema["namespace"].as_str().filter(|namespace| !namespace.is_empty() && !name.contains('.')) {
        Some(namespace) => Some(format!("{namespace}.{name}")),
        None => Some(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::demo::registry as server;
    use crate::observe::Metrics;
    use crate::registry::Reference;
    use crate::value::Schema;

    const ORDER: &str = r#"{"type":"record","name":"Order","namespace":"shop","fields":[{"name":"id","type":"long"}]}"#;

    async fn registry() -> Registry {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, server::service(server::Schemas::default())).await });
        let config: config::Registry = toml::from_str(&format!("url = {url:?}")).unwrap();
        Registry::new("main", &config, Metrics::new()).unwrap()
    }

    fn registrar(registry: &Registry, more: &str) -> Registrar {
        let config: Config = toml::from_str(&format!("topic = \"out\"\n{more}")).unwrap();
        Registrar::new(registry.clone(), false, &config, Duration::ZERO)
    }

    fn question(part: Part, definition: &str) -> Question {
        let schema = Arc::new(Schema::avro(definition, &[]).unwrap());
        Question { topic: "out".into(), part, handle: 1, entry: Arc::new(Entry { schema, id: None, subject: None }) }
    }

    #[test]
    fn subjects_are_called_as_confluents_serializers_call_them() {
        let name = |rule, part, definition| subject(rule, &question(part, definition)).unwrap();
        assert_eq!(name(Subject::TopicName, Part::Key, ORDER), "out-key");
        assert_eq!(name(Subject::TopicName, Part::Value, "\"string\""), "out-value");
        assert_eq!(name(Subject::RecordName, Part::Value, ORDER), "shop.Order");
        assert_eq!(name(Subject::TopicRecordName, Part::Key, ORDER), "out-shop.Order");
        let dotted = r#"{"type":"enum","name":"a.b.Colour","namespace":"not.this","symbols":["RED"]}"#;
        assert_eq!(name(Subject::RecordName, Part::Value, dotted), "a.b.Colour");
        let unnamed = subject(Subject::RecordName, &question(Part::Value, "\"string\"")).unwrap_err();
        assert!(unnamed.contains("topic_name"), "{unnamed}");
    }

    #[tokio::test]
    async fn a_schema_of_the_same_registry_is_registered_with_what_it_refers_to() {
        let registry = registry().await;
        let colour = r#"{"type":"enum","name":"shop.Colour","symbols":["RED"]}"#;
        let car = r#"{"type":"record","name":"shop.Car","fields":[{"name":"colour","type":"shop.Colour"}]}"#;
        let definition = |schema: &str, references| Definition { schema: schema.to_owned(), kind: None, references };
        registry.register("colour", &definition(colour, Vec::new())).await.unwrap();
        let references = vec![Reference { name: "shop.Colour".into(), subject: "colour".into(), version: 1 }];
        let id = registry.register("cars-value", &definition(car, references.clone())).await.unwrap();
        let schema = Arc::new(Schema::avro(car, &[colour.to_owned()]).unwrap());
        let entry = Arc::new(Entry { schema, id: Some(id), subject: None });
        let question = Question { topic: "out".into(), part: Part::Value, handle: 1, entry };

        let own = Registrar { same: true, ..registrar(&registry, "") };
        let Known::Id(found) = own.ask(&question).await else { panic!("it is registered") };
        assert_eq!(registry.definition(found).await.unwrap().references, references);
        assert_eq!(registry.look_up("out-value", &definition(car, references)).await, Ok(found));
    }

    #[tokio::test]
    async fn a_schema_is_registered_once_and_looked_up_where_it_must_not_be() {
        let registry = registry().await;
        let only = registrar(&registry, "register = false");
        let Known::Refused(reason, _) = only.ask(&question(Part::Value, ORDER)).await else { panic!("it is not there yet") };
        assert!(reason.contains("\"out-value\"") && reason.contains("register = true"), "{reason}");
        let mut registrar = registrar(&registry, "");
        let known = registrar.ask(&question(Part::Value, ORDER)).await;
        let Known::Id(id) = known else { panic!("{known:?}") };
        assert_eq!(only.ask(&question(Part::Value, ORDER)).await, Known::Id(id));
        assert!(registrar.find("out", Part::Value, 1).is_err());
        registrar.learn(question(Part::Value, ORDER), known);
        assert_eq!(registrar.find("out", Part::Value, 1), Ok(id));
        assert!(registrar.find("out", Part::Key, 1).is_err());
    }
}
