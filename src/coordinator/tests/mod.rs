//! Tests of the group state machines, with a clock of their own.

mod classic;
mod consumer;
mod share_group;

use crate::coordinator::partition_of;

#[test]
fn names_are_spread_as_kafka_spreads_them() {
    // Java: "test".hashCode() = 3556498.
    assert_eq!(partition_of("test", 50), 48);
    assert_eq!(partition_of("", 50), 0);
    // "polygenelubricants" is the known string whose hash is Integer.MIN_VALUE.
    assert_eq!(partition_of("polygenelubricants", 50), 0);
    assert!((0..50).contains(&partition_of("\u{1f600}\u{ffff}", 50)));
}
