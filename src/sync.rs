//! Single-core synchronisation: an event that wakes everybody, and a one-shot result.
//!
//! Owner: the core that made it (not `Send`). No locks, no atomics. Wake-ups may be spurious, so every
//! waiter re-checks its condition; none may hold a `RefCell` borrow while it waits.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

#[derive(Default)]
struct Waiters {
    slots: Vec<Option<Waker>>,
    free: Vec<usize>,
}

/// Wakes every waiter each time it is fired.
///
/// A waiter holds one slot, however often it is polled, and gives it back when it is dropped: a task that
/// waits for several things at once must not leave a waker behind at each poll.
#[derive(Default)]
pub struct Event {
    generation: Cell<u64>,
    waiters: RefCell<Waiters>,
}

impl Event {
    /// A number that changes with every [`fire`](Self::fire); take it before checking a condition.
    pub fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// Wakes all who wait now.
    pub fn fire(&self) {
        self.generation.set(self.generation.get() + 1);
        if self.waiters.borrow().slots.is_empty() {
            return;
        }
        let waiters = std::mem::take(&mut *self.waiters.borrow_mut());
        for waker in waiters.slots.into_iter().flatten() {
            waker.wake();
        }
    }

    /// Resolves when the event has been fired after `seen` was taken.
    pub fn wait_past(&self, seen: u64) -> Wait<'_> {
        Wait { event: self, seen, slot: None }
    }

    /// Waits until `condition` holds, checked at once and after each firing.
    pub async fn wait_until(&self, mut condition: impl FnMut() -> bool) {
        while !condition() {
            let seen = self.generation();
            self.wait_past(seen).await;
        }
    }
}

/// Waiting for one firing of an [`Event`].
pub struct Wait<'a> {
    event: &'a Event,
    seen: u64,
    slot: Option<usize>,
}

impl Future for Wait<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.event.generation.get() != self.seen {
            return Poll::Ready(());
        }
        let mut waiters = self.event.waiters.borrow_mut();
        let slot = match self.slot {
            Some(slot) => slot,
            None => waiters.free.pop().unwrap_or_else(|| {
                waiters.slots.push(None);
                waiters.slots.len() - 1
            }),
        };
        if !waiters.slots[slot].as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            waiters.slots[slot] = Some(cx.waker().clone());
        }
        drop(waiters);
        self.slot = Some(slot);
        Poll::Pending
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        // A firing since has taken all slots away.
        if let Some(slot) = self.slot.filter(|_| self.event.generation.get() == self.seen) {
            let mut waiters = self.event.waiters.borrow_mut();
            waiters.slots[slot] = None;
            waiters.free.push(slot);
        }
    }
}

/// Turns, one after another, in the order in which they were asked for.
///
/// A core runs its tasks in the order in which they became ready. Those that do a lot at a time wait for a turn first:
/// then at most one of them is ready, however many there are, and nobody with little to do stands behind all of them.
#[derive(Default)]
pub struct Turns {
    taken: Cell<bool>,
    waiting: RefCell<VecDeque<Rc<Place>>>,
}

#[derive(Default)]
struct Place {
    state: Cell<PlaceState>,
    waker: Cell<Option<Waker>>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum PlaceState {
    #[default]
    Waits,
    /// It is this one's turn.
    Called,
    /// Nobody waits any more.
    Left,
}

/// A turn, until it is dropped; not to be held over a wait.
pub struct Turn<'a>(&'a Turns);

struct WaitForTurn<'a> {
    turns: &'a Turns,
    place: Rc<Place>,
}

impl Turns {
    /// Waits for a turn.
    pub async fn turn(&self) -> Turn<'_> {
        if self.taken.replace(true) {
            let place = Rc::<Place>::default();
            self.waiting.borrow_mut().push_back(place.clone());
            return WaitForTurn { turns: self, place }.await;
        }
        Turn(self)
    }

    fn call_next(&self) {
        while let Some(place) = { self.waiting.borrow_mut().pop_front() } {
            if place.state.get() == PlaceState::Left {
                continue;
            }
            place.state.set(PlaceState::Called);
            if let Some(waker) = place.waker.take() {
                waker.wake();
            }
            return;
        }
        self.taken.set(false);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.call_next();
    }
}

impl<'a> Future for WaitForTurn<'a> {
    type Output = Turn<'a>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Turn<'a>> {
        if self.place.state.get() == PlaceState::Called {
            // (The turn is its holder's from here.)
            self.place.state.set(PlaceState::Left);
            return Poll::Ready(Turn(self.turns));
        }
        self.place.waker.set(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for WaitForTurn<'_> {
    fn drop(&mut self) {
        if self.place.state.replace(PlaceState::Left) == PlaceState::Called {
            self.turns.call_next();
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_come_in_order_and_pass_those_who_left() {
        let turns = Turns::default();
        let mut cx = Context::from_waker(Waker::noop());
        let ask = || {
            let mut turn = Box::pin(turns.turn());
            let now = turn.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            (turn, now)
        };
        let Poll::Ready(first) = ask().1 else { panic!("nobody else has a turn") };
        let (second, waits) = ask();
        assert!(waits.is_pending());
        let ((mut third, _), (mut fourth, _)) = (ask(), ask());
        drop(second);
        assert!(third.as_mut().poll(&mut cx).is_pending());
        drop(first);
        assert!(fourth.as_mut().poll(&mut cx).is_pending());
        let Poll::Ready(_turn) = third.as_mut().poll(&mut cx) else { panic!("the second has left") };
        drop(_turn);
        // It was called, and leaves without having looked.
        drop(fourth);
        assert!(!turns.taken.get());
        assert!(ask().1.is_ready());
    }

    /// A task that waits for two events and is woken by one again and again left a waker in the other at
    /// each poll, until glommio's 15-bit reference count of the task overflowed after 32,767 requests.
    #[test]
    fn a_waiter_holds_one_slot_however_often_it_is_polled() {
        let event = Event::default();
        let mut wait = Box::pin(event.wait_past(event.generation()));
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..100 {
            assert!(wait.as_mut().poll(&mut cx).is_pending());
        }
        assert_eq!(event.waiters.borrow().slots.len(), 1);
        drop(wait);
        let mut again = Box::pin(event.wait_past(event.generation()));
        assert!(again.as_mut().poll(&mut cx).is_pending());
        assert_eq!(event.waiters.borrow().slots.len(), 1);
        event.fire();
        assert!(again.as_mut().poll(&mut cx).is_ready());
    }
}
