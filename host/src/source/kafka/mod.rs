//! Kafka: consumer group, batched reads, rebalances, rewinds.
//!
//! `group` keeps the membership, `begin` says where partitions begin, `control` keeps all of it going; `reader` reads through `queue`.
//! Between control and reader stands `fence`.

pub mod begin;
pub mod client;
pub mod control;
mod feed;
pub mod fence;
pub mod group;
pub mod heartbeat;
pub mod member;
pub mod native;
pub mod queue;
pub mod reader;
pub mod relief;
pub mod start;

#[cfg(test)]
mod tests;
