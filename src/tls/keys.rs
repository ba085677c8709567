//! Certificates with their keys, from PEM files of every kind OpenSSL reads: PKCS#1, SEC1, PKCS#8,
//! encrypted PKCS#8, DEK-Info. Finds what does not fit, cannot be read or has expired.
//! Which pair a client gets is `rustls_server`.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use ::rustls::crypto::aws_lc_rs::sign::any_supported_type;
use ::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use ::rustls::sign::CertifiedKey;
use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::pkey::{PKey, Private};
use openssl::x509::X509;
use zeroize::Zeroizing;

use super::error::{Problem, openssl_reason};
use super::files;
use super::names::Names;

/// A certificate, its chain and its key.
pub(super) struct Pair {
    /// The certificate, then its issuers, as they are sent; never empty.
    pub(super) chain: Vec<X509>,
    /// The key that fits the first certificate.
    pub(super) key: PKey<Private>,
    /// The names the first certificate stands for.
    pub(super) names: Names,
    /// Which entry of the directive it came from.
    entry: usize,
    key_path: PathBuf,
}

/// The directives a set of pairs comes from.
pub(super) struct Directives {
    /// Of the certificates.
    pub(super) certificate: &'static str,
    /// Of the keys.
    pub(super) key: &'static str,
    /// Of the passphrases.
    pub(super) password: &'static str,
}

/// Reads and checks all pairs; collects every mistake. `warnings` gets what is merely odd.
pub(super) fn load(
    directives: &Directives,
    certificates: &[PathBuf],
    keys: &[PathBuf],
    password_file: Option<&Path>,
    warnings: &mut Vec<Problem>,
) -> Result<Vec<Pair>, Vec<Problem>> {
    let mut problems = Vec::new();
    if certificates.len() != keys.len() {
        let text = format!(
            "{} given for {} {}; they are paired in order",
            keys.len(),
            certificates.len(),
            directives.certificate
        );
        problems.push(Problem::new(directives.key, text));
        // What is wrong with the files themselves is not to come up only afterwards.
        let unreadable = |(entry, path): (usize, &PathBuf)| {
            files::read_certificates(directives.certificate, entry, path).err()
        };
        problems.extend(certificates.iter().enumerate().filter_map(unreadable));
        let unreadable =
            |(entry, path): (usize, &PathBuf)| files::read(directives.key, entry, path).err();
        problems.extend(keys.iter().enumerate().filter_map(unreadable));
        return Err(problems);
    }
    let passphrases = match password_file.map(|path| read_passphrases(directives.password, path)) {
        None => Vec::new(),
        Some(Ok(passphrases)) => passphrases,
        Some(Err(problem)) => return Err(vec![problem]),
    };
    let mut pairs = Vec::new();
    for (entry, (certificate, key)) in certificates.iter().zip(keys).enumerate() {
        match load_pair(directives, entry, certificate, key, &passphrases, warnings) {
            Ok(pair) => pairs.push(pair),
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() {
        Ok(pairs)
    } else {
        Err(problems)
    }
}

fn load_pair(
    directives: &Directives,
    entry: usize,
    certificate_path: &Path,
    key_path: &Path,
    passphrases: &[Zeroizing<Vec<u8>>],
    warnings: &mut Vec<Problem>,
) -> Result<Pair, Vec<Problem>> {
    let chain = files::read_certificates(directives.certificate, entry, certificate_path);
    let key = load_key(directives, entry, key_path, passphrases);
    let (chain, key) = match (chain, key) {
        (Ok(chain), Ok(key)) => (chain, key),
        (chain, key) => return Err(chain.err().into_iter().chain(key.err()).collect()),
    };
    let own = &chain[0];
    let fits = own.public_key().is_ok_and(|public| public.public_eq(&key));
    if !fits {
        let text = format!(
            "the key in \"{}\" does not fit the certificate in \"{}\"",
            key_path.display(),
            certificate_path.display()
        );
        return Err(vec![Problem::at(directives.key, entry, text)]);
    }
    if is_past(own.not_after()) {
        let text = format!(
            "the certificate in \"{}\" has expired on {}: renew it",
            certificate_path.display(),
            own.not_after()
        );
        return Err(vec![Problem::at(directives.certificate, entry, text)]);
    }
    if !is_past(own.not_before()) {
        let text = format!(
            "the certificate in \"{}\" is not valid before {}",
            certificate_path.display(),
            own.not_before()
        );
        warnings.push(Problem::at(directives.certificate, entry, text));
    }
    Ok(Pair {
        names: Names::of(own),
        chain,
        key,
        entry,
        key_path: key_path.to_owned(),
    })
}

impl Pair {
    /// The last second at which the certificate is valid, counted from 1970; 0 for a time that OpenSSL
    /// cannot tell.
    pub(super) fn not_after(&self) -> i64 {
        let epoch = Asn1Time::from_unix(0);
        let since = epoch.and_then(|epoch| epoch.diff(self.chain[0].not_after()));
        since.map_or(0, |since| {
            i64::from(since.days) * 86_400 + i64::from(since.secs)
        })
    }
}

/// Whether a time has come.
pub(super) fn is_past(time: &Asn1TimeRef) -> bool {
    Asn1Time::days_from_now(0).is_ok_and(|now| *time <= *now)
}

fn load_key(
    directives: &Directives,
    entry: usize,
    path: &Path,
    passphrases: &[Zeroizing<Vec<u8>>],
) -> Result<PKey<Private>, Problem> {
    let pem = files::read(directives.key, entry, path)?;
    let problem = |text: String| Problem::at(directives.key, entry, text);
    let encrypted = Cell::new(false);
    let first = decode(&pem, &[], &encrypted);
    if let Ok(key) = first {
        return Ok(key);
    }
    if !encrypted.get() {
        let reason = first.err().map(|stack| openssl_reason(&stack));
        return Err(problem(format!(
            "no usable PEM private key in \"{}\": {}",
            path.display(),
            reason.unwrap_or_default()
        )));
    }
    if passphrases.is_empty() {
        return Err(problem(format!(
            "the key in \"{}\" is encrypted: name a file with its passphrase in {}",
            path.display(),
            directives.password
        )));
    }
    // One wrong passphrase in 256 decrypts to something that looks like a format that OpenSSL does not know;
    // with a cipher that it does not have, all of them do.
    let mut outdated = true;
    for passphrase in passphrases {
        match decode(&pem, passphrase, &encrypted) {
            Ok(key) => return Ok(key),
            Err(stack) => outdated &= stack.errors().iter().any(is_unsupported),
        }
    }
    let file = path.display();
    Err(problem(if outdated {
        format!(
            "the key in \"{file}\" is encrypted with a cipher that the system's OpenSSL no longer \
             has: encrypt it anew (openssl pkcs8 -topk8)"
        )
    } else {
        let directive = directives.password;
        format!("no passphrase of {directive} opens the key in \"{file}\"")
    }))
}

fn is_unsupported(error: &openssl::error::Error) -> bool {
    error.reason() == Some("unsupported")
}

/// Always through a callback: without one OpenSSL would ask on the terminal.
fn decode(
    pem: &[u8],
    passphrase: &[u8],
    encrypted: &Cell<bool>,
) -> Result<PKey<Private>, openssl::error::ErrorStack> {
    PKey::private_key_from_pem_callback(pem, |buffer| {
        encrypted.set(true);
        match buffer.get_mut(..passphrase.len()) {
            Some(place) => {
                place.copy_from_slice(passphrase);
                Ok(passphrase.len())
            }
            None => Ok(0),
        }
    })
}

fn read_passphrases(
    directive: &'static str,
    path: &Path,
) -> Result<Vec<Zeroizing<Vec<u8>>>, Problem> {
    let text = files::read(directive, 0, path)?;
    let lines = text.split(|byte| *byte == b'\n');
    Ok(lines
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.is_empty())
        .map(|line| Zeroizing::new(line.to_vec()))
        .collect())
}

impl Pair {
    /// The pair as rustls signs with it.
    pub(super) fn certified(&self, directives: &Directives) -> Result<CertifiedKey, Problem> {
        let problem = |text: String| Problem::at(directives.key, self.entry, text);
        let unusable = |reason: String| {
            problem(format!(
                "the key in \"{}\" cannot be used: {reason}",
                self.key_path.display()
            ))
        };
        let der = self.key.private_key_to_pkcs8();
        let der = der.map_err(|stack| unusable(openssl_reason(&stack)))?;
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(der));
        let key = any_supported_type(&der).map_err(|_| {
            unusable(
                "rustls takes RSA of 2048 to 8192 bits, ECDSA on P-256, P-384 and P-521, and Ed25519"
                    .to_owned(),
            )
        })?;
        let chain = self
            .chain_der()
            .map_err(|stack| unusable(openssl_reason(&stack)))?;
        Ok(CertifiedKey::new(chain, key))
    }

    fn chain_der(&self) -> Result<Vec<CertificateDer<'static>>, openssl::error::ErrorStack> {
        let each = self.chain.iter();
        each.map(|certificate| Ok(CertificateDer::from(certificate.to_der()?)))
            .collect()
    }

    /// The pair as the operating system's library takes it.
    pub(super) fn identity(&self) -> Result<native_tls::Identity, String> {
        let mut chain = Vec::new();
        for certificate in &self.chain {
            let pem = certificate.to_pem().map_err(|e| openssl_reason(&e))?;
            chain.extend_from_slice(&pem);
        }
        let key = self.key.private_key_to_pem_pkcs8().map(Zeroizing::new);
        let key = key.map_err(|stack| openssl_reason(&stack))?;
        native_tls::Identity::from_pkcs8(&chain, &key).map_err(|error| error.to_string())
    }
}
