//! Ringlog, a Kafka-protocol broker.
pub mod config;
