//! The transaction coordinator: transactional ids, each beside the partition of `__transaction_state` that its name
//! leads to.
//!
//! Owner: the core that owns that partition; others come through the mesh (`txn_api`). Spec: KIP-98, KIP-360,
//! KIP-890. Invariants: a step of [`TxnMetadata`] is durable before it is taken or told; one id takes one step at a
//! time; a decided transaction is completed however long it takes, after a kill by the next start; a request waits at
//! most [`TXN_STEP_WAIT_MS`] for the step before it.
//! It must not know Kafka's error codes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::state_log::{Replayed, StateLog};
use super::txn_markers::{MarkerOutcome, MarkerTarget, write_markers};
use super::txn_record;
use super::txn_state::{EndStep, InitStep, ProducerKey, TxnError, TxnMetadata, TxnPhase};
use super::{Home, producer_ids};
use crate::limits::{TXN_IDS_PER_PARTITION_MAX, TXN_MARKER_RETRY_MS_MAX, TXN_STEP_WAIT_MS};
use crate::maps::HashMap;
use crate::rt;
use crate::shard::{PartitionKey, Shard};
use crate::sync::Event;
use crate::wire::control_batch::Marker;

/// First pause before markers are tried again, milliseconds.
const MARKER_RETRY_MS_MIN: u64 = 10;

/// The transactional ids of one core.
#[derive(Default)]
pub struct Transactions {
    partitions: RefCell<HashMap<PartitionKey, Rc<TxnPartition>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    Running,
    Done,
    Failed,
}

/// One partition of `__transaction_state` and the ids in it.
pub struct TxnPartition {
    log: Rc<StateLog>,
    ids: RefCell<BTreeMap<String, Rc<TxnId>>>,
    load: Cell<Load>,
    loaded: Event,
}

struct TxnId {
    id: String,
    now: RefCell<TxnMetadata>,
    /// Since when this process knows of the transaction, on the steady clock: its time-out counts from here, so that
    /// no jump of the clock and no stop of the broker takes any of it away.
    open_ms: Cell<i64>,
    /// A step is on its way to the log.
    busy: Cell<bool>,
    changed: Event,
}

/// The right to take the next step of an id.
struct Turn(Rc<TxnId>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.busy.set(false);
        self.0.changed.fire();
    }
}

fn deadline() -> Instant {
    rt::now() + Duration::from_millis(TXN_STEP_WAIT_MS)
}

/// Waits until `condition` holds, at most until `until`; whether it holds.
async fn within(until: Instant, event: &Event, condition: impl Fn() -> bool) -> bool {
    if condition() {
        return true;
    }
    let left = until.saturating_duration_since(rt::now()).as_millis() as u64;
    futures_lite::future::or(event.wait_until(&condition), rt::sleep_ms(left)).await;
    condition()
}

impl TxnId {
    fn new(id: String, now: TxnMetadata) -> Rc<TxnId> {
        Rc::new(TxnId {
            id,
            now: RefCell::new(now),
            open_ms: Cell::new(rt::steady_ms()),
            busy: Cell::new(false),
            changed: Event::default(),
        })
    }

    fn is_free(&self) -> bool {
        !self.busy.get() && !self.now.borrow().phase.is_prepared()
    }

    fn try_turn(self: &Rc<Self>) -> Option<Turn> {
        self.is_free().then(|| {
            self.busy.set(true);
            Turn(self.clone())
        })
    }

    /// Waits for the steps before, and for the markers of a decided transaction.
    async fn turn(self: &Rc<Self>, until: Instant) -> Result<Turn, TxnError> {
        loop {
            if let Some(turn) = self.try_turn() {
                return Ok(turn);
            }
            if !within(until, &self.changed, || self.is_free()).await {
                return Err(TxnError::Concurrent);
            }
        }
    }
}

impl Transactions {
    /// The partition at `home`, which is on this core, once it is loaded.
    pub async fn partition(&self, shard: &Rc<Shard>, home: Home) -> Result<Rc<TxnPartition>, TxnError> {
        let key = (home.topic_id, home.partition);
        let known = self.partitions.borrow().get(&key).cloned();
        let found = match known {
            Some(found) => found,
            None => {
                let partition =
                    shard.partition(home.topic_id, home.partition).ok_or(TxnError::NotAvailable)?;
                let log = StateLog::new(partition);
                let found = TxnPartition::new(log);
                self.partitions.borrow_mut().insert(key, found.clone());
                found.clone().start_load(shard);
                found
            }
        };
        let until = deadline();
        within(until, &found.loaded, || found.load.get() != Load::Running).await;
        match found.load.get() {
            Load::Done => Ok(found),
            Load::Running => Err(TxnError::Loading),
            Load::Failed => {
                self.partitions.borrow_mut().remove(&key);
                Err(TxnError::NotAvailable)
            }
        }
    }

    fn all(&self) -> Vec<Rc<TxnPartition>> {
        let done = |found: &&Rc<TxnPartition>| found.load.get() == Load::Done;
        self.partitions.borrow().values().filter(done).cloned().collect()
    }

    /// All ids of this core, and whether some are still being read.
    pub fn list(&self) -> (Vec<(String, TxnMetadata)>, bool) {
        let loading = self.partitions.borrow().values().any(|found| found.load.get() == Load::Running);
        let mut all = Vec::new();
        for partition in self.all() {
            let ids = partition.ids.borrow();
            all.extend(ids.values().map(|one| (one.id.clone(), one.now.borrow().clone())));
        }
        (all, loading)
    }

    /// Aborts the transactions of this core that took longer than their time-out.
    pub async fn abort_timed_out(&self, shard: &Rc<Shard>) {
        let now_ms = rt::steady_ms();
        for partition in self.all() {
            let late: Vec<_> = {
                let ids = partition.ids.borrow();
                ids.values()
                    .filter(|one| one.now.borrow().is_timed_out(now_ms - one.open_ms.get()))
                    .cloned()
                    .collect()
            };
            for one in late {
                let Some(turn) = one.try_turn() else { continue };
                let abort = {
                    let now = one.now.borrow();
                    now.is_timed_out(now_ms - one.open_ms.get()).then(|| now.fenced(rt::wall_ms()))
                };
                let Some(abort) = abort else { continue };
                tracing::info!(transactional_id = one.id, "transaction aborted: it took too long");
                if partition.store(&one, abort).await.is_ok() {
                    partition.start_completion(shard, &one);
                }
                drop(turn);
            }
        }
    }

    /// Forgets ids of this core that were not used since `before_ms`.
    pub async fn expire(&self, before_ms: i64) {
        for partition in self.all() {
            let old: Vec<_> = {
                let ids = partition.ids.borrow();
                ids.values().filter(|one| one.now.borrow().is_expired(before_ms)).cloned().collect()
            };
            for one in old {
                let Some(turn) = one.try_turn() else { continue };
                if !one.now.borrow().is_expired(before_ms) {
                    continue;
                }
                let tombstone = txn_record::encode(&one.id, None);
                if partition.log.append(vec![tombstone], None).await.is_ok() {
                    partition.ids.borrow_mut().remove(&one.id);
                }
                drop(turn);
            }
        }
    }
}

impl TxnPartition {
    fn new(log: Rc<StateLog>) -> Rc<TxnPartition> {
        let load = Cell::new(Load::Running);
        Rc::new(TxnPartition { log, ids: RefCell::default(), load, loaded: Event::default() })
    }

    fn start_load(self: Rc<Self>, shard: &Rc<Shard>) {
        if self.log.is_empty() {
            self.load.set(Load::Done);
            return;
        }
        let shard = shard.clone();
        rt::spawn(async move {
            let outcome = self.load().await;
            if let Err(error) = &outcome {
                tracing::error!(partition = %self.log.partition().log.name(), "cannot be loaded: {error}");
            }
            self.load.set(if outcome.is_ok() { Load::Done } else { Load::Failed });
            self.loaded.fire();
            let ids = self.ids.borrow().values().cloned().collect::<Vec<_>>();
            for one in ids {
                let prepared = one.now.borrow().phase.is_prepared();
                if prepared && outcome.is_ok() {
                    self.start_completion(&shard, &one);
                }
            }
        });
    }

    async fn load(&self) -> Result<(), super::state_log::StateLogError> {
        let mut ids = BTreeMap::new();
        self.log
            .replay(|item| {
                let Replayed::Record { key, value, .. } = item else { return };
                let Some(id) = txn_record::decode_key(key) else { return };
                match value.and_then(txn_record::decode) {
                    Some(metadata) => drop(ids.insert(id, metadata)),
                    None if value.is_none() => drop(ids.remove(&id)),
                    None => tracing::error!(
                        transactional_id = id,
                        "its state cannot be read; the one before is kept"
                    ),
                }
            })
            .await?;
        let known = ids.into_iter().map(|(id, metadata)| (id.clone(), TxnId::new(id, metadata)));
        *self.ids.borrow_mut() = known.collect();
        Ok(())
    }

    /// Stores a step and takes it.
    async fn store(&self, one: &TxnId, next: TxnMetadata) -> Result<(), TxnError> {
        let record = txn_record::encode(&one.id, Some(&next));
        self.log.append(vec![record], None).await.map_err(|error| {
            tracing::warn!(transactional_id = one.id, "a step was not stored: {error}");
            TxnError::NotAvailable
        })?;
        let opens = next.phase == TxnPhase::Ongoing && one.now.borrow().phase != TxnPhase::Ongoing;
        if opens {
            one.open_ms.set(rt::steady_ms());
        }
        *one.now.borrow_mut() = next;
        Ok(())
    }

    fn get(&self, id: &str) -> Result<Rc<TxnId>, TxnError> {
        let found = self.ids.borrow().get(id).cloned();
        found.filter(|one| one.now.borrow().epoch >= 0 || one.busy.get()).ok_or(TxnError::UnknownProducer)
    }

    async fn get_or_make(&self, shard: &Shard, id: &str, timeout_ms: i32) -> Result<Rc<TxnId>, TxnError> {
        if let Some(known) = self.ids.borrow().get(id) {
            return Ok(known.clone());
        }
        if self.ids.borrow().len() >= TXN_IDS_PER_PARTITION_MAX {
            return Err(TxnError::NotAvailable);
        }
        let producer_id = producer_ids::next_producer_id(shard).await.ok_or(TxnError::NotAvailable)?;
        let fresh = || TxnId::new(id.to_owned(), TxnMetadata::new(producer_id, timeout_ms, rt::wall_ms()));
        Ok(self.ids.borrow_mut().entry(id.to_owned()).or_insert_with(fresh).clone())
    }

    /// InitProducerId: the producer id and epoch with which the caller may write.
    pub async fn init(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        id: &str,
        timeout_ms: i32,
        expected: Option<ProducerKey>,
    ) -> Result<ProducerKey, TxnError> {
        let one = self.get_or_make(shard, id, timeout_ms).await?;
        let until = deadline();
        let mut fresh_id = None;
        loop {
            let turn = one.turn(until).await?;
            let step = one.now.borrow().init(timeout_ms, expected, fresh_id, rt::wall_ms())?;
            match step {
                InitStep::Become(next) => {
                    let producer = next.next_producer();
                    self.store(&one, next).await?;
                    return Ok(producer);
                }
                InitStep::NeedsProducerId => {
                    fresh_id = producer_ids::next_producer_id(shard).await;
                    fresh_id.ok_or(TxnError::NotAvailable)?;
                }
                InitStep::AbortFirst(next) => {
                    self.store(&one, next).await?;
                    self.start_completion(shard, &one);
                }
            }
            drop(turn);
        }
    }

    /// AddPartitionsToTxn, AddOffsetsToTxn, and the first batch or offset of a partition from clients that leave
    /// them out.
    pub async fn add(
        &self,
        id: &str,
        producer: ProducerKey,
        partitions: &[(String, i32)],
    ) -> Result<(), TxnError> {
        let one = self.get(id)?;
        let _turn = one.turn(deadline()).await?;
        let step = one.now.borrow().add(producer, partitions, rt::wall_ms())?;
        match step {
            Some(next) => self.store(&one, next).await,
            None => Ok(()),
        }
    }

    /// Which of `partitions` are part of the producer's transaction.
    pub async fn verify(
        &self,
        id: &str,
        producer: ProducerKey,
        partitions: &[(String, i32)],
    ) -> Result<Vec<bool>, TxnError> {
        let one = self.get(id)?;
        let _turn = one.turn(deadline()).await?;
        let now = one.now.borrow();
        now.verify(producer)?;
        Ok(partitions.iter().map(|(topic, partition)| now.has(topic, *partition)).collect())
    }

    /// EndTxn: decides, and waits for the markers as long as a request may wait. The producer with which the client
    /// goes on.
    pub async fn end(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        id: &str,
        producer: ProducerKey,
        commit: bool,
        bumps: bool,
    ) -> Result<ProducerKey, TxnError> {
        let one = self.get(id)?;
        let until = deadline();
        let mut fresh_id = None;
        loop {
            let turn = one.turn(until).await?;
            let step = one.now.borrow().end(producer, commit, bumps, fresh_id, rt::wall_ms())?;
            match step {
                EndStep::AlreadyDone => return Ok(one.now.borrow().next_producer()),
                EndStep::NeedsProducerId => {
                    fresh_id = producer_ids::next_producer_id(shard).await;
                    fresh_id.ok_or(TxnError::NotAvailable)?;
                }
                EndStep::Prepare(next) => {
                    let after = next.next_producer();
                    self.store(&one, next).await?;
                    self.start_completion(shard, &one);
                    drop(turn);
                    // Decided is decided: if the markers take longer, they follow.
                    within(until, &one.changed, || !one.now.borrow().phase.is_prepared()).await;
                    return Ok(after);
                }
            }
            drop(turn);
        }
    }

    /// What is known of an id.
    pub fn describe(&self, id: &str) -> Result<TxnMetadata, TxnError> {
        Ok(self.get(id)?.now.borrow().clone())
    }

    fn start_completion(self: &Rc<Self>, shard: &Rc<Shard>, one: &Rc<TxnId>) {
        let (partition, shard, one) = (self.clone(), shard.clone(), one.clone());
        rt::spawn(async move { partition.complete(&shard, &one).await });
    }

    /// Writes the markers of a decided transaction until all are there, then notes that they are.
    async fn complete(&self, shard: &Rc<Shard>, one: &TxnId) {
        let mut pause_ms = MARKER_RETRY_MS_MIN;
        loop {
            let decided = one.now.borrow().clone();
            assert!(decided.phase.is_prepared(), "only a decided transaction is completed");
            if self.mark_all(shard, &decided).await {
                let next = decided.completed(rt::wall_ms());
                let record = txn_record::encode(&one.id, Some(&next));
                // Not waited for before the next step: that one's record comes behind this one, and without this
                // one a start would only write the markers again.
                if let Ok(stored) = self.log.submit(vec![record], None) {
                    *one.now.borrow_mut() = next;
                    one.changed.fire();
                    if let Err(error) = stored.wait().await {
                        tracing::warn!(transactional_id = one.id, "completion was not stored: {error}");
                    }
                    return;
                }
            }
            if shard.is_stopping() {
                return;
            }
            rt::sleep_ms(pause_ms).await;
            pause_ms = (pause_ms * 2).min(TXN_MARKER_RETRY_MS_MAX);
        }
    }

    async fn mark_all(&self, shard: &Rc<Shard>, decided: &TxnMetadata) -> bool {
        let marker = Marker {
            producer_id: decided.producer_id,
            producer_epoch: decided.epoch,
            commit: decided.phase == TxnPhase::PrepareCommit,
            coordinator_epoch: self.log.partition().leader_epoch(),
        };
        let catalog = shard.catalog();
        let mut targets = Vec::new();
        for (topic, indexes) in &decided.partitions {
            // A topic that was deleted needs no marker.
            let Some(topic) = catalog.topic(topic) else { continue };
            targets.extend(
                indexes.iter().map(|partition| MarkerTarget { topic_id: topic.id, partition: *partition }),
            );
        }
        let outcomes = write_markers(shard, marker, &targets).await;
        outcomes.iter().all(|outcome| *outcome != MarkerOutcome::Failed)
    }
}
