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
    // All are asked before the first answer is waited for.
    let mut asked = Vec::with_capacity(applicants.len());
    for applicant in applicants {
        let look = Look::at(shard, &applicant).await;
        asked.push((applicant, look));
    }
    let mut strangers: Vec<(Applicant, u64)> = Vec::new();
    for (applicant, look) in asked {
        // A partition that is gone is told by the append.
        if let Some(Verification::Needed(number)) = look.wait().await {
            strangers.push((applicant, number));
        }
    }
    let Some(producer) = strangers.first().map(|(first, _)| first.producer) else { return Vec::new() };
    // As in Kafka, the batches of a request belong to one producer.
    let (mine, others): (Vec<_>, Vec<_>) =
        strangers.into_iter().partition(|(one, _)| one.producer == producer);
    let mut refused: Vec<_> =
        others.into_iter().map(|(one, _)| (one.place, TxnError::UnknownProducer)).collect();
    refused.extend(admit_producer(shard, transactional_id, admission, producer, mine).await);
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
        confirm(shard, &one, number).await;
    }
    refused
}

/// Notes the verification where the batch will be appended. Messages to a core arrive in order, so this one is there
/// before the batch is.
async fn confirm(shard: &Rc<Shard>, applicant: &Applicant, number: u64) {
    let Applicant { topic_id, partition, producer, .. } = *applicant;
    let confirm = move |owner: &Rc<Shard>| {
        if let Some(found) = owner.partition(topic_id, partition) {
            found.log.confirm_transaction(producer.id, number);
        }
    };
    match shard.owner_of(topic_id, partition) {
        owner if owner == shard.core => confirm(shard),
        owner => shard.mesh.send(owner, Box::new(confirm)).await,
    }
}

/// A look at an applicant's partition, here or on its way.
enum Look {
    Here(Option<Verification>),
    There(flume::Receiver<Option<Verification>>),
}

impl Look {
    async fn at(shard: &Rc<Shard>, applicant: &Applicant) -> Look {
        let Applicant { topic_id, partition, producer, .. } = *applicant;
        let look = move |owner: &Rc<Shard>| {
            let found = owner.partition(topic_id, partition)?;
            Some(found.log.verify_transaction(producer.id, producer.epoch))
        };
        let owner = shard.owner_of(topic_id, partition);
        if owner == shard.core {
            return Look::Here(look(shard));
        }
        let work = move |owner: Rc<Shard>| -> LocalFuture<Option<Verification>> {
            let answer = look(&owner);
            Box::pin(async move { answer })
        };
        Look::There(shard.mesh.start_call(owner, work).await)
    }

    /// `None` when the partition is gone.
    async fn wait(self) -> Option<Verification> {
        match self {
            Look::Here(answer) => answer,
            Look::There(receiver) => receiver.recv_async().await.ok().flatten(),
        }
    }
}
