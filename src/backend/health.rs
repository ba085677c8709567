//! What is known of a backend's hosts: which of them failed lately, and whose turn it is.
//!
//! A host that failed is tried last until `fail_timeout` is over. Each change is logged once.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Candidate;

/// Most failed addresses that are remembered; names can change theirs without end.
const REMEMBERED: usize = 1024;

/// The memory of one backend.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// What failed. It stays here until it answers again.
    failed: Mutex<HashMap<SocketAddr, Failed>>,
    turn: AtomicUsize,
}

/// An address that failed.
#[derive(Debug)]
struct Failed {
    /// Until when it is tried last.
    until: Instant,
    /// Whose address it is, as the configuration names it.
    host: String,
}

impl Health {
    /// Whether the address failed lately.
    pub(crate) fn has_failed(&self, address: SocketAddr) -> bool {
        let until = self.lock().get(&address).map(|failed| failed.until);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// The addresses that have not answered since they failed, and failed lately or less than `grace` before
    /// that was over.
    pub(crate) fn down(&self, grace: Duration) -> Vec<SocketAddr> {
        let now = Instant::now();
        let failed = self.lock();
        let lately = failed
            .iter()
            .filter(|(_, failed)| now < failed.until + grace);
        let mut down: Vec<SocketAddr> = lately.map(|(address, _)| *address).collect();
        down.sort_unstable();
        down
    }

    /// Whether an address of this host did not serve on this port when it was tried last.
    pub(crate) fn is_down(&self, host: &str, port: u16) -> bool {
        let failed = self.lock();
        let mut of_port = failed.iter().filter(|(address, _)| address.port() == port);
        of_port.any(|(_, failed)| failed.host == host)
    }

    /// Notes a failure; true if the address was good so far.
    pub(crate) fn failed(&self, candidate: &Candidate, fail_timeout: Duration) -> bool {
        let mut failed = self.lock();
        if failed.len() >= REMEMBERED {
            let now = Instant::now();
            failed.retain(|_, failed| failed.until > now);
        }
        if failed.len() >= REMEMBERED {
            return false;
        }
        let of_host = Failed {
            until: Instant::now() + fail_timeout,
            host: candidate.host.clone(),
        };
        failed.insert(candidate.address, of_host).is_none()
    }

    /// The name of a host stands for these addresses now. Of others nothing is known any more: nobody would
    /// ever find out that they answer again.
    pub(crate) fn stands_for(&self, host: &str, port: u16, addresses: &[SocketAddr]) {
        let is_gone = |address: &SocketAddr, failed: &Failed| {
            failed.host == host && address.port() == port && !addresses.contains(address)
        };
        self.lock()
            .retain(|address, failed| !is_gone(address, failed));
    }

    /// Notes that the address answers; true if it did not before.
    pub(crate) fn answered(&self, address: SocketAddr) -> bool {
        self.lock().remove(&address).is_some()
    }

    /// Which of `hosts` hosts begins this time, for `balance = round_robin`.
    pub(crate) fn next_turn(&self, hosts: usize) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed) % hosts.max(1)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Failed>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Candidate {
        Candidate {
            host: "mail.test".to_owned(),
            address: SocketAddr::from(([192, 0, 2, 1], 143)),
            named_in: String::new(),
        }
    }

    #[test]
    fn a_change_is_told_once() {
        let (health, host) = (Health::default(), host());
        let address = host.address;
        assert!(!health.answered(address));
        assert!(health.failed(&host, Duration::from_secs(30)));
        assert!(!health.failed(&host, Duration::from_secs(30)));
        assert!(health.has_failed(address));
        assert!(health.answered(address));
        assert!(!health.has_failed(address));
    }

    #[test]
    fn a_host_is_down_on_the_port_that_failed_until_it_answers() {
        let (health, host) = (Health::default(), host());
        assert!(!health.is_down("mail.test", 143));
        health.failed(&host, Duration::ZERO);
        assert!(health.is_down("mail.test", 143));
        assert!(!health.is_down("mail.test", 110) && !health.is_down("other.test", 143));
        health.answered(host.address);
        assert!(!health.is_down("mail.test", 143));
    }

    #[test]
    fn a_host_is_not_down_for_an_address_that_it_has_no_more() {
        let (health, host) = (Health::default(), host());
        let other = SocketAddr::from(([192, 0, 2, 2], 143));
        health.failed(&host, Duration::from_secs(30));
        health.stands_for("mail.test", 143, &[host.address, other]);
        health.stands_for("mail.test", 110, &[]);
        health.stands_for("other.test", 143, &[]);
        assert!(health.is_down("mail.test", 143));
        health.stands_for("mail.test", 143, &[other]);
        assert!(!health.is_down("mail.test", 143));
    }

    #[test]
    fn a_failure_is_over_after_its_time() {
        let (health, host) = (Health::default(), host());
        health.failed(&host, Duration::ZERO);
        assert!(!health.has_failed(host.address));
    }

    #[test]
    fn turns_go_round() {
        let health = Health::default();
        let turns: Vec<_> = (0..5).map(|_| health.next_turn(2)).collect();
        assert_eq!(turns, [0, 1, 0, 1, 0]);
    }
}
