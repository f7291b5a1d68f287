//! `anabranch demo`: the router's main job on servers inside this process, with nothing to install.
//!
//! Invariant: the records go the way that `anabranch run` takes them; only the servers around it are stand-ins.

pub mod display;
pub mod orders;
pub mod receiver;
pub mod registry;
pub mod settings;
pub mod shop;
pub mod summary;
pub mod table;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use prometheus_client::metrics::counter::Counter;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::ack::tracker::Counts;
use crate::config::{self, Config, LoadError};
use crate::diffusion::server::{self, Server};
use crate::observe::{Metrics, RouteMetrics, SinkMetrics};
use crate::plugin::Engine;
use crate::registry::{Definition, Registry};
use crate::stop::{Stop, StopReason};
use crate::value::{Format, JsonOptions, Value, write_json};
use display::{Counters, Display};
use orders::Orders;
use receiver::Received;
use settings::Servers;
use shop::{Pace, Progress, Shop, ShopError};
use summary::{HTTP, LAKE, LIVE, Summary};

/// The Delta table, within the demo's folder.
pub const TABLE: &str = "lake/orders";
/// The dead letters, within the demo's folder.
pub const DEAD_LETTERS: &str = "dead-letters.jsonl";
/// The configuration, within the demo's folder.
pub const CONFIG: &str = "anabranch.toml";
/// The log, within the demo's folder.
pub const LOG: &str = "anabranch.log";

/// Orders a second where nobody says how many: fast enough to see something, slow enough to leave a laptop alone.
const RATE: u64 = 20_000;
/// How long the end waits for records that are on their way while none arrives.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(20);
/// So many topics are shown.
const TOPICS_MAX: usize = 8;
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Of the orders: every demo sells the same.
const SEED: u64 = 1;

/// `anabranch demo`: see the router work, on servers inside this process
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// End after so many records, made as fast as they are read; without it Ctrl-C ends the demo
    #[arg(long, value_name = "N")]
    pub records: Option<u64>,
    /// Make at most so many records a second [default: 20000; with --records no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,
    /// Folder for the table, the dead letters, the configuration and the log [default: a new one below the temporary folder]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Print one last line of JSON on the standard output; progress goes to the standard error output
    #[arg(long)]
    pub json: bool,
}

/// Why the demo does not run.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The user has to choose another folder.
    #[error("{path} is there already: the demo begins a new table, so choose another --dir or remove it", path = .0.display())]
    FolderInUse(PathBuf),
    /// A folder, a file, a port or the terminal.
    #[error("{what}: {source}")]
    Io {
        /// With what.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// One of the demo's own servers.
    #[error("{0}")]
    Server(String),
    /// The demo's own configuration.
    #[error("{0}")]
    Configuration(String),
    /// The producer of orders.
    #[error(transparent)]
    Shop(#[from] ShopError),
    /// The table that was written.
    #[error(transparent)]
    Table(#[from] table::ReadError),
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> DemoError {
    let what = what.into();
    move |source| DemoError::Io { what, source }
}

/// Runs the demo to its end and prints what it did. Returns whether all numbers add up.
///
/// # Errors
/// See [`DemoError`].
pub async fn run(options: Options) -> Result<bool, DemoError> {
    let folder = begin(options.dir.as_deref())?;
    let mut servers = JoinSet::new();
    let received = Received::default();
    let registry = serve(&mut servers, registry::service(registry::Schemas::default())).await?;
    let receiver = serve(&mut servers, receiver::service(received.clone())).await?;
    let shop = Shop::open().map_err(|error| DemoError::Server(format!("no mock cluster: {error}")))?;
    let topics = Server::start(server::Options::default()).await.map_err(io_error("no free port on 127.0.0.1"))?;
    let places = Servers { brokers: shop.brokers(), registry, receiver, diffusion: topics.url() };
    let config = configure(&places, &folder)?;

    // With --json the standard output is for the one line.
    let mut out: Box<dyn Write> = if options.json { Box::new(io::stderr()) } else { Box::new(io::stdout()) };
    let is_terminal = if options.json { io::stderr().is_terminal() } else { io::stdout().is_terminal() };
    say(&mut out, &introduction(&places, &folder))?;

    let metrics = Metrics::new();
    let schema = register_schema(&config, &metrics).await?;
    let progress = Progress::default();
    let watched = Watched { counters: Watched::counters(&metrics), received, topics, progress: progress.clone(), started: Instant::now() };
    let pace = Pace { records: options.records, per_second: options.rate.or(options.records.is_none().then_some(RATE)) };
    let selling = sell(&places.brokers, schema, pace, &progress, watched.counters.0.read.clone())?;

    let mut display = Display::new(out, is_terminal, settings::RULE);
    let route = follow(config, metrics, &watched, &selling, &mut display).await?;
    progress.end();
    selling.join().map_err(|_| DemoError::Server("the producer of orders ended by a panic".to_owned()))??;

    let last = watched.now();
    let summary = Summary {
        made: progress.made(),
        poisons: progress.poisons(),
        read: route.counts.read,
        filtered: route.counts.filtered,
        dead_lettered: route.counts.dead_lettered,
        dead_letters: last.dead_letters,
        delivered: BTreeMap::from([(LAKE, last.lake), (HTTP, last.http), (LIVE, last.live)]),
        table: table::contents(&folder.join(TABLE)).await?,
        received: watched.received.records(),
        updates: watched.topics.updates(),
        took: route.took,
        stopped: route.stopped,
        folder,
    };
    say(display.out(), &summary.text())?;
    if options.json {
        say(&mut io::stdout(), &format!("{}\n", summary.json()))?;
    }
    Ok(summary.problems().is_empty())
}

/// How the route ended.
struct Ended {
    counts: Counts,
    stopped: Option<String>,
    /// From the first record to the end.
    took: Duration,
}

/// Runs the route and shows it until all that was made has arrived, or it stops by itself.
async fn follow(
    config: Config,
    metrics: Metrics,
    watched: &Watched,
    selling: &JoinHandle<Result<(), ShopError>>,
    display: &mut Display<Box<dyn Write>>,
) -> Result<Ended, DemoError> {
    let stop = Stop::new();
    let engine = Engine::of(&config).map_err(|error| DemoError::Server(error.to_string()))?;
    let chains = crate::run::plan(&engine, &config, Some(&metrics)).map_err(|problems| {
        let messages: Vec<_> = problems.into_iter().map(|problem| problem.message).collect();
        DemoError::Configuration(messages.join("; "))
    })?;
    let mut routes = pin!(crate::run::run(Arc::new(config), chains, metrics, stop.clone(), false));
    let mut clock = tokio::time::interval(LOOK_EVERY);
    let mut arrivals = Arrivals { last: Counters::default(), since: Instant::now() };
    let mut first_read = None;
    let mut shown = None;
    let mut signals = Signals::listen()?;
    let ended = loop {
        tokio::select! {
            ended = &mut routes => break ended.map_err(DemoError::Configuration)?,
            () = signals.next() => {
                if watched.progress.is_ending() {
                    // Asked twice: whatever is on its way is left alone.
                    stop.stop(StopReason::Asked);
                }
                watched.progress.end();
            }
            _ = clock.tick() => (),
        }
        let now = watched.now();
        if now.read > 0 {
            first_read.get_or_insert_with(Instant::now);
        }
        if shown.is_none_or(|shown: Instant| shown.elapsed() >= display.interval()) {
            shown = Some(Instant::now());
            display.show(&now).map_err(io_error("no output"))?;
        }
        if selling.is_finished() && arrivals.have_ended(now) {
            stop.stop(StopReason::Asked);
        }
    };
    display.show(&watched.now()).map_err(io_error("no output"))?;
    let took = first_read.map_or(Duration::ZERO, |first| first.elapsed());
    let route = ended.routes.get(settings::ROUTE).cloned().unwrap_or_default();
    let stopped = route.reason.filter(|reason| *reason != StopReason::Asked).map(|reason| reason.to_string());
    Ok(Ended { counts: route.counts, stopped, took })
}

/// SIGINT and SIGTERM.
struct Signals(Signal, Signal);

impl Signals {
    fn listen() -> Result<Self, DemoError> {
        let listen = |kind| signal(kind).map_err(io_error("no signals"));
        Ok(Signals(listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?))
    }

    /// Cancel safe.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.0.recv() => (),
            _ = self.1.recv() => (),
        }
    }
}

/// Everything that is counted.
struct Watched {
    counters: (RouteMetrics, [SinkMetrics; 4]),
    received: Received,
    topics: Server,
    progress: Progress,
    started: Instant,
}

impl Watched {
    fn counters(metrics: &Metrics) -> (RouteMetrics, [SinkMetrics; 4]) {
        let route = metrics.route(&settings::ROUTE.into());
        let sinks = [LAKE, HTTP, LIVE, settings::LETTERS].map(|sink| route.sink(sink));
        (route, sinks)
    }

    fn now(&self) -> Counters {
        let (route, [lake, http, live, letters]) = &self.counters;
        Counters {
            elapsed: self.started.elapsed(),
            made: self.progress.made(),
            read: route.read.get(),
            filtered: route.filtered.get(),
            dead_letters: letters.outputs.get(),
            lake: lake.outputs.get(),
            http: http.outputs.get(),
            destinations: self.received.by_place(),
            live: live.outputs.get(),
            topics: self.topics.list("", TOPICS_MAX).into_iter().map(|(path, value)| (path, text(value.as_deref()))).collect(),
        }
    }
}

/// The value of a topic as JSON text.
fn text(value: Option<&[u8]>) -> String {
    let mut text = Vec::new();
    let written = value.map(|bytes| write_json(Value { format: Format::Cbor, schema: None, bytes }, &JsonOptions::default(), &mut text));
    if let Some(Err(error)) = written { error.to_string() } else { String::from_utf8_lossy(&text).into_owned() }
}

/// Tells when nothing more is on its way.
struct Arrivals {
    last: Counters,
    since: Instant,
}

impl Arrivals {
    /// Whether every record has ended somewhere, or nothing moved for [`ARRIVAL_TIMEOUT`].
    fn have_ended(&mut self, now: Counters) -> bool {
        let ended = now.filtered + now.dead_letters;
        let delivered = [now.lake, now.http, now.live];
        if now.read == now.made && delivered.iter().all(|delivered| ended + delivered == now.made) {
            return true;
        }
        let now = Counters { elapsed: Duration::ZERO, ..now };
        if now != self.last {
            *self = Arrivals { last: now, since: Instant::now() };
        }
        self.since.elapsed() >= ARRIVAL_TIMEOUT
    }
}

/// The demo's folder, absolute and without an earlier demo in it; its log begins.
fn begin(wanted: Option<&Path>) -> Result<PathBuf, DemoError> {
    let folder = match wanted {
        Some(folder) => folder.to_owned(),
        None => std::env::temp_dir().join(format!("anabranch-demo-{}", uuid::Uuid::new_v4().simple())),
    };
    let shown = folder.display().to_string();
    fs::create_dir_all(&folder).map_err(io_error(format!("folder {shown}")))?;
    let folder = folder.canonicalize().map_err(io_error(format!("folder {shown}")))?;
    for name in [TABLE, DEAD_LETTERS] {
        // The ledger in an earlier table would take the new orders for those that it has.
        let path = folder.join(name);
        if path.exists() {
            return Err(DemoError::FolderInUse(path));
        }
    }
    let path = folder.join(LOG);
    let file = fs::File::create(&path).map_err(io_error(path.display().to_string()))?;
    let lines = tracing_subscriber::fmt::layer().with_writer(Mutex::new(file)).with_ansi(false).with_target(false);
    let filter = Targets::new().with_default(Level::WARN).with_target("anabranch", Level::INFO);
    // Whoever set up logging already, as tests do, keeps it.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    Ok(folder)
}

/// Serves on a free port and gives the URL.
async fn serve(servers: &mut JoinSet<io::Result<()>>, service: Router) -> Result<String, DemoError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(io_error("no free port on 127.0.0.1"))?;
    let address = listener.local_addr().map_err(io_error("no free port on 127.0.0.1"))?;
    servers.spawn(async move { axum::serve(listener, service).await });
    Ok(format!("http://{address}"))
}

/// Writes the configuration and reads it back, as `anabranch run` would.
fn configure(places: &Servers, folder: &Path) -> Result<Config, DemoError> {
    let path = folder.join(CONFIG);
    fs::write(&path, settings::text(places, folder)).map_err(io_error(path.display().to_string()))?;
    match config::load(&path) {
        Ok(loaded) => Ok(loaded.config),
        Err(LoadError::Wrong(report)) => Err(DemoError::Configuration(report.render(false))),
        Err(error) => Err(DemoError::Configuration(error.to_string())),
    }
}

/// Registers the schema of the orders, over HTTP as any producer does.
async fn register_schema(config: &Config, metrics: &Metrics) -> Result<u32, DemoError> {
    let settings = config.registries.values().next().expect("the demo's configuration has a registry");
    let registry = Registry::new("main", settings, metrics.clone()).map_err(DemoError::Server)?;
    let definition = Definition { schema: orders::SCHEMA.to_owned(), kind: None, references: Vec::new() };
    let subject = format!("{}-value", shop::TOPIC);
    registry.register(&subject, &definition).await.map_err(|refusal| DemoError::Server(refusal.to_string()))
}

fn sell(
    brokers: &str,
    schema: u32,
    pace: Pace,
    progress: &Progress,
    read: Counter,
) -> Result<JoinHandle<Result<(), ShopError>>, DemoError> {
    let (brokers, progress) = (brokers.to_owned(), progress.clone());
    let thread = std::thread::Builder::new().name("shop".to_owned());
    thread.spawn(move || shop::sell(&brokers, Orders::new(schema, SEED), pace, &progress, || read.get())).map_err(io_error("no thread"))
}

fn introduction(places: &Servers, folder: &Path) -> String {
    let Servers { brokers, registry, receiver, diffusion } = places;
    format!(
        "orders in Avro -> Kafka {brokers} -> filter, row-to-event, destination-pattern -> Delta table, HTTP {receiver} and Diffusion {diffusion}; schemas at {registry}\n\
         everything is in {}; the consumer group needs about 3 s to form\n\n",
        folder.display()
    )
}

fn say(out: &mut impl Write, text: &str) -> Result<(), DemoError> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(io_error("no output"))
}
