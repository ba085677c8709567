//! Whether a client may pass, and to which backend: the question, and the answers it can have.
//!
//! A file for each method of asking. What follows from an answer is decided in `session::run`.

pub mod http;
pub mod passthrough;

use std::fmt;
use std::time::Duration;

use crate::backend::grant::Grant;
use crate::sasl::Credentials;
use crate::session::Session;
use crate::session::error::Cause;

/// A method of deciding about logins.
pub trait Authenticator: fmt::Debug + Send + Sync {
    /// Decides about one login; blocks within the method's own time limit.
    fn authenticate(
        &self,
        session: &mut Session,
        credentials: &Credentials,
    ) -> Result<Verdict, Cause>;

    /// True for Postern's own methods, which tell clients of backends that are down in the codes that
    /// keep a mail program from asking for another password. Angie's method has its own lines.
    fn is_own(&self) -> bool;
}

/// What an authentication method says about a login.
#[derive(Debug)]
pub enum Verdict {
    /// It may pass.
    Granted(Box<Grant>),
    /// It may not.
    Refused(Refusal),
    /// Ask again after this time.
    Wait(Duration),
}

/// A login that may not pass.
#[derive(Debug)]
pub struct Refusal {
    /// What the client is told, a single line.
    pub text: Vec<u8>,
    /// Whether the text is ours: then it goes out with the protocol's code for a failed login.
    pub is_ours: bool,
    /// SMTP code instead of 535 5.7.0.
    pub code: Option<Vec<u8>>,
    /// Error challenge for the OAuth mechanisms (base64, as it goes to the client).
    pub sasl: Option<Vec<u8>>,
    /// Whether the client may try again, and how long its line is held back. Without it the session
    /// ends.
    pub again: Option<Duration>,
}

impl Refusal {
    /// A refusal of our own; whether the client may try again is the caller's to say.
    pub fn ours(text: &str) -> Self {
        Self {
            text: text.as_bytes().to_vec(),
            is_ours: true,
            code: None,
            sasl: None,
            again: None,
        }
    }

    /// Our refusal that tells nothing but that the login failed.
    pub fn failed() -> Self {
        Self::ours("Authentication failed")
    }
}
