//! Ciphers, groups and protocol versions by the names OpenSSL's users know, turned into what rustls
//! has. A cipher list is expanded by OpenSSL itself, so that every operator of its language works.

use std::io::{self, Read, Write};

use ::rustls::crypto::SupportedKxGroup;
use ::rustls::crypto::aws_lc_rs::{ALL_CIPHER_SUITES, DEFAULT_KX_GROUPS, kx_group};
use ::rustls::{CipherSuite, ProtocolVersion, SupportedCipherSuite};
use openssl::ssl::{HandshakeError, Ssl, SslContext, SslMethod, SslVersion};

use super::error::Problem;
use super::hello;
use super::settings::Library;

/// Everything rustls can negotiate: number, OpenSSL's name, IANA's name where it differs.
const SUITES: [(u16, &str, &str); 9] = [
    (0x1302, "TLS_AES_256_GCM_SHA384", ""),
    (0x1301, "TLS_AES_128_GCM_SHA256", ""),
    (0x1303, "TLS_CHACHA20_POLY1305_SHA256", ""),
    (
        0xc02c,
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    ),
    (
        0xc02b,
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    ),
    (
        0xcca9,
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    ),
    (
        0xc030,
        "ECDHE-RSA-AES256-GCM-SHA384",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    ),
    (
        0xc02f,
        "ECDHE-RSA-AES128-GCM-SHA256",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    ),
    (
        0xcca8,
        "ECDHE-RSA-CHACHA20-POLY1305",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    ),
];

/// Groups of rustls under the names OpenSSL has for them.
const GROUPS: [(&str, &dyn SupportedKxGroup); 11] = [
    ("x25519", kx_group::X25519),
    ("prime256v1", kx_group::SECP256R1),
    ("secp256r1", kx_group::SECP256R1),
    ("p-256", kx_group::SECP256R1),
    ("secp384r1", kx_group::SECP384R1),
    ("p-384", kx_group::SECP384R1),
    ("x25519mlkem768", kx_group::X25519MLKEM768),
    ("secp256r1mlkem768", kx_group::SECP256R1MLKEM768),
    ("mlkem768", kx_group::MLKEM768),
    ("mlkem1024", kx_group::MLKEM1024),
    ("ml-kem-768", kx_group::MLKEM768),
];

/// A protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    Tls10,
    Tls11,
    Tls12,
    Tls13,
}

/// Reads `ssl_protocols` or `proxy_ssl_protocols`; `supported` is what the library speaks.
pub(super) fn versions(
    directive: &'static str,
    names: &[String],
    library: Library,
    supported: &[Version],
) -> Result<Vec<Version>, Problem> {
    let mut versions = Vec::new();
    for name in names {
        let version = match name.as_str() {
            "TLSv1" => Version::Tls10,
            "TLSv1.1" => Version::Tls11,
            "TLSv1.2" => Version::Tls12,
            "TLSv1.3" => Version::Tls13,
            _ => return Err(Problem::new(directive, unknown_version(name))),
        };
        if !supported.contains(&version) {
            let text = match (library, version) {
                (Library::Rustls, _) => format!(
                    "rustls does not speak {name}; leave it out, or use `tls_library = native`"
                ),
                (Library::Native, _) => {
                    format!(
                        "with `tls_library = native` a server does not speak {name}; leave it out"
                    )
                }
            };
            return Err(Problem::new(directive, text));
        }
        versions.push(version);
    }
    versions.sort_unstable();
    versions.dedup();
    Ok(versions)
}

fn unknown_version(name: &str) -> String {
    match name {
        "SSLv2" | "SSLv3" => format!("{name} is broken and not supported by any library here"),
        _ => format!("`{name}` is none of TLSv1, TLSv1.1, TLSv1.2, TLSv1.3"),
    }
}

/// Cipher suites of rustls for `ssl_ciphers`, in its order, TLS 1.3 first.
pub(super) fn suites(
    list: Option<&str>,
    versions: &[Version],
    warnings: &mut Vec<Problem>,
) -> Result<Vec<SupportedCipherSuite>, Problem> {
    const DIRECTIVE: &str = "ssl_ciphers";
    let Some(list) = list else {
        return Ok(enabled(&SUITES.map(|suite| suite.0), versions));
    };
    let mut new = Vec::new();
    let mut old = Vec::new();
    for name in list
        .split([':', ',', ' ', ';', '\t'])
        .filter(|name| !name.is_empty())
    {
        let known = SUITES
            .iter()
            .find(|suite| suite.1 == name || suite.2 == name);
        match known {
            Some(suite) if suite.0 >> 8 == 0x13 => new.push(suite.0),
            Some(suite) => old.push(suite.1),
            None if name.starts_with("@SECLEVEL") => {
                let text = format!("`{name}` has no effect: rustls has no security levels");
                warnings.push(Problem::new(DIRECTIVE, text));
            }
            None => {
                let adds = !name.starts_with(['!', '-', '+', '@']);
                if adds && offered(&expand(name)).is_empty() {
                    let text = format!("`{name}` has no effect: rustls offers no such cipher");
                    warnings.push(Problem::new(DIRECTIVE, text));
                }
                old.push(name);
            }
        }
    }
    let adds_old = old
        .iter()
        .any(|name| !name.starts_with(['!', '-', '+', '@']));
    let expanded = offered(&expand(&old.join(":")));
    let empty = adds_old && expanded.is_empty() && versions.contains(&Version::Tls12);
    if new.is_empty() && adds_old {
        new.extend(
            SUITES
                .iter()
                .map(|suite| suite.0)
                .filter(|number| number >> 8 == 0x13),
        );
    }
    new.extend(expanded);
    let found = enabled(&new, versions);
    if empty || found.is_empty() {
        let text = format!(
            "no cipher is left of \"{list}\"; rustls offers {}",
            SUITES.map(|suite| suite.1).join(":")
        );
        return Err(Problem::new(DIRECTIVE, text));
    }
    Ok(found)
}

fn enabled(numbers: &[u16], versions: &[Version]) -> Vec<SupportedCipherSuite> {
    let wanted = |suite: &SupportedCipherSuite| match suite.version().version {
        ProtocolVersion::TLSv1_3 => versions.contains(&Version::Tls13),
        _ => versions.contains(&Version::Tls12),
    };
    let by_number = |number: &u16| {
        let all = ALL_CIPHER_SUITES.iter();
        all.copied()
            .find(|suite| u16::from(suite.suite()) == *number)
    };
    numbers
        .iter()
        .filter_map(by_number)
        .filter(wanted)
        .collect()
}

fn offered(numbers: &[u16]) -> Vec<u16> {
    let ours = |number: &u16| SUITES.iter().any(|suite| suite.0 == *number);
    numbers.iter().copied().filter(ours).collect()
}

/// The ciphers before TLS 1.3 that OpenSSL understands a list to mean, in order.
fn expand(list: &str) -> Vec<u16> {
    first_flight(list)
        .and_then(|bytes| hello::FirstMessage::default().look(&bytes))
        .and_then(|message| hello::client_hello(&message))
        .map(|hello| hello.ciphers.into_iter().map(u16::from_be_bytes).collect())
        .unwrap_or_default()
}

/// What a client with this list would say first: the only place where OpenSSL shows the result.
fn first_flight(list: &str) -> Option<Vec<u8>> {
    if list.contains('\0') {
        return None;
    }
    let mut context = SslContext::builder(SslMethod::tls_client()).ok()?;
    context.set_security_level(0);
    context
        .set_min_proto_version(Some(SslVersion::TLS1_2))
        .ok()?;
    context
        .set_max_proto_version(Some(SslVersion::TLS1_2))
        .ok()?;
    context.set_cipher_list(list).ok()?;
    let ssl = Ssl::new(&context.build()).ok()?;
    match ssl.connect(Sink(Vec::new())) {
        Err(HandshakeError::WouldBlock(stream)) => Some(stream.get_ref().0.clone()),
        _ => None,
    }
}

/// A peer that listens and never answers.
#[derive(Debug)]
struct Sink(Vec<u8>);

impl Read for Sink {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Groups of rustls for `ssl_ecdh_curve`, in its order.
pub(super) fn groups(
    list: Option<&str>,
    warnings: &mut Vec<Problem>,
) -> Result<Vec<&'static dyn SupportedKxGroup>, Problem> {
    const DIRECTIVE: &str = "ssl_ecdh_curve";
    let Some(list) = list.filter(|list| *list != "auto") else {
        return Ok(DEFAULT_KX_GROUPS.to_vec());
    };
    let mut groups: Vec<&'static dyn SupportedKxGroup> = Vec::new();
    for name in list.split([':', ',', ' ']).filter(|name| !name.is_empty()) {
        let lower = name.to_ascii_lowercase();
        match GROUPS.iter().find(|group| group.0 == lower) {
            Some(group) if groups.iter().any(|known| known.name() == group.1.name()) => {}
            Some(group) => groups.push(group.1),
            None => {
                let text = format!("`{name}` has no effect: rustls offers no such group");
                warnings.push(Problem::new(DIRECTIVE, text));
            }
        }
    }
    if groups.is_empty() {
        let text = format!(
            "no group is left of \"{list}\"; rustls offers X25519MLKEM768:X25519:prime256v1:secp384r1"
        );
        return Err(Problem::new(DIRECTIVE, text));
    }
    Ok(groups)
}

/// OpenSSL's name of a suite of rustls.
pub(super) fn suite_name(suite: CipherSuite) -> String {
    openssl_name(u16::from(suite))
}

/// OpenSSL's name of any suite the system's library knows; else its number.
pub(super) fn openssl_name(number: u16) -> String {
    if let Some(suite) = SUITES.iter().find(|suite| suite.0 == number) {
        return suite.1.to_owned();
    }
    library_name(number).unwrap_or_else(|| format!("0x{number:04X}"))
}

fn library_name(number: u16) -> Option<String> {
    let context = SslContext::builder(SslMethod::tls()).ok()?.build();
    let ssl = Ssl::new(&context).ok()?;
    let lists = ssl
        .bytes_to_cipher_list(&number.to_be_bytes(), false)
        .ok()?;
    lists
        .suites
        .iter()
        .next()
        .map(|cipher| cipher.name().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Version; 2] = [Version::Tls12, Version::Tls13];

    fn names(list: &str) -> (Vec<String>, usize) {
        let mut warnings = Vec::new();
        let suites = suites(Some(list), &BOTH, &mut warnings).expect("ciphers");
        let names = suites.iter().map(|suite| suite_name(suite.suite()));
        (names.collect(), warnings.len())
    }

    #[test]
    fn groups_of_ciphers_mean_what_openssl_means_by_them() {
        let (all, warnings) = names("HIGH:!aNULL:!MD5");
        assert_eq!((all.len(), warnings), (9, 0));
        let (all, _) = names("DEFAULT");
        assert_eq!(all.len(), 9);
        let (some, warnings) = names("ECDHE+AESGCM:!AES128:!aECDSA");
        assert_eq!(some[3..], ["ECDHE-RSA-AES256-GCM-SHA384"]);
        assert_eq!(warnings, 0);
    }

    #[test]
    fn single_ciphers_keep_their_order() {
        let (some, warnings) = names(
            "ECDHE-RSA-AES128-GCM-SHA256:AES128-SHA:TLS_CHACHA20_POLY1305_SHA256:NONSENSE:\
             TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384:@SECLEVEL=1",
        );
        let expected = [
            "TLS_CHACHA20_POLY1305_SHA256",
            "ECDHE-RSA-AES128-GCM-SHA256",
            "ECDHE-RSA-AES256-GCM-SHA384",
        ];
        assert_eq!(some, expected);
        assert_eq!(warnings, 3);
    }

    #[test]
    fn a_list_that_leaves_nothing_is_an_error() {
        for list in [
            "AES128-SHA",
            "!ALL",
            "NONSENSE",
            "NON\0SENSE",
            "",
            ":::",
            "TLS_AES_128_CCM_SHA256",
        ] {
            assert!(
                suites(Some(list), &BOTH, &mut Vec::new()).is_err(),
                "{list}"
            );
        }
        assert!(suites(Some("AES128-SHA"), &[Version::Tls13], &mut Vec::new()).is_ok());
        assert!(groups(Some("secp521r1"), &mut Vec::new()).is_err());
    }

    #[test]
    fn curves_are_taken_under_all_their_names() {
        let mut warnings = Vec::new();
        let found = groups(Some("X25519:P-256:prime256v1:secp521r1"), &mut warnings).expect("two");
        assert_eq!((found.len(), warnings.len()), (2, 1));
    }

    #[test]
    fn ciphers_that_rustls_lacks_have_names_too() {
        assert_eq!(openssl_name(0x002f), "AES128-SHA");
        assert_eq!(openssl_name(0xc013), "ECDHE-RSA-AES128-SHA");
        assert_eq!(openssl_name(0xfafa), "0xFAFA");
    }
}
