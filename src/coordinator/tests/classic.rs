//! The classic protocol's state machine.

use bytes::Bytes;
use futures_lite::future::{block_on, poll_once};

use crate::coordinator::classic::{ClassicGroup, JoinOutcome, JoinRequest, Rules, State, Store, SyncOutcome};
use crate::coordinator::classic_sync::{MemberRef, SyncRequest};
use crate::coordinator::error::GroupError;
use crate::coordinator::parked::park;
use crate::sync::Pending;

/// A group, a clock, and a store that works unless told otherwise.
struct World {
    group: ClassicGroup,
    now_ms: i64,
    ids: std::cell::Cell<u32>,
    stored: Vec<String>,
}

fn world(initial_delay_ms: i64) -> World {
    let rules = Rules { initial_delay_ms, size_max: 4 };
    World { group: ClassicGroup::new(rules, 0), now_ms: 0, ids: Default::default(), stored: Vec::new() }
}

fn request(id: &str) -> JoinRequest {
    JoinRequest {
        member_id: id.to_owned(),
        client_id: "c".to_owned(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), Bytes::from_static(b"r"))],
        ..JoinRequest::default()
    }
}

fn member(id: &str, generation: i32) -> MemberRef {
    MemberRef { member_id: id.to_owned(), instance_id: None, generation }
}

/// The answer, if it is there.
fn got<T>(pending: &mut Waiting<T>) -> Option<T> {
    block_on(poll_once(pending.as_mut()))
}

type Waiting<T> = std::pin::Pin<Box<dyn Future<Output = T>>>;

fn waiting<T: 'static>(pending: Pending<T>) -> Waiting<T> {
    Box::pin(pending.wait())
}

impl World {
    fn join(&mut self, request: JoinRequest) -> Waiting<JoinOutcome> {
        let (answer, pending) = park();
        let ids = &self.ids;
        let new_id = |prefix: &str| {
            ids.set(ids.get() + 1);
            format!("{prefix}-{}", ids.get())
        };
        self.group.join(request, answer, new_id, self.now_ms);
        self.settle(Ok(()));
        waiting(pending)
    }

    fn sync(
        &mut self,
        id: &str,
        generation: i32,
        assignments: &[(&str, &'static [u8])],
    ) -> Waiting<SyncOutcome> {
        let (answer, pending) = park();
        let assignments = assignments.iter().map(|(id, a)| ((*id).to_owned(), Bytes::from_static(a)));
        let request = SyncRequest {
            member: member(id, generation),
            assignments: assignments.collect(),
            ..SyncRequest::default()
        };
        self.group.sync(request, answer, self.now_ms);
        waiting(pending)
    }

    fn settle(&mut self, outcome: Result<(), GroupError>) {
        while let Some(store) = self.group.take_store() {
            let what = match &store {
                Store::Snapshot => "snapshot",
                Store::Assignment { .. } => "assignment",
                Store::Replaced { .. } => "replaced",
            };
            self.stored.push(what.to_owned());
            self.group.stored(store, outcome, self.now_ms);
        }
    }

    fn pass(&mut self, ms: i64) {
        // As the timer does: from deadline to deadline.
        let end_ms = self.now_ms + ms;
        while let Some(next_ms) = self.group.next_deadline_ms().filter(|next_ms| *next_ms <= end_ms) {
            self.now_ms = next_ms.max(self.now_ms);
            self.group.tick(self.now_ms);
            self.settle(Ok(()));
        }
        self.now_ms = end_ms;
    }

    /// A stable group of members that joined one after the other; their ids.
    fn stable(&mut self, count: usize) -> Vec<String> {
        let mut joins: Vec<_> = (0..count).map(|_| self.join(request(""))).collect();
        self.pass(self.group.rules.initial_delay_ms * 2);
        let outcomes: Vec<JoinOutcome> =
            joins.iter_mut().map(|join| got(join).expect("the rebalance is over")).collect();
        let ids: Vec<String> = outcomes.iter().map(|outcome| outcome.member_id.clone()).collect();
        let generation = outcomes[0].generation;
        let mut syncs: Vec<_> = ids.iter().map(|id| self.sync(id, generation, &[])).collect();
        self.settle(Ok(()));
        assert!(syncs.iter_mut().all(|sync| got(sync).expect("synced").is_ok()));
        assert_eq!(self.group.state(), State::Stable);
        ids
    }
}

#[test]
fn the_first_rebalance_waits_and_one_leader_assigns() {
    let mut world = world(3_000);
    let mut first = world.join(request(""));
    world.pass(2_000);
    let mut second = world.join(request(""));
    world.pass(1_500);
    // Somebody came during the delay: it is prolonged.
    assert!(got(&mut first).is_none() && world.group.state() == State::PreparingRebalance);
    world.pass(3_000);
    let (first, second) = (got(&mut first).expect("joined"), got(&mut second).expect("joined"));
    assert_eq!((first.error, first.generation, first.leader.as_str()), (None, 1, first.member_id.as_str()));
    assert_eq!((first.members.len(), second.members.len()), (2, 0));
    assert_eq!(second.leader, first.member_id);
    let mut follower = world.sync(&second.member_id, 1, &[]);
    assert!(got(&mut follower).is_none());
    let mut leader = world.sync(&first.member_id, 1, &[("c-1", b"one"), ("c-2", b"two"), ("stranger", b"x")]);
    // Nobody gets an assignment that is not stored.
    assert!(got(&mut leader).is_none() && got(&mut follower).is_none());
    world.settle(Ok(()));
    assert_eq!(got(&mut leader).expect("synced").map(|s| s.assignment), Ok(Bytes::from_static(b"one")));
    assert_eq!(got(&mut follower).expect("synced").map(|s| s.assignment), Ok(Bytes::from_static(b"two")));
    assert_eq!(world.group.heartbeat(&member("c-2", 1), world.now_ms), Ok(()));
    assert_eq!(world.group.heartbeat(&member("c-2", 2), world.now_ms), Err(GroupError::IllegalGeneration));
    assert_eq!(world.group.heartbeat(&member("c-9", 1), world.now_ms), Err(GroupError::UnknownMember));
}

#[test]
fn an_assignment_that_cannot_be_stored_begins_a_new_rebalance() {
    let mut world = world(0);
    let mut join = world.join(request(""));
    world.pass(0);
    let id = got(&mut join).expect("joined").member_id;
    let mut sync = world.sync(&id, 1, &[]);
    world.settle(Err(GroupError::Storage));
    assert_eq!(got(&mut sync).expect("an answer"), Err(GroupError::Storage));
    assert_eq!(world.group.state(), State::PreparingRebalance);
}

#[test]
fn a_new_member_makes_the_others_join_again_or_go() {
    let mut world = world(0);
    let ids = world.stable(2);
    let mut third = world.join(request(""));
    assert_eq!(
        world.group.heartbeat(&member(&ids[0], 1), world.now_ms),
        Err(GroupError::RebalanceInProgress)
    );
    let mut again = world.join(request(&ids[0]));
    // The second one never comes back; its session ends first.
    world.pass(10_000);
    let (again, third) = (got(&mut again).expect("joined"), got(&mut third).expect("joined"));
    assert_eq!((again.generation, again.members.len()), (2, 2));
    assert_eq!(third.generation, 2);
    assert!(world.group.heartbeat(&member(&ids[1], 2), world.now_ms).is_err());
}

#[test]
fn members_that_do_not_synchronise_are_thrown_out() {
    let mut world = world(0);
    let mut joins = [world.join(request("")), world.join(request(""))];
    world.pass(0);
    let ids: Vec<String> = joins.iter_mut().map(|join| got(join).expect("joined").member_id).collect();
    let _leader = world.sync(&ids[0], 1, &[]);
    // The leader's assignment is on its way to the log for longer than anybody may wait; the other is silent, but
    // its heartbeats come.
    for _ in 0..65 {
        world.pass(1_000);
        let _ = world.group.heartbeat(&member(&ids[1], 1), world.now_ms);
    }
    assert_eq!(world.group.members().count(), 1);
    assert_eq!(world.group.state(), State::PreparingRebalance);
}

#[test]
fn a_new_member_comes_twice_and_forgotten_ids_expire() {
    let mut world = world(0);
    let wary = |id: &str| JoinRequest { needs_member_id: true, ..request(id) };
    let mut first = world.join(wary(""));
    let refused = got(&mut first).expect("an answer at once");
    assert_eq!((refused.error, refused.member_id.as_str()), (Some(GroupError::MemberIdRequired), "c-1"));
    let mut second = world.join(wary("c-1"));
    world.pass(0);
    assert_eq!(got(&mut second).expect("joined").error, None);
    let mut stranger = world.join(wary("c-7"));
    assert_eq!(got(&mut stranger).expect("an answer").error, Some(GroupError::UnknownMember));
    let mut third = world.join(wary(""));
    assert!(got(&mut third).is_some());
    world.pass(10_000);
    assert!(world.group.promised.is_empty());
}

#[test]
fn a_static_member_comes_back_without_a_rebalance() {
    let mut world = world(0);
    let fixed = |id: &str, skip| JoinRequest {
        instance_id: Some("i".to_owned()),
        can_skip_assignment: skip,
        ..request(id)
    };
    let mut join = world.join(fixed("", true));
    world.pass(0);
    let id = got(&mut join).expect("joined").member_id;
    let mut sync = world.sync(&id, 1, &[("i-1", b"mine")]);
    world.settle(Ok(()));
    assert!(got(&mut sync).is_some());
    for skip in [true, false] {
        let mut back = world.join(fixed("", skip));
        let back = got(&mut back).expect("an answer at once");
        assert_eq!((back.error, back.generation, back.skip_assignment), (None, 1, skip));
        assert_eq!(back.leader == back.member_id, skip, "an old client must not believe it leads");
        let mut sync = world.sync(&back.member_id, 1, &[]);
        assert_eq!(got(&mut sync).expect("stable").map(|s| s.assignment), Ok(Bytes::from_static(b"mine")));
    }
    assert_eq!(world.stored.last().map(String::as_str), Some("replaced"));
    // The one before is fenced.
    let old = MemberRef { member_id: id.clone(), instance_id: Some("i".to_owned()), generation: 1 };
    assert_eq!(world.group.heartbeat(&old, world.now_ms), Err(GroupError::FencedInstance));
    assert_eq!(world.group.leave(&id, Some("i"), world.now_ms), Err(GroupError::FencedInstance));
    assert_eq!(world.group.leave("", Some("i"), world.now_ms), Ok(()));
    world.settle(Ok(()));
    assert_eq!(world.group.state(), State::Empty);
}

#[test]
fn silent_members_go_and_the_last_one_leaves_an_empty_group() {
    let mut world = world(0);
    let ids = world.stable(1);
    world.pass(9_999);
    assert_eq!(world.group.heartbeat(&member(&ids[0], 1), world.now_ms), Ok(()));
    world.pass(10_000);
    assert_eq!((world.group.state(), world.group.members().count()), (State::Empty, 0));
    assert_eq!(world.stored.last().map(String::as_str), Some("snapshot"));
    assert_eq!(world.group.heartbeat(&member(&ids[0], 1), world.now_ms), Err(GroupError::UnknownMember));
    // It starts again with a higher generation.
    let mut join = world.join(request(""));
    world.pass(0);
    assert_eq!(got(&mut join).expect("joined").generation, 3);
}

#[test]
fn a_full_group_and_foreign_protocols_are_refused() {
    let mut world = world(0);
    world.stable(4);
    let mut fifth = world.join(request(""));
    assert_eq!(got(&mut fifth).expect("an answer").error, Some(GroupError::GroupFull));
    let mut world = self::world(0);
    world.stable(1);
    let other = JoinRequest { protocols: vec![("other".to_owned(), Bytes::new())], ..request("") };
    let mut other = world.join(other);
    assert_eq!(got(&mut other).expect("an answer").error, Some(GroupError::InconsistentProtocol));
    let kind = JoinRequest { protocol_type: "connect".to_owned(), ..request("") };
    let mut kind = world.join(kind);
    assert_eq!(got(&mut kind).expect("an answer").error, Some(GroupError::InconsistentProtocol));
}

#[test]
fn commits_are_for_members_of_this_generation() {
    let mut world = world(0);
    assert_eq!(world.group.check_commit(&member("", -1), false, 0), Ok(()));
    let ids = world.stable(1);
    let check = |world: &mut World, member: &MemberRef| world.group.check_commit(member, false, world.now_ms);
    assert_eq!(check(&mut world, &member(&ids[0], 1)), Ok(()));
    assert_eq!(check(&mut world, &member(&ids[0], 0)), Err(GroupError::IllegalGeneration));
    assert_eq!(check(&mut world, &member("", -1)), Err(GroupError::UnknownMember));
    let _second = world.join(request(""));
    assert_eq!(check(&mut world, &member(&ids[0], 1)), Ok(()), "while the others join, commits still count");
    let _again = world.join(request(&ids[0]));
    assert_eq!(world.group.state(), State::CompletingRebalance);
    assert_eq!(check(&mut world, &member(&ids[0], 2)), Err(GroupError::RebalanceInProgress));
}

#[test]
fn a_group_comes_back_from_its_record() {
    let mut world = world(0);
    let ids = world.stable(2);
    let record = world.group.record(None);
    let restored = ClassicGroup::restore(world.group.rules, record.clone(), 5);
    assert_eq!((restored.state(), restored.generation()), (State::Stable, 1));
    assert_eq!(restored.record(None), record);
    assert_eq!(restored.next_deadline_ms(), Some(10_005));
    assert!(restored.check_member(&ids[1], None).is_ok());
}
