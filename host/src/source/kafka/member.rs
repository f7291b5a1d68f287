//! The membership of a route's consumer in its group, as a sink needs it that commits the group's offsets itself.
//!
//! Invariant: nothing here keeps the consumer alive; once the route lets go of it, there is no membership any more.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerGroupMetadata};

use super::group::Context;
use super::native;
use crate::ack::TopicPartition;

/// How long the group may take to tell its offsets.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// See the module; clones share it.
#[derive(Clone, Default)]
pub struct Member(Arc<Mutex<Weak<BaseConsumer<Context>>>>);

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Member")
    }
}

impl Member {
    /// The consumer from now on.
    pub fn set(&self, consumer: &Arc<BaseConsumer<Context>>) {
        *self.0.lock() = Arc::downgrade(consumer);
    }

    /// Who the consumer is to its group now: a transaction that names a member of the past is refused by the group. `None`: it is no
    /// member, or the route is ending.
    pub fn metadata(&self) -> Option<ConsumerGroupMetadata> {
        let consumer = self.consumer()?;
        // The group lets a transaction pass that names no member at all: metadata of in between two memberships must not be used.
        let before = native::membership(&consumer)?;
        let metadata = consumer.group_metadata()?;
        (native::membership(&consumer)? == before).then_some(metadata)
    }

    /// What the group committed, transactions that are not ended waited for. It may block.
    ///
    /// # Errors
    /// Where the brokers do not answer, in words for a log.
    pub fn committed<'n>(&self, names: impl Iterator<Item = &'n TopicPartition>) -> Result<HashMap<TopicPartition, i64>, String> {
        let consumer = self.consumer().ok_or("the route is ending")?;
        let mut list = TopicPartitionList::new();
        names.for_each(|name| _ = list.add_partition(&name.topic, name.partition));
        let found = consumer.committed_offsets(list, ANSWER_MAX).map_err(|error| error.to_string())?;
        let elements = found.elements().into_iter().map(|element| {
            element.error().map_err(|error| error.to_string())?;
            let name = TopicPartition { topic: element.topic().into(), partition: element.partition() };
            Ok((name, element.offset().to_raw().unwrap_or(-1)))
        });
        elements.collect()
    }

    fn consumer(&self) -> Option<Arc<BaseConsumer<Context>>> {
        self.0.lock().upgrade()
    }
}
