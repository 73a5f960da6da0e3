//! Delays with a known distribution.
//!
//! Owner: `synthetic`. Pure: a delay is a function of the arrival and of a number that counts requests, so that a
//! test can compute what must come back. Must not: look at a clock.

use std::str::FromStr;
use std::time::Duration;

/// What happens to a request between its arrival and its answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Delay {
    /// Every request takes that long.
    Constant(u64),
    /// The first one, or with the probability given the second one.
    Bimodal(u64, u64, f64),
    /// Every so often nothing is answered for so long; else, that long.
    Stall {
        /// From the start of one stall to the next, in nanoseconds.
        every_ns: u64,
        /// Its length.
        for_ns: u64,
        /// Outside of it.
        else_ns: u64,
    },
}

impl Delay {
    /// When the `number`th request, arrived `arrival_ns` after the start, is due, by the same clock.
    pub(crate) fn due_ns(&self, arrival_ns: u64, number: u64) -> u64 {
        match *self {
            Self::Constant(delay_ns) => arrival_ns + delay_ns,
            Self::Bimodal(first_ns, second_ns, share) => {
                // Golden-ratio steps spread the slow ones evenly, in the very share asked for.
                let place = (number as f64 * 0.618_033_988_749_894_9).fract();
                arrival_ns + if place < share { second_ns } else { first_ns }
            }
            Self::Stall { every_ns, for_ns, else_ns } => {
                // The first stall begins one period after the start.
                let into = arrival_ns % every_ns;
                let stalled = arrival_ns >= every_ns && into < for_ns;
                else_ns + if stalled { arrival_ns - into + for_ns } else { arrival_ns }
            }
        }
    }
}

fn time_ns(text: &str) -> Result<u64, String> {
    let at = text.find(|c: char| c.is_ascii_alphabetic()).ok_or(format!("{text}: no unit (us, ms, s)"))?;
    let (number, unit) = text.split_at(at);
    let factor = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return Err(format!("{text}: the units are us, ms and s")),
    };
    let seconds = number.parse::<f64>().map_err(|_| format!("{text} is no time"))? * factor;
    let time = Duration::try_from_secs_f64(seconds).map_err(|_| format!("{text} is no time"))?;
    if time > Duration::from_secs(3600) {
        Err(format!("{text} is too long"))
    } else {
        Ok(time.as_nanos() as u64)
    }
}

impl FromStr for Delay {
    type Err = String;

    /// `constant:2ms`, `bimodal:1ms,20ms,0.05`, `stall:5s,500ms[,1ms]` (every, for, else).
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, rest) = text.split_once(':').ok_or("KIND:TIMES wanted")?;
        let parts: Vec<&str> = rest.split(',').map(str::trim).collect();
        match (kind, &parts[..]) {
            ("constant", [delay]) => Ok(Self::Constant(time_ns(delay)?)),
            ("bimodal", [first, second, share]) => {
                let share: f64 = share.parse().map_err(|_| format!("{share} is no share"))?;
                if !(0.0..=1.0).contains(&share) {
                    return Err(format!("{share} is no share of 1"));
                }
                Ok(Self::Bimodal(time_ns(first)?, time_ns(second)?, share))
            }
            ("stall", [every, length, rest @ ..]) if rest.len() <= 1 => {
                let (every_ns, for_ns) = (time_ns(every)?, time_ns(length)?);
                let else_ns = rest.first().map_or(Ok(0), |text| time_ns(text))?;
                if for_ns >= every_ns {
                    return Err("a stall must be shorter than its period".into());
                }
                Ok(Self::Stall { every_ns, for_ns, else_ns })
            }
            _ => Err(format!("{text}: constant:T, bimodal:T,T,SHARE or stall:EVERY,FOR[,ELSE] wanted")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::new_histogram;

    #[test]
    fn delays_parse_and_nonsense_does_not() {
        assert_eq!("constant:2ms".parse(), Ok(Delay::Constant(2_000_000)));
        assert_eq!("bimodal:1ms,20ms,0.05".parse(), Ok(Delay::Bimodal(1_000_000, 20_000_000, 0.05)));
        let stall = Delay::Stall { every_ns: 5_000_000_000, for_ns: 500_000_000, else_ns: 100_000 };
        assert_eq!("stall:5s,500ms,100us".parse(), Ok(stall));
        for wrong in [
            "2ms",
            "constant:2",
            "constant:-1ms",
            "bimodal:1ms,2ms,7",
            "stall:1s,2s",
            "constant:9000s",
            "x:1ms",
        ] {
            assert!(wrong.parse::<Delay>().is_err(), "{wrong}");
        }
    }

    /// An open loop of one request a millisecond against a server that answers in order and stalls for half a second
    /// in five, on a virtual clock: what response and service time must be can be computed.
    #[test]
    fn a_stalled_server_shows_in_the_response_time_and_hides_in_the_service_time() {
        let delay: Delay = "stall:5s,500ms,1ms".parse().unwrap();
        let (window, mut in_flight) = (4, std::collections::VecDeque::new());
        let (mut response, mut service) = (new_histogram(), new_histogram());
        let mut free_at = 0;
        for number in 0..20_000u64 {
            let intended = number * 1_000_000;
            // The window: a send waits for the answer to the one `window` requests before.
            if in_flight.len() == window {
                free_at = in_flight.pop_front().unwrap();
            }
            let sent = intended.max(free_at);
            let answered = delay.due_ns(sent, number).max(in_flight.back().copied().unwrap_or(0));
            in_flight.push_back(answered);
            response.record(answered - intended).unwrap();
            service.record(answered - sent).unwrap();
        }
        // Three stalls of 500 ms in 20 s: 1,500 requests were due in them, and wait 250 ms on average; with the
        // backlog behind it (4 requests a millisecond) a tenth of all requests is late.
        let share_late = |values: &hdrhistogram::Histogram<u64>| {
            1.0 - values.count_between(0, 20_000_000) as f64 / values.len() as f64
        };
        assert!((0.07..0.13).contains(&share_late(&response)), "{}", share_late(&response));
        assert!(share_late(&service) < 0.001, "{}", share_late(&service));
        assert!(
            response.value_at_quantile(0.95) > 150_000_000 && service.value_at_quantile(0.95) < 5_000_000
        );
        // Both know the worst case; only one knows how common it is.
        assert!(response.max() >= 500_000_000 && service.max() >= 500_000_000);
    }

    #[test]
    fn the_slow_share_is_the_one_asked_for() {
        let delay = Delay::Bimodal(1, 20, 0.05);
        let slow = (0..10_000).filter(|number| delay.due_ns(0, *number) == 20).count();
        assert!((495..=505).contains(&slow), "{slow}");
    }
}
