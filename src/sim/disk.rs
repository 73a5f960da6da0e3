//! The simulated disk behind `storage::Disk`: reads, writes and flushes take seeded time and complete in any order.
//!
//! Owner: one simulation. Invariants: a write's bytes are taken when it is issued and must not have changed when it
//! completes (the device may read them at any time in between); a flush covers what had completed when it was issued.
//! What the real disk does with blocking calls (names, small files) is the real code, over `crate::fs`.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use glommio::io::DmaBuffer;

use super::fs::{SimFile, open_sim};
use super::{Canary, Op, Sim, current};
use crate::storage::{Disk, DiskFile, DmaDisk, IoFuture, ReadResult};

/// The disk of the simulation that runs on this thread.
pub struct SimDisk;

struct OpenFile {
    sim: Rc<Sim>,
    file: Rc<SimFile>,
    path: PathBuf,
    /// What a failed flush left, for the canary that tries again.
    retried: RefCell<bool>,
}

/// Takes the time of one operation: mostly short, sometimes long.
async fn latency(sim: &Rc<Sim>, typical_us: u64) {
    let long = sim.random.borrow_mut().percent(5);
    let most = if long { typical_us * 100 } else { typical_us * 3 };
    sim.pause(typical_us / 4, most).await;
}

impl OpenFile {
    async fn flush_once(&self) -> io::Result<()> {
        let (sim, file) = (&self.sim, self.file.number()?);
        let outcome = sim.step(Op::Flush, &self.path, 1);
        let covered = sim.world.borrow().begin_flush(file);
        latency(sim, 500).await;
        let mut world = sim.world.borrow_mut();
        match outcome {
            Ok(()) => world.finish_flush(file, &covered),
            Err(_) => world.fail_flush(file, &covered, &mut sim.random.borrow_mut()),
        }
        drop(world);
        // The moment after a flush is as good a moment for a crash as the one before.
        if outcome.is_ok() {
            sim.step(Op::Flush, &self.path, 2)?;
        }
        outcome
    }
}

impl DiskFile for OpenFile {
    fn write(&self, buffer: Rc<DmaBuffer>, position: u64, durable: bool) -> IoFuture<()> {
        let (sim, file, path) = (self.sim.clone(), self.file.clone(), self.path.clone());
        Box::pin(async move {
            let number = file.number()?;
            assert!(
                position.is_multiple_of(4096) && buffer.len().is_multiple_of(4096),
                "direct I/O is aligned"
            );
            let bytes: Rc<[u8]> = buffer.as_bytes().into();
            let outcome = sim.step(Op::Write, &path, position);
            sim.note(u64::from(crc32c::crc32c(&bytes)));
            let id = sim.world.borrow_mut().begin_write(number, position, bytes.clone());
            latency(&sim, 100).await;
            assert!(*bytes == *buffer.as_bytes(), "{}: bytes in flight were changed", path.display());
            let now_ms = sim.wall_ms();
            let mut world = sim.world.borrow_mut();
            match outcome {
                Ok(()) => {
                    world.finish_write(number, id, now_ms);
                    // (The canary: a write that says it is durable, and is as volatile as any other.)
                    if durable && sim.canary.get() != Some(Canary::EarlyFlush) {
                        world.keep_write(number, id);
                    }
                }
                Err(_) => world.fail_write(number, id, &mut sim.random.borrow_mut()),
            }
            outcome
        })
    }

    fn read(&self, position: u64, size: usize) -> IoFuture<Rc<ReadResult>> {
        let (sim, file) = (self.sim.clone(), self.file.clone());
        Box::pin(async move {
            latency(&sim, 80).await;
            file.read_at(position, size).map(|bytes| Rc::new(ReadResult::Simulated(bytes)))
        })
    }

    fn flush(&self) -> IoFuture<()> {
        let this = OpenFile {
            sim: self.sim.clone(),
            file: self.file.clone(),
            path: self.path.clone(),
            retried: RefCell::new(false),
        };
        Box::pin(async move {
            if this.sim.canary.get() == Some(Canary::EarlyFlush) {
                let sim = this.sim.clone();
                sim.spawn(async move {
                    let _ = this.flush_once().await;
                });
                return Ok(());
            }
            match this.flush_once().await {
                Err(_)
                    if this.sim.canary.get() == Some(Canary::RetriedFlush) && !this.retried.replace(true) =>
                {
                    this.flush_once().await
                }
                outcome => outcome,
            }
        })
    }

    fn truncate(&self, size: u64) -> IoFuture<()> {
        let (sim, file) = (self.sim.clone(), self.file.clone());
        Box::pin(async move {
            latency(&sim, 50).await;
            file.set_size(size)
        })
    }

    fn reserve(&self, from: u64, size: u64) -> IoFuture<()> {
        let (sim, file) = (self.sim.clone(), self.file.clone());
        Box::pin(async move {
            latency(&sim, 50).await;
            file.reserve(from + size)
        })
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, create: bool) -> IoFuture<Rc<dyn DiskFile>> {
        let path = path.to_owned();
        Box::pin(async move {
            let sim = current().expect("a simulation");
            latency(&sim, 20).await;
            let file = Rc::new(open_sim(sim.clone(), &path, create)?);
            file.number()?;
            Ok(Rc::new(OpenFile { sim, file, path, retried: RefCell::new(false) }) as Rc<dyn DiskFile>)
        })
    }

    fn rename(&self, from: PathBuf, to: PathBuf, durable: bool) -> IoFuture<()> {
        DmaDisk.rename(from, to, durable)
    }

    fn recycle(&self, from: PathBuf, to: PathBuf, size_bytes: u64) -> IoFuture<()> {
        DmaDisk.recycle(from, to, size_bytes)
    }

    fn remove(&self, path: PathBuf) -> IoFuture<()> {
        Box::pin(crate::rt::blocking(move || super::fs::remove_file(path)))
    }

    fn remove_dir_all(&self, path: PathBuf) -> IoFuture<()> {
        DmaDisk.remove_dir_all(path)
    }

    fn create_dir(&self, path: PathBuf) -> IoFuture<()> {
        DmaDisk.create_dir(path)
    }

    fn write_small(&self, path: PathBuf, bytes: Vec<u8>, durable: bool) -> IoFuture<()> {
        DmaDisk.write_small(path, bytes, durable)
    }

    fn read_small(&self, path: PathBuf) -> IoFuture<Vec<u8>> {
        DmaDisk.read_small(path)
    }
}
