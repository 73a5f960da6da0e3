//! Target `recovery`: a partition's directory as a crash, a rotten disk or another life of a recycled file may leave
//! it: segments of real batches with any bytes changed, index files, marks, interrupted compactions; and what a start
//! makes of it.
//!
//! Checked: nothing panics; memory is bounded by the files; offsets rise; a second start finds what the first one left,
//! and cuts nothing more.
//!
//! Owner: nobody; blocking, in a directory of its own.

use std::path::Path;

use super::batches::built;
use super::input::Input;
use super::memory;
use crate::storage::{Marks, Recovered, Reign, recover};
use crate::wire::control_batch;
use crate::wire::record_batch::{parse_header, patch};

/// What recovery may cost for each byte of the files.
pub const RECOVERY_BYTES_PER_FILE_BYTE_MAX: usize = 64;
/// What it may cost beside that: two windows of the scan, tables.
pub const RECOVERY_BYTES_MAX: usize = 12 << 20;

/// Largest file of an input, bytes.
const FILE_BYTES_MAX: usize = 1 << 20;

/// See the head of this file.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let directory = super::directory();
    let reign = Reign { first_epoch: i32::from(input.byte() & 3), last_epoch: i32::from(input.byte() & 7) };
    let file_bytes = fill(&mut input, directory.path(), reign);
    let bytes_max = RECOVERY_BYTES_PER_FILE_BYTE_MAX * file_bytes + RECOVERY_BYTES_MAX;
    let start = || memory::within("recovery", bytes_max, || recover(directory.path(), None, reign));
    let Ok(first) = start() else { return };
    check(&first);
    let second = start().expect("a second start finds what the first one left");
    check(&second);
    assert_eq!(
        (second.log_start_offset, second.log_end_offset),
        (first.log_start_offset, first.log_end_offset)
    );
    assert_eq!(second.segments.len(), first.segments.len());
    assert_eq!(second.partial, first.partial);
    let cut = second.reports.iter().find(|report| report.contains("cut at"));
    assert!(cut.is_none(), "the second start cut again: {cut:?}");
}

fn check(recovered: &Recovered) {
    assert!(recovered.log_start_offset <= recovered.log_end_offset);
    assert!(recovered.epochs.is_sorted_by(|a, b| a.0 < b.0));
    let ends: Vec<_> = recovered.segments.iter().map(|s| (s.base_offset, s.next_offset.get())).collect();
    assert!(ends.iter().all(|(base, next)| base <= next), "{ends:?}");
}

/// Writes the files; how large they are together.
fn fill(input: &mut Input<'_>, directory: &Path, reign: Reign) -> usize {
    let mut offset = i64::from(input.byte());
    let mut file_bytes = 0;
    let mut write = |name: String, bytes: &[u8]| {
        file_bytes += bytes.len();
        std::fs::write(directory.join(name), bytes).expect("a small file");
    };
    if input.rarely() {
        let marks = Marks { log_start: input.number(), clean_end: input.number(), gaps_end: input.number() };
        let mut bytes = marks.encode();
        input.damage(&mut bytes);
        write("marks".to_owned(), &bytes);
    }
    for _ in 0..=input.below(4) {
        let base = offset;
        let mut segment = Vec::new();
        for _ in 0..input.below(6) {
            let mut batch = if input.rarely() { marker(input) } else { built(input) };
            let count = parse_header(&batch).map_or(1, |info| i64::from(info.last_offset_delta) + 1);
            let epoch = reign.first_epoch + i32::from(input.byte() & 1);
            patch(&mut batch, offset, if input.rarely() { input.number() as i32 } else { epoch });
            offset = if input.rarely() { input.number() } else { offset.saturating_add(count) };
            segment.extend_from_slice(&batch);
        }
        input.damage(&mut segment);
        if input.rarely() {
            // Old bytes of a recycled file, or the zeros of a prepared one.
            segment.resize(segment.len() + usize::from(input.word()), 0);
            segment.extend_from_slice(input.bytes(4096));
        }
        segment.truncate(FILE_BYTES_MAX);
        let stem = format!("{base:020}");
        let suffix = ["log", "log", "log", "log", "log", "log.cleaned", "ridx.swap", "log.retired-1"];
        write(format!("{stem}.{}", input.pick(&suffix)), &segment);
        if input.rarely() {
            let mut index = b"RIDX\x02\x00".to_vec();
            index.extend_from_slice(input.bytes(300));
            let crc = crc32c::crc32c(&index);
            index.extend_from_slice(&crc.to_le_bytes());
            write(format!("{stem}.ridx"), &index);
        }
        if input.rarely() {
            offset = offset.saturating_add(input.number());
        }
        if offset < 0 {
            break;
        }
    }
    file_bytes
}

fn marker(input: &mut Input<'_>) -> Vec<u8> {
    let marker = control_batch::Marker {
        producer_id: input.number(),
        producer_epoch: input.byte().into(),
        commit: input.byte() & 1 == 0,
        coordinator_epoch: 0,
    };
    control_batch::encode(&marker, 5)
}
