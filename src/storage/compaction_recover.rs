//! What a start does with a compaction that was interrupted.
//!
//! Owner: the core that will own the partition; runs blocking, before the segments are listed.
//! Names, next to a segment `B.log` and its index file `B.ridx`:
//!
//! ```text
//! B.log.cleaned      a new segment, whole and flushed before its index file is
//! B.ridx.cleaned     its index file
//! B.ridx.swap        the same after the commit: the new segment replaces all from B up to its next offset
//! B.log.retired-N    an old segment, out of the log, that somebody may still read
//! ```
//!
//! Invariants: the rename of `B.ridx.cleaned` to `B.ridx.swap` is the commit; before it the old segments count,
//! after it the new one. Every step below can be repeated. It must not remove an old segment unless the new one is
//! whole.

use std::io;
use std::path::{Path, PathBuf};

use super::compaction_rewrite::{cleaned_index_name, cleaned_name};
use super::disk_dma::{remove_if_there, sync_directory};
use super::index::SegmentSummary;
use super::segment::{file_name, index_file_name};
use crate::fs;

/// The name of an index file whose segment is about to take its place.
pub fn swap_name(base_offset: i64) -> String {
    format!("{base_offset:020}.ridx.swap")
}

/// The name of a segment that was replaced.
pub fn retired_name(base_offset: i64, number: u64) -> String {
    format!("{base_offset:020}.log.retired-{number}")
}

/// One rename of a swap.
pub struct Rename {
    /// The present name.
    pub from: PathBuf,
    /// The new one.
    pub to: PathBuf,
    /// The directory is flushed behind it.
    pub durable: bool,
}

/// The renames that put a new segment in the place of those that begin at `bases`, in their order: the commit, the old
/// files out of the way, the new file, the new index file. `number` makes the names of the old files unique.
pub fn swap_steps(directory: &Path, bases: &[i64], number: u64) -> Vec<Rename> {
    let rename = |from: String, to: String, durable| Rename {
        from: directory.join(from),
        to: directory.join(to),
        durable,
    };
    let first = bases[0];
    #[cfg(test)]
    if crate::sim::planted(crate::sim::Canary::HastySwap) {
        let mut steps: Vec<_> =
            bases.iter().map(|base| rename(file_name(*base), retired_name(*base, number), false)).collect();
        steps.push(rename(cleaned_name(first), file_name(first), false));
        steps.push(rename(cleaned_index_name(first), index_file_name(first), false));
        return steps;
    }
    let mut steps = vec![rename(cleaned_index_name(first), swap_name(first), true)];
    steps.extend(bases.iter().map(|base| rename(file_name(*base), retired_name(*base, number), false)));
    steps.push(rename(cleaned_name(first), file_name(first), true));
    steps.push(rename(swap_name(first), index_file_name(first), true));
    steps
}

struct Found {
    swaps: Vec<(i64, PathBuf)>,
    retired: Vec<(i64, PathBuf)>,
    cleaned: Vec<PathBuf>,
    segments: Vec<i64>,
}

fn look(directory: &Path) -> io::Result<Found> {
    let mut found = Found { swaps: vec![], retired: vec![], cleaned: vec![], segments: vec![] };
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let Some((stem, rest)) = name.split_once('.') else { continue };
        let Ok(base) = stem.parse::<i64>() else { continue };
        match rest {
            "log" => found.segments.push(base),
            "ridx.swap" => found.swaps.push((base, path)),
            "log.cleaned" | "ridx.cleaned" => found.cleaned.push(path),
            _ if rest.starts_with("log.retired-") => found.retired.push((base, path)),
            _ => {}
        }
    }
    Ok(found)
}

/// Finishes or undoes what was interrupted in `directory`; complaints go to `reports`.
pub fn finish_swaps(directory: &Path, reports: &mut Vec<String>) -> io::Result<()> {
    let found = look(directory)?;
    let mut undone = false;
    for (base, swap) in &found.swaps {
        match fs::read(swap).ok().and_then(|bytes| SegmentSummary::decode(&bytes).ok()) {
            Some(summary) if is_whole(directory, *base, &summary) => {
                finish(directory, *base, swap, &summary, &found.segments)?
            }
            _ => {
                undone = true;
                undo(directory, *base, swap, &found, reports)?;
            }
        }
    }
    let left = look(directory)?;
    // After an undo, what could not be taken back is kept for a look.
    let retired = left.retired.iter().map(|(_, path)| path).filter(|_| !undone);
    let gone: Vec<&PathBuf> = left.cleaned.iter().chain(retired).collect();
    for path in &gone {
        fs::remove_file(path)?;
    }
    if gone.is_empty() { Ok(()) } else { sync_directory(directory) }
}

/// Whether the new segment is there with all its bytes, in place or not yet.
fn is_whole(directory: &Path, base: i64, summary: &SegmentSummary) -> bool {
    let size = |name: String| fs::metadata(directory.join(name)).map(|metadata| metadata.len()).ok();
    size(cleaned_name(base)).or_else(|| size(file_name(base))) == Some(summary.size_bytes)
}

fn finish(
    directory: &Path,
    base: i64,
    swap: &Path,
    summary: &SegmentSummary,
    segments: &[i64],
) -> io::Result<()> {
    let replaced = segments.iter().filter(|other| **other > base && **other < summary.next_offset);
    for other in replaced {
        for name in [file_name(*other), index_file_name(*other)] {
            remove_if_there(&directory.join(name))?;
        }
    }
    let cleaned = directory.join(cleaned_name(base));
    if fs::exists(&cleaned) {
        fs::rename(&cleaned, directory.join(file_name(base)))?;
    }
    sync_directory(directory)?;
    fs::rename(swap, directory.join(index_file_name(base)))?;
    sync_directory(directory)
}

/// The new index file is damaged, so nobody knows what the new segment replaces: as long as the new segment is not
/// in place, the old ones are taken back.
fn undo(
    directory: &Path,
    base: i64,
    swap: &Path,
    found: &Found,
    reports: &mut Vec<String>,
) -> io::Result<()> {
    let cleaned = directory.join(cleaned_name(base));
    if fs::exists(&cleaned) {
        for (old, path) in &found.retired {
            let name = directory.join(file_name(*old));
            if !fs::exists(&name) {
                fs::rename(path, &name)?;
            }
        }
        remove_if_there(&cleaned)?;
    } else {
        remove_if_there(&directory.join(index_file_name(base)))?;
    }
    reports.push(format!("{}: damaged; what it describes is scanned instead", swap.display()));
    sync_directory(directory)?;
    fs::remove_file(swap)?;
    sync_directory(directory)
}
