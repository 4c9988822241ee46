//! What can happen to a task, described without ids, so that the same act means something in every state.

use proptest::prelude::*;
use switchyard_common::contract::report::{NotStarted, StoppedBy};
use switchyard_common::task::{LossReason, ResolveTo, RevokeReason};

/// Which attempt a report speaks for, and what is wrong with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Speaker {
    /// 0 = the newest attempt, 1 = the one before it.
    pub(crate) back: u32,
    pub(crate) flaw: Flaw,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    Agent,
    Pool,
    Lease,
    Session,
    Task,
    Attempt,
    Grant,
    Epoch,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    Succeeded { changes: bool, artifact: bool },
    Failed,
    Panicked,
    TimedOut,
    Cancelled(StoppedBy),
    NotStarted(NotStarted),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Digest {
    Current,
    Other,
    Unnamed,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Act {
    Wait { seconds: i64 },
    Publish,
    Confirm,
    Report(Speaker, Said),
    Happen(Event),
}

/// What an agent says.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Said {
    Ask { nonce: u8 },
    Started,
    Outcome(End),
}

/// What the dispatcher, the broker or a person does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    Due { is_head: bool },
    Promote,
    Assign { agent: u8, own_pool: bool },
    Returned { publish_no: u32 },
    SessionEnded { own: bool, reason: LossReason },
    NotListed,
    Revoke(RevokeReason),
    DeadlinePassed,
    QueueTimeout,
    ApprovalExpired,
    Approve(Digest),
    Discard,
    Cancel { force: bool },
    Resolve { to: ResolveTo, session_over: bool, named: bool },
    RetryNow,
}

fn speaker(flaw: impl Strategy<Value = Flaw> + 'static) -> BoxedStrategy<Speaker> {
    (prop_oneof![6 => Just(0_u32), 1 => Just(1)], flaw)
        .prop_map(|(back, flaw)| Speaker { back, flaw })
        .boxed()
}

fn flawed() -> BoxedStrategy<Flaw> {
    use Flaw::{Agent, Attempt, Epoch, Grant, Lease, Pool, Session, Task};
    prop::sample::select(vec![Agent, Pool, Lease, Session, Task, Attempt, Grant, Epoch]).boxed()
}

fn mostly_honest() -> BoxedStrategy<Flaw> {
    prop_oneof![9 => Just(Flaw::None), 1 => flawed()].boxed()
}

fn end() -> BoxedStrategy<End> {
    use NotStarted::{Draining, Inputs, NoGo, NoHandler, OtherSession, OutcomeForgotten, Revoked, Silence};
    let not_started = prop::sample::select(vec![
        OtherSession,
        Draining,
        Revoked,
        NoGo,
        Silence,
        Inputs,
        NoHandler,
        OutcomeForgotten,
    ]);
    let stopped = prop::sample::select(vec![StoppedBy::Dispatcher, StoppedBy::Drain, StoppedBy::Silence]);
    prop_oneof![
        4 => (prop::bool::weighted(0.8), any::<bool>())
            .prop_map(|(changes, artifact)| End::Succeeded { changes, artifact }),
        1 => Just(End::Failed),
        1 => Just(End::Panicked),
        1 => Just(End::TimedOut),
        1 => stopped.prop_map(End::Cancelled),
        2 => not_started.prop_map(End::NotStarted),
    ]
    .boxed()
}

fn report(flaw: &BoxedStrategy<Flaw>) -> BoxedStrategy<Act> {
    let said = prop_oneof![
        (0..3_u8).prop_map(|nonce| Said::Ask { nonce }),
        Just(Said::Started),
        end().prop_map(Said::Outcome),
    ];
    (speaker(flaw.clone()), said).prop_map(|(by, said)| Act::Report(by, said)).boxed()
}

/// A report whose claim is not proven.
pub(crate) fn forged_report() -> BoxedStrategy<Act> {
    report(&flawed())
}

fn assign() -> BoxedStrategy<Event> {
    (0..3_u8, prop::bool::weighted(0.9))
        .prop_map(|(agent, own_pool)| Event::Assign { agent, own_pool })
        .boxed()
}

fn approve() -> BoxedStrategy<Event> {
    prop::sample::select(vec![Digest::Current, Digest::Unnamed, Digest::Other])
        .prop_map(Event::Approve)
        .boxed()
}

fn lost() -> BoxedStrategy<Event> {
    use LossReason::{Fenced, PoolRevoked, Silent, Superseded};
    let reason = prop::sample::select(vec![Silent, Superseded, PoolRevoked, Fenced]);
    (prop::bool::weighted(0.8), reason).prop_map(|(own, reason)| Event::SessionEnded { own, reason }).boxed()
}

fn resolve() -> BoxedStrategy<Event> {
    let to = prop::sample::select(vec![ResolveTo::Succeeded, ResolveTo::Failed]);
    (to, any::<bool>(), any::<bool>())
        .prop_map(|(to, session_over, named)| Event::Resolve { to, session_over, named })
        .boxed()
}

/// Anything, evenly.
pub(crate) fn anything() -> BoxedStrategy<Act> {
    let event = prop_oneof![
        2 => any::<bool>().prop_map(|is_head| Event::Due { is_head }),
        1 => Just(Event::Promote),
        3 => assign(),
        1 => (1..3_u32).prop_map(|publish_no| Event::Returned { publish_no }),
        1 => lost(),
        1 => Just(Event::NotListed),
        1 => prop::sample::select(RevokeReason::ALL.to_vec()).prop_map(Event::Revoke),
        1 => prop::sample::select(vec![Event::DeadlinePassed, Event::QueueTimeout, Event::ApprovalExpired]),
        1 => approve(),
        1 => Just(Event::Discard),
        1 => any::<bool>().prop_map(|force| Event::Cancel { force }),
        1 => resolve(),
        1 => Just(Event::RetryNow),
    ];
    prop_oneof![
        2 => (0..90_i64).prop_map(|seconds| Act::Wait { seconds }),
        1 => Just(Act::Publish),
        1 => Just(Act::Confirm),
        6 => report(&mostly_honest()),
        16 => event.prop_map(Act::Happen),
    ]
    .boxed()
}

/// What brings a task far: few ends, many starts and losses.
pub(crate) fn likely() -> BoxedStrategy<Act> {
    let event = prop_oneof![
        4 => Just(Event::Due { is_head: true }),
        2 => Just(Event::Promote),
        6 => assign(),
        1 => (1..3_u32).prop_map(|publish_no| Event::Returned { publish_no }),
        3 => lost(),
        1 => Just(Event::NotListed),
        1 => prop::sample::select(RevokeReason::ALL.to_vec()).prop_map(Event::Revoke),
        3 => approve(),
    ];
    prop_oneof![
        3 => (30..90_i64).prop_map(|seconds| Act::Wait { seconds }),
        2 => Just(Act::Confirm),
        1 => Just(Act::Publish),
        8 => report(&mostly_honest()),
        21 => event.prop_map(Act::Happen),
    ]
    .boxed()
}
