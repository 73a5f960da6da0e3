//! The pool of files that wait to become segments: written before, so that overwriting them needs no
//! metadata and flushes cost a third (docs/ARCHITECTURE.md has the figures).
//!
//! Owner: one core; its directory is `pool/core-<k>` below the data directory.
//! Invariant, the proof that old bytes are never taken for data: a pooled file's name carries two bounds on the
//! batches in its old bytes, `stale_end` above every record offset and `stale_epoch` at or above every leader epoch.
//! A file goes only to a segment that begins at or above `stale_end`, or whose topic's first epoch is above
//! `stale_epoch`. A scan accepts a batch only at the exact offset it expects and of no epoch below the topic's first;
//! so no stale batch can ever be accepted, torn or not (docs/FORMAT.md, Proof 1).
//! It must not block the core: renames and unlinks go through the disk's own threads.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::disk::{Disk, DiskFile};
use crate::fs;
use crate::limits::{BLOCK_SIZE, CHUNK_SIZE_MAX, POOL_FILE_BYTES, POOL_FILES_MAX};
use crate::rt;
use crate::storage::buffer::IoBuf;
use crate::storage::tail::block_floor;

/// What is known of the batches that a file's old bytes can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale {
    /// Above every record offset.
    pub end: i64,
    /// At or above every leader epoch.
    pub epoch: i32,
}

impl Stale {
    /// A file of zeros.
    const NONE: Stale = Stale { end: 0, epoch: 0 };
    /// A file that is being written: of no use to anybody else.
    const UNKNOWN: Stale = Stale { end: i64::MAX, epoch: i32::MAX };

    /// Whether no scan of a segment that begins at `base_offset`, of a topic that begins at `first_epoch`, can take
    /// the old bytes for data.
    fn fits(self, base_offset: i64, first_epoch: i32) -> bool {
        self.end <= base_offset || self.epoch < first_epoch
    }
}

struct Pooled {
    path: PathBuf,
    size_bytes: u64,
    stale: Stale,
}

/// A file handed out by the pool.
pub struct PoolFile {
    /// Where it lies until the segment gives it its own name.
    pub path: PathBuf,
    /// Bytes that are allocated (and, for a recycled file, were written before).
    pub size_bytes: u64,
}

/// One core's pool.
pub struct SegmentPool {
    disk: Rc<dyn Disk>,
    directory: PathBuf,
    capacity_bytes: u64,
    files: RefCell<VecDeque<Pooled>>,
    pooled_bytes: Cell<u64>,
    next_number: Cell<u64>,
}

fn parse_name(name: &str) -> Option<(u64, Stale)> {
    let stem = name.strip_suffix(".seg")?;
    let (number, bounds) = stem.split_once('-')?;
    // Names of format 1 have no epoch: such a file is known by its offsets alone.
    let (end, epoch) = match bounds.split_once('-') {
        Some((end, epoch)) => (end, epoch.parse().ok()?),
        None => (bounds, i32::MAX),
    };
    Some((number.parse().ok()?, Stale { end: end.parse().ok()?, epoch }))
}

fn name_of(number: u64, stale: Stale) -> String {
    format!("{number:010}-{}-{}.seg", stale.end, stale.epoch)
}

impl SegmentPool {
    /// Opens the pool in `directory`, taking up the files that an earlier run left. Blocking: start-up only.
    pub fn open(disk: Rc<dyn Disk>, directory: &Path, capacity_bytes: u64) -> io::Result<Rc<SegmentPool>> {
        fs::create_dir_all(directory)?;
        let mut files = VecDeque::new();
        let mut pooled_bytes = 0;
        let mut next_number = 0;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let size_bytes = entry.metadata()?.len();
            match entry.file_name().to_str().and_then(parse_name) {
                Some((number, stale))
                    if stale.end < i64::MAX
                        && files.len() < POOL_FILES_MAX
                        && pooled_bytes + size_bytes <= capacity_bytes =>
                {
                    next_number = next_number.max(number + 1);
                    pooled_bytes += size_bytes;
                    files.push_back(Pooled { path: entry.path(), size_bytes, stale });
                }
                _ => fs::remove_file(entry.path())?,
            }
        }
        Ok(Rc::new(SegmentPool {
            disk,
            directory: directory.to_owned(),
            capacity_bytes,
            files: RefCell::new(files),
            pooled_bytes: Cell::new(pooled_bytes),
            next_number: Cell::new(next_number),
        }))
    }

    /// Bytes of files that wait.
    pub fn pooled_bytes(&self) -> u64 {
        self.pooled_bytes.get()
    }

    /// Files that wait.
    pub fn file_count(&self) -> usize {
        self.files.borrow().len()
    }

    fn new_path(&self, stale: Stale) -> PathBuf {
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        self.directory.join(name_of(number, stale))
    }

    /// A file for a segment that begins at `base_offset`, of a topic whose batches have no epoch below `first_epoch`;
    /// open and under its pool name.
    ///
    /// The largest fitting file of at most `size_bytes_max` bytes is preferred; without one, a new file is
    /// made with `extent_bytes` reserved.
    pub async fn take(
        &self,
        base_offset: i64,
        first_epoch: i32,
        extent_bytes: u64,
        size_bytes_max: u64,
    ) -> io::Result<(PoolFile, Rc<dyn DiskFile>)> {
        if let Some(pooled) = self.pick(base_offset, first_epoch, size_bytes_max) {
            // Its bytes are about to change, maybe before the segment's own name is on disk: a crash must not
            // leave them in the pool under a bound that no longer holds. Files of the largest bound are
            // removed at start.
            let path = self.new_path(Stale::UNKNOWN);
            if let Err(error) = self.disk.rename(pooled.path.clone(), path.clone(), true).await {
                // It is out of the list, and would lie there until the next start.
                let _ = self.disk.remove(pooled.path).await;
                return Err(error);
            }
            let file = self.disk.open(&path, false).await?;
            return Ok((PoolFile { path, size_bytes: pooled.size_bytes }, file));
        }
        let path = self.new_path(Stale::UNKNOWN);
        let file = self.disk.open(&path, true).await?;
        if let Err(error) = self.reserve(&file, 0, extent_bytes).await {
            drop(file);
            let _ = self.disk.remove(path).await;
            return Err(error);
        }
        Ok((PoolFile { path, size_bytes: extent_bytes }, file))
    }

    /// [`DiskFile::reserve`]; on a full disk files that wait here make room first.
    pub async fn reserve(&self, file: &Rc<dyn DiskFile>, from: u64, size: u64) -> io::Result<()> {
        loop {
            match file.reserve(from, size).await {
                Err(error) if error.kind() == io::ErrorKind::StorageFull && self.give_up_one().await => {}
                outcome => return outcome,
            }
        }
    }

    /// Removes a file that waits; false when there is none, or it cannot be removed.
    pub async fn give_up_one(&self) -> bool {
        let Some(file) = self.drop_worst(|_| true) else { return false };
        self.disk.remove(file.path).await.is_ok()
    }

    /// Where the files lie.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn pick(&self, base_offset: i64, first_epoch: i32, size_bytes_max: u64) -> Option<Pooled> {
        let mut files = self.files.borrow_mut();
        let best = files
            .iter()
            .enumerate()
            .filter(|(_, file)| {
                file.stale.fits(base_offset, first_epoch) && file.size_bytes <= size_bytes_max
            })
            // Of equals the one that fewest others could use.
            .max_by_key(|(_, file)| (file.size_bytes, file.stale.end))
            .map(|(at, _)| at)?;
        let pooled = files.remove(best)?;
        self.pooled_bytes.set(self.pooled_bytes.get() - pooled.size_bytes);
        Some(pooled)
    }

    /// Takes a deleted segment's file back, or removes it when the pool is full.
    ///
    /// The first `size_bytes` must be batches back to back, all of them within `stale`: what an even older life of
    /// the file left behind them is cut off. The caller guarantees that nobody reads the file any more.
    pub async fn give_back(&self, path: PathBuf, size_bytes: u64, stale: Stale) -> io::Result<()> {
        if size_bytes < CHUNK_SIZE_MAX as u64 || !self.make_room(size_bytes, stale) {
            return self.disk.remove(path).await;
        }
        let new_path = self.new_path(stale);
        // Durable, the cut before the name: a file can never lie in the pool under a bound that is too low. And not
        // a byte of the last batch is cut: until the name is durable, a start finds a segment.
        self.disk.recycle(path, new_path.clone(), size_bytes).await?;
        let size_bytes = block_floor(size_bytes);
        self.pooled_bytes.set(self.pooled_bytes.get() + size_bytes);
        self.files.borrow_mut().push_back(Pooled { path: new_path, size_bytes, stale });
        Ok(())
    }

    /// Takes the file with the highest bound, which the fewest segments could use, out of the list if `unwanted`.
    fn drop_worst(&self, unwanted: impl Fn(&Pooled) -> bool) -> Option<Pooled> {
        let mut files = self.files.borrow_mut();
        let (at, worst) = files.iter().enumerate().max_by_key(|(_, file)| file.stale.end)?;
        if !unwanted(worst) {
            return None;
        }
        let file = files.remove(at)?;
        self.pooled_bytes.set(self.pooled_bytes.get() - file.size_bytes);
        Some(file)
    }

    /// Makes room for a file by removing files with a higher bound, which fewer segments could use: those of
    /// a deleted topic would else keep out the files that the topics in use give back.
    fn make_room(&self, size_bytes: u64, stale: Stale) -> bool {
        loop {
            let fits = self.pooled_bytes.get() + size_bytes <= self.capacity_bytes;
            if fits && self.file_count() < POOL_FILES_MAX {
                return true;
            }
            let Some(file) = self.drop_worst(|file| file.stale.end > stale.end) else { return false };
            let disk = self.disk.clone();
            rt::spawn(async move {
                let _ = disk.remove(file.path).await;
            });
        }
    }

    /// Writes new files full of zeros until the pool holds `target_bytes`; runs in the background.
    pub async fn prefill(&self, target_bytes: u64) -> io::Result<()> {
        let size_bytes = POOL_FILE_BYTES;
        while self.pooled_bytes.get() + size_bytes <= target_bytes.min(self.capacity_bytes) {
            let path = self.new_path(Stale::NONE);
            let draft = path.with_extension("draft");
            let file = self.disk.open(&draft, true).await?;
            if let Err(error) = write_zeros(&file, size_bytes).await {
                drop(file);
                let _ = self.disk.remove(draft).await;
                return Err(error);
            }
            self.disk.rename(draft, path.clone(), true).await?;
            self.pooled_bytes.set(self.pooled_bytes.get() + size_bytes);
            self.files.borrow_mut().push_back(Pooled { path, size_bytes, stale: Stale::NONE });
        }
        Ok(())
    }
}

async fn write_zeros(file: &Rc<dyn DiskFile>, size_bytes: u64) -> io::Result<()> {
    file.reserve(0, size_bytes).await?;
    zero_fill(file, 0, size_bytes).await?;
    file.flush().await
}

/// Writes zeros over `[from, to)` of a file, one chunk at a time.
pub async fn zero_fill(file: &Rc<dyn DiskFile>, from: u64, to: u64) -> io::Result<()> {
    let zeros = IoBuf::allocate(CHUNK_SIZE_MAX);
    zeros.zero(0, CHUNK_SIZE_MAX);
    let mut at = from;
    while at < to {
        let size = (to - at).min(CHUNK_SIZE_MAX as u64) as usize;
        assert!(size.is_multiple_of(BLOCK_SIZE));
        if size == CHUNK_SIZE_MAX {
            file.write(zeros.dma(), at, false).await?;
        } else {
            let rest = IoBuf::allocate(size);
            rest.zero(0, size);
            file.write(rest.dma(), at, false).await?;
        }
        at += size as u64;
    }
    Ok(())
}
