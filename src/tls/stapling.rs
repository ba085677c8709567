//! OCSP responses that are sent to clients along with a certificate (`ssl_stapling_file`, RFC 6066,
//! section 8): files that somebody else fetches and renews. Nobody is asked from here, and signatures
//! are for clients to check.

use std::path::PathBuf;

use openssl::hash::MessageDigest;
use openssl::ocsp::{
    OcspBasicResponse, OcspCertId, OcspCertStatus, OcspResponse, OcspResponseStatus, OcspStatus,
};
use openssl::x509::{X509, X509VerifyResult};

use super::error::{Problem, openssl_reason};
use super::files;
use super::keys::Pair;

const DIRECTIVE: &str = "ssl_stapling_file";

/// Reads the files; the response for each of `pairs`, in their order. A response for none of them is a
/// warning and is not sent, so that it does not stand in the way of a renewed certificate.
pub(super) fn load(
    paths: &[PathBuf],
    pairs: &[Pair],
    warnings: &mut Vec<Problem>,
) -> Result<Vec<Option<Vec<u8>>>, Vec<Problem>> {
    let mut responses = vec![None; pairs.len()];
    let mut problems = Vec::new();
    for (entry, path) in paths.iter().enumerate() {
        let problem = |text: String| Problem::at(DIRECTIVE, entry, text);
        let about = |text: &str| problem(format!("the response in \"{}\" {text}", path.display()));
        let der = match files::read(DIRECTIVE, entry, path) {
            Ok(der) => der,
            Err(problem) => {
                problems.push(problem);
                continue;
            }
        };
        let response = match parse(&der) {
            Ok(response) => response,
            Err(reason) => {
                let file = path.display();
                problems.push(problem(format!(
                    "no OCSP response in DER in \"{file}\": {reason}"
                )));
                continue;
            }
        };
        let certificates = pairs.iter().map(|pair| fit(&response, &pair.chain));
        let fits: Vec<Fit<'_>> = certificates.collect();
        let known = fits.iter().position(|fit| matches!(fit, Fit::Yes(_)));
        let found = match fits.as_slice() {
            [Fit::Unknown] => Some(0),
            _ => known,
        };
        let Some(found) = found else {
            warnings.push(about(
                "is for none of the certificates whose issuer follows them in their file: it is not sent",
            ));
            continue;
        };
        if let Fit::Yes(status) = &fits[found] {
            warnings.extend(oddity(status).map(about));
        }
        responses[found] = Some(der.to_vec());
    }
    match problems.is_empty() {
        true => Ok(responses),
        false => Err(problems),
    }
}

fn parse(der: &[u8]) -> Result<OcspBasicResponse, String> {
    let response = OcspResponse::from_der(der).map_err(|stack| openssl_reason(&stack))?;
    if response.status() != OcspResponseStatus::SUCCESSFUL {
        return Err("the responder did not answer the question".to_owned());
    }
    response.basic().map_err(|stack| openssl_reason(&stack))
}

/// Whether a response is for a certificate.
enum Fit<'a> {
    Yes(OcspStatus<'a>),
    No,
    /// The issuer, whose key is part of the question, does not follow the certificate in its file.
    Unknown,
}

fn fit<'a>(response: &'a OcspBasicResponse, chain: &[X509]) -> Fit<'a> {
    let [own, issuer, ..] = chain else {
        return Fit::Unknown;
    };
    if issuer.issued(own) != X509VerifyResult::OK {
        return Fit::Unknown;
    }
    // RFC 5019 responders use SHA-1, newer ones SHA-256 too.
    let digests = [MessageDigest::sha1(), MessageDigest::sha256()];
    let ids = digests
        .into_iter()
        .map(|digest| OcspCertId::from_cert(digest, own, issuer));
    let found = ids.flatten().find_map(|id| response.find_status(&id));
    found.map_or(Fit::No, Fit::Yes)
}

/// What clients will not like about it.
fn oddity(status: &OcspStatus<'_>) -> Option<&'static str> {
    /// Clocks differ by that much.
    const SECONDS: u32 = 300;
    if status.status == OcspCertStatus::REVOKED {
        Some("says that the certificate has been revoked: clients will refuse it")
    } else if status.check_validity(SECONDS, None).is_err() {
        Some("is outdated, or not valid yet: clients may refuse the certificate")
    } else {
        None
    }
}
