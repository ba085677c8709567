//! After login: bytes pass unread, in order, all of them; ends pass per direction; silence ends it.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::wait::{self, PATIENCE};
use crate::common::{proxy_to, service};
use crate::legs::{End, Leg, Stage};
use crate::peers::imap::imap_server;
use crate::peers::unruly::{
    closes_in_literal, counts_until_the_end, echoes_after_login, pattern, pours_after_login,
    says_quit_late, trickles_after_login,
};
use crate::peers::{Peer, Talk};
use crate::servers::dovecot;
use nix::sys::signal::Signal;

struct Setting {
    postern: Postern,
    backend: Peer,
    _auth: AuthServer,
}

fn proxy(
    protocol: &str,
    more: &str,
    play: impl Fn(&mut Talk) -> std::io::Result<()> + Send + Sync + 'static,
) -> Setting {
    let backend = Peer::start(play);
    let (postern, auth) = proxy_to(protocol, backend.address(), more);
    Setting {
        postern,
        backend,
        _auth: auth,
    }
}

impl Setting {
    fn logged_in(&self) -> LineClient {
        LineClient::imap_login(self.postern.address("imap"))
    }
}

#[test]
fn quit_followed_by_a_half_close_gets_its_answer() {
    let setting = proxy("pop3", "", says_quit_late);
    let (mut client, _) = LineClient::greeted(setting.postern.address("pop3"));
    client.ask("USER alice", "+OK");
    client.ask("PASS secret", "+OK");
    client.send("QUIT");
    client.half_close();
    client.expect("+OK deleted 3 messages, bye");
    client.expect_close();
}

#[test]
fn logout_followed_by_a_half_close_gets_its_answer_from_dovecot() {
    let (postern, _auth) = proxy_to("imap", dovecot::shared().imap, "");
    for _ in 0..20 {
        let mut client = LineClient::imap_login(postern.address("imap"));
        client.send("z LOGOUT");
        client.half_close();
        client.expect("* BYE Logging out");
        let last = client.line();
        assert!(last.starts_with("z OK"), "{last}");
        client.expect_close();
    }
}

/// Both directions are begun on the worker; threads come where a session goes on.
#[test]
fn a_session_that_says_goodbye_at_once_needs_no_threads_for_its_relay() {
    let auth = AuthServer::start(move |_| Answer::ok(dovecot::shared().imap));
    let server = service("imap", &auth, "");
    let postern = Postern::start(&format!("[postern]\nclient_wait = 10s\n{server}"));
    for _ in 0..5 {
        let mut client = LineClient::imap_login(postern.address("imap"));
        client.send("a NOOP");
        client.lines_until("a OK");
        client.send("z LOGOUT");
        client.lines_until("z OK");
        client.expect_close();
        drop(client);
        let names = postern.thread_names();
        let of_relays = names.iter().filter(|name| {
            name.as_str() == "idle" || name.ends_with(" up") || name.ends_with(" dn")
        });
        assert_eq!(of_relays.count(), 0, "{names:?}");
    }
}

/// A worker waits for a client for so long in all, however often it says something.
#[test]
fn a_backend_that_trickles_does_not_hold_the_worker() {
    let backend = Peer::start(trickles_after_login(Duration::from_millis(200)));
    let target = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(target));
    let server = service("imap", &auth, "");
    let postern = Postern::start(&format!("[postern]\nclient_wait = 1s\n{server}"));
    let mut client = LineClient::imap_login(postern.address("imap"));
    let has_threads = || {
        let names = postern.thread_names();
        let ends = |end: &str| names.iter().any(|name| name.ends_with(end));
        ends(" up") && ends(" dn")
    };
    // Five of them come within that time; the worker would go on to the thirty-second.
    let trickled = (1..).find(|_| client.bytes(1) == *b"." && has_threads());
    assert!(trickled.is_some_and(|count| count < 20), "{trickled:?}");
}

/// What was read with the login, and what of it lies in the socket yet. A relay that waited for more before it
/// passed that on would wait for an hour.
#[test]
fn what_a_client_says_behind_its_login_at_once_arrives_in_order() {
    let backend = Peer::start(echoes_after_login);
    let target = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(target));
    let server = service("imap", &auth, "hibernate_timeout = off");
    let postern = Postern::start(&format!("[postern]\nclient_wait = 1h\n{server}"));
    for size in [1, 300, 5000, 16_500, 100_000] {
        let (mut client, _) = LineClient::greeted(postern.address("imap"));
        let behind = pattern(0, size);
        client.send_raw(&[b"in LOGIN alice secret\r\n", &behind[..]].concat());
        client.expect("in OK in");
        assert!(client.bytes(size) == behind, "{size}");
        client.send_raw(b"more");
        assert_eq!(client.bytes(4), b"more", "{size}");
        client.half_close();
        client.expect_close();
    }
}

#[test]
fn a_half_close_passes_to_the_backend_behind_the_last_byte() {
    let setting = proxy("imap", "", counts_until_the_end);
    let mut client = setting.logged_in();
    client.send_raw(&pattern(0, 3_000_000));
    client.half_close();
    client.expect("* 3000000 bytes");
    client.expect_close();
}

#[test]
fn what_both_sides_pour_out_arrives_in_order() {
    const SIZE: usize = 8 << 20;
    let setting = proxy("imap", "", echoes_after_login);
    let mut client = setting.logged_in();
    let mut stream = client.stream();
    let sender = thread::spawn(move || stream.write_all(&pattern(0, SIZE)));
    let echoed = client.bytes(SIZE);
    sender
        .join()
        .expect("the sender does not panic")
        .expect("everything can be sent");
    assert!(echoed == pattern(0, SIZE));
    client.half_close();
    client.expect_close();
}

#[test]
fn a_slow_reader_gets_everything_even_what_came_before_a_close() {
    const SIZE: usize = 20 << 20;
    let setting = proxy("imap", "", pours_after_login(SIZE));
    let mut client = setting.logged_in();
    // The backend has closed, or is stuck, long before the first byte is read here.
    client.expect_no_end_for(Duration::from_millis(500));
    let mut received = Vec::new();
    while received.len() < SIZE {
        received.extend(client.bytes((SIZE - received.len()).min(1 << 20)));
        thread::sleep(Duration::from_millis(5));
    }
    assert!(received == pattern(0, SIZE));
    client.expect_close();
}

#[test]
fn a_byte_is_not_held_back() {
    let setting = proxy("imap", "", echoes_after_login);
    let mut client = setting.logged_in();
    for byte in 0..100_u8 {
        client.send_raw(&[byte]);
        assert_eq!(client.bytes(1), [byte]);
    }
}

#[test]
fn bytes_pass_as_they_are() {
    let setting = proxy("imap", "", echoes_after_login);
    let mut client = setting.logged_in();
    let odd = b"\n.\n\r.\r\n\r\r\n\0\xff{3}\r\n\r\n.\r\n";
    client.send_raw(odd);
    assert_eq!(client.bytes(odd.len()), odd);
}

#[test]
fn a_backend_that_dies_in_a_literal_ends_the_session_with_nothing_invented() {
    let setting = proxy("imap", "", closes_in_literal);
    let mut client = setting.logged_in();
    client.send("a FETCH 1 BODY[]");
    let rest = String::from_utf8_lossy(&client.rest()).into_owned();
    assert_eq!(rest, "* 1 FETCH (BODY[] {1000}\r\nhalf of it");
}

#[test]
fn a_client_that_is_killed_frees_the_backend() {
    let setting = proxy("imap", "", imap_server);
    let client = setting.logged_in();
    crate::common::wait::until_true("the backend is used", Duration::from_secs(5), || {
        setting.backend.open() == 1
    });
    drop(client);
    crate::common::wait::until_true("the backend is free", Duration::from_secs(5), || {
        setting.backend.open() == 0
    });
}

#[test]
fn silence_in_both_directions_ends_the_session_without_a_line() {
    let setting = proxy("imap", "proxy_timeout = 1s", imap_server);
    let mut client = setting.logged_in();
    let start = Instant::now();
    client.expect_close();
    assert!(start.elapsed() > Duration::from_millis(900));
    assert!(start.elapsed() < Duration::from_secs(4));
    crate::common::wait::until_true("the backend is free", Duration::from_secs(5), || {
        setting.backend.open() == 0
    });
}

#[test]
fn a_client_that_merely_downloads_is_not_silent() {
    let setting = proxy("imap", "proxy_timeout = 1s", |talk| {
        talk.say("* OK ready")?;
        talk.line()?;
        talk.say("+")?;
        talk.line()?;
        talk.say("+")?;
        talk.line()?;
        talk.say("in OK")?;
        for count in 0..12 {
            thread::sleep(Duration::from_millis(200));
            talk.say(&format!("* {count} EXISTS"))?;
        }
        talk.wait_for_end()
    });
    let mut client = setting.logged_in();
    client.lines_until("* 11 EXISTS");
}

#[test]
fn a_client_that_merely_uploads_is_not_silent() {
    let setting = proxy("imap", "proxy_timeout = 1s", counts_until_the_end);
    let mut client = setting.logged_in();
    for _ in 0..12 {
        thread::sleep(Duration::from_millis(200));
        client.send_raw(b"x");
    }
    client.half_close();
    client.expect("* 12 bytes");
}

#[test]
fn the_closing_line_counts_the_bytes_of_the_relay() {
    let setting = proxy("imap", "", echoes_after_login);
    let mut client = setting.logged_in();
    client.send_raw(&pattern(0, 1000));
    client.bytes(1000);
    drop(client);
    let line = setting.postern.wait_for_log("session closed");
    for word in [
        "protocol=imap",
        "method=plain",
        "in=",
        "out=",
        "duration=",
        "login_time=",
        "reason=",
    ] {
        assert!(line.contains(word), "no {word} in {line}");
    }
    assert!(line.contains("login: \"alice\""), "{line}");
    let backend = setting.backend.address();
    assert!(line.contains(&format!("upstream: \"{backend}\"")), "{line}");
    setting.postern.wait_for_log("proxied session done");
}

#[test]
fn many_sessions_that_end_at_once_lose_nothing() {
    let setting = proxy("imap", "", pours_after_login(200_000));
    let address = setting.postern.address("imap");
    let clients: Vec<_> = (0..30)
        .map(|_| thread::spawn(move || LineClient::imap_login(address).rest()))
        .collect();
    for client in clients {
        let received = client.join().expect("the client does not panic");
        assert!(received == pattern(0, 200_000), "{} bytes", received.len());
    }
}

#[test]
fn a_slow_reader_behind_a_large_buffer_is_not_silent() {
    const SIZE: usize = 8_000_000;
    let setting = proxy("imap", "timeout = 400ms", pours_after_login(SIZE));
    let mut client = setting.logged_in();
    client.half_close();
    let mut received = Vec::new();
    while received.len() < SIZE {
        received.extend(client.bytes((SIZE - received.len()).min(100_000)));
        // A megabyte a second: what the kernel holds takes longer than `timeout`.
        thread::sleep(Duration::from_millis(100));
    }
    assert!(received == pattern(0, SIZE));
    client.expect_close();
}

#[test]
fn a_reader_that_has_stopped_is_silent() {
    let setting = proxy("imap", "timeout = 400ms", pours_after_login(64 << 20));
    let mut client = setting.logged_in();
    client.half_close();
    let start = Instant::now();
    setting.postern.wait_for_log("session closed");
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_reader_that_has_stopped_before_its_half_close_is_silent_as_well() {
    for leg in Leg::ALL {
        // Longer than `timeout`, and shorter.
        for hibernate in ["5s", "100ms"] {
            let more = format!("timeout = 400ms\nhibernate_timeout = {hibernate}\n");
            let (stage, client) = flooded(leg, &more);
            // Far enough for a pipe, where there is no TLS.
            client.bytes(FLOOD / 4);
            wait_until_full(&client);
            client.half_close().expect("it is open");
            let start = Instant::now();
            stage.postern().wait_for_log("session closed");
            let took = start.elapsed();
            assert!(
                took < Duration::from_secs(3),
                "{leg:?} {hibernate} {took:?}"
            );
        }
    }
}

#[test]
fn a_backend_is_not_read_on_for_a_client_that_is_gone() {
    let setting = proxy("imap", "", pours_after_login(usize::MAX));
    let mut client = setting.logged_in();
    client.bytes(1_000_000);
    socket2::SockRef::from(&client.stream())
        .set_linger(Some(Duration::ZERO))
        .expect("a socket");
    drop(client);
    let start = Instant::now();
    let line = setting.postern.wait_for_log("session closed");
    assert!(start.elapsed() < Duration::from_secs(1), "{line}");
    let out = line.split("out=").nth(1).expect("a count");
    let out = out.split(' ').next().expect("a count");
    let out: u64 = out.parse().expect("a number");
    assert!(out < 64 << 20, "{line}");
}

/// More than the sockets in between hold.
const FLOOD: usize = 32 * 1024 * 1024;

/// A client that does not read what its backend pours.
fn flooded(leg: Leg, more: &str) -> (Stage, End) {
    let stage = Stage::start((leg, leg), "", more, |end, _| {
        // The proxy cuts it.
        let _ = end.write(&vec![b'x'; FLOOD]);
    });
    let client = stage.log_in("alice");
    (stage, client)
}

#[test]
fn much_between_legs_without_tls_is_spliced_and_the_pipe_is_closed_again() {
    for leg in Leg::ALL {
        let process = "error_log = stderr debug";
        let stage = Stage::start((leg, leg), process, "", move |end, _| {
            let _ = end.write(&pattern(0, FLOOD));
            // The client closes.
            let _ = end.read(&mut [0; 1]);
        });
        let before = stage.postern().pipes();
        let client = stage.log_in("alice");
        // What is between them is full when the first byte is read.
        thread::sleep(Duration::from_millis(500));
        assert!(client.bytes(FLOOD) == pattern(0, FLOOD));
        let spliced = stage.postern().count("relay splices");
        assert_eq!(spliced > 0, matches!(leg, Leg::Plain), "{spliced}");
        wait::until_true("the pipe is gone", PATIENCE, || {
            stage.postern().pipes() == before
        });
    }
}

#[test]
fn a_flow_without_a_descriptor_for_a_pipe_is_copied() {
    let stage = Stage::start((Leg::Plain, Leg::Plain), "", "", |end, _| {
        let mut go_on = [0; 1];
        if matches!(end.read(&mut go_on), Ok(1)) {
            let _ = end.write(&pattern(0, FLOOD));
        }
    });
    let client = stage.log_in("alice");
    stage.postern().leave_descriptors(0);
    client.write(b"x").expect("the proxy listens");
    assert!(client.bytes(FLOOD) == pattern(0, FLOOD));
}

/// What lies in the client's kernel.
fn arrived(client: &End) -> u64 {
    let count = client.socket().peek(&mut vec![0; FLOOD]);
    count.expect("the connection is there") as u64
}

/// Waits until nothing more gets through to a client that does not read; what lies in its kernel then.
fn wait_until_full(client: &End) -> u64 {
    let mut before = 0;
    wait::until_true("nothing more fits", PATIENCE, || {
        thread::sleep(Duration::from_millis(300));
        std::mem::replace(&mut before, arrived(client)) == before
    });
    before
}

/// A number of the closing line.
fn number(line: &str, name: &str) -> Option<u64> {
    let mut words = line.split(' ');
    words.find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

#[test]
fn a_relay_that_is_cut_says_how_much_did_not_arrive() {
    let (stage, client) = flooded(Leg::Plain, "");
    let before = wait_until_full(&client);
    stage.postern().signal(Signal::SIGTERM);
    let line = stage.postern().wait_for_log("session closed");
    let undelivered = number(&line, "undelivered").unwrap_or_else(|| panic!("{line}"));
    let out = number(&line, "out").unwrap_or_else(|| panic!("{line}"));
    assert!(
        undelivered > 0 && undelivered <= out - before,
        "{before}: {line}"
    );
    assert!(undelivered >= out - arrived(&client), "{line}");
    assert!(line.contains("reason=\"stopped\""), "{line}");
}

#[test]
fn a_relay_that_ends_by_timeout_says_how_much_did_not_arrive() {
    for leg in Leg::ALL {
        let (stage, client) = flooded(leg, "proxy_timeout = 1s\n");
        let line = stage.postern().wait_for_log("session closed");
        let undelivered = number(&line, "undelivered").unwrap_or_else(|| panic!("{line}"));
        assert!(
            undelivered > 0 && line.contains("reason=\"silent\""),
            "{line}"
        );
        drop(client);
    }
}

#[test]
fn only_a_relay_that_is_cut_says_what_did_not_arrive() {
    let setting = proxy("imap", "", imap_server);
    let mut client = setting.logged_in();
    client.ask("b NOOP", "b OK backend NOOP");
    setting.postern.signal(Signal::SIGTERM);
    let line = setting.postern.wait_for_log("session closed");
    assert_eq!(number(&line, "undelivered"), Some(0), "{line}");

    let setting = proxy("imap", "", imap_server);
    drop(setting.logged_in());
    let line = setting.postern.wait_for_log("session closed");
    assert_eq!(number(&line, "undelivered"), None, "{line}");
}
