//! Every limit of the contract, named, with its unit.

/// Largest event body that is read, in bytes (1 MiB).
pub const EVENT_BODY_MAX_BYTES: usize = 1024 * 1024;
/// Nesting of JSON that is refused in any message, in levels: serde_json stops there by itself.
pub const JSON_DEPTH_MAX_LEVELS: usize = 128;
/// Deepest nesting of an event that is accepted, in levels. Below [`JSON_DEPTH_MAX_LEVELS`], because its payload travels on inside
/// other messages.
pub const EVENT_DEPTH_MAX_LEVELS: usize = 100;
/// Longest task, workspace, event or idempotency id, in characters.
pub const ID_MAX_CHARS: usize = 128;
/// Longest pool or agent id, in characters (a DNS label).
pub const LABEL_MAX_CHARS: usize = 63;
/// Longest CloudEvents `source`, in characters.
pub const SOURCE_MAX_CHARS: usize = 512;
/// Longest free text that a person writes (comment, reason), in characters.
pub const COMMENT_MAX_CHARS: usize = 2_000;
/// Longest name of a person or service (`approved_by` and the like), in characters.
pub const PERSON_MAX_CHARS: usize = 128;
/// Most labels of a workspace.
pub const LABELS_MAX_COUNT: usize = 64;
/// Longest key of a label, in characters.
pub const LABEL_KEY_MAX_CHARS: usize = 128;
/// Longest value of a label, in characters.
pub const LABEL_VALUE_MAX_CHARS: usize = 512;
/// Longest name of a field that an error repeats, in characters.
pub const FIELD_EXCERPT_MAX_CHARS: usize = 60;
/// Highest priority; 9 goes first.
pub const PRIORITY_MAX: u8 = 9;
/// How far in the future `not_before` and `deadline` may lie, in days (ten years).
pub const FUTURE_MAX_DAYS: i64 = 3_653;
/// Largest part of an artifact in one message, in bytes before base64 (512 KiB).
pub const ARTIFACT_PART_MAX_BYTES: usize = 512 * 1024;
/// Largest total of the artifacts of one attempt, in bytes (8 MiB); configurable downwards.
pub const ARTIFACTS_TOTAL_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Most artifacts of one attempt.
pub const ARTIFACTS_MAX_COUNT: usize = 256;
/// Longest artifact name, in bytes.
pub const ARTIFACT_NAME_MAX_BYTES: usize = 255;
/// Largest message that the broker is configured to accept, in bytes (2 MiB).
pub const BROKER_MESSAGE_MAX_BYTES: usize = 2 * 1024 * 1024;
/// Longest failure message that is kept, in characters.
pub const FAILURE_MESSAGE_MAX_CHARS: usize = 8_000;
/// Longest backtrace that is kept, in characters.
pub const BACKTRACE_MAX_CHARS: usize = 16_000;
/// Most log lines of a handler that travel with its failure.
pub const LOG_TAIL_MAX_LINES: usize = 50;
/// Longest log line that is kept, in characters.
pub const LOG_LINE_MAX_CHARS: usize = 4_096;
/// Most log lines in one log report.
pub const LOG_REPORT_MAX_LINES: usize = 500;
/// Most handlers that one agent may offer.
pub const HANDLERS_MAX_COUNT: usize = 256;
/// Most slots, or credit, that one agent may offer.
pub const SLOTS_MAX_COUNT: u32 = 1_024;
/// Most steps of a kind.
pub const STEPS_MAX_COUNT: usize = 16;
/// Largest JSON result that a handler may return, in bytes (64 KiB).
pub const RESULT_MAX_BYTES: usize = 64 * 1024;
/// `x-delivery-limit` of every quorum queue, in deliveries: neither absent (4.x defaults to 20) nor -1 (protocol D1).
pub const DELIVERY_LIMIT_COUNT: i64 = 1_000_000;
/// Most messages in a presence queue: the oldest are dropped, since every heartbeat is self-sufficient (protocol C2).
pub const PRESENCE_QUEUE_MAX_COUNT: i64 = 10_000;
/// Most bytes in the log queue (1 GiB): beyond it publishes are nacked, so that a chatty handler cannot fill the broker's disk
/// and block everybody's outcomes.
pub const LOG_QUEUE_MAX_BYTES: i64 = 1024 * 1024 * 1024;
