//! What the process looks at when it starts: whether the system's limits carry the sessions that it may
//! have, whether the clock can be right, and whether it has kept root's rights. What would only show itself
//! on the busiest day keeps it from starting, or is a warning in its log.
//!
//! Not for mistakes in the configuration (`config`), for addresses where nobody can listen (`front`), or for
//! what the process gives up (`rights`): all this reads, and changes nothing but the limit of open files.

use std::time::{Duration, SystemTime};

use crate::config::{self, Config};
use crate::log::{Log, Severity};
use crate::net::resolve;
use crate::system::{limits, privileges};

/// Descriptors that are no session's: logs, listeners, auth servers, look-ups of hosts.
const DESCRIPTORS_ASIDE: u64 = 256;

/// Threads that are neither workers nor relays.
const THREADS_ASIDE: u64 = 64;

/// When this was written, roughly: 1 November 2026.
const WRITTEN: Duration = Duration::from_secs(1_793_491_200);

/// Two descriptors a session; a limit that is too low would show itself on the busiest day.
pub(super) fn check_descriptors(config: &Config) -> Result<(), String> {
    let wanted = config.process.max_sessions as u64;
    let mut servers = config.servers.iter();
    let names_clients = |server: &config::Server| {
        server.protocol.record().looks_up_client && server.resolver.is_some()
    };
    let aside = match servers.any(names_clients) {
        true => DESCRIPTORS_ASIDE + resolve::MOST_FOR_CLIENTS as u64,
        false => DESCRIPTORS_ASIDE,
    };
    let needed = 2 * wanted + aside;
    let limit = limits::raise_open_files();
    if limit >= needed {
        return Ok(());
    }
    let possible = limit.saturating_sub(aside) / 2;
    let or_less = match possible {
        0 => String::new(),
        possible => format!(" or set `max_sessions = {possible}`"),
    };
    Err(format!(
        "`max_sessions = {wanted}` needs {needed} open files, but the limit is {limit}: raise it \
         (systemd: LimitNOFILE={needed}; shell: ulimit -n {needed}){or_less}"
    ))
}

/// Two threads a session that is busy, and the workers. That many are needed on the busiest day only, so
/// it is a warning: who is silent holds none.
pub(super) fn warn_of_few_threads(process: &config::Process, log: &Log) {
    let (wanted, workers) = (process.max_sessions as u64, process.workers as u64);
    let needed = 2 * wanted + workers + THREADS_ASIDE;
    for shortage in limits::too_low_for(needed) {
        let text = format!(
            "`max_sessions = {wanted}` may need {needed} threads when all sessions are busy, but {} \
             allows {}: raise it, or lower `max_sessions`",
            shortage.limit, shortage.threads
        );
        log.write(Severity::Warn, file!(), &text, None, None);
    }
}

/// A machine without a battery begins in 1970, and then no certificate is valid yet.
pub(super) fn warn_of_wrong_clock(log: &Log) {
    if SystemTime::now() < SystemTime::UNIX_EPOCH + WRITTEN {
        let text = "the system's clock is wrong: it shows a time before this program was written, when \
                    certificates are not valid yet; set it (systemd: systemd-timesyncd)";
        log.write(Severity::Warn, file!(), text, None, None);
    }
}

/// Root is needed for its ports and keys alone.
pub(super) fn warn_of_root(log: &Log) {
    if privileges::is_root() {
        let text = "running as root: name a `user` in [postern] to become once the ports are bound";
        log.write(Severity::Warn, file!(), text, None, None);
    }
}
