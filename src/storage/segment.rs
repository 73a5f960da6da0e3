//! One segment of a partition's log: a file of record batches, back to back from byte 0.
//!
//! Owner: the partition's core. Invariants: `size_bytes <= allocated_bytes` while the segment is active;
//! once sealed, the file is exactly `size_bytes` long and is never written again; every batch in it has
//! an offset of at least `base_offset`, which is at least as large as any offset that stale bytes of a
//! recycled file can hold (see `segment_pool`). It must not decide when to roll or to delete.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::disk::{Disk, DiskFile};
use super::index::{SegmentIndex, SegmentSummary};
use crate::rt;

/// One segment file and what is known of it.
pub struct Segment {
    /// Offset of the first record that may be in it.
    pub base_offset: i64,
    /// Log position of its first byte: positions count bytes over all segments since start-up.
    pub base_position: u64,
    /// Bytes of batches appended.
    pub size_bytes: Cell<u64>,
    /// Bytes for which the file system has reserved space.
    pub allocated_bytes: Cell<u64>,
    /// Offset after the last record appended.
    pub next_offset: Cell<i64>,
    /// Largest record timestamp, milliseconds; -1 when empty.
    pub max_timestamp: Cell<i64>,
    /// Wall clock of the first append, milliseconds.
    pub created_ms: Cell<i64>,
    /// The same on the steady clock, for `segment.ms`: a clock that jumps rolls nothing.
    pub opened_ms: Cell<i64>,
    /// No more appends; the file has its final length.
    pub sealed: Cell<bool>,
    /// The file carries its final name, so that recovery would find it.
    pub named: Cell<bool>,
    /// Compaction is putting another file in its place: it stays in the list, and its file open.
    pub pinned: Cell<bool>,
    /// Sparse index.
    pub index: RefCell<SegmentIndex>,
    path: RefCell<PathBuf>,
    file: RefCell<Option<Rc<dyn DiskFile>>>,
}

/// File name of a segment, as Kafka names it.
pub fn file_name(base_offset: i64) -> String {
    format!("{base_offset:020}.log")
}

/// File name of a sealed segment's index.
pub fn index_file_name(base_offset: i64) -> String {
    format!("{base_offset:020}.ridx")
}

impl Segment {
    /// A segment over a file that is open already.
    pub fn new(
        base_offset: i64,
        base_position: u64,
        path: PathBuf,
        file: Option<Rc<dyn DiskFile>>,
    ) -> Segment {
        Segment {
            base_offset,
            base_position,
            size_bytes: Cell::new(0),
            allocated_bytes: Cell::new(0),
            next_offset: Cell::new(base_offset),
            max_timestamp: Cell::new(-1),
            created_ms: Cell::new(0),
            opened_ms: Cell::new(0),
            sealed: Cell::new(false),
            named: Cell::new(true),
            pinned: Cell::new(false),
            index: RefCell::default(),
            path: RefCell::new(path),
            file: RefCell::new(file),
        }
    }

    /// Takes over what recovery or an index file found.
    pub fn adopt(&self, summary: &SegmentSummary) {
        self.size_bytes.set(summary.size_bytes);
        self.next_offset.set(summary.next_offset);
        self.max_timestamp.set(summary.max_timestamp);
        *self.index.borrow_mut() = summary.index.clone();
    }

    /// Log position after the last byte appended.
    pub fn end_position(&self) -> u64 {
        self.base_position + self.size_bytes.get()
    }

    /// Whether its first append is so long ago.
    pub fn is_older_than(&self, ms: i64) -> bool {
        let opened_ms = self.opened_ms.get();
        opened_ms > 0 && rt::steady_ms().saturating_sub(opened_ms) >= ms
    }

    /// The path of the file now.
    pub fn path(&self) -> PathBuf {
        self.path.borrow().clone()
    }

    /// Notes that the file was renamed.
    pub fn set_path(&self, path: &Path) {
        path.clone_into(&mut self.path.borrow_mut());
    }

    /// The open file, opening it when this is the first use.
    pub async fn file(&self, disk: &Rc<dyn Disk>) -> io::Result<Rc<dyn DiskFile>> {
        if let Some(file) = self.file.borrow().as_ref() {
            return Ok(file.clone());
        }
        let path = self.path();
        let file = disk.open(&path, false).await?;
        Ok(self.file.borrow_mut().get_or_insert(file).clone())
    }

    /// The file if it is open.
    pub fn open_file(&self) -> Option<Rc<dyn DiskFile>> {
        self.file.borrow().clone()
    }

    /// Closes the file as soon as nobody uses it.
    pub fn close(&self) {
        self.file.borrow_mut().take();
    }
}
