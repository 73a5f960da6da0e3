//! The verifier's own producer: open loop, one connection, batches of numbered records, and a ledger of what became of
//! each. It outlives whatever happens to the server: it reconnects, and what was due meanwhile is sent late.
//!
//! Owner: one thread. Invariants: a record is sent once and never again, so it can be there at most once; what was on a
//! connection that died, or had no answer in time, is unknown; an error code that says "not written" is a failure, one
//! that leaves it open is unknown. Must not: wait for a reply while it is time to send.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::ledger::Lane;
use super::record::Stamp;
use super::timeline::Recorders;
use crate::batch::{BatchImage, Codec, Record};
use crate::error::{BenchError, Result, io_err, protocol};
use crate::frame::{CLIENT_ID, PRODUCE_VERSION};
use crate::generator::open_stream;
use crate::limits::{ACK_BYTES_MAX, SLEEP_NS_MAX};
use crate::record::{Counters, Kind, Side};
use crate::schedule::Schedule;
use crate::sys::{self, Epoll, Ready};
use crate::wire::{Reader, Writer};

/// Pause before a connection is tried again, nanoseconds.
const RETRY_NS: u64 = 20_000_000;
/// Stretches without an answer that a producer remembers; the longest matter, and there are few of them.
const STRETCHES_MAX: usize = 10_000;
/// A stretch without an answer, or behind the schedule, that is worth remembering, nanoseconds.
const STRETCH_NS_MIN: u64 = 20_000_000;
/// Error codes after which a batch may be in the log: unknown server error, timed out, network exception, not enough
/// replicas after the append, storage error.
const OPEN_CODES: [i16; 5] = [-1, 7, 13, 20, 56];

/// What a producer is to do.
#[derive(Debug, Clone)]
pub(crate) struct ProducerSpec {
    /// Its number.
    pub(crate) producer: u32,
    /// The run, in every record.
    pub(crate) run: u64,
    /// Topic.
    pub(crate) topic: String,
    /// Partitions of the topic; the ledger has a lane for each.
    pub(crate) partitions: usize,
    /// Partitions it writes to, in turn; all have the leader `target`.
    pub(crate) mine: Vec<i32>,
    /// The leader.
    pub(crate) target: SocketAddr,
    /// Acknowledgement level: 1 or -1.
    pub(crate) acks: i16,
    /// Records of a batch.
    pub(crate) records: u32,
    /// Bytes of a value.
    pub(crate) record_bytes: usize,
    /// Batches in flight.
    pub(crate) in_flight: usize,
    /// How long an answer is waited for.
    pub(crate) timeout: Duration,
    /// When each batch is due.
    pub(crate) schedule: Schedule,
    /// End of the schedule.
    pub(crate) end_ns: u64,
    /// When it gives up.
    pub(crate) deadline_ns: u64,
    /// Set when the run cannot be finished: it gives up at once.
    pub(crate) abort: Arc<AtomicBool>,
}

/// What a producer did.
#[derive(Debug, Default)]
pub(crate) struct ProducerEnd {
    /// Its lanes, by partition.
    pub(crate) lanes: Vec<Lane>,
    /// Stretches of time without an answer: from, to.
    pub(crate) silences: Vec<(u64, u64)>,
    /// Stretches of time behind the schedule: from, to.
    pub(crate) delays: Vec<(u64, u64)>,
    /// Connections it opened.
    pub(crate) connects: u64,
    /// Batches that were due and never sent.
    pub(crate) unsent: u64,
    /// The last error, for people.
    pub(crate) last_error: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    correlation: i32,
    lane: usize,
    first: u64,
    intended_ns: u64,
    sent_ns: u64,
    bytes: u64,
}

/// A connection with what is on its way in and out.
#[derive(Debug)]
struct Link {
    stream: TcpStream,
    epoll: Epoll,
    out: Vec<u8>,
    out_sent: usize,
    input: Vec<u8>,
}

impl Link {
    fn open(target: SocketAddr) -> Result<Self> {
        let stream = open_stream(target, None)?;
        let epoll = Epoll::new().map_err(io_err("epoll"))?;
        epoll.add_edge(stream.as_raw_fd(), 0).map_err(io_err("epoll"))?;
        Ok(Self { stream, epoll, out: Vec::new(), out_sent: 0, input: Vec::new() })
    }

    /// Hands to the kernel what it takes; true when nothing is left.
    fn flush(&mut self) -> Result<bool> {
        while self.out_sent < self.out.len() {
            match (&self.stream).write(&self.out[self.out_sent..]) {
                Ok(0) => return Err(protocol("the socket takes no bytes")),
                Ok(count) => self.out_sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io_err("send a request")(error)),
            }
        }
        self.out.clear();
        self.out_sent = 0;
        Ok(true)
    }

    /// Takes in what has arrived.
    fn fill(&mut self) -> Result<()> {
        let mut chunk = [0u8; 16 << 10];
        loop {
            match (&self.stream).read(&mut chunk) {
                Ok(0) => return Err(protocol("the server closed the connection")),
                Ok(count) => self.input.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io_err("receive a reply")(error)),
            }
        }
    }

    /// The next whole frame, without its length.
    fn frame(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(head) = self.input.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*head) as usize;
        if !(4..=ACK_BYTES_MAX).contains(&length) {
            return Err(protocol(format!("reply of {length} bytes")));
        }
        if self.input.len() < 4 + length {
            return Ok(None);
        }
        let frame = self.input[4..4 + length].to_vec();
        self.input.drain(..4 + length);
        Ok(Some(frame))
    }
}

/// Error code and base offset of a produce reply for one partition (v7, behind the correlation id).
fn read_reply(body: &[u8]) -> Result<(i16, i64)> {
    let mut reader = Reader::new(body);
    if reader.count(6)? != 1 {
        return Err(protocol("a produce reply of one topic wanted"));
    }
    reader.string()?;
    if reader.count(30)? != 1 {
        return Err(protocol("a produce reply of one partition wanted"));
    }
    reader.i32()?;
    Ok((reader.i16()?, reader.i64()?))
}

/// A producer's state.
#[derive(Debug)]
pub(crate) struct Producer {
    spec: ProducerSpec,
    recorders: Recorders,
    end: ProducerEnd,
    link: Option<Link>,
    retry_ns: u64,
    correlation: i32,
    turn: usize,
    pending: VecDeque<Pending>,
    last_ack_ns: u64,
    late_since_ns: Option<u64>,
}

impl Producer {
    /// A producer that has not begun.
    pub(crate) fn new(spec: ProducerSpec, recorders: Recorders) -> Self {
        assert!(!spec.mine.is_empty(), "a producer has partitions");
        let lanes = vec![Lane::default(); spec.partitions];
        Self {
            recorders,
            end: ProducerEnd { lanes, ..ProducerEnd::default() },
            link: None,
            retry_ns: 0,
            correlation: 0,
            turn: spec.producer as usize,
            pending: VecDeque::with_capacity(spec.in_flight),
            last_ack_ns: spec.schedule.due_ns(),
            late_since_ns: None,
            spec,
        }
    }

    /// Produces to the end of the schedule, waits for the last answers, and says what became of everything.
    ///
    /// # Errors
    /// Only when the ledger cannot hold any more.
    pub(crate) fn run(mut self) -> Result<ProducerEnd> {
        sys::sharp_timers();
        let mut events: Vec<Ready> = Vec::new();
        loop {
            let now = sys::now_ns();
            self.recorders.roll(now);
            let through = self.spec.schedule.due_ns() >= self.spec.end_ns;
            let aborted = self.spec.abort.load(Ordering::Relaxed);
            if (through && self.pending.is_empty()) || now >= self.spec.deadline_ns || aborted {
                break;
            }
            if let Err(error) = self.step(now) {
                self.disconnect(&error);
            }
            if self.end.lanes.iter().any(|lane| lane.unknown.is_full() || lane.failed.is_full()) {
                return Err(protocol("more failures than the ledger can hold"));
            }
            let wait_ns = self.wait_ns();
            match &mut self.link {
                Some(link) => link.epoll.wait(wait_ns, &mut events).map_err(io_err("epoll"))?,
                None => std::thread::sleep(Duration::from_nanos(wait_ns.min(RETRY_NS))),
            }
        }
        self.give_up_pending();
        self.note_silence(sys::now_ns().min(self.spec.end_ns));
        if let Some(since) = self.late_since_ns {
            remember(&mut self.end.delays, (since, sys::now_ns()));
        }
        self.end.unsent = self.spec.schedule.unsent_before(self.spec.end_ns);
        self.recorders.finish();
        Ok(self.end)
    }

    fn wait_ns(&self) -> u64 {
        let now = sys::now_ns();
        let room = self.pending.len() < self.spec.in_flight
            && self.link.as_ref().is_some_and(|link| link.out.is_empty());
        let due = self.spec.schedule.due_ns();
        if room && due < self.spec.end_ns { due.saturating_sub(now).min(SLEEP_NS_MAX) } else { SLEEP_NS_MAX }
    }

    fn step(&mut self, now: u64) -> Result<()> {
        if self.link.is_none() {
            if now < self.retry_ns {
                return Ok(());
            }
            self.link = Some(Link::open(self.spec.target)?);
            self.end.connects += 1;
        }
        self.take_replies()?;
        if let Some(oldest) = self.pending.front()
            && now.saturating_sub(oldest.sent_ns) > self.spec.timeout.as_nanos() as u64
        {
            return Err(protocol("no answer in time"));
        }
        while self.pending.len() < self.spec.in_flight {
            let due = self.spec.schedule.due_ns();
            let now = sys::now_ns();
            self.note_delay(due, now);
            let Some(link) = &mut self.link else { break };
            if !link.flush()? || due > now || due >= self.spec.end_ns {
                break;
            }
            self.send(due, now)?;
        }
        Ok(())
    }

    fn send(&mut self, intended_ns: u64, now: u64) -> Result<()> {
        let partition = self.spec.mine[self.turn % self.spec.mine.len()];
        self.turn += 1;
        let lane = partition as usize;
        let first = self.end.lanes[lane].next;
        let values: Vec<Vec<u8>> = (0..u64::from(self.spec.records))
            .map(|index| {
                let stamp = Stamp {
                    run: self.spec.run,
                    producer: self.spec.producer,
                    partition: partition as u32,
                    number: first + index,
                    intended_ns,
                };
                stamp.encode(self.spec.record_bytes)
            })
            .collect();
        let records: Vec<Record<'_>> = values.iter().map(|value| Record { key: None, value }).collect();
        let batch = BatchImage::encode_records(&records, Codec::None, false, crate::workload::wall_ms())?;
        self.correlation = self.correlation.wrapping_add(1);
        let mut writer = Writer::new();
        writer.i32(0).i16(0).i16(PRODUCE_VERSION).i32(self.correlation).string(CLIENT_ID).null_string();
        writer.i16(self.spec.acks).i32(30_000).i32(1).string(&self.spec.topic).i32(1).i32(partition);
        writer.count(batch.len());
        writer.bytes.extend_from_slice(&batch.head);
        writer.bytes.extend_from_slice(&batch.tail);
        let length = (writer.bytes.len() - 4) as u32;
        writer.bytes[..4].copy_from_slice(&length.to_be_bytes());
        let Some(link) = &mut self.link else { return Ok(()) };
        // From here on the records count as sent: the kernel may have any part of them.
        self.end.lanes[lane].next += u64::from(self.spec.records);
        self.spec.schedule.advance();
        self.pending.push_back(Pending {
            correlation: self.correlation,
            lane,
            first,
            intended_ns,
            sent_ns: now,
            bytes: batch.len() as u64,
        });
        self.recorders.sample(Kind::Lag, intended_ns, now.saturating_sub(intended_ns));
        link.out = writer.bytes;
        link.flush().map(drop)
    }

    fn take_replies(&mut self) -> Result<()> {
        let Some(link) = &mut self.link else { return Ok(()) };
        // What came before the connection ended counts.
        let filled = link.fill();
        let now = sys::now_ns();
        while let Some(frame) = link.frame()? {
            let mut reader = Reader::new(&frame);
            let correlation = reader.i32()?;
            let pending =
                self.pending.pop_front().filter(|pending| pending.correlation == correlation).ok_or_else(
                    || BenchError::Protocol(format!("reply {correlation} answers no request in order")),
                )?;
            let count = u64::from(self.spec.records);
            let lane = &mut self.end.lanes[pending.lane];
            let outcome = read_reply(&frame[4..]);
            match outcome {
                Ok((0, offset)) => {
                    lane.acked(pending.first, count, offset);
                    let counters = Counters { requests: 1, records: count, bytes: pending.bytes };
                    self.recorders.count(Side::Produced, now, counters);
                    self.recorders.sample(Kind::Response, pending.intended_ns, now - pending.intended_ns);
                    self.recorders.sample(Kind::Service, pending.intended_ns, now - pending.sent_ns);
                    let silence = (self.last_ack_ns, now);
                    self.last_ack_ns = now;
                    remember(&mut self.end.silences, silence);
                }
                Ok((code, _)) if OPEN_CODES.contains(&code) => {
                    lane.unknown.insert(pending.first, pending.first + count);
                    self.end.last_error =
                        Some(BenchError::Endpoint { what: "produce".into(), code }.to_string());
                }
                Ok((code, _)) => {
                    lane.failed.insert(pending.first, pending.first + count);
                    self.end.last_error =
                        Some(BenchError::Endpoint { what: "produce".into(), code }.to_string());
                }
                Err(error) => {
                    lane.unknown.insert(pending.first, pending.first + count);
                    return Err(error);
                }
            }
        }
        filled
    }

    fn disconnect(&mut self, error: &BenchError) {
        self.end.last_error = Some(error.to_string());
        self.link = None;
        self.retry_ns = sys::now_ns() + RETRY_NS;
        self.give_up_pending();
    }

    fn give_up_pending(&mut self) {
        for pending in self.pending.drain(..) {
            let lane = &mut self.end.lanes[pending.lane];
            lane.unknown.insert(pending.first, pending.first + u64::from(self.spec.records));
        }
    }

    fn note_silence(&mut self, now: u64) {
        remember(&mut self.end.silences, (self.last_ack_ns, now));
    }

    /// Notes from when to when the sends were late.
    fn note_delay(&mut self, due: u64, now: u64) {
        let late = now.saturating_sub(due) > STRETCH_NS_MIN && due < self.spec.end_ns;
        match (late, self.late_since_ns) {
            (true, None) => self.late_since_ns = Some(due),
            (false, Some(since)) => {
                remember(&mut self.end.delays, (since, now));
                self.late_since_ns = None;
            }
            _ => {}
        }
    }
}

/// Keeps a stretch of time that is long enough to matter.
pub(crate) fn remember(stretches: &mut Vec<(u64, u64)>, (from, to): (u64, u64)) {
    if to.saturating_sub(from) >= STRETCH_NS_MIN && stretches.len() < STRETCHES_MAX {
        stretches.push((from, to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_of_one_partition_are_read() {
        let mut writer = Writer::new();
        writer.i32(1).string("t").i32(1).i32(0).i16(7).i64(42).i64(-1).i64(0).i32(0);
        assert_eq!(read_reply(&writer.bytes).unwrap(), (7, 42));
        for cut in 0..20 {
            assert!(read_reply(&writer.bytes[..cut]).is_err());
        }
    }
}
