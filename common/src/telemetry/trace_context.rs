//! W3C trace context: <https://www.w3.org/TR/trace-context/>, the `traceparent` part.

use std::fmt;
use std::str::FromStr;

use rand::Rng;

use crate::broker::headers::{HeaderValue, Headers};

/// The message header that carries it.
pub const TRACEPARENT_HEADER: &str = "traceparent";
/// The flag that says "the caller may have recorded this".
const SAMPLED: u8 = 1;

/// The identity of a trace and of one span in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    flags: u8,
}

/// The text is not a `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C traceparent (expected 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, not all zero)")]
pub struct TraceParentError;

impl TraceParent {
    /// A new trace.
    #[must_use]
    pub fn generate(rng: &mut impl Rng) -> Self {
        let mut trace_id = [0; 16];
        while trace_id == [0; 16] {
            rng.fill_bytes(&mut trace_id);
        }
        Self { trace_id, span_id: [0; 8], flags: SAMPLED }.child(rng)
    }

    /// A new span in the same trace.
    #[must_use]
    pub fn child(self, rng: &mut impl Rng) -> Self {
        let mut span_id = [0; 8];
        while span_id == [0; 8] {
            rng.fill_bytes(&mut span_id);
        }
        Self { span_id, ..self }
    }

    /// The trace id, for exporters.
    #[must_use]
    pub const fn trace_id_bytes(&self) -> [u8; 16] {
        self.trace_id
    }

    /// The span id, for exporters.
    #[must_use]
    pub const fn span_id_bytes(&self) -> [u8; 8] {
        self.span_id
    }

    /// The flags: 1 when the caller records.
    #[must_use]
    pub const fn flags(&self) -> u8 {
        self.flags
    }

    /// The trace id in hexadecimal, for logs.
    #[must_use]
    pub fn trace_id(&self) -> String {
        hex::encode(self.trace_id)
    }

    /// Reads the text form. Versions other than 00 are read by the rules of 00, as the standard asks.
    ///
    /// # Errors
    /// When the text does not have the form, or an id is all zero.
    pub fn parse(text: &str) -> Result<Self, TraceParentError> {
        let mut parts = text.split('-');
        let mut field = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits);
            part.filter(|part| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
                .ok_or(TraceParentError)
        };
        let (version, trace_id, span_id, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
        let more = parts.next().is_some();
        if version == "ff" || (version == "00" && more) {
            return Err(TraceParentError);
        }
        let mut parsed = Self { trace_id: [0; 16], span_id: [0; 8], flags: 0 };
        let mut flag_bytes = [0; 1];
        hex::decode_to_slice(trace_id, &mut parsed.trace_id).map_err(|_| TraceParentError)?;
        hex::decode_to_slice(span_id, &mut parsed.span_id).map_err(|_| TraceParentError)?;
        hex::decode_to_slice(flags, &mut flag_bytes).map_err(|_| TraceParentError)?;
        parsed.flags = flag_bytes[0] & SAMPLED;
        if parsed.trace_id == [0; 16] || parsed.span_id == [0; 8] {
            return Err(TraceParentError);
        }
        Ok(parsed)
    }

    /// From message headers; `None` when there is none or it is malformed, as the standard asks.
    #[must_use]
    pub fn from_headers(headers: &Headers) -> Option<Self> {
        headers.get(TRACEPARENT_HEADER)?.as_text()?.parse().ok()
    }

    /// Into message headers.
    pub fn put_into(&self, headers: &mut Headers) {
        headers.insert(TRACEPARENT_HEADER.to_owned(), HeaderValue::Text(self.to_string()));
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", hex::encode(self.trace_id), hex::encode(self.span_id), self.flags)
    }
}

impl FromStr for TraceParent {
    type Err = TraceParentError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_standards_example_survives_parsing_and_writing() {
        let parsed = TraceParent::parse(EXAMPLE).unwrap();
        assert_eq!(parsed.to_string(), EXAMPLE);
        assert_eq!(parsed.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
    }

    #[test]
    fn malformed_text_is_refused() {
        let refused = [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        ];
        for text in refused {
            assert_eq!(TraceParent::parse(text), Err(TraceParentError), "{text}");
        }
    }

    #[test]
    fn a_later_version_is_read_by_the_rules_of_the_first() {
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-is-to-come";
        assert_eq!(TraceParent::parse(later).unwrap().to_string(), EXAMPLE);
    }

    #[test]
    fn a_child_stays_in_the_trace() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let parent = TraceParent::generate(&mut rng);
        let child = parent.child(&mut rng);
        assert_eq!(parent.trace_id(), child.trace_id());
        assert_ne!(parent, child);
        assert_eq!(TraceParent::parse(&child.to_string()), Ok(child));
    }

    #[test]
    fn it_travels_in_headers_and_nonsense_there_is_ignored() {
        let mut headers = Headers::new();
        TraceParent::parse(EXAMPLE).unwrap().put_into(&mut headers);
        assert_eq!(TraceParent::from_headers(&headers).unwrap().to_string(), EXAMPLE);
        headers.insert(TRACEPARENT_HEADER.to_owned(), HeaderValue::Int(1));
        assert_eq!(TraceParent::from_headers(&headers), None);
    }
}
