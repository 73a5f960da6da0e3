//! One pass of compaction over files: fill the key map from the part that is not compacted, then write the log's
//! segments anew without the records that a later one of the same key has replaced.
//!
//! Owner: a cleaner thread, which blocks as it likes; its file descriptors are its own. It only reads sealed segments
//! and only writes `.cleaned` files beside them; the owner core puts those in their place (`compaction`).
//! Invariants: every record keeps its offset, and they keep their order; the last batch of a rewritten segment stays,
//! without records if need be, so that the segment ends where those before it ended and a reader never falls into a
//! gap at its end; so does the last batch of each producer. A tombstone goes only when its horizon is over and every
//! segment below could be rewritten. Records of aborted transactions go; a marker goes when nothing of its transaction
//! is left and its own horizon is over, and an aborted transaction's entry in the index goes with it, so that a reader
//! never has the one without the other. A batch whose checksum is wrong ends the pass; one that cannot be decompressed
//! within the limits stays as it is. It must not delete or rename a segment.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::compaction_map::KeyMap;
use super::index::SegmentSummary;
use super::producers::Producers;
use super::segment::index_file_name;
use super::transactions::{AbortedTransaction, Transactions};
use crate::fs::{self, File, FileExt};
use crate::limits::{CLEANER_FLUSH_BYTES, CLEANER_READ_BYTES};
use crate::maps::{HashMap, HashSet};
use crate::wire::batch_filter::{KeyedRecord, OpenBatch, with_horizon, without_records};
use crate::wire::control_batch;
use crate::wire::record_batch::{self, BATCH_HEADER_SIZE, BatchInfo};

/// Offsets that one segment may span: Kafka's index keeps them relative in 31 bits.
const SEGMENT_OFFSETS_MAX: i64 = i32::MAX as i64 / 8 * 7;

/// One sealed segment as the pass sees it.
#[derive(Clone, Debug)]
pub struct CleanSegment {
    /// Its first offset.
    pub base_offset: i64,
    /// Offset after its last record.
    pub next_offset: i64,
    /// Bytes of batches.
    pub size_bytes: u64,
    /// Its file.
    pub path: PathBuf,
    /// Bytes of it are known to be damaged: it stays as it is.
    pub damaged: bool,
}

/// What one pass has to do.
pub struct CleanPlan {
    /// Its directory.
    pub directory: PathBuf,
    /// All segments from the log's first to the last that may be compacted.
    pub segments: Vec<CleanSegment>,
    /// First offset that was not compacted before.
    pub dirty_from: i64,
    /// Size up to which small segments are merged into one, bytes.
    pub segment_bytes: u64,
    /// The time that expiry goes by, milliseconds: horizons before it are over.
    pub now_ms: i64,
    /// Until when a tombstone stays that this pass is the first to meet; milliseconds, by the system's clock.
    pub horizon_ms: i64,
    /// Base offset of the last batch of each idempotent producer.
    pub producer_ends: HashMap<i64, i64>,
    /// Leader epochs and their first offsets.
    pub epochs: Vec<(i32, i64)>,
    /// Aborted transactions, by the offset of their marker.
    pub aborted: Vec<AbortedTransaction>,
}

/// Segments that one file takes the place of.
pub struct CleanedGroup {
    /// Base offsets of the segments, oldest first; the new one has the first's.
    pub bases: Vec<i64>,
    /// What the new segment's index file says, or `None` when the segment stays as it is.
    pub summary: Option<SegmentSummary>,
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassStats {
    /// Offset up to which the log is compacted now.
    pub clean_end: i64,
    /// Keys in the map.
    pub keys: usize,
    /// Bytes read to rewrite segments.
    pub read_bytes: u64,
    /// Bytes of the segments written.
    pub written_bytes: u64,
}

/// The name of an unfinished segment.
pub fn cleaned_name(base_offset: i64) -> String {
    format!("{base_offset:020}.log.cleaned")
}

/// The name of an unfinished index file.
pub fn cleaned_index_name(base_offset: i64) -> String {
    format!("{base_offset:020}.ridx.cleaned")
}

/// Slows a thread down to a number of bytes per second.
pub struct Pace {
    bytes_per_second: f64,
    began: Instant,
    bytes: f64,
}

impl Pace {
    /// A pace; `bytes_per_second` may be as large as it likes.
    pub fn new(bytes_per_second: f64) -> Pace {
        Pace { bytes_per_second: bytes_per_second.max(1.0), began: Instant::now(), bytes: 0.0 }
    }

    fn spend(&mut self, bytes: u64) {
        self.bytes += bytes as f64;
        let due = Duration::from_secs_f64((self.bytes / self.bytes_per_second).min(1e6));
        if let Some(early) = due.checked_sub(self.began.elapsed()) {
            std::thread::sleep(early);
        }
        if self.began.elapsed() > Duration::from_secs(1) {
            (self.began, self.bytes) = (Instant::now(), 0.0);
        }
    }
}

/// Runs a pass; `hand_over` gets each group when its files are durable, and ends the pass by returning false.
pub fn run(
    plan: &CleanPlan,
    map: KeyMap,
    pace: &mut Pace,
    hand_over: &mut dyn FnMut(Option<CleanedGroup>) -> bool,
) -> io::Result<PassStats> {
    let mut pass = Pass::new(plan, map, pace);
    if !pass.fill_map(hand_over)? {
        return Err(io::ErrorKind::Interrupted.into());
    }
    let todo = plan.segments.iter().take_while(|segment| segment.base_offset < pass.clean_end).count();
    let mut ends = Ends::default();
    for group in group_segments(&plan.segments[..todo], plan.segment_bytes) {
        if group[0].damaged {
            // Older values of a key may hide in it: what deletes them must outlive it.
            pass.safe_to_forget = false;
            continue;
        }
        let outcome = pass.rewrite(group, &mut ends, hand_over).and_then(|cleaned| {
            let handed_over = cleaned.is_some_and(|cleaned| hand_over(Some(cleaned)));
            if handed_over { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
        });
        if let Err(error) = outcome {
            let base_offset = group[0].base_offset;
            for name in [cleaned_name(base_offset), cleaned_index_name(base_offset)] {
                let _ = fs::remove_file(plan.directory.join(name));
            }
            return Err(error);
        }
    }
    pass.stats.clean_end = pass.clean_end;
    pass.stats.keys = pass.map.len();
    Ok(pass.stats)
}

/// Neighbours whose bytes fit into one segment; a damaged one stands alone.
fn group_segments(segments: &[CleanSegment], segment_bytes: u64) -> Vec<&[CleanSegment]> {
    let mut groups = Vec::new();
    let mut from = 0;
    for at in 0..segments.len() {
        let group = &segments[from..=at];
        let bytes: u64 = group.iter().map(|segment| segment.size_bytes).sum();
        let wide = segments[at].next_offset - group[0].base_offset > SEGMENT_OFFSETS_MAX;
        let broken = group.len() > 1 && group.iter().any(|segment| segment.damaged);
        if at > from && (bytes > segment_bytes || wide || broken) {
            groups.push(&segments[from..at]);
            from = at;
        }
    }
    if from < segments.len() {
        groups.push(&segments[from..]);
    }
    groups
}

struct Pass<'a> {
    plan: &'a CleanPlan,
    map: KeyMap,
    pace: &'a mut Pace,
    /// The map knows the keys of all records below.
    clean_end: i64,
    /// No older value of any key is left in a segment that stays as it is.
    safe_to_forget: bool,
    stats: PassStats,
    /// First and last offsets of aborted transactions, by producer.
    aborted: HashMap<i64, Vec<(i64, i64)>>,
    /// Producers whose present transaction still has batches in what was written.
    alive: HashSet<i64>,
    /// Offsets of markers that went.
    markers_gone: HashSet<i64>,
}

/// What an index file says of producers at the end of a segment.
#[derive(Default)]
struct Ends {
    producers: Producers,
    transactions: Transactions,
}

impl Ends {
    fn note(&mut self, info: &BatchInfo, batch: &[u8], now_ms: i64) {
        let stamped = info.timestamp_type() == record_batch::TimestampType::LogAppendTime;
        let stamp = if stamped { info.max_timestamp } else { -1 };
        self.producers.note(info, info.base_offset, stamp, now_ms);
        if info.is_transactional() {
            let marker = if info.is_control() { control_batch::parse(batch) } else { None };
            self.transactions.note(info, info.base_offset, 0, marker);
        }
    }

    /// Ends a segment; its index file knows more than its batches: producers whose batches are long gone.
    fn end(&mut self, segment: &CleanSegment, known: Option<SegmentSummary>) {
        if let Some(known) = known {
            self.producers = Producers::restore(&known.producers);
            self.transactions.adopt(&[], &known.transactional, |_| 0);
        }
        self.transactions.settle(segment.next_offset);
    }
}

/// What is to become of a batch.
enum Verdict {
    Copy,
    Replace(Vec<u8>),
    Drop,
}

impl<'a> Pass<'a> {
    fn new(plan: &'a CleanPlan, map: KeyMap, pace: &'a mut Pace) -> Pass<'a> {
        let mut aborted: HashMap<i64, Vec<(i64, i64)>> = HashMap::default();
        for one in &plan.aborted {
            aborted.entry(one.producer_id).or_default().push((one.first_offset, one.last_offset));
        }
        Pass {
            plan,
            map,
            pace,
            clean_end: 0,
            safe_to_forget: true,
            stats: PassStats::default(),
            aborted,
            alive: HashSet::default(),
            markers_gone: HashSet::default(),
        }
    }

    fn is_aborted(&self, info: &BatchInfo) -> bool {
        info.is_transactional()
            && !info.is_control()
            && self.aborted.get(&info.producer_id).is_some_and(|all| {
                all.iter().any(|(first, last)| (*first..*last).contains(&info.base_offset))
            })
    }

    /// Notes the keys of the part that was not compacted yet, as far as the map reaches. False when told to stop.
    fn fill_map(&mut self, go_on: &mut dyn FnMut(Option<CleanedGroup>) -> bool) -> io::Result<bool> {
        let dirty_from = self.plan.dirty_from;
        for segment in &self.plan.segments {
            self.clean_end = segment.next_offset;
            if segment.damaged || segment.next_offset <= dirty_from {
                continue;
            }
            let mut reader = SegmentFile::open(segment)?;
            while let Some((info, batch)) = reader.next(self.pace)? {
                if !go_on(None) {
                    return Ok(false);
                }
                if info.last_offset() < dirty_from || info.is_control() || self.is_aborted(&info) {
                    continue;
                }
                if let Some(stopped_at) = note_keys(&mut self.map, batch, dirty_from) {
                    self.clean_end = stopped_at;
                    return Ok(true);
                }
            }
        }
        Ok(true)
    }

    /// Writes one segment in the place of `group`; `None` when told to stop.
    fn rewrite(
        &mut self,
        group: &[CleanSegment],
        ends: &mut Ends,
        go_on: &mut dyn FnMut(Option<CleanedGroup>) -> bool,
    ) -> io::Result<Option<CleanedGroup>> {
        let base_offset = group[0].base_offset;
        let path = self.plan.directory.join(cleaned_name(base_offset));
        let mut out = Output::create(&path)?;
        let mut changed = group.len() > 1;
        for (number, segment) in group.iter().enumerate() {
            let mut reader = SegmentFile::open(segment)?;
            while let Some((info, batch)) = reader.next(self.pace)? {
                if !go_on(None) {
                    return Ok(None);
                }
                ends.note(&info, batch, self.plan.now_ms);
                let is_last = number + 1 == group.len() && info.next_offset() >= segment.next_offset;
                let verdict = self.judge(&info, batch, is_last);
                self.follow_transaction(&info, &verdict);
                match verdict {
                    Verdict::Copy => out.put(&info, batch)?,
                    Verdict::Replace(new) => {
                        changed = true;
                        let info = record_batch::parse_header(&new).map_err(io::Error::other)?;
                        out.put(&info, &new)?;
                    }
                    Verdict::Drop => changed = true,
                }
            }
            self.stats.read_bytes += segment.size_bytes;
            ends.end(segment, index_of(&self.plan.directory, segment));
        }
        let bases: Vec<i64> = group.iter().map(|segment| segment.base_offset).collect();
        if !changed {
            drop(out);
            fs::remove_file(&path)?;
            return Ok(Some(CleanedGroup { bases, summary: None }));
        }
        let next_offset = group.last().map_or(base_offset, |segment| segment.next_offset);
        self.pace.spend(out.summary.size_bytes);
        let mut summary = out.finish()?;
        self.stats.written_bytes += summary.size_bytes;
        summary.next_offset = next_offset;
        let epochs = self.plan.epochs.iter().copied();
        summary.epochs = epochs.filter(|(_, start)| (base_offset..next_offset).contains(start)).collect();
        summary.producers = ends.producers.snapshot();
        summary.transactional = ends.transactions.snapshot();
        let here = |aborted: &&AbortedTransaction| {
            (base_offset..next_offset).contains(&aborted.last_offset)
                && !self.markers_gone.contains(&aborted.last_offset)
        };
        summary.aborted = self.plan.aborted.iter().filter(here).copied().collect();
        write_durably(&self.plan.directory.join(cleaned_index_name(base_offset)), &summary.encode())?;
        Ok(Some(CleanedGroup { bases, summary: Some(summary) }))
    }

    fn judge(&self, info: &BatchInfo, batch: &[u8], is_last: bool) -> Verdict {
        let is_producer_end = self.plan.producer_ends.get(&info.producer_id) == Some(&info.base_offset);
        let must_stay = is_last || is_producer_end;
        if info.base_offset >= self.clean_end {
            return Verdict::Copy;
        }
        if info.is_control() {
            return self.judge_marker(info, batch, is_last);
        }
        if self.is_aborted(info) && info.record_count > 0 {
            return if must_stay { Verdict::Replace(without_records(info)) } else { Verdict::Drop };
        }
        if info.record_count == 0 {
            return if must_stay { Verdict::Copy } else { Verdict::Drop };
        }
        let Ok(mut open) = OpenBatch::new(batch) else { return Verdict::Copy };
        let horizon = info.delete_horizon_ms();
        #[cfg(test)]
        let horizon = match crate::sim::planted(crate::sim::Canary::EarlyTombstone) {
            true => Some(i64::MIN),
            false => horizon,
        };
        let forget = self.safe_to_forget && horizon.is_some_and(|until| self.plan.now_ms >= until);
        let mut tombstones = false;
        loop {
            let record = match open.next_record() {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(_) => return Verdict::Copy,
            };
            if !self.stays(&record, forget) {
                continue;
            }
            tombstones |= record.is_tombstone;
            let handle = record.handle();
            open.keep(handle);
        }
        let kept = open.kept_count();
        if kept == 0 {
            return if must_stay { Verdict::Replace(without_records(info)) } else { Verdict::Drop };
        }
        let sets_horizon = tombstones && horizon.is_none() && info.last_offset() < self.clean_end;
        if kept == info.record_count as usize && !sets_horizon {
            return Verdict::Copy;
        }
        let horizon = sets_horizon.then_some(self.plan.horizon_ms);
        Verdict::Replace(open.build(horizon))
    }

    /// A marker outlives its transaction's batches by the time for which tombstones stay.
    fn judge_marker(&self, info: &BatchInfo, batch: &[u8], is_last: bool) -> Verdict {
        let needed = self.alive.contains(&info.producer_id) || !self.safe_to_forget;
        match info.delete_horizon_ms() {
            _ if needed => Verdict::Copy,
            Some(until) if self.plan.now_ms >= until && !is_last => Verdict::Drop,
            Some(_) => Verdict::Copy,
            None => with_horizon(batch, self.plan.horizon_ms).map_or(Verdict::Copy, Verdict::Replace),
        }
    }

    /// Keeps track of whose transaction has batches left.
    fn follow_transaction(&mut self, info: &BatchInfo, verdict: &Verdict) {
        if !info.is_transactional() {
            return;
        }
        let gone = matches!(verdict, Verdict::Drop);
        match (info.is_control(), gone) {
            (false, false) => drop(self.alive.insert(info.producer_id)),
            (false, true) => {}
            (true, gone) => {
                self.alive.remove(&info.producer_id);
                if gone {
                    self.markers_gone.insert(info.base_offset);
                }
            }
        }
    }

    fn stays(&self, record: &KeyedRecord<'_>, forget_tombstones: bool) -> bool {
        if record.offset >= self.clean_end {
            return true;
        }
        // A record without a key, from before the topic was compacted, has no last one.
        let Some(key) = record.key else { return false };
        let newest = self.map.last(key).is_none_or(|last| record.offset >= last);
        newest && !(record.is_tombstone && forget_tombstones)
    }
}

/// Notes the keys of one batch; the offset of the first record for which there was no room.
fn note_keys(map: &mut KeyMap, batch: &[u8], from: i64) -> Option<i64> {
    let mut open = OpenBatch::new(batch).ok()?;
    // What cannot be read stays in the log, and keeps nothing from it.
    while let Ok(Some(record)) = open.next_record() {
        if record.offset < from {
            continue;
        }
        let Some(key) = record.key else { continue };
        if map.note(key, record.offset).is_err() {
            return Some(record.offset);
        }
    }
    None
}

fn index_of(directory: &Path, segment: &CleanSegment) -> Option<SegmentSummary> {
    let bytes = fs::read(directory.join(index_file_name(segment.base_offset))).ok()?;
    SegmentSummary::decode(&bytes).ok().filter(|known| known.next_offset == segment.next_offset)
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A segment, batch by batch, each with its checksum verified.
struct SegmentFile {
    file: File,
    path: PathBuf,
    size_bytes: u64,
    window: Vec<u8>,
    window_start: u64,
    at: u64,
}

impl SegmentFile {
    fn open(segment: &CleanSegment) -> io::Result<SegmentFile> {
        let (path, size_bytes) = (segment.path.clone(), segment.size_bytes);
        Ok(SegmentFile {
            file: File::open(&path)?,
            path,
            size_bytes,
            window: Vec::new(),
            window_start: 0,
            at: 0,
        })
    }

    fn damaged(&self, what: impl std::fmt::Display) -> io::Error {
        let text = format!("{}: byte {}: {what}", self.path.display(), self.at);
        io::Error::new(io::ErrorKind::InvalidData, text)
    }

    /// Makes `[at, at + size)` part of the window.
    fn load(&mut self, size: usize, pace: &mut Pace) -> io::Result<()> {
        let end = self.at + size as u64;
        if end > self.size_bytes {
            return Err(self.damaged("the batch ends behind the segment"));
        }
        if end > self.window_start + self.window.len() as u64 || self.at < self.window_start {
            let want = (self.size_bytes - self.at).min(size.max(CLEANER_READ_BYTES) as u64) as usize;
            self.window.resize(want, 0);
            self.file.read_exact_at(&mut self.window, self.at)?;
            self.window_start = self.at;
            pace.spend(want as u64);
        }
        Ok(())
    }

    fn next(&mut self, pace: &mut Pace) -> io::Result<Option<(BatchInfo, &[u8])>> {
        if self.at == self.size_bytes {
            return Ok(None);
        }
        self.load(BATCH_HEADER_SIZE, pace)?;
        let from = (self.at - self.window_start) as usize;
        let info = record_batch::parse_header(&self.window[from..]).map_err(|error| self.damaged(error))?;
        self.load(info.size_bytes, pace)?;
        let from = (self.at - self.window_start) as usize;
        if !record_batch::crc_ok(&self.window[from..from + info.size_bytes]) {
            return Err(self.damaged("checksum mismatch"));
        }
        self.at += info.size_bytes as u64;
        Ok(Some((info, &self.window[from..from + info.size_bytes])))
    }
}

/// The file of a new segment, and what its index file will say.
struct Output {
    file: io::BufWriter<File>,
    unflushed_bytes: u64,
    summary: SegmentSummary,
}

impl Output {
    fn create(path: &Path) -> io::Result<Output> {
        let file = io::BufWriter::with_capacity(CLEANER_READ_BYTES, File::create(path)?);
        let summary = SegmentSummary { max_timestamp: -1, ..SegmentSummary::default() };
        Ok(Output { file, unflushed_bytes: 0, summary })
    }

    fn put(&mut self, info: &BatchInfo, batch: &[u8]) -> io::Result<()> {
        let summary = &mut self.summary;
        summary.index.note(info.base_offset, summary.size_bytes, summary.max_timestamp);
        summary.max_timestamp = summary.max_timestamp.max(info.max_timestamp);
        summary.size_bytes += batch.len() as u64;
        self.file.write_all(batch)?;
        self.unflushed_bytes += batch.len() as u64;
        if self.unflushed_bytes >= CLEANER_FLUSH_BYTES {
            self.unflushed_bytes = 0;
            self.file.flush()?;
            self.file.get_ref().sync_data()?;
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<SegmentSummary> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        Ok(self.summary)
    }
}
