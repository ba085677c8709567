//! Who is at the other end of a socket: an IP address and port, or a Unix socket without a name.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use socket2::SockAddr;

use crate::append;
use crate::config::TrustedPeer;

/// One end of a connection. IPv4-mapped IPv6 addresses are always held as IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    /// TCP.
    Ip(SocketAddr),
    /// A Unix socket; clients have no name there.
    Unix,
}

impl Address {
    /// The address without its port; `None` for a Unix socket.
    pub(crate) fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address.ip()),
            Self::Unix => None,
        }
    }

    /// The address with its port; `None` for a Unix socket.
    pub(crate) fn socket(self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(address),
            Self::Unix => None,
        }
    }

    /// What limits per address count by: IPv4 whole, IPv6 by its /64, all Unix clients together.
    pub(crate) fn limit_key(self) -> LimitKey {
        match self.ip() {
            None => LimitKey::Unix,
            Some(IpAddr::V4(ip)) => LimitKey::Ip(ip.into()),
            Some(IpAddr::V6(ip)) => {
                let [a, b, c, d, ..] = ip.segments();
                LimitKey::Ip(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into())
            }
        }
    }

    /// Whether `set_real_ip_from` names this peer.
    pub(crate) fn is_trusted(self, trusted: &[TrustedPeer]) -> bool {
        trusted.iter().any(|peer| match (peer, self.ip()) {
            (TrustedPeer::Net(net), Some(ip)) => net.contains(&ip),
            (TrustedPeer::Unix, None) => true,
            _ => false,
        })
    }
}

/// Addresses that share a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LimitKey {
    /// An IPv4 address or the first address of an IPv6 /64.
    Ip(IpAddr),
    /// Unix sockets.
    Unix,
}

impl Hash for LimitKey {
    /// One number, where the derived way would be four: a login looks it up in a dozen tables.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let number = match *self {
            Self::Ip(IpAddr::V4(ip)) => ip.to_ipv6_mapped().to_bits(),
            Self::Ip(IpAddr::V6(ip)) => ip.to_bits(),
            Self::Unix => 0,
        };
        state.write_u128(number);
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }
}

impl From<&SockAddr> for Address {
    fn from(address: &SockAddr) -> Self {
        address.as_socket().map_or(Self::Unix, Self::from)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => f.pad(&append::socket_address_text(*address)),
            Self::Unix => f.write_str("unix:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<SocketAddr>().expect("a literal").into()
    }

    #[test]
    fn ipv4_mapped_addresses_are_ipv4() {
        assert_eq!(address("[::ffff:192.0.2.1]:25"), address("192.0.2.1:25"));
    }

    #[test]
    fn limits_count_ipv6_by_its_64() {
        let key = address("[2001:db8:1:2:3::4]:1").limit_key();
        assert_eq!(key, address("[2001:db8:1:2:ffff::9]:2").limit_key());
        assert_ne!(key, address("[2001:db8:1:3::4]:1").limit_key());
    }

    #[test]
    fn trust_is_by_range_or_unix() {
        let trusted = [
            TrustedPeer::Net("10.0.0.0/8".parse().expect("a literal")),
            TrustedPeer::Unix,
        ];
        assert!(address("10.1.2.3:9").is_trusted(&trusted));
        assert!(Address::Unix.is_trusted(&trusted));
        assert!(!address("192.0.2.1:9").is_trusted(&trusted));
        assert!(!Address::Unix.is_trusted(&trusted[..1]));
    }
}
