//! Why a read or write on a connection failed.

use std::fmt;
use std::io;
use std::time::Duration;

use super::socket::Deadline;
use crate::tls::TlsError;

/// What can happen on a connection.
#[derive(Debug)]
pub(crate) enum NetError {
    /// Nothing came, or nothing could be written, within the limit of this directive.
    Timeout(&'static str),
    /// The stream ended.
    Closed,
    /// The peer sent more than the buffer of its directive holds.
    TooLong,
    /// The system call that failed.
    Io(io::Error),
    /// TLS failed.
    Tls(TlsError),
}

impl fmt::Display for NetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout(directive) => write!(f, "timed out ({directive})"),
            Self::Closed => f.write_str("closed the connection"),
            Self::TooLong => f.write_str("sent too much"),
            Self::Io(error) => error.fmt(f),
            Self::Tls(error) => error.fmt(f),
        }
    }
}

impl Deadline {
    /// What is left of it.
    ///
    /// # Errors
    /// It is over.
    pub(crate) fn left(&self) -> Result<Duration, NetError> {
        self.remaining().ok_or(NetError::Timeout(self.directive))
    }
}
