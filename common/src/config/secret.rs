//! Values that must never be shown.

use std::fmt;

/// What is shown instead of a secret.
pub const MASK: &str = "***";

/// A text that no `Debug`, `Display` or error shows. Reading it is explicit: [`Secret::expose`].
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one call that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// True when there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// A URL with its password masked, fit for logs. Masks too much rather than too little: everything between the first
/// `:` after the scheme and the last `@`, and the values of query parameters that look like passwords.
#[must_use]
pub fn mask_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        // Not a URL: perhaps a connection string with the password somewhere in it.
        return MASK.to_owned();
    };
    let rest = match rest.rsplit_once('@') {
        None => rest.to_owned(),
        Some((userinfo, place)) => match userinfo.split_once(':') {
            None => format!("{userinfo}@{place}"),
            Some((user, _)) => format!("{user}:{MASK}@{place}"),
        },
    };
    match rest.split_once('?') {
        None => format!("{scheme}://{rest}"),
        Some((place, query)) => format!("{scheme}://{place}?{}", mask_query(query)),
    }
}

/// A text in which every URL is masked as [`mask_url`] does, fit to leave the process.
#[must_use]
pub fn mask_urls(text: &str) -> String {
    let masked = text.split(' ').map(|word| {
        if word.contains("://") && (word.contains('@') || word.contains('?')) {
            mask_url(word)
        } else {
            word.to_owned()
        }
    });
    masked.collect::<Vec<_>>().join(" ")
}

fn mask_query(query: &str) -> String {
    let masked = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, _)) if is_secret_name(name) => format!("{name}={MASK}"),
        Some(_) | None => pair.to_owned(),
    });
    masked.collect::<Vec<_>>().join("&")
}

fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["password", "passwd", "secret", "token", "key"].iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "*** *** Some(***)");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn url_passwords_are_masked_even_when_they_are_badly_encoded() {
        let cases = [
            ("amqp://user:pw@host:5672/%2f", "amqp://user:***@host:5672/%2f"),
            ("amqp://user:p@w/x@host/v", "amqp://user:***@host/v"),
            ("amqp://host:5672/v", "amqp://host:5672/v"),
            ("postgres://u@host/db", "postgres://u@host/db"),
            (
                "postgres://host/db?user=u&password=pw&sslmode=on",
                "postgres://host/db?user=u&password=***&sslmode=on",
            ),
            ("host=h user=u password=pw", "***"),
        ];
        for (url, shown) in cases {
            assert_eq!(mask_url(url), shown);
        }
    }
}
