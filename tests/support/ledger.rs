//! What a test knows of one partition: what was sent, acknowledged and seen; and the check of a log against it.
//!
//! Owner: the test. One producer writes to the partition, which numbers its batches 0, 1, 2, … (their *order*).
//! Invariants checked: acknowledged means readable, at that offset, byte for byte; what was seen once stays; offsets
//! have no gap; batches stand in the order in which they were sent, none twice, and within one round none is missing
//! before one that is there; an idempotent producer that repeats what was not acknowledged has no gap at all.

use std::collections::{BTreeMap, HashMap};

use super::batches::Fetched;

struct Sent {
    order: u64,
    round: u32,
    count: i64,
}

/// One partition's truth.
pub struct Ledger {
    /// `topic-partition`, for messages.
    pub name: String,
    idempotent: bool,
    sent: HashMap<u64, Sent>,
    round_starts: HashMap<u32, u64>,
    /// Offset to digest, of everything acknowledged or seen.
    known: BTreeMap<i64, u64>,
    acked_count: u64,
    log_start: i64,
    violations: Vec<String>,
}

impl Ledger {
    /// An empty log's.
    pub fn new(name: String, idempotent: bool) -> Ledger {
        Ledger {
            name,
            idempotent,
            sent: HashMap::new(),
            round_starts: HashMap::new(),
            known: BTreeMap::new(),
            acked_count: 0,
            log_start: 0,
            violations: Vec::new(),
        }
    }

    /// Batches acknowledged so far.
    pub fn acked_count(&self) -> u64 {
        self.acked_count
    }

    /// A batch goes out.
    pub fn note_sent(&mut self, order: u64, round: u32, count: usize, digest: u64) {
        self.round_starts.entry(round).or_insert(order);
        let before = self.sent.insert(digest, Sent { order, round, count: count as i64 });
        assert!(before.is_none(), "two batches of one digest");
    }

    /// A batch was acknowledged with `offset`.
    pub fn note_acked(&mut self, offset: i64, digest: u64) {
        self.acked_count += 1;
        self.note_known(offset, digest, "acknowledged");
    }

    /// A consumer got a batch.
    pub fn note_seen(&mut self, batch: &Fetched) {
        self.note_known(batch.info.base_offset, batch.digest, "seen");
    }

    fn note_known(&mut self, offset: i64, digest: u64, how: &str) {
        let before = *self.known.entry(offset).or_insert(digest);
        if before != digest {
            let order = |digest| self.sent.get(&digest).map(|sent| sent.order);
            let (old, new) = (order(before), order(digest));
            self.complain(format!("offset {offset}: was batch {old:?}, now batch {new:?} is {how} there"));
        }
    }

    /// Notes something that must not be.
    pub fn complain(&mut self, what: String) {
        self.violations.push(format!("{}: {what}", self.name));
    }

    /// Everything that was wrong so far.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Holds a whole log, read from `log_start` to `log_end`, against the truth.
    pub fn verify(&mut self, log_start: i64, log_end: i64, batches: &[Fetched]) {
        if log_start < self.log_start {
            self.complain(format!("the log start fell from {} to {log_start}", self.log_start));
        }
        self.log_start = self.log_start.max(log_start);
        self.check_offsets(log_start, log_end, batches);
        self.check_order(batches);
        let there: HashMap<i64, u64> = batches.iter().map(|b| (b.info.base_offset, b.digest)).collect();
        let first = batches.first().map_or(log_end, |b| b.info.base_offset).max(log_start);
        let mut lost = Vec::new();
        for (offset, digest) in self.known.range(first..) {
            match there.get(offset) {
                Some(found) if found == digest => {}
                Some(_) => lost.push(format!("offset {offset}: another batch than the known one")),
                None => lost.push(format!("offset {offset}: a known batch is gone (log end {log_end})")),
            }
        }
        lost.into_iter().for_each(|what| self.complain(what));
        for batch in batches {
            self.note_seen(batch);
        }
    }

    fn check_offsets(&mut self, log_start: i64, log_end: i64, batches: &[Fetched]) {
        let mut at = log_start;
        for (number, batch) in batches.iter().enumerate() {
            let base = batch.info.base_offset;
            // The first fetch may begin in the middle of a batch.
            if base != at && !(number == 0 && base < at) {
                self.complain(format!("offsets jump from {at} to {base}"));
            }
            at = batch.info.next_offset();
        }
        if at != log_end {
            self.complain(format!("the batches end at {at}, the log at {log_end}"));
        }
    }

    fn check_order(&mut self, batches: &[Fetched]) {
        let mut before: Option<(u64, u32)> = None;
        for batch in batches {
            let offset = batch.info.base_offset;
            let Some(sent) = self.sent.get(&batch.digest) else {
                self.complain(format!("offset {offset}: a batch that nobody sent here"));
                before = None;
                continue;
            };
            let (order, round) = (sent.order, sent.round);
            let count = i64::from(batch.info.record_count);
            if count != sent.count {
                self.complain(format!("offset {offset}: {count} records instead of {}", sent.count));
            }
            let wanted = match before {
                None => order,
                Some((last, last_round)) if self.idempotent || last_round == round => last + 1,
                Some(_) => self.round_starts[&round],
            };
            if order != wanted {
                self.complain(format!(
                    "offset {offset}: batch {order} of round {round} where {wanted} belongs"
                ));
            }
            before = Some((order, round));
        }
    }
}

/// Fails the test when there is anything wrong.
pub fn assert_clean(violations: &[String]) {
    let shown: Vec<&str> = violations.iter().take(20).map(String::as_str).collect();
    assert!(violations.is_empty(), "{} violations, the first:\n{}", violations.len(), shown.join("\n"));
}
