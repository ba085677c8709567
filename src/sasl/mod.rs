//! SASL (RFC 4422) as messages: what a client's answers mean, and what goes on to a backend.
//!
//! No I/O and no line syntax: the dialects carry the messages, each in its own kind of line. A mechanism
//! is a file, and a row here: the configuration, the dialects and the choice of a mechanism towards a
//! backend read the rows and know no mechanism by name, but for PLAIN, which is the one to fall back on.

mod apop;
mod cram_md5;
pub(crate) mod external;
mod login;
#[cfg(test)]
pub(crate) mod made_up;
mod method;
mod oauth;
pub(crate) mod plain;
pub(crate) mod shown;

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use zeroize::Zeroizing;

use crate::protocol::{PerProtocol, Protocol};
use crate::secret::Secret;

pub(crate) use method::{Method, Proof};

/// A message; wiped, since it carries a password or a token.
pub(crate) type Message = Zeroizing<Vec<u8>>;

/// Who the client says it is, and what it offers as proof.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    /// How it was said.
    pub method: Method,
    /// Authentication identity: the login. Empty with `Method::NONE`, perhaps with EXTERNAL.
    pub login: Vec<u8>,
    /// Authorization identity, only where it differs from the login.
    pub authzid: Option<Vec<u8>>,
    /// Password, token, or response to `salt`; empty where the method has none.
    pub secret: Secret,
    /// The challenge that `secret` answers.
    pub salt: Option<String>,
    /// What the client wants to send, with `Method::NONE`.
    pub envelope: Option<Envelope>,
    /// Whether a verified client certificate names the login (`ssl_login_from`): no other proof is needed.
    pub by_certificate: bool,
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
            by_certificate: false,
        }
    }
}

/// A SASL mechanism: a row of `ALL`, and the file with what it does.
#[derive(Debug)]
pub struct Mechanism {
    /// The registered name.
    pub(crate) name: &'static str,
    /// The word for it in the configuration.
    pub(crate) word: &'static str,
    /// How the auth server is told of it.
    pub(crate) method: Method,
    /// How each protocol offers it to clients.
    pub(crate) offer: PerProtocol<Offer>,
    /// Who says something first.
    pub(crate) opening: Opening,
    /// Begins an exchange with a client; the text is the salt, if the server speaks first.
    pub(crate) begin: fn(&str) -> Box<dyn Steps>,
    /// How it logs in to a backend.
    pub(crate) to_backend: ToBackend,
}

/// How a protocol offers a mechanism to its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// Understood always, announced where it is configured.
    Always,
    /// Understood always, announced where PLAIN is; the configuration has no word for it.
    WithPlain,
    /// Understood and announced where it is configured.
    IfConfigured,
}

/// Who says something first in an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// The client. Without an initial response it is asked for one with this text.
    Client(&'static str),
    /// The server, with a salt; an initial response is malformed.
    Server,
}

/// How a mechanism logs in to a backend.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ToBackend {
    /// With one message; `None` from the function means that the mechanism cannot carry this login.
    Message(fn(&Identity<'_>) -> Option<Message>),
    /// Login and password are each asked for.
    TwoAnswers,
    /// Not at all: it needs more than a login and a secret.
    Never,
}

/// As whom a backend is logged in to.
#[derive(Debug)]
pub(crate) struct Identity<'a> {
    /// Authorization identity.
    pub(crate) authzid: Option<&'a [u8]>,
    /// Authentication identity.
    pub(crate) login: Cow<'a, [u8]>,
    /// Password or token.
    pub(crate) secret: &'a Secret,
}

/// All rows, in the order in which the mechanisms are announced.
static ALL: [&Mechanism; 6] = [&PLAIN, &LOGIN, &CRAM_MD5, &EXTERNAL, &XOAUTH2, &OAUTHBEARER];

/// RFC 4616.
pub(crate) static PLAIN: Mechanism = Mechanism {
    name: "PLAIN",
    word: "plain",
    method: Method::PLAIN,
    offer: PerProtocol {
        imap: Offer::Always,
        pop3: Offer::Always,
        smtp: Offer::Always,
    },
    opening: Opening::Client(""),
    begin: plain::begin,
    to_backend: ToBackend::Message(plain::encode),
};

/// The older way to say the same, in two answers.
static LOGIN: Mechanism = Mechanism {
    name: "LOGIN",
    word: "login",
    method: Method::PLAIN,
    offer: PerProtocol {
        imap: Offer::Always,
        pop3: Offer::WithPlain,
        smtp: Offer::Always,
    },
    opening: Opening::Client(login::USERNAME),
    begin: login::begin,
    to_backend: ToBackend::TwoAnswers,
};

/// RFC 2195.
static CRAM_MD5: Mechanism = Mechanism {
    name: "CRAM-MD5",
    word: "cram-md5",
    method: Method {
        name: "cram-md5",
        proof: Proof::Answer(cram_md5::answer),
    },
    offer: IF_CONFIGURED,
    opening: Opening::Server,
    begin: cram_md5::begin,
    to_backend: ToBackend::Never,
};

/// RFC 4422, appendix A.
static EXTERNAL: Mechanism = Mechanism {
    name: "EXTERNAL",
    word: "external",
    method: Method {
        name: "external",
        proof: Proof::Nothing,
    },
    offer: IF_CONFIGURED,
    // As nginx asks.
    opening: Opening::Client(login::USERNAME),
    begin: external::begin,
    to_backend: ToBackend::Never,
};

/// Google's and Microsoft's.
static XOAUTH2: Mechanism = Mechanism {
    name: "XOAUTH2",
    word: "xoauth2",
    method: Method {
        name: "xoauth2",
        proof: Proof::Token { error_answer: b"" },
    },
    offer: IF_CONFIGURED,
    opening: Opening::Client(""),
    begin: oauth::begin_xoauth2,
    to_backend: ToBackend::Message(oauth::encode_xoauth2),
};

/// RFC 7628.
static OAUTHBEARER: Mechanism = Mechanism {
    name: "OAUTHBEARER",
    word: "oauthbearer",
    method: Method {
        name: "oauthbearer",
        proof: Proof::Token {
            error_answer: b"AQ==",
        },
    },
    offer: IF_CONFIGURED,
    opening: Opening::Client(""),
    begin: oauth::begin_oauthbearer,
    to_backend: ToBackend::Message(oauth::encode_oauthbearer),
};

const IF_CONFIGURED: PerProtocol<Offer> = PerProtocol {
    imap: Offer::IfConfigured,
    pop3: Offer::IfConfigured,
    smtp: Offer::IfConfigured,
};

impl PartialEq for Mechanism {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Mechanism {}

impl Mechanism {
    /// All of them, in the order in which they are announced.
    pub(crate) fn all() -> impl Iterator<Item = &'static Self> {
        let all = ALL.into_iter();
        #[cfg(test)]
        let all = all.chain(made_up::row_of_this_test());
        all
    }

    /// The mechanism of this name, in any case.
    pub(crate) fn by_name(name: &[u8]) -> Option<&'static Self> {
        Self::all().find(|row| name.eq_ignore_ascii_case(row.name.as_bytes()))
    }

    /// Those that the configuration of a protocol can list.
    pub(crate) fn configurable(protocol: Protocol) -> impl Iterator<Item = &'static Self> {
        Self::all().filter(move |row| match row.offer[protocol] {
            Offer::Always | Offer::IfConfigured => true,
            Offer::WithPlain => false,
        })
    }

    /// Those by which a backend can be logged in to.
    pub(crate) fn for_backends() -> impl Iterator<Item = &'static Self> {
        Self::all().filter(|row| match row.to_backend {
            ToBackend::Message(_) | ToBackend::TwoAnswers => true,
            ToBackend::Never => false,
        })
    }

    /// Our answer when a backend explains its refusal. Where the mechanism knows no such thing, an empty
    /// answer tells nothing.
    pub(crate) fn error_answer(&self) -> &'static [u8] {
        self.method.error_answer().unwrap_or_default()
    }
}

/// The exchange cannot go on: bad base64, a malformed message, an empty login or password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// What comes next in an exchange.
#[derive(Debug)]
pub(crate) enum Next {
    /// Send this, in base64, and wait for the client's answer.
    Challenge(String),
    /// Ask the authenticator what it knows of this login, and hand that to `Exchange::told`.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "no mechanism of today has to ask")
    )]
    Ask(Vec<u8>),
    /// The client has said everything.
    Done(Credentials),
}

/// What a mechanism makes of a client's answers: `take` for each, and `told` behind each `Next::Ask`.
pub(crate) trait Steps: fmt::Debug + Send {
    /// Takes the client's next answer, decoded.
    fn take(&mut self, message: &[u8]) -> Result<Next, Malformed>;

    /// Takes what the authenticator knows of the login that was asked about; `None` is nothing. A
    /// mechanism that asks decides itself what a client may notice of that.
    fn told(&mut self, known: Option<Secret>) -> Result<Next, Malformed> {
        drop(known);
        Err(Malformed)
    }
}

/// A mechanism in which the client says everything at once, by the function that reads it.
#[derive(Debug)]
struct OneMessage(fn(&[u8]) -> Result<Credentials, Malformed>);

impl Steps for OneMessage {
    fn take(&mut self, message: &[u8]) -> Result<Next, Malformed> {
        self.0(message).map(Next::Done)
    }
}

/// One exchange with a client, from the command on.
#[derive(Debug)]
pub(crate) struct Exchange {
    opening: Opening,
    salt: String,
    steps: Box<dyn Steps>,
}

impl Exchange {
    /// `salt` is empty unless the server speaks first.
    pub(crate) fn new(mechanism: &Mechanism, salt: String) -> Self {
        Self {
            opening: mechanism.opening,
            steps: (mechanism.begin)(&salt),
            salt,
        }
    }

    /// Begins, with the initial response if there is one (RFC 4422, section 3; `=` is an empty one).
    pub(crate) fn begin(&mut self, initial: Option<&[u8]>) -> Result<Next, Malformed> {
        match (self.opening, initial) {
            (Opening::Server, None) => Ok(Next::Challenge(self.salt.clone())),
            (Opening::Server, Some(_)) => Err(Malformed),
            (Opening::Client(prompt), None) => Ok(Next::Challenge(prompt.into())),
            (Opening::Client(_), Some(b"=")) => self.steps.take(&[]),
            (Opening::Client(_), Some(encoded)) => self.answer(encoded),
        }
    }

    /// Takes the client's answer to the last challenge, as it stands on the line.
    pub(crate) fn answer(&mut self, encoded: &[u8]) -> Result<Next, Malformed> {
        let message = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| Malformed)?);
        self.steps.take(&message)
    }

    /// Takes the answer to `Next::Ask`.
    pub(crate) fn told(&mut self, known: Option<Secret>) -> Result<Next, Malformed> {
        self.steps.told(known)
    }
}

/// Small hex digits.
fn hex(bytes: &[u8]) -> Secret {
    let digit = |value: u8| b"0123456789abcdef"[usize::from(value)];
    let digits = bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]);
    Secret::new(digits.collect())
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
        let mut exchange = Exchange::new(&LOGIN, String::new());
        assert_eq!(challenge(exchange.begin(None)), "Username:");
        assert_eq!(challenge(exchange.answer(b"Ym9i")), "Password:");
        let credentials = done(exchange.answer(b"cHc="));
        assert_eq!(credentials.login, b"bob");
        assert_eq!(credentials.secret.expose(), b"pw");

        let mut exchange = Exchange::new(&LOGIN, String::new());
        assert_eq!(challenge(exchange.begin(Some(b"Ym9i"))), "Password:");
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
            let mut exchange = Exchange::new(&LOGIN, String::new());
            assert!(exchange.begin(Some(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_equals_sign_is_the_empty_initial_response() {
        let mut exchange = Exchange::new(&EXTERNAL, String::new());
        assert_eq!(done(exchange.begin(Some(b"="))).login, b"");
        let mut exchange = Exchange::new(&PLAIN, String::new());
        assert!(exchange.begin(Some(b"=")).is_err());
    }

    #[test]
    fn a_salt_names_the_server_and_never_repeats() {
        let salt = salt("mx.example").expect("random numbers");
        assert!(salt.starts_with('<') && salt.ends_with("@mx.example>"));
        assert_ne!(salt, super::salt("mx.example").expect("random numbers"));
    }
}
