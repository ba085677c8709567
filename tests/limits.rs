//! What is bounded: sessions, time, workers; and that everything is given back.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::{proxy_to, service, wait};
use crate::peers::{Peer, imap_server, server_of};
use nix::sys::signal::Signal;

const PROTOCOLS: [&str; 3] = ["imap", "pop3", "smtp"];

/// A client that has logged in.
fn logged_in(protocol: &str, address: SocketAddr) -> LineClient {
    let (mut client, _) = LineClient::greeted(address);
    match protocol {
        "imap" => {
            client.send("a LOGIN alice secret");
            client.lines_until("a OK");
        }
        "pop3" => {
            client.ask("USER alice", "+OK");
            client.ask("PASS secret", "+OK backend PASS");
        }
        _ => client.ask("AUTH PLAIN AGFsaWNlAHNlY3JldA==", "235 2.0.0 OK"),
    }
    client
}

fn hundred_logged_in(protocol: &'static str, address: SocketAddr) -> Vec<LineClient> {
    let clients: Vec<_> = (0..100)
        .map(|_| thread::spawn(move || logged_in(protocol, address)))
        .collect();
    clients
        .into_iter()
        .map(|client| client.join().expect("every login succeeds"))
        .collect()
}

#[test]
fn a_hundred_sessions_leave_no_thread_and_no_descriptor_behind() {
    for protocol in PROTOCOLS {
        let backend = Peer::start(server_of(protocol));
        let place = backend.address();
        // Connections to the auth server that are kept would count as descriptors.
        let auth = AuthServer::start(move |_| Answer::ok_with(place, &["Connection: close"]));
        let postern = Postern::start(&service(protocol, &auth, ""));
        let address = postern.address(protocol);
        // The first session makes what is made once.
        drop(logged_in(protocol, address));
        postern.wait_for_log("session closed");
        let (threads, descriptors) = (postern.threads(), postern.descriptors());

        let clients = hundred_logged_in(protocol, address);
        assert!(postern.descriptors() >= descriptors + 200, "{protocol}");
        drop(clients);
        wait::until_true("all sessions are over", Duration::from_secs(10), || {
            postern.lines_with("session closed").len() == 101 && backend.open() == 0
        });
        // Idle threads are kept for a while.
        let limit = Duration::from_secs(30);
        wait::until_at_most(
            &format!("{protocol}: descriptors"),
            descriptors,
            limit,
            || postern.descriptors(),
        );
        wait::until_at_most(&format!("{protocol}: threads"), threads, limit, || {
            postern.threads()
        });
        postern.stop();
    }
}

#[test]
fn a_hundred_sessions_work_while_the_auth_server_answers_slowly() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| {
        thread::sleep(Duration::from_millis(100));
        Answer::ok(address)
    });
    let postern = Postern::start(&service("imap", &auth, ""));
    let clients = hundred_logged_in("imap", postern.address("imap"));
    for mut client in clients {
        client.ask("b NOOP", "b OK backend NOOP");
    }
}

#[test]
fn above_max_sessions_the_newcomer_is_told_to_come_back() {
    for (protocol, busy) in [
        ("imap", "* BYE "),
        ("pop3", "-ERR [SYS/TEMP] "),
        ("smtp", "421 4.3.2 "),
    ] {
        let backend = Peer::start(server_of(protocol));
        let address = backend.address();
        let auth = AuthServer::start(move |_| Answer::ok(address));
        let ini = format!(
            "[postern]\nmax_sessions = 2\n{}",
            service(protocol, &auth, "")
        );
        let postern = Postern::start(&ini);
        let address = postern.address(protocol);
        let first = logged_in(protocol, address);
        let _second = logged_in(protocol, address);
        let mut third = LineClient::connect(address);
        let line = third.line();
        assert!(line.starts_with(busy), "{line}");
        third.expect_close();
        drop(first);
        // The place is given back a moment after the client has gone.
        wait::until_true("a place is free", wait::PATIENCE, || {
            let (_client, greeting) = LineClient::greeted(address);
            !greeting.starts_with(busy)
        });
    }
}

/// The proxy with room for so many sessions.
fn with_room_for(count: usize, more: &str) -> (Postern, Peer, AuthServer) {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |request| match request.header("Auth-User") {
        Some("slow") => {
            thread::sleep(Duration::from_secs(2));
            Answer::ok(address)
        }
        _ => Answer::ok(address),
    });
    let server = service("imap", &auth, more);
    let postern = Postern::start(&format!("[postern]\nmax_sessions = {count}\n{server}"));
    (postern, backend, auth)
}

/// Connects from this address and is greeted.
fn greeted_from(last: u8, address: SocketAddr) -> LineClient {
    let mut client = LineClient::connect_from([127, 0, 0, last], address);
    client.expect("* OK IMAP4 ready");
    client
}

/// Those of them that have been closed, by their numbers; each of them was told that there is no room.
fn victims(clients: &mut [LineClient]) -> Vec<usize> {
    let mut victims = Vec::new();
    for (number, client) in clients.iter_mut().enumerate() {
        let stream = client.stream();
        stream.set_nonblocking(true).expect("a socket");
        let is_told = stream.peek(&mut [0]).is_ok();
        stream.set_nonblocking(false).expect("a socket");
        if is_told {
            client.expect(BUSY);
            client.expect_close();
            victims.push(number);
        }
    }
    victims
}

const BUSY: &str = "* BYE [UNAVAILABLE] Too many connections, try again later";

#[test]
fn at_max_sessions_the_oldest_of_the_address_with_most_makes_room() {
    let (postern, _backend, _auth) = with_room_for(25, "");
    let address = postern.address("imap");
    let mut others: Vec<_> = (0..5).map(|n| greeted_from(10 + n, address)).collect();
    let mut many: Vec<_> = (0..20).map(|_| greeted_from(2, address)).collect();
    // It says something again and again, and does not become younger by it.
    for _ in 0..5 {
        many[0].ask("a NOOP", "a OK completed");
        thread::sleep(Duration::from_millis(100));
    }
    let newcomers = (1..=3).map(|gone| {
        let newcomer = logged_in("imap", address);
        wait::until_true("somebody has made room", wait::PATIENCE, || {
            postern.lines_with("session closed").len() == gone
        });
        newcomer
    });
    let newcomers: Vec<_> = newcomers.collect();
    assert_eq!(victims(&mut many), [0, 1, 2]);
    assert!(victims(&mut others).is_empty());
    for mut newcomer in newcomers {
        newcomer.ask("b NOOP", "b OK backend NOOP");
    }
    postern.stop();
}

#[test]
fn who_is_logged_in_or_being_checked_never_makes_room() {
    let (postern, _backend, auth) = with_room_for(3, "hibernate_timeout = 1s");
    let address = postern.address("imap");
    let mut relayed = [logged_in("imap", address), logged_in("imap", address)];
    let mut checked = greeted_from(2, address);
    checked.send("a LOGIN slow secret");
    auth.wait_for_request(3);
    let (mut newcomer, line) = LineClient::greeted(address);
    assert_eq!(line, BUSY);
    newcomer.expect_close();
    postern.wait_for_log("`max_sessions` is reached");
    checked.lines_until("a OK");
    for client in relayed.iter_mut().chain([&mut checked]) {
        client.ask("b NOOP", "b OK backend NOOP");
    }
    // Silent relays sleep, and are logged in all the same.
    thread::sleep(Duration::from_millis(2500));
    let (_, line) = LineClient::greeted(address);
    assert_eq!(line, BUSY);
    for client in relayed.iter_mut().chain([&mut checked]) {
        client.ask("c NOOP", "c OK backend NOOP");
    }
    postern.stop();
}

#[test]
fn a_session_that_makes_room_is_told_so_in_its_own_protocol() {
    for (protocol, busy) in [
        ("imap", BUSY),
        (
            "pop3",
            "-ERR [SYS/TEMP] Too many connections, try again later",
        ),
        ("smtp", "421 4.3.2 Too many connections, try again later"),
    ] {
        let auth = AuthServer::start(|_| Answer::Stall);
        let server = service(protocol, &auth, "");
        let postern = Postern::start(&format!("[postern]\nmax_sessions = 1\n{server}"));
        let (mut silent, _) = LineClient::greeted(postern.address(protocol));
        // In place it waits for its client for a moment.
        thread::sleep(Duration::from_millis(200));
        let start = Instant::now();
        let (mut newcomer, greeting) = LineClient::greeted(postern.address(protocol));
        assert!(start.elapsed() < Duration::from_secs(1));
        assert_ne!(greeting, busy);
        silent.expect(busy);
        silent.expect_close();
        newcomer.expect_silence(Duration::from_millis(10));
        postern.stop();
    }
}

#[test]
fn a_silent_client_is_closed_without_a_line() {
    for protocol in PROTOCOLS {
        let auth = AuthServer::start(|_| Answer::Stall);
        let postern = Postern::start(&service(protocol, &auth, "timeout = 1s"));
        let (mut client, _) = LineClient::greeted(postern.address(protocol));
        let start = Instant::now();
        client.expect_close();
        assert!(start.elapsed() > Duration::from_millis(800), "{protocol}");
        assert!(start.elapsed() < Duration::from_secs(4), "{protocol}");
        let line = postern.wait_for_log("client timed out");
        assert!(line.contains("[info]"), "{line}");
    }
}

#[test]
fn commands_and_bytes_do_not_restart_the_time() {
    let auth = AuthServer::start(|_| Answer::Stall);
    let postern = Postern::start(&service("imap", &auth, "timeout = 2s"));
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    let start = Instant::now();
    let mut stream = client.stream();
    let chatter = thread::spawn(move || {
        use std::io::Write;
        // Whole commands and the beginning of one.
        for bytes in ["a NOOP\r\n", "b NO", "OP\r\n"].iter().cycle() {
            if stream.write_all(bytes.as_bytes()).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
    });
    let answers = String::from_utf8_lossy(&client.rest()).into_owned();
    assert!(start.elapsed() > Duration::from_millis(1500));
    assert!(start.elapsed() < Duration::from_secs(4));
    assert!(answers.contains("a OK completed\r\n"), "{answers}");
    drop(client);
    chatter.join().expect("it ends when nobody listens");
}

#[test]
fn a_failed_login_restarts_the_time() {
    let auth = AuthServer::start(|_| Answer::headers(&["Auth-Status: no", "Auth-Wait: 1"]));
    let postern = Postern::start(&service("imap", &auth, "timeout = 2s"));
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    // Each attempt takes a second; four of them take longer than the time for one.
    for _ in 0..4 {
        client.ask("a LOGIN alice wrong", "a NO no");
    }
}

#[test]
fn sessions_in_relay_hold_no_worker() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let ini = format!("[postern]\nworkers = 1\n{}", service("imap", &auth, ""));
    let postern = Postern::start(&ini);
    let clients: Vec<LineClient> = (0..10)
        .map(|_| LineClient::imap_login(postern.address("imap")))
        .collect();
    assert_eq!(backend.open(), 10);
    drop(clients);
}

#[test]
fn term_and_int_end_cleanly_under_load() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let backend = Peer::start(imap_server);
        let (postern, _auth) = proxy_to("imap", backend.address(), "max_commands = 1000000");
        let address = postern.address("imap");
        let mut relayed = LineClient::imap_login(address);
        let (mut waiting, _) = LineClient::greeted(address);
        let load: Vec<_> = (0..20)
            .map(|_| thread::spawn(move || load(address)))
            .collect();
        wait::until_true("the load is on", wait::PATIENCE, || {
            postern.lines_with("client logged in").len() > 100
        });

        let start = Instant::now();
        postern.signal(signal);
        let (status, log) = postern.wait_for_end(Duration::from_secs(5));
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{:?}",
            start.elapsed()
        );
        assert!(status.success(), "{status}\n{log}");
        assert!(!log.contains("panicked"), "{log}");
        // A session before login is told; one in the relay just ends.
        let goodbye = String::from_utf8_lossy(&waiting.rest()).into_owned();
        assert!(goodbye.starts_with("* BYE"), "{signal}: {goodbye:?}\n{log}");
        relayed.expect_close();
        for thread in load {
            thread.join().expect("the load ends with the proxy");
        }
    }
}

/// Logs in and out until the proxy is gone.
fn load(address: SocketAddr) {
    use std::io::{Read, Write};
    let dialogue = b"a LOGIN alice secret\r\nb NOOP\r\nc LOGOUT\r\n";
    let limit = Some(Duration::from_secs(3));
    while let Ok(mut stream) = std::net::TcpStream::connect(address) {
        let sent = stream
            .set_read_timeout(limit)
            .and_then(|()| stream.write_all(dialogue));
        let mut answers = Vec::new();
        if sent
            .and_then(|()| stream.read_to_end(&mut answers))
            .is_err()
        {
            continue;
        }
    }
}
