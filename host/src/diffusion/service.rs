//! Services: what one side asks of the other, as request payloads of protocol 25.
//!
//! Invariant: [`Request::read`] gives back what [`Request::write`] was given; a payload with anything left over is refused.

use std::collections::BTreeMap;

use super::wire::{Reader, WireError, put_bytes, put_i32, put_length, put_text};

const SUBSCRIBE: i32 = 3;
const UNSUBSCRIBE: i32 = 4;
const NOTIFY_UNSUBSCRIPTION: i32 = 42;
const SYSTEM_PING: i32 = 55;
const USER_PING: i32 = 56;
const REMOVE_TOPICS: i32 = 83;
const NOTIFY_SUBSCRIPTION: i32 = 87;
const ADD_TOPIC: i32 = 112;
const SET_TOPIC: i32 = 118;
const ADD_AND_SET_TOPIC: i32 = 122;

/// What a topic holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TopicType(pub u8);

impl TopicType {
    /// Bytes.
    pub const BINARY: TopicType = TopicType(14);
    /// One CBOR item that stands for JSON.
    pub const JSON: TopicType = TopicType(15);
    /// A CBOR text.
    pub const STRING: TopicType = TopicType(17);
    /// A CBOR integer.
    pub const INT64: TopicType = TopicType(18);
    /// A CBOR float.
    pub const DOUBLE: TopicType = TopicType(19);
}

impl std::fmt::Display for TopicType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.0 {
            14 => "binary",
            15 => "JSON",
            16 => "time series",
            17 => "string",
            18 => "int64",
            19 => "double",
            20 => "recordV2",
            other => return write!(f, "{other}"),
        };
        f.write_str(name)
    }
}

/// What a topic is: its type and its properties by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Specification {
    /// Its type.
    pub kind: TopicType,
    /// Properties that are not as by default, in the server's spelling (`DONT_RETAIN_VALUE`).
    pub properties: BTreeMap<String, String>,
}

impl Specification {
    /// A topic without properties of its own.
    pub fn new(kind: TopicType) -> Self {
        Specification { kind, properties: BTreeMap::new() }
    }

    /// Whether a property is set to true.
    pub fn is(&self, property: &str) -> bool {
        self.properties.get(property).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.kind.0);
        put_length(out, self.properties.len());
        for (name, value) in &self.properties {
            put_text(out, name);
            put_text(out, value);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut specification = Specification::new(TopicType(reader.byte()?));
        for _ in 0..reader.length()? {
            let (name, value) = (reader.text()?, reader.text()?);
            specification.properties.insert(name.to_owned(), value.to_owned());
        }
        Ok(specification)
    }
}

/// What has to hold for an update to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Constraint<'a> {
    /// Nothing.
    None,
    /// The topic has this value.
    Value(&'a [u8]),
    /// The topic has no value.
    NoValue,
    /// There is no such topic.
    NoTopic,
}

impl<'a> Constraint<'a> {
    fn write(self, out: &mut Vec<u8>) {
        match self {
            Constraint::None => out.push(0),
            Constraint::Value(value) => {
                out.push(2);
                put_bytes(out, value);
            }
            Constraint::NoValue => out.push(3),
            Constraint::NoTopic => out.push(5),
        }
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        match reader.byte()? {
            0 => Ok(Constraint::None),
            2 => reader.bytes().map(Constraint::Value),
            3 => Ok(Constraint::NoValue),
            5 => Ok(Constraint::NoTopic),
            _ => Err(WireError { what: "a constraint that is not known here", at: reader.position() }),
        }
    }
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    /// The client wants the topics of a selector. Answer: empty.
    Subscribe {
        /// Which topics.
        selector: &'a str,
    },
    /// The client does not want them any more. Answer: empty.
    Unsubscribe {
        /// Which topics.
        selector: &'a str,
    },
    /// Is the other side there? The server asks once a period. Answer: empty.
    SystemPing,
    /// The same, asked by the client.
    UserPing,
    /// Removes topics. Answer: how many, see [`read_removed`].
    Remove {
        /// Which topics.
        selector: &'a str,
    },
    /// Creates a topic. Answer: see [`read_created`].
    Add {
        /// Its path.
        path: &'a str,
        /// What it is to be.
        specification: Specification,
    },
    /// Sets a topic's value. Answer: empty.
    Set {
        /// Its path.
        path: &'a str,
        /// Its type.
        kind: TopicType,
        /// Its new value.
        value: &'a [u8],
        /// What has to hold.
        constraint: Constraint<'a>,
    },
    /// Creates a topic where there is none, and sets its value. Answer: see [`read_created`].
    AddAndSet {
        /// Its path.
        path: &'a str,
        /// What it is to be.
        specification: Specification,
        /// Its new value.
        value: &'a [u8],
        /// What has to hold.
        constraint: Constraint<'a>,
    },
    /// The server tells of a topic that was subscribed to; values follow under its id. No answer.
    NotifySubscription {
        /// Until the unsubscription or the session's end.
        topic: i32,
        /// Its path.
        path: &'a str,
        /// What it is.
        specification: Specification,
    },
    /// The server tells that there will be no more values. No answer.
    NotifyUnsubscription {
        /// As in the subscription.
        topic: i32,
        /// See [`Reason`].
        reason: u8,
    },
}

/// Why a subscription ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// This session asked for it.
    Requested,
    /// Another session or the server did.
    Control,
    /// The topic is gone.
    Removed,
    /// This session may not read it any more.
    NotAuthorised,
    /// This session was too slow.
    BackPressure,
    /// The server's branch mappings changed.
    BranchMappings,
    /// A reason that is not known here.
    Unknown(u8),
}

impl From<u8> for Reason {
    fn from(number: u8) -> Self {
        match number {
            0 => Reason::Requested,
            1 => Reason::Control,
            2 => Reason::Removed,
            3 => Reason::NotAuthorised,
            5 => Reason::BackPressure,
            6 => Reason::BranchMappings,
            other => Reason::Unknown(other),
        }
    }
}

impl<'a> Request<'a> {
    /// The id of its service.
    pub fn service(&self) -> i32 {
        match self {
            Request::Subscribe { .. } => SUBSCRIBE,
            Request::Unsubscribe { .. } => UNSUBSCRIBE,
            Request::SystemPing => SYSTEM_PING,
            Request::UserPing => USER_PING,
            Request::Remove { .. } => REMOVE_TOPICS,
            Request::Add { .. } => ADD_TOPIC,
            Request::Set { .. } => SET_TOPIC,
            Request::AddAndSet { .. } => ADD_AND_SET_TOPIC,
            Request::NotifySubscription { .. } => NOTIFY_SUBSCRIPTION,
            Request::NotifyUnsubscription { .. } => NOTIFY_UNSUBSCRIPTION,
        }
    }

    /// Appends its payload.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Request::SystemPing | Request::UserPing => (),
            Request::Subscribe { selector } | Request::Unsubscribe { selector } | Request::Remove { selector } => put_text(out, selector),
            Request::Add { path, specification } => {
                put_text(out, path);
                specification.write(out);
            }
            Request::Set { path, kind, value, constraint } => {
                put_text(out, path);
                out.push(kind.0);
                put_bytes(out, value);
                constraint.write(out);
            }
            Request::AddAndSet { path, specification, value, constraint } => {
                put_text(out, path);
                specification.write(out);
                put_bytes(out, value);
                constraint.write(out);
            }
            Request::NotifySubscription { topic, path, specification } => {
                put_i32(out, *topic);
                put_text(out, path);
                specification.write(out);
            }
            Request::NotifyUnsubscription { topic, reason } => {
                put_i32(out, *topic);
                out.push(*reason);
            }
        }
    }

    /// Reads the payload of a request; `None`: a service that is not known here.
    ///
    /// # Errors
    /// Where the payload is not as the service has it.
    pub fn read(service: i32, payload: &'a [u8]) -> Result<Option<Self>, WireError> {
        let mut reader = Reader::new(payload);
        let reader = &mut reader;
        let request = match service {
            SUBSCRIBE => Request::Subscribe { selector: reader.text()? },
            UNSUBSCRIBE => Request::Unsubscribe { selector: reader.text()? },
            SYSTEM_PING => Request::SystemPing,
            USER_PING => Request::UserPing,
            REMOVE_TOPICS => Request::Remove { selector: reader.text()? },
            ADD_TOPIC => Request::Add { path: reader.text()?, specification: Specification::read(reader)? },
            SET_TOPIC => Request::Set {
                path: reader.text()?,
                kind: TopicType(reader.byte()?),
                value: reader.bytes()?,
                constraint: Constraint::read(reader)?,
            },
            ADD_AND_SET_TOPIC => Request::AddAndSet {
                path: reader.text()?,
                specification: Specification::read(reader)?,
                value: reader.bytes()?,
                constraint: Constraint::read(reader)?,
            },
            NOTIFY_SUBSCRIPTION => {
                Request::NotifySubscription { topic: reader.i32()?, path: reader.text()?, specification: Specification::read(reader)? }
            }
            NOTIFY_UNSUBSCRIPTION => Request::NotifyUnsubscription { topic: reader.i32()?, reason: reader.byte()? },
            _ => return Ok(None),
        };
        reader.end()?;
        Ok(Some(request))
    }
}

/// Whether the answer to adding says that there was no such topic before.
///
/// # Errors
/// Where it says neither.
pub fn read_created(answer: &[u8]) -> Result<bool, WireError> {
    let mut reader = Reader::new(answer);
    let existed = reader.bool()?;
    reader.end().map(|()| !existed)
}

/// How many topics were removed.
///
/// # Errors
/// Where the answer does not say.
pub fn read_removed(answer: &[u8]) -> Result<i32, WireError> {
    let mut reader = Reader::new(answer);
    let removed = reader.i32()?;
    reader.end().map(|()| removed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::diffusion::message::request;
    use crate::diffusion::wire::hex;

    /// Requests as an official client sends them: conversation and bytes.
    fn vectors() -> Vec<(Request<'static>, i64, &'static str)> {
        let json = || Specification::new(TopicType::JSON);
        let none = Constraint::None;
        let mut with_properties = json();
        for (name, value) in [("DONT_RETAIN_VALUE", "true"), ("CONFLATION", "off")] {
            with_properties.properties.insert(name.into(), value.into());
        }
        let long: &[u8] = b"\xbfaa\x01ab\x9f\xf9\x3e\x00\xf6\xf5ax\xff\xff";
        let set = |path, value, constraint| Request::Set { path, kind: TopicType::JSON, value, constraint };
        let add = |path, specification, value, constraint| Request::AddAndSet { path, specification, value, constraint };
        vec![
            (Request::UserPing, 1, "00 38 01"),
            (Request::SystemPing, 1, "00 37 01"),
            (Request::Add { path: "py/json", specification: json() }, 2, "00 70 02 07 70792f6a736f6e 0f 00"),
            // Properties of a map stand in any order; here they are sorted by name.
            (
                Request::Add { path: "js/props", specification: with_properties },
                4,
                "00 70 04 08 6a732f70726f7073 0f 02 0a 434f4e464c4154494f4e 03 6f6666 11 444f4e545f52455441494e5f56414c5545 04 74727565",
            ),
            (set("py/json", long, none), 5, "00 76 05 07 70792f6a736f6e 0f 10 bf61610161629ff93e00f6f56178ffff 00"),
            (set("py/missing", b"\xbfaa\x01\xff", none), 0x1a, "00 76 1a 0a 70792f6d697373696e67 0f 05 bf616101ff 00"),
            (add("py/second", json(), b"\xbfan\x24\xff", none), 6, "00 7a 06 09 70792f7365636f6e64 0f 00 05 bf616e24ff 00"),
            (
                add("py/str", Specification::new(TopicType::STRING), b"\x65hello", none),
                7,
                "00 7a 07 06 70792f737472 11 00 06 6568656c6c6f 00",
            ),
            (
                add("py/c_no_topic", json(), b"\xbfaa\x01\xff", Constraint::NoTopic),
                0x1b,
                "00 7a 1b 0d 70792f635f6e6f5f746f706963 0f 00 05 bf616101ff 05",
            ),
            (Request::Remove { selector: "?py//" }, 0x1f, "00 53 1f 05 3f70792f2f"),
            (Request::Subscribe { selector: "?py//" }, 11, "00 03 0b 05 3f 70 79 2f 2f"),
            (Request::Unsubscribe { selector: "?py//" }, 30, "00 04 1e 05 3f 70 79 2f 2f"),
            (
                Request::NotifySubscription { topic: 3, path: "py/second", specification: json() },
                0,
                "00 57 00 03 09 70792f7365636f6e64 0f 00",
            ),
            (Request::NotifyUnsubscription { topic: 1, reason: 0 }, 0, "00 2a 00 01 00"),
        ]
    }

    #[test]
    fn requests_have_the_bytes_of_official_clients() {
        for (asked, conversation, expected) in vectors() {
            let bytes = request(asked.service(), conversation, |out| asked.write(out));
            assert_eq!(bytes, hex(expected), "{asked:?}");
            assert_eq!(Request::read(asked.service(), &bytes[3..]), Ok(Some(asked)));
        }
    }

    #[test]
    fn properties_are_read_in_any_order() {
        let bytes = hex("08 6a732f70726f7073 0f 02 11 444f4e545f52455441494e5f56414c5545 04 74727565 0a 434f4e464c4154494f4e 03 6f6666");
        let Ok(Some(Request::Add { specification, .. })) = Request::read(ADD_TOPIC, &bytes) else { panic!("no request") };
        assert!(specification.is("DONT_RETAIN_VALUE") && specification.properties["CONFLATION"] == "off");
    }

    #[test]
    fn answers_say_what_was_done() {
        assert_eq!(read_created(&[0]), Ok(true));
        assert_eq!(read_created(&[1]), Ok(false));
        assert!(read_created(&[]).is_err() && read_created(&[2]).is_err() && read_created(&[0, 0]).is_err());
        assert_eq!(read_removed(&[8]), Ok(8));
    }

    #[test]
    fn a_service_that_is_not_known_is_no_error() {
        assert_eq!(Request::read(117, b"anything"), Ok(None));
        assert!(Request::read(SUBSCRIBE, &hex("01 61 00")).is_err(), "bytes are left over");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(service in 0i32..140, noise: Vec<u8>) {
            let _ = Request::read(service, &noise);
        }
    }
}
