//! One transactional id as its coordinator knows it, and every step that it may take: pure functions from what is
//! and what is asked to what would be.
//!
//! Owner: nobody; the coordinator (`txn`) stores a step durably before it takes it. Spec: KIP-98, KIP-360 (epochs
//! bumped by the client), KIP-890 (an epoch for each transaction). Invariants: a producer id and epoch, once fenced,
//! never write again; a decided transaction (`PrepareCommit`, `PrepareAbort`) can only be completed.
//! It must not do I/O or know Kafka's error codes.

use std::collections::{BTreeMap, BTreeSet};

/// No producer id.
pub const NO_PRODUCER_ID: i64 = -1;
/// No epoch.
pub const NO_EPOCH: i16 = -1;
/// The last epoch that a client may write with; the one above is for the coordinator to fence it.
pub const EPOCH_LAST: i16 = i16::MAX - 1;

/// Where a transaction stands. The numbers are those of Kafka's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxnPhase {
    /// No transaction since the producer began.
    Empty = 0,
    /// Partitions were added.
    Ongoing = 1,
    /// Decided: commit. Markers are being written.
    PrepareCommit = 2,
    /// Decided: abort. Markers are being written.
    PrepareAbort = 3,
    /// All markers of a commit are written.
    CompleteCommit = 4,
    /// All markers of an abort are written.
    CompleteAbort = 5,
}

impl TxnPhase {
    /// The phase of a number in the log; `None` for those that are never stored.
    pub fn from_number(number: i8) -> Option<TxnPhase> {
        Some(match number {
            0 => TxnPhase::Empty,
            1 => TxnPhase::Ongoing,
            2 => TxnPhase::PrepareCommit,
            3 => TxnPhase::PrepareAbort,
            4 => TxnPhase::CompleteCommit,
            5 => TxnPhase::CompleteAbort,
            _ => return None,
        })
    }

    /// Kafka's name for it.
    pub fn name(self) -> &'static str {
        match self {
            TxnPhase::Empty => "Empty",
            TxnPhase::Ongoing => "Ongoing",
            TxnPhase::PrepareCommit => "PrepareCommit",
            TxnPhase::PrepareAbort => "PrepareAbort",
            TxnPhase::CompleteCommit => "CompleteCommit",
            TxnPhase::CompleteAbort => "CompleteAbort",
        }
    }

    /// Whether it is decided and not completed.
    pub fn is_prepared(self) -> bool {
        matches!(self, TxnPhase::PrepareCommit | TxnPhase::PrepareAbort)
    }
}

/// Why a step is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxnError {
    /// The request makes no sense.
    InvalidRequest,
    /// The time-out is not positive or above `transaction.max.timeout.ms`.
    InvalidTimeout,
    /// The transactional id is unknown or has another producer id.
    UnknownProducer,
    /// A newer producer took over, or the coordinator aborted the transaction.
    Fenced,
    /// Another step of the same id is under way.
    Concurrent,
    /// The step does not follow from the present phase.
    InvalidState,
    /// The partition is not part of the transaction.
    NotInTransaction,
    /// The coordinator's log is being read.
    Loading,
    /// The coordinator's log, or the way to it, is not there.
    NotAvailable,
}

/// One transactional id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnMetadata {
    /// Producer id now.
    pub producer_id: i64,
    /// Producer id before the epochs of that one were used up, or -1.
    pub previous_producer_id: i64,
    /// Producer id after this transaction, if its epochs are used up, else -1.
    pub next_producer_id: i64,
    /// Producer epoch now; -1 before the first.
    pub epoch: i16,
    /// The epoch before a bump that its client may not know of, or -1.
    pub last_epoch: i16,
    /// After how long the coordinator aborts, milliseconds.
    pub timeout_ms: i32,
    /// Where the transaction stands.
    pub phase: TxnPhase,
    /// Partitions of the transaction by topic.
    pub partitions: BTreeMap<String, BTreeSet<i32>>,
    /// When the transaction began, milliseconds; -1 without one.
    pub start_ms: i64,
    /// When it last changed, milliseconds.
    pub update_ms: i64,
    /// 2 if the last end was asked for by a client that gets an epoch for each transaction, else 0.
    pub client_version: i16,
}

/// What InitProducerId comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InitStep {
    /// Store this; its producer id and epoch are the answer.
    Become(TxnMetadata),
    /// A new producer id is needed first; ask again with one.
    NeedsProducerId,
    /// The transaction of an earlier producer must be aborted first: store this, complete it, and ask again.
    AbortFirst(TxnMetadata),
}

/// What EndTxn comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndStep {
    /// Store this, then write the markers.
    Prepare(TxnMetadata),
    /// A new producer id is needed first; ask again with one.
    NeedsProducerId,
    /// It was done before: the answer is the present producer id and epoch.
    AlreadyDone,
}

/// Who asks: producer id and epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerKey {
    /// Producer id.
    pub id: i64,
    /// Producer epoch.
    pub epoch: i16,
}

impl TxnMetadata {
    /// A new transactional id with a producer id that was never used.
    pub fn new(producer_id: i64, timeout_ms: i32, now_ms: i64) -> TxnMetadata {
        TxnMetadata {
            producer_id,
            previous_producer_id: NO_PRODUCER_ID,
            next_producer_id: NO_PRODUCER_ID,
            epoch: NO_EPOCH,
            last_epoch: NO_EPOCH,
            timeout_ms,
            phase: TxnPhase::Empty,
            partitions: BTreeMap::new(),
            start_ms: -1,
            update_ms: now_ms,
            client_version: 0,
        }
    }

    /// Producer id and epoch that a client goes on with once this is complete.
    pub fn next_producer(&self) -> ProducerKey {
        match self.next_producer_id {
            NO_PRODUCER_ID => ProducerKey { id: self.producer_id, epoch: self.epoch },
            id => ProducerKey { id, epoch: 0 },
        }
    }

    fn is_exhausted(&self) -> bool {
        self.epoch >= EPOCH_LAST
    }

    /// InitProducerId. `expected` is the producer that the client believes to be (KIP-360), `fresh_id` a producer id
    /// never used, if the caller has got one.
    pub fn init(
        &self,
        timeout_ms: i32,
        expected: Option<ProducerKey>,
        fresh_id: Option<i64>,
        now_ms: i64,
    ) -> Result<InitStep, TxnError> {
        if let Some(expected) = expected {
            let same = expected.id == self.producer_id;
            // A repetition of a bump that used up the epochs, whose answer was lost.
            let before = expected.id == self.previous_producer_id && expected.epoch >= EPOCH_LAST;
            if self.epoch != NO_EPOCH && !same && !before {
                return Err(TxnError::Fenced);
            }
        }
        match self.phase {
            TxnPhase::PrepareCommit | TxnPhase::PrepareAbort => Err(TxnError::Concurrent),
            TxnPhase::Ongoing if expected.is_some_and(|expected| expected.epoch != self.epoch) => {
                Err(TxnError::Fenced)
            }
            TxnPhase::Ongoing => Ok(InitStep::AbortFirst(self.fenced(now_ms))),
            TxnPhase::Empty | TxnPhase::CompleteCommit | TxnPhase::CompleteAbort => {
                self.init_idle(timeout_ms, expected, fresh_id, now_ms)
            }
        }
    }

    fn init_idle(
        &self,
        timeout_ms: i32,
        expected: Option<ProducerKey>,
        fresh_id: Option<i64>,
        now_ms: i64,
    ) -> Result<InitStep, TxnError> {
        let mut next = TxnMetadata {
            timeout_ms,
            phase: TxnPhase::Empty,
            partitions: BTreeMap::new(),
            start_ms: -1,
            update_ms: now_ms,
            client_version: 0,
            ..self.clone()
        };
        let current = expected.is_none_or(|expected| expected.epoch == self.epoch);
        if self.is_exhausted() && current {
            let Some(id) = fresh_id else { return Ok(InitStep::NeedsProducerId) };
            next.previous_producer_id = self.producer_id;
            next.producer_id = id;
            next.last_epoch = if expected.is_some() { self.epoch } else { NO_EPOCH };
            next.epoch = 0;
            return Ok(InitStep::Become(next));
        }
        match expected {
            None => (next.epoch, next.last_epoch) = (self.epoch + 1, NO_EPOCH),
            Some(_) if self.epoch == NO_EPOCH || current => {
                (next.epoch, next.last_epoch) = (self.epoch + 1, self.epoch);
            }
            // A repetition of a bump whose answer was lost: nothing is bumped again.
            Some(expected) if expected.epoch == self.last_epoch => {}
            Some(_) => return Err(TxnError::Fenced),
        }
        Ok(InitStep::Become(next))
    }

    /// The transaction is aborted by the coordinator: its producer is fenced by an epoch that nobody gets.
    pub fn fenced(&self, now_ms: i64) -> TxnMetadata {
        TxnMetadata {
            epoch: self.epoch.saturating_add(1),
            last_epoch: NO_EPOCH,
            phase: TxnPhase::PrepareAbort,
            update_ms: now_ms,
            client_version: 0,
            ..self.clone()
        }
    }

    fn check_producer(&self, producer: ProducerKey) -> Result<(), TxnError> {
        if producer.id != self.producer_id {
            return Err(TxnError::UnknownProducer);
        }
        if producer.epoch != self.epoch {
            return Err(TxnError::Fenced);
        }
        if self.phase.is_prepared() { Err(TxnError::Concurrent) } else { Ok(()) }
    }

    /// AddPartitionsToTxn and what amounts to it; `None` when all are in the transaction already.
    pub fn add(
        &self,
        producer: ProducerKey,
        partitions: &[(String, i32)],
        now_ms: i64,
    ) -> Result<Option<TxnMetadata>, TxnError> {
        self.check_producer(producer)?;
        let ongoing = self.phase == TxnPhase::Ongoing;
        if ongoing && partitions.iter().all(|(topic, partition)| self.has(topic, *partition)) {
            return Ok(None);
        }
        let mut next = self.clone();
        if !ongoing {
            next.partitions.clear();
            next.start_ms = now_ms;
        }
        next.phase = TxnPhase::Ongoing;
        next.update_ms = now_ms;
        for (topic, partition) in partitions {
            match next.partitions.get_mut(topic) {
                Some(known) => drop(known.insert(*partition)),
                None => drop(next.partitions.insert(topic.clone(), BTreeSet::from([*partition]))),
            }
        }
        Ok(Some(next))
    }

    /// Whether a partition is part of the ongoing transaction.
    pub fn has(&self, topic: &str, partition: i32) -> bool {
        self.phase == TxnPhase::Ongoing
            && self.partitions.get(topic).is_some_and(|known| known.contains(&partition))
    }

    /// Whether the producer may go on writing at all.
    pub fn verify(&self, producer: ProducerKey) -> Result<(), TxnError> {
        self.check_producer(producer)
    }

    /// EndTxn. `bumps` for clients that get an epoch for each transaction (version 5 and later).
    pub fn end(
        &self,
        producer: ProducerKey,
        commit: bool,
        bumps: bool,
        fresh_id: Option<i64>,
        now_ms: i64,
    ) -> Result<EndStep, TxnError> {
        let bumped = bumps && self.client_version == 2;
        let overflowed = bumped
            && producer.id == self.previous_producer_id
            && producer.epoch == EPOCH_LAST
            && self.epoch == 0;
        let repeated = overflowed
            || bumped
                && producer.id == self.producer_id
                && i32::from(producer.epoch) + 1 == i32::from(self.epoch);
        if producer.id != self.producer_id && !overflowed {
            return Err(TxnError::UnknownProducer);
        }
        let current = producer.epoch == self.epoch;
        let valid = match self.phase {
            TxnPhase::Empty | TxnPhase::Ongoing => current,
            TxnPhase::PrepareCommit | TxnPhase::PrepareAbort if bumps => repeated,
            TxnPhase::PrepareCommit | TxnPhase::PrepareAbort => current,
            TxnPhase::CompleteCommit | TxnPhase::CompleteAbort => current || repeated,
        };
        if !valid {
            return Err(TxnError::Fenced);
        }
        let same = match self.phase {
            TxnPhase::Ongoing => return self.prepare(commit, bumps, fresh_id, now_ms),
            // A client with an epoch for each transaction may abort one that has no partitions.
            TxnPhase::Empty if bumps && !commit => return self.prepare(false, bumps, fresh_id, now_ms),
            TxnPhase::Empty => return Err(TxnError::InvalidState),
            TxnPhase::PrepareCommit => commit,
            TxnPhase::PrepareAbort => !commit,
            TxnPhase::CompleteCommit | TxnPhase::CompleteAbort if bumps && !repeated => {
                return if commit {
                    Err(TxnError::InvalidState)
                } else {
                    self.prepare(false, bumps, fresh_id, now_ms)
                };
            }
            TxnPhase::CompleteCommit => commit,
            TxnPhase::CompleteAbort => !commit,
        };
        match same {
            true if self.phase.is_prepared() => Err(TxnError::Concurrent),
            true => Ok(EndStep::AlreadyDone),
            false => Err(TxnError::InvalidState),
        }
    }

    fn prepare(
        &self,
        commit: bool,
        bumps: bool,
        fresh_id: Option<i64>,
        now_ms: i64,
    ) -> Result<EndStep, TxnError> {
        let mut next = self.clone();
        next.phase = if commit { TxnPhase::PrepareCommit } else { TxnPhase::PrepareAbort };
        next.update_ms = now_ms;
        next.client_version = if bumps { 2 } else { 0 };
        if self.phase != TxnPhase::Ongoing {
            next.partitions.clear();
            next.start_ms = now_ms;
        }
        if bumps {
            if self.is_exhausted() {
                let Some(id) = fresh_id else { return Ok(EndStep::NeedsProducerId) };
                next.next_producer_id = id;
            }
            next.last_epoch = self.epoch;
            next.epoch = self.epoch.saturating_add(1);
        }
        Ok(EndStep::Prepare(next))
    }

    /// After the last marker.
    pub fn completed(&self, now_ms: i64) -> TxnMetadata {
        let mut next = self.clone();
        next.phase = match self.phase {
            TxnPhase::PrepareCommit => TxnPhase::CompleteCommit,
            _ => TxnPhase::CompleteAbort,
        };
        if self.next_producer_id != NO_PRODUCER_ID {
            next.previous_producer_id = self.producer_id;
            next.producer_id = self.next_producer_id;
            next.next_producer_id = NO_PRODUCER_ID;
            next.epoch = 0;
        }
        next.partitions.clear();
        next.update_ms = now_ms;
        next
    }

    /// Whether the coordinator must abort it, when it has been open for so long.
    pub fn is_timed_out(&self, open_ms: i64) -> bool {
        self.phase == TxnPhase::Ongoing && open_ms > i64::from(self.timeout_ms)
    }

    /// Whether it may be forgotten: no transaction, and no change since `before_ms`.
    pub fn is_expired(&self, before_ms: i64) -> bool {
        let idle = matches!(self.phase, TxnPhase::Empty | TxnPhase::CompleteCommit | TxnPhase::CompleteAbort);
        idle && self.update_ms < before_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn became(step: InitStep) -> TxnMetadata {
        match step {
            InitStep::Become(next) => next,
            other => panic!("{other:?}"),
        }
    }

    fn prepared(step: EndStep) -> TxnMetadata {
        match step {
            EndStep::Prepare(next) => next,
            other => panic!("{other:?}"),
        }
    }

    fn key(of: &TxnMetadata) -> ProducerKey {
        ProducerKey { id: of.producer_id, epoch: of.epoch }
    }

    fn started() -> TxnMetadata {
        let first = became(TxnMetadata::new(7, 1000, 0).init(1000, None, None, 1).unwrap());
        assert_eq!((first.producer_id, first.epoch), (7, 0));
        first.add(key(&first), &[("t".into(), 1)], 2).unwrap().unwrap()
    }

    #[test]
    fn a_transaction_goes_from_empty_to_complete() {
        let open = started();
        assert!(open.has("t", 1) && !open.has("t", 2) && !open.has("u", 1));
        assert_eq!(open.add(key(&open), &[("t".into(), 1)], 3), Ok(None));
        let end = prepared(open.end(key(&open), true, false, None, 4).unwrap());
        assert_eq!((end.phase, end.epoch), (TxnPhase::PrepareCommit, 0));
        assert_eq!(end.end(key(&end), true, false, None, 5), Err(TxnError::Concurrent));
        assert_eq!(end.end(key(&end), false, false, None, 5), Err(TxnError::InvalidState));
        assert_eq!(end.add(key(&end), &[("t".into(), 1)], 5), Err(TxnError::Concurrent));
        let done = end.completed(6);
        assert_eq!((done.phase, done.partitions.len()), (TxnPhase::CompleteCommit, 0));
        assert_eq!(done.end(key(&done), true, false, None, 7), Ok(EndStep::AlreadyDone));
        assert_eq!(done.end(key(&done), false, false, None, 7), Err(TxnError::InvalidState));
        let again = done.add(key(&done), &[("u".into(), 0)], 8).unwrap().unwrap();
        assert!(again.has("u", 0) && !again.has("t", 1) && again.start_ms == 8);
    }

    #[test]
    fn version_2_bumps_the_epoch_and_knows_repetitions() {
        let open = started();
        let asked = key(&open);
        let end = prepared(open.end(asked, true, true, None, 4).unwrap());
        assert_eq!((end.epoch, end.next_producer().epoch), (1, 1));
        assert_eq!(end.end(asked, true, true, None, 5), Err(TxnError::Concurrent));
        assert_eq!(end.end(key(&end), true, true, None, 5), Err(TxnError::Fenced));
        let done = end.completed(6);
        assert_eq!(done.end(asked, true, true, None, 7), Ok(EndStep::AlreadyDone));
        assert_eq!(done.end(asked, false, true, None, 7), Err(TxnError::InvalidState));
        assert_eq!(done.end(key(&done), true, true, None, 7), Err(TxnError::InvalidState));
        let empty = prepared(done.end(key(&done), false, true, None, 8).unwrap());
        assert_eq!((empty.phase, empty.epoch, empty.partitions.len()), (TxnPhase::PrepareAbort, 2, 0));
    }

    #[test]
    fn a_newer_producer_fences_and_aborts_the_older_one() {
        let open = started();
        let Ok(InitStep::AbortFirst(abort)) = open.init(1000, None, None, 5) else { panic!("must abort") };
        assert_eq!((abort.phase, abort.epoch), (TxnPhase::PrepareAbort, 1));
        assert_eq!(abort.init(1000, None, None, 6), Err(TxnError::Concurrent));
        let done = abort.completed(7);
        assert_eq!(done.end(key(&open), true, false, None, 8), Err(TxnError::Fenced));
        assert_eq!(done.end(key(&open), true, true, None, 8), Err(TxnError::Fenced));
        let newer = became(done.init(2000, None, None, 9).unwrap());
        assert_eq!((newer.epoch, newer.timeout_ms, newer.phase), (2, 2000, TxnPhase::Empty));
        assert_eq!(newer.add(key(&open), &[], 10), Err(TxnError::Fenced));
        assert_eq!(newer.add(ProducerKey { id: 8, epoch: 2 }, &[], 10), Err(TxnError::UnknownProducer));
    }

    #[test]
    fn clients_recover_with_their_own_epoch_once() {
        let first = became(TxnMetadata::new(7, 1000, 0).init(1000, None, None, 1).unwrap());
        let expected = Some(key(&first));
        let second = became(first.init(1000, expected, None, 2).unwrap());
        assert_eq!((second.epoch, second.last_epoch), (1, 0));
        let repeated = became(second.init(1000, expected, None, 3).unwrap());
        assert_eq!(repeated.epoch, 1);
        let third = became(second.init(1000, None, None, 4).unwrap());
        assert_eq!(third.init(1000, expected, None, 5), Err(TxnError::Fenced));
        let other = Some(ProducerKey { id: 99, epoch: 0 });
        assert_eq!(third.init(1000, other, None, 5), Err(TxnError::Fenced));
    }

    #[test]
    fn used_up_epochs_lead_to_a_new_producer_id() {
        let mut open = started();
        open.epoch = EPOCH_LAST;
        let asked = key(&open);
        assert_eq!(open.end(asked, true, true, None, 4), Ok(EndStep::NeedsProducerId));
        let end = prepared(open.end(asked, true, true, Some(8), 4).unwrap());
        assert_eq!((end.producer_id, end.epoch), (7, i16::MAX));
        assert_eq!(end.next_producer(), ProducerKey { id: 8, epoch: 0 });
        let done = end.completed(5);
        assert_eq!((done.producer_id, done.epoch, done.previous_producer_id), (8, 0, 7));
        assert_eq!(done.end(asked, true, true, None, 6), Ok(EndStep::AlreadyDone));
        let mut idle = done;
        idle.epoch = EPOCH_LAST;
        assert_eq!(idle.init(1, None, None, 7), Ok(InitStep::NeedsProducerId));
        let fresh = became(idle.init(1, None, Some(9), 7).unwrap());
        assert_eq!((fresh.producer_id, fresh.epoch, fresh.previous_producer_id), (9, 0, 8));
    }

    #[test]
    fn time_outs_and_expiry_look_at_the_phase() {
        let open = started();
        assert!(!open.is_timed_out(1000) && open.is_timed_out(1001));
        assert!(!open.is_expired(i64::MAX));
        let done = prepared(open.end(key(&open), false, false, None, 4).unwrap()).completed(10);
        assert!(!done.is_timed_out(i64::MAX) && !done.is_expired(10) && done.is_expired(11));
    }
}
