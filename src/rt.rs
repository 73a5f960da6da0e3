//! The executor seam: spawning, sleeping, blocking work and the clock of one core.
//!
//! Owner: the core that calls. Everything above storage uses these functions and never the runtime itself. In test
//! builds a simulated executor stands behind them on a thread where a simulation runs (`sim`); the broker's own build
//! has no trace of it.

use std::cell::Cell;
use std::future::Future;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::sync::oneshot;

/// Runs a task on this core until it ends; its panic aborts the process (see `main`).
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    #[cfg(test)]
    if let Some(sim) = crate::sim::current() {
        return sim.spawn(task);
    }
    glommio::spawn_local(task).detach();
}

/// Sleeps without holding the core.
pub async fn sleep_ms(ms: u64) {
    #[cfg(test)]
    if let Some(sim) = crate::sim::current() {
        return crate::sim::Sleep::new(sim, ms.saturating_mul(1000)).await;
    }
    glommio::timer::sleep(Duration::from_millis(ms)).await;
}

/// Gives other tasks of this core a turn.
pub async fn yield_now() {
    #[cfg(test)]
    if let Some(sim) = crate::sim::current() {
        return crate::sim::Sleep::new(sim, 0).await;
    }
    glommio::executor().yield_now().await;
}

/// How long tasks may run before the core looks at its rings again. Longer, and a core with much input reads all of it
/// before it submits the first write: the disk then waits for the network, and the network for the disk.
const SLICE: Duration = Duration::from_micros(200);

/// Computations that wait for the thread of [`aside`], of all cores; more wait with whoever asks.
const ASIDE_QUEUE_MAX: usize = 256;

/// Interval of [`heartbeat`], milliseconds.
const HEARTBEAT_MS: u64 = 100;

/// A pause that ends with the core's next look at its rings.
const TURN: Duration = Duration::from_micros(3);

thread_local! {
    /// When the core last looked at its rings, as far as the tasks that read input know.
    static SLICE_BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Gives the core a turn at its rings if the slice is used up: what was asked of the disk meanwhile is submitted, and
/// what it has done is noticed. Whoever loops over input that may never end calls this.
///
/// Not glommio's preemption timer: when it fires before the first task of a round has run, glommio takes the round for
/// an empty one and goes to sleep over tasks that are ready. So this waits until no task is, all but in vain.
pub async fn yield_if_needed() {
    #[cfg(test)]
    if crate::sim::current().is_some() {
        return yield_now().await;
    }
    let now = Instant::now();
    if SLICE_BEGAN.get().is_some_and(|began| now.saturating_duration_since(began) < SLICE) {
        return;
    }
    glommio::timer::sleep(TURN).await;
    slice_begins();
}

/// Wakes the core now and then, for ever: whatever makes the runtime sleep over a task that is ready then costs a tenth
/// of a second and not the connection.
pub async fn heartbeat() {
    loop {
        sleep_ms(HEARTBEAT_MS).await;
    }
}

/// Notes that the core has just looked at its rings: called by who was woken by them.
pub fn slice_begins() {
    SLICE_BEGAN.set(Some(Instant::now()));
}

thread_local! {
    /// Blocking calls of this core that have not returned.
    static BLOCKING: Cell<usize> = const { Cell::new(0) };
}

/// Runs blocking work on a thread beside the core; it runs to its end even if nobody waits any more.
pub async fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    let (promise, result) = oneshot();
    BLOCKING.set(BLOCKING.get() + 1);
    spawn(async move {
        let value = run_blocking(work).await;
        BLOCKING.set(BLOCKING.get() - 1);
        promise.fill(value);
    });
    result.wait().await
}

async fn run_blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    #[cfg(test)]
    if let Some(sim) = crate::sim::current() {
        sim.pause(10, 500).await;
        return work();
    }
    glommio::executor().spawn_blocking(work).await
}

type Work = Box<dyn FnOnce() + Send>;

/// Starts the thread for [`aside`], which does `first` before all else: with the processors of whoever comes first,
/// which should be no core's thread.
pub fn start_aside(first: impl FnOnce() + Send + 'static) {
    thread_aside(first);
}

/// The one thread of the process for [`aside`].
fn thread_aside(first: impl FnOnce() + Send + 'static) -> &'static flume::Sender<Work> {
    static ASIDE: OnceLock<flume::Sender<Work>> = OnceLock::new();
    ASIDE.get_or_init(|| {
        let (queue, works) = flume::bounded::<Work>(ASIDE_QUEUE_MAX);
        let work = move || {
            first();
            works.into_iter().for_each(|work| work());
        };
        // Without the thread the queue is closed, and every computation is made where it is asked for.
        let _ = std::thread::Builder::new().name("ringlog-aside".into()).spawn(work);
        queue
    })
}

/// Makes a long computation beside the core. It is made to its end even if nobody waits any more.
pub async fn aside<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    #[cfg(test)]
    if let Some(sim) = crate::sim::current() {
        sim.pause(10, 500).await;
        return work();
    }
    let (done, result) = flume::bounded(1);
    let mut work: Work = Box::new(move || drop(done.send(work())));
    if let Err(flume::SendError(back)) = thread_aside(|| {}).send_async(work).await {
        work = back;
        work();
    }
    // (A panic in there has ended the process.)
    result.recv_async().await.expect("the computation sends its result")
}

/// Starts a thread of its own beside the cores and runs there what `make` makes, until it ends; the thread may block.
pub fn beside<F: Future<Output = ()> + 'static>(
    name: String,
    make: impl FnOnce() -> F + Send + 'static,
) -> std::io::Result<()> {
    #[cfg(test)]
    if let Some(sim) = crate::sim::current() {
        sim.spawn(make());
        return Ok(());
    }
    std::thread::Builder::new().name(name).spawn(move || futures_lite::future::block_on(make()))?;
    Ok(())
}

/// Memory for direct I/O, of this core.
pub fn allocate_io_buffer(size_bytes: usize) -> glommio::io::DmaBuffer {
    #[cfg(test)]
    if crate::sim::current().is_some() {
        return glommio::allocate_dma_buffer_global(size_bytes);
    }
    glommio::allocate_dma_buffer(size_bytes)
}

/// Waits until no blocking call of this core is out: an executor that ends earlier loses their answers,
/// which glommio's threads take for a reason to panic.
pub async fn quiesce() {
    while BLOCKING.get() > 0 {
        sleep_ms(1).await;
    }
}

/// A clock that never jumps, milliseconds: the wall clock as it was when this was first asked, and the time since.
pub fn steady_ms() -> i64 {
    #[cfg(test)]
    if let Some(sim) = crate::sim::current() {
        return sim.steady_ms();
    }
    static START: OnceLock<(Instant, i64)> = OnceLock::new();
    let (began, wall_ms) = START.get_or_init(|| (Instant::now(), wall_ms()));
    wall_ms + began.elapsed().as_millis() as i64
}

/// Now, for measuring how long something takes.
pub fn now() -> Instant {
    #[cfg(test)]
    if let Some(sim) = crate::sim::current() {
        return sim.instant();
    }
    Instant::now()
}

/// Wall clock, milliseconds since the Unix epoch (Kafka timestamps).
pub fn wall_ms() -> i64 {
    #[cfg(test)]
    if let Some(sim) = crate::sim::current() {
        return sim.wall_ms();
    }
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
