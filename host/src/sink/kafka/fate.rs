//! What becomes of a record that did not arrive: given up, waited for by reading again, or a reason to stop.
//!
//! Invariant: a record is given up only for what is wrong with itself or with its destination.

use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use super::config::Config;
use super::ready::topic;
use crate::dead::Class;
use crate::output::View;

/// See the module.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// Class and message of its dead letter.
    GiveUp(Class, String),
    /// What is wrong, and the remedy.
    Stop(String),
    /// The producer's own state, or nothing that is known here: read again.
    Rewind,
}

/// The fate of a record that was refused with `code`.
pub fn fate(config: &Config, view: View<'_>, code: RDKafkaErrorCode, error: &KafkaError) -> Fate {
    let topic = topic(config, view).unwrap_or_default();
    let brokers = config.brokers.join(",");
    match code {
        RDKafkaErrorCode::MessageSizeTooLarge => {
            let message = format!(
                "larger than topic {topic:?} takes ({error}): raise its max.message.bytes; where small records are refused too, \
                 set \"batch.size\" in `properties` below it"
            );
            Fate::GiveUp(Class::Oversize, message)
        }
        RDKafkaErrorCode::InvalidMessage | RDKafkaErrorCode::InvalidRecord | RDKafkaErrorCode::InvalidTimestamp => {
            Fate::GiveUp(Class::SinkPermanent, format!("topic {topic:?} refuses the record: {error}"))
        }
        RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::InvalidTopic => {
            let message = format!("{brokers} knows no topic {topic:?} ({error})");
            match view.destination() {
                Some(_) => Fate::GiveUp(Class::DestinationInvalid, message),
                None => Fate::Stop(format!("{message}: create it, or correct `topic`")),
            }
        }
        RDKafkaErrorCode::UnknownPartition => {
            Fate::Stop(format!("topic {topic:?} has no partition {}: add partitions, or set partition = \"key\"", view.partition()))
        }
        RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed => {
            Fate::Stop(format!("{brokers} lets this login not write to topic {topic:?} ({error}): grant it WRITE"))
        }
        _ => Fate::Rewind,
    }
}
