//! One client connection, from accept to close: who, where, and at which step.
//!
//! The course of events is in `run`, how it gets its turns in `turn`; this is what it carries along.

mod ban;
pub(crate) mod budget;
mod check;
mod copy;
pub(crate) mod dial;
pub(crate) mod error;
mod goodbye;
pub(crate) mod hibernate;
mod lines;
pub(crate) mod live;
mod outcome;
mod quoted;
pub(crate) mod rawlog;
mod relay;
mod run;
mod slot;
pub(crate) mod snapshot;
mod step;
pub(crate) mod tally;
pub(crate) mod turn;
mod user_place;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::admission::{Admission, Limits, Place};
use crate::append;
use crate::backend::loops::PROXIES;
use crate::backend::silent::Silent;
use crate::backend::talk::{BackendStep, Watcher};
use crate::blocklist::Blocklist;
use crate::limits::Limiter;
use crate::limits::shared::SharedStore;
use crate::log::{Brake, Closing, Context, Severity, escape};
use crate::metrics::Lately;
use crate::net::address::Address;
use crate::net::client_conn::ClientConn;
use crate::net::line::without_end;
use crate::net::resolve::{HostName, PendingName};
use crate::net::socket::{Deadline, Socket};
use crate::sasl::Method;
use crate::sasl::shown::{BLOT, LoginSecrets};
use crate::service::Service;
use crate::system::threads::{Threads, spawn};
use crate::tls::{CertificateRefusal, Facts};

use self::budget::Budget;
use self::error::{Cause, Halt};
use self::hibernate::Hibernation;
use self::live::{Entry, Live};
use self::rawlog::Rawlogs;
pub(crate) use self::step::Step;
use self::user_place::UserPlace;

/// What all sessions of the process share.
#[derive(Debug)]
pub(crate) struct Runtime {
    /// Who is let in, and whose turn it is.
    pub admission: Arc<Admission>,
    /// What failed logins cost, and how many sessions each user has.
    pub limiter: Limiter,
    /// Who waits without a thread.
    pub hibernation: Hibernation,
    /// All sessions.
    pub live: Live,
    /// Threads for relays.
    pub threads: Threads,
    /// What keeps a crowd from filling the log.
    pub brake: Brake,
    /// Who wants to read along.
    pub rawlogs: Arc<Rawlogs>,
    /// How logins went lately.
    pub lately: Lately,
    /// Which hosts leave our questions without an answer.
    pub silent: Silent,
    /// Who is not let in.
    pub blocklist: Arc<Blocklist>,
    /// Where its counts are, here and on other nodes.
    pub shared: Arc<SharedStore>,
}

impl Runtime {
    /// Nobody is there yet; the thread that holds the sleepers runs from now on, until
    /// `hibernation.stop`.
    ///
    /// # Errors
    /// The system has no descriptors or threads left.
    pub(crate) fn start(limits: Limits) -> std::io::Result<Arc<Self>> {
        let blocklist = Arc::default();
        let shared = Arc::new(SharedStore::new(&blocklist));
        let runtime = Arc::new(Self {
            admission: Admission::new(limits),
            limiter: Limiter::new(Arc::clone(&shared) as _),
            hibernation: Hibernation::new()?,
            live: Live::default(),
            threads: Threads::default(),
            brake: Brake::default(),
            rawlogs: Arc::default(),
            lately: Lately::default(),
            silent: Silent::default(),
            shared,
            blocklist,
        });
        let of_thread = Arc::clone(&runtime);
        spawn("sleepers", move || Hibernation::run(&of_thread))?;
        Ok(runtime)
    }
}

/// Why the client's next bytes belong to a TLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TlsDue {
    /// They do not.
    No,
    /// The listener wants TLS from the first byte.
    Implicit,
    /// STARTTLS was answered.
    Starttls,
}

/// One client connection. What others may see of it is in its `entry`.
#[derive(Debug)]
pub(crate) struct Session {
    /// What it shares with all others.
    pub runtime: Arc<Runtime>,
    /// The server that it came to.
    pub service: Arc<Service>,
    /// Itself as others see it.
    pub entry: Arc<Entry>,
    /// Its place among all sessions; given back when it is dropped.
    pub place: Place,
    /// Its place among those of its user; given back when it is dropped.
    pub user_place: Option<UserPlace>,
    /// Source and destination of the PROXY header the client came with.
    pub proxied: Option<(SocketAddr, SocketAddr)>,
    /// Whether the client's next bytes belong to a handshake: nothing can be said to it in plain text.
    pub tls_due: TlsDue,
    /// Whether TLS began with STARTTLS.
    pub starttls: bool,
    /// What is known of the client's TLS.
    pub tls: Option<Facts>,
    /// What the client may use up before its login.
    pub budget: Budget,
    /// Login commands so far.
    pub attempts: u32,
    /// How many more proxies its login may go through, this one included; peers can lower it.
    pub proxy_ttl: u32,
    /// How the last login was tried.
    pub method: Option<Method>,
    /// The secrets of the login under way, which peers may say back.
    pub secrets: LoginSecrets,
    /// When it was logged in, counted from accept.
    pub login_time: Option<Duration>,
    /// What the authentication method took for the last login.
    pub auth_time: Option<Duration>,
    /// From the connect to the backend to its final OK.
    pub backend_time: Option<Duration>,
    login_deadline: Option<Deadline>,
    salt: Option<String>,
    host_name: Option<PendingName>,
    host_name_deadline: Option<Deadline>,
}

impl Session {
    /// A session in this place, whose client is at the other end of `socket`.
    pub(crate) fn new(
        runtime: &Arc<Runtime>,
        service: Arc<Service>,
        place: Place,
        peer: Address,
        socket: &Arc<Socket>,
    ) -> Self {
        let entry = runtime.live.add(place.number(), &service, peer, socket);
        let conf = &service.conf;
        Self {
            runtime: Arc::clone(runtime),
            budget: Budget::new(
                entry.accepted,
                conf.timeout,
                conf.max_errors,
                conf.max_commands,
            ),
            service,
            entry,
            place,
            user_place: None,
            proxied: None,
            tls_due: TlsDue::No,
            starttls: false,
            tls: None,
            attempts: 0,
            proxy_ttl: PROXIES,
            method: None,
            secrets: LoginSecrets::default(),
            login_time: None,
            auth_time: None,
            backend_time: None,
            login_deadline: None,
            salt: None,
            host_name: None,
            host_name_deadline: None,
        }
    }

    /// Ends the session, if it was told to from outside.
    pub(crate) fn end_if_told(&self) -> Result<(), Cause> {
        match self.entry.ending() {
            Some(ending) => Err(ending.into()),
            None => Ok(()),
        }
    }

    /// Who the client is: the peer, or whom a trusted PROXY header names.
    pub(crate) fn client(&self) -> Address {
        self.entry.facts().client
    }

    /// Our end of the client's connection.
    pub(crate) fn local(&self) -> Address {
        self.entry.local
    }

    /// When it was accepted.
    pub(crate) fn accepted(&self) -> Instant {
        self.entry.accepted
    }

    /// Says what it is about to do; returns what it did before.
    pub(crate) fn set_step(&self, step: Step) -> Step {
        std::mem::replace(&mut self.entry.facts().step, step)
    }

    /// The login that is tried, or the backend's name for it; none if it is empty.
    pub(crate) fn set_login(&self, login: &[u8]) {
        let login = Some(login).filter(|login| !login.is_empty());
        self.entry.facts().login = login.map(Arc::from);
    }

    /// The backend that is talked to.
    pub(crate) fn set_upstream(&self, upstream: Option<SocketAddr>) {
        let upstream = upstream.map(|address| append::socket_address_text(address).into());
        self.entry.facts().upstream = upstream;
    }

    /// The time for the whole backend login runs from here.
    pub(crate) fn begin_login(&mut self) {
        self.login_deadline = Some(Deadline::after(self.service.conf.timeout, "timeout"));
    }

    /// Until when the backend login must be done.
    pub(crate) fn login_deadline(&self) -> Deadline {
        self.login_deadline.unwrap_or(self.budget.deadline())
    }

    /// Runs the client's TLS handshake, if one is due, and judges its certificate.
    pub(crate) fn start_tls(&mut self, client: &mut ClientConn) -> Result<(), Halt> {
        if self.tls_due == TlsDue::No {
            return Ok(());
        }
        self.set_step(Step::SslHandshaking);
        let service = Arc::clone(&self.service);
        let Some(acceptor) = &service.acceptor else {
            return Err(Cause::Internal("TLS is not configured".into()).into());
        };
        if !client.is_tls() && !client.is_handshaking() {
            service.refresh_tls();
            client.begin_tls(acceptor.engine().map_err(Cause::ClientTls)?);
        }
        client.handshake(self.budget.deadline())?;
        self.starttls = self.tls_due == TlsDue::Starttls;
        self.tls_due = TlsDue::No;
        let facts = client.tls_facts().unwrap_or_default();
        let refusal = crate::tls::certificate_refusal(&facts, acceptor.verify_client());
        self.log_tls("client", &facts);
        service.metrics.count_tls(&facts.protocol);
        self.entry.facts().tls = Some(facts.protocol.clone());
        self.tls = Some(facts);
        match refusal {
            None => Ok(()),
            Some(refusal) => Err(Halt::Ended(Cause::ClientCertificate {
                missing: refusal == CertificateRefusal::Missing,
                text: refusal.to_string(),
            })),
        }
    }

    /// What clients are told before their login, besides mechanisms and TLS.
    pub(crate) fn capabilities(&self) -> Arc<[String]> {
        self.log_debug(file!(), || {
            let source = self.service.source_of_capabilities();
            format!("capabilities are {source}")
        });
        self.service.capabilities()
    }

    /// The challenge of APOP and CRAM-MD5, one for the whole session.
    pub(crate) fn salt(&mut self) -> Result<String, Cause> {
        if let Some(salt) = &self.salt {
            return Ok(salt.clone());
        }
        let salt = crate::sasl::salt(&self.service.conf.server_name)
            .map_err(|error| Cause::Internal(format!("no random numbers: {error}")))?;
        self.salt = Some(salt.clone());
        Ok(salt)
    }

    /// Starts looking the client's host name up, where the server wants it. The session is woken when it
    /// is known.
    pub(crate) fn begin_host_name(&mut self) {
        let (runtime, number) = (Arc::downgrade(&self.runtime), self.entry.number);
        let wake = move || {
            if let Some(runtime) = runtime.upgrade() {
                runtime.wake(number);
            }
        };
        self.host_name = self.service.begin_host_name(self.client(), wake);
    }

    /// Sleeps until the client's host name has been looked up, or could not be in time.
    pub(crate) fn await_host_name(&mut self, client: &mut ClientConn) -> Result<(), Halt> {
        let limit = 2 * self.service.conf.resolver_timeout;
        let step = self.set_step(Step::ResolvingClientAddress);
        if let Some(pending) = &mut self.host_name {
            let deadline = *self
                .host_name_deadline
                .get_or_insert_with(|| Deadline::after(limit, "resolver_timeout"));
            let left = deadline.remaining().unwrap_or_default();
            let is_known = pending.is_known_by(Instant::now() + client.in_place().min(left));
            if !is_known && deadline.remaining().is_some() {
                return Err(client.sleep_unless_gone(deadline).into());
            }
            if let Some(reason) = pending.failure() {
                let text = format!("no host name of the client: {}", escape(reason.as_bytes()));
                self.log(Severity::Debug, file!(), &text);
            }
        }
        self.set_step(step);
        Ok(())
    }

    /// The client's host name, as far as it is known.
    pub(crate) fn host_name(&mut self) -> HostName {
        let client = self.client();
        match (&mut self.host_name, client) {
            (Some(pending), _) => pending.try_get().unwrap_or(HostName::TempUnavail),
            (None, Address::Ip(_)) => HostName::Unavailable,
            (None, Address::Unix) => HostName::TempUnavail,
        }
    }

    /// Writes a line with everything that is known of the session.
    pub(crate) fn log(&self, severity: Severity, src: &'static str, message: &str) {
        self.log_failure(severity, src, message, None);
    }

    /// Writes a line about what happened between two steps: without the words after "while".
    pub(crate) fn log_event(&self, src: &'static str, message: &str) {
        if self.service.log.enabled(Severity::Info) {
            self.write_log(Severity::Info, src, message, None, Shown::Event);
        }
    }

    /// The same, after a failed system call.
    pub(crate) fn log_failure(
        &self,
        severity: Severity,
        src: &'static str,
        message: &str,
        error: Option<&std::io::Error>,
    ) {
        if self.service.log.enabled(severity) {
            self.write_log(severity, src, message, error, Shown::Action);
        }
    }

    /// The closing line; `undelivered` is for a relay that was cut.
    pub(crate) fn log_closing(&self, reason: &str, undelivered: Option<u64>) {
        if !self.service.log.enabled(Severity::Info) {
            return;
        }
        let facts = self.entry.facts();
        let (tls, upstream) = (facts.tls.clone(), facts.upstream.clone());
        let backend_tls = facts.backend_tls.clone();
        drop(facts);
        let bytes = |which: usize| self.entry.bytes[which].load(Ordering::Relaxed);
        let closing = Closing {
            protocol: self.service.record.name,
            method: self.method.map(|method| method.name),
            tls: tls.as_deref(),
            backend: upstream.as_deref(),
            backend_tls: backend_tls.as_deref(),
            bytes_in: bytes(0),
            bytes_out: bytes(1),
            duration: self.accepted().elapsed(),
            login_time: self.login_time,
            auth_time: self.auth_time,
            backend_time: self.backend_time,
            undelivered,
            reason,
        };
        self.write_log(
            Severity::Info,
            file!(),
            "session closed",
            None,
            Shown::Closing(&closing),
        );
    }

    fn write_log(
        &self,
        severity: Severity,
        src: &'static str,
        message: &str,
        error: Option<&std::io::Error>,
        shown: Shown<'_>,
    ) {
        let closing = match shown {
            Shown::Closing(closing) => Some(closing),
            Shown::Action | Shown::Event => None,
        };
        let facts = self.entry.facts();
        let (client, step) = (facts.client, facts.step);
        let (login, upstream) = (facts.login.clone(), facts.upstream.clone());
        drop(facts);
        let context = Context {
            connection: self.entry.number,
            action: matches!(shown, Shown::Action).then(|| step.action()),
            client: client.socket(),
            peer: self.entry.peer.socket(),
            server: self.local().socket(),
            starttls: self.starttls,
            login: login.as_deref(),
            upstream: upstream.as_deref(),
            closing,
        };
        self.service
            .log
            .write(severity, src, message, error, Some(&context));
    }
}

/// What a line says of the session beyond who and where.
#[derive(Clone, Copy)]
enum Shown<'a> {
    Action,
    Event,
    Closing(&'a Closing<'a>),
}

impl Watcher for Session {
    fn set_step(&self, step: BackendStep) {
        self.set_step(Step::AtBackend(step));
    }

    fn sent(&self, line: &[u8], hidden: usize) {
        self.log_debug(file!(), || {
            let line = without_end(line);
            let shown = self.quote(&line[..line.len().saturating_sub(hidden)]);
            let blot = if hidden > 0 { BLOT } else { "" };
            format!("sent to upstream: \"{shown}{blot}\"")
        });
    }

    fn received(&self, line: &[u8]) {
        self.log_debug(file!(), || {
            let shown = self.quote(without_end(line));
            format!("received from upstream: \"{shown}\"")
        });
    }

    fn tls_runs(&self, facts: &Facts) {
        self.log_tls("upstream", facts);
        self.entry.facts().backend_tls = Some(facts.protocol.clone());
    }
}

/// The name of a session's threads, `imap 1f3a`.
impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:x}", self.service.record.name, self.entry.number)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.runtime.live.remove(self.entry.number);
        self.runtime.hibernation.forget(self.entry.number);
    }
}
