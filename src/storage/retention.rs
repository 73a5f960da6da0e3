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
    /// the pool.
    pub async fn apply_retention(self: &Rc<Self>, now_ms: i64) {
        let config = *self.config.borrow();
        let mut gone = Vec::new();
        while let Some(segment) = self.detach_expired(now_ms, &config) {
            tracing::info!(
                partition = %self.name,
                base_offset = segment.base_offset,
                next_offset = segment.next_offset.get(),
                "segment deleted by retention"
            );
            gone.push(segment);
        }
        if gone.is_empty() {
            return;
        }
        let log = self.clone();
        rt::spawn(async move { log.release_segments(gone).await });
    }

    /// Gives files away, in whatever order their readers let go of them. The new start must be on disk before: a start
    /// that finds an older segment and misses a younger one would take all behind the gap for torn writes.
    async fn release_segments(self: Rc<Self>, gone: Vec<Rc<Segment>>) {
        let start = self.log_start_offset();
        let marked = self.raise_marks(|marks| marks.log_start = start).await;
        for segment in gone {
            let log = self.clone();
            match marked {
                Ok(()) => rt::spawn(async move { log.release_segment(segment).await }),
                // Their directory has moved, and goes with all that is in it.
                Err(LogError::Deleted) => return,
                // A full disk must not keep the files that would make room: the oldest first, one after another.
                Err(_) => log.release_segment(segment).await,
            }
        }
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

    fn detach_expired(&self, now_ms: i64, config: &super::log::LogConfig) -> Option<Rc<Segment>> {
        let (segment, freed) = {
            let mut state = self.state.borrow_mut();
            let first = state.segments.front()?.clone();
            let is_last = state.segments.len() == 1;
            let visible = first.next_offset.get() <= state.commit.high_watermark();
            if is_last || !first.sealed.get() || !visible || first.pinned.get() {
                return None;
            }
            let below_start = first.next_offset.get() <= state.log_start_offset;
            let total: u64 = state.segments.iter().map(|segment| segment.size_bytes.get()).sum();
            let too_large = config.retention_bytes >= 0
                && total - first.size_bytes.get() >= config.retention_bytes as u64;
            let too_old = expired(&first, now_ms, config.retention_ms);
            if !below_start && !(config.delete_old && (too_large || too_old)) {
                return None;
            }
            state.segments.pop_front();
            state.log_start_offset = state.log_start_offset.max(first.next_offset.get());
            let log_start_offset = state.log_start_offset;
            state.transactions.forget_below(log_start_offset);
            (first.clone(), state.forget_segment(&first))
        };
        self.cache.discharge(freed);
        Some(segment)
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
