//! Kafka: consumer group, batched reads, rebalances, rewinds.
//!
//! `control` decides what is read, `reader` reads it through `queue`; between the two stands `fence`.

pub mod client;
pub mod control;
pub mod fence;
pub mod queue;
pub mod reader;
pub mod start;
