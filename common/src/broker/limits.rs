//! Limits of the broker client, each with its unit in the name.

/// Longest name of an exchange, queue, consumer or routing key, and longest text property (AMQP short string).
pub const SHORT_TEXT_MAX_BYTES: usize = 255;
/// Largest body that is sent: what the deployment sets as the broker's `max_message_size` (2 MiB).
pub const BODY_MAX_BYTES: usize = crate::contract::limits::BROKER_MESSAGE_MAX_BYTES;
/// Largest frame that is agreed on with the broker unless configured: its own default (128 KiB).
pub const FRAME_MAX_DEFAULT_BYTES: u32 = 128 * 1024;
/// Largest set of headers that is sent. All headers of a message must fit into one AMQP frame (128 KiB).
pub const HEADERS_SENT_MAX_BYTES: usize = 64 * 1024;
/// Most header values, nested ones included, that are read from a message; the rest is left out and said to be.
pub const HEADERS_READ_MAX_COUNT: usize = 512;
/// Longest text of one header that is read; the rest is cut off.
pub const HEADER_TEXT_READ_MAX_BYTES: usize = 8 * 1024;
/// Deepest nesting of headers that is read.
pub const HEADERS_READ_MAX_DEPTH: usize = 8;
/// Deepest nesting of headers that reaches the client library; deeper ones become bytes.
pub const HEADERS_WIRE_MAX_DEPTH: usize = 16;
/// Most entries of `x-death` that are read.
pub const DEATHS_READ_MAX_COUNT: usize = 32;
/// Most publishes in flight (sent, not yet confirmed) unless configured.
pub const PUBLISH_WINDOW_DEFAULT_COUNT: usize = 200;
/// Largest publish window that the configuration accepts.
pub const PUBLISH_WINDOW_MAX_COUNT: usize = 10_000;
/// Longest text of the broker that is kept in an error or a state.
pub const BROKER_TEXT_MAX_BYTES: usize = 1024;
/// Longest wait for the broker to agree to the closing of a connection or a channel; it is given up without that beyond.
pub const CLOSE_MAX_MILLIS: u64 = 2_000;
/// Longest wait for the answer to a `basic.consume`. A queue that has a leader answers at once.
pub const CONSUME_ANSWER_MAX_MILLIS: u64 = 5_000;
/// A queue that could not be consumed for this long, on connections that are alive, is called silent.
pub const QUEUE_SILENT_AFTER_MILLIS: u64 = 10_000;
/// A channel is made anew this long after the broker has first refused a publish on it.
pub const CHANNEL_RENEWED_AFTER_MILLIS: u64 = 1_000;
/// Longest wait for the next new channel while the broker goes on refusing.
pub const CHANNEL_RENEWED_AFTER_MAX_MILLIS: u64 = 60_000;
/// Most destinations of one channel of which it is kept that they are refused.
pub const REFUSALS_MAX_COUNT: usize = 256;
/// Longest time for which nothing is written because a channel is about to be made anew.
pub const RENEWAL_WAIT_MAX_MILLIS: u64 = 500;
/// A consumer with nothing in hand is made anew about this long after it began, with a new channel: what the broker still counts as in its
/// hand goes back to the queue then.
pub const CONSUMER_RENEWED_AFTER_MILLIS: u64 = 60_000;
/// How soon it is looked at again when it had something in hand.
pub const RENEWAL_RETRY_MILLIS: u64 = 250;
