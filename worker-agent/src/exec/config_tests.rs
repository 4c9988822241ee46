use super::*;

fn parse(text: &str) -> Result<BTreeMap<String, ProgramSpec>, Vec<String>> {
    let table: Table = text.parse().unwrap();
    parse_handlers(&table, Path::new("/etc/switchyard"))
        .map_err(|errors| errors.0.iter().map(ToString::to_string).collect())
}

#[test]
fn a_full_table_is_read_as_it_is_written() {
    let specs = parse(
        r#"
        [plan]
        command = ["terraform", "plan"]
        env_pass = ["HOME", "CLOUD_TOKEN"]
        env = { TF_IN_AUTOMATION = "1" }
        mask = ["CLOUD_TOKEN"]
        exit_codes = { 0 = "no_changes", 2 = "succeeded" }
        run_timeout_ms = 1000
        kill_grace_ms = 0
        max_artifact_bytes = 10
        "#,
    );
    let expected = ProgramSpec {
        command: vec!["terraform".into(), "plan".into()],
        env_pass: ["HOME".into(), "CLOUD_TOKEN".into()].into(),
        env: [("TF_IN_AUTOMATION".into(), "1".into())].into(),
        mask: ["CLOUD_TOKEN".into()].into(),
        run_timeout: Some(Duration::from_secs(1)),
        kill_grace: Duration::ZERO,
        exit_codes: [(0, ExitMeaning::NoChanges), (2, ExitMeaning::Succeeded)].into(),
        max_artifact_bytes: 10,
    };
    assert_eq!(specs.unwrap()["plan"], expected);
}

#[test]
fn only_the_command_is_required() {
    let specs = parse("[plan]\ncommand = ['true']").unwrap();
    assert_eq!(specs["plan"].kill_grace, Duration::from_millis(KILL_GRACE_DEFAULT_MS));
    assert_eq!(specs["plan"].max_artifact_bytes, ARTIFACTS_TOTAL_MAX_BYTES as u64);
    assert_eq!(specs["plan"].run_timeout, None);
}

#[test]
fn a_relative_path_is_relative_to_the_file_and_a_bare_name_is_looked_up() {
    for (written, read) in
        [("./bin/plan", "/etc/switchyard/./bin/plan"), ("/bin/plan", "/bin/plan"), ("plan", "plan")]
    {
        let specs = parse(&format!("[plan]\ncommand = ['{written}', './argument']")).unwrap();
        assert_eq!(specs["plan"].command, [read, "./argument"]);
    }
}

#[test]
fn all_errors_are_reported_at_once_each_with_its_place() {
    let errors = parse(
        r#"
        [Plan]
        command = []
        colour = "red"
        kill_grace_ms = "5s"
        exit_codes = { 256 = "succeeded", 3 = "great" }
        env = { A = 1, "B=C" = "x", SWITCHYARD_X = "y" }
        [apply]
        env_pass = ["SWITCHYARD_AMQP_URL"]
        mask = ["TOKEN"]
        "#,
    )
    .unwrap_err();
    for (place, reason) in [
        ("handlers.Plan", "not a label"),
        ("handlers.Plan.command", "is empty"),
        ("handlers.Plan.colour", "unknown key; known are command"),
        ("handlers.Plan.kill_grace_ms", "whole number from 0 to 600000"),
        ("handlers.Plan.exit_codes.256", "from 0 to 255"),
        ("handlers.Plan.exit_codes.3", "\"succeeded\", \"no_changes\", \"failed\""),
        ("handlers.Plan.env.A", "expected a text in quotes, found integer"),
        ("handlers.Plan.env", "\"B=C\" is not a variable's name"),
        ("handlers.Plan.env", "SWITCHYARD_X cannot be given"),
        ("handlers.apply.command", "is missing"),
        ("handlers.apply.env_pass", "SWITCHYARD_AMQP_URL cannot be given"),
        ("handlers.apply.mask", "TOKEN is neither in env_pass nor in env"),
    ] {
        let found =
            errors.iter().any(|error| error.starts_with(&format!("{place}: ")) && error.contains(reason));
        assert!(found, "{place}: {reason} is not in {errors:#?}");
    }
    assert_eq!(errors.len(), 12, "{errors:#?}");
}

#[test]
fn numbers_are_accepted_at_their_limits_and_refused_beyond() {
    for (key, least, most) in [
        ("run_timeout_ms", 1, RUN_TIMEOUT_MAX_MS),
        ("kill_grace_ms", 0, KILL_GRACE_MAX_MS),
        ("max_artifact_bytes", 0, ARTIFACTS_TOTAL_MAX_BYTES as u64),
    ] {
        let with = |value: i128| parse(&format!("[plan]\ncommand = ['true']\n{key} = {value}"));
        assert!(with(least.into()).is_ok() && with(most.into()).is_ok(), "{key}");
        assert!(with(i128::from(least) - 1).is_err() && with(i128::from(most) + 1).is_err(), "{key}");
    }
}

#[test]
fn variables_and_handlers_are_accepted_up_to_their_limits() {
    let names = |count: usize| (0..count).map(|n| format!("'V{n}'")).collect::<Vec<_>>().join(",");
    let passing = |count| parse(&format!("[plan]\ncommand = ['true']\nenv_pass = [{}]", names(count)));
    assert!(passing(ENV_MAX_COUNT).is_ok());
    assert!(passing(ENV_MAX_COUNT + 1).is_err());
    let many =
        |count| parse(&(0..count).map(|n| format!("[h{n}]\ncommand = ['true']\n")).collect::<String>());
    assert!(many(HANDLERS_MAX_COUNT).is_ok());
    assert!(many(HANDLERS_MAX_COUNT + 1).is_err());
}
