//! What Zimbra, and Carbonio after it, added to nginx's mail proxy: what it is, and what replaces it.
//!
//! `zm_auth_http` asks the servers of `zm_lookup {}`, which speak as `auth_http` does.

use super::directives::How::{self, By, Lost, Needless};
use super::directives::{Converted, Setting, Surroundings};
use super::tree::Directive;

/// Where Zimbra's look-up listens unless its URL says otherwise.
const LOOKUP_PORT: u16 = 7072;

const MEMCACHE: &str = "it is the cache of Zimbra's look-up; Postern asks auth_http with each login, and \
                        nothing needs to be done";
const KERBEROS: &str = "it is for Kerberos (gssapi), which Postern does not have; nothing else needs \
                        to be done";
const GREETING: &str =
    "Postern's greeting is a fixed one, without name and version; nothing needs to be done";
const PART: &str =
    "it goes with mail_login_ip_max and mail_login_user_max; nothing else needs to be done";
const ADDRESS: &str = "it tells the backend the client's address; Postern does so with send_client_id = auto, \
                       which Dovecot takes from its login_trusted_networks, or with proxy_protocol, which \
                       the backend must expect";
const MASTER: &str = "it is the account that Zimbra's nginx logs in with for Kerberos and client certificates; \
                      let the auth server answer with Auth-User and Auth-Pass";

/// As the table of all others.
pub(super) const TABLE: &[(&str, How)] = &[
    ("zm_auth_http", By(lookup)),
    (
        "zm_auth_wait",
        Lost("it holds refused logins back; let the auth server answer with Auth-Wait"),
    ),
    (
        "auth_wait",
        Lost("it holds refused logins back; let the auth server answer with Auth-Wait"),
    ),
    (
        "proxy_ctimeout",
        Lost(
            "it limits the connection to a backend; timeout limits the whole login to it here, and \
             connect_timeout of a [backend NAME] the connection",
        ),
    ),
    (
        "imap_literalauth",
        Needless(
            "Postern sends literals where a name or password needs them; nothing needs to be done",
        ),
    ),
    (
        "imap_id",
        Needless("before the login Postern answers ID with NIL; nothing needs to be done"),
    ),
    ("imap_greeting", Needless(GREETING)),
    ("pop3_greeting", Needless(GREETING)),
    ("proxy_issue_pop3_xoip", Lost(ADDRESS)),
    ("proxy_issue_imap_id", Lost(ADDRESS)),
    ("master_auth_username", Lost(MASTER)),
    ("master_auth_password", Lost(MASTER)),
    ("default_realm", Needless(KERBEROS)),
    ("sasl_app_name", Needless(KERBEROS)),
    ("sasl_service_name", Needless(KERBEROS)),
    ("sasl_host_from_ip", Needless(KERBEROS)),
    ("memcache_servers", Needless(MEMCACHE)),
    ("memcache_timeout", Needless(MEMCACHE)),
    ("memcache_reconnect_interval", Needless(MEMCACHE)),
    ("memcache_entry_ttl", Needless(MEMCACHE)),
    ("memcache_entry_allow_unqualified", Needless(MEMCACHE)),
    ("mail_login_ip_max", By(most_logins)),
    ("mail_login_ip_ttl", Needless(PART)),
    ("mail_login_ip_rejectmsg", Needless(PART)),
    ("mail_login_user_max", By(most_logins)),
    ("mail_login_user_ttl", Needless(PART)),
    ("mail_login_user_rejectmsg", Needless(PART)),
];

/// `zm_auth_http`: the servers of `zm_lookup_handlers` as ours.
fn lookup(_: &'static str, _: &Directive, around: &Surroundings) -> Result<Converted, String> {
    if around.zimbra_lookups.is_empty() {
        return Err(format!(
            "it is Zimbra's look-up of users, whose zm_lookup_handlers are not there; write each URL of \
             them as auth_http, such as https://HOST:{LOOKUP_PORT}/service/extension/nginx-lookup"
        ));
    }
    let settings = around.zimbra_lookups.iter().map(|url| Setting {
        key: "auth_http",
        value: with_port(url),
    });
    Ok(Converted {
        settings: settings.collect(),
        left_out: vec![
            "all of Zimbra's look-up of users but its zm_lookup_handlers, which are auth_http here. Postern \
             checks certificates there and at backends (auth_http_ssl_verify, proxy_ssl_verify), and asks \
             for imap and pop3, never for imapssl and pop3ssl: the answer names the port without TLS, at \
             which proxy_ssl = on has to be proxy_ssl = starttls"
                .to_owned(),
        ],
        ..Converted::default()
    })
}

/// `mail_login_ip_max` and `mail_login_user_max`, of which 0 is no limit.
fn most_logins(
    _: &'static str,
    directive: &Directive,
    _: &Surroundings,
) -> Result<Converted, String> {
    if directive.arguments == ["0"] {
        return Ok(Converted::default());
    }
    Err(
        "it limits the logins of an address or a user, which Postern leaves to others: let the auth server \
         refuse them with Auth-Wait, or fail2ban read the log"
            .to_owned(),
    )
}

/// The URL with the port that Zimbra takes by default.
fn with_port(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let behind_brackets = host.rsplit(']').next().unwrap_or(host);
    match behind_brackets.contains(':') {
        true => url.to_owned(),
        false => format!("{scheme}://{host}:{LOOKUP_PORT}{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lookup_without_port_gets_the_one_of_zimbra() {
        assert_eq!(with_port("https://a/b:c"), "https://a:7072/b:c");
        assert_eq!(with_port("https://a:1/b"), "https://a:1/b");
        assert_eq!(with_port("http://[::1]"), "http://[::1]:7072");
        assert_eq!(with_port("http://[::1]:1/"), "http://[::1]:1/");
        assert_eq!(with_port("a/b"), "a/b");
    }
}
