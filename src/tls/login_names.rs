//! The logins that a client certificate names, for `ssl_login_from`: what stands in its subject or its
//! alternative names, as text. Whether the certificate is good, and what a login may do, is decided by others.

use openssl::x509::X509;
use x509_cert::der::Decode;
use x509_cert::name::RdnSequence;

use super::settings::LoginFrom;
use super::verify::characters;

/// The object identifier of the attribute commonName (RFC 5280, appendix A.1).
const COMMON_NAME: &str = "2.5.4.3";

/// That of emailAddress, likewise.
const EMAIL_ADDRESS: &str = "1.2.840.113549.1.9.1";

/// The logins that a certificate in PEM names, in its own order. None where its subject has several of the
/// attribute, where it cannot be read, or where any of the names is empty or has a control character: who
/// issues such certificates is not to be understood by guessing.
pub(super) fn logins(pem: &str, from: LoginFrom) -> Vec<String> {
    let Ok(certificate) = X509::from_pem(pem.as_bytes()) else {
        return Vec::new();
    };
    let names = match from {
        LoginFrom::Off => None,
        LoginFrom::CommonName => of_subject(&certificate, COMMON_NAME),
        LoginFrom::Email => of_subject(&certificate, EMAIL_ADDRESS),
        LoginFrom::SanEmail => Some(alternative_emails(&certificate)),
    };
    let is_login = |name: &String| !name.is_empty() && !name.chars().any(char::is_control);
    names
        .filter(|names| names.iter().all(is_login))
        .unwrap_or_default()
}

/// The one attribute of this kind in the subject, if there is exactly one and it is text.
fn of_subject(certificate: &X509, oid: &str) -> Option<Vec<String>> {
    let der = certificate.subject_name().to_der().ok()?;
    let subject = RdnSequence::from_der(&der).ok()?;
    let attributes = subject.iter().flat_map(|part| part.iter());
    let mut found = attributes.filter(|attribute| attribute.oid.to_string() == oid);
    let (Some(only), None) = (found.next(), found.next()) else {
        return None;
    };
    Some(vec![characters(&only.value)?])
}

/// Every rfc822Name of subjectAltName (RFC 5280, section 4.2.1.6).
fn alternative_emails(certificate: &X509) -> Vec<String> {
    let names = certificate.subject_alt_names();
    let names = names.iter().flatten();
    names
        .filter_map(|name| name.email().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use openssl::asn1::{Asn1Time, Asn1Type};
    use openssl::hash::MessageDigest;
    use openssl::pkey::PKey;
    use openssl::rsa::Rsa;
    use openssl::x509::extension::SubjectAlternativeName;
    use openssl::x509::{X509Builder, X509NameBuilder};

    use super::*;

    /// A certificate whose subject has these attributes, each of a string type, and these addresses.
    fn certificate(subject: &[(&str, &str, Asn1Type)], emails: &[&str]) -> String {
        let key = PKey::from_rsa(Rsa::generate(2048).expect("a key")).expect("a key");
        let mut name = X509NameBuilder::new().expect("a name");
        for (kind, value, form) in subject {
            name.append_entry_by_text_with_type(kind, value, *form)
                .expect("an attribute");
        }
        let name = name.build();
        let mut builder = X509Builder::new().expect("a certificate");
        builder.set_subject_name(&name).expect("a subject");
        builder.set_issuer_name(&name).expect("an issuer");
        builder.set_pubkey(&key).expect("a key");
        let (begin, end) = (Asn1Time::days_from_now(0), Asn1Time::days_from_now(1));
        builder.set_not_before(&begin.expect("today")).expect("set");
        builder.set_not_after(&end.expect("tomorrow")).expect("set");
        if !emails.is_empty() {
            let mut names = SubjectAlternativeName::new();
            emails.iter().for_each(|email| {
                names.email(email);
            });
            names.dns("mail.test");
            let names = names.build(&builder.x509v3_context(None, None));
            builder
                .append_extension(names.expect("names"))
                .expect("set");
        }
        builder.sign(&key, MessageDigest::sha256()).expect("signed");
        let pem = builder.build().to_pem().expect("PEM");
        String::from_utf8(pem).expect("PEM is ASCII")
    }

    const UTF8: Asn1Type = Asn1Type::UTF8STRING;

    #[test]
    fn each_source_has_names_of_its_own() {
        let subject = [
            ("CN", "bob", UTF8),
            ("emailAddress", "bob@subject.test", Asn1Type::IA5STRING),
        ];
        let pem = certificate(&subject, &["bob@san.test", "robert@san.test"]);
        assert_eq!(logins(&pem, LoginFrom::CommonName), ["bob"]);
        assert_eq!(logins(&pem, LoginFrom::Email), ["bob@subject.test"]);
        let both = ["bob@san.test", "robert@san.test"];
        assert_eq!(logins(&pem, LoginFrom::SanEmail), both);
        assert!(logins(&pem, LoginFrom::Off).is_empty());
    }

    #[test]
    fn what_is_missing_or_stands_twice_names_nobody() {
        let pem = certificate(&[("O", "tests", UTF8)], &[]);
        for from in [LoginFrom::CommonName, LoginFrom::Email, LoginFrom::SanEmail] {
            assert!(logins(&pem, from).is_empty(), "{from:?}");
        }
        let pem = certificate(&[("CN", "bob", UTF8), ("CN", "alice", UTF8)], &[]);
        assert!(logins(&pem, LoginFrom::CommonName).is_empty());
        assert!(logins("no certificate", LoginFrom::CommonName).is_empty());
    }

    #[test]
    fn control_characters_name_nobody() {
        for name in ["bob\0", "bob\0.evil", "bob\r\nNOOP", "\u{7f}", "bob\u{85}"] {
            let pem = certificate(&[("CN", name, UTF8)], &[]);
            assert!(logins(&pem, LoginFrom::CommonName).is_empty(), "{name:?}");
        }
        // Two bytes a character, of which one is NUL.
        let pem = certificate(&[("CN", "\0b\0o\0b", Asn1Type::BMPSTRING)], &[]);
        assert_eq!(logins(&pem, LoginFrom::CommonName), ["bob"]);
        let pem = certificate(&[("CN", "bob", UTF8)], &["bob@san.test", "x\u{1}@san.test"]);
        assert!(logins(&pem, LoginFrom::SanEmail).is_empty());
    }
}
