//! A sign of life, checked before anything of it is stored. Pure.

use std::collections::BTreeMap;

use switchyard_common::contract::ids::{AgentRef, SessionId};
use switchyard_common::contract::limits::{HANDLERS_MAX_COUNT, SLOTS_MAX_COUNT};
use switchyard_common::contract::report::{Presence, ReportBody};
use switchyard_common::contract::routing::ReportKind;
use switchyard_common::failure::bound;

use crate::settle::read::{Malformed, read};

/// Longest pod, node and version text that is kept, in characters (a DNS name).
pub const NAME_MAX_CHARS: usize = 253;
/// Most attempts that one agent may list: its slots and credit at their limits, for its sessions of today and a few ended ones.
pub const IN_HAND_MAX_COUNT: usize = 8 * SLOTS_MAX_COUNT as usize;

/// A hello or heartbeat with its sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// Pool and agent, from the routing key.
    pub agent: AgentRef,
    /// The newest restore epoch that the agent has seen. Not judged: a new process has seen none.
    pub epoch: i64,
    /// What it says.
    pub presence: Presence,
}

/// Reads a message of the presence queue.
///
/// # Errors
/// What is wrong with it.
pub fn read_beat(routing_key: &str, body: &[u8]) -> Result<Beat, Malformed> {
    let heard = read(routing_key, body, &[ReportKind::Hello, ReportKind::Heartbeat])?;
    match heard.body {
        ReportBody::Hello(presence) | ReportBody::Heartbeat(presence) => {
            let presence = checked(presence)?;
            Ok(Beat { agent: heard.sender, epoch: heard.epoch, presence })
        }
        ReportBody::Ask(_)
        | ReportBody::Started(_)
        | ReportBody::Outcome(_)
        | ReportBody::Artifact(_)
        | ReportBody::Log(_) => Err(Malformed("not a sign of life".to_owned())),
    }
}

fn checked(mut presence: Presence) -> Result<Presence, Malformed> {
    let most = |what: &str, found: u64, most: u64| {
        if found > most {
            Err(Malformed(format!("{what} is {found}: at most {most} are allowed")))
        } else {
            Ok(())
        }
    };
    if presence.slots == 0 {
        return Err(Malformed("slots is 0: at least 1 is needed".to_owned()));
    }
    most("slots", presence.slots.into(), SLOTS_MAX_COUNT.into())?;
    most("credit", presence.credit.into(), SLOTS_MAX_COUNT.into())?;
    most("max_exclusive", presence.max_exclusive.into(), SLOTS_MAX_COUNT.into())?;
    most("the number of handlers", presence.handlers.len() as u64, HANDLERS_MAX_COUNT as u64)?;
    most("the number of attempts in hand", presence.in_hand.len() as u64, IN_HAND_MAX_COUNT as u64)?;
    most("sequence", presence.sequence, i64::MAX.unsigned_abs())?;
    presence.pod = bound(&presence.pod, NAME_MAX_CHARS);
    presence.node = presence.node.map(|node| bound(&node, NAME_MAX_CHARS));
    presence.version = bound(&presence.version, NAME_MAX_CHARS);
    Ok(presence)
}

/// The newest sign of each session, sessions in the order in which they were first heard: whoever has the newest knows all.
#[must_use]
pub fn newest(beats: Vec<Beat>) -> Vec<Beat> {
    let mut kept: Vec<Beat> = Vec::new();
    let mut places: BTreeMap<(AgentRef, SessionId), usize> = BTreeMap::new();
    for beat in beats {
        let key = (beat.agent.clone(), beat.presence.session);
        match places.get(&key) {
            Some(&place) if kept[place].presence.sequence < beat.presence.sequence => kept[place] = beat,
            Some(_) => {}
            None => {
                places.insert(key, kept.len());
                kept.push(beat);
            }
        }
    }
    kept
}

#[cfg(test)]
#[path = "beat_tests.rs"]
mod tests;
