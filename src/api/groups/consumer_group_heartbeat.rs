//! ConsumerGroupHeartbeat (key 68, versions 0 and 1): the one request by which members of the new protocol join,
//! stay, learn of assignments and leave (KIP-848).
//!
//! Owner: the connection's core. Must not: be served while `group.version` is off.

use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::consumer_group_heartbeat_response::{Assignment, TopicPartitions};
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};

use super::super::control::text;
use super::super::features;
use super::{Client, code, on_coordinator};
use crate::coordinator::consumer::{ConsumerHeartbeat, JOIN_EPOCH, LEAVE_STATIC_EPOCH};
use crate::coordinator::consumer_groups::heartbeat_interval_ms;
use crate::coordinator::error::GroupError;
use crate::coordinator::groups::new_member_id;
use crate::coordinator::records::Partitions;
use crate::shard::Shard;

pub(super) async fn respond(
    shard: &Rc<Shard>,
    client: Client,
    request: ConsumerGroupHeartbeatRequest,
) -> ConsumerGroupHeartbeatResponse {
    let refused = |code: i16, why: String| {
        let message = Some(text(why));
        ConsumerGroupHeartbeatResponse::default().with_error_code(code).with_error_message(message)
    };
    let served =
        shard.config.groups.consumer_protocol && features::level(&shard.catalog(), "group.version") >= 1;
    if !served {
        let code = ResponseError::UnsupportedVersion.code();
        return refused(code, "the consumer group protocol is off".to_owned());
    }
    let name = request.group_id.to_string();
    let beat = match heartbeat(client, request) {
        Ok(beat) if !name.trim().is_empty() => beat,
        _ => {
            let error = GroupError::InvalidRequest;
            return refused(code(error), "the request contradicts itself".to_owned());
        }
    };
    let group = name.clone();
    let interval_ms = heartbeat_interval_ms(&shard.config.groups, &shard.catalog(), &name);
    let outcome = on_coordinator(shard, &group, move |partition, owner| {
        let catalog = owner.catalog();
        Box::pin(async move { partition.consumer_heartbeat(&name, beat, catalog).await })
    });
    match outcome.await.unwrap_or_else(Err) {
        Err(error) => refused(code(error), error.to_string()),
        Ok(answer) => {
            let assignment = answer.assignment.map(|partitions| {
                let topics = partitions.into_iter().map(|(topic, indexes)| {
                    let indexes = indexes.into_iter().collect();
                    TopicPartitions::default().with_topic_id(topic).with_partitions(indexes)
                });
                Assignment::default().with_topic_partitions(topics.collect())
            });
            ConsumerGroupHeartbeatResponse::default()
                .with_error_message(None)
                .with_member_id(Some(text(answer.member_id)))
                .with_member_epoch(answer.epoch)
                .with_heartbeat_interval_ms(interval_ms)
                .with_assignment(assignment)
        }
    }
}

fn heartbeat(
    client: Client,
    request: ConsumerGroupHeartbeatRequest,
) -> Result<ConsumerHeartbeat, GroupError> {
    let text_of = |value: Option<kafka_protocol::protocol::StrBytes>| value.map(|value| value.to_string());
    let instance_id = text_of(request.instance_id);
    let blank = |value: &Option<String>| value.as_ref().is_some_and(|value| value.trim().is_empty());
    let rack_id = text_of(request.rack_id);
    let assignor = text_of(request.server_assignor);
    let mut member_id = request.member_id.to_string();
    let returns = request.member_epoch == LEAVE_STATIC_EPOCH && instance_id.is_none();
    if blank(&instance_id) || blank(&rack_id) || blank(&assignor) || returns {
        return Err(GroupError::InvalidRequest);
    }
    if member_id.is_empty() {
        // Version 0 left the choice of the id to the coordinator.
        if request.member_epoch != JOIN_EPOCH {
            return Err(GroupError::InvalidRequest);
        }
        member_id = new_member_id(&client.id);
    }
    let owned = request.topic_partitions.map(|topics| {
        let mut owned = Partitions::new();
        for topic in topics {
            owned.entry(topic.topic_id).or_default().extend(topic.partitions);
        }
        owned
    });
    Ok(ConsumerHeartbeat {
        member_id,
        epoch: request.member_epoch,
        instance_id,
        rack_id,
        client_id: client.id,
        client_host: client.host,
        rebalance_timeout_ms: request.rebalance_timeout_ms,
        topics: request.subscribed_topic_names.map(|t| t.iter().map(|name| name.to_string()).collect()),
        regex: text_of(request.subscribed_topic_regex),
        assignor,
        owned,
    })
}
