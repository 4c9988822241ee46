//! Kinds and their steps: configuration, copied into each task at admission, so that a later change never reaches it
//! (protocol F1, incident 47).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::contract::ids::{HandlerName, KindName, StepName};
use crate::contract::limits::STEPS_MAX_COUNT;

use super::model::StepPolicy;

/// One run of one handler. This is also the form in which steps are stored with each task, so fields that are not known are left out of
/// account: a newer replica may have stored them (expand, then contract).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Its name, unique in the kind.
    pub name: StepName,
    /// The handler that runs it.
    pub handler: HandlerName,
    /// Needs an approval before it may be assigned.
    #[serde(default)]
    pub approval: bool,
    /// May run again after a loss. When false the step is started at most once.
    pub repeatable: bool,
    /// Fixed parameters that the handler gets beside the payload.
    #[serde(default)]
    pub parameters: Value,
    /// Times and counts.
    #[serde(default)]
    pub policy: StepPolicy,
}

/// A kind of task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kind {
    /// Its name.
    pub name: KindName,
    /// One at a time per workspace.
    pub exclusive: bool,
    /// Whether a task may ask to be approved by itself (protocol F3).
    pub auto_approve_allowed: bool,
    /// Priority when the event gives none, 0 to 9.
    pub default_priority: u8,
    /// Its steps, in order.
    pub steps: Arc<[Step]>,
}

/// Why a kind is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KindError {
    /// No steps, or too many.
    #[error("kind {kind} has {steps} steps: 1 to {STEPS_MAX_COUNT} are allowed")]
    Steps {
        /// The kind.
        kind: KindName,
        /// Steps found.
        steps: usize,
    },
    /// Two steps share a name.
    #[error("kind {kind} has two steps named {step}")]
    Duplicate {
        /// The kind.
        kind: KindName,
        /// The name.
        step: StepName,
    },
    /// The first step needs an approval, but nothing could be approved yet.
    #[error(
        "kind {kind}: its first step {step} needs an approval, but no earlier step leaves anything to approve"
    )]
    FirstNeedsApproval {
        /// The kind.
        kind: KindName,
        /// The step.
        step: StepName,
    },
    /// A step that can never be tried.
    #[error("kind {kind}, step {step}: max_attempts must be at least 1")]
    NoAttempts {
        /// The kind.
        kind: KindName,
        /// The step.
        step: StepName,
    },
}

impl Kind {
    /// Checks that the kind can work.
    pub fn check(&self) -> Result<(), KindError> {
        if self.steps.is_empty() || self.steps.len() > STEPS_MAX_COUNT {
            return Err(KindError::Steps { kind: self.name.clone(), steps: self.steps.len() });
        }
        for (index, step) in self.steps.iter().enumerate() {
            if self.steps[..index].iter().any(|earlier| earlier.name == step.name) {
                return Err(KindError::Duplicate { kind: self.name.clone(), step: step.name.clone() });
            }
            if step.policy.max_attempts == 0 {
                return Err(KindError::NoAttempts { kind: self.name.clone(), step: step.name.clone() });
            }
        }
        if self.steps[0].approval {
            return Err(KindError::FirstNeedsApproval {
                kind: self.name.clone(),
                step: self.steps[0].name.clone(),
            });
        }
        Ok(())
    }
}

/// The kinds that a dispatcher knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Kinds(BTreeMap<KindName, Kind>);

impl Kinds {
    /// The built-in kinds of design 3, with `configured` added or put in their place.
    pub fn with_built_in(configured: impl IntoIterator<Item = Kind>) -> Result<Self, KindError> {
        let mut kinds = BTreeMap::new();
        for kind in built_in().into_iter().chain(configured) {
            kind.check()?;
            kinds.insert(kind.name.clone(), kind);
        }
        Ok(Self(kinds))
    }

    /// Finds a kind.
    #[must_use]
    pub fn get(&self, name: &KindName) -> Option<&Kind> {
        self.0.get(name)
    }

    /// Every known name, sorted, for the message that rejects an unknown one.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.0.keys().map(KindName::as_str).collect()
    }

    /// Every kind, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Kind> {
        self.0.values()
    }
}

/// The kinds of design 3.
fn built_in() -> Vec<Kind> {
    let step = |name: &str, handler: &str, repeatable: bool, approval: bool, parameters: Value| {
        Some(Step {
            name: StepName::new(name).ok()?,
            handler: HandlerName::new(handler).ok()?,
            approval,
            repeatable,
            parameters,
            policy: StepPolicy::default(),
        })
    };
    let kind = |name: &str, exclusive: bool, default_priority: u8, steps: Vec<Option<Step>>| {
        let steps: Option<Vec<Step>> = steps.into_iter().collect();
        Some(Kind {
            name: KindName::new(name).ok()?,
            exclusive,
            auto_approve_allowed: exclusive,
            default_priority,
            steps: steps?.into(),
        })
    };
    [
        kind("plan", false, 1, vec![step("plan", "plan", true, false, json!({}))]),
        kind(
            "plan_and_apply",
            true,
            1,
            vec![
                step("plan", "plan", true, false, json!({})),
                step("apply", "apply", false, true, json!({})),
            ],
        ),
        kind(
            "drift_check",
            false,
            0,
            vec![step("plan", "plan", true, false, json!({ "refresh_only": true }))],
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl StepPolicy {
    /// Longest run of the handler.
    #[must_use]
    pub fn run_timeout(&self) -> Duration {
        Duration::from_millis(self.run_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_kinds_are_those_of_the_design() {
        let kinds = Kinds::with_built_in([]).unwrap();
        assert_eq!(kinds.names(), ["drift_check", "plan", "plan_and_apply"]);
        let apply = kinds.get(&KindName::new("plan_and_apply").unwrap()).unwrap();
        assert!(apply.exclusive && apply.steps[1].approval && !apply.steps[1].repeatable);
        assert!(apply.steps[0].repeatable && !apply.steps[0].approval);
    }

    #[test]
    fn a_kind_without_steps_or_with_an_approval_first_is_refused() {
        let mut kind = built_in().remove(1);
        kind.steps = Arc::new([]);
        assert!(matches!(kind.check(), Err(KindError::Steps { .. })));
        let mut kind = built_in().remove(1);
        kind.steps = kind.steps.iter().rev().cloned().collect();
        assert!(matches!(kind.check(), Err(KindError::FirstNeedsApproval { .. })));
    }
}
