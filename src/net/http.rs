//! One GET request over a blocking connection (RFC 9112). Each has a connection of its own, unless
//! some are to be kept for the next one.
//!
//! Just what an auth server needs: the request's bytes are the caller's, down to the spelling and the
//! order of its headers, which HTTP libraries do not leave to their users. Answers are parsed by
//! `httparse`; of them only the head is of interest.

mod kept;

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::SockAddr;
use zeroize::Zeroizing;

use super::conn::Conn;
use super::error::NetError;
use super::race::connect_first;
use super::resolve::Dns;
use super::socket::{Deadline, Socket};
use crate::config::{HttpHost, HttpUrl};
use crate::tls::{Connector, Facts};

use self::kept::Kept;

/// Longest head of an answer.
const HEAD: usize = 64 * 1024;
/// Most headers of an answer.
const HEADERS: usize = 256;
/// Longest body that is read for the sake of keeping the connection.
const BODY: usize = 16 * 1024;
/// Most interim answers before the real one.
const INTERIM: usize = 16;
/// How long a kept connection may be silent before a new one is tried.
const FIRST_BYTE: Duration = Duration::from_millis(500);

/// One HTTP server.
pub(crate) struct HttpClient {
    url: HttpUrl,
    /// The first lines of every request.
    start: String,
    dns: Dns,
    tls: Option<Connector>,
    kept: Kept,
}

/// The head of an answer.
#[derive(Debug)]
pub(crate) struct Response {
    /// Status code.
    pub status: u16,
    /// As it came. Wiped: there may be a password in it.
    head: Zeroizing<Vec<u8>>,
    /// Where in it the names are, and the values without spaces around them.
    headers: Vec<(Range<usize>, Range<usize>)>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum HttpError {
    /// There is no address to connect to.
    Resolve(String),
    /// Connecting failed.
    Connect(io::Error),
    /// Nothing came in time.
    Timeout,
    /// The connection failed, or ended before the head of the answer did.
    Broken(NetError),
    /// The answer is no HTTP, or too long.
    Malformed(String),
}

impl HttpError {
    /// The failed system call.
    pub(crate) fn into_io(self) -> Option<io::Error> {
        match self {
            Self::Connect(error) | Self::Broken(NetError::Io(error)) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve(reason) => write!(f, "no address: {reason}"),
            Self::Connect(_) => f.write_str("connect() failed"),
            Self::Timeout => f.write_str("timed out"),
            Self::Broken(NetError::Io(_)) => f.write_str("recv() failed"),
            Self::Broken(kind) => kind.fmt(f),
            Self::Malformed(reason) => f.write_str(reason),
        }
    }
}

impl HttpClient {
    /// A client of one server; `tls` goes with `https`. `keepalive` idle connections are kept at most.
    pub(crate) fn new(url: HttpUrl, dns: Dns, tls: Option<Connector>, keepalive: usize) -> Self {
        let kept = Kept::new(keepalive);
        Self {
            start: Self::start_of_requests(&url, kept.is_wanted()),
            url,
            dns,
            tls,
            kept,
        }
    }

    /// Who is asked, for the log.
    pub(crate) fn name(&self) -> String {
        match &self.url.host {
            HttpHost::Tcp(host, port) if host.contains(':') => format!("[{host}]:{port}"),
            HttpHost::Tcp(host, port) => format!("{host}:{port}"),
            HttpHost::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    /// Asks once. `headers` are complete lines. A kept connection that is dead or silent is replaced
    /// by a new one.
    pub(crate) fn get(&self, headers: &[u8], deadline: Deadline) -> Result<Response, HttpError> {
        let request = super::line::line(&[self.start.as_bytes(), headers]);
        if let Some(mut conn) = self.kept.take() {
            let sent = conn.send(&request, deadline).map_err(broken);
            let first = Deadline {
                at: deadline.at.min(Instant::now() + FIRST_BYTE),
                ..deadline
            };
            // Where no byte has come the server has closed it, or is busy with another.
            if sent.and_then(|()| conn.fill(first).map_err(broken)).is_ok() {
                return self.read_answer(conn, deadline);
            }
        }
        let mut conn = self.connect(deadline)?;
        conn.send(&request, deadline).map_err(broken)?;
        self.read_answer(conn, deadline)
    }

    /// Connects and asks nothing; what is known of its TLS, if there is any.
    pub(crate) fn reach(&self, deadline: Deadline) -> Result<Option<Facts>, HttpError> {
        self.connect(deadline).map(|conn| conn.tls_facts())
    }

    /// What every request begins with. Version 1.0 says, as nginx does, that the connection is for this request
    /// alone.
    fn start_of_requests(url: &HttpUrl, keeps: bool) -> String {
        let host = match &url.host {
            HttpHost::Tcp(host, _) if host.contains(':') => format!("[{host}]"),
            HttpHost::Tcp(host, _) => host.clone(),
            HttpHost::Unix(_) => "localhost".into(),
        };
        let version = if keeps { "1.1" } else { "1.0" };
        let uri = &url.uri;
        format!("GET {uri} HTTP/{version}\r\nHost: {host}\r\n")
    }

    fn connect(&self, deadline: Deadline) -> Result<Conn, HttpError> {
        let addresses: Vec<_> = match &self.url.host {
            HttpHost::Unix(path) => {
                let path = SockAddr::unix(path).map_err(HttpError::Connect)?;
                let limit = deadline.remaining().ok_or(HttpError::Timeout)?;
                let socket = Socket::connect(&path, limit).map_err(not_connected)?;
                return self.begin(socket, deadline);
            }
            // This machine, whatever a `resolver` would say (RFC 6761, section 6.3).
            HttpHost::Tcp(host, port) if host.eq_ignore_ascii_case("localhost") => {
                let ips = [
                    IpAddr::from(Ipv6Addr::LOCALHOST),
                    Ipv4Addr::LOCALHOST.into(),
                ];
                ips.map(|ip| SockAddr::from(SocketAddr::new(ip, *port)))
                    .into()
            }
            HttpHost::Tcp(host, port) => self
                .dns
                .lookup_host(host, *port, deadline.at)
                .map_err(|error| HttpError::Resolve(error.to_string()))?
                .addresses
                .into_iter()
                .map(SockAddr::from)
                .collect(),
        };
        let socket = connect_first(&addresses, deadline.at).map_err(not_connected)?;
        self.begin(socket, deadline)
    }

    fn begin(&self, socket: Socket, deadline: Deadline) -> Result<Conn, HttpError> {
        let mut conn = Conn::new(Arc::new(socket), HEAD);
        if let (Some(tls), HttpHost::Tcp(host, _)) = (&self.tls, &self.url.host) {
            let engine = tls
                .engine(host)
                .map_err(|error| HttpError::Broken(NetError::Tls(error)))?;
            conn.start_tls(engine, deadline).map_err(broken)?;
        }
        Ok(conn)
    }

    /// Reads the head of the answer, and keeps the connection if that is wanted and possible.
    fn read_answer(&self, mut conn: Conn, deadline: Deadline) -> Result<Response, HttpError> {
        let mut interim = 0;
        loop {
            while let Some(head) = parse_head(conn.buffered())? {
                conn.consume(head.len);
                // An interim answer (RFC 9110, section 15.2) precedes the real one.
                if !(100..200).contains(&head.response.status) {
                    let keeps = self.kept.is_wanted() && head.keeps_alive;
                    if keeps && skip_body(&mut conn, head.body, deadline) {
                        self.kept.put(conn);
                    }
                    return Ok(head.response);
                }
                interim += 1;
                if interim > INTERIM {
                    let text = format!("sent more than {INTERIM} interim answers");
                    return Err(HttpError::Malformed(text));
                }
            }
            conn.fill(deadline).map_err(broken)?;
        }
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpClient({})", self.name())
    }
}

fn not_connected(error: io::Error) -> HttpError {
    match error.kind() {
        io::ErrorKind::TimedOut => HttpError::Timeout,
        _ => HttpError::Connect(error),
    }
}

fn broken(error: NetError) -> HttpError {
    match error {
        NetError::Timeout(_) => HttpError::Timeout,
        NetError::TooLong => HttpError::Malformed(format!("answer is longer than {HEAD} bytes")),
        kind => HttpError::Broken(kind),
    }
}

struct Head {
    response: Response,
    len: usize,
    keeps_alive: bool,
    body: Option<usize>,
}

/// The head of an answer, once it is complete.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>, HttpError> {
    // A peer that sends byte by byte makes nobody parse from the start each time.
    let ends = |window: &[u8]| window == b"\n\n" || window == b"\n\r";
    let has_ended = bytes.ends_with(b"\n\r\n") || bytes.windows(2).any(ends);
    if !has_ended && bytes.len() < HEAD {
        return Ok(None);
    }
    let malformed = |reason: String| HttpError::Malformed(format!("invalid answer: {reason}"));
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS];
    let mut answer = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let parsed = parser.parse_response_with_uninit_headers(&mut answer, bytes, &mut headers);
    let len = match parsed {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(malformed(error.to_string())),
    };
    let status = answer.code.unwrap_or_default();
    // The parser gives parts of what it was given, or else something empty.
    let place = |part: &[u8]| {
        let start = part.as_ptr().addr().checked_sub(bytes.as_ptr().addr());
        let start = start.filter(|_| !part.is_empty()).unwrap_or(0);
        start..start + part.len()
    };
    let headers = answer.headers.iter();
    let response = Response {
        status,
        headers: headers
            .map(|header| {
                (
                    place(header.name.as_bytes()),
                    place(header.value.trim_ascii()),
                )
            })
            .collect(),
        head: Zeroizing::new(bytes[..len].to_vec()),
    };
    let body = match status {
        100..=199 | 204 | 304 => Some(0),
        _ if response.header("Transfer-Encoding").is_some() => None,
        _ => response.header("Content-Length").and_then(|length| {
            let digits = std::str::from_utf8(length).ok()?;
            digits.parse().ok()
        }),
    };
    let closes = response.header("Connection").is_some_and(|value| {
        value
            .to_ascii_lowercase()
            .windows(5)
            .any(|word| word == b"close")
    });
    Ok(Some(Head {
        keeps_alive: answer.version == Some(1) && !closes,
        response,
        len,
        body,
    }))
}

/// Reads a short body of known length, if it is there or comes at once.
fn skip_body(conn: &mut Conn, body: Option<usize>, deadline: Deadline) -> bool {
    const SOON: Duration = Duration::from_millis(50);
    let Some(length) = body.filter(|&length| length <= BODY) else {
        return false;
    };
    let soon = Deadline {
        at: deadline.at.min(Instant::now() + SOON),
        ..deadline
    };
    while conn.buffered().len() < length {
        if conn.fill(soon).is_err() {
            return false;
        }
    }
    conn.consume(length);
    // More than was announced: the next answer would be somebody else's.
    conn.buffered().is_empty()
}

impl Response {
    /// Names and values, values without spaces around them.
    pub(crate) fn headers(&self) -> impl DoubleEndedIterator<Item = (&[u8], &[u8])> {
        let headers = self.headers.iter();
        headers.map(|(name, value)| (&self.head[name.clone()], &self.head[value.clone()]))
    }

    /// The last header of this name, in any case.
    pub(crate) fn header(&self, name: &str) -> Option<&[u8]> {
        let mut from_the_last = self.headers().rev();
        let found = from_the_last.find(|(header, _)| header.eq_ignore_ascii_case(name.as_bytes()));
        found.map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(bytes: &[u8]) -> Head {
        parse_head(bytes).expect("HTTP").expect("complete")
    }

    #[test]
    fn header_names_are_found_in_any_case_and_values_are_trimmed() {
        let head = head(b"HTTP/1.0 200 OK\nauth-STATUS: \t OK \nX: 1\n\n");
        assert_eq!(head.response.header("Auth-Status"), Some(&b"OK"[..]));
        assert_eq!(head.response.status, 200);
        assert!(!head.keeps_alive);
    }

    #[test]
    fn only_a_body_of_known_length_keeps_the_connection() {
        let head = |text: &str| head(text.as_bytes());
        assert_eq!(
            head("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n").body,
            Some(7)
        );
        assert_eq!(
            head("HTTP/1.1 200 OK\r\nContent-Length: -7\r\n\r\n").body,
            None
        );
        assert_eq!(
            head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").body,
            None
        );
        assert_eq!(head("HTTP/1.1 204 No\r\n\r\n").body, Some(0));
        assert!(!head("HTTP/1.1 200 OK\r\nConnection: Close\r\n\r\n").keeps_alive);
    }

    #[test]
    fn half_a_head_is_incomplete_and_garbage_is_malformed() {
        assert!(
            parse_head(b"HTTP/1.1 200 OK\r\nA: b\r\n")
                .expect("HTTP")
                .is_none()
        );
        assert!(parse_head(b"220 mx ESMTP\r\n\r\n").is_err());
        assert!(parse_head(b"HTTP/1.1 200 OK\r\nAuth-Pass: a\0b\r\n\r\n").is_err());
    }
}
