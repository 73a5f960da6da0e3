//! Every bound of the harness, by name.
//!
//! Owner: the whole crate. Invariant: nothing here depends on input from the network.
//! Must not: hold anything that a flag should set.

/// Largest reply the control connection accepts, in bytes (a Metadata reply of 10,000 partitions is ~1 MB).
pub(crate) const CONTROL_REPLY_BYTES_MAX: usize = 64 << 20;
/// Largest single produce acknowledgement accepted, in bytes.
pub(crate) const ACK_BYTES_MAX: usize = 1 << 20;
/// Largest fetch response accepted, in bytes.
pub(crate) const FETCH_RESPONSE_BYTES_MAX: usize = 1 << 30;
/// Largest produce request built, in bytes: Kafka's default `socket.request.max.bytes`.
pub(crate) const REQUEST_BYTES_MAX: usize = 100 << 20;
/// Connections of one workload.
pub(crate) const CONNECTIONS_MAX: usize = 16_384;
/// Requests in flight on one connection.
pub(crate) const IN_FLIGHT_MAX: usize = 4_096;
/// Partitions of the topic under load.
pub(crate) const PARTITIONS_MAX: usize = 100_000;
/// Partitions in one produce request.
pub(crate) const PARTITIONS_PER_REQUEST_MAX: usize = 1_024;
/// Events taken from epoll at once.
pub(crate) const EPOLL_EVENTS_MAX: usize = 256;
/// Slices handed to one vectored send.
pub(crate) const SEND_SLICES_MAX: usize = 64;
/// Receive buffer for acknowledgements, per connection, in bytes (grows to `ACK_BYTES_MAX` at most).
pub(crate) const ACK_BUFFER_BYTES: usize = 16 << 10;
/// Receive buffer of a consumer thread, in bytes. It stays in the L2 cache.
pub(crate) const FETCH_BUFFER_BYTES: usize = 512 << 10;
/// Bytes of a batch kept to look at its header and the head of its first record.
pub(crate) const BATCH_PEEK_BYTES: usize = 128;
/// Longest topic name accepted in a fetch response, in bytes (Kafka allows 249).
pub(crate) const TOPIC_NAME_BYTES_MAX: usize = 512;
/// Interval reports that may wait for the collector.
pub(crate) const REPORT_QUEUE_MAX: usize = 1_024;
/// Longest time a generator thread sleeps, in nanoseconds: bounds how late an interval report is.
pub(crate) const SLEEP_NS_MAX: u64 = 50_000_000;
/// Largest value a histogram holds, in nanoseconds (one hour). What is above is counted as overflow.
pub(crate) const HISTOGRAM_NS_MAX: u64 = 3_600_000_000_000;
/// Disk probe and sink: size of a write buffer in bytes; also the size of one O_DIRECT write.
pub(crate) const SINK_BUFFER_BYTES: usize = 1 << 20;
/// Sink: write buffers of one thread.
pub(crate) const SINK_BUFFERS: usize = 32;
/// Sink: O_DIRECT writes in flight, per thread.
pub(crate) const SINK_WRITE_DEPTH: usize = 8;
/// Sink: largest frame it takes, in bytes. A frame must fit the buffers that are not being written.
pub(crate) const SINK_FRAME_BYTES_MAX: usize = 16 << 20;
/// Alignment of O_DIRECT offsets, lengths and buffers, in bytes.
pub(crate) const DIRECT_ALIGN: usize = 4096;
/// Disk use of one workload phase that the presets allow, in bytes.
pub(crate) const PRESET_DISK_BYTES_MAX: u64 = 4_000_000_000;

/// Bytes that one produce phase of `run` and `compare-endpoints` sends at most: what an endpoint that never looks
/// at its retention meanwhile (Kafka's default is every five minutes) may put on the disk.
pub(crate) const PRESET_PHASE_BYTES_MAX: u64 = 24_000_000_000;
/// Seconds of a phase that are kept one by one: a week. What comes later is added to the last.
pub(crate) const SERIES_SECONDS_MAX: usize = 7 * 86_400;
/// Pre-encoded batches of a workload, all connections together, in bytes.
pub(crate) const POOL_BYTES_MAX: usize = 128 << 20;
/// Pre-encoded batches of a workload, all connections together.
pub(crate) const POOL_BATCHES_MAX: usize = 4_096;
/// Request templates of a workload, all connections together: a partition's turn with one of the batches.
pub(crate) const TEMPLATES_MAX: usize = 1 << 20;
/// Keys that a workload may choose from; their distribution is a table.
pub(crate) const KEYS_MAX: usize = 4 << 20;
/// Largest record value of a workload, in bytes.
pub(crate) const RECORD_BYTES_MAX: usize = 16 << 20;
/// Topics of a workload.
pub(crate) const TOPICS_MAX: usize = 10_000;
/// Ranges of numbers that a lane of the verifier keeps apart; with more the run ends undecided.
pub(crate) const LEDGER_RANGES_MAX: usize = 1 << 20;
/// Offsets whose contents share one digest in the verifier.
pub(crate) const DIGEST_OFFSETS: i64 = 4_096;
/// Digests the verifier keeps for each partition: 17 billion offsets.
pub(crate) const DIGESTS_MAX: usize = 4 << 20;
/// Problems that a verdict describes one by one; more are only counted.
pub(crate) const PROBLEMS_MAX: usize = 50;
