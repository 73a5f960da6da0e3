//! Fetch (key 1): sessions, limits, waiting for data, and the reply's skeleton.
//!
//! Owner: the connection's core. Invariants: record bytes are never copied or decoded here: the reply is a
//! skeleton with slices put in; an answer holds at most `FETCH_RESPONSE_BYTES_MAX` of records plus one
//! batch, and no more than the core's memory for answers has room for; a parked fetch holds no buffers. It must not
//! read logs itself; `fetch_read` does.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::fetch_read::{PartitionRead, Wanted, WatchItem, read_all, watch};
use super::park::park;
use super::{Call, ConnectionContext, Handled, Outcome};
use crate::limits::{FETCH_RESPONSE_BYTES_MAX, FETCH_WAIT_MS_MAX};
use crate::metrics::{self, Counter, Series};
use crate::net::{Held, Outgoing};
use crate::shard::{SessionContext, SessionError, Shard};
use crate::storage::Isolation;
use crate::sync::Event;
use crate::wire::api_table::FETCH;
use crate::wire::fetch::{FetchPartition, FetchPartitionHead, FetchRequest, FetchResponseEncoder};
use crate::wire::header;

const CLUSTER_AUTHORIZATION_FAILED: i16 = 31;
const UNSUPPORTED_VERSION: i16 = 35;
const FETCH_SESSION_ID_NOT_FOUND: i16 = 70;
const INVALID_FETCH_SESSION_EPOCH: i16 = 71;

/// The newest version, in which requests of unknown versions are refused.
const VERSION_MAX: i16 = 18;

/// A request of a version that is not served: the error in a form that its sender can read.
pub(super) fn unsupported_version(call: Call) -> Outgoing {
    reply(Call { version: VERSION_MAX, ..call }, UNSUPPORTED_VERSION, 0, Vec::new())
}

pub(super) fn handle(context: &ConnectionContext, call: Call, body: &[u8]) -> Outcome {
    let mut request = FetchRequest::decode(body, call.version)?;
    request.max_bytes = request.max_bytes.min(context.fetch_bytes_max());
    let shard = context.shard.clone();
    Ok(Handled::Making(Box::pin(async move { answer(&shard, call, request).await })))
}

async fn answer(shard: &Rc<Shard>, call: Call, mut request: FetchRequest) -> Outgoing {
    // -2 is Kafka's debugging consumer; anything else below 0 or above is no consumer of ours.
    if request.replica_id >= 0 {
        let refused = request
            .partitions
            .iter()
            .map(|p| (p.clone(), PartitionRead::error(CLUSTER_AUTHORIZATION_FAILED)));
        return reply(call, CLUSTER_AUTHORIZATION_FAILED, 0, refused.collect());
    }
    let mut partitions = Vec::new();
    let context = match shard.sessions.resolve(&mut request, &mut partitions) {
        Ok(context) => context,
        Err(SessionError::NotFound) => return reply(call, FETCH_SESSION_ID_NOT_FOUND, 0, Vec::new()),
        Err(SessionError::InvalidEpoch) => {
            return reply(call, INVALID_FETCH_SESSION_EPOCH, request.session_id, Vec::new());
        }
    };
    let (reads, held) = read_until_enough(shard, &request, &partitions).await;
    let mut results = Vec::with_capacity(partitions.len());
    for (fetch, read) in partitions.into_iter().zip(reads) {
        let wanted = shard.sessions.note_sent(
            context,
            &fetch.topic,
            fetch.partition,
            read.size_bytes > 0,
            read.high_watermark,
            read.log_start_offset,
            read.error_code,
        );
        if wanted {
            results.push((fetch, read));
        }
    }
    let SessionContext { id, .. } = context;
    Outgoing { held: Some(held), ..reply(call, 0, id, results) }
}

/// Reads, and reads again whenever there is news, until the request's minimum is there or its time is up.
async fn read_until_enough(
    shard: &Rc<Shard>,
    request: &FetchRequest,
    partitions: &[FetchPartition],
) -> (Vec<PartitionRead>, Held) {
    let max_bytes = (request.max_bytes.max(0) as usize)
        .min(FETCH_RESPONSE_BYTES_MAX)
        .min(shard.config.fetch_bytes_max.max(0) as usize);
    let asked_bytes: usize = partitions.iter().map(|fetch| fetch.max_bytes.max(1) as usize).sum();
    let max_bytes = max_bytes.min(asked_bytes);
    let wait_ms = request.max_wait_ms.clamp(0, FETCH_WAIT_MS_MAX);
    let deadline = Instant::now() + Duration::from_millis(wait_ms as u64);
    let wanted: Vec<Wanted> = {
        let catalog = shard.catalog();
        let isolation =
            if request.isolation_level == 1 { Isolation::Committed } else { Isolation::Uncommitted };
        partitions.iter().map(|fetch| Wanted::resolve(shard, &catalog, fetch, isolation)).collect()
    };
    loop {
        let since_ns = metrics::now_ns();
        let mut held = shard.answers.reserve(max_bytes).await;
        let max_bytes = max_bytes.min(held.bytes());
        let min_bytes = (request.min_bytes.max(0) as usize).min(max_bytes);
        let reads = read_all(shard, &wanted, max_bytes).await;
        metrics::record_since(Series::FetchRead, since_ns);
        let size: usize = reads.iter().map(|read| read.size_bytes).sum();
        held.set(size);
        let failed = reads.iter().any(|read| read.error_code != 0 || read.diverging.is_some());
        let now = Instant::now();
        if size >= min_bytes || failed || wait_ms == 0 || now >= deadline || shard.is_stopping() {
            return (reads, held);
        }
        let items: Vec<WatchItem> =
            wanted.iter().zip(&reads).map(|(wanted, read)| WatchItem::new(wanted, read)).collect();
        drop((reads, held));
        let since_ns = metrics::now_ns();
        let news = async |owner: Rc<Shard>, items: Vec<WatchItem>, cancel: Rc<Event>| {
            watch(&owner, &items, cancel.wait_past(0)).await;
        };
        park(shard, deadline, &items, |item| item.owner, news).await;
        metrics::record_since(Series::FetchPark, since_ns);
    }
}

/// Builds the reply: neighbours of one topic share its entry.
fn reply(
    call: Call,
    error_code: i16,
    session_id: i32,
    mut results: Vec<(FetchPartition, PartitionRead)>,
) -> Outgoing {
    let mut skeleton = Vec::with_capacity(96 + results.len() * 64);
    let start = header::begin_response(&mut skeleton, call.api_key, call.version, call.correlation_id);
    let same_topic =
        |a: &(FetchPartition, PartitionRead), b: &(FetchPartition, PartitionRead)| a.0.topic == b.0.topic;
    let topic_count = results.chunk_by(same_topic).count();
    let mut encoder =
        FetchResponseEncoder::begin(&mut skeleton, call.version, 0, error_code, session_id, topic_count);
    let mut cuts = Vec::with_capacity(results.len());
    for topic in results.chunk_by(same_topic) {
        encoder.topic(topic[0].0.topic.as_topic_ref(), topic.len());
        for (fetch, read) in topic {
            cuts.push(encoder.partition(&FetchPartitionHead {
                partition: fetch.partition,
                error_code: read.error_code,
                high_watermark: read.high_watermark,
                last_stable_offset: read.last_stable_offset,
                log_start_offset: read.log_start_offset,
                aborted: read.aborted.as_deref(),
                preferred_read_replica: -1,
                diverging_epoch: read.diverging,
                records_len: Some(read.size_bytes as u32),
            }));
        }
    }
    let records_bytes = encoder.finish();
    metrics::add(Counter::FetchBytes, records_bytes as u64);
    let failed =
        results.iter().filter(|(_, read)| read.error_code != 0).count() + usize::from(error_code != 0);
    metrics::count_errors(FETCH, failed as u64);
    header::patch_frame_size(&mut skeleton, start, records_bytes);
    let payloads = results.drain(..).zip(cuts);
    let inserts =
        payloads.filter_map(|((_, read), cut)| read.payload.map(|payload| (cut, payload))).collect();
    Outgoing { skeleton, inserts, ..Outgoing::default() }
}
