//! Crowds and slow clients: a thousand connections that only stand there do not keep an honest client
//! waiting, and an office that comes back all at once gets in.

mod common;
mod peers;
mod servers;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::auth_server::{Answer, AuthServer};
use common::line_client::LineClient;
use common::postern::Postern;
use common::temp::TempDir;
use common::{service, wait};
use peers::{Peer, imap_server, pop3_server, smtp_server};
use servers::certificate;
use socket2::{Domain, Socket, Type};

const CROWD: usize = 1000;

/// The promise.
const AT_ONCE: Duration = Duration::from_secs(1);

/// When a member of a crowd that was closed comes back.
const BACK_AFTER: Duration = Duration::from_secs(5);

/// Connections that stand there. One that is closed comes back, but not at once: against a flood of
/// connections only a packet filter helps.
struct Crowd {
    end: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Crowd {
    /// `says` is sent once, then a byte of `trickle` now and then. With `addresses` = 1 all come from
    /// 127.0.0.1, otherwise from that many addresses of 127.1.0.0/16.
    fn gather(
        target: SocketAddr,
        addresses: u16,
        says: &'static [u8],
        trickle: &'static [u8],
    ) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let standing = Arc::new(AtomicUsize::new(0));
        let threads = (0..10).map(|group| {
            let (end, standing) = (Arc::clone(&end), Arc::clone(&standing));
            thread::spawn(move || {
                let mut members: Vec<_> = (0..CROWD / 10)
                    .map(|member| u16::try_from(group * (CROWD / 10) + member).expect("small"))
                    .map(|member| Member::new(member % addresses, target, says))
                    .collect();
                standing.fetch_add(members.len(), Ordering::SeqCst);
                while !end.load(Ordering::SeqCst) {
                    members
                        .iter_mut()
                        .for_each(|member| member.stand(target, says, trickle));
                    thread::sleep(Duration::from_millis(50));
                }
            })
        });
        let threads = threads.collect();
        wait::until_true("the crowd stands", Duration::from_secs(30), || {
            standing.load(Ordering::SeqCst) == CROWD
        });
        Self { end, threads }
    }

    fn disperse(self) {
        self.end.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("no member of the crowd panics");
        }
    }
}

struct Member {
    address: u16,
    stream: TcpStream,
    closed: Option<Instant>,
}

impl Member {
    fn new(address: u16, target: SocketAddr, says: &[u8]) -> Self {
        Self {
            address,
            stream: connect(address, target, says),
            closed: None,
        }
    }

    fn stand(&mut self, target: SocketAddr, says: &[u8], trickle: &[u8]) {
        match self.closed {
            Some(since) if since.elapsed() > BACK_AFTER => {
                *self = Self::new(self.address, target, says);
            }
            Some(_) => {}
            None if is_closed(&mut self.stream) => self.closed = Some(Instant::now()),
            None => {
                let _ = self.stream.write(&trickle[..trickle.len().min(1)]);
            }
        }
    }
}

fn connect(address: u16, target: SocketAddr, says: &[u8]) -> TcpStream {
    let [high, low] = address.to_be_bytes();
    let from = match address {
        0 => Ipv4Addr::LOCALHOST,
        _ => Ipv4Addr::new(127, 1, high, low),
    };
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket
        .bind(&SocketAddr::from((from, 0)).into())
        .expect("an address of loopback");
    socket
        .connect(&target.into())
        .expect("the proxy's kernel queue has room");
    let mut stream = TcpStream::from(socket);
    let _ = stream.write_all(says);
    stream.set_nonblocking(true).expect("a socket");
    stream
}

fn is_closed(stream: &mut TcpStream) -> bool {
    let mut sink = [0; 512];
    loop {
        match stream.read(&mut sink) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

/// How long an honest client needs from connect to its login's answer.
fn log_in(target: SocketAddr, protocol: &str) -> Duration {
    let began = Instant::now();
    let (mut client, greeting) = LineClient::greeted(target);
    match protocol {
        "imap" => {
            assert_eq!(greeting, "* OK IMAP4 ready");
            client.send("a LOGIN bob pw");
            let answer = client.lines_until("a ").pop().expect("an answer");
            assert!(answer.starts_with("a OK"), "{answer}");
        }
        "pop3" => {
            assert!(greeting.starts_with("+OK"), "{greeting}");
            client.ask("USER bob", "+OK");
            client.send("PASS pw");
            let answer = client.line();
            assert!(answer.starts_with("+OK"), "{answer}");
        }
        _ => {
            assert!(greeting.starts_with("220 "), "{greeting}");
            client.send("AUTH PLAIN AGJvYgBwdw==");
            client.expect("235 2.0.0 OK");
        }
    }
    began.elapsed()
}

fn start(protocol: &str, process: &str, more: &str) -> (Postern, Peer, AuthServer) {
    let backend = match protocol {
        "imap" => Peer::start(imap_server),
        "pop3" => Peer::start(pop3_server),
        _ => Peer::start(smtp_server),
    };
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let server = service(protocol, &auth, more);
    let postern = Postern::start(&format!("[postern]\n{process}\n{server}"));
    (postern, backend, auth)
}

fn honest_logins_are_quick(
    protocol: &str,
    process: &str,
    more: &str,
    crowd: (u16, &'static [u8], &'static [u8]),
) {
    let (postern, _backend, _auth) = start(protocol, process, more);
    let target = postern.address(protocol);
    let (addresses, says, trickle) = crowd;
    let crowd = Crowd::gather(target, addresses, says, trickle);
    for attempt in 0..5 {
        let took = log_in(target, protocol);
        assert!(took < AT_ONCE, "attempt {attempt} took {took:?}");
    }
    crowd.disperse();
    postern.stop();
}

#[test]
fn silent_connections_of_one_address_do_not_delay_a_login() {
    honest_logins_are_quick("imap", "", "", (1, b"", b""));
}

#[test]
fn silent_connections_of_many_addresses_do_not_delay_a_login() {
    honest_logins_are_quick("imap", "", "", (1000, b"", b""));
}

#[test]
fn four_workers_are_enough_against_one_address() {
    honest_logins_are_quick("imap", "workers = 4", "", (1, b"", b""));
}

#[test]
fn four_workers_are_enough_against_many_addresses() {
    honest_logins_are_quick("imap", "workers = 4", "", (1000, b"", b""));
}

#[test]
fn trickling_half_a_command_does_not_delay_a_login() {
    honest_logins_are_quick("imap", "workers = 4", "", (1000, b"a LOG", b"x"));
}

#[test]
fn stopping_in_half_a_literal_does_not_delay_a_login() {
    honest_logins_are_quick(
        "imap",
        "workers = 4",
        "",
        (1, b"a LOGIN {900}\r\nabc", b"x"),
    );
}

#[test]
fn stopping_inside_sasl_does_not_delay_a_login() {
    honest_logins_are_quick("pop3", "workers = 4", "", (1000, b"AUTH LOGIN\r\n", b""));
}

#[test]
fn stopping_in_half_a_proxy_header_does_not_delay_a_login() {
    // The honest client comes through another listener: the crowd's needs a header from everybody.
    let more = "listen = 127.0.0.1:0 proxy_protocol";
    honest_logins_beside_a_crowd(more, b"PROXY TCP4 192.0.2.1 192.0");
}

#[test]
fn stopping_in_half_a_client_hello_does_not_delay_a_login() {
    let folder = TempDir::new("crowd");
    let pair = certificate::make(folder.path());
    let more = format!(
        "listen = 127.0.0.1:0 ssl\nssl_certificate = {}\nssl_certificate_key = {}",
        pair.certificate.display(),
        pair.key.display()
    );
    honest_logins_beside_a_crowd(&more, b"\x16\x03\x01\x02\x00\x01\x00");
}

fn honest_logins_beside_a_crowd(more: &str, says: &'static [u8]) {
    let (postern, _backend, _auth) = start("imap", "workers = 4", more);
    let [honest, crowded] = *postern.addresses("imap") else {
        panic!("two listeners");
    };
    let crowd = Crowd::gather(crowded, 1000, says, b"");
    // The two listeners have a thread each: the crowd's needs a moment to accept everybody.
    thread::sleep(Duration::from_millis(1500));
    for attempt in 0..5 {
        let took = log_in(honest, "imap");
        assert!(took < AT_ONCE, "attempt {attempt} took {took:?}");
    }
    crowd.disperse();
    postern.stop();
}

#[test]
fn waiting_for_a_delayed_greeting_does_not_delay_others() {
    let delay = "smtp_greeting_delay = 300ms";
    honest_logins_are_quick("smtp", "workers = 8", delay, (1000, b"", b""));
}

#[test]
fn two_hundred_clients_of_one_address_all_get_in() {
    for workers in ["workers = 128", "workers = 4"] {
        let (postern, _backend, _auth) = start("imap", workers, "");
        let target = postern.address("imap");
        let clients: Vec<_> = (0..200)
            .map(|_| thread::spawn(move || log_in(target, "imap")))
            .collect();
        for client in clients {
            client.join().expect("every client is let in");
        }
        postern.stop();
    }
}

#[test]
fn a_session_that_makes_room_is_told_so() {
    let (postern, _backend, _auth) = start("imap", "workers = 1", "");
    let target = postern.address("imap");
    let (mut silent, _) = LineClient::greeted(target);
    let took = log_in(target, "imap");
    assert!(took < AT_ONCE, "{took:?}");
    let goodbye = silent.line();
    assert!(goodbye.starts_with("* BYE [UNAVAILABLE]"), "{goodbye}");
    silent.expect_close();
    postern.stop();
}

#[test]
fn a_login_being_checked_is_never_evicted() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |request| {
        if request.header("Auth-User") == Some("slow") {
            thread::sleep(Duration::from_millis(1500));
        }
        Answer::ok(address)
    });
    let server = service("imap", &auth, "");
    let postern = Postern::start(&format!("[postern]\nworkers = 1\n{server}"));
    let target = postern.address("imap");
    let (mut slow, _) = LineClient::greeted(target);
    slow.send("a LOGIN slow pw");
    auth.wait_for_request(1);
    let waiting = thread::spawn(move || log_in(target, "imap"));
    let answer = slow.lines_until("a ").pop().expect("an answer");
    assert!(answer.starts_with("a OK"), "{answer}");
    waiting.join().expect("and then the other one");
    postern.stop();
}

#[test]
fn more_than_max_sessions_hear_that_there_is_no_room() {
    for (protocol, busy) in [
        ("imap", "* BYE [UNAVAILABLE]"),
        ("pop3", "-ERR [SYS/TEMP]"),
        ("smtp", "421 4.3.2"),
    ] {
        let (postern, _backend, _auth) = start(protocol, "max_sessions = 2", "");
        let target = postern.address(protocol);
        let _first = LineClient::greeted(target);
        let _second = LineClient::greeted(target);
        let (mut third, line) = LineClient::greeted(target);
        assert!(line.starts_with(busy), "{line}");
        third.expect_close();
        postern.wait_for_log("`max_sessions` is reached");
        postern.stop();
    }
}
