//! How to reach a Diffusion server, for the source and for the sink; and `[source.NAME.diffusion]`.
//!
//! Invariant: credentials never stand in a URL, and certificates are only given where there is TLS.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize, Serializer};

use super::problem::Fault;
use super::registry::Tls;
use super::secret::Secret;
use super::text::{ByteSize, DurationText, Remedy};
use crate::diffusion::connect::{self, Certificates, ServerUrl, Settings, UrlError};
use crate::diffusion::path::SELECTOR_BYTES_MAX;
use crate::value::JsonOptions;

/// `[source.NAME.diffusion]`: values of topics of a Diffusion server, version 6.9 or later.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiffusionSource {
    /// Where the server listens; the path is `/diffusion` where none is given.
    pub url: DiffusionUrl,
    /// The principal to log in as; without it the source is anonymous.
    #[serde(default)]
    pub username: Option<String>,
    /// Its password.
    #[serde(default)]
    pub password: Option<Secret>,
    /// Certificates for `wss`.
    #[serde(default)]
    pub tls: Tls,
    /// How byte strings, decimals and times are written with `value = "json"` of the route.
    #[serde(default)]
    pub json: JsonOptions,
    /// What a value that is null becomes.
    #[serde(default)]
    pub null: Null,
    /// What the removal of a topic becomes.
    #[serde(default)]
    pub removed: Removed,
    /// Bytes of the last values of all topics, which are kept since the server sends changes of them; more stop the route.
    #[serde(default = "DiffusionSource::values_max")]
    pub values_max: ByteSize,
    /// How long the answer to a subscription may take before the connection counts as lost.
    #[serde(default = "DiffusionSource::timeout")]
    pub timeout: DurationText,
    /// How long connecting and logging in may take.
    #[serde(default = "DiffusionSource::connect_timeout")]
    pub connect_timeout: DurationText,
    /// How lost connections are made again.
    #[serde(default)]
    pub retry: Reconnect,
}

/// How lost connections are made again, without end and with full jitter between the delays.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reconnect {
    /// The longest first delay; it doubles from try to try.
    pub delay_min: DurationText,
    /// The longest delay.
    pub delay_max: DurationText,
}

impl Default for Reconnect {
    fn default() -> Self {
        Reconnect { delay_min: DurationText::ms(100), delay_max: DurationText::s(30) }
    }
}

/// What a value that is null becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Null {
    /// A record with the value null.
    #[default]
    Value,
    /// A record without a value.
    Tombstone,
}

/// What the removal of a topic becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Removed {
    /// Nothing.
    #[default]
    Ignore,
    /// A record without a value; also for topics that are gone when a lost connection is there again.
    Tombstone,
}

impl DiffusionSource {
    const fn values_max() -> ByteSize {
        ByteSize::mib(512)
    }

    const fn timeout() -> DurationText {
        DurationText::s(30)
    }

    const fn connect_timeout() -> DurationText {
        DurationText::s(10)
    }

    /// What is wrong beyond single values.
    pub fn check(&self) -> Vec<Fault> {
        let mut faults = self.login().check();
        if self.values_max.get() == 0 {
            faults.push(Fault::new("values_max", "values_max is 0", "choose a size such as \"512 MiB\""));
        }
        faults.extend(check_times(&[("timeout", self.timeout), ("connect_timeout", self.connect_timeout)]));
        if self.retry.delay_min > self.retry.delay_max {
            faults.push(Fault::new("retry.delay_min", "delay_min is longer than delay_max", "swap them"));
        }
        faults
    }

    /// How to connect.
    ///
    /// # Errors
    /// Where certificates cannot be read, in words for the user.
    pub fn settings(&self) -> Result<Settings, String> {
        self.login().settings(self.connect_timeout.get())
    }

    fn login(&self) -> DiffusionLogin<'_> {
        DiffusionLogin { url: &self.url, username: self.username.as_deref(), password: self.password.as_ref(), tls: &self.tls }
    }
}

/// Durations that must not be 0.
pub fn check_times(times: &[(&str, DurationText)]) -> Vec<Fault> {
    let zero = times.iter().filter(|(_, duration)| duration.get().is_zero());
    zero.map(|(key, _)| Fault::new(key, format!("{key} is 0"), "no answer comes in no time; leave it out for the default")).collect()
}

/// What a topic selector may be, as far as it can be told without the server: wrong, and the remedy.
pub fn check_selector(selector: &str) -> Option<(&'static str, &'static str)> {
    const FORMS: &str = "write a topic path, \"?shop//\" for a branch or \"*^shop/.*\" for a regular expression";
    if selector.is_empty() {
        return Some(("the topic selector is empty", FORMS));
    }
    if selector.len() > SELECTOR_BYTES_MAX {
        return Some(("the topic selector is longer than 8192 bytes", "split it: a route takes any number of them"));
    }
    if selector.chars().any(char::is_control) {
        return Some(("the topic selector has a control character", FORMS));
    }
    if selector.starts_with(['$', '%', '&', '<']) {
        return Some(("no topic selector begins so", "write \">\" in front of a topic path that does"));
    }
    None
}

/// Where a server is, and who logs in.
#[derive(Debug, Clone, Copy)]
pub struct DiffusionLogin<'a> {
    /// Where it listens.
    pub url: &'a DiffusionUrl,
    /// The principal.
    pub username: Option<&'a str>,
    /// Its password.
    pub password: Option<&'a Secret>,
    /// Certificates.
    pub tls: &'a Tls,
}

impl DiffusionLogin<'_> {
    /// What is wrong beyond single values.
    pub fn check(&self) -> Vec<Fault> {
        let mut faults = self.tls.check();
        let has_certificates = self.tls.ca.is_some() || self.tls.cert.is_some();
        if has_certificates && !self.url.0.is_tls() {
            faults.push(Fault::new("tls", "the connection is not encrypted, so certificates are of no use", "write wss:// in `url`"));
        }
        match (self.username, self.password) {
            (Some(_), None) => faults.push(Fault::new("username", "a user without a password", "add password = { env = \"NAME\" }")),
            (None, Some(_)) => faults.push(Fault::new("password", "a password without a user", "add username = \"NAME\"")),
            _ => {}
        }
        if self.username.is_some_and(|name| name.is_empty() || name.chars().any(char::is_control)) {
            let wrong = "the user name is empty, or has a control character";
            faults.push(Fault::new("username", wrong, "write the principal's name; leave `username` out for an anonymous session"));
        }
        faults
    }

    /// How to connect within `timeout`.
    ///
    /// # Errors
    /// Where certificates cannot be read, in words for the user.
    pub fn settings(&self, timeout: Duration) -> Result<Settings, String> {
        let read = |path: &std::path::Path| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
        let tls = if self.url.0.is_tls() {
            let ca = self.tls.ca.as_ref().map(|path| read(path)).transpose()?;
            let client = self.tls.cert.as_ref().zip(self.tls.key.as_ref());
            let client = client.map(|(cert, key)| Ok::<_, String>((read(cert)?, read(key)?))).transpose()?;
            Some(connect::tls(&Certificates { ca, client })?)
        } else {
            None
        };
        Ok(Settings {
            url: self.url.0.clone(),
            username: self.username.unwrap_or_default().to_owned(),
            password: self.password.map(|password| password.expose().into()),
            tls,
            timeout,
        })
    }
}

/// A checked `url` of a Diffusion server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiffusionUrl(ServerUrl);

impl FromStr for DiffusionUrl {
    type Err = Remedy;

    fn from_str(text: &str) -> Result<Self, Remedy> {
        text.parse().map(DiffusionUrl).map_err(|error: UrlError| {
            let remedy = match error {
                UrlError::Credentials => "take them out of it and use `username` and `password`, which is never printed",
                UrlError::Query => "leave it out: parameters of the connection are keys of their own",
                UrlError::Invalid(..) | UrlError::Scheme(_) => "write it as \"ws://host:port\", or \"wss://host:port\" for TLS",
            };
            Remedy::new(error.to_string(), remedy)
        })
    }
}

impl fmt::Display for DiffusionUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for DiffusionUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Serialize for DiffusionUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for DiffusionUrl {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "url of a Diffusion server".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "title": "URL", "pattern": "^wss?://", "examples": ["ws://localhost:8080"] })
    }
}
