//! A server behind TLS, with an authority of its own and certificates for both sides.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::connect::{Certificates, Settings, tls};
use super::server::{Options, Server};
use super::service::Request;
use super::session::Session;

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").current_dir(folder).args(arguments.split(' ')).output().expect("openssl is installed");
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn certificates(folder: &Path) {
    let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    openssl(folder, &format!("{new} -keyout ca.key -out ca.pem -subj /CN=authority"));
    openssl(folder, &format!("{new} -keyout other.key -out other.pem -subj /CN=other"));
    for (name, names) in [("server", "-addext subjectAltName=IP:127.0.0.1"), ("client", "-addext subjectAltName=DNS:router")] {
        let basic = "-addext basicConstraints=critical,CA:FALSE";
        openssl(folder, &format!("{new} -CA ca.pem -CAkey ca.key -keyout {name}.key -out {name}.pem -subj /CN={name} {names} {basic}"));
    }
}

/// Decrypts for `server`, for clients that have a certificate of the authority. Gives the port.
async fn encrypt(folder: &Path, server: &Server) -> u16 {
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let chain = CertificateDer::pem_slice_iter(&read("server.pem")).collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(&read("server.key")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&read("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build().unwrap();
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(builder.with_client_cert_verifier(clients).with_single_cert(chain, key).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, behind) = (listener.local_addr().unwrap().port(), server.address());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut plain = TcpStream::connect(behind).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut plain).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn an_authority_of_its_own_and_a_client_certificate_open_the_way_and_nothing_else_does() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    certificates(folder);
    let server = Server::start(Options::default()).await.unwrap();
    let port = encrypt(folder, &server).await;
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let connect = async |host: &str, ca: Option<&str>, with_certificate: bool| {
        let client = with_certificate.then(|| (read("client.pem"), read("client.key")));
        let settings = Settings {
            url: format!("wss://{host}:{port}").parse().unwrap(),
            username: "admin".into(),
            password: Some("password".into()),
            tls: Some(tls(&Certificates { ca: ca.map(read), client }).unwrap()),
            timeout: Duration::from_secs(10),
        };
        Session::<()>::connect(&settings).await
    };
    let mut session = connect("127.0.0.1", Some("ca.pem"), true).await.unwrap();
    session.request(&Request::UserPing, ()).unwrap();
    let mut events = Vec::new();
    session.events(&mut events).await.unwrap();
    assert_eq!(events.len(), 1);
    session.close().await;
    for (refused, host, ca, with_certificate) in [
        ("no certificate of the client", "127.0.0.1", Some("ca.pem"), false),
        ("another authority", "127.0.0.1", Some("other.pem"), true),
        ("the public web's authorities", "127.0.0.1", None, true),
        ("a certificate for another name", "localhost", Some("ca.pem"), true),
    ] {
        let error = connect(host, ca, with_certificate).await.err().unwrap_or_else(|| panic!("{refused}: it connected"));
        assert!(!error.is_permanent(), "{refused}: {error}");
    }
    assert_eq!(server.sessions(), 1);
}
