//! From a URL and a login to a connection that the server has taken.
//!
//! Invariant: certificates are verified, always; no proxy is taken from the environment. The password is in the upgrade request and
//! nowhere else.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::protocol::Role;
use url::Url;

use super::handshake::{self, Connected, Refusal};
use super::link::{Link, Lost, Transport};
use super::upgrade::{UpgradeError, upgrade};

/// The path at which every server listens.
const PATH: &str = "diffusion";
/// The longest message that is taken from a server: values of topics.
const INCOMING_BYTES_MAX: usize = 64 << 20;

/// Where a server listens: `ws://host:port` or `wss://host:port`; the path is `/diffusion` unless another one that ends so is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl(Url);

/// Why a text is no URL of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It is no URL at all.
    #[error("{0:?} is not a URL: {1}")]
    Invalid(String, url::ParseError),
    /// Neither `ws` nor `wss`.
    #[error("the URL's scheme is {0:?}")]
    Scheme(String),
    /// A user or a password stands in it; the text is not repeated.
    #[error("credentials stand in the URL")]
    Credentials,
    /// A query or a fragment stands in it.
    #[error("a query or a fragment stands in the URL")]
    Query,
}

impl FromStr for ServerUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let mut url = Url::parse(text).map_err(|error| UrlError::Invalid(text.to_owned(), error))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UrlError::Credentials);
        }
        if !matches!(url.scheme(), "ws" | "wss") {
            return Err(UrlError::Scheme(url.scheme().to_owned()));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(UrlError::Query);
        }
        let path = url.path().trim_end_matches('/').to_owned();
        if path.rsplit('/').next() == Some(PATH) {
            url.set_path(&path);
        } else {
            url.set_path(&format!("{path}/{PATH}"));
        }
        Ok(ServerUrl(url))
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl ServerUrl {
    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        self.0.scheme() == "wss"
    }

    fn host(&self) -> &str {
        // Both schemes have a host, or the text was no URL.
        self.0.host_str().unwrap_or_default()
    }

    fn port(&self) -> u16 {
        self.0.port_or_known_default().unwrap_or(80)
    }

    /// As it stands in the header `Host`.
    fn authority(&self) -> String {
        self.0.port().map_or_else(|| self.host().to_owned(), |port| format!("{}:{port}", self.host()))
    }
}

/// How to connect.
#[derive(Clone)]
pub struct Settings {
    /// Where the server listens.
    pub url: ServerUrl,
    /// The principal; empty: anonymous.
    pub username: String,
    /// Its password.
    pub password: Option<Arc<str>>,
    /// For `wss`; see [`tls`].
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// How long connecting may take, the server's first message included.
    pub timeout: Duration,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("url", &self.url.0.as_str()).field("username", &self.username).finish_non_exhaustive()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens, or the connection broke.
    #[error("{0}")]
    Unavailable(String),
    /// Whoever listens does not make it a WebSocket.
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
    /// The server did not take this client.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl ConnectError {
    /// Whether somebody has to change something before another try can succeed. Only the server's own word counts for it: what
    /// stands in front of it may answer anything while the server is away.
    pub fn is_permanent(&self) -> bool {
        matches!(self, ConnectError::Refused(refusal) if refusal.is_permanent())
    }
}

/// Connects and logs in.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect(settings: &Settings) -> Result<(Link, Connected), ConnectError> {
    let seconds = settings.timeout.as_secs_f64();
    let late = |_| ConnectError::Unavailable(format!("{} did not take the connection within {seconds} s", settings.url));
    tokio::time::timeout(settings.timeout, connect_in_time(settings)).await.map_err(late)?
}

async fn connect_in_time(settings: &Settings) -> Result<(Link, Connected), ConnectError> {
    let url = &settings.url;
    let (host, port) = (url.host().trim_matches(['[', ']']), url.port());
    let nobody = |error: std::io::Error| ConnectError::Unavailable(format!("nobody answers at {host}:{port}: {error}"));
    let stream = TcpStream::connect((host, port)).await.map_err(nobody)?;
    stream.set_nodelay(true).map_err(nobody)?;
    let mut stream: Box<dyn Transport> = if url.is_tls() { encrypted(settings, host, stream).await? } else { Box::new(stream) };
    let headers = handshake::headers(&settings.username, settings.password.as_deref());
    let tail = upgrade(&mut stream, &url.authority(), url.0.path(), &headers).await?;
    let mut link = Link::new(stream, tail, Role::Client, INCOMING_BYTES_MAX).await;
    let mut messages = Vec::with_capacity(1);
    let early = |Lost(reason)| ConnectError::Unavailable(format!("the server did not answer the login: {reason}"));
    link.receive(&mut messages).await.map_err(early)?;
    let connected = handshake::read(messages.first().map_or(&[][..], |message| message))?;
    // The server is not asked anything before it took the client, so its next message is at most a notification, or a ping.
    for message in messages.drain(1..) {
        link.put_back(message);
    }
    Ok((link, connected))
}

async fn encrypted(settings: &Settings, host: &str, stream: TcpStream) -> Result<Box<dyn Transport>, ConnectError> {
    let unavailable = |reason: String| ConnectError::Unavailable(reason);
    let config = settings.tls.clone().ok_or_else(|| unavailable("wss:// without settings for TLS".into()))?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| unavailable(format!("{host:?} is no name of a server")))?;
    let stream = TlsConnector::from(config).connect(name, stream).await;
    let stream = stream.map_err(|error| unavailable(format!("no encrypted connection to {host}: {error}")))?;
    Ok(Box::new(stream))
}

/// Certificates for `wss`, each as the text of a PEM file.
#[derive(Default)]
pub struct Certificates {
    /// Authorities to trust; without it those of the public web.
    pub ca: Option<Vec<u8>>,
    /// This client's certificate and its key.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
}

/// Settings for `wss`.
///
/// # Errors
/// Where a certificate or a key is none, in words for the user.
pub fn tls(certificates: &Certificates) -> Result<Arc<rustls::ClientConfig>, String> {
    let mut roots = rustls::RootCertStore::empty();
    match &certificates.ca {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(pem) => {
            for certificate in pem_certificates(pem).map_err(|error| format!("tls.ca: {error}"))? {
                roots.add(certificate).map_err(|error| format!("tls.ca: {error}"))?;
            }
        }
    }
    // The provider is named: others in the tree bring a second one, and then there is none by default.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?.with_root_certificates(roots);
    let config = match &certificates.client {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = pem_certificates(cert).map_err(|error| format!("tls.cert: {error}"))?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("tls.key: no key in PEM form: {error}"))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| format!("tls.cert and tls.key: {error}"))?
        }
    };
    Ok(Arc::new(config))
}

fn pem_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err("no certificate in PEM form".into()),
        Ok(all) => Ok(all),
        Err(error) => Err(format!("no certificate in PEM form: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_host_and_port_and_the_path_is_completed() {
        let cases = [
            ("ws://localhost:8080", "ws://localhost:8080/diffusion"),
            ("ws://localhost:8080/", "ws://localhost:8080/diffusion"),
            ("ws://localhost:8080/diffusion/", "ws://localhost:8080/diffusion"),
            ("wss://host/gateway", "wss://host/gateway/diffusion"),
            ("wss://host/a/diffusion", "wss://host/a/diffusion"),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<ServerUrl>().unwrap().to_string(), expected);
        }
        let port = |text: &str| text.parse::<ServerUrl>().unwrap().port();
        assert_eq!((port("ws://h"), port("wss://h"), port("ws://h:8080")), (80, 443, 8080));
        for text in ["http://host", "host:8080", "ws://", "ws://h/?a=b", "ws://h/#a", "ws://me:hunter2@h/"] {
            let error = text.parse::<ServerUrl>().unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn settings_do_not_show_the_password() {
        let settings = Settings {
            url: "ws://h".parse().unwrap(),
            username: "admin".into(),
            password: Some("hunter2".into()),
            tls: None,
            timeout: Duration::from_secs(1),
        };
        assert!(!format!("{settings:?}").contains("hunter2"));
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        assert!(tls(&Certificates::default()).is_ok());
        for ca in [&b""[..], b"no PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let error = tls(&Certificates { ca: Some(ca.to_vec()), client: None }).unwrap_err();
            assert!(error.starts_with("tls.ca: "), "{error}");
        }
    }
}
