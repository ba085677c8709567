//! The value of `listen`: an address, a range of ports or a Unix socket, and flags.
//!
//! Host names are resolved here, since they are bound to. Whether two listeners clash is `check`'s
//! business.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::address::{Host, host_and_port, port, socket_path};
use super::mistake::{MistakeKind, WrongValue};
use super::value::{count, flag, one_of, shown, size, time, unknown};
use super::{Keepalive, Listen, ListenAddress, Status};

/// Turns a host name into addresses.
pub(super) type Lookup = fn(&str) -> Vec<IpAddr>;

/// Connections the kernel keeps unless `backlog=` says otherwise, as far as `net.core.somaxconn` lets it.
/// With nginx's 511 a herd that comes back after an outage overflows it.
const BACKLOG: i32 = 4096;

/// Longest range of ports: each is a socket and a thread.
const MAX_PORTS: usize = 1024;

const SOCKET_BUFFER: RangeInclusive<usize> = 256..=1 << 30;

/// Asks the system, hosts file included; no address if it knows none.
pub(super) fn system_lookup(host: &str) -> Vec<IpAddr> {
    let found = (host, 0).to_socket_addrs();
    found.map_or_else(
        |_| Vec::new(),
        |list| list.map(|found| found.ip()).collect(),
    )
}

/// One `listen` line as its listeners; what is without effect goes to `warnings`.
pub(super) fn listen(
    text: &str,
    folder: &Path,
    lookup: Lookup,
    warnings: &mut Vec<String>,
) -> Result<Vec<Listen>, WrongValue> {
    let mut words = text.split_whitespace();
    let address = words.next().ok_or("an address or port is missing")?;
    let addresses = listen_addresses(address, folder, lookup)?;

    let mut flags = Flags::default();
    let mut seen: Vec<&str> = Vec::new();
    for word in words {
        let name = word.split_once('=').map_or(word, |(name, _)| name);
        if seen.contains(&name) {
            return Err(format!("{} stands twice", shown(name)).into());
        }
        seen.push(name);
        flags.set(word, warnings)?;
    }

    let unix = |address: &ListenAddress| matches!(address, ListenAddress::Unix(_));
    let v6 = |address: &ListenAddress| matches!(address, ListenAddress::Tcp(SocketAddr::V6(_)));
    if flags.ipv6only.is_some() && !addresses.iter().any(v6) {
        return Err("`ipv6only` needs an IPv6 address".into());
    }
    if flags.so_keepalive != Keepalive::Unset && addresses.iter().all(unix) {
        warnings.push("`so_keepalive` has no effect on a Unix socket".to_owned());
    }
    Ok(addresses.into_iter().map(|at| flags.apply(at)).collect())
}

/// The value of `status`: `off`, or one TCP port, which without an address is that of this machine alone.
pub(super) fn status(text: &str, lookup: Lookup) -> Result<Option<Status>, WrongValue> {
    if text == "off" {
        return Ok(None);
    }
    if text.starts_with("unix:") {
        return Err("takes ADDRESS:PORT or PORT".into());
    }
    let (host, ports) = match host_and_port(text)? {
        (Host::Name(ports), None) if port(ports).is_some() => (Host::Name("localhost"), ports),
        (host, Some(ports)) => (host, ports),
        (_, None) => return Err(format!("{} is not off, PORT or ADDRESS:PORT", shown(text)).into()),
    };
    let port = port(ports).ok_or_else(|| format!("{} is not a port", shown(ports)))?;
    let name = match host {
        Host::Name("*" | "localhost") | Host::Ip(_) => None,
        Host::Name(name) => Some(name.to_ascii_lowercase()),
    };
    let ips = match host {
        Host::Name("*") => vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)],
        Host::Name("localhost") => vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        Host::Ip(ip) => vec![ip],
        Host::Name(name) => lookup(name),
    };
    let Some(ip) = ips.first() else {
        return Err(unresolved(text));
    };
    let address = ListenAddress::Tcp(SocketAddr::new(*ip, port));
    Ok(Some(Status {
        listen: Flags::default().apply(address),
        host: name,
    }))
}

fn unresolved(text: &str) -> WrongValue {
    WrongValue {
        kind: MistakeKind::UnresolvedName,
        text: format!("the host name in {} cannot be resolved", shown(text)),
    }
}

struct Flags {
    ssl: bool,
    proxy_protocol: bool,
    backlog: i32,
    rcvbuf: Option<usize>,
    sndbuf: Option<usize>,
    ipv6only: Option<bool>,
    so_keepalive: Keepalive,
}

impl Default for Flags {
    fn default() -> Self {
        Self {
            ssl: false,
            proxy_protocol: false,
            backlog: BACKLOG,
            rcvbuf: None,
            sndbuf: None,
            ipv6only: None,
            so_keepalive: Keepalive::Unset,
        }
    }
}

impl Flags {
    const NAMES: [&str; 8] = [
        "ssl",
        "proxy_protocol",
        "backlog",
        "rcvbuf",
        "sndbuf",
        "ipv6only",
        "so_keepalive",
        "bind",
    ];

    fn set(&mut self, word: &str, warnings: &mut Vec<String>) -> Result<(), String> {
        match word.split_once('=') {
            None => match word {
                "ssl" => self.ssl = true,
                "proxy_protocol" => self.proxy_protocol = true,
                "bind" => warnings.push("`bind` has no effect".to_owned()),
                name if Self::NAMES.contains(&name) => {
                    return Err(format!("`{name}` needs a value: `{name}=…`"));
                }
                _ => return Err(unknown(word, "flags are", &Self::NAMES)),
            },
            Some((name, value)) => {
                let named = |error| format!("{name}: {error}");
                match name {
                    "backlog" => self.backlog = count(value, 1..=65535).map_err(named)?,
                    "rcvbuf" => self.rcvbuf = Some(size(value, SOCKET_BUFFER).map_err(named)?),
                    "sndbuf" => self.sndbuf = Some(size(value, SOCKET_BUFFER).map_err(named)?),
                    "ipv6only" => self.ipv6only = Some(flag(value).map_err(named)?),
                    "so_keepalive" => self.so_keepalive = keepalive(value).map_err(named)?,
                    name if Self::NAMES.contains(&name) => {
                        return Err(format!("`{name}` takes no value"));
                    }
                    _ => return Err(unknown(name, "flags are", &Self::NAMES)),
                }
            }
        }
        Ok(())
    }

    fn apply(&self, address: ListenAddress) -> Listen {
        Listen {
            address,
            ssl: self.ssl,
            proxy_protocol: self.proxy_protocol,
            backlog: self.backlog,
            rcvbuf: self.rcvbuf,
            sndbuf: self.sndbuf,
            ipv6only: self.ipv6only.unwrap_or(true),
            so_keepalive: self.so_keepalive,
        }
    }
}

/// `on`, `off` or `IDLE:INTVL:CNT`, each of which may be empty but not all of them.
fn keepalive(text: &str) -> Result<Keepalive, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let [idle, interval, probes] = parts[..] else {
        let words = [("on", true), ("off", false)];
        let on = one_of(text, &words)
            .map_err(|_| format!("{} is not on, off or IDLE:INTVL:CNT", shown(text)))?;
        return Ok(if on {
            Keepalive::On {
                idle: None,
                interval: None,
                count: None,
            }
        } else {
            Keepalive::Off
        });
    };
    if text == "::" {
        return Err("one of IDLE:INTVL:CNT must be given".to_owned());
    }
    // What the kernel takes: whole seconds up to 32767, 127 probes.
    let seconds = Duration::from_secs(1)..=Duration::from_secs(32767);
    let given = |text: &str| {
        (!text.is_empty())
            .then(|| time(text, seconds.clone()))
            .transpose()
    };
    let probes = (!probes.is_empty()).then(|| count(probes, 1..=127));
    Ok(Keepalive::On {
        idle: given(idle)?,
        interval: given(interval)?,
        count: probes.transpose()?,
    })
}

fn listen_addresses(
    text: &str,
    folder: &Path,
    lookup: Lookup,
) -> Result<Vec<ListenAddress>, WrongValue> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(vec![ListenAddress::Unix(socket_path(path, folder)?)]);
    }
    let (host, ports) = match host_and_port(text)? {
        (host, Some(ports)) => (host, port_range(ports)?),
        (Host::Name(ports), None) if ports.bytes().all(|b| b.is_ascii_digit() || b == b'-') => {
            (Host::Name("*"), port_range(ports)?)
        }
        _ => return Err(format!("{} has no port: write ADDRESS:PORT", shown(text)).into()),
    };
    let ips = match host {
        Host::Name("*") => vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)],
        Host::Ip(ip) => vec![ip],
        Host::Name(name) => lookup(name),
    };
    if ips.is_empty() {
        return Err(unresolved(text));
    }
    let each = ips.iter().flat_map(|ip| {
        let ports = ports.clone();
        ports.map(|port| ListenAddress::Tcp(SocketAddr::new(*ip, port)))
    });
    Ok(each.collect())
}

/// `PORT` or `FROM-TO`.
fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let bad = |text: &str| format!("{} is not a port (0 to 65535) or FROM-TO", shown(text));
    let Some((from, to)) = text.split_once('-') else {
        let port = port(text).ok_or_else(|| bad(text))?;
        return Ok(port..=port);
    };
    let (Some(from), Some(to)) = (port(from), port(to)) else {
        return Err(bad(text));
    };
    if from == 0 || from > to {
        return Err(format!("{} is not a range of ports", shown(text)));
    }
    if usize::from(to - from) >= MAX_PORTS {
        return Err(format!("a range has at most {MAX_PORTS} ports"));
    }
    Ok(from..=to)
}

impl ListenAddress {
    /// The port, of an address that has one.
    pub(crate) fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(address) => Some(address.port()),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    fn lookup(host: &str) -> Vec<IpAddr> {
        match host.to_ascii_lowercase().as_str() {
            "both" => vec![
                IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(Ipv6Addr::LOCALHOST),
            ],
            _ => Vec::new(),
        }
    }

    fn listeners(text: &str) -> Result<Vec<Listen>, WrongValue> {
        listen(text, Path::new("/etc"), lookup, &mut Vec::new())
    }

    fn addresses(text: &str) -> Vec<String> {
        let listeners = listeners(text).expect(text);
        listeners
            .iter()
            .map(|one| one.address.to_string())
            .collect()
    }

    #[test]
    fn listen_takes_every_form_of_address() {
        assert_eq!(addresses("143"), ["0.0.0.0:143"]);
        assert_eq!(addresses("*:143"), ["0.0.0.0:143"]);
        assert_eq!(addresses("127.0.0.1:0"), ["127.0.0.1:0"]);
        assert_eq!(addresses("[::1]:143"), ["[::1]:143"]);
        assert_eq!(addresses("both:25"), ["127.0.0.1:25", "[::1]:25"]);
        assert_eq!(addresses("[::]:25-26"), ["[::]:25", "[::]:26"]);
        assert_eq!(addresses("25-26"), ["0.0.0.0:25", "0.0.0.0:26"]);
        assert_eq!(addresses("unix:/run/x"), ["unix:/run/x"]);
        assert_eq!(addresses("unix:x"), ["unix:/etc/x"]);
    }

    #[test]
    fn listen_refuses_what_is_no_address() {
        for text in [
            "",
            "127.0.0.1",
            "host",
            ":143",
            "::1:143",
            "[::1]",
            "[::1]143",
            "[x]:1",
            "[::1:1",
            "1.2.3.4.5:1",
            "300.1.1.1:1",
            "h:65536",
            "h:",
            "h:-1",
            "h:+1",
            "143-142",
            "0-5",
            "1-65535",
            "unix:",
            "none:143",
            "a/b:1",
            "*",
            "143-",
            "-",
            "1:2:3",
            "h:1-2-3",
            "300:1",
        ] {
            assert!(listeners(text).is_err(), "{text}");
        }
        let long = format!("unix:/{}", "x".repeat(107));
        assert!(listeners(&long).is_err());
    }

    #[test]
    fn listen_flags_are_kept() {
        let line = "[::]:143 ssl proxy_protocol backlog=9 rcvbuf=8k sndbuf=4k ipv6only=off \
                    so_keepalive=30m::10";
        let one = listeners(line).expect("a listener").remove(0);
        assert!(one.ssl && one.proxy_protocol && !one.ipv6only);
        assert_eq!(
            (one.backlog, one.rcvbuf, one.sndbuf),
            (9, Some(8192), Some(4096))
        );
        let idle = Some(Duration::from_secs(1800));
        let (interval, count) = (None, Some(10));
        assert_eq!(
            one.so_keepalive,
            Keepalive::On {
                idle,
                interval,
                count
            }
        );

        let plain = listeners("[::]:143").expect("a listener").remove(0);
        assert!(plain.ipv6only && !plain.ssl && plain.so_keepalive == Keepalive::Unset);
        assert_eq!(plain.backlog, BACKLOG);
    }

    #[test]
    fn listen_refuses_wrong_flags() {
        for flags in [
            "quic",
            "ssl=on",
            "backlog",
            "backlog=0",
            "backlog=x",
            "backlog=1 backlog=2",
            "rcvbuf=1",
            "ipv6only=on",
            "so_keepalive=::",
            "so_keepalive=1:2",
            "so_keepalive=1:2:999",
            "so_keepalive=x",
            "proxy_protocol=on",
            "bind=1",
            "=",
            "proxy_protocol,",
        ] {
            assert!(listeners(&format!("143 {flags}")).is_err(), "{flags}");
        }
        let text = listeners("143 proxy_protocl")
            .expect_err("a misspelt flag")
            .text;
        assert!(text.ends_with("did you mean `proxy_protocol`?"), "{text}");
    }

    #[test]
    fn status_is_for_this_machine_alone_unless_an_address_says_otherwise() {
        let at = |text: &str| {
            let status = super::status(text, lookup).expect(text)?;
            Some((status.listen.address.to_string(), status.host))
        };
        assert_eq!(at("off"), None);
        let local = |at: &str| Some((at.to_owned(), None));
        assert_eq!(at("9180"), local("127.0.0.1:9180"));
        assert_eq!(at("localhost:9180"), local("127.0.0.1:9180"));
        assert_eq!(at("*:9180"), local("0.0.0.0:9180"));
        assert_eq!(at("[::1]:0"), local("[::1]:0"));
        let named = ("127.0.0.1:80".to_owned(), Some("both".to_owned()));
        assert_eq!(at("Both:80"), Some(named));
        for text in [
            "",
            "on",
            "127.0.0.1",
            "1-2",
            "70000",
            "unix:/run/x",
            "none:1",
            "1 ssl",
        ] {
            assert!(super::status(text, lookup).is_err(), "{text}");
        }
    }

    #[test]
    fn listen_says_what_has_no_effect() {
        let mut warnings = Vec::new();
        let line = "unix:/x bind so_keepalive=on proxy_protocol";
        listen(line, Path::new(""), lookup, &mut warnings).expect("a listener");
        assert_eq!(warnings.len(), 2);
    }
}
