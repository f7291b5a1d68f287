//! The configuration: one TOML file, as written -> checked -> built.
//!
//! Invariant: a [`Config`] that [`load`] returns is whole: every name in it leads somewhere, every value is within its bounds, every
//! secret was read. All that is wrong with a file is reported at once, each problem with its place and its remedy.

mod check;
mod diffusion;
#[cfg(test)]
mod fuzz;
mod kafka;
mod plugin;
mod problem;
mod read;
mod registry;
mod route;
mod route_diffusion;
mod secret;
mod suggest;
mod syntax;
mod text;
mod tree;
mod written;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use check::check_topic;
pub use diffusion::{DiffusionLogin, DiffusionSource, DiffusionUrl, Null, Reconnect, Removed, check_times};
pub use kafka::{
    Assignor, Isolation, KafkaSource, Mechanism, OAuth, OWNED_BY_SINK, OWNED_BY_SOURCE, Property, Protocol, Security, check_brokers,
    check_properties,
};
pub use plugin::{BUNDLED, Component, Limits, Plugin};
pub use problem::{Fault, Problem, Report, Severity};
pub use registry::{Auth, Registry, Tls};
pub use route::{Action, AfterDeadLetter, BatchLimits, Breaker, KeyFormat, OnError, OutOfRange, Route, Start, Step, Topics, ValueFormat};
pub use secret::Secret;
pub use suggest::suggestion;
pub use text::{ByteSize, DurationText, FilePath, HttpUrl, Name, Pattern, Remedy};
pub use tree::{PluginConfig, plugin_problem};
pub use written::schema;

use crate::sink;

/// Things by their names, in the order of the names.
pub type Map<K, V> = BTreeMap<K, V>;

/// A whole configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where records come from.
    pub sources: Map<Name, Source>,
    /// Where schemas come from.
    pub registries: Map<Name, Registry>,
    /// All plugins that routes use, bundled ones too.
    pub plugins: Map<Name, Plugin>,
    /// Where records go to.
    pub sinks: Map<Name, Sink>,
    /// What goes where.
    pub routes: Map<Name, Route>,
    /// Where metrics and health are served.
    pub listen: Option<SocketAddr>,
    /// How the router logs.
    pub log: Log,
    /// The file's text: for problems that show only when the configuration is put to use.
    pub text: Arc<str>,
}

/// A source by its kind.
#[derive(Debug, Clone)]
pub enum Source {
    /// Values of topics of a Diffusion server.
    Diffusion(DiffusionSource),
    /// Records of a Kafka cluster.
    Kafka(KafkaSource),
}

impl Source {
    /// It, where it is a Kafka cluster.
    pub fn kafka(&self) -> Option<&KafkaSource> {
        match self {
            Source::Kafka(source) => Some(source),
            Source::Diffusion(_) => None,
        }
    }

    /// Whether its records have offsets that it can be asked for again.
    pub fn is_log(&self) -> bool {
        self.kafka().is_some()
    }

    fn check(&self) -> Vec<Fault> {
        match self {
            Source::Diffusion(source) => source.check(),
            Source::Kafka(source) => source.check(),
        }
    }
}

/// A sink by its kind.
#[derive(Debug, Clone)]
pub enum Sink {
    /// Forgets what it gets.
    Null(sink::null::Config),
    /// Lines of JSON on the standard output.
    Stdout(sink::stdout::Config),
    /// Lines of JSON in files.
    File(sink::file::Config),
    /// Requests to an HTTP server.
    Http(sink::http::Config),
    /// Rows of Delta tables.
    Delta(sink::delta::Config),
    /// Topics of a Diffusion server.
    Diffusion(sink::diffusion::Config),
    /// Records of a topic.
    Kafka(sink::kafka::Config),
}

impl Sink {
    /// Its kind as the file names it.
    pub fn kind(&self) -> &'static str {
        match self {
            Sink::Null(_) => "null",
            Sink::Stdout(_) => "stdout",
            Sink::File(_) => "file",
            Sink::Http(_) => "http",
            Sink::Delta(_) => "delta",
            Sink::Diffusion(_) => "diffusion",
            Sink::Kafka(_) => "kafka",
        }
    }

    fn check(&self) -> Vec<Fault> {
        match self {
            Sink::Null(config) => config.check(),
            Sink::Stdout(config) => config.check(),
            Sink::File(config) => config.check(),
            Sink::Http(config) => config.check(),
            Sink::Delta(config) => config.check(),
            Sink::Diffusion(config) => config.check(),
            Sink::Kafka(config) => config.check(),
        }
    }
}

/// `[log]`: how the router logs, on the standard error output.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`), or directives such as `info,anabranch::sink=debug`.
    pub level: String,
    /// Text for people or JSON for programs.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Log { level: "info".into(), format: LogFormat::Text }
    }
}

/// What log lines look like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A configuration that may be used, and what is odd about it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Warnings only.
    pub report: Report,
}

/// No configuration file is longer: a longer one is a mistake.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

/// Why a file gives no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read at all.
    #[error("{path}: {reason}")]
    Unreadable {
        /// The file, as the user named it.
        path: String,
        /// What is wrong, and the remedy.
        reason: String,
    },
    /// The user has to change something in it.
    #[error("{}: {}", .0.path.display(), .0.summary())]
    Wrong(Box<Report>),
}

/// Reads and checks a file. Secrets are read, files that it names are looked for; nobody is contacted.
///
/// # Errors
/// With all problems that the file has.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    let unreadable = |reason: String| LoadError::Unreadable { path: path.display().to_string(), reason };
    let length = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(unreadable(format!("it has {length} bytes, a configuration has at most {FILE_BYTES_MAX}")));
    }
    let bytes = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
    let text = String::from_utf8(bytes)
        .map_err(|error| unreadable(format!("it is not UTF-8 text (byte {}): save it as UTF-8", error.utf8_error().valid_up_to())))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    parse(&text, path, folder).map_err(|report| LoadError::Wrong(Box::new(report)))
}

/// Checks the text of a file that is called `path` in reports; relative paths in it count from `folder`.
///
/// # Errors
/// With all problems that the text has.
pub fn parse(text: &str, path: &Path, folder: &Path) -> Result<Loaded, Report> {
    let mut problems = Vec::new();
    let (config, plain_secrets) = written::read(text, folder, &mut problems);
    let mut report = Report::new(path, text, problems);
    report.hide(&plain_secrets);
    match config {
        Some(config) if !report.has_errors() => Ok(Loaded { config, report }),
        _ => Err(report),
    }
}
