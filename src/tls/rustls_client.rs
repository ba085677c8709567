//! rustls as a client of backends: its configuration, and the judgement of the backend's
//! certificate during the handshake.

use std::sync::Arc;

use ::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use ::rustls::crypto::{CryptoProvider, aws_lc_rs};
use ::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use ::rustls::sign::{CertifiedKey, SingleCertAndKey};
use ::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, SignatureScheme,
};
use openssl::sha::sha256;
use openssl::x509::X509;

use super::ciphers::Version;
use super::error::{Problem, TlsError, TlsErrorKind};
use super::facts::Verdict;
use super::names::Names;
use super::rustls_server::protocol_versions;
use super::settings::ClientDirectives;
use super::verify::{self, Handshake, Trust};

/// What backends' certificates are held against.
#[derive(Debug)]
pub(super) struct Demands {
    /// What the settings are called that can help where these are not met.
    pub(super) directives: &'static ClientDirectives,
    /// Trusted issuers; `None` checks neither issuer nor name nor time.
    pub(super) trust: Option<Trust>,
    /// SHA-256 of acceptable certificates; empty accepts any.
    pub(super) pins: Vec<[u8; 32]>,
}

impl Demands {
    /// Judges a backend's chain, its own certificate first.
    pub(super) fn check(&self, chain: &[CertificateDer<'_>], name: &str) -> Result<(), TlsError> {
        let Some(own) = chain.first() else {
            return Err(TlsError::new(
                TlsErrorKind::Untrusted,
                format!("\"{name}\" has sent no certificate"),
            ));
        };
        self.check_pin(own, name)?;
        let Some(trust) = &self.trust else {
            return Ok(());
        };
        if let Verdict::Failed { text, .. } = trust.judge(chain) {
            return Err(self.distrust(name, &text));
        }
        let names = X509::from_der(own).map(|own| Names::of(&own));
        let names = names.unwrap_or_default();
        if names.fit(name).is_none() {
            return Err(self.wrong_name(name, &names.summary()));
        }
        Ok(())
    }

    /// The part that does not depend on issuers.
    pub(super) fn check_pin(&self, own: &[u8], name: &str) -> Result<(), TlsError> {
        let digest = sha256(own);
        if self.pins.is_empty() || self.pins.contains(&digest) {
            return Ok(());
        }
        Err(TlsError::new(
            TlsErrorKind::Pin,
            format!(
                "certificate of \"{name}\" has none of the fingerprints in {}: it has {}",
                self.directives.fingerprint,
                verify::hex(&digest)
            ),
        ))
    }

    /// The error for a certificate that OpenSSL calls bad with `text`.
    pub(super) fn distrust(&self, name: &str, text: &str) -> TlsError {
        let lower = text.to_lowercase();
        if lower.contains("mismatch") {
            return self.wrong_name(name, &lower);
        }
        let ClientDirectives {
            trusted_certificate,
            fingerprint,
            verify,
            ..
        } = self.directives;
        let (kind, what) = if lower.contains("has expired") || lower.contains("not yet valid") {
            (
                TlsErrorKind::Expired,
                "is not valid now (renew it on the backend)".to_owned(),
            )
        } else {
            (
                TlsErrorKind::Untrusted,
                format!(
                    "is not trusted (put its issuer into {trusted_certificate}, or the certificate's \
                 SHA-256 into {fingerprint} with {verify} off)"
                ),
            )
        };
        TlsError::new(kind, format!("certificate of \"{name}\" {what}: {text}"))
    }

    fn wrong_name(&self, name: &str, cause: &str) -> TlsError {
        let directive = self.directives.name;
        TlsError::new(
            TlsErrorKind::WrongName,
            format!(
                "certificate is not for \"{name}\" (set {directive} to a name it has): {cause}"
            ),
        )
    }
}

/// Makes the configuration. Sessions are resumed with the backend that gave them.
pub(super) fn config(
    versions: &[Version],
    demands: Arc<Demands>,
    own: Option<Arc<CertifiedKey>>,
) -> Result<ClientConfig, Problem> {
    let provider = Arc::new(CryptoProvider::clone(&aws_lc_rs::default_provider()));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&protocol_versions(versions))
        .map_err(|error| Problem::new(demands.directives.protocols, error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Backends(demands)));
    Ok(match own {
        None => builder.with_no_client_auth(),
        Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))),
    })
}

/// Judges in the handshake, so that nothing is sent to a backend that is not the right one.
#[derive(Debug)]
struct Backends(Arc<Demands>);

impl ServerCertVerifier for Backends {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain: Vec<CertificateDer<'_>> = std::iter::once(own).chain(others).cloned().collect();
        match self.0.check(&chain, &server_name.to_str()) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(error) => Err(Error::InvalidCertificate(CertificateError::Other(
                OtherError(Arc::new(error)),
            ))),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify::check_signature(message, certificate, signed, Handshake::Tls12)?;
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify::check_signature(message, certificate, signed, Handshake::Tls13)?;
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        verify::SIGNATURE_SCHEMES.to_vec()
    }
}
