//! The servers themselves: what the other tests take for granted.

use std::time::Duration;

use anabranch_tests::kafka::{Broker, Listener};
use anabranch_tests::process::Process;
use anabranch_tests::registry::Registry;
use anabranch_tests::security::{PLAIN_USER, SCRAM_USER};
use anabranch_tests::topic::Record;
use anabranch_tests::wait::until_true;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

const ANSWER_MAX: Duration = Duration::from_secs(20);

/// How long somebody who is refused tries: the client only ever runs out of time.
const REFUSED_AFTER: Duration = Duration::from_secs(3);

fn answers(client: &ClientConfig, within: Duration) -> bool {
    let consumer: BaseConsumer = client.create().unwrap();
    consumer.fetch_metadata(None, within).is_ok()
}

#[test]
fn a_broker_answers_at_each_listener_only_to_those_who_come_as_it_wants() {
    let broker = Broker::shared();
    let (certificate, key) = broker.security.client();
    for listener in Listener::ALL {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", broker.address(listener)).set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
        if listener == Listener::Plaintext {
            assert!(answers(&client, ANSWER_MAX));
            continue;
        }
        let protocol = match listener {
            Listener::Ssl | Listener::Mtls => "ssl",
            Listener::SaslPlaintext => "sasl_plaintext",
            _ => "sasl_ssl",
        };
        client.set("security.protocol", protocol).set("ssl.ca.location", broker.security.ca().display().to_string());
        let logins: &[(&str, (&str, &str))] = match listener {
            Listener::SaslPlaintext | Listener::SaslSsl => {
                &[("PLAIN", PLAIN_USER), ("SCRAM-SHA-256", SCRAM_USER), ("SCRAM-SHA-512", SCRAM_USER)]
            }
            _ => &[],
        };
        for (mechanism, (name, password)) in logins {
            client.set("sasl.mechanism", *mechanism).set("sasl.username", *name).set("sasl.password", *password);
            assert!(answers(&client, ANSWER_MAX), "{listener:?} {mechanism}");
        }
        if !logins.is_empty() {
            client.set("sasl.password", "wrong");
            assert!(!answers(&client, REFUSED_AFTER), "{listener:?} with a wrong password");
        }
        if listener == Listener::Mtls {
            assert!(!answers(&client, REFUSED_AFTER), "without a certificate");
            let [certificate, key] = [&certificate, &key].map(|path| path.display().to_string());
            client.set("ssl.certificate.location", certificate).set("ssl.key.location", key);
        }
        if logins.is_empty() {
            assert!(answers(&client, ANSWER_MAX), "{listener:?}");
        }
    }
}

#[test]
fn a_topic_gives_back_what_was_sent() {
    let topic = Broker::shared().topic("given-back", 2);
    let sent = Record {
        headers: vec![("trace".into(), Some(b"1".to_vec())), ("none".into(), None)],
        partition: Some(1),
        timestamp: Some(1_700_000_000_000),
        ..Record::keyed("key", "value")
    };
    topic.send([sent.clone(), Record { key: Some(b"gone".to_vec()), partition: Some(1), ..Record::default() }]);
    let records = topic.records();
    assert_eq!(records[0], sent);
    assert_eq!((records[1].key.as_deref(), &records[1].value, records[1].offset), (Some(b"gone".as_slice()), &None, 1));
}

#[test]
fn a_registry_gives_one_schema_one_id() {
    let registry = Registry::shared();
    let first = registry.register("servers-value", r#"{"type":"record","name":"A","fields":[{"name":"x","type":"int"}]}"#);
    let second = registry.register("servers-value", r#"{"type":"record","name":"A","fields":[{"name":"y","type":"int"}]}"#);
    assert_ne!(first, second);
    assert_eq!(registry.register("servers-value", r#"{"type":"record","name":"A","fields":[{"name":"x","type":"int"}]}"#), first);
}

#[test]
fn a_process_ends_with_what_holds_it() {
    let folder = anabranch_tests::process::folder("process");
    let process = Process::start("sleep", std::process::Command::new("sleep").arg("600"), &folder);
    let running = std::path::PathBuf::from(format!("/proc/{}", process.id()));
    assert!(running.exists());
    drop(process);
    until_true("the process to end", ANSWER_MAX, || !running.exists());
}
