//! Which sessions are resumed, by which server, and for how long.

use std::sync::Arc;
use std::time::Duration;

use ::rustls::ClientConfig;
use ::rustls::client::{Resumption, Tls12Resumption};

use super::pki::Recipe;
use super::*;

const NAME: &str = "mail.example.com";

/// A client that remembers sessions, in tickets or by their ids alone.
struct Client(Arc<ClientConfig>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remembers {
    Tickets,
    IdsAlone,
}

impl Client {
    fn new(version: ciphers::Version, remembers: Remembers, own: Option<&Made>) -> Client {
        let demands = rustls_client::Demands {
            directives: &crate::tls::ClientDirectives::PROXY_SSL,
            trust: None,
            pins: Vec::new(),
        };
        let own = own.map(|own| {
            use ::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
            let der = PrivatePkcs8KeyDer::from(own.key.private_key_to_pkcs8().expect("key")).into();
            let key = ::rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).expect("key");
            let chain = vec![CertificateDer::from(own.certificate.to_der().expect("DER"))];
            Arc::new(::rustls::sign::CertifiedKey::new(chain, key))
        });
        let mut config = rustls_client::config(&[version], demands.into(), own).expect("config");
        if remembers == Remembers::IdsAlone {
            config.resumption =
                Resumption::in_memory_sessions(8).tls12_resumption(Tls12Resumption::SessionIdOnly);
        }
        Client(Arc::new(config))
    }

    fn visit(&self, acceptor: &Acceptor) -> Facts {
        let name = NAME.try_into().expect("name");
        let client = ::rustls::ClientConnection::new(Arc::clone(&self.0), name).expect("client");
        let role = rustls::Role::Client {
            name: NAME.to_owned(),
            verified: false,
            directives: &crate::tls::ClientDirectives::PROXY_SSL,
        };
        let client = Box::new(rustls::RustlsEngine::new(client.into(), role));
        let mut link = Link::new(client, acceptor.engine().expect("server")).open();
        // Tickets of TLS 1.3 come after the handshake.
        assert_eq!(link.answer(b"+OK\r\n"), b"+OK\r\n");
        let facts = link.server.facts();
        assert_eq!(facts.resumed, link.client.facts().resumed);
        facts
    }

    /// Whether the second of two visits resumes.
    fn resumes(&self, first: &Acceptor, second: &Acceptor) -> bool {
        assert!(!self.visit(first).resumed);
        self.visit(second).resumed
    }
}

const TLS_1_2: ciphers::Version = ciphers::Version::Tls12;
const TLS_1_3: ciphers::Version = ciphers::Version::Tls13;

fn kinds() -> [(Option<SessionCache>, bool); 5] {
    let shared = SessionCache::Shared {
        name: "SSL".to_owned(),
        bytes: 1 << 20,
    };
    [
        (None, false),
        (Some(SessionCache::None), false),
        (Some(SessionCache::Off), false),
        (Some(SessionCache::Builtin { sessions: 100 }), true),
        (Some(shared), true),
    ]
}

#[test]
fn caches_and_tickets_resume_as_nginx_has_it() {
    let folder = Folder::new();
    let own = Recipe::named(NAME).self_signed();
    for (cache, keeps) in kinds() {
        for tickets in [None, Some(true), Some(false)] {
            let mut settings = server_settings(&folder, Library::Rustls, &[&own]);
            settings.ssl_session_cache = cache.clone();
            settings.ssl_session_tickets = tickets;
            let acceptor = acceptor(&settings);
            let with_tickets = tickets != Some(false);
            for (version, remembers, expected) in [
                (TLS_1_3, Remembers::Tickets, with_tickets || keeps),
                (TLS_1_2, Remembers::Tickets, with_tickets || keeps),
                (TLS_1_2, Remembers::IdsAlone, keeps),
            ] {
                let client = Client::new(version, remembers, None);
                let case = format!("{cache:?} {tickets:?} {version:?} {remembers:?}");
                assert_eq!(client.resumes(&acceptor, &acceptor), expected, "{case}");
                assert_eq!(client.visit(&acceptor).resumed, expected, "{case}");
            }
        }
    }
}

#[test]
fn sessions_end_with_ssl_session_timeout() {
    let folder = Folder::new();
    let own = Recipe::named(NAME).self_signed();
    let cases = [
        (None, None),
        (Some(SessionCache::Builtin { sessions: 9 }), Some(false)),
    ];
    let mut waiting = Vec::new();
    for (cache, tickets) in cases {
        let mut settings = server_settings(&folder, Library::Rustls, &[&own]);
        settings.ssl_session_cache = cache;
        settings.ssl_session_tickets = tickets;
        settings.ssl_session_timeout = Some(Duration::from_secs(1));
        let acceptor = acceptor(&settings);
        for version in [TLS_1_2, TLS_1_3] {
            let client = Client::new(version, Remembers::Tickets, None);
            client.visit(&acceptor);
            waiting.push((client, acceptor.clone()));
        }
    }
    std::thread::sleep(Duration::from_millis(2100));
    for (client, acceptor) in waiting {
        assert!(!client.visit(&acceptor).resumed);
    }
}

#[test]
fn servers_share_a_cache_by_its_name_and_tickets_by_their_key() {
    let folder = Folder::new();
    let own = Recipe::named(NAME).self_signed();
    let root = Recipe::authority("clients").self_signed();
    let key_file = folder.file(&[5; 80]);
    let caches = SessionCaches::default();
    let make = |by_key: bool, verify: VerifyClient, root: &Made| {
        let mut settings = server_settings(&folder, Library::Rustls, &[&own]);
        settings.ssl_verify_client = verify;
        settings.ssl_client_certificate = Some(folder.certificate(root));
        if by_key {
            settings.ssl_session_ticket_key = vec![key_file.clone()];
        } else {
            settings.ssl_session_tickets = Some(false);
            settings.ssl_session_cache = "shared:SSL:1m".parse().ok();
        }
        Acceptor::new(settings, "imap", "imap", &caches)
            .expect("good")
            .0
    };
    let other_root = Recipe::authority("others").self_signed();
    for by_key in [true, false] {
        for version in [TLS_1_2, TLS_1_3] {
            let joe = Recipe::named("joe").issued_by(&root);
            let client = |own| Client::new(version, Remembers::Tickets, own);
            let off = make(by_key, VerifyClient::Off, &root);
            let on = make(by_key, VerifyClient::On, &root);
            let optional = make(by_key, VerifyClient::Optional, &root);
            let elsewhere = make(by_key, VerifyClient::On, &other_root);
            let twin = make(by_key, VerifyClient::On, &root);
            assert!(client(None).resumes(&off, &make(by_key, VerifyClient::Off, &other_root)));
            assert!(client(Some(&joe)).resumes(&on, &twin));
            for (first, second) in [
                (&off, &on),
                (&optional, &on),
                (&on, &off),
                (&on, &elsewhere),
                (&elsewhere, &on),
            ] {
                assert!(!client(Some(&joe)).resumes(first, second));
            }
        }
    }
}

#[test]
fn resumed_clients_are_judged_again() {
    let folder = Folder::new();
    let own = Recipe::named(NAME).self_signed();
    let root = Recipe::authority("clients").self_signed();
    let stranger = Recipe::named("x").self_signed();
    let good = Recipe::named("joe").issued_by(&root);
    let mut settings = server_settings(&folder, Library::Rustls, &[&own]);
    settings.ssl_verify_client = VerifyClient::Optional;
    settings.ssl_client_certificate = Some(folder.certificate(&root));
    let acceptor = acceptor(&settings);
    for version in [TLS_1_2, TLS_1_3] {
        for (own, verdict) in [
            (Some(&good), "SUCCESS"),
            (Some(&stranger), "FAILED:self-signed certificate"),
            (None, "NONE"),
        ] {
            let client = Client::new(version, Remembers::Tickets, own);
            let first = client.visit(&acceptor);
            let second = client.visit(&acceptor);
            assert!(second.resumed);
            assert_eq!(second.verdict.to_string(), verdict);
            assert_eq!(first.peer, second.peer);
            assert_eq!(second.peer.is_some(), own.is_some());
        }
    }
}

#[test]
fn a_cache_has_one_size() {
    let folder = Folder::new();
    let own = Recipe::named(NAME).self_signed();
    let caches = SessionCaches::default();
    let mut settings = server_settings(&folder, Library::Rustls, &[&own]);
    settings.ssl_session_cache = "shared:SSL:1m".parse().ok();
    assert!(Acceptor::new(settings.clone(), "imap", "imap", &caches).is_ok());
    assert!(Acceptor::new(settings.clone(), "imap", "imap", &caches).is_ok());
    settings.ssl_session_cache = "shared:SSL:2m".parse().ok();
    let problems = Acceptor::new(settings, "imap", "imap", &caches).expect_err("two sizes");
    assert_eq!(problems[0].directive, "ssl_session_cache");
}

#[test]
fn ticket_keys_of_another_length_are_refused() {
    let folder = Folder::new();
    let own = Recipe::named(NAME).self_signed();
    let mut settings = server_settings(&folder, Library::Rustls, &[&own]);
    settings.ssl_session_ticket_key = vec![folder.file(&[0; 48]), folder.file(&[0; 47])];
    let caches = SessionCaches::default();
    let problems = Acceptor::new(settings, "imap", "imap", &caches).expect_err("47 bytes");
    assert_eq!(
        (problems[0].directive, problems[0].entry),
        ("ssl_session_ticket_key", 1)
    );
    assert!(problems[0].text.contains("47 bytes"));
}

#[test]
fn the_native_library_resumes_by_ticket() {
    let folder = Folder::new();
    let own = Recipe {
        rsa: true,
        ..Recipe::named(NAME)
    }
    .self_signed();
    let acceptor = acceptor(&server_settings(&folder, Library::Native, &[&own]));
    let client = Client::new(TLS_1_2, Remembers::Tickets, None);
    assert!(client.resumes(&acceptor, &acceptor));
}

#[test]
fn backends_are_resumed_with_the_same_connector() {
    let folder = Folder::new();
    let own = Recipe::named(NAME).self_signed();
    let acceptor = acceptor(&server_settings(&folder, Library::Rustls, &[&own]));
    let connector = connector(&client_settings(&folder, Library::Rustls, &own));
    for resumed in [false, true] {
        let mut link = Link::of(&connector, NAME, &acceptor).open();
        assert_eq!(link.answer(b"x"), b"x");
        assert_eq!(link.client.facts().resumed, resumed);
        assert_eq!(link.client.facts().verdict, Verdict::Success);
        assert!(link.client.facts().peer.is_some());
    }
}
