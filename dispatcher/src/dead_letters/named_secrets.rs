//! Fields of a payload whose names say that they hold a secret, masked wherever a letter is shown. The stored letter keeps them: a replay
//! needs the payload whole.

use serde_json::Value;

/// What stands in place of a secret.
const MASK: &str = "***";
/// Parts of names, without separators and in lower case, of fields that hold secrets.
const NAMES: [&str; 8] =
    ["password", "passwd", "passphrase", "secret", "token", "apikey", "privatekey", "credential"];

/// `text` with those fields masked; as it is where it is no JSON.
pub(crate) fn masked_text(text: &str) -> String {
    match serde_json::from_str::<Value>(text) {
        Ok(mut value) => {
            mask(&mut value);
            value.to_string()
        }
        Err(_) => text.to_owned(),
    }
}

/// Masks those fields, at any depth. What is below such a field is masked as a whole.
pub(crate) fn mask(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(mask),
        Value::Object(fields) => {
            for (name, field) in fields {
                if says_secret(name) && !field.is_null() {
                    *field = Value::String(MASK.to_owned());
                } else {
                    mask(field);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn says_secret(name: &str) -> bool {
    let plain: String =
        name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    NAMES.iter().any(|part| plain.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_say_secret_are_masked_at_any_depth_and_nothing_else_is() {
        let text =
            r#"{"a":[{"db_password":"hunter2","n":1}],"API-Key":{"x":"y"},"token":null,"keyboard":"k"}"#;
        assert_eq!(
            masked_text(text),
            r#"{"API-Key":"***","a":[{"db_password":"***","n":1}],"keyboard":"k","token":null}"#
        );
        for other in ["", "password=hunter2 is no JSON", "[1,2]", "\"token\""] {
            assert_eq!(masked_text(other), other);
        }
    }
}
