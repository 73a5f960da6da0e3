//! Memory for request frames: bounded per core, reused, huge-page backed when large.
//!
//! Owner: one core. Invariants: the sum of buffers out and kept is at most the budget, but one frame is always
//! let through, so that a small budget slows down and never deadlocks; a buffer's bytes are initialised.
//! A reader that gets no memory waits, and TCP makes its peer wait (back-pressure, not failure).

use std::cell::{Cell, RefCell};

use crate::limits::FRAME_POOL_BYTES_MAX;
use crate::sync::Event;

/// Smallest buffer class, bytes.
const CLASS_MIN: usize = 16 << 10;

/// A buffer for one frame; give it back to the pool.
pub type FrameBuffer = Vec<u8>;

/// The frame memory of one core.
pub struct FramePool {
    budget_bytes: usize,
    out_bytes: Cell<usize>,
    idle_bytes: Cell<usize>,
    idle: RefCell<Vec<FrameBuffer>>,
    returned: Event,
}

fn class_of(size: usize) -> usize {
    size.next_power_of_two().max(CLASS_MIN)
}

impl FramePool {
    /// A pool that hands out at most `budget_bytes` at a time.
    pub fn new(budget_bytes: usize) -> FramePool {
        FramePool {
            budget_bytes,
            out_bytes: Cell::new(0),
            idle_bytes: Cell::new(0),
            idle: RefCell::default(),
            returned: Event::default(),
        }
    }

    /// A buffer of at least `size` bytes (its length is its capacity); waits while the budget is used up.
    pub async fn take(&self, size: usize) -> FrameBuffer {
        let class = class_of(size);
        self.returned
            .wait_until(|| self.out_bytes.get() == 0 || self.out_bytes.get() + class <= self.budget_bytes)
            .await;
        self.out_bytes.set(self.out_bytes.get() + class);
        let mut idle = self.idle.borrow_mut();
        if let Some(at) = idle.iter().rposition(|buffer| buffer.len() == class) {
            self.idle_bytes.set(self.idle_bytes.get() - class);
            return idle.swap_remove(at);
        }
        // Those of other sizes make room, or each size would keep what it has ever needed.
        while self.out_bytes.get() + self.idle_bytes.get() > self.budget_bytes {
            let Some(other) = idle.pop() else { break };
            self.idle_bytes.set(self.idle_bytes.get() - other.len());
        }
        vec![0; class]
    }

    /// Takes a buffer back.
    pub fn put(&self, buffer: FrameBuffer) {
        let class = buffer.len();
        self.out_bytes.set(self.out_bytes.get() - class);
        let kept_bytes = self.idle_bytes.get() + class;
        if kept_bytes <= FRAME_POOL_BYTES_MAX && self.out_bytes.get() + kept_bytes <= self.budget_bytes {
            self.idle_bytes.set(self.idle_bytes.get() + class);
            self.idle.borrow_mut().push(buffer);
        }
        self.returned.fire();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_that_are_out_and_those_that_are_kept_share_the_budget() {
        let pool = FramePool::new(1 << 20);
        let held = || pool.out_bytes.get() + pool.idle_bytes.get();
        for size in [16 << 10, 300 << 10, 20 << 10, 900 << 10, 100 << 10, 60 << 10] {
            let class = class_of(size);
            let out: Vec<FrameBuffer> = (0..(1 << 20) / class)
                .map(|_| futures_lite::future::block_on(pool.take(size)))
                .inspect(|_| assert!(held() <= 1 << 20))
                .collect();
            out.into_iter().for_each(|buffer| pool.put(buffer));
            assert!(held() <= 1 << 20, "{} bytes are kept behind frames of {size}", held());
        }
        // One frame goes through however large it is, and is not kept.
        let large = futures_lite::future::block_on(pool.take(3 << 20));
        pool.put(large);
        assert!(held() <= 1 << 20);
    }
}
