//! Message headers as plain values, and the two that the broker writes: `x-death` and `x-delivery-count`.
//!
//! Headers come from anybody who may publish. Reading is bounded, and nothing here trusts a value to have the type
//! or the size that RabbitMQ would have given it. Whether `x-death` may be believed at all depends on the queue it
//! was read from (it can be forged on RabbitMQ 3.x).

use std::collections::BTreeMap;

use lapin::types::{AMQPValue, FieldArray, FieldTable, LongString, ShortString};

use super::limits::{
    DEATHS_READ_MAX_COUNT, HEADER_TEXT_READ_MAX_BYTES, HEADERS_READ_MAX_COUNT, HEADERS_READ_MAX_DEPTH,
};
use crate::text::bounded;

/// Headers by name.
pub type Headers = BTreeMap<String, HeaderValue>;

/// One header value. Whole numbers of every AMQP width become [`Int`](Self::Int).
#[derive(Clone, Debug, PartialEq)]
pub enum HeaderValue {
    /// No value.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A floating-point number.
    Double(f64),
    /// Text.
    Text(String),
    /// Bytes that are not valid UTF-8 text.
    Bytes(Vec<u8>),
    /// Seconds since 1970, UTC.
    Timestamp(u64),
    /// A list.
    List(Vec<HeaderValue>),
    /// A table.
    Table(Headers),
}

impl From<&str> for HeaderValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for HeaderValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for HeaderValue {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl HeaderValue {
    /// The text, when it is one.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The whole number, when it is one.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        if let Self::Int(number) = self { Some(*number) } else { None }
    }

    /// About how many bytes the value takes in a frame.
    pub(super) fn encoded_bytes(&self) -> usize {
        const SCALAR_BYTES: usize = 9;
        const LENGTH_BYTES: usize = 5;
        match self {
            Self::Null | Self::Bool(_) | Self::Int(_) | Self::Double(_) | Self::Timestamp(_) => SCALAR_BYTES,
            Self::Text(text) => LENGTH_BYTES + text.len(),
            Self::Bytes(bytes) => LENGTH_BYTES + bytes.len(),
            Self::List(items) => LENGTH_BYTES + items.iter().map(Self::encoded_bytes).sum::<usize>(),
            Self::Table(table) => LENGTH_BYTES + encoded_bytes(table),
        }
    }
}

/// About how many bytes the headers take in a frame.
pub(super) fn encoded_bytes(headers: &Headers) -> usize {
    headers.iter().map(|(name, value)| 1 + name.len() + value.encoded_bytes()).sum()
}

/// True when every header name fits into an AMQP short string, nested ones included.
pub(super) fn names_fit(headers: &Headers) -> bool {
    headers.iter().all(|(name, value)| ShortString::try_new(name.as_str()).is_ok() && value_names_fit(value))
}

fn value_names_fit(value: &HeaderValue) -> bool {
    match value {
        HeaderValue::Table(table) => names_fit(table),
        HeaderValue::List(items) => items.iter().all(value_names_fit),
        HeaderValue::Null
        | HeaderValue::Bool(_)
        | HeaderValue::Int(_)
        | HeaderValue::Double(_)
        | HeaderValue::Text(_)
        | HeaderValue::Bytes(_)
        | HeaderValue::Timestamp(_) => true,
    }
}

/// To the client library's form. Names that do not fit are left out; [`names_fit`] has been asked before.
pub(super) fn to_table(headers: &Headers) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        if let Ok(name) = ShortString::try_new(name.as_str()) {
            table.insert(name, to_value(value));
        }
    }
    table
}

fn to_value(value: &HeaderValue) -> AMQPValue {
    match value {
        HeaderValue::Null => AMQPValue::Void,
        HeaderValue::Bool(flag) => AMQPValue::Boolean(*flag),
        HeaderValue::Int(number) => AMQPValue::LongLongInt(*number),
        HeaderValue::Double(number) => AMQPValue::Double(*number),
        HeaderValue::Text(text) => AMQPValue::LongString(LongString::from(text.as_str())),
        HeaderValue::Bytes(bytes) => AMQPValue::LongString(LongString::from(bytes.as_slice())),
        HeaderValue::Timestamp(seconds) => AMQPValue::Timestamp(*seconds),
        HeaderValue::List(items) => {
            AMQPValue::FieldArray(FieldArray::from(items.iter().map(to_value).collect::<Vec<_>>()))
        }
        HeaderValue::Table(table) => AMQPValue::FieldTable(to_table(table)),
    }
}

/// From the client library's form. The flag is true when something was left out because of the limits.
pub(super) fn from_table(table: &FieldTable) -> (Headers, bool) {
    let mut reader = Reader { left: HEADERS_READ_MAX_COUNT, truncated: false };
    let headers = reader.table(table, HEADERS_READ_MAX_DEPTH);
    (headers, reader.truncated)
}

/// Reads values until its budget is spent.
struct Reader {
    left: usize,
    truncated: bool,
}

impl Reader {
    fn table(&mut self, table: &FieldTable, depth: usize) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in table {
            let Some(value) = self.value(value, depth) else { break };
            headers.insert(name.as_str().to_owned(), value);
        }
        headers
    }

    fn value(&mut self, value: &AMQPValue, depth: usize) -> Option<HeaderValue> {
        if self.left == 0 || depth == 0 {
            self.truncated = true;
            return None;
        }
        self.left -= 1;
        Some(match value {
            AMQPValue::Void => HeaderValue::Null,
            AMQPValue::Boolean(flag) => HeaderValue::Bool(*flag),
            AMQPValue::ShortShortInt(n) => HeaderValue::Int(i64::from(*n)),
            AMQPValue::ShortShortUInt(n) => HeaderValue::Int(i64::from(*n)),
            AMQPValue::ShortInt(n) => HeaderValue::Int(i64::from(*n)),
            AMQPValue::ShortUInt(n) => HeaderValue::Int(i64::from(*n)),
            AMQPValue::LongInt(n) => HeaderValue::Int(i64::from(*n)),
            AMQPValue::LongUInt(n) => HeaderValue::Int(i64::from(*n)),
            AMQPValue::LongLongInt(n) => HeaderValue::Int(*n),
            AMQPValue::Float(n) => HeaderValue::Double(f64::from(*n)),
            AMQPValue::Double(n) => HeaderValue::Double(*n),
            AMQPValue::DecimalValue(d) => {
                HeaderValue::Double(f64::from(d.value) / 10_f64.powi(i32::from(d.scale)))
            }
            AMQPValue::ShortString(text) => self.bytes(text.as_str().as_bytes()),
            AMQPValue::LongString(text) => self.bytes(text.as_bytes()),
            AMQPValue::ByteArray(bytes) => self.bytes(bytes.as_slice()),
            AMQPValue::Timestamp(seconds) => HeaderValue::Timestamp(*seconds),
            AMQPValue::FieldArray(items) => HeaderValue::List(
                items.as_slice().iter().map_while(|item| self.value(item, depth - 1)).collect(),
            ),
            AMQPValue::FieldTable(table) => HeaderValue::Table(self.table(table, depth - 1)),
        })
    }

    fn bytes(&mut self, bytes: &[u8]) -> HeaderValue {
        self.truncated |= bytes.len() > HEADER_TEXT_READ_MAX_BYTES;
        match std::str::from_utf8(bytes) {
            Ok(text) => HeaderValue::Text(bounded(text, HEADER_TEXT_READ_MAX_BYTES)),
            Err(_) => HeaderValue::Bytes(bytes[..bytes.len().min(HEADER_TEXT_READ_MAX_BYTES)].to_vec()),
        }
    }
}

/// One entry of `x-death`: that a message left a queue for a dead-letter exchange, how often and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// The queue it left.
    pub queue: String,
    /// `rejected`, `expired`, `maxlen` or `delivery_limit`.
    pub reason: String,
    /// The exchange it had been published to.
    pub exchange: String,
    /// The routing keys it had been published with.
    pub routing_keys: Vec<String>,
    /// How often it left this queue for this reason.
    pub count: u64,
    /// When it first did, in seconds since 1970.
    pub time_seconds: Option<u64>,
}

/// Reads `x-death`, newest entry first. What does not look like RabbitMQ's own entries is left out.
#[must_use]
pub fn deaths(headers: &Headers) -> Vec<Death> {
    let Some(HeaderValue::List(entries)) = headers.get("x-death") else { return Vec::new() };
    entries.iter().take(DEATHS_READ_MAX_COUNT).filter_map(death).collect()
}

fn death(entry: &HeaderValue) -> Option<Death> {
    let HeaderValue::Table(entry) = entry else { return None };
    let text = |name: &str| entry.get(name).and_then(HeaderValue::as_text).map(ToOwned::to_owned);
    let routing_keys = match entry.get("routing-keys") {
        Some(HeaderValue::List(keys)) => {
            keys.iter().filter_map(|key| key.as_text().map(ToOwned::to_owned)).collect()
        }
        Some(_) | None => Vec::new(),
    };
    let time_seconds = match entry.get("time") {
        Some(HeaderValue::Timestamp(seconds)) => Some(*seconds),
        Some(_) | None => None,
    };
    Some(Death {
        queue: text("queue")?,
        reason: text("reason")?,
        exchange: text("exchange").unwrap_or_default(),
        routing_keys,
        count: count(entry.get("count")),
        time_seconds,
    })
}

/// The header in which a quorum queue counts redeliveries.
pub const DELIVERY_COUNT: &str = "x-delivery-count";

/// How often a quorum queue has delivered this message before; 0 when the header is absent or nonsense.
#[must_use]
pub fn delivery_count(headers: &Headers) -> u64 {
    count(headers.get(DELIVERY_COUNT))
}

fn count(value: Option<&HeaderValue>) -> u64 {
    value.and_then(HeaderValue::as_int).and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: impl IntoIterator<Item = (&'static str, HeaderValue)>) -> Headers {
        entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    #[test]
    fn headers_survive_the_way_to_the_library_and_back() {
        let headers = table([
            ("null", HeaderValue::Null),
            ("flag", HeaderValue::Bool(true)),
            ("number", HeaderValue::Int(-7)),
            ("real", HeaderValue::Double(1.5)),
            ("text", "grüße".into()),
            ("bytes", HeaderValue::Bytes(vec![0xff, 0xfe])),
            ("at", HeaderValue::Timestamp(1_700_000_000)),
            ("list", HeaderValue::List(vec![HeaderValue::Int(1), "two".into()])),
            ("table", HeaderValue::Table(table([("inner", HeaderValue::Int(3))]))),
        ]);
        assert_eq!(from_table(&to_table(&headers)), (headers, false));
    }

    #[test]
    fn reading_stops_at_the_limits_and_says_so() {
        let many: Headers =
            (0..=HEADERS_READ_MAX_COUNT).map(|n| (format!("h{n}"), HeaderValue::Int(1))).collect();
        let (read, truncated) = from_table(&to_table(&many));
        assert_eq!((read.len(), truncated), (HEADERS_READ_MAX_COUNT, true));

        let mut deep = HeaderValue::Int(1);
        for _ in 0..2 * HEADERS_READ_MAX_DEPTH {
            deep = HeaderValue::List(vec![deep]);
        }
        let (_, truncated) = from_table(&to_table(&table([("deep", deep)])));
        assert!(truncated);

        let long = table([("text", "x".repeat(HEADER_TEXT_READ_MAX_BYTES + 1).into())]);
        let (read, truncated) = from_table(&to_table(&long));
        assert!(truncated && read["text"].as_text().is_some_and(|t| t.len() <= HEADER_TEXT_READ_MAX_BYTES));
        let exact = table([("text", "x".repeat(HEADER_TEXT_READ_MAX_BYTES).into())]);
        assert_eq!(from_table(&to_table(&exact)), (exact, false));
    }

    #[test]
    fn x_death_is_read_and_nonsense_in_it_is_left_out() {
        let entry = table([
            ("queue", "switchyard.agent.p.a".into()),
            ("reason", "rejected".into()),
            ("exchange", "switchyard.reports".into()),
            ("routing-keys", HeaderValue::List(vec!["p.a".into()])),
            ("count", HeaderValue::Int(2)),
            ("time", HeaderValue::Timestamp(1_700_000_000)),
        ]);
        let forged = table([("count", HeaderValue::Int(-5))]);
        let list =
            vec![HeaderValue::Table(entry), HeaderValue::Table(forged), HeaderValue::Int(4), "text".into()];
        let read = deaths(&table([("x-death", HeaderValue::List(list))]));
        assert_eq!(read.len(), 1);
        assert_eq!((read[0].queue.as_str(), read[0].count), ("switchyard.agent.p.a", 2));
        assert_eq!(read[0].routing_keys, ["p.a"]);
        assert_eq!(deaths(&table([("x-death", "not a list".into())])), []);
    }

    #[test]
    fn the_number_of_deaths_read_is_bounded() {
        let entry = HeaderValue::Table(table([("queue", "q".into()), ("reason", "expired".into())]));
        let list = HeaderValue::List(vec![entry; DEATHS_READ_MAX_COUNT + 1]);
        assert_eq!(deaths(&table([("x-death", list)])).len(), DEATHS_READ_MAX_COUNT);
    }

    #[test]
    fn the_delivery_count_is_zero_when_absent_or_nonsense() {
        assert_eq!(delivery_count(&table([("x-delivery-count", HeaderValue::Int(4))])), 4);
        assert_eq!(delivery_count(&table([("x-delivery-count", HeaderValue::Int(-4))])), 0);
        assert_eq!(delivery_count(&table([("x-delivery-count", "4".into())])), 0);
        assert_eq!(delivery_count(&Headers::new()), 0);
    }
}
