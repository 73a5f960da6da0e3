//! The judge's rules over a whole partition, read at a quiet moment.
//!
//! Owner: `judge.rs`. Invariant: a scan is noted with no load, no fault and no open transaction, so that everything
//! acknowledged before has to be in it. It must not look at more than one scan at a time.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::history::{Scan, Seen};
use super::judge::Judge;

/// Time from the end of the faults to the last byte of a scan, ns (rule 16).
pub const SEEN_WITHIN_NS: u64 = 30_000_000_000;

impl Judge {
    pub(super) fn scanned(&mut self, scan: &Scan, at_ns: u64) {
        if at_ns.saturating_sub(scan.healed_ns) > SEEN_WITHIN_NS {
            let seconds = (at_ns - scan.healed_ns) / 1_000_000_000;
            self.complain(16, format!("{:?}: read only {seconds} s after the faults", scan.place));
        }
        let log = self.logs.entry(scan.place).or_default();
        if let Some(floor) = log.log_start.note(at_ns, at_ns, scan.start) {
            let text = format!("{:?}: the log start fell from {floor} to {}", scan.place, scan.start);
            self.complain(14, text);
        }
        if let Some(floor) =
            self.logs.entry(scan.place).or_default().high_watermark.note(at_ns, at_ns, scan.end)
        {
            self.complain(9, format!("{:?}: the watermark fell from {floor} to {}", scan.place, scan.end));
        }
        self.scan_offsets(scan);
        self.scan_acknowledged(scan);
        self.scan_order(scan);
        self.scan_transactions(scan);
        self.scan_lookups(scan);
        for batch in &scan.batches {
            self.known(scan.place, batch.base, batch.id, "read");
            self.legitimate(scan.place, batch);
        }
        self.forget_before(scan);
    }

    fn scan_offsets(&mut self, scan: &Scan) {
        let mut at = scan.start;
        for (number, batch) in scan.batches.iter().enumerate() {
            // The log may start in the middle of a batch.
            if batch.base != at && !(number == 0 && batch.base < at) {
                self.complain(3, format!("{:?}: offsets jump from {at} to {}", scan.place, batch.base));
            }
            at = batch.next;
        }
        if at != scan.end {
            self.complain(3, format!("{:?}: the batches end at {at}, the log at {}", scan.place, scan.end));
        }
    }

    fn scan_acknowledged(&mut self, scan: &Scan) {
        let there: HashSet<u64> = scan.batches.iter().map(|batch| batch.id).collect();
        let Some(log) = self.logs.get(&scan.place) else { return };
        let mut lost = Vec::new();
        for (id, offset) in &log.acked {
            if *offset >= scan.start && !there.contains(id) {
                let sent = self.sent.get(id);
                let what = sent.map_or(String::new(), |s| {
                    format!("batch {} of {}, acks {}", s.order, s.producer, s.acks)
                });
                lost.push((1, format!("{:?} offset {offset}: acknowledged and gone: {what}", scan.place)));
            }
        }
        // After a power loss what was read of an acks=all batch must be there: it was below the watermark.
        let readable: BTreeMap<i64, u64> = log.known.iter().map(|(offset, id)| (*offset, *id)).collect();
        for (offset, id) in readable.range(scan.start..) {
            if !there.contains(id) && !log.acked.contains_key(id) {
                lost.push((2, format!("{:?} offset {offset}: was read and is gone", scan.place)));
            }
        }
        if self.power_lost && scan.start == 0 {
            for id in log.seen.iter().filter(|id| !there.contains(id) && !log.acked.contains_key(id)) {
                lost.push((
                    9,
                    format!("{:?}: batch {id:x} was below the watermark, and was not durable", scan.place),
                ));
            }
        }
        lost.into_iter().for_each(|(rule, text)| self.complain(rule, text));
    }

    fn scan_order(&mut self, scan: &Scan) {
        let mut last: HashMap<u32, (u64, i64)> = HashMap::new();
        let mut found: HashMap<u64, i64> = HashMap::new();
        let mut wrong = Vec::new();
        for batch in scan.batches.iter().filter(|batch| !batch.control) {
            if let Some(first) = found.insert(batch.id, batch.base) {
                wrong.push((5, format!("{:?}: one batch at {first} and at {}", scan.place, batch.base)));
            }
            let Some(sent) = self.sent.get(&batch.id) else { continue };
            let Some((before, at)) = last.insert(sent.producer, (sent.order, batch.base)) else { continue };
            let what = format!(
                "{:?} offset {}: batch {} of producer {}",
                scan.place, batch.base, sent.order, sent.producer
            );
            if sent.order <= before {
                wrong.push((8, format!("{what} stands behind batch {before} at {at}")));
            } else if sent.idempotent && sent.order != before + 1 {
                wrong.push((5, format!("{what} stands right behind batch {before} at {at}")));
            }
        }
        wrong.into_iter().for_each(|(rule, text)| self.complain(rule, text));
    }

    /// Rule 11, for the part of each transaction that lies in this partition, and against what other partitions and
    /// earlier scans showed of it.
    fn scan_transactions(&mut self, scan: &Scan) {
        let visible: HashSet<u64> = scan.batches.iter().filter(|b| !b.aborted).map(|b| b.id).collect();
        let (mut wrong, mut decided) = (Vec::new(), Vec::new());
        for (number, transaction) in &self.transactions {
            let here = |id: &&u64| {
                let acked = self.logs.get(&scan.place).and_then(|log| log.acked.get(id));
                acked.is_some_and(|offset| *offset >= scan.start)
            };
            let acked: Vec<&u64> = transaction.batches.iter().filter(here).collect();
            let seen = acked.iter().filter(|id| visible.contains(id)).count();
            let good = match (transaction.ending, transaction.ended) {
                (Some(true), true) => seen == acked.len(),
                (Some(true), false) => seen == 0 || seen == acked.len(),
                (Some(false) | None, _) => seen == 0,
            };
            if !good {
                let state = format!("commit {:?}, answered {}", transaction.ending, transaction.ended);
                let text =
                    format!("{:?}: {seen} of {} batches of transaction {number}", scan.place, acked.len());
                wrong.push((11, format!("{text} are visible ({state})")));
            } else if !acked.is_empty() {
                if transaction.visible.is_some_and(|visible| visible != (seen > 0)) {
                    let text =
                        format!("{:?}: transaction {number} is decided otherwise than before", scan.place);
                    wrong.push((11, text));
                }
                decided.push((*number, seen > 0));
            }
        }
        for (number, visible) in decided {
            self.transactions.entry(number).or_default().visible = Some(visible);
        }
        wrong.into_iter().for_each(|(rule, text)| self.complain(rule, text));
    }

    fn scan_lookups(&mut self, scan: &Scan) {
        for (timestamp_ms, answered) in &scan.lookups {
            // All records of a batch have one timestamp here.
            let first = scan.batches.iter().find(|b| !b.control && b.timestamp_ms >= *timestamp_ms);
            let first_any = scan.batches.iter().find(|b| b.timestamp_ms >= *timestamp_ms);
            let offset = |batch: Option<&Seen>| batch.map_or(-1, |batch| batch.base.max(scan.start));
            if *answered != offset(first) && *answered != offset(first_any) {
                let text = format!(
                    "the first record at {timestamp_ms} ms is {answered}, a scan says {}",
                    offset(first)
                );
                self.complain(14, format!("{:?}: {text}", scan.place));
            }
        }
    }

    fn forget_before(&mut self, scan: &Scan) {
        let Some(log) = self.logs.get_mut(&scan.place) else { return };
        // The first batch may lie around the log start.
        let first = scan.batches.first().map(|batch| batch.id);
        let kept = log.known.split_off(&scan.start);
        let mut gone: HashSet<u64> = std::mem::replace(&mut log.known, kept).into_values().collect();
        gone.extend(log.acked.iter().filter(|(_, offset)| **offset < scan.start).map(|(id, _)| *id));
        if let Some(id) = first {
            gone.remove(&id);
        }
        log.acked.retain(|id, _| !gone.contains(id));
        log.seen.retain(|id| !gone.contains(id));
        self.sent.retain(|id, _| !gone.contains(id));
        self.transactions.retain(|_, transaction| {
            transaction.batches.is_empty() || !transaction.batches.iter().all(|id| gone.contains(id))
        });
    }
}
