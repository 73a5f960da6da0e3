//! Tests of the storage engine below the network: recovery from mutated files, and the pool's promise.
//!
//! Owner: nobody. Files lie in temporary directories and go with them.

mod compaction;
mod pool;
mod random;
mod recovery;
