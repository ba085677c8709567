//! The kinds of values that TLS directives have: versions, OpenSSL's lists, caches, names of peers.
//!
//! As in `value`: text in, typed value or a sentence for the administrator out. Whether the chosen
//! library can honour a value, and what is in files, is found by `check_tls`.

use std::net::IpAddr;

use super::value::{fields, is_host_name, list, one_of, shown};
use crate::tls::SessionCache;

/// Longest list of ciphers or groups, in characters.
const MAX_LIST: usize = 4096;

/// Longest value of the other kinds, in characters.
const MAX_VALUE: usize = 512;

/// TLS versions as OpenSSL's users write them; at least one.
pub(super) fn protocols(text: &str) -> Result<Vec<String>, String> {
    let known = ["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"].map(|name| (name, name));
    let mut names = Vec::new();
    for item in list(text)? {
        if ["sslv2", "sslv3"].contains(&item.to_ascii_lowercase().as_str()) {
            return Err(format!("{item} is broken: no library here speaks it"));
        }
        names.push(one_of(&item, &known)?.to_owned());
    }
    if names.is_empty() {
        return Err("is empty".to_owned());
    }
    Ok(names)
}

/// A list in OpenSSL's spelling, `A:B`; the separators of other lists do as well.
pub(super) fn openssl_list(text: &str) -> Result<String, String> {
    let joined = list(text)?.join(":");
    if joined.is_empty() {
        return Err("is empty".to_owned());
    }
    if joined.len() > MAX_LIST {
        return Err(format!("is longer than {MAX_LIST} characters"));
    }
    Ok(joined)
}

/// Groups for the key exchange; `None` is `auto`, the library's choice.
pub(super) fn curves(text: &str) -> Result<Option<String>, String> {
    let joined = openssl_list(text)?;
    Ok((!joined.eq_ignore_ascii_case("auto")).then_some(joined))
}

/// `none`, `off`, `builtin[:SESSIONS]`, `shared:NAME:SIZE`, or the last two together.
pub(super) fn session_cache(text: &str) -> Result<SessionCache, String> {
    short(list(text)?.join(" "))?.parse()
}

/// The name that a certificate must have: a host name or an address.
pub(super) fn peer_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if !is_host_name(name) && name.parse::<IpAddr>().is_err() {
        return Err(format!("{} is not a host name or address", shown(text)));
    }
    Ok(name.to_owned())
}

/// One fingerprint; its digits are looked at where it is used.
pub(super) fn fingerprint(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("a fingerprint is missing".to_owned());
    }
    short(text.to_owned())
}

/// `NAME VALUE`, as for OpenSSL's `SSL_CONF_cmd`.
pub(super) fn conf_command(text: &str) -> Result<String, String> {
    match &fields(text)?[..] {
        [name, value] => short(format!("{name} {value}")),
        _ => Err("write NAME VALUE".to_owned()),
    }
}

fn short(text: String) -> Result<String, String> {
    if text.len() > MAX_VALUE {
        return Err(format!("is longer than {MAX_VALUE} characters"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_openssls_names_in_any_case() {
        assert_eq!(
            protocols("tlsv1.3, TLSv1.2"),
            Ok(vec!["TLSv1.3".to_owned(), "TLSv1.2".to_owned()])
        );
        assert!(protocols("").is_err() && protocols(" , ").is_err());
        let text = protocols("TLSv1.2 SSLv3").expect_err("broken");
        assert_eq!(text, "SSLv3 is broken: no library here speaks it");
        let text = protocols("TSLv1.3").expect_err("misspelt");
        assert!(text.ends_with("did you mean `TLSv1.3`?"), "{text}");
    }

    #[test]
    fn lists_of_openssl_take_every_separator_and_quotes() {
        for text in ["A:B", "A B", "A,B", "\"A:B\"", "A:\tB:"] {
            let joined = openssl_list(text).expect(text);
            assert!(
                joined
                    .split(':')
                    .filter(|name| !name.is_empty())
                    .eq(["A", "B"])
            );
        }
        assert!(openssl_list("").is_err() && openssl_list("\"A").is_err());
        assert!(openssl_list(&"A:".repeat(3000)).is_err());
        assert_eq!(curves("auto"), Ok(None));
        assert_eq!(curves("X25519"), Ok(Some("X25519".to_owned())));
    }

    #[test]
    fn caches_are_separated_by_spaces() {
        let shared = SessionCache::Shared {
            name: "SSL".to_owned(),
            bytes: 1 << 20,
        };
        assert_eq!(session_cache("builtin:1000   shared:SSL:1m"), Ok(shared));
        assert!(session_cache("").is_err() && session_cache("shared:SSL").is_err());
        assert!(session_cache(&"x".repeat(600)).is_err());
    }

    #[test]
    fn peers_have_host_names_or_addresses() {
        assert_eq!(
            peer_name("imap.example.org.").as_deref(),
            Ok("imap.example.org")
        );
        assert_eq!(peer_name("::1").as_deref(), Ok("::1"));
        for text in ["", ".", "a b", "a..b", "[::1]", "h:993", "ä.org", "*"] {
            assert!(peer_name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_command_of_openssl_is_a_name_and_a_value() {
        assert_eq!(conf_command("Groups  \"a b\"").as_deref(), Ok("Groups a b"));
        assert!(conf_command("Groups").is_err() && conf_command("a b c").is_err());
    }
}
