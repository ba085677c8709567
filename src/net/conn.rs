//! One blocking connection to a server: a socket, perhaps TLS on it, and bytes read ahead.
//!
//! A client's connection, which sleeps instead of blocking, is a `ClientConn`. What the bytes mean is
//! the dialects' business.

use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::error::NetError;
use super::handshake::Handshake;
use super::input::Input;
use super::leg::{Got, Leg, RECORD};
use super::socket::{Deadline, Socket, Waited};
use crate::tls::{Engine, Facts};

/// A connection before its relay.
#[derive(Debug)]
pub(crate) struct Conn {
    leg: Leg,
    input: Input,
}

impl Conn {
    /// A connection whose input buffer holds `limit` bytes at most.
    pub(crate) fn new(socket: Arc<Socket>, limit: usize) -> Self {
        Self {
            leg: Leg::new(socket),
            input: Input::new(limit),
        }
    }

    /// The socket, for options and addresses.
    pub(crate) fn socket(&self) -> &Arc<Socket> {
        &self.leg.socket
    }

    /// What is known of its TLS.
    pub(crate) fn tls_facts(&self) -> Option<Facts> {
        self.leg.tls_facts()
    }

    /// What was read and not consumed.
    pub(crate) fn buffered(&self) -> &[u8] {
        self.input.held()
    }

    /// Forgets the first `n` buffered bytes.
    pub(crate) fn consume(&mut self, n: usize) {
        self.input.consume(n);
    }

    /// Reads more into the buffer: at least a byte, or an error.
    pub(crate) fn fill(&mut self, deadline: Deadline) -> Result<(), NetError> {
        if self.input.is_full() {
            return Err(NetError::TooLong);
        }
        let leg = &self.leg;
        match self.input.fill(|room| read_some(leg, room, deadline))? {
            0 => Err(NetError::Closed),
            _ => Ok(()),
        }
    }

    /// Waits until the buffer holds a line and returns its length, the LF included.
    pub(crate) fn fill_line(&mut self, deadline: Deadline) -> Result<usize, NetError> {
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
    pub(crate) fn send(&mut self, data: &[u8], deadline: Deadline) -> Result<(), NetError> {
        let mut sent = 0;
        let mut pending = Vec::new();
        while sent < data.len() || !pending.is_empty() {
            let left = deadline.left()?;
            let wrote = self.leg.write(&data[sent..], &mut pending, left)?;
            sent += wrote.unwrap_or(0);
        }
        Ok(())
    }

    /// Whether nothing has come that nobody asked for, and the peer is still there.
    pub(crate) fn is_quiet(&self) -> bool {
        self.buffered().is_empty() && matches!(self.leg.read_now(&mut [0]), Ok(Got::TimedOut))
    }

    /// Runs a TLS handshake. What is buffered is taken for its beginning: plain text that came before
    /// is the caller's to throw away.
    pub(crate) fn start_tls(
        &mut self,
        engine: Box<dyn Engine>,
        deadline: Deadline,
    ) -> Result<(), NetError> {
        let mut handshake = Handshake::new(engine, self.buffered());
        self.input.clear();
        let mut ciphertext = vec![0; RECORD];
        let mut out = Vec::new();
        loop {
            let stepped = handshake.step(&mut out);
            if stepped.is_err() {
                // An alert, for which nobody waits.
                let _ = self.leg.socket.write_now(&out);
            }
            let done = stepped.map_err(NetError::Tls)?;
            self.send_ciphertext(&mut out, deadline)?;
            if done {
                handshake.finish(&mut self.leg);
                return Ok(());
            }
            let n = self.read_ciphertext(&mut ciphertext, deadline)?;
            if n == 0 {
                return Err(handshake.end());
            }
            handshake.feed(&ciphertext[..n]);
        }
    }

    fn send_ciphertext(&self, out: &mut Vec<u8>, deadline: Deadline) -> Result<(), NetError> {
        while !out.is_empty() {
            let left = deadline.left()?;
            let waited = self.leg.socket.write(out, left).map_err(NetError::Io)?;
            if let Waited::Done(n) = waited {
                out.drain(..n);
            }
        }
        Ok(())
    }

    fn read_ciphertext(&self, buf: &mut [u8], deadline: Deadline) -> Result<usize, NetError> {
        loop {
            let left = deadline.left()?;
            let waited = self.leg.socket.read(buf, left).map_err(NetError::Io)?;
            if let Waited::Done(n) = waited {
                return Ok(n);
            }
        }
    }

    /// Closes behind a last line, so that the line arrives.
    pub(crate) fn close_after_line(self) {
        self.leg.finish(&mut Vec::new(), Duration::from_millis(200));
        self.leg.socket.close_after_line();
    }

    /// The connection without its input buffer, and what was still in that.
    pub(crate) fn into_leg(self) -> (Leg, Zeroizing<Vec<u8>>) {
        (self.leg, self.input.into_held())
    }
}

fn read_some(leg: &Leg, room: &mut [u8], deadline: Deadline) -> Result<usize, NetError> {
    loop {
        match leg.read(room, deadline.left()?)? {
            Got::Bytes(n) => return Ok(n),
            Got::End => return Ok(0),
            Got::TimedOut => {}
        }
    }
}
