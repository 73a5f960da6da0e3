//! What one core owns: its partitions, its memory, its connections; and how cores talk.
//!
//! Owner: the core itself. Invariants: a partition lives on exactly one core; other cores reach it only
//! through `mesh`; the catalog snapshot is immutable and replaced as a whole by the control thread.
//! It must not encode or decode requests.

mod cleaning;
mod connections;
mod control;
mod lease;
mod mesh;
mod sessions;
mod startup;

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use uuid::Uuid;

use crate::catalog::{Catalog, Dynamic, ResourceKind, Topic, owner_core};
use crate::clock;
use crate::config::{BrokerConfig, TopicConfig};
use crate::coordinator::Coordinators;
use crate::limits::{
    CLOCK_JUMP_MS, COMPLAINT_WINDOW_S, COMPLAINTS_PER_WINDOW_MAX, ROOM_BYTES_MIN, ROOM_CHECK_MS,
};
use crate::maps::HashMap;
use crate::net::{AnswerMemory, FramePool};
use crate::partition::{Partition, log_config};
use crate::quota::Quotas;
use crate::rt;
use crate::storage::{Cleaner, Log, LogResources, Recovered, Reign, SegmentSummary, free_bytes};
use crate::sync::{Event, Turns};

pub use crate::storage::start_reaper;
pub use cleaning::start_cleaner;
pub use connections::ConnectionCounts;
pub use control::{Control, ControlError};
pub use lease::{Lease, LeaseTable};
pub use mesh::{Job, LocalFuture, Mesh, build as build_mesh};
pub use sessions::{SessionContext, SessionError, SessionPartition, Sessions};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use startup::decode_mark;
pub use startup::{CleanMark, ShardSetup, open_shard, read_clean_mark, set_strays_aside, write_clean_mark};

/// Key of a partition on its core.
pub type PartitionKey = (Uuid, i32);

/// One core's state.
pub struct Shard {
    /// Index of the core, from 0.
    pub core: usize,
    /// Broker configuration as at the start; see [`Shard::config_now`] for keys that can change.
    pub config: Arc<BrokerConfig>,
    /// Client quotas, and the use that this core keeps account of.
    pub quotas: Quotas,
    /// The way to other cores.
    pub mesh: Mesh,
    /// The way to the catalog's writer.
    pub control: Control,
    /// Slices lent to other cores.
    pub leases: LeaseTable,
    /// Fetch sessions of this core's connections.
    pub sessions: Sessions,
    /// Memory for request frames.
    pub frames: FramePool,
    /// Memory for answers that are made from records or that peers are slow to take.
    pub answers: Rc<AnswerMemory>,
    /// Turns at receiving and sending much at a time.
    pub bulk: Rc<Turns>,
    /// Coordinators of groups and transactions.
    pub coordinators: Coordinators,
    /// Fires when the broker stops.
    pub stop: Event,
    resources: LogResources,
    cleaner: Option<Cleaner>,
    config_now: RefCell<Arc<BrokerConfig>>,
    catalog: RefCell<Arc<Catalog>>,
    partitions: RefCell<HashMap<PartitionKey, Rc<Partition>>>,
    watches: RefCell<HashMap<u64, Rc<Event>>>,
    stopping: Cell<bool>,
    drained_cores: Cell<usize>,
    connections: Cell<usize>,
    /// Connections of the whole process.
    counts: Arc<ConnectionCounts>,
    complaints: Cell<(i64, u32)>,
    /// What the clock of expiry said when it was kept last, and the steady clock then.
    clock_noted: Cell<(i64, i64)>,
}

/// Size and end of one partition's log (`DescribeLogDirs`).
#[derive(Clone, Copy, Debug)]
pub struct PartitionSize {
    /// Topic id.
    pub topic_id: Uuid,
    /// Partition index.
    pub partition: i32,
    /// Bytes of all segments.
    pub size_bytes: u64,
}

/// What one core holds right now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gauges {
    /// Open connections.
    pub connections: usize,
    /// Partitions owned.
    pub partitions: usize,
    /// Of these, those that no longer take appends because a write or flush failed.
    pub failed_partitions: usize,
    /// Tail memory in use, bytes.
    pub tail_bytes: usize,
    /// Files that wait to become segments.
    pub pool_files: usize,
    /// Their size, bytes.
    pub pool_bytes: u64,
    /// Slices lent to other cores.
    pub leases: usize,
    /// Memory of answers that are being sent, bytes.
    pub answer_bytes: usize,
    /// How far the clock that expiry goes by stands behind the system's, because that jumped; milliseconds.
    pub clock_behind_ms: u64,
}

/// The active segment of one partition at a clean stop.
pub struct CleanPartition {
    /// Partition.
    pub key: PartitionKey,
    /// Base offset of the active segment.
    pub base_offset: i64,
    /// Its end, index and producer state.
    pub summary: SegmentSummary,
}

impl Shard {
    /// The catalog now.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalog.borrow().clone()
    }

    /// Broker configuration with what was changed since the start.
    pub fn config_now(&self) -> Arc<BrokerConfig> {
        self.config_now.borrow().clone()
    }

    /// The core that owns a partition.
    pub fn owner_of(&self, topic_id: Uuid, partition: i32) -> usize {
        owner_core(topic_id, partition, self.mesh.cores())
    }

    /// A partition that this core owns.
    pub fn partition(&self, topic_id: Uuid, partition: i32) -> Option<Rc<Partition>> {
        self.partitions.borrow().get(&(topic_id, partition)).cloned()
    }

    /// Sizes of all partitions of this core.
    pub fn partition_sizes(&self) -> Vec<PartitionSize> {
        self.partitions
            .borrow()
            .values()
            .map(|partition| PartitionSize {
                topic_id: partition.topic_id,
                partition: partition.index,
                size_bytes: partition.log.size_bytes(),
            })
            .collect()
    }

    /// What this core holds right now.
    pub fn gauges(&self) -> Gauges {
        let partitions = self.partitions.borrow();
        Gauges {
            connections: self.connections.get(),
            partitions: partitions.len(),
            failed_partitions: partitions.values().filter(|p| p.log.failure().is_some()).count(),
            tail_bytes: self.resources.cache.used_bytes(),
            pool_files: self.resources.pool.file_count(),
            pool_bytes: self.resources.pool.pooled_bytes(),
            leases: self.leases.count(),
            answer_bytes: self.answers.held_bytes(),
            clock_behind_ms: self.resources.clock.behind_ms(),
        }
    }

    /// Takes a new catalog: opens partitions that came, deletes those that went, updates the others.
    ///
    /// Resolves when deleted partitions are out of the way of new ones with the same name.
    pub async fn apply_catalog(self: &Rc<Self>, new: Arc<Catalog>) {
        let old = self.catalog.replace(new.clone());
        let defaults_changed = !Arc::ptr_eq(&old.dynamic, &new.dynamic) && self.apply_dynamic(&new.dynamic);
        for topic in old.topics() {
            if new.topic_by_id(topic.id).is_none() {
                self.drop_topic(topic).await;
            }
        }
        for topic in new.topics() {
            let known = old.topic_by_id(topic.id);
            if defaults_changed || !known.is_some_and(|known| Arc::ptr_eq(known, topic)) {
                self.apply_topic(topic, |_, reign| Recovered { reign, ..Recovered::default() });
            }
        }
    }

    /// Takes new dynamic configurations and quotas; whether the broker's configuration is another one.
    fn apply_dynamic(&self, dynamic: &Dynamic) -> bool {
        self.quotas.set(dynamic.quotas());
        let own = dynamic.configs(ResourceKind::Broker, &self.config.node_id.to_string());
        let next = self.config.with_dynamic(dynamic.configs(ResourceKind::Broker, ""), own);
        let changed = next != **self.config_now.borrow();
        if changed {
            self.config_now.replace(Arc::new(next));
        }
        changed
    }

    fn apply_topic(&self, topic: &Arc<Topic>, recover: impl Fn(i32, Reign) -> Recovered) {
        let config = Rc::new(TopicConfig::effective(&self.config_now(), &topic.configs));
        for (index, meta) in topic.partitions.iter().enumerate() {
            let index = index as i32;
            if self.owner_of(topic.id, index) != self.core {
                continue;
            }
            if let Some(partition) = self.partition(topic.id, index) {
                partition.raise_leader_epoch(meta.leader_epoch);
                partition.set_config(config.clone());
                continue;
            }
            let name = format!("{}-{index}", topic.name);
            let directory = self.config.data_dir.join(&name);
            let metadata = format!("version: 0\ntopic_id: {}\n", kafka_uuid(topic.id)).into_bytes();
            let reign = Reign { first_epoch: topic.first_epoch, last_epoch: meta.leader_epoch };
            let recovered = recover(index, reign);
            let log_config = log_config(&config, topic.id, index);
            let log = Log::new(name, directory, &self.resources, log_config, recovered, metadata);
            let partition =
                Partition::new(topic.name.clone(), topic.id, index, meta.leader_epoch, config.clone(), log);
            self.partitions.borrow_mut().insert((topic.id, index), partition);
        }
    }

    async fn drop_topic(self: &Rc<Self>, topic: &Topic) {
        for index in 0..topic.partition_count() as i32 {
            let Some(partition) = self.partitions.borrow_mut().remove(&(topic.id, index)) else { continue };
            let unique = topic.id.simple().to_string();
            if let Some(graveyard) = partition.log.detach(&unique).await {
                rt::spawn(async move { partition.log.clone().bury(graveyard).await });
            }
        }
    }

    /// Registers a wait that another core may cancel: the event, not fired yet (generation 0).
    pub fn open_watch(&self, id: u64) -> Rc<Event> {
        let event = Rc::new(Event::default());
        self.watches.borrow_mut().insert(id, event.clone());
        event
    }

    /// Ends a wait.
    pub fn close_watch(&self, id: u64) {
        if let Some(event) = self.watches.borrow_mut().remove(&id) {
            event.fire();
        }
    }

    /// Whether a stop was asked for.
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Begins a graceful stop: no new connections or requests; what is in flight is answered.
    pub fn begin_stop(&self) {
        self.stopping.set(true);
        self.stop.fire();
    }

    /// Notes that one core (this one among them) has no requests left.
    pub fn note_drained(&self) {
        self.drained_cores.set(self.drained_cores.get() + 1);
        self.stop.fire();
    }

    /// Whether no core has requests left: until then others may still ask for this core's partitions.
    pub fn all_drained(&self) -> bool {
        self.drained_cores.get() >= self.mesh.cores()
    }

    /// Counts a connection of `address` in; false when the broker has too many in all, or of that address.
    pub fn admit_connection(&self, address: Option<IpAddr>) -> bool {
        let config = self.config_now.borrow().clone();
        let total_max = config.connection_count_max.max(1) as usize;
        let per_address_max = config.connection_count_per_ip_max.max(0) as usize;
        let admitted = self.counts.admit(address, total_max, per_address_max);
        if admitted {
            self.connections.set(self.connections.get() + 1);
        }
        admitted
    }

    /// Counts a connection out.
    pub fn release_connection(&self, address: Option<IpAddr>) {
        self.counts.release(address);
        self.connections.set(self.connections.get() - 1);
        if self.stopping.get() {
            self.stop.fire();
        }
    }

    /// Whether one more line about a peer's mistake may be logged: peers must not be able to fill a disk.
    pub fn may_complain(&self) -> bool {
        let now_s = rt::steady_ms() / 1000;
        let (since_s, count) = self.complaints.get();
        if (now_s - since_s).abs() >= COMPLAINT_WINDOW_S {
            self.complaints.set((now_s, 1));
            return true;
        }
        self.complaints.set((since_s, count.saturating_add(1)));
        count < COMPLAINTS_PER_WINDOW_MAX
    }

    /// Connections open on this core.
    pub fn connection_count(&self) -> usize {
        self.connections.get()
    }

    /// Now, for what goes by age: see [`ExpiryClock`](clock::ExpiryClock).
    pub fn expiry_ms(&self) -> i64 {
        self.resources.clock.now_ms()
    }

    /// Keeps the clock for the next start; one core does it for all.
    async fn remember_clock(&self, now_ms: i64) {
        if self.core != 0 {
            return;
        }
        self.clock_noted.set((rt::steady_ms(), now_ms));
        let (path, bytes) = clock::memory_of(&self.config.data_dir.join("meta"), now_ms);
        // (Without it the next start believes its clock.)
        if let Err(error) = self.resources.disk.write_small(path.clone(), bytes, true).await {
            tracing::warn!("{}: cannot be written: {error}", path.display());
        }
    }

    /// Keeps the clock at once when it has jumped: a start after a crash must know.
    async fn note_jump(&self) {
        let (now_ms, (steady_ms, noted_ms)) = (self.expiry_ms(), self.clock_noted.get());
        let passed_ms = rt::steady_ms() - steady_ms;
        if noted_ms > 0 && (now_ms - noted_ms - passed_ms).abs() > CLOCK_JUMP_MS {
            self.remember_clock(now_ms).await;
        }
    }

    /// Retention and expiry, over and over.
    pub async fn housekeeping(self: Rc<Self>) {
        let interval = self.config.retention_check_interval_ms.max(1);
        loop {
            rt::sleep_ms(interval).await;
            let now_ms = self.expiry_ms();
            self.remember_clock(now_ms).await;
            self.resources.ahead.drop_idle();
            let all: Vec<_> = self.partitions.borrow().values().cloned().collect();
            let expiry_ms =
                i64::try_from(self.config_now.borrow().producer_id_expiration_ms).unwrap_or(i64::MAX);
            for partition in all {
                partition.log.roll_if_due(now_ms).await;
                partition.log.apply_retention(now_ms).await;
                partition.log.close_idle_files();
                partition.log.expire_producers(now_ms.saturating_sub(expiry_ms));
                rt::yield_now().await;
            }
        }
    }

    /// Gives up what waits in the pool when the disk gets full: another core, or the catalog, may need the room.
    pub async fn watch_room(self: Rc<Self>) {
        let pool = &self.resources.pool;
        loop {
            rt::sleep_ms(ROOM_CHECK_MS).await;
            self.note_jump().await;
            while pool.file_count() > 0 {
                let directory = pool.directory().to_owned();
                let free = rt::blocking(move || free_bytes(&directory)).await;
                if free.is_ok_and(|free| free >= ROOM_BYTES_MIN) || !pool.give_up_one().await {
                    break;
                }
            }
        }
    }

    /// Writes and flushes all logs; the clean-shutdown entries, or `None` if any log failed.
    pub async fn close_logs(&self) -> Option<Vec<CleanPartition>> {
        let all: Vec<_> = self.partitions.borrow().values().cloned().collect();
        let mut clean = Vec::new();
        let mut failed = false;
        for partition in all {
            if let Err(error) = partition.log.close().await {
                tracing::error!(partition = %partition.log.name(), "not closed cleanly: {error}");
                failed = true;
                continue;
            }
            if let Some((base_offset, summary)) = partition.log.active_summary() {
                clean.push(CleanPartition {
                    key: (partition.topic_id, partition.index),
                    base_offset,
                    summary,
                });
            }
        }
        (!failed).then_some(clean)
    }
}

/// A uuid as Kafka prints it: URL-safe base64 without padding.
pub fn kafka_uuid(id: Uuid) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::with_capacity(22);
    for group in id.as_bytes().chunks(3) {
        let word =
            group.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for digit in 0..=group.len() {
            out.push(ALPHABET[(word >> (18 - 6 * digit)) as usize & 63] as char);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_print_as_kafka_prints_them() {
        assert_eq!(kafka_uuid(Uuid::from_u128(0)), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(kafka_uuid(Uuid::from_u128(u128::MAX)), "_____________________w");
    }
}
