//! What librdkafka says about its connections, in words that name cause and remedy; tokens for OAUTHBEARER.
//!
//! Invariant: one log line per change of state, however often librdkafka repeats itself; no secret is ever part of it.

use std::path::PathBuf;
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
    /// Certificates to trust beside the usual ones, PEM.
    pub ca: Option<PathBuf>,
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
            ca: security.ca.as_ref().map(|ca| ca.to_path_buf()),
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
        // A small record takes several times its bytes there, which that bound does not count.
        ("queued.min.messages", "20000".to_owned()),
        ("allow.auto.create.topics", "false".to_owned()),
        // The default of five minutes is how long records of a partition that is added would wait.
        ("topic.metadata.refresh.interval.ms", "30000".to_owned()),
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

/// How long a token endpoint may take.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct State {
    last: Option<Trouble>,
    /// Why there was no token, the last time that one was asked for: librdkafka keeps it to itself.
    no_token: Option<String>,
    /// A broker answered at least once: from then on trouble is an outage that is waited out, before it is a reason not to start.
    connected: bool,
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

    /// Whether no broker could be reached since one answered.
    pub fn is_down(&self) -> bool {
        self.state.lock().down
    }

    /// A broker answered.
    pub fn answered(&self) {
        let mut state = self.state.lock();
        state.connected = true;
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
        // Of several brokers one may go, and idle connections are closed: that is no outage.
        let one_of_many = matches!(
            error.rdkafka_error_code(),
            Some(RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::Resolve)
        );
        if state.connected && one_of_many {
            return;
        }
        // A lasting cause explains the transport errors that follow it.
        let explained = state.last.as_ref().is_some_and(|last| last.lasting);
        if trouble.lasting || !explained {
            state.last = Some(trouble.clone());
        }
        state.down = true;
        if self.metrics.part_down(&self.part, &trouble.text) && state.connected {
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
        let token = self.ask_for_token();
        self.state.lock().no_token = token.as_ref().err().map(|error| {
            let causes = std::iter::successors(error.source(), |cause| cause.source());
            causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
        });
        token
    }

    fn ask_for_token(&self) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let Some(credentials) = &self.credentials else { return Err("no client credentials are configured".into()) };
        let answer: serde_json::Value = self.runtime.block_on(async {
            let mut form = vec![("grant_type", "client_credentials")];
            form.extend(credentials.scope.as_deref().map(|scope| ("scope", scope)));
            let mut client = reqwest::Client::builder().timeout(TOKEN_TIMEOUT);
            if let Some(ca) = &credentials.ca {
                for certificate in reqwest::Certificate::from_pem_bundle(&tokio::fs::read(ca).await?)? {
                    client = client.add_root_certificate(certificate);
                }
            }
            let request = client.build()?.post(&credentials.url).basic_auth(&credentials.id, Some(&credentials.secret)).form(&form);
            let answer = request.send().await?.error_for_status()?;
            Ok::<_, Box<dyn std::error::Error>>(answer.json().await?)
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
            RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed if self.credentials.is_some() => {
                let no_token = self.state.lock().no_token.clone();
                let reason = no_token.as_deref().unwrap_or(reason);
                lasting(format!("no login at {brokers} by token ({reason}): check `oauth` in `security`, and that its token_url answers"))
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn login(metrics: &Metrics, credentials: Option<Credentials>) -> Login {
        Login::new("broker:9092", "source", metrics.clone(), credentials)
    }

    fn error(code: RDKafkaErrorCode) -> KafkaError {
        KafkaError::Global(code)
    }

    #[tokio::test]
    async fn before_the_first_answer_every_trouble_counts_and_a_lasting_one_explains_the_others() {
        let metrics = Metrics::new();
        let login = login(&metrics, None);
        login.error(&error(RDKafkaErrorCode::BrokerTransportFailure), "connection refused");
        assert!(login.trouble().is_some_and(|trouble| !trouble.lasting && trouble.text.contains("connection refused")));
        login.error(&error(RDKafkaErrorCode::Authentication), "bad password");
        login.error(&error(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        let trouble = login.trouble().expect("one");
        assert!(trouble.lasting && trouble.text.contains("bad password") && trouble.text.contains("check username"), "{trouble:?}");
    }

    #[tokio::test]
    async fn later_one_broker_of_many_is_no_outage_and_all_of_them_are_until_one_answers() {
        let metrics = Metrics::new();
        let login = login(&metrics, None);
        login.answered();
        login.error(&error(RDKafkaErrorCode::BrokerTransportFailure), "disconnected while idle");
        assert_eq!((login.is_down(), metrics.not_ready()), (false, vec![]));
        login.error(&error(RDKafkaErrorCode::AllBrokersDown), "3/3 brokers are down");
        assert!(login.is_down());
        assert_eq!(metrics.not_ready()[0].0, "source");
        login.answered();
        assert_eq!((login.is_down(), metrics.not_ready()), (false, vec![]));
    }

    /// A token endpoint that takes one client; answers with what it was sent.
    async fn token_endpoint() -> String {
        use axum::http::{HeaderMap, StatusCode};
        let answer = |headers: HeaderMap, form: String| async move {
            // router:s3cret
            let known = headers.get("authorization").is_some_and(|value| value == "Basic cm91dGVyOnMzY3JldA==");
            if known {
                Ok(axum::Json(serde_json::json!({ "access_token": form, "expires_in": 60 })))
            } else {
                Err(StatusCode::UNAUTHORIZED)
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let router = axum::Router::new().route("/token", axum::routing::post(answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}/token")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_token_is_had_by_client_credentials_and_a_refusal_names_the_endpoint_and_no_secret() {
        let url = token_endpoint().await;
        let credentials = |secret: &str| Credentials {
            url: url.clone(),
            id: "router".into(),
            secret: secret.into(),
            scope: Some("kafka".into()),
            ca: None,
        };
        let ask = |secret: &str| {
            let login = login(&Metrics::new(), Some(credentials(secret)));
            tokio::task::spawn_blocking(move || login.token().map_err(|error| error.to_string()))
        };
        let token = ask("s3cret").await.expect("no panic").expect("a token");
        assert_eq!((token.token.as_str(), token.principal_name.as_str()), ("grant_type=client_credentials&scope=kafka", "router"));
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).expect("later").as_millis() as i64;
        assert!((token.lifetime_ms - now_ms - 60_000).abs() < 10_000);
        let Err(text) = ask("wrong-one").await.expect("no panic") else { panic!("a refusal") };
        assert!(text.contains("401") && text.contains("/token") && !text.contains("wrong-one"), "{text}");
    }
}
