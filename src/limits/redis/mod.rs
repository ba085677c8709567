//! A store that several nodes share, in Redis or Valkey (`limits_store`). What happens there stands in
//! `scripts`, what goes over the wire in `conn`; who uses it, and goes on alone without it, is `shared`.
//!
//! Workers ask over a few connections, each question within `CALL`. One that is not answered in time ends the
//! use of the store for all of them at once, and the thread of `upkeep` alone connects, resolves names and logs
//! in, until it is back. So a store that stands still costs a handful of workers one question's time.

mod answer;
mod bans;
mod conn;
mod scripts;
mod upkeep;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use redis::{RedisError, RedisResult};

use self::conn::{StoreConn, Way, in_words};
use self::scripts::{Scripts, failures_key, session_keys};
pub(crate) use self::upkeep::Surroundings;
use self::upkeep::Upkeep;
use super::penalty::LEAK;
use super::store::{Begun, FailuresOf, SessionLimits, StoreError, UserSession};
use crate::config::{self, StoreUrl};
use crate::log::{Log, Seldom, Severity};
use crate::net::resolve::Dns;
use crate::system::threads::spawn;
use crate::tls::{ClientDirectives, ClientSettings, Connector};

/// How long a worker waits for a connection that is free.
const WAIT: Duration = Duration::from_millis(50);

/// How long a question of a worker may take, the scripts' first use included.
const CALL: Duration = Duration::from_millis(75);

/// Connections for workers.
const CONNECTIONS: usize = 4;

/// A session that its node does not renew is counted for so long.
const LEASE: Duration = Duration::from_secs(60);

/// Sessions that have ended and of which the store was not told yet. What is beyond that ends with its lease.
const ENDED: usize = 65_536;

/// A store that is reached, or is to be.
pub(super) struct Link {
    /// What it is called in the log.
    name: String,
    /// What this node is called there.
    node: String,
    pool: Mutex<Pool>,
    freed: Condvar,
    scripts: Scripts,
    to_upkeep: Sender<Told>,
    log: Mutex<Log>,
    refusals: Seldom,
    /// The thread of `upkeep` is to end, whether it has been told or not.
    ends: AtomicBool,
}

/// Connections for workers; there are none while the store is gone.
#[derive(Debug, Default)]
struct Pool {
    is_up: bool,
    /// How often it was lost: what a connection from before comes to says nothing about now.
    times_lost: u64,
    free: Vec<StoreConn>,
}

/// What the thread of `upkeep` is told.
enum Told {
    /// A session has ended.
    Ended(UserSession),
    /// The store is gone.
    Lost,
    /// It is to end, once the store knows of all sessions that have ended.
    Finish(Sender<()>),
}

/// What is needed to use a store; nobody has been asked yet.
pub(crate) struct Prepared {
    way: Way,
    certificate: Option<PathBuf>,
    log: Log,
}

impl Prepared {
    /// The store of a configuration, if it names one.
    ///
    /// # Errors
    /// For people: certificates cannot be read.
    pub(crate) fn new(conf: &config::Process, log: &Log) -> Result<Option<Prepared>, String> {
        let Some(url) = conf.limits_store.clone() else {
            return Ok(None);
        };
        Ok(Some(Prepared {
            way: way(conf, url)?,
            certificate: conf.limits_store_trusted_certificate.clone(),
            log: log.clone(),
        }))
    }

    /// Whose certificates are trusted there, if not those of the system.
    pub(super) fn certificate(&self) -> Option<&Path> {
        self.certificate.as_deref()
    }

    /// Which one it is.
    pub(super) fn url(&self) -> &StoreUrl {
        &self.way.url
    }
}

/// Connects to the store of a configuration and logs in there, if it names one; how it is called.
///
/// # Errors
/// For people, with how it is called: it cannot be used.
pub(crate) fn reach(
    conf: &config::Process,
    limit: Duration,
) -> Option<Result<String, (String, String)>> {
    let url = conf.limits_store.clone()?;
    let name = url.to_string();
    let reached = way(conf, url).and_then(|way| way.connect(limit, conn::SHORT));
    Some(match reached {
        Ok(_) => Ok(name),
        Err(reason) => Err((name, reason)),
    })
}

fn way(conf: &config::Process, url: StoreUrl) -> Result<Way, String> {
    let tls = match url.tls {
        false => None,
        true => Some(connector(conf)?),
    };
    let dns = Dns::new(None)?;
    Ok(Way { url, dns, tls })
}

fn connector(conf: &config::Process) -> Result<Connector, String> {
    let settings = ClientSettings {
        directives: &ClientDirectives::LIMITS_STORE,
        proxy_ssl_trusted_certificate: conf.limits_store_trusted_certificate.clone(),
        ..ClientSettings::default()
    };
    let built = Connector::new(settings).map(|(connector, _)| connector);
    built.map_err(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        problems.join("; ")
    })
}

/// A name that no other node has.
pub(super) fn random_name() -> String {
    let number = getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()));
    format!("{number:016x}")
}

impl Link {
    /// Begins to use a store; whether it is there shows itself later.
    ///
    /// # Errors
    /// The system starts no more threads.
    pub(super) fn begin(
        prepared: Prepared,
        node: &str,
        surroundings: Surroundings,
    ) -> std::io::Result<Arc<Link>> {
        let (to_upkeep, told) = bounded(ENDED);
        let link = Arc::new(Link {
            name: prepared.way.url.to_string(),
            node: node.to_owned(),
            pool: Mutex::default(),
            freed: Condvar::new(),
            scripts: Scripts::new(),
            to_upkeep,
            log: Mutex::new(prepared.log),
            refusals: Seldom::new(),
            ends: AtomicBool::new(false),
        });
        let upkeep = Upkeep::new(Arc::clone(&link), prepared.way, surroundings);
        spawn("limits_store", move || upkeep.run(&told))?;
        Ok(link)
    }

    /// Where lines go from now on.
    pub(super) fn set_log(&self, log: &Log) {
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = log.clone();
    }

    /// What it is called, without secrets.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is in use.
    pub(super) fn is_up(&self) -> bool {
        self.pool().is_up
    }

    /// The count of failures, with so many more.
    ///
    /// # Errors
    /// The store cannot be asked.
    pub(super) fn failures(
        &self,
        of: FailuresOf<'_>,
        most: u32,
        more: u32,
    ) -> Result<u32, StoreError> {
        let key = failures_key(of);
        let count: u32 = self.ask(|conn, scripts| {
            let mut script = scripts.failures.key(key);
            let leak = u64::try_from(LEAK.as_millis()).unwrap_or(u64::MAX);
            script.arg(leak).arg(most).arg(more).invoke(conn)
        })?;
        Ok(count.min(most))
    }

    /// Counts a session in, unless a limit is reached.
    ///
    /// # Errors
    /// The store cannot be asked; then it may have been counted nevertheless.
    pub(super) fn begin_session(
        &self,
        session: &UserSession,
        limits: SessionLimits,
    ) -> Result<Begun, StoreError> {
        let [of_user, of_address] = session_keys(session);
        let most = |limit: Option<u32>| limit.map_or(-1, i64::from);
        let reached: u8 = self.ask(|conn, scripts| {
            let mut script = scripts.begin.key(of_user);
            script.key(of_address);
            script.arg(most(limits.of_user));
            script.arg(most(limits.of_user_and_address));
            script.arg(self.member(session)).arg(lease());
            script.invoke(conn)
        })?;
        Ok(match reached {
            1 => Begun::Reached("max_sessions_per_user"),
            2 => Begun::Reached("max_sessions_per_user_per_ip"),
            _ => Begun::Counted,
        })
    }

    /// Counts it out, in a moment.
    pub(super) fn end_session(&self, session: &UserSession) {
        if self.pool().is_up {
            // Without room its lease ends it.
            let _ = self.to_upkeep.try_send(Told::Ended(session.clone()));
        }
    }

    /// Ends the use of the store: it is told of the sessions that have ended, for so long at most.
    pub(super) fn finish(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let (done, is_done) = bounded(1);
        let sent = self.to_upkeep.send_deadline(Told::Finish(done), until);
        if sent.is_ok() {
            let _ = is_done.recv_deadline(until);
        }
        self.ends.store(true, Ordering::Relaxed);
    }

    /// What a session is called in the store.
    fn member(&self, session: &UserSession) -> String {
        format!("{}:{}", self.node, session.number)
    }

    fn ask<T>(
        &self,
        question: impl FnOnce(&mut StoreConn, &Scripts) -> RedisResult<T>,
    ) -> Result<T, StoreError> {
        let (mut conn, times_lost) = self.take()?;
        conn.limit(CALL);
        let answer = question(&mut conn, &self.scripts);
        match &answer {
            Err(error) if !conn.is_good() || is_of_store(error) => {
                self.lose(times_lost, &in_words(error));
            }
            Err(error) => {
                self.give_back(conn, times_lost);
                self.complain(&in_words(error));
            }
            Ok(_) => self.give_back(conn, times_lost),
        }
        answer.map_err(|error| StoreError(in_words(&error)))
    }

    /// A connection that is free, and how often the store was lost before.
    fn take(&self) -> Result<(StoreConn, u64), StoreError> {
        let until = Instant::now() + WAIT;
        let mut pool = self.pool();
        loop {
            if !pool.is_up {
                return Err(StoreError("the store is gone".to_owned()));
            }
            if let Some(conn) = pool.free.pop() {
                return Ok((conn, pool.times_lost));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StoreError(
                    "all connections to the store are in use".to_owned(),
                ));
            }
            let waited = self.freed.wait_timeout(pool, left);
            pool = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn give_back(&self, conn: StoreConn, times_lost: u64) {
        let mut pool = self.pool();
        if pool.is_up && pool.times_lost == times_lost {
            pool.free.push(conn);
            drop(pool);
            self.freed.notify_one();
        }
    }

    /// The store is gone for everybody, unless it was lost and found meanwhile.
    fn lose(&self, times_lost: u64, reason: &str) {
        let mut pool = self.pool();
        if !pool.is_up || pool.times_lost != times_lost {
            return;
        }
        pool.is_up = false;
        pool.times_lost += 1;
        pool.free.clear();
        drop(pool);
        self.freed.notify_all();
        self.say(
            Severity::Warn,
            &format!("{reason}; this node counts alone until it is back"),
        );
        let _ = self.to_upkeep.try_send(Told::Lost);
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer that is of no use, though the store is there: a key of another type, say.
    fn complain(&self, reason: &str) {
        if let Some(before) = self.refusals.allow() {
            let text = format!("{reason} ({before} more since the last such line)");
            self.say(Severity::Warn, &text);
        }
    }

    fn say(&self, severity: Severity, text: &str) {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let text = format!("limits_store {}: {text}", self.name);
        log.write(severity, file!(), &text, None, None);
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.name)
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prepared({})", self.way.url)
    }
}

/// Whether an answer is about the store as a whole, and not about one key or what came of it.
fn is_of_store(error: &RedisError) -> bool {
    error.code().is_some_and(|code| code != "WRONGTYPE")
}

fn lease() -> u64 {
    u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX)
}
