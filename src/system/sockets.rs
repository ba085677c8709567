//! Who listens on a port of this machine, by what the kernel shows below `/proc`.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// A process with a listening socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its name, as the kernel shortens it.
    pub name: String,
}

/// The processes that listen on a TCP port, on any address. Those of others are seen by root alone.
pub(crate) fn holders(port: u16) -> Vec<Holder> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(fs::read_to_string);
    let tables = tables.into_iter().flatten();
    let wanted: HashSet<String> = tables.flat_map(|table| listening(&table, port)).collect();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut found: Vec<Holder> = processes
        .filter_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            let has_one = has_socket(&process.path(), &wanted);
            let name = || fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            has_one.then(|| Holder {
                pid,
                name: name().trim().to_owned(),
            })
        })
        .collect();
    found.sort_by_key(|holder| holder.pid);
    found
}

/// The sockets of one of the kernel's tables that listen on this port, as descriptors name them.
fn listening(table: &str, port: u16) -> Vec<String> {
    const LISTENS: &str = "0A";
    let end = format!(":{port:04X}");
    let of_line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_it = words.get(1)?.ends_with(&end) && *words.get(3)? == LISTENS;
        is_it.then(|| words.get(9).map(|inode| format!("socket:[{inode}]")))?
    };
    table.lines().filter_map(of_line).collect()
}

fn has_socket(process: &Path, wanted: &HashSet<String>) -> bool {
    let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten();
    let mut targets = descriptors
        .flatten()
        .filter_map(|it| fs::read_link(it.path()).ok());
    targets.any(|target| {
        target
            .to_str()
            .is_some_and(|target| wanted.contains(target))
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_of_ours_is_found_and_no_other_port() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let ours = |holder: &Holder| holder.pid == std::process::id();
        assert!(holders(port).iter().any(ours));
        drop(listener);
        assert!(!holders(port).iter().any(ours));
    }
}
