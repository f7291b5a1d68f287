//! One connection of the server: login, requests, pings, and what its topics tell it.
//!
//! Invariant: requests are done in the order in which they come. A client that does not answer a ping before the next, sends too long a
//! message or does not read what it subscribed to loses its connection.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request as Upgrade, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::{Shared, State};
use crate::diffusion::handshake::{self, Connected};
use crate::diffusion::link::{Link, Transport};
use crate::diffusion::message::{self, Message};
use crate::diffusion::service::Request;
use crate::diffusion::session::Refused;
use crate::diffusion::wire::put_i32;

/// How long a client may take to log in.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// So much may wait to be written before nothing more of topics is told.
const WAITING_BYTES_MAX: usize = 1 << 20;
const UNKNOWN_SERVICE: i32 = 104;
const INVALID_DATA: i32 = 106;

/// What a client says of itself.
#[derive(Default)]
struct Login {
    values: HashMap<String, String>,
}

impl Login {
    /// Parameters stand in headers, or in the query of the URL.
    fn of(upgrade: &Upgrade) -> Login {
        let query = upgrade.uri().query().unwrap_or_default();
        let mut values: HashMap<String, String> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        for name in ["v", "ty", "ca", "r", "username", "password"] {
            if let Some(value) = upgrade.headers().get(name) {
                values.insert(name.into(), String::from_utf8_lossy(value.as_bytes()).into_owned());
            }
        }
        Login { values }
    }

    fn get(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    /// The code of the answer.
    fn code(&self, shared: &Shared) -> u8 {
        if let Some(code) = shared.state.lock().faults.connect {
            return code;
        }
        if self.get("v") != handshake::VERSION.to_string() {
            return handshake::VERSION_MISMATCH;
        }
        if self.get("ty").is_empty() || self.get("ca").parse::<u32>().is_err() {
            return handshake::PROTOCOL_ERROR;
        }
        let users = &shared.options.users;
        let password = handshake::read_credentials(self.get("password")).unwrap_or_default();
        let is_known = users.is_empty() || users.get(self.get("username")) == Some(&password);
        if is_known { handshake::CONNECTED } else { handshake::AUTHENTICATION_FAILED }
    }
}

/// Serves one client until it goes or is cut.
pub async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let mut cuts = shared.cuts.subscribe();
    cuts.mark_unchanged();
    let Ok(Some((mut link, code))) = tokio::time::timeout(LOGIN_TIMEOUT, login(stream, &shared)).await else { return };
    if code != handshake::CONNECTED {
        link.send(handshake::write_refusal(code));
        let _ = link.flush().await;
        return;
    }
    let (sender, notes) = mpsc::channel(shared.options.behind_max.max(1));
    let session = {
        let mut state = shared.state.lock();
        state.sessions += 1;
        state.connections += 1;
        let session = state.sessions;
        state.topics.enter(session, sender);
        session
    };
    link.send(handshake::write(&Connected {
        session: (session, 0),
        token: token(),
        ping_period: shared.options.ping_period,
        message_bytes_max: shared.options.message_bytes_max,
    }));
    let mut connection =
        Connection { link, session, shared: shared.clone(), notes, answers: BTreeMap::new(), answered: 0, ping: 0, pong: 0 };
    tokio::select! {
        () = connection.run() => (),
        _ = cuts.changed() => (),
    }
    let mut state = shared.state.lock();
    state.topics.leave(session);
    state.connections = state.connections.saturating_sub(1);
}

/// Nobody can take a session over here, so anything will do.
fn token() -> [u8; 24] {
    std::array::from_fn(|_| fastrand::alphanumeric() as u8)
}

#[expect(clippy::result_large_err, reason = "the type of the callback is the library's")]
async fn login(stream: TcpStream, shared: &Shared) -> Option<(Link, u8)> {
    stream.set_nodelay(true).ok()?;
    let mut login = Login::default();
    let callback = |upgrade: &Upgrade, response: Response| -> Result<Response, ErrorResponse> {
        if !upgrade.uri().path().trim_end_matches('/').ends_with("/diffusion") {
            let mut refusal = ErrorResponse::new(None);
            *refusal.status_mut() = tokio_tungstenite::tungstenite::http::StatusCode::NOT_FOUND;
            return Err(refusal);
        }
        login = Login::of(upgrade);
        Ok(response)
    };
    let bytes_max = shared.options.message_bytes_max;
    let config = WebSocketConfig::default().max_message_size(Some(bytes_max)).max_frame_size(Some(bytes_max));
    let stream: Box<dyn Transport> = Box::new(stream);
    let socket = tokio_tungstenite::accept_hdr_async_with_config(stream, callback, Some(config)).await.ok()?;
    Some((Link::over(socket), login.code(shared)))
}

struct Connection {
    link: Link,
    session: u64,
    shared: Arc<Shared>,
    notes: mpsc::Receiver<Bytes>,
    /// Answers that are held back, by when they are due.
    answers: BTreeMap<(Instant, u64), Bytes>,
    answered: u64,
    /// The last ping sent and the last one answered.
    ping: i64,
    pong: i64,
}

/// The connection ends.
struct Ends;

impl Connection {
    async fn run(&mut self) {
        let period = self.shared.options.ping_period;
        let mut pings = tokio::time::interval(period.unwrap_or(Duration::from_secs(3600)));
        pings.tick().await;
        let mut messages = Vec::new();
        loop {
            let now = Instant::now();
            while let Some(answer) = self.answers.first_entry().filter(|answer| answer.key().0 <= now) {
                self.link.send(answer.remove());
            }
            let due = self.answers.first_key_value().map(|((at, _), _)| *at);
            let has_room = self.link.waiting_bytes() < WAITING_BYTES_MAX;
            // Room wakes nobody by itself.
            let room_at = if has_room { 0 } else { WAITING_BYTES_MAX };
            tokio::select! {
                received = self.link.receive_or_room(&mut messages, room_at) => {
                    if received.is_err() {
                        return;
                    }
                    for message in messages.drain(..) {
                        if self.take(&message).is_err() {
                            let _ = self.link.flush().await;
                            return;
                        }
                    }
                }
                Some(note) = self.notes.recv(), if has_room => {
                    self.link.send(note);
                    while self.link.waiting_bytes() < WAITING_BYTES_MAX && let Ok(note) = self.notes.try_recv() {
                        self.link.send(note);
                    }
                }
                () = tokio::time::sleep_until(due.unwrap_or(now)), if due.is_some() => (),
                _ = pings.tick(), if period.is_some() => {
                    if self.pong < self.ping {
                        return;
                    }
                    self.ping += 1;
                    let ping = Request::SystemPing;
                    self.link.send(message::request(ping.service(), self.ping, |out| ping.write(out)));
                }
            }
            if self.shared.state.lock().topics.is_behind(self.session) {
                self.link.send(Message::Abort.encode());
                let _ = tokio::time::timeout(Duration::from_secs(1), self.link.flush()).await;
                return;
            }
        }
    }

    fn take(&mut self, message: &Bytes) -> Result<(), Ends> {
        match Message::decode(message) {
            Ok(Message::Request { service, conversation, payload }) => self.request(service, conversation, &payload),
            // The only requests of this side are pings.
            Ok(Message::Response { conversation, .. }) => {
                self.pong = self.pong.max(conversation);
                Ok(())
            }
            Ok(Message::Error { .. }) => Ok(()),
            Ok(Message::Close) => {
                self.link.send(Message::Abort.encode());
                Err(Ends)
            }
            _ => Err(Ends),
        }
    }

    fn request(&mut self, service: i32, conversation: i64, payload: &[u8]) -> Result<(), Ends> {
        let shared = self.shared.clone();
        let mut state = shared.state.lock();
        if state.faults.is_deaf {
            return Ok(());
        }
        let answer = match Request::read(service, payload) {
            Ok(Some(request)) => state.make(self.session, &request, &shared.options),
            Ok(None) => Err(Refused { code: UNKNOWN_SERVICE, message: format!("Service {service} is not supported") }),
            Err(error) => Err(Refused { code: INVALID_DATA, message: error.to_string() }),
        };
        if state.faults.cut_in == Some(0) {
            state.faults.cut_in = None;
            return Err(Ends);
        }
        let answer = match answer {
            Ok(payload) => message::response(conversation, &payload),
            Err(Refused { code, message }) => Message::Error { conversation, message, code }.encode(),
        };
        match state.faults.delay {
            None if self.answers.is_empty() => self.link.send(answer),
            delay => {
                self.answered += 1;
                let at = Instant::now() + delay.unwrap_or_default().mul_f64(fastrand::f64());
                self.answers.insert((at, self.answered), answer.into());
            }
        }
        Ok(())
    }
}

impl State {
    fn make(&mut self, session: u64, request: &Request<'_>, options: &super::Options) -> Result<Vec<u8>, Refused> {
        if !matches!(request, Request::UserPing) {
            self.requests += 1;
        }
        let path = match request {
            Request::Add { path, .. } | Request::Set { path, .. } | Request::AddAndSet { path, .. } => Some(*path),
            // One topic is removed as it is set.
            Request::Remove { selector } => selector.strip_prefix('>'),
            _ => None,
        };
        if let Some(path) = path {
            self.refusal(path)?;
        }
        let empty = |()| Vec::new();
        let flag = |created: bool| vec![u8::from(!created)];
        let answer = match request {
            Request::SystemPing | Request::UserPing => Vec::new(),
            Request::Subscribe { selector } => self.topics.subscribe(session, selector).map(empty)?,
            Request::Unsubscribe { selector } => self.topics.unsubscribe(session, selector).map(empty)?,
            Request::Add { path, specification } => self.topics.add(path, specification).map(flag)?,
            Request::Set { path, kind, value, constraint } => self.topics.set(path, *kind, value, *constraint).map(empty)?,
            Request::AddAndSet { path, specification, value, constraint } => {
                self.topics.add_and_set(path, specification, value, *constraint).map(flag)?
            }
            Request::Remove { selector } => {
                let mut out = Vec::new();
                put_i32(&mut out, self.topics.remove(selector)?);
                out
            }
            Request::NotifySubscription { .. } | Request::NotifyUnsubscription { .. } => {
                return Err(Refused { code: UNKNOWN_SERVICE, message: "Service is not supported".into() });
            }
        };
        let value = match request {
            Request::Set { value, .. } | Request::AddAndSet { value, .. } => Some(*value),
            Request::Remove { .. } => Some(&[][..]),
            _ => None,
        };
        if let (Some(path), Some(value)) = (path, value) {
            self.updates += 1;
            if self.journal.len() < options.journal_max {
                self.journal.push((path.to_owned(), Bytes::copy_from_slice(value)));
            }
            if let Some(updates) = &mut self.faults.cut_in {
                *updates = updates.saturating_sub(1);
            }
        }
        Ok(answer)
    }

    fn refusal(&mut self, path: &str) -> Result<(), Refused> {
        let wanted = self.faults.refusals.iter_mut().find(|refusal| refusal.left > 0 && refusal.selector.selects(path));
        let Some(refusal) = wanted else { return Ok(()) };
        refusal.left -= 1;
        Err(Refused { code: refusal.code, message: "Refused on request".into() })
    }
}
