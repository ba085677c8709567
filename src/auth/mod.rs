//! Whether a client may pass, and to which backend: the question, and the answers it can have.
//!
//! Asking is done by a method each; so far that is `http`. What follows from an answer is decided in
//! `session::run`.

pub mod http;

use std::time::Duration;

use crate::config::{Protocol, ProxySsl};
use crate::net::line::{Bare, Line};
use crate::sasl::{Credentials, plain};
use crate::secret::Secret;
use crate::session::Session;
use crate::session::error::Cause;

/// What an authentication method says about a login.
#[derive(Debug)]
pub enum Verdict {
    /// It may pass.
    Granted(Grant),
    /// It may not.
    Refused(Refusal),
    /// Ask again after this time.
    Wait(Duration),
}

/// A login that may pass: to whom it goes, and as whom.
#[derive(Debug)]
pub struct Grant {
    /// Host name or address of the backend, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Login towards the backend.
    pub login: Vec<u8>,
    /// Authorization identity towards the backend.
    pub authzid: Option<Vec<u8>>,
    /// TLS towards the backend.
    pub ssl: ProxySsl,
    /// Whether an SMTP backend is logged in to with AUTH.
    pub smtp_auth: bool,
    /// SMTP without login: MAIL and RCPT are replayed instead.
    pub without_login: bool,
    /// Whether the secret is an OAuth token.
    pub is_token: bool,
    secret: Option<Secret>,
}

/// A login that may not pass.
#[derive(Debug)]
pub struct Refusal {
    /// What the client is told, a single line.
    pub text: Vec<u8>,
    /// SMTP code instead of 535 5.7.0.
    pub code: Option<Vec<u8>>,
    /// Error challenge for the OAuth mechanisms (base64, as it goes to the client).
    pub sasl: Option<Vec<u8>>,
    /// How long to hold the line back; the client may then try again. Without it the session ends.
    pub wait: Option<Duration>,
}

impl Refusal {
    /// A refusal of our own, after which the session ends.
    pub fn ours(text: &str) -> Self {
        Self {
            text: text.as_bytes().to_vec(),
            code: None,
            sasl: None,
            wait: None,
        }
    }
}

impl Grant {
    /// A grant of what the client presented; the fields are then overridden by the method's answer.
    pub fn new(host: String, port: u16, credentials: &Credentials, smtp_auth: bool) -> Self {
        let passable = !credentials.method.has_no_password() && !credentials.secret.is_empty();
        Self {
            host,
            port,
            login: credentials.login.clone(),
            authzid: None,
            ssl: ProxySsl::Off,
            smtp_auth,
            without_login: credentials.envelope.is_some(),
            is_token: credentials.method.is_oauth(),
            secret: passable.then(|| credentials.secret.clone()),
        }
    }

    /// Gives the login another password.
    pub fn set_password(&mut self, password: &[u8]) {
        self.secret = Some(password.into());
        self.is_token = false;
    }

    /// Whether there is anything to log in with.
    pub fn has_password(&self) -> bool {
        self.secret.is_some()
    }

    /// What to log in with.
    ///
    /// # Errors
    /// There is nothing: the client's method shows no password, and the auth server sent none.
    pub fn secret(&self, session: &Session) -> Result<&Secret, Cause> {
        self.secret.as_ref().ok_or_else(|| {
            let method = session.method.map_or("this", crate::sasl::Method::name);
            Cause::Internal(format!("no password for the backend: {method} shows none"))
        })
    }

    /// The bytes of `secret`.
    pub fn password(&self, session: &Session) -> Result<&[u8], Cause> {
        Ok(self.secret(session)?.expose())
    }

    /// SASL PLAIN's message for the backend.
    pub fn plain_message(&self, session: &Session) -> Result<Line, Cause> {
        plain::encode(self.authzid.as_deref(), &self.login, self.secret(session)?)
            .ok_or_else(|| Cause::Internal("login or password has a NUL in it".into()))
    }

    /// Whether login and password can be said to the backend without breaking a line or a field.
    pub fn is_sayable(&self, protocol: Protocol) -> bool {
        let secret = self.secret.as_ref().map(Secret::expose).unwrap_or_default();
        let fields = [
            &self.login,
            secret,
            self.authzid.as_deref().unwrap_or_default(),
        ];
        let in_plain = self.authzid.is_some() || protocol == Protocol::Smtp && self.smtp_auth;
        match protocol {
            _ if in_plain => !fields.iter().any(|field| field.contains(&0)),
            Protocol::Pop3 => fields.iter().all(|field| Bare::new(field).is_some()),
            // Literals and xtext carry anything.
            Protocol::Imap | Protocol::Smtp => true,
        }
    }
}
