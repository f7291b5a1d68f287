//! The sink `null`: counts outputs as delivered and forgets them, for trying out and for measuring.
//!
//! Invariant: with `render = "json"` the work of a real sink is done before an output counts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::line::Lines;
use super::preview::Preview;
use super::{Inbox, Message, Sink, SinkError, Surroundings, Uses, give_up};
use crate::config::Fault;
use crate::dead::{Class, Letter};
use crate::output::View;

/// `[sink.NAME.null]`: forgets what it gets; for trying out and for measuring.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What is made of each record before it is forgotten.
    pub render: Render,
}

/// What is made of each record before it is forgotten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Render {
    /// Nothing.
    #[default]
    None,
    /// JSON text, so that decoding is part of what is measured.
    Json,
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

/// A sink of the kind `null`.
#[derive(Debug)]
pub struct Null {
    render: Render,
    surroundings: Surroundings,
}

impl Null {
    /// A sink that forgets.
    pub fn new(config: &Config, surroundings: Surroundings) -> Self {
        Null { render: config.render, surroundings }
    }

    /// Makes of an output what the sink makes of it.
    fn render(&self, view: View<'_>, line: &mut Vec<u8>) -> Result<(), (u32, Letter)> {
        if self.render == Render::None {
            return Ok(());
        }
        let written = Lines::default().write(view, line);
        written.map_err(|message| self.surroundings.letter(view, Class::Decode, "json", message))
    }

    /// See [`Preview`].
    pub fn preview(&self, view: View<'_>) -> Preview {
        self.render(view, &mut Vec::new()).map_or_else(|(_, letter)| Preview::GivenUp(letter), |()| Preview::Forgotten)
    }
}

impl Sink for Null {
    async fn run(self, mut inbox: Inbox) -> Result<(), SinkError> {
        let mut line = Vec::new();
        while let Some(message) = inbox.next().await {
            let Message::Piece(piece) = message else { continue };
            let mut letters = Vec::new();
            if self.render == Render::Json {
                for view in piece.iter() {
                    line.clear();
                    match self.render(view, &mut line) {
                        Ok(()) => _ = self.surroundings.metrics.bytes.inc_by(line.len() as u64),
                        Err(letter) => letters.push(letter),
                    }
                }
            }
            self.surroundings.metrics.outputs.inc_by((piece.len() - letters.len()) as u64);
            give_up(&self.surroundings, &piece, letters);
            piece.token.settle();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::fixture::Route;
    use crate::value::Format;

    #[tokio::test]
    async fn rendering_is_real_work_that_finds_bad_records() {
        for (render, delivered) in [(Render::None, 2), (Render::Json, 1)] {
            let mut route = Route::new(Format::Json);
            let sink = Null::new(&Config { render }, route.surroundings.clone());
            let task = route.start(sink);
            route.send(0, &[(None, Some("{\"a\":1}")), (None, Some("{"))]);
            if render == Render::Json {
                let (value, headers) = route.dead_letter().await;
                assert_eq!((value.as_deref(), &*headers["anabranch.class"]), (Some("{"), "decode"));
            }
            route.settled().await;
            assert_eq!(route.surroundings.metrics.outputs.get(), delivered);
            route.close();
            task.await.unwrap().unwrap();
        }
    }
}
