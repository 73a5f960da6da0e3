//! How much of one core's logs is on its way to the disk at a time.
//!
//! Owner: one core. Invariants: small writes always go; a large one goes when less than the bound is under way; logs
//! that wait have their turns in the order in which they came, one large write each.
//! It must not hold a log alive that nobody else has.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::time::Instant;

use super::log::Log;
use crate::limits::{
    DIRECT_WRITE_BYTES_MIN, LONELY_WRITES_FOR, WRITES_BESIDE_LONELY_BYTES_MAX, WRITES_UNDER_WAY_BYTES_MAX,
};
use crate::rt;

/// The writes of one core that are under way. A disk serves them in order: a small one that somebody waits for stands
/// behind all that was handed to it before, and more than keeps it busy does not make it faster.
#[derive(Default)]
pub struct WriteGate {
    bytes: Cell<usize>,
    /// When a log that had nothing under way last wrote a little: somebody waits for single writes.
    lonely_at: Cell<Option<Instant>>,
    waiting: RefCell<VecDeque<Weak<Log>>>,
}

impl WriteGate {
    /// Whether large writes have to wait.
    pub(super) fn is_full(&self) -> bool {
        let bytes = self.bytes.get();
        bytes >= WRITES_UNDER_WAY_BYTES_MAX || bytes >= WRITES_BESIDE_LONELY_BYTES_MAX && self.is_shared()
    }

    fn is_shared(&self) -> bool {
        let passed = |at: Instant| rt::now().saturating_duration_since(at);
        self.lonely_at.get().is_some_and(|at| passed(at) < LONELY_WRITES_FOR)
    }

    /// A write of so many bytes begins, of a log that has others under way or (`lonely`) has not.
    pub(super) fn begins(&self, bytes: usize, lonely: bool) {
        if lonely && bytes < DIRECT_WRITE_BYTES_MIN {
            self.lonely_at.set(Some(rt::now()));
        }
        self.bytes.set(self.bytes.get() + bytes);
    }

    /// It has ended, one way or the other: those who wait go on.
    pub(super) fn ended(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() - bytes);
        while !self.is_full()
            && let Some(log) = { self.waiting.borrow_mut().pop_front() }
        {
            if let Some(log) = log.upgrade() {
                log.gate_waits.set(false);
                log.pump_writes();
            }
        }
    }

    /// Lets a log go on when there is room.
    pub(super) fn wait(&self, log: &Rc<Log>) {
        if !log.gate_waits.replace(true) {
            self.waiting.borrow_mut().push_back(Rc::downgrade(log));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = 1 << 20;
    const SMALL: usize = 4096;

    #[test]
    fn large_writes_wait_behind_the_bound_and_behind_less_beside_a_lonely_one() {
        let gate = WriteGate::default();
        let most = WRITES_UNDER_WAY_BYTES_MAX / LARGE;
        (0..most - 1).for_each(|_| gate.begins(LARGE, false));
        assert!(!gate.is_full());
        gate.begins(LARGE, true);
        assert!(gate.is_full());
        (0..most / 2).for_each(|_| gate.ended(LARGE));
        // A small write of a log that has others under way hurries nobody.
        gate.begins(SMALL, false);
        assert!(!gate.is_shared() && !gate.is_full());
        gate.begins(SMALL, true);
        assert!(gate.lonely_at.get().is_some());
    }
}
