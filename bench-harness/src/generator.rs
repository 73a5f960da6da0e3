//! The load generator: one thread, an epoll loop, many connections, requests encoded beforehand.
//!
//! Owner: one thread owns its connections, schedules and recorder; threads share only the stop flag and the
//! byte budget. Drives Kafka endpoints and the sink alike, so that both are measured by the same client.
//!
//! Invariants: a request's intended time is never moved; response time counts from it, service time from the
//! moment its first byte is handed to the kernel; replies come in request order. Must not: block on a socket,
//! allocate per request, or look into payloads.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::curve::Curve;
use crate::error::{BenchError, Result, io_err, protocol};
use crate::frame::{RequestTemplate, check_produce_reply};
use crate::limits::{ACK_BUFFER_BYTES, ACK_BYTES_MAX, SEND_SLICES_MAX, SLEEP_NS_MAX};
use crate::record::{Counters, Kind, Recorder, Side, Window};
use crate::schedule::{Pace, Schedule};
use crate::sys::{self, Epoll, Ready};

/// Requests one connection may start before its neighbours get their turn.
const BURST_MAX: usize = 16;

/// Whom the generator talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A Kafka endpoint.
    Kafka,
    /// Our sink: its reply is a correlation id and nothing else.
    Sink,
}

/// One connection before it is opened.
#[derive(Debug)]
pub(crate) struct ConnectionPlan {
    /// Where it leads.
    pub(crate) target: SocketAddr,
    /// Requests it sends in turn; all of the same number of records.
    pub(crate) templates: Vec<RequestTemplate>,
}

/// What all generator threads of a workload share.
#[derive(Debug)]
pub(crate) struct LoadSpec {
    /// Whom it drives.
    pub(crate) peer: Peer,
    /// Open or closed loop.
    pub(crate) pace: Pace,
    /// Profile that the open loop's rate follows.
    pub(crate) curve: Option<Arc<Curve>>,
    /// Requests in flight per connection.
    pub(crate) in_flight: usize,
    /// Whether the endpoint answers (acks is not 0).
    pub(crate) acked: bool,
    /// How long after the window replies and late sends are still waited for.
    pub(crate) drain: Duration,
    /// Batch bytes after which the load stops, over all threads; `u64::MAX` for none.
    pub(crate) bytes_max: u64,
    /// Batch bytes sent so far.
    pub(crate) bytes_sent: AtomicU64,
    /// Records acknowledged so far, by all threads; a few milliseconds old.
    pub(crate) records_done: AtomicU64,
    /// Set by the first thread that fails or finds the byte budget used up.
    pub(crate) stop: AtomicBool,
}

/// What a thread did besides its samples.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LoadEnd {
    /// Processor time used during the load, in nanoseconds.
    pub(crate) cpu_ns: u64,
    /// Time spent runnable without a core, in nanoseconds.
    pub(crate) run_delay_ns: u64,
    /// Duration of the thread's load, in nanoseconds.
    pub(crate) wall_ns: u64,
    /// Requests due inside the window that were never sent.
    pub(crate) unsent: u64,
    /// Requests sent and not answered by the end of the drain.
    pub(crate) unanswered: u64,
    /// Last completion, CLOCK_MONOTONIC nanoseconds.
    pub(crate) last_completion_ns: u64,
    /// Records acknowledged, warm-up and drain included.
    pub(crate) records_total: u64,
}

/// What a load thread costs, from the window's first send on.
#[derive(Debug)]
pub(crate) struct Meter {
    cpu_ns: u64,
    run_delay_ns: u64,
    start_ns: u64,
}

impl Meter {
    /// Waits for the window's first send and begins to count.
    pub(crate) fn start(window: &Window) -> Self {
        sys::sharp_timers();
        while sys::now_ns() < window.load_start_ns {
            std::thread::sleep(Duration::from_nanos(window.load_start_ns.saturating_sub(sys::now_ns())));
        }
        Self {
            cpu_ns: sys::thread_cpu_ns(),
            run_delay_ns: sys::thread_run_delay_ns(),
            start_ns: sys::now_ns(),
        }
    }

    /// Puts what was counted into `end`.
    pub(crate) fn stop(self, end: &mut LoadEnd) {
        end.cpu_ns = sys::thread_cpu_ns() - self.cpu_ns;
        end.run_delay_ns = sys::thread_run_delay_ns().saturating_sub(self.run_delay_ns);
        end.wall_ns = sys::now_ns() - self.start_ns;
    }
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    correlation: i32,
    intended_ns: u64,
    sent_ns: u64,
    template: usize,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    templates: Vec<RequestTemplate>,
    template_next: usize,
    correlation: i32,
    schedule: Option<Schedule>,
    in_flight: VecDeque<Pending>,
    /// The request on its way out and the bytes of it that are out.
    sending: Option<(Pending, usize)>,
    writable: bool,
    /// Since when window and socket have had room for the next request, CLOCK_MONOTONIC nanoseconds.
    room_since_ns: u64,
    /// In the timer heap or the ready list already.
    queued: bool,
    replies: Vec<u8>,
    replies_filled: usize,
}

/// Opens a non-blocking connection with the wanted congestion control (best effort: it may not be allowed).
pub(crate) fn open_stream(target: SocketAddr, congestion: Option<&str>) -> Result<TcpStream> {
    let stream = crate::kafka::connect(target).map_err(io_err(format!("connect to {target}")))?;
    stream.set_nodelay(true).map_err(io_err("TCP_NODELAY"))?;
    stream.set_nonblocking(true).map_err(io_err("O_NONBLOCK"))?;
    if let Some(name) = congestion {
        sys::set_congestion(&stream, name).map_err(io_err(format!("TCP_CONGESTION {name}")))?;
    }
    Ok(stream)
}

/// A generator thread's state.
#[derive(Debug)]
pub(crate) struct Generator {
    spec: Arc<LoadSpec>,
    window: Window,
    connections: Vec<Connection>,
    epoll: Epoll,
    timers: BinaryHeap<Reverse<(u64, usize)>>,
    ready: VecDeque<usize>,
    end: LoadEnd,
}

impl Generator {
    /// Takes over opened connections. `ids` are their positions among all connections of the workload.
    pub(crate) fn new(
        spec: Arc<LoadSpec>,
        window: Window,
        opened: Vec<(u64, TcpStream, Vec<RequestTemplate>)>,
        connections_total: u64,
    ) -> Result<Self> {
        let epoll = Epoll::new().map_err(io_err("epoll"))?;
        let mut connections = Vec::with_capacity(opened.len());
        for (token, (id, stream, templates)) in opened.into_iter().enumerate() {
            assert!(!templates.is_empty(), "a connection has something to send");
            epoll.add_edge(stream.as_raw_fd(), token).map_err(io_err("epoll"))?;
            let schedule = match spec.pace {
                Pace::Max => None,
                Pace::Rate(rate) => {
                    let records = templates[0].records();
                    let start_ns = window.load_start_ns;
                    let even = Schedule::new(start_ns, rate, records, id, connections_total);
                    Some(even.along(spec.curve.clone()))
                }
            };
            connections.push(Connection {
                stream,
                templates,
                template_next: 0,
                correlation: 0,
                schedule,
                in_flight: VecDeque::with_capacity(spec.in_flight),
                sending: None,
                writable: true,
                room_since_ns: 0,
                queued: true,
                replies: vec![0; ACK_BUFFER_BYTES],
                replies_filled: 0,
            });
        }
        let ready = (0..connections.len()).collect();
        Ok(Self {
            spec,
            window,
            connections,
            epoll,
            timers: BinaryHeap::new(),
            ready,
            end: LoadEnd::default(),
        })
    }

    /// Runs the load to its end and hands the samples to `recorder`.
    pub(crate) fn run(mut self, mut recorder: Recorder) -> Result<LoadEnd> {
        let meter = Meter::start(&self.window);
        let result = self.drive(&mut recorder);
        if result.is_err() {
            self.spec.stop.store(true, Ordering::Relaxed);
        }
        recorder.finish();
        meter.stop(&mut self.end);
        result.map(|()| self.end)
    }

    fn drive(&mut self, recorder: &mut Recorder) -> Result<()> {
        let mut events: Vec<Ready> = Vec::new();
        let deadline = self.window.end_ns + self.spec.drain.as_nanos() as u64;
        let mut told = 0;
        loop {
            let now = sys::now_ns();
            recorder.roll(now);
            self.spec.records_done.fetch_add(self.end.records_total - told, Ordering::Relaxed);
            told = self.end.records_total;
            while let Some(Reverse((due, index))) = self.timers.peek().copied() {
                if due > now {
                    break;
                }
                self.timers.pop();
                self.ready.push_back(index);
            }
            for _ in 0..self.ready.len() {
                let Some(index) = self.ready.pop_front() else { break };
                self.connections[index].queued = false;
                self.pump(index, recorder)?;
            }
            if self.is_over(deadline) {
                break;
            }
            let timeout = match (self.ready.is_empty(), self.timers.peek()) {
                (false, _) => 0,
                (true, Some(Reverse((due, _)))) => due.saturating_sub(sys::now_ns()).min(SLEEP_NS_MAX),
                (true, None) => SLEEP_NS_MAX,
            };
            self.epoll.wait(timeout, &mut events).map_err(io_err("epoll"))?;
            for event in &events {
                if event.writable {
                    self.connections[event.token].writable = true;
                }
                if event.readable {
                    self.read_replies(event.token, recorder)?;
                }
                self.pump(event.token, recorder)?;
            }
        }
        let end_ns = self.window.end_ns;
        for connection in &self.connections {
            self.end.unanswered += connection.in_flight.len() as u64;
            if let Some(schedule) = &connection.schedule
                && !self.spec.stop.load(Ordering::Relaxed)
            {
                self.end.unsent += schedule.unsent_before(end_ns);
            }
        }
        Ok(())
    }

    fn is_over(&self, deadline_ns: u64) -> bool {
        let now = sys::now_ns();
        let stopped = self.spec.stop.load(Ordering::Relaxed);
        if now >= deadline_ns {
            return true;
        }
        if !stopped && now < self.window.end_ns {
            return false;
        }
        self.connections.iter().all(|connection| {
            let behind =
                connection.schedule.as_ref().is_some_and(|schedule| schedule.due_ns() < self.window.end_ns);
            connection.in_flight.is_empty() && connection.sending.is_none() && (stopped || !behind)
        })
    }

    /// Starts requests on a connection until it is not their time, the window is full or the socket is.
    fn pump(&mut self, index: usize, recorder: &mut Recorder) -> Result<()> {
        for _ in 0..BURST_MAX {
            let connection = &mut self.connections[index];
            if let Some((pending, _)) = connection.sending {
                if !connection.writable || !send_more(connection)? {
                    return Ok(());
                }
                let now = sys::now_ns();
                connection.room_since_ns = now;
                if !self.spec.acked {
                    complete(&pending, connection, now, recorder, &mut self.end);
                }
                continue;
            }
            if connection.in_flight.len() >= self.spec.in_flight || self.spec.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let now = sys::now_ns();
            let intended = match &connection.schedule {
                None if now >= self.window.end_ns => return Ok(()),
                None => now,
                Some(schedule) => {
                    let due = schedule.due_ns();
                    if due >= self.window.end_ns {
                        return Ok(());
                    }
                    if due > now {
                        if !connection.queued {
                            connection.queued = true;
                            self.timers.push(Reverse((due, index)));
                        }
                        return Ok(());
                    }
                    due
                }
            };
            self.start(index, intended, recorder);
        }
        let connection = &mut self.connections[index];
        if !connection.queued {
            connection.queued = true;
            self.ready.push_back(index);
        }
        Ok(())
    }

    fn start(&mut self, index: usize, intended_ns: u64, recorder: &mut Recorder) {
        let connection = &mut self.connections[index];
        let template = connection.template_next;
        connection.template_next = (template + 1) % connection.templates.len();
        connection.correlation = connection.correlation.wrapping_add(1);
        let sent_ns = sys::now_ns();
        connection.templates[template].patch(connection.correlation, intended_ns, sent_ns);
        let pending = Pending { correlation: connection.correlation, intended_ns, sent_ns, template };
        connection.sending = Some((pending, 0));
        if self.spec.acked {
            connection.in_flight.push_back(pending);
        }
        if let Some(schedule) = &mut connection.schedule {
            schedule.advance();
            recorder.sample(Kind::Lag, intended_ns, sent_ns - intended_ns);
            let own_ns = sent_ns - intended_ns.max(connection.room_since_ns).min(sent_ns);
            recorder.sample(Kind::OwnLag, intended_ns, own_ns);
        }
        let bytes = connection.templates[template].batch_bytes();
        if self.spec.bytes_sent.fetch_add(bytes, Ordering::Relaxed) + bytes >= self.spec.bytes_max {
            self.spec.stop.store(true, Ordering::Relaxed);
        }
    }

    fn read_replies(&mut self, index: usize, recorder: &mut Recorder) -> Result<()> {
        let spec = Arc::clone(&self.spec);
        let connection = &mut self.connections[index];
        loop {
            let filled = connection.replies_filled;
            let count = match (&connection.stream).read(&mut connection.replies[filled..]) {
                Ok(0) => return Err(protocol("the endpoint closed a connection under load")),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(io_err("receive a reply")(error)),
            };
            let now = sys::now_ns();
            connection.replies_filled += count;
            let whole = connection.replies_filled == connection.replies.len();
            let used = take_replies(connection, &spec, now, recorder, &mut self.end)?;
            connection.replies.copy_within(used..connection.replies_filled, 0);
            connection.replies_filled -= used;
            if !whole {
                // A short read: the socket is empty, and the edge-triggered epoll will tell when it is not.
                return Ok(());
            }
        }
    }
}

/// Hands more bytes of the current request to the kernel; true when all are out.
fn send_more(connection: &mut Connection) -> Result<bool> {
    let Some((pending, mut offset)) = connection.sending else { return Ok(true) };
    let template = &connection.templates[pending.template];
    while offset < template.len() {
        let mut slices = [IoSlice::new(&[]); SEND_SLICES_MAX];
        let count = template.slices(offset, &mut slices);
        match (&connection.stream).write_vectored(&slices[..count]) {
            Ok(0) => return Err(protocol("the socket takes no bytes")),
            Ok(sent) => offset += sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                connection.writable = false;
                connection.sending = Some((pending, offset));
                return Ok(false);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io_err("send a request")(error)),
        }
    }
    connection.sending = None;
    Ok(true)
}

/// Books every whole reply in the buffer; returns how many bytes they took.
fn take_replies(
    connection: &mut Connection,
    spec: &LoadSpec,
    now_ns: u64,
    recorder: &mut Recorder,
    end: &mut LoadEnd,
) -> Result<usize> {
    let mut used = 0;
    loop {
        let bytes = &connection.replies[used..connection.replies_filled];
        let Some(head) = bytes.first_chunk::<8>() else { return Ok(used) };
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if !(4..=ACK_BYTES_MAX).contains(&length) {
            return Err(protocol(format!("reply of {length} bytes")));
        }
        if bytes.len() < 4 + length {
            if 4 + length > connection.replies.len() {
                connection.replies.resize(4 + length, 0);
            }
            return Ok(used);
        }
        let correlation = i32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        if connection.in_flight.len() >= spec.in_flight {
            connection.room_since_ns = now_ns;
        }
        let pending = connection
            .in_flight
            .pop_front()
            .filter(|pending| pending.correlation == correlation)
            .ok_or_else(|| {
            BenchError::Protocol(format!("reply {correlation} answers no request in order"))
        })?;
        if spec.peer == Peer::Kafka {
            let mut base_offset = 0;
            check_produce_reply(&bytes[8..4 + length], &mut base_offset)?;
        }
        complete(&pending, connection, now_ns, recorder, end);
        used += 4 + length;
    }
}

fn complete(
    pending: &Pending,
    connection: &Connection,
    now_ns: u64,
    recorder: &mut Recorder,
    end: &mut LoadEnd,
) {
    let template = &connection.templates[pending.template];
    if connection.schedule.is_some() {
        recorder.sample(Kind::Response, pending.intended_ns, now_ns - pending.intended_ns);
    }
    recorder.sample(Kind::Service, pending.intended_ns, now_ns - pending.sent_ns);
    let counters = Counters { requests: 1, records: template.records(), bytes: template.batch_bytes() };
    recorder.count(Side::Produced, now_ns, counters);
    end.last_completion_ns = now_ns;
    end.records_total += counters.records;
}

/// The congestion control if this host lets us use it; `default` and a refused one mean the system's.
pub(crate) fn usable_congestion(name: &str) -> Option<String> {
    if name == "default" {
        return None;
    }
    let probe = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| {
        let stream = TcpStream::connect(listener.local_addr()?)?;
        sys::set_congestion(&stream, name)
    });
    match probe {
        Ok(()) => Some(name.to_owned()),
        Err(error) => {
            eprintln!(
                "TCP congestion control {name} is not available ({error}); the system's default is used"
            );
            None
        }
    }
}
