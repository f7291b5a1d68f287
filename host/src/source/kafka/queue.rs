//! Batched reads from librdkafka: one queue of ours that the queues of all partitions are forwarded to.
//!
//! Invariant: a message is looked at only during the callback that brings it, and the queue is destroyed before its client (the
//! consumer that made it is kept until then). This is one of the modules that may be `unsafe`: the safe API of rdkafka
//! reads one message a call, which costs half as much again per record.

#![allow(unsafe_code, reason = "librdkafka is C, and the safe API reads one message a call")]

use std::any::Any;
use std::ffi::{CStr, CString, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka_sys as sys;

/// Most messages that one call takes.
pub const MESSAGES_MAX: usize = 1024;

/// A queue of librdkafka that partitions are forwarded to. It may be shared between threads: librdkafka locks its queues.
pub struct Queue<C: ConsumerContext + 'static> {
    queue: *mut sys::rd_kafka_queue_t,
    consumer: Arc<BaseConsumer<C>>,
}

// SAFETY: `rd_kafka_queue_t` is a handle to a queue with a lock of its own; the functions used here may be called from any thread.
unsafe impl<C: ConsumerContext + 'static> Send for Queue<C> {}
// SAFETY: as above.
unsafe impl<C: ConsumerContext + 'static> Sync for Queue<C> {}

/// Where a message comes from, comparable without looking at the topic's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Identity of librdkafka's topic handle; it stays the same while the topic is assigned.
    pub topic: usize,
    /// Number of the partition; -1 for errors that concern no partition.
    pub partition: i32,
}

/// One thing that was read.
pub enum Item<'a> {
    /// A record.
    Record(Record<'a>),
    /// The consumer stands at the end of the partition: the next offset will be `position`.
    End {
        /// Name of the topic.
        topic: &'a str,
        /// Offset behind all records and control records that can be read now.
        position: i64,
    },
    /// An error that librdkafka reports through the queue.
    Error {
        /// Name of the topic, empty where the error concerns none.
        topic: &'a str,
        /// Which error.
        code: RDKafkaErrorCode,
        /// Librdkafka's words.
        reason: String,
    },
}

/// A record in librdkafka's memory.
pub struct Record<'a> {
    message: &'a sys::rd_kafka_message_t,
}

impl<C: ConsumerContext + 'static> Queue<C> {
    /// A new queue of the consumer's client.
    pub fn new(consumer: Arc<BaseConsumer<C>>) -> Self {
        // SAFETY: the client is alive while `consumer` is; the queue is destroyed in `drop`, before `consumer` is let go.
        let queue = unsafe { sys::rd_kafka_queue_new(consumer.client().native_ptr()) };
        Queue { queue, consumer }
    }

    /// Lets the records of a partition arrive here. Call it at every assign: librdkafka forgets it when a partition stops.
    pub fn forward(&self, topic: &str, partition: i32) {
        let Ok(topic) = CString::new(topic) else { return };
        // SAFETY: the client is alive; the partition's queue handle is owned here and destroyed after use, which only drops the
        // handle's reference, not the forwarding.
        unsafe {
            let from = sys::rd_kafka_queue_get_partition(self.consumer.client().native_ptr(), topic.as_ptr(), partition);
            if !from.is_null() {
                sys::rd_kafka_queue_forward(from, self.queue);
                sys::rd_kafka_queue_destroy(from);
            }
        }
    }

    /// Sends a commit and does not wait; the broker's answer comes to the context's `commit_callback` by the consumer's `poll`. The
    /// consumer's own `commit` has no way to tell of an answer: librdkafka hands it to a callback of C alone, and to nobody here.
    ///
    /// # Errors
    /// Where the client has no group.
    pub fn commit(&self, offsets: &TopicPartitionList) -> KafkaResult<()> {
        let client = self.consumer.client().native_ptr();
        // SAFETY: the client and the list are alive; the handle of the consumer's queue is owned here and destroyed after use, which
        // only drops the handle's reference. Without a callback the answer is an event of that queue.
        let code = unsafe {
            let events = sys::rd_kafka_queue_get_consumer(client);
            let code = sys::rd_kafka_commit_queue(client, offsets.ptr(), events, None, std::ptr::null_mut());
            sys::rd_kafka_queue_destroy(events);
            code
        };
        match RDKafkaErrorCode::from(code) {
            RDKafkaErrorCode::NoError => Ok(()),
            code => Err(KafkaError::ConsumerCommit(code)),
        }
    }

    /// Takes up to `messages_max` messages (at most [`MESSAGES_MAX`]) that arrive within `timeout`, in order of each partition, and
    /// hands each to `take`. Returns how many there were.
    ///
    /// By callback, and not by `rd_kafka_consume_batch_queue`: that one (2.12) counts the news that a partition's end is reached as a
    /// record, so that a partition which is paused there, as rebalances do, goes on one record too late.
    pub fn read<F: FnMut(Origin, Item<'_>)>(&self, messages_max: usize, timeout: Duration, mut take: F) -> usize {
        let size = messages_max.clamp(1, MESSAGES_MAX);
        let mut call = Call { take: &mut take, left: size, client: self.consumer.client().native_ptr(), panic: None };
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout_ms = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
            // SAFETY: `receive::<F>` gets the pointer to `call`, which outlives this call of the queue and is used by nobody else.
            let served =
                unsafe { sys::rd_kafka_consume_callback_queue(self.queue, timeout_ms, Some(receive::<F>), (&raw mut call).cast()) };
            if let Some(panic) = call.panic.take() {
                std::panic::resume_unwind(panic);
            }
            if served <= 0 || timeout_ms == 0 || call.left == 0 {
                return size - call.left;
            }
        }
    }
}

/// One call of [`Queue::read`], as its callback sees it.
struct Call<'t, F> {
    take: &'t mut F,
    left: usize,
    client: *mut sys::rd_kafka_t,
    /// Panics must not unwind through C.
    panic: Option<Box<dyn Any + Send>>,
}

/// # Safety
/// `message` is valid during the call, and `call` points to a [`Call`] of this `F` that nobody else uses.
unsafe extern "C" fn receive<F: FnMut(Origin, Item<'_>)>(message: *mut sys::rd_kafka_message_t, call: *mut c_void) {
    // SAFETY: see above.
    let (message, call) = unsafe { (&*message, &mut *call.cast::<Call<'_, F>>()) };
    let origin = Origin { topic: message.rkt as usize, partition: message.partition };
    let taken = catch_unwind(AssertUnwindSafe(|| (call.take)(origin, item(message))));
    call.panic = taken.err();
    call.left -= 1;
    if call.left == 0 || call.panic.is_some() {
        // SAFETY: the client is alive. What is left of this call's messages goes back to the head of the queue.
        unsafe { sys::rd_kafka_yield(call.client) }
    }
}

impl<C: ConsumerContext + 'static> Drop for Queue<C> {
    fn drop(&mut self) {
        // SAFETY: the queue was made in `new` and is destroyed once; the client is still alive.
        unsafe { sys::rd_kafka_queue_destroy(self.queue) }
    }
}

fn item(message: &sys::rd_kafka_message_t) -> Item<'_> {
    let topic = topic_name(message);
    match RDKafkaErrorCode::from(message.err) {
        RDKafkaErrorCode::NoError => Item::Record(Record { message }),
        RDKafkaErrorCode::PartitionEOF => Item::End { topic, position: message.offset },
        code => {
            // SAFETY: for an error message this is a valid, terminated string (or null) as long as the message lives.
            let text = unsafe { sys::rd_kafka_message_errstr(message) };
            // SAFETY: as above.
            let reason = if text.is_null() { String::new() } else { unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned() };
            Item::Error { topic, code, reason }
        }
    }
}

fn topic_name(message: &sys::rd_kafka_message_t) -> &str {
    if message.rkt.is_null() {
        return "";
    }
    // SAFETY: the topic handle is kept alive by the message; its name is a terminated string.
    unsafe { CStr::from_ptr(sys::rd_kafka_topic_name(message.rkt)) }.to_str().unwrap_or_default()
}

fn bytes<'a>(start: *const std::ffi::c_void, length: usize) -> Option<&'a [u8]> {
    if start.is_null() {
        return None;
    }
    // SAFETY: librdkafka gives a pointer to `length` bytes that live as long as the message; callers bind the lifetime to it.
    Some(unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length) })
}

impl<'a> Record<'a> {
    /// Name of the topic.
    pub fn topic(&self) -> &'a str {
        topic_name(self.message)
    }

    /// Number of the partition.
    pub fn partition(&self) -> i32 {
        self.message.partition
    }

    /// Offset.
    pub fn offset(&self) -> i64 {
        self.message.offset
    }

    /// Milliseconds since 1970-01-01T00:00Z; -1: none.
    pub fn timestamp(&self) -> i64 {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is valid; `kind` is a valid place to write to.
        unsafe { sys::rd_kafka_message_timestamp(self.message, &mut kind) }
    }

    /// Key; `None`: null.
    pub fn key(&self) -> Option<&'a [u8]> {
        bytes(self.message.key, self.message.key_len)
    }

    /// Value; `None`: null, a tombstone.
    pub fn value(&self) -> Option<&'a [u8]> {
        bytes(self.message.payload, self.message.len)
    }

    /// Hands each header to `take`, in order. Returns how many there were.
    pub fn headers(&self, mut take: impl FnMut(&[u8], Option<&[u8]>)) -> usize {
        let mut headers = std::ptr::null_mut();
        // SAFETY: the message is valid; on success `headers` points to headers that live as long as the message.
        if unsafe { sys::rd_kafka_message_headers(self.message, &mut headers) } != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return 0;
        }
        let mut index = 0;
        loop {
            let (mut name, mut value, mut size) = (std::ptr::null(), std::ptr::null(), 0);
            // SAFETY: the three places are valid to write to; librdkafka answers an error behind the last header.
            let answer = unsafe { sys::rd_kafka_header_get_all(headers, index, &mut name, &mut value, &mut size) };
            if answer != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return index;
            }
            // SAFETY: a header's name is a terminated string that lives as long as the message.
            take(unsafe { CStr::from_ptr(name) }.to_bytes(), bytes(value, size));
            index += 1;
        }
    }
}
