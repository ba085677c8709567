//! A certificate for the demonstration, made at its start and gone with it. It vouches for loopback
//! alone, and only to those who are handed the file.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Name};

/// How long it is valid, in days: a demonstration is not left running.
const DAYS: u32 = 7;

/// A folder with the certificate and its key, removed when this is dropped.
#[derive(Debug)]
pub(super) struct Certificate {
    folder: PathBuf,
}

impl Certificate {
    /// Makes key and certificate.
    ///
    /// # Errors
    /// For people: the files cannot be written.
    pub(super) fn make() -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| {
            format!("cannot make a certificate for the demonstration: {error}")
        };
        let (certificate, key) = sign().map_err(|error| failed(&error))?;
        // Nobody else can have it already, nor guess it.
        let random = getrandom::u64().map_err(|error| failed(&error))?;
        let name = format!("postern-demo-{random:016x}");
        let folder = std::env::temp_dir().join(name);
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700);
        builder.create(&folder).map_err(|error| failed(&error))?;
        let made = Self { folder };
        write(&made.certificate(), &certificate).map_err(|error| failed(&error))?;
        write(&made.key(), &key).map_err(|error| failed(&error))?;
        Ok(made)
    }

    /// The file of the certificate, which is its own issuer.
    pub(super) fn certificate(&self) -> PathBuf {
        self.folder.join("certificate.pem")
    }

    /// The file of its key.
    pub(super) fn key(&self) -> PathBuf {
        self.folder.join("key.pem")
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn write(path: &Path, pem: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(pem)
}

/// Certificate and key as PEM.
fn sign() -> Result<(Vec<u8>, Vec<u8>), ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key: PKey<Private> = PKey::from_ec_key(EcKey::generate(&group)?)?;
    let mut name = X509Name::builder()?;
    name.append_entry_by_text("CN", "Postern demonstration")?;
    let name = name.build();
    let mut serial = BigNum::new()?;
    serial.rand(120, MsbOption::MAYBE_ZERO, false)?;

    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    builder.set_serial_number(&*serial.to_asn1_integer()?)?;
    builder.set_subject_name(&name)?;
    builder.set_issuer_name(&name)?;
    builder.set_pubkey(&key)?;
    builder.set_not_before(&*Asn1Time::days_from_now(0)?)?;
    builder.set_not_after(&*Asn1Time::days_from_now(DAYS)?)?;
    builder.append_extension(BasicConstraints::new().ca().build()?)?;
    let mut names = SubjectAlternativeName::new();
    let names = names.dns("localhost").ip("127.0.0.1");
    let names = names.build(&builder.x509v3_context(None, None))?;
    builder.append_extension(names)?;
    builder.sign(&key, MessageDigest::sha256())?;
    Ok((builder.build().to_pem()?, key.private_key_to_pem_pkcs8()?))
}
