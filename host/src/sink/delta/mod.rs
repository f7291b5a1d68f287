//! Delta tables: rows and their offsets land in one commit, so what is read twice is in the table once.
//!
//! Invariant: the group's offset of a record is committed after the table commit that holds it, and a table commit says up to which
//! offset it holds each partition; after any crash one of the two says what is missing.

pub mod columns;
pub mod commit;
pub mod config;
pub mod files;
pub mod flush;
pub mod known;
pub mod ledger;
pub mod log;
pub mod read;
pub mod rows;
pub mod settings;
pub mod survey;
pub mod table;
pub mod writer;

pub use config::Config;
pub use read::{ledger_positions, other_ledgers, probe, read_table, row_count};
pub use writer::Previewer;

use settings::Settings;

use crate::sink::{Inbox, Sink, SinkError, Surroundings};

/// A sink for Delta tables.
pub struct Delta {
    writer: writer::Writer,
}

impl Delta {
    /// A sink that has written nothing yet.
    ///
    /// # Errors
    /// Where the configuration names a place that cannot hold tables.
    pub fn new(config: &Config, surroundings: Surroundings) -> Result<Self, SinkError> {
        match Settings::new(config) {
            Ok(settings) => Ok(Delta { writer: writer::Writer::new(settings, surroundings) }),
            Err(reason) => Err(SinkError::Configuration { sink: surroundings.sink, reason }),
        }
    }
}

impl Sink for Delta {
    async fn run(self, inbox: Inbox) -> Result<(), SinkError> {
        self.writer.run(inbox).await
    }
}

#[cfg(test)]
mod tests;
