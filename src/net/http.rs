//! One GET request over a blocking connection (RFC 9112), with connections kept for the next one.
//!
//! Just what an auth server needs: the request's bytes are the caller's, down to the spelling and the
//! order of its headers, which HTTP libraries do not leave to their users. Answers are parsed by
//! `httparse`; of them only the head is of interest.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::SockAddr;
use zeroize::Zeroizing;

use super::conn::Conn;
use super::error::NetError;
use super::line::Line;
use super::resolve::Dns;
use super::socket::{Deadline, Socket};
use crate::config::{HttpHost, HttpUrl};
use crate::tls::Connector;

/// Longest head of an answer.
const HEAD: usize = 64 * 1024;
/// Most headers of an answer.
const HEADERS: usize = 256;
/// Longest body that is read for the sake of keeping the connection.
const BODY: usize = 16 * 1024;
/// Connections kept for later requests.
const KEPT: usize = 64;
/// Longest time a kept connection is trusted.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// One HTTP server.
pub(crate) struct HttpClient {
    url: HttpUrl,
    dns: Dns,
    tls: Option<Connector>,
    idle: Mutex<Vec<(Conn, Instant)>>,
}

/// The head of an answer.
#[derive(Debug)]
pub(crate) struct Response {
    /// Status code.
    pub status: u16,
    /// Names and values, values without spaces around them.
    pub headers: Vec<(String, Zeroizing<Vec<u8>>)>,
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
    /// A client of one server; `tls` goes with `https`.
    pub(crate) fn new(url: HttpUrl, dns: Dns, tls: Option<Connector>) -> Self {
        Self {
            url,
            dns,
            tls,
            idle: Mutex::new(Vec::new()),
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

    /// Asks once. `headers` are complete lines. A kept connection that turns out to be dead is
    /// replaced by a new one.
    pub(crate) fn get(&self, headers: &[u8], deadline: Deadline) -> Result<Response, HttpError> {
        let request = self.request(headers);
        if let Some(mut conn) = self.take_kept() {
            match self.ask(&mut conn, &request, deadline) {
                Ok((response, keep)) => {
                    self.keep(conn, keep);
                    return Ok(response);
                }
                // The server closed it meanwhile; it has not seen the request.
                Err(HttpError::Broken(NetError::Closed | NetError::Io(_)))
                    if conn.buffered().is_empty() => {}
                Err(error) => return Err(error),
            }
        }
        let mut conn = self.connect(deadline)?;
        let (response, keep) = self.ask(&mut conn, &request, deadline)?;
        self.keep(conn, keep);
        Ok(response)
    }

    fn request(&self, headers: &[u8]) -> Line {
        let host = match &self.url.host {
            HttpHost::Tcp(host, _) if host.contains(':') => format!("[{host}]"),
            HttpHost::Tcp(host, _) => host.clone(),
            HttpHost::Unix(_) => "localhost".into(),
        };
        let start = format!("GET {} HTTP/1.1\r\nHost: {host}\r\n", self.url.uri);
        super::line::line(&[start.as_bytes(), headers])
    }

    fn connect(&self, deadline: Deadline) -> Result<Conn, HttpError> {
        let addresses = match &self.url.host {
            HttpHost::Unix(path) => vec![SockAddr::unix(path).map_err(HttpError::Connect)?],
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
        let mut last = HttpError::Timeout;
        for (at, address) in addresses.iter().enumerate() {
            let Some(left) = deadline.remaining() else {
                return Err(HttpError::Timeout);
            };
            let others = u32::try_from(addresses.len() - at).unwrap_or(1);
            match Socket::connect(address, left / others) {
                Ok(socket) => return self.start(socket, deadline),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => last = HttpError::Timeout,
                Err(error) => last = HttpError::Connect(error),
            }
        }
        Err(last)
    }

    fn start(&self, socket: Socket, deadline: Deadline) -> Result<Conn, HttpError> {
        let mut conn = Conn::new(Arc::new(socket), HEAD);
        if let (Some(tls), HttpHost::Tcp(host, _)) = (&self.tls, &self.url.host) {
            let engine = tls
                .engine(host)
                .map_err(|error| HttpError::Broken(NetError::Tls(error)))?;
            conn.start_tls(engine, deadline).map_err(broken)?;
        }
        Ok(conn)
    }

    /// Sends the request and reads the head of the answer; says whether the connection can be used
    /// again.
    fn ask(
        &self,
        conn: &mut Conn,
        request: &[u8],
        deadline: Deadline,
    ) -> Result<(Response, bool), HttpError> {
        conn.send(request, deadline).map_err(broken)?;
        loop {
            conn.fill(deadline).map_err(broken)?;
            while let Some(head) = parse_head(conn.buffered())? {
                conn.consume(head.len);
                // An interim answer (RFC 9110, section 15.2) precedes the real one.
                if !(100..200).contains(&head.response.status) {
                    let keep = head.keeps_alive && skip_body(conn, head.body, deadline);
                    return Ok((head.response, keep));
                }
            }
        }
    }

    fn take_kept(&self) -> Option<Conn> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((conn, since)) = idle.pop() {
            // What came unasked would be taken for the answer to somebody else's login.
            if since.elapsed() < KEPT_FOR && conn.is_quiet() {
                return Some(conn);
            }
        }
        None
    }

    fn keep(&self, conn: Conn, keep: bool) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if keep && idle.len() < KEPT {
            idle.push((conn, Instant::now()));
        }
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpClient({})", self.name())
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
    if !bytes.windows(2).any(ends) && bytes.len() < HEAD {
        return Ok(None);
    }
    let malformed = |reason: String| HttpError::Malformed(format!("invalid answer: {reason}"));
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    let len = match answer.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(malformed(error.to_string())),
    };
    let status = answer.code.unwrap_or_default();
    let response = Response {
        status,
        headers: answer
            .headers
            .iter()
            .map(|header| {
                (
                    header.name.to_owned(),
                    Zeroizing::new(header.value.trim_ascii().to_vec()),
                )
            })
            .collect(),
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
    /// The last header of this name, in any case.
    pub(crate) fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers
            .iter()
            .rev()
            .find(|(header, _)| header.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_slice())
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
