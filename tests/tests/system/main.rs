//! System tests: the real binary between Apache Kafka, a schema registry and whoever takes what it delivers.
#![allow(clippy::unwrap_used, reason = "tests")]

mod dead_letters;
mod diffusion;
mod diffusion_source;
mod every_type;
mod exactly_once;
mod formats;
mod group;
mod kafka_sink;
mod kills;
mod odd_topics;
mod outages;
mod outside;
mod rebalance;
mod receiver_down;
mod registry_down;
mod security;
mod servers;
mod setup;
mod sinks;
mod stopping;
mod table_down;
mod topic_changes;
