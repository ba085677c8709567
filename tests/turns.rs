//! Whose turn it is: a slow backend or auth server does not hold all workers, delays are kept to the
//! full, and a client that hangs up while it waits is gone at once.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::crowd::log_in;
use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::service;
use crate::common::wait::{PATIENCE, until_true};
use crate::peers::dns::DnsStub;
use crate::peers::unruly::never_greets;
use crate::peers::{Peer, server_of};

/// The promise.
const AT_ONCE: Duration = Duration::from_secs(1);

const PROTOCOLS: [&str; 3] = ["imap", "pop3", "smtp"];

/// Presents a login; the answer is still to come.
fn present(protocol: &str, target: SocketAddr, login: &str) -> LineClient {
    let (mut client, _) = LineClient::greeted(target);
    client.present_login(protocol, login, "pw");
    client
}

/// What is said where a server of ours finds no backend in time.
fn not_available(protocol: &str) -> &'static str {
    match protocol {
        "imap" => "a NO [UNAVAILABLE] mail server is not available",
        "pop3" => "-ERR [SYS/TEMP] mail server is not available",
        _ => "454 4.7.0 mail server is not available",
    }
}

/// Thirty logins at a target that is slow; each ends with `line`, within these times. Others get in
/// meanwhile, through `good`. Returns how long the thirty took, shortest first.
fn others_get_in_beside(
    protocol: &'static str,
    slow: (SocketAddr, &'static str),
    limits: (Duration, Duration),
    good: impl Fn() -> Duration,
) -> Vec<Duration> {
    let (target, line) = slow;
    let clients: Vec<_> = (0..30)
        .map(|_| {
            thread::spawn(move || {
                let began = Instant::now();
                let mut client = present(protocol, target, "x@slow");
                assert_eq!(client.line(), line);
                began.elapsed()
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(300));
    for _ in 0..5 {
        let took = good();
        assert!(took < AT_ONCE, "{protocol}: {took:?}");
    }
    let told = clients.into_iter().map(|client| client.join());
    let told: Result<Vec<_>, _> = told.collect();
    let mut told = told.expect("each of them is told");
    told.sort();
    let (at_least, at_most) = limits;
    assert!(at_least <= told[0], "{protocol}: {told:?}");
    assert!(told[29] < at_most, "{protocol}: {told:?}");
    told
}

/// How long the login of somebody takes whose backend answers.
fn log_in_to_good(protocol: &'static str, target: SocketAddr) -> Duration {
    let began = Instant::now();
    let mut client = present(protocol, target, "x@good");
    let answer = client.line();
    let accepted = ["a OK", "+OK", "235"];
    let is_accepted = accepted.iter().any(|word| answer.starts_with(word));
    assert!(is_accepted, "{protocol}: {answer}");
    began.elapsed()
}

/// The proxy with a backend that takes connections and never greets, and one that answers.
fn slow_and_good(protocol: &str, server: &str, slow: &Peer, good: &Peer, host: &str) -> Postern {
    Postern::start(&format!(
        "[postern]\nworkers = 16\n\
         [server {protocol}]\nprotocol = {protocol}\nlisten = 127.0.0.1:0\nserver_name = proxy.test\n\
         auth = passthrough\nproxy_smtp_auth = on\n{server}\n\
         [backend slow]\nhosts = {}\n{host}\n[backend good]\nhosts = {}\n\
         [routes]\nroute = @slow slow\nroute = @good good\n",
        slow.address(),
        good.address()
    ))
}

#[test]
fn a_backend_that_never_greets_does_not_delay_logins_to_another() {
    for protocol in PROTOCOLS {
        let (slow, good) = (Peer::start(never_greets), Peer::start(server_of(protocol)));
        let postern = slow_and_good(protocol, "timeout = 3s", &slow, &good, "");
        let target = postern.address(protocol);
        let limits = (Duration::from_secs(3), Duration::from_secs(3) + AT_ONCE);
        let told = (target, not_available(protocol));
        others_get_in_beside(protocol, told, limits, || log_in_to_good(protocol, target));
        postern.stop();
    }
}

/// A time for logins, and capabilities that no visit to a backend is needed for.
fn listed(timeout: &str) -> String {
    format!("timeout = {timeout}\nimap_capabilities = IMAP4rev1")
}

#[test]
fn connect_timeout_covers_the_greeting_and_the_next_in_line_get_their_turn() {
    let (slow, good) = (Peer::start(never_greets), Peer::start(server_of("imap")));
    let host = "connect_timeout = 1s";
    let postern = slow_and_good("imap", &listed("10s"), &slow, &good, host);
    let target = postern.address("imap");
    let limits = (Duration::from_secs(1), Duration::from_secs(3) + AT_ONCE);
    let told = (target, not_available("imap"));
    let took = others_get_in_beside("imap", told, limits, || log_in_to_good("imap", target));
    assert!(took[0] < 2 * AT_ONCE, "{took:?}");
    // Twelve at a time have a place there.
    assert!(took[29] >= 3 * AT_ONCE, "{took:?}");
    // All of them came to the backend in the end.
    assert_eq!(slow.accepted(), 30);
    postern.stop();
}

#[test]
fn an_auth_server_that_never_answers_does_not_delay_logins_at_another() {
    let backend = Peer::start(server_of("pop3"));
    let address = backend.address();
    let slow = AuthServer::start(|_| Answer::Stall);
    let good = AuthServer::start(move |_| Answer::ok(address));
    let postern = Postern::start(&format!(
        "[postern]\nworkers = 16\n{}{}",
        service("imap", &slow, "auth_http_timeout = 2s"),
        service("pop3", &good, "")
    ));
    let told = (postern.address("imap"), "* BAD internal server error");
    // Who is given a place at the last moment has all of the time for its question.
    let limits = (Duration::from_secs(2), Duration::from_secs(4) + AT_ONCE);
    others_get_in_beside("imap", told, limits, || {
        log_in(postern.address("pop3"), "pop3")
    });
    postern.stop();
}

/// Guesses one password after the other as fast as it can, on one connection after the other, and says
/// how many verdicts it was told. Each of them must come three seconds after its login or later.
fn guess(target: SocketAddr, end: Instant) -> usize {
    let mut verdicts = 0;
    while Instant::now() < end {
        let Ok(mut stream) = TcpStream::connect(target) else {
            continue;
        };
        let mut asked = None;
        let mut heard = String::new();
        while Instant::now() < end {
            let left = end.saturating_duration_since(Instant::now());
            let limit = Some(left.max(Duration::from_millis(1)));
            stream.set_read_timeout(limit).expect("a socket");
            let mut buffer = [0; 512];
            match stream.read(&mut buffer) {
                Ok(count) if count > 0 => {
                    heard.push_str(&String::from_utf8_lossy(&buffer[..count]))
                }
                _ => break,
            }
            if heard.contains("a NO") {
                let asked: Instant = asked.expect("a verdict answers a login");
                assert!(asked.elapsed() >= AUTH_WAIT, "{:?}", asked.elapsed());
                verdicts += 1;
            } else if !heard.contains("* OK IMAP4 ready\r\n") {
                // Somebody else's place is wanted, or this one's.
                continue;
            }
            heard.clear();
            asked = Some(Instant::now());
            if stream.write_all(b"a LOGIN alice wrong\r\n").is_err() {
                break;
            }
        }
    }
    verdicts
}

const AUTH_WAIT: Duration = Duration::from_secs(3);

#[test]
fn auth_wait_is_kept_to_the_full_whatever_else_the_address_does() {
    for (process, most) in [
        // At the beginning, after three seconds and after six.
        ("", 40 * 3),
        // Who is held back is not silent.
        ("max_prelogin_per_ip = 10", 40 * 3),
        // Nobody is rid of his wait by coming back; sixteen more may be there while some say goodbye.
        ("max_sessions = 30", 40 * 3),
    ] {
        let auth = AuthServer::start(|_| Answer::headers(&["Auth-Status: no", "Auth-Wait: 3"]));
        let server = service("imap", &auth, "");
        let postern = Postern::start(&format!("[postern]\n{process}\n{server}"));
        let target = postern.address("imap");
        let end = Instant::now() + Duration::from_secs(7);
        let guessing: Vec<_> = (0..40)
            .map(|_| thread::spawn(move || guess(target, end)))
            .collect();
        let verdicts = guessing.into_iter().map(|thread| thread.join());
        let verdicts: usize = verdicts.map(|told| told.expect("none came early")).sum();
        let fewest = match process {
            "max_sessions = 30" => 30,
            _ => 40,
        };
        assert!(verdicts >= 2 * fewest, "{process}: {verdicts}");
        let guesses = auth.requests().len();
        assert!(guesses <= most, "{process}: {guesses}");
        postern.stop();
    }
}

#[test]
fn a_delayed_greeting_comes_in_time_to_everybody_who_waits_for_it() {
    let auth = AuthServer::start(|_| Answer::Stall);
    let server = service("smtp", &auth, "smtp_greeting_delay = 2s");
    let postern = Postern::start(&format!("[postern]\nworkers = 4\n{server}"));
    let target = postern.address("smtp");
    let patient: Vec<_> = (0..150)
        .map(|_| {
            thread::spawn(move || {
                let began = Instant::now();
                let (_client, greeting) = LineClient::greeted(target);
                assert!(greeting.starts_with("220 "), "{greeting}");
                began.elapsed()
            })
        })
        .collect();
    let mut impatient = LineClient::connect(target);
    impatient.ask(
        "EHLO early",
        "503 5.5.0 Improper use of SMTP command pipelining",
    );
    impatient.expect_close();
    let closed = || postern.lines_with("session closed").len();
    until_true("it is closed", AT_ONCE, || closed() == 1);
    drop(LineClient::connect(target));
    until_true("who hangs up is gone at once", AT_ONCE, || closed() == 2);
    for client in patient {
        let took = client.join().expect("each of them is greeted");
        assert!(took >= Duration::from_secs(2), "{took:?}");
        assert!(took < Duration::from_millis(3500), "{took:?}");
    }
    postern.stop();
}

/// Logs in, and hangs up while that is not decided.
fn hang_up_in_login(protocol: &str, says: &str, postern: &Postern, came_so_far: impl Fn() -> bool) {
    for (number, half) in [false, true].into_iter().enumerate() {
        let (mut client, _) = LineClient::greeted(postern.address(protocol));
        client.send(says);
        until_true("the login is on its way", AT_ONCE, &came_so_far);
        thread::sleep(Duration::from_millis(100));
        assert_eq!(postern.lines_with("session closed").len(), number);
        match half {
            true => client.half_close(),
            false => client
                .stream()
                .shutdown(Shutdown::Both)
                .expect("it is open"),
        }
        until_true("who hangs up is gone at once", AT_ONCE, || {
            postern.lines_with("session closed").len() == number + 1
        });
    }
}

#[test]
fn a_client_that_hangs_up_under_auth_wait_is_gone_at_once() {
    for status in ["no", "WAIT"] {
        let refusal = format!("Auth-Status: {status}");
        let auth = AuthServer::start(move |_| Answer::headers(&[&refusal, "Auth-Wait: 60"]));
        let server = service("imap", &auth, "");
        let postern = Postern::start(&format!("[postern]\nworkers = 1\n{server}"));
        hang_up_in_login("imap", "a LOGIN alice wrong", &postern, || {
            !auth.requests().is_empty()
        });
        postern.stop();
    }
}

#[test]
fn a_client_that_hangs_up_while_its_name_is_looked_up_is_gone_at_once() {
    let dns = DnsStub::start(|_| None);
    let auth = AuthServer::start(|_| Answer::Stall);
    let resolver = format!("resolver = {}\nresolver_timeout = 30s", dns.address());
    let server = service("smtp", &auth, &resolver);
    let postern = Postern::start(&format!("[postern]\nworkers = 1\n{server}"));
    hang_up_in_login("smtp", "AUTH PLAIN AGJvYgBwdw==", &postern, || true);
    assert_eq!(auth.requests().len(), 0);
    postern.stop();
}

#[test]
fn a_client_that_hangs_up_in_line_for_a_slow_backend_is_gone_at_once() {
    let (slow, good) = (Peer::start(never_greets), Peer::start(server_of("imap")));
    let postern = slow_and_good("imap", &listed("10s"), &slow, &good, "");
    let target = postern.address("imap");
    let clients: Vec<_> = (0..13).map(|_| present("imap", target, "x@slow")).collect();
    until_true("twelve have a place", AT_ONCE, || slow.accepted() == 12);
    thread::sleep(Duration::from_millis(200));
    assert_eq!(slow.accepted(), 12);
    // Twelve of them hold a worker, which notices when it has its answer; one is in line.
    drop(clients);
    until_true("who is in line is gone at once", AT_ONCE, || {
        postern.lines_with("session closed").len() == 1
    });
    postern.stop();
}

/// A client that says more and more and takes nothing of what it is told.
fn deaf(target: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a socket");
    socket.connect(&target.into()).expect("it listens");
    let mut stream = TcpStream::from(socket);
    stream.set_nonblocking(true).expect("a socket");
    let commands = b"a CAPABILITY\r\n".repeat(1000);
    stream.write_all(&commands).expect("the kernel has room");
    stream
}

#[test]
fn a_client_that_takes_nothing_is_given_up_after_send_timeout_and_holds_no_worker() {
    let backend = Peer::start(server_of("imap"));
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let capabilities = vec!["X-A-LONG-CAPABILITY"; 200].join(" ");
    let more = format!("imap_capabilities = {capabilities}\nmax_commands = 100000");
    let server = service("imap", &auth, &more).replace(":0\n", ":0 sndbuf=8k\n");
    let process = "workers = 1\nsend_timeout = 2s";
    let postern = Postern::start(&format!("[postern]\n{process}\n{server}"));
    let target = postern.address("imap");
    let began = Instant::now();
    let _deaf: Vec<_> = (0..5).map(|_| deaf(target)).collect();
    let closed = || postern.lines_with("client timed out").len();
    for _ in 0..5 {
        let took = log_in(target, "imap");
        assert!(took < AT_ONCE, "{took:?}");
    }
    assert_eq!(closed(), 0);
    until_true("all are given up", 4 * AT_ONCE, || closed() == 5);
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(2), "{took:?}");
    postern.stop();
}

/// Sessions that are inside, by the log.
fn inside(postern: &Postern) -> usize {
    postern.lines_with("client connected").len() - postern.lines_with("session closed").len()
}

#[test]
fn who_keeps_talking_does_not_carry_the_house_beyond_its_bound() {
    let auth = AuthServer::start(|_| Answer::Stall);
    let server = service("imap", &auth, "");
    let postern = Postern::start(&format!("[postern]\nmax_sessions = 8\n{server}"));
    let target = postern.address("imap");
    let mut strangers: Vec<LineClient> = Vec::new();
    for number in 0..80_u8 {
        strangers.push(LineClient::connect_from([127, 0, 1, number + 1], target));
        for stranger in &mut strangers {
            // Those who were sent away hear nothing any more.
            let _ = stranger.stream().write(b"x");
        }
        thread::sleep(Duration::from_millis(30));
    }
    // A quarter more, or sixteen, may be there while they say goodbye.
    let inside = inside(&postern);
    assert!(inside <= 8 + 16 + 2, "{inside}");
    postern.stop();
}

#[test]
fn an_address_is_not_punished_for_those_who_logged_in_when_they_were_to_go() {
    let backend = Peer::start(server_of("imap"));
    let place = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(place));
    let server = service("imap", &auth, "");
    let postern = Postern::start(&format!("[postern]\nmax_sessions = 4\n{server}"));
    let target = postern.address("imap");
    let mut asked: Vec<_> = (0..4).map(|_| LineClient::greeted(target).0).collect();
    let newcomers: Vec<_> = (0..3).map(|_| LineClient::greeted(target).0).collect();
    for client in &mut asked[..2] {
        client.send("a LOGIN bob pw");
        client.lines_until("a OK");
    }
    drop(asked);
    until_true("they are gone", PATIENCE, || inside(&postern) <= 3);
    drop(newcomers);
    until_true("all are gone", PATIENCE, || inside(&postern) == 0);
    let (mut alone, _) = LineClient::greeted(target);
    thread::sleep(Duration::from_millis(2500));
    alone.ask("b NOOP", "b OK completed");
    postern.stop();
}

#[test]
fn text_behind_a_refused_bdat_holds_no_worker() {
    let backend = Peer::start(server_of("smtp"));
    let place = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(place));
    let server = service("smtp", &auth, "");
    let postern = Postern::start(&format!("[postern]\nworkers = 1\n{server}"));
    let target = postern.address("smtp");
    let (mut pourer, _) = LineClient::greeted(target);
    pourer.send("BDAT 18446744073709551615");
    let mut stream = pourer.stream();
    let pouring = thread::spawn(move || while stream.write_all(&[b'x'; 65_536]).is_ok() {});
    for _ in 0..5 {
        let began = Instant::now();
        let (mut client, _) = LineClient::greeted(target);
        client.ask("AUTH PLAIN AGJvYgBwdw==", "235 2.0.0 OK");
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    }
    postern.stop();
    drop(pourer);
    pouring.join().expect("it ends with the connection");
}

#[test]
fn a_reset_is_noticed_while_a_name_is_looked_up_whatever_was_sent_before() {
    let dns = DnsStub::start(|_| None);
    let auth = AuthServer::start(|_| Answer::Stall);
    let resolver = format!("resolver = {}\nresolver_timeout = 30s", dns.address());
    let postern = Postern::start(&service("smtp", &auth, &resolver));
    let (mut client, _) = LineClient::greeted(postern.address("smtp"));
    client.send_raw(format!("AUTH PLAIN AGJvYgBwdw==\r\n{}", "NOOP\r\n".repeat(8000)).as_bytes());
    thread::sleep(Duration::from_millis(300));
    socket2::SockRef::from(&client.stream())
        .set_linger(Some(Duration::ZERO))
        .expect("a socket");
    drop(client);
    until_true("it is gone at once", AT_ONCE, || inside(&postern) == 0);
    postern.stop();
}

#[test]
fn who_waits_for_a_delayed_greeting_is_not_silent() {
    let auth = AuthServer::start(|_| Answer::Stall);
    let server = service("smtp", &auth, "smtp_greeting_delay = 3s");
    let ini = format!("[postern]\nmax_prelogin_per_ip = 2\n{server}");
    let postern = Postern::start(&ini);
    let patient: Vec<_> = (0..4)
        .map(|_| LineClient::connect(postern.address("smtp")))
        .collect();
    for mut client in patient {
        let line = client.line();
        assert!(line.starts_with("220 "), "{line}");
    }
    postern.stop();
}
