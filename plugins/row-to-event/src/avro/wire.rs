//! Avro's binary encoding: integers, lengths, bytes.
//!
//! Invariant: nothing is read beyond the end, whatever the bytes say.

/// Bytes that are not what their schema says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Where.
    pub at: usize,
    /// What is wrong.
    pub reason: &'static str,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} at byte {}", self.reason, self.at)
    }
}

/// Reads wire types from the front of what is left.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, at: 0 }
    }

    pub fn at(&self) -> usize {
        self.at
    }

    pub fn broken(&self, reason: &'static str) -> Broken {
        Broken { at: self.at, reason }
    }

    /// The bytes between an earlier place and this one.
    pub fn since(&self, start: usize) -> &'a [u8] {
        &self.bytes[start..self.at]
    }

    #[inline]
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], Broken> {
        let Some(taken) = self.bytes[self.at..].get(..length) else { return Err(self.broken("more bytes are announced than there are")) };
        self.at += length;
        Ok(taken)
    }

    /// A zigzag variable-length integer.
    #[inline]
    pub fn long(&mut self) -> Result<i64, Broken> {
        let mut value = 0_u64;
        let mut shift = 0;
        loop {
            let Some(&byte) = self.bytes.get(self.at) else { return Err(self.broken("the bytes end within an integer")) };
            if shift == 63 && byte > 1 {
                return Err(self.broken("an integer has more than 64 bits"));
            }
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
            shift += 7;
        }
    }

    /// A length and as many bytes.
    #[inline]
    pub fn bytes(&mut self) -> Result<&'a [u8], Broken> {
        let length = self.long()?;
        let length = usize::try_from(length).map_err(|_| self.broken("a length is negative"))?;
        self.take(length)
    }

    /// The number of one of `count` branches or symbols.
    #[inline]
    pub fn index(&mut self, count: usize) -> Result<usize, Broken> {
        let index = self.long()?;
        usize::try_from(index).ok().filter(|index| *index < count).ok_or_else(|| self.broken("there is no such branch or symbol"))
    }

    pub fn finish(&self) -> Result<(), Broken> {
        if self.at == self.bytes.len() { Ok(()) } else { Err(self.broken("bytes are left over")) }
    }
}

/// Appends an integer, as `int` and `long` have it.
#[inline]
pub fn write_long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Appends bytes behind their length, as `bytes` and `string` have them.
pub fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    write_long(bytes.len() as i64, out);
    out.extend_from_slice(bytes);
}
