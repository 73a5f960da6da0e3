//! Compaction as the owner core sees it: which part of a log is due, and new segments that take the place of old ones.
//!
//! Owner: one log. The reading and writing is done by a cleaner thread (`cleaner`, `compaction_rewrite`); the core
//! chooses, renames through its blocking thread, and swaps the list of segments between two awaits.
//! Invariants: only sealed segments below the last stable offset are compacted; groups are swapped oldest first, each
//! durably before the next, so that a tombstone never goes before the values it deletes; a reader that holds an old
//! segment keeps it and its open file; the mark `clean_end` moves when the whole pass is durable.
//! The order of the renames is what `compaction_recover` relies on. It must not read or write records on the core.

use std::io;
use std::rc::Rc;

use super::cleaner::{Cleaner, Step};
use super::compaction_recover::{retired_name, swap_steps};
use super::compaction_rewrite::{
    CleanPlan, CleanSegment, CleanedGroup, PassStats, cleaned_index_name, cleaned_name,
};
use super::index::SegmentSummary;
use super::log::{Log, LogConfig, LogError, LogState};
use super::retention::READER_POLL_MS;
use super::segment::{Segment, file_name, index_file_name};
use super::tail::block_floor;
use crate::rt;
use crate::wire::record_batch::{BATCH_HEADER_SIZE, parse_header};

/// How much of a log waits to be compacted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dirtiness {
    /// Bytes not compacted, of those that may be, per million.
    pub dirty_ppm: u64,
    /// A record is older than `max.compaction.lag.ms`.
    pub overdue: bool,
}

impl Log {
    /// How due the log's compaction is; `None` when it is not (not compacted at all, not dirty enough).
    pub async fn dirtiness(self: &Rc<Self>, now_ms: i64) -> Option<Dirtiness> {
        let config = *self.config.borrow();
        if !config.compact || self.failure().is_some() || self.closed.get() {
            return None;
        }
        let (dirty_ppm, first_dirty) = {
            let state = self.state.borrow();
            let dirty_from = self.dirty_from(&state);
            let cleanable = state.cleanable(&config, now_ms);
            let size = |s: &Rc<Segment>| s.size_bytes.get();
            let total: u64 = cleanable.clone().map(size).sum();
            let dirty = cleanable.clone().filter(|s| s.next_offset.get() > dirty_from);
            let dirty_bytes: u64 = dirty.clone().map(size).sum();
            let first_dirty = dirty.clone().next()?.clone();
            (dirty_bytes.saturating_mul(1_000_000) / total.max(1), first_dirty)
        };
        let overdue = config.compaction_lag_ms_max < i64::MAX
            && now_ms.saturating_sub(self.first_written_ms(&first_dirty).await)
                > config.compaction_lag_ms_max;
        (overdue || dirty_ppm > config.dirty_ratio_ppm).then_some(Dirtiness { dirty_ppm, overdue })
    }

    /// When the segment's first batch was written, as its timestamp says; milliseconds.
    async fn first_written_ms(self: &Rc<Self>, segment: &Rc<Segment>) -> i64 {
        let header = self.copy_range(segment, 0, BATCH_HEADER_SIZE).await.unwrap_or_default();
        match parse_header(&header) {
            Ok(batch) if batch.max_timestamp > 0 => batch.max_timestamp,
            _ => segment.created_ms.get(),
        }
    }

    fn dirty_from(&self, state: &LogState) -> i64 {
        self.marks.get().clean_end.max(state.log_start_offset)
    }

    fn plan_pass(&self, now_ms: i64) -> Option<CleanPlan> {
        let config = *self.config.borrow();
        let state = self.state.borrow();
        let segments: Vec<CleanSegment> = state
            .cleanable(&config, now_ms)
            .map(|segment| CleanSegment {
                base_offset: segment.base_offset,
                next_offset: segment.next_offset.get(),
                size_bytes: segment.size_bytes.get(),
                path: segment.path(),
                damaged: segment.index.borrow().has_damage(),
            })
            .collect();
        if segments.is_empty() {
            return None;
        }
        let last_batch = |(id, entry): (i64, super::index::ProducerEntry)| {
            entry.batches.back().map(|batch| (id, batch.base_offset))
        };
        Some(CleanPlan {
            directory: self.directory.clone(),
            segments,
            dirty_from: self.dirty_from(&state),
            segment_bytes: config.segment_bytes,
            now_ms,
            horizon_ms: rt::wall_ms().max(now_ms).saturating_add(config.delete_retention_ms),
            producer_ends: state.producers.snapshot().into_iter().filter_map(last_batch).collect(),
            epochs: state.epochs.clone(),
            aborted: state.transactions.aborted_of(0, i64::MAX),
        })
    }

    /// Compacts what is due, to the end; `None` when the log changed meanwhile, so that another pass may do it.
    /// Errors are in words, and would come again: the log itself goes on as it was.
    pub async fn compact(
        self: &Rc<Self>,
        cleaner: &Cleaner,
        now_ms: i64,
    ) -> Result<Option<PassStats>, String> {
        let Some(plan) = self.plan_pass(now_ms) else { return Ok(None) };
        let bases: Vec<i64> = plan.segments.iter().map(|segment| segment.base_offset).collect();
        let outcome = self.pass(plan, cleaner).await;
        let changed = || bases.iter().any(|base| !self.state.borrow().starts_segment(*base));
        match outcome {
            Ok(stats) => Ok(Some(stats)),
            // Retention has taken segments away while they were read, or the log has ended.
            Err(_) if self.failure().is_some() || changed() => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(error.to_string()),
            Err(error) => {
                tracing::warn!(partition = %self.name, "compaction was interrupted: {error}");
                Ok(None)
            }
        }
    }

    async fn pass(self: &Rc<Self>, plan: CleanPlan, cleaner: &Cleaner) -> io::Result<PassStats> {
        let gaps_end = plan.segments.last().map_or(0, |segment| segment.next_offset);
        let steps = cleaner.begin(plan).await;
        loop {
            let ended = async {
                self.watermark.wait_until(|| self.failure().is_some()).await;
                Err(flume::RecvError::Disconnected)
            };
            // (Dropping `steps` tells the thread to stop.)
            match futures_lite::future::or(steps.recv_async(), ended).await {
                Ok(Step::Group(CleanedGroup { bases, summary: Some(summary) })) => {
                    self.raise_marks(|marks| marks.gaps_end = gaps_end).await.map_err(as_io)?;
                    self.swap(&bases, summary).await?;
                }
                Ok(Step::Group(_)) => {}
                Ok(Step::Done(stats)) => {
                    let done = self.raise_marks(|marks| marks.clean_end = stats.clean_end).await;
                    return done.map(|()| stats).map_err(as_io);
                }
                Ok(Step::Failed(error)) => return Err(error),
                Err(_) => return Err(io::Error::other("the log takes no more changes")),
            }
        }
    }

    /// Puts the cleaned files of a group in the place of its segments.
    async fn swap(self: &Rc<Self>, bases: &[i64], summary: SegmentSummary) -> io::Result<()> {
        let work = self.work();
        let run = self.state.borrow().sealed_run(bases).filter(|_| self.failure().is_none());
        let Some(old) = run else {
            for name in [cleaned_name(bases[0]), cleaned_index_name(bases[0])] {
                let _ = self.disk.remove(self.directory.join(name)).await;
            }
            return Err(io::Error::other("the log's segments have changed"));
        };
        // From here on nothing else renames or closes them: a reader always finds the old file, by an open descriptor.
        old.iter().for_each(|segment| segment.pinned.set(true));
        let mut open = Ok(());
        for segment in &old {
            open = open.and(segment.file(&self.disk).await.map(drop));
        }
        if let Err(error) = open {
            old.iter().for_each(|segment| segment.pinned.set(false));
            return Err(error);
        }
        if let Err(error) = self.swap_files(&old).await {
            // On disk it is the old or the new state, and a start finds out which. Reads go on with the open files.
            let text = format!("{}: compaction cannot rename files: {error}", self.directory.display());
            self.fail(LogError::Failed(text.into()));
            return Err(error);
        }
        let freed = self.swap_segments(&old, &summary);
        self.cache.discharge(freed);
        for segment in old {
            let log = self.clone();
            rt::spawn(async move { log.release_retired(segment).await });
        }
        drop(work);
        Ok(())
    }

    async fn swap_files(&self, old: &[Rc<Segment>]) -> io::Result<()> {
        let bases: Vec<i64> = old.iter().map(|segment| segment.base_offset).collect();
        let number = self.retired.get();
        self.retired.set(number + 1);
        for step in swap_steps(&self.directory, &bases, number) {
            // Not given up half-way for want of a block in the directory: the log would have failed for good.
            self.rename_when_room(&step.from, &step.to, step.durable).await?;
        }
        for segment in old {
            segment.set_path(&self.directory.join(retired_name(segment.base_offset, number)));
        }
        for base_offset in &bases[1..] {
            let _ = self.disk.remove(self.directory.join(index_file_name(*base_offset))).await;
        }
        Ok(())
    }

    fn swap_segments(&self, old: &[Rc<Segment>], summary: &SegmentSummary) -> usize {
        let (first, last) = (&old[0], &old[old.len() - 1]);
        let path = self.directory.join(file_name(first.base_offset));
        let new = Segment::new(first.base_offset, first.base_position, path, None);
        new.adopt(summary);
        new.allocated_bytes.set(block_floor(summary.size_bytes));
        new.created_ms.set(last.created_ms.get());
        new.sealed.set(true);
        let mut state = self.state.borrow_mut();
        let at = state.segments.iter().position(|segment| Rc::ptr_eq(segment, first));
        let at = at.expect("pinned segments stay in the list");
        state.segments.drain(at..at + old.len());
        state.segments.insert(at, Rc::new(new));
        state.transactions.keep_aborted(first.base_offset, summary.next_offset, &summary.aborted);
        // They name positions in the old files.
        state.hints.clear();
        old.iter().map(|segment| state.forget_segment(segment)).sum()
    }

    /// Gives a replaced file back once nobody reads it.
    async fn release_retired(self: Rc<Self>, segment: Rc<Segment>) {
        while Rc::strong_count(&segment) > 1 {
            rt::sleep_ms(READER_POLL_MS).await;
        }
        if self.failure() == Some(LogError::Deleted) {
            // Its directory has moved, and goes with all that is in it.
            return;
        }
        let _work = self.work();
        segment.close();
        if let Err(error) = self.recycle(&segment, segment.path()).await {
            tracing::warn!("{}: cannot give the file back: {error}", segment.path().display());
        }
    }
}

fn as_io(error: LogError) -> io::Error {
    io::Error::other(error.to_string())
}

impl LogState {
    /// The segments that may be compacted: sealed, visible, and old enough; from the log's first on.
    fn cleanable<'a>(
        &'a self,
        config: &LogConfig,
        now_ms: i64,
    ) -> impl Iterator<Item = &'a Rc<Segment>> + Clone {
        // Above, nobody knows which records will have been aborted.
        let decided = self.stable_end().0;
        let young = now_ms.saturating_sub(config.compaction_lag_ms_min);
        let lags = config.compaction_lag_ms_min > 0;
        self.segments.iter().take_while(move |segment| {
            segment.sealed.get()
                && segment.next_offset.get() <= decided
                && !(lags && segment.max_timestamp.get() > young)
        })
    }

    fn starts_segment(&self, base_offset: i64) -> bool {
        self.segments.binary_search_by_key(&base_offset, |segment| segment.base_offset).is_ok()
    }

    /// The segments with these base offsets, if they are neighbours, sealed and not being replaced already.
    fn sealed_run(&self, bases: &[i64]) -> Option<Vec<Rc<Segment>>> {
        let from = self.segments.iter().position(|segment| segment.base_offset == bases[0])?;
        let run: Vec<_> = self.segments.iter().skip(from).take(bases.len()).cloned().collect();
        let same = run.len() == bases.len()
            && run.iter().zip(bases).all(|(segment, base)| {
                segment.base_offset == *base && segment.sealed.get() && !segment.pinned.get()
            });
        same.then_some(run)
    }
}
