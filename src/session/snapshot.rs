//! What an operator may see of the sessions, and which of them he means: nothing here changes a session.
//!
//! A snapshot is made one session at a time, while it is asked for: no lock is held from one to the next,
//! and ten thousand sessions need no more memory than one. How a session is ended is in `live`.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ipnet::IpNet;

use super::Step;
use super::live::{Entry, Facts, Live};
use crate::log::escape;
use crate::net::address::Address;

/// How far a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The client has not said yet who it is.
    BeforeLogin,
    /// The auth server or a backend is asked.
    LoggingIn,
    /// It is logged in, and has threads.
    Relaying,
    /// It is logged in and silent, without a thread.
    Hibernating,
    /// It was told to end, or says goodbye.
    Ending,
}

impl State {
    /// In the order in which a session goes through them.
    pub(crate) const ALL: [Self; 5] = [
        Self::BeforeLogin,
        Self::LoggingIn,
        Self::Relaying,
        Self::Hibernating,
        Self::Ending,
    ];

    /// The word for it, in lists and in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::BeforeLogin => "before_login",
            Self::LoggingIn => "logging_in",
            Self::Relaying => "relaying",
            Self::Hibernating => "hibernating",
            Self::Ending => "ending",
        }
    }
}

/// One session at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Its number, unique in the process.
    pub number: u64,
    /// `imap`, `pop3` or `smtp`.
    pub protocol: &'static str,
    /// NAME of its server.
    pub server: String,
    /// Who the client is: the peer, or whom a trusted PROXY header names.
    pub client: Address,
    /// The login as it stands in the log, escaped: the last that was tried, or the one that was accepted.
    pub user: Option<String>,
    /// How far it is.
    pub state: State,
    /// What it does, or waits for, in the words of the log.
    pub action: &'static str,
    /// The backend's address, once it is known.
    pub backend: Option<String>,
    /// Version of TLS towards the client.
    pub tls: Option<String>,
    /// Version of TLS towards the backend.
    pub backend_tls: Option<String>,
    /// Since it was accepted.
    pub age: Duration,
    /// Since its last turn on a worker; in a relay since a byte last moved.
    pub idle: Duration,
    /// Bytes from the client to the backend in the relay.
    pub bytes_up: u64,
    /// Bytes from the backend to the client in the relay.
    pub bytes_down: u64,
}

impl Snapshot {
    /// A session as it is now.
    pub(crate) fn of(entry: &Entry) -> Self {
        Self::with(entry, &entry.facts())
    }

    fn with(entry: &Entry, facts: &Facts) -> Self {
        let bytes = |which: usize| entry.bytes[which].load(Ordering::Relaxed);
        let age = entry.accepted.elapsed();
        Self {
            number: entry.number,
            protocol: entry.service.record.name,
            server: entry.service.conf.name.clone(),
            client: facts.client,
            user: facts.login.as_deref().map(escape),
            state: state(entry, facts),
            action: facts.step.action(),
            backend: facts.upstream.as_deref().map(str::to_owned),
            tls: facts.tls.clone(),
            backend_tls: facts.backend_tls.clone(),
            age,
            idle: age.saturating_sub(entry.active()),
            bytes_up: bytes(0),
            bytes_down: bytes(1),
        }
    }
}

/// How far it is now.
pub(super) fn state(entry: &Entry, facts: &Facts) -> State {
    if entry.is_ending(facts) {
        return State::Ending;
    }
    match facts.step {
        Step::Proxying if entry.sleeps.load(Ordering::Relaxed) => State::Hibernating,
        Step::Proxying => State::Relaying,
        Step::InHttpAuth | Step::AtBackend(_) => State::LoggingIn,
        Step::Initializing
        | Step::ReadingProxyProtocol
        | Step::SslHandshaking
        | Step::SendingGreeting
        | Step::InDelayPipelining
        | Step::ResolvingClientAddress
        | Step::InAuth
        | Step::InStarttls => State::BeforeLogin,
    }
}

/// Which sessions are meant: those that everything fits that is said here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Its number.
    pub number: Option<u64>,
    /// The login, as the client sent it or as a list shows it.
    pub user: Option<String>,
    /// The client's address, or a range.
    pub address: Option<IpNet>,
    /// NAME of the server.
    pub server: Option<String>,
    /// The backend's address, with or without its port.
    pub backend: Option<String>,
}

impl Filter {
    /// Whether nothing is said: it means all sessions.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether this session is meant.
    pub(super) fn fits(&self, entry: &Entry, facts: &Facts) -> bool {
        let of_user = |user: &String| {
            let login = facts.login.as_deref();
            login.is_some_and(|login| login == user.as_bytes() || escape(login) == *user)
        };
        let of_address = |net: &IpNet| facts.client.ip().is_some_and(|ip| net.contains(&ip));
        let of_backend = |wanted: &String| {
            let upstream = facts.upstream.as_deref().unwrap_or_default();
            upstream == wanted || without_port(upstream) == without_brackets(wanted)
        };
        self.number.is_none_or(|number| number == entry.number)
            && self.user.as_ref().is_none_or(of_user)
            && self.address.as_ref().is_none_or(of_address)
            && (self.server.as_ref()).is_none_or(|name| *name == entry.service.conf.name)
            && self.backend.as_ref().is_none_or(of_backend)
    }
}

/// For the log.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = [
            ("id", self.number.map(|number| number.to_string())),
            ("user", self.user.clone()),
            ("address", self.address.map(|net| net.to_string())),
            ("server", self.server.clone()),
            ("backend", self.backend.clone()),
        ];
        let said = said.iter();
        let said =
            said.filter_map(|(name, value)| Some((name, escape(value.as_deref()?.as_bytes()))));
        let said: Vec<String> = said
            .map(|(name, value)| format!("{name} \"{value}\""))
            .collect();
        f.write_str(&said.join(", "))
    }
}

/// `192.0.2.1` or `192.0.2.0/24`; nothing for anything else.
pub(crate) fn address_or_range(text: &str) -> Option<IpNet> {
    let range = || text.parse::<IpNet>().ok();
    let address = text.parse::<IpAddr>().ok();
    address.map(|ip| ip.to_canonical().into()).or_else(range)
}

fn without_port(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    without_brackets(host)
}

fn without_brackets(host: &str) -> &str {
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    inner.unwrap_or(host)
}

impl Live {
    /// The sessions that fit, each as it is when it is its turn; the oldest first. Those that end before that
    /// are left out: whoever asks may take his time, and must not keep their descriptors open.
    pub(crate) fn snapshots<'a>(
        &'a self,
        filter: &'a Filter,
    ) -> impl Iterator<Item = Snapshot> + use<'a> {
        self.numbers().into_iter().filter_map(|number| {
            let entry = self.find(number)?;
            let facts = entry.facts();
            let fits = filter.fits(&entry, &facts);
            fits.then(|| Snapshot::with(&entry, &facts))
        })
    }

    /// The sessions that fit at this moment, the oldest first. As long as one of them is held its descriptors
    /// stay open.
    pub(crate) fn that_fit(&self, filter: &Filter) -> Vec<Arc<Entry>> {
        let entries = self.numbers().into_iter();
        let mut entries: Vec<_> = entries.filter_map(|number| self.find(number)).collect();
        entries.retain(|entry| filter.fits(entry, &entry.facts()));
        entries
    }

    fn numbers(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.lock().keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::live::Ending;
    use crate::session::live::tests::{service, socket};

    fn numbers(live: &Live, filter: &Filter) -> Vec<u64> {
        let found = live.snapshots(filter).map(|snapshot| snapshot.number);
        let found: Vec<u64> = found.collect();
        let entries = live.that_fit(filter);
        assert_eq!(entries.iter().map(|e| e.number).collect::<Vec<_>>(), found);
        found
    }

    #[test]
    fn a_filter_means_those_that_all_of_it_fits() {
        let (live, service) = (Live::default(), service());
        let sockets: Vec<_> = (0..3).map(|_| socket()).collect();
        let clients = ["192.0.2.1:5", "192.0.2.9:5", "[2001:db8::1]:5"];
        for (number, ((client, _), peer)) in (1..).zip(sockets.iter().zip(clients)) {
            let peer: std::net::SocketAddr = peer.parse().expect("an address");
            live.add(number, &service, peer.into(), client);
        }
        let entry = live.find(2).expect("it is there");
        entry.facts().login = Some(b"b\"ob"[..].into());
        entry.facts().upstream = Some("[2001:db8::2]:143".into());
        assert!(Filter::default().is_empty());
        assert_eq!(numbers(&live, &Filter::default()), [1, 2, 3]);
        let of = |address| Filter {
            address: address_or_range(address),
            ..Filter::default()
        };
        assert_eq!(numbers(&live, &of("192.0.2.0/24")), [1, 2]);
        assert_eq!(numbers(&live, &of("192.0.2.9")), [2]);
        assert_eq!(numbers(&live, &of("2001:db8::1")), [3]);
        assert_eq!(address_or_range("bob"), None);
        for user in ["b\"ob", "b\\x22ob"] {
            let mut filter = of("192.0.2.0/24");
            filter.user = Some(user.to_owned());
            assert_eq!(numbers(&live, &filter), [2]);
            filter.number = Some(1);
            assert!(numbers(&live, &filter).is_empty());
        }
        for backend in ["[2001:db8::2]:143", "[2001:db8::2]", "2001:db8::2"] {
            let backend = Some(backend.to_owned());
            let filter = Filter {
                backend,
                ..Filter::default()
            };
            assert_eq!(numbers(&live, &filter), [2]);
        }
        let server = Some("pop3".to_owned());
        let filter = Filter {
            server,
            ..Filter::default()
        };
        assert!(numbers(&live, &filter).is_empty());
    }

    #[test]
    fn who_takes_his_time_keeps_no_ended_session_open() {
        let (live, service, filter) = (Live::default(), service(), Filter::default());
        let (first, _peer) = socket();
        live.add(1, &service, Address::Unix, &first);
        let (client, mut peer) = socket();
        live.add(2, &service, Address::Unix, &client);
        let mut snapshots = live.snapshots(&filter);
        assert_eq!(snapshots.next().map(|snapshot| snapshot.number), Some(1));
        live.remove(2);
        drop(client);
        peer.set_nonblocking(true).expect("a socket");
        let read = std::io::Read::read(&mut peer, &mut [0]);
        assert_eq!(read.expect("it is closed"), 0);
        assert!(snapshots.next().is_none());
    }

    #[test]
    fn a_snapshot_says_how_far_a_session_is() {
        let (live, (client, _peer), (backend, _server)) = (Live::default(), socket(), socket());
        let entry = live.add(7, &service(), Address::Unix, &client);
        let now = || {
            live.snapshots(&Filter::default())
                .next()
                .expect("it is there")
        };
        assert_eq!(now().state, State::BeforeLogin);
        entry.facts().step = Step::InHttpAuth;
        entry.facts().login = Some(b"bob\r\n"[..].into());
        assert_eq!(now().state, State::LoggingIn);
        assert_eq!(now().action, "in http auth state");
        assert_eq!(now().user.as_deref(), Some("bob\\x0D\\x0A"));
        entry.facts().step = Step::Proxying;
        entry.set_backend(&backend);
        entry.bytes[1].store(9, Ordering::Relaxed);
        assert_eq!(now().state, State::Relaying);
        assert_eq!((now().bytes_up, now().bytes_down), (0, 9));
        entry.note_sleep(true);
        assert_eq!(now().state, State::Hibernating);
        entry.end(Ending::Stop);
        assert_eq!(now().state, State::Ending);
    }
}
