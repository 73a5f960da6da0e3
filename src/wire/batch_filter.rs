//! Looking into one batch of the log with all its keys, and building the same batch again with fewer records: what
//! compaction does.
//!
//! Owner: nobody; pure, and slow: batches are decompressed and compressed again, so never on a core's own thread.
//! Spec: Kafka documentation "Record Batch" and "Log Compaction"; KIP-534 (delete horizon).
//!
//! Invariants: a rebuilt batch keeps base offset, last offset, producer fields and the timestamps and offsets of the
//! records that stay; decompressed output is bounded as in `records`. Must not: decide what stays.

use std::io::Read;

use super::batch_builder::{GZIP_FAST, XERIAL_HEADER, compress, encode};
use super::primitives::Writer;
use super::record_batch::{
    BATCH_HEADER_SIZE, BatchError, BatchInfo, Compression, DELETE_HORIZON_BIT, NO_TIMESTAMP, TimestampType,
    parse_header,
};
use super::records::{RecordsError, decompress};

/// Bits of the attributes that name the codec.
const CODEC_MASK: i16 = 0x07;

/// One record as compaction sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyedRecord<'a> {
    /// Absolute offset.
    pub offset: i64,
    /// Timestamp, milliseconds; the batch's for LogAppendTime.
    pub timestamp_ms: i64,
    /// The key, `None` for null.
    pub key: Option<&'a [u8]>,
    /// The value is null: the record deletes its key.
    pub is_tombstone: bool,
    span: Span,
}

/// Where a record lies in the decompressed bytes, and what its prefix says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: usize,
    /// First byte behind the offset delta.
    rest: usize,
    end: usize,
    timestamp_delta: i64,
    offset_delta: i32,
}

/// One batch, decompressed.
pub struct OpenBatch {
    info: BatchInfo,
    xerial: bool,
    raw: Vec<u8>,
    at: usize,
    records_left: i32,
    last_delta: i64,
    kept: Vec<(Span, i64)>,
}

impl OpenBatch {
    /// Decompresses the batch at the start of `batch`, whose checksum the caller has verified.
    pub fn new(batch: &[u8]) -> Result<OpenBatch, RecordsError> {
        let info = parse_header(batch)?;
        if info.size_bytes > batch.len() {
            return Err(BatchError::Truncated { needed: info.size_bytes }.into());
        }
        let packed = &batch[BATCH_HEADER_SIZE..info.size_bytes];
        let xerial = packed.len() >= XERIAL_HEADER.len() && packed[..8] == XERIAL_HEADER[..8];
        let mut raw = Vec::new();
        if info.record_count > 0 {
            decompress(info.compression()?, packed)?.read_to_end(&mut raw)?;
        }
        let records_left = info.record_count;
        Ok(OpenBatch { info, xerial, raw, at: 0, records_left, last_delta: -1, kept: Vec::new() })
    }

    /// The batch's header.
    pub fn info(&self) -> &BatchInfo {
        &self.info
    }

    /// The next record; `None` behind the last.
    pub fn next_record(&mut self) -> Result<Option<KeyedRecord<'_>>, RecordsError> {
        if self.records_left == 0 {
            return Ok(None);
        }
        self.records_left -= 1;
        let start = self.at;
        let mut cursor = Cursor { bytes: &self.raw, at: start };
        let size = usize::try_from(cursor.varint()?).map_err(|_| RecordsError::Malformed("record length"))?;
        let end = cursor.at.checked_add(size).filter(|end| *end <= self.raw.len());
        let end = end.ok_or(RecordsError::Malformed("the data ends inside a record"))?;
        cursor.bytes = &self.raw[..end];
        cursor.skip(1)?; // attributes, unused
        let timestamp_delta = cursor.varint()?;
        let delta = cursor.varint()?;
        let rest = cursor.at;
        if delta <= self.last_delta || delta > i64::from(self.info.last_offset_delta) {
            return Err(RecordsError::Malformed("offset out of order or out of its batch"));
        }
        let key = cursor.nullable_bytes()?;
        let is_tombstone = cursor.nullable_bytes()?.is_none();
        self.at = end;
        self.last_delta = delta;
        let timestamp_ms = match self.info.timestamp_type() {
            TimestampType::LogAppendTime => self.info.max_timestamp,
            TimestampType::CreateTime => self.info.base_timestamp.saturating_add(timestamp_delta),
        };
        let span = Span { start, rest, end, timestamp_delta, offset_delta: delta as i32 };
        let offset = self.info.base_offset + delta;
        Ok(Some(KeyedRecord { offset, timestamp_ms, key, is_tombstone, span }))
    }

    /// Chooses a record for [`build`](Self::build); in the order of their offsets.
    pub fn keep(&mut self, kept: Kept) {
        self.kept.push((kept.span, kept.timestamp_ms));
    }

    /// The records as they lie behind the header, decompressed.
    #[cfg(test)]
    pub(crate) fn raw_bytes(&self) -> &[u8] {
        &self.raw
    }

    /// Records chosen so far.
    pub fn kept_count(&self) -> usize {
        self.kept.len()
    }

    /// The batch with the chosen records only, maybe none. With `horizon_ms`, the batch gets that delete horizon.
    pub fn build(&self, horizon_ms: Option<i64>) -> Vec<u8> {
        let mut records = Vec::with_capacity(self.raw.len());
        for (span, _) in &self.kept {
            match horizon_ms {
                // The horizon takes the place of the base timestamp, from which the records' deltas count.
                Some(horizon) => {
                    self.shift(span, self.info.base_timestamp.wrapping_sub(horizon), &mut records)
                }
                None => records.extend_from_slice(&self.raw[span.start..span.end]),
            }
        }
        let empty = self.kept.is_empty();
        let codec =
            if empty { Compression::None } else { self.info.compression().unwrap_or(Compression::None) };
        let payload = if empty { Vec::new() } else { compress(codec, self.xerial, GZIP_FAST, &records) };
        let newest = self.kept.iter().map(|(_, timestamp_ms)| *timestamp_ms).max();
        let mut info = self.info;
        info.attributes = info.attributes & !CODEC_MASK | codec as i16;
        info.max_timestamp = newest.unwrap_or(NO_TIMESTAMP);
        if let Some(horizon) = horizon_ms {
            info.attributes |= DELETE_HORIZON_BIT;
            info.base_timestamp = horizon;
        }
        info.record_count = self.kept.len() as i32;
        encode(&info, &payload)
    }

    fn shift(&self, span: &Span, by: i64, out: &mut Vec<u8>) {
        let mut body = Vec::with_capacity(span.end - span.start + 10);
        let mut writer = Writer::new(&mut body);
        writer.i8(0);
        writer.varlong(span.timestamp_delta.wrapping_add(by));
        writer.varint(span.offset_delta);
        writer.raw(&self.raw[span.rest..span.end]);
        let mut records = Writer::new(out);
        records.varint(body.len() as i32);
        records.raw(&body);
    }
}

/// A record that was chosen to stay: what of it outlives the look at its key.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    span: Span,
    timestamp_ms: i64,
}

impl KeyedRecord<'_> {
    /// The handle that keeps this record.
    pub fn handle(&self) -> Kept {
        Kept { span: self.span, timestamp_ms: self.timestamp_ms }
    }
}

/// `info`'s batch without records: what stays of a batch whose last offset or sequence is still needed.
pub fn without_records(info: &BatchInfo) -> Vec<u8> {
    let mut info = *info;
    info.attributes &= !CODEC_MASK;
    info.max_timestamp = NO_TIMESTAMP;
    info.record_count = 0;
    encode(&info, &[])
}

/// A marker's batch with a delete horizon; its record, which nobody asks for its time, stays byte for byte.
pub fn with_horizon(batch: &[u8], horizon_ms: i64) -> Result<Vec<u8>, BatchError> {
    let info = parse_header(batch)?;
    let payload = batch.get(BATCH_HEADER_SIZE..info.size_bytes);
    let payload = payload.ok_or(BatchError::Truncated { needed: info.size_bytes })?;
    let attributes = info.attributes | DELETE_HORIZON_BIT;
    let info = BatchInfo { attributes, base_timestamp: horizon_ms, ..info };
    Ok(encode(&info, payload))
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn varint(&mut self) -> Result<i64, RecordsError> {
        let mut value = 0u64;
        for index in 0..10 {
            let byte =
                *self.bytes.get(self.at).ok_or(RecordsError::Malformed("the data ends inside a record"))?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(RecordsError::Malformed("varint too long"))
    }

    fn skip(&mut self, count: usize) -> Result<&'a [u8], RecordsError> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(RecordsError::Malformed("the data ends inside a record"))?;
        let bytes = &self.bytes[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn nullable_bytes(&mut self) -> Result<Option<&'a [u8]>, RecordsError> {
        match self.varint()? {
            -1 => Ok(None),
            size => {
                let size = usize::try_from(size).map_err(|_| RecordsError::Malformed("negative length"))?;
                self.skip(size).map(Some)
            }
        }
    }
}
