//! A connection to a backend before its relay, with its time and its limits: connecting, the PROXY
//! header, TLS, lines. Logins and visits use the same.
//!
//! What the lines mean is the dialects' business; which host is tried when, that of `session::run`,
//! `check` and `capabilities`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockAddr;

use super::deadlines::Deadlines;
use super::error::{BackendError, BackendReply, BeforeCredentials, LoginFailure};
use super::loops::Leg;
use super::silent::{Answered, Silent};
use super::talk::{BackendStep, Watcher};
use super::{BACKEND_LINE, BACKEND_TOTAL, Candidate};
use crate::config::{Keepalive, ProxyProtocol, ProxySsl};
use crate::net::conn::Conn;
use crate::net::error::NetError;
use crate::net::listen;
use crate::net::proxy_protocol;
use crate::net::socket::{Deadline, Socket, is_exhaustion};
use crate::tls::{Connector, Facts, TlsError, TlsErrorKind};

/// Longest wait for the answer to a visit's goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// The same while a client waits.
const SHORT_GOODBYE: Duration = Duration::from_millis(200);

/// Longest wait for the answer to a question of ours in a login.
const QUESTION: Duration = Duration::from_secs(5);

/// How a host is connected to.
pub(crate) struct Dial<'a> {
    /// The host.
    pub candidate: &'a Candidate,
    /// PROXY header sent there.
    pub proxy_protocol: ProxyProtocol,
    /// Whom that names.
    pub origin: Origin,
    /// TLS towards it.
    pub ssl: ProxySsl,
    /// How that TLS is spoken, or why it cannot be.
    pub connector: &'a Result<Connector, String>,
    /// Its time.
    pub deadlines: Deadlines,
    /// Who is told how far the dialogue is; nobody in a visit.
    pub watcher: Option<&'a dyn Watcher>,
    /// Which hosts leave our questions without an answer.
    pub silent: Option<&'a Silent>,
    /// Whether a client is shown the host's refusals (`proxy_pass_error_message`).
    pub pass_on: bool,
}

/// On whose behalf a host is connected to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Origin {
    /// A client's, with the two ends of its connection; `None` for a Unix socket.
    Client(Option<(SocketAddr, SocketAddr)>),
    /// Our own: the two ends are those of the new connection.
    Ourselves,
}

/// Lines of one host that the watcher is shown: each is searched for the login's secrets, and a host can send
/// thousands of empty ones.
const SHOWN_LINES: usize = 128;

/// A connection to a backend, until its relay.
pub(crate) struct BackendConn<'a> {
    conn: Conn,
    dial: Dial<'a>,
    /// How many lines it has sent.
    lines: usize,
    /// What its answers have taken so far, in bytes.
    total: usize,
    /// It can hear a goodbye: it has welcomed us, and the connection works.
    hears_goodbye: bool,
    /// The credentials went out to it, or a part of them.
    has_credentials: bool,
    /// It has refused them.
    has_refused: bool,
    /// Its two ends, for whoever looks for loops.
    _leg: Option<Leg>,
}

impl<'a> Dial<'a> {
    /// Connects, sends the PROXY header, and runs TLS where that comes first.
    ///
    /// # Errors
    /// The host does not serve, or this process has no descriptors left.
    pub(crate) fn connect(self) -> Result<BackendConn<'a>, BeforeCredentials> {
        self.connect_and_secure().map_err(BeforeCredentials::new)
    }

    fn connect_and_secure(self) -> Result<BackendConn<'a>, BackendError> {
        let address = self.candidate.address;
        let socket = self.open_socket()?;
        let local = socket.local().ok().and_then(|local| local.socket());
        let mut backend = BackendConn {
            _leg: local.map(|local| Leg::new(local, address)),
            conn: Conn::new(Arc::new(socket), BACKEND_LINE),
            dial: self,
            lines: 0,
            total: 0,
            hears_goodbye: false,
            has_credentials: false,
            has_refused: false,
        };
        backend.send_proxy_header(address)?;
        if backend.dial.ssl == ProxySsl::On {
            backend.start_tls()?;
        }
        backend.set_step(BackendStep::ReadingResponse);
        Ok(backend)
    }

    fn open_socket(&self) -> Result<Socket, BackendError> {
        if let Some(watcher) = self.watcher {
            watcher.set_step(BackendStep::Connecting);
        }
        let address = self.candidate.address;
        if let Some(own) = listen::own_listener_at(address) {
            let text = format!(
                "upstream {address} is our own listener {own}: {} must name the server behind it",
                self.candidate.named_in
            );
            return Err(BackendError::Connect(text, None));
        }
        let address = SockAddr::from(address);
        let left = self.deadlines.current().left()?;
        let socket = Socket::connect(&address, left).map_err(connect_failure)?;
        socket.keep_alive(Keepalive::Unset);
        Ok(socket)
    }
}

fn connect_failure(error: io::Error) -> BackendError {
    match error.kind() {
        io::ErrorKind::TimedOut => BackendError::Timeout,
        // Ours, not the backend's.
        _ if is_exhaustion(&error) => {
            BackendError::Internal(format!("no connection to upstream: {error}"))
        }
        _ => BackendError::Connect("connect() failed".into(), Some(error)),
    }
}

impl BackendConn<'_> {
    /// The header goes out in one write: some servers do not put it together from several.
    fn send_proxy_header(&mut self, address: SocketAddr) -> Result<(), BackendError> {
        if self.dial.proxy_protocol == ProxyProtocol::Off {
            return Ok(());
        }
        self.set_step(BackendStep::SendingProxyProtocol);
        let addresses = match self.dial.origin {
            Origin::Client(addresses) => addresses,
            Origin::Ourselves => {
                let local = self.conn.socket().local();
                let local = local.map_err(|error| BackendError::Gone(Some(error)))?;
                local.socket().map(|local| (local, address))
            }
        };
        self.send(&proxy_protocol::encode(self.dial.proxy_protocol, addresses))
    }

    /// Runs the TLS handshake, behind STARTTLS or at once. A byte that came before it is an attempt to have
    /// something believed that was never encrypted.
    pub(crate) fn start_tls(&mut self) -> Result<(), BackendError> {
        self.set_step(BackendStep::SslHandshaking);
        // In plain text there is nothing to be said any more.
        let hears_goodbye = std::mem::replace(&mut self.hears_goodbye, false);
        if self.has_more() {
            return Err(BackendError::Tls(TlsError::new(
                TlsErrorKind::Protocol,
                "the backend sent something before the handshake, as an attacker in between would",
            )));
        }
        let connector = self.dial.connector.as_ref();
        let connector = connector.map_err(|reason| BackendError::Internal(reason.clone()))?;
        let engine = connector.engine(&self.dial.candidate.host);
        let engine = engine.map_err(BackendError::Tls)?;
        self.conn.start_tls(engine, self.dial.deadlines.current())?;
        self.hears_goodbye = hears_goodbye;
        if let (Some(watcher), Some(facts)) = (self.dial.watcher, self.conn.tls_facts()) {
            watcher.tls_runs(&facts);
        }
        Ok(())
    }

    /// What is known of its TLS, if there is any.
    pub(crate) fn tls_facts(&self) -> Option<Facts> {
        self.conn.tls_facts()
    }

    /// Where the host is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.dial.candidate.address
    }

    /// How TLS is spoken here.
    pub(crate) fn ssl(&self) -> ProxySsl {
        self.dial.ssl
    }

    /// Says what the dialogue is about to do.
    pub(crate) fn set_step(&self, step: BackendStep) {
        if let Some(watcher) = self.dial.watcher {
            watcher.set_step(step);
        }
    }

    /// Until when a question of ours must have been answered: soon enough for the login to be tried again
    /// without it.
    pub(crate) fn question_limit(&self) -> Deadline {
        let left = self.dial.deadlines.current().remaining();
        Deadline::after(QUESTION.min(left.unwrap_or_default() / 3), "timeout")
    }

    /// Whether the host has left questions without an answer lately, so that it is asked none.
    pub(crate) fn is_silent(&self) -> bool {
        let silent = self.dial.silent;
        silent.is_some_and(|silent| silent.has(self.address()))
    }

    /// Notes whether the host has answered a question.
    pub(crate) fn note_question(&self, is_answered: Answered) {
        if let Some(silent) = self.dial.silent {
            silent.note(self.address(), is_answered);
        }
    }

    /// The host's greeting welcomes us.
    pub(crate) fn is_welcome(&mut self) {
        self.dial.deadlines.has_greeted();
        self.hears_goodbye = true;
    }

    /// Sends the line with the password, or with what stands for it. From here on the host is held
    /// to have it, even if only a part of the line went out. `hidden` as in `send_hiding`.
    pub(crate) fn send_credentials(
        &mut self,
        line: &[u8],
        hidden: usize,
    ) -> Result<(), BackendError> {
        self.dial.deadlines.credentials_are_out();
        self.has_credentials = true;
        self.send_hiding(line, hidden)
    }

    /// Whether the host has the credentials, or a part of them.
    pub(crate) fn has_credentials(&self) -> bool {
        self.has_credentials
    }

    /// What this error means for other hosts and for the health of this one.
    pub(crate) fn login_failure(&mut self, error: BackendError) -> LoginFailure {
        let failure = LoginFailure::of(self.has_credentials, error);
        if let LoginFailure::After(failure) = &failure {
            self.has_refused = failure.is_judgement();
        }
        failure
    }

    /// Sends a line, its end included.
    pub(crate) fn send(&mut self, line: &[u8]) -> Result<(), BackendError> {
        self.send_hiding(line, 0)
    }

    /// Sends a line, its end included, whose last bytes before that are nobody else's business: so many of
    /// them are hidden from the watcher.
    pub(crate) fn send_hiding(&mut self, line: &[u8], hidden: usize) -> Result<(), BackendError> {
        if let Some(watcher) = self.dial.watcher {
            watcher.sent(line, hidden);
        }
        let sent = self.conn.send(line, self.dial.deadlines.current());
        self.note_failure(sent)
    }

    /// Reads a line, its end included.
    pub(crate) fn read_line(&mut self) -> Result<Vec<u8>, BackendError> {
        self.read_line_by(self.dial.deadlines.current())
    }

    /// The same within `limit`, if that ends earlier, for a question that may stay without an answer.
    pub(crate) fn read_line_within(&mut self, limit: Deadline) -> Result<Vec<u8>, BackendError> {
        let current = self.dial.deadlines.current();
        self.read_line_by(if limit.at < current.at {
            limit
        } else {
            current
        })
    }

    fn read_line_by(&mut self, deadline: Deadline) -> Result<Vec<u8>, BackendError> {
        let read = self.conn.fill_line(deadline);
        let length = match self.note_failure(read) {
            Err(BackendError::Timeout) if self.has_said_nothing() => {
                return Err(BackendError::NoGreeting);
            }
            read => read?,
        };
        self.total += length;
        if self.total > BACKEND_TOTAL {
            self.hears_goodbye = false;
            return Err(BackendError::Internal(format!(
                "upstream sent more than {BACKEND_TOTAL} bytes before the login was done"
            )));
        }
        let line = self.conn.buffered()[..length].to_vec();
        self.conn.consume(length);
        self.lines += 1;
        if let Some(watcher) = self.dial.watcher.filter(|_| self.lines <= SHOWN_LINES) {
            watcher.received(&line);
        }
        Ok(line)
    }

    /// Whether nothing at all has come, where plain text should.
    fn has_said_nothing(&self) -> bool {
        self.total == 0 && self.dial.ssl != ProxySsl::On && !self.has_more()
    }

    /// Whether more has come than was read.
    pub(crate) fn has_more(&self) -> bool {
        !self.conn.buffered().is_empty()
    }

    /// The failure for an unexpected answer.
    pub(crate) fn refused(&self, reply: BackendReply) -> BackendError {
        let handed_on = reply.handed_on.filter(|_| self.dial.pass_on);
        BackendError::Refused(BackendReply { handed_on, ..reply })
    }

    /// Says goodbye with this line and closes. Nothing is said to a host that did not welcome us, to one that
    /// has the credentials and has not judged them, nor where nobody would hear it.
    pub(crate) fn close_with(mut self, goodbye: &[u8]) {
        if !self.hears_goodbye || self.has_credentials && !self.has_refused {
            return;
        }
        let limit = match self.dial.origin {
            Origin::Client(_) => SHORT_GOODBYE,
            Origin::Ourselves => GOODBYE,
        };
        let deadline = Deadline::after(limit, "connect_timeout");
        if let Some(watcher) = self.dial.watcher {
            watcher.sent(goodbye, 0);
        }
        if self.conn.send(goodbye, deadline).is_ok() {
            let _ = self.conn.fill_line(deadline);
        }
        self.conn.close_after_line();
    }

    /// The connection for a relay.
    pub(crate) fn into_conn(self) -> Conn {
        self.conn
    }

    /// A connection that failed hears nothing more.
    fn note_failure<T>(&mut self, done: Result<T, NetError>) -> Result<T, BackendError> {
        self.hears_goodbye &= done.is_ok();
        Ok(done?)
    }
}
