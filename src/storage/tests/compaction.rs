//! Compaction of seeded random logs, held against a model: every record that should be there is, at its offset and
//! with its bytes, and none that should not; after a crash at every step of every swap as well.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::random::Random;
use crate::maps::HashMap;
use crate::storage::compaction_map::KeyMap;
use crate::storage::compaction_recover::{Rename, finish_swaps, swap_steps};
use crate::storage::compaction_rewrite::{CleanPlan, CleanSegment, CleanedGroup, Pace, run};
use crate::storage::index::SegmentSummary;
use crate::storage::marks::{MARKS_FILE, Marks};
use crate::storage::recovery::{Recovered, Reign, recover};
use crate::storage::segment::{file_name, index_file_name};
use crate::storage::transactions::AbortedTransaction;
use crate::wire::batch_builder::BatchBuilder;
use crate::wire::batch_filter::OpenBatch;
use crate::wire::control_batch::{self, Marker};
use crate::wire::record_batch::{self, Compression};

const LOGS: u64 = 40;
const PASSES: usize = 4;
const DELETE_RETENTION_MS: i64 = 1_000;
const SEGMENT_BYTES: u64 = 6_000;
const START_MS: i64 = 1_700_000_000_000;

/// One record: key, value or a tombstone, timestamp.
type Record = (Vec<u8>, Option<Vec<u8>>, i64);

/// The log as it was written, and what compaction may have done to it.
#[derive(Default)]
struct Model {
    written: BTreeMap<i64, Record>,
    /// When a pass first covered a tombstone: from then on its retention counts.
    covered_ms: HashMap<i64, i64>,
    clean_end: i64,
    end: i64,
    producer_ends: HashMap<i64, i64>,
}

impl Model {
    fn note_pass(&mut self, clean_end: i64, now_ms: i64) {
        self.clean_end = self.clean_end.max(clean_end);
        for (offset, record) in self.written.range(..self.clean_end) {
            if record.1.is_none() {
                self.covered_ms.entry(*offset).or_insert(now_ms);
            }
        }
    }

    /// `clean_end`: what passes may have covered; `strict`: the last of them has ended, so that older records are gone.
    fn check(&self, found: &BTreeMap<i64, Record>, clean_end: i64, now_ms: i64, strict: bool, context: &str) {
        for (offset, record) in found {
            assert_eq!(self.written.get(offset), Some(record), "{context}: offset {offset}");
        }
        let mut last: HashMap<&[u8], i64> = HashMap::default();
        for (offset, record) in self.written.range(..clean_end) {
            last.insert(&record.0, *offset);
        }
        for (offset, record) in &self.written {
            let latest = *offset >= clean_end || last[&record.0[..]] == *offset;
            let forgotten = self.covered_ms.get(offset).is_some_and(|at| now_ms >= at + DELETE_RETENTION_MS);
            if latest && !forgotten {
                assert!(found.contains_key(offset), "{context}: offset {offset} is gone");
            }
            if !latest && strict {
                assert!(!found.contains_key(offset), "{context}: offset {offset} is still there");
            }
            if !latest && found.contains_key(offset) {
                // What replaced it must be there too: nothing comes to life again.
                assert!(
                    found.range(offset + 1..).any(|(_, later)| later.0 == record.0),
                    "{context}: {offset}"
                );
            }
        }
    }
}

fn codec(random: &mut Random) -> Compression {
    [
        Compression::None,
        Compression::None,
        Compression::Gzip,
        Compression::Lz4,
        Compression::Snappy,
        Compression::Zstd,
    ][random.below(6) as usize]
}

/// Appends a segment of random batches to the directory and the model.
fn write_segment(directory: &Path, model: &mut Model, keys: u64, random: &mut Random) {
    let base = model.end;
    let mut bytes = Vec::new();
    let mut summary = SegmentSummary { max_timestamp: -1, ..SegmentSummary::default() };
    while bytes.len() < SEGMENT_BYTES as usize / (1 + random.below(4) as usize) {
        let mut batch = BatchBuilder::new().base_offset(model.end).leader_epoch(0).compression(codec(random));
        let producer = random.below(6) as i64;
        if producer < 3 {
            batch = batch.producer(producer, 0, model.end as i32);
            model.producer_ends.insert(producer, model.end);
        }
        for number in 0..1 + random.below(6) as i64 {
            let key = format!("key-{}", random.below(keys)).into_bytes();
            let value =
                (random.below(5) > 0).then(|| vec![random.below(256) as u8; random.below(200) as usize]);
            let timestamp = START_MS + random.below(1_000) as i64;
            batch = batch.record(timestamp, Some(&key), value.as_deref());
            model.written.insert(model.end + number, (key, value, timestamp));
        }
        let batch = batch.build();
        let info = record_batch::parse_header(&batch).expect("a batch");
        summary.index.note(info.base_offset, bytes.len() as u64, summary.max_timestamp);
        summary.max_timestamp = summary.max_timestamp.max(info.max_timestamp);
        model.end = info.next_offset();
        bytes.extend_from_slice(&batch);
    }
    summary.size_bytes = bytes.len() as u64;
    summary.next_offset = model.end;
    fs::write(directory.join(file_name(base)), &bytes).expect("a segment");
    if random.below(4) > 0 {
        fs::write(directory.join(index_file_name(base)), summary.encode()).expect("an index file");
    }
}

/// All records that recovery serves, in order; checks what an index file promises of each segment.
fn records_of(recovered: &Recovered) -> BTreeMap<i64, Record> {
    assert_eq!(recovered.reports, Vec::<String>::new());
    let mut found = BTreeMap::new();
    let mut expected = None;
    for segment in &recovered.segments {
        assert_eq!(
            segment.base_offset,
            expected.unwrap_or(segment.base_offset),
            "segments follow each other"
        );
        let bytes = fs::read(segment.path()).expect("a segment");
        assert!(bytes.len() as u64 >= segment.size_bytes.get());
        let (mut at, mut next) = (0, segment.base_offset);
        let mut newest = -1;
        while at < segment.size_bytes.get() as usize {
            let info = record_batch::parse_whole(&bytes[at..]).expect("an intact batch");
            assert!(info.base_offset >= next, "offsets rise");
            let floor = segment.index.borrow().floor_offset(info.base_offset).expect("an entry");
            assert!(floor.position <= at as u64);
            let mut open = OpenBatch::new(&bytes[at..]).expect("records");
            while let Some(record) = open.next_record().expect("a record") {
                newest = newest.max(record.timestamp_ms);
                let value = (!record.is_tombstone).then(|| value_at(&bytes[at..], record.offset));
                let key = record.key.expect("a key").to_vec();
                assert!(found.insert(record.offset, (key, value, record.timestamp_ms)).is_none(), "once");
            }
            (at, next) = (at + info.size_bytes, info.next_offset());
        }
        assert_eq!((next, newest), (segment.next_offset.get(), segment.max_timestamp.get()));
        expected = Some(next);
    }
    found
}

/// The value of one record: the filter itself never looks at values.
fn value_at(batch: &[u8], offset: i64) -> Vec<u8> {
    let info = record_batch::parse_header(batch).expect("a batch");
    let mut open = OpenBatch::new(batch).expect("records");
    while let Some(record) = open.next_record().expect("a record") {
        let handle = record.handle();
        if record.offset == offset {
            open.keep(handle);
        }
    }
    let alone = OpenBatch::new(&open.build(None)).expect("one record");
    let raw = alone.raw_bytes();
    // length, attributes, timestamp, offset, key; then the value's length, the value, no headers.
    let mut at = 0;
    let varint = |at: &mut usize| {
        let (mut value, mut shift) = (0u64, 0);
        loop {
            let byte = raw[*at];
            *at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return (value >> 1) as i64 ^ -((value & 1) as i64);
            }
        }
    };
    varint(&mut at);
    at += 1;
    varint(&mut at);
    assert_eq!(varint(&mut at), offset - info.base_offset);
    at += varint(&mut at) as usize;
    let size = varint(&mut at) as usize;
    raw[at..at + size].to_vec()
}

fn plan(directory: &Path, model: &Model, now_ms: i64) -> CleanPlan {
    let recovered = recover(directory, None, Reign::default()).expect("recovery");
    let sealed = recovered.segments.len().saturating_sub(1);
    let segments = recovered.segments.iter().take(sealed).map(|segment| CleanSegment {
        base_offset: segment.base_offset,
        next_offset: segment.next_offset.get(),
        size_bytes: segment.size_bytes.get(),
        path: segment.path(),
        damaged: false,
    });
    CleanPlan {
        directory: directory.to_owned(),
        segments: segments.collect(),
        dirty_from: model.clean_end,
        segment_bytes: SEGMENT_BYTES,
        now_ms,
        horizon_ms: now_ms + DELETE_RETENTION_MS,
        producer_ends: model.producer_ends.clone(),
        epochs: vec![(0, 0)],
        aborted: Vec::new(),
    }
}

fn write_marks(directory: &Path, marks: Marks) {
    fs::write(directory.join(MARKS_FILE), marks.encode()).expect("marks");
}

fn apply(step: &Rename) {
    fs::rename(&step.from, &step.to).expect("a rename");
}

/// A copy of the directory as a crash would leave it here; recovered, it must be the old or the new state.
fn check_crash(directory: &Path, model: &Model, clean_end: i64, now_ms: i64, context: &str) {
    let image = tempfile::tempdir().expect("a directory");
    for entry in fs::read_dir(directory).expect("the log") {
        let path = entry.expect("entry").path();
        fs::copy(&path, image.path().join(path.file_name().expect("a name"))).expect("a copy");
    }
    for _ in 0..2 {
        let recovered = recover(image.path(), None, Reign::default()).expect("recovery");
        model.check(&records_of(&recovered), clean_end, now_ms, false, context);
    }
    let left = fs::read_dir(image.path()).expect("the log").filter(|entry| {
        let name = entry.as_ref().expect("entry").file_name().into_string().expect("a name");
        name.contains("cleaned") || name.contains("retired") || name.contains("swap")
    });
    assert_eq!(left.count(), 0, "{context}: leftovers");
}

fn one_log(seed: u64, map_bytes: u64, keys: u64, crashes: bool) {
    let mut random = Random(seed);
    let directory = tempfile::tempdir().expect("a directory");
    let mut model = Model::default();
    let mut now_ms = START_MS + 10_000;
    for pass in 0..PASSES {
        for _ in 0..2 + random.below(5) {
            write_segment(directory.path(), &mut model, keys, &mut random);
        }
        now_ms += random.below(2 * DELETE_RETENTION_MS as u64) as i64;
        let plan = plan(directory.path(), &model, now_ms);
        let gaps_end = plan.segments.last().map_or(0, |segment| segment.next_offset);
        let mut swaps = 0;
        let mut hand_over = |group: Option<CleanedGroup>| {
            let Some(group) = group.filter(|group| group.summary.is_some()) else { return true };
            let context = format!("seed {seed}, pass {pass}, swap {swaps}");
            write_marks(directory.path(), Marks { clean_end: model.clean_end, gaps_end, log_start: 0 });
            for (number, step) in swap_steps(directory.path(), &group.bases, swaps).iter().enumerate() {
                if crashes {
                    check_crash(
                        directory.path(),
                        &model,
                        gaps_end,
                        now_ms,
                        &format!("{context}, before step {number}"),
                    );
                }
                apply(step);
            }
            if crashes {
                check_crash(directory.path(), &model, gaps_end, now_ms, &format!("{context}, done"));
            }
            swaps += 1;
            true
        };
        let keys_max = (model.end - plan.dirty_from) as u64;
        let map = KeyMap::new(map_bytes, 90, keys_max);
        let stats = run(&plan, map, &mut Pace::new(f64::MAX), &mut hand_over).expect("a pass");
        assert!(stats.clean_end > model.clean_end, "a pass gets on");
        finish_swaps(directory.path(), &mut Vec::new()).expect("leftovers");
        model.note_pass(stats.clean_end, now_ms);
        write_marks(directory.path(), Marks { clean_end: model.clean_end, gaps_end, log_start: 0 });
        let recovered = recover(directory.path(), None, Reign::default()).expect("recovery");
        let found = records_of(&recovered);
        model.check(&found, model.clean_end, now_ms, true, &format!("seed {seed}, pass {pass}"));
        // Without index files, a scan must come to the same.
        for segment in &recovered.segments {
            if random.below(2) == 0 {
                let _ = fs::remove_file(directory.path().join(index_file_name(segment.base_offset)));
            }
        }
        assert_eq!(records_of(&recover(directory.path(), None, Reign::default()).expect("a scan")), found);
    }
}

#[test]
fn compacted_logs_hold_the_latest_value_of_every_key() {
    for seed in 0..LOGS {
        one_log(seed, 1 << 20, 1 + seed * 3, false);
    }
}

#[test]
fn a_small_map_compacts_in_several_passes() {
    for seed in 0..4 {
        one_log(1_000 + seed, 0, 5_000, false);
    }
}

#[test]
fn a_crash_at_any_step_of_a_swap_leaves_the_old_or_the_new_state() {
    for seed in 0..2 {
        one_log(2_000 + seed, 1 << 20, 20, true);
    }
}

#[test]
fn a_damaged_swap_is_undone_or_scanned() {
    for stop in 1..6 {
        let mut random = Random(7);
        let directory = tempfile::tempdir().expect("a directory");
        let mut model = Model::default();
        for _ in 0..4 {
            write_segment(directory.path(), &mut model, 9, &mut random);
        }
        let plan = plan(directory.path(), &model, START_MS);
        let gaps_end = plan.segments.last().map_or(0, |segment| segment.next_offset);
        write_marks(directory.path(), Marks { gaps_end, ..Marks::default() });
        let mut swapped = false;
        let mut hand_over = |group: Option<CleanedGroup>| {
            let Some(group) = group.filter(|_| !swapped) else { return !swapped };
            swapped = true;
            let steps = swap_steps(directory.path(), &group.bases, 0);
            steps.iter().take(stop).for_each(apply);
            let swap = &steps[0].to;
            if let Ok(mut bytes) = fs::read(swap) {
                bytes[9] ^= 1;
                fs::write(swap, bytes).expect("damage");
            }
            true
        };
        let map = KeyMap::new(1 << 20, 90, model.end as u64);
        run(&plan, map, &mut Pace::new(f64::MAX), &mut hand_over).expect_err("the process ends here");
        let mut recovered = recover(directory.path(), None, Reign::default()).expect("recovery");
        recovered.reports.retain(|report| !report.contains("scanned instead"));
        model.check(&records_of(&recovered), gaps_end, START_MS, false, &format!("damaged at step {stop}"));
    }
}

#[test]
fn damage_ends_a_pass_and_changes_nothing() {
    let mut random = Random(11);
    let directory = tempfile::tempdir().expect("a directory");
    let mut model = Model::default();
    for _ in 0..3 {
        write_segment(directory.path(), &mut model, 5, &mut random);
    }
    let plan = plan(directory.path(), &model, START_MS);
    let path = directory.path().join(file_name(plan.segments[1].base_offset));
    let mut bytes = fs::read(&path).expect("a segment");
    bytes[100] ^= 1;
    fs::write(&path, bytes).expect("damage");
    let map = KeyMap::new(1 << 20, 90, model.end as u64);
    let error = run(&plan, map, &mut Pace::new(f64::MAX), &mut |group| group.is_none()).expect_err("damage");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    let left = fs::read_dir(directory.path())
        .expect("the log")
        .filter(|entry| entry.as_ref().expect("entry").file_name().to_string_lossy().contains("cleaned"));
    assert_eq!(left.count(), 0);
}

/// A log of interleaved transactions of two producers; every third one is aborted. Ends with a plain batch.
fn write_transactions(directory: &Path) -> (Vec<AbortedTransaction>, i64) {
    let (mut bytes, mut offset, mut aborted) = (Vec::new(), 0, Vec::new());
    for number in 0..30i64 {
        let first = offset;
        for producer in 0..2i64 {
            let value = format!("{number}");
            let key = format!("key-{}", (number + producer) % 4).into_bytes();
            let batch = BatchBuilder::new()
                .base_offset(offset)
                .leader_epoch(0)
                .flags(0x10)
                .producer(producer, 0, number as i32)
                .record(START_MS, Some(&key), Some(value.as_bytes()));
            bytes.extend(batch.build());
            offset += 1;
        }
        for producer in 0..2i64 {
            let commit = (number + producer) % 3 > 0;
            let marker = Marker { producer_id: producer, producer_epoch: 0, commit, coordinator_epoch: 1 };
            let mut marker = control_batch::encode(&marker, START_MS);
            record_batch::patch(&mut marker, offset, 0);
            bytes.extend(marker);
            if !commit {
                let stable_offset = if producer == 0 { first + 1 } else { offset + 1 };
                let first_offset = first + producer;
                aborted.push(AbortedTransaction {
                    producer_id: producer,
                    first_offset,
                    last_offset: offset,
                    stable_offset,
                });
            }
            offset += 1;
        }
    }
    bytes.extend(
        BatchBuilder::new().base_offset(offset).leader_epoch(0).record(1, Some(b"p"), Some(b"v")).build(),
    );
    fs::write(directory.join(file_name(0)), bytes).expect("a segment");
    let next = offset + 1;
    let active = BatchBuilder::new().base_offset(next).leader_epoch(0).record(1, Some(b"q"), None).build();
    fs::write(directory.join(file_name(next)), active).expect("the active segment");
    (aborted, next)
}

/// Record values by key of what is not a marker, and the number of markers.
fn committed_of(recovered: &Recovered) -> (BTreeMap<i64, Vec<u8>>, usize) {
    let (mut found, mut markers) = (BTreeMap::new(), 0);
    let bytes = fs::read(recovered.segments[0].path()).expect("the segment");
    let mut at = 0;
    while at < bytes.len() {
        let info = record_batch::parse_whole(&bytes[at..]).expect("a batch");
        if info.is_control() {
            assert!(
                control_batch::parse(&bytes[at..at + info.size_bytes]).is_some(),
                "markers stay readable"
            );
            markers += 1;
        } else {
            let mut open = OpenBatch::new(&bytes[at..]).expect("records");
            while let Some(record) = open.next_record().expect("a record") {
                found.insert(record.offset, record.key.expect("a key").to_vec());
            }
        }
        at += info.size_bytes;
    }
    (found, markers)
}

#[test]
fn aborted_records_go_and_markers_follow_when_nothing_of_theirs_is_left() {
    let directory = tempfile::tempdir().expect("a directory");
    let (aborted, next) = write_transactions(directory.path());
    let mut model = Model { end: next, ..Model::default() };
    for producer in 0..2 {
        model.producer_ends.insert(producer, 116 + producer);
    }
    let mut markers_left = Vec::new();
    for pass in 0..3 {
        let now_ms = START_MS + pass * 2 * DELETE_RETENTION_MS;
        let recovered = recover(directory.path(), None, Reign::default()).expect("recovery");
        let known = recovered.transactions.aborted_of(0, next);
        let ends = |all: &[AbortedTransaction]| -> Vec<(i64, i64, i64)> {
            all.iter().map(|one| (one.producer_id, one.first_offset, one.last_offset)).collect()
        };
        assert!(pass > 0 || ends(&known) == ends(&aborted), "a scan finds what was aborted");
        let plan = CleanPlan { aborted: known, ..plan(directory.path(), &model, now_ms) };
        write_marks(directory.path(), Marks { gaps_end: next, ..Marks::default() });
        let mut hand_over = |group: Option<CleanedGroup>| {
            if let Some(group) = group.filter(|group| group.summary.is_some()) {
                swap_steps(directory.path(), &group.bases, 0).iter().for_each(apply);
            }
            true
        };
        let map = KeyMap::new(1 << 20, 90, next as u64);
        run(&plan, map, &mut Pace::new(f64::MAX), &mut hand_over).expect("a pass");
        for scan in [false, true] {
            if scan && pass == 2 {
                // The index file alone knows what was aborted; a scan has the markers.
                fs::remove_file(directory.path().join(index_file_name(0))).expect("an index file");
            }
            let recovered = recover(directory.path(), None, Reign::default()).expect("recovery");
            assert!(recovered.transactions.is_idle(), "no transaction is open, pass {pass}, scan {scan}");
            let (found, markers) = committed_of(&recovered);
            // The last committed record of each of the four keys, and the plain one.
            assert_eq!(found.len(), 5, "pass {pass}: {found:?}");
            let was_aborted = |offset: &i64| aborted.iter().any(|one| one.first_offset == *offset);
            assert!(!found.keys().any(was_aborted), "{found:?}");
            markers_left.push(markers);
        }
    }
    assert_eq!(markers_left[0], 60, "every marker stays at first");
    assert!(markers_left[5] < 12, "markers of nothing go after a while: {markers_left:?}");
}
