//! Whether a client may pass, and to which backend: the question, and the answers it can have.
//!
//! A file for each method of asking. What follows from an answer is decided in `session::run`.

pub mod http;
pub mod passthrough;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::Backend;
use crate::config::{AuthMechanism, ProxyProtocol, ProxySsl, Xclient};
use crate::net::line::{Bare, Line};
use crate::protocol::Protocol;
use crate::sasl::{Credentials, Mechanism, Method, oauth, plain};
use crate::secret::Secret;
use crate::service::Service;
use crate::session::Session;
use crate::session::error::Cause;
use crate::tls::Connector;

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

/// To whom a login goes.
#[derive(Debug, Clone)]
pub enum Target {
    /// Where the auth server said.
    Address {
        /// Host name or address, without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// A configured backend.
    Backend(Arc<Backend>),
}

/// A login that may pass: to whom it goes, how that one is spoken to, and as whom.
#[derive(Debug)]
pub struct Grant {
    /// To whom it goes.
    pub target: Target,
    /// PROXY header sent there.
    pub proxy_protocol: ProxyProtocol,
    /// Whether an SMTP backend is told about the client.
    pub xclient: Xclient,
    /// TLS towards the backend.
    pub ssl: ProxySsl,
    /// How that TLS is spoken, or why it cannot be.
    pub connector: Result<Connector, String>,
    /// How to log in.
    pub mechanism: AuthMechanism,
    /// Limit of one connect, within the login's time.
    pub connect_timeout: Option<Duration>,
    /// Login towards the backend.
    pub login: Vec<u8>,
    /// Authorization identity towards the backend.
    pub authzid: Option<Vec<u8>>,
    /// Whether an SMTP backend is logged in to with AUTH.
    pub smtp_auth: bool,
    /// SMTP without login: MAIL and RCPT are replayed instead.
    pub without_login: bool,
    /// The OAuth mechanism that the client used, if the secret is its token.
    pub token_of: Option<Method>,
    /// Whether the backend decides: its refusal is the client's, who may try again.
    pub passthrough: bool,
    secret: Option<Secret>,
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

impl Grant {
    /// A grant of what the client presented, to where the auth server said.
    pub fn to_address(
        host: String,
        port: u16,
        service: &Service,
        credentials: &Credentials,
    ) -> Self {
        let conf = &service.conf;
        Self {
            proxy_protocol: conf.proxy_protocol,
            xclient: conf.xclient,
            ssl: conf.proxy_ssl,
            connector: service.connector.clone(),
            // Angie's ways: LOGIN, USER and PASS, AUTH PLAIN.
            mechanism: AuthMechanism::Auto,
            connect_timeout: None,
            smtp_auth: conf.proxy_smtp_auth,
            ..Self::of(Target::Address { host, port }, credentials)
        }
    }

    /// The same, to a configured backend, which is spoken to as its section says.
    pub fn to_backend(backend: &Arc<Backend>, credentials: &Credentials) -> Self {
        let conf = &backend.conf;
        Self {
            proxy_protocol: conf.proxy_protocol,
            xclient: conf.xclient,
            ssl: conf.proxy_ssl,
            connector: backend.connector.clone(),
            mechanism: conf.auth_mechanism,
            connect_timeout: Some(conf.connect_timeout),
            ..Self::of(Target::Backend(Arc::clone(backend)), credentials)
        }
    }

    fn of(target: Target, credentials: &Credentials) -> Self {
        let passable = !credentials.method.has_no_password() && !credentials.secret.is_empty();
        Self {
            target,
            proxy_protocol: ProxyProtocol::Off,
            xclient: Xclient::Off,
            ssl: ProxySsl::Off,
            connector: Err(String::new()),
            mechanism: AuthMechanism::Auto,
            connect_timeout: None,
            login: credentials.login.clone(),
            authzid: None,
            smtp_auth: false,
            without_login: credentials.envelope.is_some(),
            token_of: Some(credentials.method).filter(|method| method.is_oauth()),
            passthrough: false,
            secret: passable.then(|| credentials.secret.clone()),
        }
    }

    /// Gives the login another password.
    pub fn set_password(&mut self, password: &[u8]) {
        self.secret = Some(password.into());
        self.token_of = None;
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
            let method = session.method.map_or("this", Method::name);
            Cause::Internal(format!("no password for the backend: {method} shows none"))
        })
    }

    /// The bytes of `secret`.
    pub fn password(&self, session: &Session) -> Result<&[u8], Cause> {
        Ok(self.secret(session)?.expose())
    }

    /// A mechanism's message for the backend.
    pub fn sasl_message(&self, session: &Session, mechanism: Mechanism) -> Result<Line, Cause> {
        let secret = self.secret(session)?;
        match mechanism {
            Mechanism::Xoauth2 => Ok(oauth::encode_xoauth2(&self.login, secret)),
            Mechanism::OauthBearer => Ok(oauth::encode_oauthbearer(&self.login, secret)),
            _ => plain::encode(self.authzid.as_deref(), &self.login, secret)
                .ok_or_else(|| Cause::Internal("login or password has a NUL in it".into())),
        }
    }

    /// Whether the secret is a token that a configured backend should get as a token.
    pub fn asks_for_token_mechanisms(&self) -> bool {
        let configured = matches!(self.target, Target::Backend(_));
        configured && self.token_of.is_some() && self.mechanism == AuthMechanism::Auto
    }

    /// The mechanism by which a token can go on: the client's own, or the other one.
    pub fn token_mechanism(&self, offered: impl Fn(Mechanism) -> bool) -> Option<Mechanism> {
        let both = match self.token_of? {
            Method::OauthBearer => [Mechanism::OauthBearer, Mechanism::Xoauth2],
            _ => [Mechanism::Xoauth2, Mechanism::OauthBearer],
        };
        both.into_iter().find(|&mechanism| offered(mechanism))
    }

    /// Whether what the client presented could be said to the backend as this grant says its own.
    pub fn client_is_sayable(&self, protocol: Protocol, credentials: &Credentials) -> bool {
        let of_client = Self {
            smtp_auth: self.smtp_auth,
            mechanism: self.mechanism,
            ..Self::of(self.target.clone(), credentials)
        };
        of_client.is_sayable(protocol)
    }

    /// Whether login and password can be said to the backend without breaking a line or a field.
    pub fn is_sayable(&self, protocol: Protocol) -> bool {
        let secret = self.secret.as_ref().map(Secret::expose).unwrap_or_default();
        let fields = [
            &self.login,
            secret,
            self.authzid.as_deref().unwrap_or_default(),
        ];
        let in_sasl = self.authzid.is_some() || self.mechanism == AuthMechanism::Plain;
        let in_plain = in_sasl || protocol == Protocol::Smtp && self.smtp_auth;
        match protocol {
            _ if in_plain => !fields.iter().any(|field| field.contains(&0)),
            Protocol::Pop3 => fields.iter().all(|field| Bare::new(field).is_some()),
            // Literals and xtext carry anything.
            Protocol::Imap | Protocol::Smtp => true,
        }
    }
}
