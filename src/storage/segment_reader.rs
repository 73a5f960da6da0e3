//! Reads of one log: by offset for consumers, by timestamp for look-ups.
//!
//! Owner: one log. Invariants: nothing at or past the upper bound is returned; records are returned as
//! the bytes that were written, whole batches, by reference to tail memory or to one aligned disk read;
//! a batch is located by headers alone, its records are never decoded (only a timestamp look-up opens
//! one batch). It must not wait for new data; `partition::waiters` does.

use std::io;
use std::rc::Rc;

use super::buffer::Slice;
use super::index::IndexEntry;
use super::log::{Log, LogError, LogState};
use super::read_ahead::Run;
use super::segment::Segment;
use super::tail::{block_ceil, block_floor};
use crate::limits::{COLD_READ_BYTES, INDEX_INTERVAL_BYTES_MIN, READ_BLOCK_BYTES};
use crate::wire::record_batch::{self, BATCH_HEADER_SIZE, BatchInfo};
use crate::wire::records;

/// Positions remembered for sequential readers of one log.
const HINTS_MAX: usize = 8;

/// Bytes that one look-up step reads while it walks batch headers on disk.
const WALK_BYTES: usize = 256 << 10;

/// What a reader may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Everything below the high watermark.
    Uncommitted,
    /// Nothing of transactions that are not decided.
    Committed,
}

/// What a read found.
#[derive(Default)]
pub struct ReadOutcome {
    /// Batches, in order, as slices that keep their memory alive.
    pub slices: Vec<Slice>,
    /// Sum of the slices' lengths.
    pub size_bytes: usize,
    /// Log position after the last byte returned (or of the requested offset when nothing was).
    pub end_position: u64,
}

struct Target {
    segment: Rc<Segment>,
    /// File position of a batch at or before the wanted offset.
    from: u64,
    /// File position that must not be crossed.
    limit: u64,
    /// The reader goes on where one ended, or begins at a segment's first record.
    sequential: bool,
    /// The segment behind it, if it is sealed as well.
    next: Option<Rc<Segment>>,
}

enum Located {
    /// All of it lies in the tail.
    Memory(ReadOutcome),
    /// The disk must be read.
    Disk(Target),
    Nothing(u64),
}

impl Log {
    /// Reads whole batches from the one that holds `offset`, up to the high watermark.
    ///
    /// At most `max_bytes` are returned, but always the first batch, if there is one and `max_bytes > 0`
    /// or not: Kafka's consumers rely on progress (KIP-74).
    pub async fn read(self: &Rc<Self>, offset: i64, max_bytes: usize) -> Result<ReadOutcome, LogError> {
        self.read_isolated(offset, max_bytes, Isolation::Uncommitted).await
    }

    /// As [`read`](Self::read); readers of committed data stop at the last stable offset.
    pub async fn read_isolated(
        self: &Rc<Self>,
        offset: i64,
        max_bytes: usize,
        isolation: Isolation,
    ) -> Result<ReadOutcome, LogError> {
        let located = self.locate(offset, max_bytes, isolation)?;
        match located {
            Located::Nothing(position) => {
                Ok(ReadOutcome { end_position: position, ..ReadOutcome::default() })
            }
            Located::Memory(outcome) => Ok(outcome),
            Located::Disk(target) => {
                let segment = target.segment.clone();
                if let Some(outcome) = self.read_ahead(&target, offset, max_bytes).await {
                    return Ok(outcome);
                }
                self.read_disk(target, offset, max_bytes).await.map_err(|error| {
                    let text = format!("{}: cannot read offset {offset}: {error}", segment.path().display());
                    tracing::error!("{text}");
                    LogError::Damaged(text.into())
                })
            }
        }
    }

    fn locate(&self, offset: i64, max_bytes: usize, isolation: Isolation) -> Result<Located, LogError> {
        let mut state = self.state.borrow_mut();
        if state.failed == Some(LogError::Deleted) {
            return Err(LogError::Deleted);
        }
        if offset < state.log_start_offset || offset > state.log_end_offset {
            return Err(LogError::OutOfRange(offset));
        }
        let (end_offset, end_position) = match isolation {
            Isolation::Uncommitted => (state.commit.high_watermark(), state.commit.high_watermark_position()),
            Isolation::Committed => state.stable_end(),
        };
        if offset >= end_offset {
            return Ok(Located::Nothing(end_position));
        }
        let target = state.target(offset, end_position)?;
        let base = target.segment.base_position;
        match state.walk_memory(&target, offset, max_bytes) {
            Some((start, end)) => {
                let mut outcome = ReadOutcome::default();
                if !state.tail.slices(base + start, base + end, &mut outcome.slices) {
                    return Ok(Located::Disk(target));
                }
                outcome.size_bytes = (end - start) as usize;
                outcome.end_position = base + end;
                state.remember(base + end);
                if state.is_old(base + start) {
                    self.cache.note_old_read();
                }
                Ok(Located::Memory(outcome))
            }
            None => {
                self.cache.note_missed_read(end_position.saturating_sub(base + target.from));
                Ok(Located::Disk(target))
            }
        }
    }

    /// Serves a sequential reader from blocks that were read before, and has the next ones read. `None` where that
    /// does not apply or fails: then one read of its own says why.
    async fn read_ahead(
        self: &Rc<Self>,
        target: &Target,
        offset: i64,
        max_bytes: usize,
    ) -> Option<ReadOutcome> {
        let (segment, from) = (&target.segment, target.from);
        // Bytes that are not written yet must not get into a block.
        let block = READ_BLOCK_BYTES as u64;
        let limit = if segment.sealed.get() { target.limit } else { target.limit / block * block };
        if !target.sequential || from + BATCH_HEADER_SIZE as u64 > limit {
            return None;
        }
        let mut to = limit.min(from + max_bytes.clamp(BATCH_HEADER_SIZE, COLD_READ_BYTES) as u64);
        self.ahead.start(&self.disk, segment, from, limit, target.next.clone());
        let mut run = Run::default();
        let mut first_end = from;
        // Twice at most: a first batch that is larger than what was asked for is served all the same.
        while first_end < to {
            if !self.ahead.load(&self.disk, segment, from, to, &mut run).await.ok()? {
                return None;
            }
            let first = header_in(&run, from).filter(|batch| batch.last_offset() >= offset)?;
            first_end = from + first.size_bytes as u64;
            if first_end <= to {
                break;
            }
            if first_end > limit {
                return None;
            }
            to = first_end;
            first_end = from;
        }
        let (mut end, mut next_offset) = (from, offset);
        while let Some(batch) = header_in(&run, end).filter(|batch| end + batch.size_bytes as u64 <= to) {
            end += batch.size_bytes as u64;
            next_offset = batch.next_offset();
        }
        let mut slices = Vec::with_capacity(2);
        if end == from || !run.slices(from, end, &mut slices) {
            return None;
        }
        self.ahead.passed(segment, end);
        let end_position = segment.base_position + end;
        self.state.borrow_mut().note_read(segment, next_offset, end_position);
        Some(ReadOutcome { size_bytes: (end - from) as usize, slices, end_position })
    }

    async fn read_disk(
        self: &Rc<Self>,
        target: Target,
        offset: i64,
        max_bytes: usize,
    ) -> io::Result<ReadOutcome> {
        let file = target.segment.file(&self.disk).await?;
        let mut at = target.from;
        let wanted = max_bytes.clamp(1, COLD_READ_BYTES);
        let mut read_size = wanted + INDEX_INTERVAL_BYTES_MIN as usize;
        loop {
            let start = block_floor(at);
            let size = block_ceil(at - start + read_size as u64) as usize;
            let read = file.read(start, size).await?;
            let head = (at - start) as usize;
            let usable = read.len().min((target.limit - start) as usize);
            let window = read.get(head..usable).unwrap_or_default();
            match walk_window(window, offset, max_bytes)? {
                Walk::Found { from, to, next_offset } => {
                    let slice = Slice::of_read(&read, head + from, head + to);
                    let end_position = target.segment.base_position + at + to as u64;
                    self.state.borrow_mut().note_read(&target.segment, next_offset, end_position);
                    return Ok(ReadOutcome { size_bytes: slice.len(), slices: vec![slice], end_position });
                }
                Walk::Further { from, need } => {
                    // A file that is shorter than its index says gives no more bytes, however often.
                    if from == 0 && need.max(wanted) <= read_size && window.len() < need.max(1) {
                        return Err(io::Error::new(
                            io::ErrorKind::InvalidData,
                            format!("no whole batch at byte {at}"),
                        ));
                    }
                    at += from as u64;
                    if at >= target.limit {
                        return Err(io::Error::new(io::ErrorKind::InvalidData, "the offset was not found"));
                    }
                    read_size = need.max(wanted);
                }
            }
        }
    }

    /// Copies `[from, from + size)` of a segment's bytes, fewer at its end.
    pub(super) async fn copy_range(
        self: &Rc<Self>,
        segment: &Rc<Segment>,
        from: u64,
        size: usize,
    ) -> io::Result<Vec<u8>> {
        let size = size.min(segment.size_bytes.get().saturating_sub(from) as usize);
        let mut out = vec![0; size];
        if self.state.borrow().tail.peek(segment.base_position + from, &mut out) {
            return Ok(out);
        }
        let file = segment.file(&self.disk).await?;
        let start = block_floor(from);
        let span = block_ceil(from - start + size as u64) as usize;
        let read = file.read(start, span).await?;
        let head = (from - start) as usize;
        let end = (head + size).min(read.len());
        Ok(read.get(head..end).unwrap_or_default().to_vec())
    }

    /// First record with a timestamp of at least `target_ms`: its offset and timestamp (`ListOffsets`).
    pub async fn find_timestamp(self: &Rc<Self>, target_ms: i64) -> io::Result<Option<(i64, i64)>> {
        let candidates: Vec<Rc<Segment>> = {
            let state = self.state.borrow();
            state.segments.iter().filter(|s| s.max_timestamp.get() >= target_ms).cloned().collect()
        };
        // The log may start inside a batch.
        let log_start = self.log_start_offset();
        for segment in candidates {
            let from = segment.index.borrow().floor_timestamp(target_ms).map_or(0, |entry| entry.position);
            let found = self
                .walk_batches(
                    &segment,
                    from,
                    |batch| batch.max_timestamp >= target_ms,
                    |bytes| {
                        records::find_timestamp_from(bytes, target_ms, log_start)
                            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
                    },
                )
                .await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The record with the largest timestamp, first of equals (`ListOffsets` with -3, KIP-734).
    pub async fn find_max_timestamp(self: &Rc<Self>) -> io::Result<Option<(i64, i64)>> {
        let best = {
            let state = self.state.borrow();
            let top = state.segments.iter().map(|segment| segment.max_timestamp.get()).max();
            top.and_then(|top| {
                state.segments.iter().find(|s| s.max_timestamp.get() == top).map(|s| (s.clone(), top))
            })
        };
        match best {
            Some((_, top)) if top < 0 => Ok(None),
            Some((segment, top)) => {
                let from = segment.index.borrow().floor_timestamp(top).map_or(0, |entry| entry.position);
                self.walk_batches(
                    &segment,
                    from,
                    |batch| batch.max_timestamp >= top,
                    |bytes| {
                        records::max_timestamp_record(bytes)
                            .map(Some)
                            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
                    },
                )
                .await
            }
            None => Ok(None),
        }
    }

    async fn walk_batches(
        self: &Rc<Self>,
        segment: &Rc<Segment>,
        from: u64,
        wanted: impl Fn(&BatchInfo) -> bool,
        open: impl Fn(&[u8]) -> io::Result<Option<(i64, i64)>>,
    ) -> io::Result<Option<(i64, i64)>> {
        let mut at = from;
        loop {
            let high_watermark = self.high_watermark();
            let window = self.copy_range(segment, at, WALK_BYTES).await?;
            let mut inside = 0;
            while let Some(header) = window.get(inside..inside + BATCH_HEADER_SIZE) {
                let batch = record_batch::parse_header(header)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
                if batch.base_offset >= high_watermark {
                    return Ok(None);
                }
                if wanted(&batch) {
                    let bytes = self.copy_range(segment, at + inside as u64, batch.size_bytes).await?;
                    if let Some((offset, timestamp)) = open(&bytes)? {
                        return Ok((offset < high_watermark).then_some((offset, timestamp)));
                    }
                }
                inside += batch.size_bytes;
            }
            if inside == 0 {
                return Ok(None);
            }
            at += inside as u64;
        }
    }
}

impl LogState {
    /// Whether a position lies in the older half of what the tail holds.
    fn is_old(&self, position: u64) -> bool {
        let end = self.segments.back().map_or(0, |active| active.end_position());
        self.tail.start().is_some_and(|start| position - start.min(position) < end.saturating_sub(start) / 2)
    }

    fn segment_of(&self, offset: i64) -> Option<&Rc<Segment>> {
        let after = self.segments.partition_point(|segment| segment.base_offset <= offset);
        self.segments.get(after.checked_sub(1)?)
    }

    fn target(&self, offset: i64, end_position: u64) -> Result<Target, LogError> {
        let segment = self.segment_of(offset).ok_or(LogError::OutOfRange(offset))?;
        let index = segment.index.borrow();
        if let Some(damage) = index.damage_at(offset) {
            let text = format!(
                "{}: offsets {}..{} are damaged (bytes {}..{})",
                segment.path().display(),
                damage.offset_start,
                damage.offset_end,
                damage.position_start,
                damage.position_end
            );
            return Err(LogError::Damaged(text.into()));
        }
        let floor = index.floor_offset(offset).unwrap_or(IndexEntry {
            offset: segment.base_offset,
            position: 0,
            max_timestamp_before: -1,
        });
        let hinted = self.hints.iter().find(|(known, _)| *known == offset).map(|(_, position)| *position);
        let inside = segment.base_position..segment.end_position();
        let hinted = hinted.filter(|position| inside.contains(position));
        let from = hinted.map_or(floor.position, |position| position - segment.base_position);
        let sequential = hinted.is_some() || offset == segment.base_offset;
        let end = end_position.saturating_sub(segment.base_position);
        let mut limit = end.min(segment.size_bytes.get());
        if let Some(damaged) = index.next_damage_position(from) {
            limit = limit.min(damaged);
        }
        let after = self.segments.partition_point(|other| other.base_offset <= segment.base_offset);
        let next = self.segments.get(after).filter(|next| next.sealed.get()).cloned();
        Ok(Target { segment: segment.clone(), from, limit, sequential, next })
    }

    /// An offset that no batch before log position `position` reaches.
    pub(super) fn offset_bound(&self, position: u64) -> i64 {
        let after = self.segments.partition_point(|segment| segment.base_position < position);
        let Some(segment) = after.checked_sub(1).map(|at| &self.segments[at]) else {
            return self.log_start_offset;
        };
        let inside = position - segment.base_position;
        segment
            .index
            .borrow()
            .ceiling_position(inside)
            .map_or(segment.next_offset.get(), |entry| entry.offset)
    }

    /// Finds `[start, end)` file positions of the answer with headers in memory only.
    fn walk_memory(&self, target: &Target, offset: i64, max_bytes: usize) -> Option<(u64, u64)> {
        let base = target.segment.base_position;
        let mut at = target.from;
        let first = loop {
            let batch = self.header_at(base + at)?;
            if batch.last_offset() >= offset {
                break batch;
            }
            at += batch.size_bytes as u64;
            if at >= target.limit {
                return None;
            }
        };
        let start = at;
        let first_end = start + first.size_bytes as u64;
        let ceiling = start.saturating_add(max_bytes as u64);
        if target.limit <= ceiling {
            return Some((start, target.limit.max(first_end)));
        }
        let mut end = first_end;
        if let Some(entry) = target.segment.index.borrow().floor_position(ceiling) {
            end = end.max(entry.position);
        }
        loop {
            let batch = self.header_at(base + end)?;
            let next = end + batch.size_bytes as u64;
            if next > ceiling || next > target.limit {
                return Some((start, end));
            }
            end = next;
        }
    }

    fn header_at(&self, position: u64) -> Option<BatchInfo> {
        let mut header = [0; BATCH_HEADER_SIZE];
        if !self.tail.peek(position, &mut header) {
            return None;
        }
        record_batch::parse_header(&header).ok()
    }

    /// Remembers where the batch after a read begins.
    fn remember(&mut self, position: u64) {
        let watermark = position == self.commit.high_watermark_position();
        let offset = if watermark {
            Some(self.commit.high_watermark())
        } else {
            self.header_at(position).map(|batch| batch.base_offset)
        };
        if let Some(offset) = offset {
            self.note_hint(offset, position);
        }
    }

    /// Notes where a read of `segment` ended, unless compaction has put another one in its place meanwhile: the
    /// position would lie in the middle of one of its batches.
    fn note_read(&mut self, segment: &Rc<Segment>, offset: i64, position: u64) {
        let at = self.segments.binary_search_by_key(&segment.base_offset, |known| known.base_offset);
        if at.is_ok_and(|at| Rc::ptr_eq(&self.segments[at], segment)) {
            self.note_hint(offset, position);
        }
    }

    /// Remembers that the record at `offset` begins at log position `position`.
    fn note_hint(&mut self, offset: i64, position: u64) {
        if self.hints.iter().any(|(known, _)| *known == offset) {
            return;
        }
        if self.hints.len() == HINTS_MAX {
            self.hints.pop_front();
        }
        self.hints.push_back((offset, position));
    }
}

/// The header of the batch at file position `at`, if it is there whole.
fn header_in(run: &Run, at: u64) -> Option<BatchInfo> {
    let mut header = [0; BATCH_HEADER_SIZE];
    run.copy(at, &mut header).then(|| record_batch::parse_header(&header).ok()).flatten()
}

enum Walk {
    Found { from: usize, to: usize, next_offset: i64 },
    Further { from: usize, need: usize },
}

/// Finds the batch that holds `offset` in `window`, which begins at a batch, and as many whole batches
/// after it as fit in `max_bytes`.
fn walk_window(window: &[u8], offset: i64, max_bytes: usize) -> io::Result<Walk> {
    let mut at = 0;
    let mut found: Option<usize> = None;
    let mut next_offset = offset;
    loop {
        let Some(header) = window.get(at..at + BATCH_HEADER_SIZE) else {
            return Ok(found.map_or(Walk::Further { from: at, need: BATCH_HEADER_SIZE }, |from| {
                Walk::Found { from, to: at, next_offset }
            }));
        };
        let batch = match (record_batch::parse_header(header), found) {
            (Ok(batch), _) => batch,
            // What stands before the damage is still served.
            (Err(_), Some(from)) => return Ok(Walk::Found { from, to: at, next_offset }),
            (Err(error), None) => return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string())),
        };
        let size = batch.size_bytes;
        let next = at + size;
        match found {
            None if batch.last_offset() < offset && next > window.len() => {
                return Ok(Walk::Further { from: next, need: BATCH_HEADER_SIZE });
            }
            None if batch.last_offset() < offset => {}
            None if next > window.len() => return Ok(Walk::Further { from: at, need: size }),
            None => found = Some(at),
            Some(from) if next > window.len() || next - from > max_bytes => {
                return Ok(Walk::Found { from, to: at, next_offset });
            }
            Some(_) => {}
        }
        next_offset = batch.next_offset();
        at = next;
    }
}
