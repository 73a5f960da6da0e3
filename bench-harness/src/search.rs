//! The search for the knee: the highest open-loop rate that meets a latency limit.
//!
//! Owner: the main thread. The rate is doubled until it is not held, then the gap is halved a fixed number of times;
//! each step is a short run on the same topics, and a rate is not held when two of them failed. What was found is then
//! confirmed by longer runs, each a tenth lower until one holds: of a rate that was held for a second the next ten may
//! say something else. Must not: call a rate held when the harness was late.

use serde::Serialize;

use crate::error::Result;
use crate::report::{Phase, short_ns};

/// Halvings of the gap between a rate that held and one that did not: the knee is known to 1/16.
const HALVINGS: usize = 4;
/// Largest rate tried, records per second.
const RATE_MAX: u64 = 50_000_000;
/// Longer runs that are tried to confirm a knee, and what each takes of the rate of the one before.
const CONFIRMATIONS_MAX: usize = 10;
const CONFIRM_SHARE: f64 = 0.9;
/// Share of the scheduled rate that has to be acknowledged inside the window.
const REACHED: f64 = 0.98;

/// One step of the search.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Step {
    /// Records per second.
    pub(crate) rate: u64,
    /// Share of it that was acknowledged in time.
    pub(crate) reached: f64,
    /// 99th percentile of the response time.
    pub(crate) p99_ns: u64,
    /// Whether rate and limit were held.
    pub(crate) held: bool,
    /// Whether the harness was late.
    pub(crate) generator_late: bool,
    /// Whether it was one of the longer runs that confirm a rate.
    pub(crate) confirms: bool,
}

/// Judges a phase that was run at a rate.
pub(crate) fn judge(rate: u64, slo_ns: u64, phase: &Phase) -> Step {
    let reached = phase.produced.as_ref().map_or(0.0, |rates| rates.records_per_s / rate as f64);
    let p99_ns = phase.latency.get("response").map_or(u64::MAX, |values| values.p99_ns);
    let missing = phase.unsent_requests + phase.undelivered_records.unwrap_or(0);
    let held = reached >= REACHED && p99_ns <= slo_ns && missing == 0;
    Step { rate, reached, p99_ns, held, generator_late: phase.generator.bottleneck, confirms: false }
}

/// How long a rate is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// A step of the search.
    Step,
    /// Long enough to believe it.
    Confirmation,
}

/// Searches from `first` on and confirms what was found; `run` plays a rate (records per second). The knee is 0 when no
/// rate was held.
///
/// # Errors
/// The first that `run` has.
pub(crate) fn knee(
    first: u64,
    slo_ns: u64,
    mut run: impl FnMut(u64, Length) -> Result<Phase>,
) -> Result<(u64, Vec<Step>)> {
    let mut steps: Vec<Step> = Vec::new();
    let mut try_at = |rate: u64, length: Length| -> Result<bool> {
        let confirms = length == Length::Confirmation;
        let step = Step { confirms, ..judge(rate, slo_ns, &run(rate, length)?) };
        let held = step.held;
        let what = if held { "" } else { ", not held" };
        let why = if confirms { "confirming: " } else { "" };
        let (reached, p99) = (step.reached * 100.0, short_ns(step.p99_ns));
        eprintln!("{why}{rate} records/s: {reached:.1} %, p99 {p99}{what}");
        steps.push(step);
        Ok(held)
    };
    let mut rate = climb(first, |rate| try_at(rate, Length::Step))?;
    for _ in 0..CONFIRMATIONS_MAX {
        if rate == 0 || try_at(rate, Length::Confirmation)? {
            return Ok((rate, steps));
        }
        rate = (rate as f64 * CONFIRM_SHARE) as u64;
    }
    Ok((0, steps))
}

/// The highest rate whose short runs hold; 0 when none does.
fn climb(first: u64, mut try_once: impl FnMut(u64) -> Result<bool>) -> Result<u64> {
    // One stall of the machine in a short step says nothing about the rate: a second try decides.
    let mut step = |rate: u64| -> Result<bool> { Ok(try_once(rate)? || try_once(rate)?) };
    let (mut low, mut high) = (0, first.max(1));
    while high <= RATE_MAX && step(high)? {
        low = high;
        high *= 2;
    }
    for _ in 0..HALVINGS {
        let middle = low.midpoint(high).max(1);
        if step(middle)? {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::protocol;
    use crate::record::{Counters, Kind, new_histogram};
    use crate::report::phase;
    use crate::workload::Outcome;
    use std::collections::BTreeMap;

    #[test]
    fn errors_end_the_search() {
        let mut tried = 0;
        let failed = knee(100, 1, |_, _| {
            tried += 1;
            Err(protocol("no"))
        });
        assert!(failed.is_err() && tried == 1);
    }

    /// A phase that reached its rate, or nothing of it.
    fn phase_at(rate: u64, held: bool) -> Phase {
        let mut outcome = Outcome::of_nothing(1_000_000_000);
        let records = if held { rate } else { 0 };
        outcome.totals.counters[0] = Counters { requests: 1, records, bytes: records };
        let mut values = new_histogram();
        values.record(1).unwrap();
        outcome.totals.histograms[Kind::Response as usize] = Some(values);
        phase("step", "-", BTreeMap::new(), &outcome, None)
    }

    /// The story: a preset's rate was held for a second and a half in the search, and missed its limit in the ten
    /// seconds of the run that followed.
    #[test]
    fn a_rate_that_holds_only_for_a_short_time_is_no_knee() {
        let short_limit = 1_000;
        for (long_limit, expected) in [(1_000, 1_000), (900, 900), (500, 477)] {
            let (found, steps) = knee(100, 10, |rate, length| {
                let limit = if length == Length::Step { short_limit } else { long_limit };
                Ok(phase_at(rate, rate <= limit))
            })
            .unwrap();
            assert_eq!(found, expected, "{steps:?}");
            assert!(steps.last().unwrap().held && steps.last().unwrap().confirms);
        }
        let (none, _) = knee(100, 10, |rate, length| Ok(phase_at(rate, length == Length::Step))).unwrap();
        assert_eq!(none, 0, "nothing was confirmed");
    }
}
