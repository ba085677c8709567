//! The three protocols, and what each of them fixes: names, ports, the lines that a client can be sent
//! outside a dialogue. A protocol is a row here and a folder in `dialect`.
//!
//! Imports nothing of the crate. How a protocol is spoken stands in `dialect`.

use std::ops::{Index, IndexMut};

/// The three protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// RFC 3501, RFC 9051.
    Imap,
    /// RFC 1939.
    Pop3,
    /// RFC 5321.
    Smtp,
}

/// What a server is for, which the default ports of its backends follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Purpose {
    /// What is spoken.
    pub protocol: Protocol,
    /// Whether every client has to log in; true for all but SMTP servers that take mail without.
    pub all_log_in: bool,
}

/// What does not change from session to session.
#[derive(Debug)]
pub struct Record {
    /// Name in the configuration, in the log and in `Auth-Protocol`.
    pub name: &'static str,
    /// ALPN protocol (RFC 7301).
    pub alpn: &'static str,
    /// Port of plain text, perhaps with STARTTLS.
    pub port: u16,
    /// The same where every client has to log in.
    pub login_port: u16,
    /// Port of TLS from the first byte (RFC 8314).
    pub tls_port: u16,
    /// The directive with the mechanisms that clients are offered.
    pub auth_directive: &'static str,
    /// The directive with what clients are told before their login.
    pub capabilities_directive: &'static str,
    /// The directive of `[backend]` with the port of hosts that have none of their own.
    pub port_directive: &'static str,
    /// The word in `auth_directive` for a way to log in that is no SASL mechanism and has to be
    /// configured.
    pub own_login: Option<&'static str>,
    /// True where the client's host name is looked up, since auth servers and backends are told it.
    pub looks_up_client: bool,
    /// How a backend is logged in to without a mechanism that somebody chose.
    pub backend_login: BackendLogin,
    /// Words of commands and answers in a relay, which tell nothing of anybody's mail.
    pub relayed_words: &'static [&'static str],
    /// What a client says that logs in with PLAIN and leaves: up to the message (base64), and from there on.
    pub login_and_leave: [&'static str; 2],
    /// Sent by the accept thread when there is no room, and to sessions that must make room.
    pub busy: &'static [u8],
    /// A failure that is not the client's.
    pub internal_error: &'static [u8],
    /// The client's certificate was refused.
    pub certificate_error: &'static [u8],
    /// The client has no certificate but needs one.
    pub certificate_missing: &'static [u8],
}

/// What carries login and password to a backend where no mechanism is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendLogin {
    /// A command with literals, which hold any byte.
    Literals,
    /// Commands on whose lines they stand bare.
    BareLines,
    /// SASL alone. `proxy_smtp_auth` says whether there is a login at all.
    Sasl,
}

impl BackendLogin {
    /// Whether a session can do without a login to its backend.
    pub fn is_optional(self) -> bool {
        match self {
            Self::Literals | Self::BareLines => false,
            Self::Sasl => true,
        }
    }
}

/// One value for each protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PerProtocol<T> {
    /// IMAP's.
    pub imap: T,
    /// POP3's.
    pub pop3: T,
    /// SMTP's.
    pub smtp: T,
}

impl<T> Index<Protocol> for PerProtocol<T> {
    type Output = T;

    fn index(&self, protocol: Protocol) -> &T {
        match protocol {
            Protocol::Imap => &self.imap,
            Protocol::Pop3 => &self.pop3,
            Protocol::Smtp => &self.smtp,
        }
    }
}

impl<T> IndexMut<Protocol> for PerProtocol<T> {
    fn index_mut(&mut self, protocol: Protocol) -> &mut T {
        match protocol {
            Protocol::Imap => &mut self.imap,
            Protocol::Pop3 => &mut self.pop3,
            Protocol::Smtp => &mut self.smtp,
        }
    }
}

static IMAP: Record = Record {
    name: "imap",
    alpn: "imap",
    port: 143,
    login_port: 143,
    tls_port: 993,
    auth_directive: "imap_auth",
    capabilities_directive: "imap_capabilities",
    port_directive: "imap_port",
    own_login: None,
    looks_up_client: false,
    backend_login: BackendLogin::Literals,
    relayed_words: &[
        "*",
        "+",
        "OK",
        "NO",
        "BAD",
        "BYE",
        "PREAUTH",
        "CAPABILITY",
        "NOOP",
        "LOGOUT",
        "ID",
        "LOGIN",
        "AUTHENTICATE",
        "ENABLE",
        "SELECT",
        "EXAMINE",
        "CREATE",
        "DELETE",
        "RENAME",
        "SUBSCRIBE",
        "UNSUBSCRIBE",
        "LIST",
        "LSUB",
        "NAMESPACE",
        "STATUS",
        "APPEND",
        "IDLE",
        "DONE",
        "CLOSE",
        "UNSELECT",
        "CHECK",
        "EXPUNGE",
        "SEARCH",
        "ESEARCH",
        "SORT",
        "THREAD",
        "FETCH",
        "STORE",
        "COPY",
        "MOVE",
        "UID",
        "COMPRESS",
        "NOTIFY",
        "GETQUOTA",
        "GETQUOTAROOT",
        "QUOTA",
        "QUOTAROOT",
        "GETACL",
        "SETACL",
        "ACL",
        "GETMETADATA",
        "SETMETADATA",
        "METADATA",
        "EXISTS",
        "RECENT",
        "FLAGS",
        "VANISHED",
    ],
    login_and_leave: ["a AUTHENTICATE PLAIN ", "\r\nb LOGOUT\r\n"],
    busy: b"* BYE [UNAVAILABLE] Too many connections, try again later\r\n",
    internal_error: b"* BAD internal server error\r\n",
    certificate_error: b"* BYE SSL certificate error\r\n",
    certificate_missing: b"* BYE No required SSL certificate\r\n",
};

static POP3: Record = Record {
    name: "pop3",
    alpn: "pop3",
    port: 110,
    login_port: 110,
    tls_port: 995,
    auth_directive: "pop3_auth",
    capabilities_directive: "pop3_capabilities",
    port_directive: "pop3_port",
    own_login: Some("apop"),
    looks_up_client: false,
    backend_login: BackendLogin::BareLines,
    relayed_words: &[
        "+OK", "-ERR", "+", ".", "USER", "PASS", "APOP", "AUTH", "STAT", "LIST", "UIDL", "RETR",
        "TOP", "DELE", "RSET", "NOOP", "CAPA", "LAST", "QUIT",
    ],
    login_and_leave: ["AUTH PLAIN ", "\r\nQUIT\r\n"],
    busy: b"-ERR [SYS/TEMP] Too many connections, try again later\r\n",
    internal_error: b"-ERR internal server error\r\n",
    certificate_error: b"-ERR SSL certificate error\r\n",
    certificate_missing: b"-ERR No required SSL certificate\r\n",
};

static SMTP: Record = Record {
    name: "smtp",
    alpn: "smtp",
    port: 25,
    // Submission (RFC 6409).
    login_port: 587,
    tls_port: 465,
    auth_directive: "smtp_auth",
    capabilities_directive: "smtp_capabilities",
    port_directive: "smtp_port",
    own_login: Some("none"),
    looks_up_client: true,
    backend_login: BackendLogin::Sasl,
    relayed_words: &[
        "HELO", "EHLO", "LHLO", "AUTH", "MAIL", "RCPT", "DATA", "BDAT", "BURL", "RSET", "NOOP",
        "VRFY", "EXPN", "HELP", "ETRN", "QUIT",
    ],
    login_and_leave: ["EHLO localhost\r\nAUTH PLAIN ", "\r\nQUIT\r\n"],
    busy: b"421 4.3.2 Too many connections, try again later\r\n",
    internal_error: b"451 4.3.2 Internal server error\r\n",
    certificate_error: b"421 4.7.1 SSL certificate error\r\n",
    certificate_missing: b"421 4.7.1 No required SSL certificate\r\n",
};

impl Protocol {
    /// All of them, in the order in which people are told of them.
    pub const ALL: [Self; 3] = [Self::Imap, Self::Pop3, Self::Smtp];

    /// What the protocol fixes.
    pub fn record(self) -> &'static Record {
        match self {
            Self::Imap => &IMAP,
            Self::Pop3 => &POP3,
            Self::Smtp => &SMTP,
        }
    }

    /// As the configuration and `Auth-Protocol` call it.
    pub fn name(self) -> &'static str {
        self.record().name
    }

    /// The protocol of this name, as the configuration writes it.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|protocol| protocol.name() == name)
    }

    /// The protocol that a well-known port implies.
    pub fn of_port(port: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| {
            let record = protocol.record();
            [record.port, record.login_port, record.tls_port].contains(&port)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_known_ports_imply_their_protocol() {
        for (port, name) in [
            (143, "imap"),
            (993, "imap"),
            (110, "pop3"),
            (995, "pop3"),
            (25, "smtp"),
            (465, "smtp"),
            (587, "smtp"),
        ] {
            assert_eq!(Protocol::of_port(port).map(Protocol::name), Some(name));
        }
        assert_eq!(Protocol::of_port(1143), None);
    }

    #[test]
    fn a_name_is_found_as_it_is_written() {
        for protocol in Protocol::ALL {
            assert_eq!(Protocol::by_name(protocol.name()), Some(protocol));
        }
        assert_eq!(Protocol::by_name("IMAP"), None);
    }

    #[test]
    fn every_fixed_line_is_one_line() {
        for protocol in Protocol::ALL {
            let record = protocol.record();
            for line in [
                record.busy,
                record.internal_error,
                record.certificate_error,
                record.certificate_missing,
            ] {
                let ends = line.iter().filter(|&&byte| byte == b'\n').count();
                assert!(line.ends_with(b"\r\n") && ends == 1);
            }
        }
    }
}
