//! Ringlog, a Kafka-protocol broker.
