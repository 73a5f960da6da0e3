//! The verdict: what was sent against what was read, while it ran and at the end.
//!
//! Owner: the main thread, once all producers and readers are through. Must not: call a run clean that could not be
//! judged.

use serde::Serialize;

use super::ledger::{Lane, Seen};
use super::ranges::RangeSet;
use crate::limits::PROBLEMS_MAX;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// Every promise was held.
    Held,
    /// Some were not.
    Violated,
    /// Nobody can say.
    Undecided,
}

/// The verdict and what it rests on. All counts are records unless they say otherwise.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Verdict {
    /// The answer.
    pub(crate) verdict: Outcome,
    /// Which client produced, and what it promises about duplicates.
    pub(crate) client: String,
    /// Acknowledgement level of the producers.
    pub(crate) acks: i16,
    /// Handed to a socket or a client library.
    pub(crate) sent: u64,
    /// Acknowledged.
    pub(crate) acked: u64,
    /// Without an answer: connection lost, or timed out.
    pub(crate) unknown: u64,
    /// Of these, there all the same.
    pub(crate) unknown_visible: u64,
    /// Refused for good.
    pub(crate) failed: u64,
    /// Read while the producers wrote.
    pub(crate) read_live: u64,
    /// Read back at the end.
    pub(crate) read_final: u64,
    /// Acknowledged and never seen.
    pub(crate) lost: u64,
    /// Seen at two offsets.
    pub(crate) duplicated: u64,
    /// Duplicates that the client's retries allow.
    pub(crate) duplicates_allowed: u64,
    /// Seen behind a later record of the same producer and partition.
    pub(crate) reordered: u64,
    /// Refused for good and there all the same.
    pub(crate) resurrected: u64,
    /// Wrong checksum, or in the wrong partition.
    pub(crate) damaged: u64,
    /// Stretches of offsets that were read twice and differed.
    pub(crate) changed_stretches: u64,
    /// Lanes whose acknowledgements named other offsets than the records have.
    pub(crate) wrong_offsets_lanes: u64,
    /// Offsets missing between two that are there.
    pub(crate) gaps: u64,
    /// Offsets that did not rise.
    pub(crate) backwards: u64,
    /// Offsets that retention took before the live reader came to them.
    pub(crate) expired_unread: u64,
    /// Records of others in the topic.
    pub(crate) foreign: u64,
    /// What is wrong, in words.
    pub(crate) problems: Vec<String>,
}

/// What is to be judged.
#[derive(Debug)]
pub(crate) struct Case<'a> {
    /// Sent side, by producer and partition.
    pub(crate) lanes: &'a [Lane],
    /// What the live reader saw.
    pub(crate) live: &'a Seen,
    /// What was read at the end.
    pub(crate) last: &'a Seen,
    /// Partitions of the topic.
    pub(crate) partitions: usize,
    /// Whether the client re-sends without idempotence, so that duplicates and another order are its own.
    pub(crate) retries: bool,
    /// Name of the client.
    pub(crate) client: String,
    /// Acknowledgement level.
    pub(crate) acks: i16,
    /// What kept a reader from its end, if anything did.
    pub(crate) failures: Vec<String>,
}

struct Problems {
    list: Vec<String>,
    more: u64,
}

impl Problems {
    fn add(&mut self, problem: String) {
        if self.list.len() < PROBLEMS_MAX {
            self.list.push(problem);
        } else {
            self.more += 1;
        }
    }

    fn lanes(&mut self, what: &str, producer: usize, partition: usize, set: &RangeSet) -> u64 {
        let count = set.count();
        if count > 0 {
            let numbers = set.show();
            self.add(format!(
                "{count} {what}: producer {producer}, partition {partition}, numbers {numbers}"
            ));
        }
        count
    }
}

impl Case<'_> {
    /// Judges.
    pub(crate) fn judge(self) -> Verdict {
        let mut out = self.counts();
        let mut problems = Problems { list: Vec::new(), more: 0 };
        for index in 0..self.lanes.len() {
            self.lane(index, &mut out, &mut problems);
        }
        for place in 0..self.partitions {
            let (live, last) = (&self.live.partitions[place], &self.last.partitions[place]);
            for offset in live.differences(last) {
                out.changed_stretches += 1;
                problems
                    .add(format!("partition {place}: offsets from {offset} on differ between two readings"));
            }
            out.gaps += live.gaps + last.gaps;
            out.backwards += live.backwards + last.backwards;
            out.expired_unread += live.expired;
        }
        for (count, what) in [
            (out.damaged, "records with a wrong checksum or in the wrong partition"),
            (out.gaps, "offsets missing between two that are there"),
            (out.backwards, "offsets that did not rise"),
        ] {
            if count > 0 {
                problems.add(format!("{count} {what}"));
            }
        }
        let overflowed = self.live.overflowed || self.last.overflowed;
        if overflowed {
            problems.add("more disorder than the ledger can hold: not decided".into());
        }
        let clean = problems.list.is_empty();
        out.verdict = match (clean, self.failures.is_empty() && !overflowed) {
            (true, true) => Outcome::Held,
            (true, false) => Outcome::Undecided,
            (false, _) if overflowed && problems.list.len() == 1 => Outcome::Undecided,
            (false, _) => Outcome::Violated,
        };
        out.problems = problems.list;
        if problems.more > 0 {
            out.problems.push(format!("and {} more", problems.more));
        }
        out.problems.extend(self.failures);
        out
    }

    fn counts(&self) -> Verdict {
        Verdict {
            verdict: Outcome::Undecided,
            client: self.client.clone(),
            acks: self.acks,
            sent: self.lanes.iter().map(|lane| lane.next).sum(),
            acked: 0,
            unknown: self.lanes.iter().map(|lane| lane.unknown.count()).sum(),
            unknown_visible: 0,
            failed: self.lanes.iter().map(|lane| lane.failed.count()).sum(),
            read_live: self.live.records,
            read_final: self.last.records,
            lost: 0,
            duplicated: 0,
            duplicates_allowed: 0,
            reordered: 0,
            resurrected: 0,
            damaged: self.live.damaged + self.last.damaged,
            changed_stretches: 0,
            wrong_offsets_lanes: 0,
            gaps: 0,
            backwards: 0,
            expired_unread: 0,
            foreign: self.last.foreign,
            problems: Vec::new(),
        }
    }

    fn lane(&self, index: usize, out: &mut Verdict, problems: &mut Problems) {
        let (producer, place) = (index / self.partitions, index % self.partitions);
        let lane = &self.lanes[index];
        let (live, last) = (&self.live.lanes[index], &self.last.lanes[index]);
        let acked = lane.acknowledged();
        let mut seen = live.seen.clone();
        seen.extend(&last.seen);
        out.acked += acked.count();
        out.unknown_visible += lane.unknown.both(&seen).count();
        let mut add = |what: &str, set: &RangeSet| problems.lanes(what, producer, place, set);
        // What expired before anybody read it is neither there nor lost.
        if self.live.partitions[place].expired == 0 {
            out.lost += add("acknowledged records were never seen", &acked.without(&seen));
        }
        out.resurrected += add("refused records are there", &lane.failed.both(&seen));
        let mut twice = live.twice.clone();
        twice.extend(&last.twice);
        // What has no answer may still arrive, behind what was sent later over another connection.
        let mut late = live.late.clone();
        late.extend(&last.late);
        let late = late.without(&lane.unknown);
        if self.retries {
            out.duplicates_allowed += twice.count();
        } else {
            out.duplicated += add("records are there twice", &twice);
            out.reordered += add("records stand behind later ones", &late);
        }
        let expired = self.last.partitions[place].first != self.live.partitions[place].first
            || self.live.partitions[place].expired > 0;
        if !expired && !self.retries && last.digest != lane.digest {
            out.wrong_offsets_lanes += 1;
            problems.add(format!(
                "producer {producer}, partition {place}: acknowledged offsets are not where the records lie"
            ));
        }
    }
}

impl Verdict {
    /// The verdict for people.
    pub(crate) fn text(&self) -> String {
        let word = match self.verdict {
            Outcome::Held => "HELD: nothing lost, duplicated, reordered, changed or resurrected",
            Outcome::Violated => "VIOLATED",
            Outcome::Undecided => "UNDECIDED",
        };
        let mut out = format!(
            "{word}\n{} (acks={}): {} sent, {} acknowledged, {} without an answer ({} of them there), {} refused\n\
             {} read while it ran, {} read back; {} lost, {} duplicated ({} allowed), {} reordered, {} damaged, \
             {} stretches changed\n",
            self.client,
            if self.acks == -1 { "all".to_owned() } else { self.acks.to_string() },
            self.sent,
            self.acked,
            self.unknown,
            self.unknown_visible,
            self.failed,
            self.read_live,
            self.read_final,
            self.lost,
            self.duplicated,
            self.duplicates_allowed,
            self.reordered,
            self.damaged,
            self.changed_stretches,
        );
        for problem in &self.problems {
            out += &format!("- {problem}\n");
        }
        out
    }

    /// 0 held, 1 violated, 2 undecided.
    pub(crate) fn code(&self) -> u8 {
        match self.verdict {
            Outcome::Held => 0,
            Outcome::Violated => 1,
            Outcome::Undecided => 2,
        }
    }
}
