//! Every way to encrypt and to log in, from the source to a sink; and what is said where the broker refuses.

use std::time::{Duration, Instant};

use anabranch_tests::kafka::{Broker, Listener};
use anabranch_tests::receiver::{Answer, Receiver};
use anabranch_tests::router::{END_MAX, Ended, Place};
use anabranch_tests::security::{PLAIN_USER, SCRAM_USER, token};
use anabranch_tests::topic::{Record, Topic};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

/// Longest wait for what the router does by itself.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Reads `from` at a listener and writes to `to` with the same `security`, inline tables of TOML.
fn place(listener: Listener, security: &str, from: &Topic, to: &Topic) -> Place {
    Place::new(&format!(
        "[source.shop.kafka]
brokers = [\"{}\"]
security = {{ {security} }}
[sink.copy.kafka]
topic = \"{}\"
[route.orders]
topics = [\"{}\"]
group = \"{}\"
value = \"raw\"
to = [\"copy\"]
",
        Broker::shared().address(listener),
        to.name,
        from.name,
        to.name,
    ))
}

fn run(place: &Place) -> Ended {
    let secrets = [("PLAIN", PLAIN_USER.1), ("SCRAM", SCRAM_USER.1), ("WRONG", "guess")];
    place.start_with("run", &["--until-end"], &secrets).end(END_MAX)
}

/// Gives tokens to the client `carol` with PLAIN's password (RFC 6749, section 4.4), for so many seconds; refuses all others.
fn token_endpoint(seconds: u64) -> Receiver {
    let credentials = format!("Basic {}", STANDARD.encode(format!("carol:{}", PLAIN_USER.1)));
    Receiver::answering(move |request| {
        let form = String::from_utf8_lossy(&request.body);
        let asks = ["grant_type=client_credentials", "scope=kafka"].iter().all(|part| form.split('&').any(|found| found == *part));
        if !asks || request.headers.get("authorization") != Some(&credentials) {
            return Answer::status(401).body("{\"error\":\"invalid_client\"}");
        }
        let body = json!({"access_token": token(), "token_type": "Bearer", "expires_in": seconds});
        Answer::status(200).header("content-type", "application/json").body(body.to_string())
    })
}

/// `secret`: the environment variable with the client's secret.
fn oauth(tokens: &Receiver, secret: &str) -> String {
    let url = tokens.url("/token");
    format!(
        "mechanism = \"OAUTHBEARER\", oauth = {{ token_url = \"{url}\", client_id = \"carol\", scope = \"kafka\", client_secret = {{ env = \"{secret}\" }} }}"
    )
}

#[test]
fn a_token_is_fetched_again_before_it_expires_and_records_go_on() {
    let broker = Broker::shared();
    let (from, to) = (broker.topic("renewed", 1), broker.topic("renewed-copy", 1));
    let tokens = token_endpoint(5);
    let place = place(Listener::SaslPlaintext, &format!("protocol = \"sasl_plaintext\", {}", oauth(&tokens, "PLAIN")), &from, &to);
    from.send([Record::value("first")]);
    let mut router = place.start_with("run", &[], &[("PLAIN", PLAIN_USER.1)]);
    to.wait_records(1, WAIT_MAX);
    // Source and sink have a token each by now, which is good for five seconds.
    let had = tokens.count();
    // A broker that is busy may cut the very first connections; that is over once a record has arrived.
    let at_start = outages(&router.log());
    router.until("new tokens", WAIT_MAX, || (tokens.count() >= had + 4).then_some(()));
    from.send([Record::value("second")]);
    let values: Vec<_> = to.wait_records(2, WAIT_MAX).into_iter().map(|record| record.value.unwrap()).collect();
    assert_eq!(values, [b"first".to_vec(), b"second".to_vec()]);
    assert!(tokens.requests().iter().all(|request| request.status == 200), "{:?}", tokens.requests());
    let ended = router.stop();
    assert_eq!(outages(&ended.stderr), at_start, "{}", ended.stderr);
}

fn outages(log: &str) -> usize {
    log.matches("unavailable, waiting").count()
}

#[test]
fn a_client_that_the_token_endpoint_refuses_is_one_message_with_the_remedy_and_exit_code_3() {
    let broker = Broker::shared();
    let (from, to) = (broker.topic("no-token", 1), broker.topic("no-token-copy", 1));
    let tokens = token_endpoint(3600);
    let security = format!("protocol = \"sasl_plaintext\", {}", oauth(&tokens, "WRONG"));
    let ended = run(&place(Listener::SaslPlaintext, &security, &from, &to));
    assert_eq!(ended.code(), Some(3), "{}", ended.stderr);
    let errors: Vec<&str> = ended.stderr.lines().filter(|line| line.starts_with("error")).collect();
    assert_eq!(errors.len(), 1, "{}", ended.stderr);
    assert!(errors[0].contains("401") && errors[0].contains("check `oauth`"), "{}", errors[0]);
    assert!(!ended.stderr.contains("guess"), "the secret is in the log");
}

#[test]
fn a_route_reads_and_writes_with_every_protocol_and_mechanism() {
    let broker = Broker::shared();
    let ca = format!("ca = \"{}\"", broker.security.ca().display());
    let (cert, key) = broker.security.client();
    let tokens = token_endpoint(3600);
    let oauth = oauth(&tokens, "PLAIN");
    let login = |mechanism: &str, name: &str, secret: &str| {
        format!("mechanism = \"{mechanism}\", username = \"{name}\", password = {{ env = \"{secret}\" }}")
    };
    let logins = [
        login("PLAIN", PLAIN_USER.0, "PLAIN"),
        login("SCRAM-SHA-256", SCRAM_USER.0, "SCRAM"),
        login("SCRAM-SHA-512", SCRAM_USER.0, "SCRAM"),
        oauth,
    ];
    let mut ways = vec![
        (Listener::Ssl, format!("protocol = \"ssl\", {ca}")),
        (Listener::Mtls, format!("protocol = \"ssl\", {ca}, cert = \"{}\", key = \"{}\"", cert.display(), key.display())),
    ];
    for login in logins {
        ways.push((Listener::SaslPlaintext, format!("protocol = \"sasl_plaintext\", {login}")));
        ways.push((Listener::SaslSsl, format!("protocol = \"sasl_ssl\", {ca}, {login}")));
    }
    let from = broker.topic("secured", 1);
    from.send((0..10).map(|id| Record::value(id.to_string())));
    for (listener, security) in ways {
        let to = broker.topic("secured-copy", 1);
        let ended = run(&place(listener, &security, &from, &to));
        assert_eq!(ended.code(), Some(0), "{listener:?} {security}: {}", ended.stderr);
        let values: Vec<_> = to.records().into_iter().map(|record| record.value.unwrap()).collect();
        assert_eq!(values, (0..10).map(|id| id.to_string().into_bytes()).collect::<Vec<_>>(), "{listener:?} {security}");
    }
}

#[test]
fn a_broker_that_refuses_is_one_message_with_the_remedy_and_exit_code_3() {
    let broker = Broker::shared();
    let ca = format!("ca = \"{}\"", broker.security.ca().display());
    let from = broker.topic("refusing", 1);
    let to = broker.topic("refusing-copy", 1);
    let login = format!("mechanism = \"SCRAM-SHA-512\", username = \"{}\", password", SCRAM_USER.0);
    let ways = [
        (
            Listener::SaslSsl,
            format!("protocol = \"sasl_ssl\", {ca}, {login} = {{ env = \"WRONG\" }}"),
            "check username, password and mechanism",
        ),
        (Listener::SaslSsl, format!("protocol = \"sasl_ssl\", {login} = {{ env = \"SCRAM\" }}"), "check `ca`, `cert` and `key`"),
        (Listener::Mtls, format!("protocol = \"ssl\", {ca}"), "check"),
        (Listener::Ssl, "protocol = \"plaintext\"".to_owned(), "that `security` fits the port"),
    ];
    for (listener, security, remedy) in ways {
        let started = Instant::now();
        let ended = run(&place(listener, &security, &from, &to));
        assert_eq!(ended.code(), Some(3), "{security}: {}", ended.stderr);
        assert!(started.elapsed() < Duration::from_secs(20), "{security}: {:?}", started.elapsed());
        let errors: Vec<&str> = ended.stderr.lines().filter(|line| line.starts_with("error")).collect();
        assert_eq!(errors.len(), 1, "{security}: {}", ended.stderr);
        assert!(errors[0].contains(remedy) && errors[0].contains(&broker.address(listener)), "{security}: {}", errors[0]);
        assert!(!ended.stderr.contains("guess"), "the password is in the log");
    }
}
