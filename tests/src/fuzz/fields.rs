//! How an input is cut into fields: lines of text, then a rest of any bytes. Lines survive mutation better than lengths do.
//! And what several targets ask of what comes out.

/// The next line as text, lossily, and what follows it.
pub(super) fn line(data: &[u8]) -> (String, &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let text = String::from_utf8_lossy(&data[..end]).into_owned();
    (text, data.get(end + 1..).unwrap_or_default())
}

/// The first byte, or 0, and what follows it.
pub(super) fn byte(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, data), |(first, rest)| (*first, rest))
}

/// Whether a JSON text has the escape of NUL, which PostgreSQL refuses; a backslash that is itself escaped begins none.
pub(super) fn escapes_nul(json: &str) -> bool {
    json.match_indices("\\u0000").any(|(at, _)| {
        let backslashes = json[..at].bytes().rev().take_while(|byte| *byte == b'\\').count();
        backslashes % 2 == 0
    })
}
