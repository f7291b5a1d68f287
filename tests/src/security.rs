//! Certificates and users for a broker with every kind of encryption and login.
//!
//! Invariant: nothing here outlives the test process, so that no key in the checkout expires or leaks.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::process::{folder, run};

/// A user with SCRAM, and the password.
pub const SCRAM_USER: (&str, &str) = ("alice", "alice-secret");
/// A user with PLAIN, and the password.
pub const PLAIN_USER: (&str, &str) = ("bob", "bob-secret");

/// A token for OAUTHBEARER that the broker takes: not signed (RFC 7519, section 6), valid for an hour.
pub fn token() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let parts = [r#"{"alg":"none"}"#.to_owned(), format!(r#"{{"sub":"carol","iat":{now},"exp":{}}}"#, now + 3600)];
    let [header, claims] = parts.map(|part| URL_SAFE_NO_PAD.encode(part));
    format!("{header}.{claims}.")
}

/// An authority with a certificate for a server on this machine and one for a client, all PEM.
#[derive(Debug, Clone)]
pub struct Security {
    folder: PathBuf,
}

impl Security {
    /// Makes new ones, with `openssl`.
    pub fn new() -> Security {
        let folder = folder("security");
        let path = |name: &str| folder.join(name).display().to_string();
        key(&path("ca.key"));
        let (ca, ca_key) = (path("ca.pem"), path("ca.key"));
        run("openssl", ["req", "-x509", "-new", "-key", &ca_key, "-days", "2", "-subj", "/CN=anabranch test authority", "-out", &ca]);
        for (name, usage) in [("server", "serverAuth"), ("client", "clientAuth")] {
            let [key_path, request, certificate, extensions] = ["key", "csr", "pem", "ext"].map(|end| path(&format!("{name}.{end}")));
            key(&key_path);
            fs::write(&extensions, format!("subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage={usage}\n")).unwrap();
            run("openssl", ["req", "-new", "-key", &key_path, "-subj", &format!("/CN={name}"), "-out", &request]);
            let sign = ["x509", "-req", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial", "-days", "2"];
            run("openssl", sign.into_iter().chain(["-extfile", &extensions, "-out", &certificate]));
        }
        // Java reads key, certificate and chain from one file.
        let parts = ["server.key", "server.pem", "ca.pem"].map(|name| fs::read_to_string(folder.join(name)).unwrap());
        fs::write(folder.join("server.store.pem"), parts.concat()).unwrap();
        Security { folder }
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The client's certificate and key.
    pub fn client(&self) -> (PathBuf, PathBuf) {
        (self.folder.join("client.pem"), self.folder.join("client.key"))
    }

    /// The server's certificate and key.
    pub fn server(&self) -> (PathBuf, PathBuf) {
        (self.folder.join("server.pem"), self.folder.join("server.key"))
    }

    pub(crate) fn server_store(&self) -> PathBuf {
        self.folder.join("server.store.pem")
    }
}

impl Default for Security {
    fn default() -> Self {
        Security::new()
    }
}

/// A key on the curve P-256, PKCS #8.
fn key(path: &str) {
    run("openssl", ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path]);
    assert!(Path::new(path).exists());
}
