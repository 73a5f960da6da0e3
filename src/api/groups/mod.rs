//! The APIs of consumer groups: from a request to the coordinator's core and back.
//!
//! Owner: the connection's core asks, the coordinator's core answers. Invariants: a request goes to the core that
//! owns the group's partition of `__consumer_offsets`; what it carries is copied out of the frame first.
//! It must not keep anything between requests; `coordinator` does.

mod consumer_group_describe;
mod consumer_group_heartbeat;
mod delete_groups;
mod describe_groups;
mod heartbeat;
mod join_group;
mod leave_group;
mod list_groups;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod sync_group;

use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::GroupId;

use super::control::{TopicIds, text};
use super::dispatch::{decode, decode_reduced, decode_with, encode, encode_with};
use super::{Call, ConnectionContext, Outcome};
use crate::coordinator::error::GroupError;
use crate::coordinator::groups::{self, GroupPartition};
use crate::coordinator::{InternalTopic, home_of};
use crate::rt;
use crate::shard::{LocalFuture, Shard};
use crate::wire::{api_table, newer};

/// READ, DELETE, DESCRIBE, DESCRIBE_CONFIGS and ALTER_CONFIGS as bits: what everybody may do with a group while there
/// is no authoriser.
pub(in crate::api) const GROUP_OPERATIONS: i32 = 1 << 3 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11;

/// Whether this module answers the API.
pub(super) fn serves(api_key: i16) -> bool {
    matches!(
        api_key,
        api_table::JOIN_GROUP
            | api_table::SYNC_GROUP
            | api_table::HEARTBEAT
            | api_table::LEAVE_GROUP
            | api_table::OFFSET_COMMIT
            | api_table::OFFSET_FETCH
            | api_table::OFFSET_DELETE
            | api_table::DELETE_GROUPS
            | api_table::LIST_GROUPS
            | api_table::DESCRIBE_GROUPS
            | api_table::CONSUMER_GROUP_HEARTBEAT
            | api_table::CONSUMER_GROUP_DESCRIBE
    )
}

/// Who asks, as groups remember it.
pub(super) struct Client {
    /// What it calls itself.
    pub(super) id: String,
    /// Where it is, with Kafka's slash in front.
    pub(super) host: String,
}

/// Handles a request whose predecessors are all answered.
pub(super) async fn handle(context: &ConnectionContext, call: Call, client: Client, body: &[u8]) -> Outcome {
    let shard = &context.shard;
    Ok(match call.api_key {
        api_table::JOIN_GROUP => {
            encode(call, &join_group::respond(shard, client, decode(call, body).await?, call.version).await)
        }
        api_table::SYNC_GROUP => {
            encode(call, &sync_group::respond(shard, decode(call, body).await?, call.version).await)
        }
        api_table::HEARTBEAT => encode(call, &heartbeat::respond(shard, decode(call, body).await?).await),
        api_table::LEAVE_GROUP => {
            encode(call, &leave_group::respond(shard, decode(call, body).await?, call.version).await)
        }
        api_table::OFFSET_COMMIT => {
            let topics = TopicIds::new(shard.catalog());
            let request =
                decode_with(call, body, |body| newer::offset_commit_request(body, |id| topics.name_of(id)))
                    .await?;
            let response = offset_commit::respond(shard, request, call.version).await;
            encode_with(call, &response, |response| offset_commit::by_ids(response, &topics))
        }
        api_table::OFFSET_FETCH => {
            let topics = TopicIds::new(shard.catalog());
            let request =
                decode_with(call, body, |body| newer::offset_fetch_request(body, |id| topics.name_of(id)))
                    .await?;
            let response = offset_fetch::respond(shard, request, call.version).await;
            encode_with(call, &offset_fetch::known(response, call.version, &topics), |response| {
                newer::offset_fetch_response(response, |name| topics.id_of(name))
            })
        }
        api_table::OFFSET_DELETE => {
            encode(call, &offset_delete::respond(shard, decode(call, body).await?).await)
        }
        api_table::DELETE_GROUPS => {
            let response = delete_groups::respond(shard, decode(call, body).await?).await;
            encode_with(call, &response, |response| {
                newer::delete_groups_response(response, delete_groups::message)
            })
        }
        api_table::LIST_GROUPS => {
            encode(call, &list_groups::respond(shard, decode(call, body).await?, call.version).await)
        }
        api_table::DESCRIBE_GROUPS => encode(
            call,
            &describe_groups::respond(
                shard,
                decode_reduced(call, body, describe_groups::reduce).await?,
                call.version,
            )
            .await,
        ),
        api_table::CONSUMER_GROUP_HEARTBEAT => {
            encode(call, &consumer_group_heartbeat::respond(shard, client, decode(call, body).await?).await)
        }
        _ => {
            let request = decode_reduced(call, body, consumer_group_describe::reduce).await?;
            encode(call, &consumer_group_describe::respond(shard, request, call.version).await)
        }
    })
}

/// Does something with the coordinator of `group`, on its core.
pub(in crate::api) async fn on_coordinator<R: Send + 'static>(
    shard: &Rc<Shard>,
    group: &str,
    work: impl FnOnce(Rc<GroupPartition>, Rc<Shard>) -> LocalFuture<R> + Send + 'static,
) -> Result<R, GroupError> {
    // (A request may name any number of groups.)
    rt::yield_if_needed().await;
    let home = home_of(shard, InternalTopic::ConsumerOffsets, group).await;
    let home = home.map_err(|_| GroupError::NotAvailable)?;
    let answer = shard.mesh.call(home.core, move |owner| {
        Box::pin(async move {
            match groups::open(&owner, home) {
                Ok(partition) => Ok(work(partition, owner).await),
                Err(error) => Err(error),
            }
        })
    });
    answer.await.unwrap_or(Err(GroupError::NotAvailable))
}

/// Kafka's code for a refusal.
pub(in crate::api) fn code(error: GroupError) -> i16 {
    let error = match error {
        GroupError::Loading => ResponseError::CoordinatorLoadInProgress,
        GroupError::NotAvailable | GroupError::Storage => ResponseError::CoordinatorNotAvailable,
        GroupError::NotCoordinator => ResponseError::NotCoordinator,
        GroupError::InvalidGroupId => ResponseError::InvalidGroupId,
        GroupError::GroupNotFound => ResponseError::GroupIdNotFound,
        GroupError::NonEmpty => ResponseError::NonEmptyGroup,
        GroupError::Subscribed => ResponseError::GroupSubscribedToTopic,
        GroupError::UnknownMember => ResponseError::UnknownMemberId,
        GroupError::MemberIdRequired => ResponseError::MemberIdRequired,
        GroupError::FencedInstance => ResponseError::FencedInstanceId,
        GroupError::UnreleasedInstance => ResponseError::UnreleasedInstanceId,
        GroupError::IllegalGeneration => ResponseError::IllegalGeneration,
        GroupError::InconsistentProtocol => ResponseError::InconsistentGroupProtocol,
        GroupError::InvalidSessionTimeout => ResponseError::InvalidSessionTimeout,
        GroupError::RebalanceInProgress => ResponseError::RebalanceInProgress,
        GroupError::GroupFull => ResponseError::GroupMaxSizeReached,
        GroupError::MetadataTooLarge => ResponseError::OffsetMetadataTooLarge,
        GroupError::FencedEpoch => ResponseError::FencedMemberEpoch,
        GroupError::StaleEpoch => ResponseError::StaleMemberEpoch,
        GroupError::UnsupportedAssignor => ResponseError::UnsupportedAssignor,
        GroupError::InvalidRequest => ResponseError::InvalidRequest,
        GroupError::InvalidRegex => return INVALID_REGULAR_EXPRESSION,
        GroupError::Unstable => ResponseError::UnstableOffsetCommit,
        GroupError::UnknownPartition => ResponseError::UnknownTopicOrPartition,
        GroupError::UnknownTopicId => ResponseError::UnknownTopicId,
    };
    error.code()
}

/// Kafka's code of KIP-848's second version.
const INVALID_REGULAR_EXPRESSION: i16 = 128;

fn code_of(outcome: &Result<(), GroupError>) -> i16 {
    outcome.as_ref().map_or_else(|error| code(*error), |()| 0)
}

fn group_id(name: &str) -> GroupId {
    GroupId(text(name))
}
