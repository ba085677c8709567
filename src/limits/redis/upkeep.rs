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

#[cfg(test)]
mod tests {
    use std::io::{self, BufRead, BufReader, Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::path::Path;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicUsize};

    use super::super::{Prepared, Scripts};
    use super::*;
    use crate::log::{Log, Seldom, TextLayout};
    use crate::net::address::LimitKey;
    use crate::protocol::Protocol;

    /// A store that is content with every question, and counts its connections.
    fn content_store() -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                counted.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || answer_all(&stream));
            }
        });
        (address, connections)
    }

    /// Ends with an error when the other side has closed.
    fn answer_all(mut stream: &TcpStream) -> io::Result<()> {
        let mut questions = BufReader::new(stream);
        loop {
            let words = number_behind(&mut questions)?;
            let mut question = Vec::new();
            for _ in 0..words {
                let mut word = vec![0; number_behind(&mut questions)? + 2];
                questions.read_exact(&mut word)?;
                question.push(word);
            }
            let answer: &[u8] = match question.first().map_or(&b""[..], |word| &word[..]) {
                b"PING\r\n" => b"+PONG\r\n",
                b"SET\r\n" => b"+OK\r\n",
                // Epoch and version, or a list without a range that anybody could ban.
                b"EVALSHA\r\n" | b"TIME\r\n" => b"*2\r\n$1\r\n7\r\n$1\r\n0\r\n",
                _ => b":1\r\n",
            };
            stream.write_all(answer)?;
        }
    }

    /// The number of the next line, behind its type.
    fn number_behind(questions: &mut impl BufRead) -> io::Result<usize> {
        let mut line = String::new();
        questions.read_line(&mut line)?;
        let number = line
            .trim_end()
            .get(1..)
            .and_then(|digits| digits.parse().ok());
        number.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// The upkeep of such a store, which is in use. What workers tell it goes nowhere.
    fn in_use(store: SocketAddr) -> Upkeep {
        let ini = format!(
            "[postern]\nlimits_store = redis://{store}\n[server imap]\nlisten = 127.0.0.1:143\n\
             auth_http = 127.0.0.1:9\n"
        );
        let config = crate::config::parse(&ini, Path::new("store.ini")).expect("a configuration");
        let log = Log::open_process(&[], &[], TextLayout::Angie).expect("standard error");
        let prepared = Prepared::new(&config.process, &log).expect("no certificates");
        let prepared = prepared.expect("a store is named");
        let (to_upkeep, _) = crossbeam_channel::bounded(0);
        let link = Link {
            name: prepared.way.url.to_string(),
            node: "node".to_owned(),
            pool: Mutex::default(),
            freed: std::sync::Condvar::new(),
            scripts: Scripts::new(),
            to_upkeep,
            log: Mutex::new(log),
            refusals: Seldom::new(),
            ends: AtomicBool::new(false),
        };
        let surroundings = Surroundings {
            own: Arc::default(),
            blocklist: Arc::default(),
            banned: Box::new(|_| {}),
        };
        let mut upkeep = Upkeep::new(Arc::new(link), prepared.way, surroundings);
        upkeep.look();
        assert!(upkeep.link.is_up());
        upkeep
    }

    #[test]
    fn a_loss_of_which_no_word_came_is_found_by_looking() {
        let (store, _) = content_store();
        let mut upkeep = in_use(store);
        // A worker has waited in vain; for this thread the store is as it was.
        upkeep.link.lose(0, "no answer in time");
        assert!(!upkeep.link.is_up());
        upkeep.look();
        assert!(upkeep.up_since.is_none());
        upkeep.look();
        assert!(upkeep.link.is_up());
    }

    #[test]
    fn the_connection_stays_whether_sessions_have_ended_or_not() {
        let (store, connections) = content_store();
        let mut upkeep = in_use(store);
        let session = UserSession {
            protocol: Protocol::Imap,
            user: b"anna".to_vec(),
            address: LimitKey::Unix,
            number: 7,
        };
        // Word of a loss that is over long ago, and a session that has ended.
        for told in [Told::Lost, Told::Ended(session)] {
            upkeep.take(told, &mut None);
            upkeep.forget_ended();
            upkeep.look();
            assert!(upkeep.link.is_up() && upkeep.up_since.is_some());
        }
        assert_eq!(connections.load(Ordering::SeqCst), 1 + CONNECTIONS);
    }
}
