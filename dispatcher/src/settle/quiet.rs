//! How often the same complaint is logged: an agent that forges or floods must not fill the log with it, and must not go unseen.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use switchyard_common::contract::ids::AgentRef;

/// Time between two lines of one agent, kind of report and reason.
pub const REPEAT_AFTER: Duration = Duration::from_secs(10);
/// Most complaints that are remembered. Beyond it the oldest are forgotten, so that many names cannot fill the memory.
pub const REMEMBERED_MAX_COUNT: usize = 1_000;

/// What a complaint is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Complaint {
    /// Who sent the report.
    pub agent: AgentRef,
    /// Its kind.
    pub report: &'static str,
    /// The reason.
    pub reason: &'static str,
}

/// When each complaint was last logged, and what was left out since.
#[derive(Debug, Default)]
pub struct Quiet {
    known: HashMap<Complaint, (Instant, u64)>,
}

impl Quiet {
    /// Whether to log `complaint` now; then with the number of those that were left out before.
    pub fn admit(&mut self, complaint: Complaint, now: Instant) -> Option<u64> {
        if let Some((at, left_out)) = self.known.get_mut(&complaint) {
            if now.saturating_duration_since(*at) < REPEAT_AFTER {
                *left_out += 1;
                return None;
            }
            *at = now;
            return Some(std::mem::take(left_out));
        }
        if self.known.len() >= REMEMBERED_MAX_COUNT {
            self.forget(now);
        }
        self.known.insert(complaint, (now, 0));
        Some(0)
    }

    /// What is over, and if that is nothing, the oldest.
    fn forget(&mut self, now: Instant) {
        let before = self.known.len();
        self.known.retain(|_, (at, _)| now.saturating_duration_since(*at) < REPEAT_AFTER);
        if self.known.len() == before {
            let oldest =
                self.known.iter().min_by_key(|(_, (at, _))| *at).map(|(complaint, _)| complaint.clone());
            oldest.map(|complaint| self.known.remove(&complaint));
        }
    }
}

#[cfg(test)]
mod tests {
    use switchyard_common::contract::ids::{AgentId, PoolId};

    use super::*;

    fn complaint(agent: &str, reason: &'static str) -> Complaint {
        let agent = AgentRef { pool: PoolId::new("default").unwrap(), agent: AgentId::new(agent).unwrap() };
        Complaint { agent, report: "log", reason }
    }

    #[test]
    fn the_first_of_a_kind_is_logged_at_once_and_the_rest_are_counted_until_its_time_has_passed() {
        let (mut quiet, start) = (Quiet::default(), Instant::now());
        let wrong = || complaint("a", "wrong_token");
        assert_eq!(quiet.admit(wrong(), start), Some(0));
        assert_eq!(quiet.admit(wrong(), start), None);
        assert_eq!(quiet.admit(wrong(), start + REPEAT_AFTER - Duration::from_millis(1)), None);
        assert_eq!(quiet.admit(complaint("a", "foreign_agent"), start), Some(0), "another reason");
        assert_eq!(quiet.admit(complaint("b", "wrong_token"), start), Some(0), "another agent");
        assert_eq!(quiet.admit(wrong(), start + REPEAT_AFTER), Some(2));
        assert_eq!(quiet.admit(wrong(), start + 2 * REPEAT_AFTER), Some(0));
    }

    #[test]
    fn no_more_than_so_many_are_remembered() {
        let (mut quiet, start) = (Quiet::default(), Instant::now());
        for n in 0..=REMEMBERED_MAX_COUNT {
            assert_eq!(quiet.admit(complaint(&format!("a-{n}"), "wrong_token"), start), Some(0));
        }
        assert_eq!(quiet.known.len(), REMEMBERED_MAX_COUNT);
        quiet.admit(complaint("late", "wrong_token"), start + REPEAT_AFTER);
        assert_eq!(quiet.known.len(), 1);
    }
}
