//! Ringlog, a Kafka-protocol broker for Linux: thread-per-core on io_uring with direct I/O.
//!
//! The path of a produce and of a fetch can be read from the module names: `net` (connections and
//! frames), `wire` (bytes and views), `api` (one file per Kafka API), `shard` (what one core owns, and
//! the mesh between cores), `partition`, `storage`. docs/ARCHITECTURE.md has the map and the invariants.

pub mod admin;
pub mod api;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod config;
pub mod coordinator;
pub mod fs;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod limits;
pub mod maps;
pub mod memory;
pub mod metrics;
pub mod net;
pub mod partition;
pub mod preflight;
pub mod quota;
pub mod rt;
pub mod shard;
#[cfg(test)]
mod sim;
pub mod storage;
pub mod sync;
pub mod wire;
