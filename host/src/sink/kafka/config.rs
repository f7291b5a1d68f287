//! The configuration of `[sink.NAME.kafka]`.
//!
//! Invariant: what makes delivery certain (idempotence, all in-sync replicas, no time limit) cannot be switched off.

use std::borrow::Cow;
use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{DurationText, Fault, OWNED_BY_SINK, Property, Security, check_brokers, check_properties};
use crate::value::JsonOptions;

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
    /// Which characters of a destination become `_`, so that it is the name of a topic.
    #[serde(default)]
    pub replace: Replace,
    /// What a record's value becomes.
    #[serde(default)]
    pub value: Payload,
    /// How decimals, bytes and times are written with `value = "json"`.
    #[serde(default)]
    pub json: JsonOptions,
    /// Which partition a record goes to.
    #[serde(default)]
    pub partition: Partition,
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

/// Which characters of a destination become `_`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Replace {
    /// None: a record whose destination cannot be a topic becomes a dead letter.
    #[default]
    None,
    /// Slashes, as Diffusion's connector for Kafka does with topic paths.
    Slashes,
    /// All that a topic's name cannot have; different destinations may become the same topic.
    All,
}

impl Replace {
    /// The name of the topic that `destination` stands for.
    pub(super) fn name(self, destination: &str) -> Cow<'_, str> {
        let fits = |c: char| match self {
            Replace::None => true,
            Replace::Slashes => c != '/',
            Replace::All => c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'),
        };
        if self == Replace::All && matches!(destination, "." | "..") {
            return Cow::Owned("_".repeat(destination.len()));
        }
        if destination.chars().all(fits) {
            return Cow::Borrowed(destination);
        }
        Cow::Owned(destination.chars().map(|c| if fits(c) { c } else { '_' }).collect())
    }
}

/// What a record's value becomes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// Its bytes as they are, with the registry's prefix where they have one.
    #[default]
    Bytes,
    /// JSON text.
    Json,
}

/// Which partition a record goes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Partition {
    /// That of its key, as Java's producer chooses it; records without a key go anywhere.
    #[default]
    Key,
    /// The one with the same number as where it came from.
    Same,
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

impl Compression {
    fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
            Compression::Snappy => "snappy",
            Compression::Gzip => "gzip",
        }
    }
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

    /// The same for librdkafka, secrets among the values.
    pub(super) fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", self.brokers.join(","))
            .set("client.id", "anabranch")
            .set("linger.ms", self.linger.get().as_millis().to_string())
            .set("compression.codec", self.compression.name())
            // The partition of a key is the one that Java's producer chooses.
            .set("partitioner", "murmur2_random")
            // What a topic takes is for its broker to say. It refuses a record beyond that, and ends the connection of a request beyond 100 MiB.
            .set("message.max.bytes", (32 << 20).to_string())
            // What waits here holds its batch's share of the route's budget as well, so a large queue gains nothing.
            .set("queue.buffering.max.kbytes", "65536")
            .set("queue.buffering.max.messages", "200000");
        for (name, Property(value)) in &self.properties {
            client.set(name, value);
        }
        for (name, value) in self.security.properties() {
            client.set(name, value);
        }
        // Brokers that are away are waited for: a time limit would turn an outage into lost order.
        client.set("enable.idempotence", "true").set("acks", "all").set("message.timeout.ms", "0");
        client.set_log_level(rdkafka::config::RDKafkaLogLevel::Info);
        client
    }
}
