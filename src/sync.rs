//! Single-core synchronisation: an event that wakes everybody, and a one-shot result.
//!
//! Owner: the core that made it (not `Send`). No locks, no atomics. Wake-ups may be spurious, so every
//! waiter re-checks its condition; none may hold a `RefCell` borrow while it waits.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Wakes every waiter each time it is fired.
#[derive(Default)]
pub struct Event {
    generation: Cell<u64>,
    wakers: RefCell<Vec<Waker>>,
}

impl Event {
    /// A number that changes with every [`fire`](Self::fire); take it before checking a condition.
    pub fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// Wakes all who wait now.
    pub fn fire(&self) {
        self.generation.set(self.generation.get() + 1);
        if self.wakers.borrow().is_empty() {
            return;
        }
        let wakers = std::mem::take(&mut *self.wakers.borrow_mut());
        for waker in wakers {
            waker.wake();
        }
    }

    /// Waits until the event has been fired after `seen` was taken.
    pub async fn wait_past(&self, seen: u64) {
        poll_fn(|cx| {
            if self.generation.get() != seen {
                return Poll::Ready(());
            }
            self.wakers.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Waits until `condition` holds, checked at once and after each firing.
    pub async fn wait_until(&self, mut condition: impl FnMut() -> bool) {
        while !condition() {
            let seen = self.generation();
            self.wait_past(seen).await;
        }
    }

    /// Registers `waker` for the next firing (used by waits over several events).
    pub fn register(&self, waker: &Waker) {
        let mut wakers = self.wakers.borrow_mut();
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }
}

struct OneshotState<T> {
    value: Option<T>,
    waker: Option<Waker>,
}

/// The filling side of a result that one task waits for.
pub struct Promise<T>(Rc<RefCell<OneshotState<T>>>);

/// The waiting side of a [`Promise`].
pub struct Pending<T>(Rc<RefCell<OneshotState<T>>>);

/// Makes the two sides of a one-shot result.
pub fn oneshot<T>() -> (Promise<T>, Pending<T>) {
    let state = Rc::new(RefCell::new(OneshotState { value: None, waker: None }));
    (Promise(state.clone()), Pending(state))
}

impl<T> Promise<T> {
    /// Fills the result and wakes the waiter.
    pub fn fill(self, value: T) {
        let mut state = self.0.borrow_mut();
        state.value = Some(value);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

impl<T> Pending<T> {
    /// Waits for the result.
    pub async fn wait(self) -> T {
        poll_fn(|cx| {
            let mut state = self.0.borrow_mut();
            match state.value.take() {
                Some(value) => Poll::Ready(value),
                None => {
                    state.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Whether the result is there.
    pub fn is_ready(&self) -> bool {
        self.0.borrow().value.is_some()
    }
}
