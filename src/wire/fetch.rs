//! Fetch (api key 1): decoded and encoded by hand, because it is the hot path and its records must not be copied.
//!
//! Owner: nobody; pure. Spec: FetchRequest/FetchResponse 4–18: KIP-98 (4), KIP-107 (5), KIP-227 sessions (7), KIP-320
//! (9), KIP-392 (11), KIP-595 and flexible (12), KIP-516 topic ids (13), KIP-903 replica state (15), KIP-853 (17),
//! KIP-1166 (18).
//!
//! Invariants: a decoded request owns its data, for it may be parked after its frame is gone; its memory is at most
//! ten times the frame and bounded by [`PARTITIONS_MAX`]. A response is a *skeleton* without the record bytes plus
//! the cut points where those belong, so that skeleton slices and record slices leave in one vectored write.
//!
//! Must not: touch record bytes.

use super::api_table::FETCH;
use super::primitives::{Reader, TopicKey, TopicRef, WireError, Writer};

/// Partitions one Fetch request may name, to fetch and to forget together.
pub const PARTITIONS_MAX: usize = 131_072;
/// Longest rack id that is kept, bytes.
pub const RACK_ID_SIZE_MAX: usize = 1024;

const VERSION_MIN: i16 = 4;
const VERSION_MAX: i16 = 18;
const FLEXIBLE_SINCE: i16 = 12;
const SESSION_SINCE: i16 = 7;
const TOPIC_ID_SINCE: i16 = 13;
const REPLICA_STATE_SINCE: i16 = 15;

/// A Fetch request. Owned; decode into the same value again to reuse its vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchRequest {
    /// -1 for consumers. Anything else claims to be a replica and must be authorised as one.
    pub replica_id: i32,
    /// How long to wait for `min_bytes`, milliseconds.
    pub max_wait_ms: i32,
    /// Answer at once when this much is there.
    pub min_bytes: i32,
    /// Limit for the whole response; the first batch is returned even if larger.
    pub max_bytes: i32,
    /// 0 read_uncommitted, 1 read_committed.
    pub isolation_level: i8,
    /// Fetch session, 0 for none.
    pub session_id: i32,
    /// Session epoch: -1 for no session, 0 to open one.
    pub session_epoch: i32,
    /// What to fetch, in order; in a session, what changed.
    pub partitions: Vec<FetchPartition>,
    /// Partitions to drop from the session.
    pub forgotten: Vec<(TopicKey, i32)>,
    /// Rack of the consumer, empty for none.
    pub rack_id: String,
}

/// One partition to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchPartition {
    /// The topic; names are shared between the partitions of a topic.
    pub topic: TopicKey,
    /// Partition index.
    pub partition: i32,
    /// Leader epoch the client knows, or -1.
    pub current_leader_epoch: i32,
    /// Where to start.
    pub fetch_offset: i64,
    /// Epoch of the last record a follower has, or -1.
    pub last_fetched_epoch: i32,
    /// Log start of a follower, or -1.
    pub log_start_offset: i64,
    /// Limit for this partition; the first batch is returned even if larger.
    pub max_bytes: i32,
}

impl Default for FetchRequest {
    fn default() -> Self {
        FetchRequest {
            replica_id: -1,
            max_wait_ms: 0,
            min_bytes: 0,
            max_bytes: 0,
            isolation_level: 0,
            session_id: 0,
            session_epoch: -1,
            partitions: Vec::new(),
            forgotten: Vec::new(),
            rack_id: String::new(),
        }
    }
}

impl FetchRequest {
    /// Decodes `body` (the frame behind its header) into a new value.
    pub fn decode(body: &[u8], version: i16) -> Result<Self, WireError> {
        let mut request = FetchRequest::default();
        request.decode_into(body, version)?;
        Ok(request)
    }

    /// As [`FetchRequest::decode`], reusing the vectors of `self`. After an error the content of `self` is
    /// unspecified.
    pub fn decode_into(&mut self, body: &[u8], version: i16) -> Result<(), WireError> {
        if !(VERSION_MIN..=VERSION_MAX).contains(&version) {
            return Err(WireError::UnsupportedVersion { api_key: FETCH, version });
        }
        let flexible = version >= FLEXIBLE_SINCE;
        let mut reader = Reader::new(body);
        self.partitions.clear();
        self.forgotten.clear();
        self.rack_id.clear();
        self.replica_id = if version < REPLICA_STATE_SINCE { reader.i32()? } else { -1 };
        self.max_wait_ms = reader.i32()?;
        self.min_bytes = reader.i32()?;
        self.max_bytes = reader.i32()?;
        self.isolation_level = reader.i8()?;
        (self.session_id, self.session_epoch) = match version >= SESSION_SINCE {
            true => (reader.i32()?, reader.i32()?),
            false => (0, -1),
        };
        for _ in 0..reader.array_len(flexible, topic_size_min(version))? {
            self.decode_topic(&mut reader, version)?;
        }
        if version >= SESSION_SINCE {
            for _ in 0..reader.array_len(flexible, topic_size_min(version))? {
                self.decode_forgotten(&mut reader, version)?;
            }
        }
        if version >= 11 {
            let rack_id = reader.string(flexible)?;
            if rack_id.len() > RACK_ID_SIZE_MAX {
                return Err(WireError::TooManyElements { limit: RACK_ID_SIZE_MAX });
            }
            self.rack_id.push_str(rack_id);
        }
        if flexible {
            reader.tagged_fields(|tag, content| self.decode_tag(tag, content, version))?;
        }
        Ok(())
    }

    /// Cluster id (tag 0) is for replicas of another design and is ignored; replica state (tag 1) is the id.
    fn decode_tag(&mut self, tag: u32, content: &[u8], version: i16) -> Result<(), WireError> {
        if tag == 1 && version >= REPLICA_STATE_SINCE {
            let mut state = Reader::new(content);
            self.replica_id = state.i32()?;
            let _replica_epoch = state.i64()?;
            state.skip_tagged_fields(true)?;
        }
        Ok(())
    }

    fn room_for(&self, count: usize) -> Result<(), WireError> {
        if count > PARTITIONS_MAX - self.partitions.len() - self.forgotten.len() {
            return Err(WireError::TooManyElements { limit: PARTITIONS_MAX });
        }
        Ok(())
    }

    fn decode_topic(&mut self, reader: &mut Reader<'_>, version: i16) -> Result<(), WireError> {
        let flexible = version >= FLEXIBLE_SINCE;
        let topic = decode_topic_ref(reader, version)?;
        let count = reader.array_len(flexible, partition_size_min(version))?;
        self.room_for(count)?;
        if count > 0 {
            let topic = topic.to_key();
            self.partitions.reserve(count);
            for _ in 0..count {
                self.partitions.push(decode_partition(reader, version, topic.clone())?);
            }
        }
        reader.skip_tagged_fields(flexible)
    }

    fn decode_forgotten(&mut self, reader: &mut Reader<'_>, version: i16) -> Result<(), WireError> {
        let flexible = version >= FLEXIBLE_SINCE;
        let topic = decode_topic_ref(reader, version)?;
        let count = reader.array_len(flexible, size_of::<i32>())?;
        self.room_for(count)?;
        if count > 0 {
            let topic = topic.to_key();
            self.forgotten.reserve(count);
            for _ in 0..count {
                self.forgotten.push((topic.clone(), reader.i32()?));
            }
        }
        reader.skip_tagged_fields(flexible)
    }
}

fn decode_topic_ref<'a>(reader: &mut Reader<'a>, version: i16) -> Result<TopicRef<'a>, WireError> {
    if version >= TOPIC_ID_SINCE {
        return reader.uuid().map(TopicRef::Id);
    }
    reader.string(version >= FLEXIBLE_SINCE).map(TopicRef::Name)
}

fn decode_partition(
    reader: &mut Reader<'_>,
    version: i16,
    topic: TopicKey,
) -> Result<FetchPartition, WireError> {
    let partition = FetchPartition {
        topic,
        partition: reader.i32()?,
        current_leader_epoch: if version >= 9 { reader.i32()? } else { -1 },
        fetch_offset: reader.i64()?,
        last_fetched_epoch: if version >= FLEXIBLE_SINCE { reader.i32()? } else { -1 },
        log_start_offset: if version >= 5 { reader.i64()? } else { -1 },
        max_bytes: reader.i32()?,
    };
    // Replica directory id (v17) and high watermark (v18) are said by followers only.
    reader.skip_tagged_fields(version >= FLEXIBLE_SINCE)?;
    Ok(partition)
}

/// Smallest encoding of a topic entry: name or id, an empty array, tagged fields.
fn topic_size_min(version: i16) -> usize {
    match version {
        TOPIC_ID_SINCE.. => 16 + 1 + 1,
        FLEXIBLE_SINCE.. => 1 + 1 + 1,
        _ => 2 + 4,
    }
}

/// Encoded size of a partition entry without the content of its tagged fields.
fn partition_size_min(version: i16) -> usize {
    match version {
        FLEXIBLE_SINCE.. => 4 + 4 + 8 + 4 + 8 + 4 + 1,
        9.. => 4 + 4 + 8 + 8 + 4,
        5.. => 4 + 8 + 8 + 4,
        _ => 4 + 8 + 4,
    }
}

/// What a response says about one partition, apart from its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchPartitionHead<'a> {
    /// Partition index.
    pub partition: i32,
    /// Kafka error code, 0 for none.
    pub error_code: i16,
    /// High watermark, or -1.
    pub high_watermark: i64,
    /// Last stable offset, or -1.
    pub last_stable_offset: i64,
    /// Log start offset, or -1.
    pub log_start_offset: i64,
    /// Aborted transactions as (producer id, first offset); `None` for read_uncommitted.
    pub aborted: Option<&'a [(i64, i64)]>,
    /// Replica the consumer should rather ask (KIP-392), or -1.
    pub preferred_read_replica: i32,
    /// (epoch, end offset) where a follower's log diverges (KIP-595), v12 on.
    pub diverging_epoch: Option<(i32, i64)>,
    /// Bytes of records that will be sent at the cut; `None` sends null. Use `Some(0)` when there are none: some
    /// clients do not expect null.
    pub records_len: Option<u32>,
}

impl FetchPartitionHead<'_> {
    /// The entry for a partition that could not be read: an error, no offsets, no records.
    pub fn error(partition: i32, error_code: i16) -> Self {
        FetchPartitionHead {
            partition,
            error_code,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            aborted: None,
            preferred_read_replica: -1,
            diverging_epoch: None,
            records_len: Some(0),
        }
    }
}

/// Writes the skeleton of a Fetch response: `begin`, then for each topic `topic` and its partitions, then `finish`.
///
/// The calls' counts must agree with what was announced; that is the caller's duty and asserted.
#[derive(Debug)]
pub struct FetchResponseEncoder<'a> {
    out: &'a mut Vec<u8>,
    version: i16,
    topics_left: usize,
    partitions_left: usize,
    records_bytes: usize,
}

impl<'a> FetchResponseEncoder<'a> {
    /// Starts the body at the end of `out` (which may hold the frame size and the response header already).
    /// `topic_count` is the number of [`FetchResponseEncoder::topic`] calls that follow; a compact array cannot be
    /// counted afterwards. `error_code` and `session_id` are dropped before version 7, which has no place for them.
    pub fn begin(
        out: &'a mut Vec<u8>,
        version: i16,
        throttle_ms: i32,
        error_code: i16,
        session_id: i32,
        topic_count: usize,
    ) -> Self {
        let mut writer = Writer::new(out);
        writer.i32(throttle_ms);
        if version >= SESSION_SINCE {
            writer.i16(error_code);
            writer.i32(session_id);
        }
        writer.len(version >= FLEXIBLE_SINCE, Some(topic_count));
        FetchResponseEncoder { out, version, topics_left: topic_count, partitions_left: 0, records_bytes: 0 }
    }

    fn flexible(&self) -> bool {
        self.version >= FLEXIBLE_SINCE
    }

    /// Starts a topic with `partition_count` partitions, at least one.
    pub fn topic(&mut self, topic: TopicRef<'_>, partition_count: usize) {
        assert!(self.partitions_left == 0, "partitions of the topic before are missing");
        assert!(self.topics_left > 0, "more topics than announced");
        assert!(partition_count > 0, "a topic without partitions");
        self.topics_left -= 1;
        self.partitions_left = partition_count;
        let (flexible, by_id) = (self.flexible(), self.version >= TOPIC_ID_SINCE);
        let mut writer = Writer::new(self.out);
        writer.topic(topic, flexible, by_id);
        writer.len(flexible, Some(partition_count));
    }

    /// Writes one partition and returns its cut: the position in `out` in front of which `records_len` bytes of
    /// records must be sent. Cuts never fall, and there is one for each partition, also for those without records.
    pub fn partition(&mut self, head: &FetchPartitionHead<'_>) -> usize {
        assert!(self.partitions_left > 0, "more partitions than announced");
        self.partitions_left -= 1;
        let flexible = self.flexible();
        let mut writer = Writer::new(self.out);
        writer.i32(head.partition);
        writer.i16(head.error_code);
        writer.i64(head.high_watermark);
        writer.i64(head.last_stable_offset);
        if self.version >= 5 {
            writer.i64(head.log_start_offset);
        }
        writer.len(flexible, head.aborted.map(<[_]>::len));
        for &(producer_id, first_offset) in head.aborted.unwrap_or_default() {
            writer.i64(producer_id);
            writer.i64(first_offset);
            writer.no_tagged_fields(flexible);
        }
        if self.version >= 11 {
            writer.i32(head.preferred_read_replica);
        }
        writer.len(flexible, head.records_len.map(|len| len as usize));
        let cut = writer.position();
        self.records_bytes += head.records_len.unwrap_or(0) as usize;
        if flexible {
            encode_partition_tags(&mut writer, head.diverging_epoch);
        }
        if self.partitions_left == 0 {
            // The last partition ends its topic.
            writer.no_tagged_fields(flexible);
        }
        cut
    }

    /// Ends the body and returns the sum of all `records_len`: the bytes that will be sent beside the skeleton, as
    /// `header::patch_frame_size` wants to know them.
    pub fn finish(self) -> usize {
        assert!(self.topics_left == 0 && self.partitions_left == 0, "announced entries are missing");
        let flexible = self.flexible();
        Writer::new(self.out).no_tagged_fields(flexible);
        self.records_bytes
    }
}

fn encode_partition_tags(writer: &mut Writer<'_>, diverging_epoch: Option<(i32, i64)>) {
    let Some((epoch, end_offset)) = diverging_epoch else { return writer.no_tagged_fields(true) };
    writer.unsigned_varint(1); // one tagged field
    writer.unsigned_varint(0); // its tag
    writer.unsigned_varint(4 + 8 + 1); // its size
    writer.i32(epoch);
    writer.i64(end_offset);
    writer.no_tagged_fields(true);
}
