//! Judging peers' certificates the way OpenSSL does, with its codes and texts, whichever library is
//! on the wire; checking their signatures in handshakes; and describing them in OpenSSL's spelling.
//! What follows from a verdict is decided by others.

use std::collections::HashSet;
use std::path::Path;

use ::rustls::pki_types::CertificateDer;
use ::rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, SignatureScheme};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Public};
use openssl::rsa::Padding;
use openssl::sign::{RsaPssSaltlen, Verifier};
use openssl::ssl::{SslContext, SslFiletype, SslMethod};
use openssl::stack::Stack;
use openssl::x509::store::{X509Lookup, X509Store, X509StoreBuilder};
use openssl::x509::verify::{X509VerifyFlags, X509VerifyParam};
use openssl::x509::{X509, X509NameRef, X509PurposeId, X509Ref, X509StoreContext};
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::asn1::Any;
use x509_cert::der::{Decode, Encode, Tag, Tagged};
use x509_cert::name::RdnSequence;

use super::facts::{PeerCertificate, Verdict};
use super::keys::is_past;

/// X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY.
const NO_LOCAL_ISSUER: i32 = 20;

// OpenSSL's codes with its texts, where we and not the library choose them.
const UNSPECIFIED: (i32, &str) = (1, "unspecified certificate verification error");
const NOT_YET_VALID: (i32, &str) = (9, "certificate is not yet valid");
const HAS_EXPIRED: (i32, &str) = (10, "certificate has expired");
const LEAF_UNVERIFIED: (i32, &str) = (21, "unable to verify the first certificate");

/// Schemes in which peers may sign, most preferred first. In TLS 1.3 those of PKCS#1 are for the
/// signatures in certificates alone.
pub(super) const SIGNATURE_SCHEMES: [SignatureScheme; 10] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA512,
];

/// Trusted certificates and the rules for chains that end in them.
pub(super) struct Trust {
    chains: X509Store,
    /// The same, where any trusted certificate ends a chain, for peers that are themselves trusted.
    pinned: X509Store,
    /// The trusted certificates, encoded.
    trusted: HashSet<Vec<u8>>,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Trust({} certificates)", self.trusted.len())
    }
}

/// The rules for chains.
pub(super) struct Rules<'a> {
    /// What the certificate must be fit for.
    pub(super) purpose: X509PurposeId,
    /// Certificates between the peer's and the trusted one; `None` is OpenSSL's own limit.
    pub(super) depth: Option<u32>,
    /// PEM file of revocation lists; all certificates of a chain are looked for.
    pub(super) crl: Option<&'a Path>,
}

impl Trust {
    /// Puts `anchors` under `rules`.
    pub(super) fn new(anchors: &[X509], rules: &Rules<'_>) -> Result<Trust, ErrorStack> {
        let trusted = anchors.iter().map(|anchor| anchor.to_der());
        Ok(Trust {
            chains: store(anchors, rules, X509VerifyFlags::empty())?,
            pinned: store(anchors, rules, X509VerifyFlags::PARTIAL_CHAIN)?,
            trusted: trusted.collect::<Result<_, _>>()?,
        })
    }

    /// Judges a chain as it came from the peer, the peer's own certificate first.
    pub(super) fn judge(&self, chain: &[CertificateDer<'_>]) -> Verdict {
        let Some((own, rest)) = chain.split_first() else {
            return Verdict::None;
        };
        let store = if self.trusted.contains(own.as_ref()) {
            &self.pinned
        } else {
            &self.chains
        };
        verify(store, own, rest).unwrap_or_else(|_| failed(UNSPECIFIED))
    }
}

fn store(
    anchors: &[X509],
    rules: &Rules<'_>,
    mut flags: X509VerifyFlags,
) -> Result<X509Store, ErrorStack> {
    let mut builder = X509StoreBuilder::new()?;
    for anchor in anchors {
        builder.add_cert(anchor.clone())?;
    }
    if let Some(crl) = rules.crl {
        let lookup = builder.add_lookup(X509Lookup::file())?;
        lookup.load_crl_file(crl, SslFiletype::PEM)?;
        flags |= X509VerifyFlags::CRL_CHECK | X509VerifyFlags::CRL_CHECK_ALL;
    }
    let mut param = X509VerifyParam::new()?;
    param.set_purpose(rules.purpose)?;
    // How weak a key or digest may be is the system's choice, as it is for every OpenSSL server.
    let level = SslContext::builder(SslMethod::tls())?
        .build()
        .security_level();
    param.set_auth_level(i32::try_from(level).unwrap_or(0));
    if let Some(depth) = rules.depth {
        param.set_depth(i32::try_from(depth).unwrap_or(i32::MAX));
    }
    param.set_flags(flags)?;
    builder.set_param(&param)?;
    Ok(builder.build())
}

fn verify(
    store: &X509Store,
    own: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
) -> Result<Verdict, ErrorStack> {
    let own = X509::from_der(own)?;
    let mut others = Stack::new()?;
    for other in rest {
        others.push(X509::from_der(other)?)?;
    }
    let mut context = X509StoreContext::new()?;
    let (good, error, depth) = context.init(store, &own, &others, |context| {
        let good = context.verify_cert()?;
        Ok((good, context.error(), context.error_depth()))
    })?;
    if good {
        return Ok(Verdict::Success);
    }
    // nginx lets OpenSSL go on after an error and reports the last one; we stop at the first.
    Ok(if is_past(own.not_after()) {
        failed(HAS_EXPIRED)
    } else if !is_past(own.not_before()) {
        failed(NOT_YET_VALID)
    } else if error.as_raw() == NO_LOCAL_ISSUER && depth == 0 {
        failed(LEAF_UNVERIFIED)
    } else {
        failed((error.as_raw(), error.error_string()))
    })
}

fn failed((code, text): (i32, &str)) -> Verdict {
    Verdict::Failed {
        code,
        text: text.to_owned(),
    }
}

/// Checks the signature of a peer's handshake by the rules of the handshake's version.
pub(super) fn check_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    version: Handshake,
) -> Result<(), Error> {
    if version == Handshake::Tls13 && only_signs_certificates(signed.scheme) {
        return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    }
    let bad = Error::InvalidCertificate(CertificateError::BadSignature);
    let key = X509::from_der(certificate)
        .and_then(|certificate| certificate.public_key())
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    match signature_is_right(message, &key, signed, version) {
        Ok(true) => Ok(()),
        _ => Err(bad),
    }
}

/// The version by whose rules a handshake is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handshake {
    Tls12,
    /// RFC 8446, section 4.2.3: a scheme for ECDSA names the curve too, and RSA signs with PSS only.
    Tls13,
}

/// Whether a scheme is offered in TLS 1.3 for the signatures in certificates alone.
fn only_signs_certificates(scheme: SignatureScheme) -> bool {
    matches!(
        scheme,
        SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PKCS1_SHA384
            | SignatureScheme::RSA_PKCS1_SHA512
    )
}

fn signature_is_right(
    message: &[u8],
    key: &PKey<Public>,
    signed: &DigitallySignedStruct,
    version: Handshake,
) -> Result<bool, ErrorStack> {
    use SignatureScheme as S;
    let signature = signed.signature();
    let (digest, padding, curve) = match signed.scheme {
        S::ED25519 => {
            return Ok(key.id() == Id::ED25519
                && Verifier::new_without_digest(key)?.verify_oneshot(signature, message)?);
        }
        S::ECDSA_NISTP256_SHA256 => (MessageDigest::sha256(), None, Nid::X9_62_PRIME256V1),
        S::ECDSA_NISTP384_SHA384 => (MessageDigest::sha384(), None, Nid::SECP384R1),
        S::ECDSA_NISTP521_SHA512 => (MessageDigest::sha512(), None, Nid::SECP521R1),
        S::RSA_PSS_SHA256 => (
            MessageDigest::sha256(),
            Some(Padding::PKCS1_PSS),
            Nid::UNDEF,
        ),
        S::RSA_PSS_SHA384 => (
            MessageDigest::sha384(),
            Some(Padding::PKCS1_PSS),
            Nid::UNDEF,
        ),
        S::RSA_PSS_SHA512 => (
            MessageDigest::sha512(),
            Some(Padding::PKCS1_PSS),
            Nid::UNDEF,
        ),
        S::RSA_PKCS1_SHA256 => (MessageDigest::sha256(), Some(Padding::PKCS1), Nid::UNDEF),
        S::RSA_PKCS1_SHA384 => (MessageDigest::sha384(), Some(Padding::PKCS1), Nid::UNDEF),
        S::RSA_PKCS1_SHA512 => (MessageDigest::sha512(), Some(Padding::PKCS1), Nid::UNDEF),
        _ => return Ok(false),
    };
    match padding {
        Some(_) if key.id() != Id::RSA => return Ok(false),
        None if key.id() != Id::EC => return Ok(false),
        None if version == Handshake::Tls13
            && key.ec_key()?.group().curve_name() != Some(curve) =>
        {
            return Ok(false);
        }
        _ => {}
    }
    let mut verifier = Verifier::new(digest, key)?;
    if let Some(padding) = padding {
        verifier.set_rsa_padding(padding)?;
        if padding == Padding::PKCS1_PSS {
            verifier.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH)?;
        }
    }
    verifier.verify_oneshot(signature, message)
}

/// Describes a certificate as nginx does; `None` if OpenSSL cannot read it.
pub(super) fn describe(certificate: &CertificateDer<'_>) -> Option<PeerCertificate> {
    let certificate = X509::from_der(certificate).ok()?;
    Some(PeerCertificate {
        subject: rfc2253(certificate.subject_name()),
        issuer: rfc2253(certificate.issuer_name()),
        serial: serial(&certificate).unwrap_or_default(),
        fingerprint: hex(&certificate.digest(MessageDigest::sha1()).ok()?),
        pem: String::from_utf8(certificate.to_pem().ok()?).ok()?,
    })
}

fn serial(certificate: &X509Ref) -> Option<String> {
    let number = certificate.serial_number().to_bn().ok()?;
    let digits = number.to_hex_str().ok()?.to_string();
    Some(if digits == "0" {
        "00".to_owned()
    } else {
        digits
    })
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A name as OpenSSL's XN_FLAG_RFC2253 prints it: last part first, bytes outside ASCII escaped.
fn rfc2253(name: &X509NameRef) -> String {
    let der = name.to_der().unwrap_or_default();
    let Ok(parts) = RdnSequence::from_der(&der) else {
        return String::new();
    };
    let mut text = Vec::new();
    for part in parts.iter() {
        let values: Vec<String> = part.iter().map(attribute).collect();
        text.push(values.iter().rev().cloned().collect::<Vec<_>>().join("+"));
    }
    text.reverse();
    text.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue) -> String {
    let oid = attribute.oid.to_string();
    let known = openssl::asn1::Asn1Object::from_str(&oid)
        .ok()
        .map(|object| object.nid())
        .filter(|nid| *nid != Nid::UNDEF)
        .and_then(|nid| nid.short_name().ok());
    match (known, characters(&attribute.value)) {
        (Some(name), Some(value)) => format!("{name}={}", escaped(&value)),
        (known, _) => {
            let der = attribute.value.to_der().unwrap_or_default();
            let digits = hex(&der).to_uppercase();
            format!("{}=#{digits}", known.map_or(oid, str::to_owned))
        }
    }
}

/// The text of a string type; `None` for all other types.
pub(super) fn characters(value: &Any) -> Option<String> {
    let bytes = value.value();
    match value.tag() {
        Tag::Utf8String => String::from_utf8(bytes.to_vec()).ok(),
        Tag::PrintableString
        | Tag::Ia5String
        | Tag::NumericString
        | Tag::VisibleString
        | Tag::TeletexString => Some(bytes.iter().map(|byte| char::from(*byte)).collect()),
        Tag::BmpString => {
            let units = bytes
                .chunks(2)
                .map(|pair| pair.iter().fold(0, |n, b| n << 8 | u16::from(*b)));
            String::from_utf16(&units.collect::<Vec<_>>()).ok()
        }
        _ => None,
    }
}

fn escaped(value: &str) -> String {
    let last = value.len().saturating_sub(1);
    let mut text = String::new();
    for (position, byte) in value.bytes().enumerate() {
        let edge = position == 0 || position == last;
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b' ' if edge => text.push_str("\\ "),
            b'#' if position == 0 => text.push_str("\\#"),
            0x20..=0x7e => text.push(char::from(byte)),
            _ => text.push_str(&format!("\\{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_as_openssl_does() {
        assert_eq!(escaped("a,b+c\"\\<>;"), "a\\,b\\+c\\\"\\\\\\<\\>\\;");
        assert_eq!(escaped(" #x "), "\\ #x\\ ");
        assert_eq!(escaped("#x"), "\\#x");
        assert_eq!(escaped("Jürgen\r\n"), "J\\C3\\BCrgen\\0D\\0A");
    }
}
