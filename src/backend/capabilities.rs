//! `imap_capabilities = auto` and its like: what the backends offer, as far as a client may be told
//! before its login, which each dialect has a list of. What the client learns afterwards comes from the
//! backend itself.
//!
//! Every host is asked at the start, again until it has answered, and then now and then. The list is what
//! those have in common that have answered at any time; a reload forgets nothing (`known`).

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use super::route::Router;
use super::visit::Visitor;
use super::{Backend, Visits, wait_between};
use crate::log::{Log, Severity, escape};
use crate::net::resolve::Dns;
use crate::system::threads::spawn;

/// When to ask a host again that has not answered.
const RETRY: Duration = Duration::from_secs(10);

/// When to ask again afterwards.
const REFRESH: Duration = Duration::from_secs(3600);

/// What the backends offer to the clients of one server, as far as they have answered.
#[derive(Debug, Default)]
pub(crate) struct Learned(RwLock<Option<Arc<[String]>>>);

impl Learned {
    /// The list, once a host has answered.
    pub(crate) fn list(&self) -> Option<Arc<[String]>> {
        let list = self.0.read().unwrap_or_else(PoisonError::into_inner);
        list.clone()
    }

    /// Takes another list; false if it is the same.
    fn take(&self, list: &[String]) -> bool {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = known.as_deref() != Some(list);
        *known = Some(list.into());
        is_new
    }
}

/// Most items that clients are told, each once: a host can say thousands, and the same one again and again.
const MOST: usize = 100;

/// Longest item that they are told, in bytes.
const LONGEST: usize = 255;

/// When the hosts of each backend have answered last.
type Answered = HashMap<(String, SocketAddr), Instant>;

/// A server that wants to know what its backends offer.
#[derive(Debug)]
pub(crate) struct Asker {
    /// NAME of its section, for the log.
    pub server: String,
    /// Asks the backends.
    pub visitor: Visitor,
    /// Holds the backends.
    pub router: Arc<Router>,
    /// Who knows their addresses.
    pub dns: Dns,
    /// Where the list is told.
    pub log: Log,
    /// Where the list goes; whose end is the end of asking.
    pub learned: Weak<Learned>,
}

/// Keeps a server's list up to date for as long as it is used, and the visits go on. What is known before
/// the first answer is in it when this returns.
///
/// # Errors
/// The system starts no more threads.
pub(crate) fn start(asker: Asker, visits: Weak<Visits>) -> std::io::Result<()> {
    if let Some(learned) = asker.learned.upgrade() {
        asker.settle(&learned);
    }
    // It ends by itself with the visits.
    spawn("capabilities", move || run(&asker, &visits)).map(drop)
}

fn run(asker: &Asker, visits: &Weak<Visits>) {
    let mut answered = Answered::new();
    while let Some(learned) = asker.learned.upgrade() {
        let mut complete = true;
        for backend in asker.router.backends() {
            complete &= asker.ask(backend, &mut answered, visits);
        }
        asker.settle(&learned);
        drop(learned);
        if !wait_between(visits, if complete { REFRESH } else { RETRY }) {
            return;
        }
    }
}

impl Asker {
    /// Asks the hosts of a backend that have not answered lately; whether all have now. It stops when the
    /// visits are over: what is known of the backend is that of the next configuration then, whose hosts may
    /// be others.
    fn ask(&self, backend: &Backend, answered: &mut Answered, visits: &Weak<Visits>) -> bool {
        let purpose = self.visitor.purpose;
        if backend.conf.hosts(purpose.protocol).is_empty() {
            return true;
        }
        let deadline = Instant::now() + backend.conf.connect_timeout;
        let Ok(hosts) = backend.addresses(purpose, &self.dns, deadline) else {
            return false;
        };
        let addresses: Vec<_> = hosts.iter().map(|host| host.address).collect();
        if visits.strong_count() == 0 {
            return false;
        }
        backend.known.offers.keep_only(purpose, &addresses);
        answered.retain(|_, at| at.elapsed() < REFRESH);
        let mut complete = true;
        for host in &hosts {
            if visits.strong_count() == 0 {
                return false;
            }
            let key = (backend.conf.name.clone(), host.address);
            if answered.contains_key(&key) {
                continue;
            }
            if self.visitor.ask_capabilities(backend, host) {
                answered.insert(key, Instant::now());
            } else {
                complete = false;
            }
        }
        complete
    }

    /// Makes the server's list of what is known. While nothing is, it stays as it is.
    fn settle(&self, learned: &Learned) {
        let of_backend = |backend: &Arc<Backend>| {
            let offers = &backend.known.offers;
            let ssl = backend.conf.ssl(self.visitor.purpose.protocol);
            offers.all(self.visitor.purpose, ssl)
        };
        let lists: Vec<_> = self.router.backends().iter().flat_map(of_backend).collect();
        if lists.is_empty() {
            return;
        }
        let list = (self.visitor.dialogue.before_login)(&lists);
        if !learned.take(&list) {
            return;
        }
        let text = format!("capabilities of the backends: {}", list.join(", "));
        let text = format!("server \"{}\": {}", self.server, escape(text.as_bytes()));
        self.log.write(Severity::Info, file!(), &text, None, None);
    }
}

/// What all lists have in common and `may_be_told` allows, in the first one's order and in upper case.
pub(crate) fn common(lists: &[Vec<String>], may_be_told: fn(&str) -> bool) -> Vec<String> {
    let Some((first, others)) = lists.split_first() else {
        return Vec::new();
    };
    let in_all = |item: &str| {
        others
            .iter()
            .all(|list| list.iter().any(|other| other.eq_ignore_ascii_case(item)))
    };
    let is_text = |item: &&String| {
        item.len() <= LONGEST && item.bytes().all(|byte| (b' '..0x7f).contains(&byte))
    };
    let mut told = HashSet::new();
    first
        .iter()
        .filter(is_text)
        .map(|item| item.to_ascii_uppercase())
        .filter(|item| may_be_told(item) && told.insert(item.clone()))
        .take(MOST)
        .filter(|item| in_all(item))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_backends_offer_what_all_of_them_do_in_the_order_of_the_first() {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
        let lists = [list(&["b", "A", "c", "a\r"]), list(&["C", "a\r", "B"])];
        assert_eq!(common(&lists, |_| true), ["B", "C"]);
        assert_eq!(common(&lists, |item| item != "B"), ["C"]);
        assert!(common(&[], |_| true).is_empty());
    }

    #[test]
    fn a_host_that_says_too_much_is_told_of_within_bounds() {
        let again = vec!["A".to_owned(); 30_000];
        let many: Vec<String> = (0..30_000).map(|number| format!("A {number}")).collect();
        assert_eq!(common(&[again.clone(), again], |_| true), ["A"]);
        let began = Instant::now();
        assert_eq!(common(&[many.clone(), many], |_| true).len(), MOST);
        assert!(began.elapsed().as_secs() < 2, "{:?}", began.elapsed());
        assert!(common(&[vec!["A".repeat(LONGEST + 1)]], |_| true).is_empty());
    }
}
