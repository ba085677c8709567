//! Keys in every form OpenSSL writes, and files that are wrong.

use std::path::PathBuf;

use openssl::symm::Cipher;

use super::pki::{HOUR, Recipe};
use super::*;

const NAME: &str = "mail.example.com";

fn load(certificate: PathBuf, key: PathBuf, passwords: Option<PathBuf>) -> Vec<Problem> {
    let mut all = Vec::new();
    for tls_library in LIBRARIES {
        let settings = ServerSettings {
            tls_library,
            ssl_certificate: vec![certificate.clone()],
            ssl_certificate_key: vec![key.clone()],
            ssl_password_file: passwords.clone(),
            ..ServerSettings::default()
        };
        match Acceptor::new(settings.clone(), "imap", "imap", &SessionCaches::default()) {
            Err(problems) => all.extend(problems),
            Ok((acceptor, _)) => {
                let server = acceptor.engine().expect("server");
                Link::new(peer::openssl_client(None, |_| {}), server).open();
            }
        }
    }
    all.dedup();
    all
}

/// The same key in all forms: with its name, and whether a passphrase is needed.
fn forms(made: &Made) -> Vec<(&'static str, Vec<u8>, bool)> {
    const SECRET: &[u8] = b"third pass phrase";
    let key = &made.key;
    let cipher = Cipher::aes_256_cbc();
    let mut forms = vec![
        (
            "PKCS#8",
            key.private_key_to_pem_pkcs8().expect("PEM"),
            false,
        ),
        (
            "encrypted PKCS#8",
            key.private_key_to_pem_pkcs8_passphrase(cipher, SECRET)
                .expect("PEM"),
            true,
        ),
    ];
    if let Ok(rsa) = key.rsa() {
        let plain = rsa.private_key_to_pem().expect("PEM");
        forms.push(("PKCS#1", plain, false));
        for cipher in [cipher, Cipher::des_ede3_cbc()] {
            let sealed = rsa
                .private_key_to_pem_passphrase(cipher, SECRET)
                .expect("PEM");
            assert!(sealed.windows(8).any(|window| window == b"DEK-Info"));
            forms.push(("DEK-Info RSA", sealed, true));
        }
    } else {
        let ec = key.ec_key().expect("EC");
        let plain = ec.private_key_to_pem().expect("PEM");
        let parameters =
            b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
        forms.push(("EC PARAMETERS", [&parameters[..], &plain].concat(), false));
        forms.push(("SEC1", plain, false));
        let sealed = ec
            .private_key_to_pem_passphrase(cipher, SECRET)
            .expect("PEM");
        forms.push(("DEK-Info EC", sealed, true));
    }
    forms
}

#[test]
fn every_form_of_key_is_read() {
    let folder = Folder::new();
    let passwords = folder.file(b"first\r\n\nsecond one\nthird pass phrase\nlast");
    for rsa in [true, false] {
        let made = Recipe {
            rsa,
            ..Recipe::named(NAME)
        }
        .self_signed();
        for (form, pem, sealed) in forms(&made) {
            let key = folder.file(&pem);
            let certificate = folder.certificate(&made);
            let problems = load(certificate.clone(), key.clone(), Some(passwords.clone()));
            assert_eq!(problems, [], "{form}");
            let without = load(certificate.clone(), key.clone(), None);
            assert_eq!(without.is_empty(), !sealed, "{form}: {without:?}");
            if sealed {
                assert!(
                    without[0].text.contains("ssl_password_file"),
                    "{}",
                    without[0]
                );
                let wrong = folder.file(b"wrong\nThird pass phrase\n");
                let problems = load(certificate, key, Some(wrong));
                assert!(
                    problems[0].text.contains("no passphrase"),
                    "{form}: {problems:?}"
                );
            }
        }
    }
}

#[test]
fn a_file_may_hold_both_certificate_and_key() {
    let folder = Folder::new();
    let made = Recipe::named(NAME).self_signed();
    let both = [
        made.key.private_key_to_pem_pkcs8().expect("PEM"),
        b"some words between\n".to_vec(),
        made.certificate.to_pem().expect("PEM"),
    ];
    let file = folder.file(&both.concat());
    assert_eq!(load(file.clone(), file, None), []);
}

#[test]
fn what_is_wrong_with_a_file_is_told_with_its_name() {
    let folder = Folder::new();
    let made = Recipe::named(NAME).self_signed();
    let other = Recipe::named(NAME).self_signed();
    let expired = Recipe {
        until: -HOUR,
        ..Recipe::named(NAME)
    };
    let expired = folder.pair(&expired.self_signed());
    let (certificate, key) = folder.pair(&made);
    let missing = folder.path().join("missing.pem");
    let junk = folder.file(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let empty = folder.file(b"");
    let cases = [
        (
            (missing.clone(), key.clone()),
            "ssl_certificate",
            &missing,
            "cannot read",
        ),
        (
            (certificate.clone(), missing.clone()),
            "ssl_certificate_key",
            &missing,
            "cannot read",
        ),
        (
            (junk.clone(), key.clone()),
            "ssl_certificate",
            &junk,
            "cannot read the certificates",
        ),
        (
            (empty.clone(), key.clone()),
            "ssl_certificate",
            &empty,
            "no PEM certificate",
        ),
        (
            (certificate.clone(), empty.clone()),
            "ssl_certificate_key",
            &empty,
            "no usable PEM",
        ),
        (
            (certificate.clone(), junk.clone()),
            "ssl_certificate_key",
            &junk,
            "no usable PEM",
        ),
        (
            (key.clone(), key.clone()),
            "ssl_certificate",
            &key,
            "no PEM certificate",
        ),
        (
            expired.clone(),
            "ssl_certificate",
            &expired.0,
            "has expired on",
        ),
    ];
    for ((certificate, key), directive, file, what) in cases {
        let problems = load(certificate, key, None);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].directive, directive);
        assert!(problems[0].text.contains(what), "{what}: {}", problems[0]);
        assert!(
            problems[0].text.contains(&file.display().to_string()),
            "{}",
            problems[0]
        );
    }
    let foreign = folder.key(&other);
    let problems = load(certificate.clone(), foreign.clone(), None);
    assert!(problems[0].text.contains("does not fit"), "{}", problems[0]);
    for file in [certificate, foreign] {
        assert!(problems[0].text.contains(&file.display().to_string()));
    }
}

#[test]
fn all_wrong_files_are_told_at_once() {
    let folder = Folder::new();
    let missing = |name: &str| folder.path().join(name);
    let settings = ServerSettings {
        ssl_certificate: vec![missing("a"), missing("b")],
        ssl_certificate_key: vec![missing("c"), missing("d")],
        ssl_verify_client: VerifyClient::On,
        ssl_client_certificate: Some(missing("e")),
        ssl_session_ticket_key: vec![missing("f")],
        ssl_protocols: vec!["SSLv3".to_owned()],
        ..ServerSettings::default()
    };
    let problems =
        Acceptor::new(settings, "imap", "imap", &SessionCaches::default()).expect_err("errors");
    assert_eq!(problems.len(), 7, "{problems:?}");
    let second = problems.iter().filter(|problem| problem.entry == 1).count();
    assert_eq!(second, 2);
}

#[test]
fn certificates_and_keys_come_in_pairs() {
    let folder = Folder::new();
    let own = Recipe::named(NAME).self_signed();
    let mut settings = server_settings(&folder, Library::Rustls, &[&own]);
    settings.ssl_certificate_key.clear();
    let caches = SessionCaches::default();
    let problems = Acceptor::new(settings, "imap", "imap", &caches).expect_err("no key");
    assert_eq!(problems[0].directive, "ssl_certificate_key");
    let none = ServerSettings::default();
    let problems = Acceptor::new(none, "imap", "imap", &caches).expect_err("nothing");
    assert_eq!(problems[0].directive, "ssl_certificate");
}
