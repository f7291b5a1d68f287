//! `anabranch demo`: the router's main job on servers inside this process, with nothing to install.
//!
//! Invariant: the records go the way that `anabranch run` takes them; only the servers around it are stand-ins.

pub mod registry;
