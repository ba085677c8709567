//! How many sessions each server has, and in which state: looked at when somebody asks, rather than counted
//! at every step.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::live::{Entry, Live};
use super::snapshot::{State, state};
use crate::metrics::{ServerMetrics, read};

/// The sessions of one server.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Whose they are.
    pub metrics: Arc<ServerMetrics>,
    /// How many there are in each state, in the order of `State::ALL`.
    pub states: [u64; State::ALL.len()],
    /// How many of them wait without a thread, before their login or behind it.
    pub sleeping: u64,
    /// Bytes from clients to backends, and the other way, of all sessions so far.
    pub bytes: [u64; 2],
}

/// Those of these servers, and of servers that a reload has taken away while sessions still run on them.
pub(crate) fn tally(live: &Live, servers: &[Arc<ServerMetrics>]) -> Vec<Tally> {
    let empty = |metrics: &Arc<ServerMetrics>| Tally {
        metrics: Arc::clone(metrics),
        states: Default::default(),
        sleeping: 0,
        bytes: metrics.bytes.each_ref().map(read),
    };
    // A session that ends leaves its bytes to its server under this lock: none is counted twice.
    let entries = live.lock();
    let mut tallies: Vec<Tally> = servers.iter().map(empty).collect();
    let mut seen: Vec<(usize, Arc<Entry>)> = Vec::with_capacity(entries.len());
    for entry in entries.values() {
        let of_server = |tally: &Tally| Arc::ptr_eq(&tally.metrics, &entry.service.metrics);
        let at = tallies.iter().position(of_server).unwrap_or_else(|| {
            tallies.push(empty(&entry.service.metrics));
            tallies.len() - 1
        });
        for (all, of_session) in tallies[at].bytes.iter_mut().zip(&entry.bytes) {
            *all += read(of_session);
        }
        seen.push((at, Arc::clone(entry)));
    }
    drop(entries);
    for (at, entry) in seen {
        let state = state(&entry, &entry.facts());
        tallies[at].states[state as usize] += 1;
        tallies[at].sleeping += u64::from(entry.sleeps.load(Ordering::Relaxed));
    }
    tallies
}
