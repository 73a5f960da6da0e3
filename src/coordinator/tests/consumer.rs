//! The state machine of KIP-848 groups.

use std::collections::BTreeMap;

use bytes::Bytes;
use uuid::Uuid;

use crate::catalog::{Catalog, CatalogChange};
use crate::coordinator::classic::{JoinRequest, Rules, State};
use crate::coordinator::classic_sync::{MemberRef, SyncRequest};
use crate::coordinator::consumer::{
    ConsumerAnswer, ConsumerGroup, ConsumerHeartbeat, LEAVE_EPOCH, LEAVE_STATIC_EPOCH,
};
use crate::coordinator::consumer_image::ConsumerImage;
use crate::coordinator::consumer_protocol::{ConsumerSubscription, decode_assignment, encode_subscription};
use crate::coordinator::error::GroupError;
use crate::coordinator::records::{Key, Partitions};
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

fn join(id: &str, topics: &[&str]) -> ConsumerHeartbeat {
    ConsumerHeartbeat {
        member_id: id.to_owned(),
        rebalance_timeout_ms: 60_000,
        topics: Some(topics.iter().map(|topic| (*topic).to_owned()).collect()),
        owned: Some(Partitions::new()),
        ..ConsumerHeartbeat::default()
    }
}

fn beat(id: &str, epoch: i32, owned: Option<Partitions>) -> ConsumerHeartbeat {
    ConsumerHeartbeat {
        member_id: id.to_owned(),
        epoch,
        rebalance_timeout_ms: -1,
        owned,
        ..ConsumerHeartbeat::default()
    }
}

fn t(indexes: &[i32]) -> Partitions {
    [(Uuid::from_u128(1), indexes.iter().copied().collect())].into()
}

struct World {
    group: ConsumerGroup,
    catalog: Catalog,
    now_ms: i64,
    log: Vec<LogRecord>,
}

fn world(topics: &[(&str, usize)]) -> World {
    World { group: ConsumerGroup::new("uniform"), catalog: catalog(topics), now_ms: 0, log: Vec::new() }
}

impl World {
    fn send(&mut self, beat: ConsumerHeartbeat) -> Result<ConsumerAnswer, GroupError> {
        let answer = self.group.heartbeat("g", beat, SESSION_MS, &self.catalog, self.now_ms);
        self.log.extend(self.group.take_records());
        answer
    }

    fn ok(&mut self, beat: ConsumerHeartbeat) -> ConsumerAnswer {
        self.send(beat).expect("accepted")
    }

    /// The group as a start would find it.
    fn replayed(&self) -> ConsumerGroup {
        let mut image = ConsumerImage::default();
        for record in &self.log {
            let key = Key::decode(&record.key).expect("a key");
            image.take(key, record.value.as_deref()).expect("a value");
        }
        image.into_group("uniform", SESSION_MS, self.now_ms)
    }
}

#[test]
fn a_partition_moves_after_it_was_given_back() {
    let mut world = world(&[("t", 4)]);
    let a = world.ok(join("a", &["t"]));
    assert_eq!((a.epoch, a.assignment), (1, Some(t(&[0, 1, 2, 3]))));
    assert_eq!(world.group.state_name(), "Stable");
    let b = world.ok(join("b", &["t"]));
    assert_eq!((b.epoch, b.assignment), (2, Some(Partitions::new())), "nothing is free yet");
    assert_eq!(world.group.state_name(), "Reconciling");
    // a is told to give two back, and stays in its epoch until it has.
    let a = world.ok(beat("a", 1, None));
    let kept = a.assignment.expect("news");
    assert_eq!((a.epoch, kept[&Uuid::from_u128(1)].len()), (1, 2));
    assert_eq!(world.ok(beat("a", 1, Some(t(&[0, 1, 2, 3])))).epoch, 1);
    assert_eq!(world.ok(beat("b", 2, None)).assignment, None);
    assert_eq!(world.ok(beat("a", 1, Some(kept.clone()))).epoch, 2);
    let b = world.ok(beat("b", 2, None)).assignment.expect("the free ones");
    assert_eq!(b[&Uuid::from_u128(1)].len(), 2);
    assert!(b[&Uuid::from_u128(1)].is_disjoint(&kept[&Uuid::from_u128(1)]));
    assert_eq!(world.group.state_name(), "Stable");
    let again = world.replayed();
    assert_eq!(format!("{:?}", again.describe()), format!("{:?}", world.group.describe()));
}

#[test]
fn members_leave_and_sessions_end() {
    let mut world = world(&[("t", 2)]);
    world.ok(join("a", &["t"]));
    world.ok(join("b", &["t"]));
    assert_eq!(world.ok(beat("b", LEAVE_EPOCH, None)).epoch, LEAVE_EPOCH);
    assert_eq!(world.send(beat("b", 2, None)), Err(GroupError::UnknownMember));
    let a = world.ok(beat("a", 1, None));
    assert_eq!(a.epoch, 3, "nothing to give back, so it follows at once");
    world.now_ms = i64::from(SESSION_MS);
    assert_eq!(world.group.next_deadline_ms(), Some(world.now_ms));
    world.group.tick("g", world.now_ms);
    assert!(world.group.is_empty());
    world.log.extend(world.group.take_records());
    assert_eq!(world.replayed().state_name(), "Empty");
}

#[test]
fn who_does_not_give_back_in_time_is_thrown_out() {
    let mut world = world(&[("t", 2)]);
    world.ok(join("a", &["t"]));
    world.ok(join("b", &["t"]));
    world.ok(beat("a", 1, None));
    for _ in 0..6 {
        world.now_ms += 10_000;
        let _ = world.send(beat("a", 1, Some(t(&[0, 1]))));
        let _ = world.send(beat("b", 2, None));
        world.group.tick("g", world.now_ms);
    }
    assert_eq!(world.send(beat("a", 1, None)), Err(GroupError::UnknownMember));
    let b = world.ok(beat("b", 2, None));
    assert_eq!(b.assignment.map(|p| p[&Uuid::from_u128(1)].len()), Some(2));
}

#[test]
fn epochs_fence_and_a_lost_answer_does_not() {
    let mut world = world(&[("t", 2)]);
    world.ok(join("a", &["t"]));
    assert_eq!(world.send(beat("a", 2, None)), Err(GroupError::FencedEpoch));
    world.ok(join("b", &["t"]));
    world.ok(beat("a", 1, None));
    assert_eq!(world.ok(beat("a", 1, Some(t(&[0])))).epoch, 2);
    // It did not see the answer and says the same again.
    assert_eq!(world.ok(beat("a", 1, Some(t(&[0])))).epoch, 2);
    assert_eq!(world.send(beat("a", 1, Some(t(&[0, 1])))), Err(GroupError::FencedEpoch));
    assert_eq!(world.send(beat("a", 0, None)).map(|answer| answer.epoch), Ok(2), "it may join anew");
    assert_eq!(world.send(beat("z", 3, None)), Err(GroupError::UnknownMember));
}

#[test]
fn a_static_member_leaves_for_a_while() {
    let mut world = world(&[("t", 2)]);
    let fixed = |beat: ConsumerHeartbeat| ConsumerHeartbeat { instance_id: Some("i".to_owned()), ..beat };
    world.ok(fixed(join("a", &["t"])));
    assert_eq!(world.send(fixed(join("b", &["t"]))), Err(GroupError::UnreleasedInstance));
    world.ok(fixed(beat("a", LEAVE_STATIC_EPOCH, None)));
    let again = world.replayed();
    assert_eq!(again.describe().members[0].epoch, LEAVE_STATIC_EPOCH);
    let b = world.ok(fixed(join("b", &["t"])));
    assert_eq!((b.epoch, b.assignment), (1, Some(t(&[0, 1]))), "no rebalance for it");
    assert_eq!(world.send(fixed(beat("a", 1, None))), Err(GroupError::FencedInstance));
}

#[test]
fn new_topics_and_expressions_are_noticed() {
    let mut world = world(&[("t", 2)]);
    let by_regex = ConsumerHeartbeat { topics: None, regex: Some("t|u.*".to_owned()), ..join("a", &[]) };
    assert_eq!(world.ok(by_regex).assignment, Some(t(&[0, 1])));
    world.catalog = catalog(&[("t", 2), ("u1", 1), ("xu", 1)]);
    world.catalog.sequence = 9;
    let a = world.ok(beat("a", 1, None));
    assert_eq!((a.epoch, a.assignment.map(|p| p.len())), (2, Some(2)));
    assert_eq!(world.group.subscribed_topics(), ["t", "u1"]);
    world.catalog = catalog(&[("t", 2), ("u1", 1), ("__consumer_offsets", 1)]);
    world.catalog.sequence = 10;
    let own = ConsumerHeartbeat { topics: None, regex: Some("__.*".to_owned()), ..join("c", &[]) };
    world.ok(own);
    assert_eq!(world.group.subscribed_topics(), ["__consumer_offsets", "t", "u1"], "as in Kafka");
    let bad = ConsumerHeartbeat { regex: Some("(".to_owned()), ..join("b", &[]) };
    assert_eq!(crate::coordinator::consumer::check_subscription(&bad), Err(GroupError::InvalidRegex));
}

fn classic_join(id: &str, owned: &[i32]) -> JoinRequest {
    let owned = [("t".to_owned(), owned.iter().copied().collect())].into();
    let subscription =
        ConsumerSubscription { topics: vec!["t".to_owned()], owned, generation: -1, rack_id: None };
    JoinRequest {
        member_id: id.to_owned(),
        client_id: "old".to_owned(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![("cooperative-sticky".to_owned(), encode_subscription(&subscription))],
        ..JoinRequest::default()
    }
}

#[test]
fn classic_members_live_beside_new_ones_and_go_on_alone() {
    let mut world = world(&[("t", 4)]);
    world.ok(join("a", &["t"]));
    let joined = world.group.join_classic(
        "g",
        &classic_join("", &[]),
        |prefix| format!("{prefix}-1"),
        &world.catalog,
        0,
    );
    assert_eq!((joined.error, joined.generation, joined.member_id.as_str()), (None, 2, "old-1"));
    let me = |generation| MemberRef { member_id: "old-1".to_owned(), instance_id: None, generation };
    let sync = |generation| SyncRequest { member: me(generation), ..SyncRequest::default() };
    let assignment = |world: &mut World, generation| {
        let synced = world.group.sync_classic(&sync(generation), &world.catalog, 0).expect("synced");
        decode_assignment(&synced.assignment).expect("an assignment")
    };
    assert!(assignment(&mut world, 2).is_empty());
    assert_eq!(world.group.heartbeat_classic(&me(2), 0), Ok(()), "the others hold what it is to get");
    let kept = world.ok(beat("a", 1, None)).assignment.expect("news");
    world.ok(beat("a", 1, Some(kept)));
    assert_eq!(world.group.heartbeat_classic(&me(2), 0), Err(GroupError::RebalanceInProgress));
    let again = classic_join("old-1", &[]);
    let again = world.group.join_classic("g", &again, |_| unreachable!(), &world.catalog, 0);
    assert_eq!(again.error, None);
    assert_eq!(assignment(&mut world, again.generation)["t"].len(), 2);
    assert_eq!(world.group.heartbeat_classic(&me(again.generation), 0), Ok(()));
    assert!(!world.group.is_all_classic());
    world.ok(beat("a", LEAVE_EPOCH, None));
    assert!(world.group.is_all_classic());
    let rules = Rules { initial_delay_ms: 0, size_max: 9 };
    let mut classic = world.group.to_classic(rules, 0);
    assert_eq!(
        (classic.state(), classic.protocol(), classic.generation()),
        (State::Stable, Some("cooperative-sticky"), 3)
    );
    let back =
        crate::coordinator::consumer_classic::from_classic("g", &mut classic, "uniform", &world.catalog, 0);
    let mut back = back.expect("understood");
    assert_eq!(back.describe().members[0].assigned[&Uuid::from_u128(1)].len(), 2);
    assert!(back.take_records().iter().any(|record| record.key == Key::Group("g").encode()));
    let foreign = JoinRequest {
        protocols: vec![("range".to_owned(), Bytes::from_static(b"sub"))],
        ..classic_join("", &[])
    };
    let refused = back.join_classic("g", &foreign, |_| unreachable!(), &world.catalog, 0);
    assert_eq!(refused.error, Some(GroupError::InconsistentProtocol));
}
