//! What is known about a connection after its handshake, in OpenSSL's words, and whether a client's
//! certificate is good enough. Judging the certificate itself is `verify`.

use std::fmt;

use openssl::asn1::Asn1Time;
use openssl::x509::X509;

use super::login_names;
use super::settings::{LoginFrom, VerifyClient};

/// OpenSSL's codes for a certificate whose issuer is not known; `optional_no_ca` lets them pass.
const ISSUER_UNKNOWN: [i32; 4] = [18, 19, 20, 21];

/// What is known about a connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Facts {
    /// `TLSv1.3`; empty before the handshake.
    pub protocol: String,
    /// `TLS_AES_256_GCM_SHA384`, `ECDHE-RSA-AES128-GCM-SHA256`: OpenSSL's name; empty before.
    pub cipher: String,
    /// The application protocol, if one was agreed on.
    pub alpn: Option<String>,
    /// The name asked for (as a server: by the client).
    pub sni: Option<String>,
    /// Judgement of the peer's certificate.
    pub verdict: Verdict,
    /// The peer's certificate.
    pub peer: Option<PeerCertificate>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
}

impl Facts {
    /// The logins that the peer's certificate names, in its own order; none unless it has verified.
    pub(crate) fn logins(&self, from: LoginFrom) -> Vec<String> {
        match (&self.verdict, &self.peer) {
            (Verdict::Success, Some(peer)) => login_names::logins(&peer.pem, from),
            _ => Vec::new(),
        }
    }
}

/// Judgement of a peer's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Verdict {
    /// No certificate was asked for, or its judgement is switched off.
    #[default]
    NotAsked,
    /// The peer sent none.
    None,
    /// Good.
    Success,
    /// Not good.
    Failed {
        /// OpenSSL's verification code.
        code: i32,
        /// OpenSSL's text for it.
        text: String,
    },
}

impl fmt::Display for Verdict {
    /// As in `Auth-SSL-Verify`; empty when no certificate was asked for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::NotAsked => Ok(()),
            Verdict::None => f.write_str("NONE"),
            Verdict::Success => f.write_str("SUCCESS"),
            Verdict::Failed { text, .. } => write!(f, "FAILED:{text}"),
        }
    }
}

/// A peer's certificate, in the spelling of the `Auth-SSL-*` headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerCertificate {
    /// Subject, as RFC 2253 writes it.
    pub subject: String,
    /// Issuer, as RFC 2253 writes it.
    pub issuer: String,
    /// Serial number in upper-case hex.
    pub serial: String,
    /// SHA-1 of the certificate in lower-case hex.
    pub fingerprint: String,
    /// The certificate as PEM, with line ends.
    pub pem: String,
}

impl PeerCertificate {
    /// Whose it is, who says so, and how long it is good, for people.
    pub(crate) fn in_words(&self) -> String {
        let (subject, issuer) = (&self.subject, &self.issuer);
        let time = self.days_left().map(|days| match days {
            ..0 => "expired".to_owned(),
            days => format!("good for {days} days"),
        });
        let time = time.unwrap_or_else(|| "without a readable end".to_owned());
        format!("certificate of {subject}, issued by {issuer}, {time}")
    }

    /// Whole days until it expires; negative once it has.
    pub(crate) fn days_left(&self) -> Option<i32> {
        let certificate = X509::from_pem(self.pem.as_bytes()).ok()?;
        let now = Asn1Time::days_from_now(0).ok()?;
        let left = now.diff(certificate.not_after()).ok()?;
        // Both parts have the same sign.
        Some(if left.secs < 0 {
            left.days - 1
        } else {
            left.days
        })
    }
}

/// Why a client with this certificate, or without one, must not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CertificateRefusal {
    /// Its certificate is not good.
    Failed {
        /// OpenSSL's verification code.
        code: i32,
        /// OpenSSL's text for it.
        text: String,
    },
    /// It sent none.
    Missing,
}

impl fmt::Display for CertificateRefusal {
    /// As nginx logs it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CertificateRefusal::Failed { code, text } => {
                write!(f, "client SSL certificate verify error: ({code}:{text})")
            }
            CertificateRefusal::Missing => f.write_str("client sent no required SSL certificate"),
        }
    }
}

/// Whether a client is to be refused because of its certificate, under `ssl_verify_client`.
///
/// The handshake lets every client in whose signature is right, so that the refusal can be a line
/// of the mail protocol.
pub(crate) fn certificate_refusal(facts: &Facts, mode: VerifyClient) -> Option<CertificateRefusal> {
    if mode == VerifyClient::Off {
        return None;
    }
    match &facts.verdict {
        Verdict::Failed { code, .. }
            if mode == VerifyClient::OptionalNoCa && ISSUER_UNKNOWN.contains(code) =>
        {
            None
        }
        Verdict::Failed { code, text } => Some(CertificateRefusal::Failed {
            code: *code,
            text: text.clone(),
        }),
        Verdict::NotAsked | Verdict::None if mode == VerifyClient::On => {
            Some(CertificateRefusal::Missing)
        }
        Verdict::NotAsked | Verdict::None | Verdict::Success => None,
    }
}
