//! Every limit of the agent's own rules, named, with its unit.

/// How often the shell should tick, in milliseconds. Nothing that is measured is finer than this.
pub const TICK_MS: u64 = 100;
/// A repeatable step is reported as started when it runs for longer than this, in milliseconds.
pub const STARTED_AFTER_MS: u64 = 300;
/// Wait before an unanswered ask is repeated for the first time, in milliseconds; doubles each time.
pub const ASK_REPEAT_INITIAL_MS: u64 = 250;
/// Longest wait between two repetitions of an ask, in milliseconds.
pub const ASK_REPEAT_MAX_MS: u64 = 2_000;
/// How long after the first ask a go is acted on unless configured, in milliseconds (protocol B7).
pub const START_WINDOW_DEFAULT_MS: u64 = 15_000;
/// Wait before a report that was not confirmed is published again, in milliseconds; doubles each time.
pub const REPUBLISH_INITIAL_MS: u64 = 100;
/// Longest wait before a report is published again, in milliseconds.
pub const REPUBLISH_MAX_MS: u64 = 3_000;
/// Wait before a hello or heartbeat that was not confirmed is followed by another, in milliseconds.
pub const PRESENCE_RETRY_MS: u64 = 1_000;
/// Time between heartbeats unless configured, in milliseconds.
pub const HEARTBEAT_DEFAULT_MS: u64 = 5_000;
/// Silence after which the dispatcher declares an agent lost unless configured, in milliseconds. Must be the dispatcher's value.
pub const LOST_TIMEOUT_DEFAULT_MS: u64 = 20_000;
/// How long before the lost timeout the agent has ended its session, in milliseconds; less where the lost timeout is short.
pub const SILENCE_MARGIN_MS: u64 = 2_000;
/// The margin is at most the lost timeout divided by this. Both sides count from moments in this order, send, then hearing, so the
/// margin is only for an agent that is slow to act, and three quarters of a second is enough for that.
pub const MARGINS_PER_LOST_TIMEOUT_COUNT: u32 = 4;
/// Signs of life whose confirm is awaited at the same time; older ones no longer count.
pub const PRESENCE_OPEN_MAX_COUNT: usize = 16;
/// Finished attempts that are remembered so that a copy never runs (protocol B5). Far above the copies that can be on their way:
/// only open attempts are sent again, one copy at a time, and an agent has at most slots + credit open ones.
pub const TOMBSTONES_MAX_COUNT: usize = 16_384;
/// Finished attempts whose outcome is kept to be sent again, per slot and credit: only open attempts are asked for.
pub const OUTCOMES_KEPT_PER_PLACE_COUNT: usize = 2;
/// Total of the input parts that wait for their assignment, in bytes (64 MiB).
pub const INPUT_PARTS_MAX_BYTES: usize = 64 * 1024 * 1024;
/// Most input parts that wait for their assignment.
pub const INPUT_PARTS_MAX_COUNT: usize = 4_096;
/// How long input parts wait for their assignment, in milliseconds.
pub const INPUT_PARTS_KEEP_MS: u64 = 60_000;
/// How long an assignment waits for its input parts, in milliseconds.
pub const INPUT_WAIT_MAX_MS: u64 = 30_000;
