//! A rate over sampled windows, as Kafka measures it for quotas (`quota.window.num=11` windows of one second).
//!
//! Owner: the core that keeps account. Invariants: at most [`WINDOWS`] + 1 samples; time may stand still or step
//! back without harm. Must not: ask for the time.

use std::collections::VecDeque;

/// Windows that count.
const WINDOWS: i64 = 11;
const WINDOW_MS: i64 = 1000;
/// Time over which a rate is measured at least, in seconds: all windows but the one that is being filled.
pub(super) const FULL_WINDOWS_S: f64 = (WINDOWS - 1) as f64 * WINDOW_MS as f64 / 1000.0;

/// What was used, by window: when it began, and how much.
#[derive(Debug, Default)]
pub(super) struct Meter {
    samples: VecDeque<(i64, f64)>,
}

impl Meter {
    pub(super) fn record(&mut self, amount: f64, now_ms: i64) {
        self.forget(now_ms);
        match self.samples.back_mut() {
            Some((began_ms, total)) if now_ms - *began_ms < WINDOW_MS => *total += amount,
            _ => self.samples.push_back((now_ms, amount)),
        }
    }

    /// The time in which nothing may be used for the rate to come down to `limit` a second, milliseconds.
    pub(super) fn throttle_ms(&self, limit: f64, now_ms: i64) -> u64 {
        let Some(&(oldest_ms, _)) = self.samples.front() else { return 0 };
        let elapsed_ms = (now_ms - oldest_ms).max(0);
        // A meter that is new is measured as if it had been quiet before.
        let missing = (WINDOWS - 1 - elapsed_ms / WINDOW_MS).max(0);
        let window_ms = (elapsed_ms + missing * WINDOW_MS) as f64;
        let total: f64 = self.samples.iter().map(|(_, amount)| amount).sum();
        let rate = total / (window_ms / 1000.0);
        if rate <= limit || limit <= 0.0 {
            return 0;
        }
        ((rate - limit) / limit * window_ms).round() as u64
    }

    /// Whether nothing counts any more.
    pub(super) fn is_idle(&self, now_ms: i64) -> bool {
        self.samples.back().is_none_or(|(began_ms, _)| now_ms - began_ms >= WINDOWS * WINDOW_MS)
    }

    fn forget(&mut self, now_ms: i64) {
        while self.samples.front().is_some_and(|(began_ms, _)| now_ms - began_ms >= WINDOWS * WINDOW_MS) {
            self.samples.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_use_at_the_limit_is_never_throttled() {
        let mut meter = Meter::default();
        for step in 0..600 {
            meter.record(10.0, step * 100);
            assert_eq!(meter.throttle_ms(111.0, step * 100), 0, "step {step}");
        }
        assert!(meter.samples.len() <= WINDOWS as usize + 1);
    }

    #[test]
    fn a_client_that_waits_as_told_has_the_rate_it_may_have() {
        let (mut meter, mut now_ms, mut used) = (Meter::default(), 0, 0.0);
        while now_ms < 120_000 {
            meter.record(5_000.0, now_ms);
            used += 5_000.0;
            now_ms += 10 + meter.throttle_ms(1_000.0, now_ms) as i64;
        }
        let rate = used / (now_ms as f64 / 1000.0);
        assert!((800.0..1_300.0).contains(&rate), "{rate} a second");
    }

    #[test]
    fn a_clock_that_steps_back_does_no_harm() {
        let mut meter = Meter::default();
        meter.record(50.0, 100_000);
        meter.record(50.0, 10);
        assert_eq!(meter.throttle_ms(10.0, 10), 0);
        assert!(meter.is_idle(200_000) && !meter.is_idle(100_500));
    }
}
