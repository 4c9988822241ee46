//! Who descends from whom, read from `/proc`.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use nix::unistd::Pid;

/// One process, as `/proc/<pid>/stat` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its id.
    pub(crate) pid: Pid,
    /// Its parent's id.
    pub(crate) parent: Pid,
    /// Its session's id.
    pub(crate) session: Pid,
    /// True when it has ended and only waits to be reaped.
    pub(crate) zombie: bool,
    /// Its short name.
    pub(crate) name: String,
}

/// Every process that can be seen. One that ends while we read is left out.
pub(crate) fn processes() -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let named_by_number = path.file_name().and_then(|name| name.to_str()).is_some_and(is_number);
        if !named_by_number {
            continue;
        }
        if let Ok(stat) = std::fs::read(path.join("stat")) {
            found.extend(parse_stat(&String::from_utf8_lossy(&stat)));
        }
    }
    Ok(found)
}

fn is_number(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit())
}

/// The name stands in parentheses and may hold anything, blanks and parentheses too: the last `)` ends it.
fn parse_stat(stat: &str) -> Option<Process> {
    let open = stat.find('(')?;
    let close = stat.rfind(')')?;
    let pid = stat.get(..open)?.trim().parse().ok()?;
    let name = stat.get(open + 1..close)?.to_owned();
    let mut rest = stat.get(close + 1..)?.split_ascii_whitespace();
    let zombie = matches!(rest.next()?, "Z" | "X" | "x");
    let parent = rest.next()?.parse().ok()?;
    let _group = rest.next()?;
    let session = rest.next()?.parse().ok()?;
    Some(Process {
        pid: Pid::from_raw(pid),
        parent: Pid::from_raw(parent),
        session: Pid::from_raw(session),
        zombie,
        name,
    })
}

/// The processes of `table` that descend from any of `ancestors`, which are not themselves included.
pub(crate) fn descendants(table: &[Process], ancestors: &[Pid]) -> Vec<Process> {
    let mut family: HashSet<Pid> = ancestors.iter().copied().collect();
    let mut found: Vec<Process> = Vec::new();
    loop {
        let born: Vec<&Process> =
            table.iter().filter(|one| family.contains(&one.parent) && !family.contains(&one.pid)).collect();
        if born.is_empty() {
            return found;
        }
        family.extend(born.iter().map(|one| one.pid));
        found.extend(born.into_iter().cloned());
    }
}

/// Whether the environment that `pid` was executed with holds exactly `NAME=value`. False where it cannot be read.
pub(crate) fn was_given(pid: Pid, variable: &[u8]) -> bool {
    let path = Path::new("/proc").join(pid.to_string()).join("environ");
    std::fs::read(path).is_ok_and(|environ| environ.split(|&byte| byte == 0).any(|one| one == variable))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32) -> Process {
        parse_stat(&format!("{pid} (p) S {parent} 1 1 0 -1")).unwrap()
    }

    #[test]
    fn a_name_with_blanks_and_parentheses_does_not_shift_the_fields() {
        let odd = parse_stat("42 (a) S (b) Z 7 8 9 0 -1 4194560").unwrap();
        assert_eq!(odd.name, "a) S (b");
        assert!(odd.zombie);
        assert_eq!(
            (odd.pid, odd.parent, odd.session),
            (Pid::from_raw(42), Pid::from_raw(7), Pid::from_raw(9))
        );
    }

    #[test]
    fn descendants_are_found_over_all_generations_and_strangers_are_not() {
        let table = [process(30, 20), process(20, 10), process(10, 1), process(99, 1)];
        let mut pids: Vec<i32> =
            descendants(&table, &[Pid::from_raw(10)]).iter().map(|one| one.pid.as_raw()).collect();
        pids.sort_unstable();
        assert_eq!(pids, [20, 30]);
    }

    #[test]
    fn this_process_is_in_the_table() {
        let me = nix::unistd::getpid();
        let table = processes().unwrap();
        assert!(table.iter().any(|one| one.pid == me && one.parent == nix::unistd::getppid() && !one.zombie));
    }
}
