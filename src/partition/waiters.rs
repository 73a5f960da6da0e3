//! Parked fetches: waiting for any of several partitions to have more to read.
//!
//! Owner: the partitions' core. A parked fetch costs a waker in each partition's event and nothing else.
//! Invariant: a watermark that moved between the read and the wait is seen, because the wait compares
//! with what the read saw. It must not read.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use super::Partition;
use crate::sync::Event;

/// A partition and the high watermark that the fetch saw.
pub struct Watched {
    /// The partition.
    pub partition: Rc<Partition>,
    /// High watermark at the time of the read.
    pub high_watermark_seen: i64,
}

impl Watched {
    fn moved(&self) -> bool {
        let log = &self.partition.log;
        log.high_watermark() > self.high_watermark_seen || log.failure().is_some()
    }
}

/// Resolves when one of `watched` has a higher watermark than was seen, or failed, or `cancel` fires.
pub async fn wait_for_data(watched: &[Watched], cancel: &Event) {
    let cancelled_at = cancel.generation();
    poll_fn(|cx| {
        if cancel.generation() != cancelled_at || watched.iter().any(Watched::moved) {
            return Poll::Ready(());
        }
        for one in watched {
            one.partition.log.watermark_event().register(cx.waker());
        }
        cancel.register(cx.waker());
        Poll::Pending
    })
    .await;
}
