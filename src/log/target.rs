//! Where lines go: the values of `error_log`, as the configuration reads and the log opens them.

use std::path::PathBuf;

use super::Severity;

/// One `error_log` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogTarget {
    /// Where lines go.
    pub destination: LogDestination,
    /// This severity and everything above it.
    pub level: Severity,
    /// How a line looks.
    pub format: LogFormat,
    /// Only lines with this tag.
    pub filter: Option<String>,
}

/// The kinds of places a line can go to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LogDestination {
    /// Standard error.
    Stderr,
    /// A file, appended to.
    File(PathBuf),
    /// RFC 3164 datagrams.
    Syslog(Syslog),
}

/// `syslog:…`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Syslog {
    /// Who collects.
    pub server: SyslogServer,
    /// Facility code, 0 to 23 (local7 is 23).
    pub facility: u8,
    /// TAG of each datagram.
    pub tag: String,
    /// Severity of every datagram instead of the line's own.
    pub severity: Option<Severity>,
    /// Leaves HOST out.
    pub nohostname: bool,
}

/// Where a syslog collector is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SyslogServer {
    /// UDP: host name or address, and port.
    Udp(String, u16),
    /// Unix datagram socket.
    Unix(PathBuf),
}

/// How a log line looks as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// nginx's columns.
    Text,
    /// One object a line.
    Json,
}

/// `log_format`: how a line of text names the session that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextLayout {
    /// Angie's since 1.12: every value in quotes, the client with its port.
    Angie,
    /// nginx's: only the login in quotes, the client without its port.
    Nginx,
}
