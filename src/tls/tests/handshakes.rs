//! Handshakes of all pairs of libraries, the choice of certificates, ALPN, and bad beginnings.

use super::peer::openssl_client;
use super::pki::Recipe;
use super::*;

const NAME: &str = "mail.example.com";

#[test]
fn every_pair_of_libraries_understands_each_other() {
    let folder = Folder::new();
    let root = Recipe::authority("root").self_signed();
    for rsa in [false, true] {
        let own = Recipe {
            rsa,
            ..Recipe::named(NAME)
        }
        .issued_by(&root);
        for server in LIBRARIES {
            for client in LIBRARIES {
                let acceptor = acceptor(&server_settings(&folder, server, &[&own]));
                let connector = connector(&client_settings(&folder, client, &root));
                let mut link = Link::of(&connector, NAME, &acceptor).open();
                let expected = match server {
                    Library::Rustls => "TLSv1.3",
                    Library::Native => "TLSv1.2",
                };
                for facts in [link.client.facts(), link.server.facts()] {
                    assert_eq!(facts.protocol, expected);
                    assert_eq!(facts.sni.as_deref(), Some(NAME));
                    assert!(!facts.resumed);
                }
                let ciphers = (link.client.facts().cipher, link.server.facts().cipher);
                assert_eq!(ciphers.0, ciphers.1);
                assert!(ciphers.0.starts_with(['E', 'T']), "{ciphers:?}");
                assert_eq!(link.say(b"a LOGIN x y\r\n"), b"a LOGIN x y\r\n");
                let long: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
                assert_eq!(link.say(&long), long);
                assert_eq!(link.answer(&long), long);
                let peer = link.client.facts().peer.expect("certificate");
                assert_eq!(peer.subject, "CN=mail.example.com,O=M\\C3\\BCller\\, Sons");
                assert_eq!(peer.issuer, "CN=root,O=M\\C3\\BCller\\, Sons");
                assert_eq!(peer.serial, "0ABC");
                assert_eq!(peer.fingerprint.len(), 40);
                assert!(peer.pem.ends_with("-----END CERTIFICATE-----\n"));
                assert_eq!(link.server.facts().verdict, Verdict::NotAsked);
            }
        }
    }
}

#[test]
fn tls_1_2_names_its_ciphers_as_openssl_does() {
    let folder = Folder::new();
    let own = Recipe {
        rsa: true,
        ..Recipe::named(NAME)
    }
    .self_signed();
    let mut settings = server_settings(&folder, Library::Rustls, &[&own]);
    settings.ssl_protocols = vec!["TLSv1.2".to_owned()];
    settings.ssl_ciphers = Some("ECDHE-RSA-CHACHA20-POLY1305".to_owned());
    let server = acceptor(&settings).engine().expect("server");
    let link = Link::new(openssl_client(None, |_| {}), server).open();
    let facts = link.server.facts();
    assert_eq!(facts.protocol, "TLSv1.2");
    assert_eq!(facts.cipher, "ECDHE-RSA-CHACHA20-POLY1305");
    assert_eq!(link.client.facts().cipher, facts.cipher);
    assert_eq!(facts.sni, None);
}

#[test]
fn the_order_of_ciphers_is_the_clients_unless_the_server_insists() {
    let folder = Folder::new();
    let own = Recipe {
        rsa: true,
        ..Recipe::named(NAME)
    }
    .self_signed();
    let mut settings = server_settings(&folder, Library::Rustls, &[&own]);
    settings.ssl_protocols = vec!["TLSv1.2".to_owned()];
    settings.ssl_ciphers =
        Some("ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384".to_owned());
    let cipher = |settings: &ServerSettings| {
        let client = openssl_client(None, |context| {
            let list = "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256";
            context.set_cipher_list(list).expect("list");
        });
        let link = Link::new(client, acceptor(settings).engine().expect("server")).open();
        link.server.facts().cipher
    };
    assert_eq!(cipher(&settings), "ECDHE-RSA-AES256-GCM-SHA384");
    settings.ssl_prefer_server_ciphers = Some(true);
    assert_eq!(cipher(&settings), "ECDHE-RSA-AES128-GCM-SHA256");
}

#[test]
fn the_certificate_is_chosen_by_sni_and_then_by_key_type() {
    let folder = Folder::new();
    let rsa = |name| {
        Recipe {
            rsa: true,
            ..Recipe::named(name)
        }
        .self_signed()
    };
    let ec = |name| Recipe::named(name).self_signed();
    let wild = Recipe {
        names: &["*.example.net"],
        ..Recipe::named("wild")
    }
    .self_signed();
    let pairs = [rsa("a.example"), ec("a.example"), rsa("b.example"), wild];
    let settings = server_settings(&folder, Library::Rustls, &pairs.iter().collect::<Vec<_>>());
    let acceptor = acceptor(&settings);
    let chosen = |name: Option<&str>, schemes: &str, version: &str| {
        let client = openssl_client(name, |context| {
            context.set_sigalgs_list(schemes).expect("schemes");
            if version == "1.2" {
                let version = Some(openssl::ssl::SslVersion::TLS1_2);
                context.set_max_proto_version(version).expect("version");
            }
        });
        let link = Link::new(client, acceptor.engine().expect("server")).open();
        let fingerprint = link.client.facts().peer.expect("certificate").fingerprint;
        let found = pairs.iter().position(|made| {
            let digest = made
                .certificate
                .digest(openssl::hash::MessageDigest::sha1());
            verify::hex(&digest.expect("digest")) == fingerprint
        });
        found.expect("one of ours")
    };
    let rsa_only = "rsa_pss_rsae_sha256:RSA+SHA256";
    for version in ["1.2", "1.3"] {
        assert_eq!(chosen(Some("a.example"), rsa_only, version), 0);
        assert_eq!(chosen(Some("A.Example"), "ECDSA+SHA256", version), 1);
        assert_eq!(
            chosen(
                Some("b.example"),
                "ECDSA+SHA256:rsa_pss_rsae_sha256",
                version
            ),
            2
        );
        assert_eq!(chosen(Some("x.example.net"), "ECDSA+SHA256", version), 3);
        assert_eq!(chosen(Some("b.example"), "ECDSA+SHA256", version), 1);
        assert_eq!(chosen(None, rsa_only, version), 0);
        assert_eq!(chosen(Some("unknown.example"), rsa_only, version), 0);
    }
}

#[test]
fn alpn_must_be_right_where_it_is_used() {
    let folder = Folder::new();
    let own = Recipe {
        rsa: true,
        ..Recipe::named(NAME)
    }
    .self_signed();
    for library in LIBRARIES {
        let acceptor = acceptor(&server_settings(&folder, library, &[&own]));
        for step in [4096, 1] {
            let link = |wire: &'static [u8]| {
                let client = openssl_client(Some(NAME), |context| {
                    if !wire.is_empty() {
                        context.set_alpn_protos(wire).expect("ALPN");
                    }
                });
                let mut link = Link::new(client, acceptor.engine().expect("server"));
                link.step = step;
                let results = link.shake();
                (link, results)
            };
            let (good, results) = link(b"\x02h2\x04imap");
            assert_eq!(results, (Ok(true), Ok(true)));
            assert_eq!(good.server.facts().alpn.as_deref(), Some("imap"));
            assert_eq!(good.client.facts().alpn.as_deref(), Some("imap"));
            let (none, results) = link(b"");
            assert_eq!(results, (Ok(true), Ok(true)));
            assert_eq!(none.server.facts().alpn, None);
            let (_, (client, server)) = link(b"\x04smtp");
            assert_eq!(server.expect_err("refused").kind(), TlsErrorKind::Alpn);
            let told = client.expect_err("alert").to_string();
            assert!(told.contains("no application protocol"), "{told}");
        }
    }
}

#[test]
fn a_hello_in_single_bytes_or_small_records_is_understood() {
    let folder = Folder::new();
    let root = Recipe::authority("root").self_signed();
    let own = Recipe::named(NAME).issued_by(&root);
    for server in LIBRARIES {
        for client in LIBRARIES {
            let acceptor = acceptor(&server_settings(&folder, server, &[&own]));
            let connector = connector(&client_settings(&folder, client, &root));
            let mut link = Link::of(&connector, NAME, &acceptor);
            link.step = 1;
            let mut link = link.open();
            assert_eq!(link.say(b"hello"), b"hello");
        }
        let mut hello = Vec::new();
        let settings = client_settings(&folder, Library::Rustls, &root);
        let mut client = connector(&settings).engine(NAME).expect("client");
        client.give(&mut hello, usize::MAX);
        let mut pieces = Vec::new();
        for piece in hello[5..].chunks(7) {
            pieces.extend_from_slice(&[22, 3, 1, 0, u8::try_from(piece.len()).expect("short")]);
            pieces.extend_from_slice(piece);
        }
        let mut server = acceptor(&server_settings(&folder, server, &[&own]))
            .engine()
            .expect("server");
        assert_eq!(server.handshake(), Ok(false));
        assert_eq!(server.take(&pieces), Ok(pieces.len()));
        assert_eq!(server.handshake(), Ok(false));
        assert!(server.has_output(), "a server hello");
    }
}

#[test]
fn garbage_is_an_error_and_never_a_panic() {
    let folder = Folder::new();
    let own = Recipe::named(NAME).self_signed();
    for library in LIBRARIES {
        let acceptor = acceptor(&server_settings(&folder, library, &[&own]));
        let connector = connector(&client_settings(&folder, library, &own));
        let mut seed = 1_u32;
        for round in 0..300_usize {
            let mut noise: Vec<u8> = (0..round * 7 % 900 + 6)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    seed.to_be_bytes()[0]
                })
                .collect();
            if round % 3 > 0 {
                noise[..6].copy_from_slice(&[22, 3, 1, 0, 100, 1]);
            }
            for mut engine in [
                acceptor.engine().expect("server"),
                connector.engine(NAME).expect("client"),
            ] {
                let _ = engine.handshake();
                let _ = engine.take(&noise);
                let _ = engine.handshake();
                let _ = engine.read(&mut [0; 100]);
                engine.take_eof();
                assert!(engine.handshake().is_err());
                assert!(engine.handshake().is_err());
                engine.close();
                let _ = engine.facts();
                let _ = engine.write(b"x");
            }
        }
    }
}

#[test]
fn plain_text_on_a_tls_port_is_told_apart() {
    let folder = Folder::new();
    let own = Recipe::named(NAME).self_signed();
    for library in LIBRARIES {
        let acceptor = acceptor(&server_settings(&folder, library, &[&own]));
        for (text, told) in [
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "an HTTP request"),
            (
                "a001 LOGIN joe secret\r\n",
                "plain text; is TLS switched on in the mail program?",
            ),
            ("\u{1}\u{2}\u{3}\u{4}\u{5}\u{6}", "bytes that mean nothing"),
        ] {
            let mut server = acceptor.engine().expect("server");
            let taken = server.take(text.as_bytes());
            let error = taken.and_then(|_| server.handshake()).expect_err("no TLS");
            let told = format!("client does not speak TLS: it sent {told}");
            assert_eq!(error.to_string(), told);
            assert_eq!(error.kind(), TlsErrorKind::Protocol);
        }
    }
}

#[test]
fn a_peer_that_leaves_during_the_handshake_is_noticed() {
    let folder = Folder::new();
    let own = Recipe::named(NAME).self_signed();
    for library in LIBRARIES {
        let acceptor = acceptor(&server_settings(&folder, library, &[&own]));
        let mut server = acceptor.engine().expect("server");
        assert_eq!(server.handshake(), Ok(false));
        assert_eq!(server.take(&[22, 3, 1]), Ok(3));
        server.take_eof();
        let error = server.handshake().expect_err("gone");
        assert_eq!(error.kind(), TlsErrorKind::PeerGone);
    }
}

#[test]
fn the_native_library_refuses_what_it_cannot_do() {
    let folder = Folder::new();
    let own = Recipe::named(NAME).self_signed();
    let base = server_settings(&folder, Library::Native, &[&own, &own]);
    let settings = ServerSettings {
        ssl_ciphers: Some("HIGH".to_owned()),
        ssl_ecdh_curve: Some("auto".to_owned()),
        ssl_prefer_server_ciphers: Some(false),
        ssl_session_cache: Some(SessionCache::Off),
        ssl_session_tickets: Some(false),
        ssl_session_ticket_key: vec![folder.file(&[0; 48])],
        ssl_session_timeout: Some(DEFAULT_SESSION_TIMEOUT),
        ssl_verify_client: VerifyClient::OptionalNoCa,
        ssl_protocols: vec!["TLSv1.3".to_owned()],
        ..base
    };
    let problems =
        Acceptor::new(settings, "imap", "imap", &SessionCaches::default()).expect_err("errors");
    let directives: Vec<&str> = problems.iter().map(|problem| problem.directive).collect();
    let expected = [
        "ssl_certificate",
        "ssl_ciphers",
        "ssl_ecdh_curve",
        "ssl_prefer_server_ciphers",
        "ssl_session_cache",
        "ssl_session_tickets",
        "ssl_session_ticket_key",
        "ssl_session_timeout",
        "ssl_verify_client",
        "ssl_protocols",
    ];
    assert_eq!(directives, expected);
}

#[test]
fn rustls_refuses_old_versions_and_warns_of_the_rest() {
    let folder = Folder::new();
    let own = Recipe::named(NAME).self_signed();
    let mut settings = server_settings(&folder, Library::Rustls, &[&own]);
    settings.ssl_dhparam = Some("dh.pem".into());
    settings.ssl_conf_command = vec!["Ciphersuites TLS_AES_128_GCM_SHA256".to_owned()];
    settings.ssl_ciphers = Some("HIGH:NONSENSE".to_owned());
    let caches = SessionCaches::default();
    let (_, warnings) = Acceptor::new(settings.clone(), "imap", "imap", &caches).expect("good");
    let directives: Vec<&str> = warnings.iter().map(|problem| problem.directive).collect();
    assert_eq!(
        directives,
        ["ssl_dhparam", "ssl_conf_command", "ssl_ciphers"]
    );
    settings.ssl_protocols = vec!["TLSv1".to_owned(), "TLSv1.2".to_owned()];
    let problems = Acceptor::new(settings, "imap", "imap", &caches).expect_err("too old");
    assert_eq!(problems[0].directive, "ssl_protocols");
    assert!(problems[0].text.contains("tls_library = native"));
}

#[test]
fn old_versions_work_where_the_system_allows_them() {
    const MARK: &str = "POSTERN_TEST_OLD_TLS";
    let folder = Folder::new();
    let own = Recipe {
        rsa: true,
        ..Recipe::named(NAME)
    }
    .self_signed();
    let mut settings = server_settings(&folder, Library::Native, &[&own]);
    settings.ssl_protocols = ["TLSv1", "TLSv1.1", "TLSv1.2"].map(str::to_owned).to_vec();
    if std::env::var_os(MARK).is_none() {
        // OpenSSL reads its configuration once, so this needs a process of its own.
        let made = Acceptor::new(settings, "imap", "imap", &SessionCaches::default());
        if let Err(problems) = made {
            assert!(problems[0].text.contains("OPENSSL_CONF"), "{}", problems[0]);
        }
        let text = "openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\n\
                    MinProtocol = TLSv1\nCipherString = DEFAULT:@SECLEVEL=0\n";
        let (_, place) = module_path!().split_once("::").expect("in a crate");
        let this = format!("{place}::old_versions_work_where_the_system_allows_them");
        let run = std::process::Command::new(std::env::current_exe().expect("this test"))
            .args([this.as_str(), "--exact"])
            .env(MARK, "1")
            .env("OPENSSL_CONF", folder.file(text.as_bytes()))
            .output()
            .expect("run");
        let told = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success() && told.contains("1 passed"), "{told}");
        return;
    }
    use openssl::ssl::SslVersion;
    let acceptor = acceptor(&settings);
    for (version, name) in [
        (SslVersion::TLS1, "TLSv1"),
        (SslVersion::TLS1_1, "TLSv1.1"),
        (SslVersion::TLS1_2, "TLSv1.2"),
    ] {
        let client = openssl_client(Some(NAME), |context| {
            context
                .set_max_proto_version(Some(version))
                .expect("version");
        });
        let mut link = Link::new(client, acceptor.engine().expect("server")).open();
        assert_eq!(link.say(b"hello"), b"hello");
        assert_eq!(link.answer(b"hello"), b"hello");
        let facts = link.server.facts();
        assert_eq!(facts.protocol, name);
        assert_eq!(facts.cipher, link.client.facts().cipher);
        let mut settings = client_settings(&folder, Library::Native, &own);
        settings.proxy_ssl_protocols = vec![name.to_owned()];
        let link = Link::of(&connector(&settings), NAME, &acceptor).open();
        assert_eq!(link.client.facts().protocol, name);
    }
}

#[test]
fn everything_can_be_shared_by_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>() {}
    shared::<Acceptor>();
    shared::<Connector>();
    shared::<SessionCaches>();
    sent::<Box<dyn Engine>>();
}
