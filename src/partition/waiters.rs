//! Parked fetches: waiting for any of several partitions to have more to read.
//!
//! Owner: the partitions' core. A parked fetch costs a waker in each partition's event and nothing else.
//! Invariant: a watermark that moved between the read and the wait is seen, because the wait compares
//! with what the read saw. It must not read.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use super::Partition;
use crate::storage::{Isolation, LogError};
use crate::sync::Wait;

/// A partition and the end that the fetch saw.
pub struct Watched {
    /// The partition.
    pub partition: Rc<Partition>,
    /// What the fetch may see.
    pub isolation: Isolation,
    /// High watermark, or last stable offset, at the time of the read.
    pub end_seen: i64,
}

impl Watched {
    fn moved(&self) -> bool {
        let log = &self.partition.log;
        // A log that failed still serves reads and has no news: only its end is some.
        let end = match self.isolation {
            Isolation::Uncommitted => log.high_watermark(),
            Isolation::Committed => log.last_stable_offset(),
        };
        end > self.end_seen || log.failure() == Some(LogError::Deleted)
    }
}

/// Resolves when one of `watched` has a higher watermark than was seen, or is gone, or `cancel` resolves.
pub async fn wait_for_data(watched: &[Watched], cancel: Wait<'_>) {
    let events = watched.iter().map(|one| one.partition.log.watermark_event());
    let mut waits: Vec<_> = events.map(|event| event.wait_past(event.generation())).chain([cancel]).collect();
    if watched.iter().any(Watched::moved) {
        return;
    }
    poll_fn(|cx| match waits.iter_mut().any(|wait| Pin::new(wait).poll(cx).is_ready()) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}
