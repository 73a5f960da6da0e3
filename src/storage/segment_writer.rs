//! Turns the filled part of the tail into large block-aligned writes.
//!
//! Owner: one log. Invariants: a write covers whole blocks, its end padded with zeros; two writes that
//! touch the same block are never in flight together; `written` moves only over a gapless run of
//! completed writes in named segments; while a write is in flight a partly filled chunk waits, so that
//! what arrives meanwhile goes out as one (group commit).
//! It must not retry a failed write: the first error fails the log.

use std::rc::Rc;

use super::buffer::IoBuf;
use super::disk::DiskFile;
use super::log::{Log, LogError, LogState};
use super::tail::{Chunk, block_ceil, block_floor};
use crate::limits::{BLOCK_SIZE, DIRECT_WRITE_BYTES_MIN, LANDING_GRACE_MS, WRITE_DEPTH_MAX};
use crate::metrics::{self, Counter, Series};
use crate::rt;

/// A write handed to the disk.
pub(super) struct InFlight {
    /// Log position up to which data is written when it completes.
    pub(super) end: u64,
    /// `end`, rounded up to the block.
    pub(super) block_end: u64,
    /// Segment whose name must be durable before the write counts.
    pub(super) segment: Rc<super::segment::Segment>,
    pub(super) done: bool,
    /// First log position of the write, if all of it is durable when it completes.
    pub(super) durable_from: Option<u64>,
}

/// Whether the last, partly filled block waits for a batch that is being received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Grace {
    /// Nothing waits.
    #[default]
    None,
    /// A block waits, a timer runs.
    Running,
    /// The timer has run out: the block is written as it is.
    Over,
}

enum Plan {
    Write(Planned),
    /// Nothing to write, or not now: a completion will come.
    Wait,
    /// Only a partly filled block, and more bytes are on their way.
    Grace,
    /// A large one, and the core's logs have enough under way.
    Queue,
}

struct Planned {
    buffer: Rc<glommio::io::DmaBuffer>,
    file: Rc<dyn DiskFile>,
    position: u64,
    end: u64,
    durable: bool,
    /// The log has no other under way.
    lonely: bool,
}

impl Log {
    /// Issues every write that may go out now.
    pub(super) fn pump_writes(self: &Rc<Self>) {
        loop {
            let planned = {
                let mut state = self.state.borrow_mut();
                if state.failed.is_some() {
                    return;
                }
                let landing = self.landing_bytes.get() > 0;
                state.plan_write(landing, landing && self.grace.get() != Grace::Over, self.gate.is_full())
            };
            let planned = match planned {
                Plan::Write(planned) => planned,
                Plan::Wait => return,
                Plan::Grace => return self.begin_grace(),
                Plan::Queue => return self.gate.wait(self),
            };
            self.grace.set(Grace::None);
            let log = self.clone();
            let size = planned.buffer.len();
            self.gate.begins(size, planned.lonely);
            rt::spawn(async move {
                let since_ns = metrics::now_ns();
                metrics::add(Counter::DiskWriteBytes, size as u64);
                let outcome = planned.file.write(planned.buffer, planned.position, planned.durable).await;
                metrics::record_since(Series::ProduceWrite, since_ns);
                log.gate.ended(size);
                log.write_done(planned.end, outcome);
            });
        }
    }

    /// [`pump_writes`](Self::pump_writes) once the task that runs has come to a pause. Its connection looks for the
    /// next batch before that: if there is one, the last, partly filled block is left to it, and the writes of both
    /// can be in flight at once.
    pub(super) fn pump_soon(self: &Rc<Self>) {
        if self.pump_due.replace(true) {
            return;
        }
        let log = self.clone();
        rt::spawn(async move {
            log.pump_due.set(false);
            log.pump_writes();
        });
    }

    /// Lets a partly filled block wait for the batch that is being received, but not for long.
    fn begin_grace(self: &Rc<Self>) {
        if self.grace.get() != Grace::None {
            return;
        }
        self.grace.set(Grace::Running);
        let log = self.clone();
        rt::spawn(async move {
            rt::sleep_ms(LANDING_GRACE_MS).await;
            if log.grace.get() == Grace::Running {
                log.grace.set(Grace::Over);
                log.pump_writes();
            }
        });
    }

    fn write_done(self: &Rc<Self>, end: u64, outcome: std::io::Result<()>) {
        if let Err(error) = outcome {
            let text =
                format!("{}: write before log position {end} failed: {error}", self.directory.display());
            self.fail(LogError::Failed(text.into()));
            return;
        }
        if let Some(write) = self.state.borrow_mut().commit.in_flight.iter_mut().find(|w| w.end == end) {
            write.done = true;
        }
        self.advance_written();
    }

    /// Moves `written` over completed writes and does what waited for it.
    pub(super) fn advance_written(self: &Rc<Self>) {
        let moved = self.state.borrow_mut().commit.advance_written();
        if moved {
            self.after_commit_moved();
            self.kick_flush();
        }
        // Completed writes hold a place in the queue until the gap before them closes or their segment is named:
        // only now is there room for what waits.
        self.pump_writes();
        self.progress.fire();
    }
}

impl LogState {
    /// The next write that may be issued. `landing`: more bytes are being received right now; `grace`: a
    /// partly filled block should wait for them; `full`: a large write should wait for others'.
    fn plan_write(&mut self, landing: bool, grace: bool, full: bool) -> Plan {
        if self.commit.in_flight.len() >= WRITE_DEPTH_MAX {
            return Plan::Wait;
        }
        let Some(active) = self.segments.back() else { return Plan::Wait };
        let chunks = self.tail.chunks_mut();
        // Chunks are issued in order. One whose bytes were all handed over is empty and says nothing of those before.
        let first_unissued = chunks
            .iter()
            .rposition(|chunk| chunk.filled > 0 && chunk.issued == chunk.filled)
            .map_or(0, |at| at + 1);
        let empty = chunks.iter().skip(first_unissued).take_while(|chunk| chunk.filled == 0).count();
        let first_unissued = first_unissued + empty;
        let Some(chunk) = chunks.get_mut(first_unissued) else { return Plan::Wait };
        let from = block_floor(chunk.issued as u64) as usize;
        let block_start = chunk.start() + from as u64;
        let overlaps = self.commit.in_flight.iter().any(|write| !write.done && write.block_end > block_start);
        if overlaps {
            return Plan::Wait;
        }
        let idle = self.commit.in_flight.iter().all(|write| write.done);
        let active = Rc::ptr_eq(&chunk.segment, active);
        let Some(to) = write_end(chunk, from, idle, landing, active) else { return Plan::Wait };
        // (Only received batches: a small append that waits in an open chunk must not pay for a large one.)
        if grace && active && chunk.closed && to - from < BLOCK_SIZE && to % BLOCK_SIZE != 0 {
            return Plan::Grace;
        }
        if full && to - from >= DIRECT_WRITE_BYTES_MIN {
            return Plan::Queue;
        }
        // The file of an active segment is always open; a sealed one has nothing left to write.
        let Some(file) = chunk.segment.open_file() else { return Plan::Wait };
        let end = chunk.start() + to as u64;
        // Whoever waits for a flush of some of these bytes gets it with the write itself.
        let durable = self.commit.flush_wanted() > chunk.start() + chunk.issued as u64;
        let was_open = !chunk.closed;
        let (buffer, position) = plan_buffer(chunk, from, to);
        chunk.issued = to;
        let segment = chunk.segment.clone();
        let early = was_open && chunk.closed;
        self.commit.in_flight.push_back(InFlight {
            end,
            block_end: segment.base_position + block_ceil(end - segment.base_position),
            segment,
            done: false,
            durable_from: durable.then_some(block_start),
        });
        if early {
            self.tail.note_early_close(to);
        }
        Plan::Write(Planned { buffer, file, position, end, durable, lonely: idle })
    }
}

/// Up to where the chunk may be written now; `None` when it should wait for more bytes.
fn write_end(chunk: &Chunk, from: usize, idle: bool, landing: bool, active: bool) -> Option<usize> {
    let whole = block_floor(chunk.filled as u64) as usize;
    let worthwhile = whole.saturating_sub(from) >= DIRECT_WRITE_BYTES_MIN;
    if chunk.closed && (whole == chunk.filled || !active) {
        return Some(chunk.filled);
    }
    // The last, partly filled block is better written with what follows it: as part of it, the write of
    // the next batch need not wait for this one.
    if chunk.closed && worthwhile && (landing || !idle) {
        return Some(whole);
    }
    idle.then_some(chunk.filled)
}

/// Chooses between the chunk's own memory and a bounce copy of its dirty blocks.
fn plan_buffer(chunk: &mut Chunk, from: usize, to: usize) -> (Rc<glommio::io::DmaBuffer>, u64) {
    let capacity = chunk.buffer.capacity();
    let padded = to.next_multiple_of(BLOCK_SIZE);
    let dirty = padded - from;
    if to == capacity && dirty * 2 >= capacity {
        return (chunk.buffer.dma(), chunk.file_position);
    }
    // (Bytes behind `filled` may be lent: then somebody else holds the buffer.)
    if from == 0 && dirty >= DIRECT_WRITE_BYTES_MIN && chunk.buffer.is_exclusive() {
        if to == chunk.filled {
            chunk.buffer.zero(chunk.filled, padded);
        }
        if chunk.buffer.trim_write(padded) {
            chunk.closed = true;
            return (chunk.buffer.dma(), chunk.file_position);
        }
    }
    let bounce = IoBuf::allocate(dirty);
    bounce.put(0, chunk.buffer.bytes(from, to));
    bounce.zero(to - from, dirty);
    (bounce.dma(), chunk.file_position + from as u64)
}
