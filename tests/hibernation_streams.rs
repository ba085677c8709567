//! Sessions that sleep and wake all the time while both sides speak at random moments: both streams
//! arrive as they were sent, whatever ends them, and nothing of a session is left behind.

use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::common::postern::Postern;
use crate::common::wait::{PATIENCE, until_at_most, until_true};
use crate::legs::{End, Leg, Stage};
use nix::sys::signal::Signal;

/// How long a direction may be silent here before something must be wrong.
const HUNG: Duration = Duration::from_secs(20);

/// How often a listener looks whether it is to give up.
const LOOK: Duration = Duration::from_millis(50);

/// Numbers that look random and are the same for the same seed (splitmix64).
#[derive(Clone)]
struct Random(u64);

impl Random {
    /// For one stream of one session.
    fn of(seed: u64, session: usize, stream: u64) -> Random {
        let mut random = Random(seed ^ (session as u64) << 8 ^ stream);
        Random(random.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// From 1 byte to 64 KiB, small ones as often as large ones.
    fn size(&mut self) -> usize {
        let most = 1 << self.below(17);
        usize::try_from(1 + self.below(most)).expect("it is small")
    }

    /// None, about `hibernate_timeout`, or longer.
    fn gap(&mut self) -> Duration {
        Duration::from_millis(match self.below(10) {
            0..3 => 0,
            3..7 => 5 + self.below(15),
            _ => 20 + self.below(60),
        })
    }
}

/// A seed of this run. To run it again, set POSTERN_SEED to the one in the failure's text.
fn seed() -> u64 {
    let given = std::env::var("POSTERN_SEED").ok();
    given.and_then(|text| text.parse().ok()).unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        u64::from(now.expect("the epoch is over").subsec_nanos())
    })
}

/// An endless stream in which every place can be told from its neighbours.
struct Stream {
    block: Arc<Vec<u8>>,
    at: usize,
}

/// A prime number of bytes is in step with nobody's buffers.
const BLOCK: usize = 262_147;

impl Stream {
    fn block(seed: u64) -> Arc<Vec<u8>> {
        let mut random = Random(seed);
        let bytes = (0..BLOCK).map(|_| random.next().to_le_bytes()[0]);
        Arc::new(bytes.collect())
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            let some = (count - taken.len()).min(BLOCK - self.at);
            taken.extend_from_slice(&self.block[self.at..self.at + some]);
            self.at = (self.at + some) % BLOCK;
        }
        taken
    }

    /// Whether this is what comes next.
    fn goes_on_with(&mut self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = rest.len().min(BLOCK - self.at);
            if rest[..count] != self.block[self.at..self.at + count] {
                return false;
            }
            self.at = (self.at + count) % BLOCK;
            rest = &rest[count..];
        }
        true
    }
}

/// What becomes of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// This side ends its stream, and the other one goes on for a while.
    Ends(Side, Duration),
    /// This side breaks the connection.
    Resets(Side, Duration),
    /// Somebody else ends it.
    GoesOn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Backend,
}

impl Side {
    fn other(self) -> Side {
        match self {
            Side::Client => Side::Backend,
            Side::Backend => Side::Client,
        }
    }

    fn stream(self) -> u64 {
        match self {
            Side::Client => 1,
            Side::Backend => 2,
        }
    }
}

/// What one side has to tell of a session.
#[derive(Debug, Clone)]
struct Report {
    session: usize,
    side: Side,
    /// How many bytes it has sent.
    sent: usize,
    /// How many it has got, if they were the right ones.
    heard: Result<usize, String>,
}

/// What both sides of all sessions know.
struct Play {
    seed: u64,
    block: Arc<Vec<u8>>,
    fate: fn(&mut Random) -> Fate,
    /// Sessions that would go on end now, in good order.
    is_over: AtomicBool,
    reports: Mutex<Vec<Report>>,
}

impl Play {
    fn new(fate: fn(&mut Random) -> Fate) -> Arc<Play> {
        let seed = seed();
        Arc::new(Play {
            seed,
            block: Stream::block(seed),
            fate,
            is_over: AtomicBool::new(false),
            reports: Mutex::default(),
        })
    }

    fn fate_of(&self, session: usize) -> Fate {
        (self.fate)(&mut Random::of(self.seed, session, 0))
    }

    /// The proxy, and the backend's side of all sessions.
    fn stage(self: &Arc<Play>, legs: (Leg, Leg), process: &str) -> Stage {
        let play = Arc::clone(self);
        Stage::start(
            legs,
            process,
            "hibernate_timeout = 10ms\n",
            move |end, user| {
                let session = user.trim_start_matches('s').parse();
                play.side(end, Side::Backend, session.expect("users are numbered"));
            },
        )
    }

    fn client(&self, stage: &Stage, session: usize) {
        let end = stage.log_in(&format!("s{session}"));
        self.side(end, Side::Client, session);
    }

    /// Both directions of one side of a session.
    fn side(&self, end: End, side: Side, session: usize) {
        let fate = self.fate_of(session);
        let began = Instant::now();
        end.wait_at_most(LOOK);
        let (has_ended, gives_up) = (AtomicBool::new(false), AtomicBool::new(false));
        let (sent, heard) = thread::scope(|scope| {
            let speaks = scope.spawn(|| {
                let is_done = || match fate {
                    Fate::Ends(who, after) if who == side => began.elapsed() >= after,
                    Fate::Resets(who, after) if who == side => began.elapsed() >= after,
                    Fate::GoesOn if self.is_over.load(Ordering::SeqCst) => true,
                    _ => has_ended.load(Ordering::SeqCst),
                };
                let sent = speak(
                    &end,
                    self.random(session, side),
                    self.stream(session, side),
                    is_done,
                );
                match fate {
                    Fate::Resets(who, _) if who == side => gives_up.store(true, Ordering::SeqCst),
                    // It may be gone.
                    _ => drop(end.half_close()),
                }
                sent
            });
            let heard = listen(&end, self.stream(session, side.other()), &gives_up);
            has_ended.store(true, Ordering::SeqCst);
            (speaks.join().expect("it does not panic"), heard)
        });
        match fate {
            Fate::Resets(who, _) if who == side => end.reset(),
            _ => drop(end),
        }
        self.reports.lock().expect("no holder panics").push(Report {
            session,
            side,
            sent,
            heard,
        });
    }

    fn random(&self, session: usize, side: Side) -> Random {
        Random::of(self.seed, session, 2 + side.stream())
    }

    fn stream(&self, session: usize, side: Side) -> Stream {
        let at = Random::of(self.seed, session, side.stream()).below(BLOCK as u64);
        Stream {
            block: Arc::clone(&self.block),
            at: usize::try_from(at).expect("it is small"),
        }
    }

    /// Insists that every session was reported from both sides, that everybody heard what the other
    /// side had said, and where the session was to end in good order all of it.
    fn judge(&self, sessions: usize, may_be_cut: impl Fn(Fate) -> bool) {
        until_true("both sides of each session", PATIENCE, || {
            self.reports.lock().expect("no holder panics").len() == 2 * sessions
        });
        let reports = self.reports.lock().expect("no holder panics").clone();
        let of = |session, side| {
            let is_it = |report: &&Report| report.session == session && report.side == side;
            reports.iter().find(is_it).expect("there is one of each")
        };
        for session in 0..sessions {
            let fate = self.fate_of(session);
            for side in [Side::Client, Side::Backend] {
                let (speaker, listener) = (of(session, side), of(session, side.other()));
                let what = format!("seed {}: {fate:?}, {speaker:?}, {listener:?}", self.seed);
                let heard = listener.heard.clone();
                let heard = heard.unwrap_or_else(|why| panic!("{why}; {what}"));
                assert!(heard <= speaker.sent, "{what}");
                assert!(heard == speaker.sent || may_be_cut(fate), "{what}");
            }
        }
    }
}

/// Says the stream in random pieces at random moments, until it is to end; how many bytes.
fn speak(end: &End, mut random: Random, mut stream: Stream, is_done: impl Fn() -> bool) -> usize {
    let mut sent = 0;
    while !is_done() {
        let piece = stream.take(random.size());
        // What fails may have gone out in part.
        sent += piece.len();
        if end.write(&piece).is_err() {
            break;
        }
        thread::sleep(random.gap());
    }
    sent
}

/// Hears the stream to its end, or until this side gives up; how many bytes.
fn listen(end: &End, mut stream: Stream, gives_up: &AtomicBool) -> Result<usize, String> {
    let mut buffer = vec![0; 65_536];
    let (mut heard, mut last) = (0, Instant::now());
    while !gives_up.load(Ordering::SeqCst) {
        match end.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) if stream.goes_on_with(&buffer[..count]) => {
                heard += count;
                last = Instant::now();
            }
            Ok(_) => return Err(format!("wrong bytes behind {heard}")),
            Err(error) if is_timeout(&error) && last.elapsed() < HUNG => {}
            Err(error) if is_timeout(&error) => return Err(format!("silence behind {heard}")),
            Err(error) => return Err(format!("{error} behind {heard}")),
        }
    }
    Ok(heard)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Threads and descriptors of the proxy when it has started everything that stays for good.
fn at_rest(stage: &Stage) -> (usize, usize) {
    let postern = stage.postern();
    postern.wait_for_log(": ready");
    stage.connect().expect("* OK IMAP4 ready");
    until_true("the first session ends", PATIENCE, || {
        postern.count("session closed") == 1
    });
    // The closing line comes a moment before the close.
    thread::sleep(Duration::from_millis(200));
    (postern.threads(), postern.descriptors())
}

/// Insists that the proxy has come back to where it was, with one closing line a session, and that of
/// the first one.
fn expect_nothing_left(postern: &Postern, before: (usize, usize), sessions: usize) {
    let sessions = sessions + 1;
    until_true("a closing line of each session", PATIENCE, || {
        postern.count("session closed") >= sessions
    });
    assert_eq!(postern.count("session closed"), sessions);
    until_at_most("descriptors", before.1, PATIENCE, || postern.descriptors());
    until_at_most("threads", before.0, PATIENCE, || postern.threads());
}

/// A thousand sleeps while both sides speak.
fn a_thousand_sleeps(legs: (Leg, Leg)) {
    const SESSIONS: usize = 16;
    const SLEEPS: usize = 1000;
    let play = Play::new(|_| Fate::GoesOn);
    let stage = play.stage(legs, "");
    let postern = stage.postern();
    let before = at_rest(&stage);
    thread::scope(|scope| {
        for session in 0..SESSIONS {
            let (play, stage) = (&play, &stage);
            scope.spawn(move || play.client(stage, session));
        }
        let end = Instant::now() + Duration::from_secs(60);
        while postern.count("relay sleeps") < SLEEPS && Instant::now() < end {
            thread::sleep(Duration::from_millis(50));
        }
        play.is_over.store(true, Ordering::SeqCst);
    });
    play.judge(SESSIONS, |_| false);
    let slept = postern.count("relay sleeps");
    assert!(slept >= SLEEPS, "they slept {slept} times only");
    expect_nothing_left(postern, before, SESSIONS);
}

#[test]
fn streams_from_plain_to_plain_are_equal_over_a_thousand_sleeps() {
    a_thousand_sleeps((Leg::Plain, Leg::Plain));
}

#[test]
fn streams_from_plain_to_rustls_are_equal_over_a_thousand_sleeps() {
    a_thousand_sleeps((Leg::Plain, Leg::Rustls));
}

#[test]
fn streams_from_plain_to_native_are_equal_over_a_thousand_sleeps() {
    a_thousand_sleeps((Leg::Plain, Leg::Native));
}

#[test]
fn streams_from_rustls_to_plain_are_equal_over_a_thousand_sleeps() {
    a_thousand_sleeps((Leg::Rustls, Leg::Plain));
}

#[test]
fn streams_from_rustls_to_rustls_are_equal_over_a_thousand_sleeps() {
    a_thousand_sleeps((Leg::Rustls, Leg::Rustls));
}

#[test]
fn streams_from_rustls_to_native_are_equal_over_a_thousand_sleeps() {
    a_thousand_sleeps((Leg::Rustls, Leg::Native));
}

#[test]
fn streams_from_native_to_plain_are_equal_over_a_thousand_sleeps() {
    a_thousand_sleeps((Leg::Native, Leg::Plain));
}

#[test]
fn streams_from_native_to_rustls_are_equal_over_a_thousand_sleeps() {
    a_thousand_sleeps((Leg::Native, Leg::Rustls));
}

#[test]
fn streams_from_native_to_native_are_equal_over_a_thousand_sleeps() {
    a_thousand_sleeps((Leg::Native, Leg::Native));
}

fn random_end(random: &mut Random) -> Fate {
    let after = Duration::from_millis(random.below(1000));
    let side = match random.below(2) {
        0 => Side::Client,
        _ => Side::Backend,
    };
    match random.below(3) {
        0 => Fate::Resets(side, after),
        _ => Fate::Ends(side, after),
    }
}

/// Sessions that one side ends or breaks at a random moment, while the configuration is read anew.
fn ends_and_resets(leg: Leg) {
    const AT_A_TIME: usize = 12;
    const SESSIONS: usize = 120;
    let play = Play::new(random_end);
    let stage = play.stage((leg, leg), "");
    let postern = stage.postern();
    let reloads = || postern.count("the configuration was read anew");
    postern.signal(Signal::SIGHUP);
    until_true("a reload", PATIENCE, || reloads() == 1);
    let before = at_rest(&stage);
    let next = AtomicUsize::new(0);
    let playing = AtomicUsize::new(AT_A_TIME);
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let session = next.fetch_add(1, Ordering::SeqCst);
                    if session >= SESSIONS {
                        break;
                    }
                    play.client(&stage, session);
                }
                playing.fetch_sub(1, Ordering::SeqCst);
            });
        }
        let mut random = Random(play.seed);
        while playing.load(Ordering::SeqCst) > 0 {
            thread::sleep(Duration::from_millis(50 + random.below(200)));
            postern.signal(Signal::SIGHUP);
        }
    });
    play.judge(SESSIONS, |fate| matches!(fate, Fate::Resets(..)));
    assert!(reloads() > 3, "{} reloads only", reloads());
    assert!(postern.count("relay sleeps") > SESSIONS);
    expect_nothing_left(postern, before, SESSIONS);
}

#[test]
fn ends_resets_and_reloads_at_random_moments_lose_and_leave_nothing_in_plain_text() {
    ends_and_resets(Leg::Plain);
}

#[test]
fn ends_resets_and_reloads_at_random_moments_lose_and_leave_nothing_over_rustls() {
    ends_and_resets(Leg::Rustls);
}

#[test]
fn ends_resets_and_reloads_at_random_moments_lose_and_leave_nothing_over_the_native_library() {
    ends_and_resets(Leg::Native);
}

/// Every second session ends by itself within a second.
fn half_of_them_end(random: &mut Random) -> Fate {
    match random.below(2) {
        0 => Fate::Ends(Side::Client, Duration::from_millis(400 + random.below(600))),
        _ => Fate::GoesOn,
    }
}

/// The process is told to end while sessions speak and sleep; both sides of each hear that it is over.
fn stopped_at_a_random_moment(leg: Leg, signal: Signal) {
    const SESSIONS: usize = 24;
    for round in 0..3 {
        let play = Play::new(half_of_them_end);
        let mut stage = play.stage((leg, leg), "shutdown_timeout = 2s");
        let wait = 300 + Random(play.seed).below(500);
        let (postern, _auth) = thread::scope(|scope| {
            for session in 0..SESSIONS {
                let end = stage.log_in(&format!("s{session}"));
                let play = &play;
                scope.spawn(move || play.side(end, Side::Client, session));
            }
            thread::sleep(Duration::from_millis(wait));
            let (postern, auth) = stage.proxies.pop().expect("there is one");
            assert!(postern.count("relay sleeps") > 0);
            postern.signal(signal);
            (postern, auth)
        });
        let (status, log) = postern.wait_for_end(Duration::from_secs(5));
        let what = format!("round {round}, seed {}, {status}\n{log}", play.seed);
        assert!(status.success(), "{what}");
        assert!(log.contains("sessions cut off: 0"), "{what}");
        assert_eq!(log.matches("session closed").count(), SESSIONS, "{what}");
        // Who was going to end before `shutdown_timeout` loses nothing by a QUIT.
        let is_cut = |fate| signal == Signal::SIGTERM || fate == Fate::GoesOn;
        play.judge(SESSIONS, is_cut);
    }
}

#[test]
fn a_stop_at_a_random_moment_ends_every_session_in_plain_text() {
    stopped_at_a_random_moment(Leg::Plain, Signal::SIGTERM);
}

#[test]
fn a_stop_at_a_random_moment_ends_every_session_over_rustls() {
    stopped_at_a_random_moment(Leg::Rustls, Signal::SIGTERM);
}

#[test]
fn a_stop_at_a_random_moment_ends_every_session_over_the_native_library() {
    stopped_at_a_random_moment(Leg::Native, Signal::SIGTERM);
}

#[test]
fn a_drain_at_a_random_moment_lets_sessions_end_in_plain_text() {
    stopped_at_a_random_moment(Leg::Plain, Signal::SIGQUIT);
}

#[test]
fn a_drain_at_a_random_moment_lets_sessions_end_over_rustls() {
    stopped_at_a_random_moment(Leg::Rustls, Signal::SIGQUIT);
}

#[test]
fn a_drain_at_a_random_moment_lets_sessions_end_over_the_native_library() {
    stopped_at_a_random_moment(Leg::Native, Signal::SIGQUIT);
}
