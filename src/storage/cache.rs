//! The budget of tail memory of one core, shared by all its logs: first in, first out. It is small, so that the same
//! memory is filled, written, sent and filled again while the processor's cache has it, and grows up to what the
//! configuration allows for readers whom more would serve: those that read what has just been freed.
//!
//! Owner: one core. Invariant: what is over the budget is freed oldest first; chunks that are not
//! written yet are never freed, so unwritten bytes can exceed the budget only by the sum of the logs'
//! backlog bounds. The queue has few entries more than there are chunks, though retention frees chunks around it.
//! It must not copy or write anything.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use super::log::Log;
use super::tail::Eviction;
use crate::limits::{CHUNK_SIZE_MAX, CHUNK_SIZE_MIN, TAIL_BYTES_MIN, TAIL_QUEUE_SLACK, TAIL_UNNEEDED_NS};
use crate::maps::HashMap;
use crate::metrics;

/// Tail memory accounting of one core.
pub struct TailCache {
    limit_bytes: usize,
    used_bytes: Cell<usize>,
    /// What may be used now, bytes.
    allowed_bytes: Cell<usize>,
    /// When a reader last needed the older half, or more than there was.
    needed_ns: Cell<u64>,
    /// Bytes charged since the budget last grew.
    charged_bytes: Cell<usize>,
    queue: RefCell<VecDeque<Weak<Log>>>,
}

impl TailCache {
    /// A budget of `limit_bytes`.
    pub fn new(limit_bytes: usize) -> Rc<TailCache> {
        Rc::new(TailCache {
            limit_bytes,
            used_bytes: Cell::new(0),
            allowed_bytes: Cell::new(limit_bytes.min(TAIL_BYTES_MIN)),
            needed_ns: Cell::new(0),
            charged_bytes: Cell::new(0),
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
        self.charged_bytes.set(self.charged_bytes.get() + bytes);
        // One entry for each chunk, as each entry frees one: a large batch takes several.
        for _ in 0..bytes.div_ceil(CHUNK_SIZE_MAX) {
            self.queue.borrow_mut().push_back(Rc::downgrade(log));
        }
        self.prune();
        // Each turn drops one queue entry or stops: chunks still in flight wait for the next charge.
        let mut turns = self.queue.borrow().len();
        self.shrink_if_unneeded(metrics::now_ns());
        let allowed_bytes = self.allowed_bytes.get();
        while self.used_bytes.get() > allowed_bytes && turns > 0 {
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

    /// Drops entries of chunks that went with their segments: below the budget, nothing else ever would.
    fn prune(&self) {
        let mut queue = self.queue.borrow_mut();
        let chunks_max = self.used_bytes.get() / CHUNK_SIZE_MIN;
        if queue.len() > 2 * chunks_max + TAIL_QUEUE_SLACK {
            keep_newest(&mut queue, |entry| {
                let log = entry.upgrade()?;
                Some((Rc::as_ptr(&log) as usize, log.tail_chunk_count()))
            });
        }
    }

    /// Notes a read that the older half of a log's tail served.
    pub(super) fn note_old_read(&self) {
        self.needed_ns.set(metrics::now_ns());
    }

    /// Notes a read that no tail served, of bytes that lie `lag_bytes` before the end of their log. If the whole budget
    /// would have served it, the budget doubles, and has the time to be filled before it does so again.
    pub(super) fn note_missed_read(&self, lag_bytes: u64) {
        if lag_bytes > self.limit_bytes as u64 {
            return;
        }
        self.needed_ns.set(metrics::now_ns());
        let allowed_bytes = self.allowed_bytes.get();
        if self.charged_bytes.get() >= allowed_bytes {
            self.charged_bytes.set(0);
            self.allowed_bytes.set((allowed_bytes * 2).min(self.limit_bytes));
        }
    }

    /// Halves the budget when nobody has needed the older half for a while.
    fn shrink_if_unneeded(&self, now_ns: u64) {
        let least_bytes = self.limit_bytes.min(TAIL_BYTES_MIN);
        if self.allowed_bytes.get() <= least_bytes {
            return;
        }
        if now_ns.saturating_sub(self.needed_ns.get()) >= TAIL_UNNEEDED_NS {
            self.needed_ns.set(now_ns);
            self.allowed_bytes.set((self.allowed_bytes.get() / 2).max(least_bytes));
        }
    }

    /// Accounts for memory given back.
    pub(super) fn discharge(&self, bytes: usize) {
        self.used_bytes.set(self.used_bytes.get().saturating_sub(bytes));
    }
}

/// Keeps, of the entries with one key, the newest, as many as `of` says beside that key; none of those without a key.
fn keep_newest<T>(queue: &mut VecDeque<T>, of: impl Fn(&T) -> Option<(usize, usize)>) {
    let mut left: HashMap<usize, usize> = HashMap::default();
    let mut kept: VecDeque<T> = VecDeque::new();
    for entry in std::mem::take(queue).into_iter().rev() {
        let Some((key, count)) = of(&entry) else { continue };
        let left = left.entry(key).or_insert(count);
        if *left > 0 {
            *left -= 1;
            kept.push_front(entry);
        }
    }
    *queue = kept;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The soak of 2026-11-30 found a heap that grew in a straight line: an entry for each chunk that was ever filled
    /// stayed in the queue when retention freed the chunk, and the budget was never reached.
    #[test]
    fn entries_of_chunks_that_are_gone_go_and_the_others_keep_their_order() {
        let mut queue: VecDeque<usize> = VecDeque::from([1, 2, 1, 3, 1, 2, 4, 1]);
        keep_newest(&mut queue, |log| match log {
            1 => Some((1, 2)),
            2 => Some((2, 9)),
            3 => None,
            log => Some((*log, 0)),
        });
        assert_eq!(queue, [2, 1, 2, 1]);
    }

    #[test]
    fn the_budget_grows_for_readers_that_just_miss_and_has_time_to_fill() {
        let cache = TailCache::new(4 * TAIL_BYTES_MIN);
        let fill = |bytes| cache.charged_bytes.set(cache.charged_bytes.get() + bytes);
        assert_eq!(cache.allowed_bytes.get(), TAIL_BYTES_MIN);
        cache.note_missed_read(1);
        assert_eq!(cache.allowed_bytes.get(), TAIL_BYTES_MIN, "not full yet: nothing was freed");
        fill(TAIL_BYTES_MIN);
        cache.note_missed_read(5 * TAIL_BYTES_MIN as u64);
        assert_eq!(cache.allowed_bytes.get(), TAIL_BYTES_MIN, "too far behind for any budget");
        cache.note_missed_read(TAIL_BYTES_MIN as u64);
        cache.note_missed_read(TAIL_BYTES_MIN as u64);
        assert_eq!(cache.allowed_bytes.get(), 2 * TAIL_BYTES_MIN, "once for what was charged");
        fill(4 * TAIL_BYTES_MIN);
        cache.note_missed_read(1);
        fill(8 * TAIL_BYTES_MIN);
        cache.note_missed_read(1);
        assert_eq!(cache.allowed_bytes.get(), 4 * TAIL_BYTES_MIN, "never above the configured one");
        cache.shrink_if_unneeded(cache.needed_ns.get());
        assert_eq!(cache.allowed_bytes.get(), 4 * TAIL_BYTES_MIN, "just needed");
        cache.shrink_if_unneeded(cache.needed_ns.get() + TAIL_UNNEEDED_NS);
        assert_eq!(cache.allowed_bytes.get(), 2 * TAIL_BYTES_MIN);
    }
}
