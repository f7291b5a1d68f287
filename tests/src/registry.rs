//! A schema registry with Confluent's API: Apicurio Registry, in memory.
//!
//! Invariant: [`Registry::shared`] is one for all tests of a process, which stay apart by the names of their subjects. A test that stops
//! its registry starts one of its own; started again it is empty and has other ids.

use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::process::{Process, folder, free_port, tail};
use crate::wait::until;
use crate::{artifacts, block_on};

const START_MAX: Duration = Duration::from_secs(120);
const ATTEMPTS_MAX: u32 = 3;

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    process: Process,
    port: u16,
    folder: PathBuf,
}

impl Registry {
    /// The registry that the tests of this process share.
    pub fn shared() -> &'static Registry {
        static SHARED: LazyLock<Registry> = LazyLock::new(Registry::start);
        &SHARED
    }

    /// Starts a registry and waits until it answers.
    ///
    /// # Panics
    /// With the registry's own last words, where it does not start.
    pub fn start() -> Registry {
        for attempt in 1.. {
            match Registry::start_at(free_port()) {
                Ok(registry) => return registry,
                Err(said) if attempt == ATTEMPTS_MAX => panic!("Apicurio Registry does not start; its log ends with:\n{said}"),
                Err(_) => (),
            }
        }
        unreachable!("the last attempt returns or panics")
    }

    /// Starts a registry at this port.
    ///
    /// # Errors
    /// Its last words, where it ends instead.
    pub fn start_at(port: u16) -> Result<Registry, String> {
        let folder = folder("registry");
        let mut registry = Registry { process: launch(&folder, port), port, folder };
        registry.wait_ready()?;
        Ok(registry)
    }

    fn wait_ready(&mut self) -> Result<(), String> {
        let url = format!("{}/subjects", self.url());
        until("Apicurio Registry to start", START_MAX, || {
            if self.process.ended().is_some() {
                return Some(Err(tail(&self.process.stdout, 30) + &tail(&self.process.stderr, 10)));
            }
            block_on(reqwest::get(&url)).is_ok_and(|answer| answer.status().is_success()).then_some(Ok(()))
        })
    }

    /// The URL of its Confluent API.
    pub fn url(&self) -> String {
        url_at(self.port)
    }

    /// Process, for signals such as STOP and CONT: a registry that hangs forgets nothing.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its folder, with its log.
    pub fn folder(&self) -> &PathBuf {
        &self.folder
    }

    /// Registers an Avro schema and returns its id.
    pub fn register(&self, subject: &str, schema: &str) -> u32 {
        self.register_as(subject, &json!({ "schema": schema }))
    }

    /// Sets the rule by which a subject's schemas have to be compatible, such as `BACKWARD`.
    pub fn compatibility(&self, subject: &str, rule: &str) {
        block_on(async {
            let url = format!("{}/config/{subject}", self.url());
            let answer = reqwest::Client::new().put(url).json(&json!({ "compatibility": rule })).send().await.unwrap();
            assert!(answer.status().is_success(), "subject {subject}: the registry answered {answer:?}");
        });
    }

    /// The text of an id's schema.
    pub fn schema(&self, id: u32) -> String {
        block_on(async {
            let answer: Json = reqwest::get(format!("{}/schemas/ids/{id}", self.url())).await.unwrap().json().await.unwrap();
            answer["schema"].as_str().unwrap_or_else(|| panic!("schema {id}: the registry answered {answer}")).to_owned()
        })
    }

    /// Id and text of the last schema of a subject; `None`: there is none.
    pub fn latest(&self, subject: &str) -> Option<(u32, String)> {
        block_on(async {
            let url = format!("{}/subjects/{subject}/versions/latest", self.url());
            let answer: Json = reqwest::get(url).await.unwrap().json().await.unwrap();
            Some((answer["id"].as_u64()? as u32, answer["schema"].as_str()?.to_owned()))
        })
    }

    /// Registers what `body` says (`schema`, `schemaType`, `references`) and returns its id.
    pub fn register_as(&self, subject: &str, body: &Json) -> u32 {
        block_on(async {
            let url = format!("{}/subjects/{subject}/versions", self.url());
            let answer = reqwest::Client::new().post(url).json(body).send().await.unwrap();
            let (status, text) = (answer.status(), answer.text().await.unwrap());
            let id = serde_json::from_str::<Json>(&text).ok().and_then(|answer| answer["id"].as_u64());
            id.unwrap_or_else(|| panic!("subject {subject}: the registry answered {status}: {text}")) as u32
        })
    }
}

/// The URL that a registry at this port has.
pub fn url_at(port: u16) -> String {
    format!("http://127.0.0.1:{port}/apis/ccompat/v7")
}

/// A value with the registry's prefix: a zero, the schema's id, then the bytes.
pub fn framed(id: u32, bytes: &[u8]) -> Vec<u8> {
    [&[0], id.to_be_bytes().as_slice(), bytes].concat()
}

fn launch(folder: &std::path::Path, port: u16) -> Process {
    let mut java = Command::new("java");
    java.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-jar"]);
    java.arg(artifacts::registry().join("apicurio-registry-app-3.0.9-runner.jar"));
    java.env("QUARKUS_HTTP_HOST", "127.0.0.1").env("QUARKUS_HTTP_PORT", port.to_string());
    java.env("QUARKUS_MANAGEMENT_HOST", "127.0.0.1").env("QUARKUS_MANAGEMENT_PORT", free_port().to_string());
    Process::start("registry", java.current_dir(folder), folder)
}
