//! Passwords and tokens: bytes that wipe themselves, print nothing and are compared in constant time.
//!
//! Buffers that merely pass credentials on (input buffers, lines to a backend) use
//! `zeroize::Zeroizing` directly.
//!
//! While a session idles, no password of it is left in what is ours, nor in rustls' input buffer, which
//! its engine wipes. What the libraries free is theirs: rustls hands plain text over in pieces that it
//! frees as they are, OpenSSL (`tls_library = native`) decrypts into buffers that it frees as they are.
//! Both stay readable, to whoever may read the process's memory, until the heap uses the place again.

use std::fmt;

use zeroize::Zeroizing;

/// A password, a token or a response computed from one.
#[derive(Clone, Default)]
pub(crate) struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over; they are wiped when the secret is dropped.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for the wire.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&[u8]> for Secret {
    fn from(bytes: &[u8]) -> Self {
        Self::new(bytes.to_vec())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_shows_nothing_of_a_secret() {
        let secret = Secret::from(b"hunter2".as_slice());
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }
}
