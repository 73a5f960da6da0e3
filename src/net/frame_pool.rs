//! Memory for request frames: bounded per core, reused, huge-page backed when large.
//!
//! Owner: one core. Invariants: the sum of buffers out is at most the budget, but one frame is always
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
        match idle.iter().rposition(|buffer| buffer.len() == class) {
            Some(at) => {
                self.idle_bytes.set(self.idle_bytes.get() - class);
                idle.swap_remove(at)
            }
            None => vec![0; class],
        }
    }

    /// Takes a buffer back.
    pub fn put(&self, buffer: FrameBuffer) {
        let class = buffer.len();
        self.out_bytes.set(self.out_bytes.get() - class);
        if self.idle_bytes.get() + class <= FRAME_POOL_BYTES_MAX {
            self.idle_bytes.set(self.idle_bytes.get() + class);
            self.idle.borrow_mut().push(buffer);
        }
        self.returned.fire();
    }
}
