//! Request schemas of the administrative APIs, for the walk in `gate.rs`.
//!
//! Owner: nobody; constant. Spec: the request schemas of Kafka 4.1. Must not: be anything but tables.

use super::api_table::*;
use super::gate::{BOOL, Element, Field, I8, I16, I32, I32_ELEMENT, Kind, UUID, all, from, within};

const ALTER_CONFIG: &[Field] = &[all(Kind::Str), all(Kind::NullableStr)];
const ALTER_CONFIGS_RESOURCE: &[Field] =
    &[all(I8), all(Kind::Str), all(Kind::Array(Element::Struct(ALTER_CONFIG)))];
const ALTER_CONFIGS_REQUEST: &[Field] =
    &[all(Kind::Array(Element::Struct(ALTER_CONFIGS_RESOURCE))), all(BOOL)];

const INCREMENTAL_CONFIG: &[Field] = &[all(Kind::Str), all(I8), all(Kind::NullableStr)];
const INCREMENTAL_RESOURCE: &[Field] =
    &[all(I8), all(Kind::Str), all(Kind::Array(Element::Struct(INCREMENTAL_CONFIG)))];
const INCREMENTAL_REQUEST: &[Field] = &[all(Kind::Array(Element::Struct(INCREMENTAL_RESOURCE))), all(BOOL)];

const TOPIC_WITH_PARTITIONS: &[Field] = &[all(Kind::Str), all(Kind::Array(I32_ELEMENT))];

const LOG_DIR: &[Field] = &[all(Kind::Str), all(Kind::Array(Element::Struct(TOPIC_WITH_PARTITIONS)))];
const ALTER_REPLICA_LOG_DIRS_REQUEST: &[Field] = &[all(Kind::Array(Element::Struct(LOG_DIR)))];

const ELECT_LEADERS_REQUEST: &[Field] =
    &[from(1, I8), all(Kind::NullableArray(Element::Struct(TOPIC_WITH_PARTITIONS))), all(I32)];

const REASSIGNABLE_PARTITION: &[Field] = &[all(I32), all(Kind::NullableArray(I32_ELEMENT))];
const REASSIGNABLE_TOPIC: &[Field] =
    &[all(Kind::Str), all(Kind::Array(Element::Struct(REASSIGNABLE_PARTITION)))];
const ALTER_REASSIGNMENTS_REQUEST: &[Field] =
    &[all(I32), from(1, BOOL), all(Kind::Array(Element::Struct(REASSIGNABLE_TOPIC)))];
const LIST_REASSIGNMENTS_REQUEST: &[Field] =
    &[all(I32), all(Kind::NullableArray(Element::Struct(TOPIC_WITH_PARTITIONS)))];

const QUOTA_COMPONENT: &[Field] = &[all(Kind::Str), all(I8), all(Kind::NullableStr)];
const DESCRIBE_QUOTAS_REQUEST: &[Field] = &[all(Kind::Array(Element::Struct(QUOTA_COMPONENT))), all(BOOL)];
const QUOTA_ENTITY: &[Field] = &[all(Kind::Str), all(Kind::NullableStr)];
const QUOTA_OPERATION: &[Field] = &[all(Kind::Str), all(Kind::Fixed(8)), all(BOOL)];
const QUOTA_ENTRY: &[Field] =
    &[all(Kind::Array(Element::Struct(QUOTA_ENTITY))), all(Kind::Array(Element::Struct(QUOTA_OPERATION)))];
const ALTER_QUOTAS_REQUEST: &[Field] = &[all(Kind::Array(Element::Struct(QUOTA_ENTRY))), all(BOOL)];

const QUORUM_PARTITION: &[Field] = &[all(I32)];
const QUORUM_TOPIC: &[Field] = &[all(Kind::Str), all(Kind::Array(Element::Struct(QUORUM_PARTITION)))];
const DESCRIBE_QUORUM_REQUEST: &[Field] = &[all(Kind::Array(Element::Struct(QUORUM_TOPIC)))];

const FEATURE_UPDATE: &[Field] = &[all(Kind::Str), all(I16), within(0, 0, BOOL), from(1, I8)];
const UPDATE_FEATURES_REQUEST: &[Field] =
    &[all(I32), all(Kind::Array(Element::Struct(FEATURE_UPDATE))), from(1, BOOL)];

const TELEMETRY_SUBSCRIPTIONS_REQUEST: &[Field] = &[all(UUID)];
// The metrics are compact bytes, which are encoded as a compact string is.
const PUSH_TELEMETRY_REQUEST: &[Field] = &[all(UUID), all(I32), all(BOOL), all(I8), all(Kind::Str)];

const LIST_CONFIG_RESOURCES_REQUEST: &[Field] = &[from(1, Kind::Array(Element::Fixed(1)))];

/// The schema of an administrative API.
pub(super) fn schema(api_key: i16) -> Option<&'static [Field]> {
    Some(match api_key {
        ALTER_CONFIGS => ALTER_CONFIGS_REQUEST,
        ALTER_REPLICA_LOG_DIRS => ALTER_REPLICA_LOG_DIRS_REQUEST,
        ELECT_LEADERS => ELECT_LEADERS_REQUEST,
        INCREMENTAL_ALTER_CONFIGS => INCREMENTAL_REQUEST,
        ALTER_PARTITION_REASSIGNMENTS => ALTER_REASSIGNMENTS_REQUEST,
        LIST_PARTITION_REASSIGNMENTS => LIST_REASSIGNMENTS_REQUEST,
        DESCRIBE_CLIENT_QUOTAS => DESCRIBE_QUOTAS_REQUEST,
        ALTER_CLIENT_QUOTAS => ALTER_QUOTAS_REQUEST,
        DESCRIBE_QUORUM => DESCRIBE_QUORUM_REQUEST,
        UPDATE_FEATURES => UPDATE_FEATURES_REQUEST,
        GET_TELEMETRY_SUBSCRIPTIONS => TELEMETRY_SUBSCRIPTIONS_REQUEST,
        PUSH_TELEMETRY => PUSH_TELEMETRY_REQUEST,
        LIST_CONFIG_RESOURCES => LIST_CONFIG_RESOURCES_REQUEST,
        _ => return None,
    })
}
