//! What the configuration says about TLS, raw: paths, lists of names, switches.
//!
//! A field has its directive's name. `None` and empty lists mean that the directive is not set, so
//! that a library can refuse what was asked of it without refusing defaults. Nothing is read here.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// `ssl_session_timeout` when it is not set.
pub(crate) const DEFAULT_SESSION_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Certificates between the peer's own and the trusted one, when `ssl_verify_depth` is not set.
pub(crate) const DEFAULT_VERIFY_DEPTH: u32 = 1;

/// Smallest `shared` session cache, as in nginx: eight pages.
const SMALLEST_SHARED_CACHE: usize = 8 * 4096;

/// `tls_library`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Library {
    /// rustls: TLS 1.2 and 1.3.
    #[default]
    Rustls,
    /// The operating system's library: as a server TLS 1.0 to 1.2.
    Native,
}

/// `ssl_verify_client`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum VerifyClient {
    /// No certificate is asked for.
    #[default]
    Off,
    /// A good certificate is required.
    On,
    /// A certificate may be missing, but not bad.
    Optional,
    /// A certificate may be missing, or of an unknown issuer.
    OptionalNoCa,
}

/// `ssl_login_from`: what of a client's certificate is its login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LoginFrom {
    /// Nothing.
    #[default]
    Off,
    /// The subject's common name.
    CommonName,
    /// The subject's emailAddress.
    Email,
    /// Each email address among the alternative names.
    SanEmail,
}

/// `ssl_session_cache`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SessionCache {
    /// Clients are told that sessions may be reused, but none is kept.
    #[default]
    None,
    /// Clients are told that sessions may not be reused.
    Off,
    /// A cache of this server's own.
    Builtin {
        /// How many sessions it holds.
        sessions: usize,
    },
    /// A cache that all servers share which give the same name.
    Shared {
        /// NAME of the cache.
        name: String,
        /// How many bytes it may take.
        bytes: usize,
    },
}

/// TLS towards the clients of one server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerSettings {
    /// The library on the wire.
    pub tls_library: Library,
    /// PEM files, each a certificate with its chain.
    pub ssl_certificate: Vec<PathBuf>,
    /// PEM files with the keys, in the order of `ssl_certificate`.
    pub ssl_certificate_key: Vec<PathBuf>,
    /// Passphrases, one a line, tried in order.
    pub ssl_password_file: Option<PathBuf>,
    /// OCSP responses in DER, each for one of the certificates.
    pub ssl_stapling_file: Vec<PathBuf>,
    /// `TLSv1` `TLSv1.1` `TLSv1.2` `TLSv1.3`; empty: TLSv1.2 and, with rustls, TLSv1.3.
    pub ssl_protocols: Vec<String>,
    /// OpenSSL's cipher list, with TLS 1.3 names where they are to be restricted.
    pub ssl_ciphers: Option<String>,
    /// Key exchange groups, separated by colons; `auto` is the library's choice.
    pub ssl_ecdh_curve: Option<String>,
    /// Whether the server's order of ciphers counts; off if unset.
    pub ssl_prefer_server_ciphers: Option<bool>,
    /// Where sessions are kept for stateful resumption; `none` if unset.
    pub ssl_session_cache: Option<SessionCache>,
    /// Whether sessions are kept by clients, in tickets; on if unset.
    pub ssl_session_tickets: Option<bool>,
    /// Files of 48 or 80 bytes: the first encrypts, all decrypt.
    pub ssl_session_ticket_key: Vec<PathBuf>,
    /// How long a session may be resumed; five minutes if unset.
    pub ssl_session_timeout: Option<Duration>,
    /// Whether clients need a certificate.
    pub ssl_verify_client: VerifyClient,
    /// What of a client's certificate is the login that EXTERNAL may ask for.
    pub ssl_login_from: LoginFrom,
    /// Trusted issuers of client certificates, named to clients.
    pub ssl_client_certificate: Option<PathBuf>,
    /// Further trusted issuers, not named to clients.
    pub ssl_trusted_certificate: Option<PathBuf>,
    /// Certificates allowed between the client's and the trusted one; 1 if unset.
    pub ssl_verify_depth: Option<u32>,
    /// Revocation lists of all issuers of client certificates.
    pub ssl_crl: Option<PathBuf>,
    /// Without effect: there is no finite-field Diffie-Hellman.
    pub ssl_dhparam: Option<PathBuf>,
    /// Without effect: OpenSSL is not on the wire.
    pub ssl_conf_command: Vec<String>,
}

/// What the fields of [`ClientSettings`] are called where they were set, for messages.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientDirectives {
    /// What speaks TLS there.
    pub peer: &'static str,
    /// What can be done where that does not speak TLS.
    pub without_tls: &'static str,
    /// Of `proxy_ssl_verify`.
    pub verify: &'static str,
    /// Of `proxy_ssl_trusted_certificate`.
    pub trusted_certificate: &'static str,
    /// Of `proxy_ssl_name`.
    pub name: &'static str,
    /// Of `proxy_ssl_certificate`.
    pub certificate: &'static str,
    /// Of `proxy_ssl_certificate_key`.
    pub certificate_key: &'static str,
    /// Of `proxy_ssl_password_file`.
    pub password_file: &'static str,
    /// Of `proxy_ssl_fingerprint`.
    pub fingerprint: &'static str,
    /// Of `proxy_ssl_protocols`.
    pub protocols: &'static str,
}

impl ClientDirectives {
    /// Towards backends.
    pub const PROXY_SSL: ClientDirectives = ClientDirectives {
        peer: "backend",
        without_tls: "set `proxy_ssl` to `starttls` or `off`, or name its port for TLS",
        verify: "proxy_ssl_verify",
        trusted_certificate: "proxy_ssl_trusted_certificate",
        name: "proxy_ssl_name",
        certificate: "proxy_ssl_certificate",
        certificate_key: "proxy_ssl_certificate_key",
        password_file: "proxy_ssl_password_file",
        fingerprint: "proxy_ssl_fingerprint",
        protocols: "proxy_ssl_protocols",
    };

    /// Towards the store that nodes share, which has one directive of its own.
    pub const LIMITS_STORE: ClientDirectives = ClientDirectives {
        peer: "store",
        without_tls: "write `redis://` in `limits_store`",
        trusted_certificate: "limits_store_trusted_certificate",
        ..ClientDirectives::PROXY_SSL
    };

    /// Towards auth servers.
    pub const AUTH_HTTP_SSL: ClientDirectives = ClientDirectives {
        peer: "auth server",
        without_tls: "write `http://` in `auth_http`, or name its port for TLS",
        verify: "auth_http_ssl_verify",
        trusted_certificate: "auth_http_ssl_trusted_certificate",
        name: "auth_http_ssl_name",
        certificate: "auth_http_ssl_certificate",
        certificate_key: "auth_http_ssl_certificate_key",
        password_file: "auth_http_ssl_password_file",
        fingerprint: "auth_http_ssl_fingerprint",
        protocols: "auth_http_ssl_protocols",
    };
}

/// TLS towards one backend or auth server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSettings {
    /// What the directives are called that these settings come from.
    pub directives: &'static ClientDirectives,
    /// The library on the wire.
    pub tls_library: Library,
    /// Whether the backend's certificate must be good; on by default.
    pub proxy_ssl_verify: bool,
    /// Trusted issuers; the system's store if unset.
    pub proxy_ssl_trusted_certificate: Option<PathBuf>,
    /// Name sent as SNI and looked for in the certificate; the backend's host name if unset.
    pub proxy_ssl_name: Option<String>,
    /// Our certificate with its chain.
    pub proxy_ssl_certificate: Option<PathBuf>,
    /// Its key.
    pub proxy_ssl_certificate_key: Option<PathBuf>,
    /// Passphrases for the key, one a line, tried in order.
    pub proxy_ssl_password_file: Option<PathBuf>,
    /// SHA-256 fingerprints in hex, colons allowed; the certificate must have one of them.
    pub proxy_ssl_fingerprint: Vec<String>,
    /// As `ssl_protocols`; empty: TLSv1.2 and TLSv1.3.
    pub proxy_ssl_protocols: Vec<String>,
}

impl Default for ClientSettings {
    fn default() -> Self {
        ClientSettings {
            directives: &ClientDirectives::PROXY_SSL,
            tls_library: Library::default(),
            proxy_ssl_verify: true,
            proxy_ssl_trusted_certificate: None,
            proxy_ssl_name: None,
            proxy_ssl_certificate: None,
            proxy_ssl_certificate_key: None,
            proxy_ssl_password_file: None,
            proxy_ssl_fingerprint: Vec::new(),
            proxy_ssl_protocols: Vec::new(),
        }
    }
}

impl FromStr for Library {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "rustls" => Ok(Library::Rustls),
            "native" => Ok(Library::Native),
            _ => Err(format!("`{text}` is neither `rustls` nor `native`")),
        }
    }
}

impl FromStr for VerifyClient {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(VerifyClient::Off),
            "on" => Ok(VerifyClient::On),
            "optional" => Ok(VerifyClient::Optional),
            "optional_no_ca" => Ok(VerifyClient::OptionalNoCa),
            _ => Err(format!(
                "`{text}` is none of `off`, `on`, `optional`, `optional_no_ca`"
            )),
        }
    }
}

impl FromStr for SessionCache {
    type Err = String;

    /// Takes the whole value: `none`, `off`, `builtin[:SESSIONS]`, `shared:NAME:SIZE`, or the last
    /// two together, in which case the shared one is used.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut found = None;
        for item in text.split([' ', ',', '\t']).filter(|item| !item.is_empty()) {
            let next = parse_cache(item)?;
            found = Some(match (found, next) {
                (None, next) => next,
                (Some(SessionCache::Builtin { .. }), shared @ SessionCache::Shared { .. }) => {
                    shared
                }
                (Some(shared @ SessionCache::Shared { .. }), SessionCache::Builtin { .. }) => {
                    shared
                }
                _ => return Err(format!("`{item}` does not go with the rest of `{text}`")),
            });
        }
        found.ok_or_else(|| "a kind of cache is missing".to_owned())
    }
}

fn parse_cache(item: &str) -> Result<SessionCache, String> {
    /// nginx's and OpenSSL's default for `builtin`.
    const BUILTIN_SESSIONS: usize = 20480;
    let bad =
        || format!("`{item}` is none of `none`, `off`, `builtin[:SESSIONS]`, `shared:NAME:SIZE`");
    match item.split(':').collect::<Vec<_>>().as_slice() {
        ["none"] => Ok(SessionCache::None),
        ["off"] => Ok(SessionCache::Off),
        ["builtin"] => Ok(SessionCache::Builtin {
            sessions: BUILTIN_SESSIONS,
        }),
        ["builtin", sessions] => match sessions.parse() {
            Ok(sessions) if sessions > 0 => Ok(SessionCache::Builtin { sessions }),
            _ => Err(bad()),
        },
        ["shared", name, size] if !name.is_empty() => {
            let bytes = parse_size(size).ok_or_else(bad)?;
            if bytes < SMALLEST_SHARED_CACHE {
                return Err(format!(
                    "session cache `{name}` is too small: it needs at least 32k"
                ));
            }
            Ok(SessionCache::Shared {
                name: (*name).to_owned(),
                bytes,
            })
        }
        _ => Err(bad()),
    }
}

fn parse_size(text: &str) -> Option<usize> {
    let (digits, factor) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 1024),
        b'm' | b'M' => (&text[..text.len() - 1], 1024 * 1024),
        _ => (text, 1),
    };
    digits.parse::<usize>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_caches_are_read_as_nginx_writes_them() {
        let shared = SessionCache::Shared {
            name: "SSL".to_owned(),
            bytes: 1 << 20,
        };
        assert_eq!("none".parse(), Ok(SessionCache::None));
        assert_eq!("off".parse(), Ok(SessionCache::Off));
        assert_eq!(
            "builtin:1000".parse(),
            Ok(SessionCache::Builtin { sessions: 1000 })
        );
        assert_eq!("builtin:1000 shared:SSL:1m".parse(), Ok(shared.clone()));
        assert_eq!("shared:SSL:1024k".parse(), Ok(shared));
        for bad in [
            "",
            "shared",
            "shared:SSL",
            "shared::1m",
            "shared:SSL:1",
            "builtin:0",
            "off builtin",
            "shared:A:1m shared:B:1m",
            "é",
            "shared:x:é",
        ] {
            assert!(bad.parse::<SessionCache>().is_err(), "{bad}");
        }
    }
}
