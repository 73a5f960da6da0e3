//! The simulator's executor: one thread, one choice at a time, and a clock that only moves when nothing else can.
//!
//! Owner: one simulation. Invariants: which of the ready tasks runs next comes from the seed alone; time passes only
//! when no task is ready, and then jumps to the next sleeper; a task that is woken twice before it runs, runs once.
//! It must not look at real time or start a thread.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Wakers must be `Send`, so what they touch is behind a lock; only one thread ever takes it.
struct TaskWaker {
    id: u64,
    queued: AtomicBool,
    ready: Arc<Mutex<Vec<Arc<TaskWaker>>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            let ready = self.ready.clone();
            ready.lock().expect("one thread").push(self);
        }
    }
}

/// Tasks, those that may run, and those that sleep.
#[derive(Default)]
pub struct Executor {
    tasks: RefCell<BTreeMap<u64, Task>>,
    ready: Arc<Mutex<Vec<Arc<TaskWaker>>>>,
    timers: RefCell<BTreeMap<(u64, u64), Waker>>,
    now_us: Cell<u64>,
    next_id: Cell<u64>,
}

impl Executor {
    /// Microseconds since the simulation began.
    pub fn now_us(&self) -> u64 {
        self.now_us.get()
    }

    fn id(&self) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        id
    }

    /// Whether nothing is left to do.
    pub fn is_idle(&self) -> bool {
        self.timers.borrow().is_empty() && self.ready.lock().expect("one thread").is_empty()
    }

    /// Adds a task; it runs when it is chosen.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let id = self.id();
        self.tasks.borrow_mut().insert(id, Box::pin(task));
        Arc::new(TaskWaker { id, queued: AtomicBool::new(false), ready: self.ready.clone() }).wake();
    }

    /// Runs one task that `choose` picks from so many ready ones, or lets time pass; false when nothing is left to do.
    pub fn turn(&self, choose: impl FnOnce(usize) -> usize) -> bool {
        let woken = {
            let mut ready = self.ready.lock().expect("one thread");
            let count = ready.len();
            (count > 0).then(|| ready.swap_remove(choose(count)))
        };
        let Some(waker) = woken else {
            let Some(((at_us, _), waker)) = self.timers.borrow_mut().pop_first() else { return false };
            self.now_us.set(self.now_us.get().max(at_us));
            waker.wake();
            return true;
        };
        waker.queued.store(false, Ordering::Relaxed);
        let Some(mut task) = self.tasks.borrow_mut().remove(&waker.id) else { return true };
        let id = waker.id;
        let waker = Waker::from(waker);
        if task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            self.tasks.borrow_mut().insert(id, task);
        }
        true
    }

    /// Ends everything that runs, as the death of a process does.
    pub fn kill(&self) {
        // What a dropped task drops may spawn or wake others.
        loop {
            let Some((_, task)) = self.tasks.borrow_mut().pop_first() else { break };
            drop(task);
        }
        self.ready.lock().expect("one thread").clear();
        self.timers.borrow_mut().clear();
    }
}

/// A pause in simulated time.
pub struct Sleep {
    executor: Rc<super::Sim>,
    until_us: u64,
    key: Option<(u64, u64)>,
}

impl Sleep {
    /// Ends `us` microseconds from now.
    pub fn new(sim: Rc<super::Sim>, us: u64) -> Sleep {
        let until_us = sim.executor.now_us().saturating_add(us);
        Sleep { executor: sim, until_us, key: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let executor = &self.executor.executor;
        if executor.now_us() >= self.until_us && self.key.is_some() {
            return Poll::Ready(());
        }
        let key = self.key.unwrap_or_else(|| (self.until_us, executor.id()));
        executor.timers.borrow_mut().insert(key, cx.waker().clone());
        self.key = Some(key);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.executor.executor.timers.borrow_mut().remove(&key);
        }
    }
}
