//! The thread that keeps a store in use: connects, renews what the store would forget, tells it of sessions
//! that have ended, shares bans, and finds it again when it was gone. Nobody waits for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use ipnet::IpNet;
use redis::RedisResult;

use super::super::shared::Own;
use super::super::store::UserSession;
use super::bans::BanSync;
use super::conn::{LONG, SHORT, StoreConn, Way, in_words};
use super::scripts::{node_key, session_keys};
use super::{CONNECTIONS, Link, Told, lease};
use crate::blocklist::Blocklist;
use crate::log::Severity;

/// How often the store is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How often the leases of sessions are renewed.
const RENEW: Duration = Duration::from_secs(15);

/// How long connecting may take, name, TLS and login included.
const CONNECT: Duration = Duration::from_secs(2);

/// How long a question of this thread may take.
const QUESTION: Duration = Duration::from_millis(500);

/// How long until a store is looked for that was lost, and at most where it is lost again and again.
const SOON: Duration = Duration::from_millis(100);
const LATER: Duration = Duration::from_secs(8);

/// A store that was in use for so long was not lost again and again.
const LONG_ENOUGH: Duration = Duration::from_secs(10);

/// Sessions of one question.
const AT_A_TIME: usize = 256;

/// Is told of ranges that are banned.
pub(crate) type ToldOfBans = dyn Fn(&[IpNet]) + Send;

/// What else of the process a store has to do with.
pub(crate) struct Surroundings {
    /// The sessions of this node.
    pub own: Arc<Own>,
    /// Who is kept out.
    pub blocklist: Arc<Blocklist>,
    /// Is told of the ranges that other nodes have banned since it was told last.
    pub banned: Box<ToldOfBans>,
}

/// The thread's own.
pub(super) struct Upkeep {
    link: Arc<Link>,
    way: Way,
    surroundings: Surroundings,
    conn: Option<StoreConn>,
    bans: BanSync,
    /// Sessions that have ended and that the store still counts.
    ended: Vec<UserSession>,
    /// When the store is looked at, or looked for, next.
    look_at: Instant,
    renew_at: Instant,
    /// Since when it is in use.
    up_since: Option<Instant>,
    pause: Duration,
    /// It was told that the store is not there.
    is_told: bool,
}

impl Upkeep {
    /// Nobody has been asked yet.
    pub(super) fn new(link: Arc<Link>, way: Way, surroundings: Surroundings) -> Self {
        let now = Instant::now();
        surroundings.blocklist.share();
        Self {
            link,
            way,
            surroundings,
            conn: None,
            bans: BanSync::default(),
            ended: Vec::new(),
            look_at: now,
            renew_at: now,
            up_since: None,
            pause: SOON,
            is_told: false,
        }
    }

    /// Goes on until it is told to finish.
    pub(super) fn run(mut self, told: &Receiver<Told>) {
        while !self.link.ends.load(Ordering::Relaxed) {
            match told.recv_deadline(self.look_at) {
                Ok(first) => {
                    let more = told.try_iter().take(AT_A_TIME);
                    let mut finish = None;
                    for told in std::iter::once(first).chain(more) {
                        self.take(told, &mut finish);
                    }
                    self.forget_ended();
                    if let Some(done) = finish {
                        let _ = done.send(());
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, told: Told, finish: &mut Option<Sender<()>>) {
        match told {
            Told::Ended(session) => self.ended.push(session),
            // One that is late is about a time before.
            Told::Lost if self.link.is_up() => {}
            Told::Lost => self.note_loss(),
            Told::Finish(done) => *finish = Some(done),
        }
    }

    /// The next attempt comes soon, unless this store is lost again and again.
    fn note_loss(&mut self) {
        self.conn = None;
        self.is_told = true;
        let lasted = self.up_since.take().map(|since| since.elapsed());
        self.pause = match lasted {
            Some(lasted) if lasted >= LONG_ENOUGH => SOON,
            Some(_) => (self.pause * 2).min(LATER),
            None => self.pause,
        };
        self.look_at = Instant::now() + self.pause;
    }

    fn look(&mut self) {
        let times_lost = self.link.pool().times_lost;
        match self.up_since {
            // A worker has lost it, and its word did not come through.
            Some(_) if !self.link.pool().is_up => self.note_loss(),
            Some(_) => {
                self.look_at = Instant::now() + LOOK;
                if let Err(reason) = self.keep() {
                    self.link.lose(times_lost, &reason);
                    self.note_loss();
                }
            }
            None => {
                let found = self.find();
                self.look_at = Instant::now() + LOOK;
                match found {
                    Ok(()) => {
                        let how = if self.is_told { "is back" } else { "is in use" };
                        self.link.say(Severity::Notice, how);
                        self.is_told = false;
                    }
                    Err(reason) if !self.is_told => {
                        let text = format!("{reason}; this node counts alone until it is there");
                        self.link.say(Severity::Warn, &text);
                        self.is_told = true;
                    }
                    Err(_) => {}
                }
            }
        }
    }

    /// Connects, tells the store all that it may have forgotten, and lets workers use it.
    fn find(&mut self) -> Result<(), String> {
        if let Some(tls) = &self.way.tls {
            tls.refresh()?;
        }
        self.conn = Some(self.way.connect(CONNECT, LONG)?);
        self.renew_at = Instant::now();
        self.ended.clear();
        self.keep()?;
        let connections = (0..CONNECTIONS).map(|_| self.way.connect(CONNECT, SHORT));
        let free = connections.collect::<Result<Vec<_>, String>>()?;
        self.up_since = Some(Instant::now());
        let mut pool = self.link.pool();
        pool.free = free;
        pool.is_up = true;
        Ok(())
    }

    /// What is due, on this thread's own connection.
    fn keep(&mut self) -> Result<(), String> {
        let Some(mut conn) = self.conn.take() else {
            return Err("the connection has ended".to_owned());
        };
        let kept = self.keep_over(&mut conn);
        kept.map_err(|error| in_words(&error))?;
        self.conn = Some(conn);
        Ok(())
    }

    fn keep_over(&mut self, conn: &mut StoreConn) -> RedisResult<()> {
        conn.limit(QUESTION);
        // A store that takes no writes is of no use.
        let mut sign = redis::cmd("SET");
        sign.arg(node_key(&self.link.node)).arg(1);
        sign.arg("PX").arg(lease()).exec(conn)?;
        let blocklist = &self.surroundings.blocklist;
        let banned = self.bans.sync(conn, &self.link.scripts, blocklist)?;
        if !banned.is_empty() {
            (self.surroundings.banned)(&banned);
        }
        if Instant::now() >= self.renew_at {
            self.renew(conn)?;
            self.renew_at = Instant::now() + RENEW;
        }
        Ok(())
    }

    /// Renews the leases of all sessions of this node, those included that the store has lost.
    fn renew(&self, conn: &mut StoreConn) -> RedisResult<()> {
        conn.limit(QUESTION);
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query(conn)?;
        let now = seconds.saturating_mul(1000).saturating_add(micros / 1000);
        let until = now.saturating_add(lease());
        let sessions = self.surroundings.own.all();
        for some in sessions.chunks(AT_A_TIME) {
            conn.limit(QUESTION);
            let mut questions = redis::pipe();
            for session in some {
                for key in session_keys(session) {
                    let member = self.link.member(session);
                    questions
                        .cmd("ZADD")
                        .arg(&key)
                        .arg(until)
                        .arg(member)
                        .ignore();
                    questions.cmd("PEXPIRE").arg(&key).arg(lease()).ignore();
                }
            }
            questions.exec(conn)?;
        }
        Ok(())
    }

    /// Tells the store of sessions that have ended. Those that it does not hear of end with their lease.
    fn forget_ended(&mut self) {
        let ended = std::mem::take(&mut self.ended);
        if ended.is_empty() {
            return;
        }
        let Some(mut conn) = self.conn.take() else {
            return;
        };
        let times_lost = self.link.pool().times_lost;
        conn.limit(QUESTION);
        let mut questions = redis::pipe();
        for session in &ended {
            for key in session_keys(session) {
                questions
                    .cmd("ZREM")
                    .arg(key)
                    .arg(self.link.member(session))
                    .ignore();
            }
        }
        match questions.exec(&mut conn) {
            Ok(()) => self.conn = Some(conn),
            Err(error) => {
                self.link.lose(times_lost, &in_words(&error));
                self.note_loss();
            }
        }
    }
}
