//! The real disk: glommio's direct files and its blocking threads for directory work.
//!
//! Owner: one core. The only file that opens `glommio::io` files.
//! Invariants: writes hold their buffer inside glommio's source until the completion arrives; a short
//! write is an error. Nothing here runs a blocking system call on the core's own thread.

use std::cell::RefCell;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use glommio::io::{DmaBuffer, DmaFile, OpenOptions};

use super::disk::{Disk, DiskFile, IoFuture, ReadResult};
use crate::fs;
use crate::limits::{REMOVAL_PAUSE, REMOVAL_STEP_BYTES, REMOVALS_MAX, SYNCHRONOUS_PART};
use crate::metrics::{self, Counter};
use crate::rt::blocking as off_core;

/// Direct I/O through this core's io_uring.
pub struct DmaDisk;

/// The disk of this core: the real one, or that of the simulation that runs here.
pub fn this_disk() -> Rc<dyn Disk> {
    #[cfg(test)]
    if crate::sim::current().is_some() {
        return Rc::new(crate::sim::SimDisk);
    }
    Rc::new(DmaDisk)
}

#[derive(Clone)]
struct OpenFile {
    file: Rc<DmaFile>,
    /// The same file opened with `O_DSYNC`, from the first durable write on.
    synchronous: Rc<RefCell<Option<Synchronous>>>,
}

/// A second descriptor of a file, for durable writes; counted while it is open.
struct Synchronous(Rc<DmaFile>, Counted);

/// Second descriptors of the process.
static SYNCHRONOUS: AtomicUsize = AtomicUsize::new(0);

struct Counted;

impl Counted {
    /// Takes one more, while that leaves the descriptors that every segment needs.
    fn take() -> io::Result<Counted> {
        static MOST: OnceLock<usize> = OnceLock::new();
        let most = *MOST.get_or_init(|| open_files_max() / SYNCHRONOUS_PART);
        let counted = Counted;
        match SYNCHRONOUS.fetch_add(1, Ordering::Relaxed) < most {
            true => Ok(counted),
            false => Err(io::Error::other("as many files are open twice as may be")),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        SYNCHRONOUS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many files the process may have open (`RLIMIT_NOFILE`).
fn open_files_max() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call fills one structure, which outlives it.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } {
        0 => usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX),
        _ => 0,
    }
}

/// Opens for direct I/O what a descriptor has open, whatever its name is by now.
async fn open_again(descriptor: &impl AsRawFd, flags: libc::c_int) -> io::Result<Rc<DmaFile>> {
    let by_descriptor = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    let mut options = OpenOptions::new();
    plain(options.read(true).write(true).custom_flags(flags).dma_open(&by_descriptor).await).map(Rc::new)
}

/// The file's descriptor for durable writes, opened by whoever comes first.
async fn synchronous(open: &OpenFile) -> io::Result<Rc<DmaFile>> {
    if let Some(Synchronous(file, _)) = &*open.synchronous.borrow() {
        return Ok(file.clone());
    }
    let counted = Counted::take()?;
    let file = open_again(&*open.file, libc::O_DSYNC).await?;
    // (A second one, opened meanwhile, is dropped; glommio closes it.)
    Ok(open.synchronous.borrow_mut().get_or_insert(Synchronous(file, counted)).0.clone())
}

fn plain<T>(result: Result<T, glommio::GlommioError<()>>) -> io::Result<T> {
    result.map_err(io::Error::from)
}

impl DiskFile for OpenFile {
    fn write(&self, buffer: Rc<DmaBuffer>, position: u64, durable: bool) -> IoFuture<()> {
        let open = self.clone();
        Box::pin(async move {
            // Without a descriptor for it (a quarter of all are such) a flush behind the write does the same.
            let synchronous = if durable { synchronous(&open).await.ok() } else { None };
            let flush_after = durable && synchronous.is_none();
            let file = synchronous.unwrap_or(open.file);
            let size = buffer.len();
            let written = plain(file.write_rc_at(buffer, position).await)?;
            if written != size {
                return Err(io::Error::other(format!(
                    "short write at byte {position}: {written} of {size} bytes"
                )));
            }
            if flush_after { plain(file.fdatasync().await) } else { Ok(()) }
        })
    }

    fn read(&self, position: u64, size: usize) -> IoFuture<Rc<ReadResult>> {
        let file = self.file.clone();
        Box::pin(async move {
            metrics::add(Counter::DiskReads, 1);
            metrics::add(Counter::DiskReadBytes, size as u64);
            plain(file.read_at_aligned(position, size).await).map(|read| Rc::new(ReadResult::Dma(read)))
        })
    }

    fn flush(&self) -> IoFuture<()> {
        let file = self.file.clone();
        Box::pin(async move { plain(file.fdatasync().await) })
    }

    fn truncate(&self, size: u64) -> IoFuture<()> {
        let file = self.file.clone();
        Box::pin(async move {
            let fd = file.as_raw_fd();
            let outcome = off_core(move || {
                // SAFETY: plain system call on a descriptor that `file` keeps open until it returns.
                let code = unsafe { libc::ftruncate(fd, size as i64) };
                if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
            })
            .await;
            drop(file);
            outcome
        })
    }

    fn reserve(&self, from: u64, size: u64) -> IoFuture<()> {
        let file = self.file.clone();
        Box::pin(async move {
            let fd = file.as_raw_fd();
            let outcome = off_core(move || {
                // SAFETY: plain system call on a descriptor that `file` keeps open until it returns.
                let code = unsafe { libc::fallocate(fd, 0, from as i64, size as i64) };
                if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
            })
            .await;
            drop(file);
            outcome
        })
    }
}

/// Lets glommio find out whether this device can be polled for completions; once per core, before any
/// other file is opened.
///
/// glommio probes with a read of the first file it opens and remembers the answer for the device. A read
/// of an empty or unwritten file never reaches the device, succeeds, and makes glommio busy-poll a device
/// that cannot be polled: one core at 100 % and every flush, which runs on a kernel worker of the same
/// core, starved. So it is given a block that is really on the disk.
pub async fn probe(data_dir: &Path) -> io::Result<()> {
    use std::io::Write;
    let path = data_dir.join(format!("meta/.probe-{:?}", std::thread::current().id()));
    let written = path.clone();
    off_core(move || {
        let mut file = fs::File::create(&written)?;
        file.write_all(&[1; crate::limits::BLOCK_SIZE])?;
        file.sync_all()
    })
    .await?;
    let file = plain(OpenOptions::new().read(true).write(true).dma_open(&path).await)?;
    plain(file.close().await)?;
    off_core(move || fs::remove_file(path)).await
}

/// A file to remove, and who waits for it.
type Removal = (PathBuf, flume::Sender<io::Result<()>>);

/// Starts the thread that removes files: with the processors of whoever comes first, which should be no core's thread.
pub fn start_reaper() {
    reaper();
}

/// The one thread of the process that removes files. Freeing the blocks of a large file holds the journal
/// and, on a file system mounted with `discard`, the device: so it goes in steps, with pauses.
fn reaper() -> &'static flume::Sender<Removal> {
    static REAPER: OnceLock<flume::Sender<Removal>> = OnceLock::new();
    REAPER.get_or_init(|| {
        let (queue, removals) = flume::bounded::<Removal>(REMOVALS_MAX);
        let work = move || {
            for (path, done) in removals {
                let _ = done.send(remove_in_steps(&path));
            }
        };
        // Without the thread the queue is closed, and every removal reports it.
        let _ = std::thread::Builder::new().name("ringlog-reaper".into()).spawn(work);
        queue
    })
}

fn remove_in_steps(path: &Path) -> io::Result<()> {
    let mut size = fs::metadata(path)?.len();
    if size > REMOVAL_STEP_BYTES {
        let file = fs::File::options().write(true).open(path)?;
        while size > REMOVAL_STEP_BYTES {
            size -= REMOVAL_STEP_BYTES;
            file.set_len(size)?;
            std::thread::sleep(REMOVAL_PAUSE);
        }
    }
    fs::remove_file(path)
}

/// Makes the names in a directory durable; blocking.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    fs::File::open(directory)?.sync_all()
}

/// Removes a file; fine when it is gone already. Blocking.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

/// Where the last written bytes of a file end: behind them lie only extents that are reserved and read as zeros, which
/// a scan of ten thousand idle partitions need not read. The file's length where the file system does not say.
pub fn data_end(file: &fs::File) -> io::Result<u64> {
    #[cfg(test)]
    let file = match file {
        fs::File::Real(file) => file,
        fs::File::Sim(file) => return file.data_end(),
    };
    let length = file.metadata()?.len();
    // SAFETY: plain system calls on a descriptor that `file` keeps open; nobody uses its file offset.
    let seek = |from: u64, whence| unsafe { libc::lseek(file.as_raw_fd(), from as i64, whence) };
    let mut end = 0;
    while end < length {
        let data = seek(end, libc::SEEK_DATA);
        if data < 0 {
            let nothing_more = io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO);
            return Ok(if nothing_more { end } else { length });
        }
        let hole = seek(data as u64, libc::SEEK_HOLE);
        if hole <= data {
            return Ok(length);
        }
        end = hole as u64;
    }
    Ok(end.min(length))
}

/// Bytes that the file system below `path` still has for this process; blocking.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a zeroed statvfs is valid, the path is a C string, and the call only fills the structure.
    let (code, stat) = unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(path.as_ptr(), &mut stat), stat)
    };
    if code != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Replaces `path` with `bytes` atomically and durably; blocking.
pub fn write_small_blocking(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let temporary = path.with_extension("tmp");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_parent(path)
}

impl Disk for DmaDisk {
    fn open(&self, path: &Path, create: bool) -> IoFuture<Rc<dyn DiskFile>> {
        let path = path.to_owned();
        Box::pin(async move {
            // glommio looks the path up again after opening it and panics when it is gone, as a segment
            // is that retention renames meanwhile. A descriptor's own path cannot go.
            let open = move || std::fs::File::options().read(true).write(true).create(create).open(&path);
            let held = off_core(open).await?;
            let file = open_again(&held, 0).await?;
            drop(held);
            Ok(Rc::new(OpenFile { file, synchronous: Rc::default() }) as Rc<dyn DiskFile>)
        })
    }

    fn rename(&self, from: PathBuf, to: PathBuf, durable: bool) -> IoFuture<()> {
        Box::pin(off_core(move || {
            fs::rename(&from, &to)?;
            if durable { sync_parent(&to) } else { Ok(()) }
        }))
    }

    fn recycle(&self, from: PathBuf, to: PathBuf, size_bytes: u64) -> IoFuture<()> {
        Box::pin(off_core(move || {
            let file = fs::File::options().write(true).open(&from)?;
            if file.metadata()?.len() != size_bytes {
                file.set_len(size_bytes)?;
            }
            // Also when the length is right: the cut that made it so may not be on disk yet.
            file.sync_all()?;
            fs::rename(&from, &to)?;
            sync_parent(&to)
        }))
    }

    fn remove(&self, path: PathBuf) -> IoFuture<()> {
        Box::pin(async move {
            let (done, outcome) = flume::bounded(1);
            let gone = |_| io::Error::other("the thread that removes files is gone");
            reaper().send_async((path, done)).await.map_err(|_| gone(()))?;
            outcome.recv_async().await.map_err(|_| gone(()))?
        })
    }

    fn remove_dir_all(&self, path: PathBuf) -> IoFuture<()> {
        Box::pin(off_core(move || fs::remove_dir_all(path)))
    }

    fn create_dir(&self, path: PathBuf) -> IoFuture<()> {
        Box::pin(off_core(move || {
            fs::create_dir_all(&path)?;
            sync_parent(&path)
        }))
    }

    fn write_small(&self, path: PathBuf, bytes: Vec<u8>, durable: bool) -> IoFuture<()> {
        Box::pin(off_core(move || {
            if durable {
                return write_small_blocking(&path, &bytes);
            }
            let temporary = path.with_extension("tmp");
            // Not into a file that a crash has left: unflushed, its old content could come back under the new name.
            remove_if_there(&temporary)?;
            fs::write(&temporary, &bytes)?;
            fs::rename(&temporary, &path)
        }))
    }

    fn read_small(&self, path: PathBuf) -> IoFuture<Vec<u8>> {
        Box::pin(off_core(move || fs::read(path)))
    }
}
