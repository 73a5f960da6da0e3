//! The reads of one fetch, on this core and others.
//!
//! Owner: the connection's core asks, the partitions' cores read. Invariants: at least one batch is
//! returned if there is any (KIP-74), then only what fits; what another core read is lent, not copied.

use std::rc::Rc;

use uuid::Uuid;

use crate::catalog::Catalog;
use crate::net::Payload;
use crate::partition::{Partition, Watched, wait_for_data};
use crate::shard::{Lease, Shard};
use crate::storage::{Isolation, LogError, ReadOutcome};
use crate::sync::Wait;
use crate::wire::TopicKey;
use crate::wire::fetch::FetchPartition;

const OFFSET_OUT_OF_RANGE: i16 = 1;
const CORRUPT_MESSAGE: i16 = 2;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const KAFKA_STORAGE_ERROR: i16 = 56;
const FENCED_LEADER_EPOCH: i16 = 74;
const UNKNOWN_LEADER_EPOCH: i16 = 76;
const UNKNOWN_TOPIC_ID: i16 = 100;

/// One partition of a fetch, resolved.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    topic_id: Uuid,
    partition: i32,
    owner: usize,
    offset: i64,
    max_bytes: usize,
    isolation: Isolation,
    current_leader_epoch: i32,
    last_fetched_epoch: i32,
    /// The topic or partition is not in the catalog.
    error_code: i16,
}

impl Wanted {
    pub(super) fn resolve(
        shard: &Shard,
        catalog: &Catalog,
        fetch: &FetchPartition,
        isolation: Isolation,
    ) -> Wanted {
        let (topic, unknown) = match &fetch.topic {
            TopicKey::Name(name) => (catalog.topic(name), UNKNOWN_TOPIC_OR_PARTITION),
            TopicKey::Id(id) => (catalog.topic_by_id(*id), UNKNOWN_TOPIC_ID),
        };
        let exists = topic.is_some_and(|topic| topic.partition(fetch.partition).is_some());
        let topic_id = topic.map_or(Uuid::nil(), |topic| topic.id);
        Wanted {
            topic_id,
            partition: fetch.partition,
            owner: if exists { shard.owner_of(topic_id, fetch.partition) } else { shard.core },
            offset: fetch.fetch_offset,
            max_bytes: fetch.max_bytes.max(0) as usize,
            isolation,
            current_leader_epoch: fetch.current_leader_epoch,
            last_fetched_epoch: fetch.last_fetched_epoch,
            error_code: match (topic, exists) {
                (_, true) => 0,
                (None, _) => unknown,
                (Some(_), false) => UNKNOWN_TOPIC_OR_PARTITION,
            },
        }
    }
}

/// What one partition's read came to.
pub(super) struct PartitionRead {
    pub(super) error_code: i16,
    pub(super) high_watermark: i64,
    pub(super) last_stable_offset: i64,
    pub(super) log_start_offset: i64,
    pub(super) diverging: Option<(i32, i64)>,
    /// Aborted transactions among the records, for readers of committed data.
    pub(super) aborted: Option<Vec<(i64, i64)>>,
    pub(super) size_bytes: usize,
    pub(super) payload: Option<Payload>,
}

impl PartitionRead {
    pub(super) fn error(error_code: i16) -> PartitionRead {
        PartitionRead {
            error_code,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            diverging: None,
            aborted: None,
            size_bytes: 0,
            payload: None,
        }
    }
}

/// What crosses the mesh: the same, with a lease instead of slices.
struct FarRead {
    at: usize,
    head: PartitionHead,
    lease: Option<Lease>,
}

struct PartitionHead {
    error_code: i16,
    high_watermark: i64,
    last_stable_offset: i64,
    log_start_offset: i64,
    diverging: Option<(i32, i64)>,
    aborted: Option<Vec<(i64, i64)>>,
    size_bytes: usize,
}

impl PartitionHead {
    fn with(self, payload: Option<Payload>) -> PartitionRead {
        PartitionRead {
            error_code: self.error_code,
            high_watermark: self.high_watermark,
            last_stable_offset: self.last_stable_offset,
            log_start_offset: self.log_start_offset,
            diverging: self.diverging,
            aborted: self.aborted,
            size_bytes: self.size_bytes,
            payload,
        }
    }
}

/// Reads all partitions, core by core, within `max_bytes`.
pub(super) async fn read_all(shard: &Rc<Shard>, wanted: &[Wanted], max_bytes: usize) -> Vec<PartitionRead> {
    let mut reads: Vec<Option<PartitionRead>> = Vec::new();
    reads.resize_with(wanted.len(), || None);
    let mut budget = Budget { left: max_bytes, empty: true };
    for offset in 0..shard.mesh.cores() {
        let core = (shard.core + offset) % shard.mesh.cores();
        let mine: Vec<(usize, Wanted)> =
            wanted.iter().copied().enumerate().filter(|(_, wanted)| wanted.owner == core).collect();
        if mine.is_empty() {
            continue;
        }
        if core == shard.core {
            for (at, wanted) in mine {
                let (head, outcome) = read_one(shard, &wanted, &mut budget).await;
                let payload = (head.size_bytes > 0).then_some(Payload::Local(outcome.slices));
                reads[at] = Some(head.with(payload));
            }
            continue;
        }
        let far = shard
            .mesh
            .call(core, move |owner| Box::pin(async move { read_far(&owner, mine, budget).await }))
            .await;
        for read in far.unwrap_or_default() {
            budget.spend(read.head.size_bytes);
            reads[read.at] = Some(read.head.with(read.lease.map(Payload::Leased)));
        }
    }
    reads.into_iter().map(|read| read.unwrap_or_else(|| PartitionRead::error(KAFKA_STORAGE_ERROR))).collect()
}

#[derive(Clone, Copy)]
struct Budget {
    left: usize,
    /// Nothing was returned yet: the first batch goes out whatever its size.
    empty: bool,
}

impl Budget {
    fn spend(&mut self, size: usize) {
        self.left = self.left.saturating_sub(size);
        self.empty &= size == 0;
    }
}

async fn read_far(owner: &Rc<Shard>, wanted: Vec<(usize, Wanted)>, mut budget: Budget) -> Vec<FarRead> {
    let mut reads = Vec::with_capacity(wanted.len());
    for (at, wanted) in wanted {
        let (head, outcome) = read_one(owner, &wanted, &mut budget).await;
        let lease = (head.size_bytes > 0).then(|| owner.leases.lend(owner.core, outcome.slices, &owner.mesh));
        reads.push(FarRead { at, head, lease });
    }
    reads
}

async fn read_one(shard: &Rc<Shard>, wanted: &Wanted, budget: &mut Budget) -> (PartitionHead, ReadOutcome) {
    let error = |error_code| {
        let head = PartitionHead {
            error_code,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            diverging: None,
            aborted: None,
            size_bytes: 0,
        };
        (head, ReadOutcome::default())
    };
    if wanted.error_code != 0 {
        return error(wanted.error_code);
    }
    let Some(partition) = shard.partition(wanted.topic_id, wanted.partition) else {
        return error(UNKNOWN_TOPIC_OR_PARTITION);
    };
    if let Some(code) = check_epoch(&partition, wanted.current_leader_epoch) {
        return error(code);
    }
    let mut head = PartitionHead {
        error_code: 0,
        high_watermark: partition.log.high_watermark(),
        last_stable_offset: partition.last_stable_offset(),
        log_start_offset: partition.log.log_start_offset(),
        diverging: diverging(&partition, wanted),
        aborted: (wanted.isolation == Isolation::Committed).then(Vec::new),
        size_bytes: 0,
    };
    let max_bytes = wanted.max_bytes.min(budget.left);
    if head.diverging.is_some() || (max_bytes == 0 && !budget.empty) {
        return (head, ReadOutcome::default());
    }
    let outcome = match partition.log.read_isolated(wanted.offset, max_bytes, wanted.isolation).await {
        Ok(outcome) => outcome,
        Err(LogError::OutOfRange(_)) => {
            head.error_code = OFFSET_OUT_OF_RANGE;
            return (head, ReadOutcome::default());
        }
        Err(LogError::Damaged(_)) => return error(CORRUPT_MESSAGE),
        Err(LogError::Deleted) => return error(UNKNOWN_TOPIC_OR_PARTITION),
        Err(_) => return error(KAFKA_STORAGE_ERROR),
    };
    // Only the first batch of an answer may exceed the limits.
    if outcome.size_bytes > max_bytes && !budget.empty {
        return (head, ReadOutcome::default());
    }
    budget.spend(outcome.size_bytes);
    if outcome.size_bytes > 0 && wanted.isolation == Isolation::Committed {
        head.aborted = Some(partition.log.aborted_among(wanted.offset, outcome.end_position));
    }
    head.size_bytes = outcome.size_bytes;
    (head, outcome)
}

/// KIP-320: a client that knows another leader epoch than ours must refresh.
pub(super) fn check_epoch(partition: &Partition, known: i32) -> Option<i16> {
    match known {
        -1 => None,
        epoch if epoch < partition.leader_epoch() => Some(FENCED_LEADER_EPOCH),
        epoch if epoch > partition.leader_epoch() => Some(UNKNOWN_LEADER_EPOCH),
        _ => None,
    }
}

/// KIP-595: where the log of a reader that was at `last_fetched_epoch` parts from ours.
fn diverging(partition: &Partition, wanted: &Wanted) -> Option<(i32, i64)> {
    if wanted.last_fetched_epoch < 0 {
        return None;
    }
    let (epoch, end) = partition.log.end_of_epoch(wanted.last_fetched_epoch)?;
    (epoch < wanted.last_fetched_epoch || end < wanted.offset).then_some((epoch, end))
}

/// A partition whose watermark a parked fetch waits for.
#[derive(Clone, Copy)]
pub(super) struct WatchItem {
    topic_id: Uuid,
    partition: i32,
    pub(super) owner: usize,
    isolation: Isolation,
    end_seen: i64,
}

impl WatchItem {
    pub(super) fn new(wanted: &Wanted, read: &PartitionRead) -> WatchItem {
        let isolation = wanted.isolation;
        let end_seen = match isolation {
            Isolation::Uncommitted => read.high_watermark,
            Isolation::Committed => read.last_stable_offset,
        };
        WatchItem {
            topic_id: wanted.topic_id,
            partition: wanted.partition,
            owner: wanted.owner,
            isolation,
            end_seen,
        }
    }
}

/// Resolves when one of the partitions, all of this core, has news or is gone, or `cancel` resolves.
pub(super) async fn watch(shard: &Rc<Shard>, items: &[WatchItem], cancel: Wait<'_>) {
    let mut watched = Vec::with_capacity(items.len());
    for item in items {
        match shard.partition(item.topic_id, item.partition) {
            Some(partition) => {
                let (isolation, end_seen) = (item.isolation, item.end_seen);
                watched.push(Watched { partition, isolation, end_seen });
            }
            None => return,
        }
    }
    wait_for_data(&watched, cancel).await;
}
