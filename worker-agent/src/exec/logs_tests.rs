use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncWriteExt as _, ReadBuf};

use super::*;

/// Keeps lines; does something else from a given line on.
struct Sink {
    taken: Mutex<Vec<LogLine>>,
    from_line: u64,
    then: Then,
}

enum Then {
    Keep,
    Refuse,
    Panic,
    Hang,
}

impl Sink {
    fn new(from_line: u64, then: Then) -> Self {
        Self { taken: Mutex::default(), from_line, then }
    }

    fn texts(&self) -> Vec<String> {
        self.taken.lock().unwrap().iter().map(|line| line.text.clone()).collect()
    }
}

#[async_trait]
impl LogSink for Sink {
    async fn accept(&self, line: LogLine) -> Result<(), LogSinkError> {
        if line.sequence >= self.from_line {
            match self.then {
                Then::Keep => {}
                Then::Refuse => return Err(LogSinkError("closed".into())),
                Then::Panic => panic!("sink broke"),
                Then::Hang => std::future::pending::<()>().await,
            }
        }
        self.taken.lock().unwrap().push(line);
        Ok(())
    }
}

fn gone() -> CancellationToken {
    let gone = CancellationToken::new();
    gone.cancel();
    gone
}

fn no_secrets() -> Masker {
    Masker::new([])
}

async fn log(stdout: &[u8], masker: &Masker, sink: &Sink) -> LogEnd {
    stream_logs(stdout, &b""[..], masker, sink, &gone()).await
}

async fn line(bytes: &[u8], secrets: &[&[u8]]) -> String {
    let sink = Sink::new(0, Then::Keep);
    log(bytes, &Masker::new(secrets.iter().copied()), &sink).await;
    let texts = sink.texts();
    assert_eq!(texts.len(), 1, "{texts:?}");
    texts[0].clone()
}

#[tokio::test]
async fn sequence_numbers_have_no_gap_and_both_streams_are_read_to_their_ends() {
    let sink = Sink::new(0, Then::Keep);
    let (out, err) = ("o\n".repeat(3_000), "e\n".repeat(2_000));
    let end = stream_logs(out.as_bytes(), err.as_bytes(), &no_secrets(), &sink, &gone()).await;
    let taken = sink.taken.lock().unwrap();
    assert!(taken.iter().zip(1..).all(|(line, number)| line.sequence == number));
    assert_eq!(taken.iter().filter(|line| line.stream == LogStream::Stderr).count(), 2_000);
    assert_eq!((end.lines, end.fault), (5_000, None));
}

#[tokio::test]
async fn a_line_at_the_limit_is_whole_and_a_longer_one_is_cut_and_says_so() {
    let at = "ä".repeat(LOG_LINE_MAX_CHARS);
    assert_eq!(line(at.as_bytes(), &[]).await, at);
    for over in ["ä".repeat(LOG_LINE_MAX_CHARS + 1), "x".repeat(10 * LINE_READ_MAX_BYTES)] {
        let cut = line(over.as_bytes(), &[]).await;
        assert_eq!(cut.chars().count(), LOG_LINE_MAX_CHARS);
        assert!(cut.ends_with(CUT_MARK));
    }
}

#[tokio::test]
async fn a_line_over_the_read_limit_says_so_even_when_masks_make_it_short() {
    let secret = [b's'; 64];
    let long = secret.repeat(2 * LINE_READ_MAX_BYTES / secret.len());
    let text = line(&long, &[&secret]).await;
    assert!(text.starts_with("***") && text.ends_with(CUT_MARK) && !text.contains('s'), "{text}");
}

#[tokio::test]
async fn nul_and_invalid_utf_8_are_replaced() {
    assert_eq!(line(b"a\0b\xffc\r\n", &[]).await, "a\u{fffd}b\u{fffd}c");
}

#[tokio::test]
async fn a_secret_that_is_split_over_two_writes_is_masked() {
    let (mut program, pipe) = tokio::io::duplex(64);
    let sink = Sink::new(0, Then::Keep);
    let masker = Masker::new([&b"hunter2"[..]]);
    let token = CancellationToken::new();
    let write = async {
        program.write_all(b"token hun").await.unwrap();
        program.flush().await.unwrap();
        tokio::task::yield_now().await;
        program.write_all(b"ter2 end\n").await.unwrap();
        drop(program);
    };
    let (end, ()) = tokio::join!(stream_logs(pipe, &b""[..], &masker, &sink, &token), write);
    assert_eq!(sink.texts(), ["token *** end"]);
    assert_eq!(end.tail, ["token *** end"], "the tail travels with failures, so it is masked too");
}

/// Delivers a line and then an error.
struct Breaking(bool);

impl AsyncRead for Breaking {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(Err(std::io::Error::other("cable cut")));
        }
        buf.put_slice(b"first\nhalf");
        Poll::Ready(Ok(()))
    }
}

/// Delivers nothing and panics.
struct Panicking;

impl AsyncRead for Panicking {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        panic!("reader broke")
    }
}

#[tokio::test]
async fn incident_04_a_reader_that_fails_shows_in_the_result() {
    let sink = Sink::new(0, Then::Keep);
    let end = stream_logs(Breaking(false), &b"other\n"[..], &no_secrets(), &sink, &gone()).await;
    assert_eq!(end.lines, 3, "what was read before, and the other stream, are kept");
    assert!(end.fault.unwrap().contains("cable cut"));
}

#[tokio::test]
async fn incident_04_a_reader_that_panics_shows_in_the_result() {
    let sink = Sink::new(0, Then::Keep);
    let end = stream_logs(Panicking, &b"other\n"[..], &no_secrets(), &sink, &gone()).await;
    assert_eq!(sink.texts(), ["other"]);
    assert!(end.fault.unwrap().contains("reader broke"));
}

#[tokio::test]
async fn incident_04_a_sink_that_refuses_or_panics_shows_in_the_result_and_the_pipe_is_still_emptied() {
    for (then, word) in [(Then::Refuse, "closed"), (Then::Panic, "sink broke")] {
        let sink = Sink::new(3, then);
        let end = log("x\n".repeat(5_000).as_bytes(), &no_secrets(), &sink).await;
        let fault = end.fault.unwrap();
        assert!(fault.contains(word) && fault.contains("4998 lines lost"), "{fault}");
        assert_eq!((end.lines, sink.texts().len()), (2, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_hangs_neither_holds_the_run_for_ever_nor_is_it_silent() {
    let sink = Sink::new(3, Then::Hang);
    let lines = LOG_QUEUE_MAX_LINES + 500;
    let end = log("x\n".repeat(lines).as_bytes(), &no_secrets(), &sink).await;
    let fault = end.fault.unwrap();
    assert_eq!(end.lines, 2);
    // Two taken, one in the sink's hands, a full queue; the others found no place.
    let dropped = lines - 3 - LOG_QUEUE_MAX_LINES;
    assert!(fault.contains(&format!("{dropped} lines were dropped")), "{fault}");
    assert!(fault.contains(&format!("({} lines lost)", LOG_QUEUE_MAX_LINES + 1)), "{fault}");
}

/// Takes nothing before it is allowed to.
struct Gated {
    open: CancellationToken,
    sink: Sink,
}

#[async_trait]
impl LogSink for Gated {
    async fn accept(&self, line: LogLine) -> Result<(), LogSinkError> {
        self.open.cancelled().await;
        self.sink.accept(line).await
    }
}

#[tokio::test(start_paused = true)]
async fn lines_that_a_slow_sink_costs_are_counted_in_the_log_itself_and_numbers_stay_gapless() {
    let (mut program, pipe) = tokio::io::duplex(1 << 20);
    let gated = Gated { open: CancellationToken::new(), sink: Sink::new(0, Then::Keep) };
    let token = CancellationToken::new();
    let write = async {
        program.write_all("x\n".repeat(LOG_QUEUE_MAX_LINES + 11).as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2 * LOG_STALL_MAX_MS)).await;
        gated.open.cancel();
        // The queue empties before the next line is written.
        tokio::time::sleep(Duration::from_millis(1)).await;
        program.write_all(b"after\n").await.unwrap();
        drop(program);
        token.cancel();
    };
    let masker = no_secrets();
    let (end, ()) = tokio::join!(stream_logs(pipe, &b""[..], &masker, &gated, &token), write);
    let taken = gated.sink.taken.lock().unwrap();
    assert!(taken.iter().zip(1..).all(|(line, number)| line.sequence == number));
    let note = &taken[taken.len() - 2];
    assert_eq!(note.stream, LogStream::Agent);
    assert!(note.text.contains("10 lines were dropped here"), "{}", note.text);
    assert_eq!(taken.last().unwrap().text, "after");
    assert!(end.fault.unwrap().contains("10 lines were dropped"));
}

#[tokio::test]
async fn the_tail_is_bounded_in_lines_and_bytes() {
    let sink = Sink::new(0, Then::Keep);
    let numbered: String = (1..=LOG_TAIL_MAX_LINES + 1).map(|n| format!("{n}\n")).collect();
    let end = log(numbered.as_bytes(), &no_secrets(), &sink).await;
    assert_eq!((end.tail.len(), end.tail[0].as_str()), (LOG_TAIL_MAX_LINES, "2"));
    let wide = format!("{}\n", "w".repeat(LOG_LINE_MAX_CHARS)).repeat(LOG_TAIL_MAX_LINES);
    let end = log(wide.as_bytes(), &no_secrets(), &sink).await;
    assert_eq!(end.tail.len(), LOG_TAIL_MAX_BYTES / LOG_LINE_MAX_CHARS);
}

#[tokio::test(start_paused = true)]
async fn a_pipe_that_stays_open_after_everything_has_gone_is_left_and_told() {
    let (program, pipe) = tokio::io::duplex(64);
    let sink = Sink::new(0, Then::Keep);
    let end = stream_logs(pipe, &b""[..], &no_secrets(), &sink, &gone()).await;
    assert!(end.fault.unwrap().contains("still open"));
    drop(program);
}
