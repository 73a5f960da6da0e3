//! What stands in `__consumer_offsets`, in Kafka's own formats: keys with a version in front, values with a version
//! of their own.
//!
//! Owner: nobody; pure. Spec: the message definitions of Apache Kafka's group coordinator (OffsetCommitKey/Value,
//! GroupMetadataKey/Value, the ConsumerGroup* ones of KIP-848, the keys of the ShareGroup* ones of KIP-932).
//! Invariants: what is written here `kafka-dump-log --offsets-decoder` reads; what is read here may come from any
//! Kafka since 0.11.
//! It must not decide what a record means for a group.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use uuid::Uuid;

use crate::wire::{Reader, WireError, Writer};

/// Partitions by topic id, as KIP-848 assignments have them.
pub type Partitions = BTreeMap<Uuid, BTreeSet<i32>>;

/// The key of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// An offset that a group committed.
    Offset {
        /// The group.
        group: &'a str,
        /// The topic's name.
        topic: &'a str,
        /// The partition.
        partition: i32,
    },
    /// A classic group.
    Group(&'a str),
    /// The epoch of a consumer group (KIP-848).
    ConsumerGroup(&'a str),
    /// A member of a consumer group and what it subscribes to.
    Member(&'a str, &'a str),
    /// The epoch of a consumer group's target assignment.
    Target(&'a str),
    /// What a member is to get.
    TargetMember(&'a str, &'a str),
    /// What a member has.
    CurrentMember(&'a str, &'a str),
    /// A member of a share group (KIP-932) and what it subscribes to.
    ShareMember(&'a str, &'a str),
    /// The epoch of a share group.
    ShareGroup(&'a str),
    /// The epoch of a share group's assignment.
    ShareTarget(&'a str),
    /// What a member of a share group is to get.
    ShareTargetMember(&'a str, &'a str),
    /// What a member of a share group has.
    ShareCurrentMember(&'a str, &'a str),
    /// The topics of which a share group keeps a state.
    ShareTopics(&'a str),
    /// Something of a version that is not known here.
    Unknown(i16),
}

impl<'a> Key<'a> {
    fn version(self) -> i16 {
        match self {
            Key::Offset { .. } => 1,
            Key::Group(_) => 2,
            Key::ConsumerGroup(_) => 3,
            Key::Member(..) => 5,
            Key::Target(_) => 6,
            Key::TargetMember(..) => 7,
            Key::CurrentMember(..) => 8,
            Key::ShareMember(..) => 10,
            Key::ShareGroup(_) => 11,
            Key::ShareTarget(_) => 12,
            Key::ShareTargetMember(..) => 13,
            Key::ShareCurrentMember(..) => 14,
            Key::ShareTopics(_) => 15,
            Key::Unknown(version) => version,
        }
    }

    /// The group it is about.
    pub fn group(self) -> Option<&'a str> {
        match self {
            Key::Offset { group, .. }
            | Key::Group(group)
            | Key::ConsumerGroup(group)
            | Key::Member(group, _)
            | Key::Target(group)
            | Key::TargetMember(group, _)
            | Key::CurrentMember(group, _)
            | Key::ShareMember(group, _)
            | Key::ShareGroup(group)
            | Key::ShareTarget(group)
            | Key::ShareTargetMember(group, _)
            | Key::ShareCurrentMember(group, _)
            | Key::ShareTopics(group) => Some(group),
            Key::Unknown(_) => None,
        }
    }

    /// The bytes.
    pub fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut out = Writer::new(&mut bytes);
        out.i16(self.version());
        match self {
            Key::Offset { group, topic, partition } => {
                out.string(false, group);
                out.string(false, topic);
                out.i32(partition);
            }
            Key::Group(group)
            | Key::ConsumerGroup(group)
            | Key::Target(group)
            | Key::ShareGroup(group)
            | Key::ShareTarget(group)
            | Key::ShareTopics(group) => out.string(false, group),
            Key::Member(group, member)
            | Key::TargetMember(group, member)
            | Key::CurrentMember(group, member)
            | Key::ShareMember(group, member)
            | Key::ShareTargetMember(group, member)
            | Key::ShareCurrentMember(group, member) => {
                out.string(false, group);
                out.string(false, member);
            }
            Key::Unknown(_) => {}
        }
        bytes
    }

    /// Reads a key.
    pub fn decode(bytes: &'a [u8]) -> Result<Key<'a>, WireError> {
        let mut input = Reader::new(bytes);
        Ok(match input.i16()? {
            0 | 1 => Key::Offset {
                group: input.string(false)?,
                topic: input.string(false)?,
                partition: input.i32()?,
            },
            2 => Key::Group(input.string(false)?),
            3 => Key::ConsumerGroup(input.string(false)?),
            5 => Key::Member(input.string(false)?, input.string(false)?),
            6 => Key::Target(input.string(false)?),
            7 => Key::TargetMember(input.string(false)?, input.string(false)?),
            8 => Key::CurrentMember(input.string(false)?, input.string(false)?),
            10 => Key::ShareMember(input.string(false)?, input.string(false)?),
            11 => Key::ShareGroup(input.string(false)?),
            12 => Key::ShareTarget(input.string(false)?),
            13 => Key::ShareTargetMember(input.string(false)?, input.string(false)?),
            14 => Key::ShareCurrentMember(input.string(false)?, input.string(false)?),
            15 => Key::ShareTopics(input.string(false)?),
            version => Key::Unknown(version),
        })
    }
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The offset of the next record to read.
    pub offset: i64,
    /// Leader epoch of the last record read, or -1.
    pub leader_epoch: i32,
    /// The client's own words.
    pub metadata: Rc<str>,
    /// When it was committed, milliseconds since 1970.
    pub commit_ms: i64,
    /// When it expires whatever the broker's retention says, or -1 (clients before 2.1 could ask for that).
    pub expire_ms: i64,
}

impl Committed {
    /// The value of the record: version 1 if the client set a time of expiry, else 3, as Kafka does.
    pub fn encode(&self) -> Vec<u8> {
        let version: i16 = if self.expire_ms >= 0 { 1 } else { 3 };
        let mut bytes = Vec::new();
        let mut out = Writer::new(&mut bytes);
        out.i16(version);
        out.i64(self.offset);
        if version >= 3 {
            out.i32(self.leader_epoch);
        }
        out.string(false, &self.metadata);
        out.i64(self.commit_ms);
        if version == 1 {
            out.i64(self.expire_ms);
        }
        bytes
    }

    /// Reads a value of any version.
    pub fn decode(bytes: &[u8]) -> Result<Committed, WireError> {
        let mut input = Reader::new(bytes);
        let version = input.i16()?;
        let flexible = version >= 4;
        Ok(Committed {
            offset: input.i64()?,
            leader_epoch: if version >= 3 { input.i32()? } else { -1 },
            metadata: input.string(flexible)?.into(),
            commit_ms: input.i64()?,
            expire_ms: if version == 1 { input.i64()? } else { -1 },
        })
    }
}

/// A classic group as its record has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupRecord {
    /// `consumer`, `connect` and so on.
    pub protocol_type: String,
    /// The generation.
    pub generation: i32,
    /// The protocol that was chosen.
    pub protocol: Option<String>,
    /// Member id of the leader.
    pub leader: Option<String>,
    /// Since when the group is in its state, milliseconds since 1970, or -1.
    pub state_ms: i64,
    /// Its members.
    pub members: Vec<MemberRecord>,
}

/// A member of a [`GroupRecord`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberRecord {
    /// Member id.
    pub member_id: String,
    /// `group.instance.id`.
    pub instance_id: Option<String>,
    /// Client id.
    pub client_id: String,
    /// Where it connected from.
    pub client_host: String,
    /// Rebalance time-out, milliseconds.
    pub rebalance_timeout_ms: i32,
    /// Session time-out, milliseconds.
    pub session_timeout_ms: i32,
    /// Its metadata for the chosen protocol.
    pub subscription: Bytes,
    /// What the leader assigned to it.
    pub assignment: Bytes,
}

impl GroupRecord {
    /// The value of the record, version 3.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut out = Writer::new(&mut bytes);
        out.i16(3);
        out.string(false, &self.protocol_type);
        out.i32(self.generation);
        out.nullable_string(false, self.protocol.as_deref());
        out.nullable_string(false, self.leader.as_deref());
        out.i64(self.state_ms);
        out.len(false, Some(self.members.len()));
        for member in &self.members {
            out.string(false, &member.member_id);
            out.nullable_string(false, member.instance_id.as_deref());
            out.string(false, &member.client_id);
            out.string(false, &member.client_host);
            out.i32(member.rebalance_timeout_ms);
            out.i32(member.session_timeout_ms);
            for bytes in [&member.subscription, &member.assignment] {
                out.len(false, Some(bytes.len()));
                out.raw(bytes);
            }
        }
        bytes
    }

    /// Reads a value of any version.
    pub fn decode(bytes: &[u8]) -> Result<GroupRecord, WireError> {
        let mut input = Reader::new(bytes);
        let version = input.i16()?;
        let flexible = version >= 4;
        let mut record = GroupRecord {
            protocol_type: input.string(flexible)?.to_owned(),
            generation: input.i32()?,
            protocol: input.nullable_string(flexible)?.map(str::to_owned),
            leader: input.nullable_string(flexible)?.map(str::to_owned),
            state_ms: if version >= 2 { input.i64()? } else { -1 },
            members: Vec::new(),
        };
        for _ in 0..input.array_len(flexible, 4)? {
            record.members.push(MemberRecord::decode(&mut input, version)?);
        }
        Ok(record)
    }
}

impl MemberRecord {
    fn decode(input: &mut Reader<'_>, version: i16) -> Result<MemberRecord, WireError> {
        let flexible = version >= 4;
        let member_id = input.string(flexible)?.to_owned();
        let instance_id =
            if version >= 3 { input.nullable_string(flexible)?.map(str::to_owned) } else { None };
        let (client_id, client_host) =
            (input.string(flexible)?.to_owned(), input.string(flexible)?.to_owned());
        let rebalance = if version >= 1 { Some(input.i32()?) } else { None };
        let session_timeout_ms = input.i32()?;
        let member = MemberRecord {
            member_id,
            instance_id,
            client_id,
            client_host,
            rebalance_timeout_ms: rebalance.unwrap_or(session_timeout_ms),
            session_timeout_ms,
            subscription: Bytes::copy_from_slice(input.bytes(flexible)?),
            assignment: Bytes::copy_from_slice(input.bytes(flexible)?),
        };
        input.skip_tagged_fields(flexible)?;
        Ok(member)
    }
}

/// The value of an epoch record (consumer group, target assignment): version 0.
pub fn encode_epoch(epoch: i32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut out = Writer::new(&mut bytes);
    out.i16(0);
    out.i32(epoch);
    out.no_tagged_fields(true);
    bytes
}

/// Reads an epoch record's value.
pub fn decode_epoch(bytes: &[u8]) -> Result<i32, WireError> {
    let mut input = Reader::new(bytes);
    input.i16()?;
    input.i32()
}

/// What a member of a consumer group said about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    /// `group.instance.id`.
    pub instance_id: Option<String>,
    /// Where it stands.
    pub rack_id: Option<String>,
    /// Client id.
    pub client_id: String,
    /// Where it connected from.
    pub client_host: String,
    /// Topics by name, sorted.
    pub topics: Vec<String>,
    /// Topics by regular expression.
    pub regex: Option<String>,
    /// How long it may take to give partitions back, milliseconds.
    pub rebalance_timeout_ms: i32,
    /// The assignor it wants.
    pub assignor: Option<String>,
    /// What a member that still speaks the classic protocol has beside that.
    pub classic: Option<ClassicSubscription>,
}

/// Session time-out and protocols of a classic member in a consumer group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassicSubscription {
    /// Session time-out, milliseconds.
    pub session_timeout_ms: i32,
    /// Protocols in the order of preference, with their metadata.
    pub protocols: Vec<(String, Bytes)>,
}

impl Subscription {
    /// The value of the record: version 0.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut out = Writer::new(&mut bytes);
        out.i16(0);
        out.nullable_string(true, self.instance_id.as_deref());
        out.nullable_string(true, self.rack_id.as_deref());
        out.string(true, &self.client_id);
        out.string(true, &self.client_host);
        out.len(true, Some(self.topics.len()));
        for topic in &self.topics {
            out.string(true, topic);
        }
        out.nullable_string(true, self.regex.as_deref());
        out.i32(self.rebalance_timeout_ms);
        out.nullable_string(true, self.assignor.as_deref());
        let Some(classic) = &self.classic else {
            out.no_tagged_fields(true);
            return bytes;
        };
        // One tagged field, number 0: a presence byte, then the struct.
        let inner = classic.encode();
        out.unsigned_varint(1);
        out.unsigned_varint(0);
        out.unsigned_varint(inner.len() as u32);
        out.raw(&inner);
        bytes
    }

    /// Reads the value.
    pub fn decode(bytes: &[u8]) -> Result<Subscription, WireError> {
        let mut input = Reader::new(bytes);
        input.i16()?;
        let mut found = Subscription {
            instance_id: input.nullable_string(true)?.map(str::to_owned),
            rack_id: input.nullable_string(true)?.map(str::to_owned),
            client_id: input.string(true)?.to_owned(),
            client_host: input.string(true)?.to_owned(),
            ..Subscription::default()
        };
        for _ in 0..input.array_len(true, 1)? {
            found.topics.push(input.string(true)?.to_owned());
        }
        found.regex = input.nullable_string(true)?.map(str::to_owned);
        found.rebalance_timeout_ms = input.i32()?;
        found.assignor = input.nullable_string(true)?.map(str::to_owned);
        input.tagged_fields(|tag, content| {
            if tag == 0 {
                found.classic = ClassicSubscription::decode(content)?;
            }
            Ok(())
        })?;
        Ok(found)
    }
}

impl ClassicSubscription {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut out = Writer::new(&mut bytes);
        out.i8(1);
        out.i32(self.session_timeout_ms);
        out.len(true, Some(self.protocols.len()));
        for (name, metadata) in &self.protocols {
            out.string(true, name);
            out.len(true, Some(metadata.len()));
            out.raw(metadata);
            out.no_tagged_fields(true);
        }
        out.no_tagged_fields(true);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Option<ClassicSubscription>, WireError> {
        let mut input = Reader::new(bytes);
        if input.i8()? != 1 {
            return Ok(None);
        }
        let mut found = ClassicSubscription { session_timeout_ms: input.i32()?, protocols: Vec::new() };
        for _ in 0..input.array_len(true, 3)? {
            let name = input.string(true)?.to_owned();
            found.protocols.push((name, Bytes::copy_from_slice(input.bytes(true)?)));
            input.skip_tagged_fields(true)?;
        }
        Ok(Some(found))
    }
}

pub(super) fn write_partitions(out: &mut Writer<'_>, partitions: &Partitions) {
    out.len(true, Some(partitions.len()));
    for (topic, indexes) in partitions {
        out.uuid(*topic);
        out.len(true, Some(indexes.len()));
        indexes.iter().for_each(|index| out.i32(*index));
        out.no_tagged_fields(true);
    }
}

pub(super) fn read_partitions(input: &mut Reader<'_>) -> Result<Partitions, WireError> {
    let mut partitions = Partitions::new();
    for _ in 0..input.array_len(true, 18)? {
        let topic = input.uuid()?;
        let mut indexes = BTreeSet::new();
        for _ in 0..input.array_len(true, 4)? {
            indexes.insert(input.i32()?);
        }
        input.skip_tagged_fields(true)?;
        partitions.insert(topic, indexes);
    }
    Ok(partitions)
}

/// The value of a target assignment: version 0.
pub fn encode_target(partitions: &Partitions) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut out = Writer::new(&mut bytes);
    out.i16(0);
    write_partitions(&mut out, partitions);
    out.no_tagged_fields(true);
    bytes
}

/// Reads a target assignment.
pub fn decode_target(bytes: &[u8]) -> Result<Partitions, WireError> {
    let mut input = Reader::new(bytes);
    input.i16()?;
    read_partitions(&mut input)
}

/// What a member has, and how far it has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CurrentRecord {
    /// The epoch it is in.
    pub epoch: i32,
    /// The epoch before.
    pub previous_epoch: i32,
    /// 0 stable, 1 waits for the member to give partitions back, 2 waits for other members to do so.
    pub state: i8,
    /// Partitions it may use.
    pub assigned: Partitions,
    /// Partitions it has to give back.
    pub revoking: Partitions,
}

impl CurrentRecord {
    /// The value: version 0.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut out = Writer::new(&mut bytes);
        out.i16(0);
        out.i32(self.epoch);
        out.i32(self.previous_epoch);
        out.i8(self.state);
        write_partitions(&mut out, &self.assigned);
        write_partitions(&mut out, &self.revoking);
        out.no_tagged_fields(true);
        bytes
    }

    /// Reads the value.
    pub fn decode(bytes: &[u8]) -> Result<CurrentRecord, WireError> {
        let mut input = Reader::new(bytes);
        input.i16()?;
        Ok(CurrentRecord {
            epoch: input.i32()?,
            previous_epoch: input.i32()?,
            state: input.i8()?,
            assigned: read_partitions(&mut input)?,
            revoking: read_partitions(&mut input)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip() {
        let keys = [
            Key::Offset { group: "g", topic: "t", partition: 3 },
            Key::Group("g"),
            Key::ConsumerGroup("g"),
            Key::Member("g", "m"),
            Key::Target("g"),
            Key::TargetMember("g", "m"),
            Key::CurrentMember("g", "m"),
            Key::ShareMember("g", "m"),
            Key::ShareGroup("g"),
            Key::ShareTarget("g"),
            Key::ShareTargetMember("g", "m"),
            Key::ShareCurrentMember("g", "m"),
            Key::ShareTopics("g"),
        ];
        for key in keys {
            let bytes = key.encode();
            assert_eq!(Key::decode(&bytes), Ok(key));
            assert!((0..bytes.len()).all(|cut| Key::decode(&bytes[..cut]) != Ok(key)));
        }
        assert_eq!(Key::decode(&[0, 99, 1]), Ok(Key::Unknown(99)));
        let expected = [0, 1, 0, 1, b'g', 0, 1, b't', 0, 0, 0, 3];
        assert_eq!(keys[0].encode(), expected);
    }

    #[test]
    fn offsets_round_trip_and_old_versions_are_read() {
        for expire_ms in [-1, 99] {
            let leader_epoch = if expire_ms < 0 { 4 } else { -1 };
            let committed =
                Committed { offset: 7, leader_epoch, metadata: "me".into(), commit_ms: 5, expire_ms };
            assert_eq!(Committed::decode(&committed.encode()), Ok(committed));
        }
        let version_4 =
            [&[0, 4][..], &7i64.to_be_bytes(), &2i32.to_be_bytes(), &[1], &5i64.to_be_bytes(), &[0]];
        let read = Committed::decode(&version_4.concat()).expect("flexible");
        assert_eq!((read.offset, read.leader_epoch, &*read.metadata, read.commit_ms), (7, 2, "", 5));
    }

    #[test]
    fn groups_round_trip() {
        let member = MemberRecord {
            member_id: "m".to_owned(),
            instance_id: Some("i".to_owned()),
            rebalance_timeout_ms: 3,
            session_timeout_ms: 4,
            subscription: Bytes::from_static(b"sub"),
            assignment: Bytes::from_static(b"assigned"),
            ..MemberRecord::default()
        };
        let group = GroupRecord {
            protocol_type: "consumer".to_owned(),
            generation: 9,
            protocol: Some("range".to_owned()),
            leader: Some("m".to_owned()),
            state_ms: 11,
            members: vec![member],
        };
        assert_eq!(GroupRecord::decode(&group.encode()), Ok(group));
        assert_eq!(GroupRecord::decode(&GroupRecord::default().encode()), Ok(GroupRecord::default()));
    }

    #[test]
    fn consumer_group_records_round_trip() {
        assert_eq!(decode_epoch(&encode_epoch(77)), Ok(77));
        let partitions: Partitions =
            [(Uuid::from_u128(1), [0, 2].into()), (Uuid::from_u128(2), [1].into())].into();
        assert_eq!(decode_target(&encode_target(&partitions)), Ok(partitions.clone()));
        let current = CurrentRecord {
            epoch: 3,
            previous_epoch: 2,
            state: 1,
            assigned: partitions.clone(),
            revoking: partitions,
        };
        assert_eq!(CurrentRecord::decode(&current.encode()), Ok(current));
        let classic = ClassicSubscription {
            session_timeout_ms: 5,
            protocols: vec![("range".to_owned(), Bytes::from_static(b"x"))],
        };
        for classic in [None, Some(classic)] {
            let subscription = Subscription {
                instance_id: Some("i".to_owned()),
                topics: vec!["a".to_owned(), "b".to_owned()],
                regex: Some("a.*".to_owned()),
                rebalance_timeout_ms: 300_000,
                assignor: Some("uniform".to_owned()),
                classic,
                ..Subscription::default()
            };
            assert_eq!(Subscription::decode(&subscription.encode()), Ok(subscription));
        }
    }
}
