//! A login that may pass: to whom it goes, as whom, and how that one is spoken to.
//!
//! Who grants it is `auth`'s business, how it is said to the backend the dialects'.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Backend;
use crate::config::{AuthMechanism, MasterLogin, ProxyProtocol, ProxySsl, SendClientId, Xclient};
use crate::net::line::Bare;
use crate::protocol::{BackendLogin, Protocol};
use crate::sasl::{Credentials, Identity, Mechanism, Message, Method, PLAIN, ToBackend};
use crate::secret::Secret;
use crate::tls::Connector;

/// To whom a login goes.
#[derive(Debug, Clone)]
pub(crate) enum Target {
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

impl Target {
    /// By what logins in progress towards it are counted.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Address { host, port } => format!("{host} {port}"),
            Self::Backend(backend) => format!("backend {}", backend.conf.name),
        }
    }
}

/// For the log.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { host, port } => write!(f, "{host} port {port}"),
            Self::Backend(backend) => write!(f, "backend \"{}\"", backend.conf.name),
        }
    }
}

/// A login that may pass: to whom it goes, how that one is spoken to, and as whom.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    /// To whom it goes.
    pub target: Target,
    /// PROXY header sent there.
    pub proxy_protocol: ProxyProtocol,
    /// Whether an SMTP backend is told about the client.
    pub xclient: Xclient,
    /// Whether an IMAP or POP3 backend is told about the client.
    pub send_client_id: SendClientId,
    /// TLS towards the backend.
    pub ssl: ProxySsl,
    /// How that TLS is spoken, or why it cannot be.
    pub connector: Result<Connector, String>,
    /// How to log in.
    pub mechanism: AuthMechanism,
    /// Limit of one connect, within the login's time.
    pub connect_timeout: Option<Duration>,
    /// Who it is, by one name whatever the protocol: by this, sessions of a user are counted and hosts chosen.
    /// In lower case, with `login_domain`; not what `strip_domain` leaves for the backend. Where a client acts
    /// for somebody else, that one.
    pub user: Vec<u8>,
    /// The user's login towards the backend.
    pub login: Vec<u8>,
    /// The client's own authorization identity.
    pub authzid: Option<Vec<u8>>,
    /// Whether an SMTP backend is logged in to with AUTH.
    pub smtp_auth: bool,
    /// SMTP without login: MAIL and RCPT are replayed instead.
    pub without_login: bool,
    /// The OAuth mechanism that the client used, if the secret is its token.
    pub token_of: Option<Method>,
    /// Whether the backend decides: its refusal is the client's, who may try again.
    pub passthrough: bool,
    /// By whom the backend is entered; `None` is by the user.
    master: Option<Arc<MasterLogin>>,
    /// How the client logged in.
    method: Method,
    secret: Option<Secret>,
    /// Whether the secret is what the client has shown.
    is_clients_secret: bool,
}

/// How servers are spoken to that an auth server names by their address.
#[derive(Debug, Clone)]
pub(crate) struct AddressSettings {
    /// PROXY header sent there.
    pub proxy_protocol: ProxyProtocol,
    /// Whether an SMTP server is told about the client.
    pub xclient: Xclient,
    /// Whether an IMAP or POP3 server is told about the client.
    pub send_client_id: SendClientId,
    /// TLS towards it.
    pub ssl: ProxySsl,
    /// How that TLS is spoken, or why it cannot be.
    pub connector: Result<Connector, String>,
    /// Whether an SMTP server is logged in to with AUTH.
    pub smtp_auth: bool,
    /// By whom it is entered; `None` is by the user.
    pub master: Option<Arc<MasterLogin>>,
}

impl Grant {
    /// A grant of what the client presented, to where the auth server said.
    pub(crate) fn to_address(
        host: String,
        port: u16,
        settings: &AddressSettings,
        credentials: &Credentials,
    ) -> Self {
        Self {
            proxy_protocol: settings.proxy_protocol,
            xclient: settings.xclient,
            send_client_id: settings.send_client_id,
            ssl: settings.ssl,
            connector: settings.connector.clone(),
            // Angie's ways: LOGIN, USER and PASS, AUTH PLAIN.
            mechanism: AuthMechanism::Auto,
            connect_timeout: None,
            smtp_auth: settings.smtp_auth,
            master: settings.master.clone(),
            ..Self::of(Target::Address { host, port }, credentials)
        }
    }

    /// The same, to a configured backend, which is spoken to as its section says.
    pub(crate) fn to_backend(
        backend: &Arc<Backend>,
        protocol: Protocol,
        credentials: &Credentials,
    ) -> Self {
        let conf = &backend.conf;
        Self {
            proxy_protocol: conf.proxy_protocol,
            xclient: conf.xclient,
            send_client_id: conf.send_client_id,
            ssl: conf.ssl(protocol),
            connector: backend.connector.clone(),
            mechanism: conf.auth_mechanism,
            connect_timeout: Some(conf.connect_timeout),
            master: conf.master.clone(),
            ..Self::of(Target::Backend(Arc::clone(backend)), credentials)
        }
    }

    fn of(target: Target, credentials: &Credentials) -> Self {
        let passable = credentials.method.can_be_passed_on() && !credentials.secret.is_empty();
        Self {
            target,
            proxy_protocol: ProxyProtocol::Off,
            xclient: Xclient::Off,
            send_client_id: SendClientId::Off,
            ssl: ProxySsl::Off,
            connector: Err(String::new()),
            mechanism: AuthMechanism::Auto,
            connect_timeout: None,
            user: credentials.login.to_ascii_lowercase(),
            login: credentials.login.clone(),
            authzid: None,
            smtp_auth: false,
            without_login: credentials.envelope.is_some(),
            token_of: Some(credentials.method).filter(|method| method.is_oauth()),
            passthrough: false,
            master: None,
            method: credentials.method,
            secret: passable.then(|| credentials.secret.clone()),
            is_clients_secret: passable,
        }
    }

    /// Gives the login another password, by which the user enters the backend himself, master login or not.
    pub(crate) fn set_password(&mut self, password: &[u8]) {
        self.secret = Some(password.into());
        self.is_clients_secret = false;
        self.token_of = None;
        self.master = None;
    }

    /// Whether there is anything to log in with.
    pub(crate) fn has_password(&self) -> bool {
        self.master().is_some() || self.secret.is_some()
    }

    /// Whether the backend has to be logged in to, as far as the protocol and the client have a choice.
    pub(crate) fn needs_login(&self, protocol: Protocol) -> bool {
        let is_optional = protocol.record().backend_login.is_optional();
        !is_optional || (self.smtp_auth && !self.without_login)
    }

    /// In whose name the session is: the user, or whom a client acts for.
    pub(crate) fn acts_for(&self) -> &[u8] {
        self.authzid.as_deref().unwrap_or(&self.login)
    }

    /// By whom the backend is entered. Never where it decides about logins: it would let everybody in.
    fn master(&self) -> Option<&MasterLogin> {
        self.master.as_deref().filter(|_| !self.passthrough)
    }

    /// Whether the backend judges what the client has shown: then its refusal is a failed login.
    pub(crate) fn shows_clients_secret(&self) -> bool {
        self.is_clients_secret && !self.is_by_master()
    }

    /// Whether the backend is entered by a master user.
    pub(crate) fn is_by_master(&self) -> bool {
        self.master().is_some()
    }

    /// To whom the login goes, and by whom, for the log.
    pub(crate) fn way(&self) -> String {
        match self.master() {
            Some(_) => format!("{}, by master_user", self.target),
            None => self.target.to_string(),
        }
    }

    /// As whom, and with what, the backend is logged in to.
    ///
    /// # Errors
    /// There is nothing to log in with: the client's method shows no password, the auth server sent none,
    /// and there is no master login.
    pub(crate) fn identity(&self) -> Result<Identity<'_>, CannotLogIn> {
        let Some(master) = self.master() else {
            let secret = self.secret.as_ref();
            return Ok(Identity {
                authzid: self.authzid.as_deref(),
                login: (&self.login).into(),
                secret: secret.ok_or(CannotLogIn::NoPassword(self.method))?,
            });
        };
        let user = master.user.as_bytes();
        let (authzid, login) = match master.separator {
            None => (Some(self.acts_for()), Cow::Borrowed(user)),
            Some(separator) => {
                let separator = separator.to_string();
                let login = [self.acts_for(), separator.as_bytes(), user].concat();
                (None, Cow::Owned(login))
            }
        };
        Ok(Identity {
            authzid,
            login,
            secret: &master.password,
        })
    }

    /// Whether the backend is told in whose name the login is, apart from the login.
    fn says_authzid(&self) -> bool {
        match self.master() {
            Some(master) => master.separator.is_none(),
            None => self.authzid.is_some(),
        }
    }

    /// A mechanism's message for the backend.
    ///
    /// # Errors
    /// There is nothing to log in with, or the mechanism cannot carry it.
    pub(crate) fn sasl_message(
        &self,
        mechanism: &'static Mechanism,
    ) -> Result<Message, CannotLogIn> {
        let identity = self.identity()?;
        match mechanism.to_backend {
            ToBackend::Message(encode) => encode(&identity).ok_or(CannotLogIn::NulInLogin),
            // No dialect chooses one that is never used, or asks for the message of one that has two.
            ToBackend::TwoAnswers | ToBackend::Never => Err(CannotLogIn::NotOneMessage(mechanism)),
        }
    }

    /// The mechanism that is settled before the backend has said what it offers, where the protocol has
    /// a login command too; `None` leaves it to that command, or to `token_mechanism`.
    pub(crate) fn settled_mechanism(&self) -> Option<&'static Mechanism> {
        // An authorization identity goes with SASL PLAIN alone (RFC 4616).
        if self.says_authzid() {
            return Some(&PLAIN);
        }
        match self.mechanism {
            AuthMechanism::Fixed(mechanism) => match mechanism.to_backend {
                ToBackend::Message(_) => Some(mechanism),
                ToBackend::TwoAnswers | ToBackend::Never => None,
            },
            AuthMechanism::Auto | AuthMechanism::Off => None,
        }
    }

    /// The mechanism where SASL alone can log in, by the names that the backend lists, if it lists any.
    /// As Angie: PLAIN, whether it is listed or not, unless only others are. A configured backend is given
    /// a token as a token first.
    pub(crate) fn sasl_mechanism(&self, listed: &[String]) -> &'static Mechanism {
        if self.says_authzid() {
            return &PLAIN;
        }
        if let AuthMechanism::Fixed(mechanism) = self.mechanism {
            return mechanism;
        }
        let offers = |mechanism: &Mechanism| listed.iter().any(|name| name == mechanism.name);
        let takes_plain = listed.is_empty() || offers(&PLAIN);
        if (self.asks_for_token_mechanisms() || !takes_plain)
            && let Some(mechanism) = self.token_mechanism(offers)
        {
            return mechanism;
        }
        let mut for_password = Mechanism::for_backends().filter(|row| !row.method.is_oauth());
        for_password.find(|row| offers(row)).unwrap_or(&PLAIN)
    }

    /// Whether the secret is a token that a configured backend should get as a token.
    pub(crate) fn asks_for_token_mechanisms(&self) -> bool {
        let configured = matches!(self.target, Target::Backend(_));
        configured && self.token().is_some() && self.mechanism == AuthMechanism::Auto
    }

    /// The OAuth mechanism that the client used, if its token is what the backend is entered with.
    fn token(&self) -> Option<Method> {
        self.token_of.filter(|_| self.master().is_none())
    }

    /// The mechanism by which a token can go on: the client's own, or else another one.
    pub(crate) fn token_mechanism(
        &self,
        offered: impl Fn(&Mechanism) -> bool,
    ) -> Option<&'static Mechanism> {
        let own = self.token()?;
        let for_tokens = Mechanism::for_backends().filter(|row| row.method.is_oauth());
        let mut offered: Vec<_> = for_tokens.filter(|row| offered(row)).collect();
        offered.sort_by_key(|row| row.method != own);
        offered.first().copied()
    }

    /// Whether what the client presented could be said to the backend as this grant says its own.
    pub(crate) fn client_is_sayable(&self, protocol: Protocol, credentials: &Credentials) -> bool {
        let of_client = Self {
            smtp_auth: self.smtp_auth,
            mechanism: self.mechanism,
            passthrough: self.passthrough,
            master: self.master.clone(),
            ..Self::of(self.target.clone(), credentials)
        };
        of_client.is_sayable(protocol)
    }

    /// Whether login and password can be said to the backend without breaking a line or a field, and a master
    /// login for nobody else than the user.
    pub(crate) fn is_sayable(&self, protocol: Protocol) -> bool {
        if self.needs_login(protocol)
            && let Some(master) = self.master()
            && !may_be_named(self.acts_for(), master)
        {
            return false;
        }
        let identity = self.identity().ok();
        let secret = identity.as_ref().map(|identity| identity.secret.expose());
        let login = identity.as_ref().map(|identity| &*identity.login);
        let fields = [
            login.unwrap_or(&self.login),
            secret.unwrap_or_default(),
            self.acts_for(),
        ];
        let by_plain = self.mechanism == AuthMechanism::Fixed(&PLAIN) || self.says_authzid();
        let has_nul = || fields.iter().any(|field| field.contains(&0));
        match protocol.record().backend_login {
            _ if by_plain => !has_nul(),
            BackendLogin::Literals => true,
            BackendLogin::BareLines => fields.iter().all(|field| Bare::new(field).is_some()),
            // Without a login, it stands in XCLIENT as xtext, which carries anything.
            BackendLogin::Sasl => !self.smtp_auth || !has_nul(),
        }
    }
}

/// Whether a master login can be for this user: an empty name would be the master's own, and one with the
/// separator in it, or a control character, another one than was found good.
fn may_be_named(user: &[u8], master: &MasterLogin) -> bool {
    let separator = |byte: u8| master.separator == Some(char::from(byte));
    let is_odd = |&byte: &u8| byte.is_ascii_control() || separator(byte);
    !user.is_empty() && !user.iter().any(is_odd)
}

/// Why a grant cannot be said to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CannotLogIn {
    /// The client's method shows no password, and the auth server sent none.
    NoPassword(Method),
    /// SASL PLAIN separates its fields with NUL.
    NulInLogin,
    /// The mechanism takes more than one message, or another kind of proof.
    NotOneMessage(&'static Mechanism),
}

impl fmt::Display for CannotLogIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPassword(method) => {
                let method = method.name;
                write!(f, "no password for the backend: {method} shows none")
            }
            Self::NulInLogin => f.write_str("login or password has a NUL in it"),
            Self::NotOneMessage(mechanism) => {
                let mechanism = mechanism.name;
                write!(
                    f,
                    "{mechanism} has no message made of a login and a password"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests;
