//! TxnOffsetCommit (key 28, versions 0 to 6, the last by topic ids): offsets of a group that count if a
//! transaction commits.
//!
//! Owner: the connection's core; the group's coordinator stores them. Spec: KIP-98, KIP-447 (fencing by member and
//! generation, version 3), KIP-890 (from version 5 on the commit makes the group part of the transaction).
//! Invariant: offsets are stored only while the transaction is open and knows of them. It must not keep state.

use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::txn_offset_commit_request::TxnOffsetCommitRequestPartition;
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::{TxnOffsetCommitRequest, TxnOffsetCommitResponse};

use super::control::TopicIds;
use super::groups as groups_api;
use super::txn_admission::{Admission, Applicant, admit};
use crate::catalog::Catalog;
use crate::coordinator::classic_sync::MemberRef;
use crate::coordinator::error::GroupError;
use crate::coordinator::groups_offsets::CommitItem;
use crate::coordinator::state_log::RecordProducer;
use crate::coordinator::txn_state::{ProducerKey, TxnError};
use crate::coordinator::{Home, InternalTopic, groups, home_of};
use crate::shard::{LocalFuture, Shard};

/// First version whose clients know TRANSACTION_ABORTABLE.
const ABORTABLE_SINCE: i16 = 4;
/// First version that makes the group part of the transaction.
const IMPLICIT_SINCE: i16 = 5;

/// First version with topic ids, whose clients know a group's own errors (KIP-1319).
const TOPIC_IDS_SINCE: i16 = 6;

pub(super) async fn respond(
    shard: &Rc<Shard>,
    request: TxnOffsetCommitRequest,
    version: i16,
) -> TxnOffsetCommitResponse {
    let catalog = shard.catalog();
    let metadata_bytes_max = shard.config.groups.offset_metadata_bytes_max;
    let refusals: Vec<i16> = request
        .topics
        .iter()
        .flat_map(|topic| {
            topic.partitions.iter().map(|p| refusal(&catalog, &topic.name, p, metadata_bytes_max))
        })
        .collect();
    let mut codes = refusals.iter();
    let mut items = Vec::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            if codes.next() == Some(&0) {
                items.push(CommitItem {
                    topic: topic.name.to_string(),
                    partition: partition.partition_index,
                    offset: partition.committed_offset,
                    leader_epoch: partition.committed_leader_epoch,
                    metadata: partition.committed_metadata.as_deref().unwrap_or_default().to_owned(),
                });
            }
        }
    }
    let outcome = if items.is_empty() { 0 } else { commit(shard, &request, version, items).await };
    let mut codes = refusals.into_iter().map(|code| if code == 0 { outcome } else { code });
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let partitions = topic.partitions.iter().map(|partition| {
            TxnOffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(codes.next().unwrap_or_default())
        });
        let partitions = partitions.collect();
        topics
            .push(TxnOffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(partitions));
    }
    TxnOffsetCommitResponse::default().with_topics(topics)
}

/// Why one partition is left out; 0 for none.
fn refusal(
    catalog: &Catalog,
    topic: &str,
    partition: &TxnOffsetCommitRequestPartition,
    metadata_bytes_max: usize,
) -> i16 {
    if TopicIds::is_unknown(topic) {
        return ResponseError::UnknownTopicId.code();
    }
    let exists =
        catalog.topic(topic).is_some_and(|topic| topic.partition(partition.partition_index).is_some());
    if !exists {
        return ResponseError::UnknownTopicOrPartition.code();
    }
    let metadata = partition.committed_metadata.as_ref().map_or(0, |text| text.len());
    if metadata > metadata_bytes_max { ResponseError::OffsetMetadataTooLarge.code() } else { 0 }
}

async fn commit(
    shard: &Rc<Shard>,
    request: &TxnOffsetCommitRequest,
    version: i16,
    items: Vec<CommitItem>,
) -> i16 {
    if request.group_id.is_empty() {
        return ResponseError::InvalidGroupId.code();
    }
    let internal = InternalTopic::ConsumerOffsets;
    let Ok(home) = home_of(shard, internal, &request.group_id).await else {
        return ResponseError::CoordinatorNotAvailable.code();
    };
    let producer = ProducerKey { id: request.producer_id.0, epoch: request.producer_epoch };
    let applicant = Applicant {
        place: 0,
        topic_id: home.topic_id,
        topic: internal.name().to_owned(),
        partition: home.partition,
        producer,
    };
    let admission = if version >= IMPLICIT_SINCE { Admission::Add } else { Admission::Verify };
    let refused = admit(shard, &request.transactional_id, admission, vec![applicant]).await;
    if let Some((_, error)) = refused.first() {
        return transaction_code(*error, version);
    }
    let name = request.group_id.to_string();
    let member = MemberRef {
        member_id: request.member_id.to_string(),
        instance_id: request.group_instance_id.as_ref().map(|id| id.to_string()),
        generation: if version >= 3 { request.generation_id } else { -1 },
    };
    let stored = shard.mesh.call(home.core, move |owner| store(owner, home, name, member, producer, items));
    match stored.await {
        Some(Ok(())) => 0,
        Some(Err(error)) => group_code(error, version),
        None => ResponseError::CoordinatorNotAvailable.code(),
    }
}

fn store(
    owner: Rc<Shard>,
    home: Home,
    name: String,
    member: MemberRef,
    producer: ProducerKey,
    items: Vec<CommitItem>,
) -> LocalFuture<Result<(), GroupError>> {
    Box::pin(async move {
        let producer = RecordProducer { id: producer.id, epoch: producer.epoch };
        groups::open(&owner, home)?.commit(&name, &member, Some(producer), None, items).await
    })
}

fn transaction_code(error: TxnError, version: i16) -> i16 {
    let error = match error {
        TxnError::Fenced => ResponseError::InvalidProducerEpoch,
        TxnError::UnknownProducer => ResponseError::InvalidProducerIdMapping,
        TxnError::Concurrent if version >= IMPLICIT_SINCE => ResponseError::ConcurrentTransactions,
        TxnError::Loading => ResponseError::CoordinatorLoadInProgress,
        TxnError::Concurrent | TxnError::NotAvailable => ResponseError::CoordinatorNotAvailable,
        _ if version >= ABORTABLE_SINCE => ResponseError::TransactionAbortable,
        _ => ResponseError::InvalidTxnState,
    };
    error.code()
}

fn group_code(error: GroupError, version: i16) -> i16 {
    match error {
        error if version >= TOPIC_IDS_SINCE => groups_api::code(error),
        // Clients of this API know a stale member by its generation.
        GroupError::StaleEpoch | GroupError::FencedEpoch => groups_api::code(GroupError::IllegalGeneration),
        error => groups_api::code(error),
    }
}
