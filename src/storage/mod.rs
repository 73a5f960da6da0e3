//! Storage: segments on O_DIRECT files, and everything between an append and its durability.
//!
//! Owner: the core that owns the partition; nothing here is shared between cores.
//! The path of a produce: `append` → `tail` → `segment_writer` → `group_commit`. The path of a fetch:
//! `segment_reader`. It must not know the network, Kafka's error codes or other cores.

mod append;
mod buffer;
mod cache;
mod cleaner;
mod compaction;
mod compaction_map;
mod compaction_recover;
mod compaction_rewrite;
mod disk;
mod disk_dma;
mod group_commit;
mod index;
mod landing;
mod log;
mod marks;
mod producers;
mod read_ahead;
mod recovery;
mod retention;
mod segment;
mod segment_pool;
mod segment_reader;
mod segment_writer;
mod tail;
#[cfg(test)]
mod tests;
mod tickets;
mod transactions;
mod write_gate;

pub use append::{AppendError, Appended, Durability};
pub use buffer::Slice;
pub use cache::TailCache;
pub use cleaner::{Cleaner, CleanerConfig};
pub use compaction::Dirtiness;
pub use compaction_rewrite::PassStats;
#[cfg(test)]
pub(crate) use disk::ReadResult;
pub use disk::{Disk, DiskFile, IoFuture};
pub use disk_dma::{DmaDisk, free_bytes, probe as probe_disk, start_reaper, this_disk, write_small_blocking};
pub use group_commit::{AckResult, FlushRounds};
pub use index::SegmentSummary;
pub use landing::{Incoming, Landing};
pub use log::{Log, LogConfig, LogError, LogResources};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use marks::Marks;
pub use read_ahead::ReadAhead;
pub use recovery::{Recovered, Reign, recover};
pub use segment_pool::SegmentPool;
pub use segment_reader::{Isolation, ReadOutcome};
pub use tickets::Ticket;
pub use transactions::{AbortedTransaction, ProducerState, TransactionalProducer, Verification};
pub use write_gate::WriteGate;
