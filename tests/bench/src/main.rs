//! `make bench`: what the router costs, each row beside its own baseline of the same run, on a real Kafka.
//!
//! Invariant: every figure of a row comes from the run that printed it; a baseline is a process like the router, measured the same way.
#![allow(clippy::unwrap_used, reason = "what goes wrong here has to end it")]

mod http;
mod latency;
mod measure;
mod orders;
mod parquet_alone;
mod raw;
mod report;
mod rows;
mod topics;

use std::path::PathBuf;

use anabranch_tests::kafka::Broker;
use anabranch_tests::registry::Registry;
use clap::{Parser, Subcommand};

/// Measures the router beside what the same work costs without it.
#[derive(Debug, Parser)]
#[command(name = "anabranch-bench")]
struct Arguments {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    part: Option<Part>,
}

/// How much is measured.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Small records of a topic
    #[arg(long, default_value_t = 4_000_000)]
    records: u64,
    /// How often each row is measured
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Only rows whose group or name contains this
    #[arg(long)]
    only: Option<String>,
    /// Where the figures go, one JSON object a row
    #[arg(long, default_value = "bench.json")]
    json: PathBuf,
    /// The router
    #[arg(long, default_value = "anabranch")]
    router: PathBuf,
    /// Folder with the component `map-json.wasm`
    #[arg(long, default_value = ".")]
    components: PathBuf,
}

/// Processes that are measured, or measured against.
#[derive(Debug, Subcommand)]
enum Part {
    /// Reads a topic by batches
    Raw(raw::Raw),
    /// Answers HTTP requests until it is killed
    Serve,
    /// Sends HTTP requests
    Bare(http::Bare),
    /// Writes Parquet files
    Alone(parquet_alone::Alone),
}

fn main() {
    let arguments = Arguments::parse();
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match &arguments.part {
        Some(Part::Raw(raw)) => raw::read(raw),
        Some(Part::Serve) => runtime().block_on(http::serve()),
        Some(Part::Bare(bare)) => runtime().block_on(http::bare(bare)),
        Some(Part::Alone(alone)) => parquet_alone::write(alone),
        None => {
            let (broker, registry) = (Broker::start_for_production(), Registry::start());
            let measured = rows::measure(&arguments.options, &broker, &registry);
            report::write(&arguments.options.json, &measured);
            print!("{}", report::table(&measured));
            println!("the same as JSON: {}", arguments.options.json.display());
        }
    }
}
