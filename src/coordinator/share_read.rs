//! Fetching for a share group: reading the log where its window goes on, and acquiring what was read.
//!
//! Owner: the core that owns the data. Invariants: records are never decoded: ranges of offsets come from the headers
//! of batches; a member gets whole batches of bytes, and of the offsets in them those that it acquired; one read is
//! under way for a share partition, and holds no borrow while it waits.
//! It must not encode anything.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use super::share_partition::{Settings, ShareError, SharePartition};
use super::share_window::{Acquired, Acquisition, Owner, Span};
use crate::limits::{SHARE_READ_BYTES, SHARE_READS_PER_FETCH_MAX};
use crate::rt;
use crate::storage::{AbortedTransaction, Isolation, LogError, Slice};
use crate::sync::Wait;
use crate::wire::record_batch::{self, BATCH_HEADER_SIZE, BatchInfo};

/// What a member wants of a share partition.
#[derive(Clone, Debug)]
pub struct Want {
    /// Member id.
    pub member: String,
    /// Number of its session.
    pub session: u64,
    /// Records at most; whole batches may exceed it.
    pub records_max: i64,
    /// Whether a batch that was begun may be given as a whole.
    pub whole_batches: bool,
    /// Ranges are told in pieces of about this many offsets.
    pub batch_size: i64,
    /// Bytes at most; one batch may exceed it.
    pub max_bytes: usize,
}

/// What a fetch came to.
#[derive(Default)]
pub struct Given {
    /// Ranges that were acquired.
    pub acquired: Vec<Acquired>,
    /// Batches that hold them, and others.
    pub slices: Vec<Slice>,
    /// Size of these, bytes.
    pub size_bytes: usize,
}

impl Given {
    /// How many offsets were acquired.
    pub fn count(&self) -> i64 {
        self.acquired.iter().map(|range| range.last - range.first + 1).sum()
    }
}

/// A read under way; it ends when this is dropped, as when the member's connection goes away meanwhile.
struct Reading(Rc<SharePartition>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.reading.set(false);
        self.0.news.fire();
    }
}

impl SharePartition {
    /// Acquires what there is for a member; empty if there is nothing now.
    pub async fn fetch(self: &Rc<Self>, want: &Want) -> Result<Given, ShareError> {
        self.note_use();
        if self.reading.replace(true) {
            // Somebody else is at it, and will fire when he is done.
            return Ok(Given::default());
        }
        let _reading = Reading(self.clone());
        self.fetch_alone(want).await
    }

    async fn fetch_alone(self: &Rc<Self>, want: &Want) -> Result<Given, ShareError> {
        let settings = self.settings().ok_or(ShareError::Storage)?;
        let log = self.partition.log.clone();
        for _ in 0..SHARE_READS_PER_FETCH_MAX {
            if self.follow_log() {
                self.touch();
            }
            let Some(from) = self.window.borrow().next_offset(settings.rules) else { break };
            let bytes_max = want.max_bytes.min(SHARE_READ_BYTES);
            let read = match log.read_isolated(from, bytes_max, settings.isolation).await {
                Ok(read) => read,
                Err(LogError::OutOfRange(_)) => continue,
                Err(LogError::Damaged(_)) => return Err(ShareError::Damaged),
                Err(LogError::Deleted) => return Err(ShareError::Unknown),
                Err(_) => return Err(ShareError::Storage),
            };
            if read.size_bytes == 0 || self.is_gone() {
                break;
            }
            if self.window.borrow().next_offset(settings.rules) != Some(from) {
                // Records came back, or the offsets were set, while the log was read.
                continue;
            }
            let aborted = match settings.isolation {
                Isolation::Committed => log.aborted_transactions_among(from, read.end_position),
                Isolation::Uncommitted => Vec::new(),
            };
            let mut slices = read.slices;
            let (acquired, used_bytes) = self.acquire(want, &settings, from, &slices, &aborted);
            if !acquired.is_empty() {
                truncate(&mut slices, used_bytes);
                return Ok(Given { acquired, slices, size_bytes: used_bytes });
            }
            // Markers, aborted records and holes only: what comes behind them?
            rt::yield_now().await;
        }
        Ok(Given::default())
    }

    /// Walks the batches of a read; what was acquired, and how many bytes are needed for that.
    fn acquire(
        self: &Rc<Self>,
        want: &Want,
        settings: &Settings,
        from: i64,
        slices: &[Slice],
        aborted: &[AbortedTransaction],
    ) -> (Vec<Acquired>, usize) {
        let deadline_ms = rt::steady_ms() + settings.lock_ms;
        let mut acquisition = Acquisition {
            owner: Rc::new(Owner { member: want.member.clone(), session: want.session }),
            deadline_ms,
            left: want.records_max,
            whole_batches: want.whole_batches,
            batch_size: want.batch_size,
            at: from,
            taken: Vec::new(),
        };
        let mut window = self.window.borrow_mut();
        let start = window.start();
        let (mut at_bytes, mut used_bytes) = (0, 0);
        while let Some(info) = header_at(slices, at_bytes) {
            let span =
                Span { first: info.base_offset, last: info.last_offset(), wanted: is_wanted(&info, aborted) };
            let told = acquisition.taken.iter().map(|range| range.last).max();
            let more = window.acquire(&mut acquisition, span, settings.rules);
            at_bytes += info.size_bytes;
            if acquisition.taken.iter().map(|range| range.last).max() != told {
                used_bytes = at_bytes;
            }
            if !more {
                break;
            }
        }
        let holes = window.start() != start;
        drop(window);
        if acquisition.taken.is_empty() {
            if holes {
                self.touch();
            }
        } else {
            self.arm(deadline_ms);
        }
        (acquisition.taken, used_bytes)
    }

    /// Whether a fetch would find something to look at.
    fn is_ready(&self) -> bool {
        if self.is_gone() {
            return true;
        }
        let Some(settings) = self.settings() else { return true };
        if self.reading.get() {
            return false;
        }
        let log = &self.partition.log;
        let end = match settings.isolation {
            Isolation::Uncommitted => log.high_watermark(),
            Isolation::Committed => log.last_stable_offset(),
        };
        let next = self.window.borrow().next_offset(settings.rules);
        next.is_some_and(|offset| offset < end) || log.failure() == Some(LogError::Deleted)
    }
}

/// Resolves when one of the share partitions may have something to give, or `cancel` resolves.
pub async fn wait_for_news(all: &[Rc<SharePartition>], cancel: Wait<'_>) {
    let mut cancel = cancel;
    loop {
        let events = all.iter().flat_map(|one| [&one.news, one.partition.log.watermark_event()]);
        let mut waits: Vec<_> = events.map(|event| event.wait_past(event.generation())).collect();
        if all.iter().any(|one| one.is_ready()) {
            return;
        }
        let cancelled = poll_fn(|cx| {
            if Pin::new(&mut cancel).poll(cx).is_ready() {
                return Poll::Ready(true);
            }
            match waits.iter_mut().any(|wait| Pin::new(wait).poll(cx).is_ready()) {
                true => Poll::Ready(false),
                false => Poll::Pending,
            }
        })
        .await;
        if cancelled {
            return;
        }
    }
}

/// Whether consumers are to see the records of a batch.
fn is_wanted(info: &BatchInfo, aborted: &[AbortedTransaction]) -> bool {
    let is_aborted = |one: &AbortedTransaction| {
        one.producer_id == info.producer_id
            && (one.first_offset..=one.last_offset).contains(&info.base_offset)
    };
    let hidden = info.is_transactional() && aborted.iter().any(is_aborted);
    !info.is_control() && !hidden
}

/// The header of the batch at a place of the slices; `None` at their end.
fn header_at(slices: &[Slice], at: usize) -> Option<BatchInfo> {
    let mut header = [0u8; BATCH_HEADER_SIZE];
    let (mut skip, mut have) = (at, 0);
    for slice in slices {
        if skip >= slice.len() {
            skip -= slice.len();
            continue;
        }
        let part = &slice.as_bytes()[skip..];
        let take = part.len().min(BATCH_HEADER_SIZE - have);
        header[have..have + take].copy_from_slice(&part[..take]);
        have += take;
        skip = 0;
        if have == BATCH_HEADER_SIZE {
            return record_batch::parse_header(&header).ok();
        }
    }
    None
}

/// Keeps the first `size_bytes` of the slices.
fn truncate(slices: &mut Vec<Slice>, size_bytes: usize) {
    let mut left = size_bytes;
    for slice in slices.iter_mut() {
        slice.truncate(left);
        left -= slice.len();
    }
    slices.retain(|slice| !slice.is_empty());
}
