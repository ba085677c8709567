//! Why a handshake failed, in the administrator's words: one sentence for a cause, whichever library
//! met it, with the directive that helps. The libraries' own errors become a [`Failure`] in `rustls` and
//! `native`; certificates of backends are judged, and spoken about, in `rustls_client`.

use ::rustls::AlertDescription;

use super::error::{TlsError, TlsErrorKind};
use super::settings::ClientDirectives;

/// Who is at the other end.
#[derive(Debug, Clone, Copy)]
pub(super) enum Peer {
    /// A client, whose server is ours.
    Client,
    /// A backend or an auth server, with the names of the directives that tell how it is spoken to.
    Server(&'static ClientDirectives),
}

/// What a library reports. The peer's first bytes can tell more, and then they decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure<'a> {
    /// The peer closed its stream.
    Closed,
    /// The peer ended TLS with the alert of this number (RFC 8446, section 6).
    Alert(u8),
    /// No version in common.
    Version,
    /// No cipher in common.
    Cipher,
    /// No signature algorithm in common.
    Signature,
    /// No group for the key exchange in common.
    Group,
    /// The client wants another application protocol.
    Alpn,
    /// Anything else, in the library's words.
    Other(&'a str),
}

/// The first bytes that came from the peer.
#[derive(Debug, Default)]
pub(super) struct Opening {
    bytes: [u8; 16],
    length: usize,
}

impl Opening {
    /// Looks at bytes on their way.
    pub(super) fn look(&mut self, bytes: &[u8]) {
        let room = &mut self.bytes[self.length..];
        let count = room.len().min(bytes.len());
        room[..count].copy_from_slice(&bytes[..count]);
        self.length += count;
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// A record has a content type and a version 3.x (RFC 8446, section 5.1).
    fn is_tls(&self) -> bool {
        self.is_ssl2()
            || match self.bytes() {
                [] => true,
                [kind] => (20..=23).contains(kind),
                [kind, major, ..] => (20..=23).contains(kind) && *major == 3,
            }
    }

    /// A ClientHello as SSL 2 had it, in which clients of SSL 3 and TLS 1.0 asked for these (RFC 5246,
    /// section E.2).
    fn is_ssl2(&self) -> bool {
        matches!(self.bytes(), [128..=255, _, 1, 0 | 3, ..])
    }

    /// The highest version of a hello, where that is older than TLS 1.2.
    pub(super) fn old_version(&self) -> Option<&'static str> {
        let version = match self.bytes() {
            bytes if self.is_ssl2() => bytes.get(3..5)?,
            [22, 3, _, _, _, 1 | 2, _, _, _, version @ ..] => version.get(..2)?,
            _ => return None,
        };
        match version {
            [3, 2] => Some("TLS 1.1"),
            [3, 1] => Some("TLS 1.0"),
            [3, 0] => Some("SSL 3"),
            [0, 2] => Some("SSL 2"),
            _ => None,
        }
    }

    fn in_words(&self) -> &'static str {
        const HTTP: [&[u8]; 7] = [
            b"GET ",
            b"POST ",
            b"HEAD ",
            b"PUT ",
            b"OPTIONS ",
            b"CONNECT ",
            b"PRI * HTTP/",
        ];
        let bytes = self.bytes();
        let is_text = |byte: &u8| matches!(byte, b'\t' | b'\r' | b'\n' | b' '..=b'~');
        if HTTP.iter().any(|method| bytes.starts_with(method)) {
            "an HTTP request"
        } else if bytes.iter().all(is_text) {
            "plain text"
        } else {
            "bytes that mean nothing"
        }
    }
}

/// The error of a handshake that failed so, with a peer that began so.
pub(super) fn explain(peer: Peer, opening: &Opening, failure: Failure<'_>) -> TlsError {
    if !opening.is_tls() {
        return TlsError::new(TlsErrorKind::Protocol, not_tls(peer, opening));
    }
    let (kind, text) = match failure {
        Failure::Closed => (TlsErrorKind::PeerGone, closed(peer)),
        Failure::Alert(number) => (TlsErrorKind::PeerAlert, alert(peer, number)),
        Failure::Version => (TlsErrorKind::Protocol, version(peer, opening)),
        Failure::Alpn => (
            TlsErrorKind::Alpn,
            "client asked for another application protocol (ALPN) than this port's, as a browser does, \
             a scanner, or a mail program with the wrong port"
                .to_owned(),
        ),
        Failure::Cipher | Failure::Signature | Failure::Group => {
            (TlsErrorKind::Protocol, nothing_in_common(peer, failure))
        }
        Failure::Other(words) => (
            TlsErrorKind::Protocol,
            format!("TLS handshake failed: {words}"),
        ),
    };
    TlsError::new(kind, text)
}

fn not_tls(peer: Peer, opening: &Opening) -> String {
    let sent = opening.in_words();
    match (peer, sent) {
        (Peer::Client, "plain text") => format!(
            "client does not speak TLS: it sent {sent}; is TLS switched on in the mail program?"
        ),
        (Peer::Client, _) => format!("client does not speak TLS: it sent {sent}"),
        (Peer::Server(directives), _) => format!(
            "{} does not speak TLS on this port: it sent {sent}; {}",
            directives.peer, directives.without_tls
        ),
    }
}

fn closed(peer: Peer) -> String {
    match peer {
        Peer::Client => {
            "client closed the connection during the TLS handshake, as programs do that do not \
                         trust our certificate"
                .to_owned()
        }
        Peer::Server(directives) => {
            format!(
                "{} closed the connection during the TLS handshake",
                directives.peer
            )
        }
    }
}

fn version(peer: Peer, opening: &Opening) -> String {
    match (peer, opening.old_version()) {
        (Peer::Client, Some(old)) => {
            format!("a client that speaks {old} only: see tls_library and ssl_protocols")
        }
        (Peer::Client, None) => {
            "unsupported protocol: the client speaks no version that ssl_protocols allows"
                .to_owned()
        }
        (Peer::Server(directives), Some(old)) => format!(
            "a {} that speaks {old} only: see tls_library and {}",
            directives.peer, directives.protocols
        ),
        (Peer::Server(directives), None) => format!(
            "unsupported protocol: the {} speaks no version that {} allows; for TLS 1.1 and older see \
             tls_library",
            directives.peer, directives.protocols
        ),
    }
}

/// The first words are OpenSSL's.
fn nothing_in_common(peer: Peer, missing: Failure<'_>) -> String {
    let text = match (peer, missing) {
        (Peer::Client, Failure::Cipher) => {
            "no shared cipher: the client offers none that ssl_ciphers and the key of the certificate allow"
        }
        (Peer::Client, Failure::Signature) => {
            "no shared signature algorithms: the client takes none that the key of ssl_certificate makes"
        }
        (Peer::Client, _) => "no shared group: the client offers none that ssl_ecdh_curve allows",
        (Peer::Server(directives), Failure::Signature) => {
            return format!(
                "no shared signature algorithms: the {} takes none that the key of {} makes",
                directives.peer, directives.certificate
            );
        }
        (Peer::Server(directives), _) => {
            return format!("no shared cipher with the {}", directives.peer);
        }
    };
    text.to_owned()
}

fn alert(peer: Peer, number: u8) -> String {
    use AlertDescription as A;
    let alert = A::from(number);
    let name = alert_name(alert);
    match (peer, alert) {
        (Peer::Client, A::UnknownCA) => format!(
            "the client does not trust our certificate: it does not know the issuer; does ssl_certificate \
             hold the whole chain? (alert {name})"
        ),
        (Peer::Client, A::CertificateExpired) => format!(
            "the client does not trust our certificate: it has expired (renew ssl_certificate), or the \
             client's clock is wrong (alert {name})"
        ),
        (Peer::Client, A::CertificateRevoked) => {
            format!("the client does not trust our certificate: it was revoked (alert {name})")
        }
        (Peer::Client, _) if is_about_certificate(alert) => format!(
            "the client does not trust our certificate: its name, issuer or dates are not what the client \
             wants; see ssl_certificate (alert {name})"
        ),
        (Peer::Server(directives), _) if is_about_certificate(alert) => format!(
            "the {} does not trust our certificate: see {} (alert {name})",
            directives.peer, directives.certificate
        ),
        (Peer::Server(directives), A::CertificateRequired) => format!(
            "the {} wants a certificate of ours: see {} (alert {name})",
            directives.peer, directives.certificate
        ),
        (Peer::Server(directives), A::HandshakeFailure) => format!(
            "the {} finds no cipher or signature in common, or wants a certificate of ours: see {} and {} \
             (alert {name})",
            directives.peer, directives.protocols, directives.certificate
        ),
        (Peer::Server(directives), A::UnrecognisedName) => format!(
            "the {} does not know the name it was asked for: see {} (alert {name})",
            directives.peer, directives.name
        ),
        (_, A::ProtocolVersion) => {
            format!("{} (alert {name})", version(peer, &Opening::default()))
        }
        (Peer::Client, _) => format!("client ended TLS with the alert {name}"),
        (Peer::Server(directives), _) => {
            format!("{} ended TLS with the alert {name}", directives.peer)
        }
    }
}

fn is_about_certificate(alert: AlertDescription) -> bool {
    use AlertDescription as A;
    matches!(
        alert,
        A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA
    )
}

/// The name of an alert as RFC 8446, section 6, writes it.
fn alert_name(alert: AlertDescription) -> String {
    let camel = format!("{alert:?}");
    let mut name = String::new();
    for (position, letter) in camel.chars().enumerate() {
        if letter.is_ascii_uppercase() && position > 0 && !name.ends_with('_') {
            let acronym =
                camel[position - 1..].starts_with(|before: char| before.is_ascii_uppercase());
            if !acronym {
                name.push('_');
            }
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}
