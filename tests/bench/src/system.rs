//! What the system says of processes: memory, threads, CPU seconds, descriptors; what is parsed here is
//! proc(5).

use std::collections::VecDeque;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::clock_getcpuclockid;
use nix::unistd::{Pid, SysconfVar, sysconf};

/// Descriptors that five thousand sessions need in a proxy, with room to spare.
const NEEDED: u64 = 16_384;

/// Raises the limit of descriptors for this process and all that it starts.
///
/// # Errors
/// What to do, when the limit is too low and cannot be raised.
pub(crate) fn raise_descriptor_limit() -> Result<(), String> {
    let what = |error| format!("the limit of descriptors cannot be read: {error}");
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(what)?;
    // Above the hard limit only root may go.
    let wanted = hard.max(NEEDED);
    if setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
        return Ok(());
    }
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    Err(format!(
        "{NEEDED} descriptors per process are needed, and the hard limit is {hard}{}: raise it \
         (`ulimit -Hn {NEEDED}` as root)",
        if raised.is_ok() { "" } else { ", not reached" }
    ))
}

/// How many descriptors this process, and what it starts, may have.
pub(crate) fn descriptor_limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

/// The machine: processor, cores, kernel, and how busy it was before the first run.
pub(crate) fn machine() -> String {
    let read = |file| fs::read_to_string(file).unwrap_or_default();
    let processor = read("/proc/cpuinfo");
    let model = processor
        .lines()
        .find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split_once(": "));
    let model = model.map_or("an unknown processor", |(_, model)| model.trim());
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    format!(
        "{cores} cores of {model}, Linux {}, load {load} before the first run",
        kernel.trim()
    )
}

/// Connections that the kernel has dropped because the queue of their listener was full. Their clients
/// may believe that they are connected, and wait.
pub(crate) fn listen_overflows() -> u64 {
    let text = fs::read_to_string("/proc/net/netstat").unwrap_or_default();
    counter(&text, "ListenOverflows")
}

/// A counter of the lines `TcpExt:` of /proc/net/netstat, names above and values below.
fn counter(text: &str, wanted: &str) -> u64 {
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next(), lines.next());
    let names = names.unwrap_or_default().split(' ');
    let mut fields = names.zip(values.unwrap_or_default().split(' '));
    let value = fields.find_map(|(name, value)| (name == wanted).then_some(value));
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// Processes whose parent is `parent`.
fn children(parent: u32) -> Vec<u32> {
    let file = format!("/proc/{parent}/task/{parent}/children");
    let text = fs::read_to_string(file).unwrap_or_default();
    let numbers = text.split_whitespace();
    numbers.filter_map(|number| number.parse().ok()).collect()
}

/// Threads of all these processes.
pub(crate) fn threads(processes: &[u32]) -> usize {
    let tasks = processes
        .iter()
        .map(|id| fs::read_dir(format!("/proc/{id}/task")));
    tasks.map(|folder| folder.map_or(0, Iterator::count)).sum()
}

/// KiB of memory of all these processes; a page shared among n processes counts for an nth in each.
pub(crate) fn proportional_set_size(processes: &[u32]) -> u64 {
    let files = processes.iter().map(|id| {
        let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup"));
        field(&text.unwrap_or_default(), "Pss:")
    });
    files.sum()
}

/// KiB that the kernel of this machine holds for everybody.
#[derive(Clone, Copy)]
pub(crate) struct KernelMemory {
    pub(crate) kib: u64,
    /// By how much it still moved when it was read.
    pub(crate) noise: u64,
}

impl KernelMemory {
    /// Reads it once it has come to rest: what ended processes had is given back by and by. If others
    /// use the machine, it never does, and is read after `limit`.
    pub(crate) fn at_rest(limit: Duration) -> Self {
        const READINGS: usize = 6;
        const REST: u64 = 200;
        const PAUSE: Duration = Duration::from_millis(500);
        let mut readings = VecDeque::new();
        let began = Instant::now();
        loop {
            readings.push_back(kernel_memory());
            if readings.len() > READINGS {
                readings.pop_front();
            }
            let is_at_rest = readings.len() == READINGS && spread(&readings) <= REST;
            if is_at_rest || began.elapsed() + PAUSE > limit {
                break;
            }
            thread::sleep(PAUSE);
        }
        let kib = readings.iter().sum::<u64>() / readings.len() as u64;
        Self {
            kib,
            noise: spread(&readings),
        }
    }
}

fn spread(readings: &VecDeque<u64>) -> u64 {
    let extremes = readings.iter().max().zip(readings.iter().min());
    extremes.map_or(0, |(most, least)| most - least)
}

/// Objects, stacks of threads, page tables.
fn kernel_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let fields = ["Slab:", "KernelStack:", "PageTables:"];
    fields.iter().map(|name| field(&text, name)).sum()
}

/// The process and all that descend from it.
pub(crate) fn family(of: u32) -> Vec<u32> {
    let mut all = vec![of];
    let mut looked_at = 0;
    while let Some(parent) = all.get(looked_at) {
        let found = children(*parent);
        all.extend(found);
        looked_at += 1;
    }
    all
}

/// CPU time, user and system, that a process and all its descendants have used: those that live by
/// the nanosecond, those that have ended and were waited for by the clock's tick.
pub(crate) fn cpu_time(of: u32) -> Duration {
    let ticks_per_second = sysconf(SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .and_then(|ticks| u32::try_from(ticks).ok())
        .unwrap_or(100);
    let times = family(of).into_iter().map(|process| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let ended = Duration::from_secs(1) * ticks_of_ended_children(&stat) / ticks_per_second;
        // A process that has just ended counts among its parent's.
        own_cpu_time(process).unwrap_or_default() + ended
    });
    times.sum()
}

fn own_cpu_time(process: u32) -> Option<Duration> {
    let id = Pid::from_raw(process.cast_signed());
    let time = clock_getcpuclockid(id).ok()?.now().ok()?;
    Some(time.into())
}

/// CPU time of this process.
pub(crate) fn own_time() -> Duration {
    own_cpu_time(std::process::id()).unwrap_or_default()
}

/// `cutime` and `cstime` of /proc/PID/stat.
fn ticks_of_ended_children(stat: &str) -> u32 {
    // The program's name stands in parentheses and may hold anything.
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let fields: Vec<&str> = after_name.split(' ').collect();
    let number = |index: usize| fields.get(index).and_then(|text| text.parse().ok());
    // They are fields 16 and 17 of proc_pid_stat(5); the third is the first here.
    number(13).unwrap_or(0) + number(14).unwrap_or(0)
}

/// The number behind `name` in a table of /proc.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_children_are_found_behind_any_name() {
        let stat = "4711 (a) b (c) S 1 4711 4711 0 -1 4194560 90 10 0 0 7 8 250 30 20 0 4 0 1 2";
        assert_eq!(ticks_of_ended_children(stat), 280);
        assert_eq!(ticks_of_ended_children(""), 0);
    }

    #[test]
    fn a_field_is_the_number_behind_its_name() {
        let text = "Rss:             1234 kB\nPss:              567 kB\nPss_Anon: 8 kB\n";
        assert_eq!(field(text, "Pss:"), 567);
        assert_eq!(field(text, "Slab:"), 0);
    }

    #[test]
    fn a_counter_stands_below_its_name() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 22 333\n\
                    IpExt: InNoRoutes\nIpExt: 4\n";
        assert_eq!(counter(text, "ListenOverflows"), 22);
        assert_eq!(counter(text, "Missing"), 0);
    }

    #[test]
    fn what_an_ended_child_used_is_its_parents() {
        let own = std::process::id();
        let before = cpu_time(own);
        let spin = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let shell = std::process::Command::new("sh").args(["-c", spin]).status();
        assert!(shell.is_ok_and(|status| status.success()));
        assert!(cpu_time(own) - before > Duration::from_millis(20));
    }
}
