//! Which connections of a core wait for their peer, and for how long: one sweep instead of a timer for each.
//!
//! Owner: one core. Invariants: a connection is registered as long as its [`Activity`] lives; nothing is done for a
//! request but raising a number, and no clock is read. It must not touch sockets: the reader is woken with a verdict
//! and acts on it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;

use crate::limits::{IDLE_CHECK_MS, IDLE_CHECK_MS_MIN, IDLE_SWEEP_MAX};
use crate::rt;
use crate::shard::Shard;

/// What a reader that waits is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Wait on.
    #[default]
    Wait,
    /// Give the read buffer's memory back, then wait on.
    Trim,
    /// End the connection: `connections.max.idle.ms` is over.
    Close,
}

/// What the sweep knows of one connection.
#[derive(Default)]
struct Seat {
    /// Raised with every receive.
    heard: Cell<u64>,
    /// `heard` as the last sweep found it.
    swept: Cell<u64>,
    /// When a sweep first found that number, by [`rt::steady_ms`].
    quiet_since_ms: Cell<i64>,
    /// Whether the reader waits for bytes.
    waits: Cell<bool>,
    /// Whether the reader holds more memory than it has to.
    roomy: Cell<bool>,
    verdict: Cell<Verdict>,
    waker: RefCell<Option<Waker>>,
}

impl Seat {
    fn sweep(&self, now_ms: i64, idle_ms_max: Option<u64>) {
        if self.swept.replace(self.heard.get()) != self.heard.get() || !self.waits.get() {
            self.quiet_since_ms.set(now_ms);
            return;
        }
        let quiet_ms = u64::try_from(now_ms - self.quiet_since_ms.get()).unwrap_or(0);
        let verdict = if idle_ms_max.is_some_and(|most| quiet_ms >= most) {
            Verdict::Close
        } else if self.roomy.get() {
            Verdict::Trim
        } else {
            return;
        };
        self.verdict.set(verdict);
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

/// The connections of one listener on one core.
#[derive(Default)]
pub(super) struct Seats {
    seats: RefCell<Vec<Option<Rc<Seat>>>>,
    free: RefCell<Vec<usize>>,
}

impl Seats {
    /// Registers a connection.
    pub(super) fn take(self: &Rc<Self>) -> Activity {
        // The number a sweep has never seen, so that the first one only notes when it came by.
        let seat = Rc::new(Seat { heard: Cell::new(1), ..Seat::default() });
        let mut seats = self.seats.borrow_mut();
        let at = self.free.borrow_mut().pop().unwrap_or_else(|| {
            seats.push(None);
            seats.len() - 1
        });
        seats[at] = Some(seat.clone());
        Activity { seat, seats: self.clone(), at }
    }

    /// Looks after the connections, over and over.
    pub(super) async fn sweep(&self, shard: &Shard) {
        let idle_ms_max = shard.config.connection_idle_ms_max;
        let interval_ms =
            idle_ms_max.map_or(IDLE_CHECK_MS, |most| (most / 2).clamp(IDLE_CHECK_MS_MIN, IDLE_CHECK_MS));
        loop {
            rt::sleep_ms(interval_ms).await;
            let now_ms = rt::steady_ms();
            let mut from = 0;
            while from < self.seats.borrow().len() {
                for seat in self.seats.borrow().iter().skip(from).take(IDLE_SWEEP_MAX).flatten() {
                    seat.sweep(now_ms, idle_ms_max);
                }
                from += IDLE_SWEEP_MAX;
                rt::yield_now().await;
            }
        }
    }
}

/// One connection's registration, held by its reader.
pub(super) struct Activity {
    seat: Rc<Seat>,
    seats: Rc<Seats>,
    at: usize,
}

impl Activity {
    /// Bytes came.
    pub(super) fn heard(&self) {
        self.seat.heard.set(self.seat.heard.get() + 1);
    }

    /// The reader begins to wait; `roomy` when it holds more memory than it has to.
    pub(super) fn begins_to_wait(&self, roomy: bool) {
        self.seat.verdict.set(Verdict::Wait);
        self.seat.waits.set(true);
        self.seat.roomy.set(roomy);
    }

    /// The reader goes on.
    pub(super) fn ends_to_wait(&self) {
        self.seat.waits.set(false);
    }

    /// Takes the verdict; `waker` is woken when there is another one.
    pub(super) fn verdict(&self, waker: &Waker) -> Verdict {
        let mut known = self.seat.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
        self.seat.verdict.take()
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        // The waker keeps the connection's task, which is ending.
        self.seats.seats.borrow_mut()[self.at] = None;
        self.seats.free.borrow_mut().push(self.at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_connections_give_memory_back_and_then_end() {
        let seats = Rc::new(Seats::default());
        let activity = seats.take();
        let sweep =
            |now_ms| seats.seats.borrow().iter().flatten().for_each(|seat| seat.sweep(now_ms, Some(1000)));
        activity.begins_to_wait(true);
        sweep(0);
        assert_eq!(activity.verdict(Waker::noop()), Verdict::Wait);
        sweep(500);
        assert_eq!(activity.verdict(Waker::noop()), Verdict::Trim);
        activity.begins_to_wait(false);
        sweep(900);
        assert_eq!(activity.verdict(Waker::noop()), Verdict::Wait, "there is nothing to give back");
        activity.heard();
        sweep(1100);
        sweep(2000);
        assert_eq!(activity.verdict(Waker::noop()), Verdict::Wait, "it was heard of");
        sweep(2100);
        assert_eq!(activity.verdict(Waker::noop()), Verdict::Close);
        activity.ends_to_wait();
        sweep(9000);
        assert_eq!(activity.verdict(Waker::noop()), Verdict::Wait, "it does not wait for its peer");
    }

    #[test]
    fn seats_are_used_again() {
        let seats = Rc::new(Seats::default());
        let (first, second) = (seats.take(), seats.take());
        drop(first);
        let third = seats.take();
        assert_eq!((third.at, second.at), (0, 1));
        assert_eq!(seats.seats.borrow().len(), 2);
    }
}
