//! The configuration of `[sink.NAME.kafka]`.
//!
//! Invariant: what makes delivery certain (idempotence, all in-sync replicas, no time limit) cannot be switched off.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{ByteSize, DurationText, Fault, FilePath, Name, OWNED_BY_SINK, Property, Security, check_brokers, check_properties};
use crate::value::{Encoder, JsonOptions, Schema};

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
    /// What a record's key becomes.
    #[serde(default)]
    pub key: KeyPayload,
    /// What a record's value becomes.
    #[serde(default)]
    pub value: Payload,
    /// The file of the Avro schema of values that have none of their own, such as JSON; with `value = "avro"`.
    #[serde(default)]
    pub schema: Option<FilePath>,
    /// The registry of keys and values that become `"avro"`; only needed where there are several.
    #[serde(default)]
    pub registry: Option<Name>,
    /// What the subject of a schema is called.
    #[serde(default)]
    pub subject: Subject,
    /// Whether schemas are registered; without it they have to be there.
    #[serde(default = "Config::register")]
    pub register: bool,
    /// How decimals, bytes and times are written with `value = "json"`, and read where values become Avro by `schema`.
    #[serde(default)]
    pub json: JsonOptions,
    /// Which partition a record goes to.
    #[serde(default)]
    pub partition: Partition,
    /// Which partition a key has, with `partition = "key"`.
    #[serde(default)]
    pub partitioner: Partitioner,
    /// How topics that are not there are created; without it they have to be there.
    #[serde(default)]
    pub create_topics: Option<CreateTopics>,
    /// Whether each record is written exactly once: records and the offsets of what was read are committed together, in transactions.
    #[serde(default)]
    pub exactly_once: bool,
    /// When a transaction is committed; whatever is reached first.
    #[serde(default)]
    pub transaction: Bounds,
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
    /// Avro with the registry's prefix, under the subject of this topic. The bytes of a value that has an Avro schema stay; others need `schema`.
    Avro,
}

/// What a record's key becomes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyPayload {
    /// Its bytes as they are, with the registry's prefix where they have one.
    #[default]
    Bytes,
    /// Avro with the registry's prefix, under the subject of this topic; only a key that has an Avro schema can become this.
    Avro,
}

/// What the subject of a schema is called: as Confluent's serializers do it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// `TOPIC-key` and `TOPIC-value`.
    #[default]
    TopicName,
    /// The full name of the record that the schema describes.
    RecordName,
    /// `TOPIC-` and the full name of the record.
    TopicRecordName,
}

/// How topics are created; what is left out is what the brokers decide.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CreateTopics {
    /// Partitions of a topic.
    pub partitions: Option<NonZeroU32>,
    /// Replicas of each partition.
    pub replication: Option<NonZeroU16>,
    /// The topic's own settings, such as `"retention.ms"`.
    pub config: BTreeMap<String, Property>,
}

/// When a transaction is committed. Records are seen by readers of committed records only then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Bounds {
    /// Records.
    pub records_max: NonZeroU32,
    /// Bytes of keys and values.
    pub bytes_max: ByteSize,
    /// Time since its first record.
    pub age_max: DurationText,
    /// After so long without an end the brokers abort it: what a process left behind that was killed holds up readers of committed records for so long.
    pub timeout: DurationText,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            records_max: NonZeroU32::new(100_000).expect("100,000 is not 0"),
            bytes_max: ByteSize::mib(32),
            age_max: DurationText::ms(200),
            timeout: DurationText::s(30),
        }
    }
}

/// Which partition a record goes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Partition {
    /// That of its key, as `partitioner` chooses it.
    #[default]
    Key,
    /// The one with the same number as where it came from.
    Same,
}

/// Which partition a key has, by librdkafka's names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Partitioner {
    /// As Java's producer chooses it; records without a key go anywhere.
    #[default]
    Murmur2Random,
    /// The same; records without a key all go to one partition.
    Murmur2,
    /// CRC32, as librdkafka's own default; records without a key, or with an empty one, go anywhere.
    ConsistentRandom,
    /// The same; records without a key all go to one partition.
    Consistent,
    /// FNV-1a, as Sarama chooses it; records without a key go anywhere.
    Fnv1aRandom,
    /// The same; records without a key all go to one partition.
    Fnv1a,
    /// Anywhere, whatever the key: a key has no order then.
    Random,
}

impl Partitioner {
    /// As librdkafka calls it.
    fn name(self) -> &'static str {
        match self {
            Partitioner::Murmur2Random => "murmur2_random",
            Partitioner::Murmur2 => "murmur2",
            Partitioner::ConsistentRandom => "consistent_random",
            Partitioner::Consistent => "consistent",
            Partitioner::Fnv1aRandom => "fnv1a_random",
            Partitioner::Fnv1a => "fnv1a",
            Partitioner::Random => "random",
        }
    }
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

    const fn register() -> bool {
        true
    }

    /// Whether keys or values become Avro.
    pub fn has_avro(&self) -> bool {
        self.key == KeyPayload::Avro || self.value == Payload::Avro
    }

    /// What is wrong beyond single values.
    pub fn check(&self) -> Vec<Fault> {
        let mut faults = if self.brokers.is_empty() { Vec::new() } else { check_brokers(&self.brokers) };
        faults.extend(self.security.check());
        faults.extend(self.topic.as_deref().and_then(|topic| crate::config::check_topic("topic", topic)));
        faults.extend(check_properties(&self.properties, &OWNED_BY_SINK));
        faults.extend(self.transaction.check());
        if self.schema.is_some() && self.value != Payload::Avro {
            faults.push(Fault::new("schema", "a schema, and values do not become Avro", "add value = \"avro\", or leave schema out"));
        } else if let Err(wrong) = self.encoder() {
            faults.push(Fault::new("schema", wrong, "name a file that holds one Avro schema as JSON text"));
        }
        faults
    }

    /// What makes Avro of values that have no schema; `None`: nothing does.
    ///
    /// # Errors
    /// Where the file cannot be read or holds no usable schema, in words for the user.
    pub(super) fn encoder(&self) -> Result<Option<Arc<Encoder>>, String> {
        let Some(path) = &self.schema else { return Ok(None) };
        let text = std::fs::read_to_string(path).map_err(|error| format!("the file {} cannot be read: {error}", path.display()))?;
        let encoder = Schema::avro(&text, &[]).and_then(|schema| Encoder::new(Arc::new(schema), self.json));
        encoder.map(|encoder| Some(Arc::new(encoder))).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// The same for librdkafka, secrets among the values. `transactional_id`: of a producer of transactions.
    pub(super) fn client(&self, transactional_id: Option<&str>) -> ClientConfig {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", self.brokers.join(","))
            .set("client.id", "anabranch")
            .set("linger.ms", self.linger.get().as_millis().to_string())
            .set("compression.codec", self.compression.name())
            .set("partitioner", self.partitioner.name())
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
        if let Some(id) = transactional_id {
            client.set("transactional.id", id).set("transaction.timeout.ms", self.transaction.timeout.get().as_millis().to_string());
        }
        client.set_log_level(rdkafka::config::RDKafkaLogLevel::Info);
        client
    }
}

impl Bounds {
    fn check(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.bytes_max.get() == 0 {
            faults.push(Fault::new(
                "transaction.bytes_max",
                "bytes_max is 0",
                "a transaction holds at least one byte; leave it out for \"32 MiB\"",
            ));
        }
        // Brokers take no longer ones by default (`transaction.max.timeout.ms`), and nothing is done within a second.
        let range = Duration::from_secs(1)..=Duration::from_secs(15 * 60);
        if !range.contains(&self.timeout.get()) {
            let wrong = format!("timeout ({}) is not from \"1 s\" to \"15 m\"", self.timeout);
            faults.push(Fault::new("transaction.timeout", wrong, "leave it out for \"30 s\""));
        } else if self.age_max.get() * 2 > self.timeout.get() {
            let wrong = format!("age_max ({}) is more than half of timeout ({})", self.age_max, self.timeout);
            faults.push(Fault::new(
                "transaction.age_max",
                wrong,
                "the brokers would abort transactions that take their time: make it shorter",
            ));
        }
        faults
    }
}
