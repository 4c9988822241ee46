//! Parameters of a step, from TOML to the JSON that travels with its tasks: what JSON or the database cannot hold is an error where a
//! person wrote it, never something else in the handler's hands.

use serde_json::{Map, Number, Value};

/// The same in JSON.
///
/// # Errors
/// What has no place in it.
pub(super) fn as_json(value: toml::Value) -> Result<Value, String> {
    match value {
        toml::Value::String(text) => plain(text).map(Value::String),
        toml::Value::Integer(number) => Ok(number.into()),
        toml::Value::Float(number) => Number::from_f64(number)
            .map(Value::Number)
            .ok_or_else(|| format!("{number} is no number in JSON; write it as a text")),
        toml::Value::Boolean(flag) => Ok(flag.into()),
        toml::Value::Datetime(at) => Err(format!("{at} is no value in JSON; write it as a text: \"{at}\"")),
        toml::Value::Array(items) => items.into_iter().map(as_json).collect(),
        toml::Value::Table(fields) => {
            let fields = fields.into_iter().map(|(name, item)| Ok((plain(name)?, as_json(item)?)));
            fields.collect::<Result<Map<_, _>, String>>().map(Value::Object)
        }
    }
}

fn plain(text: String) -> Result<String, String> {
    if text.contains('\0') {
        return Err("a text or a name has a NUL character, which the database refuses".to_owned());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(toml: &str) -> Result<Value, String> {
        as_json(toml::Value::Table(toml.parse().unwrap()))
    }

    #[test]
    fn what_json_can_hold_is_the_same_in_it() {
        let toml = "a = \"x\"\nb = [1, 2.5, true]\nc = { d = -9223372036854775808 }\n";
        assert_eq!(read(toml), Ok(json!({ "a": "x", "b": [1, 2.5, true], "c": { "d": i64::MIN } })));
    }

    #[test]
    fn what_json_or_the_database_cannot_hold_is_an_error_and_never_something_else() {
        for (toml, why) in [
            ("a = nan", "no number in JSON"),
            ("a = [-inf]", "no number in JSON"),
            ("a = 1979-05-27", "\"1979-05-27\""),
            ("a = \"\\u0000\"", "NUL"),
            ("\"\\u0000\" = 1", "NUL"),
        ] {
            let error = read(toml).unwrap_err();
            assert!(error.contains(why), "{toml}: {error}");
        }
    }
}
