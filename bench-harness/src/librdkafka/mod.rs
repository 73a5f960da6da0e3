//! librdkafka as a client: what many users' applications really see.
//!
//! Code map: `ffi` (the library, loaded when it is asked for) → `load` (a workload's producers and consumers) and
//! `check` (the verifier's producer). The library is the one that is installed, `librdkafka.so.1`, or the one that
//! `RINGLOG_LIBRDKAFKA` names, so that versions can be compared and nothing has to be compiled.
//!
//! Owner: one thread owns a client of the library; its callbacks run on that thread. Must not: be loaded by runs that
//! do not ask for it.

pub(crate) mod check;
pub(crate) mod ffi;
pub(crate) mod load;
