//! Clients that try to hold a worker, a place or a thread for longer than they may, or to be told in
//! plain text what belongs into TLS; and what the process keeps to itself. Crowds are in `crowds`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::{LineClient, find};
use crate::common::postern::Postern;
use crate::common::temp::TempDir;
use crate::common::tls::{Client, Got, TlsLines};
use crate::common::wait::{PATIENCE, until_true};
use crate::common::{proxy_to, service};
use crate::peers::dns::DnsStub;
use crate::peers::{Peer, imap_server};
use crate::servers::pki::{Pki, der_of};
use nix::sys::signal::Signal;
use openssl::symm::{Cipher, decrypt_aead, encrypt_aead};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ConnectionTrafficSecrets, RootCertStore};

const LIBRARIES: [&str; 2] = ["rustls", "native"];

/// The promise to whoever comes while others are up to something.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Much longer than a limit of this file and much shorter than what a client holds out.
const SOON: Duration = Duration::from_secs(4);

/// A second listener, with implicit TLS, and its certificate.
fn tls_lines(library: &str) -> String {
    let certificate = Pki::shared().server().ssl_certificate();
    format!("listen = 127.0.0.1:0 ssl\ntls_library = {library}\n{certificate}")
}

fn tls_service(protocol: &str, auth: &AuthServer, library: &str, more: &str) -> String {
    service(protocol, auth, &format!("{}{more}", tls_lines(library)))
}

fn client() -> Client {
    Client::trusting(&Pki::shared().authority())
}

/// What of it is readable: alerts are not.
fn plain_text(received: &[u8]) -> &[u8] {
    match received {
        [21, 3, ..] => &[],
        text => text,
    }
}

#[test]
fn pieces_of_a_tls_record_do_not_stretch_the_time() {
    for library in LIBRARIES {
        let auth = AuthServer::start(|_| Answer::Stall);
        let postern = Postern::start(&tls_service("imap", &auth, library, "timeout = 1s"));
        let mut lines = client().connect(postern.addresses("imap")[1]);
        lines.expect("* OK IMAP4 ready");
        let tls = lines.tls.clone();
        let start = Instant::now();
        let dripping = thread::spawn(move || {
            let mut sent = tls.write_raw(&[23, 3, 3, 0x40, 0]);
            while sent.is_ok() && start.elapsed() < 2 * SOON {
                thread::sleep(Duration::from_millis(50));
                sent = tls.write_raw(b"x");
            }
            // The connection may be gone already.
            drop(tls.cut());
        });
        let (rest, _) = lines.rest();
        assert!(start.elapsed() < SOON, "{library}: {:?}", start.elapsed());
        assert_eq!(rest, b"", "{library}");
        postern.wait_for_log("client timed out");
        drop(lines);
        dripping.join().expect("it ends with the connection");
    }
}

#[test]
fn a_name_server_that_never_answers_keeps_no_newcomer_waiting() {
    let dns = DnsStub::start(|_| None);
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let resolver = format!("resolver = {}\nresolver_timeout = 8s", dns.address());
    let ini = format!(
        "[postern]\nworkers = 2\n{}{}",
        service("imap", &auth, ""),
        service("smtp", &auth, &resolver)
    );
    let postern = Postern::start(&ini);
    for protocol in ["imap", "smtp"] {
        let stuck: Vec<_> = [0, 1]
            .iter()
            .map(|_| {
                let (mut client, _) = LineClient::greeted(postern.address("smtp"));
                client.send("AUTH PLAIN AGJvYgBwdw==");
                client
            })
            .collect();
        thread::sleep(Duration::from_millis(300));
        let start = Instant::now();
        let (newcomer, greeting) = LineClient::greeted(postern.address(protocol));
        let took = start.elapsed();
        assert!(took < AT_ONCE, "{protocol}: {greeting} after {took:?}");
        drop((newcomer, stuck));
    }
}

/// Connections at a point where the next thing that either side may say is part of TLS.
fn before_tls(postern: &Postern) -> [LineClient; 4] {
    let [starttls, implicit, behind_proxy] = [0, 1, 2].map(|at| postern.addresses("imap")[at]);
    let silent = LineClient::connect(implicit);
    let without_header = LineClient::connect(behind_proxy);
    let mut in_hello = LineClient::connect(implicit);
    in_hello.send_raw(&[22, 3, 1]);
    let (mut behind_starttls, _) = LineClient::greeted(starttls);
    behind_starttls.ask("a STARTTLS", "a OK completed");
    [silent, without_header, in_hello, behind_starttls]
}

/// The proxy with three listeners: STARTTLS, implicit TLS, and that behind a PROXY header.
fn three_doors(library: &str, process: &str) -> (Postern, AuthServer) {
    let auth = AuthServer::start(|_| Answer::Stall);
    let more = "listen = 127.0.0.1:0 ssl proxy_protocol\nstarttls = on";
    let server = tls_service("imap", &auth, library, more);
    (Postern::start(&format!("{process}\n{server}")), auth)
}

#[test]
fn a_session_that_makes_room_before_or_in_its_handshake_hears_nothing_in_plain_text() {
    for library in LIBRARIES {
        let (postern, _auth) = three_doors(library, "[postern]\nmax_sessions = 4");
        let stuck = before_tls(&postern);
        thread::sleep(Duration::from_millis(300));
        // Each of them needs a place that somebody else has.
        let newcomers = [0; 4].map(|_| {
            let newcomer = LineClient::greeted(postern.address("imap"));
            thread::sleep(Duration::from_millis(300));
            newcomer
        });
        for (at, mut client) in stuck.into_iter().enumerate() {
            let received = client.rest();
            let text = plain_text(&received).escape_ascii().to_string();
            assert_eq!(text, "", "{library}, {at}");
        }
        for (mut client, greeting) in newcomers {
            assert_eq!(greeting, "* OK IMAP4 ready");
            client.expect_silence(Duration::from_millis(10));
        }
    }
}

#[test]
fn a_session_stopped_before_or_in_its_handshake_hears_nothing_in_plain_text() {
    for library in LIBRARIES {
        let (postern, _auth) = three_doors(library, "");
        let stuck = before_tls(&postern);
        thread::sleep(Duration::from_millis(100));
        postern.signal(Signal::SIGTERM);
        for (at, mut client) in stuck.into_iter().enumerate() {
            let received = client.rest();
            let text = plain_text(&received).escape_ascii().to_string();
            assert_eq!(text, "", "{library}, {at}");
        }
        let (status, log) = postern.wait_for_end(Duration::from_secs(5));
        assert!(status.success(), "{status}\n{log}");
    }
}

#[test]
fn a_tls_client_that_hangs_up_during_auth_wait_frees_its_worker() {
    for library in LIBRARIES {
        let auth = AuthServer::start(|_| Answer::headers(&["Auth-Status: no", "Auth-Wait: 8"]));
        let server = tls_service("imap", &auth, library, "");
        let postern = Postern::start(&format!("[postern]\nworkers = 1\n{server}"));
        let mut lines = client().connect(postern.addresses("imap")[1]);
        lines.expect("* OK IMAP4 ready");
        lines.send("a LOGIN alice wrong");
        auth.wait_for_request(1);
        thread::sleep(Duration::from_millis(200));
        lines.tls.half_close().expect("it is open");
        drop(lines);
        let start = Instant::now();
        postern.wait_for_log("session closed");
        assert!(start.elapsed() < AT_ONCE, "{library}");
    }
}

#[test]
fn a_command_that_is_too_long_is_answered_with_its_tag() {
    let auth = AuthServer::start(|_| Answer::Stall);
    let postern = Postern::start(&service("imap", &auth, ""));
    for beginning in ["abc LOGIN \"", "abc LOGIN ", "abc NOOP "] {
        let (mut client, _) = LineClient::greeted(postern.address("imap"));
        client.send_raw(format!("{beginning}{}", "x".repeat(17_000)).as_bytes());
        client.expect("abc BAD invalid command");
        client.expect_close();
    }
}

#[test]
fn a_connection_in_the_queue_is_closed_when_its_time_is_over() {
    let auth = AuthServer::start(|_| Answer::Stall);
    let server = service("imap", &auth, "timeout = 1s\nauth_http_timeout = 10s");
    let postern = Postern::start(&format!("[postern]\nworkers = 1\n{server}"));
    let (mut checked, _) = LineClient::greeted(postern.address("imap"));
    checked.send("a LOGIN alice secret");
    auth.wait_for_request(1);
    let mut queued = LineClient::connect(postern.address("imap"));
    let start = Instant::now();
    queued.expect_close();
    let took = start.elapsed();
    assert!(took > Duration::from_millis(800), "{took:?}");
    assert!(took < SOON, "{took:?}");
    checked.expect_silence(Duration::from_millis(10));
}

#[test]
fn clients_of_one_address_behind_a_proxy_come_down_to_what_it_may_have() {
    let auth = AuthServer::start(|_| Answer::Stall);
    let server = service("imap", &auth, "set_real_ip_from = 127.0.0.1").replace(
        "listen = 127.0.0.1:0",
        "listen = 127.0.0.1:0 proxy_protocol",
    );
    let postern = Postern::start(&format!("[postern]\nmax_prelogin_per_ip = 10\n{server}"));
    let arrive = |from: &str| {
        let mut client = LineClient::connect(postern.address("imap"));
        client.send_raw(format!("PROXY TCP4 {from} 198.51.100.1 1234 143\r\n").as_bytes());
        client
    };
    let _others: Vec<_> = (0..8).map(|_| arrive("192.0.2.8")).collect();
    // None of them has been silent for a second yet.
    let mut silent: Vec<_> = (0..16).map(|_| arrive("192.0.2.7")).collect();
    for client in &mut silent {
        client.expect("* OK IMAP4 ready");
    }
    let arrived = Instant::now();
    let closed = || postern.lines_with("session closed").len();
    assert_eq!(closed(), 0);
    until_true("six of sixteen are gone", PATIENCE, || closed() >= 6);
    let took = arrived.elapsed();
    assert!(took > Duration::from_millis(700), "{took:?}");
    assert!(took < 2 * AT_ONCE, "{took:?}");
    thread::sleep(Duration::from_millis(300));
    assert_eq!(closed(), 6);
    let told = silent.iter_mut().filter_map(|client| {
        let stream = client.stream();
        stream.set_nonblocking(true).ok()?;
        stream.peek(&mut [0]).ok()
    });
    assert_eq!(told.count(), 6, "none of the other address had to go");
}

#[test]
fn a_group_without_a_user_is_a_mistake() {
    let folder = TempDir::new("hostile");
    let server = "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\nauth_http = 127.0.0.1:9\n";
    let file = folder.write(
        "postern.ini",
        format!("[postern]\ngroup = nogroup\n{server}"),
    );
    let output = Command::new(env!("CARGO_BIN_EXE_postern"))
        .args(["check", "--config", &file.display().to_string()])
        .output()
        .expect("postern runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains(":2: [postern] group: "), "{told}");
}

#[test]
fn new_privileges_are_renounced_without_a_user_too() {
    let auth = AuthServer::start(|_| Answer::Stall);
    let postern = Postern::start(&service("imap", &auth, ""));
    postern.wait_for_log("ready");
    let pid = process_id(&postern);
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    for task in tasks.flatten() {
        let status = std::fs::read_to_string(task.path().join("status"));
        // A thread may have ended in between.
        let status = status.unwrap_or_else(|_| "NoNewPrivs:\t1\n".to_owned());
        assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
    }
}

/// The number that stands in every line of the log: `DATE TIME [level] PID#TID: …`.
fn process_id(postern: &Postern) -> u32 {
    let line = postern.wait_for_log("#");
    let before = line.split('#').next().unwrap_or_default();
    let pid = before.rsplit(' ').next().unwrap_or_default().parse();
    pid.unwrap_or_else(|error| panic!("{error} in {line}"))
}

/// A TLS client whose every segment is the test's own work.
struct ByHand {
    connection: ClientConnection,
    socket: TcpStream,
}

impl ByHand {
    /// The handshake; these lines go out in one segment with its last message.
    fn connect(address: SocketAddr, glued: &[u8]) -> ByHand {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from(der_of(&Pki::shared().authority()));
        roots.add(authority).expect("it is a certificate");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider knows both versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.enable_secret_extraction = true;
        let name = ServerName::try_from("mail.test").expect("it is a name");
        let connection = ClientConnection::new(Arc::new(config), name);
        let socket = LineClient::connect(address).stream();
        socket
            .set_read_timeout(Some(PATIENCE))
            .expect("the limit is not zero");
        let mut client = ByHand {
            connection: connection.expect("the configuration is complete"),
            socket,
        };
        // It is kept until it can be encrypted.
        let mut records = client.records(glued);
        while client.connection.is_handshaking() {
            client.send(&records);
            client.receive();
            records = client.records(b"");
        }
        client.send(&records);
        client
    }

    /// These bytes, encrypted, and whatever else is to be sent.
    fn records(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut records = Vec::new();
        let mut writer = self.connection.writer();
        writer.write_all(plain).expect("there is room");
        while self.connection.wants_write() {
            let written = self.connection.write_tls(&mut records);
            written.expect("a vector takes everything");
        }
        records
    }

    fn send(&mut self, segment: &[u8]) {
        self.socket.write_all(segment).expect("it is open");
    }

    fn receive(&mut self) {
        let count = self.connection.read_tls(&mut self.socket);
        assert!(matches!(count, Ok(1..)), "something comes: {count:?}");
        let state = self.connection.process_new_packets();
        state.expect("it is TLS");
    }

    /// Reads up to and including the line that begins with `last`.
    fn lines_until(&mut self, last: &str) -> String {
        let mut text = String::new();
        while !text.lines().any(|line| line.starts_with(last)) {
            let mut buffer = [0; 4096];
            match self.connection.reader().read(&mut buffer) {
                Ok(0) => panic!("the end instead of {last:?}: {text}"),
                Ok(count) => text.push_str(&String::from_utf8_lossy(&buffer[..count])),
                Err(_) => self.receive(),
            }
        }
        text
    }
}

const DELAYED: &str = "smtp_greeting_delay = 1s";
const TOO_EARLY: &str = "503 5.5.0 Improper use of SMTP command pipelining";

#[test]
fn talking_in_one_segment_with_the_end_of_the_handshake_is_too_early() {
    for library in LIBRARIES {
        let auth = AuthServer::start(|_| Answer::Stall);
        let postern = Postern::start(&tls_service("smtp", &auth, library, DELAYED));
        let mut client = ByHand::connect(postern.addresses("smtp")[1], b"EHLO early\r\n");
        let said = client.lines_until("");
        assert_eq!(said.trim_end(), TOO_EARLY, "{library}");
    }
}

#[test]
fn a_key_update_before_the_greeting_is_no_talking() {
    let auth = AuthServer::start(|_| Answer::Stall);
    let postern = Postern::start(&tls_service("smtp", &auth, "rustls", DELAYED));
    let mut lines: TlsLines = client().connect(postern.addresses("smtp")[1]);
    // The proxy waits by now.
    thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    lines.tls.update_keys().expect("it is TLS 1.3");
    lines.expect("220 proxy.test ESMTP ready");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    lines.ask("NOOP", "250 2.0.0 OK");
}

#[test]
fn an_empty_tls_record_before_the_greeting_is_no_talking() {
    let auth = AuthServer::start(|_| Answer::Stall);
    let postern = Postern::start(&tls_service("smtp", &auth, "rustls", DELAYED));
    let ByHand {
        connection,
        mut socket,
    } = ByHand::connect(postern.addresses("smtp")[1], b"");
    let secrets = connection.dangerous_extract_secrets();
    let secrets = secrets.expect("the configuration allows it");
    // The proxy waits by now.
    thread::sleep(Duration::from_millis(300));
    let record = seal(&secrets.tx, b"");
    socket.write_all(&record).expect("it is open");
    // Session tickets come first.
    let (mut number, keys) = secrets.rx;
    let greeting = loop {
        let mut head = [0; 5];
        socket.read_exact(&mut head).expect("a record comes");
        let mut body = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        socket.read_exact(&mut body).expect("all of it comes");
        let mut plain = open(number, &keys, &head, &body);
        number += 1;
        if plain.pop() == Some(APPLICATION_DATA) {
            break plain;
        }
    };
    assert_eq!(greeting, b"220 proxy.test ESMTP ready\r\n");
}

/// The content type of what is neither handshake nor alert (RFC 8446, section 5.1).
const APPLICATION_DATA: u8 = 23;

/// Cipher, key and nonce of a record (RFC 8446, section 5.3).
fn sealing(number: u64, keys: &ConnectionTrafficSecrets) -> (Cipher, &[u8], Vec<u8>) {
    let (cipher, key, iv) = match keys {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Cipher::aes_128_gcm(), key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Cipher::aes_256_gcm(), key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
            (Cipher::chacha20_poly1305(), key, iv)
        }
        _ => panic!("TLS 1.3 has no other ciphers"),
    };
    let number = [&[0; 4][..], &number.to_be_bytes()].concat();
    let nonce = iv.as_ref().iter().zip(number).map(|(a, b)| a ^ b).collect();
    (cipher, key.as_ref(), nonce)
}

/// A record with these bytes, which a library would not make of none.
fn seal((number, keys): &(u64, ConnectionTrafficSecrets), plain: &[u8]) -> Vec<u8> {
    let (cipher, key, nonce) = sealing(*number, keys);
    let length = u16::try_from(plain.len() + 1 + 16).expect("a short record");
    let head = [&[APPLICATION_DATA, 3, 3][..], &length.to_be_bytes()].concat();
    let inner = [plain, &[APPLICATION_DATA]].concat();
    let mut tag = [0; 16];
    let body = encrypt_aead(cipher, key, Some(&nonce), &head, &inner, &mut tag);
    [head, body.expect("the key fits"), tag.to_vec()].concat()
}

/// What a record holds, with its content type behind.
fn open(number: u64, keys: &ConnectionTrafficSecrets, head: &[u8], body: &[u8]) -> Vec<u8> {
    let (cipher, key, nonce) = sealing(number, keys);
    let (body, tag) = body.split_at(body.len() - 16);
    let plain = decrypt_aead(cipher, key, Some(&nonce), head, body, tag);
    plain.expect("it is the next record")
}

#[test]
fn what_came_in_one_segment_before_a_broken_record_is_delivered() {
    for library in LIBRARIES {
        let backend = Peer::start(imap_server);
        let address = backend.address();
        let auth = AuthServer::start(move |_| Answer::ok(address));
        let postern = Postern::start(&tls_service("imap", &auth, library, ""));
        let mut client = ByHand::connect(postern.addresses("imap")[1], b"a LOGIN alice secret\r\n");
        client.lines_until("a OK");
        let mut segment = client.records(b"b NOOP\r\nthe last words");
        segment.extend([23, 3, 3, 0, 40]);
        segment.extend([0x5a; 40]);
        client.send(&segment);
        backend.wait_for("the last words");
        postern.wait_for_log("session closed");
    }
}

#[test]
fn the_end_of_the_process_ends_tls_relays_with_close_notify() {
    for library in LIBRARIES {
        let backend = Peer::start(imap_server);
        let more = tls_lines(library);
        let (postern, _auth) = proxy_to("imap", backend.address(), &more);
        let mut lines = client().connect(postern.addresses("imap")[1]);
        lines.expect("* OK IMAP4 ready");
        lines.ask_many("a LOGIN alice secret", "a OK");
        lines.ask("b NOOP", "b OK backend NOOP");
        postern.signal(Signal::SIGTERM);
        let (rest, end) = lines.rest();
        assert!(find(&rest, b"BYE").is_none(), "{}", rest.escape_ascii());
        assert_eq!(end, Got::Notified, "{library}");
        let (status, log) = postern.wait_for_end(Duration::from_secs(5));
        assert!(status.success(), "{status}\n{log}");
    }
}
