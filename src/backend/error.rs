//! Why a host of a backend does not serve, or a login there fails: one type for logins and visits.
//!
//! `describe` is for the log. What a client is told instead is its dialect's business.

use std::io;

use super::grant::CannotLogIn;
use crate::net::error::NetError;
use crate::net::line::Line;
use crate::sasl::shown::LoginSecrets;
use crate::tls::{TlsError, TlsErrorKind};

/// Why a login failed at one host. Only the first of the two can be tried elsewhere.
#[derive(Debug)]
pub(crate) enum LoginFailure {
    Before(BeforeCredentials),
    After(AfterCredentials),
}

/// A failure at a host that has not seen the credentials. It tells whether the host serves
/// (`Backend::note_failure`), and another host may be tried.
#[derive(Debug)]
pub(crate) struct BeforeCredentials(BackendError);

/// A failure at a host that has the credentials. They may be what it did not like, so that they go nowhere
/// else, and nothing follows for its health.
#[derive(Debug)]
pub(crate) struct AfterCredentials(BackendError);

impl BeforeCredentials {
    /// A failure of a host that cannot have had the credentials: it was not connected to, or visited only.
    pub(super) fn new(error: BackendError) -> Self {
        Self(error)
    }

    /// Whether another host may do better. A login that was refused never goes to one.
    pub(crate) fn is_of_host(&self) -> bool {
        self.0.is_without_service()
    }

    /// What failed.
    pub(crate) fn cause(&self) -> &BackendError {
        &self.0
    }
}

impl LoginFailure {
    /// `has_credentials` is what the connection knows.
    pub(super) fn of(has_credentials: bool, error: BackendError) -> Self {
        if has_credentials {
            Self::After(AfterCredentials(error))
        } else {
            Self::Before(BeforeCredentials(error))
        }
    }
}

impl AfterCredentials {
    /// Whether the host has judged the login, which shows that it serves.
    pub(crate) fn is_judgement(&self) -> bool {
        !self.0.is_without_service()
    }
}

impl From<BeforeCredentials> for LoginFailure {
    fn from(failure: BeforeCredentials) -> Self {
        Self::Before(failure)
    }
}

impl From<BeforeCredentials> for BackendError {
    fn from(failure: BeforeCredentials) -> Self {
        failure.0
    }
}

impl From<AfterCredentials> for BackendError {
    fn from(failure: AfterCredentials) -> Self {
        failure.0
    }
}

/// The classes of failures at a backend.
#[derive(Debug)]
pub(crate) enum BackendError {
    /// It cannot be reached.
    Connect(String, Option<io::Error>),
    /// It was too slow.
    Timeout,
    /// It was too slow to say a first word in plain text, as a port is that waits for TLS.
    NoGreeting,
    /// The connection broke or ended.
    Gone(Option<io::Error>),
    /// TLS failed.
    Tls(TlsError),
    /// Its answer is none that the protocol knows at this step.
    Refused(BackendReply),
    /// Something that is wrong with us or the configuration.
    Internal(String),
}

/// An answer of a backend other than the expected one.
#[derive(Debug)]
pub(crate) struct BackendReply {
    /// All its lines, as they came.
    pub answer: Vec<u8>,
    /// How the administrator can help, where that is known.
    pub hint: Option<&'static str>,
    /// What it refuses.
    pub kind: RefusalKind,
    /// The refusal as a client may be shown it, where that is wanted (`proxy_pass_error_message`): only what
    /// is a refusal in the protocol's grammar, and with `?` for control characters.
    pub handed_on: Option<Line>,
    /// What a client is told otherwise, where the backend's code says more than that a login failed or that
    /// nobody serves.
    pub in_our_words: Option<Line>,
}

impl BackendReply {
    /// An answer of which no client is told more than that something failed.
    pub(crate) fn new(answer: Vec<u8>, kind: RefusalKind) -> Self {
        Self {
            answer,
            hint: None,
            kind,
            handed_on: None,
            in_our_words: None,
        }
    }

    /// What the client is told when its login was refused, or what it wanted to do without one.
    pub(crate) fn line(&self) -> Option<&Line> {
        self.handed_on.as_ref().or(self.in_our_words.as_ref())
    }

    /// Whether the client can make something of it, so that it is no failure of ours.
    pub(crate) fn is_for_client(&self) -> bool {
        self.handed_on.is_some() || self.kind == RefusalKind::Envelope
    }

    /// What the client is told when its session ends with this refusal; `own_method` as in
    /// `Dialect::failure_line`.
    pub(crate) fn last_line(&self, own_method: bool) -> Option<&Line> {
        match self.kind {
            RefusalKind::LoginForNow if own_method => self.line(),
            RefusalKind::Envelope => self.line(),
            RefusalKind::Greeting | RefusalKind::RawGreeting => self.handed_on.as_ref(),
            RefusalKind::Login | RefusalKind::LoginForNow => self.handed_on.as_ref(),
            RefusalKind::LoginHere(_) | RefusalKind::Other => self.handed_on.as_ref(),
        }
    }
}

/// What a backend refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefusalKind {
    /// To talk at all: its greeting is none that welcomes, or it says goodbye.
    Greeting,
    /// The same, in words that must not reach a client raw (IMAP's BYE and PREAUTH).
    RawGreeting,
    /// This login and password.
    Login,
    /// Logins for the time being.
    LoginForNow,
    /// A sender who needs no login.
    Envelope,
    /// Every login, on this port of the host.
    LoginHere(u16),
    /// Anything else.
    Other,
}

impl BackendError {
    /// STARTTLS is wanted and not offered: there is no way back to plain text.
    pub(crate) fn no_starttls() -> Self {
        Self::Tls(TlsError::new(
            TlsErrorKind::Protocol,
            "the backend does not offer STARTTLS: see its configuration, or set `proxy_ssl` to `on` \
             (TLS from the first byte) or `off`",
        ))
    }

    /// Whether the host does not serve at all, so that nothing was decided about the login.
    pub(crate) fn is_without_service(&self) -> bool {
        match self {
            Self::Connect(..) | Self::Timeout | Self::NoGreeting => true,
            Self::Gone(_) | Self::Tls(_) => true,
            Self::Refused(reply) => {
                matches!(reply.kind, RefusalKind::Greeting | RefusalKind::RawGreeting)
            }
            Self::Internal(_) => false,
        }
    }

    /// The failed system call, for the end of the log line.
    pub(crate) fn io_error(&self) -> Option<&io::Error> {
        match self {
            Self::Connect(_, error) | Self::Gone(error) => error.as_ref(),
            Self::Timeout | Self::NoGreeting | Self::Tls(_) => None,
            Self::Refused(_) | Self::Internal(_) => None,
        }
    }

    /// The class in two words, for the closing line.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Connect(..) => "backend connect",
            Self::Timeout | Self::NoGreeting => "backend timeout",
            Self::Gone(_) => "backend connection",
            Self::Tls(_) => "backend TLS",
            Self::Refused(_) => "backend refused",
            Self::Internal(_) => "internal error",
        }
    }

    /// In words, for the log. `secrets` are those that the backend may have said back.
    pub(crate) fn describe(&self, secrets: &LoginSecrets) -> String {
        match self {
            Self::Connect(text, _) | Self::Internal(text) => text.clone(),
            Self::Timeout => "upstream timed out".into(),
            Self::NoGreeting => {
                "upstream timed out without a greeting; if this port waits for TLS, set \
                                 `proxy_ssl` to `on`"
                    .into()
            }
            Self::Gone(None) => "upstream closed connection".into(),
            Self::Gone(Some(_)) => "connection to upstream failed".into(),
            Self::Tls(error) => format!("TLS with upstream failed: {error}"),
            Self::Refused(reply) => reply.describe(secrets),
        }
    }

    /// The same with the failed system call, where there is one.
    pub(crate) fn in_full(&self, secrets: &LoginSecrets) -> String {
        let described = self.describe(secrets);
        match self.io_error() {
            Some(error) => format!("{described}: {error}"),
            None => described,
        }
    }
}

impl BackendReply {
    /// The answer for the log, all its lines in one.
    pub(crate) fn quoted(&self, secrets: &LoginSecrets) -> String {
        secrets.quote(self.answer.trim_ascii_end())
    }

    fn describe(&self, secrets: &LoginSecrets) -> String {
        let answer = self.quoted(secrets);
        let hint = |before: &str| {
            self.hint
                .map(|hint| format!("{before}{hint}"))
                .unwrap_or_default()
        };
        match self.kind {
            RefusalKind::LoginHere(port) => format!(
                "the backend offers no login on port {port}{}; it answered \"{answer}\"",
                hint(": ")
            ),
            _ => format!("upstream sent invalid response: \"{answer}\"{}", hint("; ")),
        }
    }
}

impl From<NetError> for BackendError {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Timeout(_) => Self::Timeout,
            NetError::Closed => Self::Gone(None),
            NetError::TooLong => Self::Internal("upstream sent too long an answer".into()),
            NetError::Io(error) => Self::Gone(Some(error)),
            NetError::Tls(error) => Self::Tls(error),
        }
    }
}

impl From<CannotLogIn> for BackendError {
    fn from(error: CannotLogIn) -> Self {
        Self::Internal(error.to_string())
    }
}
