//! What the backends of a server have said of themselves when they were asked (IMAP's ID), so that clients
//! can be told before their login.
//!
//! What stands in it was parsed and written anew by its dialect. A reload forgets it: the next logins teach
//! it again.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Most hosts that are remembered; auth servers can name others without end.
const REMEMBERED: usize = 64;

/// The last answers of the hosts of one server.
#[derive(Debug, Default)]
pub(crate) struct Identities(Mutex<Vec<(SocketAddr, Arc<[u8]>)>>);

impl Identities {
    /// Takes note of a host's answer.
    pub(crate) fn note(&self, address: SocketAddr, answer: &[u8]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.iter_mut().find(|(host, _)| *host == address) {
            Some((_, old)) if **old == *answer => {}
            Some((_, old)) => *old = answer.into(),
            None => {
                if known.len() >= REMEMBERED {
                    known.clear();
                }
                known.push((address, answer.into()));
            }
        }
    }

    /// What all hosts have said that were asked; none where they differ: before a login nobody knows to which
    /// of them it goes.
    pub(crate) fn common(&self) -> Option<Arc<[u8]>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, first) = known.first()?;
        let is_same = |(_, other): &(SocketAddr, Arc<[u8]>)| other == first;
        known.iter().all(is_same).then(|| Arc::clone(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_differ_have_nothing_in_common() {
        let identities = Identities::default();
        let [one, two] = [1, 2].map(|last| SocketAddr::from(([192, 0, 2, last], 143)));
        assert_eq!(identities.common(), None);
        identities.note(one, b"a");
        identities.note(two, b"a");
        assert_eq!(identities.common().as_deref(), Some(&b"a"[..]));
        identities.note(two, b"b");
        assert_eq!(identities.common(), None);
        identities.note(one, b"b");
        assert_eq!(identities.common().as_deref(), Some(&b"b"[..]));
    }
}
