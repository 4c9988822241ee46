//! The event that repeats what a letter tells of: a new task that names the old one, or the rejected event with a new id. Pure.

use serde_json::{Map, Value, json};
use switchyard_common::contract::cloudevent::{CloudEvent, SPEC_VERSION};
use switchyard_common::contract::event::EventType;
use switchyard_common::task::Status;
use uuid::Uuid;

use super::kept::Identity;
use crate::store::letters::Letter;

/// Source of the events that repeat tasks.
pub const REPLAY_SOURCE: &str = "switchyard/replay";
/// The CloudEvents extension attribute that names the event that a replay repeats.
pub const REPLAY_OF_ATTRIBUTE: &str = "replayof";

/// Ids drawn for one replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drawn {
    /// For the event.
    pub event: Uuid,
    /// For the task.
    pub task: Uuid,
}

/// Other contents for a replay.
#[derive(Debug, Clone, PartialEq)]
pub enum Edit {
    /// The payload of the task.
    Payload(Value),
    /// The whole event; its id is replaced.
    Event(Value),
}

/// The task of a letter, as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct Original {
    /// Its status.
    pub status: String,
    /// Its kind.
    pub kind: String,
    /// Its workspace.
    pub workspace_id: String,
    /// What upstream sent.
    pub payload: Value,
    /// Its priority.
    pub priority: i16,
}

/// An event that is ready to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The event as JSON.
    pub body: String,
    /// Its source.
    pub source: String,
    /// Its id.
    pub event_id: String,
    /// Its type, which is also the routing key.
    pub event_type: String,
    /// The task that it will make.
    pub task_id: Option<String>,
}

impl Prepared {
    /// Reads a stored one.
    #[must_use]
    pub fn read(body: &str, task_id: Option<String>) -> Option<Self> {
        let event: Value = serde_json::from_str(body).ok()?;
        let text = |name: &str| Some(event.get(name)?.as_str()?.to_owned());
        Some(Self {
            source: text("source")?,
            event_id: text("id")?,
            event_type: text("type")?,
            body: body.to_owned(),
            task_id,
        })
    }

    fn of(event: &Map<String, Value>, task_id: Option<String>) -> Result<Self, ReplayError> {
        let body = Value::Object(event.clone()).to_string();
        Self::read(&body, task_id).ok_or(ReplayError::NotAnEvent)
    }

    /// The key that its letter would have, were it rejected.
    #[must_use]
    pub fn letter_key(&self) -> String {
        Identity::Event { source: self.source.clone(), id: self.event_id.clone() }.key()
    }

    /// The same again, unless it is wished with other contents.
    pub fn again(self, edit: Option<&Edit>) -> Result<Self, ReplayError> {
        let stored: Value = serde_json::from_str(&self.body).unwrap_or_default();
        let same = match edit {
            None => true,
            Some(Edit::Payload(payload)) => stored.pointer("/data/payload") == Some(payload),
            Some(Edit::Event(event)) => stored.get("data") == event.get("data"),
        };
        if same { Ok(self) } else { Err(ReplayError::PreparedOtherwise { event_id: self.event_id }) }
    }
}

/// Why a letter is not replayed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// There is no such letter.
    #[error("there is no dead letter {0}")]
    UnknownLetter(i64),
    /// Once per letter.
    #[error("the letter is resolved already ({resolution}{}): repeat with --again to replay it all the same", new_task(.replay_task_id.as_deref()))]
    Resolved {
        /// How.
        resolution: String,
        /// The task that an earlier replay made.
        replay_task_id: Option<String>,
    },
    /// An earlier replay may be on its way.
    #[error(
        "a replay with other contents was begun (event {event_id}) and may be on its way: repeat it as it was, or use --again"
    )]
    PreparedOtherwise {
        /// Its event.
        event_id: String,
    },
    /// Only terminal tasks are replayed.
    #[error("the task is {status}: only one that has succeeded, failed or been cancelled can be replayed")]
    NotTerminal {
        /// Its status.
        status: String,
    },
    /// The task was pruned.
    #[error("the task is gone (pruned): submit it anew")]
    TaskGone,
    /// A task is edited by its payload, an event as a whole.
    #[error("{0}")]
    WrongEdit(&'static str),
    /// The stored bytes are not an event.
    #[error(
        "what is stored is not an event that could be published again (no JSON object with source and type, or cut): give a whole event with --event"
    )]
    NotAnEvent,
    /// Not an event and not a task.
    #[error("only letters of tasks and of events can be replayed; this one is about another message")]
    NotReplayable,
}

fn new_task(task_id: Option<&str>) -> String {
    task_id.map(|id| format!(", as task {id}")).unwrap_or_default()
}

/// Builds the event of a replay.
pub fn build(
    letter: &Letter,
    original: Option<&Original>,
    edit: Option<&Edit>,
    drawn: &Drawn,
) -> Result<Prepared, ReplayError> {
    match letter.origin.as_str() {
        "attempt" | "task" => of_task(letter, original, edit, drawn),
        "event" => of_event(letter, edit, drawn),
        // An event without readable ids, or any other message: only a whole new event can take its place.
        _ => match edit {
            Some(Edit::Event(event))
                if letter.queue.as_deref().is_some_and(|queue| queue.ends_with(".events")) =>
            {
                renamed(event.clone(), letter, drawn)
            }
            Some(_) | None if letter.queue.as_deref().is_some_and(|queue| queue.ends_with(".events")) => {
                Err(ReplayError::NotAnEvent)
            }
            Some(_) | None => Err(ReplayError::NotReplayable),
        },
    }
}

/// A new task of the same kind, workspace and payload. It inherits no approval and no times: `not_before`, `deadline`,
/// `auto_approve` and `idempotency_key` are left out.
fn of_task(
    letter: &Letter,
    original: Option<&Original>,
    edit: Option<&Edit>,
    drawn: &Drawn,
) -> Result<Prepared, ReplayError> {
    let original = original.ok_or(ReplayError::TaskGone)?;
    if !Status::parse(&original.status).is_some_and(Status::is_terminal) {
        return Err(ReplayError::NotTerminal { status: original.status.clone() });
    }
    let payload = match edit {
        None => original.payload.clone(),
        Some(Edit::Payload(payload)) => payload.clone(),
        Some(Edit::Event(_)) => {
            return Err(ReplayError::WrongEdit(
                "the letter is about a task: give its new payload with --payload",
            ));
        }
    };
    let task_id = drawn.task.to_string();
    let data = json!({
        "task_id": task_id,
        "workspace_id": original.workspace_id,
        "kind": original.kind,
        "payload": payload,
        "priority": original.priority,
        "replay_of": letter.task_id,
    });
    let event_id = format!("replay-{}", drawn.event);
    let mut event = CloudEvent::new(event_id, REPLAY_SOURCE, EventType::TaskSubmitted.as_str(), data);
    event.traceparent.clone_from(&letter.traceparent);
    match serde_json::to_value(event) {
        Ok(Value::Object(event)) => Prepared::of(&event, Some(task_id)),
        Ok(_) | Err(_) => Err(ReplayError::NotAnEvent),
    }
}

/// The stored event with a new id.
fn of_event(letter: &Letter, edit: Option<&Edit>, drawn: &Drawn) -> Result<Prepared, ReplayError> {
    let event = match edit {
        Some(Edit::Event(event)) => event.clone(),
        Some(Edit::Payload(_)) => {
            return Err(ReplayError::WrongEdit(
                "the letter is about an event: give the whole new event with --event",
            ));
        }
        None => stored_event(letter).ok_or(ReplayError::NotAnEvent)?,
    };
    renamed(event, letter, drawn)
}

fn renamed(event: Value, letter: &Letter, drawn: &Drawn) -> Result<Prepared, ReplayError> {
    let Value::Object(mut event) = event else { return Err(ReplayError::NotAnEvent) };
    event.insert("id".into(), json!(format!("replay-{}", drawn.event)));
    if let Some(id) = &letter.event_id {
        event.insert(REPLAY_OF_ATTRIBUTE.into(), json!(id));
    }
    Prepared::of(&event, None)
}

/// The event as it was, put into structured mode where its attributes came in the headers.
fn stored_event(letter: &Letter) -> Option<Value> {
    let payload = letter.payload.as_ref()?;
    let whole = i64::try_from(payload.len()).ok() == letter.payload_size;
    let body: Value = serde_json::from_str(payload).ok().filter(|_| whole)?;
    let attributes = binary_attributes(letter);
    if attributes.is_empty() {
        return Some(body);
    }
    let mut event = attributes;
    event.entry("specversion").or_insert_with(|| json!(SPEC_VERSION));
    event.insert("data".into(), body);
    Some(Value::Object(event))
}

fn binary_attributes(letter: &Letter) -> Map<String, Value> {
    let headers = letter.headers.as_ref().and_then(Value::as_object);
    let attribute = |(name, value): (&String, &Value)| {
        let name = name.strip_prefix("cloudEvents:").or_else(|| name.strip_prefix("cloudEvents_"))?;
        Some((name.to_owned(), value.clone()))
    };
    headers.into_iter().flatten().filter_map(attribute).collect()
}
