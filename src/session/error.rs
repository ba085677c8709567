//! Why a session ended before its relay: one error type, and what follows from each class of it.
//!
//! `describe` is for the log and tells the administrator everything but credentials. What the client
//! sees is rendered by its dialect, which never repeats a reason.

use std::io;

use crate::auth::AuthError;
use crate::backend::error::{BackendError, RefusalKind};
use crate::blocklist::Block;
use crate::log::{Severity, escape};
use crate::metrics::Outcome;
use crate::net::client_conn::{Stall, Wake};
use crate::net::error::NetError;
use crate::sasl::shown::LoginSecrets;
use crate::session::live::Ending;
use crate::tls::TlsError;

/// The classes of failures.
#[derive(Debug)]
pub(crate) enum Cause {
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
    /// Its client is one that is not let in; nothing is said to it.
    Blocked(Block),
    /// Room was needed for another session.
    MadeRoom,
    /// The login was not checked in its time, as too many of its address were before it.
    TooManyLogins,
    /// The user has as many sessions as this directive allows; nothing is wrong with the login.
    UserLimit(&'static str),
    /// The program stops, or the session was told to end for another reason.
    Stopped(Ending),
    /// The login was refused, and the session ends with the line that says so.
    Refused,
    /// The auth server failed; the text and, where there is one, the system's error.
    AuthService(String, Option<io::Error>),
    /// The backend failed.
    Backend(BackendError),
    /// Something that is wrong with us or the configuration.
    Internal(String),
}

impl Cause {
    /// How loud the log is about it. What a client does is never an error.
    pub(crate) fn severity(&self) -> Severity {
        match self {
            // The closing line says it again.
            Self::Quit | Self::Refused => Severity::Debug,
            Self::ClientGone => Severity::Info,
            Self::ClientTimeout | Self::ClientProtocol(_) | Self::ClientIo(_) => Severity::Info,
            Self::ClientTls(_) | Self::ClientCertificate { .. } => Severity::Info,
            Self::MadeRoom | Self::Stopped(_) | Self::Blocked(_) => Severity::Info,
            Self::TooManyLogins | Self::UserLimit(_) => Severity::Info,
            Self::Backend(BackendError::Refused(reply)) if reply.is_for_client() => Severity::Info,
            Self::BrokenProxyHeader(_) => Severity::Error,
            Self::AuthService(..) | Self::Backend(_) | Self::Internal(_) => Severity::Error,
        }
    }

    /// The failed system call, for the end of the log line.
    pub(crate) fn io_error(&self) -> Option<&io::Error> {
        match self {
            Self::ClientIo(error) => Some(error),
            Self::AuthService(_, error) => error.as_ref(),
            Self::Backend(error) => error.io_error(),
            _ => None,
        }
    }

    /// In words, for the log. `secrets` are those that a backend may have said back.
    pub(crate) fn describe(&self, secrets: &LoginSecrets) -> String {
        let fixed = match self {
            Self::Quit => "client said goodbye",
            Self::ClientGone => "client closed connection",
            Self::ClientTimeout => "client timed out",
            Self::ClientIo(_) => "connection to client failed",
            Self::Blocked(Block::Denied) => "client is not let in: `deny` names its address",
            Self::Blocked(Block::Banned) => "client is not let in: its address is banned",
            Self::MadeRoom => "session made room for others",
            Self::TooManyLogins => "too many logins of this address failed or are being checked",
            Self::UserLimit(directive) => {
                return format!("the user has too many sessions: `{directive}` is reached");
            }
            Self::Stopped(Ending::ReloadTimeout) => {
                "session ended because the configuration was read anew"
            }
            Self::Stopped(Ending::Kicked) => "session ended by an operator",
            Self::Stopped(Ending::Banned) => "session ended because its client was banned",
            Self::Stopped(Ending::Stop | Ending::ShutdownTimeout) => {
                "session ended because the program stops"
            }
            Self::Refused => "session closed after a refused login",
            Self::ClientProtocol(text) | Self::Internal(text) => text,
            Self::ClientCertificate { text, .. } | Self::AuthService(text, _) => text,
            Self::ClientTls(error) => return format!("TLS with client failed: {error}"),
            Self::BrokenProxyHeader(bytes) => {
                return format!("broken header: \"{}\"", escape(bytes));
            }
            Self::Backend(error) => return error.describe(secrets),
        };
        fixed.to_owned()
    }

    /// Whether a client can cause it as often as it likes, without logging in.
    pub(crate) fn is_of_client(&self) -> bool {
        match self {
            Self::Quit | Self::ClientGone | Self::ClientTimeout | Self::ClientProtocol(_) => true,
            Self::ClientIo(_) | Self::ClientTls(_) | Self::ClientCertificate { .. } => true,
            Self::BrokenProxyHeader(_) | Self::MadeRoom | Self::Blocked(_) => true,
            Self::TooManyLogins => true,
            Self::Stopped(_) | Self::Refused | Self::Internal(_) => false,
            Self::UserLimit(_) => false,
            Self::AuthService(..) | Self::Backend(_) => false,
        }
    }

    /// What became of a login that the session ended with.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Quit | Self::ClientGone | Self::ClientTimeout | Self::ClientProtocol(_) => {
                Outcome::Aborted
            }
            Self::ClientIo(_) | Self::ClientTls(_) | Self::ClientCertificate { .. } => {
                Outcome::Aborted
            }
            Self::BrokenProxyHeader(_) | Self::MadeRoom => Outcome::Aborted,
            Self::Stopped(_) | Self::Blocked(_) => Outcome::Aborted,
            Self::TooManyLogins => Outcome::Aborted,
            Self::Refused | Self::UserLimit(_) => Outcome::Refused,
            Self::AuthService(..) => Outcome::AuthUnavailable,
            Self::Backend(BackendError::Internal(_)) | Self::Internal(_) => Outcome::Error,
            Self::Backend(BackendError::Refused(reply)) => match reply.kind {
                RefusalKind::Greeting | RefusalKind::RawGreeting | RefusalKind::LoginForNow => {
                    Outcome::BackendUnavailable
                }
                RefusalKind::Login | RefusalKind::LoginHere(_) => Outcome::BackendRefused,
                RefusalKind::Envelope | RefusalKind::Other => Outcome::BackendRefused,
            },
            Self::Backend(_) => Outcome::BackendUnavailable,
        }
    }

    /// The class in two words, for the closing line.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Quit => "client quit",
            Self::ClientGone => "client closed",
            Self::ClientTimeout => "client timeout",
            Self::ClientProtocol(_) => "client protocol",
            Self::ClientIo(_) => "client connection",
            Self::ClientTls(_) => "client TLS",
            Self::ClientCertificate { .. } => "client certificate",
            Self::BrokenProxyHeader(_) => "broken header",
            Self::Blocked(block) => block.word(),
            Self::MadeRoom => "made room",
            Self::TooManyLogins => "too many logins",
            Self::UserLimit(_) => "user limit",
            Self::Stopped(ending) => ending.reason(),
            Self::Refused => "login refused",
            Self::AuthService(..) => "auth service",
            Self::Backend(error) => error.reason(),
            Self::Internal(_) => "internal error",
        }
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

impl From<BackendError> for Cause {
    fn from(error: BackendError) -> Self {
        Self::Backend(error)
    }
}

/// Why the script does not go on now.
#[derive(Debug)]
pub(crate) enum Halt {
    /// It waits for its client, or for a time: run again from the top when that has come.
    Asleep(Wake),
    /// The session is over.
    Ended(Cause),
}

impl From<Cause> for Halt {
    fn from(cause: Cause) -> Self {
        Self::Ended(cause)
    }
}

/// A client's connection.
impl From<NetError> for Halt {
    fn from(error: NetError) -> Self {
        Self::Ended(match error {
            NetError::Timeout(_) => Cause::ClientTimeout,
            NetError::Closed => Cause::ClientGone,
            NetError::TooLong => Cause::ClientProtocol("client sent too much".into()),
            NetError::Io(error) => Cause::ClientIo(error),
            NetError::Tls(error) => Cause::ClientTls(error),
        })
    }
}

impl From<Stall> for Halt {
    fn from(stall: Stall) -> Self {
        match stall {
            Stall::Asleep(wake) => Self::Asleep(wake),
            Stall::Failed(error) => error.into(),
        }
    }
}

/// What the session was told by those who end it from outside.
impl From<Ending> for Cause {
    fn from(ending: Ending) -> Self {
        Self::Stopped(ending)
    }
}
