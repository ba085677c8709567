//! `imap_capabilities = auto` and its like: what the backends offer, less what a proxy cannot do
//! before the login. What the client learns afterwards comes from the backend itself.
//!
//! Asked at the start, again until every backend has answered, and then now and then.

use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use super::probe::Probe;
use super::route::Router;
use super::{Backend, Visits, wait_between};
use crate::log::{Log, Severity, escape};
use crate::net::resolve::Dns;
use crate::protocol::Protocol;
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
    /// `server_name`: what SMTP backends are greeted with.
    pub server_name: String,
    /// The protocol that the backends are asked in.
    pub protocol: Protocol,
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
        let list = before_login(self.protocol, &lists);
        let text = format!("capabilities of the backends: {}", list.join(", "));
        let text = format!("server \"{}\": {}", self.server, escape(text.as_bytes()));
        self.log.write(Severity::Info, file!(), &text, None, None);
        Some(list)
    }

    /// The list of the first host that answers.
    fn ask_one(&self, backend: &Backend) -> Option<Vec<String>> {
        let deadline = Instant::now() + backend.conf.connect_timeout;
        let hosts = backend
            .candidates(self.protocol, &self.dns, deadline)
            .unwrap_or_default();
        let mut answers = hosts.iter().map(|host| {
            let mut probe = Probe::greet(backend, self.protocol, host)?;
            let list = probe.capabilities(backend, &host.host, &self.server_name)?;
            probe.leave();
            Ok::<_, String>(list)
        });
        answers.find_map(Result::ok)
    }
}

/// What all lists have in common and a proxy can do before the login, in the first one's order.
pub(crate) fn before_login(protocol: Protocol, lists: &[Vec<String>]) -> Vec<String> {
    let Some((first, others)) = lists.split_first() else {
        return Vec::new();
    };
    let in_all = |item: &str| {
        others
            .iter()
            .all(|list| list.iter().any(|other| other.eq_ignore_ascii_case(item)))
    };
    let mut common: Vec<String> = first
        .iter()
        .filter(|item| can_be_said(protocol, item) && in_all(item))
        .map(|item| item.to_ascii_uppercase())
        .collect();
    match protocol {
        Protocol::Imap => {
            common.retain(|item| item != "IMAP4REV1");
            common.insert(0, "IMAP4rev1".into());
            common.extend(["LITERAL-", "SASL-IR", "ID"].map(str::to_owned));
        }
        Protocol::Pop3 => {}
        Protocol::Smtp => {
            if lists.iter().all(|list| size(list).is_some()) {
                let limits = lists
                    .iter()
                    .filter_map(|list| size(list))
                    .filter(|&limit| limit > 0);
                common.push(match limits.min() {
                    Some(limit) => format!("SIZE {limit}"),
                    None => "SIZE".into(),
                });
            }
        }
    }
    common
}

/// RFC 1870: the largest message, 0 where there is no limit; `None` where SIZE is not offered.
fn size(list: &[String]) -> Option<u64> {
    list.iter().find_map(|item| {
        let mut words = item.split_ascii_whitespace();
        let is_size = words.next()?.eq_ignore_ascii_case("SIZE");
        is_size.then(|| {
            words
                .next()
                .and_then(|limit| limit.parse().ok())
                .unwrap_or(0)
        })
    })
}

/// Whether the proxy keeps what the capability promises, as far as that is before the login, and does
/// not say it by itself.
fn can_be_said(protocol: Protocol, item: &str) -> bool {
    /// Promise something before the login, or are told by the proxy itself.
    const IMAP: [&str; 9] = [
        "STARTTLS",
        "LOGINDISABLED",
        "LITERAL+",
        "LITERAL-",
        "SASL-IR",
        "ID",
        "IMAP4REV2",
        "LOGIN-REFERRALS",
        "LANGUAGE",
    ];
    const POP3: [&str; 5] = ["SASL", "STLS", "IMPLEMENTATION", "UTF8", "LANG"];
    const SMTP: [&str; 16] = [
        "AUTH",
        "STARTTLS",
        "CHUNKING",
        "BINARYMIME",
        "BURL",
        "ETRN",
        "XCLIENT",
        "XFORWARD",
        "VRFY",
        "EXPN",
        "HELP",
        "TURN",
        "ATRN",
        "SIZE",
        "REQUIRETLS",
        "X-EXPS",
    ];
    let item = item.to_ascii_uppercase();
    let word = item.split([' ', '=']).next().unwrap_or_default();
    if item.is_empty() || !item.bytes().all(|byte| (b' '..0x7f).contains(&byte)) {
        return false;
    }
    match protocol {
        Protocol::Imap => {
            let of_login = item.starts_with("AUTH=") || item.starts_with("COMPRESS=");
            !of_login && !item.ends_with("-PLUS") && !item.contains(' ') && !IMAP.contains(&word)
        }
        Protocol::Pop3 => !POP3.contains(&word),
        Protocol::Smtp => !SMTP.contains(&word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[&str]) -> Vec<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    #[test]
    fn what_a_proxy_cannot_do_before_login_is_taken_out() {
        let imap = list(&[
            "IMAP4rev1",
            "IMAP4rev2",
            "SASL-IR",
            "STARTTLS",
            "AUTH=PLAIN",
            "AUTH=SCRAM-SHA-256-PLUS",
            "COMPRESS=DEFLATE",
            "LITERAL+",
            "IDLE",
            "UIDPLUS",
        ]);
        let said = before_login(Protocol::Imap, &[imap]);
        assert_eq!(
            said,
            list(&["IMAP4rev1", "IDLE", "UIDPLUS", "LITERAL-", "SASL-IR", "ID"])
        );
        let smtp = list(&[
            "PIPELINING",
            "SIZE 100",
            "VRFY",
            "ETRN",
            "CHUNKING",
            "AUTH PLAIN",
            "8BITMIME",
        ]);
        let said = before_login(Protocol::Smtp, &[smtp]);
        assert_eq!(said, list(&["PIPELINING", "8BITMIME", "SIZE 100"]));
        let pop3 = list(&[
            "CAPA",
            "TOP",
            "SASL PLAIN",
            "STLS",
            "UIDL",
            "IMPLEMENTATION x",
        ]);
        assert_eq!(
            before_login(Protocol::Pop3, &[pop3]),
            list(&["CAPA", "TOP", "UIDL"])
        );
    }

    #[test]
    fn several_backends_offer_what_all_of_them_do_and_the_smallest_size() {
        let one = list(&["PIPELINING", "SIZE 200", "DSN"]);
        let two = list(&["dsn", "SIZE 100"]);
        assert_eq!(
            before_login(Protocol::Smtp, &[one.clone(), two]),
            list(&["DSN", "SIZE 100"])
        );
        let unlimited = list(&["PIPELINING", "SIZE", "DSN"]);
        assert_eq!(
            before_login(Protocol::Smtp, &[one.clone(), unlimited]),
            list(&["PIPELINING", "DSN", "SIZE 200"])
        );
        assert_eq!(
            before_login(Protocol::Smtp, &[one, list(&["DSN"])]),
            list(&["DSN"])
        );
    }
}
