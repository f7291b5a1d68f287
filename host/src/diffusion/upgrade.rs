//! The HTTP upgrade to a WebSocket (RFC 6455, section 4.1), from the client's side.
//!
//! Invariant: the request holds the password, so nothing here logs it or repeats it in an error. (The handshake of the WebSocket
//! crate logs whole requests, and takes no header that is not ASCII, as names of users may be.)

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The head of an answer is never longer.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;

/// Why there is no WebSocket.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The connection broke.
    #[error("the connection broke off during the upgrade to a WebSocket: {0}")]
    Broken(#[from] std::io::Error),
    /// Something answered that it does not want to.
    #[error("the upgrade to a WebSocket was answered with {0}: a Diffusion server listens at ws://HOST:PORT/diffusion")]
    Refused(String),
    /// Whatever answers does not speak HTTP.
    #[error("whatever listens there does not speak HTTP ({0}): wss:// may be needed instead of ws://, or the other way round")]
    Foreign(&'static str),
}

/// Asks for a WebSocket at `target` (path and query). Gives the bytes that came behind the answer already: they belong to the
/// WebSocket.
///
/// # Errors
/// Where there is no WebSocket afterwards.
pub async fn upgrade<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    host: &str,
    target: &str,
    headers: &[(&str, Vec<u8>)],
) -> Result<Vec<u8>, UpgradeError> {
    let key = generate_key();
    let mut request = format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
    )
    .into_bytes();
    for (name, value) in headers {
        request.extend_from_slice(name.as_bytes());
        request.extend_from_slice(b": ");
        // A line end would begin another header; configuration refuses it before.
        request.extend(value.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n' | 0)));
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request).await?;
    stream.flush().await?;

    let mut answer = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            let closed = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the other side closed it");
            return Err(UpgradeError::Broken(closed));
        }
        if let Some(length) = head(&answer, &key)? {
            return Ok(answer.split_off(length));
        }
        if answer.len() > HEAD_BYTES_MAX {
            return Err(UpgradeError::Foreign("its answer has no end"));
        }
    }
}

/// The length of the answer's head, where it is whole and takes the upgrade.
fn head(answer: &[u8], key: &str) -> Result<Option<usize>, UpgradeError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(answer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(UpgradeError::Foreign("its answer is no HTTP")),
    };
    if response.code != Some(101) {
        let reason = response.reason.unwrap_or_default();
        return Err(UpgradeError::Refused(format!("{} {reason}", response.code.unwrap_or_default()).trim_end().to_owned()));
    }
    let header = |name: &str| response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value);
    if !header("upgrade").is_some_and(|value| value.eq_ignore_ascii_case(b"websocket")) {
        return Err(UpgradeError::Foreign("its answer is no upgrade to a WebSocket"));
    }
    if header("sec-websocket-accept") != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
        return Err(UpgradeError::Foreign("it answers another request"));
    }
    Ok(Some(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    #[test]
    fn an_answer_counts_only_when_it_is_whole_and_for_this_request() {
        // Key and answer are those of RFC 6455, section 1.3.
        let good = "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        assert_eq!(head(good.as_bytes(), KEY).unwrap(), Some(good.len()));
        assert_eq!(head(&good.as_bytes()[..good.len() - 1], KEY).unwrap(), None);
        let other = good.replace("s3pPLM", "s3pPLN");
        assert!(matches!(head(other.as_bytes(), KEY), Err(UpgradeError::Foreign(_))));
        assert!(matches!(head(b"\x15\x03\x01\x00\x02", KEY), Err(UpgradeError::Foreign(_))), "a TLS alert");
        let Err(UpgradeError::Refused(status)) = head(b"HTTP/1.1 404 Not Found\r\n\r\n", KEY) else { panic!("not refused") };
        assert_eq!(status, "404 Not Found");
    }

    #[tokio::test]
    async fn names_that_are_not_ascii_are_sent_and_what_follows_the_answer_is_kept() {
        let (mut client, mut server) = tokio::io::duplex(4096);
        let asked = tokio::spawn(async move {
            let mut request = vec![0; 4096];
            let length = server.read(&mut request).await.unwrap();
            let request = String::from_utf8(request[..length].to_vec()).unwrap();
            let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
            let accept = derive_accept_key(key.as_bytes());
            let answer = format!("HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n\x02\x03");
            server.write_all(answer.as_bytes()).await.unwrap();
            request
        });
        let headers = [("username", "jürgen\r\nx: y".as_bytes().to_vec())];
        assert_eq!(upgrade(&mut client, "host:1", "/diffusion", &headers).await.unwrap(), [2, 3]);
        let request = asked.await.unwrap();
        assert!(request.starts_with("GET /diffusion HTTP/1.1\r\nHost: host:1\r\n"), "{request}");
        assert!(request.contains("\r\nusername: jürgenx: y\r\n"), "{request}");
    }
}
