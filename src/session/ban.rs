//! Ending sessions from outside, many at a time: those that an operator means, and those of clients that are
//! not let in any more. Who is kept out is `blocklist`'s business.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::Runtime;
use super::live::{Ending, Entry};
use super::snapshot::Filter;
use crate::limits::redis::Prepared;
use crate::log::{Log, Severity};

/// How long a session gets to end in good order.
const IN_ORDER: Duration = Duration::from_millis(300);

impl Runtime {
    /// Ends sessions: in good order, and after a moment in any case. Before its login a session says
    /// goodbye, unless it was banned; one that waits for its backend ends when that has answered.
    pub(crate) fn end_all(&self, chosen: &[Arc<Entry>], ending: Ending) {
        for entry in chosen {
            self.end(entry, ending);
        }
        let until = Instant::now() + IN_ORDER;
        let is_there = |number| self.live.find(number).is_some();
        while Instant::now() < until && chosen.iter().any(|entry| is_there(entry.number)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        for entry in chosen.iter().filter(|entry| is_there(entry.number)) {
            self.cut(entry, ending);
        }
    }

    /// From now on this store is shared with other nodes, or none is. What they ban ends sessions here too.
    ///
    /// # Errors
    /// The system starts no more threads.
    pub(crate) fn share(
        self: &Arc<Self>,
        store: Option<Prepared>,
        log: &Log,
    ) -> std::io::Result<()> {
        let (runtime, log_of_bans) = (Arc::downgrade(self), log.clone());
        let banned = move |nets: &[IpNet]| {
            let (Some(runtime), Some(first)) = (runtime.upgrade(), nets.first()) else {
                return;
            };
            let ended = runtime.end_banned(nets);
            let more = match nets.len() {
                1 => String::new(),
                many => format!(" and {} more ranges", many - 1),
            };
            let text =
                format!("another node has banned {first}{more}; {ended} sessions were ended");
            log_of_bans.write(Severity::Notice, file!(), &text, None, None);
        };
        self.shared.share(store, log, banned)
    }

    /// Ends the sessions of clients in ranges that were banned, all at once, and says how many there were. Of a
    /// peer that may say who its client is, only those sessions count in which it has.
    pub(crate) fn end_banned(&self, nets: &[IpNet]) -> usize {
        let mut chosen = self.live.that_fit(&Filter::default());
        chosen.retain(|entry| {
            let client = entry.facts().client;
            let is_in = |ip: IpAddr| nets.iter().any(|net| net.contains(&ip));
            let is_itself = client == entry.peer;
            client.ip().is_some_and(is_in)
                && !(is_itself && entry.peer.is_trusted(&entry.service.conf.set_real_ip_from))
        });
        self.end_all(&chosen, Ending::Banned);
        chosen.len()
    }
}
