//! A session with a server, from the client's side: requests go out, answers and values come in.
//!
//! It has no task of its own: whoever holds it asks with [`Session::request`] and waits with [`Session::events`], which also writes
//! and answers the server's pings. Invariant: every request is answered at most once, by its conversation id, whatever the order of
//! the answers; where the session is lost, those without an answer are handed back by [`Session::unanswered`].

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep};

use super::connect::{ConnectError, Settings, connect};
use super::handshake::Connected;
use super::link::{Link, Lost};
use super::message::{self, Message};
use super::service::{Reason, Request, Specification};

/// How long a server may take to end a session before the connection is simply closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// A server that sends nothing for so many of its ping periods is gone.
const PERIODS_MAX: u32 = 2;

/// Something that came from the server; `T`: what the request was sent with.
#[derive(Debug, PartialEq)]
pub enum Event<T> {
    /// The answer to a request.
    Answer {
        /// What the request was sent with.
        of: T,
        /// Since the request was queued.
        took: Duration,
        /// The payload, or why not.
        answer: Result<Bytes, Refused>,
    },
    /// A topic was subscribed to.
    Subscribed {
        /// Its id until it is unsubscribed.
        topic: i32,
        /// Its path.
        path: String,
        /// What it is.
        specification: Specification,
    },
    /// A topic sends no more values.
    Unsubscribed {
        /// Its id.
        topic: i32,
        /// Why.
        reason: Reason,
    },
    /// The whole value of a topic.
    Value {
        /// Its id.
        topic: i32,
        /// The value.
        bytes: Bytes,
    },
    /// A change of a topic's value.
    Delta {
        /// Its id.
        topic: i32,
        /// The change.
        bytes: Bytes,
    },
}

/// A request that the server refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} (code {code}): {message}", super::code::name(*code))]
pub struct Refused {
    /// See [`super::code`].
    pub code: i32,
    /// In the server's words.
    pub message: String,
}

/// A message that is longer than the server takes; nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message has {bytes} bytes, the server takes at most {bytes_max}")]
pub struct TooLong {
    /// Its bytes.
    pub bytes: usize,
    /// The server's bound.
    pub bytes_max: usize,
}

struct Asked<T> {
    of: T,
    at: Instant,
}

/// See the module's documentation.
pub struct Session<T> {
    link: Link,
    connected: Connected,
    /// Requests by conversation id, from `first_id` on; `None`: answered.
    asked: VecDeque<Option<Asked<T>>>,
    first_id: i64,
    unanswered: usize,
    /// When the server was last heard of, and the next look at it.
    heard: Instant,
    watch: Option<(Duration, Pin<Box<Sleep>>)>,
    /// Room for what is received.
    messages: Vec<Bytes>,
}

impl<T> Session<T> {
    /// Connects and logs in.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(settings: &Settings) -> Result<Self, ConnectError> {
        let (link, connected) = connect(settings).await?;
        let watch = connected.ping_period.map(|period| (period * PERIODS_MAX, Box::pin(tokio::time::sleep(period * PERIODS_MAX))));
        Ok(Session {
            link,
            connected,
            asked: VecDeque::new(),
            first_id: 1,
            unanswered: 0,
            heard: Instant::now(),
            watch,
            messages: Vec::new(),
        })
    }

    /// What the server said of itself.
    pub fn server(&self) -> &Connected {
        &self.connected
    }

    /// Queues a request; its answer comes with `of`.
    ///
    /// # Errors
    /// Where the server would not take it; `of` is given back.
    pub fn request(&mut self, request: &Request<'_>, of: T) -> Result<usize, (T, TooLong)> {
        let id = self.first_id + self.asked.len() as i64;
        let bytes = message::request(request.service(), id, |out| request.write(out));
        let (length, bytes_max) = (bytes.len(), self.connected.message_bytes_max);
        if length > bytes_max {
            return Err((of, TooLong { bytes: length, bytes_max }));
        }
        self.asked.push_back(Some(Asked { of, at: Instant::now() }));
        self.unanswered += 1;
        self.link.send(bytes);
        Ok(length)
    }

    /// How many requests have no answer yet.
    pub fn in_flight(&self) -> usize {
        self.unanswered
    }

    /// From the oldest request without an answer to the newest: more than are in flight where answers came out of order.
    pub fn window(&self) -> usize {
        self.asked.len()
    }

    /// Bytes of requests that the server did not take yet.
    pub fn waiting_bytes(&self) -> usize {
        self.link.waiting_bytes()
    }

    /// Since when the oldest request waits for its answer.
    pub fn waits_since(&self) -> Option<Instant> {
        // The front is never answered: answered ones are popped.
        self.asked.front().and_then(Option::as_ref).map(|asked| asked.at)
    }

    /// Waits for something from the server and appends all that is there; writes and answers pings meanwhile. Cancel safe.
    ///
    /// # Errors
    /// Where the session is lost; what was appended then came before.
    pub async fn events(&mut self, into: &mut Vec<Event<T>>) -> Result<(), Lost> {
        loop {
            let received = self.receive().await;
            let mut messages = std::mem::take(&mut self.messages);
            let mut read = Ok(());
            for message in messages.drain(..) {
                read = read.and_then(|()| self.take(&message, into));
            }
            // Keeps its room for the next time.
            self.messages = messages;
            received.and(read)?;
            if !into.is_empty() {
                return Ok(());
            }
        }
    }

    async fn receive(&mut self) -> Result<(), Lost> {
        let Session { link, watch, heard, messages, .. } = self;
        let mut receive = std::pin::pin!(link.receive(messages));
        std::future::poll_fn(|cx| {
            if let Poll::Ready(received) = receive.as_mut().poll(cx) {
                *heard = Instant::now();
                return Poll::Ready(received);
            }
            let Some((patience, sleep)) = watch else { return Poll::Pending };
            while sleep.as_mut().poll(cx).is_ready() {
                let until = *heard + *patience;
                if until <= Instant::now() {
                    let reason = format!("the server sent nothing for {} s, not even a ping", patience.as_secs_f64());
                    return Poll::Ready(Err(Lost(reason)));
                }
                sleep.as_mut().reset(until);
            }
            Poll::Pending
        })
        .await
    }

    fn take(&mut self, message: &Bytes, into: &mut Vec<Event<T>>) -> Result<(), Lost> {
        let broken = |error| Lost(format!("the server sent what is no message: {error}"));
        match Message::decode(message).map_err(broken)? {
            Message::Response { conversation, payload } => into.extend(self.answer(conversation, Ok(payload))),
            Message::Error { conversation, message, code } => into.extend(self.answer(conversation, Err(Refused { code, message }))),
            Message::Value { topic, bytes } => into.push(Event::Value { topic, bytes }),
            Message::Delta { topic, bytes } => into.push(Event::Delta { topic, bytes }),
            Message::Abort => return Err(Lost("the server ended the session".into())),
            // Only clients ask for that.
            Message::Close => (),
            Message::Request { service, conversation, payload } => match Request::read(service, &payload).map_err(broken)? {
                Some(Request::NotifySubscription { topic, path, specification }) => {
                    into.push(Event::Subscribed { topic, path: path.to_owned(), specification });
                }
                Some(Request::NotifyUnsubscription { topic, reason }) => {
                    into.push(Event::Unsubscribed { topic, reason: reason.into() });
                }
                // Conversation 0 wants no answer.
                _ if conversation == 0 => (),
                Some(Request::SystemPing) => self.link.send(message::response(conversation, &[])),
                _ => {
                    let refusal = Message::Error { conversation, message: "unknown service".into(), code: 100 };
                    self.link.send(refusal.encode());
                }
            },
        }
        Ok(())
    }

    fn answer(&mut self, conversation: i64, answer: Result<Bytes, Refused>) -> Option<Event<T>> {
        // What was never asked, or answered before, concerns nobody.
        let index = usize::try_from(conversation.checked_sub(self.first_id)?).ok()?;
        let asked = self.asked.get_mut(index)?.take()?;
        self.unanswered -= 1;
        while let Some(None) = self.asked.front() {
            self.asked.pop_front();
            self.first_id += 1;
        }
        Some(Event::Answer { of: asked.of, took: asked.at.elapsed(), answer })
    }

    /// The requests without an answer, in their order: of a session that is lost, nobody knows whether the server did them.
    pub fn unanswered(self) -> impl Iterator<Item = T> {
        self.asked.into_iter().flatten().map(|asked| asked.of)
    }

    /// Ends the session: says so, and waits a moment for the server to say it too.
    pub async fn close(mut self) {
        self.link.send(Message::Close.encode());
        let farewell = async {
            let mut events = Vec::new();
            while self.events(&mut events).await.is_ok() {
                events.clear();
            }
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, farewell).await;
    }
}
