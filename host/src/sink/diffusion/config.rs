//! The configuration of `[sink.NAME.diffusion]`.
//!
//! Invariant: what can be checked without the sink's surroundings is checked where it is read, so that errors point at their place.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pattern::PathPattern;
use crate::config::{DiffusionLogin, DiffusionUrl, DurationText, Fault, Secret, Tls, check_times};
use crate::diffusion::connect::Settings;
use crate::value::PlainOptions;

/// More connections do not make a server faster.
const SESSIONS_MAX: usize = 64;
/// Beyond it more requests at a time only take memory: at 1 ms from answer to answer they are 10 million a second.
const IN_FLIGHT_MAX: usize = 10_000;

/// `[sink.NAME.diffusion]`: topics of a Diffusion server, version 6.9 or later.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the server listens; the path is `/diffusion` where none is given.
    pub url: DiffusionUrl,
    /// The principal to log in as; without it the sink is anonymous.
    #[serde(default)]
    pub username: Option<String>,
    /// Its password.
    #[serde(default)]
    pub password: Option<Secret>,
    /// Certificates for `wss`.
    #[serde(default)]
    pub tls: Tls,
    /// The topic path of a record; `${topic}`, `${partition}`, `${key}`, `${key.FIELD}`, `${value.FIELD}` and `${destination}` are
    /// replaced. Without it the record's destination is the path.
    #[serde(default)]
    pub path: Option<PathPattern>,
    /// How decimals, bytes and times are written.
    #[serde(default)]
    pub json: PlainOptions,
    /// What becomes of records without a value.
    #[serde(default)]
    pub tombstone: Tombstone,
    /// What becomes of values that the sink set last already.
    #[serde(default)]
    pub unchanged: Unchanged,
    /// Properties of topics that the sink creates, in the server's spelling, such as `DONT_RETAIN_VALUE = "true"`.
    #[serde(default)]
    pub topic_properties: BTreeMap<String, String>,
    /// Different topic paths; a record for one more becomes a dead letter. Each takes about 250 bytes of memory.
    #[serde(default = "Config::paths_max")]
    pub paths_max: NonZeroUsize,
    /// Connections to the server; each has topic paths of its own.
    #[serde(default = "Config::sessions")]
    pub sessions: NonZeroUsize,
    /// Updates of a connection that wait for their answers.
    #[serde(default = "Config::in_flight_max")]
    pub in_flight_max: NonZeroUsize,
    /// Updates of one topic path that wait for their answers; more than 1 trusts the server to make the updates of a connection in
    /// their order.
    #[serde(default = "Config::path_in_flight_max")]
    pub path_in_flight_max: NonZeroUsize,
    /// How long an answer may take before the connection counts as lost.
    #[serde(default = "Config::timeout")]
    pub timeout: DurationText,
    /// How long connecting and logging in may take.
    #[serde(default = "Config::connect_timeout")]
    pub connect_timeout: DurationText,
    /// How refused updates and lost connections are tried again.
    #[serde(default)]
    pub retry: Retry,
}

/// How refused updates and lost connections are tried again, with full jitter between the delays.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Tries before a record becomes a dead letter, where the server refuses it with a code that may go away; 0: without end. Lost
    /// connections do not count.
    pub attempts_max: u32,
    /// The longest first delay; it doubles from try to try.
    pub delay_min: DurationText,
    /// The longest delay.
    pub delay_max: DurationText,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { attempts_max: 0, delay_min: DurationText::ms(100), delay_max: DurationText::s(30) }
    }
}

/// What becomes of records without a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tombstone {
    /// The topic's value becomes null.
    #[default]
    Null,
    /// The topic is removed.
    Remove,
    /// Left out and counted.
    Skip,
}

/// What becomes of a value that is the one that the sink set last at this topic path, on this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unchanged {
    /// It is set again.
    #[default]
    Send,
    /// Left out and counted: for topics that nobody else sets.
    Skip,
}

impl Config {
    fn paths_max() -> NonZeroUsize {
        NonZeroUsize::new(1_000_000).expect("1,000,000 is not 0")
    }

    fn sessions() -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    fn in_flight_max() -> NonZeroUsize {
        NonZeroUsize::new(1000).expect("1000 is not 0")
    }

    fn path_in_flight_max() -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    const fn timeout() -> DurationText {
        DurationText::s(30)
    }

    const fn connect_timeout() -> DurationText {
        DurationText::s(10)
    }

    /// Whether paths are made of the destinations that plugins choose.
    pub fn takes_destination(&self) -> bool {
        self.path.as_ref().is_none_or(PathPattern::takes_destination)
    }

    /// What is wrong beyond single values.
    pub fn check(&self) -> Vec<Fault> {
        let mut faults = self.login().check();
        for (name, value) in &self.topic_properties {
            let fits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
            if !fits(name) {
                let wrong = "this is no topic property";
                faults.push(Fault::below("topic_properties", name, wrong, "names are in capitals, such as DONT_RETAIN_VALUE"));
            }
            if value.chars().any(char::is_control) {
                faults.push(Fault::below("topic_properties", name, "the value has a control character", "leave it out"));
            }
        }
        let bounded = [("sessions", self.sessions, SESSIONS_MAX), ("in_flight_max", self.in_flight_max, IN_FLIGHT_MAX)];
        for (key, found, most) in bounded {
            if found.get() > most {
                faults.push(Fault::new(key, format!("{key} is {found}"), format!("at most {most} make sense")));
            }
        }
        if self.path_in_flight_max > self.in_flight_max {
            let wrong = "a path has more updates in flight than its connection";
            faults.push(Fault::new("path_in_flight_max", wrong, "make it at most `in_flight_max`"));
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
    pub(super) fn settings(&self) -> Result<Settings, String> {
        self.login().settings(self.connect_timeout.get())
    }

    fn login(&self) -> DiffusionLogin<'_> {
        DiffusionLogin { url: &self.url, username: self.username.as_deref(), password: self.password.as_ref(), tls: &self.tls }
    }
}
