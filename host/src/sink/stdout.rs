//! `stdout`: one line of JSON for each record.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::Fault;

/// `[sink.NAME.stdout]`: one line of JSON for each record on the standard output.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {}

impl Config {
    /// What is wrong beyond single values.
    pub fn check(&self) -> Vec<Fault> {
        Vec::new()
    }
}
