//! `imap_capabilities = auto` and its like: what the backends offer, as far as a client may be told
//! before its login, which each dialect has a list of. What the client learns afterwards comes from the
//! backend itself.
//!
//! Asked at the start, again until every backend has answered, and then now and then.

use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use super::route::Router;
use super::visit::Visitor;
use super::{Backend, Visits, wait_between};
use crate::log::{Log, Severity, escape};
use crate::net::resolve::Dns;
use crate::system::threads::spawn;

/// When to ask again as long as a backend has not answered.
const RETRY: Duration = Duration::from_secs(10);

/// When to ask again afterwards.
const REFRESH: Duration = Duration::from_secs(3600);

/// What the backends offer to the clients of one server, once they have all been asked.
#[derive(Debug, Default)]
pub(crate) struct Learned(RwLock<Option<Arc<[String]>>>);

impl Learned {
    /// The list, once it is known.
    pub(crate) fn list(&self) -> Option<Arc<[String]>> {
        let list = self.0.read().unwrap_or_else(PoisonError::into_inner);
        list.clone()
    }

    fn take(&self, list: Vec<String>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(list.into());
    }
}

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

/// Keeps a server's list up to date for as long as it is used, and the visits go on.
///
/// # Errors
/// The system starts no more threads.
pub(crate) fn start(asker: Asker, visits: Weak<Visits>) -> std::io::Result<()> {
    // It ends by itself with the visits.
    spawn("capabilities", move || run(&asker, &visits)).map(drop)
}

fn run(asker: &Asker, visits: &Weak<Visits>) {
    while let Some(learned) = asker.learned.upgrade() {
        let list = asker.ask();
        let pause = if list.is_some() { REFRESH } else { RETRY };
        if let Some(list) = list {
            learned.take(list);
        }
        drop(learned);
        if !wait_between(visits, pause) {
            return;
        }
    }
}

impl Asker {
    /// Asks every backend once; `None` until all have answered.
    fn ask(&self) -> Option<Vec<String>> {
        let backends = self.router.backends().iter();
        let lists: Vec<_> = backends
            .filter_map(|backend| self.ask_one(backend))
            .collect();
        if lists.len() < self.router.backends().len() {
            return None;
        }
        let list = (self.visitor.dialogue.before_login)(&lists);
        let text = format!("capabilities of the backends: {}", list.join(", "));
        let text = format!("server \"{}\": {}", self.server, escape(text.as_bytes()));
        self.log.write(Severity::Info, file!(), &text, None, None);
        Some(list)
    }

    /// The list of the first host that answers.
    fn ask_one(&self, backend: &Backend) -> Option<Vec<String>> {
        let deadline = Instant::now() + backend.conf.connect_timeout;
        let hosts = backend
            .candidates(self.visitor.purpose, &self.dns, deadline)
            .unwrap_or_default();
        hosts
            .iter()
            .find_map(|host| self.visitor.ask_capabilities(backend, host).ok())
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
    first
        .iter()
        .filter(|item| item.bytes().all(|byte| (b' '..0x7f).contains(&byte)) && in_all(item))
        .map(|item| item.to_ascii_uppercase())
        .filter(|item| may_be_told(item))
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
}
