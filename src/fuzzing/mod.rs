//! What fuzzers run: one function for each target, over any bytes, that panics when something is wrong.
//!
//! The targets of `fuzz/` (cargo-fuzz, nightly Rust) and the replay of their committed corpus in `cargo test` (stable)
//! call the same functions, so that an input that once failed is a test for ever: put it into `fuzz/corpus/TARGET`.
//! Compiled for tests and with the feature `fuzzing` only; no part of the broker.
//!
//! Owner: nobody. Invariants: any bytes are an input; an input is decided by its bytes alone (`live` apart, whose tasks
//! run as the machine schedules them); memory bounds are those of docs/PROMISES.md, row 10.

mod batches;
mod input;
mod live;
mod live_requests;
pub mod memory;
mod recovery;
#[cfg(test)]
mod replay;
pub mod requests;
mod state;

pub use memory::Counting;

/// A target: its name, which is the folder of its corpus, and its function.
#[derive(Clone, Copy)]
pub struct Target {
    /// The name.
    pub name: &'static str,
    /// What one input goes through.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "requests", run: requests::run },
    Target { name: "batches", run: batches::run },
    Target { name: "state", run: state::run },
    Target { name: "recovery", run: recovery::run },
    Target { name: "live", run: live::run },
];

/// Runs one input of the target `name`. Panics for a name that is none.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.unwrap_or_else(|| panic!("no target '{name}'")).run)(bytes);
}

/// A directory for one input, removed with the value: in memory where the machine has it, because a disk's flushes
/// would be most of the time.
fn directory() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a directory for temporary files")
}
