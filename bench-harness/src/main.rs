//! `ringlog-bench`: the load harness.
fn main() {}
