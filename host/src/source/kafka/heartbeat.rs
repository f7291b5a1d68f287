//! A sign of life of the control thread: librdkafka's own clock does not notice when it hangs, since every read resets it.
//!
//! Invariant: whoever looks is told once per silence, and once when it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Beaten by the control thread, looked at by somebody else; clones share it.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    began: Instant,
    beaten_ms: Arc<AtomicU64>,
}

/// What is to be said of it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// No beat for so long.
    Silent(Duration),
    /// It beats again.
    Back,
}

/// Looks at a heartbeat.
#[derive(Debug)]
pub struct Watch {
    heartbeat: Heartbeat,
    limit: Duration,
    silent: bool,
}

impl Heartbeat {
    /// A first beat, now.
    pub fn new() -> Self {
        Heartbeat { began: Instant::now(), beaten_ms: Arc::default() }
    }

    /// Still alive.
    pub fn beat(&self) {
        self.beaten_ms.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// A watch that finds silences longer than `limit`.
    pub fn watch(&self, limit: Duration) -> Watch {
        Watch { heartbeat: self.clone(), limit, silent: false }
    }
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self::new()
    }
}

impl Watch {
    /// What has changed since the last look.
    pub fn look(&mut self) -> Option<Change> {
        let beaten = Duration::from_millis(self.heartbeat.beaten_ms.load(Ordering::Relaxed));
        let silence = self.heartbeat.began.elapsed().saturating_sub(beaten);
        let silent = silence > self.limit;
        if silent == self.silent {
            return None;
        }
        self.silent = silent;
        Some(if silent { Change::Silent(silence) } else { Change::Back })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silence_is_told_once_and_so_is_its_end() {
        let heartbeat = Heartbeat::new();
        let mut watch = heartbeat.watch(Duration::from_secs(60));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(watch.look(), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(watch.look(), Some(Change::Silent(Duration::from_secs(61))));
        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!(watch.look(), None);
        heartbeat.beat();
        assert_eq!(watch.look(), Some(Change::Back));
    }
}
