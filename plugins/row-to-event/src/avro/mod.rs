//! Rows in Avro: their schemas and their bytes (Avro 1.12).

pub mod rows;
pub mod schema;
pub mod walk;
pub mod wire;
