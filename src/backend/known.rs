//! What is known of the hosts of a backend, learned by logins and visits. A reload hands it from the old
//! backend to the new one of the same name.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::health::Health;
use crate::config::ProxySsl;
use crate::protocol::{Protocol, Purpose};

/// Most troubles that are remembered; the subjects have addresses in them, which can change without end.
const REMEMBERED: usize = 1024;

/// The memory of one backend.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Which hosts failed lately.
    pub health: Health,
    /// What they offer.
    pub offers: Offers,
    /// What else fails, so that it is told once.
    pub(super) troubles: Troubles,
}

/// The last answer of each host to the question for its capabilities, in the order of the first answers.
#[derive(Debug, Default)]
pub(crate) struct Offers(Mutex<Vec<Offer>>);

#[derive(Debug)]
struct Offer {
    purpose: Purpose,
    address: SocketAddr,
    /// How the host was spoken to: what it said in plain text says nothing about TLS.
    ssl: ProxySsl,
    items: Arc<[String]>,
}

impl Offers {
    /// What the host at this address said when it was spoken to like this.
    pub(crate) fn of(
        &self,
        protocol: Protocol,
        address: SocketAddr,
        ssl: ProxySsl,
    ) -> Option<Arc<[String]>> {
        let offers = self.lock();
        let mut of_host = offers.iter().filter(|offer| offer.address == address);
        let offer = of_host.find(|offer| offer.purpose.protocol == protocol && offer.ssl == ssl)?;
        Some(Arc::clone(&offer.items))
    }

    /// The answers of all hosts.
    pub(super) fn all(&self, purpose: Purpose, ssl: ProxySsl) -> Vec<Vec<String>> {
        let offers = self.lock();
        let fitting = offers.iter();
        let fitting = fitting.filter(|offer| offer.purpose == purpose && offer.ssl == ssl);
        fitting.map(|offer| offer.items.to_vec()).collect()
    }

    /// Takes note of an answer.
    pub(super) fn note(
        &self,
        purpose: Purpose,
        address: SocketAddr,
        ssl: ProxySsl,
        items: Vec<String>,
    ) {
        let new = Offer {
            purpose,
            address,
            ssl,
            items: items.into(),
        };
        let mut offers = self.lock();
        let is_same = |old: &&mut Offer| old.purpose == purpose && old.address == address;
        match offers.iter_mut().find(is_same) {
            Some(old) => *old = new,
            None => offers.push(new),
        }
    }

    /// Forgets the hosts that are gone: those that are at none of these addresses.
    pub(super) fn keep_only(&self, purpose: Purpose, addresses: &[SocketAddr]) {
        let is_there =
            |offer: &Offer| offer.purpose != purpose || addresses.contains(&offer.address);
        self.lock().retain(is_there);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Offer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What fails at present, by its subject.
#[derive(Debug, Default)]
pub(super) struct Troubles(Mutex<HashSet<String>>);

impl Troubles {
    /// Notes whether this fails now; true if that is new.
    pub(super) fn note(&self, subject: &str, fails: bool) -> bool {
        let mut troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !fails {
            return troubles.remove(subject);
        }
        if troubles.len() >= REMEMBERED {
            troubles.clear();
        }
        troubles.insert(subject.to_owned())
    }

    /// Whether this fails at present.
    pub(super) fn is_there(&self, subject: &str) -> bool {
        let troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.contains(subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAP: Purpose = Purpose {
        protocol: Protocol::Imap,
        all_log_in: true,
    };

    #[test]
    fn an_offer_is_that_of_one_host_spoken_to_in_one_way() {
        let offers = Offers::default();
        let [one, two] = [1, 2].map(|last| SocketAddr::from(([192, 0, 2, last], 143)));
        offers.note(IMAP, one, ProxySsl::Off, vec!["A".into()]);
        offers.note(IMAP, two, ProxySsl::Off, vec!["B".into()]);
        offers.note(IMAP, one, ProxySsl::Off, vec!["C".into()]);
        assert_eq!(offers.all(IMAP, ProxySsl::Off), [["C"], ["B"]]);
        assert!(offers.all(IMAP, ProxySsl::StartTls).is_empty());
        assert!(offers.of(Protocol::Imap, one, ProxySsl::On).is_none());
        assert!(offers.of(Protocol::Pop3, one, ProxySsl::Off).is_none());
        offers.keep_only(IMAP, &[two]);
        assert_eq!(offers.all(IMAP, ProxySsl::Off), [["B"]]);
    }

    #[test]
    fn a_trouble_is_new_once() {
        let troubles = Troubles::default();
        assert!(!troubles.note("x", false));
        assert!(troubles.note("x", true));
        assert!(!troubles.note("x", true));
        assert!(troubles.is_there("x") && !troubles.is_there("y"));
        assert!(troubles.note("x", false));
        assert!(!troubles.is_there("x"));
    }
}
