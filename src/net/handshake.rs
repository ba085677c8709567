//! A TLS handshake under way, without I/O: ciphertext is fed, and what is to be answered comes out.
//!
//! Between two steps it is a value, so that whoever waits for the peer needs no thread.

use std::fmt;

use super::error::NetError;
use super::leg::Leg;
use crate::tls::{Engine, TlsError};

/// An engine whose handshake is not complete, and ciphertext that it had no room for yet.
pub(super) struct Handshake {
    engine: Box<dyn Engine>,
    unfed: Vec<u8>,
    /// Whether the peer has sent anything.
    begun: bool,
}

impl Handshake {
    /// Begins with what came before.
    pub(super) fn new(engine: Box<dyn Engine>, begun: &[u8]) -> Self {
        Self {
            engine,
            unfed: begun.to_vec(),
            begun: !begun.is_empty(),
        }
    }

    /// Takes ciphertext from the socket.
    pub(super) fn feed(&mut self, ciphertext: &[u8]) {
        self.unfed.extend_from_slice(ciphertext);
        self.begun |= !ciphertext.is_empty();
    }

    /// Why a peer that closed the connection did so, if it had begun.
    pub(super) fn end(&mut self) -> NetError {
        self.engine.take_eof();
        match self.take_and_step() {
            Err(error) if self.begun => NetError::Tls(error),
            _ => NetError::Closed,
        }
    }

    /// Goes as far as the ciphertext allows; whether the handshake is complete. What the peer is to be
    /// sent is appended to `out`; after an error that is an alert.
    pub(super) fn step(&mut self, out: &mut Vec<u8>) -> Result<bool, TlsError> {
        loop {
            let stepped = self.take_and_step();
            self.engine.give(out, usize::MAX);
            let (taken, done) = stepped?;
            if done || taken == 0 || self.unfed.is_empty() {
                return Ok(done);
            }
        }
    }

    fn take_and_step(&mut self) -> Result<(usize, bool), TlsError> {
        let taken = self.engine.take(&self.unfed)?;
        self.unfed.drain(..taken);
        Ok((taken, self.engine.handshake()?))
    }

    /// The engine goes to work on its leg; ciphertext behind the handshake is its first.
    pub(super) fn finish(self, leg: &mut Leg) {
        leg.set_engine(self.engine, self.unfed);
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handshake")
    }
}
