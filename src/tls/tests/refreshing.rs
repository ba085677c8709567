//! Files that change while the server runs.

use std::fs;

use super::pki::Recipe;
use super::*;

const NAME: &str = "mail.example.com";

/// The fingerprint of the certificate that a new client is shown.
fn shown(acceptor: &Acceptor) -> String {
    let client = peer::openssl_client(Some(NAME), |_| {});
    let link = Link::new(client, acceptor.engine().expect("server")).open();
    link.client.facts().peer.expect("certificate").fingerprint
}

fn replace(path: &std::path::Path, content: &[u8]) {
    let beside = path.with_extension("new");
    fs::write(&beside, content).expect("written");
    fs::rename(beside, path).expect("renamed");
}

#[test]
fn a_renewed_certificate_is_used_by_the_next_handshake() {
    let folder = Folder::new();
    let rsa = |rsa| {
        Recipe {
            rsa,
            ..Recipe::named(NAME)
        }
        .self_signed()
    };
    for library in LIBRARIES {
        let settings = server_settings(&folder, library, &[&rsa(true)]);
        let acceptor = acceptor(&settings);
        let old = shown(&acceptor);
        assert_eq!(acceptor.refresh(), Ok(false));
        let mut running = Link::new(
            peer::openssl_client(None, |_| {}),
            acceptor.engine().expect("server"),
        )
        .open();

        let renewed = rsa(false);
        replace(
            &settings.ssl_certificate[0],
            &renewed.certificate.to_pem().expect("PEM"),
        );
        let error = acceptor
            .refresh()
            .expect_err("the key is still the old one");
        assert!(error.contains("does not fit"), "{error}");
        assert_eq!(acceptor.refresh(), Ok(false), "told once");
        assert_eq!(shown(&acceptor), old);

        let key = renewed.key.private_key_to_pem_pkcs8().expect("PEM");
        replace(&settings.ssl_certificate_key[0], &key);
        assert_eq!(acceptor.refresh(), Ok(true));
        assert_eq!(acceptor.refresh(), Ok(false));
        let new = shown(&acceptor);
        assert_ne!(new, old);
        assert_eq!(shown(&acceptor.clone()), new);
        assert_eq!(running.say(b"still here"), b"still here");

        fs::write(&settings.ssl_certificate[0], b"half a certif").expect("written");
        assert!(acceptor.refresh().is_err());
        fs::remove_file(&settings.ssl_certificate[0]).expect("removed");
        assert!(acceptor.refresh().is_err());
        assert_eq!(shown(&acceptor), new);
    }
}

#[test]
fn new_trust_and_revocation_count_from_the_next_handshake() {
    let folder = Folder::new();
    let server = Recipe::named(NAME).self_signed();
    let root = Recipe::authority("root").self_signed();
    let joe = Recipe {
        serial: 7,
        ..Recipe::named("joe")
    };
    let joe = joe.issued_by(&root);
    let mut settings = server_settings(&folder, Library::Rustls, &[&server]);
    settings.ssl_verify_client = VerifyClient::On;
    settings.ssl_client_certificate = Some(folder.certificate(&root));
    let list = folder.file(&pki::revocation_list(&root, &[]));
    settings.ssl_crl = Some(list.clone());
    let acceptor = acceptor(&settings);
    let mut client = client_settings(&folder, Library::Rustls, &server);
    let (certificate, key) = folder.pair(&joe);
    client.proxy_ssl_certificate = Some(certificate);
    client.proxy_ssl_certificate_key = Some(key);
    let connector = connector(&client);
    let verdict = || {
        let mut link = Link::of(&connector, NAME, &acceptor).open();
        assert_eq!(link.answer(b"x"), b"x");
        link.server.facts().verdict
    };
    assert_eq!(verdict(), Verdict::Success);
    assert_eq!(verdict(), Verdict::Success);
    replace(&list, &pki::revocation_list(&root, &[7]));
    assert_eq!(acceptor.refresh(), Ok(true));
    assert_eq!(verdict().to_string(), "FAILED:certificate revoked");
}

#[test]
fn a_connector_takes_new_trust_too() {
    let folder = Folder::new();
    let server = Recipe::named(NAME).self_signed();
    let stranger = Recipe::named(NAME).self_signed();
    for library in LIBRARIES {
        let acceptor = acceptor(&server_settings(&folder, Library::Rustls, &[&server]));
        let settings = client_settings(&folder, library, &stranger);
        let connector = connector(&settings);
        assert!(Link::of(&connector, NAME, &acceptor).shake().0.is_err());
        let path = settings.proxy_ssl_trusted_certificate.expect("set");
        replace(&path, &server.certificate.to_pem().expect("PEM"));
        assert_eq!(connector.refresh(), Ok(true));
        assert_eq!(connector.refresh(), Ok(false));
        assert_eq!(Link::of(&connector, NAME, &acceptor).shake().0, Ok(true));
        replace(&path, b"");
        assert!(connector.refresh().is_err());
        assert_eq!(Link::of(&connector, NAME, &acceptor).shake().0, Ok(true));
    }
}
