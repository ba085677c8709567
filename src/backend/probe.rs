//! A short visit to a backend without a login: connect, greeting, perhaps its capabilities, goodbye.
//! So that backends log nothing alarming, every visit ends with QUIT or LOGOUT.
//!
//! When visits are made and what follows from them is decided in `check` and `capabilities`.

use std::sync::Arc;
use std::time::Duration;

use socket2::SockAddr;

use super::{BACKEND_LINE, BACKEND_TOTAL, Backend, Candidate};
use crate::config::ProxySsl;
use crate::net::conn::Conn;
use crate::net::error::NetError;
use crate::net::line::without_end;
use crate::net::proxy_protocol;
use crate::net::socket::{Deadline, Socket};
use crate::protocol::Protocol;

/// Most lines of one answer.
const LINES: usize = 256;

/// One visit.
pub(crate) struct Probe {
    conn: Conn,
    protocol: Protocol,
    deadline: Deadline,
    total: usize,
}

impl Probe {
    /// Connects and reads the greeting, within `connect_timeout`.
    ///
    /// # Errors
    /// Why the host does not serve, for people.
    pub(crate) fn greet(
        backend: &Backend,
        protocol: Protocol,
        host: &Candidate,
    ) -> Result<Self, String> {
        let conf = &backend.conf;
        let socket = Socket::connect(&SockAddr::from(host.address), conf.connect_timeout)
            .map_err(|error| format!("connect() failed: {error}"))?;
        let mut probe = Self {
            conn: Conn::new(Arc::new(socket), BACKEND_LINE),
            protocol,
            deadline: Deadline::after(conf.connect_timeout, "connect_timeout"),
            total: 0,
        };
        // Ours is no client's connection.
        let header = proxy_protocol::encode(conf.proxy_protocol, None);
        probe.say(&header)?;
        if conf.proxy_ssl == ProxySsl::On {
            probe.start_tls(backend, &host.host)?;
        }
        let mut greeting = probe.read_line()?;
        // RFC 5321, section 4.2: a greeting may have several lines.
        for _ in 0..LINES {
            if protocol != Protocol::Smtp || greeting.get(3) != Some(&b'-') {
                break;
            }
            greeting = probe.read_line()?;
        }
        let welcome = match protocol {
            Protocol::Imap => greeting.to_ascii_uppercase().starts_with(b"* OK"),
            Protocol::Pop3 => greeting.starts_with(b"+OK"),
            Protocol::Smtp => greeting.starts_with(b"220"),
        };
        match welcome {
            true => Ok(probe),
            false => {
                probe.leave();
                Err(format!(
                    "greets with \"{}\"",
                    crate::log::escape(greeting.trim_ascii_end())
                ))
            }
        }
    }

    /// Asks for the capabilities, behind STARTTLS where the backend is spoken to so. `name` is ours.
    ///
    /// # Errors
    /// Why they are not known, for people.
    pub(crate) fn capabilities(
        &mut self,
        backend: &Backend,
        host: &str,
        name: &str,
    ) -> Result<Vec<String>, String> {
        let first = self.ask_capabilities(name)?;
        if backend.conf.proxy_ssl != ProxySsl::StartTls {
            return Ok(first);
        }
        let command: &[u8] = match self.protocol {
            Protocol::Imap => b"p2 STARTTLS\r\n",
            Protocol::Pop3 => b"STLS\r\n",
            Protocol::Smtp => b"STARTTLS\r\n",
        };
        self.say(command)?;
        let answer = self.read_line()?;
        let goes_on: &[u8] = match self.protocol {
            Protocol::Imap => b"p2 OK",
            Protocol::Pop3 => b"+OK",
            Protocol::Smtp => b"220",
        };
        if !answer.starts_with(goes_on) || !self.conn.buffered().is_empty() {
            return Err("does not begin TLS when asked to".into());
        }
        self.start_tls(backend, host)?;
        self.ask_capabilities(name)
    }

    /// Says goodbye; whether it is heard does not matter.
    pub(crate) fn leave(mut self) {
        let goodbye: &[u8] = match self.protocol {
            Protocol::Imap => b"p9 LOGOUT\r\n",
            Protocol::Pop3 | Protocol::Smtp => b"QUIT\r\n",
        };
        self.deadline = Deadline::after(Duration::from_secs(1), "connect_timeout");
        if self.say(goodbye).is_ok() {
            let _ = self.read_line();
        }
        self.conn.close_after_line();
    }

    fn ask_capabilities(&mut self, name: &str) -> Result<Vec<String>, String> {
        match self.protocol {
            Protocol::Imap => {
                self.say(b"p1 CAPABILITY\r\n")?;
                let lines = self.read_until(|line| line.starts_with(b"p1 "))?;
                let words = lines
                    .iter()
                    .filter_map(|line| line.split_at_checked("* CAPABILITY ".len()))
                    .filter(|(begin, _)| begin.eq_ignore_ascii_case("* CAPABILITY "))
                    .map(|(_, words)| words);
                Ok(words
                    .flat_map(str::split_ascii_whitespace)
                    .map(str::to_owned)
                    .collect())
            }
            Protocol::Pop3 => {
                self.say(b"CAPA\r\n")?;
                if !self.read_line()?.starts_with(b"+OK") {
                    // CAPA is younger than POP3 (RFC 2449).
                    return Ok(vec!["USER".into()]);
                }
                self.read_until(|line| line == b".")
            }
            Protocol::Smtp => {
                self.say(format!("EHLO {name}\r\n").as_bytes())?;
                let mut lines = Vec::new();
                // The last line has a space where the others have a hyphen (RFC 5321, section 4.2.1).
                while lines.len() < LINES {
                    let line = self.read_line()?;
                    if !line.starts_with(b"250") {
                        return Err("refuses EHLO".into());
                    }
                    let is_last = line.get(3) != Some(&b'-');
                    let text = line.get(4..).unwrap_or_default();
                    lines.push(String::from_utf8_lossy(text).into_owned());
                    if is_last {
                        return Ok(lines.split_off(1));
                    }
                }
                Err("answers without end".into())
            }
        }
    }

    /// The lines before the one that ends an answer.
    fn read_until(&mut self, is_end: impl Fn(&[u8]) -> bool) -> Result<Vec<String>, String> {
        let mut lines = Vec::new();
        while lines.len() < LINES {
            let line = self.read_line()?;
            if is_end(&line) {
                return Ok(lines);
            }
            lines.push(String::from_utf8_lossy(&line).into_owned());
        }
        Err("answers without end".into())
    }

    fn read_line(&mut self) -> Result<Vec<u8>, String> {
        let length = self.conn.fill_line(self.deadline).map_err(in_words)?;
        let line = without_end(&self.conn.buffered()[..length]).to_vec();
        self.conn.consume(length);
        self.total += length;
        match self.total > BACKEND_TOTAL {
            true => Err("answers without end".into()),
            false => Ok(line),
        }
    }

    fn say(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.conn.send(bytes, self.deadline).map_err(in_words)
    }

    fn start_tls(&mut self, backend: &Backend, host: &str) -> Result<(), String> {
        let connector = backend.connector.as_ref().map_err(Clone::clone)?;
        let engine = connector.engine(host).map_err(|error| error.to_string())?;
        self.conn.start_tls(engine, self.deadline).map_err(in_words)
    }
}

fn in_words(error: NetError) -> String {
    error.to_string()
}
