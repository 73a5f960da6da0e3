//! Blocks of sealed or visible segment bytes, read before a sequential reader asks for them.
//!
//! Owner: one core; its logs share the blocks, so that readers that follow each other read once. Invariants: a block
//! holds only bytes that were final when its read began; at most `capacity` blocks are kept, whatever the number of
//! readers; a segment that leaves its log is not kept alive. It must not look into batches; `segment_reader` does.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::{Rc, Weak};

use super::buffer::Slice;
use super::disk::{Disk, ReadResult};
use super::segment::Segment;
use crate::limits::{READ_AHEAD_DEPTH_MAX, READ_BEHIND_BLOCKS, READ_BLOCK_BYTES};
use crate::rt;
use crate::sync::Event;

/// One block, or the promise of one.
pub(super) struct Block {
    read: RefCell<Option<Result<Rc<ReadResult>, Rc<str>>>>,
    done: Event,
}

impl Block {
    /// Waits for the bytes: fewer than a block's at the end of the file.
    async fn wait(&self) -> io::Result<Rc<ReadResult>> {
        self.done.wait_until(|| self.read.borrow().is_some()).await;
        match self.read.borrow().as_ref() {
            Some(Ok(read)) => Ok(read.clone()),
            Some(Err(text)) => Err(io::Error::other(text.to_string())),
            None => unreachable!("waited for"),
        }
    }

    fn in_flight(&self) -> bool {
        self.read.borrow().is_none()
    }
}

struct Entry {
    segment: Weak<Segment>,
    number: u64,
    block: Rc<Block>,
    /// A reader has gone past it; others may follow.
    consumed: bool,
    used_at: u64,
}

impl Entry {
    fn is(&self, segment: &Rc<Segment>, number: u64) -> bool {
        self.number == number && std::ptr::eq(self.segment.as_ptr(), Rc::as_ptr(segment))
    }
}

/// One core's blocks.
pub struct ReadAhead {
    capacity: usize,
    entries: RefCell<VecDeque<Entry>>,
    /// Counts the rounds of housekeeping.
    round: Cell<u64>,
}

/// Number of the block that holds byte `position` of a segment.
fn block_of(position: u64) -> u64 {
    position / READ_BLOCK_BYTES as u64
}

impl ReadAhead {
    /// Keeps at most `budget_bytes`.
    pub fn new(budget_bytes: usize) -> Rc<ReadAhead> {
        let capacity = budget_bytes / READ_BLOCK_BYTES;
        Rc::new(ReadAhead { capacity, entries: RefCell::default(), round: Cell::new(0) })
    }

    /// Drops what nobody used since the last call: its reader has gone.
    pub fn drop_idle(&self) {
        let round = self.round.get();
        self.entries.borrow_mut().retain(|entry| entry.used_at == round || entry.block.in_flight());
        self.round.set(round + 1);
    }

    /// Bytes `[from, to)` of `segment`; false where the budget is too small to hold them at once.
    pub(super) async fn load(
        self: &Rc<Self>,
        disk: &Rc<dyn Disk>,
        segment: &Rc<Segment>,
        from: u64,
        to: u64,
        run: &mut Run,
    ) -> io::Result<bool> {
        let (first, last) = (block_of(from), block_of(to - 1));
        if (last - first) as usize >= self.capacity / 2 {
            return Ok(false);
        }
        let blocks: Vec<Rc<Block>> =
            (first..=last).filter_map(|number| self.get(disk, segment, number, true)).collect();
        *run = Run { start: first * READ_BLOCK_BYTES as u64, reads: Vec::with_capacity(blocks.len()) };
        for block in blocks {
            match block.wait().await {
                Ok(read) => run.reads.push(read),
                Err(error) => {
                    self.entries.borrow_mut().retain(|entry| !Rc::ptr_eq(&entry.block, &block));
                    return Err(error);
                }
            }
        }
        Ok(true)
    }

    /// Starts reads of what lies behind `from` in `segment`, up to byte `limit`; and, where it ends, of the beginning
    /// of `next`. All of it must be final.
    pub(super) fn start(
        self: &Rc<Self>,
        disk: &Rc<dyn Disk>,
        segment: &Rc<Segment>,
        from: u64,
        limit: u64,
        next: Option<Rc<Segment>>,
    ) {
        let mut left = self.depth();
        let mut number = block_of(from);
        while left > 0 && number * (READ_BLOCK_BYTES as u64) < limit {
            if self.get(disk, segment, number, false).is_none() {
                return;
            }
            (number, left) = (number + 1, left - 1);
        }
        let Some(next) = next else { return };
        for number in 0..left as u64 {
            if number * READ_BLOCK_BYTES as u64 >= next.size_bytes.get()
                || self.get(disk, &next, number, false).is_none()
            {
                return;
            }
        }
    }

    /// Lets go of the blocks of `segment` that lie wholly before byte `position`, but for the last few.
    pub(super) fn passed(&self, segment: &Rc<Segment>, position: u64) {
        let mut entries = self.entries.borrow_mut();
        let mut consumed = 0;
        for entry in entries.iter_mut() {
            entry.consumed |= entry.number < block_of(position)
                && std::ptr::eq(entry.segment.as_ptr(), Rc::as_ptr(segment));
            consumed += usize::from(entry.consumed);
        }
        let mut surplus = consumed.saturating_sub(READ_BEHIND_BLOCKS);
        entries.retain(|entry| {
            let drop = entry.consumed && surplus > 0;
            surplus -= usize::from(drop);
            !drop
        });
    }

    /// Blocks to read ahead for one reader: the budget is shared by those that read now.
    fn depth(&self) -> usize {
        let entries = self.entries.borrow();
        let mut readers: Vec<*const Segment> = Vec::with_capacity(READ_AHEAD_DEPTH_MAX);
        for entry in entries.iter().filter(|entry| !entry.consumed) {
            if !readers.contains(&entry.segment.as_ptr()) {
                readers.push(entry.segment.as_ptr());
            }
        }
        (self.capacity / 2 / readers.len().max(1)).clamp(1, READ_AHEAD_DEPTH_MAX)
    }

    /// The block, whose read begins now if nobody asked for it before. Without `needed`, nothing is begun when all
    /// the budget is in use.
    fn get(
        self: &Rc<Self>,
        disk: &Rc<dyn Disk>,
        segment: &Rc<Segment>,
        number: u64,
        needed: bool,
    ) -> Option<Rc<Block>> {
        let round = self.round.get();
        let mut entries = self.entries.borrow_mut();
        if let Some(known) = entries.iter_mut().find(|entry| entry.is(segment, number)) {
            known.used_at = round;
            return Some(known.block.clone());
        }
        if entries.len() >= self.capacity {
            let oldest = entries.iter().position(|entry| entry.consumed);
            match oldest.or(needed.then_some(0)) {
                Some(at) => drop(entries.remove(at)),
                None => return None,
            }
        }
        let block = Rc::new(Block { read: RefCell::default(), done: Event::default() });
        entries.push_back(Entry {
            segment: Rc::downgrade(segment),
            number,
            block: block.clone(),
            consumed: false,
            used_at: round,
        });
        drop(entries);
        let (disk, segment, reading) = (disk.clone(), segment.clone(), block.clone());
        rt::spawn(async move {
            let at = number * READ_BLOCK_BYTES as u64;
            let file = segment.file(&disk).await;
            // Retention waits for those who hold a segment, but a file being read may go its way.
            drop(segment);
            let read = match file {
                Ok(file) => file.read(at, READ_BLOCK_BYTES).await,
                Err(error) => Err(error),
            };
            *reading.read.borrow_mut() = Some(read.map_err(|error| error.to_string().into()));
            reading.done.fire();
        });
        Some(block)
    }
}

/// Blocks that follow each other.
#[derive(Default)]
pub(super) struct Run {
    start: u64,
    reads: Vec<Rc<ReadResult>>,
}

impl Run {
    /// Copies bytes at file position `at`; false where they are not all there.
    pub(super) fn copy(&self, at: u64, out: &mut [u8]) -> bool {
        let mut filled = 0;
        while filled < out.len() {
            let Some(bytes) = self.bytes_at(at + filled as u64) else { return false };
            let size = bytes.len().min(out.len() - filled);
            out[filled..filled + size].copy_from_slice(&bytes[..size]);
            filled += size;
        }
        true
    }

    fn bytes_at(&self, at: u64) -> Option<&[u8]> {
        let inside = at.checked_sub(self.start)? as usize;
        let read = self.reads.get(inside / READ_BLOCK_BYTES)?;
        read.get(inside % READ_BLOCK_BYTES..).filter(|bytes| !bytes.is_empty())
    }

    /// Slices over `[from, to)`; false where they are not all there.
    pub(super) fn slices(&self, from: u64, to: u64, out: &mut Vec<Slice>) -> bool {
        let mut at = from;
        while at < to {
            let Some(bytes) = self.bytes_at(at) else { return false };
            let size = bytes.len().min((to - at) as usize);
            let inside = (at - self.start) as usize;
            let (block, head) = (inside / READ_BLOCK_BYTES, inside % READ_BLOCK_BYTES);
            out.push(Slice::of_read(&self.reads[block], head, head + size));
            at += size as u64;
        }
        true
    }
}
