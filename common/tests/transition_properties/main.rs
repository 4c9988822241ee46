//! Properties of the transition function: whatever happens to whatever valid task, in whatever order.
//!
//! `valid` makes tasks that the invariants allow, `act` says what can happen to them, `machine` lets it happen and checks each
//! decision against the one before and against the task's whole life.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]

mod act;
mod machine;
mod valid;

use proptest::prelude::*;
use proptest::test_runner::Config;

use machine::Machine;

const ACTS_MAX: usize = 40;

fn config() -> Config {
    Config { cases: 512, failure_persistence: None, ..Config::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_inputs_lead_from_any_valid_task_only_to_valid_tasks(
        subject in valid::subject(),
        acts in prop::collection::vec(act::anything(), 1..ACTS_MAX),
    ) {
        let mut machine = Machine::of(subject);
        for act in &acts {
            machine.perform(act);
        }
    }

    #[test]
    fn any_inputs_lead_from_admission_only_to_valid_tasks(
        subject in valid::admitted(),
        acts in prop::collection::vec(act::anything(), 1..ACTS_MAX),
    ) {
        let mut machine = Machine::of(subject);
        for act in &acts {
            machine.perform(act);
        }
    }

    #[test]
    fn likely_lives_hold_too(
        subject in valid::admitted(),
        acts in prop::collection::vec(act::likely(), 1..ACTS_MAX),
    ) {
        let mut machine = Machine::of(subject);
        for act in &acts {
            machine.perform(act);
        }
    }

    #[test]
    fn no_state_is_a_dead_end(
        subject in valid::subject(),
        acts in prop::collection::vec(act::anything(), 0..ACTS_MAX),
    ) {
        let mut machine = Machine::of(subject);
        for act in &acts {
            machine.perform(act);
        }
        machine.drive_to_the_end();
    }

    #[test]
    fn an_unproven_claim_changes_nothing(
        subject in valid::subject(),
        acts in prop::collection::vec(act::anything(), 0..ACTS_MAX),
        forged in act::forged_report(),
    ) {
        let mut machine = Machine::of(subject);
        for act in &acts {
            machine.perform(act);
        }
        let before = machine.subject();
        machine.perform(&forged);
        prop_assert_eq!(machine.subject(), before);
    }
}
