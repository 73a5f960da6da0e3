//! A token bucket: what may be used at once after a while of rest, and at which rate it fills again (KIP-599).
//!
//! Owner: the core that keeps account. Invariants: never above its capacity; it may be overdrawn, and then says how
//! long it takes to be even; time may stand still or step back without harm. Must not: ask for the time.

/// Seconds of rest that fill a bucket: Kafka's `controller.quota.window.num` of one second each.
const CAPACITY_S: f64 = 11.0;

/// What is left for one client.
#[derive(Debug)]
pub(super) struct Bucket {
    tokens: f64,
    at_ms: i64,
}

impl Bucket {
    pub(super) fn full(rate: f64, now_ms: i64) -> Bucket {
        Bucket { tokens: rate * CAPACITY_S, at_ms: now_ms }
    }

    /// What is left now, below zero when it is overdrawn.
    pub(super) fn balance(&mut self, rate: f64, now_ms: i64) -> f64 {
        let rested_s = (now_ms - self.at_ms).max(0) as f64 / 1000.0;
        self.tokens = (self.tokens + rested_s * rate).min(rate * CAPACITY_S);
        self.at_ms = now_ms;
        // What adding up leaves over must not keep somebody out who waited as told.
        if self.tokens.abs() < 1e-6 {
            self.tokens = 0.0;
        }
        self.tokens
    }

    /// Takes `amount`; the time until the bucket is even again, milliseconds.
    pub(super) fn take(&mut self, amount: f64, rate: f64, now_ms: i64) -> u64 {
        self.tokens = self.balance(rate, now_ms) - amount;
        (-self.tokens / rate * 1000.0).max(0.0).ceil() as u64
    }

    /// Whether it says no more than a new one would.
    pub(super) fn is_idle(&self, now_ms: i64) -> bool {
        now_ms - self.at_ms >= (CAPACITY_S * 1000.0) as i64 && self.tokens >= 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_and_paid_for_with_time() {
        let mut bucket = Bucket::full(2.0, 0);
        assert_eq!(bucket.take(22.0, 2.0, 0), 0);
        assert_eq!(bucket.take(10.0, 2.0, 0), 5_000, "ten at two a second");
        assert!(bucket.balance(2.0, 4_999) < 0.0);
        assert!(bucket.balance(2.0, 5_000) >= 0.0);
        assert_eq!(bucket.balance(2.0, 1_000_000), 22.0, "no more than its capacity");
        assert_eq!(bucket.balance(2.0, 0), 22.0, "a clock that steps back");
        assert!(!bucket.is_idle(5_000) && bucket.is_idle(2_000_000));
    }
}
