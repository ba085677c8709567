//! TLS without I/O: ciphertext in, plaintext out, and the other way round.
//!
//! Two libraries stand behind one trait: `rustls` and `native`. An [`Acceptor`] makes engines for
//! the clients of one server, a [`Connector`] for one backend. Keys, certificates, ciphers and the
//! judgement of peers are here; sockets, deadlines and log lines are not.

mod acceptor;
mod ciphers;
mod client_rules;
mod connector;
mod error;
mod facts;
mod files;
mod hello;
mod keys;
mod login_names;
mod names;
mod native;
mod native_setup;
mod rustls;
mod rustls_client;
mod rustls_server;
mod settings;
mod stapling;
#[cfg(test)]
mod tests;
mod tickets;
mod verify;
mod words;

pub(crate) use acceptor::{Acceptor, CertificateInUse};
pub(crate) use connector::Connector;
pub(crate) use error::{Problem, TlsError, TlsErrorKind};
pub(crate) use facts::{CertificateRefusal, Facts, Verdict, certificate_refusal};
pub(crate) use settings::{
    ClientDirectives, ClientSettings, Library, LoginFrom, ServerSettings, SessionCache,
    VerifyClient,
};
pub(crate) use tickets::SessionCaches;

#[cfg(test)]
pub(crate) use facts::PeerCertificate;
#[cfg(test)]
pub(crate) use settings::{DEFAULT_SESSION_TIMEOUT, DEFAULT_VERIFY_DEPTH};

/// What an engine had to say when asked for plaintext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plain {
    /// That many bytes are in the buffer; never 0.
    Bytes(usize),
    /// More ciphertext is needed first.
    NeedMore,
    /// The peer has ended its stream with close_notify.
    Closed,
    /// The peer's stream has ended without close_notify.
    Truncated,
}

/// One TLS connection's state, without I/O.
///
/// Order of calls:
/// 1. `handshake`, then `give` what it produced, then `take` what the peer answers, until
///    `handshake` says true; then `give` once more.
/// 2. `take` and `read`, `write` and `give`, in any order and number, until the end.
/// 3. `close` once, then `give`. Reading may go on.
///
/// After an error nothing more can be taken, written or read, except plaintext that came before
/// the error; `give` may still hold an alert for the peer.
pub(crate) trait Engine: Send {
    /// Hands over ciphertext from the socket; returns how many bytes were taken. That is less than
    /// given only when plaintext must be read first.
    fn take(&mut self, ciphertext: &[u8]) -> Result<usize, TlsError>;

    /// The socket's stream has ended; no close_notify can come any more.
    fn take_eof(&mut self);

    /// One step of the handshake; true once it is complete. On an error an alert may be pending.
    fn handshake(&mut self) -> Result<bool, TlsError>;

    /// Plaintext from the peer, in order. An empty buffer gets `NeedMore`.
    fn read(&mut self, buf: &mut [u8]) -> Result<Plain, TlsError>;

    /// Plaintext for the peer; returns how many bytes were taken. Pending output stays under
    /// 64 KiB: 0 means that `give` must come first. An error after `close`.
    fn write(&mut self, plain: &[u8]) -> Result<usize, TlsError>;

    /// Appends pending ciphertext to `out`, at most `limit` bytes.
    fn give(&mut self, out: &mut Vec<u8>, limit: usize);

    /// Whether `give` would give anything.
    fn has_output(&self) -> bool;

    /// Queues close_notify; from now on nothing can be written. A second call does nothing.
    fn close(&mut self);

    /// What is known about the connection; complete once the handshake is.
    fn facts(&self) -> Facts;
}
