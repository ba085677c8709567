//! RFC 3164 as nginx writes it: the header of a datagram, and the sockets it leaves through.
//!
//! Sockets are not connected: a collector that restarts gets the next line, whatever became of the last.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::path::Path;
use std::sync::OnceLock;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::Severity;
use super::{Syslog, SyslogServer};

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// What stands before the line: `<PRI>Mmm dd hh:mm:ss HOST TAG: `.
pub(super) fn header(
    syslog: &Syslog,
    severity: Severity,
    time: Timestamp,
    zone: &TimeZone,
) -> String {
    let host = if syslog.nohostname {
        None
    } else {
        Some(host_name())
    };
    header_with(syslog, severity, time, zone, host)
}

fn header_with(
    syslog: &Syslog,
    severity: Severity,
    time: Timestamp,
    zone: &TimeZone,
    host: Option<&str>,
) -> String {
    let time = zone.to_datetime(time);
    let month = usize::from(time.month().unsigned_abs()).saturating_sub(1);
    format!(
        "<{}>{} {:2} {:02}:{:02}:{:02} {}{}{}: ",
        u32::from(syslog.facility) * 8 + code(syslog.severity.unwrap_or(severity)),
        MONTHS.get(month).unwrap_or(&"Jan"),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        host.unwrap_or_default(),
        if host.is_some() { " " } else { "" },
        syslog.tag
    )
}

/// syslog counts from emerg (0) to debug (7).
fn code(severity: Severity) -> u32 {
    match severity {
        Severity::Emerg => 0,
        Severity::Alert => 1,
        Severity::Crit => 2,
        Severity::Error => 3,
        Severity::Warn => 4,
        Severity::Notice => 5,
        Severity::Info => 6,
        Severity::Debug => 7,
    }
}

/// The machine's name, in lower case.
fn host_name() -> &'static str {
    static HOST: OnceLock<String> = OnceLock::new();
    HOST.get_or_init(|| match nix::unistd::gethostname() {
        Ok(name) => name.to_string_lossy().to_lowercase(),
        Err(_) => "localhost".to_owned(),
    })
}

/// A way to a collector.
pub(super) enum Collector {
    /// Over UDP.
    Udp(UdpSocket, SocketAddr),
    /// Over a Unix datagram socket.
    Unix(UnixDatagram, UnixAddr),
}

impl Collector {
    /// Makes the socket and finds the address. The collector need not be there yet.
    pub(super) fn open(server: &SyslogServer) -> Result<Collector, String> {
        match server {
            SyslogServer::Udp(host, port) => open_udp(host, *port)
                .map_err(|error| format!("syslog server {host}:{port}: {error}")),
            SyslogServer::Unix(path) => open_unix(path)
                .map_err(|error| format!("syslog server unix:{}: {error}", path.display())),
        }
    }

    /// Sends one datagram, or forgets it when the socket would block or nobody listens.
    pub(super) fn send(&self, datagram: &[u8]) {
        let _ = match self {
            Collector::Udp(socket, to) => socket.send_to(datagram, to),
            Collector::Unix(socket, to) => socket.send_to_addr(datagram, to),
        };
    }
}

fn open_udp(host: &str, port: u16) -> io::Result<Collector> {
    // IPv4 first, as nginx does it: most collectors listen there alone.
    let Some(to) = (host, port)
        .to_socket_addrs()?
        .min_by_key(SocketAddr::is_ipv6)
    else {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        ));
    };
    let local = match to {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(local)?;
    socket.set_nonblocking(true)?;
    Ok(Collector::Udp(socket, to))
}

fn open_unix(path: &Path) -> io::Result<Collector> {
    let to = UnixAddr::from_pathname(path)?;
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok(Collector::Unix(socket, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syslog(severity: Option<Severity>) -> Syslog {
        Syslog {
            server: SyslogServer::Udp("127.0.0.1".to_owned(), 514),
            facility: 23,
            tag: "postern".to_owned(),
            severity,
            nohostname: false,
        }
    }

    fn at(time: &str) -> Timestamp {
        time.parse().expect("a timestamp")
    }

    #[test]
    fn header_has_priority_padded_day_host_and_tag() {
        let header = |severity, time, host| {
            header_with(&syslog(None), severity, at(time), &TimeZone::UTC, host)
        };
        assert_eq!(
            header(Severity::Info, "2026-11-02T01:02:03Z", Some("mx1")),
            "<190>Nov  2 01:02:03 mx1 postern: "
        );
        assert_eq!(
            header(Severity::Emerg, "2026-01-22T23:59:59Z", None),
            "<184>Jan 22 23:59:59 postern: "
        );
    }

    #[test]
    fn configured_severity_replaces_the_lines_own() {
        let header = header_with(
            &syslog(Some(Severity::Debug)),
            Severity::Crit,
            at("2026-12-31T00:00:00Z"),
            &TimeZone::UTC,
            Some("h"),
        );
        assert_eq!(header, "<191>Dec 31 00:00:00 h postern: ");
    }

    #[test]
    fn host_name_is_in_lower_case() {
        assert_eq!(host_name(), host_name().to_lowercase());
    }
}
