//! Reading what a task's steps have left: `artifacts` and `artifact`, before an approval above all.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use super::look::find;
use super::{Artifact, One};
use crate::cli::output;
use crate::store::Db;
use crate::store::left_files::{LeftFile, left_files, read_file};

pub(super) async fn list(db: &Db, one: One) -> anyhow::Result<ExitCode> {
    find(db, &one.task_id).await?;
    let files = left_files(db, &one.task_id).await?;
    if one.json {
        output::json(&files)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = files.iter().map(row).collect();
    output::table(&["STEP", "ATTEMPT", "NAME", "BYTES", "SHA256", "MANIFEST"], rows, "no artifacts");
    if let Some(file) = files.iter().find(|file| file.current) {
        output::line(&format!(
            "\nan approval of task {} binds manifest {}",
            one.task_id, file.manifest_digest
        ));
        output::line(&format!("read one: dispatcher tasks artifact {} {}", one.task_id, file.name));
    }
    Ok(ExitCode::SUCCESS)
}

fn row(file: &LeftFile) -> Vec<String> {
    vec![
        file.step.clone(),
        file.attempt.to_string(),
        file.name.clone(),
        file.size.to_string(),
        file.sha256.to_string(),
        file.manifest_digest.to_string(),
    ]
}

pub(super) async fn print(db: &Db, wanted: Artifact) -> anyhow::Result<ExitCode> {
    let Some((file, bytes)) = read_file(db, &wanted.task_id, wanted.step.as_deref(), &wanted.name).await?
    else {
        find(db, &wanted.task_id).await?;
        bail!(
            "task {} has no artifact {:?}{}: `dispatcher tasks artifacts {}` lists what there is",
            wanted.task_id,
            wanted.name,
            wanted.step.map(|step| format!(" of step {step}")).unwrap_or_default(),
            wanted.task_id
        );
    };
    match &wanted.output {
        Some(path) => {
            write_new(path, &bytes)?;
            output::line(&format!("{}: {} bytes, {}", path.display(), bytes.len(), file.sha256));
        }
        None => to_stdout(&bytes),
    }
    Ok(ExitCode::SUCCESS)
}

/// Never over a file that is there: a name given by mistake must not cost anything.
fn write_new(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut file =
        std::fs::File::create_new(path).with_context(|| format!("cannot create {}", path.display()))?;
    file.write_all(bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// The very bytes, for a pipe or a file. On a terminal, what would steer it is shown instead of obeyed: the bytes come from a handler,
/// and what an operator reads before an approval must not be able to hide a line. A closed pipe (`| head`) is not an error.
fn to_stdout(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let shown = if out.is_terminal() { harmless(bytes).into_bytes() } else { bytes.to_vec() };
    if out.write_all(&shown).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Text in which every control character except line feed and tab is spelled out.
fn harmless(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for character in String::from_utf8_lossy(bytes).chars() {
        if character.is_control() && !matches!(character, '\n' | '\t') {
            text.extend(character.escape_unicode());
        } else {
            text.push(character);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_steer_a_terminal_is_spelled_out() {
        let hostile = b"+ good\n\x1b[1A\x1b[2K- bad\r\tend\xff";
        assert_eq!(harmless(hostile), "+ good\n\\u{1b}[1A\\u{1b}[2K- bad\\u{d}\tend\u{fffd}");
    }

    #[test]
    fn a_file_that_is_there_is_not_written_over() {
        let folder = std::env::temp_dir().join(format!("switchyard-artifact-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("diff");
        write_new(&path, b"first").unwrap();
        write_new(&path, b"second").unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
