//! How long Switchyard is still when something under it fails: each figure measured several times, beside its bound. `make liveness` runs
//! them all; `docs/liveness.md` says what each is.
//!
//! - [`figure`]: values, their median and worst, and the table
//! - [`work`]: tasks that never run out, and when the next of them ended
//! - [`loss`]: an agent is killed
//! - [`services`]: the broker or the database is killed or stopped, and comes back
//! - [`replicas`]: a dispatcher is killed, or all are restarted in turn
//! - [`drain`]: an agent is told to end in the middle of its work
//!
//! Every time is of this machine's clock, which the local database shares.

pub mod drain;
pub mod figure;
pub mod loss;
pub mod replicas;
pub mod services;
pub mod work;

use figure::Figure;

/// A group of figures that are measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// [`loss`]
    Loss,
    /// [`services`]: back after seconds.
    Return,
    /// [`services`]: away for minutes.
    Outage,
    /// [`replicas`]: a kill.
    Takeover,
    /// [`replicas`]: restarts in turn.
    Rolling,
    /// [`drain`]
    Drain,
}

impl Group {
    /// All of them, in the order in which they are measured.
    pub const ALL: [Self; 6] =
        [Self::Loss, Self::Return, Self::Takeover, Self::Rolling, Self::Drain, Self::Outage];

    /// The word for it on the command line.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Return => "return",
            Self::Outage => "outage",
            Self::Takeover => "takeover",
            Self::Rolling => "rolling",
            Self::Drain => "drain",
        }
    }

    /// Measures its figures, each so many times.
    ///
    /// # Errors
    /// When something else than a figure fails: a program does not start, a task never ends.
    pub async fn measure(self, rounds: usize) -> anyhow::Result<Vec<Figure>> {
        match self {
            Self::Loss => loss::measure(rounds).await,
            Self::Return => services::returns(rounds).await,
            Self::Outage => services::outages(rounds).await,
            Self::Takeover => replicas::takeover(rounds).await,
            Self::Rolling => replicas::rolling(rounds).await,
            Self::Drain => drain::measure(rounds).await,
        }
    }
}
