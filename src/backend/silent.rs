//! Which hosts leave our questions in a login without an answer, so that not every login waits for it.
//!
//! What is asked is the dialects' business. A host that answers anything at all, a refusal included, is not
//! silent.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// After so many questions in a row without an answer a host is asked no more: one can be lost with a host
/// that is being restarted.
const IN_A_ROW: u32 = 3;

/// For so long. Then it is asked once more.
const LATELY: Duration = Duration::from_secs(300);

/// Most hosts that are remembered; auth servers can name others without end.
const REMEMBERED: usize = 1024;

/// Whether a question was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answered {
    Yes,
    No,
}

/// The memory of the process.
#[derive(Debug, Default)]
pub(crate) struct Silent(Mutex<HashMap<SocketAddr, Strikes>>);

#[derive(Debug)]
struct Strikes {
    in_a_row: u32,
    last: Instant,
}

impl Silent {
    /// Whether this host is not to be asked now.
    pub(crate) fn has(&self, address: SocketAddr) -> bool {
        let hosts = self.lock();
        let strikes = hosts.get(&address);
        strikes
            .is_some_and(|strikes| strikes.in_a_row >= IN_A_ROW && strikes.last.elapsed() < LATELY)
    }

    /// Takes note of how a question went.
    pub(super) fn note(&self, address: SocketAddr, answered: Answered) {
        let mut hosts = self.lock();
        match answered {
            Answered::Yes => {
                hosts.remove(&address);
            }
            Answered::No => {
                if hosts.len() >= REMEMBERED && !hosts.contains_key(&address) {
                    hosts.clear();
                }
                let now = Instant::now();
                let new = Strikes {
                    in_a_row: 0,
                    last: now,
                };
                let strikes = hosts.entry(address).or_insert(new);
                strikes.in_a_row = strikes.in_a_row.saturating_add(1);
                strikes.last = now;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Strikes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_silent_after_three_questions_in_a_row() {
        let silent = Silent::default();
        let [one, two] = [1, 2].map(|last| SocketAddr::from(([192, 0, 2, last], 143)));
        for answered in [
            Answered::No,
            Answered::No,
            Answered::Yes,
            Answered::No,
            Answered::No,
        ] {
            silent.note(one, answered);
            assert!(!silent.has(one));
        }
        silent.note(one, Answered::No);
        assert!(silent.has(one) && !silent.has(two));
        silent.note(one, Answered::Yes);
        assert!(!silent.has(one));
    }
}
