//! The disk as the log sees it: the seam at which a simulated disk can be put in.
//!
//! Owner: one core. All positions and lengths of `write` and `read` are multiples of the block size.
//! Invariants a disk must keep: a write's memory stays alive until its completion even when the future
//! is dropped; a flush covers every write that completed before it was called, and nothing more; a durable
//! write covers itself, and nothing more.
//! It must not retry: the first error is the log's to handle.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;

use glommio::io::DmaBuffer;
pub use glommio::io::ReadResult;

/// A boxed future of one disk operation.
pub type IoFuture<T> = Pin<Box<dyn Future<Output = io::Result<T>>>>;

/// One open segment file.
pub trait DiskFile {
    /// Writes the whole buffer at `position`; completes when the device has taken it or, if `durable`, when it
    /// survives power loss (`O_DSYNC`: this write only, not what was written before it).
    fn write(&self, buffer: Rc<DmaBuffer>, position: u64, durable: bool) -> IoFuture<()>;
    /// Reads up to `size` bytes from `position` (fewer at the end of the file).
    fn read(&self, position: u64, size: usize) -> IoFuture<Rc<ReadResult>>;
    /// Makes all completed writes survive power loss (`fdatasync`).
    fn flush(&self) -> IoFuture<()>;
    /// Cuts or extends the file.
    fn truncate(&self, size: u64) -> IoFuture<()>;
    /// Reserves blocks for `[from, from + size)` and extends the file over them.
    fn reserve(&self, from: u64, size: u64) -> IoFuture<()>;
}

/// File-system operations.
pub trait Disk {
    /// Opens a file for direct reading and writing, creating it if `create`.
    fn open(&self, path: &Path, create: bool) -> IoFuture<Rc<dyn DiskFile>>;
    /// Renames a file or directory and makes the new directory entry durable if `durable`.
    fn rename(&self, from: PathBuf, to: PathBuf, durable: bool) -> IoFuture<()>;
    /// Cuts a file to `size_bytes` and renames it, both durably and in this order.
    fn recycle(&self, from: PathBuf, to: PathBuf, size_bytes: u64) -> IoFuture<()>;
    /// Removes a file, off the core's thread: unlinking a large file takes a tenth of a second.
    fn remove(&self, path: PathBuf) -> IoFuture<()>;
    /// Removes a directory and everything in it, off the core's thread.
    fn remove_dir_all(&self, path: PathBuf) -> IoFuture<()>;
    /// Creates a directory, durably.
    fn create_dir(&self, path: PathBuf) -> IoFuture<()>;
    /// Replaces a small file atomically, and durably if `durable`.
    fn write_small(&self, path: PathBuf, bytes: Vec<u8>, durable: bool) -> IoFuture<()>;
    /// Reads a small file whole.
    fn read_small(&self, path: PathBuf) -> IoFuture<Vec<u8>>;
}
