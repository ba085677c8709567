//! One direction of a relay: what one leg says goes to the other, in order, at once, unread.
//!
//! What both directions have in common, and how a relay begins, sleeps and ends, is in `relay`.

use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::relay::Relay;
use crate::net::error::NetError;
use crate::net::leg::Got;
use crate::net::pipe::Pipe;
use crate::net::socket::{Waited, wait_for_either};
use crate::secret::Wiped;

/// What is read while a direction is silent: a command or an answer usually fits.
const SMALL: usize = 512;

/// A flow that has filled its buffer so many times is worth a pipe.
const MUCH: u32 = 8;

/// Most bytes that are read on after the destination is gone: as much as was under way, and not what a
/// peer goes on sending for ever.
const DISCARDED: usize = 1024 * 1024;

/// The two directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// From the client to the backend.
    Up = 0,
    /// From the backend to the client.
    Down = 1,
}

/// What a direction has to write before anything else.
#[derive(Default)]
pub(super) struct Begin {
    /// What was read before the relay began.
    pub(super) first: Zeroizing<Vec<u8>>,
    /// Bytes for the destination's socket.
    pub(super) pending: Vec<u8>,
}

/// What became of a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Its source ended the stream, or broke; that was passed on.
    Finished,
    /// Its destination takes nothing more.
    WriteFailed,
    /// Both directions were silent for too long, or the session was told to end.
    Silent,
    /// Both directions are silent: another thread goes on with it when it is needed.
    Left,
    /// A fault in the program.
    Fault,
}

impl Relay {
    /// Copies until the direction ends, or leaves.
    pub(super) fn copy(self: &Arc<Self>, which: Which, begin: Begin) -> Outcome {
        let Begin { first, mut pending } = begin;
        if !first.is_empty() {
            self.touch(which, first.len());
        }
        if let Err(outcome) = self.write_all(which, &first, &mut pending) {
            return outcome;
        }
        drop(first);
        let mut small = Wiped([0; SMALL]);
        let is_broken = loop {
            let n = match self.read(which, &mut small[..]) {
                Ok(Got::Bytes(n)) => n,
                Ok(Got::End) => break false,
                // Nothing came: either there is time to wait on, or the session ends.
                Ok(Got::TimedOut) if self.patience().is_none() => return Outcome::Silent,
                Ok(Got::TimedOut) => match self.pause(which, &mut small[..], &mut pending) {
                    Ok(0) => continue,
                    Ok(n) => n,
                    Err(outcome) => return outcome,
                },
                Err(_) => break true,
            };
            self.touch(which, n);
            let wrote = match n {
                SMALL => self.copy_flow(which, &small[..], &mut pending),
                n => self.write_all(which, &small[..n], &mut pending),
            };
            if let Err(outcome) = wrote {
                return outcome;
            }
        };
        let limit = self.half_closed();
        self.pass_on_end(which, is_broken, &mut pending, limit)
    }

    /// The first moment of both directions, on the worker that has said the login's last line: a short session
    /// needs no threads. Nothing is waited for but the sources, and that in all no longer than a worker may wait
    /// for a client. What is not done by then is for threads, and is returned.
    pub(super) fn copy_in_place(self: &Arc<Self>, begins: [Begin; 2]) -> [Option<Begin>; 2] {
        /// Peers that say more have threads.
        const ROUNDS: u32 = 32;
        let end = Instant::now() + self.in_place();
        let mut begins = begins.map(Some);
        // Where TLS runs, something may have been read that poll knows nothing of.
        let mut is_ready = [Which::Up, Which::Down].map(|which| self.source(which).is_tls());
        for _ in 0..ROUNDS {
            for which in [Which::Up, Which::Down] {
                let begin = &mut begins[which as usize];
                let moved = begin
                    .as_mut()
                    .map(|begin| self.move_at_once(which, begin, is_ready[which as usize]));
                match moved {
                    None | Some(Ok(true)) => {}
                    Some(Ok(false)) => return begins,
                    Some(Err(outcome)) => {
                        *begin = None;
                        self.conclude_in_place(which, outcome);
                    }
                }
            }
            match self.wait_in_place(&begins, end) {
                Some(ready) => is_ready = ready,
                None => break,
            }
        }
        begins
    }

    /// Waits for a moment until a source has something to say; which of them has, or `None` if none.
    fn wait_in_place(&self, begins: &[Option<Begin>; 2], end: Instant) -> Option<[bool; 2]> {
        if begins.iter().all(Option::is_none) {
            return None;
        }
        let left = end.checked_duration_since(Instant::now())?;
        let limit = self.patience_awake()?.min(self.in_place()).min(left);
        let waits = |which: Which| begins[which as usize].as_ref().map(|_| self.source(which));
        let sockets = [Which::Up, Which::Down].map(|which| waits(which).map(|leg| &*leg.socket));
        // Whatever is wrong with a socket is found by reading it.
        Some(wait_for_either(sockets, limit).unwrap_or([true; 2]))
            .filter(|ready| *ready != [false; 2])
    }

    /// Passes on what is there, without waiting; false if the destination does not take it, or there is
    /// much of it. Nothing is read from a source that is not ready.
    fn move_at_once(
        self: &Arc<Self>,
        which: Which,
        begin: &mut Begin,
        is_ready: bool,
    ) -> Result<bool, Outcome> {
        /// For the end of the stream, behind which there is nothing.
        const TO_END: Duration = Duration::from_millis(100);
        let source = self.source(which);
        let mut small = Wiped([0; SMALL]);
        let mut may_have_more = is_ready;
        while self.write_at_once(which, begin)? {
            if !may_have_more {
                return Ok(true);
            }
            match source.read_now(&mut small[..]) {
                Ok(Got::TimedOut) => return Ok(true),
                Ok(Got::Bytes(n)) => {
                    begin.first = Zeroizing::new(small[..n].to_vec());
                    if n == SMALL {
                        return Ok(false);
                    }
                    // Out of a socket that was all; of TLS records the engine may hold another.
                    may_have_more = source.is_tls();
                }
                ended => {
                    let is_broken = ended.is_err();
                    return Err(self.pass_on_end(which, is_broken, &mut begin.pending, TO_END));
                }
            }
        }
        Ok(false)
    }

    /// Writes what is begun without waiting; whether that was all.
    fn write_at_once(self: &Arc<Self>, which: Which, begin: &mut Begin) -> Result<bool, Outcome> {
        while !begin.first.is_empty() || !begin.pending.is_empty() {
            let wrote =
                self.destination(which)
                    .write(&begin.first, &mut begin.pending, Duration::ZERO);
            let wrote = wrote.map_err(|error| {
                self.give_up(begin.first.len() + begin.pending.len());
                self.write_failed(which, &error)
            });
            let Some(n) = wrote? else {
                return Ok(false);
            };
            self.read_along(which, &begin.first[..n]);
            self.touch(which, n);
            begin.first.drain(..n);
        }
        Ok(true)
    }

    /// The source has ended, or broke: its destination is told so.
    fn pass_on_end(
        &self,
        which: Which,
        is_broken: bool,
        pending: &mut Vec<u8>,
        limit: Duration,
    ) -> Outcome {
        let Some(patience) = self.patience() else {
            return Outcome::Silent;
        };
        // Before the other direction can find that its source has ended because of this.
        self.give_reason(match is_broken {
            true => which.broke(),
            false => which.closed(),
        });
        self.destination(which).finish(pending, patience.min(limit));
        if is_broken && which == Which::Up {
            // A client that is gone hears nothing more: its backend is not waited for. The other way
            // round the client may still be reading what came before.
            self.source(Which::Down).socket.shutdown(Shutdown::Read);
        }
        Outcome::Finished
    }

    /// Waits for more, as long as the session may be silent and awake.
    fn read(&self, which: Which, buf: &mut [u8]) -> Result<Got, NetError> {
        let Some(patience) = self.patience_awake() else {
            return Ok(Got::TimedOut);
        };
        self.set_idle(which, true);
        let got = self.source(which).read(buf, patience);
        self.set_idle(which, matches!(got, Ok(Got::TimedOut)));
        got
    }

    /// Nothing came for a while. Leaves, if the session is silent for long enough and nothing is pending
    /// here: neither in the destination's engine nor, decrypted already, in the source's. Returns
    /// how much of that was read instead.
    fn pause(
        self: &Arc<Self>,
        which: Which,
        buf: &mut [u8],
        pending: &mut Vec<u8>,
    ) -> Result<usize, Outcome> {
        if !self.may_sleep() {
            return Ok(0);
        }
        if self.destination(which).has_output() {
            self.set_idle(which, false);
            self.write_all(which, &[], pending)?;
            self.set_idle(which, true);
        }
        match self.source(which).read_now(buf) {
            Ok(Got::TimedOut) => {}
            Ok(Got::Bytes(n)) => {
                self.set_idle(which, false);
                return Ok(n);
            }
            // Found again by the next blocking read.
            Ok(Got::End) | Err(_) => return Ok(0),
        }
        match self.leave(which) {
            true => Err(Outcome::Left),
            false => Ok(0),
        }
    }

    /// Reads on after the destination is gone, without passing anything on, for as long as the other
    /// direction delivers: a peer that is not read any more would be cut off by a reset before it has
    /// read what came the other way.
    pub(super) fn discard(&self, which: Which) {
        /// How long the end of the other direction may go unnoticed.
        const LOOK: Duration = Duration::from_millis(100);
        let mut sink = Wiped([0; 4096]);
        let mut left = DISCARDED;
        while left > 0 && self.delivers(which.other()) {
            let Some(patience) = self.patience() else {
                return;
            };
            match self.source(which).read(&mut sink[..], patience.min(LOOK)) {
                Ok(Got::Bytes(n)) => left = left.saturating_sub(n),
                Ok(Got::TimedOut) => {}
                Ok(Got::End) | Err(_) => return,
            }
        }
    }

    /// Where neither leg has TLS, much of a flow goes through a pipe, for as long as there is something to
    /// read at once, and the destination takes it. What it does not take is copied: a call that waits until
    /// a pipe is empty would not show whether the peer reads slowly or not at all. A system without a pipe to
    /// spare copies everything. Returns what is left to copy.
    fn splice_flow(self: &Arc<Self>, which: Which) -> Result<Vec<u8>, Outcome> {
        let Ok(mut pipe) = Pipe::new() else {
            return Ok(Vec::new());
        };
        self.log_debug("relay splices");
        let (source, destination) = (self.source(which), self.destination(which));
        // An end or an error is found again by the next blocking read.
        while !self.is_read_along()
            && let Ok(Waited::Done(n @ 1..)) = pipe.take_from(&source.socket)
        {
            self.touch(which, n);
            match pipe.give_to(&destination.socket) {
                Ok(true) => {}
                Ok(false) => return pipe.into_held().map_err(|_| Outcome::Fault),
                Err(_) => {
                    self.give_up(pipe.into_held().map_or(0, |held| held.len()));
                    return Err(Outcome::WriteFailed);
                }
            }
        }
        Ok(Vec::new())
    }

    /// Copies with a large buffer for as long as there is something to read at once.
    fn copy_flow(
        self: &Arc<Self>,
        which: Which,
        begun: &[u8],
        pending: &mut Vec<u8>,
    ) -> Result<(), Outcome> {
        let mut buffer = Wiped(vec![0; self.buffer.max(SMALL)]);
        buffer[..begun.len()].copy_from_slice(begun);
        let mut held = begun.len();
        let is_plain = !self.source(which).is_tls() && !self.destination(which).is_tls();
        let mut rounds = 0;
        loop {
            rounds += 1;
            if is_plain && rounds > MUCH && held == 0 && !self.is_read_along() {
                drop(buffer);
                let left = Wiped(self.splice_flow(which)?);
                return self.write_all(which, &left, pending);
            }
            while held < buffer.len() {
                match self.source(which).read_now(&mut buffer[held..]) {
                    Ok(Got::Bytes(n)) => {
                        self.touch(which, n);
                        held += n;
                    }
                    // An end or an error is found again by the next blocking read.
                    Ok(Got::TimedOut | Got::End) | Err(_) => {
                        return self.write_all(which, &buffer[..held], pending);
                    }
                }
                // What is there goes out before more is waited for.
                if held >= buffer.len() / 2 {
                    break;
                }
            }
            self.write_all(which, &buffer[..held], pending)?;
            held = 0;
        }
    }

    /// What follows for a direction. An engine that has failed takes nothing more: its peer broke the
    /// protocol, whichever direction is the first to find it.
    fn write_failed(&self, which: Which, error: &NetError) -> Outcome {
        match error {
            NetError::Io(_) => Outcome::WriteFailed,
            NetError::Tls(_) => {
                self.give_reason(which.other().broke());
                Outcome::WriteFailed
            }
            _ => Outcome::Silent,
        }
    }

    fn write_all(
        self: &Arc<Self>,
        which: Which,
        data: &[u8],
        pending: &mut Vec<u8>,
    ) -> Result<(), Outcome> {
        self.read_along(which, data);
        let destination = self.destination(which);
        let mut sent = 0;
        while sent < data.len()
            || !pending.is_empty()
            || data.is_empty() && destination.has_output()
        {
            // Now and then it is looked whether there is less patience than there was.
            let wrote = self
                .patience_awake()
                .ok_or(Outcome::Silent)
                .and_then(|patience| {
                    let wrote = destination.write(&data[sent..], pending, patience);
                    wrote.map_err(|error| self.write_failed(which, &error))
                });
            match wrote {
                Ok(Some(n)) => {
                    sent += n;
                    self.touch(which, 0);
                }
                Ok(None) => {}
                Err(outcome) => {
                    self.give_up(data.len() - sent + pending.len());
                    return Err(outcome);
                }
            }
        }
        Ok(())
    }
}

impl Which {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }

    pub(super) fn closed(self) -> &'static str {
        match self {
            Self::Up => "client closed",
            Self::Down => "backend closed",
        }
    }

    fn broke(self) -> &'static str {
        match self {
            Self::Up => "client connection broke",
            Self::Down => "backend connection broke",
        }
    }
}
