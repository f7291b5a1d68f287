//! What librdkafka says about its connections, in words that name cause and remedy; tokens for OAUTHBEARER.
//!
//! Invariant: one log line per change of state, however often librdkafka repeats itself; no secret is ever part of it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rdkafka::client::OAuthToken;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use crate::config::{KafkaSource, Security};
use crate::observe::Metrics;

/// Where tokens for OAUTHBEARER come from: the client credentials grant (RFC 6749, section 4.4).
#[derive(Clone)]
pub struct Credentials {
    /// The token endpoint.
    pub url: String,
    /// Client id.
    pub id: String,
    /// Client secret.
    pub secret: String,
    /// Scope, where the server wants one.
    pub scope: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("url", &self.url).field("id", &self.id).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Those of a configuration that uses OAUTHBEARER.
    pub fn of(security: &Security) -> Option<Self> {
        let oauth = security.oauth.as_ref()?;
        Some(Credentials {
            url: oauth.token_url.to_string(),
            id: oauth.client_id.clone(),
            secret: oauth.client_secret.expose().to_owned(),
            scope: oauth.scope.clone(),
        })
    }
}

/// A consumer's properties: what the user configured over the router's defaults, and what the router decides over both.
pub fn consumer_config(source: &KafkaSource, route: &str, group: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    let defaults = [
        ("client.id", format!("anabranch-{route}")),
        // The default of a second makes the fetcher sleep that long whenever the local queue is full.
        ("fetch.queue.backoff.ms", "2".to_owned()),
        // Small fetches keep memory small and caches warm; a larger record still comes.
        ("fetch.message.max.bytes", (256 << 10).to_string()),
        ("queued.max.messages.kbytes", (16 << 10).to_string()),
        ("allow.auto.create.topics", "false".to_owned()),
    ];
    for (name, value) in defaults {
        config.set(name, value);
    }
    config.set("fetch.wait.max.ms", source.fetch_wait_max.get().as_millis().to_string());
    for (name, value) in &source.properties {
        config.set(name, &value.0);
    }
    for (name, value) in source.security.properties() {
        config.set(name, value);
    }
    config.set("bootstrap.servers", source.brokers.join(","));
    config.set("group.id", group);
    config.set("partition.assignment.strategy", source.assignor.name());
    config.set("session.timeout.ms", source.session_timeout.get().as_millis().to_string());
    config.set("heartbeat.interval.ms", source.heartbeat_interval.get().as_millis().to_string());
    config.set("isolation.level", source.isolation.name());
    if let Some(instance) = &source.instance_id {
        config.set("group.instance.id", instance);
    }
    config.set("enable.auto.commit", "false");
    config.set("enable.auto.offset.store", "false");
    config.set("enable.partition.eof", "true");
    // Where to begin is decided at the assignment; an offset that the log no longer has is an error, never a jump.
    config.set("auto.offset.reset", "error");
    config
}

#[derive(Debug, Default)]
struct State {
    last: Option<Trouble>,
    down: bool,
}

/// Something that keeps the client from its brokers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What is wrong, and the remedy.
    pub text: String,
    /// Waiting cannot help: refused credentials, a certificate that is not trusted.
    pub lasting: bool,
}

/// The connection of one client to its brokers; clones share it.
#[derive(Clone)]
pub struct Login {
    brokers: Arc<str>,
    part: Arc<str>,
    metrics: Metrics,
    credentials: Option<Credentials>,
    runtime: tokio::runtime::Handle,
    state: Arc<Mutex<State>>,
}

impl Login {
    /// A connection to `brokers` for the part called `part` in readiness. Call it inside a tokio runtime.
    pub fn new(brokers: &str, part: &str, metrics: Metrics, credentials: Option<Credentials>) -> Self {
        let runtime = tokio::runtime::Handle::current();
        Login { brokers: brokers.into(), part: part.into(), metrics, credentials, runtime, state: Arc::default() }
    }

    /// The last trouble since the brokers answered.
    pub fn trouble(&self) -> Option<Trouble> {
        self.state.lock().last.clone()
    }

    /// A broker answered.
    pub fn answered(&self) {
        let mut state = self.state.lock();
        state.last = None;
        if std::mem::take(&mut state.down) && self.metrics.part_up(&self.part) {
            tracing::info!(part = %self.part, "up again");
        }
    }

    /// Takes an error that librdkafka reports.
    pub fn error(&self, error: &KafkaError, reason: &str) {
        let Some(trouble) = self.trouble_of(error.rdkafka_error_code(), reason) else {
            tracing::debug!(part = %self.part, %error, reason, "librdkafka");
            return;
        };
        let mut state = self.state.lock();
        // A lasting cause explains the transport errors that follow it.
        if !(state.last.as_ref().is_some_and(|last| last.lasting) && !trouble.lasting) {
            state.last = Some(trouble.clone());
        }
        state.down = true;
        if self.metrics.part_down(&self.part, &trouble.text) {
            tracing::warn!(part = %self.part, reason = %trouble.text, "unavailable, waiting");
        }
    }

    /// Takes a log line of librdkafka: only what is not reported as an error too.
    pub fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(part = %self.part, facility, text, "librdkafka");
            }
            _ => tracing::debug!(part = %self.part, facility, text, "librdkafka"),
        }
    }

    /// A fresh token.
    ///
    /// # Errors
    /// Where the token endpoint refuses or does not answer; librdkafka asks again.
    pub fn token(&self) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let Some(credentials) = &self.credentials else { return Err("no client credentials are configured".into()) };
        let answer: serde_json::Value = self.runtime.block_on(async {
            let mut form = vec![("grant_type", "client_credentials")];
            form.extend(credentials.scope.as_deref().map(|scope| ("scope", scope)));
            let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?;
            let request = client.post(&credentials.url).basic_auth(&credentials.id, Some(&credentials.secret)).form(&form);
            request.send().await?.error_for_status()?.json().await
        })?;
        let token = answer["access_token"].as_str().ok_or("the token endpoint's answer has no access_token")?;
        let seconds = answer["expires_in"].as_i64().unwrap_or(300);
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
        Ok(OAuthToken { token: token.to_owned(), principal_name: credentials.id.clone(), lifetime_ms: now_ms + seconds * 1000 })
    }

    fn trouble_of(&self, code: Option<RDKafkaErrorCode>, reason: &str) -> Option<Trouble> {
        let brokers = &self.brokers;
        let lasting = |text: String| Some(Trouble { text, lasting: true });
        let passing = |text: String| Some(Trouble { text, lasting: false });
        match code? {
            RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => {
                lasting(format!("{brokers} refused the login ({reason}): check username, password and mechanism in `security`"))
            }
            RDKafkaErrorCode::SSL => lasting(format!(
                "TLS with {brokers} failed ({reason}): check `ca`, `cert` and `key` in `security`, and that the port speaks TLS"
            )),
            RDKafkaErrorCode::UnsupportedSASLMechanism => {
                lasting(format!("{brokers} does not offer this SASL mechanism ({reason}): choose one of those that it names"))
            }
            RDKafkaErrorCode::Resolve => passing(format!("the name of a broker in {brokers} is not known ({reason}): check `brokers`")),
            RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::OperationTimedOut => {
                passing(format!(
                    "no answer from {brokers} ({reason}): check that a broker runs there and that `security` fits the port (a plaintext \
                     client at a TLS port gets no answer either)"
                ))
            }
            _ => None,
        }
    }
}
