//! The demo's HTTP receiver: takes lines of JSON and counts the records in them.
//!
//! Invariant: a request that comes twice under one idempotency key counts once, as with every receiver that keeps at-least-once
//! delivery from showing.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use parking_lot::Mutex;

/// Larger bodies than the sink sends are a mistake.
const BODY_BYTES_MAX: usize = 16 << 20;
/// Keys that are remembered: retries come within seconds.
const KEYS_MAX: usize = 10_000;
/// Places that are counted: the demo has one for each country.
const PLACES_MAX: usize = 100;

/// What came; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Received(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    requests: u64,
    /// Records by place.
    records: BTreeMap<String, u64>,
    keys: Keys,
}

#[derive(Debug, Default)]
struct Keys {
    known: HashSet<Vec<u8>>,
    oldest_first: VecDeque<Vec<u8>>,
}

impl Received {
    /// Records so far.
    pub fn records(&self) -> u64 {
        self.0.lock().records.values().sum()
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.0.lock().requests
    }

    /// Records so far by the place that they were posted to, sorted.
    pub fn by_place(&self) -> Vec<(String, u64)> {
        self.0.lock().records.iter().map(|(place, count)| (place.clone(), *count)).collect()
    }
}

impl Keys {
    /// Whether `key` is new.
    fn add(&mut self, key: &[u8]) -> bool {
        if !self.known.insert(key.to_vec()) {
            return false;
        }
        self.oldest_first.push_back(key.to_vec());
        if self.oldest_first.len() > KEYS_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

/// The receiver as an HTTP service: `POST /orders/PLACE`.
pub fn service(received: Received) -> Router {
    Router::new().route("/orders/{place}", post(take)).layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(received)
}

async fn take(State(received): State<Received>, Path(place): Path<String>, headers: HeaderMap, body: Bytes) -> StatusCode {
    // JSON text has no line ends but those between its lines.
    let records = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count() as u64;
    let mut counts = received.0.lock();
    if headers.get("idempotency-key").is_none_or(|key| counts.keys.add(key.as_bytes())) {
        counts.requests += 1;
        let known = counts.records.len();
        match counts.records.get_mut(&place) {
            Some(count) => *count += records,
            None if known < PLACES_MAX => drop(counts.records.insert(place, records)),
            None => return StatusCode::NOT_FOUND,
        }
    }
    StatusCode::NO_CONTENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_once_however_often_it_comes() {
        let received = Received::default();
        let at = |place: &str| Path(place.to_owned());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("idempotency-key", "orders-http-orders-0-7-0".parse().unwrap());
        for _ in 0..2 {
            runtime.block_on(take(State(received.clone()), at("AT"), headers.clone(), Bytes::from_static(b"{\"a\":1}\n{\"a\":2}\n")));
        }
        runtime.block_on(take(State(received.clone()), at("DE"), HeaderMap::new(), Bytes::from_static(b"{\"a\":3}")));
        assert_eq!((received.records(), received.requests()), (3, 2));
        assert_eq!(received.by_place(), [("AT".to_owned(), 2), ("DE".to_owned(), 1)]);
    }
}
