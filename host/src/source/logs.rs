//! What sinks may ask about the logs that their records come from: which topic it is, and where a partition ends.
//!
//! Invariant: an answer is the broker's, or there is none; nothing is guessed.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Asks where a partition ends: behind its last record. It may block.
pub type AskEnd = dyn Fn(&str, i32) -> Result<i64, String> + Send + Sync;

#[derive(Default)]
struct State {
    ids: HashMap<String, Arc<str>>,
    ask: Option<Arc<AskEnd>>,
}

/// See the module; clones share it.
#[derive(Clone, Default)]
pub struct Logs(Arc<Mutex<State>>);

impl std::fmt::Debug for Logs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Logs").field("ids", &self.0.lock().ids).finish_non_exhaustive()
    }
}

impl Logs {
    /// The id that the broker gave the topic when it was made; `None`: the broker gives none.
    pub fn topic_id(&self, topic: &str) -> Option<Arc<str>> {
        self.0.lock().ids.get(topic).cloned()
    }

    /// A topic whose id is another now: it was deleted and made anew.
    pub fn changed<'a>(&self, now: impl IntoIterator<Item = (&'a String, &'a String)>) -> Option<&'a str> {
        let state = self.0.lock();
        let other = now.into_iter().find(|(topic, id)| state.ids.get(*topic).is_some_and(|then| **then != ***id));
        other.map(|(topic, _)| topic.as_str())
    }

    /// The broker says these ids.
    pub fn set_topic_ids(&self, ids: impl IntoIterator<Item = (String, String)>) {
        self.0.lock().ids.extend(ids.into_iter().map(|(topic, id)| (topic, id.into())));
    }

    /// Who is asked for ends from now on.
    pub fn ask(&self, ask: Option<Arc<AskEnd>>) {
        self.0.lock().ask = ask;
    }

    /// Where a partition ends now. `None`: there is nobody to ask.
    ///
    /// # Errors
    /// Inside, where the broker does not answer.
    pub async fn end(&self, topic: &str, partition: i32) -> Option<Result<i64, String>> {
        let ask = self.0.lock().ask.clone()?;
        let topic = topic.to_owned();
        let asked = tokio::task::spawn_blocking(move || ask(&topic, partition)).await;
        Some(asked.unwrap_or_else(|error| Err(error.to_string())))
    }
}
