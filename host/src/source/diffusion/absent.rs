//! Topics that were there before a connection was lost and have not come again since.
//!
//! Invariant: one of them is given up only after the server has answered every subscription and had time to tell of it. A topic that
//! is told of later than that comes again with its value, so a tombstone that was too early does not stay the last word.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// How long a server may take to tell of the topics that it has.
const PATIENCE: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub struct Absent {
    paths: HashSet<Arc<str>>,
    due: Option<Instant>,
    patience: Duration,
}

impl Absent {
    /// Nothing is missed.
    pub fn new() -> Self {
        Absent::with_patience(PATIENCE)
    }

    /// The same with another time to tell of topics.
    pub(super) fn with_patience(patience: Duration) -> Self {
        Absent { paths: HashSet::new(), due: None, patience }
    }

    /// A connection is lost, and with it these subscriptions.
    pub fn lost<'a>(&mut self, paths: impl Iterator<Item = &'a Arc<str>>) {
        self.paths.extend(paths.cloned());
        self.due = None;
    }

    /// All subscriptions are answered.
    pub fn answered(&mut self) {
        self.due = Some(Instant::now() + self.patience);
    }

    /// Nothing is read now, so nothing can come.
    pub fn wait(&mut self) {
        if self.due.is_some() {
            self.answered();
        }
    }

    /// A topic came again.
    pub fn came(&mut self, path: &str) {
        self.paths.remove(path);
    }

    /// The topics that are gone.
    pub fn take(&mut self) -> HashSet<Arc<str>> {
        if self.paths.is_empty() || self.due.is_none_or(|due| due > Instant::now()) {
            return HashSet::new();
        }
        std::mem::take(&mut self.paths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_topic_is_gone_when_the_server_had_time_to_tell_of_it() {
        let mut absent = Absent::new();
        absent.lost(["a".into(), "b".into(), "c".into()].iter());
        tokio::time::advance(PATIENCE * 2).await;
        assert_eq!(absent.take(), HashSet::new(), "no subscription is answered");
        absent.answered();
        absent.came("b");
        tokio::time::advance(PATIENCE / 2).await;
        absent.wait();
        tokio::time::advance(PATIENCE / 2).await;
        assert_eq!(absent.take(), HashSet::new(), "nothing could be read meanwhile");
        tokio::time::advance(PATIENCE / 2).await;
        assert_eq!(absent.take(), ["a".into(), "c".into()].into());
        assert_eq!(absent.take(), HashSet::new());
    }
}
