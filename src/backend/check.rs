//! `health_check`: visits to the hosts of a backend that nobody asked for, so that a client need not
//! be the one to find out. A thread a backend, as long as somebody uses the backend.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::probe::Probe;
use super::{Backend, Visits, wait_between};
use crate::net::resolve::Dns;
use crate::protocol::Protocol;
use crate::system::threads::spawn;

/// Starts the checks of a backend that is used for these protocols.
///
/// # Errors
/// The system starts no more threads.
pub(crate) fn start(
    backend: &Arc<Backend>,
    protocols: Vec<Protocol>,
    dns: Dns,
    visits: Weak<Visits>,
) -> std::io::Result<()> {
    let Some(interval) = backend.conf.health_check else {
        return Ok(());
    };
    let backend = Arc::downgrade(backend);
    let check = move || run(&backend, &protocols, &dns, interval, &visits);
    // It ends by itself with the visits.
    spawn("health", check).map(drop)
}

fn run(
    backend: &Weak<Backend>,
    protocols: &[Protocol],
    dns: &Dns,
    interval: Duration,
    visits: &Weak<Visits>,
) {
    while let Some(backend) = backend.upgrade() {
        for &protocol in protocols {
            visit_all(&backend, protocol, dns);
        }
        drop(backend);
        if !wait_between(visits, interval) {
            return;
        }
    }
}

fn visit_all(backend: &Backend, protocol: Protocol, dns: &Dns) {
    let deadline = Instant::now() + backend.conf.connect_timeout;
    // Without an address there is nothing to say that a session would not say better.
    let hosts = backend
        .addresses(protocol, dns, deadline)
        .unwrap_or_default();
    for host in hosts {
        match Probe::greet(backend, protocol, &host) {
            Ok(probe) => {
                probe.leave();
                backend.note_answer(host.address);
            }
            Err(reason) => backend.note_failure(host.address, &reason),
        }
    }
}
