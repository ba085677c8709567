//! Whether a client may pass, and to which backend: the question, and the answers it can have.
//!
//! A file for each method of asking: a `Request` goes in, a `Verdict` comes out. What follows from it
//! is decided in `session::run`; nothing here knows a session.

pub(crate) mod cache;
pub(crate) mod file;
pub(crate) mod http;
mod names;
pub(crate) mod passthrough;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::backend::grant::Grant;
use crate::log::Severity;
use crate::net::address::Address;
use crate::net::line::Line;
use crate::net::resolve::HostName;
use crate::sasl::Credentials;
use crate::sasl::shown::LoginSecrets;
use crate::secret::Secret;
use crate::tls::Facts;

/// Logins that a session may try, with a method of our own.
pub(crate) const ATTEMPTS: u32 = 5;

/// A method of deciding about logins.
pub(crate) trait Authenticator: fmt::Debug + Send + Sync {
    /// Decides about one login; blocks within the method's own time limit. `note` is told of what went
    /// wrong, or was decided, on the way to a verdict.
    ///
    /// # Errors
    /// Nobody could decide, or what was decided is unusable.
    fn authenticate(
        &self,
        request: &Request<'_>,
        note: &dyn Fn(&Note),
    ) -> Result<Verdict, AuthError>;

    /// What the method knows of a login that a SASL exchange needs before it can go on, such as a key that
    /// was made from the password; `None` is nothing. Blocks as `authenticate` does.
    ///
    /// # Errors
    /// Nobody could say.
    fn look_up(&self, login: &[u8]) -> Result<Option<Secret>, AuthError> {
        let _ = login;
        Ok(None)
    }

    /// What was granted to the very same login a while ago, where that is remembered (`auth_cache`). Asked
    /// before anything is waited for; never blocks.
    fn recall(&self, request: &Request<'_>) -> Option<Box<Grant>> {
        let _ = request;
        None
    }

    /// A backend has refused this login, which was granted: it is not to be recalled.
    fn forget(&self, request: &Request<'_>) {
        let _ = request;
    }

    /// Changes whenever something has changed by which logins are granted; never blocks.
    fn generation(&self) -> u64 {
        0
    }

    /// Called once a second, for what is to be done without a login; the lines are for the log.
    fn tend(&self) -> Vec<(Severity, String)> {
        Vec::new()
    }

    /// True for Postern's own methods, which tell clients of backends that are down in the codes that
    /// keep a mail program from asking for another password. Angie's method has its own lines.
    fn is_own(&self) -> bool;
}

/// One login, and what is known of the client that tries it.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// What the client presented.
    pub credentials: &'a Credentials,
    /// Which login of the session this is; the first is 1.
    pub attempt: u32,
    /// Who the client is.
    pub client: Address,
    /// Its host name, where the protocol has a use for it.
    pub client_host: Option<HostName>,
    /// Source and destination of the PROXY header that it came with.
    pub proxied: Option<(SocketAddr, SocketAddr)>,
    /// Its TLS, if there is any.
    pub tls: Option<&'a Facts>,
    /// What of the login must not stand in the log, should somebody say it back.
    pub secrets: &'a LoginSecrets,
    /// Whether `note` is to be told of each question and answer, on level debug.
    pub is_debugged: bool,
}

/// A line for the log about a question that goes on.
#[derive(Debug)]
pub(crate) struct Note {
    /// How loud it is.
    pub severity: Severity,
    /// The source file that it comes from.
    pub src: &'static str,
    /// What happened, escaped.
    pub text: String,
    /// The failed system call.
    pub error: Option<io::Error>,
}

impl Note {
    /// What was decided, on level info.
    pub(crate) fn info(src: &'static str, text: impl Into<String>) -> Self {
        Self::of(Severity::Info, src, text)
    }

    /// What happens on the way, on level debug.
    pub(crate) fn debug(src: &'static str, text: impl Into<String>) -> Self {
        Self::of(Severity::Debug, src, text)
    }

    fn of(severity: Severity, src: &'static str, text: impl Into<String>) -> Self {
        Self {
            severity,
            src,
            text: text.into(),
            error: None,
        }
    }
}

/// Why there is no verdict.
#[derive(Debug)]
pub(crate) enum AuthError {
    /// The auth server failed or gave an unusable answer; the text and, where there is one, the
    /// system's error.
    Service(String, Option<io::Error>),
    /// There is nobody to ask.
    NoServer,
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(text, _) => f.write_str(text),
            Self::NoServer => f.write_str("no auth server is configured"),
        }
    }
}

/// What an authentication method says about a login.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It may pass.
    Granted(Box<Grant>),
    /// It may not.
    Refused(LoginRefusal),
    /// Ask again after this time.
    Wait(Duration),
}

/// A login that may not pass.
#[derive(Debug)]
pub(crate) struct LoginRefusal {
    /// What the client is told, a single line.
    pub text: Vec<u8>,
    /// Whether the text is ours: then it goes out with the protocol's code for a failed login.
    pub is_ours: bool,
    /// What the client is told instead, in its own protocol, where a backend has refused: all its lines.
    pub line: Option<Line>,
    /// SMTP code instead of 535 5.7.0.
    pub code: Option<Vec<u8>>,
    /// Error challenge for the OAuth mechanisms (base64, as it goes to the client).
    pub sasl: Option<Vec<u8>>,
    /// Whether the client may try again, and how long its line is held back (`Auth-Wait`). Without it the
    /// session ends.
    pub again: Option<Duration>,
    /// True where a backend would have refused the login, had it seen it: the line is held back for as
    /// long as that would have taken.
    pub as_if_seen: bool,
}

impl LoginRefusal {
    /// A refusal of our own; whether the client may try again is the caller's to say.
    pub(crate) fn ours(text: &str) -> Self {
        Self {
            text: text.as_bytes().to_vec(),
            is_ours: true,
            line: None,
            code: None,
            sasl: None,
            again: None,
            as_if_seen: false,
        }
    }

    /// Our refusal that tells nothing but that the login failed.
    pub(crate) fn failed() -> Self {
        Self::ours("Authentication failed")
    }

    /// The same for a login that no backend is shown, and nobody shall be able to tell.
    pub(crate) fn failed_unseen() -> Self {
        Self {
            as_if_seen: true,
            ..Self::failed()
        }
    }
}
