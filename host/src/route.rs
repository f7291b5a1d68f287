//! Routing: what the plugins decided becomes pieces, one per sink and one for the dead letters.
//!
//! Invariant (I4): every piece is owed before the batch's own token is settled, so the batch cannot resolve in between.

use std::sync::Arc;

use crate::ack::Token;
use crate::dead::{DeadLetters, Letter};
use crate::observe::RouteMetrics;
use crate::output::Outputs;
use crate::sink::{Message, Outbox, Piece};

/// Hands outputs to the sinks of a route.
#[derive(Debug, Clone)]
pub struct Router {
    /// Inboxes in the order of the route's `to`.
    pub sinks: Vec<Outbox>,
    /// Where given-up records go.
    pub dead: DeadLetters,
    /// Counters of the route.
    pub metrics: RouteMetrics,
}

impl Router {
    /// Hands over what is left of a batch: its outputs and its dead letters, ordered by record.
    pub fn route(&self, token: Token, outputs: Outputs, letters: &[Letter]) {
        let counts = count(&outputs, letters);
        token.decided(counts.filtered, counts.only_letters);
        self.dead.passed(outputs.batch.len());
        self.metrics.filtered.inc_by(counts.filtered);
        // Their own token holds the offset back; a sink may know better than the offset how far it is.
        let durable = self.dead.give_up(&token, &outputs.batch, letters);
        if !letters.is_empty() {
            self.sinks.iter().for_each(|sink| sink.send(Message::Letters(token.slot(), durable.clone())));
        }
        let outputs = Arc::new(outputs);
        for (index, sink) in self.sinks.iter().enumerate() {
            let Some(members) = members(&outputs, index) else { continue };
            sink.send(Message::Piece(Piece { outputs: outputs.clone(), members, token: token.another() }));
        }
        token.settle();
    }
}

/// The outputs for sink `index`: `Some(None)` all of them, `None` none.
fn members(outputs: &Outputs, index: usize) -> Option<Option<Vec<u32>>> {
    let all = outputs.list.len();
    let chosen = outputs.list.iter().filter(|output| output.sinks.has(index)).count();
    if chosen == 0 {
        return None;
    }
    if chosen == all {
        return Some(None);
    }
    let positions = outputs.list.iter().enumerate().filter(|(_, output)| output.sinks.has(index));
    Some(Some(positions.map(|(position, _)| position as u32).collect()))
}

struct Counts {
    filtered: u64,
    only_letters: u64,
}

fn count(outputs: &Outputs, letters: &[Letter]) -> Counts {
    let mut seen = vec![false; outputs.batch.len()];
    for output in outputs.list.iter().filter(|output| output.sinks.count() > 0) {
        seen[output.input as usize] = true;
    }
    let mut only_letters = 0;
    for letter in letters {
        let seen = &mut seen[letter.record as usize];
        only_letters += u64::from(!*seen);
        *seen = true;
    }
    let filtered = seen.iter().filter(|seen| !**seen).count() as u64;
    Counts { filtered, only_letters }
}
