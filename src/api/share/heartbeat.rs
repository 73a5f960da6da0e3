//! ShareGroupHeartbeat (key 76, version 1): members join share groups, stay, learn what to fetch from, and leave.
//!
//! Owner: the connection's core. Must not: be served while `share.version` is off.

use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::share_group_heartbeat_response::{Assignment, TopicPartitions};
use kafka_protocol::messages::{ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse};

use super::super::control::text;
use super::super::groups::{Client, code, on_coordinator};
use super::is_on;
use crate::coordinator::consumer::{JOIN_EPOCH, LEAVE_EPOCH};
use crate::coordinator::error::GroupError;
use crate::coordinator::share_group::ShareHeartbeat;
use crate::coordinator::share_groups::heartbeat_interval_ms;
use crate::shard::Shard;

pub(super) async fn respond(
    shard: &Rc<Shard>,
    client: Client,
    request: ShareGroupHeartbeatRequest,
) -> ShareGroupHeartbeatResponse {
    let refused = |code: i16, why: String| {
        let message = Some(text(why));
        ShareGroupHeartbeatResponse::default().with_error_code(code).with_error_message(message)
    };
    if !is_on(shard) {
        return refused(ResponseError::UnsupportedVersion.code(), "share groups are off".to_owned());
    }
    let name = request.group_id.to_string();
    let topics = request.subscribed_topic_names;
    let topics: Option<Vec<String>> = topics.map(|all| all.iter().map(|topic| topic.to_string()).collect());
    let joins = request.member_epoch == JOIN_EPOCH;
    let no_topics = topics.as_ref().is_none_or(Vec::is_empty);
    let blank_rack = request.rack_id.as_ref().is_some_and(|rack| rack.trim().is_empty());
    if name.trim().is_empty()
        || request.member_id.trim().is_empty()
        || request.member_epoch < LEAVE_EPOCH
        || blank_rack
        || (joins && no_topics)
    {
        let error = GroupError::InvalidRequest;
        return refused(code(error), "the request contradicts itself".to_owned());
    }
    let beat = ShareHeartbeat {
        member_id: request.member_id.to_string(),
        epoch: request.member_epoch,
        rack_id: request.rack_id.map(|rack| rack.to_string()),
        client_id: client.id,
        client_host: client.host,
        topics,
    };
    let interval_ms = heartbeat_interval_ms(&shard.config.groups, &shard.catalog(), &name);
    let group = name.clone();
    let outcome = on_coordinator(shard, &group, move |partition, owner| {
        let catalog = owner.catalog();
        Box::pin(async move { partition.share_heartbeat(&name, beat, catalog).await })
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
            ShareGroupHeartbeatResponse::default()
                .with_error_message(None)
                .with_member_id(Some(request.member_id))
                .with_member_epoch(answer.epoch)
                .with_heartbeat_interval_ms(interval_ms)
                .with_assignment(assignment)
        }
    }
}
