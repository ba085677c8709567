//! What the system lets the process have: descriptors and threads. What is needed is not decided here.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::geteuid;

/// Mappings of memory that are no thread's: the program, libraries, the heap.
const MAPPINGS_ASIDE: u64 = 1024;

/// Raises the limit of open files as far as allowed, and returns it.
pub(crate) fn raise_open_files() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return u64::MAX;
    };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

/// A limit that lets the process have fewer threads than it may come to need.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shortage {
    /// How many it allows; other processes may count too.
    pub threads: u64,
    /// Which limit that is, and what raises it, for people.
    pub limit: String,
}

/// The limits that are too low for so many threads; who is root now is not bound by that of its user.
pub(crate) fn too_low_for(needed: u64) -> Vec<Shortage> {
    let mut found = Vec::new();
    let mut compare = |threads: u64, limit: String| {
        if threads < needed {
            found.push(Shortage { threads, limit });
        }
    };
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NPROC)
        && !geteuid().is_root()
    {
        let raise = format!("systemd: LimitNPROC={needed}; shell: ulimit -u {needed}");
        compare(
            soft,
            format!("the limit of processes and threads of its user ({raise})"),
        );
    }
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    if let Some((threads, path)) = pids_max(Path::new("/sys/fs/cgroup"), &cgroups) {
        let limit = format!("{} (systemd: TasksMax={needed})", path.display());
        compare(threads, limit);
    }
    for name in ["kernel.threads-max", "kernel.pid_max"] {
        if let Some(threads) = sysctl(name) {
            compare(threads, format!("the system's {name} (sysctl)"));
        }
    }
    // A thread's stack is one mapping, the page that guards it another.
    if let Some(mappings) = sysctl("vm.max_map_count") {
        let threads = mappings.saturating_sub(MAPPINGS_ASIDE) / 2;
        let enough = 2 * needed + MAPPINGS_ASIDE;
        compare(
            threads,
            format!("the system's vm.max_map_count (sysctl -w vm.max_map_count={enough})"),
        );
    }
    found
}

fn sysctl(name: &str) -> Option<u64> {
    number(&Path::new("/proc/sys").join(name.replace('.', "/")))
}

/// The lowest `pids.max` of the process's control groups (cgroups(7), version 1 or 2), and whose it is.
fn pids_max(root: &Path, cgroups: &str) -> Option<(u64, PathBuf)> {
    let folder = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let top = match controllers {
            "" => root.to_owned(),
            list if list.split(',').any(|one| one == "pids") => root.join("pids"),
            _ => return None,
        };
        Some(top.join(path.trim_start_matches('/')))
    };
    let folders: Vec<PathBuf> = cgroups.lines().filter_map(folder).collect();
    let ancestors = folders.iter().flat_map(|folder| folder.ancestors());
    let limits = ancestors
        .take_while(|folder| folder.starts_with(root))
        .filter_map(|folder| {
            let file = folder.join("pids.max");
            Some((number(&file)?, file))
        });
    limits.min()
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_limit_of_a_control_group_counts() {
        let root = std::env::temp_dir().join(format!("postern-cgroup-{}", std::process::id()));
        let service = root.join("system.slice/postern.service");
        fs::create_dir_all(&service).expect("a folder");
        fs::write(service.join("pids.max"), "max\n").expect("a file");
        let line = "0::/system.slice/postern.service\n";
        assert_eq!(pids_max(&root, line), None);
        let slice = root.join("system.slice/pids.max");
        fs::write(&slice, "4915\n").expect("a file");
        assert_eq!(pids_max(&root, line), Some((4915, slice)));
        let own = service.join("pids.max");
        fs::write(&own, "100\n").expect("a file");
        assert_eq!(pids_max(&root, line), Some((100, own)));
        let first = root.join("pids/user");
        fs::create_dir_all(&first).expect("a folder");
        fs::write(first.join("pids.max"), "7\n").expect("a file");
        let lines = "4:cpu,cpuacct:/x\n3:pids:/user\n";
        assert_eq!(pids_max(&root, lines), Some((7, first.join("pids.max"))));
        fs::remove_dir_all(&root).expect("it is ours");
    }

    #[test]
    fn nothing_is_too_low_for_a_thread_and_something_for_too_many() {
        assert_eq!(too_low_for(1), Vec::new());
        let found = too_low_for(u64::from(u32::MAX));
        let has = |name: &str| found.iter().any(|shortage| shortage.limit.contains(name));
        assert!(
            has("kernel.pid_max") && has("vm.max_map_count"),
            "{found:?}"
        );
    }
}
