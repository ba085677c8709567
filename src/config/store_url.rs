//! `limits_store`: where nodes keep what they share. The URL may hold a password: it stands in no message.

use std::fmt;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;

use super::address::{peer, socket_path};
use crate::secret::Secret;

/// Redis' own port.
const PORT: u16 = 6379;

/// Where a store is, and as whom it is used.
#[derive(Clone)]
pub struct StoreUrl {
    /// Whether to speak TLS.
    pub tls: bool,
    /// Whom to connect to.
    pub host: StoreHost,
    /// Name of the user, where it is not the default one.
    pub user: Option<String>,
    pub(crate) password: Option<Secret>,
    /// Number of the database.
    pub database: u32,
}

/// The host part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreHost {
    /// Host name or address (IPv6 without brackets), and port.
    Tcp(String, u16),
    /// Unix socket.
    Unix(PathBuf),
}

/// Without user and password.
impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            StoreHost::Tcp(host, port) => {
                let scheme = if self.tls { "rediss" } else { "redis" };
                match host.contains(':') {
                    true => write!(f, "{scheme}://[{host}]:{port}")?,
                    false => write!(f, "{scheme}://{host}:{port}")?,
                }
            }
            StoreHost::Unix(path) => write!(f, "unix:{}", path.display())?,
        }
        match self.database {
            0 => Ok(()),
            number => write!(f, "/{number}"),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

impl PartialEq for StoreUrl {
    fn eq(&self, other: &Self) -> bool {
        let secret = |url: &Self| url.password.as_ref().map(|secret| secret.expose().to_vec());
        let rest = |url: &Self| (url.tls, url.host.clone(), url.user.clone(), url.database);
        rest(self) == rest(other) && secret(self) == secret(other)
    }
}

/// `redis://[USER:PASSWORD@]HOST[:PORT][/DB]`, the same with `rediss`, or `unix:/path`; `redis+unix://` takes
/// `USER:PASSWORD@` and a path.
///
/// # Errors
/// For people: what is wrong, without what was written.
pub(super) fn store_url(text: &str, folder: &Path) -> Result<StoreUrl, String> {
    const FORM: &str = "write redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// or unix:/path";
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("a URL has no spaces or control characters".to_owned());
    }
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
        None => match text.strip_prefix("unix:") {
            Some(path) => ("unix".to_owned(), path),
            None => return Err(FORM.to_owned()),
        },
    };
    let (login, place) = match rest.rsplit_once('@') {
        Some((login, place)) => (Some(login), place),
        None => (None, rest),
    };
    let (user, password) = match login {
        Some(login) => user_and_password(login)?,
        None => (None, None),
    };
    let (host, database) = match scheme.as_str() {
        "redis" | "rediss" | "valkey" | "valkeys" => tcp(place)?,
        "unix" | "redis+unix" | "valkey+unix" => unix(place, folder)?,
        _ => return Err(FORM.to_owned()),
    };
    Ok(StoreUrl {
        tls: matches!(scheme.as_str(), "rediss" | "valkeys"),
        host,
        user,
        password,
        database,
    })
}

fn user_and_password(login: &str) -> Result<(Option<String>, Option<Secret>), String> {
    let (user, password) = match login.split_once(':') {
        Some(both) => both,
        None => return Err("a password is missing: write USER:PASSWORD@ or :PASSWORD@".to_owned()),
    };
    let user = percent_decode_str(user).decode_utf8();
    let user = user.map_err(|_| "the user's name is not valid UTF-8")?;
    let password: Vec<u8> = percent_decode_str(password).collect();
    if password.is_empty() {
        return Err("the password is empty".to_owned());
    }
    let user = Some(user.into_owned()).filter(|user| !user.is_empty());
    Ok((user, Some(Secret::new(password))))
}

fn tcp(place: &str) -> Result<(StoreHost, u32), String> {
    let (authority, path) = place.split_once('/').unwrap_or((place, ""));
    if authority.is_empty() {
        return Err("a host is missing".to_owned());
    }
    // What stands there may be the end of a password.
    let (host, port) = peer(authority, PORT)
        .map_err(|_| "what stands for the host is not HOST[:PORT], or has a wrong port")?;
    let database = match path {
        "" => 0,
        path => database(path)?,
    };
    Ok((StoreHost::Tcp(host, port), database))
}

fn unix(place: &str, folder: &Path) -> Result<(StoreHost, u32), String> {
    let (path, database) = match place.split_once("?db=") {
        Some((path, number)) => (path, database(number)?),
        None => (place, 0),
    };
    let path = socket_path(path, folder)
        .map_err(|_| "what stands for the socket is no path of at most 107 bytes")?;
    Ok((StoreHost::Unix(path), database))
}

fn database(text: &str) -> Result<u32, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = is_number.then(|| text.parse().ok()).flatten();
    number.ok_or_else(|| "the database behind the host must be a number".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> StoreUrl {
        store_url(text, Path::new("/etc/postern")).expect(text)
    }

    #[test]
    fn urls_name_host_user_and_database() {
        let plain = url("redis://store.example.org");
        assert_eq!(
            plain.host,
            StoreHost::Tcp("store.example.org".to_owned(), 6379)
        );
        assert!(!plain.tls && plain.password.is_none() && plain.database == 0);
        let all = url("rediss://me:p%40ss:w%2Frd@[2001:db8::1]:7000/3");
        assert_eq!(all.host, StoreHost::Tcp("2001:db8::1".to_owned(), 7000));
        assert_eq!(all.user.as_deref(), Some("me"));
        assert_eq!(
            all.password.as_ref().map(Secret::expose),
            Some(&b"p@ss:w/rd"[..])
        );
        assert!(all.tls && all.database == 3);
        let unix = url("unix:redis.sock?db=2");
        assert_eq!(unix.host, StoreHost::Unix("/etc/postern/redis.sock".into()));
        assert_eq!(unix.database, 2);
        let unix = url("redis+unix://:secret@/run/redis.sock");
        assert_eq!(unix.host, StoreHost::Unix("/run/redis.sock".into()));
        assert!(unix.user.is_none() && unix.password.is_some());
        assert_eq!(url("valkey://127.0.0.1:1/"), url("redis://127.0.0.1:1"));
    }

    #[test]
    fn a_password_is_shown_nowhere() {
        let secret = url("redis://me:geheim@store:1/2");
        for shown in [format!("{secret}"), format!("{secret:?}")] {
            assert!(
                !shown.contains("geheim") && !shown.contains("me:"),
                "{shown}"
            );
        }
        assert_ne!(secret, url("redis://me:anders@store:1/2"));
        for wrong in [
            "redis://me:geheim@",
            "redis://me:geheim@store:port",
            "redis://me:geheim@store/x",
            "http://me:geheim@store",
            "me:geheim@store",
            "redis://geheim@store",
            "redis://me:geh eim@store",
            "redis://a:geheim@b:geheim@store:99999",
            "rediss://%ff:geheim@store",
        ] {
            let error = store_url(wrong, Path::new("/")).expect_err(wrong);
            assert!(!error.contains("geheim"), "{wrong}: {error}");
        }
        for wrong in ["", "redis://", "redis:///0", "unix:", "redis://:@store"] {
            assert!(store_url(wrong, Path::new("/")).is_err(), "{wrong}");
        }
    }
}
