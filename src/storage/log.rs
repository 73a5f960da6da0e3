//! A partition's log: its segments, its tail, and the watermarks that writes and flushes move.
//!
//! Owner: the partition's core; shared on it as `Rc<Log>`. The work is spread over files that follow the
//! data: `append` (admission, rolling), `segment_writer` (coalesced writes), `group_commit` (shared
//! flushes, watermarks, acks), `segment_reader`, `retention`, `recovery`.
//! Invariants: `flushed <= written <= issued <= tail` in log positions; the high watermark never falls;
//! a batch is visible once the durability its producer asked for is reached by it and all before it;
//! after the first write or flush error nothing is acknowledged any more.
//! It must not know Kafka's error codes or the network.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;

use super::cache::TailCache;
use super::disk::{Disk, DiskFile};
use super::group_commit::{Commit, FlushRounds};
use super::index::SegmentSummary;
use super::marks::Marks;
use super::producers::Producers;
use super::read_ahead::ReadAhead;
use super::recovery::Recovered;
use super::segment::Segment;
use super::segment_pool::{PoolFile, SegmentPool};
use super::segment_writer::Grace;
use super::tail::{Eviction, Tail};
use super::tickets::Tickets;
use super::transactions::Transactions;
use super::write_gate::WriteGate;
use crate::clock::ExpiryClock;
use crate::sync::Event;

/// What a topic's configuration says to its logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Roll when the next batch would make the segment larger, bytes.
    pub segment_bytes: u64,
    /// Roll when the segment's first append is older, milliseconds.
    pub segment_ms: i64,
    /// Delete old segments while the log is larger; -1 for never, bytes.
    pub retention_bytes: i64,
    /// Delete segments whose newest record is older; -1 for never, milliseconds.
    pub retention_ms: i64,
    /// Whether retention deletes at all (`cleanup.policy` has `delete`).
    pub delete_old: bool,
    /// Whether the log is compacted (`cleanup.policy` has `compact`).
    pub compact: bool,
    /// Compact when a larger share of the log is dirty, per million of its bytes.
    pub dirty_ratio_ppm: u64,
    /// Records stay uncompacted at least as long, milliseconds.
    pub compaction_lag_ms_min: i64,
    /// Records stay uncompacted at most as long; `i64::MAX` for no bound, milliseconds.
    pub compaction_lag_ms_max: i64,
    /// How long a tombstone stays once it was compacted, milliseconds.
    pub delete_retention_ms: i64,
    /// Flush after this many records, whatever the ack level.
    pub flush_records: i64,
    /// Flush this long after an append, whatever the ack level, milliseconds.
    pub flush_ms: i64,
    /// `acks=all` is answered at write completion instead of flush completion.
    pub write_caching: bool,
}

impl LogConfig {
    /// Whether the topic chose to have `acks=all` answered at write completion: by `write.caching`, or by
    /// saying itself when to flush. `flush.messages=1` is the default in other words.
    pub fn is_relaxed(&self) -> bool {
        let counts = self.flush_records > 1 && self.flush_records != i64::MAX;
        let timed = self.flush_ms > 0 && self.flush_ms != i64::MAX;
        self.write_caching || (self.flush_records != 1 && (counts || timed))
    }
}

/// Errors of the log as its callers see them.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum LogError {
    /// A write or flush failed earlier; the log only serves reads.
    #[error("{0}")]
    Failed(Rc<str>),
    /// The disk had no room; nothing was written and the log goes on when there is room.
    #[error("{0}")]
    NoSpace(Rc<str>),
    /// The broker stops; the log was closed.
    #[error("the broker is stopping")]
    Closed,
    /// The log was deleted.
    #[error("the partition was deleted")]
    Deleted,
    /// The offset is not in the log.
    #[error("offset {0} is out of range")]
    OutOfRange(i64),
    /// The bytes at the offset are damaged.
    #[error("{0}")]
    Damaged(Rc<str>),
}

/// The next segment's file.
pub(super) enum NextFile {
    None,
    Preparing,
    Ready(PoolFile, Rc<dyn DiskFile>),
}

/// State that changes with appends and completions; never borrowed across an await.
pub(super) struct LogState {
    pub(super) segments: VecDeque<Rc<Segment>>,
    pub(super) tail: Tail,
    pub(super) commit: Commit,
    pub(super) producers: Producers,
    pub(super) transactions: Transactions,
    /// (leader epoch, first offset written under it), rising.
    pub(super) epochs: Vec<(i32, i64)>,
    /// At or above the leader epoch of every batch in the log.
    pub(super) epoch_max: i32,
    pub(super) log_start_offset: i64,
    pub(super) log_end_offset: i64,
    pub(super) next_file: NextFile,
    pub(super) extending: bool,
    /// Why the last attempt to make room failed; refuses the append that waits for it.
    pub(super) room_error: Option<Rc<str>>,
    pub(super) failed: Option<LogError>,
    /// Offset and log position pairs of recent reads' ends: sequential readers find their place at once.
    pub(super) hints: VecDeque<(i64, u64)>,
}

/// One partition's log.
pub struct Log {
    pub(super) name: String,
    pub(super) directory: PathBuf,
    pub(super) disk: Rc<dyn Disk>,
    pub(super) pool: Rc<SegmentPool>,
    pub(super) cache: Rc<TailCache>,
    pub(super) rounds: Rc<FlushRounds>,
    pub(super) ahead: Rc<ReadAhead>,
    pub(super) clock: Rc<ExpiryClock>,
    /// No batch of the log has a lower leader epoch.
    pub(super) first_epoch: i32,
    pub(super) config: RefCell<LogConfig>,
    pub(super) state: RefCell<LogState>,
    /// Fired when a write, flush, roll or extension ends.
    pub(super) progress: Event,
    /// Fired when the high watermark moves, and when the log fails or is deleted.
    pub(super) watermark: Event,
    pub(super) tickets: Tickets,
    /// Background work on the log's files: preparing, opening, extending, naming, sealing.
    pub(super) busy: Cell<usize>,
    pub(super) flush_timer: Cell<bool>,
    pub(super) closed: Cell<bool>,
    /// Bytes of batches that are being received in place for this log.
    pub(super) landing_bytes: Cell<u64>,
    /// A task takes expired segments out of the log.
    pub(super) retiring: Cell<bool>,
    /// The highest log start that the marks on disk may have.
    #[cfg(test)]
    pub(super) log_start_marked: Cell<i64>,
    /// A task will look at what can be written.
    pub(super) pump_due: Cell<bool>,
    pub(super) gate: Rc<WriteGate>,
    /// It waits there.
    pub(super) gate_waits: Cell<bool>,
    pub(super) grace: Cell<Grace>,
    /// What the file of marks says.
    pub(super) marks: Cell<Marks>,
    /// The file of marks is being written.
    pub(super) marks_busy: Cell<bool>,
    /// Segments replaced by compaction since the start: gives their files unique names.
    pub(super) retired: Cell<u64>,
    pub(super) directory_made: Cell<bool>,
    pub(super) metadata_file: RefCell<Option<Vec<u8>>>,
}

/// What a log shares with all logs of its core.
#[derive(Clone)]
pub struct LogResources {
    /// The disk.
    pub disk: Rc<dyn Disk>,
    /// The pool of segment files.
    pub pool: Rc<SegmentPool>,
    /// The budget of tail memory.
    pub cache: Rc<TailCache>,
    /// The rounds in which the core's logs flush.
    pub rounds: Rc<FlushRounds>,
    /// Blocks that are read ahead.
    pub ahead: Rc<ReadAhead>,
    /// The time that expiry goes by.
    pub clock: Rc<ExpiryClock>,
    /// The core's writes that are under way.
    pub gate: Rc<WriteGate>,
}

impl Log {
    /// A log over what recovery found (nothing, for a new partition). `metadata_file` is written into the
    /// directory when it is first made.
    pub fn new(
        name: String,
        directory: PathBuf,
        resources: &LogResources,
        config: LogConfig,
        recovered: Recovered,
        metadata_file: Vec<u8>,
    ) -> Rc<Log> {
        let position = recovered.segments.back().map_or(0, |segment| segment.end_position());
        let state = LogState {
            segments: recovered.segments,
            tail: Tail::new(recovered.partial),
            commit: Commit::new(position, recovered.log_end_offset),
            producers: recovered.producers,
            transactions: recovered.transactions,
            epochs: recovered.epochs,
            epoch_max: recovered.reign.last_epoch,
            log_start_offset: recovered.log_start_offset,
            log_end_offset: recovered.log_end_offset,
            next_file: NextFile::None,
            extending: false,
            room_error: None,
            failed: None,
            hints: VecDeque::new(),
        };
        Rc::new(Log {
            name,
            directory_made: Cell::new(recovered.directory_exists),
            directory,
            disk: resources.disk.clone(),
            pool: resources.pool.clone(),
            cache: resources.cache.clone(),
            rounds: resources.rounds.clone(),
            ahead: resources.ahead.clone(),
            clock: resources.clock.clone(),
            first_epoch: recovered.reign.first_epoch,
            config: RefCell::new(config),
            state: RefCell::new(state),
            progress: Event::default(),
            watermark: Event::default(),
            tickets: Tickets::default(),
            busy: Cell::new(0),
            flush_timer: Cell::new(false),
            closed: Cell::new(false),
            landing_bytes: Cell::new(0),
            retiring: Cell::new(false),
            #[cfg(test)]
            log_start_marked: Cell::new(recovered.marks.log_start),
            pump_due: Cell::new(false),
            gate: resources.gate.clone(),
            gate_waits: Cell::new(false),
            grace: Cell::default(),
            marks: Cell::new(recovered.marks),
            marks_busy: Cell::new(false),
            retired: Cell::new(0),
            metadata_file: RefCell::new(Some(metadata_file)),
        })
    }

    /// `topic-partition`, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// First offset that can be read.
    pub fn log_start_offset(&self) -> i64 {
        self.state.borrow().log_start_offset
    }

    /// The highest offset at which the next start may find the log to begin.
    #[cfg(test)]
    pub fn log_start_at_most(&self) -> i64 {
        self.log_start_offset().max(self.log_start_marked.get())
    }

    /// Offset after the last record appended.
    pub fn log_end_offset(&self) -> i64 {
        self.state.borrow().log_end_offset
    }

    /// Offset up to which consumers may read.
    pub fn high_watermark(&self) -> i64 {
        self.state.borrow().commit.high_watermark()
    }

    /// The event that fires when the high watermark moves.
    pub fn watermark_event(&self) -> &Event {
        &self.watermark
    }

    /// Why the log no longer takes appends, if so.
    pub fn failure(&self) -> Option<LogError> {
        self.state.borrow().failed.clone()
    }

    /// Takes a new configuration.
    pub fn set_config(&self, config: LogConfig) {
        *self.config.borrow_mut() = config;
    }

    /// Marks background work on the log's files, for as long as the guard lives.
    pub(super) fn work(self: &Rc<Self>) -> Work {
        self.busy.set(self.busy.get() + 1);
        Work(self.clone())
    }

    /// Bytes of batches in all segments.
    pub fn size_bytes(&self) -> u64 {
        self.state.borrow().segments.iter().map(|segment| segment.size_bytes.get()).sum()
    }

    /// The largest epoch at or below `epoch` and the offset at which the next one begins (KIP-320).
    pub fn end_of_epoch(&self, epoch: i32) -> Option<(i32, i64)> {
        let state = self.state.borrow();
        let after = state.epochs.partition_point(|(known, _)| *known <= epoch);
        let (found, _) = *state.epochs.get(after.checked_sub(1)?)?;
        let end = state.epochs.get(after).map_or(state.commit.high_watermark(), |(_, start)| *start);
        Some((found, end))
    }

    /// The leader epoch under which the record at `offset` was written.
    pub fn epoch_of(&self, offset: i64) -> Option<i32> {
        let state = self.state.borrow();
        let after = state.epochs.partition_point(|(_, start)| *start <= offset);
        state.epochs.get(after.checked_sub(1)?).map(|(epoch, _)| *epoch)
    }

    /// Forgets idempotent producers that were silent since `before_ms`.
    pub fn expire_producers(&self, before_ms: i64) {
        let mut state = self.state.borrow_mut();
        let LogState { producers, transactions, .. } = &mut *state;
        producers.expire(before_ms);
        transactions.expire(|id| producers.knows(id));
    }

    /// Chunks of tail memory.
    pub(super) fn tail_chunk_count(&self) -> usize {
        self.state.borrow_mut().tail.chunks_mut().len()
    }

    /// Drops the oldest chunk of tail memory if it is written.
    pub(super) fn evict_oldest(&self) -> Eviction {
        let mut state = self.state.borrow_mut();
        let written = state.commit.written();
        let active = state.segments.back().cloned();
        state.tail.evict_oldest(written, active.as_ref())
    }

    /// First failure wins: refuse appends and acks from now on, and tell everybody who waits.
    pub(super) fn fail(&self, error: LogError) {
        {
            let mut state = self.state.borrow_mut();
            if state.failed.is_some() {
                return;
            }
            if let LogError::Failed(text) = &error {
                tracing::error!(partition = %self.name, "{text}; the partition stops acknowledging and serves reads only. Look at the disk (dmesg), then restart the broker");
            }
            state.failed = Some(error.clone());
            state.commit.fail_all(&error);
        }
        self.progress.fire();
        self.watermark.fire();
    }

    /// What the clean-shutdown mark says of the active segment; call after [`close`](Self::close).
    pub fn active_summary(&self) -> Option<(i64, SegmentSummary)> {
        let state = self.state.borrow();
        if state.failed.is_some() {
            return None;
        }
        let active = state.segments.back()?;
        Some((active.base_offset, state.summary_of(active)))
    }

    /// Refuses appends from now on, and waits until everything appended is written and flushed.
    pub async fn close(self: &Rc<Self>) -> Result<(), LogError> {
        self.closed.set(true);
        let (end, failed) = {
            let state = self.state.borrow();
            (state.commit.appended(), state.failed.clone())
        };
        if let Some(error) = failed {
            return Err(error);
        }
        let pending = self.request_flush(end);
        pending.wait().await
    }
}

impl LogState {
    pub(super) fn active(&self) -> Option<&Rc<Segment>> {
        self.segments.back().filter(|segment| !segment.sealed.get())
    }

    pub(super) fn summary_of(&self, segment: &Segment) -> SegmentSummary {
        let next_offset = segment.next_offset.get();
        SegmentSummary {
            size_bytes: segment.size_bytes.get(),
            next_offset,
            max_timestamp: segment.max_timestamp.get(),
            index: segment.index.borrow().clone(),
            epochs: self
                .epochs
                .iter()
                .copied()
                .filter(|(_, start)| (segment.base_offset..next_offset).contains(start))
                .collect(),
            producers: self.producers.snapshot(),
            aborted: self.transactions.aborted_of(segment.base_offset, next_offset),
            transactional: self.transactions.snapshot(),
        }
    }
}

/// Background work on a log's files; a deletion waits for its end.
pub(super) struct Work(Rc<Log>);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
        self.0.progress.fire();
    }
}
