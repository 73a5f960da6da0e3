//! Admission to a log, and the life of its active segment: preparing, extending, rolling, sealing.
//!
//! Owner: one log. Invariants: appends are admitted in the order in which they asked; a batch lies whole
//! in one segment and only in space that the file system has reserved, so that a full disk is met before
//! anything is written; a sealed segment is flushed, cut to its length and described by an index file.
//! It must not validate batches (the partition did) or answer anybody.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::disk::DiskFile;
use super::group_commit::AckResult;
use super::index::SegmentSummary;
use super::landing::Incoming;
use super::log::{Log, LogError, LogState, NextFile};
use super::producers::SequenceCheck;
use super::segment::{Segment, file_name, index_file_name};
use super::segment_pool::PoolFile;
use super::tail::{block_ceil, block_floor};
use super::tickets::Ticket;
use crate::limits::{
    BLOCK_SIZE, NO_ROOM_PAUSE_MS, PARTITION_BACKLOG_BYTES_MAX, POOL_FILE_BYTES, SEGMENT_EXTENT_MAX,
    SEGMENT_EXTENT_MIN,
};
use crate::rt;
use crate::sync::Pending;
use crate::wire::control_batch;
use crate::wire::record_batch::{self, BatchInfo};

/// What an append waits for before it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Completion of the write: survives a killed process (`acks=1`).
    Written,
    /// Completion of a flush: survives power loss (`acks=all`).
    Flushed,
}

/// A batch that is in the log.
pub struct Appended {
    /// Offset of its first record.
    pub base_offset: i64,
    /// Append time if the broker stamped it (or the original's, for a repetition), else -1.
    pub log_append_time_ms: i64,
    /// Resolves when the asked-for durability is reached.
    pub durable: Pending<AckResult>,
}

/// Why a batch was not appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendError {
    /// The log refused it.
    Log(LogError),
    /// A gap in an idempotent producer's sequence.
    OutOfOrderSequence,
    /// An old producer epoch.
    FencedProducer,
    /// A batch of a transaction that is neither open here nor verified, or a plain batch within one.
    NotInTransaction,
}

enum Room {
    Ready,
    Wait,
    Prepare { base_offset: i64, size_bytes_max: u64 },
    Open(Rc<Segment>),
    Extend { segment: Rc<Segment>, step_bytes: u64, wait: bool },
    Roll,
    Refuse(LogError),
}

impl Log {
    /// Appends one validated batch; its bytes get their offset and leader epoch patched.
    ///
    /// `log_append_time_ms` is -1 unless the topic stamps batches. Appends are admitted in the order of their
    /// tickets; when the log's backlog is full the call waits.
    pub async fn append(
        self: &Rc<Self>,
        ticket: Ticket,
        incoming: Incoming<'_>,
        batch: BatchInfo,
        leader_epoch: i32,
        durability: Durability,
        log_append_time_ms: i64,
    ) -> Result<Appended, AppendError> {
        assert!(ticket.is_for(self), "a ticket of another log");
        assert!(leader_epoch >= self.first_epoch, "recovery would take the batch for an old one");
        ticket.turn().await;
        self.ensure_room(incoming.size_bytes() as u64).await.map_err(AppendError::Log)?;
        self.append_now(incoming, batch, leader_epoch, durability, log_append_time_ms)
    }

    fn append_now(
        self: &Rc<Self>,
        mut incoming: Incoming<'_>,
        batch: BatchInfo,
        leader_epoch: i32,
        durability: Durability,
        log_append_time_ms: i64,
    ) -> Result<Appended, AppendError> {
        let config = *self.config.borrow();
        // A marker is flushed whatever the topic says: its coordinator forgets the transaction once it is written, and
        // a power loss would then leave it open for ever.
        let relaxed = config.is_relaxed() && !batch.is_control();
        let flush_for_ack = durability == Durability::Flushed && !relaxed;
        let landed = incoming.is_landed();
        let (position, base_offset, allocated, flush_now) = {
            let mut state = self.state.borrow_mut();
            match state.producers.check(&batch) {
                SequenceCheck::Next => {}
                SequenceCheck::OutOfOrder => return Err(AppendError::OutOfOrderSequence),
                SequenceCheck::Fenced => return Err(AppendError::FencedProducer),
                SequenceCheck::Duplicate { base_offset, timestamp_ms } => {
                    // Not the end of the active segment: the roll that made room may have left it empty, and
                    // nothing is ever written up to the start of an empty segment.
                    let position = state.commit.appended();
                    drop(state);
                    // `flush.messages=1` flushes before every answer, so before this one too.
                    let durable = self.wait_durable(position, flush_for_ack || config.flush_records == 1);
                    return Ok(Appended { base_offset, log_append_time_ms: timestamp_ms, durable });
                }
            }
            if !state.permits(&batch) {
                return Err(AppendError::NotInTransaction);
            }
            let base_offset = state.log_end_offset;
            record_batch::patch(incoming.bytes(), base_offset, leader_epoch);
            let (position, allocated) = state.place(incoming, &batch, leader_epoch, log_append_time_ms);
            let log_end_offset = state.log_end_offset;
            let unflushed = log_end_offset - state.commit.flush_asked_offset;
            let flush_now = flush_for_ack || config.flush_records <= unflushed;
            if flush_now {
                state.commit.flush_asked_offset = log_end_offset;
            }
            state.commit.note_append(position, log_end_offset, flush_for_ack, flush_now);
            (position, base_offset, allocated, flush_now)
        };
        if allocated > 0 {
            self.cache.charge(self, allocated);
        }
        if landed {
            self.pump_soon()
        } else {
            self.pump_writes()
        }
        let durable = self.wait_durable(position, flush_now);
        if !flush_now && config.flush_ms != i64::MAX {
            self.flush_later(config.flush_ms);
        }
        Ok(Appended { base_offset, log_append_time_ms, durable })
    }

    /// Flushes what is unflushed once `flush_ms` have passed; one timer serves all appends meanwhile.
    fn flush_later(self: &Rc<Self>, flush_ms: i64) {
        if self.flush_timer.replace(true) {
            return;
        }
        let log = self.clone();
        rt::spawn(async move {
            rt::sleep_ms(flush_ms.max(0) as u64).await;
            log.flush_timer.set(false);
            let position = log.state.borrow().commit.appended();
            // Whoever else flushed meanwhile covered it; the request then is free.
            let _ = log.request_flush(position).wait().await;
        });
    }

    async fn ensure_room(self: &Rc<Self>, size: u64) -> Result<(), LogError> {
        self.state.borrow_mut().room_error = None;
        loop {
            let seen = self.progress.generation();
            if let Some(text) = self.state.borrow_mut().room_error.take() {
                return Err(LogError::NoSpace(text));
            }
            match self.room_for(size) {
                Room::Ready => {
                    self.prepare_ahead();
                    return Ok(());
                }
                Room::Wait => {}
                Room::Refuse(error) => return Err(error),
                Room::Prepare { base_offset, size_bytes_max } => {
                    self.start_prepare(base_offset, size_bytes_max, SEGMENT_EXTENT_MIN);
                }
                Room::Open(segment) => self.start_open(segment),
                Room::Extend { segment, step_bytes, wait } => {
                    self.start_extend(segment, step_bytes);
                    if !wait {
                        return Ok(());
                    }
                }
                Room::Roll => {
                    self.roll();
                    continue;
                }
            }
            self.progress.wait_past(seen).await;
        }
    }

    /// Whether `size` bytes could be appended at once.
    pub(super) fn has_room_now(&self, size: u64) -> bool {
        matches!(self.room_for(size), Room::Ready)
    }

    fn room_for(&self, size: u64) -> Room {
        let config = self.config.borrow();
        let state = self.state.borrow();
        if let Some(error) = &state.failed {
            return Room::Refuse(error.clone());
        }
        if self.closed.get() {
            return Room::Refuse(LogError::Closed);
        }
        let tail = state.segments.back().map_or(0, |segment| segment.end_position());
        if tail - state.commit.written() > PARTITION_BACKLOG_BYTES_MAX {
            return Room::Wait;
        }
        let base_offset = state.log_end_offset;
        let size_bytes_max = block_ceil(config.segment_bytes.max(SEGMENT_EXTENT_MIN));
        let Some(active) = state.active().cloned().filter(|active| !must_roll(active, size, &config)) else {
            return match state.next_file {
                NextFile::Ready(..) => Room::Roll,
                NextFile::None => Room::Prepare { base_offset, size_bytes_max },
                NextFile::Preparing => Room::Wait,
            };
        };
        if active.open_file().is_none() {
            return if state.extending { Room::Wait } else { Room::Open(active) };
        }
        room_in(&active, size, size_bytes_max, state.extending)
    }

    /// Gets the next segment's file ready while the active one still has a quarter of its room.
    fn prepare_ahead(self: &Rc<Self>) {
        let segment_bytes = self.config.borrow().segment_bytes;
        let due = {
            let state = self.state.borrow();
            let used = state.segments.back().map_or(0, |segment| segment.size_bytes.get());
            matches!(state.next_file, NextFile::None)
                && used > segment_bytes / 4 * 3
                && segment_bytes >= POOL_FILE_BYTES
        };
        if due {
            let base_offset = self.log_end_offset();
            // A partition that fills segments gets the whole next one at once.
            let size_bytes = block_ceil(segment_bytes);
            self.start_prepare(base_offset, size_bytes, size_bytes.min(SEGMENT_EXTENT_MAX));
        }
    }

    fn start_prepare(self: &Rc<Self>, base_offset: i64, size_bytes_max: u64, extent_bytes: u64) {
        self.state.borrow_mut().next_file = NextFile::Preparing;
        let (log, work) = (self.clone(), self.work());
        rt::spawn(async move {
            let _work = work;
            let prepared = log.prepare(base_offset, size_bytes_max, extent_bytes).await;
            {
                let mut state = log.state.borrow_mut();
                state.next_file = match prepared {
                    Ok((pool_file, file)) => NextFile::Ready(pool_file, file),
                    Err(error) => {
                        let text = format!("{}: no file for a new segment: {error}", log.directory.display());
                        tracing::warn!("{text}; produce requests are refused until there is room");
                        state.room_error = Some(text.into());
                        NextFile::None
                    }
                };
            }
            log.progress.fire();
        });
    }

    /// Rolls without an append, in turn with those that wait, as long as `due` holds.
    pub(super) async fn roll_idle(self: &Rc<Self>, due: impl Fn() -> bool) {
        let ticket = self.ticket();
        ticket.turn().await;
        while due() {
            let seen = self.progress.generation();
            if self.state.borrow_mut().room_error.take().is_some() {
                return;
            }
            let (ready, preparing, base_offset) = {
                let state = self.state.borrow();
                let ready = matches!(state.next_file, NextFile::Ready(..));
                (ready, matches!(state.next_file, NextFile::Preparing), state.log_end_offset)
            };
            if ready {
                return self.roll();
            }
            if !preparing {
                let size_bytes_max = block_ceil(self.config.borrow().segment_bytes.max(SEGMENT_EXTENT_MIN));
                self.start_prepare(base_offset, size_bytes_max, SEGMENT_EXTENT_MIN);
            }
            self.progress.wait_past(seen).await;
        }
    }

    async fn prepare(
        &self,
        base_offset: i64,
        size_bytes_max: u64,
        extent_bytes: u64,
    ) -> std::io::Result<(PoolFile, Rc<dyn DiskFile>)> {
        if !self.directory_made.get() {
            self.disk.create_dir(self.directory.clone()).await?;
            let metadata = self.metadata_file.borrow().clone();
            if let Some(bytes) = metadata {
                self.disk.write_small(self.directory.join("partition.metadata"), bytes, true).await?;
            }
            // (Only now: a full disk may have refused it, and the next attempt writes it.)
            self.metadata_file.take();
            self.directory_made.set(true);
        }
        self.pool.take(base_offset, self.first_epoch, extent_bytes, size_bytes_max).await
    }

    /// Opens the active segment's file: recovery leaves it closed, so that idle partitions cost no descriptor.
    fn start_open(self: &Rc<Self>, segment: Rc<Segment>) {
        self.state.borrow_mut().extending = true;
        let (log, work) = (self.clone(), self.work());
        rt::spawn(async move {
            let _work = work;
            let outcome = segment.file(&log.disk).await;
            {
                let mut state = log.state.borrow_mut();
                state.extending = false;
                if let Err(error) = outcome {
                    let text = format!("{}: cannot be opened: {error}", segment.path().display());
                    tracing::warn!("{text}; produce requests are refused until it can");
                    state.room_error = Some(text.into());
                }
            }
            log.progress.fire();
        });
    }

    fn start_extend(self: &Rc<Self>, segment: Rc<Segment>, step_bytes: u64) {
        self.state.borrow_mut().extending = true;
        let (log, work) = (self.clone(), self.work());
        rt::spawn(async move {
            let _work = work;
            let from = segment.allocated_bytes.get();
            let outcome = match segment.open_file() {
                Some(file) => log.pool.reserve(&file, from, step_bytes).await,
                None => Ok(()),
            };
            log.state.borrow_mut().extending = false;
            match outcome {
                Ok(()) => segment.allocated_bytes.set(from + step_bytes),
                Err(error) => {
                    let text = format!("{}: cannot extend: {error}", segment.path().display());
                    tracing::warn!("{text}; produce requests are refused until there is room");
                    // Refuses the append that waits; the next one tries again.
                    log.state.borrow_mut().room_error = Some(text.into());
                }
            }
            log.progress.fire();
        });
    }

    /// Makes the prepared file the active segment and seals the old one in the background.
    fn roll(self: &Rc<Self>) {
        let (old, new, from) = {
            let mut state = self.state.borrow_mut();
            let NextFile::Ready(pool_file, file) = std::mem::replace(&mut state.next_file, NextFile::None)
            else {
                unreachable!("rolled without a prepared file");
            };
            let old = state.active().cloned();
            let position = state.segments.back().map_or(0, |segment| segment.end_position());
            // Positions of a new segment begin at a block, so that its writes never share one with the old.
            let position = block_ceil(position);
            let new = Segment::new(state.log_end_offset, position, pool_file.path.clone(), Some(file));
            new.allocated_bytes.set(block_floor(pool_file.size_bytes));
            new.created_ms.set(rt::wall_ms());
            new.opened_ms.set(rt::steady_ms());
            new.named.set(false);
            let new = Rc::new(new);
            state.tail.close_open();
            state.segments.push_back(new.clone());
            let old = old.map(|segment| {
                let summary = state.summary_of(&segment);
                (segment, summary)
            });
            (old, new, pool_file.path)
        };
        self.pump_writes();
        self.start_naming(new, from);
        if let Some((segment, summary)) = old {
            self.start_sealing(segment, summary);
        }
    }

    /// Renames a file of the log; without a block for a longer directory nothing is done, and it is tried again until
    /// there is one, or the log ends: who deletes it makes the room.
    pub(super) async fn rename_when_room(
        &self,
        from: &Path,
        to: &Path,
        durable: bool,
    ) -> std::io::Result<()> {
        loop {
            match self.disk.rename(from.to_owned(), to.to_owned(), durable).await {
                Err(error)
                    if error.kind() == std::io::ErrorKind::StorageFull
                        && !self.closed.get()
                        && self.failure().is_none() =>
                {
                    tracing::warn!("cannot name {} yet: {error}", to.display());
                    let _ = self.pool.give_up_one().await;
                    rt::sleep_ms(NO_ROOM_PAUSE_MS).await;
                }
                outcome => return outcome,
            }
        }
    }

    fn start_naming(self: &Rc<Self>, segment: Rc<Segment>, from: PathBuf) {
        let to = self.directory.join(file_name(segment.base_offset));
        let (log, work) = (self.clone(), self.work());
        rt::spawn(async move {
            let _work = work;
            // Nothing is acknowledged meanwhile.
            match log.rename_when_room(&from, &to, true).await {
                Ok(()) => {
                    segment.set_path(&to);
                    segment.named.set(true);
                    log.advance_written();
                }
                Err(error) => {
                    log.fail(LogError::Failed(
                        format!("cannot name segment {}: {error}", to.display()).into(),
                    ));
                }
            }
        });
    }

    fn start_sealing(self: &Rc<Self>, segment: Rc<Segment>, summary: SegmentSummary) {
        let (log, work) = (self.clone(), self.work());
        rt::spawn(async move {
            if log.request_flush(segment.end_position()).wait().await.is_err() {
                return;
            }
            // An extension that is under way would make the file longer again.
            log.progress.wait_until(|| !log.state.borrow().extending).await;
            if let Err(error) = log.seal(&segment, &summary).await {
                // The segment stays valid without its index file: recovery scans it.
                tracing::warn!("{}: could not be sealed: {error}", segment.path().display());
            }
            segment.sealed.set(true);
            // Opened again by the first cold read, if there is one.
            segment.close();
            drop(work);
            log.apply_retention(log.clock.now_ms()).await;
        });
    }

    async fn seal(&self, segment: &Rc<Segment>, summary: &SegmentSummary) -> std::io::Result<()> {
        let file = segment.file(&self.disk).await?;
        // Neither the cut nor the index file need be durable: without them, recovery scans the segment, and
        // bytes behind its end cannot be taken for batches.
        file.truncate(summary.size_bytes).await?;
        let path = self.directory.join(index_file_name(segment.base_offset));
        self.disk.write_small(path, summary.encode(), false).await
    }
}

fn must_roll(active: &Segment, size: u64, config: &super::log::LogConfig) -> bool {
    let used = active.size_bytes.get();
    if used == 0 {
        return false;
    }
    let aged = active.is_older_than(config.segment_ms);
    // Kafka's index stores offsets relative to the segment in 32 bits; staying below keeps files readable.
    let wide = active.next_offset.get() - active.base_offset >= i64::from(i32::MAX) - i64::from(i32::MAX / 8);
    // A recycled file is a little shorter than a segment may be: rolling early is cheaper than extending it.
    let allocated = active.allocated_bytes.get();
    let nearly_whole = allocated >= config.segment_bytes - config.segment_bytes / 16;
    let capacity = if nearly_whole { allocated.min(config.segment_bytes) } else { config.segment_bytes };
    used + size > capacity || aged || wide
}

fn room_in(active: &Rc<Segment>, size: u64, size_bytes_max: u64, extending: bool) -> Room {
    let used = active.size_bytes.get();
    let allocated = active.allocated_bytes.get();
    // A batch larger than a whole segment still gets its place.
    let ceiling = size_bytes_max.max(block_ceil(used + size));
    let fits = block_ceil(used + size) <= allocated;
    let step = allocated.clamp(SEGMENT_EXTENT_MIN, SEGMENT_EXTENT_MAX);
    let step = step.max(block_ceil(size)).min(ceiling.saturating_sub(allocated));
    let soon = allocated < ceiling && used + size + step / 2 > allocated;
    match (fits, extending) {
        (false, true) => Room::Wait,
        (false, false) => {
            let missing = block_ceil(used + size) - allocated;
            Room::Extend { segment: active.clone(), step_bytes: block_ceil(step.max(missing)), wait: true }
        }
        (true, false) if soon && step > 0 => {
            Room::Extend { segment: active.clone(), step_bytes: block_ceil(step), wait: false }
        }
        (true, _) => Room::Ready,
    }
}

impl LogState {
    /// Whether the transactions of the partition let a batch in; nothing to look up for plain producers.
    fn permits(&self, batch: &BatchInfo) -> bool {
        let plain = !batch.is_transactional() && (!batch.has_producer() || self.transactions.is_idle());
        plain || self.transactions.permits(batch)
    }

    /// Copies a patched batch to the tail and moves the log end; returns the log position after it and
    /// the tail memory that was allocated.
    fn place(
        &mut self,
        mut incoming: Incoming<'_>,
        batch: &BatchInfo,
        leader_epoch: i32,
        log_append_time_ms: i64,
    ) -> (u64, usize) {
        let base_offset = self.log_end_offset;
        self.epoch_max = self.epoch_max.max(leader_epoch);
        if self.epochs.last().is_none_or(|(epoch, _)| *epoch < leader_epoch) {
            self.epochs.push((leader_epoch, base_offset));
        }
        let active = self.segments.back().cloned().expect("room was made in an active segment");
        if active.size_bytes.get() == 0 {
            // An idle roll may have left it empty for long.
            active.created_ms.set(rt::wall_ms());
            active.opened_ms.set(rt::steady_ms());
        }
        active.index.borrow_mut().note(base_offset, active.size_bytes.get(), active.max_timestamp.get());
        if batch.is_transactional() {
            let marker = if batch.is_control() { control_batch::parse(incoming.bytes()) } else { None };
            self.transactions.note(batch, base_offset, active.end_position(), marker);
        }
        let lead = (active.size_bytes.get() % BLOCK_SIZE as u64) as usize;
        let allocated = match &incoming {
            Incoming::Landed(landing) if landing.is_lent() => {
                let (at, len) = (landing.lead(), landing.len());
                match self.tail.settle(&active, landing.buffer(), at, len) {
                    true => 0,
                    false => self.tail.append(&active, incoming.bytes()),
                }
            }
            Incoming::Landed(landing) if landing.lead() == lead => {
                self.tail.adopt(&active, landing.share(), lead, landing.len())
            }
            _ => self.tail.append(&active, incoming.bytes()),
        };
        active.max_timestamp.set(active.max_timestamp.get().max(batch.max_timestamp));
        let next_offset = base_offset + i64::from(batch.last_offset_delta) + 1;
        active.next_offset.set(next_offset);
        self.log_end_offset = next_offset;
        self.producers.note(batch, base_offset, log_append_time_ms, rt::wall_ms());
        (active.end_position(), allocated)
    }
}
