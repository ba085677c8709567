//! Why a session ended before its relay: one error type, and what follows from each class of it.
//!
//! `Display` is for the log and tells the administrator everything but credentials. What the client
//! sees is rendered by its dialect, which never repeats a reason.

use std::fmt;
use std::io;

use crate::auth::AuthError;
use crate::backend::grant::CannotLogIn;
use crate::log::{Severity, escape};
use crate::net::conn::{NetError, NetErrorKind, Side};
use crate::session::Step;
use crate::tls::TlsError;

/// The end of a session before its relay.
#[derive(Debug)]
pub struct SessionError {
    /// What the session was doing.
    pub step: Step,
    /// What went wrong.
    pub cause: Cause,
}

/// The classes of failures.
#[derive(Debug)]
pub enum Cause {
    /// The client said goodbye and was answered.
    Quit,
    /// The client closed the connection.
    ClientGone,
    /// The client was too slow; nothing is said to it.
    ClientTimeout,
    /// The client was told that its last line was one too many; the text is for the log.
    ClientProtocol(String),
    /// The connection to the client broke.
    ClientIo(io::Error),
    /// TLS towards the client failed.
    ClientTls(TlsError),
    /// The client's certificate is not accepted.
    ClientCertificate {
        /// Whether there was one at all.
        missing: bool,
        /// For the log.
        text: String,
    },
    /// The listener wants a PROXY header and got something else.
    BrokenProxyHeader(Vec<u8>),
    /// Room was needed for another session.
    Evicted,
    /// The program stops.
    Stopped,
    /// The login was refused, and the session ends with the line that says so.
    Refused,
    /// The auth server failed; the text and, where there is one, the system's error.
    AuthService(String, Option<io::Error>),
    /// The backend cannot be reached.
    BackendConnect(String, Option<io::Error>),
    /// The backend was too slow.
    BackendTimeout,
    /// The connection to the backend broke or ended.
    BackendGone(Option<io::Error>),
    /// TLS towards the backend failed.
    BackendTls(TlsError),
    /// The backend's answer is none that the protocol knows at this step.
    BackendRefused(BackendReply),
    /// Something that is wrong with us or the configuration.
    Internal(String),
}

/// An answer of a backend other than the expected one.
#[derive(Debug)]
pub struct BackendReply {
    /// All its lines, as they came.
    pub answer: Vec<u8>,
    /// How the administrator can help, where that is known.
    pub hint: Option<&'static str>,
    /// Whether the client gets the answer itself (`proxy_pass_error_message`).
    pub pass_on: bool,
    /// What it refuses.
    pub kind: RefusalKind,
}

/// What a backend refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// To talk at all: its greeting is none that welcomes, or it says goodbye.
    Greeting,
    /// The same, in words that must not reach a client raw (IMAP's BYE and PREAUTH).
    RawGreeting,
    /// This login and password.
    Login,
    /// Logins for the time being.
    LoginForNow,
    /// Anything else.
    Other,
}

impl Cause {
    /// How loud the log is about it. What a client does is never an error.
    pub fn severity(&self) -> Severity {
        match self {
            // The closing line says it again.
            Self::Quit | Self::Refused => Severity::Debug,
            Self::ClientGone => Severity::Info,
            Self::ClientTimeout | Self::ClientProtocol(_) | Self::ClientIo(_) => Severity::Info,
            Self::ClientTls(_) | Self::ClientCertificate { .. } => Severity::Info,
            Self::Evicted | Self::Stopped => Severity::Info,
            Self::BackendRefused(refusal) if refusal.pass_on => Severity::Info,
            Self::BrokenProxyHeader(_) => Severity::Error,
            Self::AuthService(..) | Self::BackendConnect(..) | Self::BackendTimeout => {
                Severity::Error
            }
            Self::BackendGone(_) | Self::BackendTls(_) | Self::BackendRefused(_) => Severity::Error,
            Self::Internal(_) => Severity::Error,
        }
    }

    /// Whether another host of the backend may do better. A login that was refused never goes to one.
    pub fn is_of_host(&self) -> bool {
        match self {
            Self::BackendConnect(..) | Self::BackendTimeout => true,
            Self::BackendGone(_) | Self::BackendTls(_) => true,
            Self::BackendRefused(refusal) => {
                matches!(
                    refusal.kind,
                    RefusalKind::Greeting | RefusalKind::RawGreeting
                )
            }
            _ => false,
        }
    }

    /// The failed system call, for the end of the log line.
    pub fn io_error(&self) -> Option<&io::Error> {
        match self {
            Self::ClientIo(error) => Some(error),
            Self::AuthService(_, error)
            | Self::BackendConnect(_, error)
            | Self::BackendGone(error) => error.as_ref(),
            _ => None,
        }
    }

    /// The class in two words, for the closing line.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Quit => "client quit",
            Self::ClientGone => "client closed",
            Self::ClientTimeout => "client timeout",
            Self::ClientProtocol(_) => "client protocol",
            Self::ClientIo(_) => "client connection",
            Self::ClientTls(_) => "client TLS",
            Self::ClientCertificate { .. } => "client certificate",
            Self::BrokenProxyHeader(_) => "broken header",
            Self::Evicted => "made room",
            Self::Stopped => "stopped",
            Self::Refused => "login refused",
            Self::AuthService(..) => "auth service",
            Self::BackendConnect(..) => "backend connect",
            Self::BackendTimeout => "backend timeout",
            Self::BackendGone(_) => "backend connection",
            Self::BackendTls(_) => "backend TLS",
            Self::BackendRefused(_) => "backend refused",
            Self::Internal(_) => "internal error",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quit => f.write_str("client said goodbye"),
            Self::ClientGone => f.write_str("client closed connection"),
            Self::ClientTimeout => f.write_str("client timed out"),
            Self::ClientProtocol(text) | Self::Internal(text) => f.write_str(text),
            Self::ClientIo(_) => f.write_str("connection to client failed"),
            Self::ClientTls(error) => write!(f, "TLS with client failed: {error}"),
            Self::ClientCertificate { text, .. } => f.write_str(text),
            Self::BrokenProxyHeader(bytes) => write!(f, "broken header: \"{}\"", escape(bytes)),
            Self::Evicted => f.write_str("session made room for others"),
            Self::Stopped => f.write_str("session ended because the program stops"),
            Self::Refused => f.write_str("session closed after a refused login"),
            Self::AuthService(text, _) | Self::BackendConnect(text, _) => f.write_str(text),
            Self::BackendTimeout => f.write_str("upstream timed out"),
            Self::BackendGone(None) => f.write_str("upstream closed connection"),
            Self::BackendGone(Some(_)) => f.write_str("connection to upstream failed"),
            Self::BackendTls(error) => write!(f, "TLS with upstream failed: {error}"),
            Self::BackendRefused(refusal) => refusal.fmt(f),
        }
    }
}

impl fmt::Display for BackendReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answer = self.answer.trim_ascii_end();
        write!(f, "upstream sent invalid response: \"{}\"", escape(answer))?;
        if let Some(hint) = self.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl From<AuthError> for Cause {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Service(text, error) => Self::AuthService(text, error),
            AuthError::NoServer => Self::Internal(error.to_string()),
        }
    }
}

impl From<CannotLogIn> for Cause {
    fn from(error: CannotLogIn) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<NetError> for Cause {
    fn from(error: NetError) -> Self {
        match (error.side, error.kind) {
            (_, NetErrorKind::Evicted) => Self::Evicted,
            (Side::Client, NetErrorKind::Timeout(_)) => Self::ClientTimeout,
            (Side::Client, NetErrorKind::Closed) => Self::ClientGone,
            (Side::Client, NetErrorKind::TooLong) => {
                Self::ClientProtocol("client sent too much".into())
            }
            (Side::Client, NetErrorKind::Io(error)) => Self::ClientIo(error),
            (Side::Client, NetErrorKind::Tls(error)) => Self::ClientTls(error),
            (Side::Backend, NetErrorKind::Timeout(_)) => Self::BackendTimeout,
            (Side::Backend, NetErrorKind::Closed) => Self::BackendGone(None),
            (Side::Backend, NetErrorKind::TooLong) => {
                Self::Internal("upstream sent too long an answer".into())
            }
            (Side::Backend, NetErrorKind::Io(error)) => Self::BackendGone(Some(error)),
            (Side::Backend, NetErrorKind::Tls(error)) => Self::BackendTls(error),
        }
    }
}
