//! An HTTP receiver: a real socket that keeps what comes, and answers as the test wants.
//!
//! Invariant: a request is kept before it is answered, in the order of arrival, whatever its answer is.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, Response, Uri};
use serde_json::Value as Json;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;

use crate::wait::until;
use crate::{RUNTIME, block_on};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// Method.
    pub method: String,
    /// Path, still encoded.
    pub path: String,
    /// Query, still encoded.
    pub query: Option<String>,
    /// Headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Body.
    pub body: Vec<u8>,
    /// The status that it was answered with.
    pub status: u16,
    /// When it had come whole.
    pub at: Instant,
}

impl Request {
    /// The body as JSON.
    pub fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The body as lines of JSON.
    pub fn lines(&self) -> Vec<Json> {
        let lines = self.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
    }
}

/// What to answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// How long to wait before.
    pub delay: Duration,
    /// Body.
    pub body: String,
}

impl Answer {
    /// An answer without a body.
    pub fn status(status: u16) -> Answer {
        Answer { status, headers: Vec::new(), delay: Duration::ZERO, body: String::new() }
    }

    /// With a header.
    pub fn header(mut self, name: &str, value: &str) -> Answer {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a body.
    pub fn body(mut self, body: impl Into<String>) -> Answer {
        self.body = body.into();
        self
    }

    /// After a while.
    pub fn after(mut self, delay: Duration) -> Answer {
        self.delay = delay;
        self
    }
}

type Rule = Box<dyn FnMut(&Request) -> Answer + Send>;

struct Shared {
    requests: Mutex<Vec<Request>>,
    rule: Mutex<Rule>,
}

/// A running receiver; it ends when it is dropped.
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

impl Receiver {
    /// Starts one that answers 200 to everything.
    pub fn start() -> Receiver {
        Receiver::answering(|_| Answer::status(200))
    }

    /// Starts one with a rule for its answers.
    pub fn answering(rule: impl FnMut(&Request) -> Answer + Send + 'static) -> Receiver {
        Receiver::serve(block_on(TcpListener::bind("127.0.0.1:0")).unwrap(), rule)
    }

    /// The place of one that is down: connections are refused until it is opened, and nobody else gets its port.
    pub fn closed() -> Closed {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        Closed { address: socket.local_addr().unwrap(), socket }
    }

    fn serve(listener: TcpListener, rule: impl FnMut(&Request) -> Answer + Send + 'static) -> Receiver {
        let shared = Arc::new(Shared { requests: Mutex::default(), rule: Mutex::new(Box::new(rule)) });
        let address = listener.local_addr().unwrap();
        let service = Router::new().fallback(take).layer(DefaultBodyLimit::disable()).with_state(shared.clone());
        let serving = RUNTIME.spawn(async move { axum::serve(listener, service).await.unwrap() });
        Receiver { address, shared, serving }
    }

    /// Changes the rule for the answers.
    pub fn answer(&self, rule: impl FnMut(&Request) -> Answer + Send + 'static) {
        *self.shared.rule.lock().unwrap() = Box::new(rule);
    }

    /// A URL at this receiver.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// How many requests there were so far.
    pub fn count(&self) -> usize {
        self.shared.requests.lock().unwrap().len()
    }

    /// Waits until there were `count` requests, and gives all.
    pub fn wait(&self, count: usize, within: Duration) -> Vec<Request> {
        until(&format!("{count} requests"), within, || (self.count() >= count).then(|| self.requests()))
    }
}

/// See [`Receiver::closed`].
pub struct Closed {
    address: SocketAddr,
    socket: TcpSocket,
}

impl Closed {
    /// The URL at which it will be.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Opens it: it answers 200 to everything.
    pub fn open(self) -> Receiver {
        const BACKLOG: u32 = 1024;
        Receiver::serve(block_on(async { self.socket.listen(BACKLOG).unwrap() }), |_| Answer::status(200))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn take(State(shared): State<Arc<Shared>>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let headers = headers.iter().map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    let mut request = Request {
        method: method.to_string(),
        path: uri.path().to_owned(),
        query: uri.query().map(str::to_owned),
        headers: headers.collect(),
        body: body.to_vec(),
        status: 0,
        at: Instant::now(),
    };
    let answer = (shared.rule.lock().unwrap())(&request);
    request.status = answer.status;
    shared.requests.lock().unwrap().push(request);
    tokio::time::sleep(answer.delay).await;
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(name, value);
    }
    response.body(Body::from(answer.body)).unwrap()
}
