//! `null`: counts records as delivered and forgets them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::Fault;

/// `[sink.NAME.null]`: forgets what it gets; for trying out and for measuring.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {}

impl Config {
    /// What is wrong beyond single values.
    pub fn check(&self) -> Vec<Fault> {
        Vec::new()
    }
}
