//! Deadlines hold while nobody holds a thread: those of a relay, of a session before its login, of a
//! reload, and of the end of the process with thousands that sleep.

use std::io::Read;
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::line_client::LineClient;
use crate::common::wait::{PATIENCE, until, until_true};
use crate::legs::{End, Leg, Stage};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;

/// What happens without any waiting.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A backend that holds its connections, so that the test may play with them.
fn held() -> (impl Fn(End, &str) + Send + Sync, mpsc::Receiver<End>) {
    let (give, take) = mpsc::channel();
    let play = move |end: End, _: &str| {
        // A test that has ended takes nothing more.
        let _ = give.send(end);
    };
    (play, take)
}

/// A session whose relay sleeps, with both its ends.
fn asleep(leg: Leg, process: &str, more: &str) -> (Stage, End, End) {
    let (play, backends) = held();
    let stage = Stage::start((leg, leg), process, more, play);
    let client = stage.log_in("alice");
    let backend = backends.recv_timeout(PATIENCE).expect("it is dialled");
    stage.wait_until_asleep(1);
    (stage, client, backend)
}

/// Insists that this much time has passed since then, and not a second more than the other.
fn expect_time(what: &str, since: Instant, from: f64, to: f64) {
    let took = since.elapsed().as_secs_f64();
    assert!((from..=to).contains(&took), "{what}: {took} seconds");
}

fn expect_reason(stage: &Stage, reason: &str) {
    let line = until("a closing line", AT_ONCE, || {
        stage.postern().lines_with("session closed").pop()
    });
    assert!(line.contains(reason), "{line}");
}

#[test]
fn a_sleeping_relay_ends_at_proxy_timeout() {
    for leg in Leg::ALL {
        let more = "proxy_timeout = 3s\nhibernate_timeout = 1s\n";
        let began = Instant::now();
        let (stage, client, backend) = asleep(leg, "", more);
        client.expect_end();
        expect_time("the end", began, 2.5, 5.0);
        backend.expect_end();
        expect_reason(&stage, "reason=\"silent\"");
    }
}

#[test]
fn a_byte_that_wakes_a_relay_restarts_proxy_timeout() {
    for leg in Leg::ALL {
        let more = "proxy_timeout = 2s\nhibernate_timeout = 300ms\n";
        let (_stage, client, backend) = asleep(leg, "", more);
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(1200));
            client.send("still here");
            backend.expect("still here");
        }
        let began = Instant::now();
        client.expect_end();
        expect_time("the end", began, 1.5, 4.0);
    }
}

#[test]
fn after_a_half_close_the_other_direction_of_a_sleeping_relay_may_be_silent_for_timeout() {
    for leg in Leg::ALL {
        for client_ends in [true, false] {
            let more = "timeout = 2s\nhibernate_timeout = 300ms\n";
            let (stage, client, backend) = asleep(leg, "", more);
            let (ends, silent) = match client_ends {
                true => (client, backend),
                false => (backend, client),
            };
            let began = Instant::now();
            ends.half_close().expect("it is open");
            silent.expect_end();
            stage.wait_until_asleep(1);
            expect_time("asleep", began, 0.0, 1.5);
            ends.expect_end();
            expect_time("the end", began, 1.5, 4.0);
            expect_reason(
                &stage,
                if client_ends {
                    "client closed"
                } else {
                    "backend closed"
                },
            );
        }
    }
}

#[test]
fn a_half_close_after_a_silence_longer_than_timeout_still_gets_its_answer() {
    for leg in Leg::ALL {
        for client_ends in [true, false] {
            let more = "timeout = 1s\nhibernate_timeout = 200ms\n";
            let (_stage, client, backend) = asleep(leg, "", more);
            let (ends, answers) = match client_ends {
                true => (client, backend),
                false => (backend, client),
            };
            thread::sleep(Duration::from_millis(1500));
            ends.half_close().expect("it is open");
            answers.expect_end();
            thread::sleep(Duration::from_millis(300));
            answers.send("the answer");
            ends.expect("the answer");
            answers.half_close().expect("it is open");
            ends.expect_end();
        }
    }
}

#[test]
fn reload_timeout_ends_a_sleeping_relay_and_spares_a_newer_one() {
    for leg in Leg::ALL {
        let (play, backends) = held();
        let process = "reload_timeout = 1s";
        let stage = Stage::start((leg, leg), process, "hibernate_timeout = 200ms\n", play);
        let old = stage.log_in("alice");
        let old_backend = backends.recv_timeout(PATIENCE).expect("it is dialled");
        stage.wait_until_asleep(1);
        let began = Instant::now();
        stage.postern().signal(Signal::SIGHUP);
        stage
            .postern()
            .wait_for_log("the configuration was read anew");
        let new = stage.log_in("bob");
        let new_backend = backends.recv_timeout(PATIENCE).expect("it is dialled");
        old.expect_end();
        expect_time("the end", began, 0.8, 3.0);
        old_backend.expect_end();
        expect_reason(&stage, "reload timeout");
        new.send("still here");
        new_backend.expect("still here");
    }
}

#[test]
fn a_sleeping_session_before_login_is_closed_at_timeout_without_a_line() {
    for leg in Leg::ALL {
        let stage = Stage::start((leg, leg), "", "timeout = 2s\n", held().0);
        let began = Instant::now();
        let greeted = stage.connect();
        greeted.expect("* OK IMAP4 ready");
        let halfway = stage.connect();
        halfway.expect("* OK IMAP4 ready");
        halfway.write(b"a LOGIN {5}\r\n").expect("it is open");
        assert!(halfway.line().expect("an answer").starts_with('+'));
        until_true("both sleep", AT_ONCE, || {
            stage.postern().count("session sleeps") >= 2
        });
        greeted.expect_end();
        halfway.expect_end();
        expect_time("the end", began, 1.5, 3.5);
        until_true("two closing lines", AT_ONCE, || {
            stage.postern().count("session closed") == 2
        });
        assert_eq!(stage.postern().count("client timed out"), 2);
    }
}

#[test]
fn a_session_that_sleeps_in_its_handshake_is_closed_at_timeout() {
    for leg in [Leg::Rustls, Leg::Native] {
        let stage = Stage::start((leg, leg), "", "timeout = 2s\n", held().0);
        let began = Instant::now();
        let tls_port = stage.postern().addresses("imap")[1];
        let mut silent = LineClient::connect(tls_port);
        let mut halfway = LineClient::connect(tls_port);
        halfway.send_raw(b"\x16\x03\x01\x02\x00\x01\x00");
        until_true("both sleep", AT_ONCE, || {
            stage.postern().count("session sleeps") >= 2
        });
        silent.rest();
        halfway.rest();
        expect_time("the end", began, 1.5, 3.5);
    }
}

/// Sessions that sleep before their login.
const BEFORE_LOGIN: usize = 3796;

/// Sessions whose relays sleep: 4096 in all.
const RELAYED: usize = 300;

/// As many descriptors as the sessions need at the test's ends, and some aside.
const DESCRIPTORS: u64 = 4096 + 2 * RELAYED as u64 + 512;

/// A proxy with 4096 sleepers.
struct Crowd {
    stage: Stage,
    before_login: Vec<TcpStream>,
    relayed: Vec<(End, End)>,
}

fn crowd(leg: Leg) -> Crowd {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("every process has limits");
    assert!(
        most >= DESCRIPTORS,
        "this test needs {DESCRIPTORS} open files, but the hard limit is {most}: raise it"
    );
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("it may be raised so far");
    let (play, backends) = held();
    let process = "max_sessions = 4200\nmax_prelogin_per_ip = off\nshutdown_timeout = 2s";
    let more = "timeout = 5m\nhibernate_timeout = 500ms\n";
    let stage = Stage::start((leg, leg), process, more, play);
    let relayed: Vec<(End, End)> = (0..RELAYED)
        .map(|_| {
            let client = stage.log_in("alice");
            let backend = backends.recv_timeout(PATIENCE).expect("it is dialled");
            (client, backend)
        })
        .collect();
    let plain_port = stage.postern().addresses("imap")[0];
    let before_login: Vec<TcpStream> = (0..BEFORE_LOGIN)
        .map(|_| LineClient::greeted(plain_port).0.stream())
        .collect();
    until_true("all of them sleep", Duration::from_secs(60), || {
        let postern = stage.postern();
        let asleep = postern.count("session sleeps") - postern.count("session wakes");
        asleep >= BEFORE_LOGIN
    });
    stage.wait_until_asleep(RELAYED);
    Crowd {
        stage,
        before_login,
        relayed,
    }
}

impl Crowd {
    /// Everybody before login hears the goodbye, or at least the end; both sides of each relay the end.
    fn expect_goodbyes(before_login: Vec<TcpStream>, relayed: &[(End, End)]) {
        for mut stream in before_login {
            stream
                .set_read_timeout(Some(PATIENCE))
                .expect("the limit is not zero");
            let mut said = String::new();
            let read = stream.read_to_string(&mut said);
            assert!(
                read.is_ok() && said.starts_with("* BYE"),
                "{read:?}: {said:?}"
            );
        }
        for (client, backend) in relayed {
            client.expect_end();
            backend.expect_end();
        }
    }

    /// Ends it with this signal: how long that takes.
    fn end(mut self, signal: Signal) -> Duration {
        let (postern, _auth) = self.stage.proxies.pop().expect("there is one");
        let began = Instant::now();
        postern.signal(signal);
        let (status, log) = postern.wait_for_end(Duration::from_secs(20));
        let took = began.elapsed();
        assert!(status.success(), "{status}");
        assert!(log.contains("sessions cut off: 0"), "some were cut off");
        assert_eq!(
            log.matches("session closed").count(),
            BEFORE_LOGIN + RELAYED
        );
        Crowd::expect_goodbyes(self.before_login, &self.relayed);
        took
    }
}

#[test]
fn a_stop_with_4096_sleepers_takes_two_seconds_at_most() {
    let took = crowd(Leg::Plain).end(Signal::SIGTERM);
    assert!(took <= Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_stop_with_4096_sleepers_takes_two_seconds_at_most_where_relays_are_over_tls() {
    let took = crowd(Leg::Rustls).end(Signal::SIGTERM);
    assert!(took <= Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_drain_with_4096_sleepers_ends_after_shutdown_timeout() {
    let took = crowd(Leg::Plain).end(Signal::SIGQUIT);
    let took = took.as_secs_f64();
    // shutdown_timeout, and then as long as a stop.
    assert!((1.9..=4.0).contains(&took), "{took} seconds");
}
