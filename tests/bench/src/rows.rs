//! Which rows there are, and how one is measured.
//!
//! Invariant: the jobs of a group run in turns, so that what disturbs the machine meets all of them; ratios are of one turn.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anabranch_tests::kafka::Broker;
use anabranch_tests::registry::Registry;
use serde_json::Value as Json;

use crate::Options;
use crate::latency::{self, Late, Load, Rig};
use crate::measure::{self, Cost};
use crate::orders::Form;
use crate::raw::Work;
use crate::report::{Row, Spread};
use crate::topics::{Filled, fill};

/// What is measured.
enum Job<'a> {
    /// A baseline that reads the topic.
    Raw(Work),
    /// The router: `through` and the table of its sink.
    Router(Router<'a>),
    /// A baseline that sends bodies to a receiver: requests, and records in each.
    Bare { url: &'a str, requests: u64, records: u64 },
    /// The baseline of tables.
    Parquet,
    /// A bare member of a consumer group, until its first record.
    FirstRecord,
    /// A bare consumer: how late it has each record.
    BareLatency(Load),
    /// The router and a Diffusion server: how late a subscriber has each record, with these settings of the sink.
    Latency(Load, &'a str),
    /// The same with its connections cut.
    Reconnect(Load),
}

/// A run of the router.
#[derive(Clone, Copy)]
struct Router<'a> {
    through: &'a str,
    sink: &'a str,
    routes: u32,
}

/// One route.
fn router<'a>(through: &'a str, sink: &'a str) -> Job<'a> {
    Job::Router(Router { through, sink, routes: 1 })
}

impl Job<'_> {
    /// Whether the job's first output is its first record.
    fn prints_records(&self) -> bool {
        match self {
            Job::FirstRecord => true,
            Job::Router(router) => router.sink.contains("stdout"),
            _ => false,
        }
    }
}

/// The figures of one run.
struct Figures {
    rate: f64,
    cpu_ns: f64,
    memory_mb: f64,
    first_ms: Option<f64>,
    late_ms: Option<[f64; 3]>,
}

impl From<Late> for Figures {
    fn from(late: Late) -> Self {
        let memory_mb = late.memory_max as f64 / 1e6;
        Figures { rate: late.rate, cpu_ns: late.cpu_ns, memory_mb, first_ms: None, late_ms: Some(late.ms) }
    }
}

struct Bench<'a> {
    options: &'a Options,
    broker: &'a Broker,
    registry: &'a Registry,
    rows: Vec<Row>,
}

const FILTER: &str = r#"{ plugin = "filter", config = { where = "status == 'PAID'" } }"#;
const PATTERN: &str = r#"{ plugin = "destination-pattern", config = { pattern = "shop/${value.country}/${value.customer}" } }"#;
const MAP: &str = r#"{ plugin = "map-json", config = {} }"#;
const NULL: &str = "[sink.out.null]";
const NULL_JSON: &str = "[sink.out.null]\nrender = \"json\"";
const PARTITIONS: i32 = 4;

/// Measures all rows that the options want.
pub fn measure(options: &Options, broker: &Broker, registry: &Registry) -> Vec<Row> {
    let mut bench = Bench { options, broker, registry, rows: Vec::new() };
    bench.reading();
    bench.plugins();
    bench.tables();
    bench.http();
    bench.diffusion();
    bench.start();
    bench.scale();
    bench.rows
}

impl Bench<'_> {
    fn wants(&self, group: &str) -> bool {
        self.options.only.as_deref().is_none_or(|only| group.contains(only))
    }

    fn topic(&self, form: Form, partitions: i32, records: u64) -> Filled {
        fill(self.broker, self.registry, form, partitions, records)
    }

    fn reading(&mut self) {
        for (form, share) in [(Form::AvroSmall, 1), (Form::JsonSmall, 1), (Form::AvroLarge, 8), (Form::JsonLarge, 8)] {
            let group = format!("read, drop: {}", form.name());
            if self.wants(&group) {
                let filled = self.topic(form, PARTITIONS, self.options.records / share);
                self.group(&group, &filled, &[("librdkafka by batches", Job::Raw(Work::None)), ("router, no plugin", router("", NULL))]);
            }
        }
    }

    fn plugins(&mut self) {
        let pair =
            |work, component: &'static str, through| [("librdkafka and native code", Job::Raw(work)), (component, router(through, NULL))];
        for (group, form, jobs) in [
            ("filter on one field: avro.s", Form::AvroSmall, pair(Work::FilterAvro, "filter, component", FILTER)),
            ("filter on one field: json.s", Form::JsonSmall, pair(Work::FilterJson, "filter, component", FILTER)),
            ("destination of two fields: avro.s", Form::AvroSmall, pair(Work::Pattern, "destination-pattern, component", PATTERN)),
        ] {
            if self.wants(group) {
                let filled = self.topic(form, PARTITIONS, self.options.records);
                self.group(group, &filled, &jobs);
            }
        }
        let group = "map 12 fields to JSON: avro.s";
        if self.wants(group) {
            let filled = self.topic(Form::AvroSmall, PARTITIONS, self.options.records);
            let jobs = [
                ("librdkafka and native code", Job::Raw(Work::Map)),
                ("router, no plugin, rendered as JSON", router("", NULL_JSON)),
                ("map-json, component", router(MAP, NULL)),
            ];
            self.group(group, &filled, &jobs);
        }
    }

    fn tables(&mut self) {
        let group = "Delta append, 12 columns: avro.s";
        if self.wants(group) {
            let filled = self.topic(Form::AvroSmall, PARTITIONS, self.options.records);
            let sink = "[sink.out.delta]\nuri = \"table\"";
            self.group(group, &filled, &[("Arrow and Parquet alone", Job::Parquet), ("router", router("", sink))]);
        }
    }

    fn http(&mut self) {
        let mut receiver = Receiver::start();
        let url = receiver.url.clone();
        let group = "HTTP, batches of 500 lines: json.s";
        if self.wants(group) {
            let records = self.options.records / 2;
            let filled = self.topic(Form::JsonSmall, PARTITIONS, records);
            let sink = format!("[sink.out.http]\nurl = \"{url}\"\nbody = \"raw\"\nbatch = {{ form = \"lines\", records_max = 500 }}");
            let bare = Job::Bare { url: &url, requests: records / 500, records: 500 };
            self.group(group, &filled, &[("bare client, 64 in flight", bare), ("router", router("", &sink))]);
        }
        let group = "HTTP, a request a record: json.s";
        if self.wants(group) {
            let records = self.options.records / 40;
            let filled = self.topic(Form::JsonSmall, PARTITIONS, records);
            let sink = format!("[sink.out.http]\nurl = \"{url}\"\nbody = \"raw\"");
            let bare = Job::Bare { url: &url, requests: records, records: 1 };
            self.group(group, &filled, &[("bare client, 64 in flight", bare), ("router", router("", &sink))]);
        }
        receiver.process.kill().unwrap();
        receiver.process.wait().unwrap();
    }

    fn diffusion(&mut self) {
        let small = |broker: &Broker| Filled { topic: broker.topic("none", 1), form: Form::JsonSmall, records: 1, bytes: latency::BYTES };
        for rate in [10_000, 50_000, 100_000] {
            let group = format!("Diffusion, append to subscriber: {rate} updates/s");
            if self.wants(&group) {
                let load = |paths| Load { rate, paths };
                let mut jobs = vec![
                    ("bare consumer of Kafka", Job::BareLatency(load(1_000))),
                    ("router, 1 path, path_in_flight_max 64", Job::Latency(load(1), "path_in_flight_max = 64")),
                    ("router, 1,000 paths", Job::Latency(load(1_000), "")),
                    ("router, 100,000 paths", Job::Latency(load(100_000), "")),
                ];
                if rate == 10_000 {
                    jobs.insert(1, ("router, 1 path", Job::Latency(load(1), "")));
                    jobs.push(("router, 1,000 paths, connections cut", Job::Reconnect(load(1_000))));
                }
                self.group(&group, &small(self.broker), &jobs);
            }
        }
    }

    fn start(&mut self) {
        let group = "start to first record: avro.s";
        if self.wants(group) {
            let filled = self.topic(Form::AvroSmall, PARTITIONS, 1_000);
            let jobs = [("bare consumer in a group", Job::FirstRecord), ("router, filter, stdout", router(FILTER, "[sink.out.stdout]"))];
            self.group(group, &filled, &jobs);
        }
    }

    fn scale(&mut self) {
        let records = self.options.records / 2;
        for partitions in [1, 100, 1_000] {
            let group = format!("scale: {partitions} partitions, filter: avro.s");
            if self.wants(&group) {
                let filled = self.topic(Form::AvroSmall, partitions, records);
                self.group(&group, &filled, &[("filter, component", router(FILTER, NULL))]);
            }
        }
        for routes in [1, 10, 100] {
            let group = format!("scale: {routes} routes, filter: avro.s");
            if self.wants(&group) {
                // Each with enough that its start is not what is measured.
                let filled = self.topic(Form::AvroSmall, PARTITIONS, records / u64::from(routes.min(10)));
                self.group(&group, &filled, &[("filter, component", Job::Router(Router { through: FILTER, sink: NULL, routes }))]);
            }
        }
        for (form, fields) in [(Form::AvroSmall, 12), (Form::AvroWide, 120)] {
            let group = format!("scale: {fields} fields, 2 of them read: {}", form.name());
            if self.wants(&group) {
                let filled = self.topic(form, PARTITIONS, records / 2);
                self.group(&group, &filled, &[("destination-pattern, component", router(PATTERN, NULL))]);
            }
        }
    }

    /// Runs the jobs of a group in turns; each stands beside the first.
    fn group(&mut self, group: &str, filled: &Filled, jobs: &[(&str, Job<'_>)]) {
        let mut runs: Vec<Vec<Figures>> = jobs.iter().map(|_| Vec::new()).collect();
        for turn in 1..=self.options.runs {
            for ((name, job), runs) in jobs.iter().zip(&mut runs) {
                eprintln!("bench: {group}: {name}, {turn} of {}", self.options.runs);
                runs.push(self.run(filled, job));
            }
        }
        let spread = |runs: &[Figures], figure: fn(&Figures) -> f64| Spread::of(runs.iter().map(figure).collect());
        let each = filled.bytes as f64 / filled.records as f64 / 1e6;
        for (index, ((name, _), own)) in jobs.iter().zip(&runs).enumerate() {
            let ratio = |figure: fn(&Figures) -> f64| {
                let ratios = own.iter().zip(&runs[0]).map(|(own, beside)| figure(own) / figure(beside)).collect();
                (index > 0).then(|| Spread::of(ratios))
            };
            let rate = spread(own, |run| run.rate);
            let lates: Option<Vec<[f64; 3]>> = own.iter().map(|run| run.late_ms).collect();
            let firsts: Option<Vec<f64>> = own.iter().map(|run| run.first_ms).collect();
            self.rows.push(Row {
                group: group.to_owned(),
                name: (*name).to_owned(),
                rate,
                megabytes: rate.median * each,
                cpu: spread(own, |run| run.cpu_ns),
                memory: spread(own, |run| run.memory_mb),
                beside: (index > 0).then(|| jobs[0].0.to_owned()),
                cpu_ratio: ratio(|run| run.cpu_ns),
                rate_ratio: ratio(|run| run.rate),
                first: firsts.map(Spread::of),
                late: lates.map(|lates| [0, 1, 2].map(|index| Spread::of(lates.iter().map(|late| late[index]).collect()))),
            });
        }
    }

    fn run(&self, filled: &Filled, job: &Job<'_>) -> Figures {
        let brokers = self.broker.plaintext();
        let topic = filled.topic.name.as_str();
        let folder = tempfile::tempdir().unwrap();
        let mut own = Command::new(std::env::current_exe().unwrap());
        let (cost, records) = match job {
            Job::BareLatency(load) => return latency::bare(self.broker, *load).into(),
            Job::Latency(load, more) => return Rig::start(self.broker, &self.options.router, more).latency(self.broker, *load).into(),
            Job::Reconnect(load) => {
                let took = Rig::start(self.broker, &self.options.router, "").reconnect(self.broker, *load);
                return Figures { rate: 0.0, cpu_ns: 0.0, memory_mb: 0.0, first_ms: Some(took.as_secs_f64() * 1e3), late_ms: None };
            }
            Job::Raw(work) => {
                let work = clap::ValueEnum::to_possible_value(work).unwrap().get_name().to_owned();
                let records = filled.records.to_string();
                let partitions = filled.topic.ends().len().to_string();
                own.args(["raw", "--brokers", &brokers, "--topic", topic, "--records", &records, "--partitions", &partitions]);
                own.args(["--work", &work]);
                if let Some(schema) = filled.form.schema() {
                    own.args(["--schema", &schema]);
                }
                (measure::run(&mut own), filled.records)
            }
            Job::FirstRecord => {
                own.args(["raw", "--brokers", &brokers, "--topic", topic, "--records", "1", "--partitions", "0", "--group", &group_name()]);
                (measure::run(&mut own), 1)
            }
            Job::Bare { url, requests, records } => {
                let bytes = filled.bytes / filled.records * records;
                own.args(["bare", "--url", url, "--requests", &requests.to_string(), "--bytes", &bytes.to_string()]);
                (measure::run(&mut own), requests * records)
            }
            Job::Parquet => {
                own.args(["alone", "--records", &filled.records.to_string(), "--folder"]).arg(folder.path());
                (measure::run(&mut own), filled.records)
            }
            Job::Router(router) => {
                let config = folder.path().join("anabranch.toml");
                std::fs::write(&config, self.config(filled, *router)).unwrap();
                let mut command = Command::new(&self.options.router);
                command.args(["--log-format", "json", "run", "--until-end"]).arg(&config).current_dir(&folder);
                (measure::run(&mut command), filled.records * u64::from(router.routes))
            }
        };
        let seconds = seconds(&cost, matches!(job, Job::Router(_)));
        Figures {
            rate: records as f64 / seconds,
            cpu_ns: cost.cpu.as_nanos() as f64 / records as f64,
            memory_mb: cost.memory_max as f64 / 1e6,
            first_ms: cost.first_output.filter(|_| job.prints_records()).map(|first| first.as_secs_f64() * 1e3),
            late_ms: None,
        }
    }

    fn config(&self, filled: &Filled, router: Router<'_>) -> String {
        let map = self.options.components.join("map-json.wasm");
        let registry =
            if filled.form.schema().is_some() { format!("[registry.main]\nurl = \"{}\"\n", self.registry.url()) } else { String::new() };
        let plugin =
            if router.through.contains("map-json") { format!("[plugin.map-json]\npath = \"{}\"\n", shown(&map)) } else { String::new() };
        let mut text = format!("[source.main.kafka]\nbrokers = [\"{}\"]\n{registry}{plugin}{}\n", self.broker.plaintext(), router.sink);
        for number in 0..router.routes {
            text.push_str(&format!(
                "[route.bench-{number}]\ntopics = [\"{}\"]\ngroup = \"{}\"\nkey = \"string\"\nvalue = \"{}\"\nthrough = [{}]\nto = [\"out\"]\n",
                filled.topic.name,
                group_name(),
                filled.form.format(),
                router.through
            ));
        }
        text
    }
}

fn shown(path: &Path) -> String {
    path.canonicalize().unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// A consumer group that nobody had before.
fn group_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("bench-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Seconds from the first record to the last: as a baseline prints them, or the longest of the router's routes.
fn seconds(cost: &Cost, is_router: bool) -> f64 {
    if !is_router {
        return cost.stdout.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(cost.wall.as_secs_f64());
    }
    let ended = cost.stderr.lines().filter_map(|line| serde_json::from_str::<Json>(line).ok());
    let seconds = ended.filter(|line| line["fields"]["message"] == "ended").filter_map(|line| line["fields"]["seconds"].as_f64());
    seconds.reduce(f64::max).unwrap_or_else(|| panic!("the router did not say how long it took:\n{}", cost.stderr))
}

/// The receiver of the HTTP rows.
struct Receiver {
    process: Child,
    url: String,
}

impl Receiver {
    fn start() -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let mut process = command.arg("serve").stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut url = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut url).unwrap();
        Receiver { process, url: url.trim().to_owned() }
    }
}
