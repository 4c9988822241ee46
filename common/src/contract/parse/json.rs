//! JSON under the rules of the store: UTF-8, bounded depth, no NUL in any text, no key twice, no number beyond a double.
//!
//! Whole numbers outside 64 bits and fractions are read as doubles, as RFC 8259 advises every reader to expect.

use std::cell::RefCell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::problem::{EventProblem, excerpt};
use crate::contract::ids::Digest;
use crate::contract::limits::EVENT_DEPTH_MAX_LEVELS;

/// How serde_json's message begins for a number that no double holds; a test holds it.
const NUMBER_OUT_OF_RANGE: &str = "number out of range";

/// Reads one JSON document.
pub(super) fn parse(body: &[u8]) -> Result<Value, EventProblem> {
    let text =
        std::str::from_utf8(body).map_err(|error| EventProblem::NotUtf8 { at: error.valid_up_to() })?;
    let scan = Scan::of(text);
    // Before the parser, so that it never recurses into hostile depth.
    if scan.deepest > EVENT_DEPTH_MAX_LEVELS {
        return Err(EventProblem::TooDeep);
    }
    if text.contains('\0') {
        return Err(EventProblem::Nul);
    }
    let found = RefCell::new(None);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Strict { found: &found }.deserialize(&mut deserializer);
    value.and_then(|value| deserializer.end().map(|()| value)).map_err(|error| {
        if let Some(problem) = found.take() {
            return problem;
        }
        if scan.lone_surrogate {
            return EventProblem::LoneSurrogate;
        }
        if error.to_string().starts_with(NUMBER_OUT_OF_RANGE) {
            return EventProblem::NumberOutOfRange;
        }
        EventProblem::NotJson { line: error.line(), column: error.column() }
    })
}

/// The data of an event in one canonical form: sorted keys, no blanks.
pub(super) struct Canonical {
    text: String,
    /// What jsonb adds, in bytes: it writes numbers out, `1e300` with three hundred zeros.
    written_out_bytes: usize,
}

impl Canonical {
    pub(super) fn of(data: &Value) -> Self {
        let mut canonical = Self { text: String::new(), written_out_bytes: 0 };
        canonical.write(data);
        canonical
    }

    /// Size of the data on its way back from the database, in bytes.
    pub(super) fn stored_bytes(&self) -> usize {
        self.text.len().saturating_add(self.written_out_bytes)
    }

    /// SHA-256 over a type and the data.
    pub(super) fn hash(&self, event_type: &str) -> Digest {
        Digest::of(format!("{event_type}\n{}", self.text).as_bytes())
    }

    /// Sorts keys itself: whether serde_json's maps do depends on a feature that any dependency could switch.
    fn write(&mut self, value: &Value) {
        match value {
            Value::Null | Value::Bool(_) | Value::String(_) => self.text.push_str(&value.to_string()),
            Value::Number(number) => {
                let text = number.to_string();
                let exponent = text.split_once('e').and_then(|(_, digits)| digits.parse::<isize>().ok());
                self.written_out_bytes += exponent.map_or(0, isize::unsigned_abs);
                self.text.push_str(&text);
            }
            Value::Array(items) => {
                self.text.push('[');
                for (at, item) in items.iter().enumerate() {
                    self.text.push_str(if at == 0 { "" } else { "," });
                    self.write(item);
                }
                self.text.push(']');
            }
            Value::Object(object) => {
                let mut entries: Vec<_> = object.iter().collect();
                entries.sort_unstable_by_key(|(key, _)| *key);
                self.text.push('{');
                for (at, (key, item)) in entries.into_iter().enumerate() {
                    self.text.push_str(if at == 0 { "" } else { "," });
                    self.text.push_str(&Value::from(key.as_str()).to_string());
                    self.text.push(':');
                    self.write(item);
                }
                self.text.push('}');
            }
        }
    }
}

/// What one pass over the text shows before it is parsed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Scan {
    /// The deepest nesting of brackets outside texts, in levels.
    deepest: usize,
    /// A `\uD800` to `\uDFFF` escape in a text without its other half.
    lone_surrogate: bool,
}

impl Scan {
    fn of(text: &str) -> Self {
        let bytes = text.as_bytes();
        let (mut scan, mut depth, mut at) = (Self::default(), 0_usize, 0);
        while let Some(byte) = bytes.get(at) {
            at += 1;
            match byte {
                b'"' => at = scan.skip_text(bytes, at),
                b'[' | b'{' => {
                    depth += 1;
                    scan.deepest = scan.deepest.max(depth);
                }
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        scan
    }

    /// Goes to the end of a text whose content begins at `at`.
    fn skip_text(&mut self, bytes: &[u8], mut at: usize) -> usize {
        while let Some(byte) = bytes.get(at) {
            at += 1;
            match byte {
                b'"' => break,
                b'\\' => match escaped_unit(bytes, at) {
                    Some(0xD800..=0xDBFF) => {
                        at += 5;
                        let low = bytes.get(at) == Some(&b'\\')
                            && matches!(escaped_unit(bytes, at + 1), Some(0xDC00..=0xDFFF));
                        self.lone_surrogate |= !low;
                        at += if low { 6 } else { 0 };
                    }
                    Some(0xDC00..=0xDFFF) => {
                        self.lone_surrogate = true;
                        at += 5;
                    }
                    Some(_) => at += 5,
                    None => at += 1,
                },
                _ => {}
            }
        }
        at
    }
}

/// The number of a `uXXXX` at `at`, just after a backslash.
fn escaped_unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 5)?.strip_prefix(b"u")?;
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Builds a value and notes why it refuses one: serde's errors carry texts only.
#[derive(Clone, Copy)]
struct Strict<'f> {
    found: &'f RefCell<Option<EventProblem>>,
}

impl Strict<'_> {
    fn refuse<E: de::Error>(self, problem: EventProblem) -> E {
        let error = E::custom(&problem);
        self.found.replace(Some(problem));
        error
    }

    fn text<E: de::Error>(self, text: String) -> Result<String, E> {
        if text.contains('\0') { Err(self.refuse(EventProblem::Nul)) } else { Ok(text) }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value).map(Value::Number);
        number.ok_or_else(|| self.refuse(EventProblem::NumberOutOfRange))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        self.text(value.to_owned()).map(Value::String)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let key = self.text(key)?;
            if object.contains_key(&key) {
                return Err(self.refuse(EventProblem::DuplicateKey { key: excerpt(&key) }));
            }
            let value = access.next_value_seed(self)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}
