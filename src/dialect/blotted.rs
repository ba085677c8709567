//! Clients' commands for level debug, credentials blotted out by their position: what a command's grammar
//! makes a secret is not looked at, and not shown. On the other leg the dialects themselves say what of a line
//! is hidden (`BackendConn::send_hiding`).

use crate::log::escape;
use crate::sasl::Mechanism;
use crate::sasl::shown::BLOT;

/// What stands behind a command word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arguments<'a> {
    /// No secret.
    Shown(&'a [u8]),
    /// Nothing but secrets, or things that nobody knows anything of.
    Blotted,
    /// A mechanism, and then a secret perhaps.
    Mechanism(Option<&'a [u8]>),
}

/// A client's command; `word` begins with its tag, where it has one.
pub(super) fn command(word: &[u8], arguments: Arguments<'_>) -> String {
    let word = escape(word);
    match arguments {
        Arguments::Shown(b"") => word,
        Arguments::Shown(shown) => format!("{word} {}", escape(shown)),
        Arguments::Blotted => format!("{word} {BLOT}"),
        Arguments::Mechanism(None) => word,
        Arguments::Mechanism(Some(name)) => match Mechanism::by_name(name) {
            Some(mechanism) => format!("{word} {} {BLOT}", mechanism.name),
            None => format!("{word} {BLOT}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_with_credentials_show_their_word() {
        assert_eq!(command(b"a LOGIN", Arguments::Blotted), "a LOGIN ***");
        assert_eq!(command(b"PASS", Arguments::Blotted), "PASS ***");
        let plain = Arguments::Mechanism(Some(b"plain"));
        assert_eq!(command(b"AUTH", plain), "AUTH PLAIN ***");
        let secret = Arguments::Mechanism(Some(b"AGJvYgBwdw=="));
        assert_eq!(command(b"AUTH", secret), "AUTH ***");
        assert_eq!(
            command(b"EHLO", Arguments::Shown(b"me\x1b")),
            r"EHLO me\x1B"
        );
    }
}
