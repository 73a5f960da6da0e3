//! EndTxn (key 26, versions 0 to 5) and WriteTxnMarkers (key 27, versions 1 and 2).
//!
//! Owner: the connection's core; the coordinator decides, the partitions' cores write markers. From version 5 on each
//! end gives the producer its next epoch (KIP-890). WriteTxnMarkers serves administrators who end a transaction that
//! nobody will end (KIP-664). It must not keep state.

use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::write_txn_markers_request::WritableTxnMarker;
use kafka_protocol::messages::write_txn_markers_response::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
};
use kafka_protocol::messages::{
    EndTxnRequest, EndTxnResponse, ProducerId, WriteTxnMarkersRequest, WriteTxnMarkersResponse,
};

use super::txn_errors;
use crate::coordinator::txn_api;
use crate::coordinator::txn_markers::{MarkerOutcome, MarkerTarget, write_markers};
use crate::coordinator::txn_state::ProducerKey;
use crate::shard::Shard;
use crate::wire::control_batch::Marker;

/// First version whose clients know PRODUCER_FENCED.
const FENCED_SINCE: i16 = 2;
/// First version whose clients get an epoch for each transaction.
const BUMPS_SINCE: i16 = 5;

pub(super) async fn respond(shard: &Rc<Shard>, request: &EndTxnRequest, version: i16) -> EndTxnResponse {
    let producer = ProducerKey { id: request.producer_id.0, epoch: request.producer_epoch };
    let bumps = version >= BUMPS_SINCE;
    match txn_api::end(shard, &request.transactional_id, producer, request.committed, bumps).await {
        Ok(next) if bumps => {
            EndTxnResponse::default().with_producer_id(ProducerId(next.id)).with_producer_epoch(next.epoch)
        }
        Ok(_) => EndTxnResponse::default(),
        Err(error) => {
            EndTxnResponse::default().with_error_code(txn_errors::code(error, version >= FENCED_SINCE))
        }
    }
}

/// WriteTxnMarkers.
pub(super) async fn write(shard: &Rc<Shard>, request: &WriteTxnMarkersRequest) -> WriteTxnMarkersResponse {
    let mut results = Vec::with_capacity(request.markers.len());
    for marker in &request.markers {
        results.push(write_one(shard, marker).await);
    }
    WriteTxnMarkersResponse::default().with_markers(results)
}

async fn write_one(shard: &Rc<Shard>, asked: &WritableTxnMarker) -> WritableTxnMarkerResult {
    let marker = Marker {
        producer_id: asked.producer_id.0,
        producer_epoch: asked.producer_epoch,
        commit: asked.transaction_result,
        coordinator_epoch: asked.coordinator_epoch,
    };
    let catalog = shard.catalog();
    let mut targets = Vec::new();
    for topic in &asked.topics {
        let topic_id = catalog.topic(&topic.name).map(|topic| topic.id).unwrap_or_default();
        targets.extend(
            topic.partition_indexes.iter().map(|partition| MarkerTarget { topic_id, partition: *partition }),
        );
    }
    let valid = marker.producer_id >= 0 && marker.producer_epoch >= 0;
    let outcomes = if valid { write_markers(shard, marker, &targets).await } else { Vec::new() };
    let mut outcomes = outcomes.into_iter();
    let mut topics = Vec::with_capacity(asked.topics.len());
    for topic in &asked.topics {
        let partitions = topic.partition_indexes.iter().map(|partition| {
            WritableTxnMarkerPartitionResult::default()
                .with_partition_index(*partition)
                .with_error_code(outcomes.next().map_or(ResponseError::InvalidRequest.code(), marker_code))
        });
        let partitions = partitions.collect();
        topics.push(
            WritableTxnMarkerTopicResult::default().with_name(topic.name.clone()).with_partitions(partitions),
        );
    }
    WritableTxnMarkerResult::default().with_producer_id(asked.producer_id).with_topics(topics)
}

fn marker_code(outcome: MarkerOutcome) -> i16 {
    match outcome {
        MarkerOutcome::Written => 0,
        MarkerOutcome::Gone => ResponseError::UnknownTopicOrPartition.code(),
        MarkerOutcome::Fenced => ResponseError::InvalidProducerEpoch.code(),
        MarkerOutcome::Failed => ResponseError::KafkaStorageError.code(),
    }
}
