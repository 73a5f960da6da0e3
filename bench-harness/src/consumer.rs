//! The lean consumer: fetches v11, in a session (KIP-227) while it follows the tail, one outstanding per connection,
//! batch headers only.
//!
//! Owner: one thread owns its connections. Responses are received into one small buffer that stays in the
//! cache. Invariant: a partition's next offset comes only from whole batches. Must not: join groups, decode
//! records, or block on a socket.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::error::{BenchError, Result, io_err, protocol};
use crate::fetch_walk::{Event, FetchWalk};
use crate::frame::CLIENT_ID;
use crate::generator::{LoadEnd, Meter};
use crate::kafka::FETCH_VERSION;
use crate::limits::{FETCH_BUFFER_BYTES, SLEEP_NS_MAX};
use crate::record::{Counters, Kind, Recorder, Side, Window};
use crate::sys::{self, Epoll, Ready};
use crate::wire::Writer;

/// When a consumer stops before its window ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtEnd {
    /// Goes on at the tail.
    Follow,
    /// Stops when every partition has reached its end offset.
    Stop,
    /// Starts over at the start offset.
    Repeat,
}

/// What the producers tell the consumers of an end-to-end run.
#[derive(Debug, Default)]
pub(crate) struct Goal {
    /// Records that lay there before the load, times the groups that read them.
    pub(crate) backlog: u64,
    /// No more records will come.
    pub(crate) complete: AtomicBool,
    /// Records to be received in all; valid once `complete`.
    pub(crate) records: AtomicU64,
    /// Records received in all.
    pub(crate) received: AtomicU64,
}

/// What all consumer threads of a workload share.
#[derive(Debug)]
pub(crate) struct FetchSpec {
    /// Response limit in bytes.
    pub(crate) bytes_max: u32,
    /// Least bytes before the endpoint answers.
    pub(crate) bytes_min: u32,
    /// Longest the endpoint may hold a fetch, in milliseconds.
    pub(crate) wait_ms_max: u32,
    /// What happens at the end offset.
    pub(crate) at_end: AtEnd,
    /// Whether batch CRCs are verified.
    pub(crate) check_crc: bool,
    /// How long after the window deliveries are still waited for.
    pub(crate) drain: Duration,
    /// Present in end-to-end runs.
    pub(crate) goal: Option<Arc<Goal>>,
    /// Set by the first thread that fails.
    pub(crate) stop: AtomicBool,
}

/// A partition as one connection reads it.
#[derive(Debug, Clone)]
pub(crate) struct Position {
    /// Index in the topic.
    pub(crate) partition: i32,
    /// Where it starts, and starts over.
    pub(crate) start: i64,
    /// The next offset wanted.
    pub(crate) next: i64,
    /// Where it ends for `Stop` and `Repeat`.
    pub(crate) end: i64,
}

/// Kafka's error codes for a session that the endpoint does not know any more, and for one that is out of step.
const SESSION_GONE: [i16; 2] = [70, 71];

/// A fetch session: what the endpoint remembers between two fetches of a connection is not sent again.
#[derive(Debug, Default)]
struct Session {
    /// 0 until the endpoint has opened one; an endpoint without sessions never does.
    id: i32,
    /// Of the next request; 0 asks for a new session and names every partition.
    epoch: i32,
    /// The offset of each position that the endpoint has been told.
    told: Vec<i64>,
}

impl Session {
    /// Which positions the next request has to name, and notes that it does.
    fn tell(&mut self, positions: &[Position]) -> Vec<usize> {
        if self.epoch == 0 {
            self.told = vec![-1; positions.len()];
        }
        let moved: Vec<usize> =
            (0..positions.len()).filter(|at| positions[*at].next != self.told[*at]).collect();
        for at in &moved {
            self.told[*at] = positions[*at].next;
        }
        moved
    }

    /// Takes what a response says of the session.
    fn answered(&mut self, id: i32) {
        self.epoch = match id {
            0 => 0,
            _ => self.epoch.checked_add(1).unwrap_or(1),
        };
        self.id = id;
    }
}

/// One connection before it is opened.
#[derive(Debug, Clone)]
pub(crate) struct FetchPlan {
    /// Topic it reads.
    pub(crate) topic: String,
    /// Whether what it reads counts towards the goal: a group that reads only some of the partitions does not.
    pub(crate) counted: bool,
    /// The leader of all its partitions.
    pub(crate) target: SocketAddr,
    /// What it reads, in partition order.
    pub(crate) positions: Vec<Position>,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    topic: String,
    counted: bool,
    positions: Vec<Position>,
    /// Only for those who follow the tail: for others the set of partitions changes.
    session: Option<Session>,
    walk: FetchWalk,
    request: Vec<u8>,
    request_sent: usize,
    correlation: i32,
    sent_ns: u64,
    outstanding: bool,
    turn: usize,
    done: bool,
}

/// A consumer thread's state.
#[derive(Debug)]
pub(crate) struct Consumer {
    spec: Arc<FetchSpec>,
    window: Window,
    connections: Vec<Connection>,
    epoll: Epoll,
    buffer: Vec<u8>,
    end: LoadEnd,
}

impl Consumer {
    /// Takes over opened connections.
    pub(crate) fn new(
        spec: Arc<FetchSpec>,
        window: Window,
        opened: Vec<(TcpStream, FetchPlan)>,
    ) -> Result<Self> {
        let epoll = Epoll::new().map_err(io_err("epoll"))?;
        let mut connections = Vec::with_capacity(opened.len());
        for (token, (stream, plan)) in opened.into_iter().enumerate() {
            let positions = plan.positions;
            let session = (spec.at_end == AtEnd::Follow).then(Session::default);
            assert!(!positions.is_empty(), "a connection has something to read");
            epoll.add_edge(stream.as_raw_fd(), token).map_err(io_err("epoll"))?;
            connections.push(Connection {
                stream,
                topic: plan.topic,
                counted: plan.counted,
                positions,
                session,
                walk: FetchWalk::new(spec.check_crc),
                request: Vec::new(),
                request_sent: 0,
                correlation: 0,
                sent_ns: 0,
                outstanding: false,
                turn: 0,
                done: false,
            });
        }
        let buffer = vec![0; FETCH_BUFFER_BYTES];
        Ok(Self { spec, window, connections, epoll, buffer, end: LoadEnd::default() })
    }

    /// Consumes to the end and hands the samples to `recorder`.
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
        for index in 0..self.connections.len() {
            self.request(index)?;
        }
        while !self.is_over(sys::now_ns(), deadline) {
            self.epoll.wait(SLEEP_NS_MAX, &mut events).map_err(io_err("epoll"))?;
            recorder.roll(sys::now_ns());
            for event in &events {
                if event.readable {
                    self.receive(event.token, recorder)?;
                }
                if event.writable {
                    self.send_rest(event.token)?;
                }
            }
        }
        Ok(())
    }

    fn is_over(&self, now_ns: u64, deadline_ns: u64) -> bool {
        if self.spec.stop.load(Ordering::Relaxed) || self.connections.iter().all(|connection| connection.done)
        {
            return true;
        }
        match &self.spec.goal {
            None => now_ns >= self.window.end_ns,
            Some(goal) => {
                let complete = goal.complete.load(Ordering::Acquire)
                    && goal.received.load(Ordering::Relaxed) >= goal.records.load(Ordering::Relaxed);
                complete || now_ns >= deadline_ns
            }
        }
    }

    /// Sends the next fetch of a connection, unless it is through.
    fn request(&mut self, index: usize) -> Result<()> {
        let spec = Arc::clone(&self.spec);
        let connection = &mut self.connections[index];
        if spec.at_end == AtEnd::Stop
            && connection.positions.iter().all(|position| position.next >= position.end)
        {
            connection.done = true;
            return Ok(());
        }
        connection.correlation = connection.correlation.wrapping_add(1);
        let mut writer = Writer { bytes: std::mem::take(&mut connection.request) };
        writer.bytes.clear();
        writer.i32(0).i16(1).i16(FETCH_VERSION).i32(connection.correlation).string(CLIENT_ID);
        writer.i32(-1).i32(spec.wait_ms_max as i32).i32(spec.bytes_min as i32).i32(spec.bytes_max as i32);
        let positions = &connection.positions;
        let wanted = |at: &usize| spec.at_end == AtEnd::Follow || positions[*at].next < positions[*at].end;
        let live = (0..positions.len()).filter(wanted).count();
        let partition_bytes = (spec.bytes_max / live.max(1) as u32).max(64 << 10).min(spec.bytes_max);
        // Partitions that are through are left out; the first of the rest changes from fetch to fetch, for
        // an endpoint may fill the response in request order.
        connection.turn = (connection.turn + 1) % positions.len();
        let (session, epoch, named) = match &mut connection.session {
            Some(session) => (session.id, session.epoch, session.tell(positions)),
            None => {
                (0, -1, (connection.turn..positions.len()).chain(0..connection.turn).filter(wanted).collect())
            }
        };
        writer.i8(0).i32(session).i32(epoch);
        if named.is_empty() {
            writer.i32(0);
        } else {
            writer.i32(1).string(&connection.topic).count(named.len());
        }
        for position in named.iter().map(|at| &positions[*at]) {
            writer.i32(position.partition).i32(-1).i64(position.next).i64(-1).i32(partition_bytes as i32);
        }
        writer.i32(0).string("");
        let length = (writer.bytes.len() - 4) as u32;
        writer.bytes[..4].copy_from_slice(&length.to_be_bytes());
        connection.request = writer.bytes;
        connection.request_sent = 0;
        connection.outstanding = true;
        connection.sent_ns = sys::now_ns();
        self.send_rest(index)
    }

    fn send_rest(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        while connection.request_sent < connection.request.len() {
            match (&connection.stream).write(&connection.request[connection.request_sent..]) {
                Ok(count) => connection.request_sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io_err("send a fetch")(error)),
            }
        }
        Ok(())
    }

    fn receive(&mut self, index: usize, recorder: &mut Recorder) -> Result<()> {
        loop {
            let connection = &mut self.connections[index];
            let count = match (&connection.stream).read(&mut self.buffer) {
                Ok(0) => return Err(protocol("the endpoint closed a consumer's connection")),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(io_err("receive a fetch")(error)),
            };
            let now = sys::now_ns();
            let mut ended = None;
            let positions = &mut connection.positions;
            let expected = connection.correlation;
            let goal = self.spec.goal.as_deref().map(|goal| (goal, connection.counted));
            connection.walk.feed(&self.buffer[..count], &mut |event| {
                if let Event::End { code, session, .. } = event {
                    // Without its session a connection begins a new one.
                    ended = Some(if SESSION_GONE.contains(&code) { 0 } else { session });
                }
                book(event, positions, expected, now, goal, recorder)
            })?;
            let Some(session) = ended else { continue };
            if !std::mem::replace(&mut connection.outstanding, false) {
                return Err(protocol("a fetch response nobody asked for"));
            }
            if let Some(own) = &mut connection.session {
                own.answered(session);
            }
            recorder.sample(Kind::Fetch, connection.sent_ns, now - connection.sent_ns);
            recorder.count(Side::Consumed, now, Counters { requests: 1, ..Counters::default() });
            self.end.last_completion_ns = now;
            if self.spec.at_end == AtEnd::Repeat
                && positions.iter().all(|position| position.next >= position.end)
            {
                for position in positions.iter_mut() {
                    position.next = position.start;
                }
            }
            if now < self.window.end_ns || self.spec.goal.is_some() {
                self.request(index)?;
            }
            recorder.roll(now);
        }
    }
}

/// Books one event of a response.
fn book(
    event: Event,
    positions: &mut [Position],
    expected: i32,
    now_ns: u64,
    goal: Option<(&Goal, bool)>,
    recorder: &mut Recorder,
) -> Result<()> {
    match event {
        Event::Partition { index, code, .. } if code != 0 => {
            Err(BenchError::Endpoint { what: format!("fetch from partition {index}"), code })
        }
        Event::Partition { .. } => Ok(()),
        Event::Batch { partition, next_offset, records, bytes, stamps } => {
            let at = positions
                .binary_search_by_key(&partition, |position| position.partition)
                .map_err(|_| protocol(format!("data of partition {partition}, which was not asked for")))?;
            let position = &mut positions[at];
            position.next = position.next.max(next_offset);
            recorder.count(Side::Consumed, now_ns, Counters { requests: 0, records, bytes });
            if let Some((goal, counted)) = goal {
                if counted {
                    goal.received.fetch_add(records, Ordering::Relaxed);
                }
                if let Some((intended_ns, _)) = stamps {
                    recorder.sample(Kind::EndToEnd, intended_ns, now_ns.saturating_sub(intended_ns));
                }
            }
            Ok(())
        }
        Event::End { correlation, code, .. } if code != 0 && !SESSION_GONE.contains(&code) => {
            Err(BenchError::Endpoint { what: format!("fetch {correlation}"), code })
        }
        Event::End { correlation, .. } if correlation != expected => {
            Err(protocol(format!("fetch response {correlation} instead of {expected}")))
        }
        Event::End { .. } => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_names_what_has_moved_and_all_of_it_after_a_loss() {
        let position = |partition: i32| Position { partition, start: 0, next: 5, end: 0 };
        let mut positions: Vec<Position> = (0..3).map(position).collect();
        let mut session = Session::default();
        assert_eq!(session.tell(&positions), [0, 1, 2]);
        session.answered(77);
        assert_eq!((session.id, session.epoch), (77, 1));
        assert!(session.tell(&positions).is_empty());
        session.answered(77);
        positions[1].next = 9;
        assert_eq!((session.epoch, session.tell(&positions)), (2, vec![1]));
        session.answered(0);
        assert_eq!((session.id, session.epoch, session.tell(&positions)), (0, 0, vec![0, 1, 2]));
    }
}
