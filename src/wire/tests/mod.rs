//! Tests of the wire layer, one file per subject. `kafka-protocol`, generated from Kafka's schemas, is the oracle:
//! what it encodes we must decode to the same values, and the other way round.

mod fetch;
pub(crate) mod gate;
mod gate_admin;
mod hostile;
mod newer;
mod produce;
mod record_batch;
mod records;
