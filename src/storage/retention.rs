//! Retention by size, time and DeleteRecords, and the end of a log: files go back to the pool.
//!
//! Owner: one log. Invariants: only sealed segments wholly below the high watermark are deleted, oldest
//! first; a file is given away only when no read holds its segment, and the new log start is on disk; the log start
//! offset only rises.
//! An active segment that is due although nothing is appended any more is rolled first.
//! It must not unlink on the core's thread.

use std::path::PathBuf;
use std::rc::Rc;

use super::log::{Log, LogError, LogState, NextFile};
use super::segment::{Segment, index_file_name};
use super::segment_pool::Stale;
use crate::rt;

/// How often a file that is still being read is looked at again, milliseconds.
pub(super) const READER_POLL_MS: u64 = 20;

impl Log {
    /// Deletes what the topic's retention says and what lies below the log start, and gives the files back to
    /// the pool: by a task of its own, of which a log has one at a time.
    pub async fn apply_retention(self: &Rc<Self>, now_ms: i64) {
        if self.expired_up_to(now_ms).is_none() || self.retiring.replace(true) {
            return;
        }
        let log = self.clone();
        rt::spawn(async move {
            while let Some(start) = log.expired_up_to(now_ms)
                && log.retire(start).await
            {}
            log.retiring.set(false);
        });
    }

    /// Moves the log start up to `start`, on disk first, and then takes out of the log what lies below it: a power loss
    /// must not give back offsets that clients were told to be gone, and a start that finds an older segment and misses
    /// a younger one would take all behind the gap for torn writes. Whether anything was taken out.
    async fn retire(self: &Rc<Self>, start: i64) -> bool {
        let work = self.work();
        #[cfg(test)]
        if crate::sim::planted(crate::sim::Canary::HastyStart) {
            self.state.borrow_mut().log_start_offset = start;
        }
        let durable = match self.raise_marks(|marks| marks.log_start = start).await {
            Ok(()) => true,
            // Its directory has moved, and goes with all that is in it.
            Err(LogError::Deleted) => return false,
            // A full disk must not keep the files that would make room.
            Err(_) => false,
        };
        if self.failure() == Some(LogError::Deleted) {
            return false;
        }
        let gone = self.detach_below(start);
        drop(work);
        let any = !gone.is_empty();
        for segment in gone {
            let log = self.clone();
            match durable {
                // In whatever order their readers let go of them.
                true => rt::spawn(async move { log.release_segment(segment).await }),
                // The oldest first, one after another.
                false => log.release_segment(segment).await,
            }
        }
        any
    }

    /// Closes the files of sealed segments, which cold reads left open; a read under way keeps its own.
    pub fn close_idle_files(&self) {
        let idle = |segment: &&Rc<Segment>| segment.sealed.get() && !segment.pinned.get();
        for segment in self.state.borrow().segments.iter().filter(idle) {
            segment.close();
        }
    }

    /// Ends the active segment if it is due by age although nothing is appended: because its newest record has
    /// expired, or because it waits to be compacted.
    pub async fn roll_if_due(self: &Rc<Self>, now_ms: i64) {
        let due = || {
            let config = self.config.borrow();
            let state = self.state.borrow();
            let Some(active) = state.active().filter(|active| active.size_bytes.get() > 0) else {
                return false;
            };
            let expired = config.delete_old && expired(active, now_ms, config.retention_ms);
            let aged = active.is_older_than(config.segment_ms);
            state.failed.is_none() && !self.closed.get() && (expired || config.compact && aged)
        };
        if due() {
            self.roll_idle(due).await;
        }
    }

    /// Where the log would begin without the segments at its front that have expired; `None` when none has.
    fn expired_up_to(&self, now_ms: i64) -> Option<i64> {
        let config = *self.config.borrow();
        let state = self.state.borrow();
        let mut total: u64 = state.segments.iter().map(|segment| segment.size_bytes.get()).sum();
        let mut start = None;
        for segment in state.segments.iter().take(state.segments.len().saturating_sub(1)) {
            let next_offset = segment.next_offset.get();
            let visible = next_offset <= state.commit.high_watermark();
            if !segment.sealed.get() || !visible || segment.pinned.get() {
                break;
            }
            let below_start = next_offset <= state.log_start_offset;
            total -= segment.size_bytes.get();
            let too_large = config.retention_bytes >= 0 && total >= config.retention_bytes as u64;
            let too_old = expired(segment, now_ms, config.retention_ms);
            if !below_start && !(config.delete_old && (too_large || too_old)) {
                break;
            }
            start = Some(next_offset.max(state.log_start_offset));
        }
        start
    }

    /// Begins the log at `start` at the earliest, and takes the segments wholly below it out of it, the oldest first.
    fn detach_below(&self, start: i64) -> Vec<Rc<Segment>> {
        let mut state = self.state.borrow_mut();
        state.log_start_offset = state.log_start_offset.max(start);
        let mut gone = Vec::new();
        let mut freed = 0;
        while state.segments.len() > 1
            && let Some(first) = state.segments.front().cloned()
            && first.next_offset.get() <= start
            && !first.pinned.get()
        {
            tracing::info!(
                partition = %self.name,
                base_offset = first.base_offset,
                next_offset = first.next_offset.get(),
                "segment deleted by retention"
            );
            state.segments.pop_front();
            freed += state.forget_segment(&first);
            gone.push(first);
        }
        if !gone.is_empty() {
            let log_start_offset = state.log_start_offset;
            state.transactions.forget_below(log_start_offset);
        }
        drop(state);
        self.cache.discharge(freed);
        gone
    }

    async fn release_segment(self: Rc<Self>, segment: Rc<Segment>) {
        while Rc::strong_count(&segment) > 1 {
            rt::sleep_ms(READER_POLL_MS).await;
        }
        segment.close();
        let index = self.directory.join(index_file_name(segment.base_offset));
        let _ = self.disk.remove(index).await;
        let outcome = self.recycle(&segment, segment.path()).await;
        if let Err(error) = outcome {
            tracing::warn!("{}: cannot give the file back: {error}", segment.path().display());
        }
    }

    /// Gives a segment's file to the pool, or removes it.
    pub(super) async fn recycle(&self, segment: &Segment, path: PathBuf) -> std::io::Result<()> {
        // In a hole lies what nobody wrote, maybe an older life's batches under no known bound.
        if segment.index.borrow().has_damage() {
            return self.disk.remove(path).await;
        }
        let stale = Stale { end: segment.next_offset.get(), epoch: self.state.borrow().epoch_max };
        self.pool.give_back(path, segment.size_bytes.get(), stale).await
    }

    /// Ends the log: refuses everything from now on, waits for work in flight and takes its directory out
    /// of the way, so that a topic of the same name can come. Returns where the files are now.
    pub async fn detach(self: &Rc<Self>, unique: &str) -> Option<PathBuf> {
        self.fail(LogError::Deleted);
        let in_flight = || self.state.borrow().commit.in_flight.iter().any(|write| !write.done);
        self.progress.wait_until(|| self.busy.get() == 0 && !in_flight()).await;
        if !self.directory_made.get() {
            return None;
        }
        let graveyard: PathBuf = self.directory.with_file_name(format!("{}.{unique}-delete", self.name));
        match self.disk.rename(self.directory.clone(), graveyard.clone(), false).await {
            Ok(()) => Some(graveyard),
            Err(error) => {
                tracing::error!("{}: cannot be removed: {error}", self.directory.display());
                None
            }
        }
    }

    /// Gives the files of a detached log back and removes the rest.
    pub async fn bury(self: Rc<Self>, graveyard: PathBuf) {
        let (segments, next) = {
            let mut state = self.state.borrow_mut();
            let segments = std::mem::take(&mut state.segments);
            for segment in &segments {
                let freed = state.forget_segment(segment);
                self.cache.discharge(freed);
            }
            (segments, std::mem::replace(&mut state.next_file, NextFile::None))
        };
        if let NextFile::Ready(pool_file, _) = next {
            let _ = self.disk.remove(pool_file.path).await;
        }
        for segment in segments {
            self.recycle_deleted(segment, &graveyard).await;
        }
        if let Err(error) = self.disk.remove_dir_all(graveyard.clone()).await {
            tracing::warn!("{}: cannot be removed: {error}", graveyard.display());
        }
    }

    async fn recycle_deleted(&self, segment: Rc<Segment>, graveyard: &std::path::Path) {
        while Rc::strong_count(&segment) > 1 {
            rt::sleep_ms(READER_POLL_MS).await;
        }
        let Some(name) = segment.path().file_name().map(|name| graveyard.join(name)) else { return };
        segment.close();
        let _ = self.recycle(&segment, name).await;
    }
}

/// Whether the newest record of a segment is older than `retention_ms` (-1: never). Records without timestamps
/// are as old as the segment.
fn expired(segment: &Segment, now_ms: i64, retention_ms: i64) -> bool {
    let newest = match segment.max_timestamp.get() {
        timestamp if timestamp >= 0 => timestamp,
        _ => segment.created_ms.get(),
    };
    retention_ms >= 0 && newest > 0 && now_ms.saturating_sub(newest) > retention_ms
}

impl LogState {
    /// Drops tail memory of a segment that leaves the log; returns the bytes freed.
    pub(super) fn forget_segment(&mut self, segment: &Rc<Segment>) -> usize {
        let chunks = self.tail.chunks_mut();
        let before: usize = chunks.iter().map(|chunk| chunk.buffer.capacity()).sum();
        chunks.retain(|chunk| !Rc::ptr_eq(&chunk.segment, segment));
        let after: usize = chunks.iter().map(|chunk| chunk.buffer.capacity()).sum();
        before - after
    }
}
