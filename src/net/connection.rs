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

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;

use super::frame_pool::FrameBuffer;
use super::send::send_all;
use crate::api;
use crate::limits::{
    LARGE_FRAME_MS_MAX, LARGE_FRAME_PEEK_BYTES, PIPELINE_DEPTH_MAX, READ_BUFFER_BYTES_MAX,
    READ_BUFFER_BYTES_MIN,
};
use crate::metrics::Spans;
use crate::rt;
use crate::shard::{Lease, Shard};
use crate::storage::{Landing, Slice};
use crate::sync::Event;

/// Replies are collected into one send up to this size, bytes.
const SEND_BATCH_BYTES: usize = 64 << 10;

/// The socket, shared by the connection's reader and writer.
pub(super) struct Socket {
    stream: RefCell<TcpStream>,
    fd: RawFd,
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

    async fn read_exact(&self, buffer: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(())
    }

    /// Waits until the socket takes some of `bytes`.
    pub(super) async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        poll_fn(|cx| Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, bytes)).await
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
        head: &'a mut Vec<u8>,
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
pub(super) async fn run(shard: Rc<Shard>, stream: TcpStream, listener: usize) {
    let fd = stream.as_raw_fd();
    let socket = Rc::new(Socket { stream: RefCell::new(stream), fd });
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
        let reading = read_requests(&shard, &socket, &pipeline, listener);
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
            let large = 4 + size > READ_BUFFER_BYTES_MAX;
            if large && (end > LARGE_FRAME_PEEK_BYTES / 2 || end == 4 + size) {
                peek = true;
                // Before it takes memory, not while it holds some.
                pause(&context, pipeline).await;
                read_large(&context, socket, pipeline, &buffer[4..end], size).await?;
                end = 0;
                continue;
            }
            if !large {
                peek = false;
                grow(&mut buffer, 4 + size);
            }
        }
        let limit = if peek { LARGE_FRAME_PEEK_BYTES.max(end + 1) } else { buffer.len() };
        let limit = limit.min(buffer.len());
        if end > 0 {
            pipeline.spans.frame_began();
        }
        let count = socket.read(&mut buffer[end..limit]).await?;
        if count == 0 {
            return Ok(());
        }
        end += count;
        if end == buffer.len() {
            // A full read: more is waiting, so that the next one may take several frames.
            grow(&mut buffer, end * 2);
        } else if end < READ_BUFFER_BYTES_MIN / 4 && buffer.len() > READ_BUFFER_BYTES_MIN {
            buffer.truncate(READ_BUFFER_BYTES_MIN.max(end));
            buffer.shrink_to_fit();
        }
    }
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

async fn read_large(
    context: &api::ConnectionContext,
    socket: &Rc<Socket>,
    pipeline: &Rc<Pipeline>,
    head: &[u8],
    size: usize,
) -> io::Result<()> {
    pipeline.spans.frame_began();
    if let Some(plan) = api::produce::plan_landing(&context.shard, head, size) {
        return read_landing(context, socket, pipeline, head, size, plan).await;
    }
    let frames = &context.shard.frames;
    let mut frame = frames.take(size).await;
    frame[..head.len()].copy_from_slice(head);
    let outcome = async {
        in_time(socket.read_exact(&mut frame[head.len()..size])).await?;
        dispatch(context, pipeline, Frame::Large(&mut frame, size), size).await
    }
    .await;
    if !frame.is_empty() {
        frames.put(frame);
    }
    outcome
}

/// Ends a receive that holds memory for too long.
async fn in_time(receive: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    futures_lite::future::or(receive, async {
        rt::sleep_ms(LARGE_FRAME_MS_MAX).await;
        Err(io::Error::new(io::ErrorKind::TimedOut, "a large frame did not arrive in time"))
    })
    .await
}

/// Receives a produce request's records straight into the tail memory of their partition.
async fn read_landing(
    context: &api::ConnectionContext,
    socket: &Rc<Socket>,
    pipeline: &Rc<Pipeline>,
    head: &[u8],
    size: usize,
    plan: api::produce::LandingPlan,
) -> io::Result<()> {
    let api::produce::LandingPlan { mut landing, records_at } = plan;
    let records_end = records_at + landing.len();
    // Nothing behind the frame was read: the caller stops at its end.
    let early = head.len().min(records_end) - records_at;
    let records = landing.bytes();
    records[..early].copy_from_slice(&head[records_at..records_at + early]);
    in_time(socket.read_exact(&mut records[early..])).await?;
    let mut rest = head[..records_at].to_vec();
    rest.extend_from_slice(head.get(records_end..).unwrap_or_default());
    let have = rest.len();
    rest.resize(size - (records_end - records_at), 0);
    in_time(socket.read_exact(&mut rest[have..])).await?;
    dispatch(context, pipeline, Frame::Landed { head: &mut rest, records_at, landing }, size).await
}

/// Waits as long as a quota says.
async fn pause(context: &api::ConnectionContext, pipeline: &Pipeline) {
    if let Some(pause_ms) = context.muted_ms() {
        let gone = pipeline.changed.wait_until(|| pipeline.broken.get());
        futures_lite::future::or(rt::sleep_ms(pause_ms), gone).await;
    }
}

async fn dispatch(
    context: &api::ConnectionContext,
    pipeline: &Rc<Pipeline>,
    mut frame: Frame<'_>,
    size: usize,
) -> io::Result<()> {
    let span = pipeline.spans.received(frame.bytes(), size);
    let bytes_max = context.shard.config.connection_request_bytes_max.max(1) as usize;
    pipeline
        .changed
        .wait_until(|| {
            let busy = pipeline.depth.get() >= PIPELINE_DEPTH_MAX
                || (pipeline.in_flight_bytes.get() > 0 && pipeline.in_flight_bytes.get() + size > bytes_max);
            !busy || pipeline.broken.get()
        })
        .await;
    if pipeline.broken.get() {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
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
    // A socket that is never empty must not keep the core from its rings.
    rt::yield_if_needed().await;
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
    let mut small = Vec::new();
    loop {
        let Some(next) = pipeline.queue.borrow_mut().pop_front() else {
            if pipeline.reader_done.get() {
                return Ok(());
            }
            let p = pipeline.clone();
            pipeline.changed.wait_until(move || p.reader_done.get() || !p.queue.borrow().is_empty()).await;
            continue;
        };
        let outgoing = match next {
            Queued::Ready(outgoing) => outgoing,
            Queued::Making(reply, size) => {
                let outgoing = reply.await;
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
            let more = !close && small.len() < SEND_BATCH_BYTES && front_is_ready(pipeline);
            if more {
                continue;
            }
            send_all(socket, &[&small]).await?;
            small.clear();
        } else {
            send_all(socket, &[&small]).await?;
            small.clear();
            send_with_payloads(socket, &outgoing).await?;
        }
        pipeline.spans.sent();
        if close {
            return Ok(());
        }
    }
}

fn front_is_ready(pipeline: &Pipeline) -> bool {
    matches!(pipeline.queue.borrow().front(), Some(Queued::Ready(outgoing)) if outgoing.inserts.is_empty())
}

async fn send_with_payloads(socket: &Rc<Socket>, outgoing: &Outgoing) -> io::Result<()> {
    let mut parts: Vec<&[u8]> = Vec::with_capacity(outgoing.inserts.len() * 2 + 1);
    let mut at = 0;
    for (position, payload) in &outgoing.inserts {
        if *position > at {
            parts.push(&outgoing.skeleton[at..*position]);
            at = *position;
        }
        match payload {
            Payload::Local(slices) => parts.extend(slices.iter().map(Slice::as_bytes)),
            Payload::Leased(lease) => parts.extend(lease.slices()),
        }
    }
    if at < outgoing.skeleton.len() {
        parts.push(&outgoing.skeleton[at..]);
    }
    parts.retain(|part| !part.is_empty());
    send_all(socket, &parts).await?;
    rt::yield_now().await;
    Ok(())
}
