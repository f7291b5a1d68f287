//! The beginning of a connection: what the client says in headers of the upgrade, and the server's first message.
//!
//! Invariant: neither the password nor the session's token is part of any text that this gives, `Debug` included.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::wire::{Reader, WireError, put_bytes};

/// The version of the protocol that is spoken here.
pub const VERSION: u8 = 25;
/// Every answer begins with it.
const PROTOCOL: u8 = 0x23;
/// A client of this protocol; without it the server would expect an older one. 2 more would ask for compressed values.
const CAPABILITIES: &str = "8";
/// A client over WebSockets.
const CLIENT_TYPE: &str = "WB";
const TOKEN_BYTES: usize = 24;

/// The server took the client.
pub const CONNECTED: u8 = 100;
/// The server does not speak the client's version.
pub const VERSION_MISMATCH: u8 = 102;
/// No more sessions by licence.
pub const LICENCE: u8 = 113;
/// The client does not speak the protocol.
pub const PROTOCOL_ERROR: u8 = 115;
/// Wrong principal or password.
pub const AUTHENTICATION_FAILED: u8 = 116;
/// The server is not ready yet.
pub const INITIALISING: u8 = 119;

/// Headers of the upgrade request. No reconnection is asked for: a lost connection is a lost session.
pub fn headers(principal: &str, password: Option<&str>) -> Vec<(&'static str, Vec<u8>)> {
    let mut headers: Vec<(&str, Vec<u8>)> = vec![
        ("v", VERSION.to_string().into()),
        ("ca", CAPABILITIES.into()),
        ("username", principal.into()),
        ("r", "0".into()),
        ("ty", CLIENT_TYPE.into()),
    ];
    if let Some(password) = password {
        headers.push(("password", credentials(password).into()));
    }
    headers
}

/// A password as it stands in the header.
pub fn credentials(password: &str) -> String {
    let mut bytes = vec![1];
    put_bytes(&mut bytes, password.as_bytes());
    STANDARD.encode(bytes)
}

/// The password in a header; `None`: there is none, or the header is nothing that a client sends.
pub fn read_credentials(header: &str) -> Option<String> {
    let bytes = STANDARD.decode(header).ok()?;
    let mut reader = Reader::new(&bytes);
    let (kind, password) = (reader.byte().ok()?, reader.text().ok()?);
    (kind == 1 && reader.end().is_ok()).then(|| password.to_owned())
}

/// The server's first message, where it took the client.
#[derive(Clone, PartialEq, Eq)]
pub struct Connected {
    /// As servers print it.
    pub session: (u64, u64),
    /// Whoever knows it can take the session over.
    pub token: [u8; TOKEN_BYTES],
    /// How often the server asks whether the client is there; `None`: never.
    pub ping_period: Option<Duration>,
    /// The longest message that the server takes.
    pub message_bytes_max: usize,
}

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (server, client) = self.session;
        write!(f, "Connected({server:016x}-{client:016x}, pings {:?}, at most {} bytes)", self.ping_period, self.message_bytes_max)
    }
}

/// The server's first message, where it did not take the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The server speaks another version.
    #[error("the server does not speak version {VERSION} of the protocol, only {0}: a Diffusion server of version 6.9 or later does")]
    Version(u8),
    /// The answer is not that of a Diffusion server.
    #[error("the answer is none of a Diffusion server: {0}")]
    Foreign(WireError),
    /// Any other code.
    #[error("the server refused the connection: {} (code {})", name(*.0), .0)]
    Code(u8),
}

impl Refusal {
    /// Whether somebody has to change something before another try can succeed.
    pub fn is_permanent(&self) -> bool {
        match self {
            Refusal::Version(_) => true,
            // Whatever stands in between may be gone the next time.
            Refusal::Foreign(_) => false,
            Refusal::Code(code) => matches!(*code, VERSION_MISMATCH | LICENCE | PROTOCOL_ERROR | AUTHENTICATION_FAILED),
        }
    }
}

fn name(code: u8) -> &'static str {
    match code {
        1 => "the peer connection failed",
        2 => "loop-back is denied",
        3 => "the secondary acceptor was not found",
        VERSION_MISMATCH => "it does not speak this version of the protocol; version 6.9 or later does",
        105 | 106 => "it continues a session that nobody asked for",
        107 => "it answers as to another server",
        111 => "it was rejected",
        LICENCE => "its licence allows no more sessions",
        114 => "it does not support reconnection",
        PROTOCOL_ERROR => "it does not understand this client",
        AUTHENTICATION_FAILED => "the login failed, check the user name and the password",
        117 => "it does not know the session",
        118 => "messages of the session are lost",
        INITIALISING => "it is still starting",
        _ => "for a reason that is not known here",
    }
}

/// Reads the server's first message. Its numbers are of fixed width, the highest byte first.
///
/// # Errors
/// Where the server did not take the client.
pub fn read(message: &[u8]) -> Result<Connected, Refusal> {
    let mut reader = Reader::new(message);
    let foreign = Refusal::Foreign;
    let first = reader.byte().map_err(foreign)?;
    if first != PROTOCOL {
        return Err(Refusal::Foreign(WireError { what: "a message that is no connection response", at: 0 }));
    }
    let (version, code) = (reader.byte().map_err(foreign)?, reader.byte().map_err(foreign)?);
    if code != CONNECTED {
        return Err(Refusal::Code(code));
    }
    if version != VERSION {
        return Err(Refusal::Version(version));
    }
    let mut rest = || -> Result<Connected, WireError> {
        let session = (u64::from_be_bytes(reader.array()?), u64::from_be_bytes(reader.array()?));
        let token = reader.array()?;
        let ping_period = i64::from_be_bytes(reader.array()?);
        let message_bytes_max = i32::from_be_bytes(reader.array()?);
        Ok(Connected {
            session,
            token,
            ping_period: u64::try_from(ping_period).ok().filter(|period| *period > 0).map(Duration::from_millis),
            // Nothing sensible: the server does not say, so there is no bound.
            message_bytes_max: usize::try_from(message_bytes_max).ok().filter(|bytes| *bytes > 0).unwrap_or(usize::MAX),
        })
    };
    rest().map_err(foreign)
}

/// The server's first message, where it takes the client.
pub fn write(connected: &Connected) -> Vec<u8> {
    let mut out = vec![PROTOCOL, VERSION, CONNECTED];
    out.extend_from_slice(&connected.session.0.to_be_bytes());
    out.extend_from_slice(&connected.session.1.to_be_bytes());
    out.extend_from_slice(&connected.token);
    let period = connected.ping_period.map_or(0, |period| i64::try_from(period.as_millis()).unwrap_or(i64::MAX));
    out.extend_from_slice(&period.to_be_bytes());
    out.extend_from_slice(&i32::try_from(connected.message_bytes_max).unwrap_or(i32::MAX).to_be_bytes());
    out
}

/// The server's first message, where it does not take the client.
pub fn write_refusal(code: u8) -> Vec<u8> {
    vec![PROTOCOL, VERSION, code]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::diffusion::wire::hex;

    #[test]
    fn credentials_are_encoded_as_official_clients_do() {
        assert_eq!(credentials("password"), "AQhwYXNzd29yZA==");
        assert_eq!(read_credentials("AQhwYXNzd29yZA==").as_deref(), Some("password"));
        assert_eq!(read_credentials("AAA="), None);
        assert_eq!(read_credentials("not base64!"), None);
    }

    #[test]
    fn the_headers_ask_for_version_25_and_no_reconnection() {
        let headers = headers("admin", Some("password"));
        let text = |name: &str| {
            let (_, value) = headers.iter().find(|(known, _)| *known == name).unwrap();
            std::str::from_utf8(value).unwrap()
        };
        let expected = [("v", "25"), ("ca", "8"), ("r", "0"), ("ty", "WB"), ("username", "admin"), ("password", "AQhwYXNzd29yZA==")];
        for (name, value) in expected {
            assert_eq!(text(name), value);
        }
    }

    #[test]
    fn the_first_message_of_a_server_is_read() {
        let token = "61".repeat(24);
        let bytes = hex(&format!("23 19 64 c11fef0600000001 0000000000000000 {token} 0000000000015f90 00040000"));
        let connected = read(&bytes).unwrap();
        let expected = Connected {
            session: (0xc11f_ef06_0000_0001, 0),
            token: [b'a'; 24],
            ping_period: Some(Duration::from_secs(90)),
            message_bytes_max: 262_144,
        };
        assert_eq!(connected, expected);
        assert_eq!(write(&connected), bytes);
        assert!(!format!("{connected:?}").contains("aaa"), "{connected:?}");
        let silent = Connected { ping_period: None, ..expected };
        assert_eq!(read(&write(&silent)), Ok(silent));
    }

    #[test]
    fn a_refusal_says_whether_trying_again_helps() {
        assert_eq!(read(&hex("23 06 74")), Err(Refusal::Code(116)), "as a real server answered");
        let permanent = |bytes: &str| read(&hex(bytes)).unwrap_err().is_permanent();
        for code in ["66", "71", "73", "74"] {
            assert!(permanent(&format!("23 19 {code}")), "{code}");
        }
        for code in ["77", "69", "72", "75", "00"] {
            assert!(!permanent(&format!("23 19 {code}")), "{code}");
        }
        assert_eq!(read(&hex("23 06 64")), Err(Refusal::Version(6)));
        for foreign in ["", "23", "23 19", "48 54 54", "23 19 64 00"] {
            assert!(matches!(read(&hex(foreign)), Err(Refusal::Foreign(_))), "{foreign}");
        }
        assert!(Refusal::Code(116).to_string().contains("password"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(noise: Vec<u8>) {
            let _ = read(&noise);
        }
    }
}
