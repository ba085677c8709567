//! Certificates and keys for tests, and a folder for their files.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

use openssl::asn1::{Asn1Integer, Asn1Object, Asn1OctetString, Asn1Time};
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509CrlBuilder, X509Extension, X509Name, X509RevokedBuilder};

/// A certificate with its key.
#[derive(Clone)]
pub(super) struct Made {
    pub(super) certificate: X509,
    pub(super) key: PKey<Private>,
}

/// What to make.
#[derive(Clone, Copy)]
pub(super) struct Recipe<'a> {
    pub(super) common_name: &'a str,
    pub(super) names: &'a [&'a str],
    pub(super) authority: bool,
    pub(super) version_1: bool,
    /// Seconds from now.
    pub(super) from: i64,
    pub(super) until: i64,
    pub(super) rsa: bool,
    pub(super) serial: u32,
}

pub(super) const HOUR: i64 = 3600;

impl<'a> Recipe<'a> {
    /// An EC certificate for one name.
    pub(super) fn named(name: &'a str) -> Recipe<'a> {
        Recipe {
            common_name: name,
            names: &[],
            authority: false,
            version_1: false,
            from: -2 * HOUR,
            until: HOUR,
            rsa: false,
            serial: 0xabc,
        }
    }

    pub(super) fn authority(name: &'a str) -> Recipe<'a> {
        Recipe {
            authority: true,
            ..Recipe::named(name)
        }
    }

    pub(super) fn self_signed(self) -> Made {
        self.make(None)
    }

    pub(super) fn issued_by(self, issuer: &Made) -> Made {
        self.make(Some(issuer))
    }

    fn make(self, issuer: Option<&Made>) -> Made {
        let key = if self.rsa { rsa_key() } else { ec_key() };
        let mut name = X509Name::builder().expect("name");
        name.append_entry_by_nid(Nid::ORGANIZATIONNAME, "Müller, Sons")
            .expect("entry");
        name.append_entry_by_nid(Nid::COMMONNAME, self.common_name)
            .expect("entry");
        let name = name.build();
        let mut builder = X509::builder().expect("builder");
        let serial = BigNum::from_u32(self.serial).and_then(|n| Asn1Integer::from_bn(&n));
        builder
            .set_serial_number(&serial.expect("serial"))
            .expect("set");
        builder
            .set_version(if self.version_1 { 0 } else { 2 })
            .expect("set");
        builder.set_subject_name(&name).expect("set");
        let issuer_name = issuer.map_or(&*name, |issuer| issuer.certificate.subject_name());
        builder.set_issuer_name(issuer_name).expect("set");
        builder.set_not_before(&at(self.from)).expect("set");
        builder.set_not_after(&at(self.until)).expect("set");
        builder.set_pubkey(&key).expect("set");
        if !self.version_1 {
            let mut basic = BasicConstraints::new();
            if self.authority {
                basic.critical().ca();
            }
            builder
                .append_extension(basic.build().expect("basic"))
                .expect("append");
            if !self.names.is_empty() {
                let mut names = SubjectAlternativeName::new();
                for name in self.names {
                    match name.parse::<std::net::IpAddr>() {
                        Ok(_) => names.ip(name),
                        Err(_) => names.dns(name),
                    };
                }
                let names = names
                    .build(&builder.x509v3_context(None, None))
                    .expect("names");
                builder.append_extension(names).expect("append");
            }
        }
        let signer = issuer.map_or(&key, |issuer| &issuer.key);
        builder
            .sign(signer, MessageDigest::sha256())
            .expect("signed");
        Made {
            certificate: builder.build(),
            key,
        }
    }
}

pub(super) fn ec_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).expect("curve");
    PKey::from_ec_key(EcKey::generate(&group).expect("key")).expect("key")
}

pub(super) fn rsa_key() -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(2048).expect("key")).expect("key")
}

fn at(seconds_from_now: i64) -> Asn1Time {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = i64::try_from(now.expect("after 1970").as_secs()).expect("fits");
    Asn1Time::from_unix(now + seconds_from_now).expect("time")
}

/// A list in which `issuer` revokes the certificates with these serial numbers.
pub(super) fn revocation_list(issuer: &Made, serials: &[u32]) -> Vec<u8> {
    let mut builder = X509CrlBuilder::new().expect("builder");
    builder
        .set_issuer_name(issuer.certificate.subject_name())
        .expect("set");
    builder.set_last_update(&at(-HOUR)).expect("set");
    builder.set_next_update(&at(HOUR)).expect("set");
    for serial in serials {
        let mut revoked = X509RevokedBuilder::new().expect("builder");
        let serial = BigNum::from_u32(*serial).and_then(|n| Asn1Integer::from_bn(&n));
        revoked
            .set_serial_number(&serial.expect("serial"))
            .expect("set");
        revoked.set_revocation_date(&at(-HOUR)).expect("set");
        builder.add_revoked(revoked.build()).expect("add");
    }
    // A key identifier that no issuer here has, so that none differs from it; the list's number.
    for (oid, der) in [
        ("2.5.29.35", &[0x30, 3, 0x80, 1, 1][..]),
        ("2.5.29.20", &[2, 1, 1]),
    ] {
        let oid = Asn1Object::from_str(oid).expect("OID");
        let value = Asn1OctetString::new_from_bytes(der).expect("value");
        let extension = X509Extension::new_from_der(&oid, false, &value).expect("extension");
        builder.append_extension(extension).expect("append");
    }
    builder
        .sign(&issuer.key, MessageDigest::sha256())
        .expect("signed");
    builder.build().expect("list").to_pem().expect("PEM")
}

/// A folder of its own for each test, gone at the end.
pub(super) struct Folder {
    path: PathBuf,
    next: AtomicU32,
}

impl Folder {
    pub(super) fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("postern-tls-{}-{number}", process::id()));
        fs::create_dir_all(&path).expect("folder");
        Folder {
            path,
            next: AtomicU32::new(0),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file under a fresh name.
    pub(super) fn file(&self, content: &[u8]) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("{number}.pem"));
        fs::write(&path, content).expect("written");
        path
    }

    pub(super) fn certificate(&self, made: &Made) -> PathBuf {
        self.file(&made.certificate.to_pem().expect("PEM"))
    }

    pub(super) fn key(&self, made: &Made) -> PathBuf {
        self.file(&made.key.private_key_to_pem_pkcs8().expect("PEM"))
    }

    pub(super) fn pair(&self, made: &Made) -> (PathBuf, PathBuf) {
        (self.certificate(made), self.key(made))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
