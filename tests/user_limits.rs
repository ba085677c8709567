//! How many sessions a user may have at a time: what the one too many is told, and that every place is given
//! back.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::service;
use crate::common::wait::{PATIENCE, until_true};
use crate::peers::{Peer, server_of};
use crate::servers::office;

const PROTOCOLS: [&str; 3] = ["imap", "pop3", "smtp"];

const HERE: [u8; 4] = [127, 0, 0, 1];
const ELSEWHERE: [u8; 4] = [127, 0, 0, 2];

/// What the session too many is told.
fn one_too_many(protocol: &str) -> &'static str {
    match protocol {
        "imap" => "a NO [LIMIT] ",
        "pop3" => "-ERR [IN-USE] ",
        _ => "421 4.7.0 ",
    }
}

/// Logs in from this address of the machine; the session, and the answer.
fn log_in(
    from: [u8; 4],
    (protocol, target): (&str, SocketAddr),
    login: &str,
) -> (LineClient, String) {
    let mut client = LineClient::connect_from(from, target);
    client.line();
    client.present_login(protocol, login, "secret");
    let mut line = client.line();
    while line.starts_with("* ") {
        line = client.line();
    }
    (client, line)
}

fn gets_in(from: [u8; 4], service: (&str, SocketAddr), login: &str) -> LineClient {
    let (client, line) = log_in(from, service, login);
    let is_ok = ["a OK", "+OK", "235 "]
        .iter()
        .any(|ok| line.starts_with(ok));
    assert!(is_ok, "{service:?} {login}: {line}");
    client
}

fn is_one_too_many(from: [u8; 4], service: (&str, SocketAddr), login: &str) {
    let (mut client, line) = log_in(from, service, login);
    assert!(line.starts_with(one_too_many(service.0)), "{line}");
    client.expect_close();
}

#[test]
fn the_session_too_many_is_told_so_in_each_protocol_and_places_are_given_back() {
    let postern = office("max_sessions_per_user = 2\nauth_penalty_free = 0");
    for protocol in PROTOCOLS {
        let service = (protocol, postern.address(protocol));
        // Nobody who may not log in learns anything, or takes a place.
        let first = gets_in(HERE, service, "limited");
        let _second = gets_in(ELSEWHERE, service, "LIMITED");
        for _ in 0..3 {
            is_one_too_many(HERE, service, "limited");
        }
        gets_in(HERE, service, "another");
        drop(first);
        until_true("the place is given back", PATIENCE, || {
            let (_client, line) = log_in(HERE, service, "limited");
            !line.starts_with(one_too_many(protocol))
        });
    }
    // It was no failed login.
    assert_eq!(postern.count("are answered later"), 0);
    postern.wait_for_lines("`max_sessions_per_user` is reached", 9);
}

#[test]
fn another_address_of_the_user_has_sessions_of_its_own() {
    let postern = office("max_sessions_per_user_per_ip = 1");
    for protocol in PROTOCOLS {
        let service = (protocol, postern.address(protocol));
        let _here = gets_in(HERE, service, "travelling");
        is_one_too_many(HERE, service, "travelling");
        let _elsewhere = gets_in(ELSEWHERE, service, "travelling");
        is_one_too_many(ELSEWHERE, service, "travelling");
    }
}

#[test]
fn the_backend_of_a_session_too_many_is_told_goodbye() {
    for (protocol, goodbye) in [("imap", "LOGOUT"), ("pop3", "QUIT"), ("smtp", "QUIT")] {
        let backend = Peer::start(server_of(protocol));
        let address = backend.address();
        let auth = AuthServer::start(move |_| Answer::ok(address));
        let more = "max_sessions_per_user = 1\nproxy_smtp_auth = on\nerror_log = stderr debug";
        let postern = Postern::start(&service(protocol, &auth, more));
        let service = (protocol, postern.address(protocol));
        let _first = gets_in(HERE, service, "alice");
        is_one_too_many(HERE, service, "alice");
        until_true(goodbye, PATIENCE, || backend.open() == 1);
    }
}

#[test]
fn sleeping_sessions_count_and_after_many_sessions_nothing_is_left() {
    let backend = Peer::start(server_of("imap"));
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let more = "max_sessions_per_user = 8\nhibernate_timeout = 1s\nerror_log = stderr debug";
    let postern = Postern::start(&service("imap", &auth, more));
    let service = ("imap", postern.address("imap"));
    let threads = (0..4).map(|_| {
        thread::spawn(move || {
            for _ in 0..50 {
                let (mut client, _) = log_in(HERE, service, "alice");
                client.send("b NOOP");
            }
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().expect("the threads end");
    }
    until_true("all sessions are over", Duration::from_secs(30), || {
        backend.open() == 0
    });
    // All eight places are there, no more, and a session that sleeps keeps its own.
    let asleep = postern.count("relay sleeps");
    let mut sessions = Vec::new();
    until_true("eight get in", PATIENCE, || {
        let (client, line) = log_in(HERE, service, "alice");
        if line.starts_with("a OK") {
            sessions.push(client);
        }
        sessions.len() == 8
    });
    until_true("they sleep", PATIENCE, || {
        postern.count("relay sleeps") >= asleep + sessions.len()
    });
    is_one_too_many(HERE, service, "alice");
}

#[test]
fn limits_of_users_are_counted_without_names() {
    let backend = Peer::start(server_of("imap"));
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let server = service("imap", &auth, "max_sessions_per_user = 1");
    let postern = Postern::start(&format!("[postern]\nstatus = 127.0.0.1:0\n{server}"));
    let service = ("imap", postern.address("imap"));
    let _first = gets_in(HERE, service, "alice");
    is_one_too_many(HERE, service, "alice");
    let at = postern.wait_for_log("the status page is at ");
    let url = at.rsplit("is at ").next().expect("a place").trim();
    let url = format!("{url}metrics");
    let expected = r#"postern_user_limit_total{protocol="imap",server="imap"} 1"#;
    until_true(expected, PATIENCE, || {
        let page = crate::common::tools::curl(&[&url]).text();
        assert!(!page.contains("alice"));
        page.contains(expected)
    });
}
