//! Committing, reading and deleting a group's offsets, their expiry, and what tools ask about groups.
//!
//! Owner: the partition's coordinator. Invariants: a commit is answered, and visible, once its record is durable;
//! offsets of a transaction become visible by its commit marker; an offset in use does not expire.
//! It must not check whether topics exist: the caller has the catalog.

use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;

use bytes::Bytes;

use super::classic::{ClassicGroup, State};
use super::classic_sync::MemberRef;
use super::consumer::ConsumerDescription;
use super::error::GroupError;
use super::groups::{Group, GroupPartition, GroupRef, Kind, storage_error};
use super::offsets::{Entry, TopicPartition};
use super::records::{Committed, Key};
use super::state_log::{LogRecord, RecordProducer};
use crate::limits::GROUP_OFFSETS_MAX;
use crate::rt;
use crate::wire::control_batch::Marker;

/// One offset to commit.
#[derive(Clone, Debug)]
pub struct CommitItem {
    /// Topic name.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// The offset of the next record to read.
    pub offset: i64,
    /// Leader epoch of the last record read, or -1.
    pub leader_epoch: i32,
    /// The client's own words.
    pub metadata: String,
}

/// One offset as a client gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedOffset {
    /// Topic name.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// The offset, or -1.
    pub offset: i64,
    /// Leader epoch, or -1.
    pub leader_epoch: i32,
    /// The client's own words.
    pub metadata: String,
    /// A transaction has it in hand, and the client asked to be told.
    pub unstable: bool,
}

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupOverview {
    /// Name.
    pub name: String,
    /// `consumer`, `connect` and so on.
    pub protocol_type: String,
    /// State, as clients name it.
    pub state: &'static str,
    /// `classic`, `consumer` or `share`.
    pub kind: &'static str,
}

/// A classic group in detail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassicDescription {
    /// State, as clients name it.
    pub state: &'static str,
    /// `consumer`, `connect` and so on.
    pub protocol_type: String,
    /// The chosen protocol, while the group is stable.
    pub protocol: String,
    /// Its members.
    pub members: Vec<MemberDescription>,
}

/// A member of a [`ClassicDescription`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberDescription {
    /// Member id.
    pub member_id: String,
    /// `group.instance.id`.
    pub instance_id: Option<String>,
    /// Client id.
    pub client_id: String,
    /// Where it connected from.
    pub client_host: String,
    /// Metadata for the chosen protocol, while the group is stable.
    pub metadata: Bytes,
    /// Assignment, while the group is stable.
    pub assignment: Bytes,
}

impl Group {
    fn check_commit(
        &mut self,
        member: &MemberRef,
        transactional: bool,
        now_ms: i64,
    ) -> Result<(), GroupError> {
        match &mut self.kind {
            Kind::Classic(classic) => classic.check_commit(member, transactional, now_ms),
            Kind::Consumer(consumer) => consumer.check_commit(member, transactional),
            // It has no offsets of that kind.
            Kind::Share(_) => Err(GroupError::GroupNotFound),
        }
    }
}

impl GroupPartition {
    /// Commits offsets, with `producer` as part of its transaction; resolves when they are durable.
    pub async fn commit(
        self: &Rc<Self>,
        name: &str,
        member: &MemberRef,
        producer: Option<RecordProducer>,
        retention_ms: Option<i64>,
        items: Vec<CommitItem>,
    ) -> Result<(), GroupError> {
        let group = match self.find(name) {
            Some(group) => group,
            None if member.generation < 0 => self.find_or_make(name)?,
            // Transactional clients of a group that is gone must not believe they are in it.
            None => return Err(GroupError::IllegalGeneration),
        };
        let checked = {
            let mut group = group.borrow_mut();
            let checked = group.check_commit(member, producer.is_some(), rt::steady_ms());
            match checked {
                Ok(()) if group.offsets.len() + items.len() > GROUP_OFFSETS_MAX => {
                    Err(GroupError::MetadataTooLarge)
                }
                checked => checked,
            }
        };
        if checked.is_err() || items.is_empty() {
            self.settle(name, &group);
            return checked;
        }
        let now_ms = rt::wall_ms();
        let expire_ms = retention_ms.map_or(-1, |retention_ms| now_ms.saturating_add(retention_ms));
        let entries: Vec<(TopicPartition, Committed)> = items
            .into_iter()
            .map(|item| {
                let committed = Committed {
                    offset: item.offset,
                    leader_epoch: item.leader_epoch,
                    metadata: item.metadata.into(),
                    commit_ms: now_ms,
                    expire_ms,
                };
                ((Rc::from(item.topic), item.partition), committed)
            })
            .collect();
        self.store_offsets(name, &group, producer, entries).await
    }

    async fn store_offsets(
        self: &Rc<Self>,
        name: &str,
        group: &GroupRef,
        producer: Option<RecordProducer>,
        entries: Vec<(TopicPartition, Committed)>,
    ) -> Result<(), GroupError> {
        let record = |(place, committed): &(TopicPartition, Committed)| LogRecord {
            key: Key::Offset { group: name, topic: &place.0, partition: place.1 }.encode(),
            value: Some(committed.encode()),
        };
        let records = entries.iter().map(record).collect();
        group.borrow_mut().commits_in_flight += 1;
        let stored = match self.log.submit(records, producer) {
            Ok(pending) => pending.wait().await,
            Err(error) => Err(error),
        };
        group.borrow_mut().commits_in_flight -= 1;
        let first_offset = stored.map_err(storage_error)?;
        // The partition may have read its log again meanwhile, and then has another object for the same group.
        let present = self.find_or_make(name)?;
        let mut held = present.borrow_mut();
        for (log_offset, (place, committed)) in (first_offset..).zip(entries) {
            let entry = Entry { committed, log_offset };
            match producer {
                Some(producer) => held.offsets.put_pending(producer.id, place, entry),
                None => held.offsets.put(place, entry),
            }
        }
        if let Some(producer) = producer {
            self.pending.borrow_mut().entry(producer.id).or_default().insert(Rc::from(name));
        }
        Ok(())
    }

    /// Ends a producer's transaction on this partition: writes the marker, then its offsets count or are dropped.
    pub async fn end_transaction(self: &Rc<Self>, marker: Marker) -> Result<(), GroupError> {
        let pending = self.log.submit_marker(marker).map_err(storage_error)?;
        pending.wait().await.map_err(storage_error)?;
        self.complete_transaction(marker.producer_id, marker.commit);
        Ok(())
    }

    /// A producer's marker is in the log of this partition: its offsets count, or are dropped.
    pub fn complete_transaction(&self, producer_id: i64, committed: bool) {
        let names = self.pending.borrow_mut().remove(&producer_id).unwrap_or_default();
        for group in names.iter().filter_map(|name| self.find(name)) {
            group.borrow_mut().offsets.complete(producer_id, committed);
        }
    }

    /// Offsets of a group: of the partitions named, or all it has.
    pub fn fetch(
        &self,
        name: &str,
        member: Option<(&str, i32)>,
        partitions: Option<&[(String, Vec<i32>)]>,
        require_stable: bool,
    ) -> Result<Vec<FetchedOffset>, GroupError> {
        let group = self.find(name);
        let group = group.as_ref().map(|group| group.borrow());
        match (group.as_ref().map(|group| &group.kind), member) {
            (Some(Kind::Consumer(consumer)), Some((id, epoch))) => consumer.check_fetch(id, epoch)?,
            (None, Some(_)) => return Err(GroupError::UnknownMember),
            _ => {}
        }
        let one = |topic: &str, partition: i32| {
            let offsets = group.as_ref().map(|group| &group.offsets);
            let unstable = require_stable && offsets.is_some_and(|o| o.is_pending(topic, partition));
            let found = offsets.filter(|_| !unstable).and_then(|offsets| offsets.get(topic, partition));
            FetchedOffset {
                topic: topic.to_owned(),
                partition,
                offset: found.map_or(-1, |found| found.offset),
                leader_epoch: found.map_or(-1, |found| found.leader_epoch),
                metadata: found.map_or(String::new(), |found| found.metadata.to_string()),
                unstable,
            }
        };
        Ok(match (partitions, &group) {
            (Some(topics), _) => {
                // Once each: what a client committed with an offset may be a thousand times larger than the question.
                let mut seen = HashSet::new();
                let all =
                    topics.iter().flat_map(|(topic, list)| list.iter().map(|index| (topic.as_str(), *index)));
                all.filter(|place| seen.insert(*place)).map(|(topic, index)| one(topic, index)).collect()
            }
            (None, Some(group)) => group.offsets.iter().map(|(place, _)| one(&place.0, place.1)).collect(),
            (None, None) => Vec::new(),
        })
    }

    /// Deletes offsets; one result per partition asked for.
    pub async fn delete_offsets(
        self: &Rc<Self>,
        name: &str,
        partitions: Vec<(String, i32)>,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        let group = self.find(name).ok_or(GroupError::GroupNotFound)?;
        let subscribed = group.borrow().subscribed_topics()?;
        let results: Vec<_> = partitions
            .iter()
            .map(|(topic, _)| match subscribed.iter().any(|name| name == topic) {
                true => Err(GroupError::Subscribed),
                false => Ok(()),
            })
            .collect();
        let places: Vec<TopicPartition> = partitions
            .into_iter()
            .zip(&results)
            .filter(|(_, result)| result.is_ok())
            .map(|((topic, partition), _)| (Rc::from(topic), partition))
            .filter(|place: &TopicPartition| group.borrow().offsets.get(&place.0, place.1).is_some())
            .collect();
        self.remove_offsets(name, &group, places, Vec::new()).await?;
        self.settle(name, &group);
        Ok(results)
    }

    /// Writes tombstones for offsets and for `more` keys, then takes the offsets out of memory.
    async fn remove_offsets(
        &self,
        name: &str,
        group: &GroupRef,
        places: Vec<TopicPartition>,
        more: Vec<Vec<u8>>,
    ) -> Result<(), GroupError> {
        let mut records: Vec<LogRecord> = places
            .iter()
            .map(|(topic, partition)| Key::Offset { group: name, topic, partition: *partition }.encode())
            .chain(more)
            .map(|key| LogRecord { key, value: None })
            .collect();
        if records.is_empty() {
            return Ok(());
        }
        records.shrink_to_fit();
        let first_offset = self.log.append(records, None).await.map_err(storage_error)?;
        let mut group = group.borrow_mut();
        for (log_offset, place) in (first_offset..).zip(&places) {
            group.offsets.remove(place, log_offset);
        }
        Ok(())
    }

    /// Deletes a group without members, and its offsets.
    pub async fn delete_group(self: &Rc<Self>, name: &str) -> Result<(), GroupError> {
        let group = self.find(name).ok_or(GroupError::GroupNotFound)?;
        let busy = |group: &GroupRef| {
            let group = group.borrow();
            group.commits_in_flight > 0 || group.offsets.has_pending() || !group.is_empty()
        };
        if busy(&group) {
            return Err(GroupError::NonEmpty);
        }
        let (places, keys) = {
            let group = group.borrow();
            let places: Vec<_> = group.offsets.iter().map(|(place, _)| place.clone()).collect();
            (places, group.record_keys(name))
        };
        // Out of memory at once: who joins or commits while the tombstones are written begins a new group, whose
        // records come behind them.
        self.forget(name);
        self.remove_offsets(name, &group, places, keys).await
    }

    /// Removes offsets that are due, and groups of which nothing is left.
    pub(super) fn expire_offsets(self: &Rc<Self>, now_ms: i64) {
        let retention_ms = self.config.groups.offsets_retention_ms;
        let all: Vec<_> = self.groups.borrow().iter().map(|(n, g)| (n.clone(), g.clone())).collect();
        for (name, group) in all {
            let due = group.borrow().expired(now_ms, retention_ms);
            let rest = group.borrow().offsets.len() - due.len();
            let ends = rest == 0 && group.borrow().may_end();
            if due.is_empty() && !ends {
                continue;
            }
            let keys = if ends { group.borrow().record_keys(&name) } else { Vec::new() };
            if ends {
                self.forget(&name);
            }
            let partition = self.clone();
            rt::spawn(async move {
                if let Err(error) = partition.remove_offsets(&name, &group, due, keys).await {
                    tracing::warn!("group {name}: expired offsets are not removed: {error}");
                }
            });
        }
    }

    /// All groups.
    pub fn list(&self) -> Vec<GroupOverview> {
        let overview = |(name, group): (&Rc<str>, &GroupRef)| {
            let group = group.borrow();
            let (protocol_type, state, kind) = match &group.kind {
                Kind::Classic(classic) => (
                    classic.protocol_type().unwrap_or_default().to_owned(),
                    classic.state().name(),
                    "classic",
                ),
                Kind::Consumer(consumer) => ("consumer".to_owned(), consumer.state_name(), "consumer"),
                Kind::Share(share) => ("share".to_owned(), share.state_name(), "share"),
            };
            GroupOverview { name: name.to_string(), protocol_type, state, kind }
        };
        self.groups.borrow().iter().map(overview).collect()
    }

    /// A classic group in detail.
    pub fn describe_classic(&self, name: &str) -> Result<ClassicDescription, GroupError> {
        let group = self.find(name).ok_or(GroupError::GroupNotFound)?;
        match &group.borrow().kind {
            Kind::Classic(classic) => Ok(describe_classic(classic)),
            Kind::Consumer(_) | Kind::Share(_) => Err(GroupError::GroupNotFound),
        }
    }

    /// A consumer group (KIP-848) in detail.
    pub fn describe_consumer(&self, name: &str) -> Result<ConsumerDescription, GroupError> {
        let group = self.find(name).ok_or(GroupError::GroupNotFound)?;
        match &group.borrow().kind {
            Kind::Consumer(consumer) => Ok(consumer.describe()),
            Kind::Classic(_) | Kind::Share(_) => Err(GroupError::GroupNotFound),
        }
    }
}

fn describe_classic(classic: &ClassicGroup) -> ClassicDescription {
    let stable = classic.state() == State::Stable;
    let protocol = classic.protocol().filter(|_| stable).unwrap_or_default();
    let members = classic.members().map(|(id, member)| MemberDescription {
        member_id: id.clone(),
        instance_id: member.instance_id.clone(),
        client_id: member.client_id.clone(),
        client_host: member.client_host.clone(),
        metadata: if stable { member.metadata(protocol) } else { Bytes::new() },
        assignment: if stable { member.assignment.clone() } else { Bytes::new() },
    });
    ClassicDescription {
        state: classic.state().name(),
        protocol_type: classic.protocol_type().unwrap_or_default().to_owned(),
        protocol: protocol.to_owned(),
        members: members.collect(),
    }
}

impl Group {
    fn is_empty(&self) -> bool {
        match &self.kind {
            Kind::Classic(classic) => classic.state() == State::Empty && classic.is_vacant(),
            Kind::Consumer(consumer) => consumer.is_empty(),
            Kind::Share(share) => share.is_empty(),
        }
    }

    /// Topics whose offsets are in use; an error if the group has members and what they read is not known.
    fn subscribed_topics(&self) -> Result<Vec<String>, GroupError> {
        match &self.kind {
            Kind::Consumer(consumer) => Ok(consumer.subscribed_topics()),
            Kind::Share(_) => Err(GroupError::GroupNotFound),
            Kind::Classic(_) if self.is_empty() => Ok(Vec::new()),
            Kind::Classic(classic) => match classic.subscribed_topics() {
                Some(topics) => Ok(topics.into_iter().collect()),
                None => Err(GroupError::NonEmpty),
            },
        }
    }

    /// Offsets that are due now.
    fn expired(&self, now_ms: i64, retention_ms: i64) -> Vec<TopicPartition> {
        let in_use: BTreeMap<String, ()> = match self.subscribed_topics() {
            Ok(topics) => topics.into_iter().map(|topic| (topic, ())).collect(),
            Err(_) => return Vec::new(),
        };
        // Since when the group is empty counts, if that is known; a consumer without a group has its commits only.
        let empty_since_ms = match &self.kind {
            Kind::Classic(classic) if self.is_empty() && classic.protocol_type().is_some() => {
                Some(classic.state_ms()).filter(|since_ms| *since_ms >= 0)
            }
            _ => None,
        };
        self.offsets.expired(now_ms, retention_ms, |place, committed| {
            if in_use.contains_key(&*place.0) {
                return None;
            }
            Some(empty_since_ms.unwrap_or(committed.commit_ms).max(committed.commit_ms))
        })
    }

    /// Whether the group may be forgotten once it has no offsets.
    fn may_end(&self) -> bool {
        // A share group's offsets do not expire, and are not here.
        let lasts = matches!(self.kind, Kind::Share(_));
        !lasts && self.is_empty() && self.commits_in_flight == 0 && !self.offsets.has_pending()
    }

    /// Keys of all records that describe the group itself.
    fn record_keys(&self, name: &str) -> Vec<Vec<u8>> {
        match &self.kind {
            Kind::Classic(classic) if classic.protocol_type().is_none() => Vec::new(),
            Kind::Classic(_) => vec![Key::Group(name).encode()],
            Kind::Consumer(consumer) => consumer.record_keys(name),
            Kind::Share(share) => share.record_keys(name),
        }
    }
}
