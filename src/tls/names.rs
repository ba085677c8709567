//! The names a certificate stands for, and whether a host name is among them (RFC 6125, as OpenSSL
//! applies it: the common name counts only where there is no DNS name).

use std::net::IpAddr;

use openssl::nid::Nid;
use openssl::x509::X509Ref;

/// How well a name fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    /// Through `*.`.
    Wildcard,
    /// Literally.
    Exact,
}

/// The names of one certificate.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    /// DNS names in lower case, without a final dot.
    dns: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl Names {
    /// Reads the names of a certificate; one that has none, or unreadable ones, fits nothing.
    pub(super) fn of(certificate: &X509Ref) -> Names {
        let mut names = Names::default();
        for name in certificate.subject_alt_names().iter().flatten() {
            if let Some(dns) = name.dnsname() {
                names.dns.push(normal(dns));
            }
            names
                .addresses
                .extend(name.ipaddress().and_then(address_from_bytes));
        }
        if names.dns.is_empty() {
            let common = certificate
                .subject_name()
                .entries_by_nid(Nid::COMMONNAME)
                .last()
                .and_then(|entry| entry.data().to_string().ok());
            names.dns.extend(common.map(|name| normal(&name)));
        }
        names
    }

    /// Whether `host`, a DNS name or an address, is among the names.
    pub(super) fn fit(&self, host: &str) -> Option<Fit> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return self.addresses.contains(&address).then_some(Fit::Exact);
        }
        let host = normal(host);
        if self.dns.contains(&host) {
            return Some(Fit::Exact);
        }
        let (first, parent) = host.split_once('.')?;
        let covers = |name: &String| name.strip_prefix("*.") == Some(parent);
        let possible = !first.is_empty() && parent.contains('.');
        (possible && self.dns.iter().any(covers)).then_some(Fit::Wildcard)
    }

    /// The first few names, for messages.
    pub(super) fn summary(&self) -> String {
        /// A certificate of a large site may have hundreds.
        const SHOWN: usize = 5;
        let addresses = self.addresses.iter().map(ToString::to_string);
        let mut all: Vec<String> = self.dns.iter().cloned().chain(addresses).collect();
        if all.is_empty() {
            return "no name".to_owned();
        }
        if all.len() > SHOWN {
            let more = all.len() - SHOWN;
            all.truncate(SHOWN);
            return format!("{} and {more} more", all.join(", "));
        }
        all.join(", ")
    }
}

fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn address_from_bytes(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_one_label_of_a_real_domain() {
        let names = Names {
            dns: vec![
                "mail.example.com".to_owned(),
                "*.example.org".to_owned(),
                "*.net".to_owned(),
            ],
            addresses: vec![IpAddr::from([192, 0, 2, 1])],
        };
        assert_eq!(names.fit("MAIL.example.com."), Some(Fit::Exact));
        assert_eq!(names.fit("imap.example.org"), Some(Fit::Wildcard));
        assert_eq!(names.fit("192.0.2.1"), Some(Fit::Exact));
        for other in [
            "example.org",
            "a.b.example.org",
            ".example.org",
            "example.net",
            "192.0.2.2",
            "",
        ] {
            assert_eq!(names.fit(other), None, "{other}");
        }
    }
}
