//! Who waits without a thread: sessions before login that wait for their client or for a time, and relays
//! that are silent in both directions.
//!
//! One thread holds the sleepers: for each its descriptors, one deadline, and who goes on with it. It
//! wakes them and does nothing else for them: what comes next is a worker's or a relay's business.
//! Somebody else may wake a sleeper too: a name has been looked up, a place has become free, the session
//! is to end.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Runtime;
use crate::net::socket::{Socket, WaitFor};

/// The event of the eventfd that ends the thread's wait.
const KICK: u64 = u64::MAX;

/// How often it is looked round while somebody sleeps.
const LOOK: Duration = Duration::from_secs(1);

/// A sleeper whose descriptors cannot be watched looks for itself that often.
const UNWATCHED: Duration = Duration::from_millis(100);

/// Somebody who waits without a thread.
pub(crate) trait Sleeper: Send {
    /// Goes on. It must not block: it asks for a worker, or for threads of its own.
    fn wake(self: Box<Self>);

    /// Makes room at once. It must not block either.
    fn make_room(self: Box<Self>) {
        self.wake();
    }
}

/// A socket that wakes a sleeper.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    /// The socket.
    pub socket: Arc<Socket>,
    /// What it has to say.
    pub on: WaitFor,
}

/// All sleepers of the process.
pub(crate) struct Hibernation {
    epoll: Epoll,
    kick: EventFd,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sleepers: HashMap<u64, Asleep>,
    deadlines: BTreeSet<(Instant, u64)>,
    /// Those that were woken while they were awake: they do not fall asleep the next time.
    woken: HashSet<u64>,
    /// When to look round next, if at all.
    look_at: Option<Instant>,
    /// Until when the thread waits at most.
    thread_waits: Option<Instant>,
    stopping: bool,
}

struct Asleep {
    sleeper: Box<dyn Sleeper>,
    until: Instant,
}

impl Hibernation {
    /// Nobody sleeps yet.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let kick = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&kick, EpollEvent::new(EpollFlags::EPOLLIN, KICK))?;
        Ok(Self {
            epoll,
            kick,
            state: Mutex::default(),
        })
    }

    /// Puts a session to sleep until one of the sockets has something to say, or until a time. It may be
    /// woken before this returns.
    pub(crate) fn sleep(
        &self,
        session: u64,
        watched: &[Watched],
        until: Instant,
        sleeper: Box<dyn Sleeper>,
    ) {
        let mut state = self.lock();
        if state.stopping {
            return;
        }
        if state.woken.remove(&session) {
            drop(state);
            return at_its_own_cost(|| sleeper.wake());
        }
        let before = state.insert(session, Asleep { sleeper, until });
        // Under the lock: whoever wakes the session may ask for something else at once, and must come
        // after this.
        let watches = watched.iter().map(|watched| self.watch(session, watched));
        // All of them are to be watched, whatever becomes of the first.
        let watches: Vec<_> = watches.collect();
        let look_at = *state.look_at.get_or_insert_with(|| Instant::now() + LOOK);
        let is_sooner = state
            .thread_waits
            .is_none_or(|end| until.min(look_at) < end);
        drop(state);
        drop(before);
        if watches.iter().any(Result::is_err) {
            self.wake_by(session, Instant::now() + UNWATCHED);
        }
        if is_sooner {
            self.kick();
        }
    }

    /// Puts a sleeper back that was woken by an event which does not matter to it. No socket is watched for
    /// it, and it is not woken before this returns.
    pub(super) fn sleep_on(&self, session: u64, until: Instant, sleeper: Box<dyn Sleeper>) {
        let mut state = self.lock();
        if state.stopping {
            return;
        }
        let before = state.insert(session, Asleep { sleeper, until });
        let is_sooner = state.thread_waits.is_none_or(|end| until < end);
        drop(state);
        drop(before);
        if is_sooner {
            self.kick();
        }
    }

    /// Each event comes once; the next sleep asks for it again.
    fn watch(&self, session: u64, watched: &Watched) -> nix::Result<()> {
        let flags = flags(watched.on) | EpollFlags::EPOLLONESHOT;
        let mut event = EpollEvent::new(flags, session);
        let socket = watched.socket.as_fd();
        if !watched.socket.enter_epoll() {
            return self.epoll.add(socket, event);
        }
        match self.epoll.modify(socket, &mut event) {
            Err(Errno::ENOENT) => self.epoll.add(socket, event),
            other => other,
        }
    }

    /// Wakes a sleeper at this moment, if it sleeps for longer; whether it sleeps at all.
    pub(crate) fn wake_by(&self, session: u64, until: Instant) -> bool {
        let mut state = self.lock();
        let Some(asleep) = state.sleepers.get_mut(&session) else {
            return false;
        };
        let until = until.min(asleep.until);
        let before = std::mem::replace(&mut asleep.until, until);
        state.deadlines.remove(&(before, session));
        state.deadlines.insert((until, session));
        let is_sooner = state.thread_waits.is_none_or(|end| until < end);
        drop(state);
        if is_sooner {
            self.kick();
        }
        true
    }

    /// Wakes a session, or if it is awake keeps it from falling asleep the next time. Once it has ended
    /// it must be forgotten again.
    pub(super) fn wake(&self, session: u64) {
        let mut state = self.lock();
        match state.take(session) {
            Some(sleeper) => {
                drop(state);
                at_its_own_cost(|| sleeper.wake());
            }
            None => drop(state.woken.insert(session)),
        }
    }

    /// Takes a sleeper out, if it sleeps.
    pub(crate) fn take(&self, session: u64) -> Option<Box<dyn Sleeper>> {
        self.lock().take(session)
    }

    /// The session has ended.
    pub(crate) fn forget(&self, session: u64) {
        self.lock().woken.remove(&session);
    }

    /// How many sleep.
    pub(crate) fn sleepers(&self) -> usize {
        self.lock().sleepers.len()
    }

    /// The end of the process: whoever sleeps, or falls asleep, is gone, and the thread ends.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        let sleepers = std::mem::take(&mut state.sleepers);
        state.deadlines.clear();
        drop(state);
        // Outside the lock: a session that goes is forgotten here.
        drop(sleepers);
        self.kick();
    }

    /// Wakes sleepers until it is stopped. Runs on a thread of its own.
    pub(crate) fn run(runtime: &Runtime) {
        let this = &runtime.hibernation;
        let mut events = [EpollEvent::empty(); 256];
        while let Some(timeout) = this.timeout() {
            let seen = this.epoll.wait(&mut events, timeout).unwrap_or(0);
            for event in &events[..seen] {
                match event.data() {
                    // Read until nothing is left, which is an error.
                    KICK => while this.kick.read().is_ok() {},
                    session => this.wake_asleep(session),
                }
            }
            this.wake_due();
            if this.is_time_to_look() {
                let mut next = None;
                at_its_own_cost(|| next = runtime.look_round());
                this.look_again(next);
            }
        }
    }

    /// Lets the thread look round in a while.
    pub(super) fn look_soon(&self) {
        let mut state = self.lock();
        if state.look_at.is_none() {
            state.look_at = Some(Instant::now() + LOOK);
            drop(state);
            self.kick();
        }
    }

    fn is_time_to_look(&self) -> bool {
        let look_at = self.lock().look_at;
        look_at.is_some_and(|look_at| look_at <= Instant::now())
    }

    fn look_again(&self, next: Option<Duration>) {
        let mut state = self.lock();
        let sleepers = (!state.sleepers.is_empty()).then_some(LOOK);
        let next = [next, sleepers].into_iter().flatten().min();
        state.look_at = next.map(|next| Instant::now() + next);
    }

    /// How long the thread may wait; `None` when it is to end.
    fn timeout(&self) -> Option<EpollTimeout> {
        let mut state = self.lock();
        if state.stopping {
            return None;
        }
        let first = state.deadlines.first().map(|(until, _)| *until);
        let end = [first, state.look_at].into_iter().flatten().min();
        state.thread_waits = end;
        Some(match end {
            None => EpollTimeout::NONE,
            Some(end) => {
                // Rounded up: the kernel counts milliseconds.
                let left = end.saturating_duration_since(Instant::now());
                let left = left + Duration::from_millis(1);
                EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
            }
        })
    }

    /// An event that comes too late, for somebody who is awake already, means nothing.
    fn wake_asleep(&self, session: u64) {
        if let Some(sleeper) = self.take(session) {
            at_its_own_cost(|| sleeper.wake());
        }
    }

    fn wake_due(&self) {
        let now = Instant::now();
        loop {
            let mut state = self.lock();
            let session = match state.deadlines.first() {
                Some(&(until, session)) if until <= now => {
                    state.deadlines.remove(&(until, session));
                    session
                }
                _ => return,
            };
            drop(state);
            self.wake_asleep(session);
        }
    }

    fn kick(&self) {
        // Cannot fail: the counter does not overflow, and then the thread would wake anyway.
        let _ = self.kick.write(1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns whom it takes the place of, if there is anybody.
    fn insert(&mut self, session: u64, asleep: Asleep) -> Option<Asleep> {
        let until = asleep.until;
        let before = self.sleepers.insert(session, asleep);
        if let Some(before) = &before {
            self.deadlines.remove(&(before.until, session));
        }
        self.deadlines.insert((until, session));
        before
    }

    fn take(&mut self, session: u64) -> Option<Box<dyn Sleeper>> {
        let Asleep { sleeper, until } = self.sleepers.remove(&session)?;
        self.deadlines.remove(&(until, session));
        Some(sleeper)
    }
}

impl std::fmt::Debug for Hibernation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hibernation {{ sleepers: {} }}", self.sleepers())
    }
}

/// A panic costs the session that it happens to, and not the thread of others.
pub(super) fn at_its_own_cost(step: impl FnOnce()) {
    // The panic hook has said where it happened.
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(step));
}

/// epoll's flags. Hang-ups by reset and errors are always told.
fn flags(on: WaitFor) -> EpollFlags {
    match on {
        WaitFor::Data => EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP,
        WaitFor::Room => EpollFlags::EPOLLOUT,
        WaitFor::HangUp => EpollFlags::EPOLLRDHUP,
        WaitFor::Reset => EpollFlags::empty(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use crossbeam_channel::{Receiver, Sender, unbounded};

    use super::*;
    use crate::admission::Limits;

    const SOON: Duration = Duration::from_secs(10);

    struct Told(Sender<&'static str>, &'static str);

    impl Sleeper for Told {
        fn wake(self: Box<Self>) {
            // The test may have ended.
            let _ = self.0.send(self.1);
        }
    }

    fn runtime() -> Arc<Runtime> {
        Runtime::start(Limits {
            workers: 1,
            max_sessions: 10,
            max_prelogin_per_ip: None,
            client_wait: Duration::ZERO,
            send_timeout: Duration::from_secs(1),
        })
        .expect("there are descriptors and threads")
    }

    fn pair() -> (Arc<Socket>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let ours = socket2::Socket::from(std::os::fd::OwnedFd::from(ours));
        (Arc::new(Socket::accepted(ours)), theirs)
    }

    fn on(socket: &Arc<Socket>, on: WaitFor) -> [Watched; 1] {
        let socket = Arc::clone(socket);
        [Watched { socket, on }]
    }

    fn is_silent(woken: &Receiver<&'static str>) -> bool {
        woken.recv_timeout(Duration::from_millis(50)).is_err()
    }

    #[test]
    fn data_the_end_of_a_stream_and_a_time_wake() {
        let runtime = runtime();
        let (tell, woken) = unbounded();
        let (socket, mut peer) = pair();
        let sleep = |on_what, until, name| {
            let watched = on(&socket, on_what);
            let until = Instant::now() + until;
            let sleeper = Box::new(Told(tell.clone(), name));
            runtime.hibernation.sleep(1, &watched, until, sleeper);
        };
        sleep(WaitFor::Data, SOON, "data");
        assert!(is_silent(&woken));
        peer.write_all(b"x").expect("it is open");
        assert_eq!(woken.recv_timeout(SOON), Ok("data"));
        // What is there already wakes at once, as often as it is asked for.
        sleep(WaitFor::Data, SOON, "data again");
        assert_eq!(woken.recv_timeout(SOON), Ok("data again"));
        sleep(WaitFor::HangUp, Duration::from_millis(20), "time");
        assert_eq!(woken.recv_timeout(SOON), Ok("time"));
        sleep(WaitFor::HangUp, SOON, "end");
        assert!(is_silent(&woken));
        drop(peer);
        assert_eq!(woken.recv_timeout(SOON), Ok("end"));
        assert_eq!(runtime.hibernation.sleepers(), 0);
        runtime.hibernation.stop();
    }

    #[test]
    fn a_wake_that_comes_before_the_sleep_is_not_lost() {
        let runtime = runtime();
        let (tell, woken) = unbounded();
        runtime.hibernation.wake(7);
        let until = Instant::now() + SOON;
        let sleeper = Box::new(Told(tell.clone(), "at once"));
        runtime.hibernation.sleep(7, &[], until, sleeper);
        assert_eq!(woken.try_recv(), Ok("at once"));
        // It counts once.
        let sleeper = Box::new(Told(tell, "later"));
        runtime.hibernation.sleep(7, &[], until, sleeper);
        assert!(is_silent(&woken));
        runtime.hibernation.wake(7);
        assert_eq!(woken.try_recv(), Ok("later"));
        runtime.hibernation.stop();
    }

    #[test]
    fn a_sleeper_can_be_hurried_and_never_delayed() {
        let runtime = runtime();
        let (tell, woken) = unbounded();
        let hibernation = &runtime.hibernation;
        let until = Instant::now() + Duration::from_millis(100);
        hibernation.sleep(1, &[], until, Box::new(Told(tell.clone(), "first")));
        assert!(hibernation.wake_by(1, Instant::now() + SOON));
        assert_eq!(woken.recv_timeout(SOON), Ok("first"));
        let until = Instant::now() + SOON;
        hibernation.sleep(2, &[], until, Box::new(Told(tell, "second")));
        assert!(hibernation.wake_by(2, Instant::now()));
        assert_eq!(woken.recv_timeout(SOON), Ok("second"));
        assert!(!hibernation.wake_by(2, Instant::now()));
        hibernation.stop();
    }
}
