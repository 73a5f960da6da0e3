//! Fetch sessions (KIP-227): the broker remembers what a consumer fetches, the consumer sends changes.
//!
//! Owner: the core of the connection. Invariants: at most `slots` sessions of at most
//! `FETCH_SESSION_PARTITIONS_MAX` partitions; ids are unique per core and never 0; epochs go
//! 1, 2, … i32::MAX, 1; an incremental answer leaves out partitions with nothing new.
//! It must not read logs.

use std::cell::{Cell, RefCell};

use crate::limits::FETCH_SESSION_PARTITIONS_MAX;
use crate::maps::HashMap;
use crate::rt;
use crate::wire::TopicKey;
use crate::wire::fetch::{FetchPartition, FetchRequest};

/// A session that was used within this time is not evicted for a new one, milliseconds (KIP-227).
const EVICTION_AGE_MS: i64 = 120_000;

/// Refusal of a session request, by Kafka's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// `FETCH_SESSION_ID_NOT_FOUND`
    NotFound,
    /// `INVALID_FETCH_SESSION_EPOCH`
    InvalidEpoch,
}

/// One partition of a session.
#[derive(Clone, Debug)]
pub struct SessionPartition {
    /// What to fetch.
    pub fetch: FetchPartition,
    sent_high_watermark: i64,
    sent_log_start: i64,
    sent_error: i16,
}

impl SessionPartition {
    fn new(fetch: FetchPartition) -> SessionPartition {
        SessionPartition { fetch, sent_high_watermark: -2, sent_log_start: -2, sent_error: 0 }
    }
}

struct Session {
    epoch: i32,
    partitions: Vec<SessionPartition>,
    positions: HashMap<(TopicKey, i32), usize>,
    /// Where the next answer starts, so that no partition starves behind a full one.
    start: usize,
    used_ms: i64,
}

impl Session {
    fn put(&mut self, fetch: FetchPartition) {
        let key = (fetch.topic.clone(), fetch.partition);
        match self.positions.get(&key) {
            Some(at) => self.partitions[*at].fetch = fetch,
            None if self.partitions.len() < FETCH_SESSION_PARTITIONS_MAX => {
                self.positions.insert(key, self.partitions.len());
                self.partitions.push(SessionPartition::new(fetch));
            }
            None => {}
        }
    }

    fn forget(&mut self, topic: &TopicKey, partition: i32) {
        let Some(at) = self.positions.remove(&(topic.clone(), partition)) else { return };
        self.partitions.remove(at);
        for position in self.positions.values_mut() {
            if *position > at {
                *position -= 1;
            }
        }
    }
}

/// How one fetch request relates to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionContext {
    /// Session id to answer with; 0 for none.
    pub id: i32,
    /// Leave out partitions without news.
    pub incremental: bool,
}

/// The sessions of one core.
pub struct Sessions {
    slots: usize,
    core: i32,
    cores: i32,
    next: Cell<i32>,
    sessions: RefCell<HashMap<i32, Session>>,
}

impl Sessions {
    /// Room for `slots` sessions on core `core` of `cores`.
    pub fn new(slots: usize, core: usize, cores: usize) -> Sessions {
        Sessions {
            slots,
            core: core as i32,
            cores: cores as i32,
            next: Cell::new(0),
            sessions: RefCell::default(),
        }
    }

    /// Sessions open now.
    pub fn count(&self) -> usize {
        self.sessions.borrow().len()
    }

    /// Resolves a request: moves the partitions to read into `out` and says how to answer.
    pub fn resolve(
        &self,
        request: &mut FetchRequest,
        out: &mut Vec<FetchPartition>,
    ) -> Result<SessionContext, SessionError> {
        out.clear();
        match (request.session_id, request.session_epoch) {
            (id, -1) => {
                self.sessions.borrow_mut().remove(&id);
                out.append(&mut request.partitions);
                Ok(SessionContext { id: 0, incremental: false })
            }
            (id, 0) => {
                self.sessions.borrow_mut().remove(&id);
                out.extend(request.partitions.iter().cloned());
                let id = self.open(std::mem::take(&mut request.partitions));
                Ok(SessionContext { id, incremental: false })
            }
            (id, epoch) => self.resume(id, epoch, request, out),
        }
    }

    fn open(&self, partitions: Vec<FetchPartition>) -> i32 {
        if partitions.is_empty() || partitions.len() > FETCH_SESSION_PARTITIONS_MAX {
            return 0;
        }
        let mut sessions = self.sessions.borrow_mut();
        let now_ms = rt::steady_ms();
        if sessions.len() >= self.slots {
            let oldest = sessions.iter().min_by_key(|(_, session)| session.used_ms);
            match oldest.map(|(id, session)| (*id, now_ms - session.used_ms)) {
                Some((id, age_ms)) if age_ms > EVICTION_AGE_MS => sessions.remove(&id),
                _ => return 0,
            };
        }
        let mut session = Session {
            epoch: 1,
            partitions: Vec::new(),
            positions: HashMap::default(),
            start: 0,
            used_ms: now_ms,
        };
        for fetch in partitions {
            session.put(fetch);
        }
        let id = loop {
            let number = self.next.get();
            self.next.set(if number > i32::MAX / self.cores - 2 { 0 } else { number + 1 });
            let id = number * self.cores + self.core + 1;
            if !sessions.contains_key(&id) {
                break id;
            }
        };
        sessions.insert(id, session);
        id
    }

    fn resume(
        &self,
        id: i32,
        epoch: i32,
        request: &mut FetchRequest,
        out: &mut Vec<FetchPartition>,
    ) -> Result<SessionContext, SessionError> {
        let mut sessions = self.sessions.borrow_mut();
        let session = sessions.get_mut(&id).ok_or(SessionError::NotFound)?;
        if session.epoch != epoch {
            return Err(SessionError::InvalidEpoch);
        }
        session.epoch = if epoch == i32::MAX { 1 } else { epoch + 1 };
        session.used_ms = rt::steady_ms();
        for (topic, partition) in &request.forgotten {
            session.forget(topic, *partition);
        }
        for fetch in request.partitions.drain(..) {
            session.put(fetch);
        }
        let count = session.partitions.len();
        if count == 0 {
            sessions.remove(&id);
            return Ok(SessionContext { id: 0, incremental: true });
        }
        let start = session.start % count;
        session.start = start + 1;
        let (head, tail) = session.partitions.split_at(start);
        out.extend(tail.iter().chain(head).map(|partition| partition.fetch.clone()));
        Ok(SessionContext { id, incremental: true })
    }

    /// Whether a partition's outcome must be in an answer of session `id`; notes it as sent.
    ///
    /// Called for full answers too, so that the next incremental one knows what was sent.
    #[allow(clippy::too_many_arguments, reason = "one call site; a struct would only rename the arguments")]
    pub fn note_sent(
        &self,
        context: SessionContext,
        topic: &TopicKey,
        partition: i32,
        has_records: bool,
        high_watermark: i64,
        log_start: i64,
        error: i16,
    ) -> bool {
        if context.id == 0 {
            return true;
        }
        let mut sessions = self.sessions.borrow_mut();
        let Some(session) = sessions.get_mut(&context.id) else { return true };
        let Some(at) = session.positions.get(&(topic.clone(), partition)).copied() else { return true };
        let known = &mut session.partitions[at];
        let news = has_records
            || error != 0
            || known.sent_error != error
            || known.sent_high_watermark != high_watermark
            || known.sent_log_start != log_start;
        known.sent_high_watermark = high_watermark;
        known.sent_log_start = log_start;
        // An error is repeated until it is gone (KIP-227).
        known.sent_error = error;
        news || !context.incremental
    }
}
