//! Record batches (magic 2) made once and sent many times.
//!
//! Owner: the generator. The base offset lies outside the CRC, so the same bytes are a valid batch for every
//! send. An image is split in a small *head* (batch header and, when stamped, the start of the first record),
//! which a sender may patch, and a large shared *tail*, which never changes and whose CRC is known.
//!
//! Invariant: `crc(head[CRC_FROM..]) combined with crc_tail` is the batch's CRC. Must not: do I/O.

use std::sync::Arc;

use crate::error::{BenchError, Result};
use crate::wire::put_varlong;

/// Bytes of a batch header, magic 2.
pub(crate) const HEADER_BYTES: usize = 61;
/// Where the CRC field stands.
const CRC_AT: usize = 17;
/// The CRC covers everything from here on.
pub(crate) const CRC_FROM: usize = 21;
/// Marks a stamped value; the intended and the actual send time follow (CLOCK_MONOTONIC, ns, big endian).
pub(crate) const STAMP_MARK: [u8; 8] = *b"RLBstamp";
/// Bytes of mark and stamps: the least record size of an end-to-end run.
pub(crate) const STAMP_BYTES: usize = 24;

/// What a batch looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchShape {
    /// Records in the batch.
    pub(crate) records: u32,
    /// Bytes of each value; keys are null.
    pub(crate) record_bytes: usize,
    /// Whether the first value carries time stamps.
    pub(crate) stamped: bool,
}

/// A finished batch.
#[derive(Debug, Clone)]
pub(crate) struct BatchImage {
    /// Header, and the first record up to the end of its stamp when stamped.
    pub(crate) head: Vec<u8>,
    /// The rest, shared by all senders.
    pub(crate) tail: Arc<Vec<u8>>,
    /// CRC32C of the tail.
    crc_tail: u32,
    /// Records in the batch.
    pub(crate) records: u32,
    stamped: bool,
}

impl BatchShape {
    /// The shape with as many records as fit `batch_bytes`, at least one.
    pub(crate) fn filling(batch_bytes: usize, record_bytes: usize, stamped: bool) -> Self {
        let mut size = HEADER_BYTES;
        let mut records = 0u32;
        loop {
            size += record_length(records, record_bytes);
            if size > batch_bytes && records > 0 {
                break;
            }
            records += 1;
            if size > batch_bytes {
                break;
            }
        }
        Self { records, record_bytes, stamped }
    }
}

fn varlong_length(value: i64) -> usize {
    let raw = ((value << 1) ^ (value >> 63)) as u64;
    (64 - (raw | 1).leading_zeros() as usize).div_ceil(7)
}

fn record_body_length(index: u32, record_bytes: usize) -> usize {
    // attributes, timestamp delta 0, offset delta, null key, value length, value, no headers
    1 + 1 + varlong_length(i64::from(index)) + 1 + varlong_length(record_bytes as i64) + record_bytes + 1
}

fn record_length(index: u32, record_bytes: usize) -> usize {
    let body = record_body_length(index, record_bytes);
    varlong_length(body as i64) + body
}

/// Incompressible bytes, the same for the same seed.
fn fill_random(out: &mut [u8], mut state: u64) {
    for chunk in out.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
}

impl BatchImage {
    /// Encodes a batch with the given base timestamp (ms since the epoch).
    ///
    /// # Errors
    /// If a stamped record is smaller than the stamp.
    pub(crate) fn encode(shape: BatchShape, timestamp_ms: i64) -> Result<Self> {
        if shape.stamped && shape.record_bytes < STAMP_BYTES {
            return Err(BenchError::Usage(format!("stamped records need at least {STAMP_BYTES} bytes")));
        }
        assert!(shape.records > 0, "a batch has records");
        let mut values = vec![0u8; shape.record_bytes];
        fill_random(&mut values, 0x9e37_79b9_7f4a_7c15);
        let mut out = vec![0u8; HEADER_BYTES];
        let mut split = HEADER_BYTES;
        for index in 0..shape.records {
            put_varlong(&mut out, record_body_length(index, shape.record_bytes) as i64);
            out.push(0);
            put_varlong(&mut out, 0);
            put_varlong(&mut out, i64::from(index));
            put_varlong(&mut out, -1);
            put_varlong(&mut out, shape.record_bytes as i64);
            if index == 0 && shape.stamped {
                split = out.len() + STAMP_BYTES;
            }
            // Every record differs from its neighbours, or a compressing endpoint would have an easy day.
            let turn = (index as usize * 31) % shape.record_bytes.max(1);
            out.extend_from_slice(&values[turn..]);
            out.extend_from_slice(&values[..turn]);
            put_varlong(&mut out, 0);
        }
        let length = (out.len() - 12) as i32;
        out[8..12].copy_from_slice(&length.to_be_bytes());
        out[12..16].copy_from_slice(&(-1i32).to_be_bytes());
        out[16] = 2;
        out[23..27].copy_from_slice(&(shape.records as i32 - 1).to_be_bytes());
        out[27..35].copy_from_slice(&timestamp_ms.to_be_bytes());
        out[35..43].copy_from_slice(&timestamp_ms.to_be_bytes());
        out[43..57].fill(0xff); // no producer id, epoch or sequence: not idempotent
        out[57..61].copy_from_slice(&(shape.records as i32).to_be_bytes());
        if shape.stamped {
            out[split - STAMP_BYTES..split - 16].copy_from_slice(&STAMP_MARK);
        }
        let tail = out.split_off(split);
        let crc_tail = crc32c::crc32c(&tail);
        let mut image = Self {
            head: out,
            tail: Arc::new(tail),
            crc_tail,
            records: shape.records,
            stamped: shape.stamped,
        };
        let mut head = std::mem::take(&mut image.head);
        image.seal(&mut head);
        image.head = head;
        Ok(image)
    }

    /// Size of the whole batch in bytes.
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// Whether values carry stamps.
    pub(crate) fn stamped(&self) -> bool {
        self.stamped
    }

    /// Writes both stamps into a copy of the head and renews its CRC. The tail is not read.
    pub(crate) fn stamp(&self, head: &mut [u8], intended_ns: u64, sent_ns: u64) {
        assert!(self.stamped && head.len() == self.head.len(), "a head of this image");
        let end = head.len();
        head[end - 16..end - 8].copy_from_slice(&intended_ns.to_be_bytes());
        head[end - 8..].copy_from_slice(&sent_ns.to_be_bytes());
        self.seal(head);
    }

    fn seal(&self, head: &mut [u8]) {
        let crc_head = crc32c::crc32c(&head[CRC_FROM..]);
        let crc = crc32c::crc32c_combine(crc_head, self.crc_tail, self.tail.len());
        head[CRC_AT..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Reader;

    fn joined(image: &BatchImage, head: &[u8]) -> Vec<u8> {
        [head, &image.tail].concat()
    }

    fn check_batch(bytes: &[u8], shape: BatchShape) {
        let mut reader = Reader::new(bytes);
        assert_eq!(reader.i64().unwrap(), 0);
        assert_eq!(reader.i32().unwrap() as usize, bytes.len() - 12);
        reader.i32().unwrap();
        assert_eq!(reader.i8().unwrap(), 2);
        assert_eq!(reader.i32().unwrap() as u32, crc32c::crc32c(&bytes[CRC_FROM..]));
        reader.take(HEADER_BYTES - 21 - 4).unwrap();
        assert_eq!(reader.i32().unwrap() as u32, shape.records);
        for index in 0..shape.records {
            let length = reader.varlong().unwrap() as usize;
            let mut record = Reader::new(reader.take(length).unwrap());
            record.take(1).unwrap();
            assert_eq!(record.varlong().unwrap(), 0);
            assert_eq!(record.varlong().unwrap(), i64::from(index));
            assert_eq!(record.varlong().unwrap(), -1);
            assert_eq!(record.varlong().unwrap() as usize, shape.record_bytes);
            record.take(shape.record_bytes).unwrap();
            assert_eq!(record.varlong().unwrap(), 0);
            assert_eq!(record.remaining(), 0);
        }
        assert_eq!(reader.remaining(), 0);
    }

    #[test]
    fn encoded_batches_decode() {
        for (records, record_bytes) in [(1, 0), (1, 1), (3, 100), (200, 64), (70_000, 10)] {
            let shape = BatchShape { records, record_bytes, stamped: false };
            let image = BatchImage::encode(shape, 1_700_000_000_000).unwrap();
            check_batch(&joined(&image, &image.head), shape);
        }
    }

    #[test]
    fn stamping_renews_the_crc() {
        let shape = BatchShape { records: 16, record_bytes: 1024, stamped: true };
        let image = BatchImage::encode(shape, 0).unwrap();
        let mut head = image.head.clone();
        for stamp in [1u64, u64::MAX, 77] {
            image.stamp(&mut head, stamp, stamp ^ 5);
            check_batch(&joined(&image, &head), shape);
        }
    }

    #[test]
    fn filling_comes_close_and_never_over() {
        for bytes in [4096, 65_536, 1 << 20] {
            let shape = BatchShape::filling(bytes, 1000, false);
            let length = BatchImage::encode(shape, 0).unwrap().len();
            assert!(length <= bytes && length + 1020 > bytes, "{length} of {bytes}");
        }
        assert_eq!(BatchShape::filling(10, 5000, false).records, 1);
    }

    #[test]
    fn small_stamped_records_are_refused() {
        assert!(BatchImage::encode(BatchShape { records: 1, record_bytes: 8, stamped: true }, 0).is_err());
    }
}
