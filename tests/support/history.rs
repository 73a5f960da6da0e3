//! The history of a run: what every client asked, and what it was told, in the order of one clock.
//!
//! Owner: the test; all its clients note into one [`History`]. Invariants: an invocation is noted before the request
//! leaves, an answer after it has arrived; so "answered before asked" means that the one really came before the other.
//! What was asked and never answered has no second event: it may have happened or not. The judge is `judge.rs`.
//! It must not judge anything itself.

use std::sync::Mutex;

use super::batches::Fetched;

/// Topic and partition.
pub type Place = (&'static str, i32);

/// Nanoseconds of `CLOCK_MONOTONIC`, which other processes of this machine can read too (a fault disk does).
pub fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the result.
    let code = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    assert_eq!(code, 0, "clock_gettime");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A batch that a producer sent. Its id is its digest: every byte but those that a broker may change.
#[derive(Clone, Debug)]
pub struct Sent {
    /// See [`super::batches::digest`].
    pub id: u64,
    /// Where to.
    pub place: Place,
    /// The producer: one number per sequence of sends to this partition.
    pub producer: u32,
    /// Its number in that sequence, from 0.
    pub order: u64,
    /// Records in it.
    pub count: i64,
    /// What was asked for: 1 or -1.
    pub acks: i16,
    /// Whether the producer is idempotent and repeats what was not acknowledged.
    pub idempotent: bool,
    /// The transaction that it is part of.
    pub transaction: Option<u64>,
}

/// One batch as a fetch returned it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Offset of the first record.
    pub base: i64,
    /// Offset behind the last one.
    pub next: i64,
    /// The digest.
    pub id: u64,
    /// A marker of a transaction: nobody sent it.
    pub control: bool,
    /// Largest timestamp of a record, ms.
    pub timestamp_ms: i64,
    /// Dropped by a consumer of committed data, because the fetch listed its transaction as aborted.
    pub aborted: bool,
}

impl From<&Fetched> for Seen {
    fn from(batch: &Fetched) -> Seen {
        Seen {
            base: batch.info.base_offset,
            next: batch.info.next_offset(),
            id: batch.digest,
            control: batch.info.is_control(),
            timestamp_ms: batch.info.max_timestamp,
            aborted: false,
        }
    }
}

/// The answer of one fetch of one partition.
#[derive(Clone, Debug)]
pub struct Read {
    /// Who reads; a reader goes on where its last read ended, unless it was placed elsewhere.
    pub reader: u32,
    /// What is read.
    pub place: Place,
    /// Whether only committed data was asked for.
    pub committed: bool,
    /// When it was asked, see [`now_ns`].
    pub asked_ns: u64,
    /// Offset that was asked for.
    pub from: i64,
    /// High watermark.
    pub high_watermark: i64,
    /// Last stable offset; -1 where the answer does not say.
    pub last_stable: i64,
    /// Log start.
    pub log_start: i64,
    /// What came.
    pub batches: Vec<Seen>,
}

/// A partition read whole at a quiet moment: after the faults have healed, without load, without open transactions.
#[derive(Clone, Debug)]
pub struct Scan {
    /// What is read.
    pub place: Place,
    /// When the last fault had healed.
    pub healed_ns: u64,
    /// ListOffsets, earliest.
    pub start: i64,
    /// ListOffsets, latest.
    pub end: i64,
    /// All batches, as a reader of all data gets them; `aborted` as a reader of committed data is told.
    pub batches: Vec<Seen>,
    /// Look-ups by time: timestamp, offset that was answered (-1 for none).
    pub lookups: Vec<(i64, i64)>,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum What {
    /// A batch leaves.
    Sent(Sent),
    /// It was acknowledged at an offset; again, when it was repeated.
    Acked { id: u64, offset: i64 },
    /// It was refused, and the answer promises that it is not in the log.
    Refused { id: u64, code: i16 },
    /// A batch that must be refused with one of `wanted` was answered with `code`.
    Probed { what: Probe, code: i16, wanted: &'static [i16] },
    /// A reader moves, because its group assigned the partition anew or retention was faster.
    Placed { reader: u32, place: Place, offset: i64 },
    /// A fetch was answered.
    Read(Read),
    /// The end of a transaction is asked for.
    Ending { transaction: u64, commit: bool },
    /// It was answered without an error.
    Ended { transaction: u64 },
    /// A group's offset is to be set, by a member of `generation` or as part of a transaction.
    Committing { group: String, place: Place, offset: i64, commit: u64, transaction: Option<u64> },
    /// The commit was answered without an error. A transaction's counts when the transaction has ended.
    Committed { commit: u64 },
    /// It was refused.
    CommitRefused { commit: u64 },
    /// A group's offset was read (-1: none). `quiet`: with no commit under way.
    Offset { group: String, place: Place, offset: i64, asked_ns: u64 },
    /// A member was told its partitions.
    Assigned { group: String, generation: i32, member: String, places: Vec<Place> },
    /// The whole partition was read.
    Scanned(Scan),
    /// Records for a share group were acknowledged by the log: offsets from `first` up to below `next`.
    Put { place: Place, first: i64, next: i64 },
    /// A member of a share group was given a record.
    Given { place: Place, offset: i64, member: String },
    /// It is acknowledged: `done` by accepting or rejecting it, else given back.
    Settling { place: Place, offset: i64, done: bool },
    /// The acknowledgement was answered, with 0 if it holds.
    Settled { place: Place, offset: i64, code: i16 },
    /// A member has gone: it has nothing any more.
    Parted { member: String },
    /// A member has taken all that its share group had left, at a quiet moment, and is done with it.
    Drained { all: Vec<(Place, i64)> },
}

/// What a probe asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A sequence number with a gap.
    SequenceGap,
    /// An old producer epoch.
    OldEpoch,
    /// An offset commit of an old generation.
    StaleGeneration,
}

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// See [`now_ns`].
    pub at_ns: u64,
    /// What happened.
    pub what: What,
}

/// Where the clients of a run note what happens.
#[derive(Default)]
pub struct History {
    events: Mutex<Vec<Event>>,
}

impl History {
    /// Notes an event now.
    pub fn note(&self, what: What) {
        let mut events = self.events.lock().expect("history");
        // Under the lock, so that the list is in the order of its times.
        events.push(Event { at_ns: now_ns(), what });
    }

    /// What was noted since the last time.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock().expect("history"))
    }

    /// All that was noted before a moment, which stays noted.
    pub fn until(&self, at_ns: u64) -> Vec<Event> {
        let events = self.events.lock().expect("history");
        events.iter().take_while(|event| event.at_ns < at_ns).cloned().collect()
    }
}
