//! Every bound of the broker, by name.
//!
//! Purpose: one place where a reader sees what can grow and where it stops. Configuration may lower
//! some of them; none is raised at run time. Nothing here does work.

/// Block size for O_DIRECT positions, lengths and addresses, bytes.
pub const BLOCK_SIZE: usize = 4096;

/// How far two readings of the system's clock may differ from the time that has passed between them, before that is
/// called a jump, milliseconds.
pub const CLOCK_JUMP_MS: i64 = 60_000;

/// Size of the file that remembers the clock over a restart, bytes; a longer one is not read.
pub const CLOCK_FILE_BYTES_MAX: u64 = 64;

/// Distance of the broker ids of two cores' endpoints (`core.affine.listeners`); node ids are below it then.
pub const CORE_ID_STEP: i32 = 1_000_000;

/// Capacity of a full-size tail chunk and of the largest coalesced write, bytes.
pub const CHUNK_SIZE_MAX: usize = 1 << 20;

/// Capacity of the first chunk of a partition that was idle, bytes.
pub const CHUNK_SIZE_MIN: usize = 16 << 10;

/// A partly filled chunk with at least this many unwritten bytes is written from its own memory;
/// below it the dirty blocks are copied to a bounce buffer so that the chunk can go on filling.
pub const DIRECT_WRITE_BYTES_MIN: usize = 128 << 10;

/// Writes in flight per partition.
pub const WRITE_DEPTH_MAX: usize = 8;

/// Bytes of one core's writes that are with the disk, beyond which large ones wait for their turn.
pub const WRITES_UNDER_WAY_BYTES_MAX: usize = 8 << 20;
/// The same while logs that write a little at a time want their writes soon.
pub const WRITES_BESIDE_LONELY_BYTES_MAX: usize = 3 << 20;
/// How long such a write counts.
pub const LONELY_WRITES_FOR: std::time::Duration = std::time::Duration::from_millis(20);

/// Written bytes for which a flush begins although more writes of the same partition are in flight.
pub const FLUSH_GROUP_BYTES: u64 = 1 << 20;

/// Bytes appended to one partition but not yet written; an append beyond it waits (back-pressure).
pub const PARTITION_BACKLOG_BYTES_MAX: u64 = 16 << 20;

/// First extent of a new segment file, bytes.
pub const SEGMENT_EXTENT_MIN: u64 = 1 << 20;

/// Largest extent by which a segment file is extended, bytes. Extensions double the file until then: each
/// makes the file system wait for all writes in flight, so they must be few.
pub const SEGMENT_EXTENT_MAX: u64 = 512 << 20;

/// Distance in bytes between sparse index entries of a segment (at least; never below Kafka's 4096).
pub const INDEX_INTERVAL_BYTES_MIN: u64 = 32 << 10;

/// Bytes that one cold read takes from disk.
pub const COLD_READ_BYTES: usize = 1 << 20;

/// Bytes of one read of a sequential cold reader; also the alignment of its reads.
pub const READ_BLOCK_BYTES: usize = 1 << 20;

/// Blocks that are read ahead of one sequential cold reader, at most.
pub const READ_AHEAD_DEPTH_MAX: usize = 8;

/// Blocks behind sequential readers that are kept for others who follow closely. Few: memory that is used again while
/// it is in the processor's cache is filled and sent faster.
pub const READ_BEHIND_BLOCKS: usize = 4;

/// Memory of one core for blocks that are read ahead, bytes; never more than an eighth of its tail memory.
pub const READ_AHEAD_BYTES_MAX: usize = 64 << 20;

/// Tail memory of one core, whatever the budget: more does not serve consumers better, bytes.
pub const TAIL_BYTES_MAX: usize = 1 << 30;

/// Tail memory of one core while no reader needs more, bytes: the same memory is filled, written and filled again while
/// it is still in the processor's cache, or near it.
pub const TAIL_BYTES_MIN: usize = 64 << 20;
/// After this long without a reader that needed the older half of the tails, their budget is halved, nanoseconds.
pub const TAIL_UNNEEDED_NS: u64 = 30_000_000_000;
/// Entries of chunks that are gone which the queue of a core's tails may have beside as many as it has others.
pub const TAIL_QUEUE_SLACK: usize = 1024;
/// Smallest batch that gets a buffer of its own while it is received, bytes.
pub const LANDING_BATCH_BYTES_MIN: usize = 100 << 10;

/// Smallest batch that is received straight into the open chunk of its log when all of it is there, bytes. Below it one
/// receive takes many requests, and the copy is cheaper than a system call for each.
pub const LANDING_NOW_BYTES_MIN: usize = 12 << 10;

/// Largest batch that is received straight into the open chunk of its log, bytes.
pub const LANDING_NOW_BYTES_MAX: usize = CHUNK_SIZE_MAX / 2;

/// How long a partly filled block waits for the batch that is being received behind it, milliseconds.
pub const LANDING_GRACE_MS: u64 = 1;

/// Memory of one core for batches that are being received in place, bytes.
pub const LANDING_BYTES_MAX: usize = 96 << 20;

/// Missing bytes of a large frame for which a connection is woken up once they are all there, rather than for each few.
pub const WAKE_BYTES_MIN: usize = 16 << 10;
/// Most bytes that a connection waits for in its socket: beyond, receiving and sending should overlap.
pub const WAKE_BYTES_MAX: usize = 256 << 10;
/// Bytes to be received or sent at a time from which a connection waits for its turn at it: those with less do not wait
/// behind all who have more.
pub const BULK_BYTES_MIN: usize = 100 << 10;
/// Bodies of other requests from which they are decoded beside the core, bytes: decoding takes some nanoseconds a byte.
pub const LONG_BODY_BYTES_MIN: usize = 32 << 10;
/// What a connection that sends large frames reads before it knows where the rest goes, bytes.
pub const LARGE_FRAME_PEEK_BYTES: usize = 512;

/// Tables of connection counts by address, each with a lock of its own.
pub const CONNECTION_TABLES: usize = 16;

/// How often a core looks which of its connections have waited too long, and gives read buffers of silent ones back,
/// milliseconds.
pub const IDLE_CHECK_MS: u64 = 5_000;

/// How often it looks where `connections.max.idle.ms` is very short, milliseconds.
pub const IDLE_CHECK_MS_MIN: u64 = 100;

/// Connections looked at before others of the core have their turn.
pub const IDLE_SWEEP_MAX: usize = 4096;

/// Requests of one connection that were dispatched but not answered.
pub const PIPELINE_DEPTH_MAX: usize = 128;

/// First read buffer of a connection, bytes; grows by need up to [`READ_BUFFER_BYTES_MAX`].
pub const READ_BUFFER_BYTES_MIN: usize = 4 << 10;

/// Read buffer that collects several small frames per receive, bytes.
pub const READ_BUFFER_BYTES_MAX: usize = 128 << 10;

/// Frame buffers kept for reuse per core, bytes.
pub const FRAME_POOL_BYTES_MAX: usize = 64 << 20;

/// Record bytes in one fetch response, whatever the client asks for.
pub const FETCH_RESPONSE_BYTES_MAX: usize = 16 << 20;

/// Memory of one core for answers that are being made from records or sent, whatever the budget, bytes.
pub const ANSWERS_BYTES_MAX: usize = 1 << 30;

/// One answer gets at most this part of the memory that is left for answers, so that few large ones, whose peers may
/// never read them, do not keep out all others.
pub const ANSWER_PARTS: usize = 4;

/// What is set aside for an answer at least, however little is asked for, bytes: the first batch is returned whatever
/// its size, and it, or the read that finds it, may well be as large.
pub const ANSWER_BYTES_MIN: usize = 1 << 20;

/// A peer that has taken nothing for so long is hung up on when others wait for the memory that its answer holds, the
/// longest first, milliseconds.
pub const STALL_MS_MIN: u64 = 50;

/// Longest wait of a parked fetch, milliseconds.
pub const FETCH_WAIT_MS_MAX: i32 = 5 * 60 * 1000;

/// Records that a Produce response names one by one as the reason why their batch was refused, all batches together.
pub const RECORD_ERRORS_MAX: usize = 1000;

/// Groups and client metrics subscriptions of which nothing is set that one DescribeConfigs answers in full: any name
/// is one, and the answer a thousand times larger than its name.
pub const DESCRIBED_DEFAULTS_MAX: usize = 1000;

/// Partitions in one fetch session (KIP-227).
pub const FETCH_SESSION_PARTITIONS_MAX: usize = 100_000;

/// Producers remembered per partition for idempotence; the least recently used goes first.
pub const PRODUCERS_PER_PARTITION_MAX: usize = 100_000;

/// Transactions of one partition that were verified with the coordinator and not begun.
pub const TXN_VERIFICATIONS_PER_PARTITION_MAX: usize = 10_000;

/// Transactional ids that one partition of `__transaction_state` holds; no more are taken.
pub const TXN_IDS_PER_PARTITION_MAX: usize = 20_000;

/// Longest transactional id, bytes: each is held in memory.
pub const TXN_ID_BYTES_MAX: usize = 1024;

/// How long a request waits for the step of its transactional id that is under way, milliseconds.
pub const TXN_STEP_WAIT_MS: u64 = 1000;

/// Longest pause before the markers of a decided transaction are tried again, milliseconds.
pub const TXN_MARKER_RETRY_MS_MAX: u64 = 1000;

/// Batches remembered per producer and partition (Kafka's five in flight).
pub const PRODUCER_BATCHES_KEPT: usize = 5;

/// Messages in one core's mesh inbox; a sender waits when it is full.
pub const MESH_INBOX_MAX: usize = 64 << 10;

/// Slices handed to one vectored send.
pub const IOVECS_MAX: usize = 512;

/// How long a frame that needs memory of its own may take to arrive, milliseconds: as long as clients wait for an
/// answer by default. A peer that stalls in the middle of one holds memory that others wait for.
pub const LARGE_FRAME_MS_MAX: u64 = 30_000;

/// How long a graceful stop waits for requests in flight, milliseconds.
pub const DRAIN_MS_MAX: u64 = 10_000;

/// Size of a pre-written file, bytes.
pub const POOL_FILE_BYTES: u64 = 64 << 20;

/// Pre-written files that a fresh broker prepares for its first segments, all cores together, bytes.
pub const POOL_PREFILL_BYTES_MAX: u64 = 256 << 20;

/// Files that one core's segment pool keeps, whatever their size.
pub const POOL_FILES_MAX: usize = 4096;

/// Free bytes of the disk below which files that wait in the pool are given up: somebody may need the room.
pub const ROOM_BYTES_MIN: u64 = 64 << 20;

/// How often a core looks at the room on the disk while its pool has files, milliseconds.
pub const ROOM_CHECK_MS: u64 = 1000;

/// How long a rename that found no room for its directory entry waits before it is asked again, milliseconds.
pub const NO_ROOM_PAUSE_MS: u64 = 250;

/// Longest request head that an admin listener reads, bytes.
pub const ADMIN_REQUEST_BYTES_MAX: usize = 8 << 10;

/// Longest that one admin connection may take; they are served one after another, seconds.
pub const ADMIN_CONNECTION_S_MAX: u64 = 5;

/// Log lines about peers' mistakes per core in one window of [`COMPLAINT_WINDOW_S`] seconds.
pub const COMPLAINTS_PER_WINDOW_MAX: u32 = 10;

/// Window for [`COMPLAINTS_PER_WINDOW_MAX`], seconds.
pub const COMPLAINT_WINDOW_S: i64 = 60;

/// One file in so many that the process may have open may be a second descriptor, for durable writes.
pub const SYNCHRONOUS_PART: usize = 4;

/// Files that may wait for their removal; more wait with whoever gives them away.
pub const REMOVALS_MAX: usize = 1024;

/// A file is removed by cutting off so much at a time, bytes.
pub const REMOVAL_STEP_BYTES: u64 = 32 << 20;

/// Pause between two cuts.
pub const REMOVAL_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// Slots of the log cleaner's key map, however small the budget: it must get on with something.
pub const CLEANER_SLOTS_MIN: usize = 1024;

/// Bytes of a segment that the log cleaner reads at a time; one larger batch is read whole.
pub const CLEANER_READ_BYTES: usize = 1 << 20;

/// Bytes that the log cleaner writes before it has them flushed: one large flush would hold up those of appends.
pub const CLEANER_FLUSH_BYTES: u64 = 8 << 20;

/// Cleaned segments that wait for their core; the cleaner waits with the next one.
pub const CLEANER_STEPS_MAX: usize = 1;

/// Accounts of quotas that one core keeps; peers can invent client ids.
pub const QUOTA_METERS_MAX: usize = 10_000;

/// Longest pause a quota may ask a client for, milliseconds.
pub const THROTTLE_MS_MAX: u64 = 10 * 60 * 1000;

/// Largest push of client metrics (KIP-714, Kafka's `telemetry.max.bytes`), bytes.
pub const TELEMETRY_BYTES_MAX: usize = 1 << 20;

/// Bytes of a coordinator's records that go into one batch of its log.
pub const STATE_LOG_BATCH_BYTES_MAX: usize = 512 << 10;

/// Bytes of a coordinator's records that may wait for its log; beyond, requests are turned away.
pub const STATE_LOG_QUEUE_BYTES_MAX: usize = 16 << 20;

/// Bytes that replay of a coordinator's log reads at a time.
pub const STATE_LOG_READ_BYTES: usize = 1 << 20;

/// Groups that one partition of `__consumer_offsets` remembers.
pub const GROUPS_PER_PARTITION_MAX: usize = 100_000;

/// Members of one group, whatever the configuration says.
pub const GROUP_MEMBERS_MAX: usize = 20_000;

/// Bytes of metadata that the members of one group may have together, and of the assignments they get.
pub const GROUP_METADATA_BYTES_MAX: usize = 4 << 20;

/// Partitions for which one group may have committed an offset.
pub const GROUP_OFFSETS_MAX: usize = 200_000;

/// Longest sleep of a core's group timer, milliseconds.
pub const GROUP_TIMER_MS_MAX: i64 = 1_000;

/// Longest regular expression that a member may subscribe with, bytes.
pub const GROUP_REGEX_BYTES_MAX: usize = 1_000;

/// Different regular expressions in one group.
pub const GROUP_REGEXES_MAX: usize = 100;

/// Memory that one compiled regular expression may take, bytes.
pub const REGEX_PROGRAM_BYTES_MAX: usize = 1 << 20;

/// Pause before a coordinator's record is offered again to a log that is behind, milliseconds.
pub const STATE_LOG_BUSY_PAUSE_MS: u64 = 10;

/// Pause before a coordinator that is loading is asked again on behalf of another core, milliseconds.
pub const COORDINATOR_LOAD_PAUSE_MS: u64 = 20;

/// How often it is asked.
pub const COORDINATOR_LOAD_PAUSES_MAX: usize = 1500;

/// Share partitions whose states one partition of `__share_group_state` remembers.
pub const SHARE_STATES_PER_PARTITION_MAX: usize = 20_000;

/// Share partitions that one core holds open; those that nobody uses are closed after [`SHARE_IDLE_MS`].
pub const SHARE_PARTITIONS_PER_CORE_MAX: usize = 20_000;

/// A share partition that nobody has used for so long leaves memory, milliseconds; longer than a fetch may wait.
pub const SHARE_IDLE_MS: i64 = 10 * 60 * 1000;

/// Shortest sleep of a core's timer of record locks, milliseconds: locks that end soon after each other share a look.
pub const SHARE_TIMER_MS_MIN: i64 = 10;

/// How often states of topics that are gone are looked for, milliseconds.
pub const SHARE_SWEEP_INTERVAL_MS: i64 = 5 * 60 * 1000;

/// Bytes that one read for a share group asks the log for.
pub const SHARE_READ_BYTES: usize = 1 << 20;

/// Reads of one share partition in one fetch; more than one where a read finds only what is not for consumers.
pub const SHARE_READS_PER_FETCH_MAX: usize = 16;

/// Share sessions on one connection; a consumer has one.
pub const SHARE_SESSIONS_PER_CONNECTION_MAX: usize = 16;

/// Partitions of one share session.
pub const SHARE_SESSION_PARTITIONS_MAX: usize = 10_000;

/// Connections that may wait to be accepted on one socket; the kernel's bound (net.core.somaxconn) may be lower.
pub const ACCEPT_BACKLOG: i32 = 1024;
