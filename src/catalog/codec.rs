//! The bytes of the catalog file.
//!
//! ```text
//! 0        8         12       16        24       28       32
//! | magic  | version | zero   | length  | crc32c | zero   | JSON payload, `length` bytes |
//! ```
//! Little-endian; the checksum covers bytes 0..24 and the payload. The header keeps this form in every version, so
//! that a newer version can be told from damage.
//!
//! Owner: the catalog store. Invariants: `decode(encode(c)) == c`; bytes from the disk never panic.
//! Must not: touch a file.

use super::dynamic::Dynamic;
use super::snapshot::{Catalog, PARTITIONS_PER_TOPIC_MAX, PartitionMeta, Topic, validate_topic_name};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// The version of the payload this code writes, and the newest it reads.
///
/// 2: topics have a first leader epoch, and files are recycled by it: a version that does not know it must not scan
/// their segments.
pub(super) const FORMAT_VERSION: u32 = 2;
/// The size of the header, in bytes.
pub(crate) const HEADER_BYTES: usize = 32;
const MAGIC: &[u8; 8] = b"RLCATLOG";

/// Why bytes are no catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DecodeError {
    /// The checksum or the structure is wrong; the text says where.
    Damaged(String),
    /// It is intact, but of a version this code does not know.
    Newer(u32),
}

#[derive(Serialize, Deserialize)]
struct CatalogRecord {
    cluster_id: String,
    node_id: i32,
    sequence: u64,
    leader_epoch: i32,
    next_producer_id: u64,
    #[serde(default)]
    dynamic: Dynamic,
    topics: Vec<TopicRecord>,
}

#[derive(Serialize, Deserialize)]
struct TopicRecord {
    name: String,
    id: String,
    created_ms: i64,
    #[serde(default)]
    first_epoch: i32,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    configs: BTreeMap<String, String>,
    partitions: Vec<PartitionRun>,
}

/// Neighbouring partitions with the same leader and replicas, which most topics have for all of theirs.
#[derive(Serialize, Deserialize)]
struct PartitionRun {
    count: usize,
    leader: i32,
    leader_epoch: i32,
    replicas: Vec<i32>,
    isr: Vec<i32>,
}

/// The catalog as bytes of a file.
pub(crate) fn encode(catalog: &Catalog) -> Vec<u8> {
    let record = CatalogRecord {
        cluster_id: catalog.cluster_id.to_string(),
        node_id: catalog.node_id,
        sequence: catalog.sequence,
        leader_epoch: catalog.leader_epoch,
        next_producer_id: catalog.next_producer_id,
        dynamic: Dynamic::clone(&catalog.dynamic),
        topics: catalog.topics().map(|topic| topic_record(topic)).collect(),
    };
    let mut bytes = vec![0; HEADER_BYTES];
    let written = serde_json::to_writer(&mut bytes, &record);
    assert!(written.is_ok(), "a record of strings and numbers has a JSON form");
    let payload_bytes = (bytes.len() - HEADER_BYTES) as u64;
    bytes[0..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&payload_bytes.to_le_bytes());
    let crc = checksum(&bytes);
    bytes[24..28].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads the bytes of a file. Checks the checksum before anything is allocated by a length in the bytes.
pub(crate) fn decode(bytes: &[u8]) -> Result<Catalog, DecodeError> {
    let damaged = |text: &str| DecodeError::Damaged(text.to_owned());
    if bytes.len() < HEADER_BYTES {
        return Err(DecodeError::Damaged(format!("{} bytes are less than a header", bytes.len())));
    }
    if &bytes[0..8] != MAGIC {
        return Err(damaged("it does not begin with the catalog's magic"));
    }
    let payload_bytes = u64::from_le_bytes(array(&bytes[16..24]));
    if payload_bytes != (bytes.len() - HEADER_BYTES) as u64 {
        return Err(DecodeError::Damaged(format!(
            "the header announces {payload_bytes} bytes of payload, the file has {}",
            bytes.len() - HEADER_BYTES
        )));
    }
    if u32::from_le_bytes(array(&bytes[24..28])) != checksum(bytes) || bytes[28..32] != [0; 4] {
        return Err(damaged("the checksum does not match"));
    }
    let version = u32::from_le_bytes(array(&bytes[8..12]));
    if version > FORMAT_VERSION {
        return Err(DecodeError::Newer(version));
    }
    let record: CatalogRecord = serde_json::from_slice(&bytes[HEADER_BYTES..])
        .map_err(|e| DecodeError::Damaged(format!("the payload is not understood: {e}")))?;
    from_record(record).map_err(DecodeError::Damaged)
}

pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..24]), &bytes[HEADER_BYTES..])
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}

fn topic_record(topic: &Topic) -> TopicRecord {
    let runs = topic.partitions.chunk_by(|a, b| a == b).map(|run| PartitionRun {
        count: run.len(),
        leader: run[0].leader,
        leader_epoch: run[0].leader_epoch,
        replicas: run[0].replicas.to_vec(),
        isr: run[0].isr.to_vec(),
    });
    TopicRecord {
        name: topic.name.to_string(),
        id: topic.id.to_string(),
        created_ms: topic.created_ms,
        first_epoch: topic.first_epoch,
        configs: topic.configs.clone(),
        partitions: runs.collect(),
    }
}

fn from_record(record: CatalogRecord) -> Result<Catalog, String> {
    let mut catalog = Catalog::new(&record.cluster_id, record.node_id);
    catalog.sequence = record.sequence;
    catalog.leader_epoch = record.leader_epoch;
    catalog.next_producer_id = record.next_producer_id;
    catalog.dynamic = Arc::new(record.dynamic);
    for topic in record.topics {
        // Names become paths, so that one with a slash must never get past this place.
        validate_topic_name(&topic.name)
            .map_err(|e| format!("topic '{}': {e}", topic.name.escape_debug()))?;
        let id = Uuid::parse_str(&topic.id).map_err(|e| format!("topic '{}': id: {e}", topic.name))?;
        if catalog.topic(&topic.name).is_some() || catalog.topic_by_id(id).is_some() {
            return Err(format!("topic '{}' or its id {id} is there twice", topic.name));
        }
        let partitions = partitions_of(&topic)?;
        catalog.insert(Arc::new(Topic {
            name: topic.name.as_str().into(),
            id,
            partitions,
            configs: topic.configs,
            created_ms: topic.created_ms,
            first_epoch: topic.first_epoch,
        }));
    }
    Ok(catalog)
}

fn partitions_of(topic: &TopicRecord) -> Result<Vec<PartitionMeta>, String> {
    let mut partitions = Vec::new();
    for run in &topic.partitions {
        if run.count > PARTITIONS_PER_TOPIC_MAX - partitions.len() {
            return Err(format!(
                "topic '{}' has more than {PARTITIONS_PER_TOPIC_MAX} partitions",
                topic.name
            ));
        }
        let replicas: Arc<[i32]> = run.replicas.as_slice().into();
        let isr = if run.isr == run.replicas { replicas.clone() } else { run.isr.as_slice().into() };
        let meta = PartitionMeta { leader: run.leader, leader_epoch: run.leader_epoch, replicas, isr };
        partitions.resize(partitions.len() + run.count, meta);
    }
    if partitions.is_empty() {
        return Err(format!("topic '{}' has no partitions", topic.name));
    }
    Ok(partitions)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::change::CatalogChange;
    use super::super::dynamic::ResourceKind;
    use super::*;

    pub(in crate::catalog) fn sample() -> Catalog {
        let create = |name: &str, id, partition_count| CatalogChange::CreateTopic {
            name: name.to_owned(),
            id: Uuid::from_u128(id),
            partition_count,
            configs: [("retention.ms".to_owned(), "5".to_owned())].into(),
            created_ms: 1_700_000_000_000,
        };
        let epoch = CatalogChange::BumpLeaderEpoch;
        let grow = CatalogChange::CreatePartitions { id: Uuid::from_u128(1), partition_count: 12 };
        Catalog::new("AbCdEfGhIjKlMnOpQrStUv", 3)
            .apply(&[
                create("big", 1, 10),
                create("small", 2, 1),
                epoch,
                grow,
                CatalogChange::ReserveProducerIds(1000),
                CatalogChange::SetConfigs {
                    kind: ResourceKind::Group,
                    name: "g".to_owned(),
                    configs: [("consumer.session.timeout.ms".to_owned(), "50000".to_owned())].into(),
                },
                CatalogChange::SetQuotas {
                    entity: [("user".to_owned(), None), ("client-id".to_owned(), Some("c".to_owned()))]
                        .into(),
                    values: [("producer_byte_rate".to_owned(), "1048576.5".to_owned())].into(),
                },
                CatalogChange::SetFeatureLevel { name: "metadata.version".to_owned(), level: 25 },
            ])
            .expect("valid changes")
    }

    #[test]
    fn the_bytes_read_back() {
        let catalog = sample();
        assert_eq!(decode(&encode(&catalog)), Ok(catalog));
        let empty = Catalog::new("x", 0);
        assert_eq!(decode(&encode(&empty)), Ok(empty));
    }

    #[test]
    fn ten_thousand_partitions_are_cheap() {
        let change = CatalogChange::CreateTopic {
            name: "wide".to_owned(),
            id: Uuid::from_u128(9),
            partition_count: 10_000,
            configs: BTreeMap::new(),
            created_ms: 0,
        };
        let catalog = Catalog::new("x", 0).apply(&[change]).expect("valid");
        assert!(encode(&catalog).len() < 1000);
        assert_eq!(size_of::<PartitionMeta>(), 40);
        assert_eq!(decode(&encode(&catalog)), Ok(catalog));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_damage() {
        let bytes = encode(&sample());
        for at in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            // Bytes 12..16 are covered by the checksum as well.
            assert!(matches!(decode(&flipped), Err(DecodeError::Damaged(_))), "bit {at}");
        }
        for length in 0..bytes.len() {
            assert!(matches!(decode(&bytes[..length]), Err(DecodeError::Damaged(_))), "length {length}");
        }
    }

    #[test]
    fn a_newer_version_is_not_damage() {
        let mut bytes = encode(&sample());
        bytes[8] = 3;
        let crc = checksum(&bytes);
        bytes[24..28].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode(&bytes), Err(DecodeError::Newer(3)));
    }

    #[test]
    fn a_catalog_of_version_1_opens_with_topics_that_begin_at_epoch_0() {
        let payload =
            br#"{"cluster_id":"x","node_id":1,"sequence":4,"leader_epoch":2,"next_producer_id":0,"topics":
            [{"name":"t","id":"00000000-0000-0000-0000-000000000007","created_ms":5,
            "partitions":[{"count":2,"leader":1,"leader_epoch":2,"replicas":[1],"isr":[1]}]}]}"#;
        let mut bytes = encode(&sample())[..HEADER_BYTES].to_vec();
        bytes[8] = 1;
        bytes[16..24].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        bytes.extend_from_slice(payload);
        let crc = checksum(&bytes);
        bytes[24..28].copy_from_slice(&crc.to_le_bytes());
        let catalog = decode(&bytes).expect("an old catalog");
        assert_eq!(catalog.topic("t").map(|t| (t.first_epoch, t.partitions[1].leader_epoch)), Some((0, 2)));
    }

    #[test]
    fn an_intact_file_with_impossible_content_is_refused() {
        for (good, bad) in
            [("big", "../"), ("\"count\":12", "\"count\":99999999999"), ("\"small\"", "\"big\"")]
        {
            let payload = String::from_utf8(encode(&sample())[HEADER_BYTES..].to_vec()).expect("JSON");
            let changed = payload.replace(good, bad);
            assert_ne!(payload, changed, "{good} is in the payload");
            let mut bytes = encode(&sample())[..HEADER_BYTES].to_vec();
            bytes[16..24].copy_from_slice(&(changed.len() as u64).to_le_bytes());
            bytes.extend_from_slice(changed.as_bytes());
            let crc = checksum(&bytes);
            bytes[24..28].copy_from_slice(&crc.to_le_bytes());
            assert!(matches!(decode(&bytes), Err(DecodeError::Damaged(_))), "{bad}");
        }
    }
}
