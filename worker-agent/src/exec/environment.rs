//! The environment that a program gets: cleared, then only what was allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use super::mask::Masker;
use super::spec::ProgramSpec;
use super::workdir::Workdir;

/// Names with this beginning belong to the contract with programs, and to the agent, whose broker password is one of them.
pub const RESERVED_PREFIX: &str = "SWITCHYARD_";
/// Path of the task file (JSON).
pub const TASK_FILE: &str = "SWITCHYARD_TASK_FILE";
/// Path of the directory with the approved artifacts.
pub const INPUT_DIR: &str = "SWITCHYARD_INPUT_DIR";
/// Path of the directory whose files become artifacts.
pub const ARTIFACT_DIR: &str = "SWITCHYARD_ARTIFACT_DIR";
/// Path where the program may write a JSON result.
pub const RESULT_FILE: &str = "SWITCHYARD_RESULT_FILE";
/// The W3C trace context of the task, under the name that programs with OpenTelemetry look for. Not set when the task has none.
pub const TRACEPARENT: &str = "TRACEPARENT";
/// Where programs are looked for when neither the allow-list nor a fixed value gives a PATH.
pub const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The whole environment of one run.
pub(crate) fn environment(
    spec: &ProgramSpec,
    agent_env: &BTreeMap<OsString, OsString>,
    workdir: &Workdir,
    traceparent: Option<&str>,
) -> BTreeMap<OsString, OsString> {
    let mut env = allowed(spec, agent_env);
    env.extend([
        (TASK_FILE.into(), workdir.task_file().into()),
        (INPUT_DIR.into(), workdir.input_dir().into()),
        (ARTIFACT_DIR.into(), workdir.artifact_dir().into()),
        (RESULT_FILE.into(), workdir.result_file().into()),
    ]);
    env.extend(traceparent.map(|trace| (TRACEPARENT.into(), trace.into())));
    env
}

/// What of it does not depend on the run.
pub(super) fn allowed(
    spec: &ProgramSpec,
    agent_env: &BTreeMap<OsString, OsString>,
) -> BTreeMap<OsString, OsString> {
    let mut env = BTreeMap::from([("PATH".into(), PATH_DEFAULT.into())]);
    env.extend(passed(&spec.env_pass, agent_env));
    env.extend(spec.env.iter().map(|(name, value)| (name.into(), value.into())));
    env
}

fn passed<'a>(
    names: &'a BTreeSet<String>,
    agent_env: &'a BTreeMap<OsString, OsString>,
) -> impl Iterator<Item = (OsString, OsString)> + 'a {
    let found = names.iter().filter_map(|name| agent_env.get_key_value(OsStr::new(name)));
    found.map(|(name, value)| (name.clone(), value.clone()))
}

/// Masks the values that `spec` names as secrets.
pub(crate) fn masker(spec: &ProgramSpec, env: &BTreeMap<OsString, OsString>) -> Masker {
    Masker::new(spec.mask.iter().filter_map(|name| env.get(OsStr::new(name))).map(|value| value.as_bytes()))
}
