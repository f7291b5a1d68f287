//! The request that a record would become, alone.
//!
//! Invariant: headers with secrets are named, their values never shown.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use reqwest::header::{HeaderMap, HeaderValue};

use super::client;
use super::config::{Config, Tombstone};
use super::request::{Held, Item, Requests, Shape};
use crate::output::Outputs;
use crate::sink::preview::Preview;
use crate::sink::{SinkError, Surroundings};

/// Shows requests instead of sending them.
pub struct Previewer {
    requests: Requests,
    common: HeaderMap,
    skip_tombstones: bool,
}

impl Previewer {
    /// Asks nothing of the host.
    ///
    /// # Errors
    /// As [`super::Http::new`].
    pub fn new(config: &Config, surroundings: Surroundings) -> Result<Self, SinkError> {
        let refused = |reason| SinkError::Configuration { sink: surroundings.sink.clone(), reason };
        let requests = client::requests(config, &surroundings).map_err(refused)?;
        let common = client::headers(config).map_err(refused)?;
        Ok(Previewer { requests, common, skip_tombstones: config.tombstone == Tombstone::Skip })
    }

    /// See [`Preview`].
    pub fn show(&self, outputs: &Arc<Outputs>, index: usize) -> Preview {
        if outputs.view(index).value().is_none() && self.skip_tombstones {
            return Preview::Skipped("a tombstone, and `tombstone` of the sink is \"skip\"".to_owned());
        }
        let held = Arc::new(Held { number: 0, outputs: outputs.clone(), abandoned: AtomicBool::new(false) });
        let mut ended = Vec::new();
        let rendered = self.requests.render(&mut vec![Item { held, index: index as u32 }], &mut ended);
        let Some(rendered) = rendered else {
            let letter = ended.into_iter().find_map(|ended| ended.letter);
            return letter.map_or(Preview::Forgotten, |given_up| Preview::GivenUp(given_up.1));
        };
        let mut headers: Vec<(String, String)> = rendered.headers.iter().map(|(name, value)| (name.to_string(), shown(value))).collect();
        // The client adds its own only where the request has none of that name.
        let common = self.common.iter().filter(|(name, _)| !rendered.headers.contains_key(*name));
        headers.extend(common.map(|(name, value)| (name.to_string(), shown(value))));
        Preview::Request {
            method: self.requests.method.to_string(),
            url: rendered.url.to_string(),
            headers,
            body: rendered.body.to_vec(),
            batched: self.requests.shape != Shape::Single,
        }
    }
}

fn shown(value: &HeaderValue) -> String {
    if value.is_sensitive() { "(secret)".to_owned() } else { String::from_utf8_lossy(value.as_bytes()).into_owned() }
}
