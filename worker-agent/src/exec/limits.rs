//! Every limit of running a program, named, with its unit. Limits that the wire shares come from the contract.

/// Grace between TERM and KILL where the handler's table names none, in milliseconds.
pub const KILL_GRACE_DEFAULT_MS: u64 = 5_000;
/// Longest grace between TERM and KILL that a handler may ask for, in milliseconds (ten minutes).
pub const KILL_GRACE_MAX_MS: u64 = 600_000;
/// Longest run timeout that a handler may set, in milliseconds (seven days).
pub const RUN_TIMEOUT_MAX_MS: u64 = 7 * 24 * 3_600_000;

/// Bytes of one line that are read before the rest of it is skipped. A line that is kept has at most
/// [`LOG_LINE_MAX_CHARS`](switchyard_common::contract::limits::LOG_LINE_MAX_CHARS) characters, of at most four bytes each.
pub const LINE_READ_MAX_BYTES: usize = 16 * 1024;
/// Bytes that are taken from a pipe at once.
pub const PIPE_CHUNK_BYTES: usize = 8 * 1024;
/// Lines that wait for the sink before the program is held back.
pub const LOG_QUEUE_MAX_LINES: usize = 1_000;
/// How long a full queue holds the program back before lines are dropped (and the loss is said), in milliseconds.
pub const LOG_STALL_MAX_MS: u64 = 5_000;
/// How long the sink may take for what is still queued after the program has gone, in milliseconds.
pub const LOG_DRAIN_MAX_MS: u64 = 5_000;
/// How long a pipe may stay open after the whole process tree has gone, in milliseconds.
pub const PIPE_CLOSE_MAX_MS: u64 = 5_000;
/// Total of the log tail that travels with a failure, in bytes.
pub const LOG_TAIL_MAX_BYTES: usize = 64 * 1024;
/// Shortest line of a secret with several lines that is masked by itself, in bytes: masking every `}` helps nobody.
pub const SECRET_LINE_MIN_BYTES: usize = 4;

/// Longest readable part of a working directory's name, in bytes.
pub const WORKDIR_NAME_MAX_BYTES: usize = 64;
/// How long the agent waits for a sign of life of a supervisor beyond the grace that it was asked to give, in milliseconds.
pub const SUPERVISOR_ANSWER_MAX_MS: u64 = 25_000;
/// How often a supervisor that waits for processes it cannot end says so, in milliseconds.
pub const WAITING_REPORT_MS: u64 = 10_000;
/// How often KILL is repeated while descendants are left, in milliseconds: one of them may have forked in between.
pub const KILL_REPEAT_MS: u64 = 20;
/// Most processes that a waiting supervisor names.
pub const WAITING_MAX_PROCESSES: usize = 10;
/// How long orphans of a killed supervisor are hunted before the agent gives up and says so, in milliseconds.
pub const ORPHANS_GONE_MAX_MS: u64 = 10_000;
/// Most environment variables that one handler may list.
pub const ENV_MAX_COUNT: usize = 256;
/// How long processes that outlive a program which ended by itself may take to end too, in milliseconds.
pub const STRAGGLER_GRACE_MS: u64 = 250;
