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

use std::ops::{Deref, DerefMut};

use zeroize::{Zeroize, Zeroizing};

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

/// A buffer for much at a time, wiped in one piece when it is dropped. `Zeroizing` wipes arrays and vectors
/// byte by byte, which takes as long as copying a mail through them.
pub(crate) struct Wiped<B: AsMut<[u8]>>(pub B);

impl<B: AsMut<[u8]> + AsRef<[u8]>> Deref for Wiped<B> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_ref()
    }
}

impl<B: AsMut<[u8]> + AsRef<[u8]>> DerefMut for Wiped<B> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_mut()
    }
}

impl<B: AsMut<[u8]>> Drop for Wiped<B> {
    fn drop(&mut self) {
        self.0.as_mut().zeroize();
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
