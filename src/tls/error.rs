//! Errors of TLS: of a connection, and of settings. Each says what failed and what to do about it.

use std::fmt;

/// Why a TLS connection failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsError {
    kind: TlsErrorKind,
    message: String,
}

/// The kinds of failure that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TlsErrorKind {
    /// The peer closed its stream during the handshake.
    PeerGone,
    /// The peer ended the connection with an alert.
    PeerAlert,
    /// The peer broke the protocol, or does not speak TLS, or nothing is in common.
    Protocol,
    /// The peer asked for another application protocol.
    Alpn,
    /// The peer's certificate is not trusted, or is unusable.
    Untrusted,
    /// The peer's certificate is for another name.
    WrongName,
    /// The peer's certificate has expired, or is not valid yet.
    Expired,
    /// The peer's certificate has none of the configured fingerprints.
    Pin,
    /// The engine was used in a way that its contract forbids, or failed by itself.
    Internal,
}

impl TlsError {
    /// An error of `kind`; `message` is lower case, without a full stop, its cause last.
    pub(crate) fn new(kind: TlsErrorKind, message: impl Into<String>) -> TlsError {
        TlsError {
            kind,
            message: message.into(),
        }
    }

    /// The kind of failure.
    #[cfg(test)]
    pub(crate) fn kind(&self) -> TlsErrorKind {
        self.kind
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TlsError {}

/// A mistake in the settings, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The directive that is wrong.
    pub directive: &'static str,
    /// Which of its entries, from 0, where it may be repeated.
    pub entry: usize,
    /// What is wrong, with the file's name where there is one.
    pub text: String,
}

impl Problem {
    /// A mistake in the only, or first, entry of `directive`.
    pub(crate) fn new(directive: &'static str, text: impl Into<String>) -> Problem {
        Problem::at(directive, 0, text)
    }

    /// A mistake in one of several entries of `directive`.
    pub(crate) fn at(directive: &'static str, entry: usize, text: impl Into<String>) -> Problem {
        Problem {
            directive,
            entry,
            text: text.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.directive, self.text)
    }
}

/// The reason in an OpenSSL error, without codes, function names and source lines.
pub(super) fn openssl_reason(stack: &openssl::error::ErrorStack) -> String {
    let first = stack.errors().first();
    match first.and_then(|error| error.reason()) {
        Some(reason) => reason.to_lowercase(),
        None => match first {
            Some(error) => format!("error {:#x}", error.code()),
            None => "no reason given".to_owned(),
        },
    }
}
