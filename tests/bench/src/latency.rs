//! How late an update is: from the moment a producer sends it to Kafka to its receipt by a subscriber of the Diffusion server.
//!
//! Invariant: both times are of one clock, this process's, in which producer, server and subscriber run; the broker and the router are
//! processes of their own. Everything shares the machine, so a figure is an upper bound of what the router adds.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anabranch::diffusion::connect::Settings;
use anabranch::diffusion::server::{Options, Server};
use anabranch::diffusion::service::Request;
use anabranch::diffusion::session::Session;
use anabranch::diffusion::subscriptions::{Subscriptions, Update};
use anabranch_tests::block_on;
use anabranch_tests::kafka::Broker;
use anabranch_tests::process::{Process, folder};
use anabranch_tests::topic::Topic;
use anabranch_tests::wait::until_true;
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::measure::so_far;

/// How many updates a second, over how many topic paths.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Updates a second.
    pub rate: u32,
    /// Topic paths, in turns.
    pub paths: u32,
}

/// What one run showed.
#[derive(Debug, Clone, Copy)]
pub struct Late {
    /// Updates a second, from the first that was sent to the last that was received.
    pub rate: f64,
    /// CPU time of the receiving process (the router) for an update, nanoseconds; 0: of a bare consumer, which is a part of this process.
    pub cpu_ns: f64,
    /// Its largest resident set.
    pub memory_max: u64,
    /// Milliseconds that 50, 99 and 99.9 of 100 updates took at most.
    pub ms: [f64; 3],
}

/// Of a record's value.
pub const BYTES: u64 = 100;
const PARTITIONS: i32 = 4;
/// How long updates are sent and measured.
const MEASURED: Duration = Duration::from_secs(4);
/// How long anything may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(120);
/// The sender's clock.
const TICK: Duration = Duration::from_millis(1);

/// When each update was sent and received, in nanoseconds since the start; by its number.
struct Stamps {
    start: Instant,
    sent: Vec<AtomicU64>,
    received: Vec<AtomicU64>,
    count: AtomicU64,
}

impl Stamps {
    fn new(count: usize) -> Arc<Stamps> {
        let zeros = || (0..count).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Stamps { start: Instant::now(), sent: zeros(), received: zeros(), count: AtomicU64::new(0) })
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// The update came; of one that came before, nothing is noted.
    fn receive(&self, number: usize, now: u64) {
        if self.received[number].compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn wait(&self, count: usize) {
        until_true(&format!("{count} updates"), PATIENCE, || self.count.load(Ordering::Relaxed) >= count as u64);
    }

    /// Of the updates from `first` on.
    fn late(&self, first: usize) -> ([f64; 3], f64) {
        let loaded = |stamps: &[AtomicU64]| -> Vec<u64> { stamps[first..].iter().map(|stamp| stamp.load(Ordering::Relaxed)).collect() };
        let (sent, received) = (loaded(&self.sent), loaded(&self.received));
        let mut late: Vec<u64> = sent.iter().zip(&received).map(|(sent, received)| received - sent).collect();
        late.sort_unstable();
        let at = |share: f64| late[((late.len() - 1) as f64 * share) as usize] as f64 / 1e6;
        let last = received.iter().max().expect("there are updates");
        ([at(0.5), at(0.99), at(0.999)], late.len() as f64 * 1e9 / (last - sent[0]) as f64)
    }
}

/// A producer whose records are on their way to the broker within a millisecond.
fn producer(broker: &Broker) -> BaseProducer {
    let mut client = broker.client();
    client.set("linger.ms", "1").set("queue.buffering.max.messages", "1000000").set("acks", "1").create().unwrap()
}

/// Sends the updates `numbers`, `rate` a second.
fn send(producer: &BaseProducer, topic: &str, load: Load, numbers: std::ops::Range<usize>, stamps: &Stamps) {
    let (started, first) = (Instant::now(), numbers.start);
    for number in numbers {
        let due = started + Duration::from_secs_f64((number - first) as f64 / f64::from(load.rate));
        // Whoever is late catches up, as what happens outside does not wait for a program.
        if due > Instant::now() + TICK {
            producer.poll(Duration::ZERO);
            thread::sleep(TICK);
        }
        let key = (number % load.paths as usize).to_string();
        let value =
            format!(r#"{{"n":{number},"status":"PAID","price":19.99,"sku":"sku-4711","city":"York","note":"a record as they are"}}"#);
        stamps.sent[number].store(stamps.now(), Ordering::Relaxed);
        let mut record = BaseRecord::to(topic).key(&key).payload(&value);
        while let Err((_, back)) = producer.send(record) {
            producer.poll(TICK);
            record = back;
        }
    }
    producer.flush(PATIENCE).unwrap();
}

/// Sends and waits: first so many that everything has been used once, then those that are measured.
fn drive(broker: &Broker, topic: &Topic, load: Load, receiver: Option<u32>, stamps: &Stamps) -> Late {
    let producer = producer(broker);
    let first = stamps.sent.len() - measured(load);
    send(&producer, &topic.name, load, 0..first, stamps);
    stamps.wait(first);
    let before = receiver.map(so_far);
    send(&producer, &topic.name, load, first..stamps.sent.len(), stamps);
    stamps.wait(stamps.sent.len());
    let after = receiver.map(so_far);
    let (ms, rate) = stamps.late(first);
    let cpu = after.zip(before).map_or(0, |(after, before)| (after.cpu - before.cpu).as_nanos());
    Late { rate, cpu_ns: cpu as f64 / measured(load) as f64, memory_max: after.and_then(|after| after.memory_max).unwrap_or(0), ms }
}

fn measured(load: Load) -> usize {
    load.rate as usize * MEASURED.as_secs() as usize
}

fn stamps(load: Load) -> Arc<Stamps> {
    Stamps::new(load.rate.max(load.paths) as usize + measured(load))
}

/// How late a bare consumer of Kafka has the same records: what the router stands beside.
pub fn bare(broker: &Broker, load: Load) -> Late {
    let topic = broker.topic("latency", PARTITIONS);
    let stamps = stamps(load);
    let done = Arc::new(AtomicBool::new(false));
    let mut client = broker.client();
    client.set("group.id", &topic.name).set("auto.offset.reset", "earliest").set("fetch.wait.max.ms", "100");
    let consumer: BaseConsumer = client.create().unwrap();
    consumer.subscribe(&[&topic.name]).unwrap();
    let receiving = thread::spawn({
        let (stamps, done) = (stamps.clone(), done.clone());
        move || {
            while !done.load(Ordering::Relaxed) {
                let Some(Ok(message)) = consumer.poll(TICK) else { continue };
                stamps.receive(number(message.payload().unwrap()), stamps.now());
            }
        }
    });
    let late = drive(broker, &topic, load, None, &stamps);
    done.store(true, Ordering::Relaxed);
    receiving.join().unwrap();
    late
}

/// The number of an update, the first field of its value.
fn number(value: &[u8]) -> usize {
    let digits = value.strip_prefix(br#"{"n":"#).expect("a value of this benchmark").iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
}

/// The same as it comes out of the router: a map whose first key is `n` (RFC 8949). A reader of all of it would take more of the
/// machine than the router does.
fn number_in_cbor(value: &[u8]) -> usize {
    let big_endian = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte));
    match value.get(1..) {
        Some([0x61, b'n', small @ 0..=0x17, ..]) => usize::from(*small),
        Some([0x61, b'n', length @ 0x18..=0x1b, rest @ ..]) => big_endian(&rest[..1 << (length - 0x18)]),
        _ => panic!("no value of this benchmark: {value:02x?}"),
    }
}

/// The router between the broker and a Diffusion server, and what is measured of it.
pub struct Rig {
    topic: Topic,
    server: Server,
    router: Process,
}

impl Rig {
    /// Starts a server and the router; `more`: further settings of the sink.
    pub fn start(broker: &Broker, router: &std::path::Path, more: &str) -> Rig {
        let topic = broker.topic("latency", PARTITIONS);
        let server = block_on(Server::start(Options { behind_max: 1 << 22, ..Options::default() })).unwrap();
        let folder = folder("latency");
        let config = folder.join("anabranch.toml");
        let text = format!(
            "[source.main.kafka]\nbrokers = [\"{}\"]\n[sink.out.diffusion]\nurl = \"{}\"\npath = \"p/${{key}}\"\n{more}\n\
             [route.latency]\ntopics = [\"{name}\"]\ngroup = \"{name}\"\nkey = \"string\"\nvalue = \"json\"\nto = [\"out\"]\n",
            broker.plaintext(),
            server.url(),
            name = topic.name
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(router);
        command.arg("run").arg(&config).current_dir(&folder);
        Rig { topic, server, router: Process::start("router", &mut command, &folder) }
    }

    /// How late a subscriber has the updates of a load. Once: a second subscriber would be told the values of the first load.
    pub fn latency(self, broker: &Broker, load: Load) -> Late {
        let stamps = stamps(load);
        let subscriber = anabranch_tests::spawn(subscribe(self.server.url(), stamps.clone()));
        let late = drive(broker, &self.topic, load, Some(self.router.id()), &stamps);
        subscriber.abort();
        late
    }

    /// How long it takes, under a load, from a cut of all connections to the next update.
    pub fn reconnect(self, broker: &Broker, load: Load) -> Duration {
        let stamps = stamps(load);
        thread::scope(|scope| {
            scope.spawn(|| send(&producer(broker), &self.topic.name, load, 0..stamps.sent.len(), &stamps));
            let wait = |what: &dyn Fn() -> bool| {
                let started = Instant::now();
                while !what() {
                    assert!(started.elapsed() < PATIENCE, "nothing happens");
                    // Finer than the time that is measured.
                    thread::sleep(Duration::from_micros(200));
                }
            };
            wait(&|| self.server.updates() > u64::from(load.paths));
            let sessions = self.server.sessions();
            let cut = Instant::now();
            self.server.cut();
            wait(&|| self.server.sessions() > sessions);
            let updates = self.server.updates();
            wait(&|| self.server.updates() > updates);
            cut.elapsed()
        })
    }
}

/// A session that is subscribed to everything and notes what comes.
async fn subscribe(url: String, stamps: Arc<Stamps>) {
    let url = url.parse().unwrap();
    let settings = Settings { url, username: String::new(), password: None, tls: None, timeout: PATIENCE };
    let mut session = Session::<()>::connect(&settings).await.unwrap();
    session.request(&Request::Subscribe { selector: "?p//" }, ()).unwrap();
    let (mut subscriptions, mut events) = (Subscriptions::default(), Vec::new());
    loop {
        session.events(&mut events).await.unwrap();
        let now = stamps.now();
        for event in events.drain(..) {
            if let Some(Update::Value(_, _, bytes)) = subscriptions.take(event).unwrap() {
                stamps.receive(number_in_cbor(&bytes), now);
            }
        }
    }
}
