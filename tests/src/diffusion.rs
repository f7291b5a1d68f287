//! A Diffusion server of this project's own: none other can be had.
//!
//! Invariant: it runs in the test process, over real sockets, and ends with its [`Diffusion`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anabranch::diffusion::server::{Options, Server};
use anabranch::diffusion::service::{Specification, TopicType};
use anabranch::value::{Format, JsonOptions, Value, write_json};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::Value as Json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::block_on;
use crate::security::Security;

/// Who may log in at [`Diffusion::start`].
pub const USER: (&str, &str) = ("admin", "s3same-0pen");

fn login(url: &str) -> String {
    format!("url = \"{url}\"\nusername = \"{}\"\npassword = {{ env = \"DIFFUSION_PASSWORD\" }}\n", USER.0)
}

async fn encrypt(security: &Security, behind: SocketAddr) -> u16 {
    let (chain, key) = security.server();
    let chain = CertificateDer::pem_file_iter(chain).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(security.ca()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build().unwrap();
    let settings = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let settings = settings.with_client_cert_verifier(clients).with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap());
    let acceptor = TlsAcceptor::from(Arc::new(settings.unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let Ok(mut plain) = TcpStream::connect(behind).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut plain).await;
            });
        }
    });
    port
}

/// A running server.
#[derive(Debug)]
pub struct Diffusion(Option<Server>);

impl Diffusion {
    /// A server that knows [`USER`] and remembers its updates.
    pub fn start() -> Diffusion {
        let users = [(USER.0.to_owned(), USER.1.to_owned())].into();
        // Enough for a session to be told of 100,000 topics and their values at once.
        Diffusion::start_with(Options { users, journal_max: 1_000_000, behind_max: 1 << 20, ..Options::default() })
    }

    /// A server with options of its own.
    pub fn start_with(options: Options) -> Diffusion {
        Diffusion(Some(block_on(Server::start(options)).unwrap()))
    }

    /// The server itself, to ask and to make it misbehave.
    pub fn server(&self) -> &Server {
        self.0.as_ref().unwrap()
    }

    /// Ends all sessions and starts again after `away`, with the topics of before or without.
    pub fn restart(&mut self, away: Duration, keep: bool) {
        self.0 = Some(block_on(self.0.take().unwrap().restart(away, keep)).unwrap());
    }

    /// The keys of a source or a sink that lead to it.
    pub fn login(&self) -> String {
        login(&self.server().url())
    }

    /// Listens with TLS too, until the test process ends, for clients that have a certificate of the same authority. Gives the keys of
    /// a source or a sink that come in that way.
    pub fn encrypt(&self, security: &Security) -> String {
        let port = block_on(encrypt(security, self.server().address()));
        let (cert, key) = security.client();
        let files = [security.ca(), cert, key].map(|path| path.display().to_string());
        login(&format!("wss://localhost:{port}"))
            + &format!("tls = {{ ca = \"{}\", cert = \"{}\", key = \"{}\" }}\n", files[0], files[1], files[2])
    }

    /// The value of a topic.
    pub fn json(&self, path: &str) -> Option<Json> {
        self.server().value(path).map(|bytes| json(&bytes))
    }

    /// Sets the value of a JSON topic, as another client would.
    pub fn set(&self, path: &str, value: &Json) {
        self.set_of(path, TopicType::JSON, &cbor(value));
    }

    /// Sets the value of a topic of any type.
    pub fn set_of(&self, path: &str, kind: TopicType, bytes: &[u8]) {
        self.server().set(path, &Specification::new(kind), bytes).unwrap();
    }

    /// The numbers in the field `n` of each update of a path, in the order in which they were made.
    pub fn numbers(&self, path: &str) -> Vec<i64> {
        let journal = self.server().journal();
        journal.iter().filter(|(found, _)| found == path).map(|(_, bytes)| json(bytes)["n"].as_i64().unwrap()).collect()
    }
}

/// A value as the server keeps it.
pub fn json(bytes: &[u8]) -> Json {
    let mut text = Vec::new();
    write_json(Value { format: Format::Cbor, schema: None, bytes }, &JsonOptions::default(), &mut text).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn cbor(value: &Json) -> Vec<u8> {
    let (text, mut out) = (value.to_string(), Vec::new());
    anabranch::value::write_plain_cbor(
        Value { format: Format::Json, schema: None, bytes: text.as_bytes() },
        &anabranch::value::PlainOptions::default(),
        &mut out,
    )
    .unwrap();
    out
}
