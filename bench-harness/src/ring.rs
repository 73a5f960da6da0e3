//! O_DIRECT file access through io_uring: submit by slot number, reap by slot number.
//!
//! Owner: one thread. Invariant: a slot's memory is in the caller's `HugeBuffer`, which the caller keeps and
//! leaves alone until the slot's completion came. Must not: grow beyond its depth, hide an I/O error.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use io_uring::{IoUring, opcode, types};

use crate::error::{Result, io_err};
use crate::limits::{DIRECT_ALIGN, SINK_BUFFER_BYTES};
use crate::sys::HugeBuffer;

/// What a slot does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Job {
    /// Writes the buffer to the file.
    Write,
    /// Reads the file into the buffer.
    Read,
}

/// An io_uring over one file.
#[derive(Debug)]
pub(crate) struct Ring {
    uring: IoUringDebug,
    file: RawFd,
    in_flight: usize,
}

/// `IoUring` has no Debug of its own.
struct IoUringDebug(IoUring);

impl std::fmt::Debug for IoUringDebug {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("IoUring")
    }
}

impl Ring {
    /// A ring of that depth over an open file, which must outlive it.
    pub(crate) fn new(file: &File, depth: usize) -> io::Result<Self> {
        let entries = (depth as u32).next_power_of_two().max(4);
        Ok(Self { uring: IoUringDebug(IoUring::new(entries)?), file: file.as_raw_fd(), in_flight: 0 })
    }

    /// The descriptor to poll for completions.
    pub(crate) fn fd(&self) -> RawFd {
        self.uring.0.as_raw_fd()
    }

    /// Operations not yet reaped.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Starts a read or write of `length` bytes at `file_offset`, with memory from `buffer_offset` on. The
    /// caller keeps `buffer` alive, and the range untouched, until the completion.
    pub(crate) fn submit(
        &mut self,
        job: Job,
        slot: u64,
        buffer: &HugeBuffer,
        (buffer_offset, length): (usize, usize),
        file_offset: u64,
    ) -> io::Result<()> {
        assert!(buffer_offset + length <= buffer.len(), "inside the buffer");
        let memory = buffer.pointer(buffer_offset);
        let target = types::Fd(self.file);
        let entry = match job {
            Job::Write => {
                opcode::Write::new(target, memory, length as u32).offset(file_offset).build().user_data(slot)
            }
            Job::Read => {
                opcode::Read::new(target, memory, length as u32).offset(file_offset).build().user_data(slot)
            }
        };
        self.push(&entry)
    }

    /// Starts an fdatasync.
    pub(crate) fn submit_sync(&mut self, slot: u64) -> io::Result<()> {
        let flags = types::FsyncFlags::DATASYNC;
        self.push(&opcode::Fsync::new(types::Fd(self.file)).flags(flags).build().user_data(slot))
    }

    fn push(&mut self, entry: &io_uring::squeue::Entry) -> io::Result<()> {
        // SAFETY: memory named by the entry stays valid until its completion: callers keep their HugeBuffer
        // until `in_flight` is zero, as `submit` demands.
        unsafe { self.uring.0.submission().push(entry) }
            .map_err(|_| io::Error::other("the submission queue is full"))?;
        self.in_flight += 1;
        self.uring.0.submit().map(drop)
    }

    /// Waits for at least `wanted` completions (0 polls) and hands out their slots and byte counts.
    pub(crate) fn reap(&mut self, wanted: usize, mut done: impl FnMut(u64, usize)) -> io::Result<()> {
        if wanted > 0 {
            loop {
                match self.uring.0.submit_and_wait(wanted.min(self.in_flight)) {
                    Ok(_) => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let mut failure = None;
        for entry in self.uring.0.completion() {
            self.in_flight -= 1;
            match usize::try_from(entry.result()) {
                Ok(bytes) => done(entry.user_data(), bytes),
                Err(_) => failure = Some(io::Error::from_raw_os_error(-entry.result())),
            }
        }
        failure.map_or(Ok(()), Err)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel may still be reading or writing memory that is freed next: wait for it.
        while self.in_flight > 0 {
            if self.reap(1, |_, _| ()).is_err() && self.in_flight == 0 {
                break;
            }
        }
    }
}

/// A file written once, so that overwriting it neither allocates nor converts extents; removed on drop.
#[derive(Debug)]
pub(crate) struct ProbeFile {
    /// Open with O_DIRECT for reading and writing.
    pub(crate) file: File,
    /// Size in bytes, a multiple of the buffer size.
    pub(crate) size: u64,
    path: PathBuf,
}

impl ProbeFile {
    /// Makes and fills a file in `folder`.
    pub(crate) fn create(folder: &Path, name: &str, size: u64) -> Result<Self> {
        let path = folder.join(format!(".ringlog-bench-{}-{name}", std::process::id()));
        let size = size.next_multiple_of(SINK_BUFFER_BYTES as u64).max(SINK_BUFFER_BYTES as u64 * 16);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(libc::O_DIRECT)
            .open(&path)
            .map_err(io_err(format!("open {} with O_DIRECT", path.display())))?;
        let probe = Self { file, size, path };
        probe.fill().map_err(io_err("fill the probe file"))?;
        Ok(probe)
    }

    fn fill(&self) -> io::Result<()> {
        // SAFETY: plain system call on an open descriptor.
        if unsafe { libc::fallocate(self.file.as_raw_fd(), 0, 0, self.size as libc::off_t) } < 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EOPNOTSUPP) {
                return Err(error);
            }
        }
        let buffer = HugeBuffer::new(SINK_BUFFER_BYTES)?;
        let mut ring = Ring::new(&self.file, 8)?;
        for chunk in 0..self.size / SINK_BUFFER_BYTES as u64 {
            if ring.in_flight() == 8 {
                ring.reap(1, |_, _| ())?;
            }
            // Every slot writes the same bytes, which nobody changes.
            ring.submit(Job::Write, 0, &buffer, (0, SINK_BUFFER_BYTES), chunk * SINK_BUFFER_BYTES as u64)?;
        }
        while ring.in_flight() > 0 {
            ring.reap(1, |_, _| ())?;
        }
        self.file.sync_all()
    }

    /// The next offset of a sequence that wraps around at the end of the file.
    pub(crate) fn advance(&self, offset: u64, length: usize) -> u64 {
        assert!(length.is_multiple_of(DIRECT_ALIGN), "O_DIRECT writes are aligned");
        let next = offset + length as u64;
        if next + SINK_BUFFER_BYTES as u64 > self.size { 0 } else { next }
    }
}

impl Drop for ProbeFile {
    fn drop(&mut self) {
        // A probe file left behind only takes room; the run's result stands.
        std::fs::remove_file(&self.path).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        // Needs a file system with O_DIRECT; the target folder is one wherever cargo builds.
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let probe = ProbeFile::create(folder.path(), "ring", 16 << 20).unwrap();
        let mut buffer = HugeBuffer::new(2 << 20).unwrap();
        buffer.bytes_mut()[..4096].fill(7);
        let mut ring = Ring::new(&probe.file, 4).unwrap();
        ring.submit(Job::Write, 1, &buffer, (0, 4096), 8192).unwrap();
        ring.reap(1, |slot, bytes| assert_eq!((slot, bytes), (1, 4096))).unwrap();
        ring.submit_sync(2).unwrap();
        ring.reap(1, |slot, _| assert_eq!(slot, 2)).unwrap();
        ring.submit(Job::Read, 3, &buffer, (1 << 20, 4096), 8192).unwrap();
        ring.reap(1, |_, bytes| assert_eq!(bytes, 4096)).unwrap();
        assert!(buffer.bytes()[1 << 20..(1 << 20) + 4096].iter().all(|byte| *byte == 7));
        let path = probe.path.clone();
        drop(probe);
        assert!(!path.exists());
    }
}
