use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[test]
fn a_plain_id_is_its_own_name_and_any_other_is_made_safe() {
    assert_eq!(dir_name("task-484", 3), "task-484-3");
    let odd = dir_name("../../etc/passwd", 1);
    assert!(odd.starts_with("______etc_passwd~") && odd.ends_with("-1"), "{odd}");
    assert_ne!(dir_name("a/b", 1), dir_name("a:b", 1));
}

#[test]
fn a_name_at_the_readable_limit_is_kept_and_one_more_is_hashed() {
    let at = "x".repeat(WORKDIR_NAME_MAX_BYTES);
    assert_eq!(dir_name(&at, 1), format!("{at}-1"));
    assert!(dir_name(&format!("{at}x"), 1).contains('~'));
}

proptest! {
    #[test]
    fn any_id_gives_one_plain_file_name(id in "\\PC{1,128}", attempt in 0_u32..) {
        let name = dir_name(&id, attempt);
        prop_assert!(name.len() <= 255);
        prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_~".contains(&b)), "{}", name);
    }
}

#[test]
fn different_ids_and_attempts_never_share_a_directory() {
    let ids = ["a", "a-1", "a_", "a ", "a.", "A", "ä", "a/", "a\u{7f}"];
    let names: BTreeSet<String> =
        ids.iter().flat_map(|id| [1, 11].map(|attempt| dir_name(id, attempt))).collect();
    assert_eq!(names.len(), ids.len() * 2);
}

#[test]
fn a_work_root_belongs_to_one_agent_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (first, _) = WorkRoot::open(dir.path()).unwrap();
    let error = WorkRoot::open(dir.path()).unwrap_err();
    assert!(matches!(error, WorkdirError::InUse(_)), "{error}");
    drop(first);
    assert!(WorkRoot::open(dir.path()).is_ok());
}

#[test]
fn a_start_clears_what_an_earlier_process_left_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, foreign) = (dir.path().join("task-1"), dir.path().join("holiday-photos"));
    for path in [&ours, &foreign] {
        fs::create_dir(path).unwrap();
    }
    fs::write(ours.join(MARKER), b"").unwrap();
    fs::create_dir(ours.join("input")).unwrap();
    fs::set_permissions(ours.join("input"), Permissions::from_mode(READ_ONLY_DIR_MODE)).unwrap();
    let (_root, left) = WorkRoot::open(dir.path()).unwrap();
    assert_eq!(left, Vec::<String>::new());
    assert!(!ours.exists() && foreign.exists());
}
