//! A few logs over several lives: each ends by a crash at a seeded step, and at many steps before it the disk is kept
//! and recovered from, as after a kill and as after a power loss.
//!
//! What is checked: promises 1 to 4 of docs/PROMISES.md, and of the sixteen invariants those that a log can hold.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::life::{DATA, HOUR_MS, Shape, Topic, Worked, a_jump, found, open, read_all, resources};
use super::model::{Found, Model};
use crate::clock::ExpiryClock;
use crate::sim::{Canary, Crash, EPOCH_MS, Op, Random, Sim, Snapshot, World, verbose};
use crate::storage::Log;

/// Failing seeds after which no more are tried.
const FAILURES_MAX: usize = 6;

/// Lives of one run.
const LIVES_MAX: u64 = 3;

/// How a run differs from the plain one.
#[derive(Clone, Copy, Default)]
pub struct Variant {
    /// The bug that is planted.
    pub canary: Option<Canary>,
    /// The step of the first life that fails.
    pub fail_at: Option<u64>,
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Hash of everything that happened.
    pub trace: u64,
    /// Steps of the disk in the first life.
    pub steps: u64,
    /// Crash images that were recovered from.
    pub images: u64,
    /// Batches that were acknowledged.
    pub acked: u64,
}

/// A disk to start from again: whether the start before had ended, how that life did, and the disk.
type Again = (bool, Crash, World);

struct Run {
    random: Random,
    /// The journal of names keeps its order.
    ordered: bool,
    shape: Shape,
    topics: Vec<Topic>,
    epoch: i32,
    /// What time it is when the next life begins, and what the clock says.
    real_ms: i64,
    wall_ms: i64,
    /// What the clock of expiry said last, as its file remembers.
    clock_ms: Option<i64>,
    variant: Variant,
    summary: Summary,
}

/// Runs a seed to its end; what went wrong, if something did.
pub fn run(seed: u64, variant: Variant) -> Result<Summary, String> {
    caught(|| {
        let mut run = Run::new(seed, variant);
        run.lives().map(|_| run.summary)
    })
}

/// What a run comes to; a panic of the broker's is an error like any other.
pub fn caught<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let outcome = catch_unwind(AssertUnwindSafe(run));
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panicked: {}", text.unwrap_or_default()))
    })
}

/// What a seed leaves behind: the disk as a start finds it, and what must be on it. All of it is flushed.
pub fn final_disk(seed: u64) -> (Shape, Vec<Topic>, World, Random) {
    let mut run = Run::new(seed, Variant::default());
    let world = run.lives().expect("a run without faults");
    let (sim, entered) = Sim::enter(world, run.random.fork());
    let resources = resources(&run.shape, None).expect("a pool");
    for topic in &mut run.topics {
        let (log, _) = open(&run.shape, &resources, topic).expect("a start");
        topic.model = topic.model.next_life(found(&log));
    }
    drop(resources);
    drop(entered);
    let world = sim.world.borrow().after(Crash::Process, &mut run.random);
    (run.shape, run.topics, world, run.random)
}

impl Run {
    fn new(seed: u64, variant: Variant) -> Run {
        let mut random = Random::new(seed);
        let shape = Shape::of(&mut random);
        let epoch = 5;
        let topics = (0..random.within(1, 2))
            .map(|number| Topic {
                name: format!("t{number}-0"),
                first_epoch: epoch,
                epoch,
                model: Model {
                    by_size: shape.config.retention_bytes >= 0,
                    scarce: shape.scarce || variant.fail_at.is_some(),
                    ..Model::default()
                },
                clean: None,
            })
            .collect();
        let ordered = random.percent(50);
        let summary = Summary::default();
        let (real_ms, wall_ms, clock_ms) = (EPOCH_MS, EPOCH_MS, None);
        Run { random, ordered, shape, topics, epoch, real_ms, wall_ms, clock_ms, variant, summary }
    }

    fn lives(&mut self) -> Result<World, String> {
        let mut world = World::new(self.ordered);
        for directory in [DATA, "/data/meta", "/data/pool"] {
            world.make_directory(Path::new(directory));
        }
        world.sync_directory(Path::new("/"));
        world.sync_directory(Path::new(DATA));
        let lives = if self.variant.fail_at.is_some() { 2 } else { self.random.within(1, LIVES_MAX) };
        for life in 0..lives {
            world = self.life(life, world).map_err(|text| {
                let (ordered, config) = (self.ordered, self.shape.config);
                format!("life {life}: {text}; ordered: {ordered}, {config:?}")
            })?;
        }
        Ok(world)
    }

    /// Stops of all lengths between two lives, and clocks that say otherwise afterwards.
    fn time_passes(&mut self, sim: &Sim, clock: &ExpiryClock) {
        if !self.shape.jumps {
            return;
        }
        let stop_ms = [1_000, HOUR_MS, 48 * HOUR_MS][self.random.below(3) as usize];
        if self.clock_ms.is_none() || self.random.percent(70) {
            self.clock_ms = Some(clock.now_ms());
        }
        if self.random.percent(30) {
            sim.jump(a_jump(sim, &mut self.random, true));
        }
        (self.real_ms, self.wall_ms) = (sim.real_ms() + stop_ms, sim.wall_ms() + stop_ms);
    }

    fn mix(&mut self, sim: &Sim) {
        sim.note(self.summary.trace);
        self.summary.trace = sim.trace();
    }

    fn life(&mut self, life: u64, world: World) -> Result<World, String> {
        let seeded = self.random.fork();
        let (sim, entered) = Sim::enter(world, seeded);
        sim.canary.set(self.variant.canary);
        sim.set_clocks(self.real_ms, self.wall_ms);
        sim.plan.borrow_mut().fail_at = self.variant.fail_at.filter(|_| life == 0);
        let resources = match resources(&self.shape, self.clock_ms) {
            Ok(resources) => resources,
            Err(_) if sim.failed.borrow().is_some() => return Ok(self.no_start(&sim, entered)),
            Err(error) => return Err(format!("the pool: {error}")),
        };
        let mut works = Vec::new();
        let problem: Rc<RefCell<Option<String>>> = Rc::default();
        let (running, next_id) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(life * 1_000_000)));
        for at in 0..self.topics.len() {
            let log = match open(&self.shape, &resources, &self.topics[at]) {
                Ok((log, _)) => log,
                Err(_) if sim.failed.borrow().is_some() => return Ok(self.no_start(&sim, entered)),
                Err(error) => return Err(format!("a start: {error}")),
            };
            let now = found(&log);
            let topic = &mut self.topics[at];
            topic.model = topic.model.next_life(now);
            works.push(Worked {
                sim: sim.clone(),
                log,
                model: Rc::new(RefCell::new(topic.model.clone())),
                shape: self.shape.clone(),
                epoch: topic.epoch,
                problem: problem.clone(),
                faulty: self.variant.fail_at.is_some(),
                clock: resources.clock.clone(),
                running: running.clone(),
                next_id: next_id.clone(),
            });
        }
        {
            let mut plan = sim.plan.borrow_mut();
            let logs: Vec<Rc<Log>> = works.iter().map(|work| work.log.clone()).collect();
            plan.tags = Some(Rc::new(move || starts_of(logs.iter())));
            let every = self.random.within(1, 8);
            if self.variant.fail_at.is_none() {
                plan.flush_snapshots_every = every;
                plan.snapshots_at = (0..6).map(|_| sim.steps() + 1 + self.random.below(400)).collect();
            }
        }
        works.iter().for_each(Worked::start);
        let last_step = if self.random.percent(70) { sim.steps() + self.random.below(600) } else { u64::MAX };
        let ended = || running.get() == 0 || sim.steps() >= last_step || problem.borrow().is_some();
        let mut ran = sim.run_until(ended);
        if self.shape.scarce && self.variant.fail_at.is_none() && running.get() == 0 {
            works.iter().for_each(|work| sim.block_on(work.clone().goes_on()));
            ran = sim.run_until(|| running.get() == 0);
        }
        if let Some(text) = problem.take() {
            return Err(text);
        }
        if !ran {
            return Err(format!("{} tasks wait for nothing", running.get()));
        }
        if self.variant.fail_at.is_some() && life == 0 {
            after_error(&sim, &works)?;
        }
        self.end(life, sim, entered, works)
    }

    /// A start that met an error says so, and the broker does not run: the next one finds what is there.
    fn no_start(&mut self, sim: &Rc<Sim>, entered: crate::sim::Entered) -> World {
        *sim.plan.borrow_mut() = Default::default();
        drop(entered);
        let world = sim.world.borrow().clone();
        self.mix(sim);
        world.after(Crash::Process, &mut self.random)
    }

    /// Kills the process, looks at all moments that were kept, and gives the disk for the next life.
    fn end(
        &mut self,
        life: u64,
        sim: Rc<Sim>,
        entered: crate::sim::Entered,
        works: Vec<Worked>,
    ) -> Result<World, String> {
        self.time_passes(&sim, &works[0].clock);
        let starts = starts_of(works.iter().map(|work| &work.log));
        let models: Vec<Model> = works.iter().map(|work| work.model.borrow().clone()).collect();
        let mut moments = sim.snapshots.take();
        let step = sim.steps();
        if life == 0 {
            self.summary.steps = step;
        }
        drop(works);
        // (The plan holds the logs.)
        *sim.plan.borrow_mut() = Default::default();
        drop(entered);
        let world = sim.world.borrow().clone();
        moments.push(Snapshot { step, tags: starts, world });
        self.mix(&sim);
        for model in &models {
            self.summary.acked +=
                model.placed.iter().filter(|placed| placed.acked_at.is_some()).count() as u64;
        }
        self.epoch += 1;
        for topic in &mut self.topics {
            topic.epoch = self.epoch;
        }
        let last = moments.len() - 1;
        let mut next = None;
        for (at, moment) in moments.iter().enumerate() {
            for crash in [Crash::Process, Crash::Power] {
                if verbose() {
                    println!("--- {crash:?} crash of life {life} at step {}", moment.step);
                }
                let image = moment.world.after(crash, &mut self.random.fork());
                self.recover(&models, moment, crash, image.clone())
                    .map_err(|text| format!("{crash:?} crash at step {}: {text}", moment.step))?;
                if at == last && (next.is_none() || self.random.percent(50)) {
                    next = Some(image);
                }
            }
        }
        for (topic, model) in self.topics.iter_mut().zip(models) {
            topic.model = model;
        }
        Ok(next.expect("the last moment was looked at"))
    }

    /// Starts from a crash image and checks everything; crashes during that start, and right after it, too.
    fn recover(
        &mut self,
        models: &[Model],
        moment: &Snapshot,
        crash: Crash,
        image: World,
    ) -> Result<(), String> {
        self.summary.images += 1;
        let (first, again) = self.start(models, moment, crash, image, true)?;
        for (after, crash_again, image) in again {
            let (second, _) = self.start(models, moment, crash_again, image, false).map_err(|text| {
                format!("then {crash_again:?} crash (that start had ended: {after}): {text}")
            })?;
            if after && (0..first.len()).any(|at| second[at].end != first[at].end) {
                return Err(format!("a start found {first:?}, the next one {second:?}"));
            }
        }
        Ok(())
    }

    fn start(
        &mut self,
        models: &[Model],
        moment: &Snapshot,
        crash: Crash,
        image: World,
        deeper: bool,
    ) -> Result<(Vec<Found>, Vec<Again>), String> {
        let mut seeded = self.random.fork();
        let (sim, entered) = Sim::enter(image, seeded.fork());
        sim.canary.set(self.variant.canary);
        if deeper && seeded.percent(20) {
            sim.plan.borrow_mut().snapshots_at = [1 + seeded.below(25)].into();
        }
        let resources = resources(&self.shape, None).map_err(|error| format!("the pool: {error}"))?;
        let mut all = Vec::new();
        for (at, (topic, model)) in self.topics.iter().zip(models).enumerate() {
            let name = &topic.name;
            let (log, reports) =
                open(&self.shape, &resources, topic).map_err(|error| format!("{name}: {error}"))?;
            let now = found(&log);
            // (Before the first moment of a life the log began where the start found it.)
            let start_then = match moment.tags.get(2 * at..2 * at + 2) {
                Some(&[seen, marked]) => seen..=marked,
                _ => 0..=i64::MAX,
            };
            // What a failed flush has lost, the next process misses as well: only what was flushed is promised then.
            let judged = if self.variant.fail_at.is_some() { Crash::Power } else { crash };
            model
                .check(now, moment.step, judged, &start_then)
                .map_err(|text| format!("{name}: {text}; reports: {reports:?}"))?;
            let model = Rc::new(RefCell::new(model.clone()));
            sim.block_on(read_all(log, model))
                .map_err(|text| format!("{name}: {text}; reports: {reports:?}"))?;
            all.push(now);
        }
        let during = sim.snapshots.take();
        drop(resources);
        drop(entered);
        self.mix(&sim);
        let mut again: Vec<Again> = Vec::new();
        if deeper {
            for kept in during {
                let crash = if seeded.percent(50) { Crash::Power } else { crash };
                again.push((false, crash, kept.world.after(crash, &mut seeded)));
            }
            if seeded.percent(20) {
                let image = sim.world.borrow().after(Crash::Power, &mut seeded);
                again.push((true, Crash::Power, image));
            }
        }
        Ok((all, again))
    }
}

/// For each log the start that clients see, and the highest that the next life may find.
fn starts_of<'a>(logs: impl Iterator<Item = &'a Rc<Log>>) -> Vec<i64> {
    logs.flat_map(|log| [log.log_start_offset(), log.log_start_at_most()]).collect()
}

/// What must hold in a process that has met an error: the log that it concerns refuses appends, and what is visible can
/// be read.
fn after_error(sim: &Rc<Sim>, works: &[Worked]) -> Result<(), String> {
    let Some((op, path, detail)) = sim.failed.borrow().clone() else { return Ok(()) };
    let segment = path.ends_with(".log") || path.ends_with(".seg");
    // (Detail 1 is a flush of the running log, others are those of a start and of the pool.)
    let fatal = segment && (op == Op::Write || op == Op::Flush && detail == 1);
    if fatal && sim.executor.is_idle() && works.iter().all(|work| work.log.failure().is_none()) {
        return Err(format!("{op:?} of {path} failed, and every log goes on"));
    }
    for work in works {
        if let Some(failure) = work.log.failure()
            && sim.block_on(work.clone().try_append())
        {
            return Err(format!("{} takes appends after {failure}", work.log.name()));
        }
        let read = read_all(work.log.clone(), work.model.clone());
        sim.block_on(read).map_err(|text| format!("after an error: {text}"))?;
    }
    Ok(())
}

/// The seeds that are asked for, from `RINGLOG_SIM_SEEDS=A..B`.
fn seeds(otherwise: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("RINGLOG_SIM_SEEDS") else { return otherwise };
    let bounds = text.split_once("..").map(|(from, to)| (from.parse(), to.parse()));
    match bounds {
        Some((Ok(from), Ok(to))) => from..to,
        _ => panic!("RINGLOG_SIM_SEEDS is not A..B: {text}"),
    }
}

/// Runs the seeds that are asked for, on two threads, and tells of those that fail.
pub fn many_seeds(
    otherwise: std::ops::Range<u64>,
    what: &str,
    run: impl Fn(u64) -> Result<Summary, String> + Sync,
) {
    let seeds = seeds(otherwise);
    let next = AtomicU64::new(seeds.start);
    let failures = Mutex::new(Vec::new());
    let totals = Mutex::new((0, 0));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || failures.lock().expect("no panic").len() >= FAILURES_MAX {
                return;
            }
            match run(seed) {
                Ok(summary) => {
                    let mut totals = totals.lock().expect("no panic");
                    *totals = (totals.0 + summary.images, totals.1 + summary.acked);
                }
                Err(text) => failures.lock().expect("no panic").push(format!(
                    "{what} seed {seed}: {text}\n  again: ./scripts/simulate --seeds {seed}..{} --only {what}",
                    seed + 1
                )),
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let failures = failures.into_inner().expect("no panic");
    let (images, acked) = totals.into_inner().expect("no panic");
    println!(
        "{what}: {} seeds, {images} crash images, {acked} acknowledged batches",
        seeds.end - seeds.start
    );
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn logs_keep_their_promises_over_crashes() {
    many_seeds(0..500, "logs", |seed| run(seed, Variant::default()));
}
