//! `[route.NAME]`: from topics through plugins to sinks.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::text::{ByteSize, DurationText, Name, Pattern, Remedy};
use super::tree::{AnyTable, PluginConfig};

/// A route, checked.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its name.
    pub name: Name,
    /// The source that it reads.
    pub from: Name,
    /// The registry that it asks for schemas.
    pub registry: Option<Name>,
    /// What it reads.
    pub topics: Topics,
    /// How keys are decoded.
    pub key: KeyFormat,
    /// How values are decoded.
    pub value: ValueFormat,
    /// The plugins, in order.
    pub through: Vec<Step>,
    /// The sinks, at least one.
    pub to: Vec<Name>,
    /// The sink of its dead letters.
    pub dead_letters: Option<Name>,
    /// What becomes of later records of a dead letter's key.
    pub after_dead_letter: AfterDeadLetter,
    /// Its consumer group.
    pub group: String,
    /// Where a group without committed offsets starts.
    pub start: Start,
    /// How records are gathered into batches.
    pub batch: BatchLimits,
    /// Bytes of records that may be in flight.
    pub in_flight_max: ByteSize,
    /// Threads that decode and call plugins.
    pub workers: u32,
    /// What becomes of records that cannot be delivered.
    pub on_error: OnError,
    /// Longest wait for sinks when a partition leaves.
    pub revoke_deadline: DurationText,
    /// Time between commits of offsets.
    pub commit_interval: DurationText,
    /// How long a definite "no such schema" is asked again.
    pub unknown_schema_wait: DurationText,
    /// Rewinds of a partition without progress before the route stops.
    pub rewinds_max: u32,
    /// What is done where the topic does not hold the offset at which reading would go on.
    pub out_of_range: OutOfRange,
    /// When there are so many dead letters that the route stops.
    pub breaker: Breaker,
    /// `[route.NAME]` in the file.
    pub at: Range<usize>,
}

/// One plugin of a route.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its name: always a key of `Config::plugins`.
    pub plugin: Name,
    /// What `init` gets: the step's own, or the plugin's, or `{}`.
    pub config: PluginConfig,
    /// The plugin's name in the route.
    pub at: Range<usize>,
}

/// What a route reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topics {
    /// These.
    List(Vec<String>),
    /// All whose names match; it starts with `^`.
    Regex(Pattern),
}

impl Topics {
    /// Whether a topic is one of them.
    pub fn contains(&self, topic: &str) -> bool {
        match self {
            Topics::List(list) => list.iter().any(|listed| listed == topic),
            Topics::Regex(pattern) => pattern.is_match(topic),
        }
    }
}

/// How keys are decoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyFormat {
    /// Bytes as they are.
    #[default]
    Raw,
    /// UTF-8 text.
    String,
    /// Avro with the registry's prefix.
    Avro,
    /// JSON text, with or without the registry's prefix.
    Json,
}

/// How values are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ValueFormat {
    /// Avro with the registry's prefix.
    Avro,
    /// JSON text, with or without the registry's prefix.
    Json,
    /// Bytes as they are.
    Raw,
}

impl<'de> Deserialize<'de> for ValueFormat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Cow::<str>::deserialize(deserializer)?.as_ref() {
            "avro" => Ok(ValueFormat::Avro),
            "json" => Ok(ValueFormat::Json),
            "raw" => Ok(ValueFormat::Raw),
            later @ ("debezium" | "protobuf") => Err(D::Error::custom(Remedy::new(
                format!("the value format \"{later}\" is not built yet"),
                "this build decodes \"avro\", \"json\" and \"raw\"",
            ))),
            other => Err(D::Error::unknown_variant(other, &["avro", "json", "raw"])),
        }
    }
}

/// Where a group without committed offsets starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// At the oldest record that is kept.
    #[default]
    Earliest,
    /// Behind the newest record.
    Latest,
    /// At the first record of this time or later, milliseconds since 1970-01-01T00:00Z.
    Timestamp(i64),
    /// At these offsets, by topic and partition; other partitions at their oldest record.
    Offsets(BTreeMap<String, BTreeMap<i32, i64>>),
}

/// What is done where a topic does not hold the offset at which reading would go on: its records were deleted before they were read, or
/// the topic was made anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutOfRange {
    /// The route stops and says what is missing.
    #[default]
    Stop,
    /// It goes on at the oldest record.
    Earliest,
    /// It goes on behind the newest record.
    Latest,
}

/// What becomes of later records with the key of a dead letter, in its partition, where decoding or a plugin gave it up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AfterDeadLetter {
    /// They go on, and keys that were remembered are forgotten.
    #[default]
    GoOn,
    /// They follow it, also after a restart; more than 64 such keys of a partition stop the route.
    DeadLetter,
}

/// How many dead letters are too many: then it is no bad record, but a bad plugin, schema or sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Breaker {
    /// More dead letters than this among the last `records` stop the route; as many as `records`: never.
    pub dead_letters: u32,
    /// How many records are looked back.
    pub records: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker { dead_letters: 5_000, records: 10_000 }
    }
}

/// How records are gathered into batches; whatever is reached first ends one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BatchLimits {
    /// Records.
    pub records_max: u32,
    /// Bytes of keys, values and headers; a larger record is a batch of its own.
    pub bytes_max: ByteSize,
    /// How long the first record waits for others.
    pub linger: DurationText,
}

impl Default for BatchLimits {
    fn default() -> Self {
        BatchLimits { records_max: 1024, bytes_max: ByteSize::kib(512), linger: DurationText::ms(5) }
    }
}

/// What becomes of records that cannot be delivered, by class of the reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OnError {
    /// Bytes that are not what format and schema say.
    pub decode: Action,
    /// The registry has no such schema.
    pub schema: Action,
    /// A plugin rejected the record.
    pub plugin_reject: Action,
    /// A plugin trapped at the record.
    pub plugin_trap: Action,
    /// A plugin took longer than its deadline for the record.
    pub plugin_timeout: Action,
    /// What a plugin returned is invalid.
    pub plugin_output: Action,
    /// The destination is not one that the sink can have.
    pub destination_invalid: Action,
    /// The sink refused the record for good.
    pub sink_permanent: Action,
    /// The sink refused the record as often as it was to be tried.
    pub sink_retry_exhausted: Action,
    /// The record is larger than the sink takes.
    pub oversize: Action,
}

/// What becomes of a record that cannot be delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It goes to the sink of the dead letters; without one the route stops.
    #[default]
    DeadLetter,
    /// It is counted and forgotten.
    Drop,
    /// The route stops.
    Stop,
    /// Its partition is read again, `rewinds_max` times at most.
    Retry,
}

/// `[route.NAME]`: from topics through plugins to sinks.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["topics", "value", "to"]))]
pub(super) struct RouteWritten {
    /// Name of the source; only needed where there are several.
    #[serde(default)]
    #[schemars(with = "Option<Name>")]
    pub from: Option<Spanned<String>>,
    /// Name of the registry; only needed where there are several.
    #[serde(default)]
    #[schemars(with = "Option<Name>")]
    pub registry: Option<Spanned<String>>,
    /// The topics: a list of names, or `{ regex = '^..' }`; of a Diffusion source a list of topic selectors.
    #[serde(default)]
    #[schemars(with = "TopicsWritten")]
    pub topics: Option<Spanned<TopicsWritten>>,
    /// How keys are decoded.
    #[serde(default)]
    pub key: KeyFormat,
    /// How values are decoded.
    #[serde(default)]
    #[schemars(with = "ValueFormat")]
    pub value: Option<Spanned<ValueFormat>>,
    /// The plugins in order: names, or `{ plugin = NAME, config = { .. } }`.
    #[serde(default)]
    pub through: Vec<StepWritten>,
    /// The sinks.
    #[serde(default)]
    #[schemars(with = "Vec<Name>")]
    pub to: Option<Spanned<Vec<Spanned<String>>>>,
    /// The sink for records that cannot be delivered; without one such a record stops the route.
    #[serde(default)]
    #[schemars(with = "Option<Name>")]
    pub dead_letters: Option<Spanned<String>>,
    /// What becomes of later records with the key of a dead letter, in its partition, where decoding or a plugin gave it up.
    #[serde(default)]
    pub after_dead_letter: AfterDeadLetter,
    /// The consumer group; without it `anabranch-NAME`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub group: Option<Spanned<String>>,
    /// Where a group without committed offsets starts: `"earliest"`, `"latest"`, `{ timestamp = 2026-01-31T00:00:00Z }` or `{ offsets = { TOPIC = { PARTITION = OFFSET } } }`.
    #[serde(default)]
    #[schemars(with = "StartWritten")]
    pub start: StartWritten,
    /// How records are gathered into batches; whatever is reached first ends one.
    #[serde(default)]
    pub batch: BatchLimits,
    /// Bytes of records that may be in flight.
    #[serde(default = "RouteWritten::in_flight_max")]
    pub in_flight_max: ByteSize,
    /// Threads that decode and call plugins; 0: one for each core.
    #[serde(default)]
    pub workers: u32,
    /// What becomes of records that cannot be delivered, by class of the reason.
    #[serde(default)]
    pub on_error: OnError,
    /// Longest wait for sinks when a partition leaves; what is not durable then is read again.
    #[serde(default = "RouteWritten::revoke_deadline")]
    pub revoke_deadline: DurationText,
    /// Time between commits of offsets.
    #[serde(default = "RouteWritten::commit_interval")]
    pub commit_interval: DurationText,
    /// How long a schema id that the registry does not know is asked again before its records become dead letters.
    #[serde(default = "RouteWritten::unknown_schema_wait")]
    pub unknown_schema_wait: DurationText,
    /// Rewinds of a partition without progress before the route stops.
    #[serde(default = "RouteWritten::rewinds_max")]
    pub rewinds_max: u32,
    /// What is done where a topic does not hold the offset at which reading would go on.
    #[serde(default)]
    pub out_of_range: OutOfRange,
    /// How many dead letters are too many.
    #[serde(default)]
    pub breaker: Breaker,
}

impl RouteWritten {
    const fn in_flight_max() -> ByteSize {
        ByteSize::mib(16)
    }

    const fn revoke_deadline() -> DurationText {
        DurationText::s(10)
    }

    const fn commit_interval() -> DurationText {
        DurationText::s(5)
    }

    const fn unknown_schema_wait() -> DurationText {
        DurationText::s(60)
    }

    const fn rewinds_max() -> u32 {
        10
    }
}

/// A list of names, or a table with a pattern.
#[derive(Debug, Clone)]
pub(super) enum TopicsWritten {
    List(Vec<Spanned<String>>),
    Regex(Spanned<Pattern>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RegexWritten {
    regex: Spanned<Pattern>,
}

impl<'de> Deserialize<'de> for TopicsWritten {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListOrTable;
        impl<'de> Visitor<'de> for ListOrTable {
            type Value = TopicsWritten;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("topics\nwrite [\"orders\"] or { regex = '^shop\\..*' }")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<TopicsWritten, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(list)).map(TopicsWritten::List)
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<TopicsWritten, A::Error> {
                RegexWritten::deserialize(MapAccessDeserializer::new(table)).map(|written| TopicsWritten::Regex(written.regex))
            }
        }
        deserializer.deserialize_any(ListOrTable)
    }
}

impl JsonSchema for TopicsWritten {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "topics".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "title": "topics", "anyOf": [
            { "type": "array", "items": { "type": "string" }, "minItems": 1 },
            { "type": "object", "properties": { "regex": { "type": "string", "format": "regex", "pattern": "^\\^" } },
              "required": ["regex"], "additionalProperties": false }
        ] })
    }
}

/// A plugin's name, or a table with its configuration for this step.
#[derive(Debug, Clone)]
pub(super) struct StepWritten {
    pub plugin: Spanned<String>,
    pub has_config: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepTable {
    plugin: Spanned<String>,
    #[serde(default)]
    config: Option<AnyTable>,
}

impl<'de> Deserialize<'de> for StepWritten {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrTable;
        impl<'de> Visitor<'de> for NameOrTable {
            type Value = Step0;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a plugin\nwrite \"NAME\" or { plugin = \"NAME\", config = { .. } }")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Step0, E> {
                Ok(Step0::Name(name.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Step0, A::Error> {
                StepTable::deserialize(MapAccessDeserializer::new(table)).map(Step0::Table)
            }
        }
        /// Before the place of a bare name is known.
        enum Step0 {
            Name(String),
            Table(StepTable),
        }
        struct Either(Step0);
        impl<'de> Deserialize<'de> for Either {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(NameOrTable).map(Either)
            }
        }
        let either = Spanned::<Either>::deserialize(deserializer)?;
        let at = either.span();
        Ok(match either.into_inner().0 {
            Step0::Name(name) => StepWritten { plugin: Spanned::new(at, name), has_config: false },
            Step0::Table(table) => StepWritten { plugin: table.plugin, has_config: table.config.is_some() },
        })
    }
}

impl JsonSchema for StepWritten {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "step".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "title": "plugin", "anyOf": [
            { "type": "string" },
            { "type": "object", "properties": { "plugin": { "type": "string" }, "config": { "type": "object" } },
              "required": ["plugin"], "additionalProperties": false }
        ] })
    }
}

/// As written: a word or a table of one key.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub(super) struct StartWritten(pub Start);

const START_REMEDY: &str =
    "write \"earliest\", \"latest\", { timestamp = 2026-01-31T00:00:00Z } or { offsets = { orders = { 0 = 1200 } } }";

impl<'de> Deserialize<'de> for StartWritten {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "snake_case")]
        enum Place {
            Timestamp,
            Offsets,
        }
        struct WordOrTable;
        impl<'de> Visitor<'de> for WordOrTable {
            type Value = StartWritten;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a place to start\n{START_REMEDY}")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<StartWritten, E> {
                match word {
                    "earliest" => Ok(StartWritten(Start::Earliest)),
                    "latest" => Ok(StartWritten(Start::Latest)),
                    other => Err(E::custom(Remedy::new(format!("\"{other}\" is no place to start"), START_REMEDY))),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<StartWritten, A::Error> {
                let one = || A::Error::custom(Remedy::new("a start is one place", START_REMEDY));
                let start = match table.next_key()? {
                    Some(Place::Timestamp) => Start::Timestamp(table.next_value::<Moment>()?.0),
                    Some(Place::Offsets) => Start::Offsets(table.next_value()?),
                    None => return Err(one()),
                };
                if table.next_key::<Place>()?.is_some() { Err(one()) } else { Ok(StartWritten(start)) }
            }
        }
        deserializer.deserialize_any(WordOrTable)
    }
}

impl JsonSchema for StartWritten {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "start".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "title": "start", "anyOf": [
            { "enum": ["earliest", "latest"] },
            { "type": "object", "properties": { "timestamp": { "type": ["string", "integer"] } }, "required": ["timestamp"],
              "additionalProperties": false },
            { "type": "object", "properties": { "offsets": { "type": "object" } }, "required": ["offsets"], "additionalProperties": false }
        ] })
    }
}

/// Milliseconds since 1970-01-01T00:00Z, written as a number or as a date with time and zone.
struct Moment(i64);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrDate;
        impl Visitor<'_> for NumberOrDate {
            type Value = Moment;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a moment\nwrite 2026-01-31T00:00:00Z, or milliseconds since 1970")
            }

            fn visit_i64<E: Error>(self, ms: i64) -> Result<Moment, E> {
                Ok(Moment(ms))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Moment, E> {
                let moment = chrono::DateTime::parse_from_rfc3339(text).map_err(|_| {
                    let remedy = "write it with date, time and zone: 2026-01-31T00:00:00Z";
                    E::custom(Remedy::new(format!("\"{text}\" is not a moment"), remedy))
                })?;
                Ok(Moment(moment.timestamp_millis()))
            }
        }
        deserializer.deserialize_any(NumberOrDate)
    }
}
