//! The metadata and assignments that consumers exchange inside the classic protocol, as far as a broker looks at
//! them: topics a group is subscribed to, and the translation between classic and KIP-848 members.
//!
//! Owner: nobody; pure. Spec: ConsumerProtocolSubscription and ConsumerProtocolAssignment of Apache Kafka.
//! Invariants: bytes come from clients and may be anything. It must not be asked about groups of other types.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::wire::{Reader, Writer};

/// What a consumer says when it joins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerSubscription {
    /// Topics by name.
    pub topics: Vec<String>,
    /// Partitions it owns (version 1 on).
    pub owned: BTreeMap<String, BTreeSet<i32>>,
    /// The generation in which it got them, or -1 (version 2 on).
    pub generation: i32,
    /// Where it stands (version 3 on).
    pub rack_id: Option<String>,
}

/// Reads a subscription; `None` for bytes that are none.
pub fn decode_subscription(bytes: &[u8]) -> Option<ConsumerSubscription> {
    let mut input = Reader::new(bytes);
    let version = input.i16().ok().filter(|version| *version >= 0)?;
    let mut found = ConsumerSubscription { generation: -1, ..ConsumerSubscription::default() };
    for _ in 0..input.array_len(false, 2).ok()? {
        found.topics.push(input.string(false).ok()?.to_owned());
    }
    input.nullable_bytes(false).ok()?;
    if version >= 1 {
        found.owned = read_partitions(&mut input)?;
    }
    if version >= 2 {
        found.generation = input.i32().ok()?;
    }
    if version >= 3 {
        found.rack_id = input.nullable_string(false).ok()?.map(str::to_owned);
    }
    Some(found)
}

fn read_partitions(input: &mut Reader<'_>) -> Option<BTreeMap<String, BTreeSet<i32>>> {
    let mut partitions: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
    for _ in 0..input.array_len(false, 6).ok()? {
        let topic = input.string(false).ok()?.to_owned();
        let indexes = partitions.entry(topic).or_default();
        for _ in 0..input.array_len(false, 4).ok()? {
            indexes.insert(input.i32().ok()?);
        }
    }
    Some(partitions)
}

/// Topics of a subscription.
pub fn subscribed_topics(bytes: &[u8]) -> Option<Vec<String>> {
    decode_subscription(bytes).map(|found| found.topics)
}

/// Reads an assignment.
pub fn decode_assignment(bytes: &[u8]) -> Option<BTreeMap<String, BTreeSet<i32>>> {
    let mut input = Reader::new(bytes);
    input.i16().ok().filter(|version| *version >= 0)?;
    read_partitions(&mut input)
}

/// An assignment for a classic consumer, in the version of its subscription (they have the same ones).
pub fn encode_assignment(version: i16, assigned: &BTreeMap<String, BTreeSet<i32>>) -> Bytes {
    let mut bytes = Vec::new();
    let mut out = Writer::new(&mut bytes);
    out.i16(version.clamp(0, 3));
    out.len(false, Some(assigned.len()));
    for (topic, indexes) in assigned {
        out.string(false, topic);
        out.len(false, Some(indexes.len()));
        indexes.iter().for_each(|index| out.i32(*index));
    }
    out.len(false, None);
    bytes.into()
}

/// The version in front of a subscription or an assignment.
pub fn version_of(bytes: &[u8]) -> i16 {
    Reader::new(bytes).i16().unwrap_or(0)
}

/// A subscription as a KIP-848 member would have sent it with the classic protocol.
pub fn encode_subscription(subscription: &ConsumerSubscription) -> Bytes {
    let mut bytes = Vec::new();
    let mut out = Writer::new(&mut bytes);
    out.i16(3);
    out.len(false, Some(subscription.topics.len()));
    subscription.topics.iter().for_each(|topic| out.string(false, topic));
    out.len(false, None);
    out.len(false, Some(subscription.owned.len()));
    for (topic, indexes) in &subscription.owned {
        out.string(false, topic);
        out.len(false, Some(indexes.len()));
        indexes.iter().for_each(|index| out.i32(*index));
    }
    out.i32(subscription.generation);
    out.nullable_string(false, subscription.rack_id.as_deref());
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_and_assignments_round_trip_and_rubbish_is_none() {
        let owned: BTreeMap<String, BTreeSet<i32>> = [("b".to_owned(), [1, 2].into())].into();
        let subscription = ConsumerSubscription {
            topics: vec!["a".to_owned(), "b".to_owned()],
            owned: owned.clone(),
            generation: 4,
            rack_id: Some("r".to_owned()),
        };
        let bytes = encode_subscription(&subscription);
        assert_eq!(decode_subscription(&bytes), Some(subscription));
        assert!((0..bytes.len()).all(|cut| decode_subscription(&bytes[..cut]).is_none()));
        let bytes = encode_assignment(1, &owned);
        assert_eq!((decode_assignment(&bytes), version_of(&bytes)), (Some(owned), 1));
        // Version 0, as old clients send it.
        let old = [&[0, 0, 0, 0, 0, 1, 0, 1, b't'][..], &[0xff; 4]].concat();
        assert_eq!(subscribed_topics(&old), Some(vec!["t".to_owned()]));
        assert_eq!(subscribed_topics(&[0xff; 9]), None);
        assert_eq!(subscribed_topics(b"sub"), None);
    }
}
