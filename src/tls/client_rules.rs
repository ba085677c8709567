//! The rules for client certificates, put together from `ssl_verify_client` and the files of
//! trusted issuers and revocation lists. Judging a certificate is `verify`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use openssl::sha::Sha256;
use openssl::x509::{X509, X509PurposeId};
use zeroize::Zeroizing;

use super::error::{Problem, openssl_reason};
use super::files;
use super::settings::{DEFAULT_VERIFY_DEPTH, ServerSettings, VerifyClient};
use super::tickets::Scope;
use super::verify::{Rules, Trust};

/// How client certificates are asked for and judged.
pub(super) struct ClientRules {
    /// Judges them; `None` asks for none.
    pub(super) trust: Option<Arc<Trust>>,
    /// Encoded names of acceptable issuers, for clients to choose by.
    pub(super) issuers: Option<Vec<Vec<u8>>>,
    /// What else a session must have been made under to be resumed.
    pub(super) scope: Scope,
}

impl ClientRules {
    /// Reads the files and checks them.
    pub(super) fn read(
        settings: &ServerSettings,
        warnings: &mut Vec<Problem>,
    ) -> Result<ClientRules, Problem> {
        if settings.ssl_verify_client == VerifyClient::Off {
            return Ok(ClientRules {
                trust: None,
                issuers: None,
                scope: Scope::default(),
            });
        }
        let named = read_anchors("ssl_client_certificate", &settings.ssl_client_certificate)?;
        let unnamed = read_anchors("ssl_trusted_certificate", &settings.ssl_trusted_certificate)?;
        let anchors = [named.as_slice(), unnamed.as_slice()].concat();
        if anchors.is_empty() && settings.ssl_verify_client != VerifyClient::OptionalNoCa {
            let text =
                "needs ssl_client_certificate or ssl_trusted_certificate, the issuers to trust";
            return Err(Problem::new("ssl_verify_client", text));
        }
        let crl = settings.ssl_crl.as_deref();
        if let Some(path) = crl {
            check_crl_path(path)?;
        }
        let depth = settings.ssl_verify_depth.unwrap_or(DEFAULT_VERIFY_DEPTH);
        let rules = Rules {
            purpose: X509PurposeId::SSL_CLIENT,
            depth: Some(depth),
            crl,
        };
        let trust = Trust::new(&anchors, &rules).map_err(|stack| match crl {
            Some(path) => Problem::new(
                "ssl_crl",
                format!(
                    "cannot use \"{}\": {}",
                    path.display(),
                    openssl_reason(&stack)
                ),
            ),
            None => Problem::new("ssl_client_certificate", openssl_reason(&stack)),
        })?;
        Ok(ClientRules {
            trust: Some(Arc::new(trust)),
            issuers: Some(issuer_names(&named, warnings)),
            scope: scope(settings, depth)?,
        })
    }
}

fn read_anchors(directive: &'static str, path: &Option<PathBuf>) -> Result<Vec<X509>, Problem> {
    match path {
        Some(path) => files::read_certificates(directive, 0, path),
        None => Ok(Vec::new()),
    }
}

/// Encoded subjects of the trusted issuers, none if they are too many.
fn issuer_names(anchors: &[X509], warnings: &mut Vec<Problem>) -> Vec<Vec<u8>> {
    /// The list of names has a length of two bytes in TLS, and stands in one message with others.
    const LONGEST_NAMES: usize = 60_000;
    let names: Vec<Vec<u8>> = anchors
        .iter()
        .filter_map(|anchor| anchor.subject_name().to_der().ok())
        .collect();
    if names.iter().map(|name| name.len() + 2).sum::<usize>() <= LONGEST_NAMES {
        return names;
    }
    let text = "has more issuers than can be named to clients; none is";
    warnings.push(Problem::new("ssl_client_certificate", text));
    Vec::new()
}

/// OpenSSL opens this file itself, by a name that must be text.
fn check_crl_path(path: &Path) -> Result<(), Problem> {
    files::read("ssl_crl", 0, path)?;
    match path.to_str() {
        Some(_) => Ok(()),
        None => Err(Problem::new(
            "ssl_crl",
            format!("the name \"{}\" is not UTF-8", path.display()),
        )),
    }
}

/// A digest of everything that decides which client certificates are good.
fn scope(settings: &ServerSettings, depth: u32) -> Result<Scope, Problem> {
    let mut digest = Sha256::new();
    digest.update(&[settings.ssl_verify_client as u8]);
    digest.update(&depth.to_be_bytes());
    let parts = [
        ("ssl_client_certificate", &settings.ssl_client_certificate),
        ("ssl_trusted_certificate", &settings.ssl_trusted_certificate),
        ("ssl_crl", &settings.ssl_crl),
    ];
    for (directive, path) in parts {
        let content = match path {
            Some(path) => files::read(directive, 0, path)?,
            None => Zeroizing::new(Vec::new()),
        };
        digest.update(&content.len().to_be_bytes());
        digest.update(&content);
    }
    Ok(digest.finish())
}
