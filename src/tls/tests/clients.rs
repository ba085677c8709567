//! Client certificates: what OpenSSL says of them, and who is let in under which rule.

use super::pki::{HOUR, Recipe, revocation_list};
use super::*;

const NAME: &str = "mail.example.com";
const MODES: [VerifyClient; 4] = [
    VerifyClient::Off,
    VerifyClient::On,
    VerifyClient::Optional,
    VerifyClient::OptionalNoCa,
];

/// A server, its clients' issuer, and a place for files.
struct Scene {
    folder: Folder,
    server: Made,
    root: Made,
}

impl Scene {
    fn new() -> Scene {
        Scene {
            folder: Folder::new(),
            server: Recipe::named(NAME).self_signed(),
            root: Recipe::authority("clients").self_signed(),
        }
    }

    fn settings(&self, mode: VerifyClient) -> ServerSettings {
        ServerSettings {
            ssl_verify_client: mode,
            ssl_client_certificate: Some(self.folder.certificate(&self.root)),
            ..server_settings(&self.folder, Library::Rustls, &[&self.server])
        }
    }

    /// The facts a server with `settings` has about a client of `library` that shows `own`.
    fn facts(&self, settings: &ServerSettings, library: Library, own: Option<&Made>) -> Facts {
        let mut client = client_settings(&self.folder, library, &self.server);
        if let Some(own) = own {
            let (certificate, key) = self.folder.pair(own);
            client.proxy_ssl_certificate = Some(certificate);
            client.proxy_ssl_certificate_key = Some(key);
        }
        let mut link = Link::of(&connector(&client), NAME, &acceptor(settings)).open();
        assert_eq!(link.answer(b"* BYE SSL certificate error\r\n").len(), 29);
        link.server.facts()
    }
}

fn code(facts: &Facts) -> i32 {
    match facts.verdict {
        Verdict::Failed { code, .. } => code,
        _ => 0,
    }
}

#[test]
fn each_rule_lets_in_what_nginx_lets_in() {
    let scene = Scene::new();
    let good = Recipe::named("joe").issued_by(&scene.root);
    let stranger = Recipe::named("joe").self_signed();
    for library in LIBRARIES {
        for mode in MODES {
            let settings = scene.settings(mode);
            let facts = scene.facts(&settings, library, Some(&good));
            assert_eq!(certificate_refusal(&facts, mode), None);
            if mode == VerifyClient::Off {
                assert_eq!((facts.verdict, facts.peer), (Verdict::NotAsked, None));
                continue;
            }
            assert_eq!(facts.verdict.to_string(), "SUCCESS");
            let peer = facts.peer.expect("certificate");
            assert!(peer.subject.starts_with("CN=joe,O="));

            let facts = scene.facts(&settings, library, Some(&stranger));
            assert_eq!(facts.verdict.to_string(), "FAILED:self-signed certificate");
            assert!(facts.peer.is_some());
            let refused = certificate_refusal(&facts, mode).map(|refused| refused.to_string());
            let expected = (mode != VerifyClient::OptionalNoCa).then(|| {
                "client SSL certificate verify error: (18:self-signed certificate)".to_owned()
            });
            assert_eq!(refused, expected);

            let facts = scene.facts(&settings, library, None);
            assert_eq!(facts.verdict.to_string(), "NONE");
            let missing = (mode == VerifyClient::On).then_some(CertificateRefusal::Missing);
            assert_eq!(certificate_refusal(&facts, mode), missing);
        }
    }
}

#[test]
fn verdicts_are_openssls() {
    let scene = Scene::new();
    let settings = scene.settings(VerifyClient::On);
    let other = Recipe::authority("others").self_signed();
    let expired = Recipe {
        until: -HOUR,
        ..Recipe::named("joe")
    };
    let early = Recipe {
        from: HOUR / 2,
        ..Recipe::named("joe")
    };
    let cases = [
        (
            expired.issued_by(&scene.root),
            10,
            "certificate has expired",
        ),
        (
            early.issued_by(&scene.root),
            9,
            "certificate is not yet valid",
        ),
        (
            Recipe::named("joe").issued_by(&other),
            21,
            "unable to verify the first certificate",
        ),
        (
            Recipe::authority("joe").self_signed(),
            18,
            "self-signed certificate",
        ),
        (expired.self_signed(), 10, "certificate has expired"),
    ];
    for (own, number, text) in cases {
        let server = acceptor(&settings).engine().expect("server");
        let facts = Link::new(showing(&own, &own.key), server)
            .open()
            .server
            .facts();
        assert_eq!(
            (code(&facts), facts.verdict.to_string()),
            (number, format!("FAILED:{text}"))
        );
        let mode = VerifyClient::OptionalNoCa;
        assert_eq!(
            certificate_refusal(&facts, mode).is_none(),
            [18, 21].contains(&number)
        );
    }
}

#[test]
fn certificates_are_taken_as_openssl_takes_them() {
    let scene = Scene::new();
    let settings = scene.settings(VerifyClient::On);
    let plain = Recipe::named("joe");
    let version_1 = Recipe {
        version_1: true,
        ..plain
    };
    let rsa = Recipe {
        rsa: true,
        ..version_1
    };
    let authority = Recipe::authority("joe");
    for own in [plain, version_1, rsa, authority] {
        for library in LIBRARIES {
            let facts = scene.facts(&settings, library, Some(&own.issued_by(&scene.root)));
            assert_eq!(facts.verdict, Verdict::Success);
        }
    }
    // As its own anchor, and as the server's certificate.
    for recipe in [plain, version_1, rsa, authority] {
        let scene = Scene {
            server: Recipe {
                common_name: NAME,
                ..recipe
            }
            .self_signed(),
            root: recipe.self_signed(),
            ..Scene::new()
        };
        let facts = scene.facts(
            &scene.settings(VerifyClient::On),
            Library::Rustls,
            Some(&scene.root),
        );
        assert_eq!(facts.verdict, Verdict::Success);
        if recipe.version_1 {
            let issued = Recipe::named("jim").issued_by(&scene.root);
            let settings = scene.settings(VerifyClient::On);
            let facts = scene.facts(&settings, Library::Rustls, Some(&issued));
            assert_eq!(facts.verdict, Verdict::Success);
        }
    }
}

#[test]
fn a_certificate_that_is_itself_trusted_needs_no_issuer() {
    let scene = Scene::new();
    let own = Recipe::named("joe").issued_by(&scene.root);
    let sibling = Recipe::named("jim").issued_by(&scene.root);
    for trusted_only in [false, true] {
        let mut settings = scene.settings(VerifyClient::On);
        settings.ssl_client_certificate = Some(scene.folder.certificate(&own));
        if trusted_only {
            settings.ssl_trusted_certificate = settings.ssl_client_certificate.take();
        }
        let facts = scene.facts(&settings, Library::Rustls, Some(&own));
        assert_eq!(facts.verdict, Verdict::Success);
        let facts = scene.facts(&settings, Library::Rustls, Some(&sibling));
        assert_eq!(code(&facts), 21);
    }
}

#[test]
fn revocation_lists_count() {
    let scene = Scene::new();
    let mut settings = scene.settings(VerifyClient::On);
    settings.ssl_crl = Some(scene.folder.file(&revocation_list(&scene.root, &[7])));
    let revoked = Recipe {
        serial: 7,
        ..Recipe::named("joe")
    };
    let facts = scene.facts(
        &settings,
        Library::Rustls,
        Some(&revoked.issued_by(&scene.root)),
    );
    assert_eq!(facts.verdict.to_string(), "FAILED:certificate revoked");
    assert_eq!(code(&facts), 23);
    let good = Recipe::named("jim").issued_by(&scene.root);
    let facts = scene.facts(&settings, Library::Rustls, Some(&good));
    assert_eq!(facts.verdict, Verdict::Success);
    let other = Recipe::authority("others").self_signed();
    settings.ssl_crl = Some(scene.folder.file(&revocation_list(&other, &[])));
    let facts = scene.facts(&settings, Library::Rustls, Some(&good));
    assert_eq!(
        facts.verdict.to_string(),
        "FAILED:unable to get certificate CRL"
    );
    settings.ssl_crl = Some(scene.folder.file(b"nothing"));
    let problems = Acceptor::new(settings.clone(), "imap", "imap", &SessionCaches::default())
        .expect_err("no list");
    assert_eq!(problems[0].directive, "ssl_crl");
    settings.ssl_crl = Some(scene.folder.path().join("missing"));
    let problems =
        Acceptor::new(settings, "imap", "imap", &SessionCaches::default()).expect_err("no file");
    assert!(problems[0].text.contains("missing"), "{}", problems[0]);
}

#[test]
fn chains_may_be_as_long_as_ssl_verify_depth_says() {
    let scene = Scene::new();
    let first = Recipe::authority("first").issued_by(&scene.root);
    let second = Recipe::authority("second").issued_by(&first);
    let own = Recipe::named("joe").issued_by(&second);
    let mut chain = own.certificate.to_pem().expect("PEM");
    chain.extend(second.certificate.to_pem().expect("PEM"));
    chain.extend(first.certificate.to_pem().expect("PEM"));
    let mut client = client_settings(&scene.folder, Library::Rustls, &scene.server);
    client.proxy_ssl_certificate = Some(scene.folder.file(&chain));
    client.proxy_ssl_certificate_key = Some(scene.folder.key(&own));
    let connector = connector(&client);
    for (depth, expected) in [(None, 22), (Some(1), 22), (Some(2), 0)] {
        let mut settings = scene.settings(VerifyClient::On);
        settings.ssl_verify_depth = depth;
        let link = Link::of(&connector, NAME, &acceptor(&settings)).open();
        assert_eq!(code(&link.server.facts()), expected, "{depth:?}");
    }
}

#[test]
fn only_ssl_client_certificate_is_named_to_clients() {
    let scene = Scene::new();
    let unnamed = Recipe::authority("unnamed").self_signed();
    let mut settings = scene.settings(VerifyClient::Optional);
    settings.ssl_trusted_certificate = Some(scene.folder.certificate(&unnamed));
    settings.ssl_protocols = vec!["TLSv1.2".to_owned()];
    let own = Recipe::named("joe").issued_by(&unnamed);
    let facts = scene.facts(&settings, Library::Rustls, Some(&own));
    assert_eq!(facts.verdict, Verdict::Success);
    let mut server = acceptor(&settings).engine().expect("server");
    let mut client = peer::openssl_client(None, |_| {});
    assert_eq!(client.handshake(), Ok(false));
    carry(&mut client, &mut server, 4096).expect("hello");
    let mut flight = Vec::new();
    server.give(&mut flight, usize::MAX);
    let names = |made: &Made| {
        let subject = made.certificate.subject_name().to_der().expect("name");
        // The server's own self-signed certificate has names too, but neither of these.
        flight
            .windows(subject.len())
            .any(|window| window == subject)
    };
    assert!(names(&scene.root));
    assert!(!names(&unnamed));
}

#[test]
fn verification_without_anyone_to_trust_is_an_error() {
    let scene = Scene::new();
    for (mode, good) in [
        (VerifyClient::On, false),
        (VerifyClient::OptionalNoCa, true),
    ] {
        let mut settings = scene.settings(mode);
        settings.ssl_client_certificate = None;
        let made = Acceptor::new(settings.clone(), "imap", "imap", &SessionCaches::default());
        assert_eq!(made.is_ok(), good);
        if good {
            let own = Recipe::named("joe").self_signed();
            let facts = scene.facts(&settings, Library::Native, Some(&own));
            assert_eq!(
                (code(&facts), certificate_refusal(&facts, mode)),
                (18, None)
            );
        }
    }
}

#[test]
fn the_holders_signature_is_checked_under_every_rule() {
    let scene = Scene::new();
    let own = Recipe::named("joe").issued_by(&scene.root);
    let key = pki::ec_key();
    for version in ["TLSv1.2", "TLSv1.3"] {
        let mut settings = scene.settings(VerifyClient::OptionalNoCa);
        settings.ssl_protocols = vec![version.to_owned()];
        let mut link = Link::new(
            showing(&own, &key),
            acceptor(&settings).engine().expect("server"),
        );
        let (_, server) = link.shake();
        assert!(server.is_err(), "{version}");
    }
}

/// A rustls client that shows any certificate, and signs with any key.
fn showing(own: &Made, key: &openssl::pkey::PKey<openssl::pkey::Private>) -> Box<dyn Engine> {
    use ::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
    let der = PrivatePkcs8KeyDer::from(key.private_key_to_pkcs8().expect("key")).into();
    let key = ::rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).expect("key");
    let chain = vec![CertificateDer::from(own.certificate.to_der().expect("DER"))];
    let certified = std::sync::Arc::new(::rustls::sign::CertifiedKey::new(chain, key));
    let versions = [ciphers::Version::Tls12, ciphers::Version::Tls13];
    let demands = rustls_client::Demands {
        directives: &crate::tls::ClientDirectives::PROXY_SSL,
        trust: None,
        pins: Vec::new(),
    };
    let config = rustls_client::config(&versions, demands.into(), Some(certified));
    let name = NAME.try_into().expect("name");
    let client = ::rustls::ClientConnection::new(config.expect("config").into(), name);
    let role = rustls::Role::Client {
        name: NAME.to_owned(),
        verified: false,
        directives: &crate::tls::ClientDirectives::PROXY_SSL,
    };
    Box::new(rustls::RustlsEngine::new(
        client.expect("client").into(),
        role,
    ))
}

#[test]
fn broken_certificates_are_described_or_not_but_do_no_harm() {
    let root = Recipe::authority("root").self_signed();
    let own = Recipe {
        names: &["a.example", "192.0.2.1"],
        ..Recipe::named("joe")
    };
    let der = own.issued_by(&root).certificate.to_der().expect("DER");
    let rules = verify::Rules {
        purpose: openssl::x509::X509PurposeId::SSL_CLIENT,
        depth: Some(1),
        crl: None,
    };
    let trust = verify::Trust::new(&[root.certificate], &rules).expect("trust");
    for position in 0..der.len() {
        for value in [0, 0x80, 0xff, der[position] ^ 1] {
            let mut broken = der.clone();
            broken[position] = value;
            if let Ok(read) = openssl::x509::X509::from_der(&broken) {
                let _ = names::Names::of(&read).summary();
            }
            let broken = broken.into();
            let _ = verify::describe(&broken);
            if value != der[position] {
                assert_ne!(trust.judge(&[broken]), Verdict::Success);
            }
        }
    }
    assert_eq!(trust.judge(&[der.into()]), Verdict::Success);
    assert_eq!(trust.judge(&[]), Verdict::None);
    assert_ne!(trust.judge(&[b"junk".to_vec().into()]), Verdict::Success);
}
