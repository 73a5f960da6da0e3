//! The primitive types of the Kafka protocol, read from a slice and written to a `Vec<u8>`.
//!
//! Owner: nobody; pure. Spec: Kafka protocol guide, "Protocol Primitive Types"; KIP-482 for the compact forms and
//! tagged fields.
//!
//! Invariants: a [`Reader`] never reads past its slice, and hands out a count or a length only after checking that
//! the bytes it stands for remain. Strings and bytes are borrowed, never copied.
//!
//! Must not: allocate while reading (except [`TopicRef::to_key`], which says so), panic on input.

use std::sync::Arc;

use uuid::Uuid;

/// Tagged fields one struct may carry. The protocol defines at most three for any struct we read; the rest is
/// room for the future, and a bound for what a hostile frame can make us loop over.
pub const TAGGED_FIELDS_PER_STRUCT_MAX: u32 = 64;

/// What can be wrong with bytes that claim to be a Kafka request. Small and `Copy`: it is made on the hot path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field, string or array needs more bytes than the frame still has.
    #[error("truncated: {needed} bytes needed, {remaining} remain")]
    Truncated {
        /// Bytes the field would take.
        needed: usize,
        /// Bytes left in the frame.
        remaining: usize,
    },
    /// A length below -1.
    #[error("negative length {0}")]
    NegativeLength(i32),
    /// A null where the schema allows none.
    #[error("null is not allowed here")]
    UnexpectedNull,
    /// A varint longer than its type.
    #[error("malformed varint")]
    Varint,
    /// A string that is not UTF-8.
    #[error("string is not UTF-8")]
    Utf8,
    /// More elements than the named limit of this request allows.
    #[error("more than {limit} elements")]
    TooManyElements {
        /// The limit that was crossed.
        limit: usize,
    },
    /// A tagged field whose content does not fill the size it declares, or too many tagged fields.
    #[error("malformed tagged field")]
    TaggedField,
    /// A version this code has no schema for.
    #[error("api key {api_key} version {version} is not supported")]
    UnsupportedVersion {
        /// The request's api key.
        api_key: i16,
        /// The request's api version.
        version: i16,
    },
}

/// A topic as a request names it: by name in old versions, by id in new ones. Borrows from the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TopicRef<'a> {
    /// Topic name; not validated against Kafka's legal characters.
    Name(&'a str),
    /// Topic id (KIP-516).
    Id(Uuid),
}

impl TopicRef<'_> {
    /// An owned copy; allocates for names.
    pub fn to_key(&self) -> TopicKey {
        match self {
            TopicRef::Name(name) => TopicKey::Name(Arc::from(*name)),
            TopicRef::Id(id) => TopicKey::Id(*id),
        }
    }
}

/// The owned form of [`TopicRef`]: cheap to clone, may cross cores, usable as a map key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TopicKey {
    /// Topic name.
    Name(Arc<str>),
    /// Topic id.
    Id(Uuid),
}

impl TopicKey {
    /// The borrowed form, as the encoders take it.
    pub fn as_topic_ref(&self) -> TopicRef<'_> {
        match self {
            TopicKey::Name(name) => TopicRef::Name(name),
            TopicKey::Id(id) => TopicRef::Id(*id),
        }
    }
}

/// A bounds-checked cursor over one request. `flexible` in its methods selects the compact encoding (KIP-482).
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    buf: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the start of `buf`.
    pub fn new(buf: &'a [u8]) -> Self {
        Reader { buf, position: 0 }
    }

    /// Bytes consumed so far: the offset of the next field in the slice given to [`Reader::new`].
    pub fn position(&self) -> usize {
        self.position
    }

    /// Bytes not yet consumed.
    pub fn remaining(&self) -> usize {
        self.buf.len() - self.position
    }

    /// The next `size_bytes` bytes.
    pub fn take(&mut self, size_bytes: usize) -> Result<&'a [u8], WireError> {
        let rest = &self.buf[self.position..];
        if size_bytes > rest.len() {
            return Err(WireError::Truncated { needed: size_bytes, remaining: rest.len() });
        }
        self.position += size_bytes;
        Ok(&rest[..size_bytes])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut out = [0u8; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    /// INT8.
    pub fn i8(&mut self) -> Result<i8, WireError> {
        Ok(i8::from_be_bytes(self.array()?))
    }

    /// INT16, big-endian.
    pub fn i16(&mut self) -> Result<i16, WireError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    /// INT32, big-endian.
    pub fn i32(&mut self) -> Result<i32, WireError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// INT64, big-endian.
    pub fn i64(&mut self) -> Result<i64, WireError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// UUID, 16 bytes.
    pub fn uuid(&mut self) -> Result<Uuid, WireError> {
        Ok(Uuid::from_bytes(self.array()?))
    }

    /// UNSIGNED_VARINT: at most five bytes, and no bits beyond 32.
    pub fn unsigned_varint(&mut self) -> Result<u32, WireError> {
        let mut value = 0u32;
        for shift in [0u32, 7, 14, 21, 28] {
            let [byte] = self.array::<1>()?;
            if shift == 28 && byte > 0x0f {
                return Err(WireError::Varint);
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::Varint)
    }

    /// The raw length in front of BYTES, COMPACT_BYTES or an array, **not** compared with what remains: only for
    /// callers that look at a prefix of a frame and do that comparison themselves. `None` is null.
    pub fn raw_len(&mut self, flexible: bool) -> Result<Option<usize>, WireError> {
        if flexible {
            return Ok((self.unsigned_varint()? as usize).checked_sub(1));
        }
        match self.i32()? {
            -1 => Ok(None),
            n => usize::try_from(n).map(Some).map_err(|_| WireError::NegativeLength(n)),
        }
    }

    /// The raw length in front of STRING or COMPACT_STRING; see [`Reader::raw_len`].
    pub fn raw_string_len(&mut self, flexible: bool) -> Result<Option<usize>, WireError> {
        if flexible {
            return Ok((self.unsigned_varint()? as usize).checked_sub(1));
        }
        match self.i16()? {
            -1 => Ok(None),
            n => usize::try_from(n).map(Some).map_err(|_| WireError::NegativeLength(i32::from(n))),
        }
    }

    /// (COMPACT_)NULLABLE_STRING.
    pub fn nullable_string(&mut self, flexible: bool) -> Result<Option<&'a str>, WireError> {
        let Some(size_bytes) = self.raw_string_len(flexible)? else { return Ok(None) };
        let bytes = self.take(size_bytes)?;
        std::str::from_utf8(bytes).map(Some).map_err(|_| WireError::Utf8)
    }

    /// (COMPACT_)STRING.
    pub fn string(&mut self, flexible: bool) -> Result<&'a str, WireError> {
        self.nullable_string(flexible)?.ok_or(WireError::UnexpectedNull)
    }

    /// (COMPACT_)NULLABLE_BYTES; also (COMPACT_)RECORDS.
    pub fn nullable_bytes(&mut self, flexible: bool) -> Result<Option<&'a [u8]>, WireError> {
        match self.raw_len(flexible)? {
            None => Ok(None),
            Some(size_bytes) => self.take(size_bytes).map(Some),
        }
    }

    /// (COMPACT_)BYTES.
    pub fn bytes(&mut self, flexible: bool) -> Result<&'a [u8], WireError> {
        self.nullable_bytes(flexible)?.ok_or(WireError::UnexpectedNull)
    }

    /// The element count of a nullable (compact) array, refused when `count * element_size_bytes_min` bytes do not
    /// remain: after this call it is safe to reserve room for that many elements.
    pub fn nullable_array_len(
        &mut self,
        flexible: bool,
        element_size_bytes_min: usize,
    ) -> Result<Option<usize>, WireError> {
        let Some(count) = self.raw_len(flexible)? else { return Ok(None) };
        // An element that takes no bytes would make any count "fit".
        let needed = count.saturating_mul(element_size_bytes_min.max(1));
        if needed > self.remaining() {
            return Err(WireError::Truncated { needed, remaining: self.remaining() });
        }
        Ok(Some(count))
    }

    /// As [`Reader::nullable_array_len`], for arrays that may not be null.
    pub fn array_len(&mut self, flexible: bool, element_size_bytes_min: usize) -> Result<usize, WireError> {
        self.nullable_array_len(flexible, element_size_bytes_min)?.ok_or(WireError::UnexpectedNull)
    }

    /// Calls `visit(tag, content)` for each tagged field of a struct and returns how many there were. Unknown tags
    /// are the visitor's to ignore, as KIP-482 asks.
    pub fn tagged_fields(
        &mut self,
        mut visit: impl FnMut(u32, &'a [u8]) -> Result<(), WireError>,
    ) -> Result<u32, WireError> {
        let count = self.unsigned_varint()?;
        if count > TAGGED_FIELDS_PER_STRUCT_MAX {
            return Err(WireError::TaggedField);
        }
        for _ in 0..count {
            let tag = self.unsigned_varint()?;
            let size_bytes = self.unsigned_varint()? as usize;
            visit(tag, self.take(size_bytes)?)?;
        }
        Ok(count)
    }

    /// Skips the tagged fields that end every struct of a flexible version; nothing to do in other versions.
    pub fn skip_tagged_fields(&mut self, flexible: bool) -> Result<(), WireError> {
        if flexible {
            self.tagged_fields(|_, _| Ok(()))?;
        }
        Ok(())
    }
}

/// Appends protocol primitives to a `Vec<u8>` the caller owns and reuses.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    /// A writer that appends to `out`.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Writer { out }
    }

    /// Length of the underlying vector: the position of the next byte in it.
    pub fn position(&self) -> usize {
        self.out.len()
    }

    /// INT8.
    pub fn i8(&mut self, value: i8) {
        self.raw(&value.to_be_bytes());
    }

    /// INT16.
    pub fn i16(&mut self, value: i16) {
        self.raw(&value.to_be_bytes());
    }

    /// INT32.
    pub fn i32(&mut self, value: i32) {
        self.raw(&value.to_be_bytes());
    }

    /// INT64.
    pub fn i64(&mut self, value: i64) {
        self.raw(&value.to_be_bytes());
    }

    /// UUID.
    pub fn uuid(&mut self, value: Uuid) {
        self.raw(value.as_bytes());
    }

    /// Bytes as they are, with no length in front.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// UNSIGNED_VARINT.
    pub fn unsigned_varint(&mut self, value: u32) {
        self.unsigned_varlong(u64::from(value));
    }

    fn unsigned_varlong(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    /// VARINT (zigzag), as records use it.
    pub fn varint(&mut self, value: i32) {
        self.unsigned_varint(((value << 1) ^ (value >> 31)) as u32);
    }

    /// VARLONG (zigzag), as records use it.
    pub fn varlong(&mut self, value: i64) {
        self.unsigned_varlong(((value << 1) ^ (value >> 63)) as u64);
    }

    /// The length in front of BYTES or an array; `None` is null. Panics beyond `i32::MAX - 1`: a length of our own
    /// making that no Kafka message can carry.
    pub fn len(&mut self, flexible: bool, len: Option<usize>) {
        let len = len.map(|n| {
            assert!(n < i32::MAX as usize, "length does not fit a Kafka message");
            n as i32
        });
        if flexible {
            self.unsigned_varint(len.map_or(0, |n| n as u32 + 1));
        } else {
            self.i32(len.unwrap_or(-1));
        }
    }

    /// (COMPACT_)NULLABLE_STRING. A string over 32,767 bytes is cut at a character boundary: only messages of our
    /// own for humans can be that long, topic names are bounded elsewhere.
    pub fn nullable_string(&mut self, flexible: bool, value: Option<&str>) {
        let value = value.map(|text| &text[..text.floor_char_boundary(i16::MAX as usize)]);
        match (flexible, value) {
            (true, _) => self.len(true, value.map(str::len)),
            (false, Some(text)) => self.i16(text.len() as i16),
            (false, None) => self.i16(-1),
        }
        self.raw(value.unwrap_or_default().as_bytes());
    }

    /// (COMPACT_)STRING.
    pub fn string(&mut self, flexible: bool, value: &str) {
        self.nullable_string(flexible, Some(value));
    }

    /// The empty tagged-field section that ends a struct of a flexible version.
    pub fn no_tagged_fields(&mut self, flexible: bool) {
        if flexible {
            self.out.push(0);
        }
    }

    /// A topic, by name before `id_since` and by id from that version on. When the reference at hand is of the
    /// other kind, which no decoded request can cause, an empty name or a zero id goes out: both mean "unknown".
    pub fn topic(&mut self, topic: TopicRef<'_>, flexible: bool, by_id: bool) {
        match (by_id, topic) {
            (true, TopicRef::Id(id)) => self.uuid(id),
            (true, TopicRef::Name(_)) => self.uuid(Uuid::nil()),
            (false, TopicRef::Name(name)) => self.string(flexible, name),
            (false, TopicRef::Id(_)) => self.string(flexible, ""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_round_trip_and_overlong_ones_are_refused() {
        for value in [0u32, 1, 127, 128, 16_383, 16_384, 1 << 28, u32::MAX] {
            let mut out = Vec::new();
            Writer::new(&mut out).unsigned_varint(value);
            let mut reader = Reader::new(&out);
            assert_eq!(reader.unsigned_varint(), Ok(value));
            assert_eq!(reader.remaining(), 0);
        }
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x10]).unsigned_varint(), Err(WireError::Varint));
        assert_eq!(Reader::new(&[0x80; 6]).unsigned_varint(), Err(WireError::Varint));
    }

    #[test]
    fn counts_that_cannot_fit_are_refused() {
        let huge = i32::MAX.to_be_bytes();
        assert!(matches!(Reader::new(&huge).array_len(false, 1), Err(WireError::Truncated { .. })));
        assert!(matches!(Reader::new(&huge).array_len(false, 0), Err(WireError::Truncated { .. })));
        let compact_huge = [0xff, 0xff, 0xff, 0xff, 0x0f];
        assert!(matches!(Reader::new(&compact_huge).array_len(true, 4), Err(WireError::Truncated { .. })));
        assert_eq!(
            Reader::new(&(-2i32).to_be_bytes()).array_len(false, 1),
            Err(WireError::NegativeLength(-2))
        );
        assert_eq!(Reader::new(&(-1i32).to_be_bytes()).array_len(false, 1), Err(WireError::UnexpectedNull));
        assert_eq!(Reader::new(&[0]).nullable_array_len(true, 1), Ok(None));
    }

    #[test]
    fn strings_round_trip_in_both_encodings() {
        for flexible in [false, true] {
            for value in [None, Some(""), Some("topic"), Some("ünïcode")] {
                let mut out = Vec::new();
                Writer::new(&mut out).nullable_string(flexible, value);
                assert_eq!(Reader::new(&out).nullable_string(flexible), Ok(value));
            }
        }
        assert_eq!(Reader::new(&[0, 1, 0xff]).string(false), Err(WireError::Utf8));
    }

    #[test]
    fn a_long_message_is_cut_on_a_character() {
        let long = "ü".repeat(20_000);
        let mut out = Vec::new();
        Writer::new(&mut out).string(false, &long);
        assert_eq!(Reader::new(&out).string(false).map(str::len), Ok(32_766));
    }
}
