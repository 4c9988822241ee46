use std::os::unix::fs::symlink;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use super::*;

fn dir(files: &[(&str, usize)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, size) in files {
        fs::write(dir.path().join(name), vec![b'x'; *size]).unwrap();
    }
    dir
}

fn refusal(dir: &TempDir, max_bytes: u64) -> String {
    collect(dir.path(), max_bytes).unwrap_err().to_string()
}

#[test]
fn files_are_collected_by_name_and_an_empty_directory_is_no_error() {
    let files = collect(dir(&[("b", 2), ("a", 0)]).path(), 2).unwrap();
    assert_eq!(files, BTreeMap::from([("a".to_owned(), vec![]), ("b".to_owned(), b"xx".to_vec())]));
    assert_eq!(collect(dir(&[]).path(), 0).unwrap(), BTreeMap::new());
}

#[test]
fn the_total_is_accepted_at_the_limit_and_refused_one_byte_over() {
    let dir = dir(&[("a", 6), ("b", 4)]);
    assert!(collect(dir.path(), 10).is_ok());
    let error = refusal(&dir, 9);
    assert!(error.contains("more than 9 bytes") && error.contains("object store"), "{error}");
}

#[test]
fn the_count_is_accepted_at_the_limit_and_refused_one_over() {
    let names: Vec<String> = (0..ARTIFACTS_MAX_COUNT).map(|n| format!("f{n}")).collect();
    let dir = dir(&names.iter().map(|name| (name.as_str(), 0)).collect::<Vec<_>>());
    assert_eq!(collect(dir.path(), 0).unwrap().len(), ARTIFACTS_MAX_COUNT);
    fs::write(dir.path().join("one-more"), b"").unwrap();
    assert!(refusal(&dir, 0).contains("more than 256 artifacts"));
}

#[test]
fn a_symbolic_link_is_refused_wherever_it_points() {
    let dir = dir(&[("real", 1)]);
    symlink(dir.path().join("real"), dir.path().join("link")).unwrap();
    assert!(refusal(&dir, 10).contains("\"link\" is a symbolic link"));
}

#[test]
fn directories_and_pipes_are_refused_and_never_block() {
    let with_dir = dir(&[]);
    fs::create_dir(with_dir.path().join("sub")).unwrap();
    assert!(refusal(&with_dir, 10).contains("\"sub\" is a directory"));
    let with_pipe = dir(&[]);
    mkfifo(&with_pipe.path().join("pipe"), Mode::S_IRWXU).unwrap();
    assert!(refusal(&with_pipe, 10).contains("a pipe, socket or device"));
}

#[test]
fn names_that_cannot_travel_are_refused() {
    use std::os::unix::ffi::OsStrExt as _;
    let newline = dir(&[("a\nb", 0)]);
    assert!(refusal(&newline, 10).contains("is refused"));
    let bytes = dir(&[]);
    fs::write(bytes.path().join(std::ffi::OsStr::from_bytes(b"\xff")), b"").unwrap();
    assert!(refusal(&bytes, 10).contains("not UTF-8"));
}

fn result_of(content: &[u8]) -> Result<Option<Value>, String> {
    let dir = dir(&[]);
    let path = dir.path().join("result.json");
    fs::write(&path, content).unwrap();
    read_result(&path).map_err(|error| error.to_string())
}

#[test]
fn the_result_is_optional_and_must_be_json() {
    assert_eq!(read_result(Path::new("/nonexistent/result.json")).unwrap(), None);
    assert_eq!(result_of(b"{\"changes\": 3}"), Ok(Some(serde_json::json!({"changes": 3}))));
    assert!(result_of(b"{").unwrap_err().contains("not JSON"));
    assert!(result_of(b"").unwrap_err().contains("not JSON"));
}

#[test]
fn the_result_is_accepted_at_its_limit_and_refused_one_byte_over() {
    let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2)).into_bytes();
    assert!(result_of(&text(RESULT_MAX_BYTES)).is_ok());
    assert!(result_of(&text(RESULT_MAX_BYTES + 1)).unwrap_err().contains("more than 65536 bytes"));
}

#[test]
fn a_result_that_is_a_link_or_a_directory_is_refused() {
    let dir = dir(&[("real", 1)]);
    symlink(dir.path().join("real"), dir.path().join("link")).unwrap();
    assert!(read_result(&dir.path().join("link")).unwrap_err().to_string().contains("a symbolic link"));
    assert!(read_result(dir.path()).unwrap_err().to_string().contains("a directory"));
}
