//! The relay with TLS on both legs: bytes arrive whole and in order whatever the records look like,
//! ends pass per direction, and no direction waits for the other.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::postern::Postern;
use crate::common::service;
use crate::common::tls::{Client, Got, Tls, TlsLines, serve, server_config};
use crate::common::wait::{PATIENCE, until_at_most};
use crate::servers::pki::Pki;
use openssl::sha::Sha256;

const LIBRARIES: [&str; 2] = ["rustls", "native"];

/// A backend over TLS that lets everybody in and then plays.
fn backend(play: impl Fn(TlsLines) + Send + Sync + 'static) -> SocketAddr {
    let pair = Pki::shared().server();
    serve(
        server_config(&pair.certificate, &pair.key, None),
        move |mut lines| {
            lines.send("* OK ready");
            let tag = lines
                .line()
                .split(' ')
                .next()
                .unwrap_or_default()
                .to_owned();
            lines.send("+ login");
            lines.line();
            lines.send("+ password");
            lines.line();
            lines.send(&format!("{tag} OK in"));
            play(lines);
        },
    )
}

/// The proxy with TLS on both legs.
fn proxy(library: &str, backend: SocketAddr) -> (Postern, AuthServer) {
    proxy_with("", library, backend, "")
}

/// The same, with this in front of its server and these lines in it.
fn proxy_with(
    before: &str,
    library: &str,
    backend: SocketAddr,
    more: &str,
) -> (Postern, AuthServer) {
    let pki = Pki::shared();
    let lines = format!(
        "listen = 127.0.0.1:0 ssl\ntls_library = {library}\nproxy_ssl = on\n\
         proxy_ssl_trusted_certificate = {}\n{}\n{more}",
        pki.authority().display(),
        pki.server().ssl_certificate()
    );
    // Connections to the auth server that are kept would count as descriptors.
    let auth = AuthServer::start(move |_| Answer::ok_with(backend, &["Connection: close"]));
    let server = service("imap", &auth, &lines);
    (Postern::start(&format!("{before}{server}")), auth)
}

fn logged_in(postern: &Postern) -> TlsLines {
    let client = Client::trusting(&Pki::shared().authority());
    let mut lines = client.connect(postern.addresses("imap")[1]);
    lines.expect("* OK IMAP4 ready");
    lines.ask("in LOGIN alice secret", "in OK in");
    lines
}

/// With each library: a client of a proxy in front of such a backend.
fn for_both(
    play: impl Fn(TlsLines) + Clone + Send + Sync + 'static,
    test: impl Fn(&str, TlsLines),
) {
    for library in LIBRARIES {
        let (postern, _auth) = proxy(library, backend(play.clone()));
        test(library, logged_in(&postern));
    }
}

/// What was read with the login, decrypted or not, and what of it lies in the socket yet. A relay that waited for
/// more before it passed that on would wait for an hour.
#[test]
fn what_a_client_says_behind_its_login_at_once_arrives_in_order() {
    let echo = backend(|lines| {
        let mut buffer = [0; 16_384];
        while let Ok(Got::Bytes(count)) = lines.tls.read(&mut buffer) {
            lines.tls.write(&buffer[..count]).expect("it is read");
        }
        lines.tls.half_close().expect("it is open");
    });
    for library in LIBRARIES {
        let (postern, _auth) = proxy_with(
            "[postern]\nclient_wait = 1h\n",
            library,
            echo,
            "hibernate_timeout = off",
        );
        let client = Client::trusting(&Pki::shared().authority());
        for (size, record) in [
            (1, 1),
            (300, 30),
            (300, 300),
            (400, 50),
            (5000, 200),
            (16_500, 1000),
            (60_000, 5000),
        ] {
            let mut lines = client.connect(postern.addresses("imap")[1]);
            lines.expect("* OK IMAP4 ready");
            let behind = Pattern::new(3).take(size);
            // So long that the first buffer of a client ends a little behind it.
            let login = format!("in LOGIN alice {}\r\n", "s".repeat(700));
            let records = std::iter::once(login.as_bytes()).chain(behind.chunks(record));
            lines.tls.write_records(records).expect("it is read");
            lines.expect("in OK in");
            let echoed = lines.bytes(size);
            assert!(echoed == behind, "{library}: {size} in records of {record}");
            lines.ask("more", "more");
            lines.tls.half_close().expect("it is open");
            lines.expect_close();
        }
        postern.stop();
    }
}

/// An endless sequence in which every place can be told from its neighbours; each seed has its own.
struct Pattern {
    block: Vec<u8>,
    at: usize,
}

impl Pattern {
    fn new(seed: u8) -> Pattern {
        // A prime number of bytes is in step with nobody's buffers.
        let mut state = u32::from(seed) + 1;
        let block = (0..1_048_583).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        Pattern {
            block: block.collect(),
            at: 0,
        }
    }

    /// The next bytes, at most so many, at least one.
    fn next(&mut self, most: usize) -> &[u8] {
        let end = (self.at + most).min(self.block.len());
        let next = &self.block[self.at..end];
        self.at = end % self.block.len();
        next
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let mut taken = Vec::new();
        while taken.len() < count {
            taken.extend_from_slice(self.next(count - taken.len()));
        }
        taken
    }
}

/// Sends so many bytes of a pattern, then ends the direction; the checksum.
fn pour(tls: &Tls, seed: u8, size: usize) -> [u8; 32] {
    let mut pattern = Pattern::new(seed);
    let (mut sum, mut left) = (Sha256::new(), size);
    while left > 0 {
        let next = pattern.next(left.min(65_536));
        tls.write(next).expect("it can be sent");
        sum.update(next);
        left -= next.len();
    }
    tls.half_close().expect("it is open");
    sum.finish()
}

/// Reads to the end; how many bytes, their checksum, and the end.
fn drain(lines: &mut TlsLines) -> (usize, [u8; 32], Got) {
    let first = lines.take_received();
    let (mut sum, mut count) = (Sha256::new(), first.len());
    sum.update(&first);
    let mut buffer = vec![0; 65_536];
    loop {
        match lines.tls.read(&mut buffer).expect("it can be read") {
            Got::Bytes(n) => {
                sum.update(&buffer[..n]);
                count += n;
            }
            end => return (count, sum.finish(), end),
        }
    }
}

fn start_pouring(tls: &Tls, seed: u8, size: usize) -> JoinHandle<[u8; 32]> {
    let tls = tls.clone();
    thread::spawn(move || pour(&tls, seed, size))
}

fn joined<T>(handle: JoinHandle<T>) -> T {
    handle.join().expect("the thread does not panic")
}

/// 100 MiB from the client up and other 100 MiB down at the same time, through these proxies.
fn pour_through(libraries: &[&str]) {
    const SIZE: usize = 100 << 20;
    let (report, reported) = mpsc::channel();
    let mut address = backend(move |mut lines| {
        let pouring = start_pouring(&lines.tls, 2, SIZE);
        let received = drain(&mut lines);
        let _ = report.send((joined(pouring), received));
    });
    let mut proxies = Vec::new();
    for library in libraries {
        let (postern, auth) = proxy(library, address);
        address = postern.addresses("imap")[1];
        proxies.push((postern, auth));
    }
    let (front, _) = proxies.last().expect("there is at least one");
    let mut client = logged_in(front);
    let pouring = start_pouring(&client.tls, 1, SIZE);
    let down = drain(&mut client);
    let sent_up = joined(pouring);
    let (sent_down, up) = reported.recv().expect("the backend has had a connection");
    assert!(
        up == (SIZE, sent_up, Got::Notified),
        "{} bytes, {:?}",
        up.0,
        up.2
    );
    assert!(
        down == (SIZE, sent_down, Got::Notified),
        "{} bytes, {:?}",
        down.0,
        down.2
    );
}

#[test]
fn a_hundred_megabytes_both_ways_at_once_pass_from_rustls_to_native() {
    // Client, rustls on both legs, native on both legs, backend.
    pour_through(&["native", "rustls"]);
}

#[test]
fn a_hundred_megabytes_both_ways_at_once_pass_from_native_to_rustls() {
    pour_through(&["rustls", "native"]);
}

/// Sends back what it gets in records of so many bytes.
fn echo_in_records(size: usize) -> impl Fn(TlsLines) + Clone + Send + Sync {
    move |mut lines| {
        let mut data = lines.take_received();
        let mut buffer = [0; 4096];
        loop {
            if lines.tls.write_in_records(&data, size).is_err() {
                return;
            }
            match lines.tls.read(&mut buffer) {
                Ok(Got::Bytes(count)) => data = buffer[..count].to_vec(),
                _ => return drop(lines.tls.half_close()),
            }
        }
    }
}

/// Reads exactly so many bytes.
fn read_exactly(lines: &mut TlsLines, count: usize) -> Vec<u8> {
    let mut data = lines.take_received();
    let mut buffer = [0; 4096];
    while data.len() < count {
        match lines.tls.read(&mut buffer).expect("it can be read") {
            Got::Bytes(n) => data.extend_from_slice(&buffer[..n]),
            end => panic!("{end:?} after {} of {count} bytes", data.len()),
        }
    }
    data
}

#[test]
fn records_of_one_byte_pass_in_order() {
    const SIZE: usize = 20_000;
    for_both(echo_in_records(1), |library, mut lines| {
        let tls = lines.tls.clone();
        let data = Pattern::new(3).take(SIZE);
        let sent = data.clone();
        let sending = thread::spawn(move || tls.write_in_records(&sent, 1));
        assert!(read_exactly(&mut lines, SIZE) == data, "{library}");
        joined(sending).expect("it can be sent");
    });
}

#[test]
fn a_byte_is_not_held_back() {
    for_both(echo_in_records(1), |_, mut lines| {
        for byte in 0..100 {
            lines.tls.write(&[byte]).expect("it can be sent");
            assert_eq!(read_exactly(&mut lines, 1), [byte]);
        }
    });
}

#[test]
fn key_updates_on_both_legs_lose_nothing() {
    // As a server, the system's library reaches TLS 1.2 only, which has no KeyUpdate.
    let updating = |mut lines: TlsLines| {
        let mut buffer = [0; 4096];
        let mut data = lines.take_received();
        loop {
            lines.tls.update_keys().expect("it is TLS 1.3");
            if lines.tls.write(&data).is_err() {
                return;
            }
            match lines.tls.read(&mut buffer) {
                Ok(Got::Bytes(count)) => data = buffer[..count].to_vec(),
                _ => return,
            }
        }
    };
    for_both(updating, |library, mut lines| {
        assert_eq!(lines.tls.is_1_3(), library == "rustls");
        let mut pattern = Pattern::new(4);
        for size in (1..4000).step_by(41) {
            let data = pattern.take(size);
            if lines.tls.is_1_3() {
                lines.tls.update_keys().expect("it is TLS 1.3");
            }
            lines.tls.write(&data).expect("it can be sent");
            assert!(
                read_exactly(&mut lines, size) == data,
                "{library}, {size} bytes"
            );
        }
    });
}

#[test]
fn key_updates_while_nothing_is_said_do_no_harm() {
    let (postern, _auth) = proxy("rustls", backend(echo_in_records(4096)));
    let mut lines = logged_in(&postern);
    // From 32 on, the library calls it an attack.
    for _ in 0..30 {
        lines.tls.update_keys().expect("it is TLS 1.3");
    }
    lines.ask("still there", "still there");
}

const ANSWER: usize = 1 << 20;

/// Reads to the end, then answers at length.
fn answers_late(mut lines: TlsLines) {
    let (count, _, end) = drain(&mut lines);
    lines.send(&format!("{count} bytes, {end:?}"));
    pour(&lines.tls, 5, ANSWER);
}

fn expect_late_answer(library: &str, mut lines: TlsLines) {
    lines.expect("6 bytes, Notified");
    let (rest, end) = lines.rest();
    assert!(
        rest == Pattern::new(5).take(ANSWER),
        "{library}: {} bytes",
        rest.len()
    );
    assert_eq!(end, Got::Notified);
}

#[test]
fn a_half_close_with_close_notify_passes_and_the_answer_still_arrives() {
    for_both(answers_late, |library, mut lines| {
        lines.send("QUIT");
        lines.tls.half_close().expect("it is open");
        expect_late_answer(library, lines);
    });
}

#[test]
fn close_notify_alone_is_a_half_close() {
    for_both(answers_late, |library, mut lines| {
        lines.send("QUIT");
        lines.tls.close_notify().expect("it is open");
        expect_late_answer(library, lines);
    });
}

#[test]
fn a_half_close_without_close_notify_passes_and_the_answer_still_arrives() {
    for_both(answers_late, |library, mut lines| {
        lines.send("QUIT");
        lines.tls.cut().expect("it is open");
        expect_late_answer(library, lines);
    });
}

#[test]
fn a_backend_that_ends_its_direction_still_gets_everything() {
    const SIZE: usize = 1 << 20;
    for close in [Tls::half_close, Tls::close_notify, Tls::cut] {
        for library in LIBRARIES {
            let (report, reported) = mpsc::channel();
            let address = backend(move |mut lines| {
                lines.send("the last line");
                close(&lines.tls).expect("it is open");
                let _ = report.send(drain(&mut lines));
            });
            let (postern, _auth) = proxy(library, address);
            let mut lines = logged_in(&postern);
            lines.expect("the last line");
            lines.expect_close();
            let sent = pour(&lines.tls, 6, SIZE);
            let received = reported.recv().expect("the backend has had a connection");
            assert!(
                received == (SIZE, sent, Got::Notified),
                "{library}: {} bytes",
                received.0
            );
        }
    }
}

#[test]
fn a_slow_reader_gets_everything_that_came_before_a_close() {
    const SIZE: usize = 8 << 20;
    for_both(
        |lines| _ = pour(&lines.tls, 7, SIZE),
        |library, mut lines| {
            // The backend is stuck, or done, long before the first byte is read here.
            thread::sleep(Duration::from_millis(300));
            let (count, sum, end) = drain(&mut lines);
            let mut expected = Sha256::new();
            expected.update(&Pattern::new(7).take(SIZE));
            assert!(
                (count, end) == (SIZE, Got::Notified),
                "{library}: {count} bytes, {end:?}"
            );
            assert!(sum == expected.finish(), "{library}");
        },
    );
}

#[test]
fn a_client_that_does_not_read_can_still_send() {
    const SIZE: usize = 16 << 20;
    for library in LIBRARIES {
        let (report, reported) = mpsc::channel();
        let address = backend(move |mut lines| {
            let pouring = start_pouring(&lines.tls, 8, SIZE);
            let _ = report.send(drain(&mut lines));
            joined(pouring);
        });
        let (postern, _auth) = proxy(library, address);
        let mut lines = logged_in(&postern);
        let sent = pour(&lines.tls, 9, SIZE);
        let received = reported.recv().expect("the backend has had a connection");
        assert!(
            received == (SIZE, sent, Got::Notified),
            "{library}: {} bytes",
            received.0
        );
        assert_eq!(drain(&mut lines).0, SIZE);
    }
}

#[test]
fn a_backend_that_does_not_read_can_still_send() {
    const SIZE: usize = 16 << 20;
    for library in LIBRARIES {
        let (go_on, gone_on) = mpsc::channel::<()>();
        let (report, reported) = mpsc::channel();
        let gone_on = std::sync::Mutex::new(gone_on);
        let address = backend(move |mut lines| {
            pour(&lines.tls, 10, SIZE);
            // Not a byte is read before the client has everything.
            let _ = gone_on.lock().expect("no holder panics").recv();
            let _ = report.send(drain(&mut lines));
        });
        let (postern, _auth) = proxy(library, address);
        let mut lines = logged_in(&postern);
        let pouring = start_pouring(&lines.tls, 11, SIZE);
        assert_eq!(drain(&mut lines).0, SIZE, "{library}");
        drop(go_on);
        let sent = joined(pouring);
        let received = reported.recv().expect("the backend has had a connection");
        assert!(
            received == (SIZE, sent, Got::Notified),
            "{library}: {} bytes",
            received.0
        );
    }
}

#[test]
fn what_the_backend_says_behind_its_ok_in_one_record_reaches_the_client() {
    for library in LIBRARIES {
        let pair = Pki::shared().server();
        let config = server_config(&pair.certificate, &pair.key, None);
        let address = serve(config, |mut lines| {
            lines.send("* OK ready");
            lines.line();
            lines.send("+ login");
            lines.line();
            lines.send("+ password");
            lines.line();
            lines.send("in OK in\r\n* 2 EXISTS\r\n* 1 RECENT");
            lines.rest();
        });
        let (postern, _auth) = proxy(library, address);
        let mut lines = logged_in(&postern);
        lines.expect("* 2 EXISTS");
        lines.expect("* 1 RECENT");
    }
}

#[test]
fn garbage_instead_of_a_record_ends_the_session_and_worries_nobody() {
    for library in LIBRARIES {
        let (report, reported) = mpsc::channel();
        let address = backend(move |mut lines| _ = report.send(lines.rest()));
        let (postern, _auth) = proxy(library, address);
        let lines = logged_in(&postern);
        lines.tls.write(b"good").expect("it is open");
        let garbage = [&[23, 3, 3, 0, 40][..], &[0x5a; 40]].concat();
        lines.tls.write_raw(&garbage).expect("it is open");
        let (received, _) = reported.recv().expect("the backend has had a connection");
        assert_eq!(received, b"good", "{library}");
        let line = postern.wait_for_log("session closed");
        assert!(line.contains("client connection broke"), "{line}");
        for line in postern.lines_with(": *") {
            assert!(line.contains("[info]"), "{line}");
        }
    }
}

#[test]
fn many_sessions_that_end_at_once_lose_nothing_and_leave_nothing() {
    const SIZE: usize = 200_000;
    for library in LIBRARIES {
        let address = backend(|lines| _ = pour(&lines.tls, 12, SIZE));
        let (postern, _auth) = proxy(library, address);
        let mut expected = Sha256::new();
        expected.update(&Pattern::new(12).take(SIZE));
        let expected = expected.finish();
        // The first session makes what stays for good.
        drain(&mut logged_in(&postern));
        postern.wait_for_log("session closed");
        let before = postern.descriptors();
        thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    let received = drain(&mut logged_in(&postern));
                    assert!(received == (SIZE, expected, Got::Notified), "{library}");
                });
            }
        });
        until_at_most("descriptors", before, PATIENCE, || postern.descriptors());
    }
}
