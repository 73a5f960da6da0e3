//! The budget of tail memory of one core, shared by all its logs: first in, first out.
//!
//! Owner: one core. Invariant: what is over the budget is freed oldest first; chunks that are not
//! written yet are never freed, so unwritten bytes can exceed the budget only by the sum of the logs'
//! backlog bounds. It must not copy or write anything.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use super::log::Log;
use super::tail::Eviction;
use crate::limits::{CHUNK_SIZE_MAX, TAIL_READ_RECENTLY_NS, TAIL_UNREAD_BYTES_MAX};
use crate::metrics;

/// Tail memory accounting of one core.
pub struct TailCache {
    limit_bytes: usize,
    used_bytes: Cell<usize>,
    /// When somebody read last, if ever.
    read_ns: Cell<Option<u64>>,
    queue: RefCell<VecDeque<Weak<Log>>>,
}

impl TailCache {
    /// A budget of `limit_bytes`.
    pub fn new(limit_bytes: usize) -> Rc<TailCache> {
        Rc::new(TailCache {
            limit_bytes,
            used_bytes: Cell::new(0),
            read_ns: Cell::new(None),
            queue: RefCell::default(),
        })
    }

    /// Bytes in use.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes.get()
    }

    /// Accounts for a chunk that `log` allocated and frees the oldest chunks over the budget.
    pub(super) fn charge(&self, log: &Rc<Log>, bytes: usize) {
        self.used_bytes.set(self.used_bytes.get() + bytes);
        // One entry for each chunk, as each entry frees one: a large batch takes several.
        for _ in 0..bytes.div_ceil(CHUNK_SIZE_MAX) {
            self.queue.borrow_mut().push_back(Rc::downgrade(log));
        }
        // Each turn drops one queue entry or stops: chunks still in flight wait for the next charge.
        let mut turns = self.queue.borrow().len();
        let limit_bytes = self.limit_bytes();
        while self.used_bytes.get() > limit_bytes && turns > 0 {
            turns -= 1;
            let Some(oldest) = self.queue.borrow_mut().pop_front() else { return };
            let Some(oldest_log) = oldest.upgrade() else { continue };
            match oldest_log.evict_oldest() {
                Eviction::Freed(bytes) => self.discharge(bytes),
                Eviction::Busy => self.queue.borrow_mut().push_back(oldest),
                Eviction::Empty => {}
            }
        }
    }

    /// Notes that somebody reads: from now on there is a use for more than the newest bytes.
    pub(super) fn note_read(&self) {
        self.read_ns.set(Some(metrics::now_ns()));
    }

    fn limit_bytes(&self) -> usize {
        let recent = |since_ns| metrics::now_ns().saturating_sub(since_ns) < TAIL_READ_RECENTLY_NS;
        match self.read_ns.get() {
            Some(since_ns) if recent(since_ns) => self.limit_bytes,
            _ => self.limit_bytes.min(TAIL_UNREAD_BYTES_MAX),
        }
    }

    /// Accounts for memory given back.
    pub(super) fn discharge(&self, bytes: usize) {
        self.used_bytes.set(self.used_bytes.get().saturating_sub(bytes));
    }
}
