//! Rich requests of the share-group APIs, for the tests of the gate.

use kafka_protocol::messages::alter_share_group_offsets_request::*;
use kafka_protocol::messages::delete_share_group_offsets_request::*;
use kafka_protocol::messages::describe_share_group_offsets_request::*;
use kafka_protocol::messages::*;

use super::{encoded, name, text};
use crate::wire::api_table::*;

fn group() -> GroupId {
    GroupId(text("group"))
}

pub(super) fn serves(key: i16) -> bool {
    const KEYS: &[i16] = &[
        SHARE_GROUP_HEARTBEAT,
        SHARE_GROUP_DESCRIBE,
        DESCRIBE_SHARE_GROUP_OFFSETS,
        ALTER_SHARE_GROUP_OFFSETS,
        DELETE_SHARE_GROUP_OFFSETS,
    ];
    KEYS.contains(&key)
}

pub(super) fn body(key: i16, version: i16) -> Vec<u8> {
    match key {
        SHARE_GROUP_HEARTBEAT => {
            let request = ShareGroupHeartbeatRequest::default()
                .with_group_id(group())
                .with_member_id(text("m"))
                .with_member_epoch(3)
                .with_rack_id(Some(text("r")))
                .with_subscribed_topic_names(Some(vec![name("a"), name("bc")]));
            encoded(request, version)
        }
        SHARE_GROUP_DESCRIBE => {
            let groups = vec![group(), GroupId(text("b"))];
            encoded(ShareGroupDescribeRequest::default().with_group_ids(groups), version)
        }
        DESCRIBE_SHARE_GROUP_OFFSETS => {
            let topic = DescribeShareGroupOffsetsRequestTopic::default()
                .with_topic_name(name("topic"))
                .with_partitions(vec![1, 2]);
            let asked = DescribeShareGroupOffsetsRequestGroup::default().with_group_id(group());
            let groups = vec![asked.clone().with_topics(None), asked.with_topics(Some(vec![topic]))];
            // The request is the same in version 1, which the other side does not know.
            encoded(DescribeShareGroupOffsetsRequest::default().with_groups(groups), 0)
        }
        ALTER_SHARE_GROUP_OFFSETS => {
            let partition = AlterShareGroupOffsetsRequestPartition::default().with_start_offset(5);
            let topic = AlterShareGroupOffsetsRequestTopic::default()
                .with_topic_name(name("topic"))
                .with_partitions(vec![partition; 2]);
            let request = AlterShareGroupOffsetsRequest::default().with_group_id(group());
            encoded(request.with_topics(vec![topic]), version)
        }
        DELETE_SHARE_GROUP_OFFSETS => {
            let topic = DeleteShareGroupOffsetsRequestTopic::default().with_topic_name(name("topic"));
            let request = DeleteShareGroupOffsetsRequest::default().with_group_id(group());
            encoded(request.with_topics(vec![topic.clone(), topic]), version)
        }
        other => panic!("api {other} is no share-group API"),
    }
}
