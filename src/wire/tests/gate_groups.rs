//! Rich requests of the consumer-group APIs, for the tests of the gate.

use bytes::Bytes;
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::*;
use kafka_protocol::messages::offset_delete_request::*;
use kafka_protocol::messages::offset_fetch_request::*;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::*;

use super::{ID, encoded, name, text};
use crate::wire::api_table::*;

fn group() -> GroupId {
    GroupId(text("group"))
}

fn join(version: i16) -> Vec<u8> {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(Bytes::from_static(b"metadata"));
    let mut request = JoinGroupRequest::default()
        .with_group_id(group())
        .with_session_timeout_ms(9)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol.clone(), protocol]);
    if version >= 5 {
        request.group_instance_id = Some(text("instance"));
    }
    if version >= 8 {
        request.reason = Some(text("why"));
    }
    encoded(request, version)
}

fn sync(version: i16) -> Vec<u8> {
    let assignment = SyncGroupRequestAssignment::default()
        .with_member_id(text("m"))
        .with_assignment(Bytes::from_static(b"assigned"));
    let mut request = SyncGroupRequest::default()
        .with_group_id(group())
        .with_member_id(text("m"))
        .with_assignments(vec![assignment; 2]);
    if version >= 5 {
        request.protocol_type = Some(text("consumer"));
        request.protocol_name = Some(text("range"));
    }
    encoded(request, version)
}

fn leave(version: i16) -> Vec<u8> {
    let mut request = LeaveGroupRequest::default().with_group_id(group());
    if version >= 3 {
        let member =
            MemberIdentity::default().with_member_id(text("m")).with_group_instance_id(Some(text("i")));
        request.members = vec![member.clone(), member.with_group_instance_id(None)];
    } else {
        request.member_id = text("m");
    }
    encoded(request, version)
}

fn commit(version: i16) -> Vec<u8> {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(1)
        .with_committed_offset(5)
        .with_committed_metadata(Some(text("me")));
    let bare = partition.clone().with_committed_metadata(None);
    let topic =
        OffsetCommitRequestTopic::default().with_name(name("topic")).with_partitions(vec![partition, bare]);
    let request = OffsetCommitRequest::default()
        .with_group_id(group())
        .with_member_id(text("m"))
        .with_topics(vec![topic]);
    encoded(request, version)
}

fn fetch(version: i16) -> Vec<u8> {
    if version >= 8 {
        let topic =
            OffsetFetchRequestTopics::default().with_name(name("topic")).with_partition_indexes(vec![1, 2]);
        let asked = OffsetFetchRequestGroup::default().with_group_id(group());
        let all = asked.clone().with_topics(None);
        let some = asked.with_topics(Some(vec![topic]));
        let request = OffsetFetchRequest::default().with_groups(vec![all, some]).with_require_stable(true);
        return encoded(request, version);
    }
    let topic =
        OffsetFetchRequestTopic::default().with_name(name("topic")).with_partition_indexes(vec![1, 2]);
    encoded(OffsetFetchRequest::default().with_group_id(group()).with_topics(Some(vec![topic])), version)
}

fn heartbeat(version: i16) -> Vec<u8> {
    let owned = TopicPartitions::default().with_topic_id(ID).with_partitions(vec![0, 1]);
    let mut request = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(group())
        .with_member_id(text("m"))
        .with_instance_id(Some(text("i")))
        .with_subscribed_topic_names(Some(vec![name("topic"), name("b")]))
        .with_server_assignor(Some(text("uniform")))
        .with_topic_partitions(Some(vec![owned]));
    if version >= 1 {
        request.subscribed_topic_regex = Some(text("a.*"));
    }
    encoded(request, version)
}

fn offset_delete(version: i16) -> Vec<u8> {
    let topic = OffsetDeleteRequestTopic::default()
        .with_name(name("topic"))
        .with_partitions(vec![OffsetDeleteRequestPartition::default(); 2]);
    encoded(OffsetDeleteRequest::default().with_group_id(group()).with_topics(vec![topic]), version)
}

fn list(version: i16) -> Vec<u8> {
    let mut request = ListGroupsRequest::default();
    if version >= 4 {
        request.states_filter = vec![text("Stable"), text("Empty")];
    }
    if version >= 5 {
        request.types_filter = vec![text("classic")];
    }
    encoded(request, version)
}

pub(super) fn serves(key: i16) -> bool {
    const KEYS: &[i16] = &[
        OFFSET_COMMIT,
        OFFSET_FETCH,
        JOIN_GROUP,
        HEARTBEAT,
        LEAVE_GROUP,
        SYNC_GROUP,
        DESCRIBE_GROUPS,
        LIST_GROUPS,
        DELETE_GROUPS,
        OFFSET_DELETE,
        CONSUMER_GROUP_HEARTBEAT,
        CONSUMER_GROUP_DESCRIBE,
    ];
    KEYS.contains(&key)
}

pub(super) fn body(key: i16, version: i16) -> Vec<u8> {
    let groups = || vec![group(), GroupId(text("b"))];
    match key {
        OFFSET_COMMIT => commit(version),
        OFFSET_FETCH => fetch(version),
        JOIN_GROUP => join(version),
        LEAVE_GROUP => leave(version),
        SYNC_GROUP => sync(version),
        LIST_GROUPS => list(version),
        OFFSET_DELETE => offset_delete(version),
        CONSUMER_GROUP_HEARTBEAT => heartbeat(version),
        HEARTBEAT => {
            encoded(HeartbeatRequest::default().with_group_id(group()).with_member_id(text("m")), version)
        }
        DESCRIBE_GROUPS => encoded(DescribeGroupsRequest::default().with_groups(groups()), version),
        DELETE_GROUPS => encoded(DeleteGroupsRequest::default().with_groups_names(groups()), version),
        CONSUMER_GROUP_DESCRIBE => {
            encoded(ConsumerGroupDescribeRequest::default().with_group_ids(groups()), version)
        }
        other => panic!("api {other} is no group API"),
    }
}
