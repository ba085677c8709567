//! Which files the process can still reach once it runs, and what its log says of that.
//!
//! How a right is given up is `system`'s business; in which order they go is said by the start (`daemon`).

use std::path::Path;

use crate::config::{self, Config, ListenAddress};
use crate::log::{Log, LogDestination, Severity};
use crate::system::confinement::{self, Use};
use crate::system::privileges;

/// Confines the process to what its configuration names, for good; the keeper is another process. Returns what
/// holds, for people.
///
/// # Errors
/// For people: why nothing does. The process goes on all the same.
pub(super) fn confine(config: &Config) -> Result<String, String> {
    if !config.process.landlock {
        return Err("`landlock = off`".to_owned());
    }
    let mut named: Vec<(Use, &Path)> = Vec::new();
    named.extend(config.files.iter().map(|file| (Use::Read, file.as_path())));
    named.extend(
        config
            .process
            .pid
            .iter()
            .map(|file| (Use::Pid, file.as_path())),
    );
    let of_servers = config.servers.iter().flat_map(|server| &server.error_log);
    for log in config.process.error_log.iter().chain(of_servers) {
        if let LogDestination::File(file) = &log.destination {
            named.push((Use::Log, file));
        }
    }
    for listen in config.servers.iter().flat_map(|server| &server.listen) {
        if let ListenAddress::Unix(file) = &listen.address {
            named.push((Use::Socket, file));
        }
    }
    if let config::Control::At(file) = &config.process.control {
        named.push((Use::Socket, file));
    }
    confinement::confine(&named)
}

pub(super) fn say_what_holds(landlock: &Result<String, String>, log: &Log) {
    let capabilities = privileges::show_capabilities();
    let text = match landlock {
        Ok(holds) => {
            format!("confined: {holds}, no new privileges, capabilities: {capabilities}")
        }
        Err(why) => format!(
            "not confined to its files: {why}; no new privileges, capabilities: {capabilities}"
        ),
    };
    log.write(Severity::Notice, file!(), &text, None, None);
}
