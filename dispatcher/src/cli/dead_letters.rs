//! `dispatcher dead-letters ...`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::Value;
use switchyard_common::broker::Publisher;
use uuid::Uuid;

use super::connect::{self, actor};
use super::output;
use crate::config::{Config, Needs};
use crate::dead_letters::named_secrets::masked_text;
use crate::dead_letters::operate;
use crate::dead_letters::replay::{Drawn, Edit};
use crate::store::Db;
use crate::store::letters::browse::{self, LIST_MAX_COUNT, LetterFilter};
use crate::store::letters::record::Letter;
use crate::store::letters::resolve::{Discarded, ReplayVerdict, ReplayWish, discard};

/// Longest wait for intake to take a replayed event.
const VERDICT_WAIT: Duration = Duration::from_secs(15);
/// Time for the publishing connection to close.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// Look at dead letters, and resolve them.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetters {
    /// List letters, newest first; unresolved ones unless asked otherwise.
    List(List),
    /// Everything about one letter.
    Show {
        /// The letter's number.
        letter_id: i64,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Submit the work of a letter again, as a new task or event that names the old one.
    Replay(Replay),
    /// Mark letters as not worth anything further.
    Discard(Discard),
}

/// Which letters.
#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Only this kind of failure.
    #[arg(long)]
    failure: Option<String>,
    /// Only this group.
    #[arg(long)]
    fingerprint: Option<String>,
    /// Only this task.
    #[arg(long)]
    task: Option<String>,
    /// Only this workspace.
    #[arg(long)]
    workspace: Option<String>,
    /// Only this pool.
    #[arg(long)]
    pool: Option<String>,
}

/// What to list.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    filter: Filter,
    /// Resolved ones too.
    #[arg(long)]
    all: bool,
    /// One line per group of letters with one cause.
    #[arg(long)]
    groups: bool,
    /// The newest so many.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..LIST_MAX_COUNT as i64))]
    limit: u16,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What to replay.
#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// The letters' numbers.
    letter_ids: Vec<i64>,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    many: Many,
    /// Another payload for the task, as JSON; one letter only.
    #[arg(long, conflicts_with = "event")]
    payload: Option<String>,
    /// A whole other event, as JSON; one letter only.
    #[arg(long)]
    event: Option<String>,
    /// Once more, although it was replayed or resolved before.
    #[arg(long)]
    again: bool,
    /// Who acts; kept in the audit log. Default: the user's name.
    #[arg(long, env = "SWITCHYARD_ACTOR")]
    by: Option<String>,
    /// Why.
    #[arg(long)]
    note: Option<String>,
}

/// What to discard.
#[derive(Debug, Args)]
pub(crate) struct Discard {
    /// The letters' numbers.
    letter_ids: Vec<i64>,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    many: Many,
    /// Who acts; kept in the audit log. Default: the user's name.
    #[arg(long, env = "SWITCHYARD_ACTOR")]
    by: Option<String>,
    /// Why.
    #[arg(long)]
    note: Option<String>,
}

/// Several letters at once.
#[derive(Debug, Args)]
struct Many {
    /// Every unresolved letter that the filter names.
    #[arg(long)]
    selected: bool,
    /// Every unresolved letter there is.
    #[arg(long, conflicts_with = "selected")]
    all: bool,
}

impl Filter {
    const fn is_empty(&self) -> bool {
        let Self { failure, fingerprint, task, workspace, pool } = self;
        failure.is_none() && fingerprint.is_none() && task.is_none() && workspace.is_none() && pool.is_none()
    }

    fn letters(&self, resolved: Option<bool>, count_max: usize) -> LetterFilter {
        LetterFilter {
            resolved,
            failure_kind: self.failure.clone(),
            fingerprint: self.fingerprint.clone(),
            task_id: self.task.clone(),
            workspace_id: self.workspace.clone(),
            pool_id: self.pool.clone(),
            count_max,
            ..LetterFilter::default()
        }
    }
}

pub(super) async fn run(command: DeadLetters) -> anyhow::Result<ExitCode> {
    match command {
        DeadLetters::List(list) if list.groups => groups(&connect::database()?, &list).await,
        DeadLetters::List(list) => letters(&connect::database()?, &list).await,
        DeadLetters::Show { letter_id, json } => show(&connect::database()?, letter_id, json).await,
        DeadLetters::Replay(replay) => replay_all(&replay).await,
        DeadLetters::Discard(discard) => discard_all(&connect::database()?, &discard).await,
    }
}

async fn letters(db: &Db, list: &List) -> anyhow::Result<ExitCode> {
    let resolved = if list.all { None } else { Some(false) };
    let limit = usize::from(list.limit);
    let mut letters = browse::list(db, &list.filter.letters(resolved, limit + 1)).await?;
    let more = output::cut(&mut letters, limit);
    if list.json {
        let mut shown = serde_json::to_value(&letters)?;
        shown.as_array_mut().into_iter().flatten().for_each(mask_payload);
        output::json(&shown)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = letters.iter().map(row).collect();
    output::table(
        &["LETTER", "AGE", "FAILURE", "TASK / EVENT", "WORKSPACE", "STEP", "AGENT", "MESSAGE"],
        rows,
        "no dead letters",
    );
    if more {
        output::more(limit);
    }
    Ok(ExitCode::SUCCESS)
}

fn row(letter: &Letter) -> Vec<String> {
    let subject = match (&letter.task_id, letter.attempt, &letter.event_id) {
        (Some(task), Some(attempt), _) => format!("{task}#{attempt}"),
        (Some(task), None, _) => task.clone(),
        (None, _, Some(event)) => format!("event {event}"),
        (None, _, None) => "a message".to_owned(),
    };
    vec![
        letter.letter_id.to_string(),
        output::ago(letter.created_at),
        letter.failure_kind.clone().unwrap_or_else(|| "not known yet".into()),
        subject,
        letter.workspace_id.clone().unwrap_or_default(),
        letter.step.clone().unwrap_or_default(),
        letter.agent_id.clone().unwrap_or_default(),
        letter.failure_message.as_deref().and_then(|text| text.lines().next()).unwrap_or_default().to_owned(),
    ]
}

async fn groups(db: &Db, list: &List) -> anyhow::Result<ExitCode> {
    let resolved = if list.all { None } else { Some(false) };
    let limit = usize::from(list.limit);
    let mut groups = browse::groups(db, &list.filter.letters(resolved, limit + 1)).await?;
    let more = output::cut(&mut groups, limit);
    if list.json {
        output::json(&groups)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = groups
        .iter()
        .map(|group| {
            vec![
                group.fingerprint.clone(),
                group.failure_kind.clone(),
                group.count.to_string(),
                group.tasks.to_string(),
                output::ago(group.newest_at),
                group.newest_message.lines().next().unwrap_or_default().to_owned(),
            ]
        })
        .collect();
    output::table(&["GROUP", "FAILURE", "LETTERS", "TASKS", "NEWEST", "MESSAGE"], rows, "no dead letters");
    if more {
        output::more(limit);
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(db: &Db, letter_id: i64, json: bool) -> anyhow::Result<ExitCode> {
    let Some(letter) = browse::show(db, letter_id).await? else {
        bail!("there is no dead letter {letter_id}")
    };
    let mut value = serde_json::to_value(&letter)?;
    mask_payload(&mut value);
    if json {
        output::json(&value)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Value::Object(fields) = &value else { bail!("the letter cannot be shown") };
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        match value {
            Value::String(text) => field(name, text),
            Value::Array(_) | Value::Object(_) => field(name, &serde_json::to_string_pretty(value)?),
            Value::Null | Value::Bool(_) | Value::Number(_) => field(name, &value.to_string()),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Fields of the payload that say that they are secrets are shown to nobody.
fn mask_payload(letter: &mut Value) {
    if let Some(Value::String(payload)) = letter.get_mut("payload") {
        *payload = masked_text(payload);
    }
}

fn field(name: &str, text: &str) {
    let indented = text.replace('\n', "\n                       ");
    output::line(&format!("{name:22} {indented}"));
}

/// Which letters are meant. What is meant for many is never guessed: a filter that was forgotten would mean all of them.
async fn chosen(db: &Db, letter_ids: &[i64], filter: &Filter, many: &Many) -> anyhow::Result<Vec<i64>> {
    check_choice(letter_ids, filter, many)?;
    if many.selected || many.all {
        return Ok(browse::numbers(db, &filter.letters(Some(false), LIST_MAX_COUNT)).await?);
    }
    Ok(letter_ids.to_vec())
}

fn check_choice(letter_ids: &[i64], filter: &Filter, many: &Many) -> anyhow::Result<()> {
    match (letter_ids, many.selected, many.all) {
        ([], false, false) => {
            bail!("name letters by their numbers, or choose them with a filter and --selected")
        }
        ([], true, _) if filter.is_empty() => bail!(
            "--selected needs a filter (--failure, --fingerprint, --task, --workspace, --pool); every unresolved letter is --all"
        ),
        ([], _, true) if !filter.is_empty() => {
            bail!("--all means every unresolved letter: leave out the filter, or use --selected")
        }
        ([], _, _) => Ok(()),
        (_, false, false) if filter.is_empty() => Ok(()),
        (_, false, false) => bail!("give numbers, or a filter and --selected, not both"),
        (_, _, _) => bail!("give numbers, or --selected, or --all: one of them"),
    }
}

async fn replay_all(wanted: &Replay) -> anyhow::Result<ExitCode> {
    let config = Config::from_process(Needs::Both)?;
    let db = connect::database_of(&config)?;
    let ids = chosen(&db, &wanted.letter_ids, &wanted.filter, &wanted.many).await?;
    let edit = edit(wanted)?;
    if edit.is_some() && ids.len() != 1 {
        bail!("--payload and --event change one letter: name exactly one");
    }
    let by = actor(wanted.by.as_deref())?;
    let publisher = Publisher::start(&config.broker("switchyard-replay"), "replay")?;
    let mut failed = 0;
    for (done, letter_id) in ids.iter().enumerate() {
        let wish = ReplayWish {
            by: by.clone(),
            force: wanted.again,
            edit: edit.clone(),
            note: wanted.note.clone(),
            drawn: Drawn { event: Uuid::now_v7(), task: Uuid::now_v7() },
        };
        let publish = async |message| publisher.publish(message).await;
        let progress = format!("[{}/{}] letter {letter_id}", done + 1, ids.len());
        match operate::replay(&db, &config.namespace, *letter_id, &wish, VERDICT_WAIT, publish).await {
            Ok(replayed) => {
                let taken = match replayed.verdict {
                    ReplayVerdict::Open => ", not taken yet: no dispatcher has looked at it",
                    ReplayVerdict::Accepted { .. } | ReplayVerdict::Rejected { .. } => "",
                };
                let task = replayed.task_id.map(|task| format!(", task {task}")).unwrap_or_default();
                output::line(&format!("{progress}: replayed as event {}{task}{taken}", replayed.event_id));
            }
            Err(error) => {
                failed += 1;
                output::line(&format!("{progress}: {error}"));
            }
        }
    }
    publisher.close(CLOSE_WAIT).await;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn edit(wanted: &Replay) -> anyhow::Result<Option<Edit>> {
    Ok(match (&wanted.payload, &wanted.event) {
        (Some(payload), _) => {
            Some(Edit::Payload(serde_json::from_str(payload).context("--payload is not JSON")?))
        }
        (None, Some(event)) => Some(Edit::Event(serde_json::from_str(event).context("--event is not JSON")?)),
        (None, None) => None,
    })
}

async fn discard_all(db: &Db, wanted: &Discard) -> anyhow::Result<ExitCode> {
    let ids = chosen(db, &wanted.letter_ids, &wanted.filter, &wanted.many).await?;
    let by = actor(wanted.by.as_deref())?;
    let mut unknown = 0;
    for (letter_id, discarded) in discard(db, &ids, &by, wanted.note.as_deref()).await? {
        match discarded {
            Discarded::Done => output::line(&format!("letter {letter_id}: discarded")),
            Discarded::Already(how) => {
                output::line(&format!("letter {letter_id}: was resolved before ({how})"))
            }
            Discarded::Unknown => {
                unknown += 1;
                output::line(&format!("letter {letter_id}: there is none"));
            }
        }
    }
    Ok(if unknown == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Typed {
        #[command(flatten)]
        discard: Discard,
    }

    fn answer(typed: &str) -> Result<(), String> {
        let words = ["discard"].into_iter().chain(typed.split_whitespace());
        let Discard { letter_ids, filter, many, .. } =
            Typed::try_parse_from(words).map_err(|error| error.to_string())?.discard;
        check_choice(&letter_ids, &filter, &many).map_err(|error| error.to_string())
    }

    #[test]
    fn all_letters_are_meant_only_where_that_is_said() {
        for fine in ["1 2", "--selected --pool p", "--selected --failure f --task t", "--all"] {
            assert_eq!(answer(fine), Ok(()), "{fine}");
        }
        let no_filter = answer("--selected").unwrap_err();
        assert!(no_filter.contains("needs a filter") && no_filter.contains("--all"), "{no_filter}");
        for wrong in
            ["", "--pool p", "1 --pool p", "1 --selected", "1 --all", "--all --pool p", "--all --selected"]
        {
            assert!(answer(wrong).is_err(), "{wrong}");
        }
    }
}
