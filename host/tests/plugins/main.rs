//! The plugin boundary with real components: what plugins may do, and what becomes of those that misbehave.

mod boundary;
mod hostile;
mod memory;
mod raw;
mod support;
