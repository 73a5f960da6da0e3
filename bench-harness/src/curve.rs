//! A rate profile: how many records are due by when, for a load that follows a day instead of a constant rate.
//!
//! Owner: shared, immutable, by all generator threads. The profile is a table of equal steps, repeated for ever; its
//! integral is kept, so that the time of the n-th record is one binary search and never an accumulation.
//!
//! Invariants: the integral only rises; `due_ns(records_before(t))` comes back to `t` within a record. Must not: look
//! at a clock or allocate after it was made.

use crate::error::{BenchError, Result};

/// Steps of a period: a minute each, when the period is a day.
const STEPS: usize = 1_440;

/// A repeated profile of the rate.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Curve {
    /// Length of a step in nanoseconds.
    step_ns: f64,
    /// Records due by the end of each step of one period.
    cumulative: Vec<f64>,
    /// Time at the rate of the first step before the first period begins, in nanoseconds.
    lead_ns: f64,
}

/// How LinkedIn's day of 2015 runs: a cosine whose peak is 2.75 GB/s and whose mean is the 175 TB of the day.
///
/// `of_day` is the time of the day from 0 to 1; the result is the share of the peak.
pub(crate) fn linkedin_day(of_day: f64) -> f64 {
    const MEAN_OF_PEAK: f64 = 175e12 / 86_400.0 / 2.75e9;
    let swing = 1.0 - MEAN_OF_PEAK;
    MEAN_OF_PEAK - swing * (of_day * std::f64::consts::TAU).cos()
}

impl Curve {
    /// A profile of `period_s` seconds whose rate is `peak_per_s` times `shape(0..1)`, after `lead_s` seconds at the
    /// rate it begins with.
    ///
    /// # Errors
    /// When the period is empty or the shape is not positive everywhere: the schedule would stand still.
    pub(crate) fn new(
        period_s: f64,
        peak_per_s: f64,
        lead_s: f64,
        shape: impl Fn(f64) -> f64,
    ) -> Result<Self> {
        let step_ns = period_s * 1e9 / STEPS as f64;
        let mut sum = 0.0;
        let mut cumulative = Vec::with_capacity(STEPS);
        for step in 0..STEPS {
            let rate = peak_per_s * shape((step as f64 + 0.5) / STEPS as f64);
            if !(rate.is_finite() && rate > 0.0 && step_ns >= 1.0) {
                return Err(BenchError::Usage("a rate curve has a period and positive rates".into()));
            }
            sum += rate * step_ns / 1e9;
            cumulative.push(sum);
        }
        Ok(Self { step_ns, cumulative, lead_ns: lead_s * 1e9 })
    }

    /// A profile through points `(share of the period, share of the peak)`, straight between them.
    ///
    /// # Errors
    /// Without points, or when they do not rise in time.
    pub(crate) fn through(
        points: &[(f64, f64)],
        period_s: f64,
        peak_per_s: f64,
        lead_s: f64,
    ) -> Result<Self> {
        let rising = points.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let inside = points.iter().all(|(time, _)| (0.0..=1.0).contains(time));
        let (Some(first), Some(last)) = (points.first(), points.last()) else {
            return Err(BenchError::Usage("a rate curve has points".into()));
        };
        if !rising || !inside {
            return Err(BenchError::Usage("the points of a rate curve rise from 0 to 1 in time".into()));
        }
        Self::new(period_s, peak_per_s, lead_s, |time| {
            let after = points.partition_point(|(at, _)| *at <= time);
            match (after.checked_sub(1).map(|before| points[before]), points.get(after)) {
                (None, _) => first.1,
                (_, None) => last.1,
                (Some((from, low)), Some((to, high))) => low + (high - low) * (time - from) / (to - from),
            }
        })
    }

    fn per_period(&self) -> f64 {
        self.cumulative[self.cumulative.len() - 1]
    }

    fn period_ns(&self) -> f64 {
        self.step_ns * self.cumulative.len() as f64
    }

    /// Records of the time before the first period.
    fn lead(&self) -> f64 {
        self.cumulative[0] * self.lead_ns / self.step_ns
    }

    /// Mean rate over the first `seconds` behind the lead, records per second.
    pub(crate) fn mean_per_s(&self, seconds: f64) -> f64 {
        let lead_ns = self.lead_ns as u64;
        let records = self.records_before(lead_ns + (seconds * 1e9) as u64) - self.records_before(lead_ns);
        records as f64 / seconds.max(1e-9)
    }

    /// When record number `record` is due, in nanoseconds from the start.
    pub(crate) fn due_ns(&self, record: u64) -> u64 {
        let behind = record as f64 - self.lead();
        if behind <= 0.0 {
            return (record as f64 / self.cumulative[0] * self.step_ns) as u64;
        }
        let periods = (behind / self.per_period()).floor();
        let rest = behind - periods * self.per_period();
        let step = self.cumulative.partition_point(|sum| *sum <= rest).min(self.cumulative.len() - 1);
        let before = if step == 0 { 0.0 } else { self.cumulative[step - 1] };
        let share = (rest - before) / (self.cumulative[step] - before);
        (self.lead_ns + periods * self.period_ns() + (step as f64 + share) * self.step_ns) as u64
    }

    /// Records due before `time_ns` from the start.
    pub(crate) fn records_before(&self, time_ns: u64) -> u64 {
        let behind = time_ns as f64 - self.lead_ns;
        if behind <= 0.0 {
            return (self.cumulative[0] * time_ns as f64 / self.step_ns) as u64;
        }
        let periods = (behind / self.period_ns()).floor();
        let steps = (behind - periods * self.period_ns()) / self.step_ns;
        let step = (steps as usize).min(self.cumulative.len() - 1);
        let before = if step == 0 { 0.0 } else { self.cumulative[step - 1] };
        let inside = (self.cumulative[step] - before) * (steps - step as f64);
        (self.lead() + periods * self.per_period() + before + inside) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Schedule;
    use std::sync::Arc;

    #[test]
    fn linkedins_day_has_its_published_peak_and_mean() {
        let curve = Curve::new(86_400.0, 2.75e9, 0.0, linkedin_day).unwrap();
        let day = curve.records_before(86_400_000_000_000) as f64;
        assert!((day / 175e12 - 1.0).abs() < 1e-3, "{day}");
        assert!((linkedin_day(0.5) - 1.0).abs() < 1e-9 && linkedin_day(0.0) > 0.4);
    }

    #[test]
    fn the_time_of_a_record_and_the_records_of_a_time_agree() {
        let points = [(0.0, 0.2), (0.3, 1.0), (0.9, 0.1)];
        let curve = Curve::through(&points, 2.0, 10_000.0, 0.5).unwrap();
        let mut last = 0;
        for record in (0..60_000).step_by(7) {
            let due = curve.due_ns(record);
            assert!(due >= last, "time never goes back");
            last = due;
            let records = curve.records_before(due);
            assert!(records.abs_diff(record) <= 1, "{record} is due at {due}, when {records} are");
        }
        assert!(Curve::through(&[], 1.0, 1.0, 0.0).is_err());
        assert!(Curve::through(&[(0.5, 1.0), (0.1, 1.0)], 1.0, 1.0, 0.0).is_err());
        assert!(Curve::through(&[(0.0, 0.0)], 1.0, 1.0, 0.0).is_err());
    }

    #[test]
    fn a_schedule_along_a_curve_counts_what_it_did_not_send() {
        let curve = Arc::new(Curve::new(1.0, 1_000.0, 0.0, linkedin_day).unwrap());
        let schedules: Vec<Schedule> =
            (0..3).map(|id| Schedule::new(0, 1, 2, id, 3).along(Some(Arc::clone(&curve)))).collect();
        let unsent: u64 = schedules.iter().map(|schedule| schedule.unsent_before(2_000_000_000)).sum();
        let due = curve.records_before(2_000_000_000) / 2;
        assert!(unsent.abs_diff(due) <= 3, "{unsent} instead of {due}");
    }
}
