//! Connections to one HTTP server that are kept for the next request (`auth_http_keepalive`).
//!
//! An idle one is closed a second after its last use, by a thread that exists only as long as there
//! are any: a server that answers one request at a time is free again for others.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::net::conn::Conn;
use crate::system::threads::spawn;

/// How long a connection is kept idle.
const IDLE: Duration = Duration::from_secs(1);

/// The idle connections to one server. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    /// How many there may be; 0 keeps none.
    most: usize,
    idle: Arc<Mutex<Idle>>,
}

#[derive(Debug, Default)]
struct Idle {
    /// Those last used at the end.
    conns: Vec<(Conn, Instant)>,
    /// Whether the thread runs that closes them.
    is_watched: bool,
}

impl Kept {
    /// Keeps `most` connections at most.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            idle: Arc::default(),
        }
    }

    /// Whether connections are kept at all.
    pub(super) fn is_wanted(&self) -> bool {
        self.most > 0
    }

    /// The connection that was used last.
    pub(super) fn take(&self) -> Option<Conn> {
        let mut idle = lock(&self.idle);
        while let Some((conn, since)) = idle.conns.pop() {
            // What came unasked would be taken for the answer to somebody else's login.
            if since.elapsed() < IDLE && conn.is_quiet() {
                return Some(conn);
            }
        }
        None
    }

    /// Keeps a connection that has been used, if there is room.
    pub(super) fn put(&self, conn: Conn) {
        let mut idle = lock(&self.idle);
        if idle.conns.len() >= self.most {
            return;
        }
        if !idle.is_watched {
            let watched = Arc::clone(&self.idle);
            // Without the thread nobody would close it in time.
            if spawn("auth idle", move || close_idle(&watched)).is_err() {
                return;
            }
            idle.is_watched = true;
        }
        idle.conns.push((conn, Instant::now()));
    }
}

/// Closes what has been idle for too long, until nothing is left.
fn close_idle(idle: &Mutex<Idle>) {
    loop {
        let oldest = {
            let mut idle = lock(idle);
            idle.conns.retain(|(_, since)| since.elapsed() < IDLE);
            match idle.conns.first() {
                Some((_, since)) => *since,
                None => {
                    idle.is_watched = false;
                    return;
                }
            }
        };
        std::thread::sleep(IDLE.saturating_sub(oldest.elapsed()));
    }
}

fn lock(idle: &Mutex<Idle>) -> MutexGuard<'_, Idle> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}
