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

/// Largest histogram file that is read, in bytes.
pub(crate) const HISTOGRAM_FILE_BYTES_MAX: u64 = 1 << 30;
/// Intervals read of one histogram log: a day of seconds with six tags.
pub(crate) const HISTOGRAM_INTERVALS_MAX: usize = 6 * 86_400;
/// Largest histogram after inflation, in bytes.
pub(crate) const HISTOGRAM_PAYLOAD_BYTES_MAX: u64 = 64 << 20;
/// Runs in one comparison or report.
pub(crate) const RUNS_MAX: usize = 8;
/// Rounds of one run.
pub(crate) const ROUNDS_MAX: usize = 1_000;
/// Seconds drawn along a time axis; more are thinned by keeping the worst of each group.
pub(crate) const CHART_COLUMNS_MAX: usize = 300;
/// Connections of the synthetic endpoint.
pub(crate) const SYNTHETIC_CONNECTIONS_MAX: usize = 512;
/// Requests that wait for their delay on one connection of the synthetic endpoint.
pub(crate) const SYNTHETIC_PENDING_MAX: usize = 65_536;
/// Connections through the relay of `fault`.
pub(crate) const RELAY_CONNECTIONS_MAX: usize = 512;
/// Buffer of the relay for one direction of a connection, in bytes.
pub(crate) const RELAY_BUFFER_BYTES: usize = 64 << 10;
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
/// Longest wait for idle disks before a workload of `compare-endpoints`, in seconds.
pub(crate) const SETTLE_S_MAX: u64 = 20;
/// Problems that a verdict describes one by one; more are only counted.
pub(crate) const PROBLEMS_MAX: usize = 50;
