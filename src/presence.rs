//! What a session before its login is doing, so that one that waits for its client can be told to
//! make room, and one whose credentials are being checked cannot.
//!
//! Which session is chosen, and when, is `admission`'s business.

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::net::socket::Socket;

/// The state of one session before its login. Its worker enters and leaves the waits; the evictor
/// may take it in between. Whoever wins the compare-and-swap decides.
#[derive(Debug)]
pub struct Presence {
    doing: AtomicU8,
    /// Milliseconds after `accepted` at which the wait for the client's current command began.
    since: AtomicU64,
    /// Milliseconds of that wait that are our own wish: a held-back greeting, `Auth-Wait`.
    excused: AtomicU64,
    accepted: Instant,
    /// The program stops: the next wait for the client is not begun.
    dismissed: AtomicBool,
    socket: Arc<Socket>,
}

/// What the session's thread does at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Anything that is none of the client's: asking the auth server, logging in to the backend.
    Busy = 0,
    /// Blocked until the client says something, or until a time that it must wait is over.
    WaitingForClient = 1,
    /// Blocked until the client takes what we say.
    WritingToClient = 2,
    /// Has to go.
    Evicted = 3,
}

/// A wait of some length.
#[derive(Debug, Clone, Copy)]
pub struct Waited {
    /// Since the last complete command.
    pub total: Duration,
    /// What of it was our own wish.
    pub excused: Duration,
}

/// The session was told to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evicted;

impl Presence {
    /// A session that has just been accepted.
    pub fn new(socket: Arc<Socket>, accepted: Instant) -> Self {
        Self {
            doing: AtomicU8::new(Doing::Busy as u8),
            since: AtomicU64::new(0),
            excused: AtomicU64::new(0),
            accepted,
            dismissed: AtomicBool::new(false),
            socket,
        }
    }

    /// When the session was accepted.
    pub fn accepted(&self) -> Instant {
        self.accepted
    }

    /// The client's socket.
    pub fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    /// A command is complete (or the session begins): the wait for the next one counts from here.
    pub fn begin_wait(&self) {
        let now = u64::try_from(self.accepted.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since.store(now, Ordering::Release);
        self.excused.store(0, Ordering::Release);
    }

    /// So much of the wait that comes now is not the client's fault.
    pub fn excuse(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.excused.store(millis, Ordering::Release);
    }

    /// The session's thread is about to block on its client.
    pub fn enter(&self, doing: Doing) -> Result<(), Evicted> {
        self.swap(Doing::Busy, doing)?;
        // After the swap: `dismiss` either finds the session waiting, or is seen here.
        if self.dismissed.load(Ordering::SeqCst) {
            let _ = self.leave();
            return Err(Evicted);
        }
        Ok(())
    }

    /// It no longer does. After an eviction the result of the blocked call means nothing.
    pub fn leave(&self) -> Result<(), Evicted> {
        let before = self.doing.swap(Doing::Busy as u8, Ordering::SeqCst);
        if before == Doing::Evicted as u8 {
            return Err(Evicted);
        }
        Ok(())
    }

    /// How long the session has waited for the client's command, and how much of that is excused;
    /// `None` while it does not wait.
    pub fn waited(&self) -> Option<Waited> {
        let doing = self.doing.load(Ordering::Acquire);
        if doing != Doing::WaitingForClient as u8 && doing != Doing::WritingToClient as u8 {
            return None;
        }
        let since = Duration::from_millis(self.since.load(Ordering::Acquire));
        Some(Waited {
            total: self.accepted.elapsed().saturating_sub(since),
            excused: Duration::from_millis(self.excused.load(Ordering::Acquire)),
        })
    }

    /// Ends the session at its next wait for the client, or in it. A line that is being written is not
    /// cut off: the goodbye comes behind it.
    pub fn dismiss(&self) {
        self.dismissed.store(true, Ordering::SeqCst);
        if self.swap(Doing::WaitingForClient, Doing::Evicted).is_ok() {
            self.socket.shutdown(Shutdown::Read);
        }
    }

    /// Whether the program stops, which is why the session was evicted.
    pub fn is_dismissed(&self) -> bool {
        self.dismissed.load(Ordering::SeqCst)
    }

    /// Ends the session's wait, unless it is over already. Its thread then says goodbye.
    pub fn evict(&self) -> bool {
        if self.swap(Doing::WaitingForClient, Doing::Evicted).is_ok() {
            self.socket.shutdown(Shutdown::Read);
            return true;
        }
        if self.swap(Doing::WritingToClient, Doing::Evicted).is_ok() {
            self.socket.shutdown(Shutdown::Both);
            return true;
        }
        false
    }

    fn swap(&self, from: Doing, to: Doing) -> Result<(), Evicted> {
        self.doing
            .compare_exchange(from as u8, to as u8, Ordering::SeqCst, Ordering::SeqCst)
            .map(drop)
            .map_err(|_| Evicted)
    }
}
