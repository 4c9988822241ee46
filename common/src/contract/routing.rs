//! Routing keys that say something: what a report is and who sent it.

use super::ids::{AgentId, AgentRef, PoolId, ReplicaId};

/// What travels on the reports exchange: the first word of the routing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReportKind {
    /// First word of a session.
    Hello,
    /// A sign of life.
    Heartbeat,
    /// May a non-repeatable step start?
    Ask,
    /// Repeatable attempts run.
    Started,
    /// Attempts have ended.
    Outcome,
    /// A part of an artifact.
    Artifact,
    /// Log lines.
    Log,
}

impl ReportKind {
    /// Every kind.
    pub const ALL: [Self; 7] =
        [Self::Hello, Self::Heartbeat, Self::Ask, Self::Started, Self::Outcome, Self::Artifact, Self::Log];

    /// The word in the routing key, which is also the `type` in the body.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Heartbeat => "heartbeat",
            Self::Ask => "ask",
            Self::Started => "started",
            Self::Outcome => "outcome",
            Self::Artifact => "artifact",
            Self::Log => "log",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// The routing key of such a report from `sender`: `<type>.<pool>.<agent>`.
    #[must_use]
    pub fn key(self, sender: &AgentRef) -> String {
        format!("{}.{}.{}", self.as_str(), sender.pool, sender.agent)
    }
}

/// Why a routing key on the reports exchange is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportKeyError {
    /// Not three words.
    #[error("a report's routing key is <type>.<pool>.<agent>: three words, {0} found")]
    Words(usize),
    /// The first word is not known.
    #[error("a report's routing key begins with hello, heartbeat, ask, started, outcome, artifact or log")]
    Kind,
    /// The pool or the agent is not a label.
    #[error("the {0} in a report's routing key is not a label")]
    Label(&'static str),
}

/// Reads the routing key of a report. Pool and agent are believed, because the broker's topic permissions vouch for them
/// (incidents 63, 64); what the body says about its sender is not.
pub fn parse_report_key(key: &str) -> Result<(ReportKind, AgentRef), ReportKeyError> {
    let mut words = key.split('.');
    let (Some(kind), Some(pool), Some(agent), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(ReportKeyError::Words(key.split('.').count()));
    };
    let kind = ReportKind::parse(kind).ok_or(ReportKeyError::Kind)?;
    let pool = PoolId::new(pool).map_err(|_| ReportKeyError::Label("pool"))?;
    let agent = AgentId::new(agent).map_err(|_| ReportKeyError::Label("agent"))?;
    Ok((kind, AgentRef { pool, agent }))
}

/// The routing key of a replica's own canary (protocol C1).
#[must_use]
pub fn canary_key(replica: &ReplicaId) -> String {
    format!("canary.{replica}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker() -> AgentRef {
        AgentRef { pool: PoolId::new("default").unwrap(), agent: AgentId::new("worker-0").unwrap() }
    }

    #[test]
    fn a_report_key_reads_back_as_it_was_written() {
        for kind in ReportKind::ALL {
            assert_eq!(parse_report_key(&kind.key(&worker())), Ok((kind, worker())));
            assert_eq!(ReportKind::parse(kind.as_str()), Some(kind));
        }
    }

    #[test]
    fn a_key_that_is_not_a_report_of_an_agent_is_refused() {
        assert_eq!(parse_report_key("outcome.default"), Err(ReportKeyError::Words(2)));
        assert_eq!(parse_report_key("outcome.default.worker-0.x"), Err(ReportKeyError::Words(4)));
        assert_eq!(parse_report_key("canary.default.worker-0"), Err(ReportKeyError::Kind));
        assert_eq!(parse_report_key("outcome.Default.worker-0"), Err(ReportKeyError::Label("pool")));
        assert_eq!(parse_report_key("outcome.default."), Err(ReportKeyError::Label("agent")));
    }

    #[test]
    fn a_canary_cannot_be_taken_for_a_report() {
        let key = canary_key(&ReplicaId::new("dispatcher-0").unwrap());
        assert_eq!(key, "canary.dispatcher-0");
        assert!(parse_report_key(&key).is_err());
    }
}
