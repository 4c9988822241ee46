//! A file with the tokens of the HTTP API: it is taken or refused as a whole, each of its tokens opens what its line says, and what is
//! wrong is told without a token in it.

use std::path::PathBuf;

use switchyard_dispatcher::api::tokens::{Role, TOKEN_MIN_CHARS, TOKENS_MAX_COUNT, Tokens};

/// Writes the file, reads it, and tries each word of it as a token.
pub fn check(data: &[u8]) {
    let path = path();
    std::fs::write(&path, data).expect("a file for tokens can be written");
    let tokens = Tokens::new(None, Some(path.clone()));
    std::fs::remove_file(&path).expect("and removed");
    let text = String::from_utf8_lossy(data);
    match tokens {
        Ok(tokens) => check_taken(&tokens, &text),
        Err(error) => {
            let said = error.to_string();
            let said = said.strip_prefix(&path.display().to_string()).expect("it names the file");
            let long = |word: &&str| word.chars().count() >= TOKEN_MIN_CHARS;
            for word in text.split_whitespace().filter(long) {
                assert!(!said.contains(word), "{word:?} is told in {said:?}");
            }
        }
    }
}

fn check_taken(tokens: &Tokens, text: &str) {
    let lines: Vec<&str> =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    assert!((1..=TOKENS_MAX_COUNT).contains(&lines.len()));
    for line in &lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [role, name, token] = words[..] else { panic!("{line:?} was taken") };
        assert!(token.chars().count() >= TOKEN_MIN_CHARS, "{line:?} was taken");
        let caller = tokens.caller(token).expect("every token opens");
        let unique = lines.iter().filter(|other| other.split_whitespace().nth(2) == Some(token)).count() == 1;
        if unique {
            let wanted = if role == "operator" { Role::Operator } else { Role::Viewer };
            assert_eq!((caller.name.as_str(), caller.role), (name, wanted), "{line:?}");
        }
        assert_eq!(
            tokens.caller(&format!("{token}x")).filter(|_| !text.contains(&format!("{token}x"))),
            None
        );
        // Names are shown, and one of them may hold a token of another line.
        let named =
            lines.iter().any(|line| line.split_whitespace().nth(1).is_some_and(|name| name.contains(token)));
        assert!(named || !format!("{tokens:?}").contains(token), "a token is shown");
    }
}

/// One file per process: several replays may run beside each other.
fn path() -> PathBuf {
    let thread = format!("{:?}", std::thread::current().id());
    let number: String = thread.chars().filter(char::is_ascii_digit).collect();
    std::env::temp_dir().join(format!("switchyard-fuzz-tokens-{}-{number}", std::process::id()))
}
