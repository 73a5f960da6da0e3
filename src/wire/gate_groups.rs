//! Schemas of the consumer-group requests, for the gate.
//!
//! Owner: nobody; constant. Spec: the request schemas of Kafka 4.4. Invariants: see `gate`.
//! Must not: hold the schema of an API that is not served.

use super::api_table::*;
use super::gate::{BOOL, Element, Field, I32, I32_ELEMENT, I64, Kind, UUID, all, from, within};

const JOIN_GROUP_PROTOCOL: &[Field] = &[all(Kind::Str), all(Kind::Bytes)];
const JOIN_GROUP_REQUEST: &[Field] = &[
    all(Kind::Str),
    all(I32),
    from(1, I32),
    all(Kind::Str),
    from(5, Kind::NullableStr),
    all(Kind::Str),
    all(Kind::Array(Element::Struct(JOIN_GROUP_PROTOCOL))),
    from(8, Kind::NullableStr),
];

const SYNC_GROUP_ASSIGNMENT: &[Field] = &[all(Kind::Str), all(Kind::Bytes)];
const SYNC_GROUP_REQUEST: &[Field] = &[
    all(Kind::Str),
    all(I32),
    all(Kind::Str),
    from(3, Kind::NullableStr),
    from(5, Kind::NullableStr),
    from(5, Kind::NullableStr),
    all(Kind::Array(Element::Struct(SYNC_GROUP_ASSIGNMENT))),
];

const HEARTBEAT_REQUEST: &[Field] = &[all(Kind::Str), all(I32), all(Kind::Str), from(3, Kind::NullableStr)];

const LEAVE_GROUP_MEMBER: &[Field] = &[all(Kind::Str), all(Kind::NullableStr), from(5, Kind::NullableStr)];
const LEAVE_GROUP_REQUEST: &[Field] =
    &[all(Kind::Str), within(0, 2, Kind::Str), from(3, Kind::Array(Element::Struct(LEAVE_GROUP_MEMBER)))];

const OFFSET_COMMIT_PARTITION: &[Field] = &[all(I32), all(I64), from(6, I32), all(Kind::NullableStr)];
const OFFSET_COMMIT_TOPIC: &[Field] =
    &[within(0, 9, Kind::Str), from(10, UUID), all(Kind::Array(Element::Struct(OFFSET_COMMIT_PARTITION)))];
const OFFSET_COMMIT_REQUEST: &[Field] = &[
    all(Kind::Str),
    all(I32),
    all(Kind::Str),
    from(7, Kind::NullableStr),
    within(2, 4, I64),
    all(Kind::Array(Element::Struct(OFFSET_COMMIT_TOPIC))),
];

const OFFSET_FETCH_TOPIC: &[Field] =
    &[within(0, 9, Kind::Str), from(10, UUID), all(Kind::Array(I32_ELEMENT))];
const OFFSET_FETCH_GROUP: &[Field] = &[
    all(Kind::Str),
    from(9, Kind::NullableStr),
    from(9, I32),
    all(Kind::NullableArray(Element::Struct(OFFSET_FETCH_TOPIC))),
];
const OFFSET_FETCH_REQUEST: &[Field] = &[
    within(0, 7, Kind::Str),
    within(0, 1, Kind::Array(Element::Struct(OFFSET_FETCH_TOPIC))),
    within(2, 7, Kind::NullableArray(Element::Struct(OFFSET_FETCH_TOPIC))),
    from(8, Kind::Array(Element::Struct(OFFSET_FETCH_GROUP))),
    from(7, BOOL),
];

const OFFSET_DELETE_PARTITION: &[Field] = &[all(I32)];
const OFFSET_DELETE_TOPIC: &[Field] =
    &[all(Kind::Str), all(Kind::Array(Element::Struct(OFFSET_DELETE_PARTITION)))];
const OFFSET_DELETE_REQUEST: &[Field] =
    &[all(Kind::Str), all(Kind::Array(Element::Struct(OFFSET_DELETE_TOPIC)))];

const DELETE_GROUPS_REQUEST: &[Field] = &[all(Kind::Array(Element::Str))];
const LIST_GROUPS_REQUEST: &[Field] =
    &[from(4, Kind::Array(Element::Str)), from(5, Kind::Array(Element::Str))];
const DESCRIBE_GROUPS_REQUEST: &[Field] = &[all(Kind::Array(Element::Str)), from(3, BOOL)];

const CONSUMER_HEARTBEAT_TOPIC: &[Field] = &[all(UUID), all(Kind::Array(I32_ELEMENT))];
const CONSUMER_HEARTBEAT_REQUEST: &[Field] = &[
    all(Kind::Str),
    all(Kind::Str),
    all(I32),
    all(Kind::NullableStr),
    all(Kind::NullableStr),
    all(I32),
    all(Kind::NullableArray(Element::Str)),
    from(1, Kind::NullableStr),
    all(Kind::NullableStr),
    all(Kind::NullableArray(Element::Struct(CONSUMER_HEARTBEAT_TOPIC))),
];
const CONSUMER_DESCRIBE_REQUEST: &[Field] = &[all(Kind::Array(Element::Str)), all(BOOL)];

pub(super) fn schema(api_key: i16) -> Option<&'static [Field]> {
    Some(match api_key {
        OFFSET_COMMIT => OFFSET_COMMIT_REQUEST,
        OFFSET_FETCH => OFFSET_FETCH_REQUEST,
        JOIN_GROUP => JOIN_GROUP_REQUEST,
        HEARTBEAT => HEARTBEAT_REQUEST,
        LEAVE_GROUP => LEAVE_GROUP_REQUEST,
        SYNC_GROUP => SYNC_GROUP_REQUEST,
        DESCRIBE_GROUPS => DESCRIBE_GROUPS_REQUEST,
        LIST_GROUPS => LIST_GROUPS_REQUEST,
        DELETE_GROUPS => DELETE_GROUPS_REQUEST,
        OFFSET_DELETE => OFFSET_DELETE_REQUEST,
        CONSUMER_GROUP_HEARTBEAT => CONSUMER_HEARTBEAT_REQUEST,
        CONSUMER_GROUP_DESCRIBE => CONSUMER_DESCRIBE_REQUEST,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
    use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
    use kafka_protocol::messages::leave_group_request::MemberIdentity;
    use kafka_protocol::messages::offset_commit_request::*;
    use kafka_protocol::messages::offset_delete_request::*;
    use kafka_protocol::messages::offset_fetch_request::*;
    use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;

    use super::super::gate::{DECODED_TO_WIRE_RATIO_MAX, element_size_min};
    use super::*;

    #[test]
    fn decoded_elements_are_at_most_the_promised_ratio_larger() {
        let cases = [
            (JOIN_GROUP, JOIN_GROUP_PROTOCOL, size_of::<JoinGroupRequestProtocol>()),
            (SYNC_GROUP, SYNC_GROUP_ASSIGNMENT, size_of::<SyncGroupRequestAssignment>()),
            (LEAVE_GROUP, LEAVE_GROUP_MEMBER, size_of::<MemberIdentity>()),
            (OFFSET_COMMIT, OFFSET_COMMIT_PARTITION, size_of::<OffsetCommitRequestPartition>()),
            (OFFSET_COMMIT, OFFSET_COMMIT_TOPIC, size_of::<OffsetCommitRequestTopic>()),
            (OFFSET_FETCH, OFFSET_FETCH_TOPIC, size_of::<OffsetFetchRequestTopics>()),
            (OFFSET_FETCH, OFFSET_FETCH_GROUP, size_of::<OffsetFetchRequestGroup>()),
            (OFFSET_DELETE, OFFSET_DELETE_PARTITION, size_of::<OffsetDeleteRequestPartition>()),
            (OFFSET_DELETE, OFFSET_DELETE_TOPIC, size_of::<OffsetDeleteRequestTopic>()),
            (CONSUMER_GROUP_HEARTBEAT, CONSUMER_HEARTBEAT_TOPIC, size_of::<TopicPartitions>()),
        ];
        for (api_key, fields, decoded_bytes) in cases {
            let range = find(api_key).expect("listed");
            for version in range.min..=range.max {
                let flexible = is_flexible(api_key, version);
                let wire_bytes = element_size_min(Element::Struct(fields), version, flexible);
                assert!(
                    decoded_bytes <= DECODED_TO_WIRE_RATIO_MAX * wire_bytes,
                    "{} v{version}: {decoded_bytes} bytes for {wire_bytes}",
                    range.name
                );
            }
        }
    }
}
