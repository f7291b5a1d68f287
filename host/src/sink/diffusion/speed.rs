//! How many updates a second the sink makes at a server in the same process, and when a subscriber has them.

use std::time::{Duration, Instant};

use super::tests::{config, json, start};
use crate::diffusion::connect::Settings;
use crate::diffusion::server::{Options, Server};
use crate::diffusion::service::Request;
use crate::diffusion::session::{Event, Session};
use crate::diffusion::subscriptions::{Subscriptions, Update};
use crate::sink::fixture::{PATIENCE, Route};
use crate::value::Format;

fn wanted(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(otherwise)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_of_few_and_of_many_paths_are_all_made() {
    // Few in the suite, where this only has to run; many to measure: ANABRANCH_SPEED_RECORDS=500000.
    let wanted = wanted("ANABRANCH_SPEED_RECORDS", 5_000);
    let value = r#"{"id":123456,"status":"PAID","price":19.99,"sku":"sku-4711","city":"York","note":"a record as they are"}"#;
    for (paths, more) in
        [(1, ""), (1, "path_in_flight_max = 64"), (1_000, ""), (1_000, "path_in_flight_max = 64"), (1_000, "sessions = 2"), (100_000, "")]
    {
        let server = Server::start(Options::default()).await.unwrap();
        let mut route = Route::new(Format::Json);
        let config = config(&server, &format!("path = \"p/${{key}}\"\n{more}"));
        let keys: Vec<String> = (0..paths).map(|key| key.to_string()).collect();
        for first in (0..wanted).step_by(500) {
            let records: Vec<_> = (first..first + 500).map(|number| (Some(&*keys[number % paths]), Some(value))).collect();
            route.send(0, &records);
        }
        let started = Instant::now();
        drop(start(&mut route, &config));
        route.settled().await;
        let took = started.elapsed();
        let count = wanted.div_ceil(500) * 500;
        assert_eq!(route.surroundings.metrics.outputs.get(), count as u64);
        assert_eq!(server.topics(), paths.min(count));
        println!("{count} updates of {paths} paths {more}: {:.0} a second", count as f64 / took.as_secs_f64());
    }
}

/// A session that is subscribed to all topics of the sink.
async fn subscribe(server: &Server) -> Session<()> {
    let settings = Settings {
        url: server.url().parse().unwrap(),
        username: String::new(),
        password: None,
        tls: None,
        timeout: Duration::from_secs(10),
    };
    let mut session = Session::connect(&settings).await.unwrap();
    session.request(&Request::Subscribe { selector: "?p//" }, ()).unwrap();
    let mut events = Vec::new();
    session.events(&mut events).await.unwrap();
    assert!(matches!(events[..], [Event::Answer { answer: Ok(_), .. }]), "{events:?}");
    session
}

/// Receives `count` values that are numbers; when each came.
async fn receive(mut session: Session<()>, count: usize) -> Vec<(usize, Instant)> {
    let (mut subscriptions, mut events, mut came) = (Subscriptions::default(), Vec::new(), Vec::new());
    while came.len() < count {
        let received = tokio::time::timeout(PATIENCE, session.events(&mut events)).await;
        received.unwrap_or_else(|_| panic!("only {} of {count} came", came.len())).unwrap();
        let now = Instant::now();
        for event in events.drain(..) {
            if let Some(Update::Value(_, _, bytes)) = subscriptions.take(event).unwrap() {
                came.push((json(&bytes).parse().unwrap(), now));
            }
        }
    }
    came
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_has_every_update_soon_after_the_sink_got_it() {
    // To measure: ANABRANCH_SPEED_RATE=50000.
    let rate = wanted("ANABRANCH_SPEED_RATE", 1_000);
    for paths in [1, 1_000] {
        let server = Server::start(Options::default()).await.unwrap();
        let mut route = Route::new(Format::Json);
        drop(start(&mut route, &config(&server, "path = \"p/${key}\"\npath_in_flight_max = 64")));
        let count = rate / 1000 * 1000;
        let receiving = receive(subscribe(&server).await, count);
        let sending = async {
            let mut clock = tokio::time::interval(Duration::from_millis(1));
            let mut sent = Vec::with_capacity(count);
            while sent.len() < count {
                clock.tick().await;
                let numbers: Vec<(String, String)> =
                    (sent.len()..sent.len() + rate / 1000).map(|number| ((number % paths).to_string(), number.to_string())).collect();
                let records: Vec<_> = numbers.iter().map(|(key, value)| (Some(&**key), Some(&**value))).collect();
                let now = Instant::now();
                sent.extend(records.iter().map(|_| now));
                route.send(0, &records);
            }
            sent
        };
        let (came, sent) = tokio::join!(receiving, sending);
        let mut late: Vec<Duration> = came.iter().map(|(number, at)| *at - sent[*number]).collect();
        late.sort_unstable();
        assert_eq!(late.len(), count);
        let at = |share: f64| late[((late.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        println!("{rate} updates a second of {paths} paths: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms", at(0.5), at(0.99), at(0.999));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_connection_costs_little_more_than_the_first_delay() {
    let server = Server::start(Options::default()).await.unwrap();
    let mut route = Route::new(Format::Json);
    drop(start(&mut route, &config(&server, "path = \"p/${key}\"")));
    let mut slowest = Duration::ZERO;
    for number in 0..20 {
        route.send(0, &[(Some("a"), Some(&*number.to_string()))]);
        route.settled().await;
        let started = Instant::now();
        server.cut();
        route.send(0, &[(Some("a"), Some(&*format!("1{number}")))]);
        route.settled().await;
        slowest = slowest.max(started.elapsed());
    }
    // The first delay of these tests is 1 ms; the rest is connecting and logging in.
    println!("the slowest of 20 new sessions: {slowest:?} until an update was made");
    assert!(server.sessions() > 10, "{} sessions", server.sessions());
}
