//! `[backend NAME]` as the rest of the program sees it, and the kind of `hosts`.
//!
//! Which backend serves whom is `route`'s. Names stay names: they are resolved when they are needed.

use std::fmt;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use super::address::{Host, host_and_port, port};
use super::value::{list, shown};
use super::{MasterLogin, ProxyProtocol, ProxySsl, SendClientId, Xclient};
use crate::protocol::{PerProtocol, Protocol, Purpose};
use crate::sasl::Mechanism;
use crate::tls::ClientSettings;

/// One `[backend NAME]`: machines that hold the same mailboxes.
#[derive(Debug, Clone)]
pub struct Backend {
    /// NAME of the section.
    pub name: String,
    /// File and line of `hosts`, for messages.
    pub place: String,
    /// Its machines in file order.
    pub hosts: Vec<BackendHost>,
    /// `imap_hosts`, `pop3_hosts`, `smtp_hosts`: the machines for one protocol, if they are others.
    pub own_hosts: PerProtocol<Option<Vec<BackendHost>>>,
    /// `imap_port`, `pop3_port`, `smtp_port`: where hosts without a port of their own speak the
    /// protocol; `None` is by `proxy_ssl`.
    pub ports: PerProtocol<Option<u16>>,
    /// TLS towards the hosts.
    pub proxy_ssl: ProxySsl,
    /// `imap_proxy_ssl`, `pop3_proxy_ssl`, `smtp_proxy_ssl`: the same for one protocol.
    pub own_ssl: PerProtocol<Option<ProxySsl>>,
    /// How that TLS is spoken.
    pub proxy_tls: ClientSettings,
    /// PROXY header sent to the hosts.
    pub proxy_protocol: ProxyProtocol,
    /// Whether the hosts' SMTP is told about the client.
    pub xclient: Xclient,
    /// By whom the hosts are entered; `None` is by the user.
    pub master: Option<Arc<MasterLogin>>,
    /// Whether IMAP and POP3 hosts are told about the client.
    pub send_client_id: SendClientId,
    /// How to log in.
    pub auth_mechanism: AuthMechanism,
    /// Which host gets a session.
    pub balance: Balance,
    /// How long one host may take to accept a connection.
    pub connect_timeout: Duration,
    /// How long a host that failed is tried last; zero is never.
    pub fail_timeout: Duration,
    /// Time between checks of each host; `None` is off.
    pub health_check: Option<Duration>,
}

impl Backend {
    /// The machines that speak this protocol, in file order; empty where there are none.
    pub fn hosts(&self, protocol: Protocol) -> &[BackendHost] {
        self.own_hosts[protocol].as_ref().unwrap_or(&self.hosts)
    }

    /// TLS towards them.
    pub fn ssl(&self, protocol: Protocol) -> ProxySsl {
        self.own_ssl[protocol].unwrap_or(self.proxy_ssl)
    }

    /// Where a host without a port of its own serves this purpose: what is configured, else with
    /// TLS from the start the port of implicit TLS (RFC 8314), otherwise the plain one, for SMTP that of
    /// submission where every client has to log in.
    pub fn port(&self, purpose: Purpose) -> u16 {
        let record = purpose.protocol.record();
        let by_tls = match self.ssl(purpose.protocol) {
            ProxySsl::On => record.tls_port,
            ProxySsl::Off | ProxySsl::StartTls if purpose.all_log_in => record.login_port,
            ProxySsl::Off | ProxySsl::StartTls => record.port,
        };
        self.ports[purpose.protocol].unwrap_or(by_tls)
    }
}

/// One item of `hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BackendHost {
    /// Name, or address without brackets.
    pub host: String,
    /// Its port for every protocol; `None` is `Backend::port`.
    pub port: Option<u16>,
}

impl fmt::Display for BackendHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<Ipv6Addr>() {
            Ok(ip) => write!(f, "[{ip}]")?,
            Err(_) => f.write_str(&self.host)?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// `auth_mechanism`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMechanism {
    /// Chosen from what the backend offers.
    Auto,
    /// This one, where the protocol has a use for it.
    Fixed(&'static Mechanism),
    /// No SASL: IMAP LOGIN and POP3 USER; SMTP without a login.
    Off,
}

impl AuthMechanism {
    /// Every value with its word.
    pub(super) fn words() -> Vec<(&'static str, Self)> {
        let fixed = Mechanism::for_backends().map(|row| (row.word, Self::Fixed(row)));
        let mut words = vec![("auto", Self::Auto)];
        words.extend(fixed);
        words.push(("off", Self::Off));
        words
    }
}

/// `balance`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// The first host that works, in file order.
    Failover,
    /// Each host that works in turn.
    RoundRobin,
    /// The same host for all sessions of a user, as long as it works.
    Hash,
}

/// `hosts`: names or addresses, each with a port or not. At least one; the second value names one
/// that stands twice.
pub(super) fn hosts(text: &str) -> Result<(Vec<BackendHost>, Option<String>), String> {
    let mut hosts = Vec::new();
    let mut twice = None;
    for item in list(text)? {
        let host = host(&item)?;
        if hosts.contains(&host) {
            twice = Some(format!("{} stands twice", shown(&item)));
            continue;
        }
        hosts.push(host);
    }
    if hosts.is_empty() {
        return Err("is empty; write NAME-OR-ADDRESS[:PORT] …".to_owned());
    }
    Ok((hosts, twice))
}

fn host(text: &str) -> Result<BackendHost, String> {
    let (host, port_text) = host_and_port(text)?;
    let host = match host {
        Host::Name(name) if name == "*" || name.bytes().all(|b| b.is_ascii_digit()) => {
            return Err(format!("{} is no host to connect to", shown(text)));
        }
        Host::Name(name) => name.to_ascii_lowercase(),
        Host::Ip(ip) => ip.to_string(),
    };
    let port = match port_text.map(port) {
        None => None,
        Some(Some(port)) if port > 0 => Some(port),
        Some(_) => return Err(format!("{} has no port from 1 to 65535", shown(text))),
    };
    Ok(BackendHost { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown_hosts(text: &str) -> Result<String, String> {
        let hosts = hosts(text)?.0;
        let hosts: Vec<String> = hosts.iter().map(BackendHost::to_string).collect();
        Ok(hosts.join(" "))
    }

    #[test]
    fn hosts_are_names_or_addresses_with_or_without_a_port() {
        let text = "Imap.example.org, 192.0.2.1:1143 [2001:db8::1] [::1]:993";
        let expected = "imap.example.org 192.0.2.1:1143 [2001:db8::1] [::1]:993";
        assert_eq!(shown_hosts(text).as_deref(), Ok(expected));
        let (hosts, twice) = hosts("a:1 a A:1").expect("hosts");
        assert_eq!(hosts.len(), 2);
        assert_eq!(twice.as_deref(), Some("`A:1` stands twice"));
        assert_eq!((hosts[0].port, hosts[1].port), (Some(1), None));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "", " ,", "*", "143", "a:0", "a:", "a:65536", "a:x", "::1", "[::1", "[::1]143",
            "a b..c", "unix:/x", "ä.org", "a@b", "\"a b\"", "1.2.3", "\"a",
        ] {
            assert!(hosts(text).is_err(), "{text}");
        }
    }
}
