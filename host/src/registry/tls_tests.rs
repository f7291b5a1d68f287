//! The registry behind TLS, with an authority of its own and certificates for both sides: OpenSSL is the server.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::*;

/// Ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

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

/// Serves the folder's files to whoever has a certificate of the authority.
fn serve(folder: &Path) -> (Server, String) {
    let arguments = "s_server -accept 127.0.0.1:0 -cert server.pem -key server.key -CAfile ca.pem -Verify 1 -verify_return_error -WWW";
    let mut child = Command::new("openssl")
        .current_dir(folder)
        .args(arguments.split(' '))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let port = lines.find_map(|line| line.unwrap().strip_prefix("ACCEPT 127.0.0.1:").map(str::to_owned)).unwrap();
    // Somebody has to read what it prints.
    std::thread::spawn(move || lines.map_while(Result::ok).count());
    (Server(child), format!("https://127.0.0.1:{port}"))
}

async fn fetch(url: &str, tls: &[(&str, &Path)]) -> Outcome {
    let mut text = format!("url = {url:?}\ntimeout = \"5 s\"\n[tls]\n");
    for (key, path) in tls {
        text.push_str(&format!("{key} = {path:?}\n"));
    }
    Registry::new("main", &toml::from_str(&text).unwrap(), Metrics::new()).unwrap().fetch(1).await
}

#[tokio::test]
async fn an_authority_of_its_own_and_a_client_certificate_open_the_way_and_nothing_else_does() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    certificates(folder);
    std::fs::create_dir_all(folder.join("schemas/ids")).unwrap();
    std::fs::write(folder.join("schemas/ids/1"), "{\"schema\":\"\\\"string\\\"\"}").unwrap();
    let (_server, url) = serve(folder);
    let [ca, other, cert, key] = ["ca.pem", "other.pem", "client.pem", "client.key"].map(|name| folder.join(name));

    let outcome = fetch(&url, &[("ca", &ca), ("cert", &cert), ("key", &key)]).await;
    assert!(matches!(outcome, Outcome::Found(_)), "{outcome:?}");
    for (refused, tls) in [
        ("no certificate of the client", vec![("ca", ca.as_path())]),
        ("another authority", vec![("ca", other.as_path()), ("cert", cert.as_path()), ("key", key.as_path())]),
        ("the public web's authorities", vec![("cert", cert.as_path()), ("key", key.as_path())]),
    ] {
        let outcome = fetch(&url, &tls).await;
        assert!(matches!(outcome, Outcome::Unavailable { .. }), "{refused}: {outcome:?}");
    }
}
