//! What is known of a backend's hosts: which of them failed lately, and whose turn it is.
//!
//! A host that failed is tried last until `fail_timeout` is over. Each change is logged once.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most failed addresses that are remembered; names can change theirs without end.
const REMEMBERED: usize = 1024;

/// The memory of one backend.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Until when an address is tried last. It stays here until it answers again.
    failed: Mutex<HashMap<SocketAddr, Instant>>,
    turn: AtomicUsize,
}

impl Health {
    /// Whether the address failed lately.
    pub(crate) fn has_failed(&self, address: SocketAddr) -> bool {
        let until = self.lock().get(&address).copied();
        until.is_some_and(|until| Instant::now() < until)
    }

    /// The addresses that have not answered since they failed, and failed lately or less than `grace` before
    /// that was over.
    pub(crate) fn down(&self, grace: Duration) -> Vec<SocketAddr> {
        let now = Instant::now();
        let failed = self.lock();
        let lately = failed.iter().filter(|(_, until)| now < **until + grace);
        let mut down: Vec<SocketAddr> = lately.map(|(address, _)| *address).collect();
        down.sort_unstable();
        down
    }

    /// Notes a failure; true if the address was good so far.
    pub(crate) fn failed(&self, address: SocketAddr, fail_timeout: Duration) -> bool {
        let mut failed = self.lock();
        if failed.len() >= REMEMBERED {
            let now = Instant::now();
            failed.retain(|_, until| *until > now);
        }
        if failed.len() >= REMEMBERED {
            return false;
        }
        failed
            .insert(address, Instant::now() + fail_timeout)
            .is_none()
    }

    /// Notes that the address answers; true if it did not before.
    pub(crate) fn answered(&self, address: SocketAddr) -> bool {
        self.lock().remove(&address).is_some()
    }

    /// Which of `hosts` hosts begins this time, for `balance = round_robin`.
    pub(crate) fn next_turn(&self, hosts: usize) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed) % hosts.max(1)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Instant>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once() {
        let health = Health::default();
        let address = SocketAddr::from(([192, 0, 2, 1], 143));
        assert!(!health.answered(address));
        assert!(health.failed(address, Duration::from_secs(30)));
        assert!(!health.failed(address, Duration::from_secs(30)));
        assert!(health.has_failed(address));
        assert!(health.answered(address));
        assert!(!health.has_failed(address));
    }

    #[test]
    fn a_failure_is_over_after_its_time() {
        let health = Health::default();
        let address = SocketAddr::from(([192, 0, 2, 1], 143));
        health.failed(address, Duration::ZERO);
        assert!(!health.has_failed(address));
    }

    #[test]
    fn turns_go_round() {
        let health = Health::default();
        let turns: Vec<_> = (0..5).map(|_| health.next_turn(2)).collect();
        assert_eq!(turns, [0, 1, 0, 1, 0]);
    }
}
