//! From the configuration to a client and to what all requests have in common.
//!
//! Invariant: secrets reach headers that are marked sensitive, and nothing else. No proxy is taken from the environment: requests go
//! where the configuration says.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use url::Position;

use super::config::{Body, Config, Form, Method, RecordKeys, Text, Tombstone};
use super::location::header_text;
use super::pace::Pace;
use super::request::{self, Requests, Shape};
use crate::config::Auth;
use crate::sink::Surroundings;
use crate::sink::backoff::Backoff;

const REDIRECTS_MAX: usize = 5;
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Looks whether somebody listens at the host.
///
/// # Errors
/// What is wrong, in words for the user.
pub async fn probe(config: &Config) -> Result<(), String> {
    client(config)?;
    let (host, port) = config.url.location().address().ok_or_else(|| format!("{} names no host", config.url))?;
    let connect = tokio::net::TcpStream::connect((host.as_str(), port));
    match tokio::time::timeout(PROBE_TIMEOUT, connect).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("nobody answers at {host}:{port}: {error}")),
        Err(_) => Err(format!("nobody answers at {host}:{port} within {} s", PROBE_TIMEOUT.as_secs())),
    }
}

/// What all requests of the sink have in common.
pub(super) fn requests(config: &Config, surroundings: &Surroundings) -> Result<Requests, String> {
    let shape = match config.batch.form {
        Form::Single => Shape::Single,
        Form::Array => Shape::Array,
        Form::Lines => Shape::Lines,
    };
    let content_type = match (config.body, shape) {
        (Body::Raw, _) => "application/octet-stream",
        (Body::Json, Shape::Lines) => "application/x-ndjson",
        (Body::Json, _) => "application/json",
    };
    // A configured type replaces ours.
    let configured = config.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    let content_type = match configured {
        Some((name, text)) => header_value(name, text.expose())?,
        None => HeaderValue::from_static(content_type),
    };
    let record_keys = match &config.batch.record_keys {
        None => request::RecordKeys::None,
        Some(RecordKeys::Header(name)) => request::RecordKeys::Header(header_name(name)?),
        Some(RecordKeys::Field(name)) => request::RecordKeys::Field(serde_json::Value::from(name.as_str()).to_string()),
    };
    Ok(Requests {
        client: client(config)?,
        location: config.url.location().clone(),
        method: match config.method {
            Method::Post => reqwest::Method::POST,
            Method::Put => reqwest::Method::PUT,
            Method::Patch => reqwest::Method::PATCH,
        },
        content_type,
        shape,
        json: (config.body == Body::Json).then_some(config.json),
        reject_tombstones: config.tombstone == Tombstone::Reject,
        idempotency_header: header_name(&config.idempotency_header)?,
        key_prefix: header_text(format!("{}-{}-", surroundings.group, surroundings.sink).as_bytes()),
        record_keys,
        forward: config.forward_headers.iter().map(|name| name.to_ascii_lowercase()).collect(),
        body_max: config.batch.bytes_max.as_usize(),
        find_culprit: config.batch.halve,
        retry_statuses: config.retry.statuses.clone(),
        backoff: Backoff { min: config.retry.delay_min.get(), max: config.retry.delay_max.get() },
        attempts_max: config.retry.attempts_max,
        pace: Pace::new(surroundings.metrics.clone()),
        surroundings: surroundings.clone(),
    })
}

fn client(config: &Config) -> Result<reqwest::Client, String> {
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        .user_agent(concat!("anabranch/", env!("CARGO_PKG_VERSION")))
        .timeout(config.timeout.get())
        .connect_timeout(config.connect_timeout.get())
        // Fewer idle connections than requests in flight would open a new one for most requests.
        .pool_max_idle_per_host(config.in_flight_max.get())
        .tcp_nodelay(true)
        .redirect(if config.redirects { redirects() } else { Policy::none() })
        .default_headers(headers(config)?);
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
    builder.build().map_err(|error| format!("no http client: {error}"))
}

/// Only answers that ask for the same request again (307, 308), and only on the same host: everything else could lose the body and
/// still look like success, or carry records elsewhere.
fn redirects() -> Policy {
    Policy::custom(|attempt| {
        let same = matches!(attempt.status().as_u16(), 307 | 308)
            && attempt.previous().len() <= REDIRECTS_MAX
            && attempt.previous().last().is_some_and(|last| last[..Position::BeforePath] == attempt.url()[..Position::BeforePath]);
        if same { attempt.follow() } else { attempt.stop() }
    })
}

/// Headers that the client adds to every request; those with secrets are marked sensitive.
pub(super) fn headers(config: &Config) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, text) in &config.headers {
        let (key, mut value) = (header_name(name)?, header_value(name, text.expose())?);
        if key == CONTENT_TYPE {
            continue;
        }
        value.set_sensitive(matches!(text, Text::Secret(_)));
        headers.append(key, value);
    }
    let authorization = match &config.auth {
        None => None,
        Some(Auth::Basic { username, password }) => {
            use base64::Engine as _;
            let login = format!("{username}:{}", password.expose());
            Some(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(login)))
        }
        Some(Auth::Bearer { token }) => Some(format!("Bearer {}", token.expose())),
    };
    if let Some(authorization) = authorization {
        let mut value = header_value("authorization", &authorization)?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

pub(super) fn header_name(name: &str) -> Result<HeaderName, String> {
    name.parse().map_err(|_| format!("{name:?} is no header name: letters, digits and `-` are possible"))
}

pub(super) fn header_value(name: &str, text: &str) -> Result<HeaderValue, String> {
    // The value may be a secret, so it is not repeated.
    HeaderValue::from_str(text).map_err(|_| format!("the value of header {name:?} has a character that headers cannot have (a line end?)"))
}

fn read(path: &std::path::Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}
