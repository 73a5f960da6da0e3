//! The clock of the histograms: the processor's time stamp counter where the kernel itself trusts it, else
//! CLOCK_MONOTONIC.
//!
//! Owner: the process; `start` once, on the main thread, before any core runs. Why: a stage is bounded by one
//! reading each, and a small produce request by eight; the counter takes a third of the system's clock.
//! Invariants: readings are nanoseconds, do not go back on one core, and are only compared on one core; the kernel's
//! choice of `tsc` as its clock source is the proof that the counter runs at one rate on all cores.
//! It must not be used for anything that a client sees.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Once};
use std::time::{Duration, Instant};

/// Nanoseconds for one tick of the counter, times 2^32; 0 while it is not used.
static TICK_NS_SHIFTED: AtomicU64 = AtomicU64::new(0);
/// Most that lies between the readings of both clocks.
const PAIR_APART_MAX: Duration = Duration::from_micros(1);
/// How long the counter is compared with the system's clock at the start: to a few parts in 100,000.
const CALIBRATION: Duration = Duration::from_millis(5);

/// Finds out how fast the counter runs, if there is one that can be trusted.
pub fn start() {
    static ONCE: Once = Once::new();
    ONCE.call_once(calibrate);
}

fn calibrate() {
    let source = std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    if !source.is_ok_and(|source| source.trim() == "tsc") {
        return;
    }
    let Some((first, began)) = both_clocks() else { return };
    std::thread::sleep(CALIBRATION);
    let Some((last, ended)) = both_clocks() else { return };
    let counted = u128::from(last.saturating_sub(first)).max(1);
    let shifted = ((ended - began).as_nanos() << 32) / counted;
    TICK_NS_SHIFTED.store(u64::try_from(shifted).unwrap_or(0), Ordering::Relaxed);
}

/// Both clocks at one moment: a thread that was put to sleep between the readings tries again.
fn both_clocks() -> Option<(u64, Instant)> {
    (0..1000).find_map(|_| {
        let before = Instant::now();
        let counted = ticks()?;
        (before.elapsed() < PAIR_APART_MAX).then_some((counted, before))
    })
}

/// Nanoseconds since some moment in the past.
#[inline]
pub fn now_ns() -> u64 {
    let scale = TICK_NS_SHIFTED.load(Ordering::Relaxed);
    match ticks() {
        Some(ticks) if scale != 0 => ((u128::from(ticks) * u128::from(scale)) >> 32) as u64,
        _ => system_ns(),
    }
}

fn system_ns() -> u64 {
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    ORIGIN.elapsed().as_nanos() as u64
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn ticks() -> Option<u64> {
    // SAFETY: reads a counter; every x86-64 processor has the instruction, and the kernel that trusts it allows it.
    Some(unsafe { core::arch::x86_64::_rdtsc() })
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn ticks() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_moves_forward_at_the_speed_of_time() {
        start();
        let (first, began) = (now_ns(), Instant::now());
        std::thread::sleep(Duration::from_millis(50));
        let (measured, real) = (now_ns() - first, began.elapsed().as_nanos() as u64);
        // Loose: between the two readings the thread may be put to sleep.
        assert!(measured > 45_000_000 && measured < real * 2 + 50_000_000, "{measured} of {real}");
        let mut last = now_ns();
        for _ in 0..10_000 {
            let next = now_ns();
            assert!(next >= last);
            last = next;
        }
    }
}
