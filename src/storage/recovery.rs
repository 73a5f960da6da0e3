//! What a start finds on disk, and what it makes of it.
//!
//! Owner: the core that will own the partition; runs blocking, before the core serves anybody.
//! Invariants: sealed segments with a valid index file are not read; everything else is scanned and a
//! batch is accepted only with the expected base offset, a leader epoch not below the topic's first, and a CRC that
//! matches. That keeps out stale batches of recycled files (see `segment_pool`); what a cut leaves behind is taken
//! off the file, so that the next append cannot line up with it. Apart from that a leader epoch, which no CRC covers,
//! decides nothing: where it falls or is newer than the catalog's, it is damaged, and the batch is kept and reported.
//! A torn tail is cut; bytes that are cut although valid batches follow are saved beside the log and
//! reported, whole segments too, if what is missing lies at the end of the one before; damage further inside than
//! any write in flight could reach is kept as a hole and reported.
//! What was scanned is flushed. It must not delete anything that it has not saved.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::compaction_recover::finish_swaps;
use super::disk_dma::{data_end, remove_if_there, sync_directory};
use super::index::{Damage, SegmentIndex, SegmentSummary};
use super::marks::Marks;
use super::producers::Producers;
use super::segment::{Segment, index_file_name};
use super::tail::block_floor;
use super::transactions::Transactions;
use crate::fs::{self, File, FileExt};
use crate::limits::PARTITION_BACKLOG_BYTES_MAX;
use crate::wire::control_batch::{self, Marker};
use crate::wire::record_batch::{self, BATCH_HEADER_SIZE, BatchInfo, TimestampType};

/// Bytes read at a time by a scan.
const SCAN_WINDOW_BYTES: usize = 4 << 20;

/// The leader epochs that the catalog knows of a partition: no batch has one outside of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reign {
    /// The first epoch of the topic; intact batches of lower ones are another life's, left in a recycled file.
    pub first_epoch: i32,
    /// The epoch now.
    pub last_epoch: i32,
}

/// The smallest piece of a write that reaches the disk whole or not at all.
const SECTOR_BYTES: u64 = 512;

/// Bytes of a batch before its magic byte, which no checksum covers: offset, length and leader epoch.
const UNCHECKED_BYTES: u64 = 16;

/// Where the checksum in a batch's header ends.
const CRC_END: u64 = 21;

/// What recovery hands to a log.
#[derive(Default)]
pub struct Recovered {
    /// The leader epochs that may occur.
    pub reign: Reign,
    /// Segments, oldest first; the last one is active.
    pub segments: VecDeque<Rc<Segment>>,
    /// First offset that can be read.
    pub log_start_offset: i64,
    /// Offset after the last record.
    pub log_end_offset: i64,
    /// Leader epochs and their first offsets.
    pub epochs: Vec<(i32, i64)>,
    /// Idempotent producers.
    pub producers: Producers,
    /// Transactions.
    pub transactions: Transactions,
    /// Bytes of the last, partly filled block.
    pub partial: Vec<u8>,
    /// Offsets that the segments do not tell.
    pub marks: Marks,
    /// The partition's directory is there.
    pub directory_exists: bool,
    /// What was wrong, in words, for the log.
    pub reports: Vec<String>,
}

/// What the clean-shutdown mark knows of the active segment: its base offset and its end.
pub type CleanMark<'a> = Option<(i64, &'a SegmentSummary)>;

struct Scan {
    summary: SegmentSummary,
    /// The summary was read, not made by a scan: its producer state is complete.
    from_file: bool,
    batches: Vec<Scanned>,
    reports: Vec<String>,
}

/// A batch of an idempotent or transactional producer, found by a scan.
struct Scanned {
    batch: BatchInfo,
    /// Position of its first byte in the segment file.
    position: u64,
    marker: Option<Marker>,
}

/// Loads the partition in `directory`, whose leader epochs in the catalog are `reign`.
pub fn recover(directory: &Path, clean: CleanMark<'_>, reign: Reign) -> io::Result<Recovered> {
    let mut reports = Vec::new();
    if fs::exists(directory) {
        finish_swaps(directory, &mut reports)?;
    }
    let recovered = loop {
        let mut recovered = Recovered { reign, ..Recovered::default() };
        match load(directory, clean, &mut recovered)? {
            Loaded::All => {
                recovered.reports.splice(..0, reports);
                break recovered;
            }
            // Ends: each time there are fewer segments.
            Loaded::SetAside(set_aside) => reports.extend(set_aside),
        }
    };
    for report in &recovered.reports {
        tracing::error!("{report}");
    }
    Ok(recovered)
}

enum Loaded {
    All,
    /// Segments were taken out of the log, for the reasons given. The last of those that are left is to be read anew,
    /// as the active one: its index file, which told where it ends, is gone, and no later start would believe it.
    SetAside(Vec<String>),
}

fn load(directory: &Path, clean: CleanMark<'_>, recovered: &mut Recovered) -> io::Result<Loaded> {
    if fs::exists(directory) {
        recovered.marks = Marks::read(directory)?.unwrap_or_else(|| {
            recovered.reports.push(format!("{}: marks are damaged; taken for none", directory.display()));
            Marks::default()
        });
    }
    let mut bases = match list_segments(directory) {
        Ok(bases) => bases,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::All),
        Err(error) => return Err(error),
    };
    recovered.directory_exists = true;
    if clean.is_none() {
        // A killed process may have renamed segments without making their names durable, and from here on what is in
        // them counts as flushed.
        sync_directory(directory)?;
    }
    bases.sort_unstable();
    remove_deleted(directory, &mut bases, recovered.marks.log_start)?;
    let mut expected: Option<i64> = None;
    let mut position = 0;
    let last = bases.len().saturating_sub(1);
    for (at, (base_offset, path)) in bases.iter().enumerate() {
        let scan = load_segment(directory, *base_offset, path, at == last, clean, recovered)?;
        let known_end = expected.unwrap_or(*base_offset);
        if known_end != *base_offset {
            if in_flight_at_most(directory, &bases[at..], clean, recovered)? {
                return Ok(Loaded::SetAside(set_aside(directory, &bases[at..], recovered)?));
            }
            recovered.reports.push(format!(
                "{}: offsets {known_end}..{base_offset} are missing before this segment",
                path.display()
            ));
        }
        let segment = Segment::new(*base_offset, position, path.clone(), None);
        segment.adopt(&scan.summary);
        segment.sealed.set(at != last);
        let created_ms = created_ms(path);
        segment.created_ms.set(created_ms);
        // (A clock that was ahead when the file was made must not keep it open for ever.)
        segment.opened_ms.set(created_ms.min(crate::rt::steady_ms()));
        let file_size = fs::metadata(path)?.len();
        segment.allocated_bytes.set(block_floor(file_size).max(block_floor(scan.summary.size_bytes)));
        position = super::tail::block_ceil(segment.end_position());
        expected = Some(scan.summary.next_offset);
        recovered.segments.push_back(Rc::new(segment));
        recovered.take(&scan);
    }
    if let (Some(first), Some(active)) = (recovered.segments.front(), recovered.segments.back()) {
        recovered.log_end_offset = active.next_offset.get();
        recovered.log_start_offset =
            first.base_offset.max(recovered.marks.log_start.min(recovered.log_end_offset));
        recovered.partial = last_block(active)?;
    }
    Ok(Loaded::All)
}

/// Removes segments that lie wholly below the log start: retention or DeleteRecords has deleted them, in any order, and
/// a crash came before all files were gone.
fn remove_deleted(directory: &Path, bases: &mut Vec<(i64, PathBuf)>, log_start: i64) -> io::Result<()> {
    let gone = bases.windows(2).take_while(|pair| pair[1].0 <= log_start).count();
    for (base_offset, path) in bases.drain(..gone) {
        remove_if_there(&path)?;
        remove_if_there(&directory.join(index_file_name(base_offset)))?;
    }
    Ok(())
}

/// Whether all batches of `segments`, which begin behind a gap, fit into what can be in flight. Writes to a new
/// segment may reach the disk before the last ones to the old segment; a batch is acknowledged only when all before
/// it are there, so what lies behind the gap then is not.
fn in_flight_at_most(
    directory: &Path,
    segments: &[(i64, PathBuf)],
    clean: CleanMark<'_>,
    so_far: &Recovered,
) -> io::Result<bool> {
    let mut bytes = 0;
    for (base_offset, path) in segments {
        bytes += load_segment(directory, *base_offset, path, false, clean, so_far)?.summary.size_bytes;
        if bytes > 2 * PARTITION_BACKLOG_BYTES_MAX {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Takes `segments` out of the log: their files stay, durably, under other names. The segment before them becomes the
/// active one. Returns what is to be said of it.
fn set_aside(directory: &Path, segments: &[(i64, PathBuf)], so_far: &Recovered) -> io::Result<Vec<String>> {
    let before = so_far.segments.back();
    let end = before.map_or(0, |segment| segment.next_offset.get());
    let mut reports = Vec::new();
    // The newest first: a second crash on the way leaves the gap where it was.
    for (base_offset, path) in segments.iter().rev() {
        let saved = path.with_extension("cut-0");
        fs::rename(path, &saved)?;
        remove_if_there(&directory.join(index_file_name(*base_offset)))?;
        reports.push(format!(
            "{}: begins at offset {base_offset}, but the log ends at {end}: what was written last did not all reach \
             the disk. It was never acknowledged and is kept as {}",
            path.display(),
            saved.display()
        ));
    }
    if let Some(active) = before {
        remove_if_there(&directory.join(index_file_name(active.base_offset)))?;
    }
    sync_directory(directory)?;
    Ok(reports)
}

impl Recovered {
    fn take(&mut self, scan: &Scan) {
        for (epoch, start) in &scan.summary.epochs {
            if self.epochs.last().is_none_or(|(known, _)| known < epoch) {
                self.epochs.push((*epoch, *start));
            }
        }
        if scan.from_file {
            self.producers = Producers::restore(&scan.summary.producers);
            let (aborted, producers) = (&scan.summary.aborted, &scan.summary.transactional);
            let segments = &self.segments;
            self.transactions.adopt(aborted, producers, |offset| position_of(segments, offset));
        }
        let base_position = self.segments.back().map_or(0, |segment| segment.base_position);
        for Scanned { batch, position, marker } in &scan.batches {
            let stamp =
                if batch.timestamp_type() == TimestampType::LogAppendTime { batch.max_timestamp } else { -1 };
            self.producers.note(batch, batch.base_offset, stamp, crate::rt::wall_ms());
            if batch.is_transactional() {
                self.transactions.note(batch, batch.base_offset, base_position + position, *marker);
            }
        }
        if let Some(segment) = self.segments.back() {
            self.transactions.settle(segment.next_offset.get());
        }
        self.reports.extend(scan.reports.iter().cloned());
    }
}

/// Log position of the batch that begins at `offset`; 0 if it is not there any more.
fn position_of(segments: &VecDeque<Rc<Segment>>, offset: i64) -> u64 {
    let after = segments.partition_point(|segment| segment.base_offset <= offset);
    let Some(segment) = after.checked_sub(1).map(|at| &segments[at]) else { return 0 };
    let from = segment.index.borrow().floor_offset(offset).map_or(0, |entry| entry.position);
    let Ok(file) = File::open(segment.path()) else { return 0 };
    let mut at = from;
    let mut header = [0; BATCH_HEADER_SIZE];
    while at < segment.size_bytes.get() && file.read_exact_at(&mut header, at).is_ok() {
        let Ok(batch) = record_batch::parse_header(&header) else { return 0 };
        if batch.base_offset >= offset {
            return segment.base_position + at;
        }
        at += batch.size_bytes as u64;
    }
    0
}

fn list_segments(directory: &Path) -> io::Result<Vec<(i64, PathBuf)>> {
    let mut bases = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let base = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_suffix(".log"))
            .and_then(|stem| stem.parse::<i64>().ok());
        if let Some(base) = base {
            bases.push((base, path));
        }
    }
    Ok(bases)
}

fn created_ms(path: &Path) -> i64 {
    fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .ok()
        .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
        .map_or(0, |since| since.as_millis() as i64)
}

fn load_segment(
    directory: &Path,
    base_offset: i64,
    path: &Path,
    is_last: bool,
    clean: CleanMark<'_>,
    so_far: &Recovered,
) -> io::Result<Scan> {
    let file = File::options().read(true).write(true).open(path)?;
    let file_size = file.metadata()?.len();
    if is_last && let Some((_, summary)) = clean.filter(|(base, _)| *base == base_offset) {
        return Ok(Scan {
            summary: summary.clone(),
            from_file: true,
            batches: Vec::new(),
            reports: Vec::new(),
        });
    }
    let index_path = directory.join(index_file_name(base_offset));
    if is_last {
        // Appends may have followed what it describes, and will. It must not come back with a power loss: the log would
        // end where it says, before batches that were acknowledged since.
        if fs::exists(&index_path) {
            remove_if_there(&index_path)?;
            sync_directory(directory)?;
        }
    }
    let indexed = fs::read(&index_path)
        .ok()
        .and_then(|bytes| SegmentSummary::decode(&bytes).ok())
        .filter(|summary| summary.size_bytes <= file_size);
    if let Some(summary) = indexed {
        return Ok(Scan { summary, from_file: true, batches: Vec::new(), reports: Vec::new() });
    }
    let epoch_floor = so_far.epochs.last().map_or(-1, |(epoch, _)| *epoch);
    let mut scanner = Scanner::new(&file, data_end(&file)?, path, base_offset, epoch_floor, so_far.reign);
    // Compaction leaves gaps; it never touches the last segment.
    scanner.gaps = !is_last && base_offset < so_far.marks.gaps_end;
    scanner.run()?;
    // What a killed process wrote need not be flushed, and from here on it counts as flushed: a producer that
    // repeats a batch with acks=all is told at once that it is there.
    file.sync_all()?;
    Ok(scanner.finish())
}

fn last_block(active: &Segment) -> io::Result<Vec<u8>> {
    let size = active.size_bytes.get();
    let from = block_floor(size);
    let mut bytes = vec![0; (size - from) as usize];
    if !bytes.is_empty() {
        File::open(active.path())?.read_exact_at(&mut bytes, from)?;
    }
    Ok(bytes)
}

/// Reads one segment file batch by batch and checks every byte.
struct Scanner<'a> {
    file: &'a File,
    file_size: u64,
    path: &'a Path,
    window: Vec<u8>,
    window_start: u64,
    position: u64,
    expected_offset: i64,
    /// Offsets may be missing between batches.
    gaps: bool,
    epoch_floor: i32,
    reign: Reign,
    epochs: Vec<(i32, i64)>,
    index: SegmentIndex,
    max_timestamp: i64,
    batches: Vec<Scanned>,
    reports: Vec<String>,
    epoch_reported: bool,
}

impl<'a> Scanner<'a> {
    fn new(
        file: &'a File,
        file_size: u64,
        path: &'a Path,
        base_offset: i64,
        epoch_floor: i32,
        reign: Reign,
    ) -> Scanner<'a> {
        Scanner {
            file,
            file_size,
            path,
            window: Vec::new(),
            window_start: 0,
            position: 0,
            expected_offset: base_offset,
            gaps: false,
            epoch_floor,
            reign,
            epochs: Vec::new(),
            index: SegmentIndex::default(),
            max_timestamp: -1,
            batches: Vec::new(),
            reports: Vec::new(),
            epoch_reported: false,
        }
    }

    /// Bytes `[at, at + size)`, fewer at the end of the file.
    fn bytes(&mut self, at: u64, size: usize) -> io::Result<&[u8]> {
        let end = (at + size as u64).min(self.file_size);
        let inside = at >= self.window_start && end <= self.window_start + self.window.len() as u64;
        if !inside {
            let want = (self.file_size - at).min(size.max(SCAN_WINDOW_BYTES) as u64) as usize;
            self.window.resize(want, 0);
            self.file.read_exact_at(&mut self.window, at)?;
            self.window_start = at;
        }
        let from = (at - self.window_start) as usize;
        Ok(&self.window[from..from + (end.saturating_sub(at)) as usize])
    }

    /// The batch at `at` if it is whole and intact, whatever its offset.
    fn batch_at(&mut self, at: u64) -> io::Result<Option<BatchInfo>> {
        if at + BATCH_HEADER_SIZE as u64 > self.file_size {
            return Ok(None);
        }
        let Ok(batch) = record_batch::parse_header(self.bytes(at, BATCH_HEADER_SIZE)?) else {
            return Ok(None);
        };
        let size = batch.size_bytes;
        if at + size as u64 > self.file_size {
            return Ok(None);
        }
        let bytes = self.bytes(at, size)?;
        Ok((bytes.len() == size && record_batch::crc_ok(bytes)).then_some(batch))
    }

    /// Whether an intact batch was written for this log. (In topics from before first epochs were kept, whatever its
    /// epoch: their files were recycled by offsets alone.)
    fn is_ours(&self, batch: &BatchInfo) -> bool {
        self.reign.first_epoch == 0 || batch.leader_epoch >= self.reign.first_epoch
    }

    fn accepts(&self, batch: &BatchInfo) -> bool {
        #[cfg(test)]
        if crate::sim::planted(crate::sim::Canary::StaleBatches) {
            return true;
        }
        let in_place = batch.base_offset == self.expected_offset
            || self.gaps && batch.base_offset > self.expected_offset;
        in_place && self.is_ours(batch)
    }

    /// Whether an intact batch was written for this log behind the place that is expected next.
    fn is_ahead(&self, batch: &BatchInfo) -> bool {
        batch.base_offset > self.expected_offset && self.is_ours(batch)
    }

    /// Whether `batch`, at the present position, has its first bytes from a write of this log and the rest from
    /// another life of the file. What we patch (offset and epoch) lies before the CRC and is not covered by it: where
    /// a sector ends in between, and only that sector was written, an old batch of the same place and size seems to
    /// be ours. Its last sector then is old as well, so that what follows in it is no batch of ours and no padding.
    fn is_chimera(&mut self, batch: &BatchInfo) -> io::Result<bool> {
        let to_boundary = |at: u64| SECTOR_BYTES - at % SECTOR_BYTES;
        let end = self.position + batch.size_bytes as u64;
        let room = to_boundary(end) % SECTOR_BYTES;
        if to_boundary(self.position) >= CRC_END
            || room < UNCHECKED_BYTES
            || end + UNCHECKED_BYTES > self.file_size
        {
            return Ok(false);
        }
        let reign = self.reign;
        let follows = self.bytes(end, UNCHECKED_BYTES as usize)?;
        let padding = follows.iter().all(|byte| *byte == 0);
        let offset = follows.first_chunk().map(|bytes| i64::from_be_bytes(*bytes));
        let epoch = follows.last_chunk().map(|bytes| i32::from_be_bytes(*bytes));
        let next = offset == Some(batch.next_offset()) || self.gaps && offset > Some(batch.next_offset());
        let ours = next && epoch >= Some(reign.first_epoch);
        Ok(!padding && !ours)
    }

    fn accept(&mut self, mut batch: BatchInfo) -> io::Result<()> {
        let position = self.position;
        if batch.producer_id >= 0 {
            let control = batch.is_control() && batch.is_transactional();
            let marker =
                if control { control_batch::parse(self.bytes(position, batch.size_bytes)?) } else { None };
            self.batches.push(Scanned { batch, position, marker });
        }
        if !(self.epoch_floor..=self.reign.last_epoch).contains(&batch.leader_epoch) {
            self.report_epoch(&batch);
            batch.leader_epoch = self.epoch_floor;
        }
        self.index.note(batch.base_offset, self.position, self.max_timestamp);
        if batch.leader_epoch > self.epoch_floor || self.epochs.is_empty() && self.epoch_floor < 0 {
            self.epochs.push((batch.leader_epoch, batch.base_offset));
        }
        self.epoch_floor = self.epoch_floor.max(batch.leader_epoch);
        self.max_timestamp = self.max_timestamp.max(batch.max_timestamp);
        self.expected_offset = batch.next_offset();
        self.position += batch.size_bytes as u64;
        Ok(())
    }

    /// One report for a run of batches: after a damaged epoch that rose, all that follow seem to fall.
    fn report_epoch(&mut self, batch: &BatchInfo) {
        if self.epoch_reported {
            return;
        }
        self.epoch_reported = true;
        self.reports.push(format!(
            "{}: leader epoch {} at byte {} (offset {}) is not within {}..={}: an epoch is damaged there or before",
            self.path.display(),
            batch.leader_epoch,
            self.position,
            batch.base_offset,
            self.epoch_floor,
            self.reign.last_epoch
        ));
    }

    fn run(&mut self) -> io::Result<()> {
        loop {
            let mut chimera = false;
            while let Some(batch) = self.batch_at(self.position)?.filter(|batch| self.accepts(batch)) {
                // (A segment that may have gaps was sealed, and so flushed: no write of it is torn.)
                chimera = !self.gaps && self.is_chimera(&batch)?;
                if chimera {
                    break;
                }
                self.accept(batch)?;
            }
            if !self.step_over_damage(chimera)? {
                return Ok(());
            }
        }
    }

    /// At the first byte that is no acceptable batch: tells a torn tail from damage inside the log.
    fn step_over_damage(&mut self, chimera: bool) -> io::Result<bool> {
        let Some((found, batch)) = self.next_valid(self.position + 1)? else {
            if chimera {
                self.cut()?;
            }
            return Ok(false);
        };
        let gap = found - self.position;
        let path = self.path.display();
        let (from, next) = (self.expected_offset, batch.base_offset);
        if gap <= PARTITION_BACKLOG_BYTES_MAX && self.ends_within_backlog(found)? {
            // Writes in flight may reach the disk out of order; none of what follows was acknowledged.
            self.cut()?;
            return Ok(false);
        }
        self.reports.push(format!(
            "{path}: bytes {}..{found} are damaged: offsets {from}..{next} cannot be read",
            self.position
        ));
        self.index.note_damage(Damage {
            offset_start: from,
            offset_end: next,
            position_start: self.position,
            position_end: found,
        });
        self.position = found;
        self.expected_offset = next;
        Ok(true)
    }

    /// The next intact batch of this log at or behind `from`, with a higher offset than the one expected.
    fn next_valid(&mut self, from: u64) -> io::Result<Option<(u64, BatchInfo)>> {
        let mut at = from;
        while at + BATCH_HEADER_SIZE as u64 <= self.file_size {
            // What is left of the window, so that every byte is read about once.
            let left = (self.window_start + self.window.len() as u64).saturating_sub(at) as usize;
            let inside = at >= self.window_start && left >= BATCH_HEADER_SIZE;
            let size = if inside { left } else { SCAN_WINDOW_BYTES.min((self.file_size - at) as usize) };
            let window = self.bytes(at, size)?;
            // The magic byte lies 16 bytes into a batch; zeros are skipped fast.
            let candidate = window.iter().skip(16).position(|byte| *byte == 2);
            let Some(offset) = candidate else {
                at += (window.len() - 16).max(1) as u64;
                continue;
            };
            at += offset as u64;
            match self.batch_at(at)? {
                Some(batch) if self.is_ahead(&batch) => return Ok(Some((at, batch))),
                // Nothing was written into it since it was whole.
                Some(batch) => at += batch.size_bytes as u64,
                None => at += 1,
            }
        }
        Ok(None)
    }

    /// Whether all valid batches from `found` on, more damage between them or not, end within the bytes that can
    /// be in flight.
    fn ends_within_backlog(&mut self, found: u64) -> io::Result<bool> {
        let mut at = found;
        while at <= self.position + 2 * PARTITION_BACKLOG_BYTES_MAX {
            // Stale batches of a recycled file prove nothing.
            match self.batch_at(at)?.filter(|batch| self.is_ahead(batch)) {
                Some(batch) => at += batch.size_bytes as u64,
                None => match self.next_valid(at + 1)? {
                    Some((next, _)) => at = next,
                    None => return Ok(true),
                },
            }
        }
        Ok(false)
    }

    fn cut(&mut self) -> io::Result<()> {
        let saved = self.save_cut()?;
        self.reports.push(format!(
            "{}: cut at byte {} (offset {}): the batch there is torn; later bytes were saved to {}",
            self.path.display(),
            self.position,
            self.expected_offset,
            saved.display()
        ));
        // A later append could end exactly where one of the old batches begins.
        self.file.set_len(self.position)
    }

    fn save_cut(&mut self) -> io::Result<PathBuf> {
        let path = self.path.with_extension(format!("cut-{}", self.position));
        let size = (self.file_size - self.position).min(2 * PARTITION_BACKLOG_BYTES_MAX) as usize;
        let at = self.position;
        let bytes = self.bytes(at, size)?.to_vec();
        let mut saved = File::create(&path)?;
        saved.write_all(&bytes)?;
        saved.sync_all()?;
        Ok(path)
    }

    fn finish(self) -> Scan {
        Scan {
            summary: SegmentSummary {
                size_bytes: self.position,
                next_offset: self.expected_offset,
                max_timestamp: self.max_timestamp,
                index: self.index,
                epochs: self.epochs,
                producers: Vec::new(),
                aborted: Vec::new(),
                transactional: Vec::new(),
            },
            from_file: false,
            batches: self.batches,
            reports: self.reports,
        }
    }
}
