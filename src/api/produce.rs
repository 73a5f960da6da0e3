//! Produce (key 0): append each partition's batch on the core that owns it, answer when durable.
//!
//! Owner: the connection's core. Two steps, so that a connection's requests can be pipelined: *dispatched*
//! when the batches have their place (order is fixed), *produced* when durability is known.
//! Invariants: the batches of one connection reach a partition in the order they were sent; `acks=0` has
//! no answer, and an error then closes the connection, as in Kafka.
//! It must not look into batches; the partition validates.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use uuid::Uuid;

use super::control::is_internal;
use super::txn_admission::{Admission, Applicant, admit};
use super::txn_errors::produce_code;
use super::{Call, ConnectionContext, Handled, Outcome, Refusal};
use crate::catalog::{Catalog, Topic};
use crate::coordinator::txn_state::ProducerKey;
use crate::limits::RECORD_ERRORS_MAX;
use crate::metrics;
use crate::net::{Frame, FrameBuffer, Outgoing};
use crate::partition::{Partition, ProduceOutcome};
use crate::shard::Shard;
use crate::storage::{AckResult, Incoming, Landing, Ticket};
use crate::sync::Pending;
use crate::wire::api_table::{self, PRODUCE, PRODUCE_SERVED_MIN};
use crate::wire::produce::{self, Peek, ProducePartition, ProduceRequest, ProduceResult, encode_response};
use crate::wire::record_batch::{self, BatchInfo};
use crate::wire::{RequestHeader, TopicKey, TopicRef};

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const INVALID_TOPIC_EXCEPTION: i16 = 17;
const INVALID_REQUIRED_ACKS: i16 = 21;
const UNSUPPORTED_VERSION: i16 = 35;
const KAFKA_STORAGE_ERROR: i16 = 56;
const INVALID_RECORD: i16 = 87;
const UNKNOWN_TOPIC_ID: i16 = 100;

/// Bytes behind the records of a frame that is received in place (tagged fields).
const LANDING_TRAILER_BYTES_MAX: usize = 64;

/// Produce versions whose first batch makes a partition part of the transaction (KIP-890).
const IMPLICIT_PARTITIONS_SINCE: i16 = 12;

/// Produce versions from which zstd may be used (KIP-110).
const ZSTD_SINCE: i16 = 7;

/// One partition of the request and what became of it.
struct Entry {
    topic: TopicKey,
    topic_id: Uuid,
    topic_index: u32,
    partition: i32,
    /// Byte range of the batch in the frame.
    range: Range<usize>,
    owner: usize,
    outcome: Option<ProduceOutcome>,
    durable: Option<Pending<AckResult>>,
}

/// A batch on its way to another core: which entry, which partition, where in the carried bytes.
struct Parcel {
    entry: usize,
    topic_id: Uuid,
    partition: i32,
    range: Range<usize>,
}

type Delivered = (Vec<(usize, ProduceOutcome)>, FrameBuffer);

struct Remote {
    receiver: flume::Receiver<Delivered>,
    /// The carried buffer belongs to this core's frame pool.
    pooled: bool,
}

pub(super) async fn handle(
    context: &ConnectionContext,
    call: Call,
    mut frame: Frame<'_>,
    header_size: usize,
) -> Outcome {
    let shard = &context.shard;
    if let Frame::Landed { head, records_at, landing } = frame {
        return handle_landed(shard, call, head, header_size, records_at, landing).await;
    }
    let (acks, transactional_id, mut entries) =
        plan(shard, call, &frame.bytes()[header_size..], header_size)?;
    if let Some(id) = transactional_id {
        let bytes = frame.bytes();
        let batches = entries.iter().enumerate().map(|(at, entry)| (at, &bytes[entry.range.clone()]));
        let applicants = applicants(shard, &entries, batches);
        refuse_strangers(shard, call, &id, applicants, &mut entries).await;
    }
    let remotes = send_away(shard, call, &mut frame, &mut entries, acks).await;
    let taken = frame.bytes().is_empty();
    for entry in entries.iter_mut().filter(|entry| entry.outcome.is_none() && entry.owner == shard.core) {
        assert!(!taken, "a frame with local batches stays here");
        let (outcome, durable) = match shard.partition(entry.topic_id, entry.partition) {
            Some(partition) => {
                let bytes = &mut frame.bytes()[entry.range.clone()];
                partition
                    .produce(partition.log.ticket(), Incoming::Frame(bytes), acks, call.version >= ZSTD_SINCE)
                    .await
            }
            None => (gone(), None),
        };
        entry.outcome = Some(outcome);
        entry.durable = durable;
    }
    let shard = shard.clone();
    Ok(Handled::Making(Box::pin(async move { finish(&shard, call, acks, entries, remotes).await })))
}

fn gone() -> ProduceOutcome {
    ProduceOutcome::error(UNKNOWN_TOPIC_OR_PARTITION, "This server does not host this topic-partition.")
}

/// Resolves topics and owners; entries that cannot be appended get their outcome here.
fn plan(
    shard: &Shard,
    call: Call,
    body: &[u8],
    body_start: usize,
) -> Result<(i16, Option<String>, Vec<Entry>), Refusal> {
    let mut partitions = Vec::new();
    let request = ProduceRequest::decode(body, call.version, &mut partitions)?;
    let refusal = refuse_all(call, request.acks);
    let transactional_id = request.transactional_id.map(str::to_owned);
    let catalog = shard.catalog();
    let entries = partitions.into_iter().map(|mut partition| {
        let shift = |range: Range<usize>| range.start + body_start..range.end + body_start;
        partition.records = partition.records.map(shift);
        resolve(shard, &catalog, refusal.as_ref(), partition)
    });
    Ok((request.acks, transactional_id, entries.collect()))
}

fn resolve(
    shard: &Shard,
    catalog: &Catalog,
    refusal: Option<&ProduceOutcome>,
    partition: ProducePartition<'_>,
) -> Entry {
    let found = find_topic(catalog, partition.topic);
    let topic = match (&partition.topic, found) {
        (TopicRef::Name(_), Some(topic)) => TopicKey::Name(Arc::clone(&topic.name)),
        (topic, _) => topic.to_key(),
    };
    let outcome = match (refusal, found, &partition.records) {
        (Some(refusal), ..) => Some(refusal.clone()),
        (None, None, _) if matches!(topic, TopicKey::Id(_)) => {
            Some(ProduceOutcome::error(UNKNOWN_TOPIC_ID, "This server does not host this topic ID."))
        }
        (None, None, _) => Some(gone()),
        (None, Some(topic), _) if topic.partition(partition.partition).is_none() => Some(gone()),
        (None, Some(topic), _) if is_internal(topic) => {
            Some(ProduceOutcome::error(INVALID_TOPIC_EXCEPTION, "The topic is the broker's own."))
        }
        (None, Some(_), None) => Some(ProduceOutcome::error(INVALID_RECORD, "there are no records")),
        _ => None,
    };
    let topic_id = found.map_or(Uuid::nil(), |topic| topic.id);
    Entry {
        topic,
        topic_id,
        topic_index: partition.topic_index,
        partition: partition.partition,
        range: partition.records.unwrap_or_default(),
        owner: shard.owner_of(topic_id, partition.partition.max(0)),
        outcome,
        durable: None,
    }
}

fn find_topic<'a>(catalog: &'a Catalog, topic: TopicRef<'_>) -> Option<&'a Arc<Topic>> {
    match topic {
        TopicRef::Name(name) => catalog.topic(name),
        TopicRef::Id(id) => catalog.topic_by_id(id),
    }
}

/// Where the records of a large frame go, if they can be received in place.
pub(crate) struct LandingPlan {
    /// The memory for the records.
    pub(crate) landing: Landing,
    /// Position of the first record byte in the frame.
    pub(crate) records_at: usize,
}

/// Tells from the first bytes of a frame of `frame_size` bytes whether it is a produce request for one
/// partition of this core, and reserves tail memory for its records.
/// `all_there`: the rest of the frame can be received at once.
pub(crate) fn plan_landing(
    shard: &Shard,
    head: &[u8],
    frame_size: usize,
    all_there: bool,
) -> Option<LandingPlan> {
    let header = RequestHeader::parse(head).ok()?;
    if header.api_key != PRODUCE || !api_table::is_supported(PRODUCE, header.api_version) {
        return None;
    }
    let Peek::Single(single) = produce::peek_single(&head[header.header_size..], header.api_version) else {
        return None;
    };
    let records_at = header.header_size + single.records_start;
    let records_end = records_at.checked_add(single.records_len)?;
    if records_end > frame_size || frame_size - records_end > LANDING_TRAILER_BYTES_MAX {
        return None;
    }
    let catalog = shard.catalog();
    let topic = find_topic(&catalog, single.topic)?;
    let log = &shard.partition(topic.id, single.partition)?.log;
    let now = if all_there { log.landing_now(single.records_len) } else { None };
    let landing = now.or_else(|| log.landing(single.records_len))?;
    Some(LandingPlan { landing, records_at })
}

/// A request whose records were received in place; `head` is the frame without them.
async fn handle_landed(
    shard: &Rc<Shard>,
    call: Call,
    head: &[u8],
    header_size: usize,
    records_at: usize,
    mut landing: Landing,
) -> Outcome {
    let Peek::Single(single) = produce::peek_single(&head[header_size..records_at], call.version) else {
        return Err(Refusal::Malformed);
    };
    if !produce::is_single_trailer(&head[records_at..], call.version) {
        return Err(Refusal::Malformed);
    }
    let refusal = refuse_all(call, single.acks);
    let partition = ProducePartition {
        topic: single.topic,
        topic_index: 0,
        partition: single.partition,
        records: Some(0..0),
    };
    let mut entry = resolve(shard, &shard.catalog(), refusal.as_ref(), partition);
    if let Some(id) = single.transactional_id {
        let entries = std::slice::from_mut(&mut entry);
        let applicants = applicants(shard, entries, [(0, &*landing.bytes())].into_iter());
        refuse_strangers(shard, call, id, applicants, entries).await;
    }
    if entry.outcome.is_none() {
        // The topic may have been deleted while its bytes were on their way.
        let (outcome, durable) = match shard.partition(entry.topic_id, entry.partition) {
            Some(partition) => {
                let ticket = partition.log.ticket();
                partition
                    .produce(ticket, Incoming::Landed(landing), single.acks, call.version >= ZSTD_SINCE)
                    .await
            }
            None => (gone(), None),
        };
        entry.outcome = Some(outcome);
        entry.durable = durable;
    }
    let (shard, acks) = (shard.clone(), single.acks);
    Ok(Handled::Making(Box::pin(async move { finish(&shard, call, acks, vec![entry], Vec::new()).await })))
}

fn refuse_all(call: Call, acks: i16) -> Option<ProduceOutcome> {
    if call.version < PRODUCE_SERVED_MIN {
        // Advertised from 0, because librdkafka disables compression otherwise (KAFKA-18659).
        return Some(ProduceOutcome::error(
            UNSUPPORTED_VERSION,
            "Produce versions 0 to 2 are not supported.",
        ));
    }
    if !matches!(acks, -1..=1) {
        return Some(ProduceOutcome::error(INVALID_REQUIRED_ACKS, "acks must be 0, 1 or -1"));
    }
    None
}

/// The transactional batches among `batches` (place in `entries`, bytes) that are to be appended.
fn applicants<'a>(
    shard: &Shard,
    entries: &[Entry],
    batches: impl Iterator<Item = (usize, &'a [u8])>,
) -> Vec<Applicant> {
    let catalog = shard.catalog();
    let mut found = Vec::new();
    for (place, bytes) in batches {
        let entry = &entries[place];
        // What is no batch is for the partition to refuse.
        let batch = record_batch::parse_header(bytes).ok().filter(BatchInfo::is_transactional);
        let (Some(batch), None) = (batch, &entry.outcome) else { continue };
        let Some(topic) = catalog.topic_by_id(entry.topic_id) else { continue };
        found.push(Applicant {
            place,
            topic_id: entry.topic_id,
            topic: topic.name.to_string(),
            partition: entry.partition,
            producer: ProducerKey { id: batch.producer_id, epoch: batch.producer_epoch },
        });
    }
    found
}

/// Gives the batches that are not let in their outcome.
async fn refuse_strangers(
    shard: &Rc<Shard>,
    call: Call,
    transactional_id: &str,
    applicants: Vec<Applicant>,
    entries: &mut [Entry],
) {
    let admission =
        if call.version >= IMPLICIT_PARTITIONS_SINCE { Admission::Add } else { Admission::Verify };
    for (place, error) in admit(shard, transactional_id, admission, applicants).await {
        let text = format!("not let into the transaction: {error:?}");
        entries[place].outcome = Some(ProduceOutcome::error(produce_code(error, call.version), text));
    }
}

/// Sends the batches of other cores on their way, in one call per core.
async fn send_away(
    shard: &Shard,
    call: Call,
    frame: &mut Frame<'_>,
    entries: &mut [Entry],
    acks: i16,
) -> Vec<Remote> {
    let mut remotes = Vec::new();
    let waiting = |entry: &Entry| entry.outcome.is_none() && entry.owner != shard.core;
    if !entries.iter().any(waiting) {
        return remotes;
    }
    let all_to_one = entries.iter().filter(|entry| entry.outcome.is_none()).map(|entry| entry.owner);
    let first = all_to_one.clone().next().unwrap_or(shard.core);
    let whole_frame = all_to_one.clone().all(|owner| owner == first);
    for core in (0..shard.mesh.cores()).filter(|core| *core != shard.core) {
        let mut parcels: Vec<Parcel> = entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| waiting(entry) && entry.owner == core)
            .map(|(at, entry)| Parcel {
                entry: at,
                topic_id: entry.topic_id,
                partition: entry.partition,
                range: entry.range.clone(),
            })
            .collect();
        if parcels.is_empty() {
            continue;
        }
        let (buffer, pooled) = match frame {
            Frame::Large(buffer, _) if whole_frame => (std::mem::take(*buffer), true),
            _ => (pack(frame.bytes(), &mut parcels), false),
        };
        let allow_zstd = call.version >= ZSTD_SINCE;
        let receiver = shard
            .mesh
            .start_call(core, move |owner| {
                // Places are taken in the order in which messages arrive, before anything can wait.
                let places = parcels.iter().map(|parcel| Place::take(&owner, parcel)).collect();
                Box::pin(deliver(parcels, places, buffer, acks, allow_zstd))
            })
            .await;
        remotes.push(Remote { receiver, pooled });
    }
    remotes
}

/// Copies the batches of `parcels` together.
fn pack(frame: &[u8], parcels: &mut [Parcel]) -> FrameBuffer {
    let mut packed = Vec::with_capacity(parcels.iter().map(|parcel| parcel.range.len()).sum());
    for parcel in parcels {
        let start = packed.len();
        packed.extend_from_slice(&frame[parcel.range.clone()]);
        parcel.range = start..packed.len();
    }
    packed
}

/// A partition on its core, and the batch's place in its queue.
struct Place {
    partition: Rc<Partition>,
    ticket: Ticket,
}

impl Place {
    fn take(owner: &Shard, parcel: &Parcel) -> Option<Place> {
        let partition = owner.partition(parcel.topic_id, parcel.partition)?;
        let ticket = partition.log.ticket();
        Some(Place { partition, ticket })
    }
}

/// On the owner's core: appends in order, then waits for durability.
async fn deliver(
    parcels: Vec<Parcel>,
    places: Vec<Option<Place>>,
    mut buffer: FrameBuffer,
    acks: i16,
    allow_zstd: bool,
) -> Delivered {
    let mut appended = Vec::with_capacity(parcels.len());
    for (parcel, place) in parcels.into_iter().zip(places) {
        let (outcome, durable) = match place {
            Some(Place { partition, ticket }) => {
                let incoming = Incoming::Frame(&mut buffer[parcel.range]);
                partition.produce(ticket, incoming, acks, allow_zstd).await
            }
            None => (gone(), None),
        };
        appended.push((parcel.entry, outcome, durable));
    }
    let mut outcomes = Vec::with_capacity(appended.len());
    for (entry, outcome, durable) in appended {
        outcomes.push((entry, settle(outcome, durable, acks).await));
    }
    (outcomes, buffer)
}

async fn settle(outcome: ProduceOutcome, durable: Option<Pending<AckResult>>, acks: i16) -> ProduceOutcome {
    match durable {
        // acks=0 promises nothing, and nobody waits for it.
        Some(durable) if acks != 0 => outcome.after(durable.wait().await),
        _ => outcome,
    }
}

async fn finish(
    shard: &Shard,
    call: Call,
    acks: i16,
    mut entries: Vec<Entry>,
    remotes: Vec<Remote>,
) -> Outgoing {
    for entry in &mut entries {
        if let Some(outcome) = entry.outcome.take() {
            entry.outcome = Some(settle(outcome, entry.durable.take(), acks).await);
        }
    }
    for remote in remotes {
        if let Ok((outcomes, buffer)) = remote.receiver.recv_async().await {
            for (entry, outcome) in outcomes {
                entries[entry].outcome = Some(outcome);
            }
            if remote.pooled {
                shard.frames.put(buffer);
            }
        }
    }
    let failed = |entry: &&Entry| entry.outcome.as_ref().is_none_or(|outcome| outcome.error_code != 0);
    let failures = entries.iter().filter(failed).count();
    metrics::count_errors(PRODUCE, failures as u64);
    let lost = ProduceOutcome::error(KAFKA_STORAGE_ERROR, "the partition's core is gone");
    if acks == 0 {
        return Outgoing { close: failures > 0, ..Outgoing::default() };
    }
    // Each may be there a thousand times for a batch of a hundred bytes.
    let mut record_errors_left = RECORD_ERRORS_MAX;
    let results: Vec<ProduceResult<'_>> = entries
        .iter()
        .map(|entry| {
            let outcome = entry.outcome.as_ref().unwrap_or(&lost);
            let named = outcome.record_errors.len().min(record_errors_left);
            record_errors_left -= named;
            ProduceResult {
                topic: entry.topic.as_topic_ref(),
                topic_index: entry.topic_index,
                partition: entry.partition,
                error_code: outcome.error_code,
                base_offset: outcome.base_offset,
                log_append_time_ms: outcome.log_append_time_ms,
                log_start_offset: outcome.log_start_offset,
                error_message: outcome.error_message.as_deref(),
                record_errors: &outcome.record_errors[..named],
            }
        })
        .collect();
    call.reply(|out| encode_response(out, call.version, &results, 0))
}
