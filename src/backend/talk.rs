//! What a login and a visit have in common: the verbs of a dialogue with a backend, who is told how far
//! it is, and its beginning.
//!
//! How a protocol says these verbs stands in `dialect`, which visits do not see: they are given a
//! `Dialogue`.

use super::conn::BackendConn;
use super::error::BackendError;
use super::grant::Grant;
use crate::config::ProxySsl;
use crate::net::line::Line;
use crate::tls::Facts;

/// The backend side of a protocol, on one connection. Order of calls: `greet`; `start_tls` where the
/// backend is spoken to so; then `ask_capabilities` in a visit, `identify` and `log_in` in a login;
/// `quit` where no relay follows. All send and read within the time and the limits of the
/// connection.
pub(crate) trait Talk {
    /// Reads the greeting, and tells the connection if it welcomes us.
    fn greet(&mut self, backend: &mut BackendConn<'_>) -> Result<(), BackendError>;

    /// What the backend offers now, each item with its parameters, in upper case.
    fn ask_capabilities(
        &mut self,
        backend: &mut BackendConn<'_>,
    ) -> Result<Vec<String>, BackendError>;

    /// Begins TLS, if the backend offers that; what it said before is forgotten.
    fn start_tls(&mut self, backend: &mut BackendConn<'_>) -> Result<(), BackendError>;

    /// Introduces us, and the client where the grant says so. Where that stays without an answer, the
    /// connection is of no use any more; the same dialogue goes on from `greet` on another one, and asks less
    /// each time.
    fn identify(
        &mut self,
        backend: &mut BackendConn<'_>,
        grant: &Grant,
    ) -> Result<Introduction, BackendError>;

    /// Logs in, and returns what the client is to be told.
    fn log_in(
        &mut self,
        backend: &mut BackendConn<'_>,
        grant: &Grant,
    ) -> Result<Line, BackendError>;

    /// Says goodbye and closes; whether that is heard does not matter.
    fn quit(&mut self, backend: BackendConn<'_>);
}

/// How an introduction has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Introduction {
    /// The login can follow, whatever was answered.
    Over,
    /// A question of ours has had no answer within its limit. One that comes later could be taken for
    /// another's: only the end of the connection keeps it from the client.
    Unanswered,
}

/// What visits need to know of a protocol.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dialogue {
    /// Begins a dialogue without a client; the text is our own name (`server_name`).
    pub begin: fn(&str) -> Box<dyn Talk>,
    /// Of what each backend offers, what a client may be told before its login.
    pub before_login: fn(&[Vec<String>]) -> Vec<String>,
}

/// Whoever is told how far a dialogue with a backend is.
pub(crate) trait Watcher {
    /// The dialogue is about to do this.
    fn set_step(&self, step: BackendStep);

    /// This line goes to the backend now; the last `hidden` bytes before its end are a secret, or tell
    /// something of one.
    fn sent(&self, line: &[u8], hidden: usize);

    /// This line has come from the backend, which may say back what it was told.
    fn received(&self, line: &[u8]);

    /// TLS runs from now on.
    fn tls_runs(&self, facts: &Facts);
}

/// What is being done at a backend; names the moment in the log, and steers nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BackendStep {
    Connecting,
    SendingProxyProtocol,
    SslHandshaking,
    InStarttls,
    SendingHelo,
    SendingXclient,
    SendingClientHelo,
    SendingId,
    SendingAuth,
    SendingMailFrom,
    SendingRcptTo,
    SendingLogin,
    SendingUser,
    SendingPassword,
    ReadingResponse,
}

impl BackendStep {
    /// The words after "while" in a log line.
    pub(crate) fn action(self) -> &'static str {
        match self {
            Self::Connecting => "connecting to upstream",
            Self::SendingProxyProtocol => "sending PROXY protocol header to upstream",
            Self::SslHandshaking => "SSL handshaking",
            Self::InStarttls => "in starttls state",
            Self::SendingHelo => "sending HELO/EHLO to upstream",
            Self::SendingXclient => "sending XCLIENT to upstream",
            Self::SendingClientHelo => "sending client HELO/EHLO to upstream",
            Self::SendingId => "sending ID to upstream",
            Self::SendingAuth => "sending AUTH to upstream",
            Self::SendingMailFrom => "sending MAIL FROM to upstream",
            Self::SendingRcptTo => "sending RCPT TO to upstream",
            Self::SendingLogin => "sending LOGIN command to upstream",
            Self::SendingUser => "sending user name to upstream",
            Self::SendingPassword => "sending password to upstream",
            Self::ReadingResponse => "reading response from upstream",
        }
    }
}

/// The beginning of every dialogue that wants more than a greeting: that, and STARTTLS where the backend
/// is spoken to so.
pub(crate) fn open(talk: &mut dyn Talk, backend: &mut BackendConn<'_>) -> Result<(), BackendError> {
    talk.greet(backend)?;
    match backend.ssl() {
        ProxySsl::StartTls => talk.start_tls(backend),
        ProxySsl::Off | ProxySsl::On => Ok(()),
    }
}
