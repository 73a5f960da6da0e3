//! Produce (api key 0): decoded and encoded by hand, because it is the hot path.
//!
//! Owner: nobody; pure. Spec: ProduceRequest/ProduceResponse 0–13: KIP-98 (3), KIP-467 (8), KIP-482 (9 flexible),
//! KIP-951 (10), KIP-516 (13 topic ids).
//!
//! Invariants: one pass over the body, no allocation beyond the caller's reusable vector; record bytes are only
//! pointed at. Memory for a decoded request is at most ten times its frame, and bounded by [`PARTITIONS_MAX`].
//!
//! Must not: look into record batches (`record_batch` does).

use std::ops::Range;

use super::api_table::PRODUCE;
use super::primitives::{Reader, TopicRef, WireError, Writer};

/// Partitions one Produce request may name, all topics together.
pub const PARTITIONS_MAX: usize = 65_536;

const VERSION_MAX: i16 = 13;
const FLEXIBLE_SINCE: i16 = 9;
const TRANSACTIONAL_ID_SINCE: i16 = 3;
const TOPIC_ID_SINCE: i16 = 13;

/// What a Produce request says once for all its partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProduceRequest<'a> {
    /// Transactional id, if any.
    pub transactional_id: Option<&'a str>,
    /// 0, 1 or -1 (all); other values are for the handler to refuse.
    pub acks: i16,
    /// How long the client is willing to wait, milliseconds.
    pub timeout_ms: i32,
    /// Number of topic entries, those without partitions included.
    pub topic_count: u32,
}

/// One partition of a Produce request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducePartition<'a> {
    /// The topic.
    pub topic: TopicRef<'a>,
    /// Which topic entry of the request it belongs to, from 0; the response is grouped by it.
    pub topic_index: u32,
    /// Partition index as the client sent it.
    pub partition: i32,
    /// Where in the body its record bytes are; `None` for null.
    pub records: Option<Range<usize>>,
}

impl<'a> ProduceRequest<'a> {
    /// Decodes `body` (the frame behind its header), replacing the content of `out` with one entry per partition,
    /// in the order of the request.
    ///
    /// Versions 0–2 are decoded as well, only so that they can be answered per partition with UNSUPPORTED_VERSION.
    pub fn decode(
        body: &'a [u8],
        version: i16,
        out: &mut Vec<ProducePartition<'a>>,
    ) -> Result<Self, WireError> {
        out.clear();
        check_version(version)?;
        let flexible = version >= FLEXIBLE_SINCE;
        let mut reader = Reader::new(body);
        let mut request = decode_head(&mut reader, version)?;
        let topic_count = reader.array_len(flexible, topic_size_min(version))?;
        request.topic_count = topic_count as u32;
        for topic_index in 0..request.topic_count {
            let topic = decode_topic(&mut reader, version)?;
            let partition_count = reader.array_len(flexible, partition_size_min(version))?;
            if partition_count > PARTITIONS_MAX - out.len() {
                return Err(WireError::TooManyElements { limit: PARTITIONS_MAX });
            }
            out.reserve(partition_count);
            for _ in 0..partition_count {
                let partition = reader.i32()?;
                let records = reader.nullable_bytes(flexible)?.map(|bytes| {
                    let end = reader.position();
                    end - bytes.len()..end
                });
                reader.skip_tagged_fields(flexible)?;
                out.push(ProducePartition { topic, topic_index, partition, records });
            }
            reader.skip_tagged_fields(flexible)?;
        }
        reader.skip_tagged_fields(flexible)?;
        Ok(request)
    }
}

/// Empties a partition list so that its allocation can serve the next frame, which has another lifetime.
pub fn recycle<'b>(mut partitions: Vec<ProducePartition<'_>>) -> Vec<ProducePartition<'b>> {
    partitions.clear();
    // Collecting in place: the standard library keeps the allocation when the layouts are the same.
    partitions.into_iter().map(|_| unreachable!("the list is empty")).collect()
}

fn check_version(version: i16) -> Result<(), WireError> {
    if (0..=VERSION_MAX).contains(&version) {
        return Ok(());
    }
    Err(WireError::UnsupportedVersion { api_key: PRODUCE, version })
}

/// Everything in front of the topic array.
fn decode_head<'a>(reader: &mut Reader<'a>, version: i16) -> Result<ProduceRequest<'a>, WireError> {
    let transactional_id = match version >= TRANSACTIONAL_ID_SINCE {
        true => reader.nullable_string(version >= FLEXIBLE_SINCE)?,
        false => None,
    };
    Ok(ProduceRequest { transactional_id, acks: reader.i16()?, timeout_ms: reader.i32()?, topic_count: 0 })
}

fn decode_topic<'a>(reader: &mut Reader<'a>, version: i16) -> Result<TopicRef<'a>, WireError> {
    if version >= TOPIC_ID_SINCE {
        return reader.uuid().map(TopicRef::Id);
    }
    reader.string(version >= FLEXIBLE_SINCE).map(TopicRef::Name)
}

/// Smallest encoding of a topic entry: name or id, an empty array, tagged fields.
fn topic_size_min(version: i16) -> usize {
    match version {
        TOPIC_ID_SINCE.. => 16 + 1 + 1,
        FLEXIBLE_SINCE.. => 1 + 1 + 1,
        _ => 2 + 4,
    }
}

/// Smallest encoding of a partition entry: index, null records, tagged fields.
fn partition_size_min(version: i16) -> usize {
    if version >= FLEXIBLE_SINCE { 4 + 1 + 1 } else { 4 + 4 }
}

/// What the first bytes of a Produce body tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peek<'a> {
    /// One topic with one partition and records that are not null.
    Single(SingleProduce<'a>),
    /// The prefix is too short to tell; with more bytes it may be known.
    NeedMore,
    /// Anything else: several partitions, null records, malformed. Receive the frame and decode it.
    Other,
}

/// A Produce request for one partition, seen before its records have arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SingleProduce<'a> {
    /// Transactional id, if any.
    pub transactional_id: Option<&'a str>,
    /// 0, 1 or -1 (all).
    pub acks: i16,
    /// How long the client is willing to wait, milliseconds.
    pub timeout_ms: i32,
    /// The topic.
    pub topic: TopicRef<'a>,
    /// The partition.
    pub partition: i32,
    /// Offset of the first record byte in the body.
    pub records_start: usize,
    /// Length of the record bytes. **Not** compared with the frame: `prefix` is not all of it. The caller checks
    /// `records_start + records_len <= body size`, and that what follows is [`is_single_trailer`].
    pub records_len: usize,
}

/// Tells from a prefix of the body whether the request is for a single partition and where its records will be, so
/// that they can be received straight into that partition's buffer. Versions 3–13.
pub fn peek_single(prefix: &[u8], version: i16) -> Peek<'_> {
    if !(TRANSACTIONAL_ID_SINCE..=VERSION_MAX).contains(&version) {
        return Peek::Other;
    }
    match peek(prefix, version) {
        Ok(Some(single)) => Peek::Single(single),
        Ok(None) => Peek::Other,
        Err(WireError::Truncated { .. }) => Peek::NeedMore,
        Err(_) => Peek::Other,
    }
}

fn peek(prefix: &[u8], version: i16) -> Result<Option<SingleProduce<'_>>, WireError> {
    let flexible = version >= FLEXIBLE_SINCE;
    let mut reader = Reader::new(prefix);
    let head = decode_head(&mut reader, version)?;
    if reader.raw_len(flexible)? != Some(1) {
        return Ok(None);
    }
    let topic = decode_topic(&mut reader, version)?;
    if reader.raw_len(flexible)? != Some(1) {
        return Ok(None);
    }
    let partition = reader.i32()?;
    let Some(records_len) = reader.raw_len(flexible)? else { return Ok(None) };
    Ok(Some(SingleProduce {
        transactional_id: head.transactional_id,
        acks: head.acks,
        timeout_ms: head.timeout_ms,
        topic,
        partition,
        records_start: reader.position(),
        records_len,
    }))
}

/// Whether `trailer`, the bytes of a single-partition request behind its records, is well formed: three tagged-field
/// sections in flexible versions, nothing otherwise.
pub fn is_single_trailer(trailer: &[u8], version: i16) -> bool {
    let flexible = version >= FLEXIBLE_SINCE;
    let mut reader = Reader::new(trailer);
    (0..3).all(|_| reader.skip_tagged_fields(flexible).is_ok()) && reader.remaining() == 0
}

/// The outcome for one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProduceResult<'a> {
    /// The topic, as the request named it.
    pub topic: TopicRef<'a>,
    /// The topic entry of the request; results of one entry stand next to each other.
    pub topic_index: u32,
    /// The partition.
    pub partition: i32,
    /// Kafka error code, 0 for none.
    pub error_code: i16,
    /// Offset the first record got, or -1.
    pub base_offset: i64,
    /// Append time for LogAppendTime topics, else -1; milliseconds.
    pub log_append_time_ms: i64,
    /// Log start offset, or -1.
    pub log_start_offset: i64,
    /// For humans, from version 8 on.
    pub error_message: Option<&'a str>,
    /// Places in the batch of the records that made it be refused, from version 8 on (KIP-467).
    pub record_errors: &'a [i32],
}

/// Appends the response body for `version` 0–13. `results` in the order of the request, so that those of one
/// `topic_index` are adjacent.
pub fn encode_response(out: &mut Vec<u8>, version: i16, results: &[ProduceResult<'_>], throttle_ms: i32) {
    let flexible = version >= FLEXIBLE_SINCE;
    let same_topic = |a: &ProduceResult<'_>, b: &ProduceResult<'_>| a.topic_index == b.topic_index;
    let mut writer = Writer::new(out);
    writer.len(flexible, Some(results.chunk_by(same_topic).count()));
    for topic in results.chunk_by(same_topic) {
        writer.topic(topic[0].topic, flexible, version >= TOPIC_ID_SINCE);
        writer.len(flexible, Some(topic.len()));
        for result in topic {
            encode_partition(&mut writer, version, result);
        }
        writer.no_tagged_fields(flexible);
    }
    if version >= 1 {
        writer.i32(throttle_ms);
    }
    writer.no_tagged_fields(flexible);
}

fn encode_partition(writer: &mut Writer<'_>, version: i16, result: &ProduceResult<'_>) {
    let flexible = version >= FLEXIBLE_SINCE;
    writer.i32(result.partition);
    writer.i16(result.error_code);
    writer.i64(result.base_offset);
    if version >= 2 {
        writer.i64(result.log_append_time_ms);
    }
    if version >= 5 {
        writer.i64(result.log_start_offset);
    }
    if version >= 8 {
        writer.len(flexible, Some(result.record_errors.len()));
        for place in result.record_errors {
            writer.i32(*place);
            writer.nullable_string(flexible, result.error_message);
            writer.no_tagged_fields(flexible);
        }
        writer.nullable_string(flexible, result.error_message);
    }
    writer.no_tagged_fields(flexible);
}
