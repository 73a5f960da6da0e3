//! The tail of a log in memory: the chunks that are filled by appends, written to disk as they are, and
//! served to consumers by reference.
//!
//! Owner: one log. Invariants: chunks are contiguous in log position and ordered; a chunk never crosses
//! a segment; `issued <= filled`; bytes below `filled` are final. A chunk that begins inside a block
//! starts with a copy of that block's earlier bytes, so that every write covers whole blocks.
//! It must not do I/O; `segment_writer` does.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::buffer::{IoBuf, Slice};
use super::segment::Segment;
use crate::limits::{BLOCK_SIZE, CHUNK_SIZE_MAX, CHUNK_SIZE_MIN, LANDING_NOW_BYTES_MAX};

/// Rounds down to the block size.
pub fn block_floor(position: u64) -> u64 {
    position - position % BLOCK_SIZE as u64
}

/// Rounds up to the block size.
pub fn block_ceil(position: u64) -> u64 {
    position.next_multiple_of(BLOCK_SIZE as u64)
}

/// One buffer of the tail.
pub struct Chunk {
    /// The segment whose bytes it holds.
    pub segment: Rc<Segment>,
    /// Block-aligned position of the buffer's first byte in the segment file.
    pub file_position: u64,
    /// The memory.
    pub buffer: IoBuf,
    /// Bytes filled.
    pub filled: usize,
    /// Bytes handed to the disk (completed or in flight).
    pub issued: usize,
    /// No more appends go into it.
    pub closed: bool,
    /// The bytes behind `filled` are lent to somebody who receives into them.
    pub lent: Rc<Cell<bool>>,
}

impl Chunk {
    /// Log position of the first byte.
    pub fn start(&self) -> u64 {
        self.segment.base_position + self.file_position
    }

    fn is_open_for(&self, segment: &Rc<Segment>) -> bool {
        !self.closed && Rc::ptr_eq(&self.segment, segment)
    }

    /// Log position after the last filled byte.
    pub fn end(&self) -> u64 {
        self.start() + self.filled as u64
    }
}

/// What an attempt to free tail memory came to.
pub enum Eviction {
    /// So many bytes.
    Freed(usize),
    /// The oldest chunk is not written yet.
    Busy,
    /// There is no chunk.
    Empty,
}

/// The chunks of one log.
pub struct Tail {
    chunks: VecDeque<Chunk>,
    /// Bytes of the last, partly filled block when its chunk was evicted or never loaded.
    partial: Vec<u8>,
    next_capacity: usize,
}

impl Tail {
    /// An empty tail; `partial` holds the bytes of the last block before the append position.
    pub fn new(partial: Vec<u8>) -> Tail {
        assert!(partial.len() < BLOCK_SIZE);
        Tail { chunks: VecDeque::new(), partial, next_capacity: CHUNK_SIZE_MIN }
    }

    /// Log position of the oldest byte in memory, if there is one.
    pub fn start(&self) -> Option<u64> {
        self.chunks.front().map(Chunk::start)
    }

    /// Chunks, oldest first.
    pub fn chunks_mut(&mut self) -> &mut VecDeque<Chunk> {
        &mut self.chunks
    }

    /// Copies `bytes` to the end of `segment`; returns the memory newly allocated.
    pub fn append(&mut self, segment: &Rc<Segment>, bytes: &[u8]) -> usize {
        let mut allocated = 0;
        let mut rest = bytes;
        while !rest.is_empty() {
            let open = self.chunks.back().is_some_and(|c| c.is_open_for(segment) && !c.lent.get());
            if !open {
                allocated += self.open_chunk(segment, rest.len());
            }
            let chunk = self.chunks.back_mut().expect("a chunk was just opened");
            let room = chunk.buffer.capacity() - chunk.filled;
            let (now, later) = rest.split_at(room.min(rest.len()));
            chunk.buffer.put(chunk.filled, now);
            chunk.filled += now.len();
            segment.size_bytes.set(segment.size_bytes.get() + now.len() as u64);
            if chunk.filled == chunk.buffer.capacity() {
                chunk.closed = true;
                self.next_capacity = (self.next_capacity * 2).min(CHUNK_SIZE_MAX);
            }
            rest = later;
        }
        allocated
    }

    /// Room for `len` bytes (at most [`LANDING_NOW_BYTES_MAX`]) right behind the last ones of `segment`: the buffer,
    /// the place in it, the mark to clear when the loan ends, and the memory newly allocated.
    pub fn lend(&mut self, segment: &Rc<Segment>, len: usize) -> (IoBuf, usize, Rc<Cell<bool>>, usize) {
        assert!(len <= LANDING_NOW_BYTES_MAX);
        let open = self.chunks.back().filter(|c| c.is_open_for(segment) && !c.lent.get());
        let fits = open.is_some_and(|c| c.buffer.capacity() - c.filled >= len);
        let mut allocated = 0;
        if !fits {
            if open.is_some_and(|c| c.filled > c.buffer.capacity() / 2) {
                self.next_capacity = (self.next_capacity * 2).min(CHUNK_SIZE_MAX);
            }
            allocated = self.open_chunk(segment, len);
        }
        let chunk = self.chunks.back().expect("a chunk is open");
        chunk.lent.set(true);
        (chunk.buffer.share(), chunk.filled, chunk.lent.clone(), allocated)
    }

    /// Makes the `len` bytes received at `at` of `buffer` part of the log, if they still are where it ends.
    pub fn settle(&mut self, segment: &Rc<Segment>, buffer: &IoBuf, at: usize, len: usize) -> bool {
        let last = self.chunks.back_mut().filter(|c| c.is_open_for(segment) && c.buffer.is_same(buffer));
        let Some(chunk) = last.filter(|c| c.filled == at) else { return false };
        chunk.filled += len;
        segment.size_bytes.set(segment.size_bytes.get() + len as u64);
        if chunk.filled == chunk.buffer.capacity() {
            chunk.closed = true;
            self.next_capacity = (self.next_capacity * 2).min(CHUNK_SIZE_MAX);
        }
        true
    }

    /// Notes that a chunk was closed with only `used` bytes in it, because the disk had time for them: the next ones
    /// are made for as many, so that memory is not spread over half-empty chunks.
    pub fn note_early_close(&mut self, used: usize) {
        self.next_capacity = used.next_power_of_two().clamp(CHUNK_SIZE_MIN, self.next_capacity);
    }

    fn open_chunk(&mut self, segment: &Rc<Segment>, expected_bytes: usize) -> usize {
        let end = segment.size_bytes.get();
        let file_position = block_floor(end);
        let keep = (end - file_position) as usize;
        let wanted = (keep + expected_bytes).next_power_of_two().clamp(self.next_capacity, CHUNK_SIZE_MAX);
        let buffer = IoBuf::allocate(wanted);
        let issued = self.hand_over(segment, &buffer, keep);
        let (segment, lent) = (segment.clone(), Rc::default());
        self.chunks.push_back(Chunk {
            segment,
            file_position,
            buffer,
            filled: keep,
            issued,
            closed: false,
            lent,
        });
        wanted
    }

    /// Makes a received batch the next chunk; it must begin `lead` bytes into `buffer`, where the log's
    /// last block has as many bytes. Returns the memory that now belongs to the tail.
    pub fn adopt(&mut self, segment: &Rc<Segment>, buffer: IoBuf, lead: usize, len: usize) -> usize {
        let end = segment.size_bytes.get();
        let file_position = block_floor(end);
        assert_eq!((end - file_position) as usize, lead);
        let issued = self.hand_over(segment, &buffer, lead);
        segment.size_bytes.set(end + len as u64);
        let capacity = buffer.capacity();
        let (segment, filled, lent) = (segment.clone(), lead + len, Rc::default());
        self.chunks.push_back(Chunk { segment, file_position, buffer, filled, issued, closed: true, lent });
        capacity
    }

    /// Copies the last block's `keep` bytes to the front of the next chunk's `buffer`, and with them the
    /// duty to write what the last chunk has not issued of them. Returns the bytes already issued.
    fn hand_over(&mut self, segment: &Rc<Segment>, buffer: &IoBuf, keep: usize) -> usize {
        let last = self.chunks.back_mut().filter(|last| Rc::ptr_eq(&last.segment, segment));
        let issued = match last {
            Some(last) => {
                last.closed = true;
                let from = last.filled - keep;
                buffer.put(0, last.buffer.bytes(from, last.filled));
                last.filled = last.filled.min(last.issued.max(from));
                last.issued.saturating_sub(from).min(keep)
            }
            None => {
                assert_eq!(self.partial.len(), keep, "the last block's bytes were lost");
                buffer.put(0, &self.partial);
                keep
            }
        };
        self.partial = Vec::new();
        issued
    }

    /// Ends the open chunk, because its segment ends.
    pub fn close_open(&mut self) {
        self.partial = Vec::new();
        if let Some(last) = self.chunks.back_mut() {
            last.closed = true;
        }
    }

    /// Drops the oldest chunk when all of it is written. `active`: the segment that appends go to.
    pub fn evict_oldest(&mut self, written: u64, active: Option<&Rc<Segment>>) -> Eviction {
        let Some(first) = self.chunks.front() else { return Eviction::Empty };
        if first.issued < first.filled || first.end() > written {
            return Eviction::Busy;
        }
        let chunk = self.chunks.pop_front().expect("front was there");
        if self.chunks.is_empty() {
            let from = block_floor(chunk.filled as u64) as usize;
            let ends_segment = chunk.file_position + chunk.filled as u64 == chunk.segment.size_bytes.get();
            // The block of a segment that has ended is nobody's beginning.
            if ends_segment && active.is_some_and(|active| Rc::ptr_eq(active, &chunk.segment)) {
                self.partial = chunk.buffer.bytes(from, chunk.filled).to_vec();
            }
            self.next_capacity = CHUNK_SIZE_MIN;
        }
        Eviction::Freed(chunk.buffer.capacity())
    }

    fn chunk_at(&self, position: u64) -> Option<usize> {
        let after = self.chunks.partition_point(|chunk| chunk.start() <= position);
        let at = after.checked_sub(1)?;
        (position < self.chunks[at].end()).then_some(at)
    }

    /// Copies `out.len()` bytes from log position `position`, if they are all in memory.
    pub fn peek(&self, position: u64, out: &mut [u8]) -> bool {
        let mut at = position;
        let mut filled = 0;
        while filled < out.len() {
            let Some(index) = self.chunk_at(at) else { return false };
            let chunk = &self.chunks[index];
            let from = (at - chunk.start()) as usize;
            let size = (chunk.filled - from).min(out.len() - filled);
            out[filled..filled + size].copy_from_slice(chunk.buffer.bytes(from, from + size));
            filled += size;
            at += size as u64;
        }
        true
    }

    /// Slices that cover `[from, to)`, if all of it is in memory.
    pub fn slices(&self, from: u64, to: u64, out: &mut Vec<Slice>) -> bool {
        let mark = out.len();
        let mut at = from;
        while at < to {
            let Some(index) = self.chunk_at(at) else {
                out.truncate(mark);
                return false;
            };
            let chunk = &self.chunks[index];
            let start = (at - chunk.start()) as usize;
            let end = ((to - chunk.start()) as usize).min(chunk.filled);
            out.push(Slice::of_buffer(&chunk.buffer, start, end));
            at = chunk.start() + end as u64;
        }
        true
    }
}
