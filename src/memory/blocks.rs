//! Blocks for direct I/O: aligned, huge-page backed, reused while they are still in the cache.
//!
//! Owner: each thread has regions of its own; a block freed on another thread goes back to the region's owner.
//! Why not glommio's registered arena: its buddy allocator rounds a 1 MiB batch plus one block up to 2 MiB,
//! takes a twentieth of the CPU at load, and pins and clears all memory at start (docs/DECISIONS.md).
//! Invariants: a region is a run of pages, each in exactly one block; two free blocks are never neighbours, so that
//! memory freed in one size serves any other; the oldest region that has room serves, so that the others fall empty; a
//! region that is free as a whole goes back to the system, but for one.
//! So memory follows what callers' budgets hold now, not the sum of what each size has ever needed.
//! It must not allocate from the global allocator: it is part of it.

use std::alloc::Layout;
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// Alignment by which I/O blocks are told from all other allocations, bytes.
pub(super) const BLOCK_ALIGN: usize = 4096;

/// Largest block that is taken from regions, bytes.
const BLOCK_BYTES_MAX: usize = 3 << 20;

/// Smallest, bytes.
const BLOCK_BYTES_MIN: usize = BLOCK_ALIGN;

/// Memory is taken from the system in regions of this size, at multiples of it, bytes.
const REGION_BYTES: usize = 16 << 20;

const REGION_PAGES: usize = REGION_BYTES / BLOCK_ALIGN;

/// Pages at the start of a region that hold its [`Region`].
const HEAD_PAGES: usize = size_of::<Region>().div_ceil(BLOCK_ALIGN);

/// Pages of a region that has nothing but one free block.
const WHOLE_PAGES: usize = REGION_PAGES - HEAD_PAGES;

/// Regions kept although nothing in them is used: who frees the last block may want another at once.
const SPARE_REGIONS: usize = 1;

/// Lists for each doubling of the size: a block from the next list up is at most an eighth too large.
const LISTS_PER_DOUBLING: usize = 8;

/// Lists of free blocks: one for each size below [`LISTS_PER_DOUBLING`] pages, then so many for each doubling.
const LISTS: usize = LISTS_PER_DOUBLING * (REGION_PAGES.trailing_zeros() as usize - 1);

const _: () = assert!(LISTS <= u128::BITS as usize);

/// Blocks of the list of a size that are looked at for one that is large enough, before the next list serves: blocks of
/// one odd size (a batch and the block that it begins in) are used over and over.
const LOOKS: usize = 8;

/// Bit of a page's tag that says that its block is free; the rest is the block's length in pages.
const FREE: u16 = 1 << 15;

/// The head of a region, in its first pages.
struct Region {
    /// [`Heap::id`] of the thread that it belongs to.
    owner: u64,
    /// Blocks that other threads freed, linked through their first word.
    foreign: AtomicPtr<u8>,
    /// Length and state of a block, at its first and at its last page. What is in between is not looked at.
    tags: [u16; REGION_PAGES],
    /// First free block of each size.
    lists: [*mut Links; LISTS],
    /// A bit for each list that is not empty.
    filled: u128,
    /// The neighbours in the thread's list of regions.
    next: *mut Region,
    previous: *mut Region,
}

/// The links in the first words of a free block.
struct Links {
    next: *mut Links,
    previous: *mut Links,
}

/// The regions of one thread.
struct Heap {
    /// 0 until it has a region; no other heap ever has the same, not even one of a thread that is gone.
    id: u64,
    /// The oldest, and the youngest.
    regions: *mut Region,
    youngest: *mut Region,
    spare: usize,
    taken: u64,
    used_bytes: u64,
    region_bytes: u64,
}

thread_local! {
    static HEAP: UnsafeCell<Heap> = const {
        UnsafeCell::new(Heap {
            id: 0,
            regions: ptr::null_mut(),
            youngest: ptr::null_mut(),
            spare: 0,
            taken: 0,
            used_bytes: 0,
            region_bytes: 0,
        })
    };
}

/// Whether a block of this layout is ours.
pub(super) fn is_block(layout: &Layout) -> bool {
    layout.align() == BLOCK_ALIGN && layout.size() >= BLOCK_BYTES_MIN && layout.size() <= BLOCK_BYTES_MAX
}

/// The list that a free block of so many pages is in.
const fn list_of(pages: usize) -> usize {
    if pages < LISTS_PER_DOUBLING {
        return pages;
    }
    let doublings = (pages / LISTS_PER_DOUBLING).ilog2() as usize;
    doublings * LISTS_PER_DOUBLING + (pages >> doublings)
}

/// The first list all of whose blocks have at least so many pages.
const fn list_from(pages: usize) -> usize {
    let list = list_of(pages);
    if pages > 1 && list_of(pages - 1) == list { list + 1 } else { list }
}

const _: () = assert!(list_of(WHOLE_PAGES) < LISTS);
const _: () = assert!(list_from(BLOCK_BYTES_MAX / BLOCK_ALIGN) <= list_of(WHOLE_PAGES));

/// Takes a block; null when the system has no memory.
pub(super) fn take(layout: &Layout) -> *mut u8 {
    let pages = layout.size().div_ceil(BLOCK_ALIGN);
    // SAFETY: the heap is this thread's own and no reference to it outlives this closure; it calls nothing that
    // allocates from it.
    HEAP.try_with(|heap| unsafe { (*heap.get()).take(pages) }).unwrap_or(ptr::null_mut())
}

/// Gives a block back.
pub(super) fn put(block: *mut u8, layout: &Layout) {
    let pages = layout.size().div_ceil(BLOCK_ALIGN);
    // A thread that is ending has no heap any more: the block is lost, once per thread at most.
    let _ = HEAP.try_with(|heap| {
        // SAFETY: as in `take`; the block was taken from a region with this layout, so that its head can be found and
        // its first word is nobody else's.
        unsafe {
            let region = region_of(block);
            if (*region).owner == (*heap.get()).id {
                (*heap.get()).put(region, block, pages);
            } else {
                give_to_owner(region, block, pages);
            }
        }
    });
}

/// Blocks taken by this thread, bytes of those that are in use, and bytes it holds from the system for them.
pub(super) fn thread_counts() -> (u64, u64, u64) {
    HEAP.try_with(|heap| {
        // SAFETY: as in `take`.
        let heap = unsafe { &*heap.get() };
        (heap.taken, heap.used_bytes, heap.region_bytes)
    })
    .unwrap_or_default()
}

fn region_of(block: *mut u8) -> *mut Region {
    block.wrapping_sub(block as usize % REGION_BYTES).cast()
}

fn page_of(region: *mut Region, block: *mut u8) -> usize {
    (block as usize - region as usize) / BLOCK_ALIGN
}

/// Leaves a block with the thread that its region belongs to.
///
/// # Safety
/// `block` is a block of `pages` pages of `region` that nobody uses any more.
unsafe fn give_to_owner(region: *mut Region, block: *mut u8, pages: usize) {
    // SAFETY: the block has room for two words, and `foreign` is the one field that other threads touch.
    unsafe {
        let words = block.cast::<(*mut u8, usize)>();
        let foreign = &(*region).foreign;
        let mut first = foreign.load(Ordering::Relaxed);
        loop {
            *words = (first, pages);
            match foreign.compare_exchange_weak(first, block, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => first = now,
            }
        }
    }
}

// All of the heap's functions have one contract: they are called on the thread whose heap it is, and the regions in its
// list are mapped, with tags and links as the head of this file says.
impl Heap {
    unsafe fn take(&mut self, pages: usize) -> *mut u8 {
        self.taken += 1;
        // SAFETY: the contract above; a list whose bit is set has a first block of at least `pages` pages.
        unsafe {
            let mut block = self.find(pages);
            if block.is_null() {
                self.collect_foreign();
                block = self.find(pages);
            }
            if block.is_null() {
                if !self.map_region() {
                    return ptr::null_mut();
                }
                block = self.find(pages);
            }
            let region = region_of(block);
            let page = page_of(region, block);
            let found = usize::from((*region).tags[page] & !FREE);
            if found == WHOLE_PAGES {
                self.spare -= 1;
            }
            unlink(region, block, found);
            tag(region, page, pages, 0);
            if found > pages {
                add_free(region, page + pages, found - pages);
            }
            self.used_bytes += (pages * BLOCK_ALIGN) as u64;
            block
        }
    }

    /// A free block of at least so many pages in the oldest region that has one; null when there is none.
    unsafe fn find(&self, pages: usize) -> *mut u8 {
        // SAFETY: the contract above.
        unsafe {
            let mut region = self.regions;
            while !region.is_null() {
                let block = find_in(region, pages);
                if !block.is_null() {
                    return block;
                }
                region = (*region).next;
            }
            ptr::null_mut()
        }
    }

    unsafe fn put(&mut self, region: *mut Region, block: *mut u8, pages: usize) {
        // SAFETY: the contract above; tags of the pages next to a block are those of its neighbours' ends.
        unsafe {
            self.used_bytes -= (pages * BLOCK_ALIGN) as u64;
            let (mut page, mut pages) = (page_of(region, block), pages);
            assert_eq!(usize::from((*region).tags[page]), pages, "an I/O block is freed as it was taken");
            let base = region.cast::<u8>();
            if page > HEAD_PAGES && (*region).tags[page - 1] & FREE != 0 {
                let before = usize::from((*region).tags[page - 1] & !FREE);
                page -= before;
                pages += before;
                unlink(region, base.add(page * BLOCK_ALIGN), before);
            }
            let behind = page + pages;
            if behind < REGION_PAGES && (*region).tags[behind] & FREE != 0 {
                let after = usize::from((*region).tags[behind] & !FREE);
                pages += after;
                unlink(region, base.add(behind * BLOCK_ALIGN), after);
            }
            if pages == WHOLE_PAGES {
                if self.spare == SPARE_REGIONS {
                    return self.unmap_region(region);
                }
                self.spare += 1;
            }
            add_free(region, page, pages);
        }
    }

    /// Takes back what other threads freed.
    unsafe fn collect_foreign(&mut self) {
        // SAFETY: the contract above; what is in a region's foreign list was given up by its last user. The region's
        // neighbour is looked up first, because the region may go with its last block.
        unsafe {
            let mut region = self.regions;
            while !region.is_null() {
                let next_region = (*region).next;
                let mut block = (*region).foreign.swap(ptr::null_mut(), Ordering::Acquire);
                while !block.is_null() {
                    let (next, pages) = *block.cast::<(*mut u8, usize)>();
                    self.put(region, block, pages);
                    block = next;
                }
                region = next_region;
            }
        }
    }

    unsafe fn map_region(&mut self) -> bool {
        static IDS: AtomicU64 = AtomicU64::new(1);
        if self.id == 0 {
            self.id = IDS.fetch_add(1, Ordering::Relaxed);
        }
        let region = super::map_aligned(REGION_BYTES, REGION_BYTES).cast::<Region>();
        if region.is_null() {
            return false;
        }
        // SAFETY: the region was just mapped, as large and aligned as its head says; zeros are valid tags and
        // empty lists.
        unsafe {
            (*region).owner = self.id;
            (*region).next = ptr::null_mut();
            (*region).previous = self.youngest;
            if self.youngest.is_null() {
                self.regions = region;
            } else {
                (*self.youngest).next = region;
            }
            self.youngest = region;
            self.region_bytes += REGION_BYTES as u64;
            self.spare += 1;
            add_free(region, HEAD_PAGES, WHOLE_PAGES);
        }
        true
    }

    /// Gives a region back to the system whose one free block is in no list.
    unsafe fn unmap_region(&mut self, region: *mut Region) {
        // SAFETY: the contract above; nobody uses a block of the region, and nobody will free one.
        unsafe {
            let (next, previous) = ((*region).next, (*region).previous);
            if next.is_null() {
                self.youngest = previous;
            } else {
                (*next).previous = previous;
            }
            if previous.is_null() {
                self.regions = next;
            } else {
                (*previous).next = next;
            }
            self.region_bytes -= REGION_BYTES as u64;
            super::unmap_aligned(region.cast(), REGION_BYTES, REGION_BYTES);
        }
    }
}

/// A free block of at least so many pages, among the region's smallest; null when there is none.
///
/// # Safety
/// The contract of [`Heap`]'s functions holds for this one and those below.
unsafe fn find_in(region: *mut Region, pages: usize) -> *mut u8 {
    // SAFETY: the contract: what is in a list is a free block with links and tags.
    unsafe {
        let (own, from) = (list_of(pages), list_from(pages));
        let mut block = if own == from { ptr::null_mut() } else { (*region).lists[own] };
        for _ in 0..LOOKS {
            if block.is_null() {
                break;
            }
            if usize::from((*region).tags[page_of(region, block.cast())] & !FREE) >= pages {
                return block.cast();
            }
            block = (*block).next;
        }
        match (*region).filled & (u128::MAX << from) {
            0 => ptr::null_mut(),
            fitting => (*region).lists[fitting.trailing_zeros() as usize].cast(),
        }
    }
}

unsafe fn add_free(region: *mut Region, page: usize, pages: usize) {
    // SAFETY: the contract; a free block has room for its links.
    unsafe {
        tag(region, page, pages, FREE);
        let block = region.cast::<u8>().add(page * BLOCK_ALIGN).cast::<Links>();
        let list = list_of(pages);
        let next = (*region).lists[list];
        *block = Links { next, previous: ptr::null_mut() };
        if !next.is_null() {
            (*next).previous = block;
        }
        (*region).lists[list] = block;
        (*region).filled |= 1 << list;
    }
}

unsafe fn unlink(region: *mut Region, block: *mut u8, pages: usize) {
    // SAFETY: the contract; the block is in the region's list of its size.
    unsafe {
        let Links { next, previous } = *block.cast::<Links>();
        if !next.is_null() {
            (*next).previous = previous;
        }
        if !previous.is_null() {
            (*previous).next = next;
            return;
        }
        let list = list_of(pages);
        (*region).lists[list] = next;
        if next.is_null() {
            (*region).filled &= !(1 << list);
        }
    }
}

/// Notes a block's length at both of its ends.
unsafe fn tag(region: *mut Region, page: usize, pages: usize, free: u16) {
    // SAFETY: the block lies inside its region, whose thread this is.
    unsafe {
        (*region).tags[page] = pages as u16 | free;
        (*region).tags[page + pages - 1] = pages as u16 | free;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(pages: usize) -> Layout {
        Layout::from_size_align(pages * BLOCK_ALIGN, BLOCK_ALIGN).unwrap()
    }

    #[test]
    fn lists_rise_with_the_size_and_hold_what_is_looked_for_in_them() {
        for pages in 1..WHOLE_PAGES {
            assert!(list_of(pages + 1) == list_of(pages) || list_of(pages + 1) == list_of(pages) + 1);
            assert!(list_from(pages) >= list_of(pages) && list_from(pages) <= list_of(pages) + 1);
        }
    }

    #[test]
    fn blocks_are_reused_and_apart() {
        let layout = layout(257);
        let (a, b) = (take(&layout), take(&layout));
        assert!((a as usize).abs_diff(b as usize) >= layout.size());
        assert_eq!(a as usize % BLOCK_ALIGN, 0);
        put(a, &layout);
        assert_eq!(take(&layout), a);
        put(a, &layout);
        put(b, &layout);
    }

    /// The soak of 2026-11-20 found memory that grew for as long as a process lived: with a list for each size, every
    /// size kept what it had ever needed, and only the sum of all those was bounded.
    #[test]
    fn memory_follows_what_is_used_whatever_the_sizes_were() {
        const BUDGET_PAGES: usize = 12 << 10;
        let small = if cfg!(miri) { 6 } else { 0 };
        let sizes: Vec<usize> = (small..8).map(|step| 4 << step).chain((125..160).step_by(7)).collect();
        for round in 0..2 {
            for pages in &sizes {
                let blocks: Vec<*mut u8> = (0..BUDGET_PAGES / pages).map(|_| take(&layout(*pages))).collect();
                // Not in the order in which they came, so that neighbours meet in every way.
                let (even, odd): (Vec<_>, Vec<_>) =
                    blocks.iter().enumerate().partition(|(at, _)| at % 2 == 0);
                even.into_iter().chain(odd).for_each(|(_, block)| put(*block, &layout(*pages)));
            }
            let (_, used_bytes, region_bytes) = thread_counts();
            assert_eq!((used_bytes, region_bytes), (0, REGION_BYTES as u64), "round {round}");
        }
    }

    #[test]
    fn sizes_that_change_while_a_budget_is_full_take_little_more_than_the_budget() {
        // A fifo of blocks like a tail's: the oldest go when the budget is full, and the sizes drift.
        const BUDGET_BYTES: usize = 64 << 20;
        let mut fifo = std::collections::VecDeque::new();
        let (mut used, mut state, mut most) = (0, 7_u64, 0);
        let steps = if cfg!(miri) { 1_500 } else { 40_000 };
        for step in 0..steps {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let drift = 1 + (step * 40 / steps) % 9;
            let pages = 1 + (state >> 33) as usize % (1 << drift);
            fifo.push_back((take(&layout(pages)), pages));
            used += pages * BLOCK_ALIGN;
            while used > BUDGET_BYTES {
                let (block, pages) = fifo.pop_front().unwrap();
                put(block, &layout(pages));
                used -= pages * BLOCK_ALIGN;
            }
            most = most.max(thread_counts().2);
        }
        fifo.into_iter().for_each(|(block, pages)| put(block, &layout(pages)));
        assert!(most as usize <= BUDGET_BYTES * 5 / 4 + REGION_BYTES, "{} MiB", most >> 20);
    }

    #[test]
    fn what_another_thread_frees_comes_back() {
        let layout = layout(700);
        for _ in 0..if cfg!(miri) { 4 } else { 50 } {
            let blocks: Vec<usize> = (0..20).map(|_| take(&layout) as usize).collect();
            let freed =
                std::thread::spawn(move || blocks.iter().for_each(|block| put(*block as *mut u8, &layout)));
            freed.join().unwrap();
        }
        let (_, _, region_bytes) = thread_counts();
        assert!(region_bytes <= 5 * REGION_BYTES as u64, "{} MiB", region_bytes >> 20);
    }
}
