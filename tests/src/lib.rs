//! Real servers for the system tests, and the real binary between them.
//!
//! Invariant: whatever is started here ends with the test process, however that ends, and every wait has a deadline.
#![allow(clippy::unwrap_used, reason = "tests: what goes wrong here has to fail them")]

pub mod artifacts;
pub mod avro;
pub mod between;
pub mod diffusion;
pub mod health;
pub mod kafka;
pub mod other_writer;
pub mod process;
pub mod receiver;
pub mod registry;
pub mod router;
pub mod security;
pub mod table;
pub mod topic;
pub mod volume;
pub mod wait;

use std::sync::LazyLock;

use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());

/// Waits for a future. Tests are plain functions: they wait for other processes.
pub fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}

/// Runs a future beside the test, until it is aborted.
pub fn spawn(future: impl Future<Output: Send + 'static> + Send + 'static) -> AbortHandle {
    RUNTIME.spawn(future).abort_handle()
}

/// The seed of a random test: `ANABRANCH_SEED`, or a new one. It is printed, so that a failure tells how to repeat it.
pub fn seed() -> u64 {
    let seed = match std::env::var("ANABRANCH_SEED") {
        Ok(text) => text.parse().expect("ANABRANCH_SEED is a number"),
        Err(_) => fastrand::u64(..1_000_000),
    };
    eprintln!("seed: repeat with ANABRANCH_SEED={seed}");
    seed
}
