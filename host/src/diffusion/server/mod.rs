//! A server for tests and the demo: it speaks the protocol as a Diffusion server does, keeps topics in memory, and misbehaves on
//! request.
//!
//! Invariant: an update is made before it is answered, and updates of one connection are made in the order in which they came,
//! whatever the answers do. It keeps nothing on disk and knows no permissions but those that [`Server::refuse`] takes away.

mod connection;
mod selector;
mod topics;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::selector::{Selector, SelectorError};
use self::topics::Topics;
use crate::diffusion::service::{Constraint, Specification};

/// More connections than tests and demos have.
const CONNECTIONS_MAX: usize = 1000;

/// How a server is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it listens; port 0: any.
    pub listen: SocketAddr,
    /// Passwords by user name; empty: everybody may come.
    pub users: HashMap<String, String>,
    /// How often it asks whether a client is there; `None`: never.
    pub ping_period: Option<Duration>,
    /// The longest message that it takes.
    pub message_bytes_max: usize,
    /// A session that is so many messages behind is cut.
    pub behind_max: usize,
    /// How many updates it remembers in the order in which they were made: see [`Server::journal`].
    pub journal_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            users: HashMap::new(),
            ping_period: Some(Duration::from_secs(90)),
            message_bytes_max: 256 << 10,
            behind_max: 65_536,
            journal_max: 0,
        }
    }
}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Ends everything when it is dropped.
    running: tokio::task::JoinHandle<()>,
    stop: watch::Sender<bool>,
}

/// What connections share.
#[derive(Debug)]
struct Shared {
    options: Options,
    state: Mutex<State>,
    /// Counts up to cut all connections there are.
    cuts: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    topics: Topics,
    sessions: u64,
    connections: usize,
    requests: u64,
    updates: u64,
    journal: Vec<(String, Bytes)>,
    faults: Faults,
}

/// How it misbehaves.
#[derive(Debug, Default)]
struct Faults {
    /// Connections are refused with this code.
    connect: Option<u8>,
    /// Answers come after a random time up to this, and so in any order.
    delay: Option<Duration>,
    /// After so many more updates the connection that made the last is cut before the answer.
    cut_in: Option<u64>,
    refusals: Vec<Refusal>,
    /// Requests are read, and neither done nor answered.
    is_deaf: bool,
}

#[derive(Debug)]
struct Refusal {
    selector: Selector,
    code: i32,
    left: u64,
}

impl Server {
    /// Starts to listen.
    ///
    /// # Errors
    /// Where the address cannot be had.
    pub async fn start(options: Options) -> std::io::Result<Server> {
        Self::start_with(options, State::default()).await
    }

    async fn start_with(options: Options, state: State) -> std::io::Result<Server> {
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { options, state: Mutex::new(state), cuts: watch::Sender::new(0) });
        let stop = watch::Sender::new(false);
        let running = tokio::spawn(accept(listener, shared.clone(), stop.subscribe()));
        Ok(Server { address, shared, running, stop })
    }

    /// Ends all sessions and starts again at the same address after `away`, with the topics of before or (`keep`: false) without.
    ///
    /// # Errors
    /// Where the address cannot be had again.
    pub async fn restart(mut self, away: Duration, keep: bool) -> std::io::Result<Server> {
        let options = Options { listen: self.address, ..self.shared.options.clone() };
        self.stop.send_replace(true);
        // When the task has ended the listener is closed and nobody changes anything any more.
        let _ = (&mut self.running).await;
        let mut before = std::mem::take(&mut *self.shared.state.lock());
        before.connections = 0;
        before.topics.leave_all();
        if !keep {
            before.topics = Topics::default();
        }
        tokio::time::sleep(away).await;
        Self::start_with(options, before).await
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL for clients.
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// How many topics it has.
    pub fn topics(&self) -> usize {
        self.shared.state.lock().topics.len()
    }

    /// The value of a topic.
    pub fn value(&self, path: &str) -> Option<Bytes> {
        self.shared.state.lock().topics.value(path)
    }

    /// What a topic is.
    pub fn specification(&self, path: &str) -> Option<Specification> {
        self.shared.state.lock().topics.specification(path)
    }

    /// Up to `limit` topics in the order of their paths, from behind `after` on: path and value.
    pub fn list(&self, after: &str, limit: usize) -> Vec<(String, Option<Bytes>)> {
        self.shared.state.lock().topics.list(after, limit)
    }

    /// Creates a topic, as another client might.
    ///
    /// # Errors
    /// Where it is there with another specification, or the path is none.
    pub fn add(&self, path: &str, specification: &Specification) -> Result<bool, super::session::Refused> {
        self.shared.state.lock().topics.add(path, specification)
    }

    /// Sets a topic's value and creates it where there is none, as another client might.
    ///
    /// # Errors
    /// Where it is there with another specification, or the path is none.
    pub fn set(&self, path: &str, specification: &Specification, value: &[u8]) -> Result<(), super::session::Refused> {
        self.shared.state.lock().topics.add_and_set(path, specification, value, Constraint::None).map(|_| ())
    }

    /// Ends subscriptions of all sessions to a topic, with one of the protocol's reasons.
    pub fn unsubscribe(&self, path: &str, reason: u8) {
        self.shared.state.lock().topics.unsubscribe_all(path, reason);
    }

    /// Removes topics, as another client might; how many.
    ///
    /// # Errors
    /// Where the selector is none.
    pub fn remove(&self, selector: &str) -> Result<i32, super::session::Refused> {
        self.shared.state.lock().topics.remove(selector)
    }

    /// Updates in the order in which they were made, the first `journal_max` of them; a removed topic has no bytes.
    pub fn journal(&self) -> Vec<(String, Bytes)> {
        self.shared.state.lock().journal.clone()
    }

    /// How many sessions there were.
    pub fn sessions(&self) -> u64 {
        self.shared.state.lock().sessions
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.shared.state.lock().connections
    }

    /// How many requests came, pings not counted.
    pub fn requests(&self) -> u64 {
        self.shared.state.lock().requests
    }

    /// How many updates were made: topics set, created or removed.
    pub fn updates(&self) -> u64 {
        self.shared.state.lock().updates
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|count| *count += 1);
    }

    /// After `updates` more updates the connection that made the last one is cut before it is answered.
    pub fn cut_in(&self, updates: u64) {
        self.shared.state.lock().faults.cut_in = Some(updates);
    }

    /// Answers come after a random time up to `most`, and so in any order; `None`: at once.
    pub fn delay(&self, most: Option<Duration>) {
        self.shared.state.lock().faults.delay = most;
    }

    /// Connections are refused with a code of the handshake; `None`: taken.
    pub fn refuse_connections(&self, code: Option<u8>) {
        self.shared.state.lock().faults.connect = code;
    }

    /// The next `times` updates of topics that `selector` selects are refused with `code`.
    ///
    /// # Errors
    /// Where the selector is none.
    pub fn refuse(&self, selector: &str, code: i32, times: u64) -> Result<(), SelectorError> {
        let selector = Selector::parse(selector)?;
        self.shared.state.lock().faults.refusals.push(Refusal { selector, code, left: times });
        Ok(())
    }

    /// Whether requests are ignored from now on, though the connection stays.
    pub fn ignore_requests(&self, deaf: bool) {
        self.shared.state.lock().faults.is_deaf = deaf;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stopped(&mut stop) => break,
            Some(_) = connections.join_next() => (),
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => drop(connections.spawn(connection::serve(stream, shared.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
    // Not before they have ended does anybody look at what they left.
    connections.shutdown().await;
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests;
