//! The two ways to an administrator's rights at the broker: its management API, or `rabbitmqctl`, which needs no plugin but a shell where the
//! broker runs (docs/adr/broker-accounts.md).

use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use switchyard_common::config::Secret;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::http::{self, Method};

/// Longest wait for the broker to do one thing.
const ACT_WAIT_MAX: Duration = Duration::from_secs(60);
/// Most characters of what the broker said that an error repeats.
const SAID_MAX_CHARS: usize = 500;

/// Why the broker did not do as told.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The management API cannot be asked.
    #[error("the broker's management API at {place}: {said}")]
    Api {
        /// Where, without the password.
        place: String,
        /// What is wrong.
        said: String,
    },
    /// The program cannot be run, or failed.
    #[error("{program}: {said}")]
    Program {
        /// Which.
        program: String,
        /// What is wrong.
        said: String,
    },
    /// It took too long.
    #[error("the broker did not answer within {ACT_WAIT_MAX:?}; it may have done it nevertheless: try again")]
    Late,
}

/// An administrator of the broker.
#[derive(Debug, Clone)]
pub enum Admin {
    /// `http://user:password@host:15672`: takes milliseconds.
    Api(Secret),
    /// `rabbitmqctl`, with whatever comes before it (`kubectl exec -i ... --`): takes a second or two.
    Ctl(Vec<String>),
}

impl Admin {
    /// Makes or changes what `definitions` names; nothing else is touched.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses.
    pub async fn import(&self, definitions: &Value) -> Result<(), AdminError> {
        let body = definitions.to_string();
        match self {
            Self::Api(url) => api(url, Method::Post, "/api/definitions", &body, &[]).await,
            Self::Ctl(program) => ctl(program, &["import_definitions"], &body).await.map(|_| ()),
        }
    }

    /// Deletes an account, which closes its connections. One that does not exist counts as deleted.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses.
    pub async fn delete_account(&self, user: &str) -> Result<(), AdminError> {
        match self {
            Self::Api(url) => api(url, Method::Delete, &format!("/api/users/{user}"), "", &[404]).await,
            Self::Ctl(program) => match ctl(program, &["delete_user", user], "").await {
                Err(AdminError::Program { said, .. })
                    if said.contains("no_such_user") || said.contains("does not exist") =>
                {
                    Ok(())
                }
                ended => ended.map(|_| ()),
            },
        }
    }
}

async fn api(
    url: &Secret,
    method: Method,
    path: &str,
    body: &str,
    also_good: &[u16],
) -> Result<(), AdminError> {
    let place = switchyard_common::config::mask_url(url.expose());
    let wrong = |said: String| AdminError::Api { place: place.clone(), said };
    let asked = tokio::time::timeout(ACT_WAIT_MAX, http::ask(url, method, path, body)).await;
    let answer = asked.map_err(|_| AdminError::Late)?.map_err(|error| wrong(error.to_string()))?;
    match answer.status {
        200..=299 => Ok(()),
        status if also_good.contains(&status) => Ok(()),
        401 => Err(wrong(
            "401: the user or the password is wrong, or the user has no tag `administrator`".to_owned(),
        )),
        status => Err(wrong(format!("{status}: {}", short(&answer.body)))),
    }
}

async fn ctl(program: &[String], arguments: &[&str], input: &str) -> Result<Output, AdminError> {
    let name = program.join(" ");
    let wrong = |said: String| AdminError::Program { program: format!("{name} {}", arguments[0]), said };
    let (first, rest) = program.split_first().ok_or_else(|| wrong("no program is named".to_owned()))?;
    let mut command = Command::new(first);
    command.args(rest).args(arguments).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let running = async {
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that reads nothing is no error: how it ends says what became of it.
            let _closed_early = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let ended = tokio::time::timeout(ACT_WAIT_MAX, running).await.map_err(|_| AdminError::Late)?;
    let output = ended.map_err(|error| wrong(error.to_string()))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = [&output.stderr[..], &output.stdout[..]].concat();
    Err(wrong(format!("{}: {}", output.status, short(&String::from_utf8_lossy(&said)))))
}

fn short(text: &str) -> String {
    switchyard_common::failure::bound(text.trim(), SAID_MAX_CHARS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Admin {
        Admin::Ctl(vec!["sh".into(), "-c".into(), script.into(), "rabbitmqctl".into()])
    }

    #[tokio::test]
    async fn a_program_gets_the_definitions_on_its_input_and_its_failure_is_told() {
        let good = shell(r#"test "$1" = import_definitions && grep -q '"users"'"#);
        good.import(&serde_json::json!({ "users": [] })).await.unwrap();
        let error = shell("echo no luck >&2; exit 7").import(&Value::Null).await.unwrap_err().to_string();
        assert!(error.contains("no luck") && error.contains("import_definitions"), "{error}");
        let none = Admin::Ctl(Vec::new()).import(&Value::Null).await.unwrap_err().to_string();
        assert!(none.contains("no program"), "{none}");
    }

    #[tokio::test]
    async fn an_account_that_is_gone_already_counts_as_deleted() {
        shell("echo 'User \"u\" does not exist' >&2; exit 67").delete_account("u").await.unwrap();
        assert!(shell("exit 1").delete_account("u").await.is_err());
    }
}
