//! Ringlog, a Kafka-protocol broker.
pub mod api;
pub mod catalog;
pub mod config;
pub mod preflight;
