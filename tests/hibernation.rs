//! Relays that are silent hold no threads, and nothing is lost or late because of it: they wake for a
//! byte, an end and a reset, and do not sleep while something is under way.

use std::io;
use std::net::Shutdown;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::tls::Tls;
use crate::common::wait::{PATIENCE, until, until_at_most, until_true};
use crate::legs::{End, Leg, Stage};

/// What happens without any waiting.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Sends back what it gets, until that ends.
fn echoes(end: &End) -> io::Result<()> {
    let mut buffer = vec![0; 16_384];
    loop {
        match end.read(&mut buffer)? {
            0 => return end.half_close(),
            count => end.write(&buffer[..count])?,
        }
    }
}

/// A backend that holds its connections, so that the test may play with them.
fn held() -> (impl Fn(End, &str) + Send + Sync, mpsc::Receiver<End>) {
    let (give, take) = mpsc::channel();
    let play = move |end: End, _: &str| {
        // A test that has ended takes nothing more.
        let _ = give.send(end);
    };
    (play, take)
}

/// A session that sleeps, with both its ends.
fn asleep(legs: (Leg, Leg)) -> (Stage, End, End) {
    let (play, backends) = held();
    let stage = Stage::start(legs, "", "hibernate_timeout = 200ms\n", play);
    let client = stage.log_in("alice");
    let backend = backends.recv_timeout(PATIENCE).expect("it is dialled");
    stage.wait_until_asleep(1);
    (stage, client, backend)
}

fn two_hundred_idle_sessions_hold_no_threads_and_all_answer(leg: Leg) {
    const SESSIONS: usize = 200;
    let more = "hibernate_timeout = 1s\n";
    let stage = Stage::start((leg, leg), "workers = 8", more, |end, _| {
        // The test ends it.
        drop(echoes(&end));
    });
    let postern = stage.postern();
    let before = postern.threads();
    let clients: Vec<End> = (0..SESSIONS).map(|_| stage.log_in("alice")).collect();
    for round in 0..2 {
        stage.wait_until_asleep(SESSIONS);
        let what = format!("threads in round {round}");
        until_at_most(&what, before + 8 + 16, PATIENCE, || postern.threads());
        for (number, client) in clients.iter().enumerate() {
            client.send(&format!("{number} NOOP"));
        }
        for (number, client) in clients.iter().enumerate() {
            client.expect(&format!("{number} NOOP"));
        }
    }
    drop(clients);
    until_true("every session ends", PATIENCE, || {
        postern.count("session closed") == SESSIONS
    });
}

#[test]
fn two_hundred_idle_sessions_in_plain_text_hold_no_threads_and_all_answer() {
    two_hundred_idle_sessions_hold_no_threads_and_all_answer(Leg::Plain);
}

#[test]
fn two_hundred_idle_sessions_of_rustls_hold_no_threads_and_all_answer() {
    two_hundred_idle_sessions_hold_no_threads_and_all_answer(Leg::Rustls);
}

#[test]
fn two_hundred_idle_sessions_of_the_native_library_hold_no_threads_and_all_answer() {
    two_hundred_idle_sessions_hold_no_threads_and_all_answer(Leg::Native);
}

#[test]
fn with_hibernation_off_two_threads_a_session_stay() {
    const SESSIONS: usize = 10;
    let stage = Stage::start(
        (Leg::Plain, Leg::Plain),
        "",
        "hibernate_timeout = off\n",
        |end, _| drop(echoes(&end)),
    );
    let postern = stage.postern();
    let before = postern.threads();
    let clients: Vec<End> = (0..SESSIONS).map(|_| stage.log_in("alice")).collect();
    // Longer than the default, and than an idle thread waits for another job.
    thread::sleep(Duration::from_secs(7));
    assert!(postern.threads() >= before + 2 * SESSIONS);
    assert_eq!(postern.count("relay sleeps"), 0);
    for client in &clients {
        client.send("still there");
        client.expect("still there");
    }
}

#[test]
fn a_byte_from_either_side_wakes_a_relay_at_once() {
    for leg in Leg::ALL {
        let (stage, client, backend) = asleep((leg, leg));
        for round in 1..=3 {
            for (from, to) in [(&client, &backend), (&backend, &client)] {
                let began = Instant::now();
                from.send("a line");
                to.expect("a line");
                assert!(began.elapsed() < AT_ONCE, "{leg:?}, round {round}");
                stage.wait_until_asleep(1);
            }
        }
    }
}

/// How one end goes away, and what the closing line says then of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaves {
    InOrder,
    Reset,
}

/// One end of a sleeping relay goes away; the other hears it and goes too.
fn goes_away(leg: Leg, who: &str, how: Leaves) {
    let what = format!("{leg:?}, {who}, {how:?}");
    let (stage, client, backend) = asleep((leg, leg));
    let (goes, stays) = match who {
        "client" => (client, backend),
        _ => (backend, client),
    };
    let began = Instant::now();
    match how {
        Leaves::InOrder => goes.half_close().expect("it is open"),
        Leaves::Reset => goes.reset(),
    }
    stays.expect_end();
    assert!(began.elapsed() < AT_ONCE, "{what}");
    drop(stays);
    let line = until(&format!("{what}: a closing line"), AT_ONCE, || {
        stage.postern().lines_with("session closed").pop()
    });
    let reason = match how {
        Leaves::InOrder => "closed",
        Leaves::Reset => "connection broke",
    };
    assert!(
        line.contains(&format!("reason=\"{who} {reason}\"")),
        "{what}: {line}"
    );
}

#[test]
fn a_sleeping_relay_whose_client_or_backend_closes_ends_at_once() {
    for leg in Leg::ALL {
        for who in ["client", "backend"] {
            goes_away(leg, who, Leaves::InOrder);
        }
    }
}

#[test]
fn a_sleeping_relay_whose_client_or_backend_resets_ends_at_once() {
    for leg in Leg::ALL {
        for who in ["client", "backend"] {
            goes_away(leg, who, Leaves::Reset);
        }
    }
}

#[test]
fn a_client_that_resets_ends_a_sleeping_relay_whose_backend_does_not_close() {
    for leg in Leg::ALL {
        let (stage, client, backend) = asleep((leg, leg));
        client.reset();
        backend.expect_end();
        let line = until("a closing line", AT_ONCE, || {
            stage.postern().lines_with("session closed").pop()
        });
        assert!(line.contains("client connection broke"), "{leg:?}: {line}");
        drop(backend);
    }
}

#[test]
fn a_sleeping_relay_passes_an_end_on_and_the_other_direction_sleeps_on() {
    for leg in Leg::ALL {
        for client_ends in [true, false] {
            let (stage, client, backend) = asleep((leg, leg));
            let (ends, speaks) = match client_ends {
                true => (&client, &backend),
                false => (&backend, &client),
            };
            ends.half_close().expect("it is open");
            speaks.expect_end();
            for _ in 0..3 {
                stage.wait_until_asleep(1);
                speaks.send("and another thing");
                ends.expect("and another thing");
            }
            stage.wait_until_asleep(1);
            assert_eq!(stage.postern().count("session closed"), 0);
            speaks.half_close().expect("it is open");
            ends.expect_end();
            stage.postern().wait_for_log("session closed");
        }
    }
}

fn tls(end: &End) -> &Tls {
    match end {
        End::Tls(tls) => tls,
        End::Plain(_) => panic!("it is in plain text"),
    }
}

#[test]
fn half_a_record_that_comes_before_a_sleep_is_not_lost() {
    // More than a record: the first is whole, the second is not.
    let data: Vec<u8> = (0..20_000).map(|at: u32| at.to_le_bytes()[1]).collect();
    for leg in [Leg::Rustls, Leg::Native] {
        let (stage, client, backend) = asleep((leg, leg));
        for (from, to) in [(&client, &backend), (&backend, &client)] {
            for _ in 0..2 {
                let sent = tls(from).write_in_two(&data, || {
                    assert!(to.bytes(16_384) == data[..16_384], "{leg:?}");
                    stage.wait_until_asleep(1);
                });
                sent.expect("it can be sent");
                assert!(to.bytes(data.len() - 16_384) == data[16_384..], "{leg:?}");
                stage.wait_until_asleep(1);
            }
        }
    }
}

#[test]
fn a_command_read_ahead_of_the_relay_is_not_lost_by_a_sleep() {
    for leg in Leg::ALL {
        let (play, backends) = held();
        let stage = Stage::start((leg, leg), "", "hibernate_timeout = 1ms\n", play);
        for _ in 0..20 {
            let client = stage.connect();
            client.expect("* OK IMAP4 ready");
            client.send("in LOGIN alice secret\r\nb NOOP");
            let backend = backends.recv_timeout(PATIENCE).expect("it is dialled");
            backend.expect("b NOOP");
            backend.send("b OK");
            client.expect("in OK in");
            client.expect("b OK");
        }
    }
}

#[test]
fn key_updates_while_a_relay_sleeps_do_no_harm() {
    let (stage, client, backend) = asleep((Leg::Rustls, Leg::Rustls));
    for (updates, other) in [(&client, &backend), (&backend, &client)] {
        for _ in 0..3 {
            tls(updates).update_keys().expect("it is TLS 1.3");
            stage.wait_until_asleep(1);
        }
        for (from, to) in [(other, updates), (updates, other)] {
            from.send("still there");
            to.expect("still there");
            stage.wait_until_asleep(1);
        }
    }
}

/// Ends whatever a test that failed has left blocked.
struct Cut<'a>(&'a End);

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        // It may be closed already.
        let _ = self.0.socket().shutdown(Shutdown::Both);
    }
}

#[test]
fn a_relay_whose_client_does_not_read_stays_awake_and_upwards_all_goes_on() {
    /// More than the buffers of four sockets hold.
    const SIZE: usize = 48 << 20;
    for leg in Leg::ALL {
        let (play, backends) = held();
        let stage = Stage::start((leg, leg), "", "hibernate_timeout = 200ms\n", play);
        let client = stage.log_in("alice");
        let backend = backends.recv_timeout(PATIENCE).expect("it is dialled");
        let block: Arc<Vec<u8>> = Arc::new((0..65_521).map(|at: u32| (at % 251) as u8).collect());
        let pouring = thread::spawn({
            let (backend, block) = (backend.clone(), Arc::clone(&block));
            move || {
                let mut left = SIZE;
                while left > 0 {
                    let count = left.min(block.len());
                    backend.write(&block[..count])?;
                    left -= count;
                }
                backend.half_close()
            }
        });
        let cut = Cut(&backend);
        // Nothing moves any more.
        thread::sleep(Duration::from_secs(2));
        assert!(!pouring.is_finished(), "{leg:?}");
        for number in 0..5 {
            let began = Instant::now();
            client.send(&format!("{number}"));
            backend.expect(&format!("{number}"));
            assert!(began.elapsed() < AT_ONCE, "{leg:?}");
            thread::sleep(Duration::from_millis(300));
        }
        assert_eq!(stage.postern().count("relay sleeps"), 0, "{leg:?}");
        let mut left = SIZE;
        while left > 0 {
            let count = left.min(block.len());
            assert!(client.bytes(count) == block[..count], "{leg:?}");
            left -= count;
        }
        client.expect_end();
        let poured = pouring.join().expect("it does not panic");
        poured.expect("all of it can be sent");
        drop(cut);
    }
}
