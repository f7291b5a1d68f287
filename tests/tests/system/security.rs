//! Every way to encrypt and to log in, from the source to a sink; and what is said where the broker refuses.

use std::time::{Duration, Instant};

use anabranch_tests::kafka::{Broker, Listener};
use anabranch_tests::receiver::{Answer, Receiver};
use anabranch_tests::router::{END_MAX, Ended, Place};
use anabranch_tests::security::{PLAIN_USER, SCRAM_USER, token};
use anabranch_tests::topic::{Record, Topic};
use serde_json::json;

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

#[test]
fn a_route_reads_and_writes_with_every_protocol_and_mechanism() {
    let broker = Broker::shared();
    let ca = format!("ca = \"{}\"", broker.security.ca().display());
    let (cert, key) = broker.security.client();
    let tokens = Receiver::answering(|_| {
        let body = json!({"access_token": token(), "token_type": "Bearer", "expires_in": 3600});
        Answer::status(200).header("content-type", "application/json").body(body.to_string())
    });
    let oauth = format!(
        "mechanism = \"OAUTHBEARER\", oauth = {{ token_url = \"{}\", client_id = \"carol\", client_secret = {{ env = \"PLAIN\" }} }}",
        tokens.url("/token")
    );
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
