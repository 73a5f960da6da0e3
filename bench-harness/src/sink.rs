//! The sink: what a broker cannot avoid and nothing else. Receive, CRC32C, O_DIRECT write, tiny ack.
//!
//! Owner: one thread per server core; each has its own listener, buffers, probe file and ring. Frames are
//! received straight into the write buffers; the next frame's head comes with the same vectored receive.
//! With a flush, a frame is acknowledged once its write and an fdatasync behind it have completed, group by
//! group; without, once it is received and its CRC is computed (buffers bound how far writes may lag). The null sink
//! receives and acknowledges: against it the generator shows its own ceiling.
//!
//! Invariants: a buffer is written when every byte reserved in it has arrived; a buffer is reused after its
//! completion only; acks of a connection leave in frame order. Must not: copy payload in user space.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crate::error::{Result, io_err, protocol};
use crate::limits::{
    DIRECT_ALIGN, SINK_BUFFER_BYTES, SINK_BUFFERS, SINK_FRAME_BYTES_MAX, SINK_WRITE_DEPTH, SLEEP_NS_MAX,
};
use crate::ring::{Job, ProbeFile, Ring};
use crate::sys::{self, Epoll, HugeBuffer, Ready};

/// Length, API key, version, correlation id: what is looked at of a frame.
const HEAD_BYTES: usize = 12;
const TOKEN_LISTENER: usize = usize::MAX;
const TOKEN_RING: usize = usize::MAX - 1;
const SLOT_SYNC: u64 = u64::MAX;
/// Receives of one connection before its neighbours get their turn.
const BURST_MAX: usize = 8;

/// What a sink does with a frame before its acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Nothing: it is received and thrown away.
    Nothing,
    /// CRC, and a write that may complete later.
    Write,
    /// CRC, the write, and an fdatasync behind it.
    Flush,
}

/// A range of one buffer that a frame fills.
#[derive(Debug, Clone, Copy)]
struct Region {
    buffer: usize,
    start: usize,
    end: usize,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    head: [u8; HEAD_BYTES],
    head_filled: usize,
    /// Bytes of the current frame without a place yet.
    unplaced: usize,
    regions: VecDeque<Region>,
    crc: u32,
    replies: Vec<u8>,
    /// Waits for a free buffer.
    starved: bool,
    queued: bool,
    gone: bool,
}

/// Fill state of one write buffer.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    reserved: usize,
    filled: usize,
    /// Takes no more reservations; is written once `filled` equals `reserved`.
    sealed: bool,
    /// Position in the order of sealing.
    sequence: u64,
}

/// A frame whose ack waits for its buffers' sequence to be synced.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    connection: usize,
    correlation: [u8; 4],
    /// Sequence of its last buffer, or `None` while that is still open.
    buffer: usize,
    sequence: u64,
}

/// One sink thread's state.
#[derive(Debug)]
struct Sink {
    listener: TcpListener,
    epoll: Epoll,
    // The ring is declared, and so dropped, before the memory its operations use.
    ring: Ring,
    memory: HugeBuffer,
    probe: ProbeFile,
    slots: Vec<Slot>,
    free: Vec<usize>,
    current: Option<usize>,
    to_write: VecDeque<usize>,
    file_offset: u64,
    connections: Vec<Connection>,
    ready: VecDeque<usize>,
    work: Work,
    waiting: VecDeque<Waiting>,
    sequence_next: u64,
    /// Sequences sealed and not yet written.
    unwritten: Vec<u64>,
    /// The sync in flight covers every sequence below this.
    syncing: Option<u64>,
    synced: u64,
}

/// Running sink threads; stopped by `stop` or on drop.
#[derive(Debug)]
pub(crate) struct SinkHandle {
    /// Where to connect, one address per thread.
    pub(crate) addresses: Vec<SocketAddr>,
    stop: Arc<AtomicBool>,
    /// Processor time of each thread so far, in nanoseconds, as of its last wake-up.
    cpu_ns: Vec<Arc<AtomicU64>>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl SinkHandle {
    /// Starts a thread on each of the cores (one unpinned thread when there are none), each with a file of
    /// `file_bytes` in `folder`.
    pub(crate) fn start(cpus: &[usize], folder: &Path, file_bytes: u64, work: Work) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut handle =
            Self { addresses: Vec::new(), stop: Arc::clone(&stop), cpu_ns: Vec::new(), threads: Vec::new() };
        for thread in 0..cpus.len().max(1) {
            let share = file_bytes / cpus.len().max(1) as u64;
            let probe = ProbeFile::create(folder, &format!("sink{thread}"), share)?;
            let sink = Sink::new(probe, work).map_err(io_err("set up the sink"))?;
            handle.addresses.push(sink.listener.local_addr().map_err(io_err("sink address"))?);
            let (stop, cpu) = (Arc::clone(&stop), cpus.get(thread).copied());
            let cpu_ns = Arc::new(AtomicU64::new(0));
            handle.cpu_ns.push(Arc::clone(&cpu_ns));
            handle.threads.push(std::thread::spawn(move || {
                if let Some(cpu) = cpu {
                    sys::pin_thread(cpu).map_err(io_err(format!("pin to core {cpu}")))?;
                }
                sink.run(&stop, &cpu_ns)
            }));
        }
        Ok(handle)
    }

    /// Processor time of all threads so far, in nanoseconds.
    pub(crate) fn cpu_ns(&self) -> u64 {
        self.cpu_ns.iter().map(|time| time.load(Ordering::Relaxed)).sum()
    }

    /// Stops the threads and reports what went wrong in them.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads
            .drain(..)
            .try_for_each(|thread| thread.join().map_err(|_| protocol("a sink thread panicked"))?)
    }
}

impl Drop for SinkHandle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

impl Sink {
    fn new(probe: ProbeFile, work: Work) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let ring = Ring::new(&probe.file, SINK_WRITE_DEPTH + 1)?;
        let epoll = Epoll::new()?;
        epoll.add_input(listener.as_raw_fd(), TOKEN_LISTENER)?;
        epoll.add_input(ring.fd(), TOKEN_RING)?;
        Ok(Self {
            listener,
            epoll,
            ring,
            memory: HugeBuffer::new(SINK_BUFFERS * SINK_BUFFER_BYTES)?,
            probe,
            slots: vec![Slot::default(); SINK_BUFFERS],
            free: (0..SINK_BUFFERS).collect(),
            current: None,
            to_write: VecDeque::new(),
            file_offset: 0,
            connections: Vec::new(),
            ready: VecDeque::new(),
            work,
            waiting: VecDeque::new(),
            sequence_next: 1,
            unwritten: Vec::new(),
            syncing: None,
            synced: 0,
        })
    }

    fn run(mut self, stop: &AtomicBool, cpu_ns: &AtomicU64) -> Result<()> {
        let mut events: Vec<Ready> = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let timeout = if self.ready.is_empty() { SLEEP_NS_MAX } else { 0 };
            self.epoll.wait(timeout, &mut events).map_err(io_err("sink epoll"))?;
            for event in &events {
                match event.token {
                    TOKEN_LISTENER => self.accept().map_err(io_err("sink accept"))?,
                    TOKEN_RING => {}
                    token => {
                        if event.writable {
                            self.send_replies(token);
                        }
                        if event.readable {
                            self.enqueue(token);
                        }
                    }
                }
            }
            self.reap().map_err(io_err("sink write"))?;
            for _ in 0..self.ready.len() {
                let Some(index) = self.ready.pop_front() else { break };
                self.connections[index].queued = false;
                self.receive(index)?;
                self.send_replies(index);
                self.write_out().map_err(io_err("sink write"))?;
            }
            self.group_commit().map_err(io_err("sink sync"))?;
            cpu_ns.store(sys::thread_cpu_ns(), Ordering::Relaxed);
        }
        Ok(())
    }

    fn enqueue(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if !connection.queued && !connection.gone {
            connection.queued = true;
            self.ready.push_back(index);
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            self.epoll.add_edge(stream.as_raw_fd(), self.connections.len())?;
            self.connections.push(Connection {
                stream,
                head: [0; HEAD_BYTES],
                head_filled: 0,
                unplaced: 0,
                regions: VecDeque::new(),
                crc: 0,
                replies: Vec::new(),
                starved: false,
                queued: false,
                gone: false,
            });
        }
    }

    /// Receives until the socket is empty, the buffers are, or others should have a turn.
    fn receive(&mut self, index: usize) -> Result<()> {
        for _ in 0..BURST_MAX {
            if !self.place(index) {
                self.connections[index].starved = true;
                return Ok(());
            }
            let connection = &mut self.connections[index];
            let region = connection.regions.front().copied();
            let (start, end) = region.map_or((0, 0), |region| {
                let base = region.buffer * SINK_BUFFER_BYTES;
                (base + region.start, base + region.end)
            });
            // The next head may come along only when this region is the rest of the frame.
            let last = connection.unplaced == 0 && connection.regions.len() <= 1;
            let head_from = if region.is_some() { 0 } else { connection.head_filled };
            let head_to = if last { HEAD_BYTES } else { head_from };
            let mut next_head = [0u8; HEAD_BYTES];
            let mut slices = [
                IoSliceMut::new(&mut self.memory.bytes_mut()[start..end]),
                IoSliceMut::new(&mut next_head[head_from..head_to]),
            ];
            let wanted = (end - start) + (head_to - head_from);
            let count = match (&connection.stream).read_vectored(&mut slices) {
                Ok(0) => {
                    connection.gone = true;
                    return Ok(());
                }
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => {
                    connection.gone = true;
                    return Ok(());
                }
            };
            let body = count.min(end - start);
            let head = count - body;
            self.took_body(index, body);
            let connection = &mut self.connections[index];
            if head > 0 {
                connection.head[head_from..head_from + head]
                    .copy_from_slice(&next_head[head_from..head_from + head]);
                connection.head_filled = head_from + head;
                if connection.head_filled == HEAD_BYTES {
                    self.took_head(index)?;
                }
            }
            if count < wanted {
                // Short: the socket is empty for now; the edge-triggered epoll tells when it is not.
                return Ok(());
            }
        }
        self.enqueue(index);
        Ok(())
    }

    /// Books body bytes that arrived in the front region.
    fn took_body(&mut self, index: usize, count: usize) {
        if count == 0 {
            return;
        }
        let connection = &mut self.connections[index];
        let Some(region) = connection.regions.front_mut() else { return };
        let from = region.buffer * SINK_BUFFER_BYTES + region.start;
        if self.work != Work::Nothing {
            let body = &self.memory.bytes()[from..from + count];
            connection.crc = crc32c::crc32c_append(connection.crc, body);
        }
        region.start += count;
        let done = *region;
        if done.start == done.end {
            connection.regions.pop_front();
        }
        let frame_done = connection.regions.is_empty() && connection.unplaced == 0;
        let correlation = [connection.head[8], connection.head[9], connection.head[10], connection.head[11]];
        if frame_done {
            connection.head_filled = 0;
            // Keeps the compiler from dropping the CRC, whose cost is part of what is measured.
            std::hint::black_box(connection.crc);
            connection.crc = 0;
        }
        self.slots[done.buffer].filled += count;
        self.written_if_full(done.buffer);
        if !frame_done {
            return;
        }
        if self.work == Work::Flush {
            let sequence = self.slots[done.buffer].sequence;
            self.waiting.push_back(Waiting { connection: index, correlation, buffer: done.buffer, sequence });
        } else {
            self.reply(index, correlation);
        }
    }

    fn written_if_full(&mut self, buffer: usize) {
        let slot = self.slots[buffer];
        if !slot.sealed || slot.filled < slot.reserved {
            return;
        }
        if self.work != Work::Nothing {
            self.to_write.push_back(buffer);
            return;
        }
        self.unwritten.retain(|sequence| *sequence != slot.sequence);
        self.free.push(buffer);
        self.feed_starved();
    }

    /// A frame's head is complete: its body has to be placed.
    fn took_head(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        let [a, b, c, d, ..] = connection.head;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length <= HEAD_BYTES - 4 || length > SINK_FRAME_BYTES_MAX {
            return Err(protocol(format!("the sink takes no frame of {length} bytes")));
        }
        connection.unplaced = length - (HEAD_BYTES - 4);
        Ok(())
    }

    /// Reserves room for the rest of the frame; false when there is no buffer and nothing reserved.
    fn place(&mut self, index: usize) -> bool {
        while self.connections[index].unplaced > 0 && self.connections[index].regions.len() < 2 {
            let buffer = match self.current {
                Some(buffer) => buffer,
                None => {
                    let Some(buffer) = self.free.pop() else { break };
                    self.slots[buffer] = Slot { sequence: self.sequence_next, ..Slot::default() };
                    self.sequence_next += 1;
                    self.unwritten.push(self.slots[buffer].sequence);
                    self.current = Some(buffer);
                    buffer
                }
            };
            let slot = &mut self.slots[buffer];
            let count = (SINK_BUFFER_BYTES - slot.reserved).min(self.connections[index].unplaced);
            let region = Region { buffer, start: slot.reserved, end: slot.reserved + count };
            slot.reserved += count;
            if slot.reserved == SINK_BUFFER_BYTES {
                slot.sealed = true;
                self.current = None;
            }
            let connection = &mut self.connections[index];
            connection.unplaced -= count;
            connection.regions.push_back(region);
        }
        let connection = &self.connections[index];
        connection.unplaced == 0 || !connection.regions.is_empty()
    }

    /// Starts writes, as many as the depth allows.
    fn write_out(&mut self) -> io::Result<()> {
        let busy = usize::from(self.syncing.is_some());
        while self.ring.in_flight() - busy < SINK_WRITE_DEPTH {
            let Some(buffer) = self.to_write.pop_front() else { break };
            let length = self.slots[buffer].reserved.next_multiple_of(DIRECT_ALIGN);
            let offset = self.file_offset;
            self.file_offset = self.probe.advance(offset, length);
            let range = (buffer * SINK_BUFFER_BYTES, length);
            self.ring.submit(Job::Write, buffer as u64, &self.memory, range, offset)?;
        }
        Ok(())
    }

    fn reap(&mut self) -> io::Result<()> {
        if self.ring.in_flight() == 0 {
            return Ok(());
        }
        let (slots, free, unwritten) = (&self.slots, &mut self.free, &mut self.unwritten);
        let mut freed = false;
        let mut sync_done = false;
        let mut short = false;
        self.ring.reap(0, |slot, bytes| {
            if slot == SLOT_SYNC {
                sync_done = true;
                return;
            }
            let buffer = slot as usize;
            short |= bytes != slots[buffer].reserved.next_multiple_of(DIRECT_ALIGN);
            unwritten.retain(|sequence| *sequence != slots[buffer].sequence);
            free.push(buffer);
            freed = true;
        })?;
        if short {
            return Err(io::Error::other("short O_DIRECT write"));
        }
        if sync_done {
            self.synced = self.syncing.take().unwrap_or(self.synced);
        }
        self.write_out()?;
        if sync_done {
            self.release();
        }
        if freed {
            self.feed_starved();
        }
        Ok(())
    }

    /// There are free buffers again.
    fn feed_starved(&mut self) {
        for index in 0..self.connections.len() {
            if std::mem::take(&mut self.connections[index].starved) {
                self.enqueue(index);
            }
        }
    }

    /// Acknowledges what the last sync covers.
    fn release(&mut self) {
        let synced = self.synced;
        let mut answered = Vec::new();
        for _ in 0..self.waiting.len() {
            let Some(frame) = self.waiting.pop_front() else { break };
            if frame.sequence < synced {
                self.reply(frame.connection, frame.correlation);
                answered.push(frame.connection);
            } else {
                self.waiting.push_back(frame);
            }
        }
        answered.sort_unstable();
        answered.dedup();
        for index in answered {
            self.send_replies(index);
        }
    }

    /// With a flush: closes the open buffer when frames wait in it and the disk is idle, and starts a flush
    /// once writes that somebody waits for are complete.
    fn group_commit(&mut self) -> io::Result<()> {
        if self.work != Work::Flush || self.waiting.is_empty() {
            return Ok(());
        }
        if let Some(buffer) = self.current
            && self.ring.in_flight() == 0
            && self.waiting.iter().any(|frame| frame.buffer == buffer)
            && self.slots[buffer].filled == self.slots[buffer].reserved
        {
            self.slots[buffer].sealed = true;
            self.current = None;
            self.to_write.push_back(buffer);
            self.write_out()?;
        }
        if self.syncing.is_none() {
            let complete = self.unwritten.iter().copied().min().unwrap_or(self.sequence_next);
            if self.waiting.iter().any(|frame| frame.sequence < complete) && complete > self.synced {
                self.syncing = Some(complete);
                self.ring.submit_sync(SLOT_SYNC)?;
            }
        }
        Ok(())
    }

    fn reply(&mut self, index: usize, correlation: [u8; 4]) {
        let replies = &mut self.connections[index].replies;
        replies.extend_from_slice(&4u32.to_be_bytes());
        replies.extend_from_slice(&correlation);
    }

    fn send_replies(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        while !connection.replies.is_empty() {
            match (&connection.stream).write(&connection.replies) {
                Ok(count) => drop(connection.replies.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    connection.gone = true;
                    return;
                }
            }
        }
    }
}
