//! A look inside one batch: offsets, timestamps and whether keys are null. For the cold path only: look-ups by
//! timestamp, and compacted topics, which refuse records without a key.
//!
//! Owner: nobody; pure, but slow: decompressing may take milliseconds, so callers on a core must know the batch to
//! be of reasonable size. Spec: Kafka documentation "Record"; KIP-98; KIP-110 (zstd).
//!
//! Invariants: records are streamed, keys and values are skipped, never collected. Decompressed output is bounded
//! by [`DECOMPRESSED_BYTES_MAX`] and by [`DECOMPRESSED_RATIO_MAX`]; nothing is allocated by a size that the data
//! only claims beyond [`SNAPPY_BLOCK_BYTES_MAX`] and [`ZSTD_WINDOW_BYTES_MAX`] (CVE-2023-34455, CVE-2023-43642).
//!
//! Must not: be used on the produce or fetch path.

use std::io::{self, BufRead, BufReader, Read};

use super::batch_builder::XERIAL_HEADER;
use super::record_batch::{
    BATCH_HEADER_SIZE, BatchError, BatchInfo, Compression, RECORD_SIZE_BYTES_MIN, TimestampType, parse_header,
};

/// Decompressed bytes that are looked at in one batch.
pub const DECOMPRESSED_BYTES_MAX: u64 = 128 << 20;
/// Decompressed bytes per compressed byte; beyond, the batch is a bomb. Far above what gzip can do, above what zstd
/// does with real records.
pub const DECOMPRESSED_RATIO_MAX: u64 = 4096;
/// Up to here the ratio does not matter: a short batch of equal bytes may have a larger one.
pub const DECOMPRESSED_RATIO_FREE_BYTES: u64 = 1 << 20;
/// Largest snappy block, raw or xerial; snappy decompresses a block as a whole.
pub const SNAPPY_BLOCK_BYTES_MAX: usize = 32 << 20;
/// A copy of 64 bytes takes 3 bytes in snappy: a declared length above this ratio is a lie.
pub const SNAPPY_RATIO_MAX: usize = 24;
/// Largest zstd window: what level 22 asks for. It is reserved, and touched only as far as output was produced.
pub const ZSTD_WINDOW_BYTES_MAX: u64 = 128 << 20;

const READ_BUFFER_SIZE: usize = 16 * 1024;

/// Why a batch cannot be looked into.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// The header is not one of a batch, or the batch is not all there.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The decompressed records are not records.
    #[error("malformed record: {0}")]
    Malformed(&'static str),
    /// The codec's own format is violated.
    #[error("cannot decompress: {0}")]
    Decompress(String),
    /// Output or ratio went over its limit.
    #[error("decompressed records are over the limit")]
    OverLimit,
}

impl From<io::Error> for RecordsError {
    fn from(error: io::Error) -> Self {
        if error.get_ref().is_some_and(|inner| inner.is::<OverLimit>()) {
            return RecordsError::OverLimit;
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof => RecordsError::Malformed("the data ends inside a record"),
            _ => RecordsError::Decompress(error.to_string()),
        }
    }
}

/// What is known of one record without looking at its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordMeta {
    /// Absolute offset.
    pub offset: i64,
    /// Timestamp in milliseconds; the batch's for LogAppendTime.
    pub timestamp_ms: i64,
    /// Size of the key in bytes, `None` for null.
    pub key_size_bytes: Option<u32>,
}

/// Iterates over the records of one batch, front to back. After an error it ends.
pub struct Records<'a> {
    info: BatchInfo,
    input: BufReader<Capped<'a>>,
    records_left: i32,
    last_delta: i32,
}

impl<'a> Records<'a> {
    /// Opens the batch at the start of `batch`. The checksum is not verified here: what comes from the log was
    /// verified when it was read.
    pub fn new(batch: &'a [u8]) -> Result<Self, RecordsError> {
        let info = parse_header(batch)?;
        if info.size_bytes > batch.len() {
            return Err(BatchError::Truncated { needed: info.size_bytes }.into());
        }
        let input = decompress(info.compression()?, &batch[BATCH_HEADER_SIZE..info.size_bytes])?;
        let input = BufReader::with_capacity(READ_BUFFER_SIZE, input);
        Ok(Records { info, input, records_left: info.record_count, last_delta: -1 })
    }

    /// The batch's header.
    pub fn info(&self) -> &BatchInfo {
        &self.info
    }

    fn read_record(&mut self) -> Result<RecordMeta, RecordsError> {
        let size_bytes = self.varint()?.0;
        if size_bytes < RECORD_SIZE_BYTES_MIN as i64 - 1 || size_bytes > i64::from(i32::MAX) {
            return Err(RecordsError::Malformed("impossible record length"));
        }
        self.byte()?; // attributes, unused
        let (timestamp_delta, timestamp_size) = self.varint()?;
        let (offset_delta, offset_size) = self.varint()?;
        let (key_len, key_len_size) = self.varint()?;
        let rest = size_bytes - 1 - timestamp_size - offset_size - key_len_size;
        if key_len < -1 || key_len > rest {
            return Err(RecordsError::Malformed("key does not fit its record"));
        }
        let in_order = offset_delta > i64::from(self.last_delta);
        if !in_order || offset_delta > i64::from(self.info.last_offset_delta) {
            return Err(RecordsError::Malformed("offset out of order or out of its batch"));
        }
        // `key_len >= -1` leaves `rest` as low as -1 for a null key that ends beyond its record.
        let rest = u64::try_from(rest).map_err(|_| RecordsError::Malformed("fields overrun the record"))?;
        self.skip(rest)?;
        self.last_delta = offset_delta as i32;
        let timestamp_ms = match self.info.timestamp_type() {
            TimestampType::LogAppendTime => self.info.max_timestamp,
            TimestampType::CreateTime => self.info.base_timestamp.saturating_add(timestamp_delta),
        };
        let key_size_bytes = u32::try_from(key_len).ok();
        Ok(RecordMeta { offset: self.info.base_offset + offset_delta, timestamp_ms, key_size_bytes })
    }

    fn byte(&mut self) -> Result<u8, RecordsError> {
        let mut byte = [0];
        self.input.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    /// A zigzag varint of up to ten bytes, and how many bytes it took. The narrower types are checked by range.
    fn varint(&mut self) -> Result<(i64, i64), RecordsError> {
        let mut value = 0u64;
        for index in 0..10 {
            let byte = self.byte()?;
            if index == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(((value >> 1) as i64 ^ -((value & 1) as i64), index + 1));
            }
        }
        Err(RecordsError::Malformed("varint too long"))
    }

    fn skip(&mut self, mut count: u64) -> Result<(), RecordsError> {
        while count > 0 {
            let available = self.input.fill_buf()?.len();
            if available == 0 {
                return Err(RecordsError::Malformed("the data ends inside a record"));
            }
            let step = (available as u64).min(count);
            self.input.consume(step as usize);
            count -= step;
        }
        Ok(())
    }
}

impl Iterator for Records<'_> {
    type Item = Result<RecordMeta, RecordsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.records_left <= 0 {
            return None;
        }
        self.records_left -= 1;
        let record = self.read_record();
        if record.is_err() {
            self.records_left = 0;
        }
        Some(record)
    }
}

/// The first record of `batch` whose timestamp is at least `target_ms`, as (offset, timestamp).
pub fn find_timestamp(batch: &[u8], target_ms: i64) -> Result<Option<(i64, i64)>, RecordsError> {
    find_timestamp_from(batch, target_ms, 0)
}

/// As [`find_timestamp`], among the records at or after `offset_min`: the log may start inside the batch.
///
/// A batch whose header says that all its timestamps are lower is not decompressed.
pub fn find_timestamp_from(
    batch: &[u8],
    target_ms: i64,
    offset_min: i64,
) -> Result<Option<(i64, i64)>, RecordsError> {
    let info = parse_header(batch)?;
    if info.max_timestamp < target_ms || info.last_offset() < offset_min {
        return Ok(None);
    }
    for record in Records::new(batch)? {
        let record = record?;
        if record.timestamp_ms >= target_ms && record.offset >= offset_min {
            return Ok(Some((record.offset, record.timestamp_ms)));
        }
    }
    Ok(None)
}

/// The first record with the largest timestamp in `batch`, as (offset, timestamp). Reading stops at the first that
/// has the header's maximum. An error for a batch without records.
pub fn max_timestamp_record(batch: &[u8]) -> Result<(i64, i64), RecordsError> {
    let mut largest: Option<(i64, i64)> = None;
    let records = Records::new(batch)?;
    let header_max = records.info().max_timestamp;
    for record in records {
        let record = record?;
        if largest.is_none_or(|(_, timestamp_ms)| record.timestamp_ms > timestamp_ms) {
            largest = Some((record.offset, record.timestamp_ms));
        }
        if record.timestamp_ms == header_max {
            break;
        }
    }
    largest.ok_or(RecordsError::Malformed("no records"))
}

/// The places in `batch` (0 is the first record), in order, of records with a null key, `count_max` at most:
/// compacted topics must refuse them. Allocates nothing when every record has a key.
pub fn records_without_key(batch: &[u8], count_max: usize) -> Result<Vec<i32>, RecordsError> {
    let mut places = Vec::new();
    for (place, record) in (0..).zip(Records::new(batch)?) {
        if record?.key_size_bytes.is_none() && places.len() < count_max {
            places.push(place);
        }
    }
    Ok(places)
}

/// The mark in an `io::Error` that tells a limit from damage.
#[derive(Debug, thiserror::Error)]
#[error("over the limit for decompressed records")]
struct OverLimit;

/// Counts what a decompressor puts out and fails once that is too much.
pub(super) struct Capped<'a> {
    inner: Box<dyn Read + 'a>,
    bytes_left: u64,
}

impl Read for Capped<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(out)?;
        self.bytes_left =
            self.bytes_left.checked_sub(count as u64).ok_or_else(|| io::Error::other(OverLimit))?;
        Ok(count)
    }
}

pub(super) fn decompress(compression: Compression, packed: &[u8]) -> Result<Capped<'_>, RecordsError> {
    let by_ratio = (packed.len() as u64).saturating_mul(DECOMPRESSED_RATIO_MAX);
    let bytes_left = match compression {
        Compression::None => packed.len() as u64,
        _ => by_ratio.clamp(DECOMPRESSED_RATIO_FREE_BYTES, DECOMPRESSED_BYTES_MAX),
    };
    let inner: Box<dyn Read> = match compression {
        Compression::None => Box::new(packed),
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(packed)),
        Compression::Snappy => Box::new(Snappy::new(packed)),
        Compression::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(packed)),
        Compression::Zstd => Box::new(
            ruzstd::decoding::StreamingDecoder::new_with_max_window_size(packed, ZSTD_WINDOW_BYTES_MAX)
                .map_err(|error| RecordsError::Decompress(error.to_string()))?,
        ),
    };
    Ok(Capped { inner, bytes_left })
}

/// Snappy as Kafka clients write it: one raw block (librdkafka), or xerial's framing (Java, Go): a header, then
/// blocks with a big-endian length in front of each. Decompresses one block at a time.
struct Snappy<'a> {
    rest: &'a [u8],
    framed: bool,
    block: Vec<u8>,
    block_read: usize,
}

impl<'a> Snappy<'a> {
    fn new(packed: &'a [u8]) -> Self {
        // The two version numbers behind the magic are not compared: all writers put 1, no reader minds.
        let framed = packed.len() >= XERIAL_HEADER.len() && packed[..8] == XERIAL_HEADER[..8];
        let rest = if framed { &packed[XERIAL_HEADER.len()..] } else { packed };
        Snappy { rest, framed, block: Vec::new(), block_read: 0 }
    }

    /// The compressed bytes of the next block.
    fn next_block(&mut self) -> io::Result<&'a [u8]> {
        if !self.framed {
            return Ok(std::mem::take(&mut self.rest));
        }
        let truncated = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let (size, rest) = self.rest.split_first_chunk::<4>().ok_or_else(truncated)?;
        let size_bytes = u32::from_be_bytes(*size) as usize;
        let (block, rest) = rest.split_at_checked(size_bytes).ok_or_else(truncated)?;
        self.rest = rest;
        Ok(block)
    }
}

impl Read for Snappy<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.block_read == self.block.len() {
            if self.rest.is_empty() {
                return Ok(0);
            }
            let packed = self.next_block()?;
            let size_bytes = snap::raw::decompress_len(packed).map_err(io::Error::other)?;
            if size_bytes > SNAPPY_BLOCK_BYTES_MAX || size_bytes / SNAPPY_RATIO_MAX > packed.len() {
                return Err(io::Error::other(OverLimit));
            }
            self.block.resize(size_bytes, 0);
            self.block_read = 0;
            let written = snap::raw::Decoder::new().decompress(packed, &mut self.block);
            self.block.truncate(written.map_err(io::Error::other)?);
        }
        let count = out.len().min(self.block.len() - self.block_read);
        out[..count].copy_from_slice(&self.block[self.block_read..self.block_read + count]);
        self.block_read += count;
        Ok(count)
    }
}
