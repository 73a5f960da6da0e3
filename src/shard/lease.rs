//! Leases: slices of one core's memory, read by another core.
//!
//! Owner: the core that made the lease keeps the slices alive in its table until the borrower drops the
//! lease, which sends a release through the mesh. Invariant: the bytes under a lease are final (slices
//! are immutable). It must not be held longer than a send to a socket takes; what peers that stall hold is
//! bounded for all of them together (`net`'s `AnswerMemory`).

use std::cell::{Cell, RefCell};

use super::mesh::Mesh;
use crate::maps::HashMap;
use crate::storage::Slice;

/// Slices lent to other cores.
#[derive(Default)]
pub struct LeaseTable {
    next: Cell<u64>,
    lent: RefCell<HashMap<u64, Vec<Slice>>>,
}

struct RawSlice {
    start: *const u8,
    len: usize,
}

/// The right to read some slices of another core.
pub struct Lease {
    owner: usize,
    id: u64,
    slices: Vec<RawSlice>,
    pinned_bytes: usize,
    mesh: Mesh,
}

// SAFETY: the pointers are to immutable bytes that the owner core keeps alive in its lease table until
// `drop` has told it to let go; reading them from another core is a plain shared read.
unsafe impl Send for Lease {}

impl LeaseTable {
    /// Lends `slices` of core `owner` to whoever gets the lease.
    pub fn lend(&self, owner: usize, slices: Vec<Slice>, mesh: &Mesh) -> Lease {
        let id = self.next.get();
        self.next.set(id + 1);
        let raw = slices
            .iter()
            .map(|slice| {
                let (start, len) = slice.as_raw();
                RawSlice { start, len }
            })
            .collect();
        let pinned_bytes = slices.iter().map(Slice::pinned_bytes).sum();
        self.lent.borrow_mut().insert(id, slices);
        Lease { owner, id, slices: raw, pinned_bytes, mesh: mesh.clone() }
    }

    /// Takes slices back.
    pub fn release(&self, id: u64) {
        self.lent.borrow_mut().remove(&id);
    }

    /// Leases out now.
    pub fn count(&self) -> usize {
        self.lent.borrow().len()
    }
}

impl Lease {
    /// The memory that the owner cannot free meanwhile, bytes.
    pub fn pinned_bytes(&self) -> usize {
        self.pinned_bytes
    }

    /// The bytes, in order.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        // SAFETY: alive and immutable until this lease is dropped (see the type).
        self.slices.iter().map(|slice| unsafe { std::slice::from_raw_parts(slice.start, slice.len) })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let id = self.id;
        self.mesh.send_soon(self.owner, Box::new(move |shard| shard.leases.release(id)));
    }
}
