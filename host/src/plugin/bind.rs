//! The contract as Rust types.

#![allow(missing_docs, clippy::all, reason = "made by a macro")]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "plugin",
});
