//! What a program prints: a byte for the size of the pieces in which the pipe delivers it, the secrets on a line (`one|two`), then the
//! output. No secret is in any line or in any text of a result, lines are whole, bounded and numbered without gaps, and none of it
//! depends on the pieces.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use serde_json::Value;
use switchyard_common::contract::limits::{LOG_LINE_MAX_CHARS, LOG_TAIL_MAX_LINES};
use switchyard_worker_agent::async_trait;
use switchyard_worker_agent::exec::limits::LOG_TAIL_MAX_BYTES;
use switchyard_worker_agent::exec::logs::{LogEnd, LogLine, LogSink, LogSinkError, stream_logs};
use switchyard_worker_agent::exec::mask::Masker;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use super::fields::{byte, line};

thread_local! {
    /// One runtime for all inputs: making one takes longer than an input does.
    static RUNTIME: RefCell<Option<Runtime>> = const { RefCell::new(None) };
}

/// Streams the output as it comes, and once more whole.
pub fn check(data: &[u8]) {
    let (piece, rest) = byte(data);
    let (secrets, output) = line(rest);
    let secrets: Vec<&str> = secrets.split('|').filter(|secret| !secret.is_empty()).collect();
    let masker = Masker::new(secrets.iter().map(|secret| secret.as_bytes()));
    let (lines, end) = streamed(output, usize::from(piece) + 1, &masker);
    check_lines(&lines, &end);
    let whole = streamed(output, output.len().max(1), &masker).0;
    assert!(texts(&lines).eq(texts(&whole)), "the pieces matter");
    for secret in secrets.iter().filter(|secret| can_be_told(secret)) {
        assert!(texts(&lines).all(|text| !text.contains(secret)), "{secret:?} is in the log");
        assert!(end.tail.iter().all(|text| !text.contains(secret)), "{secret:?} is in the tail");
    }
    check_result(output, &masker, &secrets);
}

/// Some secrets occur in what we write ourselves: the mask, the mark of a cut, the character that stands for what is not text.
fn can_be_told(secret: &str) -> bool {
    !secret.contains(['*', '[', ']', ' ', '\u{fffd}', '\0'])
}

fn texts(lines: &[LogLine]) -> impl Iterator<Item = &str> {
    lines.iter().map(|line| line.text.as_str())
}

fn check_lines(lines: &[LogLine], end: &LogEnd) {
    assert_eq!((end.lines, &end.fault), (lines.len() as u64, &None));
    for (line, number) in lines.iter().zip(1_u64..) {
        assert_eq!(line.sequence, number, "a gap in the numbers");
        assert!(line.text.chars().nth(LOG_LINE_MAX_CHARS).is_none(), "a line over the limit");
        assert!(!line.text.contains(['\0', '\n']), "{:?}", line.text);
    }
    assert!(end.tail.len() <= LOG_TAIL_MAX_LINES);
    assert!(end.tail.iter().map(String::len).sum::<usize>() <= LOG_TAIL_MAX_BYTES);
    let last = &lines[lines.len() - end.tail.len()..];
    assert!(texts(last).eq(end.tail.iter()), "the tail is the end of the log");
}

/// The output, taken for a JSON result: its texts are masked, and nothing else of its form changes.
fn check_result(output: &[u8], masker: &Masker, secrets: &[&str]) {
    let Ok(result) = serde_json::from_slice::<Value>(output) else { return };
    let masked = masker.mask_json(result);
    for secret in secrets.iter().filter(|secret| can_be_told(secret)) {
        assert!(!holds(&masked, secret), "{secret:?} is in the result");
    }
}

fn holds(value: &Value, secret: &str) -> bool {
    match value {
        Value::String(text) => text.contains(secret),
        Value::Array(items) => items.iter().any(|item| holds(item, secret)),
        Value::Object(fields) => {
            fields.iter().any(|(name, item)| name.contains(secret) || holds(item, secret))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn streamed(output: &[u8], piece_bytes: usize, masker: &Masker) -> (Vec<LogLine>, LogEnd) {
    RUNTIME.with_borrow_mut(|runtime| {
        let runtime = runtime.get_or_insert_with(|| {
            Builder::new_current_thread().enable_time().build().expect("a runtime without I/O can be made")
        });
        let (sink, gone) = (Sink::default(), CancellationToken::new());
        let pipe = Pieces { rest: output, piece_bytes };
        let end = runtime.block_on(stream_logs(pipe, tokio::io::empty(), masker, &sink, &gone));
        (sink.0.into_inner().expect("nobody panicked with it"), end)
    })
}

/// Keeps what it is given.
#[derive(Default)]
struct Sink(Mutex<Vec<LogLine>>);

#[async_trait]
impl LogSink for Sink {
    async fn accept(&self, line: LogLine) -> Result<(), LogSinkError> {
        self.0.lock().expect("nobody panicked with it").push(line);
        Ok(())
    }
}

/// A pipe that delivers pieces of one size.
struct Pieces<'a> {
    rest: &'a [u8],
    piece_bytes: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.piece_bytes.min(self.rest.len()).min(to.remaining());
        let (piece, rest) = self.rest.split_at(count);
        to.put_slice(piece);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}
