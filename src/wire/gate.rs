//! The gate in front of `kafka-protocol`: a walk over the request that proves its lengths before that crate's
//! decoder, which reserves room for any array count it reads, may see it (the trap of CVE-2022-34917).
//!
//! Owner: nobody; pure. Spec: the request schemas of Kafka 4.4, of which the tables below hold only what matters for
//! walking: kinds of fields and the versions they exist in.
//!
//! Invariants, for a body that [`check`] accepts:
//! - every string, array and tagged field lies within the body;
//! - the decoder consumes exactly the bytes the walk consumed, and reserves room for no element that is not there;
//! - there are at most [`ELEMENTS_MAX`] array elements and [`TAGGED_FIELDS_MAX`] tagged fields in all, so decoded
//!   memory is at most [`DECODED_TO_WIRE_RATIO_MAX`] times the array's bytes plus a constant for the tagged fields
//!   (a test compares the decoder's struct sizes with the smallest encodings);
//! - who keeps each element with the names it stands under copies at most [`COPIED_TO_WIRE_RATIO_MAX`] times the body
//!   and [`COPIED_BYTES_MAX`]: one name of 32 KiB over 200,000 partition numbers would be 6 GiB.
//!
//! Must not: allocate, or judge what a field means. UTF-8 is left to the decoder, which checks it without harm.

use super::api_table::*;
use super::gate_admin;
use super::primitives::{Reader, WireError};

/// Array elements one request may have, over all its arrays. A Metadata or ListOffsets request for every partition
/// of a large cluster stays below.
pub const ELEMENTS_MAX: usize = 262_144;
/// Tagged fields one request may have. None of the schemas here defines any; each costs the decoder a map entry of
/// some hundred bytes for as little as two bytes on the wire.
pub const TAGGED_FIELDS_MAX: u32 = 64;
/// Decoded bytes per byte on the wire, at most.
pub const DECODED_TO_WIRE_RATIO_MAX: usize = 64;

/// What a request may cost, for each of its bytes, if every array element is kept with a copy of all strings that it
/// stands under: a group and a topic for each partition, as handlers keep them ...
pub const COPIED_TO_WIRE_RATIO_MAX: usize = 64;
/// ... and this much in any case, bytes: names of usual lengths never come to it.
pub const COPIED_BYTES_MAX: usize = 32 << 20;

/// What stands at one place of a request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// An integer, boolean or uuid of that many bytes.
    Fixed(usize),
    Str,
    NullableStr,
    Bytes,
    Array(Element),
    NullableArray(Element),
    /// A presence byte, 1 for present, then the struct.
    OptionalStruct(&'static [Field]),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Element {
    Fixed(usize),
    Str,
    Struct(&'static [Field]),
}

/// A field and the versions it exists in, both inclusive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    since: i16,
    until: i16,
    kind: Kind,
}

impl Field {
    fn exists_in(&self, version: i16) -> bool {
        (self.since..=self.until).contains(&version)
    }
}

pub(super) const fn all(kind: Kind) -> Field {
    Field { since: 0, until: i16::MAX, kind }
}

pub(super) const fn from(since: i16, kind: Kind) -> Field {
    Field { since, until: i16::MAX, kind }
}

pub(super) const fn within(since: i16, until: i16, kind: Kind) -> Field {
    Field { since, until, kind }
}

pub(super) const BOOL: Kind = Kind::Fixed(1);
pub(super) const I8: Kind = Kind::Fixed(1);
pub(super) const I16: Kind = Kind::Fixed(2);
pub(super) const I32: Kind = Kind::Fixed(4);
pub(super) const I64: Kind = Kind::Fixed(8);
pub(super) const UUID: Kind = Kind::Fixed(16);
pub(super) const I32_ELEMENT: Element = Element::Fixed(4);

const LIST_OFFSETS_PARTITION: &[Field] = &[all(I32), from(4, I32), all(I64)];
const LIST_OFFSETS_TOPIC: &[Field] =
    &[all(Kind::Str), all(Kind::Array(Element::Struct(LIST_OFFSETS_PARTITION)))];
const LIST_OFFSETS_REQUEST: &[Field] =
    &[all(I32), from(2, I8), all(Kind::Array(Element::Struct(LIST_OFFSETS_TOPIC))), from(10, I32)];

const METADATA_TOPIC: &[Field] = &[from(10, UUID), within(0, 9, Kind::Str), from(10, Kind::NullableStr)];
const METADATA_REQUEST: &[Field] = &[
    all(Kind::NullableArray(Element::Struct(METADATA_TOPIC))),
    from(4, BOOL),
    within(8, 10, BOOL),
    from(8, BOOL),
];

const FIND_COORDINATOR_REQUEST: &[Field] =
    &[within(0, 3, Kind::Str), from(1, I8), from(4, Kind::Array(Element::Str))];

const API_VERSIONS_REQUEST: &[Field] =
    &[from(3, Kind::Str), from(3, Kind::Str), from(5, Kind::NullableStr), from(5, I32)];

const CREATE_TOPICS_ASSIGNMENT: &[Field] = &[all(I32), all(Kind::Array(I32_ELEMENT))];
const CREATE_TOPICS_CONFIG: &[Field] = &[all(Kind::Str), all(Kind::NullableStr)];
const CREATE_TOPICS_TOPIC: &[Field] = &[
    all(Kind::Str),
    all(I32),
    all(I16),
    all(Kind::Array(Element::Struct(CREATE_TOPICS_ASSIGNMENT))),
    all(Kind::Array(Element::Struct(CREATE_TOPICS_CONFIG))),
];
const CREATE_TOPICS_REQUEST: &[Field] =
    &[all(Kind::Array(Element::Struct(CREATE_TOPICS_TOPIC))), all(I32), all(BOOL)];

const DELETE_TOPICS_TOPIC: &[Field] = &[all(Kind::NullableStr), all(UUID)];
const DELETE_TOPICS_REQUEST: &[Field] = &[
    from(6, Kind::Array(Element::Struct(DELETE_TOPICS_TOPIC))),
    within(0, 5, Kind::Array(Element::Str)),
    all(I32),
];

const DELETE_RECORDS_PARTITION: &[Field] = &[all(I32), all(I64)];
const DELETE_RECORDS_TOPIC: &[Field] =
    &[all(Kind::Str), all(Kind::Array(Element::Struct(DELETE_RECORDS_PARTITION)))];
const DELETE_RECORDS_REQUEST: &[Field] = &[all(Kind::Array(Element::Struct(DELETE_RECORDS_TOPIC))), all(I32)];

const INIT_PRODUCER_ID_REQUEST: &[Field] = &[all(Kind::NullableStr), all(I32), from(3, I64), from(3, I16)];

const LEADER_EPOCH_PARTITION: &[Field] = &[all(I32), all(I32), all(I32)];
const LEADER_EPOCH_TOPIC: &[Field] =
    &[all(Kind::Str), all(Kind::Array(Element::Struct(LEADER_EPOCH_PARTITION)))];
const LEADER_EPOCH_REQUEST: &[Field] = &[from(3, I32), all(Kind::Array(Element::Struct(LEADER_EPOCH_TOPIC)))];

const TXN_TOPIC: &[Field] = &[all(Kind::Str), all(Kind::Array(I32_ELEMENT))];
const ADD_PARTITIONS_TRANSACTION: &[Field] =
    &[all(Kind::Str), all(I64), all(I16), all(BOOL), all(Kind::Array(Element::Struct(TXN_TOPIC)))];
const ADD_PARTITIONS_REQUEST: &[Field] = &[
    from(4, Kind::Array(Element::Struct(ADD_PARTITIONS_TRANSACTION))),
    within(0, 3, Kind::Str),
    within(0, 3, I64),
    within(0, 3, I16),
    within(0, 3, Kind::Array(Element::Struct(TXN_TOPIC))),
];
const ADD_OFFSETS_REQUEST: &[Field] = &[all(Kind::Str), all(I64), all(I16), all(Kind::Str)];
const END_TXN_REQUEST: &[Field] = &[all(Kind::Str), all(I64), all(I16), all(BOOL)];
const WRITE_MARKERS_MARKER: &[Field] =
    &[all(I64), all(I16), all(BOOL), all(Kind::Array(Element::Struct(TXN_TOPIC))), all(I32), from(2, I8)];
const WRITE_MARKERS_REQUEST: &[Field] = &[all(Kind::Array(Element::Struct(WRITE_MARKERS_MARKER)))];
const TXN_OFFSET_PARTITION: &[Field] = &[all(I32), all(I64), from(2, I32), all(Kind::NullableStr)];
const TXN_OFFSET_TOPIC: &[Field] =
    &[within(0, 5, Kind::Str), from(6, UUID), all(Kind::Array(Element::Struct(TXN_OFFSET_PARTITION)))];
const TXN_OFFSET_COMMIT_REQUEST: &[Field] = &[
    all(Kind::Str),
    all(Kind::Str),
    all(I64),
    all(I16),
    from(3, I32),
    from(3, Kind::Str),
    from(3, Kind::NullableStr),
    all(Kind::Array(Element::Struct(TXN_OFFSET_TOPIC))),
];
const DESCRIBE_PRODUCERS_REQUEST: &[Field] = &[all(Kind::Array(Element::Struct(TXN_TOPIC)))];
const DESCRIBE_TRANSACTIONS_REQUEST: &[Field] = &[all(Kind::Array(Element::Str))];
const LIST_TRANSACTIONS_REQUEST: &[Field] = &[
    all(Kind::Array(Element::Str)),
    all(Kind::Array(Element::Fixed(8))),
    from(1, I64),
    from(2, Kind::NullableStr),
];

const DESCRIBE_CONFIGS_RESOURCE: &[Field] =
    &[all(I8), all(Kind::Str), all(Kind::NullableArray(Element::Str))];
const DESCRIBE_CONFIGS_REQUEST: &[Field] =
    &[all(Kind::Array(Element::Struct(DESCRIBE_CONFIGS_RESOURCE))), all(BOOL), from(3, BOOL)];

const DESCRIBE_LOG_DIRS_TOPIC: &[Field] = &[all(Kind::Str), all(Kind::Array(I32_ELEMENT))];
const DESCRIBE_LOG_DIRS_REQUEST: &[Field] =
    &[all(Kind::NullableArray(Element::Struct(DESCRIBE_LOG_DIRS_TOPIC)))];

const CREATE_PARTITIONS_ASSIGNMENT: &[Field] = &[all(Kind::Array(I32_ELEMENT))];
const CREATE_PARTITIONS_TOPIC: &[Field] =
    &[all(Kind::Str), all(I32), all(Kind::NullableArray(Element::Struct(CREATE_PARTITIONS_ASSIGNMENT)))];
const CREATE_PARTITIONS_REQUEST: &[Field] =
    &[all(Kind::Array(Element::Struct(CREATE_PARTITIONS_TOPIC))), all(I32), all(BOOL)];

const DESCRIBE_CLUSTER_REQUEST: &[Field] = &[all(BOOL), from(1, I8), from(2, BOOL)];

const TOPIC_PARTITIONS_TOPIC: &[Field] = &[all(Kind::Str)];
const TOPIC_PARTITIONS_CURSOR: &[Field] = &[all(Kind::Str), all(I32)];
const TOPIC_PARTITIONS_REQUEST: &[Field] = &[
    all(Kind::Array(Element::Struct(TOPIC_PARTITIONS_TOPIC))),
    all(I32),
    all(Kind::OptionalStruct(TOPIC_PARTITIONS_CURSOR)),
];

fn schema(api_key: i16) -> Option<&'static [Field]> {
    Some(match api_key {
        LIST_OFFSETS => LIST_OFFSETS_REQUEST,
        METADATA => METADATA_REQUEST,
        FIND_COORDINATOR => FIND_COORDINATOR_REQUEST,
        API_VERSIONS => API_VERSIONS_REQUEST,
        CREATE_TOPICS => CREATE_TOPICS_REQUEST,
        DELETE_TOPICS => DELETE_TOPICS_REQUEST,
        DELETE_RECORDS => DELETE_RECORDS_REQUEST,
        INIT_PRODUCER_ID => INIT_PRODUCER_ID_REQUEST,
        OFFSET_FOR_LEADER_EPOCH => LEADER_EPOCH_REQUEST,
        ADD_PARTITIONS_TO_TXN => ADD_PARTITIONS_REQUEST,
        ADD_OFFSETS_TO_TXN => ADD_OFFSETS_REQUEST,
        END_TXN => END_TXN_REQUEST,
        WRITE_TXN_MARKERS => WRITE_MARKERS_REQUEST,
        TXN_OFFSET_COMMIT => TXN_OFFSET_COMMIT_REQUEST,
        DESCRIBE_PRODUCERS => DESCRIBE_PRODUCERS_REQUEST,
        DESCRIBE_TRANSACTIONS => DESCRIBE_TRANSACTIONS_REQUEST,
        LIST_TRANSACTIONS => LIST_TRANSACTIONS_REQUEST,
        DESCRIBE_CONFIGS => DESCRIBE_CONFIGS_REQUEST,
        DESCRIBE_LOG_DIRS => DESCRIBE_LOG_DIRS_REQUEST,
        CREATE_PARTITIONS => CREATE_PARTITIONS_REQUEST,
        DESCRIBE_CLUSTER => DESCRIBE_CLUSTER_REQUEST,
        DESCRIBE_TOPIC_PARTITIONS => TOPIC_PARTITIONS_REQUEST,
        _ => {
            let groups =
                || super::gate_groups::schema(api_key).or_else(|| super::gate_share::schema(api_key));
            return gate_admin::schema(api_key).or_else(groups);
        }
    })
}

/// Proves that `body` (the frame behind its header) may be given to `kafka-protocol`'s decoder for this API and
/// version. Bytes behind the request are allowed, as Kafka allows them.
///
/// Errors: what is wrong with the body; [`WireError::UnsupportedVersion`] for anything not in
/// [`SUPPORTED`] and for Produce and Fetch, which have decoders of their own.
pub fn check(api_key: i16, version: i16, body: &[u8]) -> Result<(), WireError> {
    check_consumed(api_key, version, body).map(|_| ())
}

/// As [`check`]; returns the size of the request in bytes.
pub(crate) fn check_consumed(api_key: i16, version: i16, body: &[u8]) -> Result<usize, WireError> {
    let fields = schema(api_key).filter(|_| is_supported(api_key, version));
    let Some(fields) = fields else { return Err(WireError::UnsupportedVersion { api_key, version }) };
    let flexible = is_flexible(api_key, version);
    let mut walk = Walk {
        reader: Reader::new(body),
        version,
        flexible,
        elements: 0,
        tagged_fields: 0,
        above_bytes: 0,
        copies_left: COPIED_BYTES_MAX + COPIED_TO_WIRE_RATIO_MAX * body.len(),
    };
    walk.structure(fields)?;
    Ok(walk.reader.position())
}

/// One walk over one request. Recursion is as deep as the schema's nesting, four at most, never as deep as the data.
struct Walk<'a> {
    reader: Reader<'a>,
    version: i16,
    flexible: bool,
    elements: usize,
    tagged_fields: u32,
    /// Bytes of the strings that the present place stands under.
    above_bytes: usize,
    /// Bytes that may still be copied for elements below.
    copies_left: usize,
}

impl Walk<'_> {
    fn structure(&mut self, fields: &'static [Field]) -> Result<(), WireError> {
        let (version, above_bytes) = (self.version, self.above_bytes);
        for field in fields.iter().filter(|field| field.exists_in(version)) {
            self.field(field.kind)?;
        }
        if self.flexible {
            self.tagged_fields += self.reader.tagged_fields(|_, _| Ok(()))?;
            if self.tagged_fields > TAGGED_FIELDS_MAX {
                return Err(WireError::TooManyElements { limit: TAGGED_FIELDS_MAX as usize });
            }
        }
        self.above_bytes = above_bytes;
        Ok(())
    }

    fn field(&mut self, kind: Kind) -> Result<(), WireError> {
        match kind {
            Kind::Fixed(size_bytes) => self.reader.take(size_bytes).map(|_| ()),
            Kind::Str => self.string(false),
            Kind::NullableStr => self.string(true),
            Kind::Bytes => self.reader.bytes(self.flexible).map(|_| ()),
            Kind::Array(element) => self.array(element, false),
            Kind::NullableArray(element) => self.array(element, true),
            Kind::OptionalStruct(fields) => match self.reader.i8()? {
                1 => self.structure(fields),
                _ => Ok(()),
            },
        }
    }

    fn string(&mut self, nullable: bool) -> Result<(), WireError> {
        match self.reader.raw_string_len(self.flexible)? {
            Some(size_bytes) => {
                self.above_bytes += size_bytes;
                self.reader.take(size_bytes).map(|_| ())
            }
            None if nullable => Ok(()),
            None => Err(WireError::UnexpectedNull),
        }
    }

    fn array(&mut self, element: Element, nullable: bool) -> Result<(), WireError> {
        let size_min = element_size_min(element, self.version, self.flexible);
        let count = match self.reader.nullable_array_len(self.flexible, size_min)? {
            Some(count) => count,
            None if nullable => return Ok(()),
            None => return Err(WireError::UnexpectedNull),
        };
        // Both are at most the size of a frame, the sum cannot overflow.
        self.elements += count;
        if self.elements > ELEMENTS_MAX {
            return Err(WireError::TooManyElements { limit: ELEMENTS_MAX });
        }
        // At most a frame times a frame, which is below 2^63.
        let copies = self.copies_left.checked_sub(count * self.above_bytes);
        self.copies_left = copies.ok_or(WireError::TooManyElements { limit: COPIED_BYTES_MAX })?;
        if let Element::Fixed(size_bytes) = element {
            return self.reader.take(count * size_bytes).map(|_| ());
        }
        let above_bytes = self.above_bytes;
        for _ in 0..count {
            match element {
                Element::Struct(fields) => self.structure(fields)?,
                Element::Str => {
                    self.string(false)?;
                    // Nothing stands under its neighbours.
                    self.above_bytes = above_bytes;
                }
                Element::Fixed(_) => unreachable!("taken as a whole above"),
            }
        }
        Ok(())
    }
}

/// Bytes the smallest encoding of an element takes.
pub(super) fn element_size_min(element: Element, version: i16, flexible: bool) -> usize {
    let string_size_min = if flexible { 1 } else { 2 };
    let array_size_min = if flexible { 1 } else { 4 };
    let fields = match element {
        Element::Fixed(size_bytes) => return size_bytes,
        Element::Str => return string_size_min,
        Element::Struct(fields) => fields,
    };
    let size = |kind| match kind {
        Kind::Fixed(size_bytes) => size_bytes,
        Kind::Str | Kind::NullableStr => string_size_min,
        Kind::Array(_) | Kind::NullableArray(_) | Kind::Bytes => array_size_min,
        Kind::OptionalStruct(_) => 1,
    };
    let fields = fields.iter().filter(|field| field.exists_in(version));
    fields.map(|field| size(field.kind)).sum::<usize>() + usize::from(flexible)
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::TopicName;
    use kafka_protocol::messages::create_partitions_request::*;
    use kafka_protocol::messages::create_topics_request::*;
    use kafka_protocol::messages::delete_records_request::*;
    use kafka_protocol::messages::delete_topics_request::*;
    use kafka_protocol::messages::describe_configs_request::*;
    use kafka_protocol::messages::describe_log_dirs_request::*;
    use kafka_protocol::messages::describe_topic_partitions_request::*;
    use kafka_protocol::messages::list_offsets_request::*;
    use kafka_protocol::messages::metadata_request::*;
    use kafka_protocol::messages::offset_for_leader_epoch_request::*;
    use kafka_protocol::protocol::StrBytes;

    use super::*;

    /// The decoder's structs are much larger than their encodings; this holds the promised ratio when either
    /// `kafka-protocol` or a table changes.
    #[test]
    fn decoded_elements_are_at_most_the_promised_ratio_larger() {
        use kafka_protocol::messages::{add_partitions_to_txn_request, describe_producers_request};
        use kafka_protocol::messages::{txn_offset_commit_request, write_txn_markers_request};
        let cases = [
            (
                ADD_PARTITIONS_TO_TXN,
                Element::Struct(TXN_TOPIC),
                size_of::<add_partitions_to_txn_request::AddPartitionsToTxnTopic>(),
            ),
            (
                WRITE_TXN_MARKERS,
                Element::Struct(WRITE_MARKERS_MARKER),
                size_of::<write_txn_markers_request::WritableTxnMarker>(),
            ),
            (
                TXN_OFFSET_COMMIT,
                Element::Struct(TXN_OFFSET_TOPIC),
                size_of::<txn_offset_commit_request::TxnOffsetCommitRequestTopic>(),
            ),
            (
                TXN_OFFSET_COMMIT,
                Element::Struct(TXN_OFFSET_PARTITION),
                size_of::<txn_offset_commit_request::TxnOffsetCommitRequestPartition>(),
            ),
            (
                DESCRIBE_PRODUCERS,
                Element::Struct(TXN_TOPIC),
                size_of::<describe_producers_request::TopicRequest>(),
            ),
            (LIST_TRANSACTIONS, Element::Str, size_of::<StrBytes>()),
            (LIST_OFFSETS, Element::Struct(LIST_OFFSETS_PARTITION), size_of::<ListOffsetsPartition>()),
            (LIST_OFFSETS, Element::Struct(LIST_OFFSETS_TOPIC), size_of::<ListOffsetsTopic>()),
            (METADATA, Element::Struct(METADATA_TOPIC), size_of::<MetadataRequestTopic>()),
            (CREATE_TOPICS, Element::Struct(CREATE_TOPICS_TOPIC), size_of::<CreatableTopic>()),
            (CREATE_TOPICS, Element::Struct(CREATE_TOPICS_CONFIG), size_of::<CreatableTopicConfig>()),
            (
                CREATE_TOPICS,
                Element::Struct(CREATE_TOPICS_ASSIGNMENT),
                size_of::<CreatableReplicaAssignment>(),
            ),
            (DELETE_TOPICS, Element::Struct(DELETE_TOPICS_TOPIC), size_of::<DeleteTopicState>()),
            (DELETE_TOPICS, Element::Str, size_of::<TopicName>()),
            (DELETE_RECORDS, Element::Struct(DELETE_RECORDS_TOPIC), size_of::<DeleteRecordsTopic>()),
            (DELETE_RECORDS, Element::Struct(DELETE_RECORDS_PARTITION), size_of::<DeleteRecordsPartition>()),
            (
                OFFSET_FOR_LEADER_EPOCH,
                Element::Struct(LEADER_EPOCH_PARTITION),
                size_of::<OffsetForLeaderPartition>(),
            ),
            (OFFSET_FOR_LEADER_EPOCH, Element::Struct(LEADER_EPOCH_TOPIC), size_of::<OffsetForLeaderTopic>()),
            (
                DESCRIBE_CONFIGS,
                Element::Struct(DESCRIBE_CONFIGS_RESOURCE),
                size_of::<DescribeConfigsResource>(),
            ),
            (DESCRIBE_CONFIGS, Element::Str, size_of::<StrBytes>()),
            (
                DESCRIBE_LOG_DIRS,
                Element::Struct(DESCRIBE_LOG_DIRS_TOPIC),
                size_of::<DescribableLogDirTopic>(),
            ),
            (CREATE_PARTITIONS, Element::Struct(CREATE_PARTITIONS_TOPIC), size_of::<CreatePartitionsTopic>()),
            (
                CREATE_PARTITIONS,
                Element::Struct(CREATE_PARTITIONS_ASSIGNMENT),
                size_of::<CreatePartitionsAssignment>(),
            ),
            (DESCRIBE_TOPIC_PARTITIONS, Element::Struct(TOPIC_PARTITIONS_TOPIC), size_of::<TopicRequest>()),
        ];
        for (api_key, element, decoded_bytes) in cases {
            let range = find(api_key).expect("listed");
            for version in range.min..=range.max {
                let wire_bytes = element_size_min(element, version, is_flexible(api_key, version));
                assert!(
                    decoded_bytes <= DECODED_TO_WIRE_RATIO_MAX * wire_bytes,
                    "{} v{version}: {decoded_bytes} bytes for {wire_bytes}",
                    range.name
                );
            }
        }
    }

    #[test]
    fn every_api_has_a_schema_or_a_decoder_of_its_own() {
        for range in SUPPORTED {
            let by_hand = [PRODUCE, FETCH, SHARE_FETCH, SHARE_ACKNOWLEDGE].contains(&range.key);
            assert_eq!(schema(range.key).is_none(), by_hand, "{}", range.name);
        }
        let refused = |api_key, version| check(api_key, version, &[]);
        for (api_key, version) in [(PRODUCE, 9), (FETCH, 12), (METADATA, 14), (METADATA, -1), (9999, 0)] {
            assert_eq!(refused(api_key, version), Err(WireError::UnsupportedVersion { api_key, version }));
        }
    }
}
