//! What processes cost, as the kernel counts it: CPU of a process with everything below it, and its peak memory.

use std::collections::BTreeMap;
use std::path::Path;

/// The kernel's unit of CPU time in `/proc`, which is fixed for user space.
const TICKS_PER_SECOND: f64 = 100.0;
/// Fields of `/proc/<pid>/stat` behind the command: the parent, and user and system time of the process and of its ended children.
const PARENT: usize = 1;
const CPU: [usize; 4] = [11, 12, 13, 14];
const CPU_OF_ENDED_CHILDREN: [usize; 2] = [13, 14];

/// One line of the process table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    parent: u32,
    ticks: u64,
}

/// The processes of this machine at one moment.
#[derive(Debug, Clone, Default)]
pub struct Table(BTreeMap<u32, Entry>);

impl Table {
    /// Reads the table. What ends meanwhile is left out.
    #[must_use]
    pub fn read() -> Self {
        let folders = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let entry = |folder: std::fs::DirEntry| {
            let pid: u32 = folder.file_name().to_str()?.parse().ok()?;
            Some((pid, entry(&std::fs::read_to_string(folder.path().join("stat")).ok()?)?))
        };
        Self(folders.filter_map(entry).collect())
    }

    /// `roots` and all their descendants that live.
    #[must_use]
    pub fn tree(&self, roots: &[u32]) -> Vec<u32> {
        let mut found: Vec<u32> = roots.iter().copied().filter(|pid| self.0.contains_key(pid)).collect();
        let mut at = 0;
        while let Some(&parent) = found.get(at) {
            let children = self.0.iter().filter(|(_, entry)| entry.parent == parent).map(|(pid, _)| *pid);
            found.extend(children.filter(|pid| !roots.contains(pid)));
            at += 1;
        }
        found
    }

    /// CPU seconds that `roots` and everything below them have used so far, ended children included.
    #[must_use]
    pub fn cpu_seconds(&self, roots: &[u32]) -> f64 {
        let ticks: u64 = self.tree(roots).iter().filter_map(|pid| self.0.get(pid)).map(|e| e.ticks).sum();
        ticks as f64 / TICKS_PER_SECOND
    }

    /// Peak resident megabytes of `roots` and everything below them that lives, each process by itself: pages that they share are
    /// counted for each.
    #[must_use]
    pub fn peak_megabytes(&self, roots: &[u32]) -> f64 {
        self.tree(roots)
            .iter()
            .filter_map(|pid| status_megabytes(*pid, "VmHWM:"))
            .fold(0.0, |all, one| all + one)
    }
}

/// Resident megabytes of one process now.
#[must_use]
pub fn resident_megabytes(pid: u32) -> Option<f64> {
    status_megabytes(pid, "VmRSS:")
}

/// CPU seconds of children of this process that have ended and were waited for.
#[must_use]
pub fn ended_children_cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    sum(&stat, &CPU_OF_ENDED_CHILDREN).unwrap_or_default() as f64 / TICKS_PER_SECOND
}

fn entry(stat: &str) -> Option<Entry> {
    let parent = fields(stat)?.nth(PARENT)?.parse().ok()?;
    Some(Entry { parent, ticks: sum(stat, &CPU)? })
}

/// The fields behind the command, whose name may contain anything, parentheses included.
fn fields(stat: &str) -> Option<std::str::SplitWhitespace<'_>> {
    Some(stat.rsplit_once(')')?.1.split_whitespace())
}

fn sum(stat: &str, places: &[usize]) -> Option<u64> {
    let fields: Vec<&str> = fields(stat)?.collect();
    places.iter().map(|place| fields.get(*place)?.parse::<u64>().ok()).sum()
}

fn status_megabytes(pid: u32, key: &str) -> Option<f64> {
    const KILOBYTES_PER_MEGABYTE: f64 = 1024.0;
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kilobytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes / KILOBYTES_PER_MEGABYTE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "42 (a (b) c) S 7 1 1 0 -1 0 1 2 3 4 10 20 30 40 20 0 1 0 5";
        assert_eq!(entry(stat), Some(Entry { parent: 7, ticks: 100 }));
        assert_eq!(sum(stat, &CPU_OF_ENDED_CHILDREN), Some(70));
    }

    #[test]
    fn a_tree_is_the_root_and_its_descendants_and_nobody_else() {
        let entry = |parent| Entry { parent, ticks: 50 };
        let table = Table([(1, entry(0)), (2, entry(1)), (3, entry(2)), (4, entry(0))].into());
        assert_eq!(table.tree(&[1]), [1, 2, 3]);
        assert!((table.cpu_seconds(&[1]) - 1.5).abs() < f64::EPSILON);
        assert_eq!(table.tree(&[9]), Vec::<u32>::new());
    }

    #[test]
    fn this_process_has_memory() {
        assert!(Table::read().peak_megabytes(&[std::process::id()]) > 0.5);
    }
}
