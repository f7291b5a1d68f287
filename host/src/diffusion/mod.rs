//! The protocol of Diffusion servers, version 25: a client over WebSockets, and a server for tests and the demo.
//!
//! Invariant: what is in the codecs (`wire` to `path`) does no I/O. A lost connection is a lost session: nothing is resumed, whoever
//! waits for answers asks again on a new one.

pub mod code;
pub mod connect;
pub mod delta;
pub mod handshake;
pub mod link;
pub mod message;
pub mod path;
pub mod server;
pub mod service;
pub mod session;
pub mod subscriptions;
#[cfg(test)]
mod tls_tests;
mod upgrade;
pub mod wire;
