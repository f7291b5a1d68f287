//! The plugin boundary with real components: what plugins may do, and what becomes of those that misbehave.

#![allow(clippy::unwrap_used, reason = "tests")]

mod boundary;
mod bundled;
mod hostile;
mod memory;
mod raw;
mod support;
