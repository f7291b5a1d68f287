//! A real HTTP server whose answers a test chooses, and which can be killed and started again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::Response;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    pub uri: String,
    pub headers: HashMap<String, String>,
    pub body: String,
    pub at: std::time::Instant,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

pub type Answer = Pin<Box<dyn Future<Output = Response> + Send>>;
type Answers = Arc<dyn Fn(usize, Seen) -> Answer + Send + Sync>;

#[derive(Clone)]
struct Shared {
    seen: Arc<Mutex<Vec<Seen>>>,
    answers: Answers,
    connections: Arc<AtomicUsize>,
    cuts: Arc<AtomicUsize>,
}

pub struct Server {
    shared: Shared,
    address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Server {
    /// `answers` gets the number of the request, from 0 on, and the request.
    pub fn start<F: Future<Output = Response> + Send + 'static>(answers: impl Fn(usize, Seen) -> F + Send + Sync + 'static) -> Self {
        let answers: Answers = Arc::new(move |number, seen| Box::pin(answers(number, seen)));
        let shared = Shared { seen: Arc::default(), answers, connections: Arc::default(), cuts: Arc::default() };
        let mut server = Server { shared, address: ([127, 0, 0, 1], 0).into(), runtime: None };
        server.restart();
        server
    }

    /// Listens at the same port again.
    pub fn restart(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (address, shared) = (self.address, self.shared.clone());
        let listener = std::thread::scope(|scope| {
            let bind = || runtime.block_on(TcpListener::bind(address));
            scope.spawn(bind).join().unwrap().unwrap()
        });
        self.address = listener.local_addr().unwrap();
        let listener = Cutting { inner: listener, shared: shared.clone() };
        runtime.spawn(async move { axum::serve(listener, axum::Router::new().fallback(take).with_state(shared)).await });
        self.runtime = Some(runtime);
    }

    /// Ends at once, with all connections.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// The next `count` connections get the beginning of an answer and are cut.
    pub fn cut_next(&self, count: usize) {
        self.shared.cuts.store(count, Ordering::SeqCst);
    }

    pub fn cuts_left(&self) -> usize {
        self.shared.cuts.load(Ordering::SeqCst)
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().clone()
    }

    pub fn count(&self) -> usize {
        self.shared.seen.lock().len()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An answer with a status and a body.
pub fn answer(status: u16, body: &str) -> Response {
    Response::builder().status(status).body(body.to_owned().into()).unwrap()
}

async fn take(State(shared): State<Shared>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let headers = headers.iter().map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into())).collect();
    let body = String::from_utf8_lossy(&body).into_owned();
    let seen = Seen { method, uri: uri.to_string(), headers, body, at: std::time::Instant::now() };
    let number = {
        let mut all = shared.seen.lock();
        all.push(seen.clone());
        all.len() - 1
    };
    (shared.answers)(number, seen).await
}

struct Cutting {
    inner: TcpListener,
    shared: Shared,
}

impl axum::serve::Listener for Cutting {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            let Ok((mut stream, address)) = self.inner.accept().await else { continue };
            self.shared.connections.fetch_add(1, Ordering::SeqCst);
            let cut = self.shared.cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
            if !cut {
                return (stream, address);
            }
            tokio::spawn(async move {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-le").await;
            });
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}
