//! A replica under a simulated clock.

use super::*;
use chrono::{DateTime, Utc};
use uuid::Uuid;

const LOST_AFTER: Duration = Duration::from_secs(20);
const SECOND: Duration = Duration::from_secs(1);

/// A replica whose world answers, unless told otherwise, once a second.
struct World {
    judge: Judge,
    now: Duration,
    broker: bool,
    database: bool,
    outcomes: u32,
    /// Another replica says nothing new of what it has in hand.
    other_is_busy: bool,
    told: Option<DateTime<Utc>>,
}

const OTHER: Uuid = Uuid::from_u128(7);

fn by_database(now: Duration) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + now
}

fn empty(now: Duration) -> EmptyLook {
    EmptyLook { asked_at: now, answered_at: now, by_database: by_database(now) }
}

impl World {
    fn new() -> Self {
        let now = Duration::from_secs(1_000);
        Self {
            judge: Judge::new(LOST_AFTER),
            now,
            broker: true,
            database: true,
            outcomes: 0,
            other_is_busy: false,
            told: None,
        }
    }

    fn second(&mut self) {
        self.now += SECOND;
        let canary = self.judge.canary_sent(self.now);
        if self.broker {
            self.judge.canary_heard(canary);
            if self.outcomes == 0 {
                self.judge.outcomes_looked(empty(self.now));
            }
        }
        if self.database {
            self.judge.database_answered(self.now);
            if !self.other_is_busy {
                self.told = Some(by_database(self.now));
            }
            let other = OtherReplica { replica: OTHER, settled_through: self.told, is_gone: false };
            self.judge.outcomes_told(self.now, Some(self.now), &[other]);
        } else {
            self.judge.database_failed();
        }
    }

    fn seconds(&mut self, count: u32) {
        (0..count).for_each(|_| self.second());
    }

    fn verdict(&self) -> Result<(), NotNow> {
        self.judge.may_declare(self.now)
    }

    /// Seconds until losses may be declared, which must be within a minute.
    fn seconds_until_it_may(&mut self) -> u32 {
        let waited = (0..60).find(|_| {
            let may = self.verdict().is_ok();
            if !may {
                self.second();
            }
            may
        });
        waited.expect("losses may be declared again within a minute")
    }
}

#[test]
fn a_new_replica_listens_for_a_full_lost_timeout_before_it_declares_anything() {
    let mut world = World::new();
    assert_eq!(world.verdict(), Err(NotNow::Deaf));
    world.seconds(20);
    assert_eq!(world.verdict(), Err(NotNow::TooSoon));
    world.second();
    assert_eq!(world.verdict(), Ok(()));
}

#[test]
fn a_healthy_replica_may_always_declare_so_that_a_lone_dead_agent_is_found() {
    let mut world = World::new();
    world.seconds(21);
    for _ in 0..100 {
        world.second();
        assert_eq!(world.verdict(), Ok(()));
    }
}

#[test]
fn a_broker_outage_is_not_mistaken_for_the_death_of_all_agents() {
    let mut world = World::new();
    world.seconds(30);
    world.broker = false;
    world.seconds(4);
    assert_eq!(world.verdict(), Err(NotNow::Deaf));
    world.seconds(60);
    world.broker = true;
    world.second();
    assert_eq!(world.verdict(), Err(NotNow::TooSoon));
    assert_eq!(world.seconds_until_it_may(), 20);
}

#[test]
fn a_short_hiccup_within_the_allowed_gap_does_not_start_the_wait_anew() {
    let mut world = World::new();
    world.seconds(30);
    world.broker = false;
    world.seconds(2);
    world.broker = true;
    world.second();
    assert_eq!(world.verdict(), Ok(()));
}

#[test]
fn a_database_outage_is_not_mistaken_for_the_death_of_all_agents() {
    let mut world = World::new();
    world.seconds(30);
    world.database = false;
    world.second();
    assert_eq!(world.verdict(), Err(NotNow::NoDatabase));
    world.database = true;
    world.second();
    assert_eq!(world.verdict(), Err(NotNow::TooSoon));
    assert_eq!(world.seconds_until_it_may(), 20);
}

#[test]
fn a_paused_process_does_not_declare_when_it_wakes() {
    let mut world = World::new();
    world.seconds(30);
    world.now += Duration::from_secs(300);
    assert_eq!(world.verdict(), Err(NotNow::Deaf));
    world.second();
    assert_eq!(world.verdict(), Err(NotNow::TooSoon), "what came before the pause no longer counts");
    assert_eq!(world.seconds_until_it_may(), 20);
}

#[test]
fn a_new_presence_queue_starts_the_wait_anew_because_heartbeats_were_lost_with_the_old_one() {
    let mut world = World::new();
    world.seconds(30);
    world.judge.hearing_interrupted();
    assert_eq!(world.verdict(), Err(NotNow::Deaf));
    world.second();
    assert_eq!(world.seconds_until_it_may(), 20);
}

#[test]
fn unread_outcomes_hold_back_every_declaration() {
    let mut world = World::new();
    world.seconds(30);
    world.outcomes = 7;
    world.seconds(9);
    assert_eq!(
        world.verdict(),
        Ok(()),
        "whoever has been silent for twenty seconds was silent nine seconds ago"
    );
    assert!(!world.judge.is_drained(world.now), "but what agents list is compared with fresh knowledge only");
    world.seconds(2);
    assert_eq!(world.verdict(), Err(NotNow::OutcomesWait));
    world.outcomes = 0;
    world.seconds(2);
    assert_eq!(world.verdict(), Ok(()));
    assert!(world.judge.is_drained(world.now));
}

#[test]
fn outcomes_that_another_replica_has_in_hand_hold_back_every_declaration() {
    let mut world = World::new();
    world.seconds(30);
    world.other_is_busy = true;
    world.seconds(30);
    assert_eq!(world.verdict(), Err(NotNow::OutcomesInHand));
    world.other_is_busy = false;
    world.seconds(2);
    assert_eq!(world.verdict(), Ok(()));
}

#[test]
fn canaries_that_come_back_late_speak_for_the_past_only() {
    let mut judge = Judge::new(LOST_AFTER);
    let mut now = Duration::from_secs(1_000);
    let mut late: VecDeque<u64> = VecDeque::new();
    for _ in 0..120 {
        now += SECOND;
        late.push_back(judge.canary_sent(now));
        judge.database_answered(now);
        judge.outcomes_looked(empty(now));
        if late.len() > 5 {
            judge.canary_heard(late.pop_front().unwrap());
        }
        assert_eq!(judge.may_declare(now), Err(NotNow::Deaf), "heartbeats are five seconds late as well");
    }
}

#[test]
fn a_canary_that_was_never_sent_or_came_before_proves_nothing() {
    let mut judge = Judge::new(LOST_AFTER);
    judge.canary_heard(1);
    assert_eq!(judge.may_declare(SECOND), Err(NotNow::Deaf));
    let canary = judge.canary_sent(SECOND);
    judge.canary_heard(canary);
    judge.canary_heard(canary);
    assert_eq!(judge.heard, Some(Stretch { since: SECOND, until: SECOND }));
}

#[test]
fn canaries_on_their_way_are_bounded_and_the_oldest_is_given_up() {
    let mut judge = Judge::new(LOST_AFTER);
    let numbers: Vec<u64> = (0..=CANARIES_OPEN_MAX_COUNT).map(|_| judge.canary_sent(SECOND)).collect();
    assert_eq!(judge.open.len(), CANARIES_OPEN_MAX_COUNT);
    judge.canary_heard(numbers[0]);
    assert_eq!(judge.heard, None);
    judge.canary_heard(numbers[1]);
    assert!(judge.heard.is_some());
}

#[test]
fn canaries_that_return_out_of_order_do_not_shorten_the_stretch() {
    let mut judge = Judge::new(LOST_AFTER);
    let first = judge.canary_sent(SECOND);
    let second = judge.canary_sent(SECOND * 2);
    judge.canary_heard(second);
    judge.canary_heard(first);
    assert_eq!(judge.heard, Some(Stretch { since: SECOND * 2, until: SECOND * 2 }));
}

#[test]
fn one_missing_condition_of_each_kind_is_enough_to_stay_silent() {
    for (broker, database, outcomes, expected) in [
        (false, true, 0, Err(NotNow::Deaf)),
        (true, false, 0, Err(NotNow::NoDatabase)),
        (true, true, 1, Err(NotNow::OutcomesWait)),
        (true, true, 0, Ok(())),
    ] {
        let mut world = World { broker, database, outcomes, ..World::new() };
        world.seconds(60);
        assert_eq!(world.verdict(), expected);
    }
}

#[test]
fn a_short_lost_timeout_shortens_the_gap_with_it() {
    assert_eq!(Judge::new(LOST_AFTER).ask_every(), SECOND / 2);
    let judge = Judge::new(Duration::from_secs(4));
    assert_eq!(judge.gap_max, SECOND);
    assert!(judge.ask_every() < SECOND);
}
