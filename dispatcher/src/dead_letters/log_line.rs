//! The one ERROR line of a dead letter: everything that an operator needs to understand it (design 9). The field names are stable.

use serde_json::Value;
use switchyard_common::failure::bound;

use super::named_secrets::masked_text;
use crate::store::letters::Letter;

/// Longest payload in the line, in characters; the letter keeps more.
pub const LINE_PAYLOAD_MAX_CHARS: usize = 4_000;
/// Longest list (log tail, timeline) in the line, in bytes of JSON: the newest entries are kept.
pub const LINE_LIST_MAX_BYTES: usize = 16_000;
/// Most bytes of a payload that is not text, shown in hexadecimal.
pub const LINE_PAYLOAD_MAX_BYTES: usize = 256;

/// Writes the line and counts the letter.
pub fn write(letter: &Letter) {
    let kind = letter.failure_kind.clone().unwrap_or_else(|| "unknown".to_owned());
    metrics::counter!("switchyard_dead_letters_total", "kind" => kind.clone()).increment(1);
    let tail: Vec<Value> = letter.log_tail().into_iter().map(|line| Value::String(line.to_owned())).collect();
    let timeline = letter.timeline.as_ref().and_then(Value::as_array).and_then(|moments| list(moments));
    // Field names are a promise to whoever searches the logs. `tracing` takes 32 fields at most.
    tracing::error!(
        letter_id = letter.letter_id,
        origin = letter.origin,
        task_id = letter.task_id,
        workspace_id = letter.workspace_id,
        pool_id = letter.pool_id,
        kind = letter.kind,
        step = letter.step,
        attempt = letter.attempt,
        agent_id = letter.agent_id,
        pod = letter.pod,
        node = letter.node,
        session = letter.session.map(|session| session.to_string()),
        event_source = letter.event_source,
        event_id = letter.event_id,
        queue = letter.queue,
        exchange = letter.exchange,
        routing_key = letter.routing_key,
        message_id = letter.message_id,
        x_death = letter.x_death.as_ref().map(ToString::to_string),
        traceparent = letter.traceparent,
        failure_kind = kind,
        failure_message = letter.failure_message,
        location = letter.failure_text("location"),
        backtrace = letter.failure_text("backtrace"),
        exit_code = letter.failure_number("exit_code"),
        signal = letter.failure_number("signal"),
        log_tail = list(&tail),
        timeline,
        payload = payload(letter),
        fingerprint = letter.fingerprint,
        remark = letter.remark,
        "dead letter"
    );
}

/// The newest entries that fit, as JSON.
fn list(entries: &[Value]) -> Option<String> {
    let mut kept: Vec<String> = Vec::new();
    let mut bytes = 0;
    for entry in entries.iter().rev() {
        let text = entry.to_string();
        bytes += text.len() + 1;
        if bytes > LINE_LIST_MAX_BYTES && !kept.is_empty() {
            kept.push(format!("\"{} earlier ones left out\"", entries.len() - kept.len()));
            break;
        }
        kept.push(text);
    }
    kept.reverse();
    (!kept.is_empty()).then(|| format!("[{}]", kept.join(",")))
}

fn payload(letter: &Letter) -> Option<String> {
    if let Some(text) = &letter.payload {
        return Some(bound(&masked_text(text), LINE_PAYLOAD_MAX_CHARS));
    }
    let bytes = letter.payload_bytes.as_ref()?;
    let size = letter.payload_size.unwrap_or_default();
    let shown = &bytes[..bytes.len().min(LINE_PAYLOAD_MAX_BYTES)];
    Some(format!("{size} bytes that are not text, beginning with {}", hex::encode(shown)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_keeps_its_newest_entries_and_says_what_it_left_out() {
        let entries: Vec<Value> = (0..20_000).map(|n| json!(n)).collect();
        let text = list(&entries).unwrap();
        assert!(text.len() < LINE_LIST_MAX_BYTES + 100);
        let read: Vec<Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(read.last(), Some(&json!(19_999)));
        assert!(read[0].as_str().unwrap().ends_with("earlier ones left out"));
        assert_eq!(list(&[]), None);
        assert_eq!(list(&[json!("a"), json!("b")]).unwrap(), r#"["a","b"]"#);
    }
}
