//! After the login: bytes in both directions, in order, at once, unread. Two threads a session, and none
//! while it is silent.
//!
//! The directions are independent: a slow reader holds up one of them, and when one has ended, what
//! is under way in the other still arrives. Silence is counted for both together. How one direction
//! copies is in `copy`; here is what both know of each other, and how a relay ends: closed, when both
//! directions have ended, and the last one writes the closing line; or silent, when the last one to
//! leave puts it to sleep.

mod clock;

use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::clock::Clock;
use super::copy::{Begin, Outcome, Which};
use super::hibernate::{Sleeper, Watched};
use crate::log::Severity;
use crate::net::client_conn::ClientConn;
use crate::net::conn::Conn;
use crate::net::leg::Leg;
use crate::net::socket::WaitFor;
use crate::session::live::{Ending, Entry};
use crate::session::rawlog::Side;
use crate::session::{Runtime, Session, Step};
use crate::system::threads::rename;

/// Default of `proxy_buffer`, while data flows.
const LARGE: usize = 32 * 1024;

/// A session in its relay.
pub(super) struct Relay {
    client: Leg,
    backend: Leg,
    entry: Arc<Entry>,
    runtime: Arc<Runtime>,
    /// Of each direction: whether nothing is under way in it, so that it only waits for more.
    idle: [AtomicBool; 2],
    /// Of each direction: whether its thread has left because of the silence.
    away: [AtomicBool; 2],
    clock: Clock,
    /// `timeout`: longest silence once one direction has ended.
    half_closed: Duration,
    pub(super) buffer: usize,
    /// Bytes that were read and not written any more.
    given_up: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Taken by the last direction to end.
    session: Option<Box<Session>>,
    directions: [Direction; 2],
    reason: Option<&'static str>,
}

/// Where the thread of a direction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Running,
    /// Its destination is gone: it reads on for the sake of the other direction alone.
    Discarding,
    /// It has left; whoever needs the direction starts another.
    Away,
    Ended,
}

impl Relay {
    /// Takes a session over: what was read ahead on either side goes first, and what the client has not
    /// taken yet of the login's answer.
    pub(super) fn begin(mut session: Box<Session>, client: ClientConn, backend: Conn) {
        session.set_step(Step::Proxying);
        session.login_time = Some(session.accepted().elapsed());
        session.place.logged_in();
        session.count_success();
        // From here on nobody's text is quoted.
        session.secrets.clear();
        let (client, from_client, pending) = client.into_parts();
        let (backend, from_backend) = backend.into_leg();
        session.entry.note_activity();
        let conf = &session.service.conf;
        let relay = Arc::new(Self {
            client,
            backend,
            entry: Arc::clone(&session.entry),
            runtime: Arc::clone(&session.runtime),
            idle: [AtomicBool::new(false), AtomicBool::new(false)],
            away: [AtomicBool::new(false), AtomicBool::new(false)],
            clock: Clock::new(
                session.accepted(),
                Arc::clone(&session.entry.active),
                conf.proxy_timeout,
                conf.hibernate_timeout,
            ),
            half_closed: conf.timeout,
            buffer: conf.proxy_buffer.unwrap_or(LARGE),
            given_up: AtomicU64::new(0),
            state: Mutex::new(State {
                session: Some(session),
                directions: [Direction::Running; 2],
                reason: None,
            }),
            changed: Condvar::new(),
        });
        let first = |first, pending| Begin { first, pending };
        relay.begin_in_place([first(from_client, Vec::new()), first(from_backend, pending)]);
    }

    /// Begins both directions on the worker; threads go on with what is not done in a moment.
    fn begin_in_place(self: &Arc<Self>, begins: [Begin; 2]) {
        let begun = match self.in_place().is_zero() {
            true => Ok(begins.map(Some)),
            false => caught(|| self.copy_in_place(begins)),
        };
        let Ok([up, down]) = begun else {
            self.stop("internal error");
            self.end_of(Which::Up);
            return self.end_of(Which::Down);
        };
        for (which, begin) in [(Which::Down, down), (Which::Up, up)] {
            if let Some(begin) = begin {
                self.start(which, begin);
            }
        }
    }

    /// What follows when a direction has ended on the worker, which waits for nobody.
    pub(super) fn conclude_in_place(self: &Arc<Self>, which: Which, outcome: Outcome) {
        match outcome {
            Outcome::Finished if !self.keeps_watch() => self.end_of(which),
            outcome => self.on_thread(which, move |relay| relay.conclude(which, outcome)),
        }
    }

    /// Runs a direction on a thread.
    fn start(self: &Arc<Self>, which: Which, begin: Begin) {
        self.on_thread(which, move |relay| {
            rename(&relay.thread_name(which));
            let outcome = caught(|| relay.copy(which, begin)).unwrap_or(Outcome::Fault);
            relay.conclude(which, outcome);
        });
    }

    /// If the system has no thread left, the session ends.
    fn on_thread(self: &Arc<Self>, which: Which, job: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let relay = Arc::clone(self);
        if let Err(error) = self.runtime.threads.run(move || job(&relay)) {
            self.no_thread(&error);
            self.end_of(which);
        }
    }

    fn no_thread(&self, error: &std::io::Error) {
        if let Some(session) = &self.lock().session {
            let text = "cannot start a thread for the session";
            session.log_failure(Severity::Error, file!(), text, Some(error));
        }
        self.stop("no thread");
    }

    /// What follows when a direction has ended, or has left because of the silence.
    fn conclude(self: &Arc<Self>, which: Which, outcome: Outcome) {
        match outcome {
            Outcome::Left => return,
            Outcome::Finished => {}
            Outcome::WriteFailed => {
                self.give_reason(which.other().closed());
                self.limit_silence();
                self.begin_discarding(which);
                self.discard(which);
            }
            Outcome::Silent => self.stop(self.kind_of_silence()),
            Outcome::Fault => self.stop("internal error"),
        }
        self.end_of(which);
    }

    fn kind_of_silence(&self) -> &'static str {
        match self.lock().directions.contains(&Direction::Ended) {
            true => "silent after half-close",
            false => "silent",
        }
    }

    fn thread_name(&self, which: Which) -> String {
        let protocol = self.entry.service.record.name;
        let direction = match which {
            Which::Up => "up",
            Which::Down => "dn",
        };
        format!("{protocol} {:x} {direction}", self.entry.number)
    }

    /// Where a direction reads.
    pub(super) fn source(&self, which: Which) -> &Leg {
        match which {
            Which::Up => &self.client,
            Which::Down => &self.backend,
        }
    }

    /// Where it writes.
    pub(super) fn destination(&self, which: Which) -> &Leg {
        self.source(which.other())
    }

    /// Counts bytes, and calls the other direction back if its thread has left.
    pub(super) fn touch(self: &Arc<Self>, which: Which, bytes: usize) {
        self.entry.bytes[which as usize].fetch_add(bytes as u64, Ordering::Relaxed);
        self.clock.touch();
        let other = which.other();
        if self.away[other as usize].load(Ordering::SeqCst) {
            self.call_back(other);
        }
    }

    /// Shows what is about to be passed on to whoever wants to read along.
    pub(super) fn read_along(&self, which: Which, data: &[u8]) {
        let side = match which {
            Which::Up => Side::Client,
            Which::Down => Side::Backend,
        };
        self.runtime.rawlogs.relayed(&self.entry, side, data);
    }

    /// Says something of it, for whoever wants to know everything.
    pub(super) fn log_debug(&self, text: &str) {
        if let Some(session) = &self.lock().session {
            session.log(Severity::Debug, file!(), text);
        }
    }

    /// Whether anybody reads along anywhere: what is spliced nobody sees.
    pub(super) fn is_read_along(&self) -> bool {
        self.runtime.rawlogs.are_any()
    }

    fn call_back(self: &Arc<Self>, which: Which) {
        let mut state = self.lock();
        if state.directions[which as usize] != Direction::Away {
            return;
        }
        state.directions[which as usize] = Direction::Running;
        self.away[which as usize].store(false, Ordering::SeqCst);
        drop(state);
        self.start(which, Begin::default());
    }

    /// Says whether a direction only waits for more.
    pub(super) fn set_idle(&self, which: Which, idle: bool) {
        self.idle[which as usize].store(idle, Ordering::SeqCst);
    }

    /// How long the worker may wait in place for the client.
    pub(super) fn in_place(&self) -> Duration {
        self.runtime.admission.waits().in_place()
    }

    /// How long a direction may wait for more now; `None` when the session has been silent for too long.
    pub(super) fn patience(&self) -> Option<Duration> {
        self.clock.patience().or_else(|| {
            // The other direction may be looking at this moment.
            let _looking = self.lock();
            if let Some(patience) = self.clock.patience() {
                return Some(patience);
            }
            let unacknowledged = [&self.client, &self.backend]
                .map(|leg| leg.socket.unacknowledged())
                .iter()
                .sum();
            self.clock.notice_progress(unacknowledged);
            self.clock.patience()
        })
    }

    /// The same, but at most until it can leave because of the silence.
    pub(super) fn patience_awake(&self) -> Option<Duration> {
        let patience = self.patience()?;
        let until_sleep = self.clock.until_sleep();
        Some(until_sleep.map_or(patience, |until| patience.min(until)))
    }

    /// Whether the session has been silent for long enough to sleep.
    pub(super) fn may_sleep(&self) -> bool {
        self.clock.is_silent()
    }

    /// A direction that only waits for more leaves, if the session has been silent for long enough and
    /// nothing is under way in the other one either; whether it has. The last to leave puts the
    /// relay to sleep.
    pub(super) fn leave(self: &Arc<Self>, which: Which) -> bool {
        if !self.clock.is_silent() {
            return false;
        }
        let mut state = self.lock();
        let other = which.other();
        let of_other = state.directions[other as usize];
        let is_busy = match of_other {
            Direction::Running => !self.idle[other as usize].load(Ordering::SeqCst),
            Direction::Discarding => true,
            Direction::Away | Direction::Ended => false,
        };
        if is_busy {
            return false;
        }
        // First this, then the clock: the other direction looks at them the other way round.
        self.away[which as usize].store(true, Ordering::SeqCst);
        if !self.clock.is_silent() {
            self.away[which as usize].store(false, Ordering::SeqCst);
            return false;
        }
        state.directions[which as usize] = Direction::Away;
        if of_other != Direction::Running {
            self.sleep(state);
        }
        true
    }

    /// Nobody runs any more.
    fn sleep(self: &Arc<Self>, state: MutexGuard<'_, State>) {
        let is_away = |which: &Which| state.directions[*which as usize] == Direction::Away;
        let watched: Vec<_> = [Which::Up, Which::Down]
            .iter()
            .filter(|which| is_away(which))
            .map(|which| Watched {
                socket: Arc::clone(&self.source(*which).socket),
                on: WaitFor::Data,
            })
            .collect();
        // Whoever keeps watch over the other direction has nothing to watch any more.
        self.tell_watcher();
        drop(state);
        self.log_debug("relay sleeps");
        self.entry.note_sleep(true);
        let hibernation = &self.runtime.hibernation;
        let sleeper = Box::new(Asleep(Arc::clone(self)));
        hibernation.sleep(self.entry.number, &watched, self.clock.end(), sleeper);
    }

    /// The direction has no destination any more. It reads on for the sake of the other one.
    fn begin_discarding(&self, which: Which) {
        self.lock().directions[which as usize] = Direction::Discarding;
    }

    /// Whether a direction still delivers something: it is at work, or what it has written has not been
    /// acknowledged yet.
    pub(super) fn delivers(&self, which: Which) -> bool {
        let is_at_work = self.lock().directions[which as usize] == Direction::Running;
        is_at_work || self.destination(which).socket.unacknowledged() > 0
    }

    /// A direction has ended. The other may go on, but no longer silent for longer than `timeout`. The last
    /// closes the session.
    fn end_of(self: &Arc<Self>, which: Which) {
        let other = which.other() as usize;
        let mut state = self.lock();
        state.directions[which as usize] = Direction::Ended;
        self.tell_watcher();
        self.limit_silence();
        if state.directions[other] == Direction::Away {
            // It left before, and nobody has put it to sleep.
            return self.sleep(state);
        }
        if self.keeps_watch() {
            let Some(watched) = self.watch(state, other) else {
                return self.stop("silent after half-close");
            };
            state = watched;
        }
        let session = match state.directions[other] {
            Direction::Ended => state.session.take(),
            Direction::Running | Direction::Discarding | Direction::Away => None,
        };
        let reason = state.reason;
        drop(state);
        if let Some(session) = session {
            self.close(&session, reason);
        }
    }

    /// Whether the first direction to end keeps watch over the other: its blocked read does not learn of a
    /// new limit, unless it looks round before that to see whether it can leave.
    fn keeps_watch(&self) -> bool {
        !self.clock.may_sleep_within(self.half_closed)
    }

    /// Something has changed for whoever keeps watch. To tell nobody costs a system call.
    fn tell_watcher(&self) {
        if self.keeps_watch() {
            self.changed.notify_all();
        }
    }

    /// Waits until a direction does not run any more; `None` when it has been silent for too long.
    fn watch<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        other: usize,
    ) -> Option<MutexGuard<'a, State>> {
        while matches!(
            state.directions[other],
            Direction::Running | Direction::Discarding
        ) {
            let Some(patience) = self.clock.patience() else {
                drop(state);
                self.patience()?;
                state = self.lock();
                continue;
            };
            let waited = self.changed.wait_timeout(state, patience);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Some(state)
    }

    /// Counts what was read and will not be written.
    pub(super) fn give_up(&self, bytes: usize) {
        self.given_up.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Of a relay that was cut: bytes that did not arrive, as far as we know. They lie in our buffers, or
    /// in the kernel, which has no acknowledgement for them.
    fn undelivered(&self) -> Option<u64> {
        /// An acknowledgement may be as late as that (40 ms with Linux) although everything has arrived.
        const LATE: Duration = Duration::from_millis(60);
        let is_cut = self.entry.ending().is_some() || self.clock.is_stopped();
        if !is_cut {
            return None;
        }
        let end = Instant::now() + LATE;
        loop {
            // Our end of the stream (FIN) counts as a byte there until it is acknowledged.
            let unacknowledged: u64 = [&self.client, &self.backend]
                .map(|leg| leg.socket.unacknowledged().saturating_sub(1))
                .iter()
                .sum();
            if unacknowledged == 0 || Instant::now() >= end {
                return Some(self.given_up.load(Ordering::Relaxed) + unacknowledged);
            }
            std::thread::sleep(LATE / 12);
        }
    }

    fn close(&self, session: &Session, reason: Option<&'static str>) {
        let undelivered = self.undelivered();
        session.log_event(file!(), "proxied session done");
        // A peer that still sends would otherwise be answered with a reset, which can destroy what it has
        // not read yet.
        self.client.socket.close_after_line();
        self.backend.socket.close_after_line();
        let told = self.entry.ending().map(Ending::reason);
        let reason = told.or(reason).unwrap_or("closed");
        session.count_end(reason);
        session.log_closing(reason, undelivered);
    }

    /// Ends both directions at once.
    fn stop(&self, reason: &'static str) {
        self.give_reason(reason);
        self.clock.stop();
        self.client.socket.shutdown(Shutdown::Both);
        self.backend.socket.shutdown(Shutdown::Both);
    }

    /// The first reason is the one that counts.
    pub(super) fn give_reason(&self, reason: &'static str) {
        self.lock().reason.get_or_insert(reason);
    }

    /// `timeout` holds from now on. An end is no silence: whatever came before it, the other direction has
    /// all of that time to answer.
    fn limit_silence(&self) {
        self.clock.begin_shorter_limit(self.half_closed);
    }

    /// Longest time that the end of a direction may take to be passed on.
    pub(super) fn half_closed(&self) -> Duration {
        self.half_closed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A relay in which both directions are silent.
struct Asleep(Arc<Relay>);

impl Sleeper for Asleep {
    /// Starts a thread for each direction that has not ended.
    fn wake(self: Box<Self>) {
        let relay = self.0;
        relay.entry.note_sleep(false);
        let mut state = relay.lock();
        let is_away = |which: &Which| state.directions[*which as usize] == Direction::Away;
        let both = [Which::Up, Which::Down];
        let called: Vec<Which> = both.into_iter().filter(is_away).collect();
        for &which in &called {
            state.directions[which as usize] = Direction::Running;
            relay.away[which as usize].store(false, Ordering::SeqCst);
        }
        drop(state);
        relay.log_debug("relay wakes");
        for which in called {
            relay.start(which, Begin::default());
        }
    }
}

/// A panic costs a session alone, and its other thread must learn of it.
fn caught<T>(copy: impl FnOnce() -> T) -> std::thread::Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(copy))
}
