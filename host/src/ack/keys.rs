//! Keys of dead letters: what is known of a partition where later records of such a key must not go on.
//!
//! Invariant: a key counts behind the offset of its dead letter only, and goes with the group's committed offset: a partition that is
//! read again, by whomever, is decided alike.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

/// By digest of the key, the offset of its first dead letter.
pub type DeadKeys = BTreeMap<u64, i64>;

/// Most keys of one partition: what brokers take beside an offset has room for so many, and for ledgers.
pub const DEAD_KEYS_MAX: usize = 64;

/// Stands for a key, in every process and version: the first eight bytes of its SHA-256.
pub fn digest(key: &[u8]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..]: [u8; 32] = Sha256::digest(key).into();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}
