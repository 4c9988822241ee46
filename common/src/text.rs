//! Text that comes from outside is cut to a bound before it is kept or logged.

/// What a cut text ends with.
const CUT_MARK: &str = "... (cut)";

/// `text` when it has at most `max_bytes`, else its beginning, cut at a character boundary and marked, with at most
/// `max_bytes` altogether.
#[must_use]
pub fn bounded(text: &str, max_bytes: usize) -> String {
    if text.len() <= max_bytes {
        return text.to_owned();
    }
    let mut end = max_bytes.saturating_sub(CUT_MARK.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut cut = text[..end].to_owned();
    if max_bytes >= CUT_MARK.len() {
        cut.push_str(CUT_MARK);
    }
    cut
}

/// The candidate that differs least from `given` (edit distance), when it is near enough to be a typing mistake.
#[must_use]
pub fn closest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let farthest = given.chars().count() / 3 + 1;
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(given, candidate), candidate))
        .filter(|(distance, _)| *distance <= farthest)
        .min()
        .map(|(_, candidate)| candidate)
}

/// The number of single-character edits between two texts.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_within_the_bound_is_untouched() {
        assert_eq!(bounded("abc", 3), "abc");
        assert_eq!(bounded("", 0), "");
    }

    #[test]
    fn longer_text_is_cut_at_a_character_and_marked() {
        let cut = bounded(&"é".repeat(20), 20);
        assert_eq!(cut, format!("{}{CUT_MARK}", "é".repeat(5)));
        assert!(cut.len() <= 20);
        assert_eq!(bounded("abcdef", 2), "");
    }

    #[test]
    fn the_closest_name_is_found_unless_all_are_far() {
        let names = ["broker.url", "broker.heartbeat", "http.port"];
        assert_eq!(closest("brokr.url", names), Some("broker.url"));
        assert_eq!(closest("http.prot", names), Some("http.port"));
        assert_eq!(closest("something.else", names), None);
    }
}
