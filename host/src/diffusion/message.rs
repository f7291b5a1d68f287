//! Messages: one binary WebSocket message each, told apart by their first byte.
//!
//! Invariant: what [`Message::encode`] makes is read back as the same by [`Message::decode`]; anything else is a [`WireError`], never
//! a panic.

use std::io::Read;

use bytes::Bytes;

use super::wire::{Reader, WireError, put_i32, put_i64, put_text, rest};

const REQUEST: u8 = 0;
const VALUE: u8 = 4;
const DELTA: u8 = 5;
const RESPONSE: u8 = 6;
const ERROR: u8 = 7;
const ABORT: u8 = 0x1c;
const CLOSE: u8 = 0x1d;
/// Set in the first byte of a value or a delta whose bytes are compressed.
const ZLIB: u8 = 0x80;
/// A compressed value that grows beyond it is an attack or a mistake.
const INFLATED_BYTES_MAX: u64 = 64 << 20;

/// One message of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// One side asks the other. Conversation 0 wants no answer.
    Request {
        /// What is asked; see [`super::service`].
        service: i32,
        /// Repeated by the answer; ids of the two directions are independent.
        conversation: i64,
        /// As the service has it.
        payload: Bytes,
    },
    /// The answer to a request.
    Response {
        /// That of the request.
        conversation: i64,
        /// As the service has it.
        payload: Bytes,
    },
    /// The refusal of a request; the session goes on.
    Error {
        /// That of the request.
        conversation: i64,
        /// In the server's words.
        message: String,
        /// See [`super::code`].
        code: i32,
    },
    /// The whole value of a topic.
    Value {
        /// As the subscription told it.
        topic: i32,
        /// The value as it is stored.
        bytes: Bytes,
    },
    /// A change of the value that came before; see [`super::delta`].
    Delta {
        /// As the subscription told it.
        topic: i32,
        /// The change.
        bytes: Bytes,
    },
    /// The server ends the session.
    Abort,
    /// The client wants the session to end.
    Close,
}

impl Message {
    /// Reads a message.
    ///
    /// # Errors
    /// Where the bytes are none.
    pub fn decode(message: &Bytes) -> Result<Message, WireError> {
        let mut reader = Reader::new(message);
        Ok(match reader.byte()? {
            REQUEST => {
                let (service, conversation) = (reader.i32()?, reader.i64()?);
                Message::Request { service, conversation, payload: rest(message, reader.position()) }
            }
            RESPONSE => Message::Response { conversation: reader.i64()?, payload: rest(message, reader.position()) },
            ERROR => {
                let (conversation, text, code) = (reader.i64()?, reader.text()?, reader.i32()?);
                Message::Error { conversation, message: text.to_owned(), code }
            }
            kind if matches!(kind & !ZLIB, VALUE | DELTA) => {
                let topic = i32::from_be_bytes(reader.array()?);
                let bytes = rest(message, reader.position());
                let bytes = if kind & ZLIB == 0 { bytes } else { inflate(&bytes)? };
                if kind & !ZLIB == VALUE { Message::Value { topic, bytes } } else { Message::Delta { topic, bytes } }
            }
            ABORT => Message::Abort,
            CLOSE => Message::Close,
            _ => return Err(WireError { what: "a message of an unknown type", at: 0 }),
        })
    }

    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Message::Request { service, conversation, payload } => request(*service, *conversation, |out| out.extend_from_slice(payload)),
            Message::Response { conversation, payload } => response(*conversation, payload),
            Message::Error { conversation, message, code } => {
                let mut out = vec![ERROR];
                put_i64(&mut out, *conversation);
                put_text(&mut out, message);
                put_i32(&mut out, *code);
                out
            }
            Message::Value { topic, bytes } => of_topic(VALUE, *topic, bytes),
            Message::Delta { topic, bytes } => of_topic(DELTA, *topic, bytes),
            Message::Abort => vec![ABORT],
            Message::Close => vec![CLOSE],
        }
    }
}

/// A request whose payload `fill` appends.
pub fn request(service: i32, conversation: i64, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.push(REQUEST);
    put_i32(&mut out, service);
    put_i64(&mut out, conversation);
    fill(&mut out);
    out
}

/// An answer.
pub fn response(conversation: i64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(11 + payload.len());
    out.push(RESPONSE);
    put_i64(&mut out, conversation);
    out.extend_from_slice(payload);
    out
}

fn of_topic(kind: u8, topic: i32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(5 + bytes.len());
    out.push(kind);
    out.extend_from_slice(&topic.to_be_bytes());
    out.extend_from_slice(bytes);
    out
}

/// RFC 1950.
fn inflate(bytes: &[u8]) -> Result<Bytes, WireError> {
    let mut inflated = Vec::new();
    let mut decoder = flate2::read::ZlibDecoder::new(bytes).take(INFLATED_BYTES_MAX + 1);
    let broken = |_| WireError { what: "a compressed value that cannot be inflated", at: 5 };
    decoder.read_to_end(&mut inflated).map_err(broken)?;
    if inflated.len() as u64 > INFLATED_BYTES_MAX {
        return Err(WireError { what: "a compressed value that grows without bound", at: 5 });
    }
    Ok(inflated.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;
    use crate::diffusion::wire::hex;

    fn bytes(text: &str) -> Bytes {
        hex(text).into()
    }

    /// As official clients and servers were seen to send them.
    #[test]
    fn messages_have_the_bytes_of_official_clients() {
        let ping = Message::Request { service: 0x38, conversation: 1, payload: Bytes::new() };
        let removed = Message::Response { conversation: 0x1f, payload: bytes("08") };
        let missing = Message::Error { conversation: 0x1a, message: "No such topic".into(), code: 503 };
        let constraint = Message::Error { conversation: 0x11, message: "Unsatisfied constraint".into(), code: 9012 };
        let value = Message::Value { topic: 1, bytes: bytes("bf61610161629ff93e00f6f56178ffff") };
        let large_id = Message::Value { topic: 521, bytes: bytes("f6") };
        let delta = Message::Delta { topic: 1, bytes: bytes("00 03 41 02 04 0c") };
        let cases = [
            (ping, "00 38 01"),
            (removed, "06 1f 08"),
            (missing, "07 1a 0d 4e6f207375636820746f706963 f7 03"),
            (constraint, "07 11 16 556e736174697366696564 20636f6e73747261696e74 b4 46"),
            (value, "04 00000001 bf61610161629ff93e00f6f56178ffff"),
            (large_id, "04 00000209 f6"),
            (delta, "05 00000001 00 03 41 02 04 0c"),
            (Message::Close, "1d"),
            (Message::Abort, "1c"),
        ];
        for (message, expected) in cases {
            assert_eq!(message.encode(), hex(expected), "{message:?}");
            assert_eq!(Message::decode(&bytes(expected)).as_ref(), Ok(&message));
        }
    }

    #[test]
    fn a_compressed_value_is_inflated_and_its_topic_id_is_not() {
        let mut packed = flate2::write::ZlibEncoder::new(hex("84 00000001"), flate2::Compression::default());
        packed.write_all(b"\xbfaa\x01\xff").unwrap();
        let message: Bytes = packed.finish().unwrap().into();
        assert_eq!(message[5], 0x78);
        let value = Message::Value { topic: 1, bytes: Bytes::from_static(b"\xbfaa\x01\xff") };
        assert_eq!(Message::decode(&message), Ok(value));
        assert!(Message::decode(&message.slice(..message.len() - 6)).is_err(), "cut off");
        assert!(Message::decode(&bytes("84 00000001 0102")).is_err(), "no zlib");
    }

    #[test]
    fn a_small_message_cannot_fill_the_memory() {
        let mut packed = flate2::write::ZlibEncoder::new(hex("84 00000001"), flate2::Compression::best());
        let zeros = vec![0; 1 << 20];
        for _ in 0..65 {
            packed.write_all(&zeros).unwrap();
        }
        let message: Bytes = packed.finish().unwrap().into();
        assert!(message.len() < 100_000);
        assert!(Message::decode(&message).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(noise: Vec<u8>) {
            let _ = Message::decode(&noise.into());
        }

        #[test]
        fn what_is_encoded_is_decoded_as_the_same(service: i32, conversation: i64, payload: Vec<u8>, text: String, topic: i32) {
            let payload = Bytes::from(payload);
            for message in [
                Message::Request { service, conversation, payload: payload.clone() },
                Message::Response { conversation, payload: payload.clone() },
                Message::Error { conversation, message: text, code: service },
                Message::Value { topic, bytes: payload.clone() },
                Message::Delta { topic, bytes: payload },
            ] {
                prop_assert_eq!(Message::decode(&message.encode().into()), Ok(message));
            }
        }
    }
}
