//! `anabranch demo`: the router's main job on servers inside this process, with nothing to install.
//!
//! Invariant: the records go the way that `anabranch run` takes them; only the servers around it are stand-ins.

pub mod display;
pub mod orders;
pub mod receiver;
pub mod registry;
pub mod settings;
pub mod shop;
pub mod summary;
pub mod table;

/// The Delta table, within the demo's folder.
pub const TABLE: &str = "lake/orders";
/// The dead letters, within the demo's folder.
pub const DEAD_LETTERS: &str = "dead-letters.jsonl";
/// The configuration, within the demo's folder.
pub const CONFIG: &str = "anabranch.toml";
