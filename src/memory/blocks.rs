//! Blocks for direct I/O: aligned, huge-page backed, reused while they are still in the cache.
//!
//! Owner: each thread has lists of its own; a block freed on another thread stays with that one.
//! Why not glommio's registered arena: its buddy allocator rounds a 1 MiB batch plus one block up to 2 MiB,
//! takes a twentieth of the CPU at load, and pins and clears all memory at start (docs/DECISIONS.md).
//! Invariants: a block belongs to exactly one class and goes back to the list of that class; regions are
//! never given back to the system, so memory is bounded by the peak of what the callers' budgets allow.
//! It must not allocate from the global allocator: it is part of it.

use std::alloc::Layout;
use std::cell::UnsafeCell;
use std::ptr;

/// Alignment by which I/O blocks are told from all other allocations, bytes.
pub(super) const BLOCK_ALIGN: usize = 4096;

/// Largest block that is kept in lists, bytes.
const BLOCK_BYTES_MAX: usize = 3 << 20;

/// Smallest class, bytes.
const CLASS_BYTES_MIN: usize = 4096;

/// Every class above 64 KiB has this much slack, so that a power of two plus a partial block at either
/// end still fits its class, bytes.
const CLASS_SLACK_BYTES: usize = 8192;

/// Classes without slack: 4, 8, 16, 32, 64 KiB; then four per doubling up to 3 MiB.
const SMALL_CLASSES: usize = 5;
const CLASSES_PER_DOUBLING: usize = 4;
const CLASSES: usize = SMALL_CLASSES + 6 * CLASSES_PER_DOUBLING;

/// Memory is taken from the system in regions of this size, bytes.
const REGION_BYTES: usize = 32 << 20;

struct Lists {
    /// First free block of each class; a free block's first word points to the next.
    free: [*mut u8; CLASSES],
    region_at: *mut u8,
    region_left: usize,
    taken: u64,
    region_bytes: u64,
}

thread_local! {
    static LISTS: UnsafeCell<Lists> = const {
        UnsafeCell::new(Lists {
            free: [ptr::null_mut(); CLASSES],
            region_at: ptr::null_mut(),
            region_left: 0,
            taken: 0,
            region_bytes: 0,
        })
    };
}

/// Whether a block of this layout is ours.
pub(super) fn is_block(layout: &Layout) -> bool {
    layout.align() == BLOCK_ALIGN && layout.size() >= CLASS_BYTES_MIN && layout.size() <= BLOCK_BYTES_MAX
}

fn class_of(size: usize) -> usize {
    if size <= CLASS_BYTES_MIN << (SMALL_CLASSES - 1) {
        return size.div_ceil(CLASS_BYTES_MIN).next_power_of_two().trailing_zeros() as usize;
    }
    (SMALL_CLASSES..CLASSES).find(|class| class_size(*class) >= size).unwrap_or(CLASSES - 1)
}

const fn class_size(class: usize) -> usize {
    if class < SMALL_CLASSES {
        return CLASS_BYTES_MIN << class;
    }
    let step = class - SMALL_CLASSES;
    let base = (CLASS_BYTES_MIN << (SMALL_CLASSES - 1)) << (step / CLASSES_PER_DOUBLING);
    base / CLASSES_PER_DOUBLING * (CLASSES_PER_DOUBLING + 1 + step % CLASSES_PER_DOUBLING) + CLASS_SLACK_BYTES
}

const _: () = assert!(class_size(CLASSES - 1) >= BLOCK_BYTES_MAX);

/// Takes a block; null when the system has no memory.
pub(super) fn take(layout: &Layout) -> *mut u8 {
    let class = class_of(layout.size());
    LISTS
        .try_with(|lists| {
            // SAFETY: the lists are this thread's own and no reference to them outlives this closure; it
            // calls nothing that allocates.
            let lists = unsafe { &mut *lists.get() };
            lists.taken += 1;
            let first = lists.free[class];
            if !first.is_null() {
                // SAFETY: a free block's first word holds the pointer to the next one.
                lists.free[class] = unsafe { *first.cast::<*mut u8>() };
                return first;
            }
            lists.carve(class_size(class))
        })
        .unwrap_or(ptr::null_mut())
}

/// Gives a block back.
pub(super) fn put(block: *mut u8, layout: &Layout) {
    let class = class_of(layout.size());
    // A thread that is ending has no lists any more: the block is lost, once per thread at most.
    let _ = LISTS.try_with(|lists| {
        // SAFETY: as in `take`; the block is free, large enough for a pointer and aligned.
        unsafe {
            let lists = &mut *lists.get();
            *block.cast::<*mut u8>() = lists.free[class];
            lists.free[class] = block;
        }
    });
}

/// Blocks taken by this thread, and bytes it got from the system for them.
pub(super) fn thread_counts() -> (u64, u64) {
    LISTS
        .try_with(|lists| {
            // SAFETY: as in `take`.
            let lists = unsafe { &*lists.get() };
            (lists.taken, lists.region_bytes)
        })
        .unwrap_or_default()
}

impl Lists {
    fn carve(&mut self, size: usize) -> *mut u8 {
        if self.region_left < size {
            let layout = Layout::from_size_align(REGION_BYTES, BLOCK_ALIGN).expect("a constant layout");
            let region = super::map_huge(&layout);
            if region.is_null() {
                return region;
            }
            self.region_at = region;
            self.region_left = REGION_BYTES;
            self.region_bytes += REGION_BYTES as u64;
        }
        let block = self.region_at;
        // SAFETY: the region has at least `size` bytes left.
        self.region_at = unsafe { block.add(size) };
        self.region_left -= size;
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_hold_what_they_are_chosen_for_and_waste_little() {
        for size in (CLASS_BYTES_MIN..=BLOCK_BYTES_MAX).step_by(4096) {
            let class = class_size(class_of(size));
            assert!(class >= size && class.is_multiple_of(BLOCK_ALIGN), "{size} in {class}");
            assert!(
                class <= size * 2 && (size < 128 << 10 || class <= size + size / 3 + 8192),
                "{size} in {class}"
            );
        }
    }

    #[test]
    fn blocks_are_reused_and_apart() {
        let layout = Layout::from_size_align((1 << 20) + 4096, BLOCK_ALIGN).unwrap();
        let (a, b) = (take(&layout), take(&layout));
        assert!((a as usize).abs_diff(b as usize) >= layout.size());
        assert_eq!(a as usize % BLOCK_ALIGN, 0);
        put(a, &layout);
        assert_eq!(take(&layout), a);
        put(a, &layout);
        put(b, &layout);
    }
}
