//! `kafka`: records of a topic.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{DurationText, Fault, OWNED_BY_SINK, Property, Security, check_brokers, check_properties};

/// `[sink.NAME.kafka]`: records of a topic.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Brokers to ask first, as `host:port`; without them those of the only source.
    #[serde(default)]
    pub brokers: Vec<String>,
    /// Encryption and login; without `brokers` those of the only source.
    #[serde(default)]
    pub security: Security,
    /// The topic; a record's destination, where it has one, wins.
    #[serde(default)]
    pub topic: Option<String>,
    /// How long records wait to be sent together.
    #[serde(default = "Config::linger")]
    pub linger: DurationText,
    /// How records are compressed.
    #[serde(default)]
    pub compression: Compression,
    /// Properties of librdkafka, passed through as they are; those that the router sets itself are refused.
    #[serde(default)]
    pub properties: BTreeMap<String, Property>,
}

/// How records are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all.
    None,
    /// LZ4.
    #[default]
    Lz4,
    /// Zstandard.
    Zstd,
    /// Snappy.
    Snappy,
    /// Gzip.
    Gzip,
}

impl Config {
    const fn linger() -> DurationText {
        DurationText::ms(5)
    }

    /// What is wrong beyond single values.
    pub fn check(&self) -> Vec<Fault> {
        let mut faults = if self.brokers.is_empty() { Vec::new() } else { check_brokers(&self.brokers) };
        faults.extend(self.security.check());
        faults.extend(self.topic.as_deref().and_then(|topic| crate::config::check_topic("topic", topic)));
        faults.extend(check_properties(&self.properties, &OWNED_BY_SINK));
        faults
    }
}
