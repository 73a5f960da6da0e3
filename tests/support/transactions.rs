//! Requests of transactional producers, and what a consumer of committed data makes of a fetch.
//!
//! Owner: the test. Invariant: [`committed`] drops aborted batches as real consumers do: by the list that the fetch
//! carries and the markers in the log. It must not retry by itself, but where it says so.

use std::collections::HashSet;
use std::io;

use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, EndTxnRequest, GroupId, InitProducerIdRequest,
    OffsetFetchRequest, ProduceRequest, ProducerId, TopicName, TransactionalId, TxnOffsetCommitRequest,
};
use kafka_protocol::protocol::StrBytes;
use ringlog::wire::control_batch;
use ringlog::wire::record_fields;

use super::batches;
use super::client::{Client, FETCH_VERSION, fetch_request, produce_request, produce_results};

/// CONCURRENT_TRANSACTIONS.
pub const CONCURRENT: i16 = 51;

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

/// A transactional id in a request.
pub fn transactional_id(id: &str) -> TransactionalId {
    TransactionalId(text(id))
}

/// A producer id and epoch.
pub type Producer = (i64, i16);

/// InitProducerId: the producer, or an error code.
pub fn init(
    client: &mut Client,
    id: &str,
    timeout_ms: i32,
    expected: Option<Producer>,
) -> io::Result<Result<Producer, i16>> {
    let (producer, epoch) = expected.unwrap_or((-1, -1));
    let request = InitProducerIdRequest::default()
        .with_transactional_id(Some(transactional_id(id)))
        .with_transaction_timeout_ms(timeout_ms)
        .with_producer_id(ProducerId(producer))
        .with_producer_epoch(epoch);
    let response = client.call(5, &request)?;
    Ok(match response.error_code {
        0 => Ok((response.producer_id.0, response.producer_epoch)),
        code => Err(code),
    })
}

/// InitProducerId, again while something else is under way or the coordinator is loading.
pub fn begin(client: &mut Client, id: &str) -> io::Result<Producer> {
    for _ in 0..600 {
        match init(client, id, 60_000, None)? {
            Ok(producer) => return Ok(producer),
            Err(CONCURRENT | 14 | 15) => std::thread::sleep(std::time::Duration::from_millis(20)),
            Err(code) => panic!("InitProducerId: error {code}"),
        }
    }
    panic!("InitProducerId does not come to an end");
}

/// AddPartitionsToTxn version 3: the code of each partition.
pub fn add(client: &mut Client, id: &str, producer: Producer, parts: &[(&str, i32)]) -> io::Result<Vec<i16>> {
    let topics = parts.iter().map(|(topic, partition)| {
        AddPartitionsToTxnTopic::default().with_name(TopicName(text(topic))).with_partitions(vec![*partition])
    });
    let request = AddPartitionsToTxnRequest::default()
        .with_v3_and_below_transactional_id(transactional_id(id))
        .with_v3_and_below_producer_id(ProducerId(producer.0))
        .with_v3_and_below_producer_epoch(producer.1)
        .with_v3_and_below_topics(topics.collect());
    let response = client.call(3, &request)?;
    let topics = response.results_by_topic_v3_and_below.iter();
    Ok(topics.flat_map(|topic| topic.results_by_partition.iter().map(|p| p.partition_error_code)).collect())
}

/// Produces batches as part of a transaction: code and offset of each.
pub fn produce(
    client: &mut Client,
    version: i16,
    id: &str,
    parts: &[(&str, i32, &[u8])],
) -> io::Result<Vec<(i16, i64)>> {
    let request = produce_request(parts, -1).with_transactional_id(Some(transactional_id(id)));
    let response = client.call::<ProduceRequest>(version, &request)?;
    Ok(produce_results(&response).into_iter().map(|(_, _, code, offset)| (code, offset)).collect())
}

/// EndTxn: the producer to go on with (from version 5 on), or an error code.
pub fn end(
    client: &mut Client,
    version: i16,
    id: &str,
    producer: Producer,
    commit: bool,
) -> io::Result<Result<Producer, i16>> {
    let request = EndTxnRequest::default()
        .with_transactional_id(transactional_id(id))
        .with_producer_id(ProducerId(producer.0))
        .with_producer_epoch(producer.1)
        .with_committed(commit);
    let response = client.call(version, &request)?;
    Ok(match response.error_code {
        0 if version >= 5 => Ok((response.producer_id.0, response.producer_epoch)),
        0 => Ok(producer),
        code => Err(code),
    })
}

/// Commits an offset of partition 0 of `topic` for a group without members, as part of a transaction: the code. Before
/// version 5 the group has to be added first, which this does.
pub fn commit_offset(
    client: &mut Client,
    version: i16,
    id: &str,
    producer: Producer,
    (group, topic, offset): (&str, &str, i64),
) -> io::Result<i16> {
    if version < 5 {
        let request = AddOffsetsToTxnRequest::default()
            .with_transactional_id(transactional_id(id))
            .with_producer_id(ProducerId(producer.0))
            .with_producer_epoch(producer.1)
            .with_group_id(GroupId(text(group)));
        match client.call(3, &request)?.error_code {
            0 => {}
            code => return Ok(code),
        }
    }
    let partition = TxnOffsetCommitRequestPartition::default()
        .with_partition_index(0)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(-1)
        .with_committed_metadata(Some(text("m")));
    let topic = TxnOffsetCommitRequestTopic::default()
        .with_name(TopicName(text(topic)))
        .with_partitions(vec![partition]);
    let request = TxnOffsetCommitRequest::default()
        .with_transactional_id(transactional_id(id))
        .with_group_id(GroupId(text(group)))
        .with_producer_id(ProducerId(producer.0))
        .with_producer_epoch(producer.1)
        .with_generation_id(-1)
        .with_topics(vec![topic]);
    Ok(client.call(version, &request)?.topics[0].partitions[0].error_code)
}

/// The offset that a group has committed for partition 0 of `topic`, or an error code; -1 for none.
pub fn committed_offset(client: &mut Client, group: &str, topic: &str) -> io::Result<Result<i64, i16>> {
    let topics =
        OffsetFetchRequestTopics::default().with_name(TopicName(text(topic))).with_partition_indexes(vec![0]);
    let group = OffsetFetchRequestGroup::default()
        .with_group_id(GroupId(text(group)))
        .with_member_epoch(-1)
        .with_topics(Some(vec![topics]));
    let request = OffsetFetchRequest::default().with_groups(vec![group]).with_require_stable(true);
    let response = client.call(8, &request)?;
    let group = &response.groups[0];
    if group.error_code != 0 {
        return Ok(Err(group.error_code));
    }
    let found = &group.topics[0].partitions[0];
    Ok(if found.error_code == 0 { Ok(found.committed_offset) } else { Err(found.error_code) })
}

/// What a consumer sees of one partition from `offset` on.
#[derive(Debug, Default)]
pub struct View {
    /// Values, as text up to the second slash.
    pub values: Vec<String>,
    /// High watermark.
    pub high_watermark: i64,
    /// Last stable offset.
    pub last_stable: i64,
}

/// All that a consumer of committed (or of all) data gets.
pub fn view(client: &mut Client, topic: &str, partition: i32, committed: bool) -> io::Result<View> {
    let mut view = View::default();
    let mut at = client.try_offset(topic, partition, super::client::EARLIEST)?;
    loop {
        let request =
            fetch_request(&[(topic, partition, at)], 0, 1, 300_000).with_isolation_level(i8::from(committed));
        let response = client.call(FETCH_VERSION, &request)?;
        let found = &response.responses[0].partitions[0];
        assert_eq!(found.error_code, 0, "fetch at {at}");
        (view.high_watermark, view.last_stable) = (found.high_watermark, found.last_stable_offset);
        let mut aborted: Vec<(i64, i64)> =
            found.aborted_transactions.as_ref().map_or_else(Vec::new, |list| {
                list.iter().map(|one| (one.first_offset, one.producer_id.0)).collect()
            });
        assert!(
            committed || found.aborted_transactions.is_none(),
            "only readers of committed data get a list"
        );
        aborted.sort_unstable();
        let all = batches::split(&found.records.clone().unwrap_or_default()).expect("whole batches");
        let Some(last) = all.last() else { return Ok(view) };
        let next = last.info.next_offset();
        assert!(!committed || next <= view.last_stable, "nothing undecided is returned");
        collect(&all, aborted, &mut view.values);
        at = next;
    }
}

fn collect(all: &[batches::Fetched], aborted: Vec<(i64, i64)>, values: &mut Vec<String>) {
    let mut aborted = aborted.into_iter().peekable();
    let mut dropping = HashSet::new();
    for batch in all {
        while let Some((_, id)) = aborted.next_if(|(first, _)| *first <= batch.info.last_offset()) {
            dropping.insert(id);
        }
        if batch.info.is_control() {
            let marker = control_batch::parse(&batch.bytes).expect("a marker");
            if !marker.commit {
                dropping.remove(&marker.producer_id);
            }
        } else if !(batch.info.is_transactional() && dropping.contains(&batch.info.producer_id)) {
            for record in record_fields::iterate(&batch.bytes).expect("records") {
                let value = record.expect("a record").value.unwrap_or_default();
                let value = String::from_utf8_lossy(value).into_owned();
                values.push(value.splitn(3, '/').take(2).collect::<Vec<_>>().join("/"));
            }
        }
    }
}
