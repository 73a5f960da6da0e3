//! The in-flight window of one share group on one partition (KIP-932): which offsets are available, acquired,
//! acknowledged or archived, and what of that has to be remembered.
//!
//! Owner: the share partition, on the core that owns the data. Time comes in as an argument. Invariants: the runs
//! cover `[start, end)` without gap or overlap; `start` never falls but by [`Window::reset`]; no offset leaves the
//! states acknowledged and archived; `start` stands on an offset that is neither, or at `end`; neighbours that say
//! the same are one run, so that memory follows what differs and not the number of records.
//! It must not read records or do I/O.

use std::collections::BTreeMap;
use std::rc::Rc;

/// State of an offset; the numbers are those of Kafka's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordState {
    /// May be given to a member.
    Available = 0,
    /// A member has it.
    Acquired = 1,
    /// Done.
    Acknowledged = 2,
    /// Given up: rejected, delivered too often, or no record at all.
    Archived = 4,
}

impl RecordState {
    /// The state by its number.
    pub fn from_code(code: i8) -> Option<RecordState> {
        Some(match code {
            0 => RecordState::Available,
            1 => RecordState::Acquired,
            2 => RecordState::Acknowledged,
            4 => RecordState::Archived,
            _ => return None,
        })
    }

    fn is_final(self) -> bool {
        matches!(self, RecordState::Acknowledged | RecordState::Archived)
    }
}

/// What a member says about an offset it has; the numbers are those of the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledge {
    /// There is no record at this offset.
    Gap,
    /// Processed.
    Accept,
    /// Not processed; somebody else may try.
    Release,
    /// Cannot be processed by anybody.
    Reject,
    /// Still at it: the lock is to last longer (KIP-1222).
    Renew,
}

impl Acknowledge {
    /// By its number.
    pub fn from_code(code: i8) -> Option<Acknowledge> {
        Some(match code {
            0 => Acknowledge::Gap,
            1 => Acknowledge::Accept,
            2 => Acknowledge::Release,
            3 => Acknowledge::Reject,
            4 => Acknowledge::Renew,
            _ => return None,
        })
    }
}

/// Who has acquired something.
#[derive(Debug, PartialEq, Eq)]
pub struct Owner {
    /// Member id.
    pub member: String,
    /// Number of its share session, unique in the process.
    pub session: u64,
}

/// Limits of a window; they may change while it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How often a record is delivered at most.
    pub deliveries_max: i16,
    /// How many records may be in flight.
    pub records_max: i64,
}

/// Offsets that a member was given, both ends inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acquired {
    /// The first offset.
    pub first: i64,
    /// The last one.
    pub last: i64,
    /// Deliveries so far, this one included.
    pub deliveries: i16,
}

/// Offsets in one state, as records and the log have them; both ends inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateBatch {
    /// The first offset.
    pub first: i64,
    /// The last one.
    pub last: i64,
    /// Their state.
    pub state: RecordState,
    /// Deliveries so far.
    pub deliveries: i16,
}

/// What must be remembered of a window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Everything below is done.
    pub start: i64,
    /// What is known from there on, in order.
    pub batches: Vec<StateBatch>,
}

impl Image {
    /// Offsets from the start on that are done.
    pub fn complete_count(&self) -> i64 {
        let done = self.batches.iter().filter(|batch| batch.state.is_final());
        done.map(|batch| batch.last - batch.first + 1).sum()
    }
}

/// Acknowledgements for a range of offsets: one for all of them, or one each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AckBatch {
    /// The first offset.
    pub first: i64,
    /// The last one.
    pub last: i64,
    /// Codes of [`Acknowledge`].
    pub types: Vec<i8>,
}

/// Why acknowledgements are refused; nothing was changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckError {
    /// The request contradicts itself.
    Invalid,
    /// Some offset is not acquired by this member.
    State,
}

/// One batch of the log as an acquisition sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first offset.
    pub first: i64,
    /// The last one.
    pub last: i64,
    /// Whether its records are for consumers: no control batch, not aborted.
    pub wanted: bool,
}

/// An acquisition under way.
#[derive(Debug)]
pub struct Acquisition {
    /// For whom.
    pub owner: Rc<Owner>,
    /// Until when the member has what it gets, milliseconds.
    pub deadline_ms: i64,
    /// How many records may still be given.
    pub left: i64,
    /// Whether a batch that was begun may be given as a whole.
    pub whole_batches: bool,
    /// Ranges are told in pieces of about this many offsets.
    pub batch_size: i64,
    /// The offset that the walk has come to.
    pub at: i64,
    /// What was given.
    pub taken: Vec<Acquired>,
}

impl Acquisition {
    fn tell(&mut self, first: i64, last: i64, deliveries: i16) {
        self.left -= last - first + 1;
        let batch_size = self.batch_size.max(1);
        if let Some(known) = self.taken.last_mut()
            && known.last + 1 == first
            && known.deliveries == deliveries
            && known.last - known.first + 1 < batch_size
        {
            known.last = last;
            return;
        }
        self.taken.push(Acquired { first, last, deliveries });
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    last: i64,
    state: RecordState,
    deliveries: i16,
    owner: Option<Rc<Owner>>,
    deadline_ms: i64,
}

impl Run {
    fn idle(last: i64, state: RecordState, deliveries: i16) -> Run {
        Run { last, state, deliveries, owner: None, deadline_ms: 0 }
    }

    fn settle(&mut self, state: RecordState) {
        *self = Run::idle(self.last, state, self.deliveries);
    }

    fn release(&mut self, rules: Rules) {
        let worn_out = self.deliveries >= rules.deliveries_max;
        self.settle(if worn_out { RecordState::Archived } else { RecordState::Available });
    }

    fn says_the_same(&self, other: &Run) -> bool {
        let Run { last: _, state, deliveries, owner, deadline_ms } = self;
        (state, owner, deadline_ms) == (&other.state, &other.owner, &other.deadline_ms)
            && (*deliveries == other.deliveries || *state == RecordState::Acknowledged)
    }

    /// An offset without a record, found while reading: it takes nobody's place.
    fn is_hole(&self) -> bool {
        self.state == RecordState::Archived && self.deliveries == 0
    }
}

/// See the module.
#[derive(Debug)]
pub struct Window {
    start: i64,
    end: i64,
    runs: BTreeMap<i64, Run>,
}

impl Window {
    /// An empty window at `start`.
    pub fn new(start: i64) -> Window {
        Window { start, end: start, runs: BTreeMap::new() }
    }

    /// The window that an image describes. What no batch mentions is available.
    pub fn restore(image: &Image) -> Window {
        let mut window = Window::new(image.start);
        for batch in &image.batches {
            let first = batch.first.max(window.end);
            if batch.last < first {
                continue;
            }
            if first > window.end {
                window.extend(first - 1, RecordState::Available, 0);
            }
            let state = if batch.state.is_final() { batch.state } else { RecordState::Available };
            window.extend(batch.last, state, batch.deliveries.max(0));
        }
        window.trim();
        window.advance();
        window
    }

    fn extend(&mut self, last: i64, state: RecordState, deliveries: i16) {
        self.runs.insert(self.end, Run::idle(last, state, deliveries));
        let first = self.end;
        self.end = last + 1;
        self.join(first, last);
    }

    /// Takes back what stands at the end and was never delivered.
    fn trim(&mut self) {
        while let Some((first, run)) = self.runs.last_key_value()
            && run.state == RecordState::Available
            && run.deliveries == 0
        {
            self.end = *first;
            self.runs.pop_last();
        }
    }

    /// The offset below which everything is done.
    pub fn start(&self) -> i64 {
        self.start
    }

    /// The first offset that was never looked at.
    pub fn end(&self) -> i64 {
        self.end
    }

    /// Ranges that differ: what the window costs.
    pub fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// Records between start and end; offsets without a record do not count.
    pub fn in_flight(&self) -> i64 {
        let held = self.runs.iter().filter(|(_, run)| !run.is_hole());
        held.map(|(first, run)| run.last - first + 1).sum()
    }

    /// Where to read next: the first available offset, or the end if there is room for more.
    pub fn next_offset(&self, rules: Rules) -> Option<i64> {
        let available = self.runs.iter().find(|(_, run)| run.state == RecordState::Available);
        match available {
            Some((first, _)) => Some(*first),
            None => (self.in_flight() < rules.records_max).then_some(self.end),
        }
    }

    /// Whether something within the window can be given out again.
    pub fn has_available(&self) -> bool {
        self.runs.values().any(|run| run.state == RecordState::Available)
    }

    /// Goes on with an acquisition through the next batch of the log; whether to go on with the one behind it.
    pub fn acquire(&mut self, acquisition: &mut Acquisition, span: Span, rules: Rules) -> bool {
        if span.first > acquisition.at {
            // Compaction has taken what was there.
            self.archive_holes(acquisition.at, span.first - 1);
        }
        let first = span.first.max(acquisition.at).max(self.start);
        acquisition.at = acquisition.at.max(span.last + 1);
        if first > span.last {
            return true;
        }
        if !span.wanted {
            self.archive_holes(first, span.last);
            return true;
        }
        let mut left = if acquisition.whole_batches { i64::MAX } else { acquisition.left };
        let old: Vec<(i64, i64, i16)> = self.available_in(first, span.last);
        for (from, to, deliveries) in old {
            let to = to.min(from.saturating_add(left - 1));
            if to < from {
                break;
            }
            left -= to - from + 1;
            self.give(acquisition, from, to, deliveries.saturating_add(1));
        }
        let from = self.end;
        let room = left.min(rules.records_max - self.in_flight());
        let to = span.last.min(from.saturating_add(room - 1));
        if to >= from.max(first) {
            self.extend(to, RecordState::Available, 0);
            self.give(acquisition, from, to, 1);
        }
        acquisition.left > 0 && (to >= span.last || span.last < self.end)
    }

    fn available_in(&self, first: i64, last: i64) -> Vec<(i64, i64, i16)> {
        let begin = self.runs.range(..=first).next_back().map_or(first, |(from, _)| *from);
        let touched = self.runs.range(begin..=last).filter(|(_, run)| run.state == RecordState::Available);
        let cut = touched.map(|(from, run)| ((*from).max(first), run.last.min(last), run.deliveries));
        cut.filter(|(from, to, _)| from <= to).collect()
    }

    fn give(&mut self, acquisition: &mut Acquisition, first: i64, last: i64, deliveries: i16) {
        let (owner, deadline_ms) = (acquisition.owner.clone(), acquisition.deadline_ms);
        self.change(first, last, |run| {
            *run = Run {
                last: run.last,
                state: RecordState::Acquired,
                deliveries,
                owner: Some(owner.clone()),
                deadline_ms,
            };
        });
        acquisition.tell(first, last, deliveries);
    }

    /// No records at these offsets, those that somebody has excepted: he will say so himself.
    fn archive_holes(&mut self, first: i64, last: i64) {
        for (from, to, _) in self.available_in(first, last) {
            self.change(from, to, |run| *run = Run::idle(run.last, RecordState::Archived, 0));
        }
        if last >= self.end {
            self.extend(last, RecordState::Archived, 0);
        }
        self.advance();
    }

    /// Checks acknowledgements, then carries them out, all or none. `deadline_ms` is for renewed locks.
    pub fn acknowledge(
        &mut self,
        member: &str,
        batches: &[AckBatch],
        deadline_ms: i64,
        rules: Rules,
    ) -> Result<(), AckError> {
        check_batches(batches)?;
        for batch in batches.iter().filter(|batch| batch.last >= self.start) {
            self.check_owned(member, batch.first.max(self.start), batch.last)?;
        }
        for batch in batches {
            let mut from = batch.first;
            while from <= batch.last {
                let (code, to) = same_type(batch, from);
                if let Some(kind) = Acknowledge::from_code(code)
                    && to >= self.start
                {
                    self.change(from.max(self.start), to, |run| {
                        acknowledge_run(run, kind, deadline_ms, rules)
                    });
                }
                from = to + 1;
            }
        }
        self.advance();
        Ok(())
    }

    fn check_owned(&self, member: &str, first: i64, last: i64) -> Result<(), AckError> {
        let mut at = first;
        while at <= last {
            let (_, run) = self.runs.range(..=at).next_back().ok_or(AckError::State)?;
            let owned = run.owner.as_ref().is_some_and(|owner| owner.member == member);
            if run.last < at || run.state != RecordState::Acquired || !owned {
                return Err(AckError::State);
            }
            at = run.last + 1;
        }
        Ok(())
    }

    /// Takes back what a session has; whether there was anything.
    pub fn release_session(&mut self, session: u64, rules: Rules) -> bool {
        self.release_where(rules, |run| run.owner.as_ref().is_some_and(|owner| owner.session == session))
    }

    /// Takes back what was held too long; whether there was anything.
    pub fn expire(&mut self, now_ms: i64, rules: Rules) -> bool {
        self.release_where(rules, |run| run.state == RecordState::Acquired && run.deadline_ms <= now_ms)
    }

    fn release_where(&mut self, rules: Rules, due: impl Fn(&Run) -> bool) -> bool {
        let hit: Vec<(i64, i64)> =
            self.runs.iter().filter(|(_, run)| due(run)).map(|(first, run)| (*first, run.last)).collect();
        for (first, last) in &hit {
            self.change(*first, *last, |run| run.release(rules));
        }
        self.advance();
        !hit.is_empty()
    }

    /// When the next lock ends.
    pub fn next_deadline_ms(&self) -> Option<i64> {
        let held = self.runs.values().filter(|run| run.state == RecordState::Acquired);
        held.map(|run| run.deadline_ms).min()
    }

    /// The log begins later now; whether that took something away.
    pub fn raise_start(&mut self, log_start: i64) -> bool {
        if log_start <= self.start {
            return false;
        }
        self.split(log_start);
        self.runs = self.runs.split_off(&log_start);
        self.start = log_start;
        self.end = self.end.max(log_start);
        self.advance();
        true
    }

    /// Begins anew at `start`.
    pub fn reset(&mut self, start: i64) {
        *self = Window::new(start);
    }

    /// What must be remembered. Who has what is not: after a start nobody has anything, and an attempt that was
    /// under way does not count.
    pub fn image(&self) -> Image {
        let mut batches: Vec<StateBatch> = Vec::with_capacity(self.runs.len());
        for (first, run) in &self.runs {
            let (state, deliveries) = match run.state {
                RecordState::Acquired => (RecordState::Available, run.deliveries - 1),
                state => (state, run.deliveries),
            };
            match batches.last_mut() {
                Some(known) if known.state == state && known.deliveries == deliveries => {
                    known.last = run.last
                }
                _ => batches.push(StateBatch { first: *first, last: run.last, state, deliveries }),
            }
        }
        while batches.last().is_some_and(|b| b.state == RecordState::Available && b.deliveries == 0) {
            batches.pop();
        }
        Image { start: self.start, batches }
    }

    fn split(&mut self, at: i64) {
        let Some((_, run)) = self.runs.range_mut(..at).next_back() else { return };
        if run.last < at {
            return;
        }
        let rest = run.clone();
        run.last = at - 1;
        self.runs.insert(at, rest);
    }

    /// Changes all runs of a range that lies within the window.
    fn change(&mut self, first: i64, last: i64, mut make: impl FnMut(&mut Run)) {
        self.split(first);
        self.split(last + 1);
        self.runs.range_mut(first..=last).for_each(|(_, run)| make(run));
        self.join(first, last);
    }

    /// Makes one run of neighbours that say the same, around and in a range.
    fn join(&mut self, first: i64, last: i64) {
        let mut at = self.runs.range(..first).next_back().map_or(first, |(from, _)| *from);
        while at <= last + 1 {
            let Some(run) = self.runs.get(&at) else { return };
            let next = run.last + 1;
            match self.runs.get(&next) {
                Some(behind) if next <= last + 1 && run.says_the_same(behind) => {
                    let end = behind.last;
                    self.runs.remove(&next);
                    if let Some(run) = self.runs.get_mut(&at) {
                        run.last = end;
                    }
                }
                _ => at = next,
            }
        }
    }

    /// Moves the start over what is done.
    fn advance(&mut self) {
        while let Some((_, run)) = self.runs.first_key_value()
            && run.state.is_final()
        {
            self.start = run.last + 1;
            self.runs.pop_first();
        }
        if self.runs.is_empty() {
            self.start = self.end;
        }
    }
}

fn acknowledge_run(run: &mut Run, kind: Acknowledge, deadline_ms: i64, rules: Rules) {
    match kind {
        Acknowledge::Accept => run.settle(RecordState::Acknowledged),
        Acknowledge::Gap | Acknowledge::Reject => run.settle(RecordState::Archived),
        Acknowledge::Release => run.release(rules),
        Acknowledge::Renew => run.deadline_ms = deadline_ms,
    }
}

/// What must hold of the batches whatever the window is: ranges in order, one known type for all or one for each.
fn check_batches(batches: &[AckBatch]) -> Result<(), AckError> {
    let mut before = -1;
    for batch in batches {
        let count = (batch.last.saturating_sub(batch.first)).saturating_add(1);
        let fits = batch.types.len() == 1 || i64::try_from(batch.types.len()) == Ok(count);
        let known = batch.types.iter().all(|code| Acknowledge::from_code(*code).is_some());
        if batch.first <= before || batch.last < batch.first || batch.last == i64::MAX || !fits || !known {
            return Err(AckError::Invalid);
        }
        before = batch.last;
    }
    Ok(())
}

/// The type of an offset, and the last offset up to which it is the same.
fn same_type(batch: &AckBatch, from: i64) -> (i8, i64) {
    if batch.types.len() == 1 {
        return (batch.types[0], batch.last);
    }
    let rest = &batch.types[(from - batch.first) as usize..];
    let same = rest.iter().take_while(|code| **code == rest[0]).count();
    (rest[0], from + same as i64 - 1)
}

#[cfg(test)]
#[path = "tests/share_window.rs"]
mod tests;
