//! Recovery from files with seeded damage: a torn tail is cut; whatever else is lost is reported; nothing that was
//! not written is ever read.

use std::fs;
use std::path::{Path, PathBuf};

use super::random::Random;
use crate::storage::marks::Marks;
use crate::storage::recovery::{Recovered, Reign, recover};
use crate::storage::segment::file_name;
use crate::wire::batch_builder::BatchBuilder;
use crate::wire::record_batch;

/// Mutations of small logs; each is one recovery.
const MUTATIONS: u64 = 4_000;
/// Leader epoch in the catalog at the start that recovers.
const EPOCH_NOW: i32 = 3;

/// One batch of the log that was written.
#[derive(Clone)]
struct Written {
    position: usize,
    base_offset: i64,
    next_offset: i64,
    bytes: Vec<u8>,
}

fn batch(base_offset: i64, epoch: i32, count: usize, value_size: usize, fill: u8) -> Vec<u8> {
    let value = vec![fill; value_size];
    let mut builder = BatchBuilder::new().base_offset(base_offset).leader_epoch(epoch);
    for number in 0..count {
        builder = builder.record(1_700_000_000_000 + number as i64, None, Some(&value));
    }
    builder.build()
}

/// `count` batches back to back from offset `base`, of rising epochs up to [`EPOCH_NOW`] - 1.
fn write_log(base: i64, count: usize, random: &mut Random, value_size_max: u64) -> Vec<Written> {
    let mut all: Vec<Written> = Vec::new();
    let (mut offset, mut position) = (base, 0);
    for number in 0..count {
        let epoch = (number * EPOCH_NOW as usize / count) as i32;
        let records = 1 + random.below(4) as usize;
        let bytes =
            batch(offset, epoch, records, 1 + random.below(value_size_max) as usize, random.below(256) as u8);
        let next_offset = offset + records as i64;
        all.push(Written { position, base_offset: offset, next_offset, bytes: bytes.clone() });
        position += bytes.len();
        offset = next_offset;
    }
    all
}

/// The file: the log, zeros to the end of its block, old batches of a recycled file (lower offsets), then zeros.
fn file_bytes(log: &[Written], base: i64, random: &mut Random) -> Vec<u8> {
    let mut bytes: Vec<u8> = log.iter().flat_map(|written| written.bytes.clone()).collect();
    if random.below(2) == 0 {
        let mut stale = Vec::new();
        while stale.len() < bytes.len() + 7000 {
            stale.extend(batch(random.below(base as u64) as i64, 0, 1, 50, 7));
        }
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        let kept = bytes.len();
        bytes.extend_from_slice(&stale[kept..]);
    }
    bytes.resize(bytes.len() + random.below(9000) as usize, 0);
    bytes
}

fn recovered_from(directory: &Path) -> Recovered {
    recover(directory, None, Reign { first_epoch: 0, last_epoch: EPOCH_NOW }).expect("damage is no error")
}

/// What a reader would get: (base offset, bytes) of every batch, from the file and what recovery says of it.
fn readable(recovered: &Recovered, path: &Path) -> Vec<(i64, Vec<u8>)> {
    let mut found = Vec::new();
    let bytes = fs::read(path).expect("the segment");
    for segment in &recovered.segments {
        let size = segment.size_bytes.get() as usize;
        let index = segment.index.borrow();
        let mut at = 0;
        while at < size {
            if let Some(jump) = index.damage_from(at as u64) {
                at = jump as usize;
                continue;
            }
            let info = record_batch::parse_header(&bytes[at..size]).expect("an accepted batch");
            found.push((info.base_offset, bytes[at..at + info.size_bytes].to_vec()));
            at += info.size_bytes;
        }
    }
    found
}

fn same_content(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a[8..12] == b[8..12] && a[16..] == b[16..]
}

/// Damages the file; returns the first byte that may have changed.
fn mutate(bytes: &mut Vec<u8>, log_bytes: usize, log: &[Written], random: &mut Random) -> (usize, String) {
    let at = random.below(log_bytes as u64) as usize;
    match random.below(6) {
        0 => {
            bytes.truncate(at);
            (at, format!("truncated to {at}"))
        }
        1 => {
            bytes[at] ^= 1 << random.below(8);
            (at, format!("a bit flipped at {at}"))
        }
        2 => {
            let victim = &log[random.below(log.len() as u64) as usize];
            let at = victim.position + random.below(61) as usize;
            bytes[at] ^= 1 << random.below(8);
            (at, format!("a header bit flipped at {at}, byte {} of a batch", at - victim.position))
        }
        3 => {
            let start = at / 512 * 512;
            let end = (start + 512).min(bytes.len());
            bytes[start..end].fill(0);
            (start, format!("sector {start} zeroed"))
        }
        4 => {
            let size = 1 + random.below(200) as usize;
            let end = (at + size).min(bytes.len());
            bytes[at..end].fill_with(|| random.below(256) as u8);
            (at, format!("noise over {at}..{end}"))
        }
        _ => {
            // A batch copied over another one's place: valid bytes where they do not belong.
            let source = log[random.below(log.len() as u64) as usize].bytes.clone();
            let target = log[random.below(log.len() as u64) as usize].position;
            let end = (target + source.len()).min(bytes.len());
            bytes[target..end].copy_from_slice(&source[..end - target]);
            (target, format!("a batch copied to {target}"))
        }
    }
}

#[test]
fn mutated_logs_lose_nothing_silently() {
    for seed in 0..MUTATIONS {
        let mut random = Random(seed);
        let directory = tempfile::tempdir().expect("directory");
        let base = 1000;
        let batch_count = 1 + random.below(12) as usize;
        let log = write_log(base, batch_count, &mut random, 400);
        let log_bytes = log.iter().map(|written| written.bytes.len()).sum();
        let clean = file_bytes(&log, base, &mut random);
        let mut bytes = clean.clone();
        let (_, what) = mutate(&mut bytes, log_bytes, &log, &mut random);
        let path = directory.path().join(file_name(base));
        fs::write(&path, &bytes).expect("the segment");
        let recovered = recovered_from(directory.path());
        let context = format!("seed {seed}: {what}; reports: {:?}", recovered.reports);
        let readable = readable(&recovered, &path);
        for (base_offset, bytes) in &readable {
            let original = log.iter().find(|written| written.base_offset == *base_offset);
            assert!(
                original.is_some_and(|written| same_content(&written.bytes, bytes)),
                "offset {base_offset} was never written like this. {context}"
            );
        }
        let lost: Vec<&Written> =
            log.iter().filter(|w| !readable.iter().any(|(offset, _)| *offset == w.base_offset)).collect();
        // The end of the file, where a torn write ends, cannot be told from a write that never was.
        let intact_lost =
            lost.iter().filter(|w| bytes.get(w.position..w.position + w.bytes.len()) == Some(&w.bytes[..]));
        if intact_lost.count() > 0 {
            assert!(!recovered.reports.is_empty(), "intact batches were dropped silently. {context}");
        }
        let lost_inside = lost.iter().any(|w| readable.iter().any(|(offset, _)| *offset > w.base_offset));
        assert!(!lost_inside || !recovered.reports.is_empty(), "a silent hole. {context}");
    }
}

#[test]
fn logs_without_damage_are_recovered_whole_whatever_lies_behind_them() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let directory = tempfile::tempdir().expect("directory");
        let batch_count = 1 + random.below(30) as usize;
        let log = write_log(500, batch_count, &mut random, 400);
        let bytes = file_bytes(&log, 500, &mut random);
        let path = directory.path().join(file_name(500));
        fs::write(&path, &bytes).expect("the segment");
        let recovered = recovered_from(directory.path());
        assert_eq!(recovered.reports, Vec::<String>::new(), "seed {seed}");
        assert_eq!(readable(&recovered, &path).len(), log.len(), "seed {seed}");
        assert_eq!(recovered.log_end_offset, log.last().map_or(500, |w| w.next_offset));
    }
}

/// The batch behind the cut of an earlier crash has the size, the position and the offset that the next append
/// leaves room for; only its epoch tells that it is old.
#[test]
fn batches_behind_an_earlier_cut_stay_cut() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join(file_name(0));
    let one = |offset: i64, epoch: i32, fill: u8| batch(offset, epoch, 1, 100, fill);
    let size = one(0, 0, 1).len();
    let mut bytes = [one(0, 0, 1), one(1, 0, 2), one(2, 0, 3), one(3, 0, 4)].concat();
    bytes[size + 70] ^= 1;
    fs::write(&path, &bytes).expect("the segment");
    let recovered = recovered_from(directory.path());
    assert_eq!(recovered.log_end_offset, 1);
    assert_eq!(recovered.reports.len(), 1, "{:?}", recovered.reports);
    let saved: Vec<PathBuf> = fs::read_dir(directory.path())
        .expect("directory")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.to_string_lossy().contains(".cut-"))
        .collect();
    assert_eq!(saved.len(), 1);
    let cut = fs::read(&saved[0]).expect("the saved bytes");
    assert!(cut.starts_with(&bytes[size..]), "what was cut is saved");
    // The next leader writes one batch where the torn one was.
    let mut bytes = fs::read(&path).expect("the segment");
    bytes.resize(bytes.len().max(2 * size), 0);
    bytes[size..2 * size].copy_from_slice(&one(1, 1, 9));
    fs::write(&path, &bytes).expect("the segment");
    let recovered = recovered_from(directory.path());
    assert_eq!((recovered.log_end_offset, recovered.reports.len()), (2, 0), "{:?}", recovered.reports);
    assert_eq!(recovered.epochs, vec![(0, 0), (1, 1)]);
}

#[test]
fn damage_deep_inside_is_a_hole_and_the_rest_stays_readable() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join(file_name(0));
    let log: Vec<Written> = (0..60)
        .map(|number| {
            let bytes = batch(number, 0, 1, 1 << 20, number as u8);
            let position = number as usize * bytes.len();
            Written { position, base_offset: number, next_offset: number + 1, bytes }
        })
        .collect();
    let mut bytes: Vec<u8> = log.iter().flat_map(|written| written.bytes.clone()).collect();
    for (victim, byte) in [(5, 3), (9, 200_000), (12, 16)] {
        bytes[log[victim].position + byte] ^= 0x10;
    }
    fs::write(&path, &bytes).expect("the segment");
    let recovered = recovered_from(directory.path());
    assert_eq!(recovered.log_end_offset, 60);
    assert_eq!(recovered.reports.len(), 3, "{:?}", recovered.reports);
    for (report, victim) in recovered.reports.iter().zip([5, 9, 12]) {
        assert!(report.contains(&path.display().to_string()), "{report}");
        assert!(report.contains(&log[victim].position.to_string()), "{report}");
    }
    let offsets: Vec<i64> = readable(&recovered, &path).iter().map(|(offset, _)| *offset).collect();
    let expected: Vec<i64> = (0..60).filter(|offset| ![5, 9, 12].contains(offset)).collect();
    assert_eq!(offsets, expected);
}

/// Files of segments with one batch an offset, `sizes[n]` batches in the n-th; their paths.
fn write_segments(directory: &Path, counts: &[i64], value_size: usize) -> Vec<PathBuf> {
    let mut offset = 0;
    let mut paths = Vec::new();
    for count in counts {
        let path = directory.join(file_name(offset));
        let mut bytes = Vec::new();
        for number in 0..*count {
            bytes.extend(batch(offset + number, 0, 1, value_size, number as u8));
        }
        fs::write(&path, &bytes).expect("a segment");
        paths.push(path);
        offset += count;
    }
    paths
}

fn shorten(path: &Path, by: u64) {
    let file = fs::File::options().write(true).open(path).expect("the segment");
    file.set_len(file.metadata().expect("metadata").len() - by).expect("set_len");
}

/// SIGKILL between two writes in flight: the last one to a segment is missing, later ones to the next are there.
#[test]
fn segments_behind_a_torn_end_were_in_flight_and_are_set_aside() {
    for (counts, torn, end) in
        [(vec![5, 3], 0, 4), (vec![5, 0], 0, 4), (vec![2, 4, 1, 3], 1, 5), (vec![2, 1, 0], 1, 2)]
    {
        let directory = tempfile::tempdir().expect("directory");
        let paths = write_segments(directory.path(), &counts, 300);
        shorten(&paths[torn], 7);
        let recovered = recovered_from(directory.path());
        assert_eq!(recovered.log_end_offset, end, "{counts:?}: {:?}", recovered.reports);
        assert_eq!(recovered.segments.len(), torn + 1);
        assert!(!recovered.segments.back().expect("active").sealed.get());
        let aside = counts.len() - torn - 1;
        assert_eq!(recovered.reports.len(), aside, "{:?}", recovered.reports);
        for path in &paths[torn + 1..] {
            assert!(!path.exists() && path.with_extension("cut-0").exists(), "{}", path.display());
        }
        // What goes on there is found by the next start, without a word.
        let mut bytes = fs::read(&paths[torn]).expect("the segment");
        bytes.truncate(recovered.segments.back().expect("active").size_bytes.get() as usize);
        bytes.extend(batch(end, 1, 3, 10, 9));
        fs::write(&paths[torn], &bytes).expect("the segment");
        let again = recovered_from(directory.path());
        assert_eq!((again.log_end_offset, again.reports.len()), (end + 3, 0), "{:?}", again.reports);
    }
}

#[test]
fn a_segment_missing_before_more_than_could_be_in_flight_stays_a_gap() {
    let directory = tempfile::tempdir().expect("directory");
    let paths = write_segments(directory.path(), &[3, 20, 20], 1 << 20);
    shorten(&paths[0], 7);
    let recovered = recovered_from(directory.path());
    assert_eq!((recovered.log_end_offset, recovered.segments.len()), (43, 3));
    assert_eq!(recovered.reports.len(), 1, "{:?}", recovered.reports);
}

/// A topic gets a file that another one filled with batches of the same sizes and offsets: wherever writes are
/// missing, an old batch lies at the exact place, with the exact offset and a good checksum, and intact old batches
/// follow. Only the epochs tell them apart.
/// Found by the simulator. Retention gave the files of several segments away in whatever order their readers let go of
/// them. After a crash in between the oldest was still there and a younger one was not; the start took the gap for
/// torn writes and set the whole log behind it aside.
#[test]
fn what_is_left_of_deleted_segments_takes_nothing_else_with_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let paths = write_segments(directory.path(), &[4, 4, 4, 4], 100);
    fs::remove_file(&paths[1]).expect("a segment");
    let marks = Marks { log_start: 8, ..Marks::default() };
    fs::write(directory.path().join("marks"), marks.encode()).expect("the marks");
    let recovered = recovered_from(directory.path());
    assert_eq!((recovered.log_start_offset, recovered.log_end_offset), (8, 16), "{:?}", recovered.reports);
    assert!(recovered.reports.is_empty(), "{:?}", recovered.reports);
    assert!(!paths[0].exists(), "it was deleted");
}

#[test]
fn stale_batches_that_line_up_exactly_are_never_data() {
    const FIRST: i32 = 9;
    for seed in 0..500 {
        let mut random = Random(seed);
        let (count, value_size_max) = (2 + random.below(14) as usize, 1 + random.below(3000));
        let shape: Vec<(usize, usize)> = (0..count * 2)
            .map(|_| (1 + random.below(4) as usize, 1 + random.below(value_size_max) as usize))
            .collect();
        let write = |epoch: i32, fill: u8, count: usize| {
            let mut offset = 0;
            let mut all = Vec::new();
            for (records, value_size) in &shape[..count] {
                all.push(batch(offset, epoch, *records, *value_size, fill));
                offset += *records as i64;
            }
            all
        };
        let stale = write(random.below(FIRST as u64) as i32, 1, count * 2);
        let live = write(FIRST + random.below(3) as i32, 2, count);
        let mut bytes = stale.concat();
        let size = live.iter().map(Vec::len).sum::<usize>();
        let padded = size.next_multiple_of(4096);
        bytes.resize(bytes.len().max(padded), 0);
        bytes[..padded].fill(0);
        bytes[..size].copy_from_slice(&live.concat());
        // Blocks whose writes did not reach the disk keep what was there, whole batches of it among them.
        let mut missing = size;
        for _ in 0..random.below(4) {
            let from = random.below(size as u64) as usize / 512 * 512;
            let to = (from + 512 * (1 + random.below(12) as usize)).min(size);
            bytes[from..to].copy_from_slice(&stale.concat()[from..to]);
            missing = missing.min(from);
        }
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join(file_name(0));
        fs::write(&path, &bytes).expect("the segment");
        let reign = Reign { first_epoch: FIRST, last_epoch: FIRST + 3 };
        let recovered = recover(directory.path(), None, reign).expect("no error");
        let found = readable(&recovered, &path);
        for (at, (offset, bytes)) in found.iter().enumerate() {
            assert!(bytes == &live[at], "seed {seed}: offset {offset} was never written like this");
        }
        let mut end = 0;
        let whole = live.iter().take_while(|batch| {
            end += batch.len();
            end <= missing
        });
        assert!(found.len() >= whole.count(), "seed {seed}: {:?}", recovered.reports);
        if found.len() < count && ahead(&recovered, &bytes, &live) {
            assert!(!recovered.reports.is_empty(), "seed {seed}: intact batches were dropped silently");
        }
    }
}

/// Whether an intact batch of the log lies behind its end.
fn ahead(recovered: &Recovered, bytes: &[u8], live: &[Vec<u8>]) -> bool {
    let mut at = 0;
    live.iter().any(|batch| {
        let from = at;
        at += batch.len();
        let is_behind = from as u64 > recovered.segments[0].size_bytes.get();
        is_behind && bytes[from..at] == batch[..]
    })
}

/// Offset and epoch are not covered by the checksum. A write of which only the sector with them reached the disk
/// makes an old batch behind it look like one of the log, unless what follows gives it away.
#[test]
fn a_new_head_on_an_old_body_is_no_batch() {
    for boundary in 1..CHECKED_FROM {
        let at = 512 - boundary;
        let first = |epoch, fill| {
            (1..1000).map(|size| batch(0, epoch, 1, size, fill)).find(|bytes| bytes.len() % 512 == at)
        };
        let life = |epoch, fill| {
            let second = batch(1, epoch, 1, 2_000, fill);
            [first(epoch, fill).expect("a size that fits"), second, batch(2, epoch, 1, 300, fill)]
        };
        let (old, new) = (life(1, 1), life(9, 2));
        let mut bytes = old.concat();
        let torn = new[0].len() + boundary;
        bytes[..torn].copy_from_slice(&new.concat()[..torn]);
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join(file_name(0));
        fs::write(&path, &bytes).expect("the segment");
        let reign = Reign { first_epoch: 9, last_epoch: 9 };
        let recovered = recover(directory.path(), None, reign).expect("no error");
        assert_eq!(recovered.log_end_offset, 1, "the sector ends {boundary} bytes into the batch");
        // With all of it written, it is one.
        fs::write(&path, new.concat()).expect("the segment");
        let recovered = recover(directory.path(), None, reign).expect("no error");
        assert_eq!(recovered.log_end_offset, 3);
    }
}

/// Up to here a batch can be patched without its checksum noticing.
const CHECKED_FROM: usize = 18;

/// Reserved space is not read by a scan, and batches behind a hole in the file are still found.
#[test]
fn a_scan_ends_where_the_written_bytes_end() {
    use std::os::unix::fs::FileExt;
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join(file_name(0));
    let file = fs::File::create(&path).expect("the segment");
    let one = |offset: i64| batch(offset, 0, 1, 5000, 1);
    file.write_all_at(&one(0), 0).expect("written");
    file.set_len(1 << 40).expect("a long file");
    file.sync_all().expect("flushed");
    let recovered = recovered_from(directory.path());
    assert_eq!((recovered.log_end_offset, recovered.reports.len()), (1, 0));
    // A write that overtook the one before it.
    file.write_all_at(&one(2), 1 << 20).expect("written");
    file.sync_all().expect("flushed");
    let recovered = recovered_from(directory.path());
    assert_eq!((recovered.log_end_offset, recovered.reports.len()), (1, 1), "{:?}", recovered.reports);
}
