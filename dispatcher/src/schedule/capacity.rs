//! Which classes of tasks could be served now: candidates are looked for only among these (protocol E4), so that a pass costs what
//! it can place, not what waits.

use std::collections::BTreeMap;

use super::snapshot::{AgentView, Class};

/// Most candidates of one class that one pass looks at, in tasks.
pub const CANDIDATES_MAX_COUNT: u32 = 1_000;

/// A class and how many of its tasks could be placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassLimit {
    /// The class.
    pub class: Class,
    /// Candidates worth loading.
    pub limit: u32,
}

/// The classes that some agent could take a task of, each with the number that all of them could take together.
#[must_use]
pub fn classes_with_capacity(agents: &[AgentView]) -> Vec<ClassLimit> {
    let mut limits: BTreeMap<Class, u32> = BTreeMap::new();
    for agent in agents {
        for handler in &agent.handlers {
            for (exclusive, repeatable) in [(false, false), (false, true), (true, false), (true, true)] {
                let class = Class { handler: handler.clone(), exclusive, repeatable };
                if agent.refuses(&class).is_none() {
                    let limit = limits.entry(class.clone()).or_default();
                    *limit = limit.saturating_add(room(agent, &class));
                }
            }
        }
    }
    limits
        .into_iter()
        .map(|(class, limit)| ClassLimit { class, limit: limit.min(CANDIDATES_MAX_COUNT) })
        .collect()
}

fn room(agent: &AgentView, class: &Class) -> u32 {
    let free = agent.places(class).saturating_sub(agent.open);
    if class.exclusive { free.min(agent.max_exclusive.saturating_sub(agent.open_exclusive)) } else { free }
}
