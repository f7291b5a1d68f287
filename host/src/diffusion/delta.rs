//! Binary deltas: a value as pieces of the one before and new bytes in between.
//!
//! A delta is a sequence of CBOR items: a byte string is inserted; two unsigned integers, start and length, copy from the old value.
//! The single item null stands for "unchanged". Invariant: `apply(old, &make(old, new)) == new`, and a delta that points outside the
//! old value is refused.

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

/// A delta that does not fit the value before it, or is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a delta {0}")]
pub struct DeltaError(&'static str);

/// No value is longer.
const VALUE_BYTES_MAX: usize = 64 << 20;

/// The value after `delta`.
///
/// # Errors
/// Where the delta is broken or does not fit `old`.
pub fn apply(old: &[u8], delta: &[u8]) -> Result<Vec<u8>, DeltaError> {
    if delta == [0xf6] {
        return Ok(old.to_vec());
    }
    let broken = |_| DeltaError("that is no sequence of CBOR items");
    let mut decoder = Decoder::new(delta);
    let mut new = Vec::with_capacity(old.len());
    while decoder.position() < delta.len() {
        let part = match decoder.datatype().map_err(broken)? {
            Type::Bytes => decoder.bytes().map_err(broken)?,
            _ => {
                let (start, length) = (decoder.u32().map_err(broken)? as usize, decoder.u32().map_err(broken)? as usize);
                let range = start..start.saturating_add(length);
                old.get(range).ok_or(DeltaError("that copies from outside the value before it"))?
            }
        };
        // A short delta may copy the whole value again and again.
        if new.len() + part.len() > VALUE_BYTES_MAX {
            return Err(DeltaError("that makes a value beyond 64 MiB"));
        }
        new.extend_from_slice(part);
    }
    Ok(new)
}

/// The delta from `old` to `new`: what both begin and end with is copied, what is between is inserted.
pub fn make(old: &[u8], new: &[u8]) -> Vec<u8> {
    if old == new {
        return vec![0xf6];
    }
    let front = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let back = old[front..].iter().rev().zip(new[front..].iter().rev()).take_while(|(a, b)| a == b).count();
    let mut out = Vec::new();
    copy(&mut out, 0, front);
    let inserted = &new[front..new.len() - back];
    if !inserted.is_empty() {
        // Writing into a Vec cannot fail.
        let _ = Encoder::new(&mut out).bytes(inserted);
    }
    copy(&mut out, old.len() - back, back);
    out
}

fn copy(out: &mut Vec<u8>, start: usize, length: usize) {
    if length > 0 {
        // Writing into a Vec cannot fail.
        let _ = Encoder::new(out).u64(start as u64).and_then(|out| out.u64(length as u64)).map(|_| ());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::diffusion::wire::hex;

    #[test]
    fn a_delta_of_an_official_server_gives_the_new_value() {
        let (old, new) = (hex("bf61610161629ff93e00f6f56178ffff"), hex("bf61610261629ff93e00f6f56178ffff"));
        let delta = hex("00 03 41 02 04 0c");
        assert_eq!(apply(&old, &delta), Ok(new.clone()));
        assert_eq!(make(&old, &new), delta);
        assert_eq!(apply(&old, &hex("f6")), Ok(old.clone()));
    }

    #[test]
    fn a_delta_that_does_not_fit_is_refused() {
        for delta in ["00 04", "04 01", "00", "61 61", "41", "00 1b ffffffffffffffff", "ff"] {
            assert!(apply(b"abc", &hex(delta)).is_err(), "{delta}");
        }
        let copies = hex("00 1a 00100000").repeat(65);
        assert!(apply(&vec![0; 1 << 20], &copies).is_err(), "65 MiB out of 400 bytes");
    }

    proptest! {
        #[test]
        fn what_is_made_gives_the_new_value(old in prop::collection::vec(0u8..3, 0..40), new in prop::collection::vec(0u8..3, 0..40)) {
            // An empty delta stands for an empty value.
            prop_assert_eq!(apply(&old, &make(&old, &new)), Ok(new));
        }

        #[test]
        fn no_bytes_make_it_panic(old: Vec<u8>, delta: Vec<u8>) {
            let _ = apply(&old, &delta);
        }
    }
}
