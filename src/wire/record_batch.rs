//! A view on record batches v2 (magic 2): header, checksum, validation on arrival, and the three patches a broker
//! may apply.
//!
//! Owner: nobody; pure. Spec: Kafka documentation "Record Batch"; KIP-98. Byte layout, big-endian:
//!
//! ```text
//!  0 base_offset i64        patched by us, outside the CRC
//!  8 batch_length i32       bytes after this field
//! 12 leader_epoch i32       patched by us, outside the CRC
//! 16 magic i8 = 2
//! 17 crc u32                CRC-32C of everything from byte 21 on
//! 21 attributes i16         0-2 codec, 3 timestamp type, 4 transactional, 5 control, 6 delete horizon
//! 23 last_offset_delta i32
//! 27 base_timestamp i64     35 max_timestamp i64
//! 43 producer_id i64        51 producer_epoch i16      53 base_sequence i32
//! 57 record_count i32       61 records, maybe compressed
//! ```
//!
//! Invariants: a batch is validated once, by [`validate_for_append`]; afterwards its records stay opaque and only
//! the bytes outside the CRC change, except for topics with LogAppendTime. What is read back from disk goes through
//! [`parse_header`] and [`crc_ok`] again: disks are no more trusted than clients.
//!
//! Must not: decompress, look into records, allocate.

use zerocopy::byteorder::big_endian::{I16, I32, I64, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Size of the batch header in bytes.
pub const BATCH_HEADER_SIZE: usize = 61;
/// Bytes of a batch in front of what `batch_length` counts: base offset and the length itself.
pub const BATCH_LENGTH_PREFIX_SIZE: usize = 12;
/// Where the bytes covered by the CRC begin.
pub const CRC_COVERS_FROM: usize = 21;
/// No record is smaller: length, attributes, timestamp delta, offset delta, key length, value length, header count,
/// one byte each.
pub const RECORD_SIZE_BYTES_MIN: usize = 7;
/// A timestamp that means "none".
pub const NO_TIMESTAMP: i64 = -1;

const MAGIC: i8 = 2;
const BATCH_LENGTH_MIN: i32 = (BATCH_HEADER_SIZE - BATCH_LENGTH_PREFIX_SIZE) as i32;
const CODEC_MASK: i16 = 0x07;
const LOG_APPEND_TIME_BIT: i16 = 0x08;
const TRANSACTIONAL_BIT: i16 = 0x10;
const CONTROL_BIT: i16 = 0x20;
/// The base timestamp is the time until which the batch's tombstones stay (KIP-534); only the log cleaner sets it.
pub(super) const DELETE_HORIZON_BIT: i16 = 0x40;
const CLIENT_ATTRIBUTES_MASK: i16 = CODEC_MASK | LOG_APPEND_TIME_BIT | TRANSACTIONAL_BIT | CONTROL_BIT;

/// The header as it lies in memory; see the module's byte diagram.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: I64,
    /// Bytes that follow this field.
    pub batch_length: I32,
    /// Epoch of the leader that appended the batch.
    pub leader_epoch: I32,
    /// Format version, 2.
    pub magic: i8,
    /// CRC-32C of the bytes from [`CRC_COVERS_FROM`] on.
    pub crc: U32,
    /// Codec and flags.
    pub attributes: I16,
    /// Offset of the last record, relative to `base_offset`.
    pub last_offset_delta: I32,
    /// Timestamp of the first record, milliseconds.
    pub base_timestamp: I64,
    /// Largest timestamp of any record, milliseconds; the append time for LogAppendTime.
    pub max_timestamp: I64,
    /// Producer id, or -1.
    pub producer_id: I64,
    /// Producer epoch.
    pub producer_epoch: I16,
    /// Sequence number of the first record.
    pub base_sequence: I32,
    /// Number of records.
    pub record_count: I32,
}

const _: () = assert!(size_of::<BatchHeader>() == BATCH_HEADER_SIZE);

/// Compression codec of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum Compression {
    /// Not compressed.
    None = 0,
    /// gzip.
    Gzip = 1,
    /// Snappy, raw or in xerial framing.
    Snappy = 2,
    /// LZ4 frame.
    Lz4 = 3,
    /// Zstandard (KIP-110; Produce v7 and Fetch v10 on).
    Zstd = 4,
}

/// Where the timestamps of a batch come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// From the producer, one per record.
    CreateTime,
    /// From the broker: every record has the batch's `max_timestamp`.
    LogAppendTime,
}

/// Why bytes are not a batch, or not one that may be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The slice ends before the header or the batch does.
    #[error("truncated: {needed} bytes needed")]
    Truncated {
        /// Bytes needed to go on.
        needed: usize,
    },
    /// A header of zeros: the end of the data in a preallocated file.
    #[error("an all-zero header: no batch here")]
    Empty,
    /// A format version other than 2.
    #[error("magic {0} instead of 2")]
    Magic(i8),
    /// A batch length shorter than a header.
    #[error("batch length {0} is impossible")]
    Length(i32),
    /// Bytes behind the one batch that is allowed.
    #[error("{0} bytes behind the batch")]
    TrailingBytes(usize),
    /// The checksum does not match.
    #[error("checksum mismatch")]
    Crc,
    /// Base offset negative, or the last offset beyond the largest.
    #[error("base offset {0} is impossible")]
    BaseOffset(i64),
    /// Counts that contradict each other or the size.
    #[error("{record_count} records with last offset delta {last_offset_delta}")]
    Counts {
        /// Record count of the header.
        record_count: i32,
        /// Last offset delta of the header.
        last_offset_delta: i32,
    },
    /// An unknown codec.
    #[error("compression codec {0} is unknown or not allowed here")]
    Codec(i16),
    /// Attribute bits a client may not set.
    #[error("attributes {0:#06x} are not for clients to set")]
    Attributes(i16),
    /// Producer id, epoch and sequence that contradict each other.
    #[error("producer id, epoch and sequence are inconsistent")]
    Producer,
    /// A timestamp outside the topic's bounds.
    #[error("timestamp {0} is out of bounds")]
    Timestamp(i64),
    /// Larger than the topic's `max.message.bytes`.
    #[error("batch of {size_bytes} bytes is over the limit of {limit_bytes}")]
    TooLarge {
        /// Size of the batch.
        size_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
}

impl BatchError {
    /// The Kafka error code a producer must get for this. CORRUPT_MESSAGE makes clients retry, so it is only given
    /// where the bytes may have been damaged on their way.
    pub fn kafka_code(self) -> i16 {
        const CORRUPT_MESSAGE: i16 = 2;
        const MESSAGE_TOO_LARGE: i16 = 10;
        const INVALID_TIMESTAMP: i16 = 32;
        const UNSUPPORTED_FOR_MESSAGE_FORMAT: i16 = 43;
        const UNSUPPORTED_COMPRESSION_TYPE: i16 = 76;
        const INVALID_RECORD: i16 = 87;
        match self {
            BatchError::Truncated { .. } | BatchError::Length(_) | BatchError::Crc => CORRUPT_MESSAGE,
            BatchError::Magic(0 | 1) => UNSUPPORTED_FOR_MESSAGE_FORMAT,
            BatchError::Magic(_) | BatchError::Empty => CORRUPT_MESSAGE,
            BatchError::TooLarge { .. } => MESSAGE_TOO_LARGE,
            BatchError::Timestamp(_) => INVALID_TIMESTAMP,
            BatchError::Codec(_) => UNSUPPORTED_COMPRESSION_TYPE,
            BatchError::TrailingBytes(_)
            | BatchError::BaseOffset(_)
            | BatchError::Counts { .. }
            | BatchError::Attributes(_)
            | BatchError::Producer => INVALID_RECORD,
        }
    }
}

/// The header in native form: what the rest of the broker needs to know of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchInfo {
    /// Size of the whole batch, header included, in bytes.
    pub size_bytes: usize,
    /// Offset of the first record.
    pub base_offset: i64,
    /// Offset of the last record relative to the first.
    pub last_offset_delta: i32,
    /// Number of records.
    pub record_count: i32,
    /// Leader epoch.
    pub leader_epoch: i32,
    /// Raw attribute bits.
    pub attributes: i16,
    /// Timestamp the records' deltas count from, milliseconds.
    pub base_timestamp: i64,
    /// Largest timestamp, milliseconds.
    pub max_timestamp: i64,
    /// Producer id, or -1 for a producer that is not idempotent.
    pub producer_id: i64,
    /// Producer epoch; meaningless without a producer id.
    pub producer_epoch: i16,
    /// First sequence number; meaningless without a producer id.
    pub base_sequence: i32,
    /// The stored checksum; [`crc_ok`] says whether it is right.
    pub crc: u32,
}

impl BatchInfo {
    fn from_header(header: &BatchHeader) -> Self {
        BatchInfo {
            size_bytes: BATCH_LENGTH_PREFIX_SIZE + header.batch_length.get() as usize,
            base_offset: header.base_offset.get(),
            last_offset_delta: header.last_offset_delta.get(),
            record_count: header.record_count.get(),
            leader_epoch: header.leader_epoch.get(),
            attributes: header.attributes.get(),
            base_timestamp: header.base_timestamp.get(),
            max_timestamp: header.max_timestamp.get(),
            producer_id: header.producer_id.get(),
            producer_epoch: header.producer_epoch.get(),
            base_sequence: header.base_sequence.get(),
            crc: header.crc.get(),
        }
    }

    /// The codec, unless unknown.
    pub fn compression(&self) -> Result<Compression, BatchError> {
        Ok(match self.attributes & CODEC_MASK {
            0 => Compression::None,
            1 => Compression::Gzip,
            2 => Compression::Snappy,
            3 => Compression::Lz4,
            4 => Compression::Zstd,
            codec => return Err(BatchError::Codec(codec)),
        })
    }

    /// Whether the batch is part of a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Whether it is a control batch (a transaction's end marker).
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// Until when the batch's tombstones must stay, milliseconds; `None` before compaction has said so (KIP-534).
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON_BIT != 0).then_some(self.base_timestamp)
    }

    /// Whose clock the timestamps are from.
    pub fn timestamp_type(&self) -> TimestampType {
        match self.attributes & LOG_APPEND_TIME_BIT {
            0 => TimestampType::CreateTime,
            _ => TimestampType::LogAppendTime,
        }
    }

    /// Whether an idempotent producer sent it.
    pub fn has_producer(&self) -> bool {
        self.producer_id >= 0
    }

    /// Offset of the last record.
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    /// Offset that follows the batch.
    pub fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }

    /// Sequence number of the last record; sequences wrap from `i32::MAX` to 0.
    pub fn last_sequence(&self) -> i32 {
        self.base_sequence.wrapping_add(self.last_offset_delta) & i32::MAX
    }
}

/// Reads the header's structure: magic, length, counts, but not the base offset, which clients fill as they like.
fn parse_structure(bytes: &[u8]) -> Result<BatchInfo, BatchError> {
    let Ok((header, _)) = BatchHeader::ref_from_prefix(bytes) else {
        return Err(BatchError::Truncated { needed: BATCH_HEADER_SIZE });
    };
    if header.magic != MAGIC {
        // Only on this path, so that the zeros are never looked for in a good batch.
        if header.as_bytes().iter().all(|&byte| byte == 0) {
            return Err(BatchError::Empty);
        }
        return Err(BatchError::Magic(header.magic));
    }
    if header.batch_length.get() < BATCH_LENGTH_MIN {
        return Err(BatchError::Length(header.batch_length.get()));
    }
    let info = BatchInfo::from_header(header);
    // Compaction removes records and keeps the offsets, down to batches with none; more records than offsets
    // never happen.
    let possible = info.record_count >= 0
        && info.last_offset_delta >= 0
        && i64::from(info.record_count) <= i64::from(info.last_offset_delta) + 1;
    if !possible {
        return Err(counts_error(&info));
    }
    Ok(info)
}

fn counts_error(info: &BatchInfo) -> BatchError {
    BatchError::Counts { record_count: info.record_count, last_offset_delta: info.last_offset_delta }
}

/// Reads a header from the log: structure only, the rest of the batch need not be in `bytes`.
///
/// Errors: [`BatchError::Truncated`] for fewer than 61 bytes, [`BatchError::Empty`] for 61 zeros, else what is wrong.
pub fn parse_header(bytes: &[u8]) -> Result<BatchInfo, BatchError> {
    let info = parse_structure(bytes)?;
    let last = info.base_offset.checked_add(i64::from(info.last_offset_delta));
    if info.base_offset < 0 || last.is_none_or(|last| last == i64::MAX) {
        return Err(BatchError::BaseOffset(info.base_offset));
    }
    Ok(info)
}

/// As [`parse_header`], and the whole batch must be at the start of `bytes` with the right checksum: what recovery
/// and readers of cold data need.
pub fn parse_whole(bytes: &[u8]) -> Result<BatchInfo, BatchError> {
    let info = parse_header(bytes)?;
    if info.size_bytes > bytes.len() {
        return Err(BatchError::Truncated { needed: info.size_bytes });
    }
    if !crc_ok(&bytes[..info.size_bytes]) {
        return Err(BatchError::Crc);
    }
    Ok(info)
}

/// Whether the checksum of `batch`, exactly one batch, is right. False for anything shorter than a header.
pub fn crc_ok(batch: &[u8]) -> bool {
    match BatchHeader::ref_from_prefix(batch) {
        Ok((header, _)) => header.crc.get() == crc32c::crc32c(&batch[CRC_COVERS_FROM..]),
        Err(_) => false,
    }
}

/// What a topic allows a client to append.
#[derive(Debug, Clone, Copy)]
pub struct AppendLimits {
    /// `max.message.bytes`: largest batch, header included.
    pub max_batch_bytes: usize,
    /// The broker's clock, milliseconds since 1970.
    pub now_ms: i64,
    /// `message.timestamp.before.max.ms` (KIP-937); `i64::MAX` for no bound.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms` (KIP-937); `i64::MAX` for no bound.
    pub timestamp_after_max_ms: i64,
    /// The topic has LogAppendTime: the client's timestamps will be overwritten, so their bounds do not matter.
    pub log_append_time: bool,
    /// Whether zstd may be used: Produce v7 and later (KIP-110).
    pub allow_zstd: bool,
}

/// Validates what a client sent for one partition: exactly one batch that fills `bytes`, with everything in its
/// header consistent and within `limits`, and the right checksum. The only place where this is done.
///
/// A producer id of -1 makes epoch and sequence meaningless, and they are not looked at: Sarama and KafkaJS leave
/// zeros there.
pub fn validate_for_append(bytes: &[u8], limits: &AppendLimits) -> Result<BatchInfo, BatchError> {
    let info = parse_structure(bytes)?;
    if info.size_bytes > bytes.len() {
        return Err(BatchError::Truncated { needed: info.size_bytes });
    }
    if info.size_bytes < bytes.len() {
        return Err(BatchError::TrailingBytes(bytes.len() - info.size_bytes));
    }
    if info.size_bytes > limits.max_batch_bytes {
        let (size_bytes, limit_bytes) = (info.size_bytes, limits.max_batch_bytes);
        return Err(BatchError::TooLarge { size_bytes, limit_bytes });
    }
    // Before the other fields: what was damaged on its way must look like damage, not like a client's mistake.
    if !crc_ok(bytes) {
        return Err(BatchError::Crc);
    }
    validate_attributes(&info, limits)?;
    validate_counts(&info)?;
    let producer_ok = match info.producer_id {
        -1 => !info.is_transactional(),
        id => id >= 0 && info.producer_epoch >= 0 && info.base_sequence >= 0,
    };
    if !producer_ok {
        return Err(BatchError::Producer);
    }
    if !limits.log_append_time {
        validate_timestamp(info.base_timestamp, limits)?;
        validate_timestamp(info.max_timestamp, limits)?;
    }
    Ok(info)
}

fn validate_attributes(info: &BatchInfo, limits: &AppendLimits) -> Result<(), BatchError> {
    if info.attributes & !CLIENT_ATTRIBUTES_MASK != 0 || info.is_control() {
        return Err(BatchError::Attributes(info.attributes));
    }
    if info.timestamp_type() == TimestampType::LogAppendTime {
        // Kafka answers INVALID_TIMESTAMP here: only a broker's clock may claim that.
        return Err(BatchError::Timestamp(info.max_timestamp));
    }
    match info.compression()? {
        Compression::Zstd if !limits.allow_zstd => Err(BatchError::Codec(Compression::Zstd as i16)),
        _ => Ok(()),
    }
}

fn validate_counts(info: &BatchInfo) -> Result<(), BatchError> {
    let dense = info.record_count > 0 && info.record_count - 1 == info.last_offset_delta;
    let records_bytes = info.size_bytes - BATCH_HEADER_SIZE;
    let fits = match info.compression()? {
        Compression::None => (info.record_count as usize) * RECORD_SIZE_BYTES_MIN <= records_bytes,
        _ => records_bytes > 0,
    };
    if dense && fits { Ok(()) } else { Err(counts_error(info)) }
}

fn validate_timestamp(timestamp_ms: i64, limits: &AppendLimits) -> Result<(), BatchError> {
    if timestamp_ms == NO_TIMESTAMP {
        return Ok(());
    }
    let oldest = limits.now_ms.saturating_sub(limits.timestamp_before_max_ms);
    let newest = limits.now_ms.saturating_add(limits.timestamp_after_max_ms);
    if timestamp_ms < 0 || timestamp_ms < oldest || timestamp_ms > newest {
        return Err(BatchError::Timestamp(timestamp_ms));
    }
    Ok(())
}

fn header_mut(batch: &mut [u8]) -> &mut BatchHeader {
    BatchHeader::mut_from_prefix(batch).expect("only validated batches are patched").0
}

/// Gives a validated batch its place in the log. Base offset and leader epoch lie outside the CRC. Panics on fewer
/// than 61 bytes: only validated batches get here.
pub fn patch(batch: &mut [u8], base_offset: i64, leader_epoch: i32) {
    let header = header_mut(batch);
    header.base_offset = base_offset.into();
    header.leader_epoch = leader_epoch.into();
}

/// Stamps a validated batch with the broker's time and recomputes the CRC over all of `batch`, exactly one batch.
/// The records keep their deltas: readers of a LogAppendTime batch take `max_timestamp` for all. Panics as [`patch`].
pub fn patch_log_append_time(batch: &mut [u8], now_ms: i64) {
    let header = header_mut(batch);
    header.attributes = (header.attributes.get() | LOG_APPEND_TIME_BIT).into();
    header.max_timestamp = now_ms.into();
    let crc = crc32c::crc32c(&batch[CRC_COVERS_FROM..]);
    header_mut(batch).crc = crc.into();
}
