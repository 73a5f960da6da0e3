//! The process allocator: mimalloc, with huge-page-backed blocks for direct I/O (`blocks`) and mappings of their own
//! for everything else that is large.
//!
//! Owner: the whole process. glommio asks the global allocator for its I/O arena and for DMA buffers;
//! with 4 KiB pages O_DIRECT bandwidth halves, because the kernel pins every page of every request
//! (2.9 against 5.9 GB/s measured). So blocks of at least [`HUGE_BLOCK_BYTES_MIN`] get their own
//! mapping, aligned to 2 MiB and advised `MADV_HUGEPAGE`.
//! Each thread counts what it asks for and what it holds (`thread_counts`).
//! It must not be used for anything but routing by size and counting: no locks, and atomics only for sums and
//! where a thread frees an I/O block of another.

mod blocks;

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, Ordering};

/// Blocks of at least this size are mapped on their own, bytes.
pub const HUGE_BLOCK_BYTES_MIN: usize = 2 << 20;

const HUGE_PAGE_BYTES: usize = 2 << 20;

thread_local! {
    static SMALL: Cell<u64> = const { Cell::new(0) };
    static HEAP_BYTES: Cell<i64> = const { Cell::new(0) };
}

/// Bytes that a thread counts by itself before it tells the others: what one allocates another may free.
const UNTOLD_BYTES_MAX: i64 = 64 << 10;

static HEAP_TOLD_BYTES: AtomicI64 = AtomicI64::new(0);

/// What the calling thread has allocated since it began, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadCounts {
    /// Allocations and growths of everything that is no I/O block.
    pub small: u64,
    /// I/O blocks taken, from what was freed or from fresh memory.
    pub blocks: u64,
    /// I/O blocks that are in use, bytes.
    pub block_bytes: u64,
    /// Memory held from the system for I/O blocks, used or not, bytes.
    pub region_bytes: u64,
}

/// What this thread has allocated since it began.
pub fn thread_counts() -> ThreadCounts {
    let (blocks, block_bytes, region_bytes) = blocks::thread_counts();
    ThreadCounts { small: SMALL.get(), blocks, block_bytes, region_bytes }
}

/// What the process has in use that is no I/O block, bytes; what each thread has not told yet is missing.
pub fn heap_bytes() -> u64 {
    u64::try_from(HEAP_TOLD_BYTES.load(Ordering::Relaxed)).unwrap_or(0)
}

fn count_small(size_bytes: usize) {
    SMALL.set(SMALL.get() + 1);
    count_bytes(size_bytes as i64);
}

fn count_freed(size_bytes: usize) {
    count_bytes(-(size_bytes as i64));
}

fn count_bytes(change: i64) {
    let untold = HEAP_BYTES.get() + change;
    if untold.abs() < UNTOLD_BYTES_MAX {
        return HEAP_BYTES.set(untold);
    }
    HEAP_TOLD_BYTES.fetch_add(untold, Ordering::Relaxed);
    HEAP_BYTES.set(0);
}

/// The allocator to name in `#[global_allocator]`.
pub struct HugeAware;

fn mapping_size(layout: &Layout) -> usize {
    layout.size().next_multiple_of(HUGE_PAGE_BYTES)
}

fn is_huge(layout: &Layout) -> bool {
    !blocks::is_block(layout) && layout.size() >= HUGE_BLOCK_BYTES_MIN && layout.align() <= HUGE_PAGE_BYTES
}

fn map_huge(layout: &Layout) -> *mut u8 {
    map_aligned(mapping_size(layout), HUGE_PAGE_BYTES)
}

/// Maps `size` bytes, a multiple of huge pages, at a multiple of `align`, a power of two; null when there is no memory.
fn map_aligned(size: usize, align: usize) -> *mut u8 {
    #[cfg(miri)]
    // SAFETY: the size is not 0. Miri cannot unmap a part of a mapping.
    return unsafe { std::alloc::System.alloc_zeroed(Layout::from_size_align_unchecked(size, align)) };
    #[cfg(not(miri))]
    map_trimmed(size, align)
}

/// Gives back what [`map_aligned`] gave.
///
/// # Safety
/// `start` came from `map_aligned` with this size and alignment, and nobody uses it any more.
unsafe fn unmap_aligned(start: *mut u8, size: usize, align: usize) {
    #[cfg(miri)]
    // SAFETY: the caller's contract; the layout is that of the allocation.
    return unsafe { std::alloc::System.dealloc(start, Layout::from_size_align_unchecked(size, align)) };
    #[cfg(not(miri))]
    {
        let _ = align;
        // SAFETY: the caller's contract: the range is one mapping that nobody uses.
        unsafe { libc::munmap(start.cast(), size) };
    }
}

#[cfg(not(miri))]
fn map_trimmed(size: usize, align: usize) -> *mut u8 {
    let span = size + align;
    // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no memory of ours.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            span,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return std::ptr::null_mut();
    }
    let start = base as usize;
    let aligned = start.next_multiple_of(align);
    let head = aligned - start;
    let tail = span - head - size;
    // SAFETY: head and tail lie inside the mapping just made and outside the block that is returned.
    unsafe {
        if head > 0 {
            libc::munmap(base, head);
        }
        if tail > 0 {
            libc::munmap((aligned + size) as *mut libc::c_void, tail);
        }
        libc::madvise(aligned as *mut libc::c_void, size, libc::MADV_HUGEPAGE);
    }
    aligned as *mut u8
}

// SAFETY: every block is either mimalloc's (routed by size and alignment, which `dealloc` and `realloc`
// receive unchanged), a block of a region (routed likewise), or a private mapping of
// `mapping_size` bytes aligned to 2 MiB.
unsafe impl GlobalAlloc for HugeAware {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if blocks::is_block(&layout) {
            return blocks::take(&layout);
        }
        count_small(layout.size());
        if is_huge(&layout) {
            return map_huge(&layout);
        }
        // SAFETY: the caller's contract is passed on.
        unsafe { mimalloc::MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if blocks::is_block(&layout) {
            let block = blocks::take(&layout);
            if !block.is_null() {
                // SAFETY: the block is at least as large as the layout.
                unsafe { std::ptr::write_bytes(block, 0, layout.size()) };
            }
            return block;
        }
        count_small(layout.size());
        if is_huge(&layout) {
            return map_huge(&layout);
        }
        // SAFETY: the caller's contract is passed on.
        unsafe { mimalloc::MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if blocks::is_block(&layout) {
            return blocks::put(block, &layout);
        }
        count_freed(layout.size());
        if is_huge(&layout) {
            // SAFETY: the block is a mapping made by `map_huge` for this very layout.
            unsafe { unmap_aligned(block, mapping_size(&layout), HUGE_PAGE_BYTES) };
            return;
        }
        // SAFETY: the caller's contract is passed on.
        unsafe { mimalloc::MiMalloc.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let new_layout = match Layout::from_size_align(new_size, layout.align()) {
            Ok(new_layout) => new_layout,
            Err(_) => return std::ptr::null_mut(),
        };
        let plain = |layout: &Layout| !is_huge(layout) && !blocks::is_block(layout);
        if plain(&layout) && plain(&new_layout) {
            count_small(new_size);
            count_freed(layout.size());
            // SAFETY: the caller's contract is passed on.
            return unsafe { mimalloc::MiMalloc.realloc(block, layout, new_size) };
        }
        if is_huge(&layout) && is_huge(&new_layout) && mapping_size(&layout) == mapping_size(&new_layout) {
            count_small(new_size);
            count_freed(layout.size());
            return block;
        }
        // SAFETY: both blocks are live and at least `min` bytes long; the old one is freed with its layout.
        unsafe {
            let new_block = self.alloc(new_layout);
            if !new_block.is_null() {
                std::ptr::copy_nonoverlapping(block, new_block, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
            new_block
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_blocks_are_aligned_and_survive_growth() {
        let layout = Layout::from_size_align(4 << 20, 4096).unwrap();
        // SAFETY: the block is used inside its size and freed with its last layout.
        unsafe {
            let block = HugeAware.alloc_zeroed(layout);
            assert_eq!(block as usize % HUGE_PAGE_BYTES, 0);
            *block = 7;
            *block.add((4 << 20) - 1) = 9;
            let grown = HugeAware.realloc(block, layout, 9 << 20);
            assert_eq!((*grown, *grown.add((4 << 20) - 1)), (7, 9));
            let small = HugeAware.realloc(grown, Layout::from_size_align(9 << 20, 4096).unwrap(), 100);
            assert_eq!(*small, 7);
            HugeAware.dealloc(small, Layout::from_size_align(100, 4096).unwrap());
        }
    }
}
