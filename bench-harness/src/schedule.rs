//! The open-loop schedule: when each request of each connection is meant to leave.
//!
//! Owner: a generator thread, one per connection. The n-th request of connection i is request
//! `n * connections + i` of the whole, and leaves at `start + that * records_per_request / rate`. Times are
//! computed, never accumulated, and never moved when the sender is late.
//!
//! With a `Curve` the rate follows a profile (a day, say): the n-th request then leaves when the profile's integral
//! reaches its records.
//!
//! Must not: look at a clock.

use std::sync::Arc;

use crate::curve::Curve;

/// Pace of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Closed loop: as fast as the in-flight window allows.
    Max,
    /// Open loop, in records per second.
    Rate(u64),
}

/// The schedule of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    start_ns: u64,
    rate: u64,
    records_per_request: u64,
    connections: u64,
    connection: u64,
    next: u64,
    curve: Option<Arc<Curve>>,
}

impl Schedule {
    /// A schedule that starts at `start_ns` (CLOCK_MONOTONIC) for connection `connection` of `connections`.
    pub(crate) fn new(
        start_ns: u64,
        rate: u64,
        records_per_request: u64,
        connection: u64,
        connections: u64,
    ) -> Self {
        assert!(rate > 0 && records_per_request > 0 && connection < connections, "checked with the flags");
        Self { start_ns, rate, records_per_request, connections, connection, next: 0, curve: None }
    }

    /// The same schedule along a profile; the constant rate no longer matters.
    pub(crate) fn along(mut self, curve: Option<Arc<Curve>>) -> Self {
        self.curve = curve;
        self
    }

    /// When the next request is meant to leave, in CLOCK_MONOTONIC nanoseconds.
    pub(crate) fn due_ns(&self) -> u64 {
        let request = u128::from(self.next) * u128::from(self.connections) + u128::from(self.connection);
        if let Some(curve) = &self.curve {
            return self.start_ns + curve.due_ns((request * u128::from(self.records_per_request)) as u64);
        }
        let offset = request * u128::from(self.records_per_request) * 1_000_000_000 / u128::from(self.rate);
        self.start_ns + offset as u64
    }

    /// The next request has left.
    pub(crate) fn advance(&mut self) {
        self.next += 1;
    }

    /// How many requests were due before `end_ns` and have not left.
    pub(crate) fn unsent_before(&self, end_ns: u64) -> u64 {
        let mut probe = self.clone();
        let mut count = 0;
        let step = u128::from(self.connections) * u128::from(self.records_per_request) * 1_000_000_000;
        let due = self.due_ns();
        if due < end_ns {
            count = match &self.curve {
                None => ((u128::from(end_ns - due) * u128::from(self.rate)) / step) as u64,
                Some(curve) => {
                    let of = |time_ns: u64| curve.records_before(time_ns - self.start_ns);
                    (of(end_ns).saturating_sub(of(due)) / (self.connections * self.records_per_request))
                        .saturating_sub(1)
                }
            };
            probe.next += count;
            // Integer division may leave the count one short or one over.
            while probe.due_ns() < end_ns {
                probe.next += 1;
                count += 1;
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_interleave_evenly_and_never_drift() {
        let (rate, records, connections) = (1_000_003, 7, 3);
        let mut due: Vec<u64> = Vec::new();
        for connection in 0..connections {
            let mut schedule = Schedule::new(500, rate, records, connection, connections);
            for _ in 0..1_000 {
                due.push(schedule.due_ns());
                schedule.advance();
            }
        }
        due.sort_unstable();
        for (index, time) in due.iter().enumerate() {
            let exact = 500.0 + index as f64 * records as f64 * 1e9 / rate as f64;
            assert!((*time as f64 - exact).abs() <= 1.0, "{index}: {time} instead of {exact}");
        }
    }

    #[test]
    fn lateness_does_not_move_the_schedule() {
        let mut schedule = Schedule::new(0, 1_000, 1, 0, 1);
        schedule.advance();
        assert_eq!(schedule.due_ns(), 1_000_000);
        // The caller stalls for a second; what was due stays due.
        assert_eq!(schedule.unsent_before(1_000_000_000), 999);
        schedule.advance();
        assert_eq!(schedule.due_ns(), 2_000_000);
        assert_eq!(schedule.unsent_before(2_000_000), 0);
        assert_eq!(schedule.unsent_before(2_000_001), 1);
    }
}
