//! An allocator that counts, so that a target can say how much memory an input may cost.
//!
//! Owner: the thread that allocates; nothing is shared. Invariants: it hands everything to the system's allocator,
//! which sanitizers know; a peak is what one thread has allocated and not freed, whoever frees it. Must not: be the
//! broker's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, with a count for each thread. To be named in `#[global_allocator]`.
pub struct Counting;

thread_local! {
    /// Bytes that this thread has allocated less those that it has freed: below zero if it frees others' memory.
    static LIVE_BYTES: Cell<isize> = const { Cell::new(0) };
    static PEAK_BYTES: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // An allocation of a thread that is about to end, whose counters are gone already, is nobody's.
    let _ = LIVE_BYTES.try_with(|live| {
        let now = live.get() + bytes;
        live.set(now);
        let _ = PEAK_BYTES.try_with(|peak| peak.set(peak.get().max(now)));
    });
}

// SAFETY: every call goes to the system's allocator unchanged; the counters are plain cells of the calling thread, and
// touching them does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promises are handed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are handed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Old and new exist side by side while the bytes are copied.
        count(new_size as isize);
        count(-(layout.size() as isize));
        // SAFETY: the caller's promises are handed on.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

/// Begins to measure on this thread: what is live now.
pub fn begin() -> isize {
    let live = LIVE_BYTES.get();
    PEAK_BYTES.set(live);
    live
}

/// The most that this thread had allocated since [`begin`] returned `before`, bytes; 0 where [`Counting`] is not the
/// process's allocator.
pub fn peak_since(before: isize) -> usize {
    usize::try_from(PEAK_BYTES.get() - before).unwrap_or(0)
}

/// Runs `work` and panics if this thread had more than `bytes_max` allocated for it at any moment.
pub fn within<R>(what: &str, bytes_max: usize, work: impl FnOnce() -> R) -> R {
    let before = begin();
    let result = work();
    let peak = peak_since(before);
    assert!(peak <= bytes_max, "{what}: {peak} bytes allocated, {bytes_max} expected at most");
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    #[test]
    fn peaks_are_seen_and_nothing_stays_counted() {
        let before = begin();
        drop(vec![1u8; 100_000]);
        let small = vec![1u8; 10];
        assert!((100_000..110_000).contains(&peak_since(before)), "{}", peak_since(before));
        drop(small);
        assert_eq!(LIVE_BYTES.get(), before);
        let caught = std::panic::catch_unwind(|| within("it", 1_000, || vec![0u8; 5_000]));
        assert!(caught.is_err(), "a bound that cannot fail holds nothing");
    }
}
