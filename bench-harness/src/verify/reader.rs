//! Reads everything of a topic, record by record, and books it; outlives whatever happens to the server.
//!
//! Owner: one thread for each leader while the producers run, and again at the end. Invariants: it goes on where it
//! stopped; an offset that has expired is jumped over and counted, never forgotten. Must not: end before it has read
//! what was there when the producers ended, unless its time is up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::ledger::Seen;
use super::record::walk_batches;
use super::timeline::Recorders;
use crate::error::{BenchError, Result, protocol};
use crate::kafka::{Control, FETCH_VERSION, Partition};
use crate::record::{Counters, Kind, Side};
use crate::sys;
use crate::wire::{Reader, Writer};

/// Most bytes of a response and of one partition in it.
const FETCH_BYTES_MAX: i32 = 4 << 20;
const PARTITION_BYTES_MAX: i32 = 1 << 20;
/// Longest hold of a fetch, milliseconds.
const WAIT_MS_MAX: i32 = 100;
/// Pause before a connection is tried again.
const RETRY: Duration = Duration::from_millis(20);
const OFFSET_OUT_OF_RANGE: i16 = 1;

/// When a reading ends.
#[derive(Debug, Clone)]
pub(crate) enum Until {
    /// When the flag is set and the ends as of then are reached.
    Told(Arc<AtomicBool>),
    /// When the ends as of the first successful look are reached.
    End,
}

/// One reading of some partitions.
#[derive(Debug)]
pub(crate) struct Reading {
    /// Topic.
    pub(crate) topic: String,
    /// What it reads; all have the same leader.
    pub(crate) partitions: Vec<Partition>,
    /// Where it begins, in their order.
    pub(crate) next: Vec<i64>,
    /// When it ends.
    pub(crate) until: Until,
    /// When it gives up.
    pub(crate) deadline_ns: u64,
    /// Set when the run cannot be finished: it gives up at once.
    pub(crate) abort: Arc<AtomicBool>,
    /// Where latency and counts go; the reading at the end has none.
    pub(crate) recorders: Option<Recorders>,
}

/// What a reading came to.
#[derive(Debug)]
pub(crate) struct ReadEnd {
    /// Everything booked.
    pub(crate) seen: Seen,
    /// Why it ended before its end, if it did.
    pub(crate) failure: Option<String>,
}

/// The error of a question beside the fetches: a server that is just coming up may answer oddly, and it is asked again.
fn passing(error: BenchError) -> BenchError {
    match error {
        BenchError::Protocol(text) => BenchError::Usage(text),
        other => other,
    }
}

impl Reading {
    /// Reads to the end, booking into `seen`.
    pub(crate) fn run(mut self, mut seen: Seen) -> ReadEnd {
        let mut ends: Option<Vec<i64>> = None;
        let mut control: Option<Control> = None;
        let mut last_error = None;
        let failure = loop {
            let now = sys::now_ns();
            if let Some(recorders) = &mut self.recorders {
                recorders.roll(now);
            }
            if let Some(ends) = &ends
                && self.next.iter().zip(ends).all(|(next, end)| next >= end)
            {
                break None;
            }
            if now >= self.deadline_ns || self.abort.load(Ordering::Relaxed) {
                let why = last_error.map_or(String::new(), |error: BenchError| format!(": {error}"));
                break Some(format!("{} could not be read to its end in time{why}", self.topic));
            }
            if let Err(error) = self.step(&mut control, &mut ends, &mut seen) {
                if matches!(error, BenchError::Protocol(_)) && control.is_some() {
                    // The connection works and what came over it is wrong: that is no outage.
                    seen.damaged += 1;
                    break Some(format!("{}: {error}", self.topic));
                }
                last_error = Some(error);
                control = None;
                std::thread::sleep(RETRY);
            }
        };
        if let Some(recorders) = self.recorders.take() {
            recorders.finish();
        }
        ReadEnd { seen, failure }
    }

    fn step(
        &mut self,
        control: &mut Option<Control>,
        ends: &mut Option<Vec<i64>>,
        seen: &mut Seen,
    ) -> Result<()> {
        let link = match control {
            Some(link) => link,
            None => {
                let leader = self.partitions[0].leader.to_string();
                control.insert(Control::connect(&leader).map_err(passing)?)
            }
        };
        let told = match &self.until {
            Until::Told(flag) => flag.load(Ordering::Acquire),
            Until::End => true,
        };
        if told && ends.is_none() {
            *ends = Some(Control::list_offsets(&self.topic, &self.partitions, -1).map_err(passing)?);
            return Ok(());
        }
        let mut body = Writer::new();
        body.i32(-1).i32(WAIT_MS_MAX).i32(1).i32(FETCH_BYTES_MAX).i8(0).i32(0).i32(-1);
        body.i32(1).string(&self.topic).count(self.partitions.len());
        for (partition, next) in self.partitions.iter().zip(&self.next) {
            body.i32(partition.index).i32(-1).i64(*next).i64(-1).i32(PARTITION_BYTES_MAX);
        }
        body.i32(0).string("");
        let sent_ns = sys::now_ns();
        let reply = link.call(1, FETCH_VERSION, &body.bytes)?;
        self.take(&reply, sent_ns, seen)
    }

    fn take(&mut self, reply: &[u8], sent_ns: u64, seen: &mut Seen) -> Result<()> {
        let now = sys::now_ns();
        let mut reader = Reader::new(reply);
        reader.i32()?;
        let code = reader.i16()?;
        reader.i32()?;
        if code != 0 {
            return Err(BenchError::Endpoint { what: "fetch".into(), code });
        }
        let (mut records, mut bytes) = (0, 0);
        for _ in 0..reader.count(6)? {
            reader.string()?;
            for _ in 0..reader.count(38)? {
                let index = reader.i32()?;
                let code = reader.i16()?;
                reader.take(24)?;
                let aborted = reader.count(16)?;
                reader.take(aborted * 16 + 4)?;
                let length = usize::try_from(reader.i32()?).unwrap_or(0);
                let data = reader.take(length)?;
                let at = self
                    .partitions
                    .iter()
                    .position(|partition| partition.index == index)
                    .ok_or_else(|| protocol(format!("data of partition {index}, not asked for")))?;
                if code == OFFSET_OUT_OF_RANGE {
                    self.jump(at, seen)?;
                    continue;
                }
                if code != 0 {
                    return Err(BenchError::Endpoint { what: format!("fetch from partition {index}"), code });
                }
                bytes += data.len() as u64;
                records += self.book(at, data, now, seen)?;
            }
        }
        if let Some(recorders) = &mut self.recorders {
            recorders.sample(Kind::Fetch, sent_ns, now - sent_ns);
            recorders.count(Side::Consumed, now, Counters { requests: 1, records, bytes });
        }
        Ok(())
    }

    /// Books the records of one partition; returns how many.
    fn book(&mut self, at: usize, data: &[u8], now: u64, seen: &mut Seen) -> Result<u64> {
        let place = self.partitions[at].index as usize;
        let from = self.next[at];
        let (mut records, recorders) = (0, &mut self.recorders);
        let next = walk_batches(data, |fetched| {
            // A batch may begin before what was asked for.
            if fetched.offset < from {
                return Ok(());
            }
            records += 1;
            if let (Some(stamp), Some(recorders)) = (seen.book(place, &fetched), recorders.as_mut()) {
                recorders.sample(Kind::EndToEnd, stamp.intended_ns, now.saturating_sub(stamp.intended_ns));
            }
            Ok(())
        })?;
        self.next[at] = next.unwrap_or(from).max(from);
        Ok(records)
    }

    /// Goes on at the log's start.
    fn jump(&mut self, at: usize, seen: &mut Seen) -> Result<()> {
        let one = std::slice::from_ref(&self.partitions[at]);
        let start = Control::list_offsets(&self.topic, one, -2).map_err(passing)?;
        let place = self.partitions[at].index as usize;
        if start[0] > self.next[at] {
            seen.skip_to(place, start[0]);
            self.next[at] = start[0];
            return Ok(());
        }
        Err(BenchError::Endpoint {
            what: format!("fetch at offset {}", self.next[at]),
            code: OFFSET_OUT_OF_RANGE,
        })
    }
}
