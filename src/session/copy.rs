//! One direction of a relay: what one leg says goes to the other, in order, at once, unread.
//!
//! What both directions have in common, and how a relay begins and ends, is in `relay`.

use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::relay::Shared;
use crate::net::conn::NetErrorKind;
use crate::net::leg::{Got, Leg};

/// What is read while a direction is silent: a command or an answer usually fits.
const SMALL: usize = 512;

/// One direction of a session.
pub(super) struct Direction {
    pub(super) from: Arc<Leg>,
    pub(super) to: Arc<Leg>,
    /// What was read before the relay began.
    pub(super) first: Zeroizing<Vec<u8>>,
    pub(super) shared: Arc<Shared>,
    pub(super) which: Which,
}

/// The two directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// From the client to the backend.
    Up = 0,
    /// From the backend to the client.
    Down = 1,
}

/// How a direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Its source ended the stream, or broke; that was passed on.
    Finished,
    /// Its destination takes nothing more.
    WriteFailed,
    /// Both directions were silent for too long, or the session was told to end.
    Stopped,
}

impl Direction {
    /// Copies until its end, and then stays until the other direction's.
    pub(super) fn run(mut self, half_closed: Duration) {
        let shared = Arc::clone(&self.shared);
        // A panic costs this session alone, and its other thread must learn of it.
        let copy = || self.copy(half_closed);
        let copied = std::panic::catch_unwind(std::panic::AssertUnwindSafe(copy));
        match copied {
            Ok(End::Finished) => {}
            Ok(End::WriteFailed) => shared.give_reason(self.which.other().closed()),
            Ok(End::Stopped) => shared.stop("silent"),
            Err(_) => shared.stop("internal error"),
        }
        if matches!(copied, Ok(End::WriteFailed)) {
            shared.limit_silence(half_closed);
            self.discard();
        }
        shared.wait_for_other(half_closed);
    }

    fn copy(&mut self, half_closed: Duration) -> End {
        let mut pending = Vec::new();
        let first = std::mem::take(&mut self.first);
        self.shared.touch(self.which, first.len());
        if let Err(end) = self.write_all(&first, &mut pending) {
            return end;
        }
        drop(first);
        let mut small = Zeroizing::new([0; SMALL]);
        let reason = loop {
            let Some(patience) = self.shared.patience() else {
                return End::Stopped;
            };
            let n = match self.from.read(&mut small[..], patience) {
                Ok(Got::Bytes(n)) => n,
                Ok(Got::TimedOut) => continue,
                Ok(Got::End) => break self.which.closed(),
                Err(_) => break self.which.broke(),
            };
            self.shared.touch(self.which, n);
            let end = match n {
                SMALL => self.copy_flow(&small[..], &mut pending),
                n => self.write_all(&small[..n], &mut pending),
            };
            if let Err(end) = end {
                return end;
            }
        };
        let Some(patience) = self.shared.patience() else {
            return End::Stopped;
        };
        // Before the other direction can find that its source has ended because of this.
        self.shared.give_reason(reason);
        self.to.finish(&mut pending, patience.min(half_closed));
        End::Finished
    }

    /// Reads on after the destination is gone, without passing anything on: a peer that is not read
    /// any more would be cut off by a reset before it has read what came the other way.
    fn discard(&self) {
        let mut sink = Zeroizing::new([0; 4096]);
        while let Some(patience) = self.shared.patience() {
            match self.from.read(&mut sink[..], patience) {
                Ok(Got::Bytes(_) | Got::TimedOut) => {}
                Ok(Got::End) | Err(_) => return,
            }
        }
    }

    /// Copies with a large buffer for as long as there is something to read at once.
    fn copy_flow(&self, begun: &[u8], pending: &mut Vec<u8>) -> Result<(), End> {
        let mut buffer = vec![0; self.shared.buffer.max(SMALL)];
        buffer[..begun.len()].copy_from_slice(begun);
        let mut held = begun.len();
        loop {
            while held < buffer.len() {
                match self.from.read_now(&mut buffer[held..]) {
                    Ok(Got::Bytes(n)) => {
                        self.shared.touch(self.which, n);
                        held += n;
                    }
                    // An end or an error is found again by the next blocking read.
                    Ok(Got::TimedOut | Got::End) | Err(_) => {
                        return self.write_all(&buffer[..held], pending);
                    }
                }
                // What is there goes out before more is waited for.
                if held >= buffer.len() / 2 {
                    break;
                }
            }
            self.write_all(&buffer[..held], pending)?;
            held = 0;
        }
    }

    fn write_all(&self, data: &[u8], pending: &mut Vec<u8>) -> Result<(), End> {
        let mut sent = 0;
        while sent < data.len() || !pending.is_empty() {
            let Some(patience) = self.shared.patience() else {
                return Err(End::Stopped);
            };
            match self.to.write(&data[sent..], pending, patience) {
                Ok(Some(n)) => {
                    sent += n;
                    self.shared.touch(self.which, 0);
                }
                Ok(None) => {}
                Err(NetErrorKind::Io(_) | NetErrorKind::Tls(_)) => return Err(End::WriteFailed),
                Err(_) => return Err(End::Stopped),
            }
        }
        Ok(())
    }
}

impl Which {
    fn other(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }

    fn closed(self) -> &'static str {
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
