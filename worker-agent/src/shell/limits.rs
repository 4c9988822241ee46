//! Every limit of the driver, named, with its unit.

/// Outcomes in one message at most. More only means that fewer, larger messages save little further.
pub(super) const OUTCOME_BATCH_MAX_COUNT: usize = 64;
/// Outcomes in one message at most, in estimated bytes (512 KiB): far below what the broker takes.
pub(super) const OUTCOME_BATCH_MAX_BYTES: usize = 512 * 1024;
/// Messages with outcomes on their way at the same time; further outcomes queue up and go together.
pub(super) const OUTCOME_MESSAGES_OPEN_MAX_COUNT: usize = 4;
/// Reports taken from the machine's queue at once.
pub(super) const OUTBOX_TURN_MAX_COUNT: usize = 256;
/// How long a report may take to be confirmed before it counts as lost, in milliseconds; the machine publishes it again.
pub(super) const REPORT_TIMEOUT_MS: u64 = 10_000;
/// Deliveries and answers handled in one turn of the loop before time is looked at again.
pub(super) const TURN_MAX_COUNT: usize = 256;
/// Control messages that wait to be handled; what is lost beyond is sent again by the dispatcher.
pub(super) const CONTROL_BUFFER_MAX_COUNT: u16 = 1_024;
/// How long a connection may be up without the control queue's consumer before it is made anew, in milliseconds. More than the broker
/// needs to answer on a loaded machine.
pub(super) const LINK_STUCK_MS: u64 = 8_000;
/// For how long a process that has held the lock on its id takes a refusal for the broker's memory of its own earlier connection, in
/// milliseconds. The broker keeps a dead connection's queues until its channels have ended, which takes up to 70 s where one of them waits
/// for a queue.
pub(super) const OWN_LOCK_MAX_MS: u64 = 90_000;
/// Log lines of all attempts together that wait to be sent.
pub(super) const LOG_QUEUE_MAX_LINES: usize = 8_192;
/// Log lines taken from the queue at once.
pub(super) const LOG_TURN_MAX_LINES: usize = 1_024;
/// Text of one log report at most, in bytes (256 KiB).
pub(super) const LOG_REPORT_MAX_BYTES: usize = 256 * 1024;
/// How often a log report is published before its lines are given up.
pub(super) const LOG_TRIES_MAX_COUNT: u32 = 6;
/// How long the last log lines may take at the end, in milliseconds.
pub(super) const LOG_FLUSH_MAX_MS: u64 = 3_000;
/// How long the last acks may take at the end, in milliseconds.
pub(super) const SETTLE_FLUSH_MAX_MS: u64 = 3_000;
/// How long each connection may take to close, in milliseconds.
pub(super) const CLOSE_MAX_MS: u64 = 2_000;
/// Time at the end of a drain that is kept for the reports of handlers that were stopped, in milliseconds.
pub(super) const DRAIN_REPORT_MS: u64 = 3_000;
