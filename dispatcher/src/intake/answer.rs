//! Answers to publishers that set `reply_to`: sent after the commit, at most once, never in the way of anything else.

use switchyard_common::broker::{Message, Outgoing, Properties};
use switchyard_common::contract::answer::Answer;
use switchyard_common::telemetry::TraceParent;

/// Start of the queue name that RabbitMQ gives to direct reply-to.
const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to.";

/// The answer as a message for the queue that `request` names; none when it names none, or one that it may not.
#[must_use]
pub fn outgoing(request: &Message, answer: &Answer, allowed_prefix: Option<&str>) -> Option<Outgoing> {
    let reply_to = request.properties.reply_to.as_deref()?;
    if !may_reply_to(reply_to, allowed_prefix) {
        tracing::warn!(
            "an event's reply_to is neither direct reply-to nor in the configured prefix; it gets no answer"
        );
        return None;
    }
    let mut properties = Properties::persistent("application/json");
    properties.persistent = false;
    properties.correlation_id =
        request.properties.correlation_id.clone().or_else(|| request.properties.message_id.clone());
    if let Some(trace) = TraceParent::from_headers(&request.properties.headers) {
        trace.put_into(&mut properties.headers);
    }
    let body = serde_json::to_vec(answer).ok()?;
    Outgoing::new("", reply_to, properties, body, false).ok()
}

/// Any queue could be named there, even an agent's own (protocol H): only direct reply-to, or a prefix that an operator chose.
#[must_use]
pub fn may_reply_to(queue: &str, allowed_prefix: Option<&str>) -> bool {
    queue.starts_with(DIRECT_REPLY_TO)
        || allowed_prefix.is_some_and(|prefix| !prefix.is_empty() && queue.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_goes_only_to_direct_reply_to_or_a_configured_prefix() {
        assert!(may_reply_to("amq.rabbitmq.reply-to.g1h2", None));
        assert!(!may_reply_to("switchyard.agent.default.worker-0", None));
        assert!(may_reply_to("replies.billing", Some("replies.")));
        assert!(!may_reply_to("switchyard.agent.default.worker-0", Some("replies.")));
        assert!(!may_reply_to("anything", Some("")));
    }
}
