//! Runs of the simulator. A failure prints its seed; `./scripts/simulate --seeds N..N+1` runs it again, step by step
//! the same.

mod broker;
mod compact_runs;
mod faults;
mod found;
mod life;
mod log_runs;
mod model;
mod shards;
mod shares;
