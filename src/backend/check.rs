//! `health_check`: visits to the hosts of a backend that nobody asked for, so that a client need not
//! be the one to find out. A thread a backend, as long as somebody uses the backend.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::visit::Visitor;
use super::{Backend, Visits, wait_between};
use crate::net::resolve::Dns;
use crate::system::threads::spawn;

/// Starts the checks of a backend, one visitor for each purpose that it is used for.
///
/// # Errors
/// The system starts no more threads.
pub(crate) fn start(
    backend: &Arc<Backend>,
    visitors: Vec<Visitor>,
    dns: Dns,
    visits: Weak<Visits>,
) -> std::io::Result<()> {
    let Some(interval) = backend.conf.health_check else {
        return Ok(());
    };
    let backend = Arc::downgrade(backend);
    let check = move || run(&backend, &visitors, &dns, interval, &visits);
    // It ends by itself with the visits.
    spawn("health", check).map(drop)
}

fn run(
    backend: &Weak<Backend>,
    visitors: &[Visitor],
    dns: &Dns,
    interval: Duration,
    visits: &Weak<Visits>,
) {
    while let Some(backend) = backend.upgrade() {
        for visitor in visitors {
            visit_all(&backend, visitor, dns);
        }
        drop(backend);
        if !wait_between(visits, interval) {
            return;
        }
    }
}

fn visit_all(backend: &Backend, visitor: &Visitor, dns: &Dns) {
    let deadline = Instant::now() + backend.conf.connect_timeout;
    // Names without an address were told of where they were looked up.
    let hosts = backend.addresses(visitor.purpose, dns, deadline);
    for host in hosts.unwrap_or_default() {
        visitor.look_at(backend, &host);
    }
}
