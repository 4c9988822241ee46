//! Whether any dispatcher serves the agent's namespace, as far as the fates of reports tell; each change is said once.

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The broker has it.
    Confirmed,
    /// The exchange for reports does not exist.
    NoExchange,
    /// It has to be sent again.
    Lost,
}

/// What was said.
#[derive(Debug, Default)]
pub(super) struct Served {
    /// The exchange for reports did not exist, and nothing was confirmed since.
    is_missed: bool,
}

/// What is to be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    Missing,
    Found,
}

impl Served {
    /// Takes in a fate, and says what it changes.
    pub(super) fn learn(&mut self, fate: Fate, exchange: &str) {
        match self.news(fate) {
            Some(News::Missing) => tracing::warn!(
                exchange,
                "the exchange for reports does not exist, so no dispatcher serves this namespace: `dispatcher serve` declares it, \
                under the same SWITCHYARD_NAMESPACE; trying again until then"
            ),
            Some(News::Found) => {
                tracing::info!(
                    exchange,
                    "the exchange for reports is there: a dispatcher serves this namespace"
                );
            }
            None => {}
        }
    }

    const fn news(&mut self, fate: Fate) -> Option<News> {
        match (fate, self.is_missed) {
            (Fate::NoExchange, false) => {
                self.is_missed = true;
                Some(News::Missing)
            }
            (Fate::Confirmed, true) => {
                self.is_missed = false;
                Some(News::Found)
            }
            (Fate::NoExchange, true) | (Fate::Confirmed, false) | (Fate::Lost, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_nobody_serves_the_namespace_is_said_once_and_so_is_that_somebody_does() {
        let mut served = Served::default();
        let mut said = |fate| served.news(fate);
        assert_eq!(said(Fate::Confirmed), None);
        assert_eq!(said(Fate::NoExchange), Some(News::Missing));
        for quiet in [Fate::NoExchange, Fate::Lost, Fate::NoExchange] {
            assert_eq!(said(quiet), None);
        }
        assert_eq!(said(Fate::Confirmed), Some(News::Found));
        assert_eq!(said(Fate::Confirmed), None);
        assert_eq!(said(Fate::NoExchange), Some(News::Missing));
    }
}
