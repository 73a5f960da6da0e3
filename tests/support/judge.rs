//! The judge: holds a history against what a client of a correct broker can see. Seventeen rules, numbered as in
//! docs/PROMISES.md ("What the judge checks"); a violation names its rule.
//!
//! Owner: the test. Invariants: it believes only events, in their order, and assumes nothing about the broker; what
//! was asked and not answered may have happened or not. State of what retention has dropped is forgotten, so that a
//! run of hours stays small. Rules 6 and 13 and the simple halves of others are here, those over a whole log in
//! `judge_scan.rs`, that of share groups in `judge_share.rs`.
//! It must not talk to a broker. `tests/faults.rs` plants a violation of each rule.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::history::{Event, Place, Probe, Read, Seen, Sent, What};
use super::judge_share::Shares;

/// One rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Number of the rule.
    pub rule: u8,
    /// What happened.
    pub text: String,
}

/// What is known of one partition.
#[derive(Default)]
pub(super) struct Log {
    /// Offset to batch, of everything acknowledged or seen.
    pub known: BTreeMap<i64, u64>,
    /// Acknowledged batches by id.
    pub acked: HashMap<u64, i64>,
    /// Batches that a reader got.
    pub seen: HashSet<u64>,
    pub high_watermark: Floor,
    pub last_stable: Floor,
    pub log_start: Floor,
}

/// A number that must not fall, in real time: answers to requests that overlap may come in any order.
#[derive(Default)]
pub(super) struct Floor {
    /// Answers by time of arrival, each higher than all before.
    steps: Vec<(u64, i64)>,
}

impl Floor {
    /// Notes an answer; what it should have been at least, if it fell.
    pub fn note(&mut self, asked_ns: u64, answered_ns: u64, value: i64) -> Option<i64> {
        let before = self.steps.partition_point(|(at, _)| *at < asked_ns);
        let floor = before.checked_sub(1).map_or(i64::MIN, |at| self.steps[at].1);
        if self.steps.last().is_none_or(|(_, highest)| *highest < value) {
            self.steps.push((answered_ns, value));
        }
        // Requests do not overlap with thousands of others.
        if self.steps.len() > 4096 {
            self.steps.drain(..2048);
        }
        (value < floor).then_some(floor)
    }
}

#[derive(Default)]
pub(super) struct Transaction {
    pub batches: Vec<u64>,
    /// The wish, and whether it was answered.
    pub ending: Option<bool>,
    pub ended: bool,
    /// What scans have shown of it.
    pub visible: Option<bool>,
}

struct Commit {
    offset: i64,
    transaction: Option<u64>,
    answered_ns: Option<u64>,
    refused: bool,
}

/// The state of judgement.
#[derive(Default)]
pub struct Judge {
    pub(super) sent: HashMap<u64, Sent>,
    pub(super) refused: HashMap<u64, i16>,
    pub(super) logs: HashMap<Place, Log>,
    pub(super) transactions: HashMap<u64, Transaction>,
    positions: HashMap<(u32, Place), i64>,
    /// Commits of one offset, by number, in the order in which they were sent.
    commits: HashMap<(String, Place), BTreeMap<u64, Commit>>,
    commit_keys: HashMap<u64, (String, Place)>,
    pub(super) shares: Shares,
    owners: HashMap<(String, i32, Place), String>,
    violations: Vec<Violation>,
    /// Set after a power loss: only what was flushed counts.
    pub(super) power_lost: bool,
    acked_count: u64,
    heard: BTreeMap<&'static str, u64>,
}

impl Judge {
    /// Everything that was wrong so far.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Batches that it remembers: bounded by retention, or a long run would not be possible.
    pub fn size(&self) -> usize {
        self.sent.len()
    }

    /// Acknowledgements so far.
    pub fn acked_count(&self) -> u64 {
        self.acked_count
    }

    /// How much of what was heard: a load that does not do what it should shows here.
    pub fn heard(&self) -> &BTreeMap<&'static str, u64> {
        &self.heard
    }

    fn count(&mut self, what: &What) {
        let name = match what {
            What::Acked { .. } => "acknowledged batches",
            What::Ended { .. } => "ended transactions",
            What::Committed { .. } => "committed offsets",
            What::Read(read) if read.committed && !read.batches.is_empty() => "reads of committed data",
            What::Read(read) if !read.batches.is_empty() => "reads",
            What::Assigned { .. } => "assignments",
            What::Probed { .. } => "probes",
            What::Scanned(_) => "scans",
            What::Settled { .. } => "settled records of share groups",
            What::Drained { .. } => "drained share groups",
            _ => return,
        };
        *self.heard.entry(name).or_default() += 1;
    }

    pub(super) fn complain(&mut self, rule: u8, text: String) {
        self.violations.push(Violation { rule, text });
    }

    /// Takes events in, in the order of their times.
    pub fn hear(&mut self, events: &[Event]) {
        for event in events {
            self.count(&event.what);
            self.one(event);
        }
    }

    /// From here on the history goes on behind a power loss: what was acknowledged with acks=1 may be gone, and all
    /// that only needed to be written. What was acknowledged with acks=all, or read of it, has to be there.
    pub fn power_loss(&mut self) {
        self.power_lost = true;
        self.shares.nobody_holds();
        let sent = &self.sent;
        for log in self.logs.values_mut() {
            log.known.clear();
            let durable = |id: &u64| sent.get(id).is_some_and(|sent| sent.acks == -1);
            log.acked.retain(|id, _| durable(id));
            log.seen.retain(durable);
            (log.high_watermark, log.last_stable) = Default::default();
            log.known.extend(log.acked.iter().map(|(id, offset)| (*offset, *id)));
        }
    }

    fn one(&mut self, event: &Event) {
        match &event.what {
            What::Sent(sent) => self.sent(sent),
            What::Acked { id, offset } => self.acked(*id, *offset),
            What::Refused { id, code } => {
                self.refused.insert(*id, *code);
            }
            What::Probed { what, code, wanted } => {
                if !wanted.contains(code) {
                    let rule = if *what == Probe::StaleGeneration { 12 } else { 6 };
                    self.complain(rule, format!("{what:?} was answered with {code} instead of {wanted:?}"));
                }
            }
            What::Placed { reader, place, offset } => {
                self.positions.insert((*reader, *place), *offset);
            }
            What::Read(read) => self.read(read, event.at_ns),
            What::Ending { transaction, commit } => {
                self.transactions.entry(*transaction).or_default().ending = Some(*commit);
            }
            What::Ended { transaction } => self.ended(*transaction, event.at_ns),
            What::Committing { group, place, offset, commit, transaction } => {
                self.commit_keys.insert(*commit, (group.clone(), *place));
                let one =
                    Commit { offset: *offset, transaction: *transaction, answered_ns: None, refused: false };
                self.commits.entry((group.clone(), *place)).or_default().insert(*commit, one);
            }
            What::Committed { commit } => {
                if let Some(commit) = self.commit(*commit).filter(|commit| commit.transaction.is_none()) {
                    commit.answered_ns = Some(event.at_ns);
                }
            }
            What::CommitRefused { commit } => {
                if let Some(commit) = self.commit(*commit) {
                    commit.refused = true;
                }
            }
            What::Offset { group, place, offset, asked_ns } => {
                self.offset(group, *place, *offset, *asked_ns);
            }
            What::Assigned { group, generation, member, places } => {
                for place in places {
                    let key = (group.clone(), *generation, *place);
                    let owner = self.owners.entry(key).or_insert_with(|| member.clone()).clone();
                    if owner != *member {
                        let what = format!("{place:?} of {group}, generation {generation}");
                        self.complain(13, format!("{what}: belongs to {owner} and to {member}"));
                    }
                }
            }
            What::Scanned(scan) => self.scanned(scan, event.at_ns),
            share => self.share(share),
        }
    }

    fn sent(&mut self, sent: &Sent) {
        if let Some(transaction) = sent.transaction {
            self.transactions.entry(transaction).or_default().batches.push(sent.id);
        }
        self.sent.insert(sent.id, sent.clone());
    }

    fn acked(&mut self, id: u64, offset: i64) {
        let Some(sent) = self.sent.get(&id).cloned() else {
            return self.complain(15, format!("batch {id:x} was acknowledged, which nobody sent"));
        };
        self.acked_count += 1;
        let log = self.logs.entry(sent.place).or_default();
        if let Some(before) = log.acked.insert(id, offset).filter(|before| *before != offset) {
            let what = format!("{:?}: batch {} of producer {}", sent.place, sent.order, sent.producer);
            self.complain(5, format!("{what} was acknowledged at {before}, and repeated at {offset}"));
        }
        self.known(sent.place, offset, id, "acknowledged");
    }

    pub(super) fn known(&mut self, place: Place, offset: i64, id: u64, how: &str) {
        let before = *self.logs.entry(place).or_default().known.entry(offset).or_insert(id);
        if before != id {
            let name = |id: u64| {
                let sent = self.sent.get(&id);
                sent.map_or("an unknown one".to_owned(), |s| format!("{} of {}", s.order, s.producer))
            };
            let text =
                format!("{place:?} offset {offset}: batch {} is {how}, which was {}", name(id), name(before));
            self.complain(2, text);
        }
    }

    /// One batch that a reader got: was it sent, here, and may it be seen?
    pub(super) fn legitimate(&mut self, place: Place, batch: &Seen) {
        if batch.control {
            return;
        }
        let at = format!("{place:?} offset {}", batch.base);
        let Some(sent) = self.sent.get(&batch.id) else {
            return self.complain(15, format!("{at}: bytes that nobody sent"));
        };
        let (count, there) = (sent.count, sent.place);
        if there != place {
            self.complain(15, format!("{at}: a batch that was sent to {there:?}"));
        } else if count != batch.next - batch.base {
            self.complain(15, format!("{at}: {} records instead of {count}", batch.next - batch.base));
        }
        if let Some(code) = self.refused.get(&batch.id) {
            let text = format!("{at}: a batch is visible that was refused with error {code}");
            self.complain(4, text);
        }
    }

    fn read(&mut self, read: &Read, answered_ns: u64) {
        let who = format!("reader {} of {:?}", read.reader, read.place);
        let position = *self.positions.entry((read.reader, read.place)).or_insert(read.from);
        if position != read.from {
            self.complain(7, format!("{who} asks for {} where it stands at {position}", read.from));
        }
        let mut at = read.from;
        for (number, batch) in read.batches.iter().enumerate() {
            if number == 0 && batch.base <= at && at < batch.next {
                // The batch that holds the offset.
            } else if number == 0 {
                self.complain(7, format!("{who} asks for {at} and gets {}..{}", batch.base, batch.next));
            } else if batch.base != at {
                self.complain(3, format!("{who}: offsets jump from {at} to {}", batch.base));
            }
            at = batch.next;
            self.known(read.place, batch.base, batch.id, "read");
            self.legitimate(read.place, batch);
            self.committed_only(read, batch, &who);
            self.logs.entry(read.place).or_default().seen.insert(batch.id);
        }
        self.positions.insert((read.reader, read.place), at);
        let bound = if read.committed { read.last_stable } else { read.high_watermark };
        if !read.batches.is_empty() && at > bound {
            self.complain(10, format!("{who} got offsets up to {at}, past {bound}"));
        }
        self.marks(read, answered_ns, &who);
    }

    fn committed_only(&mut self, read: &Read, batch: &Seen, who: &str) {
        let Some(sent) = self.sent.get(&batch.id).filter(|_| read.committed && !batch.aborted) else {
            return;
        };
        let Some(transaction) = sent.transaction else { return };
        let state = self.transactions.get(&transaction);
        match state.and_then(|state| state.ending) {
            Some(true) => {}
            // A transaction whose end was not asked for is aborted or open, never committed.
            other => {
                let text = format!("{who} got offset {} of transaction {transaction}: {other:?}", batch.base);
                self.complain(10, text);
            }
        }
    }

    fn marks(&mut self, read: &Read, answered_ns: u64, who: &str) {
        let log = self.logs.entry(read.place).or_default();
        let mut fallen = Vec::new();
        if let Some(floor) = log.high_watermark.note(read.asked_ns, answered_ns, read.high_watermark) {
            fallen
                .push((9, format!("{who}: the high watermark fell from {floor} to {}", read.high_watermark)));
        }
        if read.last_stable >= 0 {
            if let Some(floor) = log.last_stable.note(read.asked_ns, answered_ns, read.last_stable) {
                fallen.push((
                    9,
                    format!("{who}: the last stable offset fell from {floor} to {}", read.last_stable),
                ));
            }
            if read.last_stable > read.high_watermark {
                let text = format!(
                    "{who}: last stable {} above watermark {}",
                    read.last_stable, read.high_watermark
                );
                fallen.push((9, text));
            }
        }
        if let Some(floor) = log.log_start.note(read.asked_ns, answered_ns, read.log_start) {
            fallen.push((14, format!("{who}: the log start fell from {floor} to {}", read.log_start)));
        }
        fallen.into_iter().for_each(|(rule, text)| self.complain(rule, text));
    }

    fn ended(&mut self, transaction: u64, at_ns: u64) {
        let state = self.transactions.entry(transaction).or_default();
        state.ended = true;
        let commit = state.ending == Some(true);
        for one in self.commits.values_mut().flat_map(BTreeMap::values_mut) {
            if one.transaction == Some(transaction) {
                if commit {
                    one.answered_ns = Some(at_ns);
                } else {
                    one.refused = true;
                }
            }
        }
    }

    fn commit(&mut self, number: u64) -> Option<&mut Commit> {
        let key = self.commit_keys.get(&number)?;
        self.commits.get_mut(key)?.get_mut(&number)
    }

    /// Rule 12 (11 for offsets of transactions): the value is that of the last commit that was answered before the
    /// question, or of a later one that may have happened.
    fn offset(&mut self, group: &str, place: Place, offset: i64, asked_ns: u64) {
        let Some(commits) = self.commits.get_mut(&(group.to_owned(), place)) else {
            if offset != -1 {
                self.complain(12, format!("{group} {place:?}: offset {offset}, which nobody committed"));
            }
            return;
        };
        let settled = |commit: &Commit| commit.answered_ns.is_some_and(|at| at < asked_ns);
        let last = commits.iter().rev().find(|(_, commit)| settled(commit)).map(|(number, _)| *number);
        let transactional = commits.values().any(|commit| commit.transaction.is_some());
        let ends = &self.transactions;
        let possible = |commit: &Commit| {
            // What a transaction holds counts only when its commit was asked for.
            let asked =
                commit.transaction.is_none_or(|id| ends.get(&id).is_some_and(|t| t.ending == Some(true)));
            !commit.refused && asked && commit.offset == offset
        };
        let good = match last {
            Some(last) => commits.range(last..).any(|(_, commit)| possible(commit)),
            None => offset == -1 || commits.values().any(possible),
        };
        if good {
            // What lies before it can never be asked for again.
            if let Some(last) = last {
                let later = commits.split_off(&last);
                for number in std::mem::replace(commits, later).into_keys() {
                    self.commit_keys.remove(&number);
                }
            }
        } else {
            let wanted: Vec<i64> = commits.values().map(|commit| commit.offset).collect();
            let rule = if transactional { 11 } else { 12 };
            let tail = &wanted[wanted.len().saturating_sub(5)..];
            self.complain(
                rule,
                format!("{group} {place:?}: offset {offset}, possible are the last of {tail:?}"),
            );
        }
    }
}
