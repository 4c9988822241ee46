//! Secrets are taken out of what a letter keeps: lease tokens in bodies, credentials in headers.

use serde_json::{Map, Value, json};
use switchyard_common::broker::headers::{HeaderValue, Headers};
use switchyard_common::failure::bound;

/// What stands in place of a secret.
const MASK: &str = "***";
/// The field that carries an attempt's secret in assignments, claims and controls.
const LEASE_FIELD: &[u8] = b"lease";
/// Bytes between the field's name and its value that are skipped: quotes, backslashes, a colon, blanks.
const LEASE_GAP_MAX_BYTES: usize = 16;
/// Longest header text that is kept, in characters.
pub(super) const HEADER_TEXT_MAX_CHARS: usize = 1_024;
/// Longest bytes of a binary header that are kept, in bytes.
pub(super) const HEADER_BYTES_MAX_BYTES: usize = 64;
/// Largest JSON of all headers that is kept, in bytes.
pub(super) const HEADERS_MAX_BYTES: usize = 16 * 1024;

/// `body` with the value after every `lease` masked. It works on any bytes: a body that is not JSON may hold the secret too.
pub(super) fn without_leases(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = find(rest, LEASE_FIELD) {
        let after = at + LEASE_FIELD.len();
        out.extend_from_slice(&rest[..after]);
        rest = &rest[after..];
        let is_gap = |c: &&u8| matches!(c, b'"' | b'\\' | b':' | b' ' | b'\t' | b'\r' | b'\n');
        let gap = rest.iter().take(LEASE_GAP_MAX_BYTES).take_while(is_gap).count();
        let value = rest[gap..].iter().take_while(|c| c.is_ascii_hexdigit() || **c == b'-').count();
        if gap > 0 && value > 0 {
            out.extend_from_slice(&rest[..gap]);
            out.extend_from_slice(MASK.as_bytes());
            rest = &rest[gap + value..];
        }
    }
    out.extend_from_slice(rest);
    out
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window.eq_ignore_ascii_case(needle))
}

/// Headers as JSON that PostgreSQL takes, bounded, without `x-death` (kept apart) and without credentials.
pub(super) fn headers(headers: &Headers) -> Option<Value> {
    let kept: Map<String, Value> = headers
        .iter()
        .filter(|(name, _)| name.as_str() != "x-death")
        .map(|(name, value)| {
            (bound(name, HEADER_TEXT_MAX_CHARS), if is_secret(name) { json!(MASK) } else { plain(value) })
        })
        .collect();
    bounded(Value::Object(kept))
}

/// Any header value as bounded JSON; none when there is nothing in it.
pub(super) fn bounded(value: Value) -> Option<Value> {
    if value.as_object().is_some_and(Map::is_empty) {
        return None;
    }
    let size = value.to_string().len();
    Some(if size > HEADERS_MAX_BYTES {
        json!({ "left_out": format!("{size} bytes of JSON") })
    } else {
        value
    })
}

pub(super) fn plain(value: &HeaderValue) -> Value {
    match value {
        HeaderValue::Null => Value::Null,
        HeaderValue::Bool(flag) => json!(flag),
        HeaderValue::Int(number) => json!(number),
        HeaderValue::Double(number) => json!(number),
        HeaderValue::Text(text) => json!(bound(text, HEADER_TEXT_MAX_CHARS)),
        HeaderValue::Bytes(bytes) => {
            json!({ "bytes": hex::encode(&bytes[..bytes.len().min(HEADER_BYTES_MAX_BYTES)]), "size": bytes.len() })
        }
        HeaderValue::Timestamp(seconds) => json!(seconds),
        HeaderValue::List(items) => Value::Array(items.iter().map(plain).collect()),
        HeaderValue::Table(table) => Value::Object(
            table.iter().map(|(name, value)| (bound(name, HEADER_TEXT_MAX_CHARS), plain(value))).collect(),
        ),
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["authorization", "password", "secret", "token", "cookie", "lease", "api-key", "apikey"]
        .iter()
        .any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrubbed(text: &str) -> String {
        String::from_utf8(without_leases(text.as_bytes())).unwrap()
    }

    #[test]
    fn leases_are_masked_in_json_in_broken_json_and_in_json_inside_a_string() {
        let token = "0b9c9d0e-61f4-4d5a-9f0f-1c8a5d1f2a3b";
        for body in [
            format!(r#"{{"lease":"{token}","attempt":1}}"#),
            format!("{{\"lease\" :\t\"{token}\", oops"),
            format!(r#""{{\"Lease\":\"{token}\"}}""#),
            format!("lease: {token}"),
            format!(r#"{{"a":{{"lease":"{token}"}},"b":{{"lease":"{token}"}}"#),
        ] {
            let clean = scrubbed(&body);
            assert!(!clean.contains("61f4"), "{clean}");
            assert!(clean.contains(MASK), "{clean}");
        }
    }

    #[test]
    fn a_cut_token_is_masked_too_and_other_text_stays() {
        assert_eq!(scrubbed(r#"{"lease":"0b9c"#), r#"{"lease":"***"#);
        assert_eq!(scrubbed("the release of a lease"), "the release of a lease");
        assert_eq!(scrubbed("leasehold abc"), "leasehold abc");
        assert_eq!(without_leases(&[0xff, 0x00, b'l']), [0xff, 0x00, b'l']);
    }

    #[test]
    fn credentials_in_headers_are_masked_and_nul_is_replaced() {
        let given: Headers = [
            ("Authorization".to_owned(), HeaderValue::from("Bearer abc")),
            ("note".to_owned(), HeaderValue::from("a\0b")),
            ("x-death".to_owned(), HeaderValue::Null),
            ("ratio".to_owned(), HeaderValue::Double(f64::NAN)),
        ]
        .into();
        let kept = headers(&given).unwrap();
        assert_eq!(kept, json!({ "Authorization": "***", "note": "a\u{fffd}b", "ratio": null }));
    }

    #[test]
    fn headers_at_the_limit_are_kept_and_one_byte_over_are_left_out_and_said_to_be() {
        // {"a":"xxx..."}: 8 bytes around the text, spread over headers because one text is bounded itself.
        let many = |total: usize| -> Headers {
            let mut left = total - 2;
            let mut headers = Headers::new();
            let mut number = 0;
            while left > 0 {
                let name = format!("h{number:03}");
                // "hNNN":"", with a comma before all but the first.
                let around = 9 + usize::from(number > 0);
                let text = (left - around).min(HEADER_TEXT_MAX_CHARS);
                let text =
                    if left - around - text > 0 && left - around - text < 20 { text - 20 } else { text };
                headers.insert(name, HeaderValue::from("x".repeat(text)));
                left -= around + text;
                number += 1;
            }
            headers
        };
        let kept = headers(&many(HEADERS_MAX_BYTES)).unwrap();
        assert_eq!(kept.to_string().len(), HEADERS_MAX_BYTES);
        assert!(headers(&many(HEADERS_MAX_BYTES + 1)).unwrap().get("left_out").is_some());
    }
}
