//! ShareFetch (api key 78) and ShareAcknowledge (79), versions 1 and 2: decoded and encoded by hand, because records
//! must not be copied into a response, and because version 2 is newer than the decoder of the other APIs.
//!
//! Owner: nobody; pure. Spec: KIP-932 (1), KIP-1206 and KIP-1222 (2). Invariants: a decoded request owns its data, and
//! its memory is at most ten times the frame, bounded by [`PARTITIONS_MAX`]. A response is a *skeleton* without
//! record bytes plus the cut points where those belong, as in `fetch`.
//! Must not: touch record bytes, or judge what is asked for.

use uuid::Uuid;

use super::api_table::{SHARE_ACKNOWLEDGE, SHARE_FETCH};
use super::primitives::{Reader, WireError, Writer};

/// Partitions one request may name, to fetch and to forget together.
pub const PARTITIONS_MAX: usize = 131_072;

const VERSION_MIN: i16 = 1;
const VERSION_MAX: i16 = 2;
/// First version with renewed locks, and with a strict limit of records.
const RENEW_SINCE: i16 = 2;

/// Acknowledgements for a range of offsets, both ends inclusive: one type for all, or one for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcknowledgementBatch {
    /// The first offset.
    pub first: i64,
    /// The last one.
    pub last: i64,
    /// 0 gap, 1 accept, 2 release, 3 reject, 4 renew.
    pub types: Vec<i8>,
}

/// One partition of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharePartitionData {
    /// Topic id.
    pub topic_id: Uuid,
    /// Partition index.
    pub partition: i32,
    /// What its member says about records of it.
    pub acknowledgements: Vec<AcknowledgementBatch>,
}

/// A ShareFetch or ShareAcknowledge request; what the latter does not have is 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShareRequest {
    /// The group; empty for null.
    pub group: String,
    /// The member; empty for null.
    pub member: String,
    /// 0 opens a session, -1 closes it.
    pub session_epoch: i32,
    /// How long to wait for `min_bytes`, milliseconds.
    pub max_wait_ms: i32,
    /// Answer at once when this much is there.
    pub min_bytes: i32,
    /// Limit for the whole response; the first batch is returned even if larger.
    pub max_bytes: i32,
    /// Records at most.
    pub records_max: i32,
    /// The number of records that ranges of acquired records should have.
    pub batch_size: i32,
    /// 0: whole batches may exceed the limit of records; 1: nothing may.
    pub acquire_mode: i8,
    /// Whether locks are renewed; nothing is fetched then.
    pub is_renewal: bool,
    /// What to acknowledge, and what to add to the session.
    pub partitions: Vec<SharePartitionData>,
    /// What to drop from the session.
    pub forgotten: Vec<(Uuid, i32)>,
}

impl ShareRequest {
    /// Decodes the body of a ShareFetch.
    pub fn decode_fetch(body: &[u8], version: i16) -> Result<ShareRequest, WireError> {
        check_version(SHARE_FETCH, version)?;
        let mut input = Reader::new(body);
        let mut request = ShareRequest::decode_head(&mut input)?;
        request.max_wait_ms = input.i32()?;
        request.min_bytes = input.i32()?;
        request.max_bytes = input.i32()?;
        request.records_max = input.i32()?;
        request.batch_size = input.i32()?;
        if version >= RENEW_SINCE {
            request.acquire_mode = input.i8()?;
            request.is_renewal = input.i8()? != 0;
        }
        request.decode_topics(&mut input)?;
        for _ in 0..input.array_len(true, 16 + 1 + 1)? {
            let topic_id = input.uuid()?;
            let count = input.array_len(true, 4)?;
            request.room_for(count)?;
            for _ in 0..count {
                request.forgotten.push((topic_id, input.i32()?));
            }
            input.skip_tagged_fields(true)?;
        }
        input.skip_tagged_fields(true)?;
        Ok(request)
    }

    /// Decodes the body of a ShareAcknowledge.
    pub fn decode_acknowledge(body: &[u8], version: i16) -> Result<ShareRequest, WireError> {
        check_version(SHARE_ACKNOWLEDGE, version)?;
        let mut input = Reader::new(body);
        let mut request = ShareRequest::decode_head(&mut input)?;
        if version >= RENEW_SINCE {
            request.is_renewal = input.i8()? != 0;
        }
        request.decode_topics(&mut input)?;
        input.skip_tagged_fields(true)?;
        Ok(request)
    }

    fn decode_head(input: &mut Reader<'_>) -> Result<ShareRequest, WireError> {
        Ok(ShareRequest {
            group: input.nullable_string(true)?.unwrap_or_default().to_owned(),
            member: input.nullable_string(true)?.unwrap_or_default().to_owned(),
            session_epoch: input.i32()?,
            ..ShareRequest::default()
        })
    }

    fn room_for(&self, count: usize) -> Result<(), WireError> {
        if count > PARTITIONS_MAX - self.partitions.len() - self.forgotten.len() {
            return Err(WireError::TooManyElements { limit: PARTITIONS_MAX });
        }
        Ok(())
    }

    fn decode_topics(&mut self, input: &mut Reader<'_>) -> Result<(), WireError> {
        for _ in 0..input.array_len(true, 16 + 1 + 1)? {
            let topic_id = input.uuid()?;
            let count = input.array_len(true, 4 + 1 + 1)?;
            self.room_for(count)?;
            for _ in 0..count {
                let partition = input.i32()?;
                let batches = input.array_len(true, 8 + 8 + 1 + 1)?;
                let mut acknowledgements = Vec::with_capacity(batches);
                for _ in 0..batches {
                    acknowledgements.push(decode_batch(input)?);
                }
                input.skip_tagged_fields(true)?;
                self.partitions.push(SharePartitionData { topic_id, partition, acknowledgements });
            }
            input.skip_tagged_fields(true)?;
        }
        Ok(())
    }
}

fn check_version(api_key: i16, version: i16) -> Result<(), WireError> {
    if !(VERSION_MIN..=VERSION_MAX).contains(&version) {
        return Err(WireError::UnsupportedVersion { api_key, version });
    }
    Ok(())
}

fn decode_batch(input: &mut Reader<'_>) -> Result<AcknowledgementBatch, WireError> {
    let (first, last) = (input.i64()?, input.i64()?);
    let count = input.array_len(true, 1)?;
    let types = input.take(count)?.iter().map(|byte| *byte as i8).collect();
    input.skip_tagged_fields(true)?;
    Ok(AcknowledgementBatch { first, last, types })
}

/// What a response says about one partition, apart from its records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SharePartitionHead {
    /// Topic id.
    pub topic_id: Uuid,
    /// Partition index.
    pub partition: i32,
    /// Kafka error code of the fetch (of the acknowledgement, in a ShareAcknowledge response), 0 for none.
    pub error_code: i16,
    /// Kafka error code of the acknowledgement, 0 for none.
    pub acknowledge_error_code: i16,
    /// Node id of the leader and its epoch, or -1.
    pub leader: (i32, i32),
    /// Bytes of records that will be sent at the cut.
    pub records_len: u32,
    /// Acquired ranges: first and last offset, deliveries.
    pub acquired: Vec<(i64, i64, i16)>,
}

/// What a response says about all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShareResponseHead<'a> {
    /// Kafka error code, 0 for none.
    pub error_code: i16,
    /// For humans.
    pub error_message: Option<&'a str>,
    /// How long acquired records are locked, milliseconds.
    pub lock_ms: i32,
}

/// Appends the skeleton of a ShareFetch response; partitions of one topic must be neighbours. The cuts, one for each
/// partition: the positions in `out` in front of which its records belong; and the sum of the records' bytes.
pub fn encode_fetch_response(
    out: &mut Vec<u8>,
    head: &ShareResponseHead<'_>,
    partitions: &[SharePartitionHead],
) -> (Vec<usize>, usize) {
    let mut writer = Writer::new(out);
    writer.i32(0);
    writer.i16(head.error_code);
    writer.nullable_string(true, head.error_message);
    writer.i32(head.lock_ms);
    let mut cuts = Vec::with_capacity(partitions.len());
    let mut records_bytes = 0;
    encode_topics(&mut writer, partitions, |writer, one| {
        writer.i32(one.partition);
        writer.i16(one.error_code);
        writer.nullable_string(true, None);
        writer.i16(one.acknowledge_error_code);
        writer.nullable_string(true, None);
        encode_leader(writer, one.leader);
        writer.len(true, Some(one.records_len as usize));
        cuts.push(writer.position());
        records_bytes += one.records_len as usize;
        writer.len(true, Some(one.acquired.len()));
        for (first, last, deliveries) in &one.acquired {
            writer.i64(*first);
            writer.i64(*last);
            writer.i16(*deliveries);
            writer.no_tagged_fields(true);
        }
        writer.no_tagged_fields(true);
    });
    (cuts, records_bytes)
}

/// Appends a ShareAcknowledge response; partitions of one topic must be neighbours.
pub fn encode_acknowledge_response(
    out: &mut Vec<u8>,
    version: i16,
    head: &ShareResponseHead<'_>,
    partitions: &[SharePartitionHead],
) {
    let mut writer = Writer::new(out);
    writer.i32(0);
    writer.i16(head.error_code);
    writer.nullable_string(true, head.error_message);
    if version >= RENEW_SINCE {
        writer.i32(head.lock_ms);
    }
    encode_topics(&mut writer, partitions, |writer, one| {
        writer.i32(one.partition);
        writer.i16(one.error_code);
        writer.nullable_string(true, None);
        encode_leader(writer, one.leader);
        writer.no_tagged_fields(true);
    });
}

fn encode_leader(writer: &mut Writer<'_>, (id, epoch): (i32, i32)) {
    writer.i32(id);
    writer.i32(epoch);
    writer.no_tagged_fields(true);
}

/// The topics, then an empty list of nodes: there is only this one, and the client is connected to it.
fn encode_topics(
    writer: &mut Writer<'_>,
    partitions: &[SharePartitionHead],
    mut encode: impl FnMut(&mut Writer<'_>, &SharePartitionHead),
) {
    let topics = || partitions.chunk_by(|a, b| a.topic_id == b.topic_id);
    writer.len(true, Some(topics().count()));
    for topic in topics() {
        writer.uuid(topic[0].topic_id);
        writer.len(true, Some(topic.len()));
        topic.iter().for_each(|one| encode(writer, one));
        writer.no_tagged_fields(true);
    }
    writer.len(true, Some(0));
    writer.no_tagged_fields(true);
}

#[cfg(test)]
#[path = "tests/share.rs"]
mod tests;
