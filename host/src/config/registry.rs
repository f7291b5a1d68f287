//! `[registry.NAME]`: a schema registry.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::Fault;
use super::secret::Secret;
use super::text::{DurationText, FilePath, HttpUrl};

/// `[registry.NAME]`: where schemas come from.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// Its URL, with a base path where it has one.
    pub url: HttpUrl,
    /// How to log in.
    #[serde(default)]
    pub auth: Option<Auth>,
    /// Certificates for `https`.
    #[serde(default)]
    pub tls: Tls,
    /// Schemas that are kept in memory.
    #[serde(default = "Registry::cache_max")]
    pub cache_max: u32,
    /// How long a request may take before it is tried again.
    #[serde(default = "Registry::timeout")]
    pub timeout: DurationText,
}

impl Registry {
    const fn cache_max() -> u32 {
        10_000
    }

    const fn timeout() -> DurationText {
        DurationText::s(10)
    }

    /// What is wrong beyond single values.
    pub fn check(&self) -> Vec<Fault> {
        let mut faults = self.tls.check();
        if self.cache_max == 0 {
            faults.push(Fault::new("cache_max", "cache_max is 0", "at least one schema has to be kept; leave it out for 10000"));
        }
        if self.timeout.get().is_zero() {
            faults.push(Fault::new("timeout", "timeout is 0", "no answer comes in no time; leave it out for \"10 s\""));
        }
        faults
    }
}

/// How to log in at an HTTP server.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Auth {
    /// User name and password.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: Secret,
    },
    /// A token.
    Bearer {
        /// The token, without the word "Bearer".
        token: Secret,
    },
}

/// Certificates for TLS.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Certificates of the authorities to trust, PEM; without it those of the public web.
    pub ca: Option<FilePath>,
    /// This client's certificate, PEM.
    pub cert: Option<FilePath>,
    /// The key of `cert`, PEM.
    pub key: Option<FilePath>,
}

impl Tls {
    /// Whether the files are there and fit each other; keys are below `tls`.
    pub fn check(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (key, path) in [("tls.ca", &self.ca), ("tls.cert", &self.cert), ("tls.key", &self.key)] {
            if let Some(path) = path
                && let Err(error) = std::fs::File::open(path)
            {
                let wrong = format!("the file {} cannot be read: {error}", path.display());
                faults.push(Fault::new(key, wrong, "name a PEM file that this process may read"));
            }
        }
        match (&self.cert, &self.key) {
            (Some(_), None) => faults.push(Fault::new("tls.cert", "a certificate without its key", "add key = \"PATH\"")),
            (None, Some(_)) => faults.push(Fault::new("tls.key", "a key without its certificate", "add cert = \"PATH\"")),
            _ => {}
        }
        faults
    }
}
