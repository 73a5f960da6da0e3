//! Changes of the catalog and their application to a snapshot.
//!
//! Owner: the catalog's one writer. Invariants: a change set is applied as a whole or not at all; ids and leader
//! epochs never go back. Must not: do I/O, or check what is policy (name rules, replication factor: `api`).

use super::dynamic::{Configs, Dynamic, QuotaEntity, ResourceKind};
use super::snapshot::{Catalog, PARTITIONS_PER_TOPIC_MAX, PartitionMeta, Topic};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CatalogChange {
    /// A new topic, led by this node.
    CreateTopic {
        /// The name; checked by the caller.
        name: String,
        /// A fresh id, see `new_topic_id`.
        id: Uuid,
        /// How many partitions it gets, at least one.
        partition_count: usize,
        /// The explicit configuration; checked by the caller.
        configs: BTreeMap<String, String>,
        /// Now, in milliseconds since 1970.
        created_ms: i64,
    },
    /// A topic goes.
    DeleteTopic {
        /// Its id.
        id: Uuid,
    },
    /// A topic gets more partitions.
    CreatePartitions {
        /// Its id.
        id: Uuid,
        /// The new number of partitions, larger than the present one.
        partition_count: usize,
    },
    /// A topic's explicit configuration is replaced.
    SetTopicConfigs {
        /// Its id.
        id: Uuid,
        /// The whole new set.
        configs: BTreeMap<String, String>,
    },
    /// This node begins a new reign over all partitions it leads.
    BumpLeaderEpoch,
    /// Reserves this many producer ids: those from `next_producer_id` before the change up to the one after it.
    ReserveProducerIds(u64),
    /// The dynamic configuration of a broker, a group or a client metrics subscription is replaced.
    SetConfigs {
        /// What it belongs to.
        kind: ResourceKind,
        /// Its name; checked by the caller.
        name: String,
        /// The whole new set; an empty one removes the resource.
        configs: Configs,
    },
    /// The quotas of an entity are replaced.
    SetQuotas {
        /// Whom they are for; checked by the caller.
        entity: QuotaEntity,
        /// The whole new set; an empty one removes the entity.
        values: Configs,
    },
    /// A feature gets another level.
    SetFeatureLevel {
        /// Its name; checked by the caller.
        name: String,
        /// The level.
        level: i16,
    },
}

/// Why a change cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// A topic of that name exists.
    #[error("topic '{0}' already exists")]
    TopicExists(String),
    /// A topic of that id exists.
    #[error("topic id {0} is already in use")]
    TopicIdExists(Uuid),
    /// There is no topic of that id.
    #[error("there is no topic with id {0}")]
    UnknownTopic(Uuid),
    /// A number of partitions that is zero, too large or not larger than the present one.
    #[error("{asked} is no possible number of partitions (there are {present})")]
    PartitionCount {
        /// What the change asks for.
        asked: usize,
        /// What the topic has.
        present: usize,
    },
    /// Leader epochs or producer ids are used up.
    #[error("no {0} are left")]
    Exhausted(&'static str),
    /// There is no room for another resource or entity.
    #[error("there are too many {0}")]
    TooMany(&'static str),
}

impl Catalog {
    /// The next snapshot, with all the changes applied in order; or the first error, with nothing changed.
    pub fn apply(&self, changes: &[CatalogChange]) -> Result<Self, CatalogError> {
        let mut next = self.clone();
        for change in changes {
            next.apply_one(change)?;
        }
        next.sequence += 1;
        Ok(next)
    }

    fn apply_one(&mut self, change: &CatalogChange) -> Result<(), CatalogError> {
        match change {
            CatalogChange::CreateTopic { name, id, partition_count, configs, created_ms } => {
                if self.topic(name).is_some() {
                    return Err(CatalogError::TopicExists(name.clone()));
                }
                if self.topic_by_id(*id).is_some() {
                    return Err(CatalogError::TopicIdExists(*id));
                }
                check_partition_count(*partition_count, 0)?;
                let epoch = self.next_leader_epoch()?;
                self.leader_epoch = epoch;
                self.insert(Arc::new(Topic {
                    name: name.as_str().into(),
                    id: *id,
                    partitions: vec![self.fresh_partition(None); *partition_count],
                    configs: configs.clone(),
                    created_ms: *created_ms,
                    first_epoch: epoch,
                }));
            }
            CatalogChange::DeleteTopic { id } => {
                let topic = self.by_id.remove(id).ok_or(CatalogError::UnknownTopic(*id))?;
                self.by_name.remove(&topic.name);
            }
            CatalogChange::CreatePartitions { id, partition_count } => {
                let mut topic = self.topic_copy(*id)?;
                check_partition_count(*partition_count, topic.partition_count())?;
                let fresh = self.fresh_partition(topic.partitions.first());
                topic.partitions.resize(*partition_count, fresh);
                self.insert(Arc::new(topic));
            }
            CatalogChange::SetTopicConfigs { id, configs } => {
                let mut topic = self.topic_copy(*id)?;
                topic.configs.clone_from(configs);
                self.insert(Arc::new(topic));
            }
            CatalogChange::BumpLeaderEpoch => self.bump_leader_epoch()?,
            CatalogChange::ReserveProducerIds(count) => {
                let next = self.next_producer_id.checked_add(*count);
                // On the wire a producer id is a signed 64-bit number.
                self.next_producer_id = next
                    .filter(|&next| i64::try_from(next).is_ok())
                    .ok_or(CatalogError::Exhausted("producer ids"))?;
            }
            CatalogChange::SetConfigs { kind, name, configs } => {
                if !self.dynamic_mut().set_configs(*kind, name, configs) {
                    return Err(CatalogError::TooMany("resources with a configuration"));
                }
            }
            CatalogChange::SetQuotas { entity, values } => {
                if !self.dynamic_mut().set_quotas(entity, values) {
                    return Err(CatalogError::TooMany("entities with quotas"));
                }
            }
            CatalogChange::SetFeatureLevel { name, level } => {
                self.dynamic_mut().set_feature_level(name, *level);
            }
        }
        Ok(())
    }

    fn dynamic_mut(&mut self) -> &mut Dynamic {
        Arc::make_mut(&mut self.dynamic)
    }

    fn topic_copy(&self, id: Uuid) -> Result<Topic, CatalogError> {
        self.topic_by_id(id).map(|topic| Topic::clone(topic)).ok_or(CatalogError::UnknownTopic(id))
    }

    /// A partition that only this node has; replica sets are shared with `sibling` where they are equal.
    fn fresh_partition(&self, sibling: Option<&PartitionMeta>) -> PartitionMeta {
        let alone: Arc<[i32]> = match sibling {
            Some(meta) if meta.replicas[..] == [self.node_id] => meta.replicas.clone(),
            _ => Arc::new([self.node_id]),
        };
        PartitionMeta {
            leader: self.node_id,
            leader_epoch: self.leader_epoch,
            replicas: alone.clone(),
            isr: alone,
        }
    }

    fn next_leader_epoch(&self) -> Result<i32, CatalogError> {
        self.leader_epoch.checked_add(1).ok_or(CatalogError::Exhausted("leader epochs"))
    }

    fn bump_leader_epoch(&mut self) -> Result<(), CatalogError> {
        let epoch = self.next_leader_epoch()?;
        self.leader_epoch = epoch;
        let topics: Vec<Arc<Topic>> = self.topics().cloned().collect();
        for topic in topics {
            let mut topic = Topic::clone(&topic);
            for meta in topic.partitions.iter_mut().filter(|meta| meta.leader == self.node_id) {
                meta.leader_epoch = epoch;
            }
            self.insert(Arc::new(topic));
        }
        Ok(())
    }
}

fn check_partition_count(asked: usize, present: usize) -> Result<(), CatalogError> {
    if asked > present && asked <= PARTITIONS_PER_TOPIC_MAX {
        Ok(())
    } else {
        Err(CatalogError::PartitionCount { asked, present })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(name: &str, id: u128, partition_count: usize) -> CatalogChange {
        CatalogChange::CreateTopic {
            name: name.to_owned(),
            id: Uuid::from_u128(id),
            partition_count,
            configs: BTreeMap::new(),
            created_ms: 5,
        }
    }

    #[test]
    fn topics_come_grow_and_go() {
        let empty = Catalog::new("c", 1);
        let one = empty.apply(&[create("b", 2, 1), create("a", 1, 3)]).expect("created");
        assert_eq!((empty.topic_count(), one.topic_count(), one.sequence), (0, 2, 1));
        assert_eq!(one.topics().map(|t| &*t.name).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(one.topics_from("aa").count(), 1);
        let id = Uuid::from_u128(1);
        let two = one
            .apply(&[
                CatalogChange::CreatePartitions { id, partition_count: 5 },
                CatalogChange::SetTopicConfigs { id, configs: [("k".to_owned(), "v".to_owned())].into() },
                CatalogChange::DeleteTopic { id: Uuid::from_u128(2) },
            ])
            .expect("changed");
        assert_eq!((two.partition_count(), two.topic_count()), (5, 1));
        assert_eq!(two.topic("a"), two.topic_by_id(id));
        assert!(two.topic("b").is_none() && two.topic_by_id(Uuid::from_u128(2)).is_none());
        let meta = two.topic("a").and_then(|t| t.partition(4)).expect("partition 4");
        assert_eq!((meta.leader, &meta.replicas[..], &meta.isr[..]), (1, &[1][..], &[1][..]));
        assert!(two.topic("a").is_some_and(|t| t.partition(-1).is_none() && t.partition(5).is_none()));
    }

    #[test]
    fn a_change_set_is_all_or_nothing() {
        let catalog = Catalog::new("c", 1).apply(&[create("a", 1, 3)]).expect("created");
        let twice = catalog.apply(&[create("b", 2, 1), create("a", 3, 1)]);
        assert_eq!(twice, Err(CatalogError::TopicExists("a".to_owned())));
        assert_eq!(catalog.topic_count(), 1);
        assert!(catalog.apply(&[create("z", 1, 1)]).is_err());
        assert!(catalog.apply(&[create("z", 9, 0)]).is_err());
        assert!(catalog.apply(&[create("z", 9, PARTITIONS_PER_TOPIC_MAX + 1)]).is_err());
        let id = Uuid::from_u128(1);
        assert!(catalog.apply(&[CatalogChange::CreatePartitions { id, partition_count: 3 }]).is_err());
        let unknown = Uuid::from_u128(77);
        let gone = catalog.apply(&[CatalogChange::DeleteTopic { id: unknown }]);
        assert_eq!(gone, Err(CatalogError::UnknownTopic(unknown)));
    }

    #[test]
    fn what_is_set_to_nothing_is_gone() {
        let set = |configs: &[(&str, &str)]| CatalogChange::SetConfigs {
            kind: ResourceKind::Broker,
            name: String::new(),
            configs: configs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        };
        let empty = Catalog::new("c", 1);
        let one = empty.apply(&[set(&[("a", "1")])]).expect("set");
        assert_eq!(
            one.dynamic.configs(ResourceKind::Broker, "").and_then(|c| c.get("a")),
            Some(&"1".to_owned())
        );
        assert!(one.dynamic.configs(ResourceKind::Group, "").is_none());
        let none = one.apply(&[set(&[])]).expect("set");
        assert_eq!(none.dynamic, empty.dynamic);
        // A snapshot that changes only topics shares the dynamic part.
        let topic = one.apply(&[create("t", 1, 1)]).expect("created");
        assert!(Arc::ptr_eq(&one.dynamic, &topic.dynamic));
    }

    #[test]
    fn epochs_and_producer_ids_only_grow() {
        let catalog = Catalog::new("c", 1).apply(&[create("a", 1, 2)]).expect("created");
        let next = catalog.apply(&[CatalogChange::BumpLeaderEpoch, create("b", 2, 1)]).expect("bumped");
        let epochs = |catalog: &Catalog, topic: &str| {
            let topic = catalog.topic(topic).expect("there");
            (topic.first_epoch, topic.partitions.iter().map(|p| p.leader_epoch).collect::<Vec<_>>())
        };
        assert_eq!(epochs(&catalog, "a"), (1, vec![1, 1]));
        assert_eq!((epochs(&next, "a"), epochs(&next, "b")), ((1, vec![2, 2]), (3, vec![3])));
        assert_eq!(next.leader_epoch, 3, "the largest that is in use");
        let grow = CatalogChange::CreatePartitions { id: Uuid::from_u128(1), partition_count: 3 };
        let grown = next.apply(&[grow]).expect("grown");
        assert_eq!(epochs(&grown, "a"), (1, vec![2, 2, 3]));
        assert_eq!(next.topic("a"), next.topic_by_id(Uuid::from_u128(1)));
        let reserved = next.apply(&[CatalogChange::ReserveProducerIds(1000)]).expect("reserved");
        assert_eq!(reserved.next_producer_id, 1000);
        assert!(reserved.apply(&[CatalogChange::ReserveProducerIds(u64::MAX)]).is_err());
        assert!(reserved.apply(&[CatalogChange::ReserveProducerIds(i64::MAX as u64)]).is_err());
    }
}
