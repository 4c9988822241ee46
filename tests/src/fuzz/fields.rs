//! How an input is cut into fields: lines of text, then a rest of any bytes. Lines survive mutation better than lengths do.

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
