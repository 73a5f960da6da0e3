//! Transactions of one partition's log: which are open, where readers of committed data must stop, which were aborted.
//!
//! Owner: the partition's log. Spec: KIP-98, KIP-890. A transaction is *open* from its first batch to its marker, and
//! holds the last stable offset down until the marker is visible. State moves only together with an append (also
//! while recovering). A batch that would open a transaction is let in only if its producer was *verified* with the
//! transaction coordinator since the last marker, so that a late batch cannot open one that nobody will end.
//! Invariants: `open` holds one transaction for each producer of `by_producer` and those of `ending`; `aborted` rises
//! by the offset of the marker. It must not do I/O or know the coordinator.

use std::collections::{BTreeMap, VecDeque};

use super::log::{Log, LogState};
use crate::limits::TXN_VERIFICATIONS_PER_PARTITION_MAX;
use crate::maps::HashMap;
use crate::wire::control_batch::Marker;
use crate::wire::record_batch::BatchInfo;

/// A transaction that was aborted, as readers of committed data must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Its producer.
    pub producer_id: i64,
    /// Offset of its first record in this partition.
    pub first_offset: i64,
    /// Offset of the marker.
    pub last_offset: i64,
    /// No transaction that ended later begins below this offset.
    pub stable_offset: i64,
}

/// What the index file says of a producer that takes part in transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionalProducer {
    /// Producer id.
    pub producer_id: i64,
    /// Epoch of the open transaction or of the last marker.
    pub epoch: i16,
    /// First offset of the open transaction, or -1.
    pub first_offset: i64,
    /// Epoch of the coordinator that wrote the last marker, or -1.
    pub coordinator_epoch: i32,
}

/// What one partition knows of a producer (`DescribeProducers`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerState {
    /// Producer id.
    pub producer_id: i64,
    /// Producer epoch.
    pub epoch: i16,
    /// Sequence of its last record, or -1.
    pub last_sequence: i32,
    /// Wall clock of its last append, milliseconds.
    pub last_append_ms: i64,
    /// Epoch of the coordinator that wrote the last marker, or -1.
    pub coordinator_epoch: i32,
    /// First offset of its open transaction, or -1.
    pub txn_first_offset: i64,
}

/// Whether a producer's transaction is open in a partition already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// It is: batches are let in.
    Open,
    /// It is not: ask the coordinator, then confirm with this number.
    Needed(u64),
}

#[derive(Clone, Copy, Debug)]
struct Open {
    producer_id: i64,
    epoch: i16,
    /// Log position of its first batch; 0 when that was deleted.
    position: u64,
}

#[derive(Clone, Copy, Debug)]
struct Verified {
    epoch: i16,
    number: u64,
    confirmed: bool,
}

/// All transactions that a partition knows of.
#[derive(Debug, Default)]
pub struct Transactions {
    /// By first offset: open ones, and ended ones whose marker is not visible yet.
    open: BTreeMap<i64, Open>,
    by_producer: HashMap<i64, i64>,
    /// (offset of the marker, first offset) of ended transactions whose marker is not visible yet.
    ending: VecDeque<(i64, i64)>,
    aborted: VecDeque<AbortedTransaction>,
    coordinator_epochs: HashMap<i64, (i16, i32)>,
    verified: HashMap<i64, Verified>,
    verification_next: u64,
}

impl Transactions {
    /// Whether a batch may be appended: a transactional one only into a transaction that is open or verified, a plain
    /// one not into the middle of its own producer's transaction.
    pub fn permits(&self, batch: &BatchInfo) -> bool {
        if batch.is_control() {
            return true;
        }
        let open = self.by_producer.get(&batch.producer_id).and_then(|first| self.open.get(first));
        if !batch.is_transactional() {
            return open.is_none();
        }
        if let Some(open) = open {
            return open.epoch == batch.producer_epoch;
        }
        self.verified
            .get(&batch.producer_id)
            .is_some_and(|verified| verified.confirmed && verified.epoch == batch.producer_epoch)
    }

    /// Whether there is nothing to know: no transaction was ever open here, as far as is remembered.
    pub fn is_idle(&self) -> bool {
        self.by_producer.is_empty()
    }

    /// Notes an appended batch that is transactional; `position` is the log position of its first byte.
    pub fn note(&mut self, batch: &BatchInfo, base_offset: i64, position: u64, marker: Option<Marker>) {
        match marker {
            Some(marker) => self.end(&marker, base_offset),
            None if batch.is_control() => {}
            None => {
                if !self.by_producer.contains_key(&batch.producer_id) {
                    self.begin(batch.producer_id, batch.producer_epoch, base_offset, position);
                }
            }
        }
    }

    fn begin(&mut self, producer_id: i64, epoch: i16, first_offset: i64, position: u64) {
        self.by_producer.insert(producer_id, first_offset);
        self.open.insert(first_offset, Open { producer_id, epoch, position });
        self.verified.remove(&producer_id);
    }

    fn end(&mut self, marker: &Marker, offset: i64) {
        let id = marker.producer_id;
        self.verified.remove(&id);
        self.coordinator_epochs.insert(id, (marker.producer_epoch, marker.coordinator_epoch));
        let Some(first_offset) = self.by_producer.remove(&id) else { return };
        if !marker.commit {
            let others = self.open.range(..).find(|(_, open)| open.producer_id != id);
            let stable_offset = others.map_or(offset + 1, |(first, _)| *first);
            self.aborted.push_back(AbortedTransaction {
                producer_id: id,
                first_offset,
                last_offset: offset,
                stable_offset,
            });
        }
        self.ending.push_back((offset, first_offset));
    }

    /// Lets go of ended transactions whose markers lie below the high watermark.
    pub(super) fn settle(&mut self, high_watermark: i64) {
        while let Some((_, first)) =
            self.ending.front().copied().filter(|(marker, _)| *marker < high_watermark)
        {
            self.open.remove(&first);
            self.ending.pop_front();
        }
    }

    /// First offset and log position of the oldest transaction that is not visibly ended.
    fn first_unstable(&self) -> Option<(i64, u64)> {
        self.open.first_key_value().map(|(first, open)| (*first, open.position))
    }

    /// Aborted transactions with records in `[from, to)`: producer id and first offset.
    fn aborted_in(&self, from: i64, to: i64) -> Vec<(i64, i64)> {
        let all = self.aborted_whole_in(from, to);
        all.into_iter().map(|aborted| (aborted.producer_id, aborted.first_offset)).collect()
    }

    /// The same with all that is known of them.
    fn aborted_whole_in(&self, from: i64, to: i64) -> Vec<AbortedTransaction> {
        let mut found = Vec::new();
        let at = self.aborted.partition_point(|aborted| aborted.last_offset < from);
        for aborted in self.aborted.range(at..) {
            if aborted.first_offset < to {
                found.push(*aborted);
            }
            if aborted.stable_offset >= to {
                break;
            }
        }
        found
    }

    /// Aborted transactions whose markers lie in `[base_offset, next_offset)`: a segment's share.
    pub(super) fn aborted_of(&self, base_offset: i64, next_offset: i64) -> Vec<AbortedTransaction> {
        let from = self.aborted.partition_point(|aborted| aborted.last_offset < base_offset);
        let to = self.aborted.partition_point(|aborted| aborted.last_offset < next_offset);
        self.aborted.range(from..to.max(from)).copied().collect()
    }

    /// Forgets aborted transactions that end below the log's start.
    pub(super) fn forget_below(&mut self, log_start_offset: i64) {
        while self.aborted.front().is_some_and(|aborted| aborted.last_offset < log_start_offset) {
            self.aborted.pop_front();
        }
    }

    /// Compaction wrote `[base_offset, next_offset)` anew: of the aborted transactions that end there, only `kept`
    /// still have a marker.
    pub(super) fn keep_aborted(&mut self, base_offset: i64, next_offset: i64, kept: &[AbortedTransaction]) {
        let there = base_offset..next_offset;
        self.aborted.retain(|aborted| !there.contains(&aborted.last_offset) || kept.contains(aborted));
    }

    /// Forgets what only described producers that are gone.
    pub(super) fn expire(&mut self, keep: impl Fn(i64) -> bool) {
        let open = &self.by_producer;
        self.coordinator_epochs.retain(|id, _| open.contains_key(id) || keep(*id));
    }

    /// Producers of transactions, for an index file or the clean-shutdown mark.
    pub(super) fn snapshot(&self) -> Vec<TransactionalProducer> {
        let mut all: HashMap<i64, TransactionalProducer> = HashMap::default();
        for (id, (epoch, coordinator_epoch)) in &self.coordinator_epochs {
            let (epoch, coordinator_epoch) = (*epoch, *coordinator_epoch);
            let state =
                TransactionalProducer { producer_id: *id, epoch, first_offset: -1, coordinator_epoch };
            all.insert(*id, state);
        }
        for (id, first) in &self.by_producer {
            let epoch = self.open.get(first).map_or(-1, |open| open.epoch);
            let state = all.entry(*id).or_insert(TransactionalProducer {
                producer_id: *id,
                epoch,
                first_offset: *first,
                coordinator_epoch: -1,
            });
            (state.epoch, state.first_offset) = (epoch, *first);
        }
        let mut all: Vec<_> = all.into_values().collect();
        all.sort_by_key(|state| state.producer_id);
        all
    }

    /// Takes what a segment's index file says: its aborted transactions, and who was open at its end. `position_of`
    /// finds the log position of a batch by its offset.
    pub(super) fn adopt(
        &mut self,
        aborted: &[AbortedTransaction],
        producers: &[TransactionalProducer],
        position_of: impl Fn(i64) -> u64,
    ) {
        let known = std::mem::take(&mut self.open);
        self.by_producer.clear();
        self.ending.clear();
        self.coordinator_epochs.clear();
        self.aborted.extend(aborted);
        for state in producers {
            if state.coordinator_epoch >= 0 {
                self.coordinator_epochs.insert(state.producer_id, (state.epoch, state.coordinator_epoch));
            }
            if state.first_offset >= 0 {
                let position = known
                    .get(&state.first_offset)
                    .map_or_else(|| position_of(state.first_offset), |o| o.position);
                self.begin(state.producer_id, state.epoch, state.first_offset, position);
            }
        }
    }

    fn verify(&mut self, producer_id: i64, epoch: i16) -> Verification {
        let open = self.by_producer.get(&producer_id).and_then(|first| self.open.get(first));
        if open.is_some_and(|open| open.epoch == epoch) {
            return Verification::Open;
        }
        if let Some(known) = self.verified.get(&producer_id).filter(|known| known.epoch == epoch) {
            return if known.confirmed { Verification::Open } else { Verification::Needed(known.number) };
        }
        if self.verified.len() >= TXN_VERIFICATIONS_PER_PARTITION_MAX {
            // Those who were about to begin are refused once, and begin again.
            self.verified.clear();
        }
        self.verification_next += 1;
        let number = self.verification_next;
        self.verified.insert(producer_id, Verified { epoch, number, confirmed: false });
        Verification::Needed(number)
    }

    fn confirm(&mut self, producer_id: i64, number: u64) {
        if let Some(known) = self.verified.get_mut(&producer_id).filter(|known| known.number == number) {
            known.confirmed = true;
        }
    }
}

impl Log {
    /// Offset up to which transactions are decided: what `read_committed` may see.
    pub fn last_stable_offset(&self) -> i64 {
        self.state.borrow().stable_end().0
    }

    /// Whether a producer's transaction is open here; if not, a verification begins that a marker makes void.
    pub fn verify_transaction(&self, producer_id: i64, epoch: i16) -> Verification {
        self.state.borrow_mut().transactions.verify(producer_id, epoch)
    }

    /// The coordinator knows that this partition is part of the producer's transaction.
    pub fn confirm_transaction(&self, producer_id: i64, number: u64) {
        self.state.borrow_mut().transactions.confirm(producer_id, number);
    }

    /// Aborted transactions among the records of a read from `offset` that ended at log position `end_position`:
    /// (producer id, first offset), in the order of their markers; it may name some that begin a little later.
    pub fn aborted_among(&self, offset: i64, end_position: u64) -> Vec<(i64, i64)> {
        let state = self.state.borrow();
        if state.transactions.aborted.is_empty() {
            return Vec::new();
        }
        state.transactions.aborted_in(offset, state.offset_bound(end_position))
    }

    /// The same with the offsets of their markers, for those who judge batches by themselves.
    pub fn aborted_transactions_among(&self, offset: i64, end_position: u64) -> Vec<AbortedTransaction> {
        let state = self.state.borrow();
        if state.transactions.aborted.is_empty() {
            return Vec::new();
        }
        state.transactions.aborted_whole_in(offset, state.offset_bound(end_position))
    }

    /// All producers that the log remembers.
    pub fn producer_states(&self) -> Vec<ProducerState> {
        let state = self.state.borrow();
        let transactions = &state.transactions;
        let mut all = state.producers.states();
        for (id, (epoch, _)) in &transactions.coordinator_epochs {
            if all.binary_search_by_key(id, |one| one.producer_id).is_err() {
                let at = all.partition_point(|one| one.producer_id < *id);
                all.insert(at, ProducerState::unknown(*id, *epoch));
            }
        }
        for one in &mut all {
            let marker = transactions.coordinator_epochs.get(&one.producer_id);
            one.coordinator_epoch = marker.map_or(-1, |(_, coordinator_epoch)| *coordinator_epoch);
            one.txn_first_offset = transactions.by_producer.get(&one.producer_id).copied().unwrap_or(-1);
        }
        all
    }
}

impl ProducerState {
    fn unknown(producer_id: i64, epoch: i16) -> ProducerState {
        ProducerState {
            producer_id,
            epoch,
            last_sequence: -1,
            last_append_ms: -1,
            coordinator_epoch: -1,
            txn_first_offset: -1,
        }
    }
}

impl LogState {
    /// Offset and log position at which readers of committed data stop.
    pub(super) fn stable_end(&self) -> (i64, u64) {
        let (offset, position) = (self.commit.high_watermark(), self.commit.high_watermark_position());
        match self.transactions.first_unstable() {
            Some((first, at)) if first < offset && first >= self.log_start_offset => (first, at),
            // The beginning of the transaction was deleted: nothing of the rest is stable, and nothing is read.
            Some((first, _)) if first < offset => (self.log_start_offset.min(offset), position),
            _ => (offset, position),
        }
    }
}

#[cfg(test)]
#[path = "tests/transactions.rs"]
mod tests;
