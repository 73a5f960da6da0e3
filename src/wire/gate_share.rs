//! Schemas of the share-group requests that `kafka-protocol` decodes, for the gate.
//!
//! Owner: nobody; constant. Spec: the request schemas of Kafka 4.2 (KIP-932). Invariants: see `gate`.
//! Must not: hold the schema of an API that is not served, or of one that `share` decodes by hand.

use super::api_table::*;
use super::gate::{BOOL, Element, Field, I32, I32_ELEMENT, I64, Kind, all};

const HEARTBEAT_REQUEST: &[Field] = &[
    all(Kind::Str),
    all(Kind::Str),
    all(I32),
    all(Kind::NullableStr),
    all(Kind::NullableArray(Element::Str)),
];
const DESCRIBE_REQUEST: &[Field] = &[all(Kind::Array(Element::Str)), all(BOOL)];

const OFFSETS_TOPIC: &[Field] = &[all(Kind::Str), all(Kind::Array(I32_ELEMENT))];
const OFFSETS_GROUP: &[Field] = &[all(Kind::Str), all(Kind::NullableArray(Element::Struct(OFFSETS_TOPIC)))];
const OFFSETS_REQUEST: &[Field] = &[all(Kind::Array(Element::Struct(OFFSETS_GROUP)))];

const ALTER_PARTITION: &[Field] = &[all(I32), all(I64)];
const ALTER_TOPIC: &[Field] = &[all(Kind::Str), all(Kind::Array(Element::Struct(ALTER_PARTITION)))];
const ALTER_REQUEST: &[Field] = &[all(Kind::Str), all(Kind::Array(Element::Struct(ALTER_TOPIC)))];

const DELETE_TOPIC: &[Field] = &[all(Kind::Str)];
const DELETE_REQUEST: &[Field] = &[all(Kind::Str), all(Kind::Array(Element::Struct(DELETE_TOPIC)))];

pub(super) fn schema(api_key: i16) -> Option<&'static [Field]> {
    Some(match api_key {
        SHARE_GROUP_HEARTBEAT => HEARTBEAT_REQUEST,
        SHARE_GROUP_DESCRIBE => DESCRIBE_REQUEST,
        DESCRIBE_SHARE_GROUP_OFFSETS => OFFSETS_REQUEST,
        ALTER_SHARE_GROUP_OFFSETS => ALTER_REQUEST,
        DELETE_SHARE_GROUP_OFFSETS => DELETE_REQUEST,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::alter_share_group_offsets_request::*;
    use kafka_protocol::messages::delete_share_group_offsets_request::*;
    use kafka_protocol::messages::describe_share_group_offsets_request::*;

    use super::super::gate::{DECODED_TO_WIRE_RATIO_MAX, element_size_min};
    use super::*;

    #[test]
    fn decoded_elements_are_at_most_the_promised_ratio_larger() {
        let cases = [
            (OFFSETS_TOPIC, size_of::<DescribeShareGroupOffsetsRequestTopic>()),
            (OFFSETS_GROUP, size_of::<DescribeShareGroupOffsetsRequestGroup>()),
            (ALTER_PARTITION, size_of::<AlterShareGroupOffsetsRequestPartition>()),
            (ALTER_TOPIC, size_of::<AlterShareGroupOffsetsRequestTopic>()),
            (DELETE_TOPIC, size_of::<DeleteShareGroupOffsetsRequestTopic>()),
        ];
        for (fields, decoded_bytes) in cases {
            let wire_bytes = element_size_min(Element::Struct(fields), 1, true);
            assert!(decoded_bytes <= DECODED_TO_WIRE_RATIO_MAX * wire_bytes, "{decoded_bytes}, {wire_bytes}");
        }
    }
}
