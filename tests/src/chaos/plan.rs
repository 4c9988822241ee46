//! When what breaks: drawn from the seed alone, before anything runs, so that a seed means the same schedule for ever.

use std::collections::BTreeMap;

use serde::Serialize;

use super::fault::{Fault, Scope};
use super::mixes::Mix;
use crate::sim::dice::Dice;

/// Time before the first strike, in milliseconds: work is under way by then.
const FIRST_AT_MS: u64 = 4_000;
/// Agents of every run.
pub const AGENTS: u8 = 3;

/// One fault, when, where, for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Strike {
    /// Since the beginning, in milliseconds.
    pub at_ms: u64,
    /// What breaks.
    #[serde(serialize_with = "by_name")]
    pub fault: Fault,
    /// Which one of its kind, from 0.
    pub target: u8,
    /// When it is undone, in milliseconds after it began.
    pub lasts_ms: u64,
    /// A number for whatever else has to be chosen when it happens, such as which handler.
    pub word: u64,
}

fn by_name<S: serde::Serializer>(fault: &Fault, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{fault:?}"))
}

/// The schedule of a seed. Every fault of the mix comes once in a drawn order, then by weight. Nothing is struck that is still broken; what
/// begins is over when the time is.
#[must_use]
pub fn draw(mix: &Mix, seed: u64, for_ms: u64) -> Vec<Strike> {
    let mut dice = Dice::new(seed);
    let mut first = shuffled(mix.faults.iter().map(|(_, fault)| *fault).collect(), &mut dice);
    let mut busy: BTreeMap<(Scope, u8), u64> = BTreeMap::new();
    let mut strikes = Vec::new();
    let mut at_ms = FIRST_AT_MS;
    while at_ms < for_ms {
        let fault = first.pop().or_else(|| dice.weighted(mix.faults));
        let Some(fault) = fault else { break };
        let count = targets(fault.scope(), mix);
        let target = u8::try_from(dice.below(u64::from(count))).unwrap_or_default();
        let wished_ms = dice.between(mix.lasts_ms.0, mix.lasts_ms.1);
        let (word, gap_ms) = (dice.word(), dice.between(mix.gap_ms.0, mix.gap_ms.1));
        let place = place(fault.scope(), target);
        let free = place.is_none_or(|place| busy.get(&place).is_none_or(|until| *until <= at_ms));
        if free {
            let lasts_ms = if fault.is_instant() { 0 } else { wished_ms.min(for_ms - at_ms) };
            busy.extend(place.map(|place| (place, at_ms + lasts_ms)));
            strikes.push(Strike { at_ms, fault, target, lasts_ms, word });
        }
        at_ms += gap_ms;
    }
    strikes
}

const fn targets(scope: Scope, mix: &Mix) -> u8 {
    match scope {
        Scope::Dispatcher => mix.dispatchers,
        Scope::Agent => AGENTS,
        Scope::Node => mix.nodes,
        Scope::Handler | Scope::Broker | Scope::Database => 1,
    }
}

/// What is struck by one fault at a time. Handlers are many; nodes are struck one at a time, and never beside the whole broker, so that a
/// majority lives.
const fn place(scope: Scope, target: u8) -> Option<(Scope, u8)> {
    match scope {
        Scope::Node | Scope::Broker => Some((Scope::Broker, 0)),
        Scope::Dispatcher | Scope::Agent | Scope::Database => Some((scope, target)),
        Scope::Handler => None,
    }
}

fn shuffled<T>(mut list: Vec<T>, dice: &mut Dice) -> Vec<T> {
    for end in (1..list.len()).rev() {
        let with = dice.index(end + 1).unwrap_or(end);
        list.swap(end, with);
    }
    list
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::chaos::mixes::MIXES;

    const FOR_MS: u64 = 180_000;

    #[test]
    fn a_seed_is_a_schedule_and_another_seed_another_one() {
        for mix in MIXES {
            assert_eq!(draw(mix, 7, FOR_MS), draw(mix, 7, FOR_MS), "{}", mix.name);
            assert_ne!(draw(mix, 7, FOR_MS), draw(mix, 8, FOR_MS), "{}", mix.name);
        }
    }

    #[test]
    fn what_is_broken_is_not_struck_again_and_everything_is_over_when_the_time_is() {
        for (mix, seed) in MIXES.iter().flat_map(|mix| (0..50).map(move |seed| (mix, seed))) {
            let mut until: BTreeMap<(Scope, u8), u64> = BTreeMap::new();
            for strike in draw(mix, seed, FOR_MS) {
                let over_at_ms = strike.at_ms + strike.lasts_ms;
                if let Some(place) = place(strike.fault.scope(), strike.target) {
                    let before = until.insert(place, over_at_ms);
                    assert!(before.is_none_or(|before| before <= strike.at_ms), "{} {seed}", mix.name);
                }
                assert!(over_at_ms <= FOR_MS && strike.target < targets(strike.fault.scope(), mix));
            }
        }
    }

    #[test]
    fn every_fault_of_a_mix_comes_in_some_seed_of_few() {
        for mix in MIXES {
            let drawn: BTreeSet<Fault> =
                (0..5).flat_map(|seed| draw(mix, seed, FOR_MS)).map(|strike| strike.fault).collect();
            assert_eq!(drawn.len(), mix.faults.len(), "{}", mix.name);
        }
    }
}
