//! Server-side assignors of consumer groups (KIP-848): who reads which partitions.
//!
//! Owner: nobody; pure. Invariants: every partition of a subscribed topic goes to exactly one member that subscribes
//! to it; the same input gives the same output; `uniform` moves no more partitions than balance asks for.
//! It must not know epochs or what members hold at the moment: that is reconciliation's work.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::records::Partitions;
use crate::maps::HashMap;

/// A member as an assignor sees it.
#[derive(Clone, Debug)]
pub struct AssignorMember {
    /// What members are ordered by: the instance id of static members, else the member id.
    pub order: String,
    /// Subscribed topics that exist.
    pub topics: BTreeSet<Uuid>,
    /// The previous target.
    pub before: Partitions,
}

/// The assignors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    /// Balanced and sticky.
    Uniform,
    /// Ranges of each topic, the same for topics with the same subscribers.
    Range,
}

impl Assignor {
    /// By its name.
    pub fn from_name(name: &str) -> Option<Assignor> {
        match name {
            "uniform" => Some(Assignor::Uniform),
            "range" => Some(Assignor::Range),
            _ => None,
        }
    }

    /// Assigns `counts[topic]` partitions of each topic to `members`.
    pub fn assign(
        self,
        members: &BTreeMap<String, AssignorMember>,
        counts: &BTreeMap<Uuid, i32>,
    ) -> BTreeMap<String, Partitions> {
        match self {
            Assignor::Uniform => uniform(members, counts),
            Assignor::Range => range(members, counts),
        }
    }
}

fn range(
    members: &BTreeMap<String, AssignorMember>,
    counts: &BTreeMap<Uuid, i32>,
) -> BTreeMap<String, Partitions> {
    let mut out: BTreeMap<String, Partitions> =
        members.keys().map(|id| (id.clone(), Partitions::new())).collect();
    for (topic, count) in counts {
        let mut readers: Vec<(&str, &String)> = members
            .iter()
            .filter(|(_, member)| member.topics.contains(topic))
            .map(|(id, member)| (member.order.as_str(), id))
            .collect();
        readers.sort();
        let Some(each) = count.checked_div(readers.len() as i32) else { continue };
        let more = count % readers.len() as i32;
        let mut next = 0;
        for (at, (_, id)) in readers.into_iter().enumerate() {
            let share = each + i32::from((at as i32) < more);
            if share > 0
                && let Some(partitions) = out.get_mut(id)
            {
                partitions.insert(*topic, (next..next + share).collect());
            }
            next += share;
        }
    }
    out
}

/// Members by load, so that the least loaded of those who may have a partition is found.
struct Loads {
    of: HashMap<usize, usize>,
    order: BTreeSet<(usize, usize)>,
}

impl Loads {
    fn set(&mut self, member: usize, load: usize) {
        if let Some(old) = self.of.insert(member, load) {
            self.order.remove(&(old, member));
        }
        self.order.insert((load, member));
    }

    fn least(&self, allowed: impl Fn(usize) -> bool) -> Option<(usize, usize)> {
        self.order.iter().copied().find(|(_, member)| allowed(*member))
    }
}

fn uniform(
    members: &BTreeMap<String, AssignorMember>,
    counts: &BTreeMap<Uuid, i32>,
) -> BTreeMap<String, Partitions> {
    let ids: Vec<&String> = members.keys().collect();
    let list: Vec<&AssignorMember> = members.values().collect();
    let mut held: Vec<Partitions> = vec![Partitions::new(); list.len()];
    let mut taken: BTreeSet<(Uuid, i32)> = BTreeSet::new();
    // Everybody keeps what he had and may still have.
    for (at, member) in list.iter().enumerate() {
        for (topic, indexes) in member.before.iter().filter(|(topic, _)| member.topics.contains(topic)) {
            let count = counts.get(topic).copied().unwrap_or(0);
            for index in indexes.iter().copied().filter(|index| (0..count).contains(index)) {
                if taken.insert((*topic, index)) {
                    held[at].entry(*topic).or_default().insert(index);
                }
            }
        }
    }
    let mut loads = Loads { of: HashMap::default(), order: BTreeSet::new() };
    for (at, partitions) in held.iter().enumerate() {
        loads.set(at, partitions.values().map(BTreeSet::len).sum());
    }
    // What is free goes to the least loaded.
    for (topic, count) in counts {
        for index in 0..*count {
            if taken.contains(&(*topic, index)) {
                continue;
            }
            let Some((load, at)) = loads.least(|at| list[at].topics.contains(topic)) else { break };
            held[at].entry(*topic).or_default().insert(index);
            loads.set(at, load + 1);
        }
    }
    balance(&list, &mut held, &mut loads);
    ids.into_iter().cloned().zip(held).collect()
}

/// Moves partitions from members to others that have at least two fewer, until there are none.
fn balance(list: &[&AssignorMember], held: &mut [Partitions], loads: &mut Loads) {
    loop {
        let mut moved = false;
        let by_load: Vec<usize> = loads.order.iter().rev().map(|(_, member)| *member).collect();
        for from in by_load {
            let topics: Vec<Uuid> = held[from].keys().copied().collect();
            for topic in topics {
                moved |= move_off(list, held, loads, from, topic);
            }
        }
        if !moved {
            return;
        }
    }
}

fn move_off(
    list: &[&AssignorMember],
    held: &mut [Partitions],
    loads: &mut Loads,
    from: usize,
    topic: Uuid,
) -> bool {
    let mut moved = false;
    while let Some(load) = loads.of.get(&from).copied() {
        let Some((least, to)) = loads.least(|at| list[at].topics.contains(&topic)) else { break };
        if load < least + 2 {
            break;
        }
        let Some(indexes) = held[from].get_mut(&topic) else { break };
        let Some(index) = indexes.pop_last() else { break };
        if indexes.is_empty() {
            held[from].remove(&topic);
        }
        held[to].entry(topic).or_default().insert(index);
        loads.set(from, load - 1);
        loads.set(to, least + 1);
        moved = true;
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn topic(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    fn member(name: &str, topics: &[u128], before: Partitions) -> (String, AssignorMember) {
        let topics = topics.iter().copied().map(topic).collect();
        (name.to_owned(), AssignorMember { order: name.to_owned(), topics, before })
    }

    fn sizes(assigned: &BTreeMap<String, Partitions>) -> Vec<usize> {
        assigned.values().map(|p| p.values().map(BTreeSet::len).sum()).collect()
    }

    #[test]
    fn ranges_are_contiguous_and_aligned() {
        let members =
            [member("a", &[1, 2], Partitions::new()), member("b", &[1, 2], Partitions::new())].into();
        let counts = [(topic(1), 3), (topic(2), 3)].into();
        let assigned = Assignor::Range.assign(&members, &counts);
        assert_eq!(assigned["a"][&topic(1)], [0, 1].into());
        assert_eq!(assigned["a"][&topic(2)], [0, 1].into());
        assert_eq!(assigned["b"][&topic(2)], [2].into());
    }

    #[test]
    fn uniform_is_sticky() {
        let first = [member("a", &[1], Partitions::new()), member("b", &[1], Partitions::new())].into();
        let counts = [(topic(1), 7)].into();
        let before = Assignor::Uniform.assign(&first, &counts);
        assert_eq!(sizes(&before), [4, 3]);
        let joined = [
            member("a", &[1], before["a"].clone()),
            member("b", &[1], before["b"].clone()),
            member("c", &[1], Partitions::new()),
        ];
        let after = Assignor::Uniform.assign(&joined.into(), &counts);
        assert_eq!(sizes(&after).iter().sum::<usize>(), 7);
        assert!(sizes(&after).iter().all(|size| (2..=3).contains(size)));
        for id in ["a", "b"] {
            assert!(after[id][&topic(1)].is_subset(&before[id][&topic(1)]), "{id} got something new");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_partition_has_one_reader_that_wants_it(
            counts in proptest::collection::vec(0i32..12, 1..5),
            wants in proptest::collection::vec(1u8..16, 1..6),
            range in any::<bool>(),
        ) {
            let counts: BTreeMap<Uuid, i32> =
                counts.iter().enumerate().map(|(at, count)| (topic(at as u128), *count)).collect();
            let members: BTreeMap<String, AssignorMember> = wants.iter().enumerate().map(|(at, bits)| {
                let topics: Vec<u128> = (0..counts.len() as u128).filter(|t| bits & (1 << t) != 0).collect();
                member(&format!("m{at}"), &topics, Partitions::new())
            }).collect();
            let assignor = if range { Assignor::Range } else { Assignor::Uniform };
            let assigned = assignor.assign(&members, &counts);
            for (topic, count) in &counts {
                let readers: Vec<i32> = assigned.values()
                    .flat_map(|p| p.get(topic).into_iter().flatten().copied()).collect();
                let wanted = members.values().any(|member| member.topics.contains(topic));
                prop_assert_eq!(readers.len() as i32, if wanted { *count } else { 0 });
                let distinct: BTreeSet<i32> = readers.iter().copied().collect();
                prop_assert_eq!(distinct.len(), readers.len());
            }
            for (id, partitions) in &assigned {
                prop_assert!(partitions.keys().all(|topic| members[id].topics.contains(topic)));
            }
        }
    }
}
