use super::*;

fn blow(text: &str) {
    panic!("{}", text.to_owned());
}

#[test]
fn a_caught_panic_carries_message_location_and_backtrace() {
    let capture = catch_panic_sync(|| blow("the wheel came off")).unwrap_err();
    assert_eq!(capture.message, "the wheel came off");
    assert!(capture.location.as_deref().unwrap_or_default().contains("capture_tests.rs:"), "{capture:?}");
    assert!(capture.backtrace.contains("blow"), "the backtrace names the function: {}", capture.backtrace);
    assert!(!capture.thread.is_empty());
}

#[test]
fn the_message_and_the_backtrace_are_bounded() {
    let capture = catch_panic_sync(|| blow(&"x".repeat(PANIC_MESSAGE_MAX_BYTES + 1))).unwrap_err();
    assert!(capture.message.len() <= PANIC_MESSAGE_MAX_BYTES);
    assert!(capture.message.ends_with("(cut)"));
    assert!(capture.backtrace.len() <= PANIC_BACKTRACE_MAX_BYTES);
    let exact = catch_panic_sync(|| blow(&"x".repeat(PANIC_MESSAGE_MAX_BYTES))).unwrap_err();
    assert_eq!(exact.message, "x".repeat(PANIC_MESSAGE_MAX_BYTES));
}

#[test]
fn a_payload_that_is_not_text_is_said_to_be_so() {
    let capture = catch_panic_sync(|| std::panic::panic_any(42_u8)).unwrap_err();
    assert!(capture.message.contains("not text"));
}

#[tokio::test]
async fn context_fields_of_all_levels_reach_the_capture() {
    let inner = with_context([("attempt", "3".to_owned())], async {
        tokio::task::yield_now().await;
        blow("inside");
    });
    let outer = with_context([("task_id", "t-1".to_owned())], inner);
    let capture = catch_panic(outer).await.unwrap_err();
    let expected = [("task_id".to_owned(), "t-1".to_owned()), ("attempt".to_owned(), "3".to_owned())];
    assert_eq!(capture.fields, expected);
}

#[tokio::test]
async fn context_does_not_leak_to_what_runs_between_polls() {
    let (wake, woken) = tokio::sync::oneshot::channel::<()>();
    let waiting = with_context([("task_id", "t-1".to_owned())], woken);
    let mut waiting = std::pin::pin!(waiting);
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    let capture = catch_panic(async { blow("outside") }).await.unwrap_err();
    assert_eq!(capture.fields, []);
    wake.send(()).unwrap();
    waiting.await.unwrap();
}

#[tokio::test]
async fn field_values_and_their_number_are_bounded() {
    let long = "v".repeat(PANIC_FIELD_MAX_BYTES + 1);
    let many = (0..=PANIC_FIELDS_MAX_COUNT).map(|_| ("field", long.clone()));
    let capture = catch_panic(with_context(many, async { blow("x") })).await.unwrap_err();
    assert_eq!(capture.fields.len(), PANIC_FIELDS_MAX_COUNT);
    assert!(capture.fields[0].1.len() <= PANIC_FIELD_MAX_BYTES);
}

#[tokio::test]
async fn a_second_panic_while_dropping_the_broken_future_is_contained() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            // While unwinding, a second panic would abort the process.
            if !std::thread::panicking() {
                panic!("in drop");
            }
        }
    }
    let bomb = Bomb;
    let future = std::future::poll_fn(move |_| -> Poll<()> {
        let _kept = &bomb;
        panic!("first")
    });
    let capture = catch_panic(future).await.unwrap_err();
    assert_eq!(capture.message, "first");
}

#[tokio::test]
async fn the_innermost_guard_takes_the_panic_and_the_outer_goes_on() {
    let outcome = catch_panic(async { catch_panic(async { blow("deep") }).await.is_err() }).await;
    assert_eq!(outcome, Ok(true));
}
