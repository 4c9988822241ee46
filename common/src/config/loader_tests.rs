use std::io::Write as _;
use std::time::Duration;

use super::super::value::ByteSize;
use super::*;

const HEARTBEAT: Key = key("broker.heartbeat", "SWITCHYARD_BROKER_HEARTBEAT");
const URL: Key = key("broker.url", "SWITCHYARD_AMQP_URL");

fn loader(env: &[(&str, &str)], toml: &str) -> Loader {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Loader::new(env, Some(toml))
}

fn errors(loader: Loader) -> Vec<String> {
    loader.finish(()).map_or_else(|errors| errors.0, |()| Vec::new())
}

/// A file that is removed with the value.
struct SecretFile(std::path::PathBuf);

impl SecretFile {
    fn with(name: &str, text: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("switchyard-loader-{}-{name}", std::process::id()));
        std::fs::File::create(&path).unwrap().write_all(text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_default() {
    let default = Duration::from_secs(5);
    let mut both = loader(&[("SWITCHYARD_BROKER_HEARTBEAT", "7s")], "[broker]\nheartbeat = \"6s\"");
    assert_eq!(both.value(HEARTBEAT, default), Duration::from_secs(7));
    assert_eq!(loader(&[], "[broker]\nheartbeat = \"6s\"").value(HEARTBEAT, default), Duration::from_secs(6));
    assert_eq!(loader(&[], "").value(HEARTBEAT, default), default);
}

#[test]
fn all_errors_are_reported_together() {
    let mut loader = loader(
        &[("SWITCHYARD_SLOTS", "many"), ("SWITCHYARD_SLOT", "4")],
        "[broker]\nheartbeat = 5\nheartbaet = \"5s\"\n[extra]\nx = 1",
    );
    loader.value(HEARTBEAT, Duration::ZERO);
    loader.value(key("slots", "SWITCHYARD_SLOTS"), 4_u16);
    loader.required::<String>(env_key("SWITCHYARD_POOL"));
    loader.checked(toml_key("limit"), ByteSize(1), |_| Err("must be at least 8MiB".to_owned()));
    let errors = errors(loader).join("\n");
    for expected in [
        "`broker.heartbeat`: `5` is not a duration with units",
        "SWITCHYARD_SLOTS: `many` is not a whole number from 0 to 65535",
        "`SWITCHYARD_POOL` is required",
        "`limit`: must be at least 8MiB",
        "unknown key `broker.heartbaet`; did you mean `broker.heartbeat`?",
        "unknown key `extra`",
        "unknown variable `SWITCHYARD_SLOT`; did you mean `SWITCHYARD_SLOTS`?",
    ] {
        assert!(errors.contains(expected), "{expected} is missing in:\n{errors}");
    }
    assert_eq!(errors.lines().count(), 7);
}

#[test]
fn variables_of_others_and_of_kubernetes_are_not_unknown() {
    let mut loader = loader(
        &[
            ("PATH", "/bin"),
            ("SWITCHYARD_DATABASE_URL", "x"),
            ("SWITCHYARD_DISPATCHER_SERVICE_HOST", "10.0.0.1"),
            ("SWITCHYARD_DISPATCHER_SERVICE_PORT_HTTP", "80"),
            ("SWITCHYARD_DISPATCHER_PORT", "tcp://10.0.0.1:80"),
            ("SWITCHYARD_DISPATCHER_PORT_80_TCP_ADDR", "10.0.0.1"),
        ],
        "",
    );
    loader.also_known(["SWITCHYARD_DATABASE_URL"]);
    assert_eq!(errors(loader), Vec::<String>::new());
}

#[test]
fn secrets_come_from_values_or_files_but_not_both() {
    let file = SecretFile::with("plain", b"from-file\n");
    let mut from_file = loader(&[("SWITCHYARD_AMQP_URL_FILE", file.path())], "");
    assert_eq!(from_file.required_secret(URL).unwrap().expose(), "from-file");
    assert_eq!(errors(from_file), Vec::<String>::new());

    let mut both =
        loader(&[("SWITCHYARD_AMQP_URL_FILE", file.path()), ("SWITCHYARD_AMQP_URL", "direct")], "");
    assert_eq!(both.required_secret(URL), None);
    assert!(errors(both)[0].contains("both set"));

    let toml = format!("[broker]\nurl_file = \"{}\"", file.path());
    assert_eq!(loader(&[], &toml).required_secret(URL).unwrap().expose(), "from-file");
}

#[test]
fn no_error_contains_a_secret() {
    let binary = SecretFile::with("binary", b"hunter2\xff");
    let mut loader = loader(
        &[("SWITCHYARD_AMQP_URL", "hunter2"), ("SWITCHYARD_AMQP_URL_FILE", binary.path())],
        "[broker]\nurl = [\"hunter2\"]",
    );
    loader.required_secret(URL);
    let mut other = Loader::new([("SWITCHYARD_X_FILE".to_owned(), binary.path().to_owned())], None);
    other.required_secret(env_key("SWITCHYARD_X"));
    let broken = Loader::new([], Some("url = \"hunter2\nnext"));
    let all = [errors(loader), errors(other), errors(broken)].concat().join("\n");
    assert!(!all.contains("hunter2"), "{all}");
    assert!(all.lines().count() >= 4, "{all}");
}

#[test]
fn an_empty_secret_is_an_error() {
    let mut loader = loader(&[("SWITCHYARD_AMQP_URL", "")], "");
    loader.required_secret(URL);
    assert_eq!(errors(loader), ["`SWITCHYARD_AMQP_URL` is an empty secret"]);
}

#[test]
fn a_secret_file_over_the_limit_is_refused() {
    let exact = SecretFile::with("exact", &vec![b'x'; SECRET_FILE_MAX_BYTES]);
    let over = SecretFile::with("over", &vec![b'x'; SECRET_FILE_MAX_BYTES + 1]);
    let read =
        |file: &SecretFile| loader(&[("SWITCHYARD_AMQP_URL_FILE", file.path())], "").required_secret(URL);
    assert!(read(&exact).is_some() && read(&over).is_none());
}

#[test]
fn sections_are_read_by_serde_and_unknown_fields_in_them_are_errors() {
    #[derive(serde::Deserialize, Debug, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Kind {
        exclusive: bool,
    }
    type Kinds = BTreeMap<String, Kind>;
    let mut good = loader(&[], "[kinds.drift]\nexclusive = false");
    assert_eq!(good.section::<Kinds>("kinds").unwrap()["drift"], Kind { exclusive: false });
    assert_eq!(errors(good), Vec::<String>::new());
    let mut bad = loader(&[], "[kinds.drift]\nexclusiv = false");
    assert_eq!(bad.section::<Kinds>("kinds"), None);
    assert!(errors(bad)[0].contains("exclusiv"));
}

#[test]
fn finish_gives_the_required_values_back() {
    let mut loader = loader(&[("SWITCHYARD_POOL", "p"), ("SWITCHYARD_SLOTS", "3")], "");
    let pool = loader.required::<String>(env_key("SWITCHYARD_POOL"));
    let slots = loader.required::<u16>(env_key("SWITCHYARD_SLOTS"));
    assert_eq!(loader.finish((pool, slots)), Ok(("p".to_owned(), 3)));
}

#[test]
fn a_file_that_is_not_toml_is_reported_with_its_line() {
    let errors = errors(loader(&[], "a = 1\nb = = 2"));
    assert!(errors[0].contains("not TOML (line 2)"), "{errors:?}");
}
