//! The order of admission to a log: a place is taken first, without waiting, and used later.
//!
//! Owner: one log. Invariants: places are served in the order in which they were taken; a place that is
//! dropped unused, because its connection or the broker ends, does not hold up those behind it.
//! Whoever takes places in several logs takes them all at once, so that no two can wait for each other.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use super::log::Log;

/// Places in the queue of one log.
#[derive(Default)]
pub(super) struct Tickets {
    next: Cell<u64>,
    serving: Cell<u64>,
    /// Places given up before it was their turn.
    given_up: RefCell<BTreeSet<u64>>,
}

/// A place in a log's queue.
pub struct Ticket {
    log: Rc<Log>,
    number: u64,
}

impl Tickets {
    /// Whether nobody has a place.
    pub(super) fn is_empty(&self) -> bool {
        self.serving.get() == self.next.get()
    }
}

impl Log {
    /// Takes the next place.
    pub fn ticket(self: &Rc<Self>) -> Ticket {
        let number = self.tickets.next.get();
        self.tickets.next.set(number + 1);
        Ticket { log: self.clone(), number }
    }
}

impl Ticket {
    /// Waits until it is this ticket's turn.
    pub(super) async fn turn(&self) {
        self.log.progress.wait_until(|| self.log.tickets.serving.get() == self.number).await;
    }

    /// Whether this is a place in `log`'s queue.
    pub(super) fn is_for(&self, log: &Rc<Log>) -> bool {
        Rc::ptr_eq(&self.log, log)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let tickets = &self.log.tickets;
        let mut given_up = tickets.given_up.borrow_mut();
        if tickets.serving.get() != self.number {
            given_up.insert(self.number);
            return;
        }
        let mut serving = self.number + 1;
        while given_up.remove(&serving) {
            serving += 1;
        }
        tickets.serving.set(serving);
        drop(given_up);
        if tickets.next.get() > serving {
            self.log.progress.fire();
        }
    }
}
