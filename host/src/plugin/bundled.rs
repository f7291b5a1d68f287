//! Components inside the binary.

include!(concat!(env!("OUT_DIR"), "/bundled.rs"));

/// Names and contents of the components that were there when the host was built; `make plugins` builds them.
pub fn bundled() -> &'static [(&'static str, &'static [u8])] {
    BUNDLED
}
