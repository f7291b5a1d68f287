//! The Avro walker (Avro 1.12, binary encoding).
//!
//! Invariant: it reads exactly one value and fails where bytes are left over, lengths do not fit, or nesting exceeds its bound.

use super::schema::{Logical, Node, NodeId, Schema, Shape};
use super::walk::{Events, Scalar};
use super::{DECIMAL_BYTES_MAX, DEPTH_MAX, DecodeError, EMPTY_ITEMS_MAX, SCALE_MAX};

/// Reads wire types from the front of what is left.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Parts so far that took no bytes.
    empty: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, at: 0, empty: 0 }
    }

    pub fn at(&self) -> usize {
        self.at
    }

    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn error(&self, reason: impl Into<String>) -> DecodeError {
        DecodeError::new(self.at, reason)
    }

    #[inline]
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        if length > self.left() {
            return Err(self.error(format!("{length} bytes are announced, {} are left", self.left())));
        }
        let taken = &self.bytes[self.at..self.at + length];
        self.at += length;
        Ok(taken)
    }

    /// A zigzag variable-length integer.
    #[inline]
    pub fn long(&mut self) -> Result<i64, DecodeError> {
        let mut value = 0_u64;
        let mut shift = 0;
        loop {
            let Some(&byte) = self.bytes.get(self.at) else { return Err(self.error("the bytes end within an integer")) };
            if shift == 63 && byte > 1 {
                return Err(self.error("an integer has more than 64 bits"));
            }
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
            shift += 7;
        }
    }

    #[inline]
    pub fn int(&mut self) -> Result<i32, DecodeError> {
        let at = self.at;
        let value = self.long()?;
        i32::try_from(value).map_err(|_| DecodeError::new(at, format!("{value} is no 32-bit integer")))
    }

    #[inline]
    pub fn boolean(&mut self) -> Result<bool, DecodeError> {
        match self.take(1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            other => Err(DecodeError::new(self.at - 1, format!("{:#04x} is no boolean", other[0]))),
        }
    }

    #[inline]
    pub fn float(&mut self) -> Result<f32, DecodeError> {
        let bytes = self.take(4)?;
        Ok(f32::from_le_bytes(bytes.try_into().unwrap_or_default()))
    }

    #[inline]
    pub fn double(&mut self) -> Result<f64, DecodeError> {
        let bytes = self.take(8)?;
        Ok(f64::from_le_bytes(bytes.try_into().unwrap_or_default()))
    }

    #[inline]
    pub fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let at = self.at;
        let length = self.long()?;
        let length = usize::try_from(length).map_err(|_| DecodeError::new(at, format!("a length of {length}")))?;
        self.take(length)
    }

    #[inline]
    pub fn string(&mut self) -> Result<&'a str, DecodeError> {
        let bytes = self.bytes()?;
        let at = self.at - bytes.len();
        std::str::from_utf8(bytes).map_err(|error| DecodeError::new(at + error.valid_up_to(), "text is not UTF-8"))
    }

    /// The branch of a union, or the symbol of an enum.
    #[inline]
    pub fn index(&mut self, count: usize, what: &str) -> Result<usize, DecodeError> {
        let at = self.at;
        let index = self.long()?;
        match usize::try_from(index) {
            Ok(index) if index < count => Ok(index),
            _ => Err(DecodeError::new(at, format!("{what} {index} of {count}"))),
        }
    }

    /// The next block of an array or a map; of no items at its end. `item_bytes_min`: fewest bytes of an item.
    pub fn block(&mut self, item_bytes_min: usize, seen: usize) -> Result<Block, DecodeError> {
        let at = self.at;
        let mut end = None;
        let mut count = self.long()?;
        if count < 0 {
            count = count.checked_neg().ok_or_else(|| DecodeError::new(at, "a block of too many items"))?;
            let size = self.long()?;
            match usize::try_from(size) {
                Ok(size) if size <= self.left() => end = Some(self.at + size),
                _ => return Err(DecodeError::new(at, format!("a block of {size} bytes is announced, {} are left", self.left()))),
            }
        }
        let items = usize::try_from(count).unwrap_or(usize::MAX);
        let fits = match item_bytes_min {
            0 => items.saturating_add(seen) <= EMPTY_ITEMS_MAX,
            least => items <= self.left() / least,
        };
        if !fits {
            return Err(DecodeError::new(at, format!("{count} items are announced, more than can be left")));
        }
        Ok(Block { count: items, end })
    }

    /// Behind the items of a block. Whoever passes over the block believes its size, so whoever reads the items must not find another.
    pub fn end_block(&self, block: &Block) -> Result<(), DecodeError> {
        match block.end {
            Some(end) if end != self.at => Err(self.error(format!("a block of items ends here, it was to end at byte {end}"))),
            _ => Ok(()),
        }
    }

    /// Counts a part that takes no bytes: a record of such records is twice as large with each level of its schema.
    pub fn nothing(&mut self) -> Result<(), DecodeError> {
        self.empty += 1;
        // A null of a union has the byte of its branch.
        if self.empty > EMPTY_ITEMS_MAX + self.at {
            return Err(self.error(format!("more than {EMPTY_ITEMS_MAX} parts that take no bytes")));
        }
        Ok(())
    }

    pub fn finish(&self) -> Result<(), DecodeError> {
        if self.left() == 0 { Ok(()) } else { Err(self.error(format!("{} bytes are left over", self.left()))) }
    }
}

/// A block of an array or a map.
pub struct Block {
    /// How many items it has; 0: there is no further block.
    pub count: usize,
    /// Where it ends, if it says so.
    end: Option<usize>,
}

/// Reads the whole of a value.
pub fn walk(schema: &Schema, bytes: &[u8], events: &mut impl Events) -> Result<(), DecodeError> {
    let mut cursor = Cursor::new(bytes);
    node(schema.nodes(), 0, &mut cursor, events, 0)?;
    cursor.finish()
}

/// Reads one node's value.
pub fn node(nodes: &[Node], at: NodeId, cursor: &mut Cursor<'_>, events: &mut impl Events, depth: usize) -> Result<(), DecodeError> {
    if depth > DEPTH_MAX {
        return Err(cursor.error(format!("it nests deeper than {DEPTH_MAX}")));
    }
    let this = &nodes[at as usize];
    if this.bytes_min == 0 {
        cursor.nothing()?;
    }
    match &this.shape {
        Shape::Array(item) => {
            events.begin_array();
            let least = nodes[*item as usize].bytes_min;
            let mut seen = 0;
            loop {
                let block = cursor.block(least, seen)?;
                if block.count == 0 {
                    break;
                }
                for _ in 0..block.count {
                    events.item();
                    node(nodes, *item, cursor, events, depth + 1).map_err(|error| error.within(&seen.to_string()))?;
                    seen += 1;
                }
                cursor.end_block(&block)?;
            }
            events.end_array();
        }
        Shape::Map(value) => {
            events.begin_map();
            let least = nodes[*value as usize].bytes_min.saturating_add(1);
            loop {
                let block = cursor.block(least, 0)?;
                if block.count == 0 {
                    break;
                }
                for _ in 0..block.count {
                    let name = cursor.string()?;
                    events.name(name);
                    node(nodes, *value, cursor, events, depth + 1).map_err(|error| error.within(name))?;
                }
                cursor.end_block(&block)?;
            }
            events.end_map();
        }
        Shape::Union(branches) => {
            let branch = cursor.index(branches.len(), "branch")?;
            node(nodes, branches[branch], cursor, events, depth + 1)?;
        }
        Shape::Record(fields) => {
            events.begin_map();
            for field in fields {
                events.name(&field.name);
                node(nodes, field.node, cursor, events, depth + 1).map_err(|error| error.within(&field.name))?;
            }
            events.end_map();
        }
        _ => events.scalar(scalar(this, cursor)?),
    }
    Ok(())
}

/// Reads a value that is no container.
#[inline]
pub fn scalar<'a, 'b: 'a>(node: &'a Node, cursor: &mut Cursor<'b>) -> Result<Scalar<'a>, DecodeError> {
    Ok(match (&node.shape, node.logical) {
        (Shape::Null, _) => Scalar::Null,
        (Shape::Boolean, _) => Scalar::Bool(cursor.boolean()?),
        (Shape::Int, logical) => with_meaning(cursor.int()?.into(), logical),
        (Shape::Long, logical) => with_meaning(cursor.long()?, logical),
        (Shape::Float, _) => Scalar::Float(cursor.float()?),
        (Shape::Double, _) => Scalar::Double(cursor.double()?),
        (Shape::Bytes, Logical::Decimal { scale, .. }) => Scalar::Decimal(unscaled(cursor.bytes()?, cursor)?, scale),
        (Shape::Bytes, Logical::BigDecimal) => {
            let bytes = cursor.bytes()?;
            let mut inner = Cursor::new(bytes);
            let number = unscaled(inner.bytes()?, cursor)?;
            let scale = inner.long()?;
            inner.finish()?;
            if scale.unsigned_abs() > SCALE_MAX {
                return Err(cursor.error(format!("a decimal of scale {scale}")));
            }
            Scalar::Decimal(number, scale)
        }
        (Shape::Bytes, _) => Scalar::Bytes(cursor.bytes()?),
        (Shape::String, Logical::Uuid) => {
            let text = cursor.string()?;
            match uuid::Uuid::try_parse(text) {
                Ok(uuid) => Scalar::Uuid(uuid.into_bytes()),
                // Other spellings are kept as they are.
                Err(_) => Scalar::Text(text),
            }
        }
        (Shape::String, _) => Scalar::Text(cursor.string()?),
        (Shape::Fixed(size), Logical::Decimal { scale, .. }) => Scalar::Decimal(unscaled(cursor.take(*size)?, cursor)?, scale),
        (Shape::Fixed(size), Logical::Uuid) => Scalar::Uuid(cursor.take(*size)?.try_into().unwrap_or_default()),
        (Shape::Fixed(size), Logical::Duration) => {
            let bytes = cursor.take(*size)?;
            let part = |from: usize| u32::from_le_bytes(bytes[from..from + 4].try_into().unwrap_or_default());
            Scalar::Duration(part(0), part(4), part(8))
        }
        (Shape::Fixed(size), _) => Scalar::Bytes(cursor.take(*size)?),
        (Shape::Enum(symbols), _) => Scalar::Text(&symbols[cursor.index(symbols.len(), "symbol")?]),
        (Shape::Array(_) | Shape::Map(_) | Shape::Union(_) | Shape::Record(_), _) => Scalar::Null,
    })
}

#[inline]
fn unscaled<'b>(bytes: &'b [u8], cursor: &Cursor<'_>) -> Result<&'b [u8], DecodeError> {
    if bytes.len() > DECIMAL_BYTES_MAX {
        return Err(cursor.error(format!("a decimal of {} bytes, at most {DECIMAL_BYTES_MAX}", bytes.len())));
    }
    Ok(bytes)
}

#[inline]
fn with_meaning<'a>(value: i64, logical: Logical) -> Scalar<'a> {
    match logical {
        Logical::Date => Scalar::Date(value),
        Logical::Time(unit) => Scalar::Time(value, unit),
        Logical::Timestamp(unit, utc) => Scalar::Timestamp(value, unit, utc),
        _ => Scalar::Int(value),
    }
}

/// Passes over one node's value.
pub fn skip(nodes: &[Node], at: NodeId, cursor: &mut Cursor<'_>, depth: usize) -> Result<(), DecodeError> {
    if depth > DEPTH_MAX {
        return Err(cursor.error(format!("it nests deeper than {DEPTH_MAX}")));
    }
    if nodes[at as usize].bytes_min == 0 {
        cursor.nothing()?;
    }
    match &nodes[at as usize].shape {
        Shape::Null => Ok(()),
        Shape::Boolean => cursor.take(1).map(drop),
        Shape::Int | Shape::Long | Shape::Enum(_) => cursor.long().map(drop),
        Shape::Float => cursor.take(4).map(drop),
        Shape::Double => cursor.take(8).map(drop),
        Shape::Bytes | Shape::String => cursor.bytes().map(drop),
        Shape::Fixed(size) => cursor.take(*size).map(drop),
        Shape::Union(branches) => {
            let branch = cursor.index(branches.len(), "branch")?;
            skip(nodes, branches[branch], cursor, depth + 1)
        }
        Shape::Record(fields) => {
            for field in fields {
                skip(nodes, field.node, cursor, depth + 1).map_err(|error| error.within(&field.name))?;
            }
            Ok(())
        }
        Shape::Array(item) | Shape::Map(item) => {
            let map = matches!(nodes[at as usize].shape, Shape::Map(_));
            let least = nodes[*item as usize].bytes_min.saturating_add(usize::from(map));
            let mut seen = 0;
            loop {
                let mut ahead = cursor.clone();
                if ahead.long()? < 0 {
                    // The writer says how many bytes the block has.
                    let _ = cursor.long()?;
                    cursor.bytes()?;
                    continue;
                }
                let count = cursor.block(least, seen)?.count;
                if count == 0 {
                    return Ok(());
                }
                for _ in 0..count {
                    if map {
                        cursor.bytes()?;
                    }
                    skip(nodes, *item, cursor, depth + 1)?;
                }
                seen += count;
            }
        }
    }
}
