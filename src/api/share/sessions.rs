//! Share sessions (KIP-932): which partitions a member fetches from, and the epoch that orders its requests.
//!
//! Owner: the connection. Invariants: a session's number is unique in the process; when the connection goes, what its
//! sessions have acquired goes back, on every core; a member that opens its session again keeps the number.
//! It must not acquire or acknowledge anything.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use kafka_protocol::ResponseError;
use uuid::Uuid;

use super::{SHARE_SESSION_LIMIT_REACHED, is_on};
use crate::coordinator::share_partition;
use crate::limits::{SHARE_SESSION_PARTITIONS_MAX, SHARE_SESSIONS_PER_CONNECTION_MAX};
use crate::shard::Shard;
use crate::wire::share::ShareRequest;

const INITIAL_EPOCH: i32 = 0;
const FINAL_EPOCH: i32 = -1;

/// The sessions of one connection.
pub struct ShareSessions {
    shard: Rc<Shard>,
    all: RefCell<HashMap<(String, String), Session>>,
}

struct Session {
    number: u64,
    /// The epoch that the next request must have.
    epoch: i32,
    partitions: BTreeSet<(Uuid, i32)>,
    /// Where the next fetch begins, so that every partition has its turn.
    turn: usize,
}

/// What a request may do.
pub(super) struct Step {
    /// Number of the session.
    pub(super) number: u64,
    /// Partitions to fetch from, in order.
    pub(super) partitions: Vec<(Uuid, i32)>,
    /// The session ends with this request.
    pub(super) closes: bool,
}

impl ShareSessions {
    /// No sessions yet.
    pub fn new(shard: Rc<Shard>) -> ShareSessions {
        ShareSessions { shard, all: RefCell::default() }
    }

    /// Takes a request's step in its session; an error is Kafka's code for the whole request.
    pub(super) fn step(&self, request: &ShareRequest, fetches: bool) -> Result<Step, i16> {
        if !is_on(&self.shard) {
            return Err(ResponseError::UnsupportedVersion.code());
        }
        let invalid = ResponseError::InvalidRequest.code();
        if request.group.trim().is_empty() || request.member.trim().is_empty() {
            return Err(invalid);
        }
        let key = (request.group.clone(), request.member.clone());
        let mut all = self.all.borrow_mut();
        if request.session_epoch == INITIAL_EPOCH {
            let acknowledges = request.partitions.iter().any(|one| !one.acknowledgements.is_empty());
            if !fetches {
                return Err(ResponseError::InvalidShareSessionEpoch.code());
            }
            if acknowledges {
                return Err(invalid);
            }
            let number = match all.get(&key) {
                Some(known) => known.number,
                None => self.admit(all.len())?,
            };
            all.insert(
                key.clone(),
                Session { number, epoch: INITIAL_EPOCH, partitions: BTreeSet::new(), turn: 0 },
            );
        }
        let session = all.get_mut(&key).ok_or(ResponseError::ShareSessionNotFound.code())?;
        if request.session_epoch == FINAL_EPOCH {
            let number = session.number;
            all.remove(&key);
            self.count(-1);
            return Ok(Step { number, partitions: Vec::new(), closes: true });
        }
        if request.session_epoch != session.epoch {
            return Err(ResponseError::InvalidShareSessionEpoch.code());
        }
        session.epoch = if session.epoch == i32::MAX { 1 } else { session.epoch + 1 };
        if fetches {
            session.partitions.extend(request.partitions.iter().map(|one| (one.topic_id, one.partition)));
            for place in &request.forgotten {
                session.partitions.remove(place);
            }
            if session.partitions.len() > SHARE_SESSION_PARTITIONS_MAX {
                all.remove(&key);
                self.count(-1);
                return Err(invalid);
            }
        }
        let mut partitions: Vec<_> = session.partitions.iter().copied().collect();
        if !partitions.is_empty() {
            let at = session.turn % partitions.len();
            partitions.rotate_left(at);
            session.turn = session.turn.wrapping_add(1);
        }
        Ok(Step { number: session.number, partitions, closes: false })
    }

    /// The number of a new session, if there may be one more.
    fn admit(&self, here: usize) -> Result<u64, i16> {
        let all = &self.shard.coordinators.share_partitions;
        let max = self.shard.config.groups.share.session_count_max.div_ceil(self.shard.mesh.cores());
        if here >= SHARE_SESSIONS_PER_CONNECTION_MAX || all.sessions.get() >= max {
            return Err(SHARE_SESSION_LIMIT_REACHED);
        }
        self.count(1);
        all.numbered.set(all.numbered.get() + 1);
        Ok((self.shard.core as u64) << 48 | all.numbered.get())
    }

    fn count(&self, change: isize) {
        let sessions = &self.shard.coordinators.share_partitions.sessions;
        sessions.set(sessions.get().saturating_add_signed(change));
    }
}

/// Gives back what a session has, on every core; resolves when they have done so.
pub(super) async fn release(shard: &Rc<Shard>, number: u64) {
    for core in 0..shard.mesh.cores() {
        let done = shard.mesh.call(core, move |owner| {
            Box::pin(async move { share_partition::release_session(&owner, number) })
        });
        done.await;
    }
}

impl Drop for ShareSessions {
    fn drop(&mut self) {
        for session in self.all.borrow().values() {
            let number = session.number;
            for core in 0..self.shard.mesh.cores() {
                let job = Box::new(move |owner: &Rc<Shard>| share_partition::release_session(owner, number));
                self.shard.mesh.send_soon(core, job);
            }
        }
        self.count(-(self.all.borrow().len() as isize));
    }
}
