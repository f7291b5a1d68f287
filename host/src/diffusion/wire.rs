//! The primitive encodings of the protocol: variable-length integers, byte strings, texts.
//!
//! Invariant: bytes from outside never make a reader panic, and never make it reserve more memory than they are long.

use bytes::Bytes;

/// Bytes that are no message of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub struct WireError {
    /// What is wrong.
    pub what: &'static str,
    /// Where in the message.
    pub at: usize,
}

/// Appends 32 bits, 7 a byte, the lowest first; negative numbers take five bytes.
pub fn put_i32(out: &mut Vec<u8>, value: i32) {
    put_u64(out, u64::from(value as u32));
}

/// Appends 64 bits, 7 a byte, the lowest first; negative numbers take ten bytes.
pub fn put_i64(out: &mut Vec<u8>, value: i64) {
    put_u64(out, value as u64);
}

fn put_u64(out: &mut Vec<u8>, mut bits: u64) {
    while bits >= 0x80 {
        out.push(bits as u8 | 0x80);
        bits >>= 7;
    }
    out.push(bits as u8);
}

/// Appends the number of `items`, as it stands before lists and byte strings. No message is as long as 2 GiB.
pub fn put_length(out: &mut Vec<u8>, items: usize) {
    put_i32(out, i32::try_from(items).unwrap_or(i32::MAX));
}

/// Appends a byte string.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Appends a text.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, text.as_bytes());
}

/// Reads a message from its front.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// From the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0 }
    }

    /// How many bytes were read.
    pub fn position(&self) -> usize {
        self.at
    }

    fn wrong<T>(&self, what: &'static str) -> Result<T, WireError> {
        Err(WireError { what, at: self.at })
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `length` bytes.
    ///
    /// # Errors
    /// Where there are fewer.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        if length > self.left() {
            return self.wrong("the message ends too early");
        }
        let taken = &self.bytes[self.at..self.at + length];
        self.at += length;
        Ok(taken)
    }

    /// `N` bytes.
    ///
    /// # Errors
    /// Where there are fewer.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// One byte.
    ///
    /// # Errors
    /// At the end.
    pub fn byte(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// A truth value.
    ///
    /// # Errors
    /// Where the byte is neither 0 nor 1.
    pub fn bool(&mut self) -> Result<bool, WireError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => self.wrong("a truth value that is neither 0 nor 1"),
        }
    }

    /// 32 bits of variable length.
    ///
    /// # Errors
    /// Where they are more.
    pub fn i32(&mut self) -> Result<i32, WireError> {
        let bits = self.bits()?;
        u32::try_from(bits).map(|bits| bits as i32).or_else(|_| self.wrong("an integer beyond 32 bits"))
    }

    /// 64 bits of variable length.
    ///
    /// # Errors
    /// Where they are more.
    pub fn i64(&mut self) -> Result<i64, WireError> {
        self.bits().map(|bits| bits as i64)
    }

    fn bits(&mut self) -> Result<u64, WireError> {
        let mut bits = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                return self.wrong("an integer beyond 64 bits");
            }
            bits |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(bits);
            }
        }
        self.wrong("an integer beyond 64 bits")
    }

    /// How many items follow, each at least one byte long.
    ///
    /// # Errors
    /// Where they cannot all be there.
    pub fn length(&mut self) -> Result<usize, WireError> {
        match usize::try_from(self.i32()?) {
            Ok(length) if length <= self.left() => Ok(length),
            Ok(_) => self.wrong("the message ends too early"),
            Err(_) => self.wrong("a negative length"),
        }
    }

    /// A byte string.
    ///
    /// # Errors
    /// Where it is not there as a whole.
    pub fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let length = self.length()?;
        self.take(length)
    }

    /// A text.
    ///
    /// # Errors
    /// Where it is not there as a whole, or is not UTF-8.
    pub fn text(&mut self) -> Result<&'a str, WireError> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes).or_else(|_| self.wrong("a text that is not UTF-8"))
    }

    /// Nothing may follow.
    ///
    /// # Errors
    /// Where something does.
    pub fn end(&self) -> Result<(), WireError> {
        if self.left() == 0 { Ok(()) } else { self.wrong("bytes are left over") }
    }
}

/// What follows the first `start` bytes, without copying.
pub fn rest(bytes: &Bytes, start: usize) -> Bytes {
    bytes.slice(start.min(bytes.len())..)
}

/// Bytes from hexadecimal text, blanks ignored: for vectors in tests.
#[cfg(test)]
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn integers_have_the_bytes_that_official_clients_send() {
        let cases = [(0, "00"), (127, "7f"), (128, "80 01"), (521, "89 04"), (503, "f7 03"), (9012, "b4 46"), (-1, "ff ff ff ff 0f")];
        for (value, bytes) in cases {
            let mut out = Vec::new();
            put_i32(&mut out, value);
            assert_eq!(out, hex(bytes), "{value}");
            assert_eq!(Reader::new(&out).i32(), Ok(value));
        }
        let mut out = Vec::new();
        put_i64(&mut out, -1);
        assert_eq!(out, hex("ff ff ff ff ff ff ff ff ff 01"));
    }

    #[test]
    fn what_is_too_long_or_too_short_is_refused() {
        assert!(Reader::new(&hex("80 80 80 80 10")).i32().is_err(), "33 bits");
        assert!(Reader::new(&hex("80 80 80 80 80 80 80 80 80 02")).i64().is_err(), "65 bits");
        assert!(Reader::new(&hex("80")).i64().is_err(), "unfinished");
        assert!(Reader::new(&hex("05 61 62")).bytes().is_err(), "more announced than there is");
        assert!(Reader::new(&hex("ff ff ff ff 0f")).bytes().is_err(), "a negative length");
        assert!(Reader::new(&hex("02 c3 28")).text().is_err(), "no UTF-8");
        assert!(Reader::new(&hex("02")).bool().is_err());
        assert!(Reader::new(&hex("00")).end().is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(small: i32, large: i64, text: String) {
            let mut out = Vec::new();
            put_i32(&mut out, small);
            put_i64(&mut out, large);
            put_text(&mut out, &text);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.i32(), Ok(small));
            prop_assert_eq!(reader.i64(), Ok(large));
            prop_assert_eq!(reader.text(), Ok(text.as_str()));
            prop_assert_eq!(reader.end(), Ok(()));
        }
    }
}
