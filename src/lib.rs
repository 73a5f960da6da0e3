//! Ringlog, a Kafka-protocol broker.
pub mod catalog;
pub mod config;
