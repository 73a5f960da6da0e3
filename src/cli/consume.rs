//! `ringlog consume`: records of a topic to the standard output, with the flags of Kafka's `kafka-console-consumer`.
//!
//! Owner: the command that runs. With `--group` it is a member of that group: it begins at the group's committed
//! offsets in the partitions that it is assigned, commits what it has printed, and leaves when it ends; with
//! `--partition` as well, the partition is assigned by hand and the group only keeps its offset. Invariants:
//! records of one partition are printed in order and once; with `read_committed` those of aborted transactions are
//! not printed. Must not: keep more than one answer in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{BrokerId, FetchRequest, TopicName};

use super::client::{
    ClientError, Cluster, Endpoint, PartitionId, Record, Result, check, decode_records, text,
};
use super::group::{NOBODY, commit, committed};
use super::membership::Membership;
use super::produce::split_property;
use super::serve::stop_flag;
use crate::wire::record_batch::parse_header;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const OFFSET_OUT_OF_RANGE: i16 = 1;
/// How long a broker may wait for records, milliseconds.
const WAIT_MS: i32 = 500;
const FETCH_BYTES: i32 = 8 << 20;

#[derive(clap::Args)]
pub(super) struct ConsumeArguments {
    #[command(flatten)]
    endpoint: Endpoint,
    /// The topic
    #[arg(long)]
    topic: String,
    /// Only this partition
    #[arg(long)]
    partition: Option<i32>,
    /// Where to begin in it: a number, earliest or latest; a negative number counts from the end
    #[arg(long, requires = "partition", allow_hyphen_values = true)]
    offset: Option<String>,
    /// Begin with the oldest record (for a group: where nothing is committed)
    #[arg(long)]
    from_beginning: bool,
    /// End after so many records
    #[arg(long)]
    max_messages: Option<u64>,
    /// End when nothing came for so long, in milliseconds
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u64>,
    /// Be a member of this group: begin at its offsets, commit to them, share the partitions with its other members;
    /// with --partition, keep only the offsets in it
    #[arg(long, visible_alias = "group-id")]
    group: Option<String>,
    /// read_uncommitted or read_committed
    #[arg(long, default_value = "read_uncommitted")]
    isolation_level: String,
    /// What is printed: print.key, print.value, print.timestamp, print.partition, print.offset, print.headers=true,
    /// key.separator, line.separator, headers.separator, null.literal
    #[arg(long, visible_alias = "formatter-property", value_name = "KEY=VALUE")]
    property: Vec<String>,
}

/// How a record becomes a line; names and order as in Kafka's default formatter.
#[derive(Debug)]
struct LineFormat {
    timestamp: bool,
    partition: bool,
    offset: bool,
    headers: bool,
    key: bool,
    value: bool,
    key_separator: String,
    line_separator: String,
    headers_separator: String,
    null: String,
}

impl LineFormat {
    fn new(properties: &[String]) -> Result<LineFormat> {
        let mut format = LineFormat {
            timestamp: false,
            partition: false,
            offset: false,
            headers: false,
            key: false,
            value: true,
            key_separator: "\t".to_owned(),
            line_separator: "\n".to_owned(),
            headers_separator: ",".to_owned(),
            null: "null".to_owned(),
        };
        for property in properties {
            let (key, value) = split_property(property)?;
            let on = value == "true";
            match key {
                "print.timestamp" => format.timestamp = on,
                "print.partition" => format.partition = on,
                "print.offset" => format.offset = on,
                "print.headers" => format.headers = on,
                "print.key" => format.key = on,
                "print.value" => format.value = on,
                "key.separator" => format.key_separator = value.to_owned(),
                "line.separator" => format.line_separator = value.to_owned(),
                "headers.separator" => format.headers_separator = value.to_owned(),
                "null.literal" => format.null = value.to_owned(),
                other => return Err(ClientError::Protocol(format!("--property {other} is unknown"))),
            }
        }
        Ok(format)
    }

    fn line(&self, partition: i32, record: &Record) -> Vec<u8> {
        let bytes = |field: &Option<Vec<u8>>| field.clone().unwrap_or_else(|| self.null.clone().into_bytes());
        let mut parts: Vec<Vec<u8>> = Vec::new();
        if self.timestamp {
            let kind = if record.append_time { "LogAppendTime" } else { "CreateTime" };
            parts.push(format!("{kind}:{}", record.timestamp_ms).into_bytes());
        }
        if self.partition {
            parts.push(format!("Partition:{partition}").into_bytes());
        }
        if self.offset {
            parts.push(format!("Offset:{}", record.offset).into_bytes());
        }
        if self.headers {
            let headers =
                record.headers.iter().map(|(name, value)| [name.as_bytes(), b":", &bytes(value)].concat());
            let headers = headers.collect::<Vec<_>>().join(self.headers_separator.as_bytes());
            parts.push(if record.headers.is_empty() { b"NO_HEADERS".to_vec() } else { headers });
        }
        if self.key {
            parts.push(bytes(&record.key));
        }
        if self.value {
            parts.push(bytes(&record.value));
        }
        let mut line = parts.join(self.key_separator.as_bytes());
        line.extend_from_slice(self.line_separator.as_bytes());
        line
    }
}

pub(super) fn run(arguments: &ConsumeArguments) -> Result<()> {
    let read_committed = match arguments.isolation_level.as_str() {
        "read_uncommitted" => false,
        "read_committed" => true,
        other => return Err(ClientError::Protocol(format!("--isolation-level {other} is unknown"))),
    };
    let format = LineFormat::new(&arguments.property)?;
    let mut cluster = Cluster::connect(&arguments.endpoint)?;
    let reader = Reader { arguments, format: &format, read_committed, stop: stop_flag() };
    let mut progress = Progress::new(arguments);
    match (&arguments.group, arguments.partition) {
        (Some(group), None) => {
            let mut member = Membership::new(group, &arguments.topic, arguments.endpoint.request_timeout_ms);
            let outcome = reader.consume_as(&mut cluster, &mut member, &mut progress);
            // Whatever ended it: others are to have the partitions now.
            let left = member.leave(&mut cluster);
            outcome.and(left)?;
        }
        (group, _) => {
            let mut leaders = cluster.leaders(&[&arguments.topic])?;
            if let Some(partition) = arguments.partition {
                leaders.retain(|(_, index), _| *index == partition);
            }
            if leaders.is_empty() {
                return Err(ClientError::Protocol("there is no such partition".to_owned()));
            }
            let all = leaders.keys().cloned().collect();
            let mut positions = starts(&mut cluster, arguments, all, read_committed)?;
            let outcome = reader.consume(&mut cluster, &leaders, &mut positions, None, &mut progress);
            if let Some(group) = group {
                commit(&mut cluster, group, NOBODY, &positions)?;
            }
            outcome?;
        }
    }
    eprintln!("Processed a total of {} messages", progress.printed);
    Ok(())
}

/// How far a command has come.
struct Progress {
    printed: u64,
    left: u64,
    last_news: Instant,
}

impl Progress {
    fn new(arguments: &ConsumeArguments) -> Progress {
        let left = arguments.max_messages.unwrap_or(u64::MAX);
        Progress { printed: 0, left, last_news: Instant::now() }
    }
}

/// Why reading ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Enough, or nobody reads any more.
    Done,
    /// The group is assigning its partitions anew.
    Rebalance,
}

/// What stays the same while a command reads.
struct Reader<'a> {
    arguments: &'a ConsumeArguments,
    format: &'a LineFormat,
    read_committed: bool,
    stop: &'a AtomicBool,
}

impl Reader<'_> {
    /// Reads what a group assigns, until it is enough.
    fn consume_as(
        &self,
        cluster: &mut Cluster,
        member: &mut Membership,
        progress: &mut Progress,
    ) -> Result<()> {
        loop {
            let assigned = member.join(cluster)?;
            let mut leaders = cluster.leaders(&[&self.arguments.topic])?;
            leaders.retain(|(_, index), _| assigned.contains(index));
            let partitions = leaders.keys().cloned().collect();
            let mut positions = starts(cluster, self.arguments, partitions, self.read_committed)?;
            progress.last_news = Instant::now();
            let outcome = self.consume(cluster, &leaders, &mut positions, Some(member), progress);
            let committed = member.commit(cluster, &positions);
            let end = outcome?;
            committed?;
            if end == End::Done {
                return Ok(());
            }
        }
    }

    fn consume(
        &self,
        cluster: &mut Cluster,
        leaders: &BTreeMap<PartitionId, i32>,
        positions: &mut BTreeMap<PartitionId, i64>,
        mut member: Option<&mut Membership>,
        progress: &mut Progress,
    ) -> Result<End> {
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        let brokers: BTreeSet<i32> = leaders.values().copied().collect();
        while progress.left > 0 && !self.stop.load(Ordering::Relaxed) {
            for leader in &brokers {
                let wanted = leaders.iter().filter(|(_, id)| *id == leader).map(|(partition, _)| partition);
                let request = fetch_request(wanted, positions, self.read_committed);
                // Up to version 12 topics go by name; from version 4 on there are isolation levels.
                let answer = cluster.broker(*leader)?.call(4, 12, |version| {
                    if version < 12 { request } else { request.with_session_epoch(-1) }
                })?;
                check("fetch", answer.error_code, None)?;
                for topic in answer.responses {
                    for data in topic.partitions {
                        let partition = (topic.topic.to_string(), data.partition_index);
                        if !self.print(&mut out, &data, &partition, positions, progress)? {
                            return Ok(End::Done);
                        }
                    }
                }
                // A closed pipe is the reader's way to say that it has enough.
                if out.flush().is_err() {
                    return Ok(End::Done);
                }
            }
            if let Some(member) = &mut member {
                if brokers.is_empty() {
                    // A spare member: others have all partitions.
                    std::thread::sleep(Duration::from_millis(WAIT_MS as u64));
                }
                if progress.left > 0 && !member.tend(cluster, positions)? {
                    return Ok(End::Rebalance);
                }
            }
            let quiet = |ms| progress.last_news.elapsed() >= Duration::from_millis(ms);
            if self.arguments.timeout_ms.is_some_and(quiet) {
                break;
            }
        }
        Ok(End::Done)
    }

    /// Prints what is new of one partition; false when nobody reads any more.
    fn print(
        &self,
        out: &mut impl Write,
        data: &PartitionData,
        partition: &PartitionId,
        positions: &mut BTreeMap<PartitionId, i64>,
        progress: &mut Progress,
    ) -> Result<bool> {
        for record in fresh_records(data, partition, positions, self.read_committed)? {
            if progress.left == 0 {
                return Ok(true);
            }
            if out.write_all(&self.format.line(partition.1, &record)).is_err() {
                return Ok(false);
            }
            positions.insert(partition.clone(), record.offset + 1);
            progress.last_news = Instant::now();
            progress.printed += 1;
            progress.left -= 1;
        }
        if progress.left > 0 {
            skip_to_end(data, partition, positions);
        }
        Ok(true)
    }
}

/// Where to begin in each partition.
fn starts(
    cluster: &mut Cluster,
    arguments: &ConsumeArguments,
    partitions: BTreeSet<PartitionId>,
    read_committed: bool,
) -> Result<BTreeMap<PartitionId, i64>> {
    let timestamp = if arguments.from_beginning { EARLIEST } else { LATEST };
    let mut ask = |timestamp| {
        let wanted = partitions.iter().map(|partition| (partition.clone(), timestamp)).collect();
        cluster.offsets(&wanted, read_committed)
    };
    let mut starts = match arguments.offset.as_deref() {
        Some("earliest") => ask(EARLIEST)?,
        Some("latest") => ask(LATEST)?,
        None => ask(timestamp)?,
        Some(number) => {
            let number: i64 = number
                .parse()
                .map_err(|_| ClientError::Protocol(format!("--offset {number}: not a number")))?;
            if number >= 0 {
                partitions.iter().map(|partition| (partition.clone(), number)).collect()
            } else {
                let mut ends = ask(LATEST)?;
                ends.values_mut().for_each(|end| *end = (*end + number).max(0));
                ends
            }
        }
    };
    if let (Some(group), None) = (&arguments.group, &arguments.offset) {
        for (partition, offset) in committed(cluster, group)? {
            if let Some(start) = starts.get_mut(&partition) {
                *start = offset;
            }
        }
    }
    Ok(starts)
}

fn fetch_request<'a>(
    partitions: impl Iterator<Item = &'a PartitionId>,
    positions: &BTreeMap<PartitionId, i64>,
    read_committed: bool,
) -> FetchRequest {
    let mut topics: BTreeMap<&str, Vec<FetchPartition>> = BTreeMap::new();
    for partition in partitions {
        topics.entry(&partition.0).or_default().push(
            FetchPartition::default()
                .with_partition(partition.1)
                .with_fetch_offset(positions.get(partition).copied().unwrap_or(0))
                .with_partition_max_bytes(FETCH_BYTES),
        );
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        FetchTopic::default().with_topic(TopicName(text(topic))).with_partitions(partitions)
    });
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(WAIT_MS)
        .with_min_bytes(1)
        .with_max_bytes(FETCH_BYTES)
        .with_isolation_level(read_committed.into())
        .with_topics(topics.collect())
}

/// The batches of an answer, one behind the other; what is cut off at the end is left out.
fn batches(data: &PartitionData) -> impl Iterator<Item = &[u8]> {
    let mut rest = data.records.as_deref().unwrap_or_default();
    std::iter::from_fn(move || {
        let info = parse_header(rest).ok().filter(|info| info.size_bytes <= rest.len())?;
        let (batch, after) = rest.split_at(info.size_bytes);
        rest = after;
        Some(batch)
    })
}

/// Records from the present position on, without control records and, if asked for, without aborted ones.
fn fresh_records(
    data: &PartitionData,
    partition: &PartitionId,
    positions: &BTreeMap<PartitionId, i64>,
    read_committed: bool,
) -> Result<Vec<Record>> {
    if data.error_code == OFFSET_OUT_OF_RANGE {
        let why = format!("the position is out of range; the log begins at {}", data.log_start_offset);
        return Err(super::client::refused(
            &format!("{}-{}", partition.0, partition.1),
            data.error_code,
            Some(&why),
        ));
    }
    check(&format!("{}-{}", partition.0, partition.1), data.error_code, None)?;
    let position = positions.get(partition).copied().unwrap_or(0);
    let mut aborted: Vec<(i64, i64)> = data
        .aborted_transactions
        .iter()
        .flatten()
        .map(|aborted| (aborted.first_offset, aborted.producer_id.0))
        .collect();
    aborted.sort_unstable_by_key(|(first, _)| std::cmp::Reverse(*first));
    let mut aborting = BTreeSet::new();
    let mut fresh = Vec::new();
    for batch in batches(data) {
        let info = parse_header(batch).map_err(|error| ClientError::Protocol(format!("a batch: {error}")))?;
        while aborted.last().is_some_and(|(first, _)| *first <= info.last_offset()) {
            aborting.extend(aborted.pop().map(|(_, producer)| producer));
        }
        if info.is_control() {
            // Either outcome ends the transaction that was going on.
            aborting.remove(&info.producer_id);
            continue;
        }
        if read_committed && info.is_transactional() && aborting.contains(&info.producer_id) {
            continue;
        }
        fresh.extend(decode_records(batch)?.into_iter().filter(|record| record.offset >= position));
    }
    Ok(fresh)
}

/// Moves behind everything in an answer, printed or not.
fn skip_to_end(data: &PartitionData, partition: &PartitionId, positions: &mut BTreeMap<PartitionId, i64>) {
    let end = batches(data).filter_map(|batch| parse_header(batch).ok()).map(|info| info.next_offset()).max();
    if let (Some(end), Some(position)) = (end, positions.get_mut(partition)) {
        *position = (*position).max(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::batch_builder::BatchBuilder;
    use kafka_protocol::messages::ProducerId;
    use kafka_protocol::messages::fetch_response::AbortedTransaction;

    #[test]
    fn lines_look_as_the_properties_say() {
        let record = Record {
            offset: 4,
            timestamp_ms: 9,
            append_time: false,
            key: Some(b"k".to_vec()),
            value: None,
            headers: vec![("h".to_owned(), Some(b"x".to_vec()))],
        };
        let all = ["print.timestamp", "print.partition", "print.offset", "print.headers", "print.key"];
        let mut properties: Vec<String> = all.iter().map(|key| format!("{key}=true")).collect();
        properties.push("key.separator=|".to_owned());
        let line = LineFormat::new(&properties).expect("valid").line(2, &record);
        assert_eq!(String::from_utf8(line).expect("text"), "CreateTime:9|Partition:2|Offset:4|h:x|k|null\n");
        assert_eq!(LineFormat::new(&[]).expect("valid").line(2, &record), b"null\n");
    }

    #[test]
    fn aborted_records_are_left_out_when_asked_for() {
        let batch = |offset, producer, flags| {
            BatchBuilder::new()
                .base_offset(offset)
                .producer(producer, 0, 0)
                .flags(flags)
                .record(1, None, Some(b"v"))
                .build()
        };
        // Producer 1 writes at 0 and aborts at 2, producer 2 writes at 1 and commits at 3; 1 writes again at 4.
        let log =
            [batch(0, 1, 0x10), batch(1, 2, 0x10), batch(2, 1, 0x30), batch(3, 2, 0x30), batch(4, 1, 0x10)];
        let aborted = AbortedTransaction::default().with_producer_id(ProducerId(1)).with_first_offset(0);
        let data = PartitionData::default()
            .with_records(Some(log.concat().into()))
            .with_aborted_transactions(Some(vec![aborted]));
        let partition = ("t".to_owned(), 0);
        let offsets = |read_committed| {
            let positions = [(partition.clone(), 0)].into();
            let fresh = fresh_records(&data, &partition, &positions, read_committed).expect("decodes");
            fresh.iter().map(|record| record.offset).collect::<Vec<_>>()
        };
        assert_eq!((offsets(true), offsets(false)), (vec![1, 4], vec![0, 1, 4]));
        let mut positions = [(partition.clone(), 0)].into();
        skip_to_end(&data, &partition, &mut positions);
        assert_eq!(positions[&partition], 5);
    }
}
