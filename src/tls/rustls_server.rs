//! rustls as a server: its configuration out of settings, which certificate a client gets, and the
//! acceptance of client certificates, which are judged only after the handshake.

use std::fmt;
use std::sync::Arc;

use ::rustls::client::danger::HandshakeSignatureValid;
use ::rustls::crypto::{CryptoProvider, aws_lc_rs};
use ::rustls::pki_types::{CertificateDer, UnixTime};
use ::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use ::rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert};
use ::rustls::server::{ServerConfig, StoresServerSessions};
use ::rustls::sign::CertifiedKey;
use ::rustls::version::{TLS12, TLS13};
use ::rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme, SupportedProtocolVersion,
};

use super::ciphers::{self, Version};
use super::error::Problem;
use super::names::{Fit, Names};
use super::settings::ServerSettings;
use super::verify::{self, Handshake};

/// What a configuration is made of besides the settings.
pub(super) struct Parts {
    /// Certificates in configured order, with the names they stand for.
    pub(super) certificates: Vec<(Names, Arc<CertifiedKey>)>,
    /// Encoded names of acceptable issuers; `None` asks for no client certificate.
    pub(super) issuers: Option<Vec<Vec<u8>>>,
    pub(super) tickets: Arc<dyn ProducesTickets>,
    pub(super) sessions: Arc<dyn StoresServerSessions>,
    /// The one application protocol.
    pub(super) alpn: String,
}

/// Makes the configuration. Mistakes in names are collected by [`check_names`] before.
pub(super) fn config(settings: &ServerSettings, parts: Parts) -> Result<ServerConfig, Problem> {
    let mut ignored = Vec::new();
    let names = check_names(settings, &mut ignored).map_err(|mut problems| problems.remove(0))?;
    let provider = CryptoProvider {
        cipher_suites: names.suites,
        kx_groups: names.groups,
        ..aws_lc_rs::default_provider()
    };
    let problem = |error: Error| Problem::new("ssl_protocols", error.to_string());
    let builder = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&protocol_versions(&names.versions))
        .map_err(problem)?;
    let builder = match parts.issuers {
        None => builder.with_no_client_auth(),
        Some(issuers) => builder.with_client_cert_verifier(Arc::new(AcceptAnyClient {
            issuers: issuers.into_iter().map(DistinguishedName::from).collect(),
        })),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Certificates(parts.certificates)));
    let resumes = parts.tickets.enabled() || keeps_sessions(settings);
    config.alpn_protocols = vec![parts.alpn.into_bytes()];
    config.ignore_client_order = settings.ssl_prefer_server_ciphers.unwrap_or(false);
    config.ticketer = parts.tickets;
    config.session_storage = parts.sessions;
    if !resumes {
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

fn keeps_sessions(settings: &ServerSettings) -> bool {
    use super::settings::SessionCache as Cache;
    matches!(
        settings.ssl_session_cache,
        Some(Cache::Builtin { .. } | Cache::Shared { .. })
    )
}

/// rustls's versions of ours; those before TLS 1.2 it does not have.
pub(super) fn protocol_versions(versions: &[Version]) -> Vec<&'static SupportedProtocolVersion> {
    let each = versions.iter().filter_map(|version| match version {
        Version::Tls12 => Some(&TLS12),
        Version::Tls13 => Some(&TLS13),
        Version::Tls10 | Version::Tls11 => None,
    });
    each.collect()
}

/// Everything that is given by name.
pub(super) struct NamedChoices {
    versions: Vec<Version>,
    suites: Vec<::rustls::SupportedCipherSuite>,
    groups: Vec<&'static dyn ::rustls::crypto::SupportedKxGroup>,
}

/// Versions, ciphers and groups; all mistakes at once.
pub(super) fn check_names(
    settings: &ServerSettings,
    warnings: &mut Vec<Problem>,
) -> Result<NamedChoices, Vec<Problem>> {
    let supported = [Version::Tls12, Version::Tls13];
    let versions = ciphers::versions(
        "ssl_protocols",
        &settings.ssl_protocols,
        settings.tls_library,
        &supported,
    );
    let enabled = match &versions {
        Ok(versions) if !versions.is_empty() => versions.clone(),
        _ => supported.to_vec(),
    };
    let suites = ciphers::suites(settings.ssl_ciphers.as_deref(), &enabled, warnings);
    let groups = ciphers::groups(settings.ssl_ecdh_curve.as_deref(), warnings);
    match (versions, suites, groups) {
        (Ok(_), Ok(suites), Ok(groups)) => Ok(NamedChoices {
            versions: enabled,
            suites,
            groups,
        }),
        (versions, suites, groups) => {
            let all = [versions.err(), suites.err(), groups.err()];
            Err(all.into_iter().flatten().collect())
        }
    }
}

/// Chooses by SNI, then by the client's order of signature schemes. A client that none of the keys can
/// sign for is given one all the same: rustls finds that nothing is in common, and ends the handshake
/// with the alert handshake_failure. Without a certificate it would say access_denied.
struct Certificates(Vec<(Names, Arc<CertifiedKey>)>);

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificates({})", self.0.len())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fit = |names: &Names| hello.server_name().and_then(|name| names.fit(name));
        let mut unfit = None;
        // Best fit first; those that fit not at all serve clients that know no better name.
        for wanted in [Some(Fit::Exact), Some(Fit::Wildcard), None] {
            let fitting = self.0.iter().filter(|(names, _)| fit(names) == wanted);
            let keys: Vec<&Arc<CertifiedKey>> = fitting.map(|(_, key)| key).collect();
            for scheme in hello.signature_schemes() {
                let able = |key: &&&Arc<CertifiedKey>| key.key.choose_scheme(&[*scheme]).is_some();
                if let Some(key) = keys.iter().find(able) {
                    return Some(Arc::clone(key));
                }
            }
            unfit = unfit.or(keys.first().copied());
        }
        unfit.map(Arc::clone)
    }
}

/// Lets every client in that holds the key of the certificate it shows, or shows none.
#[derive(Debug)]
struct AcceptAnyClient {
    issuers: Vec<DistinguishedName>,
}

impl ClientCertVerifier for AcceptAnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.issuers
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
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
