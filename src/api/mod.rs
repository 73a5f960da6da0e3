//! One file per Kafka API: what a request means and what the answer says. Error codes live here only.
//!
//! Owner: the core of the connection; control-plane handlers are pure functions over a catalog snapshot.
//! Must not: do I/O.

pub mod api_versions;
pub mod control;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_topics;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_log_dirs;
pub mod describe_topic_partitions;
pub mod metadata;
