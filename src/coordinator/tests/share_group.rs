//! The state machine of share groups.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::catalog::{Catalog, CatalogChange};
use crate::coordinator::error::GroupError;
use crate::coordinator::records::{Key, Partitions};
use crate::coordinator::share_group::{ShareAnswer, ShareGroup, ShareHeartbeat, ShareImage};
use crate::coordinator::state_log::LogRecord;

const SESSION_MS: i32 = 45_000;

fn catalog(topics: &[(&str, usize)]) -> Catalog {
    let create = |(at, (name, count)): (usize, &(&str, usize))| CatalogChange::CreateTopic {
        name: (*name).to_owned(),
        id: Uuid::from_u128(at as u128 + 1),
        partition_count: *count,
        configs: BTreeMap::new(),
        created_ms: 0,
    };
    let changes: Vec<_> = topics.iter().enumerate().map(create).collect();
    Catalog::new("c", 1).apply(&changes).expect("valid")
}

struct World {
    group: ShareGroup,
    catalog: Catalog,
    log: Vec<LogRecord>,
}

impl World {
    fn new(topics: &[(&str, usize)]) -> World {
        World { group: ShareGroup::default(), catalog: catalog(topics), log: Vec::new() }
    }

    fn beat(&mut self, id: &str, epoch: i32, topics: Option<&[&str]>) -> Result<ShareAnswer, GroupError> {
        let beat = ShareHeartbeat {
            member_id: id.to_owned(),
            epoch,
            topics: topics.map(|all| all.iter().map(|topic| (*topic).to_owned()).collect()),
            ..ShareHeartbeat::default()
        };
        let answer = self.group.heartbeat("g", beat, SESSION_MS, &self.catalog, 0);
        self.log.extend(self.group.take_records());
        answer
    }

    fn join(&mut self, id: &str, topics: &[&str]) -> ShareAnswer {
        self.beat(id, 0, Some(topics)).expect("joins")
    }

    /// The group as a start would find it in a log that compaction has gone through, with its records in any order.
    fn replayed(&self) -> ShareGroup {
        let newest: BTreeMap<_, _> = self.log.iter().map(|record| (&record.key, &record.value)).collect();
        let mut image = ShareImage::default();
        for (key, value) in newest {
            image.take(Key::decode(key).expect("a key"), value.as_deref()).expect("a value");
        }
        image.into_group(SESSION_MS, 0)
    }
}

fn given(answers: &[&ShareAnswer]) -> BTreeSet<(Uuid, i32)> {
    let all = answers.iter().filter_map(|answer| answer.assignment.as_ref());
    all.flat_map(|p: &Partitions| p.iter().flat_map(|(id, list)| list.iter().map(|i| (*id, *i)))).collect()
}

#[test]
fn every_partition_and_every_member_is_served() {
    for (partitions, members) in [(1usize, 5usize), (5, 2), (4, 4), (7, 3)] {
        let mut world = World::new(&[("t", partitions)]);
        let ids: Vec<String> = (0..members).map(|at| format!("m{at}")).collect();
        ids.iter().for_each(|id| drop(world.join(id, &["t"])));
        let answers: Vec<ShareAnswer> = ids.iter().map(|id| world.join(id, &["t"])).collect();
        assert!(answers.iter().all(|answer| answer.assignment.as_ref().is_some_and(|a| !a.is_empty())));
        assert_eq!(given(&answers.iter().collect::<Vec<_>>()).len(), partitions, "{partitions} {members}");
    }
}

#[test]
fn epochs_order_the_heartbeats() {
    let mut world = World::new(&[("t", 2), ("u", 1)]);
    let a = world.join("a", &["t"]);
    assert_eq!((a.epoch, given(&[&a]).len()), (1, 2));
    assert_eq!(world.beat("a", 1, None), Ok(ShareAnswer { epoch: 1, assignment: None }));
    let b = world.join("b", &["t", "u"]);
    assert_eq!((b.epoch, given(&[&b]).len()), (2, 2));
    let told = world.beat("a", 1, None).expect("known");
    assert_eq!((told.epoch, given(&[&told]).len()), (2, 1));
    // The answer was lost: it is given again.
    assert_eq!(world.beat("a", 1, None), Ok(told));
    assert_eq!(world.beat("a", 7, None), Err(GroupError::FencedEpoch));
    assert_eq!(world.beat("x", 1, None), Err(GroupError::UnknownMember));
    assert_eq!(world.beat("x", -1, None), Err(GroupError::UnknownMember));
    // New partitions come to the members without their asking.
    world.catalog = {
        let more = CatalogChange::CreatePartitions { id: Uuid::from_u128(1), partition_count: 4 };
        world.catalog.apply(&[more]).expect("valid")
    };
    let more = world.beat("a", 2, None).expect("known");
    assert_eq!((more.epoch, given(&[&more]).len()), (3, 2));
    assert_eq!(world.beat("b", -1, None), Ok(ShareAnswer { epoch: -1, assignment: None }));
    assert_eq!(given(&[&world.beat("a", 3, None).expect("known")]).len(), 4);
    assert_eq!(world.group.known().len(), 2, "what was assigned once is remembered");
}

#[test]
fn a_start_finds_the_group_again() {
    let mut world = World::new(&[("t", 3)]);
    world.join("a", &["t"]);
    world.join("b", &["t"]);
    world.beat("a", 1, None).expect("known");
    let before = format!("{:?}", world.group.describe());
    world.group = world.replayed();
    assert_eq!(format!("{:?}", world.group.describe()), before);
    assert_eq!(world.group.known()[&Uuid::from_u128(1)].1.len(), 3);
    assert!(world.beat("a", 2, None).is_ok() && world.beat("b", 2, None).is_ok());
    // Members that are silent go, the group stays.
    world.group.tick("g", i64::from(SESSION_MS));
    assert!(world.group.is_empty() && world.group.state_name() == "Empty");
    world.log.extend(world.group.take_records());
    assert!(world.replayed().is_empty());
    let keys = world.group.record_keys("g");
    world.log.extend(keys.into_iter().map(|key| LogRecord { key, value: None }));
    let mut image = ShareImage::default();
    for record in &world.log {
        image.take(Key::decode(&record.key).expect("a key"), record.value.as_deref()).expect("a value");
    }
    assert!(!image.exists() && image.is_gone());
}
