//! The Kafka wire format: frames in, frames out, and the record batch view.
//!
//! Owner: nobody; everything here is pure functions over byte slices, usable from any core.
//!
//! Invariants:
//! - No length, count or offset that came from the network or the disk is used before it was compared with
//!   the bytes that are really there. Nothing is allocated in proportion to a number that was only *claimed*.
//! - Any bytes lead to a value or an error, never to a panic.
//!
//! Must not: do I/O, wait, keep state between requests, or import anything else of this crate. Kafka error codes
//! appear only where a batch error names the code the protocol prescribes for it.

pub mod api_table;
pub mod batch_builder;
pub mod batch_filter;
pub mod control_batch;
pub mod fetch;
pub mod gate;
mod gate_admin;
mod gate_groups;
mod gate_share;
pub mod header;
pub mod newer;
pub mod primitives;
pub mod produce;
pub mod recompress;
pub mod record_batch;
pub mod record_fields;
pub mod records;
pub mod share;

pub use api_table::{ApiRange, SUPPORTED};
pub use header::RequestHeader;
pub use primitives::{Reader, TopicKey, TopicRef, WireError, Writer};
pub use record_batch::{AppendLimits, BATCH_HEADER_SIZE, BatchError, BatchInfo, Compression, TimestampType};

#[cfg(test)]
pub(crate) mod tests;
