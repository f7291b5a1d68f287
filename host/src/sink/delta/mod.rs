//! Delta sink
pub mod columns;
pub mod commit;
pub mod files;
pub mod ledger;
pub mod read;
pub mod settings;
pub mod table;
#[cfg(test)]
mod tests;
pub mod config;
pub use config::Config;
