//! The accept threads, one per listener: accept, ask for admission, and go on. They never wait for a
//! client, and they never shut a listener down, which somebody else may hold as well.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit};

use crate::admission::Entry;
use crate::blocklist::Block;
use crate::config::{Listen, ListenAddress};
use crate::log::{Log, Seldom, Severity, escape};
use crate::net::address::Address;
use crate::net::listen::Listener;
use crate::net::socket::{Socket, is_exhaustion};
use crate::service::Service;
use crate::session::Runtime;
use crate::session::turn::{self, Arrival};

/// How long to wait until descriptors may be free again.
const PAUSE: Duration = Duration::from_millis(100);

/// Connections that a closing listener still takes: as many as its queue may hold, not as many as come.
const LONGEST_QUEUE: usize = 4096;

/// So many descriptors at the end are for the logins of those who are in: each of them needs one for the
/// auth server and one for its backend.
const FOR_LOGINS: u64 = 16;

/// So long after the last failure for want of a descriptor there are enough again.
const RECOVERED: Duration = Duration::from_secs(1);

/// A server that a listener belongs to, and the line that says so.
#[derive(Debug, Clone)]
pub(crate) struct Entrance {
    /// The server.
    pub service: Arc<Service>,
    /// Its `listen` line.
    pub listen: Listen,
}

/// Whose a listener is. The first takes every connection that is not to the very address of another: a
/// wildcard and specific addresses share its socket, since the system binds only one of them. A reload
/// puts others in their place.
#[derive(Debug)]
pub(crate) struct Entrances(RwLock<Arc<[Entrance]>>);

impl Entrances {
    /// These, until others come.
    pub(crate) fn new(entrances: Arc<[Entrance]>) -> Entrances {
        Entrances(RwLock::new(entrances))
    }

    /// Those of now.
    pub(crate) fn current(&self) -> Arc<[Entrance]> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Others from now on.
    pub(crate) fn change_to(&self, entrances: Arc<[Entrance]>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = entrances;
    }
}

/// What a thread that accepts is woken by, to end or to say that it is awake.
pub(crate) struct Bell {
    wake: EventFd,
    ends: AtomicBool,
    has_answered: AtomicBool,
}

impl Bell {
    /// Nobody has asked anything.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub(crate) fn new() -> nix::Result<Bell> {
        Ok(Bell {
            wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            ends: AtomicBool::new(false),
            has_answered: AtomicBool::new(true),
        })
    }

    /// Accepting is to end.
    pub(crate) fn end(&self) {
        self.ends.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Asks whether the thread is awake; whether it has answered what was asked before.
    pub(crate) fn ask(&self) -> bool {
        let answered = self.has_answered.swap(false, Ordering::SeqCst);
        self.ring();
        answered
    }

    fn ring(&self) {
        // Fails where the counter is full, and then it rings already.
        let _ = self.wake.write(1);
    }

    /// Answers; whether accepting goes on.
    fn answer(&self) -> bool {
        let _ = self.wake.read();
        self.has_answered.store(true, Ordering::SeqCst);
        !self.ends.load(Ordering::SeqCst)
    }
}

/// The loop that accepts on one listener, and what it needs to let connections in.
pub(crate) struct AcceptLoop {
    /// The socket.
    pub listener: Arc<Listener>,
    /// Whose it is.
    pub entrances: Arc<Entrances>,
    /// What all sessions share.
    pub runtime: Arc<Runtime>,
    /// By what it is told that accepting is to end, and asked whether it is awake.
    pub bell: Arc<Bell>,
    /// For lines about connections that are no sessions.
    pub log: Log,
}

impl AcceptLoop {
    /// Accepts until it is woken.
    pub(crate) fn run(&self) {
        let refusals = Seldom::new();
        let mut shortage = Shortage::default();
        while let Some(is_there) = self.wait(shortage.patience(), &refusals) {
            if shortage.sheds_now() {
                let leaving = self.runtime.admission.shed();
                self.runtime.make_room_now(&leaving);
                // Those who have come last may not sleep yet.
                if leaving.is_empty() && self.are_few_left() {
                    shortage.is_near();
                }
            }
            // Without descriptors accept() fails even where nobody comes.
            if !is_there {
                self.note_recovery(&mut shortage);
                continue;
            }
            match self.listener.accept() {
                Ok((socket, peer)) => {
                    self.note_recovery(&mut shortage);
                    let is_scarce = is_one_of_the_last(socket.as_raw_fd());
                    self.let_in(socket, peer, &refusals);
                    if is_scarce {
                        shortage.is_near();
                    }
                }
                Err(error) if is_exhaustion(&error) => {
                    if shortage.begins() {
                        let text = "accept() failed; pausing until descriptors are free, \
                                    see `max_sessions` and the limit of open files";
                        self.log(Severity::Crit, text, Some(&error));
                    }
                    self.runtime.make_room_now(&self.runtime.admission.shed());
                    std::thread::sleep(PAUSE);
                }
                // Somebody else was faster, or the client is gone already.
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    if refusals.allow().is_some() {
                        self.log(Severity::Error, "accept() failed", Some(&error));
                    }
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    /// Lets those in who wait in the queue of a listener that is about to close.
    pub(crate) fn take_the_rest(&self) {
        let refusals = Seldom::new();
        for _ in 0..LONGEST_QUEUE {
            match self.listener.accept() {
                Ok((socket, peer)) => self.let_in(socket, peer, &refusals),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => return,
            }
        }
    }

    /// Waits for a connection, or for so long; whether there is one. `None` when accepting is to end.
    fn wait(&self, limit: Option<Duration>, refusals: &Seldom) -> Option<bool> {
        let mut fds = [
            PollFd::new(self.listener.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.bell.wake.as_fd(), PollFlags::POLLIN),
        ];
        let limit = limit.map(|limit| PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX));
        match poll(&mut fds, limit.unwrap_or(PollTimeout::NONE)) {
            Ok(_) if fds[1].any().unwrap_or(true) && !self.bell.answer() => None,
            Ok(_) => Some(fds[0].any().unwrap_or(true)),
            Err(Errno::EINTR) => Some(false),
            // Want of memory, say. Whoever listens must not stop listening for that.
            Err(error) => {
                if refusals.allow().is_some() {
                    let error = io::Error::from(error);
                    self.log(
                        Severity::Crit,
                        "poll() for connections failed",
                        Some(&error),
                    );
                }
                std::thread::sleep(PAUSE);
                Some(false)
            }
        }
    }

    fn let_in(&self, socket: socket2::Socket, peer: Address, refusals: &Seldom) {
        let socket = Socket::accepted(socket);
        let entrances = self.entrances.current();
        let Some(entrance) = entrance(&entrances, &socket) else {
            return;
        };
        let trusted = &entrance.service.conf.set_real_ip_from;
        if let Some(block) = self.runtime.blocklist.block_peer(peer, trusted) {
            return self.shut_out(peer, &entrance.service, block);
        }
        let mut entry = self.runtime.admission.enter(peer);
        if let Entry::Full(first) = entry {
            self.runtime.make_room_now(&first);
            entry = self.runtime.admission.enter(peer);
        }
        match entry {
            Entry::TurnedAway(limit) => self.turn_away(&socket, peer, entrance, limit, refusals),
            Entry::Full(_) => self.turn_away(&socket, peer, entrance, "max_sessions", refusals),
            Entry::Admitted { place, make_room } => {
                if entrance.listen.so_keepalive != entrances[0].listen.so_keepalive {
                    socket.keep_alive(entrance.listen.so_keepalive);
                }
                self.runtime.make_room(&make_room);
                let arrival = Arrival {
                    service: Arc::clone(&entrance.service),
                    implicit_tls: entrance.listen.ssl,
                    proxy_protocol: entrance.listen.proxy_protocol,
                    socket: Arc::new(socket),
                    peer,
                    place,
                };
                turn::begin(&self.runtime, arrival);
            }
        }
    }

    /// Notes that somebody is not let in, who hears nothing but the close.
    fn shut_out(&self, peer: Address, service: &Service, block: Block) {
        let word = block.word();
        service.metrics.turned_away.count(word);
        if !self.runtime.may_log(peer, Severity::Info, word, &self.log) {
            return;
        }
        let server = escape(service.conf.name.as_bytes());
        let text = format!("connection of {peer} to server \"{server}\" closed: {word}");
        self.log(Severity::Info, &text, None);
    }

    /// Says that there is no room, without waiting for the client to hear it.
    fn turn_away(
        &self,
        socket: &Socket,
        peer: Address,
        entrance: &Entrance,
        limit: &'static str,
        refusals: &Seldom,
    ) {
        entrance.service.metrics.turned_away.count(limit);
        if !entrance.listen.ssl {
            let _ = socket.write_now(entrance.service.record.busy);
        }
        socket.shutdown(std::net::Shutdown::Write);
        if let Some(before) = refusals.allow() {
            let text = format!(
                "no room for {peer} at server \"{}\": `{limit}` is reached ({before} more refused \
                 since the last such line)",
                escape(entrance.service.conf.name.as_bytes()),
            );
            self.log(Severity::Warn, &text, None);
        }
    }

    /// Says that a shortage is over, once there has been none for a while.
    fn note_recovery(&self, shortage: &mut Shortage) {
        if shortage.is_over() {
            self.log(Severity::Notice, "accepting connections again", None);
        }
    }

    /// Whether the next descriptor would be one of the last, or there is none.
    fn are_few_left(&self) -> bool {
        self.bell
            .wake
            .as_fd()
            .try_clone_to_owned()
            .map_or(true, |copy| is_one_of_the_last(copy.as_raw_fd()))
    }

    fn log(&self, severity: Severity, text: &str, error: Option<&io::Error>) {
        self.log.write(severity, file!(), text, error, None);
    }
}

/// Which of them a connection came to.
fn entrance<'a>(entrances: &'a [Entrance], socket: &Socket) -> Option<&'a Entrance> {
    let (first, others) = entrances.split_first()?;
    if others.is_empty() {
        return Some(first);
    }
    let local = socket.local().ok()?.socket();
    let is_local = |entrance: &&Entrance| match entrance.listen.address {
        ListenAddress::Tcp(address) => Some(address) == local,
        ListenAddress::Unix(_) => false,
    };
    Some(others.iter().find(is_local).unwrap_or(first))
}

/// A time without descriptors, which is told once: while sleepers make room for newcomers it comes and goes.
#[derive(Debug, Default)]
struct Shortage {
    /// The last time that there was none.
    last: Option<Instant>,
    /// When some are to make room because there are few; those who have just come sleep by then.
    shed_at: Option<Instant>,
}

impl Shortage {
    /// Notes that there is no descriptor; whether there was one before.
    fn begins(&mut self) -> bool {
        self.last.replace(Instant::now()).is_none()
    }

    /// Notes that there are few.
    fn is_near(&mut self) {
        self.shed_at.get_or_insert_with(|| Instant::now() + PAUSE);
    }

    /// Whether it is time for some to make room because there are few.
    fn sheds_now(&mut self) -> bool {
        self.shed_at.take_if(|at| *at <= Instant::now()).is_some()
    }

    /// Whether it has ended just now.
    fn is_over(&mut self) -> bool {
        self.last
            .take_if(|last| last.elapsed() >= RECOVERED)
            .is_some()
    }

    /// How long to wait for a connection until any of that is to be asked.
    fn patience(&self) -> Option<Duration> {
        let now = Instant::now();
        let shed = self.shed_at.map(|at| at.saturating_duration_since(now));
        let over = self.last.map(|_| RECOVERED);
        [shed, over].into_iter().flatten().min()
    }
}

/// Whether few descriptors are left: the system gives the lowest number that is free.
fn is_one_of_the_last(descriptor: RawFd) -> bool {
    let number = u64::try_from(descriptor).unwrap_or(0);
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    number + FOR_LOGINS >= limit
}

fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionAborted | Interrupted | WouldBlock)
}
