//! How texts and TOML values become typed values. Durations and sizes carry units; nothing is clamped.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::secret::{Secret, mask_url};
use crate::text::bounded;

/// Longest piece of a bad value that an error repeats.
const SHOWN_VALUE_MAX_BYTES: usize = 80;

/// A number of bytes, written with a unit: `8MiB`, `512KiB`, `100B`, `1MB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A type that configuration can hold.
pub trait ConfigValue: Sized {
    /// What a value looks like, for errors.
    const EXPECTED: &'static str;

    /// Reads the text of an environment variable, or the text form of a TOML value.
    fn parse_text(text: &str) -> Option<Self>;
}

/// Parses, with an error that says what was expected and shows what was given.
pub(super) fn parse<T: ConfigValue>(text: &str) -> Result<T, String> {
    T::parse_text(text).ok_or_else(|| format!("`{}` is not {}", shown(text), T::EXPECTED))
}

/// A value as an error may show it: short, and without a password should it be a URL in the wrong place.
fn shown(text: &str) -> String {
    let text = if text.contains("://") { mask_url(text) } else { text.to_owned() };
    bounded(&text, SHOWN_VALUE_MAX_BYTES)
}

macro_rules! parsed_from_str {
    ($($type:ty: $expected:literal),* $(,)?) => {$(
        impl ConfigValue for $type {
            const EXPECTED: &'static str = $expected;

            fn parse_text(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        }
    )*};
}

parsed_from_str! {
    bool: "`true` or `false`",
    u16: "a whole number from 0 to 65535",
    u32: "a whole number from 0 to 4294967295",
    u64: "a whole number, 0 or more",
    usize: "a whole number, 0 or more",
    i64: "a whole number",
    SocketAddr: "an address and port such as 127.0.0.1:8080",
}

impl ConfigValue for String {
    const EXPECTED: &'static str = "a text that is not empty";

    fn parse_text(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| text.to_owned())
    }
}

impl ConfigValue for PathBuf {
    const EXPECTED: &'static str = "a path that is not empty";

    fn parse_text(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self::from(text))
    }
}

impl ConfigValue for Secret {
    const EXPECTED: &'static str = "a secret that is not empty";

    fn parse_text(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self::new(text))
    }
}

impl ConfigValue for Duration {
    const EXPECTED: &'static str = "a duration with units (ms, s, m, h, d), such as 500ms, 20s or 1h30m";

    fn parse_text(text: &str) -> Option<Self> {
        let mut total = Self::ZERO;
        for (number, unit) in numbers_with_units(text)? {
            let part = match unit {
                "ms" => Self::from_millis(number),
                "s" => Self::from_secs(number),
                "m" => Self::from_secs(number.checked_mul(60)?),
                "h" => Self::from_secs(number.checked_mul(3_600)?),
                "d" => Self::from_secs(number.checked_mul(86_400)?),
                _ => return None,
            };
            total = total.checked_add(part)?;
        }
        Some(total)
    }
}

impl ConfigValue for ByteSize {
    const EXPECTED: &'static str = "a size with a unit (B, kB, KiB, MB, MiB, GB, GiB), such as 8MiB";

    fn parse_text(text: &str) -> Option<Self> {
        let parts = numbers_with_units(text)?;
        let [(number, unit)] = parts[..] else { return None };
        let factor: u64 = match unit {
            "B" => 1,
            "kB" => 1_000,
            "KiB" => 1 << 10,
            "MB" => 1_000_000,
            "MiB" => 1 << 20,
            "GB" => 1_000_000_000,
            "GiB" => 1 << 30,
            _ => return None,
        };
        number.checked_mul(factor).map(Self)
    }
}

/// Splits "1h30m" into (1, "h"), (30, "m"). `None` when the text is anything else, or empty.
fn numbers_with_units(text: &str) -> Option<Vec<(u64, &str)>> {
    let mut rest = text.trim();
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        parts.push((number.parse().ok()?, unit));
        rest = after;
    }
    (!parts.is_empty()).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn duration(text: &str) -> Option<Duration> {
        Duration::parse_text(text)
    }

    #[test]
    fn durations_need_units() {
        assert_eq!(duration("20s"), Some(Duration::from_secs(20)));
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("1h30m"), Some(Duration::from_secs(5_400)));
        assert_eq!(duration("7d"), Some(Duration::from_secs(604_800)));
        for bad in
            ["", "20", "s", "-5s", "1.5s", "20 s", "20sec", "99999999999999999999s", "999999999999999999d"]
        {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_need_units() {
        assert_eq!(ByteSize::parse_text("8MiB"), Some(ByteSize(8 << 20)));
        assert_eq!(ByteSize::parse_text("1MB"), Some(ByteSize(1_000_000)));
        assert_eq!(ByteSize::parse_text("100B"), Some(ByteSize(100)));
        for bad in ["", "8", "8mib", "8MiB1B", "1.5MiB", "99999999999GiB"] {
            assert_eq!(ByteSize::parse_text(bad), None, "{bad}");
        }
    }

    #[test]
    fn errors_say_what_was_expected_and_hide_passwords() {
        let error = parse::<Duration>("amqp://user:hunter2@host").unwrap_err();
        assert!(
            error.contains("with units") && error.contains("***") && !error.contains("hunter2"),
            "{error}"
        );
    }
}
