//! Aligned I/O memory and shared read-only slices of it.
//!
//! Owner: the core that allocated it (nothing here is `Send`).
//! Invariants: a buffer's address and capacity never change while anybody holds it; bytes below a
//! published length are never written again, so slices of them may be read while the rest fills.
//! It must not do I/O.

use std::rc::Rc;

use glommio::io::DmaBuffer;

use super::disk::ReadResult;
use crate::limits::BLOCK_SIZE;
use crate::rt;

/// One aligned buffer that can be written to disk and shared with readers at the same time.
pub struct IoBuf {
    dma: Rc<DmaBuffer>,
    start: *mut u8,
    capacity: usize,
}

impl IoBuf {
    /// Allocates `capacity` bytes (a multiple of the block size) from this core's I/O memory.
    pub fn allocate(capacity: usize) -> IoBuf {
        assert!(capacity > 0 && capacity.is_multiple_of(BLOCK_SIZE));
        let mut dma = rt::allocate_io_buffer(capacity);
        let start = dma.as_mut_ptr();
        assert!((start as usize).is_multiple_of(BLOCK_SIZE));
        IoBuf { dma: Rc::new(dma), start, capacity }
    }

    /// Capacity in bytes.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Copies `bytes` to `at`. The range must not have been published to a reader or a write yet.
    pub fn put(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.capacity);
        // SAFETY: the range is inside the buffer, which this core owns; by the caller's contract nobody
        // reads it yet, and `bytes` cannot overlap it because it borrows other memory.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.add(at), bytes.len()) }
    }

    /// Zeroes `[from, to)`, same contract as [`put`](Self::put).
    pub fn zero(&self, from: usize, to: usize) {
        assert!(from <= to && to <= self.capacity);
        // SAFETY: the range is inside the buffer and unpublished.
        unsafe { std::ptr::write_bytes(self.start.add(from), 0, to - from) }
    }

    /// The bytes `[from, to)`, which must have been filled.
    pub fn bytes(&self, from: usize, to: usize) -> &[u8] {
        assert!(from <= to && to <= self.capacity);
        // SAFETY: inside the buffer; filled bytes are never written again while the buffer lives.
        unsafe { std::slice::from_raw_parts(self.start.add(from), to - from) }
    }

    /// Shortens what a write of this buffer covers, not what it holds; only when nobody else has it.
    pub fn trim_write(&mut self, size: usize) -> bool {
        match Rc::get_mut(&mut self.dma) {
            Some(dma) => {
                dma.trim_to_size(size);
                true
            }
            None => false,
        }
    }

    /// The bytes `[from, to)` to be filled; only while nobody else has the buffer.
    pub fn bytes_mut(&mut self, from: usize, to: usize) -> &mut [u8] {
        assert!(from <= to && to <= self.capacity);
        assert!(Rc::strong_count(&self.dma) == 1, "the buffer is shared");
        // SAFETY: inside the buffer, nobody else holds it, and the borrow of `self` keeps it so.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), to - from) }
    }

    /// The bytes `[from, to)` to be filled, while others hold the buffer: the range must have been lent to the
    /// caller alone, and nobody reads it before it is given back.
    pub fn lent_mut(&mut self, from: usize, to: usize) -> &mut [u8] {
        assert!(from <= to && to <= self.capacity);
        // SAFETY: inside the buffer; by the caller's contract no other reference to the range exists.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), to - from) }
    }

    /// Whether nobody else holds the memory.
    pub fn is_exclusive(&self) -> bool {
        Rc::strong_count(&self.dma) == 1
    }

    /// Whether `other` is a handle on the same memory.
    pub fn is_same(&self, other: &IoBuf) -> bool {
        std::ptr::eq(self.start, other.start)
    }

    /// Another handle on the same memory.
    pub fn share(&self) -> IoBuf {
        IoBuf { dma: self.dma.clone(), start: self.start, capacity: self.capacity }
    }

    /// The memory as the disk wants it.
    pub fn dma(&self) -> Rc<DmaBuffer> {
        self.dma.clone()
    }
}

enum Keeper {
    Dma(Rc<DmaBuffer>),
    Read(Rc<ReadResult>),
}

/// Immutable bytes inside a buffer that this value keeps alive.
pub struct Slice {
    keeper: Keeper,
    start: *const u8,
    len: usize,
}

impl Slice {
    /// `[from, to)` of `buffer`; the bytes must be filled and final.
    pub fn of_buffer(buffer: &IoBuf, from: usize, to: usize) -> Slice {
        let bytes = buffer.bytes(from, to);
        Slice { keeper: Keeper::Dma(buffer.dma.clone()), start: bytes.as_ptr(), len: bytes.len() }
    }

    /// `[from, to)` of the bytes of a disk read.
    pub fn of_read(read: &Rc<ReadResult>, from: usize, to: usize) -> Slice {
        let bytes = &read[from..to];
        Slice { keeper: Keeper::Read(read.clone()), start: bytes.as_ptr(), len: bytes.len() }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The memory that the slice keeps from being freed, of which it may be a small part, bytes.
    pub fn pinned_bytes(&self) -> usize {
        match &self.keeper {
            Keeper::Dma(dma) => dma.len(),
            Keeper::Read(read) => read.len(),
        }
    }

    /// Gives up what lies behind the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Whether the slice is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: the keeper holds the memory, and published bytes are final.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// Address and length, for a lease to another core; the slice itself stays behind and keeps it alive.
    pub fn as_raw(&self) -> (*const u8, usize) {
        let _ = &self.keeper;
        (self.start, self.len)
    }
}
