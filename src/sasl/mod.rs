//! SASL (RFC 4422) as messages: what a client's answers mean, and what goes on to a backend.
//!
//! No I/O and no line syntax: the dialects carry the messages, each in its own kind of line. One
//! mechanism a file; here is what they share.

pub(crate) mod cram_md5;
pub(crate) mod oauth;
pub(crate) mod plain;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::secret::Secret;
use zeroize::Zeroizing;

/// Who the client says it is, and what it offers as proof.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    /// How it was said.
    pub method: Method,
    /// Authentication identity: the login. Empty with `Method::None`, perhaps with EXTERNAL.
    pub login: Vec<u8>,
    /// Authorization identity, only where it differs from the login.
    pub authzid: Option<Vec<u8>>,
    /// Password, token, or response to `salt`; empty where the method has none.
    pub secret: Secret,
    /// The challenge that `secret` answers.
    pub salt: Option<String>,
    /// What the client wants to send, with `Method::None`.
    pub envelope: Option<Envelope>,
}

/// What an SMTP client without login has said, free of control characters.
#[derive(Debug, Clone)]
pub(crate) struct Envelope {
    /// Its name for itself; empty if it gave none.
    pub helo: Vec<u8>,
    /// Its MAIL line.
    pub from: Vec<u8>,
    /// Its RCPT line.
    pub to: Vec<u8>,
}

impl Credentials {
    /// A login without authorization identity or challenge.
    pub(crate) fn new(method: Method, login: Vec<u8>, secret: Secret) -> Self {
        Self {
            method,
            login,
            authzid: None,
            secret,
            salt: None,
            envelope: None,
        }
    }
}

/// How a client logged in, as an auth server is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// A password in the clear: PLAIN, LOGIN, USER and PASS.
    Plain,
    /// APOP (RFC 1939).
    Apop,
    /// CRAM-MD5 (RFC 2195).
    CramMd5,
    /// EXTERNAL (RFC 4422, appendix A).
    External,
    /// XOAUTH2.
    Xoauth2,
    /// OAUTHBEARER (RFC 7628).
    OauthBearer,
    /// SMTP without login.
    None,
}

impl Method {
    /// The value of `Auth-Method`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Apop => "apop",
            Self::CramMd5 => "cram-md5",
            Self::External => "external",
            Self::Xoauth2 => "xoauth2",
            Self::OauthBearer => "oauthbearer",
            Self::None => "none",
        }
    }

    /// Whether the secret is of no use to a backend, which needs a password of its own.
    pub(crate) fn has_no_password(self) -> bool {
        match self {
            Self::Apop | Self::CramMd5 | Self::External => true,
            Self::Plain | Self::Xoauth2 | Self::OauthBearer | Self::None => false,
        }
    }

    /// Whether an OAuth token takes the password's place.
    pub(crate) fn is_oauth(self) -> bool {
        match self {
            Self::Xoauth2 | Self::OauthBearer => true,
            Self::Plain | Self::Apop | Self::CramMd5 | Self::External | Self::None => false,
        }
    }
}

/// The mechanisms that a client can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mechanism {
    /// RFC 4616.
    Plain,
    /// The older way to say the same, in two answers.
    Login,
    /// RFC 2195.
    CramMd5,
    /// RFC 4422, appendix A.
    External,
    /// Google's and Microsoft's.
    Xoauth2,
    /// RFC 7628.
    OauthBearer,
}

impl Mechanism {
    /// All of them, in the order in which they are announced.
    pub(crate) const ALL: [Self; 6] = [
        Self::Plain,
        Self::Login,
        Self::CramMd5,
        Self::External,
        Self::Xoauth2,
        Self::OauthBearer,
    ];

    /// The registered name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::CramMd5 => "CRAM-MD5",
            Self::External => "EXTERNAL",
            Self::Xoauth2 => "XOAUTH2",
            Self::OauthBearer => "OAUTHBEARER",
        }
    }

    /// The mechanism of this name, in any case.
    pub(crate) fn by_name(name: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|mechanism| name.eq_ignore_ascii_case(mechanism.name().as_bytes()))
    }
}

/// The exchange cannot go on: bad base64, a malformed message, an empty login or password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// What comes next in an exchange.
#[derive(Debug)]
pub(crate) enum Next {
    /// Send this (base64 already) and wait for the answer.
    Challenge(String),
    /// The client has said everything.
    Done(Credentials),
}

/// One exchange with a client, from the command on.
#[derive(Debug)]
pub(crate) struct Exchange {
    mechanism: Mechanism,
    salt: String,
    /// LOGIN's first answer.
    login: Option<Vec<u8>>,
}

impl Exchange {
    /// `salt` is only used by CRAM-MD5.
    pub(crate) fn new(mechanism: Mechanism, salt: String) -> Self {
        Self {
            mechanism,
            salt,
            login: None,
        }
    }

    /// Begins, with the initial response if there is one (RFC 4422, section 3; `=` is an empty one).
    pub(crate) fn begin(&mut self, initial: Option<&[u8]>) -> Result<Next, Malformed> {
        match (self.mechanism, initial) {
            // The server speaks first.
            (Mechanism::CramMd5, Some(_)) => Err(Malformed),
            (_, Some(b"=")) => self.take(&[]),
            (_, Some(encoded)) => self.answer(encoded),
            (_, None) => Ok(Next::Challenge(self.first_challenge())),
        }
    }

    /// Takes the client's answer to the last challenge, as it stands on the line.
    pub(crate) fn answer(&mut self, encoded: &[u8]) -> Result<Next, Malformed> {
        let message = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| Malformed)?);
        self.take(&message)
    }

    fn first_challenge(&self) -> String {
        match self.mechanism {
            Mechanism::Plain | Mechanism::Xoauth2 | Mechanism::OauthBearer => String::new(),
            Mechanism::Login | Mechanism::External => STANDARD.encode("Username:"),
            Mechanism::CramMd5 => STANDARD.encode(&self.salt),
        }
    }

    fn take(&mut self, message: &[u8]) -> Result<Next, Malformed> {
        let credentials = match self.mechanism {
            Mechanism::Plain => plain::parse(message)?,
            Mechanism::Login => match self.login.take() {
                None if message.is_empty() => return Err(Malformed),
                None => {
                    self.login = Some(message.to_vec());
                    return Ok(Next::Challenge(STANDARD.encode("Password:")));
                }
                Some(_) if message.is_empty() => return Err(Malformed),
                Some(login) => Credentials::new(Method::Plain, login, message.into()),
            },
            Mechanism::CramMd5 => cram_md5::parse(message, &self.salt)?,
            Mechanism::External => {
                Credentials::new(Method::External, message.to_vec(), Secret::default())
            }
            Mechanism::Xoauth2 => oauth::parse_xoauth2(message)?,
            Mechanism::OauthBearer => oauth::parse_oauthbearer(message)?,
        };
        Ok(Next::Done(credentials))
    }
}

/// A challenge for APOP and CRAM-MD5: `<RANDOM.UNIXSECONDS@SERVER_NAME>`.
///
/// # Errors
/// The system has no random numbers.
pub(crate) fn salt(server_name: &str) -> Result<String, getrandom::Error> {
    let random = getrandom::u64()?;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    Ok(format!("<{random}.{now}@{server_name}>"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(next: Result<Next, Malformed>) -> Credentials {
        match next {
            Ok(Next::Done(credentials)) => credentials,
            other => panic!("{other:?}"),
        }
    }

    fn challenge(next: Result<Next, Malformed>) -> String {
        match next {
            Ok(Next::Challenge(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn login_asks_twice_or_once_behind_an_initial_response() {
        let mut exchange = Exchange::new(Mechanism::Login, String::new());
        assert_eq!(challenge(exchange.begin(None)), "VXNlcm5hbWU6");
        assert_eq!(challenge(exchange.answer(b"Ym9i")), "UGFzc3dvcmQ6");
        let credentials = done(exchange.answer(b"cHc="));
        assert_eq!(credentials.login, b"bob");
        assert_eq!(credentials.secret.expose(), b"pw");

        let mut exchange = Exchange::new(Mechanism::Login, String::new());
        assert_eq!(challenge(exchange.begin(Some(b"Ym9i"))), "UGFzc3dvcmQ6");
    }

    #[test]
    fn base64_is_strict() {
        for bad in [
            &b"Ym9"[..],
            b"Ym9i=",
            b"Ym9i\n",
            b"Y m9i",
            b"Ym9j!",
            b"Yh==",
        ] {
            let mut exchange = Exchange::new(Mechanism::Login, String::new());
            assert!(exchange.begin(Some(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_equals_sign_is_the_empty_initial_response() {
        let mut exchange = Exchange::new(Mechanism::External, String::new());
        assert_eq!(done(exchange.begin(Some(b"="))).login, b"");
        let mut exchange = Exchange::new(Mechanism::Plain, String::new());
        assert!(exchange.begin(Some(b"=")).is_err());
    }

    #[test]
    fn a_salt_names_the_server_and_never_repeats() {
        let salt = salt("mx.example").expect("random numbers");
        assert!(salt.starts_with('<') && salt.ends_with("@mx.example>"));
        assert_ne!(salt, super::salt("mx.example").expect("random numbers"));
    }
}
