//! Watermarks, acks and shared flushes of one log.
//!
//! Owner: one log. What asks for a flush when it is appended is written durably (`O_DSYNC`) and flushed when it is
//! written. A flush is for the rest: bytes that were written before somebody asked.
//! Invariants: one flush at a time, for everybody whose bytes were written before it
//! began; `flushed` moves to what was written when the flush was *issued*, never further (io_uring does
//! not order a flush behind writes in flight); a batch becomes visible in order, when the durability its
//! producer asked for is reached. The first flush error fails the log: a retried `fdatasync` reports
//! success for pages that were lost.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use super::log::{Log, LogError};
use super::segment::Segment;
use super::segment_writer::InFlight;
use crate::limits::FLUSH_GROUP_BYTES;
use crate::metrics::{self, Series};
use crate::rt;
use crate::sync::{Pending, Promise, oneshot};

/// Outcome of waiting for an append's durability.
pub type AckResult = Result<(), LogError>;

struct Waiter {
    position: u64,
    since_ns: u64,
    promise: Promise<AckResult>,
}

struct Mark {
    position: u64,
    offset: i64,
    flushed: bool,
}

/// How far the log is written, flushed and visible.
pub(super) struct Commit {
    /// Log position after the last batch; the active segment may begin later, when it is still empty.
    appended: u64,
    written: u64,
    flushed: u64,
    high_watermark: i64,
    high_watermark_position: u64,
    pub(super) in_flight: VecDeque<InFlight>,
    marks: VecDeque<Mark>,
    await_write: VecDeque<Waiter>,
    await_flush: VecDeque<Waiter>,
    flush_wanted: u64,
    flushing: bool,
    /// Offset up to which appends asked for a flush: what `flush.messages` counts from.
    pub(super) flush_asked_offset: i64,
}

impl Commit {
    pub(super) fn new(position: u64, offset: i64) -> Commit {
        Commit {
            appended: position,
            written: position,
            flushed: position,
            high_watermark: offset,
            high_watermark_position: position,
            in_flight: VecDeque::new(),
            marks: VecDeque::new(),
            await_write: VecDeque::new(),
            await_flush: VecDeque::new(),
            flush_wanted: position,
            flushing: false,
            flush_asked_offset: offset,
        }
    }

    pub(super) fn appended(&self) -> u64 {
        self.appended
    }

    pub(super) fn written(&self) -> u64 {
        self.written
    }

    pub(super) fn flushed(&self) -> u64 {
        self.flushed
    }

    /// Log position up to which somebody asked for a flush.
    pub(super) fn flush_wanted(&self) -> u64 {
        self.flush_wanted
    }

    pub(super) fn high_watermark(&self) -> i64 {
        self.high_watermark
    }

    pub(super) fn high_watermark_position(&self) -> u64 {
        self.high_watermark_position
    }

    pub(super) fn advance_written(&mut self) -> bool {
        let mut moved = false;
        while let Some(first) = self.in_flight.front() {
            if !first.done || !first.segment.named.get() {
                break;
            }
            assert!(first.end >= self.written);
            self.written = first.end;
            // A durable write flushes itself only: it counts when everything before it is flushed.
            if first.durable_from.is_some_and(|from| from <= self.flushed) {
                self.flushed = self.flushed.max(first.end);
            }
            self.in_flight.pop_front();
            moved = true;
        }
        moved
    }

    /// Notes an appended batch: it ends at `position`, and the log then ends at `offset`. It is visible when
    /// `flushed`, or else written; `flush_now` has it written durably.
    pub(super) fn note_append(&mut self, position: u64, offset: i64, flushed: bool, flush_now: bool) {
        self.appended = position;
        if flush_now {
            self.flush_wanted = position;
        }
        self.marks.push_back(Mark { position, offset, flushed });
    }

    /// Moves the high watermark; true if it moved.
    fn advance_watermark(&mut self) -> bool {
        let mut moved = false;
        while let Some(first) = self.marks.front() {
            let reached = if first.flushed { self.flushed } else { self.written };
            if first.position > reached {
                break;
            }
            assert!(first.offset >= self.high_watermark, "the high watermark never falls");
            self.high_watermark = first.offset;
            self.high_watermark_position = first.position;
            self.marks.pop_front();
            moved = true;
        }
        moved
    }

    fn release_waiters(&mut self) {
        for (queue, reached) in [(&mut self.await_write, self.written), (&mut self.await_flush, self.flushed)]
        {
            while queue.front().is_some_and(|first| first.position <= reached) {
                if let Some(waiter) = queue.pop_front() {
                    metrics::record_since(Series::ProduceCommit, waiter.since_ns);
                    waiter.promise.fill(Ok(()));
                }
            }
        }
    }

    pub(super) fn fail_all(&mut self, error: &LogError) {
        for waiter in self.await_write.drain(..).chain(self.await_flush.drain(..)) {
            waiter.promise.fill(Err(error.clone()));
        }
    }

    fn wait(queue: &mut VecDeque<Waiter>, position: u64) -> Pending<AckResult> {
        let (promise, pending) = oneshot();
        queue.push_back(Waiter { position, since_ns: metrics::now_ns(), promise });
        pending
    }
}

/// Flushes of one core in rounds: logs that ask while a round runs flush together in the next one, so that
/// the device sees one flush for all of them instead of one after another (the block layer merges
/// flushes that wait at the same time).
#[derive(Default)]
pub struct FlushRounds {
    running: Cell<usize>,
    next: RefCell<Vec<Rc<Log>>>,
}

impl FlushRounds {
    /// True if `log` may flush now; otherwise it is in the next round.
    fn join(&self, log: &Rc<Log>) -> bool {
        if self.running.get() > 0 {
            self.next.borrow_mut().push(log.clone());
            return false;
        }
        self.running.set(1);
        true
    }

    /// Ends one flush; the logs of the next round, if this was the last of its round.
    fn leave(&self) -> Vec<Rc<Log>> {
        self.running.set(self.running.get() - 1);
        if self.running.get() > 0 {
            return Vec::new();
        }
        let next = std::mem::take(&mut *self.next.borrow_mut());
        self.running.set(next.len());
        next
    }
}

impl Log {
    /// Resolves when everything before log position `position` is written (`flush == false`) or flushed.
    pub(super) fn wait_durable(self: &Rc<Self>, position: u64, flush: bool) -> Pending<AckResult> {
        if flush {
            return self.request_flush(position);
        }
        let mut state = self.state.borrow_mut();
        let commit = &mut state.commit;
        if commit.written >= position {
            let (promise, pending) = oneshot();
            promise.fill(Ok(()));
            return pending;
        }
        Commit::wait(&mut commit.await_write, position)
    }

    /// Asks for a flush of everything before `position` and resolves when it is done.
    pub(super) fn request_flush(self: &Rc<Self>, position: u64) -> Pending<AckResult> {
        let pending = {
            let mut state = self.state.borrow_mut();
            let failed = state.failed.clone();
            let commit = &mut state.commit;
            if failed.is_some() || commit.flushed >= position {
                let (promise, pending) = oneshot();
                promise.fill(failed.map_or(Ok(()), Err));
                return pending;
            }
            commit.flush_wanted = commit.flush_wanted.max(position);
            let pending = Commit::wait(&mut commit.await_flush, position);
            // Waiters are kept in order of position: a repeated batch may ask for an earlier one.
            let queue = &mut commit.await_flush;
            let mut at = queue.len() - 1;
            while at > 0 && queue[at - 1].position > queue[at].position {
                queue.swap(at - 1, at);
                at -= 1;
            }
            pending
        };
        self.kick_flush();
        pending
    }

    /// After `written` or `flushed` moved: visibility, acks, and who waits for either.
    pub(super) fn after_commit_moved(&self) {
        let moved = {
            let mut state = self.state.borrow_mut();
            if state.failed.is_some() {
                return;
            }
            let moved = state.commit.advance_watermark();
            if moved {
                let high_watermark = state.commit.high_watermark();
                state.transactions.settle(high_watermark);
            }
            state.commit.release_waiters();
            moved
        };
        if moved {
            self.watermark.fire();
        }
    }

    /// Starts a flush if somebody waits for one that could be served now, or joins the next round.
    pub(super) fn kick_flush(self: &Rc<Self>) {
        {
            let mut state = self.state.borrow_mut();
            let commit = &mut state.commit;
            let nothing_new = commit.written <= commit.flushed;
            if commit.flushing || nothing_new || commit.flush_wanted <= commit.flushed {
                return;
            }
            // A waiter whose bytes are still being written is served by the flush after that write.
            let servable = commit.await_flush.front().is_none_or(|first| first.position <= commit.written);
            // While more is being written a flush would be paid for little: it waits for a group's worth.
            let writing = commit.in_flight.iter().any(|write| !write.done);
            let group = commit.written - commit.flushed >= FLUSH_GROUP_BYTES;
            if !servable || (writing && !group) {
                return;
            }
            commit.flushing = true;
        }
        if self.rounds.join(self) {
            self.start_flush();
        }
    }

    fn start_flush(self: &Rc<Self>) {
        let (target, segments) = {
            let state = self.state.borrow();
            let target = state.commit.written;
            (target, state.unflushed_segments(target))
        };
        let log = self.clone();
        rt::spawn(async move {
            let since_ns = metrics::now_ns();
            let outcome = log.flush_segments(segments).await;
            metrics::record_since(Series::ProduceFlush, since_ns);
            log.flush_done(target, outcome);
            for next in log.rounds.leave() {
                next.start_flush();
            }
        });
    }

    async fn flush_segments(&self, segments: Vec<Rc<Segment>>) -> std::io::Result<()> {
        for segment in segments {
            segment.file(&self.disk).await?.flush().await?;
        }
        Ok(())
    }

    fn flush_done(self: &Rc<Self>, target: u64, outcome: std::io::Result<()>) {
        if let Err(error) = outcome {
            let text =
                format!("{}: flush up to log position {target} failed: {error}", self.directory.display());
            self.fail(LogError::Failed(text.into()));
            return;
        }
        {
            let mut state = self.state.borrow_mut();
            state.commit.flushing = false;
            state.commit.flushed = state.commit.flushed.max(target);
        }
        self.after_commit_moved();
        self.kick_flush();
        self.progress.fire();
    }
}

impl super::log::LogState {
    fn unflushed_segments(&self, target: u64) -> Vec<Rc<Segment>> {
        let flushed = self.commit.flushed();
        self.segments
            .iter()
            .rev()
            .take_while(|segment| segment.end_position() > flushed)
            .filter(|segment| segment.base_position < target)
            .cloned()
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect()
    }
}
