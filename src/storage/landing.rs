//! Receiving in place: memory into which a connection reads a batch straight from the socket, and which becomes part
//! of the log's tail without a copy. A batch whose bytes are all there is received into the log's open chunk; a
//! large one that is still arriving gets a buffer of its own.
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
use crate::limits::{
    BLOCK_SIZE, CHUNK_SIZE_MAX, LANDING_BATCH_BYTES_MIN, LANDING_BYTES_MAX, LANDING_NOW_BYTES_MAX,
    LANDING_NOW_BYTES_MIN,
};

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
    /// The mark of the chunk whose memory this is, if it is not a buffer of its own.
    lent: Option<Rc<Cell<bool>>>,
}

impl Landing {
    /// Distance of the batch's first byte from the start of the buffer, less than a block.
    pub(super) fn lead(&self) -> usize {
        self.lead
    }

    /// The batch's bytes, to be filled, checked and patched.
    pub fn bytes(&mut self) -> &mut [u8] {
        let (from, to) = (self.lead, self.lead + self.len);
        match self.lent {
            Some(_) => self.buffer.lent_mut(from, to),
            None => self.buffer.bytes_mut(from, to),
        }
    }

    /// Whether the memory is part of a chunk of the log already.
    pub(super) fn is_lent(&self) -> bool {
        self.lent.is_some()
    }

    /// The buffer in which the batch is.
    pub(super) fn buffer(&self) -> &IoBuf {
        &self.buffer
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
        if let Some(lent) = &self.lent {
            lent.set(false);
            return;
        }
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
        Some(Landing { buffer: IoBuf::allocate(capacity), lead, len, log: self.clone(), lent: None })
    }
}

impl Log {
    /// Memory at the very end of the log for a batch of `len` bytes that are all there to be received; `None` when the
    /// batch is too small or too large, or when it would have to wait for its turn or for room.
    pub fn landing_now(self: &Rc<Self>, len: usize) -> Option<Landing> {
        let fitting = (LANDING_NOW_BYTES_MIN..=LANDING_NOW_BYTES_MAX).contains(&len);
        if !fitting || !self.tickets.is_empty() || !self.has_room_now(len as u64) {
            return None;
        }
        let (buffer, lead, lent, allocated) = {
            let mut state = self.state.borrow_mut();
            let active = state.active().cloned()?;
            state.tail.lend(&active, len)
        };
        if allocated > 0 {
            self.cache.charge(self, allocated);
        }
        Some(Landing { buffer, lead, len, log: self.clone(), lent: Some(lent) })
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

    /// Whether the batch was received into a buffer of its own.
    pub(super) fn is_landed(&self) -> bool {
        matches!(self, Incoming::Landed(landing) if !landing.is_lent())
    }

    /// Length of the batch in bytes.
    pub fn size_bytes(&self) -> usize {
        match self {
            Incoming::Frame(bytes) => bytes.len(),
            Incoming::Landed(landing) => landing.len(),
        }
    }
}
