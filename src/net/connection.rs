//! One connection: a reader that takes frames in order and a writer that answers them in order.
//!
//! Owner: one core, for the connection's whole life. Invariants: requests are dispatched in the order of
//! arrival and answered in the same order; a frame's length is checked before memory is reserved for it;
//! at most `PIPELINE_DEPTH_MAX` requests and `queued.max.request.bytes`-like request bytes are in flight;
//! an idle connection holds a small buffer and nothing else.
//! It must not interpret requests beyond their length.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;

use super::answers::{AnswerMemory, Held};
use super::frame_pool::FrameBuffer;
use super::idle::{Activity, Verdict};
use super::receive;
use super::send::{Progress, send_now, send_rest};
use crate::api;
use crate::limits::{
    BULK_BYTES_MIN, LANDING_BATCH_BYTES_MIN, LANDING_NOW_BYTES_MAX, LANDING_NOW_BYTES_MIN,
    LARGE_FRAME_MS_MAX, LARGE_FRAME_PEEK_BYTES, PIPELINE_DEPTH_MAX, READ_BUFFER_BYTES_MAX,
    READ_BUFFER_BYTES_MIN, WAKE_BYTES_MAX, WAKE_BYTES_MIN,
};
use crate::metrics::Spans;
use crate::rt;
use crate::shard::{Lease, Shard};
use crate::storage::{Landing, Slice};
use crate::sync::{Event, Turn, Turns};

/// Replies are collected into one send up to this size, bytes.
const SEND_BATCH_BYTES: usize = 64 << 10;

/// The socket, shared by the connection's reader and writer.
pub(super) struct Socket {
    stream: RefCell<TcpStream>,
    fd: RawFd,
    /// What this core's answers may hold.
    answers: Rc<AnswerMemory>,
    /// Turns at receiving and sending much at a time.
    bulk: Rc<Turns>,
    /// How long the peer may take none of what is sent to it (`connections.max.idle.ms`); `None` for ever.
    stall_ms_max: Option<u64>,
}

impl Socket {
    pub(super) fn fd(&self) -> RawFd {
        self.fd
    }

    /// Where the peer is.
    fn peer(&self) -> Option<std::net::IpAddr> {
        self.stream.borrow().peer_addr().ok().map(|address| address.ip())
    }

    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, buffer)).await
    }

    /// Waits until `wanted` bytes are there, or no more will come, and receives them.
    async fn read_later(&self, buffer: &mut [u8], wanted: usize) -> io::Result<usize> {
        if wanted < WAKE_BYTES_MIN {
            return self.read(buffer).await;
        }
        /// However the wait ends, the next one must not be for as many bytes.
        struct Restore(RawFd);
        impl Drop for Restore {
            fn drop(&mut self) {
                receive::wake_at(self.0, 1);
            }
        }
        receive::wake_at(self.fd, wanted);
        let _restore = Restore(self.fd);
        self.read(buffer).await
    }

    /// Receives what is there into `first`, then `second`, without waiting; `None` when nothing is there.
    fn try_read(&self, first: &mut [u8], second: &mut [u8]) -> io::Result<Option<usize>> {
        receive::try_receive(self.fd, first, second)
    }

    /// Bytes that are there to be read.
    fn available(&self) -> usize {
        receive::available(self.fd)
    }

    /// Waits until the socket takes some of `bytes`. A peer that reads nothing for so long is taken for gone: what
    /// waits for it holds memory, and a half-open connection is told from a slow one by nothing else. Sooner, if others
    /// need that memory.
    pub(super) async fn write(&self, bytes: &[u8], held_bytes: usize) -> io::Result<usize> {
        let stall = self.answers.stalled(held_bytes);
        let writing = poll_fn(|cx| Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, bytes));
        let writing = futures_lite::future::or(writing, async {
            stall.hung_up().await;
            Err(io::Error::new(io::ErrorKind::TimedOut, "the peer reads nothing, and others need the memory"))
        });
        let Some(ms) = self.stall_ms_max else { return writing.await };
        futures_lite::future::or(writing, async {
            rt::sleep_ms(ms).await;
            Err(io::Error::new(io::ErrorKind::TimedOut, "the peer reads nothing for connections.max.idle.ms"))
        })
        .await
    }

    /// Waits for a turn at receiving or sending `bytes`, if they are many.
    async fn turn_for(&self, bytes: usize) -> Option<Turn<'_>> {
        if bytes >= BULK_BYTES_MIN { Some(self.bulk.turn().await) } else { None }
    }

    fn shut_down(&self) {
        // SAFETY: plain system call on a descriptor that the stream keeps open.
        unsafe { libc::shutdown(self.fd, libc::SHUT_RDWR) };
    }
}

/// One request frame without its length prefix.
pub enum Frame<'a> {
    /// Part of the connection's read buffer.
    Small(&'a mut [u8]),
    /// A buffer of its own, of which the first `usize` bytes are the frame; may be taken and sent to
    /// another core, which leaves it empty; whoever takes it gives it back to the pool.
    Large(&'a mut FrameBuffer, usize),
    /// A produce request whose records were received in place.
    Landed {
        /// The frame without the records.
        head: &'a mut [u8],
        /// Where the records were, in the frame.
        records_at: usize,
        /// The records.
        landing: Landing,
    },
}

impl Frame<'_> {
    /// The frame's bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        match self {
            Frame::Small(bytes) => bytes,
            Frame::Large(buffer, _) if buffer.is_empty() => &mut [],
            Frame::Large(buffer, size) => &mut buffer[..*size],
            Frame::Landed { head, .. } => head,
        }
    }

    /// The size of the whole frame, wherever its bytes are.
    pub fn size(&self) -> usize {
        match self {
            Frame::Small(bytes) => bytes.len(),
            Frame::Large(_, size) => *size,
            Frame::Landed { head, landing, .. } => head.len() + landing.len(),
        }
    }
}

/// Bytes of a reply that are not in its skeleton.
pub enum Payload {
    /// Slices of this core's memory.
    Local(Vec<Slice>),
    /// Slices of another core's memory.
    Leased(Lease),
}

/// A reply ready to be sent: `skeleton` with payloads put in at rising positions.
#[derive(Default)]
pub struct Outgoing {
    /// Length prefix, header and body without record bytes; empty when there is no reply.
    pub skeleton: Vec<u8>,
    /// Where payloads go.
    pub inserts: Vec<(usize, Payload)>,
    /// Close the connection after (or instead of) this reply.
    pub close: bool,
    /// Memory that the payloads are accounted for with.
    pub held: Option<Held>,
}

impl Outgoing {
    /// All bytes, in order.
    fn parts(&self) -> Vec<&[u8]> {
        let mut parts: Vec<&[u8]> = Vec::with_capacity(self.inserts.len() * 2 + 1);
        let mut at = 0;
        for (position, payload) in &self.inserts {
            if *position > at {
                parts.push(&self.skeleton[at..*position]);
                at = *position;
            }
            match payload {
                Payload::Local(slices) => parts.extend(slices.iter().map(Slice::as_bytes)),
                Payload::Leased(lease) => parts.extend(lease.slices()),
            }
        }
        if at < self.skeleton.len() {
            parts.push(&self.skeleton[at..]);
        }
        parts.retain(|part| !part.is_empty());
        parts
    }

    /// What the payloads keep from being freed, bytes.
    fn pinned_bytes(&self) -> usize {
        let pinned = self.inserts.iter().map(|(_, payload)| match payload {
            Payload::Local(slices) => slices.iter().map(Slice::pinned_bytes).sum(),
            Payload::Leased(lease) => lease.pinned_bytes(),
        });
        pinned.sum()
    }
}

/// A reply that may still be in the making.
pub type Reply = Pin<Box<dyn Future<Output = Outgoing>>>;

enum Queued {
    Ready(Outgoing),
    Making(Reply, usize),
}

/// State shared by the reader and the writer of one connection.
struct Pipeline {
    queue: RefCell<VecDeque<Queued>>,
    depth: Cell<usize>,
    in_flight_bytes: Cell<usize>,
    reader_done: Cell<bool>,
    broken: Cell<bool>,
    changed: Event,
    spans: Spans,
}

/// Serves one connection until it ends.
pub(super) async fn run(shard: Rc<Shard>, stream: TcpStream, listener: usize, activity: Activity) {
    let fd = stream.as_raw_fd();
    let socket = Rc::new(Socket {
        stream: RefCell::new(stream),
        fd,
        answers: shard.answers.clone(),
        bulk: shard.bulk.clone(),
        stall_ms_max: shard.config.connection_idle_ms_max,
    });
    let pipeline = Rc::new(Pipeline {
        queue: RefCell::default(),
        depth: Cell::new(0),
        in_flight_bytes: Cell::new(0),
        reader_done: Cell::new(false),
        broken: Cell::new(false),
        changed: Event::default(),
        spans: Spans::default(),
    });
    let writer = write_replies(socket.clone(), pipeline.clone());
    let reader = async {
        let stopped = shard.stop.wait_until(|| shard.is_stopping());
        let reading = read_requests(&shard, &socket, &pipeline, listener, activity);
        let outcome = futures_lite::future::or(reading, async {
            stopped.await;
            Ok(())
        })
        .await;
        if let Err(error) = outcome {
            tracing::debug!("connection ends: {error}");
        }
        pipeline.reader_done.set(true);
        pipeline.changed.fire();
    };
    futures_lite::future::zip(reader, writer).await;
}

async fn read_requests(
    shard: &Rc<Shard>,
    socket: &Rc<Socket>,
    pipeline: &Rc<Pipeline>,
    listener: usize,
    activity: Activity,
) -> io::Result<()> {
    let mut buffer = vec![0; READ_BUFFER_BYTES_MIN];
    let (mut start, mut end) = (0, 0);
    // After a large frame another one is likely: only its first bytes are read before its place is known.
    let mut peek = false;
    let limit = shard.config.request_bytes_max.max(0) as usize;
    let context = api::ConnectionContext::new(shard.clone(), listener, socket.peer());
    loop {
        // Whole frames that are in the buffer.
        while let Some(size) = frame_size(&buffer[start..end], limit)? {
            if end - start < 4 + size {
                break;
            }
            pause(&context, pipeline).await;
            let frame = Frame::Small(&mut buffer[start + 4..start + 4 + size]);
            start += 4 + size;
            dispatch(&context, pipeline, frame, size).await?;
        }
        buffer.copy_within(start..end, 0);
        end -= start;
        start = 0;
        if let Some(size) = frame_size(&buffer[..end], limit)? {
            if size >= LANDING_NOW_BYTES_MIN {
                if end > LARGE_FRAME_PEEK_BYTES / 2 {
                    // Before it takes memory, not while it holds some.
                    pause(&context, pipeline).await;
                    let landed = read_landing(&context, socket, pipeline, &mut buffer, end, size).await?;
                    end = match landed {
                        Some(behind) => behind,
                        None => read_large(&context, socket, pipeline, &mut buffer, end, size).await?,
                    };
                    peek = true;
                    continue;
                }
            } else {
                peek = false;
                grow(&mut buffer, 4 + size);
            }
        }
        let to = if peek { LARGE_FRAME_PEEK_BYTES.max(end + 1).min(buffer.len()) } else { buffer.len() };
        if end > 0 {
            pipeline.spans.frame_began();
        }
        let count = match socket.try_read(&mut buffer[end..to], &mut [])? {
            Some(count) => count,
            None => {
                let roomy = end == 0 && buffer.len() > READ_BUFFER_BYTES_MIN;
                activity.begins_to_wait(roomy);
                let waited = wait_to_read(socket, pipeline, &activity, &mut buffer[end..to]).await?;
                activity.ends_to_wait();
                match waited {
                    Some(count) => count,
                    None => {
                        // Nothing for a while: the memory serves others meanwhile.
                        buffer = vec![0; READ_BUFFER_BYTES_MIN];
                        continue;
                    }
                }
            }
        };
        if count == 0 {
            return Ok(());
        }
        activity.heard();
        end += count;
        if end == buffer.len() {
            // A full read: more is waiting, so that the next one may take several frames.
            grow(&mut buffer, end * 2);
        }
    }
}

/// Waits for bytes; `None` when none came for a while and the buffer holds more memory than it has to.
async fn wait_to_read(
    socket: &Socket,
    pipeline: &Pipeline,
    activity: &Activity,
    buffer: &mut [u8],
) -> io::Result<Option<usize>> {
    let count = poll_fn(|cx| {
        if let Poll::Ready(count) = Pin::new(&mut *socket.stream.borrow_mut()).poll_read(cx, buffer) {
            return Poll::Ready(count.map(Some));
        }
        match activity.verdict(cx.waker()) {
            Verdict::Wait => Poll::Pending,
            Verdict::Trim => Poll::Ready(Ok(None)),
            Verdict::Close if pipeline.depth.get() > 0 => {
                // It is the peer that waits.
                activity.heard();
                Poll::Pending
            }
            Verdict::Close => Poll::Ready(Err(io::Error::other("idle for connections.max.idle.ms"))),
        }
    })
    .await;
    rt::slice_begins();
    count
}

fn grow(buffer: &mut Vec<u8>, wanted: usize) {
    let size = wanted.next_power_of_two().min(READ_BUFFER_BYTES_MAX).max(buffer.len());
    buffer.resize(size, 0);
}

/// The size that a frame announces, if its length prefix is there; checked against the limit.
fn frame_size(bytes: &[u8], limit: usize) -> io::Result<Option<usize>> {
    let Some(prefix) = bytes.first_chunk::<4>() else { return Ok(None) };
    let size = i32::from_be_bytes(*prefix);
    match usize::try_from(size) {
        Ok(size) if size <= limit => Ok(Some(size)),
        _ => Err(io::Error::other(format!("a frame of {size} bytes (socket.request.max.bytes={limit})"))),
    }
}

/// Receives a frame into memory of its own, which can move to another core as it is; its first `end` bytes are in
/// `buffer`. Answers how many bytes of the next frames came along, which then are at the buffer's start.
async fn read_large(
    context: &api::ConnectionContext,
    socket: &Rc<Socket>,
    pipeline: &Rc<Pipeline>,
    buffer: &mut [u8],
    end: usize,
    size: usize,
) -> io::Result<usize> {
    let frames = &context.shard.frames;
    let mut frame = frames.take(size).await;
    frame[..end - 4].copy_from_slice(&buffer[4..end]);
    let outcome = async {
        let mut behind = 0;
        let spill = &mut buffer[..LARGE_FRAME_PEEK_BYTES];
        let body = &mut frame[end - 4..size];
        in_time(receive_all(socket, body, spill, &mut behind, 0, true)).await?;
        dispatch(context, pipeline, Frame::Large(&mut frame, size), size).await?;
        Ok(behind)
    }
    .await;
    if !frame.is_empty() {
        frames.put(frame);
    }
    outcome
}

/// Fills `body`, then at least `behind_min` bytes of `spill`, of which `behind` are filled already; more of it when
/// more is there. With `in_turns` it waits for a turn at much at a time.
async fn receive_all(
    socket: &Socket,
    body: &mut [u8],
    spill: &mut [u8],
    behind: &mut usize,
    behind_min: usize,
    in_turns: bool,
) -> io::Result<()> {
    let mut filled = 0;
    while filled < body.len() || *behind < behind_min {
        let (first, second) = (&mut body[filled..], &mut spill[*behind..]);
        let turn = if in_turns { socket.turn_for(first.len()).await } else { None };
        let received = socket.try_read(first, second)?;
        drop(turn);
        let count = match received {
            Some(count) => count,
            None => {
                let wanted = first.len().min(WAKE_BYTES_MAX);
                let count = socket.read_later(if first.is_empty() { second } else { first }, wanted).await;
                rt::slice_begins();
                count?
            }
        };
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let now = count.min(body.len() - filled);
        filled += now;
        *behind += count - now;
    }
    Ok(())
}

/// Ends a receive that holds memory for too long.
async fn in_time(receive: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    futures_lite::future::or(receive, async {
        rt::sleep_ms(LARGE_FRAME_MS_MAX).await;
        Err(io::Error::new(io::ErrorKind::TimedOut, "a large frame did not arrive in time"))
    })
    .await
}

/// Receives a produce request's records straight into memory of their partition's log; the frame's first `end` bytes
/// are in `buffer`. Answers how many bytes of the next frames came along, which then are at the buffer's start, or
/// `None` when the frame has to be received otherwise.
async fn read_landing(
    context: &api::ConnectionContext,
    socket: &Rc<Socket>,
    pipeline: &Rc<Pipeline>,
    buffer: &mut Vec<u8>,
    end: usize,
    size: usize,
) -> io::Result<Option<usize>> {
    pipeline.spans.frame_began();
    // First of all room for one more request: memory at the very end of a log is not to wait for a slow reader.
    wait_for_room(context, pipeline, size).await?;
    let now = size <= LANDING_NOW_BYTES_MAX && socket.available() >= 4 + size - end;
    if !now && size < LANDING_BATCH_BYTES_MIN {
        return Ok(None);
    }
    // Not between lending memory at the end of the log and the append.
    let turn = if now {
        rt::yield_if_needed().await;
        socket.turn_for(size).await
    } else {
        None
    };
    let Some(plan) = api::produce::plan_landing(&context.shard, &buffer[4..end], size, now) else {
        return Ok(None);
    };
    if !now {
        // Only when the log knows of this batch: what was appended before it is then written up to a whole block.
        rt::yield_if_needed().await;
    }
    let api::produce::LandingPlan { mut landing, records_at } = plan;
    // The buffer keeps the frame without its records, and what comes behind it.
    let (at, records_len) = (4 + records_at, landing.len());
    let trailer = size - records_at - records_len;
    let early = (end - at).min(records_len);
    landing.bytes()[..early].copy_from_slice(&buffer[at..at + early]);
    buffer.copy_within(at + early..end, at);
    let mut behind = end - at - early;
    let most = trailer + LARGE_FRAME_PEEK_BYTES;
    if buffer.len() < at + most {
        buffer.resize(at + most, 0);
    }
    let spill = &mut buffer[at..at + most];
    in_time(receive_all(socket, &mut landing.bytes()[early..], spill, &mut behind, trailer, !now)).await?;
    drop(turn);
    let frame = Frame::Landed { head: &mut buffer[4..at + trailer], records_at, landing };
    dispatch(context, pipeline, frame, size).await?;
    buffer.copy_within(at + trailer..at + behind, 0);
    Ok(Some(behind - trailer))
}

/// Waits as long as a quota says.
async fn pause(context: &api::ConnectionContext, pipeline: &Pipeline) {
    if let Some(pause_ms) = context.muted_ms() {
        let gone = pipeline.changed.wait_until(|| pipeline.broken.get());
        futures_lite::future::or(rt::sleep_ms(pause_ms), gone).await;
    }
}

/// Waits until one more request of `size` bytes may be in flight.
async fn wait_for_room(
    context: &api::ConnectionContext,
    pipeline: &Rc<Pipeline>,
    size: usize,
) -> io::Result<()> {
    let bytes_max = context.shard.config.connection_request_bytes_max.max(1) as usize;
    pipeline
        .changed
        .wait_until(|| {
            let busy = pipeline.depth.get() >= PIPELINE_DEPTH_MAX
                || (pipeline.in_flight_bytes.get() > 0 && pipeline.in_flight_bytes.get() + size > bytes_max);
            !busy || pipeline.broken.get()
        })
        .await;
    if pipeline.broken.get() { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
}

async fn dispatch(
    context: &api::ConnectionContext,
    pipeline: &Rc<Pipeline>,
    mut frame: Frame<'_>,
    size: usize,
) -> io::Result<()> {
    let landed = matches!(frame, Frame::Landed { .. });
    let span = pipeline.spans.received(frame.bytes(), size);
    wait_for_room(context, pipeline, size).await?;
    let since_ns = pipeline.spans.dispatched(&span);
    let handled = api::handle(context, frame, || drained(pipeline)).await;
    let queued = match handled {
        api::Handled::Ready(outgoing) => Queued::Ready(outgoing),
        api::Handled::Making(reply) => Queued::Making(reply, size),
    };
    let close = matches!(&queued, Queued::Ready(outgoing) if outgoing.close);
    if let Queued::Making(..) = &queued {
        pipeline.in_flight_bytes.set(pipeline.in_flight_bytes.get() + size);
    }
    pipeline.depth.set(pipeline.depth.get() + 1);
    pipeline.queue.borrow_mut().push_back(queued);
    pipeline.spans.handled(span, since_ns);
    pipeline.changed.fire();
    if close {
        return Err(io::Error::other("the request cannot be answered"));
    }
    if !landed {
        // A socket that is never empty must not keep the core from its rings. Behind a batch that was received in place
        // the next frame is looked at first (`read_landing`).
        rt::yield_if_needed().await;
    }
    Ok(())
}

/// Resolves when everything dispatched before is answered: requests that change or look at state other
/// than a produce's or a fetch's are carried out strictly after their predecessors.
fn drained(pipeline: &Rc<Pipeline>) -> Pin<Box<dyn Future<Output = ()>>> {
    let pipeline = pipeline.clone();
    Box::pin(async move {
        let p = pipeline.clone();
        pipeline.changed.wait_until(move || p.depth.get() == 0 || p.broken.get()).await;
    })
}

async fn write_replies(socket: Rc<Socket>, pipeline: Rc<Pipeline>) {
    if let Err(error) = write_until_done(&socket, &pipeline).await {
        tracing::debug!("connection ends: {error}");
    }
    pipeline.broken.set(true);
    pipeline.changed.fire();
    socket.shut_down();
    // Replies in the making are awaited, so that no append is left without somebody who sees its end.
    loop {
        let next = pipeline.queue.borrow_mut().pop_front();
        match next {
            Some(Queued::Making(reply, _)) => drop(reply.await),
            Some(Queued::Ready(_)) => {}
            None if pipeline.reader_done.get() => return,
            None => {
                let p = pipeline.clone();
                pipeline
                    .changed
                    .wait_until(move || p.reader_done.get() || !p.queue.borrow().is_empty())
                    .await;
            }
        }
    }
}

async fn write_until_done(socket: &Rc<Socket>, pipeline: &Rc<Pipeline>) -> io::Result<()> {
    // Replies that are ready leave in one send.
    let mut small = Vec::new();
    loop {
        let Some(next) = pipeline.queue.borrow_mut().pop_front() else {
            if !small.is_empty() {
                send_small(socket, pipeline, &mut small).await?;
                continue;
            }
            if pipeline.reader_done.get() {
                return Ok(());
            }
            let p = pipeline.clone();
            pipeline.changed.wait_until(move || p.reader_done.get() || !p.queue.borrow().is_empty()).await;
            continue;
        };
        let outgoing = match next {
            Queued::Ready(outgoing) => outgoing,
            Queued::Making(mut reply, size) => {
                let outgoing = match futures_lite::future::poll_once(&mut reply).await {
                    Some(outgoing) => outgoing,
                    None => {
                        send_small(socket, pipeline, &mut small).await?;
                        reply.await
                    }
                };
                pipeline.in_flight_bytes.set(pipeline.in_flight_bytes.get() - size);
                outgoing
            }
        };
        pipeline.spans.made();
        pipeline.depth.set(pipeline.depth.get() - 1);
        pipeline.changed.fire();
        let close = outgoing.close;
        if outgoing.inserts.is_empty() {
            small.extend_from_slice(&outgoing.skeleton);
            if close || small.len() >= SEND_BATCH_BYTES {
                send_small(socket, pipeline, &mut small).await?;
            }
        } else {
            send_small(socket, pipeline, &mut small).await?;
            send_with_payloads(socket, outgoing).await?;
            pipeline.spans.sent();
        }
        if close {
            return Ok(());
        }
    }
}

async fn send_small(socket: &Rc<Socket>, pipeline: &Pipeline, small: &mut Vec<u8>) -> io::Result<()> {
    if small.is_empty() {
        return Ok(());
    }
    let parts = [&small[..]];
    let mut progress = Progress::default();
    if !send_now(socket, &parts, &mut progress)? {
        let held = socket.answers.hold(small.len());
        send_rest(socket, &parts, &mut progress, &held).await?;
    }
    small.clear();
    pipeline.spans.sent();
    Ok(())
}

async fn send_with_payloads(socket: &Rc<Socket>, mut outgoing: Outgoing) -> io::Result<()> {
    let mut progress = Progress::default();
    let sent = {
        let parts = outgoing.parts();
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let _turn = socket.turn_for(bytes).await;
        send_now(socket, &parts, &mut progress)?
    };
    if !sent {
        let pinned_bytes = outgoing.pinned_bytes();
        let mut held = outgoing.held.take().unwrap_or_else(|| socket.answers.hold(0));
        if held.try_grow(held.bytes().max(pinned_bytes)) {
            send_rest(socket, &outgoing.parts(), &mut progress, &held).await?;
        } else {
            // It keeps more memory than there is room for. What is left of it to be sent may be much less.
            let rest = progress.rest_of(&outgoing.parts()).concat();
            drop(outgoing);
            held.set(rest.len());
            send_rest(socket, &[&rest], &mut Progress::default(), &held).await?;
        }
    }
    rt::yield_now().await;
    Ok(())
}
