//! The simulator (test builds only): the broker's own storage, partitions and coordinators on a seeded executor, a
//! seeded disk and a clock that jumps. docs/SIMULATION.md says how to use it and what it checks.
//!
//! Owner: one thread. Invariants: a seed decides everything, so that two runs do the same down to the last step (the
//! trace's hash proves it); production code is compiled as it is, but for the seams `rt`, `fs` and `storage::Disk`.
//! It must not use real time, threads, the file system, or an order that a hash map chose.

mod disk;
mod executor;
pub mod fs;
mod random;
#[cfg(test)]
mod tests;
mod world;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub use disk::SimDisk;
pub use executor::{Executor, Sleep};
pub use random::Random;
pub use world::{Crash, World};

/// Wall clock at the beginning of each simulation, milliseconds since 1970.
pub const EPOCH_MS: i64 = 1_700_000_000_000;

/// Steps after which a simulation is taken for endless.
const STEPS_MAX: u64 = 5_000_000;

/// What a step of the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// A read of a file's bytes.
    Read,
    /// A write.
    Write,
    /// `fsync` or `fdatasync`, of a file or directory.
    Flush,
    /// Names, lengths, listings.
    Meta,
}

/// Bugs that are planted to see whether the checks find them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canary {
    /// A flush is answered before it is done.
    EarlyFlush,
    /// Directories are not synced.
    NoDirectorySync,
    /// Recovery takes batches of an older life of the file.
    StaleBatches,
    /// A failed flush is tried again.
    RetriedFlush,
    /// Retention shows clients a new log start before it is on disk.
    HastyStart,
    /// Compaction puts a new segment in the place of old ones before its name is durable.
    HastySwap,
    /// Compaction drops tombstones at once.
    EarlyTombstone,
    /// What goes by age goes by the system's clock, wherever it jumps to.
    JumpingClock,
    /// An acknowledgement of a share group is answered before it is stored.
    HastyShare,
    /// Coordinators answer when their records are written, not when they are flushed.
    WrittenState,
}

/// Three clocks, milliseconds since 1970.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    /// The truth.
    real_ms: i64,
    /// The one that never jumps: it begins where the wall clock is when a process starts.
    steady_ms: i64,
    /// The one that may say anything.
    wall_ms: i64,
}

/// What is kept of one moment: the disk, and how many steps had been taken.
pub struct Snapshot {
    /// Steps before it.
    pub step: u64,
    /// What the plan's `tags` said then.
    pub tags: Vec<i64>,
    /// The disk.
    pub world: World,
}

/// When something happens to the disk.
#[derive(Default)]
pub struct Plan {
    /// Keep the disk before these steps.
    pub snapshots_at: BTreeSet<u64>,
    /// Keep the disk before and after flushes, one in so many; 0 for none.
    pub flush_snapshots_every: u64,
    /// Fail this step with `EIO`.
    pub fail_at: Option<u64>,
    /// Says something about the moment that is kept.
    pub tags: Option<Rc<dyn Fn() -> Vec<i64>>>,
}

/// One simulation.
pub struct Sim {
    /// Tasks and time.
    pub executor: Executor,
    /// The disk.
    pub world: RefCell<World>,
    /// The dice.
    pub random: RefCell<Random>,
    /// What is going to happen.
    pub plan: RefCell<Plan>,
    /// Moments kept so far.
    pub snapshots: RefCell<Vec<Snapshot>>,
    /// The planted bug.
    pub canary: Cell<Option<Canary>>,
    /// Bytes that files may have in all; `None` is a disk with room.
    pub capacity: Cell<Option<u64>>,
    /// How many new names of a hundred a full disk refuses, made and renamed: a directory may need another block.
    pub names_refused: Cell<(u64, u64)>,
    /// The step that failed by plan: what it was.
    pub failed: RefCell<Option<(Op, String, u64)>>,
    steps: Cell<u64>,
    flushes: Cell<u64>,
    trace: Cell<u64>,
    /// What the clocks said when the simulation began.
    began: Cell<Clocks>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Sim>>> = const { RefCell::new(None) };
}

/// The simulation that runs on this thread, if one does.
pub fn current() -> Option<Rc<Sim>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Whether a planted bug is wanted.
pub fn planted(canary: Canary) -> bool {
    current().is_some_and(|sim| sim.canary.get() == Some(canary))
}

/// An id that the seed chose, inside a simulation.
pub fn random_uuid() -> Option<uuid::Uuid> {
    let sim = current()?;
    let mut random = sim.random.borrow_mut();
    Some(uuid::Uuid::from_u64_pair(random.next(), random.next()))
}

/// Whether every step is printed: `RINGLOG_SIM_VERBOSE` is set.
pub fn verbose() -> bool {
    static VERBOSE: OnceLock<bool> = OnceLock::new();
    *VERBOSE.get_or_init(|| std::env::var_os("RINGLOG_SIM_VERBOSE").is_some())
}

/// The simulation is the thread's until this is dropped.
pub struct Entered(Rc<Sim>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.executor.kill();
        CURRENT.set(None);
    }
}

impl Sim {
    /// A simulation of `world`, which becomes the thread's.
    pub fn enter(world: World, random: Random) -> (Rc<Sim>, Entered) {
        assert!(current().is_none(), "one simulation at a time");
        let sim = Rc::new(Sim {
            executor: Executor::default(),
            world: RefCell::new(world),
            random: RefCell::new(random),
            plan: RefCell::default(),
            snapshots: RefCell::default(),
            canary: Cell::new(None),
            capacity: Cell::new(None),
            names_refused: Cell::new((25, 25)),
            failed: RefCell::default(),
            steps: Cell::new(0),
            flushes: Cell::new(0),
            trace: Cell::new(0xcbf2_9ce4_8422_2325),
            began: Cell::new(Clocks { real_ms: EPOCH_MS, steady_ms: EPOCH_MS, wall_ms: EPOCH_MS }),
        });
        CURRENT.set(Some(sim.clone()));
        (sim.clone(), Entered(sim))
    }

    /// Steps of the disk so far.
    pub fn steps(&self) -> u64 {
        self.steps.get()
    }

    /// A hash of everything that happened so far: equal for equal seeds.
    pub fn trace(&self) -> u64 {
        self.trace.get()
    }

    /// Adds to the trace.
    pub fn note(&self, what: u64) {
        let mut trace = self.trace.get();
        for byte in what.to_le_bytes() {
            trace = (trace ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        self.trace.set(trace);
    }

    /// Simulated wall clock, milliseconds since 1970.
    pub fn wall_ms(&self) -> i64 {
        self.began.get().wall_ms + self.passed_ms()
    }

    /// A clock that never jumps, milliseconds.
    pub fn steady_ms(&self) -> i64 {
        self.began.get().steady_ms + self.passed_ms()
    }

    /// What time it really is, which no clock of the broker knows.
    pub fn real_ms(&self) -> i64 {
        self.began.get().real_ms + self.passed_ms()
    }

    fn passed_ms(&self) -> i64 {
        (self.executor.now_us() / 1000) as i64
    }

    /// Begins another life at this time, with a wall clock that says something else.
    pub fn set_clocks(&self, real_ms: i64, wall_ms: i64) {
        self.began.set(Clocks { real_ms, steady_ms: wall_ms, wall_ms });
    }

    /// Moves the wall clock.
    pub fn jump(&self, by_ms: i64) {
        let began = self.began.get();
        self.began.set(Clocks { wall_ms: began.wall_ms + by_ms, ..began });
        self.note(by_ms as u64);
    }

    /// The same as an [`Instant`], for code that measures waits.
    pub fn instant(&self) -> Instant {
        static BASE: OnceLock<Instant> = OnceLock::new();
        *BASE.get_or_init(Instant::now) + Duration::from_micros(self.executor.now_us())
    }

    /// A pause of between `from` and `to` microseconds.
    pub fn pause(self: &Rc<Self>, from_us: u64, to_us: u64) -> Sleep {
        let us = self.random.borrow_mut().within(from_us, to_us);
        Sleep::new(self.clone(), us)
    }

    /// Adds a task.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.executor.spawn(task);
    }

    /// Runs until `done` or until nothing is left to do; whether `done`.
    pub fn run_until(&self, done: impl Fn() -> bool) -> bool {
        let mut turns = 0;
        while !done() {
            turns += 1;
            assert!(turns < STEPS_MAX, "the simulation does not end");
            let choose = |count: usize| {
                let chosen = self.random.borrow_mut().below(count as u64);
                self.note(chosen);
                chosen as usize
            };
            if !self.executor.turn(choose) {
                return done();
            }
        }
        true
    }

    /// Runs a future to its end.
    pub fn block_on<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> T {
        let result = Rc::new(RefCell::new(None));
        let place = result.clone();
        self.spawn(async move {
            let value = future.await;
            *place.borrow_mut() = Some(value);
        });
        assert!(self.run_until(|| result.borrow().is_some()), "a simulated task waits for nothing");
        result.take().expect("it has just ended")
    }

    /// One step of the disk: it is counted, a moment may be kept before it, and it may fail.
    pub fn step(&self, op: Op, path: &Path, detail: u64) -> io::Result<()> {
        let step = self.steps.get() + 1;
        self.steps.set(step);
        self.note(op as u64);
        self.note(detail);
        self.note(u64::from(crc32c::crc32c(path.as_os_str().as_encoded_bytes())));
        if verbose() {
            println!("{step} {op:?} {} {detail} at {} us", path.display(), self.executor.now_us());
        }
        let at_flush = op == Op::Flush && {
            let every = self.plan.borrow().flush_snapshots_every;
            self.flushes.set(self.flushes.get() + 1);
            every > 0 && self.flushes.get().is_multiple_of(every)
        };
        if at_flush || self.plan.borrow().snapshots_at.contains(&step) {
            self.keep_moment(step - 1);
        }
        if self.plan.borrow().fail_at == Some(step) {
            *self.failed.borrow_mut() = Some((op, path.display().to_string(), detail));
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }

    fn keep_moment(&self, step: u64) {
        let world = self.world.borrow().clone();
        let tags = self.plan.borrow().tags.clone();
        let tags = tags.map(|tags| tags()).unwrap_or_default();
        self.snapshots.borrow_mut().push(Snapshot { step, tags, world });
    }

    /// Leaves so much room on the disk, for a while; `None` is as much as anybody wants.
    pub fn leave_room(&self, bytes: Option<u64>) {
        let used = self.world.borrow().used_bytes();
        self.capacity.set(bytes.map(|bytes| used + bytes));
        self.note(bytes.unwrap_or(u64::MAX));
    }

    /// Whether a file may grow by so much.
    fn room_for(&self, bytes: u64) -> io::Result<()> {
        match self.capacity.get() {
            Some(capacity) if self.world.borrow().used_bytes() + bytes > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    /// Whether a directory may get another name, so many of a hundred of which a full disk refuses.
    fn room_for_name(&self, refused: u64) -> io::Result<()> {
        let full = match self.capacity.get() {
            Some(_) => refused == 100 || self.room_for(world::PAGE).is_err(),
            None => false,
        };
        if full && self.random.borrow_mut().percent(refused) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    /// Makes a file in a directory that must be there.
    pub fn make_file(&self, path: &Path) -> io::Result<u64> {
        let mut world = self.world.borrow_mut();
        match path.parent().and_then(|parent| world.node(parent)) {
            Some(world::Node::Directory) => Ok(world.create(path)),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn skips_directory_sync(&self) -> bool {
        self.canary.get() == Some(Canary::NoDirectorySync)
    }
}
