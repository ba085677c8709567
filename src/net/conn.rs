//! One blocking connection: a socket, perhaps TLS on it, and bytes read ahead.
//!
//! `Conn` is a `Leg` with the input buffer of the time before the relay and, towards clients, the state
//! by which a waiting session can be evicted. What the bytes mean is the dialects' business.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::leg::{Got, Leg, RECORD};
use super::socket::{Deadline, Seen, Socket, WaitFor, Waited};
use crate::presence::{Doing, Evicted, Presence};
use crate::tls::{Engine, Facts, TlsError};

/// Why a read or write on a connection failed.
#[derive(Debug)]
pub struct NetError {
    /// At which end.
    pub side: Side,
    /// What happened.
    pub kind: NetErrorKind,
}

/// The two kinds of peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The mail program.
    Client,
    /// A mail server, or an auth server.
    Backend,
}

/// What can happen on a connection.
#[derive(Debug)]
pub enum NetErrorKind {
    /// Nothing came, or nothing could be written, within the limit of this directive.
    Timeout(&'static str),
    /// The stream ended.
    Closed,
    /// The peer sent more than the buffer of its directive holds.
    TooLong,
    /// The session had to make room.
    Evicted,
    /// The system call that failed.
    Io(io::Error),
    /// TLS failed.
    Tls(TlsError),
}

impl fmt::Display for NetErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout(directive) => write!(f, "timed out ({directive})"),
            Self::Closed => f.write_str("closed the connection"),
            Self::TooLong => f.write_str("sent too much"),
            Self::Evicted => f.write_str("had to make room for others"),
            Self::Io(error) => error.fmt(f),
            Self::Tls(error) => error.fmt(f),
        }
    }
}

/// A connection before its relay.
#[derive(Debug)]
pub struct Conn {
    leg: Leg,
    side: Side,
    /// Bytes read and not used yet are `input[start..]`. Wiped: passwords pass through it.
    input: Zeroizing<Vec<u8>>,
    start: usize,
    limit: usize,
    presence: Option<Arc<Presence>>,
}

impl Conn {
    /// A connection whose input buffer holds `limit` bytes.
    pub fn new(socket: Arc<Socket>, side: Side, limit: usize) -> Self {
        Self {
            leg: Leg::new(socket),
            side,
            // Never grows, so that no copy of a password is left behind.
            input: Zeroizing::new(Vec::with_capacity(limit)),
            start: 0,
            limit,
            presence: None,
        }
    }

    /// A client's connection, which can be evicted while it waits.
    pub fn client(presence: Arc<Presence>, limit: usize) -> Self {
        let mut conn = Self::new(Arc::clone(presence.socket()), Side::Client, limit);
        conn.presence = Some(presence);
        conn
    }

    /// Gives the input buffer another limit; what was read stays.
    pub fn set_limit(&mut self, limit: usize) {
        let mut input = Zeroizing::new(Vec::with_capacity(limit.max(self.buffered().len())));
        input.extend_from_slice(self.buffered());
        self.input = input;
        self.start = 0;
        self.limit = limit;
    }

    /// Whether TLS runs on it.
    pub fn is_tls(&self) -> bool {
        self.leg.is_tls()
    }

    /// What is known of its TLS.
    pub fn tls_facts(&self) -> Option<Facts> {
        self.leg.tls_facts()
    }

    /// The socket, for options and addresses.
    pub fn socket(&self) -> &Arc<Socket> {
        &self.leg.socket
    }

    /// What was read and not consumed.
    pub fn buffered(&self) -> &[u8] {
        &self.input[self.start..]
    }

    /// Forgets the first `n` buffered bytes.
    pub fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.input.len());
        if self.start == self.input.len() {
            self.clear();
        }
    }

    /// Forgets everything read ahead: behind STARTTLS it is an injection attempt.
    pub fn clear(&mut self) {
        self.input.clear();
        self.start = 0;
    }

    /// Whether the buffer can take no more.
    pub fn is_full(&self) -> bool {
        self.buffered().len() >= self.limit
    }

    /// Says that a command is complete: what comes next is a new wait for the client.
    pub fn command_is_complete(&self) {
        if let Some(presence) = &self.presence {
            presence.begin_wait();
        }
    }

    /// Reads more into the buffer: at least a byte, or an error.
    pub fn fill(&mut self, deadline: Deadline) -> Result<(), NetError> {
        if self.is_full() {
            return Err(self.error(NetErrorKind::TooLong));
        }
        if self.start > 0 {
            self.input.drain(..self.start);
            self.start = 0;
        }
        let held = self.input.len();
        self.input.resize(self.limit, 0);
        let got = self.read_some(held, deadline);
        let n = *got.as_ref().unwrap_or(&0);
        self.input.truncate(held + n);
        match got {
            Ok(0) => Err(self.error(NetErrorKind::Closed)),
            Ok(_) => Ok(()),
            Err(kind) => Err(self.error(kind)),
        }
    }

    fn read_some(&mut self, held: usize, deadline: Deadline) -> Result<usize, NetErrorKind> {
        loop {
            let Some(left) = deadline.remaining() else {
                return Err(NetErrorKind::Timeout(deadline.directive));
            };
            let leg = &self.leg;
            let input = &mut self.input[held..];
            let got = guarded(self.presence.as_deref(), Doing::WaitingForClient, || {
                leg.read(input, left)
            })?;
            match got {
                Got::Bytes(n) => return Ok(n),
                Got::End => return Ok(0),
                Got::TimedOut => {}
            }
        }
    }

    /// Waits until the buffer holds a line and returns its length, the LF included.
    pub fn fill_line(&mut self, deadline: Deadline) -> Result<usize, NetError> {
        let mut searched = 0;
        loop {
            let unsearched = &self.buffered()[searched..];
            if let Some(at) = unsearched.iter().position(|&byte| byte == b'\n') {
                return Ok(searched + at + 1);
            }
            searched = self.buffered().len();
            self.fill(deadline)?;
        }
    }

    /// Writes all of `data`.
    pub fn send(&mut self, data: &[u8], deadline: Deadline) -> Result<(), NetError> {
        let mut sent = 0;
        let mut pending = Vec::new();
        while sent < data.len() || !pending.is_empty() {
            let Some(left) = deadline.remaining() else {
                return Err(self.error(NetErrorKind::Timeout(deadline.directive)));
            };
            let wrote = guarded(self.presence.as_deref(), Doing::WritingToClient, || {
                self.leg.write(&data[sent..], &mut pending, left)
            });
            sent += wrote.map_err(|kind| self.error(kind))?.unwrap_or(0);
        }
        Ok(())
    }

    /// Lets time pass, but ends at once when the client hangs up or the session is evicted.
    /// A client that has already sent more commands may have ended its side in good order: then only
    /// a reset counts.
    pub fn pause(&mut self, deadline: Deadline) -> Result<(), NetError> {
        self.excuse(deadline);
        let mut what = match self.buffered().is_empty() {
            true => WaitFor::HangUp,
            false => WaitFor::Reset,
        };
        loop {
            match self.wait(what, deadline)? {
                Seen::HangUp if what == WaitFor::HangUp && self.read_ahead()? => {
                    what = WaitFor::Reset;
                }
                Seen::HangUp => return Err(self.error(NetErrorKind::Closed)),
                Seen::Data | Seen::Nothing => return Ok(()),
            }
        }
    }

    /// Takes plain text that is there already into the buffer; whether there was any.
    pub fn read_ahead(&mut self) -> Result<bool, NetError> {
        if self.is_full() {
            return Ok(true);
        }
        let mut some = Zeroizing::new(vec![0; self.limit - self.buffered().len()]);
        match self.leg.read_now(&mut some) {
            Ok(Got::Bytes(n)) => {
                let begun = Zeroizing::new(self.buffered().to_vec());
                self.input.clear();
                self.start = 0;
                self.input.extend_from_slice(&begun);
                self.input.extend_from_slice(&some[..n]);
                Ok(true)
            }
            Ok(Got::End | Got::TimedOut) => Ok(false),
            Err(kind) => Err(self.error(kind)),
        }
    }

    /// Whether nothing has come that nobody asked for, and the peer is still there.
    pub fn is_quiet(&self) -> bool {
        self.buffered().is_empty() && matches!(self.leg.read_now(&mut [0]), Ok(Got::TimedOut))
    }

    /// The wait until `deadline` is our wish, not the client's fault.
    pub fn excuse(&self, deadline: Deadline) {
        if let Some(presence) = &self.presence {
            presence.excuse(deadline.remaining().unwrap_or_default());
        }
    }

    /// Waits for data or a hang-up; `Nothing` when the time is over.
    pub fn wait(&self, what: WaitFor, deadline: Deadline) -> Result<Seen, NetError> {
        while let Some(left) = deadline.remaining() {
            let seen = guarded(self.presence.as_deref(), Doing::WaitingForClient, || {
                self.leg.socket.wait(what, left).map_err(NetErrorKind::Io)
            });
            match seen.map_err(|kind| self.error(kind))? {
                Seen::Nothing => {}
                seen => return Ok(seen),
            }
        }
        Ok(Seen::Nothing)
    }

    /// Runs a TLS handshake. What is buffered is taken for its beginning: plain text that came before
    /// is the caller's to throw away.
    pub fn start_tls(
        &mut self,
        mut engine: Box<dyn Engine>,
        deadline: Deadline,
    ) -> Result<(), NetError> {
        let begun = self.buffered().to_vec();
        self.clear();
        let done = self.handshake(engine.as_mut(), begun, deadline);
        if done.is_err() {
            let mut alert = Vec::new();
            engine.give(&mut alert, RECORD);
            let _ = self.leg.socket.write_now(&alert);
        }
        let unfed = done.map_err(|kind| self.error(kind))?;
        self.leg.set_engine(engine, unfed);
        Ok(())
    }

    /// Steps until the handshake is complete; returns ciphertext behind it that the engine has no room
    /// for yet.
    fn handshake(
        &self,
        engine: &mut dyn Engine,
        begun: Vec<u8>,
        deadline: Deadline,
    ) -> Result<Vec<u8>, NetErrorKind> {
        let mut unfed = begun;
        let mut ciphertext = vec![0; RECORD];
        let mut out = Vec::new();
        loop {
            let taken = engine.take(&unfed).map_err(NetErrorKind::Tls)?;
            unfed.drain(..taken);
            let done = engine.handshake().map_err(NetErrorKind::Tls)?;
            engine.give(&mut out, usize::MAX);
            self.send_ciphertext(&mut out, deadline)?;
            if done {
                return Ok(unfed);
            }
            if taken > 0 && !unfed.is_empty() {
                continue;
            }
            let n = self.read_ciphertext(&mut ciphertext, deadline)?;
            if n == 0 {
                return Err(NetErrorKind::Closed);
            }
            unfed.extend_from_slice(&ciphertext[..n]);
        }
    }

    fn send_ciphertext(&self, out: &mut Vec<u8>, deadline: Deadline) -> Result<(), NetErrorKind> {
        while !out.is_empty() {
            let Some(left) = deadline.remaining() else {
                return Err(NetErrorKind::Timeout(deadline.directive));
            };
            let socket = &self.leg.socket;
            let waited = guarded(self.presence.as_deref(), Doing::WritingToClient, || {
                socket.write(out, left).map_err(NetErrorKind::Io)
            })?;
            if let Waited::Done(n) = waited {
                out.drain(..n);
            }
        }
        Ok(())
    }

    fn read_ciphertext(&self, buf: &mut [u8], deadline: Deadline) -> Result<usize, NetErrorKind> {
        loop {
            let Some(left) = deadline.remaining() else {
                return Err(NetErrorKind::Timeout(deadline.directive));
            };
            let socket = &self.leg.socket;
            let waited = guarded(self.presence.as_deref(), Doing::WaitingForClient, || {
                socket.read(buf, left).map_err(NetErrorKind::Io)
            })?;
            if let Waited::Done(n) = waited {
                return Ok(n);
            }
        }
    }

    /// The session ends: it can be told so, but no longer be evicted.
    pub fn cannot_be_evicted(&mut self) {
        self.presence = None;
    }

    /// Closes behind a last line, so that the line arrives.
    pub fn close_after_line(self) {
        self.leg.finish(&mut Vec::new(), Duration::from_millis(200));
        self.leg.socket.close_after_line();
    }

    /// The connection without its input buffer, and what was still in that.
    pub fn into_leg(self) -> (Leg, Zeroizing<Vec<u8>>) {
        let rest = Zeroizing::new(self.buffered().to_vec());
        (self.leg, rest)
    }

    fn error(&self, kind: NetErrorKind) -> NetError {
        NetError {
            side: self.side,
            kind,
        }
    }
}

/// Runs one blocking call in the state in which the session can be evicted, and finds out if it was.
fn guarded<T>(
    presence: Option<&Presence>,
    doing: Doing,
    call: impl FnOnce() -> Result<T, NetErrorKind>,
) -> Result<T, NetErrorKind> {
    let Some(presence) = presence else {
        return call();
    };
    presence
        .enter(doing)
        .map_err(|Evicted| NetErrorKind::Evicted)?;
    let result = call();
    presence.leave().map_err(|Evicted| NetErrorKind::Evicted)?;
    result
}
