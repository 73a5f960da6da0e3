//! The search for the knee: the highest open-loop rate that meets a latency limit.
//!
//! Owner: the main thread. The rate is doubled until it is not held, then the gap is halved a fixed number of times;
//! each step is a short run on the same topics, and a rate is not held when two of them failed. Must not: call a rate
//! held when the harness was late.

use serde::Serialize;

use crate::error::Result;
use crate::report::{Phase, short_ns};

/// Halvings of the gap between a rate that held and one that did not: the knee is known to 1/16.
const HALVINGS: usize = 4;
/// Largest rate tried, records per second.
const RATE_MAX: u64 = 50_000_000;
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
}

/// Judges a phase that was run at a rate.
pub(crate) fn judge(rate: u64, slo_ns: u64, phase: &Phase) -> Step {
    let reached = phase.produced.as_ref().map_or(0.0, |rates| rates.records_per_s / rate as f64);
    let p99_ns = phase.latency.get("response").map_or(u64::MAX, |values| values.p99_ns);
    let missing = phase.unsent_requests + phase.undelivered_records.unwrap_or(0);
    let held = reached >= REACHED && p99_ns <= slo_ns && missing == 0;
    Step { rate, reached, p99_ns, held, generator_late: phase.generator.bottleneck }
}

/// Searches from `first` on; `run` plays a rate (records per second). The knee is 0 when no rate was held.
///
/// # Errors
/// The first that `run` has.
pub(crate) fn knee(
    first: u64,
    slo_ns: u64,
    mut run: impl FnMut(u64) -> Result<Phase>,
) -> Result<(u64, Vec<Step>)> {
    let mut steps: Vec<Step> = Vec::new();
    let mut try_once = |rate: u64| -> Result<bool> {
        let step = judge(rate, slo_ns, &run(rate)?);
        let held = step.held;
        let what = if held { "" } else { ", not held" };
        eprintln!("{rate} records/s: {:.1} %, p99 {}{what}", step.reached * 100.0, short_ns(step.p99_ns));
        steps.push(step);
        Ok(held)
    };
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
    Ok((low, steps))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::protocol;

    #[test]
    fn errors_end_the_search() {
        let mut tried = 0;
        let failed = knee(100, 1, |_| {
            tried += 1;
            Err(protocol("no"))
        });
        assert!(failed.is_err() && tried == 1);
    }
}
