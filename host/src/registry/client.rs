//! The requests to a schema registry and what their answers mean (Confluent's API, which Apicurio and Karapace speak too).
//!
//! Invariant: "there is no such schema" is said only where the registry itself says so; every other answer is [`Refusal::Unavailable`]
//! or names what is wrong with a schema that is there.

use std::collections::HashSet;
use std::error::Error;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder, Retryable};
use reqwest::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Method, RequestBuilder, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::config::{Auth, Registry as Config};
use crate::value::Schema;

/// Longest answer that is read: schemas are texts of some KiB, the largest known are some MiB.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Most schemas that one schema uses, directly or not.
const REFERENCES_MAX: usize = 1_000;
/// Attempts beyond the first before the answer is "unavailable"; whoever asks waits and asks again.
const RETRIES_MAX: usize = 2;
const RETRY_DELAY: Duration = Duration::from_millis(100);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(5);
const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// Code of an error "schema not found".
const NO_SCHEMA: u64 = 40403;
/// Code of an error "subject not found".
const NO_SUBJECT: u64 = 40401;

/// Why there is no schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The registry is sure that it has none.
    #[error("the registry has no such schema")]
    NotThere,
    /// It is there and cannot be used; asking again does not help.
    #[error("{0}")]
    Unusable(String),
    /// No answer that means anything: no connection, a server's error, a refused login.
    #[error("{0}")]
    Unavailable(String),
}

/// A schema as the registry keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// Its text.
    pub schema: String,
    /// `AVRO`, `JSON` or `PROTOBUF`; absent: `AVRO`.
    #[serde(rename = "schemaType", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Other schemas whose names it uses.
    #[serde(default, deserialize_with = "null_is_none", skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<Reference>,
}

/// Another schema that a schema uses.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reference {
    /// The name by which it is used.
    pub name: String,
    /// The subject that holds it.
    pub subject: String,
    /// Its version there.
    pub version: u32,
}

/// The answer to a schema that is registered or looked up.
#[derive(Deserialize)]
struct Registered {
    id: u32,
}

/// A place of a schema.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Place {
    /// Name of the subject.
    pub subject: String,
    /// Version within it.
    pub version: u32,
}

fn null_is_none<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Reference>, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Speaks with one registry.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    auth: Option<Auth>,
}

/// An answer that means something.
#[derive(Debug)]
enum Reply<T> {
    Yes(T),
    No { status: StatusCode, code: u64, message: String },
}

/// An attempt without such an answer.
#[derive(Debug)]
struct Trouble {
    reason: String,
    /// Another attempt soon may help.
    passing: bool,
    /// When the server wants to be asked again.
    after: Option<Duration>,
}

impl Client {
    /// A client for the registry that `config` names; it contacts nobody.
    ///
    /// # Errors
    /// Certificates that cannot be read, in words for the user.
    pub fn new(config: &Config) -> Result<Self, String> {
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .user_agent(concat!("anabranch/", env!("CARGO_PKG_VERSION")))
            .timeout(config.timeout.get())
            .connect_timeout(config.timeout.get().min(CONNECT_TIMEOUT_MAX))
            // A redirect could carry the login elsewhere; the answer names where the URL should point.
            .redirect(Policy::none());
        let read = |path: &std::path::Path| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
        if let Some(path) = &config.tls.ca {
            let certificates = reqwest::Certificate::from_pem_bundle(&read(path)?)
                .map_err(|error| format!("tls.ca {}: no certificates in PEM form: {error}", path.display()))?;
            builder = builder.tls_built_in_root_certs(false);
            for certificate in certificates {
                builder = builder.add_root_certificate(certificate);
            }
        }
        if let Some((cert, key)) = config.tls.cert.as_ref().zip(config.tls.key.as_ref()) {
            let mut pem = read(cert)?;
            pem.push(b'\n');
            pem.extend(read(key)?);
            let identity = reqwest::Identity::from_pem(&pem)
                .map_err(|error| format!("tls.cert {} and tls.key: no certificate with its key in PEM form: {error}", cert.display()))?;
            builder = builder.identity(identity);
        }
        let http = builder.build().map_err(|error| format!("no http client: {}", chain(&error)))?;
        Ok(Client { http, base: (*config.url).clone(), auth: config.auth.clone() })
    }

    /// The schema of an id, with everything that it refers to.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn schema(&self, id: u32) -> Result<Schema, Refusal> {
        let definition = self.definition(id).await?;
        let unusable = |reason: String| Refusal::Unusable(format!("schema {id}: {reason}"));
        match definition.kind.as_deref() {
            None | Some("AVRO" | "") => {
                let texts = self.references(&definition.references).await.map_err(|refusal| match refusal {
                    Refusal::Unusable(reason) => unusable(reason),
                    other => other,
                })?;
                Schema::avro(&definition.schema, &texts).map_err(|error| unusable(error.to_string()))
            }
            Some("JSON") => Ok(Schema::json(&definition.schema)),
            Some(kind) => Err(unusable(format!("it is of type {kind}; AVRO and JSON can be read"))),
        }
    }

    /// The text of an id's schema, and what it refers to.
    ///
    /// # Errors
    /// Only [`Refusal::NotThere`] and [`Refusal::Unavailable`].
    pub async fn definition(&self, id: u32) -> Result<Definition, Refusal> {
        match self.get::<Definition>(&["schemas", "ids", &id.to_string()]).await? {
            Reply::Yes(definition) => Ok(definition),
            Reply::No { code: NO_SCHEMA, .. } => Err(Refusal::NotThere),
            Reply::No { status: StatusCode::NOT_FOUND, .. } => Err(self.plainly_not_there().await),
            Reply::No { status, message, .. } => Err(self.odd(status, &message)),
        }
    }

    /// The id that a schema has under a subject.
    ///
    /// # Errors
    /// [`Refusal::NotThere`] where the subject does not have it, [`Refusal::Unusable`] where it is no schema to the registry.
    pub async fn look_up(&self, subject: &str, definition: &Definition) -> Result<u32, Refusal> {
        match self.ask::<Registered>(Method::POST, &["subjects", subject], Some(definition)).await? {
            Reply::Yes(Registered { id }) => Ok(id),
            Reply::No { code: NO_SUBJECT | NO_SCHEMA, .. } => Err(Refusal::NotThere),
            Reply::No { status: StatusCode::NOT_FOUND, .. } => Err(self.plainly_not_there().await),
            Reply::No { status: StatusCode::UNPROCESSABLE_ENTITY, message, .. } => {
                Err(Refusal::Unusable(format!("the registry does not take the schema for one ({message})")))
            }
            Reply::No { status, message, .. } => Err(self.odd(status, &message)),
        }
    }

    /// The subjects and versions under which a schema is registered, sorted; empty where the registry does not tell.
    ///
    /// # Errors
    /// Only [`Refusal::Unavailable`] and [`Refusal::NotThere`].
    pub async fn places(&self, id: u32) -> Result<Vec<Place>, Refusal> {
        let number = id.to_string();
        let mut places = match self.get::<Vec<Place>>(&["schemas", "ids", &number, "versions"]).await? {
            Reply::Yes(places) => places,
            Reply::No { code: NO_SCHEMA, .. } => return Err(Refusal::NotThere),
            // Registries of before 2019 know only the subjects.
            Reply::No { .. } => self.places_by_subject(&number).await?,
        };
        places.sort();
        Ok(places)
    }

    /// Registers a schema under a subject and gives its id; the same schema has the same id.
    ///
    /// # Errors
    /// [`Refusal::Unusable`] where the registry refuses it, [`Refusal::Unavailable`] otherwise.
    pub async fn register(&self, subject: &str, definition: &Definition) -> Result<u32, Refusal> {
        let segments = ["subjects", subject, "versions"];
        match self.ask::<Registered>(Method::POST, &segments, Some(definition)).await? {
            Reply::Yes(Registered { id }) => Ok(id),
            Reply::No { status: StatusCode::CONFLICT, message, .. } => Err(Refusal::Unusable(format!(
                "the registry refuses the schema for subject {subject:?}: it is not compatible with those before it ({message}); change the \
                 schema, or the subject's compatibility"
            ))),
            Reply::No { status: StatusCode::UNPROCESSABLE_ENTITY, message, .. } => {
                Err(Refusal::Unusable(format!("the registry refuses the schema for subject {subject:?}: {message}")))
            }
            Reply::No { status, message, .. } => Err(self.odd(status, &message)),
        }
    }

    /// Whether the registry answers.
    ///
    /// # Errors
    /// Only [`Refusal::Unavailable`].
    pub async fn probe(&self) -> Result<(), Refusal> {
        match self.get::<Vec<String>>(&["subjects"]).await? {
            Reply::Yes(_) => Ok(()),
            Reply::No { status, message, .. } => Err(self.odd(status, &message)),
        }
    }

    /// A 404 that does not say what is missing: it counts only if the registry is there, under this very URL.
    async fn plainly_not_there(&self) -> Refusal {
        match self.probe().await {
            Ok(()) => Refusal::NotThere,
            Err(refusal) => refusal,
        }
    }

    /// The texts of `references` and of all that these use, each after those that it uses itself.
    async fn references(&self, references: &[Reference]) -> Result<Vec<String>, Refusal> {
        enum Step {
            Open(Reference),
            Close(String),
        }
        let mut texts = Vec::new();
        let mut seen = HashSet::new();
        let mut steps: Vec<Step> = references.iter().rev().cloned().map(Step::Open).collect();
        while let Some(step) = steps.pop() {
            let reference = match step {
                Step::Open(reference) => reference,
                Step::Close(text) => {
                    // One text may stand under several subjects.
                    if !texts.contains(&text) {
                        texts.push(text);
                    }
                    continue;
                }
            };
            if !seen.insert((reference.subject.clone(), reference.version)) {
                continue;
            }
            if seen.len() > REFERENCES_MAX {
                return Err(Refusal::Unusable(format!("it refers to more than {REFERENCES_MAX} schemas")));
            }
            let definition = self.referred(&reference).await?;
            steps.push(Step::Close(definition.schema));
            steps.extend(definition.references.into_iter().rev().map(Step::Open));
        }
        Ok(texts)
    }

    async fn referred(&self, reference: &Reference) -> Result<Definition, Refusal> {
        let Reference { name, subject, version } = reference;
        let number = version.to_string();
        let segments = ["subjects", subject, "versions", &number];
        // A version that was deleted softly is still what the schema refers to.
        for query in [None, Some("deleted=true")] {
            match self.ask_with::<Definition>(Method::GET, &segments, query, None::<&Json>).await? {
                Reply::Yes(definition) => return Ok(definition),
                Reply::No { status: StatusCode::NOT_FOUND, .. } => (),
                Reply::No { status, message, .. } => return Err(self.odd(status, &message)),
            }
        }
        Err(Refusal::Unusable(format!("it refers to {name:?} in subject {subject:?}, version {version}, which the registry does not have")))
    }

    async fn places_by_subject(&self, id: &str) -> Result<Vec<Place>, Refusal> {
        let Reply::Yes(subjects) = self.get::<Vec<String>>(&["schemas", "ids", id, "subjects"]).await? else { return Ok(Vec::new()) };
        let Reply::Yes(definition) = self.get::<Definition>(&["schemas", "ids", id]).await? else { return Ok(Vec::new()) };
        let mut places = Vec::new();
        for subject in subjects {
            if let Reply::Yes(place) = self.ask::<Place>(Method::POST, &["subjects", &subject], Some(&definition)).await? {
                places.push(place);
            }
        }
        Ok(places)
    }

    async fn get<T: DeserializeOwned>(&self, segments: &[&str]) -> Result<Reply<T>, Refusal> {
        self.ask(Method::GET, segments, None::<&Json>).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        segments: &[&str],
        body: Option<&impl Serialize>,
    ) -> Result<Reply<T>, Refusal> {
        self.ask_with(method, segments, None, body).await
    }

    /// Asks, and asks again where that may help.
    async fn ask_with<T: DeserializeOwned>(
        &self,
        method: Method,
        segments: &[&str],
        query: Option<&str>,
        body: Option<&impl Serialize>,
    ) -> Result<Reply<T>, Refusal> {
        let mut url = self.base.clone();
        // Every http URL has a path, so this is never an error.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url.set_query(query);
        let body = body.map(|body| serde_json::to_vec(body).expect("texts and numbers are JSON"));
        let request = || {
            let mut request = self.http.request(method.clone(), url.clone()).header(ACCEPT, format!("{MEDIA_TYPE}, application/json"));
            request = match &self.auth {
                None => request,
                Some(Auth::Basic { username, password }) => request.basic_auth(username, Some(password.expose())),
                Some(Auth::Bearer { token }) => request.bearer_auth(token.expose()),
            };
            match &body {
                None => request,
                Some(body) => request.header(CONTENT_TYPE, MEDIA_TYPE).body(body.clone()),
            }
        };
        let delays = ExponentialBuilder::new().with_min_delay(RETRY_DELAY).with_max_delay(RETRY_DELAY_MAX).with_max_times(RETRIES_MAX);
        (async || self.attempt(request()).await)
            // Full jitter: any delay down to zero is as likely, so that many clients spread out.
            .retry(delays.build().map(|delay| delay.mul_f64(fastrand::f64())))
            .when(|trouble| trouble.passing)
            .adjust(|trouble, delay| Some(delay?.max(trouble.after.unwrap_or_default())))
            .await
            .map_err(|trouble| Refusal::Unavailable(format!("schema registry {}: {}", self.base, trouble.reason)))
    }

    async fn attempt<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<Reply<T>, Trouble> {
        let passing = |reason: String| Trouble { reason, passing: true, after: None };
        let lasting = |reason: String| Trouble { reason, passing: false, after: None };
        let mut response = request.send().await.map_err(|error| passing(chain(&error.without_url())))?;
        let status = response.status();
        let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let place = response.headers().get(reqwest::header::LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut bytes = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| passing(chain(&error.without_url())))? {
            if bytes.len() + piece.len() > ANSWER_BYTES_MAX {
                return Err(lasting(format!("answers with more than {ANSWER_BYTES_MAX} bytes")));
            }
            bytes.extend_from_slice(&piece);
        }
        if status.is_success() {
            return serde_json::from_slice(&bytes).map(Reply::Yes).map_err(|error| {
                passing(format!("answers {status} with something else than a registry's JSON ({error}): check that the URL is complete"))
            });
        }
        let body: Json = serde_json::from_slice(&bytes).unwrap_or_default();
        let message = body["message"].as_str().unwrap_or_default().to_owned();
        let said = if message.is_empty() { String::new() } else { format!(": {message}") };
        match status {
            StatusCode::UNAUTHORIZED => Err(lasting(format!("answers {status}{said}: check `auth`"))),
            StatusCode::FORBIDDEN => Err(lasting(format!("answers {status}{said}: check the rights of the login in `auth`"))),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                let after = after.map(Duration::from_secs).map(|after| after.min(RETRY_DELAY_MAX));
                Err(Trouble { reason: format!("answers {status}{said}"), passing: true, after })
            }
            status if status.is_server_error() => Err(passing(format!("answers {status}{said}"))),
            status if status.is_client_error() => Ok(Reply::No { status, code: body["error_code"].as_u64().unwrap_or_default(), message }),
            status => {
                let place = place.map(|place| format!(" to {place}")).unwrap_or_default();
                Err(lasting(format!("answers {status}{place}: configure the URL where the registry is")))
            }
        }
    }

    fn odd(&self, status: StatusCode, message: &str) -> Refusal {
        let said = if message.is_empty() { String::new() } else { format!(": {message}") };
        let reason = format!("schema registry {}: answers {status}{said}: check that the URL is complete", self.base);
        Refusal::Unavailable(reason)
    }
}

/// An error with all its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let cause = source.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        next = source.source();
    }
    text
}
