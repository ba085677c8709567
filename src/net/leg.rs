//! One leg of a session: a socket and perhaps a TLS engine, as the two threads of a relay share it.
//!
//! One thread reads and one writes; the writing one alone takes ciphertext out of the engine, so that
//! records keep their order. What reading produces (the answer to a KeyUpdate, an alert) goes out with
//! the writer's next record.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::NetError;
use super::socket::{Socket, Waited};
use crate::tls::{Engine, Facts, Plain, TlsError, TlsErrorKind};

/// A socket and its TLS engine. The engine's lock is held for memory work only, never across a
/// system call: one thread may read while another writes.
#[derive(Debug)]
pub(crate) struct Leg {
    /// The connection.
    pub socket: Arc<Socket>,
    tls: Option<Mutex<Tls>>,
}

/// An engine, and ciphertext that it had no room for yet.
struct Tls {
    engine: Box<dyn Engine>,
    unfed: Vec<u8>,
    /// What feeding failed with; plain text that came before it is read first.
    failed: Option<TlsError>,
}

/// What reading a leg came to.
#[derive(Debug)]
pub(crate) enum Got {
    /// That many bytes of plain text.
    Bytes(usize),
    /// The peer ended its stream, in order or (with TLS) without close_notify.
    End,
    /// Nothing came in time.
    TimedOut,
}

/// Most ciphertext read or held at a time.
pub(super) const RECORD: usize = 16 * 1024;

impl Leg {
    /// A leg in plain text.
    pub(crate) fn new(socket: Arc<Socket>) -> Self {
        Self { socket, tls: None }
    }

    /// Whether TLS runs on it.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// What is known of its TLS.
    pub(crate) fn tls_facts(&self) -> Option<Facts> {
        self.tls.as_ref().map(|tls| lock(tls).engine.facts())
    }

    /// Runs TLS from now on, with an engine whose handshake is complete, and ciphertext behind that.
    pub(super) fn set_engine(&mut self, engine: Box<dyn Engine>, unfed: Vec<u8>) {
        self.tls = Some(Mutex::new(Tls {
            engine,
            unfed,
            failed: None,
        }));
    }

    /// Reads plain text, waiting for `limit` at most on the socket.
    pub(crate) fn read(&self, buf: &mut [u8], limit: Duration) -> Result<Got, NetError> {
        match &self.tls {
            None => plain(self.socket.read(buf, limit)),
            Some(tls) => self.read_tls(tls, buf, Some(limit)),
        }
    }

    /// Reads plain text, waiting for `limit` at most; zero is not at all.
    pub(crate) fn read_for(&self, buf: &mut [u8], limit: Duration) -> Result<Got, NetError> {
        match limit.is_zero() {
            true => self.read_now(buf),
            false => self.read(buf, limit),
        }
    }

    /// Reads plain text that is there already, without waiting.
    pub(crate) fn read_now(&self, buf: &mut [u8]) -> Result<Got, NetError> {
        match &self.tls {
            None => plain(self.socket.read_now(buf)),
            Some(tls) => self.read_tls(tls, buf, None),
        }
    }

    fn read_tls(
        &self,
        tls: &Mutex<Tls>,
        buf: &mut [u8],
        limit: Option<Duration>,
    ) -> Result<Got, NetError> {
        /// Ciphertext that gives no plain text is taken so many times in a row: a peer that sends
        /// nothing else must not keep the caller from looking at its clock.
        const ROUNDS: usize = 64;
        let end = limit.map(|limit| Instant::now() + limit);
        // On the stack: a silent session holds no larger buffer while it waits.
        let mut small = [0; 1024];
        for _ in 0..ROUNDS {
            match lock(tls).read(buf)? {
                Plain::Bytes(n) => return Ok(Got::Bytes(n)),
                Plain::Closed | Plain::Truncated => return Ok(Got::End),
                Plain::NeedMore => {}
            }
            // Where plain text has room for a record, so has its ciphertext, before it.
            let room = if buf.len() < RECORD {
                &mut small[..]
            } else {
                &mut *buf
            };
            let read = match end {
                None => self.socket.read_now(room),
                // One limit for all reads: a peer gains no time by sending pieces of a record.
                Some(end) => match end.checked_duration_since(Instant::now()) {
                    None => return Ok(Got::TimedOut),
                    Some(left) => self.socket.read(room, left),
                },
            };
            match read.map_err(NetError::Io)? {
                Waited::TimedOut => return Ok(Got::TimedOut),
                Waited::Done(0) => lock(tls).engine.take_eof(),
                Waited::Done(n) => {
                    let shows_more = room.len() < RECORD && n == room.len();
                    lock(tls).feed(&room[..n]);
                    if shows_more {
                        self.feed_rest(tls);
                    }
                }
            }
        }
        Ok(Got::TimedOut)
    }

    /// Takes the rest of a record at once, where a small read has shown that there is more.
    fn feed_rest(&self, tls: &Mutex<Tls>) {
        let mut rest = vec![0; RECORD];
        // An end or an error is found again by the next read.
        if let Ok(Waited::Done(n)) = self.socket.read_now(&mut rest) {
            lock(tls).feed(&rest[..n]);
        }
    }

    /// Writes a part of `data`, waiting for `limit` at most; `None` when nothing went out in time.
    /// `pending` holds bytes for the socket that go first. With TLS the whole of the returned part is
    /// encrypted, and some of it may be in `pending` then, which must be handed back unchanged with the
    /// next call.
    pub(crate) fn write(
        &self,
        data: &[u8],
        pending: &mut Vec<u8>,
        limit: Duration,
    ) -> Result<Option<usize>, NetError> {
        let mut taken = 0;
        if pending.is_empty() {
            if self.tls.is_none() {
                return match self.socket.write(data, limit).map_err(NetError::Io)? {
                    Waited::Done(n) => Ok(Some(n)),
                    Waited::TimedOut => Ok(None),
                };
            }
            taken = self.encrypt(data, pending)?;
        }
        match self.socket.write(pending, limit).map_err(NetError::Io)? {
            // Nothing pending holds no memory.
            Waited::Done(n) if n == pending.len() => *pending = Vec::new(),
            Waited::Done(n) => drop(pending.drain(..n)),
            Waited::TimedOut if taken == 0 => return Ok(None),
            Waited::TimedOut => {}
        }
        Ok(Some(taken))
    }

    /// Turns a part of `data` into bytes for the socket, which are appended to `out`, and returns how
    /// much of it. In plain text that is all.
    pub(super) fn encrypt(&self, data: &[u8], out: &mut Vec<u8>) -> Result<usize, NetError> {
        let Some(tls) = &self.tls else {
            out.extend_from_slice(data);
            return Ok(data.len());
        };
        let held = out.len();
        let mut tls = lock(tls);
        let taken = tls.engine.write(data).map_err(NetError::Tls)?;
        tls.engine.give(out, 4 * RECORD);
        drop(tls);
        if out.len() == held && taken == 0 && !data.is_empty() {
            // The engine waits for its peer, which is no progress and must not be waited for.
            return Err(NetError::Tls(TlsError::new(
                TlsErrorKind::Protocol,
                "the peer began a new handshake and does not finish it",
            )));
        }
        Ok(taken)
    }

    /// Whether the engine has something for the peer that no write has taken along yet.
    pub(crate) fn has_output(&self) -> bool {
        let has_output = |tls| lock(tls).engine.has_output();
        self.tls.as_ref().is_some_and(has_output)
    }

    /// Says that nothing more will come (close_notify), where there is TLS; the bytes for the socket are
    /// appended to `out`.
    pub(super) fn close(&self, out: &mut Vec<u8>) {
        if let Some(tls) = &self.tls {
            let mut tls = lock(tls);
            tls.engine.close();
            tls.engine.give(out, usize::MAX);
        }
    }

    /// Ends our direction: close_notify where there is TLS, then FIN.
    pub(crate) fn finish(&self, pending: &mut Vec<u8>, limit: Duration) {
        self.close(pending);
        if !pending.is_empty() {
            while let Ok(Waited::Done(n)) = self.socket.write(pending, limit) {
                pending.drain(..n);
                if pending.is_empty() {
                    break;
                }
            }
        }
        self.socket.shutdown(std::net::Shutdown::Write);
    }
}

impl Tls {
    fn feed(&mut self, ciphertext: &[u8]) {
        let mut rest = ciphertext;
        if self.unfed.is_empty() && self.failed.is_none() {
            match self.engine.take(ciphertext) {
                Ok(taken) => rest = &ciphertext[taken..],
                Err(error) => {
                    self.failed = Some(error);
                    return;
                }
            }
        }
        self.unfed.extend_from_slice(rest);
    }

    /// Decrypts; what the engine had no room for goes in as soon as it has.
    fn read(&mut self, buf: &mut [u8]) -> Result<Plain, NetError> {
        loop {
            match self.engine.read(buf).map_err(NetError::Tls)? {
                Plain::NeedMore if self.failed.is_some() => {
                    return match self.failed.take() {
                        Some(error) => Err(NetError::Tls(error)),
                        None => Ok(Plain::NeedMore),
                    };
                }
                Plain::NeedMore if !self.unfed.is_empty() => {
                    match self.engine.take(&self.unfed) {
                        Ok(0) => return Ok(Plain::NeedMore),
                        Ok(taken) => drop(self.unfed.drain(..taken)),
                        Err(error) => {
                            self.unfed.clear();
                            self.failed = Some(error);
                        }
                    }
                    if self.unfed.is_empty() {
                        self.unfed = Vec::new();
                    }
                }
                read => return Ok(read),
            }
        }
    }
}

fn plain(read: io::Result<Waited>) -> Result<Got, NetError> {
    match read.map_err(NetError::Io)? {
        Waited::Done(0) => Ok(Got::End),
        Waited::Done(n) => Ok(Got::Bytes(n)),
        Waited::TimedOut => Ok(Got::TimedOut),
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

fn lock(tls: &Mutex<Tls>) -> MutexGuard<'_, Tls> {
    // An engine whose holder panicked ends its session anyway.
    tls.lock().unwrap_or_else(PoisonError::into_inner)
}
