//! The engine over rustls, the same for both roles. How its configuration is made is
//! `rustls_server` and `rustls_client`.

use std::io::{self, Read, Write};
use std::sync::{Arc, OnceLock};

use ::rustls::{
    CertificateError, Connection, Error, HandshakeKind, OtherError, PeerIncompatible,
    PeerMisbehaved, ProtocolVersion,
};

use zeroize::Zeroize;

use super::ciphers::suite_name;
use super::error::{TlsError, TlsErrorKind};
use super::facts::{Facts, Verdict};
use super::settings::ClientDirectives;
use super::verify::{self, Trust};
use super::words::{self, Failure, Opening, Peer};
use super::{Engine, Plain};

/// Output that may be pending before `write` takes nothing more; leaves room for records' own bytes
/// under the 64 KiB of [`Engine::write`].
const OUTPUT_LIMIT: usize = 56 * 1024;

/// One connection of rustls.
pub(super) struct RustlsEngine {
    pub(super) connection: Connection,
    role: Role,
    opening: Opening,
    ended: bool,
    closed: bool,
    /// Ciphertext was taken since the input buffer was last wiped.
    is_stained: bool,
    failure: Option<TlsError>,
    facts: OnceLock<Facts>,
}

/// Which side we are.
pub(super) enum Role {
    /// Ours is the server; clients' certificates are judged by this, if at all.
    Server(Option<Arc<Trust>>),
    /// Ours is the client, of the server with this name; `verified` says whether the handshake
    /// judges its certificate, `directives` what its settings are called.
    Client {
        name: String,
        verified: bool,
        directives: &'static ClientDirectives,
    },
}

impl Role {
    fn peer(&self) -> Peer {
        match self {
            Role::Server(_) => Peer::Client,
            Role::Client { directives, .. } => Peer::Server(directives),
        }
    }
}

impl RustlsEngine {
    pub(super) fn new(mut connection: Connection, role: Role) -> RustlsEngine {
        connection.set_buffer_limit(Some(OUTPUT_LIMIT));
        RustlsEngine {
            connection,
            role,
            opening: Opening::default(),
            ended: false,
            closed: false,
            is_stained: false,
            failure: None,
            facts: OnceLock::new(),
        }
    }

    fn fail(&mut self, error: &Error) -> TlsError {
        let handshaking = self.connection.is_handshaking();
        let failure = explain(error, &self.role, &self.opening, handshaking);
        self.failure = Some(failure.clone());
        failure
    }

    fn check_failure(&self) -> Result<(), TlsError> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    /// rustls decrypts where it has read, and keeps that buffer: the password of a session would stay
    /// readable until something else is read over it. What is not in use of the buffer is offered to
    /// whoever reads next, here to somebody who fills it with zeros and reads nothing.
    fn wipe_input(&mut self) {
        if std::mem::take(&mut self.is_stained) {
            // The error that it reads nothing with, and nothing else.
            let _ = self.connection.read_tls(&mut Wiper);
        }
    }

    fn learn_facts(&self) -> Facts {
        let connection = &self.connection;
        let version = connection.protocol_version();
        let suite = connection.negotiated_cipher_suite();
        let chain = connection.peer_certificates().unwrap_or_default();
        let verdict = match &self.role {
            Role::Server(None) => Verdict::NotAsked,
            Role::Server(Some(trust)) => trust.judge(chain),
            Role::Client { verified: true, .. } => Verdict::Success,
            Role::Client { .. } => Verdict::NotAsked,
        };
        let sni = match (&self.role, connection) {
            (Role::Client { name, .. }, _) => Some(name.clone()),
            (_, Connection::Server(server)) => server.server_name().map(str::to_owned),
            _ => None,
        };
        let alpn = connection.alpn_protocol();
        Facts {
            protocol: match version {
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2".to_owned(),
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3".to_owned(),
                _ => String::new(),
            },
            cipher: suite
                .map(|suite| suite_name(suite.suite()))
                .unwrap_or_default(),
            alpn: alpn.map(|name| String::from_utf8_lossy(name).into_owned()),
            sni,
            verdict,
            peer: chain.first().and_then(verify::describe),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }
}

impl Engine for RustlsEngine {
    fn take(&mut self, ciphertext: &[u8]) -> Result<usize, TlsError> {
        self.check_failure()?;
        self.is_stained = true;
        self.opening.look(ciphertext);
        let mut rest = ciphertext;
        while !rest.is_empty() {
            match self.connection.read_tls(&mut rest) {
                // After close_notify nothing counts any more.
                Ok(0) => return Ok(ciphertext.len()),
                Ok(_) => {}
                // A buffer is full: of plaintext, or of a message that never ends.
                Err(error) => match self.connection.process_new_packets() {
                    Ok(state) if state.plaintext_bytes_to_read() > 0 => break,
                    _ => return Err(self.fail(&Error::General(error.to_string()))),
                },
            }
            if let Err(error) = self.connection.process_new_packets() {
                return Err(self.fail(&error));
            }
        }
        Ok(ciphertext.len() - rest.len())
    }

    fn take_eof(&mut self) {
        self.ended = true;
    }

    fn handshake(&mut self) -> Result<bool, TlsError> {
        self.check_failure()?;
        if !self.connection.is_handshaking() {
            return Ok(true);
        }
        if self.ended {
            let failure = words::explain(self.role.peer(), &self.opening, Failure::Closed);
            self.failure = Some(failure.clone());
            return Err(failure);
        }
        Ok(false)
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<Plain, TlsError> {
        if buf.is_empty() {
            return Ok(Plain::NeedMore);
        }
        match self.connection.reader().read(buf) {
            Ok(0) => Ok(Plain::Closed),
            Ok(count) => Ok(Plain::Bytes(count)),
            Err(_) => {
                self.wipe_input();
                self.check_failure()?;
                Ok(if self.ended {
                    Plain::Truncated
                } else {
                    Plain::NeedMore
                })
            }
        }
    }

    fn write(&mut self, plain: &[u8]) -> Result<usize, TlsError> {
        self.check_failure()?;
        if self.closed {
            return Err(written_after_close());
        }
        if self.connection.is_handshaking() {
            return Ok(0);
        }
        let written = self.connection.writer().write(plain);
        written.map_err(|error| TlsError::new(TlsErrorKind::Internal, error.to_string()))
    }

    fn give(&mut self, out: &mut Vec<u8>, limit: usize) {
        let mut sink = Sink { out, left: limit };
        while sink.left > 0 && self.connection.wants_write() {
            // Writing to memory does not fail.
            if !matches!(self.connection.write_tls(&mut sink), Ok(1..)) {
                break;
            }
        }
    }

    fn has_output(&self) -> bool {
        self.connection.wants_write()
    }

    fn close(&mut self) {
        if !self.closed {
            self.closed = true;
            self.connection.send_close_notify();
        }
    }

    fn facts(&self) -> Facts {
        if self.connection.is_handshaking() {
            return Facts::default();
        }
        self.facts.get_or_init(|| self.learn_facts()).clone()
    }
}

/// The error of a `write` that comes after `close`.
pub(super) fn written_after_close() -> TlsError {
    TlsError::new(
        TlsErrorKind::Internal,
        "nothing can be written after close_notify",
    )
}

/// Wipes what it could read into.
struct Wiper;

impl Read for Wiper {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        buf.zeroize();
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// Appends to a vector, up to a limit.
struct Sink<'a> {
    out: &'a mut Vec<u8>,
    left: usize,
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.left);
        self.out.extend_from_slice(&bytes[..count]);
        self.left -= count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn explain(error: &Error, role: &Role, opening: &Opening, handshaking: bool) -> TlsError {
    if let Error::InvalidCertificate(refusal) = error {
        let text = match refusal {
            CertificateError::Other(OtherError(cause)) => cause.downcast_ref::<TlsError>().cloned(),
            _ => None,
        };
        let by_the_library = || {
            TlsError::new(
                TlsErrorKind::Untrusted,
                format!("TLS handshake failed: {error}"),
            )
        };
        return text.unwrap_or_else(by_the_library);
    }
    let internal = matches!(
        error,
        Error::General(_) | Error::FailedToGetCurrentTime | Error::FailedToGetRandomBytes
    );
    if internal {
        return TlsError::new(TlsErrorKind::Internal, format!("TLS failed: {error}"));
    }
    let failure = match error {
        // What an old client lacks is found first in one of its extensions.
        Error::PeerIncompatible(_) if opening.old_version().is_some() => Failure::Version,
        error => failure(error),
    };
    if !handshaking && matches!(failure, Failure::Other(_)) {
        return TlsError::new(TlsErrorKind::Protocol, format!("TLS failed: {error}"));
    }
    match failure {
        Failure::Other("") => {
            words::explain(role.peer(), opening, Failure::Other(&error.to_string()))
        }
        failure => words::explain(role.peer(), opening, failure),
    }
}

/// What the library reports; without words where it is to be shown in the library's own.
fn failure(error: &Error) -> Failure<'static> {
    use PeerIncompatible as P;
    match error {
        Error::AlertReceived(alert) => Failure::Alert((*alert).into()),
        Error::NoApplicationProtocol => Failure::Alpn,
        Error::PeerIncompatible(missing) => match missing {
            P::NoCipherSuitesInCommon => Failure::Cipher,
            P::NoSignatureSchemesInCommon | P::NoCertificateRequestSignatureSchemesInCommon => {
                Failure::Signature
            }
            P::NoKxGroupsInCommon => Failure::Group,
            P::Tls12NotOffered
            | P::Tls12NotOfferedOrEnabled
            | P::SupportedVersionsExtensionRequired
            | P::ServerDoesNotSupportTls12Or13
            | P::ServerTlsVersionIsDisabledByOurConfig => Failure::Version,
            _ => Failure::Other(""),
        },
        Error::PeerMisbehaved(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme) => {
            Failure::Other("peer signed with a scheme that TLS forbids")
        }
        _ => Failure::Other(""),
    }
}
