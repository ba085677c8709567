//! Who may come in, who waits for a worker, and who has to go so that others can be served.
//!
//! One lock holds the whole door: the queue of accepted connections and the sessions before their
//! login. There is no I/O here but the shutdown of an evicted socket.
//!
//! The queue is served newest first, and not as a plain channel would. A crowd of silent connections
//! fills any queue; behind them, in order of arrival, an honest client would wait for each of them to
//! be evicted. And a client whose address has all the sessions that it may have must not hold up the
//! clients of other addresses.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::net::address::{Address, LimitKey};
use crate::net::socket::Socket;
use crate::presence::Presence;
use crate::service::Service;

/// A client may keep its session waiting that long, whoever else is at the door.
const GRACE: Duration = Duration::from_millis(200);

/// The newest are served first, so a connection displaces only those that came before it; others not
/// before they have waited as long as this, and not for a wait that was our own wish.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the door is looked at while somebody waits there.
const LOOK: Duration = Duration::from_millis(10);

/// The limits of the door.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Accepted connections that may wait for a worker.
    pub accept_queue: usize,
    /// `max_sessions`
    pub max_sessions: usize,
    /// `max_prelogin_per_ip`
    pub max_prelogin_per_ip: usize,
}

/// A connection that was accepted.
#[derive(Debug)]
pub struct Arrival {
    /// The server it came to.
    pub service: Arc<Service>,
    /// TLS from the first byte on.
    pub implicit_tls: bool,
    /// A PROXY header comes first.
    pub proxy_protocol: bool,
    /// The connection.
    pub socket: Arc<Socket>,
    /// Its other end.
    pub peer: Address,
    /// Its place among all sessions.
    pub place: Place,
    /// When it was accepted.
    pub accepted: Instant,
}

/// There is no room for this connection; it is to be told so and closed.
#[derive(Debug)]
pub struct Turned {
    /// The server it came to.
    pub service: Arc<Service>,
    /// TLS from the first byte on: nothing can be said to it.
    pub implicit_tls: bool,
    /// The connection.
    pub socket: Arc<Socket>,
    /// Its other end.
    pub peer: Address,
    /// Which limit is reached.
    pub limit: &'static str,
}

/// The door.
#[derive(Debug)]
pub struct Admission {
    limits: RwLock<Limits>,
    door: Mutex<Door>,
    /// Something changed that a worker may be waiting for.
    change: Condvar,
    /// Somebody waits for a worker.
    crowd: Condvar,
    /// A session ended while the program stops.
    end: Condvar,
    numbers: AtomicU64,
}

#[derive(Debug, Default)]
struct Door {
    queue: VecDeque<Arrival>,
    /// Sessions that have a worker, before their login.
    inside: HashMap<u64, Inside>,
    /// Sessions inside, by address.
    counts: HashMap<LimitKey, usize>,
    /// From accept to close, relays included.
    sessions: usize,
    idle_workers: usize,
    stopping: bool,
}

#[derive(Debug)]
struct Inside {
    key: LimitKey,
    presence: Arc<Presence>,
    evicted: bool,
}

impl Admission {
    /// A door with nobody at it.
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits: RwLock::new(limits),
            door: Mutex::default(),
            change: Condvar::new(),
            crowd: Condvar::new(),
            end: Condvar::new(),
            numbers: AtomicU64::new(1),
        })
    }

    /// Other limits from now on; who is inside stays.
    pub fn set_limits(&self, limits: Limits) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    fn limits(&self) -> Limits {
        *self.limits.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a connection. When the queue is full, room is made at the expense of the longest-waiting
    /// of the address that has most in it, which may be the newcomer: what is returned is turned away.
    pub fn enter(
        self: &Arc<Self>,
        service: Arc<Service>,
        implicit_tls: bool,
        proxy_protocol: bool,
        socket: Arc<Socket>,
        peer: Address,
    ) -> Option<Turned> {
        let mut door = self.lock();
        if door.sessions >= self.limits().max_sessions || door.stopping {
            return Some(Turned {
                service,
                implicit_tls,
                socket,
                peer,
                limit: "max_sessions",
            });
        }
        door.sessions += 1;
        let accepted = Instant::now();
        let place = Place {
            admission: Arc::clone(self),
            id: self.numbers.fetch_add(1, Ordering::Relaxed),
            presence: Arc::new(Presence::new(Arc::clone(&socket), accepted)),
            before_login: false,
        };
        door.queue.push_back(Arrival {
            service,
            implicit_tls,
            proxy_protocol,
            socket,
            peer,
            place,
            accepted,
        });
        let turned = match door.queue.len() > self.limits().accept_queue + door.idle_workers {
            true => door.longest_queued(),
            false => None,
        };
        self.change.notify_one();
        self.crowd.notify_one();
        drop(door);
        // Outside the lock: giving a place back takes it.
        turned.map(|arrival| Turned {
            service: Arc::clone(&arrival.service),
            implicit_tls: arrival.implicit_tls,
            socket: Arc::clone(&arrival.socket),
            peer: arrival.peer,
            limit: "accept_queue",
        })
    }

    /// The next connection for a worker, waited for; `None` when the program stops.
    pub fn next(&self) -> Option<Arrival> {
        let mut door = self.lock();
        door.idle_workers += 1;
        loop {
            if door.stopping {
                door.idle_workers -= 1;
                return None;
            }
            if let Some(mut arrival) = door.take_next(self.limits().max_prelogin_per_ip) {
                door.idle_workers -= 1;
                arrival.place.before_login = true;
                return Some(arrival);
            }
            door = self
                .change
                .wait(door)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes room for whoever waits at the door, until the program stops. Runs on a thread of its own.
    pub fn watch(&self) {
        let mut door = self.lock();
        while !door.stopping {
            let per_address = self.limits().max_prelogin_per_ip;
            if door.queue.is_empty() && !door.is_exceeded(per_address) {
                door = self
                    .crowd
                    .wait(door)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            door.make_room(per_address);
            let late = door.take_late();
            if !late.is_empty() {
                // Outside the lock: giving a place back takes it.
                drop(door);
                drop(late);
                door = self.lock();
                continue;
            }
            let (woken, _) = self
                .crowd
                .wait_timeout(door, LOOK)
                .unwrap_or_else(PoisonError::into_inner);
            door = woken;
        }
    }

    /// Lets nobody in any more, and everybody before their login go.
    pub fn stop(&self) {
        let mut door = self.lock();
        door.stopping = true;
        let queue = std::mem::take(&mut door.queue);
        for inside in door.inside.values() {
            inside.presence.dismiss();
        }
        self.change.notify_all();
        self.crowd.notify_all();
        drop(door);
        drop(queue);
    }

    /// Sessions from accept to close.
    pub fn sessions(&self) -> usize {
        self.lock().sessions
    }

    /// Waits until no session is left, or until `deadline`; whether none is.
    pub fn wait_empty(&self, deadline: Instant) -> bool {
        let mut door = self.lock();
        while door.sessions > 0 {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return false;
            };
            let waited = self.end.wait_timeout(door, left);
            door = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// One session less may let one connection in.
    fn wake_worker(&self, door: &Door) {
        if !door.queue.is_empty() {
            self.change.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Door> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Door {
    /// The newest connection whose address may have another session.
    fn take_next(&mut self, per_address: usize) -> Option<Arrival> {
        let may_enter = |arrival: &Arrival| self.count(arrival.peer.limit_key()) < per_address;
        let at = self.queue.iter().rposition(may_enter)?;
        let arrival = self.queue.remove(at)?;
        let key = arrival.peer.limit_key();
        *self.counts.entry(key).or_default() += 1;
        let inside = Inside {
            key,
            presence: Arc::clone(arrival.place.presence()),
            evicted: false,
        };
        arrival.place.presence().begin_wait();
        self.inside.insert(arrival.place.id, inside);
        Some(arrival)
    }

    /// Whether an address has more sessions than it may have, as happens when a PROXY header tells
    /// whose a session is.
    fn is_exceeded(&self, per_address: usize) -> bool {
        self.counts.values().any(|&count| count > per_address)
    }

    /// Connections whose `timeout` is over while they wait.
    fn take_late(&mut self) -> Vec<Arrival> {
        let is_late =
            |arrival: &Arrival| arrival.accepted.elapsed() >= arrival.service.conf.timeout;
        let mut late = Vec::new();
        while let Some(at) = self.queue.iter().position(is_late) {
            late.extend(self.queue.remove(at));
        }
        late
    }

    fn count(&self, key: LimitKey) -> usize {
        self.counts.get(&key).copied().unwrap_or_default()
    }

    /// The longest-waiting connection of the address with most of them in the queue.
    fn longest_queued(&mut self) -> Option<Arrival> {
        let mut counts = HashMap::<LimitKey, usize>::new();
        for arrival in &self.queue {
            *counts.entry(arrival.peer.limit_key()).or_default() += 1;
        }
        let most = counts.values().copied().max()?;
        let at = self
            .queue
            .iter()
            .position(|arrival| counts.get(&arrival.peer.limit_key()) == Some(&most))?;
        self.queue.remove(at)
    }

    /// Evicts as many sessions as there are connections that wait in vain.
    fn make_room(&mut self, per_address: usize) {
        let exceeded = self
            .counts
            .iter()
            .filter(|(_, count)| **count > per_address);
        for key in exceeded.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.evict(Instant::now(), Some(key));
        }
        let mut wants = Vec::new();
        for arrival in self.queue.iter().rev() {
            let key = arrival.peer.limit_key();
            // Addresses that have all their sessions make room among themselves.
            let own = (self.count(key) >= per_address).then_some(key);
            if own.is_some() || self.idle_workers == 0 {
                wants.push((arrival.accepted, own));
            }
        }
        let mut leaving: Vec<_> = self
            .inside
            .values()
            .filter(|i| i.evicted)
            .map(|i| i.key)
            .collect();
        // The newest first. Where it finds nobody to displace, an older one does not either.
        let mut in_vain = HashSet::new();
        for (accepted, own) in wants {
            let serves = |key: &LimitKey| own.is_none_or(|own| own == *key);
            if let Some(at) = leaving.iter().position(serves) {
                leaving.swap_remove(at);
            } else if !in_vain.contains(&own) && !self.evict(accepted, own) {
                in_vain.insert(own);
            }
        }
    }

    /// Evicts the session that has waited longest for its client, of one address or of the one with
    /// the most sessions that has any to give, for the sake of a connection accepted at `accepted`.
    fn evict(&mut self, accepted: Instant, address: Option<LimitKey>) -> bool {
        let counts = &self.counts;
        let chosen = self
            .inside
            .values_mut()
            .filter(|inside| !inside.evicted && address.is_none_or(|key| key == inside.key))
            .filter_map(|inside| Some((inside.presence.waited()?, inside)))
            .filter(
                |(waited, inside)| match inside.presence.accepted() <= accepted {
                    true => waited.total > GRACE,
                    false => waited.total.saturating_sub(waited.excused) > PATIENCE,
                },
            )
            .max_by_key(|(waited, inside)| (counts.get(&inside.key).copied(), waited.total));
        let Some((_, inside)) = chosen else {
            return false;
        };
        // If it has stopped waiting at this very moment, the next look finds another.
        inside.evicted = inside.presence.evict();
        true
    }

    fn remove_inside(&mut self, id: u64) {
        let Some(inside) = self.inside.remove(&id) else {
            return;
        };
        if let Some(count) = self.counts.get_mut(&inside.key) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&inside.key);
            }
        }
    }
}

/// A session's place, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    admission: Arc<Admission>,
    id: u64,
    presence: Arc<Presence>,
    before_login: bool,
}

impl Place {
    /// The session's number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// By what the session can be evicted before its login.
    pub fn presence(&self) -> &Arc<Presence> {
        &self.presence
    }

    /// The session turned out to be another address's (`set_real_ip_from`). It has its worker
    /// already: if that address has too many, one of them goes that waits for its client.
    pub fn moved_to(&self, address: Address) {
        let mut door = self.admission.lock();
        let key = address.limit_key();
        let Some(mut inside) = door.inside.remove(&self.id) else {
            return;
        };
        let before = std::mem::replace(&mut inside.key, key);
        door.inside.insert(self.id, inside);
        *door.counts.entry(key).or_default() += 1;
        if let Some(count) = door.counts.get_mut(&before) {
            *count -= 1;
            if *count == 0 {
                door.counts.remove(&before);
            }
        }
        if door.count(key) > self.admission.limits().max_prelogin_per_ip {
            self.admission.crowd.notify_one();
        }
        self.admission.wake_worker(&door);
    }

    /// The session is logged in: it needs no worker and counts for its address no more.
    pub fn logged_in(&mut self) {
        self.before_login = false;
        let mut door = self.admission.lock();
        door.remove_inside(self.id);
        self.admission.wake_worker(&door);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut door = self.admission.lock();
        if self.before_login {
            door.remove_inside(self.id);
        }
        door.sessions = door.sessions.saturating_sub(1);
        self.admission.wake_worker(&door);
        if door.stopping {
            self.admission.end.notify_all();
        }
    }
}
