//! The sink `stdout`: one line of JSON for each output.
//!
//! Invariant: a piece is settled when its lines were handed to whoever reads them.

use std::io::{ErrorKind, Write};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::line::Lines;
use super::preview::Preview;
use super::{Inbox, Message, Piece, Sink, SinkError, Surroundings, Uses, give_up};
use crate::config::Fault;
use crate::dead::Class;
use crate::output::View;
use crate::value::JsonOptions;

/// Lines are handed over when they are so many bytes, or when nothing more waits.
const BUFFER_MAX: usize = 256 * 1024;

/// `[sink.NAME.stdout]`: one line of JSON for each record on the standard output.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Whether topic, partition, offset, timestamp, key, headers and destination stand around the value.
    pub envelope: bool,
    /// How decimals, bytes and times are written.
    pub json: JsonOptions,
}

impl Config {
    /// What is wrong beyond single values.
    pub fn check(&self) -> Vec<Fault> {
        Vec::new()
    }
}

/// How the sink uses destinations.
pub fn destinations(_: &Config) -> Uses {
    Uses::Ignored
}

/// A sink of the kind `stdout`, or one that writes lines elsewhere.
#[derive(Debug)]
pub struct Stdout<W> {
    lines: Lines,
    writer: W,
    surroundings: Surroundings,
}

impl Stdout<std::io::Stdout> {
    /// A sink that writes to the standard output.
    pub fn new(config: &Config, surroundings: Surroundings) -> Self {
        Self::to(std::io::stdout(), config, surroundings)
    }
}

impl<W> Stdout<W> {
    /// A sink that writes to `writer`.
    pub fn to(writer: W, config: &Config, surroundings: Surroundings) -> Self {
        let lines = Lines { envelope: config.envelope, json: config.json };
        Stdout { lines, writer, surroundings }
    }

    /// See [`Preview`].
    pub fn preview(&self, view: View<'_>) -> Preview {
        let mut line = Vec::new();
        match self.lines.write(view, &mut line) {
            Ok(()) => Preview::Line { path: None, line: line.trim_ascii_end().to_vec() },
            Err(message) => Preview::GivenUp(self.surroundings.letter(view, Class::Decode, "json", message).1),
        }
    }
}

impl<W: Write + Send + 'static> Sink for Stdout<W> {
    async fn run(self, mut inbox: Inbox) -> Result<(), SinkError> {
        let Stdout { lines, mut writer, surroundings } = self;
        let mut buffer = Vec::new();
        let mut pieces: Vec<Piece> = Vec::new();
        while let Some(message) = inbox.next().await {
            let mut message = Some(message);
            let mut count = 0;
            while let Some(next) = message.take() {
                match next {
                    Message::Letters(..) => {}
                    Message::Abandon(slot) => pieces.retain(|piece| piece.token.slot() != slot),
                    Message::Piece(piece) => {
                        let mut letters = Vec::new();
                        for view in piece.iter() {
                            match lines.write(view, &mut buffer) {
                                Ok(()) => count += 1,
                                Err(message) => letters.push(surroundings.letter(view, Class::Decode, "json", message)),
                            }
                        }
                        give_up(&surroundings, &piece, letters);
                        pieces.push(piece);
                    }
                }
                if buffer.len() < BUFFER_MAX {
                    message = inbox.try_next();
                }
            }
            // Whoever reads slowly holds this sink, not the runtime's threads.
            let written = tokio::task::spawn_blocking(move || {
                let written = writer.write_all(&buffer).and_then(|()| writer.flush());
                (writer, buffer, written)
            });
            let outcome;
            (writer, buffer, outcome) = written.await.map_err(|error| environment(&surroundings, error.to_string()))?;
            outcome.map_err(|error| match error.kind() {
                ErrorKind::BrokenPipe => environment(&surroundings, "nobody reads the standard output any more".to_owned()),
                _ => environment(&surroundings, format!("the standard output takes nothing: {error}")),
            })?;
            surroundings.metrics.outputs.inc_by(count);
            surroundings.metrics.bytes.inc_by(buffer.len() as u64);
            buffer.clear();
            for piece in pieces.drain(..) {
                piece.token.settle();
            }
        }
        Ok(())
    }
}

fn environment(surroundings: &Surroundings, reason: String) -> SinkError {
    SinkError::Environment { sink: surroundings.sink.clone(), reason }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::sink::fixture::Route;
    use crate::value::Format;

    #[tokio::test]
    async fn lines_are_handed_over_before_their_piece_is_settled_and_a_closed_reader_ends_the_route() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut route = Route::new(Format::Json);
        let config = Config { envelope: true, ..Config::default() };
        let task = route.start(Stdout::to(writer, &config, route.surroundings.clone()));
        route.send(3, &[(Some("k"), Some("{\n\"a\":1}")), (None, None)]);
        route.settled().await;
        let mut read = vec![0; 1000];
        let length = reader.read(&mut read).unwrap();
        let lines: Vec<serde_json::Value> =
            String::from_utf8_lossy(&read[..length]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!((&lines[0]["offset"], &lines[0]["partition"], &lines[0]["value"]["a"]), (&0.into(), &3.into(), &1.into()));
        assert_eq!((&lines[1]["key"], &lines[1]["value"]), (&serde_json::Value::Null, &serde_json::Value::Null));
        drop(reader);
        route.send(3, &[(None, Some("2"))]);
        let error = task.await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "sink \"out\": nobody reads the standard output any more");
        assert_eq!(route.committable(3), Some(2), "what nobody read is not committed");
    }
}
