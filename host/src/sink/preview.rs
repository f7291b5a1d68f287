//! What a sink would get, made by the sink's own rendering and shown instead of written: for `anabranch try`.
//!
//! Invariant: nothing here writes, connects or creates; a table that is there is read.

use std::path::PathBuf;
use std::sync::Arc;

use super::{SinkError, Surroundings, delta, diffusion, file, http, kafka, null, stdout};
use crate::config::Sink;
use crate::dead::Letter;
use crate::output::Outputs;

/// What a sink would make of one output.
#[derive(Debug, Clone)]
pub enum Preview {
    /// A request.
    Request {
        /// The method.
        method: String,
        /// The whole URL.
        url: String,
        /// Names and values; secrets are left out of them.
        headers: Vec<(String, String)>,
        /// The body.
        body: Vec<u8>,
        /// Whether other records would share the request.
        batched: bool,
    },
    /// A record of a topic.
    Record {
        /// The topic.
        topic: String,
        /// The partition, where the sink chooses it.
        partition: Option<i32>,
        /// The key; `None`: none.
        key: Option<Vec<u8>>,
        /// The value; `None`: a tombstone.
        value: Option<Vec<u8>>,
        /// Headers.
        headers: Vec<(String, Option<Vec<u8>>)>,
    },
    /// A row of a table.
    Row {
        /// Where the table is.
        table: String,
        /// Whether the table would be created.
        is_new: bool,
        /// Columns that part the table's files, with the row's values as JSON text.
        partition: Vec<(String, String)>,
        /// The row, a JSON object.
        row: String,
        /// The table's ledger covers the record: the row is there already and would not be written again.
        covered: bool,
    },
    /// The value of a Diffusion topic.
    Topic {
        /// The topic's path.
        path: String,
        /// The value as JSON text; `None`: the topic is removed.
        value: Option<Vec<u8>>,
    },
    /// A line of a file, or of the standard output.
    Line {
        /// The file; `None`: the standard output.
        path: Option<PathBuf>,
        /// The line, its end left out.
        line: Vec<u8>,
    },
    /// It is counted and forgotten.
    Forgotten,
    /// The sink leaves it out on purpose: why.
    Skipped(String),
    /// The sink gives it up.
    GivenUp(Letter),
}

/// A sink that shows what it would write.
pub enum Previewer {
    /// `null`.
    Null(null::Null),
    /// `stdout`.
    Stdout(stdout::Stdout<std::io::Stdout>),
    /// `file`.
    File(file::FileSink),
    /// `http`.
    Http(Box<http::Previewer>),
    /// `kafka`.
    Kafka(Box<kafka::Kafka>),
    /// `delta`.
    Delta(Box<delta::Previewer>),
    /// `diffusion`.
    Diffusion(Box<diffusion::Diffusion>),
}

impl Previewer {
    /// A sink of the configuration.
    ///
    /// # Errors
    /// What would keep the sink from starting.
    pub fn new(sink: &Sink, surroundings: Surroundings) -> Result<Self, SinkError> {
        Ok(match sink {
            Sink::Null(config) => Previewer::Null(null::Null::new(config, surroundings)),
            Sink::Stdout(config) => Previewer::Stdout(stdout::Stdout::new(config, surroundings)),
            Sink::File(config) => Previewer::File(file::FileSink::new(config, surroundings)),
            Sink::Http(config) => Previewer::Http(Box::new(http::Previewer::new(config, surroundings)?)),
            Sink::Kafka(config) => Previewer::Kafka(Box::new(kafka::Kafka::new(config, surroundings))),
            Sink::Delta(config) => Previewer::Delta(Box::new(delta::Previewer::new(config, surroundings)?)),
            Sink::Diffusion(config) => Previewer::Diffusion(Box::new(diffusion::Diffusion::new(config, surroundings)?)),
        })
    }

    /// What the sink would make of output `index`.
    ///
    /// # Errors
    /// What would stop the route.
    pub async fn show(&mut self, outputs: &Arc<Outputs>, index: usize) -> Result<Preview, SinkError> {
        let view = outputs.view(index);
        match self {
            Previewer::Null(sink) => Ok(sink.preview(view)),
            Previewer::Stdout(sink) => Ok(sink.preview(view)),
            Previewer::File(sink) => Ok(sink.preview(view)),
            Previewer::Http(sink) => Ok(sink.show(outputs, index)),
            Previewer::Kafka(sink) => Ok(sink.preview(view)),
            Previewer::Delta(sink) => sink.show(&view).await,
            Previewer::Diffusion(sink) => Ok(sink.preview(view)),
        }
    }
}
