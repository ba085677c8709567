//! Every session of the process from accept to close, as others may see it without stopping it, and how
//! to end one from outside.
//!
//! What a session knows of itself and others may see stands here and only here; the session sets it
//! as it goes. A session that is told to end notices at its next wait for its client, or in it, and
//! says goodbye; nobody who is at work is interrupted.

use std::collections::HashMap;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Step;
use super::hibernate::at_its_own_cost;
use crate::admission::Turn;
use crate::blocklist::Block;
use crate::metrics::{add, read};
use crate::net::address::Address;
use crate::net::socket::Socket;
use crate::service::Service;
use crate::system::threads::Job;

/// So long a session that is to make room may still say something.
pub(super) const MOMENT: Duration = Duration::from_secs(1);

/// Why a session is ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The program stops.
    Stop,
    /// The program stops, and has waited for `shutdown_timeout`.
    ShutdownTimeout,
    /// The session began before a reload, `reload_timeout` ago.
    ReloadTimeout,
    /// An operator has ended it.
    Kicked,
    /// Its client was banned.
    Banned,
}

impl Ending {
    /// In two words, for the closing line.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Stop => "stopped",
            Self::ShutdownTimeout => "shutdown timeout",
            Self::ReloadTimeout => "reload timeout",
            Self::Kicked => "kicked",
            Self::Banned => Block::Banned.word(),
        }
    }
}

/// One session as others may see it.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its number, unique in the process.
    pub number: u64,
    /// The server that it came to.
    pub service: Arc<Service>,
    /// The other end of the client's socket.
    pub peer: Address,
    /// Our end of it.
    pub local: Address,
    /// When it was accepted.
    pub accepted: Instant,
    /// Bytes from the client to the backend in the relay, and the other way.
    pub bytes: [AtomicU64; 2],
    /// Whether it waits without a thread.
    pub sleeps: AtomicBool,
    /// When it last did something, in milliseconds after `accepted`. A relay's clock sets it too.
    pub(super) active: Arc<AtomicU64>,
    /// Whether it says goodbye.
    leaves: AtomicBool,
    /// Whether it is to make room for others, unless it has something to say.
    makes_room: AtomicBool,
    client: Arc<Socket>,
    facts: Mutex<Facts>,
}

/// What changes while a session goes on.
#[derive(Debug)]
pub(crate) struct Facts {
    /// Who the client is: the peer, or whom a trusted PROXY header names.
    pub client: Address,
    /// What it is doing.
    pub step: Step,
    /// The last login that was tried; the backend's name for it once accepted.
    pub login: Option<Arc<[u8]>>,
    /// The backend's address, once it is known.
    pub upstream: Option<Arc<str>>,
    /// Version of TLS towards the client.
    pub tls: Option<String>,
    /// Version of TLS towards the backend.
    pub backend_tls: Option<String>,
    backend: Option<Arc<Socket>>,
    ending: Option<Ending>,
    /// It was told to end at once.
    is_cut: bool,
}

impl Entry {
    /// What is known now.
    pub(crate) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether and why it was told to end.
    pub(crate) fn ending(&self) -> Option<Ending> {
        self.facts().ending
    }

    /// Whether it is to make room for others, unless it has something to say.
    pub(super) fn makes_room(&self) -> bool {
        self.makes_room.load(Ordering::Relaxed)
    }

    /// It has something to say, and need not make room for this time.
    pub(super) fn stays(&self) {
        self.makes_room.store(false, Ordering::Relaxed);
    }

    /// It does something at this moment.
    pub(super) fn note_activity(&self) {
        let now = u64::try_from(self.accepted.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.active.store(now, Ordering::Relaxed);
    }

    /// When it last did something, counted from accept.
    pub(super) fn active(&self) -> Duration {
        Duration::from_millis(self.active.load(Ordering::Relaxed))
    }

    /// It has nothing to say any more but its last line.
    pub(super) fn note_goodbye(&self) {
        self.leaves.store(true, Ordering::Relaxed);
    }

    /// Whether it was told to end, or ends by itself.
    pub(super) fn is_ending(&self, facts: &Facts) -> bool {
        facts.ending.is_some() || self.leaves.load(Ordering::Relaxed)
    }

    /// Whether it is logged in and its bytes pass unread.
    pub(crate) fn is_relayed(&self) -> bool {
        self.facts().backend.is_some()
    }

    /// It is logged in, and its relay is about to begin: from now on it ends by both its sockets.
    pub(super) fn set_backend(&self, backend: &Arc<Socket>) {
        let mut facts = self.facts();
        facts.backend = Some(Arc::clone(backend));
        if facts.is_cut {
            self.client.shutdown(Shutdown::Both);
            backend.shutdown(Shutdown::Both);
        } else if facts.ending.is_some() {
            backend.shutdown(Shutdown::Read);
        }
    }

    /// Tells it to end in good order. The first reason counts.
    pub(super) fn end(&self, ending: Ending) {
        let mut facts = self.facts();
        facts.ending.get_or_insert(ending);
        self.client.shutdown(Shutdown::Read);
        if let Some(backend) = &facts.backend {
            backend.shutdown(Shutdown::Read);
        }
    }

    /// Ends it at once: nothing more is delivered.
    fn cut(&self, ending: Ending) {
        self.end(ending);
        let mut facts = self.facts();
        facts.is_cut = true;
        // Before its relay it has a last line to say.
        if let Some(backend) = &facts.backend {
            self.client.shutdown(Shutdown::Both);
            backend.shutdown(Shutdown::Both);
        }
    }
}

/// All sessions of the process.
#[derive(Debug, Default)]
pub(crate) struct Live {
    entries: Mutex<HashMap<u64, Arc<Entry>>>,
}

impl Live {
    /// A session that was accepted just now.
    pub(super) fn add(
        &self,
        number: u64,
        service: &Arc<Service>,
        peer: Address,
        client: &Arc<Socket>,
    ) -> Arc<Entry> {
        let entry = Arc::new(Entry {
            number,
            service: Arc::clone(service),
            peer,
            local: client.local().unwrap_or(Address::Unix),
            accepted: Instant::now(),
            bytes: [AtomicU64::new(0), AtomicU64::new(0)],
            sleeps: AtomicBool::new(false),
            active: Arc::default(),
            leaves: AtomicBool::new(false),
            makes_room: AtomicBool::new(false),
            client: Arc::clone(client),
            facts: Mutex::new(Facts {
                client: peer,
                step: Step::Initializing,
                login: None,
                upstream: None,
                tls: None,
                backend_tls: None,
                backend: None,
                ending: None,
                is_cut: false,
            }),
        });
        add(&service.metrics.accepted, 1);
        self.lock().insert(number, Arc::clone(&entry));
        entry
    }

    /// A session has ended: its bytes are the server's from now on.
    pub(super) fn remove(&self, number: u64) {
        let mut entries = self.lock();
        if let Some(entry) = entries.remove(&number) {
            for (all, of_session) in entry.service.metrics.bytes.iter().zip(&entry.bytes) {
                add(all, read(of_session));
            }
        }
    }

    /// All sessions that there are at this moment.
    pub(crate) fn all(&self) -> Vec<Arc<Entry>> {
        self.lock().values().cloned().collect()
    }

    /// The session of this number.
    pub(crate) fn find(&self, number: u64) -> Option<Arc<Entry>> {
        self.lock().get(&number).cloned()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl super::Runtime {
    /// Tells a session to end in good order.
    pub(crate) fn end(&self, entry: &Entry, ending: Ending) {
        entry.end(ending);
        self.wake(entry.number);
    }

    /// Ends a session at once.
    pub(crate) fn cut(&self, entry: &Entry, ending: Ending) {
        entry.cut(ending);
        self.wake(entry.number);
    }

    /// Wakes a session: something has come that it may wait for.
    pub(super) fn wake(&self, session: u64) {
        self.hibernation.wake(session);
        // It may have ended at this moment, and nobody else would forget that it was woken.
        if self.live.find(session).is_none() {
            self.hibernation.forget(session);
        }
    }

    /// Lets these sessions make room in a moment, as far as they still sleep then: who says something
    /// meanwhile is heard first. So a crowd of connections that come back at once, as soon as they are
    /// closed, is held up, and not those who are behind it in line.
    pub(crate) fn make_room(&self, sessions: &[u64]) {
        for &number in sessions {
            if let Some(entry) = self.live.find(number) {
                entry.makes_room.store(true, Ordering::Relaxed);
                // One that is awake sees it when it falls asleep.
                self.hibernation.wake_by(number, Instant::now() + MOMENT);
            }
        }
    }

    /// Lets these sessions make room at once, as far as they sleep.
    pub(crate) fn make_room_now(&self, sessions: &[u64]) {
        for &number in sessions {
            match self.hibernation.take(number) {
                Some(sleeper) => at_its_own_cost(|| sleeper.make_room()),
                // It has something to do at this moment.
                None => self.admission.stays(number),
            }
        }
    }

    /// Queues a turn of a session.
    pub(super) fn queue(&self, turn: Turn, job: Job) {
        self.admission.queue(turn, job);
    }

    /// What is due now and then; returns when it is due again.
    pub(super) fn look_round(&self) -> Option<Duration> {
        let (silent, next) = self.admission.look_round();
        // They have had their moment.
        self.make_room_now(&silent);
        let of_counts = self.brake.tell_counts();
        next.into_iter().chain(of_counts).min()
    }
}

impl Entry {
    /// Marks whether it sleeps.
    pub(super) fn note_sleep(&self, sleeps: bool) {
        self.sleeps.store(sleeps, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::path::Path;

    use super::*;
    use crate::net::socket::Waited;

    pub(crate) fn service() -> Arc<Service> {
        let ini = "[server imap]\nlisten = 127.0.0.1:143\nauth_http = 127.0.0.1:9\n";
        let config = crate::config::parse(ini, Path::new("live.ini")).expect("a configuration");
        let mut services = crate::service::build(&config, &Default::default()).expect("a service");
        services.remove(0)
    }

    pub(crate) fn socket() -> (Arc<Socket>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let ours = socket2::Socket::from(std::os::fd::OwnedFd::from(ours));
        (Arc::new(Socket::accepted(ours)), theirs)
    }

    fn is_at_end(socket: &Socket) -> bool {
        let read = socket.read_now(&mut [0]).expect("a socket");
        matches!(read, Waited::Done(0))
    }

    #[test]
    fn a_session_before_its_relay_is_ended_by_its_stream_and_can_still_say_goodbye() {
        let (live, (client, mut peer)) = (Live::default(), socket());
        let entry = live.add(7, &service(), Address::Unix, &client);
        entry.facts().step = Step::InAuth;
        let seen = live.find(7).expect("it is there");
        assert_eq!(seen.facts().step, Step::InAuth);
        let nothing = client.read_now(&mut [0]).expect("a socket");
        assert!(matches!(nothing, Waited::TimedOut));
        seen.cut(Ending::Stop);
        // The first reason counts.
        seen.end(Ending::ReloadTimeout);
        assert_eq!(entry.ending(), Some(Ending::Stop));
        assert!(is_at_end(&client));
        client.write_now(b"bye").expect("it is open");
        client.shutdown(Shutdown::Write);
        let mut said = String::new();
        peer.read_to_string(&mut said).expect("a line and the end");
        assert_eq!(said, "bye");
        live.remove(7);
        assert!(live.find(7).is_none() && live.all().is_empty());
    }

    #[test]
    fn a_relay_is_ended_at_both_legs_and_one_that_begins_too_late_as_well() {
        let (live, service) = (Live::default(), service());
        let ((client, _peer), (backend, _server)) = (socket(), socket());
        let entry = live.add(1, &service, Address::Unix, &client);
        entry.set_backend(&backend);
        assert!(entry.is_relayed());
        entry.end(Ending::ShutdownTimeout);
        assert!(is_at_end(&client) && is_at_end(&backend));

        let ((client, _peer), (backend, _server)) = (socket(), socket());
        let entry = live.add(2, &service, Address::Unix, &client);
        entry.end(Ending::Stop);
        entry.set_backend(&backend);
        assert!(is_at_end(&client) && is_at_end(&backend));
    }
}
