//! The catalog: which topics exist, with what ids, partitions and configurations, and who leads them.
//!
//! Owner: one writer (the control core) plans and commits changes; every core reads an immutable snapshot through
//! an `Arc` that is swapped. Invariants: a snapshot never changes; `sequence` grows by one with each change set;
//! what is in the committed file is what clients were told. Must not: hold log offsets or anything else that
//! changes with every record; those belong to the partition.

mod change;
pub(crate) mod codec;
mod dynamic;
mod placement;
mod snapshot;
mod store;

pub use change::{CatalogChange, CatalogError};
pub use dynamic::{Configs, DYNAMIC_ENTRIES_MAX, Dynamic, QuotaEntity, ResourceKind};
pub use placement::owner_core;
pub use snapshot::{
    Catalog, PARTITIONS_PER_TOPIC_MAX, PRODUCER_ID_BLOCK_SIZE, PartitionMeta, Topic, TopicNameError,
};
pub use snapshot::{new_cluster_id, new_topic_id, validate_topic_name};
pub use store::{CatalogStore, StoreError};
