//! What the system says of processes: memory, threads, CPU seconds, descriptors.

use std::collections::VecDeque;
use std::fs;
use std::thread;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{SysconfVar, sysconf};

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
         (`ulimit -Hn {NEEDED}` as root) or take fewer connections with --percent",
        if raised.is_ok() { "" } else { ", not reached" }
    ))
}

/// How many descriptors this process, and what it starts, may have.
pub(crate) fn descriptor_limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

/// What the figures of a run depend on, and cannot show.
pub(crate) fn machine() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    format!("machine  {cores} cores, load {load} before the first run")
}

/// Connections that the kernel has dropped because the queue of their listener was full. Their clients
/// may believe that they are connected, and wait.
pub(crate) fn listen_overflows() -> u64 {
    let text = fs::read_to_string("/proc/net/netstat").unwrap_or_default();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next(), lines.next());
    let names = names.unwrap_or_default().split(' ');
    let mut fields = names.zip(values.unwrap_or_default().split(' '));
    let value = fields.find_map(|(name, value)| (name == "ListenOverflows").then_some(value));
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// Processes whose parent is `parent`.
pub(crate) fn children(parent: u32) -> Vec<u32> {
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
    /// use the machine, it never does, and is read after half a minute.
    pub(crate) fn at_rest() -> Self {
        const READINGS: usize = 6;
        const REST: u64 = 200;
        let mut readings = VecDeque::new();
        for _ in 0..60 {
            readings.push_back(kernel_memory());
            if readings.len() > READINGS {
                readings.pop_front();
            }
            if readings.len() == READINGS && spread(&readings) <= REST {
                break;
            }
            thread::sleep(Duration::from_millis(500));
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

/// CPU time of all these processes, their ended threads included.
pub(crate) fn cpu_time(processes: &[u32]) -> Duration {
    let ticks_per_second = sysconf(SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .and_then(|ticks| u32::try_from(ticks).ok())
        .unwrap_or(100);
    let ticks: u32 = processes.iter().map(|id| ticks_of(*id)).sum();
    Duration::from_secs(1) * ticks / ticks_per_second
}

fn ticks_of(process: u32) -> u32 {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The program's name stands in parentheses and may hold anything.
    let after_name = text.rsplit(") ").next().unwrap_or_default();
    let fields: Vec<&str> = after_name.split(' ').collect();
    let number = |index: usize| fields.get(index).and_then(|text| text.parse().ok());
    // utime and stime are fields 14 and 15 of proc_pid_stat(5); the third is the first here.
    number(11).unwrap_or(0) + number(12).unwrap_or(0)
}

/// The number behind `name` in a table of /proc.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}
