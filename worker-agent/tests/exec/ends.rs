//! How a run ends.

use switchyard_worker_agent::exec::logs::LogStream;
use switchyard_worker_agent::exec::result::{FailedBecause, ProgramEnd, StartFailedBecause};
use switchyard_worker_agent::exec::spec::ExitMeaning;

use crate::fixture::{Fixture, spec};

#[tokio::test]
async fn exit_code_0_is_success_and_every_other_code_is_failure() {
    let result = Fixture::script("exit 0").run().await;
    assert_eq!((result.end, result.exit_code, result.started), (ProgramEnd::Succeeded, Some(0), true));
    let result = Fixture::script("echo why >&2; exit 7").run().await;
    assert_eq!((result.end, result.exit_code), (ProgramEnd::Failed(FailedBecause::ExitCode), Some(7)));
    assert_eq!(result.log_tail, ["why"]);
    assert!(result.message.contains("code 7"), "{}", result.message);
}

#[tokio::test]
async fn exit_codes_mean_what_the_handlers_table_says() {
    let mut fixture = Fixture::script("exit 2");
    fixture.spec.exit_codes = [(2, ExitMeaning::NoChanges)].into();
    assert_eq!(fixture.run().await.end, ProgramEnd::NoChanges);
}

#[tokio::test]
async fn a_program_that_a_foreign_signal_ends_has_panicked() {
    let result = Fixture::script("echo before; kill -SEGV $$").run().await;
    assert_eq!((result.end, result.signal), (ProgramEnd::Panicked { signal: 11 }, Some(11)));
    assert_eq!(result.log_tail, ["before"]);
}

#[tokio::test]
async fn a_real_time_signal_is_a_panic_like_any_other() {
    let result = Fixture::script("kill -40 $$").run().await;
    assert_eq!(result.end, ProgramEnd::Panicked { signal: 40 });
}

#[tokio::test]
async fn a_missing_command_is_a_failed_start_that_names_it() {
    let mut fixture = Fixture::script("");
    fixture.spec = spec(&["no-such-program", "--flag"]);
    let result = fixture.run().await;
    assert_eq!((result.end, result.started), (ProgramEnd::StartFailed(StartFailedBecause::Command), false));
    assert!(result.message.contains("no-such-program"), "{}", result.message);
    assert_eq!(fixture.workdirs().len(), 0);
}

#[tokio::test]
async fn standard_output_and_standard_error_arrive_as_lines() {
    let fixture = Fixture::script("echo one; echo two >&2; printf three");
    let result = fixture.run().await;
    assert_eq!(fixture.logs.texts(LogStream::Stdout), ["one", "three"]);
    assert_eq!(fixture.logs.texts(LogStream::Stderr), ["two"]);
    assert_eq!((result.lines, result.log_fault), (3, None));
}
