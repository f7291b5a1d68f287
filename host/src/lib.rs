//! Anabranch reads Kafka topics, lets WebAssembly components decide what becomes of each record, and delivers to sinks.
//!
//! The modules stand in the order of a record's way; `pipeline` shows the whole of it on one screen.

pub mod ack;
pub mod batch;
pub mod breaker;
pub mod cli;
pub mod config;
pub mod connect;
pub mod dead;
pub mod decode;
pub mod demo;
pub mod diffusion;
#[cfg(test)]
mod fuzz;
pub mod observe;
pub mod ordered;
pub mod output;
pub mod pipeline;
pub mod plugin;
pub mod registry;
pub mod route;
pub mod run;
pub mod schemas;
pub mod sink;
pub mod source;
pub mod stop;
pub mod tryout;
pub mod value;
pub mod worker;
