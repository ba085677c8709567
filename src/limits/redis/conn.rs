//! One connection to Redis or Valkey: over TCP, TLS or a Unix socket, each question within a time, each answer
//! of a bounded size. The crate `redis` writes the questions and reads the answers; the sockets are ours.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use redis::{ConnectionLike, ErrorKind, RedisError, RedisResult, Value};
use socket2::SockAddr;
use zeroize::Zeroizing;

use super::answer;
use crate::config::{StoreHost, StoreUrl};
use crate::net::conn::Conn;
use crate::net::error::NetError;
use crate::net::race::connect_first;
use crate::net::resolve::Dns;
use crate::net::socket::{Deadline, Socket};
use crate::tls::Connector;

/// By what the log names the limits of a connection.
const DIRECTIVE: &str = "limits_store";

/// Longest answer of a connection for workers, in bytes.
pub(super) const SHORT: usize = 16 * 1024;

/// Longest answer where bans are listed, in bytes.
pub(super) const LONG: usize = 2 * 1024 * 1024;

/// How a store is reached.
pub(super) struct Way {
    /// What the configuration says.
    pub url: StoreUrl,
    /// Who knows addresses of names.
    pub dns: Dns,
    /// With `rediss`.
    pub tls: Option<Connector>,
}

/// A connection that is logged in, in its database.
pub(super) struct StoreConn {
    conn: Conn,
    deadline: Deadline,
    /// Nothing has gone wrong on it: the next answer is that to the next question.
    is_good: bool,
}

impl fmt::Debug for StoreConn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreConn")
    }
}

impl Way {
    /// Connects and logs in, all within `limit`; answers have `longest` bytes at most.
    ///
    /// # Errors
    /// For people, without secrets.
    pub(super) fn connect(&self, limit: Duration, longest: usize) -> Result<StoreConn, String> {
        let deadline = Deadline::after(limit, DIRECTIVE);
        let socket = self.socket(deadline)?;
        let mut conn = Conn::new(Arc::new(socket), longest);
        if let (Some(tls), StoreHost::Tcp(host, _)) = (&self.tls, &self.url.host) {
            let engine = tls.engine(host).map_err(|error| error.to_string())?;
            let started = conn.start_tls(engine, deadline);
            started.map_err(|error| format!("TLS failed: {error}"))?;
        }
        let mut conn = StoreConn {
            conn,
            deadline,
            is_good: true,
        };
        self.log_in(&mut conn)?;
        Ok(conn)
    }

    fn log_in(&self, conn: &mut StoreConn) -> Result<(), String> {
        if let Some(password) = &self.url.password {
            let user = self.url.user.as_deref().map(str::as_bytes);
            let parts = [Some(&b"AUTH"[..]), user, Some(password.expose())];
            let parts: Vec<&[u8]> = parts.into_iter().flatten().collect();
            let answer = conn.req_packed_command(&packed(&parts));
            let answer = answer.and_then(Value::extract_error);
            // Whatever the store says of a login may repeat it.
            answer.map_err(|error| match error.code() {
                Some(code) => format!("the login failed ({})", crate::log::escape(code.as_bytes())),
                None => in_words(&error),
            })?;
        }
        if self.url.database > 0 {
            let select = redis::cmd("SELECT").arg(self.url.database).exec(conn);
            select.map_err(|error| in_words(&error))?;
        }
        let pong: RedisResult<String> = redis::cmd("PING").query(conn);
        pong.map(drop).map_err(|error| in_words(&error))
    }

    fn socket(&self, deadline: Deadline) -> Result<Socket, String> {
        let failed = |error: io::Error| format!("connect() failed: {error}");
        let left = deadline.remaining().unwrap_or_default();
        let addresses: Vec<SockAddr> = match &self.url.host {
            StoreHost::Unix(path) => {
                let path = SockAddr::unix(path).map_err(failed)?;
                return Socket::connect(&path, left).map_err(failed);
            }
            // This machine, whatever a `resolver` would say (RFC 6761, section 6.3).
            StoreHost::Tcp(host, port) if host.eq_ignore_ascii_case("localhost") => {
                let ips = [
                    IpAddr::from(Ipv6Addr::LOCALHOST),
                    Ipv4Addr::LOCALHOST.into(),
                ];
                ips.map(|ip| SocketAddr::new(ip, *port).into()).into()
            }
            StoreHost::Tcp(host, port) => {
                let found = self.dns.lookup_host(host, *port, deadline.at);
                let found = found.map_err(|error| format!("no address: {error}"))?;
                found.addresses.into_iter().map(SockAddr::from).collect()
            }
        };
        connect_first(&addresses, deadline.at).map_err(failed)
    }
}

impl StoreConn {
    /// What is asked from now on has so much time, all together.
    pub(super) fn limit(&mut self, limit: Duration) {
        self.deadline = Deadline::after(limit, DIRECTIVE);
    }

    /// Whether it can be asked again.
    pub(super) fn is_good(&self) -> bool {
        self.is_good
    }

    fn ask(&mut self, question: &[u8], answers: usize) -> RedisResult<Vec<Value>> {
        let is_good = std::mem::replace(&mut self.is_good, false);
        // What nobody asked for belongs to no question.
        if !is_good || !self.conn.buffered().is_empty() {
            return Err(io::Error::from(io::ErrorKind::NotConnected).into());
        }
        self.conn.send(question, self.deadline).map_err(broken)?;
        let values = (0..answers).map(|_| self.read());
        let values = values.collect::<RedisResult<Vec<Value>>>()?;
        self.is_good = true;
        Ok(values)
    }

    fn read(&mut self) -> RedisResult<Value> {
        let malformed = |text: &'static str| RedisError::from((ErrorKind::Parse, text));
        let length = loop {
            match answer::length(self.conn.buffered()).map_err(malformed)? {
                Some(length) => break length,
                None => self.conn.fill(self.deadline).map_err(broken)?,
            }
        };
        let value = redis::parse_redis_value(&self.conn.buffered()[..length]);
        self.conn.consume(length);
        value
    }
}

impl ConnectionLike for StoreConn {
    fn req_packed_command(&mut self, question: &[u8]) -> RedisResult<Value> {
        Ok(self.ask(question, 1)?.pop().unwrap_or(Value::Nil))
    }

    fn req_packed_commands(
        &mut self,
        questions: &[u8],
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let mut values = self.ask(questions, offset + count)?;
        values.drain(..offset);
        Ok(values)
    }

    fn get_db(&self) -> i64 {
        0
    }

    fn check_connection(&mut self) -> bool {
        self.is_good
    }

    fn is_open(&self) -> bool {
        self.is_good
    }
}

/// A command whose words may be secret.
fn packed(parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    // Of the right size at once: what a vector outgrows is not wiped.
    let size: usize = parts.iter().map(|part| part.len() + 32).sum();
    let mut packed = Zeroizing::new(Vec::with_capacity(size + 32));
    packed.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
    for part in parts {
        packed.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        packed.extend_from_slice(part);
        packed.extend_from_slice(b"\r\n");
    }
    packed
}

fn broken(error: NetError) -> RedisError {
    match error {
        NetError::Timeout(_) => io::Error::from(io::ErrorKind::TimedOut).into(),
        NetError::Closed => io::Error::from(io::ErrorKind::UnexpectedEof).into(),
        NetError::TooLong => (ErrorKind::Parse, "the answer is too long").into(),
        NetError::Io(error) => error.into(),
        NetError::Tls(error) => io::Error::other(error.to_string()).into(),
    }
}

/// A failure for people: what the store says is escaped, and cut.
pub(super) fn in_words(error: &RedisError) -> String {
    const MOST: usize = 200;
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    if error.is_io_error() {
        return match error.kind() {
            ErrorKind::Io if error.is_connection_dropped() => "the connection has ended".to_owned(),
            _ => crate::log::escape(error.to_string().as_bytes()),
        };
    }
    let text = error.to_string();
    let cut = text
        .char_indices()
        .nth(MOST)
        .map_or(text.len(), |(at, _)| at);
    crate::log::escape(&text.as_bytes()[..cut])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_packed_as_the_crate_does_it() {
        let parts: [&[u8]; 3] = [b"AUTH", b"me", b"s e\r\ncret"];
        let theirs = redis::cmd("AUTH")
            .arg(parts[1])
            .arg(parts[2])
            .get_packed_command();
        assert_eq!(*packed(&parts), theirs);
    }
}
