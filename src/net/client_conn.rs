//! A client's connection before its relay. Whoever waits for the client does so in place for a moment,
//! and is told to sleep then: the worker is needed elsewhere.
//!
//! A wait that ends in `Stall::Asleep` has changed nothing that the next one would not find again; it can
//! be repeated once what it waited for has come. What the bytes mean is the dialects' business, who
//! holds the sleepers is `session::hibernate`'s.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::error::NetError;
use super::handshake::Handshake;
use super::input::Input;
use super::leg::{Got, Leg};
use super::socket::{Deadline, Seen, Socket, WaitFor, Waited};
use crate::tls::{Engine, Facts};

/// Where others wait for a worker, a client that sends much at once makes way after so many lines or reads.
const STEPS_A_TURN: u32 = 16;

/// Why a wait for a client did not end well.
#[derive(Debug)]
pub(crate) enum Stall {
    /// It has not come to an end yet: to be repeated when this happens.
    Asleep(Wake),
    /// It failed.
    Failed(NetError),
}

/// What ends a sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wake {
    /// What the client's socket has to say.
    pub on: WaitFor,
    /// Or this moment.
    pub until: Instant,
}

/// How long one may wait in place for a client: one for the whole process, kept up to date by whoever
/// hands out the workers.
#[derive(Debug)]
pub(crate) struct ClientWait {
    /// `client_wait`, in milliseconds.
    in_place: AtomicU64,
    /// `send_timeout`, in milliseconds.
    send_timeout: AtomicU64,
    /// Somebody could use the worker: nobody waits in place.
    crowded: AtomicBool,
}

impl ClientWait {
    /// The values of both directives.
    pub(crate) fn new(in_place: Duration, send_timeout: Duration) -> Self {
        let waits = Self {
            in_place: AtomicU64::new(0),
            send_timeout: AtomicU64::new(0),
            crowded: AtomicBool::new(false),
        };
        waits.set(in_place, send_timeout);
        waits
    }

    /// Other values from now on.
    pub(crate) fn set(&self, in_place: Duration, send_timeout: Duration) {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.in_place.store(millis(in_place), Ordering::Relaxed);
        self.send_timeout
            .store(millis(send_timeout), Ordering::Relaxed);
    }

    /// Says whether workers are short.
    pub(crate) fn set_crowded(&self, crowded: bool) {
        self.crowded.store(crowded, Ordering::Relaxed);
    }

    /// How long to wait in place now; zero is not at all.
    pub(crate) fn in_place(&self) -> Duration {
        match self.is_crowded() {
            true => Duration::ZERO,
            false => Duration::from_millis(self.in_place.load(Ordering::Relaxed)),
        }
    }

    fn is_crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed)
    }

    fn send_deadline(&self) -> Deadline {
        let limit = Duration::from_millis(self.send_timeout.load(Ordering::Relaxed));
        Deadline::after(limit, "send_timeout")
    }
}

/// A connection to a client, before its relay.
#[derive(Debug)]
pub(crate) struct ClientConn {
    leg: Leg,
    input: Input,
    /// Bytes that the socket has not taken yet, and until when it must have.
    out: Vec<u8>,
    out_deadline: Option<Deadline>,
    handshake: Option<Handshake>,
    /// Lines and reads since it last made way for others.
    steps_in_turn: u32,
    /// It did so just now, and has more to say.
    made_way: bool,
    waits: Arc<ClientWait>,
}

impl ClientConn {
    /// A connection whose input buffer holds `limit` bytes at most.
    pub(crate) fn new(socket: Arc<Socket>, limit: usize, waits: Arc<ClientWait>) -> Self {
        Self {
            leg: Leg::new(socket),
            input: Input::new(limit),
            out: Vec::new(),
            out_deadline: None,
            handshake: None,
            steps_in_turn: 0,
            made_way: false,
            waits,
        }
    }

    /// Gives the input buffer another limit; what was read stays.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.input.set_limit(limit);
    }

    /// Whether TLS runs on it.
    pub(crate) fn is_tls(&self) -> bool {
        self.leg.is_tls()
    }

    /// What is known of its TLS.
    pub(crate) fn tls_facts(&self) -> Option<Facts> {
        self.leg.tls_facts()
    }

    /// The socket.
    pub(crate) fn socket(&self) -> &Arc<Socket> {
        &self.leg.socket
    }

    /// What was read and not consumed.
    pub(crate) fn buffered(&self) -> &[u8] {
        self.input.held()
    }

    /// Forgets the first `n` buffered bytes.
    pub(crate) fn consume(&mut self, n: usize) {
        self.input.consume(n);
    }

    /// Forgets everything read ahead: behind STARTTLS it is an injection attempt.
    pub(crate) fn clear(&mut self) {
        self.input.clear();
    }

    /// Whether the input buffer can take no more.
    pub(crate) fn is_full(&self) -> bool {
        self.input.is_full()
    }

    /// Reads more into the buffer, at least a byte. What the client has not taken yet of what it was told
    /// goes out first: who does not listen is not listened to.
    pub(crate) fn fill(&mut self, deadline: Deadline) -> Result<(), Stall> {
        self.flush()?;
        if self.input.is_full() {
            return Err(NetError::TooLong.into());
        }
        self.make_way()?;
        let in_place = deadline.left()?.min(self.waits.in_place());
        let leg = &self.leg;
        let got = self
            .input
            .fill(|room| match leg.read_for(room, in_place)? {
                Got::Bytes(n) => Ok(n),
                Got::End => Err(Stall::from(NetError::Closed)),
                Got::TimedOut => Ok(0),
            })?;
        if got > 0 {
            return Ok(());
        }
        if self.buffered().is_empty() {
            // Thousands may wait here at a time.
            self.input.clear();
        }
        Err(self.asleep(WaitFor::Data, deadline))
    }

    /// Says something. What the socket does not take at once goes out with the next wait.
    pub(crate) fn send(&mut self, data: &[u8]) -> Result<(), NetError> {
        let mut rest = data;
        if !self.leg.is_tls() && self.out.is_empty() {
            let wrote = self.leg.socket.write_now(data).map_err(NetError::Io)?;
            rest = match wrote {
                Waited::Done(n) => &data[n..],
                Waited::TimedOut => data,
            };
        }
        while !rest.is_empty() {
            let taken = self.leg.encrypt(rest, &mut self.out)?;
            rest = &rest[taken..];
        }
        self.write_out()
    }

    /// Waits until the socket has taken everything, within `send_timeout`.
    pub(crate) fn flush(&mut self) -> Result<(), Stall> {
        while !self.out.is_empty() {
            self.write_out()?;
            let Some(deadline) = self.out_deadline else {
                break;
            };
            if self.wait(WaitFor::Room, deadline)? == Seen::Nothing {
                return Err(NetError::Timeout(deadline.directive).into());
            }
        }
        Ok(())
    }

    /// Before the next line is looked at: everything said has been taken, and where others wait for a
    /// worker, a client with many lines at once has had no more of them than fit into one turn.
    pub(crate) fn next_line(&mut self) -> Result<(), Stall> {
        self.flush()?;
        self.make_way()
    }

    /// Where others wait for a worker, whoever has said so much in a row goes on in its next turn.
    fn make_way(&mut self) -> Result<(), Stall> {
        self.made_way = false;
        self.steps_in_turn += 1;
        if self.steps_in_turn > STEPS_A_TURN && self.waits.is_crowded() {
            self.steps_in_turn = 0;
            self.made_way = true;
            return Err(Stall::Asleep(Wake {
                on: WaitFor::Data,
                until: Instant::now(),
            }));
        }
        Ok(())
    }

    /// Writes what fits, without waiting; whether that was all, or nothing more can be written.
    pub(crate) fn is_flushed_now(&mut self) -> bool {
        self.write_out().is_err() || self.out.is_empty()
    }

    /// Writes without waiting.
    fn write_out(&mut self) -> Result<(), NetError> {
        while !self.out.is_empty() {
            let wrote = self.leg.socket.write_now(&self.out).map_err(NetError::Io)?;
            match wrote {
                Waited::Done(n) => drop(self.out.drain(..n)),
                Waited::TimedOut => {
                    let waits = &self.waits;
                    self.out_deadline
                        .get_or_insert_with(|| waits.send_deadline());
                    return Ok(());
                }
            }
        }
        self.out = Vec::new();
        self.out_deadline = None;
        Ok(())
    }

    /// Lets time pass, but ends at once when the client hangs up.
    /// A client that has already sent more commands may have ended its side in good order: then only
    /// a reset counts.
    pub(crate) fn pause(&mut self, deadline: Deadline) -> Result<(), Stall> {
        loop {
            let what = self.hang_up();
            match self.wait(what, deadline)? {
                Seen::HangUp if what == WaitFor::HangUp && self.read_ahead()? => {}
                Seen::HangUp => return Err(NetError::Closed.into()),
                Seen::Ready | Seen::Nothing => return Ok(()),
            }
        }
    }

    /// A wait for something that the client has no part in: asleep, unless it is gone.
    pub(crate) fn sleep_unless_gone(&mut self, deadline: Deadline) -> Stall {
        let what = self.hang_up();
        let seen = self.leg.socket.wait(what, Duration::ZERO);
        match seen.map_err(NetError::Io) {
            Ok(Seen::HangUp) if what == WaitFor::Reset => NetError::Closed.into(),
            Ok(Seen::HangUp) => match self.read_ahead() {
                Ok(true) => self.asleep(WaitFor::Reset, deadline),
                Ok(false) => NetError::Closed.into(),
                Err(error) => error.into(),
            },
            Ok(_) => self.asleep(what, deadline),
            Err(error) => error.into(),
        }
    }

    /// Whether there is something to read, an end included, or was and has only made way for others.
    pub(crate) fn has_something_to_say(&self) -> Result<bool, NetError> {
        if self.made_way {
            return Ok(true);
        }
        let seen = self.leg.socket.wait(WaitFor::Data, Duration::ZERO);
        Ok(seen.map_err(NetError::Io)? != Seen::Nothing)
    }

    /// How long one may wait in place now.
    pub(crate) fn in_place(&self) -> Duration {
        self.waits.in_place()
    }

    /// What shows, while nothing is read, that the client is gone.
    pub(crate) fn hang_up(&self) -> WaitFor {
        match self.buffered().is_empty() {
            true => WaitFor::HangUp,
            false => WaitFor::Reset,
        }
    }

    /// Takes plain text that is there already into the buffer; whether there was any.
    pub(crate) fn read_ahead(&mut self) -> Result<bool, NetError> {
        if self.is_full() {
            return Ok(true);
        }
        let leg = &self.leg;
        let got = self.input.fill(|room| match leg.read_now(room)? {
            Got::Bytes(n) => Ok(n),
            Got::End | Got::TimedOut => Ok(0),
        });
        got.map(|n| n > 0)
    }

    /// Waits for something on the socket; `Nothing` when the time is over.
    pub(crate) fn wait(&self, what: WaitFor, deadline: Deadline) -> Result<Seen, Stall> {
        let Some(left) = deadline.remaining() else {
            return Ok(Seen::Nothing);
        };
        let in_place = left.min(self.waits.in_place());
        let seen = self.leg.socket.wait(what, in_place);
        match seen.map_err(NetError::Io)? {
            Seen::Nothing if deadline.remaining().is_some() => Err(self.asleep(what, deadline)),
            seen => Ok(seen),
        }
    }

    fn asleep(&self, on: WaitFor, deadline: Deadline) -> Stall {
        Stall::Asleep(Wake {
            on,
            until: deadline.at,
        })
    }

    /// Begins a TLS handshake. What is buffered is taken for its beginning: plain text that came before
    /// is the caller's to throw away.
    pub(crate) fn begin_tls(&mut self, engine: Box<dyn Engine>) {
        self.handshake = Some(Handshake::new(engine, self.buffered()));
        self.input.clear();
    }

    /// Whether a handshake is under way.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.handshake.is_some()
    }

    /// Goes on with the handshake until it is complete.
    pub(crate) fn handshake(&mut self, deadline: Deadline) -> Result<(), Stall> {
        while let Some(handshake) = &mut self.handshake {
            let stepped = handshake.step(&mut self.out);
            // After an error that is an alert, for which nobody waits.
            let wrote = self.write_out();
            let done = stepped.map_err(NetError::Tls)?;
            wrote?;
            if done {
                if let Some(handshake) = self.handshake.take() {
                    handshake.finish(&mut self.leg);
                }
                break;
            }
            self.flush()?;
            self.read_ciphertext(deadline)?;
        }
        self.flush()
    }

    fn read_ciphertext(&mut self, deadline: Deadline) -> Result<(), Stall> {
        self.make_way()?;
        let mut ciphertext = [0; 4096];
        let in_place = deadline.left()?.min(self.waits.in_place());
        let read = self.leg.socket.read_for(&mut ciphertext, in_place);
        match read.map_err(NetError::Io)? {
            Waited::Done(0) => Err(match &mut self.handshake {
                Some(handshake) => handshake.end().into(),
                None => NetError::Closed.into(),
            }),
            Waited::TimedOut => Err(self.asleep(WaitFor::Data, deadline)),
            Waited::Done(n) => {
                if let Some(handshake) = &mut self.handshake {
                    handshake.feed(&ciphertext[..n]);
                }
                Ok(())
            }
        }
    }

    /// Ends our direction of TLS (close_notify), which goes out with the next flush.
    pub(crate) fn say_last(&mut self) {
        self.leg.close(&mut self.out);
        // What fits goes at once; the rest is the next wait's.
        let _ = self.write_out();
    }

    /// The parts for a relay: the connection, what was read and not used, and bytes for the socket that
    /// it has not taken yet.
    pub(crate) fn into_parts(self) -> (Leg, Zeroizing<Vec<u8>>, Vec<u8>) {
        (self.leg, self.input.into_held(), self.out)
    }
}

impl From<NetError> for Stall {
    fn from(error: NetError) -> Self {
        Self::Failed(error)
    }
}
