//! Idempotent producers of one partition: duplicate and gap detection (KIP-98, KIP-360).
//!
//! Owner: the partition's log. Invariants: at most `PRODUCERS_PER_PARTITION_MAX` producers and
//! `PRODUCER_BATCHES_KEPT` batches each; state moves only together with an append. It must not do I/O.

use std::collections::VecDeque;

use super::index::{ProducerBatch, ProducerEntry};
use super::transactions::ProducerState;
use crate::limits::{PRODUCER_BATCHES_KEPT, PRODUCERS_PER_PARTITION_MAX};
use crate::maps::HashMap;
use crate::wire::record_batch::BatchInfo;

/// All producers that a partition remembers.
#[derive(Default)]
pub struct Producers {
    entries: HashMap<i64, ProducerEntry>,
}

/// What an append by an idempotent producer amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceCheck {
    /// The next batch in order, or a batch without a producer id.
    Next,
    /// A repetition of a remembered batch: answer with what it got.
    Duplicate {
        /// Base offset of the original.
        base_offset: i64,
        /// Append time that the original's answer carried.
        timestamp_ms: i64,
    },
    /// A gap or an unknown repetition: `OUT_OF_ORDER_SEQUENCE_NUMBER`.
    OutOfOrder,
    /// An older epoch than the one known: `INVALID_PRODUCER_EPOCH`.
    Fenced,
}

fn sequence_after(sequence: i32, count: i32) -> i32 {
    // Sequences wrap from i32::MAX to 0 (KIP-98).
    ((i64::from(sequence) + i64::from(count)) & 0x7fff_ffff) as i32
}

impl Producers {
    /// Judges a batch before it is appended.
    pub fn check(&self, batch: &BatchInfo) -> SequenceCheck {
        // Coordinators write for a producer without its sequence numbers.
        if batch.producer_id < 0 || batch.base_sequence < 0 && !batch.is_control() {
            return SequenceCheck::Next;
        }
        let Some(entry) = self.entries.get(&batch.producer_id) else {
            // Nothing is known (new, or expired): any sequence may begin (KIP-360).
            return SequenceCheck::Next;
        };
        if batch.producer_epoch < entry.epoch {
            return SequenceCheck::Fenced;
        }
        if batch.is_control() {
            return SequenceCheck::Next;
        }
        if batch.producer_epoch > entry.epoch {
            return if batch.base_sequence == 0 { SequenceCheck::Next } else { SequenceCheck::OutOfOrder };
        }
        let last = batch.last_sequence();
        let repeated = entry
            .batches
            .iter()
            .find(|known| known.first_sequence == batch.base_sequence && known.last_sequence == last);
        if let Some(known) = repeated {
            return SequenceCheck::Duplicate {
                base_offset: known.base_offset,
                timestamp_ms: known.timestamp_ms,
            };
        }
        match entry.batches.back() {
            Some(newest) if sequence_after(newest.last_sequence, 1) != batch.base_sequence => {
                SequenceCheck::OutOfOrder
            }
            _ => SequenceCheck::Next,
        }
    }

    /// Notes an appended batch (also while recovering).
    pub fn note(&mut self, batch: &BatchInfo, base_offset: i64, reply_timestamp_ms: i64, now_ms: i64) {
        if batch.producer_id >= 0 && batch.is_control() {
            self.note_marker(batch, now_ms);
        }
        if batch.producer_id < 0 || batch.base_sequence < 0 {
            return;
        }
        if self.entries.len() >= PRODUCERS_PER_PARTITION_MAX && !self.entries.contains_key(&batch.producer_id)
        {
            self.drop_oldest();
        }
        let entry = self.entries.entry(batch.producer_id).or_insert_with(|| ProducerEntry {
            epoch: batch.producer_epoch,
            batches: VecDeque::with_capacity(1),
            last_append_ms: now_ms,
        });
        if entry.epoch != batch.producer_epoch {
            entry.epoch = batch.producer_epoch;
            entry.batches.clear();
        }
        if entry.batches.len() == PRODUCER_BATCHES_KEPT {
            entry.batches.pop_front();
        }
        entry.batches.push_back(ProducerBatch {
            first_sequence: batch.base_sequence,
            last_sequence: batch.last_sequence(),
            base_offset,
            timestamp_ms: reply_timestamp_ms,
        });
        entry.last_append_ms = now_ms;
    }

    /// A marker may raise the epoch (KIP-890): who still writes with the old one is fenced.
    fn note_marker(&mut self, batch: &BatchInfo, now_ms: i64) {
        let Some(entry) = self.entries.get_mut(&batch.producer_id) else { return };
        entry.last_append_ms = now_ms;
        if entry.epoch < batch.producer_epoch {
            entry.epoch = batch.producer_epoch;
            entry.batches.clear();
        }
    }

    /// Whether a producer is remembered.
    pub fn knows(&self, producer_id: i64) -> bool {
        self.entries.contains_key(&producer_id)
    }

    /// What is known of each producer, by id; its transactions are not known here.
    pub fn states(&self) -> Vec<ProducerState> {
        let state = |(id, entry): (&i64, &ProducerEntry)| ProducerState {
            producer_id: *id,
            epoch: entry.epoch,
            last_sequence: entry.batches.back().map_or(-1, |newest| newest.last_sequence),
            last_append_ms: entry.last_append_ms,
            coordinator_epoch: -1,
            txn_first_offset: -1,
        };
        let mut all: Vec<_> = self.entries.iter().map(state).collect();
        all.sort_by_key(|one| one.producer_id);
        all
    }

    fn drop_oldest(&mut self) {
        let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.last_append_ms).map(|(id, _)| *id);
        if let Some(id) = oldest {
            self.entries.remove(&id);
        }
    }

    /// Forgets producers that were silent since `before_ms`.
    pub fn expire(&mut self, before_ms: i64) {
        self.entries.retain(|_, entry| entry.last_append_ms >= before_ms);
    }

    /// Everything, for an index file or the clean-shutdown mark.
    pub fn snapshot(&self) -> Vec<(i64, ProducerEntry)> {
        let mut all: Vec<_> = self.entries.iter().map(|(id, entry)| (*id, entry.clone())).collect();
        all.sort_by_key(|(id, _)| *id);
        all
    }

    /// Takes a snapshot back.
    pub fn restore(snapshot: &[(i64, ProducerEntry)]) -> Producers {
        Producers { entries: snapshot.iter().cloned().collect() }
    }
}
