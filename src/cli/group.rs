//! `ringlog group`: list and describe consumer groups with their lag, delete them, and move their offsets, with the
//! flags of Kafka's `kafka-consumer-groups`.
//!
//! Owner: the command that runs. Invariants: offsets are moved only with `--execute`, and only in a group without
//! members. Must not: join a group.

use std::collections::BTreeMap;

use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, DeleteGroupsRequest, DescribeGroupsRequest, GroupId, ListGroupsRequest,
    OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest, TopicName,
};

use super::client::{ClientError, Cluster, Endpoint, PartitionId, Result, check, text};
use super::group_reset::{self, ResetArguments};
use super::table;

const LATEST: i64 = -1;
const GROUP_ID_NOT_FOUND: i16 = 69;

#[derive(clap::Args)]
pub(super) struct GroupArguments {
    #[command(flatten)]
    endpoint: Endpoint,
    #[command(flatten)]
    action: Action,
    /// The group; repeatable
    #[arg(long)]
    group: Vec<String>,
    /// All groups
    #[arg(long, conflicts_with = "group")]
    all_groups: bool,
    /// With --describe: offsets and lag (the default)
    #[arg(long)]
    offsets: bool,
    /// With --describe: the members
    #[arg(long)]
    members: bool,
    /// With --list or --describe: the state
    #[arg(long)]
    state: bool,
    /// A topic, or topic:0,1,2; repeatable
    #[arg(long)]
    pub(super) topic: Vec<String>,
    /// All topics that the group has offsets of
    #[arg(long, conflicts_with = "topic")]
    pub(super) all_topics: bool,
    #[command(flatten)]
    reset: ResetArguments,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Action {
    /// Names of all groups
    #[arg(long)]
    list: bool,
    /// Offsets, members or state of a group
    #[arg(long)]
    describe: bool,
    /// Delete groups
    #[arg(long)]
    delete: bool,
    /// Forget a group's offsets of some topics
    #[arg(long)]
    delete_offsets: bool,
    /// Move a group's offsets
    #[arg(long)]
    reset_offsets: bool,
}

/// A group as both protocols describe it.
pub(super) struct Described {
    pub(super) state: String,
    assignor: String,
    members: Vec<Member>,
}

struct Member {
    id: String,
    instance: String,
    host: String,
    client: String,
    partitions: Vec<PartitionId>,
}

pub(super) fn run(arguments: &GroupArguments) -> Result<()> {
    let mut cluster = Cluster::connect(&arguments.endpoint)?;
    if arguments.action.list {
        return list(&mut cluster, arguments.state);
    }
    let groups = match arguments.all_groups {
        true => listed(&mut cluster)?.into_iter().map(|(group, ..)| group).collect(),
        false => arguments.group.clone(),
    };
    if groups.is_empty() && !arguments.all_groups {
        return Err(ClientError::Protocol("--group is missing".to_owned()));
    }
    for group in &groups {
        if arguments.action.describe {
            describe(&mut cluster, arguments, group)?;
        } else if arguments.action.delete {
            delete(&mut cluster, group)?;
        } else if arguments.action.delete_offsets {
            delete_offsets(&mut cluster, arguments, group)?;
        } else {
            group_reset::run(&mut cluster, arguments, &arguments.reset, group)?;
        }
    }
    Ok(())
}

/// All groups with type and state.
fn listed(cluster: &mut Cluster) -> Result<Vec<(String, String, String)>> {
    let mut groups = Vec::new();
    for broker in cluster.broker_ids() {
        let answer = cluster.broker(broker)?.call(0, 5, |_| ListGroupsRequest::default())?;
        check("groups", answer.error_code, None)?;
        for group in answer.groups {
            let kind = if group.group_type.is_empty() { group.protocol_type } else { group.group_type };
            groups.push((group.group_id.to_string(), kind.to_string(), group.group_state.to_string()));
        }
    }
    groups.sort();
    Ok(groups)
}

fn list(cluster: &mut Cluster, with_state: bool) -> Result<()> {
    let groups = listed(cluster)?;
    if with_state {
        let rows: Vec<Vec<String>> =
            groups.into_iter().map(|(group, kind, state)| vec![group, kind, state]).collect();
        print!("{}", table::render(&["GROUP", "TYPE", "STATE"], &rows));
    } else {
        groups.iter().for_each(|(group, ..)| println!("{group}"));
    }
    Ok(())
}

/// What a group is; `None` if there is no such group.
pub(super) fn described(cluster: &mut Cluster, group: &str) -> Result<Option<Described>> {
    let coordinator = cluster.coordinator(group)?;
    let id = GroupId(text(group));
    // The new protocol first: a broker that does not know it says so, and its groups are all classic ones.
    if coordinator.version::<ConsumerGroupDescribeRequest>(0, 1).is_ok() {
        let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![id.clone()]);
        let answer = coordinator.call(0, 1, |_| request)?;
        let found = answer.groups.into_iter().find(|found| found.error_code == 0);
        if let Some(found) = found {
            let members = found.members.into_iter().map(|member| Member {
                id: member.member_id.to_string(),
                instance: member.instance_id.map(|id| id.to_string()).unwrap_or_default(),
                host: member.client_host.to_string(),
                client: member.client_id.to_string(),
                partitions: member
                    .assignment
                    .topic_partitions
                    .iter()
                    .flat_map(|topic| {
                        topic.partitions.iter().map(|index| (topic.topic_name.to_string(), *index))
                    })
                    .collect(),
            });
            return Ok(Some(Described {
                state: found.group_state.to_string(),
                assignor: found.assignor_name.to_string(),
                members: members.collect(),
            }));
        }
    }
    let answer = coordinator.call(0, 5, |_| DescribeGroupsRequest::default().with_groups(vec![id]))?;
    let Some(found) = answer.groups.into_iter().next() else { return Ok(None) };
    if found.error_code == GROUP_ID_NOT_FOUND || found.group_state.as_str() == "Dead" {
        return Ok(None);
    }
    check(&format!("group {group}"), found.error_code, found.error_message.as_deref())?;
    let members = found.members.into_iter().map(|member| Member {
        id: member.member_id.to_string(),
        instance: member.group_instance_id.map(|id| id.to_string()).unwrap_or_default(),
        host: member.client_host.to_string(),
        client: member.client_id.to_string(),
        partitions: assignment(&member.member_assignment).unwrap_or_default(),
    });
    Ok(Some(Described {
        state: found.group_state.to_string(),
        assignor: found.protocol_data.to_string(),
        members: members.collect(),
    }))
}

/// The partitions in a member's assignment, as the consumer protocol of all clients encodes it.
fn assignment(bytes: &[u8]) -> Option<Vec<PartitionId>> {
    fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
        let (head, rest) = bytes.split_at_checked(count)?;
        *bytes = rest;
        Some(head)
    }
    fn number(bytes: &mut &[u8]) -> Option<i32> {
        Some(i32::from_be_bytes(take(bytes, 4)?.try_into().ok()?))
    }
    let mut rest = bytes;
    take(&mut rest, 2)?;
    let mut partitions = Vec::new();
    for _ in 0..number(&mut rest)? {
        let size = u16::from_be_bytes(take(&mut rest, 2)?.try_into().ok()?);
        let topic = String::from_utf8_lossy(take(&mut rest, size.into())?).into_owned();
        for _ in 0..number(&mut rest)? {
            partitions.push((topic.clone(), number(&mut rest)?));
        }
    }
    Some(partitions)
}

/// The committed offsets of a group.
pub(super) fn committed(cluster: &mut Cluster, group: &str) -> Result<BTreeMap<PartitionId, i64>> {
    let request = OffsetFetchRequest::default().with_group_id(GroupId(text(group))).with_topics(None);
    let answer = cluster.coordinator(group)?.call(2, 7, |_| request)?;
    check(&format!("offsets of {group}"), answer.error_code, None)?;
    let mut offsets = BTreeMap::new();
    for topic in answer.topics {
        for partition in topic.partitions {
            check(&format!("offsets of {group}"), partition.error_code, None)?;
            if partition.committed_offset >= 0 {
                offsets
                    .insert((topic.name.to_string(), partition.partition_index), partition.committed_offset);
            }
        }
    }
    Ok(offsets)
}

/// Who commits that is no member: only for a group without members.
pub(super) const NOBODY: (&str, i32) = ("", -1);

/// Commits offsets for a member, by its id and generation, or for [`NOBODY`].
pub(super) fn commit(
    cluster: &mut Cluster,
    group: &str,
    member: (&str, i32),
    offsets: &BTreeMap<PartitionId, i64>,
) -> Result<()> {
    let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
    for ((topic, index), offset) in offsets {
        topics.entry(topic).or_default().push(
            OffsetCommitRequestPartition::default()
                .with_partition_index(*index)
                .with_committed_offset(*offset)
                .with_committed_metadata(Some(text(""))),
        );
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        OffsetCommitRequestTopic::default().with_name(TopicName(text(topic))).with_partitions(partitions)
    });
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_member_id(text(member.0))
        .with_generation_id_or_member_epoch(member.1)
        .with_retention_time_ms(-1)
        .with_topics(topics.collect());
    let answer = cluster.coordinator(group)?.call(2, 7, |_| request)?;
    for topic in answer.topics {
        for partition in topic.partitions {
            let what = format!("{}-{}", topic.name.as_str(), partition.partition_index);
            check(&what, partition.error_code, None)?;
        }
    }
    Ok(())
}

fn describe(cluster: &mut Cluster, arguments: &GroupArguments, group: &str) -> Result<()> {
    let found = described(cluster, group)?;
    let offsets = committed(cluster, group)?;
    let Some(found) = found.or_else(|| (!offsets.is_empty()).then(Described::empty)) else {
        return Err(ClientError::Refused(format!("Consumer group '{group}' does not exist.")));
    };
    if found.members.is_empty() {
        eprintln!("Consumer group '{group}' has no active members.");
    }
    let dash = |value: &str| if value.is_empty() { "-".to_owned() } else { value.to_owned() };
    if arguments.state {
        let row = vec![
            group.to_owned(),
            dash(&found.assignor),
            found.state.clone(),
            found.members.len().to_string(),
        ];
        println!("{}", table::render(&["GROUP", "ASSIGNOR", "STATE", "MEMBERS"], &[row]));
    }
    if arguments.members {
        let rows: Vec<Vec<String>> = found
            .members
            .iter()
            .map(|member| {
                let partitions = member.partitions.iter().map(|(topic, index)| format!("{topic}-{index}"));
                vec![
                    group.to_owned(),
                    member.id.clone(),
                    dash(&member.instance),
                    member.host.clone(),
                    member.client.clone(),
                    dash(&partitions.collect::<Vec<_>>().join(",")),
                ]
            })
            .collect();
        let header = ["GROUP", "CONSUMER-ID", "INSTANCE", "HOST", "CLIENT-ID", "ASSIGNMENT"];
        println!("{}", table::render(&header, &rows));
    }
    if arguments.offsets || !(arguments.members || arguments.state) {
        println!("{}", offsets_table(cluster, group, &found, &offsets)?);
    }
    Ok(())
}

impl Described {
    /// A group of which there are offsets only.
    fn empty() -> Described {
        Described { state: "Empty".to_owned(), assignor: String::new(), members: Vec::new() }
    }
}

fn offsets_table(
    cluster: &mut Cluster,
    group: &str,
    found: &Described,
    offsets: &BTreeMap<PartitionId, i64>,
) -> Result<String> {
    let owners: BTreeMap<&PartitionId, &Member> = found
        .members
        .iter()
        .flat_map(|member| member.partitions.iter().map(move |partition| (partition, member)))
        .collect();
    let mut wanted: BTreeMap<PartitionId, i64> = offsets.keys().map(|id| (id.clone(), LATEST)).collect();
    wanted.extend(owners.keys().map(|id| ((*id).clone(), LATEST)));
    let ends = ends(cluster, &wanted)?;
    let rows: Vec<Vec<String>> = wanted
        .keys()
        .map(|partition| {
            let (at, end) = (offsets.get(partition), ends.get(partition));
            let shown = |number: Option<i64>| number.map_or("-".to_owned(), |number| number.to_string());
            let lag = at.zip(end).map(|(at, end)| (end - at).max(0));
            let owner = owners.get(partition);
            let of_owner = |field: fn(&Member) -> &str| owner.map_or("-", |member| field(member)).to_owned();
            vec![
                group.to_owned(),
                partition.0.clone(),
                partition.1.to_string(),
                shown(at.copied()),
                shown(end.copied()),
                shown(lag),
                of_owner(|member| &member.id),
                of_owner(|member| &member.host),
                of_owner(|member| &member.client),
            ]
        })
        .collect();
    let header = [
        "GROUP",
        "TOPIC",
        "PARTITION",
        "CURRENT-OFFSET",
        "LOG-END-OFFSET",
        "LAG",
        "CONSUMER-ID",
        "HOST",
        "CLIENT-ID",
    ];
    Ok(table::render(&header, &rows))
}

/// The ends of those partitions that still exist.
fn ends(
    cluster: &mut Cluster,
    partitions: &BTreeMap<PartitionId, i64>,
) -> Result<BTreeMap<PartitionId, i64>> {
    let mut present = partitions.clone();
    let topics: Vec<String> = partitions.keys().map(|(topic, _)| topic.clone()).collect();
    for topic in topics {
        let known = cluster.leaders(&[&topic]).unwrap_or_default();
        present.retain(|id, _| id.0 != topic || known.contains_key(id));
    }
    if present.is_empty() { Ok(BTreeMap::new()) } else { cluster.offsets(&present, false) }
}

fn delete(cluster: &mut Cluster, group: &str) -> Result<()> {
    let request = DeleteGroupsRequest::default().with_groups_names(vec![GroupId(text(group))]);
    let answer = cluster.coordinator(group)?.call(0, 2, |_| request)?;
    for result in answer.results {
        check(&format!("group {group}"), result.error_code, None)?;
    }
    println!("Deleted group {group}.");
    Ok(())
}

fn delete_offsets(cluster: &mut Cluster, arguments: &GroupArguments, group: &str) -> Result<()> {
    let mut topics: BTreeMap<String, Vec<OffsetDeleteRequestPartition>> = BTreeMap::new();
    for (topic, index) in scope(cluster, arguments, group)? {
        let partition = OffsetDeleteRequestPartition::default().with_partition_index(index);
        topics.entry(topic).or_default().push(partition);
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        OffsetDeleteRequestTopic::default().with_name(TopicName(text(&topic))).with_partitions(partitions)
    });
    let request =
        OffsetDeleteRequest::default().with_group_id(GroupId(text(group))).with_topics(topics.collect());
    let answer = cluster.coordinator(group)?.call(0, 0, |_| request)?;
    check(&format!("group {group}"), answer.error_code, None)?;
    for topic in answer.topics {
        for partition in topic.partitions {
            let what = format!("{}-{}", topic.name.as_str(), partition.partition_index);
            check(&what, partition.error_code, None)?;
            println!("Deleted the offset of {what}.");
        }
    }
    Ok(())
}

/// The partitions that `--topic` and `--all-topics` mean.
pub(super) fn scope(
    cluster: &mut Cluster,
    arguments: &GroupArguments,
    group: &str,
) -> Result<Vec<PartitionId>> {
    if arguments.all_topics {
        return Ok(committed(cluster, group)?.into_keys().collect());
    }
    let mut partitions = Vec::new();
    for given in &arguments.topic {
        match given.split_once(':') {
            Some((topic, list)) => {
                for index in list.split(',') {
                    let index = index.trim().parse().map_err(|_| {
                        ClientError::Protocol(format!("--topic {given}: expected topic:0,1,2"))
                    })?;
                    partitions.push((topic.to_owned(), index));
                }
            }
            None => partitions.extend(cluster.leaders(&[given])?.into_keys()),
        }
    }
    match partitions.is_empty() {
        true => Err(ClientError::Protocol("--topic or --all-topics is missing".to_owned())),
        false => Ok(partitions),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_of_classic_members_are_read() {
        let bytes =
            [&[0, 1, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 2][..], &[0, 0, 0, 3, 0, 0, 0, 9], &[0xff; 4]].concat();
        assert_eq!(assignment(&bytes), Some(vec![("t".to_owned(), 3), ("t".to_owned(), 9)]));
        for cut in 0..bytes.len() - 4 {
            assert_eq!(assignment(&bytes[..cut]), None, "cut at {cut}");
        }
    }
}
