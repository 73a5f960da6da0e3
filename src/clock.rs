//! The time by which things expire: the system's clock, held back where it has jumped ahead.
//!
//! Owner: one core. What is deleted because of its age (records, tombstones, producers, transactional ids, committed
//! offsets) is stamped by the system's clock and judged by this one. Invariants: this clock is never ahead of the
//! system's; it stands behind it by what the clock has jumped ahead, until the clock has not jumped for the grace; so
//! nothing that is younger than the grace is ever taken for older than it is, wherever the clock jumps to and back.
//! What is measured within one life of the process goes by `rt::steady_ms` instead.
//! It must not be shown to clients: timestamps are the system's clock.

use std::cell::Cell;
use std::path::Path;

use crate::fs;
use crate::limits::{CLOCK_FILE_BYTES_MAX, CLOCK_JUMP_MS};
use crate::rt;

/// The file in `meta/` that remembers this clock over a restart.
const FILE_NAME: &str = "clock";

/// What one reading of the system's clock meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// It went on as time does.
    Steady,
    /// It jumped by so many milliseconds.
    Jumped(i64),
    /// It has not jumped for the grace: what it says is believed, so many milliseconds later than before.
    Believed(i64),
}

/// Readings of the system's clock, as differences to a clock that never jumps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    latest_ms: i64,
    /// The lowest since the clock was believed last.
    lowest_ms: i64,
    /// When it jumped last, on the steady clock; `None` when it is believed.
    jumped_ms: Option<i64>,
}

impl Known {
    /// At a start; `before_ms` is what this clock said in the life before.
    fn at_start(steady_ms: i64, wall_ms: i64, before_ms: Option<i64>) -> Known {
        let latest_ms = wall_ms.saturating_sub(steady_ms);
        let ahead_ms = before_ms.map_or(0, |before_ms| wall_ms.saturating_sub(before_ms));
        match ahead_ms > CLOCK_JUMP_MS {
            true => {
                let lowest_ms = latest_ms.saturating_sub(ahead_ms);
                Known { latest_ms, lowest_ms, jumped_ms: Some(steady_ms) }
            }
            false => Known { latest_ms, lowest_ms: latest_ms, jumped_ms: None },
        }
    }

    fn read(self, steady_ms: i64, wall_ms: i64, grace_ms: i64) -> (Known, Reading) {
        let latest_ms = wall_ms.saturating_sub(steady_ms);
        let by_ms = latest_ms.saturating_sub(self.latest_ms);
        if by_ms.saturating_abs() > CLOCK_JUMP_MS && grace_ms > 0 {
            let lowest_ms = self.lowest_ms.min(latest_ms);
            return (Known { latest_ms, lowest_ms, jumped_ms: Some(steady_ms) }, Reading::Jumped(by_ms));
        }
        match self.jumped_ms {
            Some(jumped_ms) if steady_ms.saturating_sub(jumped_ms) < grace_ms => {
                let lowest_ms = self.lowest_ms.min(latest_ms);
                (Known { latest_ms, lowest_ms, jumped_ms: self.jumped_ms }, Reading::Steady)
            }
            held => {
                let believed = held.map(|_| Reading::Believed(latest_ms.saturating_sub(self.lowest_ms)));
                let known = Known { latest_ms, lowest_ms: latest_ms, jumped_ms: None };
                (known, believed.unwrap_or(Reading::Steady))
            }
        }
    }
}

/// The clock of one core.
pub struct ExpiryClock {
    grace_ms: i64,
    known: Cell<Known>,
}

impl ExpiryClock {
    /// A clock that believes the system's after `grace_ms` without a jump; `before_ms` is what it said in the life
    /// before, if that is known.
    pub fn new(grace_ms: i64, before_ms: Option<i64>) -> ExpiryClock {
        let before_ms = before_ms.filter(|_| grace_ms > 0);
        let known = Known::at_start(rt::steady_ms(), rt::wall_ms(), before_ms);
        let behind_ms = known.latest_ms - known.lowest_ms;
        if behind_ms > 0 {
            tracing::info!(
                behind_ms,
                grace_ms,
                "the clock is ahead of the last start's: what goes by age waits until the grace is over"
            );
        }
        ExpiryClock { grace_ms, known: Cell::new(known) }
    }

    /// Now, for what goes by age; milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        #[cfg(test)]
        if crate::sim::planted(crate::sim::Canary::JumpingClock) {
            return rt::wall_ms();
        }
        let steady_ms = rt::steady_ms();
        let (known, reading) = self.known.get().read(steady_ms, rt::wall_ms(), self.grace_ms);
        self.known.set(known);
        let behind_ms = known.latest_ms.saturating_sub(known.lowest_ms);
        match reading {
            Reading::Steady => {}
            Reading::Jumped(by_ms) => tracing::error!(
                by_ms,
                behind_ms,
                grace_ms = self.grace_ms,
                "the system's clock has jumped: nothing is deleted for it until it has stood for the grace; if it is \
                 wrong, set it right before"
            ),
            Reading::Believed(by_ms) => tracing::warn!(
                by_ms,
                "the system's clock has not jumped for the grace and is believed: what it makes too old is deleted"
            ),
        }
        steady_ms.saturating_add(known.lowest_ms)
    }

    /// How far it stands behind the system's clock, milliseconds.
    pub fn behind_ms(&self) -> u64 {
        self.now_ms();
        let known = self.known.get();
        known.latest_ms.saturating_sub(known.lowest_ms).max(0) as u64
    }
}

/// What the clock said in the life before, as its file remembers; `None` without one, or when it cannot be read.
pub fn remembered_ms(meta: &Path) -> Option<i64> {
    let path = meta.join(FILE_NAME);
    let size_bytes = fs::metadata(&path).ok()?.len();
    if size_bytes > CLOCK_FILE_BYTES_MAX {
        return None;
    }
    fs::read_to_string(&path).ok()?.strip_suffix('\n')?.parse().ok().filter(|ms| *ms > 0)
}

/// The file's path and bytes, for whoever writes it.
pub fn memory_of(meta: &Path, now_ms: i64) -> (std::path::PathBuf, Vec<u8>) {
    (meta.join(FILE_NAME), format!("{now_ms}\n").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;
    const DAY_MS: i64 = 24 * HOUR_MS;
    const TEN_YEARS_MS: i64 = 3_652 * DAY_MS;
    const START_MS: i64 = 1_700_000_000_000;

    /// A system's clock, and this one, in a world where the test says what time it is.
    struct Clocks {
        steady_ms: i64,
        shift_ms: i64,
        known: Known,
    }

    impl Clocks {
        fn new() -> Clocks {
            let known = Known::at_start(START_MS, START_MS, None);
            Clocks { steady_ms: START_MS, shift_ms: 0, known }
        }

        fn now_ms(&mut self) -> i64 {
            let wall_ms = self.steady_ms + self.shift_ms;
            self.known = self.known.read(self.steady_ms, wall_ms, DAY_MS).0;
            self.steady_ms + self.known.lowest_ms
        }
    }

    /// Promise 9a. A clock that jumps ten years ahead moves nothing for a day; then it is believed, because nobody
    /// has set it right.
    #[test]
    fn a_jump_ahead_is_believed_after_the_grace() {
        let mut clocks = Clocks::new();
        for jump_ms in [HOUR_MS, TEN_YEARS_MS] {
            let before_ms = clocks.now_ms();
            clocks.shift_ms += jump_ms;
            assert_eq!(clocks.now_ms(), before_ms);
            clocks.steady_ms += DAY_MS - 1;
            assert_eq!(clocks.now_ms(), before_ms + DAY_MS - 1);
            clocks.steady_ms += 1;
            assert_eq!(clocks.now_ms(), before_ms + DAY_MS + jump_ms);
        }
    }

    /// A clock that was wrong for a while and was set right is as if nothing had happened; what was stamped while it
    /// was behind is not old when it is right again.
    #[test]
    fn a_jump_and_its_correction_change_nothing() {
        for jump_ms in [HOUR_MS, -HOUR_MS, TEN_YEARS_MS, -TEN_YEARS_MS] {
            let mut clocks = Clocks::new();
            clocks.now_ms();
            clocks.shift_ms += jump_ms;
            clocks.now_ms();
            clocks.steady_ms += HOUR_MS;
            let stamp_ms = clocks.steady_ms + clocks.shift_ms;
            clocks.now_ms();
            clocks.shift_ms -= jump_ms;
            clocks.steady_ms += 1_000;
            assert!(clocks.now_ms() - stamp_ms <= 1_000, "after {jump_ms}");
            assert!(clocks.now_ms() <= clocks.steady_ms);
            clocks.steady_ms += DAY_MS;
            assert_eq!(clocks.now_ms(), clocks.steady_ms);
        }
    }

    /// The invariant at the head of the file, over seeded jumps: whatever is stamped by the system's clock is never
    /// judged older than it is before it is a day old.
    #[test]
    fn nothing_younger_than_the_grace_is_taken_for_older() {
        for seed in 0..200 {
            let mut random = crate::sim::Random::new(seed);
            let mut clocks = Clocks::new();
            let mut stamps: Vec<(i64, i64)> = Vec::new();
            for _ in 0..200 {
                clocks.steady_ms += random.below(4 * HOUR_MS as u64) as i64;
                if random.percent(20) {
                    let jumps = [HOUR_MS, -HOUR_MS, TEN_YEARS_MS, -TEN_YEARS_MS, -clocks.shift_ms];
                    clocks.shift_ms += jumps[random.below(5) as usize];
                }
                let now_ms = clocks.now_ms();
                assert!(now_ms <= clocks.steady_ms + clocks.shift_ms, "seed {seed}: ahead of the system's");
                stamps.push((clocks.steady_ms, clocks.steady_ms + clocks.shift_ms));
                for (at_ms, stamp_ms) in &stamps {
                    let age_ms = clocks.steady_ms - at_ms;
                    assert!(age_ms >= DAY_MS || now_ms - stamp_ms <= age_ms, "seed {seed}: {age_ms}");
                }
            }
        }
    }

    /// A start finds the clock ahead of the life before: a long stop, or a clock that is wrong.
    #[test]
    fn a_start_holds_a_jump_back_too() {
        let known = Known::at_start(START_MS, START_MS, Some(START_MS - TEN_YEARS_MS));
        let (known, reading) = known.read(START_MS + DAY_MS - 1, START_MS + DAY_MS - 1, DAY_MS);
        assert_eq!((known.lowest_ms, reading), (-TEN_YEARS_MS, Reading::Steady));
        let (known, reading) = known.read(START_MS + DAY_MS, START_MS + DAY_MS, DAY_MS);
        assert_eq!((known.lowest_ms, reading), (0, Reading::Believed(TEN_YEARS_MS)));
        for near_ms in [START_MS - CLOCK_JUMP_MS, START_MS, START_MS + TEN_YEARS_MS] {
            assert_eq!(Known::at_start(START_MS, START_MS, Some(near_ms)).jumped_ms, None);
        }
    }

    /// Without a grace the system's clock is followed at once, as Kafka does.
    #[test]
    fn no_grace_follows_at_once() {
        let known = Known::at_start(START_MS, START_MS, None);
        let (known, reading) = known.read(START_MS, START_MS + TEN_YEARS_MS, 0);
        assert_eq!((known.lowest_ms, reading), (TEN_YEARS_MS, Reading::Steady));
    }

    #[test]
    fn the_file_round_trips_and_damage_is_nothing() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(remembered_ms(directory.path()), None);
        let (path, bytes) = memory_of(directory.path(), START_MS);
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(remembered_ms(directory.path()), Some(START_MS));
        for damaged in [&bytes[..5], b"", b"-5\n", b"12x\n", &[b'1'; 100]] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(remembered_ms(directory.path()), None);
        }
    }
}
