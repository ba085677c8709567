//! One client connection, from accept to close: who, where, and at which step.
//!
//! The course of events is in `run`; this is what it carries along.

pub mod budget;
mod copy;
pub mod dial;
pub mod error;
pub mod relay;
pub mod run;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::admission::{Arrival, Place};
use crate::log::{Closing, Context, Severity};
use crate::net::address::Address;
use crate::net::conn::Conn;
use crate::net::resolve::{HostName, PendingName};
use crate::net::socket::Deadline;
use crate::presence::{Doing, Presence};
use crate::sasl::Method;
use crate::service::Service;
use crate::tls::{CertificateRefusal, Facts};

use self::budget::Budget;
use self::error::Cause;

/// What a session is doing; names the moment in the log, and steers nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "`action` says what each is")]
pub enum Step {
    Initializing,
    ReadingProxyProtocol,
    SslHandshaking,
    SendingGreeting,
    InDelayPipelining,
    ResolvingClientAddress,
    InAuth,
    InStarttls,
    InHttpAuth,
    ConnectingToUpstream,
    SendingProxyProtocol,
    SendingHelo,
    SendingXclient,
    SendingClientHelo,
    SendingAuth,
    SendingMailFrom,
    SendingRcptTo,
    SendingLogin,
    SendingUser,
    SendingPassword,
    ReadingResponse,
    Proxying,
}

impl Step {
    /// The words after "while" in a log line.
    pub fn action(self) -> &'static str {
        match self {
            Self::Initializing => "initializing session",
            Self::ReadingProxyProtocol => "reading PROXY protocol",
            Self::SslHandshaking => "SSL handshaking",
            Self::SendingGreeting => "sending client greeting line",
            Self::InDelayPipelining => "in delay pipelining state",
            Self::ResolvingClientAddress => "in resolving client address",
            Self::InAuth => "in auth state",
            Self::InStarttls => "in starttls state",
            Self::InHttpAuth => "in http auth state",
            Self::ConnectingToUpstream => "connecting to upstream",
            Self::SendingProxyProtocol => "sending PROXY protocol header to upstream",
            Self::SendingHelo => "sending HELO/EHLO to upstream",
            Self::SendingXclient => "sending XCLIENT to upstream",
            Self::SendingClientHelo => "sending client HELO/EHLO to upstream",
            Self::SendingAuth => "sending AUTH to upstream",
            Self::SendingMailFrom => "sending MAIL FROM to upstream",
            Self::SendingRcptTo => "sending RCPT TO to upstream",
            Self::SendingLogin => "sending LOGIN command to upstream",
            Self::SendingUser => "sending user name to upstream",
            Self::SendingPassword => "sending password to upstream",
            Self::ReadingResponse => "reading response from upstream",
            Self::Proxying => "proxying",
        }
    }
}

/// One client connection.
#[derive(Debug)]
pub struct Session {
    /// Its number, unique in the process.
    pub id: u64,
    /// The server that it came to.
    pub service: Arc<Service>,
    /// Its place among all sessions; given back when it is dropped.
    pub place: Place,
    /// The other end of the client's socket.
    pub peer: Address,
    /// Our end of it.
    pub local: Address,
    /// Who the client is: the peer, or whom a trusted PROXY header names.
    pub client: Address,
    /// Source and destination of the PROXY header the client came with.
    pub proxied: Option<(SocketAddr, SocketAddr)>,
    /// What it is doing.
    pub step: Step,
    /// Whether the client's next bytes belong to a handshake: nothing can be said to it in plain text.
    pub tls_is_due: bool,
    /// Whether TLS began with STARTTLS.
    pub starttls: bool,
    /// What is known of the client's TLS.
    pub tls: Option<Facts>,
    /// What the client may use up before its login.
    pub budget: Budget,
    /// Login commands so far.
    pub attempts: u32,
    /// The last login that was tried; the backend's name for it once accepted.
    pub login: Option<Vec<u8>>,
    /// How it was tried.
    pub method: Option<Method>,
    /// The backend, once it is known.
    pub upstream: Option<String>,
    /// Its host name, for TLS.
    pub upstream_host: String,
    /// When it was accepted.
    pub accepted: Instant,
    /// When it was logged in, counted from accept.
    pub login_time: Option<Duration>,
    login_deadline: Option<Deadline>,
    host_deadline: Option<Deadline>,
    salt: Option<String>,
    host_name: Option<PendingName>,
}

impl From<Arrival> for Session {
    fn from(arrival: Arrival) -> Self {
        let Arrival {
            service,
            place,
            peer,
            socket,
            accepted,
            implicit_tls,
            ..
        } = arrival;
        let local = socket.local().unwrap_or(Address::Unix);
        let conf = &service.conf;
        Self {
            id: place.id(),
            budget: Budget::new(accepted, conf.timeout, conf.max_errors, conf.max_commands),
            service,
            place,
            peer,
            local,
            client: peer,
            proxied: None,
            step: Step::Initializing,
            tls_is_due: implicit_tls,
            starttls: false,
            tls: None,
            attempts: 0,
            login: None,
            method: None,
            upstream: None,
            upstream_host: String::new(),
            accepted,
            login_time: None,
            login_deadline: None,
            host_deadline: None,
            salt: None,
            host_name: None,
        }
    }
}

impl Session {
    /// The client's connection, its buffer as the protocol's directive says.
    pub fn client_conn(&self) -> Conn {
        let presence: Arc<Presence> = Arc::clone(self.place.presence());
        Conn::client(presence, self.service.client_buffer())
    }

    /// The time for the whole backend login runs from here.
    pub fn begin_login(&mut self) {
        self.login_deadline = Some(Deadline::after(self.service.conf.timeout, "timeout"));
        self.host_deadline = None;
    }

    /// What is left of that time is shared by this many hosts; the share of the first runs from here.
    pub fn begin_host(&mut self, hosts: usize) {
        let login = self.login_deadline.unwrap_or(self.budget.deadline());
        let hosts = u32::try_from(hosts).unwrap_or(u32::MAX).max(1);
        let share = login.remaining().unwrap_or_default() / hosts;
        self.host_deadline = Some(Deadline::after(share, login.directive));
    }

    /// The backend has the credentials, and all of the login's time to judge them: servers answer a
    /// wrong password late on purpose, which must not look like a host that is down.
    pub fn credentials_are_out(&mut self) {
        self.host_deadline = None;
    }

    /// Until when the backend's next answer must have come.
    pub fn login_deadline(&self) -> Deadline {
        let deadline = self.host_deadline.or(self.login_deadline);
        deadline.unwrap_or(self.budget.deadline())
    }

    /// Runs the client's TLS handshake and judges its certificate.
    pub fn start_tls(&mut self, client: &mut Conn) -> Result<(), Cause> {
        self.step = Step::SslHandshaking;
        self.tls_is_due = true;
        let service = Arc::clone(&self.service);
        service.refresh_tls();
        let Some(acceptor) = &service.acceptor else {
            return Err(Cause::Internal("TLS is not configured".into()));
        };
        let engine = acceptor.engine().map_err(Cause::ClientTls)?;
        client.start_tls(engine, self.budget.deadline())?;
        self.tls_is_due = false;
        let facts = client.tls_facts().unwrap_or_default();
        let refusal = crate::tls::certificate_refusal(&facts, acceptor.verify_client());
        self.tls = Some(facts);
        match refusal {
            None => Ok(()),
            Some(refusal) => Err(Cause::ClientCertificate {
                missing: refusal == CertificateRefusal::Missing,
                text: refusal.to_string(),
            }),
        }
    }

    /// The challenge of APOP and CRAM-MD5, one for the whole session.
    pub fn salt(&mut self) -> Result<String, Cause> {
        if let Some(salt) = &self.salt {
            return Ok(salt.clone());
        }
        let salt = crate::sasl::salt(&self.service.conf.server_name)
            .map_err(|error| Cause::Internal(format!("no random numbers: {error}")))?;
        self.salt = Some(salt.clone());
        Ok(salt)
    }

    /// Starts looking the client's host name up, where the server wants it.
    pub fn begin_host_name(&mut self) {
        self.host_name = self.service.begin_host_name(self.client);
    }

    /// The client's host name, waited for if it is still being looked up. The session can be evicted
    /// meanwhile: whoever connects may have a name server that never answers.
    pub fn host_name(&mut self, deadline: Deadline) -> Result<HostName, Cause> {
        /// How long an eviction may go unnoticed.
        const SLICE: Duration = Duration::from_millis(20);
        let Some(pending) = &mut self.host_name else {
            return Ok(match self.client {
                Address::Ip(_) => HostName::Unavailable,
                Address::Unix => HostName::TempUnavail,
            });
        };
        let step = std::mem::replace(&mut self.step, Step::ResolvingClientAddress);
        let presence = self.place.presence();
        let name = loop {
            if let Some(name) = pending.try_get() {
                break name;
            }
            let Some(left) = deadline.remaining() else {
                break pending.wait(Instant::now());
            };
            presence
                .enter(Doing::WaitingForClient)
                .map_err(|_| Cause::Evicted)?;
            std::thread::sleep(left.min(SLICE));
            presence.leave().map_err(|_| Cause::Evicted)?;
        };
        self.step = step;
        Ok(name)
    }

    /// Writes a line with everything that is known of the session.
    pub fn log(&self, severity: Severity, src: &'static str, message: &str) {
        self.log_failure(severity, src, message, None);
    }

    /// Writes a line about what happened between two steps: without the words after "while".
    pub fn log_event(&self, src: &'static str, message: &str) {
        if self.service.log.enabled(Severity::Info) {
            self.write_log(Severity::Info, src, message, None, Shown::Event);
        }
    }

    /// The same, after a failed system call.
    pub fn log_failure(
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

    /// The closing line.
    pub fn log_closing(&self, reason: &str, bytes_in: u64, bytes_out: u64) {
        if !self.service.log.enabled(Severity::Info) {
            return;
        }
        let closing = Closing {
            protocol: self.service.record.name,
            method: self.method.map(Method::name),
            tls: self.tls.as_ref().map(|tls| tls.protocol.as_str()),
            backend: self.upstream.as_deref(),
            bytes_in,
            bytes_out,
            duration: self.accepted.elapsed(),
            login_time: self.login_time,
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
        let context = Context {
            connection: self.id,
            action: matches!(shown, Shown::Action).then(|| self.step.action()),
            client: &self.peer.to_string(),
            server: &self.local.to_string(),
            starttls: self.starttls,
            login: self.login.as_deref(),
            upstream: self.upstream.as_deref(),
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

/// The name of a session's threads, `imap 1f3a`.
impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:x}", self.service.record.name, self.id)
    }
}
