//! Sets up the operating system's library for either role, and refuses what it cannot honour.
//! The connection itself is `native`.

use native_tls::{Certificate, Identity, Protocol, TlsAcceptor, TlsConnector};
use openssl::ssl::{SslContext, SslMethod};
use openssl::x509::X509;

use super::ciphers::{self, Version};
use super::error::Problem;
use super::settings::{ClientSettings, Library, ServerSettings, VerifyClient};

/// Everything in the settings that a server of this library cannot do.
pub(super) fn check_server(settings: &ServerSettings) -> Vec<Problem> {
    let cannot = |directive: &'static str, what: &str| {
        let text = format!("with `tls_library = native` {what}; use rustls, or leave it out");
        Problem::new(directive, text)
    };
    let mut problems = Vec::new();
    if settings.ssl_certificate.len() > 1 {
        problems.push(cannot("ssl_certificate", "a server has one certificate"));
    }
    if !settings.ssl_stapling_file.is_empty() {
        problems.push(cannot("ssl_stapling_file", "no OCSP response can be sent"));
    }
    if settings.ssl_ciphers.is_some() {
        problems.push(cannot("ssl_ciphers", "ciphers cannot be chosen"));
    }
    if settings.ssl_ecdh_curve.is_some() {
        problems.push(cannot("ssl_ecdh_curve", "groups cannot be chosen"));
    }
    if settings.ssl_prefer_server_ciphers == Some(false) {
        problems.push(cannot(
            "ssl_prefer_server_ciphers",
            "the server's order always counts",
        ));
    }
    if settings.ssl_session_cache.is_some() {
        problems.push(cannot(
            "ssl_session_cache",
            "the library's own cache is used",
        ));
    }
    if settings.ssl_session_tickets == Some(false) {
        problems.push(cannot(
            "ssl_session_tickets",
            "tickets cannot be switched off",
        ));
    }
    if !settings.ssl_session_ticket_key.is_empty() {
        problems.push(cannot(
            "ssl_session_ticket_key",
            "ticket keys cannot be set",
        ));
    }
    if settings.ssl_session_timeout.is_some() {
        problems.push(cannot(
            "ssl_session_timeout",
            "the library's own limit holds",
        ));
    }
    if settings.ssl_verify_client != VerifyClient::Off {
        problems.push(cannot(
            "ssl_verify_client",
            "no client certificate can be asked for",
        ));
    }
    problems.extend(server_versions(settings).err());
    problems
}

/// Makes a server's side.
pub(super) fn acceptor(
    settings: &ServerSettings,
    identity: Identity,
    alpn: &str,
) -> Result<TlsAcceptor, Problem> {
    let versions = server_versions(settings)?;
    let mut builder = TlsAcceptor::builder(identity);
    let (least, most) = range(&versions);
    builder
        .min_protocol_version(least)
        .max_protocol_version(most);
    builder.accept_alpn(&[alpn]);
    let built = builder.build();
    built.map_err(|error| Problem::new("ssl_certificate", error.to_string()))
}

fn server_versions(settings: &ServerSettings) -> Result<Vec<Version>, Problem> {
    let supported = [Version::Tls10, Version::Tls11, Version::Tls12];
    versions(
        "ssl_protocols",
        &settings.ssl_protocols,
        &supported,
        &[Version::Tls12],
    )
}

/// Makes a client's side; `roots` replace the system's store.
pub(super) fn connector(
    settings: &ClientSettings,
    roots: Option<&[X509]>,
    identity: Option<Identity>,
) -> Result<TlsConnector, Problem> {
    let (least, most) = range(&client_versions(settings)?);
    let mut builder = TlsConnector::builder();
    builder
        .min_protocol_version(least)
        .max_protocol_version(most);
    builder
        .danger_accept_invalid_certs(!settings.proxy_ssl_verify)
        .danger_accept_invalid_hostnames(!settings.proxy_ssl_verify);
    let problem = |text: String| Problem::new(settings.directives.trusted_certificate, text);
    for root in roots.unwrap_or_default() {
        let der = root.to_der().map_err(|error| problem(error.to_string()))?;
        let root = Certificate::from_der(&der).map_err(|error| problem(error.to_string()))?;
        builder.add_root_certificate(root);
    }
    builder.disable_built_in_roots(roots.is_some());
    if let Some(identity) = identity {
        builder.identity(identity);
    }
    let built = builder.build();
    built.map_err(|error| Problem::new(settings.directives.certificate, error.to_string()))
}

/// The versions a client of this library is to speak.
pub(super) fn client_versions(settings: &ClientSettings) -> Result<Vec<Version>, Problem> {
    let supported = [
        Version::Tls10,
        Version::Tls11,
        Version::Tls12,
        Version::Tls13,
    ];
    let default = [Version::Tls12, Version::Tls13];
    versions(
        settings.directives.protocols,
        &settings.proxy_ssl_protocols,
        &supported,
        &default,
    )
}

fn versions(
    directive: &'static str,
    names: &[String],
    supported: &[Version],
    default: &[Version],
) -> Result<Vec<Version>, Problem> {
    let mut versions = ciphers::versions(directive, names, Library::Native, supported)?;
    if versions.is_empty() {
        versions = default.to_vec();
    }
    let (least, most) = (versions[0], versions[versions.len() - 1]);
    if supported
        .iter()
        .filter(|v| (least..=most).contains(v))
        .count()
        != versions.len()
    {
        let text = "with `tls_library = native` versions must follow one another without a gap";
        return Err(Problem::new(directive, text));
    }
    if least < Version::Tls12 && !speaks_old_versions() {
        let text = "the system's OpenSSL refuses TLSv1 and TLSv1.1: start Postern with OPENSSL_CONF \
                    naming a file that sets `MinProtocol = TLSv1` and \
                    `CipherString = DEFAULT:@SECLEVEL=0`";
        return Err(Problem::new(directive, text));
    }
    Ok(versions)
}

/// OpenSSL 3 does TLS 1.0 and 1.1 at security level 0 only.
fn speaks_old_versions() -> bool {
    const OPENSSL_3: i64 = 0x3000_0000;
    if openssl::version::number() < OPENSSL_3 {
        return true;
    }
    let context = SslContext::builder(SslMethod::tls());
    context.is_ok_and(|context| context.build().security_level() == 0)
}

/// The lowest and the highest of sorted versions.
fn range(versions: &[Version]) -> (Option<Protocol>, Option<Protocol>) {
    let protocol = |version: &Version| match version {
        Version::Tls10 => Protocol::Tlsv10,
        Version::Tls11 => Protocol::Tlsv11,
        Version::Tls12 => Protocol::Tlsv12,
        Version::Tls13 => Protocol::Tlsv13,
    };
    (
        versions.first().map(protocol),
        versions.last().map(protocol),
    )
}
