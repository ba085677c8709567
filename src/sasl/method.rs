//! How a client logged in, as it is named to an auth server, and what that shows of the client's secret.

use super::{Credentials, apop};
use crate::secret::Secret;

/// How a client logged in, as an auth server is told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Method {
    /// The value of `Auth-Method`.
    pub(crate) name: &'static str,
    /// What of the client's secret we get to see.
    pub(crate) proof: Proof,
}

impl PartialEq for Method {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Method {}

/// What a method shows of the client's secret.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Proof {
    /// A password in the clear, with which a backend can be logged in to.
    Password,
    /// An OAuth token, which takes the password's place.
    Token {
        /// What a client answers when the refusal is explained to it (RFC 7628, section 3.2.3).
        error_answer: &'static [u8],
    },
    /// An answer to our challenge that was made of the password. It is of no use to a backend, which needs a
    /// password of its own. The function makes the right one, of password and salt, in small hex digits.
    Answer(fn(&[u8], &str) -> Secret),
    /// Nothing: who it is has been proved otherwise, or nobody asks. A backend needs a password of its own.
    Nothing,
}

impl Proof {
    /// Whether an answer to our challenge is the one that this password makes, compared in constant time.
    /// False where the method has no such answer.
    pub(crate) fn is_answered(self, password: &[u8], credentials: &Credentials) -> bool {
        let Self::Answer(make) = self else {
            return false;
        };
        let right = make(password, credentials.salt.as_deref().unwrap_or_default());
        let said = Secret::new(credentials.secret.expose().to_ascii_lowercase());
        let (right, said) = (right.expose(), said.expose());
        right.len() == said.len() && openssl::memcmp::eq(right, said)
    }
}

impl Method {
    /// A password in the clear: PLAIN, LOGIN, USER and PASS.
    pub(crate) const PLAIN: Self = Self {
        name: "plain",
        proof: Proof::Password,
    };
    /// APOP (RFC 1939).
    pub(crate) const APOP: Self = Self {
        name: "apop",
        proof: Proof::Answer(apop::answer),
    };
    /// SMTP without login.
    pub(crate) const NONE: Self = Self {
        name: "none",
        proof: Proof::Nothing,
    };

    /// Whether the secret can go on to a backend.
    pub(crate) fn can_be_passed_on(self) -> bool {
        match self.proof {
            Proof::Password | Proof::Token { .. } => true,
            Proof::Answer(_) | Proof::Nothing => false,
        }
    }

    /// Whether who has the user's password, or a hash of it, can tell that the client knows it.
    pub(crate) fn is_of_password(self) -> bool {
        match self.proof {
            Proof::Password | Proof::Answer(_) => true,
            Proof::Token { .. } | Proof::Nothing => false,
        }
    }

    /// What a client answers to an error challenge; `None` if the method has none.
    pub(crate) fn error_answer(self) -> Option<&'static [u8]> {
        match self.proof {
            Proof::Token { error_answer } => Some(error_answer),
            Proof::Password | Proof::Answer(_) | Proof::Nothing => None,
        }
    }

    /// Whether an OAuth token takes the password's place.
    pub(crate) fn is_oauth(self) -> bool {
        self.error_answer().is_some()
    }
}
