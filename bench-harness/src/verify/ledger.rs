//! What was sent and what became of it, and what was read: the two sides that a verdict compares.
//!
//! Owner: a producer thread owns the lanes it writes, a reader thread what it saw. A *lane* is one producer's records
//! for one partition, numbered from 0. Invariants: a lane keeps ranges, not records; what is not known to have failed
//! or to be unknown was acknowledged, once nothing is in flight. Must not: grow without bound (`overflowed`).

use std::collections::BTreeMap;

use super::ranges::RangeSet;
use super::record::{Fetched, Stamp, Value};
use crate::limits::{DIGEST_OFFSETS, DIGESTS_MAX};

/// A number that depends on all bits of both.
fn mix(a: u64, b: u64) -> u64 {
    let mut z = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    z = (z ^ (z >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 32)
}

/// The sent side of a lane.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lane {
    /// The number of the next record.
    pub(crate) next: u64,
    /// Sent, and nobody knows what became of them.
    pub(crate) unknown: RangeSet,
    /// Refused for good: must never be seen.
    pub(crate) failed: RangeSet,
    /// Acknowledged without an offset.
    pub(crate) unplaced: RangeSet,
    /// Sum over number and offset of all that was acknowledged with one.
    pub(crate) digest: u64,
}

impl Lane {
    /// The numbers whose offsets no acknowledgement told.
    pub(crate) fn without_offset(&self) -> RangeSet {
        let mut all = self.unknown.clone();
        all.extend(&self.failed);
        all.extend(&self.unplaced);
        all
    }

    /// Records `first` to before `first + count` were acknowledged at `offset` and behind.
    pub(crate) fn acked(&mut self, first: u64, count: u64, offset: i64) {
        for record in 0..count {
            self.digest = self.digest.wrapping_add(mix(first + record, offset as u64 + record));
        }
    }

    /// The numbers that were acknowledged.
    pub(crate) fn acknowledged(&self) -> RangeSet {
        let mut all = RangeSet::default();
        all.insert(0, self.next);
        all.without(&self.unknown).without(&self.failed)
    }
}

/// The read side of a lane.
#[derive(Debug, Clone, Default)]
pub(crate) struct LaneSeen {
    /// Numbers seen.
    pub(crate) seen: RangeSet,
    /// Numbers seen at more than one offset.
    pub(crate) twice: RangeSet,
    /// Numbers first seen behind a higher one.
    pub(crate) late: RangeSet,
    /// Sum over number and offset of all first sights.
    pub(crate) digest: u64,
    behind: u64,
}

/// What a reader saw of a partition.
#[derive(Debug, Clone, Default)]
pub(crate) struct PartitionSeen {
    /// The first offset read.
    pub(crate) first: Option<i64>,
    /// Behind the last offset read.
    pub(crate) next: i64,
    /// Offsets that were jumped over because they had expired.
    pub(crate) expired: u64,
    /// Offsets that were missing between two that were there.
    pub(crate) gaps: u64,
    /// Offsets that did not rise.
    pub(crate) backwards: u64,
    /// For each `DIGEST_OFFSETS` offsets: the records there and a sum over their contents.
    digests: BTreeMap<i64, (u32, u64)>,
}

/// Everything a reader saw.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    run: u64,
    partitions_count: usize,
    /// By producer and partition.
    pub(crate) lanes: Vec<LaneSeen>,
    /// By partition.
    pub(crate) partitions: Vec<PartitionSeen>,
    /// Records of this run.
    pub(crate) records: u64,
    /// Records with the mark whose checksum is wrong, or that lie in another partition than they were made for.
    pub(crate) damaged: u64,
    /// Records of others.
    pub(crate) foreign: u64,
    /// Some set has reached its bound: the run can no longer be judged.
    pub(crate) overflowed: bool,
    lie: Option<Lie>,
    exceptions: Option<Vec<RangeSet>>,
}

/// Faults that the verifier plants in what it read, to show that it finds them. For tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Lie {
    /// A record is not seen.
    Lose,
    /// A record is seen twice.
    Duplicate,
    /// A record is seen behind its successors.
    Reorder,
    /// The second reading has other bytes than the first.
    Change,
    /// An acknowledgement names another offset.
    Offset,
    /// A record whose send was refused is there.
    Resurrect,
}

/// The record that a lie is about.
const LIE_NUMBER: u64 = 5;

impl Seen {
    /// Nothing seen yet.
    pub(crate) fn new(run: u64, producers: usize, partitions: usize, lie: Option<Lie>) -> Self {
        Self {
            run,
            partitions_count: partitions,
            lanes: vec![LaneSeen::default(); producers * partitions],
            partitions: vec![PartitionSeen::default(); partitions],
            records: 0,
            damaged: 0,
            foreign: 0,
            overflowed: false,
            lie,
            exceptions: None,
        }
    }

    /// Leaves records that were not acknowledged out of the lanes' digests: what is left is to equal the ledger's.
    pub(crate) fn except(mut self, exceptions: Vec<RangeSet>) -> Self {
        self.exceptions = Some(exceptions);
        self
    }

    /// Books a record of partition number `place`; returns its stamp when it is one of this run.
    pub(crate) fn book(&mut self, place: usize, fetched: &Fetched<'_>) -> Option<Stamp> {
        self.book_offset(place, fetched);
        let stamp = match Value::decode(fetched.value) {
            Value::Whole(stamp) if stamp.run == self.run => stamp,
            Value::Damaged => {
                self.damaged += 1;
                return None;
            }
            _ => {
                self.foreign += 1;
                return None;
            }
        };
        let lane = stamp.producer as usize * self.partitions_count + stamp.partition as usize;
        if stamp.partition as usize != place || lane >= self.lanes.len() {
            self.damaged += 1;
            return None;
        }
        self.records += 1;
        let target = lane == 0 && stamp.number == LIE_NUMBER;
        match self.lie {
            Some(Lie::Lose) if target => {}
            Some(Lie::Duplicate) if target => {
                self.book_number(lane, stamp.number, fetched.offset);
                self.book_number(lane, stamp.number, fetched.offset + 1);
            }
            Some(Lie::Reorder) if target => {
                self.book_number(lane, stamp.number + 1, fetched.offset);
                self.book_number(lane, stamp.number, fetched.offset + 1);
            }
            Some(Lie::Reorder) if lane == 0 && stamp.number == LIE_NUMBER + 1 => {}
            _ => self.book_number(lane, stamp.number, fetched.offset),
        }
        Some(stamp)
    }

    fn book_offset(&mut self, place: usize, fetched: &Fetched<'_>) {
        let change = self.lie == Some(Lie::Change) && place == 0 && fetched.offset == LIE_NUMBER as i64;
        let partition = &mut self.partitions[place];
        let offset = fetched.offset;
        if partition.first.is_none() {
            partition.first = Some(offset);
        } else if offset < partition.next {
            partition.backwards += 1;
        } else {
            partition.gaps += (offset - partition.next) as u64;
        }
        partition.next = partition.next.max(offset + 1);
        if partition.digests.len() >= DIGESTS_MAX {
            self.overflowed = true;
            return;
        }
        let contents = u64::from(crc32c::crc32c(fetched.value)) ^ u64::from(change);
        let (count, sum) = partition.digests.entry(offset / DIGEST_OFFSETS).or_default();
        *count += 1;
        *sum = sum.wrapping_add(mix(offset as u64, contents));
    }

    fn book_number(&mut self, lane: usize, number: u64, offset: i64) {
        let excepted = self.exceptions.as_ref().is_some_and(|all| all[lane].contains(number));
        let lane = &mut self.lanes[lane];
        if lane.seen.contains(number) {
            lane.twice.insert(number, number + 1);
        } else {
            lane.seen.insert(number, number + 1);
            if number < lane.behind {
                lane.late.insert(number, number + 1);
            }
            lane.behind = lane.behind.max(number + 1);
            if !excepted {
                lane.digest = lane.digest.wrapping_add(mix(number, offset as u64));
            }
        }
        self.overflowed |= lane.seen.is_full() || lane.twice.is_full() || lane.late.is_full();
    }

    /// Adds what a reader of other partitions saw.
    pub(crate) fn absorb(&mut self, other: Self) {
        for (mine, theirs) in self.partitions.iter_mut().zip(other.partitions) {
            if theirs.first.is_some() || theirs.next > 0 {
                *mine = theirs;
            }
        }
        for (mine, theirs) in self.lanes.iter_mut().zip(other.lanes) {
            if theirs.behind > 0 {
                *mine = theirs;
            }
        }
        self.records += other.records;
        self.damaged += other.damaged;
        self.foreign += other.foreign;
        self.overflowed |= other.overflowed;
    }

    /// The reader goes on at `offset` because what lies before has expired.
    pub(crate) fn skip_to(&mut self, place: usize, offset: i64) {
        let partition = &mut self.partitions[place];
        if partition.first.is_some() && offset > partition.next {
            partition.expired += (offset - partition.next) as u64;
        }
        partition.next = partition.next.max(offset);
    }
}

impl PartitionSeen {
    /// Stretches of offsets that both readings cover and that differ, as the first offset of each.
    pub(crate) fn differences(&self, later: &Self) -> Vec<i64> {
        let (Some(first), Some(first_later)) = (self.first, later.first) else { return Vec::new() };
        let (from, to) = (first.max(first_later), self.next.min(later.next));
        let whole = |chunk: &i64| *chunk * DIGEST_OFFSETS >= from && (*chunk + 1) * DIGEST_OFFSETS <= to;
        // The last stretch is whole too when both readings end at the same offset.
        let last = |chunk: &i64| {
            self.next == later.next && *chunk == (to - 1) / DIGEST_OFFSETS && *chunk * DIGEST_OFFSETS >= from
        };
        self.digests
            .iter()
            .filter(|(chunk, _)| whole(chunk) || last(chunk))
            .filter(|(chunk, digest)| self.expired == 0 && later.digests.get(*chunk) != Some(*digest))
            .map(|(chunk, _)| chunk * DIGEST_OFFSETS)
            .collect()
    }
}

/// Plants the lies that are about what was sent.
pub(crate) fn lie_about(lanes: &mut [Lane], lie: Option<Lie>) {
    match (lie, lanes.first_mut()) {
        (Some(Lie::Offset), Some(lane)) => lane.digest = lane.digest.wrapping_add(1),
        (Some(Lie::Resurrect), Some(lane)) => lane.failed.insert(LIE_NUMBER, LIE_NUMBER + 1),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::judge::{Case, Outcome, Verdict};

    const RECORDS: u64 = 40;

    /// A log of two partitions, two producers in each, everything acknowledged in order.
    fn story(
        lie: Option<Lie>,
        change: impl Fn(&mut Vec<(usize, i64, Stamp)>, &mut Vec<Lane>),
        retries: bool,
    ) -> Verdict {
        let mut lanes = vec![Lane::default(); 4];
        let mut log = Vec::new();
        for place in 0..2usize {
            for offset in 0..RECORDS {
                let (producer, number) = (offset % 2, offset / 2);
                let partition = place as u32;
                let stamp = Stamp { run: 9, producer: producer as u32, partition, number, intended_ns: 0 };
                let lane = &mut lanes[producer as usize * 2 + place];
                lane.acked(number, 1, offset as i64);
                lane.next = number + 1;
                log.push((place, offset as i64, stamp));
            }
        }
        change(&mut log, &mut lanes);
        lie_about(&mut lanes, lie);
        let read = |mut seen: Seen| {
            for (place, offset, stamp) in &log {
                seen.book(*place, &Fetched { offset: *offset, value: &stamp.encode(60) });
            }
            seen
        };
        let exceptions = lanes.iter().map(Lane::without_offset);
        let live = read(Seen::new(9, 2, 2, lie.filter(|lie| *lie == Lie::Lose)));
        let last = read(Seen::new(9, 2, 2, lie).except(exceptions.collect()));
        let case = Case {
            lanes: &lanes,
            live: &live,
            last: &last,
            partitions: 2,
            retries,
            client: "test".into(),
            acks: -1,
            failures: Vec::new(),
        };
        case.judge()
    }

    #[test]
    fn a_clean_log_is_held_and_every_lie_is_found() {
        let clean = story(None, |_, _| (), false);
        assert_eq!(clean.verdict, Outcome::Held, "{:?}", clean.problems);
        assert_eq!((clean.sent, clean.acked, clean.read_final), (80, 80, 80));
        let found = |lie: Lie| {
            let verdict = story(Some(lie), |_, _| (), false);
            assert_eq!(verdict.verdict, Outcome::Violated, "{lie:?}");
            verdict
        };
        assert_eq!(found(Lie::Lose).lost, 1);
        assert_eq!(found(Lie::Duplicate).duplicated, 1);
        assert_eq!(found(Lie::Reorder).reordered, 1);
        assert_eq!(found(Lie::Change).changed_stretches, 1);
        assert_eq!(found(Lie::Offset).wrong_offsets_lanes, 1);
        assert_eq!(found(Lie::Resurrect).resurrected, 1);
    }

    #[test]
    fn what_is_unknown_may_be_there_or_not() {
        let unknown = |lanes: &mut Vec<Lane>| {
            // The last two of the first lane have no answer: their acknowledgements never came.
            let lane = &mut lanes[0];
            lane.digest = 0;
            for number in 0..18 {
                lane.acked(number, 1, number as i64 * 2);
            }
            lane.unknown.insert(18, 20);
        };
        let there = story(None, |_, lanes| unknown(lanes), false);
        assert_eq!((there.verdict, there.unknown, there.unknown_visible), (Outcome::Held, 2, 2));
        let gone = story(
            None,
            |log, lanes| {
                unknown(lanes);
                // The very last record of the lane was never written; the one behind it in the log closes up.
                log.remove(38);
                let (_, offset, stamp) = &mut log[38];
                *offset = 38;
                let number = stamp.number;
                lanes[2].digest = 0;
                for earlier in 0..number {
                    lanes[2].acked(earlier, 1, earlier as i64 * 2 + 1);
                }
                lanes[2].acked(number, 1, 38);
            },
            false,
        );
        assert_eq!((gone.verdict, gone.unknown_visible), (Outcome::Held, 1), "{:?}", gone.problems);
    }

    #[test]
    fn retries_without_idempotence_may_duplicate_and_gaps_are_found() {
        let twice = |log: &mut Vec<(usize, i64, Stamp)>, _: &mut Vec<Lane>| {
            let (place, _, stamp) = log[0];
            log.insert(40, (place, 40, stamp));
        };
        let allowed = story(None, twice, true);
        assert_eq!(
            (allowed.verdict, allowed.duplicates_allowed),
            (Outcome::Held, 1),
            "{:?}",
            allowed.problems
        );
        assert_eq!(story(None, twice, false).verdict, Outcome::Violated);
        let gap =
            story(None, |log, _| log.iter_mut().skip(60).for_each(|(_, offset, _)| *offset += 1), false);
        assert_eq!((gap.verdict, gap.gaps), (Outcome::Violated, 2));
        let damaged = story(None, |log, _| log[7].2.partition = 1, false);
        assert_eq!((damaged.verdict, damaged.damaged), (Outcome::Violated, 2));
    }
}
