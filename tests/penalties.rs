//! What failed logins cost: guessers are slowed down, whether they wait for their answers or not, and
//! nobody else is.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::temp::TempDir;
use crate::common::tools::run;
use crate::common::wait::{PATIENCE, until_at_most, until_true};
use crate::common::{proxy_to, service};
use crate::peers::{Peer, imap_server, server_of};
use crate::servers::{dovecot, office};

/// The promise to honest users.
const AT_ONCE: Duration = Duration::from_secs(1);

const PROTOCOLS: [&str; 3] = ["imap", "pop3", "smtp"];

const LATER: &str = "failed logins of this address are answered later from now on";

/// The answer to a login, without what may stand before it.
fn answer(client: &mut LineClient, protocol: &str) -> String {
    loop {
        let line = client.line_within(Duration::from_secs(40));
        if protocol != "imap" || !line.starts_with("* CAPABILITY ") {
            return line;
        }
    }
}

/// One login from this address of the machine: the answer, and how long it took from the connect.
fn log_in(
    from: [u8; 4],
    (protocol, target): (&str, SocketAddr),
    login: &str,
    password: &str,
) -> (String, Duration) {
    let began = Instant::now();
    let mut client = LineClient::connect_from(from, target);
    client.line();
    client.present_login(protocol, login, password);
    (answer(&mut client, protocol), began.elapsed())
}

fn is_ok(line: &str) -> bool {
    ["a OK", "+OK", "235 "]
        .iter()
        .any(|ok| line.starts_with(ok))
}

/// Insists that a login succeeds at once.
fn gets_in(from: [u8; 4], service: (&str, SocketAddr), login: &str) {
    let (line, took) = log_in(from, service, login, "secret");
    assert!(is_ok(&line), "{service:?}: {line}");
    assert!(took < AT_ONCE, "{service:?} {from:?}: {took:?}");
}

/// Presents a login from this address of the machine.
fn present_from(
    from: [u8; 4],
    service: (&str, SocketAddr),
    login: &str,
    password: &str,
) -> LineClient {
    let mut client = LineClient::connect_from(from, service.1);
    client.line();
    client.present_login(service.0, login, password);
    client
}

/// Fails and does not wait for the answer.
fn fail_and_leave(from: [u8; 4], service: (&str, SocketAddr), login: &str, password: &str) {
    drop(present_from(from, service, login, password));
}

/// An auth server that knows this password of everybody, and this backend.
fn auth_for(password: &'static str, backend: SocketAddr) -> AuthServer {
    AuthServer::start(move |request| match request.header("Auth-Pass") {
        Some(said) if said == password => Answer::ok(backend),
        _ => Answer::refuse("Invalid login or password"),
    })
}

/// The service behind an auth server that takes no time.
fn quick(protocol: &str, more: &str) -> (Postern, Peer, AuthServer) {
    let backend = Peer::start(server_of(protocol));
    let auth = auth_for("secret", backend.address());
    let postern = Postern::start(&service(protocol, &auth, more));
    (postern, backend, auth)
}

const HERE: [u8; 4] = [127, 0, 0, 1];
const ELSEWHERE: [u8; 4] = [127, 0, 0, 2];

/// Lets hydra guess for some seconds; what it said.
fn hydra(protocol: &str, target: SocketAddr, login: &str, seconds: u32) -> String {
    let folder = TempDir::new("hydra");
    let mut words: Vec<String> = (0..300).map(|number| format!("guess{number}")).collect();
    words[150] = "secret".to_owned();
    let words = folder.write("words", words.join("\n"));
    let (folder, words, port) = (folder.path().display(), words.display(), target.port());
    let script = format!(
        "cd {folder} && timeout {seconds} hydra -I -t 16 -l {login} -P {words} -s {port} 127.0.0.1 \
         {protocol}"
    );
    let said = run("sh", &["-c", &script], b"");
    said.everything()
}

#[test]
fn hydra_gains_nothing_after_the_free_tries_and_honest_users_are_served() {
    let guesses = "backend refused the login";
    let postern = office("");
    let found = "password: secret";
    thread::scope(|scope| {
        let guessers: Vec<_> = PROTOCOLS
            .into_iter()
            .map(|protocol| {
                let target = postern.address(protocol);
                scope.spawn(move || hydra(protocol, target, &format!("guessed-{protocol}"), 12))
            })
            .collect();
        // It has all its connections, and their answers wait.
        until_true("hydra is at work", PATIENCE, || {
            postern.count(guesses) >= 20
        });
        for (number, protocol) in PROTOCOLS.into_iter().enumerate() {
            let service = (protocol, postern.address(protocol));
            gets_in(ELSEWHERE, service, "anna");
            // A penalty is the address's, whatever the protocol: 48 connections wait for their answers, and a
            // user who has not been here before waits too.
            gets_in(
                [127, 0, 0, 3 + u8::try_from(number).expect("small")],
                service,
                "guessed-imap",
            );
        }
        for guesser in guessers {
            let said = guesser.join().expect("hydra ends");
            assert!(!said.contains(found), "{said}");
        }
    });
    // Free ones, those that were under way with the first of them, and then twenty in fifteen seconds.
    let tried = postern.count(guesses);
    assert!((20..=5 + 48 + 48).contains(&tried), "{tried}");

    // Without penalties it is through its list in that time.
    let postern = office("auth_penalty_max = off");
    let said = hydra("imap", postern.address("imap"), "guessed-imap", 12);
    assert!(said.contains(found), "{said}");
}

#[test]
fn beside_hydra_a_newcomer_behind_the_same_address_gets_in_at_once() {
    for protocol in PROTOCOLS {
        let postern = office("");
        let target = postern.address(protocol);
        thread::scope(|scope| {
            let guesser = scope.spawn(|| hydra(protocol, target, "guessed", 6));
            until_true("hydra is at work", PATIENCE, || postern.count(LATER) > 0);
            for number in 0..3 {
                gets_in(HERE, (protocol, target), &format!("newcomer{number}"));
            }
            let said = guesser.join().expect("hydra ends");
            assert!(!said.contains("password: secret"), "{said}");
        });
        assert_eq!(postern.count(LATER), 1, "{}", postern.log());
    }
}

#[test]
fn each_failure_beyond_the_free_ones_is_answered_twice_as_late() {
    let more = "auth_penalty_free = 2\nauth_penalty_max = 3s";
    let (postern, _backend, _auth) = quick("imap", more);
    let service = ("imap", postern.address("imap"));
    let times: Vec<_> = (0..5)
        .map(|number| {
            let (line, took) = log_in(HERE, service, "late", &format!("wrong{number}"));
            assert!(line.starts_with("a NO Invalid login"), "{line}");
            took.as_secs_f32()
        })
        .collect();
    let at_least = [0.0, 0.0, 1.0, 2.0, 3.0];
    for (took, least) in times.iter().zip(at_least) {
        assert!((least..least + 0.9).contains(took), "{times:?}");
    }
    // A login that succeeds is not late, and forgives nothing.
    gets_in(HERE, service, "late");
    let (_, took) = log_in(HERE, service, "late", "another");
    assert!(took >= Duration::from_secs(3), "{took:?}");
}

#[test]
fn a_telephone_with_an_old_password_locks_nobody_out() {
    for protocol in PROTOCOLS {
        let (postern, _backend, auth) = quick(protocol, "");
        let service = (protocol, postern.address(protocol));
        for _ in 0..100 {
            let (line, took) = log_in(HERE, service, "phone", "oldpassword");
            assert!(!is_ok(&line) && took < AT_ONCE, "{line} {took:?}");
        }
        assert_eq!(auth.requests().len(), 100);
        // Somebody else behind the address mistypes, and then does not.
        let (line, took) = log_in(HERE, service, "colleague", "mistyped");
        assert!(!is_ok(&line) && took < AT_ONCE, "{line} {took:?}");
        gets_in(HERE, service, "colleague");
        assert_eq!(postern.count(LATER), 0);
    }
}

#[test]
fn whoever_does_not_wait_for_answers_gains_no_further_check() {
    let (postern, _backend, auth) = quick("imap", "");
    let service = ("imap", postern.address("imap"));
    gets_in(HERE, service, "regular");
    let descriptors = postern.descriptors() + 4;
    let began = Instant::now();
    for number in 0..200 {
        fail_and_leave(HERE, service, "guessed", &format!("guess{number}"));
    }
    // Whoever has logged in from here before is not held up.
    gets_in(HERE, service, "regular");
    gets_in(ELSEWHERE, service, "newcomer");
    until_at_most(
        "all have left",
        descriptors,
        Duration::from_secs(40),
        || postern.descriptors(),
    );
    // Five are free. Then twenty may wait for their answers; those that waited for one, two, four and eight
    // seconds only have given their places to others. Some were under way with the first.
    let rounds = usize::try_from(began.elapsed().as_secs() / 15).expect("small");
    let guesses = auth.requests();
    let guesses = guesses
        .iter()
        .filter(|request| request.header("Auth-User") == Some("guessed"));
    let guesses = guesses.count();
    assert!(guesses <= 5 + 4 + 20 * (rounds + 1) + 5, "{guesses}");
    // Who has not been here before gets a place in time.
    let (line, _) = log_in(HERE, service, "newcomer", "secret");
    assert!(is_ok(&line), "{line}");
}

#[test]
fn a_login_that_finds_no_place_in_its_time_is_told_to_come_back() {
    for (protocol, busy) in [
        ("imap", "* BYE [UNAVAILABLE] "),
        ("pop3", "-ERR [SYS/TEMP] "),
        ("smtp", "421 4.3.2 "),
    ] {
        let (postern, _backend, auth) = quick(protocol, "timeout = 2s");
        let service = (protocol, postern.address(protocol));
        let guess = |number| present_from(HERE, service, "guessed", &format!("guess{number}"));
        let _guessers: Vec<_> = (0..80).map(guess).collect();
        until_true("no place is left", PATIENCE, || auth.requests().len() >= 20);
        let mut client = present_from(HERE, service, "newcomer", "secret");
        let line = client.line_within(Duration::from_secs(20));
        assert!(line.starts_with(busy), "{line}");
        client.expect_close();
        postern.wait_for_log("too many logins of this address failed or are being checked");
    }
}

/// The service with a listener that wants a PROXY header, and believes it.
fn behind_proxy(auth: &AuthServer, more: &str) -> String {
    let ini = service(
        "imap",
        auth,
        &format!("set_real_ip_from = 127.0.0.1\n{more}"),
    );
    ini.replace(
        "listen = 127.0.0.1:0",
        "listen = 127.0.0.1:0 proxy_protocol",
    )
}

fn connect_as(source: &str, target: SocketAddr) -> LineClient {
    let mut client = LineClient::connect(target);
    let header = format!("PROXY TCP4 {source} 198.51.100.1 1234 143\r\n");
    client.send_raw(header.as_bytes());
    client.line();
    client
}

#[test]
fn a_thousand_penalised_addresses_hold_no_worker() {
    let backend = Peer::start(imap_server);
    let auth = auth_for("secret", backend.address());
    let more = behind_proxy(&auth, "auth_penalty_free = 0\nauth_penalty_max = 1m");
    let postern = Postern::start(&format!("[postern]\nworkers = 4\n{more}"));
    let target = postern.address("imap");
    // Each address fails five times: after one, two, four, eight and sixteen seconds it is told so.
    let guess = |round: usize| -> Vec<LineClient> {
        let addresses = (0..1000).map(|number| format!("10.1.{}.{}", number / 250, number % 250));
        let presented = addresses.map(|address| {
            let mut client = connect_as(&address, target);
            client.send(&format!("a LOGIN guessed guess{round}"));
            client
        });
        presented.collect()
    };
    for round in 0..4 {
        for mut client in guess(round) {
            let line = answer(&mut client, "imap");
            assert!(line.starts_with("a NO "), "{line}");
        }
    }
    let held = guess(4);
    until_true("all have failed", PATIENCE, || {
        postern.count("client login failed") >= 5000
    });
    for _ in 0..5 {
        let began = Instant::now();
        let mut client = connect_as("192.0.2.1", target);
        client.send("a LOGIN honest secret");
        let line = answer(&mut client, "imap");
        assert!(is_ok(&line) && began.elapsed() < AT_ONCE, "{line}");
    }
    assert!(
        postern.descriptors() > 900,
        "they still wait for their answers"
    );
    drop(held);
}

#[test]
fn whoever_is_exempt_is_answered_at_once() {
    let more = "auth_penalty_free = 0\nauth_penalty_exempt = 127.0.0.2\nauth_penalty_exempt = 127.3.0.0/16";
    let (postern, _backend, _auth) = quick("imap", more);
    let service = ("imap", postern.address("imap"));
    for from in [ELSEWHERE, [127, 3, 4, 5]] {
        for number in 0..10 {
            let (line, took) = log_in(from, service, "webmail", &format!("wrong{number}"));
            assert!(
                line.starts_with("a NO ") && took < AT_ONCE,
                "{line} {took:?}"
            );
        }
    }
    let (_, took) = log_in(HERE, service, "webmail", "wrong");
    assert!(took >= Duration::from_secs(1), "{took:?}");
}

#[test]
fn timeout_does_not_cut_a_delay_short_and_whoever_leaves_in_it_is_gone() {
    for protocol in PROTOCOLS {
        let postern = office("auth_penalty_free = 0\ntimeout = 2s");
        let service = (protocol, postern.address(protocol));
        for number in 0..2 {
            fail_and_leave(HERE, service, "late", &format!("wrong{number}"));
        }
        until_true("both have left", PATIENCE, || {
            postern.count("session closed") == 2 && postern.count("backend refused the login") == 2
        });
        let (line, took) = log_in(HERE, service, "late", "wrong");
        let refused = ["a NO [AUTH", "-ERR [AUTH]", "535 5.7.8"];
        assert!(refused.iter().any(|code| line.starts_with(code)), "{line}");
        assert!(took >= Duration::from_secs(4), "{took:?}");
    }
}

#[test]
fn a_backend_that_refuses_what_the_auth_server_has_granted_is_a_failed_login_too() {
    let (postern, _auth) = proxy_to("imap", dovecot::shared().imap, "auth_penalty_free = 1");
    let service = ("imap", postern.address("imap"));
    let (line, took) = log_in(HERE, service, "granted", "wrong1");
    assert!(!is_ok(&line) && took < AT_ONCE, "{line} {took:?}");
    let (line, took) = log_in(HERE, service, "granted", "wrong2");
    assert!(
        !is_ok(&line) && took >= Duration::from_secs(1),
        "{line} {took:?}"
    );
    let refusals = |wanted| {
        until_true("the refusal is logged", PATIENCE, || {
            postern.lines_with("upstream sent invalid response").len() == wanted
        });
    };
    refusals(2);
    // Whoever leaves changes nothing about what the log says.
    fail_and_leave(HERE, service, "granted", "wrong3");
    refusals(3);
}

/// Nothing that the client has shown was refused there.
#[test]
fn a_backend_that_refuses_a_password_of_the_auth_servers_costs_the_client_nothing() {
    let auth = AuthServer::start(|_| Answer::ok_with(dovecot::shared().imap, &["Auth-Pass: old"]));
    let postern = Postern::start(&service("imap", &auth, "auth_penalty_free = 0"));
    for number in 0..3 {
        let service = ("imap", postern.address("imap"));
        let (line, took) = log_in(HERE, service, "granted", &format!("good{number}"));
        assert!(!is_ok(&line) && took < AT_ONCE, "{line} {took:?}");
    }
}

#[test]
fn an_auth_server_that_fails_costs_its_clients_nothing() {
    let auth = AuthServer::start(|_| Answer::Close);
    let postern = Postern::start(&service("imap", &auth, "auth_penalty_free = 0"));
    let service = ("imap", postern.address("imap"));
    for number in 0..3 {
        let mut client = LineClient::connect(service.1);
        client.line();
        let began = Instant::now();
        client.present_login("imap", "anna", &format!("any{number}"));
        let line = client.line();
        assert!(
            line.starts_with("* BAD") && began.elapsed() < AT_ONCE,
            "{line}"
        );
    }
}

#[test]
fn a_user_is_guessed_at_slowly_from_many_addresses_but_not_locked_out() {
    let (postern, _backend, _auth) = quick("imap", "auth_failures_per_user = 3");
    let service = ("imap", postern.address("imap"));
    let home = [127, 0, 0, 99];
    gets_in(home, service, "owner");
    for login in ["owner", "nobody@nowhere.example"] {
        let late = (1..=5).map(|last| {
            let (line, took) = log_in([127, 0, 1, last], service, login, &format!("guess{last}"));
            assert!(line.starts_with("a NO "), "{line}");
            took >= AT_ONCE
        });
        // Whether there is such a user or not.
        assert_eq!(late.collect::<Vec<_>>(), [false, false, false, true, true]);
    }
    let (line, took) = log_in(home, service, "owner", "mistyped");
    assert!(
        line.starts_with("a NO ") && took < AT_ONCE,
        "{line} {took:?}"
    );
    gets_in(home, service, "owner");
    // From a new address too, as long as nobody holds all places.
    gets_in([127, 0, 0, 98], service, "OWNER");
}

#[test]
fn what_is_delayed_is_counted_without_names() {
    let backend = Peer::start(imap_server);
    let auth = auth_for("secret", backend.address());
    let server = service("imap", &auth, "auth_penalty_free = 0");
    let postern = Postern::start(&format!("[postern]\nstatus = 127.0.0.1:0\n{server}"));
    let (line, took) = log_in(HERE, ("imap", postern.address("imap")), "anna", "wrong");
    assert!(!is_ok(&line) && took >= AT_ONCE, "{line} {took:?}");
    let at = postern.wait_for_log("the status page is at ");
    let url = at.rsplit("is at ").next().expect("a place").trim();
    let page = crate::common::tools::curl(&[&format!("{url}metrics")]).text();
    let expected = r#"postern_logins_delayed_total{protocol="imap",server="imap"} 1"#;
    assert!(page.contains(expected), "{page}");
    assert!(!page.contains("anna"));
}
