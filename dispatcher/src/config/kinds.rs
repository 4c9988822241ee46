//! Kinds as they are written in TOML: `[kinds.<name>]`. A key that nobody knows is an error here, because a person wrote it; the form
//! in which steps are stored with each task is more patient, because a newer replica may have written that.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use switchyard_common::config::{Loader, toml_key};
use switchyard_common::contract::ids::{HandlerName, KindName, StepName};
use switchyard_common::contract::limits::PRIORITY_MAX;
use switchyard_common::task::{Kind, Kinds, Step, StepPolicy};

use super::parameters::as_json;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KindTable {
    exclusive: bool,
    #[serde(default)]
    auto_approve_allowed: bool,
    default_priority: Option<toml::Value>,
    steps: Vec<StepTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepTable {
    name: StepName,
    handler: HandlerName,
    #[serde(default)]
    approval: bool,
    repeatable: bool,
    parameters: Option<toml::Value>,
    #[serde(default)]
    policy: PolicyTable,
}

impl StepTable {
    fn read(self) -> Result<Step, String> {
        let Self { name, handler, approval, repeatable, parameters, policy } = self;
        let parameters = parameters.map_or(Ok(Value::Null), as_json);
        let parameters = parameters.map_err(|wrong| format!("step {name}, parameters: {wrong}"))?;
        Ok(Step { name, handler, approval, repeatable, parameters, policy: policy.into() })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyTable {
    max_attempts: Option<u32>,
    backoff_initial_ms: Option<u64>,
    backoff_max_ms: Option<u64>,
    run_timeout_ms: Option<u64>,
    start_timeout_ms: Option<u64>,
    queue_timeout_ms: Option<u64>,
    approval_timeout_ms: Option<u64>,
}

impl From<PolicyTable> for StepPolicy {
    fn from(table: PolicyTable) -> Self {
        let defaults = Self::default();
        Self {
            max_attempts: table.max_attempts.unwrap_or(defaults.max_attempts),
            backoff_initial_ms: table.backoff_initial_ms.unwrap_or(defaults.backoff_initial_ms),
            backoff_max_ms: table.backoff_max_ms.unwrap_or(defaults.backoff_max_ms),
            run_timeout_ms: table.run_timeout_ms.unwrap_or(defaults.run_timeout_ms),
            start_timeout_ms: table.start_timeout_ms.or(defaults.start_timeout_ms),
            queue_timeout_ms: table.queue_timeout_ms.or(defaults.queue_timeout_ms),
            approval_timeout_ms: table.approval_timeout_ms.or(defaults.approval_timeout_ms),
        }
    }
}

/// Reads `[kinds]`, and reports whatever is wrong in it.
pub(super) fn kinds(loader: &mut Loader) -> Vec<Kind> {
    let place = toml_key("kinds");
    // Each is read on its own, so that an error says which it is of, and hides none of another.
    let tables: BTreeMap<String, toml::Value> = loader.section("kinds").unwrap_or_default();
    let mut kinds = Vec::new();
    for (name, table) in tables {
        match kind(&name, table) {
            Ok(kind) => kinds.push(kind),
            Err(wrong) => loader.error(place, &wrong),
        }
    }
    if let Err(error) = Kinds::with_built_in(kinds.iter().cloned()) {
        loader.error(place, &error.to_string());
    }
    kinds
}

fn kind(name: &str, table: toml::Value) -> Result<Kind, String> {
    let name = KindName::new(name).map_err(|error| format!("kind {name:?} {error}"))?;
    let table: KindTable = table.try_into().map_err(|error: toml::de::Error| {
        // Serde says what is wrong; the rest of its text repeats the file.
        format!("kind {name}: {}", error.message())
    })?;
    let default_priority = match table.default_priority {
        None => 0,
        Some(value) => priority(&value).ok_or_else(|| {
            format!("kind {name}: default_priority must be a whole number from 0 to {PRIORITY_MAX}")
        })?,
    };
    let steps: Result<Vec<Step>, String> = table.steps.into_iter().map(StepTable::read).collect();
    let kind = Kind {
        exclusive: table.exclusive,
        auto_approve_allowed: table.auto_approve_allowed,
        default_priority,
        steps: steps.map_err(|wrong| format!("kind {name}, {wrong}"))?.into(),
        name,
    };
    kind.check().map_err(|error| error.to_string())?;
    Ok(kind)
}

fn priority(value: &toml::Value) -> Option<u8> {
    value.as_integer().and_then(|number| u8::try_from(number).ok()).filter(|number| *number <= PRIORITY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use switchyard_common::config::Loader;

    const DEPLOY: &str = r#"
        [kinds.deploy]
        exclusive = true
        [[kinds.deploy.steps]]
        name = "roll_out"
        handler = "roll_out"
        repeatable = false
    "#;

    fn read(toml: &str) -> (Vec<Kind>, Vec<String>) {
        let mut loader = Loader::new(Vec::<(String, String)>::new(), Some(toml));
        let kinds = kinds(&mut loader);
        let errors = loader.finish(()).err().map(|errors| errors.0).unwrap_or_default();
        (kinds, errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_a_policy_leaves_out_has_the_default() {
        let (kinds, errors) = read(&format!("{DEPLOY}policy = {{ run_timeout_ms = 5000 }}"));
        assert!(errors.is_empty(), "{errors:?}");
        let expected = StepPolicy { run_timeout_ms: 5_000, ..StepPolicy::default() };
        assert_eq!(kinds[0].steps[0].policy, expected);
    }

    #[test]
    fn parameters_that_json_cannot_hold_are_an_error_that_names_their_step() {
        let (kinds, errors) = read(&format!("{DEPLOY}parameters = {{ limit = nan }}"));
        assert!(kinds.is_empty() && errors.len() == 1, "{errors:?}");
        assert!(errors[0].contains("kind deploy, step roll_out, parameters: NaN"), "{errors:?}");
    }

    #[test]
    fn a_key_that_nobody_knows_is_an_error_in_the_configuration() {
        for wrong in ["repeatabel = true", "policy = { max_atempts = 2 }"] {
            let (kinds, errors) = read(&format!("{DEPLOY}{wrong}"));
            assert!(kinds.is_empty() && errors.len() == 1, "{wrong}: {errors:?}");
        }
    }

    #[test]
    fn errors_say_which_kind_they_are_of_and_the_error_of_one_hides_none_of_another() {
        let (kinds, errors) =
            read("[kinds.first]\nexclusive = true\n[kinds.second]\nexclusive = 1\nsteps = []");
        assert!(kinds.is_empty() && errors.len() == 2, "{errors:?}");
        assert!(errors[0].contains("kind first: missing field `steps`"), "{errors:?}");
        assert!(errors[1].contains("kind second: invalid type"), "{errors:?}");
    }

    #[test]
    fn a_default_priority_is_a_whole_number_from_0_to_9() {
        let with = |priority: &str| {
            read(
                &DEPLOY
                    .replace("exclusive = true", &format!("exclusive = true\ndefault_priority = {priority}")),
            )
        };
        assert_eq!(with("9").0[0].default_priority, 9);
        for wrong in ["10", "-1", "300", "1.5", "\"high\""] {
            let (kinds, errors) = with(wrong);
            assert!(kinds.is_empty() && errors.len() == 1, "{wrong}: {errors:?}");
            let said = "kind deploy: default_priority must be a whole number from 0 to 9";
            assert!(errors[0].contains(said), "{wrong}: {errors:?}");
        }
    }
}
