//! Configuration: one table of keys drives the properties file, the environment, the flags, `ringlog config`
//! and DescribeConfigs.
//!
//! Owner: the process, before any core starts; afterwards read-only behind an `Arc`.
//! Invariants: a key that is not in [`BROKER_KEYS`] or [`TOPIC_KEYS`] has no effect; every value was checked
//! against its [`Kind`] before a typed field is filled from it.
//! Must not: do I/O beyond reading the one properties file and asking the kernel for cpus and memory.

mod broker;
mod broker_keys;
mod dynamic;
mod flags;
mod group_keys;
mod keys;
mod machine;
mod properties;
mod render;
mod settings;
mod share_keys;
mod topic;
mod topic_keys;
mod txn_keys;

pub use broker::{BrokerConfig, Listener, TimestampType};
pub use broker_keys::{BROKER_KEYS, broker_key};
pub use dynamic::{CLIENT_METRICS_KEYS, GROUP_KEYS, is_dynamic, validate_dynamic_broker, validate_resource};
pub use flags::ConfigFlags;
pub use group_keys::{GroupConfig, MigrationPolicy};
pub use keys::{KeySpec, Kind, Scope, Support};
pub use properties::parse_properties;
pub use render::{Format, render};
pub use settings::{ConfigError, ConfigSources, LoadedConfig, Settings, Source, Synonym, load};
pub use share_keys::ShareConfig;
pub use topic::{
    CleanupPolicy, Compression, TopicConfig, topic_value, validate_topic_config, validate_topic_configs,
};
pub use topic_keys::{TOPIC_KEYS, topic_key};
pub use txn_keys::TxnConfig;
