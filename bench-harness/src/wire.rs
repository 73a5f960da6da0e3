//! Primitives of the Kafka wire format (non-flexible versions): a writer and a bounds-checked reader.
//!
//! Owner: the whole crate. Invariant: `Reader` never reads past its slice and never allocates by a length
//! it has not checked. Must not: know any API; do I/O.

use crate::error::{Result, protocol};

/// Appends big-endian Kafka primitives to a buffer.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    /// The bytes so far.
    pub(crate) bytes: Vec<u8>,
}

impl Writer {
    /// An empty writer.
    pub(crate) fn new() -> Self {
        Self::default()
    }
    /// INT8.
    pub(crate) fn i8(&mut self, value: i8) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_be_bytes());
        self
    }
    /// INT16.
    pub(crate) fn i16(&mut self, value: i16) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_be_bytes());
        self
    }
    /// INT32.
    pub(crate) fn i32(&mut self, value: i32) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_be_bytes());
        self
    }
    /// INT64.
    pub(crate) fn i64(&mut self, value: i64) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_be_bytes());
        self
    }
    /// An INT32 length or element count.
    ///
    /// # Panics
    /// If the count exceeds `i32::MAX`: our own mistake, every caller is bounded by `limits`.
    pub(crate) fn count(&mut self, value: usize) -> &mut Self {
        self.i32(i32::try_from(value).expect("counts are bounded by limits"))
    }
    /// STRING.
    ///
    /// # Panics
    /// If the text exceeds `i16::MAX` bytes; names come from flags that were checked.
    pub(crate) fn string(&mut self, value: &str) -> &mut Self {
        self.i16(i16::try_from(value.len()).expect("strings are short"));
        self.bytes.extend_from_slice(value.as_bytes());
        self
    }
    /// NULLABLE_STRING, null.
    pub(crate) fn null_string(&mut self) -> &mut Self {
        self.i16(-1)
    }
}

/// Reads big-endian Kafka primitives from a slice.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }
    /// Bytes not read yet.
    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len()
    }
    /// The next `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (head, rest) = self
            .bytes
            .split_at_checked(count)
            .ok_or_else(|| protocol(format!("{count} bytes wanted, {} left", self.bytes.len())))?;
        self.bytes = rest;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }
    /// INT8.
    pub(crate) fn i8(&mut self) -> Result<i8> {
        Ok(i8::from_be_bytes(self.array()?))
    }
    /// INT16.
    pub(crate) fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(self.array()?))
    }
    /// INT32.
    pub(crate) fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }
    /// INT64.
    pub(crate) fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_be_bytes(self.array()?))
    }
    /// An array's element count; a null array counts as empty. `element_bytes_min` bounds it by what is left.
    pub(crate) fn count(&mut self, element_bytes_min: usize) -> Result<usize> {
        let count = usize::try_from(self.i32()?).unwrap_or(0);
        if count.saturating_mul(element_bytes_min.max(1)) > self.bytes.len() {
            return Err(protocol(format!("array of {count} elements in {} bytes", self.bytes.len())));
        }
        Ok(count)
    }
    /// STRING or NULLABLE_STRING.
    pub(crate) fn string(&mut self) -> Result<Option<&'a str>> {
        let Ok(length) = usize::try_from(self.i16()?) else { return Ok(None) };
        std::str::from_utf8(self.take(length)?).map(Some).map_err(|_| protocol("string is not UTF-8"))
    }
    /// A zigzag VARLONG of at most ten bytes.
    pub(crate) fn varlong(&mut self) -> Result<i64> {
        let mut raw = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.take(1)?[0];
            raw |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok((raw >> 1) as i64 ^ -((raw & 1) as i64));
            }
        }
        Err(protocol("varint longer than ten bytes"))
    }
}

/// Appends a zigzag VARLONG (the record format's only integer).
pub(crate) fn put_varlong(out: &mut Vec<u8>, value: i64) {
    let mut raw = ((value << 1) ^ (value >> 63)) as u64;
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varlongs_come_back() {
        for value in [0, -1, 1, 63, 64, -65, 300, i64::from(i32::MAX), i64::MIN, i64::MAX] {
            let mut bytes = Vec::new();
            put_varlong(&mut bytes, value);
            assert_eq!(Reader::new(&bytes).varlong().unwrap(), value);
        }
    }

    #[test]
    fn lengths_beyond_the_slice_are_errors() {
        assert!(Reader::new(&[0, 9, b'a']).string().is_err());
        assert!(Reader::new(&[0x7f, 0xff, 0xff, 0xff]).count(4).is_err());
        assert!(Reader::new(&[0xff; 11]).varlong().is_err());
        assert_eq!(Reader::new(&[0xff; 2]).string().unwrap(), None);
    }
}
