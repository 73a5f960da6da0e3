//! Record batches (magic 2) made once and sent many times.
//!
//! Owner: the generator. The base offset lies outside the CRC, so the same bytes are a valid batch for every
//! send. An image is split in a small *head* (batch header and, when stamped, the start of the first record),
//! which a sender may patch, and a large shared *tail*, which never changes and whose CRC is known.
//!
//! Invariant: `crc(head[CRC_FROM..]) combined with crc_tail` is the batch's CRC. Must not: do I/O.

use std::io::Write;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{BenchError, Result, io_err};
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

/// How the records of a batch are compressed; the number is the codec's in the batch's attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Codec {
    /// Not at all.
    #[default]
    None = 0,
    /// RFC 1952, level 6.
    Gzip = 1,
    /// One raw block, as librdkafka writes it.
    Snappy = 2,
    /// The frame format.
    Lz4 = 3,
    /// Zstandard, fast.
    Zstd = 4,
}

impl Codec {
    /// The name as in `compression.type`.
    pub(crate) fn name(self) -> &'static str {
        ["none", "gzip", "snappy", "lz4", "zstd"][self as usize]
    }

    fn compress(self, bytes: &[u8]) -> Result<Vec<u8>> {
        let failed = |error: std::io::Error| io_err(format!("compress with {}", self.name()))(error);
        match self {
            Self::None => Ok(bytes.to_vec()),
            Self::Gzip => {
                let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                out.write_all(bytes).and_then(|()| out.finish()).map_err(failed)
            }
            Self::Snappy => {
                let mut encoder = snap::raw::Encoder::new();
                encoder.compress_vec(bytes).map_err(|error| failed(std::io::Error::other(error)))
            }
            Self::Lz4 => {
                let mut out = lz4_flex::frame::FrameEncoder::new(Vec::new());
                out.write_all(bytes).map_err(failed)?;
                out.finish().map_err(|error| failed(std::io::Error::other(error)))
            }
            Self::Zstd => {
                Ok(ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest))
            }
        }
    }
}

/// One record of a batch that is encoded from given bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a> {
    /// Key, or null.
    pub(crate) key: Option<&'a [u8]>,
    /// Value.
    pub(crate) value: &'a [u8],
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

/// Incompressible bytes, the same for the same seed (which is not 0).
pub(crate) fn fill_random(out: &mut [u8], mut state: u64) {
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
        Ok(Self::close(out, split, shape.records, shape.stamped.then_some(split), Codec::None, timestamp_ms))
    }

    /// Encodes given records. A stamped batch's first value begins with `STAMP_BYTES` that a sender fills.
    ///
    /// # Errors
    /// Without records, when the first value is too small for a stamp, or when a stamped batch is to be compressed:
    /// nothing could be patched in it.
    pub(crate) fn encode_records(
        records: &[Record<'_>],
        codec: Codec,
        stamped: bool,
        timestamp_ms: i64,
    ) -> Result<Self> {
        let first = records.first().ok_or_else(|| BenchError::Usage("a batch has records".into()))?;
        if stamped && (codec != Codec::None || first.value.len() < STAMP_BYTES) {
            return Err(BenchError::Usage("stamps need uncompressed records of 24 bytes or more".into()));
        }
        let mut body = Vec::new();
        let mut split = HEADER_BYTES;
        for (index, record) in records.iter().enumerate() {
            let key_bytes = record.key.map_or(-1, |key| key.len() as i64);
            let length = 2
                + varlong_length(index as i64)
                + varlong_length(key_bytes)
                + record.key.map_or(0, <[u8]>::len)
                + varlong_length(record.value.len() as i64)
                + record.value.len()
                + 1;
            put_varlong(&mut body, length as i64);
            body.extend_from_slice(&[0, 0]); // attributes, timestamp delta
            put_varlong(&mut body, index as i64);
            put_varlong(&mut body, key_bytes);
            body.extend_from_slice(record.key.unwrap_or_default());
            put_varlong(&mut body, record.value.len() as i64);
            if index == 0 && stamped {
                split = HEADER_BYTES + body.len() + STAMP_BYTES;
            }
            body.extend_from_slice(record.value);
            body.push(0); // no headers
        }
        let mut out = vec![0u8; HEADER_BYTES];
        match codec {
            Codec::None => out.append(&mut body),
            codec => out.extend_from_slice(&codec.compress(&body)?),
        }
        let stamp_end = stamped.then_some(split);
        Ok(Self::close(out, split, records.len() as u32, stamp_end, codec, timestamp_ms))
    }

    /// Fills the header of `out`, whose records stand behind it, and splits it.
    fn close(
        mut out: Vec<u8>,
        split: usize,
        records: u32,
        stamp_end: Option<usize>,
        codec: Codec,
        timestamp_ms: i64,
    ) -> Self {
        let length = (out.len() - 12) as i32;
        out[8..12].copy_from_slice(&length.to_be_bytes());
        out[12..16].copy_from_slice(&(-1i32).to_be_bytes());
        out[16] = 2;
        out[22] = codec as u8;
        out[23..27].copy_from_slice(&(records as i32 - 1).to_be_bytes());
        out[27..35].copy_from_slice(&timestamp_ms.to_be_bytes());
        out[35..43].copy_from_slice(&timestamp_ms.to_be_bytes());
        out[43..57].fill(0xff); // no producer id, epoch or sequence: not idempotent
        out[57..61].copy_from_slice(&(records as i32).to_be_bytes());
        if let Some(end) = stamp_end {
            out[end - STAMP_BYTES..end - 16].copy_from_slice(&STAMP_MARK);
        }
        let tail = out.split_off(split);
        let crc_tail = crc32c::crc32c(&tail);
        let mut image =
            Self { head: out, tail: Arc::new(tail), crc_tail, records, stamped: stamp_end.is_some() };
        let mut head = std::mem::take(&mut image.head);
        image.seal(&mut head);
        image.head = head;
        image
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
    fn given_records_come_back_from_every_codec() {
        use std::io::Read;
        let values: Vec<Vec<u8>> = (1..200usize).map(|n| vec![n as u8; n * 3]).collect();
        let records: Vec<Record<'_>> =
            values.iter().map(|value| Record { key: Some(b"a-key"), value }).collect();
        let plain = BatchImage::encode_records(&records, Codec::None, false, 9).unwrap();
        let body = joined(&plain, &plain.head).split_off(HEADER_BYTES);
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let image = BatchImage::encode_records(&records, codec, false, 9).unwrap();
            let bytes = joined(&image, &image.head);
            assert!(bytes.len() < body.len() / 4, "{codec:?} compresses");
            assert_eq!(bytes[22], codec as u8);
            assert_eq!(bytes[17..21], crc32c::crc32c(&bytes[CRC_FROM..]).to_be_bytes());
            let packed = &bytes[HEADER_BYTES..];
            let mut back = Vec::new();
            match codec {
                Codec::Gzip => flate2::read::GzDecoder::new(packed).read_to_end(&mut back).unwrap(),
                Codec::Lz4 => lz4_flex::frame::FrameDecoder::new(packed).read_to_end(&mut back).unwrap(),
                Codec::Zstd => {
                    ruzstd::decoding::StreamingDecoder::new(packed).unwrap().read_to_end(&mut back).unwrap()
                }
                _ => {
                    back = snap::raw::Decoder::new().decompress_vec(packed).unwrap();
                    0
                }
            };
            assert_eq!(back, body, "{codec:?}");
        }
        let small = [Record { key: None, value: b"small" }];
        assert!(BatchImage::encode_records(&small, Codec::None, true, 0).is_err());
        assert!(BatchImage::encode_records(&records[20..], Codec::Lz4, true, 0).is_err());
        let mut stamped = BatchImage::encode_records(&records[20..], Codec::None, true, 0).unwrap();
        let mut head = std::mem::take(&mut stamped.head);
        stamped.head = head.clone();
        stamped.stamp(&mut head, 7, 8);
        let bytes = joined(&stamped, &head);
        assert_eq!(bytes[17..21], crc32c::crc32c(&bytes[CRC_FROM..]).to_be_bytes());
        assert_eq!(head[head.len() - 24..head.len() - 16], STAMP_MARK);
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
