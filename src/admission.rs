//! Who is let in, who has to make room, and whose turn it is to work.
//!
//! One lock holds it all: the counts of sessions, who of them sleeps before login, and the queue of those
//! that have something to do. There is no I/O here and no session: a turn is a job that somebody hands
//! over, and who has to go is told by its number. How sessions sleep is `session::hibernate`.
//!
//! Nobody is turned away while there is room. When `max_sessions` is reached, the oldest sleeper before
//! login, of the address that has most of them, makes room for a newcomer; who is at work or logged in
//! never does. An address with more than `max_prelogin_per_ip` sessions loses those that are silent.

mod sleepers;
mod slots;
mod turns;
mod workers;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::net::address::{Address, LimitKey};
use crate::net::client_conn::ClientWait;
use crate::service::LoginTarget;
use crate::system::threads::{Job, Seat};
use sleepers::Sleepers;
pub(crate) use sleepers::SleepsFor;
use slots::Slots;
use turns::Turns;
use workers::{FEWEST, IDLE, Workers};

/// A session beyond `max_prelogin_per_ip` that has been silent for that long is sent away. One that is
/// not lets the limit be exceeded: the next to be cut would be the one nearest to its login.
const SILENT: Duration = Duration::from_secs(1);

/// How often it is looked who is silent, while an address has too many.
const LOOK: Duration = Duration::from_millis(100);

/// While some make room, there may be a quarter of `max_sessions` more, or so many.
const BEYOND: usize = 16;

/// So many workers at most wait in place for their clients.
const IN_PLACE: usize = 128;

/// The limits of the process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// `workers`
    pub workers: usize,
    /// `max_sessions`
    pub max_sessions: usize,
    /// `max_prelogin_per_ip`; `None` is off.
    pub max_prelogin_per_ip: Option<usize>,
    /// `client_wait`
    pub client_wait: Duration,
    /// `send_timeout`
    pub send_timeout: Duration,
}

/// The door and the workers behind it.
#[derive(Debug)]
pub(crate) struct Admission {
    state: Mutex<State>,
    /// The last session ended.
    end: Condvar,
    numbers: AtomicU64,
    waits: Arc<ClientWait>,
}

struct State {
    limits: Limits,
    /// From accept to close, relays included.
    sessions: usize,
    /// Those of them that are to make room, with the address that they were counted for.
    leaving: BTreeMap<u64, LimitKey>,
    /// Sessions before login, by address.
    before_login: HashMap<LimitKey, OfAddress>,
    sleepers: Sleepers,
    /// Addresses with more sessions before login than they may have.
    exceeded: HashSet<LimitKey>,
    turns: Turns<Job>,
    workers: Workers,
    slots: Slots,
    stopping: bool,
}

/// Sessions before login of one address.
#[derive(Debug, Default)]
struct OfAddress {
    all: usize,
    /// Those of them that are to make room.
    leaving: usize,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "State {{ sessions: {} }}", self.sessions)
    }
}

/// What became of a connection.
#[derive(Debug)]
pub(crate) enum Entry {
    /// It is in.
    Admitted {
        /// Its place.
        place: Place,
        /// The sessions that are to make room in a moment, by their numbers.
        make_room: Vec<u64>,
    },
    /// There are too many, those included who are about to go: these are to go now, and then it may be tried
    /// once more.
    Full(Vec<u64>),
    /// There is no room, because this limit is reached.
    TurnedAway(&'static str),
}

impl Admission {
    /// Nobody is inside, and a few workers wait.
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        let waits = ClientWait::new(limits.client_wait, limits.send_timeout);
        let admission = Arc::new(Self {
            state: Mutex::new(State {
                limits,
                sessions: 0,
                leaving: BTreeMap::new(),
                before_login: HashMap::new(),
                sleepers: Sleepers::default(),
                exceeded: HashSet::new(),
                turns: Turns::new(),
                workers: Workers::new(limits.workers),
                slots: Slots::default(),
                stopping: false,
            }),
            end: Condvar::new(),
            numbers: AtomicU64::new(1),
            waits: Arc::new(waits),
        });
        for started in 0..FEWEST {
            let works = Arc::clone(&admission);
            let work = move || works.work();
            admission.lock().workers.start_if_needed(started + 1, work);
        }
        admission
    }

    /// Other limits from now on; who is inside stays.
    pub(crate) fn set_limits(&self, limits: Limits) {
        self.waits.set(limits.client_wait, limits.send_timeout);
        let mut state = self.lock();
        state.workers.set_most(limits.workers);
        state.limits = limits;
    }

    /// How long workers may wait in place for clients.
    pub(crate) fn waits(&self) -> &Arc<ClientWait> {
        &self.waits
    }

    /// Lets a connection in, if there is room for it or somebody has to make some.
    pub(crate) fn enter(self: &Arc<Self>, peer: Address) -> Entry {
        let address = peer.limit_key();
        let mut state = self.lock();
        if state.stopping {
            return Entry::TurnedAway("stopping");
        }
        let most = state.limits.max_sessions;
        if state.sessions >= most + (most / 4).max(BEYOND) {
            // Whoever has had its moment goes at once, or else the oldest who sleeps.
            let mut first: Vec<u64> = state.leaving.keys().copied().take(BEYOND).collect();
            first.extend(state.oldest_for(address));
            return Entry::Full(first);
        }
        let mut make_room = Vec::new();
        while state.sessions >= most + state.leaving.len() {
            match state.oldest_for(address) {
                Some(oldest) => make_room.push(oldest),
                None if state.leaving.is_empty() => return Entry::TurnedAway("max_sessions"),
                None => break,
            }
        }
        state.sessions += 1;
        state.before_login.entry(address).or_default().all += 1;
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        make_room.extend(state.silent_beyond_limit(address));
        drop(state);
        Entry::Admitted {
            place: Place {
                admission: Arc::clone(self),
                number,
                address,
                turns: 0,
                before_login: true,
                sleeps: false,
            },
            make_room,
        }
    }

    /// Out of descriptors: names some of the oldest sleepers, who are to make room.
    pub(crate) fn shed(&self) -> Vec<u64> {
        const AT_A_TIME: usize = 16;
        let mut state = self.lock();
        let oldest = std::iter::from_fn(|| state.oldest_sleeper());
        oldest.take(AT_A_TIME).collect()
    }

    /// A session that was to make room has something to say: it stays, for this time.
    pub(crate) fn stays(&self, number: u64) {
        self.lock().forget_leaving(number);
    }

    /// What is due now and then: names the sessions that are to make room, and says when it is to be asked
    /// again, if at all.
    pub(crate) fn look_round(&self) -> (Vec<u64>, Option<Duration>) {
        let mut state = self.lock();
        let addresses: Vec<_> = state.exceeded.iter().copied().collect();
        let mut make_room = Vec::new();
        for address in addresses {
            make_room.extend(std::iter::from_fn(|| state.silent_beyond_limit(address)));
        }
        let again = (!state.exceeded.is_empty()).then_some(LOOK);
        (make_room, again)
    }

    /// Queues a turn of the session in this place; a worker that waits has it at once.
    pub(crate) fn queue(self: &Arc<Self>, turn: Turn, job: Job) {
        let mut state = self.lock();
        if state.turns.len() == 0
            && let Some(seat) = state.workers.call()
        {
            self.note_crowd(&state);
            drop(state);
            return seat.give(job);
        }
        state.turns.push(turn.number_of_turns, turn.address, job);
        let queued = state.turns.len();
        let admission = Arc::clone(self);
        let work = move || admission.work();
        state.workers.start_if_needed(queued, work);
        self.note_crowd(&state);
    }

    /// What a worker does: one turn after another, each of whoever is next.
    fn work(&self) {
        let seat = Seat::of_this_thread();
        let mut state = self.lock();
        loop {
            let job = state.turns.pop();
            match &job {
                Some(_) => state.workers.begin(),
                None => state.workers.sit(&seat),
            }
            self.note_crowd(&state);
            drop(state);
            let Some(job) = job.or_else(|| self.wait_for_job(&seat)) else {
                return;
            };
            // Whatever happens in it, the worker is free again afterwards.
            let _ = catch_unwind(AssertUnwindSafe(job));
            state = self.lock();
            if state.workers.end() {
                return;
            }
        }
    }

    /// The next job of a worker that waits; none if it is not needed any more.
    fn wait_for_job(&self, seat: &Arc<Seat>) -> Option<Job> {
        loop {
            let job = seat.wait(IDLE);
            if job.is_some() || self.lock().workers.may_leave(seat) {
                return job;
            }
        }
    }

    fn note_crowd(&self, state: &State) {
        let busy = state.workers.busy();
        let few_left = 2 * busy > state.workers.most() + 1 || busy > IN_PLACE;
        let somebody_waits = state.turns.len() > 0 && !state.workers.may_grow();
        self.waits.set_crowded(somebody_waits || few_left);
    }

    /// Takes a place among the logins in progress towards a backend or auth server: three quarters of
    /// `workers` at most, and no more than the target has for itself. If there is none, the session stands in
    /// line, in which addresses take turns, and is to be woken when `release` or `leave_line` name it.
    pub(crate) fn take_slot(&self, target: &LoginTarget, who: (u64, LimitKey)) -> bool {
        let mut state = self.lock();
        let most = (state.workers.most() * 3 / 4).min(target.most).max(1);
        state.slots.take(&target.name, who, most)
    }

    /// Gives such a place back; returns who is to be woken.
    pub(crate) fn release_slot(&self, target: &str) -> Option<u64> {
        self.lock().slots.give_back(target)
    }

    /// Leaves the line; returns who is to be woken.
    pub(crate) fn leave_line(&self, target: &str, session: u64) -> Option<u64> {
        self.lock().slots.leave_line(target, session)
    }

    /// Lets nobody in any more.
    pub(crate) fn stop(&self) {
        self.lock().stopping = true;
    }

    /// Sessions from accept to close.
    pub(crate) fn sessions(&self) -> usize {
        self.lock().sessions
    }

    /// Addresses with more sessions before login than they may have.
    pub(crate) fn crowded_addresses(&self) -> usize {
        self.lock().exceeded.len()
    }

    /// Workers that carry a session at this moment, and all that there are.
    pub(crate) fn workers(&self) -> (usize, usize) {
        let state = self.lock();
        (state.workers.busy(), state.workers.size())
    }

    /// Sessions that have something to do and wait for a worker.
    pub(crate) fn queued(&self) -> usize {
        self.lock().turns.len()
    }

    /// Waits until no session is left, or until `deadline`; whether none is.
    pub(crate) fn wait_empty(&self, deadline: Instant) -> bool {
        let mut state = self.lock();
        while state.sessions > 0 {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return false;
            };
            let waited = self.end.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The oldest sleeper of the address with most of them; it is to make room from now on.
    fn oldest_sleeper(&mut self) -> Option<u64> {
        let (address, number) = self.sleepers.oldest_of_most()?;
        self.note_leaving(address, number);
        Some(number)
    }

    /// The same for the sake of a newcomer.
    fn oldest_for(&mut self, newcomer: LimitKey) -> Option<u64> {
        let (address, number) = self.sleepers.oldest_for(newcomer)?;
        self.note_leaving(address, number);
        Some(number)
    }

    /// The same for a session of an address that has too many, if it has been silent for a while.
    fn silent_beyond_limit(&mut self, address: LimitKey) -> Option<u64> {
        let most = self.limits.max_prelogin_per_ip.unwrap_or(usize::MAX);
        let here = self.before_login.get(&address);
        if here.is_none_or(|here| here.all <= most.saturating_add(here.leaving)) {
            if !self.exceeded.is_empty() {
                self.exceeded.remove(&address);
            }
            return None;
        }
        self.exceeded.insert(address);
        let silent = Instant::now().checked_sub(SILENT)?;
        let number = self.sleepers.longest_silent_of(address, silent)?;
        self.note_leaving(address, number);
        Some(number)
    }

    fn note_leaving(&mut self, address: LimitKey, number: u64) {
        self.sleepers.remove(address, number);
        self.leaving.insert(number, address);
        self.before_login.entry(address).or_default().leaving += 1;
    }

    fn forget_leaving(&mut self, number: u64) {
        if let Some(address) = self.leaving.remove(&number) {
            self.count(address, |here| {
                here.leaving = here.leaving.saturating_sub(1)
            });
        }
    }

    fn count(&mut self, address: LimitKey, change: impl FnOnce(&mut OfAddress)) {
        let here = self.before_login.entry(address).or_default();
        change(here);
        if here.all == 0 && here.leaving == 0 {
            self.before_login.remove(&address);
        }
    }
}

/// Where a session stands in the queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    address: LimitKey,
    number_of_turns: u32,
}

/// A session's place, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    admission: Arc<Admission>,
    number: u64,
    address: LimitKey,
    turns: u32,
    before_login: bool,
    sleeps: bool,
}

impl Place {
    /// The session's number: one for each connection of the process, in the order of accept.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Asks for a turn.
    pub(crate) fn next_turn(&mut self) -> Turn {
        let turn = Turn {
            address: self.address,
            number_of_turns: self.turns,
        };
        self.turns = self.turns.saturating_add(1);
        turn
    }

    /// A turn for its last steps, which are few and wait for nobody.
    pub(crate) fn last_turn(&self) -> Turn {
        Turn {
            address: self.address,
            number_of_turns: 0,
        }
    }

    /// The session is about to sleep: it may have to make room for others.
    pub(crate) fn falls_asleep(&mut self, what: SleepsFor) {
        self.sleeps = true;
        let mut state = self.admission.lock();
        if what != SleepsFor::Others && !state.leaving.contains_key(&self.number) {
            state
                .sleepers
                .add(self.address, self.number, what, Instant::now());
        }
    }

    /// It has something to do.
    pub(crate) fn wakes(&mut self) {
        if std::mem::take(&mut self.sleeps) {
            let mut state = self.admission.lock();
            state.sleepers.remove(self.address, self.number);
        }
    }

    /// The session turned out to be another address's (`set_real_ip_from`).
    pub(crate) fn moved_to(&mut self, address: Address) {
        let before = std::mem::replace(&mut self.address, address.limit_key());
        let mut state = self.admission.lock();
        state.forget_leaving(self.number);
        state.count(before, |here| here.all = here.all.saturating_sub(1));
        state.count(self.address, |here| here.all += 1);
        let most = state.limits.max_prelogin_per_ip.unwrap_or(usize::MAX);
        let here = state.before_login.get(&self.address);
        if here.is_some_and(|here| here.all > most) {
            state.exceeded.insert(self.address);
        }
    }

    /// The session is logged in: it counts for its address no more.
    pub(crate) fn logged_in(&mut self) {
        self.wakes();
        self.before_login = false;
        let mut state = self.admission.lock();
        state.forget_leaving(self.number);
        state.count(self.address, |here| here.all = here.all.saturating_sub(1));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.wakes();
        let mut state = self.admission.lock();
        if self.before_login {
            state.count(self.address, |here| here.all = here.all.saturating_sub(1));
        }
        state.forget_leaving(self.number);
        state.sessions -= 1;
        // To tell nobody costs a system call, and that is all that anybody waits for.
        if state.sessions == 0 {
            self.admission.end.notify_all();
        }
    }
}
