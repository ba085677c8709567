//! What is counted while the process runs: per server, and the logins of the last hour for the whole process.
//!
//! Counting takes no lock and no memory: atomic numbers in arrays whose places are known from the
//! configuration and the program, never from the network. What is a state rather than an event (how many
//! sessions there are, whether a backend is up) is not counted here but looked at when somebody asks.
//! `exposition` writes numbers as Prometheus reads them; who asks is answered in `status`.

pub(crate) mod exposition;
mod histogram;
mod lately;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use crate::protocol::Protocol;
use crate::sasl::{Mechanism, Method};

pub(crate) use histogram::{Histogram, SESSIONS, STEPS};
pub(crate) use lately::{FailedLogin, Lately, MINUTES, Minute};

/// What became of a login, from the client's command on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The client is in.
    Success,
    /// Whoever decides about logins has refused it.
    Refused,
    /// It was allowed to pass, and the backend did not accept it.
    BackendRefused,
    /// No backend could be logged in to.
    BackendUnavailable,
    /// Nobody could decide.
    AuthUnavailable,
    /// The session ended under way: its client left, or it had to end.
    Aborted,
    /// Something that is wrong with us or the configuration.
    Error,
}

impl Outcome {
    /// All of them.
    pub(crate) const ALL: [Self; 7] = [
        Self::Success,
        Self::Refused,
        Self::BackendRefused,
        Self::BackendUnavailable,
        Self::AuthUnavailable,
        Self::Aborted,
        Self::Error,
    ];

    /// The value of the label `outcome`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Refused => "refused",
            Self::BackendRefused => "backend_refused",
            Self::BackendUnavailable => "backend_unavailable",
            Self::AuthUnavailable => "auth_unavailable",
            Self::Aborted => "aborted",
            Self::Error => "error",
        }
    }

    /// Whether somebody who looks after the service wants to see it among the failures.
    pub(crate) fn is_failure(self) -> bool {
        match self {
            Self::Success | Self::Aborted => false,
            Self::Refused | Self::BackendRefused => true,
            Self::BackendUnavailable | Self::AuthUnavailable | Self::Error => true,
        }
    }

    /// The reason in plain words, for a page.
    pub(crate) fn in_words(self) -> &'static str {
        match self {
            Self::Success => "The login succeeded",
            Self::Refused => "The login was refused",
            Self::BackendRefused => "The mail server did not accept the login",
            Self::BackendUnavailable => "The mail server was not available",
            Self::AuthUnavailable => "The auth server gave no usable answer",
            Self::Aborted => "The client left before the login was decided",
            Self::Error => "Postern itself failed",
        }
    }
}

/// The names of all methods of logging in, and one for what is none of them.
static METHODS: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let mechanisms = Mechanism::all().map(|mechanism| mechanism.method.name);
    let own = [Method::APOP.name, Method::NONE.name, "other"];
    let mut names: Vec<&'static str> = Vec::new();
    for name in mechanisms.chain(own) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
});

/// Versions of TLS, and one for what is none of them.
const VERSIONS: [&str; 5] = ["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3", "other"];

/// What is counted of one `[server]`. A reload hands it to the server of the same name and protocol.
#[derive(Debug)]
pub(crate) struct ServerMetrics {
    /// NAME of the section.
    pub name: String,
    /// What it speaks.
    pub protocol: Protocol,
    /// Sessions that were let in.
    pub accepted: AtomicU64,
    /// Bytes from clients to backends in relays, and the other way; of sessions that have ended.
    pub bytes: [AtomicU64; 2],
    /// Sessions that ended, by the closing line's reason.
    pub ended: Reasons,
    /// Connections that were not let in, by the limit that was reached, or because their client is kept out.
    pub turned_away: Reasons,
    /// Failed logins that were answered later than they could have been (`auth_penalty_max`).
    pub delayed: AtomicU64,
    /// From accept to the end of the login.
    pub login_time: Histogram,
    /// What the authentication method took for a login.
    pub auth_time: Histogram,
    /// From the look-up of a backend's address behind us to a connection, with TLS where it comes first.
    pub connect_time: Histogram,
    /// From the connect to the backend to its final OK.
    pub backend_time: Histogram,
    /// From accept to close.
    pub session_time: Histogram,
    tls: [AtomicU64; VERSIONS.len()],
    /// By method and outcome.
    logins: Vec<[AtomicU64; Outcome::ALL.len()]>,
}

impl ServerMetrics {
    /// Nothing has happened yet.
    pub(crate) fn new(name: &str, protocol: Protocol) -> Self {
        Self {
            name: name.to_owned(),
            protocol,
            accepted: AtomicU64::new(0),
            bytes: Default::default(),
            ended: Reasons::default(),
            turned_away: Reasons::default(),
            delayed: AtomicU64::new(0),
            login_time: Histogram::new(STEPS),
            auth_time: Histogram::new(STEPS),
            connect_time: Histogram::new(STEPS),
            backend_time: Histogram::new(STEPS),
            session_time: Histogram::new(SESSIONS),
            tls: Default::default(),
            logins: METHODS.iter().map(|_| Default::default()).collect(),
        }
    }

    /// Counts what became of a login.
    pub(crate) fn count_login(&self, method: Method, outcome: Outcome) {
        let at = METHODS.iter().position(|name| *name == method.name);
        let at = at.unwrap_or(METHODS.len() - 1);
        add(&self.logins[at][outcome as usize], 1);
    }

    /// The logins by method and outcome; methods by which nobody has tried yet are left out.
    pub(crate) fn logins(&self) -> Vec<(&'static str, [u64; Outcome::ALL.len()])> {
        let rows = METHODS.iter().zip(&self.logins);
        let rows = rows.map(|(name, counts)| (*name, counts.each_ref().map(read)));
        rows.filter(|(_, counts)| counts.iter().any(|count| *count > 0))
            .collect()
    }

    /// Counts a client's TLS handshake.
    pub(crate) fn count_tls(&self, version: &str) {
        let at = VERSIONS.iter().position(|name| *name == version);
        add(&self.tls[at.unwrap_or(VERSIONS.len() - 1)], 1);
    }

    /// The handshakes by version of TLS.
    pub(crate) fn tls(&self) -> impl Iterator<Item = (&'static str, u64)> {
        VERSIONS.into_iter().zip(self.tls.iter().map(read))
    }

    /// Counts the end of a session that lasted so long.
    pub(crate) fn count_end(&self, reason: &'static str, lasted: Duration) {
        self.ended.count(reason);
        self.session_time.note(lasted);
    }
}

/// Counts by words that stand in the program. More kinds than there are places share the last one.
#[derive(Debug, Default)]
pub(crate) struct Reasons([(OnceLock<&'static str>, AtomicU64); KINDS]);

const KINDS: usize = 32;

impl Reasons {
    /// One more of this kind.
    pub(crate) fn count(&self, kind: &'static str) {
        let is_its =
            |place: &&(OnceLock<&'static str>, AtomicU64)| *place.0.get_or_init(|| kind) == kind;
        match self.0[..KINDS - 1].iter().find(is_its) {
            Some((_, count)) => add(count, 1),
            None => {
                self.0[KINDS - 1].0.get_or_init(|| "other");
                add(&self.0[KINDS - 1].1, 1);
            }
        }
    }

    /// What was counted so far.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let places = self.0.iter();
        places.filter_map(|(kind, count)| Some((*kind.get()?, read(count))))
    }
}

/// Counts.
pub(crate) fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

/// What was counted.
pub(crate) fn read(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_counted_by_its_method_and_outcome() {
        let metrics = ServerMetrics::new("mail", Protocol::Imap);
        assert!(metrics.logins().is_empty());
        metrics.count_login(Method::PLAIN, Outcome::Success);
        metrics.count_login(Method::PLAIN, Outcome::Success);
        metrics.count_login(Method::APOP, Outcome::Error);
        let expected = [
            ("plain", [2, 0, 0, 0, 0, 0, 0]),
            ("apop", [0, 0, 0, 0, 0, 0, 1]),
        ];
        assert_eq!(metrics.logins(), expected);
    }

    #[test]
    fn outcomes_stand_where_they_are_counted() {
        for (at, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, at);
        }
    }

    #[test]
    fn an_unknown_version_of_tls_makes_no_series_of_its_own() {
        let metrics = ServerMetrics::new("mail", Protocol::Imap);
        metrics.count_tls("TLSv1.3");
        metrics.count_tls("DTLSv9");
        let counts: Vec<_> = metrics.tls().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counts, [("TLSv1.3", 1), ("other", 1)]);
    }

    #[test]
    fn reasons_are_bounded_in_number() {
        let reasons = Reasons::default();
        for _ in 0..2 {
            for at in 0..100 {
                reasons.count(Box::leak(at.to_string().into_boxed_str()));
            }
        }
        let counts: Vec<_> = reasons.counts().collect();
        assert_eq!(counts.len(), KINDS);
        assert_eq!(counts[0], ("0", 2));
        assert_eq!(counts[KINDS - 1], ("other", 2 * (100 - KINDS as u64 + 1)));
    }
}
