//! A WebSocket as a way for messages in both directions.
//!
//! Invariant: what waits to be written is written while this waits for something to read, so two sides that both write much cannot
//! wait for each other. Messages that have arrived are read before anything is flushed: under load many go into one write.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::{Sink, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

/// What bytes go over.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

/// So many messages are given at once, and so many bytes and one message more; what is left waits in the socket.
const MESSAGES_MAX: usize = 1024;
const MESSAGES_BYTES_MAX: usize = 1 << 20;

/// The connection is gone, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Lost(pub String);

/// One end of a connection.
pub struct Link {
    socket: WebSocketStream<Box<dyn Transport>>,
    /// Messages that are given before any further one is read.
    inbound: VecDeque<Bytes>,
    outbound: VecDeque<Bytes>,
    outbound_bytes: usize,
    is_flushed: bool,
    /// Whether the last call gave messages and wrote nothing.
    write_is_due: bool,
    lost: Option<Lost>,
}

impl Link {
    /// Over a stream on which the upgrade has happened; `tail`: what of the WebSocket was read from it already. Incoming messages
    /// that are longer than `message_bytes_max` end the connection.
    pub async fn new(stream: Box<dyn Transport>, tail: Vec<u8>, role: Role, message_bytes_max: usize) -> Self {
        let config = WebSocketConfig::default().max_message_size(Some(message_bytes_max)).max_frame_size(Some(message_bytes_max));
        Link::over(WebSocketStream::from_partially_read(stream, tail, role, Some(config)).await)
    }

    /// Over a WebSocket that is there.
    pub fn over(socket: WebSocketStream<Box<dyn Transport>>) -> Self {
        Link {
            socket,
            inbound: VecDeque::new(),
            outbound: VecDeque::new(),
            outbound_bytes: 0,
            is_flushed: true,
            write_is_due: false,
            lost: None,
        }
    }

    /// Gives a message that was received once more, after those that were put back before it.
    pub fn put_back(&mut self, message: Bytes) {
        self.inbound.push_back(message);
    }

    /// Queues a message; it is written while [`Link::receive`] or [`Link::flush`] runs.
    pub fn send(&mut self, message: impl Into<Bytes>) {
        let message = message.into();
        self.outbound_bytes += message.len();
        self.outbound.push_back(message);
    }

    /// Bytes that wait to be written: whoever sends has to mind them.
    pub fn waiting_bytes(&self) -> usize {
        self.outbound_bytes
    }

    /// Waits for messages and appends all that are there; writes meanwhile. Cancel safe.
    ///
    /// # Errors
    /// Where the connection is gone; whatever came before was given.
    pub async fn receive(&mut self, into: &mut Vec<Bytes>) -> Result<(), Lost> {
        std::future::poll_fn(|cx| self.poll_receive(cx, into)).await
    }

    /// The same, but waits no longer than until fewer than `room_at` bytes wait to be written. Cancel safe.
    ///
    /// # Errors
    /// As [`Link::receive`].
    pub async fn receive_or_room(&mut self, into: &mut Vec<Bytes>, room_at: usize) -> Result<(), Lost> {
        std::future::poll_fn(|cx| match self.poll_receive(cx, into) {
            Poll::Pending if self.outbound_bytes < room_at => Poll::Ready(Ok(())),
            received => received,
        })
        .await
    }

    /// Waits until everything is written. What arrives meanwhile stays in the socket. Cancel safe.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn flush(&mut self) -> Result<(), Lost> {
        std::future::poll_fn(|cx| self.poll_write(cx)).await
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>, into: &mut Vec<Bytes>) -> Poll<Result<(), Lost>> {
        let before = into.len();
        into.extend(self.inbound.drain(..));
        let mut bytes = 0;
        while into.len() - before < MESSAGES_MAX && bytes < MESSAGES_BYTES_MAX && self.lost.is_none() {
            match self.socket.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(Message::Binary(message)))) => {
                    bytes += message.len();
                    into.push(message);
                }
                // Pings and pongs of the WebSocket are answered by it.
                Poll::Ready(Some(Ok(_))) => self.is_flushed = false,
                Poll::Ready(Some(Err(error))) => self.lost = Some(lost(&error)),
                Poll::Ready(None) => self.lost = Some(Lost("the other side closed the connection".into())),
                Poll::Pending => break,
            }
        }
        if into.len() > before {
            // A connection on which something always arrives must not keep what waits to be written for ever.
            if std::mem::replace(&mut self.write_is_due, true) && self.lost.is_none() {
                let _ = self.poll_write(cx);
                self.write_is_due = false;
            }
            return Poll::Ready(Ok(()));
        }
        self.write_is_due = false;
        if let Some(lost) = &self.lost {
            return Poll::Ready(Err(lost.clone()));
        }
        if let Poll::Ready(Err(lost)) = self.poll_write(cx) {
            return Poll::Ready(Err(lost));
        }
        // Reading has registered its interest above.
        Poll::Pending
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        let written = self.poll_socket_write(cx);
        if let Poll::Ready(Err(error)) = &written {
            let lost = lost(error);
            self.lost = Some(lost.clone());
            return Poll::Ready(Err(lost));
        }
        written.map(|_| Ok(()))
    }

    fn poll_socket_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while !self.outbound.is_empty() {
            ready!(Pin::new(&mut self.socket).poll_ready(cx))?;
            if let Some(message) = self.outbound.pop_front() {
                self.outbound_bytes -= message.len();
                self.is_flushed = false;
                Pin::new(&mut self.socket).start_send(Message::Binary(message))?;
            }
        }
        if !self.is_flushed {
            ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }
}

fn lost(error: &Error) -> Lost {
    Lost(match error {
        Error::ConnectionClosed | Error::AlreadyClosed => "the other side closed the connection".into(),
        Error::Io(error) => format!("the connection broke: {error}"),
        Error::Protocol(error) => format!("the connection broke: {error}"),
        Error::Capacity(error) => format!("the other side sent too much: {error}"),
        other => format!("the connection broke: {other}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pair(buffer: usize) -> (Link, Link) {
        let (one, other) = tokio::io::duplex(buffer);
        (
            Link::new(Box::new(one), Vec::new(), Role::Client, 1 << 20).await,
            Link::new(Box::new(other), Vec::new(), Role::Server, 1 << 20).await,
        )
    }

    #[tokio::test]
    async fn two_sides_that_both_write_much_do_not_wait_for_each_other() {
        async fn exchange(mut link: Link) -> usize {
            for _ in 0..200 {
                link.send(vec![7; 10_000]);
            }
            let mut got = Vec::new();
            while got.len() < 200 {
                link.receive(&mut got).await.unwrap();
            }
            link.flush().await.unwrap();
            assert_eq!(link.waiting_bytes(), 0);
            // The other side may still be waiting for the last of it.
            let mut more = Vec::new();
            let _ = tokio::time::timeout(std::time::Duration::from_millis(50), link.receive(&mut more)).await;
            got.len() + more.len()
        }
        let (one, other) = pair(4096).await;
        assert_eq!(tokio::join!(exchange(one), exchange(other)), (200, 200));
    }

    #[tokio::test]
    async fn what_came_before_the_end_is_given() {
        let (mut one, mut other) = pair(1 << 16).await;
        one.send(&b"last"[..]);
        one.flush().await.unwrap();
        drop(one);
        let mut got = Vec::new();
        other.receive(&mut got).await.unwrap();
        assert_eq!(got, [&b"last"[..]]);
        assert!(other.receive(&mut got).await.is_err());
        assert!(other.receive(&mut got).await.is_err(), "and again");
    }
}
