//! DescribeTransactions (key 65, version 0), ListTransactions (key 66, versions 0 to 2) and DescribeProducers (key 61,
//! version 0): what administrators see of transactions (KIP-664, KIP-994, KIP-1152).
//!
//! Owner: the connection's core asks coordinators and partitions. It must not change anything.

use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kafka_protocol::messages::describe_transactions_response::{TopicData, TransactionState};
use kafka_protocol::messages::list_transactions_response::TransactionState as ListedTransaction;
use kafka_protocol::messages::{
    DescribeProducersRequest, DescribeProducersResponse, DescribeTransactionsRequest,
    DescribeTransactionsResponse, ListTransactionsRequest, ListTransactionsResponse, ProducerId,
    TransactionalId,
};
use kafka_protocol::protocol::StrBytes;

use super::control::{text, topic_name};
use super::txn_errors;
use crate::coordinator::txn_api;
use crate::coordinator::txn_state::{TxnError, TxnMetadata, TxnPhase};
use crate::rt;
use crate::shard::Shard;
use crate::storage::ProducerState as StoredProducer;

/// Longest pattern of ListTransactions, bytes.
const PATTERN_BYTES_MAX: usize = 1024;
/// Memory that a compiled pattern may take, bytes.
const PATTERN_PROGRAM_BYTES_MAX: usize = 1 << 20;

/// DescribeTransactions.
pub(super) async fn describe(
    shard: &Rc<Shard>,
    request: &DescribeTransactionsRequest,
) -> DescribeTransactionsResponse {
    // Once each, however often it is asked for: what is known of it may be a million times larger than its name.
    let mut seen = HashSet::new();
    let mut states = Vec::new();
    for id in request.transactional_ids.iter().filter(|id| seen.insert(*id)) {
        let found = txn_api::describe(shard, id).await;
        states.push(match found {
            Ok(metadata) => described(id, &metadata),
            Err(error) => {
                TransactionState::default().with_transactional_id(id.clone()).with_error_code(match error {
                    TxnError::UnknownProducer => ResponseError::TransactionalIdNotFound.code(),
                    error => txn_errors::code(error, true),
                })
            }
        });
    }
    DescribeTransactionsResponse::default().with_transaction_states(states)
}

fn described(id: &TransactionalId, metadata: &TxnMetadata) -> TransactionState {
    let topics = metadata.partitions.iter().map(|(topic, partitions)| {
        TopicData::default()
            .with_topic(topic_name(topic))
            .with_partitions(partitions.iter().copied().collect())
    });
    let started = metadata.phase == TxnPhase::Ongoing || metadata.phase.is_prepared();
    TransactionState::default()
        .with_transactional_id(id.clone())
        .with_transaction_state(StrBytes::from_static_str(metadata.phase.name()))
        .with_transaction_timeout_ms(metadata.timeout_ms)
        .with_transaction_start_time_ms(if started { metadata.start_ms } else { -1 })
        .with_producer_id(ProducerId(metadata.producer_id))
        .with_producer_epoch(metadata.epoch)
        .with_topics(topics.collect())
}

/// ListTransactions.
pub(super) async fn list(
    shard: &Rc<Shard>,
    request: &ListTransactionsRequest,
    version: i16,
) -> ListTransactionsResponse {
    let pattern = match compiled(request) {
        Ok(pattern) => pattern,
        Err(error) => return ListTransactionsResponse::default().with_error_code(error.code()),
    };
    let (all, loading) = txn_api::list(shard).await;
    if loading {
        let code = ResponseError::CoordinatorLoadInProgress.code();
        return ListTransactionsResponse::default().with_error_code(code);
    }
    let filters: BTreeSet<&str> = request.state_filters.iter().map(StrBytes::as_str).collect();
    let known = ["Empty", "Ongoing", "PrepareCommit", "PrepareAbort", "CompleteCommit", "CompleteAbort"];
    let never = ["Dead", "PrepareEpochFence"];
    let is_known = |name: &&&str| known.contains(name) || never.contains(name);
    let unknown = filters.iter().filter(|name| !is_known(name)).map(|name| text(*name)).collect();
    let now_ms = rt::wall_ms();
    let duration_ms = if version >= 1 { request.duration_filter } else { -1 };
    let wanted = |id: &str, one: &TxnMetadata| {
        let open = one.phase == TxnPhase::Ongoing || one.phase.is_prepared();
        (filters.is_empty() || filters.contains(one.phase.name()))
            && (request.producer_id_filters.is_empty()
                || request.producer_id_filters.contains(&ProducerId(one.producer_id)))
            && (duration_ms < 0 || open && now_ms - one.start_ms > duration_ms)
            && pattern.as_ref().is_none_or(|pattern| pattern.is_match(id))
    };
    let found = all.iter().filter(|(id, one)| wanted(id, one)).map(|(id, one)| {
        ListedTransaction::default()
            .with_transactional_id(TransactionalId(text(id.as_str())))
            .with_producer_id(ProducerId(one.producer_id))
            .with_transaction_state(StrBytes::from_static_str(one.phase.name()))
    });
    let found = found.collect();
    ListTransactionsResponse::default().with_unknown_state_filters(unknown).with_transaction_states(found)
}

/// The pattern, which has to match the whole id.
fn compiled(request: &ListTransactionsRequest) -> Result<Option<regex::Regex>, ResponseError> {
    let Some(pattern) = request.transactional_id_pattern.as_ref().filter(|p| !p.is_empty()) else {
        return Ok(None);
    };
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(ResponseError::InvalidRegularExpression);
    }
    regex::RegexBuilder::new(&format!("^(?:{})$", pattern.as_str()))
        .size_limit(PATTERN_PROGRAM_BYTES_MAX)
        .build()
        .map(Some)
        .map_err(|_| ResponseError::InvalidRegularExpression)
}

/// DescribeProducers.
pub(super) async fn producers(
    shard: &Rc<Shard>,
    request: &DescribeProducersRequest,
) -> DescribeProducersResponse {
    let catalog = shard.catalog();
    // Once each, however often it is asked for: what is known of it may be a million times larger than its name.
    let mut seen = HashSet::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let topic_id = catalog.topic(&topic.name).map(|topic| topic.id);
        let mut partitions = Vec::new();
        for &index in topic.partition_indexes.iter().filter(|index| seen.insert((&topic.name, **index))) {
            let states = match topic_id {
                Some(topic_id) => {
                    let owner = shard.owner_of(topic_id, index.max(0));
                    let ask = move |owner: Rc<Shard>| -> crate::shard::LocalFuture<_> {
                        let found = owner.partition(topic_id, index);
                        Box::pin(async move { found.map(|partition| partition.log.producer_states()) })
                    };
                    shard.mesh.call(owner, ask).await.flatten()
                }
                None => None,
            };
            let response = PartitionResponse::default().with_partition_index(index);
            partitions.push(match states {
                Some(states) => response.with_active_producers(states.iter().map(state).collect()),
                None => response
                    .with_error_code(ResponseError::UnknownTopicOrPartition.code())
                    .with_error_message(Some(text("This server does not host this topic-partition."))),
            });
        }
        topics.push(TopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions));
    }
    DescribeProducersResponse::default().with_topics(topics)
}

fn state(stored: &StoredProducer) -> ProducerState {
    ProducerState::default()
        .with_producer_id(ProducerId(stored.producer_id))
        .with_producer_epoch(i32::from(stored.epoch))
        .with_last_sequence(stored.last_sequence)
        .with_last_timestamp(stored.last_append_ms)
        .with_coordinator_epoch(stored.coordinator_epoch)
        .with_current_txn_start_offset(stored.txn_first_offset)
}
