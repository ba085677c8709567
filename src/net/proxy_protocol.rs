//! PROXY protocol headers, versions 1 and 2: bytes in, addresses out, and the other way round.
//!
//! Whose header is believed (`set_real_ip_from`) and how long to wait for it is not decided here;
//! nothing here touches a socket. The text followed is HAProxy's proxy-protocol.txt; checksums
//! (PP2_TYPE_CRC32C) are not verified, as in nginx.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ppp::v2;

use crate::config::ProxyProtocol;

/// Longest header that is accepted, in bytes: version 2 may say up to 65551, of which nobody needs
/// more than the addresses and a few kilobytes of TLVs. A longer one is malformed.
pub(crate) const MAX_HEADER: usize = V2_FIXED + 4096;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// How it was written.
    pub version: Version,
    /// Source and destination of the client's connection, IPv4-mapped IPv6 as IPv4. `None` when the
    /// socket's own addresses hold: `UNKNOWN`, LOCAL, AF_UNSPEC, AF_UNIX, and anything but a stream.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// Bytes it took; what follows belongs to the session.
    pub len: usize,
}

/// The two ways to write a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// One line of text.
    V1,
    /// Binary, with TLVs.
    V2,
}

/// What the bytes received so far are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// The beginning of a header; call again with these bytes and more.
    Incomplete,
    /// A header, perhaps with data behind it.
    Header(Header),
    /// No header, whatever follows.
    Malformed,
}

/// Reads the header at the start of `bytes`, which are all bytes received so far.
///
/// A version 1 header is `Incomplete` until its CRLF has come or 107 bytes have; version 2 only as
/// long as some continuation is a header, and for fewer than [`MAX_HEADER`] bytes: a caller's
/// buffer of that size is enough.
pub(crate) fn parse(bytes: &[u8]) -> Parsed {
    match bytes.first() {
        None => Parsed::Incomplete,
        Some(b'P') => parse_v1(bytes),
        Some(b'\r') => parse_v2(bytes),
        Some(_) => Parsed::Malformed,
    }
}

/// Writes the header for a client's source and destination address; `None` (a Unix socket) gives
/// `PROXY UNKNOWN` or LOCAL. Families that differ are both written as IPv6. Empty for `Off`.
pub(crate) fn encode(
    version: ProxyProtocol,
    addresses: Option<(SocketAddr, SocketAddr)>,
) -> Vec<u8> {
    let endpoints = addresses.map(|(source, destination)| Endpoints::new(source, destination));
    match version {
        ProxyProtocol::Off => Vec::new(),
        ProxyProtocol::V1 => encode_v1(endpoints),
        ProxyProtocol::V2 => encode_v2(endpoints),
    }
}

const V1_MAX: usize = 107;
const V1_UNKNOWN: &[u8] = b"PROXY UNKNOWN";

/// Signature, version and command, family and transport, length.
const V2_FIXED: usize = 16;
const V2_LOCAL: u8 = v2::Version::Two as u8 | v2::Command::Local as u8;
const V2_PROXY: u8 = v2::Version::Two as u8 | v2::Command::Proxy as u8;

fn parse_v1(bytes: &[u8]) -> Parsed {
    let within = &bytes[..bytes.len().min(V1_MAX)];
    match within.windows(2).position(|pair| pair == b"\r\n") {
        Some(end) => parse_v1_line(&bytes[..end + 2]),
        None if within.len() < V1_MAX => Parsed::Incomplete,
        None => Parsed::Malformed,
    }
}

/// `line` ends with its CRLF.
fn parse_v1_line(line: &[u8]) -> Parsed {
    let addresses = match line.strip_prefix(V1_UNKNOWN) {
        Some(b"\r\n" | [b' ', ..]) => Some(None),
        Some(_) => None,
        None => v1_endpoints(&line[..line.len() - 2]).map(Some),
    };
    match addresses {
        Some(addresses) => Parsed::Header(Header {
            version: Version::V1,
            addresses,
            len: line.len(),
        }),
        None => Parsed::Malformed,
    }
}

/// Source and destination of a line without its CRLF. The source is of the family named; the
/// destination may be of the other one, as nginx's `stream` writes it with `realip`. `ppp` would
/// refuse that.
fn v1_endpoints(line: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let line = std::str::from_utf8(line).ok()?;
    let fields: Vec<&str> = line.split(' ').collect();
    let ["PROXY", family, source, destination, from, to] = fields[..] else {
        return None;
    };
    let source: IpAddr = match family {
        "TCP4" => source.parse::<Ipv4Addr>().ok()?.into(),
        "TCP6" => source.parse::<Ipv6Addr>().ok()?.into(),
        _ => return None,
    };
    let destination: IpAddr = destination.parse().ok()?;
    Some((
        endpoint(source, port(from)?),
        endpoint(destination, port(to)?),
    ))
}

/// Digits alone: neither a sign nor a zero in front.
fn port(field: &str) -> Option<u16> {
    let digits = field.bytes().all(|byte| byte.is_ascii_digit());
    let plain = digits && (field == "0" || !field.starts_with('0'));
    plain.then(|| field.parse().ok()).flatten()
}

fn parse_v2(bytes: &[u8]) -> Parsed {
    let signature = v2::PROTOCOL_PREFIX;
    let common = bytes.len().min(signature.len());
    if bytes[..common] != signature[..common] {
        return Parsed::Malformed;
    }
    let Some(needed) = v2_addresses(bytes) else {
        return Parsed::Malformed;
    };
    let Some(&[high, low]) = bytes.get(14..V2_FIXED) else {
        return Parsed::Incomplete;
    };
    let len = V2_FIXED + usize::from(u16::from_be_bytes([high, low]));
    if len > MAX_HEADER || len < V2_FIXED + needed.len {
        return Parsed::Malformed;
    }
    let received = &bytes[..bytes.len().min(len)];
    if needed.tlvs_follow && !tlvs_fit(received, V2_FIXED + needed.len, len) {
        return Parsed::Malformed;
    }
    if received.len() < len {
        return Parsed::Incomplete;
    }
    match v2_endpoints(received) {
        Ok(addresses) => Parsed::Header(Header {
            version: Version::V2,
            addresses,
            len,
        }),
        Err(_) => Parsed::Malformed,
    }
}

/// What must follow the fixed part of a version 2 header.
struct V2Block {
    /// Bytes of addresses.
    len: usize,
    /// Whether the rest is TLVs; otherwise it is skipped unread.
    tlvs_follow: bool,
}

/// Judges version, command, family and transport as far as they have come; `None` is malformed.
fn v2_addresses(bytes: &[u8]) -> Option<V2Block> {
    let unread = Some(V2Block {
        len: 0,
        tlvs_follow: false,
    });
    match bytes.get(12) {
        // The receiver discards family and block of LOCAL.
        None | Some(&V2_LOCAL) => return unread,
        Some(&V2_PROXY) => {}
        Some(_) => return None,
    }
    let Some(family_transport) = bytes.get(13) else {
        return unread;
    };
    if family_transport & 0x0f > v2::Protocol::Datagram as u8 {
        return None;
    }
    let len = match family_transport >> 4 {
        0 => return unread,
        1 => 12,
        2 => 36,
        3 => 216,
        _ => return None,
    };
    Some(V2Block {
        len,
        tlvs_follow: true,
    })
}

/// Whether no TLV that begins in `received` runs over the header's end at `len`.
fn tlvs_fit(received: &[u8], first: usize, len: usize) -> bool {
    let mut at = first;
    while at < len {
        if len - at < 3 {
            return false;
        }
        let Some(&[high, low]) = received.get(at + 1..at + 3) else {
            return true;
        };
        at += 3 + usize::from(u16::from_be_bytes([high, low]));
    }
    at == len
}

/// The addresses of a complete header, if they are for us.
fn v2_endpoints(header: &[u8]) -> Result<Option<(SocketAddr, SocketAddr)>, v2::ParseError> {
    // `ppp` insists on a known family here too.
    if header[12] == V2_LOCAL {
        return Ok(None);
    }
    let header = v2::Header::try_from(header)?;
    // Transport UNSPEC says nothing about a stream, and DGRAM cannot be the client of one.
    if header.protocol != v2::Protocol::Stream {
        return Ok(None);
    }
    Ok(match header.addresses {
        v2::Addresses::IPv4(ip) => Some((
            endpoint(ip.source_address, ip.source_port),
            endpoint(ip.destination_address, ip.destination_port),
        )),
        v2::Addresses::IPv6(ip) => Some((
            endpoint(ip.source_address, ip.source_port),
            endpoint(ip.destination_address, ip.destination_port),
        )),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
    })
}

/// IPv4-mapped IPv6 is IPv4.
fn endpoint(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into().to_canonical(), port)
}

/// Source and destination in one family.
enum Endpoints {
    V4([Ipv4Addr; 2], [u16; 2]),
    V6([Ipv6Addr; 2], [u16; 2]),
}

impl Endpoints {
    fn new(source: SocketAddr, destination: SocketAddr) -> Endpoints {
        let ports = [source.port(), destination.port()];
        let source = source.ip().to_canonical();
        let destination = destination.ip().to_canonical();
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                Endpoints::V4([source, destination], ports)
            }
            _ => Endpoints::V6([mapped(source), mapped(destination)], ports),
        }
    }
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn encode_v1(endpoints: Option<Endpoints>) -> Vec<u8> {
    let line = match endpoints {
        None => "PROXY UNKNOWN\r\n".to_owned(),
        Some(Endpoints::V4([source, destination], [from, to])) => {
            format!("PROXY TCP4 {source} {destination} {from} {to}\r\n")
        }
        Some(Endpoints::V6([source, destination], [from, to])) => {
            format!("PROXY TCP6 {source} {destination} {from} {to}\r\n")
        }
    };
    line.into_bytes()
}

fn encode_v2(endpoints: Option<Endpoints>) -> Vec<u8> {
    let mut header = v2::PROTOCOL_PREFIX.to_vec();
    let ports = match endpoints {
        None => {
            header.extend([V2_LOCAL, 0x00, 0, 0]);
            return header;
        }
        Some(Endpoints::V4(addresses, ports)) => {
            header.extend([V2_PROXY, 0x11, 0, 12]);
            header.extend(addresses.iter().flat_map(Ipv4Addr::octets));
            ports
        }
        Some(Endpoints::V6(addresses, ports)) => {
            header.extend([V2_PROXY, 0x21, 0, 36]);
            header.extend(addresses.iter().flat_map(Ipv6Addr::octets));
            ports
        }
    };
    header.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
    header
}

#[cfg(test)]
mod tests;
