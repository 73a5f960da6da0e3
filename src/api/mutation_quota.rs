//! `controller_mutation_rate` (KIP-599): how many partitions a second a client may create and delete.
//!
//! Owner: the connection's core; the account is on the limit's home core. Invariants: a topic is taken as a whole as
//! long as the account is not overdrawn, so that a burst may overdraw it once; a version that knows
//! THROTTLING_QUOTA_EXCEEDED gets it for the topics beyond, an older one, and Metadata that creates topics, is
//! paused afterwards; what changes nothing (a topic that exists, a dry run) costs nothing. Must not: look at anything
//! but numbers of partitions.

use kafka_protocol::ResponseError;

use super::control::ItemError;
use super::throttle::{at_home, record};
use super::{Call, ConnectionContext};
use crate::quota::Limit;
use crate::rt;
use crate::wire::api_table::{CREATE_PARTITIONS, CREATE_TOPICS, DELETE_TOPICS};

/// First versions whose clients know THROTTLING_QUOTA_EXCEEDED.
const STRICT_SINCE: &[(i16, i16)] = &[(CREATE_TOPICS, 6), (DELETE_TOPICS, 5), (CREATE_PARTITIONS, 3)];

/// One request under the quota.
pub(super) struct Mutations {
    limit: Option<Limit>,
    strict: bool,
    /// What is left on the account as far as this request knows; below zero it is overdrawn.
    left: f64,
    used: f64,
    refused: bool,
}

impl Mutations {
    /// Looks the account up.
    pub(super) async fn begin(context: &ConnectionContext, call: Call) -> Mutations {
        let strict = STRICT_SINCE.iter().any(|&(key, since)| key == call.api_key && call.version >= since);
        let limit = context.throttle.mutation_limit();
        let left = match &limit {
            Some(limit) => {
                at_home(&context.shard, limit, |quotas, limit| quotas.balance(limit, rt::steady_ms())).await
            }
            None => 0.0,
        };
        Mutations { limit, strict, left, used: 0.0, refused: false }
    }

    /// Takes those topics out that are beyond the quota; `partitions` counts what a topic would change.
    pub(super) fn refuse<T>(&mut self, topics: &mut Vec<T>, partitions: impl Fn(&T) -> usize) -> Vec<T> {
        if self.limit.is_none() {
            return Vec::new();
        }
        let mut refused = Vec::new();
        for topic in std::mem::take(topics) {
            let count = partitions(&topic) as f64;
            if self.strict && count > 0.0 && self.left < 0.0 {
                self.refused = true;
                refused.push(topic);
                continue;
            }
            self.left -= count;
            self.used += count;
            topics.push(topic);
        }
        refused
    }

    /// Puts what was used on the account, and the pause on the answer. A dry run uses nothing.
    pub(super) async fn end(self, context: &ConnectionContext, dry_run: bool) {
        let Some(limit) = &self.limit else { return };
        let used = if dry_run { 0.0 } else { self.used };
        if used == 0.0 && !self.refused {
            return;
        }
        let pause_ms = record(&context.shard, limit, used).await;
        // A version that knows the error is paused when it met it; the burst itself is not punished.
        if !self.strict || self.refused {
            context.throttle.pause(pause_ms);
        }
    }
}

/// The error of a topic beyond the quota.
pub(super) fn exceeded() -> ItemError {
    ItemError::new(ResponseError::ThrottlingQuotaExceeded, "The controller_mutation_rate quota is exceeded.")
}
