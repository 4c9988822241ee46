//! Replaces the values of secrets in what a program says.

use serde_json::Value;

use super::limits::SECRET_LINE_MIN_BYTES;

/// What stands in place of a secret.
pub const MASK: &str = "***";

/// Knows the secrets of one run. `Debug` does not show them.
#[derive(Clone)]
pub struct Masker {
    /// Longest first, so that a secret that begins with another one is masked whole.
    secrets: Vec<Vec<u8>>,
    begins: [bool; 256],
}

impl Masker {
    /// Masks `values`; of a value with several lines each line of some length by itself, because logs are lines; and each
    /// value also in the form that JSON gives it. Empty values are no secrets.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut secrets: Vec<Vec<u8>> =
            values.into_iter().flat_map(forms).filter(|form| !form.is_empty()).collect();
        secrets.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        secrets.dedup();
        let mut begins = [false; 256];
        for secret in &secrets {
            begins[usize::from(secret[0])] = true;
        }
        Self { secrets, begins }
    }

    /// Length of the longest secret, in bytes: how much more than a line's limit must be read to see it whole.
    #[must_use]
    pub fn longest_bytes(&self) -> usize {
        self.secrets.first().map_or(0, Vec::len)
    }

    /// Masks the first `keep_bytes` of `line` and drops the rest. A secret that begins in the kept part is masked even
    /// when it ends beyond it.
    #[must_use]
    pub fn mask(&self, line: &[u8], keep_bytes: usize) -> Vec<u8> {
        let mut masked = Vec::with_capacity(line.len().min(keep_bytes));
        let mut at = 0;
        while at < line.len().min(keep_bytes) {
            if let Some(length) = self.secret_at(&line[at..]) {
                masked.extend_from_slice(MASK.as_bytes());
                at += length;
            } else {
                masked.push(line[at]);
                at += 1;
            }
        }
        masked
    }

    fn secret_at(&self, rest: &[u8]) -> Option<usize> {
        if !self.begins[usize::from(*rest.first()?)] {
            return None;
        }
        self.secrets.iter().find(|secret| rest.starts_with(secret)).map(Vec::len)
    }

    /// Masks text.
    #[must_use]
    pub fn mask_text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.mask(text.as_bytes(), usize::MAX)).into_owned()
    }

    /// Masks every text in `value`, keys too.
    #[must_use]
    pub fn mask_json(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.mask_text(&text)),
            Value::Array(items) => items.into_iter().map(|item| self.mask_json(item)).collect(),
            Value::Object(fields) => {
                fields.into_iter().map(|(key, item)| (self.mask_text(&key), self.mask_json(item))).collect()
            }
            other @ (Value::Null | Value::Bool(_) | Value::Number(_)) => other,
        }
    }
}

impl std::fmt::Debug for Masker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Masker").field("secrets", &self.secrets.len()).finish_non_exhaustive()
    }
}

fn forms(value: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![value.to_vec()];
    if value.contains(&b'\n') {
        let lines = value.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
        forms.extend(lines.filter(|line| line.len() >= SECRET_LINE_MIN_BYTES).map(<[u8]>::to_vec));
    }
    if let Some(json) = std::str::from_utf8(value).ok().and_then(|text| serde_json::to_string(text).ok()) {
        forms.push(json.as_bytes()[1..json.len() - 1].to_vec());
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masker(values: &[&str]) -> Masker {
        Masker::new(values.iter().map(|value| value.as_bytes()))
    }

    #[test]
    fn every_occurrence_is_masked_and_the_longest_secret_wins() {
        let masker = masker(&["pass", "password1"]);
        assert_eq!(masker.mask_text("pass password1 password2"), "*** *** ***word2");
    }

    #[test]
    fn an_empty_value_masks_nothing() {
        assert_eq!(masker(&[""]).mask_text("text"), "text");
        assert_eq!(masker(&[]).longest_bytes(), 0);
    }

    #[test]
    fn each_long_line_of_a_secret_with_several_lines_is_masked_but_not_its_braces() {
        let masker = masker(&["{\n  \"key\": 1\n}"]);
        assert_eq!(masker.mask_text("say   \"key\": 1"), "say   ***");
        assert_eq!(masker.mask_text("}"), "}");
    }

    #[test]
    fn a_line_of_a_secret_is_masked_at_its_shortest_length_and_not_below() {
        let masker = masker(&["abc\nabcd"]);
        assert_eq!(masker.mask_text("abc"), "abc");
        assert_eq!(masker.mask_text("abcd"), "***");
    }

    #[test]
    fn the_form_that_json_gives_a_secret_is_masked() {
        assert_eq!(masker(&["a\"b"]).mask_text(r#"{"k":"a\"b"}"#), r#"{"k":"***"}"#);
    }

    #[test]
    fn a_secret_that_begins_before_the_cut_never_shows_its_beginning() {
        let masker = masker(&["secret"]);
        assert_eq!(masker.mask(b"12345secret", 8), b"12345***");
        assert_eq!(
            masker.mask(b"secret12secret", 8),
            b"***12",
            "a shorter mask must not pull in what was cut"
        );
    }

    #[test]
    fn json_is_masked_in_values_and_keys_and_debug_shows_no_secret() {
        let masker = masker(&["hunter2"]);
        let masked = masker.mask_json(serde_json::json!({"hunter2": ["x hunter2", 2]}));
        assert_eq!(masked, serde_json::json!({"***": ["x ***", 2]}));
        assert!(!format!("{masker:?}").contains("hunter2"));
    }
}
