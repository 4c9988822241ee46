//! Printing for people (tables) and programs (`--json`).

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Prints one value as JSON, for programs.
pub(super) fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Prints a table, for people; says so when there is nothing.
pub(super) fn table(headers: &[&str], rows: Vec<Vec<String>>, nothing: &str) {
    if rows.is_empty() {
        line(nothing);
        return;
    }
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(headers.to_vec());
    for row in rows {
        table.add_row(row);
    }
    line(&table.to_string());
}

/// Cuts what was found, one more than was asked for, to what was asked for; true when there is more.
pub(super) fn cut<T>(found: &mut Vec<T>, limit: usize) -> bool {
    let more = found.len() > limit;
    found.truncate(limit);
    more
}

/// Says that a list is not everything: what is left out in silence is not looked for.
pub(super) fn more(limit: usize) {
    line(&format!("\nonly {limit} are shown, and there are more: --limit N, or a filter"));
}

/// Prints one line to standard output. A closed pipe (`| head`) is not an error.
pub(super) fn line(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// A point in time for people.
pub(super) fn time(at: chrono::DateTime<chrono::Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}

/// How long ago, for people.
pub(super) fn ago(at: chrono::DateTime<chrono::Utc>) -> String {
    let seconds = (chrono::Utc::now() - at).num_seconds().max(0);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_cut_only_when_there_is_more_than_was_asked_for() {
        for (found, more, left) in [(2, false, 2), (3, false, 3), (4, true, 3)] {
            let mut found = vec![(); found];
            assert_eq!((cut(&mut found, 3), found.len()), (more, left));
        }
    }
}
