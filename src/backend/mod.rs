//! Reaching the mail server that a login belongs to: which one, by which of its addresses, and what
//! is known of them.

pub(crate) mod capabilities;
pub(crate) mod check;
pub(crate) mod conn;
pub(crate) mod deadlines;
pub(crate) mod error;
pub(crate) mod grant;
mod hash;
pub(crate) mod health;
pub(crate) mod identities;
pub(crate) mod known;
pub(crate) mod loops;
pub(crate) mod refusal_time;
pub(crate) mod route;
pub(crate) mod silent;
pub(crate) mod talk;
pub(crate) mod visit;

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::config::{self, BackendHost, Balance};
use crate::log::{Log, Seldom, Severity};
use crate::net::resolve::Dns;
use crate::protocol::Purpose;
use crate::sasl::shown::LoginSecrets;
use crate::tls::{Connector, Problem};

use self::error::BeforeCredentials;
use self::known::Known;

/// Longest line of a backend before the relay.
const BACKEND_LINE: usize = 8 * 1024;

/// Most bytes of all answers of a backend before the relay.
const BACKEND_TOTAL: usize = 64 * 1024;

/// One `[backend NAME]` at work.
#[derive(Debug)]
pub(crate) struct Backend {
    /// What the configuration says.
    pub conf: config::Backend,
    /// TLS towards it; why there is none matters only where it is wanted.
    pub connector: Result<Connector, String>,
    /// What is known of its hosts, by whichever configuration it was learned.
    pub known: Arc<Known>,
    /// When the files of its TLS were last looked at.
    refreshed: Seldom,
    log: Log,
}

/// One address to try.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    /// The host's name, for TLS.
    pub host: String,
    /// Where it is.
    pub address: SocketAddr,
    /// Who named it, for the log.
    pub named_in: String,
}

impl Backend {
    /// A backend of which this is known so far. Changes of its hosts go to `log`.
    pub(crate) fn new(conf: config::Backend, known: Arc<Known>, log: Log) -> Self {
        let connector = Connector::new(conf.proxy_tls.clone()).map(|(connector, _)| connector);
        let connector = connector.map_err(|problems| {
            let texts: Vec<_> = problems.iter().map(Problem::to_string).collect();
            format!("backend \"{}\": {}", conf.name, texts.join("; "))
        });
        Self {
            conf,
            connector,
            known,
            refreshed: Seldom::new(),
            log,
        }
    }

    /// Its addresses for a purpose in the order in which they are to be tried for a user (`Grant::user`):
    /// those that failed lately last.
    ///
    /// # Errors
    /// There are no hosts for the protocol, or not one of the names has an address; the text is for people.
    pub(crate) fn candidates(
        &self,
        purpose: Purpose,
        user: &[u8],
        dns: &Dns,
        deadline: Instant,
    ) -> Result<Vec<Candidate>, String> {
        let mut found = self.addresses(purpose, dns, deadline)?;
        match self.conf.balance {
            Balance::Failover => {}
            Balance::RoundRobin => {
                let turn = self.known.health.next_turn(found.len());
                found.rotate_left(turn);
            }
            Balance::Hash => hash::arrange(&mut found, user),
        }
        // Stable: among the good ones and among the others the order stays.
        found.sort_by_key(|candidate| self.known.health.has_failed(candidate.address));
        Ok(found)
    }

    /// Its addresses in the order of the configuration. Names are looked up again when their time to
    /// live is over (`net::resolve` remembers them that long).
    ///
    /// # Errors
    /// As `candidates`.
    pub(crate) fn addresses(
        &self,
        purpose: Purpose,
        dns: &Dns,
        deadline: Instant,
    ) -> Result<Vec<Candidate>, String> {
        let mut found = Vec::new();
        let mut unknown = Vec::new();
        let hosts = self.conf.hosts(purpose.protocol);
        if hosts.is_empty() {
            let (name, protocol) = (&self.conf.name, purpose.protocol.name());
            return Err(format!("backend \"{name}\" has no hosts for {protocol}"));
        }
        for (host, left) in hosts.iter().zip((1..=hosts.len()).rev()) {
            let port = host.port.unwrap_or(self.conf.port(purpose));
            // A name server that is silent about one host leaves time for the others, and for a login.
            let left = u32::try_from(left + 1).unwrap_or(u32::MAX);
            let share = deadline.saturating_duration_since(Instant::now()) / left;
            let limit = Instant::now() + share.min(self.conf.connect_timeout);
            let looked_up = dns.lookup_host(&host.host, port, limit);
            let looked_up = looked_up.map_err(|error| error.to_string());
            let subject = look_up_of(&host.host);
            self.note_outcome(&subject, looked_up.as_ref().err().map(String::as_str));
            match looked_up {
                Ok(addresses) => {
                    let health = &self.known.health;
                    health.stands_for(&host.host, port, &addresses.addresses);
                    found.extend(addresses.addresses.into_iter().map(|address| Candidate {
                        host: host.host.clone(),
                        address,
                        named_in: format!("hosts in {}", self.conf.place),
                    }))
                }
                Err(error) => unknown.push(error),
            }
        }
        match found.is_empty() {
            true => Err(unknown.join("; ")),
            false => Ok(found),
        }
    }

    /// Reads the files of its TLS again that have changed, looking at most once a second. Logins in
    /// progress keep what they began with; a broken new file leaves the old one in use.
    pub(crate) fn refresh_tls(&self) {
        let Ok(connector) = &self.connector else {
            return;
        };
        if self.refreshed.allow().is_none() {
            return;
        }
        if let Some((severity, text)) = refreshed_in_words(connector.refresh()) {
            let text = format!("backend \"{}\": {text}", self.conf.name);
            self.log.write(severity, file!(), &text, None, None);
        }
    }

    /// The addresses that do not serve at present, as far as is known: those that are tried last, and those
    /// that the next health check has not found well yet.
    pub(crate) fn down(&self) -> Vec<SocketAddr> {
        let between_checks = self.conf.health_check.unwrap_or_default();
        self.known.health.down(2 * between_checks)
    }

    /// Notes that an address does not serve, and says so once.
    pub(crate) fn note_failure(&self, host: &Candidate, failure: &BeforeCredentials) {
        if self.known.health.failed(host, self.conf.fail_timeout) {
            // Whoever has not seen the credentials cannot say them back.
            let reason = failure.cause().in_full(&LoginSecrets::default());
            let (name, address) = (&self.conf.name, host.address);
            let text = format!("backend \"{name}\": {address} is down: {reason}");
            self.log.write(Severity::Warn, file!(), &text, None, None);
        }
    }

    /// Notes that an address serves, and says so if it did not before.
    pub(crate) fn note_answer(&self, address: SocketAddr) {
        if self.known.health.answered(address) {
            let text = format!("backend \"{}\": {address} is up again", self.conf.name);
            self.log.write(Severity::Notice, file!(), &text, None, None);
        }
    }

    /// Whether a host of ours did not serve when it was tried last, or its name had no address.
    pub(crate) fn is_down(&self, host: &BackendHost, purpose: Purpose) -> bool {
        let port = host.port.unwrap_or(self.conf.port(purpose));
        self.known.health.is_down(&host.host, port)
            || self.known.troubles.is_there(&look_up_of(&host.host))
    }

    /// Notes whether something that says nothing about a host's service has failed, with the reason, and
    /// says so when that changes. `subject` is what it was, as the subject of a sentence.
    fn note_outcome(&self, subject: &str, failure: Option<&str>) {
        if !self.known.troubles.note(subject, failure.is_some()) {
            return;
        }
        let name = &self.conf.name;
        let (severity, text) = match failure {
            Some(reason) => (Severity::Warn, format!("fails: {reason}")),
            None => (Severity::Notice, "works again".to_owned()),
        };
        let text = format!("backend \"{name}\": {subject} {text}");
        self.log.write(severity, file!(), &text, None, None);
    }
}

fn look_up_of(host: &str) -> String {
    format!("the look-up of {host}")
}

/// What the log is told about files of TLS that were looked at; nothing where none has changed.
pub(crate) fn refreshed_in_words(refreshed: Result<bool, String>) -> Option<(Severity, String)> {
    match refreshed {
        Ok(false) => None,
        Ok(true) => {
            let text = "certificates have changed; new ones are in use";
            Some((Severity::Notice, text.to_owned()))
        }
        Err(error) => Some((Severity::Error, error)),
    }
}

/// Holds the threads that visit the backends of one configuration: they end when it is dropped. Sessions
/// that outlive a reload keep their backends, but nobody goes on asking after these.
#[derive(Debug, Default)]
pub(crate) struct Visits;

/// Waits so long; false as soon as the visits are over.
pub(crate) fn wait_between(visits: &Weak<Visits>, time: Duration) -> bool {
    /// How long the end may go unnoticed.
    const SLICE: Duration = Duration::from_secs(1);
    let until = Instant::now() + time;
    while visits.strong_count() > 0 {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(SLICE));
    }
    false
}
