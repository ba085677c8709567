//! After the login: bytes in both directions, in order, at once, unread. Two threads a session.
//!
//! The directions are independent: a slow reader holds up one of them, and when one has ended, what
//! is under way in the other still arrives. Silence is counted for both together.

use std::collections::HashMap;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::copy::{Direction, Which};
use crate::log::Severity;
use crate::net::conn::Conn;
use crate::net::leg::Leg;
use crate::session::{Session, Step};
use crate::system::threads::{Threads, rename};

/// Default of `proxy_buffer`, while data flows.
const LARGE: usize = 32 * 1024;

/// A session whose login is done, ready to be handed to its two threads.
pub struct Relay {
    session: Session,
    up: Direction,
    down: Direction,
    shared: Arc<Shared>,
}

/// What both directions of a session know of each other.
#[derive(Debug)]
pub struct Shared {
    client: Arc<Leg>,
    backend: Arc<Leg>,
    accepted: Instant,
    began: Instant,
    /// Milliseconds after `began` at which a byte last moved.
    active: AtomicU64,
    /// Longest silence, in milliseconds.
    timeout: AtomicU64,
    bytes: [AtomicU64; 2],
    pub(super) buffer: usize,
    stopped: AtomicBool,
    reason: Mutex<Option<&'static str>>,
    ended: Mutex<usize>,
    end: Condvar,
}

impl Shared {
    /// Lets the session end in good order: both threads find that their source has ended.
    fn end(&self, reason: &'static str) {
        self.give_reason(reason);
        self.client.socket.shutdown(Shutdown::Read);
        self.backend.socket.shutdown(Shutdown::Read);
    }

    /// Ends the session from outside; both threads notice at once.
    pub fn stop(&self, reason: &'static str) {
        self.give_reason(reason);
        self.stopped.store(true, Ordering::Release);
        self.client.socket.shutdown(Shutdown::Both);
        self.backend.socket.shutdown(Shutdown::Both);
    }

    pub(super) fn touch(&self, which: Which, bytes: usize) {
        self.bytes[which as usize].fetch_add(bytes as u64, Ordering::Relaxed);
        self.active.store(self.now(), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// How long both directions may still be silent; `None` when they were for too long.
    pub(super) fn patience(&self) -> Option<Duration> {
        if self.stopped.load(Ordering::Acquire) {
            return None;
        }
        let silent = self
            .now()
            .saturating_sub(self.active.load(Ordering::Relaxed));
        let timeout = self.timeout.load(Ordering::Relaxed);
        (silent < timeout).then(|| Duration::from_millis(timeout - silent))
    }

    /// The first reason is the one that counts.
    pub(super) fn give_reason(&self, reason: &'static str) {
        let mut given = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        given.get_or_insert(reason);
    }

    pub(super) fn limit_silence(&self, limit: Duration) {
        let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        self.timeout.fetch_min(limit, Ordering::Relaxed);
    }

    /// One direction has ended. The other may go on, but no longer silent for longer than `timeout`:
    /// the first to end keeps watch over it, since a blocked read does not learn of a new limit.
    pub(super) fn wait_for_other(&self, limit: Duration) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        *ended += 1;
        self.end.notify_all();
        self.limit_silence(limit);
        while *ended < 2 {
            let Some(patience) = self.patience() else {
                drop(ended);
                return self.stop("silent after half-close");
            };
            let waited = self.end.wait_timeout(ended, patience);
            ended = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Relay {
    /// Takes a session over. What was read ahead on either side goes first.
    pub fn between(mut session: Session, client: Conn, backend: Conn) -> Self {
        session.step = Step::Proxying;
        session.login_time = Some(session.accepted.elapsed());
        session.place.logged_in();
        let (client, from_client) = client.into_leg();
        let (backend, from_backend) = backend.into_leg();
        let (client, backend) = (Arc::new(client), Arc::new(backend));
        let conf = &session.service.conf;
        let timeout = u64::try_from(conf.proxy_timeout.as_millis()).unwrap_or(u64::MAX);
        let shared = Arc::new(Shared {
            client: Arc::clone(&client),
            backend: Arc::clone(&backend),
            accepted: session.accepted,
            began: Instant::now(),
            active: AtomicU64::new(0),
            timeout: AtomicU64::new(timeout),
            bytes: [AtomicU64::new(0), AtomicU64::new(0)],
            buffer: conf.proxy_buffer.unwrap_or(LARGE),
            stopped: AtomicBool::new(false),
            reason: Mutex::new(None),
            ended: Mutex::new(0),
            end: Condvar::new(),
        });
        let direction = |from: &Arc<Leg>, to: &Arc<Leg>, first, which| Direction {
            from: Arc::clone(from),
            to: Arc::clone(to),
            first,
            shared: Arc::clone(&shared),
            which,
        };
        Self {
            up: direction(&client, &backend, from_client, Which::Up),
            down: direction(&backend, &client, from_backend, Which::Down),
            shared: Arc::clone(&shared),
            session,
        }
    }

    /// Hands the session to its threads. If the system has none left, the session ends.
    pub fn start(self, threads: &Threads) {
        let Self {
            session,
            up,
            down,
            shared,
        } = self;
        session.service.relays.add(session.id, &shared);
        let name = session.to_string();
        let half_closed = session.service.conf.timeout;
        let session = Arc::new(session);

        let of_down = Arc::clone(&session);
        let down_name = format!("{name} dn");
        let down = threads.run(move || {
            rename(&down_name);
            down.run(half_closed);
            finish(of_down);
        });
        let of_up = Arc::clone(&session);
        let up_name = format!("{name} up");
        let up = threads.run(move || {
            rename(&up_name);
            up.run(half_closed);
            finish(of_up);
        });
        let failed: Vec<_> = [up, down].into_iter().filter_map(Result::err).collect();
        if let Some(error) = failed.first() {
            let text = "cannot start a thread for the session";
            session.log_failure(Severity::Error, file!(), text, Some(error));
            shared.stop("no thread");
        }
        for _ in failed {
            shared.wait_for_other(Duration::ZERO);
        }
        finish(session);
    }
}

/// Whoever lets go of a session last closes it.
fn finish(session: Arc<Session>) {
    let Some(session) = Arc::into_inner(session) else {
        return;
    };
    let Some(shared) = session.service.relays.remove(session.id) else {
        return;
    };
    session.log_event(file!(), "proxied session done");
    // A peer that still sends would otherwise be answered with a reset, which can destroy what it has
    // not read yet.
    shared.client.socket.close_after_line();
    shared.backend.socket.close_after_line();
    let bytes = |which: Which| shared.bytes[which as usize].load(Ordering::Relaxed);
    let reason = shared.reason.lock().unwrap_or_else(PoisonError::into_inner);
    let reason = reason.unwrap_or("closed");
    session.log_closing(reason, bytes(Which::Up), bytes(Which::Down));
}

/// The relays of the process, so that they can be ended from outside.
#[derive(Debug, Default)]
pub struct Relays(Mutex<HashMap<u64, Arc<Shared>>>);

impl Relays {
    fn add(&self, session: u64, shared: &Arc<Shared>) {
        self.lock().insert(session, Arc::clone(shared));
    }

    fn remove(&self, session: u64) -> Option<Arc<Shared>> {
        self.lock().remove(&session)
    }

    /// Lets all of them end in good order.
    pub fn end_all(&self, reason: &'static str) {
        for shared in self.lock().values() {
            shared.end(reason);
        }
    }

    /// Ends all of them at once.
    pub fn stop_all(&self, reason: &'static str) {
        for shared in self.lock().values() {
            shared.stop(reason);
        }
    }

    /// Ends those that were accepted before a moment.
    pub fn stop_accepted_before(&self, moment: Instant, reason: &'static str) {
        for shared in self
            .lock()
            .values()
            .filter(|shared| shared.accepted < moment)
        {
            shared.stop(reason);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Shared>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
