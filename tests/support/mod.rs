//! What the black-box tests share: the real binary as a process, a small blocking client, batches, a seeded
//! generator of random numbers.
//!
//! Owner: the test that includes it. Invariants: data directories lie below cargo's target directory and are
//! removed with their `DataDir`; ports are free ones; only processes started here are ended, by their own handle.
//! It must not look inside the broker: what a test knows, it knows from sockets, files and exit codes.

// Every test binary includes all of it and uses a part.
#![allow(dead_code)]

pub mod batches;
pub mod broker;
pub mod cgroup;
pub mod client;
pub mod fault_disk;
pub mod history;
pub mod judge;
mod judge_scan;
mod judge_share;
pub mod ledger;
pub mod random;
pub mod transactions;
pub mod workload;
mod workload_group;
mod workload_share;
mod workload_txn;

use std::time::{Duration, Instant};

/// How long `eventually` and sockets wait before a test fails: generous, because machines are slow at times.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `check` finds something; fails the test after [`PATIENCE`].
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "did not happen in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
