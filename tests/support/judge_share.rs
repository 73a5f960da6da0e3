//! Rule 17 of the judge: what a share group is done with does not come back, what it is not done with is not lost, and
//! nobody has a record that another member has.
//!
//! Owner: `judge.rs`. Invariants: a record counts as done when its acceptance or rejection was answered; when it was
//! asked for and not answered it may be either; a member that has gone, or whose broker was killed, has nothing. What
//! a drain has seen is remembered as one offset for each partition, so that a long run stays small.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::history::{Place, What};
use super::judge::Judge;

/// What is known of a share group's records.
#[derive(Default)]
pub(super) struct Shares {
    /// Records that the log has acknowledged and no drain has seen.
    put: BTreeSet<(Place, i64)>,
    /// Records that somebody asked to be done with, and whether that was answered.
    done: BTreeMap<(Place, i64), bool>,
    /// Who has what.
    held: HashMap<(Place, i64), String>,
    /// Below, everything is done.
    floor: HashMap<Place, i64>,
}

impl Shares {
    /// The broker's memory is gone, and with it who has what.
    pub(super) fn nobody_holds(&mut self) {
        self.held.clear();
    }
}

impl Judge {
    /// Takes an event of a share group in.
    pub(super) fn share(&mut self, what: &What) {
        match what {
            What::Put { place, first, next } => {
                self.shares.put.extend((*first..*next).map(|offset| (*place, offset)));
            }
            What::Given { place, offset, member } => self.given((*place, *offset), member),
            What::Settling { place, offset, done } => {
                self.shares.held.remove(&(*place, *offset));
                if *done {
                    self.shares.done.entry((*place, *offset)).or_insert(false);
                }
            }
            What::Settled { place, offset, code } => self.settled((*place, *offset), *code),
            What::Parted { member } => self.shares.held.retain(|_, holder| holder != member),
            What::Drained { all } => self.drained(all),
            _ => {}
        }
    }

    fn given(&mut self, record: (Place, i64), member: &str) {
        let below = self.shares.floor.get(&record.0).is_some_and(|floor| record.1 < *floor);
        if below || self.shares.done.get(&record) == Some(&true) {
            let text = format!("{record:?} is done, and was given to {member}");
            self.complain(17, text);
        }
        if let Some(other) = self.shares.held.insert(record, member.to_owned()) {
            self.complain(17, format!("{record:?} was given to {member}, and {other} has it"));
        }
    }

    fn settled(&mut self, record: (Place, i64), code: i16) {
        if code != 0 {
            return self.complain(17, format!("an acknowledgement of {record:?} was refused with {code}"));
        }
        if let Some(answered) = self.shares.done.get_mut(&record) {
            *answered = true;
        }
    }

    /// All that there was has been given: whatever nobody asked to be done with must be in it.
    fn drained(&mut self, all: &[(Place, i64)]) {
        let all: BTreeSet<_> = all.iter().copied().collect();
        let put = std::mem::take(&mut self.shares.put);
        let done = std::mem::take(&mut self.shares.done);
        for record in &put {
            if !all.contains(record) && !done.contains_key(record) {
                self.complain(
                    17,
                    format!("{record:?} was acknowledged, nobody is done with it, and it is gone"),
                );
            }
        }
        for (place, offset) in all.iter().chain(&put).chain(done.keys()) {
            let floor = self.shares.floor.entry(*place).or_insert(0);
            *floor = (*floor).max(offset + 1);
        }
    }
}
