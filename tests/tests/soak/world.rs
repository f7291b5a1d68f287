//! What is soaked: real servers, three routes between them, and the records that come without end.
//!
//! * `paid`: Avro, through the bundled filter, into a Delta table.
//! * `batches`: JSON, through a plugin that panics at some records, to HTTP in batches.
//! * `fan`: Avro, to Kafka, to HTTP one by one and into a Delta table.
//!
//! Invariant: what becomes of a record depends on its id and its position alone, so that everything can be counted afterwards.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anabranch_tests::avro::Avro;
use anabranch_tests::kafka::Broker;
use anabranch_tests::process::free_port;
use anabranch_tests::registry::{Registry, url_at};
use anabranch_tests::router::{Place, test_component};
use anabranch_tests::topic::{Record, Topic};
use apache_avro::types::Value;
use serde_json::{Value as Json, json};

use crate::receiver::{PATHS, Receiver};

/// Silence after which the group gives a process's partitions to others.
pub const SESSION: Duration = Duration::from_secs(3);
/// The plugin panics at each record whose offset plus one is a multiple of this.
const PANIC_EVERY: i64 = 250;
const PARTITIONS: i32 = 4;
/// Records of one write, and the time between writes: 400 records a second for each route.
const WRITE: usize = 100;
const WRITE_EVERY: Duration = Duration::from_millis(250);
/// Longest wait for a broker that restarts.
const WRITE_MAX: Duration = Duration::from_secs(180);
/// The registry's port may be somebody else's for a moment.
const REGISTRY_ATTEMPTS_MAX: u32 = 5;

/// The routes, in the order of the topics that they read.
pub const ROUTES: [&str; 3] = ["paid", "batches", "fan"];

/// Whether a record is nothing that its route can decode.
pub fn is_bad(id: usize) -> bool {
    id % 97 == 96
}

/// Whether the filter of `paid` keeps a record.
pub fn is_paid(id: usize) -> bool {
    id.is_multiple_of(2)
}

/// Whether the receiver refuses a record for good, where it comes alone.
pub fn is_refused(id: usize) -> bool {
    id % 211 == 210
}

/// Whether the plugin of `batches` panics at a record.
pub fn is_panic(offset: i64) -> bool {
    (offset + 1) % PANIC_EVERY == 0
}

/// Servers, routes and topics.
pub struct World {
    /// The broker. Held by whoever restarts it, and while a router starts: without a broker a start ends with exit code 3.
    pub broker: Mutex<Broker>,
    /// The registry, while it is there.
    pub registry: Mutex<Option<Registry>>,
    registry_port: u16,
    avro: Avro,
    /// The HTTP receiver.
    pub receiver: Receiver,
    /// Where the routers run.
    pub place: Place,
    /// What the routes read.
    pub topics: [Topic; 3],
    /// What `fan` writes to.
    pub copy: Topic,
    /// The dead letters of all routes.
    pub dead: Topic,
    sent: [AtomicUsize; 3],
    enough: AtomicBool,
    ends: Instant,
}

/// Ends the run where an assertion of its thread fails: nobody waits for the others for ever.
pub struct EndsWithPanic<'a>(&'a World);

impl Drop for EndsWithPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

impl World {
    /// Starts the servers; faults come for `time`.
    pub fn start(time: Duration) -> World {
        let broker = Broker::start();
        let registry_port = free_port();
        let (registry, avro) = registry_at(registry_port);
        let receiver = Receiver::start(is_refused);
        let topics = ROUTES.map(|name| broker.topic(name, PARTITIONS));
        let (copy, dead) = (broker.topic("copy", 2), broker.topic("dead", 1));
        let place = Place::new(&config(&broker, &url_at(registry_port), &receiver, &topics, &copy, &dead));
        World {
            broker: Mutex::new(broker),
            registry: Mutex::new(Some(registry)),
            registry_port,
            avro,
            receiver,
            place,
            topics,
            copy,
            dead,
            sent: Default::default(),
            enough: AtomicBool::new(false),
            ends: Instant::now() + time,
        }
    }

    /// Starts a registry anew, with the schema that it had.
    pub fn start_registry(&self) {
        let (registry, avro) = registry_at(self.registry_port);
        assert_eq!(avro.id, self.avro.id, "a registry that starts anew gives its first schema the same id");
        *locked(&self.registry) = Some(registry);
    }

    /// The tables of `paid` and `fan`.
    pub fn tables(&self) -> [PathBuf; 2] {
        ["paid", "fan"].map(|name| self.place.path(&format!("table-{name}")))
    }

    /// How many records were sent to each route's topic: ids 0 to this.
    pub fn sent(&self) -> [usize; 3] {
        self.sent.each_ref().map(|sent| sent.load(Ordering::Relaxed))
    }

    /// No further records.
    pub fn stop(&self) {
        self.enough.store(true, Ordering::Relaxed);
    }

    /// For each thread of the run.
    pub fn ends_with_panic(&self) -> EndsWithPanic<'_> {
        EndsWithPanic(self)
    }

    /// Whether no further fault is wanted.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.ends || self.enough.load(Ordering::Relaxed)
    }

    /// Lets a while pass, or less where the run was broken off.
    pub fn pass(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.enough.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Writes to a route's topic until it is enough.
    pub fn write(&self, route: usize) {
        let _ends = self.ends_with_panic();
        let writer = self.topics[route].writer();
        while !self.enough.load(Ordering::Relaxed) {
            let first = self.sent[route].load(Ordering::Relaxed);
            writer.send((first..first + WRITE).map(|id| self.record(route, id)), WRITE_MAX);
            self.sent[route].store(first + WRITE, Ordering::Relaxed);
            self.pass(WRITE_EVERY);
        }
    }

    fn record(&self, route: usize, id: usize) -> Record {
        let key = id.to_string();
        if is_bad(id) {
            return Record::keyed(key, format!("neither Avro nor JSON: {id}"));
        }
        let status = if is_paid(id) { "PAID" } else { "OPEN" };
        if ROUTES[route] == "batches" {
            return Record::keyed(key, json!({"id": id, "status": status}).to_string());
        }
        let fields = [("id", Value::Long(id as i64)), ("status", Value::String(status.into()))];
        let fields = fields.map(|(name, value)| (name.to_owned(), value));
        Record::keyed(key, self.avro.encode(Value::Record(fields.to_vec())))
    }
}

/// What a mutex holds, also where another thread failed with it.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn registry_at(port: u16) -> (Registry, Avro) {
    let schema: Json = json!({"type": "record", "name": "Order", "fields": [
        {"name": "id", "type": "long"}, {"name": "status", "type": "string"}]});
    for attempt in 1.. {
        match Registry::start_at(port) {
            Ok(registry) => {
                let avro = Avro::register(&registry, "orders-value", &schema);
                return (registry, avro);
            }
            Err(said) if attempt == REGISTRY_ATTEMPTS_MAX => panic!("Apicurio Registry does not start; its log ends with:\n{said}"),
            Err(_) => (),
        }
    }
    unreachable!("the last attempt returns or panics")
}

fn config(broker: &Broker, registry: &str, receiver: &Receiver, topics: &[Topic; 3], copy: &Topic, dead: &Topic) -> String {
    let [batches_url, fan_url] = PATHS.map(|path| receiver.url(path));
    let http = "in_flight_max = 16\ntimeout = \"2 s\"\nretry = { delay_max = \"1 s\" }";
    let table = "batch = { rows_max = 5000, age_max = \"500 ms\" }\ncheckpoint_interval = 20";
    let route = |index: usize, rest: &str| {
        let (name, topic) = (ROUTES[index], &topics[index].name);
        format!(
            "[route.{name}]
topics = [\"{topic}\"]
group = \"{topic}\"
commit_interval = \"500 ms\"
dead_letters = \"dead\"
{rest}
"
        )
    };
    format!(
        "[source.shop.kafka]
brokers = [\"{brokers}\"]
session_timeout = \"{session} s\"
[registry.main]
url = \"{registry}\"
timeout = \"1 s\"
[plugin.panics]
path = {component:?}
config = {{ does = \"panic\", every = {PANIC_EVERY} }}
[sink.lake.delta]
uri = \"table-paid\"
{table}
[sink.batches.http]
url = \"{batches_url}\"
batch = {{ form = \"lines\", records_max = 100 }}
{http}
[sink.live.http]
url = \"{fan_url}\"
{http}
[sink.all.delta]
uri = \"table-fan\"
{table}
[sink.copy.kafka]
topic = \"{copy}\"
[sink.dead.kafka]
topic = \"{dead}\"
{paid}{batches}{fan}",
        brokers = broker.plaintext(),
        session = SESSION.as_secs(),
        component = test_component("hostile"),
        copy = copy.name,
        dead = dead.name,
        paid =
            route(0, "value = \"avro\"\nthrough = [{ plugin = \"filter\", config = { where = \"status == 'PAID'\" } }]\nto = [\"lake\"]"),
        batches = route(1, "value = \"json\"\nthrough = [\"panics\"]\nto = [\"batches\"]"),
        fan = route(2, "value = \"avro\"\nto = [\"copy\", \"live\", \"all\"]"),
    )
}
