//! Target `state`: everything small that a start reads back from disk: the catalog, marks, index files, the mark of a
//! clean stop; and what coordinators replay from their internal topics, with what consumers put into group metadata.
//! Clients decide much of it (names, metadata), and disks rot. Checksums are put right half of the time, because a
//! target that never gets past them tests nothing.
//!
//! Checked: nothing panics; memory is bounded by the input; what was read is written and read back to the same.
//!
//! Owner: nobody; pure.

use std::fmt::Debug;

use super::input::Input;
use super::memory;
use crate::catalog::{CatalogChange, Configs, ResourceKind, codec};
use crate::coordinator::records::{self, Committed, CurrentRecord, GroupRecord, Key, Subscription};
use crate::coordinator::share_records::{self, ShareCurrent, ShareState, ShareSubscription, StateKey};
use crate::coordinator::{consumer_protocol, groups_load, state_log, txn_record};
use crate::shard::decode_mark;
use crate::storage::{Marks, SegmentSummary};
use crate::wire::batch_builder::BatchBuilder;
use crate::wire::record_batch::parse_whole;

/// What reading may cost for each byte of the input: maps of small keys, strings of a few bytes.
pub const STATE_BYTES_PER_INPUT_BYTE_MAX: usize = 96;
/// What it may cost beside that: a catalog may hold a topic of ten thousand partitions in a few bytes.
pub const STATE_BYTES_MAX: usize = 16 << 20;

/// See the head of this file.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let kind = input.below(8);
    let bytes_max = STATE_BYTES_PER_INPUT_BYTE_MAX * bytes.len() + STATE_BYTES_MAX;
    memory::within(&format!("state of kind {kind}"), bytes_max, || match kind {
        0 => catalog_bytes(input.rest()),
        1 => catalog_changes(&mut input),
        2 => small_files(&mut input),
        3 => group_record(input.rest()),
        4 => other_records(input.rest()),
        5 => consumer_metadata(input.rest()),
        6 => replayed(&mut input),
        _ => replayed_batch(input.rest()),
    });
}

/// A payload behind a header that is right.
fn catalog_bytes(payload: &[u8]) {
    let _ = codec::decode(payload);
    let mut file = codec::encode(&crate::catalog::Catalog::new("c", 1));
    file.truncate(codec::HEADER_BYTES);
    file[16..24].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    file.extend_from_slice(payload);
    let crc = codec::checksum(&file);
    file[24..28].copy_from_slice(&crc.to_le_bytes());
    if let Ok(catalog) = codec::decode(&file) {
        let again = codec::decode(&codec::encode(&catalog)).expect("what was read can be written");
        assert!(again == catalog, "a catalog changed on its way");
    }
}

/// Changes, whatever they are, keep the catalog sound: refused or applied, and then readable.
fn catalog_changes(input: &mut Input<'_>) {
    let mut catalog = crate::catalog::Catalog::new("c", 1);
    while !input.is_empty() {
        let id = uuid::Uuid::from_u128(u128::from(input.byte() & 7));
        let name = ["a", "b", "c", ""][input.below(4)].to_owned();
        let configs: Configs = match input.rarely() {
            true => [(String::from_utf8_lossy(input.bytes(20)).into_owned(), name.clone())].into(),
            false => Configs::new(),
        };
        let partition_count = usize::from(input.word()) >> input.below(16);
        let change = match input.below(9) {
            0 => {
                CatalogChange::CreateTopic { name, id, partition_count, configs, created_ms: input.number() }
            }
            1 => CatalogChange::DeleteTopic { id },
            2 => CatalogChange::CreatePartitions { id, partition_count },
            3 => CatalogChange::SetTopicConfigs { id, configs },
            4 => CatalogChange::BumpLeaderEpoch,
            5 => CatalogChange::ReserveProducerIds(input.number() as u64),
            6 => CatalogChange::SetConfigs { kind: ResourceKind::Group, name, configs },
            7 => {
                CatalogChange::SetQuotas { entity: [("user".to_owned(), Some(name))].into(), values: configs }
            }
            _ => CatalogChange::SetFeatureLevel { name, level: input.word() as i16 },
        };
        let before = catalog.sequence;
        if let Ok(next) = catalog.apply(&[change]) {
            assert_eq!(next.sequence, before + 1);
            assert!(next.leader_epoch >= catalog.leader_epoch);
            assert!(next.next_producer_id >= catalog.next_producer_id);
            catalog = next;
        }
    }
    let nameless = catalog.topic("").is_some();
    match codec::decode(&codec::encode(&catalog)) {
        Ok(again) => assert!(again == catalog),
        // Names are checked by the handlers, so that a catalog never has this one.
        Err(error) => assert!(nameless, "{error:?}"),
    }
}

/// The bytes with a right CRC32C at their end, as all small files have it.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut sealed = bytes.to_vec();
    sealed.extend_from_slice(&crc32c::crc32c(bytes).to_le_bytes());
    sealed
}

fn small_files(input: &mut Input<'_>) {
    let magics: [&[u8]; 5] = [b"RLMARKS1", b"RIDX\x02\x00", b"RIDX\x01\x00", b"RLCLEAN1", b""];
    let mut body = input.pick(&magics).to_vec();
    body.extend_from_slice(input.rest());
    for bytes in [body.clone(), sealed(&body)] {
        if let Some(marks) = Marks::decode(&bytes) {
            assert_eq!(Marks::decode(&marks.encode()), Some(marks));
        }
        if let Ok(summary) = SegmentSummary::decode(&bytes) {
            let again = SegmentSummary::decode(&summary.encode());
            assert!(again.is_ok_and(|again| again == summary), "an index file changed on its way");
        }
        let _ = decode_mark(&bytes);
    }
}

fn same<T: PartialEq + Debug, E: Debug>(
    read: Result<T, E>,
    write: impl Fn(&T) -> Vec<u8>,
    again: impl Fn(&[u8]) -> Result<T, E>,
) {
    let Ok(value) = read else { return };
    let written = write(&value);
    assert_eq!(again(&written).expect("what was read can be written"), value);
}

fn group_record(bytes: &[u8]) {
    if let Ok(key) = Key::decode(bytes)
        && !matches!(key, Key::Unknown(_))
    {
        assert_eq!(Key::decode(&key.encode()), Ok(key));
    }
    same(records::decode_epoch(bytes), |epoch| records::encode_epoch(*epoch), records::decode_epoch);
    same(records::decode_target(bytes), records::encode_target, records::decode_target);
    same(CurrentRecord::decode(bytes), CurrentRecord::encode, CurrentRecord::decode);
    // Kafka's later versions allow longer strings and empty ones in other forms than the version that is written here.
    let written_here = |until: i16| bytes.first_chunk().is_some_and(|v| i16::from_be_bytes(*v) <= until);
    let (committed, group) = (Committed::decode(bytes), GroupRecord::decode(bytes));
    if written_here(0) {
        same(Subscription::decode(bytes), Subscription::encode, Subscription::decode);
    }
    if written_here(3) {
        same(group, GroupRecord::encode, GroupRecord::decode);
    }
    if bytes.starts_with(&[0, 3]) {
        same(committed, Committed::encode, Committed::decode);
    }
}

fn other_records(bytes: &[u8]) {
    same(StateKey::decode(bytes).map(|key| key.ok_or(())).unwrap_or(Err(())), StateKey::encode, |bytes| {
        StateKey::decode(bytes).ok().flatten().ok_or(())
    });
    same(ShareState::decode(bytes), ShareState::encode, ShareState::decode);
    same(ShareSubscription::decode(bytes), ShareSubscription::encode, ShareSubscription::decode);
    same(ShareCurrent::decode(bytes), ShareCurrent::encode, ShareCurrent::decode);
    same(share_records::decode_known(bytes), share_records::encode_known, share_records::decode_known);
    if let Some(id) = txn_record::decode_key(bytes) {
        assert_eq!(txn_record::decode_key(&txn_record::encode_key(&id)), Some(id));
    }
    if let Some(found) = txn_record::decode(bytes) {
        let written = txn_record::encode("id", Some(&found)).value.expect("a value");
        assert!(txn_record::decode(&written).is_some(), "a state that was read cannot be read again");
    }
}

fn consumer_metadata(bytes: &[u8]) {
    let _ = consumer_protocol::subscribed_topics(bytes);
    if let Some(found) = consumer_protocol::decode_subscription(bytes) {
        let again = consumer_protocol::decode_subscription(&consumer_protocol::encode_subscription(&found));
        assert_eq!(again, Some(found));
    }
    if let Some(found) = consumer_protocol::decode_assignment(bytes) {
        let version = consumer_protocol::version_of(bytes);
        let written = consumer_protocol::encode_assignment(version, &found);
        assert_eq!(consumer_protocol::decode_assignment(&written), Some(found));
    }
}

/// Keys of every kind with any values, in any order, and the groups that come of them.
fn replayed(input: &mut Input<'_>) {
    let mut found = Vec::new();
    while !input.is_empty() {
        let (group, member) = (input.pick(&["g", "h"]), input.pick(&["m", "n"]));
        let key = match input.below(15) {
            0 | 1 => Key::Offset { group, topic: member, partition: i32::from(input.byte()) },
            2 => Key::Group(group),
            3 => Key::ConsumerGroup(group),
            4 => Key::Member(group, member),
            5 => Key::Target(group),
            6 => Key::TargetMember(group, member),
            7 => Key::CurrentMember(group, member),
            8 => Key::ShareMember(group, member),
            9 => Key::ShareGroup(group),
            10 => Key::ShareTarget(group),
            11 => Key::ShareTargetMember(group, member),
            12 => Key::ShareCurrentMember(group, member),
            13 => Key::ShareTopics(group),
            _ => {
                found.push((input.bytes(40).to_vec(), None, input.byte()));
                continue;
            }
        };
        let value = if input.rarely() { None } else { Some(input.bytes(200).to_vec()) };
        found.push((key.encode(), value, input.byte()));
    }
    groups_load::load_all(&found);
}

/// A batch of an internal topic, with its checksum put right.
fn replayed_batch(payload: &[u8]) {
    let mut batch = BatchBuilder::new().record(1, Some(b"k"), Some(b"v")).build();
    let kept = payload.len().min(61 - 21);
    // Attributes to the end of the header, then whatever is behind it.
    batch[21..21 + kept].copy_from_slice(&payload[..kept]);
    if payload.len() > kept {
        batch.truncate(61);
        batch.extend_from_slice(&payload[kept..]);
    }
    let length = (batch.len() - 12) as i32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    crate::wire::batch_builder::reseal(&mut batch);
    if let Ok(info) = parse_whole(&batch) {
        let _ = state_log::replay_batch(&info, &batch, 0, &mut |_| ());
    }
}
