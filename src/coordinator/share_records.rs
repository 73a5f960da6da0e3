//! The records of share groups in Kafka's own formats: values of `__consumer_offsets` (keys 10 to 15, see `records`)
//! and of `__share_group_state`.
//!
//! Owner: nobody; pure. Spec: the message definitions of Apache Kafka's group and share coordinators (KIP-932,
//! KIP-1226). Invariants: every state that is written is a snapshot, complete in itself, so that compaction may take
//! all but the newest; what does not fit the format is an error, never a guess.
//! It must not decide what a record means.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::records::{Partitions, read_partitions, write_partitions};
use super::share_window::{Image, RecordState, StateBatch};
use crate::wire::{Reader, WireError, Writer};

/// Key version of a snapshot in `__share_group_state`.
const SNAPSHOT_KEY: i16 = 0;

/// Which share partition a state belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateKey {
    /// The group.
    pub group: String,
    /// The topic.
    pub topic_id: Uuid,
    /// The partition.
    pub partition: i32,
}

impl StateKey {
    /// The key of its record.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut out = Writer::new(&mut bytes);
        out.i16(SNAPSHOT_KEY);
        out.string(false, &self.group);
        out.uuid(self.topic_id);
        out.i32(self.partition);
        bytes
    }

    /// Reads a key; `None` for one of another kind.
    pub fn decode(bytes: &[u8]) -> Result<Option<StateKey>, WireError> {
        let mut input = Reader::new(bytes);
        if input.i16()? != SNAPSHOT_KEY {
            return Ok(None);
        }
        let key = StateKey {
            group: input.string(false)?.to_owned(),
            topic_id: input.uuid()?,
            partition: input.i32()?,
        };
        Ok(Some(key))
    }
}

/// What is remembered of a share partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShareState {
    /// Counts the snapshots.
    pub snapshot_epoch: i32,
    /// Counts how often the offsets were set from outside.
    pub state_epoch: i32,
    /// Leader epoch of the data partition.
    pub leader_epoch: i32,
    /// When the state was made, milliseconds since 1970.
    pub created_ms: i64,
    /// When this snapshot was written.
    pub written_ms: i64,
    /// The window.
    pub image: Image,
}

impl ShareState {
    /// The value of its record: version 0.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(48 + self.image.batches.len() * 20);
        let mut out = Writer::new(&mut bytes);
        out.i16(0);
        out.i32(self.snapshot_epoch);
        out.i32(self.state_epoch);
        out.i32(self.leader_epoch);
        out.i64(self.image.start);
        out.i64(self.created_ms);
        out.i64(self.written_ms);
        out.len(true, Some(self.image.batches.len()));
        for batch in &self.image.batches {
            out.i64(batch.first);
            out.i64(batch.last);
            out.i8(batch.state as i8);
            out.i16(batch.deliveries);
            out.no_tagged_fields(true);
        }
        // One tagged field, number 0: how many deliveries are complete.
        out.unsigned_varint(1);
        out.unsigned_varint(0);
        out.unsigned_varint(4);
        out.i32(i32::try_from(self.image.complete_count()).unwrap_or(i32::MAX));
        bytes
    }

    /// Reads a value.
    pub fn decode(bytes: &[u8]) -> Result<ShareState, WireError> {
        let mut input = Reader::new(bytes);
        input.i16()?;
        let mut state = ShareState {
            snapshot_epoch: input.i32()?,
            state_epoch: input.i32()?,
            leader_epoch: input.i32()?,
            ..ShareState::default()
        };
        state.image.start = input.i64()?;
        state.created_ms = input.i64()?;
        state.written_ms = input.i64()?;
        for _ in 0..input.array_len(true, 8 + 8 + 1 + 2 + 1)? {
            let (first, last) = (input.i64()?, input.i64()?);
            let state_code = RecordState::from_code(input.i8()?).unwrap_or(RecordState::Available);
            let deliveries = input.i16()?;
            input.skip_tagged_fields(true)?;
            state.image.batches.push(StateBatch { first, last, state: state_code, deliveries });
        }
        input.skip_tagged_fields(true)?;
        Ok(state)
    }
}

/// What a member of a share group said about itself (key 10).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShareSubscription {
    /// Where it stands.
    pub rack_id: Option<String>,
    /// Client id.
    pub client_id: String,
    /// Where it connected from.
    pub client_host: String,
    /// Topics by name, sorted.
    pub topics: Vec<String>,
}

impl ShareSubscription {
    /// The value: version 0.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut out = Writer::new(&mut bytes);
        out.i16(0);
        out.nullable_string(true, self.rack_id.as_deref());
        out.string(true, &self.client_id);
        out.string(true, &self.client_host);
        out.len(true, Some(self.topics.len()));
        self.topics.iter().for_each(|topic| out.string(true, topic));
        out.no_tagged_fields(true);
        bytes
    }

    /// Reads the value.
    pub fn decode(bytes: &[u8]) -> Result<ShareSubscription, WireError> {
        let mut input = Reader::new(bytes);
        input.i16()?;
        let mut found = ShareSubscription {
            rack_id: input.nullable_string(true)?.map(str::to_owned),
            client_id: input.string(true)?.to_owned(),
            client_host: input.string(true)?.to_owned(),
            topics: Vec::new(),
        };
        for _ in 0..input.array_len(true, 1)? {
            found.topics.push(input.string(true)?.to_owned());
        }
        Ok(found)
    }
}

/// The value of a share group's own record (key 11): its epoch; the hash of the topics' metadata is not used.
pub fn encode_group(epoch: i32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut out = Writer::new(&mut bytes);
    out.i16(0);
    out.i32(epoch);
    out.i64(0);
    out.no_tagged_fields(true);
    bytes
}

/// What a member of a share group has (key 14).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShareCurrent {
    /// The epoch it is in.
    pub epoch: i32,
    /// The epoch before.
    pub previous_epoch: i32,
    /// Its partitions.
    pub assigned: Partitions,
}

impl ShareCurrent {
    /// The value: version 0.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut out = Writer::new(&mut bytes);
        out.i16(0);
        out.i32(self.epoch);
        out.i32(self.previous_epoch);
        out.i8(0);
        write_partitions(&mut out, &self.assigned);
        out.no_tagged_fields(true);
        bytes
    }

    /// Reads the value.
    pub fn decode(bytes: &[u8]) -> Result<ShareCurrent, WireError> {
        let mut input = Reader::new(bytes);
        input.i16()?;
        let (epoch, previous_epoch) = (input.i32()?, input.i32()?);
        input.i8()?;
        Ok(ShareCurrent { epoch, previous_epoch, assigned: read_partitions(&mut input)? })
    }
}

/// Topics that a share group reads or has read: their names and partitions, by id (key 15).
pub type KnownTopics = BTreeMap<Uuid, (String, BTreeSet<i32>)>;

/// The value of key 15, version 0: all topics as initialised ones.
pub fn encode_known(topics: &KnownTopics) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut out = Writer::new(&mut bytes);
    out.i16(0);
    out.len(true, Some(0));
    out.len(true, Some(topics.len()));
    for (id, (name, indexes)) in topics {
        out.uuid(*id);
        out.string(true, name);
        out.len(true, Some(indexes.len()));
        indexes.iter().for_each(|index| out.i32(*index));
        out.no_tagged_fields(true);
    }
    out.len(true, Some(0));
    out.no_tagged_fields(true);
    bytes
}

/// Reads key 15's value; topics that are being initialised count as initialised.
pub fn decode_known(bytes: &[u8]) -> Result<KnownTopics, WireError> {
    let mut input = Reader::new(bytes);
    input.i16()?;
    let mut topics = KnownTopics::new();
    for _ in 0..2 {
        for _ in 0..input.array_len(true, 16 + 1 + 1 + 1)? {
            let id = input.uuid()?;
            let name = input.string(true)?.to_owned();
            let known = topics.entry(id).or_insert_with(|| (name, BTreeSet::new()));
            for _ in 0..input.array_len(true, 4)? {
                known.1.insert(input.i32()?);
            }
            input.skip_tagged_fields(true)?;
        }
    }
    Ok(topics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_round_trip_and_lie_as_kafka_lays_them() {
        let key = StateKey { group: "g".to_owned(), topic_id: Uuid::from_u128(7), partition: 3 };
        let bytes = key.encode();
        assert_eq!(&bytes[..5], [0, 0, 0, 1, b'g']);
        assert_eq!(StateKey::decode(&bytes), Ok(Some(key)));
        assert_eq!(StateKey::decode(&[0, 1]), Ok(None));
        let batch = |first, last, state, deliveries| StateBatch { first, last, state, deliveries };
        let batches = vec![
            batch(10, 12, RecordState::Available, 2),
            batch(13, 20, RecordState::Acknowledged, 1),
            batch(21, 21, RecordState::Archived, 5),
        ];
        let state = ShareState {
            snapshot_epoch: 1,
            state_epoch: 2,
            leader_epoch: 3,
            created_ms: 4,
            written_ms: 5,
            image: Image { start: 10, batches },
        };
        let bytes = state.encode();
        assert_eq!(ShareState::decode(&bytes), Ok(state.clone()));
        assert!((2..bytes.len()).all(|cut| ShareState::decode(&bytes[..cut]).is_err()));
        assert_eq!(state.image.complete_count(), 9);
        // Tag 0 with four bytes stands last.
        assert_eq!(bytes[bytes.len() - 7..], [1, 0, 4, 0, 0, 0, 9]);
    }

    #[test]
    fn group_records_round_trip() {
        let subscription = ShareSubscription {
            rack_id: Some("r".to_owned()),
            client_id: "c".to_owned(),
            client_host: "/h".to_owned(),
            topics: vec!["a".to_owned(), "b".to_owned()],
        };
        assert_eq!(ShareSubscription::decode(&subscription.encode()), Ok(subscription));
        let assigned: Partitions = [(Uuid::from_u128(1), [0, 2].into())].into();
        let current = ShareCurrent { epoch: 4, previous_epoch: 3, assigned };
        assert_eq!(ShareCurrent::decode(&current.encode()), Ok(current));
        let known: KnownTopics = [(Uuid::from_u128(9), ("t".to_owned(), [0, 1].into()))].into();
        assert_eq!(decode_known(&encode_known(&known)), Ok(known));
        assert_eq!(super::super::records::decode_epoch(&encode_group(6)), Ok(6));
    }
}
