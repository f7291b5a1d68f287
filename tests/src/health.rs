//! What a router's listener tells from outside: readiness and metrics.
//!
//! Invariant: no answer is `None`, never a panic: a router that starts or ends has no listener.

use crate::block_on;
use crate::process::free_port;

/// The listener of one router.
#[derive(Debug)]
pub struct Health {
    port: u16,
}

impl Default for Health {
    fn default() -> Self {
        Health::new()
    }
}

impl Health {
    /// A listener at a free port; `line` says so in the configuration.
    pub fn new() -> Health {
        Health { port: free_port() }
    }

    /// The line of a configuration that opens it; it stands before all tables.
    pub fn line(&self) -> String {
        format!("listen = \"127.0.0.1:{}\"\n", self.port)
    }

    fn get(&self, path: &str) -> Option<(u16, String)> {
        block_on(async {
            let answer = reqwest::get(format!("http://127.0.0.1:{}{path}", self.port)).await.ok()?;
            Some((answer.status().as_u16(), answer.text().await.ok()?))
        })
    }

    /// Whether every part is ready.
    pub fn is_ready(&self) -> bool {
        self.get("/readyz").is_some_and(|(status, _)| status == 200)
    }

    /// What `/readyz` says where something is not ready and the text names `part`.
    pub fn waits_for(&self, part: &str) -> Option<String> {
        self.get("/readyz").filter(|(status, text)| *status == 503 && text.contains(part)).map(|(_, text)| text)
    }

    /// The value of a metric; `line` is its name with its labels.
    pub fn metric(&self, line: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics")?;
        text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
    }
}
