//! AddPartitionsToTxn (key 24, versions 0 to 5) and AddOffsetsToTxn (key 25, versions 0 to 4): what a transaction will
//! write to, told before it does.
//!
//! Owner: the connection's core; the coordinator of the transactional id does the work. Versions 4 and 5 carry several
//! transactions and may only verify (KIP-890). All partitions of a transaction are added or none.
//! It must not keep state.

use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse,
};

use super::txn_errors;
use crate::coordinator::txn_api::{self, TxnPartitions};
use crate::coordinator::txn_state::{ProducerKey, TxnError};
use crate::coordinator::{InternalTopic, partition_of};
use crate::shard::Shard;

/// First version with several transactions.
const BATCHED_SINCE: i16 = 4;
/// First version whose clients know PRODUCER_FENCED, of both APIs.
const FENCED_SINCE: i16 = 2;
/// First version whose senders know TRANSACTION_ABORTABLE.
const ABORTABLE_SINCE: i16 = 5;

pub(super) async fn respond(
    shard: &Rc<Shard>,
    request: AddPartitionsToTxnRequest,
    version: i16,
) -> AddPartitionsToTxnResponse {
    if version < BATCHED_SINCE {
        let one = AddPartitionsToTxnTransaction::default()
            .with_transactional_id(request.v3_and_below_transactional_id)
            .with_producer_id(request.v3_and_below_producer_id)
            .with_producer_epoch(request.v3_and_below_producer_epoch)
            .with_topics(request.v3_and_below_topics);
        let topics = add(shard, &one, version).await;
        return AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(topics);
    }
    let mut results = Vec::with_capacity(request.transactions.len());
    for one in &request.transactions {
        results.push(
            AddPartitionsToTxnResult::default()
                .with_transactional_id(one.transactional_id.clone())
                .with_topic_results(add(shard, one, version).await),
        );
    }
    AddPartitionsToTxnResponse::default().with_results_by_transaction(results)
}

async fn add(
    shard: &Rc<Shard>,
    one: &AddPartitionsToTxnTransaction,
    version: i16,
) -> Vec<AddPartitionsToTxnTopicResult> {
    let catalog = shard.catalog();
    let exists = |topic: &str, partition: i32| {
        catalog.topic(topic).is_some_and(|topic| topic.partition(partition).is_some())
    };
    let all: TxnPartitions = one
        .topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|partition| (topic.name.to_string(), *partition)))
        .collect();
    if all.iter().any(|(topic, partition)| !exists(topic, *partition)) {
        return results(&one.topics, |topic, partition, _| match exists(topic, partition) {
            true => ResponseError::OperationNotAttempted.code(),
            false => ResponseError::UnknownTopicOrPartition.code(),
        });
    }
    let producer = ProducerKey { id: one.producer_id.0, epoch: one.producer_epoch };
    let id = one.transactional_id.as_str();
    let outcome = if one.verify_only {
        let verified = txn_api::verify(shard, id, producer, all).await;
        verified.map(Some)
    } else {
        txn_api::add(shard, id, producer, all).await.map(|()| None)
    };
    match outcome {
        Ok(None) => results(&one.topics, |_, _, _| 0),
        Ok(Some(verified)) => results(&one.topics, |_, _, at| match verified.get(at) {
            Some(true) => 0,
            _ if version >= ABORTABLE_SINCE => txn_errors::code(TxnError::NotInTransaction, true),
            _ => txn_errors::code(TxnError::InvalidState, true),
        }),
        Err(error) => {
            let code = txn_errors::code(error, version >= FENCED_SINCE);
            results(&one.topics, |_, _, _| code)
        }
    }
}

/// A result for each partition; `code` gets topic, partition and its place in the request.
fn results(
    topics: &[AddPartitionsToTxnTopic],
    code: impl Fn(&str, i32, usize) -> i16,
) -> Vec<AddPartitionsToTxnTopicResult> {
    let mut at = 0;
    let mut all = Vec::with_capacity(topics.len());
    for topic in topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            partitions.push(
                AddPartitionsToTxnPartitionResult::default()
                    .with_partition_index(*partition)
                    .with_partition_error_code(code(&topic.name, *partition, at)),
            );
            at += 1;
        }
        all.push(
            AddPartitionsToTxnTopicResult::default()
                .with_name(topic.name.clone())
                .with_results_by_partition(partitions),
        );
    }
    all
}

/// AddOffsetsToTxn: the partition of `__consumer_offsets` that a group's offsets go to becomes part of the transaction.
pub(super) async fn respond_offsets(
    shard: &Rc<Shard>,
    request: &AddOffsetsToTxnRequest,
    version: i16,
) -> AddOffsetsToTxnResponse {
    let refused = |code: i16| AddOffsetsToTxnResponse::default().with_error_code(code);
    if request.group_id.is_empty() {
        return refused(ResponseError::InvalidGroupId.code());
    }
    let topic = InternalTopic::ConsumerOffsets;
    let Ok(offsets) = topic.ensure(shard).await else {
        return refused(ResponseError::CoordinatorNotAvailable.code());
    };
    let partition = partition_of(&request.group_id, offsets.partition_count());
    let producer = ProducerKey { id: request.producer_id.0, epoch: request.producer_epoch };
    let partitions = vec![(topic.name().to_owned(), partition)];
    match txn_api::add(shard, &request.transactional_id, producer, partitions).await {
        Ok(()) => AddOffsetsToTxnResponse::default(),
        Err(error) => refused(txn_errors::code(error, version >= FENCED_SINCE)),
    }
}
