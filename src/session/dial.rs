//! The hosts of a grant, one after another, until one serves.
//!
//! How one is connected to is in `backend::conn`; the login itself is the dialects'; what becomes of a login that
//! was refused is decided in `session::run`.

use std::time::Instant;

use crate::backend::Candidate;
use crate::backend::conn::{BackendConn, Dial, Origin};
use crate::backend::deadlines::Deadlines;
use crate::backend::error::{BackendError, BeforeCredentials, LoginFailure};
use crate::backend::grant::{Grant, Target};
use crate::backend::loops;
use crate::backend::talk::{self, Introduction, Talk};
use crate::config::ProxySsl;
use crate::log::Severity;
use crate::net::conn::Conn;
use crate::net::line::Line;
use crate::session::Session;
use crate::session::user_place::{Reached, UserPlace};

/// A host has accepted the login.
pub(super) enum Entered {
    /// The client may be told so.
    In(Box<Accepted>),
    /// The user has too many sessions.
    Full(Reached),
}

/// A login that a host has accepted.
pub(super) struct Accepted {
    /// Its connection.
    pub(super) backend: Conn,
    /// What the client is told.
    pub(super) answer: Line,
    /// The session's place among those of the user.
    pub(super) place: Option<UserPlace>,
}

/// Connects and logs in to the hosts of a grant, one after another, until one serves; `begin_talk` begins the
/// dialogue with each.
///
/// # Errors
/// What the last one failed of.
pub(super) fn try_hosts(
    session: &mut Session,
    begin_talk: impl Fn(&mut Session) -> Box<dyn Talk>,
    grant: &Grant,
) -> Result<Entered, BackendError> {
    let candidates = candidates(session, grant)?;
    end_loop(session, &candidates)?;
    let mut last = BackendError::Connect("upstream has no address".into(), None);
    for (at, candidate) in candidates.iter().enumerate() {
        let left = candidates.len() - at;
        let deadlines = Deadlines::of_login(session.login_deadline(), left);
        let began = Instant::now();
        session.entry.facts().backend_tls = None;
        if at > 0 && deadlines.current().remaining().is_none() {
            break;
        }
        let mut talk = begin_talk(session);
        let failure = match enter_host(session, &mut *talk, grant, candidate, deadlines) {
            Ok(entered) => {
                session.backend_time = Some(began.elapsed());
                note_answer(grant, candidate);
                return Ok(entered);
            }
            Err(LoginFailure::After(failure)) => {
                if failure.is_judgement() {
                    note_answer(grant, candidate);
                }
                return Err(failure.into());
            }
            Err(LoginFailure::Before(failure)) => failure,
        };
        if !failure.is_of_host() {
            note_answer(grant, candidate);
            return Err(failure.into());
        }
        if let Target::Backend(backend) = &grant.target {
            backend.note_failure(candidate, &failure);
        }
        let error = BackendError::from(failure);
        if left > 1 {
            let described = error.describe(&session.secrets);
            let text = format!("{described}, trying the next host");
            session.log_failure(Severity::Warn, file!(), &text, error.io_error());
        }
        last = error;
    }
    Err(last)
}

/// A login that has come from ourselves goes no further. That says nothing about the hosts' health: the client
/// could have made it up.
fn end_loop(session: &Session, candidates: &[Candidate]) -> Result<(), BackendError> {
    let Some(first) = candidates.first() else {
        return Ok(());
    };
    let own_ends = session.entry.peer.socket().zip(session.local().socket());
    let ends = session.proxied.or(own_ends);
    match loops::found(ends, session.proxy_ttl, first.address) {
        None => Ok(()),
        Some(text) => {
            session.set_upstream(Some(first.address));
            Err(BackendError::Connect(text, None))
        }
    }
}

/// Connects and logs in to one host. A host that is given up is told so, if it can hear it. One that leaves a
/// question about the client without an answer is connected to again, and asked less.
fn enter_host(
    session: &Session,
    talk: &mut dyn Talk,
    grant: &Grant,
    candidate: &Candidate,
    deadlines: Deadlines,
) -> Result<Entered, LoginFailure> {
    loop {
        let mut backend = dial(session, grant, candidate, deadlines)?;
        match log_in_to_host(talk, &mut backend, grant) {
            Ok(Some(answer)) => return Ok(enter(session, talk, grant, backend, answer)),
            Ok(None) => {
                let text = "upstream has not said in time whether it takes what it was told about the \
                            client (send_client_id), connecting again";
                // A client may have caused it by what it says of itself.
                if session.may_log(Severity::Warn, "upstream asked in vain") {
                    session.log(Severity::Warn, file!(), text);
                }
            }
            Err(error) => {
                let failure = backend.login_failure(error);
                talk.quit(backend);
                return Err(failure);
            }
        }
    }
}

/// A host has accepted the login: the user is proven, and counted in.
fn enter(
    session: &Session,
    talk: &mut dyn Talk,
    grant: &Grant,
    backend: BackendConn<'_>,
    answer: Line,
) -> Entered {
    match UserPlace::take(session, grant) {
        Ok(place) => Entered::In(Box::new(Accepted {
            backend: backend.into_conn(),
            answer,
            place,
        })),
        Err(reached) => {
            talk.quit(backend);
            Entered::Full(reached)
        }
    }
}

/// `None` if a question about the client has had no answer.
fn log_in_to_host(
    talk: &mut dyn Talk,
    backend: &mut BackendConn<'_>,
    grant: &Grant,
) -> Result<Option<Line>, BackendError> {
    talk::open(talk, backend)?;
    match talk.identify(backend, grant)? {
        Introduction::Over => talk.log_in(backend, grant).map(Some),
        Introduction::Unanswered => Ok(None),
    }
}

fn note_answer(grant: &Grant, candidate: &Candidate) {
    if let Target::Backend(backend) = &grant.target {
        backend.note_answer(candidate.address);
    }
}

/// The addresses that a grant can go to, in the order in which they are to be tried; never empty.
fn candidates(session: &Session, grant: &Grant) -> Result<Vec<Candidate>, BackendError> {
    let deadline = session.login_deadline().at;
    let dns = &session.service.dns;
    let not_found =
        |error: String| BackendError::Connect(format!("no address of upstream: {error}"), None);
    let candidates: Vec<Candidate> = match &grant.target {
        Target::Backend(backend) => backend
            .candidates(session.service.conf.purpose(), &grant.user, dns, deadline)
            .map_err(not_found)?,
        Target::Address { host, port } => {
            let found = dns.lookup_host(host, *port, deadline);
            let found = found.map_err(|error| not_found(error.to_string()))?;
            session.log_debug(file!(), || {
                let left = found.valid_until.saturating_duration_since(Instant::now());
                let seconds = left.as_secs();
                format!("addresses of {host} are kept in the cache for {seconds} s")
            });
            let candidate = |address| Candidate {
                host: host.clone(),
                address,
                named_in: "the answer of the auth server".to_owned(),
            };
            found.addresses.into_iter().map(candidate).collect()
        }
    };
    session.log_debug(file!(), || {
        let addresses = candidates
            .iter()
            .map(|candidate| candidate.address.to_string());
        let addresses: Vec<_> = addresses.collect();
        format!(
            "addresses of upstream, in their order: {}",
            addresses.join(", ")
        )
    });
    Ok(candidates)
}

/// Connects to one address, within its share of the login's time.
fn dial<'a>(
    session: &'a Session,
    grant: &'a Grant,
    candidate: &'a Candidate,
    mut deadlines: Deadlines,
) -> Result<BackendConn<'a>, BeforeCredentials> {
    let Candidate { host, address, .. } = candidate;
    session.log_debug(file!(), || format!("trying host {host} at {address}"));
    session.set_upstream(Some(candidate.address));
    if let Some(connect_timeout) = grant.connect_timeout {
        deadlines.limit_connect(connect_timeout);
    }
    if grant.ssl != ProxySsl::Off {
        match &grant.target {
            Target::Backend(backend) => backend.refresh_tls(),
            Target::Address { .. } => session.service.refresh_tls(),
        }
    }
    let dial = Dial {
        candidate,
        proxy_protocol: grant.proxy_protocol,
        origin: Origin::Client(session.client().socket().zip(session.local().socket())),
        ssl: grant.ssl,
        connector: &grant.connector,
        deadlines,
        watcher: Some(session),
        silent: Some(&session.runtime.silent),
        pass_on: session.service.conf.proxy_pass_error_message,
    };
    let began = Instant::now();
    let connected = dial.connect();
    if connected.is_ok() {
        session.service.metrics.connect_time.note(began.elapsed());
    }
    connected
}
