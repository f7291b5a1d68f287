//! Components, batches and chains for the tests of plugins.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, RwLock};
use std::time::Duration;

use anabranch::batch::{Batch, Entries, Handles, Headers};
use anabranch::dead::Class;
use anabranch::observe::Metrics;
use anabranch::output::{Formats, Outputs, SinkSet};
use anabranch::plugin::{Chain, ChainPlan, Component, Decided, Engine, Limits, Outcome, Room, Shared, Step, StepError};
use anabranch::schemas::Schemas;
use anabranch::value::Format;

/// Tests that measure memory hold it alone, all others together.
pub static QUIET: RwLock<()> = RwLock::new(());

pub static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let code = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("code");
    Engine::with(Room { instances: 200, memory_max: 512 << 20 }, Some(code)).unwrap()
});

/// The bytes of a component that plugins/build.sh made. A missing one fails the test: a test that is left out proves nothing.
pub fn bytes(folder: &str, name: &str) -> Vec<u8> {
    let own = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| own.parent().unwrap().to_owned(), PathBuf::from);
    let path = target.join(folder).join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| {
        let (target, out) = (target.display(), target.join(folder));
        let crates = if folder == "components" { "" } else { " tests/guests/*" };
        panic!("{}: {error}\nremedy: CARGO_TARGET_DIR={target} OUT={} plugins/build.sh{crates}", path.display(), out.display())
    })
}

/// A component made of a crate below tests/guests.
pub fn guest(name: &str) -> Arc<Component> {
    static COMPILED: LazyLock<Mutex<HashMap<String, Arc<Component>>>> = LazyLock::new(Mutex::default);
    let mut compiled = COMPILED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let component = compiled
        .entry(name.to_owned())
        .or_insert_with(|| ENGINE.compile("bad", &bytes("test-components", &format!("anabranch-test-{name}")), None).unwrap());
    component.clone()
}

pub const LIMITS: Limits =
    Limits { memory_max: 64 << 20, deadline: Duration::from_millis(500), init_deadline: Duration::from_millis(1000), log_lines_max: 100 };

/// A chain and what can be seen of it.
pub struct Running {
    pub chain: Chain,
    pub metrics: Metrics,
    pub schemas: Arc<Schemas>,
}

/// A chain of components with their configurations; the error is what the user would read.
pub fn chain_of(steps: &[(Arc<Component>, &str)], limits: Limits) -> Result<Running, String> {
    let (metrics, schemas) = (Metrics::new(), Arc::new(Schemas::new()));
    let mut planned = Vec::new();
    for (component, config) in steps {
        let shared = Shared::new(&component.name, "orders", schemas.clone(), Some(metrics.clone()), limits);
        let step = Step::plan(component.clone(), shared, config, &["live".to_owned(), "lake".to_owned()]);
        planned.push(step.map_err(|error| match error {
            StepError::Unusable(error) => error.to_string(),
            StepError::Problems(problems) => problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("; "),
        })?);
    }
    let plan = Arc::new(ChainPlan::new(schemas.clone(), planned));
    Ok(Running { chain: Chain::new(&plan), metrics, schemas })
}

/// The plugin tests/guests/hostile, doing `does` at every `every`th record. `more`: further keys of its configuration.
pub fn hostile_with(does: &str, every: u32, more: &str, limits: Limits) -> Result<Running, String> {
    chain_of(&[(guest("hostile"), &config(does, every, more))], limits)
}

pub fn config(does: &str, every: u32, more: &str) -> String {
    format!(r#"{{"does": "{does}", "every": {every}{}{more}}}"#, if more.is_empty() { "" } else { ", " })
}

pub fn hostile(does: &str, every: u32) -> Running {
    hostile_with(does, every, "", LIMITS).unwrap()
}

/// JSON records from offset `first` on.
pub fn batch(partition: i32, first: i64, values: &[&[u8]]) -> Batch {
    let mut entries = Entries::default();
    values.iter().for_each(|value| entries.push(Some(value)));
    let mut keys = Entries::default();
    values.iter().for_each(|_| keys.push(None));
    Batch {
        topic: "orders".into(),
        partition,
        offsets: (first..first + values.len() as i64).collect(),
        timestamps: vec![1_700_000_000_000; values.len()],
        keys,
        values: entries,
        headers: Headers::default(),
        key_schemas: Handles::All(0),
        value_schemas: Handles::All(0),
        permit: None,
    }
}

impl Running {
    /// Decides `count` small records of partition 0 from offset `first` on.
    pub fn run(&mut self, first: i64, count: usize) -> Decided {
        self.run_batch(batch(0, first, &vec![&br#"{"n":1}"#[..]; count]), Format::Json)
    }

    pub fn run_batch(&mut self, batch: Batch, format: Format) -> Decided {
        let formats = Formats { key: Format::Raw, value: format };
        self.chain.run(Outputs::unchanged(Arc::new(batch), formats, self.schemas.snapshot(), SinkSet::first(2)))
    }

    /// A number of the metrics' text: the sample `anabranch_NAME` of the plugin, all labels.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.metrics.text();
        let samples = text.lines().filter(|line| line.starts_with(&format!("anabranch_{name}{{")));
        samples.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }
}

/// Offsets of what is left, in order.
pub fn kept(decided: &Decided) -> Vec<i64> {
    (0..decided.outputs.list.len()).map(|index| decided.outputs.view(index).offset()).collect()
}

/// Offsets of what was given up, in order.
pub fn given_up(decided: &Decided) -> Vec<i64> {
    decided.letters.iter().map(|letter| decided.outputs.batch.offsets[letter.record as usize]).collect()
}

/// Exactly the records at these offsets were given up, for the same reason, and all others kept. Returns the first message.
pub fn assert_cost(decided: &Decided, bad: &[i64], class: Class) -> String {
    assert_eq!(decided.outcome, Outcome::Done);
    assert_eq!(given_up(decided), bad, "{:?}", decided.letters.first());
    let good: Vec<i64> = decided.outputs.batch.offsets.iter().copied().filter(|offset| !bad.contains(offset)).collect();
    assert_eq!(kept(decided), good);
    for letter in &decided.letters {
        assert_eq!(letter.class, class, "{}", letter.message);
        assert_eq!(&*letter.by, "bad");
        assert_eq!(letter.digest.as_ref().unwrap().len(), 64);
        assert_harmless(&letter.message);
        assert_harmless(&letter.code);
    }
    decided.letters.first().map(|letter| letter.message.clone()).unwrap_or_default()
}

/// Text that a terminal can show.
pub fn assert_harmless(text: &str) {
    assert!(!text.contains(|character: char| character.is_control() || character == '\u{202e}'), "{text:?}");
    assert!(text.len() < 10_000, "{} bytes", text.len());
}

pub fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

/// What was logged on this thread while `run` ran.
pub fn logged<T>(run: impl FnOnce() -> T) -> (T, String) {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let result = tracing::subscriber::with_default(subscriber, run);
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    (result, text)
}

/// Bytes of memory of this process.
pub fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
