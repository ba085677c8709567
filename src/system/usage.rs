//! What the process takes of the system at this moment.

use std::fs;

/// What is `None` the system does not say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Threads.
    pub threads: Option<u64>,
    /// Memory, in bytes.
    pub resident: Option<u64>,
    /// Open descriptors; a process that was root before may not look at its own.
    pub descriptors: Option<u64>,
}

impl Usage {
    /// Looks.
    pub(crate) fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let mut lines = status.lines();
            let value = lines.find_map(|line| line.strip_prefix(name))?;
            value.split_whitespace().next()?.parse::<u64>().ok()
        };
        let descriptors = fs::read_dir("/proc/self/fd").ok();
        Self {
            threads: field("Threads:"),
            resident: field("VmRSS:").map(|kib| kib * 1024),
            // Without the one that reads them.
            descriptors: descriptors.map(|open| (open.count() as u64).saturating_sub(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_a_thread_memory_and_descriptors() {
        let usage = Usage::now();
        assert!(usage.threads >= Some(1) && usage.resident > Some(64 * 1024));
        assert!(usage.descriptors >= Some(3));
    }
}
