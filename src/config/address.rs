//! Hosts, ports and what is made of them: `auth_http`, `resolver`, `set_real_ip_from`.
//!
//! `listen` has a file of its own and takes its parts from here. Names stay names: they are resolved
//! when they are needed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net};

use super::value::{self, flag, is_host_name, shown, time, unknown};
use super::{HttpHost, HttpUrl, Resolver, TrustedPeer};

/// Longest path that fits a socket address.
const MAX_SOCKET_PATH: usize = 107;

/// A host as it is written in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Host<'a> {
    /// IPv6 addresses stand in brackets.
    Ip(IpAddr),
    /// A name, a number, or `*`.
    Name(&'a str),
}

/// Takes `HOST`, `HOST:PORT`, `[v6]` or `[v6]:PORT` apart; the port stays text.
pub(super) fn host_and_port(text: &str) -> Result<(Host<'_>, Option<&str>), String> {
    if let Some(rest) = text.strip_prefix('[') {
        let bad = || format!("{} is not an IPv6 address in brackets", shown(text));
        let (address, tail) = rest.split_once(']').ok_or_else(bad)?;
        let ip: Ipv6Addr = address.parse().map_err(|_| bad())?;
        let port = match tail.strip_prefix(':') {
            Some(port) => Some(port),
            None if tail.is_empty() => None,
            None => return Err(bad()),
        };
        return Ok((Host::Ip(IpAddr::V6(ip)), port));
    }
    if text.matches(':').count() > 1 {
        let text = shown(text);
        return Err(format!("{text}: write IPv6 addresses in brackets, [::1]"));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    if host == "*" {
        return Ok((Host::Name(host), port));
    }
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return Ok((Host::Ip(IpAddr::V4(ip)), port));
    }
    let numeric = host
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let may_be_port = port.is_none() && !host.contains('.');
    if (numeric && !may_be_port) || !is_host_name(host) {
        return Err(format!("{} is not an address or host name", shown(host)));
    }
    Ok((Host::Name(host), port))
}

/// Digits alone, up to 65535.
pub(super) fn port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// A Unix socket, relative to the configuration's folder.
pub(super) fn socket_path(text: &str, folder: &Path) -> Result<PathBuf, String> {
    let path = value::path(text, folder)?;
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        let text = shown(text);
        return Err(format!(
            "{text} is too long for a socket (at most {MAX_SOCKET_PATH} bytes)"
        ));
    }
    Ok(path)
}

/// `http://HOST[:PORT]/URI`, the same without scheme or with `https`, or `unix:/path:/uri`. The URI
/// may hold a secret: it stands in no message.
pub(super) fn http_url(text: &str, folder: &Path) -> Result<HttpUrl, String> {
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("a URL has no spaces or control characters".to_owned());
    }
    let (tls, rest) = match text.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['/', '?', ':']) => {
            match scheme.to_ascii_lowercase().as_str() {
                "http" => (false, rest),
                "https" => (true, rest),
                _ => {
                    let scheme = shown(scheme);
                    return Err(format!("{scheme} is unknown; write http:// or https://"));
                }
            }
        }
        _ => (false, text),
    };
    if let Some(rest) = rest.strip_prefix("unix:") {
        if tls {
            return Err("there is no TLS on a Unix socket: write unix:/path:/uri".to_owned());
        }
        let (path, uri) = rest.split_once(':').unwrap_or((rest, ""));
        return Ok(HttpUrl {
            tls: false,
            host: HttpHost::Unix(socket_path(path, folder)?),
            uri: request_target(uri)?,
        });
    }

    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, uri) = rest.split_at(end);
    if authority.contains('@') {
        return Err("no login in a URL: use auth_http_header = Authorization …".to_owned());
    }
    let (host, port) = peer(authority, if tls { 443 } else { 80 })?;
    Ok(HttpUrl {
        tls,
        host: HttpHost::Tcp(host, port),
        uri: request_target(uri)?,
    })
}

/// `HOST[:PORT]` to connect to: name or address (IPv6 without its brackets), and port.
pub(super) fn peer(text: &str, default_port: u16) -> Result<(String, u16), String> {
    let (host, port_text) = host_and_port(text)?;
    let host = match host {
        Host::Name(name) if name == "*" || name.bytes().all(|b| b.is_ascii_digit()) => {
            return Err(format!("{} is no host to connect to", shown(text)));
        }
        Host::Name(name) => name.to_owned(),
        Host::Ip(ip) => ip.to_string(),
    };
    match port_text.map_or(Some(default_port), port) {
        Some(port) if port > 0 => Ok((host, port)),
        _ => Err(format!("{} has no port from 1 to 65535", shown(text))),
    }
}

fn request_target(uri: &str) -> Result<String, String> {
    match uri.chars().next() {
        Some('/') => Ok(uri.to_owned()),
        Some('?') => Ok(format!("/{uri}")),
        None => Ok("/".to_owned()),
        Some(_) => Err("the part after the address must begin with `/`".to_owned()),
    }
}

/// `off`, `system`, or `ADDR[:PORT] … [valid=T] [ipv4=on|off] [ipv6=on|off]`.
pub(super) fn resolver(text: &str) -> Result<Option<Resolver>, String> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    let mut resolver = Resolver {
        servers: Vec::new(),
        valid: None,
        ipv4: true,
        ipv6: true,
    };
    let mut system = false;
    for word in value::list(text)? {
        match word.split_once('=') {
            Some(("valid", text)) => resolver.valid = Some(time(text, value::POSITIVE)?),
            Some(("ipv4", text)) => resolver.ipv4 = flag(text)?,
            Some(("ipv6", text)) => resolver.ipv6 = flag(text)?,
            Some((name, _)) => {
                return Err(unknown(name, "settings are", &["valid", "ipv4", "ipv6"]));
            }
            None if word == "system" => system = true,
            None => resolver.servers.push(dns_server(&word)?),
        }
    }
    if system != resolver.servers.is_empty() {
        return Err("write `off`, `system` or addresses of DNS servers".to_owned());
    }
    if !resolver.ipv4 && !resolver.ipv6 {
        return Err("ipv4 and ipv6 are both off: nothing would be asked for".to_owned());
    }
    Ok(Some(resolver))
}

fn dns_server(text: &str) -> Result<SocketAddr, String> {
    let (host, port_text) = host_and_port(text)?;
    let Host::Ip(ip) = host else {
        return Err(format!("{} is not an address", shown(text)));
    };
    match port_text.map_or(Some(53), port) {
        Some(port) if port > 0 => Ok(SocketAddr::new(ip, port)),
        _ => Err(format!("{} has no port from 1 to 65535", shown(text))),
    }
}

/// `unix:`, an address or a range; the second value says that a range has meaningless bits.
pub(super) fn trusted_peer(text: &str) -> Result<(TrustedPeer, Option<String>), String> {
    if text == "unix:" {
        return Ok((TrustedPeer::Unix, None));
    }
    let (net, note) = net(text).ok_or_else(|| {
        format!(
            "{} is not an address, a range (10.0.0.0/8) or unix:",
            shown(text)
        )
    })?;
    Ok((TrustedPeer::Net(net), note))
}

/// An address or a range, and what is to be said of it.
pub(super) fn range(text: &str) -> Result<(IpNet, Option<String>), String> {
    net(text).ok_or_else(|| format!("{} is not an address or a range (10.0.0.0/8)", shown(text)))
}

fn net(text: &str) -> Option<(IpNet, Option<String>)> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let net = match bare.unwrap_or(text).parse::<IpAddr>() {
        Ok(ip) => IpNet::from(ip),
        Err(_) => text.parse::<IpNet>().ok()?,
    };
    let host_bits = net.trunc() != net;
    let note = host_bits.then(|| format!("low bits of {} are ignored", shown(text)));
    Some((unmapped(net.trunc()), note))
}

/// Peers' IPv4-mapped addresses are compared as IPv4.
fn unmapped(net: IpNet) -> IpNet {
    if let IpNet::V6(v6) = net
        && let Some(v4) = v6.addr().to_ipv4_mapped()
        && let Some(length) = v6.prefix_len().checked_sub(96)
        && let Ok(v4) = Ipv4Net::new(v4, length)
    {
        return IpNet::V4(v4);
    }
    net
}

/// Without the query, which may hold a secret.
impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        let path = self.uri.split('?').next().unwrap_or_default();
        match &self.host {
            HttpHost::Tcp(host, port) if host.contains(':') => {
                write!(f, "{scheme}://[{host}]:{port}{path}")
            }
            HttpHost::Tcp(host, port) => write!(f, "{scheme}://{host}:{port}{path}"),
            HttpHost::Unix(socket) => write!(f, "unix:{}:{path}", socket.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn url(text: &str) -> Result<String, String> {
        let url = http_url(text, Path::new("/etc"))?;
        Ok(match url.host {
            HttpHost::Tcp(host, port) => format!("{host} {port} {}", url.uri),
            HttpHost::Unix(path) => format!("{} {}", path.display(), url.uri),
        })
    }

    #[test]
    fn auth_http_takes_every_form_of_url() {
        assert_eq!(url("http://h:9000/a?b#c").as_deref(), Ok("h 9000 /a?b#c"));
        assert_eq!(url("HTTP://h").as_deref(), Ok("h 80 /"));
        assert_eq!(url("https://h/a").as_deref(), Ok("h 443 /a"));
        assert_eq!(url("HTTPS://[::1]:81").as_deref(), Ok("::1 81 /"));
        assert_eq!(
            url("localhost:9000/auth").as_deref(),
            Ok("localhost 9000 /auth")
        );
        assert_eq!(url("h?x=http://y/").as_deref(), Ok("h 80 /?x=http://y/"));
        assert_eq!(url("[::1]:81/a").as_deref(), Ok("::1 81 /a"));
        assert_eq!(url("127.0.0.1").as_deref(), Ok("127.0.0.1 80 /"));
        assert_eq!(url("unix:/s:/u").as_deref(), Ok("/s /u"));
        assert_eq!(url("http://unix:/s:").as_deref(), Ok("/s /"));
        assert_eq!(url("unix:s").as_deref(), Ok("/etc/s /"));
    }

    #[test]
    fn auth_http_refuses_what_is_no_url() {
        for text in [
            "",
            "http://",
            "http:///a",
            "h:0/a",
            "h:65536",
            "h:x/a",
            "h /a",
            "h/a\tb",
            "h/\u{7f}",
            "ftp://h/",
            "://h",
            "unix:",
            "unix::/a",
            "unix:/s:a",
            "::1/a",
            "*/a",
            "h:/a",
            "h,i/a",
            "https://unix:/s:/u",
            "https://",
            "9000/auth",
            "9000:80",
        ] {
            assert!(url(text).is_err(), "{text}");
        }
        let text = url("http://me:geheim@h/").expect_err("a login");
        assert!(!text.contains("geheim"));
    }

    #[test]
    fn a_printed_url_has_no_query() {
        let url = http_url("h/a?key=geheim", Path::new("")).expect("a URL");
        assert_eq!(url.to_string(), "http://h:80/a");
        assert!(!url.tls);
        let url = http_url("https://h/a", Path::new("")).expect("a URL");
        assert_eq!(
            (url.tls, url.to_string().as_str()),
            (true, "https://h:443/a")
        );
    }

    #[test]
    fn resolvers_are_addresses_system_or_off() {
        assert_eq!(resolver("off"), Ok(None));
        let system = resolver("system valid=30s")
            .expect("a resolver")
            .expect("on");
        assert!(system.servers.is_empty() && system.valid == Some(Duration::from_secs(30)));
        let servers = resolver("127.0.0.1 [::1]:5353 ipv6=off")
            .expect("a resolver")
            .expect("on");
        assert!(servers.ipv4 && !servers.ipv6);
        assert_eq!(servers.servers[0].to_string(), "127.0.0.1:53");
        assert_eq!(servers.servers[1].to_string(), "[::1]:5353");
        for text in [
            "",
            "ns.example.org",
            "127.0.0.1:0",
            "127.0.0.1:x",
            "::1",
            "system 127.0.0.1",
            "valid=5s",
            "127.0.0.1 valid=0",
            "127.0.0.1 ipv4=off ipv6=off",
            "127.0.0.1 zone=x",
            "127.0.0.1 off",
            "*",
        ] {
            assert!(resolver(text).is_err(), "{text}");
        }
    }

    #[test]
    fn trusted_peers_are_addresses_ranges_or_unix() {
        let net =
            |text| trusted_peer(text).map(|(peer, note)| (format!("{peer:?}"), note.is_some()));
        assert_eq!(net("10.0.0.0/8"), Ok(("Net(10.0.0.0/8)".to_owned(), false)));
        assert_eq!(net("10.1.0.0/8"), Ok(("Net(10.0.0.0/8)".to_owned(), true)));
        assert_eq!(net("::1"), Ok(("Net(::1/128)".to_owned(), false)));
        assert_eq!(
            net("::ffff:10.0.0.0/104"),
            Ok(("Net(10.0.0.0/8)".to_owned(), false))
        );
        assert_eq!(net("unix:"), Ok(("Unix".to_owned(), false)));
        for text in [
            "",
            "host",
            "10.0.0.0/33",
            "10.0.0.0/",
            "unix:/x",
            "10.0.0.1 10.0.0.2",
        ] {
            assert!(net(text).is_err(), "{text}");
        }
    }
}
