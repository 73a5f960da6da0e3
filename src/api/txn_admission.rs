//! Letting transactional batches in: before a batch may begin a transaction in a partition, the coordinator must know
//! that it is part of it (KIP-890).
//!
//! Owner: the connection's core, before the batches are sent on their way. Invariants: a batch of a partition whose
//! transaction is open costs a look on the partition's core and nothing else; a verification is void if a marker comes
//! between it and the append, which the log checks.
//! It must not append.

use std::rc::Rc;

use uuid::Uuid;

use crate::coordinator::txn_api::{self, TxnPartitions};
use crate::coordinator::txn_state::{ProducerKey, TxnError};
use crate::shard::{LocalFuture, Shard};
use crate::storage::Verification;

/// A transactional batch that waits to be let in.
#[derive(Clone, Debug)]
pub(super) struct Applicant {
    /// Its place with the caller.
    pub(super) place: usize,
    /// Topic id.
    pub(super) topic_id: Uuid,
    /// Topic name.
    pub(super) topic: String,
    /// Partition index.
    pub(super) partition: i32,
    /// The batch's producer.
    pub(super) producer: ProducerKey,
}

/// How a partition becomes part of the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It was added before; the coordinator is asked whether it was.
    Verify,
    /// The batch adds it (transaction version 2).
    Add,
}

/// Lets `applicants` in; the places of those that are refused, and why.
pub(super) async fn admit(
    shard: &Rc<Shard>,
    transactional_id: &str,
    admission: Admission,
    applicants: Vec<Applicant>,
) -> Vec<(usize, TxnError)> {
    let mut strangers: Vec<(Applicant, u64)> = Vec::new();
    for applicant in applicants {
        let owner = shard.owner_of(applicant.topic_id, applicant.partition);
        let verification = on_owner(shard, owner, &applicant, |log, producer| {
            log.verify_transaction(producer.id, producer.epoch)
        });
        // A partition that is gone is told by the append.
        if let Some(Verification::Needed(number)) = verification.await {
            strangers.push((applicant, number));
        }
    }
    let mut refused = Vec::new();
    // One producer and usually one round: requests carry the batches of one transaction.
    while let Some(producer) = strangers.first().map(|(first, _)| first.producer) {
        let (mine, rest) = strangers.into_iter().partition(|(one, _)| one.producer == producer);
        strangers = rest;
        refused.extend(admit_producer(shard, transactional_id, admission, producer, mine).await);
    }
    refused
}

async fn admit_producer(
    shard: &Rc<Shard>,
    transactional_id: &str,
    admission: Admission,
    producer: ProducerKey,
    strangers: Vec<(Applicant, u64)>,
) -> Vec<(usize, TxnError)> {
    let partitions: TxnPartitions =
        strangers.iter().map(|(one, _)| (one.topic.clone(), one.partition)).collect();
    let outcome = match admission {
        Admission::Add => txn_api::add(shard, transactional_id, producer, partitions).await.map(|()| None),
        Admission::Verify if !shard.config.transactions.verify => Ok(None),
        Admission::Verify => txn_api::verify(shard, transactional_id, producer, partitions).await.map(Some),
    };
    let verified = match outcome {
        Ok(verified) => verified,
        Err(error) => return strangers.into_iter().map(|(one, _)| (one.place, error)).collect(),
    };
    let mut refused = Vec::new();
    for (at, (one, number)) in strangers.into_iter().enumerate() {
        if verified.as_ref().is_some_and(|verified| verified.get(at) != Some(&true)) {
            refused.push((one.place, TxnError::NotInTransaction));
            continue;
        }
        let owner = shard.owner_of(one.topic_id, one.partition);
        on_owner(shard, owner, &one, move |log, producer| log.confirm_transaction(producer.id, number)).await;
    }
    refused
}

/// Looks at an applicant's log on its own core; `None` when the partition is gone.
async fn on_owner<R: Send + 'static>(
    shard: &Rc<Shard>,
    owner: usize,
    applicant: &Applicant,
    look: impl FnOnce(&crate::storage::Log, ProducerKey) -> R + Send + 'static,
) -> Option<R> {
    let Applicant { topic_id, partition, producer, .. } = *applicant;
    if owner == shard.core {
        return shard.partition(topic_id, partition).map(|found| look(&found.log, producer));
    }
    let work = move |owner: Rc<Shard>| -> LocalFuture<Option<R>> {
        let answer = owner.partition(topic_id, partition).map(|found| look(&found.log, producer));
        Box::pin(async move { answer })
    };
    shard.mesh.call(owner, work).await.flatten()
}
