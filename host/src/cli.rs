//! The command line: what each command prints and how it exits.
//!
//! Invariant: the exit code says who has to act: 0 nobody, 2 the user (configuration, arguments), 3 the environment, 1 anything else.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{self, Config, LoadError, Log, LogFormat, Name, Problem, Report, Topics};
use crate::demo::{self, DemoError};
use crate::observe::Metrics;
use crate::observe::listen::Listener;
use crate::plugin::Engine;
use crate::stop::{Stop, StopReason};
use crate::{connect, run, tryout};

const EXAMPLES: &str = "\
Examples:
  anabranch demo                                      see it work, with nothing to set up
  anabranch check config.toml                         find every mistake before anything starts
  anabranch try config.toml --route orders --records 10   see what would become of live records
  anabranch run config.toml                           route records until it is stopped

Exit codes: 0 done, 2 the configuration or the arguments are wrong, 3 a server or a place is not usable, 1 anything else.";

/// Routes Kafka records through WebAssembly plugins to HTTP, tables and Kafka.
#[derive(Debug, Parser)]
#[command(name = "anabranch", version, about, after_help = EXAMPLES, arg_required_else_help = true, max_term_width = 110)]
struct Arguments {
    /// What is logged, instead of the configuration's `log.level`: error, warn, info, debug, trace, or "info,anabranch::sink=debug"
    #[arg(long, global = true, value_name = "LEVEL")]
    log: Option<String>,
    /// What log lines look like, instead of the configuration's `log.format`
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    log_format: Option<Format>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Routes records until it is stopped (SIGINT or SIGTERM: everything is delivered and committed first; again: at once)
    Run {
        /// The configuration, TOML
        file: PathBuf,
        /// Stop when all records that were there at the start are delivered and committed
        #[arg(long)]
        until_end: bool,
    },
    /// Finds every mistake in a configuration, with its place and its remedy; contacts nobody
    Check {
        /// The configuration, TOML
        file: PathBuf,
        /// Contact brokers, registries and sinks too
        #[arg(long)]
        connect: bool,
    },
    /// Shows what would become of live records: what came in, what each plugin decided, what each sink would get; commits nothing
    Try {
        /// The configuration, TOML
        file: PathBuf,
        /// The route; may be left out where there is only one
        #[arg(long)]
        route: Option<String>,
        /// How many records
        #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=tryout::RECORDS_MAX))]
        records: u64,
        /// Which records: newest, earliest, latest (those that come from now on), a time (2026-01-31T12:00:00Z), or TOPIC/PARTITION:OFFSET, several with commas
        #[arg(long, default_value = "newest", value_name = "PLACE")]
        from: tryout::From,
        /// Show long values whole
        #[arg(long)]
        full: bool,
        /// Print a line of JSON for each record
        #[arg(long)]
        json: bool,
    },
    /// Shows the router at work on a stream of orders that it makes itself: nothing has to be set up
    Demo(demo::Options),
    /// Prints a JSON Schema of the configuration, for editors
    Schema,
}

/// How `run` works.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Stop when all records that were there at the start are delivered and committed.
    pub until_end: bool,
}

/// How `try` works.
#[derive(Debug, Clone)]
pub struct TryOptions {
    /// The route, a key of `Config::routes`.
    pub route: Name,
    /// How many records to show, at most [`tryout::RECORDS_MAX`].
    pub records: u64,
    /// Which records.
    pub from: tryout::From,
    /// Whether long values are shown whole.
    pub full: bool,
    /// Whether each record is a line of JSON.
    pub json: bool,
}

/// Why a command ends without having done its work; the variant is the exit code.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// 2: problems with their places in the configuration.
    #[error("{}", .0.summary())]
    Problems(Box<Report>),
    /// 2: the user has to change the configuration or the arguments.
    #[error("{0}")]
    Configuration(String),
    /// 3: a server or a place is not usable.
    #[error("{0}")]
    Environment(String),
    /// 1: anything else.
    #[error("{0}")]
    Broken(String),
}

impl Failure {
    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Problems(_) | Failure::Configuration(_) => 2,
            Failure::Environment(_) => 3,
            Failure::Broken(_) => 1,
        }
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Wrong(report) => Failure::Problems(report),
            LoadError::Unreadable { .. } => Failure::Configuration(error.to_string()),
        }
    }
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            match &failure {
                Failure::Problems(report) => show(report),
                other => eprintln!("error: {other}"),
            }
            ExitCode::from(failure.code())
        }
    }
}

impl Arguments {
    fn execute(&self) -> Result<(), Failure> {
        match &self.command {
            Command::Run { file, until_end } => {
                let config = self.load(file)?;
                run_routes(config, &RunOptions { until_end: *until_end })
            }
            Command::Check { file, connect } => self.check(file, *connect),
            Command::Try { file, route, records, from, full, json } => {
                let (config, _) = self.load_quietly(file, "warn")?;
                let route = chosen_route(&config, route.as_deref())?;
                let options = TryOptions { route, records: *records, from: from.clone(), full: *full, json: *json };
                runtime()?.block_on(tryout::run(config, options))
            }
            // It logs to a file of its own.
            Command::Demo(options) => run_demo(options.clone()),
            Command::Schema => {
                let schema = serde_json::to_string_pretty(&config::schema()).map_err(|error| Failure::Broken(error.to_string()))?;
                print(&format!("{schema}\n"))
            }
        }
    }

    /// A configuration that may be used; its warnings are shown.
    fn load(&self, file: &Path) -> Result<Config, Failure> {
        let loaded = config::load(file)?;
        self.start_logging(&loaded.config.log)?;
        let report = with_plugin_problems(&loaded.config, loaded.report)?;
        show(&report);
        Ok(loaded.config)
    }

    /// The same for commands that say themselves what they do: `level` is logged, whatever the configuration says.
    fn load_quietly(&self, file: &Path, level: &str) -> Result<(Config, Report), Failure> {
        let loaded = config::load(file)?;
        self.start_logging(&Log { level: level.into(), ..loaded.config.log.clone() })?;
        let report = with_plugin_problems(&loaded.config, loaded.report)?;
        show(&report);
        Ok((loaded.config, report))
    }

    fn check(&self, file: &Path, connect: bool) -> Result<(), Failure> {
        // What does not answer is told once, as an error, not as a log line too.
        let (config, report) = self.load_quietly(file, if connect { "error" } else { "warn" })?;
        if connect {
            contact(&config)?;
        }
        print(&format!("{}: {}\n{}", file.display(), summary(&report), overview(&config)))
    }

    /// Logs to the standard error output from now on.
    fn start_logging(&self, log: &Log) -> Result<(), Failure> {
        let level = self.log.as_deref().unwrap_or(&log.level);
        let filter = filter(level).map_err(|error| {
            Failure::Configuration(format!("--log {level:?}: {error}; write a level such as \"debug\", or \"info,anabranch::sink=debug\""))
        })?;
        // At that level the WebSocket crate logs whole messages: records, and the tokens of sessions.
        let filter = filter.with_target("tungstenite", LevelFilter::WARN);
        let is_json = match self.log_format {
            Some(format) => matches!(format, Format::Json),
            None => log.format == LogFormat::Json,
        };
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
        let registry = tracing_subscriber::registry().with(filter);
        let started = if is_json {
            registry.with(lines.json()).try_init()
        } else {
            registry.with(lines.with_ansi(is_colourful(std::io::stderr().is_terminal()))).try_init()
        };
        started.map_err(|error| Failure::Broken(error.to_string()))
    }
}

/// A level alone is that of the router: libraries below it tell of each step at `info`, so of them there are warnings.
fn filter(level: &str) -> Result<Targets, ParseError> {
    match level.parse::<LevelFilter>() {
        Ok(level) => Ok(Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("anabranch", level)),
        Err(_) => level.parse(),
    }
}

/// Runs the `init` of every plugin, which needs no record, and adds the problems that it finds in its own configuration.
fn with_plugin_problems(config: &Config, report: Report) -> Result<Report, Failure> {
    let problems = plugin_problems(config)?;
    if problems.is_empty() {
        return Ok(report);
    }
    let report = report.with(problems);
    if report.has_errors() { Err(Failure::Problems(Box::new(report))) } else { Ok(report) }
}

/// What the plugins find wrong with their own configuration, and plugins that cannot be used at all.
fn plugin_problems(config: &Config) -> Result<Vec<Problem>, Failure> {
    let engine = Engine::of(config).map_err(|error| Failure::Environment(error.to_string()))?;
    match run::plan(&engine, config, None) {
        Ok(chains) => Ok(run::warn_of_memory(&engine, config, &chains).into_iter().collect()),
        Err(problems) => Ok(problems),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    built.map_err(|error| Failure::Environment(format!("no threads for the router: {error}")))
}

/// Contacts brokers, registries and sinks: what does not answer is told, all of it.
fn contact(config: &Config) -> Result<(), Failure> {
    let config = config.clone();
    let found = runtime()?.block_on(connect::all(&config));
    for warning in &found.warnings {
        eprintln!("warning: {warning}");
    }
    if found.problems.is_empty() { Ok(()) } else { Err(Failure::Environment(found.problems.join("\nerror: "))) }
}

fn run_routes(config: Config, options: &RunOptions) -> Result<(), Failure> {
    runtime()?.block_on(async {
        let metrics = Metrics::new();
        let engine = Engine::of(&config).map_err(|error| Failure::Environment(error.to_string()))?;
        let chains = run::plan(&engine, &config, Some(&metrics)).map_err(|problems| {
            Failure::Configuration(problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>().join("; "))
        })?;
        if let Some(address) = config.listen {
            let listener = Listener::bind(address, metrics.clone())
                .await
                .map_err(|error| Failure::Environment(format!("listen {address}: {error}: choose a free port")))?;
            tokio::spawn(listener.run());
        }
        let stop = Stop::new();
        stop_on_signals(&stop)?;
        let ended = run::run(Arc::new(config), chains, metrics, stop, options.until_end).await.map_err(Failure::Configuration)?;
        for (name, route) in &ended.routes {
            let counts = route.counts;
            tracing::info!(
                route = %name, read = counts.read, filtered = counts.filtered, dead_letters = counts.dead_lettered,
                delivered = counts.delivered(), seconds = route.took.as_secs_f64(), "ended"
            );
        }
        match ended.reason() {
            None | Some(StopReason::Asked) => Ok(()),
            Some(StopReason::Configuration(text)) => Err(Failure::Configuration(text.clone())),
            Some(StopReason::Environment(text)) => Err(Failure::Environment(text.clone())),
            Some(StopReason::DeadLetter(text) | StopReason::Broken(text)) => Err(Failure::Broken(text.clone())),
        }
    })
}

/// The first SIGINT or SIGTERM asks to stop, the second ends the process at once: what was not committed is read again.
pub fn stop_on_signals(stop: &Stop) -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(|error| Failure::Environment(format!("signals cannot be heard: {error}")));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let stop = stop.clone();
    tokio::spawn(async move {
        let mut next = async || tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () };
        next().await;
        tracing::info!("stopping: what is in flight is delivered and committed first; a second signal stops at once");
        stop.stop(StopReason::Asked);
        next().await;
        std::process::exit(1);
    });
    Ok(())
}

fn run_demo(options: demo::Options) -> Result<(), Failure> {
    match runtime()?.block_on(demo::run(options)) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::Broken("the demo's numbers do not add up".into())),
        Err(error @ DemoError::FolderInUse(_)) => Err(Failure::Configuration(error.to_string())),
        Err(error @ (DemoError::Io { .. } | DemoError::Server(_))) => Err(Failure::Environment(error.to_string())),
        Err(error) => Err(Failure::Broken(error.to_string())),
    }
}

fn chosen_route(config: &Config, route: Option<&str>) -> Result<Name, Failure> {
    let names = || config.routes.keys().map(|name| name.as_str());
    match route {
        Some(route) => match config.routes.get_key_value(route) {
            Some((name, _)) => Ok(name.clone()),
            None => Err(Failure::Configuration(format!("there is no route {route:?}; {}", config::suggestion(route, names(), "routes")))),
        },
        None if config.routes.len() == 1 => Ok(config.routes.keys().next().expect("there is one").clone()),
        None => {
            let list = names().collect::<Vec<_>>().join(", ");
            Err(Failure::Configuration(format!("choose a route with --route NAME: {list}")))
        }
    }
}

fn summary(report: &Report) -> String {
    let summary = report.summary();
    if summary.is_empty() { "no problems".into() } else { summary }
}

/// One line for each route: where its records come from, through what they go, where to.
fn overview(config: &Config) -> String {
    let joined = |names: &[Name]| names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    let lines = config.routes.values().map(|route| {
        let topics = match &route.topics {
            Topics::List(list) => list.join(", "),
            Topics::Regex(pattern) => pattern.to_string(),
        };
        let through: String = route.through.iter().map(|step| format!(" -> {}", step.plugin)).collect();
        let dead = route.dead_letters.as_ref().map_or(", stops at the first bad record".into(), |sink| format!(", dead letters to {sink}"));
        format!("  route {}: {} ({topics}){through} -> {}{dead}\n", route.name, route.from, joined(&route.to))
    });
    lines.collect()
}

fn show(report: &Report) {
    eprint!("{}", report.render(is_colourful(std::io::stderr().is_terminal())));
    if report.has_errors() {
        eprintln!("\n{}", report.summary());
    }
}

/// Whether a stream gets colours: only terminals do, and not where `NO_COLOR` is set (<https://no-color.org>).
pub fn is_colourful(is_terminal: bool) -> bool {
    is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// To the standard output; a reader that has gone away (`| head`) is no mistake.
fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::Environment(format!("standard output: {error}"))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }
}
