//! Hosts of a backend that refuse, die or change their address: who is tried when, how often the
//! client is asked for its password (once), and what the log says of it.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::ports::free_port;
use crate::common::postern::Postern;
use crate::common::service;
use crate::common::tools::{curl, swaks, wait_for_line};
use crate::common::wait::{self, PATIENCE};
use crate::peers::dns::{A, DnsStub, NOERROR, Record};
use crate::peers::unruly::{never_greets, says_bye};
use crate::peers::{Peer, Talk, imap_server, server_of};
use crate::servers::dovecot::{self, Dovecot};
use crate::servers::local;
use crate::servers::postfix::Postfix;

fn proxy(protocol: &str, hosts: &[SocketAddr], more: &str) -> Postern {
    let hosts: Vec<String> = hosts.iter().map(SocketAddr::to_string).collect();
    proxy_by_names(protocol, &hosts.join(" "), "", more)
}

/// A fixed list of capabilities, so that nobody visits the hosts but for a login.
fn proxy_by_names(protocol: &str, hosts: &str, server: &str, more: &str) -> Postern {
    Postern::start(&format!(
        "[server {protocol}]\nprotocol = {protocol}\nlisten = 127.0.0.1:0\n{server}\n\
         {protocol}_capabilities = TEST\n[backend mail]\nhosts = {hosts}\n{more}\n"
    ))
}

/// One login over a new connection; its only answer.
fn log_in(postern: &Postern, protocol: &str) -> (LineClient, String) {
    let (mut client, _) = LineClient::greeted(postern.address(protocol));
    match protocol {
        "imap" => client.send("a LOGIN alice secret"),
        "pop3" => {
            client.ask("USER alice", "+OK");
            client.send("PASS secret");
        }
        _ => client.send("AUTH PLAIN AGFsaWNlAHNlY3JldA=="),
    }
    let answer = client.line();
    (client, answer)
}

fn logs_in(postern: &Postern, protocol: &str) -> LineClient {
    let (client, answer) = log_in(postern, protocol);
    let good = ["a OK", "+OK", "235 "];
    assert!(good.iter().any(|good| answer.starts_with(good)), "{answer}");
    client
}

/// The lines with this text; at least one of them comes.
fn told(postern: &Postern, text: &str) -> Vec<String> {
    postern.wait_for_log(text);
    postern.lines_with(text)
}

#[test]
fn a_host_that_refuses_the_connection_is_passed_over() {
    for protocol in ["imap", "pop3", "smtp"] {
        let good = Peer::start(server_of(protocol));
        let dead = local(free_port());
        let postern = proxy(protocol, &[dead, good.address()], "");
        for _ in 0..3 {
            drop(logs_in(&postern, protocol));
        }
        assert_eq!(good.accepted(), 3);
        let lines = told(&postern, "is down");
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains(&dead.to_string()), "{lines:?}");
        assert!(
            lines[0].contains("[warn]") && lines[0].contains("refused"),
            "{lines:?}"
        );
        assert!(!postern.log().contains("[error]"), "{}", postern.log());
    }
}

#[test]
fn a_host_that_says_bye_is_tried_last_until_fail_timeout_is_over() {
    let (bad, good) = (Peer::start(says_bye), Peer::start(imap_server));
    let hosts = [bad.address(), good.address()];
    let postern = proxy("imap", &hosts, "fail_timeout = 1s");
    for _ in 0..3 {
        drop(logs_in(&postern, "imap"));
    }
    assert_eq!((bad.accepted(), good.accepted()), (1, 3));
    thread::sleep(Duration::from_millis(1100));
    for _ in 0..3 {
        drop(logs_in(&postern, "imap"));
    }
    assert_eq!((bad.accepted(), good.accepted()), (2, 6));
    assert_eq!(told(&postern, "is down").len(), 1, "once");
}

#[test]
fn a_host_that_comes_back_is_told_once_and_used_again() {
    let is_down = Arc::new(AtomicBool::new(true));
    let down = Arc::clone(&is_down);
    let first = Peer::start(move |talk| match down.load(Ordering::SeqCst) {
        true => says_bye(talk),
        false => imap_server(talk),
    });
    let second = Peer::start(imap_server);
    let hosts = [first.address(), second.address()];
    let postern = proxy("imap", &hosts, "fail_timeout = 1s");
    drop(logs_in(&postern, "imap"));
    is_down.store(false, Ordering::SeqCst);
    thread::sleep(Duration::from_millis(1100));
    for _ in 0..3 {
        drop(logs_in(&postern, "imap"));
    }
    assert_eq!((first.accepted(), second.accepted()), (4, 1));
    let lines = told(&postern, "is up again");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("backend \"mail\"") && lines[0].contains("[notice]"),
        "{lines:?}"
    );
}

#[test]
fn all_hosts_down_is_unavailable_and_each_was_tried() {
    let (one, two) = (Peer::start(says_bye), Peer::start(says_bye));
    let postern = proxy("imap", &[one.address(), two.address()], "");
    for count in 1..4 {
        let (mut client, answer) = log_in(&postern, "imap");
        assert!(answer.starts_with("a NO [UNAVAILABLE]"), "{answer}");
        client.expect_close();
        assert_eq!((one.accepted(), two.accepted()), (count, count));
    }
    assert_eq!(told(&postern, "is down").len(), 2);
}

/// A host that dies when it has read so many lines of a login.
fn dies_after(protocol: &'static str, lines: usize) -> Peer {
    Peer::start(move |talk: &mut Talk| {
        let (greeting, answers): (&str, &[&str]) = match protocol {
            "imap" => ("* OK hi", &["+ go on", "+ go on"]),
            "pop3" => ("+OK hi", &["+OK"]),
            _ => ("220 hi", &["250-b\r\n250 AUTH PLAIN"]),
        };
        talk.say(greeting)?;
        // It dies instead of its last answer.
        for answer in answers.iter().take(lines.saturating_sub(1)) {
            talk.line()?;
            talk.say(answer)?;
        }
        match lines {
            0 => Ok(()),
            _ => talk.line().map(drop),
        }
    })
}

#[test]
fn a_host_that_dies_before_it_has_the_password_costs_no_second_password() {
    // With 0 it dies behind its greeting, at the end when the password would be next.
    for (protocol, last) in [("imap", 2), ("pop3", 1), ("smtp", 1)] {
        for lines in 0..=last {
            let bad = dies_after(protocol, lines);
            let good = Peer::start(server_of(protocol));
            let postern = proxy(protocol, &[bad.address(), good.address()], "");
            drop(logs_in(&postern, protocol));
            assert_eq!(
                (bad.accepted(), good.accepted()),
                (1, 1),
                "{protocol} {lines}"
            );
            assert_eq!(told(&postern, "is down").len(), 1, "{protocol} {lines}");
            let lines = told(&postern, "trying the next host");
            assert!(lines[0].contains(&bad.address().to_string()), "{lines:?}");
        }
    }
}

const UNAVAILABLE: [(&str, &str); 3] = [
    ("imap", "a NO [UNAVAILABLE] "),
    ("pop3", "-ERR [SYS/TEMP] "),
    ("smtp", "454 4.7.0 "),
];

/// Two logins, of which the first host gets the password and does something else than judge it: both hear
/// that nobody is there, and neither of them goes to the second host.
fn keeps_password_and_standing(protocol: &str, bad: &Peer, server: &str) {
    let good = Peer::start(server_of(protocol));
    let hosts = format!("{} {}", bad.address(), good.address());
    let postern = proxy_by_names(protocol, &hosts, server, "");
    let (_, unavailable) = UNAVAILABLE
        .into_iter()
        .find(|(of, _)| *of == protocol)
        .expect("all three are there");
    for count in 1..3 {
        let (mut client, answer) = log_in(&postern, protocol);
        assert!(answer.starts_with(unavailable), "{protocol}: {answer}");
        client.expect_close();
        let accepted = (bad.accepted(), good.accepted());
        assert_eq!(accepted, (count, 0), "{protocol}");
    }
    let log = postern.stop();
    assert!(!log.contains("is down"), "{log}");
    assert!(!log.contains("next host"), "{log}");
}

#[test]
fn a_host_that_dies_with_the_password_keeps_it_and_its_standing() {
    for (protocol, lines) in [("imap", 3), ("pop3", 2), ("smtp", 2)] {
        keeps_password_and_standing(protocol, &dies_after(protocol, lines), "");
    }
}

#[test]
fn a_host_that_is_silent_about_the_password_keeps_it_and_its_standing() {
    for protocol in ["imap", "pop3", "smtp"] {
        let bad = answers_the_password(protocol, &[]);
        keeps_password_and_standing(protocol, &bad, "timeout = 1s");
    }
}

#[test]
fn a_host_that_says_goodbye_to_the_password_keeps_it_and_its_standing() {
    for (protocol, bye) in [
        ("imap", "* BYE shutting down"),
        ("imap", "* BYE [UNAVAILABLE] shutting down\r\na BAD Goodbye"),
        ("imap", "* BYE shutting down\r\na OK of what?"),
        ("smtp", "421 4.3.2 shutting down"),
    ] {
        keeps_password_and_standing(protocol, &answers_the_password(protocol, &[bye]), "");
    }
}

/// A host that says these to a password, each in a segment of its own, and then nothing more.
fn answers_the_password(protocol: &'static str, said: &[&'static str]) -> Peer {
    let said = said.to_vec();
    Peer::start(move |talk: &mut Talk| {
        let (greeting, answers): (&str, &[&str]) = match protocol {
            "imap" => ("* OK hi", &["+ go on", "+ go on"]),
            "pop3" => ("+OK hi", &["+OK"]),
            _ => ("220 hi", &["250-b\r\n250 AUTH PLAIN"]),
        };
        talk.say(greeting)?;
        for answer in answers {
            talk.line()?;
            talk.say(answer)?;
        }
        talk.line()?;
        for line in &said {
            talk.say(line)?;
            thread::sleep(Duration::from_millis(200));
        }
        talk.wait_for_end()
    })
}

#[test]
fn a_refusal_around_a_goodbye_is_a_refused_login() {
    let answers: [&[&str]; 6] = [
        &["* BYE bye", "a NO [AUTHENTICATIONFAILED] no"],
        &["* BYE bye", "* 1 EXISTS", "a NO no"],
        &["* BYE Too many invalid logon attempts", "a BAD Goodbye"],
        &["* NO [AUTHENTICATIONFAILED] no"],
        &["* NO [AUTHENTICATIONFAILED] no", "* BYE bye"],
        &["* BYE [AUTHENTICATIONFAILED] no"],
    ];
    for said in answers {
        let bad = answers_the_password("imap", said);
        let good = Peer::start(imap_server);
        let postern = proxy("imap", &[bad.address(), good.address()], "");
        let (mut client, answer) = log_in(&postern, "imap");
        let refused = "a NO [AUTHENTICATIONFAILED] Authentication failed";
        assert_eq!(answer, refused, "{said:?}");
        client.ask("b NOOP", "b OK completed");
        assert_eq!((bad.accepted(), good.accepted()), (1, 0), "{said:?}");
        let log = postern.stop();
        assert!(!log.contains("is down"), "{log}");
        assert!(!log.contains("[error]"), "{log}");
    }
}

#[test]
fn a_host_that_says_goodbye_before_it_has_the_password_costs_no_second_password() {
    let cases = [
        ("imap", "* OK hi", "* BYE shutting down"),
        ("smtp", "220 hi", "421 4.3.2 shutting down"),
    ];
    for (protocol, greeting, bye) in cases {
        let bad = Peer::start(move |talk| {
            talk.say(greeting)?;
            talk.line()?;
            talk.say(bye)
        });
        let good = Peer::start(server_of(protocol));
        let postern = proxy(protocol, &[bad.address(), good.address()], "");
        drop(logs_in(&postern, protocol));
        assert_eq!((bad.accepted(), good.accepted()), (1, 1));
    }
}

#[test]
fn a_host_that_never_greets_leaves_time_for_the_next() {
    let (bad, good) = (Peer::start(never_greets), Peer::start(imap_server));
    let postern = Postern::start(&format!(
        "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\ntimeout = 4s\n\
         imap_capabilities = TEST\n[backend mail]\nhosts = {} {}\n",
        bad.address(),
        good.address()
    ));
    let start = Instant::now();
    drop(logs_in(&postern, "imap"));
    assert!(start.elapsed() < Duration::from_secs(4));
    let start = Instant::now();
    drop(logs_in(&postern, "imap"));
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "the second time it comes last"
    );
}

/// A login within a second and a bit, though the first host takes the connection and says nothing.
fn gets_past_a_silent_host(protocol: &str, good: SocketAddr, more: &str) {
    let bad = Peer::start(never_greets);
    let more = format!("connect_timeout = 1s\n{more}");
    let postern = proxy(protocol, &[bad.address(), good], &more);
    let start = Instant::now();
    drop(logs_in(&postern, protocol));
    let took = start.elapsed();
    let limits = Duration::from_secs(1)..Duration::from_secs(4);
    assert!(limits.contains(&took), "{protocol}: {took:?}");
    assert_eq!(told(&postern, "is down").len(), 1);
}

#[test]
fn connect_timeout_covers_the_greeting_and_then_the_next_host_is_tried() {
    for protocol in ["imap", "pop3", "smtp"] {
        let good = Peer::start(server_of(protocol));
        gets_past_a_silent_host(protocol, good.address(), "");
    }
}

#[test]
fn connect_timeout_covers_the_handshake_too() {
    let dovecot = dovecot::shared();
    for (protocol, good) in [("imap", dovecot.imaps), ("pop3", dovecot.pop3s)] {
        let more = "proxy_ssl = on\nproxy_ssl_verify = off";
        gets_past_a_silent_host(protocol, good, more);
    }
}

/// The address of a host that answers nothing, not even that a connection is wanted: its queue is full.
/// It is like that for as long as these sockets are held.
fn silent_address() -> (SocketAddr, Vec<Socket>) {
    let socket = || Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).expect("a socket");
    let listener = socket();
    listener.bind(&local(0).into()).expect("a port");
    listener.listen(0).expect("it is bound");
    let address = listener.local_addr().expect("it is bound");
    let mut held = vec![listener];
    for _ in 0..4 {
        let waiting = socket();
        // Those that find room connect, and the others go on trying.
        let _ = waiting.connect(&address);
        held.push(waiting);
    }
    (address.as_socket().expect("of TCP"), held)
}

/// Does something while a process is stopped for moments, as in a container that is paused or a machine that
/// sleeps: every call that waits is interrupted.
fn while_stopped_for_moments(postern: &Postern, act: impl FnOnce()) {
    let status = format!("/proc/{}/status", postern.id());
    let is_stopped = || fs::read_to_string(&status).is_ok_and(|text| text.contains("State:\tT"));
    let is_done = AtomicBool::new(false);
    let end = Instant::now() + Duration::from_secs(5);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::SeqCst) && Instant::now() < end {
                thread::sleep(Duration::from_millis(300));
                postern.signal(Signal::SIGSTOP);
                wait::until_true("stopped", PATIENCE, is_stopped);
                postern.signal(Signal::SIGCONT);
            }
        });
        act();
        is_done.store(true, Ordering::SeqCst);
    });
}

#[test]
fn connect_timeout_holds_for_a_process_that_is_stopped_for_moments() {
    let (silent, _held) = silent_address();
    let mute = Peer::start(never_greets);
    for bad in [silent, mute.address()] {
        let good = Peer::start(imap_server);
        let postern = proxy("imap", &[bad, good.address()], "connect_timeout = 1s");
        let start = Instant::now();
        while_stopped_for_moments(&postern, || drop(logs_in(&postern, "imap")));
        let took = start.elapsed();
        let limits = Duration::from_secs(1)..Duration::from_secs(4);
        assert!(limits.contains(&took), "{took:?}");
        let lines = told(&postern, "is down");
        assert!(lines[0].contains("timed out"), "{lines:?}");
    }
}

/// A host that thinks about a password for so long and then refuses it.
fn judges_after(time: Duration) -> Peer {
    Peer::start(move |talk: &mut Talk| {
        talk.say("* OK hi")?;
        for _ in 0..2 {
            talk.line()?;
            talk.say("+ go on")?;
        }
        talk.line()?;
        thread::sleep(time);
        talk.say("a NO [AUTHENTICATIONFAILED] no")
    })
}

#[test]
fn a_host_that_refuses_late_is_not_down_and_nobody_else_is_asked() {
    // Its share of the time, were it no more than that, is one second.
    let slow = judges_after(Duration::from_secs(2));
    let others: Vec<Peer> = (0..3).map(|_| Peer::start(imap_server)).collect();
    let mut hosts = vec![slow.address()];
    hosts.extend(others.iter().map(Peer::address));
    let hosts: Vec<String> = hosts.iter().map(SocketAddr::to_string).collect();
    let postern = proxy_by_names("imap", &hosts.join(" "), "timeout = 4s", "");
    let (_, answer) = log_in(&postern, "imap");
    assert!(
        answer.starts_with("a NO [AUTHENTICATIONFAILED]"),
        "{answer}"
    );
    assert!(others.iter().all(|other| other.accepted() == 0));
    assert!(!postern.log().contains("is down"), "{}", postern.log());
}

#[test]
fn a_host_for_which_no_time_was_left_is_not_called_down() {
    let slow = judges_after(Duration::from_secs(20));
    let good = Peer::start(imap_server);
    let hosts = format!("{} {}", slow.address(), good.address());
    let postern = proxy_by_names("imap", &hosts, "timeout = 2s", "");
    let (_, answer) = log_in(&postern, "imap");
    assert!(answer.starts_with("a NO [UNAVAILABLE]"), "{answer}");
    assert_eq!(good.accepted(), 0);
    assert!(!postern.log().contains("is down"), "{}", postern.log());
}

#[test]
fn a_refused_login_is_never_tried_elsewhere() {
    let refusals = [
        (
            "imap",
            "a LOGIN alice refused",
            "a NO [AUTHENTICATIONFAILED]",
        ),
        ("pop3", "USER alice\r\nPASS refused", "-ERR [AUTH]"),
    ];
    for (protocol, login, refusal) in refusals {
        let (one, two) = (
            Peer::start(server_of(protocol)),
            Peer::start(server_of(protocol)),
        );
        let postern = proxy(protocol, &[one.address(), two.address()], "");
        let (mut client, _) = LineClient::greeted(postern.address(protocol));
        for count in 1..6 {
            client.send(login);
            if protocol == "pop3" {
                client.expect("+OK");
            }
            let line = client.line();
            assert!(line.starts_with(refusal), "{line}");
            assert_eq!((one.accepted(), two.accepted()), (count, 0));
        }
        client.expect_close();
        assert!(!postern.log().contains("is down"), "{}", postern.log());
    }
}

#[test]
fn a_killed_dovecot_ends_its_sessions_and_the_next_login_goes_to_the_other() {
    let (one, two) = (Dovecot::start(), Dovecot::start());
    one.deliver("moved", b"Subject: x\n\nFrom one.\n");
    two.deliver("moved", b"Subject: x\n\nFrom two.\n");
    let postern = proxy("imap", &[one.imap, two.imap], "");
    let url = format!("imap://{}/INBOX;UID=1", postern.address("imap"));
    let fetch = || curl(&["--user", "moved:secret", &url]).text();
    assert!(fetch().contains("From one."));
    let mut client = LineClient::imap_login(postern.address("imap"));
    drop(one);
    // Dovecot says goodbye to whom it knows; nothing is invented.
    let rest = String::from_utf8_lossy(&client.rest()).into_owned();
    assert!(rest.is_empty() || rest.starts_with("* BYE"), "{rest}");
    for _ in 0..3 {
        assert!(fetch().contains("From two."));
    }
    assert_eq!(told(&postern, "is down").len(), 1, "{}", postern.log());
}

#[test]
fn mail_goes_to_the_other_postfix_when_one_is_killed() {
    let dovecot = dovecot::shared();
    let (one, two) = (Postfix::start(dovecot), Postfix::start(dovecot));
    let postern = proxy("smtp", &[one.smtp_auth, two.smtp_auth], "");
    let server = postern.address("smtp").to_string();
    let submit = |user: &str| {
        let to = format!("{user}@example.test");
        let login = [
            "--auth",
            "PLAIN",
            "--auth-user",
            user,
            "--auth-password",
            "secret",
        ];
        let said = swaks(
            &[
                &["--server", &server, "--to", &to, "--from", &to],
                &login[..],
            ]
            .concat(),
        );
        assert!(said.success, "{}", said.everything());
    };
    submit("before");
    wait_for_line(&one.log, "sasl_username=before");
    drop(one);
    submit("after");
    wait_for_line(&two.log, "sasl_username=after");
}

#[test]
fn round_robin_counts_out_the_sessions() {
    let hosts: Vec<Peer> = (0..3).map(|_| Peer::start(imap_server)).collect();
    let addresses: Vec<_> = hosts.iter().map(Peer::address).collect();
    let postern = proxy("imap", &addresses, "balance = round_robin");
    for _ in 0..9 {
        drop(logs_in(&postern, "imap"));
    }
    let counts: Vec<_> = hosts.iter().map(Peer::accepted).collect();
    assert_eq!(counts, [3, 3, 3]);
}

#[test]
fn round_robin_leaves_out_a_host_that_is_down() {
    let good: Vec<Peer> = (0..2).map(|_| Peer::start(imap_server)).collect();
    let bad = Peer::start(says_bye);
    let hosts = [good[0].address(), bad.address(), good[1].address()];
    let postern = proxy("imap", &hosts, "balance = round_robin");
    for _ in 0..12 {
        drop(logs_in(&postern, "imap"));
    }
    assert_eq!(bad.accepted(), 1);
    let counts = [good[0].accepted(), good[1].accepted()];
    assert_eq!(counts[0] + counts[1], 12);
    assert!(counts.iter().all(|count| *count >= 4), "{counts:?}");
}

#[test]
fn health_checks_find_a_dead_and_a_revived_host_without_a_client() {
    for (protocol, bye, goodbye) in [
        ("imap", "* BYE down", "p9 LOGOUT\r\n"),
        ("pop3", "-ERR down", "QUIT\r\n"),
        ("smtp", "421 down", "QUIT\r\n"),
    ] {
        let is_down = Arc::new(AtomicBool::new(false));
        let down = Arc::clone(&is_down);
        let host = Peer::start(move |talk| match down.load(Ordering::SeqCst) {
            true => talk.say(bye),
            false => server_of(protocol)(talk),
        });
        let postern = proxy(protocol, &[host.address()], "health_check = 1s");
        host.wait_for(goodbye);
        assert!(!postern.log().contains("is up"), "{}", postern.log());
        is_down.store(true, Ordering::SeqCst);
        let line = postern.wait_for_log("is down");
        assert!(line.contains(&host.address().to_string()), "{line}");
        let visits = host.accepted() + 1;
        let seen = Instant::now();
        wait::until_true("two more visits", PATIENCE, || host.accepted() > visits);
        assert!(
            seen.elapsed() > Duration::from_millis(900),
            "one visit a second"
        );
        is_down.store(false, Ordering::SeqCst);
        postern.wait_for_log("is up again");
        assert_eq!(told(&postern, "is down").len(), 1);
        assert_eq!(told(&postern, "is up again").len(), 1);
        drop(logs_in(&postern, protocol));
    }
}

#[test]
fn health_checks_keep_a_dead_host_last_for_as_long_as_it_is_dead() {
    let (bad, good) = (Peer::start(never_greets), Peer::start(imap_server));
    let more = "health_check = 1s\nfail_timeout = 2s\nconnect_timeout = 300ms";
    let postern = proxy("imap", &[bad.address(), good.address()], more);
    postern.wait_for_log("is down");
    for _ in 0..10 {
        let start = Instant::now();
        drop(logs_in(&postern, "imap"));
        assert!(
            start.elapsed() < Duration::from_millis(250),
            "a client waited for a dead host"
        );
        thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn health_checks_leave_no_warning_in_dovecots_log() {
    let dovecot = Dovecot::start();
    let postern = proxy("imap", &[dovecot.imap], "health_check = 1s");
    wait_for_line(&dovecot.log, "Aborted login");
    postern.stop();
    let log = std::fs::read_to_string(&dovecot.log).expect("Dovecot has a log");
    for word in ["Error", "Warning", "auth failed"] {
        assert!(!log.contains(word), "{log}");
    }
}

/// An IMAP server at any address that lets everybody in, and says its name.
fn small_server_at(address: SocketAddr, name: &'static str) {
    let listener = TcpListener::bind(address).expect("all of 127.0.0.0/8 is ours");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || -> io::Result<()> {
                let mut reader = BufReader::new(stream.try_clone()?);
                let mut stream = stream;
                let said = format!("a OK [CAPABILITY IMAP4rev1] {name}");
                for line in ["* OK hi", "+ go on", "+ go on", &said] {
                    stream.write_all(format!("{line}\r\n").as_bytes())?;
                    reader.read_line(&mut String::new())?;
                }
                Ok(())
            });
        }
    });
}

/// Two small servers at 127.0.0.1 and 127.0.0.2, on one port.
fn two_addresses() -> u16 {
    let port = free_port();
    small_server_at(([127, 0, 0, 1], port).into(), "one");
    small_server_at(([127, 0, 0, 2], port).into(), "two");
    port
}

fn who_answers(postern: &Postern) -> String {
    let (_, answer) = log_in(postern, "imap");
    answer.rsplit(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn a_name_that_changes_its_address_is_followed() {
    for (ttl, valid) in [(1, ""), (3600, " valid=1s")] {
        let port = two_addresses();
        let last = Arc::new(AtomicU8::new(1));
        let now = Arc::clone(&last);
        let dns = DnsStub::start(move |question| {
            let record = Record::loopback(&question.name, now.load(Ordering::SeqCst)).ttl(ttl);
            let records = if question.kind == A {
                vec![record]
            } else {
                Vec::new()
            };
            Some(question.answer(NOERROR, &records))
        });
        let server = format!("resolver = {}{valid}", dns.address());
        let hosts = format!("mail.example.test:{port}");
        let postern = proxy_by_names("imap", &hosts, &server, "");
        assert_eq!(who_answers(&postern), "one");
        assert_eq!(who_answers(&postern), "one");
        assert_eq!(dns.count(A), 1, "the answer is kept for its time");
        last.store(2, Ordering::SeqCst);
        wait::until_true("the new address is used", Duration::from_secs(4), || {
            who_answers(&postern) == "two"
        });
    }
}

#[test]
fn several_addresses_of_a_name_are_several_hosts() {
    let port = free_port();
    small_server_at(([127, 0, 0, 2], port).into(), "two");
    let dns = DnsStub::start(|question| {
        let records: Vec<Record> = match question.kind {
            A => (1..3)
                .map(|last| Record::loopback(&question.name, last))
                .collect(),
            _ => Vec::new(),
        };
        Some(question.answer(NOERROR, &records))
    });
    let server = format!("resolver = {}", dns.address());
    let postern = proxy_by_names("imap", &format!("mail.example.test:{port}"), &server, "");
    for _ in 0..3 {
        assert_eq!(who_answers(&postern), "two");
    }
    let lines = told(&postern, "is down");
    assert!(
        lines.len() == 1 && lines[0].contains(&format!("127.0.0.1:{port}")),
        "{lines:?}"
    );
}

#[test]
fn a_name_server_that_is_silent_about_one_host_does_not_hide_the_others() {
    let good = Peer::start(imap_server);
    let dns = DnsStub::start(|_| None);
    let server = format!("resolver = {}\ntimeout = 6s", dns.address());
    let hosts = format!("lost.example.test {}", good.address());
    let postern = proxy_by_names("imap", &hosts, &server, "");
    drop(logs_in(&postern, "imap"));
}

#[test]
fn a_name_that_does_not_exist_is_unavailable() {
    let dns = DnsStub::start(|question| Some(question.answer(crate::peers::dns::NXDOMAIN, &[])));
    let server = format!("resolver = {}", dns.address());
    let postern = proxy_by_names("imap", "lost.example.test", &server, "");
    let (_, answer) = log_in(&postern, "imap");
    assert!(answer.starts_with("a NO [UNAVAILABLE]"), "{answer}");
    let line = postern.wait_for_log("no address of upstream");
    assert!(line.contains("lost.example.test"), "{line}");
}

#[test]
fn a_backend_that_is_the_proxy_itself_is_recognised_and_passed_over() {
    let port = free_port();
    let dns = DnsStub::start(|question| {
        let records = match question.kind {
            A => vec![Record::loopback(&question.name, 1)],
            _ => Vec::new(),
        };
        Some(question.answer(NOERROR, &records))
    });
    let good = Peer::start(imap_server);
    // A wildcard, which takes what is for each address of the machine.
    let server = format!("listen = 0.0.0.0:{port}\nresolver = {}", dns.address());
    let own = format!("mail.example.test:{port}");
    for (hosts, answer) in [
        (own.clone(), "a NO [UNAVAILABLE]"),
        (format!("{own} {}", good.address()), "a OK"),
    ] {
        let postern = proxy_by_names("imap", &hosts, &server, "");
        let (_, said) = log_in(&postern, "imap");
        assert!(said.starts_with(answer), "{hosts}: {said}");
        let line = postern.wait_for_log("*1 upstream 127.0.0.1:");
        let listener = format!("is our own listener 0.0.0.0:{port}: hosts in ");
        let file = postern.folder().path().join("postern.ini");
        let ini = std::fs::read_to_string(&file).expect("it was written");
        let number = ini
            .lines()
            .take_while(|line| !line.starts_with("hosts"))
            .count()
            + 1;
        let place = format!("{}:{number} must name the server behind it", file.display());
        assert!(line.contains(&listener) && line.contains(&place), "{line}");
        assert_eq!(postern.lines_with("client connected").len(), 1);
    }
}

#[test]
fn an_auth_server_that_names_the_proxy_itself_is_told() {
    let port = free_port();
    let own = ([127, 0, 0, 1], port).into();
    let auth = AuthServer::start(move |_| Answer::ok(own));
    let lines = format!("listen = 127.0.0.1:{port}");
    let postern = Postern::start(&service("imap", &auth, &lines));
    let (_, answer) = log_in(&postern, "imap");
    assert_eq!(answer, "* BAD internal server error");
    let line = postern.wait_for_log(&format!("upstream {own} is our own listener {own}"));
    assert!(
        line.contains("the answer of the auth server must name"),
        "{line}"
    );
    assert_eq!(auth.requests().len(), 1);
}
