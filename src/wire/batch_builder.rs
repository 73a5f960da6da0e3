//! Builds record batches v2, for tests and tools. The broker itself never builds one on its data path: it stores
//! what clients send (`batch_filter` and `control_batch` borrow the compression and the header).
//!
//! Owner: nobody; pure. Spec: Kafka documentation "Record Batch" and "Record".
//!
//! Invariants: what it builds passes `record_batch::validate_for_append` under generous limits, unless a setter was
//! used to make it wrong on purpose.

use std::io::Write;

use zerocopy::IntoBytes;

use super::primitives::Writer;
use super::record_batch::{
    BATCH_HEADER_SIZE, BATCH_LENGTH_PREFIX_SIZE, BatchHeader, BatchInfo, CRC_COVERS_FROM, Compression,
    NO_TIMESTAMP,
};

/// The fastest level of gzip.
pub(super) const GZIP_FAST: u32 = 1;
/// Uncompressed bytes of one xerial block, as Java's writer cuts them.
const XERIAL_BLOCK_SIZE: usize = 32 * 1024;
/// First bytes of xerial's snappy framing: magic, version 1, compatible with 1.
pub(super) const XERIAL_HEADER: [u8; 16] =
    [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];

/// Collects records and encodes them as one batch.
///
/// ```
/// use ringlog::wire::batch_builder::BatchBuilder;
/// let batch = BatchBuilder::new().record(1_000, Some(b"key"), Some(b"value")).build();
/// assert!(ringlog::wire::record_batch::crc_ok(&batch));
/// ```
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    base_offset: i64,
    leader_epoch: i32,
    compression: Compression,
    xerial: bool,
    flags: i16,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    base_timestamp: Option<i64>,
    max_timestamp: i64,
    record_count: i32,
    records: Vec<u8>,
    scratch: Vec<u8>,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        BatchBuilder {
            base_offset: 0,
            leader_epoch: -1,
            compression: Compression::None,
            xerial: false,
            flags: 0,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            base_timestamp: None,
            max_timestamp: NO_TIMESTAMP,
            record_count: 0,
            records: Vec::new(),
            scratch: Vec::new(),
        }
    }
}

impl BatchBuilder {
    /// An empty batch: no producer, no compression, base offset 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the base offset.
    pub fn base_offset(mut self, base_offset: i64) -> Self {
        self.base_offset = base_offset;
        self
    }

    /// Sets the leader epoch.
    pub fn leader_epoch(mut self, leader_epoch: i32) -> Self {
        self.leader_epoch = leader_epoch;
        self
    }

    /// Sets the codec. Snappy is written raw, as librdkafka does; see [`BatchBuilder::xerial`].
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Writes snappy in xerial framing, as Java and Go clients do.
    pub fn xerial(mut self) -> Self {
        self.compression = Compression::Snappy;
        self.xerial = true;
        self
    }

    /// Sets the fields of an idempotent producer.
    pub fn producer(mut self, producer_id: i64, producer_epoch: i16, base_sequence: i32) -> Self {
        self.producer_id = producer_id;
        self.producer_epoch = producer_epoch;
        self.base_sequence = base_sequence;
        self
    }

    /// Sets attribute bits beside the codec: 0x10 transactional, 0x20 control, or wrong ones for a test.
    pub fn flags(mut self, flags: i16) -> Self {
        self.flags = flags;
        self
    }

    /// Adds a record without headers. `timestamp_ms` in milliseconds since 1970.
    pub fn record(self, timestamp_ms: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        self.record_with_headers(timestamp_ms, key, value, &[])
    }

    /// Adds a record with headers.
    pub fn record_with_headers(
        mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> Self {
        let base_timestamp = *self.base_timestamp.get_or_insert(timestamp_ms);
        self.max_timestamp = self.max_timestamp.max(timestamp_ms);
        self.scratch.clear();
        let mut body = Writer::new(&mut self.scratch);
        body.i8(0);
        body.varlong(timestamp_ms.wrapping_sub(base_timestamp));
        body.varint(self.record_count);
        varint_bytes(&mut body, key);
        varint_bytes(&mut body, value);
        body.varint(headers.len() as i32);
        for (name, value) in headers {
            varint_bytes(&mut body, Some(name.as_bytes()));
            varint_bytes(&mut body, *value);
        }
        let mut records = Writer::new(&mut self.records);
        records.varint(self.scratch.len() as i32);
        records.raw(&self.scratch);
        self.record_count += 1;
        self
    }

    /// Encodes the batch.
    pub fn build(&self) -> Vec<u8> {
        let payload = compress(self.compression, self.xerial, GZIP_FAST, &self.records);
        let info = BatchInfo {
            size_bytes: 0,
            base_offset: self.base_offset,
            last_offset_delta: (self.record_count - 1).max(0),
            record_count: self.record_count,
            leader_epoch: self.leader_epoch,
            attributes: self.compression as i16 | self.flags,
            base_timestamp: self.base_timestamp.unwrap_or(NO_TIMESTAMP),
            max_timestamp: self.max_timestamp,
            producer_id: self.producer_id,
            producer_epoch: self.producer_epoch,
            base_sequence: self.base_sequence,
            crc: 0,
        };
        encode(&info, &payload)
    }
}

/// A batch of that header and those bytes of records; size and checksum of `info` are not looked at but made.
pub(super) fn encode(info: &BatchInfo, payload: &[u8]) -> Vec<u8> {
    let size_bytes = BATCH_HEADER_SIZE + payload.len();
    let header = BatchHeader {
        base_offset: info.base_offset.into(),
        batch_length: ((size_bytes - BATCH_LENGTH_PREFIX_SIZE) as i32).into(),
        leader_epoch: info.leader_epoch.into(),
        magic: 2,
        crc: 0.into(),
        attributes: info.attributes.into(),
        last_offset_delta: info.last_offset_delta.into(),
        base_timestamp: info.base_timestamp.into(),
        max_timestamp: info.max_timestamp.into(),
        producer_id: info.producer_id.into(),
        producer_epoch: info.producer_epoch.into(),
        base_sequence: info.base_sequence.into(),
        record_count: info.record_count.into(),
    };
    let mut batch = Vec::with_capacity(size_bytes);
    batch.extend_from_slice(header.as_bytes());
    batch.extend_from_slice(payload);
    reseal(&mut batch);
    batch
}

/// Recomputes the checksum of a batch that a test has tampered with. Panics on fewer than 61 bytes.
pub fn reseal(batch: &mut [u8]) {
    let crc = crc32c::crc32c(&batch[CRC_COVERS_FROM..]);
    batch[CRC_COVERS_FROM - 4..CRC_COVERS_FROM].copy_from_slice(&crc.to_be_bytes());
}

fn varint_bytes(out: &mut Writer<'_>, bytes: Option<&[u8]>) {
    out.varint(bytes.map_or(-1, |bytes| bytes.len() as i32));
    out.raw(bytes.unwrap_or_default());
}

/// Packs encoded records; `xerial` frames snappy as Java and Go clients do. `gzip_level` is 1 to 9.
pub(super) fn compress(compression: Compression, xerial: bool, gzip_level: u32, records: &[u8]) -> Vec<u8> {
    const IN_MEMORY: &str = "writing to memory does not fail";
    match compression {
        Compression::None => records.to_vec(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(gzip_level));
            encoder.write_all(records).expect(IN_MEMORY);
            encoder.finish().expect(IN_MEMORY)
        }
        Compression::Snappy if xerial => {
            let mut out = XERIAL_HEADER.to_vec();
            for block in records.chunks(XERIAL_BLOCK_SIZE) {
                let packed = snap::raw::Encoder::new().compress_vec(block).expect(IN_MEMORY);
                out.extend_from_slice(&(packed.len() as u32).to_be_bytes());
                out.extend_from_slice(&packed);
            }
            out
        }
        Compression::Snappy => snap::raw::Encoder::new().compress_vec(records).expect(IN_MEMORY),
        Compression::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(records).expect(IN_MEMORY);
            encoder.finish().expect(IN_MEMORY)
        }
        Compression::Zstd => {
            ruzstd::encoding::compress_to_vec(records, ruzstd::encoding::CompressionLevel::Fastest)
        }
    }
}
