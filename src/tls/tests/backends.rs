//! Judging backends, with both libraries: names, issuers, times, fingerprints, our certificate.

use openssl::hash::MessageDigest;

use super::pki::{HOUR, Recipe};
use super::*;

const NAME: &str = "imap.example.com";

struct Scene {
    folder: Folder,
    root: Made,
}

impl Scene {
    fn new() -> Scene {
        Scene {
            folder: Folder::new(),
            root: Recipe::authority("root").self_signed(),
        }
    }

    /// What a client of `library` makes of a backend that shows `own`.
    fn outcome(
        &self,
        library: Library,
        own: &Made,
        name: &str,
        change: impl FnOnce(&mut ClientSettings),
    ) -> Result<bool, TlsError> {
        let mut settings = client_settings(&self.folder, library, &self.root);
        change(&mut settings);
        let connector = connector(&settings);
        // The server is not checked for expiry here, because its certificate may be anything.
        let mut link = Link::new(connector.engine(name).expect("client"), raw_server(own));
        link.shake().0
    }
}

/// A rustls server without any check of its own certificate.
fn raw_server(own: &Made) -> Box<dyn Engine> {
    use ::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
    use ::rustls::sign::{CertifiedKey, SingleCertAndKey};
    let der = PrivatePkcs8KeyDer::from(own.key.private_key_to_pkcs8().expect("key")).into();
    let key = ::rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).expect("key");
    let chain = vec![CertificateDer::from(own.certificate.to_der().expect("DER"))];
    let provider = ::rustls::crypto::aws_lc_rs::default_provider();
    let config = ::rustls::ServerConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(std::sync::Arc::new(SingleCertAndKey::from(
            CertifiedKey::new(chain, key),
        )));
    let server = ::rustls::ServerConnection::new(config.into()).expect("server");
    Box::new(rustls::RustlsEngine::new(
        server.into(),
        rustls::Role::Server(None),
    ))
}

#[test]
fn the_reason_of_a_refusal_is_told_with_its_remedy() {
    let scene = Scene::new();
    let good = Recipe::named(NAME).issued_by(&scene.root);
    let other = Recipe::named("other.example.com").issued_by(&scene.root);
    let stranger = Recipe::named(NAME).issued_by(&Recipe::authority("x").self_signed());
    let own = Recipe::named(NAME).self_signed();
    let expired = Recipe {
        until: -HOUR,
        ..Recipe::named(NAME)
    };
    let expired = expired.issued_by(&scene.root);
    let cases = [
        (&other, TlsErrorKind::WrongName, "proxy_ssl_name"),
        (
            &stranger,
            TlsErrorKind::Untrusted,
            "proxy_ssl_trusted_certificate",
        ),
        (&own, TlsErrorKind::Untrusted, "self-signed certificate"),
        (&expired, TlsErrorKind::Expired, "certificate has expired"),
    ];
    for library in LIBRARIES {
        assert_eq!(scene.outcome(library, &good, NAME, |_| {}), Ok(true));
        assert_eq!(
            scene.outcome(library, &good, "imap.example.com.", |_| {}),
            Ok(true)
        );
        for (shown, kind, word) in &cases {
            let error = scene
                .outcome(library, shown, NAME, |_| {})
                .expect_err("refused");
            assert_eq!(error.kind(), *kind, "{library:?}: {error}");
            assert!(error.to_string().contains(word), "{library:?}: {error}");
            assert!(error.to_string().contains(NAME), "{library:?}: {error}");
            let lenient = |settings: &mut ClientSettings| settings.proxy_ssl_verify = false;
            assert_eq!(scene.outcome(library, shown, NAME, lenient), Ok(true));
        }
    }
}

#[test]
fn proxy_ssl_name_is_the_name_that_counts() {
    let scene = Scene::new();
    let own = Recipe {
        names: &["mx.example.com", "*.pop.example.com", "192.0.2.7"],
        ..Recipe::named(NAME)
    };
    let own = own.issued_by(&scene.root);
    for library in LIBRARIES {
        let named = |name: &str| {
            scene.outcome(library, &own, "10.0.0.1", |settings| {
                settings.proxy_ssl_name = Some(name.to_owned());
            })
        };
        assert_eq!(named("mx.example.com"), Ok(true));
        assert_eq!(named("a.pop.example.com"), Ok(true));
        assert_eq!(named("192.0.2.7"), Ok(true));
        for wrong in [NAME, "pop.example.com", "192.0.2.8"] {
            let error = named(wrong).expect_err("wrong name");
            assert_eq!(
                error.kind(),
                TlsErrorKind::WrongName,
                "{library:?} {wrong}: {error}"
            );
        }
    }
}

#[test]
fn fingerprints_count_beside_issuers_or_instead_of_them() {
    let scene = Scene::new();
    let trusted = Recipe::named(NAME).issued_by(&scene.root);
    let unknown = Recipe::named(NAME).self_signed();
    let pin = |made: &Made| {
        let digest = made
            .certificate
            .digest(MessageDigest::sha256())
            .expect("digest");
        verify::hex(&digest)
    };
    for library in LIBRARIES {
        let outcome = |shown: &Made, verify: bool, pins: &[String]| {
            scene.outcome(library, shown, NAME, |settings| {
                settings.proxy_ssl_verify = verify;
                settings.proxy_ssl_fingerprint = pins.to_vec();
            })
        };
        let right = [pin(&trusted), pin(&unknown).to_uppercase()];
        assert_eq!(outcome(&trusted, true, &right), Ok(true));
        assert_eq!(outcome(&unknown, false, &right), Ok(true));
        let error = outcome(&unknown, true, &right).expect_err("issuer");
        assert_eq!(error.kind(), TlsErrorKind::Untrusted);
        for verify in [true, false] {
            let error = outcome(&trusted, verify, &right[1..]).expect_err("fingerprint");
            assert_eq!(error.kind(), TlsErrorKind::Pin);
            assert!(error.to_string().contains(&pin(&trusted)), "{error}");
        }
    }
}

#[test]
fn fingerprints_are_taken_as_openssl_prints_them() {
    let folder = Folder::new();
    let root = Recipe::authority("root").self_signed();
    let digits = "AB".repeat(32);
    let colons = vec!["ab"; 32].join(":");
    let good = [
        digits.clone(),
        colons.clone(),
        format!("SHA256 Fingerprint={colons}"),
        format!("sha256:{digits}"),
    ];
    let mut settings = client_settings(&folder, Library::Rustls, &root);
    settings.proxy_ssl_fingerprint = good.to_vec();
    assert!(Connector::new(settings.clone()).is_ok());
    for bad in [
        "",
        "ab",
        &digits[1..],
        &"xy".repeat(32),
        &format!("sha1={digits}"),
    ] {
        settings.proxy_ssl_fingerprint = vec![digits.clone(), bad.to_owned()];
        let problems = Connector::new(settings.clone()).expect_err(bad);
        assert_eq!(
            (problems[0].directive, problems[0].entry),
            ("proxy_ssl_fingerprint", 1)
        );
    }
}

#[test]
fn old_and_self_made_certificates_can_be_trusted() {
    let scene = Scene::new();
    let version_1 = Recipe {
        version_1: true,
        ..Recipe::named(NAME)
    };
    for recipe in [version_1, Recipe::named(NAME), Recipe::authority(NAME)] {
        let own = recipe.self_signed();
        for library in LIBRARIES {
            let outcome = scene.outcome(library, &own, NAME, |settings| {
                settings.proxy_ssl_trusted_certificate = Some(scene.folder.certificate(&own));
            });
            assert_eq!(outcome, Ok(true));
        }
    }
}

#[test]
fn the_systems_store_is_the_default() {
    let scene = Scene::new();
    let own = Recipe::named(NAME).self_signed();
    for library in LIBRARIES {
        let settings = ClientSettings {
            tls_library: library,
            ..ClientSettings::default()
        };
        // Machines without any store are told so.
        match Connector::new(settings) {
            Err(problems) => assert_eq!(problems[0].directive, "proxy_ssl_trusted_certificate"),
            Ok((connector, _)) => {
                let client = connector.engine(NAME).expect("client");
                let error = Link::new(client, raw_server(&own)).shake().0;
                assert_eq!(error.expect_err("unknown").kind(), TlsErrorKind::Untrusted);
            }
        }
    }
    drop(scene);
}

#[test]
fn a_certificate_without_its_key_is_an_error() {
    let scene = Scene::new();
    let mut settings = client_settings(&scene.folder, Library::Rustls, &scene.root);
    settings.proxy_ssl_certificate = Some(scene.folder.certificate(&scene.root));
    let problems = Connector::new(settings).expect_err("no key");
    assert_eq!(problems[0].directive, "proxy_ssl_certificate_key");
}

#[test]
fn what_is_not_a_name_is_not_connected_to() {
    let scene = Scene::new();
    for library in LIBRARIES {
        let mut settings = client_settings(&scene.folder, library, &scene.root);
        let connector = connector(&settings);
        for name in ["", "a b", "a\0b", "-", "[::1]", "a..b"] {
            let error = connector.engine(name).err().expect(name);
            assert_eq!(error.kind(), TlsErrorKind::WrongName);
        }
        for name in ["localhost", "mail_1.example", "::1", "127.0.0.1", "a.b."] {
            assert!(connector.engine(name).is_ok(), "{name}");
        }
        settings.proxy_ssl_name = Some("a b".to_owned());
        let problems = Connector::new(settings).expect_err("not a name");
        assert_eq!(problems[0].directive, "proxy_ssl_name");
    }
}
