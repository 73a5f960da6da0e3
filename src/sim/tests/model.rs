//! What a log must hold: the oracle of the simulated runs.
//!
//! Owner: one run. It knows every batch that the log took, where, and what was promised of it when; from that it says
//! what a start after a crash at any step must find. Steps are those of the simulated disk.

use std::ops::RangeInclusive;
use std::rc::Rc;

use crate::sim::Crash;

/// One batch that the log took.
#[derive(Clone)]
pub struct Placed {
    /// Its first offset.
    pub base_offset: i64,
    /// The offset after its last.
    pub next_offset: i64,
    /// Its bytes as the log has them: with offset and epoch.
    pub bytes: Rc<[u8]>,
    /// Whether it is visible only when a power loss cannot take it back.
    pub flushed: bool,
    /// The step at which it was acknowledged.
    pub acked_at: Option<u64>,
    /// The step at which an answer promised that it survives a power loss.
    pub promised_at: Option<u64>,
    /// The step at which a consumer first saw it.
    pub read_at: Option<u64>,
    /// An idempotent producer's id and first sequence number.
    pub producer: Option<(i64, i32)>,
}

/// Everything that is known of one partition's log.
#[derive(Clone, Default)]
pub struct Model {
    /// In order of offsets, without gaps.
    pub placed: Vec<Placed>,
    /// Retention by size may delete; else nothing is ever old enough.
    pub by_size: bool,
    /// The disk is full now and then, or fails: retention goes on without making the new log start durable.
    pub scarce: bool,
    /// Requests of DeleteRecords: the step, and the start that was asked for.
    pub asked: Vec<(u64, i64)>,
    /// Answers of DeleteRecords: the step, and the start it promised.
    pub starts: Vec<(u64, i64)>,
}

/// What a start found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Log start offset.
    pub start: i64,
    /// Log end offset.
    pub end: i64,
}

impl Model {
    /// The offset after the last batch.
    pub fn end(&self) -> i64 {
        self.placed.last().map_or(0, |last| last.next_offset)
    }

    /// Notes an ack of the batch at `offset`; `promised`: also about power loss.
    pub fn acked(&mut self, offset: i64, step: u64, promised: bool) {
        let Some(at) = self.at(offset) else { return };
        let placed = &mut self.placed[at];
        placed.acked_at.get_or_insert(step);
        if promised {
            placed.promised_at.get_or_insert(step);
        }
    }

    /// The batch that begins at `offset`.
    pub fn at(&self, offset: i64) -> Option<usize> {
        self.placed.binary_search_by_key(&offset, |placed| placed.base_offset).ok()
    }

    /// The batch in which `offset` lies.
    pub fn around(&self, offset: i64) -> Option<usize> {
        let at = self.placed.partition_point(|placed| placed.next_offset <= offset);
        self.placed.get(at).filter(|placed| placed.base_offset <= offset).map(|_| at)
    }

    /// The last batch that must be there after a crash at `step`, with all before it.
    pub fn required(&self, step: u64, crash: Crash) -> Option<&Placed> {
        let seen = |at: Option<u64>| at.is_some_and(|at| at <= step);
        let promised = |placed: &&Placed| match crash {
            Crash::Process => seen(placed.acked_at) || seen(placed.read_at),
            Crash::Power => seen(placed.promised_at) || placed.flushed && seen(placed.read_at),
        };
        self.placed.iter().rev().find(promised)
    }

    /// Whether what a start found can be, when at the moment of the crash the log began at the first of `start_then`
    /// and its last was on its way.
    pub fn check(
        &self,
        found: Found,
        step: u64,
        crash: Crash,
        start_then: &RangeInclusive<i64>,
    ) -> Result<(), String> {
        let promised = self.required(step, crash);
        let required = promised.map_or(0, |placed| placed.next_offset);
        if found.end < required {
            let why = promised
                .map(|why| (why.base_offset, why.flushed, why.acked_at, why.promised_at, why.read_at));
            return Err(format!(
                "{found:?}, but everything below {required} was promised at step {step} ({why:?})"
            ));
        }
        let placed_end = self.placed.iter().map(|placed| placed.next_offset).max().unwrap_or(0);
        if found.end > placed_end {
            return Err(format!("{found:?}, but the log never had more than {placed_end}"));
        }
        let promised = self.starts.iter().filter(|(at, _)| *at <= step).map(|(_, start)| *start).max();
        if found.start < promised.unwrap_or(0) {
            return Err(format!("{found:?}, but records below {promised:?} were deleted"));
        }
        let asked = self.asked.iter().filter(|(at, _)| *at <= step).map(|(_, start)| *start).max();
        if found.start > *start_then.end().max(&asked.unwrap_or(0)) {
            return Err(format!("{found:?}, but the log began at {start_then:?}"));
        }
        if found.start < *start_then.start() && !self.scarce {
            return Err(format!("{found:?}, but clients had seen it begin at {start_then:?}"));
        }
        self.may_begin_at(found.start)?;
        if found.end > found.start && self.around(found.start).is_none() {
            return Err(format!("{found:?}: no batch was ever there"));
        }
        Ok(())
    }

    /// Whether the log may begin at `start` at all.
    pub fn may_begin_at(&self, start: i64) -> Result<(), String> {
        let asked = self.asked.iter().chain(&self.starts).map(|(_, start)| *start).max().unwrap_or(0);
        if self.by_size || start <= asked {
            return Ok(());
        }
        Err(format!("the log begins at {start}: nothing of it was old enough, only {asked} was asked for"))
    }

    /// Compares bytes that were read with what the log took; gives the offset after them.
    pub fn compare(&self, offset: i64, mut bytes: &[u8]) -> Result<i64, String> {
        let mut at =
            self.around(offset).ok_or_else(|| format!("offset {offset} was read, but never written"))?;
        let mut next = offset;
        while !bytes.is_empty() {
            let placed =
                self.placed.get(at).ok_or_else(|| format!("something was read behind offset {next}"))?;
            let size = placed.bytes.len();
            if bytes.len() < size || bytes[..size] != placed.bytes[..] {
                return Err(format!(
                    "the batch at offset {} is not the one that was written",
                    placed.base_offset
                ));
            }
            bytes = &bytes[size..];
            next = placed.next_offset;
            at += 1;
        }
        Ok(next)
    }

    /// The same log in the next life: what a start found counts as promised.
    pub fn next_life(&self, found: Found) -> Model {
        let mut placed = self.placed.clone();
        placed.retain(|placed| placed.next_offset <= found.end);
        for placed in &mut placed {
            (placed.acked_at, placed.promised_at) = (Some(0), Some(0));
        }
        // (What was asked for and not answered may be on disk already.)
        let start = self.starts.iter().map(|(_, start)| *start).max().unwrap_or(0);
        Model { placed, asked: vec![(0, found.start)], starts: vec![(0, start)], ..*self }
    }
}
