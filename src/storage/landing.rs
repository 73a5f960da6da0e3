//! Receiving in place: a buffer into which a connection reads a large batch straight from the socket, and
//! which becomes part of the log's tail without a copy.
//!
//! Owner: the connection that fills it, until the append takes it over. Invariants: at most
//! `LANDING_BYTES_MAX` per core are out; a landing holds nothing of the log, so that a sender that stalls
//! holds up nobody; its *lead*, the distance of the batch from a block boundary, is a guess of where the
//! log will end — a wrong guess costs the copy that it meant to save, nothing else.
//! It must not be visible to readers before the append has adopted it.

use std::cell::Cell;
use std::rc::Rc;

use super::buffer::IoBuf;
use super::log::Log;
use crate::limits::{BLOCK_SIZE, CHUNK_SIZE_MAX, LANDING_BATCH_BYTES_MIN, LANDING_BYTES_MAX};

thread_local! {
    /// Bytes of landing buffers of this core.
    static OUT_BYTES: Cell<usize> = const { Cell::new(0) };
}

/// Memory for one batch that is being received.
pub struct Landing {
    buffer: IoBuf,
    lead: usize,
    len: usize,
    log: Rc<Log>,
}

impl Landing {
    /// Distance of the batch's first byte from the start of the buffer, less than a block.
    pub(super) fn lead(&self) -> usize {
        self.lead
    }

    /// The batch's bytes, to be filled, checked and patched.
    pub fn bytes(&mut self) -> &mut [u8] {
        self.buffer.bytes_mut(self.lead, self.lead + self.len)
    }

    /// Length of the batch in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to receive (never: see the smallest batch).
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A second handle on the buffer, for the tail; the batch is final from now on.
    pub(super) fn share(&self) -> IoBuf {
        self.buffer.share()
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        OUT_BYTES.set(OUT_BYTES.get() - self.buffer.capacity());
        self.log.landing_bytes.set(self.log.landing_bytes.get() - self.len as u64);
    }
}

impl Log {
    /// A buffer for a batch of `len` bytes, placed for where the log will probably end when the batch is
    /// complete; `None` when the batch is too small to be worth it, too large, or memory is short.
    pub fn landing(self: &Rc<Self>, len: usize) -> Option<Landing> {
        if !(LANDING_BATCH_BYTES_MIN..=CHUNK_SIZE_MAX + BLOCK_SIZE).contains(&len) {
            return None;
        }
        let end = self.state.borrow().segments.back().map_or(0, |active| active.size_bytes.get());
        let lead = ((end + self.landing_bytes.get()) % BLOCK_SIZE as u64) as usize;
        let capacity = (lead + len).next_multiple_of(BLOCK_SIZE);
        if OUT_BYTES.get() + capacity > LANDING_BYTES_MAX {
            return None;
        }
        OUT_BYTES.set(OUT_BYTES.get() + capacity);
        self.landing_bytes.set(self.landing_bytes.get() + len as u64);
        Some(Landing { buffer: IoBuf::allocate(capacity), lead, len, log: self.clone() })
    }
}

/// A batch to append: where its bytes are.
pub enum Incoming<'a> {
    /// In a request frame; they will be copied.
    Frame(&'a mut [u8]),
    /// In a landing buffer; it will become part of the tail.
    Landed(Landing),
}

impl Incoming<'_> {
    /// The batch's bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        match self {
            Incoming::Frame(bytes) => bytes,
            Incoming::Landed(landing) => landing.bytes(),
        }
    }

    /// Length of the batch in bytes.
    pub fn size_bytes(&self) -> usize {
        match self {
            Incoming::Frame(bytes) => bytes.len(),
            Incoming::Landed(landing) => landing.len(),
        }
    }
}
