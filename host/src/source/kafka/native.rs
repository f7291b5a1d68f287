//! What the safe API of rdkafka does not offer: ids of topics, whatever bytes others wrote beside their offsets, and who a consumer is to
//! its group.
//!
//! Invariant: everything that librdkafka hands over here is read before it is destroyed, and destroyed once.

#![allow(unsafe_code, reason = "rdkafka has no safe call for any of them")]

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka_sys as sys;

/// The id of a topic that has none.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// The ids of topics; those that the broker does not answer for, or that have none, are left out.
pub fn topic_ids<C: ConsumerContext>(consumer: &BaseConsumer<C>, topics: &[&str], timeout: Duration) -> HashMap<String, String> {
    let names: Vec<CString> = topics.iter().filter_map(|topic| CString::new(*topic).ok()).collect();
    let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let client = consumer.client().native_ptr();
    let mut ids = HashMap::new();
    if names.is_empty() {
        return ids;
    }
    // SAFETY: the client is alive as long as `consumer` is borrowed; collection, options, queue and event are made here and destroyed
    // below, in this order's reverse; the names outlive the call that copies them; what an event holds is read before it is destroyed.
    unsafe {
        let collection = sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        let options = sys::rd_kafka_AdminOptions_new(client, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        let queue = sys::rd_kafka_queue_new(client);
        sys::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, std::ptr::null_mut(), 0);
        sys::rd_kafka_DescribeTopics(client, collection, options, queue);
        let event = sys::rd_kafka_queue_poll(queue, timeout_ms);
        if !event.is_null() {
            let result = sys::rd_kafka_event_DescribeTopics_result(event);
            if !result.is_null() {
                let mut count = 0;
                let list = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
                for index in 0..count {
                    let description = *list.add(index);
                    let (name, id) =
                        (sys::rd_kafka_TopicDescription_name(description), sys::rd_kafka_TopicDescription_topic_id(description));
                    if name.is_null() || id.is_null() {
                        continue;
                    }
                    let id = sys::rd_kafka_Uuid_base64str(id);
                    if id.is_null() {
                        continue;
                    }
                    let text = |text| CStr::from_ptr(text).to_string_lossy().into_owned();
                    ids.insert(text(name), text(id));
                }
            }
            sys::rd_kafka_event_destroy(event);
        }
        sys::rd_kafka_queue_destroy(queue);
        sys::rd_kafka_AdminOptions_destroy(options);
        sys::rd_kafka_TopicCollection_destroy(collection);
    }
    ids.retain(|_, id| id != NO_ID);
    ids
}

/// The generation of the group in which the consumer is a member, and its name there; `None`: it is none at the moment.
pub fn membership<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<(i32, String)> {
    // SAFETY: the client is alive as long as `consumer` is borrowed; the metadata is owned here, read, and destroyed once.
    unsafe {
        let metadata = sys::rd_kafka_consumer_group_metadata(consumer.client().native_ptr());
        if metadata.is_null() {
            return None;
        }
        let generation = sys::rd_kafka_consumer_group_metadata_generation_id(metadata);
        let member = sys::rd_kafka_consumer_group_metadata_member_id(metadata);
        let member = if member.is_null() { String::new() } else { CStr::from_ptr(member).to_string_lossy().into_owned() };
        sys::rd_kafka_consumer_group_metadata_destroy(metadata);
        (generation >= 0 && !member.is_empty()).then_some((generation, member))
    }
}

/// What stands beside the offset of each element; what is not UTF-8 is another's, and nothing to us.
pub fn metadata(list: &TopicPartitionList) -> Vec<String> {
    // SAFETY: the list is valid while it is borrowed; its elements lie one behind the other, and each says how long its metadata is.
    unsafe {
        let list = &*list.ptr();
        let elements = usize::try_from(list.cnt).unwrap_or(0);
        let text = |index: usize| {
            let element = &*list.elems.add(index);
            if element.metadata.is_null() {
                return String::new();
            }
            let bytes = std::slice::from_raw_parts(element.metadata.cast::<u8>(), element.metadata_size);
            std::str::from_utf8(bytes).unwrap_or_default().to_owned()
        };
        (0..elements).map(text).collect()
    }
}
