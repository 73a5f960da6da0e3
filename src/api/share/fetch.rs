//! ShareFetch (key 78, versions 1 and 2): acknowledgements first, then records that nobody has, from the partitions of
//! the session in turn; waits while there are none.
//!
//! Owner: the connection's core; partitions are read on their own cores and lent. Invariants: record bytes are never
//! copied or decoded; an answer goes out as soon as anything is acquired, because the clock of its locks runs; a
//! parked fetch holds no buffers. It must not decide what is acquired.

use std::rc::Rc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::acknowledge::carry_out;
use super::sessions::{self, Step};
use super::{code, missing};
use crate::api::Call;
use crate::api::park::park;
use crate::coordinator::share_partition::{self, SharePartition, settings};
use crate::coordinator::share_read::{Given, Want, wait_for_news};
use crate::coordinator::share_records::StateKey;
use crate::coordinator::share_window::Acquired;
use crate::limits::{FETCH_RESPONSE_BYTES_MAX, FETCH_WAIT_MS_MAX};
use crate::metrics::{self, Counter};
use crate::net::{Held, Outgoing, Payload};
use crate::shard::{Lease, LocalFuture, Shard};
use crate::sync::Event;
use crate::wire::api_table::SHARE_FETCH;
use crate::wire::header;
use crate::wire::share::{SharePartitionHead, ShareRequest, ShareResponseHead, encode_fetch_response};

type Place = (Uuid, i32);

/// Records of a partition, or why there are none.
struct Got {
    place: Place,
    error_code: i16,
    acquired: Vec<Acquired>,
    size_bytes: usize,
    payload: Option<Payload>,
}

/// What crosses the mesh: the same, with a lease instead of slices.
struct FarGot {
    place: Place,
    error_code: i16,
    acquired: Vec<Acquired>,
    size_bytes: usize,
    lease: Option<Lease>,
}

pub(super) async fn answer(
    shard: &Rc<Shard>,
    call: Call,
    mut request: ShareRequest,
    step: Result<Step, i16>,
) -> Outgoing {
    let lock_ms = settings(shard, &request.group).lock_ms as i32;
    let step = match step {
        Ok(step) => step,
        Err(error_code) => {
            let head = ShareResponseHead { error_code, error_message: None, lock_ms };
            return reply(call, &head, Vec::new(), Vec::new());
        }
    };
    let partitions = std::mem::take(&mut request.partitions);
    let acknowledged = carry_out(shard, &request.group, &request.member, partitions).await;
    let (mut got, mut held) = (Vec::new(), None);
    if step.closes {
        sessions::release(shard, step.number).await;
    } else if !request.is_renewal && request.records_max > 0 && request.max_bytes > 0 {
        // Who has something to hear of his acknowledgements does not wait for records.
        let patient = acknowledged.is_empty();
        let (fetched, memory) = fetch_until(shard, &request, &step, patient).await;
        (got, held) = (fetched, Some(memory));
    }
    let head = ShareResponseHead { lock_ms, ..ShareResponseHead::default() };
    Outgoing { held, ..reply(call, &head, got, acknowledged) }
}

/// Fetches, and again whenever there is news, until something is acquired or the request's time is up.
async fn fetch_until(
    shard: &Rc<Shard>,
    request: &ShareRequest,
    step: &Step,
    patient: bool,
) -> (Vec<Got>, Held) {
    let bytes_max = (request.max_bytes.max(0) as usize)
        .min(FETCH_RESPONSE_BYTES_MAX)
        .min(shard.config.fetch_bytes_max.max(0) as usize);
    let wait_ms = if patient { request.max_wait_ms.clamp(0, FETCH_WAIT_MS_MAX) } else { 0 };
    let deadline = Instant::now() + Duration::from_millis(wait_ms as u64);
    loop {
        let mut held = shard.answers.reserve(bytes_max).await;
        let got = fetch_all(shard, request, step, bytes_max.min(held.bytes())).await;
        held.set(got.iter().map(|one| one.size_bytes).sum());
        if !got.is_empty() || wait_ms == 0 || Instant::now() >= deadline || shard.is_stopping() {
            return (got, held);
        }
        drop(held);
        let group = request.group.clone();
        let news = async move |owner: Rc<Shard>, places: Vec<Place>, cancel: Rc<Event>| {
            watch(&owner, &group, places, &cancel).await;
        };
        park(shard, deadline, &step.partitions, |place| shard.owner_of(place.0, place.1), news).await;
    }
}

/// One round over all partitions, core by core.
async fn fetch_all(shard: &Rc<Shard>, request: &ShareRequest, step: &Step, bytes_max: usize) -> Vec<Got> {
    let mut got: Vec<Got> = Vec::new();
    let mut by_core: Vec<(usize, Vec<Place>)> = Vec::new();
    for place in &step.partitions {
        match missing(shard, place.0, place.1) {
            0 => {
                let core = shard.owner_of(place.0, place.1);
                match by_core.iter_mut().find(|(known, _)| *known == core) {
                    Some((_, places)) => places.push(*place),
                    None => by_core.push((core, vec![*place])),
                }
            }
            error_code => got.push(Got {
                place: *place,
                error_code,
                acquired: Vec::new(),
                size_bytes: 0,
                payload: None,
            }),
        }
    }
    let mut want = Want {
        member: request.member.clone(),
        session: step.number,
        records_max: i64::from(request.records_max),
        whole_batches: request.acquire_mode == 0,
        batch_size: i64::from(request.batch_size),
        max_bytes: bytes_max,
    };
    for (core, places) in by_core {
        if want.records_max <= 0 || want.max_bytes == 0 {
            break;
        }
        let before = got.len();
        if core == shard.core {
            for (place, outcome) in fetch_here(shard, &request.group, places, want.clone()).await {
                got.push(local(place, outcome));
            }
        } else {
            let (group, asked) = (request.group.clone(), want.clone());
            let work = move |owner: Rc<Shard>| -> LocalFuture<Vec<FarGot>> {
                Box::pin(async move {
                    let outcomes = fetch_here(&owner, &group, places, asked).await;
                    outcomes.into_iter().map(|(place, outcome)| far(&owner, place, outcome)).collect()
                })
            };
            let answers = shard.mesh.call(core, work).await.unwrap_or_default();
            got.extend(answers.into_iter().map(|far| Got {
                place: far.place,
                error_code: far.error_code,
                acquired: far.acquired,
                size_bytes: far.size_bytes,
                payload: far.lease.map(Payload::Leased),
            }));
        }
        for one in &got[before..] {
            want.records_max -= one.acquired.iter().map(|range| range.last - range.first + 1).sum::<i64>();
            want.max_bytes = want.max_bytes.saturating_sub(one.size_bytes);
        }
    }
    got
}

type Outcomes = Vec<(Place, Result<Given, i16>)>;

/// Fetches from partitions of this core, in order, until the limits are reached; says nothing of empty ones.
async fn fetch_here(owner: &Rc<Shard>, group: &str, places: Vec<Place>, mut want: Want) -> Outcomes {
    let mut outcomes = Vec::new();
    for place in places {
        if want.records_max <= 0 || want.max_bytes == 0 {
            break;
        }
        let outcome = match open(owner, group, place).await {
            Ok(share) => share.fetch(&want).await.map_err(code),
            Err(error_code) => Err(error_code),
        };
        match outcome {
            Ok(given) if given.acquired.is_empty() => {}
            Ok(given) => {
                want.records_max -= given.count();
                want.max_bytes = want.max_bytes.saturating_sub(given.size_bytes);
                outcomes.push((place, Ok(given)));
            }
            Err(error_code) => outcomes.push((place, Err(error_code))),
        }
    }
    outcomes
}

async fn open(owner: &Rc<Shard>, group: &str, place: Place) -> Result<Rc<SharePartition>, i16> {
    let key = StateKey { group: group.to_owned(), topic_id: place.0, partition: place.1 };
    share_partition::open(owner, &key).await.map_err(code)
}

fn local(place: Place, outcome: Result<Given, i16>) -> Got {
    match outcome {
        Ok(Given { acquired, slices, size_bytes }) => {
            Got { place, error_code: 0, acquired, size_bytes, payload: Some(Payload::Local(slices)) }
        }
        Err(error_code) => Got { place, error_code, acquired: Vec::new(), size_bytes: 0, payload: None },
    }
}

fn far(owner: &Rc<Shard>, place: Place, outcome: Result<Given, i16>) -> FarGot {
    match outcome {
        Ok(Given { acquired, slices, size_bytes }) => {
            let lease = Some(owner.leases.lend(owner.core, slices, &owner.mesh));
            FarGot { place, error_code: 0, acquired, size_bytes, lease }
        }
        Err(error_code) => FarGot { place, error_code, acquired: Vec::new(), size_bytes: 0, lease: None },
    }
}

/// Resolves when a share partition of this core has news, or cannot be used, or `cancel` has fired.
async fn watch(owner: &Rc<Shard>, group: &str, places: Vec<Place>, cancel: &Event) {
    let mut all = Vec::with_capacity(places.len());
    for place in places {
        match open(owner, group, place).await {
            Ok(share) => all.push(share),
            Err(_) => return,
        }
    }
    wait_for_news(&all, cancel.wait_past(0)).await;
}

/// Builds the reply: what was acquired, and what became of acknowledgements.
fn reply(
    call: Call,
    head: &ShareResponseHead<'_>,
    got: Vec<Got>,
    acknowledged: Vec<(Place, i16)>,
) -> Outgoing {
    let mut all: Vec<(SharePartitionHead, Option<Payload>)> = got
        .into_iter()
        .map(|one| {
            let head = SharePartitionHead {
                topic_id: one.place.0,
                partition: one.place.1,
                error_code: one.error_code,
                acknowledge_error_code: 0,
                leader: (-1, -1),
                records_len: one.size_bytes as u32,
                acquired: one
                    .acquired
                    .iter()
                    .map(|range| (range.first, range.last, range.deliveries))
                    .collect(),
            };
            (head, one.payload)
        })
        .collect();
    for ((topic_id, partition), acknowledge_error_code) in acknowledged {
        let place = all.iter_mut().find(|(head, _)| (head.topic_id, head.partition) == (topic_id, partition));
        match place {
            Some((head, _)) => head.acknowledge_error_code = acknowledge_error_code,
            None => {
                let leader = (-1, -1);
                let head = SharePartitionHead {
                    topic_id,
                    partition,
                    acknowledge_error_code,
                    leader,
                    ..SharePartitionHead::default()
                };
                all.push((head, None));
            }
        }
    }
    all.sort_by_key(|(head, _)| (head.topic_id, head.partition));
    let (heads, payloads): (Vec<SharePartitionHead>, Vec<Option<Payload>>) = all.into_iter().unzip();
    let mut skeleton = Vec::with_capacity(96 + heads.len() * 96);
    let start = header::begin_response(&mut skeleton, call.api_key, call.version, call.correlation_id);
    let (cuts, records_bytes) = encode_fetch_response(&mut skeleton, head, &heads);
    metrics::add(Counter::FetchBytes, records_bytes as u64);
    let failed = heads.iter().filter(|one| one.error_code != 0).count() + usize::from(head.error_code != 0);
    metrics::count_errors(SHARE_FETCH, failed as u64);
    header::patch_frame_size(&mut skeleton, start, records_bytes);
    let inserts =
        cuts.into_iter().zip(payloads).filter_map(|(cut, payload)| payload.map(|p| (cut, p))).collect();
    Outgoing { skeleton, inserts, ..Outgoing::default() }
}
