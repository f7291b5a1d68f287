//! An HTTP receiver with moods, which counts what it takes and keeps nothing else, so that it can run for hours.
//!
//! Invariant: a record counts as taken only where its request is answered with 200, and is counted before that answer goes out.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anabranch_tests::wait::until;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use serde_json::Value as Json;
use tokio::runtime::{Builder, Runtime};

/// Longest wait for the port, which is free again once the last connection is gone.
const BIND_MAX: Duration = Duration::from_secs(30);
const SLOW: Duration = Duration::from_millis(300);

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// 200; 422 for records that it refuses.
    Good,
    /// 429, to be tried again after a second.
    TooMany,
    /// 500.
    Broken,
    /// As `Good`, after a while.
    Slow,
    /// Never.
    Hanging,
}

struct Shared {
    mood: Mutex<Mood>,
    /// How often each record was taken, by path and id.
    taken: Mutex<[Vec<u16>; 2]>,
    refuses: fn(usize) -> bool,
}

/// The paths that it takes records at; those at the second come one by one, and may be refused.
pub const PATHS: [&str; 2] = ["/batches", "/fan"];

/// A receiver; it ends when it is dropped.
pub struct Receiver {
    shared: Arc<Shared>,
    port: u16,
    /// While it is up: with it all connections end.
    up: Mutex<Option<Runtime>>,
}

impl Receiver {
    /// Starts one that answers 422 to those records of the second path that `refuses` names.
    pub fn start(refuses: fn(usize) -> bool) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared { mood: Mutex::new(Mood::Good), taken: Mutex::default(), refuses });
        let up = Mutex::new(Some(serve(listener, shared.clone())));
        Receiver { shared, port, up }
    }

    /// A URL at this receiver.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Changes its mood.
    pub fn mood(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = mood;
    }

    /// Closes its port and all connections.
    pub fn go_down(&self) {
        if let Some(runtime) = self.up.lock().unwrap().take() {
            runtime.shutdown_background();
        }
    }

    /// Opens its port again.
    pub fn come_up(&self) {
        let listener = until("the receiver's port", BIND_MAX, || TcpListener::bind(("127.0.0.1", self.port)).ok());
        *self.up.lock().unwrap() = Some(serve(listener, self.shared.clone()));
    }

    /// How often each record was taken, by path and id.
    pub fn taken(&self) -> [Vec<u16>; 2] {
        self.shared.taken.lock().unwrap().clone()
    }

    /// How many records were taken at each path, each counted once.
    pub fn counts(&self) -> [usize; 2] {
        let taken = self.shared.taken.lock().unwrap();
        taken.each_ref().map(|times| times.iter().filter(|times| **times > 0).count())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.go_down();
    }
}

fn serve(listener: TcpListener, shared: Arc<Shared>) -> Runtime {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    listener.set_nonblocking(true).unwrap();
    let service = Router::new().fallback(take).layer(DefaultBodyLimit::disable()).with_state(shared);
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        axum::serve(listener, service).await.unwrap();
    });
    runtime
}

async fn take(State(shared): State<Arc<Shared>>, uri: Uri, body: Bytes) -> (StatusCode, HeaderMap) {
    let mood = *shared.mood.lock().unwrap();
    let mut headers = HeaderMap::new();
    match mood {
        Mood::Good => (),
        Mood::Slow => tokio::time::sleep(SLOW).await,
        Mood::Hanging => std::future::pending().await,
        Mood::Broken => return (StatusCode::INTERNAL_SERVER_ERROR, headers),
        Mood::TooMany => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            return (StatusCode::TOO_MANY_REQUESTS, headers);
        }
    }
    let Some(path) = PATHS.iter().position(|path| *path == uri.path()) else { return (StatusCode::NOT_FOUND, headers) };
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let ids: Vec<usize> = lines.map(|line| serde_json::from_slice::<Json>(line).unwrap()["id"].as_u64().unwrap() as usize).collect();
    if path == 1 && ids.iter().any(|id| (shared.refuses)(*id)) {
        return (StatusCode::UNPROCESSABLE_ENTITY, headers);
    }
    let times = &mut shared.taken.lock().unwrap()[path];
    for id in ids {
        if times.len() <= id {
            times.resize(id + 1, 0);
        }
        times[id] = times[id].saturating_add(1);
    }
    (StatusCode::OK, headers)
}
