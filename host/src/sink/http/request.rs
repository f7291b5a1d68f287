//! One request: render its records, send it until it is answered for good, halve it where one of its records is refused.
//!
//! Invariant: every record of a load ends exactly once: taken by the host (2xx), given up with the reason, or abandoned with its
//! partition. Bodies are rendered straight from the records' wire form into the request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};
use sha2::{Digest, Sha256};

use super::location::{Location, header_text};
use super::pace::{Pace, retry_after};
use crate::dead::{Class, Letter};
use crate::output::{Outputs, View};
use crate::sink::Surroundings;
use crate::sink::backoff::Backoff;
use crate::value::{JsonOptions, write_json};

/// So much of a refusal's body goes into the dead letter.
const ANSWER_LEN_MAX: usize = 512;
/// So much of an answer's body is read to keep the connection; beyond it a new connection is cheaper.
const DRAIN_LEN_MAX: usize = 64 * 1024;
/// Headers that belong to the connection or to the configuration, never to a record.
const FORWARD_NEVER: [&str; 14] = [
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The outputs of one piece while requests carry them.
#[derive(Debug)]
pub struct Held {
    /// Number of the piece, in the order of arrival.
    pub number: u64,
    /// The outputs.
    pub outputs: Arc<Outputs>,
    /// The partition left or is read again: nothing of it is sent any more.
    pub abandoned: AtomicBool,
}

/// One output on its way.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its piece.
    pub held: Arc<Held>,
    /// Position in the list of outputs.
    pub index: u32,
}

/// How outputs of one piece ended; `letter: None`: delivered, or abandoned.
#[derive(Debug)]
pub struct Ended {
    /// Number of the piece.
    pub number: u64,
    /// How many of its outputs.
    pub count: usize,
    /// Why it, a single one, was given up.
    pub letter: Option<Box<(u32, Letter)>>,
}

/// How the body of a request is made of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One record a request.
    Single,
    /// A JSON array.
    Array,
    /// A record a line.
    Lines,
}

/// Where the idempotency keys of a batch's records stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordKeys {
    /// Nowhere.
    None,
    /// In one header, separated by commas, in the order of the records.
    Header(HeaderName),
    /// In a field that is put in front of each record's own; as JSON text.
    Field(String),
}

/// All that requests of one sink have in common.
#[derive(Debug)]
pub struct Requests {
    pub(super) client: reqwest::Client,
    pub(super) location: Location,
    pub(super) method: Method,
    pub(super) content_type: HeaderValue,
    pub(super) shape: Shape,
    /// `None`: bytes as they are.
    pub(super) json: Option<JsonOptions>,
    pub(super) reject_tombstones: bool,
    pub(super) idempotency_header: HeaderName,
    /// Group and sink.
    pub(super) key_prefix: String,
    pub(super) record_keys: RecordKeys,
    /// Lower case; `*`: all.
    pub(super) forward: Vec<String>,
    pub(super) body_max: usize,
    pub(super) find_culprit: bool,
    pub(super) retry_statuses: Vec<u16>,
    pub(super) backoff: Backoff,
    /// 0: without end.
    pub(super) attempts_max: u32,
    pub(super) pace: Pace,
    pub(super) surroundings: Surroundings,
}

/// A request that is ready to be sent, without what the client adds to all of them.
pub(super) struct Rendered {
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

enum Verdict {
    Delivered,
    /// The host will never take it; `culprit`: perhaps because of one record.
    Refused {
        code: String,
        message: String,
        culprit: bool,
    },
    TooLarge {
        message: String,
    },
    Exhausted {
        reason: String,
    },
    /// Some of its records are not wanted any more.
    Abandoned,
}

enum Answer {
    For(Verdict),
    Again { reason: String, after: Option<Duration> },
}

impl Item {
    fn view(&self) -> View<'_> {
        self.held.outputs.view(self.index as usize)
    }

    fn is_abandoned(&self) -> bool {
        self.held.abandoned.load(Ordering::Relaxed)
    }
}

impl Requests {
    /// Delivers the records of a load, or gives them up.
    pub async fn deliver(&self, items: Vec<Item>) -> Vec<Ended> {
        let mut ended = Vec::new();
        // Last first, so that what comes first is sent first.
        let mut todo = vec![items];
        while let Some(mut items) = todo.pop() {
            items.retain(|item| {
                let abandoned = item.is_abandoned();
                if abandoned {
                    ended.push(item.ended(None));
                }
                !abandoned
            });
            let Some(rendered) = self.render(&mut items, &mut ended) else { continue };
            if rendered.body.len() > self.body_max && items.len() > 1 {
                halve(items, &mut todo);
                continue;
            }
            let (verdict, attempts) = self.send(&rendered, &items).await;
            match verdict {
                Verdict::Delivered => {
                    self.surroundings.metrics.outputs.inc_by(items.len() as u64);
                    self.surroundings.metrics.bytes.inc_by(rendered.body.len() as u64);
                    let pieces = items.chunk_by(|one, next| one.held.number == next.held.number);
                    ended.extend(pieces.map(|of| Ended { number: of[0].held.number, count: of.len(), letter: None }));
                }
                Verdict::Abandoned => todo.push(items),
                Verdict::TooLarge { .. } if items.len() > 1 => halve(items, &mut todo),
                Verdict::Refused { culprit: true, .. } if items.len() > 1 && self.find_culprit => halve(items, &mut todo),
                Verdict::TooLarge { message } => self.give_up(&items, Class::Oversize, "413", &message, attempts, &mut ended),
                Verdict::Refused { code, message, .. } => {
                    self.give_up(&items, Class::SinkPermanent, &code, &message, attempts, &mut ended);
                }
                Verdict::Exhausted { reason } => {
                    let message = format!("tried {attempts} times, the last time: {reason}");
                    self.give_up(&items, Class::SinkRetryExhausted, "retries", &message, attempts, &mut ended);
                }
            }
        }
        ended
    }

    fn give_up(&self, items: &[Item], class: Class, code: &str, message: &str, attempts: u32, ended: &mut Vec<Ended>) {
        ended.extend(items.iter().map(|item| {
            let (index, letter) = self.surroundings.letter(item.view(), class, code, message.to_owned());
            item.ended(Some((index, Letter { attempts, ..letter })))
        }));
    }

    /// The request for these records. Those that cannot be rendered end here; `None` where none is left.
    pub(super) fn render(&self, items: &mut Vec<Item>, ended: &mut Vec<Ended>) -> Option<Rendered> {
        let bytes = items.iter().map(|item| item.view().value().map_or(4, |value| value.bytes.len()) + 1).sum::<usize>();
        let mut body = Vec::with_capacity(bytes + 1);
        if self.shape == Shape::Array {
            body.push(b'[');
        }
        items.retain(|item| {
            let start = body.len();
            match self.render_record(item.view(), &mut body) {
                Ok(()) => true,
                Err(letter) => {
                    body.truncate(start);
                    ended.push(item.ended(Some(letter)));
                    false
                }
            }
        });
        if self.shape == Shape::Array {
            body.pop();
            body.push(b']');
        }
        let first = items.first()?.view();
        let url = match self.location.url(first.destination()) {
            Ok(url) => url,
            Err(error) => {
                // A batch has one destination, so all of it shares the reason.
                let class = Class::DestinationInvalid;
                self.give_up(items, class, "destination", &error.to_string(), 1, ended);
                return None;
            }
        };
        let mut headers = HeaderMap::new();
        if self.shape == Shape::Single {
            self.forward(first, &mut headers);
        }
        headers.insert(CONTENT_TYPE, self.content_type.clone());
        headers.insert(self.idempotency_header.clone(), self.request_key(items));
        if let RecordKeys::Header(name) = &self.record_keys {
            let keys: Vec<String> = items.iter().map(|item| self.record_key(item.view())).collect();
            headers.insert(name.clone(), visible(&keys.join(",")));
        }
        Some(Rendered { url, headers, body: Bytes::from(body) })
    }

    fn render_record(&self, view: View<'_>, body: &mut Vec<u8>) -> Result<(), (u32, Letter)> {
        let start = body.len();
        let permanent = |code: &str, message: String| Err(self.surroundings.letter(view, Class::SinkPermanent, code, message));
        match (view.value(), &self.json) {
            (None, _) if self.reject_tombstones => {
                return permanent("tombstone", "the record is a tombstone, and `tombstone` of the sink is \"reject\"".to_owned());
            }
            (None, Some(_)) => body.extend_from_slice(b"null"),
            (None, None) => (),
            (Some(value), Some(options)) => {
                if let Err(error) = write_json(value, options, body) {
                    return Err(self.surroundings.letter(view, Class::Decode, "json", error.to_string()));
                }
            }
            (Some(value), None) => body.extend_from_slice(value.bytes),
        }
        if let RecordKeys::Field(name) = &self.record_keys {
            let Some(at) = object_start(&body[start..]) else {
                return permanent("record-key", "the idempotency key is to stand in a field, and the value is no JSON object".to_owned());
            };
            let at = start + at + 1;
            let more = if body[at..].trim_ascii_start().starts_with(b"}") { "" } else { "," };
            let key = self.record_key(view).replace('\\', "\\\\").replace('"', "\\\"");
            body.splice(at..at, format!("{name}:\"{key}\"{more}").into_bytes());
        }
        match self.shape {
            Shape::Single => (),
            Shape::Array => body.push(b','),
            Shape::Lines if self.json.is_some() => {
                // Raw line ends cannot be part of a JSON string, so between tokens a blank says the same.
                for byte in &mut body[start..] {
                    if matches!(*byte, b'\n' | b'\r') {
                        *byte = b' ';
                    }
                }
                body.push(b'\n');
            }
            Shape::Lines => {
                if body[start..].contains(&b'\n') {
                    return permanent("line", "the value contains a line end, so it is no line of a batch".to_owned());
                }
                body.push(b'\n');
            }
        }
        Ok(())
    }

    fn record_key(&self, view: View<'_>) -> String {
        format!("{}{}-{}-{}-{}", self.key_prefix, view.topic(), view.partition(), view.offset(), view.ordinal())
    }

    /// A record's own key; for a batch a digest of where its records come from, so that only the same records share it.
    fn request_key(&self, items: &[Item]) -> HeaderValue {
        if self.shape == Shape::Single
            && let [item] = items
        {
            return visible(&self.record_key(item.view()));
        }
        let mut records = Vec::with_capacity(items.len() * 13);
        let mut last = None;
        for item in items {
            let view = item.view();
            let partition = (view.topic(), view.partition());
            if last != Some(partition) {
                records.push(b'p');
                records.extend_from_slice(&(partition.0.len() as u32).to_be_bytes());
                records.extend_from_slice(partition.0.as_bytes());
                records.extend_from_slice(&partition.1.to_be_bytes());
                last = Some(partition);
            }
            records.push(b'r');
            records.extend_from_slice(&view.offset().to_be_bytes());
            records.extend_from_slice(&(view.ordinal() as u32).to_be_bytes());
        }
        let mut key = format!("{}batch-", self.key_prefix);
        for byte in &Sha256::digest(&records)[..16] {
            key.push_str(&format!("{byte:02x}"));
        }
        visible(&key)
    }

    fn forward(&self, view: View<'_>, headers: &mut HeaderMap) {
        if self.forward.is_empty() {
            return;
        }
        let all = self.forward.iter().any(|name| name == "*");
        for (name, value) in view.headers() {
            let Ok(name) = HeaderName::from_bytes(name) else { continue };
            let wanted = all || self.forward.iter().any(|wanted| wanted == name.as_str());
            if wanted && !FORWARD_NEVER.contains(&name.as_str()) {
                headers.append(name, visible(&header_text(value.unwrap_or_default())));
            }
        }
    }

    /// Sends until there is an answer that counts; how often it was sent.
    async fn send(&self, rendered: &Rendered, items: &[Item]) -> (Verdict, u32) {
        let mut tries = 0;
        loop {
            self.pace.wait().await;
            if items.iter().any(Item::is_abandoned) {
                return (Verdict::Abandoned, tries);
            }
            let started = tokio::time::Instant::now();
            let (reason, after) = match self.attempt(rendered).await {
                Answer::For(verdict) => {
                    self.pace.succeeded();
                    self.surroundings.metrics.flush.observe(started.elapsed().as_secs_f64());
                    return (verdict, tries + 1);
                }
                Answer::Again { reason, after } => (reason, after),
            };
            tries += 1;
            self.surroundings.metrics.retries.inc();
            self.pace.failed(started, &reason);
            if self.attempts_max > 0 && tries >= self.attempts_max {
                return (Verdict::Exhausted { reason }, tries);
            }
            // While nothing gets through, that is told once, and not of every request.
            if tries.is_multiple_of(10) && !self.pace.is_down() {
                let first = items[0].view();
                let (topic, partition, offset) = (first.topic(), first.partition(), first.offset());
                tracing::warn!(sink = %self.surroundings.sink, %topic, partition, offset, tries, reason, "a request is still refused, trying on");
            }
            match after {
                Some(after) => self.pace.hold(after),
                None => tokio::time::sleep(self.backoff.delay(tries)).await,
            }
        }
    }

    async fn attempt(&self, rendered: &Rendered) -> Answer {
        let mut request = reqwest::Request::new(self.method.clone(), rendered.url.clone());
        *request.headers_mut() = rendered.headers.clone();
        *request.body_mut() = Some(rendered.body.clone().into());
        let mut response = match self.client.execute(request).await {
            Ok(response) => response,
            Err(error) => return Answer::Again { reason: chain(&error), after: None },
        };
        let status = response.status();
        if status.is_success() {
            drain(&mut response).await;
            return Answer::For(Verdict::Delivered);
        }
        let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.into());
        let after = after.and_then(|value: &str| retry_after(value, SystemTime::now()));
        let message = format!("the host answered {status}{}", start_of(&mut response).await);
        let code = status.as_str().to_owned();
        match status {
            StatusCode::PAYLOAD_TOO_LARGE => Answer::For(Verdict::TooLarge { message }),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => Answer::Again { reason: message, after },
            _ if status.is_server_error() || self.retry_statuses.contains(&status.as_u16()) => Answer::Again { reason: message, after },
            _ if status.is_redirection() => {
                let message = format!("{message}: redirects are not followed; set `url` to where it points, or `redirects = true`");
                Answer::For(Verdict::Refused { code, message, culprit: false })
            }
            // These are about the request as a whole: no record of a batch can be the reason.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                Answer::For(Verdict::Refused { code, message, culprit: false })
            }
            _ => Answer::For(Verdict::Refused { code, message, culprit: true }),
        }
    }
}

impl Item {
    fn ended(&self, letter: Option<(u32, Letter)>) -> Ended {
        Ended { number: self.held.number, count: 1, letter: letter.map(Box::new) }
    }
}

fn halve(mut items: Vec<Item>, todo: &mut Vec<Vec<Item>>) {
    let second = items.split_off(items.len() / 2);
    todo.push(second);
    todo.push(items);
}

fn object_start(text: &[u8]) -> Option<usize> {
    let at = text.iter().position(|byte| !byte.is_ascii_whitespace())?;
    (text[at] == b'{').then_some(at)
}

fn visible(text: &str) -> HeaderValue {
    HeaderValue::from_str(text)
        .unwrap_or_else(|_| HeaderValue::from_str(&header_text(text.as_bytes())).expect("encoded text is visible ASCII"))
}

async fn drain(response: &mut Response) {
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        if read > DRAIN_LEN_MAX {
            return;
        }
    }
}

async fn start_of(response: &mut Response) -> String {
    let mut start = Vec::new();
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        let room = ANSWER_LEN_MAX - start.len();
        start.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if read > DRAIN_LEN_MAX {
            break;
        }
    }
    let text: String = String::from_utf8_lossy(&start).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let text = text.trim();
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

/// An error with its causes: reqwest's own text names only the outermost. The url is left out: it may be long.
fn chain(error: &reqwest::Error) -> String {
    let mut text = if error.is_timeout() { "no answer in time".to_owned() } else { "no answer".to_owned() };
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
